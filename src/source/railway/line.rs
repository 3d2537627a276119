//! One log of Railway, one line: the shapes that its own command line prints with `--json`.
//!
//! The same log gives the same bytes however and whenever it is delivered, since that is how a second
//! copy is known: attributes are in the order of their names, and nothing of the delivery is in it.
//! A value that Railway gives as JSON is put in as it is, so a text of digits stays a text.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::de::IgnoredAny;
use serde_json::Value;
use std::net::IpAddr;

/// Nanoseconds since 1970: Railway's times have as many digits.
pub(super) type Nanos = i64;

/// The fields of an HTTP log, in the order in which they are printed.
pub(super) const HTTP_FIELDS: [&str; 20] = [
    "timestamp",
    "method",
    "path",
    "httpStatus",
    "totalDuration",
    "requestId",
    "host",
    "clientUa",
    "srcIp",
    "edgeRegion",
    "txBytes",
    "rxBytes",
    "upstreamRqDuration",
    "upstreamAddress",
    "upstreamProto",
    "downstreamProto",
    "upstreamErrors",
    "responseDetails",
    "deploymentId",
    "deploymentInstanceId",
];

/// Names under which applications log the id of a request, in lower case, without `_`, `-` and dots.
const REQUEST_NAMES: [&str; 6] =
    ["requestid", "xrequestid", "reqid", "httprequestid", "correlationid", "rayid"];
/// The same of the id that Railway's edge gave, which goes before any other.
const EDGE_NAMES: [&str; 2] = ["xrailwayrequestid", "railwayrequestid"];
/// The name of Railway's time where `timestamp` is the application's own. No role has it.
const RAILWAY_TIME: &str = "railway_timestamp";
/// Longest id of a request that is looked at, bytes.
const ID_MAX: usize = 128;
/// Longest time that a request is believed to have taken, milliseconds.
const DURATION_MAX: f64 = 3_600_000.0;

/// A log of an application, as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppLog {
    /// Without a newline.
    pub line: Vec<u8>,
    /// When it was written, by Railway's clock.
    pub at: Option<Nanos>,
    /// The id of the request that it is about.
    pub request: Option<String>,
    /// The deployment that wrote it.
    pub deployment: Option<String>,
}

/// A log of Railway's edge about a request, as a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpLog {
    /// Without a newline.
    pub line: Vec<u8>,
    /// When the request came.
    pub at: Option<Nanos>,
    /// When it was answered.
    pub until: Option<Nanos>,
    /// Its id.
    pub request: Option<String>,
    /// Where it came from.
    pub source: Option<IpAddr>,
}

impl HttpLog {
    /// What it says of its request.
    pub(super) fn without_line(&self) -> Self {
        let Self { at, until, source, .. } = *self;
        Self { line: Vec::new(), at, until, request: self.request.clone(), source }
    }
}

/// Reads an instant.
pub(super) fn read_time(text: &str) -> Option<Nanos> {
    DateTime::parse_from_rfc3339(text).ok()?.timestamp_nanos_opt()
}

/// Writes an instant as Railway does, with nine digits.
pub(super) fn write_time(at: Nanos) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp_nanos(at);
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// The line of an application's log. What is no log at all is still a line, so that it is counted.
pub(super) fn app(log: &Value) -> AppLog {
    let text = |name: &str| log.get(name).and_then(Value::as_str);
    let at = text("timestamp").and_then(read_time);
    let deployment = log.get("tags").and_then(|tags| tags.get("deploymentId"));
    let deployment = deployment.and_then(Value::as_str).map(str::to_owned);
    if !log.is_object() {
        return AppLog { line: log.to_string().into_bytes(), at, request: None, deployment };
    }
    let attributes = attributes(log);
    let has = |name: &str| attributes.iter().any(|(key, _)| key == name);
    let leveled = attributes.iter().any(|(key, _)| key.eq_ignore_ascii_case("level"));
    let empty = text("message").is_none_or(str::is_empty);
    if empty && attributes.len() == usize::from(leveled) {
        // The platform's own noise.
        return AppLog { line: Vec::new(), at, request: None, deployment };
    }
    let mut line = Object::default();
    for name in ["message", "timestamp"] {
        // As on the command line, the application's own goes before Railway's.
        if let Some(value) = log.get(name).filter(|value| !value.is_null() && !has(name)) {
            line.put(name, &value.to_string());
        }
    }
    if let Some(severity) = text("severity").filter(|severity| !leveled && !severity.is_empty()) {
        line.put("level", &Value::from(severity).to_string());
    }
    for (key, value) in &attributes {
        line.put(key, value);
    }
    // An application's own time is often of whole seconds: without Railway's, two failures within one
    // would be the same line, and count once.
    let railways = log.get("timestamp").filter(|value| !value.is_null());
    if let Some(value) = railways.filter(|_| has("timestamp") && !has(RAILWAY_TIME)) {
        line.put(RAILWAY_TIME, &value.to_string());
    }
    AppLog { line: line.end(), at, request: request(&attributes), deployment }
}

