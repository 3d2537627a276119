//! The program as a service, for the tests that stop it in every way: a folder with a configuration,
//! rules and a state directory, started, killed and stopped as often as a test likes, and lines to
//! feed it.

use crate::support::{portcullis, run_in, stderr, stdout};
use portcullis::decode::time::format;
use portcullis::state::{Db, StoredDecision};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes longer unless it hangs, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(120);
/// The event time of the first line, microseconds.
pub const START: i64 = 1_754_260_200_000_000;
pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;

/// Numbers that are the same for the same seed.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed >> 33) % n as u64).unwrap()
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// A number that the environment may set.
pub fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// Rules of every kind. Every decision lasts 50 minutes or 100, and [`busy`] writes for 15 of every
/// 120: so decisions end where no line is near, and an idle stream that carries its clock on by the
/// time that passes can end none.
pub const RULES: &str = r"
pack: all
rules:
  - { id: count, title: t, on: FAILED_LOGIN, per: ip, when: count >= 6 within 3m, then: block for 50m, escalate: 'x2 up to 100m, forget after 30d' }
  - { id: longer, title: t, on: FAILED_LOGIN, per: ip, when: count > 12 within 3h, then: alert for 50m }
  - { id: spray, title: t, on: FAILED_LOGIN, per: ip, when: distinct(user) >= 5 within 4m, then: alert for 50m }
  - { id: lock, title: t, on: FAILED_LOGIN, per: user, when: count >= 3 within 4h, then: lock for 50m }
  - { id: won, title: t, per: ip, when: FAILED_LOGIN >= 2 then SUCCESSFUL_LOGIN within 5m, then: alert for 50m }
  - { id: new, title: t, on: FAILED_LOGIN, per: ip, when: new(user) >= 2 within 10m, then: alert for 50m }
  - { id: seen, title: t, on: SUCCESSFUL_LOGIN, per: user, when: first_seen(ip), then: require_2fa for 50m }
  - { id: hour, title: t, on: SUCCESSFUL_LOGIN, per: user, when: unusual(hour), then: alert for 50m, min_events: 2, min_days: 1, rarity: 0.5 }
  - { id: once, title: t, on: FAILED_LOGIN, per: ip, when: count >= 4 within 2m, then: alert for 50m, once_per: request_id }
  - { id: all, title: t, on: FAILED_LOGIN, per: global, when: count >= 100 within 1m, then: alert for 50m }
  - { id: field, title: t, on: RATE_LIMIT_VIOLATION, per: endpoint, when: count >= 5 within 5m, then: alert for 50m }
";

/// What else the configuration says beside rules, source and sinks. The packs' own rules end their
/// decisions at any time, so they are off.
pub fn config(more: &str) -> String {
    let velro = [
        "ip-blocking",
        "user-account-lockout",
        "geographic-anomaly",
        "time-anomaly",
        "new-user-rapid-login",
        "failed-logins-per-ip",
        "failed-logins-per-user",
        "failed-logins-global",
        "authentication-failures",
        "suspicious-login-activity",
        "rate-limit-violations",
        "high-rate-limit-violations",
        "suspicious-activity",
        "server-errors",
        "database-errors",
        "health-check-down",
    ];
    let off: Vec<String> = velro.iter().map(|rule| format!("{rule}: off")).collect();
    format!("patterns: [velro, ./rules.yaml]\nlearn: 1m\nrules: {{ {} }}\n{more}", off.join(", "))
}

/// A failed login.
pub fn login(time: i64, ip: &str, user: &str) -> String {
    let time = format(time);
    format!(
        r#"{{"timestamp":"{time}","logger":"security","message":"FAILED_LOGIN: email={user}@example.org, ip={ip}, reason=bad"}}"#
    )
}

