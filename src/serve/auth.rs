//! Who may ask for what: tokens, their roles, and the door that every request goes through.

use super::http::Connection;
use super::{ServeConfig, reply, routes};
use crate::host::is_this_machine;
use crate::sink::secret::SecretPlace;
use crate::yaml::{Checker, Node};
use axum::body::{Body, to_bytes};
use axum::extract::{MatchedPath, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use axum::middleware::Next;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token is at least so long.
const TOKEN_MIN: usize = 16;
/// And at most so long; more is no token of anybody.
const TOKEN_MAX: usize = 4096;
/// Who asks without a token.
const NOBODY: &str = "loopback";

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Look at everything.
    Read,
    /// Fetch what is to be blocked.
    Bouncer,
    /// Everything.
    Operator,
}

/// The roles by their words.
pub const ROLES: [(&str, Role); 3] =
    [("read", Role::Read), ("bouncer", Role::Bouncer), ("operator", Role::Operator)];

/// Whom a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Anybody, without a token.
    Nothing,
    /// Whoever may look.
    Read,
    /// Whoever enforces.
    Bouncer,
    /// Whoever decides.
    Operator,
}

impl Need {
    /// Whether the role is enough.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Need::Nothing => true,
            Need::Read => matches!(role, Role::Read | Role::Operator),
            Need::Bouncer => matches!(role, Role::Bouncer | Role::Operator),
            Need::Operator => role == Role::Operator,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Need::Nothing => "no",
            Need::Read => "the read or operator",
            Need::Bouncer => "the bouncer or operator",
            Need::Operator => "the operator",
        }
    }
}

/// A hash of a token.
type Hash = [u8; 32];

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// The token itself stands there.
    Secret(SecretPlace),
    /// Only its SHA-256 is known here.
    Hash(Hash),
}

/// An entry of `serve.tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenConfig {
    /// Who holds it.
    pub name: String,
    /// What for.
    pub role: Role,
    /// The token.
    pub token: TokenPlace,
}

/// Reads `serve.tokens`.
pub fn tokens(checker: &mut Checker<'_>, value: &Node) -> Vec<TokenConfig> {
    let mut all: Vec<TokenConfig> = Vec::new();
    for node in value.as_list() {
        let Some(token) = token(checker, node) else { continue };
        if all.iter().any(|other| other.name == token.name) {
            let name = node.get("name").unwrap_or(node);
            let help = "the name says in the log who asked";
            checker.node(name, format!("two tokens are named {}", token.name), Some(help.into()));
        }
        all.push(token);
    }
    all
}

fn token(checker: &mut Checker<'_>, node: &Node) -> Option<TokenConfig> {
    let (mut name, mut role, mut place) = (None, None, None);
    let keys = ["name", "role", "token"];
    if node.as_map().is_none() {
        // What stands there may be the token itself: it is not repeated.
        let help = "for example { name: ops, role: operator, token: { env: OPS_TOKEN } }";
        checker.at(node.place, 1, "a token is a map", Some(help.into()));
        return None;
    }
    let before = checker.problems.len();
    for (key, value) in checker.map(node, "a token", &keys) {
        match key.name.as_str() {
            "name" => {
                name = checker.text(value, "`name`");
                let fits = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
                if let Some(text) = &name
                    && !(1..=64).contains(&text.len()) | !text.chars().all(fits)
                {
                    let help = "1 to 64 letters, digits, `.`, `_`, `-`, `@`";
                    checker.node(value, format!("`{text}` is no name"), Some(help.into()));
                }
            }
            "role" => role = checker.word(value, "`role`", &ROLES),
            "token" => place = token_place(checker, value),
            _ => {}
        }
    }
    if let (Some(name), Some(role), Some(token)) = (name, role, place) {
        return Some(TokenConfig { name, role, token });
    }
    if checker.problems.len() == before {
        let missing: Vec<_> = keys.into_iter().filter(|key| node.get(key).is_none()).collect();
        let message = format!("a token needs `{}`", missing.join("` and `"));
        let help = "for example { name: ops, role: operator, token: { env: OPS_TOKEN } }";
        checker.at(node.place, 1, message, Some(help.into()));
    }
    None
}

fn token_place(checker: &mut Checker<'_>, value: &Node) -> Option<TokenPlace> {
    let Some([(key, hash)]) = value.as_map() else {
        return SecretPlace::parse(checker, value, "`token`").map(TokenPlace::Secret);
    };
    if key.name != "sha256" {
        return SecretPlace::parse(checker, value, "`token`").map(TokenPlace::Secret);
    }
    let text = checker.text(hash, "`sha256`")?;
    let hash_of_text = unhex(&text);
    if hash_of_text.is_none() {
        let help = "64 hex digits, as `printf %s TOKEN | sha256sum` writes them";
        // It may be the token itself: it is not repeated.
        checker.key(key, "`sha256` is no SHA-256", Some(help.into()));
        if let Some(problem) = checker.problems.last_mut() {
            problem.excerpt.clear();
        }
    }
    hash_of_text.map(TokenPlace::Hash)
}

