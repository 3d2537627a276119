//! What the ordered half takes in, as bytes: everything that its state follows from.
//!
//! The ordered half is a function from a list of entries to actions. Written down as they are
//! applied, they are the journal; read again in their order, they bring back the same state and the
//! same actions, whatever machine, thread or moment they are read on.

use crate::action::Target;
use crate::action::order::{Order, What};
use crate::decode::print::Print;
use crate::decode::time::Micros;
use crate::detect::dictionary::Translation;
use crate::pattern::event::{EventIp, Run};
use crate::pattern::{Event, EventView, Events, Standing};
use crate::window::codec::{Reader, number, put_bytes, put_number, put_option, put_time};
use std::net::IpAddr;
use std::sync::Arc;

/// Where in its source a record came from: the place of its line, and which of the line's records it
/// is. The unit of the place is the source's own: bytes of a file, offsets of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Place of the line.
    pub at: u64,
    /// Number of the record in its line.
    pub index: u32,
}

impl Origin {
    /// Writes it.
    pub fn put(self, out: &mut Vec<u8>) {
        put_number(out, self.at);
        put_number(out, u64::from(self.index));
    }

    /// Reads it.
    pub fn take(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { at: from.number()?, index: from.narrow()? })
    }
}

/// The order among partitions: by the name of the topic, then by the partition's number, which are
/// the same on every machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
}

impl Rank {
    /// Writes it.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.topic.as_bytes());
        put_time(out, i64::from(self.partition));
    }

    /// Reads it.
    pub fn take(from: &mut Reader<'_>) -> Option<Self> {
        let topic = from.text()?.into();
        Some(Self { topic, partition: i32::try_from(from.time()?).ok()? })
    }
}

/// A record with events.
#[derive(Debug, Clone, Copy)]
pub struct Input<'e> {
    /// Its source.
    pub source: u32,
    /// Where in it, if the source can go back to a place.
    pub origin: Option<Origin>,
    /// Its time by its own word.
    pub time: Option<Micros>,
    /// When it arrived, for one without a time.
    pub arrival: Option<Micros>,
    /// Some pattern named it.
    pub named: bool,
    /// What it is known by, if it is to be known again.
    pub print: Option<Print>,
    /// Events of many records.
    pub events: &'e Events,
    /// Its own among them.
    pub run: Run,
}

/// One thing that the ordered half takes in.
#[derive(Debug)]
pub enum Entry {
    /// A record, to be applied at once.
    Record(Owned),
    /// A record of a partition, to be applied in its turn among all partitions.
    Wait {
        /// It.
        record: Owned,
        /// The time of its turn.
        time: Micros,
        /// Its turn among records of the same time.
        rank: Rank,
    },
    /// A line longer than the limit: its limit is told by time.
    Oversized {
        /// Its source.
        source: u32,
    },
    /// An idle stream: decisions end by this clock.
    Idle {
        /// The clock, carried on.
        clock: Micros,
    },
    /// No record before this can still come from any partition: those that wait are applied.
    Release {
        /// Not included.
        before: Micros,
    },
    /// A source begins anew: places in it mean something else.
    Anew {
        /// Which.
        source: u32,
    },
    /// Something was lost or is wrong with a source.
    SourceNote {
        /// When, by the stream's clock.
        time: Micros,
        /// What.
        reason: String,
    },
    /// A person's order.
    Order(Order),
    /// Whoever is on the allowlist now is let go.
    Sweep {
        /// When, by the wall clock.
        at: Micros,
    },
}

/// A record that owns its events.
#[derive(Debug)]
pub struct Owned {
    /// See [`Input::source`].
    pub source: u32,
    /// See [`Input::origin`].
    pub origin: Option<Origin>,
    /// See [`Input::time`].
    pub time: Option<Micros>,
    /// See [`Input::arrival`].
    pub arrival: Option<Micros>,
    /// See [`Input::named`].
    pub named: bool,
    /// See [`Input::print`].
    pub print: Option<Print>,
    /// Its events.
    pub events: Events,
}

/// Bytes counted for a record that is kept, beside its events: itself, its place in a tree, and what
/// lists hold in reserve.
const OWNED_BYTES: usize = 2 * size_of::<Owned>() + 128;

impl Owned {
    /// Reads a record.
    pub fn take(from: &mut Reader<'_>, by: Option<&Translation>) -> Option<Self> {
        let source = from.narrow()?;
        let origin = from.option(Origin::take)?;
        let time = from.option(Reader::time)?;
        let arrival = from.option(Reader::time)?;
        let marks = from.byte()?;
        let named = marks & NAMED != 0;
        let print = match marks & PRINTED {
            0 => None,
            _ => Some(Print::from_le_bytes(*from.take(size_of::<Print>())?.first_chunk()?)),
        };
        let mut events = Events::default();
        for _ in 0..from.number()? {
            take_event(from, &mut events, by)?;
        }
        Some(Self { source, origin, time, arrival, named, print, events })
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let Events { list, texts, near_misses } = &self.events;
        size_of_val(list.as_slice())
            + texts.bytes()
            + size_of_val(near_misses.as_slice())
            + OWNED_BYTES
    }

