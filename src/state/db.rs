//! The one writer of a state directory, and what a restart reads from it.

use super::check::{self, Rows, add};
use super::connection::{self, At, Head, Held, Meta, beside, fault, now};
use super::error::StateError;
use super::schema::FORMAT;
use super::snapshots::{Pruned, Snapshots};
use super::{
    ActionRow, ActionsInfo, Commit, Committed, CursorInfo, DecisionsInfo, Info, JournalInfo,
    JournalRow, PositionInfo, SnapshotInfo, StoredAction, StoredDecision, Told,
};
use crate::action::Op;
use crate::decode::time::{self, Micros};
use crate::source::position::Position;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};

/// A state directory: one writer, or a reader of what it holds.
#[derive(Debug)]
pub struct Db {
    file: PathBuf,
    /// None between an error and the next successful opening.
    conn: Option<Connection>,
    /// Held for as long as it lives; none for a reader.
    held: Option<Held>,
    /// The number of the last commit that is known to be in the database.
    commits: i64,
    /// What the last error left behind.
    wound: Option<Wound>,
    /// A commit that failed without saying whether it was made.
    doubt: Option<Doubt>,
}

/// Why the connection must not be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wound {
    /// Something failed.
    Failed,
    /// A sync failed, so the system may show data as written that no disk has.
    Unsynced,
}

#[derive(Debug)]
struct Doubt {
    print: [u8; 32],
    committed: Committed,
    /// It was found in the database.
    made: bool,
}

/// Bytes before and after [`Db::compact`], with what was let go.
#[derive(Debug, Clone, Copy)]
pub struct Compacted {
    /// Bytes of database and log before.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// What was let go.
    pub pruned: Pruned,
}

/// Opening.
impl Db {
    /// Makes the directory (0700) and the database (0600) if they are not there, takes the lock and
    /// checks the format and everything but the journal and snapshots, which are checked as they
    /// are read.
    ///
    /// # Errors
    /// Everything in [`StateError`].
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let held = connection::hold(dir)?;
        let conn = connection::open(&held)?;
        let file = held.file.clone();
        let head = Head::read(&conn, &file)?;
        check::at_open(&conn, &file, &head)?;
        Ok(Self {
            file,
            conn: Some(conn),
            held: Some(held),
            commits: head.commits,
            wound: None,
            doubt: None,
        })
    }

    /// Opens what is there to look at it, without the lock: one state of the database, whatever its
    /// writer does meanwhile.
    ///
    /// # Errors
    /// When there is nothing, or nothing of ours.
    pub fn read_only(dir: &Path) -> Result<Self, StateError> {
        let (file, conn) = connection::reader(dir)?;
        connection::identify(&conn, &file)?;
        let head = Head::read(&conn, &file)?;
        let commits = head.commits;
        Ok(Self { file, conn: Some(conn), held: None, commits, wound: None, doubt: None })
    }

    /// The database's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// To say that something in the database is not what it should be.
    pub fn damaged(&self, what: impl Into<String>) -> StateError {
        StateError::damaged(&self.file, what)
    }

    fn conn(&self) -> Result<&Connection, StateError> {
        self.conn.as_ref().ok_or_else(|| self.closed())
    }

    fn closed(&self) -> StateError {
        let why = "it was closed after an error and is not open again yet".to_owned();
        StateError::Io { path: self.file.clone(), why }
    }

    /// Makes the connection usable for writing.
    fn mend(&mut self) -> Result<(), StateError> {
        if self.held.is_none() {
            let why = "it was opened to be read".to_owned();
            return Err(StateError::Forbidden { path: self.file.clone(), what: "written", why });
        }
        if self.wound.is_some() || self.conn.is_none() { self.reopen() } else { Ok(()) }
    }

    /// Reads one state of the database.
    fn view<T>(
        &self,
        read: impl FnOnce(&Connection, &Path) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let conn = self.conn()?;
        if self.held.is_none() {
            // A reader has been in one transaction since it was opened.
            return read(conn, &self.file);
        }
        let view = conn.unchecked_transaction().at(&self.file)?;
        read(&view, &self.file)
    }

    fn rows(&self) -> Rows<'_> {
        Rows { file: &self.file }
    }
}

