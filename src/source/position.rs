//! Where reading goes on after a restart.
//!
//! A position is durable only together with what was counted up to it, so a source never keeps one
//! by itself: it gives each [`Batch`](super::Batch) the place behind it, and whoever makes the
//! effect of the batch last keeps the place in the same transaction.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The place in a source behind what was read of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// In a file.
    File(FilePosition),
    /// In a partition of a Kafka topic.
    Partition(PartitionPosition),
}

/// A place in a file, with enough to know the file again whatever its name is by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    /// The name it had last, by which its successor is known.
    pub path: PathBuf,
    /// The file system it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Bytes read.
    pub offset: u64,
    /// The place is inside a line of which the beginning was given: what follows up to the next
    /// newline belongs to it.
    pub inside: bool,
    /// It had lost its name and was read to its end: if it is not found again, nothing is missing.
    #[serde(default)]
    pub settled: bool,
    /// Its first bytes, none behind `offset` or from a zero byte on.
    pub head: Print,
    /// The last bytes before `offset`, none up to a zero byte.
    pub last: Print,
}

/// Bytes as they are remembered: their number and a hash, since a log may hold anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many.
    pub len: usize,
    /// The first 32 hex digits of their SHA-256.
    pub sha256: String,
}

/// A place in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionPosition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record to read.
    pub next: i64,
}

/// Where a line of a partition came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOrigin {
    /// Its record's offset.
    pub offset: i64,
    /// The record's own timestamp, by the broker or by whoever sent it, in microseconds since 1970;
    /// none if it has none.
    pub time: Option<i64>,
}
