//! Files that are read as they grow, through every way in which logs are rotated.
//!
//! A plain-thread polling loop, not file-system events: events are missing on network and overlay
//! file systems, get lost under load, and still need a poll behind them. One `stat` of a file's
//! name per poll tells growth, truncation and rotation at once.
//!
//! A file is its device and inode, not its name: a rename never makes it new, so nothing is read
//! twice. Since an inode can be used again and a file can be rewritten in place, that alone proves
//! nothing: a [`Trace`] of what was read (its first bytes, and its last before the position) must
//! still be there, and is checked after every read, before the bytes count. A log that was copied
//! before it was truncated (copytruncate under a glob that fits the copy) is known by the same
//! trace.
//!
//! A reader may stand still, and names go on moving meanwhile. So where a name stands for another file
//! than before, or a file holds no more what was read of it, what lies between is looked for as it is
//! after a restart, and read first.
//!
//! Each batch carries the position behind it. Positions that were kept make the next run go on where
//! this one ended: see [`FollowSettings::resume`] and [`resume`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use memchr::memrchr;

use super::file::{self, InputError};
use super::lines::{Batch, LineSplitter};
use super::position::{FilePosition, Position, Print};
use super::resume::{self, Candidate, Finding, Moved};

/// Polls without growth after which a file that lost its name is taken as complete: its unfinished
/// line is handed over and its successor is read. 20 ms at the default poll; the successor's lines
/// wait that long, so it must be short.
const GRACE_POLLS: u32 = 5;
/// Polls without growth after which a file without a name is closed: 2 s at the default poll.
/// Programs write to a renamed log until they are told to reopen it.
const LINGER_POLLS: u32 = 500;
/// Bytes taken from one file before the others have their turn.
const TURN_BYTES: u64 = 1 << 20;
/// Files kept open at once, well below the usual limit of 1,024. Of more, the quietest are closed
/// and opened again when they grow.
const OPEN_MAX: usize = 256;
/// Polls without growth after which a file counts as quiet.
const QUIET_POLLS: u32 = 250;
/// Quiet files looked at in one poll. With more of them each is looked at every second, third ...
/// poll: a thousand old logs delay their own next line a little and cost no processor time.
const QUIET_PER_POLL: usize = 64;
/// Files out of sight of which the position is kept in case they come back; the oldest is forgotten
/// first, and would then be read from its beginning.
const KNOWN_MAX: usize = 64;
/// Sources of which nothing more will come and that may wait for a successor.
const OVER_MAX: usize = 1000;
/// Bytes kept of the beginning and of the end of what was read.
pub(super) const TRACE_LEN: usize = 256;
/// A beginning shorter than this is no evidence that two files are the same.
const COPY_HEAD_MIN: usize = 32;
/// Scans for which a new file that has been, so far, a copy of a followed one waits for what comes.
const COPY_SCANS: u32 = 5;
/// Looks for what was followed before a restart while names go on moving.
const LOOKS_MAX: usize = 20;

/// What to follow, and how closely.
#[derive(Debug, Clone)]
pub struct FollowSettings {
    /// Files, folders and globs, as for [`file::expand`]; none of them has to exist yet.
    pub patterns: Vec<String>,
    /// Files that exist at the start are read from their end (from the beginning of a line that is
    /// being written) instead of from their beginning. Later files are always read whole.
    pub from_end: bool,
    /// Longest line in bytes, newline excluded; a longer one becomes an oversized batch.
    pub max_line: usize,
    /// Bytes per read, at least 1.
    pub block: usize,
    /// Pause between two looks at the files when there is nothing to read.
    pub poll: Duration,
    /// Pause between two searches for new names under folders and globs.
    pub rescan: Duration,
    /// The last kept position of each source of an earlier run, with its number. These files are
    /// found again whatever their names are now, and read on under the same numbers; what was
    /// rotated meanwhile is read to its end before its successor. New files get higher numbers,
    /// and `from_end` holds for none that a known file may have made way for.
    pub resume: Vec<(u32, FilePosition)>,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            patterns: Vec::new(),
            from_end: false,
            max_line: 1 << 20,
            block: 256 << 10,
            poll: Duration::from_millis(4),
            rescan: Duration::from_millis(200),
            resume: Vec::new(),
        }
    }
}

/// Something an operator may want to know about a followed file. None of these ends the following.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowNote {
    /// Reading begins (or goes on, if a known file came back); batches carry this `source`.
    Opened {
        /// Its name.
        path: PathBuf,
        /// Its number, in the order of first opening.
        source: u32,
    },
    /// The file of this name was moved away or replaced. What is left in it is read first.
    Rotated {
        /// The name it had.
        path: PathBuf,
    },
    /// The file was emptied or rewritten in place; it is read from its beginning.
    Truncated {
        /// Its name.
        path: PathBuf,
        /// Its number, which it keeps.
        source: u32,
        /// Bytes that had been read of the old content.
        at: u64,
    },
    /// The file was deleted, and read to its end before it was let go.
    Gone {
        /// The name it had.
        path: PathBuf,
        /// Its number.
        source: u32,
    },
    /// The file has no name that fits any more and nothing was written to it for long: it was read
    /// to its end and is let go. Also said of a file that was followed before a restart, and that no
    /// pattern means any more or that was complete and is there no more.
    Closed {
        /// The name it had.
        path: PathBuf,
        /// Its number.
        source: u32,
    },
    /// While nobody was reading, or before all was read that was seen of it, the file was emptied or
    /// rewritten in place, and no copy of its old content is there. It is read from its beginning.
    Overwritten {
        /// Its name.
        path: PathBuf,
        /// Its number, which it keeps.
        source: u32,
        /// Bytes that had been read of the old content; what followed them is lost.
        at: u64,
    },
    /// While nobody was reading, the file was rotated away or deleted, and it is found nowhere.
    Missed {
        /// The name it had.
        path: PathBuf,
        /// Its number.
        source: u32,
        /// Bytes that had been read of it; what followed them is not read.
        at: u64,
        /// A compressed file with the same beginning.
        packed: Option<PathBuf>,
    },
    /// While nobody was reading, or between two looks, a followed name stood for this file. It is not
    /// read.
    Unread {
        /// The name it has now.
        path: PathBuf,
        /// Why it could not be read; none if it is compressed.
        error: Option<String>,
    },
    /// It cannot be read now; this is tried again. Said once until it works.
    Failed {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the path.
        error: String,
    },
    /// Nothing fits this pattern at the start; it is waited for. Said once.
    Missing {
        /// The pattern as written.
        pattern: String,
    },
    /// A compressed file is not followed: it is finished, and `replay` reads it.
    Compressed {
        /// Its name.
        path: PathBuf,
        /// Its number, if it was followed before this was seen.
        source: Option<u32>,
    },
    /// A copy of a file that was read already (copytruncate): only what follows `at` is read.
    Copied {
        /// The copy.
        path: PathBuf,
        /// The file it was copied from.
        of: PathBuf,
        /// Bytes of the copy that are known from the other.
        at: u64,
    },
    /// What position is kept of a source can be dropped. It may begin again in the same run, if its
    /// file comes back.
    Ended {
        /// The name it had.
        path: PathBuf,
        /// Its number.
        source: u32,
    },
}

impl FollowNote {
    /// Lines were lost, or may have been.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Overwritten { .. } | Self::Missed { .. } | Self::Unread { .. })
    }

    /// The source of which nothing more will come, unless its file comes back; and its name.
    fn is_over(&self) -> Option<(u32, &Path)> {
        match self {
            Self::Gone { path, source }
            | Self::Closed { path, source }
            | Self::Missed { path, source, .. }
            | Self::Compressed { path, source: Some(source) } => Some((*source, path)),
            _ => None,
        }
    }
}

impl fmt::Display for FollowNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { path, .. } => write!(f, "{}: following", path.display()),
            Self::Rotated { path } => write!(f, "{}: rotated", path.display()),
            Self::Truncated { path, at, .. } => {
                write!(f, "{}: truncated at {at} bytes, reading it anew", path.display())
            }
            Self::Gone { path, .. } => write!(f, "{}: deleted, read to its end", path.display()),
            Self::Closed { path, .. } => write!(f, "{}: not followed any more", path.display()),
            Self::Overwritten { path, at, .. } => write!(
                f,
                "{}: truncated or rewritten while nobody was reading; what was written behind \
                 byte {at} of its old content is lost; reading it anew",
                path.display()
            ),
            Self::Missed { path, at, packed: None, .. } => write!(
                f,
                "{}: rotated or deleted while nobody was reading, and found nowhere; what was \
                 written behind byte {at} is lost",
                path.display()
            ),
            Self::Missed { path, at, packed: Some(packed), .. } => write!(
                f,
                "{}: rotated and compressed while nobody was reading; what was written behind \
                 byte {at} is missing here; `portcullis replay {}` reads it",
                path.display(),
                packed.display()
            ),
            Self::Unread { path, error: Some(error) } => write!(
                f,
                "{}: written and rotated while nobody was reading, and not read: {error}",
                path.display()
            ),
            Self::Unread { path, error: None } => {
                let name = path.display();
                write!(f, "{name}: written, rotated and compressed while nobody was reading; ")?;
                match path.extension().and_then(OsStr::to_str) {
                    Some("gz" | "zst") => write!(f, "`portcullis replay {name}` reads it"),
                    _ => write!(f, "unpacked, `portcullis replay` reads it"),
                }
            }
            Self::Ended { path, .. } => write!(f, "{}: its place is forgotten", path.display()),
            Self::Failed { error, .. } => write!(f, "{error}; trying again"),
            Self::Missing { pattern } => write!(f, "{pattern}: no such file yet, waiting for it"),
            Self::Compressed { path, .. } => write!(
                f,
                "{}: compressed, not followed; read it with `portcullis replay`",
                path.display()
            ),
            Self::Copied { path, of, at } => write!(
                f,
                "{}: a copy of {}, its first {at} bytes are not read again",
                path.display(),
                of.display()
            ),
        }
    }
}

/// Reads what fits `settings.patterns` as it grows, until `stop` is set or `on_batch` returns false.
///
/// Batches come in order per file; files take turns. Files that exist at the start are first read
/// to the length they then have, one after the other by path. When `stop` is set every file is read
/// once more, at most 1 MiB each, and whole lines are handed over; an unfinished line is not, unless
/// its file was deleted and it could never be read again.
///
/// Every batch has a mark, but for what is still written to a file that was deleted and read to its end.
/// Where reading goes on elsewhere than behind the last batch (a file was opened, emptied or
/// finished), a batch without bytes says so. Whoever keeps marks keeps the last one of each source
/// until a note says that the source has [ended](FollowNote::Ended).
///
/// # Errors
///
/// If there is no pattern, or one is not a valid glob. What goes wrong with a file later is a
/// [`FollowNote::Failed`], and the file is tried again.
pub fn follow(
    settings: &FollowSettings,
    stop: &AtomicBool,
    on_batch: &mut dyn FnMut(Batch) -> bool,
    on_note: &mut dyn FnMut(FollowNote),
) -> Result<(), InputError> {
    if settings.patterns.is_empty() {
        return Err(InputError::Nothing);
    }
    for pattern in &settings.patterns {
        file::check_pattern(pattern)?;
    }
    let outlet = Outlet::new(settings, on_batch, on_note);
    let mut follower = Follower::new(settings, outlet);
    follower.start(stop);
    let polls_per_scan = (settings.rescan.as_nanos() / settings.poll.as_nanos().max(1)).max(1);
    let mut polls = 0;
    while !stop.load(Ordering::Acquire) && !follower.outlet.done {
        let more = follower.turn();
        polls += 1;
        if polls >= polls_per_scan {
            polls = 0;
            follower.scan(false);
        }
        if !more {
            thread::sleep(settings.poll);
        }
    }
    follower.end();
    Ok(())
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    pub(super) fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino() }
    }
}

/// How far a file was read, and enough of what was read there to know it again.
#[derive(Debug, Clone, Default)]
struct Trace {
    /// Bytes read so far.
    offset: u64,
    /// The first bytes of the file, at most [`TRACE_LEN`].
    head: Vec<u8>,
    /// The last bytes before `offset`, at most [`TRACE_LEN`].
    last: Vec<u8>,
}

/// How far a file was given, which is less than what was read of it by the line that waits for its
/// end.
#[derive(Debug, Default)]
struct Given {
    /// The place behind the last batch.
    offset: u64,
    /// It is inside an oversized line.
    inside: bool,
    /// The last bytes before it that were given in a row, at most [`TRACE_LEN`].
    last: Vec<u8>,
    /// The print of this many first bytes, made once they are all there.
    head: (usize, Print),
}

/// When a file was made, in nanoseconds since 1970, if its file system knows.
pub(super) fn born(meta: &Metadata) -> Option<u64> {
    nanos(meta.created().ok()?)
}

/// What a mark says of a file beside how far it was given.
#[derive(Debug, Clone, Copy)]
struct State {
    id: FileId,
    born: Option<u64>,
    written: Option<u64>,
    settled: bool,
    nameless: bool,
}

/// In nanoseconds since 1970.
fn nanos(time: SystemTime) -> Option<u64> {
    u64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

impl Given {
    fn at(trace: &Trace, inside: bool) -> Self {
        Self { offset: trace.offset, inside, last: trace.last.clone(), head: Default::default() }
    }

    fn add(&mut self, batch: &Batch) {
        if batch.start != self.offset {
            self.last.clear();
        }
        extend_last(&mut self.last, &batch.bytes);
        self.offset = batch.start + batch.bytes.len() as u64;
        self.inside = batch.oversized;
    }

    /// Reading goes on at the beginning of a line there.
    fn skip_to(&mut self, offset: u64) {
        if offset != self.offset {
            self.last.clear();
        }
        (self.offset, self.inside) = (offset, false);
    }

    /// `head` are the first bytes of the file; those behind the place are not looked at.
    fn position(&mut self, of: State, path: &Path, head: &[u8]) -> FilePosition {
        let begun = usize::try_from(self.offset).unwrap_or(usize::MAX).min(head.len());
        if self.head.0 != begun || begun == 0 {
            self.head = (begun, Print::of_head(head.get(..begun).unwrap_or_default()));
        }
        FilePosition {
            path: path.to_owned(),
            device: of.id.device,
            inode: of.id.inode,
            born: of.born,
            offset: self.offset,
            inside: self.inside,
            settled: of.settled,
            nameless: of.nameless,
            written: of.written,
            head: self.head.1.clone(),
            last: Print::of_last(&self.last),
        }
    }
}

/// Keeps the last [`TRACE_LEN`] bytes of `last` and `fresh`.
fn extend_last(last: &mut Vec<u8>, fresh: &[u8]) {
    let old = (last.len() + fresh.len()).saturating_sub(TRACE_LEN);
    last.drain(..old.min(last.len()));
    last.extend(fresh.iter().skip(fresh.len().saturating_sub(TRACE_LEN)));
}

/// What a file shows where a [`Trace`] was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Same,
    /// The same as far as it goes, but it ends too early.
    Shorter,
    Different,
}

impl Trace {
    /// The trace of a file as if it had been read up to `offset`.
    fn at(file: &File, offset: u64) -> io::Result<Self> {
        let len = offset.min(TRACE_LEN as u64);
        let (mut head, mut last) = (vec![0; len as usize], vec![0; len as usize]);
        file.read_exact_at(&mut head, 0)?;
        file.read_exact_at(&mut last, offset - len)?;
        Ok(Self { offset, head, last })
    }

    /// `fresh` was read at the offset.
    fn extend(&mut self, fresh: &[u8]) {
        let missing = (TRACE_LEN - self.head.len()).min(fresh.len());
        self.head.extend(fresh.iter().take(missing));
        extend_last(&mut self.last, fresh);
        self.offset += fresh.len() as u64;
    }

    fn compare(&self, file: &File) -> io::Result<Likeness> {
        let head = likeness(file, &self.head, 0)?;
        if head == Likeness::Different {
            return Ok(head);
        }
        let last = likeness(file, &self.last, self.offset - self.last.len() as u64)?;
        Ok(if last == Likeness::Same { head } else { last })
    }

    /// `file` begins like the head, and with enough of it to mean something. It may be shorter: the
    /// head may be of what was written since the copy was made.
    fn begins(&self, file: &File) -> io::Result<bool> {
        let len = file.metadata()?.len().min(self.head.len() as u64) as usize;
        let head = self.head.get(..len).unwrap_or_default();
        Ok(len >= COPY_HEAD_MIN && likeness(file, head, 0)? == Likeness::Same)
    }
}

/// Whether `file` has the bytes `expected` at `offset`. Zero bytes fit anything: some file systems
/// show them for a moment where a write has not arrived yet.
fn likeness(file: &File, expected: &[u8], offset: u64) -> io::Result<Likeness> {
    let mut found = [0; TRACE_LEN];
    let count = read_up_to(file, found.get_mut(..expected.len()).unwrap_or_default(), offset)?;
    let fits =
        expected.iter().zip(found.iter().take(count)).all(|(one, two)| one == two || *one == 0);
    Ok(match fits {
        false => Likeness::Different,
        true if count < expected.len() => Likeness::Shorter,
        true => Likeness::Same,
    })
}

/// Fills `buf` from `offset` on, short only at the end of the file.
pub(super) fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buf.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Where the last line of a file of `len` bytes begins: `len` if it ends with a newline, `None` if
/// that line is longer than `max_line`.
fn last_line_start(file: &File, len: u64, max_line: usize) -> io::Result<Option<u64>> {
    let mut end = len;
    let mut buf = [0; 16 * 1024];
    while end > 0 && len - end <= max_line as u64 {
        let begin = end.saturating_sub(buf.len() as u64);
        let count = read_up_to(file, &mut buf, begin)?.min((end - begin) as usize);
        if let Some(newline) = memrchr(b'\n', buf.get(..count).unwrap_or_default()) {
            let start = begin + newline as u64 + 1;
            return Ok(Some(start).filter(|start| len - start <= max_line as u64));
        }
        end = begin;
    }
    Ok((end == 0 && len <= max_line as u64).then_some(0))
}

/// Where batches and notes go.
struct Outlet<'a> {
    on_batch: &'a mut dyn FnMut(Batch) -> bool,
    on_note: &'a mut dyn FnMut(FollowNote),
    /// Nobody wants batches any more.
    done: bool,
    /// The name in the position that is kept of each source, and the sources of each name.
    places: BTreeMap<u32, PathBuf>,
    named: BTreeMap<PathBuf, BTreeSet<u32>>,
    /// Sources of which nothing more will come, but whose positions may still be needed.
    over: BTreeMap<u32, Over>,
    /// What there was at the start has been looked for.
    looked: bool,
}

/// A source of which nothing more will come.
struct Over {
    path: PathBuf,
    /// Its file is still there, and was let go.
    let_go: bool,
    /// Only a successor ends it.
    waits: bool,
}

impl<'a> Outlet<'a> {
    fn new(
        settings: &FollowSettings,
        on_batch: &'a mut dyn FnMut(Batch) -> bool,
        on_note: &'a mut dyn FnMut(FollowNote),
    ) -> Self {
        let mut outlet = Self {
            on_batch,
            on_note,
            done: false,
            places: BTreeMap::new(),
            named: BTreeMap::new(),
            over: BTreeMap::new(),
            looked: false,
        };
        for (source, position) in &settings.resume {
            outlet.put(*source, &position.path);
        }
        outlet
    }

    /// Notes the name in the position of a source.
    fn put(&mut self, source: u32, path: &Path) {
        self.named.entry(path.to_owned()).or_default().insert(source);
        let before = self.places.insert(source, path.to_owned());
        if let Some(before) = before.filter(|before| before != path) {
            self.unname(source, &before);
            self.forget(&before);
        }
        self.forget(path);
    }

