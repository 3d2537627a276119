//! What is usual for a key: values it had, hours at which it is active. Learnt in arrival order.
//!
//! A value is bytes: one for its role, then its text, so that equal texts of different roles differ.

use super::rule::UnusualSpec;
use super::short::Short;
use crate::decode::addr;
use crate::decode::time::Micros;
use crate::window::codec::{
    self, Reader, length, number, put_bytes, put_number, put_option, put_text_of, put_time, take,
    take_number,
};
use crate::window::seed::Seed;
use crate::window::small::place_bytes;
use hashbrown::HashTable;
use std::net::IpAddr;

/// One day, microseconds.
pub const DAY: Micros = 24 * 3600 * 1_000_000;
/// A value unseen for this long is forgotten.
pub const FORGET: Micros = 90 * DAY;
/// Values remembered per key; past it the one unseen longest goes, which can only raise an alert
/// too many.
const VALUES_MAX: usize = 256;
/// Addresses remembered per account.
const ADDRESSES_MAX: usize = 8;
/// Accounts whose addresses are remembered; past it new ones are not learnt, and an enforcer lets
/// nobody in whom it would not have let in anyway.
const ACCOUNTS_MAX: usize = 200_000;

/// A time in a key's state.
fn take_time(bytes: &mut &[u8]) -> Micros {
    take(bytes, size_of::<Micros>()).try_into().map_or(0, Micros::from_le_bytes)
}

/// The values one key had.
#[derive(Debug, Default)]
pub struct Seen<'b> {
    values: Vec<(&'b [u8], Micros)>,
}

impl<'b> Seen<'b> {
    /// Reads them from a key's state.
    pub fn read(mut bytes: &'b [u8]) -> Self {
        let mut values = Vec::new();
        while !bytes.is_empty() {
            let len = length(take_number(&mut bytes));
            let value = take(&mut bytes, len);
            values.push((value, take_time(&mut bytes)));
        }
        Self { values }
    }

    /// Writes them for a key's state.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (value, seen) in &self.values {
            put_number(&mut out, number(value.len()));
            out.extend_from_slice(value);
            out.extend_from_slice(&seen.to_le_bytes());
        }
        out
    }

    /// Learns `value`; whether it is new to a key that has had others.
    pub fn learn(&mut self, value: &'b [u8], time: Micros) -> bool {
        self.values.retain(|(_, seen)| time.saturating_sub(*seen) <= FORGET);
        if let Some((_, seen)) = self.values.iter_mut().find(|(known, _)| *known == value) {
            *seen = (*seen).max(time);
            return false;
        }
        if self.values.len() >= VALUES_MAX {
            let oldest = self.values.iter().enumerate().min_by_key(|(_, (_, seen))| *seen);
            if let Some((index, _)) = oldest {
                self.values.swap_remove(index);
            }
        }
        let first = self.values.is_empty();
        self.values.push((value, time));
        !first
    }
}

/// The hours of the day at which one key is active.
#[derive(Debug, Clone, Default)]
pub struct Hours {
    counts: [u32; 24],
    /// Bit i: the i-th of them is more than 0.
    active: u32,
    /// Day number on which each hour was last seen.
    seen: [i32; 24],
    /// Bit i: active i days before `newest_day`.
    days: u128,
    newest_day: i32,
    /// It has had an event.
    begun: bool,
}

