//! From firing to decision: what is forbidden, what is active already, and what lines follow.

pub mod board;
pub mod guard;
pub mod hand;
pub mod ledger;
pub mod line;

use crate::action::{Action, Op, Target};
use crate::decode::time::Micros;
use crate::detect::condition::{ActionKind, Limit, Then};
use crate::detect::detector::{Firing, Telling, Verdict, describe};
use crate::detect::rule::{Mode, OnRepeat, Rule, Severity, Urgency};
use crate::pattern::Standing;
use crate::window::codec::{Reader, number, put_bytes, put_number, put_time};
use crate::window::key::{Key, KeyKind, OwnKey, put_net, put_part};
use guard::{Guard, Held};
use ipnet::IpNet;
use ledger::{Active, Asked, Ledger, LedgerKey, Renumber};
use line::{Due, End, Line, Says};
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// What a line must add to the end of what concerns every visitor.
const EXTEND_STEP: Micros = 60_000_000;
/// The rules of messages about Portcullis itself.
pub const NOTES: [&str; 4] = ["brake", "limit", "clock", "source"];

/// Times of messages remembered; there are few, and equal ones follow each other closely.
const NOTED_MAX: usize = 256;

/// What deciding needs of the settings.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DecideConfig {
    /// Shadow for everything, or each rule's own mode.
    pub mode: Mode,
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<Arc<str>>,
    /// For rules without a limit of their own.
    pub max_locks: Option<Limit>,
}

/// Turns firings into action lines.
#[derive(Debug)]
pub struct Decider {
    config: DecideConfig,
    guard: Guard,
    ledger: Ledger,
    /// The latest messages about Portcullis itself, by rule and time, with how many there were.
    noted: VecDeque<(&'static str, Micros, u32)>,
    /// Lines that are due, in order.
    pub out: Vec<Due>,
    /// Ends of alerts that have become later in silence, by the id of the decision, for who shows what
    /// is in force; if somebody does.
    pub prolonged: Option<BTreeMap<u64, Micros>>,
}

impl Decider {
    /// A decider with nothing active.
    pub fn new(config: DecideConfig, guard: Guard) -> Self {
        Self {
            config,
            guard,
            ledger: Ledger::default(),
            noted: VecDeque::new(),
            out: Vec::new(),
            prolonged: None,
        }
    }

    /// What it needed of the settings.
    pub fn config(&self) -> &DecideConfig {
        &self.config
    }

    /// Decisions that are active.
    pub fn active(&self) -> usize {
        self.ledger.active()
    }

    /// Bytes counted of what is remembered.
    pub fn bytes(&self) -> usize {
        self.ledger.bytes()
    }

    /// Ends alerts before their time, those that would end first, when all of them take more than
    /// `limit` bytes; how many. Nobody is let in by that.
    pub fn keep_below(&mut self, limit: usize, at: Micros, names: &[String]) -> u64 {
        let crowded = self.ledger.crowded(limit);
        for key in &crowded {
            self.cut_short(key, at, names, CROWDED);
        }
        crowded.len() as u64
    }

    /// Ends a decision at `at`, before its time; what it was.
    fn cut_short(
        &mut self,
        key: &LedgerKey,
        at: Micros,
        names: &[String],
        why: &str,
    ) -> Option<Active> {
        let active = self.ledger.lift(key)?;
        // An end is told under its own time; it cannot lie before the start.
        let until = at.clamp(active.started, active.until.max(active.started));
        self.end(key.asked(), &Active { until, ..active.clone() }, names, why);
        Some(active)
    }

    /// Writes what is active and what the brakes have counted.
    pub fn capture(&self, out: &mut Vec<u8>) {
        self.guard.capture(out);
        put_number(out, number(self.noted.len()));
        for (rule, at, times) in &self.noted {
            put_bytes(out, rule.as_bytes());
            put_time(out, *at);
            put_number(out, u64::from(*times));
        }
        self.ledger.capture(out);
    }

    /// Reads it as it was written.
    pub fn restore(&mut self, from: &mut Reader<'_>, now: &Renumber<'_>) -> Option<()> {
        self.guard.restore(from)?;
        for _ in 0..from.number()? {
            let (rule, at, times) = (from.text()?, from.time()?, from.narrow()?);
            if let Some(rule) = NOTES.into_iter().find(|known| *known == rule) {
                self.noted.push_back((rule, at, times));
            }
        }
        self.ledger.restore(from, now)
    }

