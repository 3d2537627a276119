//! What operators and their programs ask for.

use super::auth::Who;
use super::reply::Refusal;
use super::target::{self, Meant, Object};
use super::{Shared, audit, metrics, openapi};
use crate::action::decision::Decision;
use crate::action::order::{Order, What};
use crate::action::{Action, Target, is_hidden};
use crate::decode::time::{self, Micros};
use crate::detect::condition::ACTIONS;
use crate::detect::rule::MODES;
use crate::engine::ask::Unanswered;
use crate::state::{Db, StoredDecision};
use crate::telemetry::wall_clock;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// How long nothing is decided against who was lifted, if nothing else is said, microseconds: the
/// events that led to it are not to do so again at once.
const GRACE: i64 = 600_000_000;

/// Characters of a `because`.
pub const BECAUSE_MAX: usize = 500;
/// Decisions in one answer, unless told otherwise.
pub const LIMIT: u32 = 1000;
/// And at most.
pub const LIMIT_MAX: u32 = 100_000;
/// What is ordered lasts so long at least and at most, microseconds.
pub const LASTING: (Micros, Micros) = (1_000_000, 3650 * 86_400 * 1_000_000);
/// The widest ranges that are blocked, lifted or allowed by hand: IPv4 and IPv6.
const WIDEST: (u8, u8) = (8, 16);

type Answer = Result<Response<Body>, Refusal>;

/// What it answers.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::answer))
        .route("/openapi.json", get(openapi::answer))
        .route("/api/status", get(status))
        .route("/api/decisions", get(decisions))
        .route("/api/why/{target}", get(why))
        .route("/api/block", post(block))
        .route("/api/lock", post(lock))
        .route("/api/require_2fa", post(require_2fa))
        .route("/api/lift", post(lift))
        .route("/api/allow", get(spared).post(allow))
        .route("/api/disallow", post(disallow).delete(disallow_by_query))
        .layer(Extension(Started(wall_clock())))
        .layer(Extension(Arc::<metrics::Shown>::default()))
}

/// When the server started.
#[derive(Debug, Clone, Copy)]
pub struct Started(pub Micros);

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", why)
}

/// Nobody answers.
pub fn unanswered(why: Unanswered) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why.to_string())
}

async fn health() -> Json<Value> {
    Json(json!({ "status": "up" }))
}

async fn ready(State(shared): State<Arc<Shared>>) -> Answer {
    let unready = |why: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why);
    let status = shared.asker.status().await.map_err(|why| unready(why.to_string()))?;
    match &status.unready {
        None => Ok(Json(json!({ "status": "ready" })).into_response()),
        Some(why) => Err(unready(why.clone())),
    }
}

async fn status(
    State(shared): State<Arc<Shared>>,
    Extension(Started(started)): Extension<Started>,
) -> Answer {
    let status = shared.asker.status().await.map_err(unanswered)?;
    let mut decisions: Vec<(&str, &str, u64)> = Vec::new();
    shared.board.each(|decision| {
        let same = decisions.iter_mut().find(|d| (d.0, d.1) == (decision.action, decision.mode));
        match same {
            Some(same) => same.2 += 1,
            None => decisions.push((decision.action, decision.mode, 1)),
        }
    });
    decisions.sort_unstable();
    let decisions: Vec<Value> = decisions
        .into_iter()
        .map(|(action, mode, active)| json!({ "action": action, "mode": mode, "active": active }))
        .collect();
    let summary = &status.summary;
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started": time::format(started),
        "ready": status.unready.is_none(),
        "patterns": status.patterns.len(),
        "rules": status.rules.len(),
        "state": { "bytes": status.state_bytes, "keys": status.keys },
        "lines": summary.lines,
        "records": summary.records,
        "events": summary.events,
        "actions": summary.actions,
        "decisions": decisions,
        "sinks": status.sinks,
    });
    let optional = [
        ("not_ready", status.unready.as_ref().map(|why| json!(why))),
        ("clock", status.clock.map(|clock| json!(time::format(clock)))),
        ("delay_s", status.delay_s.map(|delay| json!(delay))),
        ("lag", summary.lag.as_ref().map(|lag| json!(lag))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    Ok(Json(body).into_response())
}

/// What is asked for of decisions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    history: Option<bool>,
    limit: Option<u32>,
    action: Option<String>,
    mode: Option<String>,
    target: Option<String>,
    rule: Option<String>,
}

