//! What lasting state costs: how long the stream stands still while its state is captured, and how
//! long a start takes that goes on from a snapshot and a journal.
#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured, and may end by panicking"
)]

mod measure;

use measure::{Arguments, Table, grouped, mb, median, portcullis};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::engine::entry::Journal;
use portcullis::engine::order::Engine;
use portcullis::source::Batch;
use portcullis::state::{Commit, Db, NewSnapshot, Snapshots};
use std::path::Path;
use std::time::Instant;

/// Keys that are counted per address; the accounts are a quarter of them.
const KEYS: u64 = 1_000_000;
/// Records in the journal behind the snapshot.
const RECORDS: u64 = 1_000_000;
const GROUP: u64 = 4096;

fn main() {
    let arguments = Arguments::read(&["capture", "restart"]);
    measure::print_circumstances("state");
    let keys = arguments.lines.unwrap_or(KEYS);
    let assembly = Assembly::new(&Settings::default(), &[]).expect("the built-in packs are sound");
    let mut engine = assembly.engine();
    feed(&mut engine, &assembly, 0..keys, 0);
    if arguments.wants("capture") {
        capture(&mut engine, &assembly, arguments.runs);
    }
    if arguments.wants("restart") {
        restart(engine, &assembly, keys, arguments.runs);
    }
}

/// Failed logins from addresses of their own, a quarter as many accounts, all within half an hour.
fn feed(engine: &mut Engine, assembly: &Assembly, range: std::ops::Range<u64>, second: u64) {
    let mut bytes = Vec::new();
    let end = range.end;
    for n in range {
        let at = second + n * 2000 / KEYS.max(end);
        let [_, a, b, c] = u32::try_from(n).expect("few enough").to_be_bytes();
        let line = format!(
            "{{\"timestamp\":\"2025-08-03T{:02}:{:02}:{:02}Z\",\"logger\":\"security\",\"message\":\"FAILED_LOGIN: \
             email=user{}@example.org, ip=11.{a}.{b}.{c}, reason=invalid_password\",\"request_id\":\"{n:016x}\"}}\n",
            18 + at / 3600,
            at / 60 % 60,
            at % 60,
            n % (KEYS / 4)
        );
        bytes.extend_from_slice(line.as_bytes());
        if bytes.len() > 1 << 18 || n + 1 == end {
            let batch = Batch { bytes: std::mem::take(&mut bytes), ..Batch::default() };
            engine.apply_batch(assembly.scanner.scan(batch), None);
            engine.take_actions();
        }
    }
}

fn capture(engine: &mut Engine, assembly: &Assembly, runs: usize) {
    let mut table = Table::new(&["state", "keys", "MB", "first ms", "p50 ms", "max ms"]);
    let mut rooms = Vec::new();
    let (mut times, mut steps) = (Vec::new(), Vec::new());
    let mut restores = Vec::new();
    for _ in 0..runs.max(3) * 2 {
        let started = Instant::now();
        engine.core.begin_capture(rooms);
        let mut step = Instant::now();
        steps.push((step - started).as_secs_f64() * 1e3);
        rooms = loop {
            let pieces = engine.core.go_on_capturing();
            let now = Instant::now();
            steps.push((now - step).as_secs_f64() * 1e3);
            step = now;
            if let Some(pieces) = pieces {
                break pieces;
            }
        };
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let room = rooms.concat();
    for _ in 0..3 {
        let mut other = assembly.engine();
        let started = Instant::now();
        other.core.restore(&room, &engine.core.dictionary()).expect("it can be read");
        restores.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let mut row = |what: &str, times: &[f64]| {
        table.row(vec![
            what.to_owned(),
            grouped(u64::try_from(engine.core.keys()).unwrap_or(0)),
            mb(u64::try_from(room.len()).unwrap_or(0)),
            format!("{:.1}", times[0]),
            format!("{:.1}", median(times)),
            format!("{:.1}", times.iter().copied().fold(0.0, f64::max)),
        ]);
    };
    row("captured, in all", &times);
    row("captured, one step: the stream stands still", &steps);
    row("restored", &restores);
    table.print();
    println!();
}

fn restart(mut engine: Engine, assembly: &Assembly, keys: u64, runs: usize) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let dir = folder.path().join("state");
    let mut db = Db::open(&dir).expect("a state directory can be made");
    let names = serde_json::to_string(&engine.core.dictionary()).expect("names are JSON");
    let dictionary = db.dictionary(&names).expect("it can be kept");
    let pieces = [engine.core.capture_all()];
    let held = u64::try_from(engine.core.keys()).unwrap_or(0);
    let mut snapshots = Snapshots::open(&dir).expect("a second connection");
    let new = NewSnapshot { journal: 0, dictionary, events: 0, keys: held, pieces: &pieces };
    let started = Instant::now();
    snapshots.write(&new).expect("it can be written");
    println!(
        "snapshot of {} MB written in {:.1} s",
        mb(pieces[0].len() as u64),
        started.elapsed().as_secs_f64()
    );
    let started = Instant::now();
    let mut at = 0;
    while at < RECORDS {
        engine.core.journal = Some(Journal::default());
        // Two hours later: what was counted before is over, and nobody fires.
        feed(&mut engine, assembly, at % keys..(at % keys + GROUP).min(keys), 9200);
        let journal = engine.core.journal.take().expect("it was put there");
        at += journal.records;
        let commit = Commit {
            entries: &journal.bytes,
            count: journal.records,
            dictionary,
            ..Commit::default()
        };
        db.commit(&commit).expect("it can be committed");
    }
    println!(
        "journal of {} records written in {:.1} s\n",
        grouped(at),
        started.elapsed().as_secs_f64()
    );
    drop((snapshots, db, engine));
    let mut table = Table::new(&["restart", "keys", "records", "s p50", "s max"]);
    let times: Vec<f64> = (0..runs.max(3)).map(|_| start(folder.path(), &dir)).collect();
    table.row(vec![
        "from start to the end of an empty input".to_owned(),
        grouped(held),
        grouped(at),
        format!("{:.2}", median(&times)),
        format!("{:.2}", times.iter().copied().fold(0.0, f64::max)),
    ]);
    table.print();
}

/// Each start works on a copy: it writes a snapshot at its end.
fn start(folder: &Path, dir: &Path) -> f64 {
    let copy = tempfile::tempdir_in(folder).expect("a folder can be made");
    for name in ["portcullis.db", "portcullis.db-wal"] {
        let from = dir.join(name);
        if from.exists() {
            std::fs::copy(&from, copy.path().join(name)).expect("a file can be copied");
        }
    }
    let mut command = portcullis(folder);
    command.args(["run", "--summary", "json"]).env("PORTCULLIS_STATE_DIR", copy.path());
    let took = measure::run(&mut command);
    let went_on = took.said.lines().find(|line| line.contains("went on from")).unwrap_or_default();
    let seconds = went_on.rsplit(" in ").next().and_then(|text| text.strip_suffix(" s"));
    let seconds = seconds.and_then(|text| text.parse::<f64>().ok());
    println!("{went_on}; {:.1} s in all, peak {} MB", took.wall_s, mb(took.peak));
    seconds.unwrap_or_else(|| panic!("{}", took.said))
}
