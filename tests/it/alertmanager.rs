//! The sink `alertmanager` against a real Prometheus Alertmanager, which
//! `tests/alertmanager/alertmanager.sh` fetches and starts.
//!
//! Nothing here is skipped: without Debian's apt these tests fail and say what to install.

use crate::double::{Answer, Double};
use crate::support::root;
use crate::webhook::{configured, every_kind, now, secret, sink};
use portcullis::action::decision::Decision;
use portcullis::action::{Action, Op, Target};
use portcullis::decode::time;
use portcullis::sink::Context;
use portcullis::sink::http::{Client, Method};
use portcullis::sink::remote::{Progress, Trouble};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(60);

/// An Alertmanager at work. It ends when its standard input is let go.
struct Server {
    child: Child,
    _alive: ChildStdin,
    folder: tempfile::TempDir,
    address: String,
}

impl Server {
    fn start() -> Self {
        Self::at("0", tempfile::tempdir().unwrap())
    }

    fn at(port: &str, folder: tempfile::TempDir) -> Self {
        let mut child = Command::new("bash")
            .arg(root().join("tests/alertmanager/alertmanager.sh"))
            .arg("run")
            .arg(folder.path().join("alertmanager"))
            .arg(port)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = child.stdin.take().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("no Alertmanager: {said}") };
            said.push_str(&line);
            said.push('\n');
            if let Some((_, address)) = line.split_once("msg=\"Listening on\" address=") {
                break address.trim().to_owned();
            }
        };
        // Nobody may wait for this pipe to be read.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { child, _alive: alive, folder, address };
        let deadline = Instant::now() + PATIENCE;
        while server.get("/-/ready").is_none() {
            assert!(Instant::now() < deadline, "{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Killed, and started anew at the same address with nothing that it knew.
    fn restarted(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let port = self.address.rsplit(':').next().unwrap().to_owned();
        let fresh = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        drop(fresh);
        Self::at(&port, tempfile::tempdir().unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn get(&self, path: &str) -> Option<String> {
        let client = Client::new(None).unwrap();
        let answer = client.call(Method::Get, &format!("{}{path}", self.url()), &[], None).ok()?;
        answer.is_ok().then_some(answer.body)
    }

    /// The alerts that are not over.
    fn alerts(&self) -> Vec<Value> {
        let body = self.get("/api/v2/alerts").expect("an answer");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A time so many seconds from now, as it stands in a line.
fn from_now(seconds: i64) -> String {
    let micros = i64::try_from(now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
    time::format(micros + seconds * 1_000_000)
}

/// A time in milliseconds: finer ones Alertmanager does not keep.
fn instant(text: &Value) -> Option<i64> {
    portcullis::action::decision::instant_of(text.as_str()?).map(|micros| micros / 1000)
}

fn start(rule: &str, target: &str) -> Action {
    let like = every_kind().into_iter().find(|action| action.rule == "lock").unwrap();
    Action {
        id: format!("{rule:0>8}{target:0>8}"),
        decision: Some(format!("{rule:0>8}{target:0>8}")),
        rule: rule.into(),
        target: Target { kind: "user".into(), value: Some(target.into()) },
        time: from_now(-60),
        until: Some(from_now(3600)),
        ..like
    }
}

fn end_of(start: &Action) -> Action {
    let time = from_now(0);
    let reason = "lock ended".into();
    Action {
        op: Op::End,
        id: "e".repeat(16),
        time,
        until: None,
        count: None,
        reason,
        ..start.clone()
    }
}

#[test]
fn an_alert_lasts_as_long_as_its_decision() {
    let server = Server::start();
    let mut sink = sink(&format!(
        "alertmanager: {{ url: '{}', name: main, labels: {{ team: security }} }}",
        server.url()
    ));
    assert!(sink.test(now()).unwrap().starts_with("Alertmanager 0.25"));
    assert_eq!(server.alerts().len(), 0);

    let ann = start("guessing", "ann");
    let bob = start("guessing", "bob");
    let both = [ann.clone(), bob.clone()];
    assert_eq!(sink.deliver(&both, now()), Progress::all(&both));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), 2, "{alerts:#?}");
    let alert = alerts.iter().find(|alert| alert["labels"]["target"] == "ann").unwrap();
    assert_eq!(
        alert["labels"],
        json!({
            "alertname": "guessing", "severity": "warning", "priority": "P2", "action": "lock",
            "target_kind": "user", "target": "ann", "pack": "test", "source": "portcullis",
            "mode": "enforce", "respond_s": "1800", "notify": "user,security_team",
            "team": "security",
        })
    );
    assert_eq!(alert["annotations"]["summary"], json!(ann.reason));
    assert_eq!(alert["annotations"]["runbook_url"], "https://example.org/runbook#locked");
    assert_eq!(alert["annotations"]["decision"], json!(ann.decision));
    assert_eq!(instant(&alert["startsAt"]), instant(&json!(ann.time)));
    assert_eq!(instant(&alert["endsAt"]), instant(&json!(ann.until)));

    // Another rule extends the same decision: the same alert, with a later end.
    let later = Some(from_now(7200));
    let extend = Action {
        op: Op::Extend,
        id: "1".repeat(16),
        rule: "spraying".into(),
        level: Some("critical"),
        until: later.clone(),
        ..ann.clone()
    };
    let extends = [extend];
    assert_eq!(sink.deliver(&extends, now()), Progress::all(&extends));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), 2, "{alerts:#?}");
    let alert = alerts.iter().find(|alert| alert["labels"]["target"] == "ann").unwrap();
    assert_eq!(alert["labels"]["alertname"], "guessing");
    assert_eq!(instant(&alert["endsAt"]), instant(&json!(later)));

    // It ends before its time.
    assert_eq!(sink.deliver(&[end_of(&ann)], now()), Progress::all(&[end_of(&ann)]));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    assert_eq!(alerts[0]["labels"]["target"], "bob");
}

#[test]
fn a_start_and_its_end_at_once_leave_nothing() {
    let server = Server::start();
    let mut sink = sink(&format!("alertmanager: {{ url: '{}' }}", server.url()));
    let (ann, bob) = (start("guessing", "ann"), start("guessing", "bob"));
    let again = Action { decision: Some("another".into()), ..bob.clone() };
    let actions = [ann.clone(), bob.clone(), end_of(&ann), end_of(&bob), again];
    assert_eq!(sink.deliver(&actions, now()), Progress::all(&actions));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    assert_eq!(alerts[0]["annotations"]["decision"], "another");
}

#[test]
fn notes_pass_by_themselves_and_what_is_over_is_not_told() {
    let server = Server::start();
    let mut sink = sink(&format!("alertmanager: {{ url: '{}' }}", server.url()));
    // The stream of the examples is long over.
    let actions: Vec<Action> = every_kind().into_iter().filter(|a| sink.wants(a)).collect();
    assert!(actions.iter().all(|action| action.op != Op::Withheld));
    assert_eq!(sink.deliver(&actions, now()), Progress::all(&actions));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), 1, "{alerts:#?}");
    assert_eq!(alerts[0]["labels"]["alertname"], "brake");
    assert_eq!(alerts[0]["labels"]["op"], "note");
    let left = instant(&alerts[0]["endsAt"]).unwrap() - instant(&json!(from_now(0))).unwrap();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[test]
fn what_an_attacker_wrote_is_text_in_a_label() {
    let server = Server::start();
    let mut sink = sink(&format!("alertmanager: {{ url: '{}' }}", server.url()));
    let hostile =
        ["a\"}\n{b=\"c", "\u{0}\u{1b}[2J", "{{ .Labels }}", "é\u{202e}x", &"x".repeat(9000)];
    let starts: Vec<Action> = hostile
        .iter()
        .enumerate()
        .map(|(n, text)| Action { decision: Some(n.to_string()), ..start("guessing", text) })
        .collect();
    assert_eq!(sink.deliver(&starts, now()), Progress::all(&starts));
    let alerts = server.alerts();
    assert_eq!(alerts.len(), hostile.len(), "{alerts:#?}");
    for text in &hostile[..4] {
        assert!(alerts.iter().any(|alert| alert["labels"]["target"] == *text), "{text:?}");
    }
    let ends: Vec<Action> = starts.iter().map(end_of).collect();
    assert_eq!(sink.deliver(&ends, now()), Progress::all(&ends));
    assert_eq!(server.alerts().len(), 0);
}

#[test]
fn what_is_active_is_there_again_after_either_has_started_anew() {
    let server = Server::start();
    let yaml = format!("alertmanager: {{ url: '{}', labels: {{ team: security }} }}", server.url());
    let (ann, bob) = (start("guessing", "ann"), start("guessing", "bob"));
    let active: Vec<Decision> =
        [&ann, &bob].into_iter().map(|start| Decision::of_start(start).unwrap()).collect();
    let mut first = sink(&yaml);
    assert_eq!(first.deliver(&[ann.clone(), bob.clone()], now()).trouble, None);
    assert_eq!(first.reconcile(&active, now()), Ok(None));
    let before = server.alerts();
    assert_eq!(before.len(), 2);
    drop(first);

    // A new program knows the decisions, but not how they were told: it finds that there.
    let mut second = sink(&yaml);
    assert_eq!(second.reconcile(&active, now()), Ok(None));
    assert_eq!(server.alerts().len(), 2, "{:#?}", server.alerts());
    assert!(second.reconcile_every().is_some());

    // A new Alertmanager knows nothing, and is told the same again.
    let server = server.restarted();
    assert_eq!(server.alerts().len(), 0);
    assert_eq!(second.reconcile(&active, now()), Ok(None));
    let labels = |alerts: &[Value]| {
        let mut labels: Vec<String> = alerts.iter().map(|a| a["labels"].to_string()).collect();
        labels.sort();
        labels
    };
    assert_eq!(labels(&server.alerts()), labels(&before));

    // Both are new: it is told what a decision knows of itself, and the end still ends it.
    let server = server.restarted();
    let mut third = sink(&yaml);
    let mended = third.reconcile(&active, now()).unwrap();
    assert_eq!(mended.as_deref(), Some("2 alerts were not there any more"));
    assert_eq!(server.alerts().len(), 2, "{:#?}", server.alerts());
    assert_eq!(third.deliver(&[end_of(&ann), end_of(&bob)], now()).trouble, None);
    assert_eq!(server.alerts().len(), 0);

    third.deliver(&[ann.clone(), bob.clone()], now());
    assert_eq!(server.alerts().len(), 2);
    assert_eq!(third.clean().unwrap(), "2 alerts were ended");
    assert_eq!(server.alerts().len(), 0);
}

#[test]
fn one_that_is_refused_takes_no_other_with_it() {
    let double = Double::new(|request| {
        let bad = request.json().as_array().unwrap().iter().any(|a| a["labels"]["target"] == "bad");
        if bad { Answer::new(400).body("bad") } else { Answer::new(200) }
    });
    let mut sink = sink(&format!("alertmanager: {{ url: '{}/' }}", double.url("/prefix")));
    let starts = ["ann", "bad", "bob"].map(|name| start("guessing", name));
    let progress = sink.deliver(&starts, now());
    assert_eq!(progress.done, 1);
    assert!(matches!(progress.trouble, Some(Trouble::Refused { .. })), "{progress:?}");
    assert_eq!(sink.deliver(&starts[2..], now()), Progress::all(&starts[2..]));
    let asked = double.requests();
    assert!(asked.iter().all(|request| request.path == "/prefix/api/v2/alerts"));
    let alone = |name: &str| {
        let told = json!(name);
        asked.iter().any(|request| {
            request.json().as_array().unwrap().len() == 1
                && request.json()[0]["labels"]["target"] == told
        })
    };
    assert!(alone("ann") && alone("bad") && alone("bob"), "{asked:#?}");
}

#[test]
fn a_server_that_cannot_is_tried_again_and_the_key_is_shown() {
    let double = Double::new(|_| Answer::new(503));
    let (_file, bearer) = secret("t0ken");
    let mut sink =
        sink(&format!("alertmanager: {{ url: '{}', bearer: {bearer} }}", double.url("")));
    let progress = sink.deliver(&[start("guessing", "ann")], now());
    assert_eq!(progress.done, 0);
    assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
    assert_eq!(double.requests()[0].header("authorization"), Some("Bearer t0ken"));
    let active = [Decision::of_start(&start("guessing", "ann")).unwrap()];
    assert!(matches!(sink.reconcile(&active, now()), Err(Trouble::Later { .. })));
    assert!(sink.test(now()).is_err());
}

#[test]
fn what_alertmanager_would_refuse_is_no_configuration() {
    let wrong = |options: &str| configured(&format!("alertmanager: {options}")).unwrap_err();
    assert!(wrong("{}").contains("needs `url`"));
    let url = "url: 'http://alertmanager:9093'";
    assert!(wrong(&format!("{{ {url}, labels: {{ a.b: c }} }}")).contains("no name of a label"));
    assert!(wrong(&format!("{{ {url}, labels: {{ __a: c }} }}")).contains("no name of a label"));
    assert!(wrong(&format!("{{ {url}, labels: {{ target: c }} }}")).contains("set by Portcullis"));
    assert!(wrong("{ url: 'http://a:9093/api/v2/alerts' }").contains("without a path of its API"));
    let plain = wrong(&format!("{{ {url}, bearer: {{ env: A }} }}"));
    assert!(plain.contains("plain HTTP to another machine"), "{plain}");
    // Without a key, plain HTTP is how Alertmanager is run.
    let config = configured(&format!("alertmanager: {{ {url} }}")).unwrap();
    assert_eq!(config.name(), "alertmanager alertmanager:9093");
    assert!(!config.remote(&Context::default()).unwrap().acts());
}
