//! The sink `webhook`: each action as a message to an address, signed by Standard Webhooks.
//!
//! The signature covers the message's id, the time of the attempt and the body, so a receiver
//! knows who sent it, and takes neither a changed nor an old one. The id is the action's, the same
//! for every attempt: whoever remembers it does nothing twice.

use super::Context;
use super::http::Method;
use super::pace::Pace;
use super::peer::{Caller, Peer};
use super::remote::{Progress, Remote, Trouble, one_by_one};
use super::secret::{Secret, SecretPlace};
use super::selection::Selection;
use crate::action::forms::slack_of_many;
use crate::action::{Action, Op};
use crate::yaml::{Checker, Key, Node};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a message: what Standard Webhooks advises receivers to take.
const BODY_MAX: usize = 20_000;
/// Bytes of a key by Standard Webhooks.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Keys with which one message is signed.
const SECRETS_MAX: usize = 4;

/// How an action is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The line, in a message with a type.
    Json,
    /// The Elastic Common Schema.
    Ecs,
    /// An OCSF Detection Finding.
    Ocsf,
    /// A CloudEvents envelope with the line.
    CloudEvents,
    /// Words for people, as Slack takes them.
    Slack,
}

const FORMS: [(&str, Form); 5] = [
    ("json", Form::Json),
    ("ecs", Form::Ecs),
    ("ocsf", Form::Ocsf),
    ("cloudevents", Form::CloudEvents),
    ("slack", Form::Slack),
];

impl Form {
    fn render(self, action: &Action) -> String {
        match self {
            Form::Json => action.message(),
            Form::Ecs => action.ecs(),
            Form::Ocsf => action.ocsf(),
            Form::CloudEvents => action.cloud_event(),
            Form::Slack => action.slack(),
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Form::CloudEvents => "application/cloudevents+json; charset=UTF-8",
            _ => "application/json",
        }
    }

    /// What it tells if nothing else is said: people need not be told what ends by itself.
    fn usual(self) -> &'static [Op] {
        match self {
            Form::Slack => &[Op::Start, Op::Note],
            _ => &[Op::Start, Op::Extend, Op::End, Op::Note],
        }
    }
}

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    name: String,
    peer: Peer,
    secrets: Vec<SecretPlace>,
    form: Form,
    selection: Selection,
    max_messages_per_minute: u32,
    enforces: bool,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let own = ["name", "secret", "form", "max_messages_per_minute", "enforces"];
        let known = [&own[..], &Peer::KEYS, &Selection::KEYS].concat();
        let before = checker.problems.len();
        let members = checker.map(value, "the sink `webhook`", &known);
        // What it tells by default depends on the form, wherever that stands.
        let written = value.get("form");
        let form = written.and_then(|node| checker.word(node, "`form`", &FORMS));
        let form = form.unwrap_or(Form::Json);
        let mut options = Self {
            name: String::new(),
            peer: Peer::default(),
            secrets: Vec::new(),
            form,
            selection: Selection::new(form.usual()),
            max_messages_per_minute: 0,
            enforces: false,
        };
        for (key, value) in members {
            if options.peer.parse(checker, key, value)
                || options.selection.parse(checker, key, value)
            {
                continue;
            }
            match key.name.as_str() {
                "name" => options.name = super::peer::parse_name(checker, value),
                "secret" => options.parse_secrets(checker, value),
                "max_messages_per_minute" => {
                    let rate = checker.int(value, "`max_messages_per_minute`", 0..=60_000);
                    options.max_messages_per_minute =
                        rate.and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
                }
                "enforces" => {
                    options.enforces = checker.bool(value, "`enforces`").unwrap_or(false);
                }
                _ => {}
            }
        }
        options.peer.check(checker, key, value, false);
        if value.get("name").is_none() {
            options.name = options.peer.parse_host_as_name(checker, key);
        }
        (checker.problems.len() == before).then_some(options)
    }

    fn parse_secrets(&mut self, checker: &mut Checker<'_>, node: &Node) {
        let places = node.as_list();
        if places.is_empty() || places.len() > SECRETS_MAX {
            let help = "one, or two while a receiver changes from the old to the new";
            let message = format!("`secret` must be 1 to {SECRETS_MAX} places of secrets");
            checker.node(node, message, Some(help.into()));
        }
        for place in places {
            self.secrets.extend(SecretPlace::parse(checker, place, "`secret`"));
        }
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        format!("webhook {}", self.name)
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, context: &Context) -> Result<Box<dyn Remote>, String> {
        let mut keys = Vec::new();
        for place in &self.secrets {
            let key = signing_key(&place.read()?);
            keys.push(key.map_err(|why| format!("`secret`: what is in {place} {why}"))?);
        }
        Ok(Box::new(Webhook {
            name: self.name(),
            caller: self.peer.open(false)?,
            keys,
            form: self.form,
            selection: self.selection.clone(),
            receives: context.receives.clone(),
            pace: Pace::new(self.max_messages_per_minute),
            crowded: false,
            enforces: self.enforces,
        }))
    }
}

