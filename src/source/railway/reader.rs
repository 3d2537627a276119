//! The work of the source: one connection after another, and what comes over them in order.
//!
//! Everything happens on the caller's thread, in a runtime of its own; only questions to the API, which
//! wait for their answers, and looking up the host's address run beside it. So nothing is read while a
//! batch is being taken, and the bytes that come meanwhile wait where they are.

mod backlog;
mod deployments;
mod output;

use backlog::Backlog;
use deployments::Look;

use super::feed::{Feed, Gap, Log, PAGE_MIN, Taken, Turned, What, sort};
use super::join::Join;
use super::line::{HttpLog, Nanos, read_message, read_time, write_time};
use super::scope::{self, Around, NoScope, Scope};
use super::socket::{Broken, Heard, Socket};
use super::{RailwayError, RailwayEvent, RailwaySettings};
use crate::railway::{Api, ApiError, Token, is_unauthorized};
use crate::source::position::{Position, RailwayPosition};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// How often it is looked whether to stop, and at what is due.
const TICK: Duration = Duration::from_millis(50);
/// Longest silence that one wait counts for: in a longer one, this process stood still.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// What has worked for so long is sound: the next failure is a first one.
const SOUND: Duration = Duration::from_secs(30);
/// Without a refusal for so long, the first subscription is accepted.
const BEGUN: Duration = Duration::from_secs(5);
/// How long there may be no connection before that counts as a failure.
const AWAY_MAX: Duration = Duration::from_secs(60);
/// Subscriptions that may be opening at the same time, and for how long each counts.
const OPENING_MAX: usize = 3;
const OPENING: Duration = Duration::from_secs(1);
/// How far ahead of this machine's clock a log may be and still be believed.
const AHEAD_MAX: Nanos = 3_600_000_000_000;

/// Why a connection ends.
enum End {
    Stopped,
    Broken(Broken),
}

struct Reader<'a> {
    settings: &'a RailwaySettings,
    api: Api,
    stopping: &'a AtomicBool,
    on_event: &'a mut dyn FnMut(RailwayEvent) -> bool,
    /// Nobody wants more.
    refused: bool,
    started: Instant,
    scope: Scope,
    overlap: Nanos,
    /// Logs that are asked for at once.
    page: usize,
    /// The environment's is the first.
    feeds: Vec<Feed>,
    /// The next name of a subscription.
    next_id: u64,
    /// The first subscription is accepted.
    begun: bool,
    /// How long it was listened in vain. While a batch is being taken, nobody listens.
    silent: Duration,
    pinged_at: Instant,
    look: Option<Look>,
    look_due: Instant,
    looked_at: Option<Instant>,
    looks: u32,
    /// The deployments are known, if any look has succeeded.
    looked: bool,
    /// Behind where HTTP logs begin.
    http_from: Nanos,
    /// There was a known place.
    resumed: bool,
    /// What came while nobody read, while it is being fetched.
    backlog: Option<Backlog>,
    /// When there was a connection that had brought logs, or was sound, for the last time.
    lived: Instant,
    /// Since when there has been none.
    away: Option<Instant>,
    join: Join,
    bytes: Vec<u8>,
    edges: Vec<Option<IpAddr>>,
    /// Bytes handed over.
    start: u64,
    /// The newest times that were handed over.
    handed: Nanos,
    handed_http: Option<Nanos>,
    mark: Arc<Position>,
    /// Failures that were said and are not over.
    said: BTreeSet<&'static str>,
}

/// See [`super::stream`].
pub(super) fn stream(
    settings: &RailwaySettings,
    token: Token,
    known: Option<&RailwayPosition>,
    stopping: &AtomicBool,
    on_event: &mut dyn FnMut(RailwayEvent) -> bool,
) -> Result<(), RailwayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| RailwayError::Machine(error.to_string()))?;
    let api = Api::new(&settings.endpoint, token);
    let ended = runtime.block_on(async {
        let started = Instant::now();
        let stop = || stopping.load(Ordering::Relaxed);
        let Some(scope) = begin(settings, &api, started, &stop).await? else { return Ok(()) };
        Reader::new(settings, api, stopping, on_event, started, scope, known).run().await
    });
    // A question that is still under way is not waited for.
    runtime.shutdown_background();
    ended
}

