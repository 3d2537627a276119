//! Opening the database: the directory, the lock, the file, SQLite's settings, and what its errors
//! mean.

use super::error::StateError;
use super::schema::{APPLICATION, FORMAT, OBJECTS, PAGE};
use super::seal::Seal;
use super::{FILE, LOCK};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::warn;

/// How long one connection waits for the other; the longest that either holds the lock is the sync
/// of a few MiB.
pub(super) const BUSY_S: u32 = 10;
/// Between two looks at a lock. SQLite's own waiting soon sleeps for 50 ms and more at a time, and a
/// group commit should not wait longer than it must.
const BUSY_STEP: Duration = Duration::from_micros(500);
/// How often and how far apart the directory's lock is asked for before it counts as in use.
const LOCK_TRIES: u32 = 10;
const LOCK_STEP: Duration = Duration::from_millis(10);
/// Pages of the log at which a commit writes it back by itself, should the background not do so.
const CHECKPOINT_FALLBACK: i64 = 65_536;
/// Bytes to which the log is cut once it has been written back.
const LOG_KEPT: i64 = 4 << 20;

/// Errors with the file that they are about.
pub(super) trait At<T> {
    /// Says which file.
    fn at(self, path: &Path) -> Result<T, StateError>;
}

impl<T> At<T> for rusqlite::Result<T> {
    fn at(self, path: &Path) -> Result<T, StateError> {
        self.map_err(|error| fault(path, &error))
    }
}

/// What an error of SQLite means.
pub(super) fn fault(path: &Path, error: &rusqlite::Error) -> StateError {
    use rusqlite::ffi;
    let rusqlite::Error::SqliteFailure(code, message) = error else {
        return StateError::damaged(path, format!("a row does not read as it should: {error}"));
    };
    let said = message.clone().unwrap_or_else(|| code.to_string());
    let owned = path.to_owned();
    match (code.code, code.extended_code) {
        (ErrorCode::DiskFull, _) => StateError::Full { path: owned },
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => {
            StateError::Sync { path: owned, why: said }
        }
        (_, ffi::SQLITE_IOERR_CORRUPTFS) => StateError::damaged(path, said),
        (ErrorCode::SystemIoFailure, code) => {
            StateError::Io { path: owned, why: format!("{said} ({})", operation(code)) }
        }
        (
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed,
            _,
        ) => StateError::Busy { path: owned, waited_s: BUSY_S },
        (ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen, _) => {
            cannot_write(path, &said)
        }
        (ErrorCode::NotADatabase, _) => {
            StateError::NotOurs { path: owned, found: "it is no SQLite database".to_owned() }
        }
        (ErrorCode::OutOfMemory | ErrorCode::OperationInterrupted, _) => {
            StateError::Io { path: owned, why: said }
        }
        _ => StateError::damaged(path, said),
    }
}

fn operation(code: i32) -> &'static str {
    use rusqlite::ffi;
    match code {
        ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ => "while reading",
        ffi::SQLITE_IOERR_WRITE => "while writing",
        ffi::SQLITE_IOERR_TRUNCATE => "while cutting",
        ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP => {
            "while making the index of the log; is the disk full?"
        }
        _ => "while using the file",
    }
}

/// SQLite does not say why it cannot open or make a file, and goes on as a reader where it cannot make
/// one to write: so the system is asked. Only what it forbids will not pass by itself.
fn cannot_write(path: &Path, said: &str) -> StateError {
    let dir = path.parent().unwrap_or(path);
    let probe = beside(path, ".probe");
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&probe);
    let made = made.and_then(|mut file| file.write_all(&[0; 4096]).and_then(|()| file.metadata()));
    let _ours = fs::remove_file(&probe);
    let own = match made {
        Ok(meta) => meta.uid(),
        Err(error) => return StateError::of_io(dir, "written", &error),
    };
    let forbidden =
        |why: String| StateError::Forbidden { path: path.to_owned(), what: "written", why };
    match fs::metadata(path) {
        // Root may write what it does not own.
        Ok(_) if own == 0 => {}
        Ok(meta) if meta.uid() != own => {
            return forbidden(format!("it belongs to user {}, and this is user {own}", meta.uid()));
        }
        Ok(meta) if meta.permissions().readonly() => {
            return forbidden("its mode forbids it".into());
        }
        Ok(_) => {}
        Err(error) => return StateError::of_io(path, "read", &error),
    }
    StateError::Io { path: path.to_owned(), why: said.to_owned() }
}

