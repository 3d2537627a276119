//! SIGHUP: rules that change while a stream runs. What stays keeps its windows, what goes keeps its
//! decisions until they end, mistakes change nothing, and no line is lost or counted twice, whatever is
//! on its way at that moment.

use crate::service::{
    Dice, MINUTE, RULES, SECOND, START, Service, assert_same, busy, config, login, number,
    replayed, until,
};
use std::fs;
use std::time::{Duration, Instant};

const LOG: &str = "app.log";
const ACTIONS: &str = "actions.jsonl";

/// With and without what lasts, with one thread and several.
fn ways() -> Vec<String> {
    let mut ways = Vec::new();
    for state in ["", "state_dir: ./state\n"] {
        for threads in ["threads: 1\n", "threads: 2\nblock: 512\n"] {
            ways.push(format!("{state}{threads}"));
        }
    }
    ways
}

fn service(way: &str, rules: &str) -> Service {
    Service::new(
        &config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\n{way}sinks:\n  - file: {{ path: {ACTIONS} }}\n"
        )),
        rules,
    )
}

fn rules(rules: &[&str]) -> String {
    let rules: String = rules
        .iter()
        .map(|rule| format!("  - {{ title: t, on: FAILED_LOGIN, {rule} }}\n"))
        .collect();
    format!("pack: p\nrules:\n{rules}")
}

const BLOCK: &str = "id: block, per: ip, when: count > 20 within 1h, then: block for 1h";
const GONE: &str = "id: gone, per: user, when: count >= 2 within 1h, then: lock for 10m";
const FRESH: &str = "id: fresh, per: ip, when: count >= 3 within 2h, then: alert for 1h";

/// What happened, in short.
fn short(lines: &[String]) -> Vec<String> {
    let short = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        format!("{} {} {}", line["op"], line["rule"], line["target"]["value"]).replace('"', "")
    };
    lines.iter().map(short).collect()
}

/// `n` failed logins, a second apart from second `from` on, each of a user of its own.
fn failures(from: i64, n: i64, ip: &str) -> String {
    (from..from + n).map(|s| login(START + s * SECOND, ip, &format!("u{s}")) + "\n").collect()
}

