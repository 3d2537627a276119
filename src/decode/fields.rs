//! Which field of a record plays which role, found without configuration.
//!
//! Loggers disagree about names (`client_ip`, `clientIp`, `client.ip`, `srcIp`), so names are
//! compared lower-cased and without `_` and `-`, and a dot is the same as nesting. The lists stand
//! here once; a configuration may put names of its own before them.

use super::json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// What a field can be for Portcullis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// When it happened.
    Time,
    /// How grave the writer found it.
    Level,
    /// Which part of the application wrote it.
    Logger,
    /// The text.
    Message,
    /// The address of the client.
    Ip,
    /// A list of addresses that proxies handed on, or one that only a proxy can know.
    Forwarded,
    /// Name or e-mail address of an account.
    User,
    /// The id of an account.
    UserId,
    /// What ties several lines of one request together.
    RequestId,
    /// The HTTP status.
    Status,
    /// How long it took, in milliseconds.
    Duration,
    /// The path of the request, without its query.
    Path,
    /// The method of the request.
    Method,
    /// The request line, `GET /path HTTP/1.1`.
    Request,
    /// The country of the client.
    Country,
}

impl Role {
    /// All roles with the names by which patterns, rules and `fields:` speak of them.
    pub const ALL: [(Role, &'static str); 13] = [
        (Role::Time, "time"),
        (Role::Level, "level"),
        (Role::Logger, "logger"),
        (Role::Message, "message"),
        (Role::Ip, "ip"),
        (Role::User, "user"),
        (Role::UserId, "user_id"),
        (Role::RequestId, "request_id"),
        (Role::Status, "status"),
        (Role::Duration, "duration"),
        (Role::Path, "path"),
        (Role::Method, "method"),
        (Role::Country, "country"),
    ];

    /// The role called `name`, in the words of the configuration.
    pub fn named(name: &str) -> Option<Role> {
        Role::ALL.iter().find(|(_, known)| *known == name).map(|(role, _)| *role)
    }
}

/// How a duration's number is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    None,
    Seconds,
    Millis,
    Nanos,
}

