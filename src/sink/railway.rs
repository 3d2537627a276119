//! The sink `railway`: addresses that are blocked, in the edge rules of services on Railway, and their
//! Under Attack Mode as long as a flood lasts.
//!
//! Edge rules are replaced as a whole, and have neither an end nor room for many: so what is written is
//! read anew each time, the owner's rules stay as they are, and ours hold whose decisions last longest. A
//! burst is one change. When one ends, [`Remote::reconcile`] takes it out if no line has: it comes as
//! often as something ends.
//!
//! The mode is switched off again only by whoever switched it on, as far as can be told: by the end that
//! Railway gave it. What the owner has switched on for longer, or off by hand, stays so.

mod ruleset;

use super::Context;
use super::peer::parse_name;
use super::remote::{Progress, Remote, Trouble, micros};
use super::supabase::base;
use crate::action::decision::{Decision, instant_of};
use crate::action::identity::is_uuid;
use crate::action::{Action, Op, Target, escape};
use crate::decode::time::{self, Micros};
use crate::railway::{Api, ApiError, ENDPOINT, PROJECT, Token, check_endpoint, named};
use crate::yaml::{Checker, Key, Node, nearest};
use ipnet::Ipv4Net;
use ruleset::{Fitted, Kept, Ours, PER_RULE, Ruleset, shown};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};
use tracing::{info, warn};

const SECOND: Micros = 1_000_000;
/// At most one change in so long: Railway counts calls per hour, and a change is four for each service.
const PACE: Micros = 5 * SECOND;
/// So many changes of a service within an hour keep to that pace,
const QUICK: usize = 20;
/// and further ones to this.
const SLOW: Micros = 60 * SECOND;
const HOUR: Micros = 3600 * SECOND;
/// How often what stands there is compared with what is active, if nothing ends before.
const EVERY: Micros = 600 * SECOND;
/// How long after its end an address is taken out, if no line has said that end.
const OVERDUE: Micros = 60 * SECOND;
/// Decisions remembered until they end; of more, those that end first go.
const WANTED_MAX: usize = 100_000;
/// Rules of ours in one service, at most.
const RULES_MAX: i64 = 100;
/// Changes that are begun anew because the owner changed the rules meanwhile.
const TRIES: usize = 3;
/// How long Under Attack Mode may be switched on for, seconds.
const STEPS: [i64; 4] = [3600, 10_800, 43_200, 86_400];
/// A decision that lasts longer than the mode has it switched on again when so much is left, seconds.
const RENEW: i64 = 3600;
/// Ends of the mode that differ by no more are the same: calls take their time.
const SLACK: i64 = 5;
/// How it is called until it is switched off.
const FOR_EVER: i64 = 0;
/// What begins the key of an address that an earlier run has put there.
const BEFORE: &str = "before ";

const READ: &str = "query ($environmentId: String!, $serviceId: String!) { \
     serviceInstance(environmentId: $environmentId, serviceId: $serviceId) { \
     edgeConfig { edgeRules underAttackModeUntil } \
     domains { serviceDomains { id } customDomains { id } } } }";
const VALIDATE: &str = "query ($input: ValidateServiceEdgeRulesInput!) { \
     validateServiceEdgeRules(input: $input) { code message path } }";
const UPDATE: &str = "mutation ($input: UpdateServiceEdgeRulesInput!) { \
     updateServiceEdgeRules(input: $input) { edgeRules } }";
