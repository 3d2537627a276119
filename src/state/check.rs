//! Reading rows back, each checked, and looking for everything that is wrong.

use super::connection::{At, BUSY_S, Head, identify};
use super::error::StateError;
use super::schema::CHECKED_AT_OPEN;
use super::seal::{Seal, hex};
use super::snapshots::PART;
use super::{JournalRow, SnapshotInfo, StoredAction, StoredDecision, Told};
use crate::decode::time::Micros;
use crate::source::position::Position;
use rusqlite::{Connection, OptionalExtension, Row, Statement};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Messages of SQLite's own check that are shown.
const SHOWN_MAX: usize = 100;
/// Is given a row, and whether it fits its checksum.
type Each<'e, T> = &'e mut dyn FnMut(T, bool) -> Result<(), StateError>;

/// Moves a sum over the checksums of a table from a row to what became of it.
pub(super) fn add(sum: &mut i64, old: Option<i64>, new: Option<i64>) {
    *sum = sum.wrapping_sub(old.unwrap_or(0)).wrapping_add(new.unwrap_or(0));
}

/// A row whose checksum does not fit.
pub(super) fn unsealed(file: &Path, what: &str, id: &dyn std::fmt::Display) -> StateError {
    StateError::damaged(file, format!("{what} {id} fails its checksum"))
}

pub(super) fn dictionary_seal(id: i64, text: &str, made: &str) -> i64 {
    Seal::of("dictionaries").int(id).text(text).text(made).done()
}

pub(super) fn action_seal(seq: i64, id: &str, time: Micros, op: &str, line: &str) -> i64 {
    Seal::of("actions").int(seq).text(id).int(time).text(op).text(line).done()
}

pub(super) fn position_seal(source: u32, name: &str, json: &str) -> i64 {
    Seal::of("positions").int(i64::from(source)).text(name).text(json).done()
}

pub(super) fn cursor_seal(sink: &str, seq: i64) -> i64 {
    Seal::of("cursors").text(sink).int(seq).done()
}

pub(super) fn decision_seal(row: &StoredDecision) -> i64 {
    Seal::of("decisions")
        .text(&row.id)
        .text(&row.pack)
        .text(&row.rule)
        .text(&row.mode)
        .text(&row.action)
        .text(&row.kind)
        .maybe_text(row.value.as_deref())
        .int(row.started)
        .maybe_int(row.until)
        .maybe_int(row.ended)
        .maybe_int(row.crossings.map(u64::cast_signed))
        .done()
}

/// What the checksum of a row of the journal covers besides the entries.
pub(super) struct JournalSeal<'r> {
    pub id: i64,
    pub made: &'r str,
    pub dictionary: i64,
    pub events: i64,
}

impl JournalSeal<'_> {
    pub fn of(&self, entries: &[u8]) -> i64 {
        Seal::of("journal")
            .int(self.id)
            .text(self.made)
            .int(self.dictionary)
            .int(self.events)
            .bytes(entries)
            .done()
    }
}

/// A row of `snapshots`.
#[derive(Debug)]
pub(super) struct SnapshotRow {
    pub info: SnapshotInfo,
    pub parts: i64,
    pub sha256: String,
    pub sound: bool,
}

pub(super) fn snapshot_seal(info: &SnapshotInfo, parts: i64, sha256: &str) -> i64 {
    let SnapshotInfo { id, journal, dictionary, events, keys, bytes, stored, made, age_s: _ } =
        info;
    Seal::of("snapshots")
        .int(*id)
        .int(*journal)
        .int(*dictionary)
        .int(events.cast_signed())
        .int(keys.cast_signed())
        .int(bytes.cast_signed())
        .int(stored.cast_signed())
        .int(parts)
        .text(sha256)
        .text(made)
        .done()
}

/// Writes everything in the log back into the database, syncs that, and begins the log anew.
pub(super) fn flush(conn: &Connection, file: &Path) -> Result<(), StateError> {
    let busy: i64 =
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0)).at(file)?;
    if busy == 0 {
        Ok(())
    } else {
        Err(StateError::Busy { path: file.to_owned(), waited_s: BUSY_S })
    }
}

