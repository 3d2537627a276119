//! The whole way: lines of a log in, packets dropped, orders of a person, kills and restarts; with our own
//! table of nftables, and with the firewall bouncer of Debian.

use crate::bouncers::firewall_bouncer;
use crate::netns::{GATE_V4, Gate};
use crate::support::binary;
use portcullis::decode::time::format;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const TOKEN: &str = "an-operator-who-is-long-enough";
const KEY: &str = "a-bouncer-that-is-long-enough";
const PATIENCE: Duration = Duration::from_secs(60);

/// The program behind a gate, following a log.
struct House {
    gate: Gate,
    folder: TempDir,
    running: Option<Child>,
}

impl House {
    fn new(sinks: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "source: {{ files: [app.log], follow: true }}\nmode: enforce\nstate_dir: ./state\n\
             rules: {{ server-errors: off }}\n\
             serve:\n  listen: 127.0.0.1:7979\n  tokens:\n\
             \x20   - {{ name: ops, role: operator, token: {{ env: PORTCULLIS_TOKEN }} }}\n\
             \x20   - {{ name: fw, role: bouncer, token: {{ env: FW_TOKEN }} }}\n\
             sinks:\n  - file: {{ path: actions.jsonl }}\n{sinks}"
        );
        std::fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
        File::create(folder.path().join("app.log")).unwrap();
        let mut house = Self { gate: Gate::new(), folder, running: None };
        house.start();
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.gate.command(binary());
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("PORTCULLIS_TOKEN", TOKEN)
            .env("FW_TOKEN", KEY)
            .stdin(Stdio::null());
        command
    }

    fn start(&mut self) {
        let said = OpenOptions::new().create(true).append(true).open(self.path("said")).unwrap();
        let mut command = self.command(&["run"]);
        self.running = Some(command.stdout(Stdio::null()).stderr(said).spawn().unwrap());
        self.until("it serves", || self.asks(&["status"]).0 == Some(0));
    }

    fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            let said = std::fs::read_to_string(self.path("said")).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "not in time: {what}\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a command of ours says, and its exit code.
    fn asks(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.command(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }

    fn must(&self, args: &[&str]) -> String {
        let (code, said) = self.asks(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
        said
    }

    /// The application logs failed logins, now.
    fn attacked(&self, from: &str, times: usize) {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let time = format(i64::try_from(since.as_micros()).unwrap());
        let line = format!(
            r#"{{"timestamp":"{time}","logger":"security","message":"FAILED_LOGIN: email=a@example.org, ip={from}, reason=bad"}}"#
        );
        let mut log = OpenOptions::new().append(true).open(self.path("app.log")).unwrap();
        log.write_all(format!("{line}\n").repeat(times).as_bytes()).unwrap();
    }

    /// How many action lines hold all of these.
    fn lines(&self, parts: &[&str]) -> usize {
        let lines = std::fs::read_to_string(self.path("actions.jsonl")).unwrap_or_default();
        lines.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _gone = running.kill();
            let _gone = running.wait();
        }
        if std::thread::panicking() {
            println!("{}", std::fs::read_to_string(self.path("said")).unwrap_or_default());
        }
    }
}

