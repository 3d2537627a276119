//! Drives sinks that act on the world or tell somebody, each on a thread of its own.
//!
//! With a state directory a sink's queue is the outbox there: it is handed what lies behind its cursor,
//! page by page, and the cursor moves when the sink has confirmed. Without one, a bounded queue in
//! memory; what it has no room for is counted and said. Either way a sink that is slow, or dead for
//! hours, holds up neither the stream nor another sink. What fails is tried again after pauses that
//! grow to five minutes, each a little longer or shorter than the last, so that many who were cut off
//! together do not come back together.

use super::Stop;
use crate::action::Action;
use crate::decide::board::Board;
use crate::engine::ask::SinkStatus;
use crate::sink::remote::{Progress, Remote, Trouble, is_over, micros};
use crate::state::{Db, StateError};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};
use tracing::{error, info, warn};

/// Actions handed to a sink at once.
const PAGE: usize = 500;
/// Actions that wait in memory for one sink, without a state directory.
const QUEUE_MAX: usize = 10_000;
/// Pauses after the first, the second failure in a row and so on; the last holds for all after it.
const PAUSES: [Duration; 8] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(120),
    Duration::from_secs(300),
];
/// The longest that a receiver can ask not to be tried again.
const AFTER_MAX: Duration = Duration::from_secs(3600);
/// How long the end of the program waits for sinks.
const LAST_MAX: Duration = Duration::from_secs(5);
/// How long that of a replay does.
const ALL_MAX: Duration = Duration::from_secs(86_400);
/// Failures in a row after which a replay gives a sink up: whoever is restarted is back by then, and whoever
/// waits for the end of a replay learns soon that nothing comes of it.
const FAILURES_MAX: usize = 6;
/// And after which a stream's end does, where nothing keeps what waits: within [`LAST_MAX`].
const FAILURES_LAST: usize = 4;
/// How often somebody looks whether there is anything to do, besides being told.
const LOOK: Duration = Duration::from_secs(1);

/// A sink that is to be driven, and whether it stays dry.
#[derive(Debug)]
pub struct Driven {
    /// It.
    pub remote: Box<dyn Remote>,
    /// It acts, and nobody has written `mode: enforce`: what it would do is only said.
    pub dry: bool,
}

/// Where its actions come from.
#[derive(Debug, Clone)]
pub enum Outbox {
    /// The state directory.
    Kept(PathBuf),
    /// Memory.
    Memory,
}

/// All of them.
#[derive(Debug)]
pub struct Remotes {
    lines: Vec<(Arc<Line>, JoinHandle<()>)>,
    /// The number of the last action, without a state directory.
    last: i64,
    /// What waits lasts.
    kept: bool,
}

#[derive(Debug)]
struct Line {
    name: String,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    /// The last action that there is.
    last: i64,
    /// The last that is done.
    cursor: i64,
    /// Those that wait in memory.
    queue: VecDeque<(i64, Action)>,
    ending: Option<Ending>,
    status: SinkStatus,
    /// Failures in a row.
    failures: usize,
    /// Actions that were over before they came here.
    over: usize,
    /// Lines dropped since that was asked last.
    dropped: u64,
}

#[derive(Debug, Clone, Copy)]
struct Ending {
    /// No later than this.
    until: Instant,
    /// Failures in a row after which nothing more is tried.
    patience: usize,
}

/// How remotes are, for whoever asks while they work.
#[derive(Debug, Clone, Default)]
pub struct Watch(Vec<Arc<Line>>);

impl Watch {
    /// How they are.
    pub fn statuses(&self) -> Vec<SinkStatus> {
        let status = |line: &Arc<Line>| {
            let state = line.state();
            let waiting = u64::try_from(state.last - state.cursor).unwrap_or(0);
            SinkStatus { waiting, ..state.status.clone() }
        };
        self.0.iter().map(status).collect()
    }

    /// Lines that were lost to a sink since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.0.iter().map(|line| std::mem::take(&mut line.state().dropped)).sum()
    }
}

impl Line {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remotes {
    /// Starts a thread per sink. `cursors` are the last actions that each has finished, `board` what
    /// is active.
    pub fn start(
        driven: Vec<Driven>,
        cursors: &[i64],
        last: i64,
        outbox: &Outbox,
        board: &Arc<Board>,
    ) -> Self {
        Self::start_at(driven, cursors, last, outbox, board, 1.0)
    }