pub(super) fn dictionary(conn: &Connection, file: &Path, id: i64) -> Result<String, StateError> {
    let select = "SELECT text, made, checksum FROM dictionaries WHERE id = ?1";
    let row = conn
        .query_row(select, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()
        .at(file)?;
    let row: Option<(String, String, i64)> = row;
    match row {
        Some((text, made, seal)) if seal == dictionary_seal(id, &text, &made) => Ok(text),
        Some(_) => Err(unsealed(file, "dictionary", &id)),
        None => Err(StateError::damaged(file, format!("dictionary {id} is not there"))),
    }
}

fn decision_of(row: &Row<'_>) -> rusqlite::Result<(StoredDecision, bool)> {
    let decision = StoredDecision {
        id: row.get(0)?,
        pack: row.get(1)?,
        rule: row.get(2)?,
        mode: row.get(3)?,
        action: row.get(4)?,
        kind: row.get(5)?,
        value: row.get(6)?,
        started: row.get(7)?,
        until: row.get(8)?,
        ended: row.get(9)?,
        crossings: row.get::<_, Option<i64>>(10)?.map(i64::cast_unsigned),
    };
    let sound = row.get::<_, i64>(11)? == decision_seal(&decision);
    Ok((decision, sound))
}

const DECISION: &str = "SELECT id, pack, rule, mode, action, kind, value, started, until, ended, crossings, checksum FROM decisions";

/// Gives the decisions that `which` selects, and whether each fits its checksum.
pub(super) fn decisions(
    conn: &Connection,
    file: &Path,
    which: &str,
    each: Each<'_, StoredDecision>,
) -> Result<(), StateError> {
    let mut select = conn.prepare(&format!("{DECISION} {which}")).at(file)?;
    let mut rows = select.query(()).at(file)?;
    while let Some(row) = rows.next().at(file)? {
        let (decision, sound) = decision_of(row).at(file)?;
        each(decision, sound)?;
    }
    Ok(())
}

/// The newest decisions that are wanted, up to `limit`, with the lines with which they started, and
/// how many there are; what is read of them is checked.
pub(super) fn newest_decisions(
    conn: &Connection,
    file: &Path,
    limit: usize,
    wanted: Option<&dyn Fn(&StoredDecision) -> bool>,
) -> Result<(Vec<Told>, usize), StateError> {
    // All of them need not be read to be counted.
    let all = match wanted {
        Some(_) => None,
        None => {
            let count: i64 =
                conn.query_row("SELECT count(*) FROM decisions", (), |row| row.get(0)).at(file)?;
            Some(usize::try_from(count).unwrap_or(usize::MAX))
        }
    };
    let select = format!("{DECISION} ORDER BY started DESC, id");
    let mut select = conn.prepare(&select).at(file)?;
    let mut rows = select.query(()).at(file)?;
    let (mut found, mut total) = (Vec::new(), 0);
    let mut starts = Starts::of(conn, file)?;
    while let Some(row) = rows.next().at(file)? {
        if all.is_some() && found.len() >= limit {
            break;
        }
        let (decision, sound) = decision_of(row).at(file)?;
        if !sound {
            return Err(unsealed(file, "decision", &decision.id));
        }
        if wanted.is_none_or(|wanted| wanted(&decision)) {
            total += 1;
            if found.len() < limit {
                let line = starts.line(&decision.id)?;
                found.push((decision, line));
            }
        }
    }
    Ok((found, all.unwrap_or(total)))
}

/// The lines with which those decisions started, as far as they are kept and sound.
pub(super) fn start_lines<'i>(
    conn: &Connection,
    file: &Path,
    decisions: impl Iterator<Item = &'i str>,
) -> Result<Vec<Option<String>>, StateError> {
    let mut starts = Starts::of(conn, file)?;
    Ok(decisions.map(|decision| starts.line(decision).ok().flatten()).collect())
}

/// The decision with that id, checked.
pub(super) fn decision(
    conn: &Connection,
    file: &Path,
    id: &str,
) -> Result<Option<StoredDecision>, StateError> {
    let found = conn
        .query_row(&format!("{DECISION} WHERE id = ?1"), [id], decision_of)
        .optional()
        .at(file)?;
    match found {
        Some((_, false)) => Err(unsealed(file, "decision", &id)),
        found => Ok(found.map(|(decision, _)| decision)),
    }
}

