//! How fast a topic is read, against the same client that reads it and drops everything, and whether
//! it keeps up with a steady stream. A real broker on this machine takes its share of the processors.
#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints what it measured, and may end by panicking"
)]

mod measure;
mod mix;

#[cfg(not(feature = "kafka"))]
fn main() {
    eprintln!("error: {}", portcullis::kafka::NOT_BUILT);
    std::process::exit(2);
}

#[cfg(feature = "kafka")]
fn main() {
    with_kafka::main();
}

#[cfg(feature = "kafka")]
mod with_kafka {
    use crate::measure::{self, Arguments, Table, grouped, median, portcullis};
    use crate::mix::{Lines, Mix, SEED};
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::client::DefaultClientContext;
    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    use rdkafka::message::Message;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::{Offset, TopicPartitionList};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    const PARTITIONS: i32 = 12;
    const RECORDS: u64 = 2_000_000;
    const OFFERED: u64 = 100_000;
    const SECONDS: u64 = 20;
    const LONG: Duration = Duration::from_secs(60);

    pub fn main() {
        let arguments = Arguments::read(&["read", "steady"]);
        measure::print_circumstances("kafka");
        let folder = tempfile::tempdir().expect("a folder can be made");
        let (mut broker, address) = broker(folder.path());
        if arguments.wants("read") {
            let records = arguments.lines.unwrap_or(RECORDS);
            read(folder.path(), &address, records, &arguments);
        }
        if arguments.wants("steady") {
            steady(folder.path(), &address, &arguments.threads);
        }
        drop(broker.stdin.take());
        broker.wait().expect("the broker ends");
    }