    /// Writes what [`Decider::capture`] leaves out.
    pub fn capture_more(&self, out: &mut Vec<u8>) {
        self.guard.capture_more(out);
        self.ledger.capture_more(out);
    }

    /// Reads it as it was written.
    pub fn restore_more(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.guard.restore_more(from)?;
        self.ledger.restore_more(from)
    }

    /// Writes what the formats before the third do not know.
    pub fn capture_later(&self, out: &mut Vec<u8>) {
        self.guard.capture_later(out);
    }

    /// Reads it as it was written.
    pub fn restore_later(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.guard.restore_later(from)
    }

    /// Writes what the formats before the fifth do not know.
    pub fn capture_reasons(&self, out: &mut Vec<u8>) {
        self.ledger.capture_reasons(out);
    }

    /// Reads it as it was written.
    pub fn restore_reasons(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.ledger.restore_reasons(from)
    }

    /// Emits the end of every decision whose time is up at `clock`; `names` as for
    /// [`Decider::fire`].
    pub fn advance(&mut self, clock: Micros, names: &[String]) {
        while let Some((key, active)) = self.ledger.pop_due(clock) {
            self.end(key.asked(), &active, names, TIME_IS_UP);
        }
    }

    /// Forgets what ended by `horizon`, before which nothing can cross any more.
    pub fn forget(&mut self, horizon: Micros) {
        self.ledger.forget(horizon);
    }

    /// When the next decision ends.
    pub fn next_end(&self) -> Option<Micros> {
        self.ledger.next_end()
    }

    /// What guard would hold an action on `key` back, for people.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Emits a message about Portcullis itself. Its ordinal counts those of one rule and time, so
    /// that its id depends on nothing else that was said before.
    pub fn note(
        &mut self,
        rule: &'static str,
        severity: Severity,
        urgency: Urgency,
        at: Micros,
        reason: String,
    ) {
        let ordinal = match self.noted.iter_mut().find(|(r, time, _)| *r == rule && *time == at) {
            Some((_, _, times)) => {
                *times += 1;
                *times - 1
            }
            None => {
                if self.noted.len() >= NOTED_MAX {
                    self.noted.pop_front();
                }
                self.noted.push_back((rule, at, 1));
                0
            }
        };
        let note = Action::note(rule, severity, urgency, at, ordinal, reason);
        self.out.push(Due::of(note));
    }

    /// Decides about a firing; `names` are those of the fields that keys are made of.
    pub fn fire(&mut self, firing: &Firing<'_>, names: &Arc<[String]>) -> Verdict {
        let told = Told { firing, names, telling: OnceCell::new() };
        if firing.approx {
            // What may be a mistake locks nobody out, whatever the rule says.
            let alert = firing.rule.then.iter().find(|then| then.action == ActionKind::Alert);
            let alert =
                alert.copied().unwrap_or(Then { action: ActionKind::Alert, duration: None });
            return self.act(&told, alert);
        }
        let mut verdict = Verdict::Stands;
        for written in &firing.rule.then {
            let then = self.lock_or_2fa(firing, *written);
            // A rule that demands a second factor anyway demands it once: two lines of one firing would have one id.
            let twice = |other: &Then| other.action == then.action;
            if then.action != written.action && firing.rule.then.iter().any(twice) {
                continue;
            }
            verdict = verdict.max(self.act(&told, then));
        }
        verdict
    }

    /// Past the limit of locks, a second factor is demanded instead: whoever types a victim's name
    /// often enough must not be able to keep the victim out.
    fn lock_or_2fa(&mut self, firing: &Firing<'_>, then: Then) -> Then {
        let limit = firing.rule.max_locks.or(self.config.max_locks);
        match limit {
            Some(limit) if then.action == ActionKind::Lock => {
                let key = self.key(firing, ActionKind::Lock);
                let time = firing.time;
                let active = self.ledger.get(key).is_some_and(|active| active.until > time);
                if !active && self.ledger.recent_starts(key, time, limit.per) >= limit.count {
                    Then { action: ActionKind::Require2fa, duration: None }
                } else {
                    then
                }
            }
            _ => then,
        }
    }

    fn mode(&self, rule: &Rule) -> Mode {
        self.config.mode.max(rule.mode.unwrap_or_default())
    }

