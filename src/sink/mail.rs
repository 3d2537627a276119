//! The sink `mail`: e-mail to those who watch, and to the user whom it is about.
//!
//! Nothing is kept here that could be lost: what may not be sent yet, because there were too many messages
//! in this minute, is left with whoever drives the sink, and comes again with what has happened
//! meanwhile, as one message. Text from a log stands only in the body and, without control
//! characters, in the subject; an address from a log must be an ordinary one.
//!
//! A user is told in plain words what happened and what can be done, and only what is so: of a lock or a
//! second factor only where sinks may act. One message per user, rule and day: a log can hold any
//! address, and whoever writes into it must not be able to fill somebody's mailbox.

use super::Context;
use super::remote::{Progress, Remote, Trouble, micros};
use super::secret::{Secret, SecretPlace};
use crate::action::decision::instant_of;
use crate::action::identity::{EMAIL_MAX, Identities};
use crate::action::{Action, Op};
use crate::decode::time::Micros;
use crate::host::is_this_machine;
use crate::yaml::{Checker, Key, Node};
use governor::clock::{Clock, FakeRelativeClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Address, SmtpTransport, Transport};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long each step of sending may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Up to so many actions have a message each; more become one.
const EACH: usize = 3;
/// Actions that a message about many shows.
const SHOWN: usize = 20;
/// Users and rules remembered for a day, and decisions of which users were told; then the oldest go.
const REMEMBERED: usize = 100_000;
/// A user hears of one rule once in so long.
const DAY: Micros = 86_400_000_000;
/// Longest subject, in characters.
const SUBJECT: usize = 160;
/// Longest text from an action, in characters.
const TEXT: usize = 500;
/// The name in `notify` that means whoever it is about.
const USER: &str = "user";

/// How the connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// TLS from the first byte.
    Required,
    /// TLS after `STARTTLS`, which must work.
    Starttls,
    /// Nothing, to this machine only.
    None,
}

const PROTECTIONS: [(&str, Protection); 3] = [
    ("required", Protection::Required),
    ("starttls", Protection::Starttls),
    ("none", Protection::None),
];

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What tells it from others.
    name: Option<String>,
    /// The server.
    host: String,
    /// Its port.
    port: u16,
    tls: Protection,
    /// A file with the authorities to trust.
    ca: Option<String>,
    username: Option<String>,
    password: Option<SecretPlace>,
    from: Mailbox,
    to: Vec<Mailbox>,
    per_minute: NonZeroU32,
    /// What users know the application by.
    service: Option<String>,
    /// Where users find help.
    contact: Option<String>,
}

