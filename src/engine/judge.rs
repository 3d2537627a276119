//! The settings that decide what becomes of a matched event, as they are kept beside the events.
//!
//! A journal holds what came in, not what was decided. Who applies it again decides as was decided
//! then only with the rules and guards of then, which a changed configuration no longer has.

use super::core::CoreConfig;
use crate::decide::guard::GuardSettings;
use crate::decide::{DecideConfig, Decider};
use crate::detect::detector::{DetectConfig, Detector};
use crate::detect::rule::Rule;
use serde::{Deserialize, Serialize};

/// All of them.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judge {
    /// The rules that are active, in their order.
    pub rules: Vec<Rule>,
    /// How they count.
    pub detect: DetectConfig,
    /// What is decided.
    pub decide: DecideConfig,
    /// What stands before it.
    pub guard: GuardSettings,
    /// In which order, and what is late.
    pub core: CoreConfig,
}

impl Judge {
    /// Those of parts that are put together.
    pub fn of(detector: &Detector, decider: &Decider, core: CoreConfig) -> Self {
        Self {
            rules: detector.rules().iter().map(|rule| Rule::clone(rule)).collect(),
            detect: *detector.config(),
            decide: decider.config().clone(),
            guard: decider.guard().settings(),
            core,
        }
    }

    /// As a text; equal settings have the same.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it; `None` if another version wrote it in another way.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
