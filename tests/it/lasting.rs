//! What outlives the process: state that is captured, entries that are written down, and both read
//! again, with the same rules or with others.

use crate::determinism::stream;
use portcullis::action::Action;
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::detect::dictionary::{Dictionary, Translation};
use portcullis::engine::core::Core;
use portcullis::engine::entry::{Journal, Origin, Owned, Rank, take_entry};
use portcullis::engine::order::Engine;
use portcullis::source::{Batch, Position, position::PartitionPosition};
use portcullis::window::codec::Reader;
use portcullis::yaml::Document;
use proptest::prelude::*;
use std::sync::Arc;

/// Rules of every kind, so that every kind of state is there.
const RULES: &str = r#"
pack: all
rules:
  - { id: count, title: t, on: FAILED_LOGIN, per: ip, when: count >= 6 within 1m, then: block for 5m, escalate: 'x2 up to 1h, forget after 30d' }
  - { id: longer, title: t, on: FAILED_LOGIN, per: ip, when: count > 9 within 3m, then: alert }
  - { id: spray, title: t, on: FAILED_LOGIN, per: ip, when: distinct(user) >= 5 within 2m, then: alert for 2m }
  - { id: lock, title: t, on: FAILED_LOGIN, per: user, when: count >= 3 within 10m, then: lock for 1m }
  - { id: won, title: t, per: ip, when: FAILED_LOGIN >= 2 then SUCCESSFUL_LOGIN within 5m, then: alert }
  - { id: new, title: t, on: FAILED_LOGIN, per: ip, when: new(user) >= 2 within 10m, then: alert }
  - { id: seen, title: t, on: SUCCESSFUL_LOGIN, per: user, when: first_seen(ip), then: require_2fa }
  - { id: hour, title: t, on: SUCCESSFUL_LOGIN, per: user, when: unusual(hour), then: alert, min_events: 2, min_days: 1, rarity: 0.5 }
  - { id: once, title: t, on: FAILED_LOGIN, per: ip, when: count >= 4 within 2m, then: alert, once_per: request_id }
  - { id: all, title: t, on: FAILED_LOGIN, per: global, when: count >= 30 within 1m, then: alert }
  - { id: flood, title: t, on: FAILED_LOGIN, per: global, when: count >= 8 within 1m, then: under_attack for 20s }
  - { id: reasons, title: t, on: FAILED_LOGIN, per: [ip, reason], when: distinct(endpoint) >= 2 within 1m, then: alert }
  - { id: field, title: t, on: RATE_LIMIT_VIOLATION, per: endpoint, when: count >= 5 within 5m, then: alert }
"#;

struct House {
    _folder: tempfile::TempDir,
    assembly: Assembly,
}

impl House {
    fn new(rules: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pack = folder.path().join("pack.yaml");
        std::fs::write(&pack, rules).unwrap();
        let text = format!("patterns: [velro, {}]\nlearn: 1m\n{config}", pack.display());
        let mut settings = Settings::default();
        let problems = settings.apply(&Document { name: "config".into(), text });
        assert!(problems.is_empty(), "{problems:?}");
        let assembly = Assembly::new(&settings, &[]).unwrap_or_else(|p| {
            panic!("{}", p.iter().map(ToString::to_string).collect::<String>())
        });
        Self { _folder: folder, assembly }
    }

    fn core(&self) -> Core {
        self.assembly.engine().core
    }
}

/// A file's worth of lines, each a batch with its place.
fn batches(lines: &[String]) -> Vec<Batch> {
    let mut start = 0;
    let mark = Position::Partition(PartitionPosition { topic: "t".into(), partition: 0, next: 0 });
    let mark = Some(Arc::new(mark));
    let batch = |line: &String| {
        let bytes = format!("{line}\n").into_bytes();
        let at = start;
        start += u64::try_from(bytes.len()).unwrap();
        Batch { bytes, start: at, mark: mark.clone(), ..Batch::default() }
    };
    lines.iter().map(batch).collect()
}

