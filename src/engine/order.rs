//! The ordered half: items in canonical order go through the clock, the detector and the ledger.

use super::clock::{Arrival, Clock};
use super::scan::{Findings, Found, Item, Scanned, Scanner, What};
use super::summary::{Outcome, Summary};
use crate::action::Action;
use crate::decide::Decider;
use crate::decode::envelope::Fragment;
use crate::decode::time::{Micros, When, Zone};
use crate::detect::detector::{Detector, StreamTime};
use crate::detect::rule::{Severity, Urgency};
use crate::pattern::event::Run;
use crate::pattern::{Events, PATTERN_NEAR_MISS};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Records that may be held aside because they lie too far ahead.
const HELD_MAX: usize = 1000;
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
}

#[derive(Debug, Default)]
struct SourceState {
    name: String,
    lines: u64,
    /// Time of its last matched record that was applied.
    last: Option<Micros>,
    /// Where to look for the year of its first time without one.
    year_near: Option<Micros>,
    year_said: bool,
    pieces: BTreeMap<String, Pieces>,
}

#[derive(Debug)]
struct Pieces {
    first: Fragment,
    content: String,
    /// Too long: the rest is dropped.
    full: bool,
}

#[derive(Debug)]
struct HeldBack {
    time: Micros,
    events: Events,
    source: u32,
    /// Number of its line, over all sources.
    line: u64,
    /// Its line was counted as `future`, to be corrected when it is applied.
    carries_line: bool,
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
    clock: Clock,
    detector: Detector,
    decider: Decider,
    key_names: Vec<String>,
    /// Few, and asked for with every record.
    sources: BTreeMap<u32, SourceState>,
    held: VecDeque<HeldBack>,
    /// Number of the line that is being applied, and whether one of its records was held and then
    /// applied while it was.
    line: u64,
    line_released: bool,
    /// The accounting.
    pub summary: Summary,
    /// Said once each: limits that were hit, by what and minute.
    said: HashMap<&'static str, i64>,
    /// Kinds of messages that were given; see [`Engine::forget_told`].
    told: std::collections::HashSet<String>,
    countries_seen: bool,
    /// Events by their pattern's number.
    by_pattern: Vec<u64>,
    /// Keys were given up that windows can still reach.
    degraded: bool,
    /// Messages for the log, not for sinks.
    pub messages: Vec<String>,
}

impl Engine {
    /// An engine at the beginning of a stream.
    pub fn new(
        scanner: Arc<Scanner>,
        detector: Detector,
        decider: Decider,
        config: OrderConfig,
    ) -> Self {
        Self {
            clock: Clock::new(config.lateness, config.max_ahead),
            key_names: detector.key_names(),
            scanner,
            config,
            detector,
            decider,
            sources: BTreeMap::new(),
            held: VecDeque::new(),
            line: 0,
            line_released: false,
            summary: Summary::default(),
            said: HashMap::new(),
            told: std::collections::HashSet::new(),
            countries_seen: false,
            by_pattern: Vec::new(),
            degraded: false,
            messages: Vec::new(),
        }
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
        let actions = std::mem::take(&mut self.decider.out);
        for action in &actions {
            self.summary.acted(action);
        }
        actions
    }

    /// The stream's clock.
    pub fn clock(&self) -> Option<Micros> {
        self.clock.now()
    }

    /// When the next decision ends.
    pub fn next_end(&self) -> Option<Micros> {
        self.decider.next_end()
    }

    /// Lets decisions end although the stream is idle; touches nothing else.
    pub fn idle_until(&mut self, clock: Micros) {
        self.decider.advance(clock, &self.key_names);
    }

    /// Lets every kind of message be given once more; `run` does so every minute.
    pub fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Whether any event had a country.
    pub fn countries_seen(&self) -> bool {
        self.countries_seen
    }

