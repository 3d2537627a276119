//! Where lines come from: files, followed files, standard input, Kafka and Railway, as blocks of whole lines.
//!
//! The contract of a source:
//!
//! * It gives [`Batch`]es: whole lines in the order they were written, with the number of the file
//!   or stream they come from. It knows nothing of what a line means.
//! * Where a line ends, and what is oversized, is decided by [`lines`] alone, so it depends neither
//!   on the block size nor on how the bytes arrived.
//! * If it can go back to a place, each batch carries the one behind it, and it can begin there: then
//!   what comes is what would have come without the break. Whoever uses the batches keeps the places.
//! * It runs on a plain thread and waits there: for a full queue (whoever takes its batches), for a
//!   slow pipe, for a file to grow. It owns no queue and starts no thread of its own.
//! * It ends when its input ends, when it is told to stop, or when nobody wants its batches.
//! * It loses nothing in silence: an input that cannot be read is an error that names it; a damaged
//!   one gives what lies before the damage and then the error.
//! * Its memory is bounded by the block size and by the longest allowed line, per open file.

pub mod lines;
pub mod file;
pub mod follow;
pub mod kafka;
pub mod position;
pub mod railway;
mod resume;
pub mod stdin;

pub use lines::Batch;
pub use position::Position;
