//! Ordered sequences: enough A, then a B.

use super::{Entry, Span, summarize};
use crate::decode::time::Micros;
use std::collections::VecDeque;
use std::ops::Range;

/// The unused A's and B's of one key, each ordered by time, then arrival.
#[derive(Debug, Clone, Default)]
pub struct SequenceRing {
    firsts: VecDeque<Entry>,
    weight: u64,
    completing: VecDeque<Entry>,
    /// Counted bytes, kept up to date: summing them up for every event would make a flood quadratic.
    bytes: usize,
}

/// A B with enough A's before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The time of the B.
    pub time: Micros,
    firsts: Range<usize>,
    completing: usize,
}

fn insert(list: &mut VecDeque<Entry>, entry: Entry) {
    let at = list.partition_point(|other| other.time <= entry.time);
    list.insert(at, entry);
}

impl SequenceRing {
    /// Puts an A at its time.
    pub fn insert_first(&mut self, entry: Entry) {
        self.weight += u64::from(entry.weight);
        self.bytes += entry.bytes();
        insert(&mut self.firsts, entry);
    }

    /// Puts a B at its time.
    pub fn insert_completing(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        insert(&mut self.completing, entry);
    }

    /// The earliest B that an event at `time` completes: the B at `time` itself, or a B behind an
    /// A at `time`, with A's of weight `at_least` in the open span (B - within, B).
    pub fn completed(
        &self,
        at_least: u64,
        within: Micros,
        time: Micros,
        is_first: bool,
    ) -> Option<Completed> {
        if self.weight < at_least {
            return None;
        }
        let low = self.completing.partition_point(|b| b.time < time);
        for (completing, b) in self.completing.iter().enumerate().skip(low) {
            if b.time >= time.saturating_add(within) || (!is_first && b.time > time) {
                return None;
            }
            let from = self.firsts.partition_point(|a| a.time <= b.time.saturating_sub(within));
            let to = self.firsts.partition_point(|a| a.time < b.time);
            let inside = !is_first || b.time > time;
            if inside && from < to {
                let sum: u64 = self.firsts.range(from..to).map(|a| u64::from(a.weight)).sum();
                if sum >= at_least {
                    return Some(Completed { time: b.time, firsts: from..to, completing });
                }
            }
        }
        None
    }

    /// What a completed sequence holds: its A's, ending at its B.
    pub fn span(&self, completed: &Completed) -> Span {
        let firsts = self.firsts.range(completed.firsts.clone());
        let count = firsts.clone().map(|a| u64::from(a.weight)).sum();
        let all = firsts.chain(self.completing.get(completed.completing));
        Span { count, ..summarize(completed.time, all) }
    }

    /// Uses a sequence up: its A's and its B.
    pub fn use_up(&mut self, completed: &Completed) {
        for a in self.firsts.drain(completed.firsts.clone()) {
            self.weight -= u64::from(a.weight);
            self.bytes -= a.bytes();
        }
        if let Some(b) = self.completing.remove(completed.completing) {
            self.bytes -= b.bytes();
        }
    }

    /// Drops events at or before `horizon`; a B can still be completed only while late A's can come.
    pub fn prune(&mut self, horizon: Micros, completing_horizon: Micros) {
        while let Some(a) = self.firsts.front().filter(|a| a.time <= horizon) {
            self.weight -= u64::from(a.weight);
            self.bytes -= a.bytes();
            self.firsts.pop_front();
        }
        while let Some(b) = self.completing.front().filter(|b| b.time <= completing_horizon) {
            self.bytes -= b.bytes();
            self.completing.pop_front();
        }
    }

    /// The events in it.
    pub fn len(&self) -> usize {
        self.firsts.len() + self.completing.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time of the newest event.
    pub fn newest(&self) -> Option<Micros> {
        let last = |list: &VecDeque<Entry>| list.back().map(|entry| entry.time);
        last(&self.firsts).max(last(&self.completing))
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

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            steps in prop::collection::vec((prop::sample::select(vec![0i64, 1, 5, 9, 10]), 0i64..=12, any::<bool>()), 1..120),
            at_least in 1u64..5,
            within in prop::sample::select(vec![2i64, 10, 25]),
            prune in any::<bool>(),
        ) {
            let mut ring = SequenceRing::default();
            let mut firsts: Vec<(Micros, bool)> = Vec::new();
            let mut completing: Vec<(Micros, bool)> = Vec::new();
            let mut now = 1000;
            for (step, back, is_first) in steps {
                now += step;
                let time = now - back;
                let entry = Entry { time, weight: 1, used: 0, evidence: Default::default() };
                if is_first {
                    firsts.push((time, false));
                    ring.insert_first(entry);
                } else {
                    completing.push((time, false));
                    ring.insert_completing(entry);
                }
                // By definition: the earliest unused B that the new event belongs to, with enough A's.
                let mut candidates: Vec<(Micros, usize)> = completing.iter().enumerate()
                    .filter(|(i, b)| !b.1 && if is_first { b.0 - within < time && time < b.0 } else { *i == completing.len() - 1 })
                    .map(|(i, b)| (b.0, i)).collect();
                candidates.sort_unstable();
                let inside = |a: &(Micros, bool), b: Micros| !a.1 && b - within < a.0 && a.0 < b;
                let hit = candidates.into_iter().find(|(b, _)| firsts.iter().filter(|a| inside(a, *b)).count() as u64 >= at_least);
                let expected = hit.map(|(b, i)| {
                    completing[i].1 = true;
                    let mut count = 0;
                    for a in &mut firsts {
                        if inside(a, b) { a.1 = true; count += 1; }
                    }
                    (b, count)
                });
                let completed = ring.completed(at_least, within, time, is_first);
                let found = completed.as_ref().map(|c| { let s = ring.span(c); (s.time, s.count) });
                prop_assert_eq!(found, expected);
                if let Some(completed) = completed {
                    ring.use_up(&completed);
                }
                if prune {
                    ring.prune(now - 12 - within, now - 12);
                }
            }
        }
    }
}
