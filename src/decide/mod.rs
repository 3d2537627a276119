//! From firing to decision: what is forbidden, what is active already, and what lines follow.

pub mod guard;
pub mod ledger;

use crate::action::{Action, IdParts, Op, Target, id};
use crate::decode::time::{self, Micros};
use crate::detect::condition::{ActionKind, Condition, Limit, Then};
use crate::detect::detector::{Firing, Verdict, shown_tallies};
use crate::detect::rule::{Mode, OnRepeat, Rule, Severity, Urgency};
use crate::window::store::Key;
use guard::{Guard, Held};
use ledger::{Active, Ledger, LedgerKey};
use std::collections::VecDeque;
use std::sync::Arc;

/// Times of messages remembered; there are few, and equal ones follow each other closely.
const NOTED_MAX: usize = 256;

/// What deciding needs of the settings.
#[derive(Debug, Clone, Default)]
pub struct DecideConfig {
    /// Shadow for everything, or each rule's own mode.
    pub mode: Mode,
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<String>,
    /// For rules without a limit of their own.
    pub max_locks: Option<Limit>,
}

/// What a line says beyond the firing that it is about.
struct Line {
    op: Op,
    mode: Mode,
    lasting: Micros,
    until: Option<Micros>,
    guard: Option<&'static str>,
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
    pub out: Vec<Action>,
}

impl Decider {
    /// A decider with nothing active.
    pub fn new(config: DecideConfig, guard: Guard) -> Self {
        Self { config, guard, ledger: Ledger::default(), noted: VecDeque::new(), out: Vec::new() }
    }

    /// Decisions that are active.
    pub fn active(&self) -> usize {
        self.ledger.active()
    }

