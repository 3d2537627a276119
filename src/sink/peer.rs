//! Whom a sink calls over HTTP: the address, whom it trusts, what it shows of itself.
//!
//! An address may itself be a secret (whoever knows it may post), so it may stand where secrets
//! stand. What is secret never comes into a message, whoever wrote that message.

use super::http::{Answer, Client, Method};
use super::remote::Trouble;
use super::secret::{Secret, SecretPlace};
use crate::host::is_this_machine;
use crate::yaml::{Checker, Key, Node};
use ureq::http::Uri;

/// Where the peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// As written in the settings.
    Open(String),
    /// As found where secrets are.
    Hidden(SecretPlace),
}

/// The value of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Open(String),
    Hidden(SecretPlace),
}

/// A peer as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    address: Option<Address>,
    insecure: bool,
    ca: Option<String>,
    headers: Vec<(String, Value)>,
    bearer: Option<SecretPlace>,
}

/// Headers that are made here.
const OWN: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "transfer-encoding",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];
/// Parts of names of headers whose values are secrets.
const TELLTALE: [&str; 5] = ["auth", "key", "token", "secret", "cookie"];

impl Peer {
    /// The keys that it reads.
    pub const KEYS: [&str; 5] = ["url", "insecure", "ca", "headers", "bearer"];

    /// A peer whose address is known.
    pub fn of(url: &str) -> Self {
        Self { address: Some(Address::Open(url.to_owned())), ..Self::default() }
    }

    /// Reads one of its keys; whether it was one.
    pub fn parse(&mut self, checker: &mut Checker<'_>, key: &Key, value: &Node) -> bool {
        match key.name.as_str() {
            "url" if value.as_map().is_some() => {
                self.address = SecretPlace::parse(checker, value, "`url`").map(Address::Hidden);
            }
            "url" => self.address = checker.text(value, "`url`").map(Address::Open),
            "insecure" => self.insecure = checker.bool(value, "`insecure`").unwrap_or(false),
            "ca" => self.ca = checker.text(value, "`ca`"),
            "bearer" => self.bearer = SecretPlace::parse(checker, value, "`bearer`"),
            "headers" => self.parse_headers(checker, value),
            _ => return false,
        }
        true
    }

    fn parse_headers(&mut self, checker: &mut Checker<'_>, node: &Node) {
        let Some(members) = node.as_map() else {
            let help = Some("for example { x-tenant: acme, authorization: { env: HOOK_AUTH } }");
            let message = format!("`headers` must be a map, not {}", node.kind_name());
            checker.node(node, message, help.map(str::to_owned));
            return;
        };
        for (key, value) in members {
            let name = key.name.to_ascii_lowercase();
            if let Err(why) = check_header_name(&name) {
                checker.key(key, format!("`headers`: {why}"), None);
                continue;
            }
            if self.headers.iter().any(|(known, _)| *known == name) {
                checker.key(key, format!("`headers`: `{name}` is there twice"), None);
                continue;
            }
            let what = format!("`headers`: `{name}`");
            if value.as_map().is_some() || TELLTALE.iter().any(|part| name.contains(part)) {
                if let Some(place) = SecretPlace::parse(checker, value, &what) {
                    self.headers.push((name, Value::Hidden(place)));
                }
            } else if let Some(text) = checker.text(value, &what) {
                match check_header_value(&text) {
                    Ok(()) => self.headers.push((name, Value::Open(text))),
                    Err(why) => checker.node(value, format!("{what}: {why}"), None),
                }
            }
        }
    }

