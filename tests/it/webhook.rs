//! The sinks that tell somebody over HTTP: webhooks, verified by the libraries of those who receive
//! them (`tests/webhook/fetch.sh` fetches these), and PagerDuty, of which there is only a double.
//!
//! Nothing here is skipped: without Python these tests fail and say what to install.

use crate::double::{Answer, Double};
use crate::output::EVERY_KIND;
use crate::support::root;
use portcullis::action::{Action, Op};
use portcullis::sink::remote::{Progress, Remote, Trouble};
use portcullis::sink::{Context, SinkConfig};
use portcullis::yaml::{Checker, Document};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// A secret of Standard Webhooks, and another.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[expect(clippy::disallowed_methods, reason = "receivers compare it with their own clocks")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A sink as it would be configured, or what is wrong with it.
pub fn configured(yaml: &str) -> Result<SinkConfig, String> {
    let document = Document { name: "portcullis.yaml".into(), text: yaml.into() };
    let mut checker = Checker::new(&document);
    let node = checker.parse().unwrap();
    let sink = SinkConfig::parse(&mut checker, &node);
    let problems: Vec<String> = checker.problems.iter().map(ToString::to_string).collect();
    if problems.is_empty() { Ok(sink.unwrap()) } else { Err(problems.join("\n")) }
}

/// A sink at work.
pub fn sink(yaml: &str) -> Box<dyn Remote> {
    configured(yaml).unwrap().remote(&Context::default()).unwrap()
}

/// A file with a secret.
pub fn secret(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let place = format!("{{ file: {} }}", file.path().display());
    (file, place)
}

/// Every kind of line.
pub fn every_kind() -> Vec<Action> {
    EVERY_KIND.lines().map(|line| Action::of_json(line).unwrap()).collect()
}

/// A start of a block of the `n`th address.
fn block(n: usize) -> Action {
    let like = every_kind().into_iter().find(|a| a.op == Op::Start && a.action == "block").unwrap();
    let mut action = Action { id: format!("{n:016x}"), ..like };
    action.target.kind = "ip".into();
    action.target.value = Some(format!("203.0.113.{n}"));
    action
}

/// The interpreter that has the libraries.
fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let fetched =
            Command::new("bash").arg(root().join("tests/webhook/fetch.sh")).output().unwrap();
        let said = String::from_utf8_lossy(&fetched.stderr);
        assert!(fetched.status.success(), "{said}");
        PathBuf::from(String::from_utf8(fetched.stdout).unwrap().trim())
    })
}

/// A receiver in a process of its own. It ends when its standard input is let go.
struct Receiver {
    child: Child,
    _alive: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
    url: String,
}

impl Receiver {
    fn start(secret: &str) -> Self {
        Self::with(&[secret.as_ref()], "http")
    }