    /// The detector, for looking at.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Takes a batch in; what needs no order is counted at once.
    pub fn open(&mut self, mut scanned: Scanned) -> Cursor {
        let lines = &mut self.summary.lines;
        lines.add(Outcome::Empty, scanned.empty);
        lines.add(Outcome::Unmatched, scanned.unmatched);
        self.summary.records.add(Outcome::Unmatched, scanned.unmatched_records);
        self.summary.bytes += u64::try_from(scanned.batch.bytes.len()).unwrap_or(0);
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
                self.sources.entry(source).or_default().lines += cursor.scanned.lines;
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
            self.detector.foresee(events.of(Run::between(from, to)));
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
            (*line, *at) = (number + 1, *at + text.len() + 1);
            let fragment = if scanned.batch.oversized { None } else { self.scanner.fragment(text) };
            let state = self.sources.entry(source).or_default();
            let waits = fragment.as_ref().is_some_and(|f| state.pieces.contains_key(&f.stream));
            match (fragment, item) {
                (Some(fragment), item) if waits || !fragment.last => {
                    match item {
                        Some(_) => self.summary.lines.add(Outcome::Joined, 1),
                        // It was counted already: because it matches nothing by itself, or because
                        // it ends a line without adding to it.
                        None => match self.scanner.unmatched(text) {
                            None => self.summary.lines.change(Outcome::Empty, Outcome::Joined),
                            Some(records) => {
                                self.summary.lines.change(Outcome::Unmatched, Outcome::Joined);
                                self.summary.records.remove(Outcome::Unmatched, records);
                            }
                        },
                    }
                    self.piece(source, fragment, number, arrival);
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

    fn piece(&mut self, source: u32, fragment: Fragment, line: u64, arrival: Option<Micros>) {
        let state = self.sources.entry(source).or_default();
        let stream = fragment.stream.clone();
        let last = fragment.last;
        match state.pieces.get_mut(&stream) {
            Some(pieces) => {
                // As with any other line, what lies behind `max_line` bytes is not kept.
                let room = self.config.max_line.saturating_sub(pieces.content.len());
                let kept = fragment.content.floor_char_boundary(room);
                pieces.full |= kept < fragment.content.len();
                pieces.content.push_str(&fragment.content[..kept]);
            }
            None => {
                let content = fragment.content.clone();
                let first = Fragment { content: String::new(), ..fragment };
                state.pieces.insert(stream.clone(), Pieces { first, content, full: false });
                if state.pieces.len() > STREAMS_MAX
                    && let Some(other) = state.pieces.keys().find(|key| **key != stream).cloned()
                    && let Some(pieces) = state.pieces.remove(&other)
                {
                    // More streams than a container has: one is read as far as it is.
                    self.joined(source, &pieces, line, arrival);
                }
                return;
            }
        }
        if last && let Some(pieces) = state.pieces.remove(&stream) {
            self.joined(source, &pieces, line, arrival);
        }
    }

    /// Applies a line that was put together. Its pieces are counted as lines; its records are new.
    fn joined(&mut self, source: u32, pieces: &Pieces, line: u64, arrival: Option<Micros>) {
        if pieces.full {
            self.summary.lines.change(Outcome::Joined, Outcome::Oversized);
            self.oversized(source, line);
        }
        let mut findings = Findings::default();
        match self.scanner.clone().joined(&pieces.first, &pieces.content, &mut findings) {
            Some(What::Records(records)) => {
                self.line += 1;
                for found in records.of(&findings.records) {
                    let outcome = self.record(source, line, found, &findings.events, arrival);
                    self.summary.records.add(outcome, 1);
                }
            }
            Some(What::Unread(why, _)) => {
                // The line that ended it carries the outcome.
                if !pieces.full {
                    self.summary.lines.change(Outcome::Joined, Outcome::Unreadable);
                    *self.summary.unreadable.entry(why.to_string()).or_default() += 1;
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
                    *self.summary.unreadable.entry(why.to_string()).or_default() += 1;
                }
                if self.told.insert(format!("unreadable {why}")) {
                    let at = self.place(source, item.line);
                    self.messages.push(format!("{at}: unreadable line ({why}): {error}"));
                }
                Outcome::Unreadable
            }
            What::Piece => Outcome::Joined,
            What::Records(records) => {
                self.line += 1;
                self.line_released = false;
                let mut best = Outcome::Unmatched;
                let Findings { records: all, events } = &scanned.findings;
                for found in records.of(all) {
                    let outcome = self.record(source, item.line, found, events, arrival);
                    self.summary.records.add(outcome, 1);
                    best = best.min(outcome);
                }
                if self.line_released {
                    best = Outcome::Matched;
                }
                let line = self.line;
                if best == Outcome::Future
                    && !scanned.batch.oversized
                    && let Some(held) = self.held.iter_mut().find(|held| held.line == line)
                {
                    held.carries_line = true;
                }
                best
            }
        };
        let outcome = if scanned.batch.oversized {
            self.oversized(source, item.line);
            Outcome::Oversized
        } else {
            outcome
        };
        self.summary.lines.add(outcome, 1);
    }

    /// Applies one record.
    fn record(
        &mut self,
        source: u32,
        line: u64,
        found: &Found,
        events: &Events,
        arrival: Option<Micros>,
    ) -> Outcome {
        let Found { when, matched, sample } = found;
        let when = *when;
        let marks = &mut self.summary.marks;
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
        if !matched.named {
            let last = self.sources.get(&source).and_then(|state| state.last);
            let fallback = self.clock.now().or(last).or(arrival);
            if let Some(time) = time.map(|t| self.clock.clamp(t)).or(fallback) {
                self.events(events, matched.events, time);
            }
            return Outcome::NearMiss;
        }
        let Some(time) = time else {
            self.summary.marks.untimed += 1;
            let last = self.sources.get(&source).and_then(|state| state.last);
            let Some(time) = arrival.or(last) else { return Outcome::NoTime };
            self.summary.saw(time);
            self.events(events, matched.events, time);
            return Outcome::Matched;
        };
        let before = self.clock.now();
        let (arrived, restarted) = self.clock.observe(time);
        if restarted {
            self.note_restart();
        }
        if self.clock.now() != before {
            self.clock_moved();
        }
        match arrived {
            Arrival::Late => Outcome::Late,
            Arrival::Ahead => {
                self.hold(HeldBack {
                    time,
                    events: events.cut(matched.events),
                    source,
                    line: self.line,
                    carries_line: false,
                });
                Outcome::Future
            }
            Arrival::OnTime => {
                self.sources.entry(source).or_default().last = Some(time);
                self.summary.saw(time);
                self.events(events, matched.events, time);
                Outcome::Matched
            }
        }
    }

    fn hold(&mut self, held: HeldBack) {
        if self.held.len() >= HELD_MAX {
            // The oldest stays what it was counted as: future.
            self.held.pop_front();
            let reason = format!(
                "more than {HELD_MAX} records lie too far ahead of the clock: the oldest is given up"
            );
            self.limit("held", held.time, reason);
        }
        self.held.push_back(held);
    }

    fn clock_moved(&mut self) {
        let Some(now) = self.clock.now() else { return };
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            for held in held {
                if self.clock.is_ahead(held.time) {
                    self.held.push_back(held);
                    continue;
                }
                self.line_released |= held.line == self.line;
                self.summary.records.change(Outcome::Future, Outcome::Matched);
                if held.carries_line {
                    self.summary.lines.change(Outcome::Future, Outcome::Matched);
                }
                self.sources.entry(held.source).or_default().last = Some(held.time);
                self.summary.saw(held.time);
                self.events(&held.events, held.events.all(), held.time);
            }
        }
        self.decider.advance(now, &self.key_names);
        self.decider.forget(now.saturating_sub(self.config.lateness));
    }

    fn events(&mut self, events: &Events, run: Run, time: Micros) {
        let stream = StreamTime { clock: self.clock.now(), start: self.clock.start() };
        for event in events.of(run) {
            self.countries_seen |= event.country.is_some();
            let pattern = usize::from(event.pattern);
            if self.by_pattern.len() <= pattern {
                self.by_pattern.resize(pattern + 1, 0);
            }
            if let Some(count) = self.by_pattern.get_mut(pattern) {
                *count += 1;
            }
            let Self { detector, decider, key_names, .. } = self;
            detector.observe(event, time, stream, &mut |firing| decider.fire(&firing, key_names));
        }
        self.keep_ceiling(time);
    }

    /// Gives up what is too much. When it begins and when nothing of it is left, a line says so.
    fn keep_ceiling(&mut self, time: Micros) {
        let given_up = self.detector.enforce_ceiling(self.clock.now(), self.decider.bytes());
        if given_up.values > 0 {
            let reason = format!(
                "values known to the whole stream reached their share of memory_limit: {} were \
                 given up, those unseen longest first",
                given_up.values
            );
            self.limit("known_values", time, reason);
        }
        let reason = if given_up.keys > 0 && !self.degraded {
            self.degraded = true;
            *self.summary.limits.entry("memory_limit").or_default() += 1;
            "state reached memory_limit: keys are given up, those with the fewest events and the \
             oldest first; until their windows are over, what was given up counts as an upper \
             bound, and a crossing that needs it alerts and is marked approx"
        } else if given_up.keys == 0 && self.degraded && !self.detector.is_degraded() {
            self.degraded = false;
            "the windows of all keys that were given up for memory_limit are over: every count is \
             exact again"
        } else {
            return;
        };
        let time = self.clock.now().unwrap_or(time);
        self.decider.note("limit", Severity::P1, Urgency::Warning, time, reason.to_owned());
    }

    fn note_near_misses(&mut self, source: u32, line: u64, ids: &[u16], sample: &str) {
        for id in ids {
            let name = self.scanner.set.name(*id).to_owned();
            let at = self.place(source, line);
            let near = self.summary.near_misses.entry(name.clone()).or_default();
            near.count += 1;
            if near.count == 1 {
                near.sample = sample.to_owned();
                near.at = at.clone();
            }
            if self.told.insert(format!("near {name}")) {
                let shown = crate::action::escape(sample);
                self.messages.push(format!(
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
            self.messages.push(format!(
                "{name}: its times name no year; the first was taken as {year}, nearest to the \
                 source's own date: `year` in the configuration pins it"
            ));
        }
    }

    fn say_proxy_hidden(&mut self) {
        if self.said.insert("proxy_hidden", 0).is_none() {
            self.messages.push(
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
            self.messages.push(format!("{at}: longer than max_line ({max} bytes)"));
        }
        let time = self.clock.now().or(self.sources.get(&source).and_then(|s| s.last)).unwrap_or(0);
        let reason =
            format!("a line is longer than max_line ({max} bytes): only its beginning was read");
        self.limit("max_line", time, reason);
    }

    /// Counts a limit that was reached; one line a minute says so. The reason names no source:
    /// the same input gives the same bytes, wherever it comes from.
    fn limit(&mut self, what: &'static str, time: Micros, reason: String) {
        *self.summary.limits.entry(what).or_default() += 1;
        // By the clock, which does not go back and forth as the times of records do.
        let time = self.clock.now().unwrap_or(time);
        let minute = time.div_euclid(60_000_000);
        if self.said.insert(what, minute) == Some(minute) {
            return;
        }
        self.decider.note("limit", Severity::P1, Urgency::Warning, time, reason);
    }

    fn note_restart(&mut self) {
        let now = self.clock.now().unwrap_or_default();
        let reason = format!(
            "fifty late records in a row agreed on another time: the clock was set to {}",
            crate::decode::time::format(now)
        );
        self.decider.note("clock", Severity::P2, Urgency::Warning, now, reason);
    }

    fn resolve(&self, source: u32, when: When) -> Micros {
        match when {
            When::At(time) => time,
            When::Yearless(yearless) => {
                let zone = &self.config.zone;
                let state = self.sources.get(&source);
                if let Some(reference) = state.and_then(|s| s.last).or(self.clock.now()) {
                    return yearless.nearest(reference, zone);
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
        let mut sources = sources;
        sources.sort_unstable();
        for source in sources {
            let pieces = self
                .sources
                .get_mut(&source)
                .map(|s| std::mem::take(&mut s.pieces))
                .unwrap_or_default();
            for pieces in pieces.into_values() {
                self.joined(source, &pieces, 0, None);
            }
        }
        for (pattern, count) in (0..).zip(&self.by_pattern).filter(|(_, count)| **count > 0) {
            let name = self.scanner.set.name(pattern).to_owned();
            self.summary.events.insert(name, *count);
        }
        let (keys, bytes) = self.detector.held();
        self.summary.keys_held = u64::try_from(keys).unwrap_or(0);
        self.summary.state_bytes = u64::try_from(bytes).unwrap_or(0);
        self.summary.keys_evicted = self.detector.evicted();
        self.summary.decisions_active = u64::try_from(self.decider.active()).unwrap_or(0);
        for (rule, count) in self.detector.rules().iter().zip(&self.detector.keyless) {
            if *count > 0 {
                self.summary.keyless.insert(rule.id.clone(), *count);
            }
        }
    }
}
