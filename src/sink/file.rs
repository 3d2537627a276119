//! A file that lines are appended to, readable by its owner only: it names people.

use super::{Delivered, Output};
use crate::action::Action;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tracing::warn;

/// Appends lines to a file.
#[derive(Debug)]
pub struct FileSink {
    path: String,
    out: BufWriter<File>,
    output: Output,
    /// Lines were flushed and may not be synced.
    unsynced: bool,
    /// A torn last line was looked for.
    whole: bool,
    /// The file system counts names.
    named: bool,
}

impl FileSink {
    /// Opens the file, made with mode 0600 if it is new. A last line without its newline, left by a
    /// crash in the middle of a write, is cut before the first use, not yet: somebody else may be
    /// writing it, and whoever cannot start must leave it as it is.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub fn open(path: &str, output: Output) -> std::io::Result<Self> {
        let file = open(path)?;
        // Whoever wrote what is there may have been killed before it was synced.
        let (path, out) = (path.to_owned(), BufWriter::new(file));
        let named = out.get_ref().metadata()?.nlink() > 0;
        Ok(Self { path, out, output, unsynced: true, whole: false, named })
    }

    fn make_whole(&mut self) -> std::io::Result<()> {
        if !self.whole {
            cut_torn_line(self.out.get_mut())?;
            self.whole = true;
        }
        Ok(())
    }

    /// Makes a new file where the old one was removed, so that nothing is written that nobody can find.
    fn keep_name(&mut self) -> std::io::Result<()> {
        if !self.named || self.out.get_ref().metadata()?.nlink() > 0 {
            return Ok(());
        }
        let new = BufWriter::new(open(&self.path)?);
        let (_, waiting) = std::mem::replace(&mut self.out, new).into_parts();
        warn!("{}: was removed; what follows is written into a new file", self.path);
        self.whole = false;
        self.make_whole()?;
        match waiting {
            Ok(waiting) => self.out.write_all(&waiting),
            Err(_) => Ok(()),
        }
    }

    /// Opens the file of this name anew. What could not be written before is let go; it is given
    /// again.
    ///
    /// # Errors
    /// When it cannot be opened for writing, or what was in the file before cannot be made to last;
    /// then the new one is open all the same.
    pub fn reopen(&mut self) -> std::io::Result<()> {
        // A rotated file keeps what it was given.
        let _lost = self.out.flush();
        let old = std::mem::replace(&mut self.out, BufWriter::new(open(&self.path)?));
        let (file, _unwritten) = old.into_parts();
        let unsynced = std::mem::replace(&mut self.unsynced, true);
        self.whole = false;
        if unsynced { file.sync_data() } else { Ok(()) }
    }

    /// The ids among the last `count` lines, and a few before them.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn known(&mut self, count: usize) -> std::io::Result<HashSet<String>> {
        self.make_whole()?;
        let mut ids = HashSet::new();
        if count == 0 {
            return Ok(ids);
        }
        let mut file = File::open(&self.path)?;
        let mut end = file.seek(SeekFrom::End(0))?;
        let mut rest: Vec<u8> = Vec::new();
        while end > 0 && ids.len() <= count {
            let start = end.saturating_sub(1 << 16);
            let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut block)?;
            block.append(&mut rest);
            // The first line of the block may begin in the one before.
            let whole = match memchr::memchr(b'\n', &block) {
                Some(newline) if start > 0 => newline + 1,
                _ if start > 0 => block.len(),
                _ => 0,
            };
            let lines = block.get(whole..).unwrap_or_default().split(|byte| *byte == b'\n');
            ids.extend(lines.filter_map(id_of));
            block.truncate(whole);
            rest = block;
            end = start;
        }
        Ok(ids)
    }

    /// Whether lines were flushed that the disk may not have.
    pub fn needs_sync(&self) -> bool {
        self.unsynced
    }

    /// Makes flushed lines last.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> std::io::Result<()> {
        if self.unsynced {
            self.out.get_ref().sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// The path as configured.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Buffers one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn deliver(&mut self, action: &Action) -> std::io::Result<Delivered> {
        self.make_whole()?;
        let mut line = self.output.render(action, false);
        line.push('\n');
        let buffered = self.out.buffer().len();
        if buffered == 0 || buffered + line.len() > self.out.capacity() {
            self.keep_name()?;
        }
        self.unsynced = true;
        self.out.write_all(line.as_bytes()).map(|()| Delivered::Yes)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> std::io::Result<Delivered> {
        if !self.out.buffer().is_empty() {
            self.keep_name()?;
        }
        self.out.flush().map(|()| Delivered::Yes)
    }
}