/// Writing.
impl Db {
    /// Makes everything in `commit` last in one transaction: nothing of it or all of it. After a
    /// [retryable](StateError::is_retryable) error the same commit can be given again, and is not
    /// applied twice; it opens the database anew by itself.
    ///
    /// # Errors
    /// When it could not be made, or whether it was made is not known.
    pub fn commit(&mut self, commit: &Commit<'_>) -> Result<Committed, StateError> {
        self.mend()?;
        if self.doubt.as_ref().is_some_and(|doubt| doubt.made)
            && let Some(doubt) = self.doubt.take()
        {
            if doubt.print == print(commit) {
                return Ok(doubt.committed);
            }
            self.doubt = Some(doubt);
            return Err(StateError::InDoubt { path: self.file.clone() });
        }
        let (file, number) = (self.file.clone(), self.commits);
        let Some(conn) = self.conn.as_mut() else { return Err(self.closed()) };
        match apply(conn, &file, number, commit) {
            Ok(committed) => {
                self.commits += 1;
                Ok(committed)
            }
            Err(Failed { error, doubt }) => {
                self.hurt(&error);
                if doubt.is_some() && self.wound.is_none() {
                    self.wound = Some(Wound::Failed);
                }
                self.doubt =
                    doubt.map(|committed| Doubt { print: print(commit), committed, made: false });
                Err(error)
            }
        }
    }

    fn hurt(&mut self, error: &StateError) {
        let unsynced = matches!(error, StateError::Sync { .. } | StateError::Io { .. });
        if unsynced || self.wound == Some(Wound::Unsynced) {
            self.wound = Some(Wound::Unsynced);
        } else if !matches!(error, StateError::Busy { .. }) || self.wound.is_some() {
            self.wound = Some(Wound::Failed);
        }
    }

    /// Opens the database anew after an error, and finds out whether the commit that failed was made.
    /// [`Db::commit`] does so by itself.
    ///
    /// # Errors
    /// When the cause of the error lasts.
    pub fn reopen(&mut self) -> Result<(), StateError> {
        if self.held.is_none() {
            return self.mend();
        }
        self.conn = None;
        let conn = connection::writer(&self.file)?;
        if self.wound == Some(Wound::Unsynced) {
            // After a failed sync the system may take pages for written that no disk has, and never
            // try them again. So what the log holds is written to another place, synced there, and
            // the log begun anew.
            check::flush(&conn, &self.file)?;
        }
        let head = Head::read(&conn, &self.file)?;
        match (head.commits - self.commits, &mut self.doubt) {
            (0, doubt) => *doubt = None,
            (1, Some(doubt)) => {
                doubt.made = true;
                self.commits = head.commits;
            }
            _ => return Err(StateError::commits(&self.file, head.commits, self.commits)),
        }
        self.conn = Some(conn);
        self.wound = None;
        Ok(())
    }

    /// Runs `write` in a transaction of its own.
    fn change<T>(
        &mut self,
        write: impl FnOnce(&Transaction<'_>, &Path) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        self.mend()?;
        let file = self.file.clone();
        let Some(conn) = self.conn.as_mut() else { return Err(self.closed()) };
        let result = change(conn, &file, write);
        if let Err(error) = &result {
            self.hurt(error);
        }
        result
    }

    /// The row of a text that says what numbers in entries and snapshots mean; equal to the newest
    /// one, it has the same row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn dictionary(&mut self, text: &str) -> Result<i64, StateError> {
        self.change(|tx, file| {
            let newest = "SELECT id, text FROM dictionaries ORDER BY id DESC LIMIT 1";
            let newest = tx
                .query_row(newest, (), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))
                .optional()
                .at(file)?;
            if let Some((id, known)) = &newest
                && known == text
            {
                return Ok(*id);
            }
            let id = newest.map_or(1, |(id, _)| id + 1);
            let made = now(tx).at(file)?;
            let seal = check::dictionary_seal(id, text, &made);
            let insert =
                "INSERT INTO dictionaries (id, text, made, checksum) VALUES (?1, ?2, ?3, ?4)";
            tx.execute(insert, (id, text, made, seal)).at(file)?;
            Ok(id)
        })
    }

    /// Forgets how far a sink is that is no longer configured, so that actions are not kept for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn forget_cursor(&mut self, sink: &str) -> Result<(), StateError> {
        self.change(|tx, file| {
            let mut head = Head::read(tx, file)?;
            let old = "SELECT checksum FROM cursors WHERE sink = ?1";
            let old = tx.query_row(old, [sink], |row| row.get(0)).optional().at(file)?;
            add(&mut head.cursors_sum, old, None);
            tx.execute("DELETE FROM cursors WHERE sink = ?1", [sink]).at(file)?;
            head.write(tx).at(file)
        })
    }

    /// Lets go of what no restart needs and gives the room back to the system.
    ///
    /// # Errors
    /// When it cannot be done; nothing is lost then.
    pub fn compact(&mut self) -> Result<Compacted, StateError> {
        let before = self.bytes();
        let dir = self.file.parent().unwrap_or(&self.file).to_owned();
        let pruned = Snapshots::open(&dir)?.prune()?;
        let conn = self.conn()?;
        conn.execute_batch("VACUUM").at(&self.file)?;
        check::flush(conn, &self.file)?;
        Ok(Compacted { before, after: self.bytes(), pruned })
    }

    /// Bytes of the database and its log.
    fn bytes(&self) -> u64 {
        size(&self.file) + size(&beside(&self.file, "-wal"))
    }
}

