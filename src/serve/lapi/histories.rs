//! Random histories, as bouncers of several kinds live through them.
//!
//! Real bouncers differ in what they do with the same answer: some delete first, some add first,
//! some have timers of their own, and one never gives an element another end. Whatever happens, in
//! whatever order and however often anybody is restarted, each must end with what is in force.

use super::feed::{Cursor, Feed, Filter, LEFT_MIN, News};
use crate::action::Action;
use crate::action::decision::Decision;
use crate::decide::board::{Board, LINGER};
use crate::decode::time::{Micros, format};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const SECOND: Micros = 1_000_000;
/// When histories begin.
const T0: Micros = 1_795_446_000 * SECOND;

/// An action line.
pub fn line(
    op: &str,
    id: u64,
    target: (&str, &str),
    at: Micros,
    until: Micros,
    host: &str,
) -> Action {
    let action = if target.0 == "user" { "lock" } else { "block" };
    let (id, own) = (format!("{id:016x}"), if op == "start" { id } else { !id });
    let (time, until) = (format(at), format(until));
    let (kind, value) = target;
    let line = format!(
        r#"{{"schema":1,"id":"{own:016x}","decision":"{id}","time":"{time}","op":"{op}","action":"{action}","target":{{"kind":"{kind}","value":"{value}"}},"until":"{until}","rule":"rule","pack":"own","notify":[],"mode":"enforce","reason":"because"}}"#
    );
    let mut action = Action::of_json(&line).unwrap();
    // It is no part of the line.
    action.hosts.extend(host.parse::<IpAddr>());
    action
}

/// At whom; some hold elements of others.
const TARGETS: [(&str, &str); 6] = [
    ("ip", "203.0.113.9"),
    ("ip", "2001:db8::1"),
    ("range", "2001:db8::/64"),
    ("range", "2001:db8:0:1::/64"),
    ("range", "203.0.113.9/32"),
    ("user", "alice@example.org"),
];

