//! Programs that are given action lines, well-behaved or not.

use crate::remotes::parse;
use crate::service::until;
use crate::support::{failed_logins, run, stderr};
use portcullis::action::{Action, Op};
use portcullis::sink::command::Options;
use portcullis::sink::remote::{Progress, Remote, Trouble};
use portcullis::sink::{Context, SinkConfig};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

fn action(op: &str, reason: &str) -> Action {
    let line = json!({
        "schema": 1, "id": "0123456789abcdef", "time": "2025-08-03T23:26:40.000000Z", "op": op,
        "action": "block", "target": { "kind": "ip", "value": "203.0.113.7" }, "rule": "r",
        "pack": "p", "mode": "enforce", "reason": reason,
    });
    Action::of_json(&line.to_string()).unwrap()
}

/// A script in a folder of its own, in which it may leave things; `$HERE` is that folder.
struct Script {
    folder: TempDir,
    options: Options,
}

impl Script {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script");
        let text = format!("#!/bin/sh\nHERE={}\n{text}\n", folder.path().display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut options = Options::new(vec![path.to_str().unwrap().to_owned()]);
        // A busy machine is no reason to be killed.
        options.timeout = Duration::from_secs(60);
        Self { folder, options }
    }

    fn within(mut self, timeout: Duration) -> Self {
        self.options.timeout = timeout;
        self
    }

    fn open(&self) -> Box<dyn Remote> {
        self.options.open(&Context::default()).unwrap()
    }

    fn deliver(&self, actions: &[Action]) -> Progress {
        self.open().deliver(actions, SystemTime::UNIX_EPOCH)
    }