/// The lines with which decisions started.
struct Starts<'c> {
    select: Statement<'c>,
    file: &'c Path,
}

impl<'c> Starts<'c> {
    fn of(conn: &'c Connection, file: &'c Path) -> Result<Self, StateError> {
        let select = "SELECT seq, time, op, line, checksum FROM actions WHERE id = ?1 ORDER BY seq";
        Ok(Self { select: conn.prepare(select).at(file)?, file })
    }

    /// That of a decision, checked; none once it is no longer kept.
    fn line(&mut self, decision: &str) -> Result<Option<String>, StateError> {
        let found = self.select.query_row([decision], |row| {
            let (seq, time, op): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let line: String = row.get(3)?;
            let sound = row.get::<_, i64>(4)? == action_seal(seq, decision, time, &op, &line);
            Ok((seq, line, sound))
        });
        match found.optional().at(self.file)? {
            Some((seq, _, false)) => Err(unsealed(self.file, "action", &seq)),
            found => Ok(found.map(|(_, line, _)| line)),
        }
    }
}

/// Readers of the smaller tables.
pub(super) struct Rows<'f> {
    pub file: &'f Path,
}

impl Rows<'_> {
    fn sum(&self, table: &str, found: i64, expected: i64) -> Result<(), StateError> {
        if found == expected {
            return Ok(());
        }
        let what = format!("a row of `{table}` is missing, or one came back that was replaced");
        Err(StateError::damaged(self.file, what))
    }

    pub fn positions(
        &self,
        conn: &Connection,
        head: &Head,
    ) -> Result<Vec<(u32, String, Position)>, StateError> {
        let select = "SELECT source, name, position, checksum FROM positions ORDER BY source";
        let mut select = conn.prepare(select).at(self.file)?;
        let mut rows = select.query(()).at(self.file)?;
        let (mut found, mut sum) = (Vec::new(), 0);
        while let Some(row) = rows.next().at(self.file)? {
            let source: u32 = row.get(0).at(self.file)?;
            let name: String = row.get(1).at(self.file)?;
            let json: String = row.get(2).at(self.file)?;
            let seal = row.get(3).at(self.file)?;
            if seal != position_seal(source, &name, &json) {
                return Err(unsealed(self.file, "the position of source", &source));
            }
            add(&mut sum, None, Some(seal));
            let position = serde_json::from_str(&json).map_err(|error| {
                let what = format!("the position of source {source} cannot be read: {error}");
                StateError::damaged(self.file, what)
            })?;
            found.push((source, name, position));
        }
        self.sum("positions", sum, head.positions_sum)?;
        Ok(found)
    }

    pub fn cursors(
        &self,
        conn: &Connection,
        head: &Head,
    ) -> Result<Vec<(String, i64)>, StateError> {
        let mut select = conn.prepare("SELECT sink, seq, checksum FROM cursors").at(self.file)?;
        let mut rows = select.query(()).at(self.file)?;
        let (mut found, mut sum) = (Vec::new(), 0);
        while let Some(row) = rows.next().at(self.file)? {
            let sink: String = row.get(0).at(self.file)?;
            let seq = row.get(1).at(self.file)?;
            let seal = row.get(2).at(self.file)?;
            if seal != cursor_seal(&sink, seq) {
                return Err(unsealed(self.file, "the cursor of", &sink));
            }
            add(&mut sum, None, Some(seal));
            found.push((sink, seq));
        }
        self.sum("cursors", sum, head.cursors_sum)?;
        Ok(found)
    }

    pub fn actions(
        &self,
        conn: &Connection,
        head: &Head,
        cursor: i64,
        limit: usize,
    ) -> Result<Vec<StoredAction>, StateError> {
        let mut found = Vec::new();
        let last = self.each_action(conn, cursor, limit, head, &mut |action, sound| {
            if !sound {
                return Err(unsealed(self.file, "action", &action.seq));
            }
            found.push(action);
            Ok(())
        })?;
        if found.len() < limit && last < head.actions && cursor < head.actions {
            let what = format!("action {} is missing", last + 1);
            return Err(StateError::damaged(self.file, what));
        }
        Ok(found)
    }

    /// Gives actions without a gap, and whether each fits its checksum; says the last number.
    fn each_action(
        &self,
        conn: &Connection,
        cursor: i64,
        limit: usize,
        head: &Head,
        each: Each<'_, StoredAction>,
    ) -> Result<i64, StateError> {
        let select = "SELECT seq, id, time, op, line, checksum FROM actions WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let mut select = conn.prepare(select).at(self.file)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut last = cursor.max(head.actions_from - 1);
        let mut rows = select.query((last, limit)).at(self.file)?;
        while let Some(row) = rows.next().at(self.file)? {
            let seq: i64 = row.get(0).at(self.file)?;
            if seq != last + 1 {
                let what = format!("action {} is missing", last + 1);
                return Err(StateError::damaged(self.file, what));
            }
            last = seq;
            let id: String = row.get(1).at(self.file)?;
            let op: String = row.get(3).at(self.file)?;
            let line: String = row.get(4).at(self.file)?;
            let time = row.get(2).at(self.file)?;
            let sound =
                row.get::<_, i64>(5).at(self.file)? == action_seal(seq, &id, time, &op, &line);
            each(StoredAction { seq, id, line }, sound && seq <= head.actions)?;
        }
        Ok(last)
    }
}

