//! The state of a key with few events: one block of bytes.
//!
//! It begins with the number of bytes in use (two bytes, little-endian) and the key (its length,
//! then itself); then come parts, each with its tag, its length in two bytes, and its content. A
//! window's content is the time of its oldest event, the weight of all (an upper bound for every
//! rule, so that most events need no look at the others), then the events, each as the distance to
//! that time and what it shows. Most events are later than all others and are just appended.

use super::codec::{Shown, length, number, number_in, put_number, take, take_number};
use super::ring::{Crossing, Item, RULES_MAX, Timeline, bit};
use super::{Cut, Fresh, Group, Need, Whole};
use crate::decode::time::Micros;
use std::ops::Range;

/// Bytes beyond which a state is kept in the other form.
pub const BYTES_MAX: usize = 2048;
/// Events of one window beyond which a state is kept in the other form.
pub const EVENTS_MAX: i32 = 64;

/// What a first event usually takes, its window's part included.
const FIRST: usize = 45;
/// Bytes before a window's events: the oldest time and the total.
const HEAD: usize = 10;
/// In the total: there are events that complete sequences.
const COMPLETES: u16 = 0x8000;
/// Largest total; a larger one is as good as unknown.
const TOTAL_MAX: u16 = 0x7fff;

// The lowest bits of an event's first number.
const WEIGHT: u64 = 1;
const USED: u64 = 2;
const COMPLETING: u64 = 4;

/// The block of a key without parts.
pub fn fresh(key: &[u8]) -> Box<[u8]> {
    // With room for the first event, so that the block need not move for it.
    let mut block = Vec::with_capacity(chunk(key.len() + 3 + FIRST));
    block.extend_from_slice(&[0, 0]);
    put_number(&mut block, number(key.len()));
    block.extend_from_slice(key);
    let used = block.len();
    block.resize(chunk(used + FIRST), 0);
    set_two(&mut block, 0, used);
    block.into_boxed_slice()
}

/// The block of a key with parts [as they were written](written_parts), `len` bytes long.
pub fn of(key: &[u8], parts: &[u8], len: usize) -> Box<[u8]> {
    let mut block = vec![0, 0];
    put_number(&mut block, number(key.len()));
    block.extend_from_slice(key);
    block.extend_from_slice(parts);
    let used = block.len();
    block.resize(len.max(used), 0);
    set_two(&mut block, 0, used);
    block.into_boxed_slice()
}

/// The parts as they were written.
pub fn written_parts(block: &[u8]) -> &[u8] {
    Places::of(block).rest
}

/// What the program's allocator takes for a block of `len` bytes: sizes are sixteen apart up to 64, and
/// four to a doubling beyond.
pub fn chunk(len: usize) -> usize {
    match len {
        0..=64 => len.next_multiple_of(16),
        _ => len.next_multiple_of(1 << ((len - 1).ilog2() - 2)),
    }
}

/// What a hash table takes for a place that holds `size` bytes, at the lowest load that it has after
/// growing.
pub fn place_bytes(size: usize) -> usize {
    (size + 1) * 16 / 7
}

fn two(block: &[u8], at: usize) -> usize {
    let bytes = block.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, |bytes| usize::from(u16::from_le_bytes(bytes)))
}

fn set_two(block: &mut [u8], at: usize, n: usize) {
    if let Some(to) = block.get_mut(at..at + 2) {
        to.copy_from_slice(&u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes());
    }
}

/// Bytes in use.
pub fn used(block: &[u8]) -> usize {
    two(block, 0).min(block.len())
}

/// The key.
pub fn key(block: &[u8]) -> &[u8] {
    let mut bytes = block.get(2..).unwrap_or_default();
    let len = length(take_number(&mut bytes));
    take(&mut bytes, len)
}

/// The parts: tag and content.
pub fn parts(block: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut places = Places::of(block);
    std::iter::from_fn(move || {
        let (tag, place) = places.next()?;
        Some((tag, block.get(place).unwrap_or_default()))
    })
}

struct Places<'b> {
    rest: &'b [u8],
    end: usize,
}

impl<'b> Places<'b> {
    fn of(block: &'b [u8]) -> Self {
        let end = used(block);
        let mut rest = block.get(2..end).unwrap_or_default();
        let len = length(take_number(&mut rest));
        take(&mut rest, len);
        Self { rest, end }
    }

    fn next(&mut self) -> Option<(u16, Range<usize>)> {
        if self.rest.is_empty() {
            return None;
        }
        let tag = u16::try_from(take_number(&mut self.rest)).unwrap_or(u16::MAX);
        let len = two(self.rest, 0);
        take(&mut self.rest, 2);
        let start = self.end - self.rest.len();
        take(&mut self.rest, len);
        Some((tag, start..self.end - self.rest.len()))
    }
}

