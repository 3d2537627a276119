//! The sink `crowdsec`: blocks go as decisions into a CrowdSec that is there already, and from it to all its
//! bouncers.
//!
//! It speaks to the Local API as a machine does: it logs in, sends alerts that carry their own decisions,
//! and deletes decisions of its own origin. CrowdSec counts a decision's duration from the alert's `stop_at`,
//! so that is the moment of sending. An extension is a second, longer decision; of two for one address
//! CrowdSec's bouncers obey the longer.

use super::Context;
use super::http::{Answer, Client, Method, encoded};
use super::remote::{Progress, Remote, Trouble, Turn, micros};
use super::secret::{Secret, SecretPlace};
use super::supabase::base;
use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op, Target};
use crate::decode::time::{self, Micros};
use crate::yaml::{Checker, Key, Node};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::SystemTime;

/// Alerts sent at once.
const BATCH: usize = 50;
/// A login is renewed so long before it ends, microseconds.
const RENEW: Micros = 60_000_000;
/// A login without a readable end is renewed after this, microseconds.
const LOGIN_LASTS: Micros = 600_000_000;
/// Decisions remembered until they end; of others a lift is sent although it may be needless.
const HELD_MAX: usize = 100_000;
const SECOND: Micros = 1_000_000;
/// Origins that are CrowdSec's own: a lift must never delete theirs.
const TAKEN: [&str; 7] =
    ["capi", "console", "crowdsec", "cscli", "cscli-import", "lists", "remediation_sync"];

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What tells it from others.
    name: Option<String>,
    /// The Local API's base.
    url: String,
    /// The machine's name.
    machine: String,
    /// Its password.
    password: SecretPlace,
    /// What its decisions say of where they come from.
    origin: String,
    /// A file with the authorities to trust.
    ca: Option<String>,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let (mut url, mut machine, mut password) = (None, None, None);
        let (mut name, mut ca, mut origin) = (None, None, "portcullis".to_owned());
        let known = ["name", "url", "machine_id", "password", "origin", "ca"];
        let before = checker.problems.len();
        for (key, value) in checker.map(value, "the sink `crowdsec`", &known) {
            let what = format!("`crowdsec.{}`", key.name);
            match key.name.as_str() {
                "name" => name = checker.text(value, &what),
                "url" => url = base(checker, value, &what),
                "machine_id" => machine = checker.text(value, &what),
                "password" => password = SecretPlace::parse(checker, value, &what),
                "origin" => origin = origin_of(checker, value, &what).unwrap_or_default(),
                "ca" => ca = checker.text(value, &what),
                _ => {}
            }
        }
        for (needed, example) in [
            ("url", "url: http://127.0.0.1:8080"),
            ("machine_id", "machine_id: portcullis, as in `cscli machines add portcullis --auto`"),
            ("password", "password: { env: CROWDSEC_PASSWORD }"),
        ] {
            if value.get(needed).is_none() {
                let help = format!("for example {example}");
                checker.key(key, format!("the sink `crowdsec` needs `{needed}`"), Some(help));
            }
        }
        (checker.problems.len() == before).then_some(Self {
            name,
            url: url?,
            machine: machine?,
            password: password?,
            origin,
            ca,
        })
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        self.name.as_ref().map_or("crowdsec".to_owned(), |name| format!("crowdsec {name}"))
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, _context: &Context) -> Result<Box<dyn Remote>, String> {
        Ok(Box::new(Crowdsec {
            options: self.clone(),
            client: Client::new(self.ca.as_deref())?,
            password: self.password.read().map_err(|error| format!("`password`: {error}"))?,
            login: None,
            held: HashMap::new(),
        }))
    }
}

fn origin_of(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let text = checker.text(value, what)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let why = match () {
        () if TAKEN.contains(&text.to_ascii_lowercase().as_str()) => {
            "is one of CrowdSec's own, whose decisions are not ours to delete"
        }
        () if text.is_empty() || text.len() > 64 || !text.chars().all(is_name) => {
            "is no short name of letters, digits, `-`, `_` and `.`"
        }
        () => return Some(text),
    };
    let help = Some("for example portcullis, or one for each instance".into());
    checker.node(value, format!("{what}: `{text}` {why}"), help);
    None
}

#[derive(Debug)]
struct Crowdsec {
    options: Options,
    client: Client,
    password: Secret,
    login: Option<Login>,
    /// When decisions end, by their ids.
    held: HashMap<String, Micros>,
}

/// What a login gives.
#[derive(Debug)]
struct Login {
    token: Secret,
    until: Micros,
}

