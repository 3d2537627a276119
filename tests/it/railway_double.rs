//! A stand-in for Railway's API, written from the shapes of its public schema: questions over HTTP and
//! subscriptions over websockets on one port. It keeps logs and deployments, serves them with the
//! API's limits, and misbehaves when a test tells it to. It serves until it is dropped.
#![allow(dead_code, reason = "each test module uses some of it")]

use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, accept_hdr};

/// How long something is waited for: long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a connection looks for what is new.
const TURN: Duration = Duration::from_millis(10);
/// The ids of what is there at the beginning.
pub const PROJECT: &str = "aaaaaaaa-0000-4000-8000-000000000001";
pub const ENVIRONMENT: &str = "aaaaaaaa-0000-4000-8000-000000000002";
pub const SERVICE: &str = "aaaaaaaa-0000-4000-8000-000000000003";
pub const WORKER: &str = "aaaaaaaa-0000-4000-8000-000000000004";
pub const DEPLOYMENT: &str = "aaaaaaaa-0000-4000-8000-000000000005";
pub const ACCOUNT_TOKEN: &str = "account-sesame";
pub const PROJECT_TOKEN: &str = "project-sesame";

/// An instant as Railway writes it, `nanos` after 2025-08-03T22:30:00Z.
pub fn time(nanos: i64) -> String {
    let at = chrono::DateTime::from_timestamp_nanos(1_754_260_200_000_000_000 + nanos);
    at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// Now, as Railway writes it.
#[allow(clippy::disallowed_methods, reason = "the stand-in lives now")]
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = chrono::DateTime::from_timestamp_nanos(i64::try_from(since.as_nanos()).unwrap());
    at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

fn nanos(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_nanos_opt().unwrap()
}

/// A log of the service's deployment, with attributes as JSON.
pub fn log(at: &str, message: &str, attributes: &[(&str, &str)]) -> Value {
    log_of(SERVICE, DEPLOYMENT, at, message, attributes)
}

/// A log of any deployment.
pub fn log_of(
    service: &str,
    deployment: &str,
    at: &str,
    message: &str,
    attributes: &[(&str, &str)],
) -> Value {
    let attributes: Vec<Value> =
        attributes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    json!({
        "timestamp": at, "message": message, "severity": "info", "attributes": attributes,
        "tags": {
            "projectId": PROJECT, "environmentId": ENVIRONMENT, "pluginId": null,
            "serviceId": service, "deploymentId": deployment,
            "deploymentInstanceId": null, "snapshotId": null,
        },
    })
}

/// A log of the edge about a request.
pub fn http_log(at: &str, request: &str, ip: &str) -> Value {
    json!({
        "timestamp": at, "method": "POST", "path": "/login", "httpStatus": 401, "totalDuration": 42,
        "requestId": request, "host": "shop.up.railway.app", "clientUa": "curl", "srcIp": ip,
        "edgeRegion": "us-east4", "txBytes": 100, "rxBytes": 20, "upstreamRqDuration": 41,
        "upstreamAddress": "10.0.0.1:8080", "upstreamProto": "HTTP/1.1", "downstreamProto": "HTTP/2.0",
        "upstreamErrors": "", "responseDetails": "", "deploymentId": DEPLOYMENT,
        "deploymentInstanceId": "i",
    })
}

type Hook = Box<dyn Fn(&str, &Value) -> Option<Value> + Send + Sync>;

/// What the stand-in knows and how it behaves.
#[derive(Default)]
struct World {
    environments: Vec<(String, String)>,
    services: Vec<(String, String)>,
    /// Service, id, status, and when it was made; newest last.
    deployments: Vec<(String, String, String, String)>,
    logs: Vec<Value>,
    http: HashMap<String, Vec<Value>>,
    /// Tokens that are not taken (any more).
    revoked: HashSet<String>,
    /// Connections of an older number are closed; in the middle of a message if so.
    generation: u64,
    torn: bool,
    /// No subscription and no question is answered sooner.
    delay: Duration,
    /// No frame is read or written: pings get no answer.
    frozen: bool,
    /// Each log is sent twice.
    twice: bool,
    /// No answer holds more logs, whatever is asked for.
    cap: Option<usize>,
    /// Queries for older logs are refused.
    no_history: bool,
    /// Subscriptions to this field fail with this message.
    failing: Option<(String, String)>,
    /// What is sent to every connection as it is.
    raw: Vec<String>,
    upgrades: Vec<HashMap<String, String>>,
    /// Pings that were heard, and answers to those of the protocol.
    pings: usize,
    pongs: usize,
    asked: Vec<(String, Value)>,
    subscribed: Vec<(String, Value)>,
    completed: Vec<String>,
}

struct Shared {
    world: Mutex<World>,
    hook: Mutex<Option<Hook>>,
    over: AtomicBool,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as it is told to be slow.
    fn idle(&self) {
        let begun = Instant::now();
        while begun.elapsed() < self.world().delay && !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(TURN);
        }
    }
}

