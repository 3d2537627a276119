//! The events of one key in order of time, and the spans among them that hold enough.

use super::Need;
use super::codec::Shown;
use crate::decode::addr;
use crate::decode::time::Micros;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;

/// Rules that can share one list of events: each has a bit in [`Item::used`].
pub const RULES_MAX: usize = 32;

/// An event in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Event time.
    pub time: Micros,
    /// For how many it counts.
    pub weight: u32,
    /// Bit i: it is used up for the i-th rule, or is none of those that the rule counts.
    pub used: u32,
}

impl Item {
    /// Its weight for a rule.
    pub fn unused(&self, slot: usize) -> u64 {
        if self.used & bit(slot) == 0 { u64::from(self.weight) } else { 0 }
    }
}

/// The bit of a rule.
pub fn bit(slot: usize) -> u32 {
    1 << (slot % RULES_MAX)
}

/// Events ordered by time, then arrival.
pub trait Timeline {
    /// How many there are.
    fn size(&self) -> usize;
    /// The event at a place below [`Timeline::size`].
    fn item(&self, at: usize) -> Item;
    /// What it shows.
    fn shown(&self, at: usize) -> Shown<'_>;

    /// The first place whose time is beyond `time`, or with `before` not before it.
    fn place(&self, time: Micros, before: bool) -> usize {
        let (mut low, mut high) = (0, self.size());
        while low < high {
            let middle = low + (high - low) / 2;
            let other = self.item(middle).time;
            if other < time || (!before && other == time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// A span that reached its threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Its end.
    pub time: Micros,
    /// Places of its events, used ones included.
    pub range: Range<usize>,
    /// Of a sequence: the place of the event that completes it.
    pub completing: Option<usize>,
}

/// What one span after another holds while its ends move forward.
trait Tally {
    fn add(&mut self, at: usize);
    fn remove(&mut self, at: usize);
    fn enough(&self) -> bool;
}

/// The earliest span of length `within` that holds an event at `time` and enough; `spent` events
/// at the beginning are known not to count.
fn earliest<T: Timeline + ?Sized>(
    list: &T,
    within: Micros,
    time: Micros,
    spent: usize,
    tally: &mut impl Tally,
) -> Option<Crossing> {
    let mut low = list.place(time.saturating_sub(within), false).max(spent);
    let mut high = list.place(time, false).max(low);
    let inside = low;
    // The newest first: a flood holds enough in its last few events.
    let mut next = high;
    while next > inside && !tally.enough() {
        next -= 1;
        tally.add(next);
    }
    let mut end = time;
    loop {
        if tally.enough() {
            return Some(Crossing { time: end, range: low..high, completing: None });
        }
        if high >= list.size() {
            return None;
        }
        end = list.item(high).time;
        if end >= time.saturating_add(within) {
            return None;
        }
        while high < list.size() && list.item(high).time == end {
            tally.add(high);
            high += 1;
        }
        while low < high && list.item(low).time <= end.saturating_sub(within) {
            tally.remove(low);
            low += 1;
        }
    }
}

struct Weights<'t, T: ?Sized> {
    list: &'t T,
    slot: usize,
    sum: u64,
    at_least: u64,
}

impl<T: Timeline + ?Sized> Tally for Weights<'_, T> {
    fn add(&mut self, at: usize) {
        self.sum += self.list.item(at).unused(self.slot);
    }

    fn remove(&mut self, at: usize) {
        self.sum -= self.list.item(at).unused(self.slot);
    }

    fn enough(&self) -> bool {
        self.sum >= self.at_least
    }
}

/// The earliest span that holds an event at `time` and, unused by the rule in `slot`, events of
/// enough weight.
pub fn counted<T: Timeline + ?Sized>(
    list: &T,
    slot: usize,
    need: &Need,
    time: Micros,
    spent: usize,
) -> Option<Crossing> {
    let mut weights = Weights { list, slot, sum: 0, at_least: need.at_least };
    earliest(list, need.within, time, spent, &mut weights)
}

/// Where a value that is told apart is found in what an event shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueOf {
    /// The account, by name or else by id.
    User,
    /// The address, IPv6 by so many bits.
    Ip(u8),
    /// The request.
    Request,
    /// One of the group's extra values.
    Extra(usize),
}

/// A value told apart: equal texts of different roles are different values.
pub type Value<'b> = (bool, Cow<'b, [u8]>);

