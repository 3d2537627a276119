//! What lasts: the SQLite database of a state directory.
//!
//! With `state_dir`, everything that a restart needs is in `portcullis.db` there: ordinary tables
//! that any SQLite tool shows (`sqlite3 -readonly portcullis.db .schema`). This module stores and
//! guards; what the bytes of entries and snapshots mean is the engine's business.
//!
//! # What survives
//!
//! A [`Commit`] is one transaction: the journal row of its events, the actions that followed, the
//! positions of the sources behind them and the sinks' cursors. After `kill -9`, power loss, a full
//! disk or a failed sync, the database holds every commit that was acknowledged, whole, and perhaps
//! the one that was under way, whole as well. The database is in WAL mode with `synchronous=FULL`, so
//! an acknowledged commit has been synced.
//!
//! A commit that failed may be given again and is never applied twice: each has a number, and where
//! the outcome of one is unknown (the error came from `COMMIT` itself), [`Db`] opens the database
//! anew and looks whether its number is there.
//!
//! # Tables
//!
//! | table | one row | |
//! |---|---|---|
//! | `meta` | for the database | format, when and by which version it was made |
//! | `head` | for the database | numbers of the last commit, journal row and action; sums over tables |
//! | `dictionaries` | per set of patterns and rules | what numbers inside entries and snapshots mean, and the rules and guards that judged them |
//! | `journal` | per commit with events | its events, as the engine writes them |
//! | `snapshots` | per finished snapshot | what it contains, its size and SHA-256 |
//! | `snapshot_parts` | per MiB of a snapshot | a frame of zstd |
//! | `actions` | per action line | the outbox: the line itself, in order |
//! | `decisions` | per start | who was acted against, until when, and when that ended |
//! | `cursors` | per sink | the last action that it has finished |
//! | `positions` | per source | where reading goes on, as JSON |
//!
//! Times of events are microseconds since 1970 in UTC; `made` and `created` are wall time as text.
//!
//! # How damage is told
//!
//! SQLite's own pages carry no checksum, so every row carries one (`checksum`, the first eight bytes
//! of SHA-256 over the table's name and all other columns), numbers run without a gap, and `head`
//! keeps sums over the tables whose rows come and go. So a row that changed, vanished or came back is
//! found: opening or reading says [`StateError::Damaged`] instead of giving something that was never
//! committed. A torn or flipped write-ahead log costs the commits behind the place, as if they had
//! never been made: what is left is a state that was, and sources are read again from there.
//!
//! # Format versions
//!
//! `meta` has the same columns in every format, so that a newer format can be told from damage. This
//! version reads and writes format 1 and refuses others.
//!
//! # Who may read it
//!
//! The files hold accounts and addresses, and who can write them can unblock anyone. So they are 0600,
//! and are made so again at every start. A directory that Portcullis makes is 0700. One that was there
//! is left as it is, since its mode may be an operator's or service manager's decision, and others
//! cannot read the files in it; but if others may write in it, they could put another database in
//! place, and that is warned about.

mod check;
mod connection;
mod db;
mod error;
mod schema;
mod seal;
mod snapshots;

pub use db::{Compacted, Db};
pub use error::StateError;
pub use snapshots::{NewSnapshot, Pruned, Snapshots};

use crate::action::{Action, Op};
use crate::decode::time::{self, Micros, When};
use crate::source::position::Position;
use serde::Serialize;

/// The database's file in the directory.
pub const FILE: &str = "portcullis.db";
/// The file whose lock says that the directory is in use; it holds the number of the process.
pub const LOCK: &str = "portcullis.lock";

/// What is to last together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commit<'c> {
    /// The events, as the engine writes them; empty for a commit without events, which has no row in
    /// the journal.
    pub entries: &'c [u8],
    /// How many events.
    pub count: u64,
    /// The row of the dictionary that `entries` was written with.
    pub dictionary: i64,
    /// The actions that followed, in order.
    pub actions: &'c [ActionRow],
    /// Where reading goes on, by the number of the source.
    pub positions: &'c [(u32, Position)],
    /// Sources whose position is no longer wanted.
    pub gone: &'c [u32],
    /// The last action that a sink has finished, by the name of the sink.
    pub cursors: &'c [(String, i64)],
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its row in the journal, if it had events.
    pub journal: Option<i64>,
    /// The number of its first action; the others follow. Without actions, the number that the next
    /// action will have.
    pub actions_from: i64,
}

/// An action with what the history of decisions needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionRow {
    /// The action's id.
    pub id: String,
    /// What happens.
    pub op: Op,
    /// The id of the start it belongs to.
    pub decision: Option<String>,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// `block`, `lock`, `require_2fa`, `alert`, `under_attack`.
    pub action: String,
    /// The target's kind.
    pub kind: String,
    /// The target's value.
    pub value: Option<String>,
    /// The rule's pack.
    pub pack: String,
    /// The rule.
    pub rule: String,
    /// Its time.
    pub time: Micros,
    /// Until when the decision lasts.
    pub until: Option<Micros>,
    /// Of an end: how often the rules crossed meanwhile.
    pub crossings: Option<u64>,
    /// The line (schema 1).
    pub line: String,
}

