//! The bytes of the action line. Others parse them: a change here is a change of schema and an
//! entry in the CHANGELOG.

use crate::stream::Story;
use crate::support::{failed_logins, run, stdout};
use portcullis::action::{Action, Op};
use portcullis::decode::time::{self, When, Zone};
use serde_json::Value;
use sha2::{Digest, Sha256};

const BLOCK: &str = r##"{"schema":1,"id":"ID","decision":"ID","time":"2025-08-03T23:26:40.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.7"},"duration_s":86400,"until":"2025-08-04T23:26:40.000000Z","rule":"ip-blocking","pack":"velro","pattern":"FAILED_LOGIN","count":21,"window_s":3600,"first_seen":"2025-08-03T22:30:00.000000Z","last_seen":"2025-08-03T23:26:40.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["security_team"],"runbook":"#suspicious-activity-runbook","users":{"distinct":21,"sample":["user0@example.org","user1@example.org","user2@example.org"]},"reasons":{"invalid_password":21},"request_ids":{"distinct":21,"sample":["r-0","r-1","r-2"]},"mode":"enforce","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h"}"##;

pub const EVERY_KIND: &str = r##"{"schema":1,"id":"3390727d6a1e7ab4","decision":"3390727d6a1e7ab4","time":"2025-01-01T00:00:03.000000Z","op":"start","action":"lock","target":{"kind":"user","value":"ann"},"duration_s":3600,"until":"2025-01-01T01:00:03.000000Z","rule":"lock","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:02.000000Z","last_seen":"2025-01-01T00:00:03.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["user","security_team"],"runbook":"https://example.org/runbook#locked","ips":{"distinct":2,"sample":["203.0.113.7","203.0.113.8"]},"known_ips":["192.0.2.2","192.0.2.1"],"reasons":{"bad":2},"request_ids":{"distinct":2,"sample":["r-1","r-2"]},"mode":"enforce","reason":"2 FAIL for ann within 1m"}
{"schema":1,"id":"e9fbd9b94c3ee653","decision":"e9fbd9b94c3ee653","time":"2025-01-01T00:00:04.000000Z","op":"start","action":"require_2fa","target":{"kind":"user","value":"ann"},"duration_s":86400,"until":"2025-01-02T00:00:04.000000Z","rule":"known","pack":"test","pattern":"LOGIN","count":1,"first_seen":"2025-01-01T00:00:04.000000Z","last_seen":"2025-01-01T00:00:04.000000Z","severity":"P2","respond_s":14400,"notify":["user"],"ips":{"distinct":1,"sample":["192.0.2.3"]},"known_ips":["192.0.2.2","192.0.2.1"],"mode":"enforce","reason":"LOGIN for ann with a country never seen before: BR"}
{"schema":1,"id":"bb98ef5d85c068c5","decision":"bb98ef5d85c068c5","time":"2025-01-01T00:00:07.000000Z","op":"start","action":"alert","target":{"kind":"global"},"duration_s":60,"until":"2025-01-01T00:01:07.000000Z","rule":"many","pack":"test","pattern":"FAIL","count":3,"window_s":60,"first_seen":"2025-01-01T00:00:05.000000Z","last_seen":"2025-01-01T00:00:07.000000Z","level":"critical","severity":"P1","respond_s":0,"escalate_s":300,"runbook":"https://example.org/else","users":{"distinct":3,"sample":["u1","u2","42"]},"ips":{"distinct":2,"sample":["203.0.113.1","2001:db8::1"]},"reasons":{"a":2,"b":1},"mode":"enforce","reason":"3 FAIL within 1m"}
{"schema":1,"id":"c3d64d734a43e19a","decision":"c3d64d734a43e19a","time":"2025-01-01T00:00:09.000000Z","op":"start","action":"block","target":{"kind":"range","value":"2001:db8:1:2::/64"},"duration_s":120,"until":"2025-01-01T00:02:09.000000Z","rule":"block","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:08.000000Z","last_seen":"2025-01-01T00:00:09.000000Z","users":{"distinct":2,"sample":["u1","u2"]},"ips":{"distinct":2,"sample":["2001:db8:1:2::1","2001:db8:1:2::2"]},"mode":"enforce","reason":"2 FAIL from 2001:db8:1:2::/64 within 1m"}
{"schema":1,"id":"2d08ead0875d1c5d","decision":"c3d64d734a43e19a","time":"2025-01-01T00:00:11.000000Z","op":"extend","action":"block","target":{"kind":"range","value":"2001:db8:1:2::/64"},"duration_s":120,"until":"2025-01-01T00:02:11.000000Z","rule":"block","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:10.000000Z","last_seen":"2025-01-01T00:00:11.000000Z","users":{"distinct":1,"sample":["u1"]},"ips":{"distinct":2,"sample":["2001:db8:1:2::1","2001:db8:1:2::3"]},"mode":"enforce","reason":"2 FAIL from 2001:db8:1:2::/64 within 1m"}
{"schema":1,"id":"fef759c28f019f63","time":"2025-01-01T00:00:12.000000Z","op":"withheld","action":"block","target":{"kind":"ip","value":"198.51.100.9"},"duration_s":120,"rule":"block","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:12.000000Z","last_seen":"2025-01-01T00:00:12.000000Z","mode":"enforce","guard":"allow","reason":"2 FAIL from 198.51.100.9 within 1m"}
{"schema":1,"id":"187a931b44abea2a","time":"2025-01-01T00:00:13.000000Z","op":"withheld","action":"block","target":{"kind":"ip","value":"203.0.113.9"},"duration_s":120,"rule":"block","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:13.000000Z","last_seen":"2025-01-01T00:00:13.000000Z","mode":"enforce","guard":"brake","reason":"2 FAIL from 203.0.113.9 within 1m"}
{"schema":1,"id":"439639da7f7c6452","time":"2025-01-01T00:00:13.000000Z","op":"note","action":"alert","target":{"kind":"global"},"rule":"brake","pack":"portcullis","level":"critical","severity":"P0","respond_s":0,"mode":"enforce","reason":"more than 1 block decisions in one minute: further ones are withheld until the next minute (max_blocks_per_minute)"}
{"schema":1,"id":"599a6a7f6d7c0efe","decision":"599a6a7f6d7c0efe","time":"2025-01-01T00:00:15.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.9"},"duration_s":3600,"until":"2025-01-01T01:00:15.000000Z","rule":"shadow","pack":"test","pattern":"FAIL","count":3,"window_s":60,"first_seen":"2025-01-01T00:00:14.000000Z","last_seen":"2025-01-01T00:00:15.000000Z","respond_s":60,"mode":"shadow","reason":"3 FAIL from 203.0.113.9 within 1m"}
{"schema":1,"id":"491bd4c21b2f93ae","decision":"bb98ef5d85c068c5","time":"2025-01-01T00:01:07.000000Z","op":"end","action":"alert","target":{"kind":"global"},"rule":"many","pack":"test","pattern":"FAIL","level":"critical","severity":"P1","respond_s":0,"escalate_s":300,"runbook":"https://example.org/else","crossings":1,"mode":"enforce","reason":"alert ended"}
{"schema":1,"id":"9037f8f827f8bfd6","decision":"c3d64d734a43e19a","time":"2025-01-01T00:02:11.000000Z","op":"end","action":"block","target":{"kind":"range","value":"2001:db8:1:2::/64"},"rule":"block","pack":"test","pattern":"FAIL","crossings":2,"mode":"enforce","reason":"block of 2001:db8:1:2::/64 ended"}"##;

