//! Keys and their windows, under a ceiling.
//!
//! The ceiling is enforced on counted bytes, not on what an allocator reports, so that what is
//! given up depends on the input alone. Expired keys go first; then keys with a single event,
//! oldest first; then the keys that were quiet longest. Evicting goes down to nine tenths, so that
//! it does not happen at every event.

use crate::decode::time::Micros;
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

/// What a key's window tells the store about itself.
pub trait Held {
    /// Bytes counted.
    fn bytes(&self) -> usize;
    /// Events in it; a key with one is given up before others.
    fn events(&self) -> usize;
    /// The newest event time.
    fn newest(&self) -> Option<Micros>;
}

/// What a rule remembers of a key beside its events.
#[derive(Debug, Clone, Default)]
pub struct Mark {
    /// The minute of a decision that a brake held back.
    pub braked_minute: Option<i64>,
    /// Times of firings that can still recur, with how often.
    pub fired: Vec<(Micros, u32)>,
}

/// Requests of which a line was counted already, with times.
#[derive(Debug, Clone, Default)]
pub struct Once {
    seen: HashMap<Arc<str>, Micros>,
    pruned: Option<Micros>,
    bytes: usize,
}

impl Once {
    /// Notes a request; whether a line of it was counted before, later than `horizon`. The latest
    /// time stays.
    pub fn repeats(&mut self, id: &Arc<str>, time: Micros, horizon: Option<Micros>) -> bool {
        if let Some(horizon) = horizon {
            self.prune(horizon);
        }
        if let Some(seen) = self.seen.get_mut(id) {
            let counted = horizon.is_none_or(|horizon| *seen > horizon);
            *seen = (*seen).max(time);
            return counted;
        }
        self.bytes += id.len() + 64;
        self.seen.insert(Arc::clone(id), time);
        false
    }

    /// Forgets what is old, once a second of event time: looking at all for every event would make
    /// a flood of requests quadratic.
    fn prune(&mut self, horizon: Micros) {
        if self.pruned.is_some_and(|last| horizon >= last && horizon - last < 1_000_000) {
            return;
        }
        self.pruned = Some(horizon);
        let bytes = &mut self.bytes;
        self.seen.retain(|id, seen| {
            let keep = *seen > horizon;
            if !keep {
                *bytes -= id.len() + 64;
            }
            keep
        });
    }

    fn newest(&self) -> Option<Micros> {
        self.seen.values().max().copied()
    }
}

/// A key's state.
#[derive(Debug, Clone)]
pub struct State<W> {
    /// Its events.
    pub window: W,
    /// By the rule's place in its group.
    pub marks: Vec<Mark>,
    /// For rules that count several lines of one request once.
    pub once: Once,
    bytes: usize,
    touched: u64,
}

impl<W: Held> State<W> {
    fn count_bytes(&self, key: &Key) -> usize {
        let marks: usize = self.marks.iter().map(|m| size_of::<Mark>() + 16 * m.fired.len()).sum();
        size_of::<(Key, Self)>() + key.bytes() + self.window.bytes() + marks + self.once.bytes
    }

    /// The newest event time; without one it has expired.
    fn newest(&self) -> Option<Micros> {
        // What fired must be remembered as long as it can fire at the same time again.
        let fired = self.marks.iter().flat_map(|m| &m.fired).map(|(time, _)| *time).max();
        self.window.newest().max(fired).max(self.once.newest())
    }
}

/// How long a group's state can matter after an event, microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Retention(pub Micros);

#[derive(Debug)]
struct Group<W> {
    /// Boxed: a table of the states themselves would hold two or three times their size while it
    /// grows.
    states: HashMap<Key, Box<State<W>>>,
    retention: Retention,
    swept: Option<Micros>,
}

/// All keys of all groups.
#[derive(Debug)]
pub struct Store<W> {
    groups: Vec<Group<W>>,
    bytes: usize,
    ceiling: usize,
    touches: u64,
    /// Keys given up so far because of the ceiling.
    pub evicted: u64,
}

impl<W: Held> Store<W> {
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
        fresh: impl FnOnce() -> (W, usize),
        work: impl FnOnce(&mut State<W>) -> R,
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
                    once: Once::default(),
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
    pub fn get(&self, group: usize, key: &Key) -> Option<&State<W>> {
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
            let due = group.swept.is_none_or(|last| clock < last || clock - last >= every);
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
            order.extend(
                states.map(|(key, s)| (s.window.events() > 1, s.touched, index, key.clone())),
            );
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

impl<W: Held> Group<W> {
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
