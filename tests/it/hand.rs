//! Orders of people: what follows from them, what guards say, and that they are the same when they are
//! read again from a journal or a captured state.

use portcullis::action::order::{Order, What};
use portcullis::action::{Action, Target};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decide::board::Board;
use portcullis::engine::ask::Spared;
use portcullis::engine::core::Core;
use portcullis::engine::entry::{Journal, take_entry};
use portcullis::engine::order::Engine;
use portcullis::source::Batch;
use portcullis::window::codec::Reader;
use portcullis::yaml::Document;

const SECOND: i64 = 1_000_000;
/// The time of the first line: 2025-08-03T22:30:00Z.
const START: i64 = 1_754_260_200 * SECOND;

fn assembly(config: &str) -> Assembly {
    let mut settings = Settings::default();
    let problems = settings.apply(&Document { name: "config".into(), text: config.into() });
    assert!(problems.is_empty(), "{problems:?}");
    let own = ["198.18.0.1".parse().unwrap()];
    Assembly::new(&settings, &own).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn failures(
    assembly: &Assembly,
    engine: &mut Engine,
    from: i64,
    count: i64,
    ip: &str,
) -> Vec<Action> {
    for second in from..from + count {
        let time = portcullis::decode::time::format(START + second * SECOND);
        let line =
            format!("{time} [WARN] FAILED_LOGIN: email=anna@example.org, ip={ip}, reason=bad\n");
        let batch = Batch { bytes: line.into_bytes(), ..Batch::default() };
        engine.apply_batch(assembly.scanner.scan(batch), None);
    }
    engine.take_actions()
}

fn order(what: What, kind: &str, value: &str, second: i64) -> Order {
    Order {
        what,
        target: Target { kind: kind.to_owned(), value: Some(value.to_owned()) },
        by: "ops".to_owned(),
        because: "a reason".to_owned(),
        at: START + second * SECOND,
        force: false,
    }
}

const HOUR: What = What::Block { lasting: 3600 * SECOND };
const LIFT: What = What::Lift { grace: 600 * SECOND };

fn lines(actions: &[Action]) -> Vec<String> {
    let short = |line: &Action| {
        let guard = line.guard.unwrap_or_default();
        format!("{} {} {} {guard}", line.op.name(), line.action, line.target.text())
            .trim_end()
            .to_owned()
    };
    actions.iter().map(short).collect()
}

/// The blocks among them.
fn blocks(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|line| line.action == "block").collect()
}

#[test]
fn a_block_by_hand_is_a_line_like_any_other() {
    let assembly = assembly("");
    let mut core = assembly.engine().core;
    let carried = core.order(&order(HOUR, "ip", "203.0.113.9", 0));
    assert_eq!(carried.refused, None);
    let line = core.take_actions().remove(0).json();
    let want = concat!(
        r#"{"schema":1,"id":"ID","decision":"ID","time":"2025-08-03T22:30:00.000000Z","op":"start","action":"block","#,
        r#""target":{"kind":"ip","value":"203.0.113.9"},"duration_s":3600,"until":"2025-08-03T23:30:00.000000Z","#,
        r#""rule":"manual","pack":"portcullis","mode":"enforce","reason":"block by ops: a reason"}"#,
    );
    let id = core.standing()[0].id.clone();
    assert_eq!(line, want.replace("ID", &id));
    // A second one makes it longer, and says to which it belongs.
    core.order(&order(HOUR, "ip", "203.0.113.9", 60));
    let line = core.take_actions().remove(0);
    assert_eq!((line.op.name(), line.decision.as_deref()), ("extend", Some(id.as_str())));
    assert_eq!(line.until.as_deref(), Some("2025-08-03T23:31:00.000000Z"));
    assert_ne!(line.id, id);
    // It ends when its time is up.
    core.idle_until(START + 3700 * SECOND);
    assert_eq!(lines(&core.take_actions()), ["end block 203.0.113.9"]);
}

