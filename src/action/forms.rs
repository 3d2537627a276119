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
            (_, _, "require_2fa" | "under_attack") => (4, 23),
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

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r##"{"schema":1,"id":"d9bb6d97bf65ed48","decision":"d9bb6d97bf65ed48","time":"2025-08-03T23:26:40.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.7"},"duration_s":86400,"until":"2025-08-04T23:26:40.000000Z","rule":"ip-blocking","pack":"own rules","pattern":"FAILED_LOGIN","count":21,"window_s":3600,"first_seen":"2025-08-03T22:30:00.000000Z","last_seen":"2025-08-03T23:26:40.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["security_team"],"runbook":"https://example.org/runbook?a=1&b=2#x","users":{"distinct":1,"sample":["<!channel> & co"]},"reasons":{"invalid_password":20},"mode":"enforce","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h"}"##;
    const MINIMAL: &str = r##"{"schema":1,"id":"599a6a7f6d7c0efe","time":"2025-01-01T00:00:15.000000Z","op":"note","action":"alert","target":{"kind":"global"},"rule":"clock","pack":"portcullis","mode":"enforce","reason":"<@U1> & <https://evil.example|x>"}"##;

    fn pinned(form: impl Fn(&Action) -> String, full: &str, minimal: &str) {
        for (line, bytes) in [(FULL, full), (MINIMAL, minimal)] {
            let action = Action::of_json(line).unwrap();
            assert_eq!(action.json(), line);
            assert_eq!(form(&action), bytes.replace("VERSION", env!("CARGO_PKG_VERSION")));
        }
    }

    #[test]
    fn a_message_has_these_bytes() {
        pinned(
            Action::message,
            r##"{"type":"portcullis.block.start","timestamp":"2025-08-03T23:26:40.000000Z","data":{"schema":1,"id":"d9bb6d97bf65ed48","decision":"d9bb6d97bf65ed48","time":"2025-08-03T23:26:40.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.7"},"duration_s":86400,"until":"2025-08-04T23:26:40.000000Z","rule":"ip-blocking","pack":"own rules","pattern":"FAILED_LOGIN","count":21,"window_s":3600,"first_seen":"2025-08-03T22:30:00.000000Z","last_seen":"2025-08-03T23:26:40.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["security_team"],"runbook":"https://example.org/runbook?a=1&b=2#x","users":{"distinct":1,"sample":["<!channel> & co"]},"reasons":{"invalid_password":20},"mode":"enforce","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h"}}"##,
            r##"{"type":"portcullis.alert.note","timestamp":"2025-01-01T00:00:15.000000Z","data":{"schema":1,"id":"599a6a7f6d7c0efe","time":"2025-01-01T00:00:15.000000Z","op":"note","action":"alert","target":{"kind":"global"},"rule":"clock","pack":"portcullis","mode":"enforce","reason":"<@U1> & <https://evil.example|x>"}}"##,
        );
    }

    #[test]
    fn a_cloud_event_has_these_bytes() {
        pinned(
            Action::cloud_event,
            r##"{"datacontenttype":"application/json","id":"d9bb6d97bf65ed48","source":"/portcullis/own%20rules/ip-blocking","specversion":"1.0","subject":"203.0.113.7","time":"2025-08-03T23:26:40.000000Z","type":"portcullis.block.start","data":{"schema":1,"id":"d9bb6d97bf65ed48","decision":"d9bb6d97bf65ed48","time":"2025-08-03T23:26:40.000000Z","op":"start","action":"block","target":{"kind":"ip","value":"203.0.113.7"},"duration_s":86400,"until":"2025-08-04T23:26:40.000000Z","rule":"ip-blocking","pack":"own rules","pattern":"FAILED_LOGIN","count":21,"window_s":3600,"first_seen":"2025-08-03T22:30:00.000000Z","last_seen":"2025-08-03T23:26:40.000000Z","level":"warning","severity":"P2","respond_s":1800,"notify":["security_team"],"runbook":"https://example.org/runbook?a=1&b=2#x","users":{"distinct":1,"sample":["<!channel> & co"]},"reasons":{"invalid_password":20},"mode":"enforce","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h"}}"##,
            r##"{"datacontenttype":"application/json","id":"599a6a7f6d7c0efe","source":"/portcullis/portcullis/clock","specversion":"1.0","time":"2025-01-01T00:00:15.000000Z","type":"portcullis.alert.note","data":{"schema":1,"id":"599a6a7f6d7c0efe","time":"2025-01-01T00:00:15.000000Z","op":"note","action":"alert","target":{"kind":"global"},"rule":"clock","pack":"portcullis","mode":"enforce","reason":"<@U1> & <https://evil.example|x>"}}"##,
        );
    }

    #[test]
    fn an_ocsf_finding_has_these_bytes() {
        pinned(
            Action::ocsf,
            r##"{"action_id":2,"activity_id":1,"category_uid":2,"class_uid":2004,"count":21,"disposition_id":2,"end_time":1754263600000,"evidences":[{"src_endpoint":{"ip":"203.0.113.7"}},{"actor":{"user":{"name":"<!channel> & co"}}}],"finding_info":{"analytic":{"name":"ip-blocking","type_id":1,"uid":"own rules/ip-blocking"},"attacks":[{"technique":{"name":"Brute Force","uid":"T1110"},"version":"16.1"}],"desc":"21 FAILED_LOGIN from 203.0.113.7 within 1h","first_seen_time":1754260200000,"last_seen_time":1754263600000,"title":"ip-blocking","uid":"d9bb6d97bf65ed48"},"is_alert":true,"message":"21 FAILED_LOGIN from 203.0.113.7 within 1h","metadata":{"product":{"name":"Portcullis","vendor_name":"Portcullis","version":"VERSION"},"profiles":["security_control"],"uid":"d9bb6d97bf65ed48","version":"1.5.0"},"observables":[{"name":"evidences.src_endpoint.ip","type_id":2,"value":"203.0.113.7"},{"name":"evidences.actor.user.name","type_id":4,"value":"<!channel> & co"}],"remediation":{"desc":"The runbook says what to do.","references":["https://example.org/runbook?a=1&b=2#x"]},"severity_id":3,"start_time":1754260200000,"status_id":1,"time":1754263600000,"type_uid":200401,"unmapped":{"action":"block","level":"warning","mode":"enforce","op":"start","pack":"own rules","target":{"kind":"ip","value":"203.0.113.7"},"until":"2025-08-04T23:26:40.000000Z"}}"##,
            r##"{"action_id":3,"activity_id":1,"category_uid":2,"class_uid":2004,"disposition_id":17,"finding_info":{"analytic":{"name":"clock","type_id":1,"uid":"portcullis/clock"},"desc":"<@U1> & <https://evil.example|x>","title":"clock","uid":"599a6a7f6d7c0efe"},"is_alert":true,"message":"<@U1> & <https://evil.example|x>","metadata":{"product":{"name":"Portcullis","vendor_name":"Portcullis","version":"VERSION"},"profiles":["security_control"],"uid":"599a6a7f6d7c0efe","version":"1.5.0"},"severity_id":0,"status_id":1,"time":1735689615000,"type_uid":200401,"unmapped":{"action":"alert","mode":"enforce","op":"note","pack":"portcullis","target":{"kind":"global"}}}"##,
        );
    }

    #[test]
    fn an_ecs_line_has_these_bytes() {
        pinned(
            Action::ecs,
            r##"{"@timestamp":"2025-08-03T23:26:40.000000Z","ecs":{"version":"8.17.0"},"event":{"action":"block_start","category":["intrusion_detection"],"end":"2025-08-04T23:26:40.000000Z","id":"d9bb6d97bf65ed48","kind":"alert","module":"portcullis","outcome":"success","provider":"portcullis","reason":"21 FAILED_LOGIN from 203.0.113.7 within 1h","severity":47,"start":"2025-08-03T22:30:00.000000Z","type":["denied"]},"labels":{"mode":"enforce","op":"start","target_kind":"ip"},"message":"21 FAILED_LOGIN from 203.0.113.7 within 1h","observer":{"product":"portcullis","type":"ids","vendor":"portcullis","version":"VERSION"},"related":{"ip":["203.0.113.7"],"user":["<!channel> & co"]},"rule":{"id":"ip-blocking","name":"ip-blocking","ruleset":"own rules"},"source":{"address":"203.0.113.7","ip":"203.0.113.7"},"threat":{"framework":"MITRE ATT&CK","technique":{"id":["T1110"],"name":["Brute Force"]}}}"##,
            r##"{"@timestamp":"2025-01-01T00:00:15.000000Z","ecs":{"version":"8.17.0"},"event":{"action":"alert_note","category":["intrusion_detection"],"id":"599a6a7f6d7c0efe","kind":"event","module":"portcullis","outcome":"unknown","provider":"portcullis","reason":"<@U1> & <https://evil.example|x>","severity":21,"type":["info"]},"labels":{"mode":"enforce","op":"note","target_kind":"global"},"message":"<@U1> & <https://evil.example|x>","observer":{"product":"portcullis","type":"ids","vendor":"portcullis","version":"VERSION"},"rule":{"id":"clock","name":"clock","ruleset":"portcullis"}}"##,
        );
    }

    #[test]
    fn a_message_for_slack_has_these_bytes_and_mentions_nobody() {
        pinned(
            Action::slack,
            r##"{"blocks":[{"text":{"text":"*BLOCK* 203.0.113.7 for 24h\n21 FAILED_LOGIN from 203.0.113.7 within 1h","type":"mrkdwn","verbatim":true},"type":"section"},{"elements":[{"text":"rule ip-blocking · P2 · warning · respond within 30m · until 2025-08-04T23:26:40.000000Z · <https://example.org/runbook?a=1&amp;b=2#x|runbook>","type":"mrkdwn","verbatim":true}],"type":"context"}],"text":"BLOCK 203.0.113.7 for 24h: 21 FAILED_LOGIN from 203.0.113.7 within 1h","unfurl_links":false,"unfurl_media":false}"##,
            r##"{"blocks":[{"text":{"text":"*NOTE*\n&lt;@U1&gt; &amp; &lt;https://evil.example|x&gt;","type":"mrkdwn","verbatim":true},"type":"section"},{"elements":[{"text":"rule clock","type":"mrkdwn","verbatim":true}],"type":"context"}],"text":"NOTE: &lt;@U1&gt; &amp; &lt;https://evil.example|x&gt;","unfurl_links":false,"unfurl_media":false}"##,
        );
    }

    #[test]
    fn an_ocsf_finding_says_what_became_of_it() {
        let told = |action: &'static str, op: Op, mode: &'static str| {
            let action = Action { action, op, mode, ..Action::of_json(FULL).unwrap() };
            let line: Value = serde_json::from_str(&action.ocsf()).unwrap();
            let number = |name: &str| line[name].as_i64().unwrap();
            let of = ["type_uid", "status_id", "action_id", "disposition_id"].map(number);
            (of, line["is_alert"].as_bool().unwrap())
        };
        for (action, op, mode, of, alert) in [
            ("block", Op::Extend, "enforce", [200_402, 2, 2, 2], true),
            ("block", Op::End, "enforce", [200_403, 4, 1, 1], false),
            ("block", Op::Withheld, "enforce", [200_401, 3, 1, 16], true),
            ("block", Op::Start, "shadow", [200_401, 1, 3, 15], true),
            ("lock", Op::Start, "enforce", [200_401, 1, 2, 24], true),
            ("require_2fa", Op::Start, "enforce", [200_401, 1, 4, 23], true),
            ("under_attack", Op::Start, "enforce", [200_401, 1, 4, 23], true),
            ("under_attack", Op::End, "enforce", [200_403, 4, 1, 1], false),
            ("alert", Op::Start, "enforce", [200_401, 1, 3, 19], true),
            ("alert", Op::End, "enforce", [200_403, 4, 3, 17], false),
        ] {
            assert_eq!(told(action, op, mode), (of, alert), "{action} {op:?} {mode}");
        }
    }

    #[test]
    fn many_for_slack_are_counted_to_the_last_and_named_in_part() {
        let action = |n: usize| {
            let mut action = Action::of_json(FULL).unwrap();
            action.rule = format!("rule-{}", n % 12);
            action.target.value = Some(format!("<!here>{n}"));
            action
        };
        let text = slack_of_many(&(0..40).map(action).collect::<Vec<_>>());
        assert!(text.len() < 20_000 && !text.contains("<!here>"), "{text}");
        let message: Value = serde_json::from_str(&text).unwrap();
        let blocks = message["blocks"].as_array().unwrap();
        assert_eq!(blocks.len(), KINDS_MAX + 1);
        assert_eq!(blocks[KINDS_MAX]["text"]["text"], "6 × 2 other kinds");
        let first =
            "*4 × BLOCK [rule-0]*\n&lt;!here&gt;0, &lt;!here&gt;12, &lt;!here&gt;24 and 1 more";
        assert_eq!(blocks[0]["text"]["text"], first);
        let counts = message["text"].as_str().unwrap().split(": ").nth(1).unwrap();
        let count = |part: &str| part.split(' ').next().unwrap().parse::<usize>().unwrap();
        assert_eq!(counts.split(", ").map(count).sum::<usize>(), 40);
    }

    #[test]
    fn what_an_action_is_about_is_never_cut() {
        let mut action = Action::of_json(FULL).unwrap();
        action.target.value = Some("x".repeat(5000));
        action.reason = "é".repeat(5000);
        let short = action.shortened();
        assert_eq!(
            (&short.target, &short.id, &short.until),
            (&action.target, &action.id, &action.until)
        );
        assert_eq!(short.reason.chars().count(), SHORT + 1);
    }
}
