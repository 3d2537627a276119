//! The sink `mail` against a real SMTP server: PyPI's aiosmtpd, fetched once by `tests/mail/smtp.sh`. What
//! it received is what counts, as Python's own parser reads it.

use crate::remotes::{action, at, done, instant, knowing, mistakes, open, secret};
use crate::support::root;
use portcullis::action::{Action, Op};
use portcullis::sink::Context;
use portcullis::sink::remote::{Progress, Remote, Trouble};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "smtp-secret";

/// A running server.
struct Smtp {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Smtp {
    /// `kind`: plain, starttls or tls; the last two demand a login.
    fn start(kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(root().join("tests/mail/smtp.sh"))
            .args(["run", folder.path().to_str().unwrap(), kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(port) = line.trim().parse() else {
            let mut said = String::new();
            let mut stderr = child.stderr.take().unwrap();
            std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
            panic!("the SMTP server did not start: {line}{said}");
        };
        Self { folder, port, child }
    }

    /// What it received so far, in order: sender, recipients, headers and text.
    fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("mails")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn subjects(&self) -> Vec<String> {
        self.mails().iter().map(|mail| mail["subject"].as_str().unwrap().to_owned()).collect()
    }

    fn open(&self, more: &str, context: &Context) -> Box<dyn Remote> {
        let port = self.port;
        let from = "from: 'Gate <gate@velro.test>', to: [ops@velro.test, sec@velro.test]";
        let entry = format!("mail: {{ smtp: '127.0.0.1:{port}', tls: none, {from}, {more} }}");
        open(&entry, context).unwrap()
    }
}

impl Drop for Smtp {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _gone = self.child.wait();
    }
}

fn block(n: usize) -> Action {
    action(&json!({
        "id": format!("{n:016x}"), "target": { "kind": "ip", "value": format!("203.0.113.{n}") },
        "severity": "P2", "count": 21, "notify": ["security_team"], "until": instant(3600),
        "reason": format!("21 FAILED_LOGIN from 203.0.113.{n} within 1h"),
        "users": { "distinct": 3, "sample": ["ann@example.org"] },
    }))
}

fn lock(id: &str, kind: &str, value: &str) -> Action {
    action(&json!({
        "id": id, "decision": id, "action": "lock", "target": { "kind": kind, "value": value },
        "until": instant(3600), "rule": "lockout", "pattern": "FAILED_LOGIN", "notify": ["user"],
        "reason": "6 FAILED_LOGIN of somebody within 10m",
    }))
}

fn ended(start: &Action, second: i64) -> Action {
    Action { op: Op::End, id: "f".into(), until: None, time: instant(second), ..start.clone() }
}

/// Everybody hears, users too, and what acts does.
fn everybody() -> Context {
    let receives = Some(vec!["security_team".to_owned(), "user".to_owned()]);
    Context { receives, armed: true, ..Context::default() }
}

#[test]
fn those_who_watch_are_told_and_text_from_a_log_stays_text() {
    let smtp = Smtp::start("plain");
    let mut sink = smtp.open("name: ops", &Context::default());
    assert_eq!(sink.name(), "mail ops");
    assert!(!sink.acts());
    assert!(sink.test(at(0)).unwrap().contains("answers"));
    let mut odd = block(8);
    odd.reason =
        "x\r\nBcc: victim@example.org\r\n\r\n.\r\nQUIT\u{202e}\u{7} ".to_owned() + &"y".repeat(999);
    odd.rule = "rule\r\nX-Evil: 1".to_owned();
    done(&mut sink, &[block(7), odd], 0);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 2, "{mails:#?}");
    assert_eq!(
        mails[0]["subject"],
        "[portcullis] P2 block 203.0.113.7: 21 FAILED_LOGIN from 203.0.113.7 within 1h"
    );
    assert_eq!(mails[0]["sender"], "gate@velro.test");
    assert_eq!(mails[0]["recipients"], json!(["ops@velro.test", "sec@velro.test"]));
    assert_eq!(mails[0]["headers"]["Auto-Submitted"], "auto-generated");
    assert_eq!(mails[0]["headers"]["Message-ID"], "<0000000000000007.1@portcullis.velro.test>");
    assert_eq!(mails[0]["headers"]["From"], "Gate <gate@velro.test>");
    assert_eq!(mails[0]["type"], "text/plain");
    let text = mails[0]["text"].as_str().unwrap();
    for part in ["users       3 (ann@example.org)", "count       21", "rule        too-many (test)"]
    {
        assert!(text.contains(part), "{text}");
    }
    let headers = mails[1]["headers"].as_object().unwrap();
    assert!(!headers.contains_key("Bcc") && !headers.contains_key("X-Evil"), "{headers:?}");
    assert_eq!(mails[1]["recipients"], mails[0]["recipients"]);
    let subject = mails[1]["subject"].as_str().unwrap();
    assert!(!subject.chars().any(char::is_control) && subject.chars().count() < 170, "{subject}");
    let text = mails[1]["text"].as_str().unwrap();
    assert!(text.contains("QUIT") && !text.contains(['\u{202e}', '\u{7}']), "{text}");
    // An extension and an end are no news.
    assert!(!sink.wants(&Action { op: Op::Extend, ..block(7) }));
    assert!(!sink.wants(&ended(&block(7), 3600)));
}

#[test]
fn a_burst_becomes_one_message_and_nothing_is_lost() {
    let smtp = Smtp::start("plain");
    let mut sink = smtp.open("max_messages_per_minute: 4", &Context::default());
    // Two at once, then one every 20 seconds.
    done(&mut sink, &[block(1)], 0);
    done(&mut sink, &[block(2)], 1);
    let mut waiting = vec![block(3)];
    let progress = sink.deliver(&waiting, at(2));
    let Progress { done: 0, trouble: Some(Trouble::Paced { wait }) } = progress else {
        panic!("{progress:?}")
    };
    assert!(wait <= Duration::from_secs(20) && wait > Duration::from_secs(10), "{wait:?}");
    waiting.extend((4..104).map(block));
    assert_eq!(sink.deliver(&waiting, at(10)).done, 0);
    done(&mut sink, &waiting, 21);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[2]["subject"], "[portcullis] P2 101 actions of 1 rules");
    let text = mails[2]["text"].as_str().unwrap();
    assert!(text.contains("   101  P2 start block by too-many"), "{text}");
    assert!(text.contains("and 81 more"), "{text}");
    assert!(text.contains("203.0.113.3 "), "{text}");
    // No minute has more than was asked for.
    let mut sent = 0;
    for second in 60..120 {
        sent += sink.deliver(&[block(7)], at(second)).done;
    }
    assert!((3..=4).contains(&sent), "{sent}");
}

