//! Bytes in, blocks of whole lines out: the one place that decides where a line ends.
//!
//! Everything that reads (files, followed files, standard input) cuts its bytes with the same
//! [`LineSplitter`], so a line is the same line however it arrived: in one read or in seventy, live
//! or replayed. A block of lines is handed on in the buffer it was read into; only the unfinished
//! tail is copied. Lines are not looked at one by one here: as long as a newline lies within
//! `max_line` bytes, one backward search from there settles all lines before it.

use std::io::{self, ErrorKind, Read};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use memchr::{memchr, memchr_iter, memrchr};

use super::position::{Position, RecordOrigin};

/// Smallest room offered to a read, in bytes, unless the block is smaller still. A live pipe brings
/// a few hundred bytes at a time; zeroing a whole block for each would cost more than the read.
const READ_MIN: usize = 16 * 1024;

/// A block of whole lines of one source, in the order they were written.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Index of the file or stream the lines come from.
    pub source: u32,
    /// The lines, each with its `\n`; only the last line of a source may lack it. If `oversized`,
    /// the first `max_line` bytes of a single line and no newline.
    pub bytes: Vec<u8>,
    /// The batch is the beginning of one line that was longer than `max_line`.
    pub oversized: bool,
    /// Where in the source its bytes begin, in bytes; 0 where that means nothing.
    pub start: u64,
    /// Where reading goes on behind it, if the source can go back to a place at all. A batch
    /// without bytes says only this: reading goes on elsewhere than behind the batch before it.
    pub mark: Option<Arc<Position>>,
    /// Of a partition: where each line came from, in their order.
    pub records: Vec<RecordOrigin>,
    /// Whose request each line is about, in their order, by the word of the platform's edge, which no
    /// client and no application can write. Empty where nothing says so.
    pub edges: Vec<Option<IpAddr>>,
}

impl Batch {
    /// The lines without their newlines. An oversized batch is always exactly one.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let (cut, whole): (_, &[u8]) =
            if self.oversized { (Some(self.bytes.as_slice()), &[]) } else { (None, &self.bytes) };
        cut.into_iter().chain(split_lines(whole))
    }
}

/// Buffers of batches that are done with, to be read into again: fresh memory has to be cleared by
/// the kernel page by page, which takes as long as reading.
#[derive(Debug, Clone, Default)]
pub struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

/// Buffers that are kept.
const SPARES_MAX: usize = 16;

impl Spares {
    /// Keeps a buffer.
    pub fn put(&self, buffer: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < SPARES_MAX && buffer.capacity() >= READ_MIN {
            kept.push(buffer);
        }
    }

    /// A kept buffer with room for `need` bytes, all of it readable.
    fn take(&self, need: usize) -> Option<Vec<u8>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = kept.iter().rposition(|buffer| buffer.capacity() >= need)?;
        let mut buffer = kept.swap_remove(fits);
        buffer.resize(need.max(buffer.len()), 0);
        Some(buffer)
    }
}

/// The lines of `bytes` without their newlines. A final newline ends the last line; it does not
/// begin an empty one.
pub fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut newlines = memchr_iter(b'\n', bytes);
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = newlines.next().unwrap_or(bytes.len());
        let line = bytes.get(start..end);
        let ended = start == bytes.len();
        start = (end + 1).min(bytes.len());
        if ended { None } else { line }
    })
}

/// Cuts a stream of bytes into batches of whole lines; holds the unfinished last line.
///
/// Holds at most `max_line` bytes between calls, and a CR, whatever it is fed: of a longer line it gives the
/// first `max_line` bytes and then forgets everything up to the newline.
///
/// It knows where in the stream each batch begins, since it alone knows what was cut off or
/// skipped. Behind a batch lies its `start` and the length of its bytes; behind an oversized one
/// that place is inside its line.
#[derive(Debug)]
pub struct LineSplitter {
    source: u32,
    max_line: usize,
    /// `buf[..held]` is the unfinished line, without a newline in it; the rest is room for a read,
    /// zeroed once so that no unsafe code is needed to read into it.
    buf: Vec<u8>,
    held: usize,
    /// Where in the stream `buf` begins, in bytes.
    base: u64,
    /// Inside an oversized line whose beginning has been given; nothing is held meanwhile.
    skipping: bool,
    spares: Spares,
}

impl LineSplitter {
    /// A splitter at the beginning of a line. `max_line` is in bytes of content, without the newline and a
    /// CR before it.
    pub fn new(source: u32, max_line: usize) -> Self {
        let spares = Spares::default();
        Self { source, max_line, buf: Vec::new(), held: 0, base: 0, skipping: false, spares }
    }

