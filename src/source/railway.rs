//! The logs of a Railway environment, of its applications and of its edge, as they come.
//!
//! One websocket carries a subscription for the environment, which outlives every redeploy, and one for
//! the HTTP logs of each deployment that serves. Each log is one line, as `railway logs --json` prints
//! it, but with what Railway knows of values: a text of digits stays a text.
//!
//! Where reading begins: behind the known position, `overlap` earlier since logs arrive out of order;
//! without one, now. Of what comes twice because of it, the second copy is the same bytes, and whoever
//! takes the lines leaves it out.
//!
//! An application's line that names its request waits up to `join_wait` for the edge's log of it, and
//! then says in [`Batch::edges`] whose request it was. Lines leave in the order in which they came; but
//! what came while nobody read, for longer than a moment, is held until all of it is there, and leaves in
//! the order of time.
//!
//! What happens when
//!
//! * **Railway cannot be reached**: at the start that is an error after
//!   [`RailwaySettings::start_max`]; later it is tried again for ever, said once, and said when it is over;
//! * **a connection is silent**: no sign of life for [`RailwaySettings::silent_max`], although it is
//!   asked for, is as good as a broken one;
//! * **more came while nobody read than one answer holds**: what lies between is asked for, oldest first,
//!   and only then what is newer is handed over;
//! * **what lies between is gone**, because Railway keeps logs for some days only: [`RailwayEvent::Lost`]
//!   says from when to when;
//! * **the token is not taken any more**: a counted failure, said once, and tried again slowly;
//! * **whoever takes the lines is slow**: nothing more is read until it goes on. If the server gives up
//!   meanwhile, reading goes on where it was.

mod feed;
mod join;
mod line;
mod reader;
mod scope;
mod socket;

use super::lines::Batch;
use super::position::RailwayPosition;
use crate::decode::time::Micros;
use crate::railway::{ENDPOINT, Token, check_endpoint};
use crate::yaml::{Checker, Node};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What to read, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RailwaySettings {
    /// Where Railway's API is: an `https` address, or an `http` one on this machine.
    pub endpoint: String,
    /// The project, by name or id; none: the token's, else `RAILWAY_PROJECT_ID`.
    pub project: Option<String>,
    /// The environment, by name or id; none: the token's, else `RAILWAY_ENVIRONMENT_ID`, else the only one.
    pub environment: Option<String>,
    /// Services, by name or id; empty: all but our own, which `RAILWAY_SERVICE_ID` names.
    pub services: Vec<String>,
    /// Read the logs of the edge too.
    pub http: bool,
    /// How long a line waits for the edge's log of its request, microseconds; 0: not at all.
    pub join_wait: Micros,
    /// How far before a known place reading goes on, microseconds, at least a second.
    pub overlap: Micros,
    /// Longest line, bytes.
    pub max_line: usize,
    /// Bytes after which a batch is handed over.
    pub block: usize,
    /// Logs that are asked for at once.
    pub page: usize,
    /// How long to try to reach Railway at the start.
    pub start_max: Duration,
    /// Longest pause before the first try to connect again; it doubles with each.
    pub first_pause: Duration,
    /// Longest pause before any try.
    pub longest_pause: Duration,
    /// Pause after Railway has refused us.
    pub refused_pause: Duration,
    /// How often a sign of life is asked for.
    pub ping_every: Duration,
    /// Silence after which a connection counts as broken.
    pub silent_max: Duration,
    /// Time without a connection after which what was missed is held until all of it is there.
    pub behind_after: Duration,
    /// How often new deployments are looked for.
    pub look_every: Duration,
    /// Silence after which a deployment that serves no more is left.
    pub quiet_max: Duration,
}

impl Default for RailwaySettings {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            project: None,
            environment: None,
            services: Vec::new(),
            http: true,
            join_wait: 3_000_000,
            overlap: 60_000_000,
            max_line: 1 << 20,
            block: 256 << 10,
            page: 5000,
            start_max: Duration::from_secs(30),
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(30),
            refused_pause: Duration::from_secs(300),
            ping_every: Duration::from_secs(20),
            silent_max: Duration::from_secs(60),
            behind_after: Duration::from_secs(30),
            look_every: Duration::from_secs(30),
            quiet_max: Duration::from_secs(60),
        }
    }
}

/// The keys of `source.railway`.
const KEYS: [&str; 7] =
    ["project", "environment", "services", "http", "join_wait", "overlap", "endpoint"];
/// Shortest overlap, microseconds: with none, what was read last would be read from behind itself.
const OVERLAP_MIN: Micros = 1_000_000;
/// Longest wait for the edge, microseconds: what waits longer would come too late for its place in time.
const JOIN_WAIT_MAX: Micros = 30_000_000;

impl RailwaySettings {
    /// Reads `source.railway` over `base`; what is wrong is noted with the checker.
    pub fn parse(checker: &mut Checker<'_>, node: &Node, base: Self) -> Self {
        let mut settings = base;
        for (key, value) in checker.map(node, "`source.railway`", &KEYS) {
            let what = format!("`source.railway.{}`", key.name);
            let name = |checker: &mut Checker<'_>| {
                let text = checker.text(value, &what)?.trim().to_owned();
                if text.is_empty() {
                    checker.node(value, format!("{what} needs a name or an id"), None);
                }
                Some(text).filter(|text| !text.is_empty())
            };
            match key.name.as_str() {
                "project" => settings.project = name(checker),
                "environment" => settings.environment = name(checker),
                "services" => settings.services = checker.texts(value, &what),
                "http" => settings.http = checker.bool(value, &what).unwrap_or(settings.http),
                "overlap" => {
                    let overlap = checker.duration(value, &what, OVERLAP_MIN);
                    settings.overlap = overlap.unwrap_or(settings.overlap);
                }
                "join_wait" => match checker.duration(value, &what, 0) {
                    Some(wait) if wait > JOIN_WAIT_MAX => {
                        checker.node(value, format!("{what} must be at most 30s"), None);
                    }
                    Some(wait) => settings.join_wait = wait,
                    None => {}
                },
                "endpoint" => {
                    let Some(text) = name(checker) else { continue };
                    if let Err(why) = check_endpoint(&text) {
                        let help = format!("Railway's own is {ENDPOINT}");
                        checker.node(value, format!("{what}: {why}"), Some(help));
                    }
                    settings.endpoint = text;
                }
                _ => {}
            }
        }
        settings
    }
}

