//! Disks that fail or are full under the running program: the state directory's and the sinks'.

use crate::service::{
    Dice, MINUTE, RULES, Running, SECOND, START, Service, assert_same, busy, config, id, login,
    replayed, until,
};
use crate::state::{Faults, Small, at_every_call, may_mount};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

const LOG: &str = "app.log";
const ACTIONS: &str = "actions.jsonl";
const HELD: &str = "the source is held back and no action leaves until it works again";

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn settings(state: &Path) -> String {
    config(&format!(
        "source: {{ files: [{LOG}], follow: true }}\nstate_dir: {}\nthreads: 1\n\
         sinks:\n  - file: {{ path: {ACTIONS} }}\n",
        state.display()
    ))
}

/// Everything that left was committed before.
fn assert_committed(service: &Service) {
    let Ok(db) = portcullis::state::Db::read_only(&service.state()) else {
        assert_eq!(service.lines(ACTIONS), Vec::<String>::new());
        return;
    };
    for line in service.lines(ACTIONS) {
        assert!(db.has_action(&id(&line)).unwrap(), "{line}");
    }
}

/// Every single call that changes a file of the state directory fails once or a few times: the program
/// goes on by itself, or ends and says why; and once the disk works again nothing is missing.
#[test]
fn whatever_call_fails_it_goes_on_or_says_why_it_ends() {
    let lines = attacks(0, 50);
    let plain = Service::new(&settings(Path::new("./state")), RULES);
    let want = replayed(&plain, &lines);
    assert!(want.len() > 30, "{}", want.len());
    let ways = Mutex::new(BTreeMap::<String, u32>::new());
    let calls = at_every_call(6, &|faults, at, _| {
        let mut service = Service::new(&settings(Path::new("./state")), RULES);
        service.append(LOG, &text(&lines[..100]));
        let mark = service.path("mark");
        let count = [1, 3][usize::try_from(at % 2).unwrap()];
        let errno = if at % 4 < 2 { 28 } else { 5 };
        let (mut command, out, said) = service.command();
        command
            .env("LD_PRELOAD", &faults.shim)
            .env("FAULT_PATH", service.state())
            .env("FAULT_AT", at.to_string())
            .env("FAULT_COUNT", count.to_string())
            .env("FAULT_ERRNO", errno.to_string())
            .env("FAULT_SHORT", u32::from(at % 3 == 0).to_string())
            .env("FAULT_MARK", &mark);
        let mut running = Running::new(command.spawn().unwrap(), out, said);
        let what = format!("call {at} and {} more, errno {errno}", count - 1);
        let mut fed = 100;
        let mut ended = None;
        until(
            || {
                ended = running.child.try_wait().unwrap();
                let read = ended.is_none() && service.has_read(LOG);
                if read && fed < lines.len() {
                    service.append(LOG, &text(&lines[fed..fed + 50]));
                    fed += 50;
                    return false;
                }
                read || ended.is_some()
            },
            &|| what.clone(),
        );
        if ended.is_none() {
            running.signal("TERM");
            ended = Some(running.wait());
        }
        let told = running.said();
        drop(running);
        let way = match ended.and_then(|status| status.code()) {
            Some(143) if told.contains("going on after") => "held the source back and went on",
            Some(143) => "went on",
            Some(2) => "did not start",
            Some(1) => "ended",
            other => panic!("{what}: {other:?}\n{told}"),
        };
        assert!(
            way != "ended" && way != "did not start"
                || told.contains("portcullis.db")
                || told.contains("state"),
            "{what}: {told}"
        );
        assert!(!told.contains("panicked"), "{what}: {told}");
        assert!(way != "ended", "{what}: a fault that passes ends nothing\n{told}");
        *ways.lock().unwrap().entry(way.to_owned()).or_default() += 1;
        assert_committed(&service);
        service.append(LOG, &text(&lines[fed..]));
        let said = service.catch_up(LOG);
        assert_same(&service.lines(ACTIONS), &want, &format!("{what}\n{told}\n{said}"));
        service.verify();
        mark.exists()
    });
    println!("{calls} calls: {:?}", ways.lock().unwrap());
    assert!(calls > 60, "{calls}");
}

