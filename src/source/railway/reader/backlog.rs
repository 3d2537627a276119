//! What came while nobody read is held until all of it is there, and leaves in the order of time.
//!
//! The backlogs of the application and of each deployment's edge come one after another, page by page.
//! Whoever counts by the time inside the lines goes on with the newest: handed over as it comes, the edge's
//! last minute would make the application's last hour too late to count.

use super::{Reader, wall};
use crate::source::railway::feed::{Feed, Log};
use crate::source::railway::join::SLACK;
use crate::source::railway::line::{HttpLog, Nanos};
use std::time::{Duration, Instant};

/// How long an answer with what was may take. Nothing may have been there.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// Bytes that may be held. Past it, what is complete leaves, or the older half although it may not be.
const HELD_BYTES_MAX: usize = 64 << 20;
/// How long what does not come is waited for: a feed that is refused, or deployments that are not told.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long connections that break again and again may begin that time anew.
const FLAP_MAX: Duration = Duration::from_secs(600);
/// Lines between two places while what was held leaves.
const PLACE_EVERY: usize = 1000;

/// What is held.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Behind where it may begin.
    pub from: Nanos,
    began: Instant,
    /// When something was last on its way that is sure to come or to be given up.
    moved: Instant,
    /// The deployments are known, of now.
    known: bool,
    /// Logs with their places in time. One without a time has the place of the one before it.
    held: Vec<(Nanos, Log)>,
    bytes: usize,
    /// The oldest held of the applications, and of the edge.
    oldest: (Option<Nanos>, Option<Nanos>),
}

impl Backlog {
    /// Begins where `from` is. Without HTTP logs no deployments need to be known.
    pub(super) fn new(from: Nanos, http: bool) -> Self {
        let now = Instant::now();
        let (held, oldest) = (Vec::new(), (None, None));
        Self { from, began: now, moved: now, known: !http, held, bytes: 0, oldest }
    }

    fn hold(&mut self, log: Log) {
        let place = log.at().or(self.held.last().map(|last| last.0)).unwrap_or(self.from);
        self.bytes += weight(&log);
        let oldest = match log {
            Log::App(_) => &mut self.oldest.0,
            Log::Http(_) => &mut self.oldest.1,
        };
        *oldest = Some(oldest.map_or(place, |oldest| oldest.min(place)));
        self.held.push((place, log));
    }

    /// Takes out what is older than `until`, at least `least` logs, in the order of time.
    fn take(&mut self, until: Nanos, least: usize) -> Vec<(Nanos, Log)> {
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|one| one.0);
        let count = held.partition_point(|one| one.0 < until).max(least).min(held.len());
        let rest = held.split_off(count);
        (self.bytes, self.oldest) = (0, (None, None));
        // They come back with the places that they had.
        for (place, log) in rest {
            self.bytes += weight(&log);
            let oldest = match log {
                Log::App(_) => &mut self.oldest.0,
                Log::Http(_) => &mut self.oldest.1,
            };
            oldest.get_or_insert(place);
            self.held.push((place, log));
        }
        held
    }

    /// Requests near the oldest that is held, which lines older than it may be about.
    fn near(&self) -> impl Iterator<Item = &HttpLog> {
        let first = self.held.first().map_or(Nanos::MIN, |one| one.0);
        let near = move |one: &&(Nanos, Log)| one.0 <= first.saturating_add(SLACK);
        self.held.iter().take_while(near).filter_map(|one| match &one.1 {
            Log::Http(log) => Some(log),
            Log::App(_) => None,
        })
    }

    /// The oldest times that are held, of the applications and of the edge.
    pub(super) fn oldest(&self) -> (Option<Nanos>, Option<Nanos>) {
        self.oldest
    }

    /// A connection has begun.
    pub(super) fn connected(&mut self) {
        if self.began.elapsed() < FLAP_MAX {
            self.moved = Instant::now();
        }
    }

    /// A look that began then has told the deployments.
    pub(super) fn looked(&mut self, at: Option<Instant>) {
        self.known |= at.is_some_and(|at| at >= self.began);
    }
}

fn weight(log: &Log) -> usize {
    log.len() + size_of::<(Nanos, Log)>()
}