    fn with(options: &[&OsStr], scheme: &str) -> Self {
        let mut child = Command::new(python())
            .arg(root().join("tests/webhook/receiver.py"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = child.stdin.take().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = format!("{scheme}://127.0.0.1:{}/hook", told.next().unwrap().unwrap());
        Self { child, _alive: alive, told, url }
    }

    /// The next message that came, with why it was refused.
    fn next(&mut self) -> Value {
        serde_json::from_str(&self.told.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_receiver_with_the_library_of_standard_webhooks_takes_every_kind_of_line() {
    let mut receiver = Receiver::start(SECRET);
    let (_file, place) = secret(SECRET);
    let mut sink = sink(&format!("webhook: {{ url: '{}', secret: {place} }}", receiver.url));
    let actions = every_kind();
    assert_eq!(sink.deliver(&actions, now()), Progress::all(&actions));
    for action in &actions {
        let told = receiver.next();
        assert_eq!(told["refused"], Value::Null);
        assert_eq!(told["headers"]["webhook-id"], json!(action.id));
        assert_eq!(told["headers"]["content-type"], "application/json");
        let body: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["type"], json!(action.event_type()));
        assert_eq!(body["timestamp"], json!(action.time));
        assert_eq!(body["data"], serde_json::from_str::<Value>(&action.json()).unwrap());
    }
}

#[test]
fn a_receiver_is_trusted_if_the_authority_that_is_named_says_who_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("bash")
        .arg(root().join("tests/webhook/certificates.sh"))
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| folder.path().join(name);
    let (chain, key) = (file("server.pem"), file("server.key"));
    let mut receiver =
        Receiver::with(&[SECRET.as_ref(), chain.as_os_str(), key.as_os_str()], "https");
    let (_file, place) = secret(SECRET);
    let options = format!("url: '{}', secret: {place}", receiver.url);
    let progress = sink(&format!("webhook: {{ {options} }}")).deliver(&[block(1)], now());
    let Some(Trouble::Later { why, .. }) = progress.trouble else { panic!("{progress:?}") };
    assert!(why.contains("certificate"), "{why}");
    let ca = file("ca.pem");
    let mut sink = sink(&format!("webhook: {{ {options}, ca: {} }}", ca.display()));
    assert_eq!(sink.deliver(&[block(1)], now()), Progress::all(&[block(1)]));
    assert_eq!(receiver.next()["refused"], Value::Null);
}

#[test]
fn an_old_message_or_a_wrong_secret_is_refused_and_a_changed_secret_is_not() {
    let mut receiver = Receiver::start(SECRET);
    let ((_one, right), (_two, wrong)) = (secret(SECRET), secret(OTHER));
    let url = &receiver.url;
    let with = |secrets: &str, at: SystemTime| {
        let yaml = format!("webhook: {{ url: '{url}', secret: {secrets} }}");
        sink(&yaml).deliver(&[block(1)], at).trouble
    };
    let troubles = [
        with(&right, now() - Duration::from_secs(600)),
        with(&wrong, now()),
        with(&format!("[{wrong}, {right}]"), now()),
    ];
    assert!(matches!(troubles[0], Some(Trouble::Refused { .. })), "{troubles:?}");
    assert!(matches!(troubles[1], Some(Trouble::Refused { .. })), "{troubles:?}");
    assert_eq!(troubles[2], None);
    let refused = [(); 3].map(|()| receiver.next()["refused"].as_str().map(str::to_owned));
    assert!(refused[0].as_deref().unwrap().contains("timestamp too old"), "{refused:?}");
    assert!(refused[1].as_deref().unwrap().contains("No matching signature"), "{refused:?}");
    assert_eq!(refused[2], None);
}

#[test]
fn each_attempt_is_signed_anew_under_the_same_id() {
    let asked = AtomicUsize::new(0);
    let double = Double::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::new(503),
        _ => Answer::new(200),
    });
    let (_file, place) = secret(SECRET);
    let mut sink = sink(&format!("webhook: {{ url: '{}', secret: {place} }}", double.url("/")));
    let at = now();
    let first = sink.deliver(&[block(1)], at);
    assert_eq!(first.done, 0);
    assert!(matches!(first.trouble, Some(Trouble::Later { after: None, .. })), "{first:?}");
    assert_eq!(sink.deliver(&[block(1)], at + Duration::from_secs(5)), Progress::all(&[block(1)]));
    let [one, two] = &double.requests()[..] else { panic!("{:#?}", double.requests()) };
    assert_eq!(one.header("webhook-id"), two.header("webhook-id"));
    assert_eq!(one.body, two.body);
    assert_ne!(one.header("webhook-timestamp"), two.header("webhook-timestamp"));
    assert_ne!(one.header("webhook-signature"), two.header("webhook-signature"));
}

/// What a sink makes of the answer to the second of three actions.
fn trouble_of(answer: &Answer) -> (Progress, usize) {
    let (asked, answer) = (AtomicUsize::new(0), answer.clone());
    let double = Double::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        1 => answer.clone(),
        _ => Answer::new(200),
    });
    let mut sink = sink(&format!("webhook: {{ url: '{}' }}", double.url("/hook")));
    let progress = sink.deliver(&[block(1), block(2), block(3)], now());
    (progress, double.requests().len())
}