    /// Starts them in a world whose hours are shorter by `pace`, so that a test need not wait.
    fn start_at(
        driven: Vec<Driven>,
        cursors: &[i64],
        last: i64,
        outbox: &Outbox,
        board: &Arc<Board>,
        pace: f64,
    ) -> Self {
        let begin = |(mut driven, cursor): (Driven, &i64)| {
            if matches!(outbox, Outbox::Memory) {
                driven.remote.knows_only_its_own();
            }
            let name = driven.remote.name();
            let state = if driven.dry { "dry" } else { "working" };
            if driven.dry {
                warn!(
                    "sink {name}: dry: what it would do is only said, until `mode: enforce` is \
                     written in the configuration"
                );
            }
            let line = Arc::new(Line {
                state: Mutex::new(State {
                    last,
                    cursor: *cursor,
                    queue: VecDeque::new(),
                    ending: None,
                    status: SinkStatus { name: name.clone(), state, ..SinkStatus::default() },
                    failures: 0,
                    over: 0,
                    dropped: 0,
                }),
                name,
                bell: Condvar::new(),
            });
            let worker = Worker {
                line: Arc::clone(&line),
                driven,
                outbox: outbox.clone(),
                board: Arc::clone(board),
                pace,
                reconciled: None,
                resume: None,
                off: false,
            };
            (line, thread::spawn(move || worker.run()))
        };
        let lines = driven.into_iter().zip(cursors).map(begin).collect();
        Self { lines, last, kept: matches!(outbox, Outbox::Kept(_)) }
    }

    /// Tells that the outbox goes on to `last`.
    pub fn ring(&self, last: i64) {
        for (line, _) in &self.lines {
            line.state().last = last;
            line.bell.notify_all();
        }
    }

