//! The sink `pagerduty`: each decision as an incident, by the Events API v2, where somebody is on
//! call and escalation is done.
//!
//! One incident is one (mode, action, target), as one decision is, and for an alert its rule too:
//! what ends a decision resolves it, and another decision of the same kind opens it again.

use super::Context;
use super::alertmanager::digested;
use super::http::Method;
use super::peer::{Caller, Peer, parse_name};
use super::remote::{PROLONGED, Progress, Remote, Trouble, is_over, micros, one_by_one};
use super::secret::{Secret, SecretPlace};
use super::selection::{SEVERITIES, Selection};
use crate::action::{Action, Op, Word, escape};
use crate::yaml::{Checker, Key, Node};
use serde_json::{Value, json};
use std::time::SystemTime;
use tracing::info;

/// Where events go if nothing else is said.
const URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Characters of an integration's key.
const KEY_CHARS: usize = 32;
/// Bytes of what tells incidents apart.
const DEDUP_MAX: usize = 255;
/// Characters of a summary.
const SUMMARY_MAX: usize = 1024;

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    name: Option<String>,
    peer: Peer,
    key: Option<SecretPlace>,
    /// By the class of incident.
    keys: Vec<(Word, SecretPlace)>,
    selection: Selection,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let own = ["name", "routing_key", "routing_keys", "url", "insecure", "ca"];
        let known = [&own[..], &Selection::KEYS].concat();
        let before = checker.problems.len();
        let mut options = Self {
            name: None,
            peer: Peer::of(URL),
            key: None,
            keys: Vec::new(),
            selection: Selection::new(&[Op::Start, Op::End, Op::Note]),
        };
        for (key, value) in checker.map(value, "the sink `pagerduty`", &known) {
            match key.name.as_str() {
                "name" => options.name = Some(parse_name(checker, value)),
                "routing_key" => {
                    options.key = SecretPlace::parse(checker, value, "`routing_key`");
                }
                "routing_keys" => options.parse_keys(checker, value),
                "url" | "insecure" | "ca" => {
                    options.peer.parse(checker, key, value);
                }
                _ => {
                    options.selection.parse(checker, key, value);
                }
            }
        }
        options.peer.check(checker, key, value, false);
        if value.get("routing_key").is_none() && value.get("routing_keys").is_none() {
            let help = "for example  routing_key: { env: PAGERDUTY_KEY }";
            let message = "the sink `pagerduty` needs `routing_key` or `routing_keys`";
            checker.key(key, message, Some(help.into()));
        }
        if let (true, Some(on)) = (options.selection.includes(Op::Extend), value.get("on")) {
            let help = "leave `extend` out: an incident stays open until its end is told";
            checker.node(on, "`on`: an incident has no end that could be moved", Some(help.into()));
        }
        (checker.problems.len() == before).then_some(options)
    }

    fn parse_keys(&mut self, checker: &mut Checker<'_>, node: &Node) {
        let words = SEVERITIES.map(|(word, _)| word);
        let members = checker.map(node, "`routing_keys`", &words);
        if members.is_empty() {
            let help = "for example  routing_keys: { P0: { env: KEY_OF_THE_NIGHT } }";
            checker.node(node, "`routing_keys` names no class of incident", Some(help.into()));
        }
        for (key, value) in members {
            let known = SEVERITIES.iter().find(|(word, _)| *word == key.name);
            let place = SecretPlace::parse(checker, value, &format!("`{}`", key.name));
            if let (Some((_, severity)), Some(place)) = (known, place) {
                self.keys.push((severity, place));
            }
        }
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        self.name.as_ref().map_or_else(|| "pagerduty".to_owned(), |n| format!("pagerduty {n}"))
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, context: &Context) -> Result<Box<dyn Remote>, String> {
        let mut caller = self.peer.open(false)?;
        let mut read = |place: &SecretPlace| -> Result<Secret, String> {
            let key = place.read()?;
            let text = key.reveal();
            if text.len() != KEY_CHARS || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(format!(
                    "what is in {place} is no routing key: those have {KEY_CHARS} letters and digits, as the integration `Events API v2` shows"
                ));
            }
            caller.hide(key.clone());
            Ok(key)
        };
        let key = self.key.as_ref().map(&mut read).transpose()?;
        let keys: Result<Vec<_>, String> =
            self.keys.iter().map(|(severity, place)| Ok((*severity, read(place)?))).collect();
        let keys = keys?;
        Ok(Box::new(PagerDuty {
            name: self.name(),
            caller,
            key,
            keys,
            selection: self.selection.clone(),
            receives: context.receives.clone(),
            runbook_url: context.runbook_url.clone(),
        }))
    }
}

