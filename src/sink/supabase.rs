//! The sink `supabase`: locks accounts of Supabase Auth, and asks them for a second factor.
//!
//! A lock is a ban for what is left of the decision: it ends by itself, also if nobody is there any more.
//! The admin API knows users by their UUID; an e-mail address is looked up and compared as a whole, since
//! the filter of the API finds parts. Whoever does not come out as exactly one user is left alone.
//!
//! Only what this sink set is taken back. A ban that lasts longer than ours is somebody else's, and a
//! demand for a second factor says in a field beside it whose it is.

use super::Context;
use super::http::{Answer, Client, Method, encoded};
use super::remote::{Progress, Remote, Trouble, micros, one_by_one};
use super::secret::{Secret, SecretPlace};
use crate::action::decision::{Decision, instant_of};
use crate::action::identity::{EMAIL_MAX, Identities, canonical_user, is_uuid};
use crate::action::{Action, Op, Target, escape};
use crate::decode::time::Micros;
use crate::yaml::{Checker, Key, Node};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a user that was found is taken to be the same.
const FOUND_FOR: Duration = Duration::from_secs(600);
/// Users remembered; then all are looked up again.
const FOUND_MAX: usize = 10_000;
/// Decisions remembered until they end; then the ones that end first go, whose bans end by themselves.
const HELD_MAX: usize = 100_000;
/// Users on a page of the admin API.
const PAGE: usize = 50;
/// Pages that are looked through: whoever needs more has a name that is part of 2,000 others.
const PAGES_MAX: usize = 40;
/// Bans end a little before or after the decision: calls take their time, and the API counts whole
/// seconds.
const SLACK: Micros = 5_000_000;
const SECOND: Micros = 1_000_000;

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What tells it from others.
    name: Option<String>,
    /// The project's base.
    url: String,
    /// The service role's key.
    key: SecretPlace,
    /// A file with the authorities to trust.
    ca: Option<String>,
    /// The field of `app_metadata` that demands a second factor.
    flag: Option<String>,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let (mut url, mut secret, mut name, mut ca, mut flag) = (None, None, None, None, None);
        let known = ["name", "url", "key", "ca", "require_2fa"];
        let before = checker.problems.len();
        for (key, value) in checker.map(value, "the sink `supabase`", &known) {
            let what = format!("`supabase.{}`", key.name);
            match key.name.as_str() {
                "name" => name = checker.text(value, &what),
                "url" => url = base(checker, value, &what),
                "key" => secret = SecretPlace::parse(checker, value, &what),
                "ca" => ca = checker.text(value, &what),
                "require_2fa" => flag = flag_of(checker, value, &what),
                _ => {}
            }
        }
        for (needed, example) in [
            ("url", "url: https://PROJECT.supabase.co"),
            ("key", "key: { env: SUPABASE_SERVICE_ROLE_KEY }"),
        ] {
            if value.get(needed).is_none() {
                let help = format!("for example {example}");
                checker.key(key, format!("the sink `supabase` needs `{needed}`"), Some(help));
            }
        }
        (checker.problems.len() == before).then_some(Self {
            name,
            url: url?,
            key: secret?,
            ca,
            flag,
        })
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        self.name.as_ref().map_or("supabase".to_owned(), |name| format!("supabase {name}"))
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, context: &Context) -> Result<Box<dyn Remote>, String> {
        Ok(Box::new(Supabase {
            options: self.clone(),
            client: Client::new(self.ca.as_deref())?,
            secret: self.key.read().map_err(|error| format!("`key`: {error}"))?,
            identities: Arc::clone(&context.identities),
            found: HashMap::new(),
            held: HashMap::new(),
        }))
    }
}

/// Reads the base of an API: a URL without a path's end, a query or a password in it.
pub(super) fn base(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let text = checker.text(value, what)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let why = match rest {
        None => "it must begin with https:// or http://",
        Some(rest) if rest.contains('@') => "a password has no place in it",
        Some(rest)
            if rest.contains(['?', '#', ' ', '\\']) || rest.chars().any(char::is_control) =>
        {
            "it must be a server, perhaps with a path"
        }
        Some(rest) if rest.trim_matches('/').is_empty() || rest.starts_with(['/', ':']) => {
            "it names no server"
        }
        Some(_) => return Some(text.trim_end_matches('/').to_owned()),
    };
    let help = Some("for example https://example.org".to_owned());
    // What stands there may hold a password: it is not repeated.
    checker.at(value.place, 1, format!("{what}: {why}"), help);
    None
}