#[test]
fn an_answer_means_done_later_refused_or_never_again() {
    for status in [200, 201, 204] {
        let (progress, asked) = trouble_of(&Answer::new(status));
        assert_eq!((progress, asked), (Progress { done: 3, trouble: None }, 3), "{status}");
    }
    for status in [408, 425, 429, 500, 502, 503, 504, 401, 403, 404, 407] {
        let (progress, asked) = trouble_of(&Answer::new(status));
        assert_eq!((progress.done, asked), (1, 2), "{status}");
        assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{status} {progress:?}");
    }
    for status in [301, 302, 307, 308, 400, 405, 409, 413, 415, 422] {
        let answer = Answer::new(status).header("location", "http://127.0.0.1:1/");
        let (progress, asked) = trouble_of(&answer);
        assert_eq!((progress.done, asked), (1, 2), "{status}");
        assert!(matches!(progress.trouble, Some(Trouble::Refused { .. })), "{status} {progress:?}");
    }
    let (progress, _) = trouble_of(&Answer::new(410));
    assert!(matches!(progress.trouble, Some(Trouble::Disabled { .. })), "{progress:?}");
    let (progress, _) = trouble_of(&Answer::hang_up());
    assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
    let (progress, _) = trouble_of(&Answer::new(429).header("retry-after", "7"));
    let Some(Trouble::Later { after, .. }) = progress.trouble else { panic!("{progress:?}") };
    assert_eq!(after, Some(Duration::from_secs(7)));
    // How long an answer is says nothing.
    let long = "x".repeat(3 << 20);
    let (progress, asked) = trouble_of(&Answer::new(200).body(long.clone()));
    assert_eq!((progress, asked), (Progress { done: 3, trouble: None }, 3));
    let (progress, _) = trouble_of(&Answer::new(503).body(long));
    assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
}

#[test]
fn a_receiver_that_is_not_there_is_tried_again() {
    let double = Double::new(|_| Answer::new(200));
    let mut sink = sink(&format!("webhook: {{ url: '{}' }}", double.url("/")));
    let address = double.address();
    drop(double);
    let progress = sink.deliver(&[block(1)], now());
    assert!(matches!(progress.trouble, Some(Trouble::Later { .. })), "{progress:?}");
    let _back = Double::at(address, |_| Answer::new(200));
    assert_eq!(sink.deliver(&[block(1)], now()), Progress::all(&[block(1)]));
}

#[test]
fn a_form_that_must_lose_nothing_waits_for_its_pace() {
    let double = Double::new(|_| Answer::new(200));
    let yaml = format!("webhook: {{ url: '{}', max_messages_per_minute: 4 }}", double.url("/"));
    let mut sink = sink(&yaml);
    let actions: Vec<Action> = (0..5).map(block).collect();
    let progress = sink.deliver(&actions, now());
    assert_eq!(progress.done, 2);
    let Some(Trouble::Paced { wait: after }) = progress.trouble else { panic!("{progress:?}") };
    assert!(after <= Duration::from_secs(20) && !after.is_zero(), "{after:?}");
    assert_eq!(double.requests().len(), 2);
}

#[test]
fn a_burst_for_people_becomes_one_message_that_counts_all_of_it() {
    let double = Double::new(|_| Answer::new(200).body("ok"));
    let url = double.url("/services/T/B/x");
    let yaml = format!("webhook: {{ url: '{url}', form: slack, max_messages_per_minute: 10 }}");
    let mut sink = sink(&yaml);
    let lock = |n| Action { action: "lock", rule: "guessing".into(), ..block(n) };
    let actions: Vec<Action> = (0..7).map(block).chain((7..9).map(lock)).collect();
    assert_eq!(sink.deliver(&actions, now()), Progress::all(&actions));
    let [message] = &double.requests()[..] else { panic!("{:#?}", double.requests()) };
    let message = message.json();
    assert_eq!(message["text"], "9 actions: 7 × BLOCK [block], 2 × LOCK [guessing]");
    let first = message["blocks"][0]["text"]["text"].as_str().unwrap();
    assert_eq!(first, "*7 × BLOCK [block]*\n203.0.113.0, 203.0.113.1, 203.0.113.2 and 4 more");
}

