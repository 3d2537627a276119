//! What is active: one entry per mode, action and target (alerts: per rule too), with its end.
//!
//! A decision is active for every crossing before its `until`, whether or not its end was said: a
//! late event may cross at a time that the clock has passed, and an idle stream says ends earlier
//! than a busy one. So what has ended stays known until no such crossing can come.

use crate::decode::time::Micros;
use crate::detect::condition::{ActionKind, Escalate};
use crate::detect::rule::{Mode, Rule};
use crate::window::key::{Key, OwnKey};
use hashbrown::{Equivalent, HashMap};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher, RandomState};
use std::sync::Arc;

/// What can be active only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerKey {
    /// Shadow decisions have a ledger of their own.
    pub mode: Mode,
    /// The action.
    pub kind: ActionKind,
    /// For alerts, the rule's number; other decisions are shared by all rules.
    pub rule: Option<u16>,
    /// At whom.
    pub target: OwnKey,
}

/// A [`LedgerKey`] to look up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked<'k> {
    /// See [`LedgerKey::mode`].
    pub mode: Mode,
    /// See [`LedgerKey::kind`].
    pub kind: ActionKind,
    /// See [`LedgerKey::rule`].
    pub rule: Option<u16>,
    /// See [`LedgerKey::target`].
    pub target: Key<'k>,
}

impl LedgerKey {
    /// To look up with.
    pub fn asked(&self) -> Asked<'_> {
        Asked { mode: self.mode, kind: self.kind, rule: self.rule, target: self.target.view() }
    }
}

impl Asked<'_> {
    fn own(self) -> LedgerKey {
        LedgerKey { mode: self.mode, kind: self.kind, rule: self.rule, target: self.target.own() }
    }
}

// A key and what it is looked up with must have the same hash.
impl Hash for LedgerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.asked().hash(state);
    }
}

impl Equivalent<LedgerKey> for Asked<'_> {
    fn equivalent(&self, key: &LedgerKey) -> bool {
        *self == key.asked()
    }
}

/// An active decision.
#[derive(Debug, Clone)]
pub struct Active {
    /// The id of its start.
    pub id: u64,
    /// The rule that started it.
    pub rule: Arc<Rule>,
    /// When it ends.
    pub until: Micros,
    /// The start's ordinal.
    pub ordinal: u32,
    /// Crossings so far.
    pub crossings: u64,
    /// The pattern that was counted.
    pub pattern: Arc<str>,
}

/// Earlier decisions of one key, for escalation and limits.
#[derive(Debug, Clone, Default)]
struct Past {
    /// Starts in a row, none of them forgotten before the next.
    streak: u32,
    /// When the last one ends or ended.
    until: Micros,
    /// Times of the latest starts.
    starts: Vec<Micros>,
}

/// Starts remembered per key, for limits per time.
const STARTS_MAX: usize = 64;
/// Keys whose past is remembered; past it, those that ended longest ago are forgotten first.
const PAST_MAX: usize = 500_000;

/// A decision with its place among the ends.
#[derive(Debug)]
struct Entry {
    active: Active,
    /// Its number, by which equal ends come in the order of their starts.
    number: u64,
    /// The time under which it stands among `ends` or `said`. A later end moves it there only when
    /// this one has come: an attacker prolongs a decision with every few events.
    place: Micros,
    /// Its end was said.
    said: bool,
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    active: HashMap<LedgerKey, Entry, RandomState>,
    /// Ends to be said, in order.
    ends: BTreeMap<(Micros, u64), LedgerKey>,
    /// Ends that were said, of decisions that a late crossing may still meet.
    said: BTreeMap<(Micros, u64), LedgerKey>,
    past: HashMap<LedgerKey, Past, RandomState>,
    started: u64,
}

/// Bytes counted for an active decision: its places in the lists, at the lowest load that they have
/// after growing, and its key.
const ACTIVE_BYTES: usize = 2 * (size_of::<(LedgerKey, Entry)>() + 64 + 48);
/// Bytes counted for what is remembered of a key.
const PAST_BYTES: usize = 2 * (size_of::<(LedgerKey, Past)>() + 48) + 64;

impl Ledger {
    /// Decisions whose end was not said.
    pub fn active(&self) -> usize {
        self.ends.len()
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.active.len() * ACTIVE_BYTES + self.past.len() * PAST_BYTES
    }

    /// The decision of `key` that is active, or whose end was said and not yet forgotten.
    pub fn get(&self, key: Asked<'_>) -> Option<&Active> {
        self.active.get(&key).map(|entry| &entry.active)
    }

    /// When the next decision ends, if not later.
    pub fn next_end(&self) -> Option<Micros> {
        self.ends.first_key_value().map(|((until, _), _)| *until)
    }

