//! What is in force, for whoever asks while the stream goes on.
//!
//! The stream's thread writes after each commit, and many read: what stands here lasts. Every change
//! has a number, so that a reader who knows the last one it has seen is told only what is new; one
//! who has seen too little of late, or nothing since a restart, takes the whole list.

use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op, Target, hex};
use crate::decode::time::Micros;
use dashmap::DashMap;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Changes that are remembered; a reader who is further behind takes the whole list.
const CHANGES_MAX: usize = 200_000;

/// How long a decision is remembered after the end that was said of it last: who keeps no time of
/// its own and was away must still hear that it is over.
pub const LINGER: Micros = 3_600_000_000;

/// Decisions that are over and are remembered; of more, those whose time is up first go.
const OVER_MAX: usize = 200_000;

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
    /// Decisions that are over, by when they would have ended: a reader that was away may still
    /// enforce them until then.
    over: BTreeMap<(Micros, String), Decision>,
    /// Ends that were said of decisions before these were extended, from before a restart.
    ends_before: Vec<(String, Micros)>,
    /// Ends that have become later in silence, of decisions whose start is still to come.
    prolonged: HashMap<String, Micros>,
}

impl Log {
    fn remember(&mut self, announced: Micros, decision: Decision) {
        self.over.insert((announced, decision.id.clone()), decision);
        if self.over.len() > OVER_MAX {
            self.over.pop_first();
        }
    }

    fn note(&mut self, happened: Happened, decision: Decision) {
        self.last += 1;
        self.changes.push_back(Change { number: self.last, happened, decision });
        if self.changes.len() > CHANGES_MAX {
            self.changes.pop_front();
        }
    }

    /// The decision that was over and that an action extends all the same.
    fn revive(&mut self, action: &Action) -> Option<Decision> {
        let id = action.decision.as_deref()?;
        let at = self.over.iter().find(|(_, over)| over.id == id).map(|(at, _)| at.clone());
        let known = at.and_then(|at| self.over.remove(&at));
        let decision = Decision::of(action)?;
        Some(match known {
            Some(known) => Decision { until: decision.until, ..known },
            None => decision,
        })
    }

    fn forget(&mut self, now: Micros) {
        while let Some(first) = self.over.first_entry() {
            if first.key().0.saturating_add(LINGER) > now {
                break;
            }
            first.remove();
        }
    }
}

/// What stands for an address of a range that is not remembered any more: its enforcers must hear
/// that it is over, although the range is not.
fn of_host(decision: &Decision, host: IpAddr) -> Decision {
    let target = Target { kind: "ip".to_owned(), value: Some(host.to_string()) };
    let id = format!("{} {host}", decision.id);
    Decision { id, target, hosts: Vec::new(), ..decision.clone() }
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    active: DashMap<String, Decision>,
    log: Mutex<Log>,
}

impl Board {
    /// A board with what a restart has found: what is in force, and what is over but may still be
    /// enforced somewhere, with when it would have ended (back to [`LINGER`] ago).
    pub fn new(active: Vec<Decision>, over: Vec<(Micros, Decision)>) -> Self {
        let board = Self::default();
        board.begin(active, over, Vec::new());
        board
    }

