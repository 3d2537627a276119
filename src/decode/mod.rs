//! A line becomes records: fields by role, each with the place it came from. Pure.
//!
//! The order of trust is decided here and in [`crate::pattern`]: fields that the logger wrote as
//! structure beat text; two structured values that contradict each other are both dropped, because
//! one of them was written by somebody else.

pub mod addr;
pub mod envelope;
pub mod fields;
pub mod json;
pub mod level;
pub mod text;
pub mod time;

use addr::{Nets, NeverBlock};
use fields::{Field, FieldMap, Hit, Kind, Role};
use level::Level;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use time::{When, Zone};

/// What decoding depends on besides the line.
#[derive(Debug, Clone, Default)]
pub struct DecodeConfig {
    /// Names of fields by role.
    pub fields: FieldMap,
    /// The zone of times that name none.
    pub zone: Zone,
    /// Proxies whose word about an address is taken.
    pub trusted: Nets,
    /// Addresses that are never a client.
    pub never: NeverBlock,
}

/// Why a line could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unread {
    /// It begins like JSON and is none.
    Syntax,
    /// It ends before anything in it is complete.
    Truncated,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unread::Syntax => "syntax",
            Unread::Truncated => "truncated",
        })
    }
}

/// What a line was.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// Blank.
    Empty,
    /// Nothing that can be read.
    Unread(Unread, String),
    /// A part of a longer line, to be joined before it means anything.
    Partial,
    /// Its records; none for a probe or an empty batch.
    Records(Vec<Record>),
}

/// A value with the path of the field it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// The value, canonical.
    pub value: String,
    /// Where it stood, as written.
    pub from: String,
}

/// The address of a client with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct IpFact {
    /// Canonical.
    pub ip: IpAddr,
    /// False if a client could have chosen it: it counts and alerts, but never blocks.
    pub proven: bool,
    /// Where it stood, as written.
    pub from: String,
}

/// Contradictions between structured values of one record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Differing addresses.
    pub ip: bool,
    /// Differing user names.
    pub user: bool,
    /// Differing user ids.
    pub user_id: bool,
    /// The message, time or logger is there twice, with different values: no identity is safe.
    pub core: bool,
}

impl Doubts {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// One record, decoded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// When it happened, by its own word or that of its innermost envelope with a time.
    pub when: Option<When>,
    /// Normalised level.
    pub level: Option<Level>,
    /// The logger's name.
    pub logger: Option<Arc<str>>,
    /// The message, and further ones if the key was repeated; for plain text, the whole line last.
    pub messages: Vec<String>,
    /// The client's address.
    pub ip: Option<IpFact>,
    /// The account by name.
    pub user: Option<Fact>,
    /// The account by id.
    pub user_id: Option<Fact>,
    /// The request this belongs to.
    pub request_id: Option<Fact>,
    /// The client's country, upper case.
    pub country: Option<Fact>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Duration in milliseconds.
    pub duration_ms: Option<f64>,
    /// Path without its query.
    pub path: Option<String>,
    /// Method.
    pub method: Option<String>,
    /// Every scalar of its own.
    pub fields: Vec<Field>,
    /// Those of its envelopes, outermost first, shared by all records that travelled in them.
    pub outer: Vec<Arc<[Field]>>,
    /// Contradictions.
    pub doubts: Doubts,
    /// What it was wrapped in, outermost first, ending with its own shape.
    pub layers: Vec<&'static str>,
    /// Something in its JSON had to be bent to read it.
    pub bent: bool,
}

impl Record {
    /// The text that patterns read.
    pub fn message(&self) -> &str {
        self.messages.first().map_or("", String::as_str)
    }