/// The same, checked.
struct Filter {
    action: Option<String>,
    mode: Option<String>,
    target: Option<Target>,
    rule: Option<String>,
}

impl Filter {
    fn of(wanted: &Wanted) -> Result<Self, Refusal> {
        let known = |name: &str, value: &Option<String>, words: &[&str]| match value {
            Some(word) if !words.contains(&word.as_str()) => {
                Err(wrong(format!("`{name}` is one of {}", words.join(", "))))
            }
            _ => Ok(value.clone()),
        };
        Ok(Self {
            action: known("action", &wanted.action, &ACTIONS.map(|(name, _)| name))?,
            mode: known("mode", &wanted.mode, &MODES.map(|(name, _)| name))?,
            target: wanted
                .target
                .as_deref()
                .map(target::parse)
                .transpose()
                .map_err(unprocessable)?,
            rule: wanted.rule.clone(),
        })
    }

    /// Whether it leaves anything out.
    fn is_any(&self) -> bool {
        let Self { action, mode, target, rule } = self;
        action.is_some() || mode.is_some() || target.is_some() || rule.is_some()
    }

    fn fits(&self, action: &str, mode: &str, rule: &str, target: &Target) -> bool {
        self.action.as_deref().is_none_or(|wanted| wanted == action)
            && self.mode.as_deref().is_none_or(|wanted| wanted == mode)
            && self.rule.as_deref().is_none_or(|wanted| wanted == rule)
            && self.target.as_ref().is_none_or(|wanted| target::meets(wanted, target))
    }
}

async fn decisions(
    State(shared): State<Arc<Shared>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted.map_err(|why| wrong(why.body_text()))?;
    let limit = wanted.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(wrong(format!("`limit` lies between 1 and {LIMIT_MAX}")));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let filter = Filter::of(&wanted)?;
    if wanted.history != Some(true) {
        let mut found: Vec<Decision> = Vec::new();
        shared.board.each(|decision| {
            let Decision { action, mode, rule, target, .. } = decision;
            if filter.fits(action, mode, rule, target) {
                found.push(decision.clone());
            }
        });
        found.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        let total = found.len();
        // The newest are those that somebody looks for.
        let found = found.split_off(total.saturating_sub(limit));
        return Ok(Json(json!({ "decisions": found, "total": total })).into_response());
    }
    let Some(dir) = shared.state_dir.clone() else {
        let why = "there is no history: the settings name no `state_dir`";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "no_history", why));
    };
    let read = tokio::task::spawn_blocking(move || {
        let wanted = |decision: &StoredDecision| {
            let StoredDecision { action, mode, rule, .. } = decision;
            filter.fits(action, mode, rule, &target_of(decision))
        };
        let wanted: Option<&dyn Fn(&StoredDecision) -> bool> =
            if filter.is_any() { Some(&wanted) } else { None };
        Db::read_only(&dir)?.newest_decisions(limit, wanted)
    });
    let failed = |why: String| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_history", why);
    let found = read.await.map_err(|error| failed(error.to_string()))?;
    let (mut found, total) = found.map_err(|error| failed(error.to_string()))?;
    for (one, _) in found.iter_mut().filter(|(one, _)| one.ended.is_none()) {
        // What was prolonged in silence is not written down.
        one.until = shared.board.get(&one.id).map(|now| now.until).or(one.until);
    }
    let found: Vec<Value> = found.iter().map(|(one, line)| stored(one, line.as_deref())).collect();
    Ok(Json(json!({ "decisions": found, "total": total })).into_response())
}

fn target_of(decision: &StoredDecision) -> Target {
    Target { kind: decision.kind.clone(), value: decision.value.clone() }
}

