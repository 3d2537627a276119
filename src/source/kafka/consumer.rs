//! The work of the source: one librdkafka consumer, polled on the caller's thread.
//!
//! Three habits come from faults of the client library. No list of partitions that it returned is
//! ever kept: what is needed of it is copied at once (a kept one makes closing wait for ever).
//! Rebalances are only noted in its callback and carried out between two polls, where batches can
//! be handed over and waited for. And nothing waits on the library without a deadline.

use super::{
    From, KafkaError, KafkaEvent, KafkaSettings, Lag, Progress, REVOKE_MAX, Until, weight,
};
use crate::decode::time::{self, Micros};
use crate::kafka::{
    Consequence, TOKEN_FAILED, TokenPlace, client_config, consequence, explain, oauth_token,
};
use crate::source::lines::Batch;
use crate::source::position::{PartitionPosition, Position, RecordOrigin};
use crate::yaml::nearest;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, Statistics, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::debug;

/// How long one poll waits for the first record.
const POLL: Duration = Duration::from_millis(50);
/// Records and bytes after which a round hands over what it has, and bytes of one batch.
const ROUND_RECORDS: usize = 8192;
const ROUND_BYTES: usize = 1 << 20;
const BATCH_MAX: usize = 256 << 10;
/// How long one question to the brokers may take before it is asked again.
const ASK: Duration = Duration::from_secs(3);
/// Pause before a question that failed is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often offsets are committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How long a commit may be under way before it is sent again.
const COMMIT_MAX: Duration = Duration::from_secs(5);
/// How long commits may fail before that is said.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(20);
/// How long leaving the group may take. With the other limits it stays within `CLOSE_MAX`.
const LEAVE_MAX: Duration = Duration::from_secs(4);
/// How long the last commit of a partition waits for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Without any statistics for so long, the client is dead.
const SILENT_MAX: Duration = Duration::from_secs(30);
/// A turn that took longer was stopped from outside; silence meanwhile says nothing.
const TURN_MAX: Duration = Duration::from_secs(5);
/// The longest pause between two new clients.
const STALLED_MAX: Duration = Duration::from_secs(600);
/// Things heard between two polls that are kept.
const HEARD_MAX: usize = 256;

type Partition = (String, i32);

/// What the library told in its callbacks, to be looked at between two polls.
#[derive(Debug, Default)]
struct Heard {
    rebalances: VecDeque<Rebalance>,
    errors: VecDeque<(Code, String)>,
    statistics: Option<Box<Statistics>>,
    /// Why the last commit failed.
    commit_failed: Option<String>,
    /// From now on rebalances are carried out in the callback: nobody looks any more.
    closing: bool,
    /// The last thing that it logged as an error.
    complaint: Option<String>,
}

#[derive(Debug)]
enum Rebalance {
    Assign(Vec<Partition>),
    Revoke { partitions: Vec<Partition>, lost: bool },
}

#[derive(Debug, Default)]
struct Ear {
    heard: Mutex<Heard>,
    token: Option<TokenPlace>,
}

impl Ear {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() < HEARD_MAX {
        queue.push_back(item);
    }
}

