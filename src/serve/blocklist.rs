//! Lists of blocked addresses for those who fetch a file: firewalls, nginx, HAProxy.
//!
//! `GET /blocklist?family=4&format=nginx`. One address or range a line, sorted, and nothing else: some
//! firewalls take a heading for an address that they cannot read. The tag is of the content, so that
//! who has it already is told so in a few bytes.

use super::{Shared, reply};
use crate::decode::addr::{canonical, canonical_net};
use crate::decode::time::Micros;
use crate::telemetry::wall_clock;
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LAST_MODIFIED};
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::get;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The wall clock, or a test's.
type Clock = Arc<dyn Fn() -> Micros + Send + Sync>;

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
    All,
}

/// How they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Format {
    Plain,
    Nginx,
    HaProxy,
}

const FAMILIES: [(&str, Family); 3] = [("4", Family::V4), ("6", Family::V6), ("all", Family::All)];
const FORMATS: [(&str, Format); 3] =
    [("plain", Format::Plain), ("nginx", Format::Nginx), ("haproxy", Format::HaProxy)];

/// A list as it was made last.
#[derive(Debug, Clone)]
struct List {
    /// Made after this change of the board.
    change: u64,
    /// It holds until something in it ends.
    until: Micros,
    text: Arc<str>,
    tag: HeaderValue,
    /// Whole seconds since 1970.
    modified: i64,
}

struct Lists {
    made: Mutex<HashMap<(Family, Format), List>>,
    clock: Clock,
}

/// The paths of the lists.
pub fn routes() -> Router<Arc<Shared>> {
    routes_by(Arc::new(wall_clock))
}

fn routes_by(clock: Clock) -> Router<Arc<Shared>> {
    Router::new()
        .route("/blocklist", get(list))
        .route("/blocklist.txt", get(list))
        .layer(Extension(Arc::new(Lists { made: Mutex::default(), clock })))
}

/// One of `known` by its name, `default` if nothing is asked for.
fn choice<T: Copy>(uri: &Uri, name: &str, known: &[(&str, T)], default: T) -> Result<T, String> {
    let query = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let asked = query.map_err(|why| why.body_text())?.0.into_iter().find(|(key, _)| key == name);
    let Some((_, value)) = asked else { return Ok(default) };
    let found = known.iter().find(|(text, _)| *text == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(text, _)| *text).collect();
        format!("`{name}` must be one of {}", names.join(", "))
    })
}

/// What a target covers.
fn net_of(kind: &str, text: &str) -> Option<IpNet> {
    match kind {
        "ip" => Some(canonical(text.parse::<IpAddr>().ok()?).into()),
        "range" => Some(canonical_net(text.parse().ok()?)),
        _ => None,
    }
}

fn make(shared: &Shared, family: Family, format: Format, now: Micros) -> List {
    let (active, change) = shared.board.active_and_last();
    let mut until = Micros::MAX;
    let mut nets = BTreeSet::new();
    for decision in active {
        let blocks = decision.is_enforced() && decision.action == "block" && decision.until > now;
        let Some(net) = net_of(&decision.target.kind, decision.target.text()) else { continue };
        let asked = match family {
            Family::V4 => net.addr().is_ipv4(),
            Family::V6 => net.addr().is_ipv6(),
            Family::All => true,
        };
        // Whoever takes /0 for an address or for all does harm.
        if blocks && asked && net.prefix_len() > 0 {
            until = until.min(decision.until);
            nets.insert(net);
        }
    }
    let mut text = String::new();
    for net in nets {
        let whole = net.prefix_len() == net.max_prefix_len();
        let line = if whole { net.addr().to_string() } else { net.to_string() };
        let end = if format == Format::Nginx { " 1;" } else { "" };
        let _ = writeln!(text, "{line}{end}");
    }
    let digest = Sha256::digest(text.as_bytes());
    let mut tag = String::from("\"");
    digest.iter().take(16).for_each(|byte| {
        let _ = write!(tag, "{byte:02x}");
    });
    tag.push('"');
    let tag = HeaderValue::from_str(&tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    List { change, until, text: text.into(), tag, modified: now.div_euclid(1_000_000) }
}

impl Lists {
    fn get(&self, shared: &Shared, family: Family, format: Format) -> List {
        let now = (self.clock)();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let before = made.get(&(family, format));
        if let Some(list) = before
            && list.change == shared.board.last()
            && now < list.until
        {
            return list.clone();
        }
        let mut list = make(shared, family, format, now);
        if let Some(before) = before.filter(|before| before.tag == list.tag) {
            list.modified = before.modified;
        }
        made.insert((family, format), list.clone());
        list
    }
}

/// Whether one of the tags in `If-None-Match` is this one.
fn has(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|value| value == "*" || Some(value.trim_start_matches("W/")) == tag.to_str().ok())
}

