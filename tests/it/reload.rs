//! SIGHUP: rules are read again while a stream runs. What stays keeps its windows, what goes keeps its
//! decisions, and a mistake changes nothing.

use crate::service::{MINUTE, SECOND, START, Service, login, until};

const ACTIONS: &str = "actions.jsonl";

fn rule(id: &str, per: &str, when: &str, then: &str) -> String {
    format!(
        "  - {{ id: {id}, title: t, on: FAILED_LOGIN, per: {per}, when: '{when}', then: {then} }}\n"
    )
}

fn service(more: &str) -> Service {
    let rules = format!(
        "pack: p\nrules:\n{}{}",
        rule("gone", "user", "count >= 5 within 1h", "lock for 30m"),
        rule("stays", "ip", "count > 20 within 1h", "block for 2h"),
    );
    let velro = "rules: { ip-blocking: off, user-account-lockout: off, failed-logins-per-ip: off, \
                 failed-logins-per-user: off }\n";
    let config = format!(
        "patterns: [velro, ./rules.yaml]\n{velro}source: {{ files: [app.log], follow: true }}\n\
         sinks:\n  - file: {{ path: {ACTIONS} }}\n{more}"
    );
    let service = Service::new(&config, &rules);
    service.append("app.log", "");
    service
}

/// What the pack's own rules have said: op, rule, target.
fn told(service: &Service) -> Vec<String> {
    let lines = service.lines(ACTIONS);
    let values = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ours = values.filter(|line| line["pack"] == "p");
    ours.map(|line| {
        let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        [word(&line["op"]), word(&line["rule"]), word(&line["target"]["value"])].join(" ")
    })
    .collect()
}

fn attempts(service: &Service, from: i64, count: i64, ip: &str) {
    let lines: String =
        (0..count).map(|n| login(START + (from + n) * SECOND, ip, "anna") + "\n").collect();
    service.append("app.log", &lines);
}

fn wait(service: &Service, expected: &[&str]) {
    until(|| told(service).len() >= expected.len(), &|| format!("{:?}", told(service)));
    assert_eq!(told(service), expected);
}

fn what_stays_and_what_goes(more: &str, lasting: bool) {
    let mut service = service(more);
    let mut running = service.start();
    attempts(&service, 0, 15, "203.0.113.7");
    wait(&service, &["start gone anna@example.org"]);
    running.wait_until_it_says("following");
    // Another place, another rule beside it, and one less.
    let rules = format!(
        "pack: p\nrules:\n{}{}",
        rule("fresh", "ip", "count >= 12 within 1h", "alert"),
        rule("stays", "ip", "count > 20 within 1h", "block for 2h"),
    );
    service.write("rules.yaml", &rules);
    // The file of actions has been rotated meanwhile.
    std::fs::rename(service.path(ACTIONS), service.path("actions.1")).unwrap();
    running.signal("HUP");
    running.wait_until_it_says("reloaded");
    attempts(&service, 15, 6, "203.0.113.7");
    wait(&service, &["start stays 203.0.113.7"]);
    attempts(&service, 30, 12, "198.51.100.9");
    wait(&service, &["start stays 203.0.113.7", "start fresh 198.51.100.9"]);
    if lasting {
        // Its journal was written under two sets of rules.
        running.kill();
        running = service.start();
    }
    // Half an hour later what the rule that has gone had locked is over.
    attempts(&service, 40 * MINUTE / SECOND, 5, "192.0.2.1");
    wait(
        &service,
        &["start stays 203.0.113.7", "start fresh 198.51.100.9", "end gone anna@example.org"],
    );
    let first = std::fs::read_to_string(service.path("actions.1")).unwrap();
    assert!(first.contains(r#""rule":"gone""#) && !first.contains(r#""rule":"stays""#));
    running.stop();
}

#[test]
fn what_stays_keeps_its_windows_and_what_goes_its_decisions() {
    what_stays_and_what_goes("threads: 2\n", false);
}

#[test]
fn the_same_with_a_state_directory_and_a_kill() {
    what_stays_and_what_goes("threads: 1\nstate_dir: ./state\n", true);
}

#[test]
fn a_mistake_changes_nothing_and_is_said() {
    let mut service = service("state_dir: ./state\n");
    let mut running = service.start();
    attempts(&service, 0, 15, "203.0.113.7");
    wait(&service, &["start gone anna@example.org"]);
    service.write("rules.yaml", "pack: p\nrules:\n  - { id: stays, titel: t }\n");
    running.signal("HUP");
    running.wait_until_it_says("nothing was changed");
    assert!(running.said().contains("`title`"), "{}", running.said());
    attempts(&service, 15, 6, "203.0.113.7");
    wait(&service, &["start gone anna@example.org", "start stays 203.0.113.7"]);
    running.stop();
}

#[test]
fn many_reloads_while_lines_pour_in_lose_and_repeat_nothing() {
    let mut service = service("threads: 2\nblock: 4096\nstate_dir: ./state\n");
    let mut running = service.start();
    // Before it listens, a signal ends it.
    running.wait_until_it_says("following");
    for round in 0..40 {
        attempts(&service, round * 60, 21, &format!("203.0.113.{round}"));
        if round % 3 == 0 {
            running.signal("HUP");
        }
    }
    let blocks = |service: &Service| {
        told(service).into_iter().filter(|line| line.starts_with("start stays")).collect::<Vec<_>>()
    };
    until(|| running.goes_on() && blocks(&service).len() >= 40, &|| {
        format!("{:?}", told(&service))
    });
    let expected: Vec<String> =
        (0..40).map(|round| format!("start stays 203.0.113.{round}")).collect();
    assert_eq!(blocks(&service), expected);
    running.stop();
}