fn told(actions: &[Action]) -> Vec<String> {
    actions.iter().map(Action::json).collect()
}

fn feed(engine: &mut Engine, house: &House, batches: &[Batch]) -> Vec<String> {
    for batch in batches {
        engine.apply_batch(house.assembly.scanner.scan(batch.clone()), None);
    }
    told(&engine.take_actions())
}

fn replay(core: &mut Core, journal: &Journal, by: Option<&Translation>) -> Vec<String> {
    let mut from = Reader::new(&journal.bytes);
    let mut entries = 0;
    while !from.is_empty() {
        core.apply(take_entry(&mut from, by).unwrap());
        entries += 1;
    }
    assert_eq!(entries, journal.entries);
    told(&core.take_actions())
}

fn restored(house: &House, bytes: &[u8], names: &Dictionary) -> Engine {
    let mut engine = house.assembly.engine();
    engine.core.restore(bytes, names).unwrap();
    engine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Stopped anywhere, brought back from a capture and the journal behind it, it goes on as if
    /// nothing had been; what comes twice is counted once; and the bytes that are held are the same.
    #[test]
    fn a_restart_changes_nothing(
        lines in 50usize..900,
        cuts in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        // Without and with giving up.
        memory in prop::sample::select(vec!["1GiB", "1MiB"]),
    ) {
        let house = House::new(RULES, &format!("memory_limit: {memory}\n"));
        let mut lines = stream(lines);
        if memory == "1MiB" {
            // Keys that come once, until there is no room for them.
            let fillers = 4000.min(lines.len() * 10);
            for n in 0..fillers {
                let line = lines[n % lines.len()].replace("203.0.113.", &format!("198.{}.{}.", n % 200, n / 200));
                lines.insert(n * 2 % lines.len(), line);
            }
        }
        let all = batches(&lines);
        let mut places: Vec<usize> =
            [cuts.0, cuts.1, cuts.2].map(|cut| (cut * all.len() as f64) as usize).into();
        places.sort_unstable();
        let [captured, stopped, again] = places[..] else { unreachable!() };

        let mut whole = house.assembly.engine();
        let expected = feed(&mut whole, &house, &all);
        for line in &expected {
            prop_assert_eq!(&Action::of_json(line).unwrap().json(), line);
        }

        let mut first = house.assembly.engine();
        let mut out = feed(&mut first, &house, &all[..captured]);
        let names = first.core.dictionary();
        // It is captured while the stream goes on.
        first.core.begin_capture(Vec::new());
        first.core.journal = Some(Journal::default());
        let mut since = Vec::new();
        let mut pieces = None;
        for some in all[captured..stopped].chunks(5) {
            since.extend(feed(&mut first, &house, some));
            pieces = pieces.or(first.core.go_on_capturing());
        }
        let bytes = loop {
            if let Some(pieces) = pieces.take().or(first.core.go_on_capturing()) {
                break pieces.concat();
            }
        };
        let journal = first.core.journal.take().unwrap();
        drop(first);

        let mut second = restored(&house, &bytes, &names);
        prop_assert!(replay(&mut second.core, &journal, None) == since);
        out.extend(since);
        // Reading goes on too early: what was counted is told by its place.
        out.extend(feed(&mut second, &house, &all[captured.min(again)..again]));
        out.extend(feed(&mut second, &house, &all[again.min(stopped)..]));
        let same = out.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        prop_assert_eq!(out.get(same), expected.get(same), "line {} of {}", same, expected.len());
        prop_assert_eq!(second.core.detector().held().0, whole.core.detector().held().0);
        let (a, b) = (second.core.detector().held().1, whole.core.detector().held().1);
        prop_assert!(a.abs_diff(b) * 50 <= b, "{} {}", a, b);
        prop_assert!(second.core.summary.lines.closed() && second.core.summary.records.closed());
    }
}

