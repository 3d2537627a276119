//! How often: exact sliding windows over event time. Pure.
//!
//! A window of length W asks, when an event at t arrives, whether some span (s - W, s] that holds
//! the event also holds enough events that no earlier crossing has used up. Spans end at an
//! event's time, so only events within W behind t can be s, and in an ordered stream only t
//! itself. Everything here works on event times; arrival order only breaks ties.
//!
//! [`store`] keeps one state per key in a [`table`], whatever counts per that key. Rules that watch
//! the same events share one list of them in it, with a mark per rule for those that are used up.
//! A state with few events is a block of bytes ([`small`]); one with many has lists that a flood
//! cannot make slow ([`large`]); [`ring`] finds spans in both. What the store has to give up lives
//! on in a [`sketch`], as an upper bound.

pub mod codec;
pub mod key;
pub mod large;
pub mod marks;
pub mod ring;
pub mod seed;
pub mod sketch;
pub mod small;
pub mod store;
pub mod table;
pub mod told;

use crate::decode::addr;
use crate::decode::time::Micros;
use crate::pattern::Standing;
use codec::{Evidence, KeptLists, Reason, Shown};
use ring::{Crossing, ValueOf};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::IpAddr;

/// How a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The weight of events.
    Count,
    /// Different values.
    Distinct(ValueOf),
    /// The weight of events before one that completes them.
    Sequence,
}

/// What one rule needs to fire.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// How it counts.
    pub what: What,
    /// How much.
    pub at_least: u64,
    /// Length of its window, microseconds.
    pub within: Micros,
}

impl Need {
    /// Whether an event can complete what the rule in `slot` needs. `completes` is the slot whose
    /// sequence the event completes, if it does not belong to all; `waiting` says that there are
    /// events which a sequence could be completed by.
    pub fn is_due(&self, slot: usize, completes: Option<usize>, waiting: bool) -> bool {
        match completes {
            None => waiting || self.what != What::Sequence,
            Some(of) => of == slot,
        }
    }
}

/// The rules that share one list of events per key, by their slot in it.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// What each needs; at most [`ring::RULES_MAX`].
    pub needs: Vec<Need>,
    /// The longest of their windows, microseconds.
    pub longest: Micros,
    /// The smallest threshold.
    pub least: u64,
    /// Some rule compares values.
    pub compares: bool,
    /// Accounts are compared, so they are kept even where no action shows them.
    pub compares_users: bool,
    /// Addresses are compared, so they are kept even where no action shows them.
    pub compares_ips: bool,
    /// Names of the fields of the extra values.
    pub extras: Vec<String>,
}

impl Group {
    /// Takes a rule in; its slot.
    pub fn join(&mut self, need: Need) -> usize {
        self.longest = self.longest.max(need.within);
        self.least =
            if self.needs.is_empty() { need.at_least } else { self.least.min(need.at_least) };
        self.compares |= matches!(need.what, What::Distinct(_));
        match need.what {
            What::Distinct(ValueOf::User) => self.compares_users = true,
            What::Distinct(ValueOf::Ip(_)) => self.compares_ips = true,
            _ => {}
        }
        self.needs.push(need);
        self.needs.len() - 1
    }

    /// The bits of the rules that do not count an event because it lacks the value that they
    /// compare.
    pub fn blind(&self, event: &Evidence<'_>) -> u32 {
        if !self.compares {
            return 0;
        }
        let lacks = |need: &Need| match need.what {
            What::Distinct(ValueOf::User) => event.user.is_none(),
            What::Distinct(ValueOf::Ip(_)) => event.ip.is_none(),
            What::Distinct(ValueOf::Request) => event.request_id.is_none(),
            What::Distinct(ValueOf::Extra(place)) => {
                event.extras.get(place).copied().flatten().is_none()
            }
            What::Count | What::Sequence => false,
        };
        let blind = self.needs.iter().enumerate().filter(|(_, need)| lacks(need));
        blind.fold(0, |bits, (slot, _)| bits | ring::bit(slot))
    }

    /// The bits of all rules.
    pub fn all(&self) -> u32 {
        let rules = u32::try_from(self.needs.len()).unwrap_or(u32::BITS);
        1u32.checked_shl(rules).map_or(u32::MAX, |bit| bit - 1)
    }
}