/// The sink at work.
#[derive(Debug)]
struct PagerDuty {
    name: String,
    caller: Caller,
    key: Option<Secret>,
    keys: Vec<(Word, Secret)>,
    selection: Selection,
    receives: Option<Vec<String>>,
    runbook_url: Option<String>,
}

impl PagerDuty {
    /// The key of whoever is on call for this class of incident.
    fn key(&self, action: &Action) -> Option<&Secret> {
        let own = self.keys.iter().find(|(severity, _)| action.severity == Some(*severity));
        own.map(|(_, key)| key).or(self.key.as_ref())
    }

    fn event(&self, action: &Action, key: &Secret) -> Value {
        let mut event = json!({
            "routing_key": key.reveal(),
            "event_action": if action.op == Op::End { "resolve" } else { "trigger" },
            "dedup_key": dedup_key(action),
        });
        if action.op == Op::End {
            return event;
        }
        let short = action.shortened();
        let mut details = json!({
            "decision": action.decision,
            "action": action.action,
            "target": action.target,
            "rule": action.rule,
            "pack": action.pack,
            "mode": action.mode,
        });
        let mut add = |name: &str, value: Value| {
            if !value.is_null() {
                details[name] = value;
            }
        };
        add("severity", json!(action.severity));
        add("respond_s", json!(action.respond_s));
        add("escalate_s", json!(action.escalate_s));
        add("count", json!(action.count));
        add("window_s", json!(action.window_s));
        add("until", json!(action.until));
        add("guard", json!(action.guard));
        add("users", json!(short.users.as_ref().map(|t| &t.sample)));
        add("ips", json!(short.ips.as_ref().map(|t| &t.sample)));
        add("runbook", json!(action.runbook));
        for (reason, count) in &short.reasons {
            details["reasons"][reason] = json!(count);
        }
        let summary: String = escape(&action.reason).chars().take(SUMMARY_MAX).collect();
        let source =
            if action.target.text().is_empty() { "portcullis" } else { action.target.text() };
        event["client"] = json!("Portcullis");
        event["payload"] = json!({
            "summary": summary,
            "source": source,
            "severity": severity(action),
            "timestamp": action.time,
            "component": action.rule,
            "group": action.pack,
            "class": action.action,
            "custom_details": details,
        });
        let anchored = self.runbook_url.as_ref().zip(action.runbook.as_ref());
        let anchored = anchored.filter(|(_, anchor)| anchor.starts_with('#'));
        let runbook = anchored.map(|(url, anchor)| format!("{url}{anchor}"));
        if let Some(href) = runbook.or_else(|| action.runbook_url().map(str::to_owned)) {
            event["links"] = json!([{ "href": href, "text": "Runbook" }]);
        }
        event
    }

    fn send(&self, action: &Action) -> Result<(), Trouble> {
        let key = self.key(action).ok_or_else(|| Trouble::refused("no routing key is for it"))?;
        let body = self.event(action, key).to_string();
        let headers = [("content-type", "application/json")];
        let sent = self.caller.call(Method::Post, "", &headers, Some(body.as_bytes()));
        sent.map(drop).map_err(|failed| failed.trouble)
    }
}

impl Remote for PagerDuty {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn acts(&self) -> bool {
        false
    }

    fn wants(&self, action: &Action) -> bool {
        // Nobody is woken by a rule on trial.
        action.mode == "enforce"
            && self.key(action).is_some()
            && self.selection.takes(action, self.receives.as_deref())
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let now = micros(now);
        one_by_one(actions, |action| {
            let more = if action.action == "alert" { PROLONGED } else { 0 };
            if is_over(action, now - more) {
                // Nobody is woken for what is over.
                info!("sink {}: {} was over before it could be told", self.name, action.id);
                return Ok(());
            }
            self.send(action)
        })
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let keys = self.keys.len() + usize::from(self.key.is_some());
        Ok(format!(
            "{keys} routing keys have the right shape; whether PagerDuty knows them only an incident can tell, and none was raised"
        ))
    }
}

fn severity(action: &Action) -> Word {
    match (action.level, action.severity) {
        (Some("critical"), _) | (None, Some("P0")) => "critical",
        (None, Some("P1")) => "error",
        (Some("warning"), _) | (None, Some("P2")) => "warning",
        _ => "info",
    }
}

/// What tells incidents apart. What came from a log stands last, so that it can be nothing else.
fn dedup_key(action: &Action) -> String {
    let kind = match action.op {
        Op::Withheld | Op::Note => action.op.name(),
        _ => action.mode,
    };
    let rule = match (action.action, action.op) {
        ("alert", _) | (_, Op::Withheld) => format!("{}/{}/", action.pack, action.rule),
        _ => String::new(),
    };
    let (target, what) = (&action.target, action.action);
    let key = format!("portcullis/{kind}/{what}/{rule}{}/{}", target.kind, target.text());
    digested(&key, DEDUP_MAX)
}