const UNDER_ATTACK: &str = r##"{"schema":1,"id":"ID","decision":"ID","time":"2025-01-01T00:00:01.000000Z","op":"start","action":"under_attack","target":{"kind":"global"},"duration_s":1800,"until":"2025-01-01T00:30:01.000000Z","rule":"r","pack":"test","pattern":"FAIL","count":2,"window_s":60,"first_seen":"2025-01-01T00:00:00.000000Z","last_seen":"2025-01-01T00:00:01.000000Z","level":"critical","severity":"P1","respond_s":0,"users":{"distinct":2,"sample":["u1","u2"]},"ips":{"distinct":2,"sample":["203.0.113.1","203.0.113.2"]},"mode":"enforce","reason":"2 FAIL within 1m"}
{"schema":1,"id":"END","decision":"ID","time":"2025-01-01T00:30:01.000000Z","op":"end","action":"under_attack","target":{"kind":"global"},"rule":"r","pack":"test","pattern":"FAIL","level":"critical","severity":"P1","respond_s":0,"crossings":1,"mode":"enforce","reason":"under_attack ended"}"##;

const SENTENCES: &str = "2025-01-01 00:00:03 LOCK ann for 1h: 2 FAIL for ann within 1m [lock]
2025-01-01 00:00:04 REQUIRE_2FA ann for 24h: LOGIN for ann with a country never seen before: BR [known]
2025-01-01 00:00:07 ALERT: 3 FAIL within 1m [many]
2025-01-01 00:00:09 BLOCK 2001:db8:1:2::/64 for 2m: 2 FAIL from 2001:db8:1:2::/64 within 1m [block]
2025-01-01 00:00:11 EXTEND BLOCK 2001:db8:1:2::/64 for 2m: 2 FAIL from 2001:db8:1:2::/64 within 1m [block]
2025-01-01 00:00:12 WITHHELD BLOCK 198.51.100.9 for 2m: 2 FAIL from 198.51.100.9 within 1m [block] held back by allow
2025-01-01 00:00:13 WITHHELD BLOCK 203.0.113.9 for 2m: 2 FAIL from 203.0.113.9 within 1m [block] held back by brake
2025-01-01 00:00:13 NOTE: more than 1 block decisions in one minute: further ones are withheld until the next minute (max_blocks_per_minute) [brake]
2025-01-01 00:00:15 BLOCK 203.0.113.9 for 1h: 3 FAIL from 203.0.113.9 within 1m [shadow] (shadow: nothing is enforced)
2025-01-01 00:01:07 END ALERT: alert ended [many]
2025-01-01 00:02:11 END BLOCK 2001:db8:1:2::/64: block of 2001:db8:1:2::/64 ended [block]";

