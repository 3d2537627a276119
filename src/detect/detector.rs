//! The detector: one event in, firings out. A single writer that sees events in canonical order.

use super::baseline::{Addresses, FORGET, Hours, Known, Seen};
use super::condition::Condition;
use super::rule::{KeyPart, Rule};
use crate::decode::addr;
use crate::decode::time::Micros;
use crate::pattern::{EventView, PatternId, Standing};
use crate::window::distinct::{DistinctRing, Value};
use crate::window::ring::{self, Ring};
use crate::window::sequence::SequenceRing;
use crate::window::store::{Held, Key, KeyKind, Mark, Retention, State, Store};
use crate::window::{Entry, Evidence, Span, Tally};
use std::sync::Arc;

/// A rule fires for a key.
#[derive(Debug, Clone)]
pub struct Firing<'f> {
    /// The rule.
    pub rule: &'f Arc<Rule>,
    /// For what.
    pub key: &'f Key,
    /// How many times before this rule fired for this key at this very time.
    pub ordinal: u32,
    /// What it holds; its time is the crossing's.
    pub span: Span,
    /// Different values, for `distinct`.
    pub distinct: Option<u64>,
    /// The value that was new, or the hour that was unusual.
    pub value: Option<String>,
    /// The pattern that was counted.
    pub pattern: &'f str,
    /// Addresses from which this account logged in before.
    pub known_ips: Vec<String>,
}

/// What became of a firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stands: its events are used up.
    Stands,
    /// A brake holds it: nothing is used up, and it is tried again in a later minute.
    Braked,
}

/// What the stream knows of time.
#[derive(Debug, Clone, Copy, Default)]
pub struct StreamTime {
    /// The clock, once there is one.
    pub clock: Option<Micros>,
    /// Where the clock began.
    pub start: Option<Micros>,
}

/// What the detector needs of the settings.
#[derive(Debug, Clone, Copy)]
pub struct DetectConfig {
    /// How late an event may be, microseconds.
    pub lateness: Micros,
    /// How long `first_seen`, `new` and `unusual` only learn, microseconds.
    pub learn: Micros,
    /// Bits of an IPv6 address that make a key.
    pub ipv6_prefix: u8,
    /// Ceiling of the windows, in counted bytes.
    pub memory_limit: usize,
}

#[derive(Debug)]
struct Plan {
    group: usize,
    /// The rule's place among those of its group.
    slot: usize,
    pattern: String,
}

/// Counts events and fires rules.
#[derive(Debug)]
pub struct Detector {
    rules: Vec<Arc<Rule>>,
    plans: Vec<Plan>,
    /// By group: how many rules share it.
    shared: Vec<usize>,
    retention: Vec<Retention>,
    store: Store<Window>,
    known: Vec<Known>,
    known_given_up: u64,
    /// Bytes for each rule that learns values of the whole stream: together a quarter of the
    /// ceiling; the windows have the rest.
    known_share: usize,
    addresses: Addresses,
    /// Patterns whose events are logins, for the addresses of accounts.
    logins: Vec<PatternId>,
    names: FieldNames,
    config: DetectConfig,
    /// By rule: events that lack its key.
    pub keyless: Vec<u64>,
    sequence_firsts: Vec<Option<PatternId>>,
}

/// The fields that keys are made of and values are compared of.
#[derive(Debug)]
struct FieldNames {
    /// Names of key fields.
    keys: Vec<String>,
    /// Names by slot of [`Event::values`].
    counted: Vec<String>,
}