impl ActionRow {
    /// The row of `action`.
    pub fn of(action: &Action) -> Self {
        // Action lines carry times as Portcullis itself writes them, always whole and in UTC.
        let micros = |text: &str| time::parse(text, &time::Zone::default()).and_then(When::first);
        Self {
            id: action.id.clone(),
            op: action.op,
            decision: action.decision.clone(),
            mode: action.mode.to_owned(),
            action: action.action.to_owned(),
            kind: action.target.kind.clone(),
            value: action.target.value.clone(),
            pack: action.pack.clone(),
            rule: action.rule.clone(),
            time: micros(&action.time).unwrap_or_default(),
            until: action.until.as_deref().and_then(micros),
            crossings: action.crossings,
            line: action.json(),
        }
    }
}

/// An action in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAction {
    /// Its number; they run without a gap.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// The line.
    pub line: String,
}

/// A decision of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDecision {
    /// The id of its start.
    pub id: String,
    /// The rule's pack.
    pub pack: String,
    /// The rule that started it.
    pub rule: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// `block`, `lock`, `require_2fa`, `alert`, `under_attack`.
    pub action: String,
    /// The target's kind.
    pub kind: String,
    /// The target's value.
    pub value: Option<String>,
    /// When it started.
    pub started: Micros,
    /// Until when, as the last line said.
    pub until: Option<Micros>,
    /// When it ended, if that was said.
    pub ended: Option<Micros>,
    /// How often its rules crossed, known at its end.
    pub crossings: Option<u64>,
}

/// A decision of the history and the line with which it started, as long as that is kept.
pub type Told = (StoredDecision, Option<String>);

/// A row of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRow<'r> {
    /// Its number; they run without a gap.
    pub id: i64,
    /// The dictionary that `entries` was written with.
    pub dictionary: i64,
    /// How many events.
    pub events: u64,
    /// The events.
    pub entries: &'r [u8],
}

/// A snapshot that was finished. Its numbers are checked together with its content by
/// [`Db::snapshot`], not before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Its number; later ones have higher numbers.
    pub id: i64,
    /// The last row of the journal that is contained in it.
    pub journal: i64,
    /// The dictionary that it was written with.
    pub dictionary: i64,
    /// Events of the journal between the snapshot before and this one.
    pub events: u64,
    /// Keys in it.
    pub keys: u64,
    /// Its size.
    pub bytes: u64,
    /// Its size as stored.
    pub stored: u64,
    /// When it was made, wall time.
    pub made: String,
    /// Seconds since then.
    pub age_s: i64,
}

/// What a state directory holds, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// The format of the database.
    pub format: i64,
    /// When it was made, wall time.
    pub created: String,
    /// The version of Portcullis that made it.
    pub version: String,
    /// The process that has it open, if one has.
    pub in_use_by: Option<u32>,
    /// Bytes of the database.
    pub bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Commits so far.
    pub commits: i64,
    /// The journal.
    pub journal: JournalInfo,
    /// Snapshots, the newest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// The outbox.
    pub actions: ActionsInfo,
    /// The sinks' cursors.
    pub cursors: Vec<CursorInfo>,
    /// The decisions.
    pub decisions: DecisionsInfo,
    /// The sources' positions.
    pub positions: Vec<PositionInfo>,
}

/// Of the journal.
#[derive(Debug, Clone, Serialize)]
pub struct JournalInfo {
    /// Rows that are kept.
    pub rows: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The last row.
    pub last: i64,
    /// Events in rows that no snapshot contains, which a restart applies again.
    pub behind_snapshot: u64,
}

/// Of the outbox.
#[derive(Debug, Clone, Serialize)]
pub struct ActionsInfo {
    /// Actions that are kept.
    pub kept: u64,
    /// The number of the last action.
    pub last: i64,
}

/// Of a sink's cursor.
#[derive(Debug, Clone, Serialize)]
pub struct CursorInfo {
    /// The sink.
    pub sink: String,
    /// The last action it has finished.
    pub seq: i64,
    /// Actions that wait for it.
    pub behind: i64,
}

/// Of the decisions.
#[derive(Debug, Clone, Serialize)]
pub struct DecisionsInfo {
    /// Decisions whose end was not said.
    pub active: u64,
    /// Decisions of the history.
    pub ended: u64,
    /// When the newest started.
    pub newest: Option<String>,
}

/// Of a source's position.
#[derive(Debug, Clone, Serialize)]
pub struct PositionInfo {
    /// The source's number.
    pub source: u32,
    /// The file or partition.
    pub name: String,
    /// Where reading goes on.
    pub position: Position,
}