impl Hours {
    /// Reads them from a key's state.
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut hours = Self { begun: !bytes.is_empty(), ..Self::default() };
        let day = u32::try_from(take_number(&mut bytes));
        hours.newest_day = day.map_or(i32::MAX, u32::cast_signed);
        let low = take_number(&mut bytes);
        hours.days = u128::from(take_number(&mut bytes)) << 64 | u128::from(low);
        while let Some((hour, rest)) = bytes.split_first() {
            bytes = rest;
            let (count, ago) = (take_number(&mut bytes), take_number(&mut bytes));
            let hour = usize::from(*hour);
            if let (Some(own), Some(seen)) = (hours.counts.get_mut(hour), hours.seen.get_mut(hour))
            {
                *own = u32::try_from(count).unwrap_or(u32::MAX);
                hours.active = hours.active & !(1 << hour) | u32::from(*own > 0) << hour;
                *seen = hours.newest_day.saturating_sub(i32::try_from(ago).unwrap_or(i32::MAX));
            }
        }
        hours
    }

    /// Writes them for a key's state.
    pub fn write(&self, out: &mut Vec<u8>) {
        put_number(out, u64::from(self.newest_day.cast_unsigned()));
        put_number(out, self.days as u64);
        put_number(out, (self.days >> 64) as u64);
        for hour in self.active() {
            let (Some(count), Some(seen)) = (self.counts.get(hour), self.seen.get(hour)) else {
                continue;
            };
            out.push(u8::try_from(hour).unwrap_or(0));
            put_number(out, u64::from(*count));
            let ago = self.newest_day.saturating_sub(*seen);
            put_number(out, u64::try_from(ago).unwrap_or(0));
        }
    }

    /// The hours with a count, ascending: most keys have few.
    fn active(&self) -> impl Iterator<Item = usize> + use<> {
        let mut left = self.active;
        std::iter::from_fn(move || {
            let hour = left.trailing_zeros() as usize;
            left &= left.checked_sub(1)?;
            Some(hour)
        })
    }

    /// Learns an event; whether its hour was unusual before.
    pub fn learn(&mut self, time: Micros, spec: &UnusualSpec) -> bool {
        let day = i32::try_from(time.div_euclid(DAY)).unwrap_or(i32::MAX);
        let hour = usize::try_from(time.rem_euclid(DAY) / (DAY / 24)).unwrap_or(0).min(23);
        if !self.begun {
            self.newest_day = day;
        }
        let forget = i32::try_from(FORGET / DAY).unwrap_or(90);
        for hour in self.active() {
            if let (Some(count), Some(seen)) = (self.counts.get_mut(hour), self.seen.get(hour))
                && day.saturating_sub(*seen) > forget
            {
                *count = 0;
                self.active &= !(1 << hour);
            }
        }
        let unusual = self.begun && self.is_unusual(hour, day, spec);
        self.add(hour, day);
        self.begun = true;
        unusual
    }

    fn is_unusual(&self, hour: usize, day: i32, spec: &UnusualSpec) -> bool {
        let total: u64 = self.counts.iter().map(|n| u64::from(*n)).sum();
        let around = [(hour + 23) % 24, hour, (hour + 1) % 24];
        let near: u64 =
            around.iter().filter_map(|h| self.counts.get(*h)).map(|n| u64::from(*n)).sum();
        // Days that lie more than the time of forgetting back are no longer known.
        let shift = u32::try_from(day.saturating_sub(self.newest_day)).unwrap_or(0);
        let known = self.days.checked_shl(shift).unwrap_or(0) & ((1u128 << 91) - 1);
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let share = near as f64 / total.max(1) as f64;
        total >= u64::from(spec.min_events)
            && known.count_ones() >= spec.min_days
            && share < spec.rarity
    }

    fn add(&mut self, hour: usize, day: i32) {
        if let (Some(count), Some(seen)) = (self.counts.get_mut(hour), self.seen.get_mut(hour)) {
            *count = count.saturating_add(1);
            self.active |= 1 << hour;
            *seen = (*seen).max(day);
        }
        let ahead = day.saturating_sub(self.newest_day);
        if ahead > 0 {
            self.days = self.days.checked_shl(ahead.unsigned_abs()).unwrap_or(0) | 1;
            self.newest_day = day;
        } else {
            self.days |= 1u128.checked_shl(ahead.unsigned_abs()).unwrap_or(0);
        }
    }
}

/// A value as it is [kept](pack), and its hash.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'p> {
    bytes: &'p [u8],
    hash: u64,
}

/// Values that are foreseen at once.
const FORESEEN_MAX: usize = 256;
/// So many of them are compared with one that is asked for.
const SKIPPED_MAX: usize = 4;

/// Packs values, each once, although it is asked about several times in a row and may have been foreseen.
#[derive(Debug, Default)]
pub struct Packing {
    seed: Seed,
    /// Those that are foreseen, in their order.
    ahead: Vec<Foreseen>,
    /// How many there are, and the one that was asked for last.
    foreseen: usize,
    at: usize,
    /// The last that was not among them.
    other: Foreseen,
}