#[test]
fn the_block_line_has_these_bytes() {
    let output = run(
        &["replay", "-", "--summary", "none"],
        failed_logins(21, 170, "203.0.113.7").as_bytes(),
    );
    let line =
        stdout(&output).lines().find(|line| line.contains("ip-blocking")).unwrap().to_owned();
    assert_eq!(line, BLOCK.replace("ID", "d9bb6d97bf65ed48"));
}

/// The id as the specification derives it: SHA-256 over the parts, each with its length before it.
fn derived(parts: [&str; 9]) -> String {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
        bytes.extend(part.bytes());
    }
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The id that a line must have, from nothing but the line and its ordinal.
fn id_of(line: &str, ordinal: &str) -> String {
    let line: Value = serde_json::from_str(line).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let Some(When::At(at)) = time::parse(&text(&line["time"]), &Zone::default()) else {
        panic!("{line}")
    };
    derived([
        "1",
        &text(&line["pack"]),
        &text(&line["rule"]),
        &text(&line["target"]["kind"]),
        &text(&line["target"]["value"]),
        &text(&line["action"]),
        &text(&line["op"]),
        &at.to_string(),
        ordinal,
    ])
}

/// Every kind of line but the block of the home case.
fn every_kind() -> Vec<Action> {
    let rules = Story::default()
        .rule(
            "lock",
            "FAIL",
            "user",
            "count >= 2 within 1m",
            "lock for 1h",
            "where: { tenant: l }, level: warning, severity: P2, notify: [user, security_team], runbook: '#locked'",
        )
        .rule(
            "known",
            "LOGIN",
            "user",
            "first_seen(country)",
            "require_2fa",
            "notify: [user], severity: P2",
        )
        .rule(
            "many",
            "FAIL",
            "global",
            "count >= 3 within 1m",
            "alert",
            "where: { tenant: g }, level: critical, severity: P1, escalate_s: 300, runbook: 'https://example.org/else'",
        )
        .rule("block", "FAIL", "ip", "count >= 2 within 1m", "block for 2m", "where: { tenant: b }")
        .rule(
            "shadow",
            "FAIL",
            "ip",
            "count >= 2 within 1m",
            "block for 1h",
            "where: { tenant: s }, mode: shadow, respond_s: 60",
        )
        .config("runbook_url: https://example.org/runbook")
        .config("brakes: { max_blocks_per_minute: 1 }")
        .config("allow: [{ ip: 198.51.100.0/24, comment: office }]");
    rules
        .tell(
            "0s LOGIN user=ann ip=192.0.2.1 country=DE
             1s LOGIN user=ann ip=192.0.2.2 country=DE
             2s FAIL tenant=l user=ann ip=203.0.113.7 request_id=r-1 reason=bad
             3s FAIL tenant=l user=Ann ip=203.0.113.8 request_id=r-2 reason=bad
             4s LOGIN user=ann ip=192.0.2.3 country=BR
             5s FAIL tenant=g user=u1 ip=203.0.113.1 reason=b
             6s FAIL tenant=g user=u2 ip=2001:db8::1 reason=a
             7s FAIL tenant=g user_id=42 ip=203.0.113.1 reason=a
             8s FAIL tenant=b user=u1 ip=2001:db8:1:2::1
             9s FAIL tenant=b user=u2 ip=2001:db8:1:2::2
             10s FAIL tenant=b user=u1 ip=2001:db8:1:2::1
             11s FAIL tenant=b ip=2001:db8:1:2::3
             12s+0s*2 FAIL tenant=b ip=198.51.100.9
             13s+0s*2 FAIL tenant=b ip=203.0.113.9
             14s FAIL tenant=s ip=203.0.113.9
             15s FAIL tenant=s ip=203.0.113.9 n=2
             clock 131s",
        )
        .actions
}

