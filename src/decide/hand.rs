//! What people decide: orders, and what is lifted because somebody is on the allowlist now.

use super::guard::{Allow, Allowed, BY_HAND_MAX, Guard};
use super::ledger::{Active, LedgerKey};
use super::line::Due;
use super::{Decider, TIME_IS_UP, key_of};
use crate::action::decision::Decision;
use crate::action::order::{BY_HAND, Carried, Order, What};
use crate::action::{self, Action, IdParts, OWN_PACK, Op, Target, Word};
use crate::decode::addr;
use crate::decode::time::{self, Micros};
use crate::detect::condition::{ACTIONS, ActionKind};
use crate::detect::detector::describe;
use crate::detect::rule::{MODES, Mode, OnRepeat, Rule};
use crate::pattern::Standing;
use crate::window::key::{Key, KeyKind, OwnKey};
use ipnet::IpNet;
use std::collections::HashMap;
use std::sync::Arc;

/// A decision that was made before, as a history of decisions tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The id of its start.
    pub id: String,
    /// Its rule's pack.
    pub pack: String,
    /// Its rule.
    pub rule: String,
    /// Its mode.
    pub mode: String,
    /// Its action.
    pub action: String,
    /// At whom.
    pub target: Target,
    /// When it started.
    pub started: Micros,
    /// When it ends.
    pub until: Micros,
}

/// Why what is active is let go when the guards have changed.
const ALLOWED: &str = "lifted: it is on the allowlist now, or never blocked";

/// How often one rule can have fired for one key at one time: beyond it, nobody looks for a number.
const ORDINALS_MAX: u32 = 10_000;

impl Decider {
    /// Carries an order out; `names` as for [`Decider::fire`].
    pub fn carry_out(&mut self, order: &Order, names: &[String]) -> Carried {
        let begun = self.out.len();
        let mut carried = match order.what {
            What::Block { lasting } => self.decide(order, ActionKind::Block, lasting, names),
            What::Lock { lasting } => self.decide(order, ActionKind::Lock, lasting, names),
            What::Require2fa { lasting } => {
                self.decide(order, ActionKind::Require2fa, lasting, names)
            }
            What::Lift { grace } => self.lift(order, grace, names),
            What::Allow { until } => self.allow(order, until, names),
            What::Disallow => self.disallow(order),
        };
        let due = self.out.get(begun..).unwrap_or_default();
        carried.actions = due.iter().cloned().map(Due::action).collect();
        carried
    }

    fn decide(
        &mut self,
        order: &Order,
        kind: ActionKind,
        lasting: Micros,
        names: &[String],
    ) -> Carried {
        let Some(target) = key_of(&order.target, names) else {
            return refused(format!("`{}` is nothing that can be acted on", order.target.text()));
        };
        let guard = self.guard.forbids(target.view(), standing_of(target.view()), kind, order.at);
        if let Some(guard) = guard.filter(|_| !order.force) {
            return refused(format!("the guard {guard} speaks against it; `force` overrides it"));
        }
        let mode = self.config.mode;
        let key = LedgerKey { mode, kind, rule: None, target };
        if let Some(over) = self.ledger.take_ended(key.asked(), order.at) {
            self.end(key.asked(), &over, names, TIME_IS_UP);
        }
        let wanted = order.at.saturating_add(lasting);
        let of = describe_order(order, kind);
        // It has no rule that would say what it is about: who asked and why does.
        let rule = Arc::new(Rule { title: of.clone(), ..by_hand() });
        if self.ledger.get(key.asked()).is_some() {
            let Some((id, until)) = self.ledger.repeat(key.asked(), Some(wanted)) else {
                return Carried::default();
            };
            if order.force {
                self.ledger.force(key.asked());
            }
            let mut line = self.line(order, &rule, kind, Op::Extend, mode);
            line.decision = Some(action::hex(id));
            (line.duration_s, line.until) = (Some(lasting / 1_000_000), Some(time::format(until)));
            line.reason = of;
            self.out.push(Due::of(line));
            return Carried::default();
        }
        let mut line = self.line(order, &rule, kind, Op::Start, mode);
        line.decision = Some(line.id.clone());
        (line.duration_s, line.until) = (Some(lasting / 1_000_000), Some(time::format(wanted)));
        line.reason = of;
        let active = Active {
            id: u64::from_str_radix(&line.id, 16).unwrap_or_default(),
            rule,
            until: wanted,
            ordinal: 0,
            crossings: 1,
            pattern: "".into(),
            started: order.at,
            hosts: Vec::new(),
            forced: order.force,
        };
        self.out.push(Due::of(line));
        self.ledger.start(key.asked(), order.at, active, false);
        Carried::default()
    }

    /// A line about an order, but for what it says.
    fn line(&self, order: &Order, rule: &Rule, kind: ActionKind, op: Op, mode: Mode) -> Action {
        let parts = IdParts {
            pack: &rule.pack,
            rule: &rule.id,
            target: &order.target,
            action: kind.name(),
            op,
            time: order.at,
            ordinal: 0,
        };
        Action {
            id: action::id(&parts),
            time: time::format(order.at),
            ..Action::of_rule(rule, order.target.clone(), kind, op, mode, None)
        }
    }

