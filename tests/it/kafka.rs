//! The Kafka source and sink against brokers inside this process: noida-db, which keeps groups,
//! offsets, transactions and times as Kafka does, and librdkafka's own mock, which can fail on
//! demand.

use crate::support::{failed_logins, piped, portcullis, run, run_in, stderr, stdout};
use portcullis::action::Action;
use portcullis::detect::rule::{Severity, Urgency};
use portcullis::kafka::Connection;
use portcullis::sink::Output;
use portcullis::sink::kafka::{DeadLetters, KafkaSink, Origin};
use portcullis::source::Batch;
use portcullis::source::kafka::{
    From, KafkaError, KafkaEvent, KafkaSettings, Lag, Progress, Until, consume, weight,
};
use portcullis::source::position::{PartitionPosition, Position};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
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
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A broker of its own.
pub fn broker() -> String {
    noida::kafka::spawn("127.0.0.1:0").unwrap().to_string()
}

pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Does one thing of the admin client, whose calls are futures.
pub fn finish<T>(future: impl Future<Output = T>) -> T {
    use std::task::{Context, Poll, Waker};
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

pub fn admin(broker: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker).create().unwrap()
}

pub fn create(broker: &str, topic: &str, partitions: i32) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1))
        .set("retention.ms", "-1")
        .set("max.message.bytes", "20000000");
    for result in finish(admin(broker).create_topics(&[new], &AdminOptions::new())).unwrap() {
        result.unwrap();
    }
}

pub fn producer(broker: &str, more: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("message.max.bytes", "20000000");
    for (name, value) in more {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

pub struct Sender<'a> {
    pub producer: BaseProducer,
    pub topic: &'a str,
}

impl Sender<'_> {
    pub fn send(&self, partition: i32, value: &[u8], time_ms: i64) {
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(self.topic).partition(partition).payload(value).timestamp(time_ms);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.flush(DEADLINE).unwrap();
    }

    pub fn lines(&self, partition: i32, lines: &[String]) {
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

pub fn sender<'a>(broker: &str, topic: &'a str) -> Sender<'a> {
    Sender { producer: producer(broker, &[]), topic }
}

pub fn numbered(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("line {n}")).collect()
}