    fn left(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

fn later(progress: &Progress) -> &str {
    match &progress.trouble {
        Some(Trouble::Later { why, .. }) => why,
        other => panic!("{other:?} is not for later"),
    }
}

#[test]
fn each_line_is_read_by_a_run_of_its_own() {
    let script = Script::new("cat >>$HERE/lines; echo \"$#\" >>$HERE/runs; pwd >$HERE/where");
    let actions = [
        action("start", "21 FAILED_LOGIN"),
        action("end", "$(touch /tmp/x) `id` \"; 'quoted'\n\u{202e}"),
    ];
    assert_eq!(script.deliver(&actions), Progress::all(&actions));
    let lines = format!("{}\n{}\n", actions[0].json(), actions[1].json());
    assert_eq!(script.left("lines"), lines);
    assert_eq!(script.left("runs"), "0\n0\n");
    assert_eq!(script.left("where"), "/\n");
    // Standard input can be opened again, as many programs do.
    let script = Script::new("cat /dev/stdin >$HERE/lines; echo x >/dev/stderr");
    assert_eq!(script.deliver(&actions[..1]), Progress::all(&actions[..1]));
    assert_eq!(script.left("lines"), format!("{}\n", actions[0].json()));
}

#[test]
fn arguments_are_taken_as_they_are() {
    let mut script = Script::new("printf '%s|' \"$@\" >$HERE/args");
    script.options.argv.extend(["a b".to_owned(), "$HOME; id".to_owned(), String::new()]);
    assert_eq!(script.deliver(&[action("start", "x")]).trouble, None);
    assert_eq!(script.left("args"), "a b|$HOME; id||");
}

#[test]
fn of_the_environment_only_what_is_named_is_passed_on() {
    let script = Script::new("env >$HERE/env");
    assert_eq!(script.deliver(&[action("start", "x")]).trouble, None);
    let mut seen: Vec<String> = script.left("env").lines().map(str::to_owned).collect();
    // What the shell itself puts there.
    seen.retain(|line| {
        !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| line.starts_with(own))
    });
    assert_eq!(seen, ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
    let mut script = script;
    script.options.env = vec!["CARGO_MANIFEST_DIR".to_owned()];
    assert_eq!(script.deliver(&[action("start", "x")]).trouble, None);
    assert!(script.left("env").contains("CARGO_MANIFEST_DIR=/"), "{}", script.left("env"));
    assert!(!format!("{:?}", script.open()).contains(env!("CARGO_MANIFEST_DIR")));
    script.options.env = vec!["PORTCULLIS_TEST_UNSET".to_owned()];
    let error = script.options.open(&Context::default()).unwrap_err();
    assert!(error.contains("the variable PORTCULLIS_TEST_UNSET is not set"), "{error}");
}

#[test]
fn the_exit_code_says_what_became_of_it() {
    let actions = [action("start", "x"), action("end", "y")];
    let script = Script::new("echo x >>$HERE/runs; [ $(wc -l <$HERE/runs) -lt 2 ] || exit 75");
    let progress = script.deliver(&actions);
    assert_eq!(progress.done, 1);
    assert!(later(&progress).ends_with("script asks to be tried again"), "{progress:?}");
    let said = "printf '\\n  no \\033[31msuch\\nthing\\n' >&2; exit 3";
    let progress = Script::new(said).deliver(&actions);
    assert_eq!(progress.done, 0);
    let Some(Trouble::Refused { why }) = progress.trouble else { panic!("{progress:?}") };
    assert!(why.ends_with("script ended with exit code 3: no \\u{1b}[31msuch"), "{why}");
    let progress = Script::new("kill -9 $$").deliver(&actions);
    assert!(later(&progress).ends_with("script was ended by signal 9"), "{progress:?}");
    // It may be taken away while we work.
    let script = Script::new("exit 0");
    let mut sink = script.open();
    std::fs::remove_file(&script.options.argv[0]).unwrap();
    let progress = sink.deliver(&actions, SystemTime::UNIX_EPOCH);
    assert!(later(&progress).contains("cannot be run: No such file"), "{progress:?}");
}

fn is_running(process: &str) -> bool {
    // What nobody waits for stays a zombie.
    let state = std::fs::read_to_string(Path::new("/proc").join(process).join("stat"));
    state.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let script =
        Script::new("sleep 300 & echo $! >$HERE/child; echo $$ >$HERE/own; trap '' TERM; wait")
            .within(Duration::from_secs(2));
    let begin = Instant::now();
    let progress = script.deliver(&[action("start", "x")]);
    assert!(later(&progress).ends_with("was not done after 2s and was killed"), "{progress:?}");
    assert!(begin.elapsed() < Duration::from_secs(60));
    for name in ["own", "child"] {
        let process = script.left(name).trim().to_owned();
        assert!(!process.is_empty(), "the script did not get so far");
        until(|| !is_running(&process), &|| format!("{name} {process} runs on"));
    }
}

#[test]
fn nothing_that_a_program_does_with_its_pipes_holds_us() {
    // More than a pipe holds, and nobody reads it.
    let long = action("start", &"x".repeat(1 << 20));
    for (text, what) in [
        ("exit 0", "ends without reading"),
        ("exec <&-; exit 0", "closes its input"),
        ("head -c 100 >/dev/null", "reads a little"),
        ("cat >$HERE/lines", "reads all"),
        ("yes | head -c 3000000 >&2; yes | head -c 3000000; cat >/dev/null", "talks much"),
        ("exec >&- 2>&-; cat >/dev/null", "closes its outputs"),
        ("setsid sleep 20 & exit 0", "leaves somebody behind who holds the pipes"),
    ] {
        let script = Script::new(text);
        let begin = Instant::now();
        let progress = script.deliver(std::slice::from_ref(&long));
        assert_eq!(progress, Progress { done: 1, trouble: None }, "{what}");
        assert!(begin.elapsed() < Duration::from_secs(15), "{what}: {:?}", begin.elapsed());
        if what == "reads all" {
            assert_eq!(script.left("lines").len(), long.json().len() + 1);
        }
    }
    // One that never stops talking is killed in time as any other.
    let script = Script::new("exec yes >&2").within(Duration::from_secs(1));
    let progress = script.deliver(&[long]);
    assert!(later(&progress).ends_with("was not done after 1s and was killed: y"), "{progress:?}");
}

#[test]
fn it_takes_the_lines_it_was_told_to_take() {
    let mut script = Script::new("exit 0");
    let sink = script.open();
    assert!(sink.acts());
    for (op, wanted) in
        [("start", true), ("extend", true), ("end", true), ("withheld", false), ("note", false)]
    {
        assert_eq!(sink.wants(&action(op, "x")), wanted, "{op}");
    }
    let mut shadow = action("start", "x");
    shadow.mode = "shadow";
    assert!(!sink.wants(&shadow));
    script.options.on = vec![Op::Withheld];
    script.options.actions = vec!["lock"];
    let sink = script.open();
    let mut withheld = action("withheld", "x");
    assert!(!sink.wants(&withheld));
    withheld.action = "lock";
    assert!(sink.wants(&withheld));
    let would = sink.would(&action("start", "x"));
    assert!(would.ends_with("script for start block 203.0.113.7"), "{would}");
    let told = script.open().test(SystemTime::UNIX_EPOCH).unwrap();
    assert!(told.ends_with("script is there and may be run; only an action runs it"), "{told}");
}

#[test]
fn a_program_that_is_not_there_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "exit 0\n").unwrap();
    for (path, said) in [
        ("/nowhere/script", "/nowhere/script: No such file"),
        (folder.path().to_str().unwrap(), "is no file"),
        (plain.to_str().unwrap(), "may not be run: it has no x bit"),
    ] {
        let error = Options::new(vec![path.to_owned()]).open(&Context::default()).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn its_settings_are_checked_where_they_stand() {
    let config = parse(
        "command: { argv: [/bin/true, 7], timeout: 30s, on: [start, note], actions: [block], env: [TOKEN] }\n",
    );
    let expected = Options {
        argv: vec!["/bin/true".into(), "7".into()],
        timeout: Duration::from_secs(30),
        on: vec![Op::Start, Op::Note],
        actions: vec!["block"],
        env: vec!["TOKEN".into()],
    };
    assert_eq!(config.as_ref(), Ok(&SinkConfig::Command(expected)));
    assert_eq!(config.unwrap().name(), "command /bin/true");
    for (text, said) in [
        ("{}", "needs `argv`"),
        ("{ argv: [] }", "`argv` is empty"),
        ("{ argv: [script.sh] }", "`script.sh` is no absolute path"),
        ("{ argv: /bin/echo hello }", "a list of arguments, not a command line"),
        ("{ argv: [/bin/true], on: [strat] }", "did you mean `start`?"),
        ("{ argv: [/bin/true], on: [] }", "`on` is empty"),
        ("{ argv: [/bin/true], actions: [lokc] }", "did you mean `lock`?"),
        ("{ argv: [/bin/true], env: [A=b] }", "`env` names variables, without their values"),
        ("{ argv: [/bin/true], timeout: 0s }", "at least"),
        ("{ argv: [/bin/true], shell: true }", "has no key `shell`"),
    ] {
        let told = parse(&format!("command: {text}\n")).unwrap_err();
        assert!(told.contains(said), "{text}: {told}");
    }
}

#[test]
fn a_replay_says_what_had_ended_before_it_came_to_a_sink() {
    let script = Script::new("exit 75");
    let config = script.folder.path().join("c.yaml");
    let path = &script.options.argv[0];
    let text = format!(
        "mode: enforce\nsinks:\n  - command: {{ argv: [{path}], on: [start], actions: [block] }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let args = ["replay", "-", "--apply", "--config", config.to_str().unwrap()];
    let lines = failed_logins(21, 170, "203.0.113.7");
    let output = run(&args, lines.as_bytes());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("1 action had ended already and was not carried out"), "{said}");
    // What lasts is done.
    let script = Script::new("cat >>$HERE/lines");
    let text = std::fs::read_to_string(&config).unwrap().replace(path, &script.options.argv[0]);
    std::fs::write(&config, text).unwrap();
    let output = run(&args, lines.replace("2025-", "2099-").as_bytes());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("had ended already"), "{said}");
    assert_eq!(script.left("lines").lines().count(), 1);
}
