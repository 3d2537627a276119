//! `portcullis sink`: the sinks of the configuration, tried out one by one.

use super::{assemble, print, remote, say, settings};
use crate::cli::{Common, Sink, SinkCommand};
use crate::config::Settings;
use crate::sink::SinkConfig;
use crate::yaml::nearest;
use anyhow::{Result, anyhow};
use std::process::ExitCode;
use std::time::SystemTime;

/// Runs the command.
///
/// # Errors
/// When the configuration has mistakes, or there is no such sink.
#[expect(
    clippy::disallowed_methods,
    reason = "a message to others carries the time of its sending"
)]
pub fn sink(common: &Common, sink: &Sink) -> Result<ExitCode> {
    let settings = settings(common)?;
    let (name, clean) = match &sink.command {
        SinkCommand::List => {
            for config in &settings.sinks {
                print(&config.name());
            }
            return Ok(ExitCode::SUCCESS);
        }
        SinkCommand::Test(test) => (&test.name, false),
        SinkCommand::Clean(clean) => (&clean.name, true),
    };
    let config = find(&settings, name)?;
    if !config.is_remote() {
        return Err(anyhow!(
            "error: the sink `{name}` is only written to: there is nothing to {}",
            if clean { "take away" } else { "try out" }
        ));
    }
    let assembly = assemble(&settings, false)?;
    let opened = remote(&settings, &assembly, config);
    let mut remote = opened.map_err(|problem| anyhow!("{problem}"))?;
    let came = if clean { remote.clean() } else { remote.test(SystemTime::now()) };
    match came {
        Ok(found) => {
            print(&format!("{}: {found}", config.name()));
            Ok(ExitCode::SUCCESS)
        }
        Err(why) => {
            say(&format!("error: sink {}: {why}", config.name()));
            Ok(ExitCode::from(1))
        }
    }
}

/// A sink by its name, or by its kind if there is only one of it.
fn find<'s>(settings: &'s Settings, name: &str) -> Result<&'s SinkConfig> {
    let named = settings.sinks.iter().find(|sink| sink.name() == name);
    let mut kind = settings.sinks.iter().filter(|sink| {
        let own = sink.name();
        own.split(' ').next() == Some(name) || own.split_once(' ').is_some_and(|(_, n)| n == name)
    });
    match (named, kind.next(), kind.next()) {
        (Some(sink), ..) | (None, Some(sink), None) => Ok(sink),
        (None, Some(_), Some(_)) => Err(anyhow!(
            "error: several sinks are called `{name}`: say the whole name, as `portcullis sink list` shows it"
        )),
        _ => {
            let names: Vec<String> = settings.sinks.iter().map(SinkConfig::name).collect();
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            let help = match nearest(name, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the configuration has: {}", known.join(", ")),
            };
            Err(anyhow!("error: there is no sink `{name}`\n  help: {help}"))
        }
    }
}
