//! What the programs share: running Portcullis and seeing from outside what it took, their
//! arguments, and tables.
#![allow(dead_code, reason = "each program uses some of it")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// What a program is told.
pub struct Arguments {
    /// What to measure; nothing: everything.
    pub names: Vec<String>,
    /// Instead of the full size.
    pub lines: Option<u64>,
    pub runs: usize,
    pub threads: Vec<u16>,
}

impl Arguments {
    /// Reads them; on a mistake it says what there is and ends with exit code 2.
    pub fn read(known: &[&str]) -> Self {
        Self::parse(std::env::args().skip(1), known).unwrap_or_else(|mistake| {
            eprintln!(
                "error: {mistake}\nusage: -- [{}]… [--lines N] [--runs N] [--threads 1,2]",
                known.join("|")
            );
            std::process::exit(2)
        })
    }

    fn parse(given: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let mut read = Self { names: Vec::new(), lines: None, runs: 5, threads: vec![1, 2] };
        if let Ok(lines) = std::env::var("PORTCULLIS_BENCH_LINES") {
            read.lines = Some(number(&lines)?);
        }
        let mut given = given;
        while let Some(word) = given.next() {
            let mut value = || given.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                // cargo's own.
                "--bench" => {}
                "--lines" => read.lines = Some(number(&value()?)?),
                "--runs" => read.runs = usize::try_from(number(&value()?)?).unwrap_or(1).max(1),
                "--threads" => {
                    read.threads = value()?
                        .split(',')
                        .map(|n| n.parse().map_err(|_| format!("{n} is no number of threads")))
                        .collect::<Result<_, _>>()?;
                }
                name if known.contains(&name) => read.names.push(name.to_owned()),
                other => return Err(format!("{other} is not known")),
            }
        }
        Ok(read)
    }

    /// Whether `name` is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.replace(['_', ','], "").parse().map_err(|_| format!("{text} is no number"))
}

/// What a program took, seen from outside.
#[derive(Debug, Clone, Default)]
pub struct Took {
    pub wall_s: f64,
    /// User and system time of all its threads; the kernel counts in hundredths of a second.
    pub cpu_s: f64,
    /// Peak resident memory in bytes.
    pub peak: u64,
    pub code: Option<i32>,
    /// Standard error.
    pub said: String,
}

impl Took {
    /// The summary that Portcullis wrote last.
    ///
    /// # Panics
    /// When there is none: then nothing that was measured means anything.
    pub fn summary(&self) -> serde_json::Value {
        let last = self.said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| {
            panic!("no summary ({error}), exit {:?}: {}", self.code, self.said)
        })
    }
}

/// The program under test, in a folder where it finds no configuration, and without what the
/// environment says to these programs.
pub fn portcullis(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PORTCULLIS_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).env("NO_COLOR", "1");
    command
}

/// Runs `command` to its end; its standard output goes nowhere.
pub fn run(command: &mut Command) -> Took {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = Instant::now();
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    attend(child, started)
}

/// Runs `command` with what `feed` writes as its input; `heed` gets every line of its output.
pub fn run_fed(
    command: &mut Command,
    feed: impl FnOnce(&mut ChildStdin) -> io::Result<()> + Send,
    mut heed: impl FnMut(&[u8]) + Send,
) -> Took {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    std::thread::scope(|scope| {
        let feeding = scope.spawn(move || feed(&mut stdin.expect("is piped")));
        scope.spawn(move || {
            let mut lines = BufReader::with_capacity(1 << 18, stdout.expect("is piped"));
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).expect("a pipe can be read") > 0 {
                heed(&line);
                line.clear();
            }
        });
        let took = attend(child, started);
        if let Err(error) = feeding.join().expect("feeding ends") {
            panic!("{error} while writing; it said: {}", took.said);
        }
        took
    })
}

/// Waits for the end and looks at the kernel's books meanwhile: the high-water mark of memory never
/// falls, and the processor time can be read until the process is waited for.
fn attend(mut child: Child, started: Instant) -> Took {
    let mut stderr = child.stderr.take().expect("standard error is piped");
    let listening = std::thread::spawn(move || {
        let mut said = Vec::new();
        // A pipe that cannot be read any more has ended.
        let _ = stderr.read_to_end(&mut said);
        (String::from_utf8_lossy(&said).into_owned(), Instant::now())
    });
    let mut took = Took::default();
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        took.peak = took.peak.max(high_water(&status));
        if !status.lines().any(|line| line.starts_with("VmHWM:")) && ended(&status) {
            break;
        }
        // Closely at first, for programs that end at once; then so that looking costs nothing.
        let close = started.elapsed() < Duration::from_millis(20);
        std::thread::sleep(Duration::from_micros(if close { 100 } else { 5_000 }));
    }
    took.cpu_s = processor_time(child.id());
    took.code = child.wait().expect("a child can be waited for").code();
    let (said, end) = listening.join().expect("listening ends");
    took.said = said;
    // The pipe closes when the process has given its memory back, before anybody looks.
    took.wall_s = (end - started).as_secs_f64();
    took
}

fn high_water(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn ended(status: &str) -> bool {
    status.lines().find_map(|line| line.strip_prefix("State:")).is_none_or(|s| s.contains('Z'))
}

fn processor_time(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name in brackets may hold anything; what follows it are numbers.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// Seconds that this thread was on a processor.
pub fn thread_time() -> f64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|n| n.parse::<u64>().ok());
    nanos.unwrap_or(0) as f64 / 1e9
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The smallest value that a share of `q` does not exceed.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// `1,234,567`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in millions.
pub fn mb(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// A table that is Markdown and can be read as it is.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn print(&self) {
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).filter_map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> =
                row.iter()
                    .zip(&widths)
                    .enumerate()
                    .map(|(at, (cell, &width))| {
                        if at == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                    })
                    .collect();
            println!("| {} |", cells.join(" | "));
            if number == 0 {
                let rule = |(at, &width): (usize, &usize)| {
                    if at == 0 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" }
                };
                let rules: Vec<String> = widths.iter().enumerate().map(rule).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
        // A table may follow after minutes: nobody should have to wait for the end.
        let _ = io::stdout().flush();
    }
}

/// Says on what, when and how it is measured.
pub fn print_circumstances(program: &str) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let of = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        line.and_then(|l| l.split_once(':').map(|(_, v)| v.trim().to_owned())).unwrap_or_default()
    };
    let asked = |name: &str, args: &[&str]| {
        let output = Command::new(name).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        output.map_or_else(
            |_| format!("unknown ({name} is not there)"),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = of(&read("/proc/meminfo"), "MemTotal");
    let changed = !asked("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    println!(
        "* machine: {}, {processors} processors, {memory}, Linux {}",
        of(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim()
    );
    println!("* load before: {}", read("/proc/loadavg").split(' ').next().unwrap_or_default());
    println!(
        "* date: {}; commit: {}{}; {}",
        asked("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        asked("git", &["rev-parse", "--short", "HEAD"]),
        if changed { " with changes" } else { "" },
        asked("rustc", &["--version"])
    );
    let words = if words.is_empty() { String::new() } else { format!(" -- {}", words.join(" ")) };
    println!("* command: `cargo bench --bench {program}{words}`");
    println!(
        "* MB are millions of bytes; files, if any, were read from the disk into the page cache before\n"
    );
}
