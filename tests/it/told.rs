//! What a running program tells those who ask it and look at it: what is in force, how it counts, how its
//! sinks are, over restarts and SIGHUP.

use crate::service::{Running, SECOND, START, Service, config, login, until};
use crate::support::{run_in, stderr, stdout};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

const LOG: &str = "app.log";
const SERVE: &str = "serve: { listen: 127.0.0.1:0, insecure_loopback: true }\n";

fn service(more: &str, rules: &str) -> Service {
    let config = config(&format!("source: {{ files: [{LOG}], follow: true }}\n{SERVE}{more}"));
    let service = Service::new(&config, &format!("pack: p\n{rules}"));
    service.append(LOG, "");
    service
}

/// Failed logins from one address at these seconds, each of a user of its own.
fn failures(seconds: impl IntoIterator<Item = i64>, ip: &str) -> String {
    let line = |s| login(START + s * SECOND, ip, &format!("u{s}")) + "\n";
    seconds.into_iter().map(line).collect()
}

/// The address at which it serves.
fn address(running: &mut Running) -> String {
    running.wait_until_it_says("serving http://");
    running.wait_until_it_says(": following");
    let said = running.said();
    let at = said.split("serving http://").nth(1).unwrap();
    at.split_whitespace().next().unwrap().to_owned()
}

