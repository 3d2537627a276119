//! What stands between a decision and the world: never-block ranges, the allowlist, brakes.

use crate::action::identity::Identities;
use crate::decode::addr::NeverBlock;
use crate::decode::time::Micros;
use crate::detect::condition::{ACTIONS, ActionKind};
use crate::detect::rule::Mode;
use crate::pattern::Standing;
use crate::window::codec::{Reader, number, put_bytes, put_number, put_option, put_time};
use crate::window::key::{Key, KeyKind};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

/// Who is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allowed {
    /// An address or a network.
    Net(IpNet),
    /// An account, canonical, whichever role its key has: the settings name none.
    User(String),
    /// An account by its role, canonical: whoever names one means that one.
    Account(KeyKind, String),
}

/// An entry of the allowlist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allow {
    /// Who.
    pub who: Allowed,
    /// Why, for people.
    pub comment: String,
    /// Until when; without it, always.
    pub until: Option<Micros>,
}

/// By what somebody is spared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// An entry of the settings.
    Configuration,
    /// An entry that was added by hand.
    Hand,
    /// What was active was lifted by hand a short while ago.
    Lift,
}

/// How many decisions may start in one minute of decision time; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brakes {
    /// Blocks.
    pub blocks: Option<u32>,
    /// Locks.
    pub locks: Option<u32>,
    /// Demands for a second factor.
    pub require_2fa: Option<u32>,
    /// Modes in which every visitor is checked.
    pub under_attack: Option<u32>,
}

impl Default for Brakes {
    fn default() -> Self {
        Self { blocks: Some(600), locks: Some(60), require_2fa: Some(60), under_attack: Some(1) }
    }
}

/// The settings by which it judges. This machine's own addresses are none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuardSettings {
    /// Ranges that are never blocked.
    pub never: Vec<IpNet>,
    /// The allowlist.
    pub allow: Vec<Allow>,
    /// The brakes.
    pub brakes: Brakes,
    /// A digest of the accounts' two spellings.
    pub identities: String,
}