const KEYS: [&str; 11] = [
    "name",
    "smtp",
    "tls",
    "ca",
    "username",
    "password",
    "from",
    "to",
    "max_messages_per_minute",
    "service",
    "contact",
];

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        let before = checker.problems.len();
        let (mut server, mut from, mut tls) = (None, None, None);
        let (mut name, mut ca, mut username, mut password) = (None, None, None, None);
        let (mut service, mut contact, mut to) = (None, None, Vec::new());
        let mut per_minute = NonZeroU32::new(10);
        for (key, value) in checker.map(value, "the sink `mail`", &KEYS) {
            let what = format!("`mail.{}`", key.name);
            match key.name.as_str() {
                "name" => name = checker.text(value, &what),
                "smtp" => server = server_of(checker, value, &what),
                "tls" => tls = checker.word(value, &what, &PROTECTIONS),
                "ca" => ca = checker.text(value, &what),
                "username" => username = checker.text(value, &what),
                "password" => password = SecretPlace::parse(checker, value, &what),
                "from" => from = mailbox(checker, value, &what),
                "to" => {
                    let all = value.as_list().into_iter();
                    to = all.filter_map(|item| mailbox(checker, item, &what)).collect();
                }
                "max_messages_per_minute" => {
                    let n = checker.int(value, &what, 1..=600);
                    per_minute = n.and_then(|n| NonZeroU32::new(u32::try_from(n).ok()?));
                }
                "service" => service = line(checker, value, &what),
                "contact" => contact = line(checker, value, &what),
                _ => {}
            }
        }
        for (needed, example) in [
            ("smtp", "smtp: mail.example.org:587"),
            ("from", "from: Portcullis <gate@example.org>"),
        ] {
            if value.get(needed).is_none() {
                let help = format!("for example {example}");
                checker.key(key, format!("the sink `mail` needs `{needed}`"), Some(help));
            }
        }
        for (one, other) in [("username", "password"), ("password", "username")] {
            if value.get(one).is_some() && value.get(other).is_none() {
                checker.key(key, format!("the sink `mail` has `{one}` and no `{other}`"), None);
            }
        }
        let (host, port) = server.clone().unwrap_or_default();
        let usual = if port == Some(465) { Protection::Required } else { Protection::Starttls };
        let tls = tls.unwrap_or(usual);
        if server.is_some() && tls == Protection::None && !is_this_machine(&host) {
            let message =
                format!("`mail.tls`: without TLS, all could be read on the way to {host}");
            let help = "write starttls or required; none is for a server on this machine";
            checker.node(value.get("tls").unwrap_or(value), message, Some(help.into()));
        }
        if checker.problems.len() > before {
            return None;
        }
        let port = port.unwrap_or(if tls == Protection::Required { 465 } else { 587 });
        let per_minute = per_minute?;
        let from = from?;
        Some(Self {
            name,
            host,
            port,
            tls,
            ca,
            username,
            password,
            from,
            to,
            per_minute,
            service,
            contact,
        })
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        self.name.as_ref().map_or("mail".to_owned(), |name| format!("mail {name}"))
    }

    /// Makes it ready to work.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, context: &Context) -> Result<Box<dyn Remote>, String> {
        let receives = context.receives.clone();
        let for_user = receives.as_ref().is_some_and(|names| names.iter().any(|n| n == USER));
        let for_team = receives.as_ref().is_none_or(|names| names.iter().any(|n| n != USER));
        if for_team && self.to.is_empty() {
            return Err("`to` names nobody; only for the receiver `user` it may".to_owned());
        }
        let secret = self.password.as_ref().map(SecretPlace::read).transpose();
        let secret = secret.map_err(|error| format!("`password`: {error}"))?;
        let tls = match self.tls {
            Protection::None => Tls::None,
            Protection::Required => Tls::Wrapper(self.trust()?),
            Protection::Starttls => Tls::Required(self.trust()?),
        };
        let mut transport = SmtpTransport::builder_dangerous(&self.host)
            .port(self.port)
            .timeout(Some(TIMEOUT))
            .tls(tls);
        if let (Some(username), Some(secret)) = (&self.username, &secret) {
            let password = secret.reveal().to_owned();
            transport = transport.credentials(Credentials::new(username.clone(), password));
        }
        Ok(Box::new(Mail {
            options: self.clone(),
            transport: transport.build(),
            secret,
            identities: Arc::clone(&context.identities),
            receives,
            for_user,
            armed: context.armed,
            limit: Limit::new(self.per_minute),
            told: HashSet::new(),
            users: HashMap::new(),
            lasting: HashMap::new(),
        }))
    }

    /// Whom a server's certificate must be from.
    fn trust(&self) -> Result<TlsParameters, String> {
        let mut tls = TlsParameters::builder(self.host.clone());
        if let Some(path) = &self.ca {
            let pem = std::fs::read(path).map_err(|error| format!("`ca` {path}: {error}"))?;
            let certificate = Certificate::from_pem(&pem);
            let certificate = certificate.map_err(|error| format!("`ca` {path}: {error}"))?;
            tls = tls.certificate_store(CertificateStore::None).add_root_certificate(certificate);
        }
        tls.build().map_err(|error| format!("`tls`: {error}"))
    }
}

type Server = (String, Option<u16>);

/// Reads `host:port`, where an IPv6 address stands in brackets.
fn server_of(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<Server> {
    let text = checker.text(value, what)?;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text.as_str(), None),
    };
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let good = match inside {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(is_name),
    };
    let number = port.map(str::parse::<u16>);
    if !good || number.as_ref().is_some_and(|n| !matches!(n, Ok(1..))) {
        let help = "write it like mail.example.org:587; the kind of protection is `tls`".into();
        // It may hold a password.
        checker.node(value, format!("{what} is no server and port"), Some(help));
        return None;
    }
    Some((inside.unwrap_or(host).to_owned(), number.and_then(Result::ok)))
}

