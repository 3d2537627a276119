//! Writing snapshots beside the commits, and letting go of what no restart needs.
//!
//! A snapshot is large and SQLite has one writer at a time, so it is written in parts of a MiB, a few
//! to a transaction, compressed before the transaction begins: a commit waits for the sync of a few
//! MiB at most, never for the snapshot. It counts only once its row in `snapshots` is there, which is
//! written last; the parts of one that was given up are removed at the next opportunity.

use super::check::{add, flush, snapshot_rows, snapshot_seal};
use super::connection::{self, At, Head, beside, now};
use super::db::change;
use super::error::StateError;
use super::seal::hex;
use super::{FILE, SnapshotInfo};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Bytes of a snapshot that make a part.
pub(super) const PART: usize = 1 << 20;
/// Bytes of compressed parts in one transaction, and parts.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_PARTS: usize = 8;
/// Snapshots that are kept: the newest, and one to fall back to.
const KEPT: usize = 2;
/// Bytes of the log at which it is written back.
const LOG_MAX: u64 = 4 << 20;
/// Bytes of the log at which commits wait for it to be begun anew: where they come so fast that none
/// ever finds it written back to its end, it would grow for ever.
const LOG_FULL: u64 = 32 << 20;
/// Rows let go in one transaction, and bytes of them.
const PRUNE_ROWS: i64 = 1_000;
const PRUNE_BYTES: i64 = 4 << 20;
/// Actions that are kept although every sink has finished them, to know their ids again.
const ACTIONS_KEPT: i64 = 100_000;
/// How long the history of decisions goes back, against the newest of them.
const HISTORY: i64 = 90 * 86_400 * 1_000_000;

/// A snapshot to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewSnapshot<'s> {
    /// The last row of the journal that is contained in it.
    pub journal: i64,
    /// The dictionary that it was written with.
    pub dictionary: i64,
    /// Events of the journal between the snapshot before and this one.
    pub events: u64,
    /// Keys in it.
    pub keys: u64,
    /// The content, which is the pieces one behind the other.
    pub pieces: &'s [Vec<u8>],
}

/// What was let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Snapshots, unfinished ones among them.
    pub snapshots: u64,
    /// Rows of the journal.
    pub journal: u64,
    /// Actions.
    pub actions: u64,
    /// Decisions.
    pub decisions: u64,
}

/// The second connection, for the background: there must be one at most, in the process that holds
/// the directory's lock through [`Db`](super::Db).
#[derive(Debug)]
pub struct Snapshots {
    file: PathBuf,
    conn: Option<Connection>,
}

