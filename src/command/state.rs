//! `portcullis state`: what a state directory holds, whether it is sound, and giving room back.

use super::{print, settings};
use crate::action::escape;
use crate::cli::{Common, State, StateCommand, StateDir};
use crate::engine::summary::grouped;
use crate::sink::Output;
use crate::source::position::Position;
use crate::state::{Compacted, Db, Info, PositionInfo, StateError};
use anyhow::{Result, anyhow, bail};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Sources that are listed for people; `--output json` has all.
const LISTED_MAX: usize = 20;

/// Runs the command.
///
/// # Errors
/// When the directory cannot be read or, to compact it, is in use.
pub fn state(common: &Common, state: &State) -> Result<ExitCode> {
    let json = match common.output() {
        None | Some(Output::Text) => false,
        Some(Output::Json) => true,
        Some(Output::Ecs) => bail!("error: `portcullis state` writes text or json, not ecs"),
    };
    let done = match &state.command {
        StateCommand::Info(named) => info(&directory(common, named, "info")?, json),
        StateCommand::Verify(named) => verify(&directory(common, named, "verify")?, json),
        StateCommand::Compact(named) => compact(&directory(common, named, "compact")?, json),
    };
    done.map_err(|error| anyhow!("error: {error}"))
}

/// The directory that was named, else the one that `run` would use.
fn directory(common: &Common, named: &StateDir, command: &str) -> Result<PathBuf> {
    if let Some(dir) = &named.dir {
        return Ok(PathBuf::from(dir));
    }
    let settings = settings(common)?;
    settings.state_dir.ok_or_else(|| {
        let names_none = match &settings.file {
            Some(file) => format!("the configuration {file} has no `state_dir`"),
            None => "there is no configuration that names one".to_owned(),
        };
        anyhow!(
            "error: which state directory? {names_none}, and PORTCULLIS_STATE_DIR is not set; say \
             `portcullis state {command} DIR`"
        )
    })
}

fn info(dir: &Path, json: bool) -> Result<ExitCode, StateError> {
    let info = Db::read_only(dir)?.info()?;
    if json {
        let mut value = json!(info);
        value["directory"] = json!(dir.display().to_string());
        print(&value.to_string());
    } else {
        print(table(dir, &info).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

fn table(dir: &Path, info: &Info) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _infallible = writeln!(out, "{name:<11} {text}");
    };
    line("directory", &escape(&dir.display().to_string()));
    let by = info.in_use_by.map_or_else(|| "nobody".to_owned(), |pid| format!("process {pid}"));
    line("in use by", &by);
    line(
        "format",
        &format!("{}, made {} by Portcullis {}", info.format, info.created, info.version),
    );
    line("size", &format!("{} and {} of log", size(info.bytes), size(info.wal_bytes)));
    line("commits", &count(info.commits));
    let journal = &info.journal;
    line(
        "journal",
        &format!(
            "{} rows, {} events, {}; a restart applies {} events again",
            grouped(journal.rows),
            grouped(journal.events),
            size(journal.bytes),
            grouped(journal.behind_snapshot)
        ),
    );
    if info.snapshots.is_empty() {
        line("snapshots", "none");
    }
    for (n, snapshot) in info.snapshots.iter().enumerate() {
        line(
            if n == 0 { "snapshots" } else { "" },
            &format!(
                "{}: {} keys, {} events since the one before, {} ({} stored), {} old, up to row {} of the journal",
                snapshot.id,
                grouped(snapshot.keys),
                grouped(snapshot.events),
                size(snapshot.bytes),
                size(snapshot.stored),
                age(snapshot.age_s),
                snapshot.journal
            ),
        );
    }
    let actions = &info.actions;
    line("actions", &format!("{} so far, {} kept", count(actions.last), grouped(actions.kept)));
    if info.cursors.is_empty() {
        line("sinks", "none");
    }
    for (n, cursor) in info.cursors.iter().enumerate() {
        let behind = match cursor.behind {
            0 => "has finished all".to_owned(),
            behind => format!("is {} behind", count(behind)),
        };
        line(if n == 0 { "sinks" } else { "" }, &format!("{} {behind}", escape(&cursor.sink)));
    }
    let decisions = &info.decisions;
    let newest = decisions.newest.as_ref().map(|at| format!(", the newest from {at}"));
    line(
        "decisions",
        &format!(
            "{} active, {} ended{}",
            grouped(decisions.active),
            grouped(decisions.ended),
            newest.unwrap_or_default()
        ),
    );
    if info.positions.is_empty() {
        line("sources", "none");
    }
    for (n, position) in info.positions.iter().take(LISTED_MAX).enumerate() {
        line(if n == 0 { "sources" } else { "" }, &place(position));
    }
    if let Some(more) = info.positions.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        line("", &format!("and {more} more; `--output json` lists all"));
    }
    out
}

