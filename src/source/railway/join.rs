//! Whose request a log of an application is about: its request's id, looked up in the logs of Railway's edge.
//!
//! The edge logs a request when it is over, so an application's line usually comes first and waits a
//! little. Lines leave in the order in which they came: none waits longer than it may, nor does any
//! behind it. The id alone proves nothing, since an application may take it from a header that the
//! client wrote: the line must also have been written while that request was under way, and one request
//! vouches for a few lines only.
//!
//! Nothing here reads a clock: `now` is how long the reader has been running.

use super::line::Nanos;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

/// How far the clocks of the edge and of the applications' hosts may differ.
pub(super) const SLACK: Nanos = 5_000_000_000;
/// Requests that are remembered, and for how long.
const REQUESTS_MAX: usize = 100_000;
const REMEMBERED: Duration = Duration::from_secs(300);
/// Lines that one request vouches for. Whoever made a request from one place learns its id from the
/// answer, and may send the id with many requests from another place, to an application that copies it
/// into its logs: within the slack these would all count against the first place. An honest request
/// writes a few lines about what matters.
const VOUCHES_MAX: usize = 16;
/// Lines that may wait, and their bytes: past it the oldest leave without an answer.
const WAITING_MAX: usize = 10_000;
const WAITING_BYTES_MAX: usize = 64 << 20;

/// A line that leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    pub line: Vec<u8>,
    /// When it was written.
    pub at: Option<Nanos>,
    /// Whose request it is about.
    pub edge: Option<IpAddr>,
}

/// A request, as the edge saw it.
#[derive(Debug)]
struct Request {
    /// None where nobody is to be named: the address cannot be read, or two logs differ.
    source: Option<IpAddr>,
    from: Nanos,
    until: Nanos,
    /// The lines that it has vouched for, as hashes: one that comes again is none more.
    vouched: Vec<u64>,
}

impl Request {
    fn covers(&self, at: Option<Nanos>) -> bool {
        let (from, until) = (self.from.saturating_sub(SLACK), self.until.saturating_add(SLACK));
        at.is_some_and(|at| (from..=until).contains(&at))
    }

    /// Whose request a line is about, if this one vouches for it.
    fn vouch(&mut self, line: &Leaving, hash: u64) -> Option<IpAddr> {
        if !self.covers(line.at) {
            // The id is somebody else's.
            return None;
        }
        if !self.vouched.contains(&hash) {
            if self.vouched.len() >= VOUCHES_MAX {
                return None;
            }
            self.vouched.push(hash);
        }
        self.source
    }
}

#[derive(Debug)]
struct Waiting {
    leaving: Leaving,
    /// Until when it waits for which request.
    awaits: Option<(Duration, String)>,
}

/// What waits, and what it may be waiting for.
#[derive(Debug)]
pub(super) struct Join {
    wait: Duration,
    queue: VecDeque<Waiting>,
    bytes: usize,
    /// The number of the first in the queue.
    first: u64,
    /// Which lines wait for a request.
    awaited: HashMap<String, Vec<u64>>,
    requests: HashMap<String, Request>,
    /// The requests in the order in which they were heard of.
    heard: VecDeque<(Duration, String)>,
    /// Lines left before their time because too many were waiting.
    crowded: bool,
    hashes: RandomState,
}