/// The stand-in. Its threads end when it is dropped.
pub struct RailwayDouble {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl RailwayDouble {
    /// One project with one environment, the services `api` and `worker`, and one deployment of `api`.
    pub fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let world = World {
            environments: vec![(ENVIRONMENT.into(), "production".into())],
            services: vec![(SERVICE.into(), "api".into()), (WORKER.into(), "worker".into())],
            deployments: vec![(SERVICE.into(), DEPLOYMENT.into(), "SUCCESS".into(), time(0))],
            ..World::default()
        };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            hook: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let accepting = Some(std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        }));
        Self { address, shared, accepting }
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        format!("http://{}/graphql/v2", self.address)
    }

    fn change(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.shared.world());
    }

    /// Answers questions that the hook gives `data` for, and refuses those for which that is null; others
    /// are answered as usual. It is given the
    /// query's text and its variables.
    pub fn on_query(&self, hook: impl Fn(&str, &Value) -> Option<Value> + Send + Sync + 'static) {
        *self.shared.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
    }

    /// Adds a log, and sends it to who listens.
    pub fn log(&self, log: Value) {
        self.change(|world| world.logs.push(log));
    }

    /// Adds logs, which leave together.
    pub fn logs(&self, logs: impl IntoIterator<Item = Value>) {
        self.change(|world| world.logs.extend(logs));
    }

    /// Adds an HTTP log of a deployment.
    pub fn http(&self, deployment: &str, log: Value) {
        self.change(|world| world.http.entry(deployment.to_owned()).or_default().push(log));
    }

    /// Forgets all logs.
    pub fn forget(&self) {
        self.change(|world| {
            world.logs.clear();
            world.http.clear();
        });
        self.drop_connections();
    }

    /// A new deployment serves, those before it do not.
    pub fn redeploy(&self, service: &str, id: &str) {
        self.change(|world| {
            for one in world.deployments.iter_mut().filter(|one| one.0 == service) {
                one.2 = "REMOVED".into();
            }
            world.deployments.push((service.into(), id.into(), "SUCCESS".into(), now()));
        });
    }

    /// Adds a service.
    pub fn service(&self, id: &str, name: &str) {
        self.change(|world| world.services.push((id.into(), name.into())));
    }

    /// A token is not taken any more.
    pub fn revoke(&self, token: &str) {
        self.change(|world| {
            world.revoked.insert(token.into());
        });
    }

    /// A token is taken again.
    pub fn restore(&self, token: &str) {
        self.change(|world| {
            world.revoked.remove(token);
        });
    }

    /// Breaks all connections.
    pub fn drop_connections(&self) {
        self.change(|world| world.generation += 1);
    }

    /// Breaks all connections in the middle of a message.
    pub fn tear_connections(&self) {
        self.change(|world| (world.generation, world.torn) = (world.generation + 1, true));
    }

    /// Answers nothing sooner than this.
    pub fn slow(&self, delay: Duration) {
        self.change(|world| world.delay = delay);
    }

    /// Reads and writes nothing, not even answers to pings, or does so again.
    pub fn freeze(&self, frozen: bool) {
        self.change(|world| world.frozen = frozen);
    }

    /// Sends each log twice.
    pub fn twice(&self) {
        self.change(|world| world.twice = true);
    }

    /// Gives no more logs at once than this, in answers to questions and at the beginning of subscriptions.
    pub fn cap(&self, cap: usize) {
        self.change(|world| world.cap = Some(cap));
    }

    /// Refuses questions for older logs.
    pub fn no_history(&self) {
        self.change(|world| world.no_history = true);
    }

    /// Subscriptions to a field fail, or do not any more.
    pub fn fail(&self, failing: Option<(&str, &str)>) {
        let failing = failing.map(|(field, why)| (field.to_owned(), why.to_owned()));
        self.change(|world| world.failing = failing);
    }

    /// Sends every connection a message as it is.
    pub fn say(&self, text: &str) {
        self.change(|world| world.raw.push(text.to_owned()));
    }

    /// The headers of each upgrade, names in lower case.
    pub fn upgrades(&self) -> Vec<HashMap<String, String>> {
        self.shared.world().upgrades.clone()
    }

    /// Pings that it heard.
    pub fn pings(&self) -> usize {
        self.shared.world().pings
    }

    /// Answers to pings of the protocol, which were sent with [`say`](Self::say). One that answers has
    /// taken everything that was sent before.
    pub fn pongs(&self) -> usize {
        self.shared.world().pongs
    }

    /// The questions so far, with their variables.
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.shared.world().asked.clone()
    }

    /// The subscriptions so far, with their variables.
    pub fn subscribed(&self) -> Vec<(String, Value)> {
        self.shared.world().subscribed.clone()
    }

    /// Subscriptions that the client has ended.
    pub fn completed(&self) -> usize {
        self.shared.world().completed.len()
    }

    /// Waits for something to become true.
    pub fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for: {what}");
            std::thread::sleep(TURN);
        }
    }

    /// Waits until so many subscriptions to a field were made.
    pub fn until_subscribed(&self, field: &str, count: usize) {
        self.until(&format!("{count} subscriptions to {field}"), |double| {
            double.subscribed().iter().filter(|(query, _)| query.contains(field)).count() >= count
        });
    }
}

