//! What lasts: every error with what it says, damage at any place, faults of the disk at every single
//! write, and the commands that look into a state directory.

use crate::support::{portcullis, root, run_in, stderr, stdout};
use portcullis::action::Op;
use portcullis::source::position::{PartitionPosition, Position};
use portcullis::state::{ActionRow, Commit, Db, FILE, NewSnapshot, Snapshots, StateError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

const DICTIONARY: &str = "velro/ip-blocking 0\nvelro/FAILED_LOGIN 1\n";

/// Everything about commit `n`, so that any prefix of the commits is known exactly.
struct Part {
    entries: Vec<u8>,
    actions: Vec<ActionRow>,
    positions: Vec<(u32, Position)>,
    gone: Vec<u32>,
    cursors: Vec<(String, i64)>,
}

fn place(next: i64) -> Position {
    Position::Partition(PartitionPosition { topic: "logs".to_owned(), partition: 0, next })
}

fn part(n: i64) -> Part {
    let entries = format!("<{n}>").repeat(usize::try_from(n * n * 37 % 1_900).unwrap() + 1);
    let action = |i: i64| {
        let number = actions_before(n) + i + 1;
        // The first of every commit starts a decision, the second ends it.
        let start = actions_before(n) + 1;
        ActionRow {
            id: format!("{number:016x}"),
            op: if i == 0 { Op::Start } else { Op::End },
            decision: Some(format!("{start:016x}")),
            mode: "enforce".to_owned(),
            action: "block".to_owned(),
            kind: "ip".to_owned(),
            value: Some(format!("203.0.113.{n}")),
            pack: "velro".to_owned(),
            rule: "ip-blocking".to_owned(),
            time: n * 1_000_000 + i,
            until: (i == 0).then_some(n * 2_000_000),
            crossings: (i == 1).then_some(2),
            line: format!("{{\"id\":\"{number:016x}\"}}"),
        }
    };
    Part {
        entries: entries.into_bytes(),
        actions: (0..n % 3).map(action).collect(),
        positions: vec![(0, place(n)), (u32::try_from(n).unwrap(), place(-n))],
        gone: if n > 3 { vec![u32::try_from(n - 3).unwrap()] } else { Vec::new() },
        cursors: vec![("stdout".to_owned(), actions_before(n))],
    }
}

fn actions_before(n: i64) -> i64 {
    (1..n).map(|n| n % 3).sum()
}

impl Part {
    fn commit(&self, dictionary: i64) -> Commit<'_> {
        Commit {
            entries: &self.entries,
            count: self.entries.len() as u64,
            dictionary,
            actions: &self.actions,
            positions: &self.positions,
            gone: &self.gone,
            cursors: &self.cursors,
        }
    }
}

fn snapshot_bytes(journal: i64) -> Vec<u8> {
    let mut seed = journal.cast_unsigned() + 1;
    std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed.to_be_bytes()[0] & 0x3f
    })
    .take(60_000)
    .collect()
}

/// Commits number `from` to `to`, and a snapshot after every fourth.
fn fill(db: &mut Db, dir: &Path, from: i64, to: i64) {
    let dictionary = db.dictionary(DICTIONARY).unwrap();
    for n in from..=to {
        db.commit(&part(n).commit(dictionary)).unwrap();
        if n % 4 == 0 {
            let bytes = snapshot_bytes(n);
            let new = NewSnapshot {
                journal: n,
                dictionary,
                events: 1,
                keys: 1,
                pieces: std::slice::from_ref(&bytes),
            };
            let mut snapshots = Snapshots::open(dir).unwrap();
            snapshots.write(&new).unwrap();
            snapshots.prune().unwrap();
        }
    }
}

