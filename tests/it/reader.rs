//! Who reads standard output slowly, or not at all: nobody else may have to wait for him.

use crate::service::{Running, Service, config, id, login, until};
use crate::support::{portcullis, run_in};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

const RULES: &str = "
pack: own
rules:
  - { id: few, title: t, on: FAILED_LOGIN, per: ip, when: count >= 2 within 1h, then: block for 24h }
";
/// Far more lines than fit into a pipe.
const ADDRESSES: usize = 600;

fn log() -> String {
    let lines = (0..ADDRESSES * 2).map(|n| {
        let ip = format!("203.0.{}.{}", n % ADDRESSES / 250, n % ADDRESSES % 250 + 1);
        login(1_754_260_200_000_000 + i64::try_from(n).unwrap() * 100_000, &ip, "u") + "\n"
    });
    lines.collect()
}

fn service(more: &str) -> Service {
    let more = format!(
        "brakes: {{ max_blocks_per_minute: off }}\nsource: {{ files: [app.log], follow: true }}\n\
         sinks:\n  - stdout: {{ output: json }}\n  - file: {{ path: actions.jsonl }}\n{more}"
    );
    let service = Service::new(&config(&more), RULES);
    service.write("app.log", &log());
    service
}

/// Starts it with a pipe that nobody reads, and waits until the file has every line.
fn unread(service: &mut Service) -> Running {
    let (mut command, out, said) = service.command();
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut running = Running::new(child, out, said);
    until(|| running.goes_on() && service.lines("actions.jsonl").len() == ADDRESSES, &|| {
        format!("the file has {} lines", service.lines("actions.jsonl").len())
    });
    running
}

/// What whoever comes late finds, as whole lines.
fn read(running: &mut Running) -> Vec<String> {
    let mut text = String::new();
    running.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let whole = text.rfind('\n').map_or(0, |at| at + 1);
    text[..whole].lines().map(str::to_owned).collect()
}

#[test]
fn who_does_not_read_holds_up_nobody_and_gets_the_rest_at_the_next_start() {
    let mut service = service("state_dir: ./state\n");
    let mut running = unread(&mut service);
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(143), "{}", running.said());
    assert!(running.said().contains("not read to its end"), "{}", running.said());
    let first = read(&mut running);
    assert!(first.len() < ADDRESSES, "{}", first.len());

    let mut running = service.start();
    let all = service.lines("actions.jsonl");
    until(|| running.goes_on() && running.out().contains(&id(all.last().unwrap())), &|| {
        "the last line does not come".to_owned()
    });
    let second: Vec<String> = running.out().lines().map(str::to_owned).collect();
    running.stop();
    // None is missing, and what comes twice was on its way at the end of the first run.
    let again = first.len() + second.len() - all.len();
    assert_eq!([&first[..first.len() - again], &second[..]].concat(), all);
    assert_eq!(first[first.len() - again..], second[..again]);
}

#[test]
fn who_reads_late_gets_every_line_once() {
    for more in ["", "state_dir: ./state\n"] {
        let mut service = service(more);
        let mut running = unread(&mut service);
        running.signal("TERM");
        // It has two seconds for that.
        let told = read(&mut running);
        assert_eq!(running.wait().code(), Some(143), "{}", running.said());
        assert_eq!(told, service.lines("actions.jsonl"), "{more}");
        assert!(!running.said().contains("not read"), "{}", running.said());
    }
}

#[test]
fn without_a_state_directory_it_is_said_that_lines_were_not_read() {
    let mut service = service("");
    let mut running = unread(&mut service);
    running.signal("TERM");
    assert_eq!(running.wait().code(), Some(143), "{}", running.said());
    assert!(
        running.said().contains("sink stdout: its last lines were not read"),
        "{}",
        running.said()
    );
}

/// Whoever has gone ends the stream, as ever.
#[test]
fn who_has_gone_ends_the_stream() {
    for more in ["", "state_dir: ./state\n"] {
        let mut service = service(more);
        let mut running = unread(&mut service);
        drop(running.child.stdout.take());
        assert_eq!(running.wait().code(), Some(0), "{more}: {}", running.said());
    }
}

/// Whoever shares an output may have made it one that does not wait for its reader.
#[test]
fn a_replay_waits_for_who_reads_late_whatever_its_output_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.log"), log()).unwrap();
    std::fs::write(folder.path().join("own.yaml"), RULES).unwrap();
    let args = ["replay", "--pack", "velro", "--patterns", "own.yaml", "--quiet", "app.log"];
    let expected = run_in(folder.path(), &args, b"").stdout;
    let (mut reader, out) = UnixStream::pair().unwrap();
    out.set_nonblocking(true).unwrap();
    let mut child = portcullis(folder.path())
        .args(args)
        .stdout(Stdio::from(OwnedFd::from(out)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut told = Vec::new();
    let mut piece = vec![0; 4096];
    loop {
        std::thread::sleep(std::time::Duration::from_millis(1));
        match reader.read(&mut piece).unwrap() {
            0 => break,
            count => told.extend_from_slice(&piece[..count]),
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(String::from_utf8(told), String::from_utf8(expected));
}

/// A line that was on its way when the disk was full has no end: the next is none of it.
#[test]
fn a_line_is_not_put_behind_a_torn_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.log"), log()).unwrap();
    std::fs::write(folder.path().join("own.yaml"), RULES).unwrap();
    let out = folder.path().join("actions.jsonl");
    for (before, between) in [("", ""), ("{\"schema\":1}\n", ""), ("{\"schema\":1", "\n")] {
        for command in ["replay", "run"] {
            let args = if command == "replay" { vec!["app.log"] } else { Vec::new() };
            std::fs::write(&out, before).unwrap();
            let appended = std::fs::OpenOptions::new().append(true).open(&out).unwrap();
            let ended = portcullis(folder.path())
                .args([command, "--pack", "velro", "--patterns", "own.yaml", "--quiet"])
                .args(args)
                .stdin(std::fs::File::open(folder.path().join("app.log")).unwrap())
                .stdout(appended)
                .stderr(Stdio::null())
                .status();
            assert!(ended.unwrap().code().is_some());
            let written = std::fs::read_to_string(&out).unwrap();
            let begins = format!("{before}{between}{{\"schema\":1,");
            assert!(written.starts_with(&begins), "{command}: {}", &written[..80]);
        }
    }
}