impl Detector {
    /// A detector for `rules`; `counted` names the slots of [`Event::values`], `id` the patterns.
    pub fn new(
        rules: &[Rule],
        counted: &[String],
        id: impl Fn(&str) -> Option<PatternId>,
        config: DetectConfig,
    ) -> Self {
        let learns = |rule: &&Rule| matches!(rule.condition, Condition::New { .. });
        let learners = rules.iter().filter(learns).count();
        let mut plans = Vec::new();
        let mut shared: Vec<usize> = Vec::new();
        let mut retention: Vec<Retention> = Vec::new();
        let mut signatures: Vec<Option<String>> = Vec::new();
        let mut logins = Vec::new();
        for rule in rules {
            let signature = signature(rule);
            let found = signature.as_ref().and_then(|signature| {
                let same = |(i, s): (usize, &Option<String>)| {
                    s.as_ref() == Some(signature)
                        && shared.get(i).is_some_and(|n| *n < ring::RULES_MAX)
                };
                signatures.iter().enumerate().position(same)
            });
            let group = found.unwrap_or_else(|| {
                shared.push(0);
                retention.push(Retention(0));
                signatures.push(signature);
                shared.len() - 1
            });
            let slot = shared.get(group).copied().unwrap_or(0);
            if let (Some(count), Some(keep)) = (shared.get_mut(group), retention.get_mut(group)) {
                *count += 1;
                keep.0 = keep.0.max(rule.condition.within().unwrap_or(FORGET));
            }
            let pattern = match &rule.condition {
                Condition::Sequence { first, .. } => first.clone(),
                _ => rule.on.first().cloned().unwrap_or_default(),
            };
            let login = match &rule.condition {
                Condition::FirstSeen { .. } | Condition::Unusual => rule.on.first(),
                Condition::Sequence { then, .. } => Some(then),
                _ => None,
            };
            logins.extend(login.and_then(|name| id(name)));
            plans.push(Plan { group, slot, pattern });
        }
        let mut keys: Vec<String> = rules
            .iter()
            .flat_map(|rule| &rule.per)
            .filter_map(|part| match part {
                KeyPart::Field(name) => Some(name.clone()),
                KeyPart::Ip | KeyPart::User => None,
            })
            .collect();
        keys.sort();
        keys.dedup();
        logins.sort_unstable();
        logins.dedup();
        let sequence_firsts = rules
            .iter()
            .map(|rule| match &rule.condition {
                Condition::Sequence { first, .. } => id(first),
                _ => None,
            })
            .collect();
        Self {
            rules: rules.iter().cloned().map(Arc::new).collect(),
            plans,
            store: Store::new(&retention, config.memory_limit / 4 * 3),
            shared,
            retention,
            known: vec![Known::default(); rules.len()],
            known_given_up: 0,
            known_share: config.memory_limit / 4 / learners.max(1),
            addresses: Addresses::default(),
            logins,
            names: FieldNames { keys, counted: counted.to_vec() },
            config,
            keyless: vec![0; rules.len()],
            sequence_firsts,
        }
    }

