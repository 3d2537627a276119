//! The Local API of CrowdSec, as bouncers need it.
//!
//! Every bouncer that speaks it works with Portcullis: a list of decisions with what is new since the
//! last look (`/v1/decisions/stream`), a question about one address (`/v1/decisions`), and a place to
//! drop usage figures (`/v1/usage-metrics`), which are not kept. What real bouncers stumble over is
//! avoided: both lists of a stream are always there, nothing found is exactly `null`, all texts of a
//! decision are filled, durations are whole positive seconds, values are canonical, answers are not
//! compressed, and parameters that are not known are passed over.

mod feed;
#[cfg(test)]
pub(super) mod histories;
mod spans;

use super::Shared;
use super::auth::Who;
use super::http::Connection;
use crate::decode::addr::{canonical, canonical_net, normalize_user};
use crate::decode::time::Micros;
use crate::telemetry::wall_clock;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Request, State};
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use feed::{Cursor, Feed, Filter, Told, Value};
use ipnet::IpNet;
use serde::Serialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where decisions come from, as bouncers are told; some name sets after it.
pub const ORIGIN: &str = "portcullis";

/// Bouncers whose place is remembered; of more, the one that was away longest is forgotten, and is
/// told everything when it comes again.
const SEERS_MAX: usize = 1_000;

/// Bytes of usage figures that are taken, as they arrive.
const METRICS_MAX: usize = 1 << 20;

/// Whoever asks: the name of its token, its address, and what it calls itself.
type Seer = (Arc<str>, Option<IpAddr>, String);

/// The wall clock, or a test's.
type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

#[derive(Default)]
struct Places {
    feed: Feed,
    seers: HashMap<Seer, Seen>,
    asked: u64,
}

/// What a bouncer has seen.
#[derive(Default)]
struct Seen {
    /// As far as it has read what it was told: what was lost on the way is told again.
    cursor: Option<Cursor>,
    /// Its latest question, by its number.
    asked: u64,
}

struct Lapi {
    places: Mutex<Places>,
    clock: Clock,
}

/// The paths of the Local API.
pub fn routes() -> Router<Arc<Shared>> {
    routes_by(Arc::new(wall_clock))
}

fn routes_by(clock: Clock) -> Router<Arc<Shared>> {
    let lapi = Arc::new(Lapi { places: Mutex::default(), clock });
    Router::new()
        // A HEAD asks whether the key is good; it must not cost its sender what is new.
        .route("/v1/decisions/stream", get(stream).head(empty))
        .route("/v1/decisions", get(live).head(empty))
        .route("/v1/usage-metrics", post(metrics))
        .layer(DefaultBodyLimit::max(METRICS_MAX))
        .layer(Extension(lapi))
}

async fn empty() -> StatusCode {
    StatusCode::OK
}

/// Figures are taken, compressed or not, and not kept.
async fn metrics(_figures: Bytes) -> StatusCode {
    StatusCode::CREATED
}

#[derive(Serialize)]
struct Decision<'a> {
    id: i64,
    origin: &'static str,
    r#type: &'static str,
    scope: &'static str,
    value: String,
    duration: String,
    scenario: &'a str,
}

impl<'a> From<&'a Told> for Decision<'a> {
    fn from(told: &'a Told) -> Self {
        Self {
            id: told.id,
            origin: ORIGIN,
            r#type: told.key.kind,
            scope: told.key.value.scope(),
            value: told.key.value.text(),
            duration: duration(told.left_s),
            scenario: &told.rule,
        }
    }
}

fn written(all: &[Told]) -> Vec<Decision<'_>> {
    all.iter().map(Decision::from).collect()
}

#[derive(Serialize)]
struct Stream<'a> {
    new: Vec<Decision<'a>>,
    deleted: Vec<Decision<'a>>,
}

/// As Go writes it, `3h59m57s`: bouncers read nothing else.
fn duration(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The parameters of an address, those that are given twice by their first.
struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    fn of(uri: &'a Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&');
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (unescaped(name), unescaped(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, value)| known == name && !value.is_empty());
        found.map(|(_, value)| value.as_ref())
    }

    fn list(&self, name: &str) -> Vec<String> {
        let words = self.get(name).unwrap_or_default().split(',').map(str::trim);
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn filter(&self) -> Filter {
        let origins = self.list("origins");
        Filter {
            scopes: None,
            containing: self.list("scenarios_containing"),
            not_containing: self.list("scenarios_not_containing"),
            origin: origins.is_empty() || origins.iter().any(|origin| origin == ORIGIN),
            kind: None,
        }
    }

    fn scopes(&self) -> Option<Vec<String>> {
        [self.list("scopes"), self.list("scope")].into_iter().find(|scopes| !scopes.is_empty())
    }
}