fn find(block: &[u8], tag: u16) -> Option<Range<usize>> {
    let mut places = Places::of(block);
    loop {
        let (other, place) = places.next()?;
        if other == tag {
            return Some(place);
        }
    }
}

/// The content of a part; empty if there is none.
pub fn part(block: &[u8], tag: u16) -> &[u8] {
    find(block, tag).and_then(|place| block.get(place)).unwrap_or_default()
}

/// Puts `with` where `place` was.
fn splice(block: &mut Box<[u8]>, place: Range<usize>, with: &[u8]) {
    let used = used(block);
    let after = used - place.len() + with.len();
    if after <= block.len() && chunk(after + block.len() / 4) >= block.len() {
        block.copy_within(place.end..used, place.start + with.len());
        if let Some(to) = block.get_mut(place.start..place.start + with.len()) {
            to.copy_from_slice(with);
        }
    } else {
        let mut new = Vec::with_capacity(chunk(after));
        new.extend_from_slice(block.get(..place.start).unwrap_or_default());
        new.extend_from_slice(with);
        new.extend_from_slice(block.get(place.end..used).unwrap_or_default());
        new.resize(chunk(after), 0);
        *block = new.into_boxed_slice();
    }
    set_two(block, 0, after);
}

/// Gives a part this content; without any it is gone.
pub fn put(block: &mut Box<[u8]>, tag: u16, content: &[u8]) {
    match find(block, tag) {
        Some(place) if content.is_empty() => {
            let mut header = Vec::new();
            put_number(&mut header, u64::from(tag));
            splice(block, place.start - 2 - header.len()..place.end, &[]);
        }
        Some(place) => {
            set_two(block, place.start - 2, content.len());
            splice(block, place, content);
        }
        None if content.is_empty() => {}
        None => {
            let mut part = Vec::with_capacity(content.len() + 4);
            put_number(&mut part, u64::from(tag));
            part.extend_from_slice(&u16::try_from(content.len()).unwrap_or(u16::MAX).to_le_bytes());
            part.extend_from_slice(content);
            let end = used(block);
            splice(block, end..end, &part);
        }
    }
}

/// One event as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Written<'b> {
    /// Its time, weight and use.
    pub item: Item,
    /// The sequence that it completes.
    pub completes: Option<usize>,
    /// What it shows.
    pub shown: &'b [u8],
}

impl Written<'_> {
    fn put(&self, out: &mut Vec<u8>, base: Micros) {
        let item = &self.item;
        let flag = |on: bool, flag: u64| if on { flag } else { 0 };
        let distance = u64::try_from(item.time.saturating_sub(base)).unwrap_or(0);
        let flags = flag(item.weight != 1, WEIGHT)
            | flag(item.used != 0, USED)
            | flag(self.completes.is_some(), COMPLETING);
        put_number(out, distance << 3 | flags);
        if item.weight != 1 {
            put_number(out, u64::from(item.weight));
        }
        if item.used != 0 {
            put_number(out, u64::from(item.used));
        }
        if let Some(slot) = self.completes {
            put_number(out, number(slot));
        }
        put_number(out, number(self.shown.len()));
        out.extend_from_slice(self.shown);
    }
}

/// A window's content, read from front to back.
struct Reader<'b> {
    base: Micros,
    total: u16,
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn of(content: &'b [u8]) -> Option<Self> {
        let base = content.get(..8)?.try_into().ok().map(Micros::from_le_bytes)?;
        let total = content.get(8..HEAD)?.try_into().ok().map(u16::from_le_bytes)?;
        Some(Self { base, total, rest: content.get(HEAD..)? })
    }
}

impl<'b> Iterator for Reader<'b> {
    type Item = Written<'b>;

    #[inline]
    fn next(&mut self) -> Option<Written<'b>> {
        if let Some(first) = self.rest.first_chunk()
            && let Some(Start { number, used, shown }) = Start::of(u64::from_le_bytes(*first))
            && let Some(written) = self.rest.get(shown.clone())
        {
            self.rest = self.rest.get(shown.end..).unwrap_or_default();
            let item = Item { time: self.time(number), weight: 1, used };
            return Some(Written { item, completes: None, shown: written });
        }
        self.next_of_any()
    }
}

impl<'b> Reader<'b> {
    /// The time that an event's first number says.
    fn time(&self, first: u64) -> Micros {
        self.base.saturating_add(Micros::try_from(first >> 3).unwrap_or(Micros::MAX))
    }

