//! The sink `alertmanager`: each decision as an alert that lasts as long as the decision.
//!
//! An alert is its labels: what starts, extends and ends a decision must have the same, so nothing
//! that changes is a label. Alertmanager keeps alerts in memory only; so what is active is posted
//! again every few minutes, with the labels that it was given first.

use super::Context;
use super::http::Method;
use super::peer::{Caller, Failed, Peer, parse_name};
use super::remote::{PROLONGED, Progress, Remote, Trouble, micros};
use super::selection::Selection;
use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op};
use crate::decode::time::{self, Micros};
use crate::yaml::{Checker, Key, Node};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// How often what is active is posted again.
const AGAIN: Duration = Duration::from_secs(180);
/// How long an alert lasts that has no end of its own: a note, a withheld decision.
const PASSING: Micros = 3600 * 1_000_000;
/// Alerts in one call.
const POSTED_MAX: usize = 200;
/// Bytes of a label's value; a longer one is cut, with a digest of the whole.
const LABEL_MAX: usize = 512;
/// Labels that are made here.
const OWN: [&str; 14] = [
    "alertname",
    "severity",
    "priority",
    "action",
    "target_kind",
    "target",
    "pack",
    "source",
    "mode",
    "respond_s",
    "escalate_s",
    "notify",
    "op",
    "guard",
];
const API: &str = "/api/v2";

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    name: String,
    peer: Peer,
    labels: BTreeMap<String, String>,
    selection: Selection,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let known = [&["name", "labels"][..], &Peer::KEYS, &Selection::KEYS].concat();
        let before = checker.problems.len();
        let mut options = Self {
            name: String::new(),
            peer: Peer::default(),
            labels: BTreeMap::new(),
            selection: Selection::new(&[Op::Start, Op::Extend, Op::End, Op::Note]),
        };
        for (key, value) in checker.map(value, "the sink `alertmanager`", &known) {
            if options.peer.parse(checker, key, value)
                || options.selection.parse(checker, key, value)
            {
                continue;
            }
            match key.name.as_str() {
                "name" => options.name = parse_name(checker, value),
                "labels" => options.parse_labels(checker, value),
                _ => {}
            }
        }
        options.peer.check(checker, key, value, true);
        if let Some(url) = value.get("url")
            && url.scalar().is_some_and(|text| text.contains("/api/"))
        {
            let help = "for example  url: http://alertmanager:9093";
            let message = "`url` is Alertmanager's own address, without a path of its API";
            checker.node(url, message, Some(help.into()));
        }
        if value.get("name").is_none() {
            options.name = options.peer.parse_host_as_name(checker, key);
        }
        (checker.problems.len() == before).then_some(options)
    }

    fn parse_labels(&mut self, checker: &mut Checker<'_>, node: &Node) {
        let Some(members) = node.as_map() else {
            let message = format!("`labels` must be a map, not {}", node.kind_name());
            checker.node(node, message, Some("for example { team: security }".into()));
            return;
        };
        for (key, value) in members {
            let legal = key.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && key.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if !legal || key.name.starts_with("__") {
                let help = "letters, digits and _, no digit first, not __ first";
                let message = format!("`labels`: `{}` is no name of a label", key.name);
                checker.key(key, message, Some(help.into()));
            } else if OWN.contains(&key.name.as_str()) {
                let message = format!("`labels`: `{}` is set by Portcullis itself", key.name);
                checker.key(key, message, Some(format!("its own are {}", OWN.join(", "))));
            } else if let Some(text) = checker.text(value, &format!("`labels`: `{}`", key.name)) {
                self.labels.insert(key.name.clone(), text);
            }
        }
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        format!("alertmanager {}", self.name)
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, context: &Context) -> Result<Box<dyn Remote>, String> {
        Ok(Box::new(Alertmanager {
            name: self.name(),
            caller: self.peer.open(true)?,
            labels: self.labels.clone(),
            selection: self.selection.clone(),
            receives: context.receives.clone(),
            runbook_url: context.runbook_url.clone(),
            held: HashMap::new(),
        }))
    }
}

type Texts = BTreeMap<String, String>;

/// An alert.
#[derive(Debug, Clone, PartialEq)]
struct Alert {
    labels: Texts,
    annotations: Texts,
    /// None: Alertmanager's own time.
    starts: Option<Micros>,
    ends: Micros,
}

