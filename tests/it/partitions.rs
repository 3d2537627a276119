//! Several partitions in one canonical order: whatever is fetched first, and whoever is killed when,
//! the ids are those of the same lines in one file.

use crate::kafka::{broker, create, producer, records, unique};
use crate::service::{
    Dice, MINUTE, RULES, START, Service, assert_same, busy, config, number, until,
};
use crate::support::{run_in, stderr, stdout};
use portcullis::decode::time::{When, Zone, parse};
use portcullis::source::Position;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;

const PARTITIONS: i32 = 12;

/// A line with its place.
#[derive(Debug, Clone)]
struct Placed {
    time: i64,
    partition: i32,
    line: String,
}

/// Lines of every kind, spread over partitions at random, out of order by less than a second.
fn spread(dice: &mut Dice, count: usize) -> Vec<Placed> {
    let mut lines: Vec<(i64, String)> = busy(dice, count)
        .into_iter()
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(&line).ok()?;
            let When::At(time) = parse(value["timestamp"].as_str()?, &Zone::default())? else {
                return None;
            };
            // What is forged to lie far ahead means something else where a record says when it was
            // sent: see below.
            (time < START + 100_000 * MINUTE).then_some((time, line))
        })
        .collect();
    lines.sort_by_key(|(time, _)| *time);
    lines
        .into_iter()
        .map(|(time, line)| {
            let partition = i32::try_from(dice.below(PARTITIONS as usize)).unwrap();
            Placed { time, partition, line }
        })
        .collect()
}

