//! Finding followed files again after a restart.
//!
//! While nobody was reading, a log may have been renamed, copied and truncated, restored, packed or
//! deleted, and its inode may belong to another file by now. So what counts is the content: a file
//! is the one that was read if it shows the remembered prints of its beginning and of the last
//! bytes before the position. The inode only says where to look first, and settles it where two
//! files look alike.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::file;
use super::follow::{
    FileId, TRACE_LEN, born, folder, is_beside, is_relative, names_of, read_up_to,
};
use super::position::{FilePosition, Print};

/// A beginning shorter than this does not prove that a file with another inode is the same.
const HEAD_MIN: usize = 16;
/// How often a file is looked for that is renamed all the time.
const OPEN_TRIES: usize = 20;

impl Print {
    /// The print of the beginning of a file. It ends before the first zero byte: some file systems
    /// show zeros for a moment where a write has not arrived yet, and a hash cannot leave them out.
    pub(super) fn of_head(bytes: &[u8]) -> Self {
        Self::of(bytes.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// The print of the last bytes before a position; for the same reason only of those behind the
    /// last zero byte.
    pub(super) fn of_last(bytes: &[u8]) -> Self {
        Self::of(bytes.rsplit(|byte| *byte == 0).next().unwrap_or_default())
    }

    fn of(bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        let digits = hash.iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
        let sha256 = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        Self { len: bytes.len(), sha256 }
    }

    /// Whether the bytes of `file` from `offset` on are these. No bytes are anywhere.
    fn is_at(&self, file: &File, offset: u64) -> io::Result<bool> {
        let mut found = [0; TRACE_LEN];
        let Some(found) = found.get_mut(..self.len) else { return Ok(false) };
        let count = read_up_to(file, found, offset)?;
        Ok(count == self.len && (count == 0 || Self::of(found) == *self))
    }
}

impl FilePosition {
    pub(super) fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }

    /// Whether `file` holds what was read up to the position.
    pub(super) fn is_in(&self, file: &File) -> io::Result<bool> {
        let Some(last) = self.offset.checked_sub(self.last.len as u64) else { return Ok(false) };
        Ok(file.metadata()?.len() >= self.offset
            && self.head.is_at(file, 0)?
            && self.last.is_at(file, last)?)
    }

    /// Whether there is anything in it that not every file shows.
    fn is_evident(&self) -> bool {
        self.head.len > 0 || self.last.len > 0
    }

    /// Whether there is enough in it to know a file by its content alone.
    pub(super) fn is_telling(&self) -> bool {
        self.head.len >= HEAD_MIN
    }
}

/// A file that may be one of those that were read.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) meta: Metadata,
    /// Its name fits the patterns.
    pub(super) fits: bool,
}

impl Candidate {
    pub(super) fn id(&self) -> FileId {
        FileId::of(&self.meta)
    }