    fn lift(&mut self, order: &Order, grace: Micros, names: &[String]) -> Carried {
        let Some(who) = who(&order.target) else {
            return refused(format!("`{}` is nothing that can be lifted", order.target.text()));
        };
        let why = format!("lifted by {}: {}", order.by, order.because);
        let lifted = self
            .lift_all(order.at, names, &why, |guard, key, _| guard.names(&who, key.target.view()));
        // None takes the place of an earlier one too.
        self.guard.spare(who, order.at, order.at.saturating_add(grace));
        Carried { lifted, ..Carried::default() }
    }

    fn allow(&mut self, order: &Order, until: Option<Micros>, names: &[String]) -> Carried {
        let Some(who) = who(&order.target) else {
            return refused(format!("`{}` is nothing that can be allowed", order.target.text()));
        };
        let comment = format!("{}: {}", order.by, order.because);
        if !self.guard.add(Allow { who: who.clone(), comment, until }, order.at) {
            let why = format!("{BY_HAND_MAX} entries were added by hand; take some away first");
            return refused(why);
        }
        if until.is_some_and(|until| until <= order.at) {
            return Carried::default();
        }
        // What somebody decided against the guards is not undone by an entry for somebody else.
        let lifted = self.lift_all(order.at, names, ALLOWED, |guard, key, _| {
            key.kind != ActionKind::Alert && guard.names(&who, key.target.view())
        });
        Carried { lifted, ..Carried::default() }
    }

    fn disallow(&mut self, order: &Order) -> Carried {
        match who(&order.target) {
            Some(who) if self.guard.remove(&who) => Carried::default(),
            Some(who) if self.guard.is_configured(&who) => {
                refused("the entry stands in the configuration: take it out there".to_owned())
            }
            _ => refused("no such entry was added by hand".to_owned()),
        }
    }

    /// Lifts what no guard would let start at `at`: whoever is on the allowlist now, or in a range that
    /// is never blocked. What was decided against the guards stays. What that was.
    pub fn lift_allowed(&mut self, at: Micros, names: &[String]) -> Vec<Decision> {
        self.lift_all(at, names, ALLOWED, |guard, key, active| {
            let view = key.target.view();
            let never = key.kind == ActionKind::Block && guard.never_blocks(view);
            key.kind != ActionKind::Alert && !active.forced && (never || guard.allows(view, at))
        })
    }

    fn lift_all(
        &mut self,
        at: Micros,
        names: &[String],
        why: &str,
        which: impl Fn(&Guard, &LedgerKey, &Active) -> bool,
    ) -> Vec<Decision> {
        let standing = self.ledger.standing();
        let keys: Vec<LedgerKey> = standing
            .into_iter()
            .filter(|(key, active)| which(&self.guard, key, active))
            .map(|(key, _)| key.clone())
            .collect();
        // A late crossing must not find one again whose end was said.
        let Self { guard, ledger, .. } = self;
        ledger.forget_said(|key, active| which(guard, key, active));
        let mut lifted = Vec::new();
        for key in keys {
            let active = self.cut_short(&key, at, names, why);
            lifted.extend(active.map(|active| decision(&key, &active, names)));
        }
        lifted
    }

    /// What is active, for whoever enforces it, in the order of its starts.
    pub fn standing(&self, names: &[String]) -> Vec<Decision> {
        let standing = self.ledger.standing();
        standing.into_iter().map(|(key, active)| decision(key, active, names)).collect()
    }

    /// What is active against a target, or a range that it lies in.
    pub fn against(&self, target: &Target, names: &[String]) -> Vec<Decision> {
        let Some(who) = who(target) else { return Vec::new() };
        let standing = self.ledger.standing();
        let met = standing.into_iter().filter(|(key, _)| self.guard.names(&who, key.target.view()));
        met.map(|(key, active)| decision(key, active, names)).collect()
    }

    /// Makes what is active what `known` says: decisions that were made and told of, and whose end
    /// was not. Those that are not active here are taken in, in place of others for the same target;
    /// gives the ids of decisions that had to give way.
    pub fn adopt(&mut self, known: &[Known], rules: &[Arc<Rule>], names: &[String]) -> Vec<String> {
        let mut gave_way = Vec::new();
        let standing = self.ledger.standing();
        let now: HashMap<u64, LedgerKey> =
            standing.into_iter().map(|(key, active)| (active.id, key.clone())).collect();
        for one in known {
            let Some((key, active)) = self.restored(one, rules, names) else { continue };
            // An id says nothing of the mode: what was told in shadow stays there.
            if let Some(other) = now.get(&active.id).filter(|other| **other != key) {
                self.ledger.lift(other);
            }
            let same = self.ledger.get(key.asked()).map(|now| (now.id, now.until));
            match same {
                // What was told of it last holds, whatever its rule would say now. Only what is
                // prolonged in silence may end later than was told.
                Some((id, until)) if id == active.id => {
                    let silent = active.rule.on_repeat == Some(OnRepeat::Quiet)
                        || key.kind == ActionKind::Alert && active.rule.on_repeat.is_none();
                    if !silent || until < active.until {
                        self.ledger.end_at(key.asked(), active.until);
                    }
                }
                Some((id, _)) => {
                    gave_way.push(action::hex(id));
                    self.ledger.adopt(key, active);
                }
                None => self.ledger.adopt(key, active),
            }
        }
        gave_way
    }

