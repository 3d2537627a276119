//! Who is to be told what: the decisions in force as bouncers see them, and what is new to each.
//!
//! A bouncer knows elements, not decisions: an address, a range or a name with the word for what is
//! done to it. Several decisions may hold one element, and it ends when the last of them does. The
//! latest change of each element has a number; a cursor is the number that its bouncer has seen.
//! So a list of news holds an element once, as new or as deleted, never as both.
//!
//! A bouncer that hands elements with a timer to the kernel may ignore a later end for an element
//! that is there already. Each end that was said and no longer holds is therefore remembered until
//! it has passed: shortly after it the element is announced again ([`Spans`]).

use super::spans::Spans;
use crate::action::Target;
use crate::action::decision::Decision;
use crate::decide::board::{Board, Change, Happened, LINGER};
use crate::decode::addr::{canonical, canonical_net};
use crate::decode::time::Micros;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Less than this is not worth announcing: bouncers take nothing left for no end at all.
pub const LEFT_MIN: Micros = 1_000_000;

/// Changes taken from the board at a time, while which the stream's thread waits.
const CHANGES_AT_ONCE: usize = 1_000;

/// Elements that are over and are remembered; of more, those that ended first are forgotten.
const OFF_MAX: usize = 200_000;

/// Ended holders that an element remembers, for bouncers that look at some rules only.
const GONE_MAX: usize = 8;

/// Bits that the prefix of a range must have at least: a bouncer may take the address of a shorter
/// one for all that there is.
const V4_PREFIX_MIN: u8 = 8;
const V6_PREFIX_MIN: u8 = 16;

/// The clock may go back by so much before everything is told anew.
const CLOCK_SLACK: Micros = 5_000_000;

/// At whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Value {
    /// An address.
    Ip(IpAddr),
    /// A range.
    Range(IpNet),
    /// An account by its name.
    Name(Arc<str>),
    /// An account by its id.
    Id(Arc<str>),
}

impl Value {
    /// The scope, as CrowdSec names it.
    pub fn scope(&self) -> &'static str {
        match self {
            Self::Ip(_) => "Ip",
            Self::Range(_) => "Range",
            Self::Name(_) => "username",
            Self::Id(_) => "user_id",
        }
    }

    /// As it is written.
    pub fn text(&self) -> String {
        match self {
            Self::Ip(ip) => ip.to_string(),
            Self::Range(net) => net.to_string(),
            Self::Name(text) | Self::Id(text) => text.to_string(),
        }
    }

    /// What a decision is aimed at, if a bouncer can be told of it.
    fn of(target: &Target) -> Option<Self> {
        let text = target.text();
        match target.kind.as_str() {
            "ip" => Some(Self::Ip(canonical(text.parse().ok()?))),
            "range" => Self::of_net(text.parse().ok()?),
            "user" if !text.is_empty() => Some(Self::Name(text.into())),
            "user_id" if !text.is_empty() => Some(Self::Id(text.into())),
            _ => None,
        }
    }

    fn of_net(net: IpNet) -> Option<Self> {
        let net = canonical_net(net);
        let prefix_min = if net.addr().is_ipv4() { V4_PREFIX_MIN } else { V6_PREFIX_MIN };
        if net.prefix_len() == net.max_prefix_len() {
            return Some(Self::Ip(net.addr()));
        }
        (net.prefix_len() >= prefix_min).then_some(Self::Range(net))
    }
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// At whom.
    pub value: Value,
    /// What is done: `ban`, `lockout`, `require_2fa`.
    pub kind: &'static str,
}

/// A decision that holds an element.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    decision: Arc<str>,
    id: i64,
    rule: Arc<str>,
    until: Micros,
}

/// How an element stands.
#[derive(Debug, Default)]
struct Standing {
    holders: Vec<Holder>,
    /// Holders that are over.
    gone: Vec<Holder>,
    /// Whether bouncers were told to enforce it.
    on: bool,
    /// The number of its last change; 0 if nobody was told of it yet.
    number: u64,
    /// The latest end that anybody was told.
    reach: Micros,
    /// Ends that were said and hold no longer.
    again: Spans,
    /// When to look at it next.
    wake: Option<Micros>,
}

impl Standing {
    /// Lets go of a holder.
    fn part(&mut self, holder: Holder, now: Micros) {
        if self.on {
            self.again.add(holder.until, now);
        }
        self.gone.retain(|known| known.rule != holder.rule);
        if self.gone.len() >= GONE_MAX {
            self.gone.remove(0);
        }
        self.gone.push(holder);
    }

