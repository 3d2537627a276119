//! How fast files are replayed, beside the floors that nothing can beat on this machine: the same
//! file, in the same run, in turn with the program. README.md here says how to read the tables.
#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured, and may end by panicking"
)]

mod corpus;
mod measure;
mod mix;

use corpus::{Corpus, Packing};
use measure::{Arguments, Table, Took, grouped, mb, median, portcullis};
use mix::Mix;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// What every reader here takes at once, as the program does.
const BLOCK: usize = 256 * 1024;
/// Runs of the program on nothing, to see what it needs before the first key.
const EMPTY_RUNS: usize = 10;

/// A file and who reads it.
struct Course {
    name: &'static str,
    title: &'static str,
    mix: Mix,
    packing: Option<Packing>,
    /// The floors that parse every line are slow, and say nothing about key floods.
    parsed: bool,
    /// Arguments that name the rules, and what they are called in the table.
    rules: &'static [(&'static str, &'static [&'static str])],
}

const MIX_C: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/mix_c.yaml");
const VELRO: (&str, &[&str]) = ("velro", &["--pack", "velro"]);
const DEFAULT: (&str, &[&str]) = ("velro + guard", &[]);

const COURSES: [Course; 8] = [
    Course {
        name: "a",
        title: "Mix A: 2 % failed logins, 3 % successful, 0.5 % rate limit violations, else requests",
        mix: Mix::A,
        packing: None,
        parsed: true,
        rules: &[VELRO, DEFAULT],
    },
    Course {
        name: "b",
        title: "Mix B: 90 % failed logins, 1,000,000 addresses, 100,000 accounts",
        mix: Mix::B,
        packing: None,
        parsed: true,
        rules: &[VELRO, DEFAULT],
    },
    Course {
        name: "c",
        title: "Mix C: requests with fields, a rule that has to read every line",
        mix: Mix::C,
        packing: None,
        parsed: true,
        rules: &[
            ("mix_c.yaml", &["--patterns", MIX_C]),
            ("velro + mix_c.yaml", &["--pack", "velro", "--patterns", MIX_C]),
        ],
    },
    Course {
        name: "e",
        title: "Mix E: mix A in Docker's json-file envelope",
        mix: Mix::E,
        packing: None,
        parsed: true,
        rules: &[VELRO],
    },
    Course {
        name: "gz",
        title: "Mix A as .gz",
        mix: Mix::A,
        packing: Some(Packing::Gzip),
        parsed: false,
        rules: &[VELRO],
    },
    Course {
        name: "zst",
        title: "Mix A as .zst",
        mix: Mix::A,
        packing: Some(Packing::Zstd),
        parsed: false,
        rules: &[VELRO],
    },
    Course {
        name: "d-addresses",
        title: "Mix D: a failed login from each of as many addresses",
        mix: Mix::Addresses,
        packing: None,
        parsed: false,
        rules: &[VELRO],
    },
    Course {
        name: "d-users",
        title: "Mix D: a failed login of each of as many accounts",
        mix: Mix::Users,
        packing: None,
        parsed: false,
        rules: &[VELRO],
    },
];

/// One thing that is timed again and again.
struct Runner<'a> {
    name: String,
    /// The threads of a run of the program; a floor has none to choose.
    program: Option<(usize, u16)>,
    run: Box<dyn Fn() -> Took + 'a>,
    took: Vec<Took>,
}

impl Runner<'_> {
    fn wall_s(&self) -> f64 {
        median(&self.took.iter().map(|took| took.wall_s).collect::<Vec<_>>())
    }
}

fn main() {
    let names: Vec<&str> = COURSES.iter().map(|course| course.name).collect();
    let arguments = Arguments::read(&names);
    measure::print_circumstances("throughput");
    let ripgrep = Command::new("rg").arg("--version").output();
    match &ripgrep {
        Ok(output) => println!(
            "`rg` is {}.",
            String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default()
        ),
        Err(_) => println!("ripgrep (`rg`) is not on the PATH: its floor is missing."),
    }
    for course in COURSES.iter().filter(|course| arguments.wants(course.name)) {
        go(course, &arguments, ripgrep.is_ok());
    }
}

fn go(course: &Course, arguments: &Arguments, ripgrep: bool) {
    let lines = arguments.lines.unwrap_or(course.mix.full());
    let corpus = match course.packing {
        None => corpus::plain(course.mix, lines),
        Some(packing) => corpus::packed(course.mix, lines, packing),
    }
    .expect("the file can be made");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let mut runners = floors(course, &corpus, ripgrep);
    for (number, (rules, flags)) in course.rules.iter().enumerate() {
        for &threads in &arguments.threads {
            runners.push(Runner {
                name: format!("portcullis, {rules}, threads {threads}"),
                program: Some((number, threads)),
                run: Box::new({
                    let (path, folder) = (&corpus.path, folder.path());
                    move || replay(path, folder, flags, threads)
                }),
                took: Vec::new(),
            });
        }
    }
    // Once for the page cache.
    read_through(&corpus, |block| _ = black_box(block));
    for _ in 0..arguments.runs {
        for runner in &mut runners {
            let took = (runner.run)();
            if runner.program.is_some() {
                check(&runner.name, &took, lines);
            }
            runner.took.push(took);
        }
    }
    println!(
        "\n### {}\n\n{} lines, {} MB of text, runs: {}\n",
        course.title,
        grouped(lines),
        mb(corpus.bytes),
        arguments.runs
    );
    print_table(&runners, &corpus);
    print_state(course, &runners, folder.path());
}

