//! The forms in which an action is told to others: pure functions of the action, byte for byte.
//!
//! The line itself and its ECS form stand beside [`Action`]. Here are the message of a webhook, the
//! OCSF Detection Finding, the CloudEvents envelope and the message for Slack. Whatever a log line
//! held is text in all of them: no form lets it become markup, a mention or a link.

use super::decision::instant_of;
use super::{Action, OWN_PACK, Op, escape};
use crate::decode::time::{self, Micros};
use crate::detect::rule::{Severity, Urgency};
use serde_json::{Value, json};
use std::fmt::Write;

/// The rule of a [test message](Action::test).
const TEST: &str = "test";
/// Characters that are kept of each text of a [shortened](Action::shortened) action.
const SHORT: usize = 120;
/// Characters of a target in a folded message.
const SHORT_TARGET: usize = 60;
/// Kinds of actions that a folded message lists.
const KINDS_MAX: usize = 10;
/// Targets that it names of each.
const NAMED_MAX: usize = 3;

impl Action {
    /// A message that says nothing but that it arrives.
    pub fn test(at: Micros) -> Self {
        let reason = "this is a test: the message arrived, and nothing has happened";
        Self::note(TEST, Severity::P3, Urgency::Info, at, 0, reason.to_owned())
    }

    /// What happens as one word with dots, for whoever switches on it: `portcullis.block.start`. In
    /// shadow mode it is another word, so that nobody enforces it by mistake:
    /// `portcullis.shadow.block.start`.
    pub fn event_type(&self) -> String {
        if self.op == Op::Note && self.rule == TEST && self.pack == OWN_PACK {
            return "portcullis.test".to_owned();
        }
        let shadow = if self.mode == "shadow" { "shadow." } else { "" };
        format!("portcullis.{shadow}{}.{}", self.action, self.op.name())
    }