pub fn settings(broker: &str, topic: &str) -> KafkaSettings {
    KafkaSettings {
        connection: Connection { brokers: vec![broker.to_owned()], ..Connection::default() },
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
pub fn committed(broker: &str, group: &str, topic: &str, partition: i32) -> Option<(i64, String)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", group)
        .create()
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    let found = loop {
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        match consumer.committed_offsets(list, DEADLINE) {
            Ok(found) => break found,
            // A broker that has just started knows the group a little later.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
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

#[test]
fn a_record_is_one_line_whatever_is_in_it() {
    let broker = broker();
    create(&broker, "logs", 1);
    let sender = sender(&broker, "logs");
    sender.send(0, b"two\nlines\r\n", 1000);
    let tombstone: BaseRecord<'_, [u8], [u8]> = BaseRecord::to("logs").key(&b"k"[..]).partition(0);
    let headers = OwnedHeaders::new().insert(Header { key: "a", value: Some("b") });
    sender.producer.send(tombstone.headers(headers)).map_err(|(error, _)| error).unwrap();
    sender.send(0, b"", 1000);
    sender.send(0, b"\n\n", 1000);
    sender.send(0, &[b"y".repeat(300), b"\ntail".to_vec()].concat(), 1000);
    sender.send(0, &b"z".repeat(300), 1000);
    sender.send(0, b"\xff\xfe\0", 1000);
    let settings = KafkaSettings { max_line: 300, ..settings(&broker, "logs") };
    let mut reading = Reading::start(&settings);
    reading.until_lines(7);
    let y = "y".repeat(300);
    let z = "z".repeat(300);
    let expected = ["two lines", "", "", " ", &y, &z, "\u{fffd}\u{fffd}\0"];
    assert_eq!(reading.lines(), expected);
    let oversized: Vec<&Batch> = reading.batches.iter().filter(|batch| batch.oversized).collect();
    assert_eq!(oversized.len(), 1);
    assert_eq!(oversized[0].records.len(), 1);
    assert_eq!(oversized[0].records[0].offset, 4);
    for batch in &reading.batches {
        assert_eq!(batch.lines().count(), batch.records.len());
    }
    reading.stop().unwrap();
    assert_eq!(committed(&broker, &settings.group, "logs", 0).unwrap().0, 7);
}

#[test]
fn aborted_records_and_markers_are_gaps_and_hold_nothing_back() {
    let broker = broker();
    create(&broker, "logs", 1);
    let producer = producer(&broker, &[("transactional.id", "t")]);
    producer.init_transactions(DEADLINE).unwrap();
    for round in 0..6 {
        producer.begin_transaction().unwrap();
        for n in 0..5 {
            let line = format!("{} {n}", if round % 2 == 0 { "kept" } else { "aborted" });
            let record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to("logs").partition(0).payload(line.as_bytes());
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(DEADLINE).unwrap();
        if round % 2 == 0 {
            producer.commit_transaction(DEADLINE).unwrap();
        } else {
            producer.abort_transaction(DEADLINE).unwrap();
        }
    }
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.until("the end", |reading| reading.ended == [0] && reading.lines().len() == 15);
    assert!(reading.lines().iter().all(|line| line.starts_with("kept")));
    reading.until("no lag", |reading| reading.lag.as_ref().is_some_and(|lag| lag.total == 0));
    reading.stop().unwrap();
    // The same, as a bounded replay: the last offset before the end is a marker.
    let mut replay = Reading::start(&KafkaSettings { until: Some(Until::End), ..settings });
    replay.ended().unwrap();
    assert_eq!(replay.lines().len(), 15);
}

/// Two members at work until both hold something and everything that was sent has been read.
fn share(
    first: &mut Reading,
    second: &mut Reading,
    what: &str,
    done: impl Fn(&Reading, &Reading) -> bool,
) {
    let deadline = Instant::now() + DEADLINE;
    while !done(first, second) {
        assert!(Instant::now() < deadline, "not {what}: {:#?} {:#?}", first.notes, second.notes);
        first.for_a_while(Duration::from_millis(20));
        second.for_a_while(Duration::from_millis(20));
    }
}

#[test]
fn two_members_share_and_give_back_without_loss_or_repeat() {
    let (_cluster, broker) = mock(4);
    share_and_give_back(&broker, "logs");
}

/// Two members on a topic of four empty partitions.
pub fn share_and_give_back(broker: &str, topic: &str) {
    let sender = sender(broker, topic);
    let mut settings = settings(broker, topic);
    settings.connection.properties.insert("session.timeout.ms".into(), "6000".into());
    let mut first = Reading::start(&settings);
    first.until("all four", |reading| reading.assigned.len() == 4);
    for partition in 0..4 {
        sender.lines(partition, &numbered(0, 25));
    }
    first.until_lines(100);
    let mut second = Reading::start(&settings);
    share(&mut first, &mut second, "shared", |first, second| {
        second.assigned.len() >= 2 && first.gone.len() >= 2
    });
    // What the first had applied was committed before the second took over.
    assert!(second.assigned.iter().all(|(_, _, _, from)| *from == 25), "{:?}", second.assigned);
    for partition in 0..4 {
        sender.lines(partition, &numbered(25, 50));
    }
    share(&mut first, &mut second, "all read", |first, second| {
        first.lines().len() + second.lines().len() >= 200
    });
    assert_eq!((first.lines().len(), second.lines().len()), (150, 50));
    second.stop().unwrap();
    first.until("all four again", |reading| reading.assigned.len() == 6);
    for partition in 0..4 {
        sender.lines(partition, &numbered(50, 60));
    }
    first.until_lines(190);
    first.for_a_while(Duration::from_millis(300));
    assert_eq!(first.lines().len(), 190);
    // A partition keeps its number.
    let numbers: BTreeMap<i32, u32> =
        first.assigned.iter().map(|(source, _, partition, _)| (*partition, *source)).collect();
    let same = first.assigned.iter().all(|(source, _, p, _)| numbers[p] == *source);
    assert!(same, "{:?}", first.assigned);
    first.stop().unwrap();
}

/// This broker tells the first member that its partitions are lost, so nothing of them can be
/// committed any more: records may come twice, but none is missed.
#[test]
fn lost_partitions_are_read_again_by_whoever_gets_them() {
    let broker = broker();
    create(&broker, "logs", 4);
    let sender = sender(&broker, "logs");
    let settings = settings(&broker, "logs");
    let mut first = Reading::start(&settings);
    first.until("all four", |reading| reading.assigned.len() == 4);
    for partition in 0..4 {
        let from = usize::try_from(partition).unwrap() * 100;
        sender.lines(partition, &numbered(from, from + 25));
    }
    first.until_lines(100);
    let mut second = Reading::start(&settings);
    share(&mut first, &mut second, "shared", |first, second| {
        second.assigned.len() >= 2 && first.gone.len() >= 2
    });
    for partition in 0..4 {
        let from = usize::try_from(partition).unwrap() * 100 + 25;
        sender.lines(partition, &numbered(from, from + 25));
    }
    share(&mut first, &mut second, "all read", |first, second| {
        let mut all: Vec<String> = first.lines();
        all.extend(second.lines());
        all.sort();
        all.dedup();
        all.len() == 200
    });
    first.stop().unwrap();
    second.stop().unwrap();
}

#[test]
fn a_static_member_keeps_its_partitions_over_a_restart() {
    let broker = broker();
    create(&broker, "logs", 2);
    let sender = sender(&broker, "logs");
    let settings = KafkaSettings { instance_id: Some("one".into()), ..settings(&broker, "logs") };
    sender.lines(0, &numbered(0, 5));
    let mut reading = Reading::start(&settings);
    reading.until_lines(5);
    reading.stop().unwrap();
    sender.lines(1, &numbered(5, 10));
    let mut reading = Reading::start(&settings);
    reading.until_lines(5);
    assert_eq!(reading.lines(), numbered(5, 10));
    reading.stop().unwrap();
}

#[test]
fn huge_records_pass_a_small_buffer_and_wait_until_it_has_room() {
    let broker = broker();
    create(&broker, "logs", 2);
    let producer = producer(&broker, &[]);
    let huge = |n: u8| [vec![b'a' + n], vec![b'x'; 10 << 20]].concat();
    for n in 0..4 {
        let value = huge(n);
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to("logs").partition(i32::from(n % 2)).payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(DEADLINE).unwrap();
    }
    let settings =
        KafkaSettings { buffer: 1 << 20, max_line: 16 << 20, ..settings(&broker, "logs") };
    let mut reading = Reading::start(&settings);
    reading.applies = false;
    // One of each partition, however little room there is: none can starve the other.
    let one_each = |reading: &Reading| {
        let sources: std::collections::BTreeSet<u32> =
            reading.batches.iter().map(|batch| batch.source).collect();
        sources.len() == 2
    };
    reading.until("one of each partition", one_each);
    reading.for_a_while(Duration::from_millis(1500));
    assert!(reading.batches.len() <= 4);
    for batch in std::mem::take(&mut reading.batches) {
        reading.apply(&batch);
        reading.batches.push(batch);
    }
    reading.applies = true;
    reading.until_lines(4);
    reading.for_a_while(Duration::from_millis(500));
    let mut firsts: Vec<String> = reading.lines().iter().map(|line| line[..1].to_owned()).collect();
    firsts.sort();
    assert_eq!(firsts, ["a", "b", "c", "d"]);
    reading.stop().unwrap();
}

#[test]
fn a_full_buffer_pauses_and_loses_and_repeats_nothing() {
    let broker = broker();
    create(&broker, "logs", 1);
    let lines: Vec<String> = (0..3000).map(|n| format!("{n:0>1000}")).collect();
    sender(&broker, "logs").lines(0, &lines);
    let settings = KafkaSettings { buffer: 300_000, ..settings(&broker, "logs") };
    let mut reading = Reading::start(&settings);
    reading.applies = false;
    reading.until_lines(200);
    reading.for_a_while(Duration::from_millis(1000));
    let waiting = reading.lines().len();
    assert!(waiting < 2900, "{waiting} lines of 1,000 bytes in a buffer of 300,000");
    let mut done = 0;
    while reading.lines().len() < 3000 {
        for batch in &reading.batches[done..] {
            reading.apply(batch);
        }
        done = reading.batches.len();
        reading.until("more", |reading| reading.batches.len() > done);
    }
    assert_eq!(reading.lines(), lines);
    reading.stop().unwrap();
}

const QUICK: (&str, &str) = ("topic.metadata.refresh.interval.ms", "300");

fn quick(mut settings: KafkaSettings) -> KafkaSettings {
    settings.connection.properties.insert(QUICK.0.to_owned(), QUICK.1.to_owned());
    settings
}

#[test]
fn a_pattern_takes_the_topics_that_fit_also_those_that_come() {
    let broker = broker();
    create(&broker, "logs-a", 1);
    create(&broker, "other", 1);
    sender(&broker, "logs-a").lines(0, &["a".into()]);
    sender(&broker, "other").lines(0, &["never".into()]);
    let mut reading = Reading::start(&quick(settings(&broker, "^logs-.*")));
    reading.until_lines(1);
    create(&broker, "logs-b", 1);
    sender(&broker, "logs-b").lines(0, &["b".into()]);
    reading.until_lines(2);
    assert_eq!(reading.lines(), ["a", "b"]);
    reading.until("both ends", |reading| reading.ended.len() == 2);
    reading.stop().unwrap();
}

#[test]
fn latest_skips_what_is_there_and_nothing_of_what_comes() {
    let broker = broker();
    create(&broker, "logs", 1);
    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 5));
    let settings = quick(KafkaSettings { from: Some(From::Latest), ..settings(&broker, "logs") });
    let mut reading = Reading::start(&settings);
    reading.until("assigned", |reading| reading.assigned.len() == 1);
    sender.lines(0, &numbered(5, 7));
    reading.until_lines(2);
    assert_eq!(reading.lines(), numbered(5, 7));
    reading.stop().unwrap();
    // Where it began was committed, so what comes while nobody reads is not skipped.
    sender.lines(0, &numbered(7, 9));
    let mut reading = Reading::start(&settings);
    reading.until_lines(2);
    assert_eq!(reading.lines(), numbered(7, 9));
    reading.stop().unwrap();
}

#[test]
fn a_stored_place_goes_before_the_groups() {
    let broker = broker();
    create(&broker, "logs", 2);
    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 10));
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.until_lines(10);
    reading.stop().unwrap();
    let known = [(7, PartitionPosition { topic: "logs".into(), partition: 0, next: 6 })];
    let mut reading = Reading::start_known(&settings, &known);
    reading.until_lines(4);
    assert_eq!(reading.lines(), numbered(6, 10));
    reading.until("both", |reading| reading.assigned.len() == 2);
    reading.assigned.sort();
    assert_eq!(reading.assigned, [(7, "logs".into(), 0, 6), (8, "logs".into(), 1, 0)]);
    reading.stop().unwrap();
}

#[test]
fn a_replay_reads_between_two_times_and_leaves_no_trace() {
    let broker = broker();
    create(&broker, "logs", 3);
    let sender = sender(&broker, "logs");
    for n in 0..100i64 {
        // Partition 2 stays empty.
        let partition = i32::try_from(n % 2).unwrap();
        sender.send(partition, format!("{n}").as_bytes(), 1_000_000 + n * 1000);
    }
    let replay = |from: Option<i64>, to: Option<i64>| {
        let settings = KafkaSettings {
            from: from.map(|ms| From::Time(ms * 1000)),
            until: Some(to.map_or(Until::End, |ms| Until::Time(ms * 1000))),
            ..settings(&broker, "logs")
        };
        let mut reading = Reading::start(&settings);
        reading.ended().unwrap();
        assert_eq!(reading.ended.len(), 3);
        assert_eq!(committed(&broker, &settings.group, "logs", 0), None);
        let mut lines: Vec<i64> =
            reading.lines().iter().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(replay(None, None), (0..100).collect::<Vec<i64>>());
    assert_eq!(replay(Some(1_010_000), Some(1_020_000)), (10..20).collect::<Vec<i64>>());
    assert_eq!(replay(Some(1_010_001), Some(1_010_500)), Vec::<i64>::new());
    assert_eq!(replay(Some(1_095_001), None), (96..100).collect::<Vec<i64>>());
    assert_eq!(replay(None, Some(1)), Vec::<i64>::new());
    assert_eq!(replay(Some(9_000_000), None), Vec::<i64>::new());
}

fn delete_before(broker: &str, topic: &str, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    finish(admin(broker).delete_records(&list, &AdminOptions::new())).unwrap();
}

#[test]
fn a_place_that_is_gone_ends_the_reading_and_a_choice_goes_on() {
    let broker = broker();
    create(&broker, "logs", 1);
    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 10));
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.until_lines(10);
    reading.stop().unwrap();
    sender.lines(0, &numbered(10, 30));
    delete_before(&broker, "logs", 25);
    // Also with `from` in the configuration: only a choice on the command line skips.
    for from in [None, Some(From::Earliest)] {
        let error =
            Reading::start(&KafkaSettings { from, ..settings.clone() }).ended().unwrap_err();
        let text = error.to_string();
        for part in [
            "logs [0]",
            "offset 10",
            "the log holds 25 to 30",
            "15 of its records",
            "--from earliest",
            "--from latest",
            "--from TIME",
        ] {
            assert!(text.contains(part), "no `{part}` in: {text}");
        }
    }
    let chosen =
        KafkaSettings { from: Some(From::Earliest), from_chosen: true, ..settings.clone() };
    let mut reading = Reading::start(&chosen);
    reading.until_lines(5);
    assert_eq!(reading.lines(), numbered(25, 30));
    assert!(reading.notes.iter().any(|note| note.contains("offset 10 of the group is gone")));
    reading.stop().unwrap();
    // A stored place behind the end: the topic is another one.
    let known = [(0, PartitionPosition { topic: "logs".into(), partition: 0, next: 99 })];
    let error = Reading::start_known(&settings, &known).ended().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the stored state goes on at offset 99"), "{text}");
    assert!(text.contains("made anew"), "{text}");
}