fn place(info: &PositionInfo) -> String {
    let name = escape(&info.name);
    match &info.position {
        Position::File(file) => format!("{}: {name} at byte {}", info.source, grouped(file.offset)),
        Position::Partition(partition) => {
            format!("{}: {name} at offset {}", info.source, partition.next)
        }
        Position::Railway(railway) => {
            format!("{}: {name} up to {}", info.source, escape(&railway.seen))
        }
    }
}

/// How long ago, in the unit that says enough.
fn age(s: i64) -> String {
    match s.max(0) {
        s @ ..120 => format!("{s}s"),
        s @ ..7_200 => format!("{}m", s / 60),
        s @ ..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

fn count(n: i64) -> String {
    u64::try_from(n).map_or_else(|_| n.to_string(), grouped)
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let mut unit = "bytes";
    let mut tenths = bytes.saturating_mul(10);
    for larger in ["KB", "MB", "GB", "TB"] {
        if tenths < 10_000 {
            break;
        }
        tenths /= 1_000;
        unit = larger;
    }
    if unit == "bytes" {
        format!("{bytes} bytes")
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

fn verify(dir: &Path, json: bool) -> Result<ExitCode, StateError> {
    let findings = match Db::read_only(dir).and_then(|db| db.verify()) {
        Ok(findings) => findings,
        Err(StateError::Damaged { what, .. }) => vec![what],
        Err(other) => return Err(other),
    };
    let sound = findings.is_empty();
    if json {
        let directory = dir.display().to_string();
        let value = json!({ "directory": directory, "sound": sound, "findings": findings });
        print(&value.to_string());
    } else if sound {
        print("sound: every page, checksum and number is as it was committed");
    } else {
        for finding in &findings {
            if !print(&escape(finding)) {
                break;
            }
        }
    }
    Ok(ExitCode::from(u8::from(!sound)))
}

fn compact(dir: &Path, json: bool) -> Result<ExitCode, StateError> {
    // Opening for writing would make what is not there.
    drop(Db::read_only(dir)?);
    let Compacted { before, after, pruned } = Db::open(dir)?.compact()?;
    if json {
        let directory = dir.display().to_string();
        let value = json!({ "directory": directory, "before_bytes": before, "after_bytes": after, "removed": pruned });
        print(&value.to_string());
    } else {
        print(&format!(
            "{} before, {} after; let go of {} snapshots, {} rows of the journal, {} actions and {} decisions that no restart needs",
            size(before),
            size(after),
            grouped(pruned.snapshots),
            grouped(pruned.journal),
            grouped(pruned.actions),
            grouped(pruned.decisions)
        ));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::{age, size};

    #[test]
    fn sizes_are_for_people() {
        let shown = [0, 999, 1_000, 1_550, 999_999, 12_345_678, 3_000_000_000].map(size);
        let expected =
            ["0 bytes", "999 bytes", "1.0 KB", "1.5 KB", "999.9 KB", "12.3 MB", "3.0 GB"];
        assert_eq!(shown, expected);
        let shown = [-1, 119, 120, 7_200, 172_799, 172_800].map(age);
        assert_eq!(shown, ["0s", "119s", "2m", "2h", "47h", "2d"]);
    }
}