    /// Opens it, whatever its name is by now: logs may be rotated at this very moment.
    pub(super) fn open(&self) -> io::Result<File> {
        let own = |file: &File| Ok::<_, io::Error>(FileId::of(&file.metadata()?) == self.id());
        for _ in 0..OPEN_TRIES {
            match File::open(&self.path) {
                Ok(file) if own(&file)? => return Ok(file),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let path = inodes(folder(&self.path))?.remove(&self.id().inode);
            if let Some(file) = path.and_then(|path| File::open(path).ok())
                && own(&file)?
            {
                return Ok(file);
            }
        }
        Err(io::Error::other("it was replaced while it was looked at"))
    }
}

/// A folder as it can be opened; the working directory is written as none.
pub(super) fn place(folder: &Path) -> &Path {
    if folder == Path::new("") { Path::new(".") } else { folder }
}

/// The files of a folder by their inodes.
pub(super) fn inodes(folder: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let entries = place(folder).read_dir()?.flatten();
    Ok(entries.map(|entry| (entry.ino(), folder.join(entry.file_name()))).collect())
}

/// Whether two looks have found the same files under the same names.
pub(super) fn is_same(one: &[Candidate], other: &[Candidate]) -> bool {
    let named = |one: &[Candidate]| -> BTreeSet<(PathBuf, FileId, bool)> {
        one.iter().map(|one| (one.path.clone(), one.id(), one.fits)).collect()
    };
    named(one) == named(other)
}

/// What became of a file while nobody was reading.
#[derive(Debug)]
pub(super) enum Finding {
    /// It is this candidate now.
    Found(usize),
    /// This candidate has its name and inode, but not its content.
    Overwritten(usize),
    /// It is there but cannot be read now.
    Unreadable(usize, io::Error),
    /// There is nothing that could be it.
    Missing,
}

/// Where the files of `stored` are now among `candidates`. None that is `taken` is meant, and what is
/// found is taken. `is_last` says of a source that no later one had its name.
pub(super) fn find(
    stored: &[(u32, FilePosition)],
    candidates: &[Candidate],
    taken: &mut BTreeSet<FileId>,
    is_last: impl Fn(u32, &FilePosition) -> bool,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = stored.iter().map(|_| Finding::Missing).collect();
    // The same inode first, for all: it decides between files that look alike.
    by_inode(stored, candidates, taken, &mut findings, FilePosition::is_evident);
    for (finding, (_, position)) in findings.iter_mut().zip(stored) {
        if !matches!(finding, Finding::Missing) || !position.is_telling() {
            continue;
        }
        let names = names_of(&position.path);
        let mut others: Vec<(usize, &Candidate)> = candidates
            .iter()
            .enumerate()
            .filter(|(_, one)| one.meta.len() >= position.offset && one.id() != position.id())
            .filter(|(_, one)| one.fits || is_relative(&one.path, &names))
            .filter(|(_, one)| !taken.contains(&one.id()))
            .collect();
        others.sort_by_key(|(_, one)| (one.path != position.path, !one.fits));
        let same = |one: &Candidate| one.open().and_then(|file| position.is_in(&file));
        if let Some((index, one)) = others.into_iter().find(|(_, one)| same(one).unwrap_or(false)) {
            *finding = Finding::Found(index);
            taken.insert(one.id());
        }
    }
    by_inode(stored, candidates, taken, &mut findings, |position| !position.is_evident());
    for (finding, (source, position)) in findings.iter_mut().zip(stored) {
        // One that others came after has not got its name again, only its inode was used again.
        if !matches!(finding, Finding::Missing) || position.settled || !is_last(*source, position) {
            continue;
        }
        let place = candidates.iter().position(|one| {
            one.id() == position.id() && one.path == position.path && !taken.contains(&one.id())
        });
        // If its content was packed elsewhere, only its inode was used again.
        let packed = || packed(&position.path, &position.head, candidates);
        if let Some(index) = place
            && packed().is_none()
        {
            *finding = Finding::Overwritten(index);
            taken.insert(position.id());
        }
    }
    findings
}

/// Finds those of the positions that are `meant` by their inodes.
fn by_inode(
    stored: &[(u32, FilePosition)],
    candidates: &[Candidate],
    taken: &mut BTreeSet<FileId>,
    findings: &mut [Finding],
    meant: impl Fn(&FilePosition) -> bool,
) {
    let findings = findings.iter_mut().zip(stored);
    for (finding, (_, position)) in findings.filter(|(_, (_, position))| meant(position)) {
        let own = candidates.iter().enumerate().filter(|(_, one)| one.id() == position.id());
        let own = own.min_by_key(|(_, one)| (one.path != position.path, !one.fits));
        let Some((index, one)) = own.filter(|_| !taken.contains(&position.id())) else { continue };
        // The inode may have been used again. If nothing was read of the file, only the time when it was
        // made can say so.
        if !position.is_evident() && position.born.is_some() && position.born != born(&one.meta) {
            continue;
        }
        match one.open().and_then(|file| position.is_in(&file)) {
            Ok(true) => *finding = Finding::Found(index),
            Ok(false) => continue,
            Err(error) => *finding = Finding::Unreadable(index, error),
        }
        taken.insert(position.id());
    }
}

/// A file that lost its name while nobody was reading, or before.
#[derive(Debug)]
pub(super) struct Moved {
    /// The name it lost.
    pub(super) from: PathBuf,
    /// The name that it has now; none if it is gone.
    pub(super) to: Option<PathBuf>,
    /// When it was written last.
    pub(super) time: Option<SystemTime>,
    /// Files after it are meant also if their names fit the patterns.
    pub(super) fitting: bool,
}

/// The files that had the name of a moved one after it and before the one that has it now: those
/// whose names differ only by digits from the name that it was rotated to, and that were written last
/// after it. If it is gone, those whose names are [rotations](is_rotation) of the one it had. In the
/// order in which they were written; of two with the same time the one with the higher number is the
/// older. `taken` ones are not meant.
pub(super) fn between<'a>(
    moved: &Moved,
    candidates: &'a [Candidate],
    taken: &BTreeSet<FileId>,
) -> Vec<&'a Candidate> {
    let Moved { from, to, time, fitting } = moved;
    // A link keeps its name, and what it leads to is rotated.
    let real = names_of(from).pop().filter(|real| real.parent() != from.parent());
    let from = real.as_ref().unwrap_or(from);
    let is_rotated = |path: &Path| match to {
        Some(to) => {
            path.parent() == to.parent()
                && path != to
                && without_digits(unpacked(path)) == without_digits(unpacked(to))
        }
        None => is_rotation(path, from),
    };
    let is_later = |one: &Candidate| {
        let (later, number) = (one.meta.modified().ok(), last_number(&one.path));
        let before = to.as_deref().map(last_number);
        // Who packs a file may give it a new time; a number that counts rotations stays telling.
        let counts = is_packed(&one.path) && rows(&one.path) == rows(from) + 1;
        let counts = counts && number.is_some_and(|number| number < COUNTS_MAX);
        !(counts && before.is_some_and(|before| number > before))
            && (later > *time || later == *time && before.is_some_and(|before| number < before))
    };
    // Beside the file that it is made from, a packed one is not finished.
    let is_half_packed = |one: &Candidate| {
        is_packed(&one.path) && candidates.iter().any(|other| other.path == unpacked(&one.path))
    };
    // The number of a program in the name is not that of a rotation: `app-10.log.1` is no `app-1.log`.
    let own = numbers(from);
    let kept = to.as_deref().map_or(own.len(), |to| {
        own.iter().zip(numbers(to)).take_while(|(own, to)| *own == to).count()
    });
    let has_own = |path: &Path| numbers(path).get(..kept) == own.get(..kept);
    let mut found: Vec<&Candidate> = candidates
        .iter()
        .filter(|one| (*fitting || !one.fits) && one.path != *from && is_rotated(&one.path))
        .filter(|one| has_own(&one.path) && !is_half_packed(one))
        .filter(|one| !taken.contains(&one.id()) && is_later(one))
        .collect();
    found.sort_by_key(|one| (one.meta.modified().ok(), Reverse(last_number(&one.path))));
    found
}

