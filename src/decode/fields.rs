//! Which field of a record plays which role, found without configuration.
//!
//! Loggers disagree about names (`client_ip`, `clientIp`, `client.ip`, `srcIp`), so names are
//! compared lower-cased and without `_` and `-`, and a dot is the same as nesting. The lists stand
//! here once; a configuration may put names of its own before them.

use super::json::Value;
use std::collections::HashMap;

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

/// One scalar of a record, with the place where it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The path, normalised, nesting as dots.
    pub path: String,
    /// The path as it was written.
    pub shown: String,
    /// The value as text.
    pub text: String,
    /// What it was.
    pub kind: Kind,
    /// It stood inside an array of objects, where one name may well have several values.
    pub listed: bool,
    /// The object it stood in: fields of one object were written together, those of two objects
    /// under one name may not have been.
    pub object: usize,
}

/// How deep paths are followed. Identity fields of real producers lie at three at the most.
const PATH_DEPTH_MAX: usize = 6;

/// Longest path under which nesting is followed, in bytes: every field below repeats it, so a long
/// key over many short ones would cost their product.
const PATH_BYTES_MAX: usize = 128;

/// Lists all scalars of an object, in their order.
pub fn flatten(members: &[(std::borrow::Cow<'_, str>, Value<'_>)]) -> Vec<Field> {
    let mut fields = Vec::with_capacity(members.len() + 4);
    flatten_into(members, "", "", false, 0, &mut fields);
    fields
}

fn flatten_into(
    members: &[(std::borrow::Cow<'_, str>, Value<'_>)],
    path: &str,
    shown: &str,
    listed: bool,
    depth: usize,
    out: &mut Vec<Field>,
) {
    let object = out.len();
    for (key, value) in members {
        let mut inner = String::with_capacity(path.len() + key.len() + 1);
        let mut inner_shown = String::with_capacity(shown.len() + key.len() + 1);
        if !path.is_empty() {
            inner.push_str(path);
            inner.push('.');
            inner_shown.push_str(shown);
            inner_shown.push('.');
        }
        normalize_into(key, &mut inner);
        inner_shown.push_str(key);
        flatten_value(value, inner, inner_shown, (listed, object), depth, out);
    }
}

fn flatten_value(
    value: &Value<'_>,
    path: String,
    shown: String,
    (listed, object): (bool, usize),
    depth: usize,
    out: &mut Vec<Field>,
) {
    let mut push = |text: String, kind: Kind| {
        out.push(Field { path: path.clone(), shown: shown.clone(), text, kind, listed, object });
    };
    match value {
        Value::Null => push(String::new(), Kind::Null),
        Value::Bool(b) => push(b.to_string(), Kind::Bool),
        Value::Number(n) => push(n.to_string(), Kind::Number),
        Value::String(s) => push(s.to_string(), Kind::Text),
        Value::Cut => {}
        Value::Object(members) if depth < PATH_DEPTH_MAX && shown.len() <= PATH_BYTES_MAX => {
            // Typed wrappers such as OTLP's {"stringValue": ..} are the value itself.
            match members.as_slice() {
                [(key, inner)]
                    if matches!(
                        key.as_ref(),
                        "stringValue" | "intValue" | "doubleValue" | "boolValue"
                    ) =>
                {
                    flatten_value(inner, path, shown, (listed, object), depth + 1, out);
                }
                _ => flatten_into(members, &path, &shown, listed, depth + 1, out),
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
                push(scalars.join(", "), Kind::List);
            }
            if shown.len() > PATH_BYTES_MAX {
                return;
            }
            for item in items {
                if let Value::Object(members) = item {
                    flatten_into(members, &path, &shown, true, depth + 1, out);
                }
            }
        }
        Value::Object(_) | Value::Array(_) => {}
    }
}

/// A field that plays a role.
#[derive(Debug, Clone, Copy)]
pub struct Hit<'f> {
    /// The field.
    pub field: &'f Field,
    /// Smaller comes first; below [`FieldMap::CONFIGURED`] for names of the configuration.
    pub rank: u16,
}

