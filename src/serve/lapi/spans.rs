//! Ends that were said of an element and hold no longer, each to be followed by a word that the
//! element stands.

use crate::decode::time::Micros;

/// How long after such an end the element is announced, so that it is gone where it was.
pub const FIRST: Micros = 2_000_000;
/// From one announcement to the next; there are at least two.
const STEP: Micros = 13_000_000;
/// How long after such an end the last announcement comes, at the latest two steps more.
pub const LAST: Micros = FIRST + STEP;
/// Ends that are so near are taken together.
const NEAR: Micros = 1_000_000;
/// Spans that an element has; of more, the two nearest become one.
const SPANS_MAX: usize = 8;

/// Ends in time order, near ones taken together: from the first on, every [`STEP`] until the last
/// is followed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans {
    spans: Vec<(Micros, Micros)>,
    /// What was due until then was said.
    checked: Micros,
}

/// When a span is due next after `after`.
fn due_after((from, to): (Micros, Micros), after: Micros) -> Option<Micros> {
    let first = from + FIRST;
    if after < first {
        return Some(first);
    }
    let next = first + ((after - first) / STEP + 1) * STEP;
    // The last is the first that is not before `to + LAST`.
    (next < to + LAST + STEP).then_some(next)
}

impl Spans {
    /// Adds an end.
    pub fn add(&mut self, end: Micros, now: Micros) {
        self.merge((end, end), now);
    }

    /// Adds those of another.
    pub fn join(&mut self, other: &Self, now: Micros) {
        other.spans.iter().for_each(|span| self.merge(*span, now));
    }

    fn merge(&mut self, (mut from, mut to): (Micros, Micros), now: Micros) {
        if due_after((from, to), now).is_none() {
            return;
        }
        if self.spans.is_empty() {
            self.checked = now;
        }
        self.spans.retain(|&(start, end)| {
            let apart = start > to + NEAR || end + NEAR < from;
            if !apart {
                (from, to) = (from.min(start), to.max(end));
            }
            apart
        });
        let place = self.spans.partition_point(|&(start, _)| start < from);
        self.spans.insert(place, (from, to));
        if self.spans.len() > SPANS_MAX {
            let gap = |n: &usize| self.spans[n + 1].0 - self.spans[*n].1;
            if let Some(nearest) = (0..SPANS_MAX).min_by_key(gap) {
                let (_, to) = self.spans.remove(nearest + 1);
                self.spans[nearest].1 = to;
            }
        }
    }

    /// Whether an announcement has become due by `now`; those that were are not due again.
    pub fn due(&mut self, now: Micros) -> bool {
        let checked = std::mem::replace(&mut self.checked, now);
        let due = |span: &(Micros, Micros)| due_after(*span, checked).is_some_and(|at| at <= now);
        let any = self.spans.iter().any(due);
        self.spans.retain(|span| due_after(*span, now).is_some());
        any
    }

    /// When the next announcement is due.
    pub fn next(&self, now: Micros) -> Option<Micros> {
        self.spans.iter().filter_map(|span| due_after(*span, now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    /// The whole seconds at which something is due.
    fn dues(spans: &mut Spans, from: Micros, to: Micros) -> Vec<Micros> {
        (from..=to).filter(|s| spans.due(s * SECOND)).collect()
    }

    #[test]
    fn an_end_is_followed_up_twice() {
        let mut spans = Spans::default();
        spans.add(10 * SECOND, 0);
        assert_eq!(spans.next(0), Some(12 * SECOND));
        assert_eq!(dues(&mut spans, 1, 60), [12, 25]);
        assert_eq!(spans, Spans { spans: Vec::new(), checked: 60 * SECOND });
        // One that is past is not followed up.
        spans.add(10 * SECOND, 60 * SECOND);
        assert_eq!(spans.next(60 * SECOND), None);
    }

    #[test]
    fn every_end_is_followed_up_however_many_there_are() {
        // By primes, so that distances differ.
        for count in [1, 2, 7, 8, 9, 40, 200] {
            for distance in [1, 5, 13, 14, 37, 101] {
                let mut spans = Spans::default();
                let ends: Vec<Micros> = (1..=count).map(|n| n * n % 211 * distance).collect();
                ends.iter().for_each(|end| spans.add(end * SECOND, 0));
                assert!(spans.spans.len() <= SPANS_MAX);
                let dues = dues(&mut spans, 1, 211 * distance + 60);
                for end in ends.iter().filter(|end| **end > 0) {
                    let next = dues.iter().find(|due| **due >= end + 2);
                    assert!(next.is_some_and(|due| *due <= end + 15), "{end} of {count}: {dues:?}");
                }
                assert_eq!(spans.next(0), None);
            }
        }
    }
}