    fn unname(&mut self, source: u32, path: &Path) {
        if let Some(sources) = self.named.get_mut(path) {
            sources.remove(&source);
            if sources.is_empty() {
                self.named.remove(path);
            }
        }
    }

    fn give(&mut self, batches: impl IntoIterator<Item = Batch>) {
        for batch in batches {
            let source = batch.source;
            let place = match batch.mark.as_deref() {
                Some(Position::File(to)) => Some(&to.path),
                _ => None,
            };
            let again = place.is_some() && self.over.contains_key(&source);
            let news = place.filter(|to| again || self.places.get(&source) != Some(to)).cloned();
            self.done = self.done || !(self.on_batch)(batch);
            if self.done {
                return;
            }
            let Some(path) = news else { continue };
            self.over.remove(&source);
            self.put(source, &path);
        }
    }

    fn note(&mut self, note: FollowNote) {
        let over = note.is_over().map(|(source, path)| (source, path.to_owned()));
        (self.on_note)(note);
        if let Some((source, path)) = over {
            self.ends(source, Over { path, let_go: false, waits: false });
        }
    }

    /// The place of a lost file by which its loss is not said again, if one is needed.
    fn give_lost(&mut self, source: u32, place: FilePosition) {
        if self.places.contains_key(&source) && !self.done {
            let (start, mark) = (place.offset, Some(Arc::new(Position::File(place))));
            self.done = !(self.on_batch)(Batch { source, start, mark, ..Batch::default() });
        }
    }

    /// A file that still exists is followed no more.
    fn let_go(&mut self, source: u32, path: PathBuf) {
        self.ends(source, Over { path, let_go: true, waits: true });
        // Files that are moved away and whose names never come again must not be kept for ever.
        if self.over.len() > OVER_MAX
            && let Some((oldest, over)) = self.over.iter_mut().find(|(_, over)| over.waits)
        {
            over.waits = false;
            if let Some(name) = self.places.get(oldest).cloned() {
                self.forget(&name);
            }
        }
    }

    fn ends(&mut self, source: u32, over: Over) {
        let place = self.places.get(&source).cloned();
        self.over.insert(source, over);
        match place {
            Some(name) => self.forget(&name),
            None => self.end(source),
        }
    }

    /// What there was at the start has been looked for: who has a successor is known.
    fn looked(&mut self) {
        self.looked = true;
        let names: Vec<PathBuf> = self.named.keys().cloned().collect();
        names.iter().for_each(|name| self.forget(name));
    }

    /// Ends what is over and not needed of the sources of a name. Of the files that had it one after
    /// the other, a restart takes what came after the last known one for unknown. So the last one must
    /// be known until its successor is. If it were forgotten before, the one before it would be the
    /// last, and copies that were read long ago would be read again; or none would be known, and
    /// nothing would be looked for. A file that is gone and has neither a successor nor one before it
    /// is not needed.
    fn forget(&mut self, name: &Path) {
        while let Some(source) = self.forgettable(name) {
            self.end(source);
        }
    }

    fn forgettable(&self, name: &Path) -> Option<u32> {
        let sources = self.named.get(name).filter(|_| self.looked)?;
        let first = sources.first();
        let live = sources.iter().rfind(|source| !self.over.contains_key(source));
        let not_needed = |source: &&u32| {
            let Some(over) = self.over.get(source) else { return false };
            live > Some(source) || !over.waits && first == Some(source)
        };
        sources.iter().find(not_needed).copied()
    }

    fn end(&mut self, source: u32) {
        if let Some(name) = self.places.remove(&source) {
            self.unname(source, &name);
        }
        let Some(Over { path, let_go, .. }) = self.over.remove(&source) else { return };
        if let_go {
            (self.on_note)(FollowNote::Closed { path: path.clone(), source });
        }
        (self.on_note)(FollowNote::Ended { path, source });
    }
}

/// A file that is followed.
#[derive(Debug)]
struct Tracked {
    source: u32,
    id: FileId,
    /// When it was made, if that is known.
    born: Option<u64>,
    /// The fitting name it has now; none once it was moved out of sight, replaced or deleted.
    name: Option<PathBuf>,
    /// The name it had last, for notes and to know its successor.
    last_name: PathBuf,
    /// Closed while there are too many files; see [`OPEN_MAX`]. An open file keeps its inode, so
    /// only the inode of a closed one can be used again.
    handle: Option<File>,
    trace: Trace,
    given: Given,
    splitter: LineSplitter,
    /// Looks without growth since it last grew or lost its name.
    quiet: u32,
    stage: Stage,
    /// The file that had this name before, as long as it is not read to its end.
    after: Option<u32>,
    /// The length that it had for certain while it held what was read.
    longest: u64,
    /// It is a copy of what was read under its last name, and nobody writes to it.
    is_copy: bool,
    /// A writer without O_APPEND leaves zeros before its next line when its file is truncated.
    skip_zeros: bool,
    /// It was said that nothing more comes of it; its batches have no marks any more.
    ended: bool,
    /// A failure was reported and has not been followed by a success.
    failing: bool,
}

/// How far the life of a followed file has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is what its name stands for.
    Current,
    /// It lost its name; late writes are waited for.
    Leaving { deleted: bool },
    /// Its unfinished line was handed over. Further lines are still read, under any name it has.
    Settled,
}

/// What a look at a file found.
#[derive(Debug)]
enum Look {
    /// Nothing to read.
    Quiet,
    /// Lines were read; there may be more to read at once.
    Grew { more: bool },
    /// What was read of it is there no more; nothing is read of what came in its place.
    Truncated,
    /// Its name stands for another file or for none.
    LostName,
    /// Its first bytes say that it is compressed.
    Compressed,
}

impl Tracked {
    /// Reads what is new in the file, at most [`TURN_BYTES`].
    fn look(&mut self, block: usize, outlet: &mut Outlet<'_>) -> Look {
        let result = match self.length() {
            Ok(None) => return Look::LostName,
            Ok(Some(len)) if len < self.trace.offset => Ok(Look::Truncated),
            Ok(Some(len)) if len > self.trace.offset => self.read(len, block, outlet),
            Ok(Some(_)) => Ok(Look::Quiet),
            Err(error) => Err(error),
        };
        match &result {
            Ok(Look::Quiet) | Err(_) => self.quiet = self.quiet.saturating_add(1),
            Ok(_) => self.quiet = 0,
        }
        match result {
            Ok(look) => {
                self.failing = false;
                look
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let path = self.last_name.clone();
                    let error = InputError::from_io(&path, error).to_string();
                    outlet.note(FollowNote::Failed { path, error });
                }
                Look::Quiet
            }
        }
    }

    /// Its length in bytes; `None` if its name does not stand for it any more.
    fn length(&self) -> io::Result<Option<u64>> {
        let Some(name) = &self.name else {
            let open = self.handle.as_ref().map(File::metadata).transpose()?;
            return Ok(Some(open.map_or(self.trace.offset, |meta| meta.len())));
        };
        match fs::metadata(name) {
            Ok(meta) if FileId::of(&meta) == self.id => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, len: u64, block: usize, outlet: &mut Outlet<'_>) -> io::Result<Look> {
        if self.handle.is_none() {
            let file = File::open(self.name.as_ref().unwrap_or(&self.last_name))?;
            if FileId::of(&file.metadata()?) != self.id {
                return Ok(Look::LostName);
            }
            self.handle = Some(file);
        }
        let Some(handle) = &self.handle else { return Ok(Look::LostName) };
        if self.trace.offset == 0 {
            let mut first = [0; file::MAGIC_LEN];
            let count = read_up_to(handle, &mut first, 0)?;
            let first = first.get(..count).unwrap_or_default();
            if file::packing(first).is_some() {
                return Ok(Look::Compressed);
            }
            if file::may_become_packed(first) {
                return Ok(Look::Quiet);
            }
        }
        let begin = self.trace.offset;
        let goal = len.min(begin + TURN_BYTES);
        while self.trace.offset < goal && !outlet.done {
            let Some(file) = &self.handle else { break };
            let want = usize::try_from(goal - self.trace.offset).unwrap_or(block).min(block.max(1));
            let room = self.splitter.room(want);
            let count = read_up_to(file, room, self.trace.offset)?;
            if count == 0 {
                break;
            }
            // Only now: were the file rewritten before this read, the trace would be broken too.
            if self.trace.compare(file)? == Likeness::Different {
                return Ok(Look::Truncated);
            }
            // Only now as well: a length that was seen before may be that of other content.
            self.longest = self.longest.max(len);
            let fresh = room.get(..count).unwrap_or_default();
            self.trace.extend(fresh);
            let zeros = fresh.iter().take_while(|byte| self.skip_zeros && **byte == 0).count();
            let batches = if zeros == 0 {
                self.skip_zeros = false;
                self.splitter.absorb(count)
            } else {
                let text = fresh.get(zeros..).unwrap_or_default().to_vec();
                self.splitter.go_to(self.trace.offset - text.len() as u64, false);
                self.splitter.push(&text)
            };
            for batch in batches {
                self.given.add(&batch);
                self.give_mark(Some(batch), outlet);
            }
        }
        let grew = self.trace.offset > begin;
        Ok(if grew { Look::Grew { more: self.trace.offset < len } } else { Look::Quiet })
    }

    /// Gives the place where reading goes on now, with the batch that came before it, if any.
    fn give_mark(&mut self, batch: Option<Batch>, outlet: &mut Outlet<'_>) {
        let (source, start) = (self.source, self.given.offset);
        let mut batch = batch.unwrap_or_else(|| Batch { source, start, ..Batch::default() });
        batch.mark = self.mark();
        if !batch.bytes.is_empty() || batch.mark.is_some() {
            outlet.give([batch]);
        }
    }

    /// The place behind what was given; none once the file has ended.
    fn mark(&mut self) -> Option<Arc<Position>> {
        (!self.ended).then(|| Arc::new(Position::File(self.position())))
    }

    fn position(&mut self) -> FilePosition {
        let time = self.handle.as_ref().and_then(|file| file.metadata().ok()?.modified().ok());
        let settled = self.stage == Stage::Settled;
        let state = State {
            id: self.id,
            born: self.born,
            written: time.and_then(nanos),
            settled,
            nameless: settled && self.name.is_none(),
        };
        self.given.position(state, &self.last_name, &self.trace.head)
    }

    /// The old content is gone: its unfinished line is handed over, the new is read from the start.
    /// Gives the trace of the old.
    fn restart(&mut self, outlet: &mut Outlet<'_>) -> Trace {
        let old = std::mem::take(&mut self.trace);
        let lost = std::mem::take(&mut self.longest) > old.offset;
        let rest = self.splitter.finish();
        self.splitter.go_to(0, false);
        self.given = Given::default();
        self.skip_zeros = true;
        self.give_mark(rest, outlet);
        // Behind the last of the old content: places mean something else from here on.
        let (path, source, at) = (self.last_name.clone(), self.source, old.offset);
        outlet.note(if lost {
            FollowNote::Overwritten { path, source, at }
        } else {
            FollowNote::Truncated { path, source, at }
        });
        old
    }

    /// A scan found it under the name `new`, or under none; `replaced`: its old name stands for
    /// another file.
    fn rename(&mut self, new: Option<PathBuf>, replaced: bool, outlet: &mut Outlet<'_>) {
        let links = self.handle.as_ref().and_then(|file| file.metadata().ok());
        let links = links.map_or(0, |meta| meta.nlink());
        let had_name = self.name.take().is_some();
        if had_name {
            let deleted = new.is_none() && !replaced && links == 0;
            if !deleted && self.stage == Stage::Current {
                outlet.note(FollowNote::Rotated { path: self.last_name.clone() });
            }
            if self.stage == Stage::Current || new.is_none() {
                self.stage = Stage::Leaving { deleted };
                self.quiet = 0;
            }
        }
        // A leaving file keeps the name it left: its successor is known by that.
        if let (Some(new), Stage::Settled) = (&new, self.stage) {
            // Moved on in a chain of old logs it stays settled; back from out of sight it is current.
            if !had_name {
                self.stage = Stage::Current;
            }
            self.last_name.clone_from(new);
        }
        self.name = new;
    }

    /// Its name stands for it no longer, and no late writes came: it is complete for now.
    fn settle(&mut self, outlet: &mut Outlet<'_>) {
        let Stage::Leaving { deleted } = self.stage else { return };
        if self.quiet < GRACE_POLLS && self.handle.is_some() {
            return;
        }
        let rest = self.splitter.finish();
        self.stage = Stage::Settled;
        if let Some(name) = &self.name {
            self.last_name.clone_from(name);
        }
        if let Some(rest) = &rest {
            self.given.add(rest);
        }
        // What is written later is a line of its own, even if an oversized one was not finished.
        self.given.skip_to(self.splitter.place());
        self.give_mark(rest, outlet);
        if deleted {
            self.ended = true;
            let (path, source) = (self.last_name.clone(), self.source);
            outlet.note(FollowNote::Gone { path, source });
        }
    }

    /// Without a name, complete, and nothing came for long.
    fn is_over(&self) -> bool {
        self.name.is_none()
            && self.stage == Stage::Settled
            && (self.quiet >= LINGER_POLLS || self.handle.is_none() || self.is_copy)
    }

    /// It was deleted and is not finished: what it holds back could never be read again.
    fn is_doomed(&self) -> bool {
        matches!(self.stage, Stage::Leaving { deleted: true })
    }

    fn is_quiet(&self) -> bool {
        self.quiet >= QUIET_POLLS && self.name.is_some() && !self.is_leaving()
    }

    fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// A file or content that is not followed now, but would be known again.
#[derive(Debug)]
struct Known {
    source: u32,
    id: FileId,
    path: PathBuf,
    trace: Trace,
    /// It was overwritten in place; only a copy of it can turn up.
    overwritten: bool,
}

/// Where reading a new file begins.
#[derive(Debug)]
enum Start {
    Beginning,
    /// Not decided: it looks like a copy that is still being made.
    Later,
    /// It is a copy of `of`, of which this many bytes are known.
    After {
        at: u64,
        of: PathBuf,
    },
}

/// All that is followed.
struct Follower<'a> {
    settings: &'a FollowSettings,
    outlet: Outlet<'a>,
    /// In order of opening.
    files: Vec<Tracked>,
    known: VecDeque<Known>,
    /// Compressed files, with the name and time under which they were last looked at.
    compressed: BTreeMap<FileId, (PathBuf, Option<SystemTime>)>,
    /// Possible copies: their length when it last changed, and the scans since then.
    suspects: BTreeMap<FileId, (u64, u32)>,
    /// Failures said in the last scan, so as not to say them in every scan.
    failures: BTreeSet<String>,
    /// Names of earlier sources, and when those that were found again were last written.
    past: Vec<(PathBuf, Option<SystemTime>)>,
    /// Files that cannot be reached yet.
    unreached: Vec<Unreached>,
    /// A file was seen that may be one of them, or have come after one.
    seen: bool,
    /// Files that a followed name stood for and of which it was said that they are not read.
    unread: VecDeque<FileId>,
    /// Files of which the loss was said, and what is not yet given of them.
    lost: Vec<(u32, FilePosition)>,
    next_source: u32,
    turns: usize,
}

/// A stored position in a file that cannot be reached yet.
struct Unreached {
    source: u32,
    position: FilePosition,
    /// The file that it is or was, if that one is there.
    id: Option<FileId>,
    /// What was said about it; empty if nothing is wrong.
    error: String,
}

impl Unreached {
    /// Whether to look for it again.
    fn may_be_there(&self) -> bool {
        self.id.is_some() || !is_hidden(&self.position)
    }
}

/// Whether a file may be where nothing is seen: in a folder that cannot be looked into, or in one whose
/// place an empty one of another file system has, as a mount point is before its mount comes.
fn is_hidden(position: &FilePosition) -> bool {
    let place = resume::place(folder(&position.path));
    let Ok(mut entries) = fs::read_dir(place) else { return true };
    let is_other = |meta: Metadata| meta.dev() != position.device;
    entries.next().is_none() && fs::metadata(place).is_ok_and(is_other)
}

/// Where a file is that lost its name while it was followed.
struct Whereabouts {
    moved: Moved,
    /// It, or the copy that holds what was read of it.
    handle: File,
    /// When it was made, if that is known.
    born: Option<u64>,
}

impl Whereabouts {
    /// The files that had its name after it, in order. Beside what [`resume::between`] says, a live
    /// reader has the file itself to compare with: others than these are not meant, for old logs can
    /// be written to, packed and copied at any time.
    fn between<'a>(
        &self,
        candidates: &'a [Candidate],
        taken: &BTreeSet<FileId>,
    ) -> Vec<&'a Candidate> {
        let mut between = resume::between(&self.moved, candidates, taken);
        between.retain(|one| {
            let is_older =
                matches!((born(&one.meta), self.born), (Some(one), Some(own)) if one < own);
            // The file itself is gone, and may have been packed into this one.
            let may_hold_it = self.moved.to.is_none()
                && resume::is_packed(&one.path)
                && !is_readable_pack(&one.path);
            !(is_older || may_hold_it || self.is_copied_by(one))
        });
        between
    }

    /// Whether all of `one` is here too.
    fn is_copied_by(&self, one: &Candidate) -> bool {
        let same = |copy: File| {
            let len = copy.metadata()?.len();
            let is_evident = len >= COPY_HEAD_MIN as u64;
            Ok(is_evident && Trace::at(&copy, len)?.compare(&self.handle)? == Likeness::Same)
        };
        one.open().and_then(same).unwrap_or(false)
    }
}

/// Bytes that are unpacked to find out whether there is more.
const UNPACKED_MAX: u64 = 1 << 30;

/// Whether a packed file holds so many bytes and no more: then nothing of it is missing to who has read them.
fn unpacks_to(path: &Path, length: u64) -> bool {
    let Ok(packed) = file::open(path) else { return false };
    let mut content = io::Read::take(packed.reader, length + 1);
    length <= UNPACKED_MAX && io::copy(&mut content, &mut io::sink()).is_ok_and(|n| n == length)
}

/// Whether a packed file can be looked into.
fn is_readable_pack(path: &Path) -> bool {
    file::open(path).is_ok_and(|opened| opened.packed)
}

/// A file that is about to be followed.
struct New {
    source: u32,
    id: FileId,
    /// The fitting name it has, if any.
    name: Option<PathBuf>,
    /// The name by which it is known.
    last_name: PathBuf,
    handle: File,
    trace: Trace,
    /// The place is inside an oversized line.
    inside: bool,
    stage: Stage,
    skip_zeros: bool,
}

impl<'a> Follower<'a> {
    fn new(settings: &'a FollowSettings, outlet: Outlet<'a>) -> Self {
        let highest = settings.resume.iter().map(|(source, _)| source.saturating_add(1)).max();
        Self {
            settings,
            outlet,
            files: Vec::new(),
            known: VecDeque::new(),
            compressed: BTreeMap::new(),
            suspects: BTreeMap::new(),
            failures: BTreeSet::new(),
            past: Vec::new(),
            unreached: Vec::new(),
            seen: false,
            unread: VecDeque::new(),
            lost: Vec::new(),
            next_source: highest.unwrap_or(0),
            turns: 0,
        }
    }

    /// Opens what is there and reads each file to the end it has now, the oldest first: read before what was
    /// rotated away from it, a file would make all of that late.
    fn start(&mut self, stop: &AtomicBool) {
        for pattern in &self.settings.patterns {
            if file::list(pattern, &mut |_| {}).is_empty() {
                self.outlet.note(FollowNote::Missing { pattern: pattern.clone() });
            }
        }
        self.resume(true);
        self.scan(true);
        self.outlet.looked();
        self.give_lost();
        for source in self.oldest_first() {
            let index = self.files.iter().position(|file| file.source == source);
            let Some(index) = index.filter(|index| !self.must_wait(*index)) else { continue };
            let goal = self.files.get(index).and_then(|file| file.length().ok().flatten());
            while !stop.load(Ordering::Acquire)
                && !self.outlet.done
                && self.files.get(index).is_some_and(|file| Some(file.trace.offset) < goal)
                && self.visit(index)
            {}
        }
    }

