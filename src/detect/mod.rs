//! Rules over events: which crossing fires which rule for which key. Pure; time is an argument.

pub mod baseline;
pub mod condition;
pub mod detector;
pub mod dictionary;
pub mod rule;
pub mod short;