/// Gives the rows of the journal behind `after`, each checked.
pub(super) fn journal(
    conn: &Connection,
    file: &Path,
    head: &Head,
    after: i64,
    each: &mut dyn FnMut(JournalRow<'_>) -> Result<(), StateError>,
) -> Result<u64, StateError> {
    if after > head.journal {
        let what = format!(
            "a snapshot contains row {after} of the journal, which ends with row {}",
            head.journal
        );
        return Err(StateError::damaged(file, what));
    }
    let mut last = after;
    let mut count = 0;
    each_journal(conn, file, after, &mut |row, sound| {
        if row.id != last + 1 {
            let what = format!("row {} of the journal is missing", last + 1);
            return Err(StateError::damaged(file, what));
        }
        if !sound || row.id > head.journal {
            return Err(unsealed(file, "row of the journal", &row.id));
        }
        last = row.id;
        count += 1;
        each(row)
    })?;
    if last != head.journal {
        let what = format!("row {} of the journal is missing", last + 1);
        return Err(StateError::damaged(file, what));
    }
    Ok(count)
}

fn each_journal(
    conn: &Connection,
    file: &Path,
    after: i64,
    each: &mut dyn FnMut(JournalRow<'_>, bool) -> Result<(), StateError>,
) -> Result<(), StateError> {
    let select = "SELECT id, made, dictionary, events, checksum, entries FROM journal WHERE id > ?1 ORDER BY id";
    let mut select = conn.prepare(select).at(file)?;
    let mut rows = select.query([after]).at(file)?;
    while let Some(row) = rows.next().at(file)? {
        let id = row.get(0).at(file)?;
        let made: String = row.get(1).at(file)?;
        let dictionary = row.get(2).at(file)?;
        let events: i64 = row.get(3).at(file)?;
        let checksum: i64 = row.get(4).at(file)?;
        let Ok(entries) = row.get_ref(5).at(file)?.as_blob() else {
            return Err(StateError::damaged(
                file,
                format!("row {id} of the journal has no entries"),
            ));
        };
        let seal = JournalSeal { id, made: &made, dictionary, events };
        let sound = checksum == seal.of(entries);
        each(JournalRow { id, dictionary, events: events.cast_unsigned(), entries }, sound)?;
    }
    Ok(())
}

/// The rows of `snapshots`, the newest first.
pub(super) fn snapshot_rows(
    conn: &Connection,
    file: &Path,
) -> Result<Vec<SnapshotRow>, StateError> {
    let select = "SELECT id, journal, dictionary, events, keys, bytes, stored, made,
        ifnull(unixepoch('now') - unixepoch(made), 0), parts, sha256, checksum FROM snapshots ORDER BY id DESC";
    let mut select = conn.prepare(select).at(file)?;
    let read = |row: &Row<'_>| {
        let unsigned = |n: usize| row.get::<_, i64>(n).map(i64::cast_unsigned);
        let info = SnapshotInfo {
            id: row.get(0)?,
            journal: row.get(1)?,
            dictionary: row.get(2)?,
            events: unsigned(3)?,
            keys: unsigned(4)?,
            bytes: unsigned(5)?,
            stored: unsigned(6)?,
            made: row.get(7)?,
            age_s: row.get(8)?,
        };
        let (parts, sha256): (i64, String) = (row.get(9)?, row.get(10)?);
        let sound = row.get::<_, i64>(11)? == snapshot_seal(&info, parts, &sha256);
        Ok(SnapshotRow { info, parts, sha256, sound })
    };
    select.query_map((), read).and_then(Iterator::collect).at(file)
}

/// The content of a snapshot, checked.
pub(super) fn snapshot_content(
    conn: &Connection,
    file: &Path,
    row: &SnapshotRow,
) -> Result<Vec<u8>, StateError> {
    let id = row.info.id;
    let wrong = |what: &str| StateError::damaged(file, format!("snapshot {id} {what}"));
    if !row.sound {
        return Err(wrong("fails the checksum of its numbers"));
    }
    let select = "SELECT part, content FROM snapshot_parts WHERE snapshot = ?1 ORDER BY part";
    let mut select = conn.prepare(select).at(file)?;
    let mut parts = select.query([id]).at(file)?;
    let mut content = Vec::with_capacity(usize::try_from(row.info.bytes).unwrap_or(0));
    let mut unpack = zstd::bulk::Decompressor::new().map_err(|error| StateError::Io {
        path: file.to_owned(),
        why: format!("cannot decompress: {error}"),
    })?;
    let mut number = 0;
    while let Some(part) = parts.next().at(file)? {
        if part.get::<_, i64>(0).at(file)? != number {
            return Err(wrong(&format!("lacks part {number}")));
        }
        let Ok(packed) = part.get_ref(1).at(file)?.as_blob() else {
            return Err(wrong(&format!("has no content in part {number}")));
        };
        let Ok(plain) = unpack.decompress(packed, PART) else {
            return Err(wrong(&format!("does not unpack in part {number}")));
        };
        content.extend_from_slice(&plain);
        number += 1;
    }
    if number != row.parts || content.len() as u64 != row.info.bytes {
        return Err(wrong(&format!("has {number} parts and should have {}", row.parts)));
    }
    if hex(&Sha256::digest(&content)) != row.sha256 {
        return Err(wrong("fails its SHA-256"));
    }
    Ok(content)
}

/// Checks the tables that are small beside the journal and snapshots, since what a restart decides
/// is decided by them.
pub(super) fn at_open(conn: &Connection, file: &Path, head: &Head) -> Result<(), StateError> {
    for table in CHECKED_AT_OPEN {
        if let Some(found) = integrity(conn, file, Some(table), 1)?.into_iter().next() {
            return Err(StateError::damaged(file, format!("table `{table}`: {found}")));
        }
    }
    let mut first = None;
    small(conn, file, head, &mut |found| {
        first.get_or_insert(found);
    })?;
    match first {
        Some(found) => Err(StateError::damaged(file, found)),
        None => Ok(()),
    }
}

/// What SQLite's own check finds.
fn integrity(
    conn: &Connection,
    file: &Path,
    table: Option<&str>,
    most: usize,
) -> Result<Vec<String>, StateError> {
    let pragma = match table {
        Some(table) => format!("PRAGMA integrity_check({table})"),
        None => format!("PRAGMA integrity_check({most})"),
    };
    let mut check = conn.prepare(&pragma).at(file)?;
    let found: Vec<String> =
        check.query_map((), |row| row.get(0)).and_then(Iterator::collect).at(file)?;
    // A heading names the database, of which there is one.
    let lines = found.iter().flat_map(|row| row.lines());
    let told = lines.filter(|line| *line != "ok" && !line.starts_with("***"));
    Ok(told.take(most).map(str::to_owned).collect())
}

/// Turns damage into a finding and lets other errors pass.
fn tell<T>(
    result: Result<T, StateError>,
    found: &mut dyn FnMut(String),
) -> Result<Option<T>, StateError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StateError::Damaged { what, .. }) => {
            found(what);
            Ok(None)
        }
        Err(other) => Err(other),
    }
}

