//! The states of all keys, under a ceiling.
//!
//! The ceiling is enforced on counted bytes, not on what an allocator reports, so that what is
//! given up depends on the input alone; what is counted is what the table, the allocator and lists
//! that grow really take. Expired keys go first; then keys with one event, oldest first; then those
//! with few events before those with many, so that a flood cannot push out a key that is close to a
//! threshold; what took days to learn goes last. Giving up goes down to nine tenths, so that it does
//! not happen at every event, and what is given up lives on in a [`Sketch`].

mod capture;

pub use capture::{Moves, PartMove};

use super::codec::{Evidence, Kept, Parts, Shown};
use super::key::{Key, KeyKind};
use super::large::{Large, Once, Part, Window};
use super::marks::{self, Fired, Marks};
use super::ring::{self, Crossing, Timeline, ValueOf};
use super::sketch::Sketch;
use super::small;
use super::table::{LEARNT, Place, SHARDS, Slot, State, Table, seconds, shard_of};
use super::told::{Told, sum_up};
use super::{Cut, Fresh, Group, Span, Sums, What, Whole};
use crate::decode::time::Micros;

/// What a part of a state is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Events, shared by rules.
    Window(Group),
    /// Requests of which a line was counted.
    Once,
    /// What rules remember.
    Marks,
    /// Bytes that others write and read, and that took days to learn.
    Learnt,
}

/// A part that states may have. Its tag is its place in the store's list.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is.
    pub kind: Kind,
    /// How long it can matter after an event, microseconds.
    pub retention: Micros,
    /// It is counted per key, not for all together, so that its keys can be very many.
    pub many: bool,
}

/// Limits of a store.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that everything may take, as the user set them.
    pub memory: usize,
    /// How late an event may be, microseconds.
    pub lateness: Micros,
}

/// What the program takes beside its state: its own text, buffers, threads, and what the allocator
/// keeps in reserve. Of a small limit, an eighth.
const ALLOWANCE: usize = 64 << 20;
/// Weights of the keys by which they are given up: one event, two, up to four, eight and so on.
const CLASSES: usize = 10;
/// Pieces into which the ages of keys are divided.
const AGES: usize = 4096;
/// The longest time in which all shards are swept, and the shortest, microseconds.
const SWEEP: (Micros, Micros) = (60_000_000, 3_600_000_000);

/// When a shard must be looked through for what has expired; most times nothing can have.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// Keys that had no event yet, or none after 1970: at most so many.
    timeless: usize,
    /// No other key expires before this.
    first: Micros,
}

impl Default for Due {
    fn default() -> Self {
        // What is not known is looked at.
        Self { timeless: 0, first: Micros::MIN }
    }
}

/// All keys with their states.
#[derive(Debug)]
pub struct Store {
    specs: Vec<Spec>,
    /// Lengths of time that parts are kept, ascending.
    lengths: Vec<Micros>,
    /// The place of each part's retention among them, with [`LEARNT`].
    keeps: Vec<u8>,
    table: Table,
    kept: Kept,
    /// Counted bytes of the states.
    bytes: usize,
    limits: Limits,
    /// By length of windows.
    sketches: Vec<(Micros, Sketch)>,
    sweep_every: Micros,
    swept: Option<Micros>,
    /// By shard.
    due: Vec<Due>,
    /// The clock as it was last.
    clock: Option<Micros>,
    next_shard: usize,
    /// Lists that are used again for every event.
    written: Vec<u8>,
    room: Vec<u8>,
    /// Keys given up so far because of the ceiling.
    pub evicted: u64,
    capturing: Option<Box<capture::Capturing>>,
}

impl Store {
    /// An empty store for states with these parts.
    pub fn new(specs: Vec<Spec>, limits: Limits) -> Self {
        let mut lengths: Vec<Micros> = specs.iter().map(|spec| spec.retention).collect();
        lengths.sort_unstable();
        lengths.dedup();
        // There are fewer lengths than rules; past what a slot can name, the longest holds for all.
        lengths = lengths.split_off(lengths.len().saturating_sub(usize::from(LEARNT)));
        let keep = |spec: &Spec| {
            let at = lengths.partition_point(|length| *length < spec.retention);
            let learnt = if matches!(spec.kind, Kind::Learnt) { LEARNT } else { 0 };
            u8::try_from(at).unwrap_or(0) | learnt
        };
        let keeps = specs.iter().map(keep).collect();
        let windows = |spec: &&Spec| matches!(spec.kind, Kind::Window(_));
        let mut within: Vec<Micros> =
            specs.iter().filter(windows).filter(|spec| spec.many).map(|s| s.retention).collect();
        within.sort_unstable();
        within.dedup();
        let total: i128 = within.iter().map(|length| i128::from(*length)).sum();
        let share = |length: Micros| {
            let share = sketch_bytes(limits) as i128 * i128::from(length) / total.max(1);
            usize::try_from(share).unwrap_or(0)
        };
        let sketch = |length: Micros| Sketch::new(length, limits.lateness, share(length));
        let sketches = within.iter().map(|length| (*length, sketch(*length))).collect();
        let shortest = specs.iter().filter(windows).map(|spec| spec.retention).min().unwrap_or(0);
        Self {
            sweep_every: (shortest / 4).clamp(SWEEP.0, SWEEP.1) / SHARDS as i64,
            specs,
            lengths,
            keeps,
            table: Table::default(),
            kept: Kept::default(),
            bytes: 0,
            limits,
            sketches,
            swept: None,
            due: vec![Due::default(); SHARDS],
            clock: None,
            next_shard: 0,
            written: Vec::new(),
            room: Vec::new(),
            evicted: 0,
            capturing: None,
        }
    }