/// The well-known names, by role, the surest first. Written normalised: see [`normalize`].
const WELL_KNOWN: &[(Role, &[&str])] = &[
    (
        Role::Time,
        &[
            "timestamp",
            "time",
            "ts",
            "t",
            "eventtime",
            "datetime",
            "date",
            "published",
            "starttime",
            "startutc",
            "requestreceivedtimestamp",
            "edgestarttimestamp",
            "timeunixnano",
            "realtimetimestamp",
            "timestampns",
            "t.$date",
            "record.time.timestamp",
            "data.date",
            "created",
            "createdat",
            "asctime",
            "dt",
            "observedtimeunixnano",
        ],
    ),
    (
        Role::Level,
        &[
            "level",
            "severity",
            "log.level",
            "lvl",
            "levelname",
            "levelname",
            "errorseverity",
            "severitytext",
            "l",
            "record.level.name",
            "level.name",
            "priority",
            "severitynumber",
        ],
    ),
    (
        Role::Logger,
        &[
            "logger",
            "loggername",
            "log.logger",
            "loglogger",
            "name",
            "record.name",
            "target",
            "component",
            "syslogidentifier",
            "category",
            "sourcecontext",
            "scope.name",
        ],
    ),
    (
        Role::Message,
        &[
            "message",
            "msg",
            "shortmessage",
            "event",
            "m",
            "mt",
            "body",
            "fields.message",
            "record.message",
            "log",
            "text",
            "displaymessage",
            "description",
            "data.description",
            "error",
        ],
    ),
    (
        Role::Ip,
        &[
            "ipaddress",
            "clientip",
            "client.ip",
            "client.address",
            "client.ipaddress",
            "request.clientip",
            "source.ip",
            "source.address",
            "srcip",
            "sourceip",
            "sourceipaddress",
            "sourceips",
            "srcendpoint.ip",
            "userip",
            "visitorip",
            "requestip",
            "peerip",
            "remoteip",
            "request.remoteip",
            "remoteaddr",
            "remoteaddress",
            "remotehost",
            "req.remoteaddress",
            "clienthost",
            "clientaddr",
            "downstreamremoteaddress",
            "addr.remote",
            "attr.remote",
            "remote",
            "authauditevent.ipaddress",
            "data.ip",
            "record.extra.ip",
            "record.extra.ipaddress",
            "record.extra.clientip",
            "fields.ip",
            "fields.clientip",
            "fields.ipaddress",
            "span.ip",
            "spans.ip",
            "attributes.client.address",
            "meta.remoteip",
            "meta.clientip",
            "data.remoteaddress",
            "ip",
        ],
    ),
    (
        Role::Forwarded,
        &[
            "xrealip",
            "cfconnectingip",
            "trueclientip",
            "realip",
            "xforwardedfor",
            "httpxforwardedfor",
            "headers.xforwardedfor",
            "request.headers.xforwardedfor",
            "req.headers.xforwardedfor",
            "forwarded",
            "proxyip",
        ],
    ),
    (
        Role::UserId,
        &[
            "userid",
            "user.id",
            "enduser.id",
            "actorid",
            "actor.id",
            "sub",
            "uid",
            "uuid",
            "useruuid",
            "authevent.actorid",
            "authauditevent.actorid",
            "data.userid",
            "fields.userid",
            "span.userid",
            "record.extra.userid",
            "actor.user.uid",
            "user.uid",
            "usersub",
        ],
    ),
    (
        Role::User,
        &[
            "user",
            "email",
            "user.email",
            "username",
            "user.name",
            "user.username",
            "useremail",
            "login",
            "account",
            "actor.alternateid",
            "actorusername",
            "authevent.actorusername",
            "authauditevent.actorusername",
            "actor.user.emailaddr",
            "user.emailaddr",
            "principal",
            "principalname",
            "attr.principalname",
            "identifier",
            "useridentity.username",
            "clientusername",
            "remoteuser",
            "uname",
            "context.username",
            "data.username",
            "fields.username",
            "fields.email",
            "fields.user",
            "record.extra.email",
            "record.extra.user",
            "record.extra.username",
        ],
    ),
    (
        Role::RequestId,
        &[
            "requestid",
            "req.id",
            "http.request.id",
            "xrequestid",
            "correlationid",
            "trace.id",
            "traceid",
            "reqid",
            "rayid",
            "xrailwayrequestid",
            "span.requestid",
            "fields.requestid",
            "record.extra.requestid",
            "authauditevent.requestid",
        ],
    ),
    (
        Role::Status,
        &[
            "status",
            "statuscode",
            "httpstatus",
            "httpstatuscode",
            "http.response.statuscode",
            "http.statuscode",
            "responsecode",
            "res.statuscode",
            "response.status",
            "responsestatus",
            "downstreamstatus",
            "edgeresponsestatus",
            "elbstatuscode",
            "scstatus",
            "responsestatus.code",
            "fields.status",
            "upstreamstatus",
        ],
    ),
    (
        Role::Duration,
        &[
            "durationms",
            "elapsedms",
            "responsetime",
            "totalduration",
            "edgetimetofirstbytems",
            "latencyms",
            "requesttime",
            "durations",
            "targetprocessingtime",
            "event.duration",
            "duration",
        ],
    ),
    (
        Role::Method,
        &[
            "method",
            "requestmethod",
            "http.request.method",
            "clientrequestmethod",
            "req.method",
            "request.method",
            "http.method",
            "httpmethod",
        ],
    ),
    (
        Role::Path,
        &[
            "path",
            "url.path",
            "uri",
            "requesturi",
            "url",
            "req.url",
            "request.uri",
            "requestpath",
            "clientrequestpath",
            "xenvoyoriginpath",
            "http.target",
            "httppath",
            "endpoint.path",
        ],
    ),
    (Role::Request, &["request", "requestline"]),
    (
        Role::Country,
        &[
            "country",
            "countrycode",
            "cfipcountry",
            "clientcountry",
            "ipcountry",
            "geo.countryisocode",
            "client.geo.countryisocode",
            "source.geo.countryisocode",
            "geoip.countrycode2",
            "geoip.countryisocode",
            "geoip.countrycode",
            "headers.cfipcountry",
            "request.headers.cfipcountry",
            "req.headers.cfipcountry",
            "xvercelipcountry",
            "cloudfrontviewercountry",
            "location.country",
        ],
    ),
];

