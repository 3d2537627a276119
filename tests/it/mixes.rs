//! The streams that the benches measure: their bytes are pinned, since figures of different days
//! are compared, and each holds what it is said to hold.

use crate::mix::{ATTACKERS, ATTEMPTS, Mix};
use crate::support::{root, run, stderr};
use serde_json::Value;
use sha2::{Digest, Sha256};

const LINES: u64 = 10_000;

#[test]
fn their_bytes_are_pinned() {
    let made: Vec<(&str, String, usize)> = Mix::ALL
        .into_iter()
        .map(|mix| {
            let text = mix.text(LINES);
            (mix.name(), format!("{:x}", Sha256::digest(&text))[..16].to_owned(), text.len())
        })
        .collect();
    let pinned = [
        ("a", "a03a6efc45472a1d", 3_411_803),
        ("b", "990406bcb54b915a", 2_964_866),
        ("c", "b511da93ab92a4d0", 3_405_851),
        ("e", "cd8644e8021305e7", 4_489_256),
        ("d-addresses", "93369e7e570b2e80", 2_784_014),
        ("d-users", "fcb2a7636a8468b9", 2_540_000),
        ("d50", "faa929f005cafd5d", 2_753_678),
    ];
    let made: Vec<(&str, &str, usize)> =
        made.iter().map(|(name, hash, length)| (*name, hash.as_str(), *length)).collect();
    assert_eq!(
        made, pinned,
        "figures of before are not comparable any more: say so in CHANGELOG.md"
    );
}

#[test]
fn a_stream_that_is_written_is_the_one_in_memory() {
    for mix in Mix::ALL {
        let mut written = Vec::new();
        mix.write(LINES, &mut written).unwrap();
        assert!(written == mix.text(LINES), "{}", mix.name());
        assert_eq!(memchr::memchr_iter(b'\n', &written).count() as u64, LINES, "{}", mix.name());
    }
    assert!(Mix::A.text(LINES).starts_with(&Mix::A.text(100)));
}

fn summary(mix: Mix, flags: &[&str]) -> Value {
    let args = [&["replay", "-", "--quiet", "--summary", "json"], flags].concat();
    let output = run(&args, &mix.text(LINES));
    let summary: Value = serde_json::from_str(stderr(&output).lines().last().unwrap()).unwrap();
    for bad in ["near_miss", "late", "future", "no_time", "unreadable", "oversized", "empty"] {
        assert_eq!(summary["lines"][bad], 0, "{}: {bad}: {summary}", mix.name());
    }
    assert_eq!(summary["marks"]["ambiguous"], 0, "{summary}");
    assert_eq!(summary["marks"]["conflict"], 0, "{summary}");
    summary
}

fn events(summary: &Value, name: &str) -> u64 {
    summary["events"][name].as_u64().unwrap_or(0)
}

#[test]
fn each_holds_what_it_says() {
    // So few lines are a small sample.
    let near = |n: u64, aim: u64| n > aim * 3 / 4 && n < aim * 5 / 4;
    for mix in [Mix::A, Mix::E] {
        let summary = summary(mix, &["--pack", "velro"]);
        assert!(near(events(&summary, "FAILED_LOGIN"), LINES / 50), "{summary}");
        assert!(near(events(&summary, "SUCCESSFUL_LOGIN"), LINES * 3 / 100), "{summary}");
        assert!(near(events(&summary, "RATE_LIMIT_VIOLATION"), LINES / 200), "{summary}");
        assert_eq!(summary["events"].as_object().unwrap().len(), 3, "{summary}");
    }
    let attack = summary(Mix::B, &["--pack", "velro"]);
    assert!(near(events(&attack, "FAILED_LOGIN"), LINES * 9 / 10), "{attack}");
    let rules = root().join("benches/mix_c.yaml");
    let requests = summary(Mix::C, &["--patterns", rules.to_str().unwrap()]);
    assert!(near(events(&requests, "REQUEST_DENIED"), LINES / 20), "{requests}");
    assert_eq!(requests["records"]["total"], LINES, "a line was skipped unread: {requests}");
    for mix in [Mix::Addresses, Mix::Users] {
        let flood = summary(mix, &["--pack", "velro"]);
        assert_eq!(events(&flood, "FAILED_LOGIN"), LINES);
        assert!(flood["keys_held"].as_u64().unwrap() >= LINES, "two keys were the same: {flood}");
    }
    let hidden = summary(Mix::Hidden, &["--pack", "velro"]);
    assert_eq!(events(&hidden, "FAILED_LOGIN"), LINES);
    assert_eq!(hidden["actions"]["ip-blocking"]["start"], ATTACKERS, "{hidden}");
    const { assert!(ATTEMPTS > 20, "who is hidden is somebody to be blocked") };
}

#[test]
fn the_rules_of_mix_c_pass_their_own_tests() {
    let path = root().join("benches/mix_c.yaml");
    let output = run(&["check", path.to_str().unwrap()], b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
