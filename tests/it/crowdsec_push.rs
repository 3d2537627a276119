//! The sink `crowdsec` against a real CrowdSec: Debian's package, taken apart by
//! `tests/crowdsec/lapi.sh` and not installed. What it shows its operator is what counts. A double stands
//! in only for what the real one does not do on demand.

use crate::double::{Answer, Double, Request};
use crate::remotes::{action, at, done, instant, later, mistakes, open, refused, secret};
use crate::support::root;
use portcullis::action::{Action, Op};
use portcullis::decode::time;
use portcullis::sink::Context;
use portcullis::sink::remote::{Progress, Remote};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PASSWORD: &str = "machine-secret";

/// A running Local API.
struct Lapi {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Lapi {
    fn start(folder: &std::path::Path) -> Self {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        Self::start_at(folder.to_owned(), port)
    }

    fn start_at(folder: PathBuf, port: u16) -> Self {
        let script = root().join("tests/crowdsec/lapi.sh");
        let child = Command::new(&script)
            .args(["run", folder.to_str().unwrap(), &port.to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lapi = Self { folder, port, child };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if lapi.child.try_wait().unwrap().is_some() {
                let mut said = String::new();
                let mut stderr = lapi.child.stderr.take().unwrap();
                std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
                panic!("CrowdSec did not start: {said}{}", lapi.log());
            }
            assert!(began.elapsed() < Duration::from_secs(120), "not there: {}", lapi.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        lapi
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("crowdsec.log")).unwrap_or_default()
    }

    fn cscli(&self, args: &[&str]) -> String {
        let output = Command::new(root().join("tests/crowdsec/lapi.sh"))
            .arg("cscli")
            .arg(&self.folder)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is in force (without `--all`, this version lists only its own origins): origin, scope, value, scenario and seconds that are left.
    fn decisions(&self) -> Vec<(String, String, i64)> {
        let listed: Value =
            serde_json::from_str(&self.cscli(&["decisions", "list", "--all", "-o", "json"]))
                .unwrap();
        let alerts = listed.as_array().into_iter().flatten();
        let decisions = alerts.flat_map(|alert| alert["decisions"].as_array().unwrap().clone());
        let mut all: Vec<(String, String, i64)> = decisions
            .map(|one| {
                let text = |name: &str| one[name].as_str().unwrap().to_owned();
                let who = format!("{} {} {}", text("origin"), text("scope"), text("value"));
                let left = time::parse_duration(&short(&text("duration"))).unwrap() / 1_000_000;
                (who, text("scenario"), left)
            })
            .collect();
        all.sort();
        all
    }

    fn sink(&self, password: &str) -> Box<dyn Remote> {
        sink(&format!("http://127.0.0.1:{}/", self.port), password)
    }
}

impl Drop for Lapi {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _gone = self.child.wait();
    }
}

/// Go's `1h2m3.45s` in whole seconds.
fn short(duration: &str) -> String {
    let mut seconds = 0;
    let mut number = String::new();
    for c in duration.chars() {
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => {
                number.push(c);
                continue;
            }
        };
        seconds +=
            std::mem::take(&mut number).split('.').next().unwrap().parse::<i64>().unwrap() * unit;
    }
    format!("{seconds}s")
}

fn sink(url: &str, password: &str) -> Box<dyn Remote> {
    let password = secret(password);
    let path = password.path().display();
    let entry = format!(
        "crowdsec: {{ url: '{url}', machine_id: portcullis, password: {{ file: '{path}' }} }}"
    );
    open(&entry, &Context::default()).unwrap()
}

/// This machine's time: CrowdSec has no other.
#[expect(clippy::disallowed_methods, reason = "the peer goes by the wall clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn after(seconds: i64) -> String {
    let now = now().duration_since(UNIX_EPOCH).unwrap();
    time::format(i64::try_from(now.as_micros()).unwrap() + seconds * 1_000_000)
}

fn block(id: &str, kind: &str, value: &str, until: &str) -> Action {
    action(&json!({
        "id": id, "decision": id, "target": { "kind": kind, "value": value }, "until": until,
        "count": 21, "window_s": 3600, "first_seen": instant(-600),
    }))
}

fn ended(start: &Action, time: String) -> Action {
    Action { op: Op::End, until: None, time, ..start.clone() }
}

fn deliver(sink: &mut Box<dyn Remote>, actions: &[Action]) {
    assert_eq!(sink.deliver(actions, now()), Progress::all(actions));
}

#[test]
fn a_ban_reaches_a_real_crowdsec_and_is_lifted_again() {
    let folder = tempfile::tempdir().unwrap();
    let lapi = Lapi::start(folder.path());
    let mut sink = lapi.sink(PASSWORD);
    let told = sink.test(now()).unwrap();
    assert!(told.contains("logged in as the machine portcullis, until 20"), "{told}");
    let one = block("a1", "ip", "203.0.113.7", &after(3600));
    let range = block("b1", "range", "2001:db8:1:2::/64", &after(1800));
    deliver(&mut sink, &[one.clone(), range.clone(), block("c1", "ip", "192.0.2.9", &after(-1))]);
    let close = |left: i64, want: i64| (want - 60..=want + 1).contains(&left);
    let listed = lapi.decisions();
    assert_eq!(listed.len(), 2, "{listed:?}\n{}", lapi.log());
    assert_eq!(listed[0].0, "portcullis Ip 203.0.113.7");
    assert_eq!(listed[0].1, "too-many");
    assert!(close(listed[0].2, 3600), "{listed:?}");
    assert_eq!(listed[1].0, "portcullis Range 2001:db8:1:2::/64");
    assert!(close(listed[1].2, 1800), "{listed:?}");
    // Of two for one address the longer holds.
    let longer =
        Action { op: Op::Extend, id: "a2".into(), until: Some(after(7200)), ..one.clone() };
    deliver(&mut sink, &[longer.clone(), longer]);
    let most = |value: &str| {
        let all = lapi.decisions();
        all.iter().filter(|one| one.0.ends_with(value)).map(|one| one.2).max()
    };
    assert!(close(most("203.0.113.7").unwrap(), 7200), "{:?}", lapi.decisions());
    // What its operator decided stays.
    lapi.cscli(&["decisions", "add", "--ip", "203.0.113.7", "--duration", "2h"]);
    deliver(&mut sink, &[ended(&one, after(0))]);
    let left: Vec<String> = lapi.decisions().into_iter().map(|one| one.0).collect();
    assert_eq!(left, ["cscli Ip 203.0.113.7", "portcullis Range 2001:db8:1:2::/64"]);
    // A lift after a restart, of what is not remembered.
    let mut sink = lapi.sink(PASSWORD);
    deliver(&mut sink, &[ended(&range, after(0)), ended(&range, after(0))]);
    assert_eq!(lapi.decisions().len(), 1);
    // Many at once, and all of them taken away.
    let many: Vec<Action> = (0..120)
        .map(|n| block(&format!("m{n}"), "ip", &format!("198.51.100.{n}"), &after(600)))
        .collect();
    deliver(&mut sink, &many);
    assert_eq!(most("198.51.100.119").map(|left| close(left, 600)), Some(true));
    assert_eq!(sink.clean().unwrap(), "deleted 120 decisions of the origin portcullis");
    let left: Vec<String> = lapi.decisions().into_iter().map(|one| one.0).collect();
    assert_eq!(left, ["cscli Ip 203.0.113.7"]);
}

#[test]
fn a_real_crowdsec_that_was_restarted_is_logged_into_again() {
    let folder = tempfile::tempdir().unwrap();
    let lapi = Lapi::start(folder.path());
    let mut sink = lapi.sink(PASSWORD);
    deliver(&mut sink, &[block("a1", "ip", "203.0.113.7", &after(3600))]);
    let port = lapi.port;
    drop(lapi);
    let second = block("b1", "ip", "203.0.113.8", &after(3600));
    let progress = sink.deliver(std::slice::from_ref(&second), now());
    assert!(matches!(progress.trouble, Some(portcullis::sink::remote::Trouble::Later { .. })));
    // Its new secret takes none of the old tokens.
    let lapi = Lapi::start_at(folder.path().to_owned(), port);
    // A connection that the first one still took may be reset only now; it is tried again, as ever.
    let progress = sink.deliver(std::slice::from_ref(&second), now());
    if progress.trouble.is_some() {
        deliver(&mut sink, &[second]);
    }
    assert_eq!(lapi.decisions().len(), 2);
    let mut wrong = lapi.sink("wrong-secret");
    let why = wrong.test(now()).unwrap_err();
    assert!(why.contains("does not know the machine portcullis with this password"), "{why}");
    assert!(!why.contains("wrong-secret"), "{why}");
}

/// A double that logs in, and answers the rest with `answer`.
fn double(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Double {
    Double::new(move |request: &Request| match request.path.as_str() {
        "/v1/watchers/login" => {
            let body = request.json();
            assert_eq!(body["password"], PASSWORD);
            Answer::new(200)
                .json(&json!({ "code": 200, "expire": instant(3600), "token": "token-1" }))
        }
        _ => answer(request),
    })
}

#[test]
fn all_that_an_alert_must_have_is_there_and_durations_are_whole() {
    let double = double(|_| Answer::new(201).json(&json!(["1"])));
    let mut sink = sink(&double.url(""), PASSWORD);
    let start = block("a1", "ip", "203.0.113.7", &instant(3600).replace(".000000Z", ".000001Z"));
    done(&mut sink, &[start], 3599);
    let asked = double.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].header("authorization"), Some("Bearer token-1"));
    let want = json!([{
        "scenario": "too-many", "scenario_hash": "", "scenario_version": "",
        "message": "21 FAILED_LOGIN from 203.0.113.7 within 1h", "events_count": 21,
        "start_at": instant(-600), "stop_at": instant(3599), "capacity": 0, "leakspeed": "3600s",
        "simulated": false, "events": [],
        "source": { "scope": "Ip", "value": "203.0.113.7", "ip": "203.0.113.7" },
        "decisions": [{
            "origin": "portcullis", "type": "ban", "scope": "Ip", "value": "203.0.113.7",
            "duration": "2s", "scenario": "too-many",
        }],
    }]);
    assert_eq!(asked[1].json(), want);
}

