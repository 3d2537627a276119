//! What a start finds in its state directory, from nothing to damage and newer formats: what it says,
//! what it makes of it, and that states of earlier versions can be read.

use crate::service::{
    MINUTE, RULES, Running, SECOND, START, Service, assert_same, config, id, login, replayed,
};
use crate::state::{Small, may_mount};
use crate::support::root;
use portcullis::state::{FILE, NewSnapshot, Snapshots};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

const LOG: &str = "app.log";
const ACTIONS: &str = "actions.jsonl";

fn service(state: &str) -> Service {
    Service::new(
        &config(&format!(
            "source: {{ files: [{LOG}], follow: true }}\nstate_dir: {state}\nthreads: 1\n\
             checkpoint: 1h\nsinks:\n  - file: {{ path: {ACTIONS} }}\n"
        )),
        RULES,
    )
}

/// `n` attacks of six lines, from address `from` on.
fn attacks(from: usize, n: usize) -> Vec<String> {
    (from..from + n)
        .flat_map(|n| {
            (0..6).map(move |i| {
                let time = START + i64::try_from(n).unwrap() * MINUTE / 4 + i * SECOND;
                login(time, &format!("198.51.100.{n}"), &format!("v{n}-{i}"))
            })
        })
        .collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Stopped twice, so that there are two snapshots, and killed then, so that there is a journal behind
/// the newer.
fn lived() -> Service {
    let mut service = service("./state");
    service.append(LOG, &text(&attacks(0, 3)));
    service.catch_up(LOG);
    service.append(LOG, &text(&attacks(3, 3)));
    service.catch_up(LOG);
    let mut running = service.start();
    running.wait_until_it_says(": following");
    service.append(LOG, &text(&attacks(6, 3)));
    crate::service::until(|| running.goes_on() && service.has_read(LOG), &String::new);
    running.kill();
    let info = service.info();
    assert_eq!(stands_for(&service), [18, 18], "{info}");
    assert_eq!(info["journal"]["behind_snapshot"], 18, "{info}");
    service
}

/// How many events each snapshot has in place of the journal, the newest first.
fn stands_for(service: &Service) -> Vec<u64> {
    let info = service.info();
    let snapshots = info["snapshots"].as_array().unwrap().iter();
    snapshots.map(|snapshot| snapshot["events"].as_u64().unwrap()).collect()
}

/// Goes on and comes to what it would have come to undisturbed.
fn goes_on(mut service: Service, said: &[&str]) -> Service {
    service.append(LOG, &text(&attacks(9, 2)));
    let told = service.catch_up(LOG);
    for said in said {
        assert!(told.contains(said), "does not say `{said}`: {told}");
    }
    service.verify();
    assert_same(&service.lines(ACTIONS), &replayed(&service, &attacks(0, 11)), &told);
    service
}

/// Changes the database as no program of ours does.
fn meddle(service: &Service, statement: &str) {
    let conn = rusqlite::Connection::open(service.state().join(FILE)).unwrap();
    conn.execute_batch(statement).unwrap();
    conn.close().unwrap();
}

#[test]
fn a_directory_is_made_and_its_files_are_its_owners() {
    let mut first = service("./state");
    first.append(LOG, &text(&attacks(0, 1)));
    let mut running = first.start();
    running.wait_until_it_says(": following");
    crate::service::until(|| running.goes_on() && first.has_read(LOG), &String::new);
    assert_eq!(mode(&first.state()), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(first.state()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 4);
    assert_eq!(mode(&first.path(ACTIONS)), 0o600);
    running.stop();
    service("./no/state").refused(&["error: there is no directory", "/no`", "make it first"]);
    let mut occupied = service("./state");
    occupied.write("state", "a file");
    occupied.refused(&["is not a directory", "`state_dir` must name a directory"]);
}

/// What is wrong, in which line of which file, and what would be right.
#[test]
fn a_place_where_no_directory_can_be_is_told_with_where_it_was_said() {
    let line = |told: &str, name: &str| {
        let at = format!("state_dir: {name}\n");
        assert!(told.contains("--> portcullis.yaml:5:1") && told.contains(&at), "{told}");
    };
    for name in ["\"\"", "\" \"", "~", ""] {
        let told = service(name).refused(&["error: `state_dir` names no directory", "./state"]);
        line(&told, name);
    }
    let mut linked = service("./state");
    std::os::unix::fs::symlink("gone", linked.state()).unwrap();
    let there = format!("is a link to `{}`, which is not there", linked.path("gone").display());
    line(&linked.refused(&["error: `", &there, "make that directory first"]), "./state");
    fs::create_dir(linked.path("gone")).unwrap();
    linked.append(LOG, "");
    linked.catch_up(LOG);
    line(&service("./no/state").refused(&["there is no directory"]), "./no/state");
    if Path::new("/proc/self").exists() {
        let said = ["`/proc/x` cannot be made: no directory can be made in `/proc`", "./state"];
        line(&service("/proc/x").refused(&said), "/proc/x");
    }
    for (value, said) in
        [("", "`state_dir` names no directory"), ("no/state", "there is no directory")]
    {
        let mut service = service("./state");
        let (mut command, out, told) = service.command();
        let child = command.env("PORTCULLIS_STATE_DIR", value).spawn().unwrap();
        let mut running = Running::new(child, out, told);
        assert_eq!(running.wait().code(), Some(2));
        let told = running.said();
        let at = "--> environment variable PORTCULLIS_STATE_DIR:1:";
        assert!(told.contains(said) && told.contains(at), "{told}");
        assert!(!service.state().exists());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    if !may_mount("starting::a_directory_that_cannot_be_written_is_refused") {
        return;
    }
    let small = Small::new("size=4m");
    let mut service = service(&small.dir.path().join("state").display().to_string());
    fs::create_dir(small.dir.path().join("state")).unwrap();
    small.read_only();
    service.refused(&["cannot be written: the file system is read-only"]);
}

/// Who is refused touches nothing, not even the line that the other is writing at that moment.
#[test]
fn a_directory_in_use_is_refused_and_the_other_is_not_disturbed() {
    let mut service = service("./state");
    let mut running = service.start();
    running.wait_until_it_says(", waiting for it");
    service.append(LOG, &text(&attacks(0, 1)));
    crate::service::until(|| running.goes_on() && !service.lines(ACTIONS).is_empty(), &|| {
        "no action".into()
    });
    service.append(ACTIONS, "{\"a line that is being wri");
    let before = fs::read(service.path(ACTIONS)).unwrap();
    let pid = format!("in use by process {};", running.child.id());
    service.refused(&[&pid, "one Portcullis per directory"]);
    assert_eq!(fs::read(service.path(ACTIONS)).unwrap(), before);
    running.stop();
}

#[test]
fn without_the_newest_snapshot_the_one_before_does() {
    let service = lived();
    meddle(
        &service,
        "UPDATE snapshot_parts SET content = zeroblob(length(content))
         WHERE snapshot = (SELECT max(id) FROM snapshots)",
    );
    let service = goes_on(service, &["cannot be used (", "the one before it is"]);
    assert_eq!(stands_for(&service), [48, 18], "the new one has what the damaged one had");
    let service = goes_on(lived(), &["went on from a snapshot", "and 18 records behind it"]);
    assert_eq!(stands_for(&service), [30, 18]);
}

#[test]
fn damage_that_nothing_makes_good_is_refused() {
    for (statement, said) in [
        ("UPDATE snapshot_parts SET content = zeroblob(length(content))", "is damaged"),
        ("UPDATE snapshots SET keys = keys + 1", "is damaged"),
        (
            "UPDATE journal SET entries = zeroblob(length(entries)) WHERE id = (SELECT max(id) FROM journal)",
            "is damaged: row",
        ),
        ("DELETE FROM journal WHERE id = (SELECT max(id) FROM journal)", "is damaged"),
        ("UPDATE dictionaries SET text = 'x'", "is damaged"),
        ("UPDATE positions SET position = '{}'", "is damaged"),
        ("UPDATE cursors SET seq = seq - 1", "is damaged"),
    ] {
        let mut service = lived();
        // Without the journal before the older snapshot, there is no beginning to go back to.
        meddle(&service, "DELETE FROM journal WHERE id <= (SELECT min(journal) FROM snapshots)");
        meddle(&service, statement);
        let before = fs::read(service.path(ACTIONS)).unwrap();
        let verify = format!("`portcullis state verify {}`", service.state().display());
        let text = service.refused(&["error: `", said, &verify, "lists everything"]);
        assert!(!text.contains("panicked"), "{statement}: {text}");
        assert_eq!(fs::read(service.path(ACTIONS)).unwrap(), before);
    }
    let mut service = lived();
    let file = service.state().join(FILE);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[4096..middle].fill(7);
    fs::write(&file, bytes).unwrap();
    service.refused(&["is damaged"]);
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_left_as_it_is() {
    let mut service = lived();
    let info = service.info();
    let journal = info["journal"]["last"].as_i64().unwrap();
    let dictionary = info["snapshots"][0]["dictionary"].as_i64().unwrap();
    // One part of one byte: the number of a format.
    let bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 9];
    let new = NewSnapshot {
        journal,
        dictionary,
        events: 0,
        keys: 0,
        pieces: std::slice::from_ref(&bytes),
    };
    let newer = Snapshots::open(&service.state()).unwrap().write(&new).unwrap();
    for _ in 0..2 {
        service.refused(&["has format 9, and this version knows format 5", "a newer Portcullis"]);
    }
    assert_eq!(service.info()["snapshots"][0]["id"], newer);
    meddle(&service, &format!("DELETE FROM snapshots WHERE id = {newer}"));
    goes_on(service, &["went on from a snapshot"]);
    let mut service = lived();
    meddle(&service, "PRAGMA user_version = 2; UPDATE meta SET format = 2");
    let text = service.refused(&["portcullis.db` "]);
    assert!(text.contains("newer Portcullis") || text.contains("is damaged"), "{text}");
}

/// The folder of a state that the first version wrote: two blocks, one of them ended; windows that are
/// nearly full; a snapshot and a journal behind it.
const KEPT: &str = "fixtures/state-v1";

fn of_version_1() -> Service {
    let read = |name: &str| fs::read_to_string(root().join(KEPT).join(name)).unwrap();
    Service::new(&read("portcullis.yaml"), &read("rules.yaml"))
}

/// Runs on standard input to its end, or until killed once `killed` many lines of actions are out.
fn pipe(service: &mut Service, lines: &str, killed: Option<usize>) -> String {
    service.write("input", lines);
    let (mut command, out, said) = service.command();
    let mut child = if killed.is_none() {
        command.stdin(File::open(service.path("input")).unwrap()).spawn().unwrap()
    } else {
        command.stdin(Stdio::piped()).spawn().unwrap()
    };
    let pipe = child.stdin.take();
    let mut running = Running::new(child, out, said);
    if let (Some(count), Some(mut pipe)) = (killed, pipe) {
        std::io::Write::write_all(&mut pipe, lines.as_bytes()).unwrap();
        crate::service::until(
            || running.goes_on() && running.out().lines().count() >= count,
            &|| "no action".into(),
        );
        let out = running.out();
        running.kill();
        return out;
    }
    let code = running.wait().code();
    assert_eq!(code, Some(0), "{}", running.said());
    running.out()
}

/// If this fails after a change, states that are out there could not be read any more: the change
/// needs a new format and a way from the old one. Nothing in the folder is ever written anew.
#[test]
fn the_state_of_version_1_is_read() {
    let mut service = of_version_1();
    let packed = fs::read(root().join(KEPT).join("portcullis.db.zst")).unwrap();
    fs::create_dir(service.state()).unwrap();
    fs::write(service.state().join(FILE), zstd::decode_all(&packed[..]).unwrap()).unwrap();
    service.verify();
    assert_eq!(service.info()["journal"]["behind_snapshot"], 5);
    let input = fs::read_to_string(root().join(KEPT).join("then.jsonl")).unwrap();
    let got = pipe(&mut service, &input, None);
    let want = fs::read_to_string(root().join(KEPT).join("actions.jsonl")).unwrap();
    assert_eq!(got, want);
}

/// How the folder was made: `MAKE_STATE=1 cargo test the_state_is_made`, once per format.
#[test]
fn the_state_is_made() {
    let kept = root().join(KEPT);
    if std::env::var_os("MAKE_STATE").is_none() {
        return;
    }
    let read = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
    let mut service = of_version_1();
    pipe(&mut service, &read("first.jsonl"), None);
    let out = pipe(&mut service, &read("second.jsonl"), Some(1));
    assert!(out.contains("\"op\":\"start\""), "{out}");
    let conn = rusqlite::Connection::open(service.state().join(FILE)).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    conn.close().unwrap();
    let bytes = fs::read(service.state().join(FILE)).unwrap();
    let packed = zstd::encode_all(&bytes[..], 19).unwrap();
    fs::write(kept.join("portcullis.db.zst"), packed).unwrap();
    let got = pipe(&mut service, &read("then.jsonl"), None);
    // The state changed nothing: a replay of all lines says the same at the end.
    let lines: Vec<String> = ["first.jsonl", "second.jsonl", "then.jsonl"]
        .iter()
        .flat_map(|name| read(name).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let whole = replayed(&service, &lines);
    let last: Vec<String> = got.lines().map(str::to_owned).collect();
    assert_eq!(&whole[whole.len() - last.len()..], &last[..]);
    assert!(last.iter().all(|line| !id(line).is_empty()));
    fs::write(kept.join("actions.jsonl"), got).unwrap();
}