impl Alert {
    fn json(&self) -> Value {
        let mut alert = json!({
            "labels": self.labels,
            "annotations": self.annotations,
            "endsAt": time::format(self.ends),
        });
        // One that would start after its end is refused.
        if let Some(starts) = self.starts.filter(|starts| *starts < self.ends) {
            alert["startsAt"] = json!(time::format(starts));
        }
        alert
    }
}

/// What becomes of an alert that is held once it is posted.
enum Then {
    Hold(String, Alert),
    LetGo(String),
    Nothing,
}

/// The sink at work.
#[derive(Debug)]
struct Alertmanager {
    name: String,
    caller: Caller,
    labels: Texts,
    selection: Selection,
    receives: Option<Vec<String>>,
    runbook_url: Option<String>,
    /// What is active, by the decision's id.
    held: HashMap<String, Alert>,
}

impl Alertmanager {
    /// The labels that any alert has.
    fn common(&self, rule: &str, pack: &str, action: &str, mode: &str) -> Texts {
        let own = [
            ("alertname", rule),
            ("pack", pack),
            ("action", action),
            ("mode", mode),
            ("source", "portcullis"),
        ];
        let own = own.into_iter().map(|(name, text)| (name.to_owned(), label(text)));
        self.labels.clone().into_iter().chain(own).collect()
    }

    fn labels(&self, action: &Action) -> Texts {
        let mut labels = self.common(&action.rule, &action.pack, action.action, action.mode);
        let mut add = |name: &str, text: String| {
            if !text.is_empty() {
                labels.insert(name.to_owned(), label(&text));
            }
        };
        let by_class = match action.severity {
            Some("P0" | "P1") => "critical",
            Some("P2") => "warning",
            _ => "info",
        };
        add("severity", action.level.unwrap_or(by_class).to_owned());
        add("priority", action.severity.unwrap_or_default().to_owned());
        add("target_kind", action.target.kind.clone());
        add("target", action.target.text().to_owned());
        add("respond_s", action.respond_s.map(|s| s.to_string()).unwrap_or_default());
        add("escalate_s", action.escalate_s.map(|s| s.to_string()).unwrap_or_default());
        add("notify", action.notify.join(","));
        if matches!(action.op, Op::Note | Op::Withheld) {
            // It has no end that is told: never the alert of a decision.
            add("op", action.op.name().to_owned());
            add("guard", action.guard.unwrap_or_default().to_owned());
        }
        labels
    }

    fn annotations(&self, action: &Action) -> Texts {
        let runbook = action.runbook.as_ref().map(|anchor| match &self.runbook_url {
            Some(url) if anchor.starts_with('#') => format!("{url}{anchor}"),
            _ => anchor.clone(),
        });
        let short = action.shortened();

        let all = [
            ("summary", Some(short.reason)),
            ("decision", Some(action.decision.as_ref().unwrap_or(&action.id).clone())),
            ("runbook_url", runbook),
            ("count", action.count.map(|n| n.to_string())),
            ("until", action.until.clone()),
            ("users", short.users.map(|t| t.sample.join(", "))),
            ("ips", short.ips.map(|t| t.sample.join(", "))),
        ];
        let all = all.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
        all.filter(|(_, text)| !text.is_empty()).collect()
    }

    /// The alert that tells of an action, if there is anything left to tell, and what then.
    fn alert(&self, action: &Action, now: Micros) -> (Option<Alert>, Then) {
        let id = action.decision.as_ref().unwrap_or(&action.id).clone();
        let held = self.held.get(&id);
        let at = instant_of(&action.time);
        let mut alert = Alert {
            labels: held.map_or_else(|| self.labels(action), |held| held.labels.clone()),
            annotations: self.annotations(action),
            starts: held.map_or(at, |held| held.starts),
            ends: now.saturating_add(PASSING),
        };
        match action.op {
            Op::Start | Op::Extend => {
                let until = action.until.as_deref().and_then(instant_of).unwrap_or(alert.ends);
                alert.ends = held.map_or(until, |held| held.ends.max(until));
                if alert.ends <= now {
                    let goes_on = action.action == "alert" && alert.ends + PROLONGED > now;
                    if !goes_on {
                        return (None, Then::Nothing);
                    }
                    alert.ends = now.saturating_add(PROLONGED);
                }
                (Some(alert.clone()), Then::Hold(id, alert))
            }
            Op::End => {
                alert.ends = at.unwrap_or(now).min(now);
                alert.starts = held.and_then(|held| held.starts);
                // The sentence of an end says only that.
                if let Some(held) = held {
                    alert.annotations.clone_from(&held.annotations);
                }
                (Some(alert), Then::LetGo(id))
            }
            Op::Withheld | Op::Note => {
                alert.labels = self.labels(action);
                alert.starts = at;
                (Some(alert), Then::Nothing)
            }
        }
    }