    /// The first decision that is over at `clock` and whose end was not said before.
    pub fn pop_due(&mut self, clock: Micros) -> Option<(LedgerKey, Active)> {
        loop {
            let ((due, _), _) = self.ends.first_key_value()?;
            if *due > clock {
                return None;
            }
            let ((due, number), key) = self.ends.pop_first()?;
            let entry = self.active.get_mut(&key.asked())?;
            if entry.active.until > due {
                entry.place = entry.active.until;
                self.ends.insert((entry.place, number), key);
                continue;
            }
            entry.said = true;
            let active = entry.active.clone();
            self.said.insert((due, number), key.clone());
            return Some((key, active));
        }
    }

    /// Forgets decisions that ended by `horizon`, before which nothing can cross any more.
    pub fn forget(&mut self, horizon: Micros) {
        while let Some(((until, _), _)) = self.said.first_key_value()
            && *until <= horizon
        {
            if let Some((_, key)) = self.said.pop_first() {
                self.active.remove(&key);
            }
        }
    }

    /// Lets go of the decision of `key` if it is over at `at`, whatever the clock says; gives it if
    /// its end is still to be said.
    pub fn take_ended(&mut self, key: Asked<'_>, at: Micros) -> Option<Active> {
        if self.get(key)?.until > at {
            return None;
        }
        let entry = self.active.remove(&key)?;
        let place = (entry.place, entry.number);
        self.said.remove(&place);
        self.ends.remove(&place).map(|_| entry.active)
    }

    /// Begins a decision at `at`. With `recurs`, it is remembered beyond its end, for those that are
    /// longer or others if it comes again.
    pub fn start(&mut self, key: Asked<'_>, at: Micros, active: Active, recurs: bool) {
        let key = key.own();
        self.started += 1;
        if recurs {
            self.remember(&key, at, active.until);
        }
        self.ends.insert((active.until, self.started), key.clone());
        let (number, place) = (self.started, active.until);
        self.active.insert(key, Entry { active, number, place, said: false });
    }

    fn remember(&mut self, key: &LedgerKey, at: Micros, until: Micros) {
        if self.past.len() >= PAST_MAX {
            let mut ends: Vec<Micros> = self.past.values().map(|past| past.until).collect();
            let middle = ends.len() / 2;
            let (_, cut, _) = ends.select_nth_unstable(middle);
            let cut = *cut;
            self.past.retain(|_, past| past.until > cut);
        }
        let past = self.past.entry(key.clone()).or_default();
        past.streak = past.streak.saturating_add(1);
        past.until = past.until.max(until);
        if past.starts.len() >= STARTS_MAX {
            past.starts.remove(0);
        }
        past.starts.push(at);
    }

    /// Counts a crossing of an active decision and, with `until`, lets it end no earlier; its id and
    /// its end.
    pub fn repeat(&mut self, key: Asked<'_>, until: Option<Micros>) -> Option<(u64, Micros)> {
        let entry = self.active.get_mut(&key)?;
        entry.active.crossings += 1;
        let id = entry.active.id;
        let Some(until) = until.filter(|until| *until > entry.active.until) else {
            return Some((id, entry.active.until));
        };
        entry.active.until = until;
        if std::mem::take(&mut entry.said) {
            let own = self.said.remove(&(entry.place, entry.number));
            entry.place = until;
            self.ends.insert((until, entry.number), own.unwrap_or_else(|| key.own()));
        }
        if !self.past.is_empty()
            && let Some(past) = self.past.get_mut(&key)
        {
            past.until = past.until.max(until);
        }
        Some((id, until))
    }

    /// How long a start at `at` lasts: longer for each earlier start that is not forgotten.
    pub fn escalated(
        &mut self,
        key: Asked<'_>,
        at: Micros,
        base: Micros,
        escalate: Option<&Escalate>,
    ) -> Micros {
        let Some(escalate) = escalate else { return base };
        let Some(past) = self.past.get_mut(&key) else { return base };
        if at.saturating_sub(past.until) > escalate.forget {
            past.streak = 0;
            return base;
        }
        let factor = i64::from(escalate.factor).saturating_pow(past.streak);
        base.saturating_mul(factor).min(escalate.up_to.max(base))
    }

    /// Starts of `key` in (at - per, at].
    pub fn recent_starts(&self, key: Asked<'_>, at: Micros, per: Micros) -> u32 {
        let starts = self.past.get(&key).map(|past| past.starts.as_slice()).unwrap_or_default();
        let recent =
            starts.iter().filter(|start| **start > at.saturating_sub(per) && **start <= at);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }
}
