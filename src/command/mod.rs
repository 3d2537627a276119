//! The subcommands, one file each, and what they share: settings from file, environment and flags.

pub mod check;
pub mod client;
pub mod explain;
pub mod kafka;
pub mod replay;
pub mod run;
pub mod sink;
pub mod state;

use crate::assembly::Assembly;
use crate::cli::{Common, Config, SummaryForm};
use crate::config::{CONFIG_VARIABLE, EXAMPLE, Settings};
use crate::pipeline::{Driven, Ended, Stop, Ways};
use crate::sink::file::{FileSink, SameFile};
use crate::sink::remote::Remote;
use crate::sink::{Sink, SinkConfig, stdout::StdoutSink};
use crate::source::file::{self, Input};
use crate::state::FILE as STATE_FILE;
use crate::yaml::{Document, Problem};
use anyhow::{Context, Result, anyhow, bail};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tracing::{info, warn};

/// Writes to standard error, whatever the log level; a closed one is nobody's problem.
pub fn say(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}

/// Something could not be written to standard output.
static UNWRITTEN: AtomicBool = AtomicBool::new(false);

/// Writes to standard output; a closed one ends what follows. What could not be written otherwise is
/// said, and makes the exit code 1.
pub fn print(text: &str) -> bool {
    let written = writeln!(std::io::stdout(), "{text}");
    if let Err(error) = &written
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !UNWRITTEN.swap(true, Ordering::Relaxed)
    {
        say(&format!("error: cannot write to standard output: {error}"));
    }
    written.is_ok()
}

/// The exit code of a command that has printed what it had to say.
pub fn printed(code: ExitCode) -> ExitCode {
    if UNWRITTEN.load(Ordering::Relaxed) && code == ExitCode::SUCCESS {
        return ExitCode::from(1);
    }
    code
}

/// `portcullis config`.
///
/// # Errors
/// Without --example, which is all that it can do.
pub fn print_config(config: &Config) -> Result<ExitCode> {
    if !config.example {
        bail!(
            "error: say `portcullis config --example` to print every key with its default, unit and range"
        );
    }
    print(EXAMPLE.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// All mistakes as one error.
fn refuse(problems: &[Problem]) -> anyhow::Error {
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let count = match problems.len() {
        1 => "1 mistake".to_owned(),
        n => format!("{n} mistakes"),
    };
    anyhow!(
        "{}\n\nportcullis: nothing was started or changed: {count} in the configuration or the patterns",
        shown.join("\n\n")
    )
}

/// The configuration file that applies, and its text.
fn config_document(common: &Common) -> Result<Option<Document>> {
    const DEFAULT: &str = "portcullis.yaml";
    let named = common
        .config
        .clone()
        .or_else(|| std::env::var(CONFIG_VARIABLE).ok().filter(|name| !name.is_empty()));
    let (name, from) = match named {
        Some(name) if common.config.is_some() => (name, "--config"),
        Some(name) => (name, CONFIG_VARIABLE),
        // A link that leads nowhere is somebody's configuration all the same.
        None if Path::new(DEFAULT).symlink_metadata().is_ok() => {
            (DEFAULT.to_owned(), "this folder")
        }
        None => {
            info!("no configuration file: defaults apply");
            return Ok(None);
        }
    };
    file::probe(Path::new(&name))
        .with_context(|| format!("error: cannot read the configuration (from {from})"))?;
    let text = std::fs::read_to_string(&name)
        .with_context(|| format!("error: cannot read the configuration {name} (from {from})"))?;
    info!("configuration: {name} (from {from})");
    Ok(Some(Document { name, text }))
}

/// Settings in their order: defaults, file, environment, flags.
///
/// # Errors
/// All mistakes in the file and the environment.
pub fn settings(common: &Common) -> Result<Settings> {
    let (settings, problems) = settings_and_problems(common)?;
    if problems.is_empty() { Ok(settings) } else { Err(refuse_all(&settings, problems)) }
}

/// Refuses `problems` together with what is wrong with the patterns and rules.
fn refuse_all(settings: &Settings, mut problems: Vec<Problem>) -> anyhow::Error {
    if let Err(more) = Assembly::new(settings, &[]) {
        problems.extend(more);
    }
    refuse(&problems)
}

fn settings_and_problems(common: &Common) -> Result<(Settings, Vec<Problem>)> {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    if let Some(document) = config_document(common)? {
        settings.file = Some(document.name.clone());
        problems.extend(settings.apply(&document));
    }
    // A variable that is no text cannot be one of ours, and is nobody's problem.
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into()))
    });
    problems.extend(settings.apply_environment(variables));
    if !common.patterns.is_empty() || !common.pack.is_empty() {
        settings.patterns = common.pack.iter().chain(&common.patterns).cloned().collect();
    }
    if let Some(threads) = common.threads {
        settings.threads = usize::from(threads);
    }
    if let Some(output) = common.output() {
        let stdout = SinkConfig::Stdout { output: Some(output) };
        settings.sinks.retain(|sink| !matches!(sink, SinkConfig::Stdout { .. }));
        settings.sinks.insert(0, stdout);
    }
    if let Some(path) = &common.summary_file {
        let written = settings.sinks.iter().filter_map(|sink| match sink {
            SinkConfig::File { path, .. } => Some(path.clone()),
            _ => None,
        });
        let state = settings.state_dir.iter().flat_map(|dir| {
            let file = |end| dir.join(format!("{STATE_FILE}{end}")).display().to_string();
            ["", "-wal", "-shm"].map(file)
        });
        let read = settings.patterns.iter().chain(&settings.file).cloned();
        summary_apart(common, read.chain(written).chain(state))?;
        // A typing error is told now, not after hours.
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| {
            anyhow!("error: cannot write the summary to {path}: {}", why(path, &error))
        })?;
    }
    Ok((settings, problems))
}