impl Drop for RailwayDouble {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        let _wakes_it = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _panicked = accepting.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut serving: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        if shared.over.load(Ordering::Relaxed) {
            break;
        }
        let Ok(stream) = stream else { continue };
        let shared = Arc::clone(shared);
        serving.push(std::thread::spawn(move || {
            let mut first = [0; 1];
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            match stream.peek(&mut first) {
                Ok(1) if first == *b"G" => subscriptions(stream, &shared),
                Ok(1) => questions(stream, &shared),
                _ => {}
            }
        }));
        serving.retain(|one| !one.is_finished());
    }
    for one in serving {
        let _panicked = one.join();
    }
}

/// Whether a token goes in the right header and is taken.
fn is_known(world: &World, header: impl Fn(&str) -> Option<String>) -> bool {
    let account =
        header("authorization").and_then(|text| Some(text.strip_prefix("Bearer ")?.to_owned()));
    let project = header("project-access-token");
    match (account, project) {
        (Some(token), None) => token == ACCOUNT_TOKEN && !world.revoked.contains(&token),
        (None, Some(token)) => token == PROJECT_TOKEN && !world.revoked.contains(&token),
        _ => false,
    }
}

/// Answers questions over HTTP, one after another.
fn questions(stream: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let (mut length, mut headers, mut line) = (0, HashMap::new(), String::new());
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => return,
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.trim().split_once(": ").unwrap();
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        if let Some(value) = headers.get("content-length") {
            length = value.parse().unwrap();
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let body: Value = serde_json::from_slice(&body).unwrap();
        let query = body["query"].as_str().unwrap_or_default().to_owned();
        let variables = body["variables"].clone();
        shared.idle();
        shared.world().asked.push((query.clone(), variables.clone()));
        let known = is_known(&shared.world(), |name| headers.get(name).cloned());
        let answer =
            if known { answer(shared, &query, &variables) } else { refusal("Not Authorized") };
        let text = answer.to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(text.as_bytes()))
            .is_err()
        {
            return;
        }
    }
}

fn refusal(why: &str) -> Value {
    json!({"errors": [{"message": why}], "data": null})
}