#[test]
fn guards_stand_before_people_too_unless_they_insist() {
    let assembly = assembly(
        "allow:\n  - { ip: 203.0.113.64/26, comment: office }\n  - { user: boss@example.org, comment: b }\n",
    );
    let mut core = assembly.engine().core;
    let lock = What::Lock { lasting: SECOND };
    for (what, kind, value, guard) in [
        (HOUR, "ip", "127.0.0.1", "never_block"),
        (HOUR, "ip", "198.18.0.1", "never_block"),
        (HOUR, "range", "10.1.0.0/16", "never_block"),
        (HOUR, "ip", "203.0.113.70", "allow"),
        // A prefix that holds somebody who is allowed.
        (HOUR, "range", "203.0.113.0/24", "allow"),
        (lock, "user", "boss@example.org", "allow"),
        // Whoever sends chooses the bits of such an address; rules only alert on it.
        (HOUR, "ip", "2001:0:1::1", "no_single_host"),
        (HOUR, "range", "2001::/32", "no_single_host"),
        (HOUR, "ip", "::5.6.7.8", "no_single_host"),
    ] {
        let order = order(what, kind, value, 0);
        let refused = core.order(&order).refused.unwrap_or_else(|| panic!("{value} is acted on"));
        assert!(refused.contains(guard), "{value}: {refused}");
        assert_eq!(lines(&core.take_actions()), [""; 0]);
        let forced = core.order(&Order { force: true, ..order });
        assert_eq!((forced.refused, forced.actions.len()), (None, 1), "{value}");
        assert!(core.take_actions()[0].reason.contains("against the guards"));
    }
}

#[test]
fn what_is_lifted_stays_lifted_for_a_while_and_then_counts_anew() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    let block = blocks(failures(&assembly, &mut engine, 0, 21, "203.0.113.9"));
    assert_eq!(lines(&block)[0], "start block 203.0.113.9");
    let carried = engine.core.order(&order(LIFT, "ip", "203.0.113.9", 30));
    assert!(carried.lifted.iter().any(|one| one.action == "block"), "{carried:?}");
    let ends = blocks(engine.take_actions());
    assert_eq!(lines(&ends), ["end block 203.0.113.9"]);
    assert_eq!(ends[0].time, "2025-08-03T22:30:30.000000Z");
    assert_eq!(ends[0].reason, "block of 203.0.113.9 lifted by ops: a reason");
    assert_eq!(ends[0].decision, block[0].decision);
    // Ten minutes of grace.
    let spared = blocks(failures(&assembly, &mut engine, 40, 30, "203.0.113.9"));
    assert!(lines(&spared).contains(&"withheld block 203.0.113.9 grace".to_owned()), "{spared:?}");
    let again = blocks(failures(&assembly, &mut engine, 640, 21, "203.0.113.9"));
    assert!(lines(&again).contains(&"start block 203.0.113.9".to_owned()), "{again:?}");
    // An alert is told in any case; it locks nobody out.
    assert_eq!(engine.core.order(&order(LIFT, "ip", "192.0.2.1", 700)).lifted, []);
    // None takes the place of one that was given before.
    engine.core.order(&order(LIFT, "ip", "203.0.113.9", 1300));
    engine.core.order(&order(What::Lift { grace: 0 }, "ip", "203.0.113.9", 1301));
    engine.take_actions();
    let at_once = blocks(failures(&assembly, &mut engine, 1310, 21, "203.0.113.9"));
    assert!(lines(&at_once).contains(&"start block 203.0.113.9".to_owned()), "{at_once:?}");
}

#[test]
fn an_address_is_lifted_with_the_range_that_it_lies_in() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    let block = blocks(failures(&assembly, &mut engine, 0, 21, "2001:db8:1:2::9"));
    assert_eq!(lines(&block)[0], "start block 2001:db8:1:2::/64");
    assert_eq!(block[0].hosts, ["2001:db8:1:2::9".parse::<std::net::IpAddr>().unwrap()]);
    engine.core.order(&order(LIFT, "ip", "2001:db8:1:2::77", 30));
    assert_eq!(lines(&blocks(engine.take_actions())), ["end block 2001:db8:1:2::/64"]);
}