/// A run counts only if it read every line and says so.
fn check(name: &str, took: &Took, lines: u64) {
    assert!(matches!(took.code, Some(0 | 1)), "{name}: exit {:?}: {}", took.code, took.said);
    let read = &took.summary()["lines"]["total"];
    assert!(*read == lines, "{name}: {read} of {lines} lines were read");
}

fn replay(path: &Path, folder: &Path, flags: &[&str], threads: u16) -> Took {
    let mut command = portcullis(folder);
    command.arg("replay").arg(path).args(flags);
    command.args(["--quiet", "--summary", "json", "--threads", &threads.to_string()]);
    measure::run(&mut command)
}

fn floors<'a>(course: &Course, corpus: &'a Corpus, ripgrep: bool) -> Vec<Runner<'a>> {
    let mut floors = Vec::new();
    let mut floor = |name: &str, run: Box<dyn Fn() -> Took + 'a>| {
        floors.push(Runner { name: name.to_owned(), program: None, run, took: Vec::new() });
    };
    if let Some(packing) = course.packing {
        floor(
            "decompress",
            Box::new(move || {
                timed(|| {
                    let file = File::open(&corpus.path).expect("the file is there");
                    let mut content = packing.unpacked(file).expect("the file is sound");
                    let mut block = vec![0; BLOCK];
                    while content.read(&mut block).expect("the file is sound") > 0 {
                        black_box(&block);
                    }
                })
            }),
        );
        return floors;
    }
    floor("read", Box::new(|| timed(|| read_through(corpus, |block| _ = black_box(block)))));
    floor(
        "newline",
        Box::new(|| {
            timed(|| {
                let mut count = 0;
                read_through(corpus, |block| count += memchr::memchr_iter(b'\n', block).count());
                assert_eq!(count as u64, corpus.lines);
            })
        }),
    );
    floor(
        "literal",
        Box::new(|| {
            timed(|| {
                let finder = memchr::memmem::Finder::new("FAILED_LOGIN");
                let mut count = 0;
                read_lines(corpus, |whole| count += finder.find_iter(whole).count());
                black_box(count);
            })
        }),
    );
    if ripgrep {
        floor(
            "rg -c",
            Box::new(|| {
                measure::run(Command::new("rg").args(["-c", "FAILED_LOGIN"]).arg(&corpus.path))
            }),
        );
    }
    if course.parsed {
        floor(
            "json: serde_json, IgnoredAny",
            Box::new(|| {
                parse(corpus, |line| {
                    black_box(
                        serde_json::from_slice::<IgnoredAny>(line).expect("the line is JSON"),
                    );
                })
            }),
        );
        floor(
            "json: serde_json, Value",
            Box::new(|| {
                parse(corpus, |line| {
                    black_box(serde_json::from_slice::<Value>(line).expect("the line is JSON"));
                })
            }),
        );
        floor(
            "json: the program's reader",
            Box::new(|| {
                parse(corpus, |line| {
                    let text = std::str::from_utf8(line).expect("the line is UTF-8");
                    black_box(portcullis::decode::json::read(text).expect("the line is JSON"));
                })
            }),
        );
    }
    floors
}

fn timed(work: impl FnOnce()) -> Took {
    let (started, worked) = (Instant::now(), measure::thread_time());
    work();
    let wall_s = started.elapsed().as_secs_f64();
    Took { wall_s, cpu_s: measure::thread_time() - worked, ..Took::default() }
}

fn parse(corpus: &Corpus, read: impl Fn(&[u8])) -> Took {
    timed(|| {
        read_lines(corpus, |whole| {
            let mut from = 0;
            for end in memchr::memchr_iter(b'\n', whole) {
                read(&whole[from..end]);
                from = end + 1;
            }
        });
    })
}

/// Every block, wherever it ends.
fn read_through(corpus: &Corpus, mut each: impl FnMut(&[u8])) {
    let mut file = File::open(&corpus.path).expect("the file is there");
    let mut block = vec![0; BLOCK];
    loop {
        let got = file.read(&mut block).expect("the file can be read");
        if got == 0 {
            return;
        }
        each(&block[..got]);
    }
}

