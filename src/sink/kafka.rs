//! Actions to a Kafka topic, and unreadable records to another.
//!
//! A line is keyed by its target (`ip:203.0.113.7`; `global` without a value), so that all lines
//! about one target keep their order in one partition, and carries its `id` and `op` as headers: a
//! consumer that has seen the id may drop a repeat. The producer is idempotent with acks=all.
//!
//! The contract of [`super`] for a broker that is away: lines wait in the client's queue, in order;
//! `flush` waits for them once for [`FLUSH_MAX`] and then says that they are not delivered yet,
//! and from then on says so at once, so that detection is not held up. They are delivered when the
//! broker is back, unless `message.timeout.ms` (librdkafka's property, 5 min) has passed: then they
//! are lost to this sink, and the error says how many.

use super::{Delivered, Output};
use crate::action::Action;
use crate::kafka::{
    Connection, Consequence, TokenPlace, client_config, consequence, explain, oauth_token,
};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;

/// How long `flush` waits for a broker, and a full queue for room.
pub const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How long the end of the program waits for what is not delivered yet.
const LAST_MAX: Duration = Duration::from_secs(5);
/// How long to look for the topic at the start.
const START_MAX: Duration = Duration::from_secs(10);

/// What the delivery reports said since it was asked.
#[derive(Debug, Default)]
struct Reports {
    failed: u64,
    why: Option<String>,
    complaint: Option<String>,
    /// Why the brokers refuse us.
    refused: Option<String>,
    /// Why there was no token when the client asked last.
    tokenless: Option<String>,
}

#[derive(Debug, Default)]
struct Ear {
    reports: Mutex<Reports>,
    token: Option<TokenPlace>,
    /// For what is logged.
    topic: String,
}

impl Ear {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Ear {
    // Without it the client's question is dropped, and it waits for a token for ever.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let token = oauth_token(self.token.as_ref());
        let why = token.as_ref().err();
        let before = std::mem::replace(&mut self.reports().tokenless, why.cloned());
        // Nobody may send anything for hours, and would not hear of it.
        match why {
            Some(why) if before.as_ref() != Some(why) => {
                tracing::error!("kafka: topic `{}`: {why}; trying on", self.topic);
            }
            None if before.is_some() => {
                tracing::info!("kafka: topic `{}`: there is a token again", self.topic);
            }
            _ => {}
        }
        Ok(token?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka: {facility} {message}");
        if matches!(level, RDKafkaLogLevel::Error | RDKafkaLogLevel::Critical) {
            let message = message.rsplit_once("]: ").map_or(message, |(_, rest)| rest);
            self.reports().complaint = Some(message.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!("kafka: {error}: {reason}");
        let mut reports = self.reports();
        match error.rdkafka_error_code() {
            // It comes behind what has brought them down, which says more.
            Some(Code::AllBrokersDown) => {
                reports.complaint.get_or_insert_with(|| reason.to_owned());
            }
            Some(code) if consequence(code) == Consequence::Refused => {
                reports.refused = Some(format!("{code}: {reason}"));
                reports.complaint = Some(reason.to_owned());
            }
            _ => reports.complaint = Some(reason.to_owned()),
        }
    }
}

impl ProducerContext for Ear {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result {
            let mut reports = self.reports();
            reports.failed += 1;
            reports.why = Some(explain(error));
        }
    }
}

/// Records to one topic, each delivered once and in order.
struct Topic {
    connection: Connection,
    name: String,
    /// It has a thread of its own, so that tokens are renewed while nothing is sent.
    producer: ThreadedProducer<Ear>,
    /// A flush has given up waiting, and not all is delivered since.
    behind: bool,
    /// Something could not be delivered since this was asked last.
    lost: bool,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic")
            .field("connection", &self.connection)
            .field("name", &self.name)
            .finish()
    }
}

fn producer(connection: &Connection, topic: &str) -> io::Result<ThreadedProducer<Ear>> {
    let mut config = client_config(connection);
    config
        .set("compression.type", "zstd")
        // Java's clients find the partition of a key in the same way.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "2");
    for (name, value) in &connection.properties {
        config.set(name, value);
    }
    config.set("enable.idempotence", "true").set("acks", "all");
    let token = connection.oauth_token.clone();
    let ear = Ear { token, topic: topic.to_owned(), ..Ear::default() };
    config.create_with_context(ear).map_err(|error| io::Error::other(explain(&error)))
}

impl Topic {
    fn open(connection: &Connection, name: &str) -> io::Result<Self> {
        let producer = producer(connection, name)?;
        connection.token().map_err(io::Error::other)?;
        let topic = Self {
            connection: connection.clone(),
            name: name.to_owned(),
            producer,
            behind: false,
            lost: false,
        };
        topic.look()?;
        Ok(topic)
    }