#[test]
fn who_names_a_role_means_that_account_only() {
    let lock = What::Lock { lasting: 3600 * SECOND };
    let held = |core: &mut Core| {
        for kind in ["user", "user_id"] {
            core.order(&order(lock, kind, "bob", 0));
        }
        core.take_actions();
    };
    let standing = |core: &Core| -> Vec<String> {
        core.standing().into_iter().map(|one| one.target.kind).collect()
    };
    let assembly = assembly("allow: [{ user: root }]\n");
    for (what, guard) in [(LIFT, "grace"), (What::Allow { until: None }, "allow")] {
        for (named, other) in [("user", "user_id"), ("user_id", "user")] {
            let mut core = assembly.engine().core;
            held(&mut core);
            let carried = core.order(&order(what, named, "bob", 10));
            assert_eq!(carried.lifted.len(), 1, "{guard} {named}");
            assert_eq!(standing(&core), [other], "{guard} {named}");
            let asked =
                |kind: &str| Target { kind: kind.to_owned(), value: Some("bob".to_owned()) };
            assert_eq!(core.why(&asked(named), START + 11 * SECOND).decisions, []);
            // What is spared or allowed is that account too, and that lasts.
            let bytes = core.capture_all();
            let mut again = assembly.engine().core;
            again.restore(&bytes, &core.dictionary()).unwrap();
            for core in [&mut core, &mut again] {
                let why = |kind: &str| core.why(&asked(kind), START + 11 * SECOND).guard;
                assert_eq!((why(named), why(other)), (Some(guard), None), "{named}");
            }
        }
    }
    // The settings name no role: their entries protect both, and are not taken out by hand.
    let mut core = assembly.engine().core;
    for kind in ["user", "user_id"] {
        let refused = core.order(&order(lock, kind, "root", 0)).refused.unwrap();
        assert!(refused.contains("allow"), "{refused}");
        let refused = core.order(&order(What::Disallow, kind, "root", 1)).refused.unwrap();
        assert!(refused.contains("configuration"), "{refused}");
    }
}

#[test]
fn an_entry_by_hand_lifts_protects_and_can_be_taken_away() {
    let assembly = assembly("allow: [{ ip: 192.0.2.1, comment: c }]\n");
    let mut engine = assembly.engine();
    failures(&assembly, &mut engine, 0, 21, "203.0.113.9");
    let allow = What::Allow { until: Some(START + 1000 * SECOND) };
    let carried = engine.core.order(&order(allow, "range", "203.0.113.0/28", 30));
    assert_eq!(carried.lifted.iter().filter(|one| one.action == "block").count(), 1);
    engine.take_actions();
    let held = blocks(failures(&assembly, &mut engine, 40, 30, "203.0.113.9"));
    assert!(lines(&held).contains(&"withheld block 203.0.113.9 allow".to_owned()), "{held:?}");
    engine.core.order(&order(LIFT, "user", "mallory", 70));
    let spared = |core: &Core, at: i64| {
        let told = |one: Spared| {
            let until = one.until.unwrap_or_default();
            format!(
                "{:?} {} {}: {} {until}",
                one.by,
                one.target.kind,
                one.target.text(),
                one.because
            )
        };
        core.spared(START + at * SECOND).into_iter().map(told).collect::<Vec<_>>()
    };
    let (office, hand, lift) = (
        "Configuration ip 192.0.2.1: c ",
        "Hand range 203.0.113.0/28: ops: a reason 2025-08-03T22:46:40.000000Z",
        "Lift user mallory:  2025-08-03T22:41:10.000000Z",
    );
    assert_eq!(spared(&engine.core, 60), [office, hand, lift]);
    // What has ended is none.
    assert_eq!(spared(&engine.core, 700), [office, hand]);
    assert_eq!(spared(&engine.core, 1000), [office]);
    // It ends by itself, or is taken away.
    let later = blocks(failures(&assembly, &mut engine, 1000, 21, "203.0.113.9"));
    assert!(lines(&later).contains(&"start block 203.0.113.9".to_owned()), "{later:?}");
    let disallow = |value, at| order(What::Disallow, "range", value, at);
    assert_eq!(engine.core.order(&disallow("203.0.113.0/28", 1100)).refused, None);
    let again = engine.core.order(&disallow("203.0.113.0/28", 1101)).refused.unwrap();
    assert!(again.contains("no such entry"), "{again}");
    let own = engine.core.order(&order(What::Disallow, "ip", "192.0.2.1", 1102)).refused.unwrap();
    assert!(own.contains("configuration"), "{own}");
}