fn unhex(text: &str) -> Option<Hash> {
    let text = text.trim();
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, two) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[derive(Debug)]
struct Holder {
    name: Arc<str>,
    role: Role,
    hash: Hash,
}

/// Who may ask, by the hashes of their tokens; the tokens themselves are not kept.
#[derive(Debug)]
pub struct Access {
    holders: Vec<Holder>,
    /// Whoever comes without a token may do everything.
    open: bool,
    /// Those who were turned away, told at most once a minute.
    turned_away: Mutex<(Option<Instant>, u64)>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Who {
    /// The name of the token.
    pub name: Arc<str>,
    /// What it is good for.
    pub role: Role,
    /// The address that the request came from.
    pub peer: IpAddr,
}

impl Access {
    /// Reads the tokens.
    ///
    /// # Errors
    /// Which is missing, too short, or there twice.
    pub fn read(config: &ServeConfig) -> Result<Self, String> {
        let mut holders: Vec<Holder> = Vec::new();
        for token in &config.tokens {
            let hash = match &token.token {
                TokenPlace::Hash(hash) => *hash,
                TokenPlace::Secret(place) => {
                    let secret = place.read().map_err(|why| of(token, &why))?;
                    let text = secret.reveal();
                    if !(TOKEN_MIN..=TOKEN_MAX).contains(&text.len()) {
                        let why = format!(
                            "{place} must have {TOKEN_MIN} to {TOKEN_MAX} characters; for example what `openssl rand -hex 24` gives"
                        );
                        return Err(of(token, &why));
                    }
                    if !text.bytes().all(|b| b.is_ascii_graphic()) {
                        let why =
                            format!("{place} must be visible ASCII, as it stands in a header");
                        return Err(of(token, &why));
                    }
                    hash_of(text)
                }
            };
            if let Some(other) = holders.iter().find(|other| other.hash == hash) {
                return Err(of(token, &format!("{} has the same", other.name)));
            }
            holders.push(Holder { name: token.name.as_str().into(), role: token.role, hash });
        }
        Ok(Self { holders, open: config.insecure_loopback, turned_away: Mutex::default() })
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.holders.is_empty()
    }

    /// Whose token it is. All are compared to the end, so that the time tells nothing.
    fn holder(&self, token: &str) -> Option<&Holder> {
        let hash = hash_of(token);
        let mut found = None;
        for holder in &self.holders {
            let different = hash.iter().zip(&holder.hash).fold(0, |sum, (a, b)| sum | (a ^ b));
            if std::hint::black_box(different) == 0 {
                found = Some(holder);
            }
        }
        found
    }

    /// Who asks, or why that is nobody.
    fn who(&self, headers: &HeaderMap, basic: bool, peer: IpAddr) -> Result<Who, &'static str> {
        match credential(headers, basic)? {
            Some(token) => match self.holder(&token) {
                Some(Holder { name, role, .. }) => {
                    Ok(Who { name: Arc::clone(name), role: *role, peer })
                }
                // Bouncers always show something; where nobody has a token, it is as good as none.
                None if self.open && self.is_empty() => Self::anybody(headers, peer),
                None => Err("this token is not known"),
            },
            None if self.open => Self::anybody(headers, peer),
            None => Err("send a token as `Authorization: Bearer` or `X-Api-Key`"),
        }
    }

    /// Lets in who asks on this machine.
    fn anybody(headers: &HeaderMap, peer: IpAddr) -> Result<Who, &'static str> {
        // A page in a browser on this machine reaches it too: by a name that its author had made to
        // point here, or by sending it something.
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let passed_on = headers.keys().any(is_of_a_proxy);
        if !host.is_some_and(is_here) || headers.contains_key(header::ORIGIN) || passed_on {
            return Err("without a token, only programs that ask for localhost are answered");
        }
        Ok(Who { name: NOBODY.into(), role: Role::Operator, peer })
    }

    fn turn_away(&self, peer: IpAddr, path: &str, why: &str) {
        const QUIET: Duration = Duration::from_secs(60);
        let mut told = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        if told.0.is_none_or(|at| at.elapsed() >= QUIET) {
            let others = match told.1 - 1 {
                0 => String::new(),
                n => format!(" (and {n} others before)"),
            };
            tracing::warn!("a request from {peer} for {path} was turned away: {why}{others}");
            *told = (Some(Instant::now()), 0);
        }
    }
}

fn of(token: &TokenConfig, why: &str) -> String {
    format!("`serve.tokens`, the token of {}: {why}", token.name)
}

