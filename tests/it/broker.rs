//! The program against a real Apache Kafka broker, which `tests/kafka/broker.sh` fetches and starts:
//! members that die, stand still or have the same name, a broker that restarts, retention,
//! compaction, times, TLS and what lets a client in.
//!
//! Nothing here is skipped: without Java 17 or Maven these tests fail and say what to install.

use crate::kafka::{
    DEADLINE, admin, committed, create, finish, kill, numbered, producer, records, sender,
    share_and_give_back, unique,
};
use crate::service::{RULES, Running, Service, until};
use crate::support::{failed_logins, piped, root, run, stderr, stdout};
use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
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
    configured(&format!(
        "source: {{ kafka: {{ brokers: [\"{address}\"], topics: [{topic}], group: {group}, \
         properties: {{ {properties} }} }} }}\n"
    ))
}

fn configured(config: &str) -> Member {
    let folder = tempfile::tempdir().unwrap();
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

/// Who shows this over TLS is let in with source, sink and dead letters; who shows the wrong thing is
/// told at once that it is wrong, without a word of the secret.
fn lets_in(right: &str, wrong: &str, secret: &str) {
    let broker = broker();
    let address = broker.address();
    let (topic, group) = (unique("secret"), unique("g"));
    let (actions, bad) = (unique("actions"), unique("bad"));
    create(&address, &topic, 2);
    create(&address, &actions, 1);
    create(&address, &bad, 1);
    let mut lines: Vec<String> =
        failed_logins(25, 1, "203.0.113.7").lines().map(str::to_owned).collect();
    let broken = r#"{"message":"FAILED_LOGIN: email=a"#;
    lines.push(broken.to_owned());
    sender(&address, &topic).lines(0, &lines);
    let (brokers, ca) = (format!("127.0.0.1:{}", broker.ports[2]), broker.folder.join("ca.pem"));
    let properties = |shown: &str| {
        format!("security.protocol: SASL_SSL, {shown}, ssl.ca.location: '{}'", ca.display())
    };
    let sink = |shown: &str| {
        let properties = properties(shown);
        format!(
            "sinks: [{{ kafka: {{ brokers: ['{brokers}'], topic: {actions}, properties: {{ {properties} }} }} }}]\n"
        )
    };
    let source = |shown: &str| {
        let properties = properties(shown);
        format!(
            "source: {{ kafka: {{ brokers: ['{brokers}'], topics: [{topic}], group: {group}, \
             dead_letter: {bad}, properties: {{ {QUICK}, {properties} }} }} }}\n"
        )
    };
    let refused = |config: &str| {
        let begun = Instant::now();
        let output = configured(config).output();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(!said.contains(secret), "{said}");
        if cfg!(feature = "kafka-tls") {
            let why = said.contains("refuse this client") && said.contains("uthentication");
            assert!(why && said.contains("`properties`"), "{said}");
            assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        } else {
            assert!(said.contains("--features kafka-tls"), "{said}");
        }
    };
    refused(&source(wrong));
    refused(&sink(wrong));
    if !cfg!(feature = "kafka-tls") {
        return;
    }
    let member = configured(&(source(right) + &sink(right)));
    wait_committed(&address, &group, &topic, [26, 0]);
    member.end();
    let sent = records(&address, &actions, 1);
    assert!(sent[0].2.contains("203.0.113.7"), "{sent:?}");
    assert_eq!(records(&address, &bad, 1)[0].2, broken);
}

#[test]
fn tls_and_scram_let_in_whoever_has_the_password() {
    let shown = |password: &str| {
        format!("sasl.mechanism: SCRAM-SHA-512, sasl.username: tester, sasl.password: {password}")
    };
    lets_in(&shown("tester-secret"), &shown("wrong-secret"), "wrong-secret");
}

#[test]
fn tls_and_plain_let_in_whoever_has_the_password() {
    let shown = |password: &str| {
        format!("sasl.mechanism: PLAIN, sasl.username: tester, sasl.password: {password}")
    };
    lets_in(&shown("tester-secret"), &shown("wrong-secret"), "wrong-secret");
}

#[test]
fn tls_and_oauthbearer_let_in_whoever_has_a_token_for_this() {
    let shown = |scope: &str| {
        format!(
            "sasl.mechanisms: OAUTHBEARER, enable.sasl.oauthbearer.unsecure.jwt: true, \
             sasl.oauthbearer.config: \"principal=tester scope={scope}\""
        )
    };
    lets_in(&shown("logs"), &shown("other-things"), "other-things");
}

/// An unsigned token, which lives for so many seconds.
fn token(scope: &str, life: i64) -> String {
    let base64url = |text: &str| -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let chunks = text.as_bytes().chunks(3).map(|chunk| {
            let bits =
                (0..3).fold(0, |bits, i| bits << 8 | usize::from(*chunk.get(i).unwrap_or(&0)));
            let digits = (0..=chunk.len()).map(|i| char::from(DIGITS[bits >> (18 - 6 * i) & 63]));
            digits.collect::<String>()
        });
        chunks.collect()
    };
    #[expect(clippy::disallowed_methods, reason = "a broker looks at the wall clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let claims = serde_json::json!({
        "sub": "tester", "scope": scope, "iat": now.as_secs_f64(),
        "exp": now.as_secs_f64() + life as f64,
    });
    format!("{}.{}.", base64url(r#"{"alg":"none"}"#), base64url(&claims.to_string()))
}

/// Puts a token where it is expected, as whatever renews them does it.
fn renew(file: &Path, token: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{token}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A source, with dead letters and a sink, that show the token of a file.
struct Shown {
    source: String,
    sink: String,
    topic: String,
    group: String,
    actions: String,
}

fn shown(file: &Path) -> Shown {
    let broker = broker();
    let address = broker.address();
    let (topic, group) = (unique("token"), unique("g"));
    let (actions, bad) = (unique("actions"), unique("bad"));
    create(&address, &topic, 2);
    create(&address, &actions, 1);
    create(&address, &bad, 1);
    let how = format!(
        "brokers: ['127.0.0.1:{}'], oauth_token: {{ file: '{}' }}, properties: {{ \
         security.protocol: SASL_SSL, ssl.ca.location: '{}' }}",
        broker.ports[2],
        file.display(),
        broker.folder.join("ca.pem").display()
    );
    let source = format!(
        "source: {{ kafka: {{ topics: [{topic}], group: {group}, dead_letter: {bad}, {how} }} }}\n"
    );
    let sink = format!("sinks: [{{ kafka: {{ topic: {actions}, {how} }} }}]\n");
    Shown { source, sink, topic, group, actions }
}

#[test]
fn a_token_that_cannot_be_used_is_refused_with_what_helps() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let shown = shown(&file);
    let name = file.display().to_string();
    let refused = |secret: &str, parts: &[&str]| {
        for config in [&shown.source, &shown.sink] {
            let begun = Instant::now();
            let output = configured(config).output();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(secret.is_empty() || !said.contains(secret), "{said}");
            let tls = cfg!(feature = "kafka-tls");
            for part in if tls { parts } else { &["--features kafka-tls"] } {
                assert!(said.contains(part), "no `{part}` in {said}");
            }
            assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        }
    };
    refused("", &["`oauth_token`: cannot read", &name, "that this user may read"]);
    renew(&file, "hunter2");
    refused("hunter2", &["`oauth_token`:", &name, "holds no JWT", "the access token itself"]);
    let old = token("logs", -1);
    renew(&file, &old);
    refused(&old[..40], &["`oauth_token`:", &name, "expired at 20", "renew it"]);
    // What only the broker can know.
    let other = token("other-things", 60);
    renew(&file, &other);
    refused(&other[..40], &["refuse this client", "uthentication", "or `oauth_token`"]);
}

#[test]
fn a_token_of_a_file_is_read_anew_before_it_expires_and_when_it_is_renewed_late() {
    if !cfg!(feature = "kafka-tls") {
        return;
    }
    // The client looks once a second whether four fifths of it are over, and logs in again after nine
    // tenths; a broker lets nobody log in twice within a second. So it cannot be much shorter.
    const LIFE: i64 = 15;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let shown = shown(&file);
    let address = broker().address();
    let attack = |ip: &str, all: i64| {
        let lines = failed_logins(10, 1, ip);
        sender(&address, &shown.topic)
            .lines(0, &lines.lines().map(str::to_owned).collect::<Vec<_>>());
        wait_committed(&address, &shown.group, &shown.topic, [all, 0]);
    };
    let keep = |seconds: u64| {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            renew(&file, &token("logs", LIFE));
            std::thread::sleep(Duration::from_millis(500));
        }
    };
    renew(&file, &token("logs", LIFE));
    let mut service = Service::new(&(shown.source.clone() + &shown.sink), RULES);
    let mut running = service.start();
    running.wait_until_it_says("kafka: assigned");
    // Three lives of a token; the sink has nothing to send meanwhile.
    keep(3 * LIFE as u64);
    attack("203.0.113.1", 10);
    let said = running.said();
    assert!(
        ["WARN", "ERROR", "oauth_token", "refuse"].iter().all(|word| !said.contains(word)),
        "{said}"
    );
    // Nobody renews it: both say so, and go on when there is one again.
    for who in ["kafka: `oauth_token`", "topic `"] {
        until(
            || {
                running
                    .said()
                    .lines()
                    .any(|line| line.contains(who) && line.contains("expired at 20"))
            },
            &|| format!("{who} is not said to lack a token"),
        );
    }
    // The client asks again 10 s after a failure.
    keep(11);
    std::thread::scope(|scope| {
        scope.spawn(|| keep(10));
        attack("203.0.113.2", 20);
    });
    let said = running.stop();
    assert!(!said.contains("eyJ"), "{said}");
    let reader = producer(&address, &[]);
    let (_, count) = reader.client().fetch_watermarks(&shown.actions, 0, DEADLINE).unwrap();
    let sent = records(&address, &shown.actions, usize::try_from(count).unwrap());
    for ip in ["203.0.113.1", "203.0.113.2"] {
        assert!(sent.iter().any(|(_, _, line)| line.contains(ip)), "{sent:?}");
    }
}