/// An event on its way into a window.
#[derive(Debug, Clone, Copy)]
pub struct Fresh<'e> {
    /// Event time.
    pub time: Micros,
    /// For how many it counts.
    pub weight: u32,
    /// The bits of the rules that do not count it.
    pub used: u32,
    /// It does not count, but completes the sequence of the rule in this slot.
    pub completes: Option<usize>,
    /// What it shows, [written](codec::Evidence::put).
    pub shown: &'e [u8],
}

/// What no span that can still come reaches: everything at or before these times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    /// Of events that are counted.
    pub firsts: Option<Micros>,
    /// Of events that complete sequences: no event at or before it can still come.
    pub completing: Option<Micros>,
}

/// All events of a window, of which the one that was just put in is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// None is earlier.
    pub oldest: Micros,
    /// How many there are.
    pub events: usize,
}

impl Whole {
    /// The crossing at `time` of a rule that counts within so much and may have enough, if that is all
    /// of them.
    pub fn crossing(self, time: Micros, within: Micros) -> Option<Crossing> {
        let all = self.oldest > time.saturating_sub(within);
        all.then_some(Crossing { time, range: 0..self.events, completing: None })
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

/// A value of which a number says most of what tells it apart, so that sorting seldom compares more.
trait Weighed: Copy + Ord {
    fn weight(self) -> u64;
}

impl Weighed for &[u8] {
    fn weight(self) -> u64 {
        // Texts begin with their length and often alike: their ends tell as much.
        if let (Some(first), Some(last)) = (self.first_chunk(), self.last_chunk()) {
            return u64::from_le_bytes(*first).rotate_left(32) ^ u64::from_le_bytes(*last);
        }
        if let (Some(first), Some(last)) = (self.first_chunk(), self.last_chunk()) {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            return u64::from(first) << 32 | u64::from(last);
        }
        self.iter().fold(0, |weight, byte| weight << 8 | u64::from(*byte))
    }
}

impl Weighed for IpAddr {
    fn weight(self) -> u64 {
        match self {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => {
                let [high, low] = [ip.to_bits() >> 64, ip.to_bits()].map(|half| half as u64);
                high ^ low.rotate_left(1)
            }
        }
    }
}

/// Values up to which they are told apart as they come, by a small table: a quadratic worst case is
/// small there. Further ones are sorted at the end.
const FEW: usize = 64;
/// Places of the table.
const PLACES: usize = 2 * FEW;

/// Different values, in the order in which they came first.
struct Different<T> {
    /// Beyond [`FEW`], all that came since, often or not.
    values: Vec<(u64, T)>,
    /// For a value, from the place that its weight points to: its number among them, counted from one.
    table: [u8; PLACES],
    /// So many come at most.
    most: usize,
}

impl<T: Weighed> Different<T> {
    fn new(most: usize) -> Self {
        Self { values: Vec::new(), table: [0; PLACES], most }
    }

    fn add(&mut self, value: T) {
        if self.values.is_empty() {
            self.values.reserve_exact(self.most);
        }
        let known = self.values.len();
        let value = (value.weight(), value);
        if known >= FEW {
            if self.values.last() != Some(&value) {
                self.values.push(value);
            }
            return;
        }
        let mixed = value.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mut at = mixed as usize % PLACES;
        // There are more places than values.
        while let Some(place) = self.table.get_mut(at) {
            match usize::from(*place).checked_sub(1).and_then(|n| self.values.get(n)) {
                Some(other) if *other == value => return,
                Some(_) => at = (at + 1) % PLACES,
                None => {
                    *place = u8::try_from(known + 1).unwrap_or(u8::MAX);
                    break;
                }
            }
        }
        self.values.push(value);
    }

    fn tally(mut self, shown: impl Fn(T) -> String) -> Tally {
        let sample = self.values.iter().take(SAMPLE_MAX).map(|(_, value)| shown(*value)).collect();
        if self.values.len() > FEW {
            self.values.sort_unstable();
            self.values.dedup();
        }
        Tally { distinct: codec::number(self.values.len()), sample }
    }
}

/// Weights of reasons.
struct Weights<R>(Vec<(R, u64)>);

impl<R: PartialEq> Weights<R> {
    fn add(&mut self, reason: R, weight: u32) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, sum)) => *sum += u64::from(weight),
            None => self.0.push((reason, u64::from(weight))),
        }
    }
}

