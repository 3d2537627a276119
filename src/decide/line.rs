//! Lines that are due. What they tell is decided; writing it down is left to whoever hands them on,
//! which may be another thread.

use crate::action::{self, Action, IdParts, Op, Target};
use crate::decode::time::{self, Micros};
use crate::detect::condition::{ActionKind, Condition};
use crate::detect::detector::{Telling, describe, shown_tallies};
use crate::detect::rule::{Mode, Rule, Severity};
use crate::window::Span;
use crate::window::key::{KeyKind, OwnKey};
use std::net::IpAddr;
use std::sync::Arc;

/// A line that is due.
#[derive(Debug, Clone)]
pub enum Due {
    /// Written already.
    Action(Box<Action>),
    /// About a firing.
    Line(Line),
    /// That a decision is over. Of those there may be as many at once as are active.
    End(End),
}

/// What a line says beyond the firing that it is about.
#[derive(Debug, Clone, Copy)]
pub struct Says {
    /// What happens.
    pub op: Op,
    /// Whether it is enforced.
    pub mode: Mode,
    /// For how long, microseconds.
    pub lasting: Micros,
    /// Until when.
    pub until: Option<Micros>,
    /// The guard that held it.
    pub guard: Option<&'static str>,
}

/// A line about a firing.
#[derive(Debug, Clone)]
pub struct Line {
    /// The rule.
    pub rule: Arc<Rule>,
    /// At whom.
    pub key: OwnKey,
    /// The names that it takes to say that; for most keys none.
    pub names: Option<Arc<[String]>>,
    /// The action.
    pub kind: ActionKind,
    /// What it says of it.
    pub says: Says,
    /// The decision it belongs to; of a start, its own id.
    pub decision: Option<u64>,
    /// The crossing's time.
    pub time: Micros,
    /// Firings of that rule, key and time before.
    pub ordinal: u32,
    /// What was counted is an upper bound.
    pub approx: bool,
    /// Of a range: the address whose record crossed.
    pub host: Option<IpAddr>,
    /// What was counted.
    pub telling: Arc<Telling>,
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<Arc<str>>,
}

/// That a decision is over.
#[derive(Debug, Clone)]
pub struct End {
    /// The rule that started it.
    pub rule: Arc<Rule>,
    /// At whom.
    pub target: Target,
    /// The action.
    pub kind: ActionKind,
    /// Whether it was enforced.
    pub mode: Mode,
    /// The id of its start.
    pub decision: u64,
    /// When.
    pub time: Micros,
    /// The start's ordinal.
    pub ordinal: u32,
    /// How often its rules crossed while it was active.
    pub crossings: u64,
    /// The pattern that was counted; empty if somebody decided it.
    pub pattern: Arc<str>,
    /// Why: `ended`, or by whose word.
    pub why: Box<str>,
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<Arc<str>>,
}

impl Due {
    /// A line that is written.
    pub fn of(action: Action) -> Self {
        Due::Action(Box::new(action))
    }

    /// As it is written.
    pub fn action(self) -> Action {
        match self {
            Due::Action(action) => *action,
            Due::Line(line) => line.action(),
            Due::End(end) => end.action(),
        }
    }

    /// The rule's id.
    pub fn rule(&self) -> &str {
        match self {
            Due::Action(action) => &action.rule,
            Due::Line(line) => &line.rule.id,
            Due::End(end) => &end.rule.id,
        }
    }

    /// What happens.
    pub fn op(&self) -> Op {
        match self {
            Due::Action(action) => action.op,
            Due::Line(line) => line.says.op,
            Due::End(_) => Op::End,
        }
    }

    /// The class of incident.
    pub fn severity(&self) -> Option<&'static str> {
        match self {
            Due::Action(action) => action.severity,
            Due::Line(Line { rule, .. }) | Due::End(End { rule, .. }) => {
                rule.severity.map(Severity::name)
            }
        }
    }

    /// The pattern that was counted.
    pub fn pattern(&self) -> Option<&str> {
        match self {
            Due::Action(action) => action.pattern.as_deref(),
            Due::Line(line) => Some(line.rule.counts()),
            Due::End(end) => Some(&*end.pattern).filter(|pattern| !pattern.is_empty()),
        }
    }
}