/// Every block, cut after its last newline; the rest is carried over to the next.
fn read_lines(corpus: &Corpus, mut each: impl FnMut(&[u8])) {
    let mut file = File::open(&corpus.path).expect("the file is there");
    let mut block = vec![0; BLOCK];
    let mut held = 0;
    loop {
        let got = file.read(&mut block[held..]).expect("the file can be read");
        if got == 0 {
            assert_eq!(held, 0, "the last line has its newline");
            return;
        }
        let end = held + got;
        let cut = memchr::memrchr(b'\n', &block[..end]).map_or(0, |at| at + 1);
        each(&block[..cut]);
        block.copy_within(cut..end, 0);
        held = end - cut;
    }
}

fn print_table(runners: &[Runner<'_>], corpus: &Corpus) {
    let shown: Vec<(&str, f64)> = [
        ("decompress", "decompress"),
        ("newline", "newline"),
        ("literal", "literal"),
        ("rg -c", "rg"),
        ("json: serde_json, IgnoredAny", "json"),
    ]
    .into_iter()
    .filter_map(|(name, short)| {
        runners.iter().find(|runner| runner.name == name).map(|floor| (short, floor.wall_s()))
    })
    .collect();
    let mut head: Vec<String> =
        ["what", "wall s", "min to max", "MB/s", "lines/s", "CPU s", "peak MB"]
            .map(String::from)
            .into();
    head.extend(shown.iter().map(|(short, _)| format!("/ {short}")));
    let mut table = Table::new(&head.iter().map(String::as_str).collect::<Vec<_>>());
    for runner in runners {
        let wall_s = runner.wall_s();
        let walls: Vec<f64> = runner.took.iter().map(|took| took.wall_s).collect();
        let (least, most) = (measure::quantile(&walls, 0.0), measure::quantile(&walls, 1.0));
        let cpu_s = median(&runner.took.iter().map(|took| took.cpu_s).collect::<Vec<_>>());
        let peak = peak(runner);
        let mut row = vec![
            runner.name.clone(),
            format!("{wall_s:.2}"),
            format!("{least:.2} to {most:.2}"),
            format!("{:.0}", corpus.bytes as f64 / 1e6 / wall_s),
            grouped((corpus.lines as f64 / wall_s) as u64),
            format!("{cpu_s:.2}"),
            if peak > 0 { mb(peak) } else { String::new() },
        ];
        row.extend(shown.iter().map(|(_, floor_s)| format!("{:.2}", wall_s / floor_s)));
        table.row(row);
    }
    table.print();
}

fn peak(runner: &Runner<'_>) -> u64 {
    runner.took.iter().map(|took| took.peak).max().unwrap_or(0)
}

/// What the table has no column for: how two threads help, what a key costs, what came out.
fn print_state(course: &Course, runners: &[Runner<'_>], folder: &Path) {
    println!();
    for (number, (rules, flags)) in course.rules.iter().enumerate() {
        let of: Vec<(u16, &Runner<'_>)> = runners
            .iter()
            .filter_map(|r| r.program.filter(|p| p.0 == number).map(|p| (p.1, r)))
            .collect();
        let Some((threads, first)) = of.first() else { continue };
        for (more, runner) in &of[1..] {
            let ratio = first.wall_s() / runner.wall_s();
            println!("* {rules}: {more} threads against {threads}: {ratio:.2}x");
        }
        let summary = first.took[0].summary();
        let count = |key: &str| summary[key].as_u64().unwrap_or(0);
        let keys = count("keys_held").max(1);
        let nothing = empty_peak(folder, flags, *threads);
        println!(
            "* {rules}, threads {threads}: {} keys held, {} evicted; {} bytes per key of memory ({} MB \
             peak without the {} MB that an empty input takes), {} counted in state_bytes",
            grouped(count("keys_held")),
            grouped(count("keys_evicted")),
            grouped(peak(first).saturating_sub(nothing) / keys),
            mb(peak(first)),
            mb(nothing),
            grouped(count("state_bytes") / keys)
        );
        let total = |key: &str| {
            let rules = summary["actions"].as_object().into_iter().flat_map(|rules| rules.values());
            grouped(rules.filter_map(|ops| ops[key].as_u64()).sum())
        };
        println!(
            "* {rules}: {} of {} lines matched; actions: {} start, {} extend, {} withheld, {} end",
            grouped(summary["lines"]["matched"].as_u64().unwrap_or(0)),
            grouped(summary["lines"]["total"].as_u64().unwrap_or(0)),
            total("start"),
            total("extend"),
            total("withheld"),
            total("end")
        );
    }
}

fn empty_peak(folder: &Path, flags: &[&str], threads: u16) -> u64 {
    let path = folder.join("empty.jsonl");
    File::create(&path).expect("a file can be made");
    (0..EMPTY_RUNS).map(|_| replay(&path, folder, flags, threads).peak).max().unwrap_or(0)
}