/// `%2C` and `+` undone.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| text.as_bytes().get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let escaped = (byte == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?)).flatten();
        match escaped.and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                bytes.push(value);
                at += 3;
            }
            None => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// Who sent a request.
fn who(request: &Request) -> Seer {
    const AGENT_MAX: usize = 200;
    let agent = request.headers().get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let agent = String::from_utf8_lossy(agent.get(..AGENT_MAX).unwrap_or(agent)).into_owned();
    let who = request.extensions().get::<Who>();
    (who.map_or_else(|| "".into(), |who| Arc::clone(&who.name)), who.map(|who| who.peer), agent)
}

async fn stream(
    State(shared): State<Arc<Shared>>,
    Extension(lapi): Extension<Arc<Lapi>>,
    request: Request,
) -> Response {
    let query = Query::of(request.uri());
    let startup = query.get("startup") == Some("true");
    let mut filter = query.filter();
    let scopes = query.scopes();
    filter.scopes = Some(scopes.unwrap_or_else(|| vec!["ip".to_owned(), "range".to_owned()]));
    let who = who(&request);
    let (news, cursor) = {
        let mut places = lapi.places();
        places.feed.advance(&shared.board, (lapi.clock)());
        let seen = places.asks(&who).filter(|_| !startup);
        places.feed.news(seen, &filter)
    };
    let has_read = move || lapi.places().has_read(&who, cursor);
    match request.extensions().get::<Arc<Connection>>() {
        Some(connection) => connection.when_read(has_read),
        None => has_read(),
    }
    json(&Stream { new: written(&news.new), deleted: written(&news.deleted) })
}

impl Lapi {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Notes that a bouncer asks; what it has seen.
    fn asks(&mut self, who: &Seer) -> Option<Cursor> {
        self.asked += 1;
        let seen = self.seers.entry(who.clone()).or_default();
        seen.asked = self.asked;
        let cursor = seen.cursor;
        if self.seers.len() > SEERS_MAX {
            let longest_away = self.seers.iter().min_by_key(|(_, seen)| seen.asked);
            if let Some(who) = longest_away.map(|(who, _)| who.clone()) {
                self.seers.remove(&who);
            }
        }
        cursor
    }

    /// Notes that it has read what it was told.
    fn has_read(&mut self, who: &Seer, cursor: Cursor) {
        if let Some(seen) = self.seers.get_mut(who) {
            seen.cursor = seen.cursor.max(Some(cursor));
        }
    }
}

/// What is asked about.
enum About {
    /// Everything that the filter takes.
    All,
    /// An address or a range; whether those around it or those in it.
    Net(IpNet, bool),
    /// A value with its scope.
    One(Value),
    /// Something that nothing is ever decided about.
    Nothing,
}

fn about(query: &Query<'_>) -> Result<About, String> {
    let around = query.get("contains") != Some("false");
    if let Some(text) = query.get("ip") {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| format!("unable to convert '{text}' to int: invalid address"))?;
        return Ok(About::Net(canonical(ip).into(), around));
    }
    if let Some(text) = query.get("range") {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let net = net.map_err(|_| format!("unable to convert '{text}' to int: invalid range"))?;
        return Ok(About::Net(canonical_net(net), around));
    }
    let Some(text) = query.get("value") else { return Ok(About::All) };
    let scope = query.scopes().and_then(|scopes| scopes.into_iter().next()).unwrap_or_default();
    let name = normalize_user(text).unwrap_or_default().into_owned();
    let value = match scope.as_str() {
        "username" => Some(Value::Name(name.into())),
        "user_id" => Some(Value::Id(text.into())),
        _ => match text.parse::<IpNet>() {
            Ok(net) => Some(Value::Range(canonical_net(net))),
            Err(_) => text.parse().ok().map(|ip| Value::Ip(canonical(ip))),
        },
    };
    Ok(value.map_or(About::Nothing, About::One))
}

/// The values that hold all of a range: itself, and every shorter prefix.
fn around(net: IpNet) -> impl Iterator<Item = Value> {
    let whole = net.prefix_len() == net.max_prefix_len();
    let wider = std::iter::successors(Some(net), IpNet::supernet).map(Value::Range);
    whole.then_some(Value::Ip(net.addr())).into_iter().chain(wider)
}

