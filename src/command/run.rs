//! `portcullis run`: stream until the source ends or a signal comes.

use super::{assemble, conclude, listen, listen_for_reload, settings, ways};
use crate::assembly::Assembly;
use crate::cli::{Common, Run};
use crate::config::{Settings, SourceSpec};
use crate::decode::time::{Micros, spoken_duration};
use crate::engine::summary::grouped;
use crate::pipeline::{self, Live, Reload, RunError};
use crate::railway::Token;
use crate::sink::{Output, SinkConfig};
use crate::source::file;
use crate::source::follow::FollowSettings;
use crate::source::railway::RailwaySettings;
use crate::yaml::Problem;
use anyhow::{Result, anyhow, bail};
use std::process::ExitCode;
use std::time::Duration;
use tracing::{info, warn};

/// Runs the command.
///
/// # Errors
/// When it cannot start.
pub fn run(common: &Common, run: &Run) -> Result<ExitCode> {
    let settings = settings_of(common, run)?;
    let assembly = assemble(&settings, true)?;
    super::say_inactive(&assembly);
    let mut ways = ways(&settings, &assembly, true)?;
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
    let follow = |patterns: &[String], from_end| {
        if common.summary_file.is_some() {
            let inputs = file::expand(patterns).unwrap_or_default();
            super::summary_apart(common, super::files_of(&inputs))?;
        }
        followed(patterns, from_end, &settings)
    };
    let live = match &settings.source {
        _ if kafka.is_some() => kafka.map_or(Live::Stdin, Live::Kafka),
        _ if !run.follow.is_empty() => follow(&run.follow, from_end.unwrap_or(false))?,
        SourceSpec::Files { files, follow: true, from_end: end } => {
            follow(files, from_end.unwrap_or(*end))?
        }
        SourceSpec::Files { files, follow: false, .. } => {
            if settings.state_dir.is_some() {
                warn!(
                    "`state_dir` is not used: these files are read once, from their beginning; add `follow: true` to \
                     go on where the last run ended"
                );
            }
            let inputs = file::expand(files).map_err(|error| anyhow!("error: {error}"))?;
            super::summary_apart(common, super::files_of(&inputs))?;
            let mut progress = super::replay::progress(common, &inputs);
            let ended = pipeline::replay(&assembly, &settings, inputs, ways, &stop, &mut progress);
            progress.done();
            return Ok(conclude(common, &ended.map_err(|error| anyhow!("error: {error}"))?));
        }
        SourceSpec::Railway(railway) => {
            if let Some(place) = &run.from {
                bail!(
                    "error: --from: `{place}` means nothing to Railway; reading begins now, or where it ended"
                );
            }
            let railway = RailwaySettings {
                max_line: settings.max_line,
                block: settings.block,
                ..(**railway).clone()
            };
            let least = railway.overlap.saturating_add(settings.lateness);
            if settings.dedupe.is_none_or(|within| within < least) {
                bail!(
                    "error: `dedupe` must be at least {} with the source railway: reading goes on `overlap` before where it \
                     ended, and what comes again must be known",
                    spoken_duration(least)
                );
            }
            let token = Token::from_env().map_err(|why| anyhow!("error: {why}"))?;
            Live::Railway { settings: Box::new(railway), token }
        }
        SourceSpec::Stdin | SourceSpec::Kafka(_) => Live::Stdin,
    };
    match (&settings.state_dir, &live) {
        (None, _) => {
            info!("no state directory: everything is held in memory and forgotten at the end");
        }
        (Some(dir), Live::Stdin) => info!(
            "state in {}; standard input has no place to go back to: what was not read when this ends is not read \
             again",
            dir.display()
        ),
        (Some(dir), _) => info!("state in {}", dir.display()),
    }
    let text = |sink: &SinkConfig| matches!(sink, SinkConfig::File { output: Output::Text, .. });
    if settings.state_dir.is_some() && settings.sinks.iter().any(text) {
        warn!(
            "a file sink writes text, which carries no ids: after a crash its last lines may be there twice; \
             `output: json` has every line once"
        );
    }
    let load = || load(common, run, &settings);
    let reload = Reload { asked: listen_for_reload()?, load: &load };
    ways.serve.clone_from(&settings.serve);
    let ended = pipeline::run(&assembly, &settings, &live, ways, &stop, &reload);
    let ended = ended.map_err(|error| unstarted(&settings, &error))?;
    if let Some(why) = &ended.unstarted {
        bail!("error: {why}");
    }
    if let Some(quiet) = ended.railway_input
        && !common.quiet
    {
        super::say(&railway_ended(ended.summary.lines.total, quiet));
    }
    Ok(conclude(common, &ended))
}