    /// What is fed from now on lies at `offset` of the stream: `inside` a line that is to be
    /// skipped up to its newline, or at the beginning of one. An unfinished line is forgotten.
    pub fn go_to(&mut self, offset: u64, inside: bool) {
        (self.held, self.base, self.skipping) = (0, offset, inside);
    }

    /// Where in the stream what was not given yet begins: the unfinished line, or what comes next.
    pub fn place(&self) -> u64 {
        self.base
    }

    /// Takes a copy of `bytes` and gives what lines are whole now. A reader that can read into
    /// [`room`](Self::room) saves the copy.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Batch> {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.absorb(bytes.len())
    }

    /// Room for exactly `len` more bytes. What is written there counts once [`absorb`](Self::absorb)
    /// is told how much of it was filled.
    pub fn room(&mut self, len: usize) -> &mut [u8] {
        let need = self.held + len;
        if self.buf.len() < need {
            if self.held < len {
                let mut fresh = self.spares.take(need).unwrap_or_else(|| vec![0; need]);
                let held = part(&self.buf, 0, self.held);
                fresh.iter_mut().zip(held).for_each(|(to, from)| *to = *from);
                self.buf = fresh;
            } else {
                self.buf.resize(need, 0);
            }
        }
        self.buf.get_mut(self.held..need).unwrap_or_default()
    }

    /// Takes the first `added` bytes of the [`room`](Self::room) as read, and gives what lines are
    /// whole now: usually none or one batch, more only around oversized lines.
    pub fn absorb(&mut self, added: usize) -> Vec<Batch> {
        let mut out = Vec::new();
        let mut end = (self.held + added).min(self.buf.len());
        // Bytes before `known` were searched in an earlier call: no newline among them.
        let mut known = self.held;
        if self.skipping {
            let Some(newline) = memchr(b'\n', part(&self.buf, 0, end)) else {
                self.base += end as u64;
                return out;
            };
            self.skipping = false;
            self.base += newline as u64 + 1;
            self.buf.copy_within(newline + 1..end, 0);
            end -= newline + 1;
            known = 0;
        }
        let longest = self.max_line.saturating_add(1);
        // `start..line` are whole lines not yet given; at `line` the line begins that is judged.
        let (mut start, mut line) = (0, 0);
        loop {
            let from = known.max(line);
            let until = line.saturating_add(longest).min(end);
            if let Some(newline) = memrchr(b'\n', part(&self.buf, from, until)) {
                line = from + newline + 1;
            } else if until - line < longest {
                break;
            } else if self.buf.get(line + self.max_line) == Some(&b'\r')
                && part(&self.buf, line + longest, end).first().is_none_or(|next| *next == b'\n')
            {
                // It ends its line, if the newline has come.
                if line + longest == end {
                    break;
                }
                line += longest + 1;
            } else {
                if start < line {
                    out.push(self.copied(start, line, false));
                }
                let cut = line + self.max_line;
                out.push(self.copied(line, cut, true));
                let newline = memchr(b'\n', part(&self.buf, cut, end));
                self.skipping = newline.is_none();
                line = newline.map_or(end, |newline| cut + newline + 1);
                start = line;
            }
        }
        self.give(start, line, end, &mut out);
        out
    }

    /// Gives the whole lines `buf[start..line]` and holds the tail `buf[line..end]`.
    ///
    /// A batch that fills a good part of the buffer takes the buffer along; a small one is copied
    /// out, so that batches waiting in a queue are no larger than what they hold.
    fn give(&mut self, start: usize, line: usize, end: usize, out: &mut Vec<Batch>) {
        if start == 0 && line > 0 && line >= self.buf.len() / 4 {
            let tail = part(&self.buf, line, end).to_vec();
            self.held = tail.len();
            let mut bytes = std::mem::replace(&mut self.buf, tail);
            bytes.truncate(line);
            out.push(Batch { source: self.source, start: self.base, bytes, ..Batch::default() });
            self.base += line as u64;
            return;
        }
        if start < line {
            out.push(self.copied(start, line, false));
        }
        if line > 0 {
            self.buf.copy_within(line..end, 0);
        }
        self.base += line as u64;
        self.held = end - line;
    }

    fn copied(&self, from: usize, to: usize, oversized: bool) -> Batch {
        let bytes = part(&self.buf, from, to).to_vec();
        let start = self.base + from as u64;
        Batch { source: self.source, bytes, oversized, start, ..Batch::default() }
    }

    /// The input has ended: gives the last line if it lacks its newline. The splitter is then at
    /// the beginning of a line again.
    pub fn finish(&mut self) -> Option<Batch> {
        self.skipping = false;
        let held = std::mem::take(&mut self.held);
        let last = (held > 0).then(|| self.copied(0, held, false));
        self.base += held as u64;
        last
    }
}

