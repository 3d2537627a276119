//! The detector: one event in, firings out. A single writer that sees events in canonical order.

use super::baseline::{Addresses, FORGET, Hours, Known, Packing, Seen};
use super::condition::Condition;
use super::dictionary::{Dictionary, PartName, Translation};
use super::rule::{KeyPart, Rule};
use crate::decode::addr;
use crate::decode::time::Micros;
use crate::pattern::{EventView, PatternId, Standing};
use crate::window::codec::{Evidence, Parts, Reader, number, put_number};
use crate::window::key::{Key, KeyKind, OwnKey, put_net, put_part, put_v4};
use crate::window::marks::Fired;
use crate::window::ring::{Crossing, RULES_MAX, ValueOf, bit};
use crate::window::store::{Kind, Limits, Spec, Store};
use crate::window::table::{Place, Table};
use crate::window::told::Told;
use crate::window::{Fresh, Group, Need, Span, Tally, What, Whole};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// The minute by which brakes go, microseconds.
const MINUTE: Micros = 60_000_000;

/// What may be taken of `memory_limit`: this part of it by values known to the whole stream.
const KNOWN_PART: usize = 4;
/// And this by the addresses of accounts.
const ADDRESSES_PART: usize = 8;

/// How long at least a request is known of which a line was counted, microseconds.
const REQUEST: Micros = 10 * MINUTE;

/// For how long a rule with such a window knows requests: those that learn have none.
fn known_for(within: Micros) -> Micros {
    within.max(REQUEST)
}

/// A rule fires for a key. What it would take to tell of it is worked out when somebody asks: most
/// firings meet a decision that is active already, and nobody does.
pub struct Firing<'f> {
    /// The rule.
    pub rule: &'f Arc<Rule>,
    /// Its number.
    pub number: u16,
    /// For what.
    pub key: Key<'f>,
    /// How many times before this rule fired for this key at this very time.
    pub ordinal: u32,
    /// The crossing's time.
    pub time: Micros,
    /// The pattern that was counted.
    pub pattern: &'f Arc<str>,
    /// Not what was counted, but that together with what may have been before and was given up.
    pub approx: bool,
    /// The address of the event that fired it, if the key is a range.
    pub host: Option<IpAddr>,
    /// See [`Firing::telling`].
    tell: &'f dyn Fn() -> Telling,
}

/// What one rule has counted for one key.
#[derive(Debug)]
pub struct Counted<'d> {
    /// The rule.
    pub rule: &'d Rule,
    /// The pattern that it counts.
    pub pattern: &'d str,
    /// How much of what it counts it holds and has not used up.
    pub held: u64,
    /// How much it takes.
    pub needed: u64,
    /// The events.
    pub span: Span,
}

/// What an action tells of a firing.
#[derive(Debug, Clone)]
pub struct Telling {
    /// What was counted.
    pub told: Told,
    /// The value that was new, or the hour that was unusual.
    pub value: Option<String>,
    /// Addresses from which this account logged in before.
    pub known_ips: Vec<String>,
}

impl Firing<'_> {
    /// What an action tells of it, as it is now.
    pub fn telling(&self) -> Telling {
        (self.tell)()
    }
}

impl std::fmt::Debug for Firing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Firing")
            .field("rule", &self.rule.id)
            .field("key", &self.key)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

/// What became of a firing; of several that are demanded, the last of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct DetectConfig {
    /// How late an event may be, microseconds.
    pub lateness: Micros,
    /// How long `first_seen`, `new` and `unusual` only learn, microseconds.
    pub learn: Micros,
    /// Bits of an IPv6 address that make a key.
    pub ipv6_prefix: u8,
    /// Ceiling of everything, bytes.
    pub memory_limit: usize,
}

/// What had to be given up because of the ceiling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GivenUp {
    /// Keys with their events.
    pub keys: u64,
    /// Values known to the whole stream.
    pub values: u64,
}

/// Where a value is found in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Ip,
    User,
    UserId,
    Country,
    Request,
    /// By its slot in the event.
    Counted(u16),
    /// Nowhere.
    None,
}

/// A part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Ip,
    User,
    UserId,
    /// By its number among the names of fields that keys are made of.
    Field(u16, Field),
}

/// How a rule is applied.
#[derive(Debug)]
struct Plan {
    /// What it counts per: the place in [`Detector::pers`].
    per: usize,
    /// The part of a key's state that it works on.
    tag: u16,
    /// Its slot in that part's group.
    slot: usize,
    /// Whose values it compares.
    value: Option<Field>,
    /// The field of which every value counts once, and the part that remembers them.
    once: Option<(Field, u16)>,
    /// The pattern that completes its sequence.
    completes: Option<PatternId>,
    pattern: Arc<str>,
    /// Length of its window, microseconds; 0 if it has none.
    within: Micros,
    /// It counts several patterns, of which a record may match more than one: that is one event.
    several: bool,
    /// Where in [`Detector::known`] the values are that it tells from new ones.
    known: Option<usize>,
}

/// Where a key of the event that is being applied stands.
#[derive(Debug, Clone, Default)]
enum Located {
    #[default]
    Unknown,
    /// The event has no such key.
    Missing,
    /// Kind, and where in the scratch bytes the value is.
    Known(KeyKind, Range<usize>),
    /// And where its state is.
    Placed(KeyKind, Range<usize>, Place),
}

/// A window into which the event that is being applied was put.
#[derive(Debug, Clone, Copy)]
struct Inserted {
    tag: u16,
    /// The rules that may have enough.
    mask: u32,
    estimate: u64,
    /// Where the first of them crosses, if it counts and has enough alone.
    whole: Option<Whole>,
}