impl ClientContext for Ear {
    // Without it the client's question is dropped, and it waits for a token for ever.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        Ok(oauth_token(self.token.as_ref())?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka: {facility} {message}");
        if matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
        ) {
            // The text begins with the name of a thread, which nobody knows.
            let message = message.rsplit_once("]: ").map_or(message, |(_, rest)| rest);
            self.heard().complaint = Some(message.to_owned());
        }
        if facility == "COMMITFAIL" {
            self.heard().commit_failed = Some(message.to_owned());
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.heard().statistics = Some(Box::new(statistics));
    }

    fn error(&self, error: ClientError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code()
            && code != Code::PartitionEOF
        {
            keep(&mut self.heard().errors, (code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Ear {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assign = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let mut heard = self.heard();
        if !heard.closing {
            let partitions = partitions(list);
            heard.rebalances.push_back(if assign {
                Rebalance::Assign(partitions)
            } else {
                Rebalance::Revoke { partitions, lost: consumer.assignment_lost() }
            });
            return;
        }
        drop(heard);
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        // While closing, an error means that there is nothing left to give back.
        let _done = match (assign, cooperative) {
            (true, true) => consumer.incremental_assign(&TopicPartitionList::new()),
            (true, false) => consumer.assign(&TopicPartitionList::new()),
            (false, true) => consumer.incremental_unassign(list),
            (false, false) => consumer.unassign(),
        };
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|one| (one.topic().to_owned(), one.partition())).collect()
}

/// A partition that is ours.
#[derive(Debug)]
struct Part {
    source: u32,
    topic: String,
    partition: i32,
    /// The offset of the next record to take.
    next: i64,
    /// Where to end.
    until: Option<i64>,
    /// What the group has committed, as far as we know.
    committed: Option<i64>,
    /// The last commit that was sent, and when.
    asked: Option<(i64, Instant)>,
    /// Since when something was done that is not known to be committed.
    unconfirmed: Option<Instant>,
    paused: bool,
    /// Everything that is there was handed over.
    ended: bool,
    /// When it last moved, or had no reason to.
    moved: Instant,
    /// How far the library had fetched by the last statistics.
    fetched: i64,
    bytes: Vec<u8>,
    records: Vec<RecordOrigin>,
}

impl Part {
    fn is(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && self.topic == topic
    }

    fn name(&self) -> String {
        format!("{} [{}]", self.topic, self.partition)
    }

    fn mark(&self) -> Option<Arc<Position>> {
        let Part { topic, partition, next, .. } = self;
        let (topic, partition, next) = (topic.clone(), *partition, *next);
        Some(Arc::new(Position::Partition(PartitionPosition { topic, partition, next })))
    }

    /// Takes what was collected as a batch.
    fn batch(&mut self) -> Option<Batch> {
        if self.records.is_empty() {
            return None;
        }
        let (bytes, records) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.records));
        let start = records.first().map_or(0, |first| u64::try_from(first.offset).unwrap_or(0));
        let mark = self.mark();
        Some(Batch { source: self.source, bytes, records, mark, start, ..Batch::default() })
    }

    /// Takes a record; gives the batches that are ready because of it.
    fn take(&mut self, message: &BorrowedMessage<'_>, max_line: usize) -> Vec<Batch> {
        let mut ready = Vec::new();
        let time = message.timestamp().to_millis().and_then(|ms| ms.checked_mul(1000));
        let origin = RecordOrigin { offset: message.offset(), time };
        let value = trimmed(message.payload().unwrap_or_default());
        let oversized = value.len() > max_line;
        if oversized || self.bytes.len() + value.len() >= BATCH_MAX {
            ready.extend(self.batch());
        }
        self.next = message.offset() + 1;
        self.ended = false;
        self.moved = Instant::now();
        let from = self.bytes.len();
        self.bytes.extend_from_slice(value.get(..max_line).unwrap_or(value));
        for byte in self.bytes.iter_mut().skip(from).filter(|byte| **byte == b'\n') {
            *byte = b' ';
        }
        if !oversized {
            self.bytes.push(b'\n');
        }
        self.records.push(origin);
        if oversized {
            ready.extend(self.batch().map(|batch| Batch { oversized, ..batch }));
        }
        ready
    }
}

/// Without the newline at its end.
fn trimmed(value: &[u8]) -> &[u8] {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    value.strip_suffix(b"\r").unwrap_or(value)
}

/// Why the reading of one client ends.
enum End {
    /// Told to stop, or read to where it was to be read.
    Done,
    /// A new client is needed.
    Anew,
}

/// Why an assignment could not be carried out.
enum Hindrance {
    /// It can be tried again.
    Later(String),
    Never(KafkaError),
}

/// What outlives a client.
struct Reader<'a> {
    settings: &'a KafkaSettings,
    progress: &'a Progress,
    stop: &'a AtomicBool,
    on_event: &'a mut dyn FnMut(KafkaEvent) -> bool,
    /// Nobody wants more.
    refused: bool,
    sources: BTreeMap<Partition, u32>,
    /// Places that were stored; one is used once.
    stored: BTreeMap<Partition, i64>,
    /// How far the last client had handed over, if it was given up: whoever applies still has it.
    handed: BTreeMap<u32, i64>,
    parts: Vec<Part>,
    /// Topics of which partitions were assigned, or have a place: later ones are new.
    begun: BTreeSet<String>,
    assigned_once: bool,
    pending: Option<(Vec<Partition>, Instant)>,
    down: Option<Instant>,
    /// Failures that were said and are not over, by their code.
    said: BTreeSet<String>,
    committed_at: Instant,
    heard_at: Instant,
    /// The partition that the last record came from.
    last: usize,
    stalled_after: Duration,
}

/// See [`super::consume`].
pub(super) fn consume(
    settings: &KafkaSettings,
    known: &[(u32, PartitionPosition)],
    progress: &Progress,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(KafkaEvent) -> bool,
) -> Result<(), KafkaError> {
    let place = |position: &PartitionPosition| (position.topic.clone(), position.partition);
    let now = Instant::now();
    let mut reader = Reader {
        settings,
        progress,
        stop,
        on_event,
        refused: false,
        sources: known.iter().map(|(source, position)| (place(position), *source)).collect(),
        stored: known.iter().map(|(_, position)| (place(position), position.next)).collect(),
        handed: BTreeMap::new(),
        parts: Vec::new(),
        begun: known.iter().map(|(_, position)| position.topic.clone()).collect(),
        assigned_once: false,
        pending: None,
        down: None,
        said: BTreeSet::new(),
        committed_at: now,
        heard_at: now,
        last: 0,
        stalled_after: settings.stalled_after,
    };
    let mut first = true;
    loop {
        let consumer = reader.open()?;
        if first {
            // Later the client tells, and tries on.
            settings.connection.token().map_err(KafkaError::Settings)?;
        }
        let ended = reader.read(&consumer, std::mem::take(&mut first));
        if matches!(ended, Ok(End::Anew)) {
            reader.handed = reader.parts.iter().map(|part| (part.source, part.next)).collect();
        }
        // A fenced member has nothing to say in the group any more.
        reader.close(consumer, !matches!(ended, Err(KafkaError::Fenced { .. })));
        match ended? {
            End::Done => return Ok(()),
            End::Anew => {}
        }
    }
}

