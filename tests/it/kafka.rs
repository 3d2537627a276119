//! The Kafka source and sink against brokers inside this process: noida-db, which keeps groups,
//! offsets, transactions and times as Kafka does, and librdkafka's own mock, which can fail on
//! demand.

use portcullis::kafka::Connection;
use portcullis::source::Batch;
use portcullis::source::kafka::{
    Done, From, KafkaError, KafkaEvent, KafkaSettings, Lag, Progress, Until, consume, weight,
};
use portcullis::source::position::{PartitionPosition, Position};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(30);

/// A broker of its own.
fn broker() -> String {
    noida::kafka::spawn("127.0.0.1:0").unwrap().to_string()
}

fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Does one thing of the admin client, whose calls are futures.
fn finish<T>(future: impl Future<Output = T>) -> T {
    use std::task::{Context, Poll, Waker};
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn admin(broker: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker).create().unwrap()
}

fn create(broker: &str, topic: &str, partitions: i32) {
    let new =
        NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
    for result in finish(admin(broker).create_topics(&[new], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

fn producer(broker: &str, more: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("message.max.bytes", "20000000");
    for (name, value) in more {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

struct Sender<'a> {
    producer: BaseProducer,
    topic: &'a str,
}

impl Sender<'_> {
    fn send(&self, partition: i32, value: &[u8], time_ms: i64) {
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(self.topic).partition(partition).payload(value).timestamp(time_ms);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.flush(DEADLINE).unwrap();
    }

    fn lines(&self, partition: i32, lines: &[String]) {
        for (n, line) in lines.iter().enumerate() {
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(self.topic)
                .partition(partition)
                .payload(line.as_bytes())
                .timestamp(1000 + i64::try_from(n).unwrap());
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(DEADLINE).unwrap();
    }
}

fn sender<'a>(broker: &str, topic: &'a str) -> Sender<'a> {
    Sender { producer: producer(broker, &[]), topic }
}

fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("line {n}")).collect()
}

fn settings(broker: &str, topic: &str) -> KafkaSettings {
    KafkaSettings {
        connection: Connection { brokers: vec![broker.to_owned()], properties: BTreeMap::new() },
        topics: vec![topic.to_owned()],
        group: unique("group"),
        start_max: Duration::from_secs(5),
        ..KafkaSettings::default()
    }
}

/// A source at work on a thread, and what it told.
struct Reading {
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    events: Receiver<KafkaEvent>,
    thread: Option<JoinHandle<Result<(), KafkaError>>>,
    /// Everything it told so far.
    batches: Vec<Batch>,
    notes: Vec<String>,
    failures: Vec<String>,
    assigned: Vec<(u32, String, i32, i64)>,
    gone: Vec<u32>,
    ended: Vec<u32>,
    lag: Option<Lag>,
    /// Marks what arrives as applied, at the time of its last record.
    applies: bool,
}

impl Reading {
    fn start(settings: &KafkaSettings) -> Self {
        Self::start_known(settings, &[])
    }

    fn start_known(settings: &KafkaSettings, known: &[(u32, PartitionPosition)]) -> Self {
        let (progress, stop) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
        let (send, events) = channel();
        let (settings, known) = (settings.clone(), known.to_vec());
        let (shared, told) = (Arc::clone(&progress), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            consume(&settings, &known, &shared, &told, &mut |event| send.send(event).is_ok())
        });
        Self {
            progress,
            stop,
            events,
            thread: Some(thread),
            batches: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
            assigned: Vec::new(),
            gone: Vec::new(),
            ended: Vec::new(),
            lag: None,
            applies: true,
        }
    }

    fn take(&mut self, event: KafkaEvent) {
        match event {
            KafkaEvent::Batch(batch) => {
                if self.applies {
                    self.apply(&batch);
                }
                self.ended.retain(|source| *source != batch.source);
                self.batches.push(batch);
            }
            KafkaEvent::Assigned { source, topic, partition, from } => {
                self.assigned.push((source, topic, partition, from));
            }
            KafkaEvent::Revoked { source } | KafkaEvent::Lost { source } => self.gone.push(source),
            KafkaEvent::ReachedEnd { source } => self.ended.push(source),
            KafkaEvent::Note(note) => self.notes.push(note),
            KafkaEvent::Failed(failure) => self.failures.push(failure),
            KafkaEvent::Lag(lag) => self.lag = Some(lag),
        }
    }

    fn apply(&self, batch: &Batch) {
        let Some(Position::Partition(place)) = batch.mark.as_deref() else { panic!("no mark") };
        let time = batch.records.last().unwrap().time;
        self.progress.applied(batch.source, place.next, time);
        self.progress.released(batch.source, weight(batch));
    }

    /// Takes what it tells until `enough`.
    fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !enough(self) {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => panic!(
                    "not {what}; notes {:#?}, failures {:#?}, assigned {:?}, {} lines",
                    self.notes,
                    self.failures,
                    self.assigned,
                    self.lines().len()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.thread.take().unwrap().join().unwrap();
                    panic!("it ended before {what}: {ended:?}; notes {:#?}", self.notes)
                }
            }
        }
    }

    fn until_lines(&mut self, count: usize) {
        self.until(&format!("{count} lines"), |reading| reading.lines().len() >= count);
    }

    /// Takes what it tells for a while.
    fn for_a_while(&mut self, long: Duration) {
        let until = Instant::now() + long;
        while let Ok(event) =
            self.events.recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            self.take(event);
        }
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.batches.iter().flat_map(Batch::lines);
        lines.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Waits for its end, without telling it to end.
    fn ended(&mut self) -> Result<(), KafkaError> {
        let deadline = Instant::now() + DEADLINE;
        while !self.thread.as_ref().unwrap().is_finished() {
            assert!(Instant::now() < deadline, "it does not end; {:#?}", self.notes);
            self.for_a_while(Duration::from_millis(20));
        }
        self.for_a_while(Duration::from_millis(1));
        self.thread.take().unwrap().join().unwrap()
    }

    fn stop(&mut self) -> Result<(), KafkaError> {
        self.stop.store(true, Ordering::Relaxed);
        self.ended()
    }
}

