//! The state of a key with many events, whose costs do not grow with them.

use super::codec::{Reader, Shown, number, put_bytes, put_number, put_option, put_time};
use super::marks::Marks;
use super::ring::{Crossing, Item, Timeline, ValueOf, bit};
use super::small::{self, Written, chunk, place_bytes};
use super::{Cut, Fresh, Group, What};
use crate::decode::time::Micros;
use std::collections::{HashMap, VecDeque};

/// An event.
#[derive(Debug, Clone)]
struct Entry {
    item: Item,
    shown: Box<[u8]>,
}

/// Bytes counted for an entry: a list that grows holds up to twice what it needs.
fn entry_bytes(shown: &[u8]) -> usize {
    2 * size_of::<Entry>() + chunk(shown.len())
}

/// Events in order of time.
#[derive(Debug, Clone, Default)]
pub struct Entries(VecDeque<Entry>);

impl Timeline for Entries {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn item(&self, at: usize) -> Item {
        self.0.get(at).map_or(Item { time: Micros::MAX, weight: 0, used: 0 }, |entry| entry.item)
    }

    fn shown(&self, at: usize) -> Shown<'_> {
        self.0.get(at).map(|entry| Shown::read(&entry.shown)).unwrap_or_default()
    }
}

impl Entries {
    /// Puts an event behind those of its time; where it is then.
    fn insert(&mut self, item: Item, shown: &[u8]) -> usize {
        let at = match self.0.back() {
            Some(last) if last.item.time > item.time => self.place(item.time, false),
            _ => self.0.len(),
        };
        self.0.insert(at, Entry { item, shown: shown.into() });
        at
    }

    fn written(&self, completes: Option<usize>) -> Vec<Written<'_>> {
        let entries = self.0.iter();
        entries.map(|entry| Written { item: entry.item, completes, shown: &entry.shown }).collect()
    }
}

/// The events with one value that a rule has not used up.
#[derive(Debug, Clone, Copy)]
struct Held {
    events: u32,
    latest: Micros,
}

/// What one rule has of the events that it shares.
#[derive(Debug, Clone, Default)]
struct Share {
    /// The weight of all events that it has not used up: an upper bound for every span, so that
    /// most events need no look at the others.
    unused: u64,
    /// So many events at the beginning are all used up.
    spent: usize,
    /// Of a rule that tells values apart: every value that is held. It bounds what any span can
    /// hold, so that a flood with few values costs no look at the events.
    values: HashMap<Box<[u8]>, Held>,
    /// Of a sequence: the events that complete it.
    completing: Entries,
}

/// A window.
#[derive(Debug, Clone)]
pub struct Window {
    entries: Entries,
    shares: Vec<Share>,
    /// Counted bytes, kept up to date: summing them up for every event would make a flood quadratic.
    bytes: usize,
}

fn value_key(of: ValueOf, shown: &[u8]) -> Option<Box<[u8]>> {
    let shown = Shown::read(shown);
    let (is_id, value) = of.read(&shown)?;
    let mut key = Vec::with_capacity(value.len() + 1);
    key.push(u8::from(is_id));
    key.extend_from_slice(&value);
    Some(key.into())
}

fn value_bytes(key: &[u8]) -> usize {
    place_bytes(size_of::<(Box<[u8]>, Held)>()) + chunk(key.len())
}

impl Share {
    /// One event more that it has not used up; by how much the counted bytes changed.
    fn add(&mut self, what: What, item: Item, shown: &[u8]) -> usize {
        self.unused += u64::from(item.weight);
        let What::Distinct(of) = what else { return 0 };
        let Some(key) = value_key(of, shown) else { return 0 };
        let bytes = value_bytes(&key);
        let before = self.values.len();
        let held = self.values.entry(key).or_insert(Held { events: 0, latest: item.time });
        held.events += 1;
        held.latest = held.latest.max(item.time);
        if self.values.len() > before { bytes } else { 0 }
    }