fn answer(shared: &Shared, query: &str, variables: &Value) -> Value {
    let hook = shared.hook.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(data) = hook.as_ref().and_then(|hook| hook(query, variables)) {
        let refused = data.is_null();
        return if refused { refusal("Not this one") } else { json!({ "data": data }) };
    }
    drop(hook);
    let world = shared.world();
    let nodes = |list: &[(String, String)]| {
        let list = list.iter().map(|(id, name)| json!({"node": {"id": id, "name": name}}));
        json!({ "edges": list.collect::<Vec<_>>() })
    };
    let asks = |field: &str| query.contains(&format!("{{ {field}"));
    let data = if asks("projectToken") {
        json!({"projectToken": {"projectId": PROJECT, "environmentId": ENVIRONMENT}})
    } else if asks("projects") {
        json!({"projects": nodes(&[(PROJECT.into(), "shop".into())])})
    } else if asks("project(") {
        if variables["id"] != PROJECT {
            return refusal("Project not found");
        }
        json!({"project": {
            "id": PROJECT, "name": "shop",
            "environments": nodes(&world.environments), "services": nodes(&world.services),
        }})
    } else if asks("deployments(") {
        let input = &variables["input"];
        let first = variables["first"].as_u64().unwrap() as usize;
        let of = world.deployments.iter().rev().filter(|one| input["serviceId"] == *one.0);
        let edges = of.take(first).map(
            |(_, id, status, made)| json!({"node": {"id": id, "status": status, "createdAt": made}}),
        );
        json!({"deployments": {"edges": edges.collect::<Vec<_>>()}})
    } else if asks("environmentLogs(") && !world.no_history {
        json!({"environmentLogs": window(&matching(&world.logs, variables), variables, world.cap)})
    } else if asks("httpLogs(") && !world.no_history {
        let id = variables["deploymentId"].as_str().unwrap();
        json!({"httpLogs": window(world.http.get(id).map_or(&[][..], Vec::as_slice), variables, world.cap)})
    } else {
        return refusal("Problem processing request");
    };
    json!({ "data": data })
}

/// The logs that a filter lets through: `@service:ID OR @service:ID`, or none.
fn matching(logs: &[Value], variables: &Value) -> Vec<Value> {
    let filter = variables["filter"].as_str().unwrap_or_default();
    let services: Vec<&str> =
        filter.split(" OR ").filter_map(|part| part.strip_prefix("@service:")).collect();
    let lets = |log: &&Value| {
        let service = log["tags"]["serviceId"].as_str().unwrap_or_default();
        services.is_empty() || services.contains(&service)
    };
    logs.iter().filter(lets).cloned().collect()
}

/// What a question for a window of time gives: the newest `beforeLimit` logs behind `beforeDate` up to
/// `anchorDate`, and the oldest `afterLimit` from there up to `afterDate`, in the order of time.
fn window(logs: &[Value], variables: &Value, cap: Option<usize>) -> Vec<Value> {
    let date = |name: &str| variables[name].as_str().map(nanos);
    let limit = |name: &str| {
        let limit = variables[name].as_u64().unwrap_or(0) as usize;
        cap.map_or(limit, |cap| limit.min(cap))
    };
    let at = |log: &Value| nanos(log["timestamp"].as_str().unwrap());
    let mut sorted = logs.to_vec();
    sorted.sort_by_key(at);
    let anchor = date("anchorDate").unwrap_or(i64::MAX);
    let (before, after): (Vec<Value>, Vec<Value>) =
        sorted.into_iter().partition(|log| at(log) <= anchor);
    let before: Vec<Value> = before
        .into_iter()
        .filter(|log| date("beforeDate").is_none_or(|date| at(log) > date))
        .collect();
    let skipped = before.len().saturating_sub(limit("beforeLimit"));
    let after =
        after.into_iter().filter(|log| date("afterDate").is_some_and(|date| at(log) <= date));
    before.into_iter().skip(skipped).chain(after.take(limit("afterLimit"))).collect()
}

/// A subscription on a connection.
struct Subscription {
    id: String,
    field: &'static str,
    variables: Value,
    /// Logs of the world that it has been given, or that came before it.
    done: usize,
}

