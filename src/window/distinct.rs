//! Counting different values.

use super::{Entry, Span, summarize};
use crate::decode::time::Micros;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A value told apart: equal texts of different roles are different values.
pub type Value = (u8, Arc<str>);

#[derive(Debug, Clone, Copy)]
struct Held {
    events: u32,
    latest: Micros,
}

/// The unused events of one key with a value each, ordered by time, then arrival.
#[derive(Debug, Clone, Default)]
pub struct DistinctRing {
    entries: VecDeque<(Entry, Value)>,
    /// Every value that is held, with the time of its newest event. It bounds what any span can
    /// hold, so that a flood with few values costs no look at the entries.
    values: HashMap<Value, Held>,
    /// Counted bytes, kept up to date: summing them up for every event would make a flood quadratic.
    bytes: usize,
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.bytes() + size_of::<Value>()
}

fn value_bytes(value: &Value) -> usize {
    value.1.len() + 64
}

impl DistinctRing {
    /// Puts an event at its time.
    pub fn insert(&mut self, entry: Entry, value: Value) {
        self.bytes += entry_bytes(&entry);
        let bytes = &mut self.bytes;
        let held = self.values.entry(value.clone()).or_insert_with(|| {
            *bytes += value_bytes(&value);
            Held { events: 0, latest: entry.time }
        });
        held.events += 1;
        held.latest = held.latest.max(entry.time);
        let at = match self.entries.back() {
            Some((last, _)) if last.time > entry.time => {
                self.entries.partition_point(|(other, _)| other.time <= entry.time)
            }
            _ => self.entries.len(),
        };
        self.entries.insert(at, (entry, value));
    }

    /// The earliest span of length `within` that holds an event at `time` and `at_least` different
    /// values; where it lies in the ring.
    pub fn crossing(
        &self,
        at_least: u64,
        within: Micros,
        time: Micros,
    ) -> Option<super::ring::Crossing> {
        let start = time.saturating_sub(within);
        let enough = |n: usize| u64::try_from(n).unwrap_or(u64::MAX) >= at_least;
        if !enough(self.values.len())
            || !enough(self.values.values().filter(|h| h.latest > start).count())
        {
            return None;
        }
        let entries = &self.entries;
        let mut low = entries.partition_point(|(e, _)| e.time <= start);
        let mut high = entries.partition_point(|(e, _)| e.time <= time);
        let mut held: HashMap<&Value, u32> = HashMap::new();
        for (_, value) in entries.range(low..high) {
            *held.entry(value).or_default() += 1;
        }
        let mut end = time;
        loop {
            if enough(held.len()) {
                return Some(super::ring::Crossing { time: end, range: low..high });
            }
            end = entries.get(high)?.0.time;
            if end >= time.saturating_add(within) {
                return None;
            }
            while let Some((_, value)) = entries.get(high).filter(|(e, _)| e.time == end) {
                *held.entry(value).or_default() += 1;
                high += 1;
            }
            while let Some((_, value)) =
                entries.get(low).filter(|(e, _)| e.time <= end.saturating_sub(within))
            {
                if let Some(n) = held.get_mut(value) {
                    *n -= 1;
                    if *n == 0 {
                        held.remove(value);
                    }
                }
                low += 1;
            }
        }
    }

    /// What a crossing holds, and how many different values.
    pub fn span(&self, crossing: &super::ring::Crossing) -> (Span, u64) {
        let range = crossing.range.clone();
        let values: std::collections::HashSet<&Value> =
            self.entries.range(range.clone()).map(|(_, value)| value).collect();
        let span = summarize(crossing.time, self.entries.range(range).map(|(entry, _)| entry));
        (span, u64::try_from(values.len()).unwrap_or(u64::MAX))
    }

    /// Uses the events of a crossing up.
    pub fn use_up(&mut self, crossing: &super::ring::Crossing) {
        let removed: Vec<_> = self.entries.drain(crossing.range.clone()).collect();
        let mut stale = Vec::new();
        for (entry, value) in removed {
            self.bytes -= entry_bytes(&entry);
            if !self.let_go(&value) {
                stale.push(value);
            }
        }
        stale.sort_unstable();
        stale.dedup();
        for value in stale {
            let latest = self.entries.iter().rev().find(|(_, v)| *v == value).map(|(e, _)| e.time);
            if let (Some(held), Some(latest)) = (self.values.get_mut(&value), latest) {
                held.latest = latest;
            }
        }
    }

    /// Drops events at or before `horizon`.
    pub fn prune(&mut self, horizon: Micros) {
        while self.entries.front().is_some_and(|(e, _)| e.time <= horizon) {
            let Some((entry, value)) = self.entries.pop_front() else { break };
            self.bytes -= entry_bytes(&entry);
            self.let_go(&value);
        }
    }

    /// One event less with `value`; whether it was the last.
    fn let_go(&mut self, value: &Value) -> bool {
        let Some(held) = self.values.get_mut(value) else { return true };
        held.events -= 1;
        if held.events > 0 {
            return false;
        }
        self.values.remove(value);
        self.bytes -= value_bytes(value);
        true
    }

    /// The events in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Time of the newest event.
    pub fn newest(&self) -> Option<Micros> {
        self.entries.back().map(|(entry, _)| entry.time)
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            steps in prop::collection::vec((prop::sample::select(vec![0i64, 1, 5, 9, 10, 11]), 0i64..=12, 0u8..6), 1..120),
            at_least in 1u64..5,
            within in prop::sample::select(vec![1i64, 10, 25]),
            prune in any::<bool>(),
        ) {
            let mut ring = DistinctRing::default();
            let mut naive: Vec<(Micros, u8, bool)> = Vec::new();
            let mut now = 1000;
            for (step, back, value) in steps {
                now += step;
                let time = now - back;
                naive.push((time, value, false));
                let mut ends: Vec<Micros> = naive.iter().map(|e| e.0).collect();
                ends.sort_unstable();
                let inside = |e: &(Micros, u8, bool), end: Micros| !e.2 && end - within < e.0 && e.0 <= end;
                let end = ends.into_iter().find(|end| {
                    let values: HashSet<u8> = naive.iter().filter(|e| inside(e, *end)).map(|e| e.1).collect();
                    *end - within < time && time <= *end && values.len() as u64 >= at_least
                });
                let expected = end.map(|end| {
                    let mut count = 0;
                    for e in &mut naive {
                        if inside(e, end) {
                            e.2 = true;
                            count += 1;
                        }
                    }
                    (end, count)
                });
                let entry = Entry { time, weight: 1, used: 0, evidence: Default::default() };
                ring.insert(entry, (0, Arc::from(value.to_string())));
                let crossing = ring.crossing(at_least, within, time);
                let found = crossing.as_ref().map(|c| { let (s, _) = ring.span(c); (s.time, s.count) });
                prop_assert_eq!(found, expected);
                if let Some(crossing) = crossing {
                    ring.use_up(&crossing);
                }
                if prune {
                    ring.prune(now - 12 - within);
                }
            }
        }
    }
}