/// Asks what is to be read; nothing if it was told to stop.
async fn begin(
    settings: &RailwaySettings,
    api: &Api,
    started: Instant,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Scope>, RailwayError> {
    let around = Around::from_env();
    let mut why = "there is no answer".to_owned();
    loop {
        let (own, around, asked) = (settings.clone(), around.clone(), api.clone());
        let mut task = spawn_blocking(move || {
            let mut ask = |query: &str, variables: &Value| asked.call(query, variables);
            scope::find(&own, asked.token(), &around, &mut ask)
        });
        let found = loop {
            if stop() {
                return Ok(None);
            }
            if started.elapsed() >= settings.start_max {
                return Err(unreachable_at(settings, why));
            }
            if let Ok(found) = timeout(TICK, &mut task).await {
                break found.map_err(|error| RailwayError::Machine(error.to_string()))?;
            }
        };
        match found {
            Ok(scope) => return Ok(Some(scope)),
            Err(NoScope::Never(error)) => return Err(error),
            Err(NoScope::Api(ApiError::Unauthorized(why))) => return Err(unauthorized(api, why)),
            Err(NoScope::Api(ApiError::Refused(why))) => return Err(RailwayError::Refused(why)),
            Err(NoScope::Api(error)) => why = error.to_string(),
        }
        sleep(settings.first_pause.min(Duration::from_secs(1))).await;
    }
}

fn unreachable_at(settings: &RailwaySettings, why: String) -> RailwayError {
    let seconds = settings.start_max.as_secs();
    RailwayError::Unreachable { endpoint: settings.endpoint.clone(), seconds, why }
}

fn unauthorized(api: &Api, why: String) -> RailwayError {
    RailwayError::Unauthorized { variable: api.token().variable(), why }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the first start begins now, not in the time of records"
)]
fn wall() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX)
}

/// A pause of any length up to `first`, doubled for each failure, or `longest`: so that many who were
/// dropped together do not come back together.
fn jitter(first: Duration, longest: Duration, tries: u32) -> Duration {
    let most = first.saturating_mul(2_u32.saturating_pow(tries.min(20))).min(longest);
    let chance = RandomState::new().build_hasher().finish() >> 32;
    most.mul_f64(chance as f64 / f64::from(u32::MAX))
}

fn position(environment: &str, seen: Nanos, http: Option<Nanos>) -> Position {
    let (environment, seen) = (environment.to_owned(), write_time(seen));
    Position::Railway(RailwayPosition { environment, seen, http: http.map(write_time) })
}

impl<'a> Reader<'a> {
    fn new(
        settings: &'a RailwaySettings,
        api: Api,
        stopping: &'a AtomicBool,
        on_event: &'a mut dyn FnMut(RailwayEvent) -> bool,
        started: Instant,
        scope: Scope,
        known: Option<&RailwayPosition>,
    ) -> Self {
        let overlap = settings.overlap.max(super::OVERLAP_MIN).saturating_mul(1000);
        let own = known.filter(|known| known.environment == scope.environment.id);
        let seen = own.and_then(|known| read_time(&known.seen));
        let http = own.and_then(|known| read_time(known.http.as_deref()?));
        let now = wall();
        let http_from = http.or(seen).map_or(now, |at| at.saturating_sub(overlap));
        let mark = Arc::new(position(&scope.environment.id, seen.unwrap_or(now), http));
        let wait = if settings.http { settings.join_wait } else { 0 };
        let wait = Duration::from_micros(u64::try_from(wait).unwrap_or(0));
        let mut reader = Self {
            settings,
            api,
            stopping,
            on_event,
            refused: false,
            started,
            overlap,
            page: settings.page.max(1),
            feeds: vec![Feed::new(What::Environment, now, seen)],
            next_id: 0,
            begun: false,
            silent: Duration::ZERO,
            pinged_at: started,
            look: None,
            look_due: started,
            looked_at: None,
            looks: 0,
            looked: false,
            http_from,
            resumed: seen.is_some(),
            backlog: seen.map(|_| Backlog::new(http_from, settings.http)),
            lived: started,
            away: None,
            join: Join::new(wait),
            bytes: Vec::new(),
            edges: Vec::new(),
            start: 0,
            handed: seen.unwrap_or(now),
            handed_http: http,
            mark,
            said: BTreeSet::new(),
            scope,
        };
        let names: Vec<&str> = reader.scope.services.iter().map(|one| one.name.as_str()).collect();
        let from = match seen {
            Some(seen) => format!("from {} on", write_time(seen.saturating_sub(overlap))),
            None => "from now on".to_owned(),
        };
        let name = &reader.scope.environment.name;
        reader.note(&format!("reads {} in the environment {name}, {from}", names.join(", ")));
        if known.is_some() && own.is_none() {
            reader.note("the known place is one of another environment, and not used");
        }
        reader
    }

