//! The Railway source against a stand-in for its API that redeploys, breaks, forgets and floods.

use crate::railway_double::{
    ACCOUNT_TOKEN, DEPLOYMENT, ENVIRONMENT, PROJECT, PROJECT_TOKEN, RailwayDouble, SERVICE, WORKER,
    http_log, log, log_of, now, time,
};
use portcullis::railway::Token;
use portcullis::source::Batch;
use portcullis::source::position::{Position, RailwayPosition};
use portcullis::source::railway::{RailwayError, RailwayEvent, RailwaySettings, stream};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// What should take no time: less than anything that it could be waiting for, on a machine that stalls.
const SOON: Duration = Duration::from_secs(20);
const SECOND: i64 = 1_000_000_000;

fn settings(double: &RailwayDouble) -> RailwaySettings {
    RailwaySettings {
        endpoint: double.endpoint(),
        project: Some(PROJECT.into()),
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(200),
        look_every: Duration::from_millis(300),
        ..RailwaySettings::default()
    }
}

fn account() -> Token {
    Token::Account(ACCOUNT_TOKEN.into())
}

/// A source that runs, and what it has told so far.
struct Reading {
    events: Receiver<RailwayEvent>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), RailwayError>>>,
    batches: Vec<Batch>,
    notes: Vec<String>,
    lost: Vec<String>,
    failed: Vec<String>,
}

impl Reading {
    fn begin(settings: RailwaySettings, token: Token, known: Option<RailwayPosition>) -> Self {
        Self::held_up(settings, token, known, |_| {})
    }

