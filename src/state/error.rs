//! What can go wrong with a state directory, told so that it can be mended.

use super::LOCK;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The directory cannot be made, since the one it would be in is not there.
    #[error("there is no directory `{}` to make the state directory `{}` in; make it first, or correct `state_dir`", parent.display(), dir.display())]
    MissingParent {
        /// The state directory.
        dir: PathBuf,
        /// What is not there.
        parent: PathBuf,
    },
    /// There is nothing to read.
    #[error("there is no state in `{}`: {found}; name the directory that `state_dir` names", dir.display())]
    Missing {
        /// The state directory.
        dir: PathBuf,
        /// What is not there.
        found: &'static str,
    },
    /// Something else has that name.
    #[error("`{}` is not a directory; `state_dir` must name a directory, which Portcullis makes if it is not there", path.display())]
    NotADirectory {
        /// What is no directory.
        path: PathBuf,
    },
    /// The directory's name is a link to nothing.
    #[error("`{}` is a link to `{}`, which is not there; make that directory first, or correct the link or `state_dir`", path.display(), target.display())]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// No directory can be made there, whoever tries.
    #[error("`{}` cannot be made: no directory can be made in `{}`; `state_dir` must name one on a disk, such as ./state or /var/lib/portcullis", dir.display(), parent.display())]
    NoPlace {
        /// The state directory.
        dir: PathBuf,
        /// Where it would be.
        parent: PathBuf,
    },
    /// The system forbids it.
    #[error("`{}` cannot be {what}: {why}; Portcullis must own the state directory and may write in it (a volume may belong to root: in a container run as its owner, on Railway by the variable RAILWAY_RUN_UID=0)", path.display())]
    Forbidden {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: "written", "read", "made".
        what: &'static str,
        /// What the system said.
        why: String,
    },
    /// Another process has it.
    #[error("the state directory `{}` is in use by {}; one Portcullis per directory: stop that one, or give this one another `state_dir`", dir.display(), holder(*pid))]
    InUse {
        /// The state directory.
        dir: PathBuf,
        /// Who has it.
        pid: Option<u32>,
    },
    /// It is somebody else's.
    #[error("`{}` is not a database of Portcullis: {found}; it was left as it is: move it away, or give Portcullis another `state_dir`", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// Somebody else has committed to it while this process had it.
    #[error("`{}` holds {found} commits and should hold {expected}: another process writes into it too. What it holds is whole, so leave it as it is; see that only one Portcullis uses the directory, from other containers and machines as well, and that nobody takes `{LOCK}` away; then start again (`portcullis state verify {}` checks it)", path.display(), directory(path))]
    TwoWriters {
        /// The file.
        path: PathBuf,
        /// Commits in it.
        found: i64,
        /// Commits of this process, and of those before it.
        expected: i64,
    },
    /// Something in it is not as it was committed.
    #[error("`{}` is damaged: {what}; `portcullis state verify {}` lists everything that is wrong. Restore the directory from a copy, or move it away to begin without what it knew", path.display(), directory(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// It is another file than the one that was opened, or none.
    #[error("`{}` was moved, replaced or removed while Portcullis used it: what it notes would be lost with it; leave the state directory alone, and start again", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// A later version made it.
    #[error("`{}` has format {found}, and this version knows format {known}: it was written by a newer Portcullis; use that version, or another `state_dir`", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// There is no room.
    #[error("the disk of `{}` is full: the last change was not made, everything before it is safe; make room on it", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The disk did not confirm that it has the data.
    #[error("`{}` could not be synced to disk ({why}): whether the last change will last is not known, everything before it is safe; see the kernel's log about the disk", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        why: String,
    },
    /// Somebody else writes and does not end.
    #[error("`{}` is locked by another process for more than {waited_s} s; no other program may keep it locked while Portcullis runs", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long it was waited.
        waited_s: u32,
    },
    /// A commit was given while the outcome of another one is open.
    #[error("`{}`: the commit before this one failed with an unknown outcome and turned out to have been made; it must be given again, unchanged, before another", path.display())]
    InDoubt {
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("`{}`: {why}; see the kernel's log about the disk", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

/// The state directory that a file lies in.
fn directory(file: &Path) -> String {
    file.parent().unwrap_or(file).display().to_string()
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl StateError {
    /// Whether it may pass by itself, so that the same commit is worth trying again later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Sync { .. } | Self::Busy { .. } | Self::Io { .. })
    }

    /// Whether another `state_dir` would be the cure, or the only one.
    pub fn is_about_the_place(&self) -> bool {
        matches!(
            self,
            Self::MissingParent { .. }
                | Self::NotADirectory { .. }
                | Self::DanglingLink { .. }
                | Self::NoPlace { .. }
                | Self::Forbidden { .. }
        )
    }

    /// Something is not as it was committed.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    /// The database holds another number of commits than this process knows of: more were made by
    /// somebody else, fewer were lost.
    pub(super) fn commits(path: &Path, found: i64, expected: i64) -> Self {
        if found > expected {
            return Self::TwoWriters { path: path.to_owned(), found, expected };
        }
        Self::damaged(path, format!("it holds {found} commits and should hold {expected}"))
    }

    pub(super) fn of_io(path: &Path, what: &'static str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path },
            ErrorKind::PermissionDenied => {
                Self::Forbidden { path, what, why: "permission denied".to_owned() }
            }
            ErrorKind::ReadOnlyFilesystem => {
                Self::Forbidden { path, what, why: "the file system is read-only".to_owned() }
            }
            ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { path, why: format!("it cannot be {what}: {}", plain(error)) },
        }
    }
}

/// What the system said, without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
