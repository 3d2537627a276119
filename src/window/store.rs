//! Keys and their windows, under a ceiling.
//!
//! The ceiling is enforced on counted bytes, not on what an allocator reports, so that what is
//! given up depends on the input alone. Expired keys go first; then keys with a single event,
//! oldest first; then the keys that were quiet longest. Evicting goes down to nine tenths, so that
//! it does not happen at every event.

use super::distinct::DistinctRing;
use super::ring::Ring;
use super::sequence::SequenceRing;
use crate::decode::time::Micros;
use crate::detect::baseline::{Hours, Seen};
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::Arc;

/// What a text key names; equal texts of different kinds never share a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// An account by name.
    User,
    /// An account by id.
    UserId,
    /// A field, by its number in the detector's list of names.
    Field(u16),
}

/// What events are counted per.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// All of them.
    Global,
    /// An address, or an IPv6 prefix.
    Ip(IpNet),
    /// A text.
    Text(KeyKind, Arc<str>),
    /// Several at once.
    Several(Arc<[Key]>),
}

impl Key {
    fn bytes(&self) -> usize {
        match self {
            Key::Global | Key::Ip(_) => 0,
            Key::Text(_, text) => text.len() + 16,
            Key::Several(keys) => keys.iter().map(|key| size_of::<Key>() + key.bytes()).sum(),
        }
    }
}

/// The state of one key for the rules of one group.
#[derive(Debug, Clone)]
pub enum Window {
    /// Counts, and counts of new values.
    Ring(Ring),
    /// Different values.
    Distinct(DistinctRing),
    /// Ordered sequences.
    Sequence(SequenceRing),
    /// Values that this key had.
    Seen(Seen),
    /// Hours at which this key is active.
    Hours(Hours),
}

/// What a rule remembers of a key beside its events.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    /// The minute of a decision that a brake held back.
    pub braked_minute: Option<i64>,
    /// Times of firings that can still recur, with how often.
    pub fired: Vec<(Micros, u32)>,
}

/// A key's state.
#[derive(Debug, Clone)]
pub struct State {
    /// Its events.
    pub window: Window,
    /// By the rule's place in its group.
    pub marks: Vec<Mark>,
    /// For rules that count several lines of one request once: the requests counted, with times.
    pub once: HashMap<Arc<str>, Micros>,
    bytes: usize,
    touched: u64,
}

impl State {
    fn count_bytes(&self, key: &Key) -> usize {
        let window = match &self.window {
            Window::Ring(ring) => ring.bytes(),
            Window::Distinct(ring) => ring.bytes(),
            Window::Sequence(ring) => ring.bytes(),
            Window::Seen(seen) => seen.bytes(),
            Window::Hours(_) => size_of::<Hours>(),
        };
        let marks: usize = self.marks.iter().map(|m| size_of::<Mark>() + 16 * m.fired.len()).sum();
        let once: usize = self.once.keys().map(|id| id.len() + 64).sum();
        size_of::<(Key, State)>() + key.bytes() + window + marks + once
    }

    fn events(&self) -> usize {
        match &self.window {
            Window::Ring(ring) => ring.len(),
            Window::Distinct(ring) => ring.len(),
            Window::Sequence(ring) => ring.len(),
            Window::Seen(_) | Window::Hours(_) => 2,
        }
    }

    /// The newest event time; nothing left to say makes it expired.
    fn newest(&self) -> Option<Micros> {
        let window = match &self.window {
            Window::Ring(ring) => ring.newest(),
            Window::Distinct(ring) => ring.newest(),
            Window::Sequence(ring) => ring.newest(),
            Window::Seen(seen) => seen.newest(),
            Window::Hours(hours) => hours.newest(),
        };
        // What fired must be remembered as long as it can fire at the same time again.
        let fired = self.marks.iter().flat_map(|m| &m.fired).map(|(time, _)| *time).max();
        window.max(fired).max(self.once.values().max().copied())
    }
}

/// How long a group's state can matter after an event, microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Retention(pub Micros);