fn flag_of(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let mut flag = None;
    for (key, value) in checker.map(value, what, &["app_metadata_key"]) {
        let text = checker.text(value, &format!("`{}`", key.name))?;
        let taken = ["provider", "providers"].contains(&text.as_str());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if taken || text.is_empty() || !text.chars().all(is_name) {
            let message = format!("{what}: `{text}` cannot be the name of such a field");
            checker.node(value, message, Some("for example require_mfa".into()));
            return None;
        }
        flag = Some(text);
    }
    if flag.is_none() {
        let help = "for example { app_metadata_key: require_mfa }, which the application obeys";
        checker.node(value, format!("{what} needs `app_metadata_key`"), Some(help.into()));
    }
    flag
}

/// What a decision still holds.
#[derive(Debug, Clone)]
struct Held {
    target: Target,
    is_lock: bool,
    /// When it ends.
    until: Micros,
    /// The user that it was carried out on, once that is known.
    user: Option<String>,
    /// Until when the user was banned before, by somebody else.
    before: Option<Micros>,
}

#[derive(Debug)]
struct Supabase {
    options: Options,
    client: Client,
    secret: Secret,
    identities: Arc<Identities>,
    /// UUIDs by e-mail address, with when they were found.
    found: HashMap<String, (String, SystemTime)>,
    /// By the ids of decisions.
    held: HashMap<String, Held>,
}

/// A user as the API has it.
struct User {
    banned_until: Option<Micros>,
    metadata: Map<String, Value>,
}

impl User {
    fn of(answer: &Answer) -> Result<Self, Trouble> {
        let value = answer.json()?;
        if value.get("id").is_none() {
            return Err(Trouble::later("the answer is no user: is this Supabase Auth?"));
        }
        let metadata = value.get("app_metadata").and_then(Value::as_object);
        Ok(Self {
            banned_until: value.get("banned_until").and_then(Value::as_str).and_then(instant_of),
            metadata: metadata.cloned().unwrap_or_default(),
        })
    }
}

impl Remote for Supabase {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        let does = action.action == "lock"
            || (action.action == "require_2fa" && self.options.flag.is_some());
        does && action.mode == "enforce"
            && matches!(action.op, Op::Start | Op::Extend | Op::End)
            && matches!(action.target.kind.as_str(), "user" | "user_id")
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        one_by_one(actions, |action| {
            let carried = match action.op {
                Op::Start | Op::Extend => self.begin(action, now),
                Op::End => self.end(action, now),
                Op::Withheld | Op::Note => Ok(()),
            };
            carried.map_err(|trouble| self.without_secret(trouble))
        })
    }

    fn would(&self, action: &Action) -> String {
        let what = match (action.op, action.action) {
            (Op::End, "lock") => "lift the ban of",
            (_, "lock") => "ban",
            (Op::End, _) => "no longer demand a second factor of",
            _ => "demand a second factor of",
        };
        let until = action.until.as_ref().map(|until| format!(" until {until}"));
        format!("{what} the user {}{}", escape(action.target.text()), until.unwrap_or_default())
    }

    fn reconcile(
        &mut self,
        active: &[Decision],
        _now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        // What was set before this start is known again. Whoever lifted a ban by hand meant it: nothing
        // is set anew.
        for decision in active.iter().filter(|decision| decision.is_enforced()) {
            if !self.held.contains_key(&decision.id) && self.does(decision.action) {
                let (target, is_lock) = (decision.target.clone(), decision.action == "lock");
                let until = decision.until;
                let held = Held { target, is_lock, until, user: None, before: None };
                self.hold(decision.id.clone(), held);
            }
        }
        Ok(None)
    }

    fn lacks(&self, ending: &Action) -> bool {
        let id = ending.decision.as_deref().unwrap_or_default();
        ending.op == Op::End && ending.action == "lock" && !self.held.contains_key(id)
    }

    fn recall(&mut self, decision: &Decision, until: Micros) {
        let (target, is_lock) = (decision.target.clone(), decision.action == "lock");
        let held = Held { target, is_lock, until, user: None, before: None };
        self.hold(decision.id.clone(), held);
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let url = format!("{}/auth/v1/admin/users?page=1&per_page=1", self.options.url);
        let answer = self.call(Method::Get, &url, None);
        let answer = answer.map_err(|trouble| self.without_secret(trouble).why().to_owned())?;
        let is_list = serde_json::from_str::<Value>(&answer.body)
            .is_ok_and(|value| value.get("users").is_some_and(Value::is_array));
        match answer.status {
            200 if is_list => {
                Ok(format!("{}: the key is a service role's and may read users", self.options.url))
            }
            401 | 403 => Err(format!(
                "{}: the key from {} may not administer users ({}): it must be the service role's \
                 key, not the anonymous one",
                self.options.url, self.options.key, answer.status
            )),
            200 => Err(format!(
                "{}: the answer is no list of users: is this the project's base?",
                self.options.url
            )),
            _ => Err(self.without_secret(answer.trouble()).why().to_owned()),
        }
    }
}