#[derive(Debug, Default)]
struct Foreseen {
    value: Vec<u8>,
    packed: Vec<u8>,
    hash: u64,
}

impl Foreseen {
    fn fill(&mut self, value: &[u8], seed: &Seed) {
        self.value.clear();
        self.value.extend_from_slice(value);
        pack(value, &mut self.packed);
        self.hash = seed.hash(0, &self.packed);
    }

    fn packed(&self) -> Packed<'_> {
        Packed { bytes: &self.packed, hash: self.hash }
    }
}

impl Packing {
    /// What its hashes begin with; the tables that are asked for its values must know.
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// Forgets what was foreseen.
    pub fn begin(&mut self) {
        (self.foreseen, self.at) = (0, 0);
    }

    /// Foresees a value, behind the others; its hash, or nothing if there are too many.
    pub fn foresee(&mut self, value: &[u8]) -> Option<u64> {
        if self.foreseen == self.ahead.len() && self.foreseen < FORESEEN_MAX {
            self.ahead.push(Foreseen::default());
        }
        let one = self.ahead.get_mut(self.foreseen)?;
        self.foreseen += 1;
        one.fill(value, &self.seed);
        Some(one.hash)
    }

    /// A value as it is kept.
    pub fn of(&mut self, value: &[u8]) -> Packed<'_> {
        let ahead = self.ahead.get(self.at..self.foreseen).unwrap_or_default();
        let found = ahead.iter().take(SKIPPED_MAX).position(|one| one.value == value);
        self.at += found.unwrap_or(0);
        let one = match self.ahead.get(self.at).filter(|_| found.is_some()) {
            Some(one) => one,
            None => {
                // Nothing is packed as nothing.
                if self.other.packed.is_empty() || self.other.value != value {
                    self.other.fill(value, &self.seed);
                }
                &self.other
            }
        };
        one.packed()
    }
}

/// Writes a value as it is kept where there are very many: ids take half of what their text takes.
fn pack(value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let (role, text) = value.split_at(value.len().min(1));
    out.extend_from_slice(role);
    put_text_of(out, text);
}

/// The value that [`pack`] wrote.
fn unpacked(packed: &[u8]) -> Vec<u8> {
    let (role, text) = packed.split_at(packed.len().min(1));
    [role, codec::text(text).as_bytes()].concat()
}

/// Values known to the whole stream, for `new(field)`.
#[derive(Debug)]
pub struct Known {
    /// As they are [kept](pack).
    values: HashTable<(Short, Micros)>,
    seed: Seed,
    swept: Option<Micros>,
    bytes: usize,
}

/// Bytes counted for a value as it is kept.
fn known_bytes(value: &Short) -> usize {
    place_bytes(size_of::<(Short, Micros)>()) + value.beside()
}

impl Known {
    /// None yet; `seed` is that of the [`Packing`].
    pub fn new(seed: &Seed) -> Self {
        Self { values: HashTable::new(), seed: seed.clone(), swept: None, bytes: 0 }
    }

    /// Reads where a value with this hash is, so that it is at hand later; what is read means nothing.
    pub fn touch(&self, hash: u64) -> usize {
        self.values.find(hash, |_| true).map_or(0, |(value, _)| value.len())
    }

    /// Learns `value`; whether it was unknown.
    pub fn learn(&mut self, value: Packed<'_>, time: Micros) -> bool {
        if self.swept.is_none_or(|last| time.saturating_sub(last) > DAY) {
            self.swept = Some(time);
            self.retain(|seen| time.saturating_sub(seen) <= FORGET);
        }
        match self.values.find_mut(value.hash, |(known, _)| **known == *value.bytes) {
            Some((_, seen)) if time.saturating_sub(*seen) <= FORGET => {
                *seen = (*seen).max(time);
                false
            }
            Some((_, seen)) => {
                *seen = time;
                true
            }
            None => {
                self.insert(value, time);
                true
            }
        }
    }