    /// Whether the topic is there; brokers that make topics by themselves make it now.
    fn look(&self) -> io::Result<()> {
        let until = Instant::now() + START_MAX;
        let mut seen: Option<String> = None;
        while Instant::now() < until {
            match self.producer.client().fetch_metadata(Some(&self.name), Duration::from_secs(1)) {
                Ok(metadata) => {
                    let topic = metadata.topics().iter().find(|topic| topic.name() == self.name);
                    let error = topic.and_then(|topic| topic.error()).map(Code::from);
                    match (topic, error) {
                        (Some(topic), None) if !topic.partitions().is_empty() => return Ok(()),
                        (_, Some(Code::UnknownTopicOrPartition)) => {
                            let broker = self.connection.brokers.first();
                            seen = Some(format!(
                                "there is no topic `{name}`, or this user may not see it; to create it: \
                                 kafka-topics.sh --bootstrap-server {broker} --create --topic {name} \
                                 --partitions 3",
                                name = self.name,
                                broker = broker.map_or("HOST:PORT", String::as_str)
                            ));
                        }
                        (_, Some(code)) => seen = Some(format!("topic `{}`: {code}", self.name)),
                        _ => {}
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                Err(error) => {
                    debug!("kafka: metadata: {error}");
                    seen = None;
                }
            }
            // Long enough to hear what is wrong.
            self.producer.poll(Duration::from_millis(50));
            if let Some(why) = self.producer.context().reports().tokenless.clone() {
                return Err(io::Error::other(why));
            }
            if let Some(why) = self.producer.context().reports().refused.take() {
                return Err(io::Error::other(format!(
                    "the brokers refuse this client: {why}; see user and password under `properties` or `oauth_token`, and \
                     the ACLs (WRITE and DESCRIBE on the topic)"
                )));
            }
        }
        let complaint = self.producer.context().reports().complaint.take();
        Err(io::Error::other(seen.unwrap_or_else(|| {
            format!(
                "no broker answers at {} within {} s{}",
                self.connection.brokers.join(","),
                START_MAX.as_secs(),
                complaint.map_or_else(String::new, |why| format!(" ({why})"))
            )
        })))
    }

    fn send(&mut self, key: &str, value: &[u8], headers: OwnedHeaders) -> io::Result<()> {
        if self.producer.client().fatal_error().is_some() {
            // An idempotent producer that has lost its sequence is of no more use.
            debug!("kafka: the producer is made anew");
            self.producer = producer(&self.connection, &self.name)?;
        }
        let patience = if self.behind { Duration::ZERO } else { FLUSH_MAX };
        let until = Instant::now() + patience;
        let mut record = BaseRecord::to(&self.name).key(key).payload(value).headers(headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    return self.failures();
                }
                Err((KafkaError::MessageProduction(Code::QueueFull), back))
                    if Instant::now() < until =>
                {
                    record = back;
                    self.producer.poll(Duration::from_millis(20));
                }
                Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                    self.behind = true;
                    return Err(io::Error::other(
                        "too many lines wait for the broker: this one is lost to the topic",
                    ));
                }
                Err((error, _)) => {
                    return Err(io::Error::other(format!(
                        "topic `{}`: {}",
                        self.name,
                        explain(&error)
                    )));
                }
            }
        }
    }

    /// What could not be delivered since it was asked last.
    fn failures(&mut self) -> io::Result<()> {
        let mut reports = self.producer.context().reports();
        let failed = std::mem::take(&mut reports.failed);
        if failed == 0 {
            return Ok(());
        }
        self.lost = true;
        let why = reports.why.take().unwrap_or_default();
        Err(io::Error::other(format!("topic `{}`: {failed} not delivered: {why}", self.name)))
    }

    fn flush(&mut self, patience: Duration) -> io::Result<()> {
        let patience = if self.behind { Duration::from_millis(1) } else { patience };
        let flushed = self.producer.flush(patience);
        self.failures()?;
        self.behind = flushed.is_err();
        match flushed {
            Ok(()) => Ok(()),
            Err(_) => {
                let waiting = self.producer.in_flight_count();
                let why = self.producer.context().reports().complaint.clone();
                Err(io::Error::other(format!(
                    "topic `{}`: {waiting} not delivered yet{}; they wait for the broker",
                    self.name,
                    why.map_or_else(String::new, |why| format!(" ({why})"))
                )))
            }
        }
    }
}