    /// A message by the advice of Standard Webhooks: a type, a time, and the line as data.
    pub fn message(&self) -> String {
        let (kind, time) = (json!(self.event_type()), json!(self.time));
        format!(r#"{{"type":{kind},"timestamp":{time},"data":{}}}"#, self.json())
    }

    /// CloudEvents 1.0 in JSON, with the line as data. The subject is the target's value.
    pub fn cloud_event(&self) -> String {
        let source = format!("/portcullis/{}/{}", segment(&self.pack), segment(&self.rule));
        let mut head = json!({
            "specversion": "1.0",
            "id": self.id,
            "source": source,
            "type": self.event_type(),
        });
        if !self.target.text().is_empty() {
            head["subject"] = json!(self.target.text());
        }
        if !self.time.is_empty() {
            head["time"] = json!(self.time);
        }
        head["datacontenttype"] = json!("application/json");
        let mut text = head.to_string();
        text.pop();
        format!("{text},\"data\":{}}}", self.json())
    }

    /// The line as an OCSF 1.5 Detection Finding (class 2004) with the profile `security_control`.
    /// What OCSF has no place for stands under `unmapped`.
    pub fn ocsf(&self) -> String {
        let activity = match self.op {
            Op::Start | Op::Withheld | Op::Note => 1,
            Op::Extend => 2,
            Op::End => 3,
        };
        let status = match self.op {
            Op::Start | Op::Note => 1,
            Op::Extend => 2,
            Op::Withheld => 3,
            Op::End => 4,
        };
        let (control, disposition) = self.control();
        let mut info = json!({
            "uid": self.decision.as_ref().unwrap_or(&self.id),
            "title": self.rule,
            "desc": self.reason,
            "analytic": { "uid": format!("{}/{}", self.pack, self.rule), "name": self.rule, "type_id": 1 },
        });
        if self.pattern.as_deref() == Some("FAILED_LOGIN") {
            info["attacks"] = json!([{ "technique": { "uid": "T1110", "name": "Brute Force" }, "version": "16.1" }]);
        }
        let mut line = json!({
            "class_uid": 2004,
            "category_uid": 2,
            "activity_id": activity,
            "type_uid": 200_400 + activity,
            "time": millis(&self.time).unwrap_or(0),
            "severity_id": self.severity_id(),
            "status_id": status,
            "is_alert": self.op != Op::End,
            "action_id": control,
            "disposition_id": disposition,
            "message": self.reason,
            "metadata": {
                "version": "1.5.0",
                "profiles": ["security_control"],
                "product": { "name": "Portcullis", "vendor_name": "Portcullis", "version": env!("CARGO_PKG_VERSION") },
                "uid": self.id,
            },
        });
        for (name, text) in
            [("first_seen_time", &self.first_seen), ("last_seen_time", &self.last_seen)]
        {
            if let Some(at) = text.as_deref().and_then(millis) {
                info[name] = json!(at);
                line[if name == "first_seen_time" { "start_time" } else { "end_time" }] = json!(at);
            }
        }
        line["finding_info"] = info;
        if let Some(count) = self.count {
            line["count"] = json!(count);
        }
        let (evidences, observables) = self.evidence();
        if !evidences.is_empty() {
            line["evidences"] = json!(evidences);
            line["observables"] = json!(observables);
        }
        if let Some(url) = self.runbook_url() {
            line["remediation"] =
                json!({ "desc": "The runbook says what to do.", "references": [url] });
        }
        let mut unmapped = json!({
            "action": self.action,
            "op": self.op.name(),
            "mode": self.mode,
            "target": self.target,
            "pack": self.pack,
        });
        let rest = [("until", self.until.as_deref()), ("guard", self.guard), ("level", self.level)];
        for (name, text) in rest {
            if let Some(text) = text {
                unmapped[name] = json!(text);
            }
        }
        line["unmapped"] = unmapped;
        line.to_string()
    }

    /// What a control did and what became of the activity, in OCSF's numbers. It is what was
    /// decided: whether an enforcer carried it out is not known here.
    fn control(&self) -> (u8, u8) {
        match (self.mode, self.op, self.action) {
            // Observed and logged.
            (_, Op::Note, _) | (_, Op::End, "alert") => (3, 17),
            // Observed and detected: nothing is enforced.
            ("shadow", ..) => (3, 15),
            // Allowed, without an action.
            (_, Op::Withheld, _) => (1, 16),
            // Allowed again.
            (_, Op::End, _) => (1, 1),
            // Denied: blocked, or access revoked.
            (_, _, "block") => (2, 2),
            (_, _, "lock") => (2, 24),
            // Modified: challenged.
            (_, _, "require_2fa") => (4, 23),
            // Observed: an alert.
            _ => (3, 19),
        }
    }

    fn severity_id(&self) -> u8 {
        match (self.severity, self.level) {
            (Some("P0"), _) | (None, Some("critical")) => 5,
            (Some("P1"), _) => 4,
            (Some("P2"), _) | (None, Some("warning")) => 3,
            (Some("P3"), _) => 2,
            (None, Some("info")) => 1,
            _ => 0,
        }
    }

    /// Who was seen: the target first, else what was sampled.
    fn evidence(&self) -> (Vec<Value>, Vec<Value>) {
        let sampled = |tally: &Option<crate::window::Tally>| {
            tally.iter().flat_map(|t| &t.sample).cloned().collect::<Vec<String>>()
        };
        let (mut ips, mut users) = (sampled(&self.ips), sampled(&self.users));
        let value = || vec![self.target.text().to_owned()];
        let mut key = "name";
        match self.target.kind.as_str() {
            "ip" => ips = value(),
            "user" => users = value(),
            "user_id" => {
                users = value();
                key = "uid";
            }
            _ => {}
        }
        let (mut evidences, mut observables) = (Vec::new(), Vec::new());
        for ip in ips {
            evidences.push(json!({ "src_endpoint": { "ip": ip } }));
            observables
                .push(json!({ "name": "evidences.src_endpoint.ip", "type_id": 2, "value": ip }));
        }
        for user in users {
            evidences.push(json!({ "actor": { "user": { key: user } } }));
            let name = format!("evidences.actor.user.{key}");
            // A user name, or something else: an id.
            let type_id = if key == "name" { 4 } else { 99 };
            observables.push(json!({ "name": name, "type_id": type_id, "value": user }));
        }
        (evidences, observables)
    }

    /// The runbook's address, if it is one that can be opened.
    pub fn runbook_url(&self) -> Option<&str> {
        let url = self.runbook.as_deref()?;
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '|' | '"');
        let web = url.starts_with("https://") || url.starts_with("http://");
        (web && url.chars().all(plain)).then_some(url)
    }

