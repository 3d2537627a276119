//! The ordered half: items in canonical order go through the clock, the detector and the ledger.

use super::core::{Core, CoreConfig};
use super::entry::{Input, Origin, Rank};
use super::scan::{Findings, Found, Item, Scanned, Scanner, What};
use super::summary::Outcome;
use crate::action::Action;
use crate::decide::Decider;
use crate::decide::line::Due;
use crate::decode::envelope::Fragment;
use crate::decode::time::{Micros, When, Zone};
use crate::decode::{Decoded, Unread, decode};
use crate::detect::detector::Detector;
use crate::pattern::event::Run;
use crate::pattern::{Events, PATTERN_NEAR_MISS};
use crate::source::{Batch, Position};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Streams per source whose pieces are joined at the same time.
const STREAMS_MAX: usize = 64;

/// What the ordered half needs of the settings.
#[derive(Debug, Clone, Default)]
pub struct OrderConfig {
    /// How late a record may be, microseconds.
    pub lateness: Micros,
    /// How far ahead of the clock a record may be, microseconds.
    pub max_ahead: Micros,
    /// The zone of times that name none.
    pub zone: Zone,
    /// The year of the first time that names none.
    pub year: Option<i32>,
    /// Longest line, bytes; for messages.
    pub max_line: usize,
    /// Bytes that records may take which wait for those of other partitions.
    pub waiting_max: usize,
    /// How long records are remembered that may come again, microseconds.
    pub dedupe: Micros,
    /// Bytes that this memory may take.
    pub dedupe_max: usize,
}

#[derive(Debug, Default)]
struct SourceState {
    name: String,
    lines: u64,
    /// Where to look for the year of its first time without one.
    year_near: Option<Micros>,
    year_said: bool,
    pieces: BTreeMap<String, Pieces>,
    /// Lines that began with a piece.
    begun: u64,
    /// Of a partition: its turn among records of the same time.
    rank: Option<Rank>,
    /// Of a partition: the newest time that it has shown.
    newest: Option<Micros>,
    /// Where reading goes on behind what was applied.
    place: Place,
}

/// How far a source is.
#[derive(Debug, Default)]
struct Place {
    /// Behind what was applied, but for pieces of a line that wait for the rest.
    mark: Option<Arc<Position>>,
    /// It was not told yet.
    new: bool,
    /// The source can be gone back to.
    returns: bool,
    /// Bytes applied since a piece began to wait.
    waited: usize,
}

/// A record of a partition cannot have happened later after it was sent than clocks differ,
/// microseconds. What says so was forged, or has a wrong clock.
const SENT_MAX: Micros = 60_000_000;
/// Bytes, in pieces of the longest line, for which a piece that waits for its rest keeps the place of
/// its source; then it is given up if the program ends before the rest comes.
const PIECES_KEPT: usize = 16;

#[derive(Debug)]
struct Pieces {
    first: Fragment,
    content: String,
    /// Too long: the rest is dropped.
    full: bool,
    /// How many had begun before.
    begun: u64,
}

/// A batch on its way through the ordered half.
#[derive(Debug)]
pub struct Cursor {
    scanned: Scanned,
    items: std::iter::Peekable<std::vec::IntoIter<Item>>,
    /// The next line to look at.
    line: u64,
    /// Where it begins in the batch's bytes.
    at: usize,
    /// Events whose states were brought near.
    foreseen: usize,
}

/// Events whose states are brought near together.
const FORESEEN: usize = 64;
/// Fewer are not worth it.
const FORESEEN_MIN: usize = 4;

impl Cursor {
    /// The buffer of a batch that is done with.
    pub fn into_buffer(self) -> Vec<u8> {
        self.scanned.batch.bytes
    }
}