fn mailbox(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<Mailbox> {
    let text = checker.text(value, what)?;
    match text.parse::<Mailbox>() {
        Ok(mailbox) if !text.chars().any(char::is_control) => Some(mailbox),
        _ => {
            let help = "write it like ops@example.org or Ops <ops@example.org>".into();
            checker.node(value, format!("{what}: `{text}` is no e-mail address"), Some(help));
            None
        }
    }
}

/// One line of text.
fn line(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let text = checker.text(value, what)?;
    if text.chars().any(char::is_control) {
        checker.at(value.place, 1, format!("{what} must be one line"), None);
        return None;
    }
    Some(text)
}

/// An address from a log to which mail may go: an ordinary one, without quotes, in ASCII, at a domain
/// with a dot in it that is no address of a machine.
fn ordinary(text: &str) -> Option<Address> {
    let is_ordinary = |b: u8| b.is_ascii_alphanumeric() || b"@._+-'=&~#$%*!/?^`{|}".contains(&b);
    if text.len() > EMAIL_MAX || !text.bytes().all(is_ordinary) {
        return None;
    }
    let (local, domain) = text.split_once('@')?;
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let top = domain.rsplit_once('.')?.1;
    if local.len() > 64
        || !domain.split('.').all(is_label)
        || top.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    text.parse().ok()
}

/// A text as a part of a message: without control characters, and not for ever.
fn clean(text: &str, most: usize) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    let mut out: String =
        text.chars().map(|c| if odd(c) { ' ' } else { c }).take(most + 1).collect();
    if let Some((end, _)) = out.char_indices().nth(most) {
        out.truncate(end);
        out.push_str("...");
    }
    out
}

/// How many messages may still go, by the time that is handed in.
struct Limit {
    limiter: RateLimiter<
        NotKeyed,
        InMemoryState,
        FakeRelativeClock,
        NoOpMiddleware<governor::nanos::Nanos>,
    >,
    clock: FakeRelativeClock,
    now: Option<SystemTime>,
}

impl Limit {
    /// Half of them at once, the others spread over the minute: so no minute has more.
    fn new(per_minute: NonZeroU32) -> Self {
        let burst = NonZeroU32::MIN
            .max(NonZeroU32::new(per_minute.get().div_ceil(2)).unwrap_or(NonZeroU32::MIN));
        let rest = per_minute.get() - burst.get() + 1;
        let period = Duration::from_secs(60) / rest;
        let quota = Quota::with_period(period).unwrap_or(Quota::per_minute(burst));
        let clock = FakeRelativeClock::default();
        let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), clock.clone());
        Self { limiter, clock, now: None }
    }

    /// Takes one message's place, or says how long until there is one.
    fn take(&mut self, now: SystemTime) -> Result<(), Duration> {
        let passed = self.now.and_then(|before| now.duration_since(before).ok());
        self.clock.advance(passed.unwrap_or_default());
        // A clock that is set back must not stop everything until it is where it was.
        self.now = Some(now);
        self.limiter.check().map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

struct Mail {
    options: Options,
    transport: SmtpTransport,
    secret: Option<Secret>,
    identities: Arc<Identities>,
    receives: Option<Vec<String>>,
    /// `user` is one of them.
    for_user: bool,
    armed: bool,
    limit: Limit,
    /// Ids of actions of which those who watch have been told, while they are not done.
    told: HashSet<String>,
    /// When a user was told of a rule.
    users: HashMap<(String, String), Micros>,
    /// Decisions of which a user was told: whom, and until when they last.
    lasting: HashMap<String, (String, Micros)>,
}

impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Remote for Mail {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        false
    }

    fn wants(&self, action: &Action) -> bool {
        self.is_for_team(action) || self.user_of(action).is_some()
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let (mut reached, mut trouble) = self.tell_team(actions, now);
        // Of one that is refused, the user may still be told.
        let also = matches!(trouble, Some(Trouble::Refused { .. }));
        let users = actions.get(..reached + usize::from(also)).unwrap_or_default();
        for (index, action) in users.iter().enumerate() {
            if let Err(other) = self.tell_user(action, now) {
                let first = trouble.is_none() || index < reached;
                if first || matches!(other, Trouble::Later { .. } | Trouble::Paced { .. }) {
                    (reached, trouble) = (index, Some(other));
                }
                break;
            }
        }
        for action in actions.get(..reached).unwrap_or_default() {
            self.told.remove(&action.id);
        }
        if let (Some(Trouble::Refused { .. }), Some(action)) = (&trouble, actions.get(reached)) {
            self.told.remove(&action.id);
        }
        Progress { done: reached, trouble }
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let Options { host, port, .. } = &self.options;
        match self.transport.test_connection() {
            Ok(true) => Ok(format!(
                "{host}:{port} answers{}",
                match self.options.username {
                    Some(_) => " and takes the password",
                    None => "",
                }
            )),
            Ok(false) => Err(format!("{host}:{port} does not answer as a mail server")),
            Err(error) => Err(format!("{host}:{port}: {}", self.shown(&error))),
        }
    }
}

