//! Partitions of Kafka topics, read as one member of a consumer group, or between two times.
//!
//! A record's value is one line. Newlines inside it become spaces, so that text inside one record
//! can never pass for a second one; a newline at its end is dropped; a value longer than
//! `max_line` is an oversized line. A record without a value (a tombstone) is an empty line.
//!
//! Where a partition is read from, the first of these that is there:
//!
//! 1. the position that is stored together with the state (while the program runs: what it has
//!    applied, or what the group has committed since, if another member had the partition);
//! 2. the offset that the group has committed;
//! 3. `from`, else the beginning. `from: latest` is for what is there when the group begins: a
//!    partition that is added later is read from its beginning.
//!
//! A known place that the log no longer holds is never replaced in silence: [`KafkaError::Expired`]
//! ends the reading, and only `--from` on the command line ([`KafkaSettings::from_chosen`]) goes on.
//!
//! What happens when
//!
//! * **no broker can be reached**: at the start that is an error after
//!   [`KafkaSettings::start_max`]; later it is waited out, said once, and said when it is over;
//! * **a topic does not exist**: at the start an error with the nearest name (a pattern waits); a
//!   topic that is deleted later is waited for, said once. A topic made anew under the old name has
//!   other records under the old offsets, so a place behind its end is `Expired`;
//! * **partitions are added**: they are found within a minute and read from their beginning;
//! * **the brokers refuse us** (password, ACL): before anything was assigned an error; later a
//!   counted failure, said once, and tried again;
//! * **reading stops** although there is more (client libraries have had such bugs): a watchdog
//!   makes the client anew and goes on from what was applied;
//! * **another consumer comes with the same `instance_id`**: the older one ends with an error, and
//!   what it has not committed is read by the newer one.
//!
//! Offsets are committed once a second, on revocation and at the end, and never beyond what
//! [`Progress`] says is done; the time up to which the stream was counted goes along as metadata
//! (`w=<microseconds>`).

#[cfg(feature = "kafka")]
mod consumer;

use super::lines::Batch;
use super::position::PartitionPosition;
use crate::decode::time::{self, Micros};
use crate::kafka::{Connection, NOT_BUILT};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where to begin in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the oldest record there is.
    Earliest,
    /// With what comes from now on.
    Latest,
    /// With the first record of this time or later.
    Time(Micros),
}

impl From {
    /// Reads `earliest`, `latest`, a time or a day.
    pub fn read(text: &str, zone: &time::Zone) -> Option<Self> {
        match text {
            "earliest" => Some(From::Earliest),
            "latest" => Some(From::Latest),
            _ => time::parse_moment(text, zone).map(From::Time),
        }
    }
}

/// Where to end in every partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Where the partition ends when reading begins.
    End,
    /// Before the first record of this time or later, or at the end as above.
    Time(Micros),
}

/// What to read, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// How to reach the cluster.
    pub connection: Connection,
    /// Names, or regular expressions that begin with `^`.
    pub topics: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Makes the member a static one: it keeps its partitions over a restart.
    pub instance_id: Option<String>,
    /// Where to begin without a known place; none: with the oldest record.
    pub from: Option<From>,
    /// `from` was said for this start, and holds also where a known place is gone.
    pub from_chosen: bool,
    /// Read up to there, as no member of a group, and commit nothing.
    pub until: Option<Until>,
    /// Longest line, bytes.
    pub max_line: usize,
    /// Bytes of records that may wait to be applied, in all partitions together.
    pub buffer: usize,
    /// Topic to which records that cannot be read are copied.
    pub dead_letter: Option<String>,
    /// How long a partition that has been read to its end holds the others back, microseconds.
    pub idle_after: Micros,
    /// How far out of order a partition may be, microseconds; none: 2 s with several partitions,
    /// else nothing.
    pub reorder: Option<Micros>,
    /// How long to look for a broker at the start.
    pub start_max: Duration,
    /// Silence of a partition that has more to read after which the client is made anew.
    pub stalled_after: Duration,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            connection: Connection::default(),
            topics: Vec::new(),
            group: "portcullis".to_owned(),
            instance_id: None,
            from: None,
            from_chosen: false,
            until: None,
            max_line: 1 << 20,
            buffer: 64 << 20,
            dead_letter: None,
            idle_after: 5_000_000,
            reorder: None,
            start_max: Duration::from_secs(30),
            stalled_after: Duration::from_secs(60),
        }
    }
}