    /// With something that is done at each event before it is taken.
    fn held_up(
        settings: RailwaySettings,
        token: Token,
        known: Option<RailwayPosition>,
        first: impl Fn(&RailwayEvent) + Send + 'static,
    ) -> Self {
        let (sender, events) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            stream(&settings, token, known.as_ref(), &stopping, &mut |event| {
                first(&event);
                sender.send(event).is_ok()
            })
        });
        let (batches, notes, lost, failed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { events, stop, thread: Some(thread), batches, notes, lost, failed }
    }

    /// Takes events until something is true.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            match self.events.recv_timeout(Duration::from_millis(50)) {
                Ok(event) => self.keep(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.thread.take().unwrap().join().unwrap();
                    panic!("ended before {what}: {ended:?}");
                }
            }
            assert!(begun.elapsed() < DEADLINE, "waited in vain for {what}: {:?}", self.said());
        }
    }

    fn keep(&mut self, event: RailwayEvent) {
        match event {
            RailwayEvent::Batch(batch) => self.batches.push(batch),
            RailwayEvent::Note(text) => self.notes.push(text),
            RailwayEvent::Lost(text) => self.lost.push(text),
            RailwayEvent::Failed(text) => self.failed.push(text),
        }
    }

    fn said(&self) -> (&[String], &[String], &[String], usize) {
        (&self.notes, &self.lost, &self.failed, self.lines().len())
    }

    fn lines(&self) -> Vec<String> {
        let lines = self.batches.iter().flat_map(Batch::lines);
        lines.map(|line| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    /// The messages of the lines.
    fn messages(&self) -> Vec<String> {
        let message = |line: &String| {
            let line: Value = serde_json::from_str(line).unwrap();
            line.get("message").or(line.get("requestId")).unwrap().as_str().unwrap().to_owned()
        };
        self.lines().iter().map(message).collect()
    }

    fn has(&self, message: &str) -> bool {
        self.messages().iter().any(|own| own == message)
    }

    /// Each line with whose request it is about.
    fn edges(&self) -> Vec<(String, Option<IpAddr>)> {
        let mut all = Vec::new();
        for batch in &self.batches {
            let count = batch.lines().count();
            assert!(batch.edges.is_empty() || batch.edges.len() == count, "{batch:?}");
            all.extend((0..count).map(|line| batch.edges.get(line).copied().flatten()));
        }
        self.messages().into_iter().zip(all).collect()
    }

    /// The place behind the last batch.
    fn place(&self) -> RailwayPosition {
        let mark = self.batches.last().unwrap().mark.clone().unwrap();
        let Position::Railway(place) = (*mark).clone() else { panic!("{mark:?}") };
        place
    }

    /// Stops it; gives how it ended and how long that took.
    fn stop(&mut self) -> (Result<(), RailwayError>, Duration) {
        let begun = Instant::now();
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join().unwrap();
        let took = begun.elapsed();
        while let Ok(event) = self.events.try_recv() {
            self.keep(event);
        }
        (ended, took)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How it ends when it cannot begin.
fn error(settings: RailwaySettings, token: Token) -> String {
    let mut reading = Reading::begin(settings, token, None);
    let ended = reading.thread.take().unwrap().join().unwrap();
    ended.unwrap_err().to_string()
}

fn at(seconds: i64) -> String {
    time(seconds * SECOND)
}

#[test]
fn logs_are_lines_as_the_command_line_prints_them() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.log(log(
        "2025-08-03T22:30:00.123456789Z",
        "FAILED_LOGIN: email=a@b.c, ip=203.0.113.9, reason=bad",
        &[("user_id", "\"00123\""), ("level", "\"warn\""), ("line", "42")],
    ));
    double.log(log(&at(1), "", &[("level", "\"info\"")]));
    double.log(log_of(WORKER, "other", &at(2), "hello", &[]));
    reading.until("three lines", |reading| reading.lines().len() == 3);
    let expected = r#"{"message":"FAILED_LOGIN: email=a@b.c, ip=203.0.113.9, reason=bad","timestamp":"2025-08-03T22:30:00.123456789Z","level":"warn","line":42,"user_id":"00123"}"#;
    let hello = format!(r#"{{"message":"hello","timestamp":"{}","level":"info"}}"#, at(2));
    assert_eq!(reading.lines(), [expected, "", &hello]);
    let mut start = 0;
    for batch in &reading.batches {
        assert_eq!((batch.source, batch.start), (0, start));
        start += batch.bytes.len() as u64;
    }
    assert_eq!(reading.place().environment, ENVIRONMENT);
    let (_, variables) = &double.subscribed()[0];
    assert_eq!(variables["filter"], format!("@service:{SERVICE} OR @service:{WORKER}"));
    assert_eq!(
        (variables["environmentId"].as_str(), &variables["beforeLimit"]),
        (Some(ENVIRONMENT), &json!(5000))
    );
    let (ended, took) = reading.stop();
    assert_eq!(ended, Ok(()));
    assert!(took < SOON, "{took:?}");
}

#[test]
fn each_kind_of_token_goes_in_its_own_header() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    assert_eq!(reading.stop().0, Ok(()));
    let none = RailwaySettings { project: None, ..settings(&double) };
    let mut reading = Reading::begin(none, Token::Project(PROJECT_TOKEN.into()), None);
    double.until_subscribed("environmentLogs", 2);
    assert_eq!(reading.stop().0, Ok(()));
    let upgrades = double.upgrades();
    assert_eq!(upgrades[0]["authorization"], format!("Bearer {ACCOUNT_TOKEN}"));
    assert_eq!(upgrades[1]["project-access-token"], PROJECT_TOKEN);
    assert!(!upgrades[0].contains_key("project-access-token"));
    assert!(!upgrades[1].contains_key("authorization"));
}

#[test]
fn a_start_that_cannot_succeed_says_why() {
    let double = RailwayDouble::new();
    for (token, variable) in [
        (Token::Account(PROJECT_TOKEN.into()), "RAILWAY_API_TOKEN"),
        (Token::Project(ACCOUNT_TOKEN.into()), "RAILWAY_TOKEN"),
    ] {
        let text = error(settings(&double), token);
        assert!(text.contains(&format!("the token in {variable} (Not Authorized)")), "{text}");
        assert!(!text.contains("sesame"), "{text}");
    }
    let wrong = RailwaySettings { services: vec!["apii".into()], ..settings(&double) };
    let text = error(wrong, account());
    assert!(text.contains("no service `apii`") && text.contains("did you mean `api`?"), "{text}");
    let wrong = RailwaySettings { endpoint: "http://example.org/".into(), ..settings(&double) };
    assert!(error(wrong, account()).contains("write https"));
    double.fail(Some(("environmentLogs", "Not Authorized")));
    let text = error(settings(&double), account());
    assert!(text.contains("RAILWAY_API_TOKEN (Not Authorized)"), "{text}");
    // Nobody listens here.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = RailwaySettings {
        endpoint: format!("http://{free}/graphql/v2"),
        start_max: Duration::from_secs(1),
        ..settings(&double)
    };
    let begun = Instant::now();
    let text = error(away, account());
    assert!(text.contains("does not answer within 1 s"), "{text}");
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_redeploy_interrupts_nothing_and_its_requests_are_read() {
    let double = RailwayDouble::new();
    let quick = RailwaySettings { quiet_max: Duration::from_secs(10), ..settings(&double) };
    let mut reading = Reading::begin(quick, account(), None);
    double.until_subscribed("httpLogs", 1);
    double.http(DEPLOYMENT, http_log(&at(1), "r1", "203.0.113.1"));
    double.log(log(&at(1), "before", &[]));
    reading.until("the first request", |reading| reading.has("r1") && reading.has("before"));
    double.redeploy(SERVICE, "second");
    double.log(log_of(SERVICE, "second", &at(2), "after", &[]));
    double.until_subscribed("httpLogs", 2);
    let (_, variables) = double.subscribed().pop().unwrap();
    assert_eq!(variables["deploymentId"], "second");
    double.http("second", http_log(&at(3), "r2", "203.0.113.2"));
    // The old one still finishes what it had begun.
    double.http(DEPLOYMENT, http_log(&at(3), "r3", "203.0.113.3"));
    reading.until("both requests", |reading| {
        reading.has("r2") && reading.has("r3") && reading.has("after")
    });
    double.until("the old one is left", |double| double.completed() == 1);
    double.http("second", http_log(&at(4), "r4", "203.0.113.4"));
    reading.until("the new one is not", |reading| reading.has("r4"));
    let environments =
        double.subscribed().iter().filter(|one| one.0.contains("environmentLogs")).count();
    assert_eq!((environments, double.upgrades().len()), (1, 1));
    assert_eq!((reading.failed.len(), reading.lost.len()), (0, 0), "{:?}", reading.said());
    let line = reading.lines().into_iter().find(|line| line.contains("r1")).unwrap();
    assert!(
        line.starts_with(r#"{"timestamp":"#)
            && line.contains(r#""srcIp":"203.0.113.1","edgeRegion":"#),
        "{line}"
    );
}

#[test]
fn a_deployment_that_writes_before_it_is_found_is_read_at_once() {
    let double = RailwayDouble::new();
    let slow = RailwaySettings { look_every: Duration::from_secs(3600), ..settings(&double) };
    let mut reading = Reading::begin(slow, account(), None);
    double.until_subscribed("httpLogs", 1);
    double.redeploy(SERVICE, "second");
    double.log(log_of(SERVICE, "second", &now(), "hello", &[]));
    double.until_subscribed("httpLogs", 2);
    double.http("second", http_log(&now(), "r", "203.0.113.2"));
    reading.until("its request", |reading| reading.has("r"));
}

#[test]
fn a_service_that_is_new_is_read_too() {
    for http in [true, false] {
        let double = RailwayDouble::new();
        let quick = Duration::from_millis(50);
        let quick = RailwaySettings { look_every: quick, http, ..settings(&double) };
        let mut reading = Reading::begin(quick, account(), None);
        double.until_subscribed("environmentLogs", 1);
        double.log(log(&now(), "old", &[]));
        reading.until("a line", |reading| reading.has("old"));
        double.service("new-service", "mailer");
        double.log(log_of("new-service", "d", &now(), "before it is known", &[]));
        double.until_subscribed("environmentLogs", 2);
        double.log(log_of("new-service", "d", &now(), "after", &[]));
        reading.until("both", |reading| reading.has("before it is known") && reading.has("after"));
        let note = "the services have changed: reads api, worker, mailer";
        assert!(reading.notes.iter().any(|text| text.contains(note)), "{:?}", reading.notes);
        assert!(reading.lost.is_empty() && reading.failed.is_empty(), "{:?}", reading.said());
    }
}

#[test]
fn a_line_says_whose_request_it_was_by_the_word_of_the_edge() {
    let double = RailwayDouble::new();
    let wait = RailwaySettings { join_wait: 30_000_000, ..settings(&double) };
    let mut reading = Reading::begin(wait, account(), None);
    double.until_subscribed("httpLogs", 1);
    // The application's line first, as usual; in another case the edge's.
    double.log(log(&at(1), "first", &[("requestId", "\"r1\""), ("ip_address", "\"9.9.9.9\"")]));
    double.log(log(&at(1), "second", &[]));
    // Who answers has taken both.
    double.say(r#"{"type":"ping"}"#);
    double.until("an answer", |double| double.pongs() == 1);
    double.http(DEPLOYMENT, http_log(&at(1), "r1", "203.0.113.1"));
    double.http(DEPLOYMENT, http_log(&at(3), "r2", "2001:db8::2"));
    reading.until("the requests", |reading| reading.has("r2"));
    double.log(log(&at(3), "third", &[("x-railway-request-id", "\"r2\"")]));
    // An id of long ago, and one that nobody knows.
    double.log(log(&at(60), "stolen", &[("request_id", "\"r1\"")]));
    double.log(log(&at(3), "unknown", &[("request_id", "\"r9\"")]));
    reading.until("what need not wait", |reading| reading.has("stolen"));
    double.say(r#"{"type":"ping"}"#);
    double.until("another answer", |double| double.pongs() == 2);
    // At the end nothing waits any more.
    assert_eq!(reading.stop().0, Ok(()));
    assert_eq!(reading.lines().len(), 7);
    let mut edges = reading.edges();
    edges.sort();
    let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let expected = [
        ("first", ip("203.0.113.1")),
        ("r1", ip("203.0.113.1")),
        ("r2", ip("2001:db8::2")),
        ("second", None),
        ("stolen", None),
        ("third", ip("2001:db8::2")),
        ("unknown", None),
    ];
    assert_eq!(edges, expected.map(|(message, edge)| (message.to_owned(), edge)));
    let messages = reading.messages();
    let own: Vec<&String> = messages.iter().filter(|message| !message.starts_with('r')).collect();
    assert_eq!(own, ["first", "second", "third", "stolen", "unknown"]);
}

#[test]
fn a_place_is_not_passed_by_lines_that_wait() {
    let double = RailwayDouble::new();
    let wait = RailwaySettings { join_wait: 30_000_000, ..settings(&double) };
    let mut reading = Reading::begin(wait, account(), None);
    double.until_subscribed("httpLogs", 1);
    // What waits is older than what has left: logs come out of order.
    let early = now();
    double.log(log(&now(), "free", &[]));
    reading.until("a line", |reading| reading.has("free"));
    assert!(reading.place().seen > early);
    double.log(log(&early, "waits", &[("requestId", "\"r1\"")]));
    double.log(log(&now(), "behind it", &[]));
    // Who answers has taken both.
    double.say(r#"{"type":"ping"}"#);
    double.until("an answer", |double| double.pongs() == 1);
    double.http(DEPLOYMENT, http_log(&now(), "other", "203.0.113.1"));
    reading.until("a request", |reading| reading.has("other"));
    assert!(reading.place().seen <= early, "{:?} {early}", reading.place());
    // At the end everything is handed over.
    let (ended, took) = reading.stop();
    assert!(ended.is_ok() && took < SOON, "{took:?}");
    assert!(reading.has("waits") && reading.has("behind it"));
    assert!(reading.place().seen > early);
}

#[test]
fn a_broken_connection_loses_nothing_and_is_said_once() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    let (mut sent, mut breaks) = (BTreeSet::new(), 0);
    for round in 0..6 {
        for n in 0..20 {
            let message = format!("{round}-{n}");
            double.log(log(&now(), &message, &[]));
            sent.insert(message);
        }
        match round % 3 {
            0 => double.tear_connections(),
            1 => double.drop_connections(),
            _ => {}
        }
        breaks += usize::from(round % 3 < 2);
        for n in 20..30 {
            let message = format!("{round}-{n}");
            double.log(log(&now(), &message, &[]));
            sent.insert(message);
        }
        let all = sent.clone();
        reading.until("all lines", |reading| {
            let got: BTreeSet<String> = reading.messages().into_iter().collect();
            got.is_superset(&all)
        });
        // One that breaks before it was seen to break would be one.
        double.until("it is back", |double| double.upgrades().len() == breaks + 1);
        reading.until("that it is said", |reading| {
            reading.notes.iter().filter(|note| note.contains("connected again")).count() == breaks
        });
    }
    let count = |text: &str| reading.notes.iter().filter(|note| note.contains(text)).count();
    assert_eq!((count("no connection"), count("connected again")), (4, 4), "{:?}", reading.notes);
    // What came twice came as the same bytes.
    let lines: BTreeSet<String> = reading.lines().into_iter().collect();
    assert_eq!(lines.len(), sent.len());
    assert!(reading.lost.is_empty() && reading.failed.is_empty(), "{:?}", reading.said());
}

#[test]
fn what_is_sent_twice_or_out_of_order_is_handed_over_as_it_comes() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.log(log(&at(9), "late", &[]));
    reading.until("a line", |reading| reading.has("late"));
    double.twice();
    double.logs([log(&at(5), "early", &[]), log(&at(9), "same", &[])]);
    reading.until("all lines", |reading| reading.lines().len() == 5);
    assert_eq!(reading.messages(), ["late", "early", "same", "early", "same"]);
}

fn place(seen: &str) -> RailwayPosition {
    RailwayPosition { environment: ENVIRONMENT.into(), seen: seen.into(), http: None }
}

#[test]
fn what_came_while_nobody_read_is_read_in_order_however_much_it_is() {
    let double = RailwayDouble::new();
    double.logs((0..2300).map(|n| log(&time(n * SECOND / 10), &n.to_string(), &[])));
    double.http(DEPLOYMENT, http_log(&at(40), "r", "203.0.113.1"));
    let small = RailwaySettings { page: 500, ..settings(&double) };
    let mut reading = Reading::begin(small, account(), Some(place(&at(60))));
    reading.until("the end", |reading| reading.has("2299") && reading.has("r"));
    let messages: Vec<u32> =
        reading.messages().iter().filter_map(|text| text.parse().ok()).collect();
    // A page begins a little before the last one ended.
    let mut once = messages.clone();
    once.dedup();
    assert_eq!(once, (1..2300).collect::<Vec<u32>>());
    assert!(messages.len() < once.len() + 20, "{}", messages.len());
    assert!(reading.lost.is_empty() && reading.failed.is_empty(), "{:?}", reading.said());
    let questions = double.asked();
    let pages = questions.iter().filter(|(query, _)| query.contains("environmentLogs")).count();
    assert_eq!(pages, 4, "{pages}");
    assert_eq!(reading.place().seen, time(2299 * SECOND / 10));
    // With the place it goes on from there.
    let known = reading.place();
    assert_eq!(reading.stop().0, Ok(()));
    let mut again = Reading::begin(settings(&double), account(), Some(known));
    double.log(log(&at(230), "new", &[]));
    again.until("what is new", |reading| reading.has("new"));
    let own: Vec<String> = again.messages().into_iter().filter(|text| text != "r").collect();
    assert_eq!(own.len(), 600 + 1, "the overlap of a minute, and what is new");
}

/// The times of all lines.
fn times(reading: &Reading) -> Vec<String> {
    let lines = reading.lines();
    let time = |line: &String| serde_json::from_str::<Value>(line).unwrap()["timestamp"].clone();
    lines.iter().map(|line| time(line).as_str().unwrap().to_owned()).collect()
}

#[test]
fn backlogs_of_several_feeds_leave_in_the_order_of_time_with_the_edges_word() {
    let double = RailwayDouble::new();
    let (old, new) = ("old-deployment", "new-deployment");
    double.on_query(move |query, variables| {
        let node = |id: &str, status: &str, made: i64| json!({"node": {"id": id, "status": status, "createdAt": at(made)}});
        (query.contains("{ deployments(") && variables["input"]["serviceId"] == SERVICE).then(|| {
            json!({"deployments": {"edges": [node(new, "SUCCESS", 1999), node(old, "REMOVED", 0)]}})
        })
    });
    // An hour, of which half belongs to a deployment that serves no more.
    for n in 0..3600 {
        let (of, id) = (if n < 2000 { old } else { new }, format!("r{n}"));
        let quoted = format!("\"{id}\"");
        let line = log_of(
            SERVICE,
            of,
            &time(n * SECOND - 5000),
            &n.to_string(),
            &[("requestId", &quoted)],
        );
        double.log(line);
        double.http(of, http_log(&at(n), &id, "203.0.113.1"));
    }
    // More than one answer holds, and the edge's answers come first.
    let small = RailwaySettings { page: 200, join_wait: 30_000_000, ..settings(&double) };
    let known = RailwayPosition { http: Some(at(60)), ..place(&at(60)) };
    let mut reading = Reading::begin(small, account(), Some(known));
    reading.until("the end", |reading| reading.has("3599") && reading.has("r3599"));
    let times = times(&reading);
    assert!(times.is_sorted(), "{:?}", times.windows(2).find(|two| two[0] > two[1]));
    let expected: BTreeSet<String> =
        (1..3600).flat_map(|n| [n.to_string(), format!("r{n}")]).collect();
    let got: BTreeSet<String> = reading.messages().into_iter().collect();
    assert_eq!(got.symmetric_difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new());
    let ip = Some("203.0.113.1".parse::<IpAddr>().unwrap());
    assert!(reading.edges().iter().all(|one| one.1 == ip), "a line without the edge's word");
    assert!(reading.lost.is_empty() && reading.failed.is_empty(), "{:?}", reading.said());
    let known = reading.place();
    assert_eq!((known.seen, known.http), (time(3599 * SECOND - 5000), Some(at(3599))));
    // From now on nothing is held.
    double.log(log_of(SERVICE, new, &at(3700), "live", &[]));
    reading.until("a line", |reading| reading.has("live"));
}

#[test]
fn what_came_while_there_was_no_connection_leaves_in_the_order_of_time() {
    let double = RailwayDouble::new();
    let quick = RailwaySettings {
        behind_after: Duration::from_millis(300),
        refused_pause: Duration::from_millis(100),
        ..settings(&double)
    };
    let mut reading = Reading::begin(quick, account(), None);
    double.until_subscribed("httpLogs", 1);
    double.log(log(&now(), "before", &[]));
    double.http(DEPLOYMENT, http_log(&now(), "request", "203.0.113.1"));
    reading.until("both", |reading| reading.has("before") && reading.has("request"));
    let (before, tries) = (reading.lines().len(), double.upgrades().len());
    double.revoke(ACCOUNT_TOKEN);
    double.drop_connections();
    double.until("a try in vain", |double| double.upgrades().len() > tries);
    for n in 0..50 {
        double.http(DEPLOYMENT, http_log(&now(), &format!("r{n}"), "203.0.113.1"));
        double.log(log(&now(), &n.to_string(), &[]));
    }
    std::thread::sleep(Duration::from_millis(500));
    double.restore(ACCOUNT_TOKEN);
    reading.until("the end", |reading| reading.has("49") && reading.has("r49"));
    let times = times(&reading).split_off(before);
    assert!(times.is_sorted(), "{:?}", times.windows(2).find(|two| two[0] > two[1]));
    assert!(reading.lost.is_empty(), "{:?}", reading.said());
}

#[test]
fn a_deployment_that_writes_before_the_first_look_is_read_from_the_known_place() {
    let double = RailwayDouble::new();
    let asked = AtomicBool::new(false);
    double.on_query(move |query, _| {
        // The first answers name none, as if they came late.
        let none = json!({"deployments": {"edges": []}});
        (query.contains("{ deployments(") && !asked.swap(true, Ordering::Relaxed)).then_some(none)
    });
    double.http(DEPLOYMENT, http_log(&at(100), "early", "203.0.113.1"));
    double.log(log(&at(1000), "line", &[]));
    let mut reading = Reading::begin(settings(&double), account(), Some(place(&at(60))));
    reading.until("both", |reading| reading.has("line") && reading.has("early"));
    let mut messages = reading.messages();
    messages.dedup();
    assert_eq!(messages, ["early", "line"]);
}

#[test]
fn a_server_that_gives_fewer_than_were_asked_for_loses_nothing() {
    let double = RailwayDouble::new();
    double.cap(150);
    double.logs((0..1000).map(|n| log(&at(n), &n.to_string(), &[])));
    for n in 0..1000 {
        double.http(DEPLOYMENT, http_log(&at(n), &format!("r{n}"), "203.0.113.1"));
    }
    let mut reading = Reading::begin(settings(&double), account(), Some(place(&at(60))));
    reading.until("the end", |reading| reading.has("999") && reading.has("r999"));
    let got: BTreeSet<String> = reading.messages().into_iter().collect();
    let expected: BTreeSet<String> =
        (1..1000).flat_map(|n| [n.to_string(), format!("r{n}")]).collect();
    assert_eq!(got.symmetric_difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(reading.lost.is_empty(), "{:?}", reading.lost);
}

#[test]
fn a_service_that_cannot_be_asked_for_hides_no_other() {
    let double = RailwayDouble::new();
    double.on_query(|query, variables| {
        let fails = query.contains("{ deployments(") && variables["input"]["serviceId"] == WORKER;
        fails.then_some(Value::Null)
    });
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("httpLogs", 1);
    double.http(DEPLOYMENT, http_log(&now(), "r", "203.0.113.1"));
    reading.until("its request", |reading| reading.has("r"));
    double.until("more looks", |double| {
        double.asked().iter().filter(|(query, _)| query.contains("{ deployments(")).count() > 6
    });
    assert!(reading.failed.len() == 1, "{:?}", reading.failed);
    assert!(
        reading.failed[0].contains("deployments of worker cannot be asked for"),
        "{:?}",
        reading.failed
    );
}

#[test]
fn a_gap_that_cannot_be_filled_is_stated() {
    let double = RailwayDouble::new();
    double.logs((0..300).map(|n| log(&at(1000 + n), &n.to_string(), &[])));
    // The log at the known place is gone.
    let mut reading = Reading::begin(settings(&double), account(), Some(place(&at(10))));
    reading.until("the lines", |reading| reading.has("299"));
    let (from, to) = (at(10), at(1000));
    let expected = format!(
        "log lines between {from} and {to} may be lost: Railway does not have them any more"
    );
    assert_eq!(reading.lost, [expected]);
    assert_eq!(reading.lines().into_iter().collect::<BTreeSet<String>>().len(), 300);
    assert_eq!(reading.stop().0, Ok(()));
    // Older ones are not given at all.
    double.no_history();
    let small = RailwaySettings { page: 100, ..settings(&double) };
    let mut reading = Reading::begin(small, account(), Some(place(&at(1100))));
    reading.until("the lines", |reading| reading.has("299"));
    let part = format!(
        "between {} and {} may be lost: Railway answers: Problem processing request",
        at(1040),
        at(1200)
    );
    assert!(reading.lost.len() == 1 && reading.lost[0].contains(&part), "{:?}", reading.lost);
    assert_eq!(reading.lines().len(), 100);
}

#[test]
fn history_that_is_gone_while_the_connection_was_away_is_stated() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.log(log(&now(), "one", &[]));
    reading.until("a line", |reading| reading.has("one"));
    double.forget();
    double.log(log(&now(), "two", &[]));
    reading.until("a line", |reading| reading.has("two"));
    assert_eq!(reading.lost.len(), 1, "{:?}", reading.lost);
}

#[test]
fn a_place_in_another_environment_is_not_used() {
    let double = RailwayDouble::new();
    double.log(log(&at(1), "old", &[]));
    let known = RailwayPosition { environment: "other".into(), ..place(&at(0)) };
    let mut reading = Reading::begin(settings(&double), account(), Some(known));
    double.until_subscribed("environmentLogs", 1);
    double.log(log(&now(), "new", &[]));
    reading.until("a line", |reading| reading.has("new"));
    assert!(!reading.has("old"));
    assert!(
        reading.notes.iter().any(|note| note.contains("another environment")),
        "{:?}",
        reading.notes
    );
}

#[test]
fn a_silent_connection_is_given_up() {
    let double = RailwayDouble::new();
    let quick = RailwaySettings {
        ping_every: Duration::from_millis(100),
        silent_max: Duration::from_secs(5),
        ..settings(&double)
    };
    let mut reading = Reading::begin(quick, account(), None);
    double.until_subscribed("environmentLogs", 1);
    // As long as it answers, silence is no failure.
    double.until("pings for longer than that", |double| double.pings() > 70);
    assert_eq!(double.upgrades().len(), 1);
    double.freeze(true);
    reading.until("that it is said", |reading| {
        reading.notes.iter().any(|note| note.contains("no sign of life for 5 s"))
    });
    double.freeze(false);
    double.log(log(&now(), "hello", &[]));
    reading.until("a line", |reading| reading.has("hello"));
}

#[test]
fn a_token_that_is_revoked_later_is_a_failure_that_is_said_once() {
    let double = RailwayDouble::new();
    let quick = RailwaySettings { refused_pause: Duration::from_millis(100), ..settings(&double) };
    let mut reading = Reading::begin(quick, account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.revoke(ACCOUNT_TOKEN);
    double.drop_connections();
    double.until("several tries", |double| double.upgrades().len() > 4);
    double.restore(ACCOUNT_TOKEN);
    double.log(log(&now(), "hello", &[]));
    reading.until("a line", |reading| reading.has("hello"));
    let failed: Vec<&String> =
        reading.failed.iter().filter(|text| text.contains("not taken any more")).collect();
    assert_eq!(failed.len(), 1, "{:?}", reading.failed);
    assert!(reading.notes.iter().any(|note| note.contains("taken again")), "{:?}", reading.notes);
}

#[test]
fn a_subscription_that_is_refused_is_made_again() {
    let double = RailwayDouble::new();
    double.fail(Some(("httpLogs", "Internal error")));
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("httpLogs", 3);
    double.log(log(&now(), "hello", &[]));
    reading.until("a line", |reading| reading.has("hello"));
    assert_eq!(reading.failed, ["railway: Railway refuses HTTP logs: Internal error"]);
    double.fail(None);
    double.http(DEPLOYMENT, http_log(&now(), "r", "203.0.113.1"));
    reading.until("a request", |reading| reading.has("r"));
    double.fail(Some(("environmentLogs", "Internal error")));
    double.drop_connections();
    double.log(log(&now(), "second", &[]));
    reading.until("a failure", |reading| reading.failed.len() == 2);
    double.fail(None);
    reading.until("a line", |reading| reading.has("second"));
    assert!(
        reading.notes.iter().any(|note| note.contains("logs come again")),
        "{:?}",
        reading.notes
    );
}

#[test]
fn a_message_that_is_odd_hides_nothing_beside_it() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    let good = log(&at(1), "good", &[]);
    double.say(&format!(
        r#"{{"id":"1","type":"next","payload":{{"data":{{"environmentLogs":[null,{good},{{"message":"half \ud800","attributes":7}},5]}}}}}}"#
    ));
    double.say(r#"{"id":"1","type":"news"}"#);
    double.say(r#"{"id":"unknown","type":"next","payload":{}}"#);
    double.say(r#"{"type":"ping"}"#);
    double.log(log(&at(2), "after", &[]));
    reading.until("the lines", |reading| reading.lines().len() == 5);
    let lines = reading.lines();
    for odd in ["null", "5", "{\"message\":\"half \u{fffd}\"}"] {
        assert!(lines.iter().any(|line| line == odd), "{odd}: {lines:?}");
    }
    assert!(reading.failed.is_empty());
    double.say("{ not JSON");
    reading
        .until("that it is said", |reading| !reading.failed.is_empty() && !reading.lost.is_empty());
    double.log(log(&at(3), "still there", &[]));
    reading
        .until("a line", |reading| reading.lines().iter().any(|line| line.contains("still there")));
    assert_eq!(double.upgrades().len(), 1);
}

#[test]
fn a_monstrous_line_is_cut_and_said_to_be() {
    let double = RailwayDouble::new();
    let short = RailwaySettings { max_line: 100, ..settings(&double) };
    let mut reading = Reading::begin(short, account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.logs([
        log(&at(1), "a", &[]),
        log(&at(2), &"x".repeat(1000), &[]),
        log(&at(3), "b", &[]),
    ]);
    reading
        .until("three lines", |reading| reading.batches.iter().flat_map(Batch::lines).count() == 3);
    let sizes: Vec<(bool, usize)> =
        reading.batches.iter().map(|batch| (batch.oversized, batch.bytes.len())).collect();
    assert_eq!(sizes.iter().map(|one| one.0).collect::<Vec<bool>>(), [false, true, false]);
    assert_eq!(sizes[1].1, 100);
    assert_eq!(reading.batches[2].start, reading.batches[1].start + 100);
}

#[test]
fn a_flood_with_the_platforms_notice_comes_through() {
    let double = RailwayDouble::new();
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    let notice = "Railway rate limit of 500 logs/sec reached for replica, update your application to reduce \
                  the logging rate. Messages dropped: 50";
    for second in 0..3 {
        double
            .logs((0..500).map(|n| log(&time(second * SECOND + n), &format!("{second}-{n}"), &[])));
        double.log(log(&at(second), notice, &[("level", "\"warn\"")]));
        std::thread::sleep(Duration::from_millis(50));
    }
    reading.until("all lines", |reading| reading.lines().len() == 1503);
    assert_eq!(reading.messages().iter().filter(|message| *message == notice).count(), 3);
    assert_eq!(double.upgrades().len(), 1);
}

#[test]
fn who_is_slow_is_waited_for() {
    let double = RailwayDouble::new();
    let free = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&free);
    let small = RailwaySettings {
        silent_max: Duration::from_secs(5),
        ping_every: Duration::from_millis(500),
        ..settings(&double)
    };
    let mut reading = Reading::held_up(small, account(), None, move |event| {
        let begun = Instant::now();
        while matches!(event, RailwayEvent::Batch(_))
            && !gate.load(Ordering::Relaxed)
            && begun.elapsed() < DEADLINE
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    double.until_subscribed("environmentLogs", 1);
    let text = "x".repeat(10_000);
    for round in 0..15 {
        double.logs((0..50).map(|n| log(&now(), &format!("{round}-{n} {text}"), &[])));
        std::thread::sleep(Duration::from_millis(400));
    }
    free.store(true, Ordering::Relaxed);
    reading.until("all lines", |reading| {
        reading.messages().into_iter().collect::<BTreeSet<String>>().len() == 750
    });
    assert!(reading.lost.is_empty() && reading.failed.is_empty(), "{:?}", reading.said());
    assert_eq!(double.upgrades().len(), 1, "silence that is our own is no silence");
}

#[test]
fn it_ends_soon_whatever_is_under_way() {
    let double = RailwayDouble::new();
    double.slow(DEADLINE);
    // While it asks what to read.
    let mut reading = Reading::begin(settings(&double), account(), None);
    std::thread::sleep(Duration::from_millis(300));
    let (ended, took) = reading.stop();
    assert!(ended.is_ok() && took < SOON, "{ended:?} {took:?}");
    double.slow(Duration::ZERO);
    // While it looks for deployments and connects.
    let mut reading = Reading::begin(settings(&double), account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.slow(DEADLINE);
    double.drop_connections();
    std::thread::sleep(Duration::from_millis(300));
    let (ended, took) = reading.stop();
    assert!(ended.is_ok() && took < SOON, "{ended:?} {took:?}");
    // When nobody wants more.
    double.slow(Duration::ZERO);
    double.log(log(&at(1), "x", &[]));
    let known = place(&at(1));
    let ended = stream(
        &settings(&double),
        account(),
        Some(&known),
        &AtomicBool::new(false),
        &mut |event| !matches!(event, RailwayEvent::Batch(_)),
    );
    assert_eq!(ended, Ok(()));
}

#[test]
fn without_http_logs_nothing_is_asked_about_deployments_and_nothing_waits() {
    let double = RailwayDouble::new();
    let plain = RailwaySettings { http: false, join_wait: 30_000_000, ..settings(&double) };
    let mut reading = Reading::begin(plain, account(), None);
    double.until_subscribed("environmentLogs", 1);
    double.log(log(&at(1), "x", &[("request_id", "\"r\"")]));
    reading.until("a line", |reading| reading.has("x"));
    assert!(double.asked().iter().all(|(query, _)| !query.contains("deployments(")));
    assert_eq!(double.subscribed().len(), 1);
}