/// A name as it is compared: lower case, no `_` and `-`, no leading `@`; dots stay.
pub fn normalize(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    normalize_into(name, &mut out);
    out
}

fn normalize_into(name: &str, out: &mut String) {
    let name = name.strip_prefix('@').unwrap_or(name);
    if name.is_ascii() {
        out.extend(
            name.bytes()
                .filter(|b| !matches!(b, b'_' | b'-'))
                .map(|b| char::from(b.to_ascii_lowercase())),
        );
    } else {
        out.extend(name.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase));
    }
}

/// Whether `name` is `normal` once it is [normalised](normalize).
#[inline]
fn spells(name: &str, normal: &str) -> bool {
    // Nearly every name is another by its first letter.
    let (first, wanted) = (name.as_bytes().first(), normal.as_bytes().first());
    match first {
        Some(first) if first.is_ascii_alphabetic() => {
            wanted == Some(&first.to_ascii_lowercase()) && is_spelling(name, normal)
        }
        _ => is_spelling(name, normal),
    }
}

fn is_spelling(name: &str, normal: &str) -> bool {
    if !name.is_ascii() {
        return normalize(name) == normal;
    }
    let name = name.strip_prefix('@').unwrap_or(name).bytes();
    let name = name.filter(|b| !matches!(b, b'_' | b'-')).map(|b| b.to_ascii_lowercase());
    name.eq(normal.bytes())
}

/// Some names, as few bits: whether one is among them is only certain if it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names(u64);

impl Names {
    /// Any.
    pub const ANY: Self = Self(u64::MAX);

    /// Those of fields.
    pub fn of(fields: &[Field<'_>]) -> Self {
        Self(
            fields
                .iter()
                .fold(0, |all, field| all | bit(field.path.as_deref().unwrap_or(&field.shown))),
        )
    }

    /// Whether a field with this [normalised](normalize) path may be among them.
    #[inline]
    pub fn may_hold(self, path: &str) -> bool {
        self.0 & bit(path) != 0
    }
}

/// A bit for a name that is the same however it is spelt: by its first and last letter. All bits for a
/// name that is not ASCII.
#[inline]
fn bit(name: &str) -> u64 {
    if !name.is_ascii() {
        return u64::MAX;
    }
    // What normalising may take away is left out on both sides.
    let told = |b: &&u8| !matches!(b, b'_' | b'-' | b'@');
    let first = name.as_bytes().iter().find(told).map_or(0, u8::to_ascii_lowercase);
    let last = name.as_bytes().iter().rev().find(told).map_or(0, u8::to_ascii_lowercase);
    1 << (first.wrapping_mul(5).wrapping_add(last) % 64)
}

/// A name by which patterns and rules ask for a field, prepared to be asked for often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldName {
    /// As written.
    pub written: String,
    /// The role it names, if it names one.
    pub role: Option<Role>,
    /// As field paths are compared.
    pub path: String,
}

impl FieldName {
    /// Prepares a name.
    pub fn new(written: &str) -> Self {
        Self { written: written.to_owned(), role: Role::named(written), path: normalize(written) }
    }
}

/// What kind of scalar a field held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A number, as written.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
    /// A list of scalars; its text is the elements joined with `, `.
    List,
}

/// A name's number in a [`FieldMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Not looked up yet.
    Unasked,
    /// No name of any role.
    No,
    /// The number.
    Name(u16),
}

