//! The clock of a stream: event time that no single record can move.

use crate::decode::time::Micros;
use crate::window::codec::{Reader, number, put_number, put_option, put_time};
use std::collections::VecDeque;

/// Times whose lower median is the clock.
const WITNESSES: usize = 5;
/// Times needed before there is a clock.
const WITNESSES_MIN: usize = 3;
/// Late records in a row after which the clock is believed to be wrong.
const LATE_RUN: usize = 50;
/// How near to each other they must lie, microseconds.
const LATE_RUN_SPAN: Micros = 3_600_000_000;

/// What a record's time means to the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It can be applied.
    OnTime,
    /// Too late to be put at its time without having missed something.
    Late,
    /// Too far ahead to be believed alone.
    Ahead,
}

/// The clock.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    lateness: Micros,
    max_ahead: Micros,
    recent: VecDeque<Micros>,
    late_run: Vec<Micros>,
    now: Option<Micros>,
    start: Option<Micros>,
}

impl Clock {
    /// A clock that has not begun; both limits in microseconds.
    pub fn new(lateness: Micros, max_ahead: Micros) -> Self {
        Self { lateness, max_ahead, ..Self::default() }
    }

    /// The clock, once three times are known.
    pub fn now(&self) -> Option<Micros> {
        self.now
    }

    /// The first time it showed.
    pub fn start(&self) -> Option<Micros> {
        self.start
    }

    /// Takes the time of a matched record; what it means, and whether the clock was restarted
    /// because fifty late records in a row agreed on another time.
    pub fn observe(&mut self, time: Micros) -> (Arrival, bool) {
        if self.now.is_some_and(|now| time < now.saturating_sub(self.lateness)) {
            return (Arrival::Late, self.note_late(time));
        }
        self.late_run.clear();
        if self.recent.len() == WITNESSES {
            self.recent.pop_front();
        }
        self.recent.push_back(time);
        if self.recent.len() >= WITNESSES_MIN {
            self.now = self.now.max(self.median());
            self.start = self.start.or(self.now);
        }
        if self.is_ahead(time) { (Arrival::Ahead, false) } else { (Arrival::OnTime, false) }
    }

    /// Writes what it knows.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.recent.len()));
        self.recent.iter().for_each(|time| put_time(out, *time));
        put_number(out, number(self.late_run.len()));
        self.late_run.iter().for_each(|time| put_time(out, *time));
        put_option(out, self.now, put_time);
        put_option(out, self.start, put_time);
    }

    /// Reads it as it was written.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.number()? {
            self.recent.push_back(from.time()?);
        }
        for _ in 0..from.number()? {
            self.late_run.push(from.time()?);
        }
        self.now = from.option(Reader::time)?;
        self.start = from.option(Reader::time)?;
        Some(())
    }

    /// The lower median of the recent times, which are few and asked for with every record.
    fn median(&self) -> Option<Micros> {
        let mut times = [Micros::MAX; WITNESSES];
        times.iter_mut().zip(&self.recent).for_each(|(slot, time)| *slot = *time);
        times.sort_unstable();
        times.get(self.recent.len().checked_sub(1)? / 2).copied()
    }

    /// Whether a time is too far ahead to be believed.
    pub fn is_ahead(&self, time: Micros) -> bool {
        self.now.is_some_and(|now| time > now.saturating_add(self.max_ahead))
    }

    /// A time that tells of nothing but itself, moved to where it can do no harm.
    pub fn clamp(&self, time: Micros) -> Micros {
        match self.now {
            Some(now) if time < now.saturating_sub(self.lateness) || self.is_ahead(time) => now,
            _ => time,
        }
    }

    fn note_late(&mut self, time: Micros) -> bool {
        self.late_run.push(time);
        if self.late_run.len() > LATE_RUN {
            self.late_run.remove(0);
        }
        let near = match (self.late_run.iter().min(), self.late_run.iter().max()) {
            (Some(first), Some(last)) => last.saturating_sub(*first) <= LATE_RUN_SPAN,
            _ => false,
        };
        if self.late_run.len() < LATE_RUN || !near {
            return false;
        }
        self.now = lower_median(self.late_run.iter().copied());
        // A beginning that lies ahead was none, and nothing would be learnt enough before it.
        self.start = self.start.min(self.now);
        self.recent = self.late_run.iter().rev().take(WITNESSES).rev().copied().collect();
        self.late_run.clear();
        true
    }
}

/// Of at most [`LATE_RUN`] times.
fn lower_median(times: impl Iterator<Item = Micros>) -> Option<Micros> {
    let mut sorted = [Micros::MAX; LATE_RUN];
    let mut len = 0;
    for (place, time) in sorted.iter_mut().zip(times) {
        *place = time;
        len += 1;
    }
    let sorted = sorted.get_mut(..len)?;
    sorted.sort_unstable();
    sorted.get(len.checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Micros = 1_000_000;

    fn clock() -> Clock {
        Clock::new(60 * S, 86_400 * S)
    }

    #[test]
    fn no_single_record_moves_it() {
        let mut clock = clock();
        for t in [100, 101, 102] {
            assert_eq!(clock.observe(t * S).0, Arrival::OnTime);
        }
        assert_eq!(clock.now(), Some(101 * S));
        assert_eq!(clock.observe(900_000_000 * S).0, Arrival::Ahead);
        assert_eq!(clock.observe(-5).0, Arrival::Late);
        assert_eq!(clock.observe(103 * S).0, Arrival::OnTime);
        assert_eq!(clock.now(), Some(102 * S));
        // Two forged ones among five still cannot.
        assert_eq!(clock.observe(900_000_000 * S).0, Arrival::Ahead);
        assert_eq!(clock.observe(104 * S).0, Arrival::OnTime);
        assert!(clock.now() < Some(200 * S), "{:?}", clock.now());
    }

    #[test]
    fn before_the_third_nothing_is_late() {
        let mut clock = clock();
        assert_eq!(clock.observe(1000 * S).0, Arrival::OnTime);
        assert_eq!(clock.observe(0).0, Arrival::OnTime);
        assert_eq!(clock.now(), None);
    }

    #[test]
    fn it_never_goes_back_but_can_be_restarted() {
        let mut clock = clock();
        for t in [1000, 1001, 1002, 950, 951] {
            clock.observe(t * S);
        }
        assert_eq!(clock.now(), Some(1001 * S));
        for n in 0..49 {
            assert_eq!(clock.observe(n * S), (Arrival::Late, false));
        }
        assert_eq!(clock.observe(49 * S), (Arrival::Late, true));
        assert_eq!(clock.now(), Some(24 * S));
        assert_eq!(clock.observe(50 * S).0, Arrival::OnTime);
    }

    #[test]
    fn a_late_run_must_agree() {
        let mut clock = clock();
        for t in [1_000_000, 1_000_001, 1_000_002] {
            clock.observe(t * S);
        }
        for n in 0..200 {
            assert!(!clock.observe(n * 100 * S).1, "spread over hours");
        }
    }
}
