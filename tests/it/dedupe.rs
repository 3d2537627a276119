//! Records that come again are counted once: what a loop around `railway logs` prints, in any order of
//! keys, also after a restart; and nothing else is taken for a repetition.

use crate::service::Dice;
use crate::support::{failed_logins, piped, run_in, stderr, stdout};
use portcullis::decode::time::format;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use tempfile::TempDir;

const ADDRESS: &str = "203.0.113.9";

/// The `n`th failed login as Railway's command line prints it, its keys in some order.
fn railway(n: usize, dice: &mut Dice) -> String {
    let time = format(1_754_260_200_000_000 + i64::try_from(n).unwrap() * 7_000_001);
    let mut fields = [
        format!(
            r#""message":"FAILED_LOGIN: email=user{n}@example.org, ip={ADDRESS}, reason=bad \"pw\"""#
        ),
        format!(r#""timestamp":"{time}""#),
        r#""level":"warn""#.to_owned(),
        r#""logger":"security""#.to_owned(),
        format!(r#""request_id":{n}"#),
    ];
    for last in (1..fields.len()).rev() {
        fields.swap(last, dice.below(last + 1));
    }
    format!("{{{}}}\n", fields.join(","))
}

/// `range` of them.
fn window(range: std::ops::Range<usize>, dice: &mut Dice) -> String {
    range.map(|n| railway(n, dice)).collect()
}

/// Runs `args` on `input`; the blocks and the summary.
fn told(folder: &Path, args: &[&str], input: &str) -> (Vec<Value>, Value) {
    let summary = folder.join("summary.json");
    let file = summary.display().to_string();
    let all = [args, &["--summary", "json", "--summary-file", &file]].concat();
    let output = run_in(folder, &all, input.as_bytes());
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", stderr(&output));
    let lines = stdout(&output);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // What enforces; other rules have windows of their own.
    let blocks = lines.filter(|line| line["rule"] == "ip-blocking").collect();
    (blocks, serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap())
}

fn folder(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    folder
}

#[test]
fn a_loop_around_railway_logs_counts_every_failure_once() {
    let mut dice = Dice(1);
    // Each round prints the last lines again, as far as the command goes back.
    let rounds = [0..12, 4..20, 4..20];
    let mut input: String = rounds.into_iter().map(|lines| window(lines, &mut dice)).collect();
    let quiet = folder("");
    for args in [&["run"][..], &["replay", "-"], &["replay", "-", "--threads", "4"]] {
        let (blocks, summary) = told(quiet.path(), args, &input);
        assert!(blocks.is_empty(), "twenty are not more than twenty: {blocks:?}");
        assert_eq!(
            (&summary["lines"]["matched"], &summary["lines"]["repeated"]),
            (&20.into(), &24.into())
        );
        assert_eq!(summary["records"]["repeated"], 24);
    }
    input += &window(10..21, &mut dice);
    input += &window(0..21, &mut dice);
    let one = told(quiet.path(), &["run"], &input);
    let [block] = &one.0[..] else { panic!("{:?}", one.0) };
    assert_eq!((&block["count"], &block["op"]), (&21.into(), &"start".into()));
    let mut other = told(quiet.path(), &["replay", "-", "--threads", "3"], &input);
    assert_eq!(one.0, other.0, "live as replayed");
    for summary in [&one.1, &other.1] {
        assert_eq!(summary["lines"]["repeated"], 24 + 10 + 21);
    }
    // An application's own lines have no reason to come twice.
    let own = failed_logins(20, 1, ADDRESS);
    let twice = format!("{own}{}", own.lines().last().unwrap());
    other = told(quiet.path(), &["run"], &twice);
    assert_eq!((other.0.len(), &other.1["lines"]["repeated"]), (1, &0.into()));
}

/// What a container's runtime has wrapped was not printed by Railway, and each is another line.
#[test]
fn equal_records_of_containers_are_no_repetitions() {
    let record = format!(
        r#"{{\"level\":\"warn\",\"message\":\"FAILED_LOGIN: email=a@b.c, ip={ADDRESS}, reason=bad\",\"timestamp\":\"2025-08-03 22:00:00\"}}"#
    );
    let docker: String = (0..25)
        .map(|i| format!("{{\"log\":\"{record}\\n\",\"stream\":\"stdout\",\"time\":\"2025-08-03T22:00:00.{i:06}Z\"}}\n"))
        .collect();
    let plain = record.replace('\\', "");
    let cri: String =
        (0..25).map(|i| format!("2025-08-03T22:00:00.{i:06}Z stdout F {plain}\n")).collect();
    let folder = folder("");
    for (text, repeated, blocks) in
        [(docker, 0, 1), (cri, 0, 1), ((plain + "\n").repeat(25), 24, 0)]
    {
        let (told, summary) = told(folder.path(), &["replay", "-"], &text);
        assert_eq!(summary["lines"]["repeated"], repeated, "{text}");
        assert_eq!(told.len(), blocks, "{text}");
    }
}

#[test]
fn what_is_compared_can_be_chosen() {
    let own = failed_logins(20, 1, ADDRESS);
    let twice = format!("{own}{}", own.lines().last().unwrap());
    for written in ["dedupe: 10m", "source: { stdin: { dedupe: 10m } }"] {
        let all = folder(written);
        let (blocks, summary) = told(all.path(), &["run"], &twice);
        assert_eq!((blocks.len(), &summary["lines"]["repeated"]), (0, &1.into()), "{written}");
    }
    let mut dice = Dice(2);
    let input = window(0..20, &mut dice) + &railway(19, &mut dice);
    let none = folder("dedupe: off");
    let (blocks, summary) = told(none.path(), &["run"], &input);
    assert_eq!((blocks.len(), &summary["lines"]["repeated"]), (1, &0.into()));
    let wrong = folder("dedupe: sometimes");
    let output = run_in(wrong.path(), &["run"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`dedupe`"), "{}", stderr(&output));
}

#[test]
fn a_restart_and_a_kill_forget_nothing() {
    let mut dice = Dice(3);
    let house = folder("state_dir: ./state\npatterns: [velro, ./own.yaml]\n");
    let own = "pack: own\nrules:\n  - { id: seen, title: t, on: RATE_LIMIT_VIOLATION, per: ip, when: count >= 1 within 1m, then: alert for 1m }\n";
    fs::write(house.path().join("own.yaml"), own).unwrap();
    let (blocks, _) = told(house.path(), &["run"], &window(0..12, &mut dice));
    assert!(blocks.is_empty());

    // Killed, when a line that came behind them was told: everything before it lasts.
    let mut child = piped(house.path(), &["run", "-q"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(window(6..20, &mut dice).as_bytes()).unwrap();
    let time = format(1_754_260_200_000_000 + 21 * 7_000_000);
    let sign = format!(
        r#"{{"timestamp":"{time}","logger":"security","message":"RATE_LIMIT_VIOLATION: ip=198.51.100.1, endpoint=/"}}"#
    );
    writeln!(stdin, "{sign}").unwrap();
    let mut told_line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut told_line).unwrap();
    assert!(told_line.contains("\"seen\""), "{told_line}");
    child.kill().unwrap();
    child.wait().unwrap();

    let (blocks, summary) = told(house.path(), &["run"], &window(0..20, &mut dice));
    assert!(blocks.is_empty(), "{blocks:?}");
    assert_eq!(summary["lines"]["repeated"], 20);
    let (blocks, summary) = told(house.path(), &["run"], &window(0..21, &mut dice));
    assert_eq!((blocks.len(), &blocks[0]["count"]), (1, &21.into()));
    assert_eq!(
        (&summary["lines"]["repeated"], &summary["lines"]["matched"]),
        (&20.into(), &1.into())
    );
}

#[test]
fn old_lines_that_come_again_do_not_set_the_clock_back() {
    let mut dice = Dice(4);
    // A minute's work long ago, then an hour of silence, then a few lines: the command's last lines.
    let early: Vec<String> = (0..60).map(|n| railway(n, &mut dice)).collect();
    let late: Vec<String> = (0..5).map(|n| railway(1_000 + n, &mut dice)).collect();
    let round = early.concat() + &late.concat();
    let (blocks, summary) = told(folder("").path(), &["run"], &round.repeat(4));
    let starts = blocks.iter().filter(|block| block["op"] == "start").count();
    assert_eq!(starts, 1, "{blocks:?}");
    let lines = &summary["lines"];
    assert_eq!(
        (&lines["matched"], &lines["late"], &lines["repeated"]),
        (&65.into(), &0.into(), &195.into())
    );
    assert_eq!(summary["actions"].get("clock"), None, "{summary}");
}

#[test]
fn more_than_can_be_remembered_is_said() {
    let mut dice = Dice(5);
    let many: String = (0..10_050).map(|n| railway(n, &mut dice)).collect();
    let house = folder("memory_limit: 16MiB\ndedupe: 365d\nrules: { ip-blocking: off }\n");
    let (_, summary) = told(house.path(), &["replay", "-"], &many);
    // Before the third there was no clock: those are forgotten first, as if they were old.
    assert_eq!(summary["limits"]["dedupe"], 47, "{summary}");
    let (_, summary) = told(folder("memory_limit: 16MiB\n").path(), &["replay", "-"], &many);
    assert_eq!(summary["limits"].get("dedupe"), None, "they are older than ten minutes");
}

#[test]
fn records_without_a_time_are_never_repetitions() {
    let line = format!(
        r#"{{"_metadata":{{"deploymentId":"d"}},"message":"FAILED_LOGIN: email=a@b.c, ip={ADDRESS}, reason=x","severity":"warn"}}"#
    );
    for config in ["", "dedupe: 10m"] {
        let (blocks, summary) =
            told(folder(config).path(), &["run"], &format!("{line}\n").repeat(21));
        assert_eq!((blocks.len(), &summary["lines"]["repeated"]), (1, &0.into()), "{config}");
    }
}

#[test]
fn where_a_place_is_known_the_place_tells_what_comes_again() {
    // An application may write the same words twice at the same time.
    let mut dice = Dice(6);
    let input = window(0..20, &mut dice) + &railway(19, &mut dice);
    let house = folder("");
    fs::write(house.path().join("log.jsonl"), &input).unwrap();
    let mut child = piped(house.path(), &["run", "--follow", "log.jsonl"]);
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    while !line.contains("\"ip-blocking\"") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "no block");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
