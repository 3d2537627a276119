//! Ceilings that hold, measured on the binary from outside: lines without an end, archives that
//! blow up, floods of keys. Peak memory is what the kernel says of the process.

use crate::support::{binary, portcullis, run_in, stderr, stdout};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Peak resident memory while a line goes on without an end.
const LINE_CEILING: u64 = 64 * MIB;
/// Peak resident memory while an archive inflates to one line.
const BOMB_CEILING: u64 = 64 * MIB;
/// Peak resident memory beyond the counted state.
const OVERHEAD: u64 = 96 * MIB;
/// Address space that the endless line must do with: resident memory, stacks and libraries.
const ADDRESS_SPACE: u64 = 512 * MIB;
/// The longest line that is tried, and how long it may take.
const LINE_AIM: u64 = 10_000 * MIB;
const LINE_TIME: Duration = Duration::from_secs(10);

/// Ended, with what it said and its peak resident memory in bytes.
struct Measured {
    status: ExitStatus,
    out: String,
    said: String,
    peak: u64,
}

/// Runs to the end and samples the kernel's high-water mark, which never falls.
fn measure(mut child: Child) -> Measured {
    let drain = |mut from: Box<dyn Read + Send>| -> JoinHandle<String> {
        std::thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        })
    };
    let out = drain(Box::new(child.stdout.take().unwrap()));
    let said = drain(Box::new(child.stderr.take().unwrap()));
    let mut peak = 0;
    let status = loop {
        peak = peak.max(high_water(child.id()));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(peak > 0, "the kernel does not say how much memory was used");
    Measured { status, out: out.join().unwrap(), said: said.join().unwrap(), peak }
}

fn high_water(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn spawn(folder: &Path, args: &[&str], stdin: Stdio) -> Child {
    portcullis(folder)
        .args(args)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn summary(measured: &Measured) -> serde_json::Value {
    let last = measured.said.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {}", measured.said))
}

fn login(second: u64, ip: &str, user: &str) -> String {
    let time = portcullis::decode::time::format(
        1_754_260_200_000_000 + i64::try_from(second).unwrap() * 1_000_000,
    );
    format!(
        r#"{{"timestamp":"{time}","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email={user}, ip={ip}, reason=invalid_password"}}"#
    ) + "\n"
}

/// The `n`-th address of a flood.
fn flooding(n: u64) -> String {
    format!("{}.{}.{}.{}", 20 + (n >> 24), (n >> 16) & 255, (n >> 8) & 255, n & 255)
}

#[test]
fn a_line_without_an_end_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["run", "--summary", "json"][..], &["replay", "-", "--summary", "json"]] {
        // Limited from its beginning, as by `ulimit -v`.
        let mut child = Command::new("prlimit")
            .arg(format!("--as={ADDRESS_SPACE}"))
            .arg(binary())
            .args(args)
            .current_dir(folder.path())
            .env_remove("PORTCULLIS_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("util-linux's `prlimit` is missing: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            let block = vec![b'x'; 1 << 20];
            let (started, mut written) = (Instant::now(), 0);
            stdin.write_all(br#"{"message":""#).unwrap();
            while written < LINE_AIM && started.elapsed() < LINE_TIME {
                stdin.write_all(&block).unwrap();
                written += MIB;
            }
            stdin.write_all(b"\"}\n").unwrap();
            // What follows is read as ever.
            for second in 0..10 {
                stdin.write_all(login(second, "203.0.113.7", "a@example.org").as_bytes()).unwrap();
            }
            (written, started.elapsed())
        });
        let measured = measure(child);
        let (written, took) = writer.join().unwrap();
        println!(
            "{args:?}: a line of {} MiB in {took:.1?}, peak {} MiB",
            written / MIB,
            measured.peak / MIB
        );
        assert!(written > 200 * MIB, "too slow to mean anything: {written} bytes");
        assert_eq!(measured.status.code(), Some(1), "{}", measured.said);
        assert!(measured.peak < LINE_CEILING, "{} MiB", measured.peak / MIB);
        let summary = summary(&measured);
        assert_eq!(
            (&summary["lines"]["oversized"], &summary["lines"]["matched"]),
            (&1.into(), &10.into())
        );
        assert!(measured.out.contains("failed-logins-per-ip"));
    }
}

