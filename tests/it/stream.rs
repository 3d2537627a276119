//! What rules, guards, the clock and the ledger do, end to end through the library. Each test is a
//! story: events as short text in, actions as short text out.
//!
//! `5s FAIL ip=203.0.113.7 user=ann` is a record at the fifth second of 2025; `0s+3s*21 FAIL`
//! stands for twenty-one of them, three seconds apart, with `{n}` counting from one; `-` is no
//! time; `clock 90s` lets three records that no rule counts carry the clock to that time; a line
//! that begins with `{` is taken as it is. All tests state sentences of the specification.

use portcullis::action::{Action, Op};
use portcullis::assembly::Assembly;
use portcullis::config::Settings;
use portcullis::decode::time::{self, Micros, When, Zone};
use portcullis::engine::summary::Summary;
use portcullis::source::Batch;
use portcullis::yaml::Document;
use std::fmt::Write;

/// 2025-01-01T00:00:00Z.
const START: Micros = 1_735_689_600_000_000;

const PATTERNS: &str = "
pack: test
patterns:
  FAIL:
    title: a failure, perhaps several
    read: [FAIL, 'FAIL x{n:int}']
    weight: n
    tests: [{ line: FAIL }]
  LOGIN:
    title: a login
    read: LOGIN
    tests: [{ line: LOGIN }]
  TICK:
    title: counted by nobody
    read: TICK
    tests: [{ line: TICK }]
  ASKED:
    title: a request in the text
    read: 'ASKED {request_id}, end={end}'
    tests: [{ line: 'ASKED a, end=b' }]
  SAID:
    title: identity in the text
    where: { logger: [app, absent] }
    read: 'SAID: user={user}, ip={ip}, tag={tag}'
    tests: [{ line: 'SAID: user=u, ip=203.0.113.7, tag=x' }]
rules:
";

/// For stories about something else than what an active block does.
const QUIET: &str = "on_repeat: quiet";

/// Rules and settings to tell events to.
#[derive(Default)]
pub struct Story {
    rules: String,
    config: String,
    arrival: Option<Micros>,
}

/// What came of it.
pub struct Told {
    pub actions: Vec<Action>,
    pub summary: Summary,
}

impl Story {
    /// A story with one rule; `also` are further keys of the rule.
    pub fn of(on: &str, per: &str, when: &str, then: &str, also: &str) -> Self {
        Self::default().rule("r", on, per, when, then, also)
    }

    pub fn rule(
        mut self,
        id: &str,
        on: &str,
        per: &str,
        when: &str,
        then: &str,
        also: &str,
    ) -> Self {
        let on = if on.is_empty() { String::new() } else { format!("on: {on}, ") };
        let also = if also.is_empty() { String::new() } else { format!(", {also}") };
        let _ = writeln!(
            self.rules,
            "  - {{ id: {id}, title: t, {on}per: {per}, when: '{when}', then: {then}{also} }}"
        );
        self
    }

    pub fn config(mut self, text: &str) -> Self {
        self.config.push_str(text);
        self.config.push('\n');
        self
    }

    fn arriving(mut self, seconds: i64) -> Self {
        self.arrival = Some(START + seconds * 1_000_000);
        self
    }

    pub fn tell(&self, lines: &str) -> Told {
        let folder = tempfile::tempdir().unwrap();
        let pack = folder.path().join("pack.yaml");
        std::fs::write(&pack, format!("{PATTERNS}{}", self.rules)).unwrap();
        let learn = if self.config.contains("learn:") { "" } else { "learn: 0s\n" };
        let text = format!("patterns: [{}]\n{learn}{}", pack.display(), self.config);
        let mut settings = Settings::default();
        let problems = settings.apply(&Document { name: "config".into(), text });
        assert!(problems.is_empty(), "{problems:?}");
        let assembly = Assembly::new(&settings, &[]).unwrap_or_else(|p| {
            panic!("{}", p.iter().map(ToString::to_string).collect::<String>())
        });
        let mut engine = assembly.engine();
        let mut actions = Vec::new();
        // Line by line, as a live stream would bring them.
        for line in lines.lines().flat_map(records) {
            let batch = Batch { source: 0, bytes: (line + "\n").into_bytes(), ..Batch::default() };
            engine.apply_batch(assembly.scanner.scan(batch), self.arrival);
            actions.extend(engine.take_actions());
        }
        engine.finish();
        actions.extend(engine.take_actions());
        Told { actions, summary: std::mem::take(&mut engine.core.summary) }
    }

    fn gives(&self, lines: &str, expected: &str) -> Told {
        let told = self.tell(lines);
        let told_lines: Vec<String> = told.actions.iter().map(shown).collect();
        let expected: Vec<&str> =
            expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(told_lines, expected, "for\n{lines}");
        told
    }
}

fn micros(text: &str) -> Micros {
    time::parse_duration(text).unwrap_or_else(|| panic!("no time: {text}"))
}

/// The JSON lines that a line of a story stands for.
fn records(line: &str) -> Vec<String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('{') {
        return if line.is_empty() { Vec::new() } else { vec![line.to_owned()] };
    }
    if let Some(at) = line.strip_prefix("clock ") {
        return vec![record(Some(micros(at)), "TICK", &[], 1); 3];
    }
    let mut words = line.split_whitespace();
    let when = words.next().unwrap();
    let pattern = words.next().unwrap();
    let fields: Vec<(&str, &str)> = words.map(|word| word.split_once('=').unwrap()).collect();
    let Some((at, steps)) = when.split_once('+') else {
        let at = (when != "-").then(|| micros(when));
        return vec![record(at, pattern, &fields, 1)];
    };
    let (step, times) = steps.split_once('*').unwrap();
    (0..times.parse::<i64>().unwrap())
        .map(|n| record(Some(micros(at) + n * micros(step)), pattern, &fields, n + 1))
        .collect()
}

