//! The program that reads Railway by itself, against the stand-in for Railway's API: nothing counts twice and
//! nothing is missing through redeploys, broken connections and kills; the edge names the client; mistakes
//! are told.

use crate::carriers;
use crate::railway_double::{
    self, ACCOUNT_TOKEN, DEPLOYMENT, PROJECT_TOKEN, RailwayDouble, http_log, log, log_of, time,
};
use crate::support::{portcullis, stderr};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
const OWN: &str = "203.0.113.9";
const SECOND: i64 = 1_000_000_000;

/// A configuration for the stand-in.
fn folder(double: &RailwayDouble, railway: &str, more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "source: {{ railway: {{ endpoint: '{}', {railway} }} }}\n{more}\n",
        double.endpoint()
    );
    fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    folder
}

fn command(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = portcullis(folder.path());
    for name in
        ["RAILWAY_TOKEN", "RAILWAY_PROJECT_ID", "RAILWAY_ENVIRONMENT_ID", "RAILWAY_SERVICE_ID"]
    {
        command.env_remove(name);
    }
    command.env("RAILWAY_API_TOKEN", ACCOUNT_TOKEN).arg("run").args(args);
    command
}

/// The running program and the lines that it writes.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

const WHICH: &str = "project: shop, environment: production, services: [api]";

fn start(folder: &TempDir, args: &[&str]) -> Running {
    let mut child = command(folder, args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    Running { child, lines }
}

impl Running {
    /// The next action of a rule.
    fn next(&self, rule: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("an action");
            let action: Value = serde_json::from_str(&line).unwrap();
            if action["rule"] == rule {
                return action;
            }
        }
    }

    /// Ends it by a signal; the summary.
    fn summary(self, folder: &TempDir) -> Value {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let output = self.child.wait_with_output().unwrap();
        let text = fs::read_to_string(folder.path().join("summary.json"));
        serde_json::from_str(&text.unwrap_or_else(|_| panic!("{}", stderr(&output)))).unwrap()
    }
}

const SUMMARY: [&str; 4] = ["--summary", "json", "--summary-file", "summary.json"];

