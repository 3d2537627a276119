//! What numbers mean: patterns, rules, fields and the parts of states, by their names.
//!
//! Inside, everything is a number. What is kept beyond the end of the program, and what outlives a
//! change of rules, is read with the list of names that it was written with: what has the same name
//! is the same, what has gone is dropped, and what is new begins with nothing.

use crate::decode::time::Micros;
use crate::pattern::PatternId;
use crate::window::store::{Moves, PartMove};
use serde::{Deserialize, Serialize};

/// The names of all numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dictionary {
    /// Patterns.
    pub patterns: Vec<String>,
    /// Fields whose values events carry.
    pub counted: Vec<String>,
    /// Fields that keys are made of.
    pub fields: Vec<String>,
    /// Rules: each with what it counts and how.
    pub rules: Vec<String>,
    /// Parts of states.
    pub parts: Vec<PartName>,
    /// Lists of values that are known to the whole stream.
    pub known: Vec<String>,
    /// All settings that decide what becomes of a matched event, guards included, as
    /// [`Judge`](crate::engine::judge::Judge) writes them; empty if they were not noted.
    #[serde(default)]
    pub settings: String,
}

impl Dictionary {
    /// Whether what was written with this may have been decided by other settings than those of `now`.
    pub fn is_of_others(&self, now: &Self) -> bool {
        !self.settings.is_empty() && self.settings != now.settings
    }
}

/// A part of states.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartName {
    /// What it holds of which events.
    pub of: String,
    /// Names of its extra values.
    pub extras: Vec<String>,
    /// The rules that share it: id and way of counting.
    pub slots: Vec<String>,
    /// How long it matters, microseconds. What a state says of it is a number too: it means another length
    /// where the lengths of other parts have changed.
    #[serde(default)]
    pub retention: Micros,
}

/// From the numbers of one dictionary to those of another.
#[derive(Debug, Clone, Default)]
pub struct Translation {
    patterns: Vec<Option<usize>>,
    counted: Vec<Option<usize>>,
    /// Lists of known values, old to new.
    pub known: Vec<Option<usize>>,
    /// What the store needs.
    pub moves: Moves,
}

fn places(old: &[String], new: &[String]) -> Vec<Option<usize>> {
    old.iter().map(|name| new.iter().position(|other| other == name)).collect()
}

fn narrow(place: usize) -> Option<u16> {
    u16::try_from(place).ok()
}

impl Translation {
    /// How what was written with `old` is read with `new`; `None` if both are the same.
    pub fn between(old: &Dictionary, new: &Dictionary) -> Option<Self> {
        if *old == (Dictionary { settings: old.settings.clone(), ..new.clone() }) {
            return None;
        }
        let part = |part: &PartName| {
            let tag = new.parts.iter().position(|other| other.of == part.of)?;
            let other = new.parts.get(tag)?;
            let slots = places(&part.slots, &other.slots);
            // A rule that is new here has counted nothing of what lies in the list.
            let fresh = (0..other.slots.len()).filter(|slot| !slots.contains(&Some(*slot)));
            Some(PartMove {
                tag: narrow(tag)?,
                extras: places(&other.extras, &part.extras),
                fresh: fresh.fold(0, |bits, slot| bits | crate::window::ring::bit(slot)),
                slots,
            })
        };
        Some(Self {
            patterns: places(&old.patterns, &new.patterns),
            counted: places(&old.counted, &new.counted),
            known: places(&old.known, &new.known),
            moves: Moves {
                parts: old.parts.iter().map(part).collect(),
                rules: places(&old.rules, &new.rules),
                fields: places(&old.fields, &new.fields),
            },
        })
    }

    /// A pattern's number now.
    pub fn pattern(&self, old: PatternId) -> Option<PatternId> {
        narrow(self.patterns.get(usize::from(old)).copied().flatten()?)
    }

    /// A counted field's number now.
    pub fn counted(&self, old: u16) -> Option<u16> {
        narrow(self.counted.get(usize::from(old)).copied().flatten()?)
    }

    /// A rule's number now.
    pub fn rule(&self, old: u16) -> Option<u16> {
        narrow(self.moves.rules.get(usize::from(old)).copied().flatten()?)
    }
}
