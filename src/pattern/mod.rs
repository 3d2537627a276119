//! A record becomes events: which named patterns it is, and who it speaks of. Pure.
//!
//! [`spec`] is a pattern as written, [`prefilter`] proves on raw bytes that most lines cannot matter,
//! [`set`] matches records. What an event says about identity is settled here, by the order of
//! trust: structure before text, agreement before either, and nothing where two readings differ.

pub mod filter;
pub mod prefilter;
pub mod set;
pub mod spec;
pub mod template;

use std::net::IpAddr;
use std::sync::Arc;

/// Raised when a message can be read in two ways, or a record contradicts itself.
pub const LOG_INJECTION: &str = "LOG_INJECTION";
/// Raised when a message begins like a pattern and is none.
pub const PATTERN_NEAR_MISS: &str = "PATTERN_NEAR_MISS";
/// The events that no pattern file declares.
pub const BUILT_IN: [&str; 2] = [LOG_INJECTION, PATTERN_NEAR_MISS];

/// Largest weight of one line.
pub const WEIGHT_MAX: u32 = 10_000;

/// A pattern's number in its [`set::PatternSet`]; built-in events come first.
pub type PatternId = u16;

/// What may be done to an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Anything.
    #[default]
    Good,
    /// It may have been written by the client: counts and alerts, never blocks.
    Unproven,
    /// Its kind of address names no single host: counts and alerts, never blocks.
    NoHost,
}

/// The address of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventIp {
    /// Canonical.
    pub ip: IpAddr,
    /// What may be done to it.
    pub standing: Standing,
}

/// What an action shows of an event; shared by all windows that hold it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The exact address.
    pub ip: Option<IpAddr>,
    /// The account, by name or else by id.
    pub user: Option<Arc<str>>,
    /// A capture named reason.
    pub reason: Option<Arc<str>>,
    /// The request.
    pub request_id: Option<Arc<str>>,
    /// What may be done to the address.
    pub standing: Standing,
}

/// A named event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Which pattern.
    pub pattern: PatternId,
    /// For how many it counts, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// The client.
    pub ip: Option<EventIp>,
    /// The account by name.
    pub user: Option<Arc<str>>,
    /// The account by id.
    pub user_id: Option<Arc<str>>,
    /// The client's country.
    pub country: Option<Arc<str>>,
    /// Values of other fields that loaded rules count, by their number in
    /// [`set::PatternSet::counted`].
    pub values: Vec<(u16, Arc<str>)>,
    /// Numbers of the rules that count it, ascending.
    pub rules: Vec<u16>,
    /// What actions show of it.
    pub evidence: Arc<Evidence>,
}