    /// One event less; by how much the counted bytes changed, and its value if others have it too.
    fn remove(&mut self, what: What, item: Item, shown: &[u8]) -> (usize, Option<Box<[u8]>>) {
        self.unused = self.unused.saturating_sub(u64::from(item.weight));
        let What::Distinct(of) = what else { return (0, None) };
        let Some(key) = value_key(of, shown) else { return (0, None) };
        let Some(held) = self.values.get_mut(&key) else { return (0, None) };
        held.events -= 1;
        if held.events > 0 {
            return (0, Some(key));
        }
        self.values.remove(&key);
        (value_bytes(&key), None)
    }
}

impl Window {
    /// An empty window.
    pub fn new(group: &Group) -> Self {
        let shares = vec![Share::default(); group.needs.len()];
        let bytes = size_of::<Self>() + shares.len() * size_of::<Share>();
        Self { entries: Entries::default(), shares, bytes }
    }

    /// A window that takes over the events of the other form.
    pub fn of<'b>(group: &Group, events: impl Iterator<Item = Written<'b>>) -> Self {
        let mut window = Self::new(group);
        for event in events {
            window.put(group, event.item, event.completes, event.shown);
        }
        window
    }

    fn put(&mut self, group: &Group, item: Item, completes: Option<usize>, shown: &[u8]) {
        self.bytes += entry_bytes(shown);
        if let Some(slot) = completes {
            if let Some(share) = self.shares.get_mut(slot) {
                share.completing.insert(item, shown);
            }
            return;
        }
        let at = self.entries.insert(item, shown);
        for (slot, (share, need)) in self.shares.iter_mut().zip(&group.needs).enumerate() {
            if item.used & bit(slot) == 0 {
                self.bytes += share.add(need.what, item, shown);
                share.spent = share.spent.min(at);
            } else if at < share.spent {
                share.spent += 1;
            }
        }
    }

    /// Puts an event at its time. Which rules may now have enough.
    pub fn insert(&mut self, group: &Group, fresh: &Fresh<'_>, cut: Cut, estimate: u64) -> u32 {
        self.prune(group, cut);
        let item = Item { time: fresh.time, weight: fresh.weight, used: fresh.used };
        self.put(group, item, fresh.completes, fresh.shown);
        let mut mask = 0;
        for (slot, (share, need)) in self.shares.iter().zip(&group.needs).enumerate() {
            let due = need.is_due(slot, fresh.completes, share.completing.size() > 0);
            if due && share.unused.saturating_add(estimate) >= need.at_least {
                mask |= bit(slot);
            }
        }
        mask
    }

    /// Drops what no span that can still come reaches.
    fn prune(&mut self, group: &Group, cut: Cut) {
        if let Some(horizon) = cut.completing {
            for share in &mut self.shares {
                let list = &mut share.completing.0;
                while let Some(entry) = list.pop_front_if(|entry| entry.item.time <= horizon) {
                    self.bytes -= entry_bytes(&entry.shown);
                }
            }
            // A rule with a shorter window than others is done with an event before they are.
            for (slot, (share, need)) in self.shares.iter_mut().zip(&group.needs).enumerate() {
                let horizon = horizon.saturating_sub(need.within);
                while let Some(entry) =
                    self.entries.0.get_mut(share.spent).filter(|entry| entry.item.time <= horizon)
                {
                    if entry.item.used & bit(slot) == 0 {
                        let (freed, _) = share.remove(need.what, entry.item, &entry.shown);
                        self.bytes -= freed;
                        entry.item.used |= bit(slot);
                    }
                    share.spent += 1;
                }
            }
        }
        let all = group.all();
        let gone = |entry: &mut Entry| entry.item.used & all == all;
        while let Some(entry) = self.entries.0.pop_front_if(gone) {
            self.bytes -= entry_bytes(&entry.shown);
            for share in &mut self.shares {
                share.spent = share.spent.saturating_sub(1);
            }
        }
    }

    /// The events, those that complete the sequence in `slot`, and how many events at the beginning
    /// that rule has used up.
    pub fn lists(&self, slot: usize) -> (&Entries, Option<&Entries>, usize) {
        let share = self.shares.get(slot);
        (&self.entries, share.map(|share| &share.completing), share.map_or(0, |share| share.spent))
    }

    /// Whether a rule that tells values apart has enough of them behind `start` at all.
    pub fn may_differ(&self, slot: usize, at_least: u64, start: Micros) -> bool {
        let Some(share) = self.shares.get(slot) else { return false };
        let enough = |n: usize| u64::try_from(n).unwrap_or(u64::MAX) >= at_least;
        enough(share.values.len())
            && enough(share.values.values().filter(|held| held.latest > start).count())
    }

    /// Whether it surely has enough of them in (`start`, `time`].
    pub fn differs(&self, slot: usize, at_least: u64, start: Micros, time: Micros) -> bool {
        let Some(share) = self.shares.get(slot) else { return false };
        let inside = |held: &&Held| held.latest > start && held.latest <= time;
        let most = usize::try_from(at_least).unwrap_or(usize::MAX);
        share.values.values().filter(inside).take(most).count() >= most
    }

    /// Uses the events of a crossing up for a rule; what every rule has used is dropped.
    pub fn use_up(&mut self, group: &Group, slot: usize, crossing: &Crossing) {
        let (Some(share), Some(need)) = (self.shares.get_mut(slot), group.needs.get(slot)) else {
            return;
        };
        let mut stale = Vec::new();
        for entry in self.entries.0.range_mut(crossing.range.clone()) {
            if entry.item.used & bit(slot) == 0 {
                entry.item.used |= bit(slot);
                let (freed, shared) = share.remove(need.what, entry.item, &entry.shown);
                self.bytes -= freed;
                stale.extend(shared);
            }
        }
        if share.spent >= crossing.range.start {
            share.spent = share.spent.max(crossing.range.end);
        }
        if let Some(entry) = crossing.completing.and_then(|at| share.completing.0.remove(at)) {
            self.bytes -= entry_bytes(&entry.shown);
        }
        stale.sort_unstable();
        stale.dedup();
        if let What::Distinct(of) = need.what {
            for key in stale {
                let mut left = self.entries.0.iter().rev().filter(|e| e.item.used & bit(slot) == 0);
                let latest = left.find(|e| value_key(of, &e.shown).as_ref() == Some(&key));
                if let (Some(held), Some(entry)) = (share.values.get_mut(&key), latest) {
                    held.latest = entry.item.time;
                }
            }
        }
        self.drop_used(group, crossing);
    }

    /// Only events of a crossing can have become useless to all.
    fn drop_used(&mut self, group: &Group, crossing: &Crossing) {
        let all = group.all();
        let mut kept = crossing.range.start;
        let mut dropped = Vec::new();
        for at in crossing.range.clone() {
            let Some(entry) = self.entries.0.get(at) else { break };
            if entry.item.used & all == all {
                self.bytes -= entry_bytes(&entry.shown);
                dropped.push(at);
            } else {
                self.entries.0.swap(kept, at);
                kept += 1;
            }
        }
        if dropped.is_empty() {
            return;
        }
        self.entries.0.drain(kept..crossing.range.end);
        for share in &mut self.shares {
            share.spent -= dropped.partition_point(|at| *at < share.spent);
        }
    }

    /// All that it holds, to be written.
    pub fn written(&self) -> Vec<Written<'_>> {
        let mut events = self.entries.written(None);
        for (slot, share) in self.shares.iter().enumerate() {
            events.extend(share.completing.written(Some(slot)));
        }
        events
    }

    /// The events in it.
    pub fn size(&self) -> usize {
        self.entries.size() + self.shares.iter().map(|s| s.completing.size()).sum::<usize>()
    }

    /// Every event in it, with its time and weight.
    pub fn events(&self) -> impl Iterator<Item = Item> {
        self.entries.0.iter().map(|entry| entry.item)
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Requests of which a line was counted already, with times.
#[derive(Debug, Clone, Default)]
pub struct Once {
    seen: HashMap<Box<str>, Micros>,
    pruned: Option<Micros>,
    bytes: usize,
}

fn once_bytes(id: &str) -> usize {
    place_bytes(size_of::<(Box<str>, Micros)>()) + chunk(id.len())
}

impl Once {
    /// Notes a request; whether a line of it was counted before, later than `horizon`. The latest
    /// time stays.
    pub fn repeats(&mut self, id: &str, time: Micros, horizon: Option<Micros>) -> bool {
        if let Some(horizon) = horizon {
            self.prune(horizon);
        }
        if let Some(seen) = self.seen.get_mut(id) {
            let counted = horizon.is_none_or(|horizon| *seen > horizon);
            *seen = (*seen).max(time);
            return counted;
        }
        self.bytes += once_bytes(id);
        self.seen.insert(id.into(), time);
        false
    }

    /// Writes them.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_option(out, self.pruned, put_time);
        put_number(out, number(self.seen.len()));
        // In an order of their own: the same requests give the same bytes.
        let mut seen: Vec<_> = self.seen.iter().collect();
        seen.sort_unstable();
        for (id, time) in seen {
            put_bytes(out, id.as_bytes());
            put_time(out, *time);
        }
    }

    /// Reads them as they were written.
    pub fn restore(from: &mut Reader<'_>) -> Option<Self> {
        let mut once = Self { pruned: from.option(Reader::time)?, ..Self::default() };
        for _ in 0..from.number()? {
            let (id, time) = (from.text()?, from.time()?);
            once.bytes += once_bytes(id);
            once.seen.insert(id.into(), time);
        }
        Some(once)
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
                *bytes -= once_bytes(id);
            }
            keep
        });
    }
}