impl Snapshots {
    /// Opens the second connection to the database in `dir`, which [`Db`](super::Db) has opened.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let dir =
            std::path::absolute(dir).map_err(|error| StateError::of_io(dir, "found", &error))?;
        let mut snapshots = Self { file: dir.join(FILE), conn: None };
        snapshots.conn()?;
        Ok(snapshots)
    }

    /// The connection; after an error, a new one.
    fn conn(&mut self) -> Result<&mut Connection, StateError> {
        if self.conn.is_none() {
            let conn = connection::writer(&self.file)?;
            // Written back only when asked, never inside a transaction that commits wait for.
            conn.execute_batch("PRAGMA wal_autocheckpoint = 0").at(&self.file)?;
            self.conn = Some(conn);
        }
        self.conn.as_mut().ok_or_else(|| StateError::Io {
            path: self.file.clone(),
            why: "it is not open".to_owned(),
        })
    }

    fn change<T>(
        &mut self,
        write: impl FnOnce(&rusqlite::Transaction<'_>, &Path) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let file = self.file.clone();
        let result = change(self.conn()?, &file, write);
        if result.is_err() {
            self.conn = None;
        }
        result
    }

    /// Writes a snapshot and gives its number. Nothing of it counts after an error.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, new: &NewSnapshot<'_>) -> Result<i64, StateError> {
        let mut draft = self.begin(new)?;
        let written = loop {
            match self.step(&mut draft) {
                Ok(true) => {}
                Ok(false) => break self.finish(&draft),
                Err(error) => break Err(error),
            }
        };
        if written.is_err() {
            // Gives the room back now if that is possible; else the next call does.
            let _later = self.remove_unfinished();
        }
        written
    }

    /// Begins a snapshot.
    pub(super) fn begin<'s>(&mut self, new: &NewSnapshot<'s>) -> Result<Draft<'s>, StateError> {
        self.remove_unfinished()?;
        let file = self.file.clone();
        let id = "SELECT ifnull(max(id), 0) + 1 FROM snapshots";
        let id = self.conn()?.query_row(id, (), |row| row.get(0)).at(&file)?;
        let pack = zstd::bulk::Compressor::new(1).map_err(|error| StateError::Io {
            path: file,
            why: format!("cannot compress: {error}"),
        })?;
        let rest = Rest { piece: &[], pieces: new.pieces.iter() };
        Ok(Draft { id, new: *new, rest, pack, hash: Sha256::new(), parts: 0, stored: 0 })
    }

    /// Writes the next few parts; false if there are none left.
    pub(super) fn step(&mut self, draft: &mut Draft<'_>) -> Result<bool, StateError> {
        let mut batch: Vec<Vec<u8>> = Vec::new();
        let mut size = 0;
        while batch.len() < BATCH_PARTS && size < BATCH_BYTES {
            let Some(part) = draft.rest.next() else { break };
            let packed = draft.pack.compress(part).map_err(|error| StateError::Io {
                path: self.file.clone(),
                why: format!("cannot compress: {error}"),
            })?;
            draft.hash.update(part);
            size += packed.len();
            batch.push(packed);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        self.change(|tx, file| {
            let insert = "INSERT INTO snapshot_parts (snapshot, part, content) VALUES (?1, ?2, ?3)";
            let mut insert = tx.prepare(insert).at(file)?;
            for (part, content) in (draft.parts..).zip(&batch) {
                insert.execute((draft.id, part, content)).at(file)?;
            }
            Ok(())
        })?;
        draft.parts += i64::try_from(batch.len()).unwrap_or(i64::MAX);
        draft.stored += size as u64;
        self.checkpoint()?;
        Ok(true)
    }

    /// Makes the snapshot count.
    pub(super) fn finish(&mut self, draft: &Draft<'_>) -> Result<i64, StateError> {
        let NewSnapshot { journal, dictionary, events, keys, pieces } = draft.new;
        let (id, parts, stored) = (draft.id, draft.parts, draft.stored);
        let sha256 = hex(&draft.hash.clone().finalize());
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.change(|tx, file| {
            let made = now(tx).at(file)?;
            let info =
                SnapshotInfo { id, journal, dictionary, events, keys, bytes, stored, made, age_s: 0 };
            let seal = snapshot_seal(&info, parts, &sha256);
            let insert = "INSERT INTO snapshots (id, journal, dictionary, events, keys, bytes, stored, parts, sha256, made, checksum)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
            let row = (
                id, journal, dictionary, events.cast_signed(), keys.cast_signed(),
                bytes.cast_signed(), stored.cast_signed(), parts, &sha256, &info.made, seal,
            );
            tx.execute(insert, row).at(file)?;
            Ok(())
        })?;
        Ok(id)
    }

    /// Removes the parts of snapshots that were not finished; says of how many.
    fn remove_unfinished(&mut self) -> Result<u64, StateError> {
        let mut removed = 0;
        let mut last = None;
        loop {
            let file = self.file.clone();
            let unfinished = "SELECT min(snapshot) FROM snapshot_parts WHERE snapshot NOT IN (SELECT id FROM snapshots)";
            let unfinished: Option<i64> =
                self.conn()?.query_row(unfinished, (), |row| row.get(0)).at(&file)?;
            let Some(id) = unfinished else { return Ok(removed) };
            if last != Some(id) {
                removed += 1;
                last = Some(id);
            }
            self.change(|tx, file| {
                let delete = "DELETE FROM snapshot_parts WHERE rowid IN (SELECT rowid FROM snapshot_parts WHERE snapshot = ?1 LIMIT ?2)";
                tx.execute(delete, (id, BATCH_PARTS as i64)).at(file)
            })?;
            self.checkpoint()?;
        }
    }

    /// Removes a snapshot, such as one that was found damaged.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn remove(&mut self, id: i64) -> Result<(), StateError> {
        self.change(|tx, file| tx.execute("DELETE FROM snapshots WHERE id = ?1", [id]).at(file))?;
        self.remove_unfinished()?;
        Ok(())
    }

    /// Writes the log back into the database when it is large.
    ///
    /// # Errors
    /// When it cannot be written back; nothing is lost then.
    pub fn checkpoint(&mut self) -> Result<(), StateError> {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let log = size(&beside(&self.file, "-wal"));
        if log <= LOG_MAX {
            return Ok(());
        }
        let file = self.file.clone();
        let conn = self.conn()?;
        // A log that is written back to its end is begun anew by the next commit. The first round
        // takes so long that commits come meanwhile; the second has only those to write.
        let passive = "PRAGMA wal_checkpoint(PASSIVE)";
        let mut result = conn.query_row(passive, (), |_| Ok(())).at(&file);
        if result.is_ok() {
            result = conn.query_row(passive, (), |_| Ok(())).at(&file);
        }
        if result.is_ok() && log > LOG_FULL {
            result = match flush(conn, &file) {
                // A reader is in the way; the next call tries again.
                Err(StateError::Busy { .. }) => Ok(()),
                other => other,
            };
        }
        if result.is_err() {
            self.conn = None;
        }
        result
    }

    /// Lets go of what no restart needs, a little at a time: snapshots but the two newest, the journal
    /// before the older of them, actions but the newest 100,000 and those that a sink has not finished,
    /// and decisions that ended 90 days before the newest started.
    ///
    /// # Errors
    /// When it cannot be done; nothing is lost then.
    pub fn prune(&mut self) -> Result<Pruned, StateError> {
        let mut pruned = Pruned { snapshots: self.remove_unfinished()?, ..Pruned::default() };
        let file = self.file.clone();
        let snapshots = snapshot_rows(self.conn()?, &file)?;
        for row in snapshots.iter().skip(KEPT) {
            self.remove(row.info.id)?;
            pruned.snapshots += 1;
        }
        if let Some(older) = snapshots.get(KEPT - 1).filter(|older| older.sound) {
            pruned.journal = self.prune_journal(older.info.journal)?;
        }
        pruned.actions = self.prune_actions()?;
        pruned.decisions = self.prune_decisions()?;
        self.change(|tx, file| {
            let unused = "DELETE FROM dictionaries WHERE id NOT IN (SELECT dictionary FROM journal)
                AND id NOT IN (SELECT dictionary FROM snapshots)
                AND id < (SELECT max(id) FROM dictionaries)";
            tx.execute(unused, ()).at(file)
        })?;
        self.checkpoint()?;
        Ok(pruned)
    }

    /// Repeats `step`, which says how many rows it let go, until there are none.
    fn repeat(
        &mut self,
        mut step: impl FnMut(&rusqlite::Transaction<'_>, &Path) -> Result<u64, StateError>,
    ) -> Result<u64, StateError> {
        let mut total = 0;
        loop {
            let count = self.change(&mut step)?;
            if count == 0 {
                return Ok(total);
            }
            total += count;
            self.checkpoint()?;
        }
    }

    fn prune_journal(&mut self, contained: i64) -> Result<u64, StateError> {
        self.repeat(|tx, file| {
            let select =
                "SELECT id, length(entries) FROM journal WHERE id <= ?1 ORDER BY id LIMIT ?2";
            let mut select = tx.prepare(select).at(file)?;
            let mut rows = select.query((contained, PRUNE_ROWS)).at(file)?;
            let (mut last, mut bytes) = (0, 0);
            while let Some(row) = rows.next().at(file)? {
                last = row.get(0).at(file)?;
                bytes += row.get::<_, i64>(1).at(file)?;
                if bytes > PRUNE_BYTES {
                    break;
                }
            }
            let count = tx.execute("DELETE FROM journal WHERE id <= ?1", [last]).at(file)?;
            Ok(count as u64)
        })
    }

    fn prune_actions(&mut self) -> Result<u64, StateError> {
        self.repeat(|tx, file| {
            let mut head = Head::read(tx, file)?;
            let finished: Option<i64> =
                tx.query_row("SELECT min(seq) FROM cursors", (), |row| row.get(0)).at(file)?;
            let last = (head.actions - ACTIONS_KEPT)
                .min(finished.unwrap_or(i64::MAX))
                .min(head.actions_from - 1 + PRUNE_ROWS);
            if last < head.actions_from {
                return Ok(0);
            }
            let count = tx.execute("DELETE FROM actions WHERE seq <= ?1", [last]).at(file)?;
            head.actions_from = last + 1;
            head.write(tx).at(file)?;
            Ok(count as u64)
        })
    }

    fn prune_decisions(&mut self) -> Result<u64, StateError> {
        self.repeat(|tx, file| {
            let newest: Option<i64> = tx
                .query_row("SELECT max(started) FROM decisions", (), |row| row.get(0))
                .optional()
                .at(file)?
                .flatten();
            let Some(newest) = newest else { return Ok(0) };
            let old = "SELECT id, checksum FROM decisions WHERE ended < ?1 LIMIT ?2";
            let mut old = tx.prepare(old).at(file)?;
            let old = old
                .query_map((newest.saturating_sub(HISTORY), PRUNE_ROWS), |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
                })
                .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
                .at(file)?;
            if old.is_empty() {
                return Ok(0);
            }
            let mut head = Head::read(tx, file)?;
            let mut delete = tx.prepare("DELETE FROM decisions WHERE id = ?1").at(file)?;
            for (id, seal) in &old {
                delete.execute([id]).at(file)?;
                add(&mut head.decisions_sum, Some(*seal), None);
            }
            head.write(tx).at(file)?;
            Ok(old.len() as u64)
        })
    }
}

/// What of a content is not written yet.
struct Rest<'s> {
    piece: &'s [u8],
    pieces: std::slice::Iter<'s, Vec<u8>>,
}

impl<'s> Iterator for Rest<'s> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        while self.piece.is_empty() {
            self.piece = self.pieces.next()?;
        }
        let (part, rest) = self.piece.split_at(self.piece.len().min(PART));
        self.piece = rest;
        Some(part)
    }
}

/// A snapshot that is being written.
pub(super) struct Draft<'s> {
    id: i64,
    new: NewSnapshot<'s>,
    rest: Rest<'s>,
    pack: zstd::bulk::Compressor<'static>,
    hash: Sha256,
    parts: i64,
    stored: u64,
}
