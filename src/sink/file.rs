//! A file that lines are appended to, readable by its owner only: it names people.

use super::{Delivered, Output};
use crate::action::Action;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};

/// Appends lines to a file.
#[derive(Debug)]
pub struct FileSink {
    path: String,
    out: BufWriter<File>,
    output: Output,
}

impl FileSink {
    /// Opens the file, made with mode 0600 if it is new. A last line without its newline, left by a
    /// crash in the middle of a write, is cut.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub fn open(path: &str, output: Output) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        cut_torn_line(&mut file)?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file), output })
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
        writeln!(self.out, "{}", self.output.render(action, false)).map(|()| Delivered::Yes)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> std::io::Result<Delivered> {
        self.out.flush().map(|()| Delivered::Yes)
    }
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
}