/// Reads everything as a restart does. It must be exactly what some number of commits left, or an
/// error; gives that number.
fn observe(db: &Db) -> Result<i64, StateError> {
    let n = db.info()?.commits;
    let mut positions = Vec::new();
    if n > 0 {
        positions.push((0, place(n)));
    }
    positions.extend(((n - 2).max(1)..=n).map(|n| (u32::try_from(n).unwrap(), place(-n))));
    assert_eq!(db.positions()?, positions, "after {n} commits");
    let cursors = (n > 0).then(|| ("stdout".to_owned(), actions_before(n)));
    assert_eq!(db.cursors()?, cursors.into_iter().collect::<Vec<_>>());
    let wanted: Vec<ActionRow> = (1..=n).flat_map(|n| part(n).actions).collect();
    let actions = db.actions_after(0, usize::MAX)?;
    let found: Vec<(&String, &String)> = actions.iter().map(|a| (&a.id, &a.line)).collect();
    assert_eq!(found, wanted.iter().map(|a| (&a.id, &a.line)).collect::<Vec<_>>());
    for action in &wanted {
        assert!(db.has_action(&action.id)?, "{} is not known", action.id);
    }
    let open: Vec<String> = db.open_decisions()?.into_iter().map(|d| d.id).collect();
    let wanted: Vec<String> =
        (1..=n).filter(|n| n % 3 == 1).map(|n| part(n).actions[0].id.clone()).collect();
    assert_eq!(open, wanted);

    // The newest snapshot that is good, then the journal behind it.
    let mut behind = 0;
    for info in db.snapshots()? {
        match db.snapshot(info.id) {
            Ok(bytes) => {
                assert!(bytes == snapshot_bytes(info.journal), "another content");
                behind = info.journal;
                assert_eq!(db.dictionary_text(info.dictionary)?, DICTIONARY);
                break;
            }
            Err(StateError::Damaged { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    let mut next = behind;
    db.journal_after(behind, &mut |row| {
        next += 1;
        assert_eq!(row.id, next);
        assert!(row.entries == part(next).entries, "row {next} has other entries");
        assert_eq!(row.events, row.entries.len() as u64);
        Ok(())
    })?;
    assert_eq!(next, n);
    Ok(n)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A directory with `commits` commits in it, closed.
fn made(commits: i64) -> TempDir {
    let dir = folder();
    let mut db = Db::open(dir.path()).unwrap();
    fill(&mut db, dir.path(), 1, commits);
    dir
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The error of opening `dir`, which must say each of `said` and no number of the system.
fn refused(dir: &Path, said: &[&str]) -> StateError {
    let error = Db::open(dir).unwrap_err();
    let text = error.to_string();
    for said in said {
        assert!(text.contains(said), "does not say `{said}`: {text}");
    }
    assert!(!text.contains("os error"), "{text}");
    assert!(!error.is_retryable(), "{text}");
    error
}

#[test]
fn errors_say_what_is_there_and_what_to_do() {
    let dir = folder();
    let file = dir.path().join("a-file");
    fs::write(&file, "text").unwrap();
    let missing = dir.path().join("no").join("state");
    let error =
        refused(&missing, &["there is no directory", "/no`", "make it first", "`state_dir`"]);
    assert!(matches!(error, StateError::MissingParent { .. }));
    let error = refused(&file, &["a-file` is not a directory", "must name a directory"]);
    assert!(matches!(error, StateError::NotADirectory { .. }));
    let error = refused(&file.join("state"), &["a-file", "is not a directory"]);
    assert!(matches!(error, StateError::NotADirectory { .. }), "{error:?}");

    let read = |dir: &Path| Db::read_only(dir).expect_err("there is nothing").to_string();
    assert!(read(&missing).contains("there is no such directory"), "{}", read(&missing));
    assert!(read(dir.path()).contains("holds no `portcullis.db`"), "{}", read(dir.path()));
    assert!(read(&file).contains("is not a directory"), "{}", read(&file));
    assert!(!dir.path().join(FILE).exists(), "reading makes nothing");
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    let dir = folder();
    let file = dir.path().join(FILE);
    let other = rusqlite::Connection::open(dir.path().join("other")).unwrap();
    other.execute_batch("CREATE TABLE people (name); INSERT INTO people VALUES ('anna')").unwrap();
    other.close().unwrap();
    let other = fs::read(dir.path().join("other")).unwrap();
    let text = "this is a letter to somebody\n".repeat(100).into_bytes();
    for (content, said) in [(&text, "it is no SQLite database"), (&other, "other tables (people)")]
    {
        fs::write(&file, content).unwrap();
        let error =
            refused(dir.path(), &["is not a database of Portcullis", said, "left as it is"]);
        assert!(matches!(error, StateError::NotOurs { .. }));
        assert!(&fs::read(&file).unwrap() == content, "it was changed");
    }
    // A file without tables is what is left of a database, never a beginning.
    fs::write(&file, "").unwrap();
    let verify = format!("`portcullis state verify {}`", dir.path().display());
    let error = refused(dir.path(), &["is damaged: it has no tables", &verify]);
    assert!(matches!(error, StateError::Damaged { .. }));
    fs::remove_file(&file).unwrap();
    fs::write(dir.path().join("portcullis.db-wal"), "something").unwrap();
    refused(dir.path(), &["is damaged", "portcullis.db-wal` is there without it"]);
}

#[test]
fn two_that_write_are_told_so_and_not_to_throw_what_is_whole_away() {
    let dir = made(3);
    let mut first = Db::open(dir.path()).unwrap();
    // As where locks do not reach: another machine, or somebody who took the lock away.
    fs::remove_file(dir.path().join("portcullis.lock")).unwrap();
    let mut second = Db::open(dir.path()).unwrap();
    fill(&mut second, dir.path(), 4, 5);
    let dictionary = first.dictionary(DICTIONARY).unwrap();
    let error = first.commit(&part(4).commit(dictionary)).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, StateError::TwoWriters { found: 5, expected: 3, .. }), "{said}");
    let verify = format!("`portcullis state verify {}`", dir.path().display());
    for part in ["another process writes", "is whole", "only one Portcullis", verify.as_str()] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("Restore") && !said.contains("move it away"), "{said}");
    assert!(!error.is_retryable());
    drop((first, second));
    assert!(verified(dir.path(), 0).contains("sound"));
}

#[test]
fn a_table_that_was_changed_by_hand_is_damage() {
    for statement in [
        "UPDATE positions SET position = replace(position, '3', '9')",
        "UPDATE cursors SET seq = seq + 1",
        "DELETE FROM positions WHERE source = 2",
        "DELETE FROM decisions WHERE id = (SELECT min(id) FROM decisions)",
        "UPDATE decisions SET value = '198.51.100.1'",
        "UPDATE actions SET line = '{}' WHERE seq = 2",
        "DELETE FROM actions WHERE seq = 1",
        "DELETE FROM actions WHERE seq = 2",
        "DELETE FROM actions WHERE seq = (SELECT max(seq) FROM actions)",
        "UPDATE head SET commits = commits - 1",
        "DELETE FROM head",
        "DELETE FROM meta",
        "UPDATE meta SET version = '0'",
        "UPDATE dictionaries SET text = ''",
        "DROP INDEX actions_id",
        "PRAGMA user_version = 7",
    ] {
        let dir = made(3);
        let conn = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
        conn.execute_batch(statement).unwrap();
        conn.close().unwrap();
        let error = Db::open(dir.path()).expect_err(statement);
        assert!(matches!(error, StateError::Damaged { .. }), "{statement}: {error}");
        verified(dir.path(), 1);
    }
    for statement in [
        "UPDATE journal SET events = 7 WHERE id = 2",
        "DELETE FROM journal WHERE id = 1",
        "DELETE FROM journal WHERE id = 2",
        "DELETE FROM journal WHERE id = 3",
        "UPDATE journal SET entries = x'00' WHERE id = 1",
    ] {
        let dir = made(3);
        let conn = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
        conn.execute_batch(statement).unwrap();
        conn.close().unwrap();
        let error = observe(&Db::open(dir.path()).unwrap()).expect_err(statement);
        assert!(matches!(error, StateError::Damaged { .. }), "{statement}: {error}");
        verified(dir.path(), 1);
    }
}

/// Runs `portcullis state verify` and gives what it says.
fn verified(dir: &Path, code: i32) -> String {
    let output = run_in(dir, &["state", "verify", "."], b"");
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
    stdout(&output)
}

#[test]
fn one_process_at_a_time() {
    let dir = made(2);
    let db = Db::open(dir.path()).unwrap();
    let pid = format!("in use by process {};", std::process::id());
    let error = refused(dir.path(), &[&pid, "one Portcullis per directory"]);
    assert!(matches!(error, StateError::InUse { pid: Some(_), .. }));
    let output = run_in(dir.path(), &["state", "compact", "."], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(&pid), "{}", stderr(&output));
    // Looking is possible all the same.
    let output = run_in(dir.path(), &["state", "info", "."], b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let holder = format!("in use by   process {}\n", std::process::id());
    assert!(stdout(&output).contains(&holder), "{}", stdout(&output));
    assert!(verified(dir.path(), 0).contains("sound"));
    drop(db);
    let info = Db::open(dir.path()).unwrap().info().unwrap();
    assert_eq!(info.commits, 2);
}

#[test]
fn files_are_for_their_owner_only() {
    let parent = folder();
    let dir = parent.path().join("state");
    let mut db = Db::open(&dir).unwrap();
    fill(&mut db, &dir, 1, 2);
    assert_eq!(mode(&dir), 0o700);
    let names = ["portcullis.db", "portcullis.db-wal", "portcullis.db-shm", "portcullis.lock"];
    for name in names {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    drop(db);
    set_mode(&dir.join(FILE), 0o644);
    set_mode(&dir, 0o755);
    let db = Db::open(&dir).unwrap();
    assert_eq!(mode(&dir.join(FILE)), 0o600, "made tight again");
    assert_eq!(mode(&dir), 0o755, "the directory is the operator's");
    drop(db);
    set_mode(&dir.join(FILE), 0o640);
    set_mode(&dir, 0o775);
    let output = run_in(&dir, &["state", "compact", "."], b"");
    let text = stderr(&output);
    assert!(text.contains("could be read or written by others"), "{text}");
    assert!(text.contains("others than its owner may write in the state directory"), "{text}");
}

/// What says that this copy of the test binary runs where it may mount.
const MOUNTS: &str = "TEST_MOUNTS";

/// Whether this process may mount. If not, `test` runs again where it may, in a user namespace of its
/// own, and there is nothing more to do here.
pub fn may_mount(test: &str) -> bool {
    if let Some(small) = Small::mounted("size=1m") {
        drop(small);
        return true;
    }
    let inside = std::env::var_os(MOUNTS).is_some();
    let mut command = Command::new("unshare");
    command.arg("-rm").arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(MOUNTS, "1");
    let output = if inside { None } else { command.output().ok() };
    let done = output.as_ref().is_some_and(|output| {
        output.status.success() && stdout(output).contains("test result: ok. 1 passed")
    });
    assert!(
        done,
        "{test} mounts a small file system: it must run as root, or where `unshare -rm` is allowed\n{}",
        output.map_or_else(String::new, |output| stdout(&output) + &stderr(&output))
    );
    false
}

/// A small file system of its own.
pub struct Small {
    pub dir: TempDir,
}

impl Small {
    pub fn new(options: &str) -> Self {
        Self::mounted(options).unwrap()
    }

    fn mounted(options: &str) -> Option<Self> {
        let small = Self { dir: folder() };
        if small.mount(options) { Some(small) } else { None }
    }

    fn mount(&self, options: &str) -> bool {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "portcullis-test"])
            .arg(self.dir.path())
            .output();
        mount.is_ok_and(|output| output.status.success())
    }

    /// Takes away what filled it.
    pub fn give_room(&self, ballast: &Path) {
        assert!(ballast.starts_with(self.dir.path()));
        fs::remove_file(ballast).unwrap();
    }

    pub fn read_only(&self) {
        let remount =
            Command::new("mount").args(["-o", "remount,ro"]).arg(self.dir.path()).status();
        assert!(remount.unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

#[test]
fn a_full_disk_holds_back_and_goes_on_by_itself() {
    if !may_mount("state::a_full_disk_holds_back_and_goes_on_by_itself") {
        return;
    }
    let small = Small::new("size=1m");
    let ballast = small.dir.path().join("ballast");
    fs::write(&ballast, vec![1; 400_000]).unwrap();
    let dir = small.dir.path().join("state");
    let mut db = Db::open(&dir).unwrap();
    let dictionary = db.dictionary(DICTIONARY).unwrap();
    let mut n = 0;
    let error = loop {
        match db.commit(&part(n + 1).commit(dictionary)) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 10_000, "it is never full");
    };
    assert!(n > 10, "{n}");
    assert!(error.is_retryable(), "{error}");
    assert!(matches!(error, StateError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("everything before it is safe; make room"), "{error}");
    for _ in 0..3 {
        let again = db.commit(&part(n + 1).commit(dictionary)).expect_err("still full");
        assert!(again.is_retryable(), "{again}");
    }
    fs::remove_file(&ballast).unwrap();
    for n in n + 1..n + 4 {
        let committed = db.commit(&part(n).commit(dictionary)).unwrap();
        assert_eq!(committed.journal, Some(n));
    }
    drop(db);
    assert_eq!(observe(&Db::open(&dir).unwrap()).unwrap(), n + 3);
}

#[test]
fn what_may_not_be_written_is_said() {
    let dir = folder();
    set_mode(dir.path(), 0o500);
    if fs::write(dir.path().join("probe"), "").is_err() {
        let error = refused(&dir.path().join("state"), &["cannot be made: permission denied"]);
        assert!(matches!(error, StateError::Forbidden { .. }));
        refused(dir.path(), &["cannot be written: permission denied", "must own"]);
    }
    set_mode(dir.path(), 0o700);
    if !may_mount("state::what_may_not_be_written_is_said") {
        return;
    }
    let small = Small::new("size=8m");
    fill(&mut Db::open(small.dir.path()).unwrap(), small.dir.path(), 1, 2);
    small.read_only();
    refused(small.dir.path(), &["cannot be written: the file system is read-only"]);
    refused(&small.dir.path().join("new"), &["cannot be made: the file system is read-only"]);
    // It can be read even so, since nothing waits in its log.
    assert_eq!(observe(&Db::read_only(small.dir.path()).unwrap()).unwrap(), 2);
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).unwrap()
    }
}

/// Puts `database` and `log` into a fresh directory and opens it: either everything is what some
/// number of commits left, or it is said to be damaged; gives the number.
fn survives(database: &[u8], log: &[u8], what: &str) -> Option<i64> {
    let dir = folder();
    fs::write(dir.path().join(FILE), database).unwrap();
    if !log.is_empty() {
        fs::write(dir.path().join("portcullis.db-wal"), log).unwrap();
    }
    let findings = Db::read_only(dir.path()).and_then(|db| db.verify());
    match Db::open(dir.path()).and_then(|db| observe(&db)) {
        Ok(n) => Some(n),
        Err(error) => {
            assert!(
                matches!(
                    error,
                    StateError::Damaged { .. }
                        | StateError::NotOurs { .. }
                        | StateError::Forbidden { .. }
                ),
                "{what}: {error:?}"
            );
            assert!(findings.is_err() || findings.is_ok_and(|f| !f.is_empty()), "{what}: {error}");
            None
        }
    }
}

#[test]
fn a_flipped_or_torn_database_is_whole_or_said_to_be_damaged() {
    let dir = made(10);
    let good = fs::read(dir.path().join(FILE)).unwrap();
    assert!(!dir.path().join("portcullis.db-wal").exists(), "closing writes the log back");
    assert_eq!(survives(&good, &[], "untouched"), Some(10));
    let mut dice = Dice(7);
    let (mut whole, mut damaged) = (0, 0);
    let mut count = |found: Option<i64>, what: &str| match found {
        Some(n) => {
            assert_eq!(n, 10, "{what}: the database lost commits without saying so");
            whole += 1;
        }
        None => damaged += 1,
    };
    // The header and the beginning of every page hold what everything else depends on.
    let pages = good.len() / 4096;
    let mut places: Vec<usize> = (0..100).collect();
    places.extend((0..pages).step_by(3).map(|page| page * 4096 + dice.below(16)));
    places.extend(std::iter::repeat_with(|| dice.below(good.len())).take(150));
    for place in places {
        let mut bad = good.clone();
        let flip = u8::try_from(1 + dice.below(255)).unwrap();
        bad[place] ^= flip;
        let what = format!("byte {place} with {flip:#x}");
        count(survives(&bad, &[], &what), &what);
    }
    for _ in 0..40 {
        let mut bad = good.clone();
        let sector = dice.below(bad.len() / 512) * 512;
        bad[sector..sector + 512].fill(0);
        count(survives(&bad, &[], "zeros"), &format!("zeros at {sector}"));
        let length = dice.below(good.len());
        count(survives(&good[..length], &[], "cut"), &format!("cut at {length}"));
    }
    println!("{whole} whole, {damaged} damaged");
    assert!(damaged > 100 && whole > 0, "{whole} whole, {damaged} damaged");
}

#[test]
fn a_flipped_or_torn_log_costs_the_commits_behind_the_place() {
    let dir = made(6);
    let mut db = Db::open(dir.path()).unwrap();
    fill(&mut db, dir.path(), 7, 12);
    // As after a crash: the process is gone and has not written the log back.
    let good = fs::read(dir.path().join(FILE)).unwrap();
    let log = fs::read(dir.path().join("portcullis.db-wal")).unwrap();
    drop(db);
    assert!(log.len() > 20 * 4096, "{}", log.len());
    assert_eq!(survives(&good, &log, "untouched"), Some(12));
    let mut dice = Dice(11);
    let mut seen = std::collections::BTreeSet::new();
    let mut count = |found: Option<i64>, what: &str| match found {
        Some(n) => {
            assert!((6..=12).contains(&n), "{what}: {n} commits");
            seen.insert(n);
        }
        None => panic!("{what}: a log that ends early is no damage"),
    };
    for _ in 0..200 {
        let mut bad = log.clone();
        let place = dice.below(bad.len());
        bad[place] ^= u8::try_from(1 + dice.below(255)).unwrap();
        count(survives(&good, &bad, "flip"), &format!("byte {place}"));
    }
    for _ in 0..60 {
        let length = dice.below(log.len());
        count(survives(&good, &log[..length], "cut"), &format!("cut at {length}"));
        let mut torn = log.clone();
        torn[length..].fill(0);
        count(survives(&good, &torn, "torn"), &format!("zeros from {length}"));
    }
    println!("commits that were left: {seen:?}");
    assert!(seen.len() > 3, "{seen:?}");
}

/// What tells the copy of this test binary that it is the writer, and where.
const WRITER: &str = "PORTCULLIS_TEST_WRITER";
const COMMITS: i64 = 4;

/// Not a test by itself: when a fault test runs this binary again, it is the process whose disk fails.
#[test]
fn writer_under_faults() {
    let Some(dir) = std::env::var_os(WRITER).map(PathBuf::from) else { return };
    let patient = std::env::var_os("PATIENT").is_some();
    // A crash leaves everything as it is: nothing is closed, written back or dropped.
    let again = |error: &StateError| {
        println!("failed: {error}");
        if !patient {
            std::process::exit(3);
        }
        assert!(error.is_retryable(), "{error:?}");
        std::thread::sleep(Duration::from_millis(1));
    };
    let persist = |step: &mut dyn FnMut() -> Result<(), StateError>| {
        for _ in 0..100 {
            match step() {
                Ok(()) => return,
                Err(error) => again(&error),
            }
        }
        panic!("it does not go on");
    };
    let mut open = None;
    persist(&mut || {
        open = Some(Db::open(&dir)?);
        Ok(())
    });
    let mut db = open.unwrap();
    let mut dictionary = 0;
    persist(&mut || {
        dictionary = db.dictionary(DICTIONARY)?;
        Ok(())
    });
    let from = db.info().unwrap().commits;
    for n in from + 1..=COMMITS {
        let part = part(n);
        let mut committed = None;
        persist(&mut || {
            committed = Some(db.commit(&part.commit(dictionary))?);
            Ok(())
        });
        let committed = committed.unwrap();
        assert_eq!(committed.journal, Some(n));
        assert_eq!(committed.actions_from, actions_before(n) + 1);
        println!("acknowledged {n}");
        let bytes = snapshot_bytes(n);
        let new = NewSnapshot {
            journal: n,
            dictionary,
            events: 1,
            keys: 1,
            pieces: std::slice::from_ref(&bytes),
        };
        if n % 2 == 0 {
            let mut open = None;
            persist(&mut || {
                open = Some(Snapshots::open(&dir)?);
                Ok(())
            });
            let mut snapshots = open.unwrap();
            persist(&mut || snapshots.write(&new).map(|_| ()));
            persist(&mut || snapshots.prune().map(|_| ()));
        }
    }
    println!("finished");
}

pub struct Faults {
    pub shim: PathBuf,
    _built: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    at: u32,
    count: u32,
    errno: u32,
    short: bool,
}

impl Faults {
    pub fn new() -> Self {
        let built = folder();
        let shim = built.path().join("io.so");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&shim)
            .arg(root().join("tests/faults/io.c"))
            .arg("-ldl")
            .status();
        assert!(compiled.unwrap().success(), "the shim does not compile");
        Self { shim, _built: built }
    }

    /// Runs the writer in `dir`; gives what it said, whether it came to its end, and whether the fault
    /// came.
    fn run(&self, dir: &Path, patient: bool, fault: Option<Fault>) -> (String, bool, bool) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["state::writer_under_faults", "--exact", "--nocapture", "--test-threads=1"])
            .env(WRITER, dir);
        if patient {
            command.env("PATIENT", "1");
        }
        let mark = dir.with_extension("mark");
        if let Some(fault) = fault {
            command
                .env("LD_PRELOAD", &self.shim)
                .env("FAULT_PATH", dir)
                .env("FAULT_AT", fault.at.to_string())
                .env("FAULT_COUNT", fault.count.to_string())
                .env("FAULT_ERRNO", fault.errno.to_string())
                .env("FAULT_SHORT", u32::from(fault.short).to_string())
                .env("FAULT_MARK", &mark);
        }
        let output = command.output().unwrap();
        let text = format!("{}{}", stdout(&output), stderr(&output));
        assert!(
            output.status.success() || (!patient && output.status.code() == Some(3)),
            "{fault:?}: {:?}\n{text}",
            output.status
        );
        let came = fs::remove_file(&mark).is_ok();
        (text.clone(), text.contains("finished"), came)
    }
}

const ENOSPC: u32 = 28;
const EIO: u32 = 5;

/// Lets every call fail in turn, until one is past the end; gives how many there were.
pub fn at_every_call(workers: u32, each: &(dyn Fn(&Faults, u32, &Path) -> bool + Sync)) -> u32 {
    let faults = Faults::new();
    let next = std::sync::atomic::AtomicU32::new(1);
    let past = std::sync::atomic::AtomicBool::new(false);
    let parent = folder();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (faults, next, past, parent) = (&faults, &next, &past, &parent);
            scope.spawn(move || {
                use std::sync::atomic::Ordering::SeqCst;
                while !past.load(SeqCst) {
                    let at = next.fetch_add(1, SeqCst);
                    let dir = parent.path().join(format!("{worker}-{at}"));
                    if !each(faults, at, &dir) {
                        past.store(true, SeqCst);
                    }
                    let _tidy = fs::remove_dir_all(&dir);
                }
            });
        }
    });
    next.into_inner()
}