    /// To be applied.
    pub fn input(&self) -> Input<'_> {
        let Self { source, origin, time, arrival, named, print, ref events } = *self;
        Input { source, origin, time, arrival, named, print, events, run: events.all() }
    }
}

impl Input<'_> {
    /// Writes it.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.source));
        put_option(out, self.origin, |out, origin| origin.put(out));
        put_option(out, self.time, put_time);
        put_option(out, self.arrival, put_time);
        let printed = if self.print.is_some() { PRINTED } else { 0 };
        out.push((u8::from(self.named) * NAMED) | printed);
        self.print.iter().for_each(|print| out.extend_from_slice(&print.to_le_bytes()));
        put_number(out, number(self.run.len()));
        for event in self.events.of(self.run) {
            put_event(out, event);
        }
    }

    /// To be kept.
    pub fn own(&self) -> Owned {
        let Self { source, origin, time, arrival, named, print, events, run } = *self;
        Owned { source, origin, time, arrival, named, print, events: events.cut(run) }
    }
}

/// Marks of a record.
const NAMED: u8 = 1;
const PRINTED: u8 = 2;

const RECORD: u8 = 1;
const OVERSIZED: u8 = 2;
const IDLE: u8 = 3;
const RELEASE: u8 = 4;
const ANEW: u8 = 5;
const SOURCE_NOTE: u8 = 6;
const WAIT: u8 = 7;
const ORDER: u8 = 8;
const SWEEP: u8 = 9;

/// Entries, written one behind the other.
#[derive(Debug, Default)]
pub struct Journal {
    /// Them.
    pub bytes: Vec<u8>,
    /// How many.
    pub entries: u64,
    /// How many of them are records.
    pub records: u64,
}

impl Journal {
    /// Writes a record down.
    pub fn record(&mut self, input: &Input<'_>) {
        self.entries += 1;
        self.records += 1;
        self.bytes.push(RECORD);
        input.put(&mut self.bytes);
    }

    /// Writes a record down that waits for its turn.
    pub fn wait(&mut self, input: &Input<'_>, time: Micros, rank: &Rank) {
        self.entries += 1;
        self.records += 1;
        self.bytes.push(WAIT);
        put_time(&mut self.bytes, time);
        rank.put(&mut self.bytes);
        input.put(&mut self.bytes);
    }

    /// Writes anything else down.
    pub fn put(&mut self, entry: &Entry) {
        self.entries += 1;
        let out = &mut self.bytes;
        match entry {
            Entry::Record(record) => {
                self.entries -= 1;
                self.record(&record.input());
            }
            Entry::Wait { record, time, rank } => {
                self.entries -= 1;
                self.wait(&record.input(), *time, rank);
            }
            Entry::Oversized { source } => {
                out.push(OVERSIZED);
                put_number(out, u64::from(*source));
            }
            Entry::Idle { clock } => {
                out.push(IDLE);
                put_time(out, *clock);
            }
            Entry::Release { before } => {
                out.push(RELEASE);
                put_time(out, *before);
            }
            Entry::Anew { source } => {
                out.push(ANEW);
                put_number(out, u64::from(*source));
            }
            Entry::SourceNote { time, reason } => {
                out.push(SOURCE_NOTE);
                put_time(out, *time);
                put_bytes(out, reason.as_bytes());
            }
            Entry::Order(order) => {
                out.push(ORDER);
                put_order(out, order);
            }
            Entry::Sweep { at } => {
                out.push(SWEEP);
                put_time(out, *at);
            }
        }
    }

    /// Takes out what was written.
    pub fn take(&mut self) -> Self {
        // The next one will be about as long.
        let room = self.bytes.len().min(1 << 20);
        std::mem::replace(self, Self { bytes: Vec::with_capacity(room), ..Self::default() })
    }
}

/// Reads one entry; `None` if it cannot be read. `by` says which numbers patterns, fields and rules
/// have now, if not the same.
pub fn take_entry(from: &mut Reader<'_>, by: Option<&Translation>) -> Option<Entry> {
    Some(match from.byte()? {
        RECORD => Entry::Record(Owned::take(from, by)?),
        WAIT => {
            let (time, rank) = (from.time()?, Rank::take(from)?);
            Entry::Wait { record: Owned::take(from, by)?, time, rank }
        }
        OVERSIZED => Entry::Oversized { source: from.narrow()? },
        IDLE => Entry::Idle { clock: from.time()? },
        RELEASE => Entry::Release { before: from.time()? },
        ANEW => Entry::Anew { source: from.narrow()? },
        ORDER => Entry::Order(take_order(from)?),
        SWEEP => Entry::Sweep { at: from.time()? },
        SOURCE_NOTE => Entry::SourceNote { time: from.time()?, reason: from.text()?.to_owned() },
        _ => return None,
    })
}

