//! The action line: what leaves Portcullis, byte for byte.
//!
//! One JSON object per line with a fixed order of keys ([schema 1](Action)); keys without a value
//! are absent. Others parse these bytes, so `tests/it/output.rs` pins them. The id is derived from
//! what was decided, never from when or where: the same crossing has the same id on every machine.

pub mod decision;
pub mod forms;
pub mod identity;
mod json;
pub mod order;

use crate::decode::time::{self, Micros};
use crate::detect::condition::{ACTIONS, ActionKind};
use crate::detect::rule::{MODES, Mode, Rule, Severity, Urgency};
use crate::window::{Tally, codec};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;

/// The version of the line's shape.
pub const SCHEMA: u8 = 1;
/// The pack of Portcullis' own messages.
pub const OWN_PACK: &str = "portcullis";

/// A word of the schema.
pub type Word = &'static str;

/// What happens to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// It begins.
    Start,
    /// It lasts longer.
    Extend,
    /// It is over.
    End,
    /// A guard held it back.
    Withheld,
    /// A message about Portcullis itself.
    Note,
}

impl Op {
    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Op::Start => "start",
            Op::Extend => "extend",
            Op::End => "end",
            Op::Withheld => "withheld",
            Op::Note => "note",
        }
    }
}

/// At whom or what an action is aimed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// `ip`, `range`, `user`, `user_id`, `global`, or the name of a field.
    pub kind: String,
    /// Absent for `global`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Target {
    /// Everything.
    pub fn global() -> Self {
        Self { kind: "global".to_owned(), value: None }
    }

    /// The value, or an empty text.
    pub fn text(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }
}

fn take_reasons<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u64)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, u64)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("reasons with how often each")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    from.deserialize_map(Pairs)
}

/// A word that stands in lines beside names and texts, if it is one.
pub fn word(text: &str) -> Option<&'static str> {
    const GUARDS: [&str; 6] =
        ["never_block", "trusted_proxies", "no_single_host", "allow", "grace", "brake"];
    let actions = ACTIONS.into_iter().map(|(name, _)| name);
    let levels = Urgency::ALL.into_iter().map(Urgency::name);
    let severities = Severity::ALL.into_iter().map(Severity::name);
    let modes = MODES.into_iter().map(|(name, _)| name);
    let all = actions.chain(levels).chain(severities).chain(modes).chain(GUARDS);
    { all }.find(|known| *known == text)
}

fn take_word<'de, D: Deserializer<'de>>(from: D) -> Result<&'static str, D::Error> {
    let text = Cow::<'de, str>::deserialize(from)?;
    word(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no word of schema 1")))
}

fn take_word_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'static str>, D::Error> {
    take_word(from).map(Some)
}