/// One scalar of a record, with the place where it stood.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    /// The path as it was written.
    pub shown: Cow<'a, str>,
    /// The path, normalised, nesting as dots; none where that is `shown`, normalised.
    path: Option<Box<str>>,
    /// The value as text.
    pub text: Cow<'a, str>,
    /// What it was.
    pub kind: Kind,
    /// It stood inside an array of objects, where one name may well have several values.
    pub listed: bool,
    /// The object it stood in: fields of one object were written together, those of two objects
    /// under one name may not have been.
    pub object: u32,
    /// What the map of names knows of its path.
    pub known: Known,
}

impl PartialEq for Field<'_> {
    fn eq(&self, other: &Self) -> bool {
        // Whether it was looked up already makes no difference.
        self.shown == other.shown
            && self.path() == other.path()
            && self.text == other.text
            && self.kind == other.kind
            && self.listed == other.listed
            && self.object == other.object
    }
}

impl<'a> Field<'a> {
    /// What a field of a flat record is made of.
    const EMPTY: Self = Self {
        shown: Cow::Borrowed(""),
        path: None,
        text: Cow::Borrowed(""),
        kind: Kind::Null,
        listed: false,
        object: 0,
        known: Known::Unasked,
    };

    /// A field of a flat record.
    #[inline]
    pub fn flat(
        key: impl Into<Cow<'a, str>>,
        text: Cow<'a, str>,
        kind: Kind,
        known: Known,
    ) -> Self {
        Self { shown: key.into(), text, kind, known, ..Self::EMPTY }
    }

    /// Whether its path, normalised, is `path`.
    #[inline]
    pub fn is(&self, path: &str) -> bool {
        match &self.path {
            Some(own) => **own == *path,
            None => spells(&self.shown, path),
        }
    }

    /// Its path, normalised.
    pub fn path(&self) -> Cow<'_, str> {
        match &self.path {
            Some(own) => Cow::Borrowed(own),
            None => Cow::Owned(normalize(&self.shown)),
        }
    }

    /// The key of its record under which it stands, as written.
    pub fn key(&self) -> &str {
        match self.path {
            Some(_) => self.shown.split('.').next().unwrap_or_default(),
            None => &self.shown,
        }
    }

    /// A field that borrows nothing.
    pub fn into_owned(self) -> Field<'static> {
        Field {
            shown: Cow::Owned(self.shown.into_owned()),
            text: Cow::Owned(self.text.into_owned()),
            path: self.path,
            kind: self.kind,
            listed: self.listed,
            object: self.object,
            known: self.known,
        }
    }
}

/// How deep paths are followed. Identity fields of real producers lie at three at the most.
const PATH_DEPTH_MAX: usize = 6;

/// Longest path under which nesting is followed, in bytes: every field below repeats it, so a long
/// key over many short ones would cost their product.
const PATH_BYTES_MAX: usize = 128;

/// Lists all scalars of an object, in their order.
pub fn flatten<'a>(members: &'a [(Cow<'_, str>, Value<'_>)]) -> Vec<Field<'a>> {
    let mut fields = Vec::with_capacity(members.len() + 4);
    flatten_into(members, None, false, 0, &mut fields);
    fields
}

/// The path of an object inside another: as written and normalised.
#[derive(Clone, Copy)]
struct Inside<'p> {
    shown: &'p str,
    path: &'p str,
}

fn flatten_into<'a>(
    members: &'a [(Cow<'_, str>, Value<'_>)],
    inside: Option<Inside<'_>>,
    listed: bool,
    depth: usize,
    out: &mut Vec<Field<'a>>,
) {
    let object = u32::try_from(out.len()).unwrap_or(u32::MAX);
    for (key, value) in members {
        let (shown, path) = match inside {
            None => (Cow::Borrowed(key.as_ref()), None),
            Some(inside) => {
                let mut path = String::with_capacity(inside.path.len() + key.len() + 1);
                path.push_str(inside.path);
                path.push('.');
                normalize_into(key, &mut path);
                (Cow::Owned([inside.shown, ".", key].concat()), Some(path.into_boxed_str()))
            }
        };
        let field = Field {
            shown,
            path,
            text: Cow::Borrowed(""),
            kind: Kind::Null,
            listed,
            object,
            known: Known::Unasked,
        };
        flatten_value(value, field, depth, out);
    }
}