    /// Hands actions over where there is no state directory. With `waits`, a sink that has no room is
    /// waited for, as a finite input can, until it is given up.
    pub fn hand(&mut self, actions: &[Action], waits: Option<&Stop>) {
        let goes_on = || waits.is_some_and(|stop| stop.load(Ordering::Relaxed) == 0);
        for (line, thread) in &self.lines {
            let mut state = line.state();
            for (at, action) in (self.last + 1..).zip(actions) {
                while state.queue.len() >= QUEUE_MAX
                    && state.failures < FAILURES_MAX
                    && goes_on()
                    && !thread.is_finished()
                {
                    line.bell.notify_all();
                    let waited = line.bell.wait_timeout(state, LOOK);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                state.last = at;
                if state.queue.len() >= QUEUE_MAX {
                    if state.status.dropped == 0 {
                        error!(
                            "sink {}: {QUEUE_MAX} lines wait for it: further ones are lost to it; with \
                             `state_dir` they would wait on disk",
                            line.name
                        );
                    }
                    state.status.dropped += 1;
                    state.dropped += 1;
                } else {
                    state.queue.push_back((at, action.clone()));
                }
            }
            line.bell.notify_all();
        }
        self.last += i64::try_from(actions.len()).unwrap_or(0);
    }

    /// The last action that each has finished.
    pub fn cursors(&self) -> Vec<(String, i64)> {
        self.lines.iter().map(|(line, _)| (line.name.clone(), line.state().cursor)).collect()
    }

    /// To look at them.
    pub fn watch(&self) -> Watch {
        Watch(self.lines.iter().map(|(line, _)| Arc::clone(line)).collect())
    }

    /// Lets them finish what they can in a limited time, or all of it with `all`; gives what went
    /// wrong.
    pub fn finish(&mut self, all: bool) -> Vec<String> {
        let (limit, patience) = match (all, self.kept) {
            (true, _) => (ALL_MAX, FAILURES_MAX),
            // What does not leave now waits on the disk.
            (false, true) => (LAST_MAX, 1),
            (false, false) => (LAST_MAX, FAILURES_LAST),
        };
        let until = Instant::now() + limit;
        for (line, _) in &self.lines {
            line.state().ending = Some(Ending { until, patience });
            line.bell.notify_all();
        }
        let mut errors = Vec::new();
        for (line, thread) in self.lines.drain(..) {
            // A call to the world may hang a little longer; it ends with the process.
            let patience = until + Duration::from_secs(1);
            while !thread.is_finished() && Instant::now() < patience {
                thread::sleep(Duration::from_millis(5));
            }
            let state = line.state();
            if state.over > 0 {
                let over = match state.over {
                    1 => "1 action had ended already and was".to_owned(),
                    n => format!("{n} actions had ended already and were"),
                };
                info!(
                    "sink {}: {over} not carried out: a sink applies what is left of a decision",
                    line.name
                );
            }
            // What there was no room for is said below.
            let queued = i64::try_from(state.queue.len()).unwrap_or(0);
            let waiting = if self.kept { state.last - state.cursor } else { queued };
            if let Some(why) = &state.status.why {
                errors.push(format!("sink {}: {why}", line.name));
            }
            if waiting > 0 {
                let what = if self.kept { "wait for the next start" } else { "were not delivered" };
                errors.push(format!("sink {}: {waiting} lines {what}", line.name));
            }
            if state.status.refused > 0 {
                let refused = state.status.refused;
                errors.push(format!("sink {}: {refused} lines were refused", line.name));
            }
            if state.status.dropped > 0 {
                let dropped = state.status.dropped;
                errors.push(format!("sink {}: {dropped} lines were lost to it", line.name));
            }
        }
        errors
    }
}

/// A sink at work.
struct Worker {
    line: Arc<Line>,
    driven: Driven,
    outbox: Outbox,
    board: Arc<Board>,
    /// By how much pauses are shorter.
    pace: f64,
    /// When the world was compared with the board last.
    reconciled: Option<Instant>,
    /// It is not tried again before.
    resume: Option<Instant>,
    /// The receiver wants nothing any more.
    off: bool,
}

impl Worker {
    fn run(mut self) {
        loop {
            if self.over() {
                return;
            }
            let worked = catch_unwind(AssertUnwindSafe(|| self.may_work() && self.work()));
            let busy = worked.unwrap_or_else(|_| {
                // The panic itself stands in the log; the others go on, and so does this one.
                self.note(Some(Trouble::later("its thread panicked: please report this")));
                true
            });
            if !busy {
                self.rest();
            }
        }
    }

    /// Whether everything is done that will be.
    fn over(&self) -> bool {
        let state = self.line.state();
        match state.ending {
            Some(Ending { until, patience }) => {
                let done = state.cursor >= state.last && self.driven.remote.due(now()).is_none();
                done || Instant::now() >= until || state.failures >= patience
            }
            None => false,
        }
    }

    fn may_work(&self) -> bool {
        self.resume.is_none_or(|at| Instant::now() >= at)
    }

