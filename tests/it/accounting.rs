//! Every line and every record has exactly one outcome, and no number depends on how the bytes
//! were cut or on how many threads read them.

use crate::support::{failed_logins, root};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::engine::summary::Summary;
use portcullis::pipeline::{self, Progress, Stop, Ways};
use portcullis::sink::{Output, Sink, file::FileSink};
use portcullis::source::file::Input;
use portcullis::source::lines::split_lines;
use proptest::prelude::*;
use std::path::Path;
use std::sync::OnceLock;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// Longest line in these tests: short, so that lines are cut often.
const MAX_LINE: usize = 700;

struct Quiet;

impl Progress for Quiet {
    fn show(&mut self, _: u64, _: u64, _: u64) {}
    fn visible(&self) -> bool {
        false
    }
    fn aside(&mut self, work: &mut dyn FnMut()) {
        work();
    }
}

fn settings() -> Settings {
    Settings { max_line: MAX_LINE, ..Settings::default() }
}

/// Replays `input`; the action lines and the summary without its speed.
pub fn replay(
    assembly: &Assembly,
    settings: &Settings,
    folder: &Path,
    inputs: Vec<Input>,
) -> (String, Summary) {
    let out = folder.join("actions.jsonl");
    let _absent = std::fs::remove_file(&out);
    let sink = Sink::File(FileSink::open(out.to_str().unwrap(), Output::Json).unwrap());
    let stop = Stop::default();
    let ended = pipeline::replay(
        assembly,
        settings,
        inputs,
        Ways { sinks: vec![sink], ..Ways::default() },
        &stop,
        &mut Quiet,
    )
    .unwrap();
    let mut summary = ended.summary;
    summary.finish(0.0, 0.0);
    (std::fs::read_to_string(out).unwrap(), summary)
}

fn login(second: i64, ip: &str, user: &str) -> String {
    let time = portcullis::decode::time::format(1_754_260_200_000_000 + second * 1_000_000);
    format!(
        r#"{{"timestamp":"{time}","logger":"security","message":"FAILED_LOGIN: email={user}, ip={ip}, reason=bad"}}"#
    )
}

