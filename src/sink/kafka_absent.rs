//! What stands in for the Kafka producers in a build without Kafka: nothing can be opened.

use crate::kafka::{Connection, NOT_BUILT};
use std::convert::Infallible;
use std::io;

/// Where a record came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Copies of records; there are none.
#[derive(Debug)]
pub struct DeadLetters(Infallible);

impl DeadLetters {
    /// Says that Kafka is not in this build.
    ///
    /// # Errors
    /// Always.
    pub fn open(_: &Connection, _: &str) -> io::Result<Self> {
        Err(io::Error::other(NOT_BUILT))
    }

    /// Is never called.
    ///
    /// # Errors
    /// Never.
    pub fn put(&mut self, _: Origin<'_>, _: &str, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }

    /// Is never called.
    ///
    /// # Errors
    /// Never.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
