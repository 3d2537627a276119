//! The HTTP server from outside: who is let in, what is taken and told, and what hostile clients
//! cannot do. The stream behind it is a thread that answers what it is asked.

use crate::support::{portcullis, root, stderr, stdout};
use portcullis::action::decision::Decision;
use portcullis::action::order::{Carried, Order, What};
use portcullis::action::{Action, Target};
use portcullis::decide::board::Board;
use portcullis::decide::guard::{Allow, Allowed, By};
use portcullis::engine::ask::{Ask, Counter, SinkStatus, Spared, Status, Why, asking};
use portcullis::engine::summary::{Outcome, Summary};
use portcullis::serve::auth::Need;
use portcullis::serve::routes::{ROUTES, Route};
use portcullis::serve::{ServeConfig, Server, Shared};
use portcullis::yaml::{Checker, Document};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const OPS: &str = "operator-token-0123456789";
const BOUNCER: &str = "bouncer-token-0123456789";
const READ: &str = "reader-token-0123456789";

/// What the stream was asked to do.
type Orders = Arc<Mutex<Vec<Order>>>;

fn decision(id: u64, value: &str, action: &'static str, mode: &'static str) -> Decision {
    let kind = match action {
        "block" if value.contains('/') => "range",
        "block" => "ip",
        _ => "user",
    };
    Decision {
        id: format!("{id:016x}"),
        action,
        mode,
        target: Target { kind: kind.to_owned(), value: Some(value.to_owned()) },
        rule: "ip-blocking".to_owned(),
        pack: "velro".to_owned(),
        started: 1_754_260_000_000_000 + i64::try_from(id).unwrap() * 1_000_000,
        until: 1_754_346_400_000_000,
        hosts: Vec::new(),
        reason: "21 FAILED_LOGIN within 1h".to_owned(),
    }
}

fn started(order: &Order) -> Action {
    let line = json!({
        "schema": 1, "id": "00000000000000aa", "decision": "00000000000000aa",
        "time": "2025-08-03T22:30:00.000000Z", "op": "start", "action": "block",
        "target": order.target, "duration_s": 3600, "until": "2025-08-03T23:30:00.000000Z",
        "rule": "manual", "pack": "portcullis", "mode": "enforce",
        "reason": format!("by {}: {}", order.by, order.because),
    });
    serde_json::from_str(&line.to_string()).unwrap()
}

/// What a stream would do with an order: 198.51.100.1 is guarded, 203.0.113.7 is blocked.
fn carry(order: &Order) -> Carried {
    if order.target.text() == "198.51.100.1" && !order.force {
        let refused = Some("198.51.100.1 is on the allowlist (office)".to_owned());
        return Carried { refused, ..Carried::default() };
    }
    match order.what {
        What::Lift { .. } | What::Allow { .. } => Carried {
            lifted: vec![decision(1, "203.0.113.7", "block", "enforce")],
            ..Carried::default()
        },
        What::Disallow => Carried::default(),
        _ => Carried { actions: vec![started(order)], ..Carried::default() },
    }
}

fn status() -> Status {
    let mut summary = Summary::default();
    summary.lines.add(Outcome::Matched, 7);
    summary.lines.add(Outcome::Unmatched, 3);
    summary.records.add(Outcome::Matched, 7);
    summary.events.insert("FAILED_LOGIN".to_owned(), 7);
    summary.events.insert("TAKEN_OUT".to_owned(), 1);
    for rule in ["ip-blocking", "taken-out", "brake"] {
        summary.actions.insert(rule.to_owned(), [("start".to_owned(), 2)].into());
    }
    Status {
        summary,
        patterns: vec!["FAILED_LOGIN".to_owned(), "SUCCESSFUL_LOGIN".to_owned()],
        rules: vec![("ip-blocking".to_owned(), "velro".to_owned())],
        clock: Some(1_754_260_200_000_000),
        delay_s: Some(0.25),
        state_bytes: 4096,
        keys: 3,
        sinks: vec![SinkStatus {
            name: "webhook \"security\"".to_owned(),
            state: "failing",
            waiting: 4,
            delivered: 9,
            why: Some("the answer was 503".to_owned()),
            ..SinkStatus::default()
        }],
        unready: None,
    }
}

fn why(target: &Target) -> Why {
    let decisions = match target.text() {
        // The stream knows no more of it than the title of its rule.
        "203.0.113.7" => vec![Decision {
            reason: "Too many failed logins".to_owned(),
            ..decision(1, "203.0.113.7", "block", "enforce")
        }],
        _ => Vec::new(),
    };
    let counter = Counter {
        rule: "ip-blocking".to_owned(),
        pack: "velro".to_owned(),
        when: "count > 20 within 1h".to_owned(),
        count: 4,
        needed: 21,
        window_s: 3600,
        sentence: "4 of 21 FAILED_LOGIN within 1h, the oldest expires in 3m12s".to_owned(),
        ..Counter::default()
    };
    Why { counters: vec![counter], guard: None, decisions }
}

/// What is started, and what its stream was asked.
struct Served {
    server: Server,
    board: Arc<Board>,
    orders: Orders,
}

fn config(text: &str) -> ServeConfig {
    let document = Document { name: "t.yaml".into(), text: text.into() };
    let mut checker = Checker::new(&document);
    let node = checker.parse().unwrap();
    let (key, value) = &node.as_map().unwrap()[0];
    let config = ServeConfig::parse(&mut checker, key, value, None);
    assert!(checker.problems.is_empty(), "{:?}", checker.problems);
    config.unwrap()
}

/// The settings with tokens of all roles, as hashes and as a file.
fn usual(folder: &Path, more: &str) -> ServeConfig {
    let file = folder.join("ops.token");
    std::fs::write(&file, format!("{OPS}\n")).unwrap();
    let hash = |token: &str| {
        use sha2::Digest;
        let hash = sha2::Sha256::digest(token.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    config(&format!(
        "serve:\n  listen: 127.0.0.1:0\n  tokens:\n    - {{ name: ops, role: operator, token: {{ file: {} }} }}\n    - {{ name: fw1, role: bouncer, token: {{ sha256: {} }} }}\n    - {{ name: grafana, role: read, token: {{ sha256: {} }} }}\n{more}",
        file.display(),
        hash(BOUNCER),
        hash(READ).to_uppercase(),
    ))
}

fn serve(config: &ServeConfig, state_dir: Option<PathBuf>) -> Served {
    let (asker, asked) = asking();
    let orders = Orders::default();
    let given = Arc::clone(&orders);
    std::thread::spawn(move || {
        for ask in asked {
            match ask {
                Ask::Order(order, reply) => {
                    let carried = carry(&order);
                    given.lock().unwrap().push(order);
                    let _gone = reply.send(carried);
                }
                Ask::Why(target, reply) => {
                    // One that the stream takes its time for.
                    if target.text() == "slow@example.org" {
                        std::thread::sleep(Duration::from_millis(300));
                    }
                    let _gone = reply.send(why(&target));
                }
                Ask::Spared(reply) => {
                    let entry = Allow {
                        who: Allowed::Net("203.0.113.0/24".parse().unwrap()),
                        comment: "ops: office".to_owned(),
                        until: Some(1_754_267_200_000_000),
                    };
                    let _gone = reply.send(vec![Spared::of((By::Hand, &entry))]);
                }
                Ask::Status(reply) => {
                    let _gone = reply.send(Arc::new(status()));
                }
            }
        }
    });
    let board = Arc::new(Board::new(
        vec![
            decision(1, "203.0.113.7", "block", "enforce"),
            decision(2, "2001:db8:1:2::/64", "block", "shadow"),
            decision(3, "mallory@example.org", "lock", "enforce"),
        ],
        Vec::new(),
    ));
    let shared = Arc::new(Shared { board: Arc::clone(&board), asker, state_dir });
    Served { server: portcullis::serve::start(config, shared).unwrap(), board, orders }
}

/// A server with the usual settings.
fn usually() -> (Served, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (serve(&usual(folder.path(), ""), None), folder)
}

/// An answer as it came.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn read(stream: &mut impl Read) -> Option<Self> {
        let mut bytes = Vec::new();
        // Whoever is told off may find the connection cut.
        let _cut = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_lowercase(), body: body.to_owned() })
    }
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends bytes as they are and reads until the other side closes.
fn raw(at: SocketAddr, bytes: &[u8]) -> Option<Got> {
    let mut stream = connect(at);
    let _cut = stream.write_all(bytes);
    Got::read(&mut stream)
}

fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Got {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    raw(at, text.as_bytes()).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

fn get(at: SocketAddr, path: &str, token: &str) -> Got {
    ask(at, "GET", path, &[("Authorization", &format!("Bearer {token}"))], "")
}

fn post(at: SocketAddr, path: &str, body: &Value) -> Got {
    let bearer = format!("Bearer {OPS}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    ask(at, "POST", path, &headers, &body.to_string())
}

/// A request that the route answers with success, if it may be made.
fn proper(route: &Route) -> (String, String) {
    let path = route.path.replace("{target}", "203.0.113.7");
    let hold = |target: &str| json!({ "target": target, "for": "1h", "because": "test" });
    let body = match (route.method, route.path) {
        ("DELETE", "/api/disallow") => {
            return (format!("{path}?target=203.0.113.7&because=test"), String::new());
        }
        (_, "/api/block") => hold("203.0.113.7"),
        (_, "/api/lock" | "/api/require_2fa") => hold("mallory@example.org"),
        ("POST", path) if path.starts_with("/api/") => {
            json!({ "target": "203.0.113.7", "because": "test" })
        }
        ("POST", _) => json!({}),
        _ => return (path, String::new()),
    };
    (path, body.to_string())
}

#[test]
fn every_route_answers_those_whom_it_is_for_and_nobody_else() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let may = |need: Need, role: &str| match need {
        Need::Nothing => true,
        Need::Read => matches!(role, "read" | "operator"),
        Need::Bouncer => matches!(role, "bouncer" | "operator"),
        Need::Operator => role == "operator",
    };
    for route in ROUTES {
        let (path, body) = proper(route);
        for (role, token) in [
            ("none", None),
            ("wrong", Some("no-such-token-0123456789")),
            ("prefix", Some(&OPS[..OPS.len() - 1])),
            ("longer", Some("operator-token-0123456789x")),
            ("read", Some(READ)),
            ("bouncer", Some(BOUNCER)),
            ("operator", Some(OPS)),
        ] {
            for form in ["Authorization", "X-Api-Key"] {
                let value = token.map(|token| match form {
                    "Authorization" => format!("Bearer {token}"),
                    _ => token.to_owned(),
                });
                let mut headers = vec![("Content-Type", "application/json")];
                headers.extend(value.as_deref().map(|value| (form, value)));
                let got = ask(at, route.method, &path, &headers, &body);
                let what = format!("{} {path} by {role}: {got:?}", route.method);
                let known = matches!(role, "read" | "bouncer" | "operator");
                if may(route.need, role) {
                    assert!((200..300).contains(&got.status), "{what}");
                } else if path.starts_with("/v1/") {
                    assert_eq!(got.status, 403, "{what}");
                    assert_eq!(got.json(), json!({ "message": "access forbidden" }), "{what}");
                } else {
                    assert_eq!(got.status, if known { 403 } else { 401 }, "{what}");
                    let body = got.json();
                    assert!(body["error"].is_string() && body["reason"].is_string(), "{what}");
                    if !known {
                        assert!(got.head.contains("www-authenticate: bearer"), "{what}");
                    }
                }
                assert!(got.head.contains("x-content-type-options: nosniff"), "{what}");
            }
        }
    }
    // Whoever was not let in gave no order.
    let by = served.orders.lock().unwrap().iter().filter(|order| order.by != "ops").count();
    assert_eq!(by, 0);
}

#[test]
fn what_is_in_no_table_is_answered_to_nobody() {
    let (served, _folder) = usually();
    let at = served.server.address();
    for path in ["/", "/api", "/api/", "/health/", "//health", "/api/why/", "/../metrics", "/v2/x"]
    {
        assert_eq!(ask(at, "GET", path, &[], "").status, 401, "{path}");
        assert_eq!(get(at, path, OPS).status, 404, "{path}");
    }
    assert_eq!(ask(at, "GET", "/v1/alerts", &[], "").status, 403);
    for (method, path, allowed) in [
        ("POST", "/metrics", "GET, HEAD"),
        ("GET", "/api/block", "POST"),
        ("PUT", "/api/disallow", "POST, DELETE"),
        ("TRACE", "/api/decisions", "GET, HEAD"),
        ("OPTIONS", "/api/decisions", "GET, HEAD"),
    ] {
        let got = ask(at, method, path, &[("X-Api-Key", OPS)], "");
        assert_eq!(got.status, 405, "{method} {path}");
        assert!(got.head.contains(&format!("allow: {}", allowed.to_lowercase())), "{got:?}");
        assert_eq!(ask(at, method, path, &[], "").status, 401, "{method} {path}");
    }
    let head = ask(at, "HEAD", "/metrics", &[("X-Api-Key", READ)], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn a_token_counts_only_as_it_is_meant() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let status = |headers: &[(&str, &str)]| ask(at, "GET", "/metrics", headers, "").status;
    let bearer = format!("Bearer {READ}");
    assert_eq!(status(&[("Authorization", &bearer)]), 200);
    assert_eq!(status(&[("authorization", &bearer.replace("Bearer", "bearer"))]), 200);
    // Two of them: it cannot be said which is meant.
    assert_eq!(status(&[("Authorization", &bearer), ("X-Api-Key", OPS)]), 401);
    assert_eq!(status(&[("X-Api-Key", READ), ("X-Api-Key", "x")]), 401);
    assert_eq!(status(&[("Authorization", READ)]), 401);
    assert_eq!(status(&[("Authorization", "Bearer")]), 401);
    assert_eq!(status(&[("Authorization", "Bearer ")]), 401);
    assert_eq!(status(&[("X-Api-Key", "")]), 401);
    assert_eq!(status(&[("X-Api-Key", "\u{fc}")]), 401);
    assert_eq!(status(&[("Cookie", &format!("token={READ}"))]), 401);
    assert_eq!(ask(at, "GET", &format!("/metrics?token={READ}"), &[], "").status, 401);
    // A name and a password are for those who fetch a list, and for nothing else.
    use base64::Engine;
    let pair = base64::prelude::BASE64_STANDARD.encode(format!("any:{OPS}"));
    assert_eq!(status(&[("Authorization", &format!("Basic {pair}"))]), 401);
}

#[test]
fn a_token_that_was_taken_out_is_not_known_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = usual(folder.path(), "");
    let served = serve(&config, None);
    assert_eq!(get(served.server.address(), "/metrics", READ).status, 200);
    served.server.stop();
    config.tokens.retain(|token| token.name != "grafana");
    let served = serve(&config, None);
    assert_eq!(get(served.server.address(), "/metrics", READ).status, 401);
    assert_eq!(get(served.server.address(), "/metrics", OPS).status, 200);
}

fn refused(config: &ServeConfig) -> String {
    let (asker, _asked) = asking();
    let shared = Shared { board: Arc::default(), asker, state_dir: None };
    portcullis::serve::start(config, Arc::new(shared)).err().unwrap()
}

#[test]
fn it_does_not_start_where_it_would_be_open() {
    let folder = tempfile::tempdir().unwrap();
    let open = ServeConfig { listen: "0.0.0.0:0".to_owned(), ..ServeConfig::default() };
    assert!(refused(&open).contains("`serve.tokens`"), "{}", refused(&open));
    let mut config = usual(folder.path(), "");
    config.listen = "0.0.0.0:0".to_owned();
    config.insecure_loopback = true;
    assert!(refused(&config).contains("`serve.insecure_loopback`"), "{}", refused(&config));
    let mut config = usual(folder.path(), "");
    std::fs::write(folder.path().join("ops.token"), "tooshort-tokens").unwrap();
    let why = refused(&config);
    assert!(why.contains("the token of ops") && why.contains("16 to"), "{why}");
    assert!(!why.contains("tooshort"), "{why}");
    std::fs::write(folder.path().join("ops.token"), BOUNCER).unwrap();
    assert!(refused(&config).contains("ops has the same"), "{}", refused(&config));
    std::fs::remove_file(folder.path().join("ops.token")).unwrap();
    assert!(refused(&config).contains("ops.token"), "{}", refused(&config));
    config.tokens.clear();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.listen = taken.local_addr().unwrap().to_string();
    assert!(refused(&config).contains(&config.listen), "{}", refused(&config));
}

#[test]
fn without_tokens_only_health_is_answered_unless_this_machine_is_trusted() {
    let served = serve(&config("serve: { listen: 127.0.0.1:0 }\n"), None);
    let at = served.server.address();
    assert_eq!(ask(at, "GET", "/health", &[], "").json(), json!({ "status": "up" }));
    assert_eq!(ask(at, "GET", "/metrics", &[], "").status, 401);

    let served = serve(&config("serve: { listen: 127.0.0.1:0, insecure_loopback: true }\n"), None);
    let at = served.server.address();
    assert_eq!(ask(at, "GET", "/metrics", &[], "").status, 200);
    // Bouncers always show something.
    assert_eq!(get(at, "/metrics", "no-such-token-0123456789").status, 200);
    let key = [("X-Api-Key", "anything")];
    assert_eq!(ask(at, "GET", "/v1/decisions", &key, "").status, 200);
    let foreign = [("X-Api-Key", "anything"), ("Origin", "https://evil.example.org")];
    assert_eq!(ask(at, "GET", "/metrics", &foreign, "").status, 401);
    let folder = tempfile::tempdir().unwrap();
    let with_tokens = serve(&usual(folder.path(), "  insecure_loopback: true\n"), None);
    let with_tokens = with_tokens.server.address();
    assert_eq!(get(with_tokens, "/metrics", "no-such-token-0123456789").status, 401);
    assert_eq!(ask(with_tokens, "GET", "/metrics", &[], "").status, 200);
    // A page in a browser has a name for this machine that is not its own, or says where it is from.
    let with_host = |host: &str, more: &str| {
        let text =
            format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        raw(at, text.as_bytes()).unwrap().status
    };
    assert_eq!(with_host("localhost:7979", ""), 200);
    assert_eq!(with_host("[::1]:7979", ""), 200);
    assert_eq!(with_host("evil.example.org:7979", ""), 401);
    assert_eq!(with_host("127.0.0.1.evil.example.org", ""), 401);
    assert_eq!(with_host("localhost", "Origin: https://evil.example.org\r\n"), 401);
}

#[test]
fn orders_reach_the_stream_as_they_were_meant() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let got = post(
        at,
        "/api/block",
        &json!({ "target": " ::ffff:203.0.113.9 ", "for": "1h30m", "because": " seen in the logs " }),
    );
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.json()["actions"][0]["reason"], "by ops: seen in the logs");
    assert_eq!(got.json()["actions"][0]["target"], json!({ "kind": "ip", "value": "203.0.113.9" }));
    // A program says the name as it is, a person as it is shown.
    let hidden = json!({ "kind": "user", "value": "dev\u{200d}x@example.org" });
    for target in [hidden, json!(r"dev\u{200d}x@example.org")] {
        let lift = json!({ "target": target, "because": "b" });
        assert_eq!(post(at, "/api/lift", &lift).status, 200);
        let order = served.orders.lock().unwrap().pop().unwrap();
        assert_eq!(order.target.text(), "dev\u{200d}x@example.org");
    }
    let parts = json!({ "kind": "user", "value": "Mallory@Example.org" });
    let hold = json!({ "target": parts, "for": "2d", "because": "b", "force": true });
    assert_eq!(post(at, "/api/lock", &hold).status, 200);
    assert_eq!(post(at, "/api/require_2fa", &hold).status, 200);
    let lift = json!({ "target": "203.0.113.7", "because": "b", "grace": "10m" });
    let got = post(at, "/api/lift", &lift);
    assert_eq!(got.json()["lifted"][0]["target"]["value"], "203.0.113.7");
    let allow = json!({ "target": "user_id:7F6C", "because": "b" });
    assert_eq!(post(at, "/api/allow", &allow).status, 200);
    let allow = json!({ "target": "203.0.113.99/24", "for": "7d", "because": "b" });
    assert_eq!(post(at, "/api/allow", &allow).status, 200);
    let disallow = json!({ "target": "203.0.113.0/24", "because": "b" });
    assert_eq!(post(at, "/api/disallow", &disallow).status, 200);
    let got = ask(
        at,
        "DELETE",
        "/api/disallow?target=203.0.113.0%2F24&because=b",
        &[("X-Api-Key", OPS)],
        "",
    );
    assert_eq!(got.status, 200, "{got:?}");

    let orders = served.orders.lock().unwrap();
    let target = |n: usize| format!("{} {}", orders[n].target.kind, orders[n].target.text());
    let (minute, day) = (60_000_000_i64, 86_400_000_000_i64);
    assert_eq!(
        (orders[0].what, target(0)),
        (What::Block { lasting: 90 * minute }, "ip 203.0.113.9".into())
    );
    assert_eq!(
        (orders[0].because.as_str(), &*orders[0].by, orders[0].force),
        ("seen in the logs", "ops", false)
    );
    assert!(orders[0].at > 1_754_260_000_000_000);
    assert_eq!(
        (orders[1].what, target(1)),
        (What::Lock { lasting: 2 * day }, "user mallory@example.org".into())
    );
    assert!(orders[1].force);
    assert_eq!(orders[2].what, What::Require2fa { lasting: 2 * day });
    assert_eq!(
        (orders[3].what, target(3)),
        (What::Lift { grace: 10 * minute }, "ip 203.0.113.7".into())
    );
    assert_eq!((orders[4].what, target(4)), (What::Allow { until: None }, "user_id 7f6c".into()));
    let What::Allow { until: Some(until) } = orders[5].what else { panic!("{:?}", orders[5]) };
    assert!((until - orders[5].at - 7 * day).abs() < minute, "{until}");
    assert_eq!((orders[6].what, target(6)), (What::Disallow, "range 203.0.113.0/24".into()));
    assert_eq!((orders[7].what, target(7)), (What::Disallow, "range 203.0.113.0/24".into()));
}