#[test]
fn a_crash_after_any_failed_call_loses_nothing_that_was_acknowledged() {
    let calls = at_every_call(2, &|faults, at, dir| {
        // Disks fail in more ways than one; each call meets one of them.
        let errno = if at % 2 == 0 { ENOSPC } else { EIO };
        let fault = Fault { at, count: 1, errno, short: at % 3 == 0 };
        let (said, finished, came) = faults.run(dir, false, Some(fault));
        let acknowledged = i64::try_from(said.matches("acknowledged").count()).unwrap();
        let n =
            observe(&Db::open(dir).unwrap_or_else(|error| panic!("{fault:?}: {error}\n{said}")));
        let n = n.unwrap_or_else(|error| panic!("{fault:?}: {error}\n{said}"));
        let doubt = i64::from(!finished);
        assert!((acknowledged..=acknowledged + doubt).contains(&n), "{fault:?}: {n}\n{said}");
        // And it goes on from there.
        let (said, finished, _) = faults.run(dir, false, None);
        assert!(finished, "{fault:?}: {said}");
        let db = Db::open(dir).unwrap();
        assert_eq!(observe(&db).unwrap(), COMMITS, "{fault:?}");
        assert_eq!(db.verify().unwrap(), Vec::<String>::new(), "{fault:?}");
        came
    });
    println!("{calls} calls");
    assert!(calls > 60, "{calls}");
}