fn send(producer: &BaseProducer, topic: &str, placed: &Placed) {
    let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
        .partition(placed.partition)
        .payload(placed.line.as_bytes())
        // Shippers take a moment.
        .timestamp(placed.time / 1000 + 300);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

fn send_all(broker: &str, topic: &str, lines: &[Placed]) {
    let producer = producer(broker, &[("queue.buffering.max.messages", "1000000")]);
    lines.iter().for_each(|placed| send(&producer, topic, placed));
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// What one file with the lines in their canonical order says.
fn expected(service: &Service, lines: &[Placed]) -> Vec<String> {
    let mut sorted: Vec<&Placed> = lines.iter().collect();
    sorted.sort_by_key(|placed| (placed.time, placed.partition));
    let text: String = sorted.iter().map(|placed| format!("{}\n", placed.line)).collect();
    service.write("all.log", &text);
    // Without the sinks of the other, which a replay would write to as well.
    service.write("plain.yaml", &config(""));
    let args =
        ["replay", "all.log", "--config", "plain.yaml", "--output", "json", "--summary", "none"];
    let output = run_in(service.path(".").as_path(), &args, b"");
    assert!(output.status.code() <= Some(1), "{}", stderr(&output));
    stdout(&output).lines().map(str::to_owned).collect()
}

#[test]
fn twelve_partitions_give_the_same_however_they_are_fetched() {
    let broker = broker();
    create(&broker, "logs", PARTITIONS);
    let mut dice = Dice(11);
    let lines = spread(&mut dice, 4000);
    send_all(&broker, "logs", &lines);
    let service = Service::new(&config(""), RULES);
    let expected = expected(&service, &lines);
    assert!(expected.len() > 300, "{}", expected.len());
    for round in 0..20 {
        // How much comes at once, from whom first, and how long it takes.
        let properties = format!(
            "source: {{ kafka: {{ brokers: ['{broker}'], topics: [logs], properties: {{ \
             fetch.wait.max.ms: {}, max.partition.fetch.bytes: {}, fetch.message.max.bytes: {} }} }} }}\n",
            1 + dice.below(60),
            2_000 + dice.below(30_000),
            2_000 + dice.below(30_000),
        );
        service.write("portcullis.yaml", &(config("") + &properties));
        let threads = (1 + round % 3).to_string();
        let args = [
            "replay",
            "--kafka",
            &broker,
            "--topic",
            "logs",
            "--threads",
            &threads,
            "--output",
            "json",
            "--summary",
            "json",
        ];
        let output = run_in(service.path(".").as_path(), &args, b"");
        assert!(output.status.code() <= Some(1), "{}", stderr(&output));
        let got: Vec<String> = stdout(&output).lines().map(str::to_owned).collect();
        let same = got.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        assert!(
            got == expected,
            "round {round}: {same} of {} lines are the same; then\n{:?}\n{:?}\n{}",
            expected.len(),
            got.get(same),
            expected.get(same),
            stderr(&output)
        );
    }
}

/// Whether every partition was read to its end, and that lasts.
fn has_read(service: &Service, lines: &[Placed]) -> bool {
    let Ok(db) = portcullis::state::Db::read_only(&service.state()) else { return false };
    let positions = db.positions().unwrap_or_default();
    (0..PARTITIONS).all(|partition| {
        let count = lines.iter().filter(|placed| placed.partition == partition).count();
        positions.iter().any(|(_, position)| match position {
            Position::Partition(place) => {
                place.partition == partition && place.next == i64::try_from(count).unwrap()
            }
            Position::File(_) => false,
        })
    })
}

#[test]
fn killed_at_any_moment_it_goes_on_at_its_places() {
    let rounds = number("KILL_ROUNDS", 300) / 10;
    let seed = number("KILL_SEED", 1);
    let (broker, topic) = (broker(), "logs");
    create(&broker, topic, PARTITIONS);
    let mut dice = Dice(u64::try_from(seed).unwrap());
    let lines = spread(&mut dice, 200 * rounds);
    // A static member: nobody waits for the end of a dead one's session.
    let source = format!(
        "source: {{ kafka: {{ brokers: ['{broker}'], topics: [{topic}], group: {}, instance_id: one, idle_after: 1s }} }}\n\
         state_dir: ./state\nsinks:\n  - file: {{ path: actions.jsonl }}\n",
        unique("group")
    );
    let mut service = Service::new(&config(&source), RULES);
    let sending = producer(&broker, &[]);
    let mut next = 0;
    for round in 0..rounds {
        let running = service.start();
        let end = (lines.len() * (round + 1) / rounds).min(lines.len());
        let until =
            std::time::Instant::now() + Duration::from_millis(100 + dice.below(1200) as u64);
        while next < end || std::time::Instant::now() < until {
            for placed in lines.get(next..end.min(next + 20)).unwrap_or_default() {
                send(&sending, topic, placed);
                next += 1;
            }
            sending.flush(Duration::from_secs(30)).unwrap();
            std::thread::sleep(Duration::from_millis(dice.below(30) as u64));
        }
        running.kill();
    }
    let mut running = service.start();
    until(|| running.goes_on() && has_read(&service, &lines), &|| {
        format!("not all is read: {:?}", service.info()["positions"])
    });
    let wanted = expected(&service, &lines);
    // What waits for slower partitions is applied once all of them have been quiet for a while.
    until(|| running.goes_on() && service.lines("actions.jsonl").len() >= wanted.len(), &|| {
        format!("{} of {} lines", service.lines("actions.jsonl").len(), wanted.len())
    });
    running.stop();
    assert_same(&service.lines("actions.jsonl"), &wanted, "twelve partitions");
    service.verify();
}

#[test]
fn what_cannot_be_read_is_copied_with_its_place_before_that_is_committed() {
    let broker = broker();
    create(&broker, "logs", 2);
    create(&broker, "bad", 1);
    let line = |partition: i32, line: &str| Placed { time: START, partition, line: line.into() };
    let lines =
        [line(0, r#"{"message":"FAILED_LOGIN: email=a"#), line(1, "{}"), line(1, r#"{"\u0061":"#)];
    send_all(&broker, "logs", &lines);
    let source = format!(
        "source: {{ kafka: {{ brokers: ['{broker}'], topics: [logs], dead_letter: bad }} }}\nstate_dir: ./state\n"
    );
    let mut service = Service::new(&config(&source), RULES);
    let mut running = service.start();
    until(|| running.goes_on() && has_read_two(&service), &|| service.info().to_string());
    running.stop();
    let mut copies = records(&broker, "bad", 2);
    copies.sort_by(|a, b| a.2.cmp(&b.2));
    let told: Vec<(&str, &str, &str, &str)> = copies
        .iter()
        .map(|(_, headers, value)| {
            (&*headers["topic"], &*headers["partition"], &*headers["offset"], value.as_str())
        })
        .collect();
    assert_eq!(
        told,
        [
            ("logs", "1", "1", r#"{"\u0061":"#),
            ("logs", "0", "0", r#"{"message":"FAILED_LOGIN: email=a"#),
        ]
    );
    assert!(copies.iter().all(|(_, headers, _)| !headers["reason"].is_empty()));
}

fn has_read_two(service: &Service) -> bool {
    let Ok(db) = portcullis::state::Db::read_only(&service.state()) else { return false };
    let read: i64 = db
        .positions()
        .unwrap_or_default()
        .iter()
        .map(|(_, position)| match position {
            Position::Partition(place) => place.next,
            Position::File(_) => 0,
        })
        .sum();
    read == 3
}