/// The attributes of a log by name, their values as JSON on one line.
fn attributes(log: &Value) -> Vec<(String, String)> {
    let list = log.get("attributes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut all: Vec<(String, String)> = list
        .iter()
        .filter_map(|one| {
            let value = one.get("value").unwrap_or(&Value::Null);
            let value = value.as_str().map_or_else(|| value.to_string(), as_json);
            Some((one.get("key")?.as_str()?.to_owned(), value))
        })
        .collect();
    all.sort();
    all
}

/// A value that is JSON as it is, on one line; any other as a text.
fn as_json(value: &str) -> String {
    match serde_json::from_str::<IgnoredAny>(value) {
        // A line break in valid JSON stands between its parts.
        Ok(_) => value.trim().replace(['\n', '\r'], " "),
        Err(_) => Value::from(value).to_string(),
    }
}

/// The id of the request that the attributes name, if they name one only.
fn request(attributes: &[(String, String)]) -> Option<String> {
    let named = |names: &[&str]| {
        let mut ids = attributes.iter().filter(|(key, _)| names.contains(&bare(key).as_str()));
        let first = ids.next()?;
        // Where two differ, neither is used.
        Some(ids.all(|other| other.1 == first.1).then(|| id_of(&first.1)).flatten())
    };
    named(&EDGE_NAMES).or_else(|| named(&REQUEST_NAMES)).flatten()
}

fn bare(key: &str) -> String {
    let letters = key.chars().filter(|c| !matches!(c, '_' | '-' | '.'));
    letters.take(ID_MAX).map(|c| c.to_ascii_lowercase()).collect()
}

fn id_of(json: &str) -> Option<String> {
    let id = match serde_json::from_str(json).ok()? {
        Value::String(text) => text,
        Value::Number(_) => json.to_owned(),
        _ => return None,
    };
    is_id(&id).then_some(id)
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= ID_MAX
}

/// The line of an HTTP log.
pub(super) fn http(log: &Value) -> HttpLog {
    let text = |name: &str| log.get(name).and_then(Value::as_str);
    let at = text("timestamp").and_then(read_time);
    let took = log.get("totalDuration").and_then(Value::as_f64).unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "an hour at most")]
    let took = (took.clamp(0.0, DURATION_MAX) * 1e6) as Nanos;
    let request = text("requestId").filter(|id| is_id(id)).map(str::to_owned);
    let source = text("srcIp").and_then(|ip| ip.trim().parse::<IpAddr>().ok());
    // An IPv4 address is the same one however it is written.
    let source = source.map(|ip| ip.to_canonical());
    let line = if log.is_object() {
        let mut line = Object::default();
        for name in HTTP_FIELDS {
            if let Some(value) = log.get(name).filter(|value| !value.is_null()) {
                line.put(name, &value.to_string());
            }
        }
        line.end()
    } else {
        log.to_string().into_bytes()
    };
    HttpLog { line, at, until: at.map(|at| at.saturating_add(took)), request, source }
}

/// A JSON object that is being written.
#[derive(Default)]
struct Object(String);

impl Object {
    fn put(&mut self, key: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&Value::from(key).to_string());
        self.0.push(':');
        self.0.push_str(json);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0.into_bytes()
    }
}

/// Reads a message of the server. Halves of characters in escapes, which JSON allows and UTF-8 cannot
/// say, become U+FFFD: one of them must not hide the logs beside it.
pub(super) fn read_message(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| {
        whole_characters(text).map_or(Err(error), |mended| serde_json::from_str(&mended))
    })
}