    /// The rules, by number.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Keys held, and counted bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.store.keys(), self.store.bytes() + self.known.iter().map(Known::bytes).sum::<usize>())
    }

    /// Keys given up because of the ceiling.
    pub fn evicted(&self) -> u64 {
        self.store.evicted + self.known_given_up
    }

    /// The names of fields that keys are made of.
    pub fn key_names(&self) -> Vec<String> {
        self.names.keys.clone()
    }

    /// The key under which `rule` counts `event`.
    pub fn key(&self, rule: &Rule, event: EventView<'_>) -> Option<Key> {
        self.names.key(&rule.per, event, self.config.ipv6_prefix)
    }

    /// Counts one event at `time` and asks `decide` about every rule that fires.
    pub fn observe(
        &mut self,
        event: EventView<'_>,
        time: Micros,
        stream: StreamTime,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) {
        let quiet = match stream.start {
            Some(start) => time < start.saturating_add(self.config.learn),
            None => self.config.learn > 0,
        };
        let mut inserted: Vec<usize> = Vec::new();
        for number in event.rules().iter().map(|n| usize::from(*n)) {
            self.apply(number, event, time, stream, quiet, &mut inserted, decide);
        }
        if self.logins.contains(&event.pattern)
            && let (Some(account), Some(ip)) =
                (self.names.value(event, "user", self.config.ipv6_prefix), event.ip)
        {
            self.addresses.learn(&account, ip.ip);
        }
        if let Some(clock) = stream.clock {
            self.store.sweep(clock, self.config.lateness);
        }
    }

    /// Gives keys up until the ceiling is kept; how many.
    pub fn enforce_ceiling(&mut self, clock: Option<Micros>) -> u64 {
        let share = self.known_share;
        let known: u64 = self.known.iter_mut().map(|known| known.keep_below(share)).sum();
        self.known_given_up += known;
        known + self.store.enforce_ceiling(clock, self.config.lateness)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `observe`, not an interface")]
    fn apply(
        &mut self,
        number: usize,
        event: EventView<'_>,
        time: Micros,
        stream: StreamTime,
        quiet: bool,
        inserted: &mut Vec<usize>,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) {
        let Self {
            rules,
            plans,
            shared,
            retention,
            store,
            known,
            addresses,
            names,
            config,
            keyless,
            sequence_firsts,
            ..
        } = self;
        let (Some(rule), Some(plan)) = (rules.get(number), plans.get(number)) else { return };
        let key = names.key(&rule.per, event, config.ipv6_prefix);
        if key.is_none()
            && let Some(count) = keyless.get_mut(number)
        {
            *count += 1;
        }
        let value =
            rule.condition.field().map(|field| names.value(event, field, config.ipv6_prefix));
        // A rule that compares values can say nothing of an event without one.
        let value = match value {
            Some(None) => return,
            Some(value) => value,
            None => None,
        };
        // `new` means new to the stream, so an event that lacks the key teaches its value too.
        let is_new = match (&rule.condition, &value, known.get_mut(number)) {
            (Condition::New { .. }, Some(value), Some(known)) => known.learn(value, time),
            _ => true,
        };
        let Some(key) = key else { return };
        if !is_new || (quiet && matches!(rule.condition, Condition::New { .. })) {
            return;
        }
        let once = rule
            .once_per
            .as_deref()
            .and_then(|field| names.value(event, field, config.ipv6_prefix));
        let rules_in_group = shared.get(plan.group).copied().unwrap_or(1);
        let fresh = || (fresh_window(&rule.condition, rules_in_group), rules_in_group);
        let first = !inserted.contains(&plan.group);
        inserted.push(plan.group);
        let horizon = stream.clock.map(|clock| clock.saturating_sub(config.lateness));
        store.with(plan.group, &key, fresh, |state| {
            let within = rule.condition.within().unwrap_or(0);
            let forgotten = horizon.map(|horizon| horizon.saturating_sub(within));
            if once.is_some_and(|(_, id)| state.once.repeats(&id, time, forgotten)) {
                return;
            }
            let step = Step {
                rule,
                slot: plan.slot,
                event,
                time,
                horizon,
                first,
                quiet,
                longest: retention.get(plan.group).map_or(0, |keep| keep.0),
                value: value.as_ref(),
                is_first: sequence_firsts.get(number).copied().flatten() == Some(event.pattern),
            };
            let Some(found) = step.run(state) else { return };
            let minute = found.span().time.div_euclid(60_000_000);
            let Some(mark) = state.marks.get_mut(plan.slot) else { return };
            if mark.braked_minute.is_some_and(|braked| minute <= braked) {
                return;
            }
            let known_ips = match &key {
                Key::Text(kind, account) => account_value(*kind, account)
                    .map(|account| addresses.of(&account))
                    .unwrap_or_default(),
                _ => Vec::new(),
            };
            let firing = Firing {
                rule,
                key: &key,
                ordinal: ordinal(mark, found.span().time),
                span: found.span().clone(),
                distinct: found.distinct(),
                value: found.shown_value(&rule.condition, value.as_ref(), time),
                pattern: &plan.pattern,
                known_ips,
            };
            match decide(firing) {
                Verdict::Stands => {
                    mark.braked_minute = None;
                    found.use_up(state, plan.slot);
                }
                Verdict::Braked => mark.braked_minute = Some(minute),
            }
        });
    }
}