fn unsigned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Runs `write` in a transaction.
pub(super) fn change<T>(
    conn: &mut Connection,
    file: &Path,
    write: impl FnOnce(&Transaction<'_>, &Path) -> Result<T, StateError>,
) -> Result<T, StateError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).at(file)?;
    let result = write(&tx, file)?;
    tx.commit().at(file)?;
    Ok(result)
}

struct Failed {
    error: StateError,
    /// What it would have given, if it may have been made all the same.
    doubt: Option<Committed>,
}

impl From<StateError> for Failed {
    fn from(error: StateError) -> Self {
        Self { error, doubt: None }
    }
}

fn apply(
    conn: &mut Connection,
    file: &Path,
    number: i64,
    commit: &Commit<'_>,
) -> Result<Committed, Failed> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).at(file)?;
    let mut head = Head::read(&tx, file)?;
    if head.commits != number {
        return Err(StateError::commits(file, head.commits, number).into());
    }
    head.commits += 1;
    let journal = write_journal(&tx, &mut head, commit).at(file)?;
    let actions_from = head.actions + 1;
    write_actions(&tx, file, &mut head, commit.actions)?;
    write_positions(&tx, file, &mut head, commit)?;
    write_cursors(&tx, &mut head, commit.cursors).at(file)?;
    head.write(&tx).at(file)?;
    let committed = Committed { journal, actions_from };
    match tx.commit() {
        Ok(()) => Ok(committed),
        Err(error) => Err(Failed { error: fault(file, &error), doubt: Some(committed) }),
    }
}

fn write_journal(
    tx: &Transaction<'_>,
    head: &mut Head,
    commit: &Commit<'_>,
) -> rusqlite::Result<Option<i64>> {
    if commit.entries.is_empty() && commit.count == 0 {
        return Ok(None);
    }
    head.journal += 1;
    let made = now(tx)?;
    let events = commit.count.cast_signed();
    let row =
        check::JournalSeal { id: head.journal, made: &made, dictionary: commit.dictionary, events };
    tx.execute(
        "INSERT INTO journal (id, made, dictionary, events, checksum, entries) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (head.journal, &made, commit.dictionary, events, row.of(commit.entries), commit.entries),
    )?;
    Ok(Some(head.journal))
}

fn write_actions(
    tx: &Transaction<'_>,
    file: &Path,
    head: &mut Head,
    actions: &[ActionRow],
) -> Result<(), StateError> {
    if actions.is_empty() {
        return Ok(());
    }
    let insert =
        "INSERT INTO actions (seq, id, time, op, line, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut insert = tx.prepare(insert).at(file)?;
    for action in actions {
        head.actions += 1;
        let op = action.op.name();
        let seal = check::action_seal(head.actions, &action.id, action.time, op, &action.line);
        let row = (head.actions, &action.id, action.time, op, &action.line, seal);
        insert.execute(row).at(file)?;
        write_decision(tx, file, head, action)?;
    }
    Ok(())
}

/// Keeps the history of decisions: an extend or end of one that is not in it changes nothing.
fn write_decision(
    tx: &Transaction<'_>,
    file: &Path,
    head: &mut Head,
    action: &ActionRow,
) -> Result<(), StateError> {
    let id = action.decision.as_ref().unwrap_or(&action.id);
    let known = || check::decision(tx, file, id);
    let (old, new) = match action.op {
        Op::Withheld | Op::Note => return Ok(()),
        Op::Start => {
            let new = StoredDecision {
                id: id.clone(),
                pack: action.pack.clone(),
                rule: action.rule.clone(),
                mode: action.mode.clone(),
                action: action.action.clone(),
                kind: action.kind.clone(),
                value: action.value.clone(),
                started: action.time,
                until: action.until,
                // Without an end to come, it is over with its line.
                ended: if action.until.is_none() { Some(action.time) } else { None },
                crossings: action.crossings,
            };
            (known()?, new)
        }
        Op::Extend => {
            let Some(old) = known()? else { return Ok(()) };
            // A late crossing may come when its end was said already.
            (Some(old.clone()), StoredDecision { until: action.until, ended: None, ..old })
        }
        Op::End => {
            let Some(old) = known()? else { return Ok(()) };
            let (ended, crossings) = (Some(action.time), action.crossings);
            (Some(old.clone()), StoredDecision { ended, crossings, ..old })
        }
    };
    let (old, seal) = (old.as_ref().map(check::decision_seal), check::decision_seal(&new));
    add(&mut head.decisions_sum, old, Some(seal));
    let crossings = new.crossings.map(u64::cast_signed);
    let replace = "REPLACE INTO decisions (id, pack, rule, mode, action, kind, value, started, until, ended, crossings, checksum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let values = (
        &new.id,
        &new.pack,
        &new.rule,
        &new.mode,
        &new.action,
        &new.kind,
        &new.value,
        new.started,
        new.until,
        new.ended,
        crossings,
        seal,
    );
    tx.execute(replace, values).at(file)?;
    Ok(())
}