    fn post(&self, alerts: &[Value]) -> Result<(), Failed> {
        let body = Value::from(alerts).to_string();
        let headers = [("content-type", "application/json")];
        let path = format!("{API}/alerts");
        self.caller.call(Method::Post, &path, &headers, Some(body.as_bytes())).map(drop)
    }

    /// The alerts of Portcullis that there are, with these labels too; none if they are too many to
    /// be read.
    fn there(&self, labels: &Texts) -> Result<Option<Vec<Alert>>, Trouble> {
        let mut path = format!("{API}/alerts?filter={}", matcher("source", "portcullis"));
        for (name, value) in labels {
            let _ = write!(path, "&filter={}", matcher(name, value));
        }
        let accept = [("accept", "application/json")];
        let answer = self.caller.call(Method::Get, &path, &accept, None);
        let answer = answer.map_err(|failed| failed.trouble)?;
        let Value::Array(list) = answer.json()? else { return Ok(None) };
        let texts = |value: &Value| -> Texts {
            let members = value.as_object().into_iter().flatten();
            let texts = members.filter_map(|(name, text)| Some((name.clone(), text.as_str()?)));
            texts.map(|(name, text)| (name, text.to_owned())).collect()
        };
        let instant = |value: &Value| value.as_str().and_then(instant_of);
        let alerts = list.iter().map(|alert| Alert {
            labels: texts(&alert["labels"]),
            annotations: texts(&alert["annotations"]),
            starts: instant(&alert["startsAt"]),
            ends: instant(&alert["endsAt"]).unwrap_or(Micros::MAX),
        });
        Ok(Some(alerts.collect()))
    }

    /// Takes up what is active and was posted before this program started, or, if Alertmanager has
    /// started anew too, makes it again from what is known of it.
    fn take_up(&mut self, unknown: &[&Decision]) -> Result<Option<String>, Trouble> {
        let rules: BTreeSet<&str> = unknown.iter().map(|d| d.rule.as_str()).collect();
        let mut untold = Vec::new();
        let mut made = 0;
        for rule in rules {
            let of_rule = BTreeMap::from([("alertname".to_owned(), label(rule))]);
            let Some(there) = self.there(&of_rule)? else {
                untold.push(rule);
                continue;
            };
            let known: HashMap<&str, &Alert> = there
                .iter()
                .filter(|alert| !alert.labels.contains_key("op"))
                .filter_map(|alert| Some((alert.annotations.get("decision")?.as_str(), alert)))
                .collect();
            for decision in unknown.iter().filter(|decision| decision.rule == rule) {
                if let Some(alert) = known.get(decision.id.as_str()) {
                    self.held.insert(decision.id.clone(), (*alert).clone());
                } else if self.receives.is_none() && self.selection.takes_started(decision.action) {
                    made += 1;
                    self.held.insert(decision.id.clone(), self.of_decision(decision));
                }
            }
        }
        Ok(match (made, untold.len()) {
            (0, 0) => None,
            (_, 0) => Some(format!("{made} alerts were not there any more")),
            _ => Some(format!("the alerts of {} are too many to be compared", untold.join(", "))),
        })
    }

    fn of_decision(&self, decision: &Decision) -> Alert {
        let Decision { rule, pack, action, mode, target, .. } = decision;
        let mut labels = self.common(rule, pack, action, mode);
        labels.insert("severity".to_owned(), "warning".to_owned());
        labels.insert("target_kind".to_owned(), label(&target.kind));
        if !target.text().is_empty() {
            labels.insert("target".to_owned(), label(target.text()));
        }
        let annotations = BTreeMap::from([
            ("summary".to_owned(), decision.reason.clone()),
            ("decision".to_owned(), decision.id.clone()),
        ]);
        Alert { labels, annotations, starts: Some(decision.started), ends: decision.until }
    }
}

impl Remote for Alertmanager {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn acts(&self) -> bool {
        false
    }

