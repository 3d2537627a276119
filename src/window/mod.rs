//! How often: exact sliding windows over event time. Pure.
//!
//! A window of length W asks, when an event at t arrives, whether some span (s - W, s] that holds
//! the event also holds enough events that no earlier crossing has used up. Spans end at an
//! event's time, so only events within W behind t can be s, and in an ordered stream only t
//! itself. Everything here works on event times; arrival order only breaks ties.

pub mod distinct;
pub mod ring;
pub mod sequence;
pub mod store;

use crate::decode::time::Micros;
use crate::pattern::Standing;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What an action shows of an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The exact address.
    pub ip: Option<IpAddr>,
    /// The account, by name or else by id.
    pub user: Option<Arc<str>>,
    /// A capture named reason.
    pub reason: Option<Arc<str>>,
    /// The request.
    pub request_id: Option<Arc<str>>,
    /// What may be done to the address.
    pub standing: Standing,
}

/// An event in a window.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Event time.
    pub time: Micros,
    /// For how many it counts.
    pub weight: u32,
    /// Bit i: the i-th rule of the window has used it up.
    pub used: u32,
    /// What an action shows of it.
    pub evidence: Arc<Evidence>,
}

impl Entry {
    /// Bytes counted for one entry: itself and a share of what it points to.
    pub fn bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |t| t.len() + 16);
        let e = &self.evidence;
        size_of::<Entry>()
            + size_of::<Evidence>()
            + 16
            + text(&e.user)
            + text(&e.reason)
            + text(&e.request_id)
    }
}

/// A span that holds enough: what an action tells of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span {
    /// The crossing's time: the end of the span.
    pub time: Micros,
    /// Total weight.
    pub count: u64,
    /// Time of its first event.
    pub first: Micros,
    /// Time of its last event.
    pub last: Micros,
    /// The accounts in it.
    pub users: Tally,
    /// The addresses in it.
    pub ips: Tally,
    /// The requests in it.
    pub request_ids: Tally,
    /// Reasons with their weights, commonest first, at most three.
    pub reasons: Vec<(String, u64)>,
    /// The weakest standing of its addresses.
    pub standing: Standing,
}

/// Different values: how many, and the first few.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// How many different ones.
    pub distinct: u64,
    /// At most [`SAMPLE_MAX`], earliest first.
    pub sample: Vec<String>,
}

/// Values shown of each kind.
pub const SAMPLE_MAX: usize = 3;
/// Reasons shown.
const REASONS_MAX: usize = 3;

/// Sums up the entries of a span, given in order of time.
pub fn summarize<'e>(time: Micros, entries: impl Iterator<Item = &'e Entry>) -> Span {
    let mut span = Span { time, first: Micros::MAX, last: Micros::MIN, ..Span::default() };
    let mut users: HashSet<&str> = HashSet::new();
    let mut ips: HashSet<IpAddr> = HashSet::new();
    let mut requests: HashSet<&str> = HashSet::new();
    let mut reasons: HashMap<&str, u64> = HashMap::new();
    for entry in entries {
        let evidence = &entry.evidence;
        span.count += u64::from(entry.weight);
        span.first = span.first.min(entry.time);
        span.last = span.last.max(entry.time);
        span.standing = span.standing.max(evidence.standing);
        if let Some(user) = evidence.user.as_deref()
            && users.insert(user)
        {
            span.users.add(|| user.to_owned());
        }
        if let Some(ip) = evidence.ip
            && ips.insert(ip)
        {
            span.ips.add(|| ip.to_string());
        }
        if let Some(id) = evidence.request_id.as_deref()
            && requests.insert(id)
        {
            span.request_ids.add(|| id.to_owned());
        }
        if let Some(reason) = evidence.reason.as_deref() {
            *reasons.entry(reason).or_default() += u64::from(entry.weight);
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().map(|(r, n)| (r.to_owned(), n)).collect();
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons.truncate(REASONS_MAX);
    span.reasons = reasons;
    span
}

impl Tally {
    fn add(&mut self, value: impl FnOnce() -> String) {
        self.distinct += 1;
        if self.sample.len() < SAMPLE_MAX {
            self.sample.push(value());
        }
    }
}
