//! The places of all keys.
//!
//! Slots of 32 bytes in 64 shards. The shard of a key follows from a hash that is the same in every
//! process, so that growing never moves more than one shard at a time and is the same for the same
//! input; its place in the shard follows from a hash with a secret seed, so that nobody can choose
//! keys that lie on one another. A shard is an array ordered by that hash, with gaps: a key lies at
//! or behind the place that its hash points to. It grows by a quarter, so that it is never less
//! than half full, and what it takes is counted as it is.

use super::key::{Key, KeyKind};
use super::large::Large;
use super::seed::Seed;
use super::small;
use crate::decode::time::Micros;

/// Number of shards.
pub const SHARDS: usize = 64;
/// Slots of a shard at least.
const SLOTS_MIN: usize = 16;

/// The state of a key.
#[derive(Debug, Clone)]
pub enum State {
    /// Few events.
    Small(Box<[u8]>),
    /// Many.
    Large(Box<Large>),
}

impl State {
    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        match self {
            State::Small(block) => small::chunk(block.len()),
            State::Large(large) => large.bytes(),
        }
    }
}

/// A key's place in the table. A free slot has kind 0.
#[derive(Debug)]
pub struct Slot {
    /// Its state.
    pub state: State,
    hash: u32,
    /// The key, if it is an IPv4 address; any other lies in the state.
    ip: [u8; 4],
    /// The newest event time, [as seconds](seconds).
    pub newest: u32,
    kind: u16,
    /// Events in its windows, at most 255.
    pub events: u8,
    /// How long it matters after `newest`: the place in the store's list of lengths, and
    /// [`LEARNT`].
    pub keep: u8,
}

/// In [`Slot::keep`]: it holds what took days to learn.
pub const LEARNT: u8 = 0x80;

/// A time as seconds since 1970, within what 32 bits hold.
pub fn seconds(time: Micros) -> u32 {
    let seconds = time.div_euclid(1_000_000);
    u32::try_from(seconds).unwrap_or(if seconds < 0 { 0 } else { u32::MAX })
}

impl Slot {
    fn free() -> Self {
        Self {
            state: State::Small(Box::default()),
            hash: 0,
            ip: [0; 4],
            newest: 0,
            kind: 0,
            events: 0,
            keep: 0,
        }
    }

    fn is_free(&self) -> bool {
        self.kind == 0
    }

    /// What the key names.
    pub fn key_kind(&self) -> KeyKind {
        KeyKind::of_code(self.kind)
    }

    /// The key.
    pub fn key(&self) -> Key<'_> {
        let kind = self.key_kind();
        let value = match &self.state {
            _ if self.has_own_key() => &self.ip,
            State::Small(block) => small::key(block),
            State::Large(large) => &large.key,
        };
        Key { kind, value }
    }

    /// Whether the key is in the slot; then its state names none.
    fn has_own_key(&self) -> bool {
        let named = match &self.state {
            State::Small(block) => small::key(block),
            State::Large(large) => &large.key,
        };
        self.kind == KeyKind::Host.code() && named.is_empty()
    }

    fn is(&self, key: Key<'_>, ip: Option<[u8; 4]>) -> bool {
        self.kind == key.kind.code()
            && match ip {
                Some(ip) => self.ip == ip && self.has_own_key(),
                None => self.key().value == key.value && !self.has_own_key(),
            }
    }
}

/// Where a key is looked for; good for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Aim {
    shard: usize,
    hash: u32,
}

/// Bytes that a processor brings near together.
const LINE: usize = 64;
/// Slots that are looked through for a key that is only to be touched.
const RUN_MAX: usize = 16;
/// So many of the keys that are foreseen are compared with one that is asked for.
const SKIPPED_MAX: usize = 4;

/// Keys that will be asked for soon, in their order.
#[derive(Debug, Default)]
struct Foreseen {
    values: Vec<u8>,
    /// Each with where its value ends.
    keys: Vec<(KeyKind, usize, Aim)>,
    /// Those that are behind: how many, and where the value of the last of them ends.
    passed: usize,
    end: usize,
}

impl Foreseen {
    fn clear(&mut self) {
        self.values.clear();
        self.keys.clear();
        (self.passed, self.end) = (0, 0);
    }

    fn push(&mut self, key: Key<'_>, aim: Aim) {
        self.values.extend_from_slice(key.value);
        self.keys.push((key.kind, self.values.len(), aim));
    }