/// Why a decision does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// A guard forbids it.
    For(&'static str),
    /// Too many in this minute.
    Braked {
        /// The first of its kind in this minute.
        first: bool,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct Minute {
    started: u32,
    said: bool,
}

/// Kinds of action that the first formats of snapshots know.
const FIRST_KINDS: usize = 4;
/// Minutes remembered per brake; older ones cannot come back within any lateness in use.
const MINUTES_MAX: usize = 4096;

/// The guards, with the brakes' counters.
#[derive(Debug)]
pub struct Guard {
    never: NeverBlock,
    allow: Vec<Allow>,
    brakes: Brakes,
    /// Accounts have two spellings, and an entry of the allowlist has one.
    identities: Arc<Identities>,
    minutes: HashMap<ActionKind, BTreeMap<i64, Minute>>,
    /// Entries of the allowlist that were added by hand.
    by_hand: Vec<Allow>,
    /// Who was lifted by hand a short while ago.
    grace: Vec<Allow>,
}

/// Entries that can be added by hand, and targets that can be spared after they were lifted.
pub const BY_HAND_MAX: usize = 10_000;

impl Guard {
    /// Guards from the settings.
    pub fn new(never: NeverBlock, allow: Vec<Allow>, brakes: Brakes) -> Self {
        Self {
            never,
            allow,
            brakes,
            identities: Arc::default(),
            minutes: HashMap::new(),
            by_hand: Vec::new(),
            grace: Vec::new(),
        }
    }

    /// The settings by which it judges.
    pub fn settings(&self) -> GuardSettings {
        GuardSettings {
            never: self.never.configured().collect(),
            allow: self.allow.clone(),
            brakes: self.brakes,
            identities: self.identities.digest(),
        }
    }

    /// Guards that judge by other settings, on this machine and with the accounts that are known here.
    pub fn by(&self, settings: GuardSettings) -> Self {
        let GuardSettings { never, allow, brakes, identities: _ } = settings;
        let never = self.never.with_configured(&never);
        Self::new(never, allow, brakes).with_identities(Arc::clone(&self.identities))
    }

    /// The same for accounts that are known by two spellings: an entry for one covers the other.
    pub fn with_identities(self, identities: Arc<Identities>) -> Self {
        Self { identities, ..self }
    }

    /// Whether a start at `at` must be held back. Counts it against the brakes if not.
    pub fn check(
        &mut self,
        key: Key<'_>,
        standing: impl FnOnce() -> Standing,
        kind: ActionKind,
        at: Micros,
        mode: Mode,
    ) -> Option<Held> {
        if kind == ActionKind::Alert {
            return None;
        }
        // Only an address has a standing, and only a block asks for it.
        let standing = if kind == ActionKind::Block { standing() } else { Standing::Good };
        if let Some(guard) = self.forbids(key, standing, kind, at) {
            return Some(Held::For(guard));
        }
        if mode == Mode::Enforce { self.brake(kind, at) } else { None }
    }

    /// The guard that forbids `kind` on `key` at `at`; alerts lock nobody out and always pass.
    pub fn forbids(
        &self,
        key: Key<'_>,
        standing: Standing,
        kind: ActionKind,
        at: Micros,
    ) -> Option<&'static str> {
        if kind == ActionKind::Block
            && let Some(net) = key.net()
        {
            if self.never.overlaps(&net).is_some() {
                return Some("never_block");
            }
            match standing {
                Standing::Unproven => return Some("trusted_proxies"),
                Standing::NoHost => return Some("no_single_host"),
                Standing::Good => {}
            }
        }
        if self.allows(key, at) {
            return Some("allow");
        }
        self.grace.iter().any(|entry| entry.holds(key, at, &self.identities)).then_some("grace")
    }

    /// Whether `who` names `key`.
    pub fn names(&self, who: &Allowed, key: Key<'_>) -> bool {
        who.covers(key, &self.identities)
    }

    /// Whether an entry of the allowlist covers `key` at `at`.
    pub fn allows(&self, key: Key<'_>, at: Micros) -> bool {
        self.allow.iter().chain(&self.by_hand).any(|entry| entry.holds(key, at, &self.identities))
    }

    /// Adds an entry to the allowlist at `at`; one for the same takes its place. `false` if there are
    /// too many.
    pub fn add(&mut self, entry: Allow, at: Micros) -> bool {
        self.by_hand.retain(|known| known.until.is_none_or(|until| until > at));
        self.by_hand.retain(|known| !known.who.is(&entry.who));
        let room = self.by_hand.len() < BY_HAND_MAX;
        if room {
            self.by_hand.push(entry);
        }
        room
    }

    /// Whether a block of `key` is never right, whoever asks for it.
    pub fn never_blocks(&self, key: Key<'_>) -> bool {
        key.net().is_some_and(|net| self.never.overlaps(&net).is_some())
    }

    /// Takes an entry away that was added by hand; whether there was one.
    pub fn remove(&mut self, who: &Allowed) -> bool {
        let before = self.by_hand.len();
        self.by_hand.retain(|entry| !entry.who.is(who));
        self.by_hand.len() < before
    }

    /// Whether the settings' own list has an entry for exactly this.
    pub fn is_configured(&self, who: &Allowed) -> bool {
        self.allow.iter().any(|entry| entry.who.is(who))
    }

    /// Decides nothing against `who` before `until`: it was lifted by hand.
    pub fn spare(&mut self, who: Allowed, at: Micros, until: Micros) {
        self.grace.retain(|entry| entry.until.is_some_and(|until| until > at) && entry.who != who);
        if self.grace.len() >= BY_HAND_MAX {
            // Those lifted long ago need it least.
            self.grace.remove(0);
        }
        self.grace.push(Allow { who, comment: String::new(), until: Some(until) });
    }

    /// All entries of the allowlist, and who is spared for a while; of what came by hand, what has not ended
    /// at `at`.
    pub fn spared(&self, at: Micros) -> impl Iterator<Item = (By, &Allow)> {
        let lasts = move |(_, entry): &(By, &Allow)| entry.until.is_none_or(|until| at < until);
        let by_hand = marked(By::Hand, &self.by_hand).chain(marked(By::Lift, &self.grace));
        marked(By::Configuration, &self.allow).chain(by_hand.filter(lasts))
    }

    /// Writes what was added by hand.
    pub fn capture_more(&self, out: &mut Vec<u8>) {
        for list in [&self.by_hand, &self.grace] {
            put_number(out, number(list.len()));
            for Allow { who, comment, until } in list {
                // A role stands where a network would: none is written like one.
                let (net, user) = match who {
                    Allowed::Net(net) => (net.to_string(), ""),
                    Allowed::User(user) => (String::new(), user.as_str()),
                    Allowed::Account(KeyKind::UserId, id) => ("user_id".to_owned(), id.as_str()),
                    Allowed::Account(_, user) => ("user".to_owned(), user.as_str()),
                };
                put_bytes(out, net.as_bytes());
                put_bytes(out, user.as_bytes());
                put_bytes(out, comment.as_bytes());
                put_option(out, *until, put_time);
            }
        }
    }

    /// Reads it as it was written.
    pub fn restore_more(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for list in [&mut self.by_hand, &mut self.grace] {
            for _ in 0..from.number()? {
                let (net, user) = (from.text()?, from.text()?);
                let who = match net {
                    "" => Allowed::User(user.to_owned()),
                    "user" => Allowed::Account(KeyKind::User, user.to_owned()),
                    "user_id" => Allowed::Account(KeyKind::UserId, user.to_owned()),
                    net => Allowed::Net(net.parse().ok()?),
                };
                let comment = from.text()?.to_owned();
                list.push(Allow { who, comment, until: from.option(Reader::time)? });
            }
        }
        Some(())
    }

    fn brake(&mut self, kind: ActionKind, at: Micros) -> Option<Held> {
        let limit = self.limit(kind)?;
        let minutes = self.minutes.entry(kind).or_default();
        if minutes.len() > MINUTES_MAX {
            minutes.pop_first();
        }
        let minute = minutes.entry(at.div_euclid(60_000_000)).or_default();
        if minute.started < limit {
            minute.started += 1;
            return None;
        }
        let first = !minute.said;
        minute.said = true;
        Some(Held::Braked { first })
    }

    /// Writes what the brakes have counted.
    pub fn capture(&self, out: &mut Vec<u8>) {
        self.capture_minutes(&ACTIONS[..FIRST_KINDS], out);
    }

    /// Writes what they have counted of the kinds that came later.
    pub fn capture_later(&self, out: &mut Vec<u8>) {
        self.capture_minutes(&ACTIONS[FIRST_KINDS..], out);
    }

    fn capture_minutes(&self, kinds: &[(&str, ActionKind)], out: &mut Vec<u8>) {
        for (_, kind) in kinds {
            let of = || self.minutes.get(kind).into_iter().flatten();
            put_number(out, number(of().count()));
            for (minute, Minute { started, said }) in of() {
                put_time(out, *minute);
                put_number(out, u64::from(*started));
                out.push(u8::from(*said));
            }
        }
    }

    /// Reads it as it was written.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.restore_minutes(&ACTIONS[..FIRST_KINDS], from)
    }

    /// Reads the kinds that came later as they were written.
    pub fn restore_later(&mut self, from: &mut Reader<'_>) -> Option<()> {
        self.restore_minutes(&ACTIONS[FIRST_KINDS..], from)
    }

    fn restore_minutes(
        &mut self,
        kinds: &[(&str, ActionKind)],
        from: &mut Reader<'_>,
    ) -> Option<()> {
        for (_, kind) in kinds {
            for _ in 0..from.number()? {
                let (at, started, said) = (from.time()?, from.narrow()?, from.byte()? != 0);
                self.minutes.entry(*kind).or_default().insert(at, Minute { started, said });
            }
        }
        Some(())
    }

    fn limit(&self, kind: ActionKind) -> Option<u32> {
        match kind {
            ActionKind::Block => self.brakes.blocks,
            ActionKind::Lock => self.brakes.locks,
            ActionKind::Require2fa => self.brakes.require_2fa,
            ActionKind::UnderAttack => self.brakes.under_attack,
            ActionKind::Alert => None,
        }
    }

    /// What to say when a brake has gripped.
    pub fn brake_reason(&self, kind: ActionKind) -> String {
        let limit = self.limit(kind).unwrap_or_default();
        let key = match kind {
            ActionKind::Block => "max_blocks_per_minute",
            ActionKind::Lock => "max_locks_per_minute",
            ActionKind::Require2fa | ActionKind::Alert => "max_2fa_per_minute",
            ActionKind::UnderAttack => "max_under_attack_per_minute",
        };
        format!(
            "more than {limit} {} decisions in one minute: further ones are withheld until the next minute ({key})",
            kind.name()
        )
    }
}