/// Files that are followed, if each of them can be.
fn followed(patterns: &[String], from_end: bool, settings: &Settings) -> Result<Live> {
    for pattern in patterns {
        file::may_follow(pattern).map_err(|error| anyhow!("error: {error}"))?;
    }
    Ok(Live::Follow(FollowSettings {
        patterns: patterns.to_vec(),
        from_end,
        max_line: settings.max_line,
        block: settings.block,
        ..FollowSettings::default()
    }))
}

/// The settings, with what flags say of the source.
fn settings_of(common: &Common, run: &Run) -> Result<Settings> {
    let mut settings = settings(common)?;
    match run.source.as_deref() {
        Some("railway") if !matches!(settings.source, SourceSpec::Railway(_)) => {
            settings.source = SourceSpec::Railway(Box::default());
        }
        Some("stdin") => settings.source = SourceSpec::Stdin,
        _ => {}
    }
    if !run.follow.is_empty() || run.kafka.is_some() {
        settings.has_places();
    }
    Ok(settings)
}

/// What it means that standard input ended, if `railway logs` wrote it.
fn railway_ended(lines: u64, quiet: Duration) -> String {
    let quiet = spoken_duration(Micros::try_from(quiet.as_micros()).unwrap_or(Micros::MAX));
    let lines = grouped(lines);
    format!(
        "standard input ended: `railway logs` is no longer there. Lines read: {lines}, the last {quiet} before the end. \
         Nothing is watched any more.\n\
         Since version 4.17 it gives a pipe its last 500 lines and ends; on a terminal it goes on until its deployment or \
         its connection ends. To go on for ever, give it a terminal and start it again each time:\n\
         \x20 while :; do timeout --foreground 10m script -qefc 'railway logs --json' /dev/null </dev/null; echo; sleep 2; done | portcullis run"
    )
}

/// Why it could not start, with the place of the key that is wrong, if it is one.
fn unstarted(settings: &Settings, error: &RunError) -> anyhow::Error {
    match (error, &settings.state_dir_at) {
        (RunError::State(error), Some(at)) if error.is_about_the_place() => {
            anyhow!("{}", Problem { message: error.to_string(), ..at.clone() })
        }
        _ => anyhow!("error: {error}"),
    }
}

/// Patterns, rules and settings as they are now, for a stream that goes on.
fn load(common: &Common, run: &Run, before: &Settings) -> Result<Assembly, String> {
    let settings = settings_of(common, run).map_err(|error| format!("{error:#}"))?;
    if let (Some(file), None) = (&before.file, &settings.file) {
        // An editor may be replacing it: the defaults are not what anybody asked for.
        return Err(format!("error: the configuration {file} is gone"));
    }
    let assembly = assemble(&settings, true).map_err(|error| format!("{error:#}"))?;
    let fixed = [
        ("source", settings.source == before.source),
        ("sinks", settings.sinks == before.sinks),
        ("state_dir", settings.state_dir == before.state_dir),
        ("checkpoint", settings.checkpoint == before.checkpoint),
        ("threads", settings.threads == before.threads),
        ("max_line", settings.max_line == before.max_line),
        ("block", settings.block == before.block),
        ("serve", settings.serve == before.serve),
        ("receivers", settings.receivers == before.receivers),
    ];
    for (key, _) in fixed.iter().filter(|(_, same)| !same) {
        warn!("`{key}` has changed: it holds from the next start on");
    }
    super::say_inactive(&assembly);
    Ok(assembly)
}