/// Refuses a summary file that is one of `others`, which are read or written.
///
/// # Errors
/// Which.
pub fn summary_apart(common: &Common, others: impl Iterator<Item = String>) -> Result<()> {
    let Some(path) = &common.summary_file else { return Ok(()) };
    let own = SameFile::of(path);
    for other in others {
        if SameFile::of(&other) == own {
            bail!(
                "error: --summary-file {path} would overwrite {other}, which is needed\n  help: name another file"
            );
        }
    }
    Ok(())
}

/// The files that inputs are.
pub fn files_of(inputs: &[Input]) -> impl Iterator<Item = String> {
    inputs.iter().filter_map(|input| match input {
        Input::File(path) => Some(path.display().to_string()),
        Input::Stdin => None,
    })
}

/// Packs, rules and everything else, ready to run.
///
/// # Errors
/// All mistakes that were found.
pub fn assemble(settings: &Settings, live: bool) -> Result<Assembly> {
    let own: Vec<_> = if live {
        if_addrs::get_if_addrs()
            .map(|list| list.iter().map(if_addrs::Interface::ip).collect())
            .unwrap_or_default()
    } else {
        Vec::new()
    };
    let assembly = Assembly::new(settings, &own).map_err(|problems| refuse(&problems))?;
    refuse_nothing(&assembly)?;
    info!(
        "{} patterns and {} rules from {}",
        assembly.scanner.set.patterns().len(),
        assembly.rules.len(),
        settings.patterns.join(" and ")
    );
    Ok(assembly)
}

/// Refuses to begin without any pattern.
pub fn refuse_nothing(assembly: &Assembly) -> Result<()> {
    if assembly.scanner.set.patterns().is_empty() {
        bail!(
            "error: no pattern is loaded, so nothing would be recognised: leave `patterns` out for the built-in packs, or \
             name packs and files"
        );
    }
    Ok(())
}

/// Says at the start of a stream what in it will not work.
pub fn say_inactive(assembly: &Assembly) {
    for pattern in assembly.scanner.set.patterns().iter().filter(|p| p.tests.is_empty()) {
        warn!(
            "the pattern {} has no test: `portcullis check` says how to give it one",
            pattern.name
        );
    }
    for (name, rule) in assembly.unheard() {
        info!("`notify` of the rule {rule} names {name}, and `receivers` has no sink for it");
    }
    for rule in assembly.need_country() {
        info!("rule {rule} is inactive unless records carry a country: `geoip` names no database");
    }
}

/// Why a file cannot be written, and what would help.
fn why(path: &str, error: &std::io::Error) -> String {
    match Path::new(path).parent().filter(|folder| *folder != Path::new("")) {
        Some(folder) if !folder.is_dir() => {
            format!("there is no folder `{}`; make it first", folder.display())
        }
        _ => {
            let said = error.to_string();
            // Its number says nothing to people.
            said.split(" (os error").next().unwrap_or(&said).to_owned()
        }
    }
}