impl Supabase {
    fn does(&self, action: &str) -> bool {
        action == "lock" || (action == "require_2fa" && self.options.flag.is_some())
    }

    /// Carries out a start or an extension.
    fn begin(&mut self, action: &Action, now: SystemTime) -> Result<(), Trouble> {
        let until = action.until.as_deref().and_then(instant_of);
        let until = until.ok_or_else(|| Trouble::refused("the line has no `until`"))?;
        let now = micros(now);
        if until <= now {
            // It came so late that there is nothing left of it.
            return Ok(());
        }
        let user = self.resolve(&action.target, now)?;
        let is_lock = action.action == "lock";
        let now_it_has =
            self.user(&user).inspect_err(|trouble| self.lost(&action.target, trouble))?;
        let id = action.decision.clone().unwrap_or_else(|| action.id.clone());
        let mut before = self.held.get(&id).and_then(|held| held.before);
        if is_lock {
            // A longer ban is there already, ours or somebody else's.
            if now_it_has.banned_until.is_none_or(|ends| ends + SLACK < until) {
                self.ban(&user, until, now)?;
                let there = now_it_has.banned_until.filter(|ends| now < *ends);
                before = before.or(there.filter(|ends| !self.is_ours(&user, *ends)));
            }
        } else if let Some(flag) = self.options.flag.clone()
            && now_it_has.metadata.get(&flag) != Some(&Value::Bool(true))
        {
            self.change(&user, &json!({ flag.clone(): true, owner(&flag): OWNER }))?;
        }
        let target = action.target.clone();
        self.hold(id, Held { target, is_lock, until, user: Some(user), before });
        Ok(())
    }

    /// Takes back what a decision had set.
    fn end(&mut self, action: &Action, now: SystemTime) -> Result<(), Trouble> {
        let now = micros(now);
        let id = action.decision.clone().unwrap_or_default();
        let held = self.held.get(&id).cloned();
        let is_lock = action.action == "lock";
        if is_lock {
            match &held {
                // It ends by itself, although the stream's clock may be before ours.
                Some(held) if held.until <= now || instant_of(&action.time) >= Some(held.until) => {
                    self.held.remove(&id);
                    return Ok(());
                }
                Some(_) => {}
                // Nobody knows until when it was to last; a ban that is there may be anybody's.
                None => return Ok(()),
            }
        }
        let user = match held.as_ref().and_then(|held| held.user.clone()) {
            Some(user) => user,
            None => self.resolve(&action.target, now)?,
        };
        let has = match self.user(&user) {
            // Who is gone is not locked.
            Err(Trouble::Refused { .. }) => {
                self.held.remove(&id);
                return Ok(());
            }
            other => other?,
        };
        let rest = self.rest(&id, is_lock, &user, now);
        if is_lock {
            let (ours, before) = held.map_or((0, None), |held| (held.until, held.before));
            let is_ours = has
                .banned_until
                .is_some_and(|ends| now < ends && ends.abs_diff(ours) <= SLACK.unsigned_abs());
            match rest.max(before.filter(|until| now < *until)) {
                Some(until) if is_ours => self.ban(&user, until, now)?,
                None if is_ours => self.change_whole(&user, &json!({ "ban_duration": "none" }))?,
                _ => {}
            }
        } else if let Some(flag) = self.options.flag.clone()
            && rest.is_none()
            && has.metadata.get(&owner(&flag)).and_then(Value::as_str) == Some(OWNER)
        {
            self.change(&user, &json!({ flag.clone(): null, owner(&flag): null }))?;
        }
        self.held.remove(&id);
        Ok(())
    }

