//! Files that are read once: which ones are meant, and how their bytes are had.
//!
//! What a user may write (a file, a folder, a glob, `-`) is settled before the first byte is read,
//! so that a typing error costs seconds, not the end of a long replay. Compression is told by the
//! first bytes of a file, never by its name: archives are renamed, and `log.gz` is often plain.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;

/// Bytes of compressed input read at a time.
const PACKED_BLOCK: usize = 256 * 1024;

/// Bytes at the beginning of a file that tell its compression.
pub(super) const MAGIC_LEN: usize = 4;

/// One thing to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, written `-`.
    Stdin,
    /// A file, by the path under which the user or a folder names it.
    File(PathBuf),
}

/// Why an input cannot be read. Each message names the path as the user wrote it and says what
/// would help.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Nothing has this name.
    #[error("{}: there is no such file{hint}", path.display())]
    NotFound {
        /// What was asked for.
        path: PathBuf,
        /// A similar name in that folder, or what is wrong with the folder; may be empty.
        hint: String,
    },
    /// A glob that is well formed but fits no file.
    #[error(
        "`{pattern}` matches no file here; expected at least one: check the folder and the \
         spelling, and quote the pattern so that the shell leaves it alone"
    )]
    NoMatch {
        /// The glob as written.
        pattern: String,
    },
    /// A glob that cannot be understood.
    #[error("`{pattern}` is not a valid file pattern: {source}; write `[*]` for a literal `*`")]
    BadPattern {
        /// The glob as written.
        pattern: String,
        /// What the glob parser says, with the position in characters.
        source: glob::PatternError,
    },
    /// A folder in which no file is left after hidden ones are set aside.
    #[error("{}: the folder holds no files (names that begin with `.` are not read)", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// It was to be followed, and cannot be.
    #[error("{}: is a pipe or a device and cannot be followed; leave `--follow` out and give it to standard input", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
    },
    /// Nothing was written where a file's name was expected.
    #[error("an empty name is no file; perhaps a variable that is not set")]
    Nameless,
    /// A folder was opened where a file was expected.
    #[error("{}: is a folder, expected a file", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// This user may not read it.
    #[error("{}: permission denied; let this user read it (group `adm` on many systems) or run as one who may", path.display())]
    Denied {
        /// The file or folder.
        path: PathBuf,
    },
    /// The system refused for another reason.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is nothing to read.
    #[error("no files were given; name at least one file, folder or pattern")]
    Nothing,
}

impl InputError {
    /// The error for what the system said about `path`.
    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let kind = source.kind();
        let path = path.to_owned();
        if kind == ErrorKind::NotFound {
            let hint = nearest_name(&path);
            Self::NotFound { path, hint }
        } else if kind == ErrorKind::PermissionDenied {
            Self::Denied { path }
        } else if kind == ErrorKind::IsADirectory {
            Self::Folder { path }
        } else if source.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) {
            let why =
                "too many files are open; raise the limit (`ulimit -n`, `LimitNOFILE` of systemd)";
            Self::Unreadable { path, source: io::Error::other(why) }
        } else {
            Self::Unreadable { path, source }
        }
    }
}

/// What the user's arguments mean, in their order: `-` is standard input; a folder stands for all
/// its regular, non-hidden files at any depth (links to folders are not entered), sorted by the
/// bytes of their paths; a text with `*`, `?` or `[` that is not the name of a file is a glob and
/// stands for its matches, sorted; anything else is a file. What was named before, under whatever
/// path, is taken once.
///
/// # Errors
///
/// If an argument names nothing, if part of a folder cannot be listed, or if `args` is empty.
pub fn expand(args: &[String]) -> Result<Vec<Input>, InputError> {
    let mut inputs = Vec::new();
    let mut taken = BTreeSet::new();
    let mut stdin = false;
    for arg in args {
        if arg == "-" {
            if !std::mem::replace(&mut stdin, true) {
                inputs.push(Input::Stdin);
            }
            continue;
        }
        let mut failure = None;
        let names = list(arg, &mut |error| {
            failure.get_or_insert(error);
        });
        if let Some(error) = failure {
            return Err(error);
        }
        for name in names {
            // Pipes that a shell hands over as /dev/fd/63 have no canonical path.
            let canonical = fs::canonicalize(&name).unwrap_or_else(|_| name.clone());
            if taken.insert(canonical) {
                inputs.push(Input::File(name));
            }
        }
    }
    if inputs.is_empty() { Err(InputError::Nothing) } else { Ok(inputs) }
}