/// The names of every role: the configuration's first, then the well-known ones.
#[derive(Debug, Clone)]
pub struct FieldMap {
    names: HashMap<String, Vec<(Role, u16)>>,
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
        let mut names: HashMap<String, Vec<(Role, u16)>> = HashMap::new();
        for (role, own) in configured {
            for (rank, name) in (0u16..).zip(own) {
                names.entry(normalize(name)).or_default().push((*role, rank));
            }
        }
        for (role, known) in WELL_KNOWN {
            for (rank, name) in (Self::CONFIGURED..).zip(*known) {
                let roles = names.entry((*name).to_owned()).or_default();
                if roles.iter().all(|(other, _)| other != role) {
                    roles.push((*role, rank));
                }
            }
        }
        Self { names }
    }

    /// The role that a name, normalised, plays first of all.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.names.get(name)?.first().map(|(role, _)| *role)
    }

    /// All fields by the role they may play, each role's surest first, repetitions in their order.
    pub fn roles<'f>(&self, fields: &'f [Field]) -> Vec<(Role, Hit<'f>)> {
        let mut hits = Vec::new();
        for field in fields {
            if field.kind == Kind::Null {
                continue;
            }
            if let Some(roles) = self.names.get(&field.path) {
                hits.extend(roles.iter().map(|(role, rank)| (*role, Hit { field, rank: *rank })));
            }
        }
        hits.sort_by_key(|(role, hit)| (*role, hit.rank));
        hits
    }
}

/// Reads a duration field as milliseconds, by the unit that its name implies. A bare `duration`
/// has a unit only where the rest of the record shows who wrote it.
pub fn duration_ms(field: &Field, has: impl Fn(&'static str) -> bool) -> Option<f64> {
    let unit = match field.path.as_str() {
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

    fn fields(line: &str) -> Vec<Field> {
        let document = json::read(line).unwrap();
        let Value::Object(members) = &document.values[0] else { panic!() };
        flatten(members)
    }

    #[test]
    fn spellings_of_one_name_are_one() {
        for name in ["client_ip", "clientIp", "ClientIP", "client-ip", "CLIENT_IP", "@client_ip"] {
            assert_eq!(normalize(name), "clientip");
        }
    }

    #[test]
    fn dots_and_nesting_are_the_same() {
        let flat = fields(r#"{"client.ip":"1.2.3.4"}"#);
        let nested = fields(r#"{"client":{"ip":"1.2.3.4"}}"#);
        assert_eq!(flat[0].path, nested[0].path);
    }

    #[test]
    fn the_configuration_comes_first_and_repetitions_stay() {
        let map = FieldMap::new(&[(Role::Ip, vec!["x_client".into()])]);
        let fields =
            fields(r#"{"ip_address":"1.1.1.1","x-client":"2.2.2.2","ip_address":"3.3.3.3"}"#);
        let hits: Vec<_> = map
            .roles(&fields)
            .into_iter()
            .filter(|(role, _)| *role == Role::Ip)
            .map(|(_, hit)| hit.field.text.clone())
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
            assert!(map.roles(&fields(&line)).iter().all(|(r, _)| *r != Role::Ip), "{name}");
        }
    }

    #[test]
    fn durations_have_the_unit_of_their_producer() {
        let ms = |line: &str| {
            let fields = fields(line);
            let field = fields
                .iter()
                .find(|f| f.path.contains("duration") || f.path.contains("time"))
                .unwrap();
            duration_ms(field, |name| fields.iter().any(|f| f.path == name))
        };
        assert_eq!(ms(r#"{"duration_ms":84}"#), Some(84.0));
        assert_eq!(ms(r#"{"request_time":"0.5"}"#), Some(500.0));
        assert_eq!(ms(r#"{"event":{"duration":1000000}}"#), Some(1.0));
        assert_eq!(ms(r#"{"duration":2}"#), None);
    }
}