/// A key that signs.
struct SigningKey(Vec<u8>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// The key in a secret of Standard Webhooks. The message does not repeat the secret.
fn signing_key(secret: &Secret) -> Result<SigningKey, String> {
    const HELP: &str = "make one with  echo whsec_$(openssl rand -base64 32)";
    let Some(text) = secret.reveal().strip_prefix("whsec_") else {
        if secret.reveal().starts_with("whsk_") {
            return Err(format!("is a key pair's; only shared keys can be used: {HELP}"));
        }
        return Err(format!("must begin with whsec_: {HELP}"));
    };
    let key = STANDARD.decode(text).map_err(|_| format!("is no base64 after whsec_: {HELP}"))?;
    if !KEY_BYTES.contains(&key.len()) {
        let (least, most) = (KEY_BYTES.start(), KEY_BYTES.end());
        return Err(format!("has {} bytes, not {least} to {most}: {HELP}", key.len()));
    }
    Ok(SigningKey(key))
}

impl SigningKey {
    /// The signature, as one word of the header.
    fn sign(&self, id: &str, timestamp: &str, body: &str) -> String {
        // Any length of key is one for HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        for part in [id, ".", timestamp, ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The sink at work.
#[derive(Debug)]
struct Webhook {
    name: String,
    caller: Caller,
    keys: Vec<SigningKey>,
    form: Form,
    selection: Selection,
    receives: Option<Vec<String>>,
    pace: Pace,
    /// The receiver asked for fewer messages: what waits is told in one, where words are told.
    crowded: bool,
    enforces: bool,
}

impl Webhook {
    fn body(&self, action: &Action) -> Result<String, Trouble> {
        let body = self.form.render(action);
        if body.len() < BODY_MAX {
            return Ok(body);
        }
        let body = self.form.render(&action.shortened());
        if body.len() < BODY_MAX {
            return Ok(body);
        }
        Err(Trouble::refused(format!("the message would be longer than {BODY_MAX} bytes")))
    }

    fn send(&mut self, id: &str, body: &str, now: SystemTime) -> Result<u16, Trouble> {
        self.pace.take().map_err(|wait| Trouble::Paced { wait })?;
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
        let signatures: Vec<String> =
            self.keys.iter().map(|key| key.sign(id, &timestamp, body)).collect();
        let signatures = signatures.join(" ");
        let mut headers = vec![
            ("content-type", self.form.content_type()),
            ("webhook-id", id),
            ("webhook-timestamp", &timestamp),
        ];
        if !self.keys.is_empty() {
            headers.push(("webhook-signature", &signatures));
        }
        match self.caller.call(Method::Post, "", &headers, Some(body.as_bytes())) {
            Ok(answer) => {
                self.crowded = false;
                Ok(answer.status)
            }
            Err(failed) => {
                self.crowded = failed.status == Some(429);
                if failed.status == Some(410) {
                    let why = format!("{}: it is gone", failed.trouble.why());
                    return Err(Trouble::Disabled { why });
                }
                Err(failed.trouble)
            }
        }
    }

    /// Tells of all of them at once.
    fn send_many(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let mut hash = Sha256::new();
        actions.iter().for_each(|action| hash.update(&action.id));
        // Others of them may wait at the next attempt; then it is another message.
        let id = hash.finalize().iter().take(8).fold(String::new(), |id, b| format!("{id}{b:02x}"));
        match self.send(&id, &slack_of_many(actions), now) {
            Ok(_) => Progress::all(actions),
            Err(trouble) => Progress::until(0, trouble),
        }
    }
}

impl Remote for Webhook {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn acts(&self) -> bool {
        self.enforces
    }

    fn wants(&self, action: &Action) -> bool {
        // Who enforces what it is told is not told what nobody is to enforce.
        (!self.enforces || action.mode == "enforce")
            && self.selection.takes(action, self.receives.as_deref())
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let folds = self.form == Form::Slack && (self.pace.is_limited() || self.crowded);
        if folds && actions.len() > 1 {
            return self.send_many(actions, now);
        }
        one_by_one(actions, |action| {
            let body = self.body(action)?;
            self.send(&action.id, &body, now).map(drop)
        })
    }

    fn test(&mut self, now: SystemTime) -> Result<String, String> {
        let at = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        let action = Action::test(i64::try_from(at).unwrap_or(0));
        let status = self
            .body(&action)
            .and_then(|body| self.send(&action.id, &body, now))
            .map_err(|trouble| trouble.why().to_owned())?;
        let signed = match self.keys.len() {
            0 => "not signed: there is no `secret`".to_owned(),
            1 => "signed".to_owned(),
            n => format!("signed with {n} secrets"),
        };
        Ok(format!("a test message (portcullis.test, {signed}) was answered with {status}"))
    }
}