/// Opens the configured sinks.
///
/// # Errors
/// When one cannot be opened.
fn sinks(settings: &Settings) -> Result<Vec<Sink>> {
    let cannot = |config: &SinkConfig, what: &str| anyhow!("{}", settings.of_sink(config, what));
    let open = |config: &SinkConfig| match config {
        SinkConfig::Stdout { output } => Ok(Sink::Stdout(StdoutSink::new(*output))),
        SinkConfig::File { path, output } => {
            let sink = FileSink::open(path, *output);
            sink.map(Sink::File).map_err(|error| cannot(config, &why(path, &error)))
        }
        #[cfg(feature = "kafka")]
        SinkConfig::Kafka { connection, topic, output } => {
            let sink = crate::sink::kafka::KafkaSink::open(connection, topic, *output);
            sink.map(Sink::Kafka).map_err(|error| cannot(config, &error.to_string()))
        }
        #[cfg(not(feature = "kafka"))]
        SinkConfig::Kafka { .. } => Err(cannot(config, crate::kafka::NOT_BUILT)),
        other => Err(cannot(other, "it works on a thread of its own")),
    };
    settings.sinks.iter().filter(|sink| !sink.is_remote()).map(open).collect()
}

/// The ways that actions go: all configured sinks. Without `acting`, those on threads of their own
/// are left out, and that is said.
///
/// # Errors
/// When one cannot be opened.
pub fn ways(settings: &Settings, assembly: &Assembly, acting: bool) -> Result<Ways> {
    let sinks = sinks(settings)?;
    let mut remotes = Vec::new();
    for config in settings.sinks.iter().filter(|sink| sink.is_remote()) {
        if !acting {
            info!("sink {}: told nothing; --apply lets it work", config.name());
            continue;
        }
        let remote = remote(settings, assembly, config).map_err(|problem| anyhow!("{problem}"))?;
        let dry = remote.acts() && !settings.armed;
        remotes.push(Driven { remote, dry });
    }
    Ok(Ways { sinks, remotes, ..Ways::default() })
}

/// Opens a sink that works on a thread of its own.
///
/// # Errors
/// When it cannot be opened.
pub fn remote(
    settings: &Settings,
    assembly: &Assembly,
    config: &SinkConfig,
) -> Result<Box<dyn Remote>, Problem> {
    let context = crate::sink::Context {
        runbook_url: settings.runbook_url.clone(),
        identities: Arc::clone(&assembly.identities),
        receives: settings.receives(config),
        armed: settings.armed,
    };
    config.remote(&context).map_err(|error| settings.of_sink(config, &error.to_string()))
}

/// Listens for SIGINT and SIGTERM; a second one ends at once.
///
/// # Errors
/// When the system refuses.
pub fn listen() -> Result<Stop> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop: Stop = Arc::new(AtomicUsize::new(0));
    for signal in [SIGINT, SIGTERM] {
        let second = Arc::clone(&stop);
        let number = usize::try_from(signal).unwrap_or(1);
        let armed = Arc::new(AtomicBool::new(false));
        // Order matters: the first signal finds `armed` unset, arms it, and only a second one ends.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))
            .and_then(|_| signal_hook::flag::register(signal, armed))
            .and_then(|_| signal_hook::flag::register_usize(signal, second, number))
            .context("error: cannot listen for signals")?;
    }
    Ok(stop)
}

/// Listens for SIGHUP, which asks for rules to be read again.
///
/// # Errors
/// When the system refuses.
pub fn listen_for_reload() -> Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&asked))
        .context("error: cannot listen for signals")?;
    Ok(asked)
}

/// Writes the summary and gives the exit code of a stream.
pub fn conclude(common: &Common, ended: &Ended) -> ExitCode {
    let summary = &ended.summary;
    let quiet = common.quiet || ended.closed;
    let form = common.summary.unwrap_or(match (&common.summary_file, quiet) {
        (Some(_), _) => SummaryForm::Json,
        (None, true) => SummaryForm::None,
        (None, false) => SummaryForm::Text,
    });
    let text = match form {
        SummaryForm::Json => Some(summary.json()),
        SummaryForm::Text => Some(summary.text().trim_end().to_owned()),
        SummaryForm::None => None,
    };
    let mut told = true;
    if let Some(text) = text {
        match &common.summary_file {
            // The work is done all the same.
            Some(path) => {
                if let Err(error) = std::fs::write(path, format!("{text}\n")) {
                    let why = why(path, &error);
                    say(&format!("error: cannot write the summary to {path}: {why}"));
                    told = false;
                }
            }
            None => say(&text),
        }
    }
    let code = match ended.signal {
        Some(signal) => u8::try_from(128 + signal).unwrap_or(1),
        // Whoever read the actions has seen enough.
        None if ended.closed => u8::from(!told),
        None => u8::from(!summary.clean() || !told),
    };
    ExitCode::from(code)
}

/// The signal's number, for messages.
pub fn stopped(stop: &Stop) -> bool {
    stop.load(Ordering::Relaxed) != 0
}