    /// Waits for something to do.
    fn rest(&self) {
        let mut wait = LOOK;
        if let Some(at) = self.resume {
            wait = wait.min(at.saturating_duration_since(Instant::now()));
        }
        if let Some(due) = self.driven.remote.due(now()) {
            wait = wait.min(due);
        }
        let state = self.line.state();
        let idle = state.cursor >= state.last || !self.may_work();
        if idle && state.ending.is_none() {
            let wait = wait.max(Duration::from_millis(1));
            let _told = self.line.bell.wait_timeout(state, wait);
        } else {
            drop(state);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Does what there is to do; whether there was anything.
    fn work(&mut self) -> bool {
        if !self.driven.dry && !self.off && self.reconcile() {
            return true;
        }
        if !self.driven.dry && !self.off && self.driven.remote.due(now()) == Some(Duration::ZERO) {
            let ticked = self.driven.remote.tick(now());
            self.note(ticked.err());
            return true;
        }
        let (page, end) = match self.page() {
            Ok(page) => page,
            Err(error) => {
                self.note(Some(Trouble::later(error.to_string())));
                return true;
            }
        };
        if page.is_empty() {
            let past = self.line.state().cursor < end;
            if past {
                // Lines that nothing here can read were said above.
                self.advance(end, &[], 0, 1);
            }
            return past;
        }
        self.deliver(&page, end);
        true
    }

    /// Compares the world with what is active, if it is time.
    fn reconcile(&mut self) -> bool {
        // What a sink remembers of the time before a restart, it learns from the first comparison.
        let every = self.driven.remote.reconcile_every();
        if self.reconciled.is_some_and(|last| every.is_none_or(|every| last.elapsed() < every)) {
            return false;
        }
        if self.driven.remote.reconciles_behind() && self.waits() {
            return false;
        }
        let active = self.board.active();
        match self.driven.remote.reconcile(&active, now()) {
            Ok(mended) => {
                self.reconciled = Some(Instant::now());
                if let Some(mended) = mended {
                    info!("sink {}: {mended}", self.line.name);
                }
                self.note(None);
            }
            Err(trouble) => {
                if !matches!(trouble, Trouble::Later { .. }) {
                    // Nothing that another try would change.
                    self.reconciled = Some(Instant::now());
                }
                self.note(Some(trouble));
            }
        }
        true
    }

    /// Whether something waits to be delivered.
    fn waits(&self) -> bool {
        let state = self.line.state();
        state.cursor < state.last
    }

    /// What comes next, with the numbers, and the number of the last of them.
    fn page(&self) -> Result<(Vec<(i64, Action)>, i64), StateError> {
        let (cursor, last) = {
            let state = self.line.state();
            (state.cursor, state.last)
        };
        if cursor >= last {
            return Ok((Vec::new(), cursor));
        }
        match &self.outbox {
            Outbox::Kept(dir) => {
                let stored = Db::read_only(dir)?.actions_after(cursor, PAGE)?;
                let end = stored.last().map_or(cursor, |one| one.seq);
                let mut page = Vec::new();
                for one in stored {
                    match Action::of_json(&one.line) {
                        Ok(action) => page.push((one.seq, action)),
                        Err(error) => {
                            error!("sink {}: action {}: {error}", self.line.name, one.id);
                        }
                    }
                }
                Ok((page, end))
            }
            Outbox::Memory => {
                let state = self.line.state();
                let page: Vec<(i64, Action)> = state.queue.iter().take(PAGE).cloned().collect();
                let end = page.last().map_or(cursor, |(at, _)| *at);
                Ok((page, end))
            }
        }
    }

    fn deliver(&mut self, page: &[(i64, Action)], end: i64) {
        let remote = &mut self.driven.remote;
        let (acts, now) = (remote.acts(), now());
        let (over, wanted): (Vec<_>, Vec<&(i64, Action)>) = page
            .iter()
            .filter(|(_, action)| !acts || action.mode == "enforce")
            .filter(|(_, action)| remote.wants(action))
            .partition(|(_, action)| acts && is_over(action, micros(now)));
        let over: Vec<i64> = over.into_iter().map(|(at, _)| *at).collect();
        if self.driven.dry || self.off {
            if self.driven.dry {
                for (_, action) in &wanted {
                    info!("sink {}: dry: would {}", self.line.name, remote.would(action));
                }
            }
            self.advance(end, &over, 0, if self.off { wanted.len() } else { 0 });
            return;
        }
        let actions: Vec<Action> = wanted.iter().map(|(_, action)| action.clone()).collect();
        for action in &actions {
            if remote.lacks(action)
                && let Some(id) = &action.decision
                && let Some((until, decision)) = self.board.over_of(id)
            {
                remote.recall(&decision, until);
            }
        }
        let progress =
            if actions.is_empty() { Progress::default() } else { remote.deliver(&actions, now) };
        let done = progress.done.min(actions.len());
        let next = wanted.get(done).map(|(at, _)| *at);
        match (&progress.trouble, next) {
            (Some(Trouble::Refused { why }), Some(at)) => {
                let refused = actions.get(done).map_or("", |action| action.id.as_str());
                error!("sink {}: action {refused} is passed over: {why}", self.line.name);
                self.advance(at, &over, done, 1);
                self.note(None);
                return;
            }
            (Some(Trouble::Disabled { .. }), Some(_)) => {
                self.off = true;
                self.advance(end, &over, done, actions.len() - done);
            }
            (_, Some(at)) => self.advance(at - 1, &over, done, 0),
            (_, None) => self.advance(end, &over, done, 0),
        }
        self.note(progress.trouble);
    }

    /// All up to `cursor` is done, or will never be; `over` are those for which there was nothing to do
    /// any more.
    fn advance(&self, cursor: i64, over: &[i64], delivered: usize, refused: usize) {
        let mut state = self.line.state();
        state.cursor = state.cursor.max(cursor);
        let cursor = state.cursor;
        while state.queue.front().is_some_and(|(at, _)| *at <= cursor) {
            state.queue.pop_front();
        }
        // What there was no room for has passed too.
        if state.queue.is_empty() && matches!(self.outbox, Outbox::Memory) {
            state.cursor = state.last;
        }
        state.over += over.iter().filter(|at| **at <= cursor).count();
        state.status.delivered += u64::try_from(delivered).unwrap_or(0);
        state.status.refused += u64::try_from(refused).unwrap_or(0);
        drop(state);
        self.line.bell.notify_all();
    }

    /// Notes that it works, or what came in the way.
    fn note(&mut self, trouble: Option<Trouble>) {
        let mut state = self.line.state();
        let Some(trouble) = trouble else {
            self.resume = None;
            if state.failures > 0 {
                info!("sink {}: works again", self.line.name);
                state.failures = 0;
                state.status.why = None;
                state.status.state = "working";
            }
            return;
        };
        let why = trouble.why().to_owned();
        match trouble {
            Trouble::Later { after, .. } => {
                let pause = pause(state.failures).max(after.unwrap_or_default().min(AFTER_MAX));
                self.resume = Some(Instant::now() + pause.div_f64(self.pace));
                if state.failures == 0 {
                    error!("sink {}: {why}; its lines wait", self.line.name);
                }
                state.failures += 1;
                state.status.state = "failing";
            }
            Trouble::Paced { wait } => {
                self.resume = Some(Instant::now() + wait.div_f64(self.pace));
                return;
            }
            Trouble::Refused { .. } => {
                error!("sink {}: {why}", self.line.name);
                state.status.refused += 1;
            }
            Trouble::Disabled { .. } => {
                error!("sink {}: {why}; it is off until the next start", self.line.name);
                state.status.state = "disabled";
            }
        }
        state.status.why = Some(why);
    }
}

/// How long to wait after so many failures in a row, a fifth longer or shorter.
fn pause(failures: usize) -> Duration {
    let base = PAUSES.get(failures).or(PAUSES.last()).copied().unwrap_or(LOOK);
    // Nothing here needs good chance, only that two programs do not have the same.
    let chance = RandomState::new().hash_one(failures) % 401;
    base.mul_f64(0.8 + chance as f64 / 1000.0)
}

#[expect(clippy::disallowed_methods, reason = "the world is told what is left of a decision now")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Op, Target};
    use crate::detect::condition::ActionKind;
    use crate::detect::rule::{Mode, Rule};
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// What a sink of the tests does next, and what it has done.
    #[derive(Debug, Default)]
    struct World {
        /// It takes nothing.
        dead: AtomicBool,
        /// Calls that came.
        calls: AtomicUsize,
        /// Ids that it has confirmed, in order.
        done: Mutex<Vec<String>>,
        reconciled: AtomicUsize,
        /// Ids of decisions that it was told of, with their ends.
        recalled: Mutex<Vec<(String, i64)>>,
    }

    #[derive(Debug)]
    struct Fake {
        name: &'static str,
        world: Arc<World>,
        acts: bool,
        /// At most so many at once.
        takes: usize,
        /// How often it panics first.
        panics: usize,
        /// The answer to an id that it will never take.
        never: Option<(String, Trouble)>,
    }

    impl Fake {
        fn new(name: &'static str) -> (Self, Arc<World>) {
            let world = Arc::new(World::default());
            let fake = Self {
                name,
                world: Arc::clone(&world),
                acts: false,
                takes: 7,
                panics: 0,
                never: None,
            };
            (fake, world)
        }

        fn driven(self, dry: bool) -> Driven {
            Driven { remote: Box::new(self), dry }
        }
    }

    impl Remote for Fake {
        fn name(&self) -> String {
            self.name.to_owned()
        }

        fn acts(&self) -> bool {
            self.acts
        }

        fn wants(&self, action: &Action) -> bool {
            matches!(action.op, Op::Start | Op::End)
        }

        fn lacks(&self, ending: &Action) -> bool {
            ending.op == Op::End
        }

        fn recall(&mut self, decision: &crate::action::decision::Decision, until: i64) {
            self.world.recalled.lock().unwrap().push((decision.id.clone(), until));
        }

        fn deliver(&mut self, actions: &[Action], _: SystemTime) -> Progress {
            self.world.calls.fetch_add(1, Ordering::Relaxed);
            if self.panics > 0 {
                self.panics -= 1;
                panic!("as the test wants it");
            }
            if self.world.dead.load(Ordering::Relaxed) {
                return Progress::until(0, Trouble::later("it is dead"));
            }
            for (done, action) in actions.iter().enumerate() {
                match &self.never {
                    Some((id, trouble)) if *id == action.id => {
                        return Progress::until(done, trouble.clone());
                    }
                    _ if done == self.takes => {
                        return Progress::until(done, Trouble::later("enough for now"));
                    }
                    _ => self.world.done.lock().unwrap().push(action.id.clone()),
                }
            }
            Progress::all(actions)
        }

        fn reconcile(
            &mut self,
            _: &[crate::action::decision::Decision],
            _: SystemTime,
        ) -> Result<Option<String>, Trouble> {
            if self.world.dead.load(Ordering::Relaxed) {
                self.world.calls.fetch_add(1, Ordering::Relaxed);
                return Err(Trouble::later("it is dead"));
            }
            self.world.reconciled.fetch_add(1, Ordering::Relaxed);
            Ok(None)
        }

        fn reconcile_every(&self) -> Option<Duration> {
            self.acts.then_some(Duration::from_secs(3600))
        }

        fn test(&mut self, _: SystemTime) -> Result<String, String> {
            Ok(String::new())
        }
    }

    fn action(number: usize, op: Op, mode: Mode) -> Action {
        let target = Target { kind: "ip".to_owned(), value: Some(format!("203.0.113.{number}")) };
        let rule = Rule { id: "r".to_owned(), pack: "p".to_owned(), ..Rule::default() };
        Action {
            id: format!("{number:016x}"),
            time: "2025-08-03T22:30:00.000000Z".to_owned(),
            until: Some("2999-08-03T22:30:00.000000Z".to_owned()),
            ..Action::of_rule(&rule, target, ActionKind::Block, op, mode, None)
        }
    }

    fn starts(numbers: std::ops::Range<usize>) -> Vec<Action> {
        numbers.map(|number| action(number, Op::Start, Mode::Enforce)).collect()
    }

    fn ids(actions: &[Action]) -> Vec<String> {
        actions.iter().map(|action| action.id.clone()).collect()
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// A day lasts less than nine seconds.
    const PACE: f64 = 10_000.0;

    fn start(driven: Vec<Driven>) -> Remotes {
        let cursors = vec![0; driven.len()];
        let board = Arc::new(Board::default());
        Remotes::start_at(driven, &cursors, 0, &Outbox::Memory, &board, PACE)
    }

    #[test]
    fn an_hour_of_death_loses_nothing_and_holds_nobody_else_up() {
        let ((dead, dead_world), (alive, alive_world)) = (Fake::new("dead"), Fake::new("alive"));
        dead_world.dead.store(true, Ordering::Relaxed);
        let mut remotes = start(vec![dead.driven(false), alive.driven(false)]);
        let actions = starts(0..100);
        let begun = Instant::now();
        for some in actions.chunks(10) {
            remotes.hand(some, None);
        }
        until("the other goes on", || alive_world.done.lock().unwrap().len() == 100);
        let hour = Duration::from_secs(3600).div_f64(PACE);
        thread::sleep(hour.saturating_sub(begun.elapsed()));
        let watch = remotes.watch();
        let failing = watch.statuses().remove(0);
        assert_eq!((failing.state, failing.waiting), ("failing", 100));
        assert_eq!(failing.why.as_deref(), Some("it is dead"));
        let calls = dead_world.calls.load(Ordering::Relaxed);
        assert!((8..40).contains(&calls), "{calls} calls in an hour");
        dead_world.dead.store(false, Ordering::Relaxed);
        until("all is delivered", || dead_world.done.lock().unwrap().len() == 100);
        until("it works again", || watch.statuses().remove(0).state == "working");
        assert_eq!(remotes.finish(false), Vec::<String>::new());
        for world in [dead_world, alive_world] {
            assert_eq!(*world.done.lock().unwrap(), ids(&actions));
        }
    }

    #[test]
    fn what_is_refused_is_passed_over_and_counted() {
        let (mut fake, world) = Fake::new("picky");
        fake.never = Some((format!("{:016x}", 3), Trouble::refused("not this one")));
        let mut remotes = start(vec![fake.driven(false)]);
        remotes.hand(&starts(0..6), None);
        until("the rest is done", || world.done.lock().unwrap().len() == 5);
        let watch = remotes.watch();
        until("it is counted", || watch.statuses().remove(0).delivered == 5);
        assert_eq!(watch.statuses().remove(0).refused, 1);
        remotes.finish(false);
    }

    #[test]
    fn a_receiver_that_wants_nothing_more_is_left_alone() {
        let (mut fake, world) = Fake::new("gone");
        let gone = Trouble::Disabled { why: "410".to_owned() };
        fake.never = Some((format!("{:016x}", 2), gone));
        let mut remotes = start(vec![fake.driven(false)]);
        remotes.hand(&starts(0..3), None);
        let watch = remotes.watch();
        until("it is off", || watch.statuses().remove(0).state == "disabled");
        let calls = world.calls.load(Ordering::Relaxed);
        remotes.hand(&starts(3..6), None);
        until("nothing waits", || watch.statuses().remove(0).waiting == 0);
        assert_eq!(world.calls.load(Ordering::Relaxed), calls);
        assert_eq!(watch.statuses().remove(0).refused, 4);
        let errors = remotes.finish(false);
        assert_eq!(errors, ["sink gone: 410", "sink gone: 4 lines were refused"]);
    }

    #[test]
    fn a_dry_sink_and_a_shadow_decision_touch_nothing() {
        let ((mut dry, dry_world), (mut wet, wet_world)) = (Fake::new("dry"), Fake::new("wet"));
        (dry.acts, wet.acts) = (true, true);
        let mut remotes = start(vec![dry.driven(true), wet.driven(false)]);
        let mut actions = starts(0..2);
        actions.push(action(2, Op::Start, Mode::Shadow));
        actions.push(action(3, Op::Withheld, Mode::Enforce));
        // One that is over already.
        let past = Some("2025-08-03T23:30:00.000000Z".to_owned());
        actions.push(Action { until: past, ..action(4, Op::Start, Mode::Enforce) });
        remotes.hand(&actions, None);
        let watch = remotes.watch();
        until("nothing waits", || watch.statuses().iter().all(|sink| sink.waiting == 0));
        assert_eq!(*wet_world.done.lock().unwrap(), ids(&starts(0..2)));
        assert_eq!(wet_world.reconciled.load(Ordering::Relaxed), 1);
        assert_eq!(dry_world.calls.load(Ordering::Relaxed), 0);
        assert_eq!(dry_world.reconciled.load(Ordering::Relaxed), 0);
        assert_eq!(watch.statuses().remove(0).state, "dry");
        remotes.finish(false);
    }

    #[test]
    fn a_sink_is_told_what_an_end_ends_that_was_said_before_it_started() {
        let (fake, world) = Fake::new("new");
        let start = Action { decision: Some("a".to_owned()), ..starts(0..1).remove(0) };
        let known = crate::action::decision::Decision::of_start(&start).unwrap();
        let decision = |id: &str| {
            let mut decision = known.clone();
            decision.id = id.to_owned();
            decision
        };
        let board =
            Arc::new(Board::new(Vec::new(), vec![(77, decision("a")), (78, decision("b"))]));
        let end = |id: &str| Action {
            decision: Some(id.to_owned()),
            ..action(1, Op::End, Mode::Enforce)
        };
        let mut remotes =
            Remotes::start_at(vec![fake.driven(false)], &[0], 0, &Outbox::Memory, &board, PACE);
        remotes.hand(&[end("b"), end("c")], None);
        assert_eq!(remotes.finish(false), Vec::<String>::new());
        assert_eq!(*world.recalled.lock().unwrap(), [("b".to_owned(), 78)]);
    }

    #[test]
    fn the_end_of_a_stream_waits_for_a_sink_that_has_failed_once() {
        let (fake, world) = Fake::new("shaky");
        world.dead.store(true, Ordering::Relaxed);
        let driven = vec![fake.driven(false)];
        let board = Arc::new(Board::default());
        let mut remotes = Remotes::start_at(driven, &[0], 0, &Outbox::Memory, &board, 20.0);
        remotes.hand(&starts(0..3), None);
        until("it has failed", || world.calls.load(Ordering::Relaxed) > 0);
        world.dead.store(false, Ordering::Relaxed);
        assert_eq!(remotes.finish(false), Vec::<String>::new());
        assert_eq!(world.done.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_sink_that_panics_is_tried_again_and_told_of() {
        let (mut fake, world) = Fake::new("shaky");
        fake.panics = 2;
        let mut remotes = start(vec![fake.driven(false)]);
        remotes.hand(&starts(0..3), None);
        until("all is done", || world.done.lock().unwrap().len() == 3);
        let watch = remotes.watch();
        until("it works again", || watch.statuses().remove(0).state == "working");
        remotes.finish(false);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_told() {
        let (fake, world) = Fake::new("slow");
        world.dead.store(true, Ordering::Relaxed);
        let mut remotes = start(vec![fake.driven(false)]);
        let one = starts(0..1);
        for _ in 0..QUEUE_MAX + 5 {
            remotes.hand(&one, None);
        }
        let watch = remotes.watch();
        assert_eq!(watch.statuses().remove(0).dropped, 5);
        assert_eq!((watch.take_dropped(), watch.take_dropped()), (5, 0));
        let errors = remotes.finish(false);
        assert_eq!(
            errors,
            [
                "sink slow: it is dead",
                "sink slow: 10000 lines were not delivered",
                "sink slow: 5 lines were lost to it"
            ]
        );
    }

    #[test]
    fn a_finite_input_gives_a_dead_sink_up() {
        let (fake, world) = Fake::new("dead");
        world.dead.store(true, Ordering::Relaxed);
        let mut remotes = start(vec![fake.driven(false)]);
        let actions = starts(0..3);
        // Nobody would ever make room.
        for _ in 0..QUEUE_MAX / 2 {
            remotes.hand(&actions, Some(&Stop::default()));
        }
        let errors = remotes.finish(true);
        assert_eq!(errors.len(), 3, "{errors:?}");
        let calls = world.calls.load(Ordering::Relaxed);
        assert!(calls >= FAILURES_MAX, "{calls}");
        let pauses: Duration = PAUSES.iter().take(FAILURES_MAX - 1).sum();
        assert!(pauses < Duration::from_secs(25), "as README says: {pauses:?}");
    }

    #[test]
    fn what_was_over_before_it_came_is_counted_once() {
        let (mut fake, world) = Fake::new("late");
        fake.acts = true;
        fake.takes = 1;
        let past = Some("2025-08-03T23:30:00.000000Z".to_owned());
        let over =
            |number| Action { until: past.clone(), ..action(number, Op::Start, Mode::Enforce) };
        let mut actions = starts(0..3);
        actions.insert(1, over(7));
        actions.extend([over(8), action(9, Op::Start, Mode::Shadow)]);
        let mut remotes = start(vec![fake.driven(false)]);
        remotes.hand(&actions, None);
        until("the others are done", || world.done.lock().unwrap().len() == 3);
        let line = Arc::clone(&remotes.lines[0].0);
        until("all has passed", || line.state().queue.is_empty());
        assert_eq!(line.state().over, 2);
        remotes.finish(false);
    }

    #[test]
    fn whoever_can_wait_loses_nothing() {
        let (mut fake, world) = Fake::new("slow");
        fake.takes = 500;
        let mut remotes = start(vec![fake.driven(false)]);
        let actions = starts(0..3);
        for _ in 0..QUEUE_MAX {
            remotes.hand(&actions, Some(&Stop::default()));
        }
        assert_eq!(remotes.finish(true), Vec::<String>::new());
        assert_eq!(world.done.lock().unwrap().len(), QUEUE_MAX * 3);
    }
}