/// `bytes[from..to]`, or nothing if that is not inside.
fn part(bytes: &[u8], from: usize, to: usize) -> &[u8] {
    bytes.get(from..to).unwrap_or_default()
}

/// Reads lines from anything that can be read, as soon as they are there.
///
/// Each call reads until at least one line is whole and then gives all whole lines it has; it never
/// waits for a full block. So on a pipe every write that ends a line is handed on at once.
#[derive(Debug)]
pub struct LineReader<R> {
    reader: R,
    splitter: LineSplitter,
    block: usize,
    /// Bytes that the last read brought: the next one is offered twice as much, up to a block.
    last_read: usize,
    ready: std::vec::IntoIter<Batch>,
    state: State,
}

#[derive(Debug)]
enum State {
    Reading,
    Failed(io::Error),
    Ended,
}

impl<R: Read> LineReader<R> {
    /// Reads `reader` as stream number `source`, at most `block` bytes a read (at least 1). Lines
    /// of more than `max_line` bytes become oversized batches; this does not depend on `block`.
    pub fn new(reader: R, source: u32, max_line: usize, block: usize) -> Self {
        Self {
            reader,
            splitter: LineSplitter::new(source, max_line),
            block: block.max(1),
            last_read: 0,
            ready: Vec::new().into_iter(),
            state: State::Reading,
        }
    }

    /// Where to put buffers of its batches that are done with.
    pub fn spares(&self) -> Spares {
        self.splitter.spares.clone()
    }

