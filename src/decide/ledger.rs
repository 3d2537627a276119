//! What is active: one entry per mode, action and target (alerts: per rule too), with its end.
//!
//! A decision is active for every crossing before its `until`, whether or not its end was said: a
//! late event may cross at a time that the clock has passed, and an idle stream says ends earlier
//! than a busy one. So what has ended stays known until no such crossing can come.

use crate::action::OWN_PACK;
use crate::action::decision::add_host;
use crate::action::order::BY_HAND;
use crate::decode::time::Micros;
use crate::detect::condition::{ACTIONS, ActionKind, Escalate};
use crate::detect::rule::{Mode, Rule, Severity, Urgency};
use crate::window::codec::{Reader, number, put_bytes, put_number, put_option, put_time};
use crate::window::key::{Key, KeyKind, OwnKey};
use hashbrown::{Equivalent, HashMap};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

/// What can be active only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerKey {
    /// Shadow decisions have a ledger of their own.
    pub mode: Mode,
    /// The action.
    pub kind: ActionKind,
    /// For alerts, the rule's number; other decisions are shared by all rules.
    pub rule: Option<u16>,
    /// At whom.
    pub target: OwnKey,
}

/// A [`LedgerKey`] to look up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked<'k> {
    /// See [`LedgerKey::mode`].
    pub mode: Mode,
    /// See [`LedgerKey::kind`].
    pub kind: ActionKind,
    /// See [`LedgerKey::rule`].
    pub rule: Option<u16>,
    /// See [`LedgerKey::target`].
    pub target: Key<'k>,
}

impl LedgerKey {
    /// To look up with.
    pub fn asked(&self) -> Asked<'_> {
        Asked { mode: self.mode, kind: self.kind, rule: self.rule, target: self.target.view() }
    }
}

impl Asked<'_> {
    fn own(self) -> LedgerKey {
        LedgerKey { mode: self.mode, kind: self.kind, rule: self.rule, target: self.target.own() }
    }
}

// A key and what it is looked up with must have the same hash.
impl Hash for LedgerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.asked().hash(state);
    }
}

impl Equivalent<LedgerKey> for Asked<'_> {
    fn equivalent(&self, key: &LedgerKey) -> bool {
        *self == key.asked()
    }
}

/// An active decision.
#[derive(Debug, Clone)]
pub struct Active {
    /// The id of its start.
    pub id: u64,
    /// The rule that started it.
    pub rule: Arc<Rule>,
    /// When it ends.
    pub until: Micros,
    /// The start's ordinal.
    pub ordinal: u32,
    /// Crossings so far.
    pub crossings: u64,
    /// The pattern that was counted.
    pub pattern: Arc<str>,
    /// When it started.
    pub started: Micros,
    /// Of a range: the addresses that crossed.
    pub hosts: Vec<IpAddr>,
    /// Somebody decided it although a guard spoke against it.
    pub forced: bool,
}

/// Earlier decisions of one key, for escalation and limits.
#[derive(Debug, Clone, Default)]
struct Past {
    /// When the latest began, and when each ends or ended.
    spans: Vec<(Micros, Micros)>,
}

impl Past {
    /// When the last one ends or ended.
    fn until(&self) -> Micros {
        self.spans.last().map_or(Micros::MIN, |(_, until)| *until)
    }

    /// How many there were in a row before `at`, none of them over for more than `forget` before the
    /// next: whichever rules began them.
    fn streak(&self, at: Micros, forget: Micros) -> u32 {
        let mut next = at;
        let near = |(start, until): &&(Micros, Micros)| {
            let gap = next.saturating_sub(*until);
            next = *start;
            gap <= forget
        };
        u32::try_from(self.spans.iter().rev().take_while(near).count()).unwrap_or(u32::MAX)
    }
}

/// Spans remembered per key: as often as anything can be doubled.
const SPANS_MAX: usize = 64;
/// Those that a list has room for when it is made.
const FEW_SPANS: usize = 4;
/// Keys whose past is remembered; past it, those that ended longest ago are forgotten first.
const PAST_MAX: usize = 500_000;

/// Ends among which alerts are looked for that can be given up: others may stand before them.
const LOOKED_AT: usize = 1024;

/// A decision with its place among the ends.
#[derive(Debug)]
struct Entry {
    active: Active,
    /// Its number, by which equal ends come in the order of their starts.
    number: u64,
    /// The time under which it stands among `ends` or `said`. A later end moves it there only when
    /// this one has come: an attacker prolongs a decision with every few events.
    place: Micros,
    /// Its end was said.
    said: bool,
}