const SWITCH: &str = "mutation ($input: SetServiceUnderAttackModeInput!) { \
     setServiceUnderAttackMode(input: $input) { underAttackModeUntil } }";

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What tells it from others.
    name: String,
    /// The project's id.
    project: Option<String>,
    /// The environment, by id or name.
    environment: Option<String>,
    /// The services, by id or name.
    services: Vec<String>,
    /// Where the API is.
    endpoint: String,
    /// Rules of ours per service.
    rules_max: usize,
    /// Whether Under Attack Mode is switched.
    under_attack: bool,
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, key: &Key, value: &Node) -> Option<Self> {
        const KEYS: [&str; 7] =
            ["name", "project", "environment", "services", "endpoint", "max_rules", "under_attack"];
        let before = checker.problems.len();
        let mut options = Self {
            name: String::new(),
            project: None,
            environment: None,
            services: Vec::new(),
            endpoint: ENDPOINT.to_owned(),
            rules_max: 5,
            under_attack: true,
        };
        for (key, value) in checker.map(value, "the sink `railway`", &KEYS) {
            let what = format!("`railway.{}`", key.name);
            match key.name.as_str() {
                "name" => options.name = parse_name(checker, value),
                "project" => options.project = name_of(checker, value, &what),
                "environment" => options.environment = name_of(checker, value, &what),
                "services" => options.services = checker.texts(value, &what),
                "endpoint" => options.endpoint = endpoint(checker, value, &what)?,
                "max_rules" => {
                    let count = checker.int(value, &what, 1..=RULES_MAX);
                    options.rules_max = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
                }
                "under_attack" => {
                    options.under_attack = checker.bool(value, &what).unwrap_or(true);
                }
                _ => {}
            }
        }
        if options.services.iter().all(|name| name.trim().is_empty()) {
            let help = "for example  services: [web], by name or id".to_owned();
            checker.key(key, "the sink `railway` needs `services`", Some(help));
        }
        if let Some(project) = options.project.as_deref().filter(|id| !is_uuid(id)) {
            let help = "the id stands in the address of the project's page: railway.com/project/ID";
            let message = format!("`railway.project`: `{project}` is no id of a project");
            checker.node(value.get("project").unwrap_or(value), message, Some(help.to_owned()));
        }
        (checker.problems.len() == before).then_some(options)
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        if self.name.is_empty() { "railway".to_owned() } else { format!("railway {}", self.name) }
    }

    /// How descriptions of our rules begin: two gates before one service leave each other's alone.
    fn mark(&self) -> String {
        if self.name.is_empty() {
            "portcullis".to_owned()
        } else {
            format!("portcullis {}", self.name)
        }
    }

    /// Makes it ready to work, with the token of the environment.
    ///
    /// # Errors
    /// What is missing.
    pub fn open(&self, _context: &Context) -> Result<Box<dyn Remote>, String> {
        self.open_with(Token::from_env()?)
    }

    /// Makes it ready to work with this token.
    ///
    /// # Errors
    /// What is missing.
    pub fn open_with(&self, token: Token) -> Result<Box<dyn Remote>, String> {
        let set = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
        let project = self.project.clone().or_else(|| set("RAILWAY_PROJECT_ID"));
        let environment = self.environment.clone().or_else(|| set("RAILWAY_ENVIRONMENT_ID"));
        let environment = environment.ok_or(
            "it needs `environment`, by id or name, or the variable RAILWAY_ENVIRONMENT_ID",
        )?;
        let mut names = std::iter::once(&environment).chain(&self.services);
        if let Some(name) = names.find(|name| project.is_none() && !is_uuid(name)) {
            return Err(format!(
                "it needs `project`, or the variable RAILWAY_PROJECT_ID, to find `{}` by its name",
                escape(name)
            ));
        }
        Ok(Box::new(Railway {
            options: self.clone(),
            api: Api::new(&self.endpoint, token),
            project,
            environment,
            place: None,
            wanted: HashMap::new(),
            attacks: HashMap::new(),
            is_partial: false,
            tries: VecDeque::new(),
            compared: None,
            next: None,
            said_v6: false,
        }))
    }
}

fn name_of(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let text = checker.text(value, what)?;
    if text.trim().is_empty() {
        checker.node(value, format!("{what} is empty"), Some("leave it out, or name one".into()));
        return None;
    }
    Some(text.trim().to_owned())
}

/// Where the API is: the token goes there, so not in plain text to another machine.
fn endpoint(checker: &mut Checker<'_>, value: &Node, what: &str) -> Option<String> {
    let text = base(checker, value, what)?;
    if let Err(why) = check_endpoint(&text) {
        let help = Some(format!("leave it out for {ENDPOINT}"));
        checker.node(value, format!("{what}: {why}"), help);
        return None;
    }
    Some(text)
}

/// Somebody who is to be kept out.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    net: Ipv4Net,
    started: Micros,
    until: Micros,
}

/// A decision under which every visitor is checked.
#[derive(Debug, Clone, Copy)]
struct Attack {
    started: Micros,
    until: Micros,
}

/// Where it works, once names are known as ids.
#[derive(Debug)]
struct Place {
    environment: String,
    services: Vec<Service>,
}

/// A service.
#[derive(Debug)]
struct Service {
    id: String,
    name: String,
    /// Rules of ours, as far as the settings and the plan allow.
    rules_max: usize,
    /// So many addresses have room.
    room: usize,
    /// Whom our rules keep out, if that is known.
    written: Option<BTreeSet<Ipv4Net>>,
    /// The rules of ours that the plan allows, as it was said.
    limit: Option<usize>,
    /// What an earlier run has put there was read.
    is_read: bool,
    /// Why it could not be.
    unread: Option<Trouble>,
    /// Changes that were tried and are not counted yet.
    tries: usize,
    /// What Railway would not take last, and why.
    refused: Option<(BTreeSet<Ipv4Net>, String)>,
    /// How many it was said have no room.
    beyond: usize,
    /// It was said that an owner's rule comes first.
    said_behind: bool,
    mode: Mode,
}

/// What is known of a service's Under Attack Mode.
#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    /// When it ends, as we have set it; seconds since 1970.
    ours: Option<i64>,
    /// When it ends as the owner has set it, or would have if we had not made it longer.
    owners: Option<i64>,
    /// The owner has switched it off in the middle of an attack: it stays off until that is over.
    is_declined: bool,
}

/// A service's edge as it was read.
struct Edge {
    rules: Value,
    /// When Under Attack Mode ends, seconds since 1970, or [`FOR_EVER`]; none if it is off.
    until: Option<i64>,
    has_domain: bool,
}

impl Service {
    fn new(id: &str, name: &str, rules_max: usize) -> Self {
        Self {
            id: id.to_owned(),
            name: escape(name),
            rules_max,
            room: rules_max.saturating_mul(PER_RULE),
            written: None,
            limit: None,
            is_read: false,
            unread: None,
            tries: 0,
            refused: None,
            beyond: 0,
            said_behind: false,
            mode: Mode::default(),
        }
    }

    /// Whom its rules are to keep out, of all.
    fn aim(&self, ranked: &[Kept]) -> BTreeSet<Ipv4Net> {
        ranked.iter().take(self.room).map(|one| one.net).collect()
    }

