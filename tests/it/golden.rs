//! Folders of input and expected output, found by listing: a new case is a new folder, no code.
//!
//! * `fixtures/shapes/<name>/`: each line of `input` and what it decodes to, in `expected.txt`
//! * `fixtures/<case>/`: what `replay` of the files `input*` says, in `expected.jsonl`, and what
//!   its summary holds, in `expected.summary.json` (only the keys given there); `args` has one
//!   flag a line, `portcullis.yaml` is found by the program itself
//!
//! `UPDATE_EXPECT=1 cargo test golden` writes the expected files anew. Read the difference.

use crate::support::{portcullis, root, stderr};
use portcullis::decode::time::{self, When};
use portcullis::decode::{DecodeConfig, Decoded, Record, decode};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Shapes that every release must read, whatever else is added.
const SHAPES_MIN: usize = 60;

fn folders(of: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(of)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The inputs of a case, by name.
fn inputs(case: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(case)
        .unwrap()
        .map(|entry| name(&entry.unwrap().path()))
        .filter(|name| name.starts_with("input"))
        .collect();
    found.sort();
    found
}

/// What differs between the file and what came out; with `UPDATE_EXPECT` the file is written.
fn differs(file: &Path, got: &str) -> Option<String> {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, got).unwrap();
        return None;
    }
    let Ok(want) = fs::read_to_string(file) else {
        return Some(format!("{}: not there; write it with UPDATE_EXPECT=1", file.display()));
    };
    if want == got {
        return None;
    }
    let pair = want.lines().zip(got.lines()).enumerate().find(|(_, (want, got))| want != got);
    let (line, want, got) = match pair {
        Some((line, (want, got))) => (line + 1, want.to_owned(), got.to_owned()),
        None => {
            (0, format!("{} lines", want.lines().count()), format!("{} lines", got.lines().count()))
        }
    };
    Some(format!("{}:{line}:\n  want {want}\n  got  {got}", file.display()))
}

fn show(record: &Record<'_>) -> String {
    let mut out = format!("  {}", record.layers().collect::<Vec<_>>().join(" > "));
    if record.bent() {
        out.push_str(" (bent)");
    }
    out.push('\n');
    let mut say = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(out, "    {what:<10} {}", value.escape_debug()).unwrap();
        }
    };
    say(
        "time",
        record.when().map(|when| match when {
            When::At(at) | When::Twice { first: at, .. } => time::format(at),
            When::Yearless(yearless) => format!("{yearless:?}"),
        }),
    );
    say("level", record.level().map(|level| level.to_string()));
    say("logger", record.logger().map(str::to_owned));
    for message in record.messages().all() {
        say("message", Some(message.to_string()));
    }
    say(
        "ip",
        record.ip().map(|fact| {
            let claimed = if fact.proven { "" } else { " (claimed)" };
            format!("{}{claimed} from {}", fact.ip, fact.from)
        }),
    );
    for (what, fact) in [
        ("user", record.user()),
        ("user_id", record.user_id()),
        ("request_id", record.request_id()),
        ("country", record.country()),
    ] {
        say(what, fact.as_ref().map(|fact| format!("{} from {}", fact.value, fact.from)));
    }
    say("status", record.status().map(|status| status.to_string()));
    say("method", record.method().map(str::to_owned));
    say("path", record.path().map(str::to_owned));
    say("duration", record.duration_ms().map(|ms| format!("{ms} ms")));
    let doubts = record.doubts();
    let named = [
        (doubts.ip, "ip"),
        (doubts.user, "user"),
        (doubts.user_id, "user_id"),
        (doubts.core, "core"),
    ];
    let named: Vec<&str> = named.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
    say("doubts", (!named.is_empty()).then(|| named.join(", ")));
    out
}

fn decoded(input: &[u8]) -> String {
    let config = DecodeConfig::default();
    let mut out = String::new();
    let lines = input.strip_suffix(b"\n").unwrap_or(input).split(|byte| *byte == b'\n');
    for (line, number) in lines.zip(1..) {
        match decode(line, &config) {
            Decoded::Empty => writeln!(out, "{number} empty").unwrap(),
            Decoded::Partial => writeln!(out, "{number} partial").unwrap(),
            Decoded::Unread(why, error) => {
                writeln!(out, "{number} unread: {why}: {error}").unwrap();
            }
            Decoded::Records(records) => {
                writeln!(out, "{number} records: {}", records.len()).unwrap();
                records.iter().for_each(|record| out.push_str(&show(record)));
            }
        }
    }
    out
}

#[test]
fn every_shape_decodes_as_expected() {
    let shapes = folders(&root().join("fixtures/shapes"));
    assert!(shapes.len() >= SHAPES_MIN, "only {} shapes", shapes.len());
    let wrong: Vec<String> = shapes
        .iter()
        .filter_map(|shape| match fs::read(shape.join("input")) {
            Ok(input) => differs(&shape.join("expected.txt"), &decoded(&input)),
            Err(error) => Some(format!("{}/input: {error}", shape.display())),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The keys of `want` that `got` has not, or has with another value.
fn missing(want: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match want {
        Value::Object(members) => {
            for (key, value) in members {
                missing(value, &got[key], &format!("{path}.{key}"), out);
            }
        }
        _ if want == got => {}
        _ => out.push(format!("{path}: want {want}, got {got}")),
    }
}

fn case(case: &Path) -> Result<(), String> {
    let inputs = inputs(case);
    if inputs.is_empty() {
        return Err(format!("{}: no input", case.display()));
    }
    let args = fs::read_to_string(case.join("args")).unwrap_or_default();
    let output = portcullis(case)
        .arg("replay")
        .args(&inputs)
        .args(["--output", "json", "--summary", "json"])
        .args(args.lines().filter(|line| !line.is_empty()))
        .output()
        .unwrap();
    if !matches!(output.status.code(), Some(0 | 1)) {
        return Err(format!("{}: {}\n{}", case.display(), output.status, stderr(&output)));
    }
    let actions = String::from_utf8(output.stdout.clone()).unwrap();
    if let Some(wrong) = differs(&case.join("expected.jsonl"), &actions) {
        return Err(wrong);
    }
    let file = case.join("expected.summary.json");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
    let want: Value = serde_json::from_str(&text).unwrap();
    let errors = stderr(&output);
    let summary = errors.lines().rev().find(|line| line.starts_with('{'));
    let Some(summary) = summary else {
        return Err(format!("{}: no summary in\n{errors}", case.display()));
    };
    let got: Value = serde_json::from_str(summary).unwrap();
    let mut wrong = Vec::new();
    missing(&want, &got, "", &mut wrong);
    if wrong.is_empty() { Ok(()) } else { Err(format!("{}: {}", file.display(), wrong.join("; "))) }
}

#[test]
fn every_case_says_what_is_expected() {
    let cases: Vec<PathBuf> = folders(&root().join("fixtures"))
        .into_iter()
        .filter(|case| name(case) != "shapes" && !name(case).starts_with("state-"))
        .collect();
    assert!(!cases.is_empty(), "no cases");
    let wrong: Vec<String> = cases.iter().filter_map(|path| case(path).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_case_without_input_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("expected.jsonl"), "").unwrap();
    assert!(case(folder.path()).unwrap_err().ends_with("no input"));
}