    /// A field's text by role or by name, for conditions and keys.
    pub fn lookup(&self, name: &str) -> Option<std::borrow::Cow<'_, str>> {
        use std::borrow::Cow::{Borrowed, Owned};
        match Role::named(name) {
            Some(Role::Level) => {
                return self.level.map(|level| Owned(level.to_string()));
            }
            Some(Role::Logger) => return self.logger.as_deref().map(Borrowed),
            Some(Role::Message) => return self.messages.first().map(|m| Borrowed(m.as_str())),
            Some(Role::Ip) => return self.ip.as_ref().map(|fact| Owned(fact.ip.to_string())),
            Some(Role::User) => return self.user.as_ref().map(|f| Borrowed(f.value.as_str())),
            Some(Role::UserId) => return self.user_id.as_ref().map(|f| Borrowed(f.value.as_str())),
            Some(Role::RequestId) => {
                return self.request_id.as_ref().map(|f| Borrowed(f.value.as_str()));
            }
            Some(Role::Country) => {
                return self.country.as_ref().map(|f| Borrowed(f.value.as_str()));
            }
            Some(Role::Status) => return self.status.map(|status| Owned(status.to_string())),
            Some(Role::Duration) => return self.duration_ms.map(|ms| Owned(ms.to_string())),
            Some(Role::Path) => return self.path.as_deref().map(Borrowed),
            Some(Role::Method) => return self.method.as_deref().map(Borrowed),
            _ => {}
        }
        self.raw(&fields::normalize(name)).map(|field| Borrowed(field.text.as_str()))
    }

    /// A field by its normalised path.
    pub fn raw(&self, path: &str) -> Option<&Field> {
        let outer = self.outer.iter().flat_map(|fields| fields.iter());
        self.fields.iter().chain(outer).find(|f| f.path == path && f.kind != Kind::Null)
    }
}

/// Decodes one line, without its newline.
pub fn decode(line: &[u8], config: &DecodeConfig) -> Decoded {
    let text = String::from_utf8_lossy(line);
    envelope::unwrap_line(&text, config)
}

/// Fills the roles of `record` from its fields. `own` is how many of them are the record's own;
/// those behind belong to envelopes and identify nobody.
fn assign_roles(record: &mut Record, own: usize, config: &DecodeConfig) {
    let fields = std::mem::take(&mut record.fields);
    let hits = config.fields.roles(&fields[..own]);
    let of = |role: Role| hits.iter().filter(move |(r, _)| *r == role).map(|(_, hit)| *hit);
    // Asked of few names, but perhaps once for each of very many fields: answers are kept.
    let outer = &record.outer;
    let answers: RefCell<Vec<(&'static str, bool)>> = RefCell::default();
    let has = |path: &'static str| {
        if let Some((_, known)) = answers.borrow().iter().find(|(asked, _)| *asked == path) {
            return *known;
        }
        let there = fields.iter().chain(outer.iter().flat_map(|f| f.iter()));
        let there = there.into_iter().any(|field| field.path == path);
        answers.borrow_mut().push((path, there));
        there
    };

    if record.messages.is_empty() {
        record.messages = messages(&of(Role::Message).collect::<Vec<_>>());
    }
    let time = of(Role::Time).find_map(|hit| read_time(hit.field, &config.zone));
    record.when = time.or(record.when);
    record.level = of(Role::Level).find_map(|hit| read_level(hit.field, &has)).or(record.level);
    let logger = of(Role::Logger)
        .filter(|hit| hit.field.kind == Kind::Text && !hit.field.text.trim().is_empty())
        .find(|hit| logger_name_counts(&hit.field.path, &has));
    if let Some(hit) = logger {
        record.logger = Some(hit.field.text.as_str().into());
    }
    record.doubts.core = [Role::Message, Role::Time, Role::Logger]
        .into_iter()
        .any(|role| repeated(&of(role).collect::<Vec<_>>()));

    let direct: Vec<Hit<'_>> = of(Role::Ip).collect();
    let (ip, doubt) = read_ip(&direct, config);
    record.ip = ip;
    record.doubts.ip = doubt;
    let hidden = record.ip.as_ref().is_none_or(|fact| config.never.covers(fact.ip).is_some());
    if hidden && !doubt {
        let forwarded = of(Role::Forwarded).find_map(|hit| read_ip_text(hit.field, config));
        record.ip = forwarded.or(record.ip.take());
    }

    (record.user, record.doubts.user) =
        read_identity(&of(Role::User).collect::<Vec<_>>(), |field| {
            (field.kind == Kind::Text).then(|| addr::normalize_user(&field.text)).flatten()
        });
    (record.user_id, record.doubts.user_id) =
        read_identity(&of(Role::UserId).collect::<Vec<_>>(), |field| match field.kind {
            Kind::Text => addr::canonical_id(&field.text, false),
            Kind::Number => addr::canonical_id(&field.text, true),
            Kind::Bool | Kind::Null | Kind::List => None,
        });
    record.request_id = of(Role::RequestId).find_map(|hit| {
        addr::canonical_id(&hit.field.text, hit.field.kind == Kind::Number)
            .map(|value| Fact { value, from: hit.field.shown.clone() })
    });
    record.country = of(Role::Country).find_map(|hit| {
        let value = hit.field.text.trim().to_uppercase();
        let usable = !value.is_empty()
            && value.len() <= 64
            && value != "XX"
            && !addr::is_non_value(&value)
            && hit.field.kind == Kind::Text;
        usable.then(|| Fact { value, from: hit.field.shown.clone() })
    });
    record.status = of(Role::Status)
        .find_map(|hit| hit.field.text.trim().parse().ok().filter(|s| (100..=599).contains(s)));
    record.duration_ms = of(Role::Duration).find_map(|hit| fields::duration_ms(hit.field, has));
    let request = of(Role::Request).find_map(|hit| split_request(&hit.field.text));
    record.method = of(Role::Method)
        .find(|hit| hit.field.kind == Kind::Text)
        .map(|hit| hit.field.text.clone())
        .or(request.map(|(method, _)| method.to_owned()));
    record.path = of(Role::Path)
        .find(|hit| hit.field.kind == Kind::Text)
        .map(|hit| without_query(&hit.field.text).to_owned())
        .or(request.map(|(_, path)| without_query(path).to_owned()));
    record.fields = fields;
}

