//! The program against a real Apache Kafka broker, which `tests/kafka/broker.sh` fetches and starts:
//! members that die or stand still, a broker that restarts, retention, times, TLS and SCRAM.
//!
//! Nothing here is skipped: without Java 17 or Maven these tests fail and say what to install.

use crate::kafka::{
    DEADLINE, admin, committed, create, finish, kill, numbered, producer, sender,
    share_and_give_back, unique,
};
use crate::support::{failed_logins, piped, root, run, stderr, stdout};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::producer::Producer;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a broker may take to start; it includes fetching it the first time.
const START_MAX: Duration = Duration::from_secs(180);

/// A broker at work. It is killed when this process lets go of its standard input.
pub struct Broker {
    folder: PathBuf,
    ports: [u16; 3],
    child: Child,
    _alive: ChildStdin,
}

impl Broker {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{}-{}",
            unique("broker"),
            std::process::id()
        ));
        let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.each_ref().map(|one| one.local_addr().unwrap().port());
        drop(listeners);
        Self::at(folder, ports)
    }

    fn at(folder: PathBuf, ports: [u16; 3]) -> Self {
        let mut child = Command::new("bash")
            .arg(root().join("tests/kafka/broker.sh"))
            .arg("run")
            .arg(&folder)
            .args(ports.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + START_MAX;
        let ready = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
        while !(ready(ports[0]) && ready(ports[2])) {
            let ended = child.try_wait().unwrap().is_some();
            if ended || Instant::now() > deadline {
                let mut said = String::new();
                if ended {
                    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                }
                let log = std::fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
                panic!("no broker: {said}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let alive = child.stdin.take().unwrap();
        Self { folder, ports, child, _alive: alive }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Ends it, and starts it again with what it had.
    fn restart(mut self, down: impl FnOnce()) -> Self {
        kill(&self.child, "-TERM");
        self.child.wait().unwrap();
        down();
        let Self { folder, ports, _alive, .. } = self;
        // The watcher of the first run removes the folder once its standard input closes.
        let again = Self::at(folder, ports);
        std::mem::forget(_alive);
        again
    }
}

/// The broker of all tests that do not stop it.
pub fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

/// The program at work, and the folder with its configuration.
struct Member {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Member {
    /// Waits for its end.
    fn output(self) -> Output {
        self.child.wait_with_output().unwrap()
    }

    /// Ends it; gives what it printed and said.
    fn end(self) -> (String, String) {
        kill(&self.child, "-TERM");
        let output = self.output();
        assert_eq!(output.status.code(), Some(143), "{}", stderr(&output));
        (stdout(&output), stderr(&output))
    }
}

fn member(topic: &str, group: &str, address: &str, properties: &str) -> Member {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "source: {{ kafka: {{ brokers: [\"{address}\"], topics: [{topic}], group: {group}, \
         properties: {{ {properties} }} }} }}\n"
    );
    std::fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    let child = piped(folder.path(), &["run", "--summary", "json"]);
    Member { child, _folder: folder }
}

const QUICK: &str =
    "session.timeout.ms: 6000, heartbeat.interval.ms: 500, max.poll.interval.ms: 6000";

/// Waits until the group has committed everything of both partitions.
fn wait_committed(address: &str, group: &str, topic: &str, offsets: [i64; 2]) {
    let deadline = Instant::now() + DEADLINE * 2;
    let now =
        || [0, 1].map(|p| committed(address, group, topic, p).map_or(-1, |(offset, _)| offset));
    while now() != offsets {
        assert!(Instant::now() < deadline, "{:?} instead of {offsets:?}", now());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_member_that_is_killed_is_replaced_after_its_session() {
    let address = broker().address();
    let (topic, group) = (unique("killed"), unique("g"));
    create(&address, &topic, 2);
    let mut first = member(&topic, &group, &address, QUICK);
    let second = member(&topic, &group, &address, QUICK);
    let sender = sender(&address, &topic);
    for partition in [0, 1] {
        sender.lines(partition, &numbered(0, 20));
    }
    wait_committed(&address, &group, &topic, [20, 20]);
    kill(&first.child, "-KILL");
    first.child.wait().unwrap();
    for partition in [0, 1] {
        sender.lines(partition, &numbered(20, 40));
    }
    wait_committed(&address, &group, &topic, [40, 40]);
    let (_, said) = second.end();
    assert!(said.contains("kafka: assigned"), "{said}");
}

#[test]
fn a_member_that_stood_still_loses_its_partitions_and_comes_back() {
    let address = broker().address();
    let (topic, group) = (unique("still"), unique("g"));
    create(&address, &topic, 2);
    let first = member(&topic, &group, &address, QUICK);
    let sender = sender(&address, &topic);
    for partition in [0, 1] {
        sender.lines(partition, &numbered(0, 20));
    }
    wait_committed(&address, &group, &topic, [20, 20]);
    kill(&first.child, "-STOP");
    let second = member(&topic, &group, &address, QUICK);
    for partition in [0, 1] {
        sender.lines(partition, &numbered(20, 40));
    }
    wait_committed(&address, &group, &topic, [40, 40]);
    kill(&first.child, "-CONT");
    std::thread::sleep(Duration::from_secs(3));
    for partition in [0, 1] {
        sender.lines(partition, &numbered(40, 60));
    }
    wait_committed(&address, &group, &topic, [60, 60]);
    let (_, said) = first.end();
    assert!(said.contains("kafka: lost"), "{said}");
    second.end();
}

#[test]
fn a_broker_that_restarts_is_waited_for() {
    let broker = Broker::start();
    let address = broker.address();
    create(&address, "logs", 2);
    let attack =
        |ip: &str| -> Vec<String> { failed_logins(10, 1, ip).lines().map(str::to_owned).collect() };
    sender(&address, "logs").lines(0, &attack("203.0.113.1"));
    let run = member("logs", "g", &address, QUICK);
    wait_committed(&address, "g", "logs", [10, 0]);
    let broker = broker.restart(|| std::thread::sleep(Duration::from_secs(3)));
    sender(&address, "logs").lines(1, &attack("203.0.113.2"));
    wait_committed(&address, "g", "logs", [10, 10]);
    let (printed, said) = run.end();
    for ip in ["203.0.113.1", "203.0.113.2"] {
        let fits = |line: &&str| line.contains(ip) && line.contains("failed-logins-per-ip");
        assert_eq!(printed.lines().filter(fits).count(), 1, "{printed}");
    }
    assert_eq!(said.matches("can be reached").count(), 1, "{said}");
    assert!(said.contains("a broker is back after"), "{said}");
    drop(broker);
}

#[test]
fn what_retention_has_deleted_is_said_and_not_skipped() {
    let address = broker().address();
    let (topic, group) = (unique("retained"), unique("g"));
    create(&address, &topic, 2);
    let sender = sender(&address, &topic);
    sender.lines(0, &numbered(0, 10));
    let first = member(&topic, &group, &address, QUICK);
    wait_committed(&address, &group, &topic, [10, 0]);
    first.end();
    sender.lines(0, &numbered(10, 20));
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", "1000");
    finish(admin(&address).alter_configs(&[change], &AdminOptions::new())).unwrap();
    let producer = producer(&address, &[]);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = producer.client().fetch_watermarks(&topic, 0, DEADLINE).unwrap();
        if found == (20, 20) {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let output = member(&topic, &group, &address, QUICK).output();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["offset 10", "the log holds 20 to 20", "10 of its records", "--from earliest"] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

#[test]
fn times_are_looked_up_and_members_share_as_kafka_does_it() {
    let address = broker().address();
    let topic = unique("times");
    create(&address, &topic, 2);
    sender(&address, &topic).lines(1, &numbered(0, 100));
    let output = run(
        &[
            "replay",
            "--kafka",
            &address,
            "--topic",
            &topic,
            "--from",
            "1970-01-01T00:00:01.010Z",
            "--to",
            "1970-01-01T00:00:01.020Z",
            "--output",
            "json",
            "--summary",
            "json",
        ],
        b"",
    );
    let said = stderr(&output);
    let summary: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(summary["lines"]["total"], 10, "{said}");

    let topic = unique("shared");
    create(&address, &topic, 4);
    share_and_give_back(&address, &topic);
}

#[test]
fn tls_and_scram_let_in_whoever_has_the_password() {
    let broker = broker();
    let (topic, group) = (unique("secret"), unique("g"));
    create(&broker.address(), &topic, 2);
    sender(&broker.address(), &topic).lines(0, &numbered(0, 10));
    let with = |password: &str| {
        let properties = format!(
            "{QUICK}, security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-512, sasl.username: tester, \
             sasl.password: {password}, ssl.ca.location: \"{}\"",
            broker.folder.join("ca.pem").display()
        );
        member(&topic, &group, &format!("127.0.0.1:{}", broker.ports[2]), &properties)
    };
    let refused = with("wrong-secret").output();
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(!said.contains("wrong-secret"), "{said}");
    if cfg!(feature = "kafka-tls") {
        assert!(said.contains("refuse this client") && said.contains("uthentication"), "{said}");
        let member = with("tester-secret");
        wait_committed(&broker.address(), &group, &topic, [10, 0]);
        member.end();
    } else {
        assert!(said.contains("--features kafka-tls"), "{said}");
    }
}