    /// Gives it a holder, or the holder that it has another end; says whether that changed anything.
    fn hold(&mut self, holder: Holder, now: Micros) -> bool {
        let known = self.holders.iter_mut().find(|known| known.decision == holder.decision);
        let Some(known) = known else {
            self.holders.push(holder);
            return true;
        };
        if *known == holder {
            return false;
        }
        let before = std::mem::replace(known, holder);
        if self.on {
            self.again.add(before.until, now);
        }
        true
    }

    /// Takes a holder away; says whether it was there.
    fn release(&mut self, decision: &str, now: Micros) -> bool {
        let Some(place) = self.holders.iter().position(|holder| &*holder.decision == decision)
        else {
            return false;
        };
        let holder = self.holders.remove(place);
        self.part(holder, now);
        true
    }

    /// Lets go of what is over at `now`; says whether anything was.
    fn expire(&mut self, now: Micros) -> bool {
        let over = |holder: &mut Holder| holder.until <= now;
        let over: Vec<Holder> = self.holders.extract_if(.., over).collect();
        let any = !over.is_empty();
        over.into_iter().for_each(|holder| self.part(holder, now));
        any
    }
}

/// What a bouncer wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Scopes; none for all.
    pub scopes: Option<Vec<String>>,
    /// Words of which a rule's id holds one; none for all.
    pub containing: Vec<String>,
    /// Words of which a rule's id holds none.
    pub not_containing: Vec<String>,
    /// Whether Portcullis is among the origins that are asked for.
    pub origin: bool,
    /// What is done; none for all.
    pub kind: Option<String>,
}

impl Default for Filter {
    fn default() -> Self {
        let (containing, not_containing) = (Vec::new(), Vec::new());
        Self { scopes: None, containing, not_containing, origin: true, kind: None }
    }
}

impl Filter {
    fn takes(&self, key: &Key) -> bool {
        // Country and others that CrowdSec maps are nothing that is decided here.
        let same = |asked: &String| match key.value {
            Value::Ip(_) | Value::Range(_) => asked.eq_ignore_ascii_case(key.value.scope()),
            Value::Name(_) | Value::Id(_) => asked == key.value.scope(),
        };
        self.origin
            && self.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(same))
            && self.kind.as_ref().is_none_or(|kind| kind == key.kind)
    }

    fn takes_rule(&self, rule: &str) -> bool {
        if self.containing.is_empty() && self.not_containing.is_empty() {
            return true;
        }
        let rule = rule.to_lowercase();
        let holds = |word: &String| rule.contains(&word.to_lowercase());
        (self.containing.is_empty() || self.containing.iter().any(holds))
            && !self.not_containing.iter().any(holds)
    }
}

/// An element as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The element.
    pub key: Key,
    /// The same for the same decision.
    pub id: i64,
    /// The rule.
    pub rule: Arc<str>,
    /// Whole seconds that are left, at least one.
    pub left_s: i64,
}

/// News for a bouncer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// What is to be enforced.
    pub new: Vec<Told>,
    /// What is not to be enforced any more.
    pub deleted: Vec<Told>,
}

impl News {
    fn add(&mut self, key: &Key, standing: &Standing, filter: &Filter, now: Micros) {
        if !filter.takes(key) {
            return;
        }
        let told = |holder: &Holder| Told {
            key: key.clone(),
            id: holder.id,
            rule: Arc::clone(&holder.rule),
            left_s: ((holder.until - now) / 1_000_000).max(1),
        };
        let fitting = |holder: &&Holder| filter.takes_rule(&holder.rule);
        if standing.on {
            let longest = standing.holders.iter().filter(fitting).max_by_key(|h| h.until);
            if let Some(holder) = longest {
                // What is about to end is neither new nor deleted: its end is told in a moment.
                if holder.until - now >= LEFT_MIN {
                    self.new.push(told(holder));
                }
                return;
            }
        }
        if let Some(holder) = standing.gone.iter().rev().find(fitting) {
            self.deleted.push(Told { left_s: 1, ..told(holder) });
        }
    }
}

/// What a bouncer has seen; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    generation: u64,
    number: u64,
}

/// Decisions as elements, with what changed when.
#[derive(Debug, Default)]
pub struct Feed {
    /// How often everything was read anew; what was seen before is then worth nothing.
    generation: u64,
    /// The last change of the board that was taken in.
    board: Option<u64>,
    /// When it was looked at last.
    now: Micros,
    number: u64,
    /// The highest number that was forgotten.
    forgotten: u64,
    standings: HashMap<Key, Standing>,
    by_number: BTreeMap<u64, Key>,
    off: BTreeSet<u64>,
    timers: BTreeSet<(Micros, Key)>,
    of_decision: HashMap<Arc<str>, Vec<Key>>,
}

