//! Where reading goes on after a restart.
//!
//! A position is durable only together with what was counted up to it, so a source never keeps one
//! by itself: it gives each [`Batch`](super::Batch) the place behind it, and whoever makes the
//! effect of the batch last keeps the place in the same transaction.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A path as text where it is text, else as its bytes: a name may hold any, and one file must not keep
/// the positions of all from lasting.
mod name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(PathBuf),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => text.serialize(serializer),
            None => path.as_os_str().as_bytes().serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Name::deserialize(deserializer)? {
            Name::Text(path) => path,
            Name::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

/// The place in a source behind what was read of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// In a file.
    File(FilePosition),
    /// In a partition of a Kafka topic.
    Partition(PartitionPosition),
    /// In the logs of a Railway environment.
    Railway(RailwayPosition),
}

/// A place in a file, with enough to know the file again whatever its name is by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    /// The name it had last, by which its successor is known.
    #[serde(with = "name")]
    pub path: PathBuf,
    /// The file system it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, if its file system knows: a number is used again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<u64>,
    /// Bytes read.
    pub offset: u64,
    /// The place is inside a line of which the beginning was given: what follows up to the next
    /// newline belongs to it.
    pub inside: bool,
    /// It had lost its name and was read to its end, or it was said that the rest of it is lost: if it
    /// is not found again, nothing is missing.
    #[serde(default)]
    pub settled: bool,
    /// It is settled and had no other name that fits, so that `path` is the one it lost.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nameless: bool,
    /// When it was written last, in nanoseconds since 1970; of a file that was found to be lost, when
    /// any in its folder was. If it is gone, those that got its name and were written later are unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Its first bytes, none behind `offset` or from a zero byte on.
    pub head: Print,
    /// The last bytes before `offset`, none up to a zero byte.
    pub last: Print,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Bytes as they are remembered: their number and a hash, since a log may hold anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    /// How many.
    pub len: usize,
    /// The first 32 hex digits of their SHA-256.
    pub sha256: String,
}

/// A place in the logs of a Railway environment: everything up to there was read. Logs arrive out of order,
/// so reading goes on a little before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RailwayPosition {
    /// The environment's id.
    pub environment: String,
    /// The newest time that was read, RFC 3339 with nanoseconds.
    pub seen: String,
    /// The same of HTTP logs, if any was read.
    #[serde(default)]
    pub http: Option<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_file_is_written_and_read_again() {
        use std::os::unix::ffi::OsStringExt;
        let names: [&[u8]; 3] =
            [b"/logs/app.jsonl", "/logs/\u{e4}.log".as_bytes(), b"/logs/\xff\xfe"];
        for name in names {
            let path = PathBuf::from(std::ffi::OsString::from_vec(name.to_vec()));
            let print = Print::default();
            let position = Position::File(FilePosition {
                path,
                device: 1,
                inode: 2,
                born: Some(3),
                offset: 3,
                inside: true,
                settled: false,
                nameless: true,
                written: Some(4),
                head: print.clone(),
                last: print,
            });
            let json = serde_json::to_string(&position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&json).unwrap(), position, "{json}");
        }
        let text = r#"{"path":"/logs/app.jsonl","device":1,"inode":2,"offset":3,"inside":false,"head":{"len":0,"sha256":""},"last":{"len":0,"sha256":""}}"#;
        let read: FilePosition = serde_json::from_str(text).unwrap();
        assert_eq!(read.path, PathBuf::from("/logs/app.jsonl"));
    }
}