impl Reader<'_> {
    /// From now on what comes is held. `from` is behind where it may begin.
    pub(super) fn fall_behind(&mut self, from: Nanos) {
        if self.backlog.is_none() {
            self.backlog = Some(Backlog::new(from, self.settings.http));
            self.look_due = Instant::now();
        }
    }

    /// Takes logs that are held back; gives them back if nothing is held.
    pub(super) fn hold(&mut self, logs: Vec<Log>) -> Option<Vec<Log>> {
        let Some(backlog) = &mut self.backlog else { return Some(logs) };
        logs.into_iter().for_each(|log| backlog.hold(log));
        if backlog.bytes > HELD_BYTES_MAX {
            let half = backlog.held.len() / 2;
            self.relieve(half);
        }
        None
    }

    /// Hands over what is held once all of it is there, or what is missing is not to be waited for.
    pub(super) fn catch_up(&mut self) {
        let behind = self.feeds.iter().any(|feed| feed.is_behind(SETTLED));
        let paging = self.feeds.iter().any(|feed| feed.gap.is_some());
        let Some(backlog) = &mut self.backlog else { return };
        if paging {
            backlog.moved = Instant::now();
        }
        let missing = behind || !backlog.known;
        if missing && backlog.moved.elapsed() < STALL_MAX {
            return;
        }
        if missing {
            self.note(
                "what came while nobody read is not all there, and not waited for any longer",
            );
        }
        if let Some(mut backlog) = self.backlog.take() {
            let all = backlog.take(Nanos::MAX, usize::MAX);
            self.release(all);
        }
    }

    /// Hands over what is complete of what is held, at least `least` logs.
    pub(super) fn relieve(&mut self, least: usize) {
        let reached = |feed: &Feed| feed.is_behind(SETTLED).then(|| feed.reached(self.overlap));
        let reached = self.feeds.iter().filter_map(reached).min().unwrap_or(Nanos::MAX);
        let Some(backlog) = &mut self.backlog else { return };
        let until = if backlog.known { reached } else { reached.min(backlog.from) };
        let all = backlog.take(until, least);
        self.release(all);
    }

    /// Hands logs over that are in the order of time, each line with the word of its request: a request
    /// goes before all lines that it may cover.
    fn release(&mut self, logs: Vec<(Nanos, Log)>) {
        let own = logs.iter().filter_map(|one| match &one.1 {
            Log::Http(log) => Some(log.without_line()),
            Log::App(_) => None,
        });
        let near = self.backlog.iter().flat_map(Backlog::near).map(HttpLog::without_line);
        let requests: Vec<HttpLog> = own.chain(near).collect();
        let mut requests = requests.into_iter().peekable();
        // The edge has had its time to tell of what is older.
        let wait = Nanos::try_from(self.join.wait().as_nanos()).unwrap_or(Nanos::MAX);
        let past = wall().saturating_sub(wait).saturating_sub(SLACK);
        for (n, (place, log)) in logs.into_iter().enumerate() {
            let covering = place.saturating_add(SLACK);
            while let Some(request) =
                requests.next_if(|request| request.at.is_none_or(|at| at <= covering))
            {
                self.vouch(request);
            }
            match log {
                Log::App(log) if place < past => {
                    self.join.old_line(log.line, log.at, log.request);
                }
                log => self.pass(log),
            }
            while let Some(leaving) = self.join.next(self.started.elapsed()) {
                self.leave(&leaving);
            }
            if n % PLACE_EVERY == PLACE_EVERY - 1 {
                self.flush();
            }
        }
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::railway::line;
    use serde_json::json;

    fn times(logs: &[(Nanos, Log)]) -> Vec<Nanos> {
        logs.iter().map(|one| one.0).collect()
    }

    #[test]
    fn what_is_complete_leaves_in_order_and_the_rest_stays() {
        let mut backlog = Backlog::new(5, true);
        backlog.hold(Log::App(line::app(&json!("no time"))));
        for at in [30, 10, 20] {
            let time = line::write_time(at);
            backlog.hold(Log::App(line::app(&json!({"timestamp": time, "message": "m"}))));
            backlog.hold(Log::Http(line::http(&json!({"timestamp": time, "requestId": "r"}))));
        }
        backlog.hold(Log::App(line::app(&json!("no time"))));
        assert_eq!(backlog.oldest(), (Some(5), Some(10)));
        let bytes = backlog.bytes;
        assert_eq!(times(&backlog.take(20, 0)), [5, 10, 10]);
        assert_eq!(backlog.oldest(), (Some(20), Some(20)));
        assert!(backlog.bytes < bytes && backlog.near().count() == 2);
        assert_eq!(times(&backlog.take(0, 2)), [20, 20]);
        assert_eq!(times(&backlog.take(Nanos::MAX, usize::MAX)), [20, 30, 30]);
        assert_eq!((backlog.bytes, backlog.oldest()), (0, (None, None)));
    }
}