#[test]
fn whoever_tries_again_after_any_failed_call_comes_to_the_same_end() {
    let calls = at_every_call(2, &|faults, at, dir| {
        let errno = if at % 2 == 0 { EIO } else { ENOSPC };
        let count = [1, 2, 7][usize::try_from(at % 3).unwrap()];
        let fault = Fault { at, count, errno, short: at % 5 == 0 };
        let (said, finished, came) = faults.run(dir, true, Some(fault));
        assert!(finished, "{fault:?}: {said}");
        let db = Db::open(dir).unwrap();
        assert_eq!(observe(&db).unwrap(), COMMITS, "{fault:?}: {said}");
        assert_eq!(db.verify().unwrap(), Vec::<String>::new(), "{fault:?}");
        came
    });
    println!("{calls} calls");
    assert!(calls > 60, "{calls}");
}

#[test]
fn the_commands_say_what_a_directory_holds() {
    let dir = made(9);
    let output = run_in(dir.path(), &["state", "info", "."], b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for said in [
        "commits     9",
        "snapshots   2: 1 keys, 1 events since the one before, 60.0 KB",
        "up to row 8 of the journal",
        "actions     9 so far, 9 kept",
        "stdout has finished all",
        "decisions   3 active, 3 ended, the newest from 1970-01-01T00:00:08",
        "0: logs/0 at offset 9",
        "in use by   nobody",
    ] {
        assert!(text.contains(said), "does not say `{said}`:\n{text}");
    }
    let output = run_in(dir.path(), &["state", "info", ".", "--output", "json"], b"");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["commits"], 9);
    assert_eq!(json["journal"]["last"], 9);
    assert_eq!(json["snapshots"][0]["journal"], 8);
    assert_eq!(json["cursors"][0]["behind"], 0);
    assert_eq!(json["positions"][0]["position"]["partition"]["next"], 9);

    let output = run_in(dir.path(), &["state", "verify", ".", "--output", "json"], b"");
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["sound"], true);

    let before = fs::metadata(dir.path().join(FILE)).unwrap().len();
    let output = run_in(dir.path(), &["state", "compact", "."], b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("let go of"), "{}", stdout(&output));
    assert!(fs::metadata(dir.path().join(FILE)).unwrap().len() <= before);
    assert_eq!(observe(&Db::open(dir.path()).unwrap()).unwrap(), 9);

    for command in ["info", "verify", "compact"] {
        let output = run_in(dir.path(), &["state", command, "nowhere"], b"");
        assert_eq!(output.status.code(), Some(2), "{command}");
        assert_eq!(stdout(&output), "");
        let text = stderr(&output);
        assert!(text.contains("there is no state in") && text.contains("nowhere"), "{text}");
        assert!(!dir.path().join("nowhere").exists(), "{command} makes nothing");
    }
    let output = run_in(dir.path(), &["state", "info", ".", "--output", "ecs"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(portcullis(dir.path()).arg("state").output().unwrap().status.code() == Some(2));
}

#[test]
fn the_commands_take_the_directory_of_the_configuration() {
    let dir = made(3);
    let folder = folder();
    let here = folder.path();
    let state = |command: &str, args: &[&str], variable: Option<(&str, &str)>| {
        let mut run = portcullis(here);
        run.args(["state", command]).args(args).envs(variable).output().unwrap()
    };
    let path = dir.path().display().to_string();
    let refused = |output: &std::process::Output, said: &[&str]| {
        assert_eq!(output.status.code(), Some(2), "{}", stdout(output));
        for said in said {
            assert!(stderr(output).contains(said), "does not say `{said}`: {}", stderr(output));
        }
    };
    let found = |output: &std::process::Output| {
        assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    };
    fs::write(here.join("named.yaml"), format!("state_dir: {path}\n")).unwrap();
    for command in ["info", "verify", "compact"] {
        let say = format!("say `portcullis state {command} DIR`");
        let none = ["which state directory?", "PORTCULLIS_STATE_DIR is not set", &say];
        refused(&state(command, &[], None), &none);
        found(&state(command, &[], Some(("PORTCULLIS_STATE_DIR", &path))));
        found(&state(command, &[], Some(("PORTCULLIS_CONFIG", "named.yaml"))));
        found(&state(command, &["--config", "named.yaml"], None));
    }
    fs::write(here.join("portcullis.yaml"), "threads: 1\n").unwrap();
    refused(&state("info", &[], None), &["the configuration portcullis.yaml has no `state_dir`"]);
    fs::write(here.join("portcullis.yaml"), "state_dir: elsewhere\n").unwrap();
    refused(&state("info", &[], None), &["there is no state in `", "elsewhere`"]);
    // Who names a directory needs no configuration, not even a whole one.
    fs::write(here.join("portcullis.yaml"), "state_dir: [\n").unwrap();
    found(&state("info", &[&path], None));
    fs::write(here.join("portcullis.yaml"), format!("state_dir: {path}\n")).unwrap();
    let output = state("info", &[], None);
    found(&output);
    assert!(stdout(&output).contains(&format!("directory   {path}\n")), "{}", stdout(&output));
}