#[test]
fn what_is_not_there_at_the_start_is_an_error_that_helps() {
    let broker = broker();
    create(&broker, "app-logs", 1);
    let error = Reading::start(&settings(&broker, "app-log")).ended().unwrap_err().to_string();
    assert!(error.contains("there is no topic `app-log`"), "{error}");
    assert!(error.contains("did you mean `app-logs`?") && error.contains("--create"), "{error}");

    // A port on which nobody listens.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = KafkaSettings {
        start_max: Duration::from_secs(2),
        ..settings(&closed.to_string(), "logs")
    };
    let begun = Instant::now();
    let error = Reading::start(&settings).ended().unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("within 2 s"), "{error}");
    assert!(error.to_lowercase().contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());

    let mut wrong = settings.clone();
    wrong.connection.properties.insert("fetch.wait.max.msec".into(), "1".into());
    let error = Reading::start(&wrong).ended().unwrap_err().to_string();
    assert!(error.contains("librdkafka knows no property `fetch.wait.max.msec`"), "{error}");
}

/// The mock's first wait for members of a group takes three seconds.
fn mock(
    partitions: i32,
) -> (MockCluster<'static, rdkafka::producer::DefaultProducerContext>, String) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("logs", partitions, 1).unwrap();
    let servers = cluster.bootstrap_servers();
    (cluster, servers)
}