    /// The sources of the files in the order in which they are read first: that in which they were written
    /// last. Where places are known from before, it is the one in which they were found.
    fn oldest_first(&self) -> Vec<u32> {
        let mut files: Vec<&Tracked> = self.files.iter().collect();
        if self.past.is_empty() {
            files.sort_by_cached_key(|file| {
                let meta = file.handle.as_ref().map(File::metadata);
                let meta = meta.unwrap_or_else(|| fs::metadata(&file.last_name));
                let written = meta.and_then(|meta| meta.modified()).ok();
                (written, Reverse(resume::rotations(&file.last_name)))
            });
        }
        files.into_iter().map(|file| file.source).collect()
    }

    /// Opens the files of the stored positions, wherever they are now, and what came after them; all
    /// of them at the start (`first`), then those that could not be reached.
    fn resume(&mut self, first: bool) {
        let settings = self.settings;
        let before = std::mem::take(&mut self.unreached);
        let mut said = BTreeMap::new();
        let positions = if first {
            settings.resume.clone()
        } else {
            let again = before.into_iter().map(|Unreached { source, position, error, .. }| {
                said.insert(source, error);
                (source, position)
            });
            again.collect()
        };
        let mut stored = Vec::new();
        for (source, position) in positions {
            if settings.patterns.iter().any(|pattern| file::may_mean(pattern, &position.path)) {
                stored.push((source, position));
            } else {
                self.outlet.note(FollowNote::Closed { path: position.path, source });
            }
        }
        if stored.is_empty() {
            return;
        }
        stored.sort_by_key(|(source, _)| *source);
        // Before and after names are listed: a mount may come or go meanwhile.
        let hidden = stored.iter().filter(|(_, position)| is_hidden(position));
        let hidden: BTreeSet<u32> = hidden.map(|(source, _)| *source).collect();
        let originals = stored.iter().map(|(_, position)| position.path.clone()).collect();
        let candidates = self.candidates(&originals);
        // Of the files that had a name one after the other, only behind the last one is the unknown.
        let mut holders: BTreeMap<&Path, u32> = BTreeMap::new();
        for (source, position) in &settings.resume {
            let last = holders.entry(&position.path).or_insert(*source);
            *last = (*last).max(*source);
        }
        let is_last =
            |source, position: &FilePosition| holders.get(position.path.as_path()) == Some(&source);
        let is_seen = |place: &Path| candidates.iter().any(|one| folder(&one.path) == place);
        let mut taken = self.files.iter().map(|file| file.id).collect();
        let findings = resume::find(&stored, &candidates, &mut taken, is_last);
        let mut moved = Vec::new();
        for ((source, position), finding) in stored.into_iter().zip(findings) {
            let mut time = None;
            let anew = matches!(finding, Finding::Overwritten(_));
            let is_last = is_last(source, &position);
            let mut unreached = None;
            match finding {
                Finding::Found(index) | Finding::Overwritten(index) => {
                    let Some(one) = candidates.get(index) else { continue };
                    time = one.meta.modified().ok();
                    // Also if it was settled: its successor may not have been known, or not yet
                    // lastingly. Under a name that fits, its position has that name and no other.
                    if is_last && one.path != position.path && (!position.settled || !one.fits) {
                        let to = Some(one.path.clone());
                        moved.push(Moved { from: position.path.clone(), to, time, fitting: true });
                    }
                    if let Err(error) = self.reopen(source, &position, one, anew) {
                        let error = InputError::from_io(&one.path, error).to_string();
                        unreached = Some((Some(one.id()), error));
                    }
                }
                Finding::Unreadable(index, error) => {
                    let Some(one) = candidates.get(index) else { continue };
                    let error = InputError::from_io(&one.path, error).to_string();
                    unreached = Some((Some(one.id()), error));
                }
                // Nothing is wrong so far.
                Finding::Missing
                    if !is_seen(folder(&position.path))
                        && (hidden.contains(&source) || is_hidden(&position)) =>
                {
                    unreached = Some((None, String::new()));
                }
                Finding::Missing => {
                    let behind = self.missing(source, &position, &candidates);
                    moved.extend(behind.filter(|_| is_last));
                }
            }
            if first {
                self.past.push((position.path.clone(), time));
            }
            if let Some((id, error)) = unreached {
                let said = said.get(&source) == Some(&error) || error.is_empty();
                let path = position.path.clone();
                self.unreached.push(Unreached { source, position, id, error: error.clone() });
                if !said && self.failures.insert(error.clone()) {
                    self.outlet.note(FollowNote::Failed { path, error });
                }
            }
        }
        for moved in &moved {
            let between = resume::between(moved, &candidates, &taken);
            self.open_all_between(&moved.from, between, &candidates, &mut taken);
        }
    }

    /// Says of a file that it is found nowhere, or packed. Behind it may be others of its name.
    fn missing(
        &mut self,
        source: u32,
        position: &FilePosition,
        candidates: &[Candidate],
    ) -> Option<Moved> {
        let packed = resume::packed(&position.path, &position.head, candidates);
        let (path, to) = (position.path.clone(), packed.map(|one| one.path.clone()));
        // What is there by now is read, or said not to be: it need not be looked for again.
        let names = names_of(&path);
        let here = candidates.iter().filter(|one| is_relative(&one.path, &names));
        let newest = here.filter_map(|one| nanos(one.meta.modified().ok()?)).max();
        let nameless = position.nameless || !position.settled;
        if nameless {
            let written = newest.max(position.written);
            let place = FilePosition { settled: true, nameless, written, ..position.clone() };
            self.lost.push((source, place));
        }
        let written = position.written.filter(|_| nameless).map(Duration::from_nanos);
        let time = packed.filter(|_| !position.settled).and_then(|one| one.meta.modified().ok());
        let time = time.or(SystemTime::UNIX_EPOCH.checked_add(written.unwrap_or_default()));
        let fitting = !position.settled && to.is_some();
        let moved = Moved { from: path.clone(), to: to.clone(), time, fitting };
        let whole = || to.as_deref().is_some_and(|packed| unpacks_to(packed, position.offset));
        self.outlet.note(if position.settled || whole() {
            FollowNote::Closed { path, source }
        } else {
            FollowNote::Missed { path, source, at: position.offset, packed: to }
        });
        (written.is_some() || fitting).then_some(moved)
    }

    /// Opens what had the name `path` while nobody was reading, in order, and the file that has it
    /// now.
    fn open_all_between(
        &mut self,
        path: &Path,
        between: Vec<&Candidate>,
        candidates: &[Candidate],
        taken: &mut BTreeSet<FileId>,
    ) {
        // So is the one that has the name: it may lose it before it is looked for.
        let current = candidates.iter().find(|one| one.path == *path && !taken.contains(&one.id()));
        let leaving = Stage::Leaving { deleted: false };
        let all = between.into_iter().map(|one| (one, leaving));
        for (one, stage) in
            all.chain(current.filter(|one| one.fits).map(|one| (one, Stage::Current)))
        {
            match self.open_between(path, one, stage) {
                Ok(true) => {}
                // Under its own name it is noted by the next scan.
                Ok(false) if stage == Stage::Current => {}
                Ok(false) => self.unread(one, None),
                // The next scan opens it, and says so if it cannot.
                Err(_) if stage == Stage::Current => {}
                Err(error) => self.unread(one, Some(error.to_string())),
            }
        }
        taken.extend(self.files.iter().map(|file| file.id));
    }

    /// Says of a file that it is not read; `error` says why, if it is not compressed.
    fn unread(&mut self, one: &Candidate, error: Option<String>) {
        if self.unread.len() >= KNOWN_MAX {
            self.unread.pop_front();
        }
        self.unread.push_back(one.id());
        self.outlet.note(FollowNote::Unread { path: one.path.clone(), error });
    }

    /// The files that may be those that had the names `originals`, as they are while no name moves.
    fn candidates(&mut self, originals: &BTreeSet<PathBuf>) -> Vec<Candidate> {
        let mut candidates = self.look_around(originals);
        for _ in 0..LOOKS_MAX {
            // While names move, a look can miss a file that goes from one to the other.
            let again = self.look_around(originals);
            if resume::is_same(&candidates, &again) {
                break;
            }
            candidates = again;
        }
        candidates
    }

    /// What fits the patterns, and, since a log may be rotated to a name that fits none, what is
    /// related to one of `originals` in its folder.
    fn look_around(&mut self, originals: &BTreeSet<PathBuf>) -> Vec<Candidate> {
        let (fitting, _) = self.names();
        let mut candidates: Vec<Candidate> =
            fitting.into_iter().map(|(path, meta)| Candidate { path, meta, fits: true }).collect();
        let fitting: BTreeSet<PathBuf> = candidates.iter().map(|one| one.path.clone()).collect();
        let names: BTreeSet<PathBuf> = originals.iter().flat_map(|path| names_of(path)).collect();
        let mut folders: BTreeMap<&Path, Vec<&PathBuf>> = BTreeMap::new();
        for path in &names {
            folders.entry(folder(path)).or_default().push(path);
        }
        for (folder, beside) in folders {
            let Ok(entries) = fs::read_dir(resume::place(folder)) else { continue };
            let mut paths: Vec<PathBuf> =
                entries.flatten().map(|entry| folder.join(entry.file_name())).collect();
            paths.sort();
            for path in paths {
                let related = beside.iter().any(|name| is_beside(&path, name));
                let meta = fs::metadata(&path).ok().filter(Metadata::is_file);
                // What a link leads to is there under the link's name.
                let real = !originals.contains(&path) && names.contains(&path);
                let known = fitting.contains(&path) || real;
                if let (true, false, Some(meta)) = (related, known, meta) {
                    candidates.push(Candidate { path, meta, fits: false });
                }
            }
        }
        candidates
    }

    /// Goes on in a file that was found again; `anew`: its content is another.
    fn reopen(
        &mut self,
        source: u32,
        position: &FilePosition,
        one: &Candidate,
        anew: bool,
    ) -> io::Result<()> {
        let handle = one.open()?;
        let trace = if anew { Trace::default() } else { Trace::at(&handle, position.offset)? };
        if anew {
            let (path, at) = (position.path.clone(), position.offset);
            self.outlet.note(FollowNote::Overwritten { path, source, at });
        }
        let stage = match (position.settled, one.path == position.path && one.fits) {
            // Back at the name that it had lost.
            (true, true) if position.nameless => Stage::Current,
            (true, _) => Stage::Settled,
            (false, true) => Stage::Current,
            (false, false) => Stage::Leaving { deleted: false },
        };
        let name = one.fits.then(|| one.path.clone());
        let settled_as = name.clone().filter(|_| position.settled);
        self.track(New {
            source,
            id: one.id(),
            last_name: settled_as.unwrap_or_else(|| position.path.clone()),
            name,
            handle,
            inside: position.inside && !anew,
            stage,
            skip_zeros: trace.offset == 0,
            trace,
        });
        Ok(())
    }

    /// Opens a file that got the name `path` while nobody was reading, and may have lost it again.
    /// False if it is compressed.
    fn open_between(&mut self, path: &Path, one: &Candidate, stage: Stage) -> io::Result<bool> {
        let handle = one.open()?;
        let mut magic = [0; file::MAGIC_LEN];
        let count = read_up_to(&handle, &mut magic, 0)?;
        let packing = file::packing(magic.get(..count).unwrap_or_default());
        if packing.is_some() || resume::is_packed(&one.path) {
            return Ok(false);
        }
        self.track(New {
            source: self.next_source,
            id: one.id(),
            name: one.fits.then(|| one.path.clone()),
            last_name: path.to_owned(),
            handle,
            trace: Trace::default(),
            inside: false,
            stage,
            skip_zeros: true,
        });
        Ok(true)
    }

    /// Follows a file from the place that its trace was taken at.
    fn track(&mut self, new: New) {
        let New { source, id, name, last_name, handle, trace, inside, stage, skip_zeros } = new;
        self.next_source = self.next_source.max(source.saturating_add(1));
        let before = self.files.iter().filter(|file| file.is_leaving());
        let before = before.filter(|file| file.last_name == last_name && stage != Stage::Settled);
        let after = before.map(|file| file.source).next_back();
        self.outlet.note(FollowNote::Opened { path: last_name.clone(), source });
        if matches!(stage, Stage::Leaving { .. }) {
            self.outlet.note(FollowNote::Rotated { path: last_name.clone() });
        }
        let mut splitter = LineSplitter::new(source, self.settings.max_line);
        splitter.go_to(trace.offset, inside);
        let mut file = Tracked {
            source,
            id,
            born: handle.metadata().ok().as_ref().and_then(born),
            name,
            last_name,
            handle: Some(handle),
            given: Given::at(&trace, inside),
            trace,
            splitter,
            quiet: 0,
            stage,
            after,
            longest: 0,
            is_copy: false,
            skip_zeros,
            ended: false,
            failing: false,
        };
        file.give_mark(None, &mut self.outlet);
        self.files.push(file);
        self.close_quietest();
    }

    /// Looks at every file whose turn it is. True if there is more to read at once.
    fn turn(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        let quiet = self.files.iter().filter(|file| file.is_quiet()).count();
        let stride = quiet.div_ceil(QUIET_PER_POLL).max(1);
        let mut place = self.turns;
        let mut more = false;
        for index in 0..self.files.len() {
            let Some(file) = self.files.get(index) else { break };
            if file.is_quiet() {
                place = place.wrapping_add(1);
                if !place.is_multiple_of(stride) {
                    continue;
                }
            }
            more |= !self.must_wait(index) && self.visit(index) && !self.outlet.done;
        }
        for file in &mut self.files {
            if !self.outlet.done {
                file.settle(&mut self.outlet);
            }
        }
        self.let_go();
        more
    }

    /// `stop` was set: what was written before it is read, successors without delay.
    fn end(&mut self) {
        for scan in [true, false] {
            for index in 0..self.files.len() {
                if !self.outlet.done && (!scan || !self.must_wait(index)) {
                    self.visit(index);
                }
            }
            if scan && !self.outlet.done {
                self.scan(false);
            }
        }
        for file in self.files.iter_mut().filter(|file| file.is_doomed()) {
            if !self.outlet.done {
                file.quiet = GRACE_POLLS;
                file.settle(&mut self.outlet);
            }
        }
    }

    /// Whether the file that had this one's name before must be read to its end first.
    fn must_wait(&mut self, index: usize) -> bool {
        let Some(before) = self.files.get(index).and_then(|file| file.after) else { return false };
        let waits = self.files.iter().any(|file| file.source == before && file.is_leaving());
        if let Some(file) = self.files.get_mut(index).filter(|_| !waits) {
            file.after = None;
        }
        waits
    }

    /// Looks at one file. True if there is more to read in it at once.
    fn visit(&mut self, index: usize) -> bool {
        let block = self.settings.block;
        let Some(file) = self.files.get_mut(index) else { return false };
        let was_open = file.handle.is_some();
        let mut look = file.look(block, &mut self.outlet);
        if matches!(look, Look::LostName) {
            // Its successor is opened at once (not read yet), before it can be rotated as well.
            self.scan(false);
            let Some(file) = self.files.get_mut(index) else { return false };
            look = file.look(block, &mut self.outlet);
        }
        if !was_open {
            self.close_quietest();
        }
        match look {
            Look::Quiet | Look::LostName => false,
            Look::Grew { more } => more,
            Look::Truncated => {
                self.leave_old_content(index);
                true
            }
            Look::Compressed => {
                if let Some(file) = self.files.get_mut(index) {
                    let (path, source) = (file.last_name.clone(), Some(file.source));
                    self.compressed.insert(file.id, (path.clone(), None));
                    // Without a name and settled, it is let go at the end of this turn.
                    (file.name, file.handle, file.stage) = (None, None, Stage::Settled);
                    file.ended = true;
                    self.outlet.note(FollowNote::Compressed { path, source });
                }
                false
            }
        }
    }

    /// What was read of a file is there no more: what is left of it is read in its copy, or else what
    /// came in its place is read from the beginning.
    fn leave_old_content(&mut self, index: usize) {
        if self.go_on_in_copy(index).is_some() {
            return;
        }
        let Some(file) = self.files.get_mut(index) else { return };
        let trace = file.restart(&mut self.outlet);
        let (source, id, path) = (file.source, file.id, file.last_name.clone());
        self.remember(Known { source, id, path, trace, overwritten: true });
    }

    /// Goes on in the copy that was made of a file before it was truncated, as after a restart. None,
    /// and nothing is changed, if there is no copy, or nothing that was not read in it and behind it.
    fn go_on_in_copy(&mut self, index: usize) -> Option<()> {
        let file = self.files.get_mut(index)?;
        if file.stage != Stage::Current || file.name.is_none() || file.ended {
            return None;
        }
        let position = file.position();
        let (source, id, born, read) = (file.source, file.id, file.born, file.trace.offset);
        if !position.is_telling() {
            return None;
        }
        let candidates = self.candidates(&BTreeSet::from([position.path.clone()]));
        let mut taken = self.taken(&candidates);
        taken.remove(&id);
        let stored = [(source, position)];
        let finding = resume::find(&stored, &candidates, &mut taken, |_, _| false).pop()?;
        let Finding::Found(place) = finding else { return None };
        let copy = candidates.get(place).filter(|one| one.id() != id && one.meta.len() >= read)?;
        let [(_, position)] = &stored;
        let place = Whereabouts {
            moved: Moved {
                from: position.path.clone(),
                to: Some(copy.path.clone()),
                time: copy.meta.modified().ok(),
                fitting: true,
            },
            handle: copy.open().ok()?,
            born,
        };
        let between = place.between(&candidates, &taken);
        if copy.meta.len() == read && between.is_empty() {
            return None;
        }
        let old = self.files.remove(index);
        if self.reopen(source, position, copy, false).is_err() {
            self.files.insert(index, old);
            return None;
        }
        if let Some(mut file) = self.files.pop() {
            file.is_copy = true;
            self.files.insert(index, file);
        }
        self.open_all_between(&position.path, between, &candidates, &mut taken);
        Some(())
    }

    /// Files that are known, so that none of them came behind one that lost its name.
    fn taken(&self, candidates: &[Candidate]) -> BTreeSet<FileId> {
        let is_same = |known: &&Known| {
            let mut own = candidates.iter().filter(|one| one.id() == known.id);
            let same = |file: File| Ok(known.trace.compare(&file)? == Likeness::Same);
            own.next().is_some_and(|one| one.open().and_then(same).unwrap_or(false))
        };
        let known = self.known.iter().filter(|known| !known.overwritten).filter(is_same);
        let told = self.compressed.keys().chain(&self.unread);
        let files = self.files.iter().map(|file| file.id);
        files.chain(known.map(|known| known.id)).chain(told.copied()).collect()
    }