/// Rules that count the same events per the same key share a window.
fn signature(rule: &Rule) -> Option<String> {
    let shares = matches!(rule.condition, Condition::Count { .. }) && rule.once_per.is_none();
    shares.then(|| format!("{:?} {:?} {:?} {:?}", rule.on, rule.per, rule.filter, rule.unless))
}

/// The state of one key for the rules of one group.
#[derive(Debug, Clone)]
enum Window {
    /// Counts, and counts of new values.
    Ring(Ring),
    /// Different values.
    Distinct(DistinctRing),
    /// Ordered sequences.
    Sequence(SequenceRing),
    /// Values that this key had.
    Seen(Seen),
    /// Hours at which this key is active.
    Hours(Hours),
}

impl Held for Window {
    fn bytes(&self) -> usize {
        match self {
            Window::Ring(ring) => ring.bytes(),
            Window::Distinct(ring) => ring.bytes(),
            Window::Sequence(ring) => ring.bytes(),
            Window::Seen(seen) => seen.bytes(),
            Window::Hours(_) => 0,
        }
    }

    fn events(&self) -> usize {
        match self {
            Window::Ring(ring) => ring.len(),
            Window::Distinct(ring) => ring.len(),
            Window::Sequence(ring) => ring.len(),
            // What is learnt took days to learn: it is given up last.
            Window::Seen(_) | Window::Hours(_) => usize::MAX,
        }
    }

    fn newest(&self) -> Option<Micros> {
        match self {
            Window::Ring(ring) => ring.newest(),
            Window::Distinct(ring) => ring.newest(),
            Window::Sequence(ring) => ring.newest(),
            Window::Seen(seen) => seen.newest(),
            Window::Hours(hours) => hours.newest(),
        }
    }
}

fn fresh_window(condition: &Condition, rules: usize) -> Window {
    match condition {
        Condition::Count { .. } | Condition::New { .. } => Window::Ring(Ring::new(rules)),
        Condition::Distinct { .. } => Window::Distinct(DistinctRing::default()),
        Condition::Sequence { .. } => Window::Sequence(SequenceRing::default()),
        Condition::FirstSeen { .. } => Window::Seen(Seen::default()),
        Condition::Unusual => Window::Hours(Hours::default()),
    }
}

/// One event at one rule's window.
struct Step<'s> {
    rule: &'s Rule,
    slot: usize,
    event: EventView<'s>,
    time: Micros,
    /// No event before this can still come.
    horizon: Option<Micros>,
    /// The event is not yet in the window.
    first: bool,
    quiet: bool,
    /// The longest window among the rules that share this one.
    longest: Micros,
    value: Option<&'s Value>,
    /// It is the first pattern of a sequence.
    is_first: bool,
}

enum Found {
    Ring(ring::Crossing, Span),
    Distinct(ring::Crossing, Span, u64),
    Sequence(crate::window::sequence::Completed, Span),
    Learnt(Span),
}

impl Found {
    fn span(&self) -> &Span {
        match self {
            Found::Ring(_, span)
            | Found::Distinct(_, span, _)
            | Found::Sequence(_, span)
            | Found::Learnt(span) => span,
        }
    }

    fn distinct(&self) -> Option<u64> {
        match self {
            Found::Distinct(_, _, values) => Some(*values),
            _ => None,
        }
    }

    fn shown_value(
        &self,
        condition: &Condition,
        value: Option<&Value>,
        time: Micros,
    ) -> Option<String> {
        match condition {
            Condition::FirstSeen { .. } => value.map(|(_, text)| text.to_string()),
            Condition::Unusual => {
                Some(format!("{:02}", time.div_euclid(3_600_000_000).rem_euclid(24)))
            }
            _ => None,
        }
    }

    fn use_up(&self, state: &mut State<Window>, slot: usize) {
        match (self, &mut state.window) {
            (Found::Ring(crossing, _), Window::Ring(ring)) => ring.use_up(slot, crossing),
            (Found::Distinct(crossing, ..), Window::Distinct(ring)) => ring.use_up(crossing),
            (Found::Sequence(completed, _), Window::Sequence(ring)) => ring.use_up(completed),
            _ => {}
        }
    }
}