/// As headers write an instant.
fn instant(seconds: i64) -> String {
    let at = chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    at.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(lists): Extension<Arc<Lists>>,
    request: Request,
) -> Response<Body> {
    let family = choice(request.uri(), "family", &FAMILIES, Family::All);
    let format = choice(request.uri(), "format", &FORMATS, Format::Plain);
    let (family, format) = match (family, format) {
        (Ok(family), Ok(format)) => (family, format),
        (Err(why), _) | (_, Err(why)) => {
            return reply::error(StatusCode::BAD_REQUEST, "bad_request", &why);
        }
    };
    let list = lists.get(&shared, family, format);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (ETAG, list.tag.clone()),
        (LAST_MODIFIED, HeaderValue::from_str(&instant(list.modified)).unwrap_or(list.tag.clone())),
    ];
    if has(request.headers(), &list.tag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, list.text.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::board::Board;
    use crate::engine::ask::asking;
    use crate::serve::lapi::histories::line;
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

        fn block(&self, id: u64, kind: &str, value: &str, until_s: i64) {
            self.board.apply(&[line("start", id, (kind, value), 0, until_s * SECOND, "")]);
        }

        fn ask(&self, path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, String) {
            let mut request = Request::builder().uri(path);
            if let Some(tag) = tag {
                request = request.header(IF_NONE_MATCH, tag);
            }
            let request = request.body(Body::empty()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let answer = self.app.clone().oneshot(request).await.unwrap();
                let (parts, body) = answer.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
            })
        }

        fn text(&self, path: &str) -> String {
            self.ask(path, None).2
        }
    }

    #[test]
    fn a_list_is_sorted_and_has_one_address_a_line_and_nothing_else() {
        let server = Server::new();
        assert_eq!(server.text("/blocklist"), "");
        server.block(1, "range", "2001:db8:1:2::/64", 100);
        server.block(2, "ip", "203.0.113.10", 100);
        server.block(3, "ip", "203.0.113.9", 100);
        server.block(4, "range", "198.51.100.0/24", 100);
        server.block(5, "user", "alice@example.org", 100);
        let mut attack = line("start", 6, ("ip", "203.0.113.11"), 0, 100 * SECOND, "");
        attack.action = "under_attack";
        server.board.apply(&[attack]);
        let v4 = "198.51.100.0/24\n203.0.113.9\n203.0.113.10\n";
        let v6 = "2001:db8:1:2::/64\n";
        assert_eq!(server.text("/blocklist"), format!("{v4}{v6}"));
        assert_eq!(server.text("/blocklist.txt?family=4"), v4);
        assert_eq!(server.text("/blocklist?format=haproxy&family=6"), v6);
        assert_eq!(server.text("/blocklist?family=6&format=nginx"), "2001:db8:1:2::/64 1;\n");
        assert_eq!(server.text("/blocklist?family=%34"), v4);
        for wrong in ["family=5", "family"] {
            let (status, ..) = server.ask(&format!("/blocklist?{wrong}"), None);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
        }
        let why = server.text("/blocklist?format=pf");
        assert!(why.contains("`format` must be one of plain, nginx, haproxy"), "{why}");
    }

    #[test]
    fn whoever_has_the_list_is_not_sent_it_again() {
        let server = Server::new();
        server.block(1, "ip", "203.0.113.9", 10);
        server.block(2, "ip", "203.0.113.10", 20);
        let (status, headers, _) = server.ask("/blocklist", None);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[LAST_MODIFIED], "Thu, 01 Jan 1970 00:00:00 GMT");
        let tag = headers[ETAG].to_str().unwrap().to_owned();
        server.now.store(5 * SECOND, Ordering::Relaxed);
        // A change that changes nothing here.
        server.block(3, "user", "alice@example.org", 100);
        for tags in [tag.clone(), format!("\"x\", W/{tag}"), "*".to_owned()] {
            let (status, headers, body) = server.ask("/blocklist", Some(&tags));
            assert_eq!((status, body.as_str()), (StatusCode::NOT_MODIFIED, ""));
            assert_eq!(headers[LAST_MODIFIED], "Thu, 01 Jan 1970 00:00:00 GMT");
        }
        // An end changes the list although nobody said it.
        server.now.store(10 * SECOND, Ordering::Relaxed);
        let (status, headers, body) = server.ask("/blocklist", Some(&tag));
        assert_eq!((status, body.as_str()), (StatusCode::OK, "203.0.113.10\n"));
        assert_eq!(headers[LAST_MODIFIED], "Thu, 01 Jan 1970 00:00:10 GMT");
        assert_ne!(headers[ETAG], tag);
    }
}
