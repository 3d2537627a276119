//! What others ask of the stream's thread while it runs, and what it answers.
//!
//! Questions wait until the batch in hand is applied; an order is answered when what follows from it
//! lasts. Whoever asks may go away: nobody waits for that.

use super::summary::Summary;
use crate::action::decision::Decision;
use crate::action::order::{Carried, Order};
use crate::action::{Target, Word};
use crate::decide::guard::{Allow, Allowed, By};
use crate::decode::addr;
use crate::decode::time::{self, Micros};
use crate::detect::condition::Condition;
use crate::detect::detector::Counted;
use crate::window::Tally;
use crate::window::key::KeyKind;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::oneshot;

/// Questions that wait; one more is refused as too many.
const ASKS_MAX: usize = 64;

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// Carry an order out.
    Order(Order, oneshot::Sender<Carried>),
    /// How a target stands.
    Why(Target, oneshot::Sender<Why>),
    /// Who is spared.
    Spared(oneshot::Sender<Vec<Spared>>),
    /// How the stream is.
    Status(oneshot::Sender<Arc<Status>>),
}

/// An entry of the allowlist, or somebody who is spared for a while after a lift.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spared {
    /// Who.
    pub target: Target,
    /// By what.
    pub by: By,
    /// Why, if somebody said it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub because: String,
    /// Until when; without it, always.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

impl Spared {
    /// As it is told.
    pub fn of((by, entry): (By, &Allow)) -> Self {
        let account =
            |kind: &str, name: &String| Target { kind: kind.to_owned(), value: Some(name.clone()) };
        let target = match &entry.who {
            Allowed::Net(net) => {
                let kind = if net.prefix_len() == net.max_prefix_len() { "ip" } else { "range" };
                Target { kind: kind.to_owned(), value: Some(addr::target_text(kind, net)) }
            }
            Allowed::User(name) | Allowed::Account(KeyKind::User, name) => account("user", name),
            Allowed::Account(_, id) => account("user_id", id),
        };
        let until = entry.until.map(time::format);
        Self { target, by, because: entry.comment.clone(), until }
    }
}

/// How a target stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Why {
    /// What was counted for it, one per rule that has counted anything.
    pub counters: Vec<Counter>,
    /// The guard that holds actions against it back now, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Word>,
    /// What is in force against it.
    pub decisions: Vec<Decision>,
}

/// What one rule has counted for a target.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counter {
    /// The rule.
    pub rule: String,
    /// Its pack.
    pub pack: String,
    /// Its condition as written.
    pub when: String,
    /// The target that it counts per, if it is not the one that was asked for: the range of an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Events in the window that the rule has not used up.
    pub count: u64,
    /// How many it takes.
    pub needed: u64,
    /// The window, seconds.
    pub window_s: i64,
    /// Time of the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<String>,
    /// Time of the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// Seconds of the stream's time until the first of them is too old to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_expires_s: Option<i64>,
    /// The accounts that were tried, of a target that is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Tally>,
    /// The addresses that tried, of a target that is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ips: Option<Tally>,
    /// The requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_ids: Option<Tally>,
    /// The commonest reasons with how often each.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "reasons")]
    pub reasons: Vec<(String, u64)>,
    /// One sentence for people: `4 of 5 FAILED_LOGIN within 5m, the oldest expires in 3m12s`.
    pub sentence: String,
}

/// Writes reasons with how often each.
fn reasons<S: Serializer>(reasons: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(reasons.iter().map(|(reason, count)| (reason, count)))
}

impl Counter {
    /// What a rule has counted, at `now`.
    pub fn of(counted: &Counted<'_>, now: Micros) -> Self {
        let Counted { rule, pattern, held, needed, span } = counted;
        let within = rule.condition.within().unwrap_or(0);
        let left = span.first.saturating_add(within).saturating_sub(now);
        let what = match (&rule.condition, rule.condition.field()) {
            (Condition::Sequence { then, .. }, _) => format!("{pattern} before a {then}"),
            (_, Some(field)) => format!("different {field} in {pattern}"),
            (_, None) => (*pattern).to_owned(),
        };
        let sentence = format!(
            "{held} of {needed} {what} within {}, the oldest expires in {}",
            time::format_duration(within),
            time::spoken_duration(left)
        );
        Self {
            rule: rule.id.clone(),
            pack: rule.pack.clone(),
            when: rule.when.clone(),
            target: None,
            count: *held,
            needed: *needed,
            window_s: within / 1_000_000,
            first_seen: Some(time::format(span.first)),
            last_seen: Some(time::format(span.last)),
            oldest_expires_s: Some(left.max(0) / 1_000_000),
            users: Some(span.users.clone()).filter(|users| users.distinct > 0),
            ips: Some(span.ips.clone()).filter(|ips| ips.distinct > 0),
            request_ids: Some(span.request_ids.clone()).filter(|ids| ids.distinct > 0),
            reasons: span.reasons.clone(),
            sentence,
        }
    }
}

/// How a sink is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// `working`, `failing`, `dry`, `disabled`.
    pub state: Word,
    /// Actions that wait for it.
    pub waiting: u64,
    /// Actions that are done.
    pub delivered: u64,
    /// Actions that it will never take.
    pub refused: u64,
    /// Actions that were lost to it because too many waited.
    pub dropped: u64,
    /// What it said last, while it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How the stream is.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The accounting so far.
    pub summary: Summary,
    /// The names of the patterns that are loaded.
    pub patterns: Vec<String>,
    /// The rules that are loaded: id and pack.
    pub rules: Vec<(String, String)>,
    /// The stream's clock.
    pub clock: Option<i64>,
    /// Seconds that the newest matched record was behind the wall clock when it was applied.
    pub delay_s: Option<f64>,
    /// Bytes that the state is counted as.
    pub state_bytes: u64,
    /// Keys that are held.
    pub keys: u64,
    /// The sinks.
    pub sinks: Vec<SinkStatus>,
    /// Why it is not ready, if it is not.
    pub unready: Option<String>,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Asker(SyncSender<Ask>);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many ask.
    #[error("too many ask at the same time")]
    Busy,
    /// The stream has ended.
    #[error("the stream has ended")]
    Over,
}

/// Both ends.
pub fn asking() -> (Asker, Receiver<Ask>) {
    let (send, receive) = sync_channel(ASKS_MAX);
    (Asker(send), receive)
}

impl Asker {
    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Unanswered> {
        let (send, answer) = oneshot::channel();
        self.0.try_send(ask(send)).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => Unanswered::Busy,
            std::sync::mpsc::TrySendError::Disconnected(_) => Unanswered::Over,
        })?;
        answer.await.map_err(|_| Unanswered::Over)
    }

    /// Has an order carried out; answered when what follows lasts.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn order(&self, order: Order) -> Result<Carried, Unanswered> {
        self.ask(|reply| Ask::Order(order, reply)).await
    }

    /// How a target stands.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn why(&self, target: Target) -> Result<Why, Unanswered> {
        self.ask(|reply| Ask::Why(target, reply)).await
    }

    /// Who is spared.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn spared(&self) -> Result<Vec<Spared>, Unanswered> {
        self.ask(Ask::Spared).await
    }

    /// How the stream is.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn status(&self) -> Result<Arc<Status>, Unanswered> {
        self.ask(Ask::Status).await
    }
}