/// The number that stands for a decision's id, or for one of its addresses.
fn number_of(text: &str) -> i64 {
    let own = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
    let number = own.unwrap_or_else(|| {
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
    });
    // Half of it, so that it is positive; clients take 0 for none.
    i64::try_from(number >> 1).unwrap_or(i64::MAX).max(1)
}

/// The elements that a decision holds, each with its number.
fn elements(decision: &Decision) -> Vec<(Key, i64)> {
    let kind = match decision.action {
        "block" => "ban",
        "lock" => "lockout",
        "require_2fa" => "require_2fa",
        _ => return Vec::new(),
    };
    let Some(value) = decision.is_enforced().then(|| Value::of(&decision.target)).flatten() else {
        return Vec::new();
    };
    let address = matches!(value, Value::Ip(_) | Value::Range(_));
    if address != (kind == "ban") {
        return Vec::new();
    }
    let ranged = matches!(value, Value::Range(_));
    let mut all = vec![(Key { value, kind }, number_of(&decision.id))];
    if ranged {
        // Some bouncers take a range for its first address.
        all.extend(decision.hosts.iter().map(|host| {
            let number = number_of(&format!("{} {host}", decision.id));
            (Key { value: Value::Ip(canonical(*host)), kind }, number)
        }));
    }
    all
}

impl Feed {
    /// Takes in what has happened up to `now`, by the wall clock.
    pub fn advance(&mut self, board: &Board, now: Micros) {
        if now < self.now - CLOCK_SLACK {
            self.board = None;
        }
        self.now = now;
        while let Some(seen) = self.board {
            match board.some_changes_after(seen, CHANGES_AT_ONCE) {
                Some(changes) if changes.is_empty() => break,
                Some(changes) => {
                    self.board = changes.last().map(|change| change.number);
                    changes.iter().for_each(|change| self.take(change));
                }
                None => self.board = None,
            }
        }
        if self.board.is_none() {
            self.read_anew(board);
        }
        while let Some((_, key)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.settle(&key, false);
        }
        while self.off.len() > OFF_MAX {
            let Some(key) = self.off.first().and_then(|number| self.by_number.get(number)) else {
                break;
            };
            let key = key.clone();
            self.forget(&key);
        }
    }

    fn read_anew(&mut self, board: &Board) {
        let (active, last) = board.active_and_last();
        let before = std::mem::take(self);
        self.generation = before.generation + 1;
        self.now = before.now;
        self.board = Some(last);
        let mut were: HashMap<String, Vec<Key>> = HashMap::new();
        // What is in force by the stream's clock may be over by the wall's. What ends at once is told as over,
        // too: who was told of it before a restart would otherwise hear of no end.
        let (past, active): (Vec<_>, Vec<_>) =
            active.into_iter().partition(|decision| decision.until - self.now < LEFT_MIN);
        let past = past.into_iter().map(|decision| (decision.until, decision));
        for (announced, decision) in board.over_since(self.now - LINGER).into_iter().chain(past) {
            for (key, id) in elements(&decision) {
                were.entry(decision.id.clone()).or_default().push(key.clone());
                let standing = self.standings.entry(key.clone()).or_default();
                standing.again.add(announced, self.now);
                standing.reach = standing.reach.max(announced);
                let holder = holder(&decision, id);
                standing.part(holder, self.now);
                self.settle(&key, true);
            }
        }
        active.iter().for_each(|decision| self.hold(decision));
        for (id, end) in board.ends_before() {
            let are = self.of_decision.get(&*id).or_else(|| were.get(&id)).cloned();
            for key in are.unwrap_or_default() {
                self.said_before(&key, end);
            }
        }
        // What was said before is still in somebody's kernel.
        for (key, old) in before.standings {
            let ends = old.holders.iter().map(|holder| holder.until);
            for end in ends.filter(|_| old.on) {
                self.said_before(&key, end);
            }
            if let Some(standing) = self.standings.get_mut(&key) {
                standing.again.join(&old.again, self.now);
                self.settle(&key, false);
            }
        }
    }

    fn said_before(&mut self, key: &Key, end: Micros) {
        let Some(standing) = self.standings.get_mut(key) else { return };
        standing.again.add(end, self.now);
        self.settle(key, false);
    }

    fn take(&mut self, change: &Change) {
        match change.happened {
            Happened::Begun | Happened::Extended { .. } => self.hold(&change.decision),
            Happened::Ended { .. } => self.release(&change.decision.id),
        }
    }