/// An action. The order of its fields is the order of the line's keys, in which
/// [`Action::json`] writes them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Action {
    /// [`SCHEMA`].
    pub schema: u8,
    /// Sixteen hex digits; see [`id`].
    pub id: String,
    /// The id of the start it belongs to.
    #[serde(default)]
    pub decision: Option<String>,
    /// Of a start or extend, the time of the newest event in the crossing; of an end, when it ended.
    pub time: String,
    /// What happens.
    pub op: Op,
    /// `block`, `lock`, `require_2fa`, `alert`, `under_attack`.
    #[serde(deserialize_with = "take_word")]
    pub action: Word,
    /// At whom.
    pub target: Target,
    /// For how long, seconds.
    #[serde(default)]
    pub duration_s: Option<i64>,
    /// Until when.
    #[serde(default)]
    pub until: Option<String>,
    /// The rule.
    pub rule: String,
    /// The rule's pack.
    pub pack: String,
    /// The pattern that was counted.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Total weight of the events.
    #[serde(default)]
    pub count: Option<u64>,
    /// The count is an upper bound: part of it may never have been. Absent where it is exact.
    #[serde(default)]
    pub approx: bool,
    /// The rule's window, seconds.
    #[serde(default)]
    pub window_s: Option<i64>,
    /// Time of the first event.
    #[serde(default)]
    pub first_seen: Option<String>,
    /// Time of the last event.
    #[serde(default)]
    pub last_seen: Option<String>,
    /// How soon somebody must look.
    #[serde(default, deserialize_with = "take_word_if_any")]
    pub level: Option<Word>,
    /// The class of incident.
    #[serde(default, deserialize_with = "take_word_if_any")]
    pub severity: Option<Word>,
    /// Seconds to respond.
    #[serde(default)]
    pub respond_s: Option<u64>,
    /// Seconds until it is escalated.
    #[serde(default)]
    pub escalate_s: Option<u64>,
    /// Whom to tell.
    #[serde(default)]
    pub notify: Vec<String>,
    /// Where to read what to do.
    #[serde(default)]
    pub runbook: Option<String>,
    /// The accounts.
    #[serde(default)]
    pub users: Option<Tally>,
    /// The addresses.
    #[serde(default)]
    pub ips: Option<Tally>,
    /// Addresses from which the account logged in before, the newest first.
    #[serde(default)]
    pub known_ips: Vec<String>,
    /// The commonest reasons with how often each.
    #[serde(default, deserialize_with = "take_reasons")]
    pub reasons: Vec<(String, u64)>,
    /// The requests.
    #[serde(default)]
    pub request_ids: Option<Tally>,
    /// Of an end: how often the decision's rules crossed while it was active, its start included.
    #[serde(default)]
    pub crossings: Option<u64>,
    /// `enforce` or `shadow`.
    #[serde(deserialize_with = "take_word")]
    pub mode: Word,
    /// Of a withheld: the guard that held it.
    #[serde(default, deserialize_with = "take_word_if_any")]
    pub guard: Option<Word>,
    /// One sentence for people.
    pub reason: String,
    /// Of a range: the address whose record crossed. It is no part of the line.
    #[serde(skip)]
    pub hosts: Vec<IpAddr>,
}

/// What an id is derived from.
#[derive(Debug, Clone, Copy)]
pub struct IdParts<'p> {
    /// The rule's pack.
    pub pack: &'p str,
    /// The rule.
    pub rule: &'p str,
    /// The target.
    pub target: &'p Target,
    /// The action.
    pub action: &'p str,
    /// What happens.
    pub op: Op,
    /// When.
    pub time: Micros,
    /// Firings of that rule, key and time before.
    pub ordinal: u32,
}

/// The first sixteen hex digits of SHA-256 over the schema, pack, rule, target kind and value,
/// action, op, time in decimal microseconds and ordinal, each with its length before it (u32,
/// little-endian), so that no two different lists of parts give the same bytes.
pub fn id(parts: &IdParts<'_>) -> String {
    hex(number(parts))
}

/// An id as it is written.
pub fn hex(number: u64) -> String {
    let mut text = String::with_capacity(16);
    codec::push_hex(&mut text, &number.to_be_bytes());
    text
}

