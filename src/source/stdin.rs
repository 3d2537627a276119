//! Standard input, as a live stream and as an archive.
//!
//! It is read on a plain thread: a read that waits for a pipe cannot be cancelled, and on an async
//! runtime it would keep the program from ending. The descriptor is duplicated instead of locked,
//! for two reasons: the reader can be moved to that thread, and the standard library's own 8 KiB
//! buffer, which would hold back what it has read, is not in the way.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::file::{self, InputError, Opened};
use super::lines::LineReader;

/// Standard input as a live stream of lines, source number `source`. `max_line` and `block` are in
/// bytes, as for [`LineReader::new`]. Compression is not looked for: that would mean waiting for
/// the first four bytes of a stream that may bring a line much later.
///
/// # Errors
///
/// If its descriptor cannot be duplicated, which is when this process may open no more files. A
/// closed standard input is no error: it has ended.
pub fn open_stdin(
    source: u32,
    max_line: usize,
    block: usize,
) -> Result<LineReader<File>, InputError> {
    Ok(LineReader::new(duplicate()?, source, max_line, block))
}

/// Standard input as an archive (`replay -`): plain, gzip or zstd, told by its first bytes.
///
/// # Errors
///
/// If it is a folder, cannot be duplicated, or its first bytes cannot be read.
pub fn open_archive_stdin() -> Result<Opened, InputError> {
    file::open_handle(duplicate()?, Path::new("standard input"))
}

fn duplicate() -> Result<File, InputError> {
    let fd = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| InputError::Unreadable { path: "standard input".into(), source })?;
    Ok(File::from(fd))
}
