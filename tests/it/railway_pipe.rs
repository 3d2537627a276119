//! What README says about reading Railway's logs by its own command line, run as it stands there, with a
//! stand-in for that command line in `tests/railway/bin`: it ends, is started again, and shows again what
//! it has shown before.

use crate::container::wait_until;
use crate::readme::blocks;
use crate::support::{binary, failed_logins, root, stderr, stdout};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

const ATTACKER: &str = "203.0.113.7";

/// The block of README in which this text stands.
fn shown(text: &str) -> String {
    let mut found = blocks("sh").into_iter().filter(|block| block.contains(text));
    found.next().unwrap_or_else(|| panic!("README shows no `{text}`"))
}

/// A shell that finds the stand-in and this program, as those of README do.
struct Shell(tempfile::TempDir);

impl Shell {
    /// The application will have written these lines.
    fn new(lines: &str) -> Self {
        let shell = Self(tempfile::tempdir().unwrap());
        fs::create_dir(shell.path("bin")).unwrap();
        symlink(binary(), shell.path("bin/portcullis")).unwrap();
        fs::write(shell.path("lines"), lines).unwrap();
        shell
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let own = [self.path("bin"), root().join("tests/railway/bin")];
        let usual = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{usual}", own[0].display(), own[1].display());
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(self.0.path())
            .env_remove("PORTCULLIS_CONFIG")
            .env("PATH", path)
            .env("RAILWAY_STANDIN", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn number(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).map_or(0, |text| text.parse().unwrap())
    }

    fn blocks(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("actions")).unwrap();
        blocks_in(&text)
    }
}

/// The blocks that the rule `ip-blocking` began.
fn blocks_in(text: &str) -> Vec<serde_json::Value> {
    let lines = text.lines().filter(|line| line.contains(r#""rule":"ip-blocking""#));
    let lines = lines.filter(|line| line.contains(r#""op":"start""#));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything that a shell has started, ended at the end.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _gone = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _gone = self.0.wait();
    }
}

#[test]
fn the_loop_blocks_once_at_the_21st_attempt_whatever_is_shown_again() {
    let loop_of_readme = shown("while :; do");
    assert!(loop_of_readme.contains("script -qefc 'railway logs --json' /dev/null"));
    // 30 attempts, of which each start shows 12 new ones and all the old ones again.
    let lines = failed_logins(30, 10, ATTACKER);
    let shell = Shell::new(&lines);
    let mut command = shell.command(&loop_of_readme);
    let actions = File::create(shell.path("actions")).unwrap();
    command.stdout(actions).stderr(File::create(shell.path("said")).unwrap()).process_group(0);
    let _group = Group(command.spawn().unwrap());
    let why = || fs::read_to_string(shell.path("said")).unwrap();
    // All of them, and all of them again, several times.
    wait_until("everything was shown", &why, || shell.number("written") == 30);
    let starts = shell.number("starts");
    assert!(starts >= 3, "{starts}");
    wait_until("it goes on", &why, || shell.number("starts") >= starts + 2);
    wait_until("the block comes", &why, || !shell.blocks().is_empty());
    let blocks = shell.blocks();
    assert_eq!(blocks.len(), 1, "{blocks:#?}");
    let block = &blocks[0];
    assert_eq!(block["target"]["value"], ATTACKER);
    // The 21st line, not the 21st that was shown.
    let twenty_first: serde_json::Value =
        serde_json::from_str(lines.lines().nth(20).unwrap()).unwrap();
    assert_eq!(block["time"], twenty_first["timestamp"]);
    assert_eq!(block["reason"], format!("21 FAILED_LOGIN from {ATTACKER} within 1h"));
}

#[test]
fn the_loop_ends_when_portcullis_has_ended() {
    let shell = Shell::new(&failed_logins(3, 10, ATTACKER));
    fs::write(shell.path("portcullis.yaml"), "nonsense: true\n").unwrap();
    let mut command = shell.command(&shown("while :; do"));
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut group = Group(command.spawn().unwrap());
    wait_until("the loop ends", &String::new, || group.0.try_wait().unwrap().is_some());
}

#[test]
fn the_archive_is_replayed() {
    let replay = shown("--since");
    let shell = Shell::new(&failed_logins(30, 10, ATTACKER));
    let output = shell.command(&replay).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(blocks_in(&stdout(&output)).len(), 1, "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn a_pipe_that_ends_says_what_ended_and_what_to_do() {
    // As the command line spells levels.
    let lines = failed_logins(600, 1, ATTACKER).replace("WARNING", "warn");
    let shell = Shell::new(&lines);
    let output = shell.command("railway logs --json | portcullis run").output().unwrap();
    let said = stderr(&output);
    for part in [
        "standard input ended",
        "`railway logs` is no longer there",
        "Lines read: 500, the last ",
        "Nothing is watched any more",
        "last 500 lines",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // What it proposes is what README shows, in one line.
    let proposed = said.lines().find_map(|line| line.trim().strip_prefix("while :; do ")).unwrap();
    let whole = shown("while :; do").split_whitespace().collect::<Vec<_>>().join(" ");
    let whole = whole.replace(" echo sleep 2 done", "; echo; sleep 2; done");
    assert_eq!(format!("while :; do {proposed}"), whole);
}