fn write_positions(
    tx: &Transaction<'_>,
    file: &Path,
    head: &mut Head,
    commit: &Commit<'_>,
) -> Result<(), StateError> {
    if commit.positions.is_empty() && commit.gone.is_empty() {
        return Ok(());
    }
    let old = "SELECT checksum FROM positions WHERE source = ?1";
    let mut old = tx.prepare(old).at(file)?;
    let replace =
        "REPLACE INTO positions (source, name, position, checksum) VALUES (?1, ?2, ?3, ?4)";
    let mut replace = tx.prepare(replace).at(file)?;
    for (source, position) in commit.positions {
        let name = name(position);
        let json = serde_json::to_string(position).map_err(|error| StateError::Io {
            path: file.to_owned(),
            why: format!("the position of source {source} cannot be written: {error}"),
        })?;
        let seal = check::position_seal(*source, &name, &json);
        let known = old.query_row([source], |row| row.get(0)).optional().at(file)?;
        add(&mut head.positions_sum, known, Some(seal));
        replace.execute((source, name, json, seal)).at(file)?;
    }
    for source in commit.gone {
        let known = old.query_row([source], |row| row.get(0)).optional().at(file)?;
        add(&mut head.positions_sum, known, None);
        tx.execute("DELETE FROM positions WHERE source = ?1", [source]).at(file)?;
    }
    Ok(())
}

/// What a position is of, for people.
fn name(position: &Position) -> String {
    match position {
        Position::File(file) => file.path.display().to_string(),
        Position::Partition(partition) => format!("{}/{}", partition.topic, partition.partition),
        Position::Railway(railway) => format!("railway environment {}", railway.environment),
    }
}

fn write_cursors(
    tx: &Transaction<'_>,
    head: &mut Head,
    cursors: &[(String, i64)],
) -> rusqlite::Result<()> {
    for (sink, seq) in cursors {
        let old = "SELECT checksum FROM cursors WHERE sink = ?1";
        let old = tx.query_row(old, [sink], |row| row.get(0)).optional()?;
        let seal = check::cursor_seal(sink, *seq);
        add(&mut head.cursors_sum, old, Some(seal));
        tx.execute(
            "REPLACE INTO cursors (sink, seq, checksum) VALUES (?1, ?2, ?3)",
            (sink, seq, seal),
        )?;
    }
    Ok(())
}

/// Tells one commit from another.
fn print(commit: &Commit<'_>) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    let Commit { entries, count, dictionary, actions, positions, gone, cursors } = commit;
    let mut hash = Sha256::new();
    hash.update((entries.len() as u64).to_le_bytes());
    hash.update(entries);
    // The rest is small, and equal parts are written alike.
    hash.update(format!("{count} {dictionary} {actions:?} {positions:?} {gone:?} {cursors:?}"));
    hash.finalize().into()
}

/// Reading.
impl Db {
    /// The text of a dictionary.
    ///
    /// # Errors
    /// When it is not there or not as it was written.
    pub fn dictionary_text(&self, id: i64) -> Result<String, StateError> {
        self.view(|conn, file| check::dictionary(conn, file, id))
    }

    /// Where reading of each source goes on.
    ///
    /// # Errors
    /// When a row is not as it was committed, is missing or came back.
    pub fn positions(&self) -> Result<Vec<(u32, Position)>, StateError> {
        let found =
            self.view(|conn, file| self.rows().positions(conn, &Head::read(conn, file)?))?;
        Ok(found.into_iter().map(|(source, _, position)| (source, position)).collect())
    }