fn hash_of(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

/// The one token that a request shows.
fn credential(headers: &HeaderMap, basic: bool) -> Result<Option<String>, &'static str> {
    let keys = headers.get_all("x-api-key").iter();
    let keys = keys.chain(headers.get_all(header::AUTHORIZATION).iter()).collect::<Vec<_>>();
    let value = match keys.as_slice() {
        [] => return Ok(None),
        [one] => *one,
        _ => return Err("there is more than one token"),
    };
    let Ok(text) = value.to_str() else { return Err("the token is no visible ASCII") };
    if headers.contains_key("x-api-key") {
        return Ok(Some(text.trim().to_owned()));
    }
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(rest.trim().to_owned()));
    }
    if basic && scheme.eq_ignore_ascii_case("basic") {
        let pair = BASE64_STANDARD.decode(rest.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        if let Some((_, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
            return Ok(Some(password.to_owned()));
        }
    }
    Err("`Authorization` must be `Bearer` and the token")
}

/// Whether a header says that somebody passes on what others ask. Not every proxy adds one.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "via" | "x-real-ip")
}

/// Whether `Host` says that this machine was meant.
fn is_here(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    is_this_machine(name)
}

/// What the door knows.
#[derive(Debug)]
pub struct Door {
    /// Who may ask.
    pub access: Access,
    /// Bytes of a body.
    pub max_body: usize,
    /// How long a body, and then its answer, may take.
    pub timeout: Duration,
}

/// The door: who it is, whether he may, and then his body, as far as it may be long.
pub async fn admit(
    State(door): State<Arc<Door>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    reply::finish(pass(&door, request, next).await)
}

async fn pass(door: &Door, mut request: Request<Body>, next: Next) -> Response<Body> {
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let matched = matched.as_deref();
    let found = matched.and_then(|path| routes::find(request.method().as_str(), path));
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let peer = request.extensions().get::<SocketAddr>().map(SocketAddr::ip);
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if found.is_none_or(|route| route.need != Need::Nothing) {
        // Firewalls that fetch a file often know nothing but a name and a password.
        let basic = found.is_some_and(|route| route.need == Need::Bouncer && route.method == "GET");
        let who = match door.access.who(request.headers(), basic, peer) {
            Ok(who) => who,
            Err(why) => {
                door.access.turn_away(peer, matched.unwrap_or("an unknown path"), why);
                return unknown(request.uri().path(), basic, why);
            }
        };
        if let Some(connection) = &connection {
            connection.prove();
        }
        let Some(route) = found else { return nowhere(&request, matched) };
        if !route.need.allows(who.role) {
            if is_lapi(route.path) {
                return reply::forbidden();
            }
            let role = route.need.name();
            let why = format!("the token {} has not {role} role", who.name);
            return reply::error(StatusCode::FORBIDDEN, "forbidden", &why);
        }
        if let Some(why) = route.mistake(request.uri()) {
            return reply::error(StatusCode::BAD_REQUEST, "bad_request", &why);
        }
        request.extensions_mut().insert(who);
    }
    let _busy = connection.as_ref().map(|connection| connection.busy());
    let (parts, body) = request.into_parts();
    // What asks for nothing but an answer has no body that anybody reads.
    let body = if parts.method == "GET" || parts.method == "HEAD" { Body::empty() } else { body };
    let body = match tokio::time::timeout(door.timeout, to_bytes(body, door.max_body)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.to_string().contains("limit") => {
            let why = format!("the body is longer than {} bytes", door.max_body);
            return reply::error(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &why);
        }
        Ok(Err(_)) => {
            let why = "the body breaks off or is no body";
            return reply::error(StatusCode::BAD_REQUEST, "bad_request", why);
        }
        Err(_) => {
            let why = format!("the body did not come within {} s", door.timeout.as_secs());
            return reply::error(StatusCode::REQUEST_TIMEOUT, "too_slow", &why);
        }
    };
    let answer = next.run(Request::from_parts(parts, Body::from(body)));
    tokio::time::timeout(door.timeout, answer).await.unwrap_or_else(|_| {
        let why = format!(
            "there was no answer within {} s; an order may still be carried out",
            door.timeout.as_secs()
        );
        reply::error(StatusCode::SERVICE_UNAVAILABLE, "no_answer", &why)
    })
}

fn is_lapi(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// To somebody who shows no token that is known.
fn unknown(path: &str, basic: bool, why: &str) -> Response<Body> {
    if is_lapi(path) {
        return reply::forbidden();
    }
    let mut answer = reply::error(StatusCode::UNAUTHORIZED, "unauthorized", why);
    let schemes: &[_] = if basic {
        &["Bearer realm=\"portcullis\"", "Basic realm=\"portcullis\""]
    } else {
        &["Bearer realm=\"portcullis\""]
    };
    for scheme in schemes {
        answer.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    answer
}

/// There is no such path, or not with this method.
fn nowhere(request: &Request<Body>, matched: Option<&str>) -> Response<Body> {
    let allowed = matched.map(routes::methods).filter(|methods| !methods.is_empty());
    let Some(allowed) = allowed else {
        let why = "there is no such path; /openapi.json has them all";
        return reply::error(StatusCode::NOT_FOUND, "not_found", why);
    };
    let why = format!("{} is not for this path, but {allowed}", request.method());
    let mut answer = reply::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &why);
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}