    /// Checks it as a whole, `key` being the sink's. An `open_door` takes plain HTTP as long as
    /// nothing secret is sent along.
    pub fn check(&self, checker: &mut Checker<'_>, key: &Key, node: &Node, open_door: bool) {
        let Some(address) = &self.address else {
            if node.get("url").is_none() {
                let help = "for example  url: https://hooks.example.org/portcullis";
                checker.key(key, format!("the sink `{}` needs `url`", key.name), Some(help.into()));
            }
            return;
        };
        if let (Address::Open(text), Some(node)) = (address, node.get("url"))
            && let Err((why, help)) = check_url(text, self.may_be_plain(open_door))
        {
            checker.node(node, format!("`url` {why}"), help);
        }
        if self.bearer.is_some() && self.headers.iter().any(|(name, _)| name == "authorization") {
            let help = "keep one of them: both are the header Authorization";
            let message = "there are both `bearer` and `headers: { authorization }`";
            checker.key(key, message, Some(help.into()));
        }
    }

    fn may_be_plain(&self, open_door: bool) -> bool {
        let secret = |value: &Value| matches!(value, Value::Hidden(_));
        let shows = self.bearer.is_some() || self.headers.iter().any(|(_, value)| secret(value));
        self.insecure || (open_door && !shows)
    }

    /// The address's host, with its port if that is not the usual one; none if the address is a
    /// secret.
    pub fn host(&self) -> Option<String> {
        let Some(Address::Open(text)) = &self.address else { return None };
        text.parse::<Uri>().ok()?.authority().map(ToString::to_string)
    }

    /// Reads what is secret and makes it ready to be called.
    ///
    /// # Errors
    /// What is missing or cannot be.
    pub fn open(&self, open_door: bool) -> Result<Caller, String> {
        let mut secrets = Vec::new();
        let base = match self.address.as_ref().ok_or("it has no `url`")? {
            Address::Open(text) => text.clone(),
            Address::Hidden(place) => {
                let secret = place.read()?;
                check_url(secret.reveal(), self.may_be_plain(open_door))
                    .map_err(|(why, _)| format!("the address in {place} {why}"))?;
                let base = secret.reveal().to_owned();
                secrets.push(Secret::new(base.trim_end_matches('/')));
                let path = base.parse::<Uri>().ok().map(|uri| uri.path().to_owned());
                secrets.extend(path.filter(|path| path.len() > 1).map(Secret::new));
                base
            }
        };
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let value = match value {
                Value::Open(text) => Secret::new(text.as_str()),
                Value::Hidden(place) => {
                    let secret = place.read()?;
                    check_header_value(secret.reveal())
                        .map_err(|why| format!("`headers`: `{name}`: {place} {why}"))?;
                    secrets.push(secret.clone());
                    secret
                }
            };
            headers.push((name.clone(), value));
        }
        if let Some(place) = &self.bearer {
            let secret = place.read()?;
            check_header_value(secret.reveal())
                .map_err(|why| format!("`bearer`: {place} {why}"))?;
            let value = Secret::new(format!("Bearer {}", secret.reveal()));
            secrets.push(secret);
            headers.push(("authorization".to_owned(), value));
        }
        let base = Secret::new(base.trim_end_matches('/'));
        Ok(Caller { client: Client::new(self.ca.as_deref())?, base, headers, secrets })
    }
}

/// A peer that is ready to be called.
#[derive(Debug)]
pub struct Caller {
    client: Client,
    base: Secret,
    headers: Vec<(String, Secret)>,
    /// What no message may hold.
    secrets: Vec<Secret>,
}

impl Caller {
    /// Calls it; `path` follows its address.
    ///
    /// # Errors
    /// What an answer that is not 2xx means, and that there was none.
    pub fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, Failed> {
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.reveal()));
        let headers: Vec<(&str, &str)> = own.chain(headers.iter().copied()).collect();
        let url = format!("{}{path}", self.base.reveal());
        match self.client.call(method, &url, &headers, body) {
            Ok(answer) if answer.is_ok() => Ok(answer),
            Ok(mut answer) => {
                // A peer may say what it was told.
                answer.body = self.without_secrets(&answer.body);
                Err(Failed { status: Some(answer.status), trouble: meaning(&answer) })
            }
            Err(mut trouble) => {
                if let Trouble::Later { why, .. }
                | Trouble::Refused { why }
                | Trouble::Disabled { why } = &mut trouble
                {
                    *why = self.without_secrets(why);
                }
                Err(Failed { status: None, trouble })
            }
        }
    }

    /// A secret that is sent in bodies: no message holds it.
    pub fn hide(&mut self, secret: Secret) {
        self.secrets.push(secret);
    }

    fn without_secrets(&self, text: &str) -> String {
        let secrets = self.secrets.iter().map(Secret::reveal);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(hidden)"))
    }
}

