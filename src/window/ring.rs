//! Counting: the events of one key in order of time, shared by all rules that watch them.

use super::{Entry, Span, summarize};
use crate::decode::time::Micros;
use std::collections::VecDeque;
use std::ops::Range;

/// Rules that one ring can serve: each has a bit in [`Entry::used`].
pub const RULES_MAX: usize = 32;

/// The events of one key that at least one rule has not used up, ordered by time, then arrival.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    /// Per rule: the weight of all entries that it has not used up. An upper bound for every span,
    /// so that most events need no look at the entries at all.
    unused: Vec<u64>,
    /// Counted bytes of the entries: summing them up for every event would make a flood quadratic.
    bytes: usize,
}

/// A span that reached its threshold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// Its end.
    pub time: Micros,
    /// Places of its entries in the ring, used ones included.
    pub range: Range<usize>,
}

impl Ring {
    /// An empty ring for `rules` rules, at most [`RULES_MAX`].
    pub fn new(rules: usize) -> Self {
        Self { entries: VecDeque::new(), unused: vec![0; rules.min(RULES_MAX)], bytes: 0 }
    }

    /// Puts an event at its time, behind those of equal time.
    pub fn insert(&mut self, entry: Entry) {
        for unused in &mut self.unused {
            *unused += u64::from(entry.weight);
        }
        let at = match self.entries.back() {
            Some(last) if last.time > entry.time => {
                self.entries.partition_point(|other| other.time <= entry.time)
            }
            _ => self.entries.len(),
        };
        self.bytes += entry.bytes();
        self.entries.insert(at, entry);
    }

    /// The earliest span of length `within` that holds an event at `time` and, unused by `rule`,
    /// events of weight `at_least`.
    pub fn crossing(
        &self,
        rule: usize,
        at_least: u64,
        within: Micros,
        time: Micros,
    ) -> Option<Crossing> {
        if self.unused.get(rule).copied().unwrap_or(0) < at_least {
            return None;
        }
        let entries = &self.entries;
        let weight = |entry: &Entry| {
            if entry.used & (1 << rule) == 0 { u64::from(entry.weight) } else { 0 }
        };
        let mut low = entries.partition_point(|e| e.time <= time.saturating_sub(within));
        let mut high = entries.partition_point(|e| e.time <= time);
        let mut sum: u64 = entries.range(low..high).map(weight).sum();
        let mut end = time;
        loop {
            if sum >= at_least {
                return Some(Crossing { time: end, range: low..high });
            }
            end = entries.get(high)?.time;
            if end >= time.saturating_add(within) {
                return None;
            }
            while let Some(entry) = entries.get(high).filter(|e| e.time == end) {
                sum += weight(entry);
                high += 1;
            }
            while let Some(entry) =
                entries.get(low).filter(|e| e.time <= end.saturating_sub(within))
            {
                sum -= weight(entry);
                low += 1;
            }
        }
    }

    /// What a crossing holds that `rule` has not used up.
    pub fn span(&self, rule: usize, crossing: &Crossing) -> Span {
        let range = crossing.range.clone();
        summarize(crossing.time, self.entries.range(range).filter(|e| e.used & (1 << rule) == 0))
    }

    /// Uses the events of a crossing up for `rule`; what every rule has used is dropped.
    pub fn use_up(&mut self, rule: usize, crossing: &Crossing) {
        let all = (1u32.checked_shl(u32::try_from(self.unused.len()).unwrap_or(32)))
            .map_or(u32::MAX, |bit| bit - 1);
        let mut weight = 0;
        for entry in self.entries.range_mut(crossing.range.clone()) {
            if entry.used & (1 << rule) == 0 {
                entry.used |= 1 << rule;
                weight += u64::from(entry.weight);
            }
        }
        if let Some(unused) = self.unused.get_mut(rule) {
            *unused -= weight;
        }
        let bytes = &mut self.bytes;
        self.entries.retain(|entry| {
            let keep = entry.used & all != all;
            *bytes -= if keep { 0 } else { entry.bytes() };
            keep
        });
    }

