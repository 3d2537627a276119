//! The parallel half: a batch of lines becomes items, without any state that a result depends on.

use crate::decode::envelope::Fragment;
use crate::decode::flat::{self, Keys};
use crate::decode::print::Print;
use crate::decode::time::When;
use crate::decode::{DecodeConfig, Record, Shape, Unread, each, envelope};
use crate::pattern::Events;
use crate::pattern::event::Run;
use crate::pattern::set::{Matched, PatternSet};
use crate::pattern::sieve::Room;
use crate::source::Batch;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// What every thread shares, read-only.
#[derive(Debug)]
pub struct Scanner {
    /// The patterns.
    pub set: PatternSet,
    /// How lines are decoded.
    pub decode: DecodeConfig,
    /// Which records are known again when they come once more.
    pub dedupe: Dedupe,
    /// Which it is of those that a stream has had: numbers mean something else to each.
    pub generation: u64,
    /// One for each thread that scans.
    desks: Mutex<Vec<Desk>>,
}

/// What scanning a batch leaves for the next one.
#[derive(Debug, Default)]
struct Desk {
    keys: Keys,
    /// Lines read with their help.
    lines: u64,
    room: Room,
    /// Lines, records and events that the last batch kept: the next one keeps about as many.
    kept: [usize; 3],
}

/// Lines after which keys are learnt anew: those of other lines may have taken the places.
const KEYS_LAST: u64 = 10_000;

/// Which records are known again when they come once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dedupe {
    /// None.
    Off,
    /// Those of [Railway's shapes](Record::is_railways): its command line and its API repeat them.
    Railway,
    /// All.
    All,
}

/// A batch, scanned.
#[derive(Debug)]
pub struct Scanned {
    /// The batch; its bytes are needed again where pieces of lines are joined.
    pub batch: Batch,
    /// The [scanner](Scanner::generation) that did it.
    pub generation: u64,
    /// Lines in it.
    pub lines: u64,
    /// Lines without text.
    pub empty: u64,
    /// Lines that match nothing: by the prefilter's proof, or by all of their records.
    pub unmatched: u64,
    /// The records of those lines, as far as they were decoded.
    pub unmatched_records: u64,
    /// The other lines, in order.
    pub items: Vec<Item>,
    /// Their records.
    pub findings: Findings,
}

/// The records of many lines.
#[derive(Debug, Default)]
pub struct Findings {
    /// What each was.
    pub records: Vec<Found>,
    /// Their events.
    pub events: Events,
}

/// A line that was looked at.
#[derive(Debug)]
pub struct Item {
    /// Its number in the batch, from 0.
    pub line: u64,
    /// Its bytes in the batch, without the newline.
    pub bytes: Range<usize>,
    /// What it was.
    pub what: What,
}

/// What a line was.
#[derive(Debug)]
pub enum What {
    /// Its records, among the [`Findings`].
    Records(Run),
    /// It could not be read.
    Unread(Unread, String),
    /// A piece of a line.
    Piece,
}

/// What a record was to the patterns.
#[derive(Debug)]
pub struct Found {
    /// Its time, by its own word.
    pub when: Option<When>,
    /// Its events and marks.
    pub matched: Matched,
    /// Its message, if it is a near miss: one sample goes into the summary.
    pub sample: Option<String>,
    /// What it is known by, if it is to be known again.
    pub print: Option<Print>,
}

/// Longest sample kept, in bytes.
const SAMPLE_MAX: usize = 200;

fn blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

impl Scanner {
    /// A scanner that has seen nothing.
    pub fn new(set: PatternSet, decode: DecodeConfig, dedupe: Dedupe, generation: u64) -> Self {
        Self { set, decode, dedupe, generation, desks: Mutex::default() }
    }

    /// Scans a batch.
    pub fn scan(&self, batch: Batch) -> Scanned {
        let desks = || self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut desk = desks().pop().unwrap_or_default();
        if desk.lines > KEYS_LAST {
            (desk.keys, desk.lines) = (Keys::default(), 0);
        }
        let scanned = self.scan_at(&mut desk, batch);
        desks().push(desk);
        scanned
    }

    fn scan_at(&self, desk: &mut Desk, batch: Batch) -> Scanned {
        let Desk { keys, lines, room, kept } = desk;
        let [items, records, events] = kept.map(|n| n + n / 4);
        let mut scanned = Scanned {
            batch: Batch { bytes: Vec::new(), ..batch },
            generation: self.generation,
            lines: 0,
            empty: 0,
            unmatched: 0,
            unmatched_records: 0,
            items: Vec::with_capacity(items),
            findings: Findings {
                records: Vec::with_capacity(records),
                events: Events { list: Vec::with_capacity(events), ..Events::default() },
            },
        };
        let bytes = batch.bytes;
        if batch.oversized {
            scanned.lines = 1;
            if blank(&bytes) {
                scanned.empty = 1;
            } else {
                self.candidate(&bytes, 0, 0, keys, &mut scanned);
            }
        } else {
            let mut candidates = self.set.prefilter().candidates(&bytes, std::mem::take(room));
            let mut looked_at = 0;
            while let Some((number, range)) = candidates.next_line() {
                let line = bytes.get(range.clone()).unwrap_or_default();
                looked_at += 1;
                self.candidate(line, number, range.start, keys, &mut scanned);
            }
            scanned.lines = candidates.lines();
            scanned.empty += candidates.blanks();
            scanned.unmatched += scanned.lines - candidates.blanks() - looked_at;
            *lines += looked_at;
            *room = candidates.into_room();
        }
        scanned.batch.bytes = bytes;
        let Findings { records, events } = &scanned.findings;
        *kept = [scanned.items.len(), records.len(), events.list.len()];
        scanned
    }

