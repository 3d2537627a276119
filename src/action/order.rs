//! What a person asks for: to block, lock, lift or allow by hand, with who asked and why.

use super::decision::Decision;
use super::{Action, Target};
use crate::decode::time::Micros;

/// The pack's rule of what was decided by hand.
pub const BY_HAND: &str = "manual";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Keep an address or a range out.
    Block {
        /// How long, microseconds.
        lasting: Micros,
    },
    /// Keep an account closed.
    Lock {
        /// How long, microseconds.
        lasting: Micros,
    },
    /// Demand a second factor of an account.
    Require2fa {
        /// How long, microseconds.
        lasting: Micros,
    },
    /// End everything that is active against a target.
    Lift {
        /// How long from now nothing is decided against it again, microseconds.
        grace: Micros,
    },
    /// Add an entry to the allowlist, which also lifts what it covers.
    Allow {
        /// When the entry ends; without it, never.
        until: Option<Micros>,
    },
    /// Take an entry that was added by hand away again.
    Disallow,
}

/// An order of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What is asked for.
    pub what: What,
    /// At whom: `ip`, `range`, `user` or `user_id`, canonical.
    pub target: Target,
    /// Who asks: the name of a token, or of a user of this machine.
    pub by: String,
    /// Why.
    pub because: String,
    /// When: microseconds since 1970 by the wall clock, or the stream's if that is ahead.
    pub at: Micros,
    /// Although a guard speaks against it.
    pub force: bool,
}

impl Order {
    /// The same, and as long, given not before `clock`.
    pub fn not_before(&self, clock: Option<Micros>) -> Self {
        let ahead = clock.map_or(0, |clock| clock.saturating_sub(self.at).max(0));
        let what = match self.what {
            What::Allow { until: Some(until) } => {
                What::Allow { until: Some(until.saturating_add(ahead)) }
            }
            what => what,
        };
        Self { what, at: self.at.saturating_add(ahead), ..self.clone() }
    }
}

/// What became of an order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Carried {
    /// The lines that followed.
    pub actions: Vec<Action>,
    /// What was active before and was lifted.
    pub lifted: Vec<Decision>,
    /// Why nothing was done, if a guard or something else spoke against it.
    pub refused: Option<String>,
}