/// One thing that a state holds.
#[derive(Debug, Clone)]
pub enum Part {
    /// Events.
    Window(Window),
    /// What others wrote.
    Bytes(Vec<u8>),
    /// Requests.
    Once(Once),
    /// What rules remember.
    Marks(Marks),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Window(window) => window.bytes(),
            Part::Bytes(bytes) => chunk(bytes.len()),
            Part::Once(once) => once.bytes,
            Part::Marks(marks) => marks.bytes(),
        }
    }
}

/// The state of one key.
#[derive(Debug, Clone)]
pub struct Large {
    /// The key's value.
    pub key: Box<[u8]>,
    parts: Vec<(u16, Part)>,
}

impl Large {
    /// A state without parts.
    pub fn new(key: &[u8]) -> Self {
        Self { key: key.into(), parts: Vec::new() }
    }

    /// The state that a block holds; `part` makes its parts of their contents.
    pub fn of_block(block: &[u8], part: impl Fn(u16, &[u8]) -> Part) -> Self {
        let parts = small::parts(block).map(|(tag, content)| (tag, part(tag, content)));
        Self { parts: parts.collect(), ..Self::new(small::key(block)) }
    }

    /// Drops windows.
    pub fn drop_windows(&mut self, gone: impl Fn(u16, &Window) -> bool) {
        self.parts.retain(|(tag, part)| match part {
            Part::Window(window) => !gone(*tag, window),
            _ => true,
        });
    }

    /// All parts with their tags.
    pub fn parts(&self) -> impl Iterator<Item = &(u16, Part)> {
        self.parts.iter()
    }

    /// A part.
    pub fn part(&self, tag: u16) -> Option<&Part> {
        self.parts.iter().find(|(own, _)| *own == tag).map(|(_, part)| part)
    }

    /// A part, made by `fresh` if there is none.
    pub fn part_mut(&mut self, tag: u16, fresh: impl FnOnce() -> Part) -> Option<&mut Part> {
        let at = self.parts.iter().position(|(own, _)| *own == tag).unwrap_or_else(|| {
            self.parts.push((tag, fresh()));
            self.parts.len() - 1
        });
        self.parts.get_mut(at).map(|(_, part)| part)
    }

    /// The windows with their tags.
    pub fn windows(&self) -> impl Iterator<Item = (u16, &Window)> {
        self.parts.iter().filter_map(|(tag, part)| match part {
            Part::Window(window) => Some((*tag, window)),
            _ => None,
        })
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        let parts: usize = self.parts.iter().map(|(_, part)| part.bytes()).sum();
        chunk(size_of::<Self>())
            + chunk(self.key.len())
            + chunk(self.parts.capacity() * size_of::<(u16, Part)>())
            + parts
    }
}