#[derive(Debug)]
struct Group {
    /// Boxed: a table of the states themselves would hold two or three times their size while it grows.
    states: HashMap<Key, Box<State>>,
    retention: Retention,
    swept: Option<Micros>,
}

/// All keys of all groups.
#[derive(Debug)]
pub struct Store {
    groups: Vec<Group>,
    bytes: usize,
    ceiling: usize,
    touches: u64,
    /// Keys given up so far because of the ceiling.
    pub evicted: u64,
}

impl Store {
    /// A store for groups that keep events for `retention`, under `ceiling` counted bytes.
    pub fn new(retention: &[Retention], ceiling: usize) -> Self {
        let group = |r: &Retention| Group { states: HashMap::new(), retention: *r, swept: None };
        Self {
            groups: retention.iter().map(group).collect(),
            bytes: 0,
            ceiling,
            touches: 0,
            evicted: 0,
        }
    }

    /// Works on a key's state, made by `fresh` if there is none.
    pub fn with<R>(
        &mut self,
        group: usize,
        key: &Key,
        fresh: impl FnOnce() -> (Window, usize),
        work: impl FnOnce(&mut State) -> R,
    ) -> Option<R> {
        self.touches += 1;
        let states = &mut self.groups.get_mut(group)?.states;
        let state = match states.get_mut(key) {
            Some(state) => state,
            None => states.entry(key.clone()).or_insert_with(|| {
                let (window, rules) = fresh();
                Box::new(State {
                    window,
                    marks: vec![Mark::default(); rules],
                    once: HashMap::new(),
                    bytes: 0,
                    touched: 0,
                })
            }),
        };
        state.touched = self.touches;
        let result = work(state);
        let bytes = state.count_bytes(key);
        self.bytes = self.bytes + bytes - state.bytes;
        state.bytes = bytes;
        Some(result)
    }

    /// Looks at a key's state.
    pub fn get(&self, group: usize, key: &Key) -> Option<&State> {
        self.groups.get(group)?.states.get(key).map(|state| &**state)
    }

    /// Keys held.
    pub fn keys(&self) -> usize {
        self.groups.iter().map(|group| group.states.len()).sum()
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops what has expired by `clock`, now and then: `slack` is how late an event may be.
    pub fn sweep(&mut self, clock: Micros, slack: Micros) {
        for group in &mut self.groups {
            let every = (group.retention.0 / 4).max(60_000_000);
            let due = group.swept.is_none_or(|last| clock.saturating_sub(last) >= every);
            if due {
                group.swept = Some(clock);
                self.bytes -= group.sweep(clock, slack);
            }
        }
    }

    /// Gives keys up until the ceiling is kept; how many.
    pub fn enforce_ceiling(&mut self, clock: Option<Micros>, slack: Micros) -> u64 {
        if self.bytes <= self.ceiling {
            return 0;
        }
        if let Some(clock) = clock {
            for group in &mut self.groups {
                self.bytes -= group.sweep(clock, slack);
            }
        }
        let target = self.ceiling / 10 * 9;
        if self.bytes <= target {
            return 0;
        }
        let mut order: Vec<(bool, u64, usize, Key)> = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            let states = group.states.iter();
            order.extend(states.map(|(key, s)| (s.events() > 1, s.touched, index, key.clone())));
        }
        order.sort_unstable_by_key(|(several, touched, index, _)| (*several, *touched, *index));
        let mut evicted = 0;
        for (_, _, index, key) in order {
            if self.bytes <= target {
                break;
            }
            let state = self.groups.get_mut(index).and_then(|group| group.states.remove(&key));
            if let Some(state) = state {
                self.bytes -= state.bytes;
                evicted += 1;
            }
        }
        self.evicted += evicted;
        evicted
    }
}

impl Group {
    /// Drops expired keys; the bytes that were counted for them.
    fn sweep(&mut self, clock: Micros, slack: Micros) -> usize {
        let horizon = clock.saturating_sub(slack).saturating_sub(self.retention.0);
        let mut freed = 0;
        self.states.retain(|_, state| {
            let keep = state.newest().is_some_and(|newest| newest > horizon);
            if !keep {
                freed += state.bytes;
            }
            keep
        });
        freed
    }
}