    /// Where `key` is looked for, if it is among those that come next.
    fn aim(&mut self, key: Key<'_>) -> Option<Aim> {
        let mut start = self.end;
        let ahead = self.keys.get(self.passed..)?.iter().take(SKIPPED_MAX);
        for (skipped, (kind, end, aim)) in ahead.enumerate() {
            if *kind == key.kind && self.values.get(start..*end) == Some(key.value) {
                (self.passed, self.end) = (self.passed + skipped + 1, *end);
                return Some(*aim);
            }
            start = *end;
        }
        None
    }
}

/// Where a key is: shard and slot. Good until a key is added or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    shard: usize,
    slot: usize,
}

impl Place {
    /// The shard.
    pub fn shard(self) -> usize {
        self.shard
    }
}

#[derive(Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    /// Places that hashes point to; the slots behind them take what is pushed over the end.
    capacity: usize,
    len: usize,
    /// How often slots were moved.
    moves: u64,
}

fn home(hash: u32, capacity: usize) -> usize {
    (hash as usize * capacity) >> 32
}

/// With room for what is pushed over the end: runs are a few dozen slots long.
fn with_end(capacity: usize) -> usize {
    if capacity == 0 { 0 } else { capacity + capacity / 32 + 32 }
}

impl Shard {
    /// The key's slot, or where it would be.
    fn find(&self, hash: u32, key: Key<'_>, ip: Option<[u8; 4]>) -> Result<usize, usize> {
        let mut at = home(hash, self.capacity);
        while let Some(slot) = self.slots.get(at) {
            if slot.is_free() || slot.hash > hash {
                break;
            }
            if slot.hash == hash && slot.is(key, ip) {
                return Ok(at);
            }
            at += 1;
        }
        Err(at)
    }

    /// Puts a slot in at the place that [`Shard::find`] gave.
    fn insert(&mut self, at: usize, slot: Slot) {
        let rest = self.slots.get(at..).unwrap_or_default();
        let gap = at + rest.iter().position(Slot::is_free).unwrap_or(rest.len());
        if gap >= self.slots.len() {
            self.slots.push(Slot::free());
        }
        if let Some(run) = self.slots.get_mut(at..=gap) {
            run.rotate_right(1);
        }
        if let Some(place) = self.slots.get_mut(at) {
            *place = slot;
        }
        self.moves += 1;
        self.len += 1;
    }

    /// Whether there is no room for one more.
    fn is_full(&self) -> bool {
        self.len + 1 > self.capacity / 5 * 4
    }

    fn grow(&mut self) {
        self.rebuild((self.capacity + self.capacity / 4).max(SLOTS_MIN), |_| true);
    }

    /// Moves what is kept into an array with another number of places.
    fn rebuild(&mut self, capacity: usize, mut keep: impl FnMut(&mut Slot) -> bool) {
        let old = std::mem::take(&mut self.slots);
        self.slots = Vec::with_capacity(with_end(capacity));
        self.capacity = capacity;
        self.moves += 1;
        self.len = 0;
        for mut slot in old {
            if slot.is_free() || !keep(&mut slot) {
                continue;
            }
            self.len += 1;
            let place = home(slot.hash, capacity);
            while self.slots.len() < place {
                self.slots.push(Slot::free());
            }
            self.slots.push(slot);
        }
        while self.slots.len() < capacity {
            self.slots.push(Slot::free());
        }
    }

    fn retain(&mut self, keep: impl FnMut(&mut Slot) -> bool) {
        self.rebuild(self.capacity, keep);
        let fits = (self.len + self.len / 2).max(SLOTS_MIN);
        if fits < self.capacity / 2 {
            self.rebuild(fits, |_| true);
        }
    }

    fn bytes(&self) -> usize {
        with_end(self.capacity) * size_of::<Slot>()
    }
}

/// All keys.
#[derive(Debug)]
pub struct Table {
    shards: Vec<Shard>,
    seed: Seed,
    len: usize,
    bytes: usize,
    /// Where the one key is that nearly every event has, and the moves of its shard before which it was.
    global: Option<(Place, u64)>,
    foreseen: Foreseen,
}

impl Default for Table {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self {
            shards,
            seed: Seed::default(),
            len: 0,
            bytes: 0,
            global: None,
            foreseen: Foreseen::default(),
        }
    }
}

/// The shard of a key.
pub fn shard_of(key: Key<'_>) -> usize {
    (key.fixed_hash() >> 58) as usize
}

impl Table {
    fn hash(&self, key: Key<'_>) -> u32 {
        (self.seed.hash(u64::from(key.kind.code()), key.value) >> 32) as u32
    }

