//! What is in force, for whoever asks while the stream goes on.
//!
//! The stream's thread writes after each commit, and many read: what stands here lasts. Every change
//! has a number, so that a reader who knows the last one it has seen is told only what is new; one
//! who has seen too little of late, or nothing since a restart, takes the whole list.

use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op};
use crate::decode::time::Micros;
use dashmap::DashMap;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Changes that are remembered; a reader who is further behind takes the whole list.
const CHANGES_MAX: usize = 200_000;

/// What happened to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It started.
    Begun,
    /// It lasts longer, or an address was added to it.
    Extended {
        /// When it would have ended.
        before: Micros,
    },
    /// It is over: its time was up, or it was lifted.
    Ended {
        /// When it would have ended, by what was said of it last.
        announced: Micros,
    },
}

/// A change of what is in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its number, from 1.
    pub number: u64,
    /// What happened.
    pub happened: Happened,
    /// The decision as it is afterwards.
    pub decision: Decision,
}

#[derive(Debug, Default)]
struct Log {
    /// The number of the last change.
    last: u64,
    changes: VecDeque<Change>,
    /// Decisions that are over, with when they would have ended: a reader that was away may still
    /// enforce them until then.
    over: VecDeque<(Micros, Decision)>,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    active: DashMap<String, Decision>,
    log: Mutex<Log>,
}

impl Board {
    /// A board with what a restart has found: what is in force, and what is over but may still be
    /// enforced somewhere, with when it would have ended.
    pub fn new(active: Vec<Decision>, over: Vec<(Micros, Decision)>) -> Self {
        let board = Self::default();
        board.log().over.extend(over);
        for decision in active {
            board.active.insert(decision.id.clone(), decision);
        }
        board
    }

    /// Begins with what a restart has found, as [`Board::new`].
    pub fn begin(&self, active: Vec<Decision>, over: Vec<(Micros, Decision)>) {
        let mut log = self.log();
        log.over.extend(over);
        for decision in active {
            self.active.insert(decision.id.clone(), decision);
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what lasts.
    pub fn apply(&self, actions: &[Action]) {
        let mut log = self.log();
        for action in actions {
            let id = action.decision.as_deref().unwrap_or_default();
            let (happened, decision) = match action.op {
                Op::Start => {
                    let Some(decision) = Decision::of_start(action) else { continue };
                    self.active.insert(decision.id.clone(), decision.clone());
                    (Happened::Begun, decision)
                }
                Op::Extend => {
                    let Some(mut decision) = self.active.get_mut(id) else { continue };
                    let before = decision.until;
                    let until = action.until.as_deref().and_then(instant_of);
                    decision.until = until.unwrap_or(before).max(before);
                    action.hosts.iter().for_each(|host| decision.add_host(*host));
                    (Happened::Extended { before }, decision.clone())
                }
                Op::End => {
                    let Some((_, mut decision)) = self.active.remove(id) else { continue };
                    let announced = decision.until;
                    decision.until = instant_of(&action.time).unwrap_or(announced);
                    log.over.push_back((announced, decision.clone()));
                    (Happened::Ended { announced }, decision)
                }
                Op::Withheld | Op::Note => continue,
            };
            log.last += 1;
            let number = log.last;
            log.changes.push_back(Change { number, happened, decision });
            if log.changes.len() > CHANGES_MAX {
                log.changes.pop_front();
            }
        }
    }

    /// What is in force, in the order of its starts.
    pub fn active(&self) -> Vec<Decision> {
        self.active_and_last().0
    }

    /// What is in force, and the number of the last change that made it so.
    pub fn active_and_last(&self) -> (Vec<Decision>, u64) {
        // Nothing changes while the log is held.
        let log = self.log();
        let mut all: Vec<Decision> =
            self.active.iter().map(|entry| entry.value().clone()).collect();
        all.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        (all, log.last)
    }

    /// Shows each that is in force, in no order and without holding anybody up.
    pub fn each(&self, mut see: impl FnMut(&Decision)) {
        self.active.iter().for_each(|entry| see(entry.value()));
    }

    /// How many decisions are in force.
    pub fn len(&self) -> usize {
        self.active.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// The decision with an id, if it is in force.
    pub fn get(&self, id: &str) -> Option<Decision> {
        self.active.get(id).map(|entry| entry.value().clone())
    }

    /// The number of the last change.
    pub fn last(&self) -> u64 {
        self.log().last
    }

    /// The changes after `number`, the oldest first; none if they are not known any more.
    pub fn changes_after(&self, number: u64) -> Option<Vec<Change>> {
        let log = self.log();
        let oldest = log.changes.front().map_or(log.last + 1, |change| change.number);
        if number > log.last || number + 1 < oldest {
            return None;
        }
        let skip = usize::try_from(number + 1 - oldest).unwrap_or(usize::MAX);
        Some(log.changes.iter().skip(skip).cloned().collect())
    }

    /// Decisions that are over although whoever was told of them last may enforce them at `now`.
    pub fn over(&self, now: Micros) -> Vec<Decision> {
        let mut log = self.log();
        log.over.retain(|(announced, _)| *announced > now);
        log.over.iter().map(|(_, decision)| decision.clone()).collect()
    }
}