#[test]
fn what_cannot_be_meant_reaches_nobody_and_is_told() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let hold = |target: &str| json!({ "target": target, "for": "1h", "because": "b" });
    let with = |name: &str, value: Value| {
        let mut body = hold("203.0.113.9");
        body[name] = value;
        body
    };
    for (path, body, told) in [
        ("/api/block", hold("mallory@example.org"), "lock the account"),
        ("/api/block", hold("0.0.0.0/0"), "too wide"),
        ("/api/block", hold("::/1"), "too wide"),
        ("/api/block", hold("10.0.0.256"), "no address"),
        ("/api/block", hold(""), "1 to"),
        ("/api/block", hold("null"), "names no account"),
        ("/api/lock", hold("203.0.113.9"), "no account"),
        ("/api/block", with("because", json!("")), "why"),
        ("/api/block", with("because", json!(" ")), "why"),
        ("/api/block", with("because", json!("x".repeat(501))), "500"),
        ("/api/block", with("because", json!("a\nb")), "control"),
        ("/api/block", with("because", json!("a\u{202e}b")), "control"),
        ("/api/block", with("because", json!("\u{1b}[2J")), "control"),
        ("/api/block", with("because", json!(7)), "because"),
        ("/api/block", with("for", json!("soon")), "duration"),
        ("/api/block", with("for", json!("0s")), "between"),
        ("/api/block", with("for", json!("99999d")), "between"),
        ("/api/block", with("for", json!(3600)), "for"),
        ("/api/block", with("fore", json!("1h")), "fore"),
        ("/api/block", with("target", json!({ "kind": "host", "value": "x" })), "kind"),
        ("/api/block", with("target", json!(null)), "target"),
        ("/api/block", json!({ "target": "203.0.113.9", "for": "1h" }), "because"),
        ("/api/lift", json!({ "target": "203.0.113.9", "because": "b", "grace": "x" }), "grace"),
        ("/api/block", json!([]), "an object with names"),
        ("/api/block", json!("x"), "an object with names"),
        ("/api/block", json!(["203.0.113.9", "1h", "b", true]), "an object with names"),
        ("/api/lift", json!(["203.0.113.9", "b", "1h"]), "an object with names"),
        ("/api/allow", json!(["203.0.113.9", null, "b"]), "an object with names"),
        ("/api/disallow", json!(["203.0.113.9", "b"]), "an object with names"),
        ("/api/block", with("target", json!(["ip", "203.0.113.9"])), "`kind` and `value`"),
        ("/api/block", with("target", json!({ "kind": "ip" })), "value"),
        ("/api/block", with("target", json!({ "kind": "ip", "value": "x", "v": 1 })), "`v`"),
    ] {
        let got = post(at, path, &body);
        assert_eq!(got.status, 422, "{path} {body}: {got:?}");
        let reason = got.json()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(told), "{path} {body}: {reason}");
    }
    assert_eq!(served.orders.lock().unwrap().len(), 0);
    let got = post(at, "/api/block", &hold("198.51.100.1"));
    assert_eq!((got.status, got.json()["error"].as_str()), (409, Some("refused")), "{got:?}");
    assert!(got.json()["reason"].as_str().unwrap().contains("allowlist"));
}

