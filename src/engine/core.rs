//! The state machine: entries in, action lines out. It knows no line, no file and no moment.
//!
//! Everything that the stream's state follows from comes in as an [`Entry`], or as an [`Input`] that
//! [`Core::record`] takes without a copy of its own. So a [`Journal`] of what came in, applied to
//! the state of an earlier moment, gives the state and the lines of a later one. A record that was
//! applied before is told by its [`Origin`] and dropped: whoever brings records may bring them again.
//!
//! # What whoever brings records must hold
//!
//! Of a source one place is remembered, that of the last record that was taken in, and all up to it
//! counts as taken in. That is exact if these hold, for a log that several machines write to as well
//! as for a file that one reads:
//!
//! * What comes of a source for the first time comes in the order of its places, with nothing left
//!   out. Whoever cannot hand a record over hands none over after it; whoever goes on for another
//!   begins no later than at the first record that is not known to have arrived. Then all that a
//!   predecessor still writes, or that is read again, lies at or before the place and is dropped.
//! * A place names one record. What of it counts under several keys of one state comes as one record.
//! * Records of one origin that come over several ways are several sources, or go to several states:
//!   one way may be ahead of another.
//! * "Nothing before this time can still come", by which records are [released](Core::release), is
//!   said on the same way as the records and behind them.
//! * A journal and captured states have one writer: one that was superseded may hand lines over, but
//!   must not write.
//!
//! States that each see a part of the keys then say together what one says that sees everything, for
//! rules whose windows lie within one key. What is judged by all records that a state has seen is
//! not the same: how far ahead a record may be, what the whole stream knows (`new`), how long
//! learning lasts, the brakes, and what `memory_limit` gives up.

use super::ask::{Counter, Spared, Why};
use super::clock::{Arrival, Clock};
use super::entry::{Entry, Input, Journal, Origin, Owned, Rank};
use super::judge::Judge;
use super::seen::{Seen, Taken};
use super::summary::{Outcome, Summary};
use crate::action::decision::Decision;
use crate::action::order::{Carried, Order};
use crate::action::{Action, Target};
use crate::decide::Decider;
use crate::decide::hand::{Known, keys_of, standing_of};
use crate::decide::ledger::Renumber;
use crate::decide::line::Due;
use crate::decode::time::Micros;
use crate::detect::condition::ActionKind;
use crate::detect::detector::{Detector, StreamTime, describe};
use crate::detect::dictionary::{Dictionary, Translation};
use crate::detect::rule::{Severity, Urgency};
use crate::pattern::Events;
use crate::pattern::event::{EventView, Run};
use crate::window::codec::{Reader, number, put_bytes, put_number, put_option, put_time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Records that may be held aside because they lie too far ahead.
const HELD_MAX: usize = 1000;
/// The version of what [`Core::capture`] writes and of the entries of a journal.
pub const FORMAT: u64 = 5;
/// The minute of a limit that is to be said with the first time that the stream shows.
const UNTIMED: i64 = i64::MIN;
/// What a limit or a message that is given once is called.
const SAID: [&str; 9] = [
    "alerts",
    "dedupe",
    "held",
    "known_values",
    MAX_LINE,
    "open_files",
    "proxy_hidden",
    "reorder",
    "sink",
];
/// The part of `memory_limit` that alerts in force may take.
const ALERTS_PART: usize = 4;
const MAX_LINE: &str = "max_line";

/// What the state machine needs of the settings.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct CoreConfig {
    /// How late a record may be, microseconds.
    pub lateness: Micros,
    /// How far ahead of the clock a record may be, microseconds.
    pub max_ahead: Micros,
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
    /// Time of its last matched record that was applied.
    last: Option<Micros>,
    /// The last record that was taken in.
    applied: Option<Origin>,
}

#[derive(Debug)]
struct HeldBack {
    time: Micros,
    events: Events,
    source: u32,
    /// Number of its line, over all sources.
    line: u64,
    /// It was counted as `future`, to be corrected when it is applied; not if that was before a
    /// restart.
    counted: bool,
    /// So was its line.
    carries_line: bool,
}