#[test]
fn an_archive_that_inflates_to_a_gigabyte_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.gz");
    let mut packed = flate2::write::GzEncoder::new(
        BufWriter::new(File::create(&path).unwrap()),
        flate2::Compression::fast(),
    );
    let block = vec![b'{'; 1 << 20];
    for _ in 0..1024 {
        packed.write_all(&block).unwrap();
    }
    packed.finish().unwrap().flush().unwrap();
    let packed = fs::metadata(&path).unwrap().len();
    assert!(packed < 16 * MIB, "{packed}");
    for threads in ["1", "2"] {
        let args = ["replay", "bomb.gz", "--summary", "json", "--threads", threads];
        let measured = measure(spawn(folder.path(), &args, Stdio::null()));
        println!("{} KiB inflate to 1 GiB, peak {} MiB", packed >> 10, measured.peak / MIB);
        assert_eq!(measured.status.code(), Some(1), "{}", measured.said);
        assert!(measured.peak < BOMB_CEILING, "{} MiB", measured.peak / MIB);
        assert_eq!(summary(&measured)["lines"]["oversized"], 1);
    }
}

#[test]
fn a_million_keys_stay_below_the_limit_that_holds_them() {
    const LIMIT: u64 = 1024 * MIB;
    const KEYS: u64 = 1_000_000;
    let folder = tempfile::tempdir().unwrap();
    // One rule per address, so one key per address.
    let config = "memory_limit: 1GiB\nrules:\n  failed-logins-per-ip: off\n  suspicious-login-activity: off\n  credential-stuffing: off\n  break-in: off\n  failed-logins-global: off\n  authentication-failures: off\n";
    fs::write(folder.path().join("c.yaml"), config).unwrap();
    let measured = flood(folder.path(), KEYS, 2_000);
    let summary = summary(&measured);
    println!(
        "a million addresses: {} keys in {} MiB counted, peak {} MiB",
        summary["keys_held"],
        summary["state_bytes"].as_u64().unwrap() / MIB,
        measured.peak / MIB
    );
    assert_eq!(measured.status.code(), Some(0), "{}", measured.said);
    assert_eq!(summary["keys_evicted"], 0);
    assert!(summary["keys_held"].as_u64().unwrap() >= KEYS);
    assert!(summary["state_bytes"].as_u64().unwrap() < LIMIT);
    // What is counted is what is taken.
    let counted = summary["state_bytes"].as_u64().unwrap();
    assert!(counted < 120 * KEYS, "{} bytes a key", counted / KEYS);
    assert!(measured.peak < counted + OVERHEAD, "{} MiB", measured.peak / MIB);
}

#[test]
fn a_flood_past_the_limit_hides_nobody_blocks_nobody_else_and_is_told_twice() {
    const LIMIT: u64 = 16 * MIB;
    const KEYS: u64 = 400_000;
    /// Keys a second of event time: the flood lasts 2,000 s.
    const RATE: u64 = 200;
    const ATTACKERS: u64 = 20;
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("c.yaml"),
        "memory_limit: 16MiB\nrules: { failed-logins-global: off, authentication-failures: off }\n",
    )
    .unwrap();
    let mut file = BufWriter::new(File::create(folder.path().join("flood.jsonl")).unwrap());
    for n in 0..KEYS {
        let second = (n / RATE + 30).saturating_sub(n % 7 * 4);
        file.write_all(login(second, &flooding(n), "-").as_bytes()).unwrap();
        // Some of them as slowly as they can, hidden among the others.
        if n % (KEYS / 30 / ATTACKERS) == 0 {
            let attacker = n / (KEYS / 30 / ATTACKERS) % ATTACKERS;
            let line = login(n / RATE + 30, &format!("9.9.9.{attacker}"), "-");
            file.write_all(line.as_bytes()).unwrap();
        }
    }
    // Hours later the flood is over.
    for n in 0..200 {
        let second = KEYS / RATE + 3 * 3600 + n;
        file.write_all(login(second, "198.51.100.1", "-").as_bytes()).unwrap();
    }
    file.flush().unwrap();
    drop(file);
    let args =
        ["replay", "flood.jsonl", "--config", "c.yaml", "--summary", "json", "--threads", "2"];
    let measured = measure(spawn(folder.path(), &args, Stdio::null()));
    let summary = summary(&measured);
    let lines: Vec<serde_json::Value> =
        measured.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let notes: Vec<_> = lines.iter().filter(|line| line["rule"] == "limit").collect();
    println!(
        "{} evicted, {} held, {} notes, peak {} MiB",
        summary["keys_evicted"],
        summary["keys_held"],
        notes.len(),
        measured.peak / MIB
    );
    assert_eq!(measured.status.code(), Some(1), "{}", measured.said);
    assert!(summary["keys_evicted"].as_u64().unwrap() > KEYS / 2, "{summary}");
    assert!(summary["state_bytes"].as_u64().unwrap() <= LIMIT, "{summary}");
    assert!(measured.peak < LIMIT + OVERHEAD, "{} MiB", measured.peak / MIB);
    let said = |n: usize| notes[n]["reason"].as_str().unwrap();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(said(0).contains("memory_limit") && said(1).contains("exact again"), "{notes:?}");
    let attacker = |line: &&serde_json::Value| {
        line["target"]["value"].as_str().is_some_and(|ip| ip.starts_with("9.9.9."))
    };
    let starts = || lines.iter().filter(|line| line["op"] == "start");
    let told = |ip: String| starts().any(|line| line["target"]["value"] == *ip);
    for n in 0..ATTACKERS {
        assert!(told(format!("9.9.9.{n}")), "{n} was hidden");
    }
    let others = |line: &&serde_json::Value| !attacker(line) && line["target"]["kind"] == "ip";
    let later = "198.51.100.1";
    let blamed: Vec<_> =
        starts().filter(others).filter(|line| line["target"]["value"] != *later).collect();
    assert!(blamed.is_empty(), "{blamed:?}");
    // An estimate alerts, says that it is one, and does nothing else.
    let approx = || lines.iter().filter(|line| line["approx"] == true);
    assert!(approx().all(|line| line["action"] == "alert" && line["op"] == "start"));
    assert!(approx().all(|line| line["reason"].as_str().unwrap().starts_with("up to ")));
    let mut bytes = measured.out.lines().filter(|line| line.contains("approx\":"));
    let in_place = |line: &str| line.contains(",\"approx\":true,\"window_s\":");
    assert!(bytes.all(in_place));
    assert!(approx().count() > 0, "nothing was estimated");
    // What it gave up is the same for any number of threads.
    let args = [
        "replay",
        "flood.jsonl",
        "-q",
        "--config",
        "c.yaml",
        "--summary",
        "none",
        "--threads",
        "1",
    ];
    let other = run_in(folder.path(), &args, b"");
    assert!(stdout(&other) == measured.out, "{}", stderr(&other));
}

