//! Which records were taken in, so that one that comes again is known.
//!
//! A pipe has no place to go back to, and whoever fills it may begin a little before where they ended:
//! a loop around `railway logs` prints its last lines again, a stream that is resumed overlaps. What
//! tells a repetition is all that a record says ([`crate::decode::print`]). Records are remembered for
//! a time of the stream's clock, and the last [`KEPT_MIN`] of them however old they are: a quiet
//! service's last lines are days old and come again all the same.

use crate::decode::print::Print;
use crate::decode::time::Micros;
use crate::window::codec::{Reader, number, put_number, put_option, put_time};
use std::collections::{HashSet, VecDeque};

/// So many of the last records are remembered however old they are.
pub const KEPT_MIN: usize = 10_000;
/// More are not remembered, however young they are.
pub const KEPT_MAX: usize = 1 << 18;
/// What one takes, bytes: its places in a list and in a table, which both grow by doubling.
const BYTES: usize = 96;

/// Records that were taken in.
#[derive(Debug)]
pub struct Seen {
    /// How long they are remembered, microseconds of the stream's clock.
    within: Micros,
    /// How many at most.
    max: usize,
    known: HashSet<Print>,
    /// With the clock at which they were taken in, in that order.
    order: VecDeque<(Option<Micros>, Print)>,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It is new, and to remember it one was forgotten that could still come again.
    Crowded,
    /// It was taken in before.
    Again,
}

impl Seen {
    /// Remembers records for `within`, in at most about `bytes` bytes.
    pub fn new(within: Micros, bytes: usize) -> Self {
        Self {
            within,
            max: (bytes / BYTES).clamp(KEPT_MIN, KEPT_MAX),
            known: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Takes a record in.
    pub fn take(&mut self, print: Print, clock: Option<Micros>) -> Taken {
        if !self.known.insert(print) {
            return Taken::Again;
        }
        self.order.push_back((clock, print));
        let limit = clock.map(|clock| clock.saturating_sub(self.within));
        while self.order.len() > KEPT_MIN && self.order.front().is_some_and(|(at, _)| *at < limit) {
            self.forget();
        }
        if self.order.len() > self.max {
            self.forget();
            return Taken::Crowded;
        }
        Taken::New
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.order.len() * BYTES
    }

    fn forget(&mut self) {
        if let Some((_, print)) = self.order.pop_front() {
            self.known.remove(&print);
        }
    }

    /// Writes it.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.order.len()));
        for (at, print) in &self.order {
            put_option(out, *at, put_time);
            out.extend_from_slice(&print.to_le_bytes());
        }
    }

    /// Reads it.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.number()? {
            let at = from.option(Reader::time)?;
            let print = Print::from_le_bytes(*from.take(size_of::<Print>())?.first_chunk()?);
            if self.known.insert(print) {
                self.order.push_back((at, print));
            }
        }
        while self.order.len() > self.max {
            self.forget();
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Micros = 60_000_000;

    #[test]
    fn what_was_taken_in_is_known_for_its_time_and_the_last_ones_longer() {
        let mut seen = Seen::new(10 * MINUTE, 1 << 20);
        assert_eq!(seen.take(1, None), Taken::New);
        assert_eq!(seen.take(1, Some(0)), Taken::Again);
        // Old, but among the last.
        assert_eq!(seen.take(2, Some(600 * MINUTE)), Taken::New);
        assert_eq!(seen.take(1, Some(600 * MINUTE)), Taken::Again);
        for print in 10..10 + KEPT_MIN as u128 {
            assert_eq!(seen.take(print, Some(600 * MINUTE)), Taken::New);
        }
        assert_eq!(seen.take(1, Some(600 * MINUTE)), Taken::New, "the first has gone");
        // Within its time it stays, however many come.
        assert_eq!(seen.take(10, Some(609 * MINUTE)), Taken::Again);
        assert_eq!(seen.take(9, Some(611 * MINUTE)), Taken::New);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let mut seen = Seen::new(10 * MINUTE, 0);
        for print in 0..KEPT_MIN as u128 {
            assert_eq!(seen.take(print, Some(0)), Taken::New);
        }
        assert_eq!(seen.take(1 << 100, Some(0)), Taken::Crowded);
        assert_eq!(seen.take(0, Some(0)), Taken::Crowded, "the oldest was forgotten");
        assert_eq!((seen.order.len(), seen.known.len()), (KEPT_MIN, KEPT_MIN));
    }

    proptest! {
        #[test]
        fn a_captured_memory_goes_on_as_the_original(
            records in prop::collection::vec((0u128..40, 0i64..30), 0..200),
            cut in 0usize..200,
        ) {
            let mut one = Seen::new(5, 1 << 20);
            let mut two = Seen::new(5, 1 << 20);
            for (n, (print, at)) in records.iter().enumerate() {
                if n == cut {
                    let mut bytes = Vec::new();
                    two.capture(&mut bytes);
                    two = Seen::new(5, 1 << 20);
                    let mut reader = Reader::new(&bytes);
                    prop_assert!(two.restore(&mut reader).is_some() && reader.is_empty());
                }
                prop_assert_eq!(one.take(*print, Some(*at)), two.take(*print, Some(*at)));
            }
        }
    }
}