/// A state directory whose lock is held.
#[derive(Debug)]
pub(super) struct Held {
    /// Its database.
    pub file: PathBuf,
    /// Holds the lock until it is dropped, however the process ends.
    _lock: File,
}

/// Makes the directory if it is not there, and takes its lock.
pub(super) fn hold(dir: &Path) -> Result<Held, StateError> {
    let dir = absolute(dir)?;
    match fs::metadata(&dir) {
        Ok(meta) if !meta.is_dir() => return Err(StateError::NotADirectory { path: dir }),
        Ok(meta) => {
            if meta.permissions().mode() & 0o022 != 0 {
                warn!(
                    "others than its owner may write in the state directory `{}`, and so could replace what is in it: `chmod go-w {0}`",
                    dir.display()
                );
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse_link(&dir)?;
            make(&dir)?;
        }
        Err(error) => return Err(StateError::of_io(&dir, "read", &error)),
    }
    let path = dir.join(LOCK);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let mut lock = open.map_err(|error| StateError::of_io(&path, "written", &error))?;
    // `state info` looks at the lock for a moment by taking it.
    let mut taken = lock.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(taken, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_STEP);
        taken = lock.try_lock();
    }
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StateError::InUse { pid: pid(&dir), dir }),
        Err(TryLockError::Error(error)) => return Err(StateError::of_io(&path, "locked", &error)),
    }
    // The number is for people: without room for it, the lock holds all the same.
    let _best_effort = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(Held { file: dir.join(FILE), _lock: lock })
}

fn absolute(dir: &Path) -> Result<PathBuf, StateError> {
    std::path::absolute(dir).map_err(|error| StateError::of_io(dir, "found", &error))
}

/// What is not there although its name is, is a link to nothing.
fn refuse_link(dir: &Path) -> Result<(), StateError> {
    let Ok(target) = fs::read_link(dir) else { return Ok(()) };
    // A link is read from where it stands.
    let target = dir.parent().unwrap_or(dir).join(target);
    Err(StateError::DanglingLink { path: dir.to_owned(), target })
}

fn make(dir: &Path) -> Result<(), StateError> {
    let parent = dir.parent().unwrap_or(dir);
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        // The directory must be found again after power loss.
        Ok(()) => sync(parent),
        // What is no disk (/proc) says of what it cannot make that it is not there.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let (dir, parent) = (dir.to_owned(), parent.to_owned());
            Err(if parent.is_dir() {
                StateError::NoPlace { dir, parent }
            } else {
                StateError::MissingParent { dir, parent }
            })
        }
        Err(error) => Err(StateError::of_io(dir, "made", &error)),
    }
}

fn sync(dir: &Path) -> Result<(), StateError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|error| StateError::of_io(dir, "synced", &error))
}

/// The process that wrote its number into the lock last.
fn pid(dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(dir.join(LOCK)).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// The process that holds the directory now.
pub(super) fn holder(dir: &Path) -> Option<u32> {
    let lock = File::open(dir.join(LOCK)).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => pid(dir),
        _ => None,
    }
}

