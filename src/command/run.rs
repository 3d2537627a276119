//! `portcullis run`: stream until the source ends or a signal comes.

use super::{assemble, conclude, listen, settings, sinks};
use crate::cli::{Common, Run};
use crate::config::SourceSpec;
use crate::pipeline::{self, Live};
use crate::source::file;
use crate::source::follow::FollowSettings;
use anyhow::{Result, anyhow, bail};
use std::process::ExitCode;
use tracing::info;

/// Runs the command.
///
/// # Errors
/// When it cannot start.
pub fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    let settings = settings(common)?;
    let assembly = assemble(&settings, true)?;
    super::say_inactive(&assembly);
    let sinks = sinks(&settings)?;
    let stop = listen()?;
    let kafka = super::kafka::live(&settings, run)?;
    let from_end = match run.from.as_deref() {
        _ if kafka.is_some() => None,
        None => None,
        Some("beginning") => Some(false),
        Some("end") => Some(true),
        Some(place) => {
            bail!("error: --from: `{place}` is not known; of followed files: beginning or end")
        }
    };
    let follow = |patterns: Vec<String>, from_end: bool| {
        Live::Follow(FollowSettings {
            patterns,
            from_end,
            max_line: settings.max_line,
            block: settings.block,
            ..FollowSettings::default()
        })
    };
    let live = match &settings.source {
        _ if kafka.is_some() => kafka.map_or(Live::Stdin, Live::Kafka),
        _ if !run.follow.is_empty() => follow(run.follow.clone(), from_end.unwrap_or(false)),
        SourceSpec::Files { files, follow: true, from_end: end } => {
            follow(files.clone(), from_end.unwrap_or(*end))
        }
        SourceSpec::Files { files, follow: false, .. } => {
            let inputs = file::expand(files).map_err(|error| anyhow!("error: {error}"))?;
            let mut progress = super::replay::progress(common, &inputs);
            let ended = pipeline::replay(&assembly, &settings, inputs, sinks, &stop, &mut progress);
            progress.done();
            return conclude(common, &ended.map_err(|error| anyhow!("error: {error}"))?);
        }
        SourceSpec::Stdin | SourceSpec::Kafka(_) => Live::Stdin,
    };
    info!("no state directory: everything is held in memory and forgotten at the end");
    let ended = pipeline::run(&assembly, &settings, &live, sinks, &stop);
    let ended = ended.map_err(|error| anyhow!("error: {error}"))?;
    if let Some(why) = &ended.unstarted {
        bail!("error: {why}");
    }
    if ended.railway_input && !common.quiet {
        super::say(
            "standard input ended: since version 4.17 `railway logs` gives a pipe its last 500 lines and ends; to stream, \
             give it a terminal: script -qefc 'railway logs --json' /dev/null | portcullis run",
        );
    }
    conclude(common, &ended)
}
