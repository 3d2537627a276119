//! All states as bytes, and back. What is captured holds no address and no hash that differs from
//! one process to the next; what is restored counts, gives up and takes the same bytes as before.

use super::{Kind, Sketch, State, Store, group};
use crate::window::codec::{
    Kept, Reader, move_extras, number, put_bytes, put_number, put_option, put_time,
};
use crate::window::key::{Key, KeyKind};
use crate::window::large::{Large, Once, Part, Window};
use crate::window::marks::{self, Marks};
use crate::window::ring::bit;
use crate::window::small::{self, Written};
use crate::window::table::{SHARDS, Slot};

/// Where a part of a state is in another store.
#[derive(Debug, Clone, Default)]
pub struct PartMove {
    /// Its tag there.
    pub tag: u16,
    /// The slots of its rules there, by their slots here.
    pub slots: Vec<Option<usize>>,
    /// The places of its extra values here, by their places there.
    pub extras: Vec<Option<usize>>,
    /// The bits of rules that share it only there.
    pub fresh: u32,
}

/// How states are read by a store with other parts, rules and fields: by the numbers here, those
/// there. What has none is dropped.
#[derive(Debug, Clone, Default)]
pub struct Moves {
    /// Parts, by tag.
    pub parts: Vec<Option<PartMove>>,
    /// Rules.
    pub rules: Vec<Option<usize>>,
    /// Fields that keys are made of.
    pub fields: Vec<Option<usize>>,
}

// How a part of a large state is written.
const WINDOW: u8 = 0;
const BYTES: u8 = 1;
const ONCE: u8 = 2;
const MARKS: u8 = 3;

/// Keys that are brought near together.
const NEAR: usize = 48;
/// Bytes that a key takes as a rule when it is captured.
const SLOT_BYTES: usize = 112;

/// A capture under way.
#[derive(Debug)]
pub(super) struct Capturing {
    /// Buffers to be used.
    rooms: Vec<Vec<u8>>,
    pieces: Vec<Option<Vec<u8>>>,
    left: usize,
}

fn touch(slot: &Slot) -> u8 {
    match &slot.state {
        State::Small(block) => {
            let last = block.len().saturating_sub(1);
            let at = |at: usize| block.get(at).copied().unwrap_or(0);
            at(0) ^ at(last) ^ at(last.min(64))
        }
        State::Large(large) => large.key.first().copied().unwrap_or(0),
    }
}

// The form of a state.
const SMALL: u8 = 0;
const LARGE: u8 = 1;

impl Store {
    /// Writes everything that counting depends on, but for what was counted per key.
    pub fn capture(&self, out: &mut Vec<u8>) {
        self.kept.capture(out);
        put_option(out, self.swept, put_time);
        put_option(out, self.clock, put_time);
        put_number(out, number(self.next_shard));
        put_number(out, self.evicted);
        put_number(out, number(self.sketches.len()));
        for (length, sketch) in &self.sketches {
            put_time(out, *length);
            sketch.capture(out);
        }
    }

    /// Writes what the fourth format has beside the third.
    pub fn capture_domains(&self, out: &mut Vec<u8>) {
        self.kept.capture_domains(out);
    }

    /// Writes the keys of a shard with their states.
    pub fn capture_shard(&self, shard: usize, out: &mut Vec<u8>) {
        put_number(out, number(self.table.capacity(shard)));
        put_number(out, number(self.table.shard(shard).count()));
        let mut slots = self.table.shard(shard).peekable();
        let mut near: Vec<&Slot> = Vec::with_capacity(NEAR);
        while slots.peek().is_some() {
            near.clear();
            near.extend(slots.by_ref().take(NEAR));
            // States lie far apart; ways to them that do not depend on one another are gone together.
            let touched = near.iter().fold(0, |sum, slot| sum ^ touch(slot));
            std::hint::black_box(touched);
            near.iter().for_each(|slot| capture_slot(slot, out));
        }
    }

    /// From now on, every shard is captured as it is now before anything in it changes; `rooms` are
    /// buffers to be used. [`Store::capture_next`] goes on with the others.
    pub fn begin_capture(&mut self, rooms: Vec<Vec<u8>>) {
        self.capturing =
            Some(Box::new(Capturing { rooms, pieces: vec![None; SHARDS], left: SHARDS }));
    }

    /// Captures one more shard, if any is left.
    pub fn capture_next(&mut self) {
        let next =
            self.capturing.as_ref().and_then(|all| all.pieces.iter().position(Option::is_none));
        if let Some(shard) = next {
            self.capture_before(shard);
        }
    }