#[test]
fn a_login_is_kept_while_it_lasts_and_renewed_before_it_ends() {
    let double = double(|_| Answer::new(200).json(&json!({ "nbDeleted": "1" })));
    let mut sink = sink(&double.url(""), PASSWORD);
    let lift = ended(&block("a1", "ip", "203.0.113.7", &instant(9000)), instant(5));
    for second in [0, 1000, 3539, 3540] {
        done(&mut sink, std::slice::from_ref(&lift), second);
    }
    let paths: Vec<String> = double.requests().into_iter().map(|asked| asked.path).collect();
    let logins = paths.iter().filter(|path| path.contains("login")).count();
    assert_eq!((logins, paths.len()), (2, 6), "{paths:?}");
    assert_eq!(paths[1], "/v1/decisions?scopes=Ip&value=203.0.113.7&type=ban&origin=portcullis");
}

#[test]
fn one_that_is_wrong_does_not_hold_up_the_others() {
    let double = double(|request: &Request| {
        if request.text().contains("203.0.113.8") {
            let why = json!({ "message": "validation failure list:\n0.x in body is required" });
            return Answer::new(500).json(&why);
        }
        Answer::new(201).json(&json!(["1"]))
    });
    let mut sink = sink(&double.url(""), PASSWORD);
    let block = |n: u8| block(&format!("a{n}"), "ip", &format!("203.0.113.{n}"), &instant(3600));
    let all = [block(7), block(8), block(9)];
    let progress = sink.deliver(&all, at(0));
    assert_eq!(progress.done, 1, "{progress:?}");
    assert!(progress.trouble.unwrap().why().contains("validation failure"));
    refused(&mut sink, &all[1], 0);
    done(&mut sink, &all[2..], 0);
}

