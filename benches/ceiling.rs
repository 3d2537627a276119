//! What a flood of keys does: how much memory is used at most, whether real attackers are still
//! found in it, and whether anybody else is taken for one. The streams are piped in as they are
//! made and never touch the disk.
#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured, and may end by panicking"
)]

mod measure;
mod mix;

use measure::{Arguments, Table, grouped, mb, portcullis};
use mix::{ATTACKER_PREFIX, ATTACKERS, Mix};
use serde_json::Value;
use std::collections::BTreeSet;

const MIXES: [Mix; 3] = [Mix::Addresses, Mix::Users, Mix::Hidden];
/// How the program is started; both read the pipe.
const WAYS: [(&str, &[&str]); 2] = [("replay -", &["replay", "-"]), ("run", &["run"])];

/// Whom the action lines named.
#[derive(Default)]
struct Named {
    lines: u64,
    blocked: BTreeSet<String>,
    /// Alerted, and marked as counted from less than everything.
    approximate: BTreeSet<String>,
    alerted: BTreeSet<String>,
    notes: u64,
}

impl Named {
    fn heed(&mut self, line: &[u8]) {
        self.lines += 1;
        let action: Value = serde_json::from_slice(line).expect("an action line is JSON");
        if action["op"] == "note" {
            self.notes += 1;
            return;
        }
        // An end repeats what its start said.
        if action["op"] == "end" {
            return;
        }
        let Some(target) = action["target"]["value"].as_str() else { return };
        let set = match action["action"].as_str() {
            // Also what a brake withheld: it was decided.
            Some("block" | "lock" | "require_2fa") => &mut self.blocked,
            Some("alert") if action["approx"] == true => &mut self.approximate,
            _ => &mut self.alerted,
        };
        set.insert(target.to_owned());
    }
}

fn main() {
    let known = MIXES.map(Mix::name);
    let arguments = Arguments::read(&known);
    measure::print_circumstances("ceiling");
    println!(
        "Rules: velro; memory_limit: the default (1 GiB = 1,073.7 MB of counted state); one run each\n"
    );
    let mut table = Table::new(&[
        "stream",
        "way",
        "threads",
        "lines",
        "wall s",
        "lines/s",
        "peak MB",
        "keys held",
        "evicted",
        "attackers: blocked",
        "or alerted approx",
        "others: blocked",
        "alerted approx",
        "alerted",
        "notes",
    ]);
    for mix in MIXES.into_iter().filter(|mix| arguments.wants(mix.name())) {
        let lines = arguments.lines.unwrap_or(mix.full());
        for (way, first) in WAYS {
            for &threads in &arguments.threads {
                let row = flood(mix, lines, way, first, threads);
                // The table comes at the end of what may take an hour.
                eprintln!("{}", row.join(" | "));
                table.row(row);
            }
        }
    }
    table.print();
}

fn flood(mix: Mix, lines: u64, way: &str, first: &[&str], threads: u16) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut command = portcullis(folder.path());
    command.args(first).args(["--pack", "velro", "--quiet", "--summary", "json"]);
    command.args(["--output", "json", "--threads", &threads.to_string()]);
    let mut named = Named::default();
    let took =
        measure::run_fed(&mut command, |stdin| mix.write(lines, stdin), |line| named.heed(line));
    let summary = took.summary();
    assert!(summary["lines"]["total"] == lines, "not every line was read: {}", took.said);
    let attackers = |set: &BTreeSet<String>| {
        set.iter().filter(|target| target.starts_with(ATTACKER_PREFIX)).count() as u64
    };
    let others = |set: &BTreeSet<String>| grouped(set.len() as u64 - attackers(set));
    let blocked = attackers(&named.blocked);
    let approximate: BTreeSet<String> =
        named.approximate.difference(&named.blocked).cloned().collect();
    let of = if mix == Mix::Hidden { format!(" of {ATTACKERS}") } else { String::new() };
    vec![
        mix.name().to_owned(),
        way.to_owned(),
        threads.to_string(),
        grouped(lines),
        format!("{:.1}", took.wall_s),
        grouped((lines as f64 / took.wall_s) as u64),
        mb(took.peak),
        grouped(summary["keys_held"].as_u64().unwrap_or(0)),
        grouped(summary["keys_evicted"].as_u64().unwrap_or(0)),
        format!("{blocked}{of}"),
        attackers(&approximate).to_string(),
        others(&named.blocked),
        others(&named.approximate),
        others(&named.alerted),
        named.notes.to_string(),
    ]
}