/// Opens the held directory's database for writing, and makes it first if it is not there.
pub(super) fn open(held: &Held) -> Result<Connection, StateError> {
    let file = &held.file;
    match fs::symlink_metadata(file) {
        Ok(_) => tighten(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(file)?,
        Err(error) => return Err(StateError::of_io(file, "read", &error)),
    }
    // Whatever it is, it is looked at before anything in it is changed.
    let conn = connect(file).at(file)?;
    identify(&conn, file)?;
    let conn = tune(conn, file)?;
    // Made by SQLite with the mode of the database, unless a tighter one was given to that only now.
    for suffix in ["-wal", "-shm"] {
        tighten(&beside(file, suffix));
    }
    Ok(conn)
}

/// A file that SQLite keeps beside the database.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn tighten(file: &Path) {
    let Ok(meta) = fs::metadata(file) else { return };
    if !meta.is_file() || meta.permissions().mode() & 0o077 == 0 {
        return;
    }
    // By its name: closing a handle of a database file lets go of SQLite's locks on it.
    match fs::set_permissions(file, Permissions::from_mode(0o600)) {
        Ok(()) => warn!(
            "`{}` could be read or written by others than its owner; its mode is 0600 now",
            file.display()
        ),
        Err(error) => warn!(
            "`{}` can be read or written by others than its owner, and its mode cannot be changed: {error}",
            file.display()
        ),
    }
}

/// Makes the database under another name and renames it when it is whole and synced, so that a file
/// without tables is always damage and never a beginning.
fn create(file: &Path) -> Result<(), StateError> {
    let log = beside(file, "-wal");
    if fs::metadata(&log).is_ok_and(|meta| meta.len() > 0) {
        // SQLite would write it into the new database.
        let what = format!("its log `{}` is there without it", log.display());
        return Err(StateError::damaged(file, what));
    }
    let draft = beside(file, ".new");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let _left_by_a_crash = fs::remove_file(beside(&draft, suffix));
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    drop(made.map_err(|error| StateError::of_io(&draft, "made", &error))?);
    let fill = || -> rusqlite::Result<()> {
        let conn = connect(&draft)?;
        conn.execute_batch(&format!(
            "PRAGMA page_size = {PAGE};
             PRAGMA journal_mode = WAL;
             PRAGMA application_id = {APPLICATION};
             PRAGMA user_version = {FORMAT};
             BEGIN IMMEDIATE;"
        ))?;
        for (_, statement) in OBJECTS {
            conn.execute_batch(statement)?;
        }
        let created = now(&conn)?;
        let version = env!("CARGO_PKG_VERSION");
        let seal = Meta::seal(FORMAT, &created, version);
        conn.execute(
            "INSERT INTO meta VALUES (1, ?1, ?2, ?3, ?4)",
            (FORMAT, &created, version, seal),
        )?;
        Head { actions_from: 1, ..Head::default() }.write(&conn)?;
        conn.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE);")?;
        conn.close().map_err(|(_, error)| error)
    };
    fill().at(&draft)?;
    let synced = File::open(&draft).and_then(|file| file.sync_all());
    synced.map_err(|error| StateError::of_io(&draft, "synced", &error))?;
    fs::rename(&draft, file).map_err(|error| StateError::of_io(file, "made", &error))?;
    sync(file.parent().unwrap_or(file))
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    settle(conn)
}

/// Settings of every connection.
fn settle(mut conn: Connection) -> rusqlite::Result<Connection> {
    let steps = i32::try_from(u128::from(BUSY_S) * 1_000_000 / BUSY_STEP.as_micros());
    let steps = steps.unwrap_or(i32::MAX);
    conn.busy_handler(Some(move |times| {
        std::thread::sleep(BUSY_STEP);
        times < steps
    }))?;
    conn.execute_batch(
        "PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA synchronous = FULL;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;",
    )?;
    Ok(conn)
}

/// A connection that writes.
pub(super) fn writer(file: &Path) -> Result<Connection, StateError> {
    tune(connect(file).at(file)?, file)
}