type Element = (&'static str, String);

fn told(news: &[super::Told]) -> Vec<Element> {
    news.iter().map(|told| (told.key.value.scope(), told.key.value.text())).collect()
}

/// What decisions hold, by itself and simply: the latest end of each element.
fn in_force(board: &Board, now: Micros) -> BTreeMap<Element, Micros> {
    let mut all = BTreeMap::new();
    let mut put = |scope, value: &str, until: Micros| {
        let end: &mut Micros = all.entry((scope, value.to_owned())).or_default();
        *end = until.max(*end);
    };
    for decision in board.active().into_iter().filter(|decision| decision.until > now) {
        let value = decision.target.text();
        match decision.target.kind.as_str() {
            "ip" => put("Ip", value, decision.until),
            "range" if value.ends_with("/32") => {
                put("Ip", value.trim_end_matches("/32"), decision.until);
            }
            "range" => {
                put("Range", value, decision.until);
                decision.hosts.iter().for_each(|h| put("Ip", &h.to_string(), decision.until));
            }
            _ => put("username", value, decision.until),
        }
    }
    all
}

#[derive(Debug, Clone)]
enum Step {
    Start {
        target: usize,
        lasting: i64,
    },
    Extend {
        target: usize,
        lasting: i64,
        host: u8,
    },
    /// More addresses of a range than are remembered.
    Flood {
        target: usize,
        lasting: i64,
    },
    End {
        target: usize,
    },
    Poll {
        bouncer: usize,
    },
    RestartBouncer {
        bouncer: usize,
    },
    Restart,
    Pass {
        seconds: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let target = 0..TARGETS.len();
    prop_oneof![
        3 => (target.clone(), 1..90_i64).prop_map(|(target, lasting)| Step::Start { target, lasting }),
        3 => (target.clone(), 1..200_i64, 0..30_u8)
            .prop_map(|(target, lasting, host)| Step::Extend { target, lasting, host }),
        1 => (2..4_usize, 1..200_i64).prop_map(|(target, lasting)| Step::Flood { target, lasting }),
        2 => target.prop_map(|target| Step::End { target }),
        5 => (0..3_usize).prop_map(|bouncer| Step::Poll { bouncer }),
        1 => (0..3_usize).prop_map(|bouncer| Step::RestartBouncer { bouncer }),
        1 => Just(Step::Restart),
        6 => (1..25_i64).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

/// Portcullis with its clock.
struct Gate {
    board: Board,
    feed: Feed,
    now: Micros,
    ids: u64,
    /// Ends that the history of what is in force holds.
    ends: Vec<(String, Micros)>,
}

impl Gate {
    fn new() -> Self {
        let (board, feed) = (Board::default(), Feed::default());
        Self { board, feed, now: T0, ids: 0, ends: Vec::new() }
    }

    fn of(&self, target: usize) -> Option<Decision> {
        let (kind, value) = TARGETS[target];
        let is = |d: &Decision| d.target.kind == kind && d.target.text() == value;
        self.board.active().into_iter().find(is)
    }

    fn start(&mut self, target: usize, lasting: i64) {
        if self.of(target).is_none() {
            self.ids += 1;
            let until = self.now + lasting * SECOND;
            self.board.apply(&[line("start", self.ids, TARGETS[target], self.now, until, "")]);
        }
    }

    fn extend(&mut self, target: usize, lasting: i64, host: u8) {
        let Some(decision) = self.of(target) else { return };
        let id = u64::from_str_radix(&decision.id, 16).unwrap();
        let host = match TARGETS[target].1.strip_suffix("/64") {
            Some(net) => format!("{net}{host:x}"),
            None => String::new(),
        };
        self.ends.push((decision.id, decision.until));
        let until = self.now + lasting * SECOND;
        self.board.apply(&[line("extend", id, TARGETS[target], self.now, until, &host)]);
    }

    fn flood(&mut self, target: usize, lasting: i64) {
        for host in 30..48 {
            self.extend(target, lasting, host);
        }
    }

    fn end(&mut self, target: usize) {
        let Some(decision) = self.of(target) else { return };
        let id = u64::from_str_radix(&decision.id, 16).unwrap();
        let at = self.now.min(decision.until);
        self.board.apply(&[line("end", id, TARGETS[target], at, at, "")]);
    }

    fn pass(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
        // Half of what is over is said to be; the stream's clock is behind with the others.
        for target in 0..TARGETS.len() {
            if self.of(target).is_some_and(|d| d.until <= self.now && d.until % 2 == 0) {
                self.end(target);
            }
        }
    }

    /// What the state directory has is what a restart finds.
    fn restart(&mut self) {
        let over = self.board.over_since(self.now - LINGER);
        let ends = self.ends.clone();
        let active = self.board.active();
        self.board = Board::default();
        self.board.begin(active, over, ends);
        self.feed = Feed::default();
    }

    fn poll(&mut self, cursor: &mut Option<Cursor>) -> News {
        self.feed.advance(&self.board, self.now);
        let (news, seen) = self.feed.news(*cursor, &Filter::default());
        *cursor = Some(seen);
        let (new, deleted) = (told(&news.new), told(&news.deleted));
        let mut seen = BTreeSet::new();
        for element in new.iter().chain(&deleted) {
            assert!(seen.insert(element.clone()), "{element:?} is there twice: {news:?}");
        }
        assert!(news.new.iter().chain(&news.deleted).all(|told| told.left_s >= 1));
        let in_force = in_force(&self.board, self.now);
        for told in &news.new {
            let element = (told.key.value.scope(), told.key.value.text());
            let left = in_force.get(&element).map(|until| (until - self.now) / SECOND);
            assert_eq!(left, Some(told.left_s), "{element:?}");
        }
        for element in deleted {
            assert!(!in_force.contains_key(&element), "{element:?} is deleted and in force");
        }
        news
    }

    /// What it has is what is in force, to the second; what ends within a second may be missing.
    fn check(&self, set: &BTreeMap<Element, Micros>) {
        let in_force = in_force(&self.board, self.now);
        for (element, until) in &in_force {
            if *until - self.now >= LEFT_MIN {
                let short = until - set.get(element).copied().unwrap_or_default();
                assert!((0..SECOND).contains(&short), "{element:?} ends {short} us too early");
            }
        }
        for element in set.keys() {
            assert!(in_force.contains_key(element), "{element:?} is left over");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn bouncers_without_timers_have_what_is_in_force(steps in prop::collection::vec(step(), 1..80)) {
        let mut gate = Gate::new();
        // The first deletes before it adds, the second adds before it deletes, the third has timers
        // too and gives an element that it has the end that it is told.
        let mut bouncers: [(Option<Cursor>, BTreeMap<Element, Micros>); 3] = Default::default();
        let mut steps = steps;
        steps.extend([Step::Poll { bouncer: 0 }, Step::Poll { bouncer: 1 }, Step::Poll { bouncer: 2 }]);
        for step in steps {
            match step {
                Step::Start { target, lasting } => gate.start(target, lasting),
                Step::Extend { target, lasting, host } => gate.extend(target, lasting, host),
                Step::Flood { target, lasting } => gate.flood(target, lasting),
                Step::End { target } => gate.end(target),
                Step::Pass { seconds } => gate.pass(seconds),
                // Whoever starts anew asks for everything.
                Step::RestartBouncer { bouncer } => bouncers[bouncer] = Default::default(),
                Step::Restart => {
                    gate.restart();
                    bouncers.iter_mut().for_each(|(cursor, _)| *cursor = None);
                }
                Step::Poll { bouncer } => {
                    let (cursor, set) = &mut bouncers[bouncer];
                    let news = gate.poll(cursor);
                    let ends = news.new.iter().map(|told| gate.now + told.left_s * SECOND);
                    let new = told(&news.new).into_iter().zip(ends);
                    if bouncer == 1 {
                        set.extend(new.clone());
                    }
                    for element in told(&news.deleted) {
                        set.remove(&element);
                    }
                    if bouncer != 1 {
                        set.extend(new);
                    }
                    gate.check(set);
                }
            }
        }
    }

    #[test]
    fn a_bouncer_that_ignores_extensions_is_never_long_without_a_ban(
        steps in prop::collection::vec(step(), 1..80),
        every in 1..12_i64,
    ) {
        let mut gate = Gate::new();
        let (mut cursor, mut kernel) = (None, BTreeMap::<Element, Micros>::new());
        let mut missing = BTreeMap::<Element, i64>::new();
        for step in steps {
            match step {
                Step::Start { target, lasting } => gate.start(target, lasting),
                Step::Extend { target, lasting, host } => gate.extend(target, lasting, host),
                Step::Flood { target, lasting } => gate.flood(target, lasting),
                Step::End { target } => gate.end(target),
                // What is in the kernel stays there.
                Step::RestartBouncer { .. } => cursor = None,
                Step::Restart => { gate.restart(); cursor = None; }
                Step::Poll { .. } => {}
                Step::Pass { seconds } => for _ in 0..seconds {
                    gate.pass(1);
                    let now = gate.now;
                    kernel.retain(|_, end| *end > now);
                    if now / SECOND % every == 0 {
                        let news = gate.poll(&mut cursor);
                        for element in told(&news.deleted) { kernel.remove(&element); }
                        for told in news.new {
                            let element = (told.key.value.scope(), told.key.value.text());
                            kernel.entry(element).or_insert(now + told.left_s * SECOND);
                        }
                    }
                    let in_force = in_force(&gate.board, now);
                    missing.retain(|element, _| in_force.contains_key(element));
                    for (element, until) in in_force {
                        let gap = missing.entry(element.clone()).or_default();
                        *gap = if kernel.contains_key(&element) { 0 } else { *gap + 1 };
                        prop_assert!(*gap <= 15 + every || until - now < LEFT_MIN, "{element:?} for {gap} s");
                    }
                },
            }
        }
    }
}