    /// Whether a capture is under way.
    pub fn is_capturing(&self) -> bool {
        self.capturing.is_some()
    }

    /// What was captured, once it is complete: the shards in their order.
    pub fn take_captured(&mut self) -> Option<Vec<Vec<u8>>> {
        let all = self.capturing.take_if(|all| all.left == 0)?;
        Some(all.pieces.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Captures a shard that is about to change, if it has to be and was not.
    pub(super) fn capture_before(&mut self, shard: usize) {
        let Some(mut all) = self.capturing.take() else { return };
        if let Some(piece @ None) = all.pieces.get_mut(shard) {
            let mut out = all.rooms.pop().unwrap_or_default();
            out.clear();
            out.reserve(self.table.shard_len(shard) * SLOT_BYTES);
            self.capture_shard(shard, &mut out);
            *piece = Some(out);
            all.left -= 1;
        }
        self.capturing = Some(all);
    }

    /// Number of shards.
    pub fn shards() -> usize {
        SHARDS
    }

    /// Reads what [`Store::capture`] wrote into an empty store.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.kept = Kept::restore(from)?;
        self.swept = from.option(Reader::time)?;
        self.clock = from.option(Reader::time)?;
        self.next_shard = from.narrow::<usize>()? % SHARDS;
        self.evicted = from.number()?;
        for _ in 0..from.number()? {
            let length = from.time()?;
            let read = Sketch::restore(from)?;
            // Of another length nobody asks any more; of another size nobody could.
            if let Some((_, sketch)) = self.sketches.iter_mut().find(|(own, _)| *own == length) {
                sketch.take_over(read);
            }
        }
        Some(())
    }

    /// Reads what [`Store::capture_domains`] wrote.
    pub fn restore_domains(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.kept.restore_domains(from)
    }

    /// Reads what [`Store::capture_shard`] wrote.
    pub fn restore_shard(
        &mut self,
        shard: usize,
        from: &mut Reader<'_>,
        moves: Option<&Moves>,
    ) -> Option<()> {
        let capacity = from.narrow()?;
        let count: usize = from.narrow()?;
        if capacity / 2 > count.max(1 << 20) {
            return None;
        }
        self.table.reserve(shard, capacity);
        for _ in 0..count {
            self.restore_slot(from, moves)?;
        }
        Some(())
    }

    fn restore_slot(&mut self, from: &mut Reader<'_>, moves: Option<&Moves>) -> Option<()> {
        let code: u16 = from.narrow()?;
        let value = from.bytes()?;
        let newest: u32 = from.narrow()?;
        let (events, keep, form) = (from.byte()?, from.byte()?, from.byte()?);
        let kept = |tag: u16| self.keeps.get(usize::from(tag)).copied().unwrap_or(0);
        let mut keep = keep;
        let kind = KeyKind::of_code(code);
        let moved = move_key(Key { kind, value }, moves);
        let key = moved.as_ref().map(|(kind, value)| Key { kind: *kind, value });
        let named = |key: Key<'_>| {
            let own = key.kind == KeyKind::Host && key.value.len() == 4;
            if own { Vec::new() } else { key.value.to_vec() }
        };
        let named = key.map(named).unwrap_or_default();
        let state = match form {
            SMALL => {
                let len: usize = from.narrow()?;
                let parts = from.bytes()?;
                if len > 4 * small::BYTES_MAX || parts.len() > len {
                    return None;
                }
                let block = small::of(&named, parts, len);
                match moves {
                    None => State::Small(block),
                    Some(moves) => {
                        let mut out = small::fresh(&named);
                        keep = 0;
                        for (tag, content) in small::parts(&block) {
                            let Some(part) = moves.parts.get(usize::from(tag))?.as_ref() else {
                                continue;
                            };
                            let content = self.move_part(content, part, moves);
                            if !content.is_empty() {
                                keep = longer(keep, kept(part.tag));
                            }
                            small::put(&mut out, part.tag, &content);
                        }
                        State::Small(out)
                    }
                }
            }
            LARGE => {
                let mut large = Large::new(&named);
                if moves.is_some() {
                    keep = 0;
                }
                for _ in 0..from.number()? {
                    let tag: u16 = from.narrow()?;
                    let (how, content) = (from.byte()?, from.bytes()?);
                    let part = match moves {
                        None => None,
                        Some(moves) => match moves.parts.get(usize::from(tag))?.as_ref() {
                            Some(part) => Some((part, moves)),
                            None => continue,
                        },
                    };
                    let tag = part.map_or(tag, |(part, _)| part.tag);
                    let content = match part {
                        None => content.into(),
                        Some((part, moves)) => {
                            keep = longer(keep, kept(tag));
                            std::borrow::Cow::Owned(self.move_part(content, part, moves))
                        }
                    };
                    let part = match how {
                        WINDOW => {
                            let group = group(&self.specs, tag)?;
                            Part::Window(Window::of(group, small::events(&content)))
                        }
                        BYTES => Part::Bytes(content.into_owned()),
                        ONCE => Part::Once(Once::restore(&mut Reader::new(&content))?),
                        MARKS => Part::Marks(Marks::of(&content)),
                        _ => return None,
                    };
                    large.part_mut(tag, || part);
                }
                State::Large(Box::new(large))
            }
            _ => return None,
        };
        let Some(key) = key else { return Some(()) };
        let (place, new) = self.table.place(key);
        let slot = self.table.get_mut(place).filter(|_| new)?;
        slot.state = state;
        slot.newest = newest;
        slot.keep = keep;
        slot.events = events;
        if moves.is_some() {
            slot.count_all(&self.specs);
        }
        self.bytes += slot.state.bytes();
        Some(())
    }