fn flatten_value<'a>(
    value: &'a Value<'_>,
    place: Field<'a>,
    depth: usize,
    out: &mut Vec<Field<'a>>,
) {
    let mut push = |text: Cow<'a, str>, kind: Kind| {
        out.push(Field { text, kind, ..place.clone() });
    };
    match value {
        Value::Null => push(Cow::Borrowed(""), Kind::Null),
        Value::Bool(b) => push(Cow::Borrowed(if *b { "true" } else { "false" }), Kind::Bool),
        Value::Number(n) => push(Cow::Borrowed(n), Kind::Number),
        Value::String(s) => push(Cow::Borrowed(s), Kind::Text),
        Value::Cut => {}
        Value::Object(members) if depth < PATH_DEPTH_MAX && place.shown.len() <= PATH_BYTES_MAX => {
            // Typed wrappers such as OTLP's {"stringValue": ..} are the value itself.
            match members.as_slice() {
                [(key, inner)]
                    if matches!(
                        key.as_ref(),
                        "stringValue" | "intValue" | "doubleValue" | "boolValue"
                    ) =>
                {
                    flatten_value(inner, place, depth + 1, out);
                }
                _ => {
                    let inside = Inside { shown: &place.shown, path: &place.path() };
                    flatten_into(members, Some(inside), place.listed, depth + 1, out);
                }
            }
        }
        Value::Array(items) if depth < PATH_DEPTH_MAX => {
            let scalars: Vec<&str> = items
                .iter()
                .filter_map(|item| match item {
                    Value::String(s) | Value::Number(s) => Some(s.as_ref()),
                    _ => None,
                })
                .collect();
            if !scalars.is_empty() {
                push(Cow::Owned(scalars.join(", ")), Kind::List);
            }
            if place.shown.len() > PATH_BYTES_MAX {
                return;
            }
            let path = place.path();
            let inside = Inside { shown: &place.shown, path: &path };
            for item in items {
                if let Value::Object(members) = item {
                    flatten_into(members, Some(inside), true, depth + 1, out);
                }
            }
        }
        Value::Object(_) | Value::Array(_) => {}
    }
}

/// That a field plays a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plays {
    /// The role.
    pub role: Role,
    /// Smaller comes first; below [`FieldMap::CONFIGURED`] for names of the configuration.
    pub rank: u16,
    /// The field's place in its record.
    pub field: u32,
}

/// How many roles there are.
const ROLES: usize = Role::Country as usize + 1;

/// Who plays what in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cast {
    /// By role, each role's surest first, repetitions in their order.
    plays: Box<[Plays]>,
    /// By role: where its plays begin, and at last where those of all end.
    starts: [u32; ROLES + 1],
    /// The roles that are played, a bit each: most are not.
    played: u16,
    /// The names of the fields among which they were found.
    pub names: Names,
}

impl Cast {
    fn new(mut plays: Vec<Plays>, names: Names) -> Self {
        plays.sort_by_key(|plays| (plays.role, plays.rank));
        let mut starts = [0; ROLES + 1];
        for (role, start) in starts.iter_mut().enumerate() {
            let before = plays.partition_point(|plays| (plays.role as usize) < role);
            *start = u32::try_from(before).unwrap_or(u32::MAX);
        }
        let played = plays.iter().fold(0, |played, plays| played | 1 << plays.role as u16);
        Self { plays: plays.into(), starts, played, names }
    }

    /// The fields that may play a role, the surest first.
    #[inline]
    pub fn of(&self, role: Role) -> &[Plays] {
        if self.played & 1 << role as u16 == 0 {
            return &[];
        }
        let at = |role: usize| self.starts.get(role).map_or(0, |start| *start as usize);
        let (start, end) = (at(role as usize), at(role as usize + 1));
        self.plays.get(start..end).unwrap_or_default()
    }
}