#[test]
fn what_is_granted_holds_as_long_where_records_are_ahead_of_the_wall_clock() {
    // As where times are local, and taken for UTC.
    let hours_ago = -7200;
    let assembly = assembly("");
    let mut engine = assembly.engine();
    failures(&assembly, &mut engine, 0, 21, "203.0.113.9");
    engine.core.order(&order(LIFT, "ip", "203.0.113.9", hours_ago));
    let until = Some(START + (hours_ago + 600) * SECOND);
    engine.core.order(&order(What::Allow { until }, "ip", "203.0.113.10", hours_ago));
    let block = engine.core.order(&order(HOUR, "ip", "203.0.113.11", hours_ago));
    assert_eq!(block.actions[0].until.as_deref(), Some("2025-08-03T23:30:18.000000Z"));
    engine.take_actions();
    let spared = |ip: &str, engine: &mut Engine, from| {
        let started = |line: &&Action| line.target.text() == ip && line.op.name() == "start";
        let all = blocks(failures(&assembly, engine, from, 25, ip));
        all.iter().find(started).is_none()
    };
    for ip in ["203.0.113.9", "203.0.113.10"] {
        assert!(spared(ip, &mut engine, 300), "{ip}");
        assert!(!spared(ip, &mut engine, 700), "{ip}");
    }
    let held = |engine: &Engine| engine.core.standing().iter().any(|d| d.rule == "manual");
    assert!(held(&engine));
    failures(&assembly, &mut engine, 3700, 5, "203.0.113.12");
    assert!(!held(&engine));
}

#[test]
fn why_says_what_is_counted_and_when_it_is_too_old() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    failures(&assembly, &mut engine, 0, 4, "203.0.113.9");
    let target = Target { kind: "ip".to_owned(), value: Some("203.0.113.9".to_owned()) };
    let why = engine.core.why(&target, START + 408 * SECOND);
    let own = why.counters.iter().find(|counter| counter.rule == "ip-blocking").unwrap();
    assert_eq!((own.count, own.needed, own.oldest_expires_s), (4, 21, Some(3600 - 408)));
    assert_eq!(own.sentence, "4 of 21 FAILED_LOGIN within 1h, the oldest expires in 53m12s");
    assert_eq!(own.users.as_ref().unwrap().sample, ["anna@example.org"]);
    assert_eq!(own.reasons, [("bad".to_owned(), 4)]);
    // To ask changes nothing.
    let after = blocks(failures(&assembly, &mut engine, 409, 17, "203.0.113.9"));
    assert!(lines(&after).contains(&"start block 203.0.113.9".to_owned()), "{after:?}");
    let why = engine.core.why(&target, START + 430 * SECOND);
    assert!(why.decisions.iter().any(|decision| decision.action == "block"));
    assert!(!why.counters.iter().any(|counter| counter.rule == "ip-blocking"), "it used them up");
    let own = Target { value: Some("127.0.0.1".to_owned()), ..target };
    assert_eq!(engine.core.why(&own, START).guard, Some("never_block"));
    let own = Target { value: Some("2001:0:1::1".to_owned()), ..own };
    assert_eq!(engine.core.why(&own, START).guard, Some("no_single_host"));
}

#[test]
fn what_was_prolonged_in_silence_is_told_until_it_is_over() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    engine.core.watch_ends();
    failures(&assembly, &mut engine, 0, 10, "203.0.113.9");
    engine.core.take_prolonged();
    // The alerts' rules cross again.
    failures(&assembly, &mut engine, 10, 10, "203.0.113.9");
    let until: Vec<i64> = engine.core.take_prolonged().into_values().collect();
    assert!(until.contains(&(START + (19 + 3600) * SECOND)), "{until:?}");
    assert!(engine.core.take_prolonged().is_empty());
    failures(&assembly, &mut engine, 20, 10, "203.0.113.9");
    engine.core.idle_until(START + 40 * 86_400 * SECOND);
    // Whoever is told only now must not wait for an end that was said before.
    assert!(engine.core.take_prolonged().is_empty());
}