/// An id as a number.
pub fn number(parts: &IdParts<'_>) -> u64 {
    let mut digits = [(); 3].map(|()| itoa::Buffer::new());
    let [schema, time, ordinal] = &mut digits;
    let mut bytes = Vec::with_capacity(256);
    for text in [
        schema.format(SCHEMA),
        parts.pack,
        parts.rule,
        &parts.target.kind,
        parts.target.text(),
        parts.action,
        parts.op.name(),
        time.format(parts.time),
        ordinal.format(parts.ordinal),
    ] {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let hash = Sha256::digest(&bytes);
    hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Action {
    /// A line about `rule` with everything that does not depend on the crossing.
    pub fn of_rule(
        rule: &Rule,
        target: Target,
        kind: ActionKind,
        op: Op,
        mode: Mode,
        runbook_url: Option<&str>,
    ) -> Self {
        let runbook = rule.runbook.as_ref().map(|anchor| match runbook_url {
            Some(url) if anchor.starts_with('#') => format!("{url}{anchor}"),
            _ => anchor.clone(),
        });
        Self {
            level: rule.level.map(Urgency::name),
            severity: rule.severity.map(Severity::name),
            respond_s: rule.respond_s(),
            escalate_s: rule.escalate_s,
            notify: rule.notify.clone(),
            runbook,
            mode: mode.name(),
            ..Self::bare(&rule.pack, &rule.id, target, kind, op)
        }
    }

    /// A message about Portcullis itself.
    pub fn note(
        rule: &'static str,
        severity: Severity,
        level: Urgency,
        at: Micros,
        ordinal: u32,
        reason: String,
    ) -> Self {
        let target = Target::global();
        let parts = IdParts {
            pack: OWN_PACK,
            rule,
            target: &target,
            action: "alert",
            op: Op::Note,
            time: at,
            ordinal,
        };
        let id = id(&parts);
        Self {
            id,
            time: time::format(at),
            level: Some(level.name()),
            severity: Some(severity.name()),
            respond_s: Some(level.respond_s()),
            reason,
            ..Self::bare(OWN_PACK, rule, target, ActionKind::Alert, Op::Note)
        }
    }

    fn bare(pack: &str, rule: &str, target: Target, kind: ActionKind, op: Op) -> Self {
        Self {
            schema: SCHEMA,
            id: String::new(),
            decision: None,
            time: String::new(),
            op,
            action: kind.name(),
            target,
            duration_s: None,
            until: None,
            rule: rule.to_owned(),
            pack: pack.to_owned(),
            pattern: None,
            count: None,
            approx: false,
            window_s: None,
            first_seen: None,
            last_seen: None,
            level: None,
            severity: None,
            respond_s: None,
            escalate_s: None,
            notify: Vec::new(),
            runbook: None,
            users: None,
            ips: None,
            known_ips: Vec::new(),
            hosts: Vec::new(),
            reasons: Vec::new(),
            request_ids: None,
            crossings: None,
            mode: Mode::Enforce.name(),
            guard: None,
            reason: String::new(),
        }
    }

    /// Reads a line of schema 1, as [`Action::json`] wrote it.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_json(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }

    /// The line in the Elastic Common Schema.
    pub fn ecs(&self) -> String {
        let account = matches!(self.target.kind.as_str(), "user" | "user_id");
        let address = matches!(self.target.kind.as_str(), "ip" | "range");
        let mut ips: Vec<&str> =
            self.ips.iter().flat_map(|t| &t.sample).map(String::as_str).collect();
        let mut users: Vec<&str> =
            self.users.iter().flat_map(|t| &t.sample).map(String::as_str).collect();
        if self.target.kind == "ip" {
            ips = vec![self.target.text()];
        }
        if account {
            users = vec![self.target.text()];
        }
        let denied =
            matches!(self.action, "block" | "lock") && matches!(self.op, Op::Start | Op::Extend);
        let severity = match self.severity {
            Some("P0") => 99,
            Some("P1") => 73,
            Some("P2") => 47,
            _ => 21,
        };
        // Of the decision: whether an enforcer carried it out is not known here.
        let outcome = match self.op {
            Op::Withheld => "failure",
            Op::Note => "unknown",
            Op::Start | Op::Extend | Op::End => "success",
        };
        let mut event = json!({
            "kind": if self.op == Op::Note { "event" } else { "alert" },
            "category": ["intrusion_detection"],
            "type": [if denied { "denied" } else { "info" }],
            "action": format!("{}_{}", self.action, self.op.name()),
            "outcome": outcome,
            "id": self.id,
            "module": "portcullis",
            "provider": "portcullis",
            "severity": severity,
            "reason": self.reason,
        });
        if let Some(start) = &self.first_seen {
            event["start"] = json!(start);
        }
        if let Some(until) = &self.until {
            event["end"] = json!(until);
        }
        let mut line = json!({
            "@timestamp": self.time,
            "ecs": { "version": "8.17.0" },
            "message": self.reason,
            "event": event,
            "rule": { "id": self.rule, "ruleset": self.pack, "name": self.rule },
            "observer": { "vendor": "portcullis", "product": "portcullis", "type": "ids", "version": env!("CARGO_PKG_VERSION") },
            "labels": { "mode": self.mode, "op": self.op.name(), "target_kind": self.target.kind },
        });
        if address {
            let ip = self.target.text();
            line["source"] = if self.target.kind == "ip" {
                json!({ "ip": ip, "address": ip })
            } else {
                json!({ "address": ip })
            };
        }
        if account {
            let value = self.target.text();
            line["user"] = if self.target.kind == "user_id" {
                json!({ "id": value })
            } else {
                json!({ "name": value })
            };
        }
        if !ips.is_empty() || !users.is_empty() {
            line["related"] = json!({});
            if !ips.is_empty() {
                line["related"]["ip"] = json!(ips);
            }
            if !users.is_empty() {
                line["related"]["user"] = json!(users);
            }
        }
        if self.pattern.as_deref() == Some("FAILED_LOGIN") {
            line["threat"] = json!({ "framework": "MITRE ATT&CK", "technique": { "id": ["T1110"], "name": ["Brute Force"] } });
        }
        if let Some(guard) = self.guard {
            line["labels"]["guard"] = json!(guard);
        }
        line.to_string()
    }

    /// What happens, as a sentence begins with it.
    fn verb(&self) -> String {
        match self.op {
            Op::Note => "NOTE".to_owned(),
            Op::Start => self.action.to_uppercase(),
            other => format!("{} {}", other.name(), self.action).to_uppercase(),
        }
    }

    /// Its target, as it follows in a sentence.
    fn at_whom(&self) -> String {
        match self.target.kind.as_str() {
            "global" => String::new(),
            "ip" | "range" | "user" | "user_id" => format!(" {}", escape(self.target.text())),
            kind => format!(" {}={}", escape(kind), escape(self.target.text())),
        }
    }

    /// For how long, as it follows in a sentence.
    fn how_long(&self) -> String {
        match (self.op, self.duration_s) {
            (Op::Start | Op::Extend | Op::Withheld, Some(s)) if self.action != "alert" => {
                format!(" for {}", time::format_duration(s.saturating_mul(1_000_000)))
            }
            _ => String::new(),
        }
    }

    /// A short sentence for a terminal, safe to print whatever a log line held.
    pub fn text(&self, colour: bool) -> String {
        let verb = self.verb();
        let code = match (self.op, self.action) {
            (Op::End, _) => "2",
            (Op::Withheld | Op::Note, _) => "33",
            (_, "block" | "lock" | "under_attack") => "1;31",
            (_, "require_2fa") => "1;35",
            _ => "1;36",
        };
        let verb = if colour { format!("\x1b[{code}m{verb}\x1b[0m") } else { verb };
        let when = self.time.get(..19).unwrap_or(&self.time).replace('T', " ");
        let (target, lasting) = (self.at_whom(), self.how_long());
        let mut tail = format!("[{}]", self.rule);
        if let Some(guard) = self.guard {
            let _ = write!(tail, " held back by {guard}");
        }
        if self.mode == "shadow" {
            tail.push_str(" (shadow: nothing is enforced)");
        }
        format!("{when} {verb}{target}{lasting}: {} {tail}", escape(&self.reason))
    }
}

/// Text from a log, made safe for a terminal: control and direction-changing characters are shown
/// as escapes, and very long texts are cut.
pub fn escape(text: &str) -> String {
    const SHOWN_MAX: usize = 200;
    let mut out = String::with_capacity(text.len());
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_MAX {
            out.push('…');
            break;
        }
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character cannot be seen, or makes others be seen as they are not.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}