/// `n` seconds after a moment shortly ago: what lies before the first start is not read.
fn recent(n: i64) -> String {
    // Each test has a thread of its own.
    thread_local!(static BASE: std::cell::OnceCell<i64> = const { std::cell::OnceCell::new() });
    let begun = || {
        let now = chrono::DateTime::parse_from_rfc3339(&railway_double::now()).unwrap();
        now.timestamp_nanos_opt().unwrap() - 20 * SECOND
    };
    let base = BASE.with(|base| *base.get_or_init(begun));
    let at = chrono::DateTime::from_timestamp_nanos(base + n * SECOND + 1);
    at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// The `n`th failure.
fn failure(n: i64) -> Value {
    log(&recent(n), &failed(n), &[("level", "\"warn\"")])
}

fn failed(n: i64) -> String {
    format!("FAILED_LOGIN: email=user{n}@example.org, ip={OWN}, reason=bad")
}

/// A line of which the program says at once that it came.
fn sign(double: &RailwayDouble, at: i64, running: &Running) {
    let message = format!("RATE_LIMIT_VIOLATION: ip=192.0.2.{at}, endpoint=/");
    double.log(log(&recent(at), &message, &[("level", "\"warn\"")]));
    running.next("sign");
}

const SIGN: &str = "patterns: [velro, ./sign.yaml]";

fn with_sign(folder: &TempDir) {
    let rule = "pack: sign\nrules:\n  - { id: sign, title: t, on: RATE_LIMIT_VIOLATION, per: ip, when: count >= 1 within 1m, then: alert for 1m }\n";
    fs::write(folder.path().join("sign.yaml"), rule).unwrap();
}

#[test]
fn a_redeploy_broken_connections_and_duplicates_change_no_count() {
    let double = RailwayDouble::new();
    let folder = folder(&double, WHICH, SIGN);
    with_sign(&folder);
    let running = start(&folder, &SUMMARY);
    double.until_subscribed("environmentLogs", 1);
    double.twice();
    double.logs((0..8).map(failure));
    sign(&double, 8, &running);
    double.tear_connections();
    double.until_subscribed("environmentLogs", 2);
    double.redeploy("api", "another-deployment");
    // Out of order, as logs of two replicas come.
    let other = |n: i64| {
        let at = recent(n);
        log_of(
            railway_double::SERVICE,
            "another-deployment",
            &at,
            &failed(n),
            &[("level", "\"warn\"")],
        )
    };
    double.logs([10, 9, 8, 11, 14, 13, 12, 15, 16, 17, 19, 18].map(other));
    sign(&double, 20, &running);
    double.drop_connections();
    double.until_subscribed("environmentLogs", 3);
    double.log(other(21));
    let block = running.next("ip-blocking");
    assert_eq!((&block["count"], &block["target"]["value"]), (&21.into(), &OWN.into()), "{block}");
    let summary = running.summary(&folder);
    assert_eq!(summary["lines"]["matched"], 23, "{summary}");
    assert!(summary["lines"]["repeated"].as_u64() >= Some(22), "{summary}");
    assert_eq!(summary["lines"]["late"], 0, "{summary}");
    let parts = ["matched", "unmatched", "repeated", "empty", "late", "near_miss", "unreadable"];
    let sum: u64 = parts.iter().filter_map(|part| summary["lines"][*part].as_u64()).sum();
    assert_eq!(Some(sum), summary["lines"]["total"].as_u64(), "{summary}");
}

#[test]
fn what_came_while_it_was_killed_is_read_and_nothing_counts_twice() {
    let double = RailwayDouble::new();
    let folder = folder(&double, WHICH, &format!("state_dir: ./state\n{SIGN}"));
    with_sign(&folder);
    let mut running = start(&folder, &[]);
    double.until_subscribed("environmentLogs", 1);
    double.logs((0..12).map(failure));
    sign(&double, 13, &running);
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    // Nobody reads; a redeploy too.
    double.redeploy("api", "another-deployment");
    double.logs((14..22).map(failure));
    let running = start(&folder, &SUMMARY);
    sign(&double, 23, &running);
    double.log(failure(24));
    let block = running.next("ip-blocking");
    assert_eq!(block["count"], 21, "{block}");
    let summary = running.summary(&folder);
    assert!(summary["lines"]["repeated"].as_u64() >= Some(1), "{summary}");
    assert_eq!(summary["limits"].get("source"), None, "{summary}");
}

#[test]
fn the_edge_names_the_client_and_the_applications_own_address_is_a_conflict() {
    let double = RailwayDouble::new();
    let which = format!("{WHICH}, join_wait: 30s");
    let folder = folder(&double, &which, "");
    let running = start(&folder, &SUMMARY);
    double.until_subscribed("environmentLogs", 1);
    double.until_subscribed("httpLogs", 1);
    for n in 0..21 {
        let (at, id) = (time(n * SECOND), format!("\"r-{n}\""));
        let attributes = [("level", "\"warn\""), ("request_id", id.as_str())];
        double.log(log(&time(n * SECOND + 5), &failed(n), &attributes));
        double.http(DEPLOYMENT, http_log(&at, &format!("r-{n}"), "198.51.100.7"));
    }
    let block = running.next("ip-blocking");
    assert_eq!(block["target"]["value"], "198.51.100.7", "{block}");
    let summary = running.summary(&folder);
    assert_eq!(summary["marks"]["conflict"], 21, "{summary}");
}

#[test]
fn the_subscription_gives_what_the_applications_own_output_gives() {
    let (_, expected) = carriers::expected(64);
    let double = RailwayDouble::new();
    let folder = folder(&double, WHICH, "");
    let running = start(&folder, &["--output", "json"]);
    double.until_subscribed("environmentLogs", 1);
    for (record, n) in carriers::application(64).iter().zip(0..) {
        let members = record.as_object().unwrap().iter();
        let attributes: Vec<(String, String)> = members
            .filter(|(key, _)| *key != "message")
            .map(|(key, value)| {
                let value = match key.as_str() {
                    "level" => value.to_string().to_lowercase().replace("warning", "warn"),
                    _ => value.to_string(),
                };
                (key.clone(), value)
            })
            .collect();
        let attributes: Vec<(&str, &str)> =
            attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        double.log(log(&time(n * SECOND), record["message"].as_str().unwrap(), &attributes));
    }
    for want in expected.lines() {
        let got = running.lines.recv_timeout(PATIENCE).expect("an action");
        assert_eq!(got, want);
    }
    let mut child = running.child;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What it says and how it ends when it cannot begin.
fn refused(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    output
}

#[test]
fn what_keeps_it_from_beginning_is_told() {
    let double = RailwayDouble::new();
    let house = folder(&double, WHICH, "");
    let says = |output: &Output, parts: &[&str]| {
        let text = stderr(output);
        for part in parts {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("sesame"), "a token is shown:\n{text}");
    };
    let none = refused(command(&house, &[]).env_remove("RAILWAY_API_TOKEN"));
    says(&none, &["no token", "RAILWAY_API_TOKEN", "RAILWAY_TOKEN"]);
    let wrong = refused(command(&house, &[]).env("RAILWAY_API_TOKEN", "wrong-sesame"));
    says(&wrong, &["does not take the token in RAILWAY_API_TOKEN"]);
    let unknown = folder(&double, "project: shop, environment: production, services: [apj]", "");
    says(&refused(&mut command(&unknown, &[])), &["service `apj`", "api"]);
    let from = refused(&mut command(&house, &["--from", "end"]));
    says(&from, &["--from"]);
    // The flag needs no configuration but what Railway sets in its containers.
    let bare = tempfile::tempdir().unwrap();
    says(&refused(&mut command(&bare, &["--source", "railway"])), &["RAILWAY_PROJECT_ID"]);
}

#[test]
fn a_token_of_the_project_needs_no_names() {
    let double = RailwayDouble::new();
    let folder = folder(&double, "services: [api]", "");
    let mut command = command(&folder, &["--source", "railway"]);
    let child = command
        .env_remove("RAILWAY_API_TOKEN")
        .env("RAILWAY_TOKEN", PROJECT_TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    double.until_subscribed("environmentLogs", 1);
    let upgrades = double.upgrades();
    assert_eq!(upgrades[0].get("project-access-token").map(String::as_str), Some(PROJECT_TOKEN));
    let mut child = child;
    child.kill().unwrap();
    child.wait().unwrap();
}