#[allow(clippy::result_large_err, reason = "the type of a refusal is not ours")]
fn subscriptions(stream: TcpStream, shared: &Shared) {
    let raw = stream.try_clone().unwrap();
    let greet = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
        let mut world = shared.world();
        let headers = request.headers().iter();
        let headers =
            headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or_default().to_owned()));
        world.upgrades.push(headers.collect());
        if !is_known(&world, header) {
            let refusal = ErrorResponse::new(Some("Not Authorized".to_owned()));
            let (mut parts, body) = refusal.into_parts();
            parts.status = 401.try_into().unwrap();
            return Err(ErrorResponse::from_parts(parts, body));
        }
        if header("sec-websocket-protocol").as_deref() == Some("graphql-transport-ws") {
            let protocol = HeaderValue::from_static("graphql-transport-ws");
            response.headers_mut().insert("sec-websocket-protocol", protocol);
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr(stream, greet) else { return };
    raw.set_read_timeout(Some(TURN)).unwrap();
    // A client that reads nothing holds up its own thread only.
    raw.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    let generation = shared.world().generation;
    let mut said = shared.world().raw.len();
    let mut open: Vec<Subscription> = Vec::new();
    let mut ready = false;
    loop {
        let (over, frozen, torn) = {
            let world = shared.world();
            let over = shared.over.load(Ordering::Relaxed) || world.generation != generation;
            (over, world.frozen, world.torn)
        };
        if over {
            if torn {
                tear(&raw, &socket);
                shared.world().torn = false;
            }
            let _gone = raw.shutdown(Shutdown::Both);
            return;
        }
        if frozen {
            std::thread::sleep(TURN);
            continue;
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(text.as_str()).unwrap();
                if !hear(&mut socket, shared, &message, &mut ready, &mut open) {
                    return;
                }
            }
            Ok(Message::Ping(_)) => shared.world().pings += 1,
            Ok(_) => {}
            Err(Error::Io(error))
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        let mut out = Vec::new();
        {
            let world = shared.world();
            for subscription in &mut open {
                out.extend(news(subscription, &world));
            }
            let raw = world.raw.get(said..).unwrap_or_default();
            said += raw.len();
            out.extend_from_slice(raw);
        }
        if out.into_iter().any(|text| socket.send(Message::text(text)).is_err()) {
            return;
        }
    }
}

/// Takes a message of the client; gives false when that ends the connection.
fn hear(
    socket: &mut WebSocket<TcpStream>,
    shared: &Shared,
    message: &Value,
    ready: &mut bool,
    open: &mut Vec<Subscription>,
) -> bool {
    let id = message["id"].as_str().unwrap_or_default().to_owned();
    let mut say = |value: Value| socket.send(Message::text(value.to_string())).is_ok();
    shared.idle();
    match message["type"].as_str().unwrap() {
        "connection_init" => {
            *ready = true;
            say(json!({"type": "connection_ack"}))
        }
        "subscribe" => {
            assert!(*ready, "a subscription before connection_init");
            let query = message["payload"]["query"].as_str().unwrap().to_owned();
            let variables = message["payload"]["variables"].clone();
            let mut world = shared.world();
            world.subscribed.push((query.clone(), variables.clone()));
            let field =
                if query.contains("{ environmentLogs(") { "environmentLogs" } else { "httpLogs" };
            if let Some((_, why)) = world.failing.as_ref().filter(|(failing, _)| failing == field) {
                let why = why.clone();
                drop(world);
                return say(json!({"id": id, "type": "error", "payload": [{"message": why}]}));
            }
            let mut one = Subscription { id: id.clone(), field, variables, done: 0 };
            let all = everything(&one, &world);
            one.done = all.len();
            let was = window(&all, &one.variables, world.cap);
            drop(world);
            open.push(one);
            let text = json!({"id": id, "type": "next", "payload": {"data": {field: was}}});
            say(text)
        }
        "complete" => {
            open.retain(|one| one.id != id);
            shared.world().completed.push(id);
            true
        }
        "pong" => {
            shared.world().pongs += 1;
            true
        }
        "ping" => say(json!({"type": "pong"})),
        _ => true,
    }
}

fn everything(subscription: &Subscription, world: &World) -> Vec<Value> {
    if subscription.field == "environmentLogs" {
        return matching(&world.logs, &subscription.variables);
    }
    let id = subscription.variables["deploymentId"].as_str().unwrap();
    world.http.get(id).cloned().unwrap_or_default()
}

/// What is new for a subscription, as a message.
fn news(subscription: &mut Subscription, world: &World) -> Option<String> {
    let all = everything(subscription, world);
    let mut new: Vec<Value> = all.get(subscription.done..).unwrap_or_default().to_vec();
    subscription.done = all.len();
    if new.is_empty() {
        return None;
    }
    if world.twice {
        new.extend(new.clone());
    }
    let (id, field) = (&subscription.id, subscription.field);
    Some(json!({"id": id, "type": "next", "payload": {"data": {field: new}}}).to_string())
}

/// Sends the beginning of a message that has no end.
fn tear(mut raw: &TcpStream, socket: &WebSocket<TcpStream>) {
    let _open = socket.can_write();
    let _role = Role::Server;
    // A text frame of 1000 bytes, of which 40 come.
    let mut bytes = vec![0x81, 126, 0x03, 0xE8];
    bytes.extend_from_slice(&b"{\"id\":\"1\",\"type\":\"next\",\"payload\":{\"data\""[..40]);
    let _gone = raw.write_all(&bytes);
}