    fn hold(&mut self, decision: &Decision) {
        let wanted = elements(decision);
        if wanted.is_empty() {
            return;
        }
        let keys: Vec<Key> = wanted.iter().map(|(key, _)| key.clone()).collect();
        // Addresses of a range that are not remembered any more.
        let before = self.of_decision.insert(decision.id.as_str().into(), keys.clone());
        for key in before.unwrap_or_default() {
            if !keys.contains(&key) {
                self.release_one(&key, &decision.id);
            }
        }
        for (key, id) in wanted {
            let standing = self.standings.entry(key.clone()).or_default();
            let changed = standing.hold(holder(decision, id), self.now);
            self.settle(&key, changed);
        }
    }

    fn release(&mut self, decision: &str) {
        for key in self.of_decision.remove(decision).unwrap_or_default() {
            self.release_one(&key, decision);
        }
    }

    fn release_one(&mut self, key: &Key, decision: &str) {
        let Some(standing) = self.standings.get_mut(key) else { return };
        let changed = standing.release(decision, self.now);
        self.settle(key, changed);
    }

    /// Brings an element up to date; `changed` says that something about it has changed.
    fn settle(&mut self, key: &Key, changed: bool) {
        let now = self.now;
        let Some(standing) = self.standings.get_mut(key) else { return };
        if let Some(wake) = standing.wake.take() {
            self.timers.remove(&(wake, key.clone()));
        }
        let expired = standing.expire(now);
        let end = standing.holders.iter().map(|holder| holder.until).max();
        let was_on = standing.on;
        standing.on = match end {
            // A bouncer is not bothered with what ends at once.
            Some(end) => was_on || end - now >= LEFT_MIN,
            None => false,
        };
        let again = standing.again.due(now);
        let tell = standing.on != was_on || (standing.on && (changed || expired || again));
        // What nobody was told of needs no end; what a restart found to be over does.
        let found_over = changed && standing.number == 0 && standing.reach > 0;
        if standing.on {
            standing.reach = standing.reach.max(end.unwrap_or_default());
        }
        if tell || found_over {
            self.off.remove(&standing.number);
            self.by_number.remove(&standing.number);
            self.number += 1;
            standing.number = self.number;
            self.by_number.insert(self.number, key.clone());
        }
        if standing.on {
            self.off.remove(&standing.number);
        } else if standing.number > 0 {
            self.off.insert(standing.number);
        }
        let forget = standing.reach.saturating_add(LINGER);
        if standing.holders.is_empty() && (standing.number == 0 || forget <= now) {
            self.forget(key);
            return;
        }
        let ends = standing.holders.iter().map(|holder| holder.until).min();
        let wake = [ends.or(Some(forget)), standing.again.next(now)].into_iter().flatten().min();
        standing.wake = wake;
        if let Some(wake) = wake {
            self.timers.insert((wake, key.clone()));
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(standing) = self.standings.remove(key) else { return };
        self.by_number.remove(&standing.number);
        self.off.remove(&standing.number);
        self.forgotten = self.forgotten.max(standing.number);
        if let Some(wake) = standing.wake {
            self.timers.remove(&(wake, key.clone()));
        }
    }

    /// What is new to whoever has seen `seen`, and what it has seen then. Who has seen nothing, or
    /// too little, is told everything. To be asked after [`Feed::advance`].
    pub fn news(&self, seen: Option<Cursor>, filter: &Filter) -> (News, Cursor) {
        let mut news = News::default();
        let known =
            seen.filter(|seen| seen.generation == self.generation && seen.number >= self.forgotten);
        let from = known.map_or(0, |seen| seen.number);
        for key in self.by_number.range(from + 1..).map(|(_, key)| key) {
            if let Some(standing) = self.standings.get(key) {
                news.add(key, standing, filter, self.now);
            }
        }
        (news, Cursor { generation: self.generation, number: self.number })
    }

    /// What is in force for the elements that `wanted` picks.
    pub fn active(&self, filter: &Filter, wanted: impl Fn(&Value) -> bool) -> Vec<Told> {
        let mut news = News::default();
        for key in self.by_number.values().filter(|key| wanted(&key.value)) {
            if let Some(standing) = self.standings.get(key) {
                news.add(key, standing, filter, self.now);
            }
        }
        news.new
    }

    /// What is in force for these values.
    pub fn active_at(&self, filter: &Filter, values: impl Iterator<Item = Value>) -> Vec<Told> {
        let mut news = News::default();
        for value in values {
            for kind in ["ban", "lockout", "require_2fa"] {
                let key = Key { value: value.clone(), kind };
                if let Some(standing) = self.standings.get(&key) {
                    news.add(&key, standing, filter, self.now);
                }
            }
        }
        news.new
    }
}

fn holder(decision: &Decision, id: i64) -> Holder {
    Holder {
        decision: decision.id.as_str().into(),
        id,
        rule: decision.rule.as_str().into(),
        until: decision.until,
    }
}