/// Lists that are used again for every event.
#[derive(Debug, Default)]
struct Scratch {
    keys: Vec<u8>,
    value: Vec<u8>,
    located: Vec<Located>,
    steps: Vec<usize>,
    inserted: Vec<Inserted>,
    parts: Parts,
    packing: Packing,
    hashes: Vec<u64>,
    written: Vec<u8>,
}

/// Counts events and fires rules.
#[derive(Debug)]
pub struct Detector {
    rules: Vec<Arc<Rule>>,
    plans: Vec<Plan>,
    pers: Vec<Vec<Part>>,
    store: Store,
    /// By tag: where the extra values of a group's events are found.
    extras: Vec<Vec<Field>>,
    /// The part of a state in which rules remember what they did.
    marks: u16,
    /// Of each rule that learns values of the whole stream.
    known: Vec<Known>,
    known_given_up: u64,
    /// Bytes for each rule that learns values of the whole stream: together a quarter of the
    /// ceiling; the windows have the rest.
    known_share: usize,
    addresses: Addresses,
    /// Patterns whose events are logins, for the addresses of accounts.
    logins: Vec<PatternId>,
    /// Names of the fields that keys are made of.
    key_names: Arc<[String]>,
    /// What the numbers in its state mean.
    dictionary: Dictionary,
    config: DetectConfig,
    /// Events may name only some of the rules that share a list: they are those of other rules.
    partial: bool,
    /// Rules that have counted the record that is being applied, of those that count several patterns.
    counted: Vec<usize>,
    /// By rule: events that lack its key.
    pub keyless: Vec<u64>,
    /// Taken while an event is observed; boxed, because to take what is large is to copy it.
    scratch: Option<Box<Scratch>>,
}

/// Puts rules together that share a list of events.
#[derive(Default)]
struct Planner {
    specs: Vec<Spec>,
    extras: Vec<Vec<Field>>,
    /// Of parts that can be shared: what their rules have in common.
    signatures: Vec<Option<String>>,
    /// What they hold.
    names: Vec<PartName>,
}

impl Planner {
    fn part(&mut self, of: String, kind: Kind, retention: Micros, many: bool) -> u16 {
        self.specs.push(Spec { kind, retention, many });
        self.extras.push(Vec::new());
        self.signatures.push(None);
        self.names.push(PartName { of, ..PartName::default() });
        u16::try_from(self.specs.len() - 1).unwrap_or(u16::MAX)
    }

    /// Finds or makes the list of events for a rule; its tag and the rule's slot.
    fn join(&mut self, rule: &Rule, need: Need, extra: Option<(String, Field)>) -> (u16, usize) {
        let signature = signature(rule);
        let same = |(spec, own): (&Spec, &Option<String>)| {
            let room = match &spec.kind {
                Kind::Window(group) => group.needs.len() < RULES_MAX,
                _ => false,
            };
            room && own.is_some() && *own == signature
        };
        let found = self.specs.iter().zip(&self.signatures).position(same);
        let at = found.unwrap_or_else(|| {
            let many = !rule.per.is_empty();
            let of = signature.clone().unwrap_or_else(|| own_name("window", rule));
            let tag = self.part(of, Kind::Window(Group::default()), 0, many);
            if let Some(own) = self.signatures.last_mut() {
                *own = signature;
            }
            usize::from(tag)
        });
        let slot = match (self.specs.get_mut(at), self.extras.get_mut(at)) {
            (Some(Spec { kind: Kind::Window(group), retention, .. }), Some(fields)) => {
                let mut need = need;
                if let Some((name, field)) = extra {
                    let known = group.extras.iter().position(|known| *known == name);
                    let place = known.unwrap_or_else(|| {
                        group.extras.push(name);
                        fields.push(field);
                        fields.len() - 1
                    });
                    need.what = What::Distinct(ValueOf::Extra(place));
                }
                let slot = group.join(need);
                *retention = group.longest;
                if let Some(name) = self.names.get_mut(at) {
                    name.extras.clone_from(&group.extras);
                    name.slots.push(own_name("", rule));
                }
                slot
            }
            _ => 0,
        };
        (u16::try_from(at).unwrap_or(u16::MAX), slot)
    }
}

/// What a rule keeps of `what`, whatever its threshold and the length of its window are. A rule of the
/// same id that watches something else is another one.
fn own_name(what: &str, rule: &Rule) -> String {
    let way = match &rule.condition {
        Condition::Count { .. } => "count".to_owned(),
        Condition::Distinct { field, .. } => format!("distinct({field})"),
        Condition::Sequence { first, then, .. } => format!("{first} then {then}"),
        Condition::FirstSeen { field } => format!("first_seen({field})"),
        Condition::New { field, .. } => format!("new({field})"),
        Condition::Unusual => "unusual(hour)".to_owned(),
    };
    let Rule { id, on, per, once_per, filter, unless, .. } = rule;
    format!("{what} {id} {way} of {on:?} per {per:?} {once_per:?} {filter:?} {unless:?}")
}

/// Rules that watch the same events per the same key share a list of them. A sequence watches the
/// events that come first; what completes it, it keeps for itself.
fn signature(rule: &Rule) -> Option<String> {
    let on = match &rule.condition {
        Condition::Count { .. } | Condition::Distinct { .. } => rule.on.clone(),
        Condition::Sequence { first, .. } => vec![first.clone()],
        Condition::FirstSeen { .. } | Condition::New { .. } | Condition::Unusual => return None,
    };
    let shares = rule.once_per.is_none();
    shares.then(|| format!("{on:?} {:?} {:?} {:?}", rule.per, rule.filter, rule.unless))
}