/// What a sink has finished is noted by a commit of its own when nothing else comes. That one fails,
/// and may have been made all the same; it must not be in the way of those that follow.
#[test]
fn a_cursor_that_cannot_be_noted_stops_nothing() {
    let faults = Faults::new();
    std::thread::scope(|scope| {
        for at in 1..33_u32 {
            let faults = &faults;
            scope.spawn(move || {
                let settings = settings(Path::new("./state")) + "checkpoint: 1s\n";
                let mut service = Service::new(&settings, RULES);
                let (when, mark) = (service.path("when"), service.path("mark"));
                let (mut command, out, said) = service.command();
                command
                    .env("LD_PRELOAD", &faults.shim)
                    .env("FAULT_PATH", service.state())
                    .env("FAULT_AT", (1 + at % 8).to_string())
                    .env(
                        "FAULT_COUNT",
                        [1, 4, 16, 64][usize::try_from(at / 8 % 4).unwrap()].to_string(),
                    )
                    .env("FAULT_WHEN", &when)
                    .env("FAULT_MARK", &mark);
                let mut running = Running::new(command.spawn().unwrap(), out, said);
                running.wait_until_it_says("state in");
                service.append(LOG, &text(&attacks(0, 2)));
                until(|| running.goes_on() && !service.lines(ACTIONS).is_empty(), &String::new);
                fs::write(&when, "").unwrap();
                let noted = || {
                    let db = service.db();
                    let last = db.last_action().unwrap();
                    db.cursors().unwrap().iter().all(|(_, cursor)| *cursor == last)
                };
                until(|| running.goes_on() && (mark.exists() || noted()), &String::new);
                service.append(LOG, &text(&attacks(2, 4)));
                let want = replayed(&service, &attacks(0, 4));
                let all = || service.lines(ACTIONS).len() >= want.len();
                until(|| running.goes_on() && all(), &String::new);
                let said = running.stop();
                assert_same(&service.lines(ACTIONS), &want, &format!("{at}: {said}"));
            });
        }
    });
}

/// Fills the file system of `path` to its last byte.
fn fill(path: &Path) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for size in [4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn while_the_disk_is_full_nothing_leaves_and_then_nothing_is_missing() {
    if !may_mount("disk::while_the_disk_is_full_nothing_leaves_and_then_nothing_is_missing") {
        return;
    }
    let small = Small::new("size=32m");
    let mut service = Service::new(&settings(&small.dir.path().join("state")), RULES);
    let lines = busy(&mut Dice(5), 12_000);
    service.append(LOG, &text(&lines[..400]));
    let mut running = service.start();
    until(|| running.goes_on() && service.lines(ACTIONS).len() > 10, &|| "no action".into());
    let ballast = small.dir.path().join("ballast");
    fill(&ballast);
    let mut fed = 400;
    until(
        || {
            running.goes_on();
            let more = (fed + 200).min(lines.len());
            service.append(LOG, &text(&lines[fed..more]));
            fed = more;
            running.said().contains(HELD)
        },
        &|| "it does not notice".into(),
    );
    assert!(running.said().contains("is full"), "{}", running.said());
    // It is tried again some times; meanwhile whatever follows stays here.
    let before = service.lines(ACTIONS);
    service.append(LOG, &text(&lines[fed..]));
    std::thread::sleep(std::time::Duration::from_millis(1500));
    running.goes_on();
    assert_eq!(service.lines(ACTIONS).len(), before.len());
    let want = replayed(&service, &lines);
    assert!(before.len() < want.len());
    small.give_room(&ballast);
    running.wait_until_it_says("there is room again, going on");
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= want.len(), &|| {
        "it does not catch up".into()
    });
    running.stop();
    assert_same(&service.lines(ACTIONS), &want, "after a full disk");
}

#[test]
fn rules_that_change_while_the_disk_is_full_wait_for_room() {
    if !may_mount("disk::rules_that_change_while_the_disk_is_full_wait_for_room") {
        return;
    }
    let small = Small::new("size=4m");
    let mut service = Service::new(&settings(&small.dir.path().join("state")), RULES);
    service.append(LOG, &text(&attacks(0, 3)));
    let mut running = service.start();
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= 6, &|| "no action".into());
    let ballast = small.dir.path().join("ballast");
    fill(&ballast);
    service.write("rules.yaml", &RULES.replace("- { id: seen,", "- { id: seen-anew,"));
    running.signal("HUP");
    running.wait_until_it_says(HELD);
    small.give_room(&ballast);
    running.wait_until_it_says("there is room again, going on");
    let before = service.lines(ACTIONS).len();
    service.append(LOG, &text(&attacks(3, 6)));
    until(|| running.goes_on() && service.lines(ACTIONS).len() > before, &|| "no action".into());
    running.stop();
}

