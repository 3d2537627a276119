//! Arguments -> settings -> command -> exit code.

#![forbid(unsafe_code)]

use portcullis::cli::{self, Command};
use portcullis::{command, telemetry};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Blocks of bytes of every length come and go by the million: here they are kept by their length,
/// so that giving one back costs no search and leaves no gap that nothing else fits into.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::parse();
    telemetry::init(cli.common.quiet, cli.common.verbose);
    let result = match cli.command {
        Some(Command::Run(run)) => command::run::run(&cli.common, &run),
        Some(Command::Replay(replay)) => command::replay::replay(&cli.common, &replay),
        Some(Command::Check(check)) => command::check::check(&cli.common, &check),
        Some(Command::Explain(explain)) => command::explain::explain(&cli.common, &explain),
        Some(Command::Config(config)) => command::print_config(&config),
        Some(Command::Sink(sink)) => command::sink::sink(&cli.common, &sink),
        Some(Command::State(state)) => command::state::state(&cli.common, &state),
        Some(
            command @ (Command::Status(_)
            | Command::Decisions(_)
            | Command::Why(_)
            | Command::Block(_)
            | Command::Lock(_)
            | Command::Require2fa(_)
            | Command::Lift(_)
            | Command::Allow(_)
            | Command::Disallow(_)),
        ) => command::client::client(&cli.common, &command),
        None if std::io::stdin().is_terminal() => {
            cli::print_help();
            Ok(ExitCode::SUCCESS)
        }
        None => command::run::run(&cli.common, &cli::Run::default()),
    };
    match result {
        Ok(code) => command::printed(code),
        Err(error) => {
            command::say(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}