/// Refuses what can never be followed; that it is not there yet is what following is for.
///
/// # Errors
///
/// If it is a pipe, a device, no valid glob, or nothing.
pub fn may_follow(arg: &str) -> Result<(), InputError> {
    if arg.is_empty() {
        return Err(InputError::Nameless);
    }
    match fs::metadata(arg) {
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {
            Err(InputError::NoFile { path: PathBuf::from(arg) })
        }
        _ => check_pattern(arg),
    }
}

/// Refuses a text that is neither the name of something nor a valid glob; it need not match yet.
pub(super) fn check_pattern(arg: &str) -> Result<(), InputError> {
    if !arg.contains(['*', '?', '[']) || Path::new(arg).exists() {
        return Ok(());
    }
    let checked = glob::Pattern::new(arg);
    let bad = |source| InputError::BadPattern { pattern: arg.to_owned(), source };
    checked.map(|_| ()).map_err(bad)
}

/// Whether `arg` would stand for `path` if there were a file of that name.
pub(super) fn may_mean(arg: &str, path: &Path) -> bool {
    let plain = |path: &Path| -> PathBuf {
        path.components().filter(|part| *part != Component::CurDir).collect()
    };
    let (arg_path, path) = (plain(Path::new(arg)), plain(path));
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    path.starts_with(&arg_path)
        || (arg.contains(['*', '?', '['])
            && arg_path
                .to_str()
                .and_then(|text| glob::Pattern::new(text).ok())
                .is_some_and(|pattern| pattern.matches_path_with(&path, options)))
}

/// The files that `arg` stands for at this moment, sorted by path bytes. What cannot be listed is
/// told to `on_error`; the rest is still given.
pub(super) fn list(arg: &str, on_error: &mut dyn FnMut(InputError)) -> Vec<PathBuf> {
    let path = Path::new(arg);
    let mut found = Vec::new();
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            walk(path, &mut found, on_error);
            if found.is_empty() {
                on_error(InputError::EmptyFolder { path: path.to_owned() });
            }
        }
        Ok(_) => found.push(path.to_owned()),
        Err(_) if arg.contains(['*', '?', '[']) => match glob::glob(arg) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(name) if !name.is_dir() => found.push(name),
                        Ok(_) => {}
                        Err(error) => {
                            let path = error.path().to_owned();
                            on_error(InputError::from_io(&path, error.into()));
                        }
                    }
                }
                if found.is_empty() {
                    on_error(InputError::NoMatch { pattern: arg.to_owned() });
                }
            }
            Err(source) => {
                on_error(InputError::BadPattern { pattern: arg.to_owned(), source });
            }
        },
        Err(error) => on_error(InputError::from_io(path, error)),
    }
    found.sort_by(|one, other| path_bytes(one).cmp(path_bytes(other)));
    found
}

/// Adds all regular, non-hidden files below `folder`.
fn walk(folder: &Path, found: &mut Vec<PathBuf>, on_error: &mut dyn FnMut(InputError)) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return on_error(InputError::from_io(folder, error)),
    };
    for entry in entries {
        let (path, kind) = match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
            Ok(entry) => entry,
            Err(error) => {
                on_error(InputError::from_io(folder, error));
                continue;
            }
        };
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".")) {
            continue;
        }
        // A link to a file is a file; a link to a folder could lead round in a circle.
        if kind.is_dir() {
            walk(&path, found, on_error);
        } else if kind.is_file() || (kind.is_symlink() && path.is_file()) {
            found.push(path);
        }
    }
}

fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A hint for a path that is not there: the most similar name in its folder, if one is close.
fn nearest_name(path: &Path) -> String {
    let Some(wanted) = path.file_name().map(|name| name.to_string_lossy()) else {
        return String::new();
    };
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let Ok(entries) = fs::read_dir(folder) else {
        return if folder.exists() {
            String::new()
        } else {
            format!(", and no folder `{}` either", folder.display())
        };
    };
    let close = 2.max(wanted.chars().count() / 4);
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let nearest = names
        .map(|name| (strsim::osa_distance(&wanted, &name), name))
        .filter(|(distance, _)| *distance <= close)
        .min();
    nearest.map_or_else(String::new, |(_, name)| {
        format!("; did you mean `{}`?", path.with_file_name(name).display())
    })
}

/// A file that is open for reading from its beginning to its end.
pub struct Opened {
    /// Its content, unpacked. Errors name the file; what lies before the damage comes first.
    pub reader: Box<dyn Read + Send>,
    /// Bytes on disk when it was opened, packed; 0 if it is a pipe.
    pub size: u64,
    /// Bytes taken from disk so far, packed; together with `size` the length of a progress bar.
    pub read: Arc<AtomicU64>,
    /// When it was last written, if the file system knows.
    pub modified: Option<SystemTime>,
    /// Its content has to be unpacked.
    pub packed: bool,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { reader: _, size, read, modified, packed } = self;
        f.debug_struct("Opened")
            .field("size", size)
            .field("read", read)
            .field("packed", packed)
            .field("modified", modified)
            .finish_non_exhaustive()
    }
}