/// A field that plays a role.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'f> {
    /// The field.
    pub field: &'f Field<'f>,
    /// As in [`Plays`].
    pub rank: u16,
    /// Its place in its record.
    pub index: u32,
}

/// The role that the well-known name `name` plays first of all.
pub fn well_known(name: &str) -> Option<Role> {
    let known = |names: &[&str]| names.iter().any(|known| spells(name, known));
    WELL_KNOWN.iter().find(|(_, names)| known(names)).map(|(role, _)| *role)
}

/// The names of every role: the configuration's first, then the well-known ones.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMap {
    numbers: HashMap<String, u16>,
    /// By number: the roles a name plays.
    roles: Vec<Vec<(Role, u16)>>,
}

impl Default for FieldMap {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl FieldMap {
    /// Ranks below this belong to names given in the configuration.
    pub const CONFIGURED: u16 = 1000;

    /// The map for a configuration's own names, in their order.
    pub fn new(configured: &[(Role, Vec<String>)]) -> Self {
        let mut map = Self { numbers: HashMap::new(), roles: Vec::new() };
        for (role, own) in configured {
            for (rank, name) in (0u16..).zip(own) {
                map.add(normalize(name), *role, rank);
            }
        }
        for (role, known) in WELL_KNOWN {
            for (rank, name) in (Self::CONFIGURED..).zip(*known) {
                if map.names(name).iter().all(|(other, _)| other != role) {
                    map.add((*name).to_owned(), *role, rank);
                }
            }
        }
        map
    }

    fn add(&mut self, name: String, role: Role, rank: u16) {
        let next = u16::try_from(self.roles.len()).unwrap_or(u16::MAX);
        let number = *self.numbers.entry(name).or_insert(next);
        if number == next {
            self.roles.push(Vec::new());
        }
        if let Some(roles) = self.roles.get_mut(usize::from(number)) {
            roles.push((role, rank));
        }
    }