/// A record of a partition that waits for those of others.
#[derive(Debug)]
struct Waiting {
    record: Owned,
    /// It was counted as `matched`, to be corrected when it is applied and is something else.
    counted: bool,
    carries_line: bool,
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    clock: Clock,
    detector: Detector,
    decider: Decider,
    key_names: Arc<[String]>,
    patterns: Vec<String>,
    /// What decides, as it is kept.
    settings: String,
    /// Few, and asked for with every record.
    sources: BTreeMap<u32, SourceState>,
    held: VecDeque<HeldBack>,
    waiting: BTreeMap<(Micros, Rank, Origin), Waiting>,
    waiting_bytes: usize,
    seen: Seen,
    /// Number of the line that is being applied, and whether one of its records was held and then
    /// applied while it was.
    line: u64,
    line_released: bool,
    /// The accounting.
    pub summary: Summary,
    /// Messages for the log, not for sinks.
    pub messages: Vec<String>,
    /// What comes in is written down here, if it is to last.
    pub journal: Option<Journal>,
    /// Said once each: limits that were hit, by what and minute.
    said: HashMap<&'static str, i64>,
    /// A line was too long before the stream had shown a time.
    untimed: bool,
    /// Events by their pattern's number.
    by_pattern: Vec<u64>,
    countries_seen: bool,
    /// Time of the latest record that was counted; the summary's is that of one run.
    newest: Option<Micros>,
    /// Keys were given up that windows can still reach.
    degraded: bool,
    /// The head of a capture that is under way.
    captured_head: Vec<u8>,
}

impl Core {
    /// The beginning of a stream; `patterns` are the names of patterns by number.
    pub fn new(
        detector: Detector,
        decider: Decider,
        patterns: Vec<String>,
        config: CoreConfig,
    ) -> Self {
        Self {
            clock: Clock::new(config.lateness, config.max_ahead),
            key_names: detector.key_names(),
            patterns,
            settings: Judge::of(&detector, &decider, config).text(),
            config,
            detector,
            decider,
            sources: BTreeMap::new(),
            held: VecDeque::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            seen: Seen::new(config.dedupe, config.dedupe_max),
            line: 0,
            line_released: false,
            summary: Summary::default(),
            messages: Vec::new(),
            journal: None,
            said: HashMap::new(),
            untimed: false,
            by_pattern: Vec::new(),
            countries_seen: false,
            newest: None,
            degraded: false,
            captured_head: Vec::new(),
        }
    }

    /// The lines that are due.
    pub fn take_actions(&mut self) -> Vec<Action> {
        self.take_due().into_iter().map(Due::action).collect()
    }

    /// The lines that are due, to be written by whoever hands them on.
    pub fn take_due(&mut self) -> Vec<Due> {
        let due = std::mem::take(&mut self.decider.out);
        for line in &due {
            self.summary.acted(line);
        }
        due
    }

    /// From here on says which alerts have become longer in silence.
    pub fn watch_ends(&mut self) {
        self.decider.prolonged = Some(BTreeMap::new());
    }