/// What the source tells, in the order in which it happened.
#[derive(Debug, Clone)]
pub enum RailwayEvent {
    /// Lines, with the place behind them in `mark`. `source` is 0.
    Batch(Batch),
    /// For the log.
    Note(String),
    /// Lines are gone for good, or may be; from when to when.
    Lost(String),
    /// A failure to be counted; said once until it is over.
    Failed(String),
}

/// Why reading cannot begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RailwayError {
    /// The address cannot be used.
    #[error("railway: `endpoint`: {0}")]
    Endpoint(String),
    /// Railway does not answer.
    #[error(
        "railway: {endpoint} does not answer within {seconds} s ({why}); expected Railway's API, which must be \
         reachable from here over HTTPS and websockets"
    )]
    Unreachable {
        /// Its address.
        endpoint: String,
        /// How long it was tried.
        seconds: u64,
        /// What happened last.
        why: String,
    },
    /// The token is not taken.
    #[error(
        "railway: Railway does not take the token in {variable} ({why}); {}",
        token_help(.variable)
    )]
    Unauthorized {
        /// The variable it comes from.
        variable: &'static str,
        /// What Railway says.
        why: String,
    },
    /// It was not said what is to be read.
    #[error(
        "railway: which {what}? Write `{what}` under `source.railway`, by name or id, or set {variable}, which \
         Railway does in its containers"
    )]
    Missing {
        /// `project` or `environment`.
        what: &'static str,
        /// The variable that says it.
        variable: &'static str,
    },
    /// Something of this name is not there.
    #[error("railway: there is no {what} `{name}`, or this token may not see it{known}")]
    Unknown {
        /// `project`, `environment` or `service`.
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What is there, or nothing.
        known: String,
    },
    /// There is nothing to read.
    #[error(
        "railway: the environment `{environment}` has no service but our own: name one under `services`, or start \
         this where there is one"
    )]
    NoService {
        /// The environment.
        environment: String,
    },
    /// Railway understood and refused.
    #[error("railway: Railway answers: {0}")]
    Refused(String),
    /// This machine refuses.
    #[error("railway: {0}")]
    Machine(String),
}

fn token_help(variable: &str) -> &'static str {
    match variable {
        "RAILWAY_TOKEN" => {
            "expected a token of the project, from the project's settings; one of an account or a workspace goes \
             into RAILWAY_API_TOKEN"
        }
        _ => {
            "expected a token of an account or a workspace, from Railway's account settings; one of a project goes \
             into RAILWAY_TOKEN"
        }
    }
}

/// Reads until `stopping`, or until `on_event` gives false.
///
/// `on_event` is called on this thread; while it holds it up, nothing is read. After `stopping`, what
/// waits for the edge's word is handed over without it, what is held and not complete is left for the
/// next time, and this returns within two seconds if `on_event` does not hold it up.
///
/// # Errors
/// When reading cannot begin; see [`RailwayError`]. Once it has begun it goes on, whatever happens.
pub fn stream(
    settings: &RailwaySettings,
    token: Token,
    known: Option<&RailwayPosition>,
    stopping: &AtomicBool,
    on_event: &mut dyn FnMut(RailwayEvent) -> bool,
) -> Result<(), RailwayError> {
    check_endpoint(&settings.endpoint).map_err(RailwayError::Endpoint)?;
    reader::stream(settings, token, known, stopping, on_event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Document;

    fn parsed(text: &str) -> (RailwaySettings, Vec<String>) {
        let document = Document { name: "t.yaml".into(), text: text.into() };
        let mut checker = Checker::new(&document);
        let node = checker.parse().unwrap();
        let settings = RailwaySettings::parse(&mut checker, &node, RailwaySettings::default());
        (settings, checker.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read() {
        let text = "project: shop\nenvironment: production\nservices: [api, web]\nhttp: false\n\
                    join_wait: 5s\noverlap: 2m\nendpoint: http://127.0.0.1:9/graphql\n";
        let (settings, problems) = parsed(text);
        assert!(problems.is_empty(), "{problems:?}");
        let expected = RailwaySettings {
            project: Some("shop".into()),
            environment: Some("production".into()),
            services: vec!["api".into(), "web".into()],
            http: false,
            join_wait: 5_000_000,
            overlap: 120_000_000,
            endpoint: "http://127.0.0.1:9/graphql".into(),
            ..RailwaySettings::default()
        };
        assert_eq!(settings, expected);
        assert_eq!(parsed("{}").0, RailwaySettings::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("servces: [a]", "services"),
            ("http: maybe", "true or false"),
            ("join_wait: 31s", "at most 30s"),
            ("overlap: 0s", "at least 1s"),
            ("project: ''", "needs a name"),
            ("endpoint: http://example.org/", "write https"),
            ("endpoint: ws://127.0.0.1/", "is no https address"),
            ("endpoint: example.org", "is no https address"),
        ] {
            let problems = parsed(text).1;
            assert!(problems.len() == 1 && problems[0].contains(part), "{text}: {problems:?}");
        }
    }
}