    /// Says how many rules the plan allows, when that changes: `why` the last try had one too many.
    fn say_limit(&mut self, sink: &str, rules: usize, why: Option<&str>) {
        let Some(why) = why else {
            self.limit = self.limit.filter(|limit| rules <= *limit);
            return;
        };
        let (name, max) = (&self.name, self.rules_max);
        if self.limit.replace(max) != Some(max) {
            warn!("sink {sink}: {name}: Railway takes no more than {max} rules of ours: {why}");
        }
    }

    /// Says how many have no room, when that changes.
    fn say_beyond(&mut self, sink: &str, all: usize) {
        let beyond = all.saturating_sub(self.room);
        if beyond == self.beyond {
            return;
        }
        self.beyond = beyond;
        let (name, room) = (&self.name, self.room);
        if beyond == 0 {
            info!("sink {sink}: {name}: all {all} addresses have room again");
        } else {
            warn!(
                "sink {sink}: {name}: {beyond} of {all} addresses are not kept out: there is room for \
                 {room} in {} rules of ours and 64 KiB; those whose decisions last longest come first",
                self.rules_max
            );
        }
    }
}

#[derive(Debug)]
struct Railway {
    options: Options,
    api: Api,
    project: Option<String>,
    environment: String,
    place: Option<Place>,
    /// By the ids of decisions.
    wanted: HashMap<String, Wanted>,
    /// By the ids of decisions.
    attacks: HashMap<String, Attack>,
    /// Decisions of earlier runs are not known.
    is_partial: bool,
    /// When changes of rules were tried within the last hour.
    tries: VecDeque<Micros>,
    /// When what stands there was compared last.
    compared: Option<Micros>,
    /// When something ends next.
    next: Option<Micros>,
    said_v6: bool,
}

/// The IPv4 address or range that a target is.
fn net_of(target: &Target) -> Option<Ipv4Net> {
    let text = target.text();
    let net = text.parse::<Ipv4Net>().ok();
    text.parse::<Ipv4Addr>().map(Ipv4Net::from).ok().or(net).map(|net| net.trunc())
}

fn is_mode(action: &Action) -> bool {
    action.action == "under_attack"
}

impl Remote for Railway {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        let does = match action.action {
            "block" => matches!(action.target.kind.as_str(), "ip" | "range"),
            "under_attack" => self.options.under_attack,
            _ => false,
        };
        does && action.mode == "enforce" && matches!(action.op, Op::Start | Op::Extend | Op::End)
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let now = micros(now);
        if let Err(trouble) = self.resolve() {
            return Progress::until(0, trouble);
        }
        actions.iter().for_each(|action| self.take_in(action, now));
        let first = |mode: bool| actions.iter().position(|action| is_mode(action) == mode);
        let mut came: Option<(usize, Trouble)> = None;
        // A flood does not wait for the pace of blocks.
        if let Some(at) = first(true)
            && let Err(trouble) = self.switch(now, false)
        {
            came = Some((at, trouble));
        }
        if let Some(at) = first(false)
            && let Err(trouble) = self.keep_out(now)
            && came.as_ref().is_none_or(|(other, _)| at < *other)
        {
            came = Some((at, trouble));
        }
        self.look_ahead(now);
        match came {
            Some((done, trouble)) => Progress::until(done, trouble),
            None => Progress::all(actions),
        }
    }

    fn would(&self, action: &Action) -> String {
        let services = escape(&self.options.services.join(", "));
        let until = action.until.as_deref().map(escape).unwrap_or_default();
        if is_mode(action) {
            return match action.op {
                Op::End => format!("switch Under Attack Mode of {services} off"),
                _ => format!("switch Under Attack Mode of {services} on until {until}"),
            };
        }
        let Some(net) = net_of(&action.target) else {
            let target = escape(action.target.text());
            return format!("leave {target} alone: edge rules know only IPv4");
        };
        let net = shown(&net);
        match action.op {
            Op::End => format!("take {net} out of the edge rules of {services}"),
            _ => format!("put {net} into the edge rules of {services} until {until}"),
        }
    }

    fn reconcile(
        &mut self,
        active: &[Decision],
        now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        let now = micros(now);
        self.resolve()?;
        let first = self.compared.is_none();
        self.know(active, now);
        // A plan may have grown.
        for service in self.place.iter_mut().flat_map(|place| &mut place.services) {
            service.rules_max = self.options.rules_max;
        }
        let mut told = Vec::new();
        let mut pass = |came: Result<Vec<String>, Trouble>| match came {
            Ok(more) => {
                told.extend(more);
                Ok(())
            }
            // It is no more than it was before: the next comparison tries again.
            Err(Trouble::Refused { why }) => {
                told.push(why);
                Ok(())
            }
            Err(other) => Err(other),
        };
        // Neither waits for the other.
        let mode = pass(self.switch(now, first));
        let rules = pass(self.bring(now));
        if let Err(trouble) = mode.and(rules) {
            if !told.is_empty() {
                info!("sink {}: {}", self.name(), told.join("; "));
            }
            return Err(trouble);
        }
        self.compared = Some(now);
        self.look_ahead(now);
        Ok((!told.is_empty()).then(|| told.join("; ")))
    }

    fn knows_only_its_own(&mut self) {
        self.is_partial = true;
    }

    fn reconcile_every(&self) -> Option<Duration> {
        let every = match (self.compared, self.next) {
            (Some(compared), Some(next)) => (next - compared).clamp(PACE, EVERY),
            _ => EVERY,
        };
        Some(Duration::from_micros(every.unsigned_abs()))
    }

    fn test(&mut self, _now: SystemTime) -> Result<String, String> {
        let tried = self.try_out();
        tried.map_err(|trouble| trouble.why().to_owned())
    }

    fn clean(&mut self) -> Result<String, String> {
        let cleaned = self.resolve().and_then(|()| self.take_away());
        cleaned.map_err(|trouble| trouble.why().to_owned())
    }
}