/// What the source tells, in the order in which it happened.
#[derive(Debug, Clone)]
pub enum KafkaEvent {
    /// A partition is ours, and is read from an offset. `source` stays the same for a partition as
    /// long as the program runs, and over restarts if it is among the known ones.
    Assigned {
        /// Its number.
        source: u32,
        /// Its topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// The offset of the first record that will be read.
        from: i64,
    },
    /// A partition is about to go to another member. What is applied of it within
    /// [`REVOKE_MAX`] is still committed; what is not, the other member reads again.
    Revoked {
        /// Its number.
        source: u32,
    },
    /// A partition is no longer ours: what was not applied is read by somebody else.
    Lost {
        /// Its number.
        source: u32,
    },
    /// Records of one partition, each a line, with its origin in `records` and the place behind
    /// them in `mark`.
    Batch(Batch),
    /// Everything that was in the partition has been handed over; with `until`, everything up to
    /// there. Holds until the next batch of this source.
    ReachedEnd {
        /// Its number.
        source: u32,
    },
    /// For the log.
    Note(String),
    /// Records that are in the topics and have not been handed over, once a second.
    Lag(Lag),
    /// A failure to be counted; said once until it is over.
    Failed(String),
}

/// How far behind the reading is, in records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lag {
    /// Per source, for those of which the end is known.
    pub sources: Vec<(u32, i64)>,
    /// Their sum.
    pub total: i64,
}

/// How far one partition has been applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// The offset behind the last record whose effect lasts: what may be committed.
    pub next: i64,
    /// The time up to which the stream was counted then.
    pub watermark: Option<Micros>,
    /// Bytes handed over and not yet let go of.
    pub held: u64,
}

/// Shared with whoever applies: what may be committed, and how much is waiting.
#[derive(Debug, Default)]
pub struct Progress(Mutex<BTreeMap<u32, Done>>);

impl Progress {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The effect of everything before `next` lasts, at the time `watermark` of the stream.
    pub fn applied(&self, source: u32, next: i64, watermark: Option<Micros>) {
        let mut all = self.lock();
        let done = all.entry(source).or_default();
        if next >= done.next {
            done.next = next;
            done.watermark = watermark.or(done.watermark);
        }
    }

    /// A batch of this [`weight`] takes no memory any more.
    pub fn released(&self, source: u32, weight: u64) {
        let mut all = self.lock();
        let done = all.entry(source).or_default();
        done.held = done.held.saturating_sub(weight);
    }

    /// What is done of a partition.
    pub fn of(&self, source: u32) -> Option<Done> {
        self.lock().get(&source).copied()
    }

    /// A partition is read from `next`. What is held of an earlier assignment is still held.
    pub fn begin(&self, source: u32, next: i64) {
        let mut all = self.lock();
        let done = all.entry(source).or_default();
        (done.next, done.watermark) = (next, None);
    }

    /// A batch of this [`weight`] is handed over.
    pub fn handed_over(&self, source: u32, weight: u64) {
        self.lock().entry(source).or_default().held += weight;
    }
}

/// What a batch takes of [`KafkaSettings::buffer`], bytes.
pub fn weight(batch: &Batch) -> u64 {
    let origins = size_of_val(batch.records.as_slice());
    u64::try_from(batch.bytes.len() + origins).unwrap_or(u64::MAX)
}

/// How long a revocation waits for what was handed over to be applied.
pub const REVOKE_MAX: Duration = Duration::from_secs(2);
/// How long the end waits for that, for the last commit, for leaving the group, and for a question
/// to the brokers that was under way, in all.
/// [`consume`] returns within this time after it was told to stop, whatever the brokers do.
pub const CLOSE_MAX: Duration = Duration::from_secs(12);