fn record(at: Option<Micros>, pattern: &str, fields: &[(&str, &str)], n: i64) -> String {
    let mut members = Vec::new();
    if let Some(at) = at {
        members.push(("timestamp", time::format(START + at)));
    }
    let mut message = pattern.to_owned();
    for (name, value) in fields {
        let value = value.replace("{n}", &n.to_string());
        match *name {
            "n" => message = format!("{pattern} x{value}"),
            "ip" => members.push(("ip_address", value)),
            "user" => members.push(("email", value)),
            "xff" => members.push(("x_forwarded_for", value)),
            name => members.push((name, value)),
        }
    }
    members.push(("message", message));
    let members: Vec<String> =
        members.iter().map(|(name, value)| format!("{}:{}", quoted(name), quoted(value))).collect();
    format!("{{{}}}", members.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn seconds(text: &str) -> String {
    let Some(When::At(at)) = time::parse(text, &Zone::default()) else { panic!("{text}") };
    let after = at - START;
    let whole = after.div_euclid(1_000_000);
    match after.rem_euclid(1_000_000) {
        0 => format!("{whole}s"),
        rest => format!("{whole}.{}s", format!("{rest:06}").trim_end_matches('0')),
    }
}

fn shown(action: &Action) -> String {
    let mut out = format!("{} {}", seconds(&action.time), action.op.name());
    if action.op == Op::Note {
        let _ = write!(out, " {} {}", action.rule, action.severity.unwrap());
        return out;
    }
    let target = action.target.value.as_deref().unwrap_or("global");
    let _ = write!(out, " {} {target}", action.action);
    if let Some(until) = &action.until {
        let _ = write!(out, " until {}", seconds(until));
    }
    if let Some(count) = action.count {
        let _ = write!(out, " x{count}");
    }
    if action.rule != "r" {
        let _ = write!(out, " [{}]", action.rule);
    }
    if let Some(guard) = action.guard {
        let _ = write!(out, " by {guard}");
    }
    if let Some(crossings) = action.crossings {
        let _ = write!(out, " crossings {crossings}");
    }
    if action.mode == "shadow" {
        out.push_str(" shadow");
    }
    out
}

// ------------------------------------------------------------------- 5: spans and crossings --

#[test]
fn more_than_twenty_is_twenty_one_and_twice_that_is_a_start_and_an_extend() {
    let story = Story::of("FAIL", "ip", "count > 20 within 1h", "block for 24h", "");
    story.gives("0s+1s*20 FAIL ip=203.0.113.7", "");
    let told = story.gives(
        "0s+1s*42 FAIL ip=203.0.113.7",
        "20s start block 203.0.113.7 until 86420s x21
         41s extend block 203.0.113.7 until 86441s x21",
    );
    let [start, extend] = told.actions.as_slice() else { panic!("two") };
    assert_eq!(start.decision.as_ref(), Some(&start.id));
    assert_eq!(extend.decision.as_ref(), Some(&start.id));
    assert_ne!(extend.id, start.id);
}

#[test]
fn a_span_does_not_hold_its_own_beginning() {
    let story = Story::of("FAIL", "ip", "count >= 2 within 10s", "block for 1h", "");
    story.gives("0s FAIL ip=203.0.113.7\n10s FAIL ip=203.0.113.7", "");
    story.gives(
        "0s FAIL ip=203.0.113.7\n9999ms FAIL ip=203.0.113.7",
        "9.999s start block 203.0.113.7 until 3609.999s x2",
    );
}

#[test]
fn equal_times_count_each() {
    Story::of("FAIL", "ip", "count >= 3 within 10s", "block for 1h", "")
        .gives("5s+0s*3 FAIL ip=203.0.113.7", "5s start block 203.0.113.7 until 3605s x3");
}

#[test]
fn a_late_event_completes_a_span_whose_time_is_the_earliest_end() {
    let story = Story::of("FAIL", "ip", "count >= 3 within 10s", "block for 1h", "");
    story.gives(
        "0s FAIL ip=203.0.113.7
         8s FAIL ip=203.0.113.7
         9s FAIL ip=198.51.100.1
         4s FAIL ip=203.0.113.7",
        "8s start block 203.0.113.7 until 3608s x3",
    );
    // The spans that end at 9s and at 10s would both do; the earlier is taken.
    Story::of("FAIL", "ip", "count >= 2 within 10s", "block for 1h", "").gives(
        "20s FAIL ip=203.0.113.7
         9s FAIL ip=203.0.113.7
         5s FAIL ip=203.0.113.7
         12s FAIL ip=203.0.113.7",
        "9s start block 203.0.113.7 until 3609s x2
         20s extend block 203.0.113.7 until 3620s x2",
    );
}

#[test]
fn what_is_used_up_does_not_count_again_and_everything_else_does() {
    let story = Story::of("FAIL", "ip", "count >= 3 within 10s", "block for 1h", "");
    story.gives(
        "0s FAIL ip=203.0.113.7
         4s FAIL ip=203.0.113.7
         8s FAIL ip=203.0.113.7
         9s FAIL ip=203.0.113.7
         9500ms FAIL ip=203.0.113.7",
        "8s start block 203.0.113.7 until 3608s x3",
    );
    // Of equal and of older time, but not in the first crossing.
    story.gives(
        "0s+4s*3 FAIL ip=203.0.113.7
         8s FAIL ip=203.0.113.7
         9s FAIL ip=203.0.113.7
         7s FAIL ip=203.0.113.7",
        "8s start block 203.0.113.7 until 3608s x3
         9s extend block 203.0.113.7 until 3609s x3",
    );
    // The event at 0s was outside the crossing's span: a late one finds it unused.
    Story::of("FAIL", "ip", "count >= 2 within 10s", "alert for 1m", "").gives(
        "0s FAIL ip=203.0.113.7
         20s+1s*2 FAIL ip=203.0.113.7
         5s FAIL ip=203.0.113.7
         clock 10m",
        "21s start alert 203.0.113.7 until 81s x2
         81s end alert 203.0.113.7 crossings 2",
    );
}

#[test]
fn an_event_counts_with_its_weight_and_fires_at_most_once() {
    let story = Story::of("FAIL", "ip", "count > 20 within 1h", "block for 1h", "");
    story.gives(
        "0s FAIL ip=203.0.113.7 n=19
         1s FAIL ip=203.0.113.7 n=2",
        "1s start block 203.0.113.7 until 3601s x21",
    );
    story.gives(
        "0s FAIL ip=203.0.113.7 n=99999
         1s FAIL ip=203.0.113.7 n=0
         2s FAIL ip=203.0.113.7 n=-7",
        "0s start block 203.0.113.7 until 3600s x10000",
    );
}

#[test]
fn several_lines_of_one_request_count_once() {
    let story =
        Story::of("FAIL", "ip", "count >= 3 within 1m", "block for 1h", "once_per: request_id");
    story.gives(
        "0s+1s*9 FAIL ip=203.0.113.7 request_id=a
         10s FAIL ip=203.0.113.7 request_id=b
         11s FAIL ip=198.51.100.1 request_id=c
         12s FAIL ip=203.0.113.7 request_id=c",
        "12s start block 203.0.113.7 until 3612s x3",
    );
    story.gives("0s+1s*3 FAIL ip=203.0.113.7", "2s start block 203.0.113.7 until 3602s x3");
    // A request may last longer than the window, and where a rule learns there is none.
    let short = |per: &str, when: &str, then: &str| {
        Story::of("FAIL", per, when, then, "once_per: request_id").config("lateness: 5s")
    };
    let later = "clock 200s\n200s FAIL ip=203.0.113.7 user=u country=FR request_id=a
         201s FAIL ip=203.0.113.7 user=u country=DE request_id=b";
    let first = "0s FAIL ip=203.0.113.7 user=u country=DE request_id=a\n";
    short("ip", "count >= 2 within 10s", "block for 1h").gives(&format!("{first}{later}"), "");
    short("user", "first_seen(country)", "alert").gives(&format!("{first}{later}"), "");
}

#[test]
fn different_values_are_counted_in_the_span() {
    let story = Story::of("FAIL", "ip", "distinct(user) >= 3 within 10s", "block for 1h", "");
    story.gives(
        "0s FAIL ip=203.0.113.7 user=a
         1s+1s*5 FAIL ip=203.0.113.7 user=b
         7s FAIL ip=203.0.113.7 user=B
         7s FAIL ip=203.0.113.7
         9s FAIL ip=203.0.113.7 user=c
         10s FAIL ip=203.0.113.7 user=d
         11s FAIL ip=203.0.113.7 user=e",
        "9s start block 203.0.113.7 until 3609s x8",
    );
    // Ten seconds hold two of these.
    story.gives("0s+5s*9 FAIL ip=203.0.113.7 user=u{n}", "");
}

#[test]
fn new_accounts_are_those_never_seen_in_this_stream() {
    let story = Story::of("LOGIN", "ip", "new(user) >= 3 within 1h", "alert", "");
    story.gives(
        "0s LOGIN ip=198.51.100.1 user=a
         1s LOGIN user=b
         2s LOGIN ip=10.0.0.1 user=c
         10s LOGIN ip=203.0.113.7 user=a
         11s LOGIN ip=203.0.113.7 user=b
         12s LOGIN ip=203.0.113.7 user=c
         13s LOGIN ip=203.0.113.7 user=d
         14s LOGIN ip=203.0.113.7 user=e
         15s LOGIN ip=203.0.113.7 user=e
         16s LOGIN ip=203.0.113.7 user=f",
        "16s start alert 203.0.113.7 until 3616s x3",
    );
}

#[test]
fn learning_is_silent_at_the_beginning_of_a_stream() {
    let story = Story::of("LOGIN", "ip", "new(user) >= 2 within 1h", "alert", "");
    let story = story.config("learn: 1h");
    story.gives(
        "0s+1s*10 LOGIN ip=203.0.113.7 user=u{n}
         3599s LOGIN ip=203.0.113.7 user=v
         3700s+1s*10 LOGIN ip=203.0.113.7 user=u{n}
         3800s+1s*2 LOGIN ip=203.0.113.7 user=w{n}",
        "3801s start alert 203.0.113.7 until 7401s x2",
    );
}

#[test]
fn a_value_this_key_never_had() {
    let story = Story::of("LOGIN", "user", "first_seen(country)", "require_2fa", "");
    story.gives(
        "0s LOGIN user=a country=DE
         1s LOGIN user=b country=BR
         2s LOGIN user=a country=de
         3s LOGIN user=a
         4s LOGIN user=a country=BR
         5s LOGIN user=a country=BR",
        "4s start require_2fa a until 86404s x1",
    );
    // What was not seen for ninety days is forgotten.
    story.gives(
        "0s LOGIN user=a country=DE
         1d LOGIN user=a country=BR
         clock 45d
         50d LOGIN user=a country=BR
         clock 92d
         93d LOGIN user=a country=DE",
        "86400s start require_2fa a until 172800s x1
         172800s end require_2fa a crossings 1
         8035200s start require_2fa a until 8121600s x1",
    );
}

#[test]
fn an_hour_unusual_for_an_account() {
    let story = Story::of("LOGIN", "user", "unusual(hour)", "alert for 1h", "");
    let mornings = "9h+24h*21 LOGIN user=a";
    story.gives(
        &format!("{mornings}\n506h LOGIN user=a\n507h LOGIN user=a"),
        "1821600s start alert a until 1825200s x1",
    );
    story.gives(&format!("{mornings}\n514h LOGIN user=a\nclock 515h"), "");
    story.gives("9h+24h*19 LOGIN user=a\n507h LOGIN user=a\nclock 508h", "");
    let eager =
        Story::of("LOGIN", "user", "unusual(hour)", "alert for 1h", "min_events: 3, min_days: 2");
    eager.gives(
        "9h+24h*3 LOGIN user=a\n75h LOGIN user=a\nclock 75h",
        "270000s start alert a until 273600s x1",
    );
}

#[test]
fn a_success_after_failures() {
    let story = Story::of("", "ip", "FAIL >= 3 then LOGIN within 10s", "alert for 1m", "");
    story.gives(
        "0s+1s*3 FAIL ip=203.0.113.7
         3s LOGIN ip=203.0.113.7
         4s LOGIN ip=203.0.113.7",
        "3s start alert 203.0.113.7 until 63s x3",
    );
    // Before it, and in the open span.
    story.gives("0s+1s*3 FAIL ip=203.0.113.7\n2s LOGIN ip=203.0.113.7", "");
    story.gives("0s+1s*3 FAIL ip=203.0.113.7\n10s LOGIN ip=203.0.113.7", "");
    story.gives("0s+1s*3 FAIL ip=203.0.113.7\n5s LOGIN ip=203.0.113.8", "");
    // A late failure completes it.
    story.gives(
        "0s+1s*2 FAIL ip=203.0.113.7
         5s LOGIN ip=203.0.113.7
         4s FAIL ip=203.0.113.7",
        "5s start alert 203.0.113.7 until 65s x3",
    );
}

#[test]
fn what_is_counted_per() {
    Story::of("FAIL", "[ip, user]", "count >= 2 within 1m", "alert", "").gives(
        "0s FAIL ip=203.0.113.7 user=a
         1s FAIL ip=203.0.113.7 user=b
         2s FAIL ip=203.0.113.8 user=a
         3s FAIL ip=203.0.113.7
         4s FAIL ip=203.0.113.7 user=a",
        r#"4s start alert ["203.0.113.7","a"] until 64s x2"#,
    );
    Story::of("FAIL", "tenant", "count >= 2 within 1m", "alert", "").gives(
        "0s FAIL tenant=x\n1s FAIL tenant=y\n2s FAIL\n3s FAIL\n4s FAIL tenant=x",
        "4s start alert x until 64s x2",
    );
    // Equal texts of different roles do not share a window.
    let per_user = Story::of("FAIL", "user", "count >= 2 within 1m", "lock for 1h", "");
    let told = per_user.gives(
        "0s FAIL user=a\n1s FAIL user_id=a\n2s FAIL user_id=a",
        "2s start lock a until 3602s x2",
    );
    assert_eq!(told.actions[0].target.kind, "user_id");
}

#[test]
fn an_event_without_the_key_is_counted_as_keyless_and_shares_nothing() {
    let told = Story::of("FAIL", "ip", "count >= 2 within 1m", "block for 1h", "")
        .rule("g", "FAIL", "global", "count >= 3 within 1m", "alert", "")
        .gives(
            "0s FAIL\n1s FAIL ip=unknown\n2s FAIL ip=10.0.0.1",
            "2s start alert global until 62s x3 [g]",
        );
    assert_eq!(told.summary.keyless.get("r"), Some(&3));
    assert_eq!(told.summary.marks.proxy_hidden, 1);
}

#[test]
fn ipv6_is_counted_and_targeted_by_its_prefix_and_mapped_addresses_are_ipv4() {
    let story = Story::of("FAIL", "ip", "count >= 2 within 1m", "block for 1h", "");
    let told = story.gives(
        "0s FAIL ip=2001:db8:1:2::1\n1s FAIL ip=2001:db8:1:3::1\n2s FAIL ip=2001:DB8:1:2:9::9",
        "2s start block 2001:db8:1:2::/64 until 3602s x2",
    );
    assert_eq!(told.actions[0].target.kind, "range");
    Story::of("FAIL", "ip", "count >= 2 within 1m", "block for 1h", "")
        .config("ipv6_prefix: 128")
        .gives(
            "0s FAIL ip=2001:db8:1:2::1\n1s FAIL ip=2001:db8:1:2::2\n2s FAIL ip=[2001:db8:1:2::1]:443",
            "2s start block 2001:db8:1:2::1 until 3602s x2",
        );
    story.gives(
        "0s FAIL ip=::ffff:203.0.113.7\n1s FAIL ip=203.0.113.7:5555",
        "1s start block 203.0.113.7 until 3601s x2",
    );
    story.gives(
        "0s FAIL ip=64:ff9b::203.0.113.7\n1s FAIL ip=203.0.113.7",
        "1s start block 203.0.113.7 until 3601s x2",
    );
}

#[test]
fn rules_may_narrow_their_events() {
    Story::of(
        "FAIL",
        "ip",
        "count >= 2 within 1m",
        "block for 1h",
        "where: { tenant: x }, unless: { user: bot }",
    )
    .gives(
        "0s FAIL ip=203.0.113.7 tenant=x
         1s FAIL ip=203.0.113.7 tenant=y
         2s FAIL ip=203.0.113.7 tenant=x user=bot
         3s FAIL ip=203.0.113.7 tenant=x",
        "3s start block 203.0.113.7 until 3603s x2",
    );
    // A country, not a boolean.
    Story::of("FAIL", "ip", "count >= 1 within 1m", "block for 1h", "where: { country: NO }")
        .gives(
            "0s FAIL ip=203.0.113.7 country=SE\n1s FAIL ip=203.0.113.7 country=NO",
            "1s start block 203.0.113.7 until 3601s x1",
        );
}

// -------------------------------------------------------------------------- 5: decisions --

#[test]
fn what_an_active_decision_does_when_its_rule_fires_again() {
    let twice =
        "0s+1s*2 FAIL ip=203.0.113.7 user=a\n10s+1s*2 FAIL ip=203.0.113.7 user=a\nclock 1000s";
    let block = |also| Story::of("FAIL", "ip", "count >= 2 within 5s", "block for 100s", also);
    block("").gives(
        twice,
        "1s start block 203.0.113.7 until 101s x2
         11s extend block 203.0.113.7 until 111s x2
         111s end block 203.0.113.7 crossings 2",
    );
    block("on_repeat: quiet").gives(
        twice,
        "1s start block 203.0.113.7 until 101s x2
         111s end block 203.0.113.7 crossings 2",
    );
    block("on_repeat: ignore").gives(
        twice,
        "1s start block 203.0.113.7 until 101s x2
         101s end block 203.0.113.7 crossings 2",
    );
    let user = |then| Story::of("FAIL", "user", "count >= 2 within 5s", then, "");
    user("lock for 100s").gives(
        twice,
        "1s start lock a until 101s x2
         101s end lock a crossings 2",
    );
    user("require_2fa for 100s").gives(
        twice,
        "1s start require_2fa a until 101s x2
         101s end require_2fa a crossings 2",
    );
    // The window would be too short for an alert: at least a minute.
    user("alert").gives(
        twice,
        "1s start alert a until 61s x2
         71s end alert a crossings 2",
    );
    user("require_2fa").gives("0s+1s*2 FAIL user=a", "1s start require_2fa a until 86401s x2");
}

#[test]
fn a_flood_is_told_once_a_minute_and_the_mode_does_not_end_in_its_middle() {
    let story = |then: &str, also: &str| {
        Story::of("FAIL", "global", "count >= 2 within 1m", &format!("under_attack{then}"), also)
    };
    // It crosses every other second.
    let flood = "0s+1s*130 FAIL ip=203.0.113.{n}\nclock 10m";
    story(" for 5m", "").gives(
        flood,
        "1s start under_attack global until 301s x2
         61s extend under_attack global until 361s x2
         121s extend under_attack global until 421s x2
         421s end under_attack global crossings 65",
    );
    // A short one by half of itself.
    story(" for 1m", "").gives(
        flood,
        "1s start under_attack global until 61s x2
         31s extend under_attack global until 91s x2
         61s extend under_attack global until 121s x2
         91s extend under_attack global until 151s x2
         121s extend under_attack global until 181s x2
         181s end under_attack global crossings 65",
    );
    story(" for 5m", "on_repeat: ignore").gives(
        flood,
        "1s start under_attack global until 301s x2
         301s end under_attack global crossings 65",
    );
    story("", "").gives("0s+1s*2 FAIL", "1s start under_attack global until 3601s x2");
    // All rules share it, and a shorter one adds nothing.
    story(" for 10m", "")
        .rule("q", "FAIL", "global", "count >= 2 within 1m", "under_attack for 1m", "")
        .gives("0s+1s*4 FAIL", "1s start under_attack global until 601s x2");
    // Neither an allowed nor a hidden address takes it back.
    story(" for 5m", "").config("allow: [{ ip: 203.0.113.7 }]").gives(
        "0s FAIL ip=203.0.113.7\n1s FAIL ip=10.0.0.1",
        "1s start under_attack global until 301s x2",
    );
    story(" for 5m", "mode: shadow")
        .gives("0s+1s*2 FAIL", "1s start under_attack global until 301s x2 shadow");
}

#[test]
fn a_block_is_shared_by_all_rules_and_an_alert_is_not() {
    Story::of("FAIL", "ip", "count >= 2 within 5s", "[alert for 1m, block for 1h]", "")
        .rule("q", "FAIL", "ip", "count >= 2 within 5s", "[alert for 1m, block for 2h]", "")
        .gives(
            "0s+1s*2 FAIL ip=203.0.113.7\nclock 3h",
            "1s start alert 203.0.113.7 until 61s x2
             1s start block 203.0.113.7 until 3601s x2
             1s start alert 203.0.113.7 until 61s x2 [q]
             1s extend block 203.0.113.7 until 7201s x2 [q]
             61s end alert 203.0.113.7 crossings 1
             61s end alert 203.0.113.7 [q] crossings 1
             7201s end block 203.0.113.7 crossings 2",
        );
    // A shorter one is told too, and takes nothing away.
    Story::of("FAIL", "ip", "count >= 2 within 5s", "block for 2h", "")
        .rule("q", "FAIL", "ip", "count >= 2 within 5s", "block for 1h", "")
        .gives(
            "0s+1s*2 FAIL ip=203.0.113.7",
            "1s start block 203.0.113.7 until 7201s x2
             1s extend block 203.0.113.7 until 7201s x2 [q]",
        );
}

#[test]
fn ends_come_in_order_and_by_the_clock_alone() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 1s", "block for 100s", QUIET);
    story.gives(
        "0s FAIL ip=203.0.113.1
         1s FAIL ip=203.0.113.2
         1s FAIL ip=203.0.113.3
         clock 100s
         101s TICK
         102s+0s*2 TICK",
        "0s start block 203.0.113.1 until 100s x1
         1s start block 203.0.113.2 until 101s x1
         1s start block 203.0.113.3 until 101s x1
         100s end block 203.0.113.1 crossings 1
         101s end block 203.0.113.2 crossings 1
         101s end block 203.0.113.3 crossings 1",
    );
    // What a late record begins may be over by then: its end needs no further time.
    for rest in ["", "\n160s TICK"] {
        story.gives(
            &format!("clock 160s\n50s TICK\n110s FAIL ip=203.0.113.1{rest}"),
            "110s start block 203.0.113.1 until 210s x1",
        );
        Story::of("FAIL", "ip", "count >= 1 within 1s", "block for 10s", "").gives(
            &format!("clock 160s\n110s FAIL ip=203.0.113.1{rest}"),
            "110s start block 203.0.113.1 until 120s x1
             120s end block 203.0.113.1 crossings 1",
        );
    }
    // One record far ahead ends nothing.
    story.gives(
        "0s+0s*3 FAIL ip=203.0.113.1\n500s TICK",
        "0s start block 203.0.113.1 until 100s x1",
    );
}

#[test]
fn a_decision_that_is_over_begins_anew_although_the_clock_is_behind() {
    Story::of("FAIL", "ip", "count >= 1 within 1s", "block for 100s", "").gives(
        "0s FAIL ip=203.0.113.1
         100s FAIL ip=203.0.113.1",
        "0s start block 203.0.113.1 until 100s x1
         100s end block 203.0.113.1 crossings 1
         100s start block 203.0.113.1 until 200s x1",
    );
}

#[test]
fn active_is_what_lasts_at_the_crossing_whether_or_not_its_end_was_said() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 1s", "block for 100s", "");
    story.gives(
        "0s FAIL ip=203.0.113.1
         clock 120s
         99s FAIL ip=203.0.113.1
         clock 300s
         300s FAIL ip=203.0.113.1",
        "0s start block 203.0.113.1 until 100s x1
         100s end block 203.0.113.1 crossings 1
         99s extend block 203.0.113.1 until 199s x1
         199s end block 203.0.113.1 crossings 2
         300s start block 203.0.113.1 until 400s x1",
    );
    // A lock is left as it is.
    Story::of("FAIL", "user", "count >= 1 within 1s", "lock for 100s", "").gives(
        "0s FAIL user=a\nclock 120s\n99s FAIL user=a\n100s FAIL user=a",
        "0s start lock a until 100s x1
         100s end lock a crossings 1
         100s start lock a until 200s x1",
    );
}