    fn insert(&mut self, value: Packed<'_>, time: Micros) {
        let short = Short::from(value.bytes);
        self.bytes += known_bytes(&short);
        let seed = &self.seed;
        self.values.insert_unique(value.hash, (short, time), |(known, _)| seed.hash(0, known));
    }

    /// Writes them.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_option(out, self.swept, put_time);
        put_number(out, number(self.values.len()));
        for (value, seen) in &self.values {
            put_bytes(out, &unpacked(value));
            put_time(out, *seen);
        }
    }

    /// Reads them as they were written.
    pub fn restore(from: &mut Reader<'_>, packing: &mut Packing) -> Option<Self> {
        let swept = from.option(Reader::time)?;
        let mut known = Self { swept, ..Self::new(packing.seed()) };
        for _ in 0..from.number()? {
            let value = packing.of(from.bytes()?);
            // Of two that are the same, the later holds.
            let time = from.time()?;
            match known.values.find_mut(value.hash, |(known, _)| **known == *value.bytes) {
                Some((_, seen)) => *seen = time,
                None => known.insert(value, time),
            }
        }
        Some(known)
    }

    fn retain(&mut self, keep: impl Fn(Micros) -> bool) {
        let bytes = &mut self.bytes;
        self.values.retain(|(value, seen)| {
            let keep = keep(*seen);
            if !keep {
                *bytes -= known_bytes(value);
            }
            keep
        });
    }

    /// Gives up the half that was unseen longest if it takes more than `limit` counted bytes; how
    /// many values. What is given up counts as new again: that can only raise an alert too many.
    pub fn keep_below(&mut self, limit: usize) -> u64 {
        if self.bytes <= limit {
            return 0;
        }
        let mut seen: Vec<Micros> = self.values.iter().map(|(_, seen)| *seen).collect();
        let middle = seen.len() / 2;
        let (_, median, _) = seen.select_nth_unstable(middle);
        let median = *median;
        let before = self.values.len();
        self.retain(|seen| seen > median);
        number(before - self.values.len())
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The addresses from which accounts logged in: each with its length before it.
#[derive(Debug)]
pub struct Addresses {
    /// Accounts as they are [kept](pack), each with its addresses.
    by_account: HashTable<(Short, Short)>,
    seed: Seed,
    bytes: usize,
    /// Bytes beyond which no account is taken in and of the others only the newest address is kept.
    room: usize,
}

fn octets(ip: IpAddr) -> ([u8; 17], usize) {
    let mut written = [0; 17];
    let octets: &[u8] = match &ip {
        IpAddr::V4(ip) => &ip.octets(),
        IpAddr::V6(ip) => &ip.octets(),
    };
    for (to, from) in
        written.iter_mut().zip([u8::try_from(octets.len()).unwrap_or(0)].iter().chain(octets))
    {
        *to = *from;
    }
    (written, octets.len() + 1)
}

/// Each address as written.
fn each(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = usize::from(*bytes.first()?) + 1;
        Some(take(&mut bytes, len))
    })
}

/// Bytes counted for an account as it is kept, and its addresses.
fn account_bytes(account: &Short, list: &Short) -> usize {
    place_bytes(size_of::<(Short, Short)>()) + account.beside() + list.beside()
}

impl Addresses {
    /// None yet; `seed` is that of the [`Packing`], `room` how many bytes they may take.
    pub fn new(seed: &Seed, room: usize) -> Self {
        Self { by_account: HashTable::new(), seed: seed.clone(), bytes: 0, room }
    }

    /// Reads where an account with this hash is, so that it is at hand later; what is read means nothing.
    pub fn touch(&self, hash: u64) -> usize {
        self.by_account.find(hash, |_| true).map_or(0, |(account, list)| account.len() ^ list.len())
    }