#[test]
fn what_ends_by_itself_needs_no_call() {
    let double = double(|_| Answer::new(201).json(&json!(["1"])));
    let mut sink = sink(&double.url(""), PASSWORD);
    let start = block("a1", "ip", "203.0.113.7", &instant(3600));
    done(&mut sink, &[start.clone(), ended(&start, instant(3600))], 0);
    assert_eq!(double.requests().len(), 2, "a login and an alert");
    double.forget();
    // What is over before it is sent is not sent.
    done(&mut sink, &[block("b1", "ip", "203.0.113.7", &instant(100))], 100);
    assert!(double.requests().is_empty());
    let shadow = Action { mode: "shadow", ..start.clone() };
    let lock = Action { action: "lock", ..start.clone() };
    assert!(!sink.wants(&shadow) && !sink.wants(&lock) && sink.acts());
}

#[test]
fn errors_are_told_apart_and_hold_no_secret() {
    let double = double(|request: &Request| {
        let token = request.header("authorization").unwrap().to_owned();
        match request.method.as_str() {
            "POST" => Answer::new(403).body(format!("{token} {PASSWORD}")),
            _ => Answer::new(500).json(&json!({ "message": "database is locked" })),
        }
    });
    let mut sink = sink(&double.url(""), PASSWORD);
    let start = block("a1", "ip", "203.0.113.7", &instant(3600));
    let (why, _) = later(&mut sink, &start, 0);
    assert!(!why.contains("token-1") && !why.contains(PASSWORD), "{why}");
    later(&mut sink, &ended(&start, instant(5)), 0);
    assert!(!format!("{sink:?}").contains("token-1"));
}

#[test]
fn options_are_checked() {
    let told = mistakes("crowdsec: {}");
    for key in ["url", "machine_id", "password"] {
        assert!(told.contains(&format!("needs `{key}`")), "{told}");
    }
    let with = |more: &str| {
        let rest = "url: 'http://127.0.0.1:8080', machine_id: m, password: { env: P }";
        mistakes(&format!("crowdsec: {{ {rest}, {more} }}"))
    };
    assert_eq!(with("origin: gate-1, name: main"), "");
    assert!(with("origin: CAPI").contains("is one of CrowdSec's own"));
    assert!(with("origin: 'a b'").contains("is no short name"));
    assert!(with("orign: a").contains("did you mean `origin`?"));
}
