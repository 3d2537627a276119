//! Rules as written: what is counted per what, when it fires and what happens then.

use super::condition::{self, ActionKind, Condition, Escalate, Limit, SyntaxError, Then};
use crate::decode::time::Micros;
use crate::pattern::filter::Filter;
use crate::pattern::set::Counting;
use crate::yaml::{Checker, Node};
use serde::{Deserialize, Serialize};

/// How soon somebody must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Urgency {
    /// At once.
    Critical,
    /// Within 30 minutes.
    Warning,
    /// Within 4 hours.
    Info,
}

/// The class of incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Complete outage.
    P0,
    /// Major function impaired.
    P1,
    /// Minor function impaired.
    P2,
    /// Informational.
    P3,
}

impl Urgency {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Info];

    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Urgency::Critical => "critical",
            Urgency::Warning => "warning",
            Urgency::Info => "info",
        }
    }

    /// Time to respond, seconds.
    pub fn respond_s(self) -> u64 {
        match self {
            Urgency::Critical => 0,
            Urgency::Warning => 1800,
            Urgency::Info => 14_400,
        }
    }
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Severity::P0 => "P0",
            Severity::P1 => "P1",
            Severity::P2 => "P2",
            Severity::P3 => "P3",
        }
    }

    /// Time to respond, seconds.
    pub fn respond_s(self) -> u64 {
        match self {
            Severity::P0 => 900,
            Severity::P1 => 3600,
            Severity::P2 => 14_400,
            Severity::P3 => 86_400,
        }
    }
}

/// Whether decisions are carried out.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
pub enum Mode {
    /// Yes.
    #[default]
    Enforce,
    /// No: the same lines, marked.
    Shadow,
}

impl Mode {
    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Shadow => "shadow",
        }
    }
}

/// The modes by name.
pub const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)];

/// What an active decision does when its rule fires again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnRepeat {
    /// A line with op extend, and a later end.
    Extend,
    /// A later end, without a line.
    Quiet,
    /// Nothing.
    Ignore,
}

/// One part of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyPart {
    /// The client's address, IPv6 by its prefix.
    Ip,
    /// The account by name, else by id.
    User,
    /// Any other field.
    Field(String),
}

impl KeyPart {
    /// As rules write it.
    pub fn name(&self) -> &str {
        match self {
            KeyPart::Ip => "ip",
            KeyPart::User => "user",
            KeyPart::Field(name) => name,
        }
    }
}

/// What a rule counts per; empty is global.
pub type Per = Vec<KeyPart>;

/// When `unusual(hour)` has seen enough.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UnusualSpec {
    /// Earlier events of the key.
    pub min_events: u32,
    /// On so many different days.
    pub min_days: u32,
    /// Share of them within one hour of this one, below which it is unusual.
    pub rarity: f64,
}

impl Default for UnusualSpec {
    fn default() -> Self {
        Self { min_events: 20, min_days: 7, rarity: 0.02 }
    }
}

/// A rule, checked. As it is kept beside what it judged it is without what judges nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rule {
    /// Its id, unique.
    pub id: String,
    /// The pack it is from.
    pub pack: String,
    /// What it means, for people.
    #[serde(skip)]
    pub title: String,
    /// Names of the patterns it counts.
    pub on: Vec<String>,
    /// What it counts per.
    pub per: Per,
    /// When it fires.
    pub condition: Condition,
    /// The condition as written.
    pub when: String,
    /// What it does.
    pub then: Vec<Then>,
    /// Only events for which this holds.
    pub filter: Filter,
    /// And this does not.
    pub unless: Filter,
    /// Lines with one value of this field count once.
    pub once_per: Option<String>,
    /// Whom to tell.
    pub notify: Vec<String>,
    /// How soon somebody must look.
    pub level: Option<Urgency>,
    /// The class of incident.
    pub severity: Option<Severity>,
    /// Seconds to respond, if the rule says so.
    pub respond_s: Option<u64>,
    /// Seconds until it is escalated, if the rule says so.
    pub escalate_s: Option<u64>,
    /// Where to read what to do.
    pub runbook: Option<String>,
    /// Its own mode.
    pub mode: Option<Mode>,
    /// Its own way with active decisions.
    pub on_repeat: Option<OnRepeat>,
    /// Longer for whoever comes back.
    pub escalate: Option<Escalate>,
    /// Past so many locks, a second factor is demanded instead.
    pub max_locks: Option<Limit>,
    /// For `unusual(hour)`.
    pub unusual: UnusualSpec,
    /// Its tests, as written.
    #[serde(skip)]
    pub tests: Vec<Node>,
    /// Where it stands, for messages.
    #[serde(skip)]
    pub place: crate::yaml::Place,
}