impl End {
    /// As it is written.
    pub fn action(self) -> Action {
        let Self { rule, target, kind, .. } = self;
        let parts = IdParts {
            pack: &rule.pack,
            rule: &rule.id,
            target: &target,
            action: kind.name(),
            op: Op::End,
            time: self.time,
            ordinal: self.ordinal,
        };
        let id = action::id(&parts);
        let of = target.value.as_deref().map(|value| format!(" of {value}")).unwrap_or_default();
        let reason = format!("{}{of} {}", kind.name(), self.why);
        Action {
            id,
            decision: Some(action::hex(self.decision)),
            time: time::format(self.time),
            pattern: Some(self.pattern.to_string()).filter(|pattern| !pattern.is_empty()),
            crossings: Some(self.crossings),
            reason,
            ..Action::of_rule(&rule, target, kind, Op::End, self.mode, self.runbook_url.as_deref())
        }
    }
}

impl Line {
    fn target(&self) -> Target {
        let names = self.names.as_deref().unwrap_or_default();
        let (kind, value) = describe(self.key.view(), names);
        Target { kind, value }
    }

    /// Its id.
    pub fn id(&self) -> u64 {
        self.id_for(&self.target())
    }

    fn id_for(&self, target: &Target) -> u64 {
        action::number(&IdParts {
            pack: &self.rule.pack,
            rule: &self.rule.id,
            target,
            action: self.kind.name(),
            op: self.says.op,
            time: self.time,
            ordinal: self.ordinal,
        })
    }

    /// As it is written.
    pub fn action(&self) -> Action {
        let Self { rule, kind, .. } = self;
        let target = self.target();
        let Says { op, mode, lasting, until, guard } = self.says;
        let id = self.decision.filter(|_| op == Op::Start).unwrap_or_else(|| self.id_for(&target));
        let (span, distinct) = self.telling.told.read();
        let reason = self.sentence(&target, &span, distinct);
        let Span { count, first, last, users, ips, request_ids, reasons, .. } = span;
        let (users, ips) = shown_tallies(self.key.view().kind, users, ips);
        Action {
            id: action::hex(id),
            decision: self.decision.map(action::hex),
            time: time::format(self.time),
            duration_s: Some(lasting / 1_000_000),
            until: until.map(time::format),
            pattern: Some(rule.counts().to_owned()),
            count: Some(count),
            approx: self.approx,
            window_s: rule.condition.within().map(|w| w / 1_000_000),
            first_seen: Some(time::format(first)),
            last_seen: Some(time::format(last)),
            users,
            ips,
            known_ips: self.telling.known_ips.clone(),
            reasons,
            request_ids: (request_ids.distinct > 0).then_some(request_ids),
            guard,
            reason,
            hosts: self.host.into_iter().collect(),
            ..Action::of_rule(rule, target, *kind, op, mode, self.runbook_url.as_deref())
        }
    }

    /// One sentence per condition; README lists them.
    fn sentence(&self, target: &Target, span: &Span, distinct: Option<u64>) -> String {
        let Self { rule, telling, .. } = self;
        let pattern = rule.counts();
        let whom: &[&str] = match self.key.view().kind {
            KeyKind::Global => &[],
            KeyKind::Host | KeyKind::Range => &[" from ", target.text()],
            KeyKind::User | KeyKind::UserId => &[" for ", target.text()],
            KeyKind::Field(_) | KeyKind::Several => &[" with ", &target.kind, " ", target.text()],
        };
        let whom = whom.concat();
        let mut digits = itoa::Buffer::new();
        let count = digits.format(span.count);
        let value = telling.value.as_deref().unwrap_or_default();
        let window = rule.condition.within().map(time::format_duration).unwrap_or_default();
        let most = if self.approx { "up to " } else { "" };
        let within = [" within ", &window].concat();
        match &rule.condition {
            Condition::Count { .. } => [most, count, " ", pattern, &whom, &within].concat(),
            Condition::Distinct { field, .. } if self.approx => {
                format!("{most}{count} different {field} in {pattern}{whom}{within}")
            }
            Condition::Distinct { field, .. } => {
                let different = distinct.unwrap_or_default();
                format!("{different} different {field} in {count} {pattern}{whom}{within}")
            }
            Condition::Sequence { then, .. } => {
                format!("{most}{count} {pattern} then {then}{whom}{within}")
            }
            Condition::FirstSeen { field } => {
                format!("{pattern}{whom} with a {field} never seen before: {value}")
            }
            Condition::New { field, .. } => {
                format!("{most}{count} new {field} in {pattern}{whom}{within}")
            }
            Condition::Unusual => format!("{pattern}{whom} at an unusual hour: {value}:00 UTC"),
        }
    }
}