/// The library's settings; see the notes of [`super`] for those that may not be changed.
fn config(settings: &KafkaSettings) -> rdkafka::ClientConfig {
    let mut config = client_config(&settings.connection);
    let buffer = settings.buffer.max(1 << 20);
    let fetch = (buffer / 2).clamp(1 << 20, 50 << 20);
    config
        .set("group.id", &settings.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("isolation.level", "read_committed")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set("fetch.message.max.bytes", fetch.min(1 << 20).to_string())
        // The default waits a second before it fetches again when its queue was full.
        .set("fetch.queue.backoff.ms", "20");
    for (name, value) in &settings.connection.properties {
        config.set(name, value);
    }
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "true")
        .set("group.protocol", "classic")
        .set("statistics.interval.ms", "1000")
        .set("queued.max.messages.kbytes", (buffer / 2 / 1024).clamp(512, 65_536).to_string())
        .set("queued.min.messages", (buffer / 1024).clamp(100, 100_000).to_string())
        .set("fetch.max.bytes", fetch.to_string());
    if let Some(instance) = &settings.instance_id {
        config.set("group.instance.id", instance);
    }
    config
}

impl Reader<'_> {
    fn open(&mut self) -> Result<BaseConsumer<Ear>, KafkaError> {
        let token = self.settings.connection.oauth_token.clone();
        let consumer = config(self.settings)
            .create_with_context(Ear { token, ..Ear::default() })
            .map_err(|error| KafkaError::Settings(explain(&error)))?;
        self.heard_at = Instant::now();
        self.pending = None;
        self.parts.clear();
        Ok(consumer)
    }

    fn tell(&mut self, event: KafkaEvent) {
        if !self.refused && !(self.on_event)(event) {
            self.refused = true;
        }
    }

    fn note(&mut self, text: String) {
        self.tell(KafkaEvent::Note(text));
    }

    /// Says a failure once, until reading has gone on.
    fn fail(&mut self, kind: &str, text: String) {
        if self.said.insert(kind.to_owned()) {
            self.tell(KafkaEvent::Failed(text));
        }
    }

    fn stopped(&self) -> bool {
        self.refused || self.stop.load(Ordering::Relaxed)
    }

    fn brokers(&self) -> String {
        self.settings.connection.brokers.join(",")
    }

    /// Reads with one client.
    fn read(&mut self, consumer: &BaseConsumer<Ear>, first: bool) -> Result<End, KafkaError> {
        let topics = match self.look(consumer, first)? {
            Some(topics) => topics,
            None => return Ok(End::Done),
        };
        if let Some(until) = self.settings.until {
            self.assign_between(consumer, &topics, until)?;
        } else {
            let names: Vec<&str> = self.settings.topics.iter().map(String::as_str).collect();
            consumer.subscribe(&names).map_err(|error| KafkaError::Client(explain(&error)))?;
        }
        let mut turned = Instant::now();
        loop {
            if self.stopped() {
                return Ok(End::Done);
            }
            self.round(consumer)?;
            self.attend(consumer)?;
            if std::mem::replace(&mut turned, Instant::now()).elapsed() > TURN_MAX {
                self.heard_at = turned;
                self.parts.iter_mut().for_each(|part| part.moved = turned);
            }
            if self.settings.until.is_some() {
                if self.parts.iter().all(|part| part.ended) {
                    return Ok(End::Done);
                }
            } else {
                self.commit_due(consumer);
            }
            self.balance(consumer);
            if let Some(why) = self.stalled() {
                self.note(format!("kafka: {why}: the client is made anew"));
                self.stalled_after = (self.stalled_after * 2).min(STALLED_MAX);
                return Ok(End::Anew);
            }
        }
    }

    /// Waits for a broker and checks that the topics are there; gives what is read, with its
    /// partitions. Nothing if it was told to stop.
    fn look(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        first: bool,
    ) -> Result<Option<Vec<Partition>>, KafkaError> {
        let started = Instant::now();
        let all: Vec<Partition> = loop {
            if self.stopped() {
                return Ok(None);
            }
            // A client that needs a token asks for it here, and connects nowhere before it has one.
            let _none = consumer.poll(Duration::ZERO);
            match consumer.fetch_metadata(None, Duration::from_secs(1)) {
                Ok(metadata) => {
                    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
                    break topics
                        .flat_map(|topic| {
                            let name = topic.name().to_owned();
                            let ids = topic.partitions().iter();
                            ids.map(move |partition| (name.clone(), partition.id()))
                        })
                        .collect();
                }
                Err(error) => debug!("kafka: metadata: {error}"),
            }
            // Lets the library tell what is wrong, one thing at a call; records cannot come yet.
            for _ in 0..HEARD_MAX {
                let _none = consumer.poll(Duration::ZERO);
            }
            self.attend(consumer)?;
            if first && started.elapsed() >= self.settings.start_max {
                let why = consumer.context().heard().complaint.take();
                return Err(KafkaError::Unreachable {
                    brokers: self.brokers(),
                    seconds: self.settings.start_max.as_secs(),
                    why: why.map_or_else(String::new, |why| format!(" ({why})")),
                });
            }
        };
        let mut read = BTreeSet::new();
        for topic in &self.settings.topics.clone() {
            let before = read.len();
            if topic.starts_with('^') {
                let pattern = regex::Regex::new(topic).map_err(|error| KafkaError::BadPattern {
                    pattern: topic.clone(),
                    why: error.to_string(),
                })?;
                read.extend(all.iter().filter(|(name, _)| pattern.is_match(name)).cloned());
            } else {
                read.extend(all.iter().filter(|(name, _)| name == topic).cloned());
            }
            if read.len() > before || !first {
                continue;
            }
            if topic.starts_with('^') && self.settings.until.is_none() {
                self.note(format!("kafka: no topic fits `{topic}` yet: waiting for one"));
            } else if !read.iter().any(|(name, _)| name == topic) {
                let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
                let near = nearest(topic, &names);
                return Err(KafkaError::NoTopic {
                    topic: topic.clone(),
                    near: near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
                    broker: self.settings.connection.brokers.first().cloned().unwrap_or_default(),
                });
            }
        }
        Ok(Some(read.into_iter().collect()))
    }

    /// The part of the buffer that each partition may fill.
    fn share(&self) -> usize {
        (self.settings.buffer / self.parts.len().max(1)).max(1)
    }

    /// Takes what is there, and hands it over.
    fn round(&mut self, consumer: &BaseConsumer<Ear>) -> Result<(), KafkaError> {
        let mut wait = POLL;
        // Between two rounds full partitions are paused, so a round is not longer than a share.
        let (mut records, mut bytes) = (0, 0);
        let bytes_max = self.share().min(ROUND_BYTES);
        while records < ROUND_RECORDS && bytes < bytes_max {
            match consumer.poll(std::mem::replace(&mut wait, Duration::ZERO)) {
                None => break,
                Some(Ok(message)) => {
                    records += 1;
                    bytes += message.payload_len() + size_of::<RecordOrigin>();
                    self.take(&message);
                }
                Some(Err(ClientError::PartitionEOF(partition))) => self.end_of(partition),
                Some(Err(ClientError::MessageConsumptionFatal(code))) => {
                    return Err(match code {
                        Code::Fenced | Code::FencedInstanceId => self.fenced(),
                        code => KafkaError::Client(format!("the client gave up: {code}")),
                    });
                }
                // The callback has it too, with its reason.
                Some(Err(error)) => debug!("kafka: {error}"),
            }
        }
        self.hand_over();
        Ok(())
    }

    fn fenced(&self) -> KafkaError {
        KafkaError::Fenced {
            group: self.settings.group.clone(),
            instance: self.settings.instance_id.clone().unwrap_or_default(),
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        if !self.parts.get(self.last).is_some_and(|part| part.is(topic, partition)) {
            let Some(index) = self.parts.iter().position(|part| part.is(topic, partition)) else {
                return;
            };
            self.last = index;
        }
        let Some(part) = self.parts.get_mut(self.last) else { return };
        // After a pause the library may give again what it gave before.
        if offset < part.next {
            return;
        }
        if part.until.is_some_and(|until| offset >= until) {
            self.end(self.last);
            return;
        }
        let ready = part.take(message, self.settings.max_line);
        let done = part.until.is_some_and(|until| part.next >= until);
        for batch in ready {
            self.give(batch);
        }
        if done {
            self.end(self.last);
        }
    }

    fn give(&mut self, batch: Batch) {
        self.progress.handed_over(batch.source, weight(&batch));
        self.tell(KafkaEvent::Batch(batch));
    }

    /// Hands over what was collected.
    fn hand_over(&mut self) {
        for index in 0..self.parts.len() {
            if let Some(batch) = self.parts.get_mut(index).and_then(Part::batch) {
                self.give(batch);
            }
        }
    }

    /// Some partition of this number has been read to its end. The library does not say of which
    /// topic; if several could be meant, the statistics tell within a second.
    fn end_of(&mut self, partition: i32) {
        let mut open = (0..self.parts.len()).filter(|index| {
            self.parts.get(*index).is_some_and(|part| part.partition == partition && !part.ended)
        });
        if let (Some(index), None) = (open.next(), open.next()) {
            self.end(index);
        }
    }

    /// A partition has been read to its end.
    fn end(&mut self, index: usize) {
        let Some(part) = self.parts.get_mut(index) else { return };
        if part.ended {
            return;
        }
        part.ended = true;
        let (source, batch) = (part.source, part.batch());
        if let Some(batch) = batch {
            self.give(batch);
        }
        self.tell(KafkaEvent::ReachedEnd { source });
    }

    /// Looks at what the library told.
    fn attend(&mut self, consumer: &BaseConsumer<Ear>) -> Result<(), KafkaError> {
        let (rebalances, errors, statistics) = {
            let mut heard = consumer.context().heard();
            let rebalances = std::mem::take(&mut heard.rebalances);
            (rebalances, std::mem::take(&mut heard.errors), heard.statistics.take())
        };
        for rebalance in rebalances {
            match rebalance {
                Rebalance::Assign(partitions) => self.assign(consumer, partitions)?,
                Rebalance::Revoke { partitions, lost } => {
                    self.revoke(consumer, &partitions, lost)?;
                }
            }
        }
        if self.pending.as_ref().is_some_and(|(_, again)| *again <= Instant::now())
            && let Some((partitions, _)) = self.pending.take()
        {
            self.assign(consumer, partitions)?;
        }
        for (code, reason) in errors {
            self.trouble(consumer, code, &reason)?;
        }
        if let Some(statistics) = statistics {
            self.heard_at = Instant::now();
            self.survey(&statistics);
            self.check_commits(consumer);
        }
        Ok(())
    }

    /// What an error of the library means for us.
    fn trouble(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        code: Code,
        reason: &str,
    ) -> Result<(), KafkaError> {
        match (code, consequence(code)) {
            (Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation, _) => {
                self.find_expired(consumer, reason)?;
            }
            (Code::AllBrokersDown, _) => {
                if self.down.is_none() {
                    self.down = Some(Instant::now());
                    let why = consumer.context().heard().complaint.clone().unwrap_or_default();
                    self.note(format!(
                        "kafka: no broker of {} can be reached ({why}): waiting",
                        self.brokers()
                    ));
                }
            }
            (Code::PollExceeded, _) => {
                self.note(format!("kafka: this member was held up for too long: {reason}"));
            }
            (_, Consequence::Refused) if reason.starts_with(TOKEN_FAILED) => {
                let why = reason.trim_start_matches(TOKEN_FAILED);
                if !self.assigned_once {
                    return Err(KafkaError::Settings(why.to_owned()));
                }
                self.fail("token", format!("kafka: {why}; trying on"));
            }
            (_, Consequence::Refused) if !self.assigned_once => {
                return Err(KafkaError::Refused(format!("{code}: {reason}")));
            }
            (_, Consequence::Refused) => self.fail(
                &code.to_string(),
                format!("kafka: the brokers refuse this client: {code}: {reason}; trying on"),
            ),
            (Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition, _) => {
                self.fail("topic", format!("kafka: a topic is gone: {reason}; waiting for it"));
            }
            (_, Consequence::Wait | Consequence::Pass) => debug!("kafka: {code}: {reason}"),
            (_, Consequence::Say) => {
                self.fail(&code.to_string(), format!("kafka: {code}: {reason}"));
            }
        }
        Ok(())
    }

    /// Which partition is the one whose place the log does not hold.
    fn find_expired(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        reason: &str,
    ) -> Result<(), KafkaError> {
        let places: Vec<(Partition, i64)> = self
            .parts
            .iter()
            .map(|part| ((part.topic.clone(), part.partition), part.next))
            .collect();
        for ((topic, partition), offset) in places {
            let Ok((low, high)) = consumer.fetch_watermarks(&topic, partition, ASK) else {
                continue;
            };
            if !(low..=high).contains(&offset) {
                return Err(expired(topic, partition, "the reading", offset, (low, high)));
            }
        }
        // Whatever it was, it has healed; the library stopped fetching, so it is made to go on.
        self.note(format!("kafka: {reason}: reading goes on from the same place"));
        let places: Vec<_> =
            self.parts.iter().map(|part| (part.topic.clone(), part.partition, part.next)).collect();
        for (topic, partition, next) in places {
            let _later = consumer.seek(&topic, partition, Offset::Offset(next), ASK);
        }
        Ok(())
    }

    /// Carries out an assignment, or tries again later.
    fn assign(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        partitions: Vec<Partition>,
    ) -> Result<(), KafkaError> {
        match self.starts(consumer, &partitions) {
            Ok(starts) => {
                let mut list = TopicPartitionList::new();
                for ((topic, partition), start) in &starts {
                    list.add_partition_offset(topic, *partition, Offset::Offset(start.next))
                        .map_err(|error| KafkaError::Client(explain(&error)))?;
                }
                let done = match consumer.rebalance_protocol() {
                    RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
                    _ => consumer.assign(&list),
                };
                if let Err(error) = done {
                    self.note(format!("kafka: an assignment failed: {}", explain(&error)));
                    return Ok(());
                }
                self.said.remove("assignment");
                self.own(starts);
                Ok(())
            }
            Err(Hindrance::Later(why)) => {
                if self.said.insert("assignment".to_owned()) {
                    self.note(format!("kafka: cannot find where to begin: {why}; trying on"));
                }
                self.pending = Some((partitions, Instant::now() + ASK_AGAIN));
                Ok(())
            }
            Err(Hindrance::Never(error)) => Err(error),
        }
    }

    /// Takes partitions as ours.
    fn own(&mut self, starts: Vec<(Partition, Start)>) {
        let names: Vec<String> =
            starts.iter().map(|((topic, partition), _)| format!("{topic} [{partition}]")).collect();
        if !names.is_empty() && self.settings.until.is_none() {
            self.note(format!(
                "kafka: assigned {} (group {})",
                names.join(", "),
                self.settings.group
            ));
        }
        for ((topic, partition), start) in starts {
            let source = self.source(&topic, partition);
            // Of a client that was given up, something may still be on its way to be applied.
            if self.handed.remove(&source).is_none() {
                self.progress.begin(source, start.next);
            }
            self.stored.remove(&(topic.clone(), partition));
            self.begun.insert(topic.clone());
            self.parts.push(Part {
                source,
                topic: topic.clone(),
                partition,
                next: start.next,
                until: start.until,
                committed: start.committed,
                asked: None,
                unconfirmed: None,
                paused: false,
                ended: false,
                moved: Instant::now(),
                fetched: -1,
                bytes: Vec::new(),
                records: Vec::new(),
            });
            self.tell(KafkaEvent::Assigned { source, topic, partition, from: start.next });
        }
        self.assigned_once = true;
    }

    fn source(&mut self, topic: &str, partition: i32) -> u32 {
        let next = self.sources.values().max().map_or(0, |last| last.saturating_add(1));
        *self.sources.entry((topic.to_owned(), partition)).or_insert(next)
    }

    /// Where to begin in each of the partitions.
    fn starts(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        partitions: &[Partition],
    ) -> Result<Vec<(Partition, Start)>, Hindrance> {
        let later = |error: ClientError| Hindrance::Later(explain(&error));
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        let mut committed = BTreeMap::new();
        for one in consumer.committed_offsets(list, ASK).map_err(later)?.elements() {
            one.error().map_err(later)?;
            if let Offset::Offset(offset) = one.offset() {
                committed.insert((one.topic().to_owned(), one.partition()), offset);
            }
        }
        let new_partitions = self.assigned_once;
        let begun: BTreeSet<String> = committed.keys().map(|(topic, _)| topic.clone()).collect();
        self.begun.extend(begun);
        let mut starts = Vec::new();
        for (topic, partition) in partitions {
            let key = (topic.clone(), *partition);
            let group = committed.get(&key).copied();
            let source = self.sources.get(&key);
            let handed = source.and_then(|source| self.handed.get(source)).copied();
            let applied = source.and_then(|source| self.progress.of(*source)).map(|done| done.next);
            let (place, whose) = match (handed, applied, self.stored.get(&key)) {
                (Some(handed), _, _) => (Some(handed), "the reading"),
                (_, Some(applied), _) => (Some(applied.max(group.unwrap_or(0))), "the reading"),
                (_, _, Some(stored)) => (Some(*stored), "the stored state"),
                (_, _, None) => (group, "the group"),
            };
            let (low, high) = consumer.fetch_watermarks(topic, *partition, ASK).map_err(later)?;
            let next = match place {
                Some(place) if (low..=high).contains(&place) => place,
                Some(place) => {
                    let error = expired(topic.clone(), *partition, whose, place, (low, high));
                    let Some(from) = self.settings.from.filter(|_| self.settings.from_chosen)
                    else {
                        return Err(Hindrance::Never(error));
                    };
                    let next = from_place(consumer, &key, from, (low, high)).map_err(later)?;
                    self.note(format!(
                        "kafka: {topic} [{partition}]: offset {place} of {whose} is gone; by --from \
                         it goes on at {next}"
                    ));
                    next
                }
                None => {
                    let from = self.settings.from.unwrap_or(From::Earliest);
                    let new = from == From::Latest
                        && (new_partitions || self.begun.contains(topic.as_str()));
                    let from = if new { From::Earliest } else { from };
                    from_place(consumer, &key, from, (low, high)).map_err(later)?
                }
            };
            starts.push((key, Start { next, until: None, committed: group }));
        }
        Ok(starts)
    }

    /// Partitions go to somebody else.
    fn revoke(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        partitions: &[Partition],
        lost: bool,
    ) -> Result<(), KafkaError> {
        self.hand_over();
        if self.pending.take().is_some() {
            // It was never carried out; the library waits for an answer all the same.
            let _done = consumer.incremental_assign(&TopicPartitionList::new());
        }
        let mut leaving: Vec<u32> = Vec::new();
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            if let Some(part) = self.parts.iter().find(|part| part.is(topic, *partition)) {
                leaving.push(part.source);
                list.add_partition(topic, *partition);
            }
        }
        for source in &leaving {
            let source = *source;
            self.tell(if lost {
                KafkaEvent::Lost { source }
            } else {
                KafkaEvent::Revoked { source }
            });
        }
        if !lost && !leaving.is_empty() {
            self.wait_applied(&leaving, REVOKE_MAX);
            self.commit_for_good(consumer, &leaving, true)?;
        }
        let done = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(&list),
            _ => consumer.unassign(),
        };
        if let Err(error) = done {
            debug!("kafka: giving back: {error}");
        }
        self.parts.retain(|part| !leaving.contains(&part.source));
        self.last = 0;
        if !leaving.is_empty() {
            let how = if lost { "lost" } else { "given back" };
            let names: Vec<String> =
                partitions.iter().map(|(topic, p)| format!("{topic} [{p}]")).collect();
            self.note(format!("kafka: {how} {}", names.join(", ")));
        }
        Ok(())
    }

    /// Commits what is done of these sources and asks the group whether it has it, for a limited
    /// time; what fails because the group is busy is sent again. `goes_on`: records that come
    /// meanwhile count.
    fn commit_for_good(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        sources: &[u32],
        goes_on: bool,
    ) -> Result<(), KafkaError> {
        let until = Instant::now() + ANSWER_MAX;
        for part in self.parts.iter_mut().filter(|part| sources.contains(&part.source)) {
            part.asked = None;
        }
        while self.commit(consumer, sources) && Instant::now() < until {
            let mut list = TopicPartitionList::new();
            for part in self.parts.iter().filter(|part| part.asked.is_some()) {
                list.add_partition(&part.topic, part.partition);
            }
            // The question goes the same way as the commit, behind it.
            let rest = until.saturating_duration_since(Instant::now()).max(POLL);
            if let Ok(found) = consumer.committed_offsets(list, rest) {
                for one in found.elements() {
                    if let (Offset::Offset(offset), Ok(())) = (one.offset(), one.error()) {
                        self.committed(one.topic(), one.partition(), offset);
                    }
                }
            }
            for part in self.parts.iter_mut().filter(|part| sources.contains(&part.source)) {
                part.asked = None;
            }
            if goes_on {
                self.round(consumer)?;
            } else {
                let _late = consumer.poll(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// The group has committed this of a partition.
    fn committed(&mut self, topic: &str, partition: i32, offset: i64) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.is(topic, partition)) {
            part.committed = Some(offset);
        }
    }

    /// Says if commits do not arrive. The library tells of none of its own accord: its callback is
    /// never called for those that are not waited for.
    fn check_commits(&mut self, consumer: &BaseConsumer<Ear>) {
        let late = self
            .parts
            .iter()
            .any(|part| part.unconfirmed.is_some_and(|since| since.elapsed() > UNCONFIRMED_MAX));
        if !late {
            self.said.remove("commit");
        } else if self.down.is_none() {
            let why = consumer.context().heard().commit_failed.clone();
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            self.fail("commit", format!("kafka: offsets cannot be committed{why}; trying on"));
        }
    }

    /// Waits until nothing of these sources is held any more.
    fn wait_applied(&self, sources: &[u32], at_most: Duration) {
        let until = Instant::now() + at_most;
        let held = |source: &u32| self.progress.of(*source).is_some_and(|done| done.held > 0);
        while !self.refused && Instant::now() < until && sources.iter().any(held) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn commit_due(&mut self, consumer: &BaseConsumer<Ear>) {
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            let all: Vec<u32> = self.parts.iter().map(|part| part.source).collect();
            let _new = self.commit(consumer, &all);
        }
    }

    /// Sends a commit of what is done of these sources; false if nothing is new or it cannot.
    fn commit(&mut self, consumer: &BaseConsumer<Ear>, sources: &[u32]) -> bool {
        let now = Instant::now();
        self.committed_at = now;
        let mut list = TopicPartitionList::new();
        for part in self.parts.iter_mut().filter(|part| sources.contains(&part.source)) {
            let Some(done) = self.progress.of(part.source) else { continue };
            if part.committed == Some(done.next) {
                part.unconfirmed = None;
                continue;
            }
            part.unconfirmed.get_or_insert(now);
            let underway = |(next, at): (i64, Instant)| next == done.next && now < at + COMMIT_MAX;
            if part.asked.is_some_and(underway) {
                continue;
            }
            let mut one = list.add_partition(&part.topic, part.partition);
            if one.set_offset(Offset::Offset(done.next)).is_ok()
                && let Some(watermark) = done.watermark
            {
                one.set_metadata(format!("w={watermark}"));
            }
            part.asked = Some((done.next, now));
        }
        if list.count() == 0 {
            return false;
        }
        let sent = consumer.commit(&list, CommitMode::Async);
        if let Err(error) = &sent {
            debug!("kafka: commit: {error}");
        }
        sent.is_ok()
    }

    /// Pauses partitions of which too much waits to be applied, and wakes those of which little does.
    fn balance(&mut self, consumer: &BaseConsumer<Ear>) {
        let share = u64::try_from(self.share()).unwrap_or(u64::MAX);
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for part in &mut self.parts {
            let held = self.progress.of(part.source).map_or(0, |done| done.held);
            let done = part.until.is_some() && part.ended;
            if !part.paused && (held > share || done) {
                pause.add_partition(&part.topic, part.partition);
                part.paused = true;
            } else if part.paused && !done && held <= share / 2 {
                resume.add_partition(&part.topic, part.partition);
                part.paused = false;
                part.moved = Instant::now();
            }
        }
        // Only what is ours and in the other state is named, so an error means that it has just
        // gone; then it will be revoked.
        if pause.count() > 0 {
            let _gone = consumer.pause(&pause);
        }
        if resume.count() > 0 {
            let _gone = consumer.resume(&resume);
        }
    }

    /// Lag, ends of partitions, and whether brokers are there, by the library's statistics.
    fn survey(&mut self, statistics: &Statistics) {
        let up = |state: &str| state == "UP";
        let reachable = statistics.brokers.values().any(|broker| up(&broker.state));
        if reachable && let Some(since) = self.down.take() {
            let gone = Micros::try_from(since.elapsed().as_secs()).unwrap_or(0) * 1_000_000;
            self.note(format!("kafka: a broker is back after {}", time::format_duration(gone)));
        }
        let committed_only = self
            .settings
            .connection
            .properties
            .get("isolation.level")
            .is_none_or(|level| level != "read_uncommitted");
        let (mut lag, mut ended) = (Lag::default(), Vec::new());
        let mut moved = false;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let partition = statistics.topics.get(&part.topic);
            let Some(now) = partition.and_then(|topic| topic.partitions.get(&part.partition))
            else {
                continue;
            };
            if now.committed_offset >= 0 {
                if part.committed < Some(now.committed_offset) {
                    part.committed = Some(now.committed_offset);
                    part.unconfirmed = None;
                }
                let done = self.progress.of(part.source).map(|done| done.next);
                if part.committed >= done {
                    part.unconfirmed = None;
                }
            }
            let end = if committed_only { now.ls_offset } else { now.hi_offset };
            if end < 0 {
                continue;
            }
            let fetched_all = now.next_offset >= end;
            // What lies behind the last record may be markers of transactions, which nobody gets.
            let at_end = part.next >= end || (fetched_all && now.fetchq_cnt == 0);
            let behind = if at_end { 0 } else { end - part.next };
            lag.sources.push((part.source, behind));
            lag.total += behind;
            if at_end && fetched_all {
                ended.push(index);
            }
            let leader = statistics.brokers.values().find(|broker| broker.nodeid == now.leader);
            let led = leader.is_some_and(|broker| up(&broker.state));
            if at_end || part.paused || !led || now.next_offset != part.fetched {
                moved |= now.next_offset != part.fetched && part.fetched >= 0;
                part.moved = Instant::now();
            }
            part.fetched = now.next_offset;
        }
        if moved {
            self.stalled_after = self.settings.stalled_after;
            self.said.retain(|kind| matches!(kind.as_str(), "assignment" | "commit"));
        }
        for index in ended {
            self.end(index);
        }
        self.tell(KafkaEvent::Lag(lag));
    }

    /// Why the client has to be made anew, if it has.
    fn stalled(&self) -> Option<String> {
        if self.heard_at.elapsed() > SILENT_MAX.max(self.stalled_after) {
            return Some("the client says nothing any more".to_owned());
        }
        let stuck = self.parts.iter().find(|part| part.moved.elapsed() > self.stalled_after)?;
        let seconds = self.stalled_after.as_secs();
        Some(format!("{} has more records, but none came for {seconds} s", stuck.name()))
    }

    /// Assigns what lies between two times, without a group.
    fn assign_between(
        &mut self,
        consumer: &BaseConsumer<Ear>,
        partitions: &[Partition],
        until: Until,
    ) -> Result<(), KafkaError> {
        let failed = |error: ClientError| KafkaError::Client(explain(&error));
        let from = self.settings.from.unwrap_or(From::Earliest);
        let mut starts = Vec::new();
        let mut list = TopicPartitionList::new();
        for key in partitions {
            let (topic, partition) = key;
            // A client that was made anew goes on where the last one was.
            let source = self.sources.get(key);
            let handed = source.and_then(|source| self.handed.get(source)).copied();
            let range = consumer.fetch_watermarks(topic, *partition, ASK).map_err(failed)?;
            let begin = from_place(consumer, key, from, range).map_err(failed)?;
            let end = match until {
                Until::End => range.1,
                Until::Time(at) => {
                    from_place(consumer, key, From::Time(at), range).map_err(failed)?
                }
            };
            let next = handed.unwrap_or(begin);
            if next < end {
                list.add_partition_offset(topic, *partition, Offset::Offset(next))
                    .map_err(failed)?;
            }
            starts.push((key.clone(), Start { next, until: Some(end), committed: None }));
        }
        consumer.assign(&list).map_err(failed)?;
        self.own(starts);
        for index in 0..self.parts.len() {
            let empty = |part: &Part| part.until.is_some_and(|until| part.next >= until);
            if self.parts.get(index).is_some_and(empty) {
                self.end(index);
                if let Some(part) = self.parts.get_mut(index) {
                    // It was never assigned, so it must not be paused.
                    part.paused = true;
                }
            }
        }
        Ok(())
    }

    /// Lets go of the client: hands over, waits for the rest to be applied, commits, leaves.
    fn close(&mut self, consumer: BaseConsumer<Ear>, orderly: bool) {
        let all: Vec<u32> = self.parts.iter().map(|part| part.source).collect();
        if orderly && self.settings.until.is_none() {
            self.hand_over();
            self.wait_applied(&all, REVOKE_MAX);
            // Without `goes_on` nothing in it can fail.
            let _done = self.commit_for_good(&consumer, &all, false);
        }
        self.parts.clear();
        consumer.context().heard().closing = true;
        self.give_back(&consumer);
        let until = Instant::now() + LEAVE_MAX;
        let left = consumer.close_queue().is_ok() && {
            while !consumer.closed() && Instant::now() < until {
                let _late = consumer.poll(Duration::from_millis(20));
            }
            consumer.closed()
        };
        if left {
            drop(consumer);
        } else {
            self.note("kafka: the client does not close; it ends with the process".to_owned());
            std::mem::forget(consumer);
        }
    }

    /// Answers rebalances that were noted and not yet carried out: the library waits for them.
    fn give_back(&self, consumer: &BaseConsumer<Ear>) {
        let noted = std::mem::take(&mut consumer.context().heard().rebalances);
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let unanswered = self.pending.is_some() || !noted.is_empty();
        if unanswered && cooperative {
            let mut assigned = TopicPartitionList::new();
            for rebalance in &noted {
                if let Rebalance::Revoke { partitions, .. } = rebalance {
                    for (topic, partition) in partitions {
                        assigned.add_partition(topic, *partition);
                    }
                }
            }
            let _done = if assigned.count() > 0 {
                consumer.incremental_unassign(&assigned)
            } else {
                consumer.incremental_assign(&assigned)
            };
        } else if unanswered {
            let _done = consumer.unassign();
        }
    }
}