impl Railway {
    /// Takes a line into what is wanted.
    fn take_in(&mut self, action: &Action, now: Micros) {
        let id = action.decision.as_ref().unwrap_or(&action.id);
        let started = instant_of(&action.time).unwrap_or(now);
        let until = action.until.as_deref().and_then(instant_of).unwrap_or_default();
        let is_over = action.op == Op::End || until <= now;
        if is_mode(action) {
            let before = self.attacks.remove(id);
            if !is_over {
                let started = before.map_or(started, |before| before.started);
                self.attacks.insert(id.clone(), Attack { started, until });
            }
            return;
        }
        let Some(net) = net_of(&action.target) else {
            if !self.said_v6 {
                self.said_v6 = true;
                warn!(
                    "sink {}: {} is IPv6, and edge rules know only IPv4: such addresses are not kept \
                     out there (said once)",
                    self.name(),
                    escape(action.target.text())
                );
            }
            return;
        };
        if is_over {
            self.wanted.remove(id);
            self.wanted.remove(&format!("{BEFORE}{net}"));
            return;
        }
        let started = self.wanted.get(id).map_or(started, |before| before.started);
        self.want(id.clone(), Wanted { net, started, until });
    }

    fn want(&mut self, id: String, wanted: Wanted) {
        if self.wanted.len() >= WANTED_MAX && !self.wanted.contains_key(&id) {
            let first = self.wanted.iter().min_by_key(|(id, wanted)| (wanted.until, *id));
            let first = first.map(|(id, _)| id.clone());
            first.and_then(|first| self.wanted.remove(&first));
        }
        self.wanted.insert(id, wanted);
    }

    /// Takes what is active for what is wanted.
    fn know(&mut self, active: &[Decision], now: Micros) {
        self.wanted.retain(|id, wanted| id.starts_with(BEFORE) && now < wanted.until);
        self.attacks.clear();
        for decision in active.iter().filter(|one| one.is_enforced() && now < one.until) {
            let Decision { started, until, .. } = *decision;
            if decision.action == "under_attack" && self.options.under_attack {
                self.attacks.insert(decision.id.clone(), Attack { started, until });
            } else if decision.action == "block"
                && let Some(net) = net_of(&decision.target)
            {
                self.want(decision.id.clone(), Wanted { net, started, until });
            }
        }
    }

    /// Takes over what an earlier run has put there, whose decisions are not known, until its rules say
    /// that they end. Trouble with a service stays there, and keeps it from being changed.
    fn adopt(&mut self, now: Micros) {
        if !self.is_partial {
            return;
        }
        let Some(mut place) = self.place.take() else { return };
        let mark = self.options.mark();
        for service in place.services.iter_mut().filter(|service| !service.is_read) {
            match self.read(&place.environment, service) {
                Ok(edge) => {
                    service.is_read = true;
                    // Rules of an unknown kind are told when they are to be changed.
                    if let Ok(ruleset) = Ruleset::of(edge.rules) {
                        self.take_over(&ruleset.ours(&mark), now);
                    }
                }
                Err(trouble) => service.unread = Some(trouble),
            }
        }
        self.place = Some(place);
    }

    fn take_over(&mut self, ours: &Ours, now: Micros) {
        for (net, end) in &ours.ends {
            let Some(until) = end.filter(|until| now < *until) else { continue };
            let id = format!("{BEFORE}{net}");
            let until = self.wanted.get(&id).map_or(until, |other| other.until.max(until));
            self.want(id, Wanted { net: *net, started: Micros::MIN, until });
        }
    }

    /// Whom to keep out, each once: those first whose decisions last longest, then the newest.
    fn ranked(&self, now: Micros) -> Vec<Kept> {
        let mut each: HashMap<Ipv4Net, (Micros, Micros, bool)> = HashMap::new();
        for (id, wanted) in self.wanted.iter().filter(|(_, wanted)| now < wanted.until) {
            let one = (wanted.until, wanted.started, id.starts_with(BEFORE));
            let last = each.entry(wanted.net).or_insert(one);
            *last = (*last).max(one);
        }
        let mut ranked: Vec<_> = each.into_iter().collect();
        ranked.sort_unstable_by_key(|(net, (until, started, _))| {
            (Reverse(*until), Reverse(*started), *net)
        });
        let kept = |(net, (until, _, is_before))| Kept { net, until, is_before };
        ranked.into_iter().map(kept).collect()
    }

