//! `run --follow` through the binary: files that are renamed, truncated, made and deleted while
//! they are read. What comes out is what a replay of the same lines gives, and every line is
//! counted once.

use crate::support::{failed_logins, portcullis, run_in, stdout};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Nothing here takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// Lines of one attack.
const ATTACK: usize = 10;

/// Ten failed logins from an address of their own; the tenth raises failed-logins-per-ip.
fn attack(number: usize) -> String {
    failed_logins(ATTACK, 1, &address(number))
}

fn address(number: usize) -> String {
    format!("203.0.113.{number}")
}

/// The binary at work on files in a folder of its own.
struct Follower {
    folder: TempDir,
    child: Child,
    lines: Receiver<String>,
    said: Receiver<String>,
    all_said: String,
    seen: Vec<String>,
    /// All that was written and is to be counted, in order.
    written: String,
}

impl Follower {
    /// Starts on what `prepare` has made.
    fn new(args: &[&str], prepare: impl FnOnce(&TempDir)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(&folder);
        let mut child = portcullis(folder.path())
            .args(["run", "--summary", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let said = lines_of(child.stderr.take().unwrap());
        let (all_said, written) = (String::new(), String::new());
        Self { folder, child, lines, said, all_said, seen: Vec::new(), written }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Appends to a file, made if need be, and notes it as to be counted.
    fn append(&mut self, name: &str, text: &str) {
        self.written += text;
        append(&self.folder, name, text);
    }

    /// Appends a whole attack and waits for its action.
    fn attack(&mut self, name: &str, number: usize) {
        self.append(name, &attack(number));
        self.wait_for(number);
    }

    fn acted(&self, number: usize) -> bool {
        let value = format!("\"value\":\"{}\"", address(number));
        self.seen.iter().any(|line| line.contains(&value) && line.contains("failed-logins-per-ip"))
    }

    fn wait_for(&mut self, number: usize) {
        let until = Instant::now() + DEADLINE;
        while !self.acted(number) {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no action for attack {number}"),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended before attack {number}"),
            }
        }
    }

    fn wait_until_it_says(&mut self, text: &str) {
        while !self.all_said.contains(text) {
            let line = self.said.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no `{text}`"));
            self.all_said += &(line + "\n");
        }
    }

    /// Does `acts` while it stands still, as on a machine that is suspended.
    fn while_it_stands_still(&mut self, acts: impl FnOnce(&mut Self)) {
        self.signal("-STOP");
        let status = format!("/proc/{}/stat", self.child.id());
        let until = Instant::now() + DEADLINE;
        // On a kernel without it the signal has to do.
        while fs::read_to_string(&status).is_ok_and(|text| !text.contains(") T ")) {
            assert!(Instant::now() < until, "it does not stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
        acts(self);
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Ends it by SIGTERM; gives its action lines and its summary.
    fn stop(mut self) -> (Vec<String>, serde_json::Value, String) {
        self.signal("-TERM");
        let mut said = std::mem::take(&mut self.all_said);
        said.extend(self.said.iter().map(|line| line + "\n"));
        self.seen.extend(self.lines.iter());
        assert_eq!(self.child.wait().unwrap().code(), Some(143), "{said}");
        let summary = said.lines().last().unwrap_or_default();
        let summary: serde_json::Value =
            serde_json::from_str(summary).unwrap_or_else(|error| panic!("{error}: {said}"));
        (std::mem::take(&mut self.seen), summary, std::mem::take(&mut self.written))
    }

    /// Ends it and compares: every line once, and the actions of a replay.
    fn stop_and_compare(self) {
        let (seen, summary, written) = self.stop();
        let lines = written.lines().count();
        assert_eq!(summary["lines"]["matched"], lines, "{summary}");
        assert_eq!(summary["lines"]["total"], lines, "{summary}");
        assert_eq!(summary["errors"], serde_json::json!([]), "{summary}");
        assert_eq!(seen, replayed(&written));
    }
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            if send.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    lines
}

fn append(folder: &TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn replayed(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let output = run_in(folder.path(), &["replay", "-", "-q"], text.as_bytes());
    stdout(&output).lines().map(str::to_owned).collect()
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_then_its_successor() {
    let mut follower = Follower::new(&["--follow", "app.log"], |_| {});
    follower.attack("app.log", 1);
    let held = OpenOptions::new().append(true).open(follower.path("app.log")).unwrap();
    fs::rename(follower.path("app.log"), follower.path("app.log.1")).unwrap();
    // The program that writes has not been told yet.
    let late = attack(2);
    (&held).write_all(late.as_bytes()).unwrap();
    follower.written += &late;
    follower.wait_for(2);
    follower.attack("app.log", 3);
    fs::rename(follower.path("app.log"), follower.path("app.log.2")).unwrap();
    follower.attack("app.log", 4);
    follower.stop_and_compare();
}

#[test]
fn a_file_that_is_rotated_between_the_pieces_of_a_line_is_one_stream() {
    let mut follower = Follower::new(&["--follow", "app.log"], |_| {});
    follower.attack("app.log", 1);
    // As a container runtime cuts a line: the last one that it takes.
    let lines = attack(2);
    let (whole, last) = lines.trim_end().rsplit_once('\n').unwrap();
    let (head, tail) = last.split_at(60);
    let piece = |tag: &str, text: &str| format!("2025-08-03T22:30:00.5Z stdout {tag} {text}\n");
    append(&follower.folder, "app.log", &format!("{whole}\n{}", piece("P", head)));
    fs::rename(follower.path("app.log"), follower.path("app.log.1")).unwrap();
    append(&follower.folder, "app.log", &piece("F", tail));
    follower.wait_for(2);
    let (seen, summary, _) = follower.stop();
    assert_eq!(seen, replayed(&(attack(1) + &lines)));
    assert_eq!(summary["lines"]["joined"], 2, "{summary}");
    assert_eq!(summary["records"]["matched"], 2 * ATTACK, "{summary}");
}

#[test]
fn a_file_that_is_copied_and_truncated_is_read_once() {
    // The glob fits the copy too.
    let mut follower = Follower::new(&["--follow", "app.log*"], |_| {});
    follower.attack("app.log", 1);
    fs::copy(follower.path("app.log"), follower.path("app.log.1")).unwrap();
    File::create(follower.path("app.log")).unwrap();
    // Longer than what was there, so that its length alone does not give it away.
    follower.attack("app.log", 102);
    follower.attack("app.log", 103);
    follower.stop_and_compare();
}

#[test]
fn a_file_that_is_rotated_twice_while_it_stands_still_is_read_in_order() {
    for pattern in ["app.log", "app.log*"] {
        let mut follower = Follower::new(&["--follow", pattern], |_| {});
        follower.attack("app.log", 1);
        follower.while_it_stands_still(|follower| {
            follower.append("app.log", &attack(2));
            fs::rename(follower.path("app.log"), follower.path("app.log.2")).unwrap();
            follower.append("app.log", &attack(3));
            fs::rename(follower.path("app.log"), follower.path("app.log.1")).unwrap();
            follower.append("app.log", &attack(4));
        });
        follower.wait_for(4);
        follower.stop_and_compare();
    }
}

#[test]
fn what_is_truncated_while_it_stands_still_is_read_on_in_its_copy() {
    let mut follower = Follower::new(&["--follow", "app.log"], |_| {});
    follower.attack("app.log", 1);
    follower.while_it_stands_still(|follower| {
        follower.append("app.log", &attack(2));
        fs::copy(follower.path("app.log"), follower.path("app.log.1")).unwrap();
        File::create(follower.path("app.log")).unwrap();
        // Not as long as what was there, or nobody could tell before it grows further.
        follower.append("app.log", &attack(103));
    });
    follower.wait_for(103);
    follower.stop_and_compare();
}

#[test]
fn a_new_file_of_the_next_day_is_found() {
    let glob = &["--follow", "app-*.jsonl"];
    let mut follower =
        Follower::new(glob, |folder| append(folder, "app-2025-08-03.jsonl", &attack(1)));
    follower.written += &attack(1);
    follower.wait_for(1);
    follower.attack("app-2025-08-04.jsonl", 2);
    follower.attack("app-2025-08-05.jsonl", 3);
    follower.stop_and_compare();
}

#[test]
fn an_unfinished_line_waits_for_its_newline() {
    let mut follower = Follower::new(&["--follow", "a.log", "b.log"], |_| {});
    let text = attack(1);
    let (first, rest) = text.split_at(text.len() - 30);
    append(&follower.folder, "a.log", first);
    follower.attack("b.log", 2);
    assert!(!follower.acted(1), "the tenth line was not whole");
    append(&follower.folder, "a.log", rest.trim_end());
    follower.attack("b.log", 3);
    assert!(!follower.acted(1), "its newline was not there");
    append(&follower.folder, "a.log", "\n");
    follower.wait_for(1);
    let (_, summary, _) = follower.stop();
    assert_eq!(summary["lines"]["matched"], 3 * ATTACK, "{summary}");
    assert_eq!(summary["lines"]["total"], 3 * ATTACK, "{summary}");
}

#[test]
fn a_file_that_does_not_exist_yet_is_waited_for_and_may_come_back() {
    let mut follower = Follower::new(&["--follow", "later/app.log"], |_| {});
    fs::create_dir(follower.path("later")).unwrap();
    follower.attack("later/app.log", 1);
    fs::remove_file(follower.path("later/app.log")).unwrap();
    follower.attack("later/app.log", 2);
    follower.stop_and_compare();
}

#[test]
fn two_files_share_their_windows() {
    let mut follower = Follower::new(&["--follow", "a.log", "--follow", "b.log"], |_| {});
    follower.attack("a.log", 1);
    follower.attack("b.log", 2);
    // Nine in one file and the tenth in the other.
    let text = attack(3);
    let (nine, tenth) = text.trim_end().rsplit_once('\n').unwrap();
    follower.append("a.log", &format!("{nine}\n"));
    follower.attack("a.log", 4);
    follower.append("b.log", &format!("{tenth}\n"));
    follower.wait_for(3);
    follower.stop_and_compare();
}

#[test]
fn a_signal_takes_in_all_that_was_written_before_it() {
    let mut follower = Follower::new(&["--follow", "a.log"], |_| {});
    follower.attack("a.log", 1);
    for number in 2..60 {
        follower.append("a.log", &attack(number));
    }
    follower.stop_and_compare();
}

#[test]
fn what_was_rotated_before_the_first_start_is_read_before_what_came_after_it() {
    // One attack, spread over all of them: read in another order, most of it would be late.
    let text = failed_logins(36, 100, &address(1));
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for names in [["app.log.10", "app.log.2", "app.log"], ["b.log", "c.log", "a.log"]] {
        let follower = Follower::new(&["--follow", "*.log*"], |folder| {
            for (age, (name, lines)) in names.iter().rev().zip(lines.chunks(12).rev()).enumerate() {
                append(folder, name, &lines.concat());
                let file = File::options().append(true).open(folder.path().join(name)).unwrap();
                let written = file.metadata().unwrap().modified().unwrap();
                file.set_modified(written - Duration::from_secs(3600) * age as u32).unwrap();
            }
        });
        let mut follower = Follower { written: text.clone(), ..follower };
        follower.wait_for(1);
        follower.stop_and_compare();
    }
}

#[test]
fn what_cannot_be_listed_for_want_of_descriptors_is_not_taken_for_gone() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..40 {
        append(&folder, &format!("{number}.log"), "{\"message\":\"x\"}\n");
    }
    let program = portcullis(folder.path()).get_program().to_owned();
    let output = Command::new("timeout")
        .args(["-s", "TERM", "4", "sh", "-c", "ulimit -n 24; exec \"$0\" run --follow '*.log'"])
        .arg(program)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("too many files are open"), "{said}");
    assert!(!said.contains("rotated"), "{said}");
    // Each file once, and the folder.
    assert!(said.matches(" ERROR ").count() < 60, "{said}");
}

#[test]
fn from_the_end_means_only_what_is_new() {
    let old = |folder: &TempDir| append(folder, "a.log", &attack(1));
    let mut follower = Follower::new(&["--follow", "a.log", "b.log", "--from", "end"], old);
    follower.wait_until_it_says("a.log: following");
    // b.log is new, so it is read whole.
    follower.attack("b.log", 2);
    follower.attack("a.log", 3);
    assert!(!follower.acted(1));
    follower.stop_and_compare();
}

#[test]
fn the_configuration_can_ask_for_it() {
    let mut follower = Follower::new(&["--config", "c.yaml"], |folder| {
        append(folder, "c.yaml", "source: { files: ['*.log'], follow: true }\n");
    });
    follower.attack("a.log", 1);
    follower.stop_and_compare();
}