    /// Alerts that have become longer in silence since this was asked last: their ids and ends.
    pub fn take_prolonged(&mut self) -> BTreeMap<u64, Micros> {
        self.decider.prolonged.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The stream's clock.
    pub fn clock(&self) -> Option<Micros> {
        self.clock.now()
    }

    /// Time of the latest record that was counted, also before a restart.
    pub fn newest(&self) -> Option<Micros> {
        self.newest
    }

    /// When the next decision ends.
    pub fn next_end(&self) -> Option<Micros> {
        self.decider.next_end()
    }

    /// Whether any event had a country.
    pub fn countries_seen(&self) -> bool {
        self.countries_seen
    }

    /// The detector, for looking at.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// The detector, to be told what comes next.
    pub fn detector_mut(&mut self) -> &mut Detector {
        &mut self.detector
    }

    /// Time of the last record of a source that was applied.
    pub fn last(&self, source: u32) -> Option<Micros> {
        self.sources.get(&source).and_then(|state| state.last)
    }

    /// Records of partitions that wait for others, and the time of the first.
    pub fn waiting(&self) -> (usize, Option<Micros>) {
        (self.waiting.len(), self.waiting.first_key_value().map(|((time, ..), _)| *time))
    }

    /// Keys that are held.
    pub fn keys(&self) -> usize {
        self.detector.held().0
    }

    /// A line begins; its records follow.
    pub fn begin_line(&mut self) {
        self.line += 1;
        self.line_released = false;
    }

    /// A line has ended, with this outcome of its best record; gives what the line is counted as.
    pub fn end_line(&mut self, best: Outcome, oversized: bool) -> Outcome {
        let best = if self.line_released { Outcome::Matched } else { best };
        let line = self.line;
        if best == Outcome::Future
            && !oversized
            && let Some(held) = self.held.iter_mut().find(|held| held.line == line)
        {
            held.carries_line = true;
        }
        best
    }

    /// Takes anything in that was written down, and counts records as whoever wrote it did: what
    /// becomes of one that waits or is held is a correction of that count.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Record(record) => {
                self.begin_line();
                let outcome = self.record(&record.input());
                self.summary.records.add(outcome, 1);
            }
            Entry::Wait { record, time, rank } => {
                let outcome = self.wait(record, time, rank, false);
                self.summary.records.add(outcome, 1);
            }
            Entry::Oversized { source } => self.oversized(source),
            Entry::Idle { clock } => self.idle_until(clock),
            Entry::Release { before } => self.release(before),
            Entry::Anew { source } => self.anew(source),
            Entry::SourceNote { time, reason } => self.source_note(time, reason),
            Entry::Order(order) => {
                self.order(&order);
            }
            Entry::Sweep { at } => {
                self.lift_allowed(at);
            }
        }
    }

    /// Whether entries come that were written down when other rules were loaded.
    pub fn expect_partial(&mut self, partial: bool) {
        self.detector.expect_partial(partial);
    }

    fn write_down(&mut self, entry: impl FnOnce() -> Entry) {
        if let Some(journal) = &mut self.journal {
            journal.put(&entry());
        }
    }

    /// Lets decisions end although the stream is idle; touches nothing else.
    pub fn idle_until(&mut self, clock: Micros) {
        let before = self.decider.out.len();
        self.decider.advance(clock, &self.key_names);
        if self.decider.out.len() > before {
            self.write_down(|| Entry::Idle { clock });
        }
    }

    /// A source begins anew: what comes is not what was applied before, whatever its place says.
    pub fn anew(&mut self, source: u32) {
        if let Some(state) = self.sources.get_mut(&source)
            && state.applied.take().is_some()
        {
            self.write_down(|| Entry::Anew { source });
        }
    }

    /// Something was lost or is wrong with a source. The sentence names no source: the same input
    /// gives the same bytes wherever it lies.
    pub fn source_note(&mut self, time: Micros, reason: String) {
        self.write_down(|| Entry::SourceNote { time, reason: reason.clone() });
        *self.summary.limits.entry("source").or_default() += 1;
        self.decider.note("source", Severity::P1, Urgency::Warning, time, reason);
    }

    /// Carries a person's order out.
    pub fn order(&mut self, order: &Order) -> Carried {
        // Where records are ahead of the wall clock (their times may say another zone's), what an order
        // grants would be over before it begins.
        let order = &order.not_before(self.clock.now());
        let carried = self.decider.carry_out(order, &self.key_names);
        // What was refused changed nothing, and must not be judged again by other guards.
        if carried.refused.is_none() {
            self.write_down(|| Entry::Order(order.clone()));
        }
        carried
    }

    /// Lets go of whoever is on the allowlist at `at` by the wall clock; what was active.
    pub fn lift_allowed(&mut self, at: Micros) -> Vec<Decision> {
        let lifted = self.decider.lift_allowed(at, &self.key_names);
        if !lifted.is_empty() {
            self.write_down(|| Entry::Sweep { at });
        }
        lifted
    }

    /// What is active.
    pub fn standing(&self) -> Vec<Decision> {
        self.decider.standing(&self.key_names)
    }

    /// Takes decisions in that were made and told of and are not known here, because the rules or
    /// settings were others when they were made. Gives the ids of decisions that give way to them.
    pub fn adopt(&mut self, known: &[Known]) -> Vec<String> {
        self.decider.adopt(known, self.detector.rules(), &self.key_names)
    }

    /// Who is spared at `at` by the wall clock.
    pub fn spared(&self, at: Micros) -> Vec<Spared> {
        self.decider.guard().spared(at).map(Spared::of).collect()
    }

    /// How a target stands at `now`, of the stream's time.
    pub fn why(&self, target: &Target, now: Micros) -> Why {
        // The clock lies a little behind what was counted last.
        let now = self.newest.map_or(now, |newest| now.max(newest));
        let names = &self.key_names;
        let keys = keys_of(target, self.detector.ipv6_prefix(), names);
        let kind = match target.kind.as_str() {
            "user" | "user_id" => ActionKind::Lock,
            _ => ActionKind::Block,
        };
        let guard = keys.iter().find_map(|key| {
            self.decider.guard().forbids(key.view(), standing_of(key.view()), kind, now)
        });
        let mut counters = Vec::new();
        for key in &keys {
            let (kind, value) = describe(key.view(), names);
            let of = Target { kind, value };
            for counted in self.detector.counted(key.view(), now) {
                let other = (of != *target).then(|| of.clone());
                counters.push(Counter { target: other, ..Counter::of(&counted, now) });
            }
        }
        Why { counters, guard, decisions: self.decider.against(target, names) }
    }

    /// Whether a record was taken in before; notes it if not.
    fn repeats(&mut self, source: u32, origin: Option<Origin>) -> bool {
        let Some(origin) = origin else { return false };
        let state = self.sources.entry(source).or_default();
        if state.applied.is_some_and(|applied| origin <= applied) {
            return true;
        }
        state.applied = Some(origin);
        false
    }

    /// Whether a record that is to be known again was taken in before; remembers it if not.
    fn comes_again(&mut self, input: &Input<'_>) -> bool {
        let Some(print) = input.print else { return false };
        let clock = self.clock.now();
        match self.seen.take(print, clock) {
            Taken::Again => return true,
            Taken::New => {}
            Taken::Crowded => {
                let reason = "more records than can be remembered came within `dedupe`: if the oldest \
                              come again, they count again";
                self.limit("dedupe", clock.or(input.time).unwrap_or(0), reason.to_owned());
            }
        }
        false
    }

    /// Takes a record of a partition in, to be applied in its turn among all partitions, by `time`
    /// and `rank`.
    pub fn wait(&mut self, record: Owned, time: Micros, rank: Rank, carries_line: bool) -> Outcome {
        if self.repeats(record.source, record.origin) {
            return Outcome::Repeated;
        }
        if let Some(journal) = &mut self.journal {
            journal.wait(&record.input(), time, &rank);
        }
        let origin = record.origin.unwrap_or_default();
        self.waiting_bytes += record.bytes();
        self.waiting.insert((time, rank, origin), Waiting { record, counted: true, carries_line });
        if self.waiting_bytes > self.config.waiting_max {
            let middle = self.waiting.keys().nth(self.waiting.len() / 2).map(|(time, ..)| *time);
            let reason = "too many records wait for slower partitions: the earliest are applied \
                          without them";
            self.limit("reorder", time, reason.to_owned());
            // The first goes in any case.
            let first = self.waiting().1.unwrap_or(time).saturating_add(1);
            self.release(middle.unwrap_or(time).max(first));
        }
        Outcome::Matched
    }

    /// Applies the records that wait and lie before `before`.
    pub fn release(&mut self, before: Micros) {
        if self.waiting().1.is_none_or(|first| first >= before) {
            return;
        }
        self.write_down(|| Entry::Release { before });
        let journal = self.journal.take();
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 >= before {
                break;
            }
            let Waiting { record, counted, carries_line } = first.remove();
            self.waiting_bytes = self.waiting_bytes.saturating_sub(record.bytes());
            self.begin_line();
            let outcome = if self.comes_again(&record.input()) {
                Outcome::Repeated
            } else {
                self.put_in_order(&record.input())
            };
            if counted {
                self.summary.records.change(Outcome::Matched, outcome);
            }
            if carries_line {
                self.summary.lines.change(Outcome::Matched, outcome);
            }
            if outcome == Outcome::Future
                && let Some(held) = self.held.back_mut()
            {
                // What was not counted when it came in is not to be corrected either.
                (held.counted, held.carries_line) = (counted, carries_line);
            }
        }
        self.journal = journal;
    }

    /// Takes a record in and applies it.
    pub fn record(&mut self, input: &Input<'_>) -> Outcome {
        if self.repeats(input.source, input.origin) || self.comes_again(input) {
            return Outcome::Repeated;
        }
        if let Some(journal) = &mut self.journal {
            journal.record(input);
        }
        self.put_in_order(input)
    }

    /// Applies a record.
    fn put_in_order(&mut self, input: &Input<'_>) -> Outcome {
        let Input { source, time, arrival, named, events, run, .. } = *input;
        if !named {
            let fallback = self.clock.now().or(self.last(source)).or(arrival);
            if let Some(time) = time.map(|t| self.clock.clamp(t)).or(fallback) {
                self.events(events, run, time);
            }
            // One whose times contradict each other is matched, and tells no time.
            let is_named =
                |event: EventView<'_>| usize::from(event.pattern) >= crate::pattern::BUILT_IN.len();
            let matched = events.of(run).any(is_named);
            return if matched { Outcome::Matched } else { Outcome::NearMiss };
        }
        let Some(time) = time else {
            self.summary.marks.untimed += 1;
            let Some(time) = arrival.or(self.last(source)) else { return Outcome::NoTime };
            if self.untimed {
                self.say_too_long(time);
            }
            self.saw(time);
            self.events(events, run, time);
            return Outcome::Matched;
        };
        let before = self.clock.now();
        let (arrived, restarted) = self.clock.observe(time);
        if restarted {
            // Nothing of before tells how far the stream has come.
            self.newest = None;
            self.note_restart();
        }
        if self.clock.now() != before {
            self.clock_moved(before);
        } else if let Some(now) = before {
            // A late record may have begun what was over by then.
            self.decider.advance(now, &self.key_names);
        }
        match arrived {
            Arrival::Late => Outcome::Late,
            Arrival::Ahead => {
                self.hold(HeldBack {
                    time,
                    events: events.cut(run),
                    source,
                    line: self.line,
                    counted: true,
                    carries_line: false,
                });
                Outcome::Future
            }
            Arrival::OnTime => {
                self.sources.entry(source).or_default().last = Some(time);
                if self.untimed {
                    self.say_too_long(time);
                }
                self.saw(time);
                self.events(events, run, time);
                Outcome::Matched
            }
        }
    }

    fn saw(&mut self, time: Micros) {
        self.newest = self.newest.max(Some(time));
        self.summary.saw(time);
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

    /// What was held and is no longer too far ahead is applied as of `before`: however far the clock has come,
    /// nothing of it is over yet.
    fn clock_moved(&mut self, before: Option<Micros>) {
        let Some(now) = self.clock.now() else { return };
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            for held in held {
                if self.clock.is_ahead(held.time) {
                    self.held.push_back(held);
                    continue;
                }
                self.line_released |= held.line == self.line;
                if held.counted {
                    self.summary.records.change(Outcome::Future, Outcome::Matched);
                }
                if held.carries_line {
                    self.summary.lines.change(Outcome::Future, Outcome::Matched);
                }
                self.sources.entry(held.source).or_default().last = Some(held.time);
                self.saw(held.time);
                self.events_at(&held.events, held.events.all(), held.time, before);
            }
        }
        self.decider.advance(now, &self.key_names);
        self.decider.forget(now.saturating_sub(self.config.lateness));
    }

    fn events(&mut self, events: &Events, run: Run, time: Micros) {
        self.events_at(events, run, time, self.clock.now());
    }

    fn events_at(&mut self, events: &Events, run: Run, time: Micros, clock: Option<Micros>) {
        let stream = StreamTime { clock, start: self.clock.start() };
        self.detector.begin_record();
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
        let share = self.detector.config().memory_limit / ALERTS_PART;
        let at = self.clock.now().unwrap_or(time);
        if self.decider.keep_below(share, at, &self.key_names) > 0 {
            let reason = "alerts in force reached their share of memory_limit: those that would end first end \
                          before their time, and may come again";
            self.limit("alerts", time, reason.to_owned());
        }
        let beside = self.decider.bytes() + self.seen.bytes();
        let given_up = self.detector.enforce_ceiling(self.clock.now(), beside);
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

    /// A line of a source was longer than a line may be.
    pub fn oversized(&mut self, source: u32) {
        self.write_down(|| Entry::Oversized { source });
        *self.summary.limits.entry(MAX_LINE).or_default() += 1;
        match self.clock.now().or(self.last(source)) {
            Some(time) => self.say_too_long(time),
            // Live or replayed, what is said must not depend on when that was.
            None => {
                self.untimed = true;
                self.said.entry(MAX_LINE).or_insert(UNTIMED);
            }
        }
    }

    fn say_too_long(&mut self, time: Micros) {
        self.untimed = false;
        let max = self.config.max_line;
        let reason =
            format!("a line is longer than max_line ({max} bytes): only its beginning was read");
        self.say_limit(MAX_LINE, time, reason);
    }

    /// Whether something is said for the first time.
    pub fn first_time(&mut self, what: &'static str) -> bool {
        self.said.insert(what, 0).is_none()
    }

    /// Counts a limit that was reached; one line a minute says so. The reason names no source:
    /// the same input gives the same bytes, wherever it comes from.
    fn limit(&mut self, what: &'static str, time: Micros, reason: String) {
        *self.summary.limits.entry(what).or_default() += 1;
        self.say_limit(what, time, reason);
    }

    fn say_limit(&mut self, what: &'static str, time: Micros, reason: String) {
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

    /// Lines for a sink were lost because too many waited for it.
    pub fn sink_overflowed(&mut self, time: Micros) {
        let reason = "too many lines wait for a sink: further ones are lost to it, and the log of \
                      Portcullis says which";
        self.limit("sink", time, reason.to_owned());
    }

    /// A file of a replay is not opened when its time, `first`, has come, because too many are open.
    pub fn input_held(&mut self, first: Micros) {
        let reason = "too many files cover the same time: some are read only when others have ended, \
                      and what is in them may come late";
        self.limit("open_files", first, reason.to_owned());
    }

    /// The names of patterns by number.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Puts into the summary what is known only at the end.
    pub fn finish(&mut self) {
        // What the last record began may be over already.
        if let Some(now) = self.clock.now() {
            self.idle_until(now);
        }
        // The stream has ended without a time; one that lasts goes on.
        if self.untimed && self.journal.is_none() {
            self.say_too_long(0);
        }
        self.summary = self.summary_now();
    }

    /// The summary as it would be if this were the end.
    pub fn summary_now(&self) -> Summary {
        let mut summary = self.summary.clone();
        for (name, count) in self.patterns.iter().zip(&self.by_pattern).filter(|(_, n)| **n > 0) {
            *summary.events.entry(name.clone()).or_default() += *count;
        }
        let (keys, bytes) = self.detector.held();
        summary.keys_held = number(keys);
        summary.state_bytes = number(bytes);
        summary.keys_evicted = self.detector.evicted();
        summary.decisions_active = number(self.decider.active());
        for (rule, count) in self.detector.rules().iter().zip(&self.detector.keyless) {
            if *count > 0 {
                summary.keyless.insert(rule.id.clone(), *count);
            }
        }
        summary
    }

    /// Takes over what was counted and said by one that this one goes on for.
    pub fn take_over(&mut self, before: Self) {
        let Self {
            summary,
            messages,
            journal,
            patterns,
            by_pattern,
            countries_seen,
            decider,
            held,
            waiting,
            ..
        } = before;
        // The same are held and wait, in the same order.
        for (now, before) in self.held.iter_mut().zip(held) {
            (now.counted, now.carries_line) = (before.counted, before.carries_line);
        }
        for (now, before) in self.waiting.values_mut().zip(waiting.into_values()) {
            (now.counted, now.carries_line) = (before.counted, before.carries_line);
        }
        (self.summary, self.messages, self.journal) = (summary, messages, journal);
        self.decider.prolonged = decider.prolonged;
        self.countries_seen = countries_seen;
        for (name, count) in patterns.iter().zip(by_pattern).filter(|(_, count)| *count > 0) {
            *self.summary.events.entry(name.clone()).or_default() += count;
        }
    }

    /// Forgets what was counted for the summary, as after a recovery: it tells of one run.
    pub fn forget_counts(&mut self) {
        self.summary = Summary::default();
        self.messages.clear();
        self.by_pattern.clear();
        self.detector.keyless.fill(0);
        // There is no count left that could be corrected.
        for held in &mut self.held {
            (held.counted, held.carries_line) = (false, false);
        }
        for waiting in self.waiting.values_mut() {
            (waiting.counted, waiting.carries_line) = (false, false);
        }
    }

    /// What numbers in captured states and in journals mean.
    pub fn dictionary(&self) -> Dictionary {
        Dictionary {
            patterns: self.patterns.clone(),
            fields: self.key_names.to_vec(),
            settings: self.settings.clone(),
            ..self.detector.dictionary().clone()
        }
    }

    /// The beginning of a stream by the settings with which `names` were written, on this machine;
    /// `None` if this version does not read them, or their numbers mean something else to it.
    pub fn as_of(&self, names: &Dictionary) -> Option<Self> {
        let Judge { rules, detect, decide, guard, core } = Judge::read(&names.settings)?;
        let pattern = |name: &str| {
            let place = names.patterns.iter().position(|known| known == name)?;
            place.try_into().ok()
        };
        let detector = Detector::new(&rules, &names.counted, pattern, detect);
        let decider = Decider::new(decide, self.decider.guard().by(guard));
        let mut then = Self::new(detector, decider, names.patterns.clone(), core);
        then.settings.clone_from(&names.settings);
        then.know_fields(&names.fields);
        (then.dictionary() == *names).then_some(then)
    }

    /// Knows these names too: an active decision may need one that no rule needs any more.
    fn know_fields(&mut self, names: &[String]) {
        let new: Vec<_> = names.iter().filter(|name| !self.key_names.contains(name)).collect();
        if !new.is_empty() {
            self.key_names = self.key_names.iter().chain(new).cloned().collect();
        }
    }

    /// Writes all that its state is, but for the keys: those follow, shard by shard.
    fn capture(&self, out: &mut Vec<u8>) {
        put_number(out, FORMAT);
        self.clock.capture(out);
        self.detector.capture(out);
        self.decider.capture(out);
        put_number(out, number(self.sources.len()));
        for (source, state) in &self.sources {
            put_number(out, u64::from(*source));
            put_option(out, state.last, put_time);
            put_option(out, state.applied, |out, origin| origin.put(out));
        }
        put_number(out, number(self.held.len()));
        for held in &self.held {
            let HeldBack { time, ref events, source, .. } = *held;
            let input = Input {
                source,
                origin: None,
                time: Some(time),
                arrival: None,
                named: true,
                print: None,
                events,
                run: events.all(),
            };
            input.put(out);
        }
        put_number(out, number(self.waiting.len()));
        for ((time, rank, _), waiting) in &self.waiting {
            put_time(out, *time);
            rank.put(out);
            waiting.record.input().put(out);
        }
        put_number(out, number(self.said.len()));
        for (what, minute) in &self.said {
            put_bytes(out, what.as_bytes());
            put_time(out, *minute);
        }
        out.push(u8::from(self.degraded));
        self.decider.capture_more(out);
        self.decider.capture_later(out);
        self.seen.capture(out);
        self.detector.store().capture_domains(out);
        self.decider.capture_reasons(out);
        put_option(out, self.newest, put_time);
    }

    /// Shards that keys lie in.
    fn shards() -> usize {
        crate::window::store::Store::shards()
    }

    /// Everything as one text of bytes, as [`Core::restore`] reads it: the head, then the shards,
    /// each with its length before it.
    pub fn capture_all(&mut self) -> Vec<u8> {
        self.begin_capture(Vec::new());
        loop {
            match self.take_captured() {
                Some(pieces) => return pieces.concat(),
                None => self.detector.store_mut().capture_next(),
            }
        }
    }

    /// Captures the state as it is now while the stream goes on: the head at once, and each shard
    /// of keys before the first change in it. `rooms` are buffers to be used.
    pub fn begin_capture(&mut self, mut rooms: Vec<Vec<u8>>) {
        let mut head = rooms.pop().unwrap_or_default();
        head.clear();
        self.capture(&mut head);
        self.captured_head = head;
        self.detector.store_mut().begin_capture(rooms);
    }

    /// Whether a capture is under way.
    pub fn is_capturing(&self) -> bool {
        self.detector.is_capturing()
    }

    /// Goes on with a capture for a moment; what was captured, once it is complete.
    pub fn go_on_capturing(&mut self) -> Option<Vec<Vec<u8>>> {
        let store = self.detector.store_mut();
        if store.is_capturing() {
            store.capture_next();
        }
        self.take_captured()
    }

    fn take_captured(&mut self) -> Option<Vec<Vec<u8>>> {
        let shards = self.detector.store_mut().take_captured()?;
        let head = std::mem::take(&mut self.captured_head);
        let mut pieces = Vec::with_capacity(2 * shards.len() + 2);
        for piece in std::iter::once(head).chain(shards) {
            pieces.push(number(piece.len()).to_le_bytes().to_vec());
            pieces.push(piece);
        }
        Some(pieces)
    }

    /// The format in which a state was captured, if that can be read.
    pub fn format_of(bytes: &[u8]) -> Option<u64> {
        let mut from = Reader::new(bytes);
        let len = usize::try_from(from.time()?).ok()?;
        Reader::new(from.take(len)?).number()
    }

    /// Brings the state back that was captured; this one must be at its beginning. `names` are what
    /// the captured numbers mean.
    ///
    /// # Errors
    /// When the bytes cannot be read: they are of another version or damaged.
    pub fn restore(&mut self, bytes: &[u8], names: &Dictionary) -> Result<(), String> {
        self.know_fields(&names.fields);
        let by = Translation::between(names, &self.dictionary());
        let mut from = Reader::new(bytes);
        let mut part = || {
            let len = usize::try_from(from.time()?).ok()?;
            from.take(len).map(Reader::new)
        };
        let mut head = part().ok_or("it is too short")?;
        let format = match head.number() {
            Some(format @ 1..=FORMAT) => format,
            Some(other) => {
                return Err(format!("its format is {other}, this version's is {FORMAT}"));
            }
            None => return Err("it is empty".to_owned()),
        };
        self.restore_head(&mut head, format, by.as_ref()).ok_or("its head cannot be read")?;
        for shard in 0..Self::shards() {
            let mut keys = part().ok_or("keys are missing")?;
            let restored = self.detector.restore_shard(shard, &mut keys, by.as_ref());
            if restored.is_none() || !keys.is_empty() {
                return Err(format!("the keys of shard {shard} cannot be read"));
            }
        }
        if from.is_empty() { Ok(()) } else { Err("it is longer than it says".to_owned()) }
    }

    fn restore_head(
        &mut self,
        from: &mut Reader<'_>,
        format: u64,
        by: Option<&Translation>,
    ) -> Option<()> {
        self.clock.restore(from)?;
        self.detector.restore(from, by)?;
        let own: Vec<Option<usize>> = (0..self.key_names.len()).map(Some).collect();
        let fields = by.map_or(&own, |by| &by.moves.fields);
        let now = Renumber {
            format,
            rules: self.detector.rules(),
            rule: &|old| by.map_or(Some(old), |by| by.rule(old)),
            fields,
        };
        self.decider.restore(from, &now)?;
        for _ in 0..from.number()? {
            let source = from.narrow()?;
            let last = from.option(Reader::time)?;
            let applied = from.option(Origin::take)?;
            self.sources.insert(source, SourceState { last, applied });
        }
        for _ in 0..from.number()? {
            let Owned { source, time, events, .. } = Owned::take(from, by)?;
            self.held.push_back(HeldBack {
                time: time?,
                events,
                source,
                line: 0,
                counted: false,
                carries_line: false,
            });
        }
        for _ in 0..from.number()? {
            let (time, rank) = (from.time()?, Rank::take(from)?);
            let record = Owned::take(from, by)?;
            let origin = record.origin.unwrap_or_default();
            self.waiting_bytes += record.bytes();
            let waiting = Waiting { record, counted: false, carries_line: false };
            self.waiting.insert((time, rank, origin), waiting);
        }
        for _ in 0..from.number()? {
            let (what, minute) = (from.text()?, from.time()?);
            if let Some(what) = SAID.into_iter().find(|known| *known == what) {
                self.untimed |= what == MAX_LINE && minute == UNTIMED;
                self.said.insert(what, minute);
            }
        }
        self.degraded = from.byte()? != 0;
        // The first format ends here.
        if !from.is_empty() {
            self.decider.restore_more(from)?;
        }
        // And the second here.
        if !from.is_empty() {
            self.decider.restore_later(from)?;
            self.seen.restore(from)?;
        }
        // And the third.
        if !from.is_empty() {
            self.detector.store_mut().restore_domains(from)?;
        }
        // And the fourth.
        if !from.is_empty() {
            self.decider.restore_reasons(from)?;
            self.newest = from.option(Reader::time)?;
        }
        from.is_empty().then_some(())
    }
}
