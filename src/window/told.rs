//! What an action tells of a crossing. It is taken as bytes where the crossing happens, and read by
//! whoever writes the line, perhaps on another thread: most of the work of a line is this reading,
//! and nothing waits for it.

use super::codec::{KeptLists, Shown};
use super::ring::{self, Crossing, Timeline, ValueOf};
use super::{Span, Sums, small};
use crate::decode::time::Micros;
use crate::pattern::Standing;

/// What a rule had counted when it crossed.
#[derive(Debug, Clone)]
pub enum Told {
    /// Summed up: what it holds, and how many different values, for `distinct`.
    Ready(Box<Span>, Option<u64>),
    /// As it was written.
    Written {
        /// A window's content.
        content: Box<[u8]>,
        /// The rule's slot in it.
        rule: usize,
        /// What the rule tells apart.
        of: Option<ValueOf>,
        /// Where in it the crossing lies.
        crossing: Crossing,
        /// What numbers in it mean.
        kept: KeptLists,
    },
}

impl Told {
    /// What the crossing holds that its rule has not used up, and how many different values.
    pub fn read(&self) -> (Span, Option<u64>) {
        match self {
            Told::Ready(span, distinct) => ((**span).clone(), *distinct),
            // Nothing but a way once through it is needed.
            Told::Written { content, rule, of: None, crossing, kept }
                if crossing.completing.is_none() =>
            {
                let mut sums = Sums::new(crossing.time, crossing.range.len());
                let firsts = small::events(content).filter(|event| event.completes.is_none());
                for (at, event) in firsts.enumerate() {
                    if crossing.range.contains(&at) && event.item.unused(*rule) > 0 {
                        sums.add(event.item.time, event.item.weight, &Shown::read(event.shown));
                    }
                }
                (sums.span(kept), None)
            }
            Told::Written { content, rule, of, crossing, kept } => {
                let (firsts, completing) = small::lists(content, *rule);
                sum_up(&firsts, Some(&completing), *rule, *of, crossing, kept)
            }
        }
    }

    /// The weakest standing of its addresses.
    pub fn standing(&self) -> Standing {
        match self {
            Told::Ready(span, _) => span.standing,
            Told::Written { .. } => self.read().0.standing,
        }
    }
}

/// Sums up a crossing of the rule in a slot that tells apart what `of` says.
pub fn sum_up<T: Timeline>(
    firsts: &T,
    completing: Option<&T>,
    rule: usize,
    of: Option<ValueOf>,
    crossing: &Crossing,
    kept: &KeptLists,
) -> (Span, Option<u64>) {
    fn event<T: Timeline>(list: &T, at: usize) -> (Micros, u32, Shown<'_>) {
        let item = list.item(at);
        (item.time, item.weight, list.shown(at))
    }
    let unused = crossing.range.clone().filter(|at| firsts.item(*at).unused(rule) > 0);
    let count = unused.clone().map(|at| firsts.item(at).unused(rule)).sum();
    let last = crossing.completing.zip(completing);
    let mut sums = Sums::new(crossing.time, crossing.range.len() + 1);
    let events = unused
        .map(|at| event(firsts, at))
        .chain(last.map(|(at, completing)| event(completing, at)));
    events.for_each(|(at, weight, shown)| sums.add(at, weight, &shown));
    let span = Span { count, ..sums.span(kept) };
    (span, of.map(|of| ring::different(firsts, rule, of, crossing)))
}