    fn names(&self, name: &str) -> &[(Role, u16)] {
        match self.number(name) {
            Known::Name(number) => self.roles.get(usize::from(number)).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// Whether the configuration gives a name, normalised, this role.
    pub fn is_configured(&self, role: Role, name: &str) -> bool {
        self.names(name).iter().any(|(plays, rank)| *plays == role && *rank < Self::CONFIGURED)
    }

    /// The number of a name, normalised.
    pub fn number(&self, name: &str) -> Known {
        self.numbers.get(name).map_or(Known::No, |number| Known::Name(*number))
    }

    /// The role that a name, normalised, plays first of all.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.names(name).first().map(|(role, _)| *role)
    }

    /// All fields by the role they may play.
    pub fn roles(&self, fields: &[Field<'_>]) -> Arc<Cast> {
        let mut plays = Vec::with_capacity(fields.len());
        for (index, field) in (0u32..).zip(fields) {
            if field.kind == Kind::Null {
                continue;
            }
            let known = match field.known {
                Known::Unasked => self.number(&field.path()),
                known => known,
            };
            let Known::Name(number) = known else { continue };
            let roles = self.roles.get(usize::from(number)).map_or(&[][..], Vec::as_slice);
            plays.extend(roles.iter().map(|(role, rank)| Plays {
                role: *role,
                rank: *rank,
                field: index,
            }));
        }
        Arc::new(Cast::new(plays, Names::of(fields)))
    }
}

/// Reads a duration field as milliseconds, by the unit that its name implies. A bare `duration`
/// has a unit only where the rest of the record shows who wrote it.
pub fn duration_ms(field: &Field<'_>, has: impl Fn(&'static str) -> bool) -> Option<f64> {
    let unit = match &*field.path() {
        "requesttime" | "durations" | "targetprocessingtime" => Unit::Seconds,
        "event.duration" => Unit::Nanos,
        "duration" if has("downstreamstatus") || has("component") => Unit::Nanos,
        "duration" if has("request.clientip") || has("request.remoteip") => Unit::Seconds,
        "duration" if has("downstreamremoteaddress") => Unit::Millis,
        "duration" => Unit::None,
        _ => Unit::Millis,
    };
    let number: f64 = field.text.trim().parse().ok().filter(|n: &f64| n.is_finite())?;
    match unit {
        Unit::None => None,
        Unit::Seconds => Some(number * 1e3),
        Unit::Millis => Some(number),
        Unit::Nanos => Some(number / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::json;
    use super::*;

    fn fields(line: &str) -> Vec<Field<'static>> {
        let document = json::read(line).unwrap();
        let Value::Object(members) = &document.values[0] else { panic!() };
        flatten(members).into_iter().map(Field::into_owned).collect()
    }

    #[test]
    fn spellings_of_one_name_are_one() {
        for name in ["client_ip", "clientIp", "ClientIP", "client-ip", "CLIENT_IP", "@client_ip"] {
            assert_eq!(normalize(name), "clientip");
        }
    }

    #[test]
    fn spelling_is_normalising() {
        for name in ["client_ip", "@Client-IP", "\u{c4}_x", "@@a", "", "_"] {
            assert!(spells(name, &normalize(name)), "{name}");
            assert!(!spells(name, "other"));
        }
    }

    #[test]
    fn dots_and_nesting_are_the_same() {
        let flat = fields(r#"{"client.ip":"1.2.3.4"}"#);
        let nested = fields(r#"{"client":{"ip":"1.2.3.4"}}"#);
        assert_eq!(flat[0].path(), nested[0].path());
        assert!(flat[0].is("client.ip") && nested[0].is("client.ip"));
    }

    #[test]
    fn the_configuration_comes_first_and_repetitions_stay() {
        let map = FieldMap::new(&[(Role::Ip, vec!["x_client".into()])]);
        let fields =
            fields(r#"{"ip_address":"1.1.1.1","x-client":"2.2.2.2","ip_address":"3.3.3.3"}"#);
        let cast = map.roles(&fields);
        let hits: Vec<_> = cast
            .of(Role::Ip)
            .iter()
            .map(|plays| fields[plays.field as usize].text.to_string())
            .collect();
        assert_eq!(hits, ["2.2.2.2", "1.1.1.1", "3.3.3.3"]);
    }

    #[test]
    fn addresses_of_servers_are_no_clients() {
        let map = FieldMap::default();
        for name in
            ["host_ip", "server.ip", "dest_ip", "OriginIP", "EdgeServerIP", "upstreamAddress"]
        {
            let line = format!(r#"{{"{name}":"198.51.100.1"}}"#);
            assert!(map.roles(&fields(&line)).of(Role::Ip).is_empty(), "{name}");
        }
    }

    #[test]
    fn durations_have_the_unit_of_their_producer() {
        let ms = |line: &str| {
            let fields = fields(line);
            let field = fields
                .iter()
                .find(|f| f.path().contains("duration") || f.path().contains("time"))
                .unwrap();
            duration_ms(field, |name| fields.iter().any(|f| f.is(name)))
        };
        assert_eq!(ms(r#"{"duration_ms":84}"#), Some(84.0));
        assert_eq!(ms(r#"{"request_time":"0.5"}"#), Some(500.0));
        assert_eq!(ms(r#"{"event":{"duration":1000000}}"#), Some(1.0));
        assert_eq!(ms(r#"{"duration":2}"#), None);
    }

    proptest::proptest! {
        #[test]
        fn a_name_that_is_there_may_be_there(name in "[-@_ab.AE\u{c9}]{0,6}", other in "[-@_ab.AE\u{c9}]{0,6}") {
            let field = |name: &str| Field::flat(name.to_owned(), "".into(), Kind::Text, Known::Unasked);
            let names = Names::of(&[field(&other), field(&name)]);
            proptest::prop_assert!(names.may_hold(&normalize(&name)));
        }
    }
}