/// The ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Boxed: of a table that has just grown, more than half is empty.
    active: HashMap<LedgerKey, Box<Entry>, RandomState>,
    /// Ends to be said, in order.
    ends: BTreeMap<(Micros, u64), LedgerKey>,
    /// Ends that were said, of decisions that a late crossing may still meet.
    said: BTreeMap<(Micros, u64), LedgerKey>,
    past: HashMap<LedgerKey, Past, RandomState>,
    /// Alerts among those that are active.
    alerts: usize,
    /// Spans in it beyond the first four of each key.
    more_spans: usize,
    started: u64,
}

/// Bytes counted for an active decision: its places in the lists, at the lowest load that they have
/// after growing, and its key.
const ACTIVE_BYTES: usize =
    2 * (size_of::<(LedgerKey, Box<Entry>)>() + 64 + 48) + size_of::<Entry>().next_multiple_of(32);
/// Bytes counted for what is remembered of a key.
const PAST_BYTES: usize = 2 * (size_of::<(LedgerKey, Past)>() + 48) + 64;

/// What a line about the end of a decision tells of its rule, so that it can be written when the
/// rule is no longer loaded.
fn put_rule(out: &mut Vec<u8>, rule: &Rule) {
    for text in [&rule.pack, &rule.id, rule.runbook.as_ref().unwrap_or(&String::new())] {
        put_bytes(out, text.as_bytes());
    }
    put_number(out, number(rule.notify.len()));
    rule.notify.iter().for_each(|name| put_bytes(out, name.as_bytes()));
    put_option(out, rule.level, |out, level| put_bytes(out, level.name().as_bytes()));
    put_option(out, rule.severity, |out, severity| put_bytes(out, severity.name().as_bytes()));
    put_option(out, rule.respond_s, put_number);
    put_option(out, rule.escalate_s, put_number);
}

fn take_rule(from: &mut Reader<'_>) -> Option<Rule> {
    let mut text = || from.text().map(str::to_owned);
    let (pack, id, runbook) = (text()?, text()?, text()?);
    let mut rule = Rule { pack, id, ..Rule::default() };
    rule.runbook = Some(runbook).filter(|runbook| !runbook.is_empty());
    for _ in 0..from.number()? {
        rule.notify.push(from.text()?.to_owned());
    }
    let level = from.option(Reader::text)?;
    rule.level = level.and_then(|name| Urgency::ALL.into_iter().find(|one| one.name() == name));
    let severity = from.option(Reader::text)?;
    rule.severity =
        severity.and_then(|name| Severity::ALL.into_iter().find(|one| one.name() == name));
    rule.respond_s = from.option(Reader::number)?;
    rule.escalate_s = from.option(Reader::number)?;
    Some(rule)
}

fn put_key(out: &mut Vec<u8>, key: &LedgerKey) {
    out.push(u8::from(key.mode == Mode::Shadow));
    put_bytes(out, key.kind.name().as_bytes());
    let target = key.target.view();
    put_number(out, u64::from(target.kind.code()));
    put_bytes(out, target.value);
}

/// What a ledger is read with when rules or fields have other numbers than those it was written
/// with.
pub struct Renumber<'r> {
    /// The format in which it was written.
    pub format: u64,
    /// The rules as they are now.
    pub rules: &'r [Arc<Rule>],
    /// The number that a rule has now, by its number before.
    pub rule: &'r dyn Fn(u16) -> Option<u16>,
    /// The numbers that fields have now, by those before.
    pub fields: &'r [Option<usize>],
}

impl std::fmt::Debug for Renumber<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renumber").field("fields", &self.fields).finish_non_exhaustive()
    }
}

fn take_key(from: &mut Reader<'_>, fields: &[Option<usize>]) -> Option<Option<LedgerKey>> {
    let mode = if from.byte()? == 0 { Mode::Enforce } else { Mode::Shadow };
    let name = from.text()?;
    let (_, kind) = ACTIONS.into_iter().find(|(known, _)| *known == name)?;
    let code = from.narrow()?;
    let target = Key { kind: KeyKind::of_code(code), value: from.bytes()? };
    let moved = target.renumbered(fields);
    Some(moved.map(|(kind_now, value)| {
        let target = Key { kind: kind_now, value: &value }.own();
        LedgerKey { mode, kind, rule: None, target }
    }))
}