    /// Begins with what a restart has found. `ends_before` are the ends that were said of what is in
    /// force before it was extended, by the decision's id: who ignores an extension lets go at such
    /// an end, and must be told again.
    pub fn begin(
        &self,
        active: Vec<Decision>,
        over: Vec<(Micros, Decision)>,
        ends_before: Vec<(String, Micros)>,
    ) {
        let mut log = self.log();
        log.ends_before = ends_before;
        over.into_iter().for_each(|(announced, decision)| log.remember(announced, decision));
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
                    let Some(mut decision) = Decision::of_start(action) else { continue };
                    let later = log.prolonged.remove(id);
                    decision.until = later.unwrap_or(decision.until).max(decision.until);
                    self.active.insert(decision.id.clone(), decision.clone());
                    (Happened::Begun, decision)
                }
                Op::Extend => {
                    let Some(mut decision) = self.active.get_mut(id) else {
                        // A late crossing, when its end was said already: it begins anew.
                        let Some(decision) = log.revive(action) else { continue };
                        self.active.insert(decision.id.clone(), decision.clone());
                        log.note(Happened::Begun, decision);
                        continue;
                    };
                    let (before, hosts) = (decision.until, decision.hosts.clone());
                    let until = action.until.as_deref().and_then(instant_of);
                    decision.until = until.unwrap_or(before).max(before);
                    action.hosts.iter().for_each(|host| decision.add_host(*host));
                    for host in hosts.into_iter().filter(|host| !decision.hosts.contains(host)) {
                        log.remember(before, of_host(&decision, host));
                    }
                    (Happened::Extended { before }, decision.clone())
                }
                Op::End => {
                    log.prolonged.remove(id);
                    let Some((_, mut decision)) = self.active.remove(id) else { continue };
                    let announced = decision.until;
                    decision.until = instant_of(&action.time).unwrap_or(announced);
                    log.forget(decision.until);
                    log.remember(announced, decision.clone());
                    (Happened::Ended { announced }, decision)
                }
                Op::Withheld | Op::Note => continue,
            };
            log.note(happened, decision);
        }
    }

    /// Takes in that decisions last longer although no line says so, by their ids: no change that is
    /// told, but the end that stands.
    pub fn prolong(&self, ends: &BTreeMap<u64, Micros>) {
        let mut log = self.log();
        for (id, until) in ends {
            let id = hex(*id);
            match self.active.get_mut(&id) {
                Some(mut decision) => decision.until = decision.until.max(*until),
                None => {
                    log.prolonged.insert(id, *until);
                }
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
        self.some_changes_after(number, usize::MAX)
    }

    /// The first `most` of the changes after `number`: for readers who must not keep the stream's
    /// thread from writing for long.
    pub fn some_changes_after(&self, number: u64, most: usize) -> Option<Vec<Change>> {
        let log = self.log();
        let oldest = log.changes.front().map_or(log.last + 1, |change| change.number);
        if number > log.last || number + 1 < oldest {
            return None;
        }
        let skip = usize::try_from(number + 1 - oldest).unwrap_or(usize::MAX);
        Some(log.changes.iter().skip(skip).take(most).cloned().collect())
    }

    /// Decisions that are over although whoever was told of them last may enforce them at `now`.
    pub fn over(&self, now: Micros) -> Vec<Decision> {
        self.over_since(now).into_iter().map(|(_, decision)| decision).collect()
    }

    /// Decisions that are over and whose end, by what was said of them last, lies after `when`, with
    /// that end.
    pub fn over_since(&self, when: Micros) -> Vec<(Micros, Decision)> {
        let log = self.log();
        let still = log.over.range((when.saturating_add(1), String::new())..);
        still.map(|((announced, _), decision)| (*announced, decision.clone())).collect()
    }

    /// A decision that is over, with the end that was last said of it; nothing once that is long past.
    pub fn over_of(&self, id: &str) -> Option<(Micros, Decision)> {
        let log = self.log();
        let found = log.over.iter().find(|((_, own), _)| own == id);
        found.map(|((announced, _), decision)| (*announced, decision.clone()))
    }

    /// Ends that were said of decisions and hold no longer, as far as they are known: from before a
    /// restart, and from the changes that are remembered.
    pub fn ends_before(&self) -> Vec<(String, Micros)> {
        let log = self.log();
        let extended = log.changes.iter().filter_map(|change| match change.happened {
            Happened::Extended { before } => Some((change.decision.id.clone(), before)),
            Happened::Begun | Happened::Ended { .. } => None,
        });
        log.ends_before.iter().cloned().chain(extended).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    fn decision(id: u64, until: Micros) -> Decision {
        Decision {
            id: format!("{id:016x}"),
            action: "block",
            mode: "enforce",
            target: Target { kind: "ip".to_owned(), value: Some("203.0.113.9".to_owned()) },
            rule: "rule".to_owned(),
            pack: "pack".to_owned(),
            started: 0,
            until,
            hosts: Vec::new(),
            reason: String::new(),
        }
    }

    #[test]
    fn what_is_over_is_told_until_its_end_would_have_come() {
        let over = (1..=3_u64).map(|n| {
            let announced = Micros::try_from(n).unwrap() * 10 * SECOND;
            (announced, decision(n, 0))
        });
        let board = Board::new(Vec::new(), over.collect());
        let ends =
            |now| board.over_since(now).into_iter().map(|(at, _)| at / SECOND).collect::<Vec<_>>();
        assert_eq!(ends(0), [10, 20, 30]);
        assert_eq!(ends(10 * SECOND), [20, 30]);
        assert_eq!(ends(30 * SECOND), [0; 0]);
        assert_eq!(board.over(10 * SECOND).len(), 2);
        // Nothing was thrown away by asking.
        assert_eq!(ends(0), [10, 20, 30]);
    }

    #[test]
    fn what_nobody_can_enforce_any_more_is_let_go() {
        let mut log = Log::default();
        log.remember(5 * SECOND, decision(1, 0));
        log.remember(9 * SECOND, decision(2, 0));
        log.forget(LINGER + 5 * SECOND);
        assert_eq!(log.over.keys().map(|(at, _)| *at).collect::<Vec<_>>(), [9 * SECOND]);
    }
}