/// What the events of a span add up to, given one by one in order of time.
pub struct Sums<'e> {
    span: Span,
    // Equal texts and accounts are written as equal bytes.
    users: Different<&'e [u8]>,
    ips: Different<IpAddr>,
    requests: Different<&'e [u8]>,
    // Few reasons are kept once; of the others there may be one for every event.
    numbered: Weights<usize>,
    reasons: Vec<(Cow<'e, str>, u64)>,
}

impl std::fmt::Debug for Sums<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sums").field("span", &self.span).finish_non_exhaustive()
    }
}

impl<'e> Sums<'e> {
    /// Of none yet, and at most so many, of a crossing at `time`.
    pub fn new(time: Micros, most: usize) -> Self {
        Self {
            span: Span { time, first: Micros::MAX, last: Micros::MIN, ..Span::default() },
            users: Different::new(most),
            ips: Different::new(most),
            requests: Different::new(most),
            numbered: Weights(Vec::new()),
            reasons: Vec::new(),
        }
    }

    /// Adds an event with its time and weight.
    // What was read for it is then never put together.
    #[inline(always)]
    pub fn add(&mut self, at: Micros, weight: u32, shown: &Shown<'e>) {
        let span = &mut self.span;
        span.count += u64::from(weight);
        span.first = span.first.min(at);
        span.last = span.last.max(at);
        span.standing = span.standing.max(shown.standing);
        if let Some(user) = shown.user {
            self.users.add(user);
        }
        if let Some(ip) = shown.ip {
            self.ips.add(ip);
        }
        if let Some(id) = shown.request_id {
            self.requests.add(id);
        }
        match shown.reason {
            Some(Reason::Number(n)) => self.numbered.add(n, weight),
            Some(Reason::Text(written)) => {
                self.reasons.push((codec::text(written), u64::from(weight)));
            }
            None => {}
        }
    }

    /// What they add up to; `kept` are the lists that numbers in them are about.
    pub fn span(self, kept: &KeptLists) -> Span {
        let Self { mut span, users, ips, requests, numbered, reasons } = self;
        span.users = users.tally(|user| kept.account(user).into_owned());
        span.ips = ips.tally(addr::text);
        span.request_ids = requests.tally(|id| codec::text(id).into_owned());
        // Those kept once and those that are not may be the same.
        let mut weights: Vec<(Cow<'_, str>, u64)> =
            numbered.0.into_iter().map(|(n, sum)| (kept.reason(n).into(), sum)).collect();
        weights.extend(reasons);
        weights.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        weights.dedup_by(|later, first| {
            let same = later.0 == first.0;
            first.1 += if same { later.1 } else { 0 };
            same
        });
        weights.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        weights.truncate(REASONS_MAX);
        span.reasons =
            weights.into_iter().map(|(reason, sum)| (reason.into_owned(), sum)).collect();
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn count<T: Weighed>(values: &[T]) -> u64 {
        let mut different = Different::new(values.len());
        values.iter().for_each(|value| different.add(*value));
        different.tally(|_| String::new()).distinct
    }

    proptest! {
        #[test]
        fn different_values_are_counted_as_a_set_counts_them(
            texts in prop::collection::vec(prop::collection::vec(0u8..3, 0..20), 0..90),
            ips in prop::collection::vec(prop_oneof![
                (0u32..9).prop_map(|n| IpAddr::from(n.to_be_bytes())),
                // Both halves of an address make its weight.
                (0u64..4, 0u64..4).prop_map(|(a, b)| {
                    IpAddr::from((u128::from(a) << 65 | u128::from(b)).to_be_bytes())
                }),
            ], 0..90),
        ) {
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            let set: HashSet<&[u8]> = texts.iter().copied().collect();
            prop_assert_eq!(count(&texts), set.len() as u64);
            let set: HashSet<IpAddr> = ips.iter().copied().collect();
            prop_assert_eq!(count(&ips), set.len() as u64);
        }
    }
}
