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
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 12;
/// How many programs are killed at the same time.
const LANES: usize = 6;

/// Nothing is written for so long only when nothing is left to write.
const QUIET: Duration = Duration::from_secs(30);

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
            _ => false,
        })
    })
}

/// Whether the brokers know the topic: that it was made is told before.
fn exists(broker: &str, topic: &str) -> bool {
    let producer = producer(broker, &[]);
    let metadata = producer.client().fetch_metadata(Some(topic), Duration::from_secs(30)).unwrap();
    metadata.topics().iter().any(|one| one.partitions().len() == PARTITIONS as usize)
}

/// A program that reads a topic of its own and is killed again and again.
struct Lane {
    broker: String,
    topic: String,
    dice: Dice,
    lines: Vec<Placed>,
}

impl Lane {
    fn new(broker: &str, seed: u64, rounds: usize) -> Self {
        let (broker, topic) = (broker.to_owned(), unique("killed"));
        create(&broker, &topic, PARTITIONS);
        until(|| exists(&broker, &topic), &|| format!("no topic {topic}"));
        let mut dice = Dice(seed);
        let lines = spread(&mut dice, 60 * rounds + 3000);
        Self { broker, topic, dice, lines }
    }

    /// `idle_after` is how long a pause in the sending may be, on a busy machine too.
    fn settings(&self, group: &str, idle_after: &str) -> String {
        // A static member: nobody waits for the end of a dead one's session.
        let source = format!(
            "source: {{ kafka: {{ brokers: ['{}'], topics: [{}], group: {group}, instance_id: one, \
             idle_after: {idle_after} }} }}\n\
             state_dir: ./state\ncheckpoint: 1s\nsinks:\n  - file: {{ path: actions.jsonl }}\n",
            self.broker, self.topic,
        );
        config(&source)
    }

    /// Runs until everything was applied and written, then stops. Nothing is sent any more, so a
    /// partition at its end need not be waited for.
    fn catch_up(&self, service: &mut Service, group: &str, wanted: &[String]) {
        service.write("portcullis.yaml", &self.settings(group, "1s"));
        let mut running = service.start();
        until(|| running.goes_on() && has_read(service, &self.lines), &|| {
            format!("not all is read: {:?}", service.info()["positions"])
        });
        // What waits for slower partitions is applied once all of them have been quiet for a while. If
        // lines are still missing then, the comparison says which.
        let (mut count, mut since) = (0, Instant::now());
        until(
            || {
                let now = service.lines("actions.jsonl").len();
                if std::mem::replace(&mut count, now) != now {
                    since = Instant::now();
                }
                running.goes_on() && (now >= wanted.len() || since.elapsed() > QUIET)
            },
            &|| "actions do not end".to_owned(),
        );
        running.stop();
        service.verify();
    }

    /// Kills it so often while lines come, and compares. Gives how often it had got so far that it
    /// was given partitions.
    fn ordeal(mut self, rounds: usize) -> usize {
        let group = unique("group");
        let mut service = Service::new(&self.settings(&group, "60s"), RULES);
        let sending = producer(&self.broker, &[]);
        let (mut next, mut assigned) = (0, 0);
        for round in 0..rounds {
            let mut running = service.start();
            let end = (self.lines.len() - 2000) * (round + 1) / rounds;
            // Of the others many meet it on its way to its partitions.
            if self.dice.percent(50) {
                running.wait_until_it_says("kafka: assigned");
            }
            let until = Instant::now() + Duration::from_millis(self.dice.below(200) as u64);
            while Instant::now() < until {
                let piece = self.lines.get(next..end.min(next + 1 + self.dice.below(40)));
                for placed in piece.unwrap_or_default() {
                    send(&sending, &self.topic, placed);
                    next += 1;
                }
                sending.flush(Duration::from_secs(30)).unwrap();
                std::thread::sleep(Duration::from_millis(self.dice.below(20) as u64));
            }
            assigned += usize::from(running.said().contains("kafka: assigned"));
            running.kill();
        }
        self.lines[next..].iter().for_each(|placed| send(&sending, &self.topic, placed));
        sending.flush(Duration::from_secs(60)).unwrap();
        let wanted = expected(&service, &self.lines);
        self.catch_up(&mut service, &group, &wanted);
        let mut undisturbed = Service::new("", RULES);
        self.catch_up(&mut undisturbed, &unique("group"), &wanted);
        let want = undisturbed.lines("actions.jsonl");
        assert_same(&want, &wanted, "one run over twelve partitions against one file");
        assert_same(&service.lines("actions.jsonl"), &want, "killed against undisturbed");
        assert_eq!(service.decisions(), undisturbed.decisions());
        assigned
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_at_its_places() {
    let rounds = number("KILL_ROUNDS", 300);
    let seed = u64::try_from(number("KILL_SEED", 1)).unwrap();
    let broker = crate::broker::broker().address();
    let each = rounds.div_ceil(LANES);
    // Most of the time of a round is spent waiting.
    let assigned: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| {
                let seed = seed * 1000 + u64::try_from(lane).unwrap();
                let lane = Lane::new(&broker, seed, each);
                scope.spawn(move || lane.ordeal(each))
            })
            .collect();
        let ended = lanes.into_iter().map(|lane| lane.join());
        ended.map(|lane| lane.unwrap_or_else(|why| std::panic::resume_unwind(why))).sum()
    });
    println!("{} kills, {assigned} of them at work", each * LANES);
    assert!(assigned * 3 > each * LANES, "{assigned} of {}", each * LANES);
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
            _ => 0,
        })
        .sum();
    read == 3
}