#[test]
fn whoever_comes_back_is_kept_out_longer_until_it_is_forgotten() {
    let story = Story::of(
        "FAIL",
        "ip",
        "count >= 1 within 1s",
        "block for 100s",
        "escalate: 'x2 up to 300s, forget after 1h'",
    );
    let told = story.tell(
        "0s FAIL ip=203.0.113.1
         50s FAIL ip=203.0.113.1
         200s FAIL ip=203.0.113.1
         500s FAIL ip=203.0.113.1
         900s FAIL ip=203.0.113.1
         4800s FAIL ip=203.0.113.1
         8701s FAIL ip=203.0.113.1",
    );
    let starts: Vec<_> =
        told.actions.iter().filter(|a| a.op == Op::Start).map(|a| a.duration_s.unwrap()).collect();
    // 100, 200, 400 cut to 300, 300 until 1200, within the hour, and more than an hour later.
    assert_eq!(starts, [100, 200, 300, 300, 300, 100]);
    let extends = told.actions.iter().filter(|a| a.op == Op::Extend);
    assert_eq!(extends.map(|a| a.duration_s.unwrap()).collect::<Vec<_>>(), [100]);
}

#[test]
fn what_another_rule_starts_is_one_in_the_row_and_keeps_no_older_one_alive() {
    let story = |also: &str| {
        Story::of("FAIL", "ip", "count >= 1 within 1s", "block for 100s", also).rule(
            "other",
            "LOGIN",
            "ip",
            "count >= 1 within 1s",
            "block for 10s",
            "",
        )
    };
    let lasting = |lines: &str| {
        let told = story("escalate: 'x2 up to 1d, forget after 1h'").tell(lines);
        let starts = told.actions.iter().filter(|a| a.op == Op::Start);
        starts.map(|a| a.duration_s.unwrap()).collect::<Vec<_>>()
    };
    // The second is forgotten when the other rule starts one, which is then the only one before the last.
    let lines = "0s FAIL ip=203.0.113.1\n200s FAIL ip=203.0.113.1\n4100s LOGIN ip=203.0.113.1";
    assert_eq!(lasting(&format!("{lines}\n4200s FAIL ip=203.0.113.1")), [100, 200, 10, 200]);
    // Within the hour of each other they are a row.
    let lines = "0s FAIL ip=203.0.113.1\n3000s LOGIN ip=203.0.113.1\n6000s FAIL ip=203.0.113.1";
    assert_eq!(lasting(lines), [100, 10, 400]);
    // Those of other rules alone, long forgotten.
    let lines = "0s LOGIN ip=203.0.113.1\n9000s LOGIN ip=203.0.113.1\n9100s FAIL ip=203.0.113.1";
    assert_eq!(lasting(lines), [10, 10, 200]);
}

