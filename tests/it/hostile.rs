//! Text that an attacker wrote into a log never chooses who is blocked.
//!
//! Every pattern of every built-in pack is taken from its own tests; each capture in turn is filled
//! with what an attacker might send, the line is written as the application would write it, and
//! whatever events come out may name nobody but the true client and account, or nobody.

use crate::support::{run, stdout};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decode::addr::normalize_user;
use portcullis::decode::text::strip_ansi;
use portcullis::decode::{Decoded, Record, decode};
use portcullis::engine::scan::Findings;
use portcullis::pack::PACKS;
use portcullis::pattern::spec::Reading;
use portcullis::pattern::template::CaptureKind;
use portcullis::pattern::{EventView, Events, PatternId};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::OnceLock;

/// Those whom the attacker would like to see blocked.
const VICTIM_IP: &str = "9.9.9.9";
const VICTIM: &str = "victim@example.net";
const TRUE_IP: &str = "203.0.113.7";

/// One place in one message that somebody else can fill.
#[derive(Debug, Clone)]
struct Slot {
    pattern: String,
    capture: String,
    kind: CaptureKind,
    /// What stands before the message in a line of text.
    head: String,
    message: String,
    range: Range<usize>,
    logger: Option<String>,
    ip: Option<IpAddr>,
    users: Vec<String>,
}

struct World {
    assembly: Assembly,
    slots: Vec<Slot>,
    /// Literals of all patterns, and whole messages that name the victim.
    texts: Vec<String>,
}

fn first_record<'a>(assembly: &'a Assembly, line: &str) -> Option<Record<'a>> {
    match decode(line.as_bytes(), &assembly.scanner.decode) {
        Decoded::Records(records) => records.into_iter().next(),
        _ => None,
    }
}

fn events(assembly: &Assembly, line: &[u8]) -> Events {
    let mut findings = Findings::default();
    let _what = assembly.scanner.line(line, None, &mut findings);
    findings.events
}

fn users<'e>(event: EventView<'e>) -> impl Iterator<Item = &'e str> {
    event.user().into_iter().chain(event.user_id())
}

/// Where a reading found its captures.
fn captures(reading: &Reading, message: &str) -> Option<Vec<(String, CaptureKind, Range<usize>)>> {
    match reading {
        Reading::Template(template) => {
            let found = template.matches(message)?;
            let specs = template.captures().iter().zip(found.earliest);
            Some(specs.map(|(spec, range)| (spec.name.clone(), spec.kind, range)).collect())
        }
        Reading::Regex { greedy, .. } => {
            let found = greedy.captures(message)?;
            let names = greedy.capture_names().flatten();
            let known = names.filter_map(|name| {
                let found = found.name(name)?;
                let kind = match found.as_str() {
                    text if text.parse::<IpAddr>().is_ok() => CaptureKind::Ip,
                    text if text.parse::<i64>().is_ok() => CaptureKind::Int,
                    _ => CaptureKind::Text,
                };
                Some((name.to_owned(), kind, found.range()))
            });
            Some(known.collect())
        }
    }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let packs = PACKS.iter().filter(|(_, text)| text.contains("\npatterns:"));
        let patterns = packs.map(|(name, _)| (*name).to_owned()).collect();
        let assembly = Assembly::new(&Settings { patterns, ..Settings::default() }, &[]).unwrap();
        let mut slots = Vec::new();
        let mut texts = Vec::new();
        for pattern in assembly.scanner.set.patterns() {
            let id = assembly.scanner.set.id(&pattern.name).unwrap();
            let before = slots.len();
            for reading in &pattern.readings {
                if let Reading::Template(template) = reading {
                    texts.extend(template.literals().iter().cloned());
                }
            }
            for test in pattern.tests.iter().filter(|test| test.get("outcome").is_none()) {
                let line = test.get("line").and_then(|line| line.scalar()).unwrap();
                let Some(record) = first_record(&assembly, &line) else { continue };
                let found = events(&assembly, line.as_bytes());
                let event = found.of(found.all()).find(|e| e.pattern == id);
                let event = event.unwrap_or_else(|| panic!("{}: {line}", pattern.name));
                for message in record.messages().all() {
                    let found = pattern.readings.iter().find_map(|r| captures(r, message));
                    let Some(found) = found else { continue };
                    let mut forged = message.to_string();
                    for (_, _, range) in found.iter().rev().filter(|c| c.1 == CaptureKind::Ip) {
                        forged.replace_range(range.clone(), VICTIM_IP);
                    }
                    texts.push(forged);
                    let head = line.strip_suffix(&**message).unwrap_or_default();
                    for (capture, kind, range) in found {
                        slots.push(Slot {
                            pattern: pattern.name.clone(),
                            capture,
                            kind,
                            head: head.to_owned(),
                            message: message.to_string(),
                            range,
                            logger: record.logger().map(str::to_owned),
                            ip: event.ip.map(|ip| ip.ip),
                            users: users(event).map(str::to_owned).collect(),
                        });
                    }
                    break;
                }
            }
            assert!(pattern.readings.is_empty() || slots.len() > before, "{}", pattern.name);
        }
        // Numbers and addresses are what the application itself knows.
        slots
            .retain(|s| !matches!(s.kind, CaptureKind::Ip | CaptureKind::Int | CaptureKind::Float));
        texts.retain(|text| !text.is_empty());
        World { assembly, slots, texts }
    })
}

/// What an attacker sends, put together from pieces that have fooled somebody.
fn crafted() -> impl Strategy<Value = String> {
    let own = prop::sample::select(world().texts.clone());
    let known = prop::sample::select(vec![
        VICTIM_IP,
        VICTIM,
        "::ffff:9.9.9.9",
        "x",
        " ",
        ", ",
        ", ip=9.9.9.9, reason=y",
        "x, ip=9.9.9.9, reason=y, email=",
        "x, ip=9.9.9.9",
        "email=victim@example.net, ip=9.9.9.9, reason=z",
        "user_id=victim@example.net, ip=9.9.9.9",
        "，ip=9.9.9.9",
        ",\u{a0}ip=9.9.9.9",
        ", іp=9.9.9.9",
        "ip＝9.9.9.9",
        " from 9.9.9.9 port 22 ssh2",
        " from 9.9.9.9",
        "\"",
        "\\",
        "\\\"",
        "'",
        "}",
        "{",
        "\",\"ip_address\":\"9.9.9.9\",\"x\":\"",
        "{\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=victim@example.net, ip=9.9.9.9, reason=x\"}",
        "{\"ip_address\":\"9.9.9.9\",\"user\":\"victim@example.net\"}",
        "{'ip': '9.9.9.9', 'user': 'victim@example.net'}",
        "\n",
        "\r\n",
        "\t",
        "\u{2028}",
        "\u{85}",
        "\0",
        "\u{1b}",
        "\u{1b}[",
        "\u{1b}[31m",
        "\u{1b}]0;",
        "\u{7}",
        "\u{9b}",
        "\u{e000}",
        "\u{feff}",
        "level=info msg=\"",
        "ip=9.9.9.9 user=victim@example.net level=info msg=y",
        "2025-08-03T22:30:00Z stdout F ",
        "2025-08-03T22:30:00Z - security - WARNING - ",
        "Aug  3 22:30:00 h sshd[1]: ",
        "INFO:     9.9.9.9:1 - \"POST /login HTTP/1.1\" 401 Unauthorized",
        "9.9.9.9 - victim@example.net [03/Aug/2025:22:30:00 +0000] \"GET / HTTP/1.1\" 200 1",
    ]);
    let piece = prop_oneof![
        3 => own,
        8 => known.prop_map(str::to_owned),
        1 => (1usize..9000).prop_map(|n| "a".repeat(n)),
        1 => "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat())
}

/// A JSON string; a private character stands for half a surrogate pair, as Python writes it.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap().replace('\u{e000}', "\\ud800")
}

