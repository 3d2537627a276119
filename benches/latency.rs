//! How long a line takes from its writer to the action it causes, and how long the program takes to
//! its first line.
//!
//! The lines that count raise an alert at once, each of a type of its own. Time runs from just
//! before the line is written to the pipe to when its action was read from the other pipe. `kept` is
//! the same with a state directory: an action then leaves only after its commit.
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

use measure::{Arguments, Table, grouped, median, portcullis, quantile};
use mix::{Lines, Mix, SEED};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A steady stream of lines.
struct Pace {
    per_s: u64,
    lines: u64,
    /// Every so many lines one fires.
    every: u64,
}

const PACES: [Pace; 3] = [
    Pace { per_s: 1, lines: 20, every: 1 },
    Pace { per_s: 1_000, lines: 20_000, every: 10 },
    Pace { per_s: 100_000, lines: 1_000_000, every: 500 },
];
/// Starts of the program, each a process of its own.
const STARTS: usize = 50;

fn main() {
    let arguments = Arguments::read(&["start", "live", "kept"]);
    measure::print_circumstances("latency");
    let folder = tempfile::tempdir().expect("a folder can be made");
    if arguments.wants("start") {
        starts(folder.path(), &arguments.threads);
    }
    for kept in [false, true] {
        if !arguments.wants(if kept { "kept" } else { "live" }) {
            continue;
        }
        println!(
            "{}\n",
            if kept { "With a state directory:" } else { "Without a state directory:" }
        );
        let mut table = Table::new(&[
            "lines/s asked",
            "threads",
            "lines/s written",
            "actions",
            "p50 ms",
            "p99 ms",
            "max ms",
            "p99 ms since due",
        ]);
        for pace in PACES {
            for &threads in &arguments.threads {
                let lines = arguments.lines.map_or(pace.lines, |most| most.min(pace.lines));
                table.row(live(folder.path(), &pace, lines, threads, kept));
            }
        }
        table.print();
        println!();
    }
}

fn ms(seconds: f64) -> String {
    format!("{:.3}", seconds * 1e3)
}

/// `run` of the velro pack, which says nothing but its actions.
fn command(folder: &Path, threads: u16) -> Command {
    let mut command = portcullis(folder);
    command.args(["run", "--pack", "velro", "--output", "json", "--quiet", "--summary", "none"]);
    command
        .args(["--threads", &threads.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

/// From the start of the process to the action of a line that was in the pipe before it.
fn starts(folder: &Path, threads: &[u16]) {
    let mut table = Table::new(&["start", "threads", "runs", "p50 ms", "p99 ms", "max ms"]);
    let mut row = |what: &str, threads: String, times: &[f64]| {
        let [p50, p99, max] = [median(times), quantile(times, 0.99), quantile(times, 1.0)];
        let runs = times.len().to_string();
        table.row(vec![what.to_owned(), threads, runs, ms(p50), ms(p99), ms(max)]);
    };
    let nothing: Vec<f64> = (0..STARTS)
        .map(|_| {
            let started = Instant::now();
            let mut command = portcullis(folder);
            command.arg("--version").stdout(Stdio::null());
            assert!(command.status().expect("the program starts").success());
            started.elapsed().as_secs_f64()
        })
        .collect();
    row("`--version`, to its end (a floor)", String::new(), &nothing);
    for &threads in threads {
        let times: Vec<f64> = (0..STARTS).map(|_| start(folder, threads)).collect();
        row("`run`, to the first action", threads.to_string(), &times);
    }
    table.print();
    println!();
}

fn start(folder: &Path, threads: u16) -> f64 {
    let mut line = Vec::new();
    Lines::new(Mix::A, SEED, 1).push_suspicious(0, &mut line);
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    writer.write_all(&line).expect("one line fits into a pipe");
    let started = Instant::now();
    let mut child = command(folder, threads).stdin(reader).spawn().expect("the program starts");
    let mut actions = BufReader::new(child.stdout.take().expect("is piped"));
    let mut action = String::new();
    actions.read_line(&mut action).expect("a pipe can be read");
    let took = started.elapsed().as_secs_f64();
    assert_eq!(number(action.as_bytes()), Some(0), "the first action is another: {action}");
    drop(writer);
    end(child);
    took
}

fn live(folder: &Path, pace: &Pace, lines: u64, threads: u16, kept: bool) -> Vec<String> {
    let mut command = command(folder, threads);
    let state = tempfile::tempdir_in(folder).expect("a folder can be made");
    if kept {
        command.env("PORTCULLIS_STATE_DIR", state.path().join("state"));
    }
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("is piped");
    let stdout = child.stdout.take().expect("is piped");
    let (tell, told) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut actions = BufReader::new(stdout);
        let mut action = Vec::new();
        while actions.read_until(b'\n', &mut action).expect("a pipe can be read") > 0 {
            let now = Instant::now();
            if let Some(number) = number(&action) {
                tell.send((number, now)).expect("somebody listens");
            }
            action.clear();
        }
    });
    // The start is measured elsewhere: the first line waits until the program has settled.
    std::thread::sleep(Duration::from_millis(300));
    let mut made = Lines::new(Mix::A, SEED, lines);
    let (mut line, mut written) = (Vec::new(), Vec::new());
    let started = Instant::now();
    for at in 0..lines {
        line.clear();
        let fires = at % pace.every == pace.every - 1;
        if fires {
            made.push_suspicious(written.len() as u64, &mut line);
        } else {
            made.push(&mut line);
        }
        let due = Duration::from_nanos(at * 1_000_000_000 / pace.per_s);
        // Sleeping takes longer than asked; several lines are then due, and each is written alone.
        while started.elapsed() < due {
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
        if fires {
            written.push((started + due, Instant::now()));
        }
        stdin.write_all(&line).expect("the program reads");
    }
    let rate = lines as f64 / started.elapsed().as_secs_f64();
    drop(stdin);
    let (took, since_due): (Vec<f64>, Vec<f64>) = told
        .iter()
        .map(|(number, at): (usize, Instant)| {
            let (due, before) = written[number];
            ((at - before).as_secs_f64(), (at - due).as_secs_f64())
        })
        .unzip();
    reading.join().expect("reading ends");
    end(child);
    assert_eq!(took.len(), written.len(), "every line that fires has its action");
    vec![
        grouped(pace.per_s),
        threads.to_string(),
        grouped(rate.round() as u64),
        grouped(took.len() as u64),
        ms(median(&took)),
        ms(quantile(&took, 0.99)),
        ms(quantile(&took, 1.0)),
        ms(quantile(&since_due, 0.99)),
    ]
}

fn end(mut child: Child) {
    let status = child.wait().expect("a child can be waited for");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
}

/// Which of the lines that fire an action belongs to; none: another rule's.
fn number(action: &[u8]) -> Option<usize> {
    const BEFORE: &[u8] = br#""start","action":"alert","target":{"kind":"type","value":"odd-"#;
    let at = memchr::memmem::find(action, BEFORE)? + BEFORE.len();
    let digits = action[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}