/// The ordered half.
#[derive(Debug)]
pub struct Engine {
    scanner: Arc<Scanner>,
    config: OrderConfig,
    /// What the lines do.
    pub core: Core,
    /// Few, and asked for with every record.
    sources: BTreeMap<u32, SourceState>,
    /// Kinds of messages that were given; see [`Engine::forget_told`].
    told: std::collections::HashSet<String>,
    /// Records of partitions wait for each other.
    pub merging: bool,
    /// Records of partitions that cannot be read are kept here for whoever wants a copy.
    pub dead: Option<Vec<DeadLetter>>,
}

/// A record of a partition that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Why it could not be read.
    pub reason: String,
    /// Its value.
    pub value: Vec<u8>,
}

impl Engine {
    /// An engine at the beginning of a stream.
    pub fn new(
        scanner: Arc<Scanner>,
        detector: Detector,
        decider: Decider,
        config: OrderConfig,
    ) -> Self {
        let limits = CoreConfig {
            lateness: config.lateness,
            max_ahead: config.max_ahead,
            max_line: config.max_line,
            waiting_max: config.waiting_max,
            dedupe: config.dedupe,
            dedupe_max: config.dedupe_max,
        };
        let patterns = scanner.set.names().map(str::to_owned).collect();
        Self {
            core: Core::new(detector, decider, patterns, limits),
            scanner,
            config,
            sources: BTreeMap::new(),
            told: std::collections::HashSet::new(),
            merging: false,
            dead: None,
        }
    }

    /// Goes on with other patterns and rules; `other` has the state.
    pub fn go_on_with(&mut self, other: Self) {
        let Self { core, scanner, config, .. } = other;
        let before = std::mem::replace(&mut self.core, core);
        self.core.take_over(before);
        self.scanner = scanner;
        self.config = config;
    }

    /// Names a partition.
    pub fn name_partition(&mut self, source: u32, topic: &str, partition: i32) {
        self.name_source(source, &format!("{topic} [{partition}]"), None);
        let state = self.sources.entry(source).or_default();
        state.rank = Some(Rank { topic: topic.into(), partition });
    }

    /// The name of a source.
    pub fn name(&self, source: u32) -> &str {
        self.sources.get(&source).map(|state| state.name.as_str()).unwrap_or_default()
    }

    /// The newest time that a partition has shown.
    pub fn newest(&self, source: u32) -> Option<Micros> {
        self.sources.get(&source).and_then(|state| state.newest)
    }

    /// A source begins anew: what waits for its rest there never gets it.
    pub fn anew(&mut self, source: u32) {
        if let Some(state) = self.sources.get_mut(&source) {
            state.place = Place::default();
        }
        self.core.anew(source);
    }

    /// Where reading goes on, of the sources that have moved since it was asked last.
    pub fn take_positions(&mut self) -> Vec<(u32, Arc<Position>)> {
        let mut moved = Vec::new();
        for (source, state) in &mut self.sources {
            if std::mem::take(&mut state.place.new) {
                moved.extend(state.place.mark.clone().map(|mark| (*source, mark)));
            }
        }
        moved
    }

    /// A batch was applied.
    fn passed(&mut self, batch: &Batch) {
        let Some(mark) = &batch.mark else { return };
        let max = self.config.max_line.saturating_mul(PIECES_KEPT);
        let state = self.sources.entry(batch.source).or_default();
        let place = &mut state.place;
        place.returns = true;
        if state.pieces.is_empty() {
            place.waited = 0;
        } else {
            place.waited = place.waited.saturating_add(batch.bytes.len());
            if place.waited <= max {
                return;
            }
        }
        place.mark = Some(Arc::clone(mark));
        place.new = true;
    }

    /// Of a partition: the time that the last record of a batch says, which holds back no other
    /// partition although no pattern named it.
    fn last_time(&self, batch: &Batch) -> Option<Micros> {
        let line = batch.lines().last()?;
        let sent = batch.records.last()?.time;
        let said = match decode(line, &self.scanner.decode) {
            Decoded::Records(records) => records.last()?.when().and_then(When::first),
            _ => None,
        };
        let limit = sent.map(|sent| sent.saturating_add(SENT_MAX));
        Some(said.or(sent)?.min(limit.unwrap_or(Micros::MAX)))
    }

