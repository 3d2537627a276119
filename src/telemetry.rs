//! What Portcullis says about itself while it runs: on standard error, through tracing.

use crate::decode::time::Micros;
use std::io::IsTerminal;
use std::time::SystemTime;
use tracing::Level;

/// Sets tracing up once for the process.
pub fn init(quiet: bool, verbose: u8) {
    let level = match (quiet, verbose) {
        (true, _) => Level::ERROR,
        (false, 0) => Level::INFO,
        (false, 1) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(colour)
        .without_time()
        .with_target(false)
        // It would say so on standard error, and panic: that nobody can read it is nobody's end.
        .log_internal_errors(false)
        .finish();
    // A second call, as in tests, changes nothing.
    let _already = tracing::subscriber::set_global_default(subscriber);
}

/// Processor seconds of this process so far; 0 where the system does not tell.
pub fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of /proc/self/stat, in ticks of which Linux has 100 a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        behind.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// The wall clock, microseconds since 1970: for people and enforcers, never for the stream.
#[expect(
    clippy::disallowed_methods,
    reason = "what people order and what is left of a decision go by it"
)]
pub fn wall_clock() -> Micros {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}