#[test]
fn what_stays_keeps_its_windows_and_what_goes_keeps_its_decisions() {
    for way in ways() {
        let mut service = service(&way, &rules(&[GONE, BLOCK]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        service.append(LOG, &failures(0, 15, "203.0.113.7"));
        let anna = |second: i64| login(START + second * SECOND, "198.51.100.1", "anna") + "\n";
        service.append(LOG, &(anna(16) + &anna(17)));
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 1, &|| way.clone());
        // The rule that stays gets another number; another one comes before it.
        service.write("rules.yaml", &rules(&[FRESH, BLOCK]));
        running.signal("HUP");
        running.wait_until_it_says("reloaded: 2 rules");
        service.append(LOG, &failures(20, 5, "203.0.113.7"));
        // Mistakes change nothing.
        service
            .write("rules.yaml", &rules(&["id: block, per: ip, when: count >> 20, then: block"]));
        running.signal("HUP");
        running.wait_until_it_says("a reload was refused: the rules of before go on");
        assert!(running.said().contains("rules.yaml:3:"), "{}", running.said());
        service.append(LOG, &failures(30, 1, "203.0.113.7"));
        until(|| running.goes_on() && service.lines(ACTIONS).len() >= 3, &|| way.clone());
        // The lock of the rule that is gone ends when it should.
        service.append(LOG, &failures(17 + 600, 3, "192.0.2.1"));
        until(|| running.goes_on() && service.lines(ACTIONS).len() >= 5, &|| way.clone());
        let said = running.stop();
        let got = service.lines(ACTIONS);
        let want = [
            "start gone anna@example.org",
            "start fresh 203.0.113.7",
            "start block 203.0.113.7",
            "end gone anna@example.org",
            "start fresh 192.0.2.1",
        ];
        let mut happened = short(&got);
        // An end may stand elsewhere among the others.
        happened.sort();
        let mut want: Vec<String> = want.map(str::to_owned).into();
        want.sort();
        assert_eq!(happened, want, "{way}{said}");
        let block = got.iter().find(|line| line.contains(r#""rule":"block""#)).unwrap();
        assert!(block.contains(r#""count":21,"#), "{block}");
        assert!(block.contains(r#""time":"2025-08-03T22:30:30.000000Z""#), "{block}");
    }
}

#[test]
fn what_is_held_while_rules_change_is_counted_as_what_becomes_of_it() {
    for way in ways() {
        let mut service = service(&way, &rules(&[FRESH]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        let far = login(START + 30 * 60 * MINUTE, "192.0.2.1", "far") + "\n";
        let before = failures(0, 5, "203.0.113.7") + &far + &failures(10, 3, "203.0.113.8");
        service.append(LOG, &before);
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 2, &|| way.clone());
        service.write("rules.yaml", &rules(&[FRESH, BLOCK]));
        running.signal("HUP");
        running.wait_until_it_says("reloaded: 2 rules");
        // Now it is less than a day ahead.
        service.append(LOG, &failures(7 * 3600, 6, "203.0.113.9"));
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 5, &|| way.clone());
        let said = running.stop();
        let summary = said.lines().find(|line| line.starts_with('{')).unwrap();
        let summary: serde_json::Value = serde_json::from_str(summary).unwrap();
        for of in ["lines", "records"] {
            assert_eq!(summary[of]["matched"], 15, "{way}{of}: {summary}");
            assert_eq!(summary[of]["future"].as_u64().unwrap_or(0), 0, "{way}{of}: {summary}");
        }
    }
}

#[test]
fn the_file_of_a_sink_that_was_rotated_is_opened_anew() {
    for way in ways() {
        let mut service = service(&way, &rules(&[FRESH]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        for n in 0..4 {
            service.append(LOG, &failures(n * 10, 3, &format!("203.0.113.{n}")));
            until(|| running.goes_on() && service.lines(ACTIONS).len() == 1, &|| way.clone());
            fs::rename(service.path(ACTIONS), service.path(&format!("{ACTIONS}.{n}"))).unwrap();
            running.signal("HUP");
            until(|| running.goes_on() && service.path(ACTIONS).exists(), &|| way.clone());
        }
        running.stop();
        let mut got: Vec<String> = Vec::new();
        for n in 0..4 {
            got.extend(service.lines(&format!("{ACTIONS}.{n}")));
        }
        let starts: Vec<String> = (0..4).map(|n| format!("start fresh 203.0.113.{n}")).collect();
        assert_eq!(short(&got), starts, "{way}");
        assert_eq!(service.lines(ACTIONS), [""; 0]);
    }
}

/// The rules that the lines are compared by, and among them, in either of two forms, some that never
/// fire: all others get other numbers, share their windows with others, and need other fields.
fn with_more(form: usize) -> String {
    let (before, after) = RULES.split_once("rules:\n").unwrap();
    let never = [
        "  - { id: never, title: t, on: FAILED_LOGIN, per: ip, when: count > 9999 within 9h, then: alert for 50m }\n",
        "  - { id: never, title: t, on: SUCCESSFUL_LOGIN, per: [ip, user], when: count > 9999 within 1h, then: alert for 50m }\n\
        \x20 - { id: either, title: t, on: FAILED_LOGIN, per: [user, reason], when: distinct(ip) > 9999 within 5h, then: alert for 50m }\n",
    ];
    match form % 3 {
        0 => RULES.to_owned(),
        1 => format!("{before}rules:\n{}{after}", never[0]),
        _ => format!("{before}rules:\n{}{}{}", after.trim_end(), "\n", never[1]),
    }
}

/// Lines come all the time, rules change all the time, and in between it is killed: so journals are
/// written by one set of rules and read by another.
fn under_way(settings: &str, rounds: usize, kills: bool) {
    let mut dice = Dice(rounds as u64);
    let lines = busy(&mut dice, rounds * 100 + 1000);
    let mut service = service(&format!("{settings}checkpoint: 1s\n"), RULES);
    service.append(LOG, "");
    let mut next = 0;
    let mut form = 0;
    let mut running = service.start();
    running.wait_until_it_says(": following");
    let mut reloads = 0;
    for _ in 0..rounds {
        let (start, time) = (Instant::now(), Duration::from_millis(dice.below(120) as u64));
        while start.elapsed() < time {
            let end = (next + dice.below(20)).min(lines.len() - 500);
            let piece: String = lines[next..end].iter().map(|line| format!("{line}\n")).collect();
            next = end;
            service.append(LOG, &piece);
            if dice.percent(12) {
                form += 1 + dice.below(2);
                service.write("rules.new", &with_more(form));
                fs::rename(service.path("rules.new"), service.path("rules.yaml")).unwrap();
                reloads += 1;
                running.signal("HUP");
            }
            std::thread::sleep(Duration::from_micros(dice.below(9000) as u64));
        }
        if kills {
            running.kill();
            running = service.start();
            // Before it listens, it would end by the signal; from then on it may come at any moment.
            until(
                || {
                    let said = running.said();
                    running.goes_on()
                        && (said.contains("went on from") || said.contains(": following"))
                },
                &String::new,
            );
        }
    }
    let rest: String = lines[next..].iter().map(|line| format!("{line}\n")).collect();
    service.append(LOG, &rest);
    service.write("rules.yaml", RULES);
    let want = replayed(&service, &lines);
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= want.len(), &|| {
        format!("{} of {}", service.lines(ACTIONS).len(), want.len())
    });
    let said = running.stop();
    assert!(!said.contains("ERROR"), "{said}");
    println!("{reloads} reloads, {} actions", want.len());
    assert_same(&service.lines(ACTIONS), &want, &format!("{settings}{said}"));
}

#[test]
fn lines_that_are_on_their_way_are_counted_once_by_whatever_rules() {
    for way in ways() {
        under_way(&way, number("KILL_ROUNDS", 300) / 15, false);
    }
}

#[test]
fn a_kill_between_two_sets_of_rules_changes_nothing() {
    for way in ways().iter().filter(|way| way.contains("state_dir")) {
        under_way(way, number("KILL_ROUNDS", 300) / 5, true);
    }
}

/// A decision that ended while the stream was idle is not ended again after a restart.
#[test]
fn an_end_that_was_said_in_idleness_is_said_once() {
    let quick = "id: quick, per: ip, when: count >= 3 within 1h, then: alert for 1m";
    let mut service = service("state_dir: ./state\n", &rules(&[quick]));
    service.append(LOG, "");
    let mut running = service.start();
    running.wait_until_it_says(": following");
    service.append(LOG, &failures(0, 3, "203.0.113.7"));
    // The clock comes to within two seconds of the end; the rest passes by itself.
    service.append(
        LOG,
        &failures(60, 3, "198.51.100.1").replace("FAILED_LOGIN: ", "FAILED_LOGIN: drifted "),
    );
    let near: String = (0..5)
        .map(|n| {
            let time = portcullis::decode::time::format(START + MINUTE + n);
            format!(r#"{{"timestamp":"{time}","logger":"security","message":"SUCCESSFUL_LOGIN: user_id=u{n}, ip=192.0.2.{n}"}}"#) + "\n"
        })
        .collect();
    service.append(LOG, &near);
    let ends = |service: &Service| {
        short(&service.lines(ACTIONS))
            .iter()
            .filter(|line| *line == "end quick 203.0.113.7")
            .count()
    };
    until(|| running.goes_on() && ends(&service) == 1, &|| "no end".into());
    for _ in 0..3 {
        running.kill();
        running = service.start();
        running.wait_until_it_says(": following");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(ends(&service), 1);
    }
    // Nor by the lines that come when its time has passed.
    service.append(LOG, &failures(100, 6, "198.51.100.2"));
    let more = |service: &Service| {
        short(&service.lines(ACTIONS)).contains(&"start quick 198.51.100.2".to_owned())
    };
    until(|| running.goes_on() && more(&service), &|| "it does not go on".into());
    running.stop();
    assert_eq!(ends(&service), 1);
}

#[test]
fn a_mistake_or_a_file_that_is_gone_changes_nothing_and_is_said() {
    let rule = "  - { id: stays, title: t, on: FAILED_LOGIN, per: ip, when: 'count > 20 within 1h', then: block for 50m }\n";
    let text = "state_dir: ./state\nsource: { files: [app.log], follow: true }\nsinks:\n  - file: { path: actions.jsonl }\n";
    let mut service = Service::new(&config(text), &format!("pack: p\nrules:\n{rule}"));
    service.append("app.log", "");
    let mut running = service.start();
    running.wait_until_it_says("following");
    service.append("app.log", &failures(0, 15, "203.0.113.7"));
    service.write("rules.yaml", "pack: p\nrules:\n  - { id: stays, titel: t }\n");
    running.signal("HUP");
    running.wait_until_it_says("a reload was refused");
    assert!(running.said().contains("`title`"), "{}", running.said());
    // The defaults are not what anybody asked for.
    fs::rename(service.path("portcullis.yaml"), service.path("elsewhere.yaml")).unwrap();
    running.signal("HUP");
    running.wait_until_it_says("is gone");
    service.append("app.log", &failures(15, 6, "203.0.113.7"));
    let blocks = |service: &Service| service.lines("actions.jsonl").len();
    until(|| running.goes_on() && blocks(&service) == 1, &|| {
        format!("{:?}", service.lines("actions.jsonl"))
    });
    fs::rename(service.path("elsewhere.yaml"), service.path("portcullis.yaml")).unwrap();
    running.stop();
}

#[test]
fn whoever_comes_onto_the_allowlist_is_let_go_at_once() {
    for way in ways() {
        let mut service = service(&way, &rules(&[GONE, BLOCK]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        for ip in ["203.0.113.7", "203.0.113.200", "198.51.100.1"] {
            service.append(LOG, &failures(0, 21, ip));
        }
        let anna = login(START + 21 * SECOND, "192.0.2.1", "anna") + "\n";
        service.append(LOG, &anna.repeat(2));
        // Every user of the failures was tried from three addresses.
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 25, &|| way.clone());
        let before = fs::read_to_string(service.path("portcullis.yaml")).unwrap();
        let allow = "allow:\n  - { ip: 203.0.113.0/25, comment: office }\n  - { user: anna@example.org, comment: a }\n";
        service.write("portcullis.yaml", &format!("{before}{allow}"));
        running.signal("HUP");
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 27, &|| way.clone());
        let mut lifted = short(&service.lines(ACTIONS)[25..]);
        lifted.sort();
        assert_eq!(lifted, ["end block 203.0.113.7", "end gone anna@example.org"], "{way}");
        let line = service.lines(ACTIONS)[25..].join("");
        assert!(line.contains("block of 203.0.113.7 lifted: it is on the allowlist now"), "{line}");
        running.stop();
        // They are let go of only once, also after a restart.
        if way.starts_with("state") {
            service.catch_up(LOG);
            assert_eq!(service.lines(ACTIONS).len(), 27);
            service.verify();
        }
    }
}

#[test]
fn decisions_made_before_a_kill_outlive_the_rules_that_made_them() {
    let changed = [
        // Gone, and one that would have fired elsewhere.
        rules(&[FRESH, "id: block, per: ip, when: count > 5 within 1h, then: block for 2h"]),
        // None of them would have fired.
        rules(&["id: block, per: ip, when: count > 90 within 1h, then: block for 1m"]),
        // The same times, other lengths.
        rules(&[
            "id: gone, per: user, when: count >= 2 within 1h, then: lock for 1m",
            "id: block, per: ip, when: count > 20 within 1h, then: block for 9h",
        ]),
    ];
    for changed in changed {
        let mut service = service("state_dir: ./state\ncheckpoint: 1h\n", &rules(&[GONE, BLOCK]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        service.append(LOG, &failures(0, 21, "203.0.113.7"));
        let anna = login(START + 21 * SECOND, "192.0.2.1", "anna") + "\n";
        service.append(LOG, &anna.repeat(2));
        until(|| running.goes_on() && service.has_read(LOG), &String::new);
        until(|| running.goes_on() && service.lines(ACTIONS).len() == 2, &String::new);
        running.kill();
        let (before, _) = service.decisions();
        service.write("rules.yaml", &changed);
        service.catch_up(LOG);
        let (after, _) = service.decisions();
        for decision in &before {
            let same = after.iter().filter(|other| other.value == decision.value);
            let same: Vec<_> = same.filter(|other| other.action == decision.action).collect();
            assert_eq!(same, [decision], "{changed}{:#?}", service.lines(ACTIONS));
        }
        // Each ends when it was said that it would.
        service.append(LOG, &failures(7200, 3, "198.51.100.9"));
        service.catch_up(LOG);
        let ends: Vec<String> = service
            .lines(ACTIONS)
            .into_iter()
            .filter(|line| line.contains(r#""op":"end""#))
            .collect();
        for decision in &before {
            let own: Vec<&String> =
                ends.iter().filter(|line| line.contains(&decision.id)).collect();
            assert_eq!(own.len(), 1, "{changed}{ends:#?}");
            let time = portcullis::decode::time::format(decision.until.unwrap());
            assert!(own[0].contains(&format!(r#""time":"{time}""#)), "{own:?}");
        }
        service.verify();
    }
}

#[test]
fn settings_that_change_after_a_kill_judge_only_what_comes() {
    let block = |count: u32| {
        format!("id: block, per: ip, when: count > {count} within 1h, then: block for 1h")
    };
    let ip = "203.0.113.7";
    let allow = format!("allow: [{{ ip: {ip}, comment: office }}]\n");
    let brake = "brakes: { max_blocks_per_minute: 1 }\n";
    // Settings and rule before and after; how many failures come before; what is said of them, and what the
    // next failure brings, in the same minute and in the one after.
    let cases = [
        ("nobody is spared any more", allow.as_str(), 20, "", 20, 21, ["withheld"], ""),
        (
            "nobody is spared any more, and fewer are enough",
            allow.as_str(),
            20,
            "",
            10,
            21,
            ["withheld"],
            "",
        ),
        ("a lower threshold", "", 20, "", 10, 15, [""], "start"),
        ("a higher threshold", "", 10, "", 90, 15, ["start"], ""),
        ("somebody is spared", "", 20, allow.as_str(), 20, 21, ["start"], "end"),
        ("fewer a minute", "", 20, brake, 20, 21, ["start"], ""),
    ];
    for (what, before, least, after, then, failed, said, next) in cases {
        let mut service = service(
            &format!("state_dir: ./state\ncheckpoint: 1h\n{before}"),
            &rules(&[&block(least)]),
        );
        // Somebody else is blocked first, in the same minute.
        let mut lines = String::new();
        if after == brake {
            lines += &failures(-30, 21, "198.51.100.1");
        }
        lines += &failures(0, failed, ip);
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        service.append(LOG, &lines);
        until(|| running.goes_on() && service.has_read(LOG), &String::new);
        let others = usize::from(after == brake);
        let expected = others + said.iter().filter(|said| !said.is_empty()).count();
        until(|| running.goes_on() && service.lines(ACTIONS).len() == expected, &|| {
            what.to_owned()
        });
        running.kill();
        let ops = |service: &Service| -> Vec<String> {
            let lines = service.lines(ACTIONS).into_iter().skip(others);
            let op = |line: String| {
                serde_json::from_str::<serde_json::Value>(&line).unwrap()["op"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            };
            lines.map(op).collect()
        };
        let told = ops(&service);
        assert_eq!(
            told,
            said.iter().filter(|said| !said.is_empty()).copied().collect::<Vec<_>>(),
            "{what}"
        );
        let text = fs::read_to_string(service.path("portcullis.yaml")).unwrap();
        let text = format!("{}{after}", text.replace(before, ""));
        service.write("portcullis.yaml", &text);
        service.write("rules.yaml", &rules(&[&block(then)]));
        service.catch_up(LOG);
        let now: Vec<String> = ops(&service).into_iter().skip(told.len()).collect();
        let lifted = if next == "end" { vec!["end"] } else { vec![] };
        assert_eq!(now, lifted, "{what}: {:#?}", service.lines(ACTIONS));
        // What was counted still counts.
        service.append(LOG, &failures(failed, 1, ip));
        service.catch_up(LOG);
        let now: Vec<String> = ops(&service).into_iter().skip(told.len()).collect();
        let came: Vec<&str> = [next].into_iter().filter(|next| !next.is_empty()).collect();
        assert_eq!(now, came, "{what}: {:#?}", service.lines(ACTIONS));
        // One decision more, if any, is in force.
        let (decisions, _) = service.decisions();
        let active = decisions
            .iter()
            .filter(|one| one.value.as_deref() == Some(ip) && one.ended.is_none())
            .count();
        let in_force = (said[0] == "start" || next == "start") && next != "end";
        assert_eq!(active, usize::from(in_force), "{what}: {decisions:?}");
        service.verify();
    }
}

/// However it went down, with other settings it goes on in the same way: what came before was judged by
/// those of then.
#[test]
fn a_kill_before_the_settings_change_is_as_good_as_a_stop() {
    let alert = |count: u32, lasts: &str| {
        format!(
            "id: alert, per: [ip, reason], when: count > {count} within 1h, severity: P1, then: alert for {lasts}"
        )
    };
    let block =
        |then: &str| format!("id: block, per: ip, when: count > 20 within 1h, then: {then}");
    let narrow = "id: narrow, per: ip, when: count > 3 within 1h, then: alert, where: { reason: invalid_password }";
    let learns = "id: new, per: ip, when: new(user) >= 3 within 1h, then: alert";
    let allow = "allow: [{ ip: 203.0.113.8, comment: office }]\n";
    // Settings and rules, before and after.
    let cases = [
        ("a higher threshold", ("", vec![alert(3, "1h")]), ("", vec![alert(9, "1h")])),
        ("a lower threshold", ("", vec![alert(9, "1h")]), ("", vec![alert(3, "1h")])),
        ("gone", ("", vec![alert(3, "5m"), narrow.into()]), ("", vec![block("block for 1h")])),
        ("longer", ("", vec![alert(2, "2m")]), ("", vec![alert(2, "1h")])),
        (
            "other lists",
            ("", vec![narrow.into(), alert(3, "1h")]),
            ("", vec![alert(3, "1h"), learns.into(), narrow.into()]),
        ),
        (
            "learnt",
            ("", vec![learns.into()]),
            ("ipv6_prefix: 48\n", vec![learns.into(), narrow.into()]),
        ),
        (
            "another action",
            ("", vec![block("block for 1m")]),
            ("", vec![block("[block for 1h, alert for 1h]")]),
        ),
        (
            "others are spared",
            (allow, vec![block("block for 1h"), learns.into()]),
            ("lateness: 1s\n", vec![block("block for 1h")]),
        ),
        (
            "shadow",
            ("mode: shadow\n", vec![block("block for 1h")]),
            ("mode: enforce\n", vec![block("block for 2h")]),
        ),
    ];
    for (what, (settings, before), (other_settings, after)) in cases {
        let list = |list: &[String]| rules(&list.iter().map(String::as_str).collect::<Vec<_>>());
        let go_down = |kill: bool| {
            let state = "state_dir: ./state\ncheckpoint: 1h\n";
            let mut service = service(&format!("{state}{settings}"), &list(&before));
            service.append(LOG, "");
            let mut running = service.start();
            running.wait_until_it_says(": following");
            for ip in ["203.0.113.7", "203.0.113.8"] {
                service.append(LOG, &(failures(0, 30, ip) + &failures(70, 12, ip)));
            }
            until(|| running.goes_on() && service.has_read(LOG), &String::new);
            if kill {
                running.kill();
            } else {
                drop(running.stop());
            }
            let told = service.lines(ACTIONS).len();
            let text = fs::read_to_string(service.path("portcullis.yaml")).unwrap();
            let text =
                text.replace(&format!("{state}{settings}"), &format!("{state}{other_settings}"));
            service.write("portcullis.yaml", &text);
            service.write("rules.yaml", &list(&after));
            service.catch_up(LOG);
            for (from, n, ip) in
                [(82, 13, "203.0.113.7"), (200, 30, "203.0.113.8"), (9000, 5, "192.0.2.1")]
            {
                service.append(LOG, &failures(from, n, ip));
            }
            service.catch_up(LOG);
            service.verify();
            (told, service.lines(ACTIONS))
        };
        let (stopped, killed) = (go_down(false), go_down(true));
        assert!(stopped.0 > 0 || what == "a lower threshold", "{what}");
        assert_eq!(stopped, killed, "{what}");
    }
}

/// What an event did for a rule as it was is not done again for the rule as it is.
#[test]
fn what_was_used_up_before_a_kill_stays_used_up() {
    let ip = "203.0.113.7";
    let rule = |count: u32, then: &str| {
        format!("id: block, per: ip, when: count > {count} within 1h, then: {then}")
    };
    // Before and after; failures before and after the kill; what comes of it.
    let cases = [
        ("another action", rule(20, "block for 1h"), rule(20, "alert for 1h"), 21, 20, vec![]),
        (
            "one more action",
            rule(20, "block for 1h"),
            rule(20, "[block for 1h, alert for 1h]"),
            22,
            19,
            vec![],
        ),
        ("in silence", rule(2, "alert for 1h"), rule(2, "alert for 2h"), 7, 1, vec![]),
        ("a shorter one", rule(20, "block for 1h"), rule(20, "block for 1s"), 21, 5, vec![]),
    ];
    for (what, before, after, failed, more, came) in cases {
        let mut service = service("state_dir: ./state\ncheckpoint: 1h\n", &rules(&[&before]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        service.append(LOG, &failures(0, failed, ip));
        until(|| running.goes_on() && service.has_read(LOG), &String::new);
        until(|| running.goes_on() && !service.lines(ACTIONS).is_empty(), &|| what.to_owned());
        running.kill();
        let told = short(&service.lines(ACTIONS));
        service.write("rules.yaml", &rules(&[&after]));
        service.catch_up(LOG);
        service.append(LOG, &failures(failed, more, ip));
        service.catch_up(LOG);
        let now: Vec<String> = short(&service.lines(ACTIONS)).split_off(told.len());
        assert_eq!(now, came as Vec<String>, "{what}: {:#?}", service.lines(ACTIONS));
        service.verify();
    }
}

/// Decisions are what was told of them, whatever the rules would say of them now.
#[test]
fn decisions_that_were_over_before_a_kill_stay_over() {
    let ip = "203.0.113.7";
    let rule = |then: &str| format!("id: block, per: ip, when: count >= 3 within 1h, then: {then}");
    for (before, after) in [("block for 1m", "block for 9h"), ("block for 9h", "block for 1m")] {
        let mut service = service("state_dir: ./state\ncheckpoint: 1h\n", &rules(&[&rule(before)]));
        service.append(LOG, "");
        let mut running = service.start();
        running.wait_until_it_says(": following");
        service.append(
            LOG,
            &(failures(0, 3, ip) + &login(START + 300 * SECOND, "192.0.2.1", "a") + "\n"),
        );
        service.append(
            LOG,
            &["192.0.2.2", "192.0.2.3"]
                .map(|ip| login(START + 301 * SECOND, ip, "a") + "\n")
                .concat(),
        );
        let expected = if before == "block for 1m" { 2 } else { 1 };
        until(|| running.goes_on() && service.has_read(LOG), &String::new);
        until(|| running.goes_on() && service.lines(ACTIONS).len() == expected, &|| {
            before.to_owned()
        });
        running.kill();
        let (told, _) = service.decisions();
        service.write("rules.yaml", &rules(&[&rule(after)]));
        service.catch_up(LOG);
        assert_eq!(service.lines(ACTIONS).len(), expected, "{:#?}", service.lines(ACTIONS));
        assert_eq!(service.decisions().0, told, "{before}");
        // A day later all is over, and each was ended once.
        service.append(LOG, &failures(86_400, 3, "198.51.100.9"));
        service.catch_up(LOG);
        let ends = short(&service.lines(ACTIONS))
            .into_iter()
            .filter(|line| line.starts_with("end") && line.ends_with(ip));
        assert_eq!(ends.count(), 1, "{before}: {:#?}", service.lines(ACTIONS));
        service.verify();
    }
}