#[test]
fn a_user_is_told_in_plain_words_once_a_day_and_of_a_lift() {
    let smtp = Smtp::start("plain");
    let more = "service: Velro, contact: 'https://velro.test/help', max_messages_per_minute: 600";
    let mut sink = smtp.open(more, &everybody());
    let start = lock("a1", "user", "ann@example.org");
    done(&mut sink, &[start.clone(), start.clone()], 0);
    let mails = smtp.mails();
    assert_eq!(mails.len(), 1, "{mails:#?}");
    assert_eq!(mails[0]["recipients"], json!(["ann@example.org"]));
    assert_eq!(mails[0]["subject"], "Your account at Velro is locked for a while");
    let text = mails[0]["text"].as_str().unwrap();
    assert!(text.contains("too many failed attempts to log in"), "{text}");
    assert!(text.contains("until 2026-11-24 13:00 UTC"), "{text}");
    assert!(text.contains("https://velro.test/help"), "{text}");
    for inside in ["FAILED_LOGIN", "lockout", "portcullis", "a1"] {
        assert!(!text.contains(inside), "{text}");
    }
    // It ended in its time: that was said before. Another on the same day is not said.
    done(&mut sink, &[ended(&start, 3600)], 3600);
    let again = Action { until: Some(instant(9000)), ..lock("a2", "user", "ann@example.org") };
    done(&mut sink, &[again.clone(), ended(&again, 4000)], 3700);
    assert_eq!(smtp.mails().len(), 1);
    assert!(!sink.wants(&Action { op: Op::Extend, ..start.clone() }));
    // The next day it is, and so is a lift.
    let later = Action { until: Some(instant(100_000)), ..lock("a3", "user", "ann@example.org") };
    done(&mut sink, std::slice::from_ref(&later), 90_000);
    done(&mut sink, &[ended(&later, 90_100), ended(&later, 90_100)], 90_100);
    let subjects = smtp.subjects();
    assert_eq!(subjects.len(), 3, "{subjects:?}");
    assert_eq!(subjects[2], "Your account at Velro is open again");
}