    fn broker(folder: &Path) -> (Child, String) {
        let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let ports = listeners.each_ref().map(|one| one.local_addr().expect("it has one").port());
        drop(listeners);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker.sh");
        let mut child = Command::new("bash")
            .arg(script)
            .arg("run")
            .arg(folder.join("broker"))
            .args(ports.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("bash can be run");
        let deadline = Instant::now() + 3 * LONG;
        while TcpStream::connect(("127.0.0.1", ports[0])).is_err() {
            assert!(child.try_wait().expect("it can be asked").is_none(), "there is no broker");
            assert!(Instant::now() < deadline, "the broker does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        (child, format!("127.0.0.1:{}", ports[0]))
    }

    fn client(address: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", address);
        config
    }

    fn create(address: &str, topic: &str) {
        let admin: AdminClient<DefaultClientContext> =
            client(address).create().expect("a client can be made");
        let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
        let (new, options) = ([new], AdminOptions::new());
        let mut made = std::pin::pin!(admin.create_topics(&new, &options));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while made.as_mut().poll(&mut context).is_pending() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn producer(address: &str) -> BaseProducer {
        client(address)
            .set("queue.buffering.max.messages", "2000000")
            .set("linger.ms", "20")
            .create()
            .expect("a client can be made")
    }

    fn send(producer: &BaseProducer, topic: &str, number: u64, line: &[u8]) {
        let partition = i32::try_from(number % PARTITIONS as u64).expect("few");
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(partition).payload(line);
        loop {
            match producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }

    fn read(folder: &Path, address: &str, records: u64, arguments: &Arguments) {
        create(address, "read");
        let sending = producer(address);
        let mut lines = Lines::new(Mix::A, SEED, records);
        let mut line = Vec::new();
        for number in 0..records {
            line.clear();
            lines.push(&mut line);
            send(&sending, "read", number, line.strip_suffix(b"\n").unwrap_or(&line));
            if number % 1000 == 0 {
                sending.poll(Duration::ZERO);
            }
        }
        sending.flush(LONG).expect("all is delivered");
        let mut table =
            Table::new(&["12 partitions", "threads", "s p50", "records/s", "against dropping"]);
        let mut dropped = Vec::new();
        let mut replayed = vec![Vec::new(); arguments.threads.len()];
        for _ in 0..arguments.runs {
            dropped.push(drop_all(address, records));
            for (times, threads) in replayed.iter_mut().zip(&arguments.threads) {
                let mut command = portcullis(folder);
                command.args([
                    "replay",
                    "--kafka",
                    address,
                    "--topic",
                    "read",
                    "--summary",
                    "json",
                ]);
                command.args(["--threads", &threads.to_string()]);
                let took = measure::run(&mut command);
                assert_eq!(took.summary()["lines"]["total"], records, "{}", took.said);
                times.push(took.wall_s);
            }
        }
        let floor = median(&dropped);
        let mut row = |what: &str, threads: String, times: &[f64]| {
            let s = median(times);
            let rate = (records as f64 / s).round() as u64;
            let cells = [
                what.into(),
                threads,
                format!("{s:.2}"),
                grouped(rate),
                format!("{:.2}x", s / floor),
            ];
            table.row(cells.into());
        };
        row("librdkafka, dropping", String::new(), &dropped);
        for (times, threads) in replayed.iter().zip(&arguments.threads) {
            row("`replay --kafka`, start to end", threads.to_string(), times);
        }
        table.print();
        println!();
    }

    /// Reads everything with the client's own settings for speed.
    fn drop_all(address: &str, records: u64) -> f64 {
        let started = Instant::now();
        let consumer: BaseConsumer = client(address)
            .set("group.id", "dropping")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .create()
            .expect("a client can be made");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset("read", partition, Offset::Beginning).expect("a place");
        }
        consumer.assign(&list).expect("it can be assigned");
        let (mut count, mut bytes) = (0, 0);
        while count < records {
            if let Some(message) = consumer.poll(LONG) {
                bytes += message.expect("a record").payload().map_or(0, <[u8]>::len);
                count += 1;
            }
        }
        std::hint::black_box(bytes);
        started.elapsed().as_secs_f64()
    }

    /// A steady stream, and how far the committed places lie behind it each second.
    fn steady(folder: &Path, address: &str, threads: &[u16]) {
        let mut table = Table::new(&[
            "offered/s",
            "threads",
            "written/s",
            "lag p50",
            "lag in the last 5 s",
            "lag max",
        ]);
        for threads in threads {
            let topic = format!("steady-{threads}");
            create(address, &topic);
            let mut command = portcullis(folder);
            command
                .args(["run", "--kafka", address, "--topic", &topic, "--group", &topic, "--quiet"])
                .args(["--threads", &threads.to_string(), "--summary", "none"])
                .stdout(Stdio::null());
            let mut child = command.spawn().expect("the program starts");
            std::thread::sleep(Duration::from_secs(6));
            let sending = producer(address);
            let looking: BaseConsumer =
                client(address).set("group.id", &topic).create().expect("a client can be made");
            let mut lines = Lines::new(Mix::A, SEED, OFFERED * SECONDS);
            let (mut line, mut lags) = (Vec::new(), Vec::new());
            let started = Instant::now();
            for number in 0..OFFERED * SECONDS {
                let due = Duration::from_nanos(number * 1_000_000_000 / OFFERED);
                if number % 100 == 0 {
                    sending.poll(Duration::ZERO);
                    if let Some(early) = due.checked_sub(started.elapsed()) {
                        std::thread::sleep(early);
                    }
                }
                if number % OFFERED == OFFERED - 1 {
                    lags.push(number.saturating_sub(committed(&looking, &topic)) as f64);
                }
                line.clear();
                lines.push(&mut line);
                send(&sending, &topic, number, line.strip_suffix(b"\n").unwrap_or(&line));
            }
            let rate = (OFFERED * SECONDS) as f64 / started.elapsed().as_secs_f64();
            sending.flush(LONG).expect("all is delivered");
            child.kill().expect("it can be ended");
            child.wait().expect("it ends");
            let last = lags.get(lags.len() - 5..).unwrap_or_default().to_vec();
            let count = |n: f64| grouped(n.round() as u64);
            table.row(vec![
                grouped(OFFERED),
                threads.to_string(),
                count(rate),
                count(median(&lags)),
                count(median(&last)),
                count(lags.iter().copied().fold(0.0, f64::max)),
            ]);
        }
        table.print();
    }

    fn committed(consumer: &BaseConsumer, topic: &str) -> u64 {
        let mut list = TopicPartitionList::new();
        (0..PARTITIONS).for_each(|partition| {
            list.add_partition(topic, partition);
        });
        let Ok(committed) = consumer.committed_offsets(list, Duration::from_secs(5)) else {
            return 0;
        };
        committed
            .elements()
            .iter()
            .map(|one| match one.offset() {
                Offset::Offset(offset) => u64::try_from(offset).unwrap_or(0),
                _ => 0,
            })
            .sum()
    }
}
