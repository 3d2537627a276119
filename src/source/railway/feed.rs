//! What one subscription brings: where it goes on, and whether something lies between.

use super::line::{self, AppLog, HttpLog, Nanos, write_time};
use super::scope::Scope;
use crate::railway::ApiError;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const APP_FIELDS: &str = "timestamp message severity tags { projectId environmentId pluginId serviceId \
    deploymentId deploymentInstanceId snapshotId } attributes { key value }";
const ARGUMENTS: [(&str, &str); 6] = [
    ("filter", "String"),
    ("beforeLimit", "Int"),
    ("beforeDate", "String"),
    ("anchorDate", "String"),
    ("afterDate", "String"),
    ("afterLimit", "Int"),
];
/// Times may be cut to microseconds on the way: a page begins this much before the last one ended.
const STEP: Nanos = 1000;
/// Bytes of newer logs that may wait for older ones.
pub(super) const BEHIND_MAX: usize = 64 << 20;
/// How often a page is asked for.
const TRIES_MAX: u32 = 6;
/// Fewest logs that are asked for at once, where more do not fit into an answer.
pub(super) const PAGE_MIN: usize = 100;

/// Which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Of the applications of the environment.
    Environment,
    /// Of the edge, for a deployment.
    Http(String),
}

/// A log.
#[derive(Debug, Clone)]
pub(super) enum Log {
    App(AppLog),
    Http(HttpLog),
}

impl Log {
    pub(super) fn at(&self) -> Option<Nanos> {
        match self {
            Log::App(log) => log.at,
            Log::Http(log) => log.at,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Log::App(log) => log.line.len(),
            Log::Http(log) => log.line.len(),
        }
    }
}

impl What {
    /// The name of its field.
    pub(super) fn field(&self) -> &'static str {
        match self {
            What::Environment => "environmentLogs",
            What::Http(_) => "httpLogs",
        }
    }

    /// The text of a question: a `query` for what was, a `subscription` for what comes.
    pub(super) fn question(&self, kind: &str) -> String {
        let (name, key, fields) = match self {
            What::Environment => ("EnvironmentLogs", "environmentId", APP_FIELDS.to_owned()),
            What::Http(_) => ("HttpLogs", "deploymentId", line::HTTP_FIELDS.join(" ")),
        };
        let (mut declared, mut given) = (format!("${key}: String!"), format!("{key}: ${key}"));
        for (name, of) in ARGUMENTS {
            declared.push_str(&format!(", ${name}: {of}"));
            given.push_str(&format!(", {name}: ${name}"));
        }
        format!("{kind} {name}({declared}) {{ {}({given}) {{ {fields} }} }}", self.field())
    }

    /// The variables that say whose logs.
    fn subject(&self, scope: &Scope) -> Value {
        match self {
            What::Environment => {
                json!({ "environmentId": scope.environment.id, "filter": scope.filter() })
            }
            What::Http(deployment) => json!({ "deploymentId": deployment, "filter": "" }),
        }
    }

    /// The variables of a subscription: the newest `page` logs behind `from`, and what comes.
    pub(super) fn from(&self, scope: &Scope, from: Nanos, page: usize) -> Value {
        let mut variables = self.subject(scope);
        variables["beforeDate"] = write_time(from).into();
        variables["beforeLimit"] = page.into();
        variables
    }

    /// The variables of a query: the oldest `page` logs between two times.
    pub(super) fn between(&self, scope: &Scope, from: Nanos, to: Nanos, page: usize) -> Value {
        let mut variables = self.subject(scope);
        variables["beforeDate"] = write_time(from).into();
        variables["beforeLimit"] = 0.into();
        variables["anchorDate"] = write_time(from).into();
        variables["afterDate"] = write_time(to.saturating_add(STEP)).into();
        variables["afterLimit"] = page.into();
        variables
    }

    /// The logs in the `data` of an answer; none if it holds no list of them.
    pub(super) fn logs(&self, data: &Value) -> Option<Vec<Log>> {
        let list = data.get(self.field())?.as_array()?;
        Some(match self {
            What::Environment => list.iter().map(|log| Log::App(line::app(log))).collect(),
            What::Http(_) => list.iter().map(|log| Log::Http(line::http(log))).collect(),
        })
    }
}

