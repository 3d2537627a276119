//! Portcullis reads structured logs, recognises named patterns, counts them in exact sliding
//! windows and says whom to block, lock, challenge or report.
#![forbid(unsafe_code)]

pub mod source;
pub mod decode;
pub mod pattern;
pub mod window;
pub mod detect;
pub mod decide;
pub mod action;
pub mod engine;
pub mod yaml;
pub mod sink;
pub mod config;
pub mod assembly;
pub mod pipeline;
pub mod telemetry;
pub mod cli;
pub mod command;