impl Rule {
    /// The pattern that it counts; of several, the first.
    pub fn counts(&self) -> &str {
        match &self.condition {
            Condition::Sequence { first, .. } => first,
            _ => self.on.first().map(String::as_str).unwrap_or_default(),
        }
    }

    /// Whether it blocks or locks.
    pub fn keeps_out(&self) -> bool {
        let out = |then: &Then| matches!(then.action, ActionKind::Block | ActionKind::Lock);
        self.then.iter().any(out)
    }

    /// Seconds to respond: the rule's word, else its level's, else its severity's.
    pub fn respond_s(&self) -> Option<u64> {
        self.respond_s
            .or(self.level.map(Urgency::respond_s))
            .or(self.severity.map(Severity::respond_s))
    }

    /// How long a `then` lasts, microseconds.
    pub fn duration(&self, then: &Then) -> Micros {
        const MINUTE: Micros = 60_000_000;
        then.duration.unwrap_or(match then.action {
            ActionKind::Require2fa | ActionKind::Block => 24 * 60 * MINUTE,
            ActionKind::Lock | ActionKind::UnderAttack => 60 * MINUTE,
            ActionKind::Alert => self.condition.within().unwrap_or(MINUTE).max(MINUTE),
        })
    }

    /// What it wants to know of events.
    pub fn counting(&self) -> Counting {
        Counting {
            on: self.on.clone(),
            filter: self.filter.clone(),
            unless: self.unless.clone(),
            fields: self.counted_fields().map(str::to_owned).collect(),
        }
    }

    fn counted_fields(&self) -> impl Iterator<Item = &str> {
        let per = self.per.iter().filter_map(|part| match part {
            KeyPart::Field(name) => Some(name.as_str()),
            KeyPart::Ip | KeyPart::User => None,
        });
        per.chain(self.condition.field()).chain(self.once_per.as_deref())
    }
}

/// The keys of a rule.
pub const RULE_KEYS: [&str; 25] = [
    "id",
    "title",
    "on",
    "per",
    "when",
    "then",
    "where",
    "unless",
    "once_per",
    "notify",
    "level",
    "severity",
    "runbook",
    "respond_s",
    "escalate_s",
    "mode",
    "on_repeat",
    "escalate",
    "max_locks_per_user",
    "min_events",
    "min_days",
    "rarity",
    "tests",
    "description",
    "reference",
];

/// The keys that a configuration may change in a rule of a pack.
pub const OVERRIDE_KEYS: [&str; 19] = [
    "title",
    "when",
    "then",
    "where",
    "unless",
    "once_per",
    "notify",
    "level",
    "severity",
    "runbook",
    "respond_s",
    "escalate_s",
    "mode",
    "on_repeat",
    "escalate",
    "max_locks_per_user",
    "min_events",
    "min_days",
    "rarity",
];

fn syntax<T>(checker: &mut Checker<'_>, node: &Node, parsed: Result<T, SyntaxError>) -> Option<T> {
    parsed
        .map_err(|error| checker.inside(node, error.at, error.width, error.message, error.help))
        .ok()
}

/// Reads a rule of the pack `pack`.
pub fn parse(checker: &mut Checker<'_>, node: &Node, pack: &str) -> Option<Rule> {
    let before = checker.problems.len();
    let members = checker.map(node, "a rule", &RULE_KEYS);
    if members.is_empty() {
        return None;
    }
    let mut rule = Rule { pack: pack.to_owned(), place: node.place, ..Rule::default() };
    for required in ["id", "title", "per", "when", "then"] {
        if node.get(required).is_none() {
            checker.at(node.place, 1, format!("a rule needs `{required}`"), None);
        }
    }
    for (key, value) in members {
        match key.name.as_str() {
            "id" => rule.id = rule_id(checker, value),
            "on" => rule.on = checker.texts(value, "`on`"),
            "per" => rule.per = per(checker, value),
            "tests" => rule.tests = value.as_list().into_iter().cloned().collect(),
            "description" | "reference" => {
                checker.text(value, &format!("`{}`", key.name));
            }
            name => apply(checker, &mut rule, name, value),
        }
    }
    check_fit(checker, node, &mut rule);
    (checker.problems.len() == before).then_some(rule)
}