impl Mail {
    fn is_for_team(&self, action: &Action) -> bool {
        let team = |names: &Vec<String>| {
            let heard = |name: &String| name != USER && names.contains(name);
            // Portcullis' own messages name nobody, and concern everybody who watches.
            action.notify.iter().any(heard)
                || (action.op == Op::Note && names.iter().any(|name| name != USER))
        };
        matches!(action.op, Op::Start | Op::Withheld | Op::Note)
            && self.receives.as_ref().is_none_or(team)
    }

    /// The address of the user whom an action is about, if that user is to hear of such.
    fn user_of(&self, action: &Action) -> Option<Address> {
        let heard = self.for_user && action.notify.iter().any(|name| name == USER);
        let is_so = action.mode == "enforce" && (self.armed || action.action == "alert");
        if !heard || !is_so || !matches!(action.op, Op::Start | Op::End) {
            return None;
        }
        let text = action.target.text();
        let address = match action.target.kind.as_str() {
            "user_id" => self.identities.email(text)?,
            // Whoever is not in the table has no account, and wrote an address into a login form.
            "user" if !self.identities.is_empty() => match self.identities.email(text) {
                Some(address) => address,
                None => self.identities.id(text).map(|_| text)?,
            },
            "user" => text,
            _ => return None,
        };
        ordinary(address)
    }

    /// Tells those who watch of all that they have not been told of. How many actions are done as far
    /// as they are concerned, and what came in the way of the next.
    fn tell_team(&mut self, actions: &[Action], now: SystemTime) -> (usize, Option<Trouble>) {
        let new: Vec<(usize, &Action)> = actions
            .iter()
            .enumerate()
            .filter(|(_, action)| self.is_for_team(action) && !self.told.contains(&action.id))
            .collect();
        let several: Vec<Vec<(usize, &Action)>> = if new.len() > EACH {
            vec![new]
        } else {
            new.into_iter().map(|one| vec![one]).collect()
        };
        for some in several {
            let Some((first, action)) = some.first().copied() else { continue };
            let (subject, body) = match &some[..] {
                [_] => (subject(action), body(action)),
                many => folded(&many.iter().map(|(_, action)| *action).collect::<Vec<_>>()),
            };
            let to = self.options.to.clone();
            let id = format!("{}.{}", action.id, some.len());
            if let Err(trouble) = self.send(&to, &id, &subject, body, now) {
                return (first, Some(trouble));
            }
            self.told.extend(some.iter().map(|(_, action)| action.id.clone()));
        }
        (actions.len(), None)
    }

    /// Tells the user whom it is about.
    fn tell_user(&mut self, action: &Action, at: SystemTime) -> Result<(), Trouble> {
        let Some(address) = self.user_of(action) else { return Ok(()) };
        let now = micros(at);
        let id = action.decision.clone().unwrap_or_else(|| action.id.clone());
        let mailbox = Mailbox::new(None, address.clone());
        let message = format!("{}.user", action.id);
        if action.op == Op::End {
            let Some((_, until)) = self.lasting.get(&id) else { return Ok(()) };
            // What ends in its time was announced with its beginning.
            if instant_of(&action.time).is_some_and(|time| time < *until) {
                let (subject, body) = self.words_of_lift(action);
                self.send(&[mailbox], &message, &subject, body, at)?;
            }
            self.lasting.remove(&id);
            return Ok(());
        }
        let until = action.until.as_deref().and_then(instant_of).unwrap_or(now);
        let key = (address.to_string(), action.rule.clone());
        let lately = self.users.get(&key).is_some_and(|told| now - *told < DAY);
        if lately || (until <= now && action.action != "alert") {
            return Ok(());
        }
        let (subject, body) = self.words(action);
        self.send(&[mailbox], &message, &subject, body, at)?;
        make_room(&mut self.users, |told| *told);
        self.users.insert(key, now);
        if action.action != "alert" {
            make_room(&mut self.lasting, |(_, until)| *until);
            self.lasting.insert(id, (address.to_string(), until));
        }
        Ok(())
    }

    fn service(&self) -> &str {
        let domain = self.options.from.email.domain();
        self.options.service.as_deref().unwrap_or(domain)
    }

