//! What stands between a decision and the world: never-block ranges, the allowlist, brakes.

use crate::action::identity::Identities;
use crate::decode::addr::NeverBlock;
use crate::decode::time::Micros;
use crate::detect::condition::{ACTIONS, ActionKind};
use crate::detect::rule::Mode;
use crate::pattern::Standing;
use crate::window::codec::{Reader, number, put_number, put_time};
use crate::window::key::{Key, KeyKind};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::Arc;

/// Who is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// An address or a network.
    Net(IpNet),
    /// An account, canonical.
    User(String),
}

/// An entry of the allowlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// Who.
    pub who: Allowed,
    /// Why, for people.
    pub comment: String,
    /// Until when; without it, always.
    pub until: Option<Micros>,
}

/// How many decisions may start in one minute of decision time; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brakes {
    /// Blocks.
    pub blocks: Option<u32>,
    /// Locks.
    pub locks: Option<u32>,
    /// Demands for a second factor.
    pub require_2fa: Option<u32>,
}

impl Default for Brakes {
    fn default() -> Self {
        Self { blocks: Some(600), locks: Some(60), require_2fa: Some(60) }
    }
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
}

impl Guard {
    /// Guards from the settings.
    pub fn new(never: NeverBlock, allow: Vec<Allow>, brakes: Brakes) -> Self {
        Self { never, allow, brakes, identities: Arc::default(), minutes: HashMap::new() }
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
        self.allow
            .iter()
            .any(|entry| {
                entry.covers(key, &self.identities) && entry.until.is_none_or(|until| at < until)
            })
            .then_some("allow")
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
        let of = |kind: &ActionKind| self.minutes.get(kind).into_iter().flatten();
        for (_, kind) in ACTIONS {
            put_number(out, number(of(&kind).count()));
            for (minute, Minute { started, said }) in of(&kind) {
                put_time(out, *minute);
                put_number(out, u64::from(*started));
                out.push(u8::from(*said));
            }
        }
    }

    /// Reads it as it was written.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for (_, kind) in ACTIONS {
            for _ in 0..from.number()? {
                let (at, started, said) = (from.time()?, from.narrow()?, from.byte()? != 0);
                self.minutes.entry(kind).or_default().insert(at, Minute { started, said });
            }
        }
        Some(())
    }

    fn limit(&self, kind: ActionKind) -> Option<u32> {
        match kind {
            ActionKind::Block => self.brakes.blocks,
            ActionKind::Lock => self.brakes.locks,
            ActionKind::Require2fa => self.brakes.require_2fa,
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
        };
        format!(
            "more than {limit} {} decisions in one minute: further ones are withheld until the next minute ({key})",
            kind.name()
        )
    }
}

impl Allow {
    /// Whether this entry speaks of `key`; of an IPv6 prefix, if it overlaps, and of an account in
    /// either of its spellings.
    fn covers(&self, key: Key<'_>, identities: &Identities) -> bool {
        match (&self.who, key.kind) {
            (Allowed::Net(allowed), KeyKind::Host | KeyKind::Range) => {
                key.net().is_some_and(|net| allowed.contains(&net) || net.contains(allowed))
            }
            (Allowed::User(user), KeyKind::User | KeyKind::UserId) => {
                key.text().is_some_and(|text| identities.same(user, text))
            }
            _ => false,
        }
    }
}