#[test]
fn what_waits_or_is_held_at_a_restart_is_counted_in_one_run_only() {
    let house = House::new(RULES, "");
    let scanned = house.assembly.scanner.scan(batches(&stream(1)).remove(0));
    let at = |source: u32, at: u64, time: i64| Owned {
        source,
        origin: Some(Origin { at, index: 0 }),
        time: Some(1_754_260_200_000_000 + time * 1_000_000),
        arrival: None,
        named: true,
        print: None,
        events: scanned.findings.events.clone(),
    };
    let rank = Rank { topic: "t".into(), partition: 0 };
    let count = |core: &mut Core, outcome| core.summary.records.add(outcome, 1);
    let mut core = house.core();
    core.journal = Some(Journal::default());
    // Three make a clock, one lies too far ahead of it, one is late, and one is still to be applied.
    for (place, second) in [0, 1, 2, 200_000, -1000].into_iter().zip(0..) {
        let outcome = core.record(&at(0, second, place).input());
        count(&mut core, outcome);
    }
    for (place, second) in [3, 4, 5, 200_001, 200_002, 200_003, 200_004].into_iter().zip(0..) {
        let record = at(1, second, place);
        let outcome =
            core.wait(record, 1_754_260_200_000_000 + place * 1_000_000, rank.clone(), false);
        count(&mut core, outcome);
    }
    core.release(1_754_260_200_000_000 + 5 * 1_000_000);
    let journal = core.journal.take().unwrap();

    let mut core = house.core();
    replay(&mut core, &journal, None);
    let records = &core.summary.records;
    assert_eq!((records.matched, records.future, records.late), (10, 1, 1), "{records:?}");
    core.forget_counts();
    // The clock has moved on: those of before the restart belong to the run before.
    core.release(i64::MAX);
    let records = &core.summary.records;
    assert!(records.closed() && records.parts().iter().all(|(_, n)| *n == 0), "{records:?}");
}

