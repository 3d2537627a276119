//! The sink `crowdsec`.

use super::Context;
use super::remote::Remote;
use crate::yaml::{Checker, Key, Node};

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options;

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, _value: &Node) -> Option<Self> {
        let message = "the sink `crowdsec` cannot be used yet in this version";
        checker.key(key, message, Some("take it out; nothing would be sent".into()));
        None
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        "crowdsec".to_owned()
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, _context: &Context) -> Result<Box<dyn Remote>, String> {
        Err("it cannot be used yet in this version".to_owned())
    }
}