#[test]
fn every_kind_of_line_has_these_bytes() {
    let lines: Vec<String> = every_kind().iter().map(Action::json).collect();
    let pinned: Vec<&str> = EVERY_KIND.lines().collect();
    for (line, pinned) in lines.iter().zip(&pinned) {
        assert_eq!(line, pinned);
    }
    assert_eq!(lines.len(), pinned.len(), "{lines:#?}");
}

#[test]
fn a_mode_for_everything_has_these_bytes() {
    let story = Story::of(
        "FAIL",
        "global",
        "count >= 2 within 1m",
        "under_attack for 30m",
        "level: critical, severity: P1",
    );
    let told = story.tell(
        "0s FAIL user=u1 ip=203.0.113.1
         1s FAIL user=u2 ip=203.0.113.2
         clock 31m",
    );
    let lines: Vec<String> = told.actions.iter().map(Action::json).collect();
    let ids: Vec<String> = lines.iter().map(|line| id_of(line, "0")).collect();
    assert_eq!(lines.join("\n"), UNDER_ATTACK.replace("ID", &ids[0]).replace("END", &ids[1]));
    let texts: Vec<String> = told.actions.iter().map(|action| action.text(false)).collect();
    assert_eq!(
        texts,
        [
            "2025-01-01 00:00:01 UNDER_ATTACK for 30m: 2 FAIL within 1m [r]",
            "2025-01-01 00:30:01 END UNDER_ATTACK: under_attack ended [r]",
        ]
    );
    let ecs: Value = serde_json::from_str(&told.actions[0].ecs()).unwrap();
    assert_eq!(ecs["event"]["action"], "under_attack_start");
    assert_eq!(ecs["event"]["type"], serde_json::json!(["info"]));
    assert!(ecs.get("source").is_none() && ecs.get("user").is_none(), "{ecs}");
}

