//! What is usual for a key: values it had, hours at which it is active. Learnt in arrival order.

use super::rule::UnusualSpec;
use crate::decode::time::Micros;
use crate::window::distinct::Value;
use std::collections::HashMap;
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

/// The values one key had.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    values: Vec<(Value, Micros)>,
}

impl Seen {
    /// Learns `value`; whether it is new to a key that has had others.
    pub fn learn(&mut self, value: &Value, time: Micros) -> bool {
        self.values.retain(|(_, seen)| time.saturating_sub(*seen) <= FORGET);
        if let Some((_, seen)) = self.values.iter_mut().find(|(known, _)| known == value) {
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
        self.values.push((value.clone(), time));
        !first
    }

    /// When a value was last seen.
    pub fn newest(&self) -> Option<Micros> {
        self.values.iter().map(|(_, seen)| *seen).max()
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.values
            .iter()
            .map(|((_, text), _)| size_of::<(Value, Micros)>() + text.len() + 16)
            .sum()
    }
}

/// The hours of the day at which one key is active.
#[derive(Debug, Clone, Default)]
pub struct Hours {
    counts: [u32; 24],
    /// Day number on which each hour was last seen.
    seen: [i32; 24],
    /// Bit i: active i days before `newest_day`.
    days: u128,
    newest_day: i32,
    newest: Option<Micros>,
}

impl Hours {
    /// Learns an event; whether its hour was unusual before.
    pub fn learn(&mut self, time: Micros, spec: &UnusualSpec) -> bool {
        let day = i32::try_from(time.div_euclid(DAY)).unwrap_or(i32::MAX);
        let hour = usize::try_from(time.rem_euclid(DAY) / (DAY / 24)).unwrap_or(0).min(23);
        if self.newest.is_none() {
            self.newest_day = day;
        }
        let forget = i32::try_from(FORGET / DAY).unwrap_or(90);
        for (count, seen) in self.counts.iter_mut().zip(&self.seen) {
            if *count > 0 && day.saturating_sub(*seen) > forget {
                *count = 0;
            }
        }
        let unusual = self.newest.is_some() && self.is_unusual(hour, day, spec);
        self.add(hour, day);
        self.newest = self.newest.max(Some(time));
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

    /// The newest event.
    pub fn newest(&self) -> Option<Micros> {
        self.newest
    }
}

/// Values known to the whole stream, for `new(field)`.
#[derive(Debug, Clone, Default)]
pub struct Known {
    values: HashMap<Value, Micros>,
    swept: Option<Micros>,
}

impl Known {
    /// Learns `value`; whether it was unknown.
    pub fn learn(&mut self, value: &Value, time: Micros) -> bool {
        if self.swept.is_none_or(|last| time.saturating_sub(last) > DAY) {
            self.swept = Some(time);
            self.values.retain(|_, seen| time.saturating_sub(*seen) <= FORGET);
        }
        match self.values.get_mut(value) {
            Some(seen) if time.saturating_sub(*seen) <= FORGET => {
                *seen = (*seen).max(time);
                false
            }
            Some(seen) => {
                *seen = time;
                true
            }
            None => {
                self.values.insert(value.clone(), time);
                true
            }
        }
    }

    /// Gives up the half that was unseen longest if it takes more than `limit` counted bytes; how
    /// many values. What is given up counts as new again: that can only raise an alert too many.
    pub fn keep_below(&mut self, limit: usize) -> u64 {
        if self.bytes() <= limit {
            return 0;
        }
        let mut seen: Vec<Micros> = self.values.values().copied().collect();
        let middle = seen.len() / 2;
        let (_, median, _) = seen.select_nth_unstable(middle);
        let median = *median;
        let before = self.values.len();
        self.values.retain(|_, seen| *seen > median);
        u64::try_from(before - self.values.len()).unwrap_or(0)
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.values.len() * (size_of::<(Value, Micros)>() + 48)
    }
}

/// The addresses from which accounts logged in.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    by_account: HashMap<Value, Vec<IpAddr>>,
}

impl Addresses {
    /// Learns a login; the newest stands last.
    pub fn learn(&mut self, account: &Value, ip: IpAddr) {
        if self.by_account.len() >= ACCOUNTS_MAX && !self.by_account.contains_key(account) {
            return;
        }
        let known = self.by_account.entry(account.clone()).or_default();
        known.retain(|other| *other != ip);
        if known.len() >= ADDRESSES_MAX {
            known.remove(0);
        }
        known.push(ip);
    }

    /// The addresses of an account, the newest first.
    pub fn of(&self, account: &Value) -> Vec<String> {
        let known = self.by_account.get(account).map(Vec::as_slice).unwrap_or_default();
        known.iter().rev().map(ToString::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn value(text: &str) -> Value {
        (0, Arc::from(text))
    }

    #[test]
    fn the_first_value_is_learnt_in_silence_and_old_ones_are_forgotten() {
        let mut seen = Seen::default();
        assert!(!seen.learn(&value("DE"), 0));
        assert!(!seen.learn(&value("DE"), DAY));
        assert!(seen.learn(&value("BR"), 2 * DAY));
        assert!(!seen.learn(&value("BR"), 3 * DAY));
        // DE was last seen on day 1 and is forgotten by day 92; BR is not.
        assert!(seen.learn(&value("DE"), 92 * DAY));
        // Everything forgotten: the next value is the first again.
        assert!(!seen.learn(&value("FR"), 300 * DAY));
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
        assert!(!hours.learn(at(300, 3), &spec), "after the time of forgetting nothing is known");
    }

    #[test]
    fn known_values_stay_below_their_share() {
        let mut known = Known::default();
        for n in 0..1000 {
            assert!(known.learn(&value(&n.to_string()), n));
        }
        let limit = known.bytes() / 4 * 3;
        let given_up = known.keep_below(limit);
        assert!(given_up >= 500 && known.bytes() <= limit, "{given_up}");
        assert!(!known.learn(&value("999"), 1001), "the newest stay");
        assert!(known.learn(&value("0"), 1001), "the oldest went");
        assert_eq!(known.keep_below(limit), 0);
    }

    #[test]
    fn addresses_keep_the_newest_eight() {
        let mut addresses = Addresses::default();
        for n in 1..=10u8 {
            addresses.learn(&value("u"), IpAddr::from([192, 0, 2, n]));
        }
        let known = addresses.of(&value("u"));
        assert_eq!(known.len(), 8);
        assert_eq!(known[0], "192.0.2.10");
    }
}
