//! A decision as whoever enforces it needs it: at whom, what, and until when.

use super::{Action, Op, Target, Word};
use crate::decode::time::{self, Micros};
use serde::Serialize;
use std::net::IpAddr;

/// A decision that has started and has not ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// The id of its start: sixteen hex digits.
    pub id: String,
    /// `block`, `lock`, `require_2fa`, `alert`, `under_attack`.
    pub action: Word,
    /// `enforce` or `shadow`.
    pub mode: Word,
    /// At whom.
    pub target: Target,
    /// The rule that started it.
    pub rule: String,
    /// The rule's pack.
    pub pack: String,
    /// When it started: microseconds since 1970, of the stream.
    #[serde(serialize_with = "instant")]
    pub started: Micros,
    /// When it ends.
    #[serde(serialize_with = "instant")]
    pub until: Micros,
    /// Of a range: addresses in it that were seen to offend, the newest last, at most
    /// [`HOSTS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<IpAddr>,
    /// One sentence for people.
    pub reason: String,
}

/// A time as it stands in a line.
pub fn instant_of(text: &str) -> Option<Micros> {
    time::parse(text, &time::Zone::default())?.first()
}

/// Addresses of a range that are remembered.
pub const HOSTS_MAX: usize = 16;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's shape")]
fn instant<S: serde::Serializer>(at: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time::format(*at))
}

impl Decision {
    /// The decision that a start begins; none if the action is no start.
    pub fn of_start(action: &Action) -> Option<Self> {
        if action.op == Op::Start { Self::of(action) } else { None }
    }

    /// The decision that a start begins or an extension goes on with, as far as its line tells.
    pub fn of(action: &Action) -> Option<Self> {
        Some(Self {
            id: action.decision.as_ref().unwrap_or(&action.id).clone(),
            action: action.action,
            mode: action.mode,
            target: action.target.clone(),
            rule: action.rule.clone(),
            pack: action.pack.clone(),
            started: instant_of(&action.time)?,
            until: instant_of(action.until.as_deref()?)?,
            hosts: action.hosts.clone(),
            reason: action.reason.clone(),
        })
    }

    /// Whether something that changes the world is to carry it out.
    pub fn is_enforced(&self) -> bool {
        self.mode == "enforce" && self.action != "alert"
    }

    /// Adds an address that was seen to offend.
    pub fn add_host(&mut self, host: IpAddr) {
        add_host(&mut self.hosts, host);
    }
}

/// Adds an address to those remembered of a range, the newest last.
pub fn add_host(hosts: &mut Vec<IpAddr>, host: IpAddr) {
    if let Some(known) = hosts.iter().position(|known| *known == host) {
        hosts.remove(known);
    } else if hosts.len() >= HOSTS_MAX {
        hosts.remove(0);
    }
    hosts.push(host);
}