#[test]
fn the_id_is_derived_as_the_specification_says() {
    assert_eq!(id_of(&BLOCK.replace("ID", ""), "0"), "d9bb6d97bf65ed48");
    let actions = every_kind();
    for action in &actions {
        assert_eq!(action.id, id_of(&action.json(), "0"), "{}", action.json());
    }
    let mut ids: Vec<&str> = actions.iter().map(|action| action.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), actions.len());
    // The decision is the id of the start it belongs to.
    let start = actions.iter().find(|a| a.op == Op::Start && a.rule == "block").unwrap();
    for op in [Op::Extend, Op::End] {
        let other = actions.iter().find(|a| a.op == op && a.rule == "block").unwrap();
        assert_eq!(other.decision.as_deref(), Some(start.id.as_str()));
    }
    // Firings of one rule and key at one time are told apart.
    let twice =
        Story::of("FAIL", "ip", "count >= 1 within 1m", "block for 1h", "on_repeat: extend")
            .rule("q", "FAIL", "ip", "count >= 1 within 1m", "[alert for 1m, block for 2h]", "")
            .tell("0s+0s*2 FAIL ip=203.0.113.7\n0s FAIL ip=203.0.113.8");
    let of =
        |rule: &str, op: Op| twice.actions.iter().find(|a| a.rule == rule && a.op == op).unwrap();
    assert_eq!(of("r", Op::Start).id, id_of(&of("r", Op::Start).json(), "0"));
    // Of Portcullis' own messages too: two brakes in one minute, then one in another.
    let notes = Story::of("FAIL", "user", "count >= 1 within 1s", "[lock for 1h, require_2fa]", "")
        .config("brakes: { max_locks_per_minute: 1, max_2fa_per_minute: 1 }")
        .tell("0s FAIL user=a\n1s FAIL user=b\n60s FAIL user=c\n61s FAIL user=d");
    let notes: Vec<&Action> = notes.actions.iter().filter(|a| a.op == Op::Note).collect();
    let derived: Vec<String> =
        notes.iter().zip(["0", "1", "0", "1"]).map(|(a, n)| id_of(&a.json(), n)).collect();
    assert_eq!(notes.iter().map(|a| a.id.clone()).collect::<Vec<_>>(), derived);
    // The clock set to one time twice.
    let restart = Story::of("FAIL", "ip", "count >= 1 within 10s", "alert", "")
        .tell("clock 10d\n0s+1s*50 FAIL\nclock 20d\n0s+1s*50 FAIL");
    let ids: Vec<&str> = restart.actions.iter().map(|a| a.id.as_str()).collect();
    let line = restart.actions[0].json();
    assert_eq!(ids, [id_of(&line, "0"), id_of(&line, "1")]);
    let withheld = Story::of("FAIL", "ip", "count >= 1 within 1m", "block for 1h", "")
        .config("allow: [{ ip: 203.0.113.7 }]")
        .tell("0s+0s*3 FAIL ip=203.0.113.7");
    for (action, ordinal) in withheld.actions.iter().zip(["0", "1", "2"]) {
        assert_eq!(action.id, id_of(&action.json(), ordinal));
    }
}