/// What a command of the client prints.
fn asked(service: &Service, at: &str, args: &[&str]) -> String {
    let url = format!("http://{at}");
    let output = run_in(&service.path(""), &[args, &["--url", &url]].concat(), b"");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn decisions(service: &Service, at: &str, more: &[&str]) -> Vec<Value> {
    let text = asked(service, at, &[&["decisions", "--output", "json"], more].concat());
    let body: Value = serde_json::from_str(&text).unwrap();
    body["decisions"].as_array().unwrap().clone()
}

#[test]
fn an_alert_that_is_prolonged_in_silence_shows_the_end_that_stands() {
    let rules = "rules: [{ id: fresh, title: t, on: FAILED_LOGIN, per: ip, when: count >= 3 within 1h, then: alert for 1h }]";
    for state in ["", "state_dir: ./state\n"] {
        let mut service = service(state, rules);
        let mut running = service.start();
        let at = address(&mut running);
        let ends = |more: &[&str]| -> Vec<String> {
            let all = decisions(&service, &at, more);
            all.iter().map(|one| one["until"].as_str().unwrap().to_owned()).collect()
        };
        // What is over stays behind it in the history.
        let newest = |got: Vec<String>| got.into_iter().take(1).collect::<Vec<_>>();
        let mut end_is = |second: i64| {
            let want = portcullis::decode::time::format(START + (3600 + second) * SECOND);
            let is = |got: &[String]| got == [want.clone()];
            until(|| running.goes_on() && is(&ends(&[])), &|| format!("{want}: {:?}", ends(&[])));
            let was = || newest(ends(&["--history"]));
            assert!(state.is_empty() || is(&was()), "{want}: {:?}", was());
        };
        service.append(LOG, &failures(0..3, "203.0.113.7"));
        end_is(2);
        service.append(LOG, &failures(100..103, "203.0.113.7"));
        end_is(102);
        // Begun and prolonged before anything of it lasts.
        service.append(LOG, &failures(4000..4006, "203.0.113.7"));
        end_is(4005);
        running.signal("HUP");
        running.wait_until_it_says("reloaded");
        service.append(LOG, &failures(4100..4103, "203.0.113.7"));
        let want = portcullis::decode::time::format(START + (3600 + 4102) * SECOND);
        until(|| running.goes_on() && ends(&[]) == [want.clone()], &|| want.clone());
        running.stop();
    }
}

#[test]
fn what_is_told_of_counts_and_of_orders_outlives_a_restart() {
    let rules = "rules: [{ id: block, title: t, on: FAILED_LOGIN, per: ip, when: count > 20 within 1h, then: block for 1h }]";
    let mut service = service("state_dir: ./state\n", rules);
    let mut running = service.start();
    let mut at = address(&mut running);
    // The clock lies two records behind.
    service.append(LOG, &failures([0, 600, 1200, 1800], "203.0.113.7"));
    let why = |service: &Service, at: &str, who: &str| asked(service, at, &["why", who]);
    let counted = |service: &Service, at: &str| {
        why(service, at, "203.0.113.7").contains("4 of 21 FAILED_LOGIN")
    };
    until(|| running.goes_on() && counted(&service, &at), &|| why(&service, &at, "203.0.113.7"));
    let order = ["block", "198.51.100.9", "--for", "7d", "--because", "seen in the logs"];
    asked(&service, &at, &order);
    let told = |service: &Service, at: &str| {
        let reasons = |more: &[&str]| decisions(service, at, more)[0]["reason"].clone();
        (why(service, at, "198.51.100.9"), reasons(&[]), reasons(&["--history"]))
    };
    let before = told(&service, &at);
    let (stands, reason, history) = &before;
    assert!(stands.contains(": seen in the logs"), "{stands}");
    assert!(reason.as_str().unwrap().ends_with(": seen in the logs"), "{reason}");
    assert_eq!(history, reason);
    // Of what a rule decides, its line has more to say than its title.
    service.append(LOG, &failures(1801..1822, "203.0.113.8"));
    let blocked = |service: &Service, at: &str| why(service, at, "203.0.113.8");
    let sentence = ": 21 FAILED_LOGIN from 203.0.113.8 within 1h";
    let says = |service: &Service, at: &str| blocked(service, at).contains(sentence);
    until(|| running.goes_on() && says(&service, &at), &|| blocked(&service, &at));
    let before = told(&service, &at);
    // From what was captured at the end, and from the journal.
    for killed in [false, true] {
        if killed {
            running.kill();
        } else {
            running.stop();
        }
        running = service.start();
        at = address(&mut running);
        assert!(counted(&service, &at), "{}", why(&service, &at, "203.0.113.7"));
        assert_eq!(told(&service, &at), before);
        assert!(says(&service, &at), "{}", blocked(&service, &at));
    }
}

/// The counters of the page of figures.
fn counters(at: &str) -> BTreeMap<String, f64> {
    let mut stream = TcpStream::connect(at).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let samples = page.lines().filter_map(|line| line.rsplit_once(' '));
    let counters = samples.filter(|(name, _)| !name.starts_with('#') && name.contains("_total"));
    counters.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

#[test]
fn no_counter_falls_when_rules_come_and_go() {
    let pattern = "patterns:\n  CARD:\n    title: t\n    read: 'CARD: ip={ip}'\n    tests: [{ line: 'CARD: ip=203.0.113.7', gives: { ip: 203.0.113.7 } }]\n";
    let fresh = "{ id: fresh, title: t, on: FAILED_LOGIN, per: ip, when: count >= 1 within 1h, then: alert }";
    let card = "{ id: card, title: t, on: CARD, per: ip, when: count >= 1 within 1h, then: alert }";
    let with = format!("{pattern}rules: [{fresh}, {card}]\n");
    let without = format!("rules: [{fresh}]\n");
    let mut service = service("", &with);
    let mut running = service.start();
    let at = address(&mut running);
    let mut last = BTreeMap::new();
    for (n, rules) in [&with, &without, &with, &without, &with].into_iter().enumerate() {
        if n > 0 {
            service.write("rules.yaml", &format!("pack: p\n{rules}"));
            running.signal("HUP");
            until(|| running.goes_on() && running.said().matches("reloaded").count() == n, &|| {
                format!("reload {n}")
            });
        }
        let n = i64::try_from(n).unwrap();
        let ip = format!("203.0.113.{n}");
        let time = portcullis::decode::time::format(START + n * 10 * SECOND);
        let card = format!("{time} [WARN] CARD: ip={ip}\n{time} [WARN] CARD: drifted\n");
        service.append(LOG, &(card + &failures([n * 10 + 1], &ip)));
        let started = |of: &BTreeMap<String, f64>| {
            of.get(r#"portcullis_actions_total{rule="fresh",op="start"}"#).copied()
        };
        let want = Some(n as f64 + 1.0);
        until(|| running.goes_on() && started(&counters(&at)) == want, &|| {
            format!("{:?}", counters(&at))
        });
        let now = counters(&at);
        for (name, before) in &last {
            let after = now.get(name).unwrap_or_else(|| panic!("{name} is gone: {now:?}"));
            assert!(after >= before, "{name} was {before} and is {after}");
        }
        last = now;
    }
    assert_eq!(last[r#"portcullis_events_total{pattern="CARD"}"#].to_string(), "3");
    running.stop();
}

#[test]
fn a_sink_that_works_again_says_so_once() {
    let rules = "rules: [{ id: fresh, title: t, on: FAILED_LOGIN, per: ip, when: count >= 1 within 1h, then: alert }]";
    let mut service = service("sinks:\n  - file: { path: out/actions.jsonl }\n", rules);
    fs::create_dir(service.path("out")).unwrap();
    let mut running = service.start();
    let at = address(&mut running);
    let fires = |n: i64| service.append(LOG, &failures([n], &format!("203.0.113.{n}")));
    let state = || {
        let said = asked(&service, &at, &["status"]);
        said.lines().find(|line| line.contains("actions.jsonl")).unwrap_or_default().to_owned()
    };
    fires(1);
    until(|| service.lines("out/actions.jsonl").len() == 1, &|| running.said());
    let again = ": works again; what came meanwhile is lost to it";
    for round in 1..=2 {
        fs::remove_dir_all(service.path("out")).unwrap();
        fires(round * 10);
        until(|| state().contains("failing"), &state);
        fires(round * 10 + 1);
        until(|| state().contains("failing"), &state);
        assert_eq!(running.said().matches(again).count() + 1, usize::try_from(round).unwrap());
        fs::create_dir(service.path("out")).unwrap();
        fires(round * 10 + 2);
        until(|| state().contains("working"), &state);
        fires(round * 10 + 3);
        let last = format!("203.0.113.{}", round * 10 + 3);
        let came = || service.lines("out/actions.jsonl").iter().any(|line| line.contains(&last));
        until(came, &|| running.said());
        let said = running.said();
        assert_eq!(said.matches(again).count(), usize::try_from(round).unwrap(), "{said}");
        assert_eq!(said.matches("its lines are lost").count(), usize::try_from(round).unwrap());
    }
    running.goes_on();
}
