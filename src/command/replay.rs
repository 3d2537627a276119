//! `portcullis replay`: finite inputs, merged by event time, with a progress bar and a summary.

use super::{assemble, conclude, listen, settings, ways};
use crate::cli::{Common, Replay};
use crate::engine::summary::grouped;
use crate::pipeline::{self, Progress, Reload};
use crate::sink::SinkConfig;
use crate::source::file::{self, Input};
use anyhow::{Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Instant;
use tracing::info;

/// Runs the command.
///
/// # Errors
/// When it cannot start.
pub fn replay(common: &Common, replay: &Replay) -> Result<ExitCode> {
    let mut settings = settings(common)?;
    if replay.kafka.is_some() {
        settings.has_places();
    }
    let assembly = assemble(&settings, false)?;
    super::say_inactive(&assembly);
    for sink in &settings.sinks {
        if matches!(sink, SinkConfig::File { .. } | SinkConfig::Kafka { .. }) {
            info!("sink {}: a replay adds its lines to what is there", sink.name());
        }
    }
    if let Some(hosts) = &replay.kafka {
        let kafka = super::kafka::replay(&settings, hosts, replay)?;
        let (ways, stop) = (ways(&settings, &assembly, replay.apply)?, listen()?);
        let live = pipeline::Live::Kafka(kafka);
        let ended = pipeline::run(&assembly, &settings, &live, ways, &stop, &Reload::never());
        let ended = ended.map_err(|error| anyhow!("error: {error}"))?;
        if let Some(why) = &ended.unstarted {
            bail!("error: {why}");
        }
        return Ok(conclude(common, &ended));
    }
    let inputs = file::expand(&replay.files).map_err(|error| anyhow!("error: {error}"))?;
    super::summary_apart(common, super::files_of(&inputs))?;
    let ways = ways(&settings, &assembly, replay.apply)?;
    let stop = listen()?;
    let mut progress = progress(common, &inputs);
    let ended = pipeline::replay(&assembly, &settings, inputs, ways, &stop, &mut progress);
    progress.done();
    Ok(conclude(common, &ended.map_err(|error| anyhow!("error: {error}"))?))
}

/// A bar on a terminal, nothing elsewhere.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    shown: Option<Instant>,
    started: Instant,
}

/// The progress bar for `inputs`; its length is their size on disk.
pub fn progress(common: &Common, inputs: &[Input]) -> Bar {
    let size = |input: &Input| match input {
        Input::File(path) => std::fs::metadata(path).map_or(0, |meta| meta.len()),
        Input::Stdin => 0,
    };
    let total: u64 = inputs.iter().map(size).sum();
    let shown = !common.quiet && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = if total > 0 { ProgressBar::new(total) } else { ProgressBar::no_length() };
    bar.set_draw_target(target);
    let template = if total > 0 {
        "{bar:30} {bytes} of {total_bytes}, {msg}, {eta} left"
    } else {
        "{spinner} {bytes}, {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    Bar { bar, shown: None, started: Instant::now() }
}

impl Bar {
    /// Takes the bar away; the summary follows.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Bar {
    fn show(&mut self, bytes: u64, lines: u64, actions: u64) {
        if self.bar.is_hidden() || self.shown.is_some_and(|at| at.elapsed().as_millis() < 100) {
            return;
        }
        self.shown = Some(Instant::now());
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.bar.set_position(bytes);
        self.bar.set_message(format!(
            "{} lines/s, {} {}",
            grouped(lines.saturating_mul(1000) / millis),
            grouped(actions),
            if actions == 1 { "action" } else { "actions" }
        ));
    }

    fn visible(&self) -> bool {
        !self.bar.is_hidden()
    }

    fn aside(&mut self, work: &mut dyn FnMut()) {
        self.bar.suspend(work);
    }
}