/// Settings of a connection that writes.
fn tune(conn: Connection, file: &Path) -> Result<Connection, StateError> {
    let mode: String =
        conn.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0)).at(file)?;
    if mode != "wal" {
        return Err(StateError::damaged(file, format!("its journal mode is `{mode}`, not `wal`")));
    }
    conn.execute_batch(&format!(
        "PRAGMA wal_autocheckpoint = {CHECKPOINT_FALLBACK}; PRAGMA journal_size_limit = {LOG_KEPT};"
    ))
    .at(file)?;
    Ok(conn)
}

/// A connection that only reads, and sees one state of the database for as long as it is open.
pub(super) fn reader(dir: &Path) -> Result<(PathBuf, Connection), StateError> {
    let dir = absolute(dir)?;
    match fs::metadata(&dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(StateError::NotADirectory { path: dir }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refuse_link(&dir)?;
            return Err(StateError::Missing { dir, found: "there is no such directory" });
        }
        Err(error) => return Err(StateError::of_io(&dir, "read", &error)),
    }
    let file = dir.join(FILE);
    match fs::metadata(&file) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StateError::Missing { dir, found: "it holds no `portcullis.db`" });
        }
        Err(error) => return Err(StateError::of_io(&file, "read", &error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let begin = |conn: Connection| -> rusqlite::Result<Connection> {
        let conn = settle(conn)?;
        conn.execute_batch("BEGIN")?;
        let _takes_the_view: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
        Ok(conn)
    };
    let mut opened = Connection::open_with_flags(&file, flags).and_then(begin);
    // Reading needs the log's index, which a reader without write permission cannot make. Where
    // there is no log either, nothing is in use and nothing is missing.
    let idle = fs::metadata(beside(&file, "-wal")).map_or(true, |meta| meta.len() == 0);
    if idle
        && let Err(rusqlite::Error::SqliteFailure(error, _)) = &opened
        && matches!(error.code, ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    {
        let flags = flags | OpenFlags::SQLITE_OPEN_URI;
        opened = Connection::open_with_flags(immutable(&file), flags).and_then(begin);
    }
    let conn = opened.at(&file)?;
    Ok((file, conn))
}

fn immutable(file: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-') {
            uri.push(char::from(*byte));
        } else {
            let _infallible = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Refuses what is not ours, newer, or not as we made it.
pub(super) fn identify(conn: &Connection, file: &Path) -> Result<Meta, StateError> {
    let pragma = |name: &str| -> Result<i64, StateError> {
        conn.query_row(&format!("PRAGMA {name}"), (), |row| row.get(0)).at(file)
    };
    let mut tables =
        conn.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").at(file)?;
    let tables = tables
        .query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .at(file)?;
    let text = |name: &str| tables.iter().find(|(n, _)| n == name).map(|(_, sql)| sql.as_str());
    let ours = pragma("application_id")? == APPLICATION;
    let Some(_) = text("meta") else {
        return Err(if ours || tables.is_empty() {
            StateError::damaged(file, "it has no tables")
        } else {
            let mut names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
            names.truncate(5);
            let found = format!("it has other tables ({})", names.join(", "));
            StateError::NotOurs { path: file.to_owned(), found }
        });
    };
    let meta = Meta::read(conn, file);
    let meta = match meta {
        Ok(meta) => meta,
        Err(StateError::Damaged { .. }) if !ours => {
            let found = "its table `meta` is another one".to_owned();
            return Err(StateError::NotOurs { path: file.to_owned(), found });
        }
        Err(error) => return Err(error),
    };
    if meta.format > FORMAT {
        return Err(StateError::Newer { path: file.to_owned(), found: meta.format, known: FORMAT });
    }
    for (name, sql) in OBJECTS {
        if text(name) != Some(sql) {
            return Err(StateError::damaged(
                file,
                format!("its table or index `{name}` is not as format {FORMAT} has it"),
            ));
        }
    }
    let encoding: String = conn.query_row("PRAGMA encoding", (), |row| row.get(0)).at(file)?;
    let header = [
        ("application_id", pragma("application_id")?, APPLICATION),
        ("user_version", pragma("user_version")?, FORMAT),
        ("page_size", pragma("page_size")?, PAGE),
        ("auto_vacuum", pragma("auto_vacuum")?, 0),
        ("encoding", i64::from(encoding != "UTF-8"), 0),
    ];
    match header.into_iter().find(|(_, found, expected)| found != expected) {
        Some((name, ..)) => {
            Err(StateError::damaged(file, format!("`{name}` in its header is not as it was made")))
        }
        None => Ok(meta),
    }
}

/// Wall time, as SQLite has it: seconds with a fraction, in UTC.
pub(super) fn now(conn: &Connection) -> rusqlite::Result<String> {
    conn.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now')", (), |row| row.get(0))
}

/// The row of `meta`.
#[derive(Debug)]
pub(super) struct Meta {
    pub format: i64,
    pub created: String,
    pub version: String,
}

impl Meta {
    pub fn seal(format: i64, created: &str, version: &str) -> i64 {
        Seal::of("meta").int(format).text(created).text(version).done()
    }

    fn read(conn: &Connection, file: &Path) -> Result<Self, StateError> {
        let row = conn.query_row(
            "SELECT format, created, version, checksum FROM meta WHERE id = 1",
            (),
            |row| {
                let meta = Self { format: row.get(0)?, created: row.get(1)?, version: row.get(2)? };
                Ok((meta, row.get::<_, i64>(3)?))
            },
        );
        match row.optional().at(file)? {
            Some((meta, seal)) if seal == Self::seal(meta.format, &meta.created, &meta.version) => {
                Ok(meta)
            }
            Some(_) => Err(StateError::damaged(file, "the row of `meta` fails its checksum")),
            None => Err(StateError::damaged(file, "`meta` is empty")),
        }
    }
}

/// The row of `head`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub commits: i64,
    pub journal: i64,
    pub actions_from: i64,
    pub actions: i64,
    pub decisions_sum: i64,
    pub positions_sum: i64,
    pub cursors_sum: i64,
}

impl Head {
    fn seal(&self) -> i64 {
        self.numbers().into_iter().fold(Seal::of("head"), Seal::int).done()
    }

    fn numbers(&self) -> [i64; 7] {
        let Self {
            commits,
            journal,
            actions_from,
            actions,
            decisions_sum,
            positions_sum,
            cursors_sum,
        } = *self;
        [commits, journal, actions_from, actions, decisions_sum, positions_sum, cursors_sum]
    }

    /// Writes it, as part of the transaction under way.
    pub fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let [commits, journal, from, actions, decisions, positions, cursors] = self.numbers();
        let values = (commits, journal, from, actions, decisions, positions, cursors, self.seal());
        conn.execute("REPLACE INTO head VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", values)?;
        Ok(())
    }

    /// Reads it.
    pub fn read(conn: &Connection, file: &Path) -> Result<Self, StateError> {
        let row = conn.query_row(
            "SELECT commits, journal, actions_from, actions, decisions_sum, positions_sum, cursors_sum, checksum FROM head WHERE id = 1",
            (),
            |row| {
                let head = Self {
                    commits: row.get(0)?,
                    journal: row.get(1)?,
                    actions_from: row.get(2)?,
                    actions: row.get(3)?,
                    decisions_sum: row.get(4)?,
                    positions_sum: row.get(5)?,
                    cursors_sum: row.get(6)?,
                };
                Ok((head, row.get::<_, i64>(7)?))
            },
        );
        match row.optional().at(file)? {
            Some((head, seal)) if seal == head.seal() => Ok(head),
            Some(_) => Err(StateError::damaged(file, "the row of `head` fails its checksum")),
            None => Err(StateError::damaged(file, "`head` is empty")),
        }
    }
}