fn field(name: &str, counted: &[String]) -> Field {
    match name {
        "ip" => Field::Ip,
        "user" => Field::User,
        "user_id" => Field::UserId,
        "country" => Field::Country,
        "request_id" => Field::Request,
        _ => {
            let slot = counted.iter().position(|known| known == name);
            slot.and_then(|slot| u16::try_from(slot).ok()).map_or(Field::None, Field::Counted)
        }
    }
}

impl Detector {
    /// A detector for `rules`; `counted` names the slots of an event's values, `id` the patterns.
    pub fn new(
        rules: &[Rule],
        counted: &[String],
        id: impl Fn(&str) -> Option<PatternId>,
        config: DetectConfig,
    ) -> Self {
        let mut key_names: Vec<String> = rules
            .iter()
            .flat_map(|rule| &rule.per)
            .filter_map(|part| match part {
                KeyPart::Field(name) => Some(name.clone()),
                KeyPart::Ip | KeyPart::User => None,
            })
            .collect();
        key_names.sort();
        key_names.dedup();
        let packing = Packing::default();
        let mut planner = Planner::default();
        let marks = planner.part("marks".to_owned(), Kind::Marks, MINUTE, false);
        let mut pers: Vec<Vec<Part>> = Vec::new();
        let mut plans = Vec::new();
        let mut known = Vec::new();
        let mut known_names = Vec::new();
        let mut logins = Vec::new();
        for rule in rules {
            let per: Vec<Part> =
                rule.per.iter().map(|part| key_part(part, &key_names, counted)).collect();
            let per = pers.iter().position(|known| *known == per).unwrap_or_else(|| {
                pers.push(per);
                pers.len() - 1
            });
            let login = match &rule.condition {
                Condition::FirstSeen { .. } | Condition::Unusual => rule.on.first(),
                Condition::Sequence { then, .. } => Some(then),
                _ => None,
            };
            logins.extend(login.and_then(|name| id(name)));
            let mut plan = plan(rule, per, counted, &mut planner, &id, config.ipv6_prefix);
            if matches!(rule.condition, Condition::New { .. }) {
                plan.known = Some(known.len());
                known.push(Known::new(packing.seed()));
                known_names.push(own_name("known", rule));
            }
            plans.push(plan);
        }
        // What a rule that keeps somebody out counts is no login, whatever else is asked of it.
        let held_against =
            rules.iter().filter(|rule| rule.keeps_out()).flat_map(|rule| match &rule.condition {
                Condition::Sequence { first, .. } => std::slice::from_ref(first),
                Condition::Count { .. } | Condition::Distinct { .. } | Condition::New { .. } => {
                    &rule.on
                }
                Condition::FirstSeen { .. } | Condition::Unusual => &[],
            });
        let held_against: Vec<_> = held_against.filter_map(|name| id(name)).collect();
        logins.retain(|login| !held_against.contains(login));
        logins.sort_unstable();
        logins.dedup();
        for (name, spec) in planner.names.iter_mut().zip(&planner.specs) {
            name.retention = spec.retention;
        }
        let dictionary = Dictionary {
            patterns: Vec::new(),
            counted: counted.to_vec(),
            fields: key_names.clone(),
            rules: rules.iter().map(|rule| own_name("rule", rule)).collect(),
            parts: planner.names,
            known: known_names,
            settings: String::new(),
        };
        let limits = Limits { memory: config.memory_limit, lateness: config.lateness };
        Self {
            rules: rules.iter().cloned().map(Arc::new).collect(),
            plans,
            addresses: Addresses::new(packing.seed(), config.memory_limit / ADDRESSES_PART),
            scratch: Some(Box::new(Scratch {
                located: vec![Located::default(); pers.len()],
                packing,
                ..Scratch::default()
            })),
            pers,
            store: Store::new(planner.specs, limits),
            extras: planner.extras,
            marks,
            known_share: config.memory_limit / KNOWN_PART / known.len().max(1),
            known,
            known_given_up: 0,
            logins,
            key_names: key_names.into(),
            dictionary,
            config,
            partial: false,
            counted: Vec::new(),
            keyless: vec![0; rules.len()],
        }
    }

    /// Whether events come that were written down when other rules were loaded: what they do not
    /// name does not count them, although it shares their list.
    pub fn expect_partial(&mut self, partial: bool) {
        self.partial = partial;
    }

    /// The bits of the rules that share the list of a part and do not count `event`.
    fn not_named(&self, tag: u16, event: EventView<'_>) -> u32 {
        let others = self.plans.iter().enumerate().filter(|(number, plan)| {
            let named = u16::try_from(*number).is_ok_and(|number| event.rules().contains(&number));
            plan.tag == tag && !named
        });
        others.fold(0, |bits, (_, plan)| bits | bit(plan.slot))
    }

    /// What the numbers in its state mean, all but those of patterns.
    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Writes what it knows, but for the keys.
    pub fn capture(&self, out: &mut Vec<u8>) {
        self.store.capture(out);
        put_number(out, self.known_given_up);
        put_number(out, number(self.known.len()));
        self.known.iter().for_each(|known| known.capture(out));
        self.addresses.capture(out);
    }

    /// Whether the keys are being captured.
    pub fn is_capturing(&self) -> bool {
        self.store.is_capturing()
    }