    /// Where a key's state is; it is made if there is none. Other places are then good no more if
    /// `true` comes with it and they are [near](Table::near).
    pub fn place(&mut self, key: Key<'_>) -> (Place, bool) {
        if self.capturing.is_some() {
            self.capture_before(shard_of(key));
        }
        let (place, new) = self.table.place(key);
        if new && let Some(slot) = self.table.get(place) {
            self.bytes += slot.state.bytes();
            if let Some(due) = self.due.get_mut(place.shard()) {
                due.timeless += 1;
            }
        }
        (place, new)
    }

    /// Where a key's state is, if it has one.
    pub fn find(&self, key: Key<'_>) -> Option<Place> {
        self.table.find(key)
    }

    /// Brings the keys near that will be asked for soon, in this order, as `keys` says them.
    pub fn foresee(&mut self, keys: impl FnOnce(&mut dyn FnMut(Key<'_>))) {
        self.table.forget_foreseen();
        keys(&mut |key| self.table.foresee(key));
        self.table.touch_foreseen();
    }

    fn group(&self, tag: u16) -> Option<&Group> {
        group(&self.specs, tag)
    }

    /// Notes that a key had an event at `time` that a part is about.
    pub fn touch(&mut self, place: Place, tag: u16, time: Micros) {
        let keep = self.keeps.get(usize::from(tag)).copied().unwrap_or(0);
        let due = self.due.get_mut(place.shard());
        if let (Some(slot), Some(due)) = (self.table.get_mut(place), due) {
            slot.touch(keep, time, &self.lengths, due);
        }
    }

    /// Puts an event into a window; bit i of what it gives: the i-th rule may now have enough,
    /// together with `estimate`. With it, what tells where a rule crosses that has enough alone, until
    /// events are used up. `clock` is the stream's, once there is one.
    pub fn insert(
        &mut self,
        place: Place,
        tag: u16,
        event: Fresh<'_>,
        (evidence, parts): (&Evidence<'_>, &mut Parts),
        clock: Option<Micros>,
        estimate: u64,
    ) -> (u32, Option<Whole>) {
        let Some(group) = group(&self.specs, tag) else { return (0, None) };
        let Some(slot) = self.table.get_mut(place) else { return (0, None) };
        let used = event.used | group.blind(evidence);
        self.written.clear();
        let shows = shows(group, slot.key_kind());
        let evidence = Evidence {
            user: evidence.user.filter(|_| shows.0),
            ip: evidence.ip.filter(|_| shows.1),
            ..*evidence
        };
        evidence.put(&mut self.written, &mut self.kept, parts);
        let event = Fresh { used, shown: &self.written, ..event };
        let horizon = clock.map(|clock| clock.saturating_sub(self.limits.lateness));
        let firsts = horizon.map(|horizon| horizon.saturating_sub(group.longest));
        let cut = Cut { firsts, completing: horizon };
        let before = slot.state.bytes();
        if let State::Small(block) = &slot.state
            && small::used(block) + event.shown.len() + 24 > small::BYTES_MAX
        {
            slot.enlarge(&self.specs);
        }
        let (mask, whole) = match &mut slot.state {
            State::Small(block) => {
                let later = seconds(event.time) > slot.newest;
                let room = &mut self.room;
                let (mask, change, whole) =
                    small::insert(block, tag, group, &event, cut, later, estimate, room);
                slot.change_events(change);
                if i32::from(slot.events) > small::EVENTS_MAX {
                    slot.enlarge(&self.specs);
                    (mask, None)
                } else {
                    (mask, whole)
                }
            }
            State::Large(large) => {
                let fresh = || Part::Window(Window::new(group));
                let mask = match large.part_mut(tag, fresh) {
                    Some(Part::Window(window)) => window.insert(group, &event, cut, estimate),
                    _ => 0,
                };
                slot.count();
                (mask, None)
            }
        };
        self.bytes = self.bytes - before + slot.state.bytes();
        let time = event.time;
        self.touch(place, tag, time);
        (mask, whole)
    }

    /// The earliest span that has enough for the rule in `slot` of a window and holds an event at
    /// `time`; of a sequence, one that this event completes or, with `is_first`, may be part of.
    pub fn crossing(
        &self,
        place: Place,
        tag: u16,
        rule: usize,
        time: Micros,
        is_first: bool,
    ) -> Option<Crossing> {
        let group = self.group(tag)?;
        let need = group.needs.get(rule)?;
        match &self.table.get(place)?.state {
            State::Small(block) => {
                let content = small::part(block, tag);
                if need.what == What::Count
                    && let Some(crossing) = small::counted_last(content, rule, need, time)
                {
                    return crossing;
                }
                let (firsts, completing) = small::lists(content, rule);
                match need.what {
                    What::Count => ring::counted(&firsts, rule, need, time, 0),
                    What::Distinct(of) => ring::distinct(&firsts, rule, need, of, time, 0),
                    What::Sequence => {
                        ring::completed(&firsts, &completing, rule, need, time, is_first)
                    }
                }
            }
            State::Large(large) => {
                let Some(Part::Window(window)) = large.part(tag) else { return None };
                let (firsts, completing, spent) = window.lists(rule);
                match need.what {
                    What::Count => ring::counted(firsts, rule, need, time, spent),
                    What::Distinct(of) => {
                        let start = time.saturating_sub(need.within);
                        let may = window.may_differ(rule, need.at_least, start);
                        may.then(|| ring::distinct(firsts, rule, need, of, time, spent)).flatten()
                    }
                    What::Sequence => {
                        ring::completed(firsts, completing?, rule, need, time, is_first)
                    }
                }
            }
        }
    }

    /// What an action may tell of a crossing, before its events are used up.
    pub fn told(&self, place: Place, tag: u16, rule: usize, crossing: &Crossing) -> Told {
        let of = self.tells_apart(tag, rule);
        match self.table.get(place).map(|slot| &slot.state) {
            Some(State::Small(block)) => Told::Written {
                content: small::part(block, tag).into(),
                rule,
                of,
                crossing: crossing.clone(),
                kept: self.kept.lists().clone(),
            },
            _ => {
                let (span, distinct) = self.span(place, tag, rule, crossing);
                Told::Ready(Box::new(span), distinct)
            }
        }
    }

    /// What the rule in a slot of a window tells apart.
    fn tells_apart(&self, tag: u16, rule: usize) -> Option<ValueOf> {
        match self.group(tag)?.needs.get(rule)?.what {
            What::Distinct(of) => Some(of),
            What::Count | What::Sequence => None,
        }
    }

    /// What a crossing holds that its rule has not used up, and how many different values.
    pub fn span(
        &self,
        place: Place,
        tag: u16,
        rule: usize,
        crossing: &Crossing,
    ) -> (Span, Option<u64>) {
        let of = self.tells_apart(tag, rule);
        let kept = self.kept.lists();
        match self.table.get(place).map(|slot| &slot.state) {
            Some(State::Small(block)) => {
                let (firsts, completing) = small::lists(small::part(block, tag), rule);
                sum_up(&firsts, Some(&completing), rule, of, crossing, kept)
            }
            Some(State::Large(large)) => match large.part(tag) {
                Some(Part::Window(window)) => {
                    let (firsts, completing, _) = window.lists(rule);
                    sum_up(firsts, completing, rule, of, crossing, kept)
                }
                _ => (Span::default(), None),
            },
            None => (Span::default(), None),
        }
    }

    /// The span of an event that fires by itself.
    pub fn alone(&self, time: Micros, evidence: &Evidence<'_>) -> Span {
        let mut written = Vec::new();
        let mut kept = Kept::default();
        evidence.put(&mut written, &mut kept, &mut Parts::default());
        let mut sums = Sums::new(time, 1);
        sums.add(time, 1, &Shown::read(&written));
        sums.span(kept.lists())
    }

    /// The span (time - within, time] of a rule, whether it has enough or not, and how much of what
    /// the rule counts it holds.
    pub fn recent(&self, place: Place, tag: u16, rule: usize, time: Micros) -> (Crossing, u64) {
        fn range<T: Timeline>(list: &T, within: Micros, time: Micros, open: bool) -> Crossing {
            let range = list.place(time.saturating_sub(within), false)..list.place(time, open);
            Crossing { time, range, completing: None }
        }
        let none = (Crossing { time, range: 0..0, completing: None }, 0);
        let Some(need) = self.group(tag).and_then(|group| group.needs.get(rule)) else {
            return none;
        };
        let open = need.what == What::Sequence;
        let crossing = match self.table.get(place).map(|slot| &slot.state) {
            Some(State::Small(block)) => {
                let (firsts, _) = small::lists(small::part(block, tag), rule);
                range(&firsts, need.within, time, open)
            }
            Some(State::Large(large)) => match large.part(tag) {
                Some(Part::Window(window)) => range(window.lists(rule).0, need.within, time, open),
                _ => return none,
            },
            None => return none,
        };
        let (span, distinct) = self.span(place, tag, rule, &crossing);
        (crossing, distinct.unwrap_or(span.count))
    }

    /// Whether the span (time - within, time] of a rule holds `enough` of what the rule counts.
    pub fn reaches(&self, place: Place, tag: u16, rule: usize, time: Micros, enough: u64) -> bool {
        if enough == 0 {
            return true;
        }
        if let Some(State::Large(large)) = self.table.get(place).map(|slot| &slot.state)
            && let Some(Part::Window(window)) = large.part(tag)
            && let Some(need) = self.group(tag).and_then(|group| group.needs.get(rule))
        {
            let start = time.saturating_sub(need.within);
            let (firsts, _, spent) = window.lists(rule);
            let open = need.what == What::Sequence;
            match need.what {
                What::Count | What::Sequence => {
                    let from = firsts.place(start, false).max(spent);
                    let range = from..firsts.place(time, open).max(from);
                    return ring::reaches(firsts, rule, range, enough);
                }
                What::Distinct(_) if !window.may_differ(rule, enough, start) => return false,
                What::Distinct(_) if window.differs(rule, enough, start, time) => return true,
                What::Distinct(_) => {}
            }
        }
        self.recent(place, tag, rule, time).1 >= enough
    }

    /// Uses the events of a crossing up for its rule.
    pub fn use_up(&mut self, place: Place, tag: u16, rule: usize, crossing: &Crossing) {
        let Some(group) = group(&self.specs, tag) else { return };
        let Some(slot) = self.table.get_mut(place) else { return };
        let before = slot.state.bytes();
        match &mut slot.state {
            State::Small(block) => {
                let change = small::use_up(block, tag, group, rule, crossing);
                slot.change_events(change);
            }
            State::Large(large) => {
                if let Some(Part::Window(window)) =
                    large.part_mut(tag, || Part::Window(Window::new(group)))
                {
                    window.use_up(group, rule, crossing);
                }
                slot.count();
            }
        }
        self.bytes = self.bytes - before + slot.state.bytes();
    }

    /// The bytes of a part that others write.
    pub fn read(&self, place: Place, tag: u16) -> &[u8] {
        match self.table.get(place).map(|slot| &slot.state) {
            Some(State::Small(block)) => small::part(block, tag),
            Some(State::Large(large)) => match large.part(tag) {
                Some(Part::Bytes(bytes)) => bytes,
                _ => &[],
            },
            None => &[],
        }
    }

    /// Writes the bytes of a part.
    pub fn write(&mut self, place: Place, tag: u16, content: &[u8]) {
        let Some(slot) = self.table.get_mut(place) else { return };
        let before = slot.state.bytes();
        if let State::Small(block) = &slot.state
            && small::used(block) + content.len() + 8 > small::BYTES_MAX
        {
            slot.enlarge(&self.specs);
        }
        match &mut slot.state {
            State::Small(block) => small::put(block, tag, content),
            State::Large(large) => {
                if let Some(Part::Bytes(bytes)) = large.part_mut(tag, || Part::Bytes(Vec::new())) {
                    *bytes = content.to_vec();
                }
            }
        }
        self.bytes = self.bytes - before + slot.state.bytes();
    }

    /// The minute of a rule's decision that a brake held back.
    pub fn braked(&self, place: Place, tag: u16, rule: usize) -> Option<i64> {
        match &self.table.get(place)?.state {
            State::Small(block) => marks::braked(small::part(block, tag), rule),
            State::Large(large) => match large.part(tag) {
                Some(Part::Marks(marks)) => marks.braked(rule),
                _ => None,
            },
        }
    }

    /// How often a rule fired at `at`.
    pub fn fired(&self, place: Place, tag: u16, rule: usize, at: Micros) -> u32 {
        match self.table.get(place).map(|slot| &slot.state) {
            Some(State::Small(block)) => marks::fired(small::part(block, tag), rule, at),
            Some(State::Large(large)) => match large.part(tag) {
                Some(Part::Marks(marks)) => marks.fired(rule, at),
                _ => 0,
            },
            None => 0,
        }
    }

    /// Notes that a rule fired.
    pub fn fire(&mut self, place: Place, tag: u16, fired: Fired) {
        let Some(slot) = self.table.get_mut(place) else { return };
        let before = slot.state.bytes();
        if let State::Small(block) = &mut slot.state {
            marks::fire(small::part(block, tag), fired, &mut self.written);
            small::put(block, tag, &self.written);
            if marks::written(&self.written) > marks::FEW || small::used(block) > small::BYTES_MAX {
                slot.enlarge(&self.specs);
            }
        } else if let State::Large(large) = &mut slot.state
            && let Some(Part::Marks(marks)) = large.part_mut(tag, || Part::Marks(Marks::default()))
        {
            marks.fire(fired);
        }
        self.bytes = self.bytes - before + slot.state.bytes();
    }

    /// Notes a request; whether a line of it was counted before, later than `horizon`.
    pub fn repeats(
        &mut self,
        place: Place,
        tag: u16,
        id: &str,
        time: Micros,
        horizon: Option<Micros>,
    ) -> bool {
        self.touch(place, tag, time);
        let Some(slot) = self.table.get_mut(place) else { return false };
        let before = slot.state.bytes();
        slot.enlarge(&self.specs);
        let repeats = match &mut slot.state {
            State::Large(large) => match large.part_mut(tag, || Part::Once(Once::default())) {
                Some(Part::Once(once)) => once.repeats(id, time, horizon),
                _ => false,
            },
            State::Small(_) => false,
        };
        self.bytes = self.bytes - before + slot.state.bytes();
        repeats
    }

    /// Whether anything was given up that a window can still reach.
    pub fn is_degraded(&self) -> bool {
        self.sketches.iter().any(|(_, sketch)| !sketch.is_empty())
    }

    /// At most so much weight was given up of a key's window that ends at `time`.
    pub fn estimate(&self, key: Key<'_>, tag: u16, time: Micros) -> u64 {
        let Some(within) = self.group(tag).map(|group| group.longest) else { return 0 };
        let sketch = self.sketches.iter().find(|(length, _)| *length == within);
        sketch.map_or(0, |(_, sketch)| sketch.estimate(given_up_hash(key, tag), time))
    }

    /// Keys held.
    pub fn keys(&self) -> usize {
        self.table.len()
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        let sketches: usize = self.sketches.iter().map(|(_, sketch)| sketch.bytes()).sum();
        self.bytes + self.table.bytes() + sketches
    }

    /// Notes the clock before an event is applied. If it was set back, all that had expired before is
    /// dropped now: otherwise what is left of it would depend on how far sweeping had come, and so on
    /// keys that have nothing to do with it.
    pub fn note_clock(&mut self, clock: Micros) {
        let before = self.clock.replace(clock);
        if let Some(before) = before.filter(|before| clock < *before) {
            let horizon = before.saturating_sub(self.limits.lateness);
            for shard in 0..SHARDS {
                self.capture_before(shard);
                self.sweep_shard(shard, before);
                for slot in self.table.shard_mut(shard) {
                    let had = slot.state.bytes();
                    slot.drop_expired(&self.specs, horizon);
                    self.bytes = self.bytes + slot.state.bytes() - had;
                }
            }
        }
    }

    /// Drops what has expired by `clock`, a shard at a time.
    pub fn sweep(&mut self, clock: Micros) {
        let due = self.swept.is_none_or(|last| clock < last || clock - last >= self.sweep_every);
        if !due {
            return;
        }
        // After a gap one shard an event, not all at once.
        let behind = clock.saturating_sub(self.sweep_every.saturating_mul(SHARDS as i64));
        let last = self.swept.filter(|last| *last <= clock);
        self.swept = Some(last.map_or(clock, |last| (last + self.sweep_every).max(behind)));
        self.sweep_shard(self.next_shard, clock);
        self.next_shard = (self.next_shard + 1) % SHARDS;
        let horizon = clock.saturating_sub(self.limits.lateness);
        self.sketches.iter_mut().for_each(|(_, sketch)| sketch.expire(horizon));
    }

    fn sweep_shard(&mut self, shard: usize, clock: Micros) {
        let horizon = clock.saturating_sub(self.limits.lateness);
        let Some(due) = self.due.get_mut(shard) else { return };
        if due.timeless == 0 && horizon < due.first {
            return;
        }
        *due = Due { timeless: 0, first: Micros::MAX };
        let mut any = false;
        for slot in self.table.shard(shard) {
            let expires = slot.expires(&self.lengths);
            if expires <= horizon {
                any = true;
            } else {
                due.first = due.first.min(expires);
                due.timeless += usize::from(slot.newest == 0);
            }
        }
        if !any {
            return;
        }
        self.capture_before(shard);
        let Self { table, bytes, lengths, .. } = self;
        table.retain(shard, |slot| {
            let keep = slot.expires(lengths) > horizon;
            if !keep {
                *bytes -= slot.state.bytes();
            }
            keep
        });
    }

    /// Gives keys up if everything together with `beside` bytes of others takes more than it may;
    /// how many.
    pub fn enforce_ceiling(&mut self, clock: Option<Micros>, beside: usize) -> u64 {
        let own = ceiling(self.limits);
        // However much others take: without any windows nobody would be found.
        let ceiling = own.saturating_sub(beside).max(own / 4);
        if self.bytes + self.table.bytes() <= ceiling {
            return 0;
        }
        if let Some(clock) = clock {
            (0..SHARDS).for_each(|shard| self.sweep_shard(shard, clock));
        }
        let target = ceiling / 10 * 9;
        let held = self.bytes + self.table.bytes();
        if held <= target {
            return 0;
        }
        let cut = self.cut(held - target);
        let before = self.table.len();
        for shard in 0..SHARDS {
            self.give_up(shard, &cut, clock);
        }
        let given_up = u64::try_from(before - self.table.len()).unwrap_or(0);
        self.evicted += given_up;
        given_up
    }

    /// How far down the order of giving up it takes to free so many bytes.
    fn cut(&self, bytes: usize) -> GivingUp {
        let slots = || (0..SHARDS).flat_map(|shard| self.table.shard(shard));
        let oldest = slots().map(|slot| slot.newest).min().unwrap_or(0);
        let newest = slots().map(|slot| slot.newest).max().unwrap_or(0);
        let mut order = GivingUp { oldest, shift: 0, cell: 0, shards: 0 };
        while ((newest - oldest) >> order.shift) as usize >= AGES {
            order.shift += 1;
        }
        let freed = |slot: &Slot| slot.state.bytes() + size_of::<Slot>() * 5 / 4;
        let mut cells = vec![0usize; CLASSES * AGES];
        for slot in slots() {
            if let Some(cell) = cells.get_mut(order.cell(slot)) {
                *cell += freed(slot);
            }
        }
        let mut sum = 0;
        for (cell, inside) in cells.iter().enumerate() {
            order.cell = cell;
            if sum + inside >= bytes {
                break;
            }
            sum += inside;
        }
        // Of the keys that are alike, those of the first shards.
        for shard in 0..SHARDS {
            if sum >= bytes {
                break;
            }
            let alike = self.table.shard(shard).filter(|slot| order.cell(slot) == order.cell);
            sum += alike.map(freed).sum::<usize>();
            order.shards = shard + 1;
        }
        order
    }

    fn give_up(&mut self, shard: usize, order: &GivingUp, clock: Option<Micros>) {
        self.capture_before(shard);
        let Self { table, specs, sketches, bytes, .. } = self;
        let mut given_up: Vec<(Micros, u64, Micros, u32)> = Vec::new();
        table.retain(shard, |slot| {
            let cell = order.cell(slot);
            if cell > order.cell || (cell == order.cell && shard >= order.shards) {
                return true;
            }
            *bytes -= slot.state.bytes();
            let mut note = |tag: u16, time: Micros, weight: u32| {
                if let Some(group) = group(specs, tag) {
                    given_up.push((group.longest, given_up_hash(slot.key(), tag), time, weight));
                }
            };
            match &slot.state {
                State::Small(block) => {
                    for (tag, content) in small::parts(block) {
                        if group(specs, tag).is_some() {
                            small::events(content)
                                .filter(|event| event.completes.is_none())
                                .for_each(|event| note(tag, event.item.time, event.item.weight));
                        }
                    }
                }
                State::Large(large) => {
                    for (tag, window) in large.windows() {
                        window.events().for_each(|item| note(tag, item.time, item.weight));
                    }
                }
            }
            false
        });
        // What a sketch says of keys that share counters depends on who came first, and slots lie in
        // another order in every process.
        given_up.sort_unstable();
        for (within, hash, time, weight) in given_up {
            if let Some((_, sketch)) = sketches.iter_mut().find(|(length, _)| *length == within) {
                sketch.add(hash, time, weight, clock);
            }
        }
    }
}

/// A place in the order of giving up.
#[derive(Debug)]
struct GivingUp {
    oldest: u32,
    shift: u32,
    /// All keys of the cells before this one go,
    cell: usize,
    /// and of this one those of so many shards.
    shards: usize,
}

impl GivingUp {
    fn cell(&self, slot: &Slot) -> usize {
        let class = match slot.events {
            _ if slot.keep & LEARNT != 0 => CLASSES - 1,
            0 | 1 => 0,
            events => (usize::from(events) - 1).ilog2() as usize + 1,
        };
        let age = ((slot.newest - self.oldest.min(slot.newest)) >> self.shift) as usize;
        class.min(CLASSES - 1) * AGES + age.min(AGES - 1)
    }
}

impl Slot {
    /// Before what horizon it does not expire; `lengths` are the store's.
    fn expires(&self, lengths: &[Micros]) -> Micros {
        let length = lengths.get(usize::from(self.keep & !LEARNT)).copied().unwrap_or(0);
        match self.newest {
            // Nothing ever came of it.
            0 if self.events == 0 => Micros::MIN,
            // A time beyond what a slot can hold is not known.
            0 | u32::MAX => Micros::MAX,
            newest => (i64::from(newest) + 1).saturating_mul(1_000_000).saturating_add(length),
        }
    }

    /// Notes an event that a part with this [`Slot::keep`] is about.
    fn touch(&mut self, keep: u8, time: Micros, lengths: &[Micros], due: &mut Due) {
        let had_time = self.newest != 0;
        self.newest = self.newest.max(seconds(time));
        let length = (self.keep & !LEARNT).max(keep & !LEARNT);
        self.keep = length | (self.keep | keep) & LEARNT;
        // Later events can only make it last longer.
        if !had_time && self.newest != 0 {
            due.timeless = due.timeless.saturating_sub(1);
            due.first = due.first.min(self.expires(lengths));
        }
    }

    /// Brings the state into the form for many events.
    fn enlarge(&mut self, specs: &[Spec]) {
        if let State::Small(block) = &self.state {
            let part = |tag: u16, content: &[u8]| match specs.get(usize::from(tag)) {
                Some(Spec { kind: Kind::Window(group), .. }) => {
                    Part::Window(Window::of(group, small::events(content)))
                }
                Some(Spec { kind: Kind::Marks, .. }) => Part::Marks(Marks::of(content)),
                _ => Part::Bytes(content.to_vec()),
            };
            self.state = State::Large(Box::new(Large::of_block(block, part)));
        }
    }

    /// Drops the windows of which every event has expired.
    fn drop_expired(&mut self, specs: &[Spec], horizon: Micros) {
        let cut = |tag: u16| Some(horizon.saturating_sub(group(specs, tag)?.longest));
        match &mut self.state {
            State::Small(block) => {
                let mut gone = Vec::new();
                for (tag, content) in small::parts(block) {
                    let Some(cut) = cut(tag) else { continue };
                    if small::events(content).all(|event| event.item.time <= cut) {
                        gone.push((tag, small::events(content).count()));
                    }
                }
                for (tag, _) in &gone {
                    small::put(block, *tag, &[]);
                }
                let events: usize = gone.iter().map(|(_, events)| events).sum();
                self.change_events(-i32::try_from(events).unwrap_or(i32::MAX));
            }
            State::Large(large) => {
                large.drop_windows(|tag, window| {
                    cut(tag).is_some_and(|cut| window.events().all(|item| item.time <= cut))
                });
                self.count();
            }
        }
    }

    /// Changes the number of events of a state with few.
    fn change_events(&mut self, change: i32) {
        let events = i32::from(self.events).saturating_add(change);
        self.events = u8::try_from(events.max(0)).unwrap_or(u8::MAX);
    }

    /// Counts the events of a state of any form anew.
    fn count_all(&mut self, specs: &[Spec]) {
        if let State::Small(block) = &self.state {
            let windows = small::parts(block).filter(|(tag, _)| group(specs, *tag).is_some());
            let events: usize = windows.map(|(_, content)| small::events(content).count()).sum();
            self.events = u8::try_from(events).unwrap_or(u8::MAX);
        }
        self.count();
    }

    /// Counts the events of a state with many.
    fn count(&mut self) {
        if let State::Large(large) = &self.state {
            let events: usize = large.windows().map(|(_, window)| window.size()).sum();
            self.events = u8::try_from(events).unwrap_or(u8::MAX);
        }
    }
}

fn group(specs: &[Spec], tag: u16) -> Option<&Group> {
    match &specs.get(usize::from(tag))?.kind {
        Kind::Window(group) => Some(group),
        _ => None,
    }
}

/// Whether accounts and addresses are kept for a key: those that an action on it shows, and those
/// that are compared.
fn shows(group: &Group, kind: KeyKind) -> (bool, bool) {
    let account = matches!(kind, KeyKind::User | KeyKind::UserId);
    (group.compares_users || !account, group.compares_ips || kind != KeyKind::Host)
}

fn given_up_hash(key: Key<'_>, tag: u16) -> u64 {
    key.fixed_hash().rotate_left(17) ^ u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What sketches may take: enough that the keys of an hour's flood are told apart, and little
/// enough that most of the memory holds exact counts.
fn sketch_bytes(limits: Limits) -> usize {
    limits.memory / 4
}

/// What everything but sketches may take.
fn ceiling(limits: Limits) -> usize {
    limits.memory - (limits.memory / 8).min(ALLOWANCE) - sketch_bytes(limits)
}

#[cfg(test)]
mod tests {
    use super::super::Need;
    use super::super::ring::{ValueOf, bit};
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const LATE: Micros = 12;
    const TAG: u16 = 0;
    const ONCE: u16 = 1;

    fn store(needs: &[Need], memory: usize, lateness: Micros) -> Store {
        let mut group = Group::default();
        needs.iter().for_each(|need| {
            group.join(*need);
        });
        let retention = group.longest;
        let window = Spec { kind: Kind::Window(group), retention, many: true };
        let once = Spec { kind: Kind::Once, retention, many: true };
        let learnt = Spec { kind: Kind::Learnt, retention: 1 << 40, many: true };
        Store::new(vec![window, once, learnt], Limits { memory, lateness })
    }

    /// The definition, word by word: a list of all events, with a mark for those that a rule used.
    #[derive(Default)]
    struct Naive {
        firsts: Vec<(Micros, u64, Option<u8>, bool)>,
        completing: Vec<(Micros, bool)>,
    }

    impl Naive {
        fn arrive(
            &mut self,
            need: &Need,
            time: Micros,
            event: Option<(u64, Option<u8>)>,
        ) -> Option<(Micros, u64)> {
            let Need { what, at_least, within } = *need;
            match event {
                Some((weight, value)) => {
                    // An event without the value is none of those that the rule counts.
                    let blind = matches!(what, What::Distinct(_)) && value.is_none();
                    self.firsts.push((time, weight, value, blind));
                    if blind {
                        return None;
                    }
                }
                None if what != What::Sequence => return None,
                None => self.completing.push((time, false)),
            }
            let inside = |e: &(Micros, u64, Option<u8>, bool), end: Micros| {
                !e.3 && end - within < e.0 && (e.0 < end || what != What::Sequence && e.0 == end)
            };
            let enough = |end: Micros| {
                let list = self.firsts.iter().filter(|e| inside(e, end));
                match what {
                    What::Distinct(_) => list.map(|e| e.2).collect::<HashSet<_>>().len() as u64,
                    _ => list.map(|e| e.1).sum(),
                }
            } >= at_least;
            let mut ends: Vec<Micros> = if what == What::Sequence {
                let of = |b: &&(Micros, bool)| {
                    !b.1 && if event.is_some() {
                        b.0 - within < time && time < b.0
                    } else {
                        b.0 == time
                    }
                };
                self.completing.iter().filter(of).map(|b| b.0).collect()
            } else {
                let all = self.firsts.iter().map(|e| e.0);
                all.filter(|end| end - within < time && time <= *end).collect()
            };
            ends.sort_unstable();
            let end = ends.into_iter().find(|end| enough(*end))?;
            let mut count = 0;
            for e in &mut self.firsts {
                if inside(e, end) {
                    e.3 = true;
                    count += e.1;
                }
            }
            if let Some(b) = self.completing.iter_mut().find(|b| !b.1 && b.0 == end) {
                b.1 = true;
            }
            Some((end, count))
        }
    }

    fn need() -> impl Strategy<Value = Need> {
        let what = prop::sample::select(vec![
            What::Count,
            What::Count,
            What::Distinct(ValueOf::User),
            What::Sequence,
        ]);
        (what, 1u64..7, prop::sample::select(vec![1i64, 10, 25]))
            .prop_map(|(what, at_least, within)| Need { what, at_least, within })
    }

    proptest! {
        /// Rules of all kinds on one list, in both forms, agree with the definition.
        #[test]
        fn shared_windows_agree_with_the_definition(
            // Ties, bursts at exactly W, gaps, and lateness.
            steps in prop::collection::vec(
                (
                    prop::sample::select(vec![0i64, 0, 1, 5, 9, 10, 11, 40]),
                    0i64..=LATE,
                    prop::option::weighted(0.8, (1u32..4, prop::option::weighted(0.8, 0u8..6))),
                ),
                1..150,
            ),
            needs in prop::collection::vec(need(), 1..5),
            clocked in any::<bool>(),
            // In seconds most events are later than all before, and just appended.
            unit in prop::sample::select(vec![1i64, 1_000_000]),
        ) {
            let needs: Vec<Need> =
                needs.iter().map(|need| Need { within: need.within * unit, ..*need }).collect();
            let mut forms = [(); 2].map(|()| store(&needs, 1 << 30, LATE * unit));
            let key = Key { kind: KeyKind::User, value: b"somebody" };
            let mut naive: Vec<Naive> = needs.iter().map(|_| Naive::default()).collect();
            let mut now = 1_000_000_000;
            for (step, back, event) in steps {
                now += step * unit;
                let time = now - back * unit;
                let mut expected = Vec::new();
                for (rule, need) in needs.iter().enumerate() {
                    let event = event.map(|(weight, value)| (u64::from(weight), value));
                    if let Some((end, count)) = naive[rule].arrive(need, time, event) {
                        expected.push((rule, end, count));
                    }
                }
                for (form, store) in forms.iter_mut().enumerate() {
                    let (place, _) = store.place(key);
                    if form == 1 {
                        store.repeats(place, ONCE, "x", time, None);
                    }
                    let clock = clocked.then_some(now);
                    let user = event.and_then(|(_, value)| value).map(|value| value.to_string());
                    let evidence = Evidence { user: user.as_deref(), ..Evidence::default() };
                    let fresh = |completes| Fresh {
                        time,
                        weight: event.map_or(1, |(weight, _)| weight),
                        used: 0,
                        completes,
                        shown: &[],
                    };
                    let mut found = Vec::new();
                    let (mut mask, mut whole) = (0, None);
                    if event.is_some() {
                        (mask, whole) = store.insert(place, TAG, fresh(None), (&evidence, &mut Parts::default()), clock, 0);
                    }
                    for (rule, need) in needs.iter().enumerate() {
                        if event.is_none() {
                            if need.what != What::Sequence {
                                continue;
                            }
                            (mask, whole) = store.insert(place, TAG, fresh(Some(rule)), (&evidence, &mut Parts::default()), clock, 0);
                        }
                        let crossing = store.crossing(place, TAG, rule, time, event.is_some());
                        let at_once = whole.and_then(|all: Whole| all.crossing(time, need.within));
                        if mask & bit(rule) != 0 && need.what == What::Count && at_once.is_some() {
                            prop_assert_eq!(&at_once, &crossing);
                        }
                        if mask & bit(rule) == 0 {
                            // What is not asked could not have fired.
                            prop_assert_eq!(crossing.clone().filter(|_| event.is_none_or(|(_, v)| {
                                v.is_some() || !matches!(need.what, What::Distinct(_))
                            })), None);
                            continue;
                        }
                        if matches!(need.what, What::Distinct(_)) && user.is_none() {
                            continue;
                        }
                        if let Some(crossing) = crossing {
                            let (span, _) = store.span(place, TAG, rule, &crossing);
                            found.push((rule, span.time, span.count));
                            store.use_up(place, TAG, rule, &crossing);
                            whole = None;
                        }
                    }
                    prop_assert_eq!(&found, &expected, "form {}", form);
                    for (rule, enough) in (0..needs.len()).flat_map(|rule| (0..8).map(move |n| (rule, n))) {
                        let (_, held) = store.recent(place, TAG, rule, time);
                        let reaches = store.reaches(place, TAG, rule, time, enough);
                        prop_assert_eq!(reaches, held >= enough, "{} of {}", held, enough);
                    }
                }
            }
            // Bytes are counted right to the last one.
            for store in &mut forms {
                (0..SHARDS).for_each(|shard| store.sweep_shard(shard, 1 << 50));
                prop_assert_eq!((store.bytes, store.keys()), (0, 0));
            }
        }
    }

    fn count(at_least: u64, within: Micros) -> Need {
        Need { what: What::Count, at_least, within }
    }

    const HOUR: Micros = 3600 * 1_000_000;

    fn arrive(store: &mut Store, ip: u32, time: Micros) -> u32 {
        let key = Key { kind: KeyKind::Host, value: &ip.to_be_bytes() };
        let estimate = store.estimate(key, TAG, time);
        let (place, _) = store.place(key);
        let user = format!("user{ip}@example.org");
        let evidence = Evidence {
            user: Some(&user),
            request_id: Some("0123456789abcdef"),
            reason: Some("invalid_password"),
            ..Evidence::default()
        };
        let fresh = Fresh { time, weight: 1, used: 0, completes: None, shown: &[] };
        let (mask, _) = store.insert(
            place,
            TAG,
            fresh,
            (&evidence, &mut Parts::default()),
            Some(time),
            estimate,
        );
        store.enforce_ceiling(Some(time), 0);
        mask
    }

    #[test]
    fn a_key_with_one_event_takes_at_most_120_bytes() {
        let mut store = store(&[count(10, HOUR), count(21, HOUR), count(51, HOUR)], 1 << 30, 0);
        for ip in 0..300_000 {
            arrive(&mut store, ip, HOUR + i64::from(ip));
        }
        assert!(store.bytes() / store.keys() <= 120, "{}", store.bytes() / store.keys());
    }

    proptest! {
        /// That a shard is not looked through before something in it can have expired changes nothing.
        #[test]
        fn keys_expire_as_if_all_were_looked_at_each_time(
            steps in prop::collection::vec((0u32..200, 0i64..9, -9i64..2, 0u8..8), 1..400),
        ) {
            let needs = [count(10, 100_000_000)];
            let (mut lazy, mut eager) = (store(&needs, 1 << 30, 5), store(&needs, 1 << 30, 5));
            let mut clock = HOUR;
            for (ip, ahead, back, how) in steps {
                // Now and then it is set back.
                clock += if how == 7 { -ahead } else { ahead } * 1_000_000;
                // Some are of times before the first second.
                let time = if how == 6 { back } else { clock + back * 1_000_000 };
                for store in [&mut lazy, &mut eager] {
                    store.note_clock(clock);
                    if how == 5 {
                        // A key of which nothing comes.
                        let value = ip.to_be_bytes();
                        store.place(Key { kind: KeyKind::Host, value: &value });
                    } else {
                        arrive(store, ip, time);
                    }
                }
                eager.due.fill(Due::default());
                for shard in 0..SHARDS {
                    lazy.sweep_shard(shard, clock);
                    eager.sweep_shard(shard, clock);
                }
                prop_assert_eq!((lazy.keys(), lazy.bytes()), (eager.keys(), eager.bytes()));
            }
        }
    }

    #[test]
    fn what_is_captured_is_as_it_was_although_the_clock_is_set_back() {
        let mut store = store(&[count(10, 100_000_000)], 1 << 30, 0);
        for ip in 0..500 {
            arrive(&mut store, ip, HOUR + 1);
        }
        // What matters for longer keeps the keys.
        for ip in 0..500u32 {
            let (place, _) = store.place(Key { kind: KeyKind::Host, value: &ip.to_be_bytes() });
            store.touch(place, 2, HOUR);
        }
        let captured = |store: &mut Store| {
            (0..SHARDS).for_each(|_| store.capture_next());
            store.take_captured()
        };
        store.note_clock(2 * HOUR);
        store.begin_capture(Vec::new());
        let before = captured(&mut store);
        store.begin_capture(Vec::new());
        store.note_clock(HOUR);
        assert_eq!(captured(&mut store), before);
    }

    #[test]
    fn a_flood_pushes_out_no_key_that_is_close_and_hides_nobody() {
        const LIMIT: usize = 8 << 20;
        let mut store = store(&[count(21, HOUR)], LIMIT, 0);
        let second = |n: u32| HOUR + i64::from(n) * 10_000;
        // One is close to its threshold before the flood, another comes slowly during it.
        let (close, slow) = (1 << 30, 1 << 31);
        for _ in 0..20 {
            assert_eq!(arrive(&mut store, close, HOUR), 0);
        }
        let mut noticed = 0;
        for n in 0..300_000 {
            arrive(&mut store, n, second(n));
            if n % 12_000 == 11_999 {
                noticed |= arrive(&mut store, slow, second(n));
            }
            assert!(store.bytes() <= LIMIT, "{}", store.bytes());
        }
        assert!(store.evicted > 200_000, "{}", store.evicted);
        assert_eq!(arrive(&mut store, close, second(300_000)), 1, "it was not pushed out");
        assert_eq!(noticed, 1, "twenty-five in less than an hour were noticed");
        let innocent = (0..300_000u32).step_by(1000);
        let suspected = innocent.filter(|n| arrive(&mut store, *n, second(300_001)) != 0).count();
        assert_eq!(suspected, 0);
        // What is over is forgotten.
        let later = second(300_000) + 3 * HOUR;
        for n in 0..200 {
            store.sweep(later + n * HOUR);
        }
        assert!(!store.is_degraded());
    }
}