/// Orders and records, one after the other; the lines that follow.
fn history(assembly: &Assembly, engine: &mut Engine) -> Vec<Action> {
    let mut all = failures(assembly, engine, 0, 21, "203.0.113.9");
    let orders = [
        order(LIFT, "ip", "203.0.113.9", 30),
        order(HOUR, "range", "203.0.113.0/24", 31),
        order(What::Lock { lasting: 60 * SECOND }, "user", "bob", 32),
        order(What::Require2fa { lasting: 60 * SECOND }, "user_id", "u-1", 33),
        order(What::Allow { until: None }, "user", "bob", 34),
        order(What::Allow { until: Some(START) }, "ip", "192.0.2.9", 35),
        order(What::Disallow, "ip", "192.0.2.9", 36),
        Order { force: true, ..order(HOUR, "ip", "127.0.0.1", 37) },
        order(HOUR, "range", "203.0.113.0/24", 38),
    ];
    for order in &orders {
        engine.core.order(order);
        all.extend(engine.take_actions());
    }
    all.extend(failures(assembly, engine, 40, 30, "203.0.113.9"));
    engine.core.lift_allowed(START + 80 * SECOND);
    all.extend(engine.take_actions());
    all
}

fn replayed(mut core: Core, journal: &Journal) -> (Core, Vec<String>) {
    let mut from = Reader::new(&journal.bytes);
    while !from.is_empty() {
        core.apply(take_entry(&mut from, None).expect("an entry"));
    }
    let lines = core.take_actions().iter().map(Action::json).collect();
    (core, lines)
}

#[test]
fn a_journal_and_a_captured_state_hold_orders_too() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    engine.core.journal = Some(Journal::default());
    let told: Vec<String> = history(&assembly, &mut engine).iter().map(Action::json).collect();
    let journal = engine.core.journal.take().unwrap();
    let (mut again, replay) = replayed(assembly.engine().core, &journal);
    assert_eq!(replay, told);
    assert_eq!(again.standing(), engine.core.standing());
    // What was captured goes on as what was not: grace and entries by hand are in it.
    let bytes = again.capture_all();
    let mut restored = assembly.engine();
    restored.core.restore(&bytes, &again.dictionary()).unwrap();
    let mut standing = engine.core.standing();
    // The sentence of a start is not kept.
    standing.iter_mut().for_each(|one| one.reason.clear());
    let mut now = restored.core.standing();
    now.iter_mut().for_each(|one| one.reason.clear());
    assert_eq!(now, standing);
    for engine in [&mut engine, &mut restored] {
        let held = blocks(failures(&assembly, engine, 90, 30, "203.0.113.9"));
        assert!(lines(&held).iter().all(|line| !line.starts_with("start block")), "{held:?}");
    }
}

#[test]
fn a_late_crossing_of_what_has_ended_is_in_force_again() {
    let assembly = assembly("");
    let mut engine = assembly.engine();
    let board = Board::default();
    engine.core.order(&order(What::Block { lasting: 30 * SECOND }, "ip", "203.0.113.9", 0));
    board.apply(&engine.take_actions());
    assert_eq!(board.len(), 1);
    // Others carry the clock past its end.
    let mut all = failures(&assembly, &mut engine, 40, 5, "198.51.100.1");
    assert_eq!(lines(&blocks(all.clone())), ["end block 203.0.113.9"]);
    board.apply(&all);
    assert_eq!(board.active().iter().filter(|one| one.action == "block").count(), 0);
    // Late, and before that end.
    all = failures(&assembly, &mut engine, 4, 21, "203.0.113.9");
    assert_eq!(lines(&blocks(all.clone())), ["extend block 203.0.113.9"]);
    let last = board.last();
    board.apply(&all);
    let active = board.active();
    let block = active.iter().find(|one| one.action == "block").expect("it is in force");
    assert_eq!(block.until, START + (24 + 86_400) * SECOND);
    let begun = board.changes_after(last).unwrap();
    assert!(begun.iter().any(|change| change.decision.id == block.id));
}