impl Step<'_> {
    fn run(&self, state: &mut State<Window>) -> Option<Found> {
        let within = self.rule.condition.within().unwrap_or(0);
        let horizon = self.horizon.map(|h| h.saturating_sub(within));
        if let Some(horizon) = horizon {
            for mark in &mut state.marks {
                mark.fired.retain(|(time, _)| *time > horizon);
            }
        }
        match (&self.rule.condition, &mut state.window) {
            (
                Condition::Count { at_least, .. } | Condition::New { at_least, .. },
                Window::Ring(ring),
            ) => {
                if self.first {
                    if let Some(horizon) = self.horizon {
                        // A shorter window would drop what the others that share the ring need.
                        ring.prune(horizon.saturating_sub(self.longest));
                    }
                    ring.insert(self.entry());
                }
                let crossing = ring.crossing(self.slot, *at_least, within, self.time);
                crossing.map(|c| {
                    let span = ring.span(self.slot, &c);
                    Found::Ring(c, span)
                })
            }
            (Condition::Distinct { at_least, .. }, Window::Distinct(ring)) => {
                if let Some(horizon) = horizon {
                    ring.prune(horizon);
                }
                ring.insert(self.entry(), self.value?.clone());
                let crossing = ring.crossing(*at_least, within, self.time)?;
                let (span, values) = ring.span(&crossing);
                Some(Found::Distinct(crossing, span, values))
            }
            (Condition::Sequence { at_least, .. }, Window::Sequence(ring)) => {
                if let (Some(horizon), Some(clock_horizon)) = (horizon, self.horizon) {
                    ring.prune(horizon, clock_horizon);
                }
                if self.is_first {
                    ring.insert_first(self.entry());
                } else {
                    ring.insert_completing(self.entry());
                }
                let completed = ring.completed(*at_least, within, self.time, self.is_first)?;
                let span = ring.span(&completed);
                Some(Found::Sequence(completed, span))
            }
            (Condition::FirstSeen { .. }, Window::Seen(seen)) => {
                let fires = seen.learn(self.value?, self.time);
                (fires && !self.quiet).then(|| Found::Learnt(self.alone()))
            }
            (Condition::Unusual, Window::Hours(hours)) => {
                let fires = hours.learn(self.time, &self.rule.unusual);
                (fires && !self.quiet).then(|| Found::Learnt(self.alone()))
            }
            _ => None,
        }
    }

    fn entry(&self) -> Entry {
        let weight = match self.rule.condition {
            // Every new value counts once, however heavy its line.
            Condition::New { .. } => 1,
            _ => self.event.weight,
        };
        Entry { time: self.time, weight, used: 0, evidence: Arc::new(evidence(self.event)) }
    }

    /// The span of an event that fires by itself.
    fn alone(&self) -> Span {
        crate::window::summarize(self.time, std::iter::once(&Entry { weight: 1, ..self.entry() }))
    }
}

/// What actions show of an event.
fn evidence(event: EventView<'_>) -> Evidence {
    Evidence {
        ip: event.ip.map(|ip| ip.ip),
        user: event.user().or(event.user_id()).map(Into::into),
        reason: event.reason().map(Into::into),
        request_id: event.request_id().map(Into::into),
        standing: event.ip.map_or(Standing::Good, |ip| ip.standing),
    }
}

fn ordinal(mark: &mut Mark, time: Micros) -> u32 {
    match mark.fired.iter_mut().find(|(at, _)| *at == time) {
        Some((_, times)) => {
            *times += 1;
            *times - 1
        }
        None => {
            mark.fired.push((time, 1));
            0
        }
    }
}

/// An account key as the value under which its logins were learnt.
fn account_value(kind: KeyKind, account: &Arc<str>) -> Option<Value> {
    match kind {
        KeyKind::User => Some((0, account.clone())),
        KeyKind::UserId => Some((1, account.clone())),
        KeyKind::Field(_) => None,
    }
}