#[test]
fn whoever_is_asked_for_fewer_messages_folds_what_waits() {
    let asked = AtomicUsize::new(0);
    let double = Double::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        1 => Answer::new(429).header("retry-after", "1"),
        _ => Answer::new(200),
    });
    let mut sink = sink(&format!("webhook: {{ url: '{}', form: slack }}", double.url("/")));
    let actions: Vec<Action> = (0..4).map(block).collect();
    assert_eq!(sink.deliver(&actions, now()).done, 1);
    assert_eq!(sink.deliver(&actions[1..], now()), Progress::all(&actions[1..]));
    assert_eq!(sink.deliver(&actions[..2], now()), Progress::all(&actions[..2]));
    let texts: Vec<String> =
        double.requests().iter().map(|r| r.json()["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts.len(), 5, "{texts:#?}");
    assert_eq!(texts[2], "3 actions: 3 × BLOCK [block]");
    assert!(texts[4].starts_with("BLOCK 203.0.113.1 for"), "{texts:#?}");
}

#[test]
fn no_message_is_longer_than_receivers_take() {
    let double = Double::new(|_| Answer::new(200));
    for form in ["json", "ecs", "ocsf", "cloudevents", "slack"] {
        let mut sink =
            sink(&format!("webhook: {{ url: '{}', form: {form} }}", double.url(form_path(form))));
        let mut long = block(1);
        long.reason = "\u{1}".repeat(50_000);
        long.reasons = vec![("é".repeat(30_000), 1)];
        let mut endless = block(2);
        endless.target.value = Some("x".repeat(50_000));
        let actions = [long, endless, block(3)];
        let progress = sink.deliver(&actions, now());
        if form == "slack" {
            assert_eq!(progress, Progress::all(&actions));
        } else {
            assert_eq!(progress.done, 1, "{form}");
            assert!(matches!(progress.trouble, Some(Trouble::Refused { .. })), "{progress:?}");
            assert_eq!(sink.deliver(&actions[2..], now()), Progress::all(&actions[2..]));
        }
    }
    let asked = double.requests();
    assert_eq!(asked.len(), 4 * 2 + 3);
    assert!(asked.iter().all(|request| request.body.len() < 20_000));
    assert!(asked[0].json()["data"]["reason"].as_str().unwrap().ends_with('…'));
    assert_eq!(asked[0].json()["data"]["target"]["value"], "203.0.113.1");
}

fn form_path(form: &str) -> &str {
    if form == "slack" { "/slack" } else { "/other" }
}

#[test]
fn secrets_are_sent_and_never_told() {
    let double = Double::new(|request| {
        let said = format!("{} {:?}", request.path, request.header("authorization"));
        Answer::new(400).body(format!("no: {said} x{}", "é".repeat(300)))
    });
    let ((_one, url), (_two, bearer)) =
        (secret(&double.url("/services/T0/B0/hush")), secret("t0ken"));
    let ((_three, key), (_four, signing)) = (secret("k3y"), secret(SECRET));
    let config = configured(&format!(
        "webhook:\n  name: team\n  url: {url}\n  bearer: {bearer}\n  secret: {signing}\n  headers: {{ X-Api-Key: {key}, x-tenant: acme }}\n"
    ));
    let mut sink = config.unwrap().remote(&Context::default()).unwrap();
    assert_eq!(sink.name(), "webhook team");
    let progress = sink.deliver(&[block(1)], now());
    let why = progress.trouble.unwrap().why().to_owned();
    let asked = double.requests().remove(0);
    assert_eq!(asked.path, "/services/T0/B0/hush");
    assert_eq!(asked.header("authorization"), Some("Bearer t0ken"));
    assert_eq!(asked.header("x-api-key"), Some("k3y"));
    assert_eq!(asked.header("x-tenant"), Some("acme"));
    let debug = format!("{sink:?}");
    for hidden in ["hush", "t0ken", "k3y", SECRET] {
        assert!(!why.contains(hidden), "{why}");
        assert!(!debug.contains(hidden), "{debug}");
    }
    assert!(why.contains("(hidden)"), "{why}");
}

#[test]
fn what_cannot_be_sent_safely_is_no_configuration() {
    let wrong = |options: &str| match configured(&format!("webhook: {options}")) {
        Ok(_) => panic!("{options} was taken"),
        Err(problems) => problems,
    };
    for (options, told) in [
        ("{}", "the sink `webhook` needs `url`"),
        ("{ url: 'http://hooks.example.org/x' }", "`url` is plain HTTP to another machine"),
        ("{ url: 'https://me:pass@hooks.example.org/x' }", "must not hold a name or a password"),
        ("{ url: 'hooks.example.org/x' }", "`url` is no address"),
        ("{ url: 'ftp://hooks.example.org/x' }", "must begin with https://"),
        ("{ url: 'https://h.example.org', secret: whsec_abc }", "must say where the secret is"),
        ("{ url: 'https://h.example.org', secret: [] }", "1 to 4 places"),
        ("{ url: 'https://h.example.org', form: oscf }", "did you mean `ocsf`?"),
        ("{ url: 'https://h.example.org', on: [begin] }", "one of: start, extend, end"),
        ("{ url: 'https://h.example.org', levels: [] }", "`levels` is empty"),
        ("{ url: 'https://h.example.org', headres: {} }", "did you mean `headers`?"),
        ("{ url: 'https://h.example.org', headers: { 'a b': c } }", "no name of a header"),
        ("{ url: 'https://h.example.org', headers: { 'x': \"a\\r\\nb\" } }", "printable ASCII"),
        ("{ url: 'https://h.example.org', headers: { Host: c } }", "set by Portcullis itself"),
        (
            "{ url: 'https://h.example.org', headers: { authorization: Bearer x } }",
            "must say where",
        ),
        (
            "{ url: 'https://h.example.org', bearer: { env: A }, headers: { authorization: { env: B } } }",
            "both are the header Authorization",
        ),
        ("{ url: { env: HOOK } }", "needs `name`"),
        ("{ url: 'https://h.example.org', name: 'a b' }", "cannot be used as a name"),
        ("{ url: 'https://h.example.org', max_messages_per_minute: -1 }", "between 0 and 60000"),
    ] {
        let problems = wrong(options);
        assert!(problems.contains(told), "{options}: {problems}");
    }
    assert!(!wrong("{ url: 'https://h.example.org', secret: whsec_abc }").contains("\nwhsec"));
    for url in [
        "http://127.0.0.1:1/x",
        "http://localhost/x",
        "http://[::1]:8080/",
        "https://h.example.org/x",
    ] {
        configured(&format!("webhook: {{ url: '{url}' }}")).unwrap();
    }
    configured("webhook: { url: 'http://hooks.example.org/x', insecure: true }").unwrap();
}

#[test]
fn a_secret_that_is_none_is_told_without_telling_it() {
    let opened = |secret_text: &str| {
        let (_file, place) = secret(secret_text);
        let yaml = format!("webhook: {{ url: 'https://h.example.org', secret: {place} }}");
        configured(&yaml).unwrap().remote(&Context::default()).unwrap_err()
    };
    for (text, told) in [
        ("hunter2hunter2", "must begin with whsec_"),
        ("whsk_hunter2", "only shared keys"),
        ("whsec_hunter2!", "no base64"),
        ("whsec_aHVudGVyMg==", "has 7 bytes, not 24 to 64"),
    ] {
        let why = opened(text);
        assert!(why.contains(told) && why.contains("openssl rand"), "{why}");
        assert!(!why.contains("unter2") && !why.contains("aHVud"), "{why}");
    }
    let (_file, place) = secret("http://hooks.example.org/hush");
    let yaml = format!("webhook: {{ name: team, url: {place} }}");
    let why = configured(&yaml).unwrap().remote(&Context::default()).unwrap_err();
    assert!(why.contains("is plain HTTP to another machine") && !why.contains("hush"), "{why}");
}

#[test]
fn who_enforces_what_it_is_told_is_held_like_what_enforces() {
    let url = "url: 'https://h.example.org'";
    let tells = sink(&format!("webhook: {{ {url} }}"));
    let acts = sink(&format!("webhook: {{ {url}, enforces: true }}"));
    let shadow = Action { mode: "shadow", ..block(1) };
    assert!(!tells.acts() && acts.acts());
    assert!(tells.wants(&block(1)) && tells.wants(&shadow));
    assert!(acts.wants(&block(1)) && !acts.wants(&shadow));
    assert_eq!(tells.name(), "webhook h.example.org");
    // Nobody enforces a shadow decision because he did not look at its mode.
    assert_eq!(shadow.event_type(), "portcullis.shadow.block.start");
}

#[test]
fn a_test_says_what_it_is() {
    let mut receiver = Receiver::start(SECRET);
    let (_file, place) = secret(SECRET);
    let mut sink = sink(&format!("webhook: {{ url: '{}', secret: {place} }}", receiver.url));
    let said = sink.test(now()).unwrap();
    assert_eq!(said, "a test message (portcullis.test, signed) was answered with 204");
    let told = receiver.next();
    assert_eq!(told["refused"], Value::Null);
    let body: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["type"], "portcullis.test");
    drop(receiver);
    assert!(sink.test(now()).is_err());
}

/// What a library understood of a form of every kind of line.
fn understood(library: &str, form: impl Fn(&Action) -> String) -> Vec<Value> {
    let mut child = Command::new(python())
        .arg(root().join("tests/webhook/parse.py"))
        .arg(library)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = every_kind().iter().map(|action| form(action) + "\n").collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let values: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), every_kind().len());
    values
}