/// Older logs that are asked for, while newer ones wait behind them.
#[derive(Debug)]
pub(super) struct Gap {
    /// Behind where the next page begins.
    pub from: Nanos,
    /// Where what waits begins.
    pub to: Nanos,
    pub page: usize,
    /// No page has come yet.
    pub first: bool,
    /// The newest time that a page has brought, and the most logs that one had.
    newest: Nanos,
    most: usize,
    pub behind: Vec<Log>,
    bytes: usize,
    tries: u32,
    pub due: Instant,
    pub task: Option<JoinHandle<Result<Value, ApiError>>>,
}

impl Gap {
    fn new(from: Nanos, to: Nanos, page: usize, behind: Vec<Log>) -> Self {
        let bytes = behind.iter().map(Log::len).sum();
        let due = Instant::now();
        let (newest, most) = (from, 0);
        Self { from, to, page, first: true, newest, most, behind, bytes, tries: 0, due, task: None }
    }

    /// Whether no more may wait.
    pub(super) fn is_full(&self) -> bool {
        self.bytes > BEHIND_MAX
    }

    /// A page could not be had; gives false when it is not to be asked for again.
    pub(super) fn failed(&mut self, error: &ApiError) -> bool {
        self.tries += 1;
        let after = match error {
            ApiError::Refused(_) | ApiError::Unauthorized(_) => return false,
            ApiError::Limited { after: Some(after) } => (*after).min(Duration::from_secs(300)),
            ApiError::Limited { after: None } | ApiError::Later(_) => {
                Duration::from_millis(500) * 2_u32.pow(self.tries.min(6))
            }
        };
        // It may have been too much for one answer.
        self.page = (self.page / 2).max(PAGE_MIN.min(self.page));
        self.due = Instant::now() + after;
        self.tries < TRIES_MAX
    }

    /// A page has come. Gives whether there are more, or that there is no way to them. A page that is
    /// shorter than was asked for says nothing: the server may give fewer at once.
    pub(super) fn turned(&mut self, page: &[Log]) -> Turned {
        self.tries = 0;
        // As many as the server gives, for all that is known.
        let full = page.len() >= self.page || page.len() >= self.most.max(PAGE_MIN);
        self.most = self.most.max(page.len());
        let Some(newest) = page.iter().filter_map(Log::at).max() else { return Turned::Last };
        if newest >= self.to {
            return Turned::Last;
        }
        if newest > self.newest {
            self.newest = newest;
            self.from = newest.saturating_sub(STEP).max(self.from);
            return Turned::More;
        }
        if !full {
            return Turned::Last;
        }
        if self.from >= newest {
            return Turned::Blocked(newest);
        }
        // More logs of one instant than one page holds: what is behind it may still be had.
        self.from = newest;
        Turned::Stuck(newest)
    }
}

/// What follows a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turned {
    More,
    Last,
    /// There may be more of this instant, and no way to ask for them; it goes on behind it.
    Stuck(Nanos),
    /// The same page comes again and again: there is no way to what is behind this instant.
    Blocked(Nanos),
}

/// What to do with an answer.
#[derive(Debug)]
pub(super) enum Taken {
    /// These are next.
    Logs(Vec<Log>),
    /// They wait for older ones.
    Kept,
}

/// One subscription, over all connections.
#[derive(Debug)]
pub(super) struct Feed {
    pub what: What,
    /// Where it begins, as long as nothing has come.
    from: Nanos,
    /// The newest time that has come.
    pub newest: Option<Nanos>,
    /// The name of its subscription on this connection.
    pub id: Option<String>,
    /// When it is to be subscribed to.
    pub due: Instant,
    /// Failures in a row.
    pub tries: u32,
    pub since: Instant,
    /// What was asked for, until the first logs have come.
    asked: Option<(Nanos, usize)>,
    /// An answer without logs has come since then.
    empty: bool,
    pub gap: Option<Gap>,
    /// When it last said something.
    pub heard: Instant,
    /// Its deployment serves.
    pub active: bool,
}