/// Opens a file, plain, gzip (of any number of members) or zstd (of any number of frames). Frames
/// that ask for a window of more than 128 MiB (`zstd --long` above 27) are refused when they are
/// reached, to keep memory bounded.
///
/// # Errors
///
/// If it does not exist, is a folder, may not be read, or its first bytes cannot be read.
pub fn open(path: &Path) -> Result<Opened, InputError> {
    let file = File::open(path).map_err(|error| InputError::from_io(path, error))?;
    open_handle(file, path)
}

/// [`open`] for a file that is open already; `path` is what errors call it.
pub(super) fn open_handle(file: File, path: &Path) -> Result<Opened, InputError> {
    let failed = |error| InputError::from_io(path, error);
    let meta: Metadata = file.metadata().map_err(failed)?;
    if meta.is_dir() {
        return Err(InputError::Folder { path: path.to_owned() });
    }
    let read = Arc::new(AtomicU64::new(0));
    let mut counted = Counted { file, read: Arc::clone(&read) };
    let mut first = Vec::with_capacity(MAGIC_LEN);
    counted.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut first).map_err(failed)?;
    let packing = packing(&first);
    let whole = io::Cursor::new(first).chain(counted);
    let content: Box<dyn Read + Send> = match packing {
        None => Box::new(whole),
        Some(Packing::Gzip) => {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_BLOCK, whole)))
        }
        Some(Packing::Zstd) => {
            let buffered = BufReader::with_capacity(PACKED_BLOCK, whole);
            Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(failed)?)
        }
    };
    let reader = Box::new(Named { content, path: path.to_owned(), packing, given: 0 });
    let size = if meta.is_file() { meta.len() } else { 0 };
    let packed = packing.is_some();
    Ok(Opened { reader, size, read, modified: meta.modified().ok(), packed })
}

/// Whether `path` is a file that this user can open, and if not, why not and what would help.
///
/// # Errors
///
/// If it does not exist, is a folder or may not be read.
pub fn probe(path: &Path) -> Result<(), InputError> {
    let meta = fs::metadata(path).map_err(|error| InputError::from_io(path, error))?;
    if meta.is_dir() {
        return Err(InputError::Folder { path: path.to_owned() });
    }
    // Opening a pipe without reading it still waits for its writer, and takes nothing from it.
    if meta.is_file() {
        File::open(path).map_err(|error| InputError::from_io(path, error))?;
    }
    Ok(())
}

/// Whether it is a file that can be read twice, and not a pipe.
pub fn is_regular(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file())
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

/// The compression that the first bytes of a file tell; `None` is plain.
pub(super) fn packing(first: &[u8]) -> Option<Packing> {
    match first {
        [0x1f, 0x8b, ..] => Some(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
        // A skippable frame, with which parallel zstd tools begin.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Packing::Zstd),
        _ => None,
    }
}

/// Too few bytes to tell, and so far the beginning of a compressed file.
pub(super) fn may_become_packed(first: &[u8]) -> bool {
    let magics: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];
    !first.is_empty()
        && magics.iter().any(|magic| magic.len() > first.len() && magic.starts_with(first))
}

/// Counts what is taken from disk. Relaxed is enough: a progress bar is the only reader.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buf)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Puts the file's name, and what can be done, into errors that come up while it is read.
struct Named {
    content: Box<dyn Read + Send>,
    path: PathBuf,
    packing: Option<Packing>,
    /// Bytes of content given so far.
    given: u64,
}

impl Read for Named {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buf) {
            Ok(count) => {
                self.given += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let (path, given) = (self.path.display(), self.given);
                let text = match self.packing {
                    None => format!("{path}: reading failed after {given} bytes: {error}"),
                    Some(packing) => {
                        let name = if packing == Packing::Gzip { "gzip" } else { "zstd" };
                        format!(
                            "{path}: the {name} archive is damaged or cut short after {given} \
                             unpacked bytes, which were used: {error}; test it with `{name} -t`"
                        )
                    }
                };
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    fn zst(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).unwrap()
    }

    /// Text that does not compress away, so that cutting it cuts something.
    fn long_text() -> Vec<u8> {
        (0..200_000u64)
            .flat_map(|n| format!("{:x}\n", n.wrapping_mul(n) ^ 0x5bd1).into_bytes())
            .collect()
    }