/// Whether a file of this name was rotated from that name, as far as names tell: digits stand behind it,
/// or a date somewhere in it, and nothing else but what separates them.
fn is_rotation(path: &Path, from: &Path) -> bool {
    let name = |path: &Path| unpacked(path).file_name().map(|name| name.as_bytes().to_vec());
    let (Some(name), Some(from_name)) = (name(path), name(from)) else { return false };
    let digits = |name: &[u8]| name.iter().filter(|byte| byte.is_ascii_digit()).count();
    let others = |byte: &u8| !byte.is_ascii_digit() && !b".-_".contains(byte);
    let letters = |name: &[u8]| name.iter().copied().filter(others).collect::<Vec<u8>>();
    let more = digits(&name).saturating_sub(digits(&from_name));
    path.parent() == from.parent()
        && letters(&name) == letters(&from_name)
        && (more >= DATE_DIGITS || more > 0 && name.starts_with(&from_name))
}

/// Digits of a date, at least.
const DATE_DIGITS: usize = 6;
/// A number that counts rotations is lower; others are dates.
const COUNTS_MAX: u64 = 10_000;

/// The path without the ending that says that a file is packed.
fn unpacked(path: &Path) -> &Path {
    let whole = path.as_os_str().as_bytes();
    let ending = path.extension().filter(|_| is_packed(path));
    let len = whole.len() - ending.map_or(0, |ending| ending.len() + 1);
    Path::new(OsStr::from_bytes(whole.get(..len).unwrap_or(whole)))
}