    /// Brings the rules of every service to what is wanted, where they are not so yet, at its pace.
    fn keep_out(&mut self, now: Micros) -> Result<(), Trouble> {
        let ranked = self.ranked(now);
        let name = self.name();
        let mut refused = None;
        let mut stands = true;
        for service in self.place.iter_mut().flat_map(|place| &mut place.services) {
            let aim = service.aim(&ranked);
            if service.written.as_ref() == Some(&aim) {
                service.say_beyond(&name, ranked.len());
            } else if let Some((_, why)) = service.refused.as_ref().filter(|(not, _)| *not == aim) {
                refused = Some(why.clone());
            } else {
                stands = false;
            }
        }
        if stands {
            return refused.map_or(Ok(()), |why| Err(Trouble::Refused { why }));
        }
        // A clock that was set back holds nothing up.
        let pace = self.pace(now);
        if let Some(wait) = self.tries.back().map(|last| last + pace - now)
            && (1..=pace).contains(&wait)
        {
            // Nothing is handed over meanwhile, and the mode is not to wait for so long.
            let wait = Duration::from_micros(wait.min(PACE).unsigned_abs());
            return Err(Trouble::Paced { wait });
        }
        self.bring(now).map(|_| ())
    }

    /// At most one change in so long, by how many there were within the last hour.
    fn pace(&self, now: Micros) -> Micros {
        let recent = self.tries.iter().filter(|at| is_recent(**at, now)).count();
        if recent < QUICK { PACE } else { SLOW }
    }

    /// Brings the rules of every service to what is wanted; what it had to change.
    fn bring(&mut self, now: Micros) -> Result<Vec<String>, Trouble> {
        self.adopt(now);
        let ranked = self.ranked(now);
        let came = self.each(|this, environment, service| {
            if let Some(trouble) = service.unread.take() {
                return Err(trouble);
            }
            let came = this.bring_one(environment, service, &ranked);
            if came.is_ok() {
                service.say_beyond(&this.name(), ranked.len());
            }
            came
        });
        let services = self.place.iter_mut().flat_map(|place| &mut place.services);
        let tries: usize = services.map(|service| std::mem::take(&mut service.tries)).sum();
        // What is refused before it is tried would otherwise be asked for each line.
        let tries = tries.max(usize::from(matches!(came, Err(Trouble::Refused { .. }))));
        // Who has only looked may change at once.
        self.tries.retain(|at| is_recent(*at, now));
        self.tries.extend(std::iter::repeat_n(now, tries));
        came
    }

    /// Does something for each service; trouble with one does not keep it from the others.
    fn each(
        &mut self,
        mut act: impl FnMut(&Self, &str, &mut Service) -> Result<Option<String>, Trouble>,
    ) -> Result<Vec<String>, Trouble> {
        let Some(mut place) = self.place.take() else { return Ok(Vec::new()) };
        let mut told = Vec::new();
        let mut worst: Option<Trouble> = None;
        for service in &mut place.services {
            match act(self, &place.environment, service) {
                Ok(change) => told.extend(change),
                // What may work later is tried again, and what is refused is then said.
                Err(trouble) => match worst {
                    Some(Trouble::Later { .. }) => {}
                    _ => worst = Some(trouble),
                },
            }
        }
        self.place = Some(place);
        worst.map_or(Ok(told), Err)
    }

    fn bring_one(
        &self,
        environment: &str,
        service: &mut Service,
        ranked: &[Kept],
    ) -> Result<Option<String>, Trouble> {
        let mark = self.options.mark();
        service.written = None;
        service.refused = None;
        let mut tries = 0;
        let mut limit: Option<String> = None;
        loop {
            let edge = self.read(environment, service)?;
            let refuse = |why: String| Trouble::Refused { why: format!("{}: {why}", service.name) };
            let ruleset = Ruleset::of(edge.rules.clone()).map_err(refuse)?;
            let fitted = ruleset.fit(&mark, ranked, service.rules_max);
            service.room = match fitted.nets.len() {
                all if all == ranked.len() => service.rules_max.saturating_mul(PER_RULE),
                some => some,
            };
            let ours = ruleset.ours(&mark);
            let before = ours.nets();
            if before == fitted.nets && !ours.is_changed && !ours.is_behind(ranked) {
                service.say_limit(&self.name(), ours.rules, limit.as_deref());
                service.written = Some(fitted.nets);
                return Ok(None);
            }
            service.tries += 1;
            let failed = match self.put(environment, &service.id, &fitted, &edge) {
                Ok(true) => {
                    service.say_limit(&self.name(), fitted.rules, limit.as_deref());
                    self.say_behind(service, &fitted);
                    let told = told(service, &before, &fitted.nets, ours.is_changed);
                    service.written = Some(fitted.nets);
                    return Ok(Some(told));
                }
                Ok(false) => {
                    tries += 1;
                    if tries < TRIES {
                        continue;
                    }
                    let name = &service.name;
                    return Err(Trouble::later(format!(
                        "{name}: its edge rules change all the time"
                    )));
                }
                Err(failed) => failed,
            };
            let ApiError::Refused(why) = &failed else {
                return Err(self.trouble(&service.name, &failed));
            };
            // What stands there stays: fewer would let in whom it keeps out.
            if is_limit(why) && fitted.rules > ours.rules.max(1) {
                service.rules_max = fitted.rules - 1;
                limit = Some(escape(why));
                continue;
            }
            let trouble = self.trouble(&service.name, &failed);
            let why = format!("{}; nothing was changed there", trouble.why());
            service.refused = Some((fitted.nets, why.clone()));
            return Err(Trouble::Refused { why });
        }
    }

