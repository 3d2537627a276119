//! The example for FastAPI, with real FastAPI and uvicorn over real HTTP: what it logs makes Portcullis
//! decide, and what Portcullis decides it obeys, also while Portcullis is away. Needs Python;
//! `tests/fastapi/fetch.sh` fetches the rest.

use crate::container::{ask, free_port, wait_until};
use crate::support::{portcullis, root, stderr};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const OPS: &str = "operator-token-0123456789";
const APP: &str = "bouncer-token-0123456789";
const ATTACKER: &str = "203.0.113.7";
const OTHER: &str = "198.51.100.20";
const ANNA: &str = "anna@example.org";
const MALLORY: &str = "mallory@example.org";

/// The interpreter that has FastAPI.
fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let script = root().join("tests/fastapi/fetch.sh");
        let output = Command::new("bash").arg(script).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

fn example() -> PathBuf {
    root().join("examples/fastapi")
}

/// Killed at the end, also of a test that panics.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// The application, and the Portcullis that follows its log; each may be away.
struct Street {
    folder: tempfile::TempDir,
    gate: u16,
    port: u16,
    _app: Killed,
}

impl Street {
    /// The application alone: nobody answers at the gate yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (gate, port) = (free_port(), free_port());
        let config = format!(
            "source: {{ files: [app.log], follow: true }}\nstate_dir: ./state\nserve:\n  listen: 127.0.0.1:{gate}\n  tokens:\n    - {{ name: ops, role: operator, token: {{ env: PORTCULLIS_TOKEN }} }}\n    - {{ name: app, role: bouncer, token: {{ env: BOUNCER_TOKEN }} }}\n"
        );
        fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
        let app = Command::new(python())
            .args(["-m", "uvicorn", "app:app", "--no-proxy-headers", "--port", &port.to_string()])
            .arg("--app-dir")
            .arg(example())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PORTCULLIS_URL", format!("http://127.0.0.1:{gate}"))
            .env("BOUNCER_TOKEN", APP)
            .env("SESSION_SECRET", "not-for-others")
            // The edge of this street is the machine itself.
            .env("EDGE_NETWORK", "127.0.0.0/8")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("app.log")).unwrap())
            .stderr(File::create(folder.path().join("app.said")).unwrap())
            .spawn()
            .unwrap();
        let street = Self { folder, gate, port, _app: Killed(app) };
        wait_until("the application answers", &|| street.said(), || {
            ask(street.app(), "GET /", &[], "").is_some()
        });
        street
    }

    fn app(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// What everybody has said so far.
    fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        format!("{}\n{}\n{}", read("app.log"), read("app.said"), read("gate.said"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = portcullis(self.folder.path());
        command.args(args).env("PORTCULLIS_TOKEN", OPS).env("BOUNCER_TOKEN", APP);
        command
    }

    fn open_the_gate(&self) -> Killed {
        let said = self.folder.path().join("gate.said");
        let said = File::options().create(true).append(true).open(said).unwrap();
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let running = Killed(command.spawn().unwrap());
        let gate = SocketAddr::from((Ipv4Addr::LOCALHOST, self.gate));
        wait_until("Portcullis answers", &|| self.said(), || {
            ask(gate, "GET /health", &[], "").is_some()
        });
        running
    }

    fn lift(&self, target: &str) {
        let output = self.command(&["lift", target]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }

    /// The status that somebody gets at the front door.
    fn home(&self, from: &str, cookie: &str) -> u16 {
        ask(self.app(), "GET /", &[("X-Real-IP", from), ("Cookie", cookie)], "").unwrap().0
    }

    /// Tries to log in; gives the status and the cookie of the session.
    fn login(&self, from: &str, email: &str, password: &str) -> (u16, String) {
        let body = serde_json::json!({ "email": email, "password": password }).to_string();
        let headers = [
            ("X-Real-IP", from),
            ("X-Railway-Request-Id", "req-of-the-edge"),
            ("Content-Type", "application/json"),
        ];
        let (status, answer) = ask(self.app(), "POST /login", &headers, &body).unwrap();
        let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        let cookie = cookie.and_then(|line| line.split(';').next()).unwrap_or_default();
        (status, cookie.to_owned())
    }

    fn wait_for(&self, status: u16, from: &str, cookie: &str) {
        let why = || format!("{from} gets {}\n{}", self.home(from, cookie), self.said());
        wait_until("he gets another answer", &why, || self.home(from, cookie) == status);
    }
}

#[test]
fn the_example_obeys_and_goes_on_while_portcullis_is_away() {
    let street = Street::new();
    // Nobody is at the gate: everybody is served, and that is said once.
    assert_eq!(street.home(ATTACKER, ""), 200);
    let away = "Portcullis does not answer";
    wait_until("it says so", &|| street.said(), || street.said().contains(away));
    let gate = street.open_the_gate();
    wait_until("it finds it", &|| street.said(), || street.said().contains("answers again"));

    let (status, anna) = street.login(OTHER, ANNA, "correct horse");
    assert_eq!((status, anna.is_empty()), (200, false));
    let (status, mallory) = street.login(OTHER, MALLORY, "battery staple");
    assert_eq!((status, mallory.is_empty()), (200, false));

    // One address tries many accounts.
    for i in 0..21 {
        assert_eq!(street.login(ATTACKER, &format!("user{i}@example.org"), "x").0, 401, "{i}");
    }
    street.wait_for(403, ATTACKER, "");
    assert_eq!(street.login(ATTACKER, ANNA, "correct horse").0, 403);
    assert_eq!(street.home(OTHER, ""), 200);
    // One account is tried from many addresses.
    for i in 0..6 {
        assert_eq!(street.login(&format!("192.0.2.{i}"), MALLORY, "x").0, 401, "{i}");
    }
    street.wait_for(423, OTHER, &mallory);
    assert_eq!(street.login(OTHER, "Mallory@Example.org", "battery staple").0, 423);
    assert_eq!(street.home(OTHER, &anna), 200);
    let logged = street.said();
    assert!(logged.contains(r#""request_id": "req-of-the-edge""#), "{logged}");

    street.lift(ATTACKER);
    street.wait_for(200, ATTACKER, "");

    // What is known holds while Portcullis is away, and what it decided while it was there comes back.
    drop(gate);
    let twice = || street.said().matches(away).count() == 2;
    wait_until("it says so again", &|| street.said(), twice);
    assert_eq!(street.home(OTHER, &mallory), 423);
    assert_eq!(street.home(OTHER, &anna), 200);
    let _gate = street.open_the_gate();
    let back = || street.said().matches("answers again").count() == 2;
    wait_until("it finds it again", &|| street.said(), back);
    assert_eq!(street.home(OTHER, &mallory), 423);
    street.lift(MALLORY);
    street.wait_for(200, OTHER, &mallory);
}

/// What the test above cannot reach, asked of the example's own functions.
#[test]
fn the_example_believes_only_the_edge_and_keys_as_portcullis_does() {
    const ASK: &str = r#"
from portcullis_middleware import Decisions, client_address, key_of, seconds
from starlette.requests import HTTPConnection

def seen(peer, *headers):
    scope = {"type": "http", "client": peer and (peer, 1), "headers": [(b"x-real-ip", h) for h in headers]}
    return str(client_address(HTTPConnection(scope)))

assert seen("100.64.0.2", b"203.0.113.7") == "203.0.113.7"
assert seen("::ffff:100.64.0.2", b"2001:DB8::7") == "2001:db8::7"
assert seen("198.51.100.9", b"203.0.113.7") == "198.51.100.9"
assert seen("127.0.0.1", b"203.0.113.7") == "127.0.0.1"
assert seen("100.64.0.2") == seen("100.64.0.2", b"nonsense") == seen(None) == "None"
assert key_of("username", " Anna@Example.ORG ") == ("username", "anna@example.org")
assert key_of("user_id", "A7") == ("user_id", "A7")
assert [seconds(text) for text in ("1s", "1m0s", "25h1m1s")] == [1, 60, 90061]

decisions = Decisions.__new__(Decisions)
decisions.held, decisions.lengths = {}, set()
def told(scope, value, kind="ban", duration="1h0m0s"):
    return {"scope": scope, "value": value, "type": kind, "duration": duration}
def holds(text):
    import ipaddress
    return decisions.hold(ipaddress.ip_address(text))
decisions.take({"new": [told("Ip", "203.0.113.7"), told("Range", "2001:db8:7::/64"), told("Ip", "203.0.113.8", duration="0s"),
    told("user_id", "A7", "require_2fa")], "deleted": []}, True)
assert holds("203.0.113.7") and holds("2001:db8:7::9") and not holds("2001:db8:8::9")
assert not holds("203.0.113.8"), "its time is up"
assert decisions.of("user_id", "A7") == {"require_2fa"} and decisions.of("user_id", None) == set()
decisions.take({"new": [told("Ip", "203.0.113.9")], "deleted": [told("Ip", "203.0.113.7")]}, False)
assert not holds("203.0.113.7") and holds("203.0.113.9") and holds("2001:db8:7::9")
decisions.take({"new": [], "deleted": []}, False)
assert holds("203.0.113.9")
decisions.take({"new": [], "deleted": []}, True)
assert not holds("203.0.113.9") and not holds("2001:db8:7::9"), "forgotten there, forgotten here"
print("held")
"#;
    let output = Command::new(python())
        .args(["-c", ASK])
        .env("PYTHONPATH", example())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "held", "{}", stderr(&output));
}
