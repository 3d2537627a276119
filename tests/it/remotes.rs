//! What the tests of sinks on threads of their own share: such a sink from its settings, and actions
//! to hand to it, as the program would.
#![allow(dead_code, reason = "each test module uses some of it")]

use portcullis::action::Action;
use portcullis::action::decision::{Decision, instant_of};
use portcullis::action::identity::Identities;
use portcullis::config::Settings;
use portcullis::decode::time;
use portcullis::sink::remote::{Progress, Remote, Trouble};
use portcullis::sink::{Context, SinkConfig};
use portcullis::yaml::{Checker, Document};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 2026-11-24T12:00:00Z, at which these tests begin.
pub const NOON: i64 = 1_795_521_600;

/// So many seconds after noon.
pub fn at(second: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(NOON + second).unwrap())
}

/// The same as lines have it.
pub fn instant(second: i64) -> String {
    time::format((NOON + second) * 1_000_000)
}

/// The mistakes in one entry of `sinks`.
pub fn mistakes(entry: &str) -> String {
    let document = Document { name: "t.yaml".to_owned(), text: format!("sinks:\n  - {entry}\n") };
    let told = Settings::default().apply(&document);
    told.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The sink of one entry of `sinks`.
pub fn open(entry: &str, context: &Context) -> Result<Box<dyn Remote>, String> {
    let document = Document { name: "t.yaml".to_owned(), text: format!("sinks:\n  - {entry}\n") };
    let mut settings = Settings::default();
    let told = settings.apply(&document);
    assert!(told.is_empty(), "{told:?}");
    settings.sinks[0].remote(context)
}

/// What sinks get of the settings, with these accounts.
pub fn knowing(accounts: &[(&str, &str)]) -> Context {
    let mut identities = Identities::default();
    for (id, email) in accounts {
        identities.add(id, email);
    }
    Context { identities: Arc::new(identities), ..Context::default() }
}

/// A file with a secret.
pub fn secret(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

/// An action line with this beside what every one has.
pub fn action(of: &serde_json::Value) -> Action {
    let mut line = serde_json::json!({
        "schema": 1, "id": "00000000000000a1", "time": instant(0), "op": "start", "action": "block",
        "target": { "kind": "ip", "value": "203.0.113.7" }, "rule": "too-many", "pack": "test",
        "mode": "enforce", "reason": "21 FAILED_LOGIN from 203.0.113.7 within 1h",
    });
    for (key, value) in of.as_object().unwrap() {
        line[key] = value.clone();
    }
    Action::of_json(&line.to_string()).unwrap()
}

/// The decision of a start.
pub fn decision(start: &Action) -> Decision {
    let decision = Decision::of_start(start).unwrap();
    assert_eq!(Some(decision.until), instant_of(start.until.as_deref().unwrap()));
    decision
}

/// All of them are done.
pub fn done(sink: &mut Box<dyn Remote>, actions: &[Action], second: i64) {
    for action in actions {
        assert!(sink.wants(action), "{action:?}");
    }
    let progress = sink.deliver(actions, at(second));
    assert_eq!(progress, Progress::all(actions));
}

/// The first is refused, and why.
pub fn refused(sink: &mut Box<dyn Remote>, action: &Action, second: i64) -> String {
    assert!(sink.wants(action), "{action:?}");
    let progress = sink.deliver(std::slice::from_ref(action), at(second));
    match progress {
        Progress { done: 0, trouble: Some(Trouble::Refused { why }) } => why,
        other => panic!("{other:?}"),
    }
}

/// The first is for later, and why.
pub fn later(
    sink: &mut Box<dyn Remote>,
    action: &Action,
    second: i64,
) -> (String, Option<Duration>) {
    assert!(sink.wants(action), "{action:?}");
    let progress = sink.deliver(std::slice::from_ref(action), at(second));
    match progress {
        Progress { done: 0, trouble: Some(Trouble::Later { why, after }) } => (why, after),
        other => panic!("{other:?}"),
    }
}

/// A sink as it stands in the settings, or all that is wrong with it.
pub fn parse(text: &str) -> Result<SinkConfig, String> {
    let document = Document { name: "portcullis.yaml".into(), text: text.into() };
    let mut checker = Checker::new(&document);
    let node = checker.parse().unwrap();
    let config = SinkConfig::parse(&mut checker, &node);
    let told: Vec<String> = checker.problems.iter().map(ToString::to_string).collect();
    if told.is_empty() { Ok(config.unwrap()) } else { Err(told.join("\n")) }
}