    #[cold]
    fn next_of_any(&mut self) -> Option<Written<'b>> {
        if self.rest.is_empty() {
            return None;
        }
        let first = take_number(&mut self.rest);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let time = self.time(first);
        let weight = if first & WEIGHT != 0 { narrow(take_number(&mut self.rest)) } else { 1 };
        let used = if first & USED != 0 { narrow(take_number(&mut self.rest)) } else { 0 };
        let completes = (first & COMPLETING != 0).then(|| length(take_number(&mut self.rest)));
        let len = length(take_number(&mut self.rest));
        let shown = take(&mut self.rest, len);
        Some(Written { item: Item { time, weight, used }, completes, shown })
    }
}

/// How an event begins that is as nearly all are: it has the weight one and completes nothing, and all
/// before what it shows lies in eight bytes.
struct Start {
    number: u64,
    used: u32,
    shown: Range<usize>,
}

impl Start {
    #[inline]
    fn of(bytes: u64) -> Option<Self> {
        let (number, len) = number_in(bytes)?;
        let rest = bytes.checked_shr(u32::try_from(8 * len).ok()?)?;
        let (used, shown_len, from) = match number & (WEIGHT | USED | COMPLETING) {
            0 if len < 8 => (0, rest & 0xff, len + 1),
            USED if len < 7 => (rest & 0xff, rest >> 8 & 0xff, len + 2),
            _ => return None,
        };
        // Numbers of one byte.
        if (used | shown_len) & 0x80 != 0 {
            return None;
        }
        let shown = from..from + length(shown_len);
        Some(Self { number, used: u32::try_from(used).ok()?, shown })
    }
}

/// The events of a window.
pub fn events(content: &[u8]) -> impl Iterator<Item = Written<'_>> {
    Reader::of(content).unwrap_or(Reader { base: 0, total: 0, rest: &[] })
}

/// Events in order of time.
#[derive(Debug, Default)]
pub struct List<'b>(Vec<(Item, &'b [u8])>);

impl Timeline for List<'_> {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn item(&self, at: usize) -> Item {
        self.0.get(at).map_or(Item { time: Micros::MAX, weight: 0, used: 0 }, |(item, _)| *item)
    }

    fn shown(&self, at: usize) -> Shown<'_> {
        self.0.get(at).map(|(_, shown)| Shown::read(shown)).unwrap_or_default()
    }
}

/// The events of a window that are counted, and those that complete the sequence in `slot`.
pub fn lists(content: &[u8], slot: usize) -> (List<'_>, List<'_>) {
    let mut firsts = List(Vec::with_capacity(content.len() / 8));
    let mut completing = List::default();
    for event in events(content) {
        match event.completes {
            None => firsts.0.push((event.item, event.shown)),
            Some(of) if of == slot => completing.0.push((event.item, event.shown)),
            Some(_) => {}
        }
    }
    (firsts, completing)
}

/// What [`ring::counted`](super::ring::counted) finds, without a list, as long as no event is later than
/// `time`; else nothing.
pub fn counted_last(
    content: &[u8],
    slot: usize,
    need: &Need,
    time: Micros,
) -> Option<Option<Crossing>> {
    let start = time.saturating_sub(need.within);
    let (mut before, mut inside, mut unused) = (0, 0, 0);
    for event in events(content).filter(|event| event.completes.is_none()) {
        if event.item.time > time {
            return None;
        }
        if event.item.time > start {
            inside += 1;
            unused += event.item.unused(slot);
        } else {
            before += 1;
        }
    }
    let enough = unused >= need.at_least;
    let crossing = Crossing { time, range: before..before + inside, completing: None };
    Some(enough.then_some(crossing))
}

/// Writes a window's content anew; without events there is none.
pub fn write(events: &[Written<'_>], out: &mut Vec<u8>) {
    let Some(base) = events.iter().map(|event| event.item.time).min() else { return };
    let firsts = events.iter().filter(|event| event.completes.is_none());
    let total: u64 = firsts.map(|event| u64::from(event.item.weight)).sum();
    let mut total = u16::try_from(total).unwrap_or(TOTAL_MAX).min(TOTAL_MAX);
    if events.iter().any(|event| event.completes.is_some()) {
        total |= COMPLETES;
    }
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&total.to_le_bytes());
    for event in events {
        event.put(out, base);
    }
}