async fn live(
    State(shared): State<Arc<Shared>>,
    Extension(lapi): Extension<Arc<Lapi>>,
    request: Request,
) -> Response {
    let query = Query::of(request.uri());
    let about = match about(&query) {
        Ok(about) => about,
        Err(message) => {
            let body = json(&serde_json::json!({ "message": message }));
            return (StatusCode::INTERNAL_SERVER_ERROR, body).into_response();
        }
    };
    let mut filter = query.filter();
    filter.scopes = query.scopes();
    filter.kind = query.get("type").map(str::to_owned);
    let found = {
        let mut places = lapi.places();
        let feed = &mut places.feed;
        feed.advance(&shared.board, (lapi.clock)());
        match about {
            About::All => feed.active(&filter, |_| true),
            About::Net(net, true) => feed.active_at(&filter, around(net)),
            About::Net(net, false) => feed.active(&filter, |value| match value {
                Value::Ip(ip) => net.contains(ip),
                Value::Range(inner) => net.contains(inner),
                Value::Name(_) | Value::Id(_) => false,
            }),
            About::One(value) => feed.active_at(&filter, std::iter::once(value)),
            About::Nothing => Vec::new(),
        }
    };
    // Some compare the text of the answer with `null`, and take an empty list for a hit.
    let found = Some(written(&found)).filter(|found| !found.is_empty());
    json(&found)
}

#[cfg(test)]
mod tests {
    use super::histories::line;
    use super::*;
    use crate::decide::board::Board;
    use crate::engine::ask::asking;
    use crate::serve::auth::Role;
    use axum::body::Body;
    use serde_json::Value as Json;
    use std::sync::atomic::{AtomicI64, Ordering};
    use tower::ServiceExt;

    const SECOND: Micros = 1_000_000;

    struct Server {
        board: Arc<Board>,
        app: Router,
        now: Arc<AtomicI64>,
    }

    impl Server {
        fn new() -> Self {
            let (board, now) = (Arc::new(Board::default()), Arc::new(AtomicI64::new(0)));
            let shared = Shared { board: Arc::clone(&board), asker: asking().0, state_dir: None };
            let clock = Arc::clone(&now);
            let app = routes_by(Arc::new(move || clock.load(Ordering::Relaxed)));
            Self { board, app: app.with_state(Arc::new(shared)), now }
        }

        fn say(&self, op: &str, id: u64, target: (&str, &str), until_s: i64, host: &str) {
            self.board.apply(&[line(op, id, target, 0, until_s * SECOND, host)]);
        }