/// Looks at every row of the smaller tables.
fn small(
    conn: &Connection,
    file: &Path,
    head: &Head,
    found: &mut dyn FnMut(String),
) -> Result<(), StateError> {
    let rows = Rows { file };
    tell(rows.positions(conn, head), found)?;
    tell(rows.cursors(conn, head), found)?;
    let mut sum = 0;
    let decisions = decisions(conn, file, "", &mut |decision, sound| {
        add(&mut sum, None, Some(decision_seal(&decision)));
        if !sound {
            found(format!("decision {} fails its checksum", decision.id));
        }
        Ok(())
    });
    if tell(decisions, found)?.is_some() && sum != head.decisions_sum {
        found("a row of `decisions` is missing, or one came back that was replaced".to_owned());
    }
    let actions = rows.each_action(conn, 0, usize::MAX, head, &mut |action, sound| {
        if !sound {
            found(format!("action {} fails its checksum", action.seq));
        }
        Ok(())
    });
    let last = tell(actions, found)?;
    if last.is_some_and(|last| last < head.actions) {
        found(format!(
            "actions end with {} and should end with {}",
            last.unwrap_or(0),
            head.actions
        ));
    }
    let below = "SELECT count(*) FROM actions WHERE seq < ?1";
    let below: i64 = conn.query_row(below, [head.actions_from], |row| row.get(0)).at(file)?;
    if below > 0 {
        found(format!("{below} actions came back that were let go"));
    }
    let ids = conn.prepare("SELECT id FROM dictionaries").and_then(|mut select| {
        select
            .query_map((), |row| row.get(0))
            .and_then(Iterator::collect::<rusqlite::Result<Vec<i64>>>)
    });
    for id in tell(ids.at(file), found)?.unwrap_or_default() {
        tell(dictionary(conn, file, id), found)?;
    }
    Ok(())
}