    /// The snapshots that were finished, the newest first.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>, StateError> {
        self.view(|conn, file| {
            Ok(check::snapshot_rows(conn, file)?.into_iter().map(|row| row.info).collect())
        })
    }

    /// The content of a snapshot.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when the content or a number in its [`SnapshotInfo`] is not as it was
    /// written: the one before it may still be good.
    pub fn snapshot(&self, id: i64) -> Result<Vec<u8>, StateError> {
        self.view(|conn, file| {
            let rows = check::snapshot_rows(conn, file)?;
            let row = rows.iter().find(|row| row.info.id == id);
            let row = row.ok_or_else(|| self.damaged(format!("snapshot {id} is not there")))?;
            check::snapshot_content(conn, file, row)
        })
    }

    /// Gives the rows of the journal behind `row`, in order, each of them checked; says how many.
    ///
    /// # Errors
    /// When one is not as it was committed or missing, and what `each` says.
    pub fn journal_after(
        &self,
        row: i64,
        each: &mut dyn FnMut(JournalRow<'_>) -> Result<(), StateError>,
    ) -> Result<u64, StateError> {
        self.view(|conn, file| check::journal(conn, file, &Head::read(conn, file)?, row, each))
    }

    /// Whether an action was committed, and not so long ago that it was let go.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn has_action(&self, id: &str) -> Result<bool, StateError> {
        let select = "SELECT EXISTS (SELECT 1 FROM actions WHERE id = ?1)";
        self.conn()?.query_row(select, [id], |row| row.get(0)).at(&self.file)
    }

    /// Up to `limit` actions behind `cursor`, in order. Those that were let go, having been finished by
    /// all sinks that had a cursor then, are passed over.
    ///
    /// # Errors
    /// When one is not as it was committed or missing.
    pub fn actions_after(
        &self,
        cursor: i64,
        limit: usize,
    ) -> Result<Vec<StoredAction>, StateError> {
        self.view(|conn, file| self.rows().actions(conn, &Head::read(conn, file)?, cursor, limit))
    }

    /// The number of the last action; 0 before the first.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last_action(&self) -> Result<i64, StateError> {
        self.view(|conn, file| Ok(Head::read(conn, file)?.actions))
    }

    /// The last action that each sink has finished.
    ///
    /// # Errors
    /// When a row is not as it was committed, is missing or came back.
    pub fn cursors(&self) -> Result<Vec<(String, i64)>, StateError> {
        self.view(|conn, file| self.rows().cursors(conn, &Head::read(conn, file)?))
    }

    /// The decisions whose end was not committed, the oldest first.
    ///
    /// # Errors
    /// When one is not as it was committed.
    pub fn open_decisions(&self) -> Result<Vec<StoredDecision>, StateError> {
        self.view(|conn, file| {
            let mut open = Vec::new();
            check::decisions(conn, file, "WHERE ended IS NULL", &mut |decision, sound| {
                if !sound {
                    return Err(check::unsealed(file, "decision", &decision.id));
                }
                open.push(decision);
                Ok(())
            })?;
            open.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
            Ok(open)
        })
    }

    /// The decisions that ended after `since`, or would have if nobody had lifted them, the oldest
    /// first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn ended_decisions(&self, since: Micros) -> Result<Vec<StoredDecision>, StateError> {
        self.view(|conn, file| {
            let mut ended = Vec::new();
            let which = format!("WHERE ended IS NOT NULL AND max(until, ended) > {since}");
            check::decisions(conn, file, &which, &mut |decision, sound| {
                if !sound {
                    return Err(check::unsealed(file, "decision", &decision.id));
                }
                ended.push(decision);
                Ok(())
            })?;
            ended.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
            Ok(ended)
        })
    }

    /// The lines with which `decisions` started, as far as they are kept and are as they were committed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn start_lines<'i>(
        &self,
        decisions: impl Iterator<Item = &'i str>,
    ) -> Result<Vec<Option<String>>, StateError> {
        self.view(|conn, file| check::start_lines(conn, file, decisions))
    }

    /// The newest decisions that are `wanted`, or all, whether they have ended or not, up to `limit`, with the
    /// lines with which they started, as long as those are kept; and how many there are in all.
    ///
    /// # Errors
    /// When one is not as it was committed.
    pub fn newest_decisions(
        &self,
        limit: usize,
        wanted: Option<&dyn Fn(&StoredDecision) -> bool>,
    ) -> Result<(Vec<Told>, usize), StateError> {
        self.view(|conn, file| check::newest_decisions(conn, file, limit, wanted))
    }

    /// Everything that is wrong, one line each.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub fn verify(&self) -> Result<Vec<String>, StateError> {
        self.view(check::everything)
    }

    /// What it holds, for people.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn info(&self) -> Result<Info, StateError> {
        self.view(|conn, file| {
            let Meta { format, created, version } = connection::identify(conn, file)?;
            debug_assert_eq!(format, FORMAT, "others were refused");
            let head = Head::read(conn, file)?;
            let snapshots: Vec<SnapshotInfo> =
                check::snapshot_rows(conn, file)?.into_iter().map(|row| row.info).collect();
            let contained = snapshots.first().map_or(0, |newest| newest.journal);
            let journal = "SELECT count(*), ifnull(sum(events), 0), ifnull(sum(length(entries)), 0),
                ifnull(sum(events) FILTER (WHERE id > ?1), 0) FROM journal";
            let journal = conn
                .query_row(journal, [contained], |row| {
                    Ok(JournalInfo {
                        rows: unsigned(row, 0)?,
                        events: unsigned(row, 1)?,
                        bytes: unsigned(row, 2)?,
                        last: head.journal,
                        behind_snapshot: unsigned(row, 3)?,
                    })
                })
                .at(file)?;
            let decisions = "SELECT count(*) FILTER (WHERE ended IS NULL), count(ended), max(started) FROM decisions";
            let decisions = conn
                .query_row(decisions, (), |row| {
                    let newest: Option<i64> = row.get(2)?;
                    Ok(DecisionsInfo {
                        active: unsigned(row, 0)?,
                        ended: unsigned(row, 1)?,
                        newest: newest.map(time::format),
                    })
                })
                .at(file)?;
            let cursors = self.rows().cursors(conn, &head)?.into_iter();
            let cursors = cursors
                .map(|(sink, seq)| CursorInfo { sink, seq, behind: head.actions - seq })
                .collect();
            let positions = self.rows().positions(conn, &head)?.into_iter();
            let positions = positions
                .map(|(source, name, position)| PositionInfo { source, name, position })
                .collect();
            Ok(Info {
                format,
                created,
                version,
                in_use_by: connection::holder(file.parent().unwrap_or(file)),
                bytes: size(file),
                wal_bytes: size(&beside(file, "-wal")),
                commits: head.commits,
                journal,
                snapshots,
                actions: ActionsInfo {
                    kept: u64::try_from(head.actions + 1 - head.actions_from).unwrap_or(0),
                    last: head.actions,
                },
                cursors,
                decisions,
                positions,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::position::PartitionPosition;
    use crate::state::NewSnapshot;

    fn action(id: &str, decision: &str, op: Op, time: i64, until: Option<i64>) -> ActionRow {
        ActionRow {
            id: id.to_owned(),
            op,
            decision: Some(decision.to_owned()),
            mode: "enforce".to_owned(),
            action: "block".to_owned(),
            kind: "ip".to_owned(),
            value: Some("203.0.113.7".to_owned()),
            pack: "velro".to_owned(),
            rule: "ip-blocking".to_owned(),
            time,
            until,
            crossings: (op == Op::End).then_some(3),
            line: format!("{{\"id\":\"{id}\"}}"),
        }
    }

    fn partition(next: i64) -> Position {
        Position::Partition(PartitionPosition { topic: "logs".to_owned(), partition: 3, next })
    }

    fn journal(db: &Db, after: i64) -> Vec<(i64, Vec<u8>)> {
        let mut rows = Vec::new();
        db.journal_after(after, &mut |row| {
            rows.push((row.id, row.entries.to_vec()));
            Ok(())
        })
        .unwrap();
        rows
    }

    #[test]
    fn what_was_committed_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut db = Db::open(&path).unwrap();
        let dictionary = db.dictionary("rules 1").unwrap();
        assert_eq!(db.dictionary("rules 1").unwrap(), dictionary);
        let other = db.dictionary("rules 2").unwrap();
        assert_ne!(other, dictionary);
        let actions = [
            action("a1", "a1", Op::Start, 10, Some(20)),
            action("a2", "a2", Op::Start, 11, Some(21)),
            action("a3", "a1", Op::Extend, 12, Some(30)),
            action("a4", "a2", Op::End, 21, None),
        ];
        let first = Commit {
            entries: b"one",
            count: 1,
            dictionary,
            actions: &actions,
            positions: &[(0, partition(5)), (1, partition(6))],
            ..Commit::default()
        };
        let committed = db.commit(&first).unwrap();
        assert_eq!(committed, Committed { journal: Some(1), actions_from: 1 });
        let second = Commit {
            positions: &[(0, partition(7))],
            gone: &[1],
            cursors: &[("stdout".to_owned(), 2)],
            ..Commit::default()
        };
        let committed = db.commit(&second).unwrap();
        assert_eq!(committed, Committed { journal: None, actions_from: 5 });
        drop(db);

        let db = Db::open(&path).unwrap();
        assert_eq!(journal(&db, 0), [(1, b"one".to_vec())]);
        assert_eq!(journal(&db, 1), []);
        assert!(matches!(db.journal_after(2, &mut |_| Ok(())), Err(StateError::Damaged { .. })));
        assert_eq!(db.positions().unwrap(), [(0, partition(7))]);
        assert_eq!(db.cursors().unwrap(), [("stdout".to_owned(), 2)]);
        let waiting = db.actions_after(2, 10).unwrap();
        let ids: Vec<&str> = waiting.iter().map(|action| action.id.as_str()).collect();
        assert_eq!(ids, ["a3", "a4"]);
        assert!(db.has_action("a1").unwrap() && !db.has_action("a9").unwrap());
        let open = db.open_decisions().unwrap();
        assert_eq!(open.len(), 1);
        assert_eq!((open[0].id.as_str(), open[0].started, open[0].until), ("a1", 10, Some(30)));
        assert_eq!(db.dictionary_text(other).unwrap(), "rules 2");
        assert!(db.dictionary_text(99).is_err());
        assert_eq!(db.verify().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn commits_go_on_between_any_two_steps_of_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        // A commit that finds the database locked fails at once instead of waiting.
        let waits: Option<fn(i32) -> bool> = None;
        db.conn.as_mut().unwrap().busy_handler(waits).unwrap();
        let dictionary = db.dictionary("rules").unwrap();
        let mut snapshots = Snapshots::open(dir.path()).unwrap();
        let mut seed = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        })
        .take(9 << 20)
        .collect();
        let new = NewSnapshot {
            journal: 0,
            dictionary,
            events: 1,
            keys: 1,
            pieces: std::slice::from_ref(&bytes),
        };
        let commit = Commit { entries: b"x", count: 1, dictionary, ..Commit::default() };

        let mut draft = snapshots.begin(&new).unwrap();
        let mut steps = 0;
        while snapshots.step(&mut draft).unwrap() {
            db.commit(&commit).unwrap();
            steps += 1;
        }
        assert!(steps >= 4, "{steps}");
        assert_eq!(db.snapshots().unwrap(), [], "unfinished");
        let id = snapshots.finish(&draft).unwrap();
        db.commit(&commit).unwrap();
        assert!(db.snapshot(id).unwrap() == bytes);
    }

    #[test]
    fn an_unfinished_snapshot_is_removed_and_the_two_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        let dictionary = db.dictionary("rules").unwrap();
        let commit = Commit { entries: b"x", count: 1, dictionary, ..Commit::default() };
        let parts = |db: &Db| -> i64 {
            let conn = db.conn().unwrap();
            conn.query_row("SELECT count(*) FROM snapshot_parts", (), |row| row.get(0)).unwrap()
        };
        let bytes = vec![7; 3 << 20];
        let pieces = [bytes];
        let new =
            |journal| NewSnapshot { journal, dictionary, events: 1, keys: 2, pieces: &pieces };

        let mut snapshots = Snapshots::open(dir.path()).unwrap();
        let mut draft = snapshots.begin(&new(0)).unwrap();
        snapshots.step(&mut draft).unwrap();
        drop((draft, snapshots));
        assert!(parts(&db) > 0);

        let mut snapshots = Snapshots::open(dir.path()).unwrap();
        for n in 1..=4 {
            db.commit(&commit).unwrap();
            snapshots.write(&new(n)).unwrap();
            snapshots.prune().unwrap();
        }
        let kept: Vec<i64> = db.snapshots().unwrap().iter().map(|s| s.journal).collect();
        assert_eq!(kept, [4, 3]);
        assert_eq!(parts(&db), 6);
        assert_eq!(journal(&db, 3), [(4, b"x".to_vec())]);
        let error = db.journal_after(2, &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("row 3 of the journal is missing"), "{error}");
        assert_eq!(db.verify().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_commit_in_doubt_is_never_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        let dictionary = db.dictionary("rules").unwrap();
        let commit = Commit { entries: b"x", count: 1, dictionary, ..Commit::default() };
        let other = Commit { entries: b"y", ..commit };
        db.commit(&other).unwrap();
        let committed = db.commit(&commit).unwrap();
        for wound in [Wound::Failed, Wound::Unsynced] {
            // As if COMMIT had failed and been made all the same.
            db.commits = 1;
            db.wound = Some(wound);
            db.doubt = Some(Doubt { print: print(&commit), committed, made: false });
            let error = db.commit(&other).unwrap_err();
            assert!(matches!(error, StateError::InDoubt { .. }), "{error}");
            assert_eq!(db.commit(&commit).unwrap(), committed);
            assert_eq!(journal(&db, 0), [(1, b"y".to_vec()), (2, b"x".to_vec())]);
        }
        // As if it had not been made.
        db.wound = Some(Wound::Unsynced);
        db.doubt = Some(Doubt { print: print(&commit), committed, made: false });
        assert_eq!(db.commit(&commit).unwrap().journal, Some(3));
        // Commits that nobody here made are somebody else's.
        db.commits = 1;
        db.wound = Some(Wound::Failed);
        let error = db.commit(&commit).unwrap_err();
        assert!(matches!(error, StateError::TwoWriters { found: 3, expected: 1, .. }), "{error}");
    }

    #[test]
    fn a_database_that_is_locked_by_others_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        let waits: Option<fn(i32) -> bool> = None;
        db.conn.as_mut().unwrap().busy_handler(waits).unwrap();
        let other = Connection::open(db.file()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let commit = Commit { entries: b"x", count: 1, ..Commit::default() };
        let error = db.commit(&commit).unwrap_err();
        assert!(matches!(error, StateError::Busy { .. }) && error.is_retryable(), "{error}");
        other.execute_batch("ROLLBACK").unwrap();
        assert_eq!(db.commit(&commit).unwrap().journal, Some(1));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(dir.path()).unwrap();
        let (created, version) = ("2030-01-01T00:00:00.000Z", "9.0.0");
        let seal = Meta::seal(2, created, version);
        let update = "UPDATE meta SET format = 2, created = ?1, version = ?2, checksum = ?3";
        db.conn().unwrap().execute(update, (created, version, seal)).unwrap();
        drop(db);
        for error in [Db::open(dir.path()).unwrap_err(), Db::read_only(dir.path()).unwrap_err()] {
            let text = error.to_string();
            assert!(matches!(error, StateError::Newer { found: 2, known: 1, .. }), "{text}");
            assert!(text.contains("written by a newer Portcullis"), "{text}");
        }
    }

    #[test]
    fn a_reader_sees_one_state_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        let commit = Commit { positions: &[(0, partition(1))], ..Commit::default() };
        db.commit(&commit).unwrap();
        let mut reader = Db::read_only(dir.path()).unwrap();
        db.commit(&Commit { positions: &[(0, partition(2))], ..Commit::default() }).unwrap();
        assert_eq!(reader.positions().unwrap(), [(0, partition(1))]);
        let error = reader.commit(&commit).unwrap_err();
        assert!(error.to_string().contains("it was opened to be read"), "{error}");
        assert_eq!(db.positions().unwrap(), [(0, partition(2))]);
    }

    #[test]
    fn what_all_sinks_have_finished_is_let_go_beyond_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = Db::open(dir.path()).unwrap();
        let day = 86_400_000_000;
        // Decisions that end a second after their start, a day apart, and one that stays.
        let mut actions: Vec<ActionRow> = (0..200)
            .flat_map(|n| {
                let id = format!("d{n}");
                let start = action(&id, &id, Op::Start, n * day, Some(n * day + 1));
                [start, action(&format!("e{n}"), &id, Op::End, n * day + 1, None)]
            })
            .collect();
        actions.push(action("stays", "stays", Op::Start, 0, Some(10)));
        let note = action("note", "note", Op::Note, 0, None);
        actions.resize(101_500, note);
        let cursors = [("a".to_owned(), 700), ("gone".to_owned(), 1)];
        let commit = Commit { actions: &actions, cursors: &cursors, ..Commit::default() };
        db.commit(&commit).unwrap();
        let mut snapshots = Snapshots::open(dir.path()).unwrap();
        let pruned = snapshots.prune().unwrap();
        // Starts of the days 0 to 108 are more than 90 days before that of day 199.
        assert_eq!((pruned.actions, pruned.decisions), (1, 109));
        assert_eq!(db.open_decisions().unwrap().len(), 1);
        db.forget_cursor("gone").unwrap();
        assert_eq!(snapshots.prune().unwrap().actions, 699);
        assert_eq!(db.actions_after(0, 1).unwrap()[0].seq, 701);
        db.commit(&Commit { cursors: &[("a".to_owned(), 101_500)], ..Commit::default() }).unwrap();
        assert_eq!(snapshots.prune().unwrap().actions, 800, "the newest 100,000 stay");
        assert!(db.has_action("note").unwrap() && !db.has_action("d0").unwrap());
        drop(db);
        assert_eq!(Db::open(dir.path()).unwrap().verify().unwrap(), Vec::<String>::new());
    }
}