impl Drop for Topic {
    /// The client's own drop throws away what is still queued.
    fn drop(&mut self) {
        if self.producer.in_flight_count() > 0 && self.producer.flush(LAST_MAX).is_err() {
            tracing::error!(
                "kafka: topic `{}`: {} not delivered at the end: lost to the topic",
                self.name,
                self.producer.in_flight_count()
            );
        }
    }
}

fn header<'a>(headers: OwnedHeaders, key: &'a str, value: &'a str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// Sends actions to a topic.
#[derive(Debug)]
pub struct KafkaSink {
    topic: Topic,
    output: Output,
    /// Ids of lines that wait in the client's queue: they need not be given again.
    waiting: HashSet<String>,
}

impl KafkaSink {
    /// Connects, and makes sure that the topic is there.
    ///
    /// # Errors
    /// When no broker answers, the topic is missing, or a property cannot be used.
    pub fn open(connection: &Connection, topic: &str, output: Output) -> io::Result<Self> {
        Ok(Self { topic: Topic::open(connection, topic)?, output, waiting: HashSet::new() })
    }

    /// The ids of lines that wait for the broker.
    pub fn known(&self) -> HashSet<String> {
        self.waiting.clone()
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic.name
    }

    /// Queues one line.
    ///
    /// # Errors
    /// When the queue stays full, or an earlier line could not be delivered.
    pub fn deliver(&mut self, action: &Action) -> io::Result<Delivered> {
        let target = &action.target;
        let key = match &target.value {
            Some(value) => format!("{}:{value}", target.kind),
            None => target.kind.clone(),
        };
        let headers = OwnedHeaders::new_with_capacity(2);
        let headers = header(headers, "id", &action.id);
        let headers = header(headers, "op", action.op.name());
        let line = self.output.render(action, false);
        let sent = self.topic.send(&key, line.as_bytes(), headers);
        match &sent {
            Ok(()) => {
                self.waiting.insert(action.id.clone());
            }
            Err(_) => self.forget_lost(),
        }
        sent.map(|()| Delivered::Yes)
    }

    /// Once one line could not be delivered, no line that waits is counted on.
    fn forget_lost(&mut self) {
        if std::mem::take(&mut self.topic.lost) {
            self.waiting.clear();
        }
    }

    /// Waits until everything is delivered.
    ///
    /// # Errors
    /// When something cannot be, or is not yet.
    pub fn flush(&mut self) -> io::Result<Delivered> {
        let flushed = self.topic.flush(FLUSH_MAX);
        match &flushed {
            Ok(()) => self.waiting.clear(),
            Err(_) => self.forget_lost(),
        }
        flushed.map(|()| Delivered::Yes)
    }
}

/// Where a record came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Copies records that cannot be read to a topic of their own, with the reason and the origin as
/// headers `reason`, `topic`, `partition` and `offset`.
#[derive(Debug)]
pub struct DeadLetters {
    topic: Topic,
}

impl DeadLetters {
    /// Connects, and makes sure that the topic is there.
    ///
    /// # Errors
    /// As [`KafkaSink::open`].
    pub fn open(connection: &Connection, topic: &str) -> io::Result<Self> {
        // What only a consumer understands would only be complained about.
        let foreign = |name: &str| {
            ["fetch.", "session.", "heartbeat.", "max.poll.", "partition.assignment.", "isolation."]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        let mut connection = connection.clone();
        connection.properties.retain(|name, _| !foreign(name));
        Ok(Self { topic: Topic::open(&connection, topic)? })
    }

    /// Queues a copy of a record, keyed by its origin.
    ///
    /// # Errors
    /// As [`KafkaSink::deliver`].
    pub fn put(&mut self, origin: Origin<'_>, reason: &str, value: &[u8]) -> io::Result<()> {
        let Origin { topic, partition, offset } = origin;
        let headers = OwnedHeaders::new_with_capacity(4);
        let headers = header(headers, "reason", reason);
        let headers = header(headers, "topic", topic);
        let headers = header(headers, "partition", &partition.to_string());
        let headers = header(headers, "offset", &offset.to_string());
        self.topic.send(&format!("{topic}:{partition}"), value, headers)
    }

    /// Waits until everything is delivered; before that, the offsets of the records must not be
    /// committed.
    ///
    /// # Errors
    /// As [`KafkaSink::flush`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.topic.flush(FLUSH_MAX)
    }
}