impl Remote for Crowdsec {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        action.action == "block"
            && action.mode == "enforce"
            && matches!(action.op, Op::Start | Op::Extend | Op::End)
            && scope(&action.target).is_some()
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let (now, turn) = (micros(now), Turn::begin());
        let mut done = 0;
        while let Some(action) = actions.get(done) {
            if done > 0 && turn.is_over() {
                return Progress { done, trouble: None };
            }
            let rest = actions.get(done..).unwrap_or_default();
            let sent = match action.op {
                Op::Start | Op::Extend => {
                    let run = rest.iter().take(BATCH).take_while(|next| next.op != Op::End).count();
                    self.send(rest.get(..run).unwrap_or_default(), now)
                }
                Op::End => self.lift(action, now).map(|()| 1),
                Op::Withheld | Op::Note => Ok(1),
            };
            match sent {
                Ok(sent) => done += sent,
                Err(trouble) => return Progress::until(done, self.without_secrets(trouble)),
            }
        }
        Progress::all(actions)
    }

    fn would(&self, action: &Action) -> String {
        match (action.op, action.until.as_ref()) {
            (Op::End, _) => format!("delete the decisions against {}", action.target.text()),
            (_, Some(until)) => format!("send a ban of {} until {until}", action.target.text()),
            _ => format!("send a ban of {}", action.target.text()),
        }
    }

    fn reconcile(
        &mut self,
        active: &[Decision],
        _now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        // Decisions last in CrowdSec; whoever deletes one there means it, so none is sent anew.
        for decision in active.iter().filter(|d| d.is_enforced() && d.action == "block") {
            self.hold(decision.id.clone(), decision.until);
        }
        Ok(None)
    }

    fn test(&mut self, now: SystemTime) -> Result<String, String> {
        self.login = None;
        let logged_in = self.token(micros(now)).map(|_| ());
        logged_in.map_err(|trouble| self.without_secrets(trouble).why().to_owned())?;
        let until = self.login.as_ref().map(|login| time::format(login.until)).unwrap_or_default();
        let Options { url, machine, .. } = &self.options;
        Ok(format!("{url}: logged in as the machine {machine}, until {until}"))
    }

    fn clean(&mut self) -> Result<String, String> {
        let query = format!("type=ban&origin={}", encoded(&self.options.origin));
        let deleted = self.delete(&query, Micros::MIN);
        let deleted = deleted.map_err(|trouble| self.without_secrets(trouble).why().to_owned())?;
        Ok(format!("deleted {deleted} decisions of the origin {}", self.options.origin))
    }
}

/// What CrowdSec calls such a target.
fn scope(target: &Target) -> Option<&'static str> {
    match target.kind.as_str() {
        "ip" => Some("Ip"),
        "range" => Some("Range"),
        _ => None,
    }
}

impl Crowdsec {
    /// Sends alerts for starts and extensions; how many of them are done.
    fn send(&mut self, actions: &[Action], now: Micros) -> Result<usize, Trouble> {
        let alerts: Vec<Value> = actions.iter().filter_map(|one| self.alert(one, now)).collect();
        if !alerts.is_empty() {
            let body = Value::Array(alerts);
            match self.call(Method::Post, "/v1/alerts", Some(&body), now) {
                Ok(answer) if answer.is_ok() => {}
                Ok(answer) => match meaning(&answer) {
                    // One of them is wrong: each by itself, so that only that one is passed over.
                    Trouble::Refused { .. } if actions.len() > 1 => {
                        return self.send(actions.get(..1).unwrap_or_default(), now);
                    }
                    trouble => return Err(trouble),
                },
                Err(trouble) => return Err(trouble),
            }
        }
        for action in actions {
            if let Some(until) = action.until.as_deref().and_then(instant_of) {
                let id = action.decision.clone().unwrap_or_else(|| action.id.clone());
                self.hold(id, until);
            }
        }
        Ok(actions.len())
    }

    /// An alert with its decision; none if there is nothing left of it.
    fn alert(&self, action: &Action, now: Micros) -> Option<Value> {
        let until = action.until.as_deref().and_then(instant_of)?;
        if until <= now {
            return None;
        }
        let scope = scope(&action.target)?;
        let value = action.target.text();
        let seconds = (until - now + SECOND - 1).div_euclid(SECOND).max(1);
        let first = action.first_seen.as_deref().unwrap_or(&action.time);
        let began = instant_of(first).unwrap_or(now).min(now);
        let mut source = json!({ "scope": scope, "value": value });
        let kind = if scope == "Ip" { "ip" } else { "range" };
        if let Some(source) = source.as_object_mut() {
            source.insert(kind.to_owned(), value.into());
        }
        Some(json!({
            "scenario": action.rule,
            "scenario_hash": "",
            "scenario_version": "",
            "message": action.reason,
            "events_count": action.count.unwrap_or(1),
            "start_at": time::format(began),
            "stop_at": time::format(now),
            "capacity": 0,
            "leakspeed": format!("{}s", action.window_s.unwrap_or_default()),
            "simulated": false,
            "events": [],
            "source": source,
            "decisions": [{
                "origin": self.options.origin,
                "type": "ban",
                "scope": scope,
                "value": value,
                "duration": format!("{seconds}s"),
                "scenario": action.rule,
            }],
        }))
    }