#[test]
fn past_the_limit_a_lock_becomes_a_second_factor() {
    let lines = "0s FAIL user=a\n200s FAIL user=a\n400s FAIL user=a\n401s FAIL user=b";
    let expected = "0s start lock a until 100s x1
         100s end lock a crossings 1
         200s start lock a until 300s x1
         300s end lock a crossings 1
         400s start require_2fa a until 86800s x1
         401s start lock b until 501s x1";
    let without =
        |told: Told| told.actions.iter().filter(|a| a.op != Op::End).map(shown).collect::<Vec<_>>();
    let wanted: Vec<&str> =
        expected.lines().map(str::trim).filter(|l| !l.contains(" end ")).collect();
    let rule = |also| Story::of("FAIL", "user", "count >= 1 within 1s", "lock for 100s", also);
    assert_eq!(without(rule("max_locks_per_user: 2 per 24h").tell(lines)), wanted);
    assert_eq!(without(rule("").config("max_locks_per_user: 2 per 24h").tell(lines)), wanted);
    assert!(
        without(rule("").tell(lines)).iter().all(|line| line.contains("lock")),
        "off by default"
    );
    // A rule that demands one anyway demands it once.
    let then = "[lock for 5s, require_2fa for 60s]";
    let also = "max_locks_per_user: 1 per 24h, on_repeat: extend";
    Story::of("FAIL", "user", "count >= 1 within 1s", then, also).gives(
        "0s FAIL user=a\n10s FAIL user=a",
        "0s start lock a until 5s x1
         0s start require_2fa a until 60s x1
         10s extend require_2fa a until 70s x1",
    );
}

#[test]
fn shadow_has_a_ledger_of_its_own_and_no_brakes() {
    Story::of("FAIL", "ip", "count >= 2 within 5s", "block for 1h", "")
        .rule("s", "FAIL", "ip", "count >= 1 within 5s", "block for 2h", "mode: shadow")
        .config("brakes: { max_blocks_per_minute: 1 }")
        .gives(
            "0s+1s*2 FAIL ip=203.0.113.1\n3s FAIL ip=203.0.113.2",
            "0s start block 203.0.113.1 until 7200s x1 [s] shadow
             1s start block 203.0.113.1 until 3601s x2
             1s extend block 203.0.113.1 until 7201s x1 [s] shadow
             3s start block 203.0.113.2 until 7203s x1 [s] shadow",
        );
    Story::of("FAIL", "ip", "count >= 1 within 5s", "block for 1h", "")
        .config("mode: shadow")
        .gives("0s FAIL ip=203.0.113.1", "0s start block 203.0.113.1 until 3600s x1 shadow");
}

// ------------------------------------------------------------------------------ 6: guards --

#[test]
fn a_brake_withholds_uses_nothing_up_and_is_tried_again_in_a_later_minute() {
    let story = Story::of("FAIL", "ip", "count >= 2 within 5m", "block for 1h", "")
        .config("brakes: { max_blocks_per_minute: 1 }");
    story.gives(
        "0s+0s*2 FAIL ip=203.0.113.1
         1s+0s*2 FAIL ip=203.0.113.2
         2s+0s*2 FAIL ip=203.0.113.3
         3s FAIL ip=203.0.113.2
         61s FAIL ip=203.0.113.2
         62s FAIL ip=203.0.113.3
         121s FAIL ip=203.0.113.3",
        "0s start block 203.0.113.1 until 3600s x2
         1s withheld block 203.0.113.2 x2 by brake
         1s note brake P0
         2s withheld block 203.0.113.3 x2 by brake
         61s start block 203.0.113.2 until 3661s x4
         62s withheld block 203.0.113.3 x3 by brake
         62s note brake P0
         121s start block 203.0.113.3 until 3721s x4",
    );
    Story::of("FAIL", "user", "count >= 1 within 5m", "lock for 1h", "")
        .config("brakes: { max_locks_per_minute: 1, max_2fa_per_minute: off }")
        .rule("t", "FAIL", "user", "count >= 1 within 5m", "require_2fa", "")
        .gives(
            "0s FAIL user=a\n1s FAIL user=b",
            "0s start lock a until 3600s x1
             0s start require_2fa a until 86400s x1 [t]
             1s withheld lock b x1 by brake
             1s note brake P0
             1s start require_2fa b until 86401s x1 [t]",
        );
    // A minute is one however short the window is.
    let told = Story::of("FAIL", "user", "count >= 1 within 10s", "lock for 5s", "")
        .config("lateness: 2s\nbrakes: { max_locks_per_minute: 1 }")
        .tell(
            "1s FAIL user=a
             10s+0s*40 FAIL user=u{n}
             24s+1s*13 TICK
             37s+0s*40 FAIL user=u{n}",
        );
    assert_eq!(told.actions.iter().filter(|action| action.op == Op::Withheld).count(), 40);
    // The usual limit is one. What was started ends with the clock, or when another start is granted.
    let story = Story::of("FAIL", "global", "count >= 1 within 5m", "under_attack for 10s", "");
    let lines = "0s FAIL\n20s FAIL\n61s FAIL";
    let twice = "0s start under_attack global until 10s x1
                 20s withheld under_attack global x1 by brake
                 20s note brake P0
                 10s end under_attack global crossings 1
                 61s start under_attack global until 71s x2";
    let told = story.gives(lines, twice);
    let note = told.actions.iter().find(|action| action.op == Op::Note).unwrap();
    assert!(note.reason.ends_with("(max_under_attack_per_minute)"), "{}", note.reason);
    story.config("brakes: { max_under_attack_per_minute: off }").gives(
        lines,
        "0s start under_attack global until 10s x1
         10s end under_attack global crossings 1
         20s start under_attack global until 30s x1
         30s end under_attack global crossings 1
         61s start under_attack global until 71s x1",
    );
}