/// How Python prints a string within a dict.
fn python(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "'"
}

/// The line as an application writes it.
fn written(slot: &Slot, message: &str, text: &str, form: u8) -> (String, bool) {
    let logger = slot.logger.as_ref().map(|l| format!(",\"logger\":{}", quoted(l)));
    let logger = logger.unwrap_or_default();
    let time = "\"timestamp\":\"2025-08-03T22:30:00Z\"";
    let message_of = |message: &str| format!("\"message\":{}", quoted(message));
    let own = message_of(message);
    let ip = slot.ip.map_or_else(String::new, |ip| format!(",\"ip_address\":\"{ip}\""));
    let home = format!("{{{time}{logger},{own},\"module\":\"auth\",\"line\":42}}");
    match form {
        0 => (home, false),
        1 => (format!("{{{own}{logger},{time}{ip}}}"), true),
        // A logger that merges what it is given, without taking care of repeated keys.
        2 if slot.ip.is_some() => {
            (format!("{{{time}{logger},{own}{ip},\"ip_address\":\"9.9.9.9\"}}"), true)
        }
        3 => {
            let forged = message_of(&message.replace(TRUE_IP, VICTIM_IP));
            (format!("{{{time}{logger},{forged},\"module\":\"a\",{own}}}"), false)
        }
        4 => {
            let (extra, nested) =
                (quoted(text), quoted(&format!("{{\"message\":{}}}", quoted(text))));
            let extra = format!(
                "\"exception\":{extra},\"user_agent\":{extra},\"body\":{{\"message\":{extra},\"note\":{nested}}}"
            );
            (format!("{{{time}{logger},{own},{extra}}}"), false)
        }
        5 => {
            let log = quoted(&format!("{home}\n"));
            (
                format!(
                    "{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2025-08-03T22:30:00Z\"}}"
                ),
                false,
            )
        }
        6 => (format!("2025-08-03T22:30:00.1Z stdout F {home}"), false),
        7 => (format!("[{home},{home}]"), false),
        // A logger of plain text: it must not write newlines, and it writes what it knows last.
        _ => {
            let line = format!("{}{message}", slot.head);
            (line.replace(['\n', '\r'], " ").replace('\u{e000}', "\u{fffd}"), false)
        }
    }
}

/// Nobody but the true client and account is named by any event of the line.
fn nobody_else(slot: &Slot, text: &str, form: u8) -> Result<(), TestCaseError> {
    let world = world();
    let value = match slot.kind {
        CaptureKind::Json => format!("{{\"ip\":{}}}", quoted(text)),
        CaptureKind::PyDict => format!("{{'ip': {}, 'n': 1}}", python(text)),
        // A pattern says `word` where its application can write no blank: a fingerprint, a token.
        CaptureKind::Word => text.split_whitespace().collect(),
        _ => text.to_owned(),
    };
    let mut message = slot.message.clone();
    message.replace_range(slot.range.clone(), &value);
    let (line, _structured) = written(slot, &message, text, form);
    let whole = [text.to_owned(), strip_ansi(text).into_owned()];
    let whole = whole.map(|t| t.replace('\u{e000}', "\u{fffd}"));
    let mut allowed: Vec<String> = slot.users.clone();
    for text in &whole {
        allowed.extend(normalize_user(text).map(Cow::into_owned));
        let joined = text.replace(['\n', '\r'], " ");
        allowed.extend(normalize_user(&joined).map(Cow::into_owned));
    }
    let found = events(&world.assembly, line.as_bytes());
    for event in found.of(found.all()) {
        let name = world.assembly.scanner.set.name(event.pattern);
        if let Some(ip) = event.ip {
            prop_assert_eq!(Some(ip.ip), slot.ip, "{} names another: {}", name, line);
        }
        for user in users(event) {
            // A sequence at the edge of the text may take a character of the next literal along;
            // then only a part of what was sent is left, but never a part that was chosen.
            let torn = text.contains(['\u{1b}', '\u{9b}', '\0', '\u{feff}']) && user != VICTIM;
            prop_assert!(
                torn || allowed.iter().any(|known| known == user),
                "{} names {:?}, not one of {:?}: {}",
                name,
                user,
                allowed,
                line
            );
        }
    }
    Ok(())
}

