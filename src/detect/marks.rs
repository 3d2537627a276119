//! What rules remember of a key beside its events: when they fired, and what a brake holds back.

use crate::decode::time::Micros;
use crate::window::codec::{number, put_number, take, take_number};

/// One thing that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// The rule's number.
    rule: u64,
    /// How often it fired at `at`; 0: `at` is the minute of a decision that a brake held back.
    times: u64,
    at: Micros,
}

/// All of a key, as they are written into its state.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Reads them.
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut marks = Vec::new();
        while !bytes.is_empty() {
            let (rule, times) = (take_number(&mut bytes), take_number(&mut bytes));
            let at = take(&mut bytes, size_of::<Micros>()).try_into();
            marks.push(Mark { rule, times, at: at.map_or(0, Micros::from_le_bytes) });
        }
        Self(marks)
    }

    /// Writes them.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 11);
        for mark in &self.0 {
            put_number(&mut out, mark.rule);
            put_number(&mut out, mark.times);
            out.extend_from_slice(&mark.at.to_le_bytes());
        }
        out
    }

    /// The minute of a rule's decision that a brake held back.
    pub fn braked(&self, rule: usize) -> Option<i64> {
        let braked = |mark: &&Mark| mark.rule == number(rule) && mark.times == 0;
        self.0.iter().find(braked).map(|mark| mark.at)
    }

    /// Notes that minute, or that nothing is held back any more.
    pub fn brake(&mut self, rule: usize, minute: Option<i64>) {
        let rule = number(rule);
        self.0.retain(|mark| mark.rule != rule || mark.times > 0);
        self.0.extend(minute.map(|at| Mark { rule, times: 0, at }));
    }

    /// How often a rule fired at `time`.
    pub fn fired(&self, rule: usize, time: Micros) -> u32 {
        let same = |mark: &&Mark| mark.rule == number(rule) && mark.at == time && mark.times > 0;
        let times = self.0.iter().find(same).map_or(0, |mark| mark.times);
        u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Notes that a rule fires at `time`, and forgets when it did so at or before `horizon`.
    pub fn fire(&mut self, rule: usize, time: Micros, horizon: Option<Micros>) {
        let rule = number(rule);
        let recurs = |mark: &Mark| horizon.is_none_or(|horizon| mark.at > horizon);
        self.0.retain(|mark| mark.rule != rule || mark.times == 0 || recurs(mark));
        let same = |mark: &&mut Mark| mark.rule == rule && mark.at == time && mark.times > 0;
        match self.0.iter_mut().find(same) {
            Some(mark) => mark.times += 1,
            None => self.0.push(Mark { rule, times: 1, at: time }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_come_back() {
        let mut marks = Marks::default();
        marks.fire(3, 1000, None);
        marks.fire(3, 1000, None);
        marks.fire(300, -5, None);
        marks.brake(3, Some(7));
        let mut marks = Marks::read(&marks.write());
        assert_eq!((marks.fired(3, 1000), marks.fired(300, -5), marks.fired(3, 5)), (2, 1, 0));
        assert_eq!((marks.braked(3), marks.braked(300)), (Some(7), None));
        marks.brake(3, None);
        marks.fire(3, 2000, Some(1000));
        assert_eq!((marks.fired(3, 1000), marks.fired(3, 2000), marks.braked(3)), (0, 1, None));
        assert_eq!(Marks::read(&marks.write()), marks);
    }
}