    /// Deletes our decisions against a target, if they would go on.
    fn lift(&mut self, action: &Action, now: Micros) -> Result<(), Trouble> {
        let id = action.decision.clone().unwrap_or_default();
        if let Some(until) = self.held.get(&id)
            && (*until <= now || instant_of(&action.time) >= Some(*until))
        {
            // It ends by itself, although the stream's clock may be before ours.
            self.held.remove(&id);
            return Ok(());
        }
        let query = format!(
            "scopes={}&value={}&type=ban&origin={}",
            scope(&action.target).unwrap_or_default(),
            encoded(action.target.text()),
            encoded(&self.options.origin)
        );
        self.delete(&query, now)?;
        self.held.remove(&id);
        Ok(())
    }

    /// Deletes decisions; how many.
    fn delete(&mut self, query: &str, now: Micros) -> Result<String, Trouble> {
        let answer = self.call(Method::Delete, &format!("/v1/decisions?{query}"), None, now)?;
        if !answer.is_ok() {
            return Err(meaning(&answer));
        }
        let value = answer.json()?;
        let deleted = value.get("nbDeleted").and_then(Value::as_str).map(str::to_owned);
        deleted.ok_or_else(|| Trouble::later("the answer has no `nbDeleted`: is this CrowdSec?"))
    }

    fn hold(&mut self, id: String, until: Micros) {
        if self.held.len() >= HELD_MAX {
            let first = self.held.iter().min_by_key(|(_, until)| **until);
            let first = first.map(|(id, _)| id.clone());
            first.and_then(|first| self.held.remove(&first));
        }
        self.held.insert(id, until);
    }

    /// Calls as the machine, and once more with a new login if the old one is not taken.
    fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        now: Micros,
    ) -> Result<Answer, Trouble> {
        let url = format!("{}{path}", self.options.url);
        let body = body.map(Value::to_string);
        let mut answer = None;
        for _ in 0..2 {
            let bearer = format!("Bearer {}", self.token(now)?);
            let headers =
                [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let bytes = body.as_deref().map(str::as_bytes);
            let given = self.client.call(method, &url, &headers, bytes)?;
            if given.status != 401 {
                return Ok(given);
            }
            self.login = None;
            answer = Some(given);
        }
        answer.ok_or_else(|| Trouble::later("there was no answer"))
    }

    /// The token of a login that lasts.
    fn token(&mut self, now: Micros) -> Result<String, Trouble> {
        if let Some(login) = &self.login
            && now < login.until.saturating_sub(RENEW)
        {
            return Ok(login.token.reveal().to_owned());
        }
        let url = format!("{}/v1/watchers/login", self.options.url);
        let Options { machine, .. } = &self.options;
        let password = self.password.reveal();
        let body = json!({ "machine_id": machine, "password": password, "scenarios": [] });
        let headers = [("content-type", "application/json")];
        let answer =
            self.client.call(Method::Post, &url, &headers, Some(body.to_string().as_bytes()))?;
        if matches!(answer.status, 401 | 403) {
            let why = format!(
                "{}; CrowdSec does not know the machine {machine} with this password, or it is not \
                 validated: see `cscli machines list`",
                answer.trouble().why()
            );
            return Err(Trouble::Later { why, after: None });
        }
        if !answer.is_ok() {
            return Err(meaning(&answer));
        }
        let value = answer.json()?;
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let Some(token) = text("token").filter(|token| !token.is_empty()) else {
            return Err(Trouble::later("the login gave no token: is this CrowdSec's Local API?"));
        };
        let until = text("expire").and_then(instant_of);
        let until = until.unwrap_or_else(|| now.saturating_add(LOGIN_LASTS));
        self.login = Some(Login { token: Secret::new(token), until });
        Ok(token.to_owned())
    }

    /// A server may repeat what it was sent.
    fn without_secrets(&self, trouble: Trouble) -> Trouble {
        let clean = |why: String| {
            let why = why.replace(self.password.reveal(), "(the password)");
            match &self.login {
                Some(login) => why.replace(login.token.reveal(), "(the token)"),
                None => why,
            }
        };
        match trouble {
            paced @ Trouble::Paced { .. } => paced,
            Trouble::Later { why, after } => Trouble::Later { why: clean(why), after },
            Trouble::Refused { why } => Trouble::Refused { why: clean(why) },
            Trouble::Disabled { why } => Trouble::Disabled { why: clean(why) },
        }
    }
}

/// What an answer means that is not 2xx. CrowdSec answers 500 also to what it will never take.
fn meaning(answer: &Answer) -> Trouble {
    let never = ["validation failure", "invalid filter", "unable to convert"];
    match answer.trouble() {
        Trouble::Later { why, .. }
            if answer.status == 500 && never.iter().any(|text| answer.body.contains(text)) =>
        {
            Trouble::Refused { why }
        }
        // A login can be mended, and then the bans are still to be sent.
        Trouble::Refused { why } if matches!(answer.status, 401 | 403) => {
            Trouble::Later { why, after: None }
        }
        trouble => trouble,
    }
}