#[test]
fn a_broker_that_goes_away_is_waited_for_and_said_once() {
    let (cluster, broker) = mock(1);
    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 5));
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    reading.until_lines(5);
    cluster.broker_down(1).unwrap();
    let says = |reading: &Reading, text: &str| {
        reading.notes.iter().filter(|note| note.contains(text)).count()
    };
    reading.until("that it is away", |reading| says(reading, "can be reached") == 1);
    reading.for_a_while(Duration::from_secs(4));
    assert_eq!(says(&reading, "can be reached"), 1, "{:#?}", reading.notes);
    cluster.broker_up(1).unwrap();
    sender.lines(0, &numbered(5, 10));
    reading.until_lines(10);
    reading.until("that it is back", |reading| says(reading, "is back after") == 1);
    assert_eq!(reading.lines(), numbered(0, 10));
    assert_eq!(reading.failures, Vec::<String>::new());
    reading.stop().unwrap();
}

#[test]
fn closing_ends_in_time_with_the_broker_away() {
    let (cluster, broker) = mock(1);
    sender(&broker, "logs").lines(0, &numbered(0, 5));
    let mut reading = Reading::start(&settings(&broker, "logs"));
    reading.until_lines(5);
    cluster.broker_down(1).unwrap();
    reading.for_a_while(Duration::from_millis(200));
    let begun = Instant::now();
    reading.stop().unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn passing_errors_of_a_broker_lose_and_repeat_nothing() {
    let (cluster, broker) = mock(2);
    let sender = sender(&broker, "logs");
    let settings = settings(&broker, "logs");
    let mut reading = Reading::start(&settings);
    for round in 0..5 {
        sender.lines(
            round % 2,
            &numbered(
                usize::try_from(round).unwrap() * 20,
                20 + usize::try_from(round).unwrap() * 20,
            ),
        );
        use RDKafkaRespErr as E;
        cluster.request_errors(
            RDKafkaApiKey::Fetch,
            &[
                E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                E::RD_KAFKA_RESP_ERR__TRANSPORT,
            ],
        );
        cluster.request_errors(
            RDKafkaApiKey::OffsetCommit,
            &[
                E::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
                E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            ],
        );
        cluster.request_errors(RDKafkaApiKey::Heartbeat, &[E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR]);
        reading.until_lines(20 + 20 * usize::try_from(round).unwrap());
    }
    reading.for_a_while(Duration::from_millis(500));
    let mut lines = reading.lines();
    assert_eq!(lines.len(), 100);
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 100);
    // Commits are sent again until they arrive, however many of them the broker has refused.
    let arrived = || {
        let offset = |p| committed(&broker, &settings.group, "logs", p).map(|(offset, _)| offset);
        [0, 1].map(offset) == [Some(60), Some(40)]
    };
    let deadline = Instant::now() + DEADLINE;
    while !arrived() {
        assert!(Instant::now() < deadline, "not all is committed");
        reading.for_a_while(Duration::from_millis(200));
    }
    reading.stop().unwrap();
}