/// Why reading cannot begin, or cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// Kafka is not in this build.
    #[error("{NOT_BUILT}")]
    NotBuilt,
    /// The client refuses its settings.
    #[error("kafka: {0}")]
    Settings(String),
    /// No broker answers.
    #[error(
        "kafka: no broker answers at {brokers} within {seconds} s{why}; expected host:port of at least one \
         broker that runs and can be reached from here"
    )]
    Unreachable {
        /// The brokers.
        brokers: String,
        /// How long it was tried.
        seconds: u64,
        /// What the client says, with ` (` and `)` around it, or nothing.
        why: String,
    },
    /// A topic is not there.
    #[error(
        "kafka: there is no topic `{topic}`, or this user may not see it{near}; to create it: kafka-topics.sh \
         --bootstrap-server {broker} --create --topic {topic} --partitions 3"
    )]
    NoTopic {
        /// The topic.
        topic: String,
        /// A similar name that is there, as `; did you mean ...?`, or nothing.
        near: String,
        /// One of the brokers.
        broker: String,
    },
    /// The brokers refuse us.
    #[error(
        "kafka: the brokers refuse this client: {0}; see user and password under `properties` or `oauth_token`, and the ACLs \
         (READ and DESCRIBE on the topics, READ on the group)"
    )]
    Refused(String),
    /// The log does not hold the place where reading should go on.
    #[error(
        "kafka: {topic} [{partition}]: {whose} goes on at offset {offset}, but the log holds {low} to {high}: \
         {what}. Nothing was skipped. To go on, choose where and say it on the command line: `--from earliest` \
         (all there is), `--from latest` (only new records) or `--from TIME` (for example \
         2026-11-24T08:00:00Z); raise `retention.ms` of the topic if it may happen again"
    )]
    Expired {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Whose place it is.
        whose: &'static str,
        /// The offset to go on from.
        offset: i64,
        /// The first offset that is there.
        low: i64,
        /// The offset behind the last.
        high: i64,
        /// What must have happened.
        what: String,
    },
    /// Another consumer has our name.
    #[error(
        "kafka: another consumer in the group `{group}` has come with the same `instance_id: {instance}` and \
         has the partitions now: give every instance an `instance_id` of its own, or leave it out; nothing is \
         lost, what was not committed is read by the other"
    )]
    Fenced {
        /// The group.
        group: String,
        /// What both are called.
        instance: String,
    },
    /// A pattern cannot be understood.
    #[error("kafka: `{pattern}` is no regular expression: {why}")]
    BadPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The client is at its end.
    #[error("kafka: {0}")]
    Client(String),
}

/// Reads until `stop`, until `on_event` gives false, or, with [`KafkaSettings::until`], until
/// everything up to there was handed over.
///
/// `on_event` is called on this thread and may hold it up only for a moment: a member that does not
/// ask for records for `max.poll.interval.ms` loses its partitions. What waits for long belongs
/// into [`Done::held`]: a partition that holds more than its share of `buffer` is paused, and one
/// that holds nothing never is, so that no partition can be starved by the others.
///
/// After `stop`, this waits up to [`REVOKE_MAX`] for what was handed over to be applied, commits,
/// and leaves the group. It returns within [`CLOSE_MAX`]; a client that does not let go by then is
/// left to the end of the process.
///
/// # Errors
/// When reading cannot begin or cannot go on; see [`KafkaError`].
pub fn consume(
    settings: &KafkaSettings,
    known: &[(u32, PartitionPosition)],
    progress: &Progress,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(KafkaEvent) -> bool,
) -> Result<(), KafkaError> {
    #[cfg(feature = "kafka")]
    return consumer::consume(settings, known, progress, stop, on_event);
    #[cfg(not(feature = "kafka"))]
    {
        let _unused = (settings, known, progress, stop, on_event);
        Err(KafkaError::NotBuilt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_never_goes_back_and_never_below_nothing() {
        let progress = Progress::default();
        progress.begin(3, 10);
        progress.handed_over(3, 100);
        progress.applied(3, 12, Some(7));
        progress.applied(3, 11, Some(99));
        progress.released(3, 500);
        assert_eq!(progress.of(3), Some(Done { next: 12, watermark: Some(7), held: 0 }));
        assert_eq!(progress.of(4), None);
    }

    #[test]
    fn a_beginning_is_a_word_or_a_time() {
        let read = |text| From::read(text, &time::Zone::default());
        assert_eq!(read("earliest"), Some(From::Earliest));
        assert_eq!(read("1970-01-02"), Some(From::Time(86_400_000_000)));
        assert_eq!(read("2025-08-03T22:30:00Z"), Some(From::Time(1_754_260_200_000_000)));
        assert_eq!(read("beginning"), None);
        assert_eq!(read("Aug  3 22:30:00"), None);
    }
}
