//! `identities` and `receivers`: accounts with two spellings, and the sinks that the names in `notify` mean.

use crate::support::{portcullis, run_in, stderr, stdout};
use portcullis::config::Settings;
use portcullis::yaml::Document;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

const RULES: &str = "pack: p
patterns:
  BY_ID:
    title: A login was refused
    read: 'BY_ID: user_id={user_id}'
    tests: [{ line: '2026-11-24T12:00:00Z [WARN] BY_ID: user_id=u-1', gives: { user_id: u-1 } }]
  BY_NAME:
    title: A login was refused
    read: 'BY_NAME: email={email}'
    tests: [{ line: '2026-11-24T12:00:00Z [WARN] BY_NAME: email=ann@example.org', gives: { user: ann@example.org } }]
rules:
  - { id: by-id, title: t, on: BY_ID, per: user, when: count >= 2 within 1h, then: lock for 1h, notify: [user, ops] }
  - { id: by-name, title: t, on: BY_NAME, per: user, when: count >= 2 within 1h, then: lock for 1h, notify: [ops] }
";

const ANN: &str = "7";

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("rules.yaml"), RULES).unwrap();
    fs::write(
        folder.path().join("users.csv"),
        "user_id,email\n7,ann@example.org\nu-2,\"bob@example.org\"\n",
    )
    .unwrap();
    configure(folder.path(), config);
    folder
}

fn configure(folder: &Path, config: &str) {
    fs::write(folder.join("portcullis.yaml"), format!("patterns: [./rules.yaml]\n{config}\n"))
        .unwrap();
}

fn lines(of: &[(&str, &str)]) -> String {
    let twice = of.iter().flat_map(|one| [one, one]);
    let line = |(n, (what, who)): (usize, &(&str, &str))| {
        format!("2026-11-24T12:00:{n:02}Z [WARN] {what}={who}\n")
    };
    twice.enumerate().map(line).collect()
}

/// What was decided, in short.
fn decided(folder: &Path, input: &str) -> Vec<String> {
    let output = run_in(folder, &["replay", "-"], input.as_bytes());
    let told = stdout(&output);
    assert!(!told.is_empty(), "{}", stderr(&output));
    let lines = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let short = |line: serde_json::Value| format!("{} {}", line["op"], line["target"]["value"]);
    lines.map(|line| short(line).replace('"', "")).collect()
}

#[test]
fn an_entry_for_one_spelling_covers_the_other() {
    let input = lines(&[
        ("BY_ID: user_id", ANN),
        ("BY_ID: user_id", "u-2"),
        ("BY_NAME: email", "Bob@example.org"),
    ]);
    let allow = |who: &str| format!("allow: [{{ user: '{who}' }}]\n");
    let with = |who: &str| folder(&(allow(who) + "identities: users.csv"));
    let all = ["start 7", "start u-2", "start bob@example.org"];
    assert_eq!(decided(folder(&allow("ann@example.org")).path(), &input), all);
    let got = decided(with("Ann@Example.org").path(), &input);
    assert_eq!(got, ["withheld 7", "start u-2", "start bob@example.org"]);
    let got = decided(with("u-2").path(), &input);
    assert_eq!(got, ["start 7", "withheld u-2", "withheld bob@example.org"]);
    // An entry that has run out covers neither.
    let over = "allow: [{ user: u-2, until: 2026-01-01T00:00:00Z }]\nidentities: users.csv";
    assert_eq!(decided(folder(over).path(), &input), all);
}