    /// The names that do not stand any more for the file that is followed under them, or that stand
    /// for one that is not followed yet; and the source that had each of them last. `names` are in
    /// order.
    fn lost_names(&self, names: &[(PathBuf, Metadata)], first: bool) -> BTreeMap<PathBuf, u32> {
        let holder = |name: &Path| {
            let order = |(path, _): &(PathBuf, Metadata)| {
                path.as_os_str().as_bytes().cmp(name.as_os_str().as_bytes())
            };
            names.get(names.binary_search_by(order).ok()?).map(|(_, meta)| FileId::of(meta))
        };
        let mut lost = BTreeMap::new();
        let mut without = BTreeMap::new();
        for file in &self.files {
            let name = file.name.as_deref();
            if file.stage != Stage::Current {
                if name != Some(&file.last_name) {
                    without.insert(file.last_name.as_path(), file.source);
                }
            } else if let Some(name) = name.filter(|name| holder(name) != Some(file.id)) {
                lost.insert(name.to_owned(), file.source);
            }
        }
        // What was there at the start has been looked for.
        if first || without.is_empty() && self.known.is_empty() {
            return lost;
        }
        let tracked: BTreeSet<FileId> = self.files.iter().map(|file| file.id).collect();
        for (path, meta) in names {
            let id = FileId::of(meta);
            if tracked.contains(&id) || lost.contains_key(path) {
                continue;
            }
            let known = || {
                let known = self.known.iter().rfind(|one| one.path == *path && !one.overwritten);
                known.filter(|known| known.id != id).map(|known| known.source)
            };
            if let Some(source) = without.get(path.as_path()).copied().or_else(known) {
                lost.insert(path.clone(), source);
            }
        }
        lost
    }

    /// Goes on in the copies of files that were truncated, and whose names stand for others by now.
    fn leave_copied(&mut self, lost: &BTreeMap<PathBuf, u32>) {
        for source in lost.values() {
            let place = self.files.iter().position(|file| file.source == *source);
            let Some(place) = place else { continue };
            let is_other = |file: &Tracked| {
                let likeness = file.handle.as_ref().map(|handle| file.trace.compare(handle));
                likeness.and_then(Result::ok).is_some_and(|likeness| likeness != Likeness::Same)
            };
            if self.files.get(place).is_some_and(is_other) {
                self.go_on_in_copy(place);
            }
        }
    }

    /// Opens what had the names of `lost` after those sources and lost them again between two looks.
    fn open_lost(&mut self, lost: &BTreeMap<PathBuf, u32>, candidates: &[Candidate]) {
        let places = lost.iter().map(|(path, source)| self.whereabouts(path, *source, candidates));
        let mut places: Vec<Whereabouts> = places.flatten().collect();
        // Of old logs that are followed each loses its name too: what is unknown came behind the newest.
        places.sort_by_key(|place| Reverse(place.moved.time));
        let mut taken = self.taken(candidates);
        for place in places {
            let between = place.between(candidates, &taken);
            if !between.is_empty() {
                self.open_all_between(&place.moved.from, between, candidates, &mut taken);
            }
        }
    }

    /// Where the file of `source` is, which had the name `from`. None if that is not known for sure.
    fn whereabouts(
        &self,
        from: &Path,
        source: u32,
        candidates: &[Candidate],
    ) -> Option<Whereabouts> {
        let file = self.files.iter().find(|file| file.source == source);
        let (id, trace, born, open) = if let Some(file) = file {
            (file.id, &file.trace, file.born, file.handle.as_ref())
        } else {
            let known = self.known.iter().find(|known| known.source == source)?;
            (known.id, &known.trace, None, None)
        };
        let here = candidates.iter().find(|one| one.id() == id && one.path != from);
        let handle = match (open, here) {
            (Some(open), _) => open.try_clone().ok()?,
            (None, Some(one)) => one.open().ok().filter(|file| {
                trace.offset > 0 && trace.compare(file).is_ok_and(|like| like == Likeness::Same)
            })?,
            (None, None) => return None,
        };
        let time = Some(handle.metadata().ok()?.modified().ok()?);
        let packed = || resume::packed(from, &Print::of_head(&trace.head), candidates);
        let to = here.or_else(packed).map(|one| one.path.clone());
        let moved = Moved { from: from.to_owned(), fitting: to.is_some(), to, time };
        Some(Whereabouts { moved, handle, born })
    }

    /// Closes the quietest files while too many are open.
    fn close_quietest(&mut self) {
        let open = self.files.iter().filter(|file| file.handle.is_some()).count();
        for _ in OPEN_MAX..open {
            let closable =
                self.files.iter_mut().filter(|file| file.handle.is_some() && !file.is_leaving());
            if let Some(file) = closable.max_by_key(|file| (file.quiet, file.trace.offset)) {
                file.handle = None;
            }
        }
    }

    /// Drops files that are over; keeps the position of those that still exist somewhere.
    fn let_go(&mut self) {
        let over: Vec<Tracked> = self.files.extract_if(.., |file| file.is_over()).collect();
        for file in over {
            if !file.ended {
                self.outlet.let_go(file.source, file.last_name.clone());
            }
            let meta = file.handle.as_ref().and_then(|handle| handle.metadata().ok());
            if meta.is_none_or(|meta| meta.nlink() > 0) && file.trace.offset > 0 {
                let Tracked { source, id, last_name: path, trace, .. } = file;
                self.remember(Known { source, id, path, trace, overwritten: false });
            }
        }
    }

    fn remember(&mut self, known: Known) {
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(known);
    }

    /// Finds out which names there are now: follows renames, opens what is new.
    fn scan(&mut self, first: bool) {
        let seen = std::mem::take(&mut self.seen);
        let again = !first && (seen || self.unreached.iter().any(Unreached::may_be_there));
        if again {
            // Who has a successor is known only behind this scan.
            self.outlet.looked = false;
            self.resume(false);
        }
        let (mut names, whole) = self.names();
        // What a folder holds that cannot be listed now is not gone.
        if !whole && !first {
            self.seen |= seen || again;
            return;
        }
        let mut candidates = Vec::new();
        let mut lost = self.lost_names(&names, first);
        for _ in 0..LOOKS_MAX {
            if lost.is_empty() {
                break;
            }
            candidates = self.candidates(&lost.keys().cloned().collect());
            let fitting = candidates.iter().filter(|one| one.fits);
            names = fitting.map(|one| (one.path.clone(), one.meta.clone())).collect();
            // Another may have been rotated meanwhile, in a folder that was not looked into.
            let before = std::mem::replace(&mut lost, self.lost_names(&names, first));
            if lost.keys().all(|path| before.contains_key(path)) {
                break;
            }
        }
        self.leave_copied(&lost);
        let by_name: BTreeMap<&Path, FileId> =
            names.iter().map(|(path, meta)| (path.as_path(), FileId::of(meta))).collect();
        let by_id: BTreeMap<FileId, &PathBuf> =
            names.iter().rev().map(|(path, meta)| (FileId::of(meta), path)).collect();
        self.open_moved(|name| by_name.get(name).copied(), |id| by_id.contains_key(&id));
        for file in &mut self.files {
            let holder = file.name.as_ref().and_then(|name| by_name.get(name.as_path()));
            if holder != Some(&file.id) {
                let new = by_id.get(&file.id).map(|path| (*path).clone());
                file.rename(new, holder.is_some(), &mut self.outlet);
            }
        }
        if !lost.is_empty() {
            self.open_lost(&lost, &candidates);
        }
        self.suspects.retain(|id, _| by_id.contains_key(id));
        self.compressed.retain(|id, _| by_id.contains_key(id));
        let mut tracked: BTreeSet<FileId> = self.files.iter().map(|file| file.id).collect();
        for (path, meta) in &names {
            let waits = |one: &Unreached| match one.id {
                Some(id) => id == FileId::of(meta),
                None => folder(&one.position.path) == folder(path),
            };
            if !tracked.insert(FileId::of(meta)) {
                continue;
            }
            if self.unreached.iter().any(waits) {
                self.seen = true;
            } else if let Err(error) = self.admit(path, meta, first)
                && !is_gone(&error)
            {
                self.fail(&InputError::from_io(path, error), path);
            }
        }
        if again {
            self.outlet.looked();
            self.give_lost();
        }
    }

    /// Opens closed files that were moved out of sight, most likely into their own folder: without a
    /// handle they could not be told from deleted ones.
    fn open_moved(
        &mut self,
        holder: impl Fn(&Path) -> Option<FileId>,
        is_seen: impl Fn(FileId) -> bool,
    ) {
        let open = self.files.iter().filter(|file| file.handle.is_some()).count();
        let mut free = (2 * OPEN_MAX).saturating_sub(open);
        let mut folders: BTreeMap<PathBuf, BTreeMap<u64, PathBuf>> = BTreeMap::new();
        let closed = self.files.iter_mut().filter(|file| file.handle.is_none());
        for file in closed.filter(|file| file.trace.offset > 0 && !is_seen(file.id)) {
            let lost = file.name.as_ref().is_some_and(|name| holder(name) != Some(file.id));
            if !lost || free == 0 {
                continue;
            }
            let folder = folder(&file.last_name).to_owned();
            let inodes = folders
                .entry(folder)
                .or_insert_with_key(|folder| resume::inodes(folder).unwrap_or_default());
            let moved = inodes.get(&file.id.inode).and_then(|path| File::open(path).ok());
            let same = |open: &File| {
                open.metadata().is_ok_and(|meta| FileId::of(&meta) == file.id)
                    && matches!(file.trace.compare(open), Ok(Likeness::Same))
            };
            file.handle = moved.filter(same);
            free -= usize::from(file.handle.is_some());
        }
    }

    /// Gives the places of lost files. Only now: a run that ends before its successor has a place must
    /// say the loss again, as nobody would look for what came between.
    fn give_lost(&mut self) {
        for (source, place) in std::mem::take(&mut self.lost) {
            self.outlet.give_lost(source, place);
        }
    }

    /// The regular files that fit now, in order of paths; and whether those are all, as far as folders may be
    /// looked into.
    fn names(&mut self) -> (Vec<(PathBuf, Metadata)>, bool) {
        let mut errors = Vec::new();
        let mut paths = BTreeMap::new();
        for pattern in &self.settings.patterns {
            for path in file::list(pattern, &mut |error| errors.push(error)) {
                if let Some(meta) = fs::metadata(&path).ok().filter(Metadata::is_file) {
                    paths.insert(path.as_os_str().as_bytes().to_vec(), (path, meta));
                }
            }
        }
        let before = std::mem::take(&mut self.failures);
        let whole = !errors.iter().any(|error| matches!(error, InputError::Unreadable { .. }));
        for error in errors {
            // That there is nothing yet is what following is for.
            if let InputError::Denied { path } | InputError::Unreadable { path, .. } = &error {
                let path = path.clone();
                self.failures.extend(before.get(&error.to_string()).cloned());
                self.fail(&error, &path);
            }
        }
        for text in before {
            // A file that could not be opened stays told as long as it has its name.
            if !whole
                || paths
                    .values()
                    .any(|(path, _)| text.starts_with(&format!("{}: ", path.display())))
            {
                self.failures.insert(text);
            }
        }
        (paths.into_values().collect(), whole)
    }

    fn fail(&mut self, error: &InputError, path: &Path) {
        let error = error.to_string();
        if self.failures.insert(error.clone()) {
            self.outlet.note(FollowNote::Failed { path: path.to_owned(), error });
        }
    }

    /// Opens a file that is not followed yet and decides where reading it begins.
    fn admit(&mut self, path: &Path, meta: &Metadata, first: bool) -> io::Result<()> {
        let told = self.compressed.get(&FileId::of(meta));
        if told.is_some_and(|(name, time)| name == path && *time == meta.modified().ok()) {
            return Ok(());
        }
        let handle = File::open(path)?;
        let meta = handle.metadata()?;
        let id = FileId::of(&meta);
        if !meta.is_file() || self.files.iter().any(|file| file.id == id) {
            return Ok(());
        }
        let mut magic = [0; file::MAGIC_LEN];
        let count = read_up_to(&handle, &mut magic, 0)?;
        if file::packing(magic.get(..count).unwrap_or_default()).is_some() {
            let seen = (path.to_owned(), meta.modified().ok());
            if self.compressed.insert(id, seen).is_none() {
                self.outlet.note(FollowNote::Compressed { path: path.to_owned(), source: None });
            }
            return Ok(());
        }
        self.compressed.remove(&id);
        let follows = self.files.iter().any(|file| file.is_leaving() && file.last_name == path);
        let (mut source, mut trace, mut inside) = (None, Trace::default(), false);
        if let Some(known) = self.known_again(id, &handle)? {
            (source, trace) = (Some(known.source), known.trace);
        } else {
            let from_end =
                first && self.settings.from_end && !follows && !self.is_successor(path, &meta);
            let copy = if follows || from_end || (first && self.past.is_empty()) {
                Start::Beginning
            } else {
                self.judge_copy(path, &handle, &meta)?
            };
            match copy {
                Start::Later => return Ok(()),
                Start::After { at, of } => {
                    trace = Trace::at(&handle, at)?;
                    self.outlet.note(FollowNote::Copied { path: path.to_owned(), of, at });
                }
                Start::Beginning if from_end => {
                    let start = last_line_start(&handle, meta.len(), self.settings.max_line)?;
                    inside = start.is_none();
                    trace = Trace::at(&handle, start.unwrap_or(meta.len()))?;
                }
                Start::Beginning => {}
            }
        }
        self.track(New {
            source: source.unwrap_or(self.next_source),
            id,
            name: Some(path.to_owned()),
            last_name: path.to_owned(),
            handle,
            trace,
            inside,
            stage: Stage::Current,
            // What was copied and truncated while nobody was reading looks like this.
            skip_zeros: first && follows,
        });
        Ok(())
    }

    /// Whether a file that was there at the start may have come after one that was followed before:
    /// its name says so, and it was not written last before that one was.
    fn is_successor(&self, path: &Path, meta: &Metadata) -> bool {
        let time = meta.modified().ok();
        self.past.iter().any(|(of, written)| resume::is_successor(path, of) && time >= *written)
    }

    /// A file that was followed before and came back with the content it had.
    fn known_again(&mut self, id: FileId, file: &File) -> io::Result<Option<Known>> {
        let place = self.known.iter().position(|known| known.id == id && !known.overwritten);
        let Some(known) = place.and_then(|place| self.known.remove(place)) else {
            return Ok(None);
        };
        Ok(Some(known).filter(|known| {
            known.trace.compare(file).is_ok_and(|likeness| likeness == Likeness::Same)
        }))
    }

    /// Whether a new file is the copy that copytruncate makes: same folder, a name that begins like
    /// the original's, and the same content where it was read. A copy is seen before the original
    /// is truncated, often before it is complete; so what begins like a followed file waits for one
    /// scan, and as long as it is no more than a copy, for [`COPY_SCANS`].
    fn judge_copy(&mut self, path: &Path, file: &File, meta: &Metadata) -> io::Result<Start> {
        let mut original = None;
        for other in &self.files {
            if is_beside(path, &other.last_name) && other.trace.begins(file)? {
                let reopened;
                let handle = if let Some(handle) = &other.handle {
                    handle
                } else {
                    reopened = File::open(&other.last_name)?;
                    &reopened
                };
                let same = Trace::at(file, meta.len())?.compare(handle)? == Likeness::Same;
                original = Some((same, other.last_name.clone()));
                if same {
                    break;
                }
            }
        }
        // Content that is there no more; but a copy of a copy that is still there is that one's.
        let past = self.known.iter().filter(|known| known.overwritten);
        for known in past.filter(|_| !matches!(original, Some((true, _)))) {
            if is_beside(path, &known.path)
                && known.trace.begins(file)?
                && known.trace.compare(file)? == Likeness::Same
            {
                let (at, of) = (known.trace.offset, known.path.clone());
                return Ok(Start::After { at, of });
            }
        }
        let Some((same, of)) = original else { return Ok(Start::Beginning) };
        let (len, scans) = self.suspects.entry(FileId::of(meta)).or_insert((meta.len(), 0));
        *scans = if *len == meta.len() { *scans + 1 } else { 1 };
        *len = meta.len();
        Ok(match (*scans, same) {
            (0..=1, _) | (2..COPY_SCANS, true) => Start::Later,
            (_, true) => Start::After { at: *len, of },
            (_, false) => Start::Beginning,
        })
    }
}

/// The folder of a file, as its name has it; empty for the working directory.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Whether a file lies beside one of the [`names_of`] another, under a name that begins alike.
pub(super) fn is_relative(path: &Path, names: &[PathBuf]) -> bool {
    names.iter().any(|name| is_beside(path, name))
}

/// Same folder, and the name begins with the original's up to its first dot.
pub(super) fn is_beside(path: &Path, original: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.as_bytes().to_vec());
    let (Some(name), Some(original_name)) = (name(path), name(original)) else { return false };
    let stem = original_name.split(|byte| *byte == b'.').next().unwrap_or_default();
    path.parent() == original.parent() && name.starts_with(stem)
}