impl ValueOf {
    /// The value of an event; `None` if it has none.
    pub fn read<'b>(self, shown: &Shown<'b>) -> Option<Value<'b>> {
        let written = |bytes: Option<&'b [u8]>| bytes.map(|bytes| (false, Cow::Borrowed(bytes)));
        match self {
            ValueOf::User => shown.user.map(|user| (shown.user_is_id, user.into())),
            ValueOf::Ip(bits) => shown.ip.map(|ip| {
                let octets = match addr::target(ip, bits).1.addr() {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                (false, octets.into())
            }),
            ValueOf::Request => written(shown.request_id),
            ValueOf::Extra(place) => written(shown.extra(place)),
        }
    }
}

struct Values<'t, T: ?Sized> {
    list: &'t T,
    slot: usize,
    of: ValueOf,
    held: HashMap<Value<'t>, u32>,
    at_least: u64,
}

impl<'t, T: Timeline + ?Sized> Values<'t, T> {
    fn value(&self, at: usize) -> Option<Value<'t>> {
        let counts = self.list.item(at).used & bit(self.slot) == 0;
        if counts { self.of.read(&self.list.shown(at)) } else { None }
    }
}

impl<T: Timeline + ?Sized> Tally for Values<'_, T> {
    fn add(&mut self, at: usize) {
        if let Some(value) = self.value(at) {
            *self.held.entry(value).or_default() += 1;
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(value) = self.value(at)
            && let Some(n) = self.held.get_mut(&value)
        {
            *n -= 1;
            if *n == 0 {
                self.held.remove(&value);
            }
        }
    }

    fn enough(&self) -> bool {
        u64::try_from(self.held.len()).unwrap_or(u64::MAX) >= self.at_least
    }
}

/// The earliest span that holds an event at `time` and, unused by the rule in `slot`, enough
/// different values.
pub fn distinct<T: Timeline + ?Sized>(
    list: &T,
    slot: usize,
    need: &Need,
    of: ValueOf,
    time: Micros,
    spent: usize,
) -> Option<Crossing> {
    let held = HashMap::new();
    let mut values = Values { list, slot, of, held, at_least: need.at_least };
    earliest(list, need.within, time, spent, &mut values)
}

/// Whether the events in `range` that a rule has not used up have `enough` weight.
pub fn reaches<T: Timeline + ?Sized>(
    list: &T,
    slot: usize,
    range: Range<usize>,
    enough: u64,
) -> bool {
    let mut weights = Weights { list, slot, sum: 0, at_least: enough };
    range.rev().any(|at| {
        weights.add(at);
        weights.enough()
    })
}

/// How many different values of a rule a crossing holds.
pub fn different<T: Timeline + ?Sized>(
    list: &T,
    slot: usize,
    of: ValueOf,
    crossing: &Crossing,
) -> u64 {
    let held = HashMap::new();
    let mut values = Values { list, slot, of, held, at_least: 0 };
    crossing.range.clone().for_each(|at| values.add(at));
    u64::try_from(values.held.len()).unwrap_or(u64::MAX)
}

/// The earliest B that an event at `time` completes: the B at `time` itself, or with `is_first` a B
/// behind an A at `time`, with A's of enough weight in the open span (B - within, B).
pub fn completed<A: Timeline + ?Sized, B: Timeline + ?Sized>(
    firsts: &A,
    completing: &B,
    slot: usize,
    need: &Need,
    time: Micros,
    is_first: bool,
) -> Option<Crossing> {
    for at in completing.place(time, !is_first)..completing.size() {
        let end = completing.item(at).time;
        if end >= time.saturating_add(need.within) || (!is_first && end > time) {
            return None;
        }
        let range = firsts.place(end.saturating_sub(need.within), false)..firsts.place(end, true);
        let mut weights = Weights { list: firsts, slot, sum: 0, at_least: need.at_least };
        for first in range.clone().rev() {
            weights.add(first);
            if weights.enough() {
                return Some(Crossing { time: end, range, completing: Some(at) });
            }
        }
    }
    None
}

/// The weight that a rule has not used up of the events in (time - within, time].
pub fn weight_before<T: Timeline + ?Sized>(
    list: &T,
    slot: usize,
    within: Micros,
    time: Micros,
) -> u64 {
    let range = list.place(time.saturating_sub(within), false)..list.place(time, false);
    range.map(|at| list.item(at).unused(slot)).sum()
}