    /// Emits the end of every decision whose time is up at `clock`.
    pub fn advance(&mut self, clock: Micros) {
        while let Some((key, active)) = self.ledger.pop_due(clock) {
            self.end(&key, &active);
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
        self.out.push(Action::note(rule, severity, urgency, at, ordinal, reason));
    }

    /// Decides about a firing; `kind_value` is its key as on the action line.
    pub fn fire(&mut self, firing: &Firing<'_>, kind_value: (String, Option<String>)) -> Verdict {
        let target = Target { kind: kind_value.0, value: kind_value.1 };
        let mut verdict = Verdict::Stands;
        for then in &firing.rule.then {
            let then = self.lock_or_2fa(firing, *then);
            if self.act(firing, &target, then) == Verdict::Braked {
                verdict = Verdict::Braked;
            }
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
                let time = firing.span.time;
                let active = self.ledger.get(&key).is_some_and(|active| active.until > time);
                if !active && self.ledger.recent_starts(&key, time, limit.per) >= limit.count {
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

    fn key(&self, firing: &Firing<'_>, kind: ActionKind) -> LedgerKey {
        let rule = (kind == ActionKind::Alert).then(|| firing.rule.id.clone());
        LedgerKey { mode: self.mode(firing.rule), kind, rule, target: firing.key.clone() }
    }

    fn act(&mut self, firing: &Firing<'_>, target: &Target, then: Then) -> Verdict {
        let at = firing.span.time;
        let key = self.key(firing, then.action);
        if let Some(over) = self.ledger.take_ended(&key, at) {
            self.end(&key, &over);
        }
        let base = firing.rule.duration(&then);
        if self.ledger.get(&key).is_some() {
            self.repeat(firing, target, then, &key, base);
            return Verdict::Stands;
        }
        if let Some(held) = self.guard.check(firing, then.action, key.mode) {
            let guard = match held {
                Held::For(guard) => guard,
                Held::Braked { .. } => "brake",
            };
            let line = Line {
                op: Op::Withheld,
                mode: key.mode,
                lasting: base,
                until: None,
                guard: Some(guard),
            };
            self.emit(firing, target, then.action, &line);
            let Held::Braked { first } = held else { return Verdict::Stands };
            if first {
                let reason = self.guard.brake_reason(then.action);
                self.note("brake", BRAKE.0, BRAKE.1, at, reason);
            }
            return Verdict::Braked;
        }
        let lasting = self.ledger.escalated(&key, at, base, firing.rule.escalate.as_ref());
        let until = at.saturating_add(lasting);
        let line = Line { op: Op::Start, mode: key.mode, lasting, until: Some(until), guard: None };
        let id = self.emit(firing, target, then.action, &line);
        self.ledger.start(
            key,
            Active {
                id,
                rule: Arc::clone(firing.rule),
                target: target.clone(),
                start: at,
                until,
                ordinal: firing.ordinal,
                crossings: 1,
                pattern: firing.pattern.to_owned(),
            },
        );
        Verdict::Stands
    }

    fn repeat(
        &mut self,
        firing: &Firing<'_>,
        target: &Target,
        then: Then,
        key: &LedgerKey,
        base: Micros,
    ) {
        let default = match then.action {
            ActionKind::Block => OnRepeat::Extend,
            ActionKind::Alert => OnRepeat::Quiet,
            ActionKind::Lock | ActionKind::Require2fa => OnRepeat::Ignore,
        };
        let way = firing.rule.on_repeat.unwrap_or(default);
        let until = firing.span.time.saturating_add(base);
        let later = (way != OnRepeat::Ignore).then_some(until);
        let Some((id, until)) = self.ledger.repeat(key, later) else { return };
        if way == OnRepeat::Extend {
            let line = Line {
                op: Op::Extend,
                mode: key.mode,
                lasting: base,
                until: Some(until),
                guard: None,
            };
            self.emit(firing, target, then.action, &line);
            if let Some(action) = self.out.last_mut() {
                action.decision = Some(id);
            }
        }
    }

    fn emit(
        &mut self,
        firing: &Firing<'_>,
        target: &Target,
        kind: ActionKind,
        line: &Line,
    ) -> String {
        let Line { op, mode, lasting, until, guard } = *line;
        let rule = firing.rule;
        let span = &firing.span;
        let parts = IdParts {
            pack: &rule.pack,
            rule: &rule.id,
            target,
            action: kind.name(),
            op,
            time: span.time,
            ordinal: firing.ordinal,
        };
        let id = id(&parts);
        let (users, ips) = shown_tallies(firing.key, span);
        let action = Action {
            id: id.clone(),
            decision: (op == Op::Start).then(|| id.clone()),
            time: time::format(span.time),
            duration_s: Some(lasting / 1_000_000),
            until: until.map(time::format),
            pattern: Some(firing.pattern.to_owned()),
            count: Some(span.count),
            window_s: rule.condition.within().map(|w| w / 1_000_000),
            first_seen: Some(time::format(span.first)),
            last_seen: Some(time::format(span.last)),
            users,
            ips,
            known_ips: firing.known_ips.clone(),
            reasons: span.reasons.clone(),
            request_ids: (span.request_ids.distinct > 0).then(|| span.request_ids.clone()),
            guard,
            reason: sentence(firing, target),
            ..Action::of_rule(
                rule,
                target.clone(),
                kind,
                op,
                mode,
                self.config.runbook_url.as_deref(),
            )
        };
        self.out.push(action);
        id
    }

    fn end(&mut self, key: &LedgerKey, active: &Active) {
        let rule = &active.rule;
        let parts = IdParts {
            pack: &rule.pack,
            rule: &rule.id,
            target: &active.target,
            action: key.kind.name(),
            op: Op::End,
            time: active.until,
            ordinal: active.ordinal,
        };
        let of = match active.target.kind.as_str() {
            "global" => String::new(),
            _ => format!(" of {}", active.target.text()),
        };
        let action = Action {
            id: id(&parts),
            decision: Some(active.id.clone()),
            time: time::format(active.until),
            pattern: Some(active.pattern.clone()),
            crossings: Some(active.crossings),
            reason: format!("{}{of} ended", key.kind.name()),
            ..Action::of_rule(
                rule,
                active.target.clone(),
                key.kind,
                Op::End,
                key.mode,
                self.config.runbook_url.as_deref(),
            )
        };
        self.out.push(action);
    }
}

/// One sentence per condition; README lists them.
fn sentence(firing: &Firing<'_>, target: &Target) -> String {
    let whom = match firing.key {
        Key::Global => String::new(),
        Key::Ip(_) => format!(" from {}", target.text()),
        Key::Text(..) if matches!(target.kind.as_str(), "user" | "user_id") => {
            format!(" for {}", target.text())
        }
        Key::Text(..) | Key::Several(_) => format!(" with {} {}", target.kind, target.text()),
    };
    let span = &firing.span;
    let (count, pattern) = (span.count, firing.pattern);
    let value = firing.value.as_deref().unwrap_or_default();
    let window = firing.rule.condition.within().map(time::format_duration).unwrap_or_default();
    match &firing.rule.condition {
        Condition::Count { .. } => format!("{count} {pattern}{whom} within {window}"),
        Condition::Distinct { field, .. } => {
            let different = firing.distinct.unwrap_or_default();
            format!("{different} different {field} in {count} {pattern}{whom} within {window}")
        }
        Condition::Sequence { then, .. } => {
            format!("{count} {pattern} then {then}{whom} within {window}")
        }
        Condition::FirstSeen { field } => {
            format!("{pattern}{whom} with a {field} never seen before: {value}")
        }
        Condition::New { field, .. } => {
            format!("{count} new {field} in {pattern}{whom} within {window}")
        }
        Condition::Unusual => format!("{pattern}{whom} at an unusual hour: {value}:00 UTC"),
    }
}

/// The urgency and severity of a brake's message.
const BRAKE: (Severity, Urgency) = (Severity::P0, Urgency::Critical);