    /// The next whole lines; `None` when the input has ended.
    ///
    /// # Errors
    ///
    /// An error of the reader other than an interruption (which is retried) is given once, after
    /// everything that was read before it, the unfinished last line included. Then the input has
    /// ended.
    pub fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        loop {
            if let Some(batch) = self.ready.next() {
                return Ok(Some(batch));
            }
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(None),
                State::Failed(error) => return Err(error),
                State::Reading => {}
            }
            let want = self.last_read.saturating_mul(2).max(READ_MIN).min(self.block);
            let ended = match self.reader.read(self.splitter.room(want)) {
                Ok(0) => State::Ended,
                Ok(count) => {
                    self.last_read = count;
                    self.ready = self.splitter.absorb(count).into_iter();
                    self.state = State::Reading;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    self.state = State::Reading;
                    continue;
                }
                Err(error) => State::Failed(error),
            };
            self.state = ended;
            if let Some(tail) = self.splitter.finish() {
                return Ok(Some(tail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives at most `sizes[i]` bytes at read `i`; a size of 0 is an interruption. Fails at the end
    /// if told so.
    struct Choppy {
        bytes: Vec<u8>,
        at: usize,
        sizes: Vec<usize>,
        turn: usize,
        fails: bool,
    }

    impl Read for Choppy {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()];
            self.turn += 1;
            if size == 0 {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = size.min(buf.len()).min(self.bytes.len() - self.at);
            if count == 0 && self.fails {
                return Err(io::Error::other("the disk is gone"));
            }
            buf[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
            self.at += count;
            Ok(count)
        }
    }

    fn choppy(bytes: &[u8], sizes: &[usize]) -> Choppy {
        Choppy { bytes: bytes.to_vec(), at: 0, sizes: sizes.to_vec(), turn: 0, fails: false }
    }

    fn naive(bytes: &[u8], max_line: usize) -> Vec<(Vec<u8>, bool)> {
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        if lines.last().is_some_and(|last| last.is_empty()) {
            lines.pop();
        }
        let cut = |line: &&[u8]| {
            let content = line.strip_suffix(b"\r").unwrap_or(line).len();
            let oversized = content > max_line;
            (line[..if oversized { max_line } else { line.len() }].to_vec(), oversized)
        };
        lines.iter().map(cut).collect()
    }

    fn read_all<R: Read>(reader: &mut LineReader<R>) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Vec::new();
        while let Some(batch) = reader.next_batch().unwrap() {
            assert!(batch.oversized || !batch.bytes.is_empty());
            lines.extend(batch.lines().map(|line| (line.to_vec(), batch.oversized)));
        }
        lines
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn lines_do_not_depend_on_block_or_chunks(
            bytes in prop::collection::vec(
                prop_oneof![3 => Just(b'\n'), 2 => Just(b'\r'), 12 => any::<u8>(), 8 => Just(b'x')], 0..400),
            max_line in 0usize..40,
            block in 1usize..70,
            mut sizes in prop::collection::vec(0usize..50, 1..12),
        ) {
            sizes.push(1); // an endless row of interruptions would never end
            let mut reader = LineReader::new(choppy(&bytes, &sizes), 3, max_line, block);
            prop_assert_eq!(read_all(&mut reader), naive(&bytes, max_line));
        }

        #[test]
        fn each_batch_says_where_its_bytes_lie_and_reading_can_go_on_behind_any(
            bytes in prop::collection::vec(
                prop_oneof![3 => Just(b'\n'), 2 => Just(b'\r'), 12 => any::<u8>(), 8 => Just(b'x')], 0..400),
            max_line in 0usize..40,
            block in 1usize..70,
            pick in any::<prop::sample::Index>(),
        ) {
            let mut splitter = LineSplitter::new(0, max_line);
            let mut batches: Vec<Batch> =
                bytes.chunks(block).flat_map(|chunk| splitter.push(chunk)).collect();
            batches.extend(splitter.finish());
            for batch in &batches {
                let start = batch.start as usize;
                prop_assert_eq!(&bytes[start..start + batch.bytes.len()], &batch.bytes[..]);
            }
            prop_assume!(!batches.is_empty());
            let kept = pick.index(batches.len()) + 1;
            let last = &batches[kept - 1];
            let behind = last.start as usize + last.bytes.len();
            let mut splitter = LineSplitter::new(0, max_line);
            splitter.go_to(behind as u64, last.oversized);
            let mut again = batches[..kept].to_vec();
            again.extend(splitter.push(&bytes[behind..]));
            again.extend(splitter.finish());
            let lines = again.iter().flat_map(|b| b.lines().map(|l| (l.to_vec(), b.oversized)));
            prop_assert_eq!(lines.collect::<Vec<_>>(), naive(&bytes, max_line));
        }

        #[test]
        fn split_lines_is_naive_split(bytes in prop::collection::vec(
            prop_oneof![Just(b'\n'), Just(b'a')], 0..40)) {
            let lines: Vec<_> = split_lines(&bytes).map(|line| (line.to_vec(), false)).collect();
            prop_assert_eq!(lines, naive(&bytes, usize::MAX));
        }
    }

    #[test]
    fn every_read_that_ends_a_line_gives_a_batch() {
        let mut reader = LineReader::new(choppy(b"one\ntwo\nthr", &[4, 4, 3]), 7, 100, 1 << 20);
        for expected in ["one\n", "two\n", "thr"] {
            let batch = reader.next_batch().unwrap().unwrap();
            assert_eq!((batch.bytes.as_slice(), batch.source), (expected.as_bytes(), 7));
            assert!(batch.bytes.capacity() < 64, "small batches must not carry a large buffer");
        }
        assert!(reader.next_batch().unwrap().is_none());
        assert!(reader.next_batch().unwrap().is_none());
    }

    #[test]
    fn an_error_comes_after_what_was_read_before_it() {
        let broken = Choppy { fails: true, ..choppy(b"one\ntail", &[99]) };
        let mut reader = LineReader::new(broken, 0, 100, 64);
        assert_eq!(reader.next_batch().unwrap().unwrap().bytes, b"one\n");
        assert_eq!(reader.next_batch().unwrap().unwrap().bytes, b"tail");
        assert_eq!(reader.next_batch().unwrap_err().to_string(), "the disk is gone");
        assert!(reader.next_batch().unwrap().is_none());
    }

    #[test]
    fn a_huge_line_is_not_kept() {
        let huge = io::repeat(b'x').take(300 << 20).chain(&b"\nnext\n"[..]);
        let mut reader = LineReader::new(huge, 0, 1000, 1 << 16);
        let batch = reader.next_batch().unwrap().unwrap();
        assert!(batch.oversized && batch.bytes.len() == 1000);
        let batch = reader.next_batch().unwrap().unwrap();
        assert!(!batch.oversized && batch.bytes == b"next\n");
        assert!(reader.splitter.buf.capacity() <= 4 << 16);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole() {
        for (text, oversized) in [("12345\n", false), ("12345", false), ("123456", true)] {
            let mut reader = LineReader::new(text.as_bytes(), 0, 5, 64);
            assert_eq!(read_all(&mut reader), [(b"12345".to_vec(), oversized)], "{text:?}");
        }
        // A CR belongs to the end of its line, and to nothing else.
        for (text, oversized) in [("12345\r\n", false), ("12345\r", false), ("12345\rx\n", true)] {
            for block in [1, 64] {
                let mut reader = LineReader::new(text.as_bytes(), 0, 5, block);
                let [(line, cut)] = &read_all(&mut reader)[..] else { panic!("{text:?}") };
                assert_eq!((line.starts_with(b"12345"), *cut), (true, oversized), "{text:?}");
            }
        }
    }
}