/// What a format adds stands at the end of the head: of the third the brake of `under_attack` and what
/// was seen, of the fourth the domains of accounts, of the fifth who decided by hand and why, and the
/// newest time. The fifth writes decisions that are over in another way, and here are none.
#[test]
fn older_formats_are_read_and_the_third_knows_one_brake_more() {
    let house = House::new(RULES, "rules: { flood: { then: under_attack for 1s } }\n");
    let mut engine = house.assembly.engine();
    // At first no account has a domain: older formats write them out.
    let mut lines = stream(600);
    lines.iter_mut().take(5).for_each(|line| *line = line.replace('@', "."));
    let all = batches(&lines);
    let (before, behind) = all.split_at(5);
    feed(&mut engine, &house, before);
    let bytes = engine.core.capture_all();
    let names = engine.core.dictionary();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let (head, shards) = bytes[8..].split_at(length);
    // Where no brake of that kind has counted and no record is remembered, these are one byte each; then
    // come how many domains there may be, 1,023, and that there is none; that nobody decided anything
    // by hand, and that there is a time.
    let added = [&[0][..], &[0], &[0xff, 7, 0], &[0, 1]];
    let time = size_of::<i64>();
    let found = &head[length - 7 - time..length - time];
    assert_eq!((head[0], found), (5, &*added.concat()), "the rule fires");
    for (format, less, fewer) in
        [(2, 7 + time, 1 + time), (3, 5 + time, 1 + time), (4, 2 + time, time)]
    {
        let mut older = head[..length - less].to_vec();
        older[0] = format;
        let mut old = u64::try_from(older.len()).unwrap().to_le_bytes().to_vec();
        old.extend(older);
        old.extend(shards);
        let mut again = restored(&house, &old, &names);
        // Now there may be no domain, and no time is known.
        assert_eq!(again.core.capture_all().len(), bytes.len() - fewer);

        // So accounts are written out and stay the same, also when all is read once more.
        let (one, other) = behind.split_at(behind.len() / 2);
        let mut told = feed(&mut again, &house, one);
        let mut again = restored(&house, &again.core.capture_all(), &names);
        told.extend(feed(&mut again, &house, other));
        let mut whole = house.assembly.engine();
        feed(&mut whole, &house, before);
        let expected = feed(&mut whole, &house, behind);
        assert!(told == expected && told.iter().any(|line| line.contains(r#""rule":"spray""#)));
    }

    // The brake still holds after a restart.
    let fail = |second: i64| {
        let time = portcullis::decode::time::format(1_754_260_200_000_000 + second * 1_000_000);
        format!(
            r#"{{"timestamp":"{time}","logger":"security","message":"FAILED_LOGIN: email=a@b.c, ip=203.0.113.1, reason=x"}}"#
        )
    };
    let house = House::new(
        RULES,
        "rules: { flood: { then: under_attack for 1s, when: count >= 1 within 1m } }\n",
    );
    let mut engine = house.assembly.engine();
    let both = batches(&[fail(0), fail(10)]);
    feed(&mut engine, &house, &both[..1]);
    let (bytes, names) = (engine.core.capture_all(), engine.core.dictionary());
    let mut again = restored(&house, &bytes, &names);
    let told = feed(&mut again, &house, &both[1..]);
    let withheld = |line: &&String| line.contains(r#""op":"withheld","action":"under_attack""#);
    assert_eq!(told.iter().filter(withheld).count(), 1, "{told:#?}");
}

#[test]
fn what_is_captured_is_read_whole_or_not_at_all() {
    let house = House::new(RULES, "");
    let mut engine = house.assembly.engine();
    feed(&mut engine, &house, &batches(&stream(600)));
    let bytes = engine.core.capture_all();
    let names = engine.core.dictionary();
    for end in (0..bytes.len()).step_by(bytes.len() / 300 + 1) {
        assert!(house.core().restore(&bytes[..end], &names).is_err(), "{end}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(house.core().restore(&longer, &names).is_err());
    // Other bytes must not panic, whatever they are read as.
    for at in 0..bytes.len().min(4000) {
        let mut other = bytes.clone();
        other[at] ^= 1 << (at % 8);
        let _any = house.core().restore(&other, &names);
    }
    let error = house.core().restore(&[1, 0, 0, 0, 0, 0, 0, 0, 9], &names).unwrap_err();
    assert_eq!(error, "its format is 9, this version's is 5");
}

#[test]
fn rules_that_stay_keep_their_windows_and_those_that_go_keep_their_decisions() {
    let login = |second: i64, ip: &str, user: &str| {
        let time = portcullis::decode::time::format(1_754_260_200_000_000 + second * 1_000_000);
        format!(
            r#"{{"timestamp":"{time}","logger":"security","message":"FAILED_LOGIN: email={user}@x.y, ip={ip}, reason=bad"}}"#
        )
    };
    let rule = |id: &str, per: &str, when: &str, then: &str| {
        format!(
            "  - {{ id: {id}, title: t, on: FAILED_LOGIN, per: {per}, when: '{when}', then: {then} }}\n"
        )
    };
    let off = "rules: { ip-blocking: off, user-account-lockout: off }\n";
    let before = House::new(
        &format!(
            "pack: p\nrules:\n{}{}{}",
            rule("gone", "user", "count >= 2 within 1h", "lock for 10s"),
            rule("other", "ip", "distinct(reason) >= 9 within 1h", "alert"),
            rule("stays", "ip", "count >= 4 within 1h", "block for 1h"),
        ),
        off,
    );
    // The rule that stays has another place, another threshold, and shares its list with another.
    let after = House::new(
        &format!(
            "pack: p\nrules:\n{}{}{}",
            rule("fresh", "ip", "count >= 3 within 2h", "alert"),
            rule("extra", "ip", "distinct(request_path) >= 2 within 1h", "alert"),
            rule("stays", "ip", "count >= 5 within 1h", "block for 1h"),
        ),
        off,
    );
    let mut engine = before.assembly.engine();
    let ours = |actions: Vec<String>| -> Vec<String> {
        actions.into_iter().filter(|line| line.contains(r#""pack":"p""#)).collect()
    };
    let lines: Vec<String> = (0..3).map(|n| login(n, "203.0.113.7", "a")).collect();
    let first = ours(feed(&mut engine, &before, &batches(&lines)));
    assert_eq!(first.len(), 1, "{first:#?}");
    let bytes = engine.core.capture_all();
    let mut engine = restored(&after, &bytes, &engine.core.dictionary());
    let mut lines: Vec<String> = (3..5).map(|n| login(n, "203.0.113.7", "b")).collect();
    lines.extend((20..25).map(|n| login(n, "198.51.100.9", "c")));
    let start =
        batches(&lines).into_iter().map(|batch| Batch { start: batch.start + 100_000, ..batch });
    let then = ours(feed(&mut engine, &after, &start.collect::<Vec<_>>()));
    let short: Vec<String> = then
        .iter()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            format!("{} {} {}", line["op"], line["rule"], line["target"]["value"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        short,
        [
            "start stays 203.0.113.7",
            "end gone a@x.y",
            "start fresh 198.51.100.9",
            "start stays 198.51.100.9",
        ],
        "{then:#?}"
    );
    let ids = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    assert_eq!(ids(&then[1])["decision"], ids(&first[0])["id"]);
}

#[test]
fn what_is_given_up_is_the_same_in_every_process() {
    let house = House::new(RULES, "memory_limit: 1MiB\n");
    let mut lines = stream(541);
    for n in 0..4000 {
        let other = format!("198.{}.{}.", n % 200, n / 200);
        let line = lines[n % lines.len()].replace("203.0.113.", &other);
        lines.insert(n * 2 % lines.len(), line);
    }
    let all = batches(&lines);
    // The places of keys are drawn anew for each engine, as for each process.
    let one = feed(&mut house.assembly.engine(), &house, &all);
    for _ in 0..3 {
        let two = feed(&mut house.assembly.engine(), &house, &all);
        let same = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
        assert!(same == one.len(), "{same} of {}", one.len());
    }
}

/// A record that is held aside, written down and applied again after a restart was counted by the run
/// before, which alone may take it back.
#[test]
fn the_accounting_of_a_run_is_its_own() {
    let house = House::new(RULES, "");
    let login = |minute: i64| {
        crate::service::login(1_754_260_200_000_000 + minute * 60_000_000, "203.0.113.7", "a")
    };
    let days = 2 * 24 * 60;
    // The sixth lies two days ahead; the clock comes there with the eighth.
    let mut lines: Vec<String> = (0..5).map(login).collect();
    lines.extend((0..6).map(|n| login(days + n)));
    let all = batches(&lines);
    for stopped in 6..10 {
        let mut first = house.assembly.engine();
        first.core.journal = Some(Journal::default());
        feed(&mut first, &house, &all[..stopped]);
        let mut second = house.assembly.engine();
        replay(&mut second.core, &first.core.journal.take().unwrap(), None);
        second.core.forget_counts();
        feed(&mut second, &house, &all[stopped..]);
        second.finish();
        let (lines, records) = (&second.core.summary.lines, &second.core.summary.records);
        assert!(lines.closed() && records.closed(), "{stopped}: {lines:?} {records:?}");
        let left = u64::try_from(all.len() - stopped).unwrap();
        assert_eq!((lines.total, records.matched, records.future), (left, left, 0), "{stopped}");
    }
}

/// What was written down for a rule is nothing to another one of the same name, nor to those that share
/// its list.
#[test]
fn a_rule_that_watches_something_else_is_another_rule() {
    let house = |on: &str| {
        let stays = "  - { id: stays, title: t, on: FAILED_LOGIN, per: ip, when: count >= 4 within 1h, then: block for 1h }\n";
        let other = format!(
            "  - {{ id: other, title: t, on: {on}, per: ip, when: count > 99 within 9h, then: alert }}\n"
        );
        let once = format!(
            "  - {{ id: once, title: t, on: {on}, per: ip, when: count >= 4 within 1h, then: alert, once_per: request_id }}\n"
        );
        House::new(
            &format!("pack: p\nrules:\n{stays}{other}{once}"),
            "rules: { ip-blocking: off, failed-logins-per-ip: off }\n",
        )
    };
    let (before, after) = (house("SUCCESSFUL_LOGIN"), house("FAILED_LOGIN"));
    let start = 1_754_260_200_000_000;
    let lines: Vec<String> = (0..6)
        .map(|n| {
            let line = crate::service::login(start + n * 1_000_000, "203.0.113.7", "a");
            let line = line.replacen('{', &format!(r#"{{"request_id":"r-{n}","#), 1);
            if n < 3 {
                line.replace("FAILED_LOGIN: email=", "SUCCESSFUL_LOGIN: user_id=")
                    .replace(", reason=bad", "")
            } else {
                line
            }
        })
        .collect();
    let all = batches(&lines);
    let ours =
        |actions: Vec<String>| actions.into_iter().filter(|l| l.contains(r#""pack":"p""#)).count();
    // From a journal, and from a capture.
    let mut first = before.assembly.engine();
    first.core.journal = Some(Journal::default());
    assert_eq!(ours(feed(&mut first, &before, &all[..3])), 0);
    let names = first.core.dictionary();
    let mut second = after.assembly.engine();
    let by = Translation::between(&names, &second.core.dictionary());
    let journal = first.core.journal.take().unwrap();
    assert_eq!(replay(&mut second.core, &journal, by.as_ref()), [""; 0]);
    assert_eq!(ours(feed(&mut second, &after, &all[3..])), 0);
    let mut third = restored(&after, &first.core.capture_all(), &names);
    assert_eq!(ours(feed(&mut third, &after, &all[3..])), 0);
}

/// How long a key lasts is kept as a number too, which must not come to mean another length where the
/// window of another rule changes.
#[test]
fn a_key_lasts_as_long_although_the_window_of_another_rule_changes() {
    let house = |other: &str| {
        let slow = "{ id: slow, title: t, on: SUSPICIOUS_ACTIVITY, per: type, when: count >= 3 within 50m, then: alert }";
        let other = format!(
            "{{ id: other, title: t, on: SUCCESSFUL_LOGIN, per: ip, when: count > 99 within {other}, then: alert }}"
        );
        House::new(&format!("pack: p\nrules:\n  - {slow}\n  - {other}\n"), "")
    };
    let (before, after) = (house("50m"), house("2m"));
    let start = 1_754_260_200_000_000;
    let login = |n: i64| {
        let ip = format!("203.0.113.{}", n % 200);
        crate::service::login(start + n * 2_000_000, &ip, "a")
    };
    let suspicious = |n: i64| {
        let (head, _) =
            login(n).split_once("FAILED_LOGIN").map(|(a, b)| (a.to_owned(), b.len())).unwrap();
        format!("{head}SUSPICIOUS_ACTIVITY: type=probe, details={{}}\"}}")
    };
    let mut lines: Vec<String> = (0..10).map(login).collect();
    lines.extend([suspicious(10), suspicious(11)]);
    let stopped = lines.len();
    // Half an hour passes.
    lines.extend((12..1000).map(login));
    lines.push(suspicious(1000));
    let all = batches(&lines);
    let slow =
        |told: Vec<String>| told.iter().filter(|line| line.contains(r#""rule":"slow""#)).count();
    let mut first = before.assembly.engine();
    assert_eq!(slow(feed(&mut first, &before, &all[..stopped])), 0);
    let mut second = restored(&after, &first.core.capture_all(), &first.core.dictionary());
    assert_eq!(slow(feed(&mut second, &after, &all[stopped..])), 1);
}