/// Everything that is wrong, one line each.
pub(super) fn everything(conn: &Connection, file: &Path) -> Result<Vec<String>, StateError> {
    let mut findings = Vec::new();
    let mut found = |line: String| {
        if !findings.contains(&line) {
            findings.push(line);
        }
    };
    tell(identify(conn, file), &mut found)?;
    for line in tell(integrity(conn, file, None, SHOWN_MAX), &mut found)?.unwrap_or_default() {
        found(line);
    }
    let Some(head) = tell(Head::read(conn, file), &mut found)? else { return Ok(findings) };
    let whole = small(conn, file, &head, &mut found);
    tell(whole, &mut found)?;

    let snapshots = tell(snapshot_rows(conn, file), &mut found)?.unwrap_or_default();
    for row in &snapshots {
        tell(snapshot_content(conn, file, row), &mut found)?;
        if row.info.journal > head.journal {
            found(format!(
                "snapshot {} contains row {} of the journal, which ends with row {}",
                row.info.id, row.info.journal, head.journal
            ));
        }
        tell(dictionary(conn, file, row.info.dictionary), &mut found)?;
    }
    // The journal must reach back to the older of the two newest snapshots; without two, to its
    // beginning.
    let needed = snapshots.get(1).map_or(0, |older| older.info.journal);
    let mut last = None;
    let mut known = Vec::new();
    let rows = each_journal(conn, file, 0, &mut |row, sound| {
        let expected = last.map_or(needed + 1, |last| last + 1);
        // Rows that are no longer needed may still be there.
        if row.id > expected {
            found(format!("rows {expected} to {} of the journal are missing", row.id - 1));
        }
        last = Some(row.id);
        if !sound || row.id > head.journal {
            found(format!("row {} of the journal fails its checksum", row.id));
        }
        if !known.contains(&row.dictionary) {
            known.push(row.dictionary);
        }
        Ok(())
    });
    let end = last.unwrap_or(needed);
    if tell(rows, &mut found)?.is_some() && end < head.journal {
        found(format!("rows {} to {} of the journal are missing", end + 1, head.journal));
    }
    for id in known {
        tell(dictionary(conn, file, id), &mut found)?;
    }
    Ok(findings)
}
