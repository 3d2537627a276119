//! What rules remember of a key beside its events: when they fired, and what a brake holds back.

use super::codec::{number, put_number, take, take_number};
use crate::decode::time::Micros;
use std::collections::BTreeMap;

/// Marks beyond which a state is kept in the form for many.
pub const FEW: usize = 16;
/// Bytes counted for one of many: its place in a tree that is half full.
const MARK_BYTES: usize = 48;

/// One thing that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    rule: u64,
    /// How often the rule fired at `at`; 0: `at` is the minute of a decision that a brake held back.
    times: u64,
    at: Micros,
}

impl Mark {
    fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.rule);
        put_number(out, self.times);
        out.extend_from_slice(&self.at.to_le_bytes());
    }

    fn is(&self, rule: usize, at: Option<Micros>) -> bool {
        self.rule == number(rule)
            && at.map_or(self.times == 0, |at| self.times > 0 && at == self.at)
    }
}

fn each(mut bytes: &[u8]) -> impl Iterator<Item = Mark> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (rule, times) = (take_number(&mut bytes), take_number(&mut bytes));
        let at = take(&mut bytes, size_of::<Micros>()).try_into().map_or(0, Micros::from_le_bytes);
        Some(Mark { rule, times, at })
    })
}

/// How many marks were written.
pub fn written(bytes: &[u8]) -> usize {
    each(bytes).count()
}

/// The minute of a rule's decision that a brake held back, of marks as written.
pub fn braked(bytes: &[u8], rule: usize) -> Option<i64> {
    each(bytes).find(|mark| mark.is(rule, None)).map(|mark| mark.at)
}

/// How often a rule fired at `at`, of marks as written.
pub fn fired(bytes: &[u8], rule: usize, at: Micros) -> u32 {
    let times = each(bytes).find(|mark| mark.is(rule, Some(at))).map_or(0, |mark| mark.times);
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// Writes marks with the numbers that their rules have elsewhere; of rules without one, none.
pub fn renumber(bytes: &[u8], rules: &[Option<usize>], out: &mut Vec<u8>) {
    for mark in each(bytes) {
        let rule = usize::try_from(mark.rule).ok().and_then(|rule| rules.get(rule).copied());
        if let Some(rule) = rule.flatten() {
            Mark { rule: number(rule), ..mark }.put(out);
        }
    }
}

/// What becomes of a rule's marks when it fires.
#[derive(Debug, Clone, Copy)]
pub struct Fired {
    /// The rule's number.
    pub rule: usize,
    /// When.
    pub at: Micros,
    /// The minute, if a brake held it back.
    pub braked: Option<i64>,
    /// No event before this can still come, so that no crossing can end there: what fired before it
    /// is forgotten.
    pub horizon: Option<Micros>,
}

/// Writes marks anew after a rule fired.
pub fn fire(bytes: &[u8], fired: Fired, out: &mut Vec<u8>) {
    out.clear();
    let Fired { rule, at, braked, horizon } = fired;
    let mut new = Mark { rule: number(rule), times: 1, at };
    for mark in each(bytes) {
        if mark.is(rule, Some(at)) {
            new.times += mark.times;
        } else if !mark.is(rule, None)
            && (mark.times == 0 || horizon.is_none_or(|horizon| mark.at >= horizon))
        {
            mark.put(out);
        }
    }
    new.put(out);
    if let Some(minute) = braked {
        Mark { rule: number(rule), times: 0, at: minute }.put(out);
    }
}

/// Many marks of one key.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    fired: BTreeMap<(Micros, usize), u32>,
    braked: BTreeMap<usize, i64>,
}

impl Marks {
    /// Takes marks over as they were written.
    pub fn of(bytes: &[u8]) -> Self {
        let mut marks = Self::default();
        for mark in each(bytes) {
            let rule = usize::try_from(mark.rule).unwrap_or(usize::MAX);
            if mark.times == 0 {
                marks.braked.insert(rule, mark.at);
            } else {
                let times = u32::try_from(mark.times).unwrap_or(u32::MAX);
                marks.fired.insert((mark.at, rule), times);
            }
        }
        marks
    }

    /// Writes them as [`Marks::of`] reads them.
    pub fn write(&self, out: &mut Vec<u8>) {
        for ((at, rule), times) in &self.fired {
            Mark { rule: number(*rule), times: u64::from(*times), at: *at }.put(out);
        }
        for (rule, minute) in &self.braked {
            Mark { rule: number(*rule), times: 0, at: *minute }.put(out);
        }
    }

    /// As [`braked`].
    pub fn braked(&self, rule: usize) -> Option<i64> {
        self.braked.get(&rule).copied()
    }

    /// As [`fired`].
    pub fn fired(&self, rule: usize, at: Micros) -> u32 {
        self.fired.get(&(at, rule)).copied().unwrap_or(0)
    }

    /// As [`fire`].
    pub fn fire(&mut self, fired: Fired) {
        let Fired { rule, at, braked, horizon } = fired;
        while let Some(first) = self.fired.first_entry()
            && horizon.is_some_and(|horizon| first.key().0 < horizon)
        {
            first.remove();
        }
        *self.fired.entry((at, rule)).or_default() += 1;
        match braked {
            Some(minute) => self.braked.insert(rule, minute),
            None => self.braked.remove(&rule),
        };
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        (self.fired.len() + self.braked.len()) * MARK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn few_and_many_remember_the_same(
            steps in prop::collection::vec((0usize..3, 0i64..20, prop::option::of(0i64..5)), 1..60),
        ) {
            let (mut few, mut many) = (Vec::new(), Marks::default());
            for (n, (rule, at, braked_in)) in (0i64..).zip(steps) {
                let horizon = (n % 4 == 3).then_some(n / 6);
                let at = at + n / 6;
                let step = Fired { rule, at, braked: braked_in, horizon };
                let mut out = Vec::new();
                fire(&few, step, &mut out);
                few = out;
                many.fire(step);
                for rule in 0..3 {
                    prop_assert_eq!(braked(&few, rule), many.braked(rule));
                    for at in horizon.unwrap_or(0)..25 {
                        prop_assert_eq!(fired(&few, rule, at), many.fired(rule, at));
                        prop_assert_eq!(fired(&few, rule, at), Marks::of(&few).fired(rule, at));
                    }
                }
            }
        }
    }
}