    /// Learns a login; the newest stands last.
    pub fn learn(&mut self, account: Packed<'_>, ip: IpAddr) {
        let (written, len) = octets(ip);
        let written = written.get(..len).unwrap_or_default();
        let same = |(known, _): &(Short, Short)| **known == *account.bytes;
        let Some((_, known)) = self.by_account.find_mut(account.hash, same) else {
            if self.by_account.len() < ACCOUNTS_MAX && self.bytes < self.room {
                self.insert(account, written);
            }
            return;
        };
        if known.ends_with(written) && each(known).last() == Some(written) {
            return;
        }
        let others = || each(known).filter(|other| *other != written);
        let most = if self.bytes < self.room { ADDRESSES_MAX } else { 1 };
        let oldest = others().count().saturating_sub(most - 1);
        let mut list = Vec::with_capacity(known.len() + len);
        others().skip(oldest).for_each(|other| list.extend_from_slice(other));
        list.extend_from_slice(written);
        let list = Short::from(list.as_slice());
        self.bytes = self.bytes + list.beside() - known.beside();
        *known = list;
    }

    fn insert(&mut self, account: Packed<'_>, list: &[u8]) {
        let (short, list) = (Short::from(account.bytes), Short::from(list));
        self.bytes += account_bytes(&short, &list);
        let seed = &self.seed;
        let hash = |(known, _): &(Short, Short)| seed.hash(0, known);
        self.by_account.insert_unique(account.hash, (short, list), hash);
    }