    fn read_back(dir: &TempDir, bytes: &[u8]) -> (Vec<u8>, Option<String>, u64) {
        let path = dir.path().join("some.log");
        fs::write(&path, bytes).unwrap();
        let mut opened = open(&path).unwrap();
        assert_eq!(opened.size, bytes.len() as u64);
        assert!(opened.modified.is_some());
        let mut text = Vec::new();
        let error = opened.reader.read_to_end(&mut text).err().map(|error| error.to_string());
        (text, error, opened.read.load(Ordering::Relaxed))
    }

    #[test]
    fn compression_is_told_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zst(b"a\n")].concat();
        let cases: [(Vec<u8>, &[u8]); 8] = [
            (Vec::new(), b""),
            (b"a".to_vec(), b"a"),
            (b"plain\n".to_vec(), b"plain\n"),
            (gzip(b"a\n"), b"a\n"),
            ([gzip(b"a\n"), gzip(b""), gzip(b"b\n")].concat(), b"a\nb\n"),
            (zst(b"a\n"), b"a\n"),
            ([zst(b"a\n"), zst(b""), zst(b"b\n")].concat(), b"a\nb\n"),
            (skippable, b"a\n"),
        ];
        for (bytes, expected) in cases {
            let size = bytes.len() as u64;
            assert_eq!(read_back(&dir, &bytes), (expected.to_vec(), None, size), "{bytes:x?}");
        }
    }

    #[test]
    fn a_damaged_archive_gives_what_is_before_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        let text = long_text();
        for packed in [gzip(&text), zst(&text)] {
            let cut = &packed[..packed.len() / 2];
            let mut flipped = packed.clone();
            flipped[packed.len() / 2..packed.len() / 2 + 64].fill(0xff);
            for bytes in [cut, &flipped] {
                let (got, error, _) = read_back(&dir, bytes);
                let error = error.unwrap();
                assert!(error.contains("some.log") && error.contains("archive"), "{error}");
                // A zstd block, up to 128 KiB, is either whole or not there.
                assert!(got.len() > text.len() / 4, "only {} of {}", got.len(), text.len());
                assert!(text.starts_with(&got[..got.len().min(text.len() / 4)]));
            }
            let (got, _, _) = read_back(&dir, cut);
            assert!(text.starts_with(&got));
        }
    }

    #[test]
    fn expand_takes_folders_globs_and_each_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(at("sub/.git")).unwrap();
        for name in ["b.log", "a.log", "sub/c.log", ".hidden", "sub/.git/x", "odd[1].log", "z.txt"]
        {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("a.log"), at("link.log")).unwrap();
        symlink(dir.path(), at("sub/round")).unwrap();
        let check = |args: &[&str], expected: &[&str]| {
            let args: Vec<String> =
                args.iter().map(|arg| if *arg == "-" { (*arg).into() } else { at(arg) }).collect();
            let expected: Vec<Input> = expected
                .iter()
                .map(|name| if *name == "-" { Input::Stdin } else { Input::File(at(name).into()) })
                .collect();
            assert_eq!(expand(&args).unwrap(), expected, "{args:?}");
        };
        check(&[""], &["a.log", "b.log", "odd[1].log", "sub/c.log", "z.txt"]);
        check(&["*.log"], &["a.log", "b.log", "odd[1].log"]);
        check(&["b.log", "-", "*.log", "-"], &["b.log", "-", "a.log", "odd[1].log"]);
        check(&["odd[1].log"], &["odd[1].log"]);
        check(&["**/c.log"], &["sub/c.log"]);
        check(&["link.log", "a.log", "sub/../a.log"], &["link.log"]);
    }

    #[test]
    fn errors_name_the_path_and_help() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        fs::write(at("access.log"), "").unwrap();
        fs::create_dir(at("empty")).unwrap();
        let check = |name: &str, expected: &[&str]| {
            let error = expand(&[at(name)]).unwrap_err().to_string();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        };
        check("acces.log", &["acces.log: there is no such file", "did you mean", "access.log`?"]);
        check("quite-other", &["there is no such file"]);
        check("none/x.log", &["x.log", "no folder `", "none`"]);
        check("*.jsonl", &["*.jsonl` matches no file"]);
        check("a[.jsonl", &["a[.jsonl` is not a valid file pattern"]);
        check("empty", &["the folder holds no files"]);
        assert!(expand(&[]).unwrap_err().to_string().contains("no files were given"));
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, InputError::Folder { .. }), "{error}");
        let denied = InputError::from_io(Path::new("x"), ErrorKind::PermissionDenied.into());
        assert!(denied.to_string().starts_with("x: permission denied"), "{denied}");
    }
}