    /// What a user reads: nothing from the log, and nothing that helps whoever attacks.
    fn words(&self, action: &Action) -> (String, String) {
        let service = self.service();
        let pattern = action.pattern.as_deref().unwrap_or_default();
        let happened = if pattern.contains("FAIL") && pattern.contains("LOGIN") {
            "there were too many failed attempts to log in to your account"
        } else {
            "something happened with your account that is not like you"
        };
        let until = action.until.as_deref().map(spoken).unwrap_or_default();
        let (subject, done) = match action.action {
            "lock" => (
                format!("Your account at {service} is locked for a while"),
                format!(
                    "To protect it, we have locked it until {until}. Until then nobody can log in; \
                     after that it works again by itself.\n\nIf that was you, you need do nothing but \
                     wait. If it was not you, choose a new password as soon as you can log in, one that \
                     you use nowhere else."
                ),
            ),
            "require_2fa" => (
                format!("Please confirm that it is you at {service}"),
                format!(
                    "To protect it, we ask for a second factor when somebody logs in, until {until}.\n\n\
                     If that was you, just confirm the next time you log in. If it was not you, choose a \
                     new password, one that you use nowhere else."
                ),
            ),
            _ => (
                format!("Unusual activity with your account at {service}"),
                "If that was you, you need do nothing. If it was not you, choose a new password, one that \
                 you use nowhere else."
                    .to_owned(),
            ),
        };
        let body = format!("Hello,\n\n{happened} at {service}.\n\n{done}\n{}", self.regards());
        (subject, body)
    }

    fn words_of_lift(&self, action: &Action) -> (String, String) {
        let service = self.service();
        let (subject, done) = match action.action {
            "lock" => ("is open again", "Your account is no longer locked: you can log in again."),
            _ => ("is as before", "We no longer ask for a second factor when you log in."),
        };
        let subject = format!("Your account at {service} {subject}");
        (subject, format!("Hello,\n\n{done}\n{}", self.regards()))
    }

    fn regards(&self) -> String {
        let contact = self.options.contact.as_ref();
        let help = contact.map(|contact| format!("\nIf you need help: {contact}\n"));
        format!(
            "{}\nWe never ask for your password by e-mail.\n\n{}\n",
            help.unwrap_or_default(),
            self.service()
        )
    }

    /// Sends one message, if one may be sent now.
    fn send(
        &mut self,
        to: &[Mailbox],
        id: &str,
        subject: &str,
        body: String,
        now: SystemTime,
    ) -> Result<(), Trouble> {
        self.limit.take(now).map_err(|wait| Trouble::Paced { wait })?;
        let from = &self.options.from;
        let mut message = Message::builder()
            .from(from.clone())
            .subject(clean(subject, SUBJECT))
            .date(now)
            .message_id(Some(format!("<{id}@portcullis.{}>", from.email.domain())));
        for mailbox in to {
            message = message.to(mailbox.clone());
        }
        let mut message = message
            .header(ContentType::TEXT_PLAIN)
            .body(body)
            .map_err(|error| Trouble::refused(format!("no message can be made: {error}")))?;
        // So that no automatic answer comes back.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        let value = HeaderValue::new(automatic, "auto-generated".to_owned());
        message.headers_mut().insert_raw(value);
        let bytes = message.formatted();
        let one = |to: &[Mailbox]| {
            let to = to.iter().map(|mailbox| mailbox.email.clone()).collect();
            let envelope = Envelope::new(Some(from.email.clone()), to);
            let envelope = envelope.map_err(|error| Trouble::refused(error.to_string()))?;
            self.transport.send_raw(&envelope, &bytes).map(|_| ()).map_err(|e| self.meaning(&e))
        };
        match one(to) {
            // One address that is not taken must not keep the message from the others.
            Err(trouble @ (Trouble::Refused { .. } | Trouble::Later { .. })) if to.len() > 1 => {
                let mut last = trouble;
                let mut arrived = false;
                for mailbox in to {
                    match one(std::slice::from_ref(mailbox)) {
                        Ok(()) => arrived = true,
                        Err(trouble) => {
                            tracing::warn!("sink {}: {}: {}", self.name(), mailbox, trouble.why());
                            last = trouble;
                        }
                    }
                }
                if arrived { Ok(()) } else { Err(last) }
            }
            other => other,
        }
    }

    /// What an error means: what may pass or be mended is tried again.
    fn meaning(&self, error: &lettre::transport::smtp::Error) -> Trouble {
        let why = self.shown(error);
        let code = error.status().map(u16::from);
        // About the login, the protection or the server, and not about this message.
        let mendable = matches!(code, Some(421 | 454 | 521 | 523 | 524 | 530 | 534 | 535 | 538));
        if error.is_permanent() && !mendable {
            return Trouble::Refused { why };
        }
        Trouble::later(why)
    }