/// A call that did not do.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// The answer's status, if there was an answer.
    pub status: Option<u16>,
    /// What it means.
    pub trouble: Trouble,
}

/// What an answer that is not 2xx means. Beside what passes by itself (408, 425, 429, 5xx), a wrong
/// key or address is mended by somebody, and what waits must not be lost until then: 401, 403,
/// 404 and 407 are tried again too. Any other is about this one message.
fn meaning(answer: &Answer) -> Trouble {
    let trouble = answer.trouble();
    match answer.status {
        300..=399 => Trouble::refused(format!("{}; it is not followed", trouble.why())),
        401 | 403 | 407 => {
            Trouble::later(format!("{}; are the secrets the right ones?", trouble.why()))
        }
        404 => Trouble::later(format!("{}; is `url` the right one?", trouble.why())),
        _ => trouble,
    }
}

type Wrong = (String, Option<String>);

/// Checks an address: HTTPS, or plain HTTP to this machine, or to others where that `may_be`.
fn check_url(text: &str, may_be_plain: bool) -> Result<(), Wrong> {
    let help = || Some("for example  https://hooks.example.org/portcullis".to_owned());
    let uri: Uri = text.parse().map_err(|_| ("is no address".to_owned(), help()))?;
    let Some(authority) = uri.authority() else {
        return Err(("must be a whole address, with https:// and a host".to_owned(), help()));
    };
    if authority.as_str().contains('@') {
        let help = "send it with `headers` or `bearer`, from where secrets are".to_owned();
        return Err(("must not hold a name or a password".to_owned(), Some(help)));
    }
    if text.contains('#') {
        return Err(("must not have a part after `#`".to_owned(), None));
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if may_be_plain || is_this_machine(authority.host()) => Ok(()),
        Some("http") => {
            let help = "use https://, or say `insecure: true` if the way there is safe".to_owned();
            Err(("is plain HTTP to another machine".to_owned(), Some(help)))
        }
        _ => Err(("must begin with https://".to_owned(), help())),
    }
}

fn check_header_name(name: &str) -> Result<(), String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(format!("`{}` is no name of a header", name.escape_default()));
    }
    if OWN.contains(&name) {
        return Err(format!("`{name}` is set by Portcullis itself"));
    }
    Ok(())
}

/// The value is not repeated in the message.
fn check_header_value(value: &str) -> Result<(), String> {
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return Ok(());
    }
    Err("holds what no header may: only printable ASCII is sent".to_owned())
}

/// Reads a sink's `name`: what tells it from others of its kind, in messages and in the state.
pub fn parse_name(checker: &mut Checker<'_>, node: &Node) -> String {
    let Some(name) = checker.text(node, "`name`") else { return String::new() };
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let help = "up to 64 letters, digits, - _ . and :";
        checker.node(node, "`name` cannot be used as a name", Some(help.into()));
    }
    name
}

impl Peer {
    /// What a sink without a `name` is called: its peer's host. Where the address is a secret there
    /// must be a name.
    pub fn parse_host_as_name(&self, checker: &mut Checker<'_>, key: &Key) -> String {
        if let Some(Address::Hidden(_)) = self.address {
            let message = format!("the sink `{}` needs `name`, as its `url` is secret", key.name);
            checker.key(key, message, Some("for example  name: team".into()));
        }
        self.host().unwrap_or_default()
    }
}