/// `text` with every escape of half a character replaced; none if there is none.
fn whole_characters(text: &str) -> Option<String> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let bytes = text.as_bytes();
    let (mut out, mut from, mut at) = (String::new(), 0, 0);
    while let Some(found) = memchr::memchr(b'\\', bytes.get(at..)?) {
        at += found;
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(text.get(from..at)?);
                out.push_str("\\ufffd");
                at += 6;
                from = at;
            }
            _ => at += 2,
        }
        if at >= bytes.len() {
            break;
        }
    }
    out.push_str(text.get(from..)?);
    (from > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn log(attributes: &[(&str, &str)]) -> Value {
        let attributes: Vec<Value> =
            attributes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({
            "timestamp": "2025-08-03T22:30:00.123456789Z", "message": "hello", "severity": "warn",
            "tags": {"deploymentId": "d1"}, "attributes": attributes,
        })
    }

    fn line(attributes: &[(&str, &str)]) -> String {
        String::from_utf8(app(&log(attributes)).line).unwrap()
    }

    const HEAD: &str = r#"{"message":"hello","timestamp":"2025-08-03T22:30:00.123456789Z""#;

    #[test]
    fn a_log_is_a_line_as_the_command_line_prints_it() {
        assert_eq!(line(&[]), format!(r#"{HEAD},"level":"warn"}}"#));
        let text = line(&[("user_id", "\"00123\""), ("level", "\"error\""), ("line", "42")]);
        assert_eq!(text, format!(r#"{HEAD},"level":"error","line":42,"user_id":"00123"}}"#));
        let text = line(&[("level", "1"), ("a", "{\"b\":\n[1, null]}"), ("c", "007"), ("d", "")]);
        assert_eq!(text, format!(r#"{HEAD},"a":{{"b": [1, null]}},"c":"007","d":"","level":1}}"#));
        let text = line(&[("level", "1"), ("e", "\"x\\ny \\ud800\""), ("f", "two\nlines")]);
        assert_eq!(text, format!(r#"{HEAD},"e":"x\ny \ud800","f":"two\nlines","level":1}}"#));
    }

    #[test]
    fn the_order_of_attributes_changes_nothing() {
        let some = [("b", "1"), ("a", "\"x\""), ("level", "\"info\""), ("c", "true")];
        let mut turned = some;
        turned.reverse();
        assert_eq!(line(&some), line(&turned));
    }

    #[test]
    fn an_application_says_its_own_time_and_message() {
        let own = [("timestamp", "\"2020-01-01T00:00:00Z\""), ("level", "1")];
        let read = app(&log(&own));
        let expected = r#"{"message":"hello","level":1,"timestamp":"2020-01-01T00:00:00Z","railway_timestamp":"2025-08-03T22:30:00.123456789Z"}"#;
        assert_eq!(String::from_utf8(read.line).unwrap(), expected);
        assert_eq!(read.at, read_time("2025-08-03T22:30:00.123456789Z"));
        assert_eq!(read.deployment.as_deref(), Some("d1"));
        let own = [("message", "\"mine\""), ("message", "\"two\""), ("level", "1")];
        let expected = r#"{"timestamp":"2025-08-03T22:30:00.123456789Z","level":1,"message":"mine","message":"two"}"#;
        assert_eq!(line(&own), expected);
    }

    #[test]
    fn noise_is_an_empty_line_and_what_is_odd_is_a_line() {
        for attributes in [json!([]), json!([{"key": "level", "value": "\"info\""}]), json!(null)] {
            let noise = json!({"timestamp": "2025-08-03T22:30:00Z", "message": "", "attributes": attributes});
            assert_eq!(app(&noise).line, b"");
        }
        let full = json!({"message": "", "attributes": [{"key": "user", "value": "1"}]});
        assert_eq!(app(&full).line, br#"{"message":"","user":1}"#);
        for odd in [json!(null), json!("text\n"), json!([1])] {
            assert_eq!(app(&odd).line, odd.to_string().into_bytes());
            assert_eq!(http(&odd).line, odd.to_string().into_bytes());
        }
        let odd = json!({"message": {"a": "\n"}, "attributes": [7, {"key": 1}, {"key": "k"}, {"key": "l", "value": 5}]});
        assert_eq!(app(&odd).line, br#"{"message":{"a":"\n"},"k":null,"l":5}"#);
    }

    #[test]
    fn a_request_has_one_id() {
        let of = |attributes: &[(&str, &str)]| app(&log(attributes)).request;
        for key in ["requestId", "request_id", "X-Request-Id", "REQUEST-ID", "http.request.id"] {
            assert_eq!(of(&[(key, "\"r1\"")]).as_deref(), Some("r1"), "{key}");
        }
        assert_eq!(of(&[("request_id", "r1")]).as_deref(), Some("r1"));
        assert_eq!(of(&[("request_id", "12")]).as_deref(), Some("12"));
        assert_eq!(of(&[("request_id", "\"r1\""), ("requestId", "\"r1\"")]).as_deref(), Some("r1"));
        assert_eq!(of(&[("request_id", "\"r1\""), ("requestId", "\"r2\"")]), None);
        let both = [("request_id", "\"mine\""), ("x-railway-request-id", "\"edge\"")];
        assert_eq!(of(&both).as_deref(), Some("edge"));
        let long = format!("\"{}\"", "r".repeat(ID_MAX + 1));
        for none in ["\"\"", "null", "{}", "true", &long] {
            assert_eq!(of(&[("request_id", none)]), None, "{none}");
        }
        assert_eq!(of(&[("note", "\"request_id=r1\"")]), None);
    }

    #[test]
    fn two_logs_of_one_second_of_the_applications_clock_are_two_lines() {
        let own = [("timestamp", "\"2020-01-01T00:00:00Z\"")];
        let (first, mut second) = (log(&own), log(&own));
        assert_eq!(app(&first), app(&second));
        second["timestamp"] = json!("2025-08-03T22:30:00.123456790Z");
        assert_ne!(app(&first).line, app(&second).line);
    }

    #[test]
    fn an_http_log_has_its_fields_in_their_order() {
        let read = http(&json!({
            "srcIp": "203.0.113.1", "timestamp": "2026-06-16T00:15:14.000Z", "path": "/a\nb",
            "httpStatus": 200, "totalDuration": 1500, "requestId": "r1", "unknown": 1, "host": null,
        }));
        let expected = r#"{"timestamp":"2026-06-16T00:15:14.000Z","path":"/a\nb","httpStatus":200,"totalDuration":1500,"requestId":"r1","srcIp":"203.0.113.1"}"#;
        assert_eq!(String::from_utf8(read.line).unwrap(), expected);
        assert_eq!(read.until.unwrap() - read.at.unwrap(), 1_500_000_000);
        assert_eq!(read.source, Some("203.0.113.1".parse().unwrap()));
        assert_eq!(read.request.as_deref(), Some("r1"));
        let mapped = http(&json!({"srcIp": "::ffff:203.0.113.1"}));
        assert_eq!(mapped.source, read.source);
        let odd = http(&json!({"srcIp": "nobody", "totalDuration": 1e300, "timestamp": "now"}));
        assert_eq!((odd.source, odd.at, odd.until, odd.request), (None, None, None, None));
    }

    #[test]
    fn half_a_character_hides_nothing() {
        let text = r#"{"a":"\ud800","b":"\\ud800 \ud83d\ude00 \udc00x","c":"\n\ud83d"}"#;
        assert!(serde_json::from_str::<Value>(text).is_err());
        let read = read_message(text).unwrap();
        assert_eq!(read["a"], "\u{fffd}");
        assert_eq!(read["b"], "\\ud800 \u{1f600} \u{fffd}x");
        assert_eq!(read["c"], "\n\u{fffd}");
        for broken in ["{\"a\":\"\\", "{\"a\":\"\\ud8", "", "{\"a\":\"\\ud800"] {
            assert!(read_message(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn times_keep_their_nanoseconds() {
        for text in ["2025-08-03T22:30:00.123456789Z", "1970-01-01T00:00:00.000000001Z"] {
            assert_eq!(write_time(read_time(text).unwrap()), text);
        }
        assert_eq!(read_time("2025-08-03T22:30:00"), None);
    }
}