    fn restored(
        &self,
        known: &Known,
        rules: &[Arc<Rule>],
        names: &[String],
    ) -> Option<(LedgerKey, Active)> {
        let target = key_of(&known.target, names)?;
        let (_, kind) = ACTIONS.into_iter().find(|(name, _)| *name == known.action)?;
        let (_, mode) = MODES.into_iter().find(|(name, _)| *name == known.mode)?;
        let loaded = rules.iter().position(|r| r.id == known.rule && r.pack == known.pack);
        let rule = match loaded.and_then(|at| rules.get(at)) {
            Some(rule) => Arc::clone(rule),
            None => Arc::new(Rule {
                pack: known.pack.clone(),
                id: known.rule.clone(),
                ..Rule::default()
            }),
        };
        let id = u64::from_str_radix(&known.id, 16).ok()?;
        let parts = |ordinal| IdParts {
            pack: &known.pack,
            rule: &known.rule,
            target: &known.target,
            action: &known.action,
            op: Op::Start,
            time: known.started,
            ordinal,
        };
        // The id of the end needs the number of the firing, which is in no line.
        let ordinal = (0..ORDINALS_MAX).find(|ordinal| action::number(&parts(*ordinal)) == id)?;
        let number = loaded.and_then(|at| u16::try_from(at).ok()).unwrap_or(u16::MAX);
        let key =
            LedgerKey { mode, kind, rule: (kind == ActionKind::Alert).then_some(number), target };
        let active = Active {
            id,
            rule,
            until: known.until,
            ordinal,
            crossings: 1,
            pattern: "".into(),
            started: known.started,
            hosts: Vec::new(),
            forced: false,
        };
        Some((key, active))
    }
}

fn refused(why: String) -> Carried {
    Carried { refused: Some(why), ..Carried::default() }
}

fn by_hand() -> Rule {
    Rule { pack: OWN_PACK.to_owned(), id: BY_HAND.to_owned(), ..Rule::default() }
}

fn describe_order(order: &Order, kind: ActionKind) -> String {
    let forced = if order.force { ", against the guards" } else { "" };
    format!("{} by {}{forced}: {}", kind.name(), order.by, order.because)
}

/// Whom a target names, for lists of people and addresses.
fn who(target: &Target) -> Option<Allowed> {
    let value = target.value.as_deref()?;
    match target.kind.as_str() {
        "ip" => Some(Allowed::Net(IpNet::from(value.parse::<std::net::IpAddr>().ok()?))),
        "range" => value.parse().ok().map(Allowed::Net),
        "user" => Some(Allowed::Account(KeyKind::User, value.to_owned())),
        "user_id" => Some(Allowed::Account(KeyKind::UserId, value.to_owned())),
        _ => None,
    }
}

fn decision(key: &LedgerKey, active: &Active, names: &[String]) -> Decision {
    let (kind, value) = describe(key.target.view(), names);
    let rule = &active.rule;
    let word: Word = key.kind.name();
    let about = if rule.title.is_empty() { &rule.id } else { &rule.title };
    Decision {
        id: action::hex(active.id),
        action: word,
        mode: key.mode.name(),
        target: Target { kind, value },
        rule: rule.id.clone(),
        pack: rule.pack.clone(),
        started: active.started,
        until: active.until,
        hosts: active.hosts.clone(),
        reason: about.clone(),
    }
}

/// What the address itself says for a decision about it; who logged it is not known.
pub fn standing_of(key: Key<'_>) -> Standing {
    match key.net() {
        Some(net) if addr::alert_only(net.addr()) => Standing::NoHost,
        _ => Standing::Good,
    }
}

/// The keys under which a target may be counted: itself and, of an IPv6 address, its range.
pub fn keys_of(target: &Target, ipv6_prefix: u8, names: &[String]) -> Vec<OwnKey> {
    let mut keys: Vec<OwnKey> = key_of(target, names).into_iter().collect();
    if target.kind == "ip"
        && let Some(ip) = target.value.as_deref().and_then(|value| value.parse().ok())
    {
        let (_, net) = addr::target(ip, ipv6_prefix);
        let mut value = Vec::new();
        let kind = crate::window::key::put_net(&mut value, &net);
        let range = Key { kind, value: &value }.own();
        if !keys.contains(&range) {
            keys.push(range);
        }
    }
    keys
}
