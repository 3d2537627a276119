//! HTTP: what is in force, for those who enforce it, and a door for operators.

pub mod blocklist;
pub mod lapi;

use crate::decide::board::Board;
use crate::engine::ask::Asker;
use crate::yaml::{Checker, Key, Node};
use std::path::PathBuf;
use std::sync::Arc;

/// The key `serve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where to listen, `host:port`.
    pub listen: String,
}

impl ServeConfig {
    /// Reads the key.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, _value: &Node) -> Option<Self> {
        let message = "`serve` cannot be used yet in this version";
        checker.key(key, message, Some("take it out; nothing would obey it".into()));
        None
    }
}

/// What answers are made from.
#[derive(Debug)]
pub struct Shared {
    /// What is in force.
    pub board: Arc<Board>,
    /// The stream.
    pub asker: Asker,
    /// Where history is kept, if anywhere.
    pub state_dir: Option<PathBuf>,
}