#[test]
fn a_state_directory_that_is_gone_is_noticed() {
    let mut service = Service::new(&settings(Path::new("./state")), RULES);
    service.append(LOG, &text(&attacks(0, 3)));
    let mut running = service.start();
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= 6, &|| "no action".into());
    until(|| running.goes_on() && service.has_read(LOG), &|| "not read".into());
    let before = service.lines(ACTIONS).len();
    fs::rename(service.state(), service.path("moved")).unwrap();
    service.append(LOG, &text(&attacks(3, 6)));
    assert_eq!(running.wait().code(), Some(1), "{}", running.said());
    assert!(running.said().contains("was moved, replaced or removed"), "{}", running.said());
    assert_eq!(service.lines(ACTIONS).len(), before, "nothing leaves that does not last");
    fs::rename(service.path("moved"), service.state()).unwrap();
    service.catch_up(LOG);
    assert_same(&service.lines(ACTIONS), &replayed(&service, &attacks(0, 6)), "after its return");
}

/// A decision that was due to end meanwhile ends when there is somebody again to say so.
#[test]
fn the_time_that_nothing_ran_counts() {
    let mut service = Service::new(&settings(Path::new("./state")), RULES);
    service.append(LOG, &text(&attacks(0, 3)));
    let mut running = service.start();
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= 6, &|| "no action".into());
    until(|| running.goes_on() && service.has_read(LOG), &|| "not read".into());
    running.kill();
    let is_end = |line: &String| line.contains(r#""op":"end""#);
    assert!(!service.lines(ACTIONS).iter().any(is_end));
    // As if that had been hours ago.
    for entry in fs::read_dir(service.state()).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        let then = written - std::time::Duration::from_secs(4 * 3600);
        file.set_times(fs::FileTimes::new().set_modified(then)).unwrap();
    }
    let mut running = service.start();
    until(|| running.goes_on() && service.lines(ACTIONS).iter().any(is_end), &|| "no end".into());
    running.stop();
}

#[test]
fn whoever_stops_reading_standard_output_is_told_the_rest_at_the_next_start() {
    let config = config(&format!(
        "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks: [stdout: {{ output: json }}]\n"
    ));
    let mut service = Service::new(&config, RULES);
    service.append(LOG, &text(&attacks(0, 3)));
    let (mut command, _, said) = service.command();
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut got = Vec::new();
    for _ in 0..replayed(&service, &attacks(0, 3)).len() {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
        got.push(line.trim_end().to_owned());
    }
    drop(reader);
    service.append(LOG, &text(&attacks(3, 30)));
    let mut running = Running::new(child, service.path("stdout.1"), said);
    assert_eq!(running.wait().code(), Some(0), "{}", running.said());
    let mut running = service.start();
    running.wait_until_it_says(": following");
    until(|| running.goes_on() && service.has_read(LOG), &|| "not read".into());
    running.signal("TERM");
    running.wait();
    got.extend(running.out().lines().map(str::to_owned));
    assert_same(&got, &replayed(&service, &attacks(0, 30)), "standard output");
}

/// Lines of which each five block an address of their own.
fn attacks(from: usize, to: usize) -> Vec<String> {
    (from..to)
        .flat_map(|n| {
            (0..6).map(move |i| {
                let time = START + i64::try_from(n).unwrap() * MINUTE / 4 + i * SECOND;
                login(time, &format!("198.51.100.{n}"), &format!("v{n}-{i}"))
            })
        })
        .collect()
}

fn two_sinks(first: &Path) -> Service {
    Service::new(
        &config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks:\n  \
             - file: {{ path: {} }}\n  - file: {{ path: {ACTIONS} }}\n",
            first.display()
        )),
        RULES,
    )
}