    // What waits says more of an alert than what is active does.
    fn reconciles_behind(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        self.selection.takes(action, self.receives.as_deref())
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let now = micros(now);
        let mut done = 0;
        while done < actions.len() {
            let rest = actions.get(done..).unwrap_or_default();
            // What becomes of one alert is told in its order, in calls of their own.
            let (mut about, mut of) = (HashSet::new(), HashSet::new());
            let mut count = 0;
            for action in rest.iter().take(POSTED_MAX) {
                let id = action.decision.as_ref().unwrap_or(&action.id);
                if !of.insert(id) || !about.insert((&action.rule, action.action, &action.target)) {
                    break;
                }
                count += 1;
            }
            let told: Vec<(Option<Alert>, Then)> =
                rest.iter().take(count).map(|action| self.alert(action, now)).collect();
            let alerts: Vec<Value> =
                told.iter().filter_map(|(alert, _)| Some(alert.as_ref()?.json())).collect();
            let together = if alerts.is_empty() { Ok(()) } else { self.post(&alerts) };
            let refused = match together {
                Ok(()) => false,
                // One that is bad spoils the call, not the others.
                Err(failed) if matches!(failed.status, Some(400 | 422)) => true,
                Err(failed) => return Progress::until(done, failed.trouble),
            };
            for (alert, then) in told {
                if let (true, Some(alert)) = (refused, alert)
                    && let Err(failed) = self.post(&[alert.json()])
                {
                    return Progress::until(done, failed.trouble);
                }
                match then {
                    Then::Hold(id, alert) => drop(self.held.insert(id, alert)),
                    Then::LetGo(id) => drop(self.held.remove(&id)),
                    Then::Nothing => {}
                }
                done += 1;
            }
        }
        Progress::all(actions)
    }

    fn reconcile(
        &mut self,
        active: &[Decision],
        now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        let now = micros(now);
        let active = active.iter().filter(|decision| decision.until > now);
        let active: HashMap<&str, &Decision> = active.map(|d| (d.id.as_str(), d)).collect();
        self.held.retain(|id, _| active.contains_key(id.as_str()));
        let mut unknown: Vec<&Decision> =
            active.values().filter(|d| !self.held.contains_key(&d.id)).copied().collect();
        unknown.sort_by(|a, b| a.id.cmp(&b.id));
        let mended = self.take_up(&unknown)?;
        let mut alerts = Vec::new();
        for (id, alert) in &mut self.held {
            if let Some(decision) = active.get(id.as_str()) {
                alert.ends = decision.until;
            }
            alerts.push(alert.json());
        }
        for some in alerts.chunks(POSTED_MAX) {
            self.post(some).map_err(|failed| failed.trouble)?;
        }
        Ok(mended)
    }

    fn reconcile_every(&self) -> Option<Duration> {
        Some(AGAIN)
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let accept = [("accept", "application/json")];
        let answer = self.caller.call(Method::Get, &format!("{API}/status"), &accept, None);
        let answer = answer.map_err(|failed| failed.trouble.why().to_owned())?;
        let status: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        match status["versionInfo"]["version"].as_str() {
            Some(version) => {
                let version: String =
                    version.chars().filter(|c| !c.is_control()).take(40).collect();
                Ok(format!("Alertmanager {version} answers; no alert was raised"))
            }
            None => Err("what answers there is no Alertmanager".to_owned()),
        }
    }

    fn clean(&mut self) -> Result<String, String> {
        let there = self.there(&self.labels).map_err(|trouble| trouble.why().to_owned())?;
        let there = there.ok_or("there are too many alerts to be read at once")?;
        let ended = there.iter().map(|alert| {
            let ends = alert.starts.unwrap_or(0).saturating_add(1000);
            Alert { ends, ..alert.clone() }.json()
        });
        let ended: Vec<Value> = ended.collect();
        for some in ended.chunks(POSTED_MAX) {
            self.post(some).map_err(|failed| failed.trouble.why().to_owned())?;
        }
        self.held.clear();
        Ok(format!("{} alerts were ended", ended.len()))
    }
}

/// A label's value, cut with a digest if it is very long: the same text gives the same label.
fn label(text: &str) -> String {
    digested(text, LABEL_MAX)
}

/// The text, or if it is longer than `most` bytes its beginning and a digest of all of it.
pub(super) fn digested(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let digest = Sha256::digest(text.as_bytes());
    let digest = digest.iter().take(16).fold(String::new(), |hex, b| format!("{hex}{b:02x}"));
    let mut end = most.saturating_sub(digest.len() + 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}~{digest}", text.get(..end).unwrap_or_default())
}

/// `name="value"` as it stands in an address.
fn matcher(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut out = String::new();
    for byte in format!("{name}=\"{value}\"").bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