#[test]
fn the_elastic_form_has_the_fields_that_elastic_expects() {
    let block = run(
        &["replay", "-", "--summary", "none", "--output", "ecs"],
        failed_logins(21, 170, "203.0.113.7").as_bytes(),
    );
    let text = stdout(&block);
    let line: Value = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|line| line["rule"]["id"] == "ip-blocking")
        .unwrap();
    let expected = serde_json::json!({
        "@timestamp": "2025-08-03T23:26:40.000000Z",
        "ecs": { "version": "8.17.0" },
        "message": "21 FAILED_LOGIN from 203.0.113.7 within 1h",
        "event": {
            "kind": "alert",
            "category": ["intrusion_detection"],
            "type": ["denied"],
            "action": "block_start",
            "outcome": "success",
            "id": "d9bb6d97bf65ed48",
            "module": "portcullis",
            "provider": "portcullis",
            "severity": 47,
            "start": "2025-08-03T22:30:00.000000Z",
            "end": "2025-08-04T23:26:40.000000Z",
            "reason": "21 FAILED_LOGIN from 203.0.113.7 within 1h",
        },
        "rule": { "id": "ip-blocking", "ruleset": "velro", "name": "ip-blocking" },
        "source": { "ip": "203.0.113.7", "address": "203.0.113.7" },
        "related": {
            "ip": ["203.0.113.7"],
            "user": ["user0@example.org", "user1@example.org", "user2@example.org"],
        },
        "threat": {
            "framework": "MITRE ATT&CK",
            "technique": { "id": ["T1110"], "name": ["Brute Force"] },
        },
        "observer": {
            "vendor": "portcullis",
            "product": "portcullis",
            "type": "ids",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "labels": { "mode": "enforce", "op": "start", "target_kind": "ip" },
    });
    assert_eq!(line, expected);
    let of = |rule: &str, op: Op| -> Value {
        let actions = every_kind();
        let action = actions.iter().find(|a| a.rule == rule && a.op == op).unwrap();
        serde_json::from_str(&action.ecs()).unwrap()
    };
    let lock = of("lock", Op::Start);
    assert_eq!(lock["user"]["name"], "ann");
    assert_eq!(lock["related"]["ip"], serde_json::json!(["203.0.113.7", "203.0.113.8"]));
    assert_eq!(lock["event"]["type"], serde_json::json!(["denied"]));
    let range = of("block", Op::Start);
    assert_eq!(range["source"], serde_json::json!({ "address": "2001:db8:1:2::/64" }));
    let held = of("block", Op::Withheld);
    assert_eq!(
        (&held["event"]["outcome"], &held["labels"]["guard"]),
        (&"failure".into(), &"allow".into())
    );
    assert_eq!(held["event"]["type"], serde_json::json!(["info"]));
    assert_eq!(of("shadow", Op::Start)["labels"]["mode"], "shadow");
    let note = of("brake", Op::Note);
    assert_eq!((&note["event"]["kind"], &note["event"]["severity"]), (&"event".into(), &99.into()));
    assert_eq!(of("many", Op::Start)["event"]["severity"], 73);
}