#[test]
fn bodies_that_are_broken_or_too_long_cost_one_answer() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let key = ("X-Api-Key", OPS);
    let json_type = ("Content-Type", "application/json");
    let deep = "[".repeat(100_000);
    for body in ["{", "", "\u{feff}{}", "{\"target\":\"\\ud800\"}", "NaN", deep.as_str()] {
        let got = ask(at, "POST", "/api/block", &[key, json_type], body);
        assert!(matches!(got.status, 400 | 422), "{got:?}");
        assert!(got.json()["reason"].is_string(), "{got:?}");
    }
    let twice = r#"{"target":"203.0.113.9","target":"203.0.113.8","for":"1h","because":"b"}"#;
    assert_eq!(ask(at, "POST", "/api/block", &[key, json_type], twice).status, 422);
    // A form that a browser would send without asking.
    let form = r#"{"target":"203.0.113.9","for":"1h","because":"b"}"#;
    assert_eq!(
        ask(at, "POST", "/api/block", &[key, ("Content-Type", "text/plain")], form).status,
        415
    );
    assert_eq!(ask(at, "POST", "/api/block", &[key], form).status, 415);
    let head = |more: &str| {
        format!(
            "POST /api/block HTTP/1.1\r\nHost: x\r\nX-Api-Key: {OPS}\r\nContent-Type: application/json\r\nConnection: close\r\n{more}\r\n\r\n"
        )
    };
    let mut long = head(&format!("Content-Length: {}", (1 << 20) + 1)).into_bytes();
    long.extend(vec![b' '; (1 << 20) + 1]);
    assert_eq!(raw(at, &long).unwrap().status, 413);
    let mut chunked = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..20 {
        chunked.extend(b"10000\r\n");
        chunked.extend(vec![b' '; 1 << 16]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    assert_eq!(raw(at, &chunked).unwrap().status, 413);
    // Whoever has no token is told before he has sent it.
    let huge =
        format!("POST /api/block HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2);
    assert_eq!(raw(at, huge.as_bytes()).unwrap().status, 401);
    assert_eq!(served.orders.lock().unwrap().len(), 0);
}

#[test]
fn nothing_that_is_sent_becomes_a_header_or_a_second_request() {
    let (served, _folder) = usually();
    let at = served.server.address();
    for path in [
        "/api/why/a%0d%0aX-Evil:%201",
        "/api/why/a%00b",
        "/api/why/%ff%fe",
        "/api/why/%",
        "/api/decisions?rule=%0d%0aX-Evil:%201",
        "/api/decisions?target=a%0d%0aX-Evil:%201",
        "/api/decisions?limit=1%0d%0aX-Evil:%201",
        "/%0d%0aX-Evil:%201",
    ] {
        let got = get(at, path, OPS);
        assert!(!got.head.contains("x-evil"), "{path}: {got:?}");
        assert!(got.status < 500, "{path}: {got:?}");
    }
    let line = format!("X-Api-Key: {OPS}");
    for request in [
        "GET /health HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: x\r\n A: folded\r\n\r\n".to_owned(),
        "GET / health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /health HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n".to_owned(),
        format!(
            "POST /api/block HTTP/1.1\r\nHost: x\r\n{line}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"
        ),
        format!("POST /api/block HTTP/1.1\r\nHost: x\r\n{line}\r\nContent-Length: +5\r\n\r\nhello"),
        format!("POST /api/block HTTP/1.1\r\nHost: x\r\n{line}\r\nContent-Length: -1\r\n\r\n"),
        format!(
            "POST /api/block HTTP/1.1\r\nHost: x\r\n{line}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        ),
        format!("GET /health HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1000)),
    ] {
        let got = raw(at, request.as_bytes());
        let shown: String = request.chars().take(60).collect();
        assert!(
            got.as_ref().is_none_or(|got| (400..500).contains(&got.status)),
            "{shown}: {got:?}"
        );
    }
    assert_eq!(served.orders.lock().unwrap().len(), 0);
    assert_eq!(ask(at, "GET", "/health", &[], "").status, 200);
}

#[test]
fn decisions_are_told_and_filtered() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let values = |query: &str| {
        let got = get(at, &format!("/api/decisions{query}"), READ);
        assert_eq!(got.status, 200, "{query}: {got:?}");
        let body = got.json();
        let all = body["decisions"].as_array().unwrap().iter();
        all.map(|d| d["target"]["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(""), ["203.0.113.7", "2001:db8:1:2::/64", "mallory@example.org"]);
    assert_eq!(values("?action=lock"), ["mallory@example.org"]);
    assert_eq!(values("?mode=shadow"), ["2001:db8:1:2::/64"]);
    assert_eq!(values("?target=2001:db8:1:2::9"), ["2001:db8:1:2::/64"]);
    assert_eq!(values("?target=203.0.113.0%2F24"), ["203.0.113.7"]);
    assert_eq!(values("?target=Mallory@example.org"), ["mallory@example.org"]);
    assert_eq!(values("?rule=other"), [""; 0]);
    assert_eq!(values("?limit=1"), ["mallory@example.org"]);
    for (query, status) in [
        ("?action=ban", 400),
        ("?mode=x", 400),
        ("?limit=0", 400),
        ("?limit=x", 400),
        ("?limti=1", 400),
        ("?target=10.0.0.256", 422),
        ("?history=true", 404),
    ] {
        let got = get(at, &format!("/api/decisions{query}"), READ);
        assert_eq!(got.status, status, "{query}: {got:?}");
        assert!(got.json()["reason"].is_string(), "{query}");
    }
    let got = get(at, "/api/why/::ffff:203.0.113.7", READ).json();
    assert_eq!(got["target"], json!({ "kind": "ip", "value": "203.0.113.7" }));
    assert_eq!(got["counters"][0]["count"], 4);
    assert_eq!(got["decisions"][0]["until"], "2025-08-04T22:26:40.000000Z");
    let got = get(at, "/api/why/2001:db8::%2F64", READ).json();
    assert_eq!(got["target"], json!({ "kind": "range", "value": "2001:db8::/64" }));
    assert_eq!(get(at, "/ready", READ).json(), json!({ "status": "ready" }));
    let got = get(at, "/api/status", READ).json();
    assert_eq!((&got["ready"], &got["sinks"][0]["waiting"]), (&json!(true), &json!(4)));
}

#[test]
fn a_parameter_that_is_not_known_is_told_and_not_passed_over() {
    let (served, _folder) = usually();
    let at = served.server.address();
    for (method, path, told) in [
        ("GET", "/blocklist?famly=4", "did you mean `family`?"),
        ("GET", "/blocklist.txt?x=1", "it takes family, format"),
        ("GET", "/blocklist?family=4&family=6", "`family` is given twice"),
        ("GET", "/blocklist?family", "`family` must be one of"),
        ("GET", "/api/decisions?limti=1", "did you mean `limit`?"),
        ("GET", "/api/status?verbose=1", "it takes none"),
        ("GET", "/api/why/203.0.113.7?limit=1", "it takes none"),
        ("GET", "/metrics?name=x", "it takes none"),
        ("GET", "/ready?a%0ab=1", r"`a\u{a}b` is no parameter"),
        ("POST", "/api/block?force=true", "it takes none"),
        (
            "DELETE",
            "/api/disallow?target=203.0.113.7&because=b&grace=0s",
            "it takes target, because",
        ),
    ] {
        let body = json!({ "target": "203.0.113.9", "for": "1h", "because": "b" }).to_string();
        let headers = [("X-Api-Key", OPS), ("Content-Type", "application/json")];
        let got = ask(at, method, path, &headers, &body);
        assert_eq!(got.status, 400, "{path}: {got:?}");
        let reason = got.json()["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains(told), "{path}: {reason}");
    }
    assert_eq!(served.orders.lock().unwrap().len(), 0);
    // Those who ask as others have taught them are answered.
    assert_eq!(ask(at, "GET", "/health?probe=7", &[], "").status, 200);
    assert_eq!(get(at, "/v1/decisions/stream?community_pull=true", BOUNCER).status, 200);
    // And whoever may not ask learns nothing.
    assert_eq!(ask(at, "GET", "/blocklist?famly=4", &[], "").status, 401);
}

/// Texts of each schema that is a text, and whether it takes them by the document.
#[test]
fn the_document_and_the_server_take_the_same_texts() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let document = get(at, "/openapi.json", READ).json();
    let schemas = &document["components"]["schemas"];
    let takes = |schema: &Value, text: &str| {
        let schema = schema["anyOf"].get(0).unwrap_or(schema);
        let count = u64::try_from(text.chars().count()).unwrap();
        let within = count >= schema["minLength"].as_u64().unwrap_or(0)
            && count <= schema["maxLength"].as_u64().unwrap_or(u64::MAX);
        let pattern = schema["pattern"].as_str().unwrap();
        within && regex::Regex::new(pattern).unwrap().is_match(text)
    };
    let long = |n: usize| "ü".repeat(n);
    let (most, more, much) = (long(500), long(501), long(1024));
    let (many, blank) = (long(1025), format!("{} x", " ".repeat(500)));
    let id = format!("user_id:{}", "a".repeat(1020));
    for (schema, name, texts) in [
        (
            &schemas["Lift"]["properties"]["grace"],
            "grace",
            &[
                "0s", "1h", "24h", "1000s", "1h30m", " 5m ", "007s", "1d12h", "h", "5", "30m1h",
                "1.5h", "-1h", "1h 30m", "5ms", "1x",
            ][..],
        ),
        (&schemas["TargetText"], "target", &["x", " x ", "", " ", &much, &many, &id]),
        (&schemas["Because"], "because", &["x", " x ", "", "  ", &most, &more, &blank]),
    ] {
        for text in texts {
            let mut body = json!({ "target": "mallory@example.org", "because": "b" });
            body[name] = json!(text);
            let got = post(at, "/api/lift", &body);
            assert_eq!(got.status == 200, takes(schema, text), "{name} `{text}`: {got:?}");
        }
    }
    // What is left out may be written as null too.
    let body = json!({ "target": "mallory@example.org", "because": "b", "grace": null });
    assert_eq!(post(at, "/api/lift", &body).status, 200);
    assert_eq!(schemas["Lift"]["properties"]["grace"]["anyOf"][1]["type"], "null");
}

#[test]
fn history_is_read_from_the_state_directory() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::write(folder.path().join("portcullis.yaml"), "state_dir: ./state\n").unwrap();
    let input = crate::support::failed_logins(25, 1, "203.0.113.7")
        + &crate::support::failed_logins(25, 1, "203.0.113.8");
    let output = crate::support::run_in(folder.path(), &["run"], input.as_bytes());
    assert!(state.join("portcullis.db").exists(), "{}", stderr(&output));
    let served = serve(&usual(folder.path(), ""), Some(state));
    let at = served.server.address();
    let got = get(at, "/api/decisions?history=true&action=block&mode=enforce", READ).json();
    let values = |got: &Value| {
        let all = got["decisions"].as_array().unwrap().clone();
        all.iter().map(|d| d["target"]["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut all = values(&got);
    all.sort();
    assert_eq!(all, ["203.0.113.7", "203.0.113.8"], "{got}");
    assert_eq!(got["decisions"][0]["rule"], "ip-blocking");
    let got =
        get(at, "/api/decisions?history=true&target=203.0.113.8&action=block&mode=enforce", READ)
            .json();
    assert_eq!(values(&got), ["203.0.113.8"]);
    let some = get(at, "/api/decisions?history=true&action=block&limit=1", READ).json();
    let total = get(at, "/api/decisions?history=true&action=block", READ).json()["total"].clone();
    assert_eq!((values(&some).len(), &some["total"]), (1, &total));
    let table = |args: &[&str]| {
        let output = command(&served, &[&["decisions", "--history"], args].concat(), Some(READ));
        stdout(&output)
    };
    let cut = table(&["--action", "block", "--limit", "1"]);
    let more = total.as_u64().unwrap() - 1;
    let told = format!("and {more} older ones: --limit {total} shows more, --target,");
    assert!(cut.contains(&told) && cut.contains("ENDED"), "{cut}");
    assert!(!table(&["--action", "block"]).contains("older ones"));
    assert_eq!(table(&["--rule", "none"]).trim(), "there is none in the history");
}

#[test]
fn nobody_behind_it_is_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (asker, asked) = asking();
    let shared = Shared { board: Arc::default(), asker, state_dir: None };
    let config = usual(folder.path(), "  timeout: 1s\n");
    let server = portcullis::serve::start(&config, Arc::new(shared)).unwrap();
    let at = server.address();
    // The stream takes too long.
    let got = get(at, "/ready", READ);
    assert_eq!((got.status, got.json()["error"].as_str()), (503, Some("no_answer")), "{got:?}");
    // The stream has ended.
    drop(asked);
    for path in ["/ready", "/metrics", "/api/why/x", "/api/status"] {
        let got = get(at, path, READ);
        assert_eq!(got.status, 503, "{got:?}");
        assert!(got.json()["reason"].as_str().unwrap().contains("ended"), "{got:?}");
    }
    assert_eq!(ask(at, "GET", "/health", &[], "").status, 200);
}

#[test]
fn slow_heads_and_slow_bodies_come_to_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(&usual(folder.path(), "  timeout: 1s\n"), None);
    let at = served.server.address();
    let mut head = connect(at);
    head.write_all(b"GET /health HTTP/1.1\r\nHo").unwrap();
    let mut silent = connect(at);
    let mut body = connect(at);
    let text = format!(
        "POST /api/block HTTP/1.1\r\nHost: x\r\nX-Api-Key: {OPS}\r\nContent-Length: 100\r\n\r\n{{"
    );
    body.write_all(text.as_bytes()).unwrap();
    let begun = Instant::now();
    // The read of an end, long before the client's own patience is over.
    let mut rest = Vec::new();
    let _cut = head.read_to_end(&mut rest);
    let _cut = silent.read_to_end(&mut rest);
    assert_eq!(Got::read(&mut body).unwrap().status, 408);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_is_being_answered_is_answered_before_the_end() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let idle = connect(at);
    let slow = std::thread::spawn(move || get(at, "/api/why/slow@example.org", READ));
    // Until it is with the stream.
    std::thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    served.server.stop();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(slow.join().unwrap().status, 200);
    drop(idle);
    assert_eq!(TcpStream::connect(at).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// A server in a process of its own, for tests that measure it or need many descriptors. It says
/// where it listens and ends with its standard input.
#[test]
#[ignore = "others start it"]
fn a_server_in_a_process_of_its_own() {
    let (served, _folder) = usually();
    println!("\nlistening on {}", served.server.address());
    let _ended = std::io::stdin().read_to_end(&mut Vec::new());
}

struct Apart(std::process::Child, SocketAddr);

impl Apart {
    fn start() -> Self {
        use std::io::BufRead;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("serve::a_server_in_a_process_of_its_own")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let at = lines.find_map(|line| line.unwrap().strip_prefix("listening on ")?.parse().ok());
        std::thread::spawn(move || lines.for_each(drop));
        Self(child, at.unwrap())
    }

    /// Resident memory now, and at most so far, KiB.
    fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (of("VmRSS:"), of("VmHWM:"))
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn thousands_of_slow_connections_keep_nobody_out() {
    let apart = Apart::start();
    let at = apart.1;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let open = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let open: usize = open.split_whitespace().next().unwrap().parse().unwrap_or(1 << 20);
    // The rest is for the other tests in this process.
    let aim = 10_000.min(open / 2);
    let (before, _) = apart.memory();
    let mut slow = Vec::new();
    let mut slowest = Duration::ZERO;
    for n in 0..aim {
        let mut stream = connect(at);
        // A head that goes on and on, a body without a token, and nothing at all.
        let _cut = match n % 3 {
            0 => stream.write_all(b"GET /health HTTP/1.1\r\nX-Slow: "),
            1 => stream.write_all(b"POST /api/block HTTP/1.1\r\nContent-Length: 1000\r\n"),
            _ => Ok(()),
        };
        slow.push(stream);
        if n % 250 == 249 {
            let begun = Instant::now();
            let got = get(at, "/api/status", READ);
            slowest = slowest.max(begun.elapsed());
            assert_eq!(got.status, 200, "after {n}");
        }
    }
    let (_, most) = apart.memory();
    println!(
        "{aim} slow connections: {before} KiB before, {most} KiB at most, slowest answer {slowest:?}"
    );
    assert!(most - before < 32 << 10, "{before} KiB before, {most} KiB at most");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    // Those who have shown a token stay.
    let mut good = connect(at);
    let text = format!("GET /api/status HTTP/1.1\r\nHost: x\r\nX-Api-Key: {READ}\r\n\r\n");
    let again = |stream: &mut TcpStream| {
        stream.write_all(text.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let n = stream.read(&mut bytes).unwrap();
        assert!(bytes[..n].starts_with(b"HTTP/1.1 200"), "{n}");
    };
    again(&mut good);
    slow.truncate(aim / 2);
    slow.extend((0..1000).map(|_| connect(at)));
    again(&mut good);
}

/// Certificates of an authority of our own: `ca.pem`, `server.pem|key`, `client.pem|key`, and one
/// of another authority.
fn certificates(folder: &Path) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(folder).output();
        let output = output.expect("the tests of TLS need openssl, which is missing");
        assert!(output.status.success(), "{}", stderr(&output));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for ca in ["ca", "other"] {
        let (pem, secret, name) = (format!("{ca}.pem"), format!("{ca}.key"), format!("/CN={ca}"));
        let ends = ["-x509", "-days", "2", "-subj", &name, "-out", &pem, "-keyout", &secret];
        openssl(&[&["req"][..], &key, &ends].concat());
    }
    for (ca, who) in [("ca", "server"), ("ca", "client"), ("other", "stranger")] {
        let (pem, secret) = (format!("{who}.pem"), format!("{who}.key"));
        let (ca_pem, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
        let (name, request) = (format!("/CN={who}"), format!("{who}.csr"));
        let ends = ["-subj", &name, "-out", &request, "-keyout", &secret];
        openssl(&[&["req"][..], &key, &ends].concat());
        std::fs::write(
            folder.join("ext"),
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n",
        )
        .unwrap();
        openssl(&[
            "x509", "-req", "-in", &request, "-CA", &ca_pem, "-CAkey", &ca_key, "-days", "2",
            "-extfile", "ext", "-out", &pem,
        ]);
    }
}

/// What `openssl s_client` gets for GET /health.
fn tls_health(folder: &Path, at: SocketAddr, more: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile", "ca.pem", "-connect"])
        .arg(at.to_string())
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _refused =
        stdin.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    stdout(&output)
}

#[test]
fn tls_is_spoken_and_a_stranger_is_not_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    certificates(folder.path());
    let tls = format!("  tls: {{ cert: {}, key: {} }}\n", at("server.pem"), at("server.key"));
    let served = serve(&usual(folder.path(), &tls), None);
    let address = served.server.address();
    let got = tls_health(folder.path(), address, &[]);
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("{\"status\":\"up\"}"), "{got}");
    // Without TLS nothing is answered.
    assert!(raw(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").is_none());
    // Our own client trusts the authority that it is told of, and no other.
    let url = format!("https://{address}");
    let run = |ca: &str| {
        portcullis(folder.path())
            .args(["status", "--url", &url, "--ca", ca])
            .env("PORTCULLIS_TOKEN", READ)
            .output()
            .unwrap()
    };
    let output = run("ca.pem");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run("other.pem");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--ca FILE"), "{}", stderr(&output));

    let tls = format!(
        "  tls: {{ cert: {}, key: {}, client_ca: {} }}\n",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    );
    let served = serve(&usual(folder.path(), &tls), None);
    let address = served.server.address();
    assert_eq!(tls_health(folder.path(), address, &[]), "");
    let stranger = ["-cert", "stranger.pem", "-key", "stranger.key"];
    assert_eq!(tls_health(folder.path(), address, &stranger), "");
    let known = ["-cert", "client.pem", "-key", "client.key"];
    let got = tls_health(folder.path(), address, &known);
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    // Our own client shows what it is told to.
    let url = format!("https://{address}");
    let known: &[&str] = &["--cert", "client.pem", "--key", "client.key"];
    for (shows, code, told) in [
        (known, 0, ""),
        (&[], 2, "--cert FILE and --key FILE"),
        (&["--cert", "client.key", "--key", "client.key"], 2, "there is no certificate in it"),
        (&["--cert", "client.pem", "--key", "client.pem"], 2, "there is no private key in it"),
        (&["--cert", "client.pem", "--key", "server.key"], 2, "cannot be shown"),
        (&["--cert", "client.pem"], 2, "--key <FILE>"),
    ] {
        let output = portcullis(folder.path())
            .args(["status", "--url", &url, "--ca", "ca.pem"])
            .args(shows)
            .env("PORTCULLIS_TOKEN", READ)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{shows:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{shows:?}: {}", stderr(&output));
    }

    for (cert, key, told) in [
        ("nowhere.pem", "server.key", "serve.tls.cert"),
        ("server.key", "server.key", "no certificate"),
        ("server.pem", "client.pem", "serve.tls.key"),
        ("server.pem", "client.key", "does not fit"),
    ] {
        let tls = format!("  tls: {{ cert: {}, key: {} }}\n", at(cert), at(key));
        let why = refused(&usual(folder.path(), &tls));
        assert!(why.contains(told), "{why}");
    }
}

/// Runs a command of the client.
fn command(served: &Served, args: &[&str], token: Option<&str>) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = portcullis(folder.path());
    command.args(args).env("PORTCULLIS_URL", format!("http://{}", served.server.address()));
    match token {
        Some(token) => command.env("PORTCULLIS_TOKEN", token),
        None => command.env_remove("PORTCULLIS_TOKEN"),
    };
    command.output().unwrap()
}

#[test]
fn commands_ask_and_say_what_came_of_it() {
    let (served, _folder) = usually();
    for (args, told) in [
        (&["status"][..], "webhook \"security\": failing, 4 waiting"),
        (&["decisions"], "2001:db8:1:2::/64    block   shadow   ip-blocking"),
        (&["decisions", "--action", "lock"], "mallory@example.org  lock"),
        (&["decisions", "--rule", "none"], "nothing is in force"),
        (&["why", "203.0.113.7"], "ip-blocking: 4 of 21 FAILED_LOGIN within 1h"),
        (&["why", "203.0.113.7"], "until 2025-08-04T22:26:40Z: 21 FAILED_LOGIN within 1h"),
        (&["why", "2001:db8::/64"], "2001:db8::/64: nothing is in force against it"),
        (
            &["block", "203.0.113.9", "--for", "1h", "--because", "seen"],
            "start: block of 203.0.113.9 until 2025-08-03T23:30:00Z: by ops: seen",
        ),
        (&["lock", "mallory@example.org", "--for", "1h", "--because", "seen"], "start: "),
        (&["require-2fa", "user_id:7", "--for", "1h", "--because", "seen"], "start: "),
        (
            &["lift", "203.0.113.7", "--grace", "10m"],
            "lifted: block of 203.0.113.7 by ip-blocking, which would have ended 2025-08-04T22:26:40Z",
        ),
        (&["allow", "203.0.113.0/24", "--for", "7d", "--because", "office"], "lifted: "),
        (&["disallow", "203.0.113.0/24"], "done; nothing was in force"),
        (
            &["allow"],
            "TARGET          BY    UNTIL                 BECAUSE\n\
             203.0.113.0/24  hand  2025-08-04T00:26:40Z  ops: office\n",
        ),
    ] {
        let output = command(&served, args, Some(OPS));
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(stdout(&output).contains(told), "{args:?}: {}", stdout(&output));
    }
    let output = command(&served, &["why", "203.0.113.7", "--output", "json"], Some(READ));
    let body: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(body["counters"][0]["needed"], 21);
    let orders = served.orders.lock().unwrap();
    assert_eq!(orders.len(), 6);
    assert!(orders.last().unwrap().because.contains("by hand"), "{orders:?}");
}

#[test]
fn commands_say_by_their_exit_code_whether_it_was_refused_or_not_reached() {
    let (served, _folder) = usually();
    let block = ["block", "198.51.100.1", "--for", "1h", "--because", "b"];
    let output = command(&served, &block, Some(OPS));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("refused: 198.51.100.1 is on the allowlist"));
    let output = command(&served, &[&block[..], &["--force"]].concat(), Some(OPS));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (args, token, told) in [
        (&block[..], None, "PORTCULLIS_TOKEN"),
        (&block, Some("no-such-token-0123456789"), "this token is not known"),
        (&block, Some(READ), "the operator role"),
        (&["why", "10.0.0.256"], Some(READ), "no address"),
        (&["lift", "bob\u{200b}x"], Some(OPS), r"write `bob\u{200b}x`"),
        (
            &["block", "x@example.org", "--for", "1h", "--because", "b"],
            Some(OPS),
            "lock the account",
        ),
        (&["status", "--url", "http://127.0.0.1:1"], Some(OPS), "cannot reach http://127.0.0.1:1"),
        (&["status", "--url", "127.0.0.1"], Some(OPS), "no URL"),
        (&["status", "--token-file", "/nowhere/token"], None, "/nowhere/token"),
        (&["status", "--output", "ecs"], Some(OPS), "not ecs"),
    ] {
        let output = command(&served, args, token);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(told), "{args:?}: {}", stderr(&output));
        assert!(token.is_none_or(|token| !stderr(&output).contains(token)), "{args:?}");
    }
}

/// Answers every request with this body, and gives what it was asked.
fn agreeing(body: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, (tell, told)) = (listener.local_addr().unwrap(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut some = [0; 1024];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut some) {
                    Ok(read) if read > 0 => head.extend_from_slice(&some[..read]),
                    _ => break,
                }
            }
            let _over = tell.send(String::from_utf8_lossy(&head).into_owned());
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _gone = stream.write_all(answer.as_bytes());
        }
    });
    (at, told)
}

#[test]
fn commands_take_no_other_server_for_one_of_ours() {
    for body in [r#"{"status":"up"}"#, "{}", "null", "[]", r#""yes""#] {
        let (at, _asked) = agreeing(body);
        let url = format!("http://{at}");
        for args in [
            &["status"][..],
            &["decisions"],
            &["why", "203.0.113.7"],
            &["allow"],
            &["block", "203.0.113.9", "--for", "1h", "--because", "seen"],
            &["lift", "203.0.113.7"],
            &["disallow", "203.0.113.7"],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let output = portcullis(folder.path()).args(args).args(["--url", &url]).output();
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
            assert!(stderr(&output).contains("is no Portcullis"), "{}", stderr(&output));
        }
    }
}

#[test]
fn a_token_goes_to_this_machine_past_every_proxy() {
    let (served, _folder) = usually();
    let (proxy, asked) = agreeing("{}");
    let folder = tempfile::tempdir().unwrap();
    for variable in ["https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"] {
        let output = portcullis(folder.path())
            .args(["status", "--url", &format!("http://{}", served.server.address())])
            .env("PORTCULLIS_TOKEN", READ)
            .env(variable, format!("http://{proxy}"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{variable}: {}", stderr(&output));
    }
    assert!(asked.try_recv().is_err(), "the proxy was asked");
    // Over TLS, another machine is reached through it, which sees a name and no token.
    let output = portcullis(folder.path())
        .args(["status", "--url", "https://portcullis.example.org"])
        .env("PORTCULLIS_TOKEN", READ)
        .env("HTTPS_PROXY", format!("http://{proxy}"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let asked = asked.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(asked.starts_with("CONNECT portcullis.example.org:443 "), "{asked}");
    assert!(!asked.contains(READ), "{asked}");
}

#[test]
fn what_a_bouncer_could_not_read_is_told_again() {
    let (served, _folder) = usually();
    let at = served.server.address();
    let block = |id: u64, value: &str| {
        let line = json!({
            "schema": 1, "id": format!("{id:016x}"), "decision": format!("{id:016x}"),
            "time": "2025-08-03T22:30:00.000000Z", "op": "start", "action": "block",
            "target": { "kind": "ip", "value": value }, "until": "2999-08-03T23:30:00.000000Z",
            "rule": "ip-blocking", "pack": "velro", "mode": "enforce", "reason": "seen",
        });
        served.board.apply(&[serde_json::from_str(&line.to_string()).unwrap()]);
    };
    block(0xa0, "203.0.113.70");
    let path = "/v1/decisions/stream?startup=false";
    let head = |more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nX-Api-Key: {BOUNCER}\r\n{more}\r\n")
    };
    let told = || {
        let answer = raw(at, head("Connection: close\r\n").as_bytes()).unwrap().json();
        answer["new"].as_array().unwrap().len()
    };
    // Closed with something unread, it is reset. An answer to which nobody listens does not count either.
    for read in [20, 1] {
        let mut broken = connect(at);
        broken.write_all(head("").as_bytes()).unwrap();
        broken.read_exact(&mut vec![0; read]).unwrap();
        drop(broken);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(told(), 1);
    // That one was read to its end.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(told(), 0);
    // On a connection that goes on, the next question says so.
    block(0xb0, "203.0.113.77");
    let mut kept = connect(at);
    let mut lengths = Vec::new();
    for _ in 0..2 {
        kept.write_all(head("").as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"]}") {
            let mut byte = [0];
            kept.read_exact(&mut byte).unwrap();
            bytes.push(byte[0]);
        }
        lengths.push(String::from_utf8_lossy(&bytes).matches("203.0.113.77").count());
    }
    assert_eq!(lengths, [1, 0]);
}

#[test]
fn commands_find_the_server_in_the_configuration() {
    let (served, folder) = usually();
    let listen = format!("serve: {{ listen: {} }}\n", served.server.address());
    std::fs::write(folder.path().join("portcullis.yaml"), listen).unwrap();
    let output =
        portcullis(folder.path()).args(["status", "--token-file", "ops.token"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // What is said to the client is no setting of the server.
    let output = portcullis(folder.path())
        .args(["replay", "-"])
        .env("PORTCULLIS_TOKEN", OPS)
        .env("PORTCULLIS_URL", "http://127.0.0.1:1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn fetched(args: &[&str]) -> Command {
    let mut command = Command::new(root().join("tests/serve/fetch.sh"));
    command.args(args);
    command
}

#[test]
fn figures_are_read_by_a_real_parser() {
    let (served, _folder) = usually();
    let page = get(served.server.address(), "/metrics", READ);
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    let parse = "import sys, json
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    assert family.type in ('counter', 'gauge'), family
    for sample in family.samples:
        assert (family.type == 'counter') == sample.name.endswith('_total'), sample
        print(sample.name + json.dumps(sample.labels, sort_keys=True), sample.value)
";
    let mut child = fetched(&["python", "-c", parse])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(page.body.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{}", stderr(&output), page.body);
    let read = stdout(&output);
    for sample in [
        r#"portcullis_lines_total{"outcome": "matched"} 7"#,
        r#"portcullis_lines_total{"outcome": "late"} 0"#,
        r#"portcullis_records_total{"outcome": "matched"} 7"#,
        r#"portcullis_events_total{"pattern": "FAILED_LOGIN"} 7"#,
        r#"portcullis_events_total{"pattern": "SUCCESSFUL_LOGIN"} 0"#,
        r#"portcullis_events_total{"pattern": "TAKEN_OUT"} 1"#,
        r#"portcullis_actions_total{"op": "start", "rule": "ip-blocking"} 2"#,
        r#"portcullis_actions_total{"op": "start", "rule": "brake"} 2"#,
        r#"portcullis_actions_total{"op": "start", "rule": "taken-out"} 2"#,
        r#"portcullis_decisions_active{"action": "block", "mode": "enforce"} 1"#,
        r#"portcullis_decisions_active{"action": "block", "mode": "shadow"} 1"#,
        r#"portcullis_decisions_active{"action": "alert", "mode": "shadow"} 0"#,
        r#"portcullis_sink_state{"sink": "webhook \"security\"", "state": "failing"} 1"#,
        r#"portcullis_sink_state{"sink": "webhook \"security\"", "state": "working"} 0"#,
        r#"portcullis_sink_waiting{"sink": "webhook \"security\""} 4"#,
        r#"portcullis_sink_delivered_total{"sink": "webhook \"security\""} 9"#,
        "portcullis_ready{} 1",
        "portcullis_clock_seconds{} 1754260200",
        "portcullis_delay_seconds{} 0.25",
        "portcullis_state_bytes{} 4096",
    ] {
        assert!(read.lines().any(|line| line == sample), "{sample}\n{read}");
    }
}

#[test]
fn the_document_says_what_happens() {
    let (served, folder) = usually();
    let at = served.server.address();
    let document = get(at, "/openapi.json", READ).json();
    assert_eq!(document["openapi"], "3.1.0");
    std::fs::write(
        folder.path().join("schemathesis.toml"),
        "[checks.positive_data_acceptance]\nexpected-statuses = [\"2xx\", 401, 403, 404, 409, 422]\n\
         [checks.negative_data_rejection]\nexpected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422]\n\
         [[operations]]\n\
         # The original answers 500 to an address that it cannot read, and takes what it does not know.\n\
         include-path-regex = \"^/v1/\"\n\
         checks.not_a_server_error.enabled = false\n\
         checks.positive_data_acceptance.enabled = false\n\
         checks.negative_data_rejection.enabled = false\n",
    )
    .unwrap();
    let output = fetched(&["schemathesis"])
        .args(["run", &format!("http://{at}/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {OPS}")])
        .args(["--max-examples", "15", "--phases", "examples,coverage,fuzzing", "--seed", "7"])
        .args(["--generation-deterministic", "--workers", "2", "--request-timeout", "20"])
        .env("NO_COLOR", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", stdout(&output), stderr(&output));
    assert_eq!(ask(at, "GET", "/health", &[], "").status, 200);
}