/// Lines of every kind, well-formed or not, without a newline in them.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let second = prop_oneof![
        8 => 0i64..900,
        1 => Just(-90_000i64),
        1 => Just(400_000_000i64),
        1 => -200i64..0,
    ];
    let valid = (second, 0u8..3, 0u8..4)
        .prop_map(|(s, ip, user)| login(s, &format!("203.0.113.{ip}"), &format!("u{user}@x.y")));
    let text = prop::sample::select(vec![
        "",
        " ",
        "\r",
        "\u{feff}",
        "\0\0",
        "\u{1b}[0m",
        "{",
        "[",
        "{}",
        "[{}]",
        "[[{\"a\":",
        "{\"a\":\"\\",
        "plain text",
        "FAILED_LOGIN: email=a, ip=203.0.113.7, reason=b",
        "FAILED_LOGIN: drifted",
        "2025-08-03T22:30:05.1Z stdout P FAILED_LOGIN: email=a,",
        "2025-08-03T22:30:05.1Z stdout F  ip=203.0.113.7, reason=b",
        "2025-08-03T22:30:05.1Z stderr P {\"message\":\"FAILED",
        "2025-08-03T22:30:05.1Z stderr F ",
        "2025-08-03T22:30:05.1Z stdout F \u{1b}[0m",
        "2025-08-03T22:30:05.1Z stdout F",
        "{\"log\":\"FAILED_LOGIN: email=a, ip=203.0.113.7, reason=b\\n\",\"stream\":\"stdout\",\"time\":\"2025-08-03T22:30:09Z\"}",
        "{\"log\":\"{\\\"message\\\":\\\"FAILED_LOGIN: email=a,\",\"stream\":\"stdout\",\"time\":\"2025-08-03T22:30:09Z\"}",
        "{\"log\":\" ip=203.0.113.7, reason=b\\\"}\\n\",\"stream\":\"stdout\",\"time\":\"2025-08-03T22:30:09Z\"}",
        "{\"log\":\"\\u0000\\n\",\"stream\":\"stdout\"}",
        "{\"logger\":\"app\",\"level\":\"ERROR\",\"message\":\"x\"}",
        "{\"logger\":\"app\",\"level\":50,\"msg\":\"x\",\"time\":1754260300000}",
        "{\"path\":\"/health\",\"httpStatus\":503,\"timestamp\":\"2025-08-03T22:35:00Z\"}",
    ])
    .prop_map(|s| s.as_bytes().to_vec());
    let valid = valid.prop_map(String::into_bytes).boxed();
    let several = prop::collection::vec(valid.clone(), 1..5)
        .prop_map(|lines| [b"[", lines.join(&b","[..]).as_slice(), b"]"].concat());
    let cut = (valid.clone(), any::<prop::sample::Index>())
        .prop_map(|(line, at)| line[..at.index(line.len())].to_vec());
    let mutated =
        (valid.clone(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4))
            .prop_map(|(mut line, changes)| {
                for (at, byte) in changes {
                    let at = at.index(line.len());
                    line[at] = byte;
                }
                line
            });
    let long = (valid.clone(), 0usize..2000).prop_map(|(line, n)| {
        [b"[", line.as_slice(), b",{\"a\":\"", "x".repeat(n).as_bytes(), b"\"}]"].concat()
    });
    prop_oneof![
        8 => valid,
        6 => text,
        2 => several,
        2 => cut,
        2 => mutated,
        2 => long,
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
    .prop_map(|line| line.into_iter().map(|b| if b == b'\n' { b' ' } else { b }).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_equations_close_however_the_bytes_arrive(
        lines in prop::collection::vec(line(), 0..120),
        ended in any::<bool>(),
        blocks in (1usize..40, 40usize..3000),
    ) {
        static ASSEMBLY: OnceLock<Assembly> = OnceLock::new();
        let assembly = ASSEMBLY.get_or_init(|| Assembly::new(&settings(), &[]).unwrap());
        let mut bytes = lines.join(&b'\n');
        if ended {
            bytes.push(b'\n');
        }
        let expected = split_lines(&bytes).count();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.log");
        std::fs::write(&path, &bytes).unwrap();
        let mut first: Option<(String, Summary)> = None;
        for threads in [1, 2, 7] {
            for block in [blocks.0, blocks.1, 1 << 18] {
                let settings = Settings { threads, block, ..settings() };
                let (actions, summary) =
                    replay(assembly, &settings, folder.path(), vec![Input::File(path.clone())]);
                prop_assert!(summary.lines.closed(), "{:?}", summary.lines);
                prop_assert!(summary.records.closed(), "{:?}", summary.records);
                prop_assert_eq!(summary.lines.total, expected as u64);
                let parts = summary.lines.parts().iter().chain(&summary.records.parts()).map(|p| p.1).max();
                prop_assert!(parts.unwrap() < 10_000, "a counter went below zero");
                let unread: u64 = summary.unreadable.values().sum();
                prop_assert!(unread >= summary.lines.unreadable);
                match &first {
                    None => first = Some((actions, summary)),
                    Some((a, s)) => {
                        prop_assert_eq!(&actions, a, "{} threads, block {}", threads, block);
                        prop_assert_eq!(&summary, s, "{} threads, block {}", threads, block);
                    }
                }
            }
        }
    }
}

/// An empty last piece adds nothing to its line, but it is a line.
#[test]
fn a_piece_that_ends_with_nothing_is_joined() {
    let assembly = Assembly::new(&settings(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    let first = "2025-08-03T22:30:05.1Z stdout P FAILED_LOGIN: email=a, ip=203.0.113.7, reason=b";
    std::fs::write(&path, format!("{first}\n2025-08-03T22:30:05.1Z stdout F \u{1b}[0m\n")).unwrap();
    let (_, summary) =
        replay(&assembly, &settings(), folder.path(), vec![Input::File(path.clone())]);
    assert_eq!((summary.lines.total, summary.lines.joined), (2, 2));
    assert_eq!(summary.records.matched, 1);
    // A line of pieces is a line: longer than max_line, its beginning counts.
    let long = "x".repeat(600);
    let text = format!("{first}{long}\n2025-08-03T22:30:05.1Z stdout F {long}\n");
    std::fs::write(&path, text).unwrap();
    let (actions, summary) = replay(&assembly, &settings(), folder.path(), vec![Input::File(path)]);
    assert_eq!((summary.lines.oversized, summary.lines.joined), (1, 1));
    assert_eq!(summary.records.matched, 1);
    assert!(actions.contains(r#""rule":"limit""#), "{actions}");
}

/// Of a piece longer than `max_line` the end is gone: what a client wrote further on in the line must not come to
/// stand behind its beginning.
#[test]
fn nothing_is_put_behind_a_piece_that_was_cut() {
    let settings = Settings { max_line: 1024, ..Settings::default() };
    let assembly = Assembly::new(&settings, &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    let text: String = (0..25)
        .map(|second| {
            let time = format!("2025-08-03T22:30:{second:02}Z");
            let blanks = " ".repeat(2000);
            format!(
                "{time} stderr P {{\"timestamp\":\"{time}\",\"logger\":\"security\",\"message\":\"FAILED_LOGIN: \
                 email=victim@example.org{blanks}, ip=198.51.100.9, reason=no\",\"user_agent\":\"x\n\
                 {time} stderr F , ip=203.0.113.77, reason=b\"}}\n"
            )
        })
        .collect();
    std::fs::write(&path, text).unwrap();
    let (actions, summary) = replay(&assembly, &settings, folder.path(), vec![Input::File(path)]);
    assert!(!actions.contains("203.0.113.77") && !actions.contains("victim"), "{actions}");
    assert_eq!((summary.lines.oversized, summary.lines.joined), (25, 25));
}

/// Before the stream has a time there is none to say it with, and none that every run would have.
#[test]
fn a_line_that_is_too_long_is_told_of_with_the_first_time_of_the_stream() {
    let assembly = Assembly::new(&settings(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    let long = "x".repeat(MAX_LINE + 1) + "\n";
    let told = |text: String| {
        std::fs::write(&path, text).unwrap();
        let inputs = vec![Input::File(path.clone())];
        let (actions, summary) = replay(&assembly, &settings(), folder.path(), inputs);
        let notes = actions.lines().filter(|line| line.contains(r#""rule":"limit""#));
        let notes: Vec<String> =
            notes.map(|line| line.split(',').nth(2).unwrap().to_owned()).collect();
        (notes, summary.limits["max_line"])
    };
    let first = r#""time":"2025-08-03T22:30:05.000000Z""#.to_owned();
    let record = |second| login(second, "203.0.113.7", "u") + "\n";
    let notes = told(format!("{long}{long}{}{}", record(5), record(6)));
    assert_eq!(notes, (vec![first.clone()], 2));
    assert_eq!(told(format!("{}{long}", record(5))), (vec![first], 1));
    // A limit is told of in any case.
    assert_eq!(told(long).0.len(), 1);
}

/// Alternating pieces and ends in one block cost no more than their length.
#[test]
fn many_joined_lines_in_one_block_are_all_counted() {
    let assembly = Assembly::new(&Settings::default(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    let pair = "2025-08-03T22:30:05.1Z stdout P FAILED_LOGIN: email=a, ip=203.0.\n2025-08-03T22:30:05.1Z stdout F 113.7, reason=b\n";
    std::fs::write(&path, pair.repeat(20_000)).unwrap();
    let settings = Settings { threads: 1, block: 1 << 22, ..Settings::default() };
    let (_, summary) = replay(&assembly, &settings, folder.path(), vec![Input::File(path)]);
    assert_eq!((summary.lines.joined, summary.records.matched), (40_000, 20_000));
}

#[test]
fn the_seeds_of_the_fuzzer_pass() {
    for (name, target) in targets::TARGETS {
        let folder = root().join("fuzz/seeds").join(name);
        let mut seeds: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            target(&std::fs::read(&seed).unwrap());
        }
    }
    for line in failed_logins(3, 1, "203.0.113.7").lines() {
        targets::events(line.as_bytes());
    }
}

/// Of a source, pieces of so many streams wait for their rest at the same time.
const STREAMS: usize = 64;

#[test]
fn of_too_many_streams_the_one_that_waits_longest_is_given_up() {
    let login = |ip: &str| failed_logins(1, 0, ip);
    let piece = |stream: usize, text: &str, end: &str| {
        let log = text.trim_end().to_owned() + end;
        serde_json::json!({"log": log, "stream": format!("s{stream}"), "time": "2025-08-03T22:30:00Z"})
            .to_string()
            + "\n"
    };
    let halves: Vec<(String, String)> = (0..=STREAMS)
        .map(|stream| {
            let line = login(&format!("203.0.113.{}", stream + 1));
            let (head, tail) = line.split_at(60);
            (head.to_owned(), tail.to_owned())
        })
        .collect();
    let mut input = String::new();
    for (stream, (head, _)) in halves.iter().enumerate() {
        input += &piece(stream, head, "");
    }
    // The first waited longest: the rest of all others comes.
    for (stream, (_, tail)) in halves.iter().enumerate().skip(1) {
        input += &piece(stream, tail, "\n");
    }
    let assembly = Assembly::new(&settings(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    std::fs::write(&path, input).unwrap();
    let (_, summary) = replay(&assembly, &settings(), folder.path(), vec![Input::File(path)]);
    let streams = u64::try_from(STREAMS).unwrap();
    assert_eq!((summary.lines.joined, summary.records.matched), (2 * streams, streams));
    assert_eq!((summary.lines.unreadable, summary.lines.total), (1, 2 * streams + 1));
}