    /// Decodes a line that begins at `start`, and keeps it if it is more than unmatched.
    fn candidate(
        &self,
        line: &[u8],
        number: u64,
        start: usize,
        keys: &mut Keys,
        scanned: &mut Scanned,
    ) {
        let out = &mut scanned.findings;
        let first = out.records.len();
        let edge = usize::try_from(number).ok().and_then(|n| *scanned.batch.edges.get(n)?);
        let what = match flat::read(line, &self.decode, keys) {
            Some(record) => {
                let record = if edge.is_some() { record.with_edge(edge) } else { record };
                self.found(&record, first, out);
                keys.take_back(record);
                Some(What::Records(Run::between(first, out.records.len())))
            }
            None => self.kept(line, scanned.batch.oversized, edge, out),
        };
        let Some(what) = what else {
            scanned.empty += 1;
            return;
        };
        if let What::Records(records) = what
            && !scanned.batch.oversized
            && records.of(&out.records).iter().all(|found| found.matched.events.is_empty())
        {
            scanned.unmatched += 1;
            scanned.unmatched_records += u64::try_from(records.len()).unwrap_or(0);
            out.records.truncate(first);
            return;
        }
        let bytes = start..start + line.len();
        scanned.items.push(Item { line: number, bytes, what });
    }

    /// Decodes and matches one line; `None` if it turns out to hold no text.
    pub fn line(&self, line: &[u8], edge: Option<IpAddr>, out: &mut Findings) -> Option<What> {
        self.kept(line, false, edge, out)
    }

    /// Decodes and matches a line, or its beginning if it was cut.
    fn kept(
        &self,
        line: &[u8],
        cut: bool,
        edge: Option<IpAddr>,
        out: &mut Findings,
    ) -> Option<What> {
        let first = out.records.len();
        let shape = each(line, cut, &self.decode, &mut |record| {
            self.found(&record.with_edge(edge), first, out);
        });
        what(shape, first, out)
    }

    /// Matches pieces that were joined. `cut`: more of them were not kept.
    pub fn joined(
        &self,
        first: &Fragment,
        content: &str,
        cut: bool,
        out: &mut Findings,
    ) -> Option<What> {
        let start = out.records.len();
        let found = &mut |record: Record<'_>| self.found(&record, start, out);
        let shape = envelope::joined(first, content, cut, &self.decode, found);
        what(shape, start, out)
    }

    /// Reads a line as a piece, if it is one.
    pub fn fragment(&self, line: &[u8]) -> Option<Fragment> {
        envelope::fragment(line, &self.decode)
    }

    /// How many records of a line [`Scanner::scan`] has counted as unmatched; `None` if it has
    /// counted the line as empty.
    pub fn unmatched(&self, line: &[u8]) -> Option<u64> {
        if blank(line) {
            return None;
        }
        if !self.set.prefilter().candidate(line) {
            return Some(0);
        }
        match self.line(line, None, &mut Findings::default())? {
            What::Records(records) => Some(u64::try_from(records.len()).unwrap_or(0)),
            What::Unread(..) | What::Piece => Some(0),
        }
    }

    /// Matches one record of a line whose records begin at `first`.
    fn found(&self, record: &Record<'_>, first: usize, out: &mut Findings) {
        let mut matched = self.set.matches(record, &mut out.events);
        let sample = (!matched.near_misses.is_empty()).then(|| {
            let message = record.message();
            message[..message.floor_char_boundary(SAMPLE_MAX)].to_owned()
        });
        // What is no event is asked for no time, and one that contradicts itself about it is no witness of any.
        let when = if matched.events.is_empty() { None } else { record.when() };
        matched.named &= when.is_none() || !record.doubts().time;
        let known = match self.dedupe {
            // Nothing tells two events apart that have no time.
            _ if !matched.named || when.is_none() => false,
            Dedupe::Off => false,
            Dedupe::Railway => record.is_railways(),
            Dedupe::All => true,
        };
        let print = known.then(|| record.print(out.records.len() - first));
        out.records.push(Found { when, matched, sample, print });
    }
}

/// What a line was whose records stand in `out` from `first` on.
fn what(shape: Shape, first: usize, out: &mut Findings) -> Option<What> {
    match shape {
        Shape::Empty => None,
        Shape::Unread(why, error) => {
            // What names it although it could not be read as a whole has read enough.
            let behind = out.records.get(first..).unwrap_or_default();
            if behind.iter().any(|found| !found.matched.events.is_empty()) {
                return Some(What::Records(Run::between(first, out.records.len())));
            }
            out.records.truncate(first);
            Some(What::Unread(why, error))
        }
        Shape::Partial => Some(What::Piece),
        Shape::Records => Some(What::Records(Run::between(first, out.records.len()))),
    }
}