    /// The content of a part as another store writes it.
    fn move_part(&self, content: &[u8], part: &PartMove, moves: &Moves) -> Vec<u8> {
        let mut out = Vec::new();
        match self.specs.get(usize::from(part.tag)).map(|spec| &spec.kind) {
            Some(Kind::Window(_)) => {
                let mut shown = Vec::new();
                let mut events = Vec::new();
                for mut event in small::events(content) {
                    let mut used = part.fresh;
                    for (old, new) in part.slots.iter().enumerate() {
                        if let Some(new) = new
                            && event.item.used & bit(old) != 0
                        {
                            used |= bit(*new);
                        }
                    }
                    event.item.used = used;
                    if let Some(of) = event.completes {
                        let Some(of) = part.slots.get(of).copied().flatten() else { continue };
                        event.completes = Some(of);
                    }
                    let start = shown.len();
                    move_extras(event.shown, &part.extras, &mut shown);
                    events.push((event.item, event.completes, start..shown.len()));
                }
                let events: Vec<Written<'_>> = events
                    .into_iter()
                    .map(|(item, completes, place)| {
                        let shown = shown.get(place).unwrap_or_default();
                        Written { item, completes, shown }
                    })
                    .collect();
                small::write(&events, &mut out);
            }
            Some(Kind::Marks) => marks::renumber(content, &moves.rules, &mut out),
            _ => out.extend_from_slice(content),
        }
        out
    }
}

/// The longer of two ways to keep, of which what was learnt marks both.
fn longer(a: u8, b: u8) -> u8 {
    let learnt = super::LEARNT;
    (a & !learnt).max(b & !learnt) | (a | b) & learnt
}

fn move_key(key: Key<'_>, moves: Option<&Moves>) -> Option<(KeyKind, Vec<u8>)> {
    let Some(moves) = moves else { return Some((key.kind, key.value.to_vec())) };
    key.renumbered(&moves.fields)
}

fn capture_slot(slot: &Slot, out: &mut Vec<u8>) {
    let key = slot.key();
    put_number(out, u64::from(key.kind.code()));
    put_bytes(out, key.value);
    put_number(out, u64::from(slot.newest));
    out.extend_from_slice(&[slot.events, slot.keep]);
    match &slot.state {
        State::Small(block) => {
            out.push(SMALL);
            put_number(out, number(block.len()));
            put_bytes(out, small::written_parts(block));
        }
        State::Large(large) => {
            out.push(LARGE);
            put_number(out, number(large.parts().count()));
            let mut content = Vec::new();
            for (tag, part) in large.parts() {
                content.clear();
                put_number(out, u64::from(*tag));
                out.push(match part {
                    Part::Window(window) => {
                        small::write(&window.written(), &mut content);
                        WINDOW
                    }
                    Part::Bytes(bytes) => {
                        content.extend_from_slice(bytes);
                        BYTES
                    }
                    Part::Once(once) => {
                        once.capture(&mut content);
                        ONCE
                    }
                    Part::Marks(marks) => {
                        marks.write(&mut content);
                        MARKS
                    }
                });
                put_bytes(out, &content);
            }
        }
    }
}