/// The offsets of the records that are in a partition.
fn offsets(address: &str, topic: &str) -> Vec<i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", unique("look"))
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let mut found = Vec::new();
    loop {
        match consumer.poll(DEADLINE) {
            Some(Ok(message)) => found.push(message.offset()),
            Some(Err(KafkaError::PartitionEOF(_))) => return found,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_compaction_has_left_is_read_and_a_place_in_a_gap_is_no_loss() {
    let address = broker().address();
    let (topic, group) = (unique("compacted"), unique("g"));
    let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", "compact")
        .set("segment.ms", "10000")
        .set("min.cleanable.dirty.ratio", "0.01");
    finish(admin(&address).create_topics(&[new], &AdminOptions::new())).unwrap();
    let sending = producer(&address, &[]);
    // Ten keys, written again and again; one segment holds what was written within ten seconds.
    let send = |n: i64| {
        let (key, value) = (format!("key {}", n % 10), format!("line {n}"));
        let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic)
            .key(key.as_str())
            .payload(value.as_str())
            .timestamp(1_000_000 + n * 10);
        sending.send(record).map_err(|(error, _)| error).unwrap();
        sending.flush(DEADLINE).unwrap();
    };
    (0..50).for_each(send);
    let source = |group: &str| {
        format!(
            "source: {{ kafka: {{ brokers: ['{address}'], topics: [{topic}], group: {group} }} }}\n"
        )
    };
    let read = |service: &mut Service, group: &str, end: i64| {
        let mut running = service.start();
        let at_end =
            || committed(&address, group, &topic, 0).is_some_and(|(offset, _)| offset == end);
        until(|| running.goes_on() && at_end(), &|| format!("{end} is not committed"));
        let said = running.stop();
        let summary: serde_json::Value =
            serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(summary["lag"]["total"], 0, "{said}");
        assert_eq!(summary["errors"], serde_json::json!([]), "{said}");
        let complaint = ["gone", "expired", "retention", "WARN", "ERROR", "again"];
        assert!(complaint.iter().all(|word| !said.contains(word)), "{said}");
        summary["lines"]["total"].as_i64().unwrap()
    };
    // One with a state directory, one that has only what the group has committed.
    let stored = source(&group) + "state_dir: ./state\n";
    let (mut stored, other) = (Service::new(&stored, RULES), unique("g"));
    let mut grouped = Service::new(&source(&other), RULES);
    assert_eq!(read(&mut stored, &group, 50), 50);
    assert_eq!(read(&mut grouped, &other, 50), 50);

    (50..100).for_each(send);
    // A later one, in the segment that is written, is never compacted: nor is it held up by this.
    send(10_000);
    let left: Vec<i64> = (90..=100).collect();
    until(|| offsets(&address, &topic) == left, &|| {
        format!("it is not compacted: {:?}", offsets(&address, &topic))
    });
    assert_eq!(read(&mut stored, &group, 101), 11);
    assert_eq!(read(&mut grouped, &other, 101), 11);
    let group = unique("g");
    let mut fresh = Service::new(&source(&group), RULES);
    assert_eq!(read(&mut fresh, &group, 101), 11);
}

#[test]
fn of_two_with_the_same_instance_id_the_older_one_ends_and_says_why() {
    let address = broker().address();
    let (topic, group) = (unique("twins"), unique("g"));
    create(&address, &topic, 2);
    let start = || {
        let mut service = Service::new(
            &format!(
                "source: {{ kafka: {{ brokers: ['{address}'], topics: [{topic}], group: {group}, \
                 instance_id: twin, properties: {{ {QUICK} }} }} }}\n"
            ),
            RULES,
        );
        let mut running = service.start();
        running.wait_until_it_says("kafka: assigned");
        (service, running)
    };
    let fenced = |(_service, mut running): (Service, Running), code: i32| {
        assert_eq!(running.wait().code(), Some(code), "{}", running.said());
        let said = running.said();
        for part in ["`instance_id: twin`", &group, "of its own"] {
            assert!(said.contains(part), "no `{part}` in {said}");
        }
    };
    // One that has read nothing could not begin.
    let first = start();
    let second = start();
    fenced(first, 2);
    sender(&address, &topic).lines(0, &numbered(0, 10));
    wait_committed(&address, &group, &topic, [10, 0]);
    // What comes while they change places is read by the newer one.
    let third = start();
    sender(&address, &topic).lines(1, &numbered(0, 10));
    fenced(second, 1);
    wait_committed(&address, &group, &topic, [10, 10]);
    third.1.stop();
}