/// `count` lines of every kind, for [`RULES`].
pub fn busy(dice: &mut Dice, count: usize) -> Vec<String> {
    let phase = count.div_ceil(8).max(1);
    let mut lines = Vec::with_capacity(count);
    for i in 0..count {
        let within =
            i64::try_from(i % phase).unwrap() * 15 * MINUTE / i64::try_from(phase).unwrap();
        let now = START + i64::try_from(i / phase).unwrap() * 120 * MINUTE + within;
        // Some are late, a few of them too late.
        let late = if i % phase > 10 && dice.percent(15) { dice.below(70) } else { 0 };
        let time = now - i64::try_from(late).unwrap() * SECOND;
        let stamp = format(time);
        let ip = match dice.below(4) {
            0 => format!("2001:db8:0:{:x}::{:x}", dice.below(50), dice.below(9) + 1),
            _ => format!("203.0.113.{}", dice.below(200)),
        };
        // Some are tried far more often than others.
        let user = dice.below(55) * dice.below(55);
        lines.push(match dice.below(100) {
            n if n < 62 => {
                let line = login(time, &ip, &format!("u{user}"));
                line.replacen('{', &format!(r#"{{"request_id":"r-{}","#, dice.below(500)), 1)
            }
            n if n < 74 => format!(
                r#"{{"timestamp":"{stamp}","logger":"security","message":"SUCCESSFUL_LOGIN: user_id=id-{}, ip={ip}"}}"#,
                user % 90
            ),
            n if n < 84 => format!(
                r#"{{"timestamp":"{stamp}","logger":"security","message":"RATE_LIMIT_VIOLATION: ip={ip}, endpoint=/api/{}"}}"#,
                user % 30
            ),
            84 => format!(r#"{{"timestamp":"{stamp}","logger":"security","message":"FAILED_LOGIN: drifted"}}"#),
            85 => "{\"broken\"".to_owned(),
            86 => String::new(),
            // Very far ahead: held aside.
            87 => login(time + 400 * 86_400 * SECOND, &ip, "far"),
            _ => format!(r#"{{"timestamp":"{stamp}","logger":"api","level":"INFO","message":"GET /"}}"#),
        });
    }
    lines
}

/// A folder in which the program runs.
#[derive(Debug)]
pub struct Service {
    folder: TempDir,
    starts: usize,
}

impl Service {
    /// With this configuration and these rules (`./rules.yaml`).
    pub fn new(config: &str, rules: &str) -> Self {
        let service = Self { folder: tempfile::tempdir().unwrap(), starts: 0 };
        service.write("portcullis.yaml", config);
        service.write("rules.yaml", rules);
        service
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as a whole: the program may be reading it just now.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.being-written"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// The lines of a file; none if it is not there. A last line without its newline is none.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        String::from_utf8_lossy(&bytes[..end]).lines().map(str::to_owned).collect()
    }

    /// The command of a start; what it says goes into files of its own.
    pub fn command(&mut self) -> (Command, PathBuf, PathBuf) {
        self.starts += 1;
        let (out, said) = (format!("stdout.{}", self.starts), format!("said.{}", self.starts));
        let (out, said) = (self.path(&out), self.path(&said));
        let mut command = portcullis(self.folder.path());
        command
            .args(["run", "--summary", "json"])
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&said).unwrap());
        (command, out, said)
    }

    pub fn start(&mut self) -> Running {
        let (mut command, out, said) = self.command();
        Running { child: command.spawn().unwrap(), out, said }
    }

    /// Starts it where it must refuse; gives what it said.
    pub fn refused(&mut self, said: &[&str]) -> String {
        let mut running = self.start();
        let code = running.wait().code();
        let text = running.said();
        assert_eq!(code, Some(2), "{text}");
        for said in said {
            assert!(text.contains(said), "does not say `{said}`: {text}");
        }
        assert_eq!(running.out(), "", "nothing leaves");
        text
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Looks into the state directory.
    pub fn db(&self) -> Db {
        Db::read_only(&self.state()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What `portcullis state` says.
    pub fn info(&self) -> serde_json::Value {
        let output =
            run_in(self.folder.path(), &["state", "info", "state", "--output", "json"], b"");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// Everything in the state directory is as it was committed.
    pub fn verify(&self) {
        let output = run_in(self.folder.path(), &["state", "verify", "state"], b"");
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    }

    /// Whether `log` has been read to its end, and that lasts.
    pub fn has_read(&self, log: &str) -> bool {
        let length = fs::metadata(self.path(log)).unwrap().len();
        // While the directory is made, there is nothing to look at.
        let Ok(db) = Db::read_only(&self.state()) else { return false };
        let positions = db.positions().unwrap_or_default();
        let positions =
            serde_json::to_value(positions.into_iter().map(|(_, at)| at).collect::<Vec<_>>());
        positions.unwrap().as_array().unwrap().iter().any(|at| {
            let file = &at["file"];
            file["path"].as_str().is_some_and(|path| Path::new(path).ends_with(log))
                && file["offset"] == length
        })
    }

    /// Runs until `log` has been read to its end, then stops; gives what was said.
    pub fn catch_up(&mut self, log: &str) -> String {
        let mut running = self.start();
        // Before that it may not listen to signals yet.
        running.wait_until_it_says(": following");
        let said = running.said.clone();
        until(|| running.goes_on() && self.has_read(log), &|| {
            format!("{log} is not read to its end\n{}", fs::read_to_string(&said).unwrap())
        });
        running.stop()
    }

    /// The decisions that are active, and what `portcullis state info` says of all.
    pub fn decisions(&self) -> (Vec<StoredDecision>, serde_json::Value) {
        (self.db().open_decisions().unwrap(), self.info()["decisions"].clone())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("what is left of it: {}", self.folder.path().display());
            self.folder.disable_cleanup(true);
        }
    }
}

/// Waits for something that happens by itself.
pub fn until(mut done: impl FnMut() -> bool, why: &dyn Fn() -> String) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "waited in vain: {}", why());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program at work.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    out: PathBuf,
    said: PathBuf,
}

impl Running {
    pub fn new(child: Child, out: PathBuf, said: PathBuf) -> Self {
        Self { child, out, said }
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.said).unwrap()).into_owned()
    }

    /// What it wrote to standard output.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap()).into_owned()
    }

    /// Whether it is still there; it must be.
    pub fn goes_on(&mut self) -> bool {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended with {ended:?}\n{}", self.said());
        true
    }

    pub fn wait_until_it_says(&mut self, text: &str) {
        let start = Instant::now();
        while !self.said().contains(text) {
            self.goes_on();
            assert!(start.elapsed() < DEADLINE, "it does not say `{text}`: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(mut self) {
        self.goes_on();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by SIGTERM; gives what it said.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        let code = self.wait().code();
        assert_eq!(code, Some(143), "{}", self.said());
        self.said()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The id of an action line.
pub fn id(line: &str) -> String {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    value["id"].as_str().unwrap().to_owned()
}

pub fn is_end(line: &str) -> bool {
    line.contains(r#""op":"end""#)
}

/// What a replay of these lines gives.
pub fn replayed(service: &Service, lines: &[String]) -> Vec<String> {
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(service.path("rules.yaml"), folder.path().join("rules.yaml")).unwrap();
    // The sinks are not to be told.
    let config = fs::read_to_string(service.path("portcullis.yaml")).unwrap();
    let config: Vec<&str> = config
        .lines()
        .filter(|line| !line.starts_with("sinks:") && !line.starts_with("  - "))
        .collect();
    fs::write(folder.path().join("portcullis.yaml"), config.join("\n")).unwrap();
    let args = ["replay", "-", "-q", "--output", "json"];
    let output = run_in(folder.path(), &args, text.as_bytes());
    stdout(&output).lines().map(str::to_owned).collect()
}

/// The lines of `got` are those of `want`: the same bytes, none of them twice, in the same order but
/// for ends, which may stand elsewhere.
pub fn assert_same(got: &[String], want: &[String], what: &str) {
    let ids: HashSet<String> = got.iter().map(|line| id(line)).collect();
    assert_eq!(ids.len(), got.len(), "{what}: something is there twice");
    let steady = |lines: &[String]| -> Vec<String> {
        lines.iter().filter(|line| !is_end(line)).cloned().collect()
    };
    let (a, b) = (steady(got), steady(want));
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    assert_eq!(a.get(same), b.get(same), "{what}: line {same} of {} and {}", a.len(), b.len());
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort_unstable();
        lines
    };
    let (a, b) = (sorted(got), sorted(want));
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    assert_eq!(a.get(same), b.get(same), "{what}: of {} and {} sorted lines", a.len(), b.len());
}