#[test]
fn every_capture_of_every_pattern_is_tried() {
    let world = world();
    let ids: std::collections::BTreeSet<PatternId> =
        world.slots.iter().filter_map(|s| world.assembly.scanner.set.id(&s.pattern)).collect();
    assert!(ids.len() >= 6 && world.slots.len() >= 8, "{:?}", world.slots.len());
    let texts = [
        "x, ip=9.9.9.9, reason=y",
        "x, ip=9.9.9.9, reason=y\u{1b}[",
        "x, ip=9.9.9.9, reason=y\u{1b}]0;",
        "x, ip=9.9.9.9, reason=y\\",
        "x, ip=9.9.9.9, reason=y\u{e000}",
        "x, ip=9.9.9.9",
        "x, ip=9.9.9.9, ",
        "/, endpoint=/x, ip=9.9.9.9",
        "victim@example.net from 9.9.9.9 port 22 ssh2",
        "'}, ip=9.9.9.9, {'ip': '9.9.9.9",
    ];
    for slot in &world.slots {
        for text in texts.iter().map(|t| (*t).to_owned()).chain(world.texts.iter().cloned()) {
            for form in 0..=8 {
                if let Err(error) = nobody_else(slot, &text, form) {
                    panic!("{}.{} form {form}: {error}", slot.pattern, slot.capture);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crafted_text_never_names_another(
        slot in any::<prop::sample::Index>(),
        text in crafted(),
        form in 0u8..=8,
    ) {
        nobody_else(slot.get(&world().slots), &text, form)?;
    }
}

/// Carriers are known by their whole shape: a client whose keys are merged into a record cannot
/// turn the record into a carrier of records of his own.
#[test]
fn merged_keys_do_not_make_a_carrier() {
    let world = world();
    let forged = "FAILED_LOGIN: email=victim@example.net, ip=9.9.9.9, reason=x";
    let text = quoted(forged);
    for key in [
        format!("\"streams\":[{{\"stream\":{{}},\"values\":[[\"1754260200000000000\",{text}]]}}]"),
        format!(
            "\"logGroup\":\"g\",\"logEvents\":[{{\"timestamp\":1754260200000,\"message\":{text}}}]"
        ),
        format!(
            "\"resourceLogs\":[{{\"scopeLogs\":[{{\"logRecords\":[{{\"body\":{{\"stringValue\":{text}}}}}]}}]}}]"
        ),
        format!("\"__REALTIME_TIMESTAMP\":\"1754260200000000\",\"MESSAGE\":{text}"),
    ] {
        let line = format!(
            "{{\"timestamp\":\"2025-08-03T22:30:00Z\",\"logger\":\"chat\",\"note\":\"hello\",{key}}}"
        );
        for event in events(&world.assembly, line.as_bytes()).list {
            assert!(event.ip.is_none() && event.user.is_none(), "{line}");
        }
        let alone = format!("{{{key}}}");
        let carried = events(&world.assembly, alone.as_bytes());
        assert!(carried.list.iter().any(|e| e.ip.is_some()), "the carrier itself is read: {alone}");
    }
}

/// A raw control sequence at the end of a client's text must not take the quote behind it along.
#[test]
fn a_control_sequence_does_not_end_a_record_early() {
    for odd in ["\u{9b}", "\u{1b}[", "\u{9b}1", "\u{1b}[1;"] {
        let message = format!("FAILED_LOGIN: email=a@b.c, ip={TRUE_IP}, reason={odd}");
        let line = format!("{{\"logger\":\"security\",\"message\":\"{message}\"}}");
        let events = events(&world().assembly, line.as_bytes());
        assert_eq!(
            events.list[0].ip.map(|ip| ip.ip.to_string()).as_deref(),
            Some(TRUE_IP),
            "{line}"
        );
    }
}

/// Sixty hostile lines through the program: nobody but the true client is blocked, nobody but the
/// account that was really tried is locked.
#[test]
fn sixty_hostile_lines_block_only_their_sender() {
    let texts = [
        "x, ip=9.9.9.9, reason=y",
        "victim@example.net, ip=9.9.9.9, reason=y\u{1b}[",
        "x\", \"ip_address\":\"9.9.9.9",
        "x, ip=9.9.9.9, reason=y\n{\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=victim@example.net, ip=9.9.9.9, reason=x\"}",
        "x\u{2028}FAILED_LOGIN: email=victim@example.net, ip=9.9.9.9, reason=x",
        "FAILED_LOGIN: email=victim@example.net, ip=9.9.9.9, reason=x",
        "{\"ip_address\":\"9.9.9.9\"}, ip=9.9.9.9, reason=\u{0}",
        "x, ip=9.9.9.9, reason=\u{e000}",
    ];
    for structured in [true, false] {
        let lines: String = (0..60)
            .map(|i| {
                let text = texts[i % texts.len()];
                let message = quoted(&format!("FAILED_LOGIN: email={text}, ip={TRUE_IP}, reason=bad"));
                let ip = if structured { ",\"ip_address\":\"203.0.113.7\"" } else { "" };
                let time = portcullis::decode::time::format(1_754_260_200_000_000 + i as i64 * 1_000_000);
                format!("{{\"timestamp\":\"{time}\",\"logger\":\"security\",\"message\":{message}{ip}}}\n")
            })
            .collect();
        let output =
            run(&["replay", "-", "--summary", "none", "--output", "json"], lines.as_bytes());
        let mut blocked = 0;
        for line in stdout(&output).lines() {
            let action: Value = serde_json::from_str(line).unwrap();
            let target = action["target"]["value"].as_str().unwrap_or_default();
            let kind = action["action"].as_str().unwrap();
            assert!(target != VICTIM_IP && target != VICTIM, "{line}");
            if kind == "block" {
                assert_eq!(target, TRUE_IP, "{line}");
                blocked += 1;
            } else if kind == "lock" {
                assert!(
                    texts.iter().any(|t| {
                        let seen = t.replace('\u{e000}', "\u{fffd}");
                        normalize_user(&strip_ansi(&seen)).as_deref() == Some(target)
                    }),
                    "{line}"
                );
            }
        }
        assert!(!structured || blocked > 0, "the sender himself is blocked");
    }
}

/// Lines of 1 MiB made to be slow. The limit is far above what any of them takes and far below what
/// a cost that grows with the square of the length would take.
#[test]
#[allow(clippy::too_many_lines, reason = "a list of monsters")]
fn monsters_cost_no_more_than_their_length() {
    let assembly = &world().assembly;
    let fill = |head: &str, unit: &str, tail: &str| {
        let n = ((1 << 20) - head.len() - tail.len()) / unit.len();
        format!("{head}{}{tail}", unit.repeat(n))
    };
    let numbered = |head: &str, tail: &str, unit: &dyn Fn(usize) -> String| {
        let mut line = head.to_owned();
        for i in 0.. {
            if line.len() > 1 << 20 {
                break;
            }
            line.push_str(&unit(i));
        }
        line + tail
    };
    let f = "FAILED_LOGIN: email=a, ip=203.0.113.7, reason=b";
    let mut lines = Vec::new();
    for unit in [
        "{",
        "[",
        "\"",
        "\\",
        "[{",
        "{\"",
        "{\"a\":",
        "[[[[{\"a\":[",
        "\u{1b}",
        "\u{1b}]",
        "\u{9b}1;",
        "=",
        "a=",
        "a=\"",
        " ",
        "}",
        ":",
        ",",
        "\\u",
        "\\ud800",
    ] {
        lines.push(fill("", unit, ""));
        lines.push(fill("{\"a\":", unit, ""));
        lines.push(fill("{\"a\":\"", unit, "\"}"));
        lines.push(fill("FAILED_LOGIN: email=", unit, ", ip=203.0.113.7, reason=b"));
        lines.push(fill("SUSPICIOUS_ACTIVITY: type=x, details=", unit, ""));
        lines.push(fill("RESOURCE_USAGE: ", unit, ""));
        lines.push(fill("2025-08-03 22:30:00 ", unit, ""));
    }
    for unit in ["{}", "{\"a\":1}", "{\"a\":1} ", "x{\"", "{\"message\":\"FAILED_LOGIN: x\"}"] {
        lines.push(fill("", unit, ""));
    }
    for unit in [
        "{},",
        "{\"\":0},",
        "[{}],",
        "\"a\",",
        "\"{}\",",
        "{\"message\":\"a\"},",
        "{\"log\":\"a\\n\",\"stream\":\"b\"},",
    ] {
        lines.push(fill("[{},", unit, "{}]"));
    }
    // What a pattern takes is asked for more than what none does.
    for unit in
        [",\"message\":\"\"", ",\"message\":\"\",\"msg\":\"\"", ",\"mes_sage\":\"\",\"a\":\"\""]
    {
        let head = "{\"timestamp\":\"2025-08-03T22:30:00Z\",\"level\":\"ERROR\",\"logger\":\"x\"";
        lines.push(fill(head, unit, "}"));
    }
    for key in [
        "message",
        "logger",
        "timestamp",
        "level",
        "name",
        "ip_address",
        "source.ip",
        "duration",
        "user",
        "user_id",
        "x_forwarded_for",
        "request",
        "status",
    ] {
        for value in ["\"x\"", "1"] {
            lines.push(fill(
                "{\"pid\":1,\"logger\":\"security\",\"message\":\"FAILED_LOGIN: x\"",
                &format!(",\"{key}\":{value}"),
                "}",
            ));
        }
        lines.push(numbered("{\"a\":1", "}", &|i| format!(",\"{key}\":\"{i}\"")));
        lines.push(numbered("{\"a\":1", "}", &|i| {
            format!(",\"{key}\":\"203.0.{}.{}\"", i / 256 % 256, i % 256)
        }));
    }
    lines.push(numbered("{\"a\":1", "}", &|i| format!(",\"{i}\":{i}")));
    let long = "k".repeat(1 << 19);
    lines.push(fill(&format!("{{\"{long}\":{{\"a\":1"), ",\"a\":1", "}}"));
    lines.push(fill(&format!("{{\"{long}\":[{{\"a\":1}}"), ",{\"a\":1}", "]}"));
    lines.push(fill(&format!("{{\"resourceLogs\":[{{\"scopeLogs\":[{{\"scope\":{{\"name\":\"{long}\"}},\"logRecords\":[{{}}"), ",{\"a\":1}", "]}]}]}"));
    let labels = numbered("", "", &|i| format!(",\"{i}\":1")).split_at(1 << 19).0.to_owned();
    let labels = labels.rsplit_once(',').unwrap().0.to_owned();
    lines.push(fill(
        &format!("{{\"streams\":[{{\"stream\":{{\"a\":1{labels}}},\"values\":[[\"1\",\"x\"]"),
        ",[\"1\",\"x\"]",
        "]}]}",
    ));
    lines.push(fill(
        &format!("{{\"kubernetes\":{{\"a\":1{labels}}},\"log\":\"[{{}}"),
        ",{\\\"a\\\":1}",
        "]\"}",
    ));
    lines.push(fill(
        "{\"messageType\":\"DATA_MESSAGE\",\"logGroup\":\"a\",\"logEvents\":[{}",
        ",{\"message\":\"a\"}",
        "]}",
    ));
    for unit in [
        ", ip=",
        ", reason=",
        ", ip=9.9.9.9, reason=",
        ", ip=1, reason=",
        ", ip=, reason=",
        ", ip=1:1:1:1",
        ", email=",
    ] {
        lines.push(fill("FAILED_LOGIN: email=", unit, ", ip=203.0.113.7, reason=b"));
    }
    for unit in ["203.0.113.7, ", "10.0.0.1,", "x,", ",", "for=1;"] {
        lines.push(fill("{\"x_forwarded_for\":\"", unit, "203.0.113.7\"}"));
    }
    // Docker in docker, quoted again each time.
    let mut nested = format!("{f}\n");
    while nested.len() < 1 << 19 {
        nested = format!(
            "{{\"log\":{},\"stream\":\"stdout\",\"time\":\"2025-08-03T22:30:00Z\"}}",
            quoted(&nested)
        );
    }
    lines.push(nested);
    let mut nested = "[{\"a\":1}]".to_owned();
    while nested.len() < 1 << 19 {
        nested = format!("[{{}},{},{}]", quoted(&nested), quoted(&nested));
    }
    lines.push(nested);
    let mut slow = Vec::new();
    for line in lines {
        let started = std::time::Instant::now();
        let _ = assembly.scanner.line(line.as_bytes(), None, &mut Findings::default());
        let _ = assembly.scanner.fragment(line.as_bytes());
        let took = started.elapsed();
        if took.as_millis() > 2000 {
            slow.push((took, line.chars().take(90).collect::<String>()));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

/// Of two addresses, names or loggers the second may be among what was cut off.
#[test]
fn of_an_object_that_was_cut_nobody_is_kept_out() {
    const MAX: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), format!("max_line: {MAX}\n")).unwrap();
    for (early, late) in [
        (
            r#""message":"FAILED_LOGIN: email=a, ip=203.0.113.9, reason=bad","ip":"9.9.9.9""#,
            r#""ip_address":"203.0.113.9""#,
        ),
        (
            r#""message":"FAILED_LOGIN: email=victim, ip=9.9.9.9, reason=bad","user":"victim""#,
            r#""logger":"chat","message":"saved""#,
        ),
    ] {
        let lines: String = (0..30)
            .map(|i| format!("{{\"timestamp\":\"2025-08-03T22:30:{i:02}Z\",\"logger\":\"security\",{early},\"x\":\"{}\",{late}}}\n", "A".repeat(MAX)))
            .collect();
        let args = ["replay", "-", "--config", "c.yaml", "--summary", "none"];
        let told = stdout(&crate::support::run_in(folder.path(), &args, lines.as_bytes()));
        for line in told.lines() {
            let line: Value = line.parse().unwrap();
            assert!(line["op"] != "start" || line["action"] == "alert", "{line}");
            assert!(!line.to_string().contains("victim"), "{line}");
        }
        assert!(told.contains("9.9.9.9"), "{told}");
    }
}

/// What was found before the cut counts, but for what the rest could have said otherwise.
#[test]
fn the_beginning_of_an_object_counts_as_far_as_it_is_sure() {
    const MAX: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), format!("max_line: {MAX}\n")).unwrap();
    let events = |line: &str| {
        let line = line.replace('~', &"z".repeat(2 * MAX)) + "\n";
        let args = ["replay", "-", "--config", "c.yaml", "--summary", "json", "--quiet"];
        let output = crate::support::run_in(folder.path(), &args, line.as_bytes());
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(summary["lines"]["oversized"], 1, "{summary}");
        let count = |name: &str| summary["events"][name].as_u64().unwrap_or(0);
        let near = summary["near_misses"].as_object().is_some_and(|near| !near.is_empty());
        let names = ["RATE_LIMIT_VIOLATION", "FAILED_LOGIN", "SERVER_ERROR", "HEALTH_CHECK_FAILED"];
        (names.into_iter().filter(|name| count(name) > 0).collect::<Vec<_>>().join(" "), near)
    };
    let time = r#""timestamp":"2025-08-03T22:30:00Z""#;
    let limit = "RATE_LIMIT_VIOLATION: ip=203.0.113.77, endpoint=/";
    let failed = "FAILED_LOGIN: email=a@example.org, ip=203.0.113.77, reason=x";
    let inner = format!(r#"{{\"message\":\"{failed}\"}}"#);
    for (line, expected, near) in [
        (
            format!(r#"{{{time},"logger":"security","message":"{limit}~"}}"#),
            "RATE_LIMIT_VIOLATION",
            false,
        ),
        (
            format!(r#"{{{time},"level":"ERROR","logger":"app","message":"~"}}"#),
            "SERVER_ERROR",
            false,
        ),
        (
            format!(
                r#"{{{time},"logger":"a","path":"/health","httpStatus":503,"method":"GET","big":"~"}}"#
            ),
            "HEALTH_CHECK_FAILED",
            false,
        ),
        (
            format!(r#"[{{{time},"message":"{failed}"}},{{{time},"message":"{limit}~"}}]"#),
            "FAILED_LOGIN",
            true,
        ),
        // The logger may be among what was cut off, and what makes a record somebody's own.
        (format!(r#"{{{time},"message":"{failed}","body":"~","logger":"chat"}}"#), "", true),
        (
            format!(r#"{{{time},"logger":"security","message":"{failed}","body":"~"}}"#),
            "FAILED_LOGIN",
            false,
        ),
        (format!(r#"{{{time},"message":"{inner}","stream":"~","logger":"chat"}}"#), "", false),
        (format!(r#"{{"log":"{inner}","stream":"stdout","~":"x","logger":"chat"}}"#), "", false),
        // Of lists the logger may stand behind.
        (
            format!(
                r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{{"stringValue":"{failed}"}}}}],"pad":"~","scope":{{"name":"chat"}}}}]}}]}}"#
            ),
            "",
            true,
        ),
        (
            format!(
                r#"{{"streams":[{{"values":[["1754260200000000000","{failed}"]],"pad":"~","stream":{{"logger":"chat"}}}}]}}"#
            ),
            "",
            true,
        ),
    ] {
        assert_eq!(events(&line), (expected.to_owned(), near), "{line}");
    }
}

/// Who fills a line up to where it is cut would choose which part of an address is left of it.
#[test]
fn of_a_line_that_was_cut_nobody_is_named_by_what_is_left_of_a_name() {
    const MAX: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let pack = "pack: p\npatterns:\n  X:\n    title: t\n    read: ['X by {user} from {ip}', 'X from {ip} by {user}']\n    tests: [{ line: 'X by u from 203.0.113.7' }]\n  Y:\n    title: t\n    where: { kind: y }\n    tests: [{ line: '{\"kind\":\"y\"}' }]\nrules:\n  - { id: block, title: t, on: [X, Y], per: ip, when: count >= 1 within 1m, then: block }\n  - { id: lock, title: t, on: [X, Y], per: user, when: count >= 1 within 1m, then: lock }\n";
    std::fs::write(folder.path().join("p.yaml"), pack).unwrap();
    std::fs::write(folder.path().join("c.yaml"), format!("max_line: {MAX}\n")).unwrap();
    let named = |text: &str| {
        let args = [
            "replay",
            "-",
            "--config",
            "c.yaml",
            "--patterns",
            "p.yaml",
            "--summary",
            "json",
            "--quiet",
        ];
        let output = crate::support::run_in(folder.path(), &args, text.as_bytes());
        let stderr = String::from_utf8(output.stderr.clone()).unwrap();
        let summary: Value =
            serde_json::from_str(&stderr).unwrap_or_else(|e| panic!("{e}: {stderr}"));
        let lines: Vec<Value> = stdout(&output).lines().map(|l| l.parse().unwrap()).collect();
        let starts = lines.iter().filter(|line| line["op"] == "start");
        let mut named: Vec<String> =
            starts.map(|l| l["target"]["value"].as_str().unwrap().to_owned()).collect();
        named.sort();
        (named.join(" "), summary["lines"]["oversized"].as_u64().unwrap())
    };
    // As long as it has to be for the cut to fall behind `kept`.
    let filled = |before: &str, behind: &str, kept: &str| {
        let before = before.replace('~', &"p".repeat(MAX + 1 - before.len() - kept.len()));
        let text = format!("{before}{behind}");
        assert!(text[..MAX].ends_with(kept), "{}", &text[..MAX]);
        text + "\n"
    };
    let ip = "203.0.113.77";
    let plain = "2025-08-03T22:30:00Z X by ~ from ";
    assert_eq!(named(&filled(plain, &format!("{ip} port 22"), "203.0.113.7")), (String::new(), 1));
    assert_eq!(named(&filled(plain, ip, "203.0.113.7")), (String::new(), 1));
    // What stands before the cut with something behind it is complete; whose name was cut is nobody.
    let user = format!("2025-08-03T22:30:00Z X from {ip} by ~ ");
    let text = filled(&user, "smith", "smi");
    assert_eq!(named(&text), (ip.to_owned(), 1));
    assert!(named(&text[..MAX]).0.starts_with(&format!("{ip} ppp")));
    // Pairs, and a number and a text in JSON.
    let pairs = "time=2025-08-03T22:30:00Z level=info msg=\"X\" kind=y pad=~ ip=";
    assert_eq!(named(&filled(pairs, &format!("{ip} z=1"), "203.0.113.7")), (String::new(), 1));
    let json = r#"{"time":"2025-08-03T22:30:00Z","message":"m","kind":"y","pad":"~","user_id":"#;
    assert_eq!(named(&filled(json, "1234}", "123")), (String::new(), 1));
    let json = r#"{"time":"2025-08-03T22:30:00Z","message":"m","kind":"y","pad":"~","ip":""#;
    assert_eq!(named(&filled(json, &format!("{ip}\"}}"), "203.0.113.7")), (String::new(), 1));
    // Of a text that was cut inside a message, as of a line.
    let json = r#"{"time":"2025-08-03T22:30:00Z","pad":"~","message":"X from 203.0.113.77 by "#;
    // But for what stands behind it, nobody is kept out.
    assert_eq!(named(&filled(json, "smith\"}", "smi")), (String::new(), 1));
    let json = r#"{"time":"2025-08-03T22:30:00Z","pad":"~","message":"X by u from "#;
    assert_eq!(named(&filled(json, &format!("{ip}\"}}"), "203.0.113.7")), (String::new(), 1));
    // Whoever can end a text with the mark of a cut hides nobody.
    let whole = |message: &str| {
        format!("{{\"time\":\"2025-08-03T22:30:00Z\",\"message\":\"{message}\"}}\n")
    };
    let marked = format!("u{}", portcullis::decode::envelope::CUT);
    assert!(named(&whole(&format!("X from {ip} by {marked}"))).0.contains(ip));
    assert!(named(&whole(&format!("X from {ip} by {marked}"))).0.contains('u'));
    // Of a list of proxies the end says whose request it was.
    let json = r#"{"time":"2025-08-03T22:30:00Z","message":"m","kind":"y","pad":"~","x_forwarded_for":["9.9.9.9""#;
    let (json, kept) = json.split_at(json.len() - r#""9.9.9.9""#.len());
    let behind = r#""9.9.9.9","203.0.113.77","10.0.0.1"]}"#;
    assert_eq!(named(&filled(json, behind, kept)), (String::new(), 1));
    // Pieces that are longer together.
    let piece = "2025-08-03T22:30:00.1Z stdout P X by ";
    let fill = "p".repeat(MAX - "X by  from 203.0.113.7".len());
    let last = format!("2025-08-03T22:30:00.1Z stdout F from {ip} port\n");
    let half = fill.len() / 2;
    let more = "2025-08-03T22:30:00.1Z stdout P ";
    let text = format!("{piece}{}\n{more}{} \n{last}", &fill[..half], &fill[half..]);
    assert_eq!(named(&text), (String::new(), 1));
    // Whole, each of them names somebody.
    for whole in [
        format!("2025-08-03T22:30:00Z X by p from {ip}\n"),
        format!("time=2025-08-03T22:30:00Z level=info msg=\"X\" kind=y ip={ip}\n"),
        format!(
            "{{\"time\":\"2025-08-03T22:30:00Z\",\"message\":\"m\",\"kind\":\"y\",\"ip\":\"{ip}\"}}\n"
        ),
    ] {
        assert!(named(&whole).0.contains(ip), "{whole}");
    }
}

/// A logger writes its text under one name: a second one came with what was logged.
#[test]
fn a_body_beside_the_loggers_own_text_chooses_nobody() {
    let failed = "FAILED_LOGIN: email=v@example.org, ip=9.9.9.9, reason=x";
    let lines = |fields: &str| -> String {
        (0..25)
            .map(|i| {
                format!(
                    "{{\"level\":30,\"time\":{},\"pid\":1,\"hostname\":\"h\",{fields}}}\n",
                    1_754_258_400_000_i64 + i
                )
            })
            .collect()
    };
    let told = |fields: &str| {
        stdout(&run(&["replay", "-", "--summary", "none"], lines(fields).as_bytes()))
    };
    for fields in [
        format!(r#""message":"{failed}","msg":"signup""#),
        format!(r#""message":"hello","msg":"{failed}""#),
        format!(r#""logger_name":"signup","logger":"security","msg":"{failed}""#),
    ] {
        let told = told(&fields);
        assert!(!told.contains("9.9.9.9") && !told.contains("v@example.org"), "{told}");
        assert!(told.contains("LOG_INJECTION"), "{fields}: {told}");
    }
    for fields in [
        format!(r#""message":"{failed}","short_message":"contact""#),
        format!(r#""message":"{failed}","@mt":"Contact: {{Message}}""#),
        format!(r#""message":"{failed}","log.logger":"chat","logger":"security""#),
        format!(r#""message":"{failed}","SourceContext":"chat","logger":"security""#),
    ] {
        assert!(!told(&fields).contains(r#""value":"9.9.9.9""#), "{fields}");
    }
    // Whoever says which one he trusts is believed.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), "fields: { message: [msg] }\n").unwrap();
    let text = lines(&format!(r#""message":"hello","msg":"{failed}""#));
    let args = ["replay", "-", "--config", "c.yaml", "--summary", "none"];
    let output = crate::support::run_in(folder.path(), &args, text.as_bytes());
    assert!(stdout(&output).contains(r#""value":"9.9.9.9""#), "{}", stdout(&output));
    // The same text twice is no contradiction.
    for fields in [
        format!(r#""msg":"{failed}""#),
        format!(r#""message":"{failed}","msg":"{failed}""#),
        format!(r#""msg":"{failed}","err":{{"message":"else"}}"#),
    ] {
        assert!(told(&fields).contains(r#""value":"9.9.9.9""#), "{fields}");
    }
}

/// Whoever fills a line up to where the runtime cuts it would choose how its rest begins.
#[test]
fn pieces_that_a_shipper_hands_on_are_joined() {
    let first = r#"{\"timestamp\":\"2025-08-03T22:30:00Z\",\"level\":\"WARNING\",\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=xxxx"#;
    let rest = r#"RATE_LIMIT_VIOLATION: ip=9.9.9.9, endpoint=/, ip=203.0.113.9, reason=bad\"}"#;
    let tagged = |i: usize, pod: usize, tag: &str, text: &str| {
        format!(
            "{{\"date\":1754260200.{i},\"stream\":\"stdout\",\"logtag\":\"{tag}\",\"log\":\"{text}\",\"kubernetes\":{{\"pod_name\":\"p{pod}\"}}}}\n"
        )
    };
    let raw = |i: usize, pod: usize, tag: &str, text: &str| {
        format!(
            "{{\"date\":1754260200.{i},\"log\":\"2025-08-03T22:30:00.{i}Z stdout {tag} {text}\",\"file\":\"p{pod}.log\"}}\n"
        )
    };
    for is_tagged in [true, false] {
        let write = |i: usize, pod: usize, tag: &str, text: &str| match is_tagged {
            true => tagged(i, pod, tag, text),
            false => raw(i, pod, tag, text),
        };
        // Two containers take turns.
        let lines: String = (10..40)
            .map(|i| {
                let pieces = [(1, "P", first), (2, "P", first), (1, "F", rest), (2, "F", rest)];
                pieces.map(|(pod, tag, text)| write(i, pod, tag, text)).concat()
            })
            .collect();
        let args = ["replay", "-", "--summary", "json", "--quiet"];
        let output = run(&args, lines.as_bytes());
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(summary["lines"]["joined"], 120, "{summary}");
        assert_eq!(summary["events"]["FAILED_LOGIN"], 60, "{summary}");
        let told = stdout(&output);
        assert!(told.contains(r#""value":"203.0.113.9""#) && !told.contains("\"9.9.9.9"), "{told}");
        // All of them in one document.
        let output = run(&args, format!("[{}]", lines.trim_end().replace('\n', ",")).as_bytes());
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(summary["events"], serde_json::json!({ "FAILED_LOGIN": 60 }), "{summary}");
    }
}

/// A record with a long account, in pieces of `size` bytes of which the last begins with what the
/// client chose.
fn long_record_in_pieces(size: usize) -> Vec<String> {
    let chosen = "RATE_LIMIT_VIOLATION: ip=9.9.9.9, endpoint=/, ip=203.0.113.9, reason=bad\"}";
    let begin = r#"{"timestamp":"2025-08-03T22:30:00Z","level":"WARNING","logger":"security","message":"FAILED_LOGIN: email="#;
    // Each full, also the one before the last. One of them looks like a document, one like words.
    let first = format!("{begin}{}", "x ".repeat(size));
    let blanks = " ".repeat(size / 2);
    let full =
        [&first[..size], &format!("{blanks}{{}}{blanks}")[..size], &" x".repeat(size / 2)[..size]]
            .concat();
    let pieces = full.as_bytes().chunks(size).map(|piece| String::from_utf8_lossy(piece).into());
    pieces.chain([chosen.to_owned()]).collect()
}

/// The same where Docker or the journal cut, each with its own mark or none.
#[test]
fn pieces_of_dockers_drivers_and_of_the_journal_are_joined() {
    type Write = fn(&str, usize, usize, usize, bool) -> Value;
    let ways: [(&str, usize, Write); 8] = [
        ("Docker's files", 16 * 1024, |log, _, _, container, last| {
            json!({"log": if last { format!("{log}\n") } else { log.to_owned() },
                   "stream": if container == 1 { "stdout" } else { "stderr" }, "time": "2025-08-03T22:30:00.1Z"})
        }),
        ("fluentd", 16 * 1024, |log, line, n, container, last| {
            json!({"container_id": format!("c{container}"), "container_name": "/api", "source": "stdout", "log": log,
                   "partial_message": "true", "partial_id": format!("i{line}c{container}"),
                   "partial_ordinal": (n + 1).to_string(), "partial_last": last.to_string()})
        }),
        ("fluentd of old", 16 * 1024, |log, _, _, container, last| {
            let mut record =
                json!({"container_id": format!("c{container}"), "source": "stdout", "log": log});
            if !last {
                record["partial_message"] = json!("true");
            }
            record
        }),
        ("gelf", 16 * 1024, |log, line, n, container, _| {
            json!({"version": "1.1", "host": "h", "short_message": log, "timestamp": 1754260200 + line + n, "level": 6,
                   "_container_id": format!("c{container}"), "_container_name": "api", "_image_id": "i",
                   "_image_name": "n", "_command": "run", "_tag": "t", "_created": "2025-08-03T22:00:00Z"})
        }),
        ("fluent bit, Docker's files", 16 * 1024, |log, line, n, container, last| {
            json!({"log": if last { format!("{log}\n") } else { log.to_owned() }, "stream": "stdout",
                   "date": 1754260200 + line + n, "time": "2025-08-03T22:30:00.1Z",
                   "kubernetes": {"pod_name": format!("p{container}"), "annotations": {"applied": "{}\n"}}})
        }),
        ("fluent bit, Kubernetes", 16 * 1024, |log, line, n, container, last| {
            json!({"log": log, "stream": "stdout", "date": 1754260200 + line + n,
                   "logtag": if last { "F" } else { "P" },
                   "kubernetes": {"pod_name": format!("p{container}"), "annotations": {"applied": "{}\n"}}})
        }),
        ("journal, Docker", 16 * 1024, |log, line, n, container, last| {
            let mut record = json!({"__REALTIME_TIMESTAMP": (1754260200000000u64 + (line * 10 + n) as u64).to_string(),
                "MESSAGE": log, "PRIORITY": "6", "_TRANSPORT": "journal", "_PID": "7", "SYSLOG_IDENTIFIER": "docker",
                "CONTAINER_ID_FULL": format!("c{container}"), "CONTAINER_PARTIAL_LAST": last.to_string(),
                "CONTAINER_PARTIAL_ID": format!("i{line}c{container}"), "CONTAINER_PARTIAL_ORDINAL": (n + 1).to_string()});
            if !last {
                record["CONTAINER_PARTIAL_MESSAGE"] = json!("true");
            }
            record
        }),
        ("journal", 48 * 1024, |log, line, n, container, last| {
            let mut record = json!({"__REALTIME_TIMESTAMP": (1754260200000000u64 + (line * 10 + n) as u64).to_string(),
                "MESSAGE": log, "_TRANSPORT": "stdout", "_STREAM_ID": format!("s{container}"),
                "PRIORITY": if last { "3" } else { "6" }, "_PID": "7"});
            if !last {
                record["_LINE_BREAK"] = json!("line-max");
            }
            record
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), "max_line: 16MiB\n").unwrap();
    for (name, size, write) in ways {
        let pieces = long_record_in_pieces(size);
        // Two containers take turns.
        let lines: Vec<String> = (0..25)
            .flat_map(|line| (0..pieces.len()).map(move |n| (line, n)))
            .flat_map(|(line, n)| [(line, n, 1), (line, n, 2)])
            .map(|(line, n, container)| {
                write(&pieces[n], line, n, container, n + 1 == pieces.len()).to_string()
            })
            .collect();
        for (input, joined) in [
            (lines.join("\n") + "\n", 50 * pieces.len()),
            // All of them in one document.
            (format!("[{}]", lines.join(",")), 0),
        ] {
            let args = ["replay", "-", "--config", "c.yaml", "--summary", "json", "--quiet"];
            let output = crate::support::run_in(folder.path(), &args, input.as_bytes());
            let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
            assert_eq!(summary["events"], json!({ "FAILED_LOGIN": 50 }), "{name}: {summary}");
            assert_eq!(summary["lines"]["joined"], joined, "{name}: {summary}");
            let told = stdout(&output);
            assert!(told.contains(r#""value":"203.0.113.9""#), "{name}: {told}");
            assert!(!told.contains("\"9.9.9.9"), "{name}: {told}");
        }
    }
}

/// CloudWatch has all pieces of a line in one message, and marks none.
#[test]
fn pieces_of_cloudwatch_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.yaml"), "max_line: 16MiB\n").unwrap();
    let pieces = long_record_in_pieces(262_118);
    let event = |line: usize, piece: &str| json!({"id": "1", "timestamp": 1754260200000u64 + line as u64, "message": piece});
    let lines: String = (0..25)
        .map(|line| {
            let events: Vec<Value> = pieces.iter().map(|piece| event(line, piece)).collect();
            let all = [events.clone(), vec![event(99, "else")], events].concat();
            json!({"messageType": "DATA_MESSAGE", "logGroup": "g", "logStream": "s", "logEvents": all}).to_string() + "\n"
        })
        .collect();
    let args = ["replay", "-", "--config", "c.yaml", "--summary", "json", "--quiet"];
    let output = crate::support::run_in(folder.path(), &args, lines.as_bytes());
    let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(summary["events"], json!({ "FAILED_LOGIN": 50 }), "{summary}");
    assert!(!stdout(&output).contains("\"9.9.9.9"), "{}", stdout(&output));
}

/// Several records in one line are read like several lines, and what is cut of them is not lost.
#[test]
fn pieces_beside_other_records_of_a_line_are_joined_and_read() {
    let of = |log: &str, stream: &str| {
        json!({"log": log, "stream": stream, "time": "2025-08-03T22:30:00Z"}).to_string()
    };
    let docker = |log: &str| of(log, "stdout");
    let failed = r#"{"timestamp":"2025-08-03T22:30:00Z","logger":"security","message":"FAILED_LOGIN: email=a@x.org, ip=203.0.113.7, reason=bad"}"#;
    let whole = of(&format!("{failed}\n"), "stderr");
    let mut pieces: Vec<String> =
        long_record_in_pieces(16 * 1024).iter().map(|piece| docker(piece)).collect();
    let last = pieces.pop().unwrap();
    // Each of them in a document of its own, or in a list; the last may be missing.
    for (rest, expected) in [(Some(&last), 2), (None, 1)] {
        let all: Vec<&str> =
            pieces.iter().chain(rest).chain([&whole]).map(String::as_str).collect();
        for line in [all.concat(), all.join(" "), format!("[{}]", all.join(","))] {
            let output = run(
                &["replay", "-", "--summary", "json", "--quiet"],
                format!("{line}\n").as_bytes(),
            );
            let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
            let found = summary["events"]["FAILED_LOGIN"].as_u64();
            assert_eq!(found, Some(expected), "{rest:?} {summary}");
            assert_eq!(summary["lines"]["matched"], 1, "{summary}");
        }
    }
}

/// What says that it is a part of a line whose others did not come is no line.
#[test]
fn what_is_left_of_a_line_names_nobody() {
    let forged = r#"FAILED_LOGIN: email=v@x.org, ip=9.9.9.9, reason=bad"}"#;
    let time = "1754260200000001";
    let timed = r#"{"timestamp":"2025-08-03T22:30:00Z","logger":"security","message":"FAILED_LOGIN: email=a@x.org, ip=203.0.113.7, reason=bad"}"#;
    let fluentd = |log: &str, ordinal: u32, last: bool| {
        json!({"container_id": "c", "source": "stdout", "log": log,
        "partial_message": "true", "partial_id": "i", "partial_ordinal": ordinal.to_string(), "partial_last": last.to_string()}).to_string()
    };
    let journal = |message: Value, ordinal: u32, last: bool| {
        let mut record = json!({"__REALTIME_TIMESTAMP": time, "MESSAGE": message, "CONTAINER_ID_FULL": "c",
            "CONTAINER_PARTIAL_ID": "i", "CONTAINER_PARTIAL_ORDINAL": ordinal.to_string()});
        if !last {
            record["CONTAINER_PARTIAL_MESSAGE"] = json!("true");
        }
        record.to_string()
    };
    let printed = |message: Value, cut: bool| {
        let mut record = json!({"__REALTIME_TIMESTAMP": time, "MESSAGE": message, "_TRANSPORT": "stdout", "_STREAM_ID": "s"});
        if cut {
            record["_LINE_BREAK"] = json!("line-max");
        }
        record.to_string()
    };
    // What the client filled, and what comes behind it.
    let filled = format!("FAILED_LOGIN: email=a, ip=9.9.9.9, reason={}", "b".repeat(16_384));
    let rest = ", ip=203.0.113.66, reason=bad";
    for (name, lines) in [
        ("the last of Fluentd's", vec![fluentd(forged, 2, true)]),
        ("two of Fluentd's", vec![fluentd(forged, 2, false), fluentd("", 3, true)]),
        ("the last of the journal's", vec![journal(json!(forged), 2, true)]),
        ("left out by journalctl", vec![printed(Value::Null, true), printed(json!(forged), false)]),
        (
            "left out, of Docker",
            vec![journal(Value::Null, 1, false), journal(json!(forged), 2, true)],
        ),
        ("an end that does not come", vec![fluentd(&filled, 1, false)]),
        ("cut at max_line", vec![format!("{filled}{}{rest}", "b".repeat(1_100_000))]),
        ("cut in a list", vec![format!("[{}]", fluentd(&filled, 1, false))]),
    ] {
        let mut text = format!("{timed}\n");
        for n in 0..25 {
            text += &(lines.join("\n").replace(time, &(1_754_260_200_000_001u64 + n).to_string())
                + "\n");
        }
        let output = run(&["replay", "-", "--summary", "json", "--quiet"], text.as_bytes());
        assert!(!stdout(&output).contains("9.9.9.9"), "{name}: {}", stdout(&output));
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(summary["lines"]["total"], 1 + 25 * lines.len(), "{name}: {summary}");
    }
}

/// Fluent Bit's other mark, and Docker's lines with different tags beside one another.
#[test]
fn pieces_are_told_apart_by_all_that_stands_beside_them() {
    let pieces = long_record_in_pieces(16 * 1024);
    let last = pieces.len() - 1;
    let marked = |log: &str, n: usize, tag: &str| {
        json!({"log": log, "stream": "stdout", "_p": if n == last { "F" } else { "P" },
        "date": n, "kubernetes": {"pod_name": tag}})
        .to_string()
    };
    let docker = |log: &str, n: usize, tag: &str| {
        json!({"log": if n == last { format!("{log}\n") } else { log.to_owned() },
        "stream": "stdout", "attrs": {"tag": tag}, "time": "2025-08-03T22:30:00Z"})
        .to_string()
    };
    let cloudwatch = |texts: &[String]| {
        json!({"messageType": "DATA_MESSAGE", "logGroup": "g", "logStream": "s",
        "logEvents": texts.iter().map(|text| json!({"id": "1", "timestamp": 1754260200000u64, "message": text})).collect::<Vec<_>>()}).to_string()
    };
    let loki = |texts: &[String]| {
        json!({"streams": [{"stream": {"app": "a"},
        "values": texts.iter().map(|text| json!(["1754260200000000000", text])).collect::<Vec<_>>()}]}).to_string()
    };
    let otlp = |texts: &[String]| {
        json!({"resourceLogs": [{"scopeLogs": [{"logRecords":
        texts.iter().map(|text| json!({"timeUnixNano": "1754260200000000000", "body": {"stringValue": text}})).collect::<Vec<_>>()}]}]}).to_string()
    };
    for way in 0..8 {
        let write = |piece: &str, n: usize, tag: &str| {
            if way % 2 == 0 { marked(piece, n, tag) } else { docker(piece, n, tag) }
        };
        let texts: Vec<String> = (0..25)
            .flat_map(|_| pieces.iter().enumerate())
            .flat_map(|(n, piece)| ["a", "b"].map(|tag| write(piece, n, tag)))
            .collect();
        // A line each, or a few lines' pieces in one message of a carrier around them.
        let few = texts.chunks(4 * pieces.len());
        let lines: Vec<String> = match way / 2 {
            0 => texts.clone(),
            1 => few.map(cloudwatch).collect(),
            2 => few.map(loki).collect(),
            _ => few.map(otlp).collect(),
        };
        let lines = lines.join("\n") + "\n";
        let output = run(&["replay", "-", "--summary", "json", "--quiet"], lines.as_bytes());
        let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(summary["events"], json!({ "FAILED_LOGIN": 50 }), "{summary}");
        assert!(!stdout(&output).contains("\"9.9.9.9"), "{}", stdout(&output));
    }
}

/// A document that is as long but whole waits for nothing.
#[test]
fn a_whole_document_of_the_length_of_a_piece_waits_for_nothing() {
    let text = long_record_in_pieces(16 * 1024).concat();
    let whole = json!({"version": "1.1", "host": "h", "short_message": text, "timestamp": 1754260200, "_container_id": "c"});
    let lines = format!("{whole}\n").repeat(2);
    let output = run(&["replay", "-", "--summary", "json", "--quiet"], lines.as_bytes());
    let summary: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(summary["events"], json!({ "FAILED_LOGIN": 2 }), "{summary}");
}

/// Vector's syslog source names the machine that sent the line, which is no client.
#[test]
fn whoever_sent_a_line_to_vector_is_not_blocked_for_it() {
    let told = |source: &str, config: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.yaml"), config).unwrap();
        let line = json!({"message": "FAILED_LOGIN: email=a@x.org, ip=203.0.113.9, reason=bad", "source_type": source,
            "source_ip": "198.51.100.1", "timestamp": "2025-08-03T22:30:00Z", "appname": "api", "severity": "warning"});
        let args = ["replay", "-", "--config", "c.yaml", "--summary", "none"];
        let output =
            crate::support::run_in(folder.path(), &args, format!("{line}\n").repeat(25).as_bytes());
        let told = stdout(&output);
        ["198.51.100.1", "203.0.113.9"].map(|ip| {
            told.contains(&format!(r#""action":"block","target":{{"kind":"ip","value":"{ip}"}}"#))
        })
    };
    assert_eq!(told("syslog", "{}"), [false, true]);
    // Anywhere else it is the client, and here where it is said to be.
    assert_eq!(told("suricata", "{}"), [true, false]);
    assert_eq!(told("syslog", "fields: { ip: [source_ip] }"), [true, false]);
}

/// What has a logger of its own is not opened, however it travels.
#[test]
fn the_text_of_a_record_with_a_logger_is_no_record() {
    let forged = r#"{\"logger\":\"security\",\"message\":\"FAILED_LOGIN: email=v@x.org, ip=9.9.9.9, reason=x\"}"#;
    let loki = |label: &str, attributes: &str| {
        format!(
            r#"{{"streams":[{{"stream":{{"app":"x"{label}}},"values":[["TIME","{forged}"{attributes}]]}}]}}"#
        )
    };
    let otlp = |scope: &str, body: &str, attributes: &str| {
        format!(
            r#"{{"resourceLogs":[{{"scopeLogs":[{{"scope":{{"name":"{scope}"}},"logRecords":[{{"timeUnixNano":"TIME","body":{{"stringValue":"{body}"}},"attributes":[{attributes}]}}]}}]}}]}}"#
        )
    };
    let failed = "FAILED_LOGIN: email=v@x.org, ip=9.9.9.9, reason=x";
    let message = |text: &str| format!(r#"{{"key":"message","value":{{"stringValue":"{text}"}}}}"#);
    let blocks = |line: &str| {
        let lines: String = (0..25)
            .map(|i| line.replace("TIME", &format!("17542602001234567{i:02}")) + "\n")
            .collect();
        let output = run(&["replay", "-", "--summary", "none"], lines.as_bytes());
        stdout(&output).contains(r#""value":"9.9.9.9""#)
    };
    assert!(!blocks(&loki("", r#",{"logger":"chat","module":"m"}"#)));
    assert!(!blocks(&loki(r#","logger":"chat""#, "")));
    assert!(!blocks(&otlp("chat", forged, "")));
    assert!(!blocks(&otlp("", "contact form", &message(failed))));
    let gelf = format!(
        r#"{{"version":"1.1","host":"h","short_message":"contact","timestamp":"TIME","_message":"{failed}"}}"#
    );
    assert!(!blocks(&gelf));
    // A structure is the application's own: what contradicts it is no message, nor is a text in it a record.
    let map = |own: &str, attributes: &str| {
        let list = |pairs: &str| format!(r#"{{"kvlistValue":{{"values":[{pairs}]}}}}"#);
        otlp("", "BODY", attributes).replace(r#"{"stringValue":"BODY"}"#, &list(own))
    };
    assert!(blocks(&map(&message(failed), "")));
    assert!(!blocks(&map(&message("contact form"), &message(failed))));
    assert!(!blocks(&map(&message(failed), &message("contact form"))));
    assert!(!blocks(&map(&message(forged), "")));
    assert!(!blocks(&map(&format!("{},{}", message("contact form"), message(failed)), "")));
    let nested = format!(
        r#"{{"key":"request","value":{{"kvlistValue":{{"values":[{}]}}}}}}"#,
        message(failed)
    );
    assert!(!blocks(&map(&format!("{},{nested}", message("contact form")), "")));
    // Without one, a text is the line that was carried, and a parsed message stands in its line.
    assert!(blocks(&loki("", "")));
    assert!(blocks(&otlp("", forged, "")));
    assert!(blocks(&otlp("", &format!("2025-08-03 WARN {failed}"), &message(failed))));
}

/// A flood from one address with one account costs the same for its last event as for its first.
#[test]
fn a_flood_from_one_sender_is_linear() {
    let lines: String = (0..60_000)
        .map(|i| {
            let time = portcullis::decode::time::format(1_754_260_200_000_000 + i * 5_000);
            format!("{{\"timestamp\":\"{time}\",\"message\":\"FAILED_LOGIN: email=a@b.c, ip=203.0.113.7, reason=x\"}}\n")
        })
        .collect();
    let started = std::time::Instant::now();
    let output = run(&["replay", "-", "--summary", "none", "--output", "json"], lines.as_bytes());
    assert!(stdout(&output).contains("\"action\":\"block\""));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