    /// Names a source, for messages; `year_near` is a time from which to take the year of a time
    /// without one.
    pub fn name_source(&mut self, source: u32, name: &str, year_near: Option<Micros>) {
        let state = self.sources.entry(source).or_default();
        name.clone_into(&mut state.name);
        state.year_near = year_near;
    }

    /// The lines that are due.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.core.take_actions()
    }

    /// The lines that are due, to be written by whoever hands them on.
    pub fn take_due(&mut self) -> Vec<Due> {
        self.core.take_due()
    }

    /// Lets every kind of message be given once more; `run` does so every minute.
    pub fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Lets a source go on with the pieces that wait in another of its name: a file may be rotated between
    /// two of them.
    fn inherit(&mut self, source: u32) {
        let Some(state) = self.sources.get(&source) else { return };
        if state.lines > 0 || state.name.is_empty() {
            return;
        }
        let name = state.name.clone();
        let others = self
            .sources
            .iter_mut()
            .filter(|(id, other)| **id != source && other.name == name && !other.pieces.is_empty());
        let before = others.max_by_key(|(id, _)| **id);
        let Some((_, before)) = before else { return };
        let pieces = std::mem::take(&mut before.pieces);
        self.sources.entry(source).or_default().pieces.extend(pieces);
    }

    /// Takes a batch in; what needs no order is counted at once.
    pub fn open(&mut self, mut scanned: Scanned) -> Cursor {
        self.inherit(scanned.batch.source);
        let lines = &mut self.core.summary.lines;
        lines.add(Outcome::Empty, scanned.empty);
        lines.add(Outcome::Unmatched, scanned.unmatched);
        self.core.summary.records.add(Outcome::Unmatched, scanned.unmatched_records);
        self.core.summary.bytes += u64::try_from(scanned.batch.bytes.len()).unwrap_or(0);
        let items = std::mem::take(&mut scanned.items).into_iter().peekable();
        Cursor { scanned, items, line: 0, at: 0, foreseen: 0 }
    }

    /// The time by which a batch's next item is put in order among sources: that of its first named
    /// record. `None` keeps the source's place.
    pub fn order_time(&self, cursor: &mut Cursor) -> Option<Micros> {
        let source = cursor.scanned.batch.source;
        if self.joining(source) {
            return None;
        }
        let What::Records(records) = cursor.items.peek()?.what else { return None };
        let records = records.of(&cursor.scanned.findings.records);
        let when = records.iter().find(|found| found.matched.named)?.when?;
        Some(self.resolve(source, when))
    }

    /// Applies the next item of a batch, together with the lines that are joined to it; `false`
    /// when the batch is done.
    pub fn step(&mut self, cursor: &mut Cursor, arrival: Option<Micros>) -> bool {
        let source = cursor.scanned.batch.source;
        if self.joining(source) && cursor.line < cursor.scanned.lines {
            self.join(cursor, arrival);
            return true;
        }
        if let Some(item) = cursor.items.peek()
            && matches!(item.what, What::Piece)
        {
            (cursor.line, cursor.at) = (item.line, item.bytes.start);
            self.join(cursor, arrival);
            return true;
        }
        match cursor.items.next() {
            Some(item) => {
                (cursor.line, cursor.at) = (item.line + 1, item.bytes.end + 1);
                self.foresee(cursor, &item);
                self.apply(&cursor.scanned, item, arrival);
                true
            }
            None => {
                let batch = &cursor.scanned.batch;
                let state = self.sources.entry(source).or_default();
                state.lines += cursor.scanned.lines;
                if state.rank.is_some() {
                    let last = self.last_time(batch);
                    let state = self.sources.entry(source).or_default();
                    state.newest = state.newest.max(last);
                }
                self.passed(batch);
                false
            }
        }
    }

    /// Applies a whole batch.
    pub fn apply_batch(&mut self, scanned: Scanned, arrival: Option<Micros>) {
        let mut cursor = self.open(scanned);
        while self.step(&mut cursor, arrival) {}
    }

    /// Brings near what the next events need, when it is time.
    fn foresee(&mut self, cursor: &mut Cursor, item: &Item) {
        let What::Records(records) = item.what else { return };
        let Findings { records: all, events } = &cursor.scanned.findings;
        let Some(found) = records.of(all).last() else { return };
        if found.matched.events.end() <= cursor.foreseen {
            return;
        }
        let from = cursor.foreseen;
        let to = (found.matched.events.end() + FORESEEN).min(events.list.len());
        cursor.foreseen = to;
        if to - from >= FORESEEN_MIN {
            self.core.detector_mut().foresee(events.of(Run::between(from, to)));
        }
    }

    /// Whether a source waits for the rest of a line.
    fn joining(&self, source: u32) -> bool {
        self.sources.get(&source).is_some_and(|state| !state.pieces.is_empty())
    }

    /// Walks line by line while pieces wait for their rest.
    fn join(&mut self, cursor: &mut Cursor, arrival: Option<Micros>) {
        let Cursor { scanned, items, line, at, .. } = cursor;
        let source = scanned.batch.source;
        let rest = scanned.batch.bytes.get(*at..).unwrap_or_default();
        for (text, number) in crate::source::lines::split_lines(rest).zip(*line..) {
            let item = items.next_if(|item| item.line == number);
            let place = place_of(&scanned.batch, number, *at);
            (*line, *at) = (number + 1, *at + text.len() + 1);
            let fragment = self.scanner.fragment(text);
            let state = self.sources.entry(source).or_default();
            let waits = fragment.as_ref().is_some_and(|f| state.pieces.contains_key(&f.stream));
            match (fragment, item) {
                (Some(fragment), item) if waits || !fragment.last => {
                    match item {
                        Some(_) => self.core.summary.lines.add(Outcome::Joined, 1),
                        // It was counted already: because it matches nothing by itself, or because
                        // it ends a line without adding to it.
                        None => match self.scanner.unmatched(text) {
                            None => self.core.summary.lines.change(Outcome::Empty, Outcome::Joined),
                            Some(records) => {
                                self.core.summary.lines.change(Outcome::Unmatched, Outcome::Joined);
                                self.core.summary.records.remove(Outcome::Unmatched, records);
                            }
                        },
                    }
                    let cut = scanned.batch.oversized;
                    self.piece(source, fragment, cut, (number, place), arrival);
                }
                (_, Some(item)) => self.apply(scanned, item, arrival),
                (_, None) => {}
            }
            if !self.joining(source) {
                return;
            }
        }
        *line = scanned.lines;
    }

    fn piece(
        &mut self,
        source: u32,
        fragment: Fragment,
        cut: bool,
        (line, place): (u64, Option<u64>),
        arrival: Option<Micros>,
    ) {
        let state = self.sources.entry(source).or_default();
        let stream = fragment.stream.clone();
        let ends = fragment.ends;
        match state.pieces.get_mut(&stream) {
            Some(pieces) => {
                // As with any other line, what lies behind `max_line` bytes is not kept; nor is anything behind
                // what was cut out, or two texts would meet that the line does not hold side by side.
                let room = self.config.max_line.saturating_sub(pieces.content.len());
                let room = if pieces.full { 0 } else { room };
                let kept = fragment.content.floor_char_boundary(room);
                pieces.full |= cut || kept < fragment.content.len();
                pieces.first.lost |= fragment.lost;
                pieces.content.push_str(&fragment.content[..kept]);
            }
            None => {
                let mut first = fragment;
                first.lost |= first.follows;
                let content = std::mem::take(&mut first.content);
                state.begun += 1;
                let begun = state.begun;
                state.pieces.insert(stream.clone(), Pieces { first, content, full: cut, begun });
                let oldest = state.pieces.iter().min_by_key(|(_, pieces)| pieces.begun);
                let oldest = oldest.map(|(stream, _)| stream.clone());
                if state.pieces.len() > STREAMS_MAX
                    && let Some(other) = oldest
                    && let Some(pieces) = state.pieces.remove(&other)
                {
                    // More streams than a container has: one is read as far as it is.
                    self.joined(source, &pieces, true, (line, place), arrival);
                }
                return;
            }
        }
        if ends && let Some(pieces) = state.pieces.remove(&stream) {
            self.joined(source, &pieces, pieces.full, (line, place), arrival);
        }
    }

    /// Applies a line that was put together. Its pieces are counted as lines; its records are new.
    /// `cut`: it went on.
    fn joined(
        &mut self,
        source: u32,
        pieces: &Pieces,
        cut: bool,
        (line, place): (u64, Option<u64>),
        arrival: Option<Micros>,
    ) {
        if pieces.full {
            self.core.summary.lines.change(Outcome::Joined, Outcome::Oversized);
            self.oversized(source, line);
        }
        let mut findings = Findings::default();
        let what = self.scanner.clone().joined(&pieces.first, &pieces.content, cut, &mut findings);
        // A document whose end never came, and that says nothing so far, is none.
        let is_rest = cut && !pieces.full && pieces.content.trim_start().starts_with('{');
        let says_nothing = |found: &Found| found.matched.events.is_empty();
        match what {
            Some(What::Records(records))
                if is_rest && records.of(&findings.records).iter().all(says_nothing) =>
            {
                self.core.summary.lines.change(Outcome::Joined, Outcome::Unreadable);
                let why = Unread::Truncated.to_string();
                *self.core.summary.unreadable.entry(why).or_default() += 1;
            }
            Some(What::Records(records)) => {
                self.core.begin_line();
                for (found, index) in records.of(&findings.records).iter().zip(0..) {
                    let origin = place.map(|at| Origin { at, index });
                    let place = RecordPlace { source, line, origin, sent: None };
                    let outcome = self.record(place, found, &findings.events, arrival);
                    self.core.summary.records.add(outcome, 1);
                }
            }
            Some(What::Unread(why, _)) => {
                // The line that ended it carries the outcome.
                if !pieces.full {
                    self.core.summary.lines.change(Outcome::Joined, Outcome::Unreadable);
                    *self.core.summary.unreadable.entry(why.to_string()).or_default() += 1;
                }
            }
            Some(What::Piece) | None => {}
        }
    }

    /// Applies one item.
    pub fn apply(&mut self, scanned: &Scanned, item: Item, arrival: Option<Micros>) {
        let source = scanned.batch.source;
        let outcome = match item.what {
            What::Unread(why, error) => {
                // An oversized line is counted as that, however its beginning reads.
                if !scanned.batch.oversized {
                    *self.core.summary.unreadable.entry(why.to_string()).or_default() += 1;
                }
                let record = usize::try_from(item.line).ok();
                let record = record.and_then(|line| scanned.batch.records.get(line));
                let rank = self.sources.get(&source).and_then(|state| state.rank.as_ref());
                if let (Some(dead), Some(record), Some(rank)) = (&mut self.dead, record, rank) {
                    dead.push(DeadLetter {
                        topic: Arc::clone(&rank.topic),
                        partition: rank.partition,
                        offset: record.offset,
                        reason: why.to_string(),
                        value: scanned
                            .batch
                            .bytes
                            .get(item.bytes.clone())
                            .unwrap_or_default()
                            .to_vec(),
                    });
                }
                if self.told.insert(format!("unreadable {why}")) {
                    let at = self.place(source, item.line);
                    self.core.messages.push(format!("{at}: unreadable line ({why}): {error}"));
                }
                Outcome::Unreadable
            }
            What::Piece => Outcome::Joined,
            What::Records(records) => {
                self.core.begin_line();
                let mut best: Option<Outcome> = None;
                let Findings { records: all, events } = &scanned.findings;
                let at = place_of(&scanned.batch, item.line, item.bytes.start);
                for (found, index) in records.of(all).iter().zip(0..) {
                    let origin = at.map(|at| Origin { at, index });
                    let sent = sent(&scanned.batch, item.line);
                    let place = RecordPlace { source, line: item.line, origin, sent };
                    let outcome = self.record(place, found, events, arrival);
                    self.core.summary.records.add(outcome, 1);
                    best = Some(best.map_or(outcome, |best| best.min(outcome)));
                }
                let best = best.unwrap_or(Outcome::Unmatched);
                self.core.end_line(best, scanned.batch.oversized)
            }
        };
        let outcome = if scanned.batch.oversized {
            self.oversized(source, item.line);
            Outcome::Oversized
        } else {
            outcome
        };
        self.core.summary.lines.add(outcome, 1);
    }

    /// Applies one record, or lets it wait for those of other partitions.
    fn record(
        &mut self,
        place: RecordPlace,
        found: &Found,
        events: &Events,
        arrival: Option<Micros>,
    ) -> Outcome {
        let RecordPlace { source, line, origin, sent } = place;
        let Found { when, matched, sample, print } = found;
        let when = *when;
        let marks = &mut self.core.summary.marks;
        marks.ambiguous += u64::from(matched.ambiguous);
        marks.conflict += u64::from(matched.conflict);
        marks.proxy_hidden += u64::from(matched.proxy_hidden);
        self.note_near_misses(
            source,
            line,
            matched.near_misses.of(&events.near_misses),
            sample.as_deref().unwrap_or_default(),
        );
        if matched.events.is_empty() {
            return Outcome::Unmatched;
        }
        if matched.named && matched.proxy_hidden {
            self.say_proxy_hidden();
        }
        let time = when.map(|when| self.resolve(source, when));
        if let (Some(When::Yearless(_)), Some(time)) = (when, time) {
            self.say_year(source, time);
        }
        let run = matched.events;
        let named = matched.named;
        let arrival = sent.or(arrival);
        let limit = sent.map(|sent| sent.saturating_add(SENT_MAX));
        let clamped = time.map(|time| time.min(limit.unwrap_or(Micros::MAX)));
        self.core.summary.marks.clamped += u64::from(clamped != time);
        let print = *print;
        let input = Input { source, origin, time: clamped, arrival, named, print, events, run };
        let state = self.sources.get_mut(&source).filter(|state| state.rank.is_some());
        if let Some(state) = state {
            state.newest = state.newest.max(clamped);
            if let (true, Some(rank), Some(turn)) = (self.merging, &state.rank, clamped.or(arrival))
            {
                let first = origin.is_none_or(|origin| origin.index == 0);
                return self.core.wait(input.own(), turn, rank.clone(), first);
            }
        }
        self.core.record(&input)
    }

    fn note_near_misses(&mut self, source: u32, line: u64, ids: &[u16], sample: &str) {
        for id in ids {
            let name = self.scanner.set.name(*id).to_owned();
            let at = self.place(source, line);
            let near = self.core.summary.near_misses.entry(name.clone()).or_default();
            near.count += 1;
            if near.count == 1 {
                near.sample = sample.to_owned();
                near.at = at.clone();
            }
            if self.told.insert(format!("near {name}")) {
                let shown = crate::action::escape(sample);
                self.core.messages.push(format!(
                    "{at}: {PATTERN_NEAR_MISS}: begins like {name} and is none: {shown}"
                ));
            }
        }
    }

    /// Whose year a time without one was given, once per source.
    fn say_year(&mut self, source: u32, time: Micros) {
        let state = self.sources.entry(source).or_default();
        if self.config.year.is_none() && !std::mem::replace(&mut state.year_said, true) {
            let year = crate::decode::time::format(time).get(..4).unwrap_or_default().to_owned();
            let name = &state.name;
            self.core.messages.push(format!(
                "{name}: its times name no year; the first was taken as {year}, nearest to the \
                 source's own date: `year` in the configuration pins it"
            ));
        }
    }

    fn say_proxy_hidden(&mut self) {
        if self.core.first_time("proxy_hidden") {
            self.core.messages.push(
                "the only address of a record belongs to a proxy or a private network, so it counts per user and globally only: \
                 log the address that your edge sets (on Railway the header X-Real-IP) as ip_address, or name your proxies in trusted_proxies"
                    .to_owned(),
            );
        }
    }

    fn oversized(&mut self, source: u32, line: u64) {
        let at = self.place(source, line);
        let max = self.config.max_line;
        if self.told.insert("oversized".to_owned()) {
            self.core.messages.push(format!("{at}: longer than max_line ({max} bytes)"));
        }
        self.core.oversized(source);
    }

    fn resolve(&self, source: u32, when: When) -> Micros {
        let reference = || self.core.last(source).or(self.core.clock());
        // A log goes on where it was.
        let nearer = |first: Micros, again: Micros| match reference() {
            Some(last) if again.abs_diff(last) < first.abs_diff(last) => again,
            _ => first,
        };
        match when {
            When::At(time) => time,
            When::Twice { first, again } => nearer(first, again),
            When::Yearless(yearless) => {
                let zone = &self.config.zone;
                let state = self.sources.get(&source);
                if let Some(reference) = reference() {
                    let first = yearless.after(reference, zone);
                    return zone.again(first).map_or(first, |again| nearer(first, again));
                }
                if let Some(time) = self.config.year.and_then(|year| yearless.in_year(year, zone)) {
                    return time;
                }
                yearless.nearest(state.and_then(|s| s.year_near).unwrap_or(0), zone)
            }
        }
    }

    fn place(&self, source: u32, line: u64) -> String {
        match self.sources.get(&source) {
            Some(state) => format!("{}:{}", state.name, state.lines + line + 1),
            None => format!("line {}", line + 1),
        }
    }

    /// Says what is left to say when the input has ended.
    pub fn finish(&mut self) {
        // Lines whose end never came are read as far as they are.
        let sources: Vec<u32> = self.sources.keys().copied().collect();
        for source in sources {
            // Those that can be gone back to are read again from before their pieces.
            if self.sources.get(&source).is_some_and(|state| state.place.returns) {
                continue;
            }
            let pieces = self
                .sources
                .get_mut(&source)
                .map(|s| std::mem::take(&mut s.pieces))
                .unwrap_or_default();
            for pieces in pieces.into_values() {
                self.joined(source, &pieces, true, (0, None), None);
            }
        }
        self.core.finish();
    }
}

/// Where a record stands.
#[derive(Debug, Clone, Copy)]
struct RecordPlace {
    source: u32,
    /// Number of its line in the batch.
    line: u64,
    origin: Option<Origin>,
    /// Of a partition: when it was sent.
    sent: Option<Micros>,
}

/// When the record of a partition was sent.
fn sent(batch: &Batch, line: u64) -> Option<Micros> {
    batch.records.get(usize::try_from(line).ok()?)?.time
}

/// The place of a line in its source, if the source can go back to it.
fn place_of(batch: &Batch, line: u64, start: usize) -> Option<u64> {
    if let Some(record) = usize::try_from(line).ok().and_then(|n| batch.records.get(n)) {
        return u64::try_from(record.offset).ok();
    }
    let before = u64::try_from(start).ok()?;
    batch.mark.as_ref().map(|_| batch.start + before)
}