/// Puts an event at its time; `later` if it is later than all others of the key. Which rules may
/// now have enough, by how much the number of events changed, and where they cross if they do. `room` is used
/// for nothing else.
#[expect(clippy::too_many_arguments, reason = "one step of the store, not an interface")]
pub fn insert(
    block: &mut Box<[u8]>,
    tag: u16,
    group: &Group,
    fresh: &Fresh<'_>,
    cut: Cut,
    later: bool,
    estimate: u64,
    room: &mut Vec<u8>,
) -> (u32, i32, Option<Whole>) {
    let item = Item { time: fresh.time, weight: fresh.weight, used: fresh.used };
    let new = Written { item, completes: fresh.completes, shown: fresh.shown };
    let place = find(block, tag);
    let head = place.clone().and_then(|place| Reader::of(block.get(place)?));
    let head = head.map(|reader| (reader.base, reader.total));
    let mut change = 1;
    room.clear();
    match (place, head) {
        (Some(place), Some((base, total)))
            if later && new.completes.is_none() && cut.firsts.is_none_or(|cut| base > cut) =>
        {
            new.put(room, base);
            let weight = u16::try_from(fresh.weight).unwrap_or(TOTAL_MAX);
            let sum = (total & TOTAL_MAX).saturating_add(weight).min(TOTAL_MAX);
            set_two(block, place.start + 8, usize::from(sum | total & COMPLETES));
            set_two(block, place.start - 2, place.len() + room.len());
            splice(block, place.end..place.end, room);
            let content = place.start..place.end + room.len();
            let content = block.get(content).unwrap_or_default();
            let (mask, events) = candidates(content, group, None, estimate);
            return (mask, change, Some(Whole { oldest: base, events }));
        }
        (None, _) => {
            put_number(room, u64::from(tag));
            let head = room.len() + 2;
            room.extend_from_slice(&[0, 0]);
            write(&[new], room);
            let len = room.len() - head;
            set_two(room, head - 2, len);
            let end = used(block);
            splice(block, end..end, room);
            let content = room.get(head..).unwrap_or_default();
            return (candidates(content, group, fresh.completes, estimate).0, change, None);
        }
        (Some(place), _) => {
            let content = block.get(place).unwrap_or_default();
            let mut list = Vec::with_capacity(content.len() / 8 + 1);
            for event in events(content) {
                let cut = if event.completes.is_none() { cut.firsts } else { cut.completing };
                if cut.is_none_or(|cut| event.item.time > cut) {
                    list.push(event);
                } else {
                    change -= 1;
                }
            }
            list.insert(list.partition_point(|other| other.item.time <= item.time), new);
            write(&list, room);
            put(block, tag, room);
        }
    }
    (candidates(part(block, tag), group, fresh.completes, estimate).0, change, None)
}

/// The rules that may have enough: what they have not used up, together with `estimate`, would do. If
/// there is one, how many events are counted.
#[inline]
fn candidates(
    content: &[u8],
    group: &Group,
    completes: Option<usize>,
    estimate: u64,
) -> (u32, usize) {
    // Most have less in all than any rule needs.
    let total = u64::try_from(two(content, size_of::<Micros>())).unwrap_or(u64::MAX);
    let total = total & u64::from(TOTAL_MAX);
    if total.saturating_add(estimate) < group.least && total < u64::from(TOTAL_MAX) {
        return (0, 0);
    }
    counted(content, group, completes, estimate)
}

fn counted(content: &[u8], group: &Group, completes: Option<usize>, estimate: u64) -> (u32, usize) {
    let Some(reader) = Reader::of(content) else { return (0, 0) };
    let total = reader.total;
    let (mut unused, mut of_all, mut events) = ([0u64; RULES_MAX], 0, 0);
    for event in reader.filter(|event| event.completes.is_none()) {
        events += 1;
        if event.item.used == 0 {
            of_all += u64::from(event.item.weight);
            continue;
        }
        for (slot, sum) in unused.iter_mut().enumerate().take(group.needs.len()) {
            *sum += event.item.unused(slot);
        }
    }
    let mut mask = 0;
    for (slot, (need, sum)) in group.needs.iter().zip(unused).enumerate() {
        let due = need.is_due(slot, completes, total & COMPLETES != 0);
        if due && (sum + of_all).saturating_add(estimate) >= need.at_least {
            mask |= bit(slot);
        }
    }
    (mask, events)
}

/// Uses the events of a crossing up for a rule; what every rule has used is dropped. By how much
/// the number of events changed.
pub fn use_up(
    block: &mut Box<[u8]>,
    tag: u16,
    group: &Group,
    slot: usize,
    crossing: &Crossing,
) -> i32 {
    let content = part(block, tag);
    let (mut first, mut completing, mut change) = (0, 0, 0);
    let mut left = Vec::with_capacity(content.len() / 8);
    for mut event in events(content) {
        let gone = match event.completes {
            None => {
                if crossing.range.contains(&first) {
                    event.item.used |= bit(slot);
                }
                first += 1;
                event.item.used & group.all() == group.all()
            }
            Some(of) if of == slot => {
                completing += 1;
                crossing.completing == Some(completing - 1)
            }
            Some(_) => false,
        };
        if gone {
            change -= 1;
        } else {
            left.push(event);
        }
    }
    let mut out = Vec::with_capacity(content.len());
    write(&left, &mut out);
    put(block, tag, &out);
    change
}