    /// The keys.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The keys, to be captured while events go on.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Reads what [`Detector::capture`] wrote into a new detector.
    pub fn restore(&mut self, from: &mut Reader<'_>, by: Option<&Translation>) -> Option<()> {
        self.store.restore(from)?;
        self.known_given_up = from.number()?;
        let scratch = self.scratch.as_deref_mut()?;
        for old in 0..from.narrow()? {
            let read = Known::restore(from, &mut scratch.packing)?;
            let new = by.map_or(Some(old), |by| by.known.get(old).copied().flatten());
            if let Some(known) = new.and_then(|new| self.known.get_mut(new)) {
                *known = read;
            }
        }
        let room = self.config.memory_limit / ADDRESSES_PART;
        self.addresses = Addresses::restore(from, &mut scratch.packing, room)?;
        Some(())
    }

    /// Reads what [`Store::capture_next`] wrote.
    pub fn restore_shard(
        &mut self,
        shard: usize,
        from: &mut Reader<'_>,
        by: Option<&Translation>,
    ) -> Option<()> {
        self.store.restore_shard(shard, from, by.map(|by| &by.moves))
    }

    /// Its settings beside the rules.
    pub fn config(&self) -> &DetectConfig {
        &self.config
    }

    /// The rules, by number.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// Keys held, and counted bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.store.keys(), self.store.bytes() + self.learnt_bytes())
    }

    /// Counted bytes of what is known of the whole stream.
    fn learnt_bytes(&self) -> usize {
        self.known.iter().map(Known::bytes).sum::<usize>() + self.addresses.bytes()
    }

    /// Keys given up because of the ceiling.
    pub fn evicted(&self) -> u64 {
        self.store.evicted + self.known_given_up
    }

    /// Whether keys were given up that a window can still reach: counts may then be too low, and
    /// firings may be approximate.
    pub fn is_degraded(&self) -> bool {
        self.store.is_degraded()
    }

    /// The names of fields that keys are made of.
    pub fn key_names(&self) -> Arc<[String]> {
        Arc::clone(&self.key_names)
    }

    /// The key under which a rule counts `event`.
    pub fn key(&self, rule: &Rule, event: EventView<'_>) -> Option<OwnKey> {
        let at = self.rules.iter().position(|known| known.id == rule.id)?;
        let per = self.pers.get(self.plans.get(at)?.per)?;
        let mut value = Vec::new();
        let kind = put_key(per, event, self.config.ipv6_prefix, &mut value)?;
        Some(Key { kind, value: &value }.own())
    }

    /// Brings the states of events near that will be observed soon.
    pub fn foresee<'e>(&mut self, events: impl Iterator<Item = EventView<'e>>) {
        let Some(scratch) = self.scratch.as_deref_mut() else { return };
        let Scratch { keys, value, packing, hashes, .. } = scratch;
        let prefix = self.config.ipv6_prefix;
        hashes.clear();
        packing.begin();
        self.store.foresee(|foresee| {
            for event in events {
                if self.logins.contains(&event.pattern) {
                    value.clear();
                    if put_value(Field::User, event, prefix, value) {
                        hashes.extend(packing.foresee(value));
                    }
                }
                let mut pers: u64 = 0;
                for plan in event.rules().iter().filter_map(|n| self.plans.get(usize::from(*n))) {
                    let bit = 1u64 << (plan.per % 64);
                    let per = self.pers.get(plan.per).map_or(&[][..], Vec::as_slice);
                    if pers & bit != 0 || per.is_empty() {
                        continue;
                    }
                    pers |= bit;
                    keys.clear();
                    if let Some(kind) = put_key(per, event, prefix, keys) {
                        foresee(Key { kind, value: keys });
                    }
                }
            }
        });
        let touch = |sum: usize, hash: &u64| {
            let known = self.known.iter().map(|known| known.touch(*hash));
            sum ^ self.addresses.touch(*hash) ^ known.sum::<usize>()
        };
        std::hint::black_box(hashes.iter().fold(0, touch));
    }

    /// Bits of an IPv6 address that make a key.
    pub fn ipv6_prefix(&self) -> u8 {
        self.config.ipv6_prefix
    }

    /// What rules have counted for a key and not used up, in the windows that end at `now`.
    pub fn counted(&self, key: Key<'_>, now: Micros) -> Vec<Counted<'_>> {
        let Some(place) = self.store.find(key) else { return Vec::new() };
        let mut counted = Vec::new();
        for (rule, plan) in self.rules.iter().zip(&self.plans) {
            let per = self.pers.get(plan.per).map(Vec::as_slice).unwrap_or_default();
            let own = matches!(
                (per, key.kind),
                ([Part::Ip], KeyKind::Host | KeyKind::Range)
                    | ([Part::User], KeyKind::User | KeyKind::UserId)
                    | ([Part::UserId], KeyKind::UserId)
            );
            let Some(needed) = rule.condition.at_least().filter(|_| own) else { continue };
            let (recent, held) = self.store.recent(place, plan.tag, plan.slot, now);
            let (span, _) = self.store.span(place, plan.tag, plan.slot, &recent);
            if held > 0 {
                counted.push(Counted { rule, pattern: &plan.pattern, held, needed, span });
            }
        }
        counted
    }

    /// A record follows: all events until the next one are of it.
    pub fn begin_record(&mut self) {
        self.counted.clear();
    }

    /// Counts one event at `time` and asks `decide` about every rule that fires.
    pub fn observe(
        &mut self,
        event: EventView<'_>,
        time: Micros,
        stream: StreamTime,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) {
        if let Some(clock) = stream.clock {
            self.store.note_clock(clock);
        }
        let Some(mut scratch) = self.scratch.take() else { return };
        let learning = |start: Micros| time < start.saturating_add(self.config.learn);
        let quiet = self.config.learn > 0 && stream.start.is_none_or(learning);
        self.prepare(event, time, quiet, &mut scratch);
        self.locate(&mut scratch);
        scratch.inserted.clear();
        let evidence = OnceCell::new();
        for step in 0..scratch.steps.len() {
            let Some(number) = scratch.steps.get(step).copied() else { break };
            self.apply(number, event, &evidence, time, stream, quiet, &mut scratch, decide);
        }
        if self.logins.contains(&event.pattern)
            && let Some(ip) = event.ip
        {
            scratch.value.clear();
            if put_value(Field::User, event, self.config.ipv6_prefix, &mut scratch.value) {
                self.addresses.learn(scratch.packing.of(&scratch.value), ip.ip);
            }
        }
        self.scratch = Some(scratch);
        if let Some(clock) = stream.clock {
            self.store.sweep(clock);
        }
    }

    /// Gives keys up until the ceiling is kept, of which others take `beside` bytes.
    pub fn enforce_ceiling(&mut self, clock: Option<Micros>, beside: usize) -> GivenUp {
        let share = self.known_share;
        let values = self.known.iter_mut().map(|known| known.keep_below(share)).sum();
        self.known_given_up += values;
        let beside = beside + self.learnt_bytes();
        GivenUp { keys: self.store.enforce_ceiling(clock, beside), values }
    }

    /// Finds out which rules have to be applied, and to which keys.
    fn prepare(&mut self, event: EventView<'_>, time: Micros, quiet: bool, scratch: &mut Scratch) {
        let prefix = self.config.ipv6_prefix;
        scratch.keys.clear();
        scratch.parts.clear();
        scratch.steps.clear();
        scratch.located.fill(Located::Unknown);
        for number in event.rules().iter().map(|n| usize::from(*n)) {
            let Some(plan) = self.plans.get(number) else { continue };
            if plan.several && self.counted.contains(&number) {
                continue;
            }
            let (Some(per), Some(located)) =
                (self.pers.get(plan.per), scratch.located.get_mut(plan.per))
            else {
                continue;
            };
            if matches!(located, Located::Unknown) {
                let start = scratch.keys.len();
                let kind = put_key(per, event, prefix, &mut scratch.keys);
                *located = match kind {
                    Some(kind) => Located::Known(kind, start..scratch.keys.len()),
                    None => Located::Missing,
                };
            }
            let keyless = matches!(located, Located::Missing);
            if keyless && let Some(count) = self.keyless.get_mut(number) {
                *count += 1;
            }
            if let Some(field) = plan.value {
                scratch.value.clear();
                // A rule that compares values can say nothing of an event without one.
                if !put_value(field, event, prefix, &mut scratch.value) {
                    continue;
                }
                if let Some(known) = plan.known.and_then(|at| self.known.get_mut(at)) {
                    // `new` means new to the stream, so an event that lacks the key teaches its
                    // value too.
                    if !known.learn(scratch.packing.of(&scratch.value), time) || quiet {
                        continue;
                    }
                }
            }
            if !keyless {
                scratch.steps.push(number);
                if plan.several {
                    self.counted.push(number);
                }
            }
        }
    }

    /// Finds the states of the keys that are needed.
    fn locate(&mut self, scratch: &mut Scratch) {
        let Scratch { keys, located, steps, .. } = scratch;
        let mut moved = false;
        for number in steps.iter() {
            let Some(per) = self.plans.get(*number).map(|plan| plan.per) else { continue };
            let Some(Located::Known(kind, range)) = located.get(per).cloned() else { continue };
            let value = keys.get(range.clone()).unwrap_or_default();
            let (place, new) = self.store.place(Key { kind, value });
            let near = |other: &Located| match other {
                Located::Placed(_, _, other) => Table::near(*other, place),
                _ => false,
            };
            moved |= new && located.iter().any(near);
            if let Some(located) = located.get_mut(per) {
                *located = Located::Placed(kind, range, place);
            }
        }
        if moved {
            for located in located {
                if let Located::Placed(kind, range, place) = located {
                    let value = keys.get(range.clone()).unwrap_or_default();
                    *place = self.store.place(Key { kind: *kind, value }).0;
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `observe`, not an interface")]
    fn apply<'e>(
        &mut self,
        number: usize,
        event: EventView<'e>,
        shown: &OnceCell<Evidence<'e>>,
        time: Micros,
        stream: StreamTime,
        quiet: bool,
        scratch: &mut Scratch,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) {
        let prefix = self.config.ipv6_prefix;
        let (Some(rule), Some(plan)) = (self.rules.get(number), self.plans.get(number)) else {
            return;
        };
        let completes = plan.completes == Some(event.pattern);
        let known = scratch.inserted.iter().find(|one| one.tag == plan.tag);
        let known = known.copied().filter(|_| !completes);
        // Most events of a list that rules share are not enough for them.
        if let Some(inserted) = known
            && inserted.mask & bit(plan.slot) == 0
        {
            return;
        }
        let Some(Located::Placed(kind, range, place)) = scratch.located.get(plan.per).cloned()
        else {
            return;
        };
        let key = Key { kind, value: scratch.keys.get(range).unwrap_or_default() };
        let used = if self.partial { self.not_named(plan.tag, event) } else { 0 };
        let horizon = stream.clock.map(|clock| clock.saturating_sub(self.config.lateness));
        let forgotten = horizon.map(|horizon| horizon.saturating_sub(known_for(plan.within)));
        if let Some((field, tag)) = plan.once {
            scratch.value.clear();
            let known = put_value(field, event, prefix, &mut scratch.value);
            let id = scratch.value.get(1..).and_then(|id| std::str::from_utf8(id).ok());
            if let Some(id) = id.filter(|_| known)
                && self.store.repeats(place, tag, id, time, forgotten)
            {
                return;
            }
        }
        let mut step = Step {
            rule,
            number,
            plan,
            key,
            place,
            event,
            time,
            used,
            horizon,
            store: &mut self.store,
            marks: self.marks,
            addresses: &self.addresses,
        };
        match &rule.condition {
            Condition::Count { .. }
            | Condition::Distinct { .. }
            | Condition::New { .. }
            | Condition::Sequence { .. } => {
                let inserted = match known {
                    Some(inserted) => inserted,
                    None => {
                        let extras = self.extras.get(usize::from(plan.tag));
                        let extras = extras.map(Vec::as_slice).unwrap_or_default();
                        let inserted = step.insert(
                            shown.get_or_init(|| evidence(event)),
                            extras,
                            &mut scratch.parts,
                            stream.clock,
                            completes,
                        );
                        if !completes {
                            scratch.inserted.push(inserted);
                        }
                        inserted
                    }
                };
                if inserted.mask & bit(plan.slot) != 0 {
                    step.cross(&inserted, completes, decide);
                    // It may have used events up.
                    for one in scratch.inserted.iter_mut().filter(|one| one.tag == plan.tag) {
                        one.whole = None;
                    }
                }
            }
            Condition::FirstSeen { .. } => {
                scratch.value.clear();
                let field = plan.value.unwrap_or(Field::None);
                put_value(field, event, prefix, &mut scratch.value);
                let mut seen = Seen::read(step.store.read(place, plan.tag));
                let fires = seen.learn(&scratch.value, time) && !quiet;
                let written = seen.write();
                let text = scratch.value.get(1..).unwrap_or_default();
                // What a brake holds is not learnt, so that the value is new the next time too.
                if !fires || step.fire(None, Some(&String::from_utf8_lossy(text)), decide) {
                    step.learnt(&written);
                }
            }
            Condition::Unusual => {
                let mut hours = Hours::read(step.store.read(place, plan.tag));
                let fires = hours.learn(time, &rule.unusual) && !quiet;
                scratch.written.clear();
                hours.write(&mut scratch.written);
                let hour = || time.div_euclid(3_600_000_000).rem_euclid(24);
                if !fires || step.fire(None, Some(&format!("{:02}", hour())), decide) {
                    step.learnt(&scratch.written);
                }
            }
        }
    }
}

fn plan(
    rule: &Rule,
    per: usize,
    counted: &[String],
    planner: &mut Planner,
    id: &impl Fn(&str) -> Option<PatternId>,
    ipv6_prefix: u8,
) -> Plan {
    let value = rule.condition.field().map(|name| (name, field(name, counted)));
    let within = rule.condition.within().unwrap_or(0);
    let many = !rule.per.is_empty();
    let mut extra = None;
    let what = match &rule.condition {
        Condition::Count { at_least, .. } | Condition::New { at_least, .. } => {
            Some((What::Count, *at_least))
        }
        Condition::Sequence { at_least, .. } => Some((What::Sequence, *at_least)),
        Condition::Distinct { at_least, field: name, .. } => {
            let of = match field(name, counted) {
                Field::User => ValueOf::User,
                Field::Ip => ValueOf::Ip(ipv6_prefix),
                Field::Request => ValueOf::Request,
                other => {
                    extra = Some((name.clone(), other));
                    ValueOf::Extra(0)
                }
            };
            Some((What::Distinct(of), *at_least))
        }
        Condition::FirstSeen { .. } | Condition::Unusual => None,
    };
    let (tag, slot) = match what {
        Some((what, at_least)) => planner.join(rule, Need { what, at_least, within }, extra),
        None => (planner.part(own_name("learnt", rule), Kind::Learnt, FORGET, many), 0),
    };
    let once = rule.once_per.as_deref().map(|name| {
        let tag = planner.part(own_name("once", rule), Kind::Once, known_for(within), many);
        (field(name, counted), tag)
    });
    let completes = match &rule.condition {
        Condition::Sequence { then, .. } => id(then),
        _ => None,
    };
    let value = value.map(|(_, field)| field);
    let pattern = rule.counts().into();
    let several = rule.on.len() > 1 && completes.is_none();
    Plan { per, tag, slot, value, once, completes, pattern, within, several, known: None }
}

/// One event at one rule's window.
struct Step<'s> {
    rule: &'s Arc<Rule>,
    number: usize,
    plan: &'s Plan,
    key: Key<'s>,
    place: Place,
    event: EventView<'s>,
    time: Micros,
    /// The bits of the rules that do not count it.
    used: u32,
    /// No event before this can still come.
    horizon: Option<Micros>,
    store: &'s mut Store,
    /// The tag of the key's marks.
    marks: u16,
    addresses: &'s Addresses,
}

impl<'s> Step<'s> {
    /// Puts the event into the rule's window.
    fn insert(
        &mut self,
        shown: &Evidence<'_>,
        extras: &[Field],
        parts: &mut Parts,
        clock: Option<Micros>,
        completes: bool,
    ) -> Inserted {
        let Self { plan, event, time, .. } = *self;
        let values: Vec<Option<&str>> = extras.iter().map(|field| text(*field, event)).collect();
        let evidence = Evidence { extras: &values, ..*shown };
        let weight = match self.rule.condition {
            // Every new value counts once, however heavy its line.
            Condition::New { .. } => 1,
            _ => event.weight,
        };
        let estimate = if self.store.is_degraded() {
            self.store.estimate(self.key, plan.tag, time)
        } else {
            0
        };
        let completes = completes.then_some(plan.slot);
        let fresh = Fresh { time, weight, used: self.used, completes, shown: &[] };
        let (mask, whole) =
            self.store.insert(self.place, plan.tag, fresh, (&evidence, parts), clock, estimate);
        Inserted { tag: plan.tag, mask, estimate, whole: whole.filter(|_| estimate == 0) }
    }

    /// Fires if a span has enough.
    fn cross(
        &mut self,
        inserted: &Inserted,
        completes: bool,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) {
        let Self { plan, place, time, .. } = *self;
        let counts = matches!(self.rule.condition, Condition::Count { .. } | Condition::New { .. });
        let whole =
            inserted.whole.filter(|_| counts).and_then(|all| all.crossing(time, plan.within));
        let crossing = || self.store.crossing(place, plan.tag, plan.slot, time, !completes);
        match whole.or_else(crossing) {
            Some(crossing) => {
                self.fire(Some(&crossing), None, decide);
            }
            // A sequence is completed by its last event only: before, nothing has happened.
            None if inserted.estimate > 0 && (completes || plan.completes.is_none()) => {
                self.fire_approx(inserted.estimate, decide);
            }
            None => {}
        }
    }

    /// Fires for a crossing, or for the event alone; whether that stands, or is to be tried again.
    fn fire(
        &mut self,
        crossing: Option<&Crossing>,
        value: Option<&str>,
        decide: &mut dyn FnMut(Firing<'_>) -> Verdict,
    ) -> bool {
        let at = crossing.map_or(self.time, |crossing| crossing.time);
        let minute = at.div_euclid(MINUTE);
        let Self { number: rule, place, marks, horizon, .. } = *self;
        if self.store.braked(place, marks, rule).is_some_and(|braked| minute <= braked) {
            return false;
        }
        let ordinal = self.store.fired(place, marks, rule, at);
        let tell = || {
            let told = match crossing {
                Some(crossing) => {
                    self.store.told(self.place, self.plan.tag, self.plan.slot, crossing)
                }
                None => {
                    let span = self.store.alone(self.time, &evidence(self.event));
                    Told::Ready(Box::new(span), None)
                }
            };
            Telling { told, value: value.map(str::to_owned), known_ips: self.known_ips() }
        };
        let verdict = decide(self.firing(ordinal, at, false, &tell));
        if let (Verdict::Stands, Some(crossing)) = (verdict, crossing) {
            self.store.use_up(place, self.plan.tag, self.plan.slot, crossing);
        }
        let braked = (verdict == Verdict::Braked).then_some(minute);
        if braked.is_some() {
            // It is known until the minute is over, however short the rule's window is.
            self.store.touch(place, marks, at);
        }
        self.store.fire(place, marks, Fired { rule, at, braked, horizon });
        verdict == Verdict::Stands
    }

    /// Fires if what is held has enough together with what may have been given up. Nothing is used
    /// up by it, and it is not counted among the firings of its time.
    fn fire_approx(&self, estimate: u64, decide: &mut dyn FnMut(Firing<'_>) -> Verdict) {
        let Self { plan, place, time, .. } = *self;
        let Some(at_least) = self.rule.condition.at_least() else { return };
        // While the limit is reached, this is asked for every event of a key: all that it holds is looked
        // at only when a line is to tell of it.
        let enough = at_least.saturating_sub(estimate);
        if !self.store.reaches(place, plan.tag, plan.slot, time, enough) {
            return;
        }
        let tell = || {
            let (recent, held) = self.store.recent(place, plan.tag, plan.slot, time);
            let bound = held.saturating_add(estimate);
            let (span, distinct) = self.store.span(place, plan.tag, plan.slot, &recent);
            let distinct = distinct.map(|_| bound);
            let span = Span { time, count: bound, ..span };
            let told = Told::Ready(Box::new(span), distinct);
            Telling { told, value: None, known_ips: self.known_ips() }
        };
        let ordinal = self.store.fired(place, self.marks, self.number, time);
        decide(self.firing(ordinal, time, true, &tell));
    }

    fn firing<'f>(
        &'f self,
        ordinal: u32,
        time: Micros,
        approx: bool,
        tell: &'f dyn Fn() -> Telling,
    ) -> Firing<'f> {
        Firing {
            rule: self.rule,
            number: u16::try_from(self.number).unwrap_or(u16::MAX),
            key: self.key,
            ordinal,
            time,
            pattern: &self.plan.pattern,
            approx,
            host: match self.key.kind {
                KeyKind::Range => self.event.ip.map(|ip| ip.ip),
                _ => None,
            },
            tell,
        }
    }

    fn known_ips(&self) -> Vec<String> {
        let role = match self.key.kind {
            KeyKind::User => USER,
            KeyKind::UserId => USER_ID,
            _ => return Vec::new(),
        };
        self.addresses.of(&[&[role], self.key.value].concat())
    }

    /// Keeps what was learnt.
    fn learnt(&mut self, content: &[u8]) {
        self.store.write(self.place, self.plan.tag, content);
        self.store.touch(self.place, self.plan.tag, self.time);
    }
}

/// What actions show of an event.
fn evidence(event: EventView<'_>) -> Evidence<'_> {
    Evidence {
        ip: event.ip.map(|ip| ip.ip),
        user: event.user().or(event.user_id()),
        user_is_id: event.user().is_none(),
        reason: event.reason(),
        request_id: event.request_id(),
        standing: event.ip.map_or(Standing::Good, |ip| ip.standing),
        extras: &[],
    }
}

fn key_part(part: &KeyPart, names: &[String], counted: &[String]) -> Part {
    match part {
        KeyPart::Ip => Part::Ip,
        KeyPart::User => Part::User,
        KeyPart::Field(name) if name == "user_id" => Part::UserId,
        KeyPart::Field(name) => {
            let number = names.iter().position(|known| known == name).unwrap_or(0);
            Part::Field(u16::try_from(number).unwrap_or(u16::MAX), field(name, counted))
        }
    }
}

/// Writes the value of an event's key; its kind, if it has one.
fn put_key(per: &[Part], event: EventView<'_>, prefix: u8, out: &mut Vec<u8>) -> Option<KeyKind> {
    match per {
        [] => Some(KeyKind::Global),
        [part] => put_one(*part, event, prefix, out),
        parts => {
            let start = out.len();
            let mut value = Vec::new();
            for part in parts {
                value.clear();
                let Some(kind) = put_one(*part, event, prefix, &mut value) else {
                    out.truncate(start);
                    return None;
                };
                put_part(out, Key { kind, value: &value });
            }
            Some(KeyKind::Several)
        }
    }
}

fn put_one(part: Part, event: EventView<'_>, prefix: u8, out: &mut Vec<u8>) -> Option<KeyKind> {
    let (kind, text) = match part {
        Part::Ip => {
            return Some(match event.ip?.ip {
                IpAddr::V4(ip) => put_v4(out, ip),
                ip => put_net(out, &addr::target(ip, prefix).1),
            });
        }
        Part::User => match (event.user(), event.user_id()) {
            (Some(user), _) => (KeyKind::User, user),
            (None, id) => (KeyKind::UserId, id?),
        },
        Part::UserId => (KeyKind::UserId, event.user_id()?),
        Part::Field(number, field) => (KeyKind::Field(number), text(field, event)?),
    };
    out.extend_from_slice(text.as_bytes());
    Some(kind)
}

/// The roles of values, as they are told apart.
const USER: u8 = 0;
const USER_ID: u8 = 1;
const IP: u8 = 2;
const OTHER: u8 = 3;

/// Writes an event's value of a field, its role before it; `false` if it has none.
fn put_value(field: Field, event: EventView<'_>, prefix: u8, out: &mut Vec<u8>) -> bool {
    let role = match field {
        Field::User if event.user().is_some() => USER,
        Field::User | Field::UserId => USER_ID,
        Field::Ip => IP,
        Field::Country | Field::Request | Field::Counted(_) | Field::None => OTHER,
    };
    out.push(role);
    if field == Field::Ip {
        let Some(ip) = event.ip else { return false };
        let (kind, net) = addr::target(ip.ip, prefix);
        out.extend_from_slice(addr::target_text(kind, &net).as_bytes());
        return true;
    }
    let Some(text) = text(field, event) else { return false };
    out.extend_from_slice(text.as_bytes());
    true
}

/// An event's value of a field that is a text.
fn text<'e>(field: Field, event: EventView<'e>) -> Option<&'e str> {
    match field {
        Field::User => event.user().or(event.user_id()),
        Field::UserId => event.user_id(),
        Field::Country => event.country(),
        Field::Request => event.request_id(),
        Field::Counted(slot) => event.value(slot),
        Field::Ip | Field::None => None,
    }
}

/// Kind and value of a key, as on the action line; `names` are those of [`Detector::key_names`].
pub fn describe(key: Key<'_>, names: &[String]) -> (String, Option<String>) {
    let text = || key.text().map(str::to_owned);
    match key.kind {
        KeyKind::Global => ("global".to_owned(), None),
        KeyKind::Host | KeyKind::Range => {
            let kind = if key.kind == KeyKind::Host { "ip" } else { "range" };
            (kind.to_owned(), key.net().map(|net| addr::target_text(kind, &net)))
        }
        KeyKind::User => ("user".to_owned(), text()),
        KeyKind::UserId => ("user_id".to_owned(), text()),
        KeyKind::Field(number) => {
            let name = names.get(usize::from(number)).map_or("field", String::as_str);
            (name.to_owned(), text())
        }
        KeyKind::Several => {
            let parts = key.parts();
            let parts: Vec<_> = parts.into_iter().map(|key| describe(key, names)).collect();
            let kinds: Vec<&str> = parts.iter().map(|(kind, _)| kind.as_str()).collect();
            // A JSON array: no value can be mistaken for the border between two.
            let values: Vec<_> =
                parts.iter().map(|(_, value)| value.clone().unwrap_or_default()).collect();
            (kinds.join("+"), serde_json::to_string(&values).ok())
        }
    }
}

/// Whom an action lists: addresses for accounts, accounts for everything else, both globally.
pub fn shown_tallies(of: KeyKind, users: Tally, ips: Tally) -> (Option<Tally>, Option<Tally>) {
    let some = |tally: Tally| (tally.distinct > 0).then_some(tally);
    match of {
        KeyKind::User | KeyKind::UserId => (None, some(ips)),
        KeyKind::Host => (some(users), None),
        KeyKind::Range | KeyKind::Global | KeyKind::Several | KeyKind::Field(_) => {
            (some(users), some(ips))
        }
    }
}