    /// Writes rules, if Railway takes them and nobody has changed them since they were read.
    fn put(
        &self,
        environment: &str,
        service: &str,
        fitted: &Fitted,
        edge: &Edge,
    ) -> Result<bool, ApiError> {
        if !fitted.nets.is_empty() && !edge.has_domain {
            return Err(ApiError::Refused(NO_DOMAIN.to_owned()));
        }
        self.validate(environment, service, &fitted.value)?;
        if self.ask(environment, service)?.rules != edge.rules {
            return Ok(false);
        }
        let input = json!({
            "environmentId": environment, "serviceId": service, "edgeRules": fitted.value,
        });
        self.api.call(UPDATE, &json!({ "input": input })).map(|_| true)
    }

    fn validate(&self, environment: &str, service: &str, rules: &Value) -> Result<(), ApiError> {
        if rules.is_null() {
            return Ok(());
        }
        let input =
            json!({ "environmentId": environment, "serviceId": service, "edgeRules": rules });
        let answer = self.api.call(VALIDATE, &json!({ "input": input }))?;
        let Some(problems) = answer.get("validateServiceEdgeRules").and_then(Value::as_array)
        else {
            return Err(ApiError::Later("the answer has no `validateServiceEdgeRules`".to_owned()));
        };
        let said: Vec<String> = problems.iter().map(problem).collect();
        if said.is_empty() { Ok(()) } else { Err(ApiError::Refused(said.join("; "))) }
    }

    /// Says once that an owner's rule decides before ours.
    fn say_behind(&self, service: &mut Service, fitted: &Fitted) {
        if let Some(priority) = fitted.behind.filter(|_| !service.said_behind) {
            service.said_behind = true;
            warn!(
                "sink {}: {}: your edge rule of priority {priority} comes before one of ours: whom it \
                 allows is not kept out (said once)",
                self.name(),
                service.name
            );
        }
    }

    fn read(&self, environment: &str, service: &Service) -> Result<Edge, Trouble> {
        self.ask(environment, &service.id).map_err(|error| self.trouble(&service.name, &error))
    }

    fn ask(&self, environment: &str, service: &str) -> Result<Edge, ApiError> {
        let variables = json!({ "environmentId": environment, "serviceId": service });
        let mut answer = self.api.call(READ, &variables)?;
        let instance = answer.get_mut("serviceInstance").map(Value::take).unwrap_or_default();
        if !instance.is_object() {
            return Err(ApiError::Later("the answer has no `serviceInstance`".to_owned()));
        }
        let config = instance.get("edgeConfig").unwrap_or(&Value::Null);
        let domains = instance.get("domains").unwrap_or(&Value::Null);
        let some = |kind: &str| {
            domains.get(kind).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
        };
        Ok(Edge {
            rules: config.get("edgeRules").cloned().unwrap_or_default(),
            until: config.get("underAttackModeUntil").and_then(Value::as_i64),
            has_domain: some("serviceDomains") || some("customDomains"),
        })
    }

    /// Switches Under Attack Mode of every service on or off, where that is ours to do. The `first` time,
    /// what is on may be ours from before.
    fn switch(&mut self, now: Micros, first: bool) -> Result<Vec<String>, Trouble> {
        let second = now.div_euclid(SECOND);
        let attack = self.attacks.values().filter(|attack| now < attack.until).copied();
        let attack = attack.reduce(|one, other| Attack {
            started: one.started.min(other.started),
            until: one.until.max(other.until),
        });
        self.each(|this, environment, service| match attack {
            Some(attack) => this.switch_on(environment, service, attack, second, first),
            None => this.switch_off(environment, service, second),
        })
    }

    fn switch_on(
        &self,
        environment: &str,
        service: &mut Service,
        attack: Attack,
        second: i64,
        first: bool,
    ) -> Result<Option<String>, Trouble> {
        let until = whole(attack.until);
        let lasts = |ends: i64| ends + SLACK >= until || ends - second > RENEW;
        let went_on = |ends: i64| ends == FOR_EVER || ends > second + SLACK;
        let mode = service.mode;
        if mode.is_declined || mode.ours.is_some_and(lasts) {
            return Ok(None);
        }
        let edge = self.read(environment, service)?;
        let is_on = edge.until.filter(|ends| *ends == FOR_EVER || *ends > second);
        let is_ours = |ends: i64| match mode.ours {
            Some(ours) => (ours - ends).abs() <= SLACK,
            None => first && ends != FOR_EVER && may_be_ours(ends, attack, second),
        };
        match is_on {
            Some(ends) if is_ours(ends) => {
                service.mode.ours = Some(ends);
                if lasts(ends) {
                    return Ok(None);
                }
            }
            // The owner's: for ever, or for long enough; or shorter, and then what we set covers it.
            Some(ends) if ends == FOR_EVER || lasts(ends) => {
                service.mode = Mode { owners: Some(ends), ..Mode::default() };
                return Ok(None);
            }
            Some(ends) => service.mode.owners = Some(ends),
            None if mode.ours.or(mode.owners).is_some_and(went_on) => {
                service.mode = Mode { is_declined: true, ..Mode::default() };
                let name = &service.name;
                return Ok(Some(format!(
                    "{name}: Under Attack Mode was switched off by hand, and stays off"
                )));
            }
            None => {}
        }
        if !edge.has_domain {
            return Err(Trouble::Refused { why: format!("{}: {NO_DOMAIN}", service.name) });
        }
        let left = until - second;
        let step = STEPS.into_iter().find(|step| *step + SLACK >= left).unwrap_or(STEPS[3]);
        let ends = self.set_mode(environment, service, Some(step))?.unwrap_or(second + step);
        service.mode.ours = Some(ends);
        let shown = time::format(ends.saturating_mul(SECOND));
        Ok(Some(format!("{}: switched Under Attack Mode on until {shown}", service.name)))
    }