/// A decision of the history; `line` is that of its start.
fn stored(decision: &StoredDecision, line: Option<&str>) -> Value {
    let line: Option<Action> = line.and_then(|line| serde_json::from_str(line).ok());
    let mut value = json!({
        "id": decision.id,
        "action": decision.action,
        "mode": decision.mode,
        "target": target_of(decision),
        "rule": decision.rule,
        "pack": decision.pack,
        "started": time::format(decision.started),
    });
    let optional = [
        ("until", decision.until.map(|at| json!(time::format(at)))),
        ("ended", decision.ended.map(|at| json!(time::format(at)))),
        ("crossings", decision.crossings.map(|n| json!(n))),
        ("reason", line.map(|line| json!(line.reason))),
    ];
    for (name, part) in optional {
        if let Some(part) = part {
            value[name] = part;
        }
    }
    value
}

async fn why(
    State(shared): State<Arc<Shared>>,
    target: Result<Path<String>, PathRejection>,
) -> Answer {
    let Path(text) = target.map_err(|why| wrong(why.body_text()))?;
    let target = target::parse(&text).map_err(unprocessable)?;
    let mut why = shared.asker.why(target.clone()).await.map_err(unanswered)?;
    for decision in &mut why.decisions {
        // What its line says; the rule's title is all that the stream keeps.
        if let Some(told) = shared.board.get(&decision.id) {
            decision.reason = told.reason;
        }
    }
    let mut body = json!(why);
    body["target"] = json!(target);
    Ok(Json(body).into_response())
}