/// Changes one key of a rule, for a rule's own text and for overrides alike.
pub fn apply(checker: &mut Checker<'_>, rule: &mut Rule, key: &str, value: &Node) {
    match key {
        "title" => rule.title = checker.text(value, "`title`").unwrap_or_default(),
        "when" => {
            if let Some(text) = checker.text(value, "`when`")
                && let Some(condition) = syntax(checker, value, condition::parse_when(&text))
            {
                rule.condition = condition;
                rule.when = text;
            }
        }
        "then" => {
            if value.as_list().is_empty() {
                let help = "for example  then: alert; a rule of a pack is switched off with  \
                            rules: { its-id: off }";
                checker.node(value, "`then` names no action", Some(help.to_owned()));
            }
            rule.then = value
                .as_list()
                .into_iter()
                .filter_map(|item| {
                    let text = checker.text(item, "`then`")?;
                    syntax(checker, item, condition::parse_then(&text))
                })
                .flatten()
                .collect();
        }
        "where" => rule.filter = Filter::parse(checker, value),
        "unless" => rule.unless = Filter::parse(checker, value),
        "once_per" => {
            rule.once_per = checker.text(value, "`once_per`");
            if rule.once_per.as_deref().is_some_and(|name| name.trim().is_empty()) {
                checker.node(
                    value,
                    "`once_per` names no field",
                    Some("for example request_id".into()),
                );
            }
        }
        "notify" => rule.notify = checker.texts(value, "`notify`"),
        "level" => {
            let words = [Urgency::Critical, Urgency::Warning, Urgency::Info].map(|u| (u.name(), u));
            rule.level = checker.word(value, "`level`", &words);
        }
        "severity" => {
            let words =
                [Severity::P0, Severity::P1, Severity::P2, Severity::P3].map(|s| (s.name(), s));
            rule.severity = checker.word(value, "`severity`", &words);
        }
        "runbook" => rule.runbook = checker.text(value, "`runbook`"),
        "respond_s" => rule.respond_s = seconds(checker, value, "`respond_s`"),
        "escalate_s" => rule.escalate_s = seconds(checker, value, "`escalate_s`"),
        "mode" => rule.mode = checker.word(value, "`mode`", &MODES),
        "on_repeat" => {
            let words = [
                ("extend", OnRepeat::Extend),
                ("quiet", OnRepeat::Quiet),
                ("ignore", OnRepeat::Ignore),
            ];
            rule.on_repeat = checker.word(value, "`on_repeat`", &words);
        }
        "escalate" => {
            let text = checker.text(value, "`escalate`");
            rule.escalate =
                text.and_then(|text| syntax(checker, value, condition::parse_escalate(&text)));
        }
        "max_locks_per_user" => rule.max_locks = limit(checker, value),
        "min_events" => {
            if let Some(n) = checker.int(value, "`min_events`", 1..=1_000_000) {
                rule.unusual.min_events = u32::try_from(n).unwrap_or(u32::MAX);
            }
        }
        "min_days" => {
            if let Some(n) = checker.int(value, "`min_days`", 1..=60) {
                rule.unusual.min_days = u32::try_from(n).unwrap_or(u32::MAX);
            }
        }
        "rarity" => {
            let text = checker.text(value, "`rarity`").unwrap_or_default();
            let share = match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().map(|p| p / 100.0),
                None => text.trim().parse::<f64>(),
            };
            match share {
                Ok(share) if share > 0.0 && share <= 1.0 => rule.unusual.rarity = share,
                _ => checker.node(
                    value,
                    "`rarity` must be a share above 0, such as 2% or 0.02",
                    None,
                ),
            }
        }
        _ => {}
    }
}

/// `max_locks_per_user: 2 per 24h`, or `off`.
pub fn limit(checker: &mut Checker<'_>, value: &Node) -> Option<Limit> {
    if value.is_off() {
        return None;
    }
    let text = checker.text(value, "`max_locks_per_user`")?;
    syntax(checker, value, condition::parse_limit(&text))
}

