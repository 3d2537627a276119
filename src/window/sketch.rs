//! What was given up, as upper bounds: count-min sketches with conservative update.
//!
//! A sketch never says less than there was. What it says too much is little as long as its counters
//! are not fewer than the events it was given; it is the same for the same input, since the hash is
//! [fixed](super::key::Key::fixed_hash).

use super::codec::{Reader, length, number, put_number, put_time};
use crate::decode::time::Micros;

/// Counters that an event is put into.
const ROWS: u64 = 3;
/// Generations at most: what a window overlaps of pieces half as long.
pub const GENERATIONS: usize = 3;

/// More than any rule counts to.
pub const UNKNOWN: u64 = 1 << 40;

/// Events whose times lie in one piece of time.
#[derive(Debug)]
struct Generation {
    index: i64,
    newest: Micros,
    counters: Vec<u16>,
}

/// The events given up of all windows of one length.
#[derive(Debug)]
pub struct Sketch {
    within: Micros,
    /// Length of the piece of time that a generation holds.
    piece: Micros,
    counters: usize,
    generations: Vec<Generation>,
}

fn places(hash: u64, counters: usize) -> impl Iterator<Item = usize> {
    (1..=ROWS).map(move |row| {
        let mut mixed = hash ^ row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let scaled = (u128::from(mixed) * number(counters) as u128) >> 64;
        length(u64::try_from(scaled).unwrap_or(0))
    })
}

impl Sketch {
    /// An empty sketch for windows `within` long of records up to `lateness` late, both in
    /// microseconds, that takes at most `bytes`.
    pub fn new(within: Micros, lateness: Micros, bytes: usize) -> Self {
        Self {
            within,
            piece: (within.saturating_add(lateness) / 2).max(1),
            counters: (bytes / GENERATIONS / size_of::<u16>()).max(1),
            generations: Vec::new(),
        }
    }

    /// Notes an event of weight `weight` at `time`.
    pub fn add(&mut self, hash: u64, time: Micros, weight: u32, clock: Option<Micros>) {
        // A time ahead of the clock is put into the piece of now, which is then kept longer.
        let index = time.min(clock.unwrap_or(time)).div_euclid(self.piece);
        let known = self.generations.iter().position(|one| one.index == index);
        let at = known.unwrap_or_else(|| {
            if self.generations.len() < GENERATIONS {
                let counters = vec![0; self.counters];
                self.generations.push(Generation { index, newest: time, counters });
            }
            // What has no piece of its own is kept as long as the newest.
            let newest = self.generations.iter().enumerate().max_by_key(|(_, one)| one.newest);
            let own = self.generations.iter().position(|one| one.index == index);
            own.or(newest.map(|(at, _)| at)).unwrap_or(0)
        });
        let Some(generation) = self.generations.get_mut(at) else { return };
        generation.newest = generation.newest.max(time);
        let sum = u64::from(generation.least(hash)) + u64::from(weight);
        let sum = u16::try_from(sum).unwrap_or(u16::MAX);
        for place in places(hash, generation.counters.len()) {
            if let Some(counter) = generation.counters.get_mut(place) {
                *counter = (*counter).max(sum);
            }
        }
    }

    /// At most so much weight was given up of a key in the window that ends at `time`, and not less
    /// than was. A counter that is full says nothing any more: then it is [`UNKNOWN`] or more.
    pub fn estimate(&self, hash: u64, time: Micros) -> u64 {
        let start = time.saturating_sub(self.within);
        let live = self.generations.iter().filter(|one| one.newest > start);
        live.map(|one| match one.least(hash) {
            u16::MAX => UNKNOWN,
            least => u64::from(least),
        })
        .sum()
    }

    /// Drops what no window reaches that can still come.
    pub fn expire(&mut self, horizon: Micros) {
        self.generations.retain(|one| one.newest > horizon.saturating_sub(self.within));
    }