fn marked(by: By, list: &[Allow]) -> impl Iterator<Item = (By, &Allow)> {
    list.iter().map(move |entry| (by, entry))
}

impl Allow {
    /// Whether this entry speaks of `key` at `at`.
    fn holds(&self, key: Key<'_>, at: Micros, identities: &Identities) -> bool {
        self.until.is_none_or(|until| at < until) && self.who.covers(key, identities)
    }
}

impl Allowed {
    /// Whether two entries are one; whoever names no role means either.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Allowed::User(one), Allowed::Account(_, two))
            | (Allowed::Account(_, one), Allowed::User(two)) => one == two,
            _ => self == other,
        }
    }

    /// Whether it names `key`; of a prefix, if they overlap, and of an account in either of its
    /// spellings. Equal texts of two roles are two accounts to whoever names the role.
    fn covers(&self, key: Key<'_>, identities: &Identities) -> bool {
        match (self, key.kind) {
            (Allowed::Net(allowed), KeyKind::Host | KeyKind::Range) => {
                key.net().is_some_and(|net| allowed.contains(&net) || net.contains(allowed))
            }
            (Allowed::User(user), KeyKind::User | KeyKind::UserId) => {
                key.text().is_some_and(|text| identities.same(user, text))
            }
            (Allowed::Account(kind, name), KeyKind::User | KeyKind::UserId) => {
                key.text().is_some_and(|text| {
                    // The other spelling is of the other role.
                    let other = match kind {
                        KeyKind::UserId => identities.email(name),
                        _ => identities.id(name),
                    };
                    if key.kind == *kind { text == name } else { other == Some(text) }
                })
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_joins_roles_and_equal_texts_do_not() {
        let mut identities = Identities::default();
        identities.add("7", "ann@example.org");
        let key = |kind, text: &'static str| Key { kind, value: text.as_bytes() };
        let covers = |kind, name: &str, key| {
            Allowed::Account(kind, name.to_owned()).covers(key, &identities)
        };
        let (user, id) = (KeyKind::User, KeyKind::UserId);
        assert!(covers(id, "7", key(user, "ann@example.org")));
        assert!(covers(user, "ann@example.org", key(id, "7")));
        assert!(covers(id, "7", key(id, "7")));
        assert!(!covers(id, "7", key(user, "7")));
        assert!(!covers(user, "7", key(user, "ann@example.org")));
        assert!(!covers(user, "7", key(id, "7")));
        assert!(!covers(user, "bob", key(id, "bob")));
        let settings = Allowed::User("bob".to_owned());
        assert!(settings.covers(key(id, "bob"), &identities));
        assert!(settings.covers(key(user, "bob"), &identities));
    }
}