#[test]
fn what_a_log_holds_cannot_reach_the_terminal() {
    let rule = Story::of("FAIL", "user", "count >= 1 within 1m", "lock for 1h", "");
    for (name, shown) in [
        (r"a\u001b[2Jb", r"a\u{1b}[2jb"),
        (r"a\u0007b", r"a\u{7}b"),
        (r"a\nb", r"a\u{a}b"),
        (r"a\u009bb", r"a\u{9b}b"),
        (r"a\u202eb", r"a\u{202e}b"),
        (r"a\u2066b\u2069", r"a\u{2066}b\u{2069}"),
        (r"a\u200fb", r"a\u{200f}b"),
        (r"a\u061cb", r"a\u{61c}b"),
        (r"a\u200bb", r"a\u{200b}b"),
        (r"a\u2028b", r"a\u{2028}b"),
        (r"a\ufeffb", r"a\u{feff}b"),
        (r"a\udb40\udc41b", r"a\u{e0041}b"),
    ] {
        let line =
            format!(r#"{{"timestamp":"2025-01-01T00:00:00Z","message":"FAIL","email":"{name}"}}"#);
        let told = rule.tell(&line);
        let text = told.actions[0].text(false);
        assert_eq!(
            text,
            format!("2025-01-01 00:00:00 LOCK {shown} for 1h: 1 FAIL for {shown} within 1m [r]"),
        );
        // In JSON it stays what it is, control characters as escapes.
        let json = told.actions[0].json();
        assert!(!json.chars().any(|c| c.is_ascii_control()), "{json}");
    }
    let long = "x".repeat(240);
    let text = rule.tell(&format!("0s FAIL user={long}")).actions[0].text(false);
    assert!(text.contains(&format!("LOCK {}\u{2026} for 1h", "x".repeat(200))), "{text}");
}

#[test]
fn a_sentence_for_every_kind_of_line() {
    let texts: Vec<String> = every_kind().iter().map(|action| action.text(false)).collect();
    assert_eq!(texts, SENTENCES.lines().collect::<Vec<_>>());
    let coloured = every_kind()[0].text(true);
    assert!(coloured.contains("\x1b[1;31mLOCK\x1b[0m"), "{coloured}");
}

#[test]
fn the_reason_has_one_template_per_condition() {
    let reason = |story: Story, lines: &str| story.tell(lines).actions[0].reason.clone();
    let of = |on: &str, per: &str, when: &str| Story::of(on, per, when, "alert", "");
    let per = |per: &str, fields: &str| {
        reason(of("FAIL", per, "count >= 2 within 90s"), &format!("0s+1s*2 FAIL {fields}"))
    };
    assert_eq!(per("ip", "ip=203.0.113.7"), "2 FAIL from 203.0.113.7 within 90s");
    assert_eq!(per("ip", "ip=2001:db8::1"), "2 FAIL from 2001:db8::/64 within 90s");
    assert_eq!(per("user", "user=ann"), "2 FAIL for ann within 90s");
    assert_eq!(per("user", "user_id=42"), "2 FAIL for 42 within 90s");
    assert_eq!(per("global", ""), "2 FAIL within 90s");
    assert_eq!(per("tenant", "tenant=x"), "2 FAIL with tenant x within 90s");
    assert_eq!(
        per("[ip, user]", "ip=203.0.113.7 user=ann"),
        r#"2 FAIL with ip+user ["203.0.113.7","ann"] within 90s"#
    );
    assert_eq!(
        reason(
            of("FAIL", "ip", "distinct(user) >= 2 within 1h"),
            "0s+1s*2 FAIL ip=203.0.113.7 user=a\n2s FAIL ip=203.0.113.7 user=b"
        ),
        "2 different user in 3 FAIL from 203.0.113.7 within 1h"
    );
    assert_eq!(
        reason(
            of("", "ip", "FAIL >= 2 then LOGIN within 10m"),
            "0s+1s*2 FAIL ip=203.0.113.7\n2s LOGIN ip=203.0.113.7"
        ),
        "2 FAIL then LOGIN from 203.0.113.7 within 10m"
    );
    assert_eq!(
        reason(
            of("LOGIN", "user", "first_seen(country)"),
            "0s LOGIN user=ann country=DE\n1s LOGIN user=ann country=br"
        ),
        "LOGIN for ann with a country never seen before: BR"
    );
    assert_eq!(
        reason(
            of("LOGIN", "ip", "new(user) >= 2 within 1h"),
            "0s+1s*2 LOGIN ip=203.0.113.7 user=u{n}"
        ),
        "2 new user in LOGIN from 203.0.113.7 within 1h"
    );
    assert_eq!(
        reason(
            of("LOGIN", "user", "unusual(hour)"),
            "9h+24h*21 LOGIN user=ann\n507h LOGIN user=ann\nclock 508h"
        ),
        "LOGIN for ann at an unusual hour: 03:00 UTC"
    );
    let ended =
        Story::of("FAIL", "global", "count >= 1 within 1m", "alert", "").tell("0s FAIL\nclock 2m");
    assert_eq!(ended.actions[1].reason, "alert ended");
}