#[test]
fn an_id_finds_its_address_and_a_stranger_gets_nothing() {
    let smtp = Smtp::start("plain");
    let known = knowing(&[("u-1", "ann@example.org")]);
    let context = Context { identities: known.identities, ..everybody() };
    let mut sink = smtp.open("name: x", &context);
    done(&mut sink, &[lock("a1", "user_id", "u-1")], 0);
    assert_eq!(smtp.mails()[0]["recipients"], json!(["ann@example.org"]));
    // Whoever is not in the table wrote a victim's address into a login form.
    assert!(!sink.wants(&lock("a2", "user", "victim@example.org")));
    assert!(!sink.wants(&lock("a3", "user_id", "u-2")));
    assert!(sink.wants(&lock("a4", "user", "ann@example.org")));
}

#[test]
fn an_address_that_is_odd_or_a_lock_that_is_not_so_sends_nothing() {
    let smtp = Smtp::start("plain");
    let sink = smtp.open("name: x", &everybody());
    for odd in [
        "ann",
        "ann@localhost",
        "ann@[127.0.0.1]",
        "ann@10.0.0.1",
        "\"a b\"@example.org",
        "a@b@example.org",
        "ann@example.org\r\nbcc: x@example.org",
        "ann@example.org,bob@example.org",
        "<ann@example.org>",
        "änn@example.org",
        "ann@exa mple.org",
        "@example.org",
        "ann@",
        "ann@.org",
        ".ann@example.org",
        &format!("{}@example.org", "a".repeat(65)),
        &format!("a@{}.org", "b.".repeat(130)),
    ] {
        assert!(!sink.wants(&lock("a1", "user", odd)), "{odd}");
    }
    assert!(sink.wants(&lock("a1", "user", "ann+x@mail.example.org")));
    assert!(!sink.wants(&Action { mode: "shadow", ..lock("a1", "user", "ann@example.org") }));
    assert!(!sink.wants(&Action { notify: Vec::new(), ..lock("a1", "user", "ann@example.org") }));
    // Nothing is enforced, so nothing is locked; what is only said is said all the same.
    let dry = Context { armed: false, ..everybody() };
    let sink = smtp.open("name: x", &dry);
    assert!(!sink.wants(&lock("a1", "user", "ann@example.org")));
    assert!(sink.wants(&Action { action: "alert", ..lock("a1", "user", "ann@example.org") }));
    // Without `receivers`, nobody asked for users to be told.
    let sink = smtp.open("name: x", &Context { armed: true, ..Context::default() });
    let mut told = lock("a1", "user", "ann@example.org");
    assert!(sink.wants(&told), "those who watch are told");
    told.op = Op::End;
    assert!(!sink.wants(&told));
}

#[test]
fn receivers_hear_what_names_them_and_portcullis_own_messages() {
    let smtp = Smtp::start("plain");
    let receives = Some(vec!["ops_team".to_owned()]);
    let sink = smtp.open("name: x", &Context { receives, ..Context::default() });
    assert!(!sink.wants(&block(7)));
    assert!(sink.wants(&Action { notify: vec!["user".into(), "ops_team".into()], ..block(7) }));
    assert!(sink.wants(&Action { op: Op::Note, notify: Vec::new(), ..block(7) }));
    // Only for users: nobody else need be named.
    let only = Context { receives: Some(vec!["user".to_owned()]), ..everybody() };
    let port = smtp.port;
    let entry = format!("mail: {{ smtp: '127.0.0.1:{port}', tls: none, from: gate@velro.test }}");
    let sink = open(&entry, &only).unwrap();
    assert!(!sink.wants(&Action { op: Op::Note, notify: Vec::new(), ..block(7) }));
    let error = open(&entry, &Context::default()).unwrap_err();
    assert!(error.contains("`to` names nobody"), "{error}");
}

#[test]
fn one_address_that_is_not_taken_keeps_nothing_from_the_others() {
    let smtp = Smtp::start("plain");
    let port = smtp.port;
    let open = |to: &str| {
        let entry = format!(
            "mail: {{ smtp: '127.0.0.1:{port}', tls: none, from: gate@velro.test, to: {to} }}"
        );
        open(&entry, &Context::default()).unwrap()
    };
    done(&mut open("[gone@refused.test, ops@velro.test]"), &[block(7)], 0);
    assert_eq!(smtp.mails()[0]["recipients"], json!(["ops@velro.test"]));
    let progress = open("[gone@refused.test]").deliver(&[block(8), block(9)], at(0));
    assert!(
        matches!(progress, Progress { done: 0, trouble: Some(Trouble::Refused { .. }) }),
        "{progress:?}"
    );
    let progress = open("[busy@later.test]").deliver(&[block(8)], at(0));
    assert!(
        matches!(progress, Progress { done: 0, trouble: Some(Trouble::Later { .. }) }),
        "{progress:?}"
    );
    // A user that is not taken is passed over; those who watch were told, and are not told again.
    let mut sink = smtp.open("max_messages_per_minute: 600", &everybody());
    let both = |id: &str, user: &str| {
        let notify = vec!["user".to_owned(), "security_team".to_owned()];
        Action { notify, ..lock(id, "user", user) }
    };
    let all = [both("a1", "gone@refused.test"), both("a2", "ann@example.org")];
    let progress = sink.deliver(&all, at(0));
    assert!(
        matches!(progress, Progress { done: 0, trouble: Some(Trouble::Refused { .. }) }),
        "{progress:?}"
    );
    done(&mut sink, &all[1..], 0);
    assert_eq!(smtp.mails().len(), 4, "{:#?}", smtp.subjects());
}