impl FieldNames {
    fn key(&self, per: &[KeyPart], event: EventView<'_>, prefix: u8) -> Option<Key> {
        match per {
            [] => Some(Key::Global),
            [part] => self.part(part, event, prefix),
            parts => {
                let keys: Option<Vec<Key>> =
                    parts.iter().map(|p| self.part(p, event, prefix)).collect();
                keys.map(|keys| Key::Several(keys.into()))
            }
        }
    }

    fn part(&self, part: &KeyPart, event: EventView<'_>, prefix: u8) -> Option<Key> {
        match part {
            KeyPart::Ip => event.ip.map(|ip| Key::Ip(addr::target(ip.ip, prefix).1)),
            KeyPart::User => match (event.user(), event.user_id()) {
                (Some(user), _) => Some(Key::Text(KeyKind::User, user.into())),
                (None, Some(id)) => Some(Key::Text(KeyKind::UserId, id.into())),
                (None, None) => None,
            },
            KeyPart::Field(name) if name == "user_id" => {
                event.user_id().map(|id| Key::Text(KeyKind::UserId, id.into()))
            }
            KeyPart::Field(name) => {
                let (_, value) = self.value(event, name, prefix)?;
                let number = self.keys.iter().position(|known| known == name)?;
                Some(Key::Text(KeyKind::Field(u16::try_from(number).ok()?), value))
            }
        }
    }

    fn value(&self, event: EventView<'_>, name: &str, prefix: u8) -> Option<Value> {
        match name {
            "ip" => event.ip.map(|ip| {
                let (kind, net) = addr::target(ip.ip, prefix);
                (2, Arc::from(addr::target_text(kind, &net)))
            }),
            "user" => match (event.user(), event.user_id()) {
                (Some(user), _) => Some((0, user.into())),
                (None, Some(id)) => Some((1, id.into())),
                (None, None) => None,
            },
            "user_id" => event.user_id().map(|id| (1, id.into())),
            "country" => event.country().map(|country| (3, country.into())),
            "request_id" => event.request_id().map(|id| (4, id.into())),
            _ => {
                let slot = self.counted.iter().position(|known| known == name)?;
                let slot = u16::try_from(slot).ok()?;
                event.value(slot).map(|value| (5, value.into()))
            }
        }
    }
}

/// Kind and value of a key, as on the action line; `names` are those of [`Detector::key_names`].
pub fn describe(key: &Key, names: &[String]) -> (String, Option<String>) {
    match key {
        Key::Global => ("global".to_owned(), None),
        Key::Ip(net) => {
            let kind = if net.prefix_len() == net.max_prefix_len() { "ip" } else { "range" };
            (kind.to_owned(), Some(addr::target_text(kind, net)))
        }
        Key::Text(kind, value) => {
            let name = match kind {
                KeyKind::User => "user",
                KeyKind::UserId => "user_id",
                KeyKind::Field(number) => {
                    names.get(usize::from(*number)).map_or("field", String::as_str)
                }
            };
            (name.to_owned(), Some(value.to_string()))
        }
        Key::Several(keys) => {
            let parts: Vec<_> = keys.iter().map(|key| describe(key, names)).collect();
            let kinds: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
            // A JSON array: no value can be mistaken for the border between two.
            let values: Vec<_> =
                parts.iter().map(|(_, value)| value.clone().unwrap_or_default()).collect();
            (kinds.join("+"), serde_json::to_string(&values).ok())
        }
    }
}

/// Whom an action lists: addresses for accounts, accounts for everything else, both globally.
pub fn shown_tallies(key: &Key, span: &Span) -> (Option<Tally>, Option<Tally>) {
    let some = |tally: &Tally| (tally.distinct > 0).then(|| tally.clone());
    match key {
        Key::Text(KeyKind::User | KeyKind::UserId, _) => (None, some(&span.ips)),
        Key::Ip(net) if net.prefix_len() == net.max_prefix_len() => (some(&span.users), None),
        Key::Ip(_) | Key::Global | Key::Text(KeyKind::Field(_), _) | Key::Several(_) => {
            (some(&span.users), some(&span.ips))
        }
    }
}