    /// A message for Slack, or for whatever takes Slack's messages.
    pub fn slack(&self) -> String {
        let (verb, target, lasting) = (self.verb(), self.at_whom(), self.how_long());
        let told = format!("*{verb}*{}{lasting}\n{}", plain(&target), shown(&self.reason));
        let mut about = format!("rule {}", shown(&self.rule));
        for word in [self.severity, self.level].into_iter().flatten() {
            let _ = write!(about, " · {word}");
        }
        if let (Some(s), true) = (self.respond_s, self.op == Op::Start || self.op == Op::Note) {
            let lasting = i64::try_from(s).unwrap_or(i64::MAX).saturating_mul(1_000_000);
            let when = if s == 0 {
                "at once".to_owned()
            } else {
                format!("within {}", time::format_duration(lasting))
            };
            let _ = write!(about, " · respond {when}");
        }
        if let Some(until) = &self.until {
            let _ = write!(about, " · until {}", shown(until));
        }
        if let Some(guard) = self.guard {
            let _ = write!(about, " · held back by {guard}");
        }
        if self.mode == "shadow" {
            about.push_str(" · shadow: nothing is enforced");
        }
        if let Some(url) = self.runbook_url() {
            let _ = write!(about, " · <{}|runbook>", plain(url));
        }
        let text = format!("{verb}{}{lasting}: {}", plain(&target), shown(&self.reason));
        let context = json!({ "type": "context", "elements": [markdown(&about)] });
        slack_message(&text, &[json!({ "type": "section", "text": markdown(&told) }), context])
    }

    /// The action with its long texts cut, for receivers that take no more than so much. What it is
    /// about is never cut.
    #[must_use]
    pub fn shortened(&self) -> Self {
        let mut action = self.clone();
        cut(&mut action.reason, SHORT);
        let tallies = [&mut action.users, &mut action.ips, &mut action.request_ids];
        let samples = tallies.into_iter().flatten().flat_map(|tally| &mut tally.sample);
        let reasons = action.reasons.iter_mut().map(|(reason, _)| reason);
        samples.chain(reasons).chain(&mut action.known_ips).for_each(|text| cut(text, SHORT));
        action
    }
}

/// One message for Slack of many actions: how many of which kind by which rule, and at whom.
pub fn slack_of_many(actions: &[Action]) -> String {
    let mut kinds: Vec<(String, Vec<&Action>)> = Vec::new();
    for action in actions {
        let shadow = if action.mode == "shadow" { ", shadow" } else { "" };
        let kind = format!("{} [{}{shadow}]", action.verb(), shown(&action.rule));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, of)) => of.push(action),
            None => kinds.push((kind, vec![action])),
        }
    }
    kinds.sort_by_key(|(_, of)| std::cmp::Reverse(of.len()));
    let (listed, rest) = kinds.split_at(kinds.len().min(KINDS_MAX));
    let mut counts: Vec<String> =
        listed.iter().map(|(kind, of)| format!("{} × {kind}", of.len())).collect();
    let mut blocks = Vec::new();
    for ((_, of), count) in listed.iter().zip(&counts) {
        let mut names: Vec<String> = Vec::new();
        let mut more = 0;
        for action in of {
            let mut name = match action.target.text() {
                "" => escape(&action.reason),
                _ => action.at_whom().trim_start().to_owned(),
            };
            cut(&mut name, SHORT_TARGET);
            let name = plain(&name);
            if names.len() < NAMED_MAX && !names.contains(&name) {
                names.push(name);
            } else {
                more += 1;
            }
        }
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!("*{count}*\n{}{more}", names.join(", "));
        blocks.push(json!({ "type": "section", "text": markdown(&text) }));
    }
    let others: usize = rest.iter().map(|(_, of)| of.len()).sum();
    if others > 0 {
        let text = format!("{others} × {} other kinds", rest.len());
        blocks.push(json!({ "type": "section", "text": markdown(&text) }));
        counts.push(text);
    }
    slack_message(&format!("{} actions: {}", actions.len(), counts.join(", ")), &blocks)
}

/// Nothing that Slack would fetch is fetched.
fn slack_message(text: &str, blocks: &[Value]) -> String {
    let message =
        json!({ "text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false });
    message.to_string()
}

/// `verbatim`: neither names of channels nor addresses in it become links.
fn markdown(text: &str) -> Value {
    json!({ "type": "mrkdwn", "text": text, "verbatim": true })
}

/// Text from a log, as Slack shows it.
fn shown(text: &str) -> String {
    plain(&escape(text))
}

/// The three characters with which everything begins that is more than text: links, mentions and
/// entities.
fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Cuts a text to so many characters.
fn cut(text: &mut String, chars: usize) {
    if let Some((at, _)) = text.char_indices().nth(chars) {
        text.truncate(at);
        text.push('…');
    }
}

/// A time as it stands in a line, in milliseconds.
fn millis(text: &str) -> Option<i64> {
    instant_of(text).map(|at| at.div_euclid(1000))
}

/// A name as a segment of an address.
fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