#[test]
fn a_client_that_stops_is_made_anew_and_goes_on() {
    let (cluster, broker) = mock(1);
    let producer = producer(&broker, &[("batch.num.messages", "1")]);
    Sender { producer, topic: "logs" }.lines(0, &numbered(0, 300));
    let mut settings =
        KafkaSettings { stalled_after: Duration::from_secs(3), ..settings(&broker, "logs") };
    // One record a request, so that it can be stopped in the middle.
    settings.connection.properties.insert("fetch.message.max.bytes".into(), "10".into());
    settings.connection.properties.insert("session.timeout.ms".into(), "6000".into());
    let mut reading = Reading::start(&settings);
    reading.until_lines(1);
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN; 500];
    cluster.request_errors(RDKafkaApiKey::Fetch, &errors);
    reading.until("a new client", |reading| {
        reading.notes.iter().any(|note| note.contains("made anew"))
    });
    cluster.clear_request_errors(RDKafkaApiKey::Fetch);
    reading.until_lines(300);
    assert_eq!(reading.lines(), numbered(0, 300));
    reading.stop().unwrap();
}

#[test]
fn refused_at_the_start_is_an_error_and_later_a_failure() {
    let (cluster, broker) = mock(1);
    let settings = settings(&broker, "logs");
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::FindCoordinator, &[refused; 50]);
    let error = Reading::start(&settings).ended().unwrap_err().to_string();
    assert!(error.contains("refuse this client") && error.contains("ACLs"), "{error}");
    cluster.clear_request_errors(RDKafkaApiKey::FindCoordinator);

    let sender = sender(&broker, "logs");
    sender.lines(0, &numbered(0, 5));
    let mut reading = Reading::start(&settings);
    reading.until_lines(5);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::Fetch, &[refused; 4]);
    reading.until("a failure", |reading| !reading.failures.is_empty());
    sender.lines(0, &numbered(5, 10));
    reading.until_lines(10);
    assert_eq!(reading.failures.len(), 1, "{:#?}", reading.failures);
    reading.stop().unwrap();
}

