//! What README shows is what happens: its commands, its example rule, its output, its tables.

use crate::support::{root, run_in, stderr, stdout};
use portcullis::decode::fields::{FieldMap, Role, normalize};

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// The code blocks of a language, in their order.
pub fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(name)) => open = Some((name.to_owned(), String::new())),
            (Some(_), Some(_)) => {
                let (name, body) = open.take().unwrap();
                if name == language {
                    blocks.push(body);
                }
            }
            (Some((_, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The arguments of the command that is run on the fixture.
fn demo() -> Vec<String> {
    let block =
        blocks("sh").into_iter().find(|block| block.contains("cargo run --release")).unwrap();
    let (_, args) = block.trim().split_once(" -- ").unwrap();
    args.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_first_command_prints_what_is_shown() {
    let args = demo();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = run_in(&root(), &args, b"");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown =
        blocks("text").into_iter().find(|block| block.contains("BLOCK 203.0.113.7")).unwrap();
    assert_eq!(stdout(&output), shown);
    let equation = blocks("text").into_iter().find(|block| block.starts_with("lines ")).unwrap();
    assert!(stderr(&output).contains(equation.trim()), "{}", stderr(&output));
}

#[test]
fn the_line_that_is_shown_is_written() {
    let output = run_in(&root(), &["replay", "fixtures/velro-attack/input.jsonl"], b"");
    let shown = blocks("json").remove(0);
    assert!(stdout(&output).contains(&shown), "{}", stdout(&output));
}

#[test]
fn the_first_own_rule_works_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let pack = blocks("yaml").into_iter().find(|block| block.contains("pack: cards")).unwrap();
    std::fs::write(folder.path().join("cards.yaml"), pack).unwrap();
    let checked = run_in(folder.path(), &["check", "cards.yaml"], b"");
    assert_eq!(checked.status.code(), Some(0), "{}{}", stdout(&checked), stderr(&checked));
    assert!(stdout(&checked).contains("2 tests passed, 0 failed"), "{}", stdout(&checked));
    let line = |user: &str| {
        format!("2025-08-03T22:30:00Z CARD_DECLINED: user={user}, ip=203.0.113.7, code=05\n")
    };
    let input = line("anna") + &line("bert") + &line("carl");
    let args = ["--pack", "velro", "--pack", "guard", "--patterns", "cards.yaml"];
    let output = run_in(folder.path(), &args, input.as_bytes());
    assert!(stdout(&output).contains(r#""rule":"card-testing""#), "{}", stdout(&output));
}

#[test]
fn the_rule_against_floods_works_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let pack = blocks("yaml").into_iter().find(|block| block.contains("pack: floods")).unwrap();
    std::fs::write(folder.path().join("floods.yaml"), pack).unwrap();
    let args = ["check", "--pack", "velro", "--patterns", "floods.yaml"];
    let checked = run_in(folder.path(), &args, b"");
    assert_eq!(checked.status.code(), Some(0), "{}{}", stdout(&checked), stderr(&checked));
    let args = ["replay", "-", "--pack", "velro", "--patterns", "floods.yaml"];
    let line = |n: u32| {
        format!(
            "2025-08-03T22:30:{:02}Z RATE_LIMIT_VIOLATION: ip=203.0.113.{}, endpoint=/\n",
            n / 20,
            n % 250
        )
    };
    let input: String = (0..601).map(line).collect();
    let output = run_in(folder.path(), &args, input.as_bytes());
    let told =
        r#""op":"start","action":"under_attack","target":{"kind":"global"},"duration_s":1800"#;
    assert!(stdout(&output).contains(told), "{}", stdout(&output));
}

#[test]
fn the_configuration_that_is_shown_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let config = blocks("yaml").into_iter().find(|block| block.starts_with("allow:")).unwrap();
    std::fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    let output = run_in(folder.path(), &["check"], b"");
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn the_fields_that_are_listed_are_found() {
    let map = FieldMap::default();
    let text = readme();
    let table = text
        .split("## Fields that are found")
        .nth(1)
        .unwrap()
        .split("## Configuration")
        .next()
        .unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| role")) {
        let (roles, names) = row.trim_matches('|').split_once('|').unwrap();
        let roles: Vec<Role> =
            roles.split(',').filter_map(|role| Role::named(role.trim())).collect();
        assert!(!roles.is_empty(), "{row}");
        for name in names.split('`').skip(1).step_by(2).filter(|name| *name != "geoip:") {
            let role = map.role_of(&normalize(name));
            let fits = role.is_some_and(|role| {
                roles.contains(&role) || (role == Role::Forwarded && roles.contains(&Role::Ip))
            });
            assert!(fits, "{name} is listed for {roles:?} and found as {role:?}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn the_files_that_hold_the_guarantees_are_there() {
    let text = readme();
    let table = text.split("## Guarantees").nth(1).unwrap();
    for path in table.split('`').skip(1).step_by(2).filter(|p| p.contains('/') && !p.contains(' '))
    {
        assert!(root().join(path).exists(), "{path}");
    }
}

#[test]
fn the_test_command_is_the_one_that_ci_runs() {
    let shown = blocks("sh").iter().any(|block| block.trim() == "bash .ci/run");
    assert!(shown && root().join(".ci/run").is_file());
}