    fn switch_off(
        &self,
        environment: &str,
        service: &mut Service,
        second: i64,
    ) -> Result<Option<String>, Trouble> {
        let mode = service.mode;
        let ours = mode.ours.filter(|ours| *ours > second);
        // What the owner had switched on for some time goes on as long as we have made it.
        let owners = mode.owners.is_some_and(|owners| owners > second);
        let Some(ours) = ours.filter(|_| !owners) else {
            service.mode = Mode::default();
            return Ok(None);
        };
        let edge = self.read(environment, service)?;
        let is_ours = edge.until.is_some_and(|ends| (ends - ours).abs() <= SLACK);
        if is_ours {
            self.set_mode(environment, service, None)?;
        }
        service.mode = Mode::default();
        Ok(is_ours.then(|| format!("{}: switched Under Attack Mode off", service.name)))
    }

    /// Switches it on for so many seconds, or off; when it ends, as Railway says.
    fn set_mode(
        &self,
        environment: &str,
        service: &Service,
        lasting: Option<i64>,
    ) -> Result<Option<i64>, Trouble> {
        let mut input = json!({
            "environmentId": environment, "serviceId": service.id, "enabled": lasting.is_some(),
        });
        if let Some(lasting) = lasting {
            input["durationSeconds"] = lasting.into();
        }
        let answer = self.api.call(SWITCH, &json!({ "input": input }));
        let answer = answer.map_err(|error| self.trouble(&service.name, &error))?;
        let set = answer.get("setServiceUnderAttackMode");
        Ok(set.and_then(|set| set.get("underAttackModeUntil")?.as_i64()).filter(|at| *at > 0))
    }

    /// Looks for the next end after `now` that no line may say.
    fn look_ahead(&mut self, now: Micros) {
        let ends = self.wanted.values().map(|wanted| wanted.until);
        let attacks = self.attacks.values().map(|attack| attack.until);
        let last = attacks.clone().max().map(whole);
        let services = self.place.iter().flat_map(|place| &place.services);
        let ours = services.filter_map(|service| service.mode.ours);
        let renewals = ours.filter(|ours| last.is_some_and(|last| ours + SLACK < last));
        let renewals = renewals.map(|ours| (ours - RENEW).saturating_mul(SECOND));
        // One that is past could not be done: it waits for the next comparison.
        let renewal = renewals.map(|at| if at > now { at } else { now + EVERY }).min();
        let over = ends.chain(attacks).filter(|until| now < *until + OVERDUE);
        self.next = over.map(|until| until + OVERDUE).min().into_iter().chain(renewal).min();
    }

    /// Finds ids for names, the first time.
    fn resolve(&mut self) -> Result<(), Trouble> {
        if self.place.is_some() {
            return Ok(());
        }
        let names: Vec<String> =
            self.options.services.iter().map(|name| name.trim().to_owned()).collect();
        let known = names.iter().chain([&self.environment]).all(|name| is_uuid(name));
        let mut answer = Value::Null;
        if !known {
            let project = self.project.clone().unwrap_or_default();
            let asked = self.api.call(PROJECT, &json!({ "id": project }));
            answer = asked.map_err(|error| match self.trouble("the project", &error) {
                // A wrong id is mended in the settings, and nothing is lost until then.
                Trouble::Refused { why } => Trouble::later(why),
                other => other,
            })?;
        }
        let environment = find(&answer, "environments", &self.environment)?;
        let mut services: Vec<Service> = Vec::new();
        for name in names.iter().filter(|name| !name.is_empty()) {
            let id = find(&answer, "services", name)?;
            if services.iter().all(|other| other.id != id) {
                services.push(Service::new(&id, name, self.options.rules_max));
            }
        }
        self.place = Some(Place { environment, services });
        Ok(())
    }

    /// Reads all that it needs and has a rule checked, without changing anything.
    fn try_out(&mut self) -> Result<String, Trouble> {
        self.resolve()?;
        let mark = self.options.mark();
        let net = Ipv4Net::from(Ipv4Addr::new(192, 0, 2, 1));
        let example = Kept { net, until: Micros::default(), is_before: false };
        let told = self.each(|this, environment, service| {
            let edge = this.read(environment, service)?;
            let name = &service.name;
            let refuse = |why: String| Trouble::Refused { why: format!("{name}: {why}") };
            if !edge.has_domain {
                return Err(refuse(NO_DOMAIN.to_owned()));
            }
            let ruleset = Ruleset::of(edge.rules).map_err(refuse)?;
            let rules = ruleset.fit(&mark, &[example], 1).value;
            let checked = this.validate(environment, &service.id, &rules);
            checked.map_err(|error| this.trouble(name, &error))?;
            let ours = ruleset.ours(&mark);
            let mode = mode_shown(edge.until);
            Ok(Some(format!(
                "{name}: Railway would take a rule; {} of ours are there with {} addresses; Under \
                 Attack Mode is {mode}",
                ours.rules,
                ours.ends.len()
            )))
        })?;
        let endpoint = self.api.endpoint();
        Ok(format!("{endpoint} takes {}; {}", self.api.token().variable(), told.join("; ")))
    }