impl Feed {
    pub(super) fn new(what: What, from: Nanos, newest: Option<Nanos>) -> Self {
        let now = Instant::now();
        Self {
            what,
            from,
            newest,
            id: None,
            due: now,
            tries: 0,
            since: now,
            asked: None,
            empty: false,
            gap: None,
            heard: now,
            active: true,
        }
    }

    /// Behind where it goes on.
    pub(super) fn place(&self, overlap: Nanos) -> Nanos {
        self.newest.map_or(self.from, |newest| newest.saturating_sub(overlap))
    }

    /// It is subscribed to.
    pub(super) fn subscribed(&mut self, id: String, from: Nanos, page: usize) {
        self.id = Some(id);
        self.asked = Some((from, page));
        self.empty = false;
        self.since = Instant::now();
        if self.tries == 0 {
            // It is given the time to answer.
            self.heard = self.since;
        }
    }

    /// Its subscription is over.
    pub(super) fn dropped(&mut self) {
        (self.id, self.asked, self.gap) = (None, None, None);
    }

    /// Whether it may still be answering what was, after so long; a fifth of it, if an answer without
    /// logs has come.
    pub(super) fn is_behind(&self, settled_after: Duration) -> bool {
        let settled_after = if self.empty { settled_after / 5 } else { settled_after };
        self.id.is_none()
            || self.gap.is_some()
            || (self.asked.is_some() && self.since.elapsed() < settled_after)
    }

    /// Up to where everything has come, while it is behind.
    pub(super) fn reached(&self, overlap: Nanos) -> Nanos {
        self.gap.as_ref().map_or_else(|| self.place(overlap), |gap| gap.from)
    }

    /// Takes logs that came. The first after a subscription are compared with what was asked for: if
    /// there are as many as may come at once, or the newest that is known is not among them, there may
    /// be some between, and these wait.
    pub(super) fn take(&mut self, mut logs: Vec<Log>) -> Taken {
        self.heard = Instant::now();
        if let Some(gap) = &mut self.gap {
            gap.bytes += logs.iter().map(Log::len).sum::<usize>();
            gap.behind.extend(logs);
            return Taken::Kept;
        }
        self.empty |= logs.is_empty();
        let oldest = logs.iter().filter_map(Log::at).min();
        if let (Some((from, page)), Some(oldest)) = (self.asked, oldest) {
            self.asked = None;
            sort(&mut logs);
            let unknown = self.newest.is_some_and(|newest| oldest > newest);
            // Where nothing is known, an answer of some length may be all that the server gives at once.
            let full = if self.newest.is_none() { page.min(PAGE_MIN) } else { page };
            if oldest > from && (unknown || logs.len() >= full) {
                self.gap = Some(Gap::new(from, oldest, page, logs));
                return Taken::Kept;
            }
        }
        Taken::Logs(logs)
    }
}