fn put_order(out: &mut Vec<u8>, order: &Order) {
    let Order { what, target, by, because, at, force } = order;
    let (code, time) = match *what {
        What::Block { lasting } => (1, Some(lasting)),
        What::Lock { lasting } => (2, Some(lasting)),
        What::Require2fa { lasting } => (3, Some(lasting)),
        What::Lift { grace } => (4, Some(grace)),
        What::Allow { until } => (5, until),
        What::Disallow => (6, None),
    };
    out.push(code);
    put_option(out, time, put_time);
    for text in [&target.kind, target.text(), by, because] {
        put_bytes(out, text.as_bytes());
    }
    put_time(out, *at);
    out.push(u8::from(*force));
}

fn take_order(from: &mut Reader<'_>) -> Option<Order> {
    let code = from.byte()?;
    let time = from.option(Reader::time)?;
    let what = match (code, time) {
        (1, Some(lasting)) => What::Block { lasting },
        (2, Some(lasting)) => What::Lock { lasting },
        (3, Some(lasting)) => What::Require2fa { lasting },
        (4, Some(grace)) => What::Lift { grace },
        (5, until) => What::Allow { until },
        (6, None) => What::Disallow,
        _ => return None,
    };
    let mut text = || from.text().map(str::to_owned);
    let (kind, value, by, because) = (text()?, text()?, text()?, text()?);
    let target = Target { kind, value: Some(value) };
    Some(Order { what, target, by, because, at: from.time()?, force: from.byte()? != 0 })
}

fn put_event(out: &mut Vec<u8>, event: EventView<'_>) {
    put_number(out, u64::from(event.pattern));
    put_number(out, u64::from(event.weight));
    put_option(out, event.ip, |out, ip| {
        out.push(match ip.standing {
            Standing::Good => 0,
            Standing::Unproven => 1,
            Standing::NoHost => 2,
        });
        match ip.ip {
            IpAddr::V4(ip) => put_bytes(out, &ip.octets()),
            IpAddr::V6(ip) => put_bytes(out, &ip.octets()),
        }
    });
    let texts =
        [event.user(), event.user_id(), event.country(), event.reason(), event.request_id()];
    let there = texts.iter().rev().fold(0, |bits, text| bits << 1 | u8::from(text.is_some()));
    out.push(there);
    texts.iter().flatten().for_each(|text| put_bytes(out, text.as_bytes()));
    let values: Vec<(u16, &str)> = event.all_values().collect();
    put_number(out, number(values.len()));
    for (slot, value) in values {
        put_number(out, u64::from(slot));
        put_bytes(out, value.as_bytes());
    }
    put_number(out, number(event.rules().len()));
    event.rules().iter().for_each(|rule| put_number(out, u64::from(*rule)));
}

fn take_event(from: &mut Reader<'_>, events: &mut Events, by: Option<&Translation>) -> Option<()> {
    let pattern: u16 = from.narrow()?;
    let weight = from.narrow()?;
    let ip = from.option(|from| {
        let standing = match from.byte()? {
            0 => Standing::Good,
            1 => Standing::Unproven,
            2 => Standing::NoHost,
            _ => return None,
        };
        let octets = from.bytes()?;
        let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
        let ip = v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))?;
        Some(EventIp { ip, standing })
    })?;
    let there = from.byte()?;
    let mut texts = [None; 5];
    for (place, text) in texts.iter_mut().enumerate() {
        if there & 1 << place != 0 {
            *text = events.texts.put(from.text()?);
        }
    }
    let mut values: Vec<(u16, &str)> = Vec::new();
    for _ in 0..from.number()? {
        let (slot, value) = (from.narrow()?, from.text()?);
        values.extend(by.map_or(Some(slot), |by| by.counted(slot)).map(|slot| (slot, value)));
    }
    let mut rules: Vec<u16> = Vec::new();
    for _ in 0..from.number()? {
        let rule = from.narrow()?;
        rules.extend(by.map_or(Some(rule), |by| by.rule(rule)));
    }
    // Rules are asked in the order of their numbers.
    rules.sort_unstable();
    let Some(pattern) = by.map_or(Some(pattern), |by| by.pattern(pattern)) else {
        return Some(());
    };
    let [user, user_id, country, reason, request_id] = texts;
    let values = events.texts.put_values(values.into_iter());
    let rules = events.texts.put_rules(rules.into_iter());
    events.list.push(Event {
        pattern,
        weight,
        ip,
        user,
        user_id,
        country,
        reason,
        request_id,
        values,
        rules,
    });
    Some(())
}