/// The name of a file and, if it is a link, as those in Kubernetes' `/var/log/containers` are, that
/// of the file to which it leads: rotated is that file.
pub(super) fn names_of(path: &Path) -> Vec<PathBuf> {
    let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let real = if is_link { path.canonicalize().ok() } else { None };
    [path.to_owned()].into_iter().chain(real).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
    use std::thread::JoinHandle;
    use std::time::Instant;
    use tempfile::TempDir;

    #[derive(Default)]
    struct Seen {
        /// Lines with their source; an oversized one ends with `~`.
        lines: Vec<(u32, String)>,
        notes: Vec<String>,
    }

    /// A temp folder that is followed on a thread of its own.
    struct Scene {
        dir: TempDir,
        seen: Arc<Mutex<Seen>>,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    }

    impl Scene {
        fn new() -> Self {
            let (seen, stop) = Default::default();
            Self { dir: tempfile::tempdir().unwrap(), seen, stop, thread: None }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn start(&mut self, pattern: &str, change: impl Fn(&mut FollowSettings)) {
            let mut settings = FollowSettings {
                patterns: vec![self.path(pattern).to_str().unwrap().to_owned()],
                poll: Duration::from_millis(1),
                rescan: Duration::from_millis(10),
                block: 64,
                ..FollowSettings::default()
            };
            change(&mut settings);
            let (seen, stop, root) =
                (Arc::clone(&self.seen), Arc::clone(&self.stop), self.dir.path().to_owned());
            self.thread = Some(thread::spawn(move || {
                let mut on_batch = |batch: Batch| {
                    let mark = if batch.oversized { "~" } else { "" };
                    let text = |line| format!("{}{mark}", String::from_utf8_lossy(line));
                    let lines = batch.lines().map(|line| (batch.source, text(line)));
                    lock(&seen).lines.extend(lines);
                    true
                };
                let mut on_note = |note| {
                    let name = |path: &Path| {
                        path.strip_prefix(&root).unwrap_or(path).display().to_string()
                    };
                    let text = match note {
                        FollowNote::Opened { path, source } => {
                            format!("opened {} {source}", name(&path))
                        }
                        FollowNote::Rotated { path } => format!("rotated {}", name(&path)),
                        FollowNote::Truncated { path, at, .. } => {
                            format!("truncated {} {at}", name(&path))
                        }
                        FollowNote::Gone { path, .. } => format!("gone {}", name(&path)),
                        FollowNote::Failed { path, .. } => format!("failed {}", name(&path)),
                        FollowNote::Missing { pattern } => {
                            format!("missing {}", name(Path::new(&pattern)))
                        }
                        FollowNote::Compressed { path, .. } | FollowNote::Unread { path, .. } => {
                            format!("compressed {}", name(&path))
                        }
                        FollowNote::Closed { path, .. } => format!("closed {}", name(&path)),
                        FollowNote::Overwritten { path, at, .. } => {
                            format!("overwritten {} {at}", name(&path))
                        }
                        FollowNote::Missed { path, at, packed, .. } => {
                            let packed = packed.map_or(String::new(), |packed| name(&packed));
                            format!("missed {} {at} {packed}", name(&path)).trim_end().to_owned()
                        }
                        FollowNote::Copied { path, of, at } => {
                            format!("copied {} {} {at}", name(&path), name(&of))
                        }
                        FollowNote::Ended { .. } => return,
                    };
                    lock(&seen).notes.push(text);
                };
                follow(&settings, &stop, &mut on_batch, &mut on_note).unwrap();
            }));
        }

        fn write(&self, name: &str, text: &str) {
            let file = OpenOptions::new().create(true).append(true).open(self.path(name));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.path(from), self.path(to)).unwrap();
        }

        #[track_caller]
        fn wait(&self, what: &str, reached: impl Fn(&Seen) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(20);
            while !reached(&lock(&self.seen)) {
                if Instant::now() > deadline {
                    let seen = lock(&self.seen);
                    panic!("no {what}; lines {:?}, notes {:?}", seen.lines, seen.notes);
                }
                thread::sleep(Duration::from_millis(1));
            }
        }

        #[track_caller]
        fn wait_note(&self, note: &str) {
            self.wait(note, |seen| seen.notes.iter().any(|have| have == note));
        }

        #[track_caller]
        fn wait_lines(&self, expected: &[&str]) {
            let text = format!("{expected:?}");
            self.wait(&text, |seen| seen.lines.iter().map(|(_, line)| line).eq(expected));
        }

        fn finish(&mut self) -> (Vec<(u32, String)>, Vec<String>) {
            self.stop.store(true, Ordering::Release);
            if let Some(thread) = self.thread.take() {
                thread.join().unwrap();
            }
            let mut seen = lock(&self.seen);
            (std::mem::take(&mut seen.lines), std::mem::take(&mut seen.notes))
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Release);
        }
    }

    fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
        seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_missing_file_is_waited_for_and_a_partial_line_too() {
        let mut scene = Scene::new();
        scene.start("app.log", |_| {});
        scene.wait_note("missing app.log");
        scene.write("app.log", "one\ntw");
        scene.wait_lines(&["one"]);
        scene.write("app.log", "o\nthr");
        scene.wait_lines(&["one", "two"]);
        let (lines, notes) = scene.finish();
        assert_eq!(lines.len(), 2, "an unfinished line is not handed over: {lines:?}");
        assert_eq!(notes, ["missing app.log", "opened app.log 0"]);
    }

    #[test]
    fn a_line_arrives_within_milliseconds() {
        let mut scene = Scene::new();
        scene.write("app.log", "");
        scene.start("app.log", |settings| settings.poll = Duration::from_millis(4));
        scene.wait_note("opened app.log 0");
        let mut delays = Vec::new();
        for count in 1..=20 {
            let begin = Instant::now();
            scene.write("app.log", "line\n");
            scene.wait("the line", |seen| seen.lines.len() == count);
            delays.push(begin.elapsed());
        }
        delays.sort();
        // Generous: the machine may be busy. The rescan pause, 10 ms here, plays no part.
        assert!(delays[10] < Duration::from_millis(100), "{delays:?}");
    }

    #[test]
    fn rename_and_create_reads_late_writes_first() {
        let mut scene = Scene::new();
        scene.write("app.log", "one\n");
        scene.start("app.log", |settings| settings.poll = Duration::from_millis(10));
        scene.wait_lines(&["one"]);
        let mut old = OpenOptions::new().append(true).open(scene.path("app.log")).unwrap();
        scene.rename("app.log", "moved");
        scene.write("app.log", "new\n");
        old.write_all(b"late\ntail").unwrap();
        scene.wait_lines(&["one", "late", "tail", "new"]);
        old.write_all(b"very late\n").unwrap();
        scene.wait_lines(&["one", "late", "tail", "new", "very late"]);
        let (lines, notes) = scene.finish();
        let sources: Vec<u32> = lines.iter().map(|(source, _)| *source).collect();
        assert_eq!(sources, [0, 0, 0, 1, 0]);
        assert_eq!(notes, ["opened app.log 0", "rotated app.log", "opened app.log 1"]);
    }

    #[test]
    fn a_rotated_name_under_the_same_glob_is_not_read_twice() {
        let mut scene = Scene::new();
        scene.write("app.log", "one\n");
        scene.start("app.log*", |_| {});
        scene.wait_lines(&["one"]);
        for (line, expected) in [("two", &["one", "two"][..]), ("three", &["one", "two", "three"])]
        {
            if scene.path("app.log.1").exists() {
                scene.rename("app.log.1", "app.log.2");
            }
            scene.rename("app.log", "app.log.1");
            scene.write("app.log", &format!("{line}\n"));
            scene.wait_lines(expected);
        }
        scene.write("app.log.2", "late\n");
        scene.wait_lines(&["one", "two", "three", "late"]);
        fs::remove_file(scene.path("app.log.2")).unwrap();
        scene.wait_note("gone app.log.2");
        let (lines, _) = scene.finish();
        assert_eq!(lines.last(), Some(&(0, "late".to_owned())), "the number stays with the file");
    }

    #[test]
    fn copytruncate_restarts_even_if_the_new_content_is_longer() {
        let mut scene = Scene::new();
        scene.write("app.log", "first line\ntail");
        scene.start("app.log", |_| {});
        scene.wait_lines(&["first line"]);
        fs::write(scene.path("app.log"), "").unwrap();
        scene.wait_note("truncated app.log 15");
        scene.write("app.log", "second\n");
        scene.wait_lines(&["first line", "tail", "second"]);
        // Rewritten in place, longer than before: only the content tells.
        fs::write(scene.path("app.log"), "other content\nand more\n").unwrap();
        scene.wait_lines(&["first line", "tail", "second", "other content", "and more"]);
        let (lines, notes) = scene.finish();
        assert!(lines.iter().all(|(source, _)| *source == 0));
        assert_eq!(notes.iter().filter(|note| note.starts_with("truncated")).count(), 2);
    }

    #[test]
    fn zeros_left_by_a_writer_without_append_are_skipped() {
        let mut scene = Scene::new();
        let mut writer = File::create(scene.path("app.log")).unwrap();
        writer.write_all(&b"0123456789\n".repeat(30)).unwrap();
        scene.start("app.log", |settings| settings.max_line = 50);
        scene.wait("30 lines", |seen| seen.lines.len() == 30);
        writer.set_len(0).unwrap();
        writer.write_all(b"after\n").unwrap();
        scene.wait("the line", |seen| seen.lines.len() > 30);
        let (lines, _) = scene.finish();
        assert_eq!(lines[30..], [(0, "after".to_owned())]);
    }

    #[test]
    fn a_copy_made_by_copytruncate_is_not_read_again() {
        let mut scene = Scene::new();
        let old: String = (0..100).map(|n| format!("2025-08-03 line {n}\n")).collect();
        scene.write("app.log", &old);
        scene.start("app.log*", |_| {});
        scene.wait("100 lines", |seen| seen.lines.len() == 100);
        // One that is seen while it is empty counts as new, so each is made out of sight.
        let copy = |from: &str, to: &str| {
            fs::copy(scene.path(from), scene.path("copy")).unwrap();
            scene.rename("copy", to);
        };
        copy("app.log", "app.log.1");
        // Written between copy and truncation, and read by nobody: it is in the copy only.
        fs::write(scene.path("app.log"), "new\n").unwrap();
        scene.write("app.log.1", "in between\n");
        scene.wait("both", |seen| seen.lines.len() >= 102);
        // A copy without truncation brings nothing, but is followed from then on.
        copy("app.log.1", "app.log.2");
        scene.wait_note(&format!("copied app.log.2 app.log.1 {}", old.len() + 11));
        scene.write("app.log.2", "more\n");
        scene.wait("more", |seen| seen.lines.len() >= 103);
        let (lines, notes) = scene.finish();
        let mut rest: Vec<&str> = lines[100..].iter().map(|(_, line)| line.as_str()).collect();
        rest.sort();
        assert_eq!(rest, ["in between", "more", "new"], "{notes:?}");
    }

    #[test]
    fn new_files_under_a_glob_are_read_whole_even_from_end() {
        let mut scene = Scene::new();
        scene.write("b-1.log", "old\nhalf");
        scene.write("a-1.log", "old\n");
        scene.write("c-1.log", &"x".repeat(300));
        scene.start("*.log", |settings| (settings.from_end, settings.max_line) = (true, 100));
        scene.wait_note("opened c-1.log 2");
        scene.write("b-1.log", " a line\n");
        scene.wait_lines(&["half a line"]);
        scene.write("c-1.log", "xxx\nc\n");
        scene.wait_lines(&["half a line", "c"]);
        scene.write("a-2.log", "new\n");
        scene.wait_lines(&["half a line", "c", "new"]);
        let (_, notes) = scene.finish();
        let expected =
            ["opened a-1.log 0", "opened b-1.log 1", "opened c-1.log 2", "opened a-2.log 3"];
        assert_eq!(notes, expected);
    }

    #[test]
    fn an_oversized_line_is_cut_and_the_next_one_is_whole() {
        let mut scene = Scene::new();
        scene.start("app.log", |settings| settings.max_line = 10);
        scene.write("app.log", &"y".repeat(500));
        scene.wait_lines(&["yyyyyyyyyy~"]);
        scene.write("app.log", "yy\nnext\n");
        scene.wait_lines(&["yyyyyyyyyy~", "next"]);
    }

    #[test]
    fn a_deleted_file_is_read_to_its_end_and_its_successor_is_new() {
        let mut scene = Scene::new();
        scene.write("app.log", "one\n");
        scene.start("app.log", |_| {});
        scene.wait_lines(&["one"]);
        let mut old = OpenOptions::new().append(true).open(scene.path("app.log")).unwrap();
        fs::remove_file(scene.path("app.log")).unwrap();
        old.write_all(b"last\ntail").unwrap();
        drop(old);
        scene.wait_note("gone app.log");
        scene.wait_lines(&["one", "last", "tail"]);
        // Deleted and created between two polls.
        scene.write("app.log", "again\n");
        scene.wait_lines(&["one", "last", "tail", "again"]);
        fs::remove_file(scene.path("app.log")).unwrap();
        scene.write("app.log", "again\n");
        scene.wait_lines(&["one", "last", "tail", "again", "again"]);
    }

    #[test]
    fn a_file_that_comes_back_goes_on_unless_its_inode_holds_something_else() {
        let mut scene = Scene::new();
        scene.write("a.log", "a1\n");
        scene.write("b.log", "b1\n");
        scene.start("*.log", |_| {});
        scene.wait_lines(&["a1", "b1"]);
        scene.rename("a.log", "a.away");
        scene.rename("b.log", "b.away");
        scene.wait_note("rotated b.log");
        // Past the linger time both are closed; what happens to them then is not seen.
        thread::sleep(Duration::from_millis(2 * u64::from(LINGER_POLLS)));
        scene.write("a.away", "a2\n");
        fs::write(scene.path("b.away"), "other\nfile\n").unwrap();
        scene.rename("a.away", "a.log");
        scene.wait_lines(&["a1", "b1", "a2"]);
        scene.rename("b.away", "b.log");
        scene.wait_lines(&["a1", "b1", "a2", "other", "file"]);
        let (lines, _) = scene.finish();
        let sources: Vec<u32> = lines.iter().map(|(source, _)| *source).collect();
        assert_eq!(sources, [0, 1, 0, 2, 2]);
    }

    #[test]
    fn compressed_files_are_skipped_with_one_note() {
        let mut scene = Scene::new();
        fs::write(scene.path("old.gz"), [0x1f, 0x8b, 8, 0, b'\n']).unwrap();
        scene.start("*", |_| {});
        scene.wait_note("compressed old.gz");
        // Seen empty first, as gzip creates it.
        scene.write("app.1.gz", "");
        scene.wait_note("opened app.1.gz 0");
        fs::write(scene.path("app.1.gz"), [0x1f]).unwrap();
        fs::write(scene.path("app.1.gz"), [0x1f, 0x8b, 8, 0, b'\n']).unwrap();
        scene.wait_note("compressed app.1.gz");
        scene.write("app.log", "text\n");
        scene.wait_lines(&["text"]);
        let (_, notes) = scene.finish();
        assert_eq!(notes.iter().filter(|note| note.starts_with("comp")).count(), 2, "{notes:?}");
    }

    #[test]
    fn many_files_are_followed_with_few_open() {
        let mut scene = Scene::new();
        for n in 0..OPEN_MAX + 100 {
            scene.write(&format!("{n:04}.log"), &format!("a{n}\n"));
        }
        scene.start("*.log", |_| {});
        scene.wait("first lines", |seen| seen.lines.len() == OPEN_MAX + 100);
        for n in 0..OPEN_MAX + 100 {
            scene.write(&format!("{n:04}.log"), &format!("b{n}\n"));
        }
        scene.wait("second lines", |seen| seen.lines.len() == 2 * (OPEN_MAX + 100));
        let (lines, notes) = scene.finish();
        let first: Vec<u32> =
            lines.iter().take(OPEN_MAX + 100).map(|(source, _)| *source).collect();
        assert!(first.is_sorted(), "the first reading goes by path");
        assert_eq!(notes.len(), OPEN_MAX + 100, "{notes:?}");
    }

    #[test]
    fn a_stop_takes_what_was_written_and_an_unwilling_taker_ends_it() {
        let mut scene = Scene::new();
        scene.write("app.log", "one\n");
        scene.start("app.log*", |settings| settings.poll = Duration::from_millis(50));
        scene.wait_lines(&["one"]);
        scene.rename("app.log", "app.log.1");
        scene.write("app.log", "two\nhalf");
        let (lines, _) = scene.finish();
        assert_eq!(lines.last(), Some(&(1, "two".to_owned())));

        let settings = FollowSettings {
            patterns: vec![scene.path("*").to_str().unwrap().to_owned()],
            ..FollowSettings::default()
        };
        let mut batches = 0;
        let mut unwilling = |_| {
            batches += 1;
            false
        };
        follow(&settings, &AtomicBool::new(false), &mut unwilling, &mut |_| {}).unwrap();
        assert_eq!(batches, 1);
    }

    #[test]
    fn bad_settings_are_refused() {
        for (patterns, expected) in [(vec![], "no files"), (vec!["a[".to_owned()], "not a valid")] {
            let settings = FollowSettings { patterns, ..FollowSettings::default() };
            let stop = AtomicBool::new(true);
            let error = follow(&settings, &stop, &mut |_| true, &mut |_| {}).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    /// A small generator, so that the run is the same each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    /// Writes 20,000 numbered lines in chunks that do not end with lines, rotates by rename (the
    /// rest of a line goes to the old file after the rename) and begins date-named files.
    fn write_and_rotate(dir: &Path) {
        let mut dice = Dice(42);
        let (mut generation, mut day, mut number) = (0, 0, 0);
        let create =
            |name: &str| OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap();
        let mut name = "app.log".to_owned();
        let mut file = create(&name);
        while number < 20_000 {
            let mut text = String::new();
            for _ in 0..=dice.below(40) {
                if number < 20_000 {
                    let padding = "p".repeat(dice.below(120) as usize);
                    text += &format!("{number} {padding}\n");
                    number += 1;
                }
            }
            let (begin, end) = text.as_bytes().split_at(dice.below(text.len() as u64) as usize);
            file.write_all(begin).unwrap();
            match dice.below(40) {
                0 if name == "app.log" => {
                    generation += 1;
                    fs::rename(dir.join(&name), dir.join(format!("app.log.{generation}"))).unwrap();
                    let successor = create(&name);
                    file.write_all(end).unwrap();
                    file = successor;
                }
                1 => {
                    file.write_all(end).unwrap();
                    day += 1;
                    name = if day % 2 == 0 { "app.log".into() } else { format!("day-{day:03}") };
                    file = create(&name);
                }
                _ => file.write_all(end).unwrap(),
            }
            if dice.below(3) == 0 {
                thread::sleep(Duration::from_micros(dice.below(1500)));
            }
        }
    }

    #[test]
    fn under_stress_every_line_arrives_once_and_in_order() {
        let mut scene = Scene::new();
        scene.start("*", |settings| settings.block = 1000);
        let dir = scene.dir.path().to_owned();
        let writer = thread::spawn(move || write_and_rotate(&dir));
        writer.join().unwrap();
        scene.wait("20,000 lines", |seen| seen.lines.len() >= 20_000);
        let (lines, notes) = scene.finish();
        let mut by_source: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (source, line) in &lines {
            let number = line.split(' ').next().unwrap().parse().unwrap();
            by_source.entry(*source).or_default().push(number);
        }
        assert!(by_source.values().all(|numbers| numbers.is_sorted()), "{notes:?}");
        let mut all: Vec<u32> = by_source.into_values().flatten().collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..20_000), "{} lines, {notes:?}", all.len());
        assert!(notes.iter().filter(|note| note.starts_with("rotated")).count() > 3, "{notes:?}");
    }

    /// What a run gave, in order.
    #[derive(Debug)]
    enum Said {
        Batch(Batch),
        Note(FollowNote),
    }

    /// A run that is driven poll by poll, so that nothing depends on time.
    fn session(settings: &FollowSettings, steps: &mut dyn FnMut(&mut Follower<'_>)) -> Vec<Said> {
        let said = RefCell::new(Vec::new());
        let mut on_batch = |batch| {
            said.borrow_mut().push(Said::Batch(batch));
            true
        };
        let mut on_note = |note| said.borrow_mut().push(Said::Note(note));
        let outlet = Outlet::new(settings, &mut on_batch, &mut on_note);
        let mut follower = Follower::new(settings, outlet);
        follower.start(&AtomicBool::new(false));
        steps(&mut follower);
        drop(follower);
        said.into_inner()
    }

    /// Reads all there is, settles what was rotated and decides about copies.
    fn drain(follower: &mut Follower<'_>) {
        let mut calm = 0;
        while calm <= COPY_SCANS {
            calm = if follower.files.iter().any(Tracked::is_leaving) { 0 } else { calm + 1 };
            for _ in 0..=GRACE_POLLS {
                follower.turn();
            }
            follower.scan(false);
        }
    }

    /// What is kept of the runs: the lines, and the last position of each source.
    #[derive(Debug, Default)]
    struct Kept {
        lines: Vec<(u32, String)>,
        marks: BTreeMap<u32, FilePosition>,
        losses: Vec<FollowNote>,
    }

    impl Kept {
        fn resume(&self) -> Vec<(u32, FilePosition)> {
            self.marks.clone().into_iter().collect()
        }

        fn take(&mut self, said: &Said) {
            match said {
                Said::Batch(batch) => {
                    let cut = if batch.oversized { "~" } else { "" };
                    let text = |line| format!("{}{cut}", String::from_utf8_lossy(line));
                    self.lines.extend(batch.lines().map(|line| (batch.source, text(line))));
                    if let Some(Position::File(position)) = batch.mark.as_deref() {
                        self.marks.insert(batch.source, position.clone());
                    }
                }
                Said::Note(note) => {
                    if let FollowNote::Ended { source, .. } = note {
                        self.marks.remove(source);
                    }
                    if note.is_loss() {
                        self.losses.push(note.clone());
                    }
                }
            }
        }
    }

    /// A folder that outlives the runs on it.
    struct Place {
        dir: TempDir,
        settings: FollowSettings,
        kept: Kept,
    }

    impl Place {
        fn new(patterns: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let name = |pattern: &&str| dir.path().join(pattern).to_str().unwrap().to_owned();
            let patterns = patterns.iter().map(name).collect();
            let settings =
                FollowSettings { patterns, max_line: 60, block: 64, ..Default::default() };
            Self { dir, settings, kept: Kept::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn append(&self, name: &str, text: &str) {
            append(&self.path(name), text);
        }

        /// A run with `steps`, in which everything is kept. Gives its notes as [`Place::run`] does.
        fn live(&mut self, steps: impl Fn(&mut Follower<'_>, &Path)) -> Vec<String> {
            self.settings.resume = self.kept.resume();
            let dir = self.dir.path().to_owned();
            let said = session(&self.settings, &mut |follower| {
                steps(follower, &dir);
                follower.end();
            });
            self.keep(&said)
        }

        /// Keeps what a run gave; its notes without the folder, but for those that something is
        /// followed or forgotten.
        fn keep(&mut self, said: &[Said]) -> Vec<String> {
            let folder = format!("{}/", self.dir.path().display());
            let mut notes = Vec::new();
            for said in said {
                self.kept.take(said);
                if let Said::Note(note) = said
                    && !matches!(note, FollowNote::Opened { .. } | FollowNote::Ended { .. })
                {
                    notes.push(note.to_string().replace(&folder, ""));
                }
            }
            notes
        }

        /// One run up to its end, in which everything is kept. Gives what is new: lines, and notes
        /// other than that something is followed, without the folder.
        fn run(&mut self) -> (Vec<String>, Vec<String>) {
            self.run_until(usize::MAX)
        }

        /// A run of which only so much is kept.
        fn run_until(&mut self, kept: usize) -> (Vec<String>, Vec<String>) {
            self.settings.resume = self.kept.resume();
            let said = session(&self.settings, &mut |follower| {
                drain(follower);
                follower.end();
            });
            let before = self.kept.lines.len();
            let notes = self.keep(said.get(..kept).unwrap_or(&said));
            let lines = self.kept.lines.iter().skip(before).map(|(_, line)| line.clone());
            (lines.collect(), notes)
        }
    }

    fn append(path: &Path, text: &str) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    const OLD: &str = "2025-08-03T22:30:00Z one\n2025-08-03T22:30:01Z two\n";
    const ROTATED: &str = "app.log: rotated";

    #[test]
    fn a_restart_goes_on_where_the_last_run_ended() {
        let mut place = Place::new(&["*.log"]);
        place.append("app.log", "one\r\ntwo\nha");
        place.append("empty.log", "");
        assert_eq!(place.run().0, ["one\r", "two"]);
        place.append("app.log", "lf\nthree\n");
        place.append("empty.log", "first\n");
        place.append("a-new.log", "new\n");
        let (lines, notes) = place.run();
        assert_eq!(lines, ["half", "three", "first", "new"]);
        assert_eq!(notes, [""; 0]);
        let sources: Vec<u32> = place.kept.lines.iter().map(|(source, _)| *source).collect();
        assert_eq!(sources, [0, 0, 0, 0, 1, 2]);
        assert_eq!(place.run().0, [""; 0]);
    }

    #[test]
    fn a_mark_lies_behind_its_batch_and_knows_the_file() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", "one\ntw");
        place.run();
        let meta = fs::metadata(place.path("app.log")).unwrap();
        let print = Print {
            len: 4,
            // printf 'one\n' | sha256sum | cut -c 1-32
            sha256: "2c8b08da5ce60398e1f19af0e5dccc74".to_owned(),
        };
        let expected = FilePosition {
            path: place.path("app.log"),
            device: meta.dev(),
            inode: meta.ino(),
            born: born(&meta),
            offset: 4,
            inside: false,
            settled: false,
            nameless: false,
            written: nanos(meta.modified().unwrap()),
            head: print.clone(),
            last: print,
        };
        assert_eq!(place.kept.marks[&0], expected);
    }

    #[test]
    fn an_oversized_line_is_given_once_across_restarts() {
        let mut place = Place::new(&["app.log"]);
        let long = "y".repeat(70);
        place.append("app.log", &format!("one\n{long}"));
        let cut = format!("{}~", "y".repeat(60));
        assert_eq!(place.run().0, ["one", cut.as_str()]);
        assert!(place.kept.marks[&0].inside);
        place.append("app.log", &long);
        assert_eq!(place.run().0, [""; 0]);
        place.append("app.log", &format!("{long}\ntwo\n{long}"));
        assert_eq!(place.run().0, ["two", cut.as_str()]);
        // The rest of it lies in a file without a name, where a line of its own may follow.
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        assert_eq!(place.run().0, [""; 0]);
        place.append("app.log.1", "own line\n");
        assert_eq!(place.run().0, ["own line"]);
    }

    #[test]
    fn an_unfinished_line_of_a_rotated_file_is_given_once() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", &format!("{OLD}tail"));
        place.run();
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        place.append("app.log", "new\n");
        let (lines, notes) = place.run();
        assert_eq!((lines, notes), (vec!["tail".into(), "new".into()], vec![ROTATED.into()]));
        assert!(place.kept.marks[&0].settled);
        place.append("app.log.1", "late\n");
        place.append("app.log", "newer\n");
        assert_eq!(place.run().0, ["late", "newer"]);
        // What was read to its end may be deleted without a word.
        fs::remove_file(place.path("app.log.1")).unwrap();
        let (lines, notes) = place.run();
        assert_eq!((lines, notes), (vec![], vec!["app.log: not followed any more".into()]));
        assert_eq!(place.kept.marks.keys().collect::<Vec<_>>(), [&1]);
    }

    /// It was complete, and the program ended before it found the successor: there may be several.
    #[test]
    fn a_complete_file_does_not_prove_that_its_successor_was_known() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        place.run();
        fs::rename(place.path("app.log"), place.path("app.log.2")).unwrap();
        assert_eq!(place.run().0, [""; 0]);
        assert!(place.kept.marks[&0].settled);
        place.append("app.log", "one\n");
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        place.append("app.log", "two\n");
        assert_eq!(place.run().0, ["one", "two"]);
    }

    #[test]
    fn what_was_rotated_meanwhile_is_read_in_the_order_in_which_it_was_written() {
        for patterns in [&["app.log"], &["app.log*"]] {
            let mut place = Place::new(patterns);
            place.settings.from_end = true;
            place.append("app.log", OLD);
            // From the end, where nothing was given: it is known all the same.
            assert_eq!(place.run().0, [""; 0]);
            place.append("app.log", "three\n");
            for (one, other) in [("app.log", "app.log.2"), ("app.log", "app.log.1")] {
                fs::rename(place.path(one), place.path(other)).unwrap();
                place.append("app.log", &format!("after {other}\n"));
            }
            // Neither belongs to it.
            place.append("app.log.bak", "no\n");
            fs::copy(place.path("app.log.2"), place.path("apple-1")).unwrap();
            let (lines, _) = place.run_until(usize::MAX);
            let lines: Vec<&str> =
                lines.iter().map(String::as_str).filter(|l| *l != "no").collect();
            assert_eq!(lines, ["three", "after app.log.2", "after app.log.1"], "{patterns:?}");
            assert_eq!(place.kept.losses, []);
        }
    }

    #[test]
    fn what_a_link_leads_to_is_looked_for_where_it_was_rotated() {
        let mut place = Place::new(&["containers/*.log"]);
        fs::create_dir(place.path("containers")).unwrap();
        fs::create_dir(place.path("pods")).unwrap();
        place.append("pods/0.log", OLD);
        std::os::unix::fs::symlink("../pods/0.log", place.path("containers/app.log")).unwrap();
        assert_eq!(place.run().0.len(), 2);
        place.append("pods/0.log", "three\n");
        for n in [2, 1] {
            let rotated = format!("pods/0.log.{n}");
            fs::rename(place.path("pods/0.log"), place.path(&rotated)).unwrap();
            place.append("pods/0.log", &format!("after {n}\n"));
        }
        // Of another container.
        place.append("pods/1.log", "no\n");
        let (lines, notes) = place.run();
        assert_eq!(lines, ["three", "after 2", "after 1"], "{notes:?}");
        assert_eq!(place.kept.losses, []);
        // Nothing is read again.
        assert_eq!(place.run().0, [""; 0]);
        // While it stands still, too.
        place.live(|follower, dir| {
            drain(follower);
            append(&dir.join("pods/0.log"), "four\n");
            for n in [4, 3] {
                let rotated = dir.join(format!("pods/0.log.{n}"));
                fs::rename(dir.join("pods/0.log"), rotated).unwrap();
                append(&dir.join("pods/0.log"), &format!("after {n}\n"));
            }
            drain(follower);
        });
        let lines: Vec<&String> = place.kept.lines.iter().map(|(_, line)| line).collect();
        assert_eq!(lines.split_at(5).1, ["four", "after 4", "after 3"]);
        assert_eq!(place.kept.losses, []);
    }

    #[test]
    fn a_copy_made_before_a_truncation_is_read_on_and_then_the_original() {
        for patterns in [&["app.log"], &["app.log*"]] {
            let mut place = Place::new(patterns);
            place.append("app.log", OLD);
            place.run();
            place.append("app.log", "three\n");
            fs::copy(place.path("app.log"), place.path("app.log.1")).unwrap();
            fs::write(place.path("app.log"), "\0\0\0\0").unwrap();
            // A writer without O_APPEND.
            place.append("app.log", "four\n");
            let (lines, notes) = place.run();
            assert_eq!(lines, ["three", "four"]);
            assert_eq!(notes, [ROTATED]);
            assert_eq!(place.run(), (vec![], vec![]));
        }
    }

    #[test]
    fn a_copy_without_a_truncation_is_not_read_again() {
        let mut place = Place::new(&["app.log*"]);
        place.append("app.log", OLD);
        place.run();
        place.append("app.log", "three\n");
        fs::copy(place.path("app.log"), place.path("app.log.1")).unwrap();
        place.append("app.log", "four\n");
        assert_eq!(place.run().0, ["three", "four"]);
        place.append("app.log.1", "five\n");
        assert_eq!(place.run().0, ["five"]);
    }

    #[test]
    fn a_restored_file_is_the_same_and_a_reused_inode_is_not() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        place.run();
        fs::copy(place.path("app.log"), place.path("saved")).unwrap();
        fs::remove_file(place.path("app.log")).unwrap();
        fs::rename(place.path("saved"), place.path("app.log")).unwrap();
        place.append("app.log", "three\n");
        assert_eq!(place.run(), (vec!["three".into()], vec![]));
        let at = place.kept.marks[&0].offset;
        // The same inode with other bytes, whether it was rewritten or deleted and made again.
        fs::write(place.path("app.log"), OLD.replace("one", "two") + "and much more of it\n")
            .unwrap();
        let (lines, notes) = place.run();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            notes,
            [format!(
                "app.log: truncated or rewritten while nobody was reading; what was written \
                 behind byte {at} of its old content is lost; reading it anew"
            )]
        );
        assert_eq!(place.kept.marks.keys().collect::<Vec<_>>(), [&0]);
        assert_eq!(place.run(), (vec![], vec![]));
    }

    fn pack(path: &Path, text: &str) {
        let file = File::create(path).unwrap();
        let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap();
    }

    #[test]
    fn what_came_after_a_complete_file_is_read_though_that_one_is_gone() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log.5", "older, and not known\n");
        place.append("app.log", OLD);
        place.run();
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        assert_eq!(place.run().0, [""; 0]);
        assert!(place.kept.marks[&0].settled);
        let written = fs::metadata(place.path("app.log.1")).unwrap().modified().unwrap();
        fs::remove_file(place.path("app.log.1")).unwrap();
        let write = |name: &str, text: &str, seconds: u64| {
            place.append(name, text);
            let file = OpenOptions::new().append(true).open(place.path(name)).unwrap();
            file.set_modified(written + Duration::from_secs(seconds)).unwrap();
        };
        write("app.log.2", "one\n", 2);
        write("app-20250804.log", "two\n", 3);
        write("app.log.bak", "no\n", 3);
        write("app.log.old.1", "no\n", 3);
        // Of another process.
        write("app-1.log", "no\n", 3);
        write("app.log.4.xz", "no text\n", 3);
        pack(&place.path("app.log.3.gz"), "unread\n");
        write("app.log", "three\n", 4);
        let (lines, notes) = place.run();
        assert_eq!(lines, ["one", "two", "three"]);
        let unread = "app.log.3.gz: written, rotated and compressed while nobody was reading; \
                      `portcullis replay app.log.3.gz` reads it";
        let other = "app.log.4.xz: written, rotated and compressed while nobody was reading; \
                     unpacked, `portcullis replay` reads it";
        let told = ["app.log: not followed any more", ROTATED, ROTATED, unread, other];
        assert_eq!(sorted(&notes), sorted(&told.map(str::to_owned)));
        assert_eq!(place.kept.losses.len(), 2);
        assert_eq!(place.run(), (vec![], vec![]));
    }

    #[test]
    fn what_came_after_a_lost_file_is_read() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log.9", "older, and not known\n");
        place.append("app.log", OLD);
        place.run();
        fs::remove_file(place.path("app.log")).unwrap();
        thread::sleep(Duration::from_millis(20));
        for (name, text) in [("app.log.2", "one\n"), ("app.log.1", "two\n"), ("app.log", "three\n")]
        {
            place.append(name, text);
            thread::sleep(Duration::from_millis(20));
        }
        // The inode is not to be used again here.
        place.kept.marks.get_mut(&0).unwrap().inode = 1;
        assert_eq!(place.run().0, ["one", "two", "three"]);
        assert_eq!(place.kept.losses.len(), 1);
        assert_eq!(place.run(), (vec![], vec![]));
    }

    #[test]
    fn what_is_packed_in_between_is_said_once_whatever_its_name() {
        let said = |notes: &[String]| notes.iter().filter(|n| n.contains("compressed")).count();
        // The day is no number that counts.
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        place.run();
        fs::rename(place.path("app.log"), place.path("app.log.2025-08-04")).unwrap();
        thread::sleep(Duration::from_millis(20));
        pack(&place.path("app.log.2025-08-05.gz"), "unread\n");
        place.append("app.log", "now\n");
        let (lines, notes) = place.run();
        assert_eq!((lines, said(&notes)), (vec!["now".to_owned()], 1), "{notes:?}");
        assert_eq!(place.run(), (vec![], vec![]));
        // Nor is it said again while nothing has the name.
        let mut place = two_of_one_name();
        fs::rename(place.path("app.log"), place.path("app.log.5")).unwrap();
        place.run();
        fs::remove_file(place.path("app.log.5")).unwrap();
        thread::sleep(Duration::from_millis(20));
        pack(&place.path("app.log.2.gz"), "unread\n");
        let notes = place.run().1;
        assert_eq!(said(&notes), 1, "{notes:?}");
        let notes = place.run().1;
        assert_eq!(said(&notes), 0, "{notes:?}");
    }

    #[test]
    fn what_was_rotated_in_another_folder_is_another_file() {
        for gone in [false, true] {
            let mut place = Place::new(&["logs1/app.log", "logs2/app.log"]);
            for folder in ["logs1", "logs2"] {
                fs::create_dir(place.path(folder)).unwrap();
                place.append(&format!("{folder}/app.log"), &format!("2025-08-03T22:30 {folder}\n"));
            }
            place.run();
            fs::rename(place.path("logs1/app.log"), place.path("logs1/app.log.2")).unwrap();
            if gone {
                place.run();
                fs::remove_file(place.path("logs1/app.log.2")).unwrap();
            }
            thread::sleep(Duration::from_millis(20));
            place.append("logs2/app.log.1", "never followed\n");
            place.append("logs1/app.log.1", "between\n");
            place.append("logs1/app.log", "now\n");
            assert_eq!(place.run().0, ["between", "now"], "{gone}");
        }
    }

    fn sorted(texts: &[String]) -> Vec<&String> {
        let mut texts: Vec<&String> = texts.iter().collect();
        texts.sort();
        texts
    }

    #[test]
    fn a_file_that_is_nowhere_is_a_loss_and_a_packed_one_is_named() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        place.run();
        fs::rename(place.path("app.log"), place.path("elsewhere")).unwrap();
        place.append("app.log", "new\n");
        let (lines, notes) = place.run();
        assert_eq!(lines, ["new"]);
        let lost = "app.log: rotated or deleted while nobody was reading, and found nowhere; what \
                    was written behind byte 50 is lost";
        assert_eq!(notes, [lost]);
        assert_eq!(place.kept.marks.keys().collect::<Vec<_>>(), [&1]);

        let packed = place.path("app.log.2.gz");
        pack(&packed, "new\nlost\n");
        // Older, as its number says, though it was packed later.
        pack(&place.path("app.log.7.gz"), OLD);
        // With `delaycompress` the one between is not packed yet.
        place.append("app.log.1", "between\n");
        fs::remove_file(place.path("app.log")).unwrap();
        place.append("app.log.new", "newest\n");
        fs::rename(place.path("app.log.new"), place.path("app.log")).unwrap();
        // Its inode is not to be used again here.
        place.kept.marks.get_mut(&1).unwrap().inode = 1;
        let (lines, notes) = place.run();
        assert_eq!(lines, ["between", "newest"]);
        let expected = format!(
            "app.log: rotated and compressed while nobody was reading; what was written behind \
             byte 4 is missing here; `portcullis replay {}` reads it",
            packed.file_name().unwrap().to_str().unwrap()
        );
        assert_eq!(notes[..1], [expected]);
        assert_eq!(place.kept.losses.len(), 2);
    }

    #[test]
    fn a_packed_file_whose_inode_was_used_again_is_named_and_the_new_one_read() {
        for lost in ["", "lost\n"] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            place.run();
            pack(&place.path("app.log.1.gz"), &format!("{OLD}{lost}"));
            // As if the new file had got the number of the old.
            fs::write(place.path("app.log"), "new\n").unwrap();
            let (lines, notes) = place.run();
            assert_eq!(lines, ["new"]);
            let said = match lost {
                "" => "app.log: not followed any more",
                _ => {
                    "app.log: rotated and compressed while nobody was reading; what was written behind \
                     byte 50 is missing here; `portcullis replay app.log.1.gz` reads it"
                }
            };
            assert_eq!(notes.first().map(String::as_str), Some(said));
            assert_eq!(place.kept.losses.len(), usize::from(!lost.is_empty()));
        }
    }

    #[test]
    fn the_place_of_a_lost_file_lasts_until_its_successor_has_one() {
        let mut place = two_of_one_name();
        let rename = |place: &Place, from, to| {
            fs::rename(place.path(from), place.path(to)).unwrap();
        };
        // A copy is made and read no further, as everything in it is known.
        let settings = FollowSettings { resume: place.kept.resume(), ..place.settings.clone() };
        let said = session(&settings, &mut |follower| {
            drain(follower);
            rename(&place, "app.log.1", "app.log.2");
            fs::copy(place.path("app.log"), place.path("app.log.1")).unwrap();
            File::create(place.path("app.log")).unwrap();
            follower.turn();
            place.append("app.log", "2025-08-03T22:31:00Z three\n");
            drain(follower);
            follower.end();
        });
        said.iter().for_each(|said| place.kept.take(said));
        let before = place.kept.marks.clone();
        assert_eq!(before.keys().copied().collect::<Vec<_>>(), [0, 1]);
        // The original goes, and what comes in its place is read, but that is not kept.
        // (Both successors are made before the inode is free for them.)
        place.append("new", "2025-08-03T22:32:00Z four\n");
        place.append("newer", "2025-08-03T22:33:00Z five\n");
        // By their times nobody can tell that they came later.
        let time = fs::metadata(place.path("app.log")).unwrap().modified().unwrap();
        for name in ["new", "newer"] {
            let file = OpenOptions::new().append(true).open(place.path(name)).unwrap();
            file.set_modified(time).unwrap();
        }
        rename(&place, "new", "app.log");
        let missed = "app.log: rotated or deleted while nobody was reading, and found nowhere; what \
                      was written behind byte 27 is lost";
        assert_eq!(place.run_until(4), (vec![], vec![missed.to_owned()]));
        assert_eq!(place.kept.marks, before);
        for (from, to) in [("app.log.2", "app.log.3"), ("app.log.1", "app.log.2")] {
            rename(&place, from, to);
        }
        rename(&place, "app.log", "app.log.1");
        rename(&place, "newer", "app.log");
        let (lines, notes) = place.run();
        assert_eq!(lines, ["2025-08-03T22:33:00Z five"]);
        assert_eq!(notes, [missed]);
        assert_eq!(place.kept.marks.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(place.run(), (vec![], vec![]));
    }

    /// Turns until what is settled and has no name is let go.
    fn linger(follower: &mut Follower<'_>) {
        drain(follower);
        for _ in 0..=LINGER_POLLS {
            follower.turn();
        }
    }

    /// Two files that had one name after the other, the first one under another name now.
    fn two_of_one_name() -> Place {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", "2025-08-03T22:29:00Z first\n");
        place.run();
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        place.append("app.log", OLD);
        place.run();
        assert_eq!(place.kept.marks.keys().copied().collect::<Vec<_>>(), [0, 1]);
        place
    }

    #[test]
    fn of_a_lost_file_and_one_that_was_let_go_before_it_places_are_left() {
        let mut place = two_of_one_name();
        place.append("new", "2025-08-03T22:32:00Z four\n");
        fs::remove_file(place.path("app.log")).unwrap();
        let notes = place.live(|follower, _| linger(follower));
        assert!(notes.iter().any(|note| note.contains("found nowhere")), "{notes:?}");
        assert_eq!(place.kept.marks.keys().copied().collect::<Vec<_>>(), [0, 1]);
        // The next run finds its way by them, and does not say it again.
        let told = ["app.log: no such file yet, waiting for it", "app.log: not followed any more"];
        assert_eq!(place.run(), (vec![], told.map(str::to_owned).to_vec()));
        place.append("app.log.1", "between\n");
        fs::rename(place.path("new"), place.path("app.log")).unwrap();
        place.settings.from_end = true;
        let (lines, notes) = place.run();
        assert_eq!(lines, ["between", "2025-08-03T22:32:00Z four"]);
        assert_eq!(notes, ["app.log: not followed any more"]);
        assert_eq!(place.run().1, [""; 0]);
    }

    #[test]
    fn a_deleted_file_whose_place_lasts_is_no_loss_after_a_restart() {
        let mut place = two_of_one_name();
        place.append("app.log", "tail");
        let notes = place.live(|follower, place| {
            drain(follower);
            fs::remove_file(place.join("app.log")).unwrap();
            drain(follower);
        });
        assert_eq!(notes, ["app.log: deleted, read to its end"]);
        assert_eq!(place.kept.lines.last().unwrap().1, "tail");
        assert_eq!(place.kept.marks.keys().copied().collect::<Vec<_>>(), [0, 1]);
        let (lines, notes) = place.run();
        assert_eq!(lines.len(), 0);
        let missing = "app.log: no such file yet, waiting for it";
        assert_eq!(notes, [missing, "app.log: not followed any more"]);
    }

    #[test]
    fn a_file_that_was_let_go_ends_when_its_successor_comes_late() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        let notes = place.live(|follower, place| {
            drain(follower);
            fs::rename(place.join("app.log"), place.join("app.log.1")).unwrap();
            linger(follower);
            append(&place.join("app.log"), "three\n");
            drain(follower);
        });
        assert_eq!(notes, [ROTATED, "app.log: not followed any more"]);
        assert_eq!(place.kept.marks.keys().copied().collect::<Vec<_>>(), [1]);
    }

    /// Does `acts` to an outlet of which what was at the start has been looked for: a source comes
    /// (with a name), is gone or is let go. Gives the sources that ended, in order.
    fn ended(acts: &[(u32, Option<&str>, bool)]) -> Vec<u32> {
        let said = RefCell::new(Vec::new());
        let mut on_batch = |_| true;
        let mut on_note = |note| {
            if let FollowNote::Ended { source, .. } = note {
                said.borrow_mut().push(source);
            }
        };
        let settings = FollowSettings::default();
        let mut outlet = Outlet::new(&settings, &mut on_batch, &mut on_note);
        outlet.looked();
        for (source, name, let_go) in acts.iter().copied() {
            match name {
                Some(name) => {
                    let state = State {
                        id: FileId { device: 1, inode: u64::from(source) },
                        born: None,
                        written: None,
                        settled: false,
                        nameless: false,
                    };
                    let place = Given::default().position(state, Path::new(name), b"");
                    let mark = Some(Arc::new(Position::File(place)));
                    outlet.give([Batch { source, mark, ..Batch::default() }]);
                }
                None if let_go => outlet.let_go(source, "x".into()),
                None => outlet.note(FollowNote::Gone { path: "x".into(), source }),
            }
        }
        drop(outlet);
        said.into_inner()
    }

    #[test]
    fn a_place_lasts_as_long_as_it_is_needed() {
        let (gone, let_go) = (|source| (source, None, false), |source| (source, None, true));
        let comes = |source, name| (source, Some(name), false);
        assert_eq!(ended(&[gone(0)]), [0], "it never had one");
        assert_eq!(ended(&[comes(0, "a"), gone(0)]), [0]);
        assert_eq!(ended(&[comes(0, "a"), let_go(0)]), [0; 0]);
        assert_eq!(ended(&[comes(0, "a"), let_go(0), comes(1, "b"), comes(2, "a")]), [0]);
        assert_eq!(ended(&[comes(0, "a"), comes(1, "a"), gone(1)]), [0; 0]);
        assert_eq!(ended(&[comes(0, "a"), comes(1, "a"), gone(1), comes(2, "a")]), [1]);
        assert_eq!(ended(&[comes(0, "a"), comes(1, "a"), gone(1), gone(0)]), [0, 1]);
        assert_eq!(ended(&[comes(0, "a"), comes(1, "a"), let_go(0)]), [0]);
        // A later one that is over itself is no successor; when it comes back it is.
        let both = [comes(0, "a"), comes(1, "a"), gone(1), let_go(0)];
        assert_eq!(ended(&both), [0; 0]);
        assert_eq!(ended(&[&both[..], &[comes(1, "a")]].concat()), [0]);
        // So is one that takes another name, which leaves the first alone.
        assert_eq!(ended(&[comes(0, "a"), comes(1, "a"), gone(1), comes(0, "b")]), [1]);
        // Names that never come again do not pile up.
        let names: Vec<String> = (0..OVER_MAX + 10).map(|n| n.to_string()).collect();
        let moved = (0..).zip(&names).flat_map(|(n, name)| [comes(n, name.as_str()), let_go(n)]);
        assert_eq!(ended(&moved.collect::<Vec<_>>()), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn files_that_look_alike_are_told_by_their_inode() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        place.run();
        place.append("app.log", "rest\n");
        fs::rename(place.path("app.log"), place.path("app.log.1")).unwrap();
        place.append("app.log", &format!("{OLD}new\n"));
        let (lines, _) = place.run();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[0].as_str(), lines[3].as_str()), ("rest", "new"));
        assert_eq!(place.kept.losses, []);
    }

    #[test]
    fn the_end_is_meant_only_for_what_has_no_past() {
        let mut place = Place::new(&["*.log"]);
        place.settings.from_end = true;
        place.append("app-2025-08-03.log", OLD);
        assert_eq!(place.run().0, [""; 0]);
        place.append("app-2025-08-04.log", "successor\n");
        place.append("other.log", "history\n");
        assert_eq!(place.run().0, ["successor"]);
        place.append("other.log", "new\n");
        assert_eq!(place.run().0, ["new"]);
    }

    #[test]
    fn zeros_are_no_evidence() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", &format!("{OLD}\0\0\0\0\0\n"));
        place.run();
        // They arrive late on some file systems.
        fs::write(place.path("app.log"), format!("{OLD}three\nfour\n")).unwrap();
        assert_eq!(place.run(), (vec!["four".into()], vec![]));
        place.append("app.log", &format!("five\n{}", "\0".repeat(40)));
        assert_eq!(place.run().0, ["five"]);
        place.append("app.log", "\nsix\n");
        assert_eq!(place.run().0[1..], ["six"]);
    }

    #[test]
    fn positions_of_unwanted_and_unreachable_files() {
        let mut place = Place::new(&["sub/app.log", "other.log"]);
        fs::create_dir(place.path("sub")).unwrap();
        place.append("sub/app.log", OLD);
        place.append("other.log", OLD);
        place.run();
        let wanted = place.settings.patterns.clone();
        // A mount that is not there yet.
        fs::rename(place.path("sub"), place.path("hidden")).unwrap();
        let (hidden, sub) = (place.path("hidden"), place.path("sub"));
        place.append("hidden/app.log", "three\n");
        place.settings.resume = place.kept.resume();
        let said = session(&place.settings, &mut |follower| {
            drain(follower);
            fs::rename(&hidden, &sub).unwrap();
            drain(follower);
        });
        said.iter().for_each(|said| place.kept.take(said));
        assert_eq!(place.kept.lines.last().unwrap(), &(1, "three".to_owned()));
        assert_eq!((place.kept.lines.len(), place.kept.losses.len()), (5, 0));
        place.settings.patterns = vec![wanted[1].clone()];
        let (_, notes) = place.run();
        assert_eq!(notes, ["sub/app.log: not followed any more"]);
        assert_eq!(place.kept.marks.keys().collect::<Vec<_>>(), [&0]);
    }

    #[test]
    fn a_mount_that_comes_late_is_looked_through_like_at_the_start() {
        // Its folder is not there, or an empty one of another file system is in its place.
        for empty in [false, true] {
            let mut place = Place::new(&["sub/app.log"]);
            fs::create_dir(place.path("sub")).unwrap();
            place.append("sub/app.log", OLD);
            place.run();
            let (hidden, sub) = (place.path("hidden"), place.path("sub"));
            fs::rename(&sub, &hidden).unwrap();
            place.append("hidden/app.log", "three\n");
            for (number, text) in [(2, "four\n"), (1, "five\n")] {
                let to = hidden.join(format!("app.log.{number}"));
                fs::rename(hidden.join("app.log"), to).unwrap();
                place.append("hidden/app.log", text);
            }
            if empty {
                fs::create_dir(&sub).unwrap();
                place.kept.marks.get_mut(&0).unwrap().device += 1;
            }
            let notes = place.live(|follower, _| {
                drain(follower);
                fs::rename(&hidden, &sub).unwrap();
                drain(follower);
            });
            let lines: Vec<&str> = place.kept.lines[2..].iter().map(|(_, l)| l.as_str()).collect();
            assert_eq!(lines, ["three", "four", "five"], "{notes:?}");
            assert_eq!(place.kept.losses, []);
        }
    }

    #[test]
    fn a_file_that_comes_between_two_looks_is_not_opened_as_a_new_one() {
        for known in [false, true] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            place.run();
            place.append("app.log", "three\n");
            let id = FileId::of(&fs::metadata(place.path("app.log")).unwrap());
            let settings = FollowSettings { resume: place.kept.resume(), ..place.settings.clone() };
            let mut said = Vec::new();
            let mut on_batch = |batch| {
                said.push(Said::Batch(batch));
                true
            };
            let mut on_note = |_| {};
            let mut follower =
                Follower::new(&settings, Outlet::new(&settings, &mut on_batch, &mut on_note));
            // As if it could not be read, or its folder had been hidden, when it was looked for.
            let (source, position) = settings.resume[0].clone();
            let (id, error) = (known.then_some(id), String::new());
            follower.unreached.push(Unreached { source, position, id, error });
            follower.scan(true);
            assert!(follower.files.is_empty());
            drain(&mut follower);
            drop(follower);
            said.iter().for_each(|said| place.kept.take(said));
            assert_eq!(place.kept.lines[2..], [(0, "three".to_owned())]);
        }
    }

    #[test]
    fn a_folder_that_was_made_anew_hides_no_loss() {
        let mut place = Place::new(&["sub/app.log"]);
        fs::create_dir(place.path("sub")).unwrap();
        place.append("sub/app.log", OLD);
        place.run();
        fs::remove_file(place.path("sub/app.log")).unwrap();
        place.kept.marks.get_mut(&0).unwrap().device += 1;
        let (_, notes) = place.run();
        assert_eq!(notes, ["sub/app.log: no such file yet, waiting for it"]);
        assert_eq!(place.kept.marks.len(), 1);
        let notes = place.live(|follower, place| {
            drain(follower);
            append(&place.join("sub/app.log"), "new\n");
            drain(follower);
        });
        assert_eq!(place.kept.losses.len(), 1, "{notes:?}");
        assert_eq!(place.kept.lines.last().unwrap(), &(1, "new".to_owned()));
        assert_eq!(place.kept.marks.keys().collect::<Vec<_>>(), [&1]);
    }

    fn rename(dir: &Path, from: &str, to: &str) {
        fs::rename(dir.join(from), dir.join(to)).unwrap();
    }

    /// As a service makes a log: late enough for its time to tell it from the one before.
    fn write_later(path: &Path, text: &str) {
        thread::sleep(Duration::from_millis(20));
        append(path, text);
    }

    fn copy_and_truncate(dir: &Path, to: &str) {
        fs::copy(dir.join("app.log"), dir.join(to)).unwrap();
        File::create(dir.join("app.log")).unwrap();
    }

    /// Two rotations between two looks.
    fn rotate_twice(dir: &Path, [first, second]: [&str; 2]) {
        append(&dir.join("app.log"), "three\n");
        rename(dir, "app.log", first);
        write_later(&dir.join("app.log"), "four\nfi");
        rename(dir, "app.log", second);
        write_later(&dir.join("app.log"), "six\n");
    }

    /// The same with copies.
    fn copy_twice(dir: &Path, [first, second]: [&str; 2]) {
        append(&dir.join("app.log"), "three\n");
        copy_and_truncate(dir, first);
        write_later(&dir.join("app.log"), "four\nfi");
        copy_and_truncate(dir, second);
        write_later(&dir.join("app.log"), "six\n");
    }

    impl Place {
        fn new_lines(&self, known: usize) -> Vec<&str> {
            self.kept.lines.iter().skip(known).map(|(_, line)| line.as_str()).collect()
        }
    }

    const SHIFTED: [&str; 2] = ["app.log.2", "app.log.1"];
    const RISING: [&str; 2] = ["app.log.1", "app.log.2"];

    #[test]
    fn what_was_rotated_between_two_looks_is_read_in_order() {
        for (patterns, names) in
            [(&["app.log"], SHIFTED), (&["app.log"], RISING), (&["app.log*"], SHIFTED)]
        {
            for act in [rotate_twice, copy_twice] {
                let mut place = Place::new(patterns);
                place.append("app.log", OLD);
                let notes = place.live(|follower, dir| {
                    drain(follower);
                    act(dir, names);
                    drain(follower);
                });
                assert_eq!(place.new_lines(2), ["three", "four", "fi", "six"], "{patterns:?}");
                let closed = "app.log: not followed any more";
                let told: Vec<&String> = notes.iter().filter(|note| *note != closed).collect();
                assert_eq!(told, [ROTATED, ROTATED], "{patterns:?}");
                assert_eq!(place.kept.losses, []);
                assert_eq!(place.run().0, [""; 0]);
            }
        }
    }

    #[test]
    fn a_run_that_ends_while_it_catches_up_loses_and_repeats_nothing() {
        for act in [rotate_twice, copy_twice] {
            let mut kept = 0;
            for last in 0.. {
                let mut place = Place::new(&["app.log"]);
                place.append("app.log", OLD);
                place.run();
                place.settings.resume = place.kept.resume();
                let dir = place.dir.path().to_owned();
                let said = session(&place.settings, &mut |follower| {
                    drain(follower);
                    place.append("app.log", "half");
                    drain(follower);
                    append(&dir.join("app.log"), " a line\n");
                    act(&dir, SHIFTED);
                    drain(follower);
                });
                kept = said.len();
                place.keep(said.get(..last).unwrap_or(&said));
                let (_, notes) = place.run();
                let expected = ["half a line", "three", "four", "fi", "six"];
                assert_eq!(place.new_lines(2), expected, "{last} of {kept}: {notes:?}");
                assert_eq!(place.kept.losses, []);
                if last >= kept {
                    break;
                }
            }
            assert!(kept > 5);
        }
    }

    #[test]
    fn what_had_a_vacant_name_between_two_looks_is_read() {
        for long in [false, true] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            place.live(|follower, dir| {
                drain(follower);
                rename(dir, "app.log", "app.log.1");
                let wait = if long { linger } else { drain };
                wait(follower);
                assert_eq!(follower.files.is_empty(), long);
                rename(dir, "app.log.1", "app.log.2");
                write_later(&dir.join("app.log"), "three\n");
                rename(dir, "app.log", "app.log.1");
                write_later(&dir.join("app.log"), "four\n");
                drain(follower);
            });
            assert_eq!(place.new_lines(2), ["three", "four"]);
            assert_eq!(place.kept.losses, []);
        }
    }

    #[test]
    fn what_came_after_a_file_that_was_deleted_between_two_looks_is_read() {
        for packed in [false, true] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            let notes = place.live(|follower, dir| {
                drain(follower);
                append(&dir.join("app.log"), "three\n");
                if packed {
                    pack(&dir.join("app.log.2.gz"), &format!("{OLD}three\n"));
                }
                fs::remove_file(dir.join("app.log")).unwrap();
                write_later(&dir.join("app.log"), "four\n");
                rename(dir, "app.log", "app.log.1");
                write_later(&dir.join("app.log"), "five\n");
                drain(follower);
            });
            assert_eq!(place.new_lines(2), ["three", "four", "five"], "{notes:?}");
            assert_eq!(place.kept.losses, []);
        }
    }

    #[test]
    fn what_was_packed_between_two_looks_is_said_once() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        let notes = place.live(|follower, dir| {
            drain(follower);
            rename(dir, "app.log", "app.log.2");
            thread::sleep(Duration::from_millis(20));
            pack(&dir.join("app.log.1.gz"), "unread\n");
            drain(follower);
            append(&dir.join("app.log"), "three\n");
            drain(follower);
        });
        let unread = "app.log.1.gz: written, rotated and compressed while nobody was reading; \
                      `portcullis replay app.log.1.gz` reads it";
        assert_eq!(notes, [ROTATED, unread]);
        assert_eq!(place.new_lines(2), ["three"]);
        assert_eq!(place.kept.losses.len(), 1);
    }

    #[test]
    fn of_ordinary_rotations_nothing_is_read_that_was_not_followed() {
        let other = "2025-08-03T22:30:00Z of something else, and of another\n";
        let moves: [fn(&Path); 5] = [
            |dir| rename(dir, "app-1.log", "app-1.log.1"),
            |dir| {
                rename(dir, "app-1.log", "app-1.log.1");
                // It is being packed.
                write_later(&dir.join("app-1.log.1.gz"), "");
            },
            |dir| fs::remove_file(dir.join("app-1.log")).unwrap(),
            |dir| {
                // Packed by whatever it may be.
                append(&dir.join("app-1.log.1.xz"), "packed\n");
                fs::remove_file(dir.join("app-1.log")).unwrap();
            },
            |dir| {
                fs::copy(dir.join("app-1.log"), dir.join("app-1.log.1")).unwrap();
                fs::remove_file(dir.join("app-1.log")).unwrap();
            },
        ];
        for moved in moves {
            let mut place = Place::new(&["app-1.log"]);
            place.append("app-1.log.5", other);
            thread::sleep(Duration::from_millis(20));
            place.append("app-1.log", OLD);
            let notes = place.live(|follower, dir| {
                drain(follower);
                // An old log is written to, one is being packed, the log itself was saved, and so was that
                // of another program.
                write_later(&dir.join("app-1.log.5"), other);
                append(&dir.join("app-1.log.5.gz"), "");
                fs::copy(dir.join("app-1.log"), dir.join("app-1.log.20250803")).unwrap();
                append(&dir.join("app-10.log.1"), other);
                append(&dir.join("app-10.log-20250803"), other);
                moved(dir);
                append(&dir.join("app-1.log"), "three\n");
                drain(follower);
            });
            assert_eq!(place.new_lines(2), ["three"], "{notes:?}");
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert_eq!(place.kept.losses, []);
        }
    }

    #[test]
    fn a_file_that_is_let_go_and_written_to_is_not_read_again() {
        for moved in [rename, |dir: &Path, _: &str, to: &str| copy_and_truncate(dir, to)] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            let notes = place.live(|follower, dir| {
                drain(follower);
                append(&dir.join("app.log"), "three\n");
                moved(dir, "app.log", "app.log.1");
                append(&dir.join("app.log"), "2025-08-03T22:31:00Z four\n");
                linger(follower);
                assert_eq!(follower.files.len(), 1);
                append(&dir.join("app.log"), "five\n");
                rename(dir, "app.log.1", "app.log.2");
                moved(dir, "app.log", "app.log.1");
                write_later(&dir.join("app.log.2"), "very late\n");
                append(&dir.join("app.log"), "six\n");
                drain(follower);
            });
            let expected = ["three", "2025-08-03T22:31:00Z four", "five", "six"];
            assert_eq!(place.new_lines(2), expected, "{notes:?}");
        }
    }

    #[test]
    fn a_copy_of_what_was_read_changes_nothing() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", &format!("{OLD}tail"));
        let notes = place.live(|follower, dir| {
            drain(follower);
            copy_and_truncate(dir, "app.log.1");
            follower.turn();
            append(&dir.join("app.log"), "three\n");
            drain(follower);
        });
        assert_eq!(notes, ["app.log: truncated at 54 bytes, reading it anew"]);
        assert_eq!(place.kept.lines[2..], [(0, "tail".to_owned()), (0, "three".to_owned())]);
    }

    #[test]
    fn copies_made_in_one_place_are_each_read_on() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        let round = |round| {
            let stamp = format!("2025-08-03T22:3{round}:00Z");
            [format!("{stamp} unread"), "half".to_owned(), format!("{stamp} {}", "x".repeat(round))]
        };
        let notes = place.live(|follower, dir| {
            let path = dir.join("app.log");
            drain(follower);
            for [unread, half, new] in (1..5).map(round) {
                append(&path, &format!("{unread}\n{half}\n"));
                copy_and_truncate(dir, "app.log.1");
                append(&path, &format!("{new}\n"));
                drain(follower);
            }
        });
        assert_eq!(place.new_lines(2), (1..5).flat_map(round).collect::<Vec<_>>(), "{notes:?}");
        assert_eq!(place.kept.losses, []);
    }

    #[test]
    fn a_truncation_is_a_loss_if_more_was_seen_than_read() {
        for copied in [false, true] {
            let mut place = Place::new(&["app.log"]);
            place.append("app.log", OLD);
            let line = format!("{}\n", "x".repeat(49));
            let turns = TURN_BYTES as usize / line.len();
            let notes = place.live(|follower, dir| {
                drain(follower);
                append(&dir.join("app.log"), &line.repeat(2 * turns));
                assert!(follower.turn());
                if copied {
                    copy_and_truncate(dir, "app.log.1");
                } else {
                    File::create(dir.join("app.log")).unwrap();
                }
                append(&dir.join("app.log"), "three\n");
                drain(follower);
            });
            assert_eq!(place.new_lines(2).last(), Some(&"three"));
            if copied {
                assert_eq!(place.new_lines(2).len(), 2 * turns + 1);
                assert_eq!(place.kept.losses, []);
            } else {
                let at = OLD.len() as u64 + TURN_BYTES;
                let lost = format!(
                    "app.log: truncated or rewritten while nobody was reading; what was written \
                     behind byte {at} of its old content is lost; reading it anew"
                );
                assert_eq!(notes, [lost]);
                assert_eq!(place.kept.losses.len(), 1);
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_once() {
        // Its first page is mapped nowhere, so that reading it fails for whoever tries.
        let path = PathBuf::from("/proc/self/mem");
        let meta = fs::metadata(&path).unwrap();
        let position = FilePosition {
            path: path.clone(),
            device: meta.dev(),
            inode: meta.ino(),
            born: None,
            offset: 0,
            inside: false,
            settled: false,
            nameless: false,
            written: None,
            head: Print { len: 20, ..Print::default() },
            last: Print::default(),
        };
        let mut place = Place::new(&[]);
        place.settings.patterns.push(path.to_str().unwrap().to_owned());
        place.kept.marks.insert(0, position);
        let notes = place.live(|follower, _| {
            drain(follower);
            assert_eq!(follower.unreached.len(), 1);
        });
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("trying again"), "{notes:?}");
    }

    #[test]
    fn a_closed_file_that_is_moved_out_of_sight_is_not_deleted() {
        let mut place = Place::new(&["*.log"]);
        for n in 0..OPEN_MAX + 10 {
            place.append(&format!("{n:04}.log"), &format!("2025-08-03T22:30:00Z {n}\n"));
        }
        let notes = place.live(|follower, place| {
            drain(follower);
            let closed = |file: &&Tracked| file.handle.is_none() && file.name.is_some();
            let mut closed = follower.files.iter().filter(closed);
            let [moved, gone] =
                [closed.next(), closed.next()].map(|f| f.unwrap().last_name.clone());
            append(&moved, "late\n");
            fs::rename(moved, place.join("moved")).unwrap();
            fs::remove_file(gone).unwrap();
            drain(follower);
            append(&place.join("moved"), "later\n");
            drain(follower);
        });
        let said = |what: &str| notes.iter().filter(|note| note.ends_with(what)).count();
        assert_eq!((said(": rotated"), said(": deleted, read to its end")), (1, 1), "{notes:?}");
        let lines: Vec<&str> =
            place.kept.lines[OPEN_MAX + 10..].iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(lines, ["late", "later"]);
    }

    #[test]
    fn a_deleted_file_is_finished_before_a_stop_and_leaves_no_position() {
        let mut place = Place::new(&["app.log"]);
        place.append("app.log", OLD);
        let path = place.path("app.log");
        let said = session(&place.settings, &mut |follower| {
            let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
            fs::remove_file(&path).unwrap();
            writer.write_all(b"last\ntail").unwrap();
            follower.end();
        });
        said.iter().for_each(|said| place.kept.take(said));
        let lines: Vec<&str> = place.kept.lines[2..].iter().map(|(_, l)| l.as_str()).collect();
        assert_eq!(lines, ["last", "tail"]);
        assert!(place.kept.marks.is_empty());
    }

    /// What a program and its logs may do.
    #[derive(Debug, Clone)]
    enum Act {
        /// Writes so many lines; every fourth ends with CRLF, every seventh is oversized.
        Lines(u8),
        /// Writes the beginning of a line, or the rest of the one that was begun.
        Part,
        Rename,
        CopyTruncate,
        /// Writes to a file with the date in its name, the next one if told so.
        Day(bool),
        Polls(u8),
        /// The reader stands still for so many of the acts that follow.
        Still(u8),
        /// The run ends, properly or not; so many thousandths of what it gave are kept. So many of
        /// the acts that follow happen before the next run.
        Stop {
            proper: bool,
            kept: u16,
            down: u8,
        },
        /// The file is emptied, or deleted and made again, if that happens while nobody reads and
        /// can be noticed.
        Destroy {
            delete: bool,
        },
        /// The oldest rotated file is deleted while nobody reads, if nothing is lost by that.
        Prune,
        /// The oldest rotated file is packed while nobody reads.
        Pack,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            6 => (1u8..8).prop_map(Act::Lines),
            2 => Just(Act::Part),
            2 => Just(Act::Rename),
            2 => Just(Act::CopyTruncate),
            2 => any::<bool>().prop_map(Act::Day),
            4 => (0u8..10).prop_map(Act::Polls),
            2 => (1u8..8).prop_map(Act::Still),
            3 => (any::<bool>(), 0u16..=1000, 0u8..8)
                .prop_map(|(proper, kept, down)| Act::Stop { proper, kept, down }),
            1 => any::<bool>().prop_map(|delete| Act::Destroy { delete }),
            2 => Just(Act::Prune),
            1 => Just(Act::Pack),
        ];
        prop::collection::vec(act, 1..60)
    }

    /// The writing side.
    struct World {
        place: Place,
        number: usize,
        /// All lines as they are to be given.
        written: Vec<String>,
        /// The rest of a line that was begun.
        begun: Option<(String, String)>,
        /// Numbers of lines that were not in `app.log` or never got their newline: they may come
        /// after later ones.
        loose: BTreeSet<usize>,
        day: u32,
        /// The patterns fit the rotated names too.
        star: bool,
        destroyed: bool,
        /// Rotated files get times that tell them apart, and may be deleted and packed: this many
        /// seconds have passed.
        aged: Option<u64>,
    }

    impl World {
        fn line(&mut self) -> String {
            self.number += 1;
            let number = self.number;
            let padding =
                "p".repeat(if number.is_multiple_of(7) { 40 + number % 50 } else { number % 30 });
            format!(
                "{number:06} is a line {padding}{}",
                if number.is_multiple_of(4) { "\r" } else { "" }
            )
        }

        fn expect(&mut self, line: &str) {
            let cut = line.len() > 60;
            self.written.push(if cut { format!("{}~", &line[..60]) } else { line.to_owned() });
        }

        fn finish_line(&mut self) {
            if let Some((begin, rest)) = self.begun.take() {
                self.place.append("app.log", &format!("{rest}\n"));
                self.expect(&format!("{begin}{rest}"));
            }
        }

        fn write(&mut self, name: &str) {
            let line = self.line();
            self.place.append(name, &format!("{line}\n"));
            self.expect(&line);
        }

        /// Old logs move on to make room for `app.log.1`; a line that was begun stays unfinished.
        fn make_room(&mut self) {
            if let Some((begin, _)) = self.begun.take() {
                self.expect(&begin);
                self.loose.insert(begin[..6].parse().unwrap());
            }
            for number in (1..self.free()).rev() {
                for ending in ["", ".gz"] {
                    let name = |number: usize| format!("app.log.{number}{ending}");
                    let (from, to) = (name(number), name(number + 1));
                    _ = fs::rename(self.place.path(&from), self.place.path(&to));
                }
            }
        }

        /// The lowest number that no rotated file has.
        fn free(&self) -> usize {
            let name = |number, ending| self.place.path(&format!("app.log.{number}{ending}"));
            let is_free =
                |number: &usize| ["", ".gz"].iter().all(|end| !name(*number, end).exists());
            (1..).find(is_free).unwrap()
        }

        /// `app.log.1` is new.
        fn age(&mut self) {
            if let Some(seconds) = &mut self.aged {
                *seconds += 1;
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + *seconds);
                let path = self.place.path("app.log.1");
                OpenOptions::new().append(true).open(path).unwrap().set_modified(time).unwrap();
            }
        }

        /// The oldest rotated file that is not packed, and whether all of it was given and kept, and
        /// it is known to be complete if it is known at all.
        fn oldest(&self) -> Option<(PathBuf, bool)> {
            let names = (1..self.free()).rev().map(|n| self.place.path(&format!("app.log.{n}")));
            let path = names.into_iter().find(|path| path.exists())?;
            let text = fs::read_to_string(&path).unwrap();
            let cut = |line: &str| {
                if line.len() > 60 { format!("{}~", &line[..60]) } else { line.to_owned() }
            };
            let lines = text.split('\n').map(|line| cut(line.trim_start_matches('\0')));
            let given: BTreeSet<&String> = self.place.kept.lines.iter().map(|(_, l)| l).collect();
            let file = File::open(&path).unwrap();
            let mut marks =
                self.place.kept.marks.values().filter(|mark| mark.is_in(&file).unwrap());
            let all = lines.filter(|line| !line.is_empty()).all(|line| given.contains(&line));
            Some((path, all && marks.all(|mark| mark.settled)))
        }

        /// The positions that are kept know the file that is now `app.log`, by its content.
        fn is_known(&self) -> bool {
            let file = File::open(self.place.path("app.log")).unwrap();
            let id = FileId::of(&file.metadata().unwrap());
            let mut marks = self.place.kept.marks.values();
            marks.any(|mark| mark.id() == id && mark.is_telling() && mark.is_in(&file).unwrap())
        }

        fn act(&mut self, act: &Act, follower: Option<&mut Follower<'_>>) {
            let up = follower.is_some();
            match act {
                Act::Lines(count) => {
                    self.finish_line();
                    (0..*count).for_each(|_| self.write("app.log"));
                }
                Act::Part if self.begun.is_some() => self.finish_line(),
                Act::Part => {
                    let line = self.line();
                    let (begin, rest) = line.split_at(7 + self.number % (line.len() - 6));
                    self.place.append("app.log", begin);
                    self.begun = Some((begin.to_owned(), rest.to_owned()));
                }
                // Of a copy that was seen but not opened when the run ended nothing is known; that
                // only matters if it fits.
                Act::CopyTruncate if if up { !self.star } else { self.is_known() } => {
                    // Its copy is known only by what was read of it.
                    let mut follower = follower;
                    if let Some(follower) = &mut follower {
                        self.finish_line();
                        self.write("app.log");
                        if self.number.is_multiple_of(2) {
                            self.act(&Act::Part, None);
                        }
                        drain(follower);
                    }
                    self.make_room();
                    let path = self.place.path("app.log");
                    append(&path, "");
                    fs::copy(&path, self.place.path("app.log.1")).unwrap();
                    self.age();
                    File::create(path).unwrap();
                    // If it grew to the length it had, nobody could tell before it grows further.
                    if let Some(follower) = follower {
                        follower.turn();
                    }
                }
                Act::Rename | Act::CopyTruncate => {
                    self.make_room();
                    append(&self.place.path("app.log"), "");
                    // One that comes and goes between two scans is never seen.
                    follower.into_iter().for_each(|follower| follower.scan(false));
                    fs::rename(self.place.path("app.log"), self.place.path("app.log.1")).unwrap();
                    self.age();
                    append(&self.place.path("app.log"), "");
                }
                Act::Prune if self.aged.is_some() && !up => {
                    if let Some((path, true)) = self.oldest() {
                        fs::remove_file(path).unwrap();
                    }
                }
                Act::Pack if self.aged.is_some() && !up && !self.star => {
                    if let Some((path, given)) = self.oldest() {
                        let time = fs::metadata(&path).unwrap().modified().unwrap();
                        let packed = path.with_extension(format!(
                            "{}.gz",
                            path.extension().unwrap().to_str().unwrap()
                        ));
                        pack(&packed, &fs::read_to_string(&path).unwrap());
                        File::open(packed).unwrap().set_modified(time).unwrap();
                        fs::remove_file(path).unwrap();
                        self.destroyed |= !given;
                    }
                }
                Act::Prune | Act::Pack => {}
                Act::Day(next) => {
                    self.day += u32::from(*next);
                    self.write(&format!("day-{:03}.log", self.day));
                    self.loose.insert(self.number);
                }
                Act::Polls(count) => {
                    if let Some(follower) = follower {
                        for poll in 0..*count {
                            follower.turn();
                            if poll % 3 == 2 {
                                follower.scan(false);
                            }
                        }
                    }
                }
                Act::Destroy { delete } => {
                    if !up && self.is_known() {
                        let path = self.place.path("app.log");
                        if *delete {
                            fs::remove_file(&path).unwrap();
                        }
                        File::create(path).unwrap();
                        self.begun = None;
                        self.destroyed = true;
                    }
                }
                Act::Still(_) | Act::Stop { .. } => {}
            }
        }

        /// Does something while a live reader stands still. It knows its file by what it gave of it.
        fn act_unseen(&mut self, act: &Act, follower: &mut Follower<'_>) {
            let id = FileId::of(&fs::metadata(self.place.path("app.log")).unwrap());
            let file = follower.files.iter_mut().find(|file| file.id == id);
            let is_known = file.is_some_and(|file| file.position().is_telling());
            match act {
                Act::CopyTruncate if is_known && !self.star => {
                    self.make_room();
                    let path = self.place.path("app.log");
                    fs::copy(&path, self.place.path("app.log.1")).unwrap();
                    self.age();
                    File::create(path).unwrap();
                }
                Act::CopyTruncate | Act::Rename => self.act(&Act::Rename, None),
                // What was destroyed or packed is a loss that no live reader can know of.
                Act::Destroy { .. } | Act::Prune | Act::Pack => {}
                _ => self.act(act, None),
            }
        }

        /// Keeps so many thousandths of what a run gave. Behind a place at the beginning of a file
        /// there is nothing by which its copy could be known, so that no run ends there.
        fn keep(&mut self, said: &[Said], thousandths: u16) {
            let count = said.len() * usize::from(thousandths) / 1000;
            for (index, said) in said.iter().enumerate() {
                let (marks, path) = (&self.place.kept.marks, self.place.path("app.log"));
                let mut current = marks.values().filter(|mark| mark.path == path && !mark.settled);
                if index >= count && !marks.is_empty() && current.all(FilePosition::is_telling) {
                    break;
                }
                self.place.kept.take(said);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn every_line_is_given_once_across_restarts_or_its_loss_is_said(
            star in any::<bool>(), aged in any::<bool>(), acts in acts(),
        ) {
            let mut world = World {
                place: Place::new(&[if star { "app.log*" } else { "app.log" }, "day-*.log"]),
                number: 0,
                written: Vec::new(),
                begun: None,
                loose: BTreeSet::new(),
                day: 0,
                star,
                destroyed: false,
                aged: aged.then_some(0),
            };
            world.write("app.log");
            let mut acts = acts.iter();
            let mut last = false;
            while !last {
                let mut settings = world.place.settings.clone();
                settings.resume = world.place.kept.resume();
                let (mut kept, mut down, mut still) = (1000, 0, 0);
                let said = session(&settings, &mut |follower| {
                    for act in acts.by_ref() {
                        if let Act::Stop { proper, kept: part, down: count } = act {
                            (kept, down) = (*part, *count);
                            if *proper {
                                follower.end();
                            }
                            return;
                        }
                        if still > 0 {
                            still -= 1;
                            world.act_unseen(act, follower);
                        } else if let Act::Still(count) = act {
                            still = *count;
                        } else {
                            world.act(act, Some(follower));
                        }
                    }
                    world.finish_line();
                    // Twice: one may make it as long as it was before it was truncated unseen.
                    for _ in 0..2 {
                        world.write("app.log");
                        drain(follower);
                    }
                    last = true;
                });
                world.keep(&said, kept);
                for act in acts.by_ref().take(down.into()) {
                    world.act(act, None);
                }
            }
            let kept = &world.place.kept;
            let mut given: Vec<&String> = kept.lines.iter().map(|(_, line)| line).collect();
            given.sort();
            let mut written: Vec<&String> = world.written.iter().collect();
            written.sort();
            let twice = given.windows(2).find(|pair| pair[0] == pair[1]);
            prop_assert_eq!(twice, None);
            let lost: Vec<&&String> =
                written.iter().filter(|line| given.binary_search(line).is_err()).collect();
            prop_assert!(lost.is_empty() || !kept.losses.is_empty(), "lost {:?}", lost);
            prop_assert!(world.destroyed || kept.losses.is_empty(), "{:?}", kept.losses);
            if !world.destroyed {
                prop_assert_eq!(given, written);
            }
            let mut per_source: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
            for (source, line) in &kept.lines {
                per_source.entry(*source).or_default().push(&line[..6]);
            }
            prop_assert!(per_source.values().all(|numbers| numbers.is_sorted()));
            // A successor waits, so that all of `app.log` is in order whatever its files are.
            let numbers = kept.lines.iter().map(|(_, line)| line[..6].parse().unwrap());
            let firm: Vec<usize> = numbers.filter(|n| !world.loose.contains(n)).collect();
            prop_assert!(world.destroyed || firm.is_sorted(), "{:?}", firm);
        }
    }
}