    /// Writes them.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.by_account.len()));
        for (account, list) in &self.by_account {
            put_bytes(out, &unpacked(account));
            put_bytes(out, list);
        }
    }

    /// Reads them as they were written.
    pub fn restore(from: &mut Reader<'_>, packing: &mut Packing, room: usize) -> Option<Self> {
        let mut addresses = Self::new(packing.seed(), room);
        for _ in 0..from.number()? {
            let (account, list) = (packing.of(from.bytes()?), from.bytes()?);
            let same = |(known, _): &(Short, Short)| **known == *account.bytes;
            // Of two that are the same, the later holds.
            match addresses.by_account.find_mut(account.hash, same) {
                Some((_, known)) => {
                    let list = Short::from(list);
                    addresses.bytes = addresses.bytes + list.beside() - known.beside();
                    *known = list;
                }
                None => addresses.insert(account, list),
            }
        }
        Some(addresses)
    }

    /// The addresses of an account, the newest first.
    pub fn of(&self, account: &[u8]) -> Vec<String> {
        let mut packed = Vec::new();
        pack(account, &mut packed);
        let same = |(known, _): &(Short, Short)| **known == *packed;
        let known = self.by_account.find(self.seed.hash(0, &packed), same);
        let known = known.map(|(_, known)| &**known).unwrap_or_default();
        let ip = |written: &[u8]| -> Option<IpAddr> {
            let octets = written.get(1..)?;
            let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))
        };
        let mut shown: Vec<String> = each(known).filter_map(ip).map(addr::text).collect();
        shown.reverse();
        shown
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_learnt_in_silence_and_old_ones_are_forgotten() {
        let mut state = Vec::new();
        let mut learn = |value: &str, time: Micros| {
            let mut seen = Seen::read(&state);
            let fires = seen.learn(value.as_bytes(), time);
            state = seen.write();
            fires
        };
        assert!(!learn("DE", 0));
        assert!(!learn("DE", DAY));
        assert!(learn("BR", 2 * DAY));
        assert!(!learn("BR", 3 * DAY));
        // DE was last seen on day 1 and is forgotten by day 92; BR is not.
        assert!(learn("DE", 92 * DAY));
        // Everything forgotten: the next value is the first again.
        assert!(!learn("FR", 300 * DAY));
    }

    #[test]
    fn hours_need_twenty_events_on_seven_days() {
        let spec = UnusualSpec::default();
        let mut hours = Hours::default();
        let at = |day: i64, hour: i64| day * DAY + hour * (DAY / 24);
        for day in 0..7 {
            for n in 0..3 {
                assert!(!hours.learn(at(day, 9) + n, &spec));
            }
        }
        assert!(!hours.clone().learn(at(8, 10), &spec), "within one hour of nine");
        assert!(hours.clone().learn(at(8, 3), &spec), "three in the night");
        let mut few_days = Hours::default();
        for n in 0..30 {
            assert!(!few_days.learn(at(n % 6, 9), &spec));
        }
        assert!(!few_days.learn(at(6, 3), &spec));
        let mut written = Vec::new();
        hours.write(&mut written);
        let read = Hours::read(&written);
        assert_eq!((read.counts, read.days, read.begun), (hours.counts, hours.days, true));
        assert!(read.clone().learn(at(8, 3), &spec), "as it was before it was written");
        assert!(written.len() < 12, "{}", written.len());
        assert!(!hours.learn(at(300, 3), &spec), "after the time of forgetting nothing is known");
    }

    #[test]
    fn known_values_stay_below_their_share() {
        let mut packing = Packing::default();
        let mut known = Known::new(packing.seed());
        for n in 0..1000 {
            assert!(known.learn(packing.of(n.to_string().as_bytes()), n));
        }
        let limit = known.bytes() / 4 * 3;
        let given_up = known.keep_below(limit);
        assert!(given_up >= 500 && known.bytes() <= limit, "{given_up}");
        assert!(!known.learn(packing.of(b"999"), 1001), "the newest stay");
        assert!(known.learn(packing.of(b"0"), 1001), "the oldest went");
        assert_eq!(known.keep_below(limit), 0);
    }

    #[test]
    fn what_is_known_is_captured_as_it_came_in_and_kept_in_half_the_bytes() {
        let values: [&[u8]; 3] =
            [b"\x0138297f77-ae4b-4c1d-9f00-86754d0a8aa4", b"\x00a@example.org", b"\x02"];
        let mut packing = Packing::default();
        let seed = packing.seed().clone();
        let (mut known, mut addresses) = (Known::new(&seed), Addresses::new(&seed, usize::MAX));
        for value in values {
            assert!(known.learn(packing.of(value), 7));
            addresses.learn(packing.of(value), IpAddr::from([192, 0, 2, 1]));
        }
        assert!(known.values.iter().all(|(kept, _)| kept.len() <= 18), "{known:?}");
        let (mut one, mut two) = (Vec::new(), Vec::new());
        known.capture(&mut one);
        addresses.capture(&mut two);
        for value in values {
            let there = |out: &[u8]| out.windows(value.len()).any(|part| part == value);
            assert!(there(&one) && there(&two));
        }
        let mut again = Known::restore(&mut Reader::new(&one), &mut packing).unwrap();
        fn sorted<V: Clone + Ord>(table: &HashTable<(Short, V)>) -> Vec<(Vec<u8>, V)> {
            let mut all: Vec<_> = table.iter().map(|(k, v)| (k.to_vec(), v.clone())).collect();
            all.sort();
            all
        }
        assert_eq!((sorted(&again.values), again.bytes), (sorted(&known.values), known.bytes));
        for value in values {
            assert!(!again.learn(packing.of(value), 7));
        }
        let again = Addresses::restore(&mut Reader::new(&two), &mut packing, usize::MAX).unwrap();
        assert_eq!(again.bytes, addresses.bytes);
        for value in values {
            assert_eq!(again.of(value), ["192.0.2.1"]);
        }
    }

    #[test]
    fn a_value_is_packed_alike_whether_it_was_foreseen_or_not() {
        let mut packing = Packing::default();
        let value = |n: usize| format!("\x01user{n}").into_bytes();
        for round in 0..3 {
            packing.begin();
            for n in 0..40 {
                packing.foresee(&value(n + round));
            }
            // Some are asked for twice, some not at all, some were not foreseen, and once too many are passed.
            for n in [0, 0, 1, 3, 99, 3, 4, 7, 20, 21, 0] {
                let mut packed = Vec::new();
                pack(&value(n), &mut packed);
                let hash = packing.seed().hash(0, &packed);
                let found = packing.of(&value(n));
                assert_eq!((found.bytes, found.hash), (packed.as_slice(), hash), "{n}");
            }
        }
        let mut nothing = Vec::new();
        pack(b"", &mut nothing);
        assert_eq!(Packing::default().of(b"").bytes, nothing);
    }

    #[test]
    fn addresses_keep_the_newest_eight() {
        let mut packing = Packing::default();
        let mut addresses = Addresses::new(packing.seed(), usize::MAX);
        for n in 1..=10u8 {
            addresses.learn(packing.of(b"u"), IpAddr::from([192, 0, 2, n]));
        }
        let known = addresses.of(b"u");
        assert_eq!(known.len(), 8);
        assert_eq!(known[0], "192.0.2.10");
    }
}