#[test]
fn lines_of_a_log_close_the_gate_and_people_open_it() {
    let mut house = House::new("  - nftables: {}\n");
    let (attacker, neighbour) = ("203.0.113.66", "203.0.113.67");
    assert!(house.gate.passes(attacker) && house.gate.passes(neighbour));
    house.attacked(attacker, 20);
    house.until("it is counted", || {
        house.must(&["why", attacker]).contains("20 of 21 FAILED_LOGIN within 1h")
    });
    assert!(house.gate.passes(attacker), "twenty are not more than twenty");
    house.attacked(attacker, 1);
    house.gate.until_dropped(attacker);
    assert!(house.gate.passes(neighbour));
    assert!(house.must(&["decisions"]).contains(attacker));
    assert!(house.must(&["why", attacker]).contains("block"));

    // Lifted, it is spared for a while, whatever the log says.
    let said = house.must(&["lift", attacker, "--because", "it was a test"]);
    assert!(said.contains(attacker), "{said}");
    house.gate.until_passes(attacker);
    let lifted = "block of 203.0.113.66 lifted by ops: it was a test";
    assert_eq!(house.lines(&[r#""op":"end""#, lifted]), 1);
    house.attacked(attacker, 30);
    house
        .until("it is withheld", || house.lines(&[r#""op":"withheld""#, r#""guard":"grace""#]) > 0);
    assert!(house.gate.passes(attacker));

    // By hand, for a while; and nobody locks the gate itself out.
    house.must(&["block", neighbour, "--for", "4s", "--because", "I say so"]);
    house.gate.until_dropped(neighbour);
    house.gate.until_passes(neighbour);
    let (code, said) = house.asks(&["block", GATE_V4, "--for", "1h", "--because", "by mistake"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("never_block"), "{said}");

    // A range of the other family, and a kill between what is decided and the firewall.
    let (six, sibling) = ("2001:db8:66::1", "2001:db8:66::2");
    assert!(house.gate.passes(six) && house.gate.passes(sibling));
    house.attacked(six, 21);
    house.gate.until_dropped(six);
    assert!(house.gate.is_dropped(sibling), "the whole /64 is");
    house.kill();
    assert!(house.gate.is_dropped(six), "the kernel goes on without us");
    let mut nft = house.gate.command("nft");
    assert!(nft.args(["delete", "table", "inet", "portcullis"]).status().unwrap().success());
    house.gate.until_passes(six);
    house.start();
    house.gate.until_dropped(six);
    // Orders outlive a kill as well.
    house.attacked(attacker, 30);
    house.until("grace lasts", || house.lines(&[r#""guard":"grace""#]) > 1);
    assert!(house.gate.passes(attacker));
    // The allowlist is added to while it runs.
    house.must(&["allow", "2001:db8:66::/48", "--for", "7d", "--because", "ours"]);
    house.gate.until_passes(six);
    house.must(&["sink", "test", "nftables"]);
    house.kill();
    house.must(&["sink", "clean", "nftables"]);
    let mut nft = house.gate.command("nft");
    let tables = nft.args(["list", "tables"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&tables), "");
}

#[test]
fn without_mode_enforce_a_sink_stays_dry() {
    let house = House::new("  - nftables: {}\n");
    let config = std::fs::read_to_string(house.path("portcullis.yaml")).unwrap();
    for (mode, dry) in [("", true), ("mode: shadow\n", true), ("mode: enforce\n", false)] {
        let mut house =
            House { gate: Gate::new(), folder: tempfile::tempdir().unwrap(), running: None };
        File::create(house.path("app.log")).unwrap();
        let config = config.replace("mode: enforce\n", mode);
        std::fs::write(house.path("portcullis.yaml"), config).unwrap();
        house.start();
        house.attacked("203.0.113.66", 21);
        if dry {
            let would = "dry: would";
            if mode.is_empty() {
                house.until("it says what it would do", || {
                    std::fs::read_to_string(house.path("said")).unwrap().contains(would)
                });
            } else {
                house.until("it is decided", || house.lines(&[r#""mode":"shadow""#]) > 0);
            }
            assert!(house.gate.passes("203.0.113.66"));
        } else {
            house.gate.until_dropped("203.0.113.66");
        }
    }
}

#[test]
fn a_bouncer_enforces_what_a_log_says_and_a_restart_loses_nothing() {
    let mut house = House::new("");
    let folder = house.path("bouncer");
    std::fs::create_dir(&folder).unwrap();
    let _bouncer = firewall_bouncer(&house.gate, &folder, "http://127.0.0.1:7979/", KEY);
    let (attacker, neighbour) = ("203.0.113.66", "203.0.113.67");
    assert!(house.gate.passes(attacker) && house.gate.passes(neighbour));
    house.attacked(attacker, 21);
    house.gate.until_dropped(attacker);
    assert!(house.gate.passes(neighbour));
    // Of an IPv6 range, this bouncer must be told the address.
    let six = "2001:db8:66::abcd";
    assert!(house.gate.passes(six));
    house.attacked(six, 21);
    house.gate.until_dropped(six);
    house.kill();
    assert!(house.gate.is_dropped(attacker) && house.gate.is_dropped(six));
    house.attacked(neighbour, 21);
    house.start();
    house.gate.until_dropped(neighbour);
    assert!(house.gate.is_dropped(attacker) && house.gate.is_dropped(six));
    // What was decided before the kill can be lifted after it.
    for one in [attacker, six, neighbour] {
        house.must(&["lift", one, "--because", "enough"]);
        house.gate.until_passes(one);
    }
}
