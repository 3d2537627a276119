//! Levels, whatever a logger calls them.

use std::fmt;

/// How grave the writer of a record found it, normalised over the spellings of all loggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// trace, debug, verbose
    Debug,
    /// info, notice
    Info,
    /// warn, warning
    Warning,
    /// err, error
    Error,
    /// fatal, critical, alert, emergency, panic
    Critical,
}

/// Every spelling that [`Level::parse`] knows, in lower case.
const NAMES: [(&str, Level); 29] = [
    ("trace", Level::Debug),
    ("debug", Level::Debug),
    ("dbug", Level::Debug),
    ("verbose", Level::Debug),
    ("fine", Level::Debug),
    ("info", Level::Info),
    ("information", Level::Info),
    ("informational", Level::Info),
    ("notice", Level::Info),
    ("log", Level::Info),
    ("warn", Level::Warning),
    ("warning", Level::Warning),
    ("wrn", Level::Warning),
    ("err", Level::Error),
    ("erro", Level::Error),
    ("eror", Level::Error),
    ("error", Level::Error),
    ("severe", Level::Error),
    ("fail", Level::Error),
    ("fatal", Level::Critical),
    ("ftl", Level::Critical),
    ("crit", Level::Critical),
    ("critical", Level::Critical),
    ("alert", Level::Critical),
    ("emerg", Level::Critical),
    ("emergency", Level::Critical),
    ("panic", Level::Critical),
    ("dpanic", Level::Critical),
    ("disaster", Level::Critical),
];

impl Level {
    /// Reads a level's name in any case; Go's `WARN+2` counts as `WARN`.
    pub fn parse(text: &str) -> Option<Self> {
        // What nearly every line says is found without going through the list.
        match text {
            "INFO" | "info" => return Some(Level::Info),
            "DEBUG" | "debug" => return Some(Level::Debug),
            "WARNING" | "warning" | "WARN" | "warn" => return Some(Level::Warning),
            "ERROR" | "error" => return Some(Level::Error),
            "CRITICAL" | "critical" => return Some(Level::Critical),
            _ => {}
        }
        let text = text.trim();
        let name = text.split(['+', '-']).next().unwrap_or(text);
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, level)| *level)
    }

    /// As patterns write it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
        }
    }

    /// The spellings of this level, in lower case.
    pub fn spellings(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(_, level)| *level == self).map(|(name, _)| *name)
    }

    /// pino and bunyan: 10 trace, 20 debug, 30 info, 40 warn, 50 error, 60 fatal.
    pub fn from_pino(number: i64) -> Option<Self> {
        Some(match number {
            10..=29 => Level::Debug,
            30..=39 => Level::Info,
            40..=49 => Level::Warning,
            50..=59 => Level::Error,
            60..=69 => Level::Critical,
            _ => return None,
        })
    }

    /// Syslog severities: 0 emergency to 7 debug.
    pub fn from_syslog(number: i64) -> Option<Self> {
        Some(match number {
            0..=2 => Level::Critical,
            3 => Level::Error,
            4 => Level::Warning,
            5 | 6 => Level::Info,
            7 => Level::Debug,
            _ => return None,
        })
    }

    /// OpenTelemetry severity numbers: 1 trace to 24 fatal.
    pub fn from_otel(number: i64) -> Option<Self> {
        Some(match number {
            1..=8 => Level::Debug,
            9..=12 => Level::Info,
            13..=16 => Level::Warning,
            17..=20 => Level::Error,
            21..=24 => Level::Critical,
            _ => return None,
        })
    }

    /// Nextcloud: 0 debug to 4 fatal.
    pub fn from_nextcloud(number: i64) -> Option<Self> {
        Some(match number {
            0 => Level::Debug,
            1 => Level::Info,
            2 => Level::Warning,
            3 => Level::Error,
            4 => Level::Critical,
            _ => return None,
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