#[test]
fn partitions_that_are_added_are_read_from_their_beginning() {
    let broker = broker();
    create(&broker, "logs", 1);
    let settings = quick(KafkaSettings { from: Some(From::Latest), ..settings(&broker, "logs") });
    let mut reading = Reading::start(&settings);
    reading.until("assigned", |reading| reading.assigned.len() == 1);
    let more = rdkafka::admin::NewPartitions::new("logs", 2);
    for made in finish(admin(&broker).create_partitions(&[more], &AdminOptions::new())).unwrap() {
        made.unwrap();
    }
    sender(&broker, "logs").lines(1, &numbered(0, 5));
    reading.until_lines(5);
    assert_eq!(reading.lines(), numbered(0, 5));
    reading.stop().unwrap();
}

#[test]
fn a_deleted_topic_is_waited_for_and_the_others_go_on() {
    let broker = broker();
    create(&broker, "logs", 1);
    create(&broker, "more", 1);
    let mut settings = quick(settings(&broker, "logs"));
    settings.topics.push("more".into());
    let mut reading = Reading::start(&settings);
    reading.until("assigned", |reading| reading.assigned.len() == 2);
    for gone in finish(admin(&broker).delete_topics(&["logs"], &AdminOptions::new())).unwrap() {
        gone.unwrap();
    }
    reading.until("that it is gone", |reading| {
        reading.failures.iter().any(|failure| failure.contains("a topic is gone"))
    });
    sender(&broker, "more").lines(0, &numbered(0, 5));
    reading.until_lines(5);
    create(&broker, "logs", 1);
    sender(&broker, "logs").lines(0, &numbered(5, 10));
    reading.until_lines(10);
    assert_eq!(reading.failures.len(), 1, "{:#?}", reading.failures);
    reading.stop().unwrap();
}