#[test]
fn the_library_of_cloudevents_reads_the_envelope() {
    for (event, action) in understood("cloudevents", Action::cloud_event).iter().zip(every_kind()) {
        assert_eq!(event["attributes"]["id"], json!(action.id));
        assert_eq!(event["attributes"]["type"], json!(action.event_type()));
        assert_eq!(event["attributes"]["subject"], json!(action.target.value));
        assert_eq!(event["data"], serde_json::from_str::<Value>(&action.json()).unwrap());
    }
}

#[test]
fn the_library_of_ocsf_reads_the_finding() {
    for (finding, action) in understood("ocsf", Action::ocsf).iter().zip(every_kind()) {
        assert_eq!(finding["class_uid"], 2004);
        assert_eq!(finding["metadata"]["uid"], json!(action.id));
        let uid = action.decision.as_ref().unwrap_or(&action.id);
        assert_eq!(finding["finding_info"]["uid"], json!(uid));
        let activity = finding["activity_id"].as_i64().unwrap();
        assert_eq!(finding["type_uid"], 200_400 + activity);
    }
}

/// Every event that PagerDuty's double was sent, with its key.
fn paged(options: &str, actions: &[Action]) -> Vec<Value> {
    let double = Double::new(|_| Answer::new(202).body(r#"{"status":"success"}"#));
    let yaml = format!("pagerduty: {{ url: '{}', {options} }}", double.url("/v2/enqueue"));
    let mut sink = sink(&yaml);
    let wanted: Vec<Action> = actions.iter().filter(|a| sink.wants(a)).cloned().collect();
    // While they last.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    assert_eq!(sink.deliver(&wanted, then), Progress::all(&wanted));
    double.requests().iter().map(super::double::Request::json).collect()
}

#[test]
fn the_end_of_a_decision_resolves_the_incident_of_its_start() {
    let (_file, key) = secret(&"a".repeat(32));
    let events = paged(&format!("routing_key: {key}"), &every_kind());
    let kinds = |kind: &str| events.iter().filter(|e| e["event_action"] == kind).count();
    assert_eq!((kinds("trigger"), kinds("resolve")), (5, 2));
    let triggers: Vec<&Value> = events.iter().filter(|e| e["event_action"] == "trigger").collect();
    for resolve in events.iter().filter(|event| event["event_action"] == "resolve") {
        assert!(triggers.iter().any(|t| t["dedup_key"] == resolve["dedup_key"]), "{resolve}");
    }
    let keys: std::collections::HashSet<String> =
        triggers.iter().map(|t| t["dedup_key"].to_string()).collect();
    assert_eq!(keys.len(), triggers.len(), "{keys:#?}");
    let many = triggers.iter().find(|t| t["payload"]["component"] == "many").unwrap();
    assert_eq!(many["payload"]["severity"], "critical");
    assert_eq!(many["payload"]["source"], "portcullis");
    assert_eq!(many["payload"]["custom_details"]["escalate_s"], 300);
    assert_eq!(many["payload"]["custom_details"]["count"], 3);
    assert_eq!(many["links"][0]["href"], "https://example.org/else");
}

#[test]
fn each_class_of_incident_goes_to_whoever_is_on_call_for_it() {
    let ((_one, night), (_two, day)) = (secret(&"a".repeat(32)), secret(&"b".repeat(32)));
    let options = format!("routing_key: {day}, routing_keys: {{ P0: {night}, P1: {night} }}");
    let events = paged(&options, &every_kind());
    for event in &events {
        let urgent =
            matches!(event["payload"]["custom_details"]["severity"].as_str(), Some("P0" | "P1"));
        if event["event_action"] == "trigger" {
            let key = if urgent { "a" } else { "b" }.repeat(32);
            assert_eq!(event["routing_key"], json!(key), "{event}");
        }
    }
    // Only the P1 alert, its end and the P0 note.
    let events = paged(&format!("routing_keys: {{ P0: {night}, P1: {night} }}"), &every_kind());
    assert_eq!(events.len(), 3, "{events:#?}");
}

#[test]
fn a_page_is_neither_sent_for_what_is_over_nor_longer_than_it_may_be() {
    let (_file, key) = secret(&"a".repeat(32));
    let double = Double::new(|_| Answer::new(202));
    let yaml = format!("pagerduty: {{ url: '{}', routing_key: {key} }}", double.url("/"));
    let mut sink = sink(&yaml);
    assert_eq!(sink.deliver(&[block(1)], now()), Progress::all(&[block(1)]));
    assert_eq!(double.requests().len(), 0);
    // An alert may go on without a line, but not for ever.
    for (minutes, pages) in [(1, 1), (14, 1), (16, 0)] {
        let until = now() - Duration::from_secs(minutes * 60);
        let until = portcullis::decode::time::format(portcullis::sink::remote::micros(until));
        let alert = Action { action: "alert", until: Some(until), ..block(3) };
        double.forget();
        assert_eq!(sink.deliver(std::slice::from_ref(&alert), now()).done, 1);
        assert_eq!(double.requests().len(), pages, "{minutes}");
    }
    double.forget();
    let mut long = Action { until: Some("2999-01-01T00:00:00.000000Z".into()), ..block(2) };
    long.target.value = Some("é".repeat(300));
    long.reason = "\u{202e}<b>".repeat(5000);
    let end = Action { op: Op::End, ..long.clone() };
    assert_eq!(sink.deliver(&[long.clone(), end], now()).done, 2);
    let asked = double.requests();
    let (trigger, resolve) = (asked[0].json(), asked[1].json());
    assert!(trigger["dedup_key"].as_str().unwrap().len() <= 255);
    assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
    assert!(trigger["payload"]["summary"].as_str().unwrap().chars().count() <= 1024);
    assert!(sink.test(now()).unwrap().contains("none was raised"));
}

#[test]
fn what_pagerduty_answers_and_what_it_cannot_be_given() {
    let (_file, key) = secret(&"a".repeat(32));
    let trouble = |status: u16| {
        let double = Double::new(move |request| {
            Answer::new(status).body(request.json()["routing_key"].to_string())
        });
        let yaml = format!("pagerduty: {{ url: '{}', routing_key: {key} }}", double.url("/"));
        let note = every_kind().into_iter().find(|action| action.op == Op::Note).unwrap();
        sink(&yaml).deliver(&[note], now()).trouble.unwrap()
    };
    assert!(matches!(trouble(400), Trouble::Refused { .. }));
    assert!(matches!(trouble(429), Trouble::Later { .. }));
    assert!(matches!(trouble(503), Trouble::Later { .. }));
    assert!(!trouble(400).why().contains(&"a".repeat(32)), "{:?}", trouble(400));
    let wrong = |options: &str| configured(&format!("pagerduty: {options}")).unwrap_err();
    assert!(wrong("{}").contains("needs `routing_key` or `routing_keys`"));
    assert!(wrong("{ routing_keys: { P9: { env: A } } }").contains("did you mean `P0`?"));
    assert!(wrong("{ routing_key: abc }").contains("must say where the secret is"));
    let extend = wrong("{ routing_key: { env: A }, on: [start, extend] }");
    assert!(extend.contains("an incident has no end that could be moved"), "{extend}");
    let (_short, place) = secret("abc");
    let short = configured(&format!("pagerduty: {{ routing_key: {place} }}")).unwrap();
    let why = short.remote(&Context::default()).unwrap_err();
    assert!(why.contains("32 letters and digits") && !why.contains("abc"), "{why}");
}