/// The first format that knows when earlier decisions ended.
const SPANS_SINCE: u64 = 5;

fn take_spans(from: &mut Reader<'_>) -> Option<Vec<(Micros, Micros)>> {
    (0..from.number()?).map(|_| Some((from.time()?, from.time()?))).collect()
}

/// Of older formats: how many starts came in a row, when the last of them ends, and when they began.
fn take_starts(from: &mut Reader<'_>) -> Option<Vec<(Micros, Micros)>> {
    let (streak, mut until) = (from.narrow::<usize>()?, from.time()?);
    let starts = (0..from.number()?).map(|_| from.time()).collect::<Option<Vec<_>>>()?;
    let mut spans = Vec::with_capacity(starts.len());
    for (n, start) in starts.into_iter().rev().enumerate() {
        spans.push((start, if n < streak { until } else { Micros::MIN }));
        until = start;
    }
    spans.reverse();
    Some(spans)
}

impl Ledger {
    /// Writes all that it holds.
    pub fn capture(&self, out: &mut Vec<u8>) {
        let mut rules: Vec<&Arc<Rule>> = Vec::new();
        let mut entries = Vec::new();
        for (key, entry) in &self.active {
            let same = |known: &&Arc<Rule>| Arc::ptr_eq(known, &entry.active.rule);
            let rule = rules.iter().position(same).unwrap_or_else(|| {
                rules.push(&entry.active.rule);
                rules.len() - 1
            });
            put_key(&mut entries, key);
            entries.push(u8::from(key.rule.is_some()));
            put_number(&mut entries, number(rule));
            let Entry { active, number: place_number, place, said } = &**entry;
            put_number(&mut entries, active.id);
            put_time(&mut entries, active.until);
            put_number(&mut entries, u64::from(active.ordinal));
            put_number(&mut entries, active.crossings);
            put_bytes(&mut entries, active.pattern.as_bytes());
            put_number(&mut entries, *place_number);
            put_time(&mut entries, *place);
            entries.push(u8::from(*said));
        }
        put_number(out, number(rules.len()));
        rules.iter().for_each(|rule| put_rule(out, rule));
        put_number(out, number(self.active.len()));
        out.extend_from_slice(&entries);
        put_number(out, number(self.past.len()));
        for (key, past) in &self.past {
            put_key(out, key);
            put_option(out, key.rule, |out, rule| put_number(out, u64::from(rule)));
            put_number(out, number(past.spans.len()));
            for (start, until) in &past.spans {
                put_time(out, *start);
                put_time(out, *until);
            }
        }
        put_number(out, self.started);
    }

    /// Reads what [`Ledger::capture`] wrote. A decision of a rule that is no longer loaded stays
    /// until its end.
    pub fn restore(&mut self, from: &mut Reader<'_>, now: &Renumber<'_>) -> Option<()> {
        let mut rules = Vec::new();
        for _ in 0..from.number()? {
            let read = take_rule(from)?;
            let same = |rule: &&Arc<Rule>| rule.id == read.id && rule.pack == read.pack;
            let loaded = now.rules.iter().zip(0u16..).find(|(rule, _)| same(rule));
            // A number beyond those of loaded rules: no firing can meet it.
            let gone = u16::try_from(now.rules.len() + rules.len()).ok()?;
            let (rule, place) = match loaded {
                Some((rule, place)) => (Arc::clone(rule), place),
                None => (Arc::new(read), gone),
            };
            rules.push((rule, place));
        }
        for _ in 0..from.number()? {
            let key = take_key(from, now.fields)?;
            let of_rule = from.byte()? != 0;
            let (rule, place_now) = rules.get(from.narrow::<usize>()?)?;
            let active = Active {
                id: from.number()?,
                rule: Arc::clone(rule),
                until: from.time()?,
                ordinal: from.narrow()?,
                crossings: from.number()?,
                pattern: from.text()?.into(),
                started: 0,
                hosts: Vec::new(),
                forced: false,
            };
            let (number, place, said) = (from.number()?, from.time()?, from.byte()? != 0);
            let Some(key) = key else { continue };
            let key = LedgerKey { rule: of_rule.then_some(*place_now), ..key };
            let list = if said { &mut self.said } else { &mut self.ends };
            list.insert((place, number), key.clone());
            self.hold(key, Entry { active, number, place, said });
        }
        for _ in 0..from.number()? {
            let key = take_key(from, now.fields)?;
            let before = from.option(Reader::narrow::<u16>)?;
            let spans =
                if now.format < SPANS_SINCE { take_starts(from)? } else { take_spans(from)? };
            let rule = match before {
                None => Some(None),
                Some(before) => (now.rule)(before).map(Some),
            };
            if let (Some(key), Some(rule)) = (key, rule) {
                self.more_spans += spans.len().saturating_sub(FEW_SPANS);
                self.past.insert(LedgerKey { rule, ..key }, Past { spans });
            }
        }
        self.started = from.number()?;
        Some(())
    }