/// All records of a topic: key, headers, value.
pub fn records(
    broker: &str,
    topic: &str,
    count: usize,
) -> Vec<(String, BTreeMap<String, String>, String)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", unique("look"))
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let ids = {
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
        metadata.topics()[0]
            .partitions()
            .iter()
            .map(|partition| partition.id())
            .collect::<Vec<i32>>()
    };
    let mut list = TopicPartitionList::new();
    for id in ids {
        list.add_partition_offset(topic, id, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let mut found = Vec::new();
    while found.len() < count {
        assert!(Instant::now() < deadline, "only {found:#?}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let mut headers = BTreeMap::new();
        for header in message.headers().into_iter().flat_map(rdkafka::message::Headers::iter) {
            headers.insert(header.key.to_owned(), text(header.value));
        }
        found.push((text(message.key()), headers, text(message.payload())));
    }
    found
}

pub fn kill(child: &std::process::Child, signal: &str) {
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn the_program_reads_a_topic_and_writes_its_actions_to_another() {
    let broker = broker();
    create(&broker, "logs", 1);
    create(&broker, "actions", 3);
    let lines: Vec<String> =
        failed_logins(25, 1, "203.0.113.7").lines().map(str::to_owned).collect();
    sender(&broker, "logs").lines(0, &lines);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "source: {{ kafka: {{ brokers: [\"{broker}\"], topics: [logs], group: g }} }}\n\
         sinks:\n  - stdout: {{ output: json }}\n  - kafka: {{ brokers: [\"{broker}\"], topic: actions }}\n"
    );
    std::fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    let child = piped(folder.path(), &["run", "--summary", "json"]);
    let deadline = Instant::now() + DEADLINE;
    while committed(&broker, "g", "logs", 0).is_none_or(|(offset, _)| offset < 25) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(100));
    }
    kill(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
    let printed = stdout(&output);
    assert!(printed.lines().count() >= 2, "{printed}");
    let sent = records(&broker, "actions", printed.lines().count());
    let mut values: Vec<&str> = sent.iter().map(|(_, _, value)| value.as_str()).collect();
    let mut lines: Vec<&str> = printed.lines().collect();
    values.sort_unstable();
    lines.sort_unstable();
    assert_eq!(values, lines);
    for (key, headers, value) in &sent {
        let action: serde_json::Value = serde_json::from_str(value).unwrap();
        assert_eq!(headers["id"], action["id"]);
        assert_eq!(headers["op"], action["op"]);
        let kind = action["target"]["kind"].as_str().unwrap();
        let expected = action["target"]["value"].as_str();
        assert_eq!(*key, expected.map_or(kind.to_owned(), |value| format!("{kind}:{value}")));
    }
    // The same topic, replayed between times, gives the same lines and commits nothing.
    let output = run(
        &["replay", "--kafka", &broker, "--topic", "logs", "--output", "json", "--summary", "none"],
        b"",
    );
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), printed);
    let output = run(
        &[
            "replay",
            "--kafka",
            &broker,
            "--topic",
            "logs",
            "--from",
            "1970-01-01T00:00:01.010Z",
            "--to",
            "1970-01-01T00:00:01.020Z",
            "--output",
            "json",
            "--summary",
            "json",
        ],
        b"",
    );
    let summary: serde_json::Value =
        serde_json::from_str(stderr(&output).lines().last().unwrap()).unwrap();
    assert_eq!(summary["lines"]["total"], 10);
    // A day begins at midnight where the records' times are meant: an hour after they were sent.
    for (bound, total) in [("--to", 25), ("--from", 0)] {
        let args =
            ["replay", "--kafka", &broker, "--topic", "logs", "--summary", "json", "--quiet"];
        let elsewhere = tempfile::tempdir().unwrap();
        let mut replay = portcullis(elsewhere.path());
        replay.args(args).args([bound, "1970-01-01"]).env("PORTCULLIS_TIMEZONE", "-01:00");
        let output = replay.output().unwrap();
        let summary: serde_json::Value =
            serde_json::from_str(stderr(&output).lines().last().unwrap()).unwrap();
        assert_eq!(summary["lines"]["total"], total, "{bound}");
    }
    assert_eq!(committed(&broker, "portcullis", "logs", 0), None);
}

