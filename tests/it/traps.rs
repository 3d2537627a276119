//! Ways in which real logs have fooled real tools: each was reproduced with the real software.

use crate::support::{failed_logins, run, run_in, stderr, stdout};
use portcullis::decode::fields::{FieldMap, Role};
use portcullis::decode::time::When;
use portcullis::decode::{DecodeConfig, Decoded, Record, decode};
use serde_json::Value;
use std::fs;
use std::sync::LazyLock;

fn records(line: &[u8]) -> Vec<Record<'static>> {
    static CONFIG: LazyLock<DecodeConfig> = LazyLock::new(DecodeConfig::default);
    match decode(line, &CONFIG) {
        Decoded::Records(records) => records,
        other => panic!("{other:?} for {}", String::from_utf8_lossy(line)),
    }
}

fn record(line: &str) -> Record<'static> {
    let mut records = records(line.as_bytes());
    assert_eq!(records.len(), 1, "{line}");
    records.remove(0)
}

fn ip(line: &str) -> Option<String> {
    record(line).ip().map(|fact| fact.ip.to_string())
}

/// What stands in a record of OTLP under the name of a time may be a client's; the SDK has a clock.
#[test]
fn a_record_of_otlp_happened_when_it_says_itself() {
    let line = |stamp: &str, name: &str| {
        format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{{stamp}"body":{{"stringValue":"x"}},"attributes":[{{"key":"{name}","value":{{"stringValue":"1999-01-01T00:00:00Z"}}}}]}}]}}]}}]}}"#
        )
    };
    let (sdk, other) = (When::At(1_754_260_200_000_000), When::At(915_148_800_000_000));
    for name in ["timestamp", "time", "date"] {
        for stamp in [
            r#""timeUnixNano":"1754260200000000000","#,
            r#""observedTimeUnixNano":"1754260200000000000","#,
            // 0 is unknown.
            r#""timeUnixNano":"0","observedTimeUnixNano":1754260200000000000,"#,
        ] {
            assert_eq!(record(&line(stamp, name)).when(), Some(sdk), "{stamp} {name}");
        }
        assert_eq!(record(&line("", name)).when(), Some(other), "{name}");
    }
    // The configuration knows better.
    let named = [(Role::Time, vec!["happened".to_owned()])];
    let config = DecodeConfig { fields: FieldMap::new(&named), ..DecodeConfig::default() };
    let line = line(r#""timeUnixNano":"1754260200000000000","#, "happened");
    let Decoded::Records(records) = decode(line.as_bytes(), &config) else { panic!("{line}") };
    assert_eq!(records[0].when(), Some(other));
}

/// Whoever pads a name beyond what `journalctl` writes out would be seen nowhere.
#[test]
fn a_message_that_the_journal_leaves_out_is_counted() {
    let line = |text: &str| {
        format!(
            r#"{{"__REALTIME_TIMESTAMP":"1754260200000000","PRIORITY":"3","SYSLOG_IDENTIFIER":"app","MESSAGE"{text}}}"#
        )
    };
    let counted = |pack: &str, text: &str| {
        let args = ["replay", "-", "--summary", "json", "--quiet", "--pack", pack];
        let output = run(&args, format!("{}\n", line(text)).as_bytes());
        let summary: Value = serde_json::from_str(&stderr(&output)).unwrap();
        (summary["lines"]["unreadable"].clone(), summary["unreadable"]["omitted"].clone())
    };
    assert_eq!(counted("sshd", ":null"), (1.into(), 1.into()));
    assert_eq!(counted("sshd", " : null"), (1.into(), 1.into()));
    assert_eq!(counted("sshd", ":\"null\""), (0.into(), Value::Null));
    // What names it without its message is an event all the same.
    assert_eq!(counted("velro", ":null"), (0.into(), Value::Null));
}

/// A level that a structure holds as a typed number stands apart from its name.
#[test]
fn the_prefilter_knows_typed_levels() {
    for value in
        [r#""key":"level","value":{"intValue":"50"}"#, r#""value":{"intValue":50},"key":"level""#]
    {
        let line = format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"timeUnixNano":"1754260200000000000","body":{{"kvlistValue":{{"values":[{{{value}}},{{"key":"msg","value":{{"stringValue":"x"}}}},{{"key":"pid","value":{{"intValue":1}}}},{{"key":"hostname","value":{{"stringValue":"h"}}}},{{"key":"logger","value":{{"stringValue":"app"}}}}]}}}}}}]}}]}}]}}"#
        );
        let output = run(&["replay", "-", "--summary", "json", "--quiet"], line.as_bytes());
        let summary: Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(summary["events"]["SERVER_ERROR"], 1, "{summary}");
    }
}