#[test]
fn tls_and_a_login_are_held_to() {
    for kind in ["starttls", "tls"] {
        let smtp = Smtp::start(kind);
        let ca = smtp.folder.path().join("ca.pem");
        let (port, ca) = (smtp.port, ca.display());
        let tls = if kind == "tls" { "required" } else { "starttls" };
        let with = |password: &str, ca: &str| {
            let password = secret(password);
            let path = password.path().display();
            open(
                &format!(
                    "mail: {{ smtp: 'localhost:{port}', tls: {tls}, username: tester, password: {{ file: '{path}' }}, \
                     from: gate@velro.test, to: ops@velro.test{ca} }}"
                ),
                &Context::default(),
            )
            .unwrap()
        };
        let ca = format!(", ca: '{ca}'");
        let mut sink = with(PASSWORD, &ca);
        assert!(sink.test(at(0)).unwrap().contains("takes the password"));
        done(&mut sink, &[block(7)], 0);
        assert_eq!(smtp.mails().len(), 1);
        assert!(!format!("{sink:?}").contains(PASSWORD));
        // A wrong password can be mended: the message waits.
        let mut wrong = with("wrong-secret", &ca);
        let progress = wrong.deliver(&[block(8)], at(0));
        let Some(Trouble::Later { why, .. }) = progress.trouble else { panic!("{progress:?}") };
        assert!(!why.contains("wrong-secret"), "{why}");
        assert!(wrong.test(at(0)).is_err());
        // A server that nobody vouches for gets neither message nor password.
        let progress = with(PASSWORD, "").deliver(&[block(9)], at(0));
        assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
        assert_eq!(smtp.mails().len(), 1);
    }
    // One that offers no TLS is not spoken to without it.
    let smtp = Smtp::start("plain");
    let port = smtp.port;
    let entry = format!(
        "mail: {{ smtp: '127.0.0.1:{port}', tls: starttls, from: g@velro.test, to: o@velro.test }}"
    );
    let progress = open(&entry, &Context::default()).unwrap().deliver(&[block(7)], at(0));
    assert_eq!(progress.done, 0);
    assert!(smtp.mails().is_empty());
}

#[test]
fn a_server_that_is_gone_is_for_later() {
    let smtp = Smtp::start("plain");
    let mut sink = smtp.open("name: x", &Context::default());
    drop(smtp);
    let began = Instant::now();
    let progress = sink.deliver(&[block(7)], at(0));
    assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(sink.test(at(0)).is_err());
}

#[test]
fn options_are_checked() {
    let with = |rest: &str| mistakes(&format!("mail: {{ {rest} }}"));
    let told = with("");
    assert!(told.contains("needs `smtp`") && told.contains("needs `from`"), "{told}");
    let good = "from: 'Gate <g@velro.test>', to: [a@velro.test]";
    assert_eq!(with(&format!("smtp: '[::1]:2525', tls: none, {good}")), "");
    assert_eq!(with(&format!("smtp: mail.velro.test, {good}")), "");
    let told = with(&format!("smtp: 'mail.velro.test:25', tls: none, {good}"));
    assert!(
        told.contains("without TLS, all could be read on the way to mail.velro.test"),
        "{told}"
    );
    for smtp in ["smtp://x.test", "x.test:0", "x.test:99999", "a b:25", ":25"] {
        assert!(with(&format!("smtp: '{smtp}', {good}")).contains("is no server"), "{smtp}");
    }
    assert!(with("smtp: x.test, from: nobody").contains("is no e-mail address"));
    assert!(with(&format!("smtp: x.test, username: u, {good}")).contains("and no `password`"));
    assert!(
        with(&format!("smtp: x.test, tls: start, {good}"))
            .contains("one of: required, starttls, none")
    );
    assert!(
        with(&format!("smtp: x.test, max_messages_per_minute: 0, {good}"))
            .contains("between 1 and 600")
    );
}