impl Join {
    /// Lines wait for their request for at most `wait`.
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            wait,
            queue: VecDeque::new(),
            bytes: 0,
            first: 0,
            awaited: HashMap::new(),
            requests: HashMap::new(),
            heard: VecDeque::new(),
            crowded: false,
            hashes: RandomState::new(),
        }
    }

    /// Takes an application's line, with the id of the request that it names.
    pub(super) fn line(
        &mut self,
        line: Vec<u8>,
        at: Option<Nanos>,
        id: Option<String>,
        now: Duration,
    ) {
        self.enter(line, at, id, Some(now));
    }

    /// Takes a line whose request is known by now or never.
    pub(super) fn old_line(&mut self, line: Vec<u8>, at: Option<Nanos>, id: Option<String>) {
        self.enter(line, at, id, None);
    }

    fn enter(
        &mut self,
        line: Vec<u8>,
        at: Option<Nanos>,
        id: Option<String>,
        now: Option<Duration>,
    ) {
        let mut leaving = Leaving { line, at, edge: None };
        let mut awaits = None;
        if let Some(id) = id {
            match (self.requests.get_mut(&id), now) {
                (Some(request), _) => {
                    let hash = self.hashes.hash_one((at, &leaving.line));
                    leaving.edge = request.vouch(&leaving, hash);
                }
                (None, Some(now)) if !self.wait.is_zero() => {
                    let number = self.first + self.queue.len() as u64;
                    self.awaited.entry(id.clone()).or_default().push(number);
                    awaits = Some((now + self.wait, id));
                }
                (None, _) => {}
            }
        }
        self.bytes += leaving.line.len();
        self.queue.push_back(Waiting { leaving, awaits });
    }

    /// Takes what the edge logged of a request.
    pub(super) fn request(
        &mut self,
        id: String,
        source: Option<IpAddr>,
        from: Nanos,
        until: Nanos,
        now: Duration,
    ) {
        while let Some((at, _)) = self.heard.front()
            && (self.heard.len() >= REQUESTS_MAX || now.saturating_sub(*at) > REMEMBERED)
        {
            if let Some((_, old)) = self.heard.pop_front() {
                self.requests.remove(&old);
            }
        }
        if let Some(known) = self.requests.get_mut(&id) {
            if (known.source, known.from, known.until) != (source, from, until) {
                known.source = None;
            }
            return;
        }
        let mut request = Request { source, from, until, vouched: Vec::new() };
        for number in self.awaited.remove(&id).unwrap_or_default() {
            let place =
                number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
            if let Some(waiting) = place.and_then(|place| self.queue.get_mut(place)) {
                waiting.awaits = None;
                let leaving = &mut waiting.leaving;
                let hash = self.hashes.hash_one((leaving.at, &leaving.line));
                leaving.edge = request.vouch(leaving, hash);
            }
        }
        self.heard.push_back((now, id.clone()));
        self.requests.insert(id, request);
    }

    /// The next line that may leave.
    pub(super) fn next(&mut self, now: Duration) -> Option<Leaving> {
        let crowd = self.queue.len() > WAITING_MAX || self.bytes > WAITING_BYTES_MAX;
        let early = matches!(&self.queue.front()?.awaits, Some((until, _)) if *until > now);
        if early && !crowd {
            return None;
        }
        self.crowded |= early;
        self.take()
    }

    /// The next line, whatever it waits for.
    pub(super) fn take(&mut self) -> Option<Leaving> {
        let waiting = self.queue.pop_front()?;
        let number = self.first;
        self.first += 1;
        self.bytes -= waiting.leaving.line.len();
        if let Some((_, id)) = waiting.awaits
            && let Some(numbers) = self.awaited.get_mut(&id)
        {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.awaited.remove(&id);
            }
        }
        Some(waiting.leaving)
    }

    /// How long a line waits at most.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// When the next line leaves at the latest, if one waits.
    pub(super) fn due(&self) -> Option<Duration> {
        let front = self.queue.front()?;
        Some(front.awaits.as_ref().map_or(Duration::ZERO, |(until, _)| *until))
    }

    /// The oldest time of what has not left.
    pub(super) fn oldest(&self) -> Option<Nanos> {
        self.queue.iter().filter_map(|waiting| waiting.leaving.at).min()
    }

    /// Whether lines have left before their time since this was asked.
    pub(super) fn was_crowded(&mut self) -> bool {
        std::mem::take(&mut self.crowded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Nanos = 1_000_000_000;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn id(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn all(join: &mut Join, now: Duration) -> Vec<(Vec<u8>, Option<IpAddr>)> {
        std::iter::from_fn(|| join.next(now)).map(|left| (left.line, left.edge)).collect()
    }

    #[test]
    fn a_line_waits_for_its_request_and_no_longer() {
        let mut join = Join::new(secs(3));
        join.line(b"a".to_vec(), Some(100 * SECOND), id("r"), secs(0));
        join.line(b"b".to_vec(), Some(100 * SECOND), None, secs(0));
        assert_eq!(all(&mut join, secs(2)), []);
        assert_eq!((join.due(), join.oldest()), (Some(secs(3)), Some(100 * SECOND)));
        join.request("r".into(), ip("203.0.113.7"), 99 * SECOND, 101 * SECOND, secs(2));
        let expected = [(b"a".to_vec(), ip("203.0.113.7")), (b"b".to_vec(), None)];
        assert_eq!(all(&mut join, secs(2)), expected);
        join.line(b"c".to_vec(), Some(100 * SECOND), id("other"), secs(4));
        assert_eq!(all(&mut join, secs(6)), []);
        assert_eq!(all(&mut join, secs(7)), [(b"c".to_vec(), None)]);
        assert!(join.awaited.is_empty() && join.due().is_none() && !join.was_crowded());
    }

    #[test]
    fn a_request_that_came_first_is_remembered_for_a_while() {
        let mut join = Join::new(secs(3));
        join.request("r".into(), ip("203.0.113.7"), 0, SECOND, secs(0));
        join.line(b"a".to_vec(), Some(0), id("r"), secs(299));
        assert_eq!(all(&mut join, secs(299)), [(b"a".to_vec(), ip("203.0.113.7"))]);
        join.request("later".into(), None, 0, 0, secs(301));
        join.line(b"b".to_vec(), Some(0), id("r"), secs(301));
        assert_eq!(all(&mut join, secs(304)), [(b"b".to_vec(), None)]);
        for n in 0..REQUESTS_MAX + 50 {
            join.request(n.to_string(), None, 0, 0, secs(302));
        }
        assert_eq!((join.requests.len(), join.heard.len()), (REQUESTS_MAX, REQUESTS_MAX));
    }

    #[test]
    fn an_id_that_belongs_to_another_time_joins_nobody() {
        let (from, until) = (100 * SECOND, 102 * SECOND);
        for (at, joined) in [(94, false), (95, true), (101, true), (107, true), (108, false)] {
            for first in [true, false] {
                let mut join = Join::new(secs(3));
                let request = |join: &mut Join| {
                    join.request("r".into(), ip("203.0.113.7"), from, until, secs(0));
                };
                if first {
                    request(&mut join);
                }
                join.line(b"a".to_vec(), Some(at * SECOND), id("r"), secs(0));
                if !first {
                    request(&mut join);
                }
                let edge = if joined { ip("203.0.113.7") } else { None };
                assert_eq!(all(&mut join, secs(0)), [(b"a".to_vec(), edge)], "{at} {first}");
            }
        }
        let mut join = Join::new(secs(3));
        join.request("r".into(), ip("203.0.113.7"), from, until, secs(0));
        join.line(b"untimed".to_vec(), None, id("r"), secs(0));
        assert_eq!(all(&mut join, secs(0)), [(b"untimed".to_vec(), None)]);
    }

    #[test]
    fn two_requests_with_one_id_name_nobody_and_the_same_one_twice_does() {
        let mut join = Join::new(secs(3));
        for (id, source) in [("r", "203.0.113.7"), ("r", "203.0.113.7"), ("q", "203.0.113.8")] {
            join.request(id.into(), ip(source), 0, SECOND, secs(0));
        }
        join.request("q".into(), ip("203.0.113.9"), 0, SECOND, secs(0));
        join.line(b"a".to_vec(), Some(0), id("r"), secs(0));
        join.line(b"b".to_vec(), Some(0), id("q"), secs(0));
        let expected = [(b"a".to_vec(), ip("203.0.113.7")), (b"b".to_vec(), None)];
        assert_eq!(all(&mut join, secs(0)), expected);
    }

    #[test]
    fn a_request_vouches_for_a_few_lines_only_and_for_one_that_comes_again() {
        for first in [true, false] {
            let mut join = Join::new(secs(3));
            let request = |join: &mut Join| {
                join.request("r".into(), ip("203.0.113.7"), 0, SECOND, secs(0));
            };
            if first {
                request(&mut join);
            }
            for n in 0..40 {
                join.line(n.to_string().into_bytes(), Some(0), id("r"), secs(0));
            }
            request(&mut join);
            // The first one, and one more.
            for line in ["0", "40"] {
                join.line(line.into(), Some(0), id("r"), secs(0));
            }
            let left = all(&mut join, secs(0));
            let vouched: Vec<usize> =
                left.iter().zip(0..).filter_map(|(one, n)| one.1.map(|_| n)).collect();
            assert_eq!(vouched, (0..VOUCHES_MAX).chain([40]).collect::<Vec<usize>>(), "{first}");
        }
    }

    #[test]
    fn an_old_line_waits_for_nothing() {
        let mut join = Join::new(secs(3));
        join.request("r".into(), ip("203.0.113.7"), 0, SECOND, secs(0));
        join.old_line(b"a".to_vec(), Some(0), id("r"));
        join.old_line(b"b".to_vec(), Some(0), id("unknown"));
        let expected = [(b"a".to_vec(), ip("203.0.113.7")), (b"b".to_vec(), None)];
        assert_eq!(all(&mut join, secs(0)), expected);
    }

    #[test]
    fn too_many_waiting_let_the_oldest_go() {
        let mut join = Join::new(secs(3));
        for n in 0..WAITING_MAX + 5 {
            join.line(n.to_string().into_bytes(), Some(0), id(&n.to_string()), secs(0));
        }
        let left: Vec<Vec<u8>> = all(&mut join, secs(0)).into_iter().map(|one| one.0).collect();
        assert_eq!(left, [b"0", b"1", b"2", b"3", b"4"]);
        assert!(join.was_crowded() && !join.was_crowded());
        assert_eq!((join.awaited.len(), join.queue.len()), (WAITING_MAX, WAITING_MAX));
        let mut join = Join::new(secs(3));
        for n in 0..3 {
            join.line(vec![b'x'; WAITING_BYTES_MAX / 2], Some(0), id(&n.to_string()), secs(0));
        }
        assert_eq!(all(&mut join, secs(0)).len(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Line(Option<u8>, i64),
        Request(u8, u8, i64, i64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prop::option::of(0u8..6), 0i64..40).prop_map(|(id, at)| Step::Line(id, at)),
            3 => (0u8..6, 0u8..3, 0i64..40, 0i64..10)
                .prop_map(|(id, ip, at, took)| Step::Request(id, ip, at, took)),
            2 => (0u64..3).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn every_line_leaves_once_in_order_in_time_and_with_a_true_address_or_none(
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut join = Join::new(secs(3));
            let mut now = Duration::ZERO;
            let mut came: Vec<(Duration, Option<u8>, i64)> = Vec::new();
            let mut seen: HashMap<u8, Vec<(u8, i64, i64)>> = HashMap::new();
            let mut left = 0;
            for step in steps.into_iter().chain([Step::Wait(3)]) {
                match step {
                    Step::Line(id, at) => {
                        let line = came.len().to_string().into_bytes();
                        join.line(line, Some(at * SECOND), id.map(|id| id.to_string()), now);
                        came.push((now, id, at));
                    }
                    Step::Request(id, ip, at, took) => {
                        let source = IpAddr::from([203, 0, 113, ip]);
                        let (from, until) = (at * SECOND, (at + took) * SECOND);
                        join.request(id.to_string(), Some(source), from, until, now);
                        seen.entry(id).or_default().push((ip, at, at + took));
                    }
                    Step::Wait(more) => now += secs(more),
                }
                while let Some(one) = join.next(now) {
                    prop_assert_eq!(one.line, left.to_string().into_bytes());
                    let (_, id, at) = came[left];
                    if let Some(edge) = one.edge {
                        let requests = &seen[&id.unwrap()];
                        let covers = |(ip, from, until): &(u8, i64, i64)| {
                            edge == IpAddr::from([203, 0, 113, *ip])
                                && (*from - 5..=*until + 5).contains(&at)
                        };
                        prop_assert!(requests.iter().any(covers));
                    }
                    left += 1;
                }
                for (since, ..) in &came[left..] {
                    prop_assert!(now < *since + secs(3));
                }
            }
            prop_assert_eq!(left, came.len());
            prop_assert!(join.awaited.is_empty() && join.bytes == 0);
        }
    }
}