#[test]
fn what_a_brake_holds_is_not_learnt() {
    let brake = "brakes: { max_2fa_per_minute: 1 }";
    // The second value of a minute is held without a line, and is as new later.
    Story::of("LOGIN", "user", "first_seen(country)", "require_2fa for 1m", "")
        .config(brake)
        .gives(
            "0s LOGIN user=a country=DE
             1s LOGIN user=b country=DE
             2s LOGIN user=a country=BR
             3s LOGIN user=b country=BR
             4s LOGIN user=b country=FR
             5s LOGIN user=b country=DE
             64s LOGIN user=b country=BR
             130s LOGIN user=b country=FR
             184s LOGIN user=b country=BR
             185s LOGIN user=b country=FR",
            "2s start require_2fa a until 62s x1
             3s withheld require_2fa b x1 by brake
             3s note brake P0
             64s start require_2fa b until 124s x1
             124s end require_2fa b crossings 1
             130s start require_2fa b until 190s x1
             62s end require_2fa a crossings 1",
        );
    let also = "min_events: 2, min_days: 1, rarity: 0.4";
    Story::of("LOGIN", "user", "unusual(hour)", "require_2fa for 1m", also).config(brake).gives(
        "0s LOGIN user=a
         1s LOGIN user=a
         2s LOGIN user=b
         3s LOGIN user=b
         clock 5h
         18000s LOGIN user=a
         18001s LOGIN user=b
         18065s LOGIN user=b",
        "18000s start require_2fa a until 18060s x1
         18001s withheld require_2fa b x1 by brake
         18001s note brake P0
         18065s start require_2fa b until 18125s x1",
    );
}

#[test]
fn an_extension_and_an_alert_need_no_brake() {
    Story::of("FAIL", "ip", "count >= 1 within 5m", "[alert, block for 1h]", "")
        .config("brakes: { max_blocks_per_minute: 1 }")
        .gives(
            "0s FAIL ip=203.0.113.1\n1s FAIL ip=203.0.113.1\n2s FAIL ip=203.0.113.2",
            "0s start alert 203.0.113.1 until 300s x1
             0s start block 203.0.113.1 until 3600s x1
             1s extend block 203.0.113.1 until 3601s x1
             2s start alert 203.0.113.2 until 302s x1
             2s withheld block 203.0.113.2 x1 by brake
             2s note brake P0",
        );
}

#[test]
fn who_is_allowed_is_never_blocked_or_locked() {
    let story = |allow: &str| {
        Story::of("FAIL", "ip", "count >= 1 within 5m", "[alert, block for 1h]", "")
            .rule("u", "FAIL", "user", "count >= 1 within 5m", "lock for 1h", "")
            .config(&format!("allow: [{allow}]"))
    };
    let blocked = "0s start alert 203.0.113.1 until 300s x1
                   0s start block 203.0.113.1 until 3600s x1";
    let held = "0s start alert 203.0.113.1 until 300s x1
                0s withheld block 203.0.113.1 x1 by allow";
    let one = "0s FAIL ip=203.0.113.1";
    story("").gives(one, blocked);
    story("{ ip: 203.0.113.1 }").gives(one, held);
    story("{ ip: '::ffff:203.0.113.1' }").gives(one, held);
    story("{ ip: '::ffff:203.0.113.0/120' }").gives(one, held);
    story("{ ip: 203.0.113.0/24, comment: office }").gives(one, held);
    story("{ ip: 203.0.112.0/24 }").gives(one, blocked);
    // Judged at the decision's time, which is not before its end.
    story("{ ip: 203.0.113.1, until: '2025-01-01T00:00:00.000001Z' }").gives(one, held);
    story("{ ip: 203.0.113.1, until: '2025-01-01T00:00:00Z' }").gives(one, blocked);
    // A prefix that covers an allowed address.
    story("{ ip: '2001:db8:1:2::77' }").gives(
        "0s FAIL ip=2001:db8:1:2::1",
        "0s start alert 2001:db8:1:2::/64 until 300s x1
         0s withheld block 2001:db8:1:2::/64 x1 by allow",
    );
    story("{ user: ' Ann@Example.org ' }").gives(
        "0s FAIL user=ANN@example.org\n1s FAIL user=bob",
        "0s withheld lock ann@example.org x1 [u] by allow
         1s start lock bob until 3601s x1 [u]",
    );
}

#[test]
fn what_is_never_blocked() {
    let story = |config: &str| {
        Story::of("FAIL", "ip", "count >= 1 within 5m", "block for 1h", "").config(config)
    };
    // A private address is no key at all.
    for ip in [
        "10.1.2.3",
        "192.168.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fc00::1",
        "ff02::1",
    ] {
        story("").gives(&format!("0s FAIL ip={ip}"), "");
    }
    story("never_block: { private: false, cgnat: false }").gives(
        "0s FAIL ip=10.1.2.3\n1s FAIL ip=100.64.0.1\n2s FAIL ip=127.0.0.1",
        "0s start block 10.1.2.3 until 3600s x1
         1s start block 100.64.0.1 until 3601s x1",
    );
    story("trusted_proxies: [198.51.100.0/24]").gives(
        "0s FAIL ip=198.51.100.9\n1s FAIL ip=203.0.113.1",
        "1s start block 203.0.113.1 until 3601s x1",
    );
    // The address is ordinary, the prefix that would be blocked is not.
    story("never_block: { extra: ['2001:db8:1:2::77'] }").gives(
        "0s FAIL ip=2001:db8:1:2::1",
        "0s withheld block 2001:db8:1:2::/64 x1 by never_block",
    );
}

#[test]
fn nobody_is_kept_out_longer_for_what_could_not_have_kept_him_out() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 10s", "block for 1m", "");
    let record = |at: u32, ip: &str| {
        format!(
            r#"{{"timestamp":"2025-08-03T22:30:{at:02}Z","message":"FAIL","x_forwarded_for":"{ip}"}}"#
        )
    };
    let lines = [
        record(0, "203.0.113.8"),
        record(30, "203.0.113.9, 203.0.113.8"),
        record(40, "203.0.113.8"),
    ];
    let told = story.tell(&lines.join("\n"));
    let told: Vec<String> =
        told.actions.iter().map(|a| format!("{:?} {:?}", a.op, a.guard)).collect();
    assert_eq!(told, ["Start None", "Withheld Some(\"trusted_proxies\")", "Extend None"]);
}

#[test]
fn a_beginning_that_lay_ahead_silences_nothing() {
    let mut lines = String::new();
    for ahead in 0..3 {
        lines.push_str(&format!("{}s TICK\n", 365 * 86_400 + ahead));
    }
    for late in 0..50 {
        lines.push_str(&format!("{late}s TICK\n"));
    }
    for hour in 1..30 {
        lines.push_str(&format!("{}s LOGIN user=a country=DE\n", hour * 3_600));
    }
    lines.push_str("108000s LOGIN user=a country=BR\n");
    let story = Story::of("LOGIN", "user", "first_seen(country)", "alert for 1h", "");
    let starts = |told: Told| told.actions.iter().filter(|a| a.op == Op::Start).count();
    assert_eq!(starts(story.config("learn: 1d").tell(&lines)), 1);
}