fn seconds(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<u64> {
    checker.int(value, what, 0..=31_536_000).and_then(|n| u64::try_from(n).ok())
}

fn rule_id(checker: &mut Checker<'_>, value: &Node) -> String {
    let id = checker.text(value, "`id`").unwrap_or_default();
    let fits = !id.is_empty()
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if !fits {
        let help = "lower-case letters, digits, - and _".to_owned();
        checker.node(value, format!("`{id}` is no id for a rule"), Some(help));
    }
    id
}

fn per(checker: &mut Checker<'_>, value: &Node) -> Per {
    let mut parts = Vec::new();
    let names = checker.texts(value, "`per`");
    if value.as_list().is_empty() {
        checker.node(value, "`per` names nothing to count per", Some("write `per: global`".into()));
    }
    for (at, name) in names.iter().enumerate() {
        let meant = ["ip", "user", "global"].into_iter().find(|key| name.eq_ignore_ascii_case(key));
        match name.as_str() {
            _ if names.iter().take(at).any(|before| before == name) => {
                checker.node(value, format!("`per` names `{name}` twice"), None);
            }
            other if meant.is_some_and(|meant| meant != other) => {
                let help = format!("did you mean `{}`?", meant.unwrap_or_default());
                checker.node(value, format!("`per`: `{name}` is no key"), Some(help));
            }
            "global" if names.len() == 1 => {}
            "global" => checker.node(value, "`global` cannot be joined with other keys", None),
            "ip" => parts.push(KeyPart::Ip),
            "user" => parts.push(KeyPart::User),
            "" => checker.node(value, "`per` names no field", None),
            field => parts.push(KeyPart::Field(field.to_owned())),
        }
    }
    parts
}

/// What belongs together in a rule: a block needs an address, a lock an account, and what concerns
/// every visitor a count of everything.
pub fn check_fit(checker: &mut Checker<'_>, node: &Node, rule: &mut Rule) {
    let at = |key: &str| node.get(key).unwrap_or(node);
    for then in &rule.then {
        let user = matches!(rule.per.as_slice(), [KeyPart::User])
            || matches!(rule.per.as_slice(), [KeyPart::Field(name)] if name == "user_id");
        let problem = match then.action {
            ActionKind::Block if rule.per != [KeyPart::Ip] => Some("a block needs `per: ip`"),
            ActionKind::Lock if !user => Some("a lock needs `per: user`"),
            ActionKind::Require2fa if !user => Some("require_2fa needs `per: user`"),
            ActionKind::UnderAttack if !rule.per.is_empty() => {
                Some("under_attack needs `per: global`")
            }
            ActionKind::Alert if then.duration.is_some_and(|d| d < 60_000_000) => {
                Some("an alert lasts at least 1m")
            }
            _ => None,
        };
        if let Some(problem) = problem {
            checker.node(at("then"), problem, None);
        }
    }
    for (place, then) in rule.then.iter().enumerate() {
        if rule.then.iter().take(place).any(|before| before.action == then.action) {
            let problem = format!("`then` asks for {} twice", then.action.name());
            checker.node(at("then"), problem, None);
        }
    }
    let unusual = matches!(rule.condition, Condition::Unusual);
    for key in ["min_events", "min_days", "rarity"] {
        if let Some(value) = node.get(key).filter(|_| !unusual) {
            checker.node(value, format!("`{key}` belongs to `unusual(hour)`"), None);
        }
    }
    if let Some(value) = node.get("max_locks_per_user")
        && rule.max_locks.is_some()
        && !rule.then.iter().any(|then| then.action == ActionKind::Lock)
    {
        checker.node(value, "`max_locks_per_user` belongs to a rule that locks", None);
    }
    if let Condition::FirstSeen { field } | Condition::Distinct { field, at_least: 2.., .. } =
        &rule.condition
        && rule.per.iter().any(|part| part.name() == field)
    {
        let problem = format!("a key of `per: {field}` has only one {field}: this never fires");
        checker.node(at("when"), problem, None);
    }
    match &rule.condition {
        Condition::Sequence { first, then, .. } => {
            if rule.on.is_empty() {
                rule.on = vec![first.clone(), then.clone()];
            } else if !rule.on.iter().all(|on| on == first || on == then) {
                let help = "leave `on` out: a sequence names its patterns itself".to_owned();
                checker.node(at("on"), "`on` does not fit the sequence in `when`", Some(help));
            } else {
                rule.on = vec![first.clone(), then.clone()];
            }
            if first == then {
                checker.node(at("when"), "a sequence needs two different patterns", None);
            }
        }
        _ if rule.on.is_empty() => {
            checker.at(node.place, 1, "a rule needs `on`: the pattern it counts", None);
        }
        Condition::FirstSeen { .. } | Condition::Unusual if rule.per.is_empty() => {
            checker.node(at("per"), "this condition learns per key and cannot be global", None);
        }
        _ => {}
    }
}