#[test]
fn a_sink_that_fails_catches_up_in_order_while_the_other_goes_on() {
    if !may_mount("disk::a_sink_that_fails_catches_up_in_order_while_the_other_goes_on") {
        return;
    }
    let small = Small::new("size=64k");
    let first = small.dir.path().join("first.jsonl");
    let ballast = small.dir.path().join("ballast");
    let mut service = two_sinks(&first);
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read(path).unwrap_or_default();
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        String::from_utf8_lossy(&text[..end]).lines().map(str::to_owned).collect()
    };
    let mut running = service.start();
    service.append(LOG, &text(&attacks(0, 3)));
    until(|| running.goes_on() && lines(&first).len() >= 6, &|| "no action".into());
    fill(&ballast);
    service.append(LOG, &text(&attacks(3, 20)));
    running.wait_until_it_says("its lines wait in the outbox");
    let want = replayed(&service, &attacks(0, 20));
    let other = |service: &Service, n: usize| {
        until(|| service.lines(ACTIONS).len() >= n, &|| "the other sink waits".into());
    };
    other(&service, want.len());
    assert!(lines(&first).len() < want.len());
    // By a kill nothing of it is forgotten.
    running.kill();
    let mut running = service.start();
    running.wait_until_it_says("its lines wait in the outbox");
    service.append(LOG, &text(&attacks(20, 22)));
    let want = replayed(&service, &attacks(0, 22));
    other(&service, want.len());
    assert!(lines(&first).len() < want.len());
    small.give_room(&ballast);
    running.wait_until_it_says("works again, nothing was lost");
    until(|| lines(&first).len() >= want.len(), &|| "it does not catch up".into());
    service.append(LOG, &text(&attacks(22, 24)));
    let want = replayed(&service, &attacks(0, 24));
    other(&service, want.len());
    until(|| lines(&first).len() >= want.len(), &|| "it does not go on".into());
    running.stop();
    assert_same(&lines(&first), &want, "the sink that failed");
    assert_same(&service.lines(ACTIONS), &want, "the other");
}

#[test]
fn a_sink_whose_folder_vanishes_writes_again_when_it_is_back() {
    let mut service = two_sinks(Path::new("out/first.jsonl"));
    fs::create_dir(service.path("out")).unwrap();
    let mut running = service.start();
    service.append(LOG, &text(&attacks(0, 3)));
    until(|| running.goes_on() && service.lines("out/first.jsonl").len() >= 6, &|| "none".into());
    fs::rename(service.path("out"), service.path("gone")).unwrap();
    running.signal("HUP");
    running.wait_until_it_says("its lines wait in the outbox");
    service.append(LOG, &text(&attacks(3, 8)));
    let want = replayed(&service, &attacks(0, 8));
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= want.len(), &|| "none".into());
    fs::create_dir(service.path("out")).unwrap();
    running.wait_until_it_says("works again, nothing was lost");
    running.stop();
    let mut got = service.lines("gone/first.jsonl");
    got.extend(service.lines("out/first.jsonl"));
    assert_same(&got, &want, "the sink that failed");
    assert_same(&service.lines(ACTIONS), &want, "the other");
}

#[test]
fn a_sink_that_is_no_longer_configured_is_told_with_what_waited_for_it() {
    let mut service = two_sinks(Path::new("/dev/full"));
    service.append(LOG, &text(&attacks(0, 3)));
    let mut running = service.start();
    let count = replayed(&service, &attacks(0, 3)).len();
    until(|| running.goes_on() && service.lines(ACTIONS).len() >= count, &|| "no action".into());
    running.wait_until_it_says("sink file /dev/full: ");
    running.stop();
    let only = |path: &str| {
        config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: ./state\nsinks:\n  \
             - file: {{ path: {path} }}\n"
        ))
    };
    service.write("portcullis.yaml", &only(ACTIONS));
    let told = service.catch_up(LOG);
    let waited = format!("{count} lines that waited for it are let go");
    let said = format!("the sink file /dev/full is no longer configured: {waited}");
    assert!(count > 1 && told.contains(&said), "does not say `{said}`: {told}");
    service.write("portcullis.yaml", &only("other.jsonl"));
    let told = service.catch_up(LOG);
    let said = format!("the sink file {ACTIONS} is no longer configured: nothing waited for it");
    assert!(told.contains(&said), "does not say `{said}`: {told}");
}