#[test]
fn a_list_of_forwarders_is_walked_from_the_right() {
    let story = |config: &str| {
        Story::of("FAIL", "ip", "count >= 1 within 5m", "[alert, block for 1h]", "").config(config)
    };
    let start =
        |ip: &str| format!("0s start alert {ip} until 300s x1\n0s start block {ip} until 3600s x1");
    let record = "0s FAIL ip=10.0.0.1 xff=203.0.113.66,203.0.113.7,10.0.0.9";
    // Nobody said whom to trust, and there is an entry further left: alert, do not block.
    story("").gives(
        record,
        "0s start alert 203.0.113.7 until 300s x1
         0s withheld block 203.0.113.7 x1 by trusted_proxies",
    );
    story("trusted_proxies: [10.0.0.0/8]").gives(record, &start("203.0.113.7"));
    story("trusted_proxies: [203.0.113.7]").gives(record, &start("203.0.113.66"));
    story("").gives("0s FAIL xff=203.0.113.7,10.0.0.9", &start("203.0.113.7"));
    let line = |fields: &str| {
        format!(r#"{{"timestamp":"2025-01-01T00:00:00Z","message":"FAIL",{fields}}}"#)
    };
    story("").gives(&line(r#""forwarded":"for=203.0.113.7;proto=https""#), &start("203.0.113.7"));
    // Which of two is meant is not guessed.
    let twice = line(r#""x_forwarded_for":"203.0.113.7","x_forwarded_for":"203.0.113.8""#);
    story("").gives(&twice, "");
    // It stops at what it cannot read.
    story("").gives("0s FAIL xff=203.0.113.7,garbage,10.0.0.9", "");
}

#[test]
fn addresses_that_name_no_single_host_only_alert() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 5m", "[alert, block for 1h]", "");
    story.gives(
        "0s FAIL ip=2001:0:1:2::5",
        "0s start alert 2001:0:1:2::/64 until 300s x1
         0s withheld block 2001:0:1:2::/64 x1 by no_single_host",
    );
    let told = story.tell("0s FAIL ip=::203.0.113.7");
    assert!(
        told.actions.iter().all(|a| a.action == "alert" || a.op == Op::Withheld),
        "{:?}",
        told.actions
    );
    assert!(told.actions.iter().any(|a| a.op == Op::Withheld));
}

// ------------------------------------------------------------- 4: whose word is taken --

#[test]
fn structure_beats_text_and_two_structures_are_nobody() {
    let story = Story::of("SAID", "ip", "count >= 1 within 5m", "block for 1h", "")
        .rule("i", "LOG_INJECTION", "global", "count >= 1 within 5m", "alert", "")
        .rule("n", "PATTERN_NEAR_MISS", "pattern", "count >= 1 within 5m", "alert", "");
    let time = r#""timestamp":"2025-01-01T00:00:00Z""#;
    let said = r#""message":"SAID: user=a, ip=203.0.113.7, tag=x""#;
    story.gives(&format!("{{{time},{said}}}"), "0s start block 203.0.113.7 until 3600s x1");
    let told = story.gives(
        &format!(r#"{{{time},{said},"ip_address":"203.0.113.8"}}"#),
        "0s start block 203.0.113.8 until 3600s x1",
    );
    assert_eq!(told.summary.marks.conflict, 1);
    // A list that a client could have begun proves nothing, whatever the message says.
    let forwarded = |by: &str| format!(r#"{{{time},{said},"x-forwarded-for":"192.0.2.1, {by}"}}"#);
    story.gives(&forwarded("203.0.113.7"), "0s withheld block 203.0.113.7 x1 by trusted_proxies");
    story.gives(&forwarded("203.0.113.8"), "0s withheld block 203.0.113.8 x1 by trusted_proxies");
    // A logger without a name is none.
    story.gives(
        &format!(r#"{{{time},{said},"logger":""}}"#),
        "0s start block 203.0.113.7 until 3600s x1",
    );
    let injected = "0s start alert global until 300s x1 [i]";
    for doubled in [
        r#""ip_address":"203.0.113.8","ip_address":"203.0.113.9""#,
        r#""ip_address":"203.0.113.8","client_ip":"203.0.113.9""#,
        r#""message":"SAID: user=a, ip=203.0.113.9, tag=x""#,
        r#""timestamp":"2025-01-01T00:00:01Z""#,
        r#""logger":"app","logger":"other""#,
    ] {
        story.gives(&format!("{{{time},{said},{doubled}}}"), injected);
    }
    let told = story.gives(
        &format!(
            r#"{{{time},"message":"SAID: user=a, ip=203.0.113.9, tag=x, ip=203.0.113.7, tag=x"}}"#
        ),
        injected,
    );
    assert_eq!(told.summary.marks.ambiguous, 1);
    // Another logger, or another shape: near, and none.
    let missed = "0s start alert SAID until 300s x1 [n]";
    let told = story.gives(&format!(r#"{{{time},{said},"logger":"chat"}}"#), missed);
    assert_eq!((told.summary.lines.near_miss, told.summary.near_misses["SAID"].count), (1, 1));
    story.gives(&format!(r#"{{{time},"message":"SAID: user=a at 203.0.113.7"}}"#), missed);
    story.gives(&format!(r#"{{{time},"message":"they SAID: user=a, ip=203.0.113.7, tag=x"}}"#), "");
}

#[test]
fn a_forwarding_header_beside_a_gateway_chooses_nobody() {
    let time = r#""timestamp":"2025-01-01T00:00:00Z""#;
    let story = |trusted: &str| {
        let story = Story::default()
            .rule("b", "FAIL", "ip", "count >= 1 within 5m", "block for 1h", "")
            .rule("s", "SAID", "ip", "count >= 1 within 5m", "block for 1h", "");
        story.config(&format!("trusted_proxies: [{trusted}]"))
    };
    let start = "0s start block 9.9.9.9 until 3600s x1 [b]";
    for header in ["x_forwarded_for", "x-real-ip", "cf_connecting_ip"] {
        let beside = |ip: &str| {
            format!(r#"{{{time},"message":"FAIL","ip_address":"{ip}","{header}":"9.9.9.9"}}"#)
        };
        story("")
            .gives(&beside("172.17.0.1"), "0s withheld block 9.9.9.9 x1 [b] by trusted_proxies");
        story("172.17.0.0/16").gives(&beside("172.17.0.1"), start);
        // Alone it is all that there is.
        story("").gives(&format!(r#"{{{time},"message":"FAIL","{header}":"9.9.9.9"}}"#), start);
        // Against what the application says in its message it is a claim.
        let said = |ip: &str| {
            format!(r#"{{{time},"message":"SAID: user=a, ip={ip}, tag=x","{header}":"9.9.9.9"}}"#)
        };
        for ip in ["203.0.113.7", "172.17.0.1"] {
            story("").gives(&said(ip), "0s withheld block 9.9.9.9 x1 [s] by trusted_proxies");
        }
        story("").gives(&said("9.9.9.9"), "0s start block 9.9.9.9 until 3600s x1 [s]");
        // Behind a gateway, the message may only repeat it.
        let both = said("9.9.9.9").replacen('{', r#"{"ip_address":"172.17.0.1","#, 1);
        story("").gives(&both, "0s withheld block 9.9.9.9 x1 [s] by trusted_proxies");
        story("10.0.0.0/8")
            .gives(&said("203.0.113.7"), "0s start block 9.9.9.9 until 3600s x1 [s]");
    }
}

#[test]
fn what_was_held_counts_however_far_the_clock_leaps() {
    let story = Story::of("FAIL", "ip", "count >= 2 within 10s", "block for 1h", "");
    let block = "90001s start block 203.0.113.7 until 93601s x2";
    for leap in ["180000s", "1000000s"] {
        let lines = format!(
            "clock 0s\n90000s FAIL ip=203.0.113.7\n90001s FAIL ip=203.0.113.7\nclock 3s\nclock {leap}"
        );
        let end = "93601s end block 203.0.113.7 crossings 1";
        let told = story.gives(&lines, &format!("{block}\n{end}"));
        assert_eq!((told.summary.records.future, told.summary.records.late), (0, 0));
    }
    // With one that was not held.
    let story = Story::of("FAIL", "ip", "count >= 2 within 2h", "block for 1h", "");
    story.gives(
        "clock 0s\n86000s FAIL ip=203.0.113.7\n90001s FAIL ip=203.0.113.7\nclock 3s\nclock 180000s",
        "90001s start block 203.0.113.7 until 93601s x2
         93601s end block 203.0.113.7 crossings 1",
    );
}

#[test]
fn a_record_of_two_names_is_one_event() {
    let both = r#"{"timestamp":"2025-01-01T00:00:00Z","message":"FAIL","both":"FAIL","ip_address":"203.0.113.7"}"#;
    let folder = tempfile::tempdir().unwrap();
    let pack = "pack: p\npatterns:\n  ONE: { title: t, read: 'FAIL', tests: [{ line: 'FAIL' }] }\n  TWO: { title: t, where: { both: exists }, tests: [{ line: '{\"both\":1}' }] }\nrules:\n  - { id: both, title: t, on: [ONE, TWO], per: ip, when: count >= 3 within 1h, then: alert }\n  - { id: distinct, title: t, on: [TWO, ONE], per: ip, when: distinct(both) >= 2 within 1h, then: alert }\n  - { id: then, title: t, per: ip, when: ONE >= 2 then TWO within 1h, then: alert }\n";
    std::fs::write(folder.path().join("p.yaml"), pack).unwrap();
    let told = |n: usize| {
        let input: String =
            (0..n).map(|i| both.replace("00:00Z", &format!("00:{i:02}Z")) + "\n").collect();
        let args = ["replay", "-", "--patterns", "p.yaml", "--summary", "json", "--quiet"];
        let output = crate::support::run_in(folder.path(), &args, input.as_bytes());
        let summary: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!((&summary["events"]["ONE"], &summary["events"]["TWO"]), (&n.into(), &n.into()));
        let lines = crate::support::stdout(&output);
        let mut rules: Vec<String> = lines
            .lines()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                format!("{} {}", line["rule"].as_str().unwrap(), line["count"])
            })
            .collect();
        rules.sort();
        rules
    };
    assert_eq!(told(1), [""; 0]);
    // Whoever asks for one name and then the other gets both.
    assert_eq!(told(2), [""; 0]);
    assert_eq!(told(3), ["both 3", "then 2"]);
}

#[test]
fn only_logins_make_an_address_known() {
    let lock = |per: &str, when: &str| {
        Story::of("FAIL", "user", "count >= 3 within 5m", "lock for 1h", "")
            .rule("other", "FAIL", per, when, "alert", "")
    };
    for (per, when) in [
        ("user", "first_seen(country)"),
        ("user", "unusual(hour)"),
        ("ip", "first_seen(reason)"),
        ("user", "TICK >= 5 then FAIL within 10m"),
    ] {
        let story = match when.contains("then") {
            false => lock(per, when),
            true => Story::of("FAIL", "user", "count >= 3 within 5m", "lock for 1h", "")
                .rule("other", "", per, when, "alert", ""),
        };
        let told = story.tell("0s+1s*4 FAIL user=anna ip=203.0.113.7 country=DE reason=x");
        let lock = told.actions.iter().find(|action| action.action == "lock").unwrap();
        assert!(lock.known_ips.is_empty(), "{when}: {lock:?}");
    }
    let story = Story::of("FAIL", "user", "count >= 3 within 5m", "lock for 1h", "").rule(
        "other",
        "LOGIN",
        "user",
        "first_seen(country)",
        "alert",
        "",
    );
    let told = story
        .tell("0s LOGIN user=anna ip=192.0.2.1 country=DE\n1s+1s*4 FAIL user=anna ip=203.0.113.7");
    let lock = told.actions.iter().find(|action| action.action == "lock").unwrap();
    assert_eq!(lock.known_ips, ["192.0.2.1"]);
}

#[test]
fn a_name_that_became_a_number_is_a_name() {
    let story = Story::of("FAIL", "user", "count >= 1 within 5m", "lock for 1h", "");
    let line = |name: &str| {
        format!(r#"{{"timestamp":"2025-01-01T00:00:00Z","message":"FAIL","username":{name}}}"#)
    };
    for name in ["12345", "12345.0", r#""12345""#] {
        story.gives(&line(name), "0s start lock 12345 until 3600s x1");
    }
    for none in ["0", "true", "null", r#""""#, "NaN"] {
        story.gives(&line(none), "");
    }
    // Beside a text it is an id of some kind.
    let both = line(r#""anna""#).replacen('{', r#"{"user":42,"#, 1);
    story.gives(&both, "0s start lock anna until 3600s x1");
}

#[test]
fn a_shippers_time_beside_the_records_own_is_no_contradiction() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 5m", "block for 1h", "");
    let line = |own: &str, stamped: &str| {
        let own = format!(r#""timestamp":"{own}""#);
        let stamped = format!(r#""@timestamp":{stamped}"#);
        let rest = r#""message":"FAIL","ip_address":"203.0.113.7""#;
        [format!("{{{own},{stamped},{rest}}}"), format!("{{{stamped},{own},{rest}}}")]
    };
    let same = ["2025-01-01T00:00:10.5Z", "2025-01-01T01:00:10.5+01:00"];
    for (own, stamped) in [
        (same[0], "1735689611.25"),
        (same[0], "1735689610.5"),
        (same[1], r#""2025-01-01T00:00:10.5Z""#),
        (same[0], r#""2025-01-01T00:01:10.5Z""#),
        (same[0], r#""no time""#),
    ] {
        for line in line(own, stamped) {
            story.gives(&line, "10.5s start block 203.0.113.7 until 3610.5s x1");
        }
    }
    for (own, stamped) in [(same[0], r#""2025-01-01T00:01:10.500001Z""#), (same[0], "1735689500")] {
        for line in line(own, stamped) {
            story.gives(&line, "");
        }
    }
    let twice = r#""timestamp":"2025-01-01T00:00:11Z","@timestamp":"2025-01-01T00:00:11Z""#;
    let [line, _] = line(same[0], "1735689610.5");
    story.gives(&line.replacen('{', &format!("{{{twice},"), 1), "");
}

#[test]
fn of_two_times_that_loggers_write_none_is_taken() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 5m", "alert for 5m", "");
    let line = |times: &str| format!(r#"{{{times},"message":"FAIL","ip_address":"203.0.113.7"}}"#);
    let start = "0s start alert 203.0.113.7 until 300s x1";
    for (times, expected) in [
        (r#""timestamp":"2025-01-01T00:00:00Z","time":1735689660"#, start),
        (r#""timestamp":"2025-01-01T00:00:00Z","time":1735689661"#, ""),
        (r#""time":1735689600000,"timestamp":1735600000"#, ""),
        (r#""ts":1735689600.5,"time":"2025-01-01T01:00:00Z""#, ""),
        // One that is none, or means something else.
        (r#""timestamp":"2025-01-01T00:00:00Z","time":"fast","datetime":5"#, start),
        (r#""timestamp":"2025-01-01T00:00:00Z","created_at":"2020-01-01T00:00:00Z""#, start),
    ] {
        story.gives(&line(times), expected);
    }
    // Whom the configuration names is believed.
    let trusting = Story::of("FAIL", "ip", "count >= 1 within 5m", "alert for 5m", "")
        .config("fields: { time: [time] }");
    trusting.gives(&line(r#""timestamp":"2025-01-01T09:00:00Z","time":1735689600"#), start);
}

#[test]
fn a_time_that_contradicts_itself_moves_no_clock() {
    let story = Story::of("FAIL", "ip", "count >= 2 within 5m", "alert for 5m", "");
    let forged = r#"{"timestamp":"2025-01-01T20:00:00Z","timestamp":"2025-01-01T00:00:09Z","message":"FAIL","ip_address":"203.0.113.9"}"#;
    let lines = format!(
        "0s+1s*2 FAIL ip=203.0.113.1\n{}3s+1s*2 FAIL ip=203.0.113.7",
        format!("{forged}\n").repeat(9)
    );
    let told = story.gives(
        &lines,
        "1s start alert 203.0.113.1 until 301s x2
         4s start alert 203.0.113.7 until 304s x2",
    );
    assert_eq!(told.summary.records.late, 0);
}

#[test]
fn a_text_that_hides_another_is_a_near_miss() {
    let time = r#""timestamp":"2025-08-03T22:30:00Z""#;
    let failed = "FAILED_LOGIN: email=a@example.org, ip=203.0.113.9, reason=bad";
    let document = format!(r#"{{\"message\":\"{failed}\"}}"#);
    let near = |line: &str| {
        let args = ["replay", "-", "--summary", "json", "--quiet"];
        let output = crate::support::run(&args, format!("{line}\n").as_bytes());
        let summary: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        (
            summary["events"]["FAILED_LOGIN"] == 1,
            summary["near_misses"]["FAILED_LOGIN"]["count"] == 1,
        )
    };
    for (line, expected) in [
        (format!(r#"{{{time},"event":"{failed}"}}"#), (true, false)),
        (format!(r#"{{{time},"message":"x","event":"{failed}"}}"#), (false, true)),
        (format!(r#"{{{time},"msg":"","event":"{failed}"}}"#), (false, true)),
        (format!(r#"{{{time},"message":"x","event":"they said {failed}"}}"#), (false, false)),
        // In a document that is not opened, unless a logger says that it is a text.
        (format!(r#"{{{time},"log":"{document}","cluster":"c"}}"#), (false, true)),
        (format!(r#"{{{time},"message":"{document}","logger":"chat"}}"#), (false, false)),
        (
            format!(
                r#"{{"log":"{document}","date":1754260200,"ecs_cluster":"c","ecs_task_arn":"a","ecs_task_definition":"t"}}"#
            ),
            (true, false),
        ),
    ] {
        assert_eq!(near(&line), expected, "{line}");
    }
}

#[test]
fn a_near_miss_by_the_logger_is_found_however_it_is_asked_for() {
    for (ask, near) in [
        ("logger: [app, absent]", true),
        ("loggerName: app", true),
        ("any: [{ logger: app }, { logger: api, kind: x }]", true),
        ("any: [{ kind: x }, { kind: y }]", false),
        ("not: { logger: [chat, '5'] }", true),
        ("not: { logger: exists }", true),
        ("not: { kind: z }", false),
        ("kind: x, logger: app", false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let pack = format!(
            "pack: p\npatterns:\n  OUT:\n    title: t\n    where: {{ {ask} }}\n    read: 'OUT: {{name}}'\n    tests: [{{ line: 'OUT: a' }}]\n"
        );
        std::fs::write(folder.path().join("p.yaml"), pack).unwrap();
        for logger in [r#""chat""#, "5"] {
            let line = format!(
                "{{\"timestamp\":\"2025-01-01T00:00:00Z\",\"message\":\"OUT: a\",\"logger\":{logger},\"kind\":\"z\"}}\n"
            );
            let args = ["replay", "-", "--patterns", "p.yaml", "--summary", "json", "--quiet"];
            let output = crate::support::run_in(folder.path(), &args, line.as_bytes());
            let summary: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
            let expected = i32::from(near);
            assert_eq!(summary["lines"]["near_miss"], expected, "{ask}, {logger}: {summary}");
        }
    }
}

#[test]
fn of_two_texts_that_a_carrier_could_mean_none_is_opened() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 5m", "block for 1h", "");
    let inner = |ip: &str| {
        let time = r#"\"timestamp\":\"2025-01-01T00:00:00Z\""#;
        format!(r#""message":"{{{time},\"message\":\"FAIL\",\"ip_address\":\"{ip}\"}}""#)
    };
    let outer =
        |texts: &str| format!(r#"{{{texts},"level":"info","timestamp":"2025-01-01T00:00:00Z"}}"#);
    let (one, other) = (inner("203.0.113.7"), inner("203.0.113.8"));
    story.gives(&outer(&one), "0s start block 203.0.113.7 until 3600s x1");
    story.gives(&outer(&format!("{one},{one}")), "0s start block 203.0.113.7 until 3600s x1");
    story.gives(&outer(&format!("{one},{other}")), "");
}

#[test]
fn a_capture_that_is_counted_per_must_be_sure_too() {
    let once = "count >= 1 within 5m";
    let per = |on: &str, per: &str| {
        let story = Story::of(on, per, once, "alert", "");
        story.rule("i", "LOG_INJECTION", "global", once, "alert", "")
    };
    let line =
        |message: &str| format!(r#"{{"timestamp":"2025-01-01T00:00:00Z","message":"{message}"}}"#);
    let story = per("SAID", "tag");
    story.gives(&line("SAID: user=a, ip=203.0.113.7, tag=x"), "0s start alert x until 300s x1");
    story.gives(
        &line("SAID: user=a, ip=203.0.113.7, tag=x, ip=203.0.113.7, tag=y"),
        "0s start alert global until 300s x1 [i]",
    );
    let story = per("ASKED", "request_id");
    story.gives(&line("ASKED a, end=b"), "0s start alert a until 300s x1");
    story.gives(&line("ASKED a, end=b, end=c"), "0s start alert global until 300s x1 [i]");
}

// ------------------------------------------------------------------------------ 3: time --

#[test]
fn what_is_late_is_counted_and_not_used() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 10s", "alert", "");
    let told = story.gives(
        "clock 100s\n40s FAIL ip=203.0.113.1\n39999ms FAIL ip=203.0.113.2",
        "40s start alert 203.0.113.1 until 100s x1
         100s end alert 203.0.113.1 crossings 1",
    );
    assert_eq!((told.summary.lines.late, told.summary.lines.matched), (1, 4));
    // Before the third time there is no clock and nothing is late.
    story.gives("1h TICK\n0s FAIL ip=203.0.113.1", "0s start alert 203.0.113.1 until 60s x1");
}

#[test]
fn the_clock_is_the_lower_median_of_five() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 10s", "block for 10s", QUIET);
    // Of four the second: 0 0 50 60.
    story.gives(
        "0s+0s*2 FAIL ip=203.0.113.1\n50s TICK\n60s TICK",
        "0s start block 203.0.113.1 until 10s x1",
    );
    // 0 0 0 50 60: the third of five is 0; with 70 it is 50 and the block of 10s has ended.
    story.gives(
        "0s+0s*3 FAIL ip=203.0.113.1\n50s TICK\n60s TICK",
        "0s start block 203.0.113.1 until 10s x1",
    );
    story.gives(
        "0s+0s*3 FAIL ip=203.0.113.1\n50s TICK\n60s TICK\n70s TICK",
        "0s start block 203.0.113.1 until 10s x1
         10s end block 203.0.113.1 crossings 3",
    );
}

#[test]
fn a_record_far_ahead_is_held_and_applied_just_before_the_one_that_moves_the_clock_there() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 10s", "alert", "");
    let told = story.gives(
        "clock 0s
         3d FAIL ip=203.0.113.1
         1s FAIL ip=203.0.113.2
         3d FAIL ip=203.0.113.3
         3d FAIL ip=203.0.113.4",
        "1s start alert 203.0.113.2 until 61s x1
         259200s start alert 203.0.113.1 until 259260s x1
         259200s start alert 203.0.113.3 until 259260s x1
         61s end alert 203.0.113.2 crossings 1
         259200s start alert 203.0.113.4 until 259260s x1",
    );
    assert_eq!(told.summary.lines.future, 0);
    // Alone it stays what it is, and touches nobody.
    let told = story.gives("clock 0s\n3d FAIL ip=203.0.113.1\n1s+1s*5 TICK", "");
    assert_eq!(told.summary.lines.future, 1);
    // Exactly max_ahead is believed.
    story.gives(
        "clock 0s\n24h FAIL ip=203.0.113.1",
        "86400s start alert 203.0.113.1 until 86460s x1",
    );
}

#[test]
fn fifty_late_records_that_agree_set_the_clock_anew() {
    let story = Story::of("FAIL", "ip", "count >= 1 within 10s", "alert", "");
    let told = story.gives(
        "clock 10d\n0s+1s*50 FAIL ip=203.0.113.1\n60s FAIL ip=203.0.113.2",
        "24s note clock P2
         60s start alert 203.0.113.2 until 120s x1",
    );
    assert_eq!(told.summary.lines.late, 50);
    story.gives("clock 10d\n0s+1s*49 FAIL ip=203.0.113.1\n10d TICK\n50s FAIL ip=203.0.113.2", "");
    story.gives("clock 10d\n0s+74s*60 FAIL ip=203.0.113.1", "");
}

#[test]
fn without_a_time_it_is_that_of_the_record_before_or_of_arrival() {
    let story = || Story::of("FAIL", "ip", "count >= 1 within 10s", "alert", "");
    let told = story().gives(
        "- FAIL ip=203.0.113.1\n5s TICK\n- FAIL ip=203.0.113.2",
        "5s start alert 203.0.113.2 until 65s x1",
    );
    assert_eq!((told.summary.lines.no_time, told.summary.marks.untimed), (1, 2));
    story()
        .arriving(77)
        .gives("- FAIL ip=203.0.113.1", "77s start alert 203.0.113.1 until 137s x1");
    // It moves no clock: nothing has ended.
    let block =
        Story::of("FAIL", "ip", "count >= 1 within 10s", "block for 10s", QUIET).arriving(500);
    block.gives(
        "0s+0s*3 FAIL ip=203.0.113.1\n- TICK\n- TICK\n- TICK",
        "0s start block 203.0.113.1 until 10s x1",
    );
}

// -------------------------------------------------------------------------- countries --

/// A MaxMind database with one country per IPv4 network.
fn country_database(networks: &[(&str, &str)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.push(0x40 | u8::try_from(text.len()).unwrap());
        out.extend(text.bytes());
    }
    fn number(out: &mut Vec<u8>, kind: u8, value: u32) {
        let bytes = if kind == 5 {
            value.to_be_bytes()[2..].to_vec()
        } else {
            value.to_be_bytes().to_vec()
        };
        out.push((kind << 5) | u8::try_from(bytes.len()).unwrap());
        out.extend(bytes);
    }
    // A node's two sides: another node, or (from 1 << 20 on) an offset of the data section.
    const DATA: usize = 1 << 20;
    let mut nodes: Vec<[Option<usize>; 2]> = vec![[None; 2]];
    let mut data = Vec::new();
    for (network, country) in networks {
        let net: ipnet::Ipv4Net = network.parse().unwrap();
        let bits = u32::from(net.network());
        let mut node = 0;
        for depth in 0..net.prefix_len() {
            let side = usize::from((bits >> (31 - depth)) & 1 == 1);
            if depth + 1 == net.prefix_len() {
                nodes[node][side] = Some(DATA + data.len());
            } else if let Some(next) = nodes[node][side] {
                node = next;
            } else {
                nodes.push([None; 2]);
                let next = nodes.len() - 1;
                nodes[node][side] = Some(next);
                node = next;
            }
        }
        data.push(0xe1);
        text(&mut data, "country");
        data.push(0xe1);
        text(&mut data, "iso_code");
        text(&mut data, country);
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for side in nodes.iter().flatten() {
        let value = match side {
            None => count,
            Some(place) if *place >= DATA => place - DATA + count + 16,
            Some(node) => *node,
        };
        out.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    out.push(0xe9);
    for (name, value) in [
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
        ("ip_version", 4),
        ("record_size", 24),
    ] {
        text(&mut out, name);
        number(&mut out, 5, value);
    }
    text(&mut out, "node_count");
    number(&mut out, 6, u32::try_from(count).unwrap());
    text(&mut out, "build_epoch");
    out.extend([0x01, 0x02, 0x01]);
    text(&mut out, "database_type");
    text(&mut out, "Country");
    text(&mut out, "description");
    out.push(0xe0);
    text(&mut out, "languages");
    out.extend([0x00, 0x04]);
    out
}

#[test]
fn a_country_comes_from_the_record_or_else_from_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("country.mmdb");
    std::fs::write(&path, country_database(&[("203.0.113.0/24", "DE"), ("198.51.100.0/24", "BR")]))
        .unwrap();
    let story = Story::of("LOGIN", "user", "first_seen(country)", "require_2fa for 1m", "")
        .config(&format!("geoip: {}", path.display()));
    story.gives(
        "0s LOGIN user=a ip=203.0.113.1
         1s LOGIN user=a ip=203.0.113.99
         2s LOGIN user=a ip=192.0.2.1
         3s LOGIN user=a ip=198.51.100.1",
        "3s start require_2fa a until 63s x1",
    );
    // The record's own word is taken first.
    story.gives("0s LOGIN user=a ip=203.0.113.1\n1s LOGIN user=a ip=198.51.100.1 country=DE", "");
    story.gives(
        "0s LOGIN user=a ip=203.0.113.1\n1s LOGIN user=a ip=203.0.113.1 country=BR",
        "1s start require_2fa a until 61s x1",
    );
}