fn actions_of(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn replay(input: &[u8]) -> Vec<Value> {
    actions_of(&stdout(&run(&["replay", "-", "--output", "json", "--summary", "none"], input)))
}

/// Replays with a configuration of its own.
fn replay_with(config: &str, input: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portcullis.yaml"), config).unwrap();
    let args = ["replay", "-", "--output", "json", "--summary", "none"];
    let output = run_in(folder.path(), &args, input.as_bytes());
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", stderr(&output));
    actions_of(&stdout(&output))
}

/// The targets of one kind of action, in their order.
fn targets(actions: &[Value], op: &str, action: &str) -> Vec<String> {
    actions
        .iter()
        .filter(|line| line["op"] == op && line["action"] == action && line["mode"] == "enforce")
        .map(|line| line["target"]["value"].as_str().unwrap_or("global").to_owned())
        .collect()
}

fn rules(actions: &[Value]) -> Vec<&str> {
    actions.iter().filter_map(|line| line["rule"].as_str()).collect()
}

/// A failed login of the home case; `i` is the minute.
fn failure(i: usize, email: &str, ip: &str, more: &str) -> String {
    format!(
        r#"{{"timestamp":"2025-08-03T22:{i:02}:00Z","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email={email}, ip={ip}, reason=bad"{more}}}"#
    )
}

fn failures(n: usize, line: impl Fn(usize) -> String) -> String {
    (0..n).map(|i| line(i) + "\n").collect()
}

const BLOCKED: [&str; 1] = ["203.0.113.7"];

#[test]
fn a_level_may_have_a_colour() {
    let line = "{\"timestamp\":\"2025-08-03T22:30:00Z\",\"level\":\"\\u001b[31merror\\u001b[39m\",\"logger\":\"app\",\"message\":\"x\"}\n";
    let output = run(&["replay", "-", "--summary", "json", "--quiet"], line.as_bytes());
    let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(summary["events"]["SERVER_ERROR"], 1, "{summary}");
}

#[test]
fn t1_half_a_surrogate_hides_no_line() {
    for email in [r"\ud800@x", r"\udc80@x", r"a\uDBFF", r"\ud800\ud800", r"\ud83d\u0041"] {
        let input = failures(21, |i| failure(i, email, "203.0.113.7", ""));
        let actions = replay(input.as_bytes());
        assert_eq!(targets(&actions, "start", "block"), BLOCKED, "{email}");
    }
    assert!(record(&failure(0, r"\ud800@x", "203.0.113.7", "")).bent());
}

#[test]
fn t2_what_strict_json_refuses_is_read() {
    let deep = format!(r#","body":{}1{}"#, "[".repeat(300), "]".repeat(300));
    let deeper = format!(r#","body":{}1{}"#, r#"{"a":"#.repeat(300), "}".repeat(300));
    for more in [
        r#","a":NaN"#,
        r#","a":-Infinity"#,
        r#","a":1e400"#,
        r#","a":0042"#,
        ",\"a\":\"\x01\t\x1f\"",
        r#","a":"\x22\q""#,
        r#","a":-,"b":0.000, 0.012"#,
        r#","a":"#,
        &deep,
        &deeper,
    ] {
        let input = failures(21, |i| failure(i, "a@example.org", "203.0.113.7", more));
        assert_eq!(targets(&replay(input.as_bytes()), "start", "block"), BLOCKED, "{more}");
    }
    let plain = |i| failure(i, "a@example.org", "203.0.113.7", "");
    let around: [&dyn Fn(usize) -> String; 5] = [
        &|i| format!("\u{feff}{}", plain(i)),
        &|i| format!("{}garbage", plain(i)),
        &|i| format!("{}\r", plain(i)),
        &|i| format!("\0{}\0", plain(i)),
        &|i| format!(r#"{{"level":"INFO","message":"first"}}{}"#, plain(i)),
    ];
    for (n, around) in around.iter().enumerate() {
        let input = failures(21, around);
        assert_eq!(targets(&replay(input.as_bytes()), "start", "block"), BLOCKED, "{n}");
    }
    let mut bytes = Vec::new();
    for i in 0..21 {
        bytes.extend(
            failure(i, "a@example.org", "203.0.113.7", ",\"a\":\"").trim_end_matches('}').bytes(),
        );
        bytes.extend(b"\xff\xc3\"}\n");
    }
    assert_eq!(targets(&replay(&bytes), "start", "block"), BLOCKED);
}

#[test]
fn t3_a_repeated_key_chooses_nobody() {
    for more in [
        r#","ip_address":"203.0.113.7","ip_address":"9.9.9.9""#,
        r#","ip_address":"203.0.113.7","\u0069p_address":"9.9.9.9""#,
        r#","ip_address":"203.0.113.7","client_ip":"9.9.9.9""#,
    ] {
        let line = failure(0, "a@example.org", "203.0.113.7", more);
        assert_eq!(record(&line).ip(), None);
        assert!(record(&line).doubts().ip, "{more}");
        let actions =
            replay(failures(30, |i| failure(i, "a@example.org", "203.0.113.7", more)).as_bytes());
        assert_eq!(targets(&actions, "start", "block"), [""; 0], "{more}");
        assert!(rules(&actions).contains(&"log-injection"), "{more}");
        // The account is not in doubt.
        assert_eq!(targets(&actions, "start", "lock"), ["a@example.org"], "{more}");
    }
    for more in [
        r#","message":"FAILED_LOGIN: email=v@example.org, ip=9.9.9.9, reason=bad""#,
        r#","timestamp":"2025-08-03T21:00:00Z""#,
        r#","logger":"chat""#,
    ] {
        let line = failure(0, "a@example.org", "203.0.113.7", more);
        assert!(record(&line).doubts().core, "{more}");
        let actions =
            replay(failures(30, |i| failure(i, "a@example.org", "203.0.113.7", more)).as_bytes());
        assert!(targets(&actions, "start", "block").is_empty(), "{more}");
        assert!(targets(&actions, "start", "lock").is_empty(), "{more}");
        assert!(rules(&actions).contains(&"log-injection"), "{more}");
    }
    // The same value twice is no contradiction.
    let same = r#","ip_address":"203.0.113.7","client_ip":"::ffff:203.0.113.7""#;
    assert_eq!(ip(&failure(0, "a", "9.9.9.9", same)).as_deref(), Some("203.0.113.7"));
}

#[test]
fn t4_a_forged_access_line_frames_nobody() {
    let forged = r#"INFO:     9.9.9.9:1 - "POST /login HTTP/1.1" 401 Unauthorized #:0 - "POST /login HTTP/1.1" 401 Unauthorized"#;
    assert_eq!(ip(forged), None);
    let honest =
        r#"INFO:     203.0.113.9:0 - "POST /login?x=, ip=9.9.9.9 HTTP/1.1" 401 Unauthorized"#;
    assert_ne!(ip(honest).as_deref(), Some("9.9.9.9"));
    let honest = r#"INFO:     203.0.113.9:0 - "POST /login HTTP/1.1" 401 Unauthorized"#;
    assert_eq!(ip(honest).as_deref(), Some("203.0.113.9"));
    let v6 = r#"INFO:     2001:db8::5:0 - "POST /login HTTP/1.1" 401 Unauthorized"#;
    assert_eq!(ip(v6).as_deref(), Some("2001:db8::5"));
}

#[test]
fn t5_no_character_but_newline_ends_a_line() {
    for inside in
        [r"\n", r"\r\n", r"\u2028", r"\u0085", "\u{2028}", "\u{85}", "\u{2029}", "\u{b}", "\u{c}"]
    {
        let message =
            format!("hello{inside}FAILED_LOGIN: email=a@example.org, ip=203.0.113.7, reason=bad");
        let json = failures(30, |i| {
            format!(
                r#"{{"timestamp":"2025-08-03T22:{i:02}:00Z","logger":"security","message":"{message}"}}"#
            )
        });
        assert!(replay(json.as_bytes()).is_empty(), "{inside:?}");
        if !inside.starts_with('\\') {
            let text = failures(30, |i| {
                format!("2025-08-03 22:{i:02}:00,000 - security - INFO - {message}")
            });
            assert!(replay(text.as_bytes()).is_empty(), "{inside:?}");
        }
    }
}

#[test]
fn t6_bystanders_are_not_locked_out() {
    // Proxies and private networks are no clients.
    for hidden in
        ["100.64.0.7", "10.0.0.1", "127.0.0.1", "::1", "fe80::1", "fd00::1", "::ffff:192.168.1.1"]
    {
        let actions = replay(failed_logins(30, 60, hidden).as_bytes());
        assert!(targets(&actions, "start", "block").is_empty(), "{hidden}");
    }
    // What stands on the right of a list is only a guess without trusted_proxies, ...
    let list = |i| {
        failure(i, &format!("u{i}@example.org"), "x", r#","ip_address":"6.6.6.6, 203.0.113.7""#)
    };
    let input = failures(30, list).replace(", ip=x", ", ip=-");
    let actions = replay(input.as_bytes());
    assert!(targets(&actions, "start", "block").is_empty());
    assert!(targets(&actions, "start", "alert").contains(&"203.0.113.7".to_owned()));
    assert!(!actions.iter().any(|line| line["target"]["value"] == "6.6.6.6"));
    // ... and proof with it.
    let actions = replay_with("trusted_proxies: [10.0.0.0/8]", &input);
    assert_eq!(targets(&actions, "start", "block"), BLOCKED);
    // The allowlist and the brakes stand before everything.
    let input = failed_logins(30, 60, "203.0.113.7");
    let actions = replay_with("allow: [{ ip: 203.0.113.0/24, comment: office }]", &input);
    assert!(targets(&actions, "start", "block").is_empty());
    let five: String = (0..21)
        .flat_map(|i| {
            (1..=5).map(move |n| {
                failure(i, &format!("u{i}-{n}@example.org"), &format!("203.0.113.{n}"), "") + "\n"
            })
        })
        .collect();
    let actions = replay_with("brakes: { max_blocks_per_minute: 2 }", &five);
    assert_eq!(targets(&actions, "start", "block").len(), 2);
    assert_eq!(targets(&actions, "withheld", "block").len(), 3);
}

#[test]
fn t7_random_keys_are_one_neighbour_and_bounded() {
    let input = failures(21, |i| {
        failure(i, &format!("u{i}@example.org"), &format!("2001:db8:1:2::{i:x}"), "")
    });
    assert_eq!(targets(&replay(input.as_bytes()), "start", "block"), ["2001:db8:1:2::/64"]);
    let long = "a".repeat(100_000);
    let input = failures(6, |i| failure(i, &long, &format!("203.0.113.{i}"), ""));
    let locks = targets(&replay(input.as_bytes()), "start", "lock");
    assert!(locks.len() == 1 && locks[0].len() <= 256);
}

#[test]
fn t8_spellings_of_one_name_share_a_window() {
    let users = [
        "a@example.org",
        "A@Example.ORG",
        " a@example.org ",
        "\u{ff41}@example.org",
        r"\u0061@example.org",
        "a@EXAMPLE.org",
    ];
    let input = failures(6, |i| failure(i, users[i], &format!("203.0.113.{i}"), ""));
    assert_eq!(targets(&replay(input.as_bytes()), "start", "lock"), ["a@example.org"]);
    let ips = [
        "203.0.113.7",
        "::ffff:203.0.113.7",
        "::FFFF:cb00:7107",
        "[::ffff:203.0.113.7]:443",
        "203.0.113.7:1",
        "64:ff9b::203.0.113.7",
        "\\\"203.0.113.7\\\"",
    ];
    let structured = |i: usize| {
        failure(
            i,
            &format!("u{i}@example.org"),
            "-",
            &format!(r#","ip_address":"{}""#, ips[i % ips.len()]),
        )
    };
    assert_eq!(targets(&replay(failures(21, structured).as_bytes()), "start", "block"), BLOCKED);
    // A leading zero is octal for some and decimal for others: no address.
    assert_eq!(ip(r#"{"message":"x","ip_address":"203.0.113.007"}"#), None);
}

#[test]
fn t9_one_line_may_stand_for_many() {
    let folder = tempfile::tempdir().unwrap();
    let pack = r#"pack: own
patterns:
  REPEATED:
    title: The daemon says how often
    read: "message repeated {n:int} times: [ Failed password for {user} from {ip} ]"
    weight: n
    tests:
      - line: 'message repeated 2 times: [ Failed password for root from 203.0.113.7 ]'
        gives: { user: root, ip: 203.0.113.7 }
rules:
  - id: many
    title: Many
    on: REPEATED
    per: ip
    when: count > 10 within 1h
    then: block for 1h
    level: warning
    severity: P2
    tests:
      - name: two lines of six
        events: [{ repeat: 11, every: 1s, ip: 203.0.113.7 }]
        expect: [{ action: block, target: 203.0.113.7, at: 10s }]
"#;
    fs::write(folder.path().join("own.yaml"), pack).unwrap();
    let line = |n: usize| {
        format!(
            "<38>Feb 12 14:10:2{n} host sshd[7]: message repeated 6 times: [ Failed password for root from 203.0.113.7 ]"
        )
    };
    let args = ["replay", "-", "--patterns", "own.yaml", "--output", "json", "--summary", "none"];
    let output = run_in(folder.path(), &args, failures(2, line).as_bytes());
    let actions = actions_of(&stdout(&output));
    assert_eq!(targets(&actions, "start", "block"), BLOCKED, "{}", stderr(&output));
    assert_eq!(actions[0]["count"], 12);
}

#[test]
fn t10_lines_that_the_platform_dropped_raise_an_alert() {
    let line = r#"{"message":"Railway rate limit of 500 logs/sec reached for replica, update your application to reduce the logging rate. Messages dropped: 50","timestamp":"2025-08-03T22:30:00.000000000Z"}"#;
    let actions = replay(format!("{line}\n").as_bytes());
    assert_eq!(rules(&actions), ["visibility-loss"]);
}

#[test]
fn t11_ids_are_text_and_nobody_is_nobody() {
    let id = |value: &str| {
        record(&format!(r#"{{"message":"x","user_id":{value}}}"#))
            .user_id()
            .map(|fact| fact.value.into_owned())
    };
    for one in ["42", "42.0", "4.2e1", r#""42""#, r#"" 42 ""#] {
        assert_eq!(id(one).as_deref(), Some("42"), "{one}");
    }
    assert_eq!(id(r#""00123""#).as_deref(), Some("00123"));
    for nobody in [
        "0",
        r#""0""#,
        "null",
        r#""null""#,
        r#""--""#,
        r#""-""#,
        r#""""#,
        "false",
        r#""None""#,
        r#""anonymous""#,
    ] {
        assert_eq!(id(nobody), None, "{nobody}");
    }
    assert_eq!(record(r#"{"message":"x","user":"--"}"#).user(), None);
    assert_eq!(
        record(r#"{"message":"x","level":"WARN+2"}"#).level(),
        record(r#"{"message":"x","level":"warning"}"#).level()
    );
}

#[test]
fn t12_lines_of_one_request_count_once() {
    let pack = "pack: own
patterns:
  REFUSED:
    title: A request was refused
    where: { status: 401 }
    tests:
      - line: '{\"status\":401,\"ip\":\"203.0.113.7\"}'
        gives: { ip: 203.0.113.7 }
rules:
  - id: refused
    title: Refused
    on: REFUSED
    per: ip
    when: count > 5 within 1h
    once_per: request_id
    then: block for 1h
    level: warning
    severity: P2
    tests:
      - name: six
        events: [{ repeat: 6, every: 1s, ip: 203.0.113.7, values: { request_id: 'r{n}' } }]
        expect: [{ action: block, target: 203.0.113.7, at: 5s }]
";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("own.yaml"), pack).unwrap();
    let twice = |n: usize| {
        failures(n, |i| {
            let shared = format!(r#""timestamp":"2025-08-03T22:{i:02}:00Z","status":401"#);
            format!(
                "{{{shared},\"request_id\":\"r{i}\",\"remote_addr\":\"203.0.113.7\"}}\n{{{shared},\"requestId\":\"r{i}\",\"srcIp\":\"203.0.113.7\"}}"
            )
        })
    };
    for (requests, blocks) in [(5, 0), (6, 1)] {
        let args =
            ["replay", "-", "--patterns", "own.yaml", "--output", "json", "--summary", "none"];
        let output = run_in(folder.path(), &args, twice(requests).as_bytes());
        let actions = actions_of(&stdout(&output));
        assert_eq!(targets(&actions, "start", "block").len(), blocks, "{}", stderr(&output));
    }
}

#[test]
fn t13_its_own_output_is_no_evidence() {
    for output in ["json", "ecs", "text"] {
        let input = failed_logins(60, 30, "203.0.113.7");
        let said = run(&["replay", "-", "--output", output, "--summary", "none"], input.as_bytes());
        let own = stdout(&said).repeat(50) + &stderr(&said).repeat(50);
        assert!(own.contains("203.0.113.7"));
        assert!(replay(own.as_bytes()).is_empty(), "{output}");
    }
}

/// Two fields that name one address in two ways agree, also if one of them is a list.
#[test]
fn a_list_that_ends_at_the_same_address_is_no_contradiction() {
    for (one, other) in [
        (r#""203.0.113.2""#, r#""9.9.9.9, 203.0.113.2""#),
        (r#""9.9.9.9, 203.0.113.2""#, r#""203.0.113.2""#),
        (r#""203.0.113.2""#, r#"["9.9.9.9","203.0.113.2"]"#),
    ] {
        let line = format!(r#"{{"message":"x","ip_address":{one},"client":{{"ip":{other}}}}}"#);
        assert!(!record(&line).doubts().any(), "{line}");
        assert!(record(&line).ip().is_some(), "{line}");
    }
}

/// A reason that says nothing is one that was given.
#[test]
fn an_empty_reason_is_counted() {
    let lines: String = (0..5)
        .map(|n| {
            format!(
                "{{\"timestamp\":\"2025-08-03T22:30:0{n}Z\",\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=a@b.c, ip=203.0.113.1, reason=\"}}\n"
            )
        })
        .collect();
    let actions = replay(lines.as_bytes());
    assert_eq!(actions[0]["reasons"], serde_json::json!({ "": 5 }), "{actions:?}");
}

/// When a forged time is corrected by a restart of the clock, what had expired by it is gone for
/// everybody, however many others there were.
#[test]
fn what_expires_before_a_restart_depends_on_nobody_else() {
    let line = |second: i64, ip: &str| {
        let time = portcullis::decode::time::format((1_754_260_200 + second) * 1_000_000);
        format!(
            "{{\"timestamp\":\"{time}\",\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=-, ip={ip}, reason=x\"}}\n"
        )
    };
    const DAYS: i64 = 3 * 86_400;
    let of = |others: i64| {
        let mut input: String = (0..9).map(|n| line(n, "203.0.113.2")).collect();
        input.extend((0..6 + others).map(|n| line(DAYS + n, &format!("198.51.100.{n}"))));
        input.extend((0..52).map(|n| line(20 + n, "203.0.113.3")));
        input.extend((0..9).map(|n| line(100 + n, "203.0.113.2")));
        let actions = replay(input.as_bytes());
        assert!(actions.iter().any(|action| action["rule"] == "clock"), "the clock was set back");
        let of_it = actions.iter().filter(|action| action["target"]["value"] == "203.0.113.2");
        of_it.map(ToString::to_string).collect::<Vec<_>>()
    };
    let alone = of(0);
    for others in [1, 3, 10, 40, 200] {
        assert_eq!(of(others), alone, "{others} others");
    }
    assert!(alone.is_empty(), "{alone:?}");
}

/// Classic syslog names no year: the line before says it, however long ago it was.
#[test]
fn a_log_without_years_goes_on_after_a_silence_of_days() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("portcullis.yaml"), "patterns: [sshd]\nyear: 2025\n").unwrap();
    for (before, after, year) in [("Nov 28", "Nov 30", 2025), ("Dec 30", "Jan  3", 2026)] {
        let line = |day: &str, minute: i32, ip: &str| {
            format!(
                "{day} 09:{minute:02}:00 web sshd[1]: Failed password for root from {ip} port 1 ssh2\n"
            )
        };
        let quiet: String = (0..3).map(|n| line(before, n, "198.51.100.4")).collect();
        let attack: String = (10..50).map(|n| line(after, n, "203.0.113.7")).collect();
        let args = ["replay", "-", "--summary", "json", "--output", "json"];
        let output = run_in(folder.path(), &args, (quiet + &attack).as_bytes());
        let said = stderr(&output);
        let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&summary["lines"]["matched"], &summary["lines"]["late"]),
            (&43.into(), &0.into())
        );
        let blocked = |line: &str| {
            line.contains("\"op\":\"start\",\"action\":\"block\"")
                && line.contains(&format!("\"time\":\"{year}-"))
        };
        assert!(stdout(&output).lines().any(blocked), "{}", stdout(&output));
    }
}