/// What two names of one file have in common, also if it is not there yet.
#[derive(Debug, PartialEq, Eq)]
pub enum SameFile {
    /// Its number and that of its disk: links are followed.
    Number(u64, u64),
    /// Where it is, or would be.
    Place(PathBuf),
}

impl SameFile {
    /// Of the file that would be opened under this name.
    pub fn of(path: &str) -> Self {
        let mut path = Path::new(path).to_owned();
        // A link may lead to nothing yet, or round in a circle.
        for _ in 0..40 {
            if let Ok(meta) = std::fs::metadata(&path)
                && meta.is_file()
            {
                return Self::Number(meta.dev(), meta.ino());
            }
            let folder = path.parent().filter(|folder| *folder != Path::new(""));
            let folder = folder.unwrap_or(Path::new(".")).to_owned();
            let folder = folder.canonicalize().unwrap_or(folder);
            // Devices and pipes are what they are called: two of them may be one terminal.
            match std::fs::read_link(&path) {
                Ok(target) if !path.exists() => path = folder.join(target),
                _ => {
                    path = path.file_name().map_or(folder.clone(), |name| folder.join(name));
                    break;
                }
            }
        }
        Self::Place(path)
    }
}

/// Opens a file to append to, made with mode 0600 if it is new.
fn open(path: &str) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        let why = "it is a pipe, expected a file; for standard output write  - stdout: {}";
        return Err(std::io::Error::new(ErrorKind::InvalidInput, why));
    }
    Ok(file)
}

/// The id of a line in either of the forms that carry one.
fn id_of(line: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"id\":\"";
    let mut from = 0;
    while let Some(found) = memchr::memmem::find(line.get(from..)?, KEY) {
        let start = from + found + KEY.len();
        let id = line.get(start..start + 16)?;
        if line.get(start + 16) == Some(&b'"') && id.iter().all(u8::is_ascii_hexdigit) {
            return String::from_utf8(id.to_vec()).ok();
        }
        from = start;
    }
    None
}

fn cut_torn_line(file: &mut File) -> std::io::Result<()> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let length = end;
    let mut block = [0u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(4096);
        let part = usize::try_from(end - start).unwrap_or(0);
        let Some(bytes) = block.get_mut(..part) else { break };
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        if let Some(newline) = memchr::memrchr(b'\n', bytes) {
            end = start + u64::try_from(newline).unwrap_or(0) + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::rule::{Severity, Urgency};

    #[test]
    fn a_torn_last_line_is_cut_and_whole_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("actions.jsonl");
        std::fs::write(&path, format!("one\ntwo\n{}", "x".repeat(10_000))).unwrap();
        let mut sink = FileSink::open(path.to_str().unwrap(), Output::Json).unwrap();
        let note = Action::note("limit", Severity::P1, Urgency::Warning, 0, 0, "r".into());
        sink.deliver(&note).unwrap();
        sink.flush().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("one\ntwo\n{}\n", note.json()));
    }

    #[test]
    fn a_file_that_was_removed_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("actions.jsonl");
        let mut sink = FileSink::open(path.to_str().unwrap(), Output::Json).unwrap();
        let note =
            |n: usize| Action::note("limit", Severity::P1, Urgency::Warning, 0, 0, n.to_string());
        let mut tell = |lines: std::ops::Range<usize>, gone_after: Option<usize>| {
            for n in lines {
                sink.deliver(&note(n)).unwrap();
                if gone_after == Some(n) {
                    std::fs::remove_file(&path).unwrap();
                }
            }
            sink.flush().unwrap();
        };
        tell(0..3, None);
        std::fs::remove_file(&path).unwrap();
        tell(3..40, None);
        let there = || {
            std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let lines =
            |lines: std::ops::Range<usize>| lines.map(|n| note(n).json()).collect::<Vec<_>>();
        assert_eq!(there(), lines(3..40));
        // While lines wait to be written.
        tell(40..45, Some(42));
        assert_eq!(there(), lines(40..45));
        // A rotated file is followed until it is opened anew.
        std::fs::rename(&path, dir.path().join("actions.jsonl.1")).unwrap();
        tell(45..47, None);
        assert!(!path.exists());
    }

    #[test]
    fn what_another_process_wrote_is_synced_before_it_counts_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("actions.jsonl");
        std::fs::write(&path, "one\n").unwrap();
        let mut sink = FileSink::open(path.to_str().unwrap(), Output::Json).unwrap();
        assert!(sink.needs_sync());
        sink.sync().unwrap();
        assert!(!sink.needs_sync());
        std::fs::rename(&path, dir.path().join("actions.jsonl.1")).unwrap();
        std::fs::write(&path, "two\n").unwrap();
        sink.reopen().unwrap();
        assert!(sink.needs_sync());
    }
}