    fn tell(&mut self, event: RailwayEvent) {
        if !self.refused && !(self.on_event)(event) {
            self.refused = true;
        }
    }

    fn note(&mut self, text: &str) {
        self.tell(RailwayEvent::Note(format!("railway: {text}")));
    }

    fn lost(&mut self, from: Nanos, to: Nanos, why: &str) {
        let (from, to) = (write_time(from), write_time(to));
        self.tell(RailwayEvent::Lost(format!(
            "log lines between {from} and {to} may be lost: {why}"
        )));
    }

    /// Says a failure once, until it is over.
    fn fail(&mut self, kind: &'static str, text: &str) {
        if self.said.insert(kind) {
            self.tell(RailwayEvent::Failed(format!("railway: {text}")));
        }
    }

    fn over(&mut self, kind: &'static str, text: &str) {
        if self.said.remove(kind) {
            self.note(text);
        }
    }

    fn stopped(&self) -> bool {
        self.refused || self.stopping.load(Ordering::Relaxed)
    }

    /// Waits for something, unless it is told to stop; what waits for the edge leaves meanwhile.
    async fn watch<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            if self.stopped() {
                return None;
            }
            match timeout(TICK, future.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) => self.flush(),
            }
        }
    }

    async fn run(mut self) -> Result<(), RailwayError> {
        let mut tries = 0;
        while !self.stopped() {
            let (endpoint, token) = (self.api.endpoint().to_owned(), self.api.token().clone());
            let Some(connected) = self.watch(Socket::connect(&endpoint, &token)).await else {
                break;
            };
            let why = match connected {
                Ok(mut socket) => {
                    self.resume();
                    let opened = Instant::now();
                    let end = self.session(&mut socket).await?;
                    self.feeds.iter_mut().for_each(Feed::dropped);
                    if opened.elapsed() >= SOUND {
                        tries = 0;
                    }
                    match end {
                        End::Stopped => {
                            socket.close().await;
                            break;
                        }
                        End::Broken(why) => why,
                    }
                }
                Err(why) => why,
            };
            let pause = self.broken(why, tries)?;
            tries += 1;
            self.watch(sleep(pause)).await;
        }
        // What is held and not complete is read again next time: the place is before it.
        self.relieve(0);
        while let Some(leaving) = self.join.take() {
            self.leave(&leaving);
        }
        self.flush();
        Ok(())
    }

    /// There is a connection. After a long time without one, what comes is held first.
    fn resume(&mut self) {
        // Some are subscribed to later than others.
        let rounds = u32::try_from(self.feeds.len() / OPENING_MAX).unwrap_or(u32::MAX);
        let away = self.lived.elapsed().saturating_add(OPENING.saturating_mul(rounds));
        if self.away.is_some() && away >= self.settings.behind_after {
            let since = Nanos::try_from(self.lived.elapsed().as_nanos()).unwrap_or(Nanos::MAX);
            self.fall_behind(wall().saturating_sub(since).saturating_sub(self.overlap));
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.connected();
        }
    }

    /// The connection is one: it has brought logs, or it has lasted.
    fn connected(&mut self) {
        if let Some(since) = self.away.take() {
            let seconds = since.elapsed().as_secs();
            self.note(&format!("connected again after {seconds} s"));
        }
        self.said.remove("away");
        self.lived = Instant::now();
    }

    /// There is no connection; gives how long to wait before the next try.
    fn broken(&mut self, why: Broken, tries: u32) -> Result<Duration, RailwayError> {
        if !self.begun {
            if let Broken::Unauthorized(why) = why {
                return Err(unauthorized(&self.api, why));
            }
            if self.started.elapsed() >= self.settings.start_max {
                return Err(unreachable_at(self.settings, why.to_string()));
            }
        }
        if self.away.is_none() {
            self.note(&format!("no connection: {why}; it is tried again"));
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        if let Broken::Unauthorized(why) = why {
            let variable = self.api.token().variable();
            let text = format!("the token in {variable} is not taken any more: {why}");
            self.fail("token", &text);
            return Ok(self.settings.refused_pause);
        }
        if why == Broken::TooLong {
            let page = (self.page / 2).max(PAGE_MIN.min(self.page));
            if page == self.page {
                let text = format!("{why}, although only {page} logs were asked for");
                self.fail("long", &text);
            }
            self.page = page;
        }
        if since.elapsed() >= AWAY_MAX {
            self.fail("away", &format!("for a minute no connection has lasted: {why}"));
        }
        Ok(jitter(self.settings.first_pause, self.settings.longest_pause, tries))
    }

    /// Reads over one connection, until it ends.
    async fn session(&mut self, socket: &mut Socket) -> Result<End, RailwayError> {
        let now = Instant::now();
        (self.silent, self.pinged_at) = (Duration::ZERO, now);
        let opened = now;
        for feed in &mut self.feeds {
            feed.due = now;
        }
        loop {
            if self.stopped() {
                return Ok(End::Stopped);
            }
            if let Err(why) = self.tend(socket).await {
                return Ok(End::Broken(why));
            }
            let full = self.feeds.iter().filter_map(|feed| feed.gap.as_ref()).any(Gap::is_full);
            if full {
                sleep(TICK).await;
            } else {
                let since = Instant::now();
                match timeout(self.wait(), socket.next()).await {
                    Ok(Ok(heard)) => {
                        self.silent = Duration::ZERO;
                        if self.away.is_none() || opened.elapsed() >= SOUND {
                            self.connected();
                        }
                        if let Heard::Text(text) = heard
                            && let Err(why) = self.message(socket, &text).await?
                        {
                            return Ok(End::Broken(why));
                        }
                    }
                    Ok(Err(why)) => return Ok(End::Broken(why)),
                    Err(_) => self.silent += since.elapsed().min(WAIT_MAX),
                }
            }
            self.catch_up();
            self.flush();
        }
    }

    /// How long to wait for a message: until the next line has waited long enough.
    fn wait(&self) -> Duration {
        let due = self.join.due().map(|due| due.saturating_sub(self.started.elapsed()));
        due.map_or(TICK, |due| due.clamp(Duration::from_millis(1), TICK))
    }

    /// Does what is due.
    async fn tend(&mut self, socket: &mut Socket) -> Result<(), Broken> {
        if self.silent >= self.settings.silent_max {
            let why = format!("no sign of life for {} s", self.silent.as_secs());
            return Err(Broken::Later(why));
        }
        if self.pinged_at.elapsed() >= self.settings.ping_every {
            self.pinged_at = Instant::now();
            socket.ping().await?;
        }
        if self.settings.http || self.settings.services.is_empty() {
            self.look(socket).await?;
        }
        self.retire(socket).await?;
        for index in 0..self.feeds.len() {
            self.subscribe(index, socket).await?;
            self.bridge(index).await;
        }
        if let Some(first) = self.feeds.first()
            && first.id.is_some()
            && first.since.elapsed() >= BEGUN
        {
            self.begun = true;
        }
        Ok(())
    }

    /// Subscribes to a feed that is due.
    async fn subscribe(&mut self, index: usize, socket: &mut Socket) -> Result<(), Broken> {
        let opening = |feed: &&Feed| feed.id.is_some() && feed.since.elapsed() < OPENING;
        let opening = self.feeds.iter().filter(opening).count();
        let (overlap, page) = (self.overlap, self.page);
        let Some(feed) = self.feeds.get_mut(index) else { return Ok(()) };
        if feed.id.is_some() || feed.due > Instant::now() || opening >= OPENING_MAX {
            return Ok(());
        }
        self.next_id += 1;
        let (id, from) = (self.next_id.to_string(), feed.place(overlap));
        let payload = json!({
            "query": feed.what.question("subscription"),
            "variables": feed.what.from(&self.scope, from, page),
        });
        feed.subscribed(id.clone(), from, page);
        socket.send(&json!({ "id": id, "type": "subscribe", "payload": payload })).await
    }

    /// Asks for what lies between what was handed over and what has come, and takes it.
    async fn bridge(&mut self, index: usize) {
        let Some(feed) = self.feeds.get_mut(index) else { return };
        let Some(gap) = &mut feed.gap else { return };
        let Some(task) = gap.task.take_if(|task| task.is_finished()) else {
            if gap.task.is_none() && gap.due <= Instant::now() {
                let query = feed.what.question("query");
                let variables = feed.what.between(&self.scope, gap.from, gap.to, gap.page);
                let api = self.api.clone();
                gap.task = Some(spawn_blocking(move || api.call(&query, &variables)));
            }
            return;
        };
        let answer = task.await.unwrap_or_else(|error| Err(ApiError::Later(error.to_string())));
        let no_list = || ApiError::Refused("no logs in the answer".to_owned());
        let answer = answer.and_then(|data| feed.what.logs(&data).ok_or_else(no_list));
        let (from, to) = (gap.from, gap.to);
        match answer {
            Ok(mut page) => {
                sort(&mut page);
                let oldest = page.iter().filter_map(Log::at).min().map_or(to, |at| at.min(to));
                let gone = feed.newest.filter(|newest| gap.first && oldest > *newest);
                gap.first = false;
                let turned = gap.turned(&page);
                page.retain(|log| log.at().is_none_or(|at| at <= to));
                if let Some(newest) = gone {
                    self.lost(newest, oldest, "Railway does not have them any more");
                }
                self.deliver(index, page);
                match turned {
                    Turned::More => {}
                    Turned::Last => self.close_gap(index),
                    Turned::Stuck(at) => {
                        self.lost(at, at, "there are more of one instant than one answer holds");
                    }
                    Turned::Blocked(at) => {
                        self.lost(at, to, "Railway answers the same again and again");
                        self.close_gap(index);
                    }
                }
            }
            Err(error) => {
                debug!("railway: older logs: {error}");
                if !gap.failed(&error) {
                    self.lost(from, to, &error.to_string());
                    self.close_gap(index);
                }
            }
        }
    }

    /// What waited for older logs is next.
    fn close_gap(&mut self, index: usize) {
        let gap = self.feeds.get_mut(index).and_then(|feed| feed.gap.take());
        self.deliver(index, gap.map(|gap| gap.behind).unwrap_or_default());
    }

    /// Takes a message of the server.
    async fn message(
        &mut self,
        socket: &mut Socket,
        text: &str,
    ) -> Result<Result<(), Broken>, RailwayError> {
        let message = match read_message(text) {
            Ok(message) => message,
            Err(error) => {
                self.fail("message", &format!("a message cannot be read: {error}"));
                let now = wall();
                self.lost(self.handed, now, "a message of Railway cannot be read");
                return Ok(Ok(()));
            }
        };
        let member = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        if member("type") == "ping" {
            return Ok(socket.send(&json!({ "type": "pong" })).await);
        }
        let id = member("id");
        let feed = self.feeds.iter().position(|feed| feed.id.as_deref() == Some(id));
        let Some(index) = feed else { return Ok(Ok(())) };
        let payload = message.get("payload").unwrap_or(&Value::Null);
        match member("type") {
            "next" => {
                let data = payload.get("data");
                let what = self.feeds.get(index).map(|feed| &feed.what);
                match what.zip(data).and_then(|(what, data)| what.logs(data)) {
                    Some(logs) => {
                        let why = self.api.errors(payload.get("errors").unwrap_or(&Value::Null));
                        self.arrived(index, logs);
                        if why.is_empty() {
                            self.over("partial", "answers are whole again");
                        } else {
                            self.fail("partial", &format!("Railway answers in part: {why}"));
                        }
                    }
                    None => {
                        let why = self.api.errors(payload);
                        self.unsubscribed(index, &why)?;
                        let done = json!({ "id": id, "type": "complete" });
                        return Ok(socket.send(&done).await);
                    }
                }
            }
            "error" => self.unsubscribed(index, &self.api.errors(payload))?,
            "complete" => self.unsubscribed(index, "")?,
            other => debug!("railway: a message of type {other:?}"),
        }
        Ok(Ok(()))
    }

    fn arrived(&mut self, index: usize, logs: Vec<Log>) {
        let Some(feed) = self.feeds.get_mut(index) else { return };
        let (kind, text) = match feed.what {
            What::Environment => ("logs", "logs come again"),
            What::Http(_) => ("http", "HTTP logs come again"),
        };
        let some = !logs.is_empty();
        let taken = feed.take(logs);
        self.begun |= index == 0;
        if some {
            self.connected();
            self.over("long", "answers are short enough again");
        }
        self.over(kind, text);
        self.over("token", "the token is taken again");
        if let Taken::Logs(logs) = taken {
            self.deliver(index, logs);
        }
    }

    /// A subscription is over; it is made again later. `why` is empty if nothing was wrong.
    fn unsubscribed(&mut self, index: usize, why: &str) -> Result<(), RailwayError> {
        let Some(feed) = self.feeds.get_mut(index) else { return Ok(()) };
        if feed.since.elapsed() >= SOUND {
            feed.tries = 0;
        }
        let refused = is_unauthorized(why);
        let (first, longest) = (self.settings.first_pause, self.settings.longest_pause);
        let pause =
            if refused { self.settings.refused_pause } else { jitter(first, longest, feed.tries) };
        feed.tries += 1;
        feed.due = Instant::now() + pause;
        feed.dropped();
        let kind = match feed.what {
            What::Environment if refused && !self.begun => {
                return Err(unauthorized(&self.api, why.to_owned()));
            }
            What::Environment => "logs",
            What::Http(_) => "http",
        };
        if why.is_empty() {
            debug!("railway: a subscription is over");
        } else {
            self.fail(kind, &format!("Railway refuses {}: {why}", feed_name(kind)));
        }
        Ok(())
    }

    /// Takes logs that are next in their feed.
    fn deliver(&mut self, index: usize, mut logs: Vec<Log>) {
        let believed = wall().saturating_add(AHEAD_MAX);
        let newest = logs.iter().filter_map(Log::at).filter(|at| *at <= believed).max();
        if let Some(feed) = self.feeds.get_mut(index) {
            feed.newest = feed.newest.max(newest);
        }
        let mut last_deployment = None;
        for log in &mut logs {
            let Log::App(log) = log else { continue };
            let deployment = log.deployment.take();
            if let Some(id) = deployment.filter(|id| last_deployment.as_ref() != Some(id)) {
                self.meet(&id, log.at);
                last_deployment = Some(id);
            }
        }
        for log in self.hold(logs).unwrap_or_default() {
            self.pass(log);
        }
        self.flush();
    }

    /// Takes a log that is next.
    fn pass(&mut self, log: Log) {
        match log {
            Log::App(log) => {
                let now = self.started.elapsed();
                self.join.line(log.line, log.at, log.request, now);
            }
            Log::Http(log) => {
                self.vouch(log.without_line());
                self.put(&log.line, log.source);
                let believed = wall().saturating_add(AHEAD_MAX);
                self.handed_http = self.handed_http.max(log.at.filter(|at| *at <= believed));
            }
        }
    }

    /// Takes the edge's word about a request.
    fn vouch(&mut self, log: HttpLog) {
        if let (Some(id), Some(from), Some(until)) = (log.request, log.at, log.until) {
            self.join.request(id, log.source, from, until, self.started.elapsed());
        }
    }
}

fn feed_name(kind: &str) -> &'static str {
    if kind == "http" { "HTTP logs" } else { "the environment's logs" }
}
