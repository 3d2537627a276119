//! The two halves of the engine.
//!
//! [`scan`] is the parallel half: a batch of lines is tested, decoded and matched on any thread,
//! into items in input order; nothing shared is written. [`order`] is the ordered half: a single
//! writer applies the items in canonical order to the clock, the detector and the ledger. What
//! comes out depends on the input alone, not on how it was cut or by how many threads it was read.

pub mod ask;
pub mod clock;
pub mod core;
pub mod entry;
pub mod judge;
pub mod order;
pub mod scan;
pub mod seen;
pub mod summary;