    /// Until when other decisions hold the same user.
    fn rest(&mut self, id: &str, is_lock: bool, user: &str, now: Micros) -> Option<Micros> {
        let others = self.held.iter().filter(|(other, held)| {
            other.as_str() != id && held.is_lock == is_lock && now < held.until
        });
        let mut rest = None;
        let mut unknown = Vec::new();
        for (_, held) in others {
            match &held.user {
                Some(other) if other == user => rest = rest.max(Some(held.until)),
                Some(_) => {}
                None => unknown.push((held.target.clone(), held.until)),
            }
        }
        // Of those from before this start only the spelling is known: the same user by another one is
        // known without a call, or not at all.
        let same = unknown
            .into_iter()
            .filter(|(target, _)| self.known(target, now).as_deref() == Some(user));
        rest.max(same.map(|(_, until)| until).max())
    }

    /// Whether a ban of a user is one that this sink set.
    fn is_ours(&self, user: &str, ends: Micros) -> bool {
        let mut mine = self.held.values().filter(|held| held.is_lock);
        mine.any(|held| {
            // Of one from before this start the user may not be known.
            held.user.as_deref().is_none_or(|own| own == user) && (held.until - ends).abs() <= SLACK
        })
    }

    fn hold(&mut self, id: String, held: Held) {
        if self.held.len() >= HELD_MAX {
            let first = self.held.iter().min_by_key(|(_, held)| held.until);
            let first = first.map(|(id, _)| id.clone());
            first.and_then(|first| self.held.remove(&first));
        }
        self.held.insert(id, held);
    }

    fn ban(&self, user: &str, until: Micros, now: Micros) -> Result<(), Trouble> {
        let seconds = (until - now + SECOND - 1).div_euclid(SECOND).max(1);
        self.change_whole(user, &json!({ "ban_duration": format!("{seconds}s") }))
    }

    /// The API merges these into what is there, and takes `null` away.
    fn change(&self, user: &str, metadata: &Value) -> Result<(), Trouble> {
        self.change_whole(user, &json!({ "app_metadata": metadata }))
    }

    fn change_whole(&self, user: &str, body: &Value) -> Result<(), Trouble> {
        let answer = self.call(Method::Put, &self.of_user(user), Some(body))?;
        if answer.is_ok() { Ok(()) } else { Err(meaning(&answer)) }
    }

    fn user(&self, user: &str) -> Result<User, Trouble> {
        let answer = self.call(Method::Get, &self.of_user(user), None)?;
        if answer.is_ok() { User::of(&answer) } else { Err(meaning(&answer)) }
    }

    fn of_user(&self, user: &str) -> String {
        format!("{}/auth/v1/admin/users/{user}", self.options.url)
    }

    /// The user that a target is, if that is known without asking.
    fn known(&self, target: &Target, now: Micros) -> Option<String> {
        let text = target.text();
        if target.kind == "user_id" {
            return is_uuid(text).then(|| text.to_owned());
        }
        if let Some(id) = self.identities.id(text) {
            return is_uuid(id).then(|| id.to_owned());
        }
        let (user, since) = self.found.get(text)?;
        let age = now - micros(*since);
        let short = Micros::try_from(FOUND_FOR.as_micros()).unwrap_or(Micros::MAX);
        (0..short).contains(&age).then(|| user.clone())
    }

    /// The one user that a target is.
    fn resolve(&mut self, target: &Target, now: Micros) -> Result<String, Trouble> {
        if let Some(user) = self.known(target, now) {
            return Ok(user);
        }
        let text = target.text();
        if target.kind == "user_id" {
            let why = format!("the user id `{text}` is no UUID, and Supabase has no other ids");
            return Err(Trouble::Refused { why });
        }
        if self.identities.id(text).is_some() {
            let why = format!("the id that `identities` has for {text} is no UUID");
            return Err(Trouble::Refused { why });
        }
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if !text.contains('@') || text.len() > EMAIL_MAX || text.contains(odd) {
            let text = escape(text);
            let why = format!("`{text}` is no e-mail address: `identities` would say whose it is");
            return Err(Trouble::Refused { why });
        }
        let user = self.look_up(text)?;
        if self.found.len() >= FOUND_MAX {
            self.found.clear();
        }
        let since = UNIX_EPOCH + Duration::from_micros(u64::try_from(now).unwrap_or_default());
        self.found.insert(text.to_owned(), (user.clone(), since));
        Ok(user)
    }