    /// Drops events at or before `horizon`: no span that can still come reaches them.
    pub fn prune(&mut self, horizon: Micros) {
        while let Some(entry) = self.entries.front().filter(|e| e.time <= horizon) {
            for (rule, unused) in self.unused.iter_mut().enumerate() {
                if entry.used & (1 << rule) == 0 {
                    *unused -= u64::from(entry.weight);
                }
            }
            self.bytes -= entry.bytes();
            self.entries.pop_front();
        }
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
        self.entries.back().map(|entry| entry.time)
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes + 8 * self.unused.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word by word: a list of all events with a mark for used ones.
    #[derive(Default)]
    struct Naive(Vec<(Micros, u64, bool)>);

    impl Naive {
        fn observe(
            &mut self,
            time: Micros,
            weight: u64,
            at_least: u64,
            within: Micros,
        ) -> Option<(Micros, u64)> {
            self.0.push((time, weight, false));
            let mut ends: Vec<Micros> = self.0.iter().map(|e| e.0).collect();
            ends.sort_unstable();
            let end = ends.into_iter().find(|end| {
                let holds_new = *end - within < time && time <= *end;
                let sum: u64 = self
                    .0
                    .iter()
                    .filter(|e| !e.2 && *end - within < e.0 && e.0 <= *end)
                    .map(|e| e.1)
                    .sum();
                holds_new && sum >= at_least
            })?;
            let mut count = 0;
            for event in &mut self.0 {
                if !event.2 && end - within < event.0 && event.0 <= end {
                    event.2 = true;
                    count += event.1;
                }
            }
            Some((end, count))
        }
    }

    fn entry(time: Micros, weight: u32) -> Entry {
        Entry { time, weight, used: 0, evidence: Default::default() }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            // Ties, bursts at exactly W, gaps, and lateness up to `late`.
            steps in prop::collection::vec((prop::sample::select(vec![0i64, 1, 5, 9, 10, 11, 40]), 0i64..=12, 1u32..4), 1..120),
            rules in prop::collection::vec((1u64..8, prop::sample::select(vec![1i64, 10, 25])), 1..4),
            prune in any::<bool>(),
        ) {
            let late = 12;
            let mut ring = Ring::new(rules.len());
            let mut naive: Vec<Naive> = rules.iter().map(|_| Naive::default()).collect();
            let mut now = 1000;
            for (step, back, weight) in steps {
                now += step;
                let time = now - back;
                ring.insert(entry(time, weight));
                for (i, (at_least, within)) in rules.iter().enumerate() {
                    let expected = naive[i].observe(time, u64::from(weight), *at_least, *within);
                    let crossing = ring.crossing(i, *at_least, *within, time);
                    let found = crossing.as_ref().map(|c| { let s = ring.span(i, c); (s.time, s.count) });
                    prop_assert_eq!(found, expected);
                    if let Some(crossing) = crossing {
                        ring.use_up(i, &crossing);
                    }
                }
                if prune {
                    ring.prune(now - late - 25);
                }
            }
        }
    }

    #[test]
    fn the_span_is_half_open() {
        let mut ring = Ring::new(1);
        ring.insert(entry(0, 1));
        ring.insert(entry(10, 1));
        assert_eq!(ring.crossing(0, 2, 10, 10), None);
        assert!(ring.crossing(0, 2, 11, 10).is_some());
    }

    #[test]
    fn a_late_event_completes_an_earlier_span() {
        let mut ring = Ring::new(1);
        ring.insert(entry(100, 1));
        ring.insert(entry(105, 1));
        ring.insert(entry(102, 1));
        let crossing = ring.crossing(0, 3, 10, 102);
        assert_eq!(crossing.map(|c| c.time), Some(105));
    }
}