/// An order as it stands in a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    target: Meant,
    r#for: String,
    because: String,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lift {
    target: Meant,
    because: String,
    grace: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    target: Meant,
    r#for: Option<String>,
    because: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disallow {
    target: Meant,
    because: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DisallowQuery {
    target: String,
    because: String,
}

type Read<T> = Result<Json<Object<T>>, JsonRejection>;

/// What was sent, if it can be read.
fn read<T>(sent: Read<T>) -> Result<T, Refusal> {
    sent.map(|Json(Object(read))| read).map_err(|rejected| {
        let error = match rejected.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            StatusCode::UNPROCESSABLE_ENTITY => "unprocessable",
            _ => "bad_request",
        };
        Refusal::new(rejected.status(), error, rejected.body_text())
    })
}

fn unprocessable(why: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", why)
}

fn duration(name: &str, text: &str, least: Micros) -> Result<Micros, Refusal> {
    let Some(lasting) = time::parse_duration(text) else {
        let why = "a number and a unit: 30s, 5m, 1h, 24h, 30d, 2w";
        return Err(unprocessable(format!("`{name}` is no duration; write {why}")));
    };
    if !(least..=LASTING.1).contains(&lasting) {
        let (least, most) = (time::format_duration(least), time::format_duration(LASTING.1));
        return Err(unprocessable(format!("`{name}` lies between {least} and {most}")));
    }
    Ok(lasting)
}

fn because(text: &str) -> Result<String, Refusal> {
    let count = text.chars().count();
    let text = text.trim();
    if text.is_empty() || count > BECAUSE_MAX {
        return Err(unprocessable(format!(
            "`because` has 1 to {BECAUSE_MAX} characters; who reads it later wants to know why"
        )));
    }
    if text.chars().any(is_hidden) {
        return Err(unprocessable("`because` has no control characters"));
    }
    Ok(text.to_owned())
}

/// An address or a range, not too wide a one.
fn blockable(target: &Target) -> Result<(), String> {
    let Some(net) = target::net(target) else {
        return Err(format!(
            "a {} cannot be blocked; block an address or a range, or lock the account",
            target.kind
        ));
    };
    narrow(&net)
}

/// Whether a range is no slip of the fingers.
fn narrow(net: &ipnet::IpNet) -> Result<(), String> {
    let widest = if net.addr().is_ipv4() { WIDEST.0 } else { WIDEST.1 };
    if net.prefix_len() < widest {
        return Err(format!("{net} is too wide; the widest range that is taken is a /{widest}"));
    }
    Ok(())
}

/// An account, an address or a range that is not too wide.
fn anybody(target: &Target) -> Result<(), String> {
    target::net(target).map_or(Ok(()), |net| narrow(&net))
}

fn lockable(target: &Target) -> Result<(), String> {
    match target.kind.as_str() {
        "user" | "user_id" => Ok(()),
        kind => {
            let kind = if kind == "ip" { "an address" } else { "a range" };
            Err(format!("{kind} is no account; block it, or name an account"))
        }
    }
}

/// Gives an order and tells what became of it.
async fn order(
    shared: &Shared,
    who: &Who,
    target: Target,
    reason: &str,
    what: What,
    force: bool,
) -> Answer {
    let name = match what {
        What::Block { .. } => "block",
        What::Lock { .. } => "lock",
        What::Require2fa { .. } => "require_2fa",
        What::Lift { .. } => "lift",
        What::Allow { .. } => "allow",
        What::Disallow => "disallow",
    };
    let because = because(reason)?;
    let told = format!("{name} {} {}", target.kind, target.text());
    let order = Order { what, target, by: who.name.to_string(), because, at: wall_clock(), force };
    // Whoever asked may have gone when it is carried out; the log says it all the same.
    let (asker, who, reason) = (shared.asker.clone(), who.clone(), reason.to_owned());
    let carried = tokio::spawn(async move {
        let carried = asker.order(order).await?;
        audit(&who, &told, &reason, &carried);
        Ok(carried)
    });
    let carried = carried.await.unwrap_or(Err(Unanswered::Over)).map_err(unanswered)?;
    if let Some(why) = carried.refused {
        return Err(Refusal::new(StatusCode::CONFLICT, "refused", why));
    }
    let actions: Vec<Value> =
        carried.actions.iter().filter_map(|a| serde_json::from_str(&a.json()).ok()).collect();
    let body = json!({ "actions": actions, "lifted": carried.lifted });
    Ok(Json(body).into_response())
}

/// Gives one of the orders that hold somebody off for a time.
async fn hold(
    shared: &Shared,
    who: &Who,
    hold: Read<Hold>,
    fits: fn(&Target) -> Result<(), String>,
    what: fn(Micros) -> What,
) -> Answer {
    let Hold { target, r#for: lasting, because, force } = read(hold)?;
    let target = target.target().map_err(unprocessable)?;
    fits(&target).map_err(unprocessable)?;
    let lasting = duration("for", &lasting, LASTING.0)?;
    order(shared, who, target, &because, what(lasting), force).await
}

async fn block(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Hold>,
) -> Answer {
    hold(&shared, &who, sent, blockable, |lasting| What::Block { lasting }).await
}

async fn lock(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Hold>,
) -> Answer {
    hold(&shared, &who, sent, lockable, |lasting| What::Lock { lasting }).await
}

async fn require_2fa(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Hold>,
) -> Answer {
    hold(&shared, &who, sent, lockable, |lasting| What::Require2fa { lasting }).await
}

async fn lift(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Lift>,
) -> Answer {
    let Lift { target, because, grace } = read(sent)?;
    let target = target.target().map_err(unprocessable)?;
    anybody(&target).map_err(unprocessable)?;
    let grace = grace.as_deref().map_or(Ok(GRACE), |text| duration("grace", text, 0))?;
    order(&shared, &who, target, &because, What::Lift { grace }, false).await
}

async fn spared(State(shared): State<Arc<Shared>>) -> Answer {
    let spared = shared.asker.spared().await.map_err(unanswered)?;
    Ok(Json(json!({ "spared": spared })).into_response())
}

async fn allow(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Allow>,
) -> Answer {
    let Allow { target, r#for: lasting, because } = read(sent)?;
    let target = target.target().map_err(unprocessable)?;
    anybody(&target).map_err(unprocessable)?;
    let lasting = lasting.as_deref().map(|text| duration("for", text, LASTING.0)).transpose()?;
    let until = lasting.map(|lasting| wall_clock().saturating_add(lasting));
    order(&shared, &who, target, &because, What::Allow { until }, false).await
}

async fn disallow(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Read<Disallow>,
) -> Answer {
    let Disallow { target, because } = read(sent)?;
    let target = target.target().map_err(unprocessable)?;
    order(&shared, &who, target, &because, What::Disallow, false).await
}

async fn disallow_by_query(
    State(shared): State<Arc<Shared>>,
    Extension(who): Extension<Who>,
    sent: Result<Query<DisallowQuery>, QueryRejection>,
) -> Answer {
    let Query(DisallowQuery { target, because }) = sent.map_err(|why| wrong(why.body_text()))?;
    let target = target::parse(&target).map_err(unprocessable)?;
    order(&shared, &who, target, &because, What::Disallow, false).await
}