    /// Writes what [`Ledger::capture`] leaves out: since when decisions are active, and the
    /// addresses of ranges.
    pub fn capture_more(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.active.len()));
        for entry in self.active.values() {
            put_number(out, entry.number);
            put_time(out, entry.active.started);
            out.push(u8::from(entry.active.forced));
            put_number(out, number(entry.active.hosts.len()));
            entry.active.hosts.iter().for_each(|host| put_bytes(out, host.to_string().as_bytes()));
        }
    }

    /// Reads it as it was written.
    pub fn restore_more(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let mut more = HashMap::<u64, (Micros, bool, Vec<IpAddr>), RandomState>::default();
        for _ in 0..from.number()? {
            let (number, started, forced) = (from.number()?, from.time()?, from.byte()? != 0);
            let mut hosts = Vec::new();
            for _ in 0..from.number()? {
                hosts.push(from.text()?.parse().ok()?);
            }
            more.insert(number, (started, forced, hosts));
        }
        for entry in self.active.values_mut() {
            if let Some((started, forced, hosts)) = more.remove(&entry.number) {
                let active = &mut entry.active;
                (active.started, active.forced, active.hosts) = (started, forced, hosts);
            }
        }
        Some(())
    }

    /// Writes what the formats before the fifth do not know: who decided by hand, and why.
    pub fn capture_reasons(&self, out: &mut Vec<u8>) {
        let is_by_hand = |rule: &Rule| rule.pack == OWN_PACK && rule.id == BY_HAND;
        let by_hand = || self.active.values().filter(|entry| is_by_hand(&entry.active.rule));
        put_number(out, number(by_hand().count()));
        for entry in by_hand() {
            put_number(out, entry.number);
            put_bytes(out, entry.active.rule.title.as_bytes());
        }
    }

    /// Reads it as it was written.
    pub fn restore_reasons(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let mut reasons = HashMap::<u64, String, RandomState>::default();
        for _ in 0..from.number()? {
            reasons.insert(from.number()?, from.text()?.to_owned());
        }
        for entry in self.active.values_mut() {
            if let Some(reason) = reasons.remove(&entry.number) {
                Arc::make_mut(&mut entry.active.rule).title = reason;
            }
        }
        Some(())
    }

    /// What is active and whose end was not said, in the order of its starts.
    pub fn standing(&self) -> Vec<(&LedgerKey, &Active)> {
        let mut all: Vec<_> = self.active.iter().filter(|(_, entry)| !entry.said).collect();
        all.sort_by_key(|(_, entry)| entry.number);
        all.into_iter().map(|(key, entry)| (key, &entry.active)).collect()
    }

    fn hold(&mut self, key: LedgerKey, entry: Entry) {
        let alert = key.kind == ActionKind::Alert;
        if self.active.insert(key, Box::new(entry)).is_none() {
            self.alerts += usize::from(alert);
        }
    }

    fn release(&mut self, key: Asked<'_>) -> Option<Box<Entry>> {
        let entry = self.active.remove(&key)?;
        self.alerts -= usize::from(key.kind == ActionKind::Alert);
        Some(entry)
    }

    /// Ends a decision before its time; it does not count for escalation either.
    pub fn lift(&mut self, key: &LedgerKey) -> Option<Active> {
        let entry = self.release(key.asked())?;
        let place = (entry.place, entry.number);
        self.said.remove(&place);
        if let Some(past) = self.past.remove(key) {
            self.more_spans -= past.spans.len().saturating_sub(FEW_SPANS);
        }
        self.ends.remove(&place).map(|_| entry.active)
    }

    /// Notes that somebody insists on it.
    pub fn force(&mut self, key: Asked<'_>) {
        if let Some(entry) = self.active.get_mut(&key) {
            entry.active.forced = true;
        }
    }

    /// Forgets those whose end was said, of which a late crossing would otherwise find some again.
    pub fn forget_said(&mut self, which: impl Fn(&LedgerKey, &Active) -> bool) {
        let Self { active, said, alerts, .. } = self;
        said.retain(|_, key| {
            let gone = active.get(&key.asked()).is_some_and(|entry| which(key, &entry.active));
            if gone && active.remove(&key.asked()).is_some() {
                *alerts -= usize::from(key.kind == ActionKind::Alert);
            }
            !gone
        });
    }

    /// Lets a decision end at another time than it would, earlier or later.
    pub fn end_at(&mut self, key: Asked<'_>, until: Micros) {
        let Some(entry) = self.active.get_mut(&key) else { return };
        let before = (entry.place, entry.number);
        let list = if entry.said { &mut self.said } else { &mut self.ends };
        let own = list.remove(&before).unwrap_or_else(|| key.own());
        (entry.active.until, entry.place, entry.said) = (until, until, false);
        self.ends.insert((until, entry.number), own);
    }

    /// Takes a decision in that was made before and is not known here, in place of any other.
    pub fn adopt(&mut self, key: LedgerKey, active: Active) {
        self.lift(&key);
        self.started += 1;
        let (number, place) = (self.started, active.until);
        self.ends.insert((place, number), key.clone());
        let entry = Entry { active, number, place, said: false };
        self.hold(key, entry);
    }

    /// Notes an address of a range that crossed.
    pub fn offended(&mut self, key: Asked<'_>, host: IpAddr) {
        if let Some(entry) = self.active.get_mut(&key) {
            add_host(&mut entry.active.hosts, host);
        }
    }

    /// Decisions whose end was not said.
    pub fn active(&self) -> usize {
        self.ends.len()
    }

    /// Bytes counted.
    pub fn bytes(&self) -> usize {
        self.active.len() * ACTIVE_BYTES
            + self.past.len() * PAST_BYTES
            + self.more_spans * 2 * size_of::<(Micros, Micros)>()
    }

    /// Alerts that are to be ended early, so that all of them take no more than `limit` bytes: those
    /// that end first.
    pub fn crowded(&mut self, limit: usize) -> Vec<LedgerKey> {
        let mut crowded = Vec::new();
        let bytes = self.alerts * ACTIVE_BYTES;
        let Some(over) = bytes.checked_sub(limit).filter(|over| *over > 0) else {
            return crowded;
        };
        let count = (over + limit / 10).div_ceil(ACTIVE_BYTES);
        let soon = self.ends.iter().take(LOOKED_AT);
        let soon = soon.filter(|(_, key)| key.kind == ActionKind::Alert);
        let soon: Vec<_> = soon.map(|(at, key)| (*at, key.clone())).collect();
        for ((place, number), key) in soon {
            let Some(entry) = self.active.get_mut(&key.asked()) else { continue };
            if entry.active.until > place {
                // Who goes on would only begin again.
                entry.place = entry.active.until;
                self.ends.remove(&(place, number));
                self.ends.insert((entry.place, number), key);
            } else if crowded.len() < count {
                crowded.push(key);
            }
        }
        crowded
    }

    /// The decision of `key` that is active, or whose end was said and not yet forgotten.
    pub fn get(&self, key: Asked<'_>) -> Option<&Active> {
        self.active.get(&key).map(|entry| &entry.active)
    }

    /// When the next decision ends, if not later.
    pub fn next_end(&self) -> Option<Micros> {
        self.ends.first_key_value().map(|((until, _), _)| *until)
    }

    /// The first decision that is over at `clock` and whose end was not said before.
    pub fn pop_due(&mut self, clock: Micros) -> Option<(LedgerKey, Active)> {
        loop {
            let ((due, _), _) = self.ends.first_key_value()?;
            if *due > clock {
                return None;
            }
            let ((due, number), key) = self.ends.pop_first()?;
            let entry = self.active.get_mut(&key.asked())?;
            if entry.active.until > due {
                entry.place = entry.active.until;
                self.ends.insert((entry.place, number), key);
                continue;
            }
            entry.said = true;
            let active = entry.active.clone();
            self.said.insert((due, number), key.clone());
            return Some((key, active));
        }
    }

    /// Forgets decisions that ended by `horizon`, before which nothing can cross any more.
    pub fn forget(&mut self, horizon: Micros) {
        while let Some(((until, _), _)) = self.said.first_key_value()
            && *until <= horizon
        {
            if let Some((_, key)) = self.said.pop_first() {
                self.release(key.asked());
            }
        }
    }

    /// Lets go of the decision of `key` if it is over at `at`, whatever the clock says; gives it if
    /// its end is still to be said.
    pub fn take_ended(&mut self, key: Asked<'_>, at: Micros) -> Option<Active> {
        if self.get(key)?.until > at {
            return None;
        }
        let entry = self.release(key)?;
        let place = (entry.place, entry.number);
        self.said.remove(&place);
        self.ends.remove(&place).map(|_| entry.active)
    }

    /// Begins a decision at `at`. With `recurs`, it is remembered beyond its end, for those that are
    /// longer or others if it comes again.
    pub fn start(&mut self, key: Asked<'_>, at: Micros, active: Active, recurs: bool) {
        let key = key.own();
        self.started += 1;
        if recurs {
            self.remember(&key, at, active.until);
        }
        self.ends.insert((active.until, self.started), key.clone());
        let (number, place) = (self.started, active.until);
        let entry = Entry { active, number, place, said: false };
        self.hold(key, entry);
    }

    fn remember(&mut self, key: &LedgerKey, at: Micros, until: Micros) {
        if self.past.len() >= PAST_MAX {
            let mut ends: Vec<Micros> = self.past.values().map(Past::until).collect();
            let middle = ends.len() / 2;
            let (_, cut, _) = ends.select_nth_unstable(middle);
            let cut = *cut;
            self.past.retain(|_, past| past.until() > cut);
            let more = self.past.values().map(|past| past.spans.len().saturating_sub(FEW_SPANS));
            self.more_spans = more.sum();
        }
        let past = self.past.entry(key.clone()).or_default();
        if past.spans.len() >= SPANS_MAX {
            past.spans.remove(0);
        } else if past.spans.len() >= FEW_SPANS {
            self.more_spans += 1;
        }
        past.spans.push((at, until.max(past.until())));
    }

    /// Counts a crossing of an active decision and, with `until`, lets it end no earlier; its id and
    /// its end.
    pub fn repeat(&mut self, key: Asked<'_>, until: Option<Micros>) -> Option<(u64, Micros)> {
        let entry = self.active.get_mut(&key)?;
        entry.active.crossings += 1;
        let id = entry.active.id;
        let Some(until) = until.filter(|until| *until > entry.active.until) else {
            return Some((id, entry.active.until));
        };
        entry.active.until = until;
        if std::mem::take(&mut entry.said) {
            let own = self.said.remove(&(entry.place, entry.number));
            entry.place = until;
            self.ends.insert((until, entry.number), own.unwrap_or_else(|| key.own()));
        }
        if !self.past.is_empty()
            && let Some((_, end)) = self.past.get_mut(&key).and_then(|past| past.spans.last_mut())
        {
            *end = until.max(*end);
        }
        Some((id, until))
    }

    /// How long a start at `at` lasts: longer for each earlier start that is not forgotten.
    pub fn escalated(
        &self,
        key: Asked<'_>,
        at: Micros,
        base: Micros,
        escalate: Option<&Escalate>,
    ) -> Micros {
        let Some(escalate) = escalate else { return base };
        let streak = self.past.get(&key).map_or(0, |past| past.streak(at, escalate.forget));
        let factor = i64::from(escalate.factor).saturating_pow(streak);
        base.saturating_mul(factor).min(escalate.up_to.max(base))
    }

    /// Starts of `key` in (at - per, at].
    pub fn recent_starts(&self, key: Asked<'_>, at: Micros, per: Micros) -> u32 {
        let spans = self.past.get(&key).map(|past| past.spans.as_slice()).unwrap_or_default();
        let recent =
            spans.iter().filter(|(start, _)| *start > at.saturating_sub(per) && *start <= at);
        u32::try_from(recent.count()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_older_formats_are_as_long_as_they_were() {
        let mut out = Vec::new();
        // Two in a row, the last until 900; the first of three was forgotten.
        put_number(&mut out, 2);
        put_time(&mut out, 900);
        put_number(&mut out, 3);
        [0, 500, 700].into_iter().for_each(|start| put_time(&mut out, start));
        let spans = take_starts(&mut Reader::new(&out)).unwrap();
        assert_eq!(spans, [(0, Micros::MIN), (500, 700), (700, 900)]);
        let past = Past { spans };
        assert_eq!([past.streak(950, 100), past.streak(1001, 100)], [2, 0]);
        assert_eq!(past.streak(Micros::MAX - 1, Micros::MAX - 900), 2);
    }
}