/// Whether the name says that a file is packed.
pub(super) fn is_packed(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    ending.is_some_and(|ending| PACKED.contains(&ending))
}

/// Endings of packed files.
const PACKED: [&str; 6] = ["gz", "zst", "bz2", "xz", "lz4", "Z"];

/// The packed file that begins with what the file that had the name `path` began with.
pub(super) fn packed<'a>(
    path: &Path,
    begin: &Print,
    candidates: &'a [Candidate],
) -> Option<&'a Candidate> {
    let names = names_of(path);
    let begins = |one: &&Candidate| {
        let mut head = vec![0; begin.len.min(TRACE_LEN)];
        is_relative(&one.path, &names)
            && file::open(&one.path).is_ok_and(|mut opened| {
                opened.packed
                    && opened.reader.read_exact(&mut head).is_ok()
                    && Print::of(&head) == *begin
            })
    };
    candidates.iter().filter(|_| begin.len > 0).find(begins)
}

/// Whether a file of this name would follow one of that name: the same name, a rotated one, or one
/// that differs only by digits, as names with a date do.
pub(super) fn is_successor(path: &Path, of: &Path) -> bool {
    path == of || is_beside(path, of) || without_digits(path) == without_digits(of)
}

/// The path with one `0` for each row of digits.
fn without_digits(path: &Path) -> Vec<u8> {
    let mut shape = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if !byte.is_ascii_digit() {
            shape.push(*byte);
        } else if shape.last() != Some(&b'0') {
            shape.push(b'0');
        }
    }
    shape
}

/// How many rows of digits the name of a file has, but for the ending of a packed one.
fn rows(path: &Path) -> usize {
    let name = unpacked(path).file_name().map(OsStr::as_bytes).unwrap_or_default();
    let is_end = |pair: &[u8]| matches!(pair, [a, b] if a.is_ascii_digit() && !b.is_ascii_digit());
    [name, b"."].concat().windows(2).filter(|pair| is_end(pair)).count()
}

/// The numbers in the name of a file, but for the ending of a packed one.
fn numbers(path: &Path) -> Vec<Vec<u8>> {
    let name = unpacked(path).file_name().map(OsStr::as_bytes).unwrap_or_default();
    let rows = name.split(|byte| !byte.is_ascii_digit());
    rows.filter(|row| !row.is_empty()).map(<[u8]>::to_vec).collect()
}

/// How often a file was rotated, if its name ends with that.
pub(super) fn rotations(path: &Path) -> Option<u64> {
    let count = path.extension()?.to_str()?.parse().ok()?;
    (count < COUNTS_MAX).then_some(count)
}

/// The last number in the name of a file, but for the ending of a packed one.
fn last_number(path: &Path) -> Option<u64> {
    let name = unpacked(path).file_name()?.to_str()?;
    let mut numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    numbers.next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_whatever_its_name_is_by_then() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name);
        std::fs::write(name("app.log"), "one\n").unwrap();
        std::fs::write(name("app.log.1"), "none\n").unwrap();
        let look = |path: PathBuf| {
            let meta = std::fs::metadata(&path).unwrap();
            Candidate { path, meta, fits: true }
        };
        let before = [look(name("app.log")), look(name("app.log.1"))];
        std::fs::rename(name("app.log.1"), name("app.log.2")).unwrap();
        std::fs::rename(name("app.log"), name("app.log.1")).unwrap();
        std::fs::write(name("app.log"), "two\n").unwrap();
        let contents = before.each_ref().map(|one| {
            let mut text = String::new();
            one.open().unwrap().read_to_string(&mut text).unwrap();
            text
        });
        assert_eq!(contents, ["one\n", "none\n"]);
        assert!(!is_same(&before, &[look(name("app.log")), look(name("app.log.1"))]));
        std::fs::remove_file(name("app.log.2")).unwrap();
        assert!(before[1].open().is_err());
    }
}