    /// Takes our rules away, and switches off what is known to be ours.
    fn take_away(&mut self) -> Result<String, Trouble> {
        self.wanted.clear();
        self.attacks.clear();
        let told = self.each(|this, environment, service| {
            let rules = this.bring_one(environment, service, &[])?;
            let rules = rules.unwrap_or_else(|| format!("{}: no rule of ours", service.name));
            let off = this.switch_off(environment, service, i64::MIN)?;
            let mode = match (off, this.read(environment, service)?.until) {
                (Some(_), _) => "Under Attack Mode".to_owned(),
                (None, None) => return Ok(Some(rules)),
                (None, until) => format!(
                    "Under Attack Mode is {} and was left so, as the owner may have switched it",
                    mode_shown(until)
                ),
            };
            Ok(Some(format!("{rules}; {mode}")))
        })?;
        Ok(told.join("; "))
    }

    /// What an error means for whoever waits. A token can be mended, and then all that waits is done.
    fn trouble(&self, what: &str, error: &ApiError) -> Trouble {
        let said = escape(&error.to_string());
        let why = format!("{}: {said}", escape(what));
        match error {
            ApiError::Later(_) => Trouble::later(why),
            ApiError::Limited { after } => Trouble::Later { why, after: *after },
            ApiError::Refused(_) => Trouble::Refused { why },
            ApiError::Unauthorized(_) => Trouble::later(format!(
                "{why}; is {} the right one, and does it reach that environment?",
                self.api.token().variable()
            )),
        }
    }
}

/// Why a service without one can have neither rules nor the mode.
const NO_DOMAIN: &str = "it has no public domain, which edge rules and Under Attack Mode need: add one with \
     `railway domain`";

fn is_recent(at: Micros, now: Micros) -> bool {
    (now - HOUR < at) && (at <= now)
}

/// The whole second after an instant.
fn whole(at: Micros) -> i64 {
    at.div_euclid(SECOND) + 1
}

/// Whether the mode may have been switched on by us for this attack before a restart: it was, since the
/// attack began, for one of the times that there are.
fn may_be_ours(ends: i64, attack: Attack, second: i64) -> bool {
    let began = attack.started.div_euclid(SECOND) - SLACK;
    STEPS.iter().any(|step| (began..=second + SLACK).contains(&(ends - step)))
}

fn mode_shown(until: Option<i64>) -> String {
    match until {
        None => "off".to_owned(),
        Some(FOR_EVER) => "on until it is switched off".to_owned(),
        Some(ends) => format!("on until {}", time::format(ends.saturating_mul(SECOND))),
    }
}

/// What a change did, in a few words.
fn told(
    service: &Service,
    before: &BTreeSet<Ipv4Net>,
    now: &BTreeSet<Ipv4Net>,
    is_changed: bool,
) -> String {
    let (added, removed) = (now.difference(before).count(), before.difference(now).count());
    let made = match (is_changed, added + removed) {
        (true, _) => ", and rules of ours that were changed made anew",
        (false, 0) => ", and a later end written",
        (false, _) => "",
    };
    format!("{}: {added} addresses added, {removed} removed{made}", service.name)
}

/// What Railway finds wrong with rules, in one line.
fn problem(problem: &Value) -> String {
    let text = |key: &str| match problem.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let (code, message, path) = (text("code"), text("message"), text("path"));
    let at = if path.is_empty() { path } else { format!(" at {path}") };
    escape(&format!("{message}{at} ({code})"))
}

/// Whether a refusal is about how many rules the plan allows: not about how often something may be
/// asked, nor about what stands in one rule.
fn is_limit(why: &str) -> bool {
    const RULES: [&str; 4] = ["plan", "edge rules", "many rules", "number of rules"];
    const LIMIT: [&str; 6] = ["limit", "maximum", "too many", "at most", "exceed", "upgrade"];
    const RATES: [&str; 7] =
        ["rate limit", "rate-limit", "ratelimit", "request", "per hour", "per minute", "try again"];
    /// How a path begins that goes on with the number of a rule.
    const ONE: [&str; 3] = ["rules[", "rules.", "rules\","];
    let why = why.to_ascii_lowercase();
    why.split("; ").any(|one| {
        let has = |words: &[&str]| words.iter().any(|word| one.contains(word));
        let is_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
        let is_one = ONE.iter().any(|path| one.split(path).skip(1).any(is_number));
        has(&RULES) && has(&LIMIT) && !has(&RATES) && !is_one
    })
}

/// The id of what is called so; one that looks like an id is one.
fn find(project: &Value, kind: &str, name: &str) -> Result<String, Trouble> {
    if is_uuid(name) {
        return Ok(name.to_owned());
    }
    let all = named(project.get("project").unwrap_or(&Value::Null), kind);
    if let Some(found) = all.iter().find(|one| one.name == name && !one.id.is_empty()) {
        return Ok(found.id.clone());
    }
    let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
    let help = match nearest(name, &names) {
        Some(near) => format!("did you mean `{}`?", escape(near)),
        None => format!("there are: {}", escape(&names.join(", "))),
    };
    let what = kind.trim_end_matches('s');
    Err(Trouble::later(format!("the project has no {what} `{}`; {help}", escape(name))))
}