    /// Writes what was given up.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.generations.len()));
        for one in &self.generations {
            put_time(out, one.index);
            put_time(out, one.newest);
            put_number(out, number(one.counters.len()));
            out.extend(one.counters.iter().flat_map(|counter| counter.to_le_bytes()));
        }
    }

    /// Reads it as it was written.
    pub fn restore(from: &mut Reader<'_>) -> Option<Self> {
        let mut sketch = Self::new(0, 0, 0);
        for _ in 0..from.number()? {
            let (index, newest) = (from.time()?, from.time()?);
            let len: usize = from.narrow()?;
            let bytes = from.take(len.checked_mul(size_of::<u16>())?)?;
            let pairs = bytes.as_chunks::<2>().0.iter();
            let counters = pairs.map(|pair| u16::from_le_bytes(*pair)).collect();
            sketch.generations.push(Generation { index, newest, counters });
        }
        Some(sketch)
    }

    /// Takes over what another one of this length of windows was given. Where the numbers of
    /// counters differ, hashes point elsewhere: that would be too low, so then every counter says
    /// what the highest said.
    pub fn take_over(&mut self, other: Self) {
        self.generations = other.generations;
        for one in &mut self.generations {
            if one.counters.len() != self.counters {
                let most = one.counters.iter().max().copied().unwrap_or(0);
                one.counters = vec![most; self.counters];
            }
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.generations.is_empty()
    }

    /// Bytes that it takes now.
    pub fn bytes(&self) -> usize {
        self.generations.iter().map(|one| size_of_val(&*one.counters)).sum()
    }
}

impl Generation {
    fn least(&self, hash: u64) -> u16 {
        let counters = places(hash, self.counters.len());
        counters.filter_map(|place| self.counters.get(place)).min().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_full_counter_is_no_bound() {
        let mut sketch = Sketch::new(100, 0, 1 << 12);
        for (weight, estimate) in [(65_000, 65_000), (534, 65_534), (1, UNKNOWN), (5, UNKNOWN)] {
            sketch.add(7, 10, weight, None);
            assert_eq!(sketch.estimate(7, 20), estimate);
        }
        assert_eq!(sketch.estimate(7, 200), 0);
    }

    proptest! {
        #[test]
        fn it_never_says_less_than_there_was(
            events in prop::collection::vec((0u64..50, 0i64..300, 1u32..4), 1..300),
            within in prop::sample::select(vec![10i64, 60, 100]),
        ) {
            // Few counters, so that keys collide.
            let mut sketch = Sketch::new(within, 20, 20 * 2 * GENERATIONS);
            let mut naive: HashMap<u64, Vec<(i64, u64)>> = HashMap::new();
            let mut events = events;
            events.sort_by_key(|(_, time, _)| *time);
            for (n, (key, time, weight)) in events.into_iter().enumerate() {
                let clock = time;
                // Some are late, some are ahead of the clock.
                let time = time + [0, -20, 0, 7, 500][n % 5] * i64::from(n % 3 == 0);
                sketch.expire(clock - 20);
                sketch.add(key, time, weight, Some(clock));
                naive.entry(key).or_default().push((time, u64::from(weight)));
                for (key, list) in &naive {
                    let inside = list.iter().filter(|(t, _)| *t > clock - within && *t <= clock);
                    let sum: u64 = inside.map(|(_, weight)| weight).sum();
                    prop_assert!(sketch.estimate(*key, clock) >= sum);
                }
            }
            prop_assert!(sketch.generations.len() <= GENERATIONS);
            sketch.expire(10_000);
            prop_assert!(sketch.is_empty() && sketch.bytes() == 0);
        }
    }

    #[test]
    fn with_room_it_says_little_too_much() {
        let mut sketch = Sketch::new(3600, 60, 3_000_000);
        for key in 0..100_000u64 {
            sketch.add(key << 32, 0, 1, None);
        }
        let wrong = (100_000..200_000u64).filter(|key| sketch.estimate(key << 32, 10) > 1).count();
        assert!(wrong < 50, "{wrong}");
    }
}