#[test]
fn a_table_with_mistakes_is_refused_with_file_and_line() {
    let folder = folder("identities: users.csv");
    let refused = |text: &[u8]| {
        fs::write(folder.path().join("users.csv"), text).unwrap();
        let output = run_in(folder.path(), &["replay", "-"], b"");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let told = refused(b"user_id,email\n7,ann@example.org\n8,ann@example.org\nu-3\n");
    assert!(told.contains("users.csv:4:1"), "{told}");
    assert!(told.contains("there is one field, not two"), "{told}");
    let told = refused(b"7,ann@example.org\n8,Ann@example.org\n");
    assert!(told.contains("users.csv:2:1") && told.contains("stands in line 1 too"), "{told}");
    let told = refused(b"email,user_id\n");
    assert!(told.contains("the columns are user_id,email"), "{told}");
    let told = refused(b"7,ann@example.org\n8,\xff@example.org\n");
    assert!(told.contains("line 2 is not UTF-8"), "{told}");
    fs::remove_file(folder.path().join("users.csv")).unwrap();
    let output = run_in(folder.path(), &["replay", "-"], b"");
    assert!(stderr(&output).contains("cannot read `identities`: users.csv: there is no such file"));
}

#[test]
fn a_check_says_which_entries_cannot_protect_from_which_rules() {
    let allow = "allow: [{ user: ann@example.org }, { user: 7 }, { user: someone }]\n";
    let checked = |config: &str| {
        let output = run_in(folder(config).path(), &["check"], b"");
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        stdout(&output)
    };
    let told = checked(allow);
    let mail = "the allow entry ann@example.org is an e-mail address, and the rule by-id knows accounts by user_id";
    let id = "the allow entry 7 is an id, and the rule by-name knows accounts by user:";
    assert!(told.contains(mail) && told.contains(id), "{told}");
    assert!(told.contains("`identities` would join the two"), "{told}");
    assert_eq!(told.matches("does not protect").count(), 2, "{told}");
    let told = checked(&format!("{allow}identities: users.csv\n"));
    assert_eq!(told.matches("does not protect").count(), 0, "{told}");
    let told = checked("allow: [{ user: zoe@example.org }]\nidentities: users.csv\n");
    assert!(told.contains("`identities` does not have it"), "{told}");
}

#[test]
fn the_table_is_read_again_on_sighup() {
    let folder = folder("allow: [{ user: ann@example.org }]\nidentities: users.csv");
    fs::write(folder.path().join("users.csv"), "8,zoe@example.org\n").unwrap();
    let mut child = portcullis(folder.path())
        .args(["run", "--output", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut err = BufReader::new(child.stderr.take().unwrap()).lines();
    stdin
        .write_all(
            lines(&[("BY_ID: user_id", "u-9"), ("BY_NAME: email", "x@example.org")]).as_bytes(),
        )
        .unwrap();
    assert!(out.next().unwrap().unwrap().contains(r#""op":"start""#));
    fs::write(folder.path().join("users.csv"), "7,ann@example.org\n").unwrap();
    let status =
        std::process::Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(status.unwrap().success());
    assert!(err.any(|line| line.unwrap().contains("reloaded")));
    let rest = std::thread::spawn(move || err.count());
    stdin.write_all(lines(&[("BY_ID: user_id", ANN)]).as_bytes()).unwrap();
    drop(stdin);
    let told: Vec<String> = out.map(Result::unwrap).collect();
    let ann = told.iter().find(|line| line.contains(r#""value":"7""#)).unwrap();
    assert!(ann.contains(r#""op":"withheld""#) && ann.contains(r#""guard":"allow""#), "{ann}");
    rest.join().unwrap();
    assert!(child.wait().unwrap().success());
}

const MAIL: &str =
    "mail: { smtp: 'localhost:25', tls: none, from: g@velro.test, to: [o@velro.test]";

fn settings(text: &str) -> (Settings, String) {
    let document = Document { name: "t.yaml".to_owned(), text: text.to_owned() };
    let mut settings = Settings::default();
    let mut told = settings.apply(&document);
    told.extend(settings.check_receivers());
    (settings, told.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

#[test]
fn receivers_are_sinks_by_their_names() {
    let sinks = format!("sinks:\n  - {MAIL} }}\n  - {MAIL}, name: night }}\n  - stdout: {{}}\n");
    // Sinks may stand behind what names them.
    let receivers = "receivers: { ops: [night], user: [mail], all: [mail, night] }\n";
    let (known, told) = settings(&(receivers.to_owned() + &sinks));
    assert_eq!(told, "");
    let receives = |n: usize| known.receives(&known.sinks[n]).unwrap();
    assert_eq!(receives(0), ["user", "all"]);
    assert_eq!(receives(1), ["ops", "all"]);
    assert_eq!(receives(2), [""; 0]);
    let (all, told) = settings(&sinks);
    assert_eq!((all.receives(&all.sinks[0]), told.as_str()), (None, ""));
    let (_, told) = settings(&(sinks.clone() + "receivers: { ops: [nigth] }\n"));
    assert!(
        told.contains("no sink is called `nigth`") && told.contains("did you mean `night`?"),
        "{told}"
    );
    assert!(told.contains("t.yaml:5:"), "{told}");
    let (_, told) = settings(&(sinks.clone() + "receivers: { ops: [stdout] }\n"));
    assert!(told.contains("takes every line"), "{told}");
    let (_, told) = settings(&(sinks.clone() + "receivers: { ops: [] }\n"));
    assert!(told.contains("`receivers.ops` names no sink"), "{told}");
    let (_, told) = settings(&(sinks + "receivers: [mail]\n"));
    assert!(told.contains("must be a map, not a list"), "{told}");
    let (_, told) = settings("receivers: { ops: [mail] }\n");
    assert!(told.contains("`sinks` has none that tells somebody"), "{told}");
}

#[test]
fn a_name_that_nobody_hears_is_said_at_the_start() {
    let sinks = format!("sinks:\n  - stdout: {{}}\n  - {MAIL} }}\n");
    let assembled = |text: &str| {
        let folder = folder("");
        let rules = folder.path().join("rules.yaml").display().to_string();
        let (mut known, told) = settings(text);
        assert_eq!(told, "");
        known.patterns = vec![rules];
        let assembly = portcullis::assembly::Assembly::new(&known, &[]).unwrap();
        let unheard = assembly.unheard();
        unheard.iter().map(|(name, rule)| format!("{name} {rule}")).collect::<Vec<_>>()
    };
    assert_eq!(assembled(""), [""; 0]);
    assert_eq!(assembled(&sinks), ["user by-id"]);
    assert_eq!(assembled(&format!("{sinks}receivers: {{ user: [mail] }}\n")), ["ops by-id"]);
    assert_eq!(assembled(&format!("{sinks}receivers: {{ user: [mail], ops: [mail] }}\n")), [""; 0]);
}