/// The message by the surest name, then its repetitions under the same name.
fn messages(hits: &[Hit<'_>]) -> Vec<String> {
    let mut texts = hits.iter().filter(|hit| hit.field.kind == Kind::Text);
    let Some(first) = texts.next() else { return Vec::new() };
    let mut messages = vec![text::strip_ansi(&first.field.text).into_owned()];
    let mut known = HashSet::from([first.field.text.as_str()]);
    for hit in texts.filter(|hit| hit.field.path == first.field.path) {
        if known.insert(&hit.field.text) {
            messages.push(text::strip_ansi(&hit.field.text).into_owned());
        }
    }
    messages
}

/// Whether one of the names stands there twice with different values.
fn repeated(hits: &[Hit<'_>]) -> bool {
    let [first, rest @ ..] = hits else { return false };
    if rest.is_empty() {
        return false;
    }
    let mut seen: HashMap<&str, &str> = HashMap::new();
    [first].into_iter().chain(rest).filter(|hit| !hit.field.listed).any(|hit| {
        let text = hit.field.text.as_str();
        *seen.entry(&hit.field.path).or_insert(text) != text
    })
}

/// Some names are a logger's only in the company of that logger's other names.
fn logger_name_counts(path: &str, has: &impl Fn(&'static str) -> bool) -> bool {
    match path {
        "name" => has("levelname"),
        "target" => has("fields.message") || has("span.name"),
        "component" | "category" => false,
        _ => true,
    }
}

fn read_time(field: &Field, zone: &Zone) -> Option<When> {
    match field.kind {
        Kind::Number => time::parse_number(&field.text).map(When::At),
        Kind::Text => time::parse(&field.text, zone),
        Kind::Bool | Kind::Null | Kind::List => None,
    }
}

/// Names under which a level may be a number, lower case; the prefilter looks for these.
pub const NUMERIC_LEVELS: [&str; 4] = ["level", "priority", "severitynumber", "severity_number"];

/// A level by name, or by number where the shape of the record tells whose numbers they are.
fn read_level(field: &Field, has: &impl Fn(&'static str) -> bool) -> Option<Level> {
    if let Some(level) = Level::parse(&field.text) {
        return Some(level);
    }
    let number: i64 = field.text.trim().parse().ok()?;
    let name = field.shown.rsplit('.').next()?;
    if !NUMERIC_LEVELS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return None;
    }
    if field.path == "severitynumber" {
        Level::from_otel(number)
    } else if has("realtimetimestamp") || (has("shortmessage") && has("version")) {
        Level::from_syslog(number)
    } else if has("reqid") && has("remoteaddr") {
        Level::from_nextcloud(number)
    } else if (has("pid") && has("hostname")) || (has("msg") && has("time")) {
        Level::from_pino(number)
    } else {
        None
    }
}

/// Names that known producers use for two different things inside one object, the surer one first.
/// Only within one object: what a request's body adds to a record stands in an object of its own,
/// and must contradict rather than win.
const OUTRANKED: [(&str, &str); 3] = [
    // The client that Caddy resolved, and its peer.
    ("request.clientip", "request.remoteip"),
    // ECS and OCSF describe one account by name and by address.
    ("user.email", "user.name"),
    ("user.emailaddr", "user.name"),
];

/// Leaves out what yields to a surer name of the same object.
fn surest<'f, T>(readable: Vec<(Hit<'f>, T)>) -> Vec<(Hit<'f>, T)> {
    let surer: Vec<(&str, usize)> = readable
        .iter()
        .filter_map(|(hit, _)| {
            let found = OUTRANKED.iter().find(|(surer, _)| *surer == hit.field.path)?;
            Some((found.1, hit.field.object))
        })
        .collect();
    readable
        .into_iter()
        .filter(|(hit, _)| !surer.contains(&(hit.field.path.as_str(), hit.field.object)))
        .collect()
}

fn read_ip(hits: &[Hit<'_>], config: &DecodeConfig) -> (Option<IpFact>, bool) {
    let readable = hits
        .iter()
        .filter_map(|hit| read_ip_text(hit.field, config).map(|fact| (*hit, fact)))
        .collect();
    let readable = surest(readable);
    settle(readable.iter().map(|(hit, fact)| (*hit, fact, fact.ip)))
}

fn read_ip_text(field: &Field, config: &DecodeConfig) -> Option<IpFact> {
    if !matches!(field.kind, Kind::Text | Kind::List) || addr::is_non_value(&field.text) {
        return None;
    }
    let from = || field.shown.clone();
    if field.text.contains(',') {
        let list = addr::split_forwarded(&field.text);
        let walked = addr::walk_forwarded(list.into_iter(), &config.trusted, &config.never)?;
        return Some(IpFact { ip: walked.ip, proven: walked.proven, from: from() });
    }
    addr::parse_ip(&field.text).map(|ip| IpFact { ip, proven: true, from: from() })
}

fn read_identity(
    hits: &[Hit<'_>],
    canonical: impl Fn(&Field) -> Option<String>,
) -> (Option<Fact>, bool) {
    let readable = hits
        .iter()
        .filter_map(|hit| {
            let value = canonical(hit.field)?;
            Some((*hit, Fact { value, from: hit.field.shown.clone() }))
        })
        .collect();
    let readable = surest(readable);
    settle(readable.iter().map(|(hit, fact)| (*hit, fact, fact.value.clone())))
}

/// The one value that all structured fields of a role agree on. A name of the configuration wins
/// over well-known ones; apart from that, any difference leaves nothing: one of the two was put
/// there by somebody.
fn settle<'a, T: Clone + 'a, V: PartialEq>(
    mut candidates: impl Iterator<Item = (Hit<'a>, &'a T, V)>,
) -> (Option<T>, bool) {
    let Some((first, fact, value)) = candidates.next() else { return (None, false) };
    let configured = first.rank < FieldMap::CONFIGURED;
    let doubt = candidates.any(|(hit, _, other)| {
        let comparable = if configured { hit.rank == first.rank } else { true };
        comparable && !hit.field.listed && other != value
    });
    if doubt { (None, true) } else { (Some(fact.clone()), false) }
}

fn split_request(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split(' ');
    let (method, path, version) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none()
        && version.starts_with("HTTP/")
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_uppercase());
    fits.then_some((method, path))
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}