    /// Looks an e-mail address up, which must be that of one user.
    fn look_up(&self, email: &str) -> Result<String, Trouble> {
        let mut same: Vec<String> = Vec::new();
        for page in 1..=PAGES_MAX {
            let url = format!(
                "{}/auth/v1/admin/users?page={page}&per_page={PAGE}&filter={}",
                self.options.url,
                encoded(email)
            );
            let answer = self.call(Method::Get, &url, None)?;
            if !answer.is_ok() {
                return Err(meaning(&answer));
            }
            let value = answer.json()?;
            let Some(users) = value.get("users").and_then(Value::as_array) else {
                return Err(Trouble::later(
                    "the answer is no list of users: is this Supabase Auth?",
                ));
            };
            for user in users {
                let text = |name: &str| user.get(name).and_then(Value::as_str).unwrap_or_default();
                let id = text("id").to_ascii_lowercase();
                if canonical_user(text("email")).as_deref() == Some(email) && !same.contains(&id) {
                    same.push(id);
                }
            }
            if users.len() < PAGE {
                return match &same[..] {
                    [user] if is_uuid(user) => Ok(user.clone()),
                    [_] => Err(Trouble::later("the answer has a user whose id is no UUID")),
                    [] => Err(Trouble::refused(format!("no user has the e-mail address {email}"))),
                    more => {
                        let n = more.len();
                        let why =
                            format!("{n} users have the e-mail address {email}: none is touched");
                        Err(Trouble::refused(why))
                    }
                };
            }
        }
        let most = PAGE * PAGES_MAX;
        Err(Trouble::refused(format!(
            "more than {most} users have {email} in theirs: none is touched"
        )))
    }

    /// A user that is gone is looked up again next time.
    fn lost(&mut self, target: &Target, trouble: &Trouble) {
        if matches!(trouble, Trouble::Refused { .. }) {
            self.found.remove(target.text());
        }
    }

    fn call(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, Trouble> {
        let bearer = format!("Bearer {}", self.secret.reveal());
        let headers = [
            ("apikey", self.secret.reveal()),
            ("authorization", bearer.as_str()),
            ("x-supabase-api-version", "2024-01-01"),
            ("content-type", "application/json"),
        ];
        let body = body.map(Value::to_string);
        self.client.call(method, url, &headers, body.as_deref().map(str::as_bytes))
    }

    /// A server may repeat what it was sent.
    fn without_secret(&self, trouble: Trouble) -> Trouble {
        let clean = |why: String| why.replace(self.secret.reveal(), "(the key)");
        match trouble {
            paced @ Trouble::Paced { .. } => paced,
            Trouble::Later { why, after } => Trouble::Later { why: clean(why), after },
            Trouble::Refused { why } => Trouble::Refused { why: clean(why) },
            Trouble::Disabled { why } => Trouble::Disabled { why: clean(why) },
        }
    }
}

/// Who demands a second factor stands beside the demand.
const OWNER: &str = "portcullis";

fn owner(flag: &str) -> String {
    format!("{flag}_by")
}

/// What an answer means that is not 2xx. A key can be mended, and then the locks are still to be made.
fn meaning(answer: &Answer) -> Trouble {
    let trouble = answer.trouble();
    if matches!(answer.status, 401 | 403) {
        let why = format!("{}; `key` must be the service role's", trouble.why());
        return Trouble::Later { why, after: None };
    }
    // What does not answer as Supabase Auth does may be another server at a wrong address, or one that
    // stands in for it; that can be mended too.
    let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match trouble {
        Trouble::Refused { why } if said.get("error_code").is_none() => {
            let why = format!("{why}; is `url` that of Supabase?");
            Trouble::Later { why, after: None }
        }
        other => other,
    }
}
