//! The same bytes give the same actions: with any number of threads, in any block size, packed or
//! plain, in one file or several, live or replayed. And an order that is off by no more than the
//! lateness is put right exactly as the definition says.

use crate::accounting::replay;
use crate::support::{run, run_in, stdout};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decode::time::{Micros, When, format};
use portcullis::detect::condition::Condition;
use portcullis::detect::detector::{StreamTime, Verdict};
use portcullis::engine::clock::{Arrival, Clock};
use portcullis::engine::scan::{Findings, What};
use portcullis::pattern::{Event, EventView, Events};
use portcullis::source::file::Input;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

const START: Micros = 1_754_260_200_000_000;
const SECOND: Micros = 1_000_000;

/// Small numbers from a seed; the same everywhere.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn login(time: Micros, ip: &str, user: u64) -> String {
    format!(
        r#"{{"timestamp":"{}","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email=u{user}@x.y, ip={ip}, reason=bad","request_id":"r{user}"}}"#,
        format(time)
    )
}

/// Some thousand lines: ties, late ones, near misses, forged times, IPv6, and several rules firing.
pub fn stream(lines: usize) -> Vec<String> {
    let mut dice = Dice(7);
    let mut now = START;
    let mut out = Vec::with_capacity(lines);
    for i in 0..lines {
        now += i64::try_from(dice.below(3)).unwrap() * SECOND;
        let jitter = i64::try_from(dice.below(40)).unwrap() * SECOND;
        let time = if i < 10 { now } else { now - jitter };
        let ip = match dice.below(4) {
            0 => format!("2001:db8:0:{:x}::{:x}", dice.below(5), dice.below(9) + 1),
            _ => format!("203.0.113.{}", dice.below(12)),
        };
        let user = dice.below(60);
        let stamp = format(time);
        out.push(match dice.below(60) {
            n if i < 10 || n < 36 => login(time, &ip, user),
            n if n < 44 => format!(
                r#"{{"timestamp":"{stamp}","logger":"security","message":"SUCCESSFUL_LOGIN: user_id=id-{user}, ip={ip}"}}"#
            ),
            n if n < 52 => format!(
                r#"{{"timestamp":"{stamp}","logger":"security","message":"RATE_LIMIT_VIOLATION: ip=198.51.100.{}, endpoint=/login"}}"#,
                user % 3
            ),
            52 => login(now + 400 * 86_400 * SECOND, &ip, user),
            53 => login(now - 86_400 * SECOND, &ip, user),
            54 => format!(r#"{{"timestamp":"{stamp}","logger":"security","message":"FAILED_LOGIN: drifted"}}"#),
            55 => format!(r#"{{"timestamp":"{stamp}","logger":"api","level":"ERROR","message":"oops"}}"#),
            56 => "{\"broken\"".to_owned(),
            57 => String::new(),
            _ => format!(r#"{{"timestamp":"{stamp}","logger":"api","level":"INFO","message":"GET /"}}"#),
        });
    }
    out
}

fn text(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{line}");
        out
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn threads_blocks_and_packing_change_nothing() {
    let lines = stream(4000);
    let plain = text(&lines);
    let assembly = Assembly::new(&Settings::default(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (half, rest) = plain.as_bytes().split_at(plain.len() / 3);
    let packed = [
        write(folder.path(), "a.log", plain.as_bytes()),
        write(folder.path(), "b.log.gz", &[gzip(half), gzip(rest)].concat()),
        write(folder.path(), "c.log.zst", &zstd::encode_all(plain.as_bytes(), 1).unwrap()),
    ];
    let mut first: Option<String> = None;
    for path in packed {
        for threads in [1, 2, 7] {
            for block in [1, 7, 64, 4096, 1 << 20] {
                // A read of a single byte is slow and tells nothing new about packed files.
                if block < 64 && path.extension().is_some_and(|e| e != "log") {
                    continue;
                }
                let settings = Settings { threads, block, ..Settings::default() };
                let inputs = vec![Input::File(path.clone())];
                let (actions, _) = replay(&assembly, &settings, folder.path(), inputs);
                let known = first.get_or_insert_with(|| actions.clone());
                assert!(&actions == known, "{} {threads} {block}", path.display());
            }
        }
    }
    let actions = first.unwrap();
    for rule in [
        "ip-blocking",
        "user-account-lockout",
        "failed-logins-global",
        "pattern-drift",
        "rate-limit-violations",
    ] {
        assert!(actions.contains(&format!("\"rule\":\"{rule}\"")), "{rule} fires");
    }
    assert!(actions.contains("::/64"), "a range is a target");
}

#[test]
fn piped_and_replayed_are_the_same() {
    let lines = stream(3000);
    let plain = text(&lines);
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "in.log", plain.as_bytes());
    let replayed =
        run_in(folder.path(), &["replay", "in.log", "--summary", "none", "--threads", "2"], b"");
    let piped = run(&["run", "--summary", "none", "--output", "json"], plain.as_bytes());
    let (replayed, piped) = (stdout(&replayed), stdout(&piped));
    assert!(replayed.lines().count() > 20);
    // Only the place of an end may differ.
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.contains("\"op\":\"end\"")).map(str::to_owned).collect()
    };
    let ends = |text: &str| -> Vec<String> {
        let mut ends: Vec<String> =
            text.lines().filter(|l| l.contains("\"op\":\"end\"")).map(str::to_owned).collect();
        ends.sort();
        ends
    };
    assert_eq!(others(&replayed), others(&piped));
    assert_eq!(ends(&replayed), ends(&piped));
}

/// A line's time, if it is one that is counted; the lines of this module only.
fn time_of(assembly: &Assembly, line: &str) -> Option<Micros> {
    let mut findings = Findings::default();
    let _what = assembly.scanner.line(line.as_bytes(), None, &mut findings);
    match findings.records.iter().find(|found| found.matched.named)?.when? {
        When::At(time) => Some(time),
        When::Twice { .. } | When::Yearless(_) => None,
    }
}

#[test]
fn of_too_many_files_for_one_time_some_wait_and_that_is_said() {
    let assembly = Assembly::new(&Settings::default(), &[]).unwrap();
    for (count, late, held) in [(64, 0, None), (66, 4, Some(2))] {
        let folder = tempfile::tempdir().unwrap();
        // Each begins in the first second and ends in the tenth minute.
        let file = |n: i64| {
            let ip = format!("203.0.113.{n}");
            let times = [n, 1_000 + n].into_iter().chain(600_000_000 + n..600_000_005 + n);
            let lines = times.map(|time| login(START + time, &ip, n.unsigned_abs()));
            let lines: Vec<String> = lines.collect();
            Input::File(write(folder.path(), &format!("{n:02}.log"), text(&lines).as_bytes()))
        };
        let inputs = (0..count).map(file).collect();
        let (actions, summary) = replay(&assembly, &Settings::default(), folder.path(), inputs);
        assert_eq!(summary.limits.get("open_files").copied(), held, "{count} files");
        assert_eq!(summary.lines.late, late, "{count} files");
        let said =
            actions.lines().filter(|line| line.contains("too many files cover the same time"));
        // One a minute: the second waits until the clock has come to the end of the others.
        assert_eq!(u64::try_from(said.count()).unwrap(), held.unwrap_or(0), "{actions}");
    }
}

#[test]
fn an_hour_that_a_clock_shows_twice_goes_on_where_the_log_was() {
    let named = |name: &str| Settings { timezone: name.parse().unwrap(), ..Settings::default() };
    // Four hours of the night in which Berlin puts its clocks back, a failed login every 20 s.
    let utc = 1_761_436_200 * SECOND;
    let local = |n: i64| {
        let at = utc + n * 20 * SECOND;
        let offset = if at < 1_761_440_400 * SECOND { 2 } else { 1 };
        format(at + offset * 3600 * SECOND)
    };
    let line =
        |n: i64, time: &str| login(0, &format!("203.0.113.{}", n % 3), 1).replace(&format(0), time);
    let dated = |n: i64, time: &str| line(n, time.trim_end_matches('Z'));
    // As syslog writes it, without a year.
    let yearless = |n: i64, time: &str| {
        let (day, clock) = time.split_once('T').unwrap();
        let day = day.rsplit('-').next().unwrap();
        line(n, &format!("Oct {day} {}", &clock[..8]))
    };
    let folder = tempfile::tempdir().unwrap();
    let replayed = |settings: &Settings, lines: Vec<String>| {
        let assembly = Assembly::new(settings, &[]).unwrap();
        let path = write(folder.path(), "night.log", text(&lines).as_bytes());
        let (actions, summary) =
            replay(&assembly, settings, folder.path(), vec![Input::File(path)]);
        assert_eq!((summary.lines.matched, summary.lines.late), (720, 0));
        actions
    };
    let expected = replayed(
        &Settings::default(),
        (0..720).map(|n| line(n, &format(utc + n * 20 * SECOND))).collect(),
    );
    assert!(expected.contains("\"op\":\"start\",\"action\":\"block\""), "{expected}");
    let berlin = named("Europe/Berlin");
    assert!(replayed(&berlin, (0..720).map(|n| dated(n, &local(n))).collect()) == expected);
    let berlin = Settings { year: Some(2025), ..berlin };
    assert!(replayed(&berlin, (0..720).map(|n| yearless(n, &local(n))).collect()) == expected);
}

#[test]
fn several_files_are_merged_into_one_order() {
    let assembly = Assembly::new(&Settings::default(), &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lines: Vec<String> =
        stream(3000).into_iter().filter(|l| time_of(&assembly, l).is_some()).collect();
    let replayed = |inputs: &[(&str, &[String])], threads: usize| {
        let inputs = inputs
            .iter()
            .map(|(name, lines)| Input::File(write(folder.path(), name, text(lines).as_bytes())));
        let settings = Settings { threads, block: 4096, ..Settings::default() };
        replay(&assembly, &settings, folder.path(), inputs.collect()).0
    };
    // Cut where the time reaches a new height, so that nothing belongs before the cut.
    let whole = {
        // Forged times would make every later line the lower one.
        let honest =
            |l: &&String| time_of(&assembly, l).is_some_and(|t| t < START + 86_400 * SECOND);
        let lines: Vec<String> = lines.iter().filter(honest).cloned().collect();
        let times: Vec<Micros> = lines.iter().map(|l| time_of(&assembly, l).unwrap()).collect();
        let cut = (lines.len() / 2..lines.len())
            .find(|i| times[..*i].iter().max() < Some(&times[*i]))
            .unwrap();
        let whole = replayed(&[("w.log", &lines)], 1);
        for threads in [1, 2] {
            let (a, b) = lines.split_at(cut);
            assert!(whole == replayed(&[("a.log", a), ("b.log", b)], threads), "{threads} threads");
            // The names say nothing: the times do.
            assert!(whole == replayed(&[("z.log", a), ("c.log", b)], threads), "{threads} threads");
        }
        whole
    };
    assert!(whole.contains("\"op\":\"start\""));
    // Dealt out to two files, merged by hand by each file's newest time, ties by the files' order.
    let (mut a, mut b): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut dice = Dice(3);
    for (i, line) in lines.iter().enumerate() {
        let first = if i < 2 { i == 0 } else { dice.below(2) == 0 };
        if first { a.push(line.clone()) } else { b.push(line.clone()) }
    }
    let keys = |lines: &[String]| -> Vec<Micros> {
        let times = lines.iter().map(|l| time_of(&assembly, l).unwrap());
        times
            .scan(Micros::MIN, |newest, t| {
                *newest = (*newest).max(t);
                Some(*newest)
            })
            .collect()
    };
    let (keys_a, keys_b) = (keys(&a), keys(&b));
    let (mut i, mut j) = (0, 0);
    let mut merged = Vec::new();
    while i < a.len() || j < b.len() {
        let from_a = match (keys_a.get(i), keys_b.get(j)) {
            (Some(x), Some(y)) => x <= y,
            (Some(_), None) => true,
            _ => false,
        };
        let line = if from_a {
            i += 1;
            &a[i - 1]
        } else {
            j += 1;
            &b[j - 1]
        };
        merged.push(line.clone());
    }
    let by_hand = replayed(&[("m.log", &merged)], 1);
    for threads in [1, 2, 7] {
        assert!(by_hand == replayed(&[("a.log", &a), ("b.log", &b)], threads), "{threads} threads");
    }
}

/// The definition, word by word, for `count > n within W`: a list of events in the order of their
/// arrival, with a mark for those that are used up.
#[derive(Default)]
struct Naive(Vec<(Micros, bool)>);

impl Naive {
    fn arrive(&mut self, time: Micros, at_least: usize, within: Micros) -> Option<(Micros, u64)> {
        self.0.push((time, false));
        let mut ends: Vec<Micros> = self.0.iter().map(|e| e.0).collect();
        ends.retain(|s| *s >= time && time > s - within);
        ends.sort_unstable();
        for end in ends {
            let inside = |e: &(Micros, bool)| !e.1 && e.0 > end - within && e.0 <= end;
            let count = self.0.iter().filter(|e| inside(e)).count();
            if count >= at_least {
                self.0.iter_mut().filter(|e| inside(e)).for_each(|e| e.1 = true);
                return Some((end, count as u64));
            }
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the order within the lateness, exactly the crossings of the definition are found,
    /// nothing is late, and every event that was sent has been counted.
    #[test]
    fn disorder_within_the_lateness_loses_and_invents_nothing(
        gaps in prop::collection::vec((0i64..45, 0i64..=60, 0u8..3), 50..400),
    ) {
        let settings = Settings { learn: 0, ..Settings::default() };
        let assembly = Assembly::new(&settings, &[]).unwrap();
        let rules: Vec<_> = assembly.rules.iter().filter(|r| r.id == "ip-blocking").cloned().collect();
        let Some(Condition::Count { .. }) = rules.first().map(|r| &r.condition) else {
            return Err(TestCaseError::fail("ip-blocking counts"));
        };
        let (at_least, within) = (21, 3600 * SECOND);
        // Each record is written up to a minute after it happened.
        let mut now = START;
        let mut sent: Vec<(Micros, Micros, u8)> = gaps
            .iter()
            .map(|(gap, delay, ip)| {
                now += gap * SECOND;
                (now + delay * SECOND, now, *ip)
            })
            .collect();
        sent.sort_by_key(|(arrival, ..)| *arrival);
        let mut detector = assembly.detector(&rules, 0);
        let mut clock = Clock::new(settings.lateness, settings.max_ahead);
        let mut naive: BTreeMap<u8, Naive> = BTreeMap::new();
        for (_, time, ip) in sent {
            let line = login(time, &format!("203.0.113.{ip}"), 1);
            let mut findings = Findings::default();
            let Some(What::Records(_)) = assembly.scanner.line(line.as_bytes(), None, &mut findings) else {
                return Err(TestCaseError::fail("a record"));
            };
            prop_assert_eq!(clock.observe(time).0, Arrival::OnTime);
            let stream = StreamTime { clock: clock.now(), start: clock.start() };
            let mut fired = Vec::new();
            let Events { list, mut texts, .. } = findings.events;
            let event = Event { rules: texts.put_rules([0].into_iter()), ..list[0] };
            let event = EventView { event: &event, texts: &texts };
            detector.observe(event, time, stream, &mut |firing| {
                fired.push((firing.time, firing.telling().told.read().0.count));
                Verdict::Stands
            });
            let expected = naive.entry(ip).or_default().arrive(time, at_least, within);
            prop_assert_eq!(fired, Vec::from_iter(expected));
        }
    }
}