    fn key<'f>(&self, firing: &Firing<'f>, kind: ActionKind) -> Asked<'f> {
        let rule = (kind == ActionKind::Alert).then_some(firing.number);
        Asked { mode: self.mode(firing.rule), kind, rule, target: firing.key }
    }

    fn act(&mut self, told: &Told<'_>, then: Then) -> Verdict {
        let firing = told.firing;
        let at = firing.time;
        let key = self.key(firing, then.action);
        let base = firing.rule.duration(&then);
        if let Some(active) = self.ledger.get(key).filter(|active| active.until > at) {
            // Only a person may go on against the guards. Nobody is kept out longer for what could
            // not have kept him out.
            let (forced, blocks) = (active.forced, then.action == ActionKind::Block);
            let standing =
                if blocks && !forced { told.telling().told.standing() } else { Standing::Good };
            let forbids = || self.guard.forbids(key.target, standing, then.action, at);
            match if forced || blocks { forbids() } else { None } {
                None => self.repeat(told, then, key, base),
                Some(_) if forced => {}
                Some(guard) => self.withheld(told, then, key, guard),
            }
            return Verdict::Stands;
        }
        let standing = || told.telling().told.standing();
        if let Some(held) = self.guard.check(key.target, standing, then.action, at, key.mode) {
            let guard = match held {
                Held::For(guard) => guard,
                Held::Braked { .. } => "brake",
            };
            self.withheld(told, then, key, guard);
            let Held::Braked { first } = held else { return Verdict::Stands };
            if first {
                let reason = self.guard.brake_reason(then.action);
                self.note("brake", BRAKE.0, BRAKE.1, at, reason);
            }
            return Verdict::Braked;
        }
        // What is over gives way to its successor; else it ends with the clock.
        if let Some(over) = self.ledger.take_ended(key, at) {
            self.end(key, &over, told.names, TIME_IS_UP);
        }
        let escalate = firing.rule.escalate.as_ref();
        let lasting = self.ledger.escalated(key, at, base, escalate);
        let until = at.saturating_add(lasting);
        let says = Says { op: Op::Start, mode: key.mode, lasting, until: Some(until), guard: None };
        let mut line = self.about(told, then.action, says, None);
        let id = line.id();
        line.decision = Some(id);
        self.out.push(Due::Line(line));
        // An alert belongs to one rule, which says whether it escalates; the others are shared.
        let recurs = then.action != ActionKind::Alert || escalate.is_some();
        let active = Active {
            id,
            rule: Arc::clone(firing.rule),
            until,
            ordinal: firing.ordinal,
            crossings: 1,
            pattern: Arc::clone(firing.pattern),
            started: at,
            hosts: firing.host.into_iter().collect(),
            forced: false,
        };
        self.ledger.start(key, at, active, recurs);
        Verdict::Stands
    }

    fn withheld(&mut self, told: &Told<'_>, then: Then, key: Asked<'_>, guard: &'static str) {
        let lasting = told.firing.rule.duration(&then);
        let (op, guard) = (Op::Withheld, Some(guard));
        let says = Says { op, mode: key.mode, lasting, until: None, guard };
        let line = self.about(told, then.action, says, None);
        self.out.push(Due::Line(line));
    }

    fn repeat(&mut self, told: &Told<'_>, then: Then, key: Asked<'_>, base: Micros) {
        let default = match then.action {
            ActionKind::Block | ActionKind::UnderAttack => OnRepeat::Extend,
            ActionKind::Alert => OnRepeat::Quiet,
            ActionKind::Lock | ActionKind::Require2fa => OnRepeat::Ignore,
        };
        let firing = told.firing;
        let until = firing.time.saturating_add(base);
        let way = match firing.rule.on_repeat.unwrap_or(default) {
            OnRepeat::Extend if self.is_extended_enough(then, key, until, base) => OnRepeat::Ignore,
            way => way,
        };
        let later = (way != OnRepeat::Ignore).then_some(until);
        let Some((id, until)) = self.ledger.repeat(key, later) else { return };
        if let Some(host) = firing.host {
            self.ledger.offended(key, host);
        }
        if way == OnRepeat::Quiet
            && then.action == ActionKind::Alert
            && let Some(prolonged) = &mut self.prolonged
        {
            prolonged.insert(id, until);
        }
        if way == OnRepeat::Extend && !firing.approx {
            let until = Some(until);
            let says = Says { op: Op::Extend, mode: key.mode, lasting: base, until, guard: None };
            let line = self.about(told, then.action, says, Some(id));
            self.out.push(Due::Line(line));
        }
    }

    /// Whether a repetition adds too little for a line. A global rule crosses with every few events of
    /// a flood, and a block's way would write a line for each: this one says a later end only when it
    /// is later by a minute, or by half of a short duration. So the mode ends at most that much
    /// before its time after the last crossing, and never in the middle of a flood.
    fn is_extended_enough(
        &self,
        then: Then,
        key: Asked<'_>,
        until: Micros,
        lasting: Micros,
    ) -> bool {
        let step = EXTEND_STEP.min(lasting / 2);
        let active = || self.ledger.get(key).map_or(Micros::MIN, |active| active.until);
        then.action == ActionKind::UnderAttack && until < active().saturating_add(step)
    }

    /// A line about a firing.
    fn about(&self, told: &Told<'_>, kind: ActionKind, says: Says, decision: Option<u64>) -> Line {
        let firing = told.firing;
        let named = matches!(firing.key.kind, KeyKind::Field(_) | KeyKind::Several);
        Line {
            rule: Arc::clone(firing.rule),
            key: firing.key.own(),
            names: named.then(|| Arc::clone(told.names)),
            kind,
            says,
            decision,
            time: firing.time,
            ordinal: firing.ordinal,
            approx: firing.approx,
            host: firing.host,
            telling: Arc::clone(told.telling()),
            runbook_url: self.runbook_url(firing.rule),
        }
    }

    /// What is put before the anchor of a rule that has one. Nothing else is shared, since other threads let it go
    /// again.
    fn runbook_url(&self, rule: &Rule) -> Option<Arc<str>> {
        rule.runbook.as_ref().and(self.config.runbook_url.as_ref()).cloned()
    }

    fn end(&mut self, key: Asked<'_>, active: &Active, names: &[String], why: &str) {
        if let Some(prolonged) = &mut self.prolonged {
            prolonged.remove(&active.id);
        }
        let (kind, value) = describe(key.target, names);
        self.out.push(Due::End(End {
            rule: Arc::clone(&active.rule),
            target: Target { kind, value },
            kind: key.kind,
            mode: key.mode,
            decision: active.id,
            time: active.until,
            ordinal: active.ordinal,
            crossings: active.crossings,
            pattern: Arc::clone(&active.pattern),
            why: why.into(),
            runbook_url: self.runbook_url(&active.rule),
        }));
    }
}

