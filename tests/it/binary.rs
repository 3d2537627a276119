//! The program as users run it: exit codes, messages, signals, environment, pipes, terminals.

use crate::support::{binary, failed_logins, piped, portcullis, root, run, run_in, stderr, stdout};
use portcullis::config::{EXAMPLE, KEYS, Settings, SourceSpec};
use portcullis::yaml::{Checker, Document};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// A line in gives its action within 10 ms; this much noise of a busy machine is let pass.
const LATENCY_MAX: Duration = Duration::from_millis(500);

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("killed: {:?} {}", output.status, stderr(output)))
}

fn attack() -> String {
    failed_logins(21, 170, "203.0.113.7")
}

fn write(folder: &TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Waits for the end, at most until the deadline.
fn wait(mut child: Child) -> Output {
    let until = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it does not end: {}", stderr(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn shell(folder: &Path, script: &str) -> Output {
    Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .env("P", binary())
        .env("NO_COLOR", "1")
        .env_remove("PORTCULLIS_CONFIG")
        .output()
        .unwrap()
}

/// A run that cannot start: exit code 2, nothing on standard output, and each of `said` on stderr.
fn refused(folder: &TempDir, args: &[&str], said: &[&str]) -> String {
    let output = run_in(folder.path(), args, b"");
    let text = stderr(&output);
    assert_eq!(code(&output), 2, "{args:?}: {text}");
    assert_eq!(stdout(&output), "", "{args:?}");
    for said in said {
        assert!(text.contains(said), "{args:?} does not say `{said}`:\n{text}");
    }
    assert!(!text.contains("os error"), "{args:?} speaks in numbers:\n{text}");
    text
}

#[test]
fn clean_input_is_exit_0_and_unclean_input_exit_1() {
    assert_eq!(code(&run(&["replay", "-"], attack().as_bytes())), 0);
    assert_eq!(code(&run(&["run"], attack().as_bytes())), 0);
    assert_eq!(code(&run(&["run"], b"")), 0);
    // Unreadable: a candidate that is cut.
    let cut = br#"{"logger":"security","message":"FAILED_LOGIN: email=a"#;
    let output = run(&["replay", "-"], cut);
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    // Late by an hour.
    let late = attack() + &failed_logins(1, 1, "203.0.113.9");
    let output = run(&["replay", "-", "--summary", "json", "--quiet"], late.as_bytes());
    assert_eq!(code(&output), 1);
    assert_eq!(json(&stderr(&output))["lines"]["late"], 1);
    // Oversized.
    let folder = folder();
    let config = write(&folder, "c.yaml", "max_line: 256\n");
    let long = format!("{{\"message\":\"{}\"}}\n", "x".repeat(300));
    let output = run(&["replay", "-", "--config", &config], long.as_bytes());
    assert_eq!(code(&output), 1, "{}", stderr(&output));
}

#[test]
fn what_cannot_start_is_exit_2_and_says_what_would_help() {
    let folder = folder();
    fs::create_dir(folder.path().join("empty")).unwrap();
    write(&folder, "access.jsonl", attack());
    write(&folder, "bad.yaml", "lateness: [60s\n");
    write(&folder, "key.yaml", "threads: 2\nlatenes: 60s\n");
    write(&folder, "rule.yaml", "rules:\n  ip-blocking: { when: count > many within 1h }\n");
    write(&folder, "geo.yaml", "geoip: ./contry.mmdb\n");
    write(&folder, "country.mmdb", "");
    write(&folder, "geo2.yaml", "geoip: country.mmdb\n");
    write(&folder, "sink.yaml", "sinks: [{ file: { path: no/where.jsonl } }]\n");
    let refused = |args: &[&str], said: &[&str]| refused(&folder, args, said);
    refused(
        &["replay", "acess.jsonl"],
        &["acess.jsonl: there is no such file; did you mean `access.jsonl`?"],
    );
    refused(&["replay", "nowhere/a.jsonl"], &["no folder `nowhere` either"]);
    refused(&["replay", "*.gz"], &["`*.gz` matches no file"]);
    refused(&["replay", "empty"], &["empty: the folder holds no files"]);
    refused(&["run", "--config", "bad.yaml"], &["--> bad.yaml:1:", "no valid YAML"]);
    refused(
        &["run", "--config", "key.yaml"],
        &[
            "no key `latenes`",
            "--> key.yaml:2:1",
            "2 | latenes\n  | ^^^^^^^",
            "did you mean `lateness`?",
        ],
    );
    refused(
        &["run", "--config", "rule.yaml"],
        &["--> rule.yaml:2:32", "  |                                ^^^^", "whole number"],
    );
    refused(&["run", "--config", "keys.yaml"], &["--config", "did you mean `key.yaml`?"]);
    refused(&["run", "--config", "."], &[".: is a folder, expected a file"]);
    let geo = "1 | geoip: ./contry.mmdb\n  |        ^^^^^^^^^^^^^";
    refused(&["run", "--config", "geo.yaml"], &["`geoip`", "did you mean `./country.mmdb`?", geo]);
    refused(&["run", "--config", "geo2.yaml"], &["`geoip`", "country.mmdb", ".mmdb format"]);
    refused(&["run", "--config", "sink.yaml"], &["sink file no/where.jsonl"]);
    refused(&["replay", "--sumary", "json", "-"], &["--sumary", "--summary"]);
    refused(&["repaly"], &["replay"]);
    refused(&["run", "--pack", "velo"], &["velo", "velro, guard, sshd"]);
    refused(&["run", "--patterns", "velo"], &["did you mean the built-in pack `velro`?"]);
    refused(&["run", "--threads", "0"], &["1..=64"]);
    write(&folder, "packs.yaml", "patterns: [velr, guard]\n");
    let packs = "--> packs.yaml:1:12\n  |\n1 | patterns: [velr, guard]\n  |            ^^^^\n";
    refused(&["run", "--config", "packs.yaml"], &["pack `velro`?", packs, "1 mistake in"]);
    write(&folder, "none.yaml", "patterns: []\n");
    refused(&["run", "--config", "none.yaml"], &["no pattern is loaded"]);
    refused(&["run", "--follow", "[a"], &["not a valid file pattern"]);
    refused(&["run", "--follow", ""], &["an empty name is no file"]);
    refused(&["run", "--follow", "/dev/null"], &["cannot be followed", "standard input"]);
    refused(
        &["replay", "-", "--summary-file", "no/where.json"],
        &["summary", "no/where.json", "no folder `no`"],
    );
    refused(&["config"], &["config --example"]);
    refused(&["check", "empty"], &["empty: the folder holds no .yaml or .yml file"]);
    refused(&["check", "keyy.yaml"], &["did you mean `key.yaml`?"]);
}

#[test]
fn a_decision_ends_in_time_although_lines_go_on_that_match_nothing() {
    let folder = folder();
    write(
        &folder,
        "p.yaml",
        "pack: p\npatterns:\n  X:\n    title: t\n    read: 'X {ip}'\n    tests: [{ line: 'X 203.0.113.7' }]\nrules:\n  - { id: r, title: t, on: X, per: ip, when: count >= 3 within 1m, then: block for 1s }\n",
    );
    let mut child = piped(folder.path(), &["run", "--patterns", "p.yaml", "--summary", "none"]);
    let mut stdin = child.stdin.take().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.find(|line| line.contains(r#""op":"end""#))
    });
    for i in 0..5 {
        let line = format!(
            "{{\"timestamp\":\"2025-08-03T22:30:00.{i}Z\",\"message\":\"X 203.0.113.7\"}}\n"
        );
        stdin.write_all(line.as_bytes()).unwrap();
    }
    // More often than it would look by itself.
    let until = Instant::now() + DEADLINE;
    while !reader.is_finished() {
        assert!(Instant::now() < until, "it never ends");
        stdin.write_all(b"{\"message\":\"GET /\"}\n").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(reader.join().unwrap().is_some());
    drop(stdin);
    wait(child);
}

#[test]
fn that_nobody_can_read_what_it_says_is_not_its_end() {
    let folder = folder();
    write(&folder, "in.jsonl", attack());
    for command in ["replay in.jsonl", "run < in.jsonl"] {
        let output = shell(folder.path(), &format!("\"$P\" {command} 2>/dev/full"));
        assert_eq!(code(&output), 0, "{command}");
        assert_ne!(stdout(&output), "", "{command}");
    }
}

#[test]
fn a_summary_that_cannot_be_written_at_the_end_is_exit_1() {
    let output = run(&["replay", "-", "--summary-file", "/dev/full"], attack().as_bytes());
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write the summary"), "{}", stderr(&output));
    assert_ne!(stdout(&output), "");
}

#[test]
fn what_a_rule_does_must_fit_what_it_counts() {
    let folder = folder();
    let rule = |per: &str, then: &str| {
        let rule = format!("per: {per}, when: count > 5 within 1m, then: {then}");
        let text =
            format!("pack: p\nrules:\n  - {{ id: r, title: t, on: FAILED_LOGIN, {rule} }}\n");
        write(&folder, "p.yaml", text)
    };
    for (per, then, said) in [
        ("global", "block", "a block needs `per: ip`"),
        ("ip", "lock", "a lock needs `per: user`"),
        ("global", "require_2fa", "require_2fa needs `per: user`"),
        ("ip", "under_attack for 30m", "under_attack needs `per: global`"),
        ("[ip, user]", "under_attack", "under_attack needs `per: global`"),
        ("global", "under_attac", "did you mean `under_attack`?"),
    ] {
        refused(&folder, &["check", &rule(per, then)], &[said]);
    }
    // What would do nothing, or never.
    for (keys, said) in [
        ("per: ip, when: count > 5 within 1m, then: []", "`then` names no action"),
        ("per: ip, when: count > 5 within 1m, then: [alert, alert for 2m]", "asks for alert twice"),
        ("per: [], when: count > 5 within 1m, then: alert", "write `per: global`"),
        ("per: [ip, ip], when: count > 5 within 1m, then: alert", "`per` names `ip` twice"),
        ("per: Ip, when: count > 5 within 1m, then: alert", "did you mean `ip`?"),
        ("per: ip, when: first_seen(ip), then: alert", "this never fires"),
        ("per: [ip, user], when: distinct(ip) >= 2 within 1m, then: alert", "this never fires"),
        ("per: ip, when: count > 5 within 1m, then: alert, min_events: 3", "`min_events` belongs"),
        (
            "per: ip, when: count > 5 within 1m, then: block, max_locks_per_user: 2 per 1h",
            "`max_locks_per_user` belongs to a rule that locks",
        ),
        (
            "per: ip, when: count > 5 within 1m, then: alert, once_per: ''",
            "`once_per` names no field",
        ),
    ] {
        let text =
            format!("pack: p\nrules:\n  - {{ id: r, title: t, on: FAILED_LOGIN, {keys} }}\n");
        refused(&folder, &["check", &write(&folder, "p.yaml", text)], &[said]);
    }
    let config = write(&folder, "c.yaml", "allow: [{ ip: 203.0.113.7, user: a }]\n");
    refused(&folder, &["run", "--config", &config], &["names an `ip` or a `user`, not both"]);
    let config = write(&folder, "c.yaml", "brakes: { max_under_attack_per_minute: 0 }\n");
    let said = ["`brakes.max_under_attack_per_minute` must lie between", "takes the brake away"];
    refused(&folder, &["run", "--config", &config], &said);
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let folder = folder();
    let one = write(
        &folder,
        "one.yaml",
        "lateness: soon\nthreads: 900\nbrakes: { max_blocks_per_minute: 0 }\nallow:\n  - {}\n  - { ip: foo, until: never }\n\
         source: { files: [] }\nsinks: []\nrules: { ip-blockin: off, time-anomaly: { wen: x } }\n",
    );
    let two = write(
        &folder,
        "two.yaml",
        "geoip: ./nope.mmdb\nrules: { ip-blocking: { when: count > x within 1h } }\n",
    );
    let three =
        write(&folder, "three.yaml", "source: { follow: true, from: end }\nmode: enforced\n");
    let said = [
        "`lateness`: `soon` is no duration",
        "`threads` must lie between 1 and 64",
        "`brakes.max_blocks_per_minute` must lie between",
        "`off` takes the brake away",
        "an allow entry needs `ip` or `user`",
        "`foo` is no address",
        "`never` is no time",
        "`source.files` names no file",
        "`sinks` names none",
        "did you mean `ip-blocking`?",
        "did you mean `when`?",
    ];
    let text = refused(&folder, &["run", "--config", &one], &said);
    assert!(
        text.trim_end().ends_with(
            "nothing was started or changed: 10 mistakes in the configuration or the patterns"
        ),
        "{text}"
    );
    let both: Vec<&str> = said
        .into_iter()
        .chain([
            "`geoip`",
            "whole number",
            "`source.follow` is about files",
            "did you mean `enforce`?",
        ])
        .collect();
    refused(&folder, &["check", &one, &two, &three], &both);
}

#[test]
fn check_says_for_which_patterns_every_line_is_decoded() {
    let folder = folder();
    let patterns = r#"pack: own
patterns:
  LOUD: { title: t, where: { level: [ERROR] } }
  USUAL: { title: t, where: { level: [INFO, ERROR] } }
  DENIED: { title: t, where: { status: { ">=": 401 } } }
  SAID: { title: t, read: "LOGIN denied for {user}" }
"#;
    let path = write(&folder, "own.yaml", patterns);
    let said = stdout(&run(&["check", "-v", &path], b""));
    let slow =
        "slow: every line must be decoded for it; give it literal text, or a level above info";
    for line in [
        "LOUD: fast: lines without a spelling of error are skipped".to_owned(),
        format!("USUAL: {slow}"),
        format!("DENIED: {slow}"),
        "SAID: fast: lines without LOGIN denied for are skipped".to_owned(),
    ] {
        assert!(said.lines().any(|said| said.trim() == line), "{line}\n{said}");
    }
}

#[test]
fn a_regular_expression_does_not_turn_greediness_round_itself() {
    let folder = folder();
    for (regex, refused_for) in [
        ("(?U)^F ip=(?P<ip>.*)$", true),
        ("^F (?U:ip=(?P<ip>.*))$", true),
        ("^F (?-U)ip=(?P<ip>.*)$", true),
        (r"^F \\(?U ip=(?P<ip>\\S+)[?(U]$", false),
    ] {
        let text = format!(
            "pack: p\npatterns:\n  F: {{ title: t, regex: \"{regex}\", tests: [{{ line: 'F ?U ip=1.2.3.4U' }}] }}\n"
        );
        let path = write(&folder, "p.yaml", text);
        if refused_for {
            refused(&folder, &["check", &path], &["cannot use the flag `U`"]);
        } else {
            assert!(!stderr(&run(&["check", &path], b"")).contains("flag `U`"));
        }
    }
}

#[test]
fn check_says_what_changes_nothing() {
    let folder = folder();
    let rule = "pack: p\nrules:\n  - { id: r, title: t, on: FAILED_LOGIN, per: ip, when: count > 5 within 1m, then: block for 24h, escalate: x2 up to 12h }\n";
    write(&folder, "p.yaml", rule);
    let config = "patterns: [velro, p.yaml]\nallow:\n  - { ip: 198.51.100.0/24, until: 2020-01-01T00:00:00Z }\n  - { user: a@example.org, until: 2999-01-01T00:00:00Z }\n";
    write(&folder, "portcullis.yaml", config);
    let output = run_in(folder.path(), &["check"], b"");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for (said, expected) in [
        ("warning: the allow entry 198.51.100.0/24 was for decisions before 2020", true),
        ("a@example.org was for decisions", false),
        ("warning: rule r: nothing of it is shorter than 12h", true),
    ] {
        assert_eq!(stdout(&output).contains(said), expected, "{said}: {}", stdout(&output));
    }
}

#[test]
fn check_warns_of_what_run_would_miss_on_this_machine() {
    let folder = folder();
    write(&folder, "short", "too-short");
    let config = "sinks:\n  - stdout: {}\n  - webhook: { url: http://127.0.0.1:9/, secret: { env: NOT_SET_HERE } }\n  - command: { argv: [/no/such/program] }\n  - webhook: { url: http://127.0.0.1:9/other, name: other }\nserve:\n  listen: 127.0.0.1:0\n  tokens:\n    - { name: ops, role: operator, token: { file: ./short } }\n";
    write(&folder, "portcullis.yaml", config);
    let output = run_in(folder.path(), &["check"], b"");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let said = stdout(&output);
    let here = |line: &&str| line.starts_with("warning: `run` would not start here: ");
    let warnings: Vec<&str> = said.lines().filter(here).collect();
    let expected = [
        ["portcullis.yaml:3: sink webhook", "the variable NOT_SET_HERE is not set"],
        ["portcullis.yaml:4: sink command", "/no/such/program"],
        ["the token of ops", "the file ./short must have 16 to"],
    ];
    assert_eq!(warnings.len(), expected.len(), "{said}");
    for (warning, parts) in warnings.iter().zip(expected) {
        assert!(parts.iter().all(|part| warning.contains(part)), "{warning}");
    }
    assert!(!said.contains("too-short"), "{said}");
    // It is true: what was warned of is what `run` says.
    let output = run_in(folder.path(), &["run"], b"");
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("the variable NOT_SET_HERE is not set"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn no_message_about_the_configuration_shows_a_value_that_may_be_a_secret() {
    let folder = folder();
    let configs = [
        "sinks:\n - webhook: { url: 'https://u:HUNTER2@h.example.org/x' }\n",
        "sinks:\n - command: { argv: [/bin/true], env: [TOKEN=HUNTER2] }\n",
        "sinks:\n - mail: { smtp: 'smtp://u:HUNTER2@h', from: a@b.c, to: [a@b.c] }\n",
        "sinks:\n - mail: { smtp: 'h:587', from: a@b.c, to: [a@b.c], passwd: HUNTER2 }\n",
        "sinks:\n - crowdsec: { url: 'http://u:HUNTER2@h', machine_id: m, password: { env: P } }\n",
        "sinks:\n - webhook: { url: 'http://127.0.0.1', bearer: { env: T, fle: HUNTER2 } }\n",
        "sinks:\n - webhook: { url: 'http://127.0.0.1', bearer: [HUNTER2 }\n",
        "sinks:\n - webhook: { bearer: HUNTER2, bearer: HUNTER2 }\n",
        "serve:\n  listen: 127.0.0.1:0\n  token: HUNTER2\n",
        "serve:\n  listen: 127.0.0.1:0\n  tokens: HUNTER2\n",
        "webhook_secret: HUNTER2\n",
        "lateness: 60s\nWebhook_Secret: HUNTER2\n",
        "sinks:\n - webhook: { url: 'http://127.0.0.1', bearer: HUNTER2:x }\n",
        "{ sinks: [{ webhook: { url: 'https://u:HUNTER2@h/x' } }] }\n",
    ];
    for config in configs {
        let path = write(&folder, "c.yaml", config);
        let output = run(&["check", "--config", &path], b"");
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(code(&output), 2, "{config}: {said}");
        assert!(!said.contains("HUNTER"), "{config}: {said}");
        let at = said.contains(&format!("{path}:"));
        assert!(at, "{config}: {said}");
    }
    // A key is told, and where values cannot be secrets they are.
    let path = write(&folder, "c.yaml", "serve:\n  tokn: HUNTER2\n");
    refused(&folder, &["check", "--config", &path], &["2 |   tokn\n  |   ^^^^"]);
    let path = write(&folder, "c.yaml", "lateness: soon\n");
    refused(&folder, &["check", "--config", &path], &["1 | lateness: soon\n"]);
    let url = "http://user:HUNTER2@127.0.0.1:1";
    let output = run(&["status", "--url", url], b"");
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(!said.contains("HUNTER") && said.contains("PORTCULLIS_TOKEN"), "{said}");
}

#[test]
fn a_topic_of_dead_letters_is_none_that_is_read() {
    let folder = folder();
    let config = |topics: &str, bad: &str| {
        let text = format!(
            "source: {{ kafka: {{ brokers: [127.0.0.1:1], topics: {topics}, dead_letter: {bad} }} }}\n"
        );
        write(&folder, "c.yaml", &text)
    };
    for (topics, bad) in [("['^app-.*']", "app-bad"), ("[logs, bad]", "bad")] {
        let path = config(topics, bad);
        refused(&folder, &["check", "--config", &path], &["is read too", "for ever"]);
    }
    let path = config("['^app-.*', logs]", "bad-app-logs");
    let output = run(&["check", "--config", &path], b"");
    assert!(!stderr(&output).contains("is read too"), "{}", stderr(&output));
}

#[test]
fn a_summary_never_takes_the_place_of_what_is_needed() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name).display().to_string();
    write(
        &folder,
        "portcullis.yaml",
        "sinks: [{ file: { path: acts.jsonl } }]\nstate_dir: ./state\n",
    );
    write(&folder, "in.jsonl", attack());
    fs::hard_link(at("in.jsonl"), at("again.jsonl")).unwrap();
    fs::create_dir(at("state")).unwrap();
    write(&folder, "state/portcullis.db", "");
    for name in ["in.jsonl", "again.jsonl", "portcullis.yaml", "acts.jsonl", "state/portcullis.db"]
    {
        let args = ["replay", "in.jsonl", "--summary-file", name];
        refused(&folder, &args, &[name, "would overwrite"]);
    }
    let follow = ["run", "--follow", "*.jsonl", "--summary-file", "in.jsonl"];
    refused(&folder, &follow, &["would overwrite"]);
    assert_eq!(fs::read_to_string(at("in.jsonl")).unwrap(), attack());
    let output = run_in(folder.path(), &["replay", "in.jsonl", "--summary-file", "sum.json"], b"");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(json(&fs::read_to_string(at("sum.json")).unwrap())["lines"]["matched"], 21);
}

#[test]
fn a_configuration_that_is_a_broken_link_is_not_the_same_as_none() {
    let folder = folder();
    std::os::unix::fs::symlink("/nowhere/portcullis.yaml", folder.path().join("portcullis.yaml"))
        .unwrap();
    refused(&folder, &["check"], &["cannot read the configuration", "portcullis.yaml"]);
}

#[test]
fn what_could_not_be_printed_is_said() {
    let folder = folder();
    for args in [&["check"][..], &["config", "--example"], &["explain", "{}"], &["sink", "list"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = portcullis(folder.path());
        let output = command.args(args).stdout(full).output().unwrap();
        assert_eq!(code(&output), 1, "{args:?}: {}", stderr(&output));
        let said = stderr(&output);
        assert_eq!(said.matches("cannot write to standard output").count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn a_variable_changes_a_key_of_the_source_and_leaves_the_others() {
    let source = |config: &str, variables: &[(&str, &str)]| {
        let mut settings = Settings::default();
        let document = Document { name: "c.yaml".to_owned(), text: config.to_owned() };
        let mut problems = settings.apply(&document);
        let name = |name: &str| format!("PORTCULLIS_SOURCE{name}");
        let variables = variables.iter().map(|(n, value)| (name(n), (*value).to_owned()));
        problems.extend(settings.apply_environment(variables));
        assert!(
            problems.is_empty(),
            "{}",
            problems.iter().map(ToString::to_string).collect::<String>()
        );
        settings.source
    };
    let files = |file: &str, follow, from_end| SourceSpec::Files {
        files: vec![file.to_owned()],
        follow,
        from_end,
    };
    let written = "source: { files: [a.jsonl], follow: true }";
    for (config, variables, expected) in [
        (
            "source: { files: [a.jsonl] }",
            &[("__FOLLOW", "true")][..],
            files("a.jsonl", true, false),
        ),
        (written, &[("__FILES", "b.jsonl")], files("b.jsonl", true, false)),
        (written, &[("__FROM", "end")], files("a.jsonl", true, true)),
        (written, &[("", "{ files: [b.jsonl] }")], files("b.jsonl", false, false)),
        ("{}", &[("__FILES", "b.jsonl"), ("__FOLLOW", "true")], files("b.jsonl", true, false)),
        (written, &[("", "{ stdin: {} }")], SourceSpec::Stdin),
    ] {
        assert_eq!(source(config, variables), expected, "{config} {variables:?}");
    }
    let railway = "source: { railway: { environment: production, services: [api] } }";
    let SourceSpec::Railway(settings) = source(railway, &[("__RAILWAY__JOIN_WAIT", "1s")]) else {
        panic!("it is Railway's")
    };
    assert_eq!(
        (settings.environment.as_deref(), settings.join_wait),
        (Some("production"), 1_000_000)
    );
    assert_eq!(settings.services, ["api"]);
}

#[test]
fn check_passes_fails_or_cannot_load() {
    let folder = folder();
    assert_eq!(code(&run(&["check"], b"")), 0);
    let good = "pack: own\npatterns:\n  OWN_EVENT:\n    title: Own\n    read: \"OWN: ip={ip}\"\n    tests:\n      - line: '{\"message\":\"OWN: ip=203.0.113.7\"}'\n        gives: { ip: IP }\n";
    let path = write(&folder, "own.yaml", good.replace("IP }", "203.0.113.7 }"));
    let output = run(&["check", &path], b"");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("1 tests passed, 0 failed"), "{}", stdout(&output));
    let path = write(&folder, "own.yaml", good.replace("IP }", "203.0.113.8 }"));
    let output = run(&["check", &path], b"");
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("own.yaml:"), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_a_run_whose_writer_goes_on_holding_the_pipe() {
    for (name, expected) in [("-TERM", 143), ("-INT", 130)] {
        for args in
            [&["run"][..], &["replay", "-", "--threads", "1"], &["replay", "-", "--threads", "2"]]
        {
            let folder = folder();
            let mut child = piped(folder.path(), &[args, &["--summary", "json"]].concat());
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(attack().as_bytes()).unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            if args == ["run"] {
                // The signal comes after the lines: both actions are out.
                for _ in 0..2 {
                    out.read_line(&mut String::new()).unwrap();
                }
            } else {
                until_it_reads(&child);
            }
            signal(&child, name);
            let output = wait(child);
            assert_eq!(code(&output), expected, "{args:?}: {}", stderr(&output));
            let summary = stderr(&output).lines().last().unwrap().to_owned();
            assert!(json(&summary)["lines"]["total"].is_u64());
            if args == ["run"] {
                assert_eq!(json(&summary)["lines"]["matched"], 21);
            }
            drop(stdin);
        }
    }
}

/// Until its pipe is empty, which means that it has been read and signals are listened to.
fn until_it_reads(child: &Child) {
    let until = Instant::now() + DEADLINE;
    let status = format!("/proc/{}/io", child.id());
    let listening = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let read = status.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.is_some_and(|n| n.parse::<u64>().unwrap() > 4_000)
    };
    while !listening() {
        assert!(Instant::now() < until, "it reads nothing");
        std::thread::sleep(Duration::from_millis(2));
    }
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap_or("0");
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0
    };
    while !caught() {
        assert!(Instant::now() < until, "it listens to no signal");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_signal_reaches_a_run_that_waits_for_its_first_line() {
    let folder = folder();
    for args in [&["run"][..], &["replay", "-"]] {
        let mut child = piped(folder.path(), args);
        let held = child.stdin.take();
        until_it_reads(&child);
        signal(&child, "-TERM");
        let output = wait(child);
        assert_eq!(code(&output), 143, "{args:?}");
        assert!(stderr(&output).contains("lines        0"), "{}", stderr(&output));
        drop(held);
    }
}

#[test]
fn a_closed_standard_output_is_a_normal_and_silent_end() {
    let folder = folder();
    // Every address is blocked: megabytes of actions, long after `head` has gone.
    let mut lines = String::new();
    for n in 0..3_000 {
        lines += &failed_logins(10, 1, &format!("203.0.{}.{}", n / 250, n % 250 + 1));
    }
    write(&folder, "big.jsonl", &lines);
    write(&folder, "c.yaml", "lateness: 1h\n");
    for command in [
        "replay big.jsonl",
        "replay - < big.jsonl",
        "run < big.jsonl",
        "replay big.jsonl --output text",
    ] {
        let script =
            format!("{{ $P {command} --config c.yaml --quiet; echo $? > code; }} | head -1");
        let script = match command.split_once(" < ") {
            Some((command, file)) => {
                format!("{{ $P {command} --config c.yaml < {file}; echo $? > code; }} | head -1")
            }
            None => script,
        };
        let output = shell(folder.path(), &script);
        assert_eq!(stdout(&output).lines().count(), 1, "{command}");
        assert_eq!(fs::read_to_string(folder.path().join("code")).unwrap(), "0\n", "{command}");
        let said = stderr(&output);
        let loud: Vec<_> = said.lines().filter(|line| !line.starts_with(" INFO")).collect();
        assert!(loud.is_empty(), "{command}: {said}");
    }
    for command in ["config --example", "explain < big.jsonl", "check", "--help"] {
        let output = shell(folder.path(), &format!("{{ $P {command}; echo $? > code; }} | true"));
        assert_eq!(fs::read_to_string(folder.path().join("code")).unwrap(), "0\n", "{command}");
        assert!(!stderr(&output).contains("panic"), "{}", stderr(&output));
    }
}

#[test]
fn line_ends_byte_order_marks_and_missing_newlines_change_nothing() {
    let plain = run(&["replay", "-", "--quiet"], attack().as_bytes());
    let expected = stdout(&plain);
    assert_eq!(expected.lines().count(), 2);
    let text = attack();
    let forms = [
        text.trim_end().to_owned(),
        text.replace('\n', "\r\n"),
        format!("\u{feff}{text}"),
        format!("\u{feff}{}", text.replace('\n', "\r\n").trim_end()),
        text.replace('\n', "\n\n"),
    ];
    for form in forms {
        for args in [&["replay", "-", "--quiet"][..], &["run", "--quiet"], &["--quiet"]] {
            let output = run(args, form.as_bytes());
            assert_eq!(stdout(&output), expected, "{args:?} {:?}", &form[..20]);
            assert_eq!(code(&output), 0);
        }
    }
}

#[test]
fn without_a_command_a_pipe_is_run_and_a_terminal_gets_help() {
    let output = run(&[], attack().as_bytes());
    assert_eq!(stdout(&output).lines().count(), 2);
    let folder = folder();
    let closed = shell(folder.path(), "$P <&-");
    assert_eq!(code(&closed), 0, "{}", stderr(&closed));
    assert!(stderr(&closed).contains("lines        0"), "{}", stderr(&closed));
    let shown = terminal(folder.path(), "$P");
    assert!(shown.contains("Usage:") && shown.contains("explain"), "{shown}");
}

#[test]
fn quiet_is_quiet_and_verbose_is_not() {
    for args in [&["run", "--quiet"][..], &["replay", "-", "-q"]] {
        assert_eq!(stderr(&run(args, attack().as_bytes())), "");
    }
    let plain = stderr(&run(&["run"], attack().as_bytes()));
    let start: Vec<&str> = plain.lines().filter(|line| line.starts_with(" INFO")).collect();
    assert!(start.len() <= 4, "few lines at the start, please: {plain}");
    let verbose = stderr(&run(&["replay", "-", "-v"], attack().as_bytes()));
    assert!(verbose.contains("DEBUG") && verbose.contains("read to its end"), "{verbose}");
    // An error is said under --quiet too.
    let folder = folder();
    let config = write(&folder, "c.yaml", "sinks: [{ file: { path: /dev/full } }]\n");
    let output = run(&["run", "-q", "--config", &config], attack().as_bytes());
    assert!(stderr(&output).contains("/dev/full"), "{}", stderr(&output));
}

#[test]
fn the_summary_has_every_form_and_place() {
    let folder = folder();
    let input = attack();
    let output = run(&["run", "--summary", "json", "-q"], input.as_bytes());
    let summary = json(&stderr(&output));
    assert_eq!(summary["events"]["FAILED_LOGIN"], 21);
    assert_eq!(summary["actions"]["ip-blocking"]["start"], 1);
    for key in [
        "lines",
        "records",
        "near_misses",
        "keys_held",
        "keys_evicted",
        "wall_s",
        "cpu_s",
        "lines_per_s",
        "mb_per_s",
        "kpi",
        "first_event",
        "last_event",
    ] {
        assert!(summary.get(key).is_some(), "{key}");
    }
    let text = stderr(&run(&["run", "--summary", "text", "-q"], input.as_bytes()));
    assert!(text.starts_with("lines        21 = 21 matched\n"), "{text}");
    assert_eq!(stderr(&run(&["run", "--summary", "none", "-q"], input.as_bytes())), "");
    let output =
        run_in(folder.path(), &["run", "-q", "--summary-file", "s.json"], input.as_bytes());
    assert_eq!(stderr(&output), "");
    let written = fs::read_to_string(folder.path().join("s.json")).unwrap();
    assert_eq!(json(&written)["lines"]["matched"], 21);
    run_in(
        folder.path(),
        &["run", "--summary", "text", "--summary-file", "s.json"],
        input.as_bytes(),
    );
    let written = fs::read_to_string(folder.path().join("s.json")).unwrap();
    assert!(written.starts_with("lines        21"), "{written}");
}

#[test]
fn actions_have_three_forms() {
    let input = attack();
    let of = |form| stdout(&run(&["run", "-q", "--output", form], input.as_bytes()));
    assert_eq!(json(of("json").lines().last().unwrap())["schema"], 1);
    assert!(json(of("ecs").lines().last().unwrap()).get("ecs").is_some());
    assert!(
        of("text").ends_with(
            "BLOCK 203.0.113.7 for 24h: 21 FAILED_LOGIN from 203.0.113.7 within 1h [ip-blocking]\n"
        ),
        "{}",
        of("text")
    );
    assert!(!of("text").contains('\u{1b}'));
}

#[test]
fn defaults_yield_to_the_file_the_file_to_the_environment_and_that_to_flags() {
    let folder = folder();
    let blocks =
        |output: &Output| stdout(output).lines().filter(|l| l.contains("\"block\"")).count();
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut child = portcullis(folder.path())
            .args(["replay", "in.jsonl"])
            .args(args)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take();
        wait(child)
    };
    write(&folder, "in.jsonl", attack());
    let output = with(&[], &[]);
    assert_eq!(blocks(&output), 1);
    assert!(stderr(&output).contains("no configuration file"), "{}", stderr(&output));
    // The file of this folder, which is said.
    write(&folder, "portcullis.yaml", "patterns: [sshd]\n");
    let output = with(&[], &[]);
    assert_eq!(blocks(&output), 0);
    assert!(stderr(&output).contains("portcullis.yaml"), "{}", stderr(&output));
    // The environment over the file, a flag over both.
    assert_eq!(blocks(&with(&[("PORTCULLIS_PATTERNS", "[velro]")], &[])), 1);
    assert_eq!(blocks(&with(&[("PORTCULLIS_PATTERNS", "[velro]")], &["--pack", "guard"])), 0);
    // PORTCULLIS_CONFIG over the file of this folder, --config over that.
    write(&folder, "other.yaml", "rules: { ip-blocking: { mode: shadow } }\n");
    let output = with(&[("PORTCULLIS_CONFIG", "other.yaml")], &[]);
    assert!(stdout(&output).contains("\"shadow\""), "{}", stdout(&output));
    assert!(stderr(&output).contains("PORTCULLIS_CONFIG"), "{}", stderr(&output));
    let output = with(&[("PORTCULLIS_CONFIG", "other.yaml")], &["--config", "portcullis.yaml"]);
    assert_eq!(blocks(&output), 0);
    // Nested keys.
    let nested = [("PORTCULLIS_CONFIG", "other.yaml"), ("PORTCULLIS_RULES__IP-BLOCKING", "off")];
    assert_eq!(blocks(&with(&nested, &[])), 0);
    let wrong = with(&[("PORTCULLIS_BRAKES__MAX_BLOCKS_PER_MINUTE", "lots")], &[]);
    assert_eq!(code(&wrong), 2);
    assert!(
        stderr(&wrong).contains("environment variable PORTCULLIS_BRAKES__MAX_BLOCKS_PER_MINUTE")
    );
    assert!(stderr(&wrong).contains("a number, or `off`"), "{}", stderr(&wrong));
    let unknown = with(&[("PORTCULLIS_LATENES", "hunter2")], &[]);
    assert_eq!(code(&unknown), 2);
    assert!(stderr(&unknown).contains("did you mean `lateness`?"), "{}", stderr(&unknown));
    assert!(!stderr(&unknown).contains("hunter2"), "a value may be a secret: {}", stderr(&unknown));
}

#[test]
fn foreign_variables_are_nobodys_problem() {
    let folder = folder();
    write(&folder, "in.jsonl", attack());
    // Kubernetes sets these where a service is called portcullis; the last is no text at all.
    let output = shell(
        folder.path(),
        "export PORTCULLIS_PORT=tcp://10.0.0.1:7979 PORTCULLIS_SERVICE_HOST=10.0.0.1 \
         PORTCULLIS_PORT_7979_TCP_ADDR=10.0.0.1 ODD=$(printf '\\377\\376'); exec $P replay in.jsonl",
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), 2);
}

#[test]
fn the_example_is_a_configuration_that_changes_nothing_and_names_every_key() {
    let shown = stdout(&run(&["config", "--example"], b""));
    assert_eq!(shown.trim_end(), EXAMPLE.trim_end());
    let apply = |text: &str| {
        let mut settings = Settings::default();
        let problems = settings.apply(&Document { name: "example".into(), text: text.to_owned() });
        assert!(problems.is_empty(), "{problems:?}");
        settings
    };
    let said = Settings { named_at: Vec::new(), ..apply(&shown) };
    assert_eq!(format!("{said:?}"), format!("{:?}", Settings::default()));
    // Lines that are commented out are keys too: `# key: value   # what it is`.
    let uncommented: String = shown
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(": ").is_some_and(|(key, _)| KEYS.contains(&key)) => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    apply(&uncommented);
    let document = Document { name: "example".into(), text: uncommented };
    let root = Checker::new(&document).parse().unwrap();
    let named: BTreeSet<&str> =
        root.as_map().unwrap().iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(named, KEYS.into_iter().collect());
}

#[test]
fn rules_can_be_changed_switched_off_and_people_allowed() {
    let folder = folder();
    let actions = |config: &str| {
        let config = write(&folder, "c.yaml", config);
        let output = run(&["replay", "-", "-q", "--config", &config], attack().as_bytes());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output)
    };
    let off = actions("rules: { ip-blocking: off }\n");
    assert!(!off.contains("ip-blocking") && off.contains("failed-logins-per-ip"), "{off}");
    let sooner =
        actions("rules: { ip-blocking: { when: count > 3 within 1h, then: block for 12h } }\n");
    assert!(sooner.contains("\"count\":4,") && sooner.contains("\"duration_s\":43200"), "{sooner}");
    let allowed = actions("allow: [{ ip: 203.0.113.0/24, comment: office }]\n");
    assert!(
        allowed.contains("\"withheld\"")
            && !allowed.contains("\"op\":\"start\",\"action\":\"block\""),
        "{allowed}"
    );
    let expired = actions("allow: [{ ip: 203.0.113.0/24, until: 2025-01-01T00:00:00Z }]\n");
    assert!(expired.contains("\"op\":\"start\",\"action\":\"block\""), "{expired}");
    assert_eq!(actions("rules:\n#  ip-blocking: off\n").lines().count(), 2);
}

/// Lines that are read in some odd way, or in none.
fn odd_lines() -> Vec<String> {
    let time = "2025-08-03T22:30:00Z";
    let text = "FAILED_LOGIN: email=a@example.org, ip=203.0.113.7, reason=bad";
    let home = serde_json::json!({ "timestamp": time, "logger": "security", "message": text });
    let home = home.to_string();
    let with = |more: &str| format!("{},{more}}}", &home[..home.len() - 1]);
    let wrapped = |key: &str, more: &str| {
        format!("{{{}:{}{more}}}", serde_json::json!(key), serde_json::json!(home))
    };
    let (begun, rest) = text.split_at(20);
    let long = "x".repeat(2000);
    vec![
        String::new(),
        " \t".into(),
        "\r".into(),
        "\0\0".into(),
        "\u{feff}".into(),
        "\u{1b}[0m".into(),
        "hello".into(),
        home.clone(),
        format!("{home}\r"),
        format!("\u{feff}{home}"),
        text.into(),
        format!("{time} [WARN] {text}"),
        format!("Aug  3 22:30:00 host app[1]: {text}"),
        "FAILED_LOGIN: drifted".into(),
        home.replace("security", "app"),
        with("\"ip_address\":\"198.51.100.4\""),
        with("\"ip_address\":\"198.51.100.4\",\"client_ip\":\"198.51.100.5\""),
        with("\"timestamp\":\"2025-08-03T23:30:00Z\""),
        home.replace("203.0.113.7", "10.0.0.1"),
        format!("[{home},{home},3]"),
        "[]".into(),
        "{}".into(),
        "{\"a\":1".into(),
        "{hello".into(),
        "{FAILED_LOGIN: ".into(),
        home[..home.len() - 10].into(),
        format!("{home} {home}"),
        with("\"x\":NaN"),
        format!("{time} stdout P {begun}"),
        format!("{time} stdout F {rest}"),
        format!("{time} stdout F {rest}"),
        format!("{time} stdout P hello"),
        wrapped("log", &format!(",\"stream\":\"stdout\",\"time\":\"{time}\"")),
        format!("{{\"log\":\"{begun}\",\"stream\":\"stderr\",\"attrs\":{{}}}}"),
        wrapped("message", ""),
        wrapped("message", ",\"port\":80"),
        wrapped("message", ",\"logger\":\"security\""),
        r#"{"messageType":"CONTROL_MESSAGE","logGroup":"FAILED_LOGIN: ","logEvents":[]}"#.into(),
        r#"{"__REALTIME_TIMESTAMP":"1754260200000000","MESSAGE":null}"#.into(),
        format!("{text} {long}"),
        with(&format!("\"x\":\"{long}\"")),
        " ".repeat(2000),
    ]
}

#[test]
fn explain_says_of_a_line_what_a_replay_makes_of_it() {
    let folder = folder();
    let config = write(&folder, "c.yaml", "max_line: 1000\ndedupe: 10m\n");
    let lines = odd_lines();
    let told = |input: &str| -> Vec<String> {
        let output = run(&["explain", "-q", "--config", &config], input.as_bytes());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let said = stdout(&output);
        said.lines().filter_map(|l| l.strip_prefix("  counted as: ")).map(str::to_owned).collect()
    };
    let replayed = |input: &str| {
        let args = ["replay", "-", "-q", "--summary", "json", "--config", &config];
        json(&stderr(&run(&args, input.as_bytes())))["lines"].clone()
    };
    let total = |said: &[String]| {
        let mut total = BTreeMap::from([("total".to_owned(), said.len())]);
        for one in said {
            let name = one.split(':').next().unwrap().replace(' ', "_");
            *total.entry(name).or_default() += 1;
        }
        total
    };
    let counted = |lines: &serde_json::Value| -> BTreeMap<String, usize> {
        let lines = lines.as_object().unwrap().iter();
        let lines = lines.map(|(name, n)| (name.clone(), n.as_u64().unwrap() as usize));
        lines.filter(|(_, n)| *n > 0).collect()
    };
    for line in &lines {
        let input = format!("{line}\n");
        assert_eq!(total(&told(&input)), counted(&replayed(&input)), "{line}");
    }
    // Together they are one stream, in which a record can come again or late.
    let mut all = lines.join("\n");
    for minute in 31..36 {
        let line = attack().lines().next().unwrap().replace("22:30:00", &format!("22:{minute}:00"));
        all.push_str(&format!("\n{line}"));
    }
    all.push_str(&format!("\n{}\n", lines[7].replace("22:30:00", "21:30:00")));
    all.push_str(&format!("{}\n", lines[7].replace("2025", "2199")));
    let (said, lines) = (told(&all), counted(&replayed(&all)));
    assert_eq!(total(&said), lines);
    for outcome in ["late", "future", "repeated", "joined", "oversized", "near_miss"] {
        assert!(lines.contains_key(outcome), "{outcome}: {lines:?}");
    }
}

#[test]
fn explain_says_why_a_document_is_not_opened_and_joins_pieces() {
    let explain = |input: &str| stdout(&run(&["explain", "-q"], input.as_bytes()));
    let document =
        serde_json::json!({ "message": "FAILED_LOGIN: email=a, ip=203.0.113.7, reason=b" });
    let record =
        serde_json::json!({ "message": document.to_string(), "port": 80, "stream": "stdout" });
    let said = explain(&format!("{record}\n"));
    assert!(
        said.contains("not opened")
            && said.contains("the key `port` is one that no carrier writes"),
        "{said}"
    );
    let opened = serde_json::json!({ "message": document.to_string(), "stream": "stdout" });
    let said = explain(&format!("{opened}\n"));
    assert!(!said.contains("not opened") && said.contains("event FAILED_LOGIN"), "{said}");
    let pieces = "2025-08-03T22:30:00Z stdout P FAILED_LOGIN: email=a, \n\
                  2025-08-03T22:30:00Z stdout F ip=203.0.113.7, reason=b\n";
    let said = explain(pieces);
    assert!(
        said.contains("event FAILED_LOGIN") && said.contains("what it holds: matched"),
        "{said}"
    );
    let said = explain(pieces.lines().next().unwrap());
    assert!(said.contains("before the rest of a line has come"), "{said}");
    // Another logger is a near miss, so that something is near.
    let other = attack().lines().next().unwrap().replace("\"security\"", "\"app\"");
    let said = explain(&other);
    assert!(said.contains("near miss of FAILED_LOGIN") && !said.contains("none is near"), "{said}");
    // An argument is a line, an empty one too.
    let said = stdout(&run(&["explain", "-q", "", "hello"], b""));
    assert!(said.starts_with("line 1: \n  empty") && said.contains("\nline 2: hello\n"), "{said}");
}

#[test]
fn explain_says_how_each_kind_of_line_is_read() {
    let explain = |line: &str| {
        let output = run(&["explain", "-q"], format!("{line}\n").as_bytes());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output)
    };
    let text = explain(attack().lines().next().unwrap());
    for said in [
        "read as: json",
        "2025-08-03T22:30:00",
        "FAILED_LOGIN",
        "matches",
        "ip=203.0.113.7",
        "rule ip-blocking",
        "per ip 203.0.113.7 (count > 20 within 1h)",
        "for all together",
    ] {
        assert!(text.contains(said), "`{said}`: {text}");
    }
    // Every pattern has its verdict, with the place where it stopped matching.
    assert!(text.contains("SUCCESSFUL_LOGIN       no: at character 1"), "{text}");
    let near = explain("FAILED_LOGIN: nobody knows");
    assert!(near.contains("nearest pattern: FAILED_LOGIN") && near.contains("^"), "{near}");
    assert!(near.contains("near miss"), "{near}");
    assert!(explain("{\"a\":1").contains("unreadable (truncated)"));
    assert!(explain("").contains("empty"));
    assert!(explain("hello").contains("no pattern matches, and none is near"));
    assert!(
        explain(r#"{"log":"hello\n","stream":"stdout","time":"2025-08-03T22:30:00Z"}"#)
            .contains("docker")
    );
    for line in text.lines().chain(near.lines()) {
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn replay_reads_files_folders_globs_pipes_and_archives() {
    let folder = folder();
    let text = attack();
    let (first, second) = text.split_at(text.match_indices('\n').nth(9).unwrap().0 + 1);
    fs::create_dir_all(folder.path().join("logs/old")).unwrap();
    write(&folder, "logs/2.jsonl", second);
    write(&folder, "logs/old/1.jsonl.gz", gzip(first.as_bytes()));
    write(&folder, "logs/old/1.jsonl.zst", zstd::encode_all(first.as_bytes(), 3).unwrap());
    write(&folder, "all.jsonl", &text);
    let expected = stdout(&run_in(folder.path(), &["replay", "-q", "all.jsonl"], b""));
    assert_eq!(expected.lines().count(), 2);
    let same = |command: &str| {
        let output = Command::new("bash")
            .args(["-c", &format!("{} {command} -q", binary())])
            .current_dir(folder.path())
            .env_remove("PORTCULLIS_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(stdout(&output), expected, "{command}: {}", stderr(&output));
        assert_eq!(code(&output), 0, "{command}: {}", stderr(&output));
    };
    for threads in ["1", "3"] {
        same(&format!("--threads {threads} replay logs/2.jsonl logs/old/1.jsonl.gz"));
        same(&format!("--threads {threads} replay logs/old/1.jsonl.zst logs/2.jsonl"));
        same(&format!("--threads {threads} replay 'logs/*.jsonl' 'logs/old/*.gz'"));
        same(&format!("--threads {threads} replay - < all.jsonl"));
        same(&format!("--threads {threads} replay - < <(gzip -c all.jsonl)"));
        // What is taken from a pipe to look at it must not be missing.
        same(&format!("--threads {threads} replay <(cat all.jsonl)"));
        same(&format!(
            "--threads {threads} replay <(cat logs/2.jsonl) <(gzip -dc logs/old/1.jsonl.gz)"
        ));
    }
    fs::remove_file(folder.path().join("logs/old/1.jsonl.zst")).unwrap();
    same("replay logs");
    // A damaged archive: what lies before the damage counts, and it is said once.
    let packed = gzip(text.as_bytes());
    write(&folder, "cut.gz", &packed[..packed.len() - 9]);
    let output = run_in(folder.path(), &["replay", "cut.gz"], b"");
    assert_eq!(code(&output), 1, "{}", stderr(&output));
    assert!(!stdout(&output).is_empty());
    assert!(!stderr(&output).contains("cut.gz: cut.gz"), "{}", stderr(&output));
    assert!(stderr(&output).contains("gzip -t"), "{}", stderr(&output));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// What a user at a terminal sees.
fn terminal(folder: &Path, command: &str) -> String {
    let output = Command::new("script")
        .args(["-qec", command, "/dev/null"])
        .current_dir(folder)
        .env("P", binary())
        .env("TERM", "xterm")
        .env("COLUMNS", "120")
        .env_remove("NO_COLOR")
        .env_remove("PORTCULLIS_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("util-linux's `script` is missing: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_terminal_gets_colours_a_progress_bar_and_whole_lines() {
    let folder = folder();
    let mut lines = String::new();
    for n in 0..200 {
        lines += &failed_logins(21, 1, &format!("203.0.113.{}", n % 250 + 1));
    }
    write(&folder, "in.jsonl", lines);
    write(&folder, "c.yaml", "lateness: 1h\nblock: 4KiB\n");
    let shown = terminal(folder.path(), "$P replay in.jsonl --config c.yaml");
    assert!(
        shown.contains("lines/s") && shown.contains("actions") && shown.contains(" left"),
        "{shown}"
    );
    assert!(shown.contains("MiB") || shown.contains("KiB"), "{shown}");
    assert!(shown.contains("\u{1b}["), "{shown}");
    assert!(shown.contains("BLOCK"), "{shown}");
    // An action stands on a line of its own, not behind the bar.
    for line in shown.lines().filter(|line| line.contains("[ip-blocking]")) {
        let own = line.rsplit(['\r', 'K']).next().unwrap_or_default();
        assert!(!line.contains('\u{2588}') || !own.contains('\u{2588}'), "{line:?}");
    }
    let plain = terminal(folder.path(), "NO_COLOR=1 $P replay -q in.jsonl --config c.yaml");
    assert!(plain.contains("BLOCK") && !plain.contains('\u{1b}'), "{plain:?}");
    let piped = terminal(folder.path(), "$P replay -q in.jsonl --config c.yaml | cat");
    assert!(piped.starts_with("{\"schema\":1"), "{piped:?}");
}

#[test]
fn a_full_disk_and_an_output_that_fails_are_told_and_the_run_goes_on() {
    let folder = folder();
    write(&folder, "in.jsonl", attack());
    write(&folder, "c.yaml", "sinks:\n  - file: { path: /dev/full }\n  - stdout: {}\n");
    for command in ["replay in.jsonl", "run < in.jsonl"] {
        let output = shell(folder.path(), &format!("$P --config c.yaml {command}"));
        assert_eq!(code(&output), 1, "{}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), 2, "the other sink goes on");
        assert!(
            stderr(&output).contains("sink file /dev/full: No space left"),
            "{}",
            stderr(&output)
        );
        assert!(stderr(&output).contains("lines        21 = 21 matched"), "{}", stderr(&output));
        let output = shell(folder.path(), &format!("$P {command} > /dev/full"));
        assert_eq!(code(&output), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains("sink stdout: No space left"), "{}", stderr(&output));
    }
}

#[test]
fn a_line_in_gives_its_action_out_at_once() {
    const ROUNDS: usize = 60;
    let folder = folder();
    let mut child = portcullis(folder.path())
        .args(["run", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut took = Vec::new();
    for n in 0..ROUNDS {
        let ip = format!("203.0.113.{}", n + 1);
        let lines = failed_logins(10, 1, &ip);
        let (before, last) = lines.trim_end().rsplit_once('\n').unwrap();
        writeln!(stdin, "{before}").unwrap();
        let started = Instant::now();
        writeln!(stdin, "{last}").unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "no action for {ip}");
            if line.contains("failed-logins-per-ip") {
                break;
            }
        }
        took.push(started.elapsed());
        assert!(line.contains(&ip), "{line}");
    }
    drop(stdin);
    out.read_to_string(&mut String::new()).unwrap();
    assert!(child.wait().unwrap().success());
    took.sort();
    let (median, slowest) = (took[ROUNDS / 2], took[ROUNDS - 1]);
    println!("line in, action out: median {median:?}, slowest {slowest:?}");
    assert!(median < LATENCY_MAX, "{took:?}");
}

#[test]
fn help_is_there_for_every_command() {
    for command in ["run", "replay", "check", "explain", "config"] {
        for flag in ["-h", "--help"] {
            let output = run(&[command, flag], b"");
            assert_eq!(code(&output), 0);
            let text = stdout(&output);
            assert!(text.contains(&format!("Usage: portcullis {command}")), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        }
    }
    assert!(stdout(&run(&["--version"], b"")).starts_with("portcullis "));
    assert!(root().join("portcullis.example.yaml").is_file());
}

#[test]
fn times_without_a_year_take_one_and_say_so() {
    let folder = folder();
    let lines: String = (0..6)
        .map(|n| {
            format!(
                "Aug  3 22:30:0{n} web sshd[1]: Failed password for root from 203.0.113.7 port 5 ssh2\n"
            )
        })
        .collect();
    let replayed = run_in(folder.path(), &["replay", "-", "--pack", "sshd"], lines.as_bytes());
    let piped = run_in(folder.path(), &["run", "--pack", "sshd"], lines.as_bytes());
    assert_eq!(stdout(&replayed), stdout(&piped));
    assert!(stderr(&replayed).contains("`year` in the configuration pins it"));
    write(&folder, "portcullis.yaml", "year: 2021\n");
    let pinned = run_in(folder.path(), &["replay", "-", "--pack", "sshd"], lines.as_bytes());
    assert!(
        stdout(&pinned).contains(r#""time":"2021-08-03T22:30:05.000000Z""#),
        "{}",
        stdout(&pinned)
    );
    assert!(!stderr(&pinned).contains("pins it"), "{}", stderr(&pinned));
}

#[test]
fn a_brake_is_a_limit() {
    let folder = folder();
    write(&folder, "portcullis.yaml", "brakes: { max_blocks_per_minute: 1 }\n");
    let attacks = failed_logins(21, 0, "203.0.113.7") + &failed_logins(21, 0, "203.0.113.8");
    let output =
        run_in(folder.path(), &["replay", "-", "--summary", "json", "-q"], attacks.as_bytes());
    assert_eq!(code(&output), 1);
    assert_eq!(json(&stderr(&output))["limits"]["brake"], 1);
}

#[test]
fn an_incomplete_pattern_runs_and_does_not_pass_its_check() {
    let folder = folder();
    let own = write(&folder, "own.yaml", "pack: own\npatterns:\n  HELLO: { read: hello }\n");
    let output = run_in(folder.path(), &["run", "--patterns", &own], b"hello\n");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("HELLO has no test"), "{}", stderr(&output));
    let checked = run_in(folder.path(), &["check", &own], b"");
    assert_eq!(code(&checked), 1, "{}", stderr(&checked));
    assert!(stderr(&checked).contains("needs at least one test"), "{}", stderr(&checked));
    assert!(stderr(&checked).contains("needs a `title`"), "{}", stderr(&checked));
    assert!(stdout(&checked).contains("0 tests passed, 0 failed"), "{}", stdout(&checked));
    // With another mistake in the file, all three are told at once.
    write(&folder, "own.yaml", "pack: own\nrulez: []\npatterns:\n  HELLO: { read: hello }\n");
    let text =
        refused(&folder, &["check", &own], &["`rulez`", "needs a `title`", "at least one test"]);
    assert!(text.contains("3 mistakes"), "{text}");
}

#[test]
fn railway_lines_that_end_say_how_to_stream_and_that_way_works() {
    let folder = folder();
    // As the Railway CLI prints a record: another order of keys, its own spelling of the level.
    let railway = attack()
        .lines()
        .map(|line| {
            let record = json(line);
            format!(
                "{}\n",
                serde_json::json!({
                    "message": record["message"], "timestamp": record["timestamp"],
                    "level": "warn", "logger": "security", "request_id": record["request_id"],
                })
            )
        })
        .collect::<String>();
    let piped = run_in(folder.path(), &[], railway.as_bytes());
    assert!(stderr(&piped).contains("script -qefc 'railway logs --json'"), "{}", stderr(&piped));
    // The application's own output ends without that sentence.
    let own = run_in(folder.path(), &[], attack().as_bytes());
    assert!(!stderr(&own).contains("railway"), "{}", stderr(&own));
    assert_eq!(stdout(&piped), stdout(&own));
    // Through a pseudo-terminal lines end in CR LF; `cat` stands in for the CLI.
    write(&folder, "railway.jsonl", railway);
    let script = "script -qefc 'cat railway.jsonl' /dev/null | $P run --summary none";
    let terminal = shell(folder.path(), script);
    assert!(
        !stderr(&terminal).contains("not found"),
        "util-linux's `script` is missing: {}",
        stderr(&terminal)
    );
    assert_eq!(stdout(&terminal), stdout(&own), "{}", stderr(&terminal));
}

/// Each would cut what it takes for torn lines of its own, and count the lines of the other as its own.
#[test]
fn one_file_for_two_sinks_is_refused_under_any_names() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let here = folder.path().canonicalize().unwrap();
    fs::create_dir(here.join("logs")).unwrap();
    symlink("logs", here.join("linked")).unwrap();
    symlink("b.jsonl", here.join("to-b.jsonl")).unwrap();
    symlink("to-b.jsonl", here.join("to-to-b.jsonl")).unwrap();
    symlink("round", here.join("round")).unwrap();
    let whole = here.join("a.jsonl").display().to_string();
    let sinks = |one: &str, two: &str| {
        let sinks = format!(
            "sinks:\n  - file: {{ path: {one} }}\n  - stdout: {{}}\n  - file: {{ path: {two}, output: text }}\n"
        );
        write(&folder, "c.yaml", sinks);
    };
    for there in [false, true] {
        for (one, two) in [
            ("a.jsonl", "a.jsonl"),
            ("a.jsonl", "./a.jsonl"),
            ("logs/../a.jsonl", "a.jsonl"),
            ("a.jsonl", &whole),
            ("linked/a.jsonl", "logs/a.jsonl"),
            ("b.jsonl", "to-b.jsonl"),
            ("to-to-b.jsonl", "b.jsonl"),
            ("/dev/null", "/dev/null"),
        ] {
            if there && !one.starts_with("/dev") {
                fs::write(here.join(one), "").unwrap();
            }
            sinks(one, two);
            let said = format!("`{two}` is the file of another sink: `{one}` in line 2, column 19");
            refused(&folder, &["run", "--config", "c.yaml"], &[&said, "--> c.yaml:4:19"]);
        }
    }
    fs::hard_link(here.join("a.jsonl"), here.join("hard.jsonl")).unwrap();
    sinks("a.jsonl", "hard.jsonl");
    refused(&folder, &["run", "--config", "c.yaml"], &["is the file of another sink: `a.jsonl`"]);
    sinks("round", "a.jsonl");
    refused(&folder, &["run", "--config", "c.yaml"], &["sink file round"]);
    for (one, two) in
        [("a.jsonl", "b.jsonl"), ("a.jsonl", "logs/a.jsonl"), ("/dev/null", "a.jsonl")]
    {
        sinks(one, two);
        let output = run_in(folder.path(), &["run", "--config", "c.yaml"], attack().as_bytes());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
}

#[test]
fn a_sink_that_cannot_be_opened_is_told_where_it_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    for (sink, what) in [
        ("file: { path: /nowhere/x }", "there is no folder `/nowhere`; make it first"),
        ("command: { argv: [/nowhere/x] }", "/nowhere/x"),
        ("webhook: { url: 'https://example.org/', ca: nowhere.pem }", "nowhere.pem"),
        ("webhook: { url: 'https://example.org/', secret: { env: NOWHERE } }", "NOWHERE"),
    ] {
        let config = format!("sinks:\n  - stdout: {{}}\n  - {sink}\n");
        fs::write(folder.path().join("c.yaml"), config).unwrap();
        let output = run_in(folder.path(), &["run", "--config", "c.yaml"], b"");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(what) && said.contains("--> c.yaml:3:5"), "{said}");
    } // A line may hold what nobody is to see, also of the sink before it.
    let config = "sinks: [{ webhook: { url: 'https://example.org/?token=hush', name: a } }, { command: { argv: [/nowhere/x, --password=hush] } }]\n";
    fs::write(folder.path().join("c.yaml"), config).unwrap();
    let said = stderr(&run_in(folder.path(), &["run", "--config", "c.yaml"], b""));
    assert!(said.contains("--> c.yaml:1:") && !said.contains("hush"), "{said}");
}