        /// The answer to a bouncer that calls itself `agent`.
        fn answer(&self, method: &str, path: &str, agent: &str, body: Vec<u8>) -> (u16, String) {
            let request = Request::builder().method(method).uri(path).header(USER_AGENT, agent);
            let mut request = request.body(Body::from(body)).unwrap();
            let (name, peer) = ("bouncer".into(), IpAddr::from([127, 0, 0, 1]));
            request.extensions_mut().insert(Who { name, role: Role::Bouncer, peer });
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let answer = self.app.clone().oneshot(request).await.unwrap();
                let status = answer.status().as_u16();
                let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
                (status, String::from_utf8(body.to_vec()).unwrap())
            })
        }

        fn text(&self, path: &str) -> String {
            let (status, text) = self.answer("GET", path, "test/1", Vec::new());
            assert_eq!(status, 200, "{path}: {text}");
            text
        }

        /// The values of a list.
        fn values(&self, path: &str) -> Vec<String> {
            let found: Option<Vec<Json>> = serde_json::from_str(&self.text(path)).unwrap();
            let value = |found: Json| found["value"].as_str().unwrap().to_owned();
            found.unwrap_or_default().into_iter().map(value).collect()
        }

        /// The values that are new and those that are deleted.
        fn stream(&self, path: &str, agent: &str) -> (Vec<String>, Vec<String>) {
            let (_, text) = self.answer("GET", path, agent, Vec::new());
            let news: Json = serde_json::from_str(&text).unwrap();
            let of = |list: &str| {
                let list = news[list].as_array().unwrap().iter();
                list.map(|told| told["value"].as_str().unwrap().to_owned()).collect()
            };
            (of("new"), of("deleted"))
        }
    }

    const STREAM: &str = "/v1/decisions/stream";

    #[test]
    fn the_bytes_are_those_that_bouncers_read() {
        let server = Server::new();
        assert_eq!(server.text(STREAM), r#"{"new":[],"deleted":[]}"#);
        assert_eq!(server.text("/v1/decisions?ip=203.0.113.9"), "null");
        server.say("start", 0xffff_ffff_ffff_fff0, ("ip", "203.0.113.9"), 86_399, "");
        let decision = r#"{"id":9223372036854775800,"origin":"portcullis","type":"ban","scope":"Ip","value":"203.0.113.9","duration":"23h59m59s","scenario":"rule"}"#;
        assert_eq!(server.text(STREAM), format!(r#"{{"new":[{decision}],"deleted":[]}}"#));
        assert_eq!(server.text("/v1/decisions?ip=203.0.113.9"), format!("[{decision}]"));
        assert_eq!([1, 60, 3600, 90_061].map(duration), ["1s", "1m0s", "1h0m0s", "25h1m1s"]);
    }

    #[test]
    fn what_concerns_every_visitor_is_nothing_for_bouncers() {
        let server = Server::new();
        for (id, target) in [(2, ("global", "")), (4, ("ip", "203.0.113.9"))] {
            let mut action = line("start", id, target, 0, 60 * SECOND, "");
            action.action = "under_attack";
            server.board.apply(&[action]);
        }
        assert_eq!(server.text(STREAM), r#"{"new":[],"deleted":[]}"#);
        assert_eq!(server.text("/v1/decisions?ip=203.0.113.9"), "null");
    }

    #[test]
    fn each_bouncer_has_its_place() {
        let server = Server::new();
        server.say("start", 2, ("ip", "203.0.113.9"), 60, "");
        let (path, none) = (format!("{STREAM}?startup=false&community_pull=false"), Vec::new());
        let all = (vec!["203.0.113.9".to_owned()], none.clone());
        for agent in ["a/1", "b/-"] {
            // Who was never here is told everything, whatever it says.
            assert_eq!(server.stream(&path, agent), all);
            assert_eq!(server.stream(&path, agent), (none.clone(), none.clone()));
        }
        server.say("end", 2, ("ip", "203.0.113.9"), 60, "");
        // A look at the key costs nothing of what is new.
        assert_eq!(server.answer("HEAD", &path, "a/1", Vec::new()), (200, String::new()));
        assert_eq!(server.answer("HEAD", "/v1/decisions", "a/1", Vec::new()).0, 200);
        for path in [&path, &format!("{STREAM}?startup=true"), &format!("{STREAM}?")] {
            let ended = (none.clone(), vec!["203.0.113.9".to_owned()]);
            let news = server.stream(path, "a/1");
            assert_eq!(
                news,
                if path.ends_with('?') { (none.clone(), none.clone()) } else { ended }
            );
        }
    }

    #[test]
    fn who_was_told_before_a_restart_hears_of_an_end_in_the_last_second() {
        let server = Server::new();
        server.say("start", 2, ("ip", "203.0.113.9"), 60, "");
        // After it nobody's place is known, and nothing was told yet.
        server.now.store(60 * SECOND - SECOND / 2, Ordering::Relaxed);
        let ended = (Vec::new(), vec!["203.0.113.9".to_owned()]);
        assert_eq!(server.stream(STREAM, "a/1"), ended);
        server.now.store(62 * SECOND, Ordering::Relaxed);
        assert_eq!(server.stream(&format!("{STREAM}?startup=true"), "a/1"), ended);
    }

    #[test]
    fn an_end_is_told_when_time_is_up() {
        let server = Server::new();
        server.say("start", 2, ("ip", "203.0.113.9"), 60, "");
        assert_eq!(server.stream(STREAM, "a/1").0.len(), 1);
        server.now.store(60 * SECOND, Ordering::Relaxed);
        assert_eq!(server.stream(STREAM, "a/1"), (Vec::new(), vec!["203.0.113.9".to_owned()]));
        assert_eq!(server.text("/v1/decisions?ip=203.0.113.9"), "null");
    }

    #[test]
    fn a_range_comes_with_those_of_its_addresses_that_offended() {
        let server = Server::new();
        let range = ("range", "2001:db8:66::/64");
        server.say("start", 2, range, 60, "2001:db8:66::1");
        let (new, _) = server.stream(STREAM, "a/1");
        assert_eq!(new, ["2001:db8:66::/64", "2001:db8:66::1"]);
        // Of many, the oldest is let go.
        for host in 2..=17 {
            server.say("extend", 2, range, 70, &format!("2001:db8:66::{host:x}"));
        }
        let (new, deleted) = server.stream(STREAM, "a/1");
        assert_eq!((new.len(), deleted), (17, vec!["2001:db8:66::1".to_owned()]));
        server.say("end", 2, range, 60, "");
        assert_eq!(server.stream(STREAM, "a/1").1.len(), 17);
        assert_eq!(server.text("/v1/decisions"), "null");
    }

    #[test]
    fn only_what_is_asked_for_is_told() {
        let server = Server::new();
        server.say("start", 2, ("ip", "203.0.113.9"), 60, "");
        server.say("start", 4, ("range", "198.51.100.0/24"), 60, "");
        server.say("start", 6, ("user", "alice@example.org"), 60, "");
        server.say("start", 8, ("ip", "2001:db8::9"), 60, "");
        let count =
            |query: &str| server.stream(&format!("{STREAM}?startup=true&{query}"), "a/1").0.len();
        assert_eq!(count(""), 3);
        assert_eq!(count("scopes=IP%2Crange%2Cusername"), 4);
        assert_eq!(count("scopes=username"), 1);
        assert_eq!(count("scopes=country,as"), 0);
        assert_eq!(count("origins=crowdsec,portcullis&dedup=false"), 3);
        assert_eq!(count("origins=CAPI"), 0);
        assert_eq!(count("scenarios_containing=ssh,RUL"), 3);
        assert_eq!(count("scenarios_containing=ssh"), 0);
        assert_eq!(count("scenarios_not_containing=ule"), 0);

        let at = |query: &str| server.values(&format!("/v1/decisions?{query}"));
        assert_eq!(at("ip=198.51.100.7"), ["198.51.100.0/24"]);
        assert_eq!(at("ip=::ffff:203.0.113.9&foo=bar"), ["203.0.113.9"]);
        assert_eq!(at("ip=2001:0DB8:0::9"), ["2001:db8::9"]);
        assert_eq!(at("range=198.51.100.128/25"), ["198.51.100.0/24"]);
        assert_eq!(at("range=198.51.0.0/16"), [""; 0]);
        assert_eq!(at("range=198.51.0.0/16&contains=false"), ["198.51.100.0/24"]);
        assert_eq!(at("scope=username&value=Alice%40example.org"), ["alice@example.org"]);
        assert_eq!(at("scope=Ip&value=203.0.113.9&type=ban"), ["203.0.113.9"]);
        assert_eq!(at("ip=203.0.113.9&type=captcha"), [""; 0]);
        assert_eq!(at("").len(), 4);
        let (status, body) =
            server.answer("GET", "/v1/decisions?ip=not%20an%20ip", "a/1", Vec::new());
        assert_eq!(status, 500);
        assert!(body.contains("unable to convert 'not an ip' to int"), "{body}");
    }

    #[test]
    fn figures_are_taken_as_they_come_but_not_without_end() {
        let server = Server::new();
        let post = |body| server.answer("POST", "/v1/usage-metrics", "a/1", body);
        assert_eq!(post(b"\x1f\x8b\x08garbage".to_vec()), (201, String::new()));
        assert_eq!(post(vec![b' '; METRICS_MAX + 1]).0, 413);
        assert_eq!(
            server.answer("GET", "/v1/usage-metrics", "a/1", Vec::new()),
            (405, String::new())
        );
    }

    #[test]
    fn what_was_only_watched_or_told_is_nobodys_to_enforce() {
        let server = Server::new();
        let mut action = line("start", 2, ("ip", "203.0.113.9"), 0, 60 * SECOND, "");
        action.mode = "shadow";
        let mut alert = line("start", 4, ("ip", "203.0.113.10"), 0, 60 * SECOND, "");
        alert.action = "alert";
        let held = line("withheld", 6, ("ip", "203.0.113.11"), 0, 60 * SECOND, "");
        let all = line("start", 8, ("range", "0.0.0.0/0"), 0, 60 * SECOND, "");
        let odd = line("start", 10, ("ip", "not-an-ip"), 0, 60 * SECOND, "");
        server.board.apply(&[action, alert, held, all, odd]);
        assert_eq!(server.text("/v1/decisions"), "null");
        assert_eq!(server.text(STREAM), r#"{"new":[],"deleted":[]}"#);
    }

    #[test]
    fn bouncers_that_come_and_go_do_not_pile_up() {
        let mut places = Places::default();
        for n in 0..SEERS_MAX + 10 {
            places.asks(&("bouncer".into(), None, n.to_string()));
            places.asks(&("bouncer".into(), None, "steady".to_owned()));
        }
        assert_eq!(places.seers.len(), SEERS_MAX);
        assert!(places.seers.contains_key(&("bouncer".into(), None, "steady".to_owned())));
    }
}