/// The key that a target is, the other way round of [`describe`]; `names` as for [`Decider::fire`].
pub fn key_of(target: &Target, names: &[String]) -> Option<OwnKey> {
    let text = target.text();
    let mut value = Vec::new();
    let kind = match target.kind.as_str() {
        "global" => KeyKind::Global,
        "ip" => put_net(&mut value, &IpNet::from(text.parse::<IpAddr>().ok()?)),
        "range" => put_net(&mut value, &text.parse().ok()?),
        kinds if kinds.contains('+') => {
            let values: Vec<String> = serde_json::from_str(text).ok()?;
            for (kind, value_of) in kinds.split('+').zip(values) {
                let part = Target { kind: kind.to_owned(), value: Some(value_of) };
                put_part(&mut value, key_of(&part, names)?.view());
            }
            KeyKind::Several
        }
        kind => {
            value.extend_from_slice(text.as_bytes());
            match kind {
                "user" => KeyKind::User,
                "user_id" => KeyKind::UserId,
                field => {
                    let at = names.iter().position(|name| name == field)?;
                    KeyKind::Field(u16::try_from(at).ok()?)
                }
            }
        }
    };
    Some(Key { kind, value: &value }.own())
}

/// A firing and what lines tell of it, taken when the first line needs it.
struct Told<'f> {
    firing: &'f Firing<'f>,
    names: &'f Arc<[String]>,
    telling: OnceCell<Arc<Telling>>,
}

impl Told<'_> {
    fn telling(&self) -> &Arc<Telling> {
        self.telling.get_or_init(|| Arc::new(self.firing.telling()))
    }
}

/// How most decisions end, as their line says it.
const TIME_IS_UP: &str = "ended";

/// Why alerts end early when there are too many decisions.
const CROWDED: &str = "ended early: alerts reached their share of memory_limit";

/// The urgency and severity of a brake's message.
const BRAKE: (Severity, Urgency) = (Severity::P0, Urgency::Critical);