/// What a group has committed of a partition: offset and metadata.
fn committed(broker: &str, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", group)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let found = consumer.committed_offsets(list, DEADLINE).unwrap();
    let one = found.elements().into_iter().next().unwrap();
    match one.offset() {
        Offset::Offset(offset) => Some((offset, one.metadata().to_owned())),
        _ => None,
    }
}

#[test]
fn every_codec_is_read_and_each_record_knows_its_origin() {
    let broker = broker();
    create(&broker, "logs", 1);
    let mut expected = Vec::new();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: Vec<String> = (0..50).map(|n| format!("{codec} {n}")).collect();
        let producer = producer(&broker, &[("compression.codec", codec), ("linger.ms", "50")]);
        Sender { producer, topic: "logs" }.lines(0, &lines);
        expected.extend(lines);
    }
    let mut reading = Reading::start(&settings(&broker, "logs"));
    reading.until_lines(250);
    assert_eq!(reading.lines(), expected);
    let origins: Vec<_> = reading.batches.iter().flat_map(|batch| batch.records.clone()).collect();
    for (n, origin) in origins.iter().enumerate() {
        assert_eq!(origin.offset, i64::try_from(n).unwrap());
        assert_eq!(origin.time, Some((1000 + i64::try_from(n % 50).unwrap()) * 1000));
    }
    let last = reading.batches.last().unwrap();
    let place = PartitionPosition { topic: "logs".into(), partition: 0, next: 250 };
    assert_eq!(last.mark.as_deref(), Some(&Position::Partition(place)));
    reading.until("the end", |reading| reading.ended == [0]);
    reading.stop().unwrap();
}

#[test]
fn a_group_goes_on_where_it_was_and_says_how_far_it_had_counted() {
    let broker = broker();
    create(&broker, "logs", 2);
    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 10));
    sender.lines(1, &numbered(10, 20));
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.until_lines(20);
    reading.stop().unwrap();
    for partition in [0, 1] {
        let (offset, metadata) = committed(&broker, &settings.group, "logs", partition).unwrap();
        assert_eq!((offset, metadata.as_str()), (10, "w=1009000"));
    }
    sender.lines(0, &numbered(20, 25));
    let mut reading = Reading::start(&settings);
    reading.until_lines(5);
    reading.for_a_while(Duration::from_millis(300));
    assert_eq!(reading.lines(), numbered(20, 25));
    reading.stop().unwrap();
}

#[test]
fn what_is_not_applied_is_not_committed() {
    let broker = broker();
    create(&broker, "logs", 1);
    sender(&broker, "logs").lines(0, &numbered(0, 10));
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.applies = false;
    reading.until_lines(10);
    reading.for_a_while(Duration::from_millis(1500));
    assert_eq!(committed(&broker, &settings.group, "logs", 0).map(|(offset, _)| offset), Some(0));
    reading.progress.applied(0, 4, Some(77));
    let begun = Instant::now();
    reading.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(committed(&broker, &settings.group, "logs", 0), Some((4, "w=77".into())));
}
