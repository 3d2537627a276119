//! A record becomes events: which named patterns it is, and who it speaks of. Pure.
//!
//! [`spec`] is a pattern as written, [`prefilter`] proves on raw bytes that most lines cannot matter,
//! [`set`] matches records. What an event says about identity is settled here, by the order of
//! trust: structure before text, agreement before either, and nothing where two readings differ.

pub mod event;
pub mod filter;
pub mod prefilter;
pub mod set;
pub mod sieve;
pub mod spec;
pub mod template;

pub use event::{Event, EventIp, EventView, Events};

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