    /// A key's place, and whether it was not there before.
    pub fn place(&mut self, key: Key<'_>) -> (Place, bool) {
        if key.kind != KeyKind::Global {
            return self.place_anew(key);
        }
        let moves = |table: &Self, place: Place| table.shards.get(place.shard).map(|own| own.moves);
        if let Some((place, before)) = self.global
            && moves(self, place) == Some(before)
        {
            return (place, false);
        }
        let (place, new) = self.place_anew(key);
        self.global = moves(self, place).map(|moves| (place, moves));
        (place, new)
    }

    fn place_anew(&mut self, key: Key<'_>) -> (Place, bool) {
        let ip = match key.kind {
            KeyKind::Host => <[u8; 4]>::try_from(key.value).ok(),
            _ => None,
        };
        let Aim { shard, hash } = self.foreseen.aim(key).unwrap_or_else(|| self.aim(key));
        let Some(own) = self.shards.get_mut(shard) else {
            return (Place { shard: 0, slot: 0 }, false);
        };
        let at = match own.find(hash, key, ip) {
            Ok(slot) => return (Place { shard, slot }, false),
            Err(at) => at,
        };
        let at = if own.is_full() {
            own.grow();
            self.bytes = with_growth(&self.shards);
            let grown = self.shards.get(shard).map(|own| own.find(hash, key, ip));
            grown.and_then(Result::err).unwrap_or(at)
        } else {
            at
        };
        let named = if ip.is_some() { &[] } else { key.value };
        let state = if named.len() > small::BYTES_MAX / 2 {
            State::Large(Box::new(Large::new(named)))
        } else {
            State::Small(small::fresh(named))
        };
        let (ip, kind) = (ip.unwrap_or_default(), key.kind.code());
        if let Some(own) = self.shards.get_mut(shard) {
            own.insert(at, Slot { state, hash, ip, kind, ..Slot::free() });
            self.len += 1;
        }
        (Place { shard, slot: at }, true)
    }

    /// A key's place, if it has one.
    pub fn find(&self, key: Key<'_>) -> Option<Place> {
        let ip = match key.kind {
            KeyKind::Host => <[u8; 4]>::try_from(key.value).ok(),
            _ => None,
        };
        let Aim { shard, hash } = self.aim(key);
        let slot = self.shards.get(shard)?.find(hash, key, ip).ok()?;
        Some(Place { shard, slot })
    }

    fn aim(&self, key: Key<'_>) -> Aim {
        Aim { shard: shard_of(key), hash: self.hash(key) }
    }

    /// Forgets what was foreseen.
    pub fn forget_foreseen(&mut self) {
        self.foreseen.clear();
    }

    /// Foresees that a key will be asked for, behind the others.
    pub fn foresee(&mut self, key: Key<'_>) {
        let aim = self.aim(key);
        self.foreseen.push(key, aim);
    }

    /// Brings what was foreseen near. The memory of a table with very many keys is far away, and ways
    /// to it that do not depend on one another are gone together.
    pub fn touch_foreseen(&self) {
        let aims = || self.foreseen.keys.iter().map(|(_, _, aim)| *aim);
        // What is read means nothing.
        std::hint::black_box(aims().fold(0, |sum, aim| sum ^ self.touch_slot(aim)));
        std::hint::black_box(aims().fold(0, |sum, aim| sum ^ self.touch_state(aim)));
    }

    fn touch_slot(&self, aim: Aim) -> u32 {
        let shard = self.shards.get(aim.shard);
        let slot = shard.and_then(|own| own.slots.get(home(aim.hash, own.capacity)));
        slot.map_or(0, |slot| slot.hash)
    }

    fn touch_state(&self, aim: Aim) -> u8 {
        let Some(own) = self.shards.get(aim.shard) else { return 0 };
        let from = home(aim.hash, own.capacity);
        let run = own.slots.get(from..).unwrap_or_default().iter().take(RUN_MAX);
        let found = run.take_while(|slot| slot.hash <= aim.hash).find(|s| s.hash == aim.hash);
        match found.map(|slot| &slot.state) {
            Some(State::Small(block)) => {
                // All of it: a key that is close to its threshold is read from front to back.
                let lines = block.chunks(LINE).filter_map(<[u8]>::first);
                lines.chain(block.last()).fold(0, |sum, byte| sum ^ byte)
            }
            Some(State::Large(large)) => large.key.first().copied().unwrap_or(0),
            None => 0,
        }
    }

    /// Whether two places may move one another.
    pub fn near(a: Place, b: Place) -> bool {
        a.shard == b.shard
    }

