//! The house rules, held by looking at the source: who may use whom, what pure rooms must not
//! touch, and that every file says what it is.

use crate::support::root;
use std::path::{Path, PathBuf};

/// The rooms in the order in which data flows: each may use itself and what stands to its left.
const ROOMS: [&str; 8] =
    ["source", "decode", "pattern", "window", "detect", "action", "decide", "sink"];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A file's code: tests are cut off, since they may use anything.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_owned()
}

fn room(path: &Path) -> Option<&'static str> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS.into_iter().find(|room| *room == name)
}

/// The rooms that a file's code names as `crate::room`. Instants are everybody's: what reads and
/// writes them stands in decode, and is a type of the whole house.
fn used(text: &str) -> Vec<&'static str> {
    ROOMS
        .into_iter()
        .filter(|room| {
            text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
                let line = line.replace("crate::decode::time", "");
                line.contains(&format!("crate::{room}::"))
                    || line.contains(&format!("crate::{room};"))
            })
        })
        .collect()
}

#[test]
fn rooms_use_only_what_stands_to_their_left() {
    let place = |room: &str| ROOMS.iter().position(|known| *known == room).unwrap();
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let Some(own) = room(&path) else { continue };
        for other in used(&code(&path)) {
            if place(other) > place(own) {
                wrong.push(format!("{} uses {other}", path.display()));
            }
            if own == "sink" && !matches!(other, "sink" | "action") {
                wrong.push(format!("{}: a sink knows only actions, not {other}", path.display()));
            }
            if other == "source" && own != "source" {
                wrong.push(format!("{} uses source; lines reach it as bytes", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_test_of_rooms_sees_what_it_should() {
    assert_eq!(used("use crate::sink::Sink;\n// crate::decide::x\n"), ["sink"]);
    assert_eq!(room(&root().join("src/action.rs")), Some("action"));
    assert_eq!(room(&root().join("src/decide/guard.rs")), Some("decide"));
    assert_eq!(room(&root().join("src/pipeline.rs")), None);
}

#[test]
fn pure_rooms_touch_no_file_no_clock_and_no_thread() {
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let pure = matches!(
            room(&path),
            Some("decode" | "pattern" | "window" | "detect" | "decide" | "action")
        );
        if !pure {
            continue;
        }
        let text = code(&path);
        for banned in [
            "std::fs",
            "std::net::Tcp",
            "SystemTime",
            "Instant",
            "std::thread",
            "std::env",
            "tokio",
            "println!",
        ] {
            if text.contains(banned) {
                wrong.push(format!("{} uses {banned}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_have_their_room() {
    let owners: [(&str, &[&str]); 13] = [
        ("rdkafka::", &["kafka.rs", "source/kafka/consumer.rs", "sink/kafka.rs"]),
        ("clap::", &["cli.rs"]),
        ("serde_saphyr", &["yaml.rs"]),
        ("indicatif", &["command/replay.rs"]),
        ("thread::spawn", &["pipeline.rs", "pipeline"]),
        ("maxminddb", &["assembly.rs"]),
        ("tracing_subscriber", &["telemetry.rs"]),
        ("mimalloc", &["main.rs"]),
        ("hashbrown", &["decide/ledger.rs", "detect/baseline.rs"]),
        ("siphasher", &["window/seed.rs"]),
        ("wide::", &["decode/lanes.rs"]),
        ("rusqlite", &["state"]),
        ("tungstenite", &["source/railway"]),
    ];
    let mut wrong = Vec::new();
    for path in rust_files(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        for (name, owned) in owners {
            if code(&path).contains(name) && !owned.iter().any(|owner| inside.starts_with(owner)) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_is() {
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//! "), "{} does not begin with a //! line", path.display());
            assert!(!text.starts_with("//! To be filled"), "{} is empty", path.display());
        }
    }
}

#[test]
fn no_room_has_a_name_that_says_nothing() {
    for path in rust_files(&root().join("src")) {
        for word in ["util", "utils", "common", "helpers", "manager", "types", "misc"] {
            assert!(!path.ends_with(format!("{word}.rs")), "{}", path.display());
        }
    }
}

/// The one place with unsafe code: one call, whose proof stands beside it.
const UNSAFE: &str = "src/pattern/sieve/pass.rs";

#[test]
fn unsafe_code_is_in_one_place() {
    let text = std::fs::read_to_string(root().join("src/main.rs")).unwrap();
    assert!(text.contains("#![forbid(unsafe_code)]"));
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    assert!(text.contains("#![deny(unsafe_code)]"));
    for path in rust_files(&root().join("src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let blocks = text.matches("unsafe {").count() + text.matches("unsafe fn").count();
        let allowed = usize::from(path.ends_with(UNSAFE));
        assert_eq!(blocks, allowed, "{}", path.display());
        assert_eq!(text.matches("SAFETY:").count(), allowed, "{}", path.display());
    }
}