#[test]
fn what_the_program_is_told_wrong_about_kafka_it_says() {
    let broker = broker();
    create(&broker, "app-logs", 1);
    let says = |args: &[&str], parts: &[&str]| {
        let output = run(args, b"");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{args:?}: no `{part}` in {}", stderr(&output));
        }
    };
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _closed = closed;
    says(
        &["run", "--kafka", &broker, "--topic", "app-log"],
        &["no topic `app-log`", "`app-logs`?"],
    );
    says(&["run", "--kafka", &broker], &["no topic: say --topic"]);
    says(&["run", "--topic", "x"], &["say --kafka HOSTS"]);
    says(&["run", "--kafka", "a b:1", "--topic", "x"], &["--kafka", "names no host"]);
    let no_port = ["--kafka: `host` has no port; did you mean `host:9092`?"];
    says(&["run", "--kafka", "k:1,host", "--topic", "x"], &no_port);
    says(&["replay", "--kafka", "host", "--topic", "x"], &no_port);
    says(
        &["run", "--kafka", &broker, "--topic", "a/b"],
        &["no name of a topic", "begins with `^`"],
    );
    says(&["run", "--kafka", &broker, "--topic", "x", "--from", "end"], &["earliest, latest"]);
    says(&["run", "--follow", "x", "--from", "earliest"], &["beginning or end"]);
    let bad_day = ["`2026-02-30` is no time", "a day like 2026-11-24"];
    says(&["replay", "--kafka", &broker, "--topic", "x", "--to", "2026-02-30"], &bad_day);
    says(
        &[
            "replay",
            "--kafka",
            &broker,
            "--topic",
            "x",
            "--from",
            "2026-01-02T00:00:00Z",
            "--to",
            "2026-01-01T00:00:00Z",
        ],
        &["--from must lie before --to"],
    );
    says(&["replay"], &["<FILE>"]);
    let folder = tempfile::tempdir().unwrap();
    let config = |text: &str, parts: &[&str]| {
        std::fs::write(folder.path().join("portcullis.yaml"), text).unwrap();
        let output = run_in(folder.path(), &["run"], b"");
        assert_eq!(output.status.code(), Some(2), "{text}: {}", stderr(&output));
        for part in parts {
            assert!(stderr(&output).contains(part), "{text}: no `{part}` in {}", stderr(&output));
        }
    };
    config(
        "source: { kafka: { brokers: [k:1], topics: [x], properties: { enable.auto.commit: true } } }",
        &["`enable.auto.commit` cannot be set", "only when the effect"],
    );
    config("source: { kafka: { topics: [x] } }", &["needs `brokers`"]);
    config(
        "source: { kafka: { brokers: [k:1, host], topics: [x] } }",
        &["`source.kafka.brokers`: `host` has no port", ":1:35", "did you mean `host:9092`?"],
    );
    config(
        "sinks: [{ kafka: { brokers: [\"[::1]\"], topic: x } }]",
        &["`brokers`: `[::1]` has no port", "did you mean `[::1]:9092`?"],
    );
    config("source: { kafka: { brokers: [k:1], topics: [x] }, follow: true }", &["both `kafka`"]);
    config("source: { kafka: { brokers: [k:1], topics: [\"^a(\"] } }", &["no regular expression"]);
    config(
        "source: { kafka: { brokers: [k:1], topics: [x], form: latest } }",
        &["did you mean `from`?"],
    );
    config(
        "source: { kafka: { brokers: [k:1], topics: [x], properties: { sasl.password: { env: NOT_SET_HERE } } } }",
        &["NOT_SET_HERE"],
    );
    config(
        "sinks: [{ kafka: { brokers: [k:1], topic: x, properties: { acks: 1 } } }]",
        &["`acks` cannot be set"],
    );
    config("sinks: [{ kafka: { brokers: [k:1] } }]", &["needs `brokers` and `topic`"]);
    let token = |token: &str, properties: &str, parts: &[&str]| {
        let with = format!("oauth_token: {token}, properties: {{ {properties} }}");
        config(&format!("source: {{ kafka: {{ brokers: [k:1], topics: [x], {with} }} }}"), parts);
        config(&format!("sinks: [{{ kafka: {{ brokers: [k:1], topic: x, {with} }} }}]"), parts);
    };
    let (file, tls) = ("{ file: token }", "security.protocol: SASL_SSL");
    token("eyJhbGciOiJub25lIn0", tls, &["must say where", "{ file: PATH }"]);
    token("{ file: a, env: b }", tls, &["needs a value, `env` or `file`"]);
    token(file, "", &["without SASL", "SASL_SSL"]);
    let plain = format!("{tls}, sasl.mechanism: PLAIN");
    token(file, &plain, &["`properties.sasl.mechanism`", "say OAUTHBEARER"]);
    let both = format!("{tls}, enable.sasl.oauthbearer.unsecure.jwt: true");
    token(file, &both, &["both `oauth_token` and", "unsecure.jwt` out"]);
}

#[test]
fn a_sink_waits_for_its_broker_only_once_and_delivers_in_order_when_it_is_back() {
    let (cluster, broker) = mock(1);
    let connection = Connection { brokers: vec![broker.clone()], ..Connection::default() };
    let mut sink = KafkaSink::open(&connection, "logs", Output::Json).unwrap();
    let note = |n: i64| {
        let text = format!("note {n}");
        Action::note("limit", Severity::P1, Urgency::Warning, n, 0, text)
    };
    sink.deliver(&note(0)).unwrap();
    sink.flush().unwrap();
    cluster.broker_down(1).unwrap();
    let begun = Instant::now();
    for n in 1..5 {
        sink.deliver(&note(n)).unwrap();
        let error = sink.flush().unwrap_err().to_string();
        assert!(error.contains("not delivered yet"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    cluster.broker_up(1).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while sink.flush().is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let values: Vec<String> =
        records(&broker, "logs", 5).into_iter().map(|(_, _, value)| value).collect();
    let expected: Vec<String> = (0..5).map(|n| note(n).json()).collect();
    assert_eq!(values, expected);
}

#[test]
fn dead_letters_say_where_they_came_from_and_why() {
    let broker = broker();
    create(&broker, "bad", 1);
    let mut connection = Connection { brokers: vec![broker.clone()], ..Connection::default() };
    connection.properties.insert("fetch.wait.max.ms".into(), "100".into());
    let mut letters = DeadLetters::open(&connection, "bad").unwrap();
    let origin = Origin { topic: "logs", partition: 3, offset: 42 };
    letters.put(origin, "no json", b"{broken").unwrap();
    letters.flush().unwrap();
    let (key, headers, value) = records(&broker, "bad", 1).remove(0);
    assert_eq!((key.as_str(), value.as_str()), ("logs:3", "{broken"));
    let expected = [("offset", "42"), ("partition", "3"), ("reason", "no json"), ("topic", "logs")];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    assert_eq!(headers, expected);
    let error = DeadLetters::open(&connection, "not-there").err().map(|error| error.to_string());
    assert!(error.is_none_or(|error| error.contains("--create --topic not-there")));
}