    /// A slot.
    pub fn get(&self, place: Place) -> Option<&Slot> {
        self.shards.get(place.shard)?.slots.get(place.slot)
    }

    /// A slot.
    pub fn get_mut(&mut self, place: Place) -> Option<&mut Slot> {
        self.shards.get_mut(place.shard)?.slots.get_mut(place.slot)
    }

    /// The keys of a shard.
    pub fn shard(&self, shard: usize) -> impl Iterator<Item = &Slot> {
        let slots = self.shards.get(shard).map(|shard| shard.slots.as_slice()).unwrap_or_default();
        slots.iter().filter(|slot| !slot.is_free())
    }

    /// The keys of a shard, to be worked on.
    pub fn shard_mut(&mut self, shard: usize) -> impl Iterator<Item = &mut Slot> {
        let slots = self.shards.get_mut(shard).map(|shard| shard.slots.as_mut_slice());
        slots.unwrap_or_default().iter_mut().filter(|slot| !slot.is_free())
    }

    /// Drops the keys of a shard that are not to be kept.
    pub fn retain(&mut self, shard: usize, keep: impl FnMut(&mut Slot) -> bool) {
        if let Some(shard) = self.shards.get_mut(shard) {
            let before = shard.len;
            shard.retain(keep);
            self.len -= before - shard.len;
        }
        self.bytes = with_growth(&self.shards);
    }

    /// Keys in a shard.
    pub fn shard_len(&self, shard: usize) -> usize {
        self.shards.get(shard).map_or(0, |shard| shard.len)
    }

    /// Places that a shard has: it grows, and shrinks late.
    pub fn capacity(&self, shard: usize) -> usize {
        self.shards.get(shard).map_or(0, |shard| shard.capacity)
    }

    /// Gives an empty shard so many places.
    pub fn reserve(&mut self, shard: usize, capacity: usize) {
        if let Some(shard) = self.shards.get_mut(shard).filter(|shard| shard.len == 0) {
            shard.rebuild(capacity, |_| true);
        }
        self.bytes = with_growth(&self.shards);
    }

    /// Keys held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of the slots, and of the array that a shard needs beside its own while it grows.
fn with_growth(shards: &[Shard]) -> usize {
    let bytes = shards.iter().map(Shard::bytes);
    bytes.clone().sum::<usize>() + bytes.max().unwrap_or(0) / 4 * 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_slot_takes_32_bytes() {
        assert_eq!(size_of::<Slot>(), 32);
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_nothing_else(
            steps in prop::collection::vec((any::<u16>(), 0u8..4), 1..1500),
            foreseen in 0usize..12,
            asked in prop::collection::vec(any::<bool>(), 1..20),
        ) {
            let mut table = Table::default();
            let mut naive = HashSet::new();
            let key_of = |(n, form): (u16, u8)| match form {
                0 => (KeyKind::Global, Vec::new()),
                1 => (KeyKind::User, n.to_string().into_bytes()),
                _ => (KeyKind::Host, u32::from(n).to_be_bytes().to_vec()),
            };
            for (at, step) in steps.iter().enumerate() {
                // Some of what was foreseen is never asked for.
                if at % 8 == 0 {
                    table.forget_foreseen();
                    for step in steps.iter().skip(at).take(foreseen) {
                        let (kind, value) = key_of(*step);
                        table.foresee(Key { kind, value: &value });
                    }
                    table.touch_foreseen();
                }
                if asked.get(at % asked.len()) == Some(&false) {
                    continue;
                }
                let (n, (kind, value)) = (step.0, key_of(*step));
                let key = Key { kind, value: &value };
                if n % 7 == 0 {
                    let gone = |key: Key<'_>| key.value.first().is_none_or(|b| b % 3 == 1);
                    let shard = shard_of(key);
                    table.retain(shard, |slot| !gone(slot.key()));
                    naive.retain(|(kind, value): &(KeyKind, Vec<u8>)| {
                        let key = Key { kind: *kind, value };
                        shard_of(key) != shard || !gone(key)
                    });
                }
                let (place, new) = table.place(key);
                prop_assert_eq!(new, naive.insert((kind, value.clone())));
                prop_assert_eq!(table.get(place).map(Slot::key), Some(key));
                prop_assert_eq!(table.len(), naive.len());
            }
            for (kind, value) in &naive {
                let key = Key { kind: *kind, value };
                prop_assert!(!table.place(key).1);
            }
            let held: usize = (0..SHARDS).map(|shard| table.shard(shard).count()).sum();
            prop_assert_eq!(held, naive.len());
        }
    }
}