/// Puts logs into the order of time; those without one stay in front.
pub(super) fn sort(logs: &mut [Log]) {
    logs.sort_by_key(Log::at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(times: &[Nanos]) -> Vec<Log> {
        let log = |at: &Nanos| {
            let at = Some(*at);
            Log::App(AppLog { line: vec![b'x'; 10], at, request: None, deployment: None })
        };
        times.iter().map(log).collect()
    }

    fn times(logs: &[Log]) -> Vec<Nanos> {
        logs.iter().filter_map(Log::at).collect()
    }

    const S: Nanos = 1_000_000_000;

    fn feed(newest: Option<Nanos>, page: usize) -> Feed {
        let mut feed = Feed::new(What::Environment, 50 * S, newest);
        let from = feed.place(10 * S);
        feed.subscribed("1".into(), from, page);
        feed
    }

    fn taken(feed: &mut Feed, of: &[Nanos]) -> Option<Vec<Nanos>> {
        match feed.take(logs(of)) {
            Taken::Logs(logs) => Some(times(&logs)),
            Taken::Kept => None,
        }
    }

    #[test]
    fn an_answer_with_the_newest_known_log_has_no_gap() {
        let mut one = feed(Some(100 * S), 5);
        assert_eq!(taken(&mut one, &[]), Some(vec![]));
        assert_eq!(taken(&mut one, &[101 * S, 100 * S]), Some(vec![100 * S, 101 * S]));
        // What comes later is left as it comes.
        assert_eq!(taken(&mut one, &[107 * S, 103 * S]), Some(vec![107 * S, 103 * S]));
        assert_eq!(taken(&mut feed(None, 5), &[60 * S]), Some(vec![60 * S]));
    }

    #[test]
    fn a_full_answer_or_one_without_the_newest_known_waits_for_what_is_older() {
        let mut full = feed(Some(100 * S), 2);
        assert_eq!(taken(&mut full, &[95 * S, 101 * S]), None);
        let gap = full.gap.as_ref().unwrap();
        assert_eq!((gap.from, gap.to, times(&gap.behind)), (90 * S, 95 * S, vec![95 * S, 101 * S]));
        assert_eq!(taken(&mut full, &[102 * S]), None);
        assert_eq!(full.gap.unwrap().behind.len(), 3);
        assert_eq!(taken(&mut feed(Some(100 * S), 5), &[101 * S]), None);
        assert_eq!(taken(&mut feed(None, 1), &[51 * S]), None);
        // All that was asked for.
        assert_eq!(taken(&mut feed(None, 1), &[50 * S]), Some(vec![50 * S]));
    }

    #[test]
    fn pages_go_on_until_what_waits_is_reached_or_nothing_is_new() {
        let mut gap = Gap::new(10 * S, 20 * S, 2, Vec::new());
        assert_eq!(gap.turned(&logs(&[11 * S, 12 * S])), Turned::More);
        assert_eq!(gap.from, 12 * S - STEP);
        assert_eq!(gap.turned(&logs(&[12 * S, 12 * S])), Turned::Stuck(12 * S));
        assert_eq!(gap.from, 12 * S);
        // It may be that the server gives few at once.
        assert_eq!(gap.turned(&logs(&[13 * S])), Turned::More);
        assert_eq!(gap.turned(&logs(&[13 * S])), Turned::Last);
        assert_eq!(gap.turned(&logs(&[14 * S, 20 * S])), Turned::Last);
        assert_eq!(gap.turned(&[]), Turned::Last);
        let untimed = [Log::App(line::app(&json!(1)))];
        assert_eq!(gap.turned(&untimed), Turned::Last);
    }

    #[test]
    fn a_page_that_comes_again_and_again_ends_it() {
        // Fewer than were asked for, but as many as ever came.
        let mut gap = Gap::new(10 * S, 20 * S, 5000, Vec::new());
        let same = logs(&[12 * S; PAGE_MIN]);
        assert_eq!(gap.turned(&same), Turned::More);
        assert_eq!(gap.turned(&same), Turned::Stuck(12 * S));
        assert_eq!(gap.turned(&same), Turned::Blocked(12 * S));
    }

    #[test]
    fn a_feed_of_which_nothing_is_known_asks_again_where_there_may_be_more() {
        let mut one = feed(None, 5000);
        assert_eq!(taken(&mut one, &[60 * S; PAGE_MIN]), None);
        assert_eq!(taken(&mut feed(None, 5000), &[60 * S; PAGE_MIN - 1]).unwrap().len(), 99);
        assert_eq!(one.reached(10 * S), 50 * S);
    }

    #[test]
    fn a_page_is_asked_for_a_few_times() {
        let mut gap = Gap::new(10 * S, 20 * S, 400, Vec::new());
        assert!(!gap.failed(&ApiError::Refused(String::new())));
        let later = ApiError::Later(String::new());
        let again = std::iter::repeat_with(|| gap.failed(&later)).take_while(|again| *again);
        assert_eq!(again.count(), 4);
        assert_eq!(gap.page, PAGE_MIN);
    }

    #[test]
    fn questions_say_whose_logs_and_from_when() {
        let text = What::Http("d1".into()).question("query");
        assert!(
            text.starts_with("query HttpLogs($deploymentId: String!, $filter: String,"),
            "{text}"
        );
        assert!(text.contains("httpLogs(deploymentId: $deploymentId, filter: $filter,"), "{text}");
        assert!(text.contains("srcIp"), "{text}");
    }
}
