//! Sinks that act on the world or tell somebody: each on a thread of its own.
//!
//! The contract: whoever drives a [`Remote`] hands it actions in order, again from the first that is
//! not done until it is, and keeps the place in the outbox. So an action may come twice, and what a
//! sink does must be the same done twice. A sink waits for no more than its own time-out and
//! tells what kind of [`Trouble`] it has; when to try again is not its business. It never sees an
//! action that it does not [want](Remote::wants), and, as long as the settings do not say
//! `mode: enforce`, one that [acts](Remote::acts) is not called at all: what it
//! [would](Remote::would) do is said instead.

use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op};
use crate::decode::time::Micros;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far a sink came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Actions that are done, from the first on: confirmed by whoever received them.
    pub done: usize,
    /// What came in the way of the next.
    pub trouble: Option<Trouble>,
}

impl Progress {
    /// All of them are done.
    pub fn all(actions: &[Action]) -> Self {
        Self { done: actions.len(), trouble: None }
    }

    /// Some are, and then there was trouble.
    pub fn until(done: usize, trouble: Trouble) -> Self {
        Self { done, trouble: Some(trouble) }
    }
}

/// How long a sink that makes a call per action goes on before it says how far it came: what is confirmed
/// by then is not done again after a restart.
const TURN: Duration = Duration::from_secs(2);

/// The time in which a sink goes on without saying how far it came.
#[derive(Debug, Clone, Copy)]
pub struct Turn(Instant);

impl Turn {
    /// It begins.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.0.elapsed() >= TURN
    }
}

/// Does what the actions say, a call each, until there is trouble or the [turn](Turn) is over.
pub fn one_by_one(
    actions: &[Action],
    mut call: impl FnMut(&Action) -> Result<(), Trouble>,
) -> Progress {
    let turn = Turn::begin();
    for (done, action) in actions.iter().enumerate() {
        if done > 0 && turn.is_over() {
            return Progress { done, trouble: None };
        }
        if let Err(trouble) = call(action) {
            return Progress::until(done, trouble);
        }
    }
    Progress::all(actions)
}

/// Why an action is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It may work later: it is tried again, after growing pauses.
    Later {
        /// What happened.
        why: String,
        /// The receiver asked not to be tried before.
        after: Option<Duration>,
    },
    /// It keeps to a pace that the settings ask for: nothing is wrong, and it goes on after this time.
    Paced {
        /// How long.
        wait: Duration,
    },
    /// This one never will: it is counted, said and passed over.
    Refused {
        /// What happened.
        why: String,
    },
    /// The receiver wants nothing any more: the sink is off until the next start.
    Disabled {
        /// What happened.
        why: String,
    },
}

impl Trouble {
    /// It may work later.
    pub fn later(why: impl Into<String>) -> Self {
        Self::Later { why: why.into(), after: None }
    }

    /// It never will.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into() }
    }

    /// What happened.
    pub fn why(&self) -> &str {
        match self {
            Self::Paced { .. } => "max_messages_per_minute is reached",
            Self::Later { why, .. } | Self::Refused { why } | Self::Disabled { why } => why,
        }
    }
}

/// A sink on a thread of its own.
pub trait Remote: Send + std::fmt::Debug {
    /// Its kind and what tells it from others of its kind, as in `webhook security`.
    fn name(&self) -> String;

    /// Whether it changes the world rather than telling somebody.
    fn acts(&self) -> bool;

    /// Whether it has anything to do with this action. Only then it is handed over.
    fn wants(&self, action: &Action) -> bool;

    /// Does what the actions say, from the first on, at least one of them unless there is trouble. `now`
    /// is the wall clock.
    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress;

    /// What it would do, in one line; for one that stays dry.
    fn would(&self, action: &Action) -> String {
        format!("{} {} {}", action.op.name(), action.action, action.target.text())
    }

    /// Makes the world what `active` says, whatever was done to it meanwhile: at the start, and then
    /// [every so often](Remote::reconcile_every). What it had to mend, if anything.
    ///
    /// # Errors
    /// When it cannot; it is tried again.
    fn reconcile(
        &mut self,
        _active: &[Decision],
        _now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        Ok(None)
    }

    /// Whether an action ends a decision that it needs to know and does not: what it had carried out before
    /// a restart, and was lifted since.
    fn lacks(&self, _ending: &Action) -> bool {
        false
    }

    /// Tells it of one that it [lacks](Remote::lacks), with the end that was last said of it.
    fn recall(&mut self, _decision: &Decision, _until: Micros) {}

    /// Says that what is active is not all that may be enforced: without a state directory, decisions of
    /// an earlier run are not known. What stands in the world beside it is then left alone.
    fn knows_only_its_own(&mut self) {}

    /// Whether [`Remote::reconcile`] is to see the world only when nothing waits to be delivered.
    fn reconciles_behind(&self) -> bool {
        false
    }

    /// How often the world is compared with what is active, after the start; never, if it cannot be.
    fn reconcile_every(&self) -> Option<Duration> {
        None
    }

    /// How long until [`Remote::tick`] has something to do, if it ever has without an action.
    fn due(&self, _now: SystemTime) -> Option<Duration> {
        None
    }

    /// Does what is due by itself: a folded message, an unlocking.
    ///
    /// # Errors
    /// When it cannot; it is tried again.
    fn tick(&mut self, _now: SystemTime) -> Result<(), Trouble> {
        Ok(())
    }

    /// `portcullis sink test NAME`: tries to reach what it acts on, without acting; what was found.
    ///
    /// # Errors
    /// Why it would not work.
    fn test(&mut self, now: SystemTime) -> Result<String, String>;

    /// `portcullis sink clean NAME`: takes away all that it made; what that was.
    ///
    /// # Errors
    /// Why it cannot.
    fn clean(&mut self) -> Result<String, String> {
        Ok("there is nothing to take away".to_owned())
    }
}

/// How long after the end that its start says an alert is told all the same, microseconds: it may go on,
/// prolonged without a line.
pub const PROLONGED: Micros = 15 * 60 * 1_000_000;

/// Whether what an action begins or prolongs is over already at `now`, as far as its line tells: then nobody is to
/// be kept out by it.
pub fn is_over(action: &Action, now: Micros) -> bool {
    let until = match action.op {
        Op::Start | Op::Extend => action.until.as_deref().and_then(instant_of),
        Op::End | Op::Withheld | Op::Note => None,
    };
    until.is_some_and(|until| until <= now)
}

/// An instant of the wall clock as lines have it.
pub fn micros(now: SystemTime) -> Micros {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_slow_says_how_far_he_came() {
        let actions: Vec<Action> = (0..4).map(Action::test).collect();
        let mut calls = 0;
        let slow = |_: &Action| {
            calls += 1;
            std::thread::sleep(TURN / 2 + Duration::from_millis(1));
            Ok(())
        };
        assert_eq!(one_by_one(&actions, slow), Progress { done: 2, trouble: None });
        assert_eq!(calls, 2);
        let slower = |_: &Action| {
            std::thread::sleep(TURN);
            Ok(())
        };
        assert_eq!(one_by_one(&actions, slower), Progress { done: 1, trouble: None });
        assert_eq!(one_by_one(&actions, |_| Ok(())), Progress::all(&actions));
        let fails = |_: &Action| Err(Trouble::later("no"));
        assert_eq!(one_by_one(&actions, fails), Progress::until(0, Trouble::later("no")));
    }
}
