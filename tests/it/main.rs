//! The integration tests, one binary. Where a test belongs:
//!
//! * [`output`]: the bytes of the action line and what is derived from them
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests say what is wrong by panicking")]

mod output;
mod support;