    fn shown(&self, error: &lettre::transport::smtp::Error) -> String {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                let _infallible = write!(text, ": {inner_text}");
            }
            source = inner.source();
        }
        // A server may repeat what it was sent.
        if let Some(secret) = &self.secret {
            text = text.replace(secret.reveal(), "(the password)");
        }
        clean(&text, TEXT)
    }
}

/// Takes the oldest away if there is no room for one more.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    age: impl Fn(&V) -> Micros,
) {
    if map.len() >= REMEMBERED {
        let oldest = map.iter().min_by_key(|(_, value)| age(value)).map(|(key, _)| key.clone());
        oldest.and_then(|oldest| map.remove(&oldest));
    }
}

/// A time of a line, for people.
fn spoken(text: &str) -> String {
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text.to_owned(),
    }
}

/// What happens, in short.
fn short(action: &Action) -> String {
    let what = match action.op {
        Op::Note => action.rule.clone(),
        Op::Withheld => format!("withheld {}", action.action),
        _ => action.action.to_owned(),
    };
    let at = clean(action.target.text(), 80);
    let shadow = if action.mode == "shadow" { " (shadow: nothing is done)" } else { "" };
    format!("{what} {at}").trim_end().to_owned() + shadow
}

fn subject(action: &Action) -> String {
    let severity = action.severity.map(|severity| format!("{severity} ")).unwrap_or_default();
    format!("[portcullis] {severity}{}: {}", short(action), action.reason)
}

fn body(action: &Action) -> String {
    let mut out = format!("{}\n\n", clean(&action.reason, TEXT));
    let mut row = |name: &str, text: Option<String>| {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            let _infallible = writeln!(out, "{name:<12}{}", clean(&text, TEXT));
        }
    };
    let several = |distinct: u64, sample: &[String]| format!("{distinct} ({})", sample.join(", "));
    let users = action.users.as_ref().map(|t| several(t.distinct, &t.sample));
    let addresses = action.ips.as_ref().map(|t| several(t.distinct, &t.sample));
    row("action", Some(short(action)));
    row("rule", Some(format!("{} ({})", action.rule, action.pack)));
    row("guard", action.guard.map(str::to_owned));
    row("time", Some(action.time.clone()));
    row("until", action.until.clone());
    row("count", action.count.map(|count| count.to_string()));
    row("first seen", action.first_seen.clone());
    row("last seen", action.last_seen.clone());
    row("users", users);
    row("addresses", addresses);
    row("known", Some(action.known_ips.join(", ")));
    let reasons = action.reasons.iter().map(|(reason, count)| format!("{reason}: {count}"));
    row("reasons", Some(reasons.collect::<Vec<_>>().join(", ")));
    row("level", action.level.map(str::to_owned));
    row(
        "respond in",
        action.respond_s.map(|s| {
            crate::decode::time::format_duration(i64::try_from(s).unwrap_or(0) * 1_000_000)
        }),
    );
    row("runbook", action.runbook.clone());
    row("id", Some(action.id.clone()));
    out
}

/// One message about many: how many of each, and the first of them.
fn folded(actions: &[&Action]) -> (String, String) {
    let mut counts: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
    let mut worst = None;
    for action in actions {
        let severity = action.severity.unwrap_or("P3");
        worst = Some(worst.map_or(severity, |worst: &str| worst.min(severity)));
        *counts.entry((severity, &action.rule, action.op.name(), action.action)).or_default() += 1;
    }
    let total = actions.len();
    let worst = worst.unwrap_or_default();
    let rules = actions.iter().map(|action| action.rule.as_str()).collect::<HashSet<_>>().len();
    let subject = format!("[portcullis] {worst} {total} actions of {rules} rules");
    let mut out = format!("{total} actions:\n\n");
    for ((severity, rule, op, action), count) in &counts {
        let _infallible =
            writeln!(out, "{count:>6}  {severity} {op} {action} by {}", clean(rule, 80));
    }
    let _infallible = writeln!(out, "\nThe first of them:\n");
    for action in actions.iter().take(SHOWN) {
        let reason = clean(&action.reason, TEXT);
        let _infallible =
            writeln!(out, "{} {}: {reason} [{}]", action.time, short(action), action.id);
    }
    if total > SHOWN {
        let _infallible = writeln!(out, "and {} more", total - SHOWN);
    }
    (subject, out)
}