/// Where a partition begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    next: i64,
    until: Option<i64>,
    committed: Option<i64>,
}

/// The offset that `from` means in a log that holds `range`.
fn from_place(
    consumer: &BaseConsumer<Ear>,
    (topic, partition): &Partition,
    from: From,
    (low, high): (i64, i64),
) -> KafkaResult<i64> {
    let at = match from {
        From::Earliest => return Ok(low),
        From::Latest => return Ok(high),
        From::Time(at) => at,
    };
    let mut list = TopicPartitionList::new();
    // The library takes whole milliseconds; a record just before the time is not meant.
    let millis = at.div_euclid(1000) + i64::from(at.rem_euclid(1000) != 0);
    list.add_partition_offset(topic, *partition, Offset::Offset(millis.max(0)))?;
    let found = consumer.offsets_for_times(list, ASK)?;
    for one in found.elements() {
        one.error()?;
        if let Offset::Offset(offset) = one.offset() {
            return Ok(offset.clamp(low, high));
        }
    }
    // No record is as late as that.
    Ok(high)
}

fn expired(
    topic: String,
    partition: i32,
    whose: &'static str,
    offset: i64,
    (low, high): (i64, i64),
) -> KafkaError {
    let what = if offset < low {
        format!("retention has deleted {} of its records", low - offset)
    } else {
        "the topic was made anew or has lost its end".to_owned()
    };
    KafkaError::Expired { topic, partition, whose, offset, low, high, what }
}