#[test]
fn what_is_decided_and_learnt_leaves_room_for_counting() {
    let logins = |n: u64| -> String {
        let line = |n: u64| login(n, &format!("20.1.{}.{}", n / 250, n % 250), &format!("u{n}"));
        let success = |line: String| {
            let line = line.replace("FAILED_LOGIN: email=", "SUCCESSFUL_LOGIN: user_id=");
            line.replace(", reason=invalid_password", "")
        };
        (0..n).map(|n| success(line(n))).collect()
    };
    // Five failures of each of many accounts, which is an alert each, from nobody knows where.
    let guessed = |n: u64| -> String {
        (0..n).map(|n| login(n / 50, "unknown", &format!("v{}", n / 5))).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    for (before, since, ended) in [(guessed(100_000), 2_000, true), (logins(60_000), 70_000, false)]
    {
        let attack = |n: u64| login(since + n, "203.0.113.66", &format!("root{n}"));
        let lines = before + &(0..100).map(attack).collect::<String>();
        fs::write(folder.path().join("in.jsonl"), lines).unwrap();
        fs::write(folder.path().join("c.yaml"), "memory_limit: 4MiB\n").unwrap();
        let args = ["replay", "in.jsonl", "--config", "c.yaml", "--summary", "json"];
        let measured = measure(spawn(folder.path(), &args, Stdio::null()));
        let summary = summary(&measured);
        let said = |parts: &[&str]| {
            measured.out.lines().any(|line| parts.iter().all(|part| line.contains(part)))
        };
        assert!(said(&["\"op\":\"start\",\"action\":\"block\"", "203.0.113.66"]), "{summary}");
        assert!(summary["state_bytes"].as_u64().unwrap() <= 4 * MIB, "{summary}");
        assert!(measured.peak < 4 * MIB + OVERHEAD, "{} MiB", measured.peak / MIB);
        assert_eq!(summary["limits"]["alerts"].is_u64(), ended, "{summary}");
        assert_eq!(said(&["ended early: alerts reached their share"]), ended, "{summary}");
    }
}

/// A failed login from each of `keys` addresses, `rate` a second, some times a little out of order.
fn flood(folder: &Path, keys: u64, rate: u64) -> Measured {
    let mut file = BufWriter::new(File::create(folder.join("flood.jsonl")).unwrap());
    for n in 0..keys {
        let second = (n / rate + 30).saturating_sub(n % 7 * 4);
        file.write_all(login(second, &flooding(n), "-").as_bytes()).unwrap();
    }
    file.flush().unwrap();
    let args =
        ["replay", "flood.jsonl", "--config", "c.yaml", "--summary", "json", "--threads", "2"];
    measure(spawn(folder, &args, Stdio::null()))
}
