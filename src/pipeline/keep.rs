//! What the stream does becomes lasting, and only then leaves: the thread behind the ordered half.
//!
//! It gathers what the stream hands over (entries, actions, positions), commits it in one
//! transaction, and gives the actions to the sinks afterwards. While one commit is on its way to the
//! disk the next gathers, so a group is as long as the disk is slow: at most 20 ms or 4,096 records,
//! and an action never waits for more to come. When the disk takes nothing, nothing is taken from the
//! stream either: its queue fills, and the source is held back.
//!
//! A sink has a cursor, the last action that it has finished. One that fails or is slow is left
//! behind and catches up from the outbox; the others and the stream go on.

use super::remotes::{Outbox, Remotes, Watch};
use super::{LAST, PATIENCE, Stop, Ways};
use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op, Target};
use crate::decide::board::{Board, LINGER};
use crate::decide::hand::Known;
use crate::decode::time::Micros;
use crate::detect::dictionary::{Dictionary, Translation};
use crate::engine::ask::SinkStatus;
use crate::engine::core::{Core, FORMAT};
use crate::engine::entry::{Journal, take_entry};
use crate::engine::summary::grouped;
use crate::sink::{Delivered, Sink};
use crate::source::Position;
use crate::state::{
    ActionRow, Commit, Db, FILE, JournalInfo, NewSnapshot, SnapshotInfo, Snapshots, StateError,
    StoredDecision,
};
use crate::window::codec::Reader;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// The longest that entries wait for more before they are committed.
const GATHER: Duration = Duration::from_millis(20);
/// Records after which a group is committed without waiting.
const GROUP_MAX: u64 = 4096;
/// Steps that wait for the disk; then the stream waits.
const QUEUE: usize = 64;
/// How often a disk that takes nothing, or a sink that fails, is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often what the sinks have finished is noted, and the log of the database is folded back.
const TIDY: Duration = Duration::from_secs(1);
/// A reader that took nothing for so long is said to be stuck.
const STUCK: Duration = Duration::from_secs(10);
/// Lines of a file that are looked through for what it has beyond the state.
const AHEAD_MAX: usize = 200_000;
/// Actions read from the outbox at once.
const PAGE: usize = 1000;
/// Records in the journal after which a snapshot is due whatever it takes: a restart applies them
/// again at some 300,000 a second.
const JOURNAL_MAX: u64 = 500_000;

/// What the stream hands over, in the order in which it did it.
#[derive(Default)]
pub struct Step {
    /// What it took in.
    pub journal: Journal,
    /// What followed.
    pub actions: Vec<Action>,
    /// Where reading goes on.
    pub positions: Vec<(u32, Arc<Position>)>,
    /// Sources that are gone for good.
    pub gone: Vec<u32>,
    /// Sources of which this much is taken care of: told when it lasts.
    pub done: Vec<Done>,
}

/// Something to be done once a step lasts.
pub type Done = Box<dyn FnOnce() + Send>;

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { journal, actions, positions, gone, done } = self;
        f.debug_struct("Step")
            .field("records", &journal.records)
            .field("actions", actions)
            .field("positions", positions)
            .field("gone", gone)
            .field("done", &done.len())
            .finish()
    }
}

enum Message {
    Step(Step),
    /// The state is captured as it is after all steps before.
    CaptureBegins,
    /// It was.
    Captured(Capture),
    /// What numbers mean from here on.
    Dictionary(String),
    /// What follows is committed only when the snapshot before it has been written.
    Settled,
    /// Files are opened anew: they may have been rotated.
    Reopen,
}

/// A captured state.
#[derive(Debug)]
pub struct Capture {
    /// Its bytes, in pieces.
    pub pieces: Vec<Vec<u8>>,
    /// Keys in it.
    pub keys: u64,
}

/// The stream's end of it.
#[derive(Debug)]
pub struct Keeper {
    send: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<Vec<String>>>,
    shared: Arc<Shared>,
    /// Sinks on threads of their own.
    watch: Watch,
    /// When a snapshot is due.
    checkpoint: Duration,
    captured: Instant,
    /// Records handed over since, and all entries.
    records: u64,
    entries: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Nobody reads the actions any more.
    closed: AtomicBool,
    /// It cannot go on: what it said is among the errors.
    failed: AtomicBool,
    /// Captures that were begun, and snapshots of them that were written or could not be.
    begun: AtomicU64,
    written: AtomicU64,
    /// How the sinks are that are written to in turn.
    statuses: Mutex<Vec<SinkStatus>>,
    /// The disk takes nothing.
    held: AtomicBool,
    /// The stream is to end: a disk that takes nothing is not waited for much longer.
    ending: AtomicBool,
    /// The buffers of the last snapshot, to be used again.
    rooms: Mutex<Vec<Vec<u8>>>,
}

/// What was found in a state directory.
#[derive(Debug)]
pub struct Recovered {
    /// Where reading goes on.
    pub positions: Vec<(u32, Position)>,
    /// Actions that follow from the journal by the rules as they are now and were not there before.
    pub actions: Vec<Action>,
    /// Snapshots that cannot be used.
    refused: Vec<i64>,
    /// Decisions in force.
    pub standing: Vec<Decision>,
    /// Decisions that are over, but that others may still enforce, until when.
    pub over: Vec<(Micros, Decision)>,
    /// Ends that were said of decisions in force before those were extended.
    pub ends_before: Vec<(String, Micros)>,
    db: Db,
}

/// Brings the state of `core` back from the newest good snapshot and the journal behind it; if it is
/// `watched`, with what bouncers and sinks may have missed.
///
/// # Errors
/// When the directory cannot be used, or what it holds is damaged beyond what a snapshot before
/// the damage can make good.
pub fn recover(
    dir: &Path,
    fresh: &dyn Fn() -> Core,
    watched: bool,
) -> Result<(Core, Recovered), StateError> {
    let started = Instant::now();
    let db = Db::open(dir)?;
    let now = fresh().dictionary();
    // What others decided is decided again by their settings.
    let by_those_of = |names: &Dictionary| {
        let fresh = fresh();
        if !names.is_of_others(&now) {
            return fresh;
        }
        fresh.as_of(names).unwrap_or_else(|| {
            warn!(
                "{}: this version does not read the settings that it was written with: what came since \
                 its last snapshot is judged by those of now",
                dir.display()
            );
            fresh
        })
    };
    let mut refused = Vec::new();
    let found = newest_good(&db, &by_those_of, &mut refused)?;
    let (mut core, found) =
        found.map_or_else(|| (fresh(), None), |(core, info)| (core, Some(info)));
    let row = found.as_ref().map_or(0, |info| info.journal);
    let mut actions = Vec::new();
    let mut by: Option<(i64, Option<Translation>)> = None;
    let mut records = 0;
    // While rows are read, this connection is busy with them.
    let beside = Db::read_only(dir)?;
    db.journal_after(row, &mut |row| {
        if by.as_ref().is_none_or(|(id, _)| *id != row.dictionary) {
            let names = names(&beside, row.dictionary)?;
            if names.is_of_others(&core.dictionary()) {
                hand_over(&mut core, by_those_of(&names)).map_err(|why| db.damaged(why))?;
            }
            let translation = Translation::between(&names, &core.dictionary());
            core.expect_partial(translation.is_some());
            by = Some((row.dictionary, translation));
        }
        let by = by.as_ref().and_then(|(_, by)| by.as_ref());
        let mut from = Reader::new(row.entries);
        while !from.is_empty() {
            let entry = take_entry(&mut from, by).ok_or_else(|| {
                db.damaged(format!("row {} of the journal holds what is no entry", row.id))
            })?;
            core.apply(entry);
        }
        records += row.events;
        for action in core.take_actions() {
            if !beside.has_action(&action.id)? {
                actions.push(action);
            }
        }
        Ok(())
    })?;
    core.expect_partial(false);
    if by.is_some() {
        make_good(&mut core, &db, &mut actions)?;
    }
    if core.dictionary().settings != now.settings {
        hand_over(&mut core, fresh()).map_err(|why| db.damaged(why))?;
    }
    core.forget_counts();
    if let Some(info) = &found {
        info!(
            "{}: went on from a snapshot of {} keys, {} s old, and {records} records behind it, in {:.1} s",
            dir.display(),
            info.keys,
            info.age_s,
            started.elapsed().as_secs_f64()
        );
    } else if records > 0 {
        info!("{}: went on from {records} records", dir.display());
    }
    let positions = db.positions()?;
    let (mut standing, mut past, mut ends_before) = (core.standing(), Vec::new(), Vec::new());
    if watched {
        standing = as_told(standing, &db)?;
        let since = super::arrival().unwrap_or(0).saturating_sub(LINGER);
        past = db.ended_decisions(since)?.iter().filter_map(over).collect();
        ends_before = said_before(&standing, &db)?;
    }
    Ok((core, Recovered { positions, actions, refused, standing, over: past, ends_before, db }))
}

/// Decisions with the reasons of their lines; of rules, the stream keeps only the titles.
fn as_told(mut standing: Vec<Decision>, db: &Db) -> Result<Vec<Decision>, StateError> {
    let lines = db.start_lines(standing.iter().map(|decision| decision.id.as_str()))?;
    for (decision, line) in standing.iter_mut().zip(lines) {
        if let Some(Ok(action)) = line.as_deref().map(Action::of_json) {
            decision.reason = action.reason;
        }
    }
    Ok(standing)
}

/// The newest snapshot that can be used, in a core that `by_those_of` makes for its names; those that
/// cannot are `refused`.
fn newest_good(
    db: &Db,
    by_those_of: &dyn Fn(&Dictionary) -> Core,
    refused: &mut Vec<i64>,
) -> Result<Option<(Core, SnapshotInfo)>, StateError> {
    for info in db.snapshots()? {
        let names = names(db, info.dictionary)?;
        let mut core = by_those_of(&names);
        let restored = match db.snapshot(info.id) {
            Ok(bytes) => {
                let found = Core::format_of(&bytes).unwrap_or_default();
                if found > FORMAT {
                    // To fall back would be to forget what a newer version knew.
                    let (path, found) = (db.file().to_owned(), found.cast_signed());
                    return Err(StateError::Newer { path, found, known: FORMAT.cast_signed() });
                }
                core.restore(&bytes, &names)
            }
            Err(error @ StateError::Damaged { .. }) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        match restored {
            Ok(()) => return Ok(Some((core, info))),
            Err(why) => {
                warn!("snapshot {} cannot be used ({why}): the one before it is", info.id);
                refused.push(info.id);
            }
        }
    }
    Ok(None)
}

/// Goes on with other rules and guards from where `core` stands.
fn hand_over(core: &mut Core, mut to: Core) -> Result<(), String> {
    to.restore(&core.capture_all(), &core.dictionary())?;
    *core = to;
    Ok(())
}

/// What was decided and told of holds until its end, also where another version of the program would
/// decide otherwise, and what would be decided in its place is not.
fn make_good(core: &mut Core, db: &Db, actions: &mut Vec<Action>) -> Result<(), StateError> {
    let ends = actions.iter().filter(|action| action.op == Op::End);
    let ends: HashSet<String> = ends.filter_map(|action| action.decision.clone()).collect();
    let open = db.open_decisions()?;
    let open = open.into_iter().filter(|decision| !ends.contains(&decision.id));
    let known: Vec<Known> = open.filter_map(known).collect();
    let gave_way = core.adopt(&known);
    actions.retain(|action| action.decision.as_ref().is_none_or(|id| !gave_way.contains(id)));
    Ok(())
}

fn known(stored: StoredDecision) -> Option<Known> {
    let StoredDecision { id, pack, rule, mode, action, kind, value, started, until, .. } = stored;
    let target = Target { kind, value };
    Some(Known { id, pack, rule, mode, action, target, started, until: until? })
}

/// The ends that were said of decisions in force before they were extended, as far back as lines are
/// kept.
fn said_before(standing: &[Decision], db: &Db) -> Result<Vec<(String, Micros)>, StateError> {
    let active: HashMap<&str, Micros> =
        standing.iter().map(|decision| (decision.id.as_str(), decision.until)).collect();
    let mut ends = Vec::new();
    let mut extended = HashSet::new();
    // Starts are few among the lines that matter, and looked at only when one of them was extended.
    for op in ["extend", "start"] {
        let part = format!("\"op\":\"{op}\"");
        let mut cursor = 0;
        while !active.is_empty() && (op == "extend" || !extended.is_empty()) {
            let page = db.actions_after(cursor, PAGE)?;
            let Some(last) = page.last() else { break };
            cursor = last.seq;
            for stored in page.iter().filter(|stored| stored.line.contains(&part)) {
                if op == "start" && !extended.contains(&stored.id) {
                    continue;
                }
                let Ok(action) = Action::of_json(&stored.line) else { continue };
                let Some(decision) = action.decision else { continue };
                let (until, now) =
                    (action.until.as_deref().and_then(instant_of), active.get(decision.as_str()));
                if let (Some(until), Some(now)) = (until, now) {
                    if until < *now {
                        ends.push((decision.clone(), until));
                    }
                    extended.insert(decision);
                }
            }
        }
    }
    Ok(ends)
}

/// A decision that is over, with the time until which others may enforce it.
fn over(stored: &StoredDecision) -> Option<(Micros, Decision)> {
    let (until, ended) = (stored.until?, stored.ended?);
    let decision = Decision {
        id: stored.id.clone(),
        action: crate::action::word(&stored.action)?,
        mode: crate::action::word(&stored.mode)?,
        target: Target { kind: stored.kind.clone(), value: stored.value.clone() },
        rule: stored.rule.clone(),
        pack: stored.pack.clone(),
        started: stored.started,
        until: ended,
        hosts: Vec::new(),
        reason: String::new(),
    };
    Some((until, decision))
}

fn names(db: &Db, id: i64) -> Result<Dictionary, StateError> {
    serde_json::from_str(&db.dictionary_text(id)?)
        .map_err(|error| db.damaged(format!("dictionary {id} cannot be read: {error}")))
}

/// Forgets sinks that are not among `all` any more, and says what waited for them.
fn forget_gone(
    db: &mut Db,
    cursors: &BTreeMap<String, i64>,
    all: &[(String, i64)],
    last: i64,
) -> Result<(), StateError> {
    for (gone, cursor) in cursors {
        if all.iter().any(|(name, _)| name == gone) {
            continue;
        }
        let waited = match u64::try_from(last - cursor).unwrap_or(0) {
            0 => "nothing waited for it".to_owned(),
            1 => "1 line that waited for it is let go".to_owned(),
            n => format!("{} lines that waited for it are let go", grouped(n)),
        };
        warn!("the sink {gone} is no longer configured: {waited}");
        db.forget_cursor(gone)?;
    }
    Ok(())
}

/// A dictionary as it is kept.
pub fn text(names: &Dictionary) -> String {
    serde_json::to_string(names).unwrap_or_default()
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn start(
        dir: &Path,
        recovered: Recovered,
        names: &Dictionary,
        ways: Ways,
        checkpoint: Duration,
        stop: &Stop,
    ) -> Result<Self, StateError> {
        let watched = ways.watched();
        let Ways { sinks, remotes, board, .. } = ways;
        let Recovered { mut db, actions, refused, .. } = recovered;
        let dictionary = db.dictionary(&text(names))?;
        let cursors: BTreeMap<String, i64> = db.cursors()?.into_iter().collect();
        let last = db.last_action()?;
        let mut outlets = Vec::new();
        for mut sink in sinks {
            let name = sink.name();
            if let Err(error) = sink.go_apart(0) {
                warn!("sink {name}: {error}; who does not read it holds up the stream");
            }
            // A sink that was not there before is told what happens from now on.
            let cursor = cursors.get(&name).copied().unwrap_or(last);
            outlets.push(Outlet {
                sink,
                name,
                cursor,
                given: cursor,
                waits: None,
                stuck: false,
                noted: cursor,
                failing: None,
                closed: false,
                delivered: 0,
                has: HashSet::new(),
            });
        }
        let far: Vec<(String, i64)> = remotes
            .iter()
            .map(|driven| driven.remote.name())
            .map(|name| {
                let cursor = cursors.get(&name).copied().unwrap_or(last);
                (name, cursor)
            })
            .collect();
        let all = outlets.iter().map(|outlet| (outlet.name.clone(), outlet.cursor));
        let all: Vec<_> = all.chain(far.iter().cloned()).collect();
        let new = all.iter().filter(|(name, _)| !cursors.contains_key(name));
        let new: Vec<_> = new.cloned().collect();
        if !new.is_empty() {
            // After a kill it must not be new again: what then waits is for it too.
            db.commit(&Commit { cursors: &new, ..Commit::default() })?;
        }
        forget_gone(&mut db, &cursors, &all, last)?;
        let mut snapshots = Snapshots::open(dir)?;
        for id in refused {
            // It would be kept in place of a good one.
            snapshots.remove(id)?;
        }
        let JournalInfo { last: journal, behind_snapshot, .. } = db.info()?.journal;
        let shared = Arc::new(Shared::default());
        let (send, queue) = sync_channel(QUEUE);
        let places: Vec<i64> = far.iter().map(|(_, cursor)| *cursor).collect();
        let outbox = Outbox::Kept(dir.to_owned());
        let remotes = Remotes::start(remotes, &places, last, &outbox, &board);
        let watch = remotes.watch();
        let mut worker = Worker {
            db,
            file: file_in(dir).ok().flatten(),
            dir: dir.to_owned(),
            dictionary,
            journal,
            behind: behind_snapshot,
            capture_at: (journal, dictionary, behind_snapshot),
            handed: 0,
            outlets,
            remotes,
            far: far.into_iter().collect(),
            watched,
            shared: Arc::clone(&shared),
            writer: Some(Writer::start(snapshots, &shared)),
            pending: Pending::default(),
            errors: Vec::new(),
            tidied: Instant::now(),
            looked: Instant::now(),
            stop: Arc::clone(stop),
        };
        let first = Step { actions, ..Step::default() };
        let thread = thread::spawn(move || {
            worker.look_ahead(&new);
            worker.run(first, &queue)
        });
        Ok(Self {
            send: Some(send),
            thread: Some(thread),
            shared,
            watch,
            checkpoint,
            captured: Instant::now(),
            records: 0,
            entries: 0,
            bytes: 0,
        })
    }

    /// Hands a step over; waits if the disk is behind.
    pub fn step(&mut self, step: Step) {
        self.records += step.journal.records;
        self.entries += step.journal.entries;
        self.bytes += u64::try_from(step.journal.bytes.len()).unwrap_or(0);
        self.send(Message::Step(step));
    }

    fn send(&self, message: Message) {
        if let Some(send) = &self.send {
            // A worker that has gone has said why.
            let _gone = send.send(message);
        }
    }

    /// Whether the state is to be captured now: the journal has grown by as much as makes a restart
    /// slow, or by a part of what a snapshot takes.
    pub fn is_due(&self, keys: usize) -> bool {
        let Shared { begun, written, .. } = &*self.shared;
        let busy = begun.load(Ordering::Acquire) != written.load(Ordering::Acquire);
        if self.entries == 0 || busy {
            return false;
        }
        let since = self.captured.elapsed();
        let worth = self.bytes.saturating_mul(4) >= u64::try_from(keys).unwrap_or(0) * 100;
        self.records >= JOURNAL_MAX
            || since >= self.checkpoint && (worth || since >= self.checkpoint * 12)
    }

    /// The state is captured as it is after all steps before; buffers for it.
    pub fn capture_begins(&mut self) -> Vec<Vec<u8>> {
        self.captured = Instant::now();
        (self.records, self.entries, self.bytes) = (0, 0, 0);
        self.shared.begun.fetch_add(1, Ordering::AcqRel);
        self.send(Message::CaptureBegins);
        let mut rooms =
            std::mem::take(&mut *self.shared.rooms.lock().unwrap_or_else(PoisonError::into_inner));
        // The lengths between the pieces are none.
        rooms.retain(|room| room.capacity() > 8);
        rooms
    }

    /// Hands over what was captured.
    pub fn captured(&mut self, capture: Capture) {
        self.send(Message::Captured(capture));
    }

    /// Says what numbers mean from here on.
    pub fn dictionary(&self, names: &Dictionary) {
        self.send(Message::Dictionary(text(names)));
    }

    /// What follows is committed only when the last snapshot has been written.
    pub fn settle(&self) {
        self.send(Message::Settled);
    }

    /// Lets files be opened anew.
    pub fn reopen(&self) {
        self.send(Message::Reopen);
    }

    /// Whether the stream has to end: nobody reads any more, or nothing can last any more.
    pub fn is_over(&self) -> bool {
        self.shared.closed.load(Ordering::Relaxed) || self.shared.failed.load(Ordering::Relaxed)
    }

    /// How the sinks are.
    pub fn statuses(&self) -> Vec<SinkStatus> {
        let own = self.shared.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        own.into_iter().chain(self.watch.statuses()).collect()
    }

    /// Whether the disk takes nothing, so that the stream is held back.
    pub fn is_held(&self) -> bool {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Commits and delivers what is left, and ends; gives what went wrong, and whether nobody reads
    /// any more.
    pub fn finish(mut self) -> (Vec<String>, bool) {
        self.shared.ending.store(true, Ordering::Release);
        drop(self.send.take());
        let errors = self.thread.take().and_then(|thread| thread.join().ok());
        let errors = errors.unwrap_or_else(|| vec!["the thread that commits has panicked".into()]);
        (errors, self.shared.closed.load(Ordering::Relaxed))
    }
}

/// What is to be committed next.
#[derive(Default)]
struct Pending {
    entries: Vec<u8>,
    records: u64,
    count: u64,
    actions: Vec<Action>,
    positions: BTreeMap<u32, Arc<Position>>,
    gone: Vec<u32>,
    done: Vec<Done>,
    since: Option<Instant>,
}

impl Pending {
    fn add(&mut self, step: Step) {
        let Step { journal, actions, positions, gone, done } = step;
        if self.entries.is_empty() {
            self.entries = journal.bytes;
        } else {
            self.entries.extend_from_slice(&journal.bytes);
        }
        self.records += journal.records;
        self.count += journal.entries;
        self.actions.extend(actions);
        for source in &gone {
            self.positions.remove(source);
        }
        self.gone.retain(|source| !positions.iter().any(|(other, _)| other == source));
        self.positions.extend(positions);
        self.gone.extend(gone);
        self.done.extend(done);
        self.since.get_or_insert_with(Instant::now);
    }

    fn is_empty(&self) -> bool {
        self.count == 0
            && self.actions.is_empty()
            && self.positions.is_empty()
            && self.gone.is_empty()
            && self.done.is_empty()
    }
}

/// A sink with how far it is.
struct Outlet {
    sink: Sink,
    name: String,
    /// The last action that it has finished.
    cursor: i64,
    /// The last one that it was given: what lies between waits in it for a reader.
    given: i64,
    /// It waits since then.
    waits: Option<Instant>,
    /// That took so long that it was said.
    stuck: bool,
    /// That which the database knows.
    noted: i64,
    /// It failed, and was last tried then.
    failing: Option<Instant>,
    /// Nobody reads it any more: what comes waits for the next start.
    closed: bool,
    /// Actions given to it.
    delivered: u64,
    /// Ids of lines that it had when the state was set back to before them: they are not given again.
    has: HashSet<String>,
}

struct Worker {
    db: Db,
    /// Device and number of the database, as it was opened.
    file: Option<(u64, u64)>,
    dir: PathBuf,
    dictionary: i64,
    /// The last row of the journal.
    journal: i64,
    /// Records in the journal behind the snapshot that the start found.
    behind: u64,
    /// The last row, the dictionary and those records when a capture began.
    capture_at: (i64, i64, u64),
    /// Captures handed to the writer.
    handed: u64,
    outlets: Vec<Outlet>,
    remotes: Remotes,
    /// What the database knows of how far those are.
    far: HashMap<String, i64>,
    watched: Option<Arc<Board>>,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    pending: Pending,
    errors: Vec<String>,
    tidied: Instant,
    /// When it was last seen whether somebody has read on.
    looked: Instant,
    stop: Stop,
}

/// How long ago something was noted in the state directory `dir`.
pub fn noted_last(dir: &Path) -> Option<Duration> {
    let files = [FILE.to_owned(), format!("{FILE}-wal")];
    let ago = |file: &String| {
        let meta = std::fs::metadata(dir.join(file)).ok()?;
        meta.modified().ok()?.elapsed().ok()
    };
    files.iter().filter_map(ago).min()
}

/// Device and number of the database in `dir`; none if there is none. A disk that does not answer says
/// nothing.
fn file_in(dir: &Path) -> std::io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(dir.join(FILE)) {
        Ok(meta) => Ok(Some((meta.dev(), meta.ino()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl Worker {
    fn run(mut self, first: Step, queue: &Receiver<Message>) -> Vec<String> {
        // What waits since before the restart comes first.
        self.catch_up();
        self.pending.add(first);
        let mut alive = self.commit();
        while alive {
            let wait = match self.pending.since {
                Some(_) if !self.pending.actions.is_empty() => Duration::ZERO,
                // Places alone cost nothing but reading again.
                Some(since) if self.pending.count == 0 => TIDY.saturating_sub(since.elapsed()),
                Some(since) => GATHER.saturating_sub(since.elapsed()),
                None => TIDY,
            };
            // Whoever reads slowly is given more as soon as he has taken what he was given.
            let read = self.outlets.iter().any(Outlet::is_read);
            let wait = if read { wait.min(PATIENCE) } else { wait };
            alive = match queue.recv_timeout(wait) {
                Ok(message) => self.take(message, queue),
                Err(RecvTimeoutError::Timeout) => self.commit(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.commit();
                    false
                }
            };
            if alive {
                self.tidy();
            }
            if alive && read && self.looked.elapsed() >= PATIENCE {
                self.looked = Instant::now();
                self.catch_up();
            }
        }
        if let Some(writer) = self.writer.take() {
            writer.finish();
        }
        let errors = self.remotes.finish(false);
        self.errors.extend(errors);
        self.wait_for_readers();
        self.note_cursors(true);
        self.errors
    }

    /// Like any program in a pipe it ends when all was read; after a signal it waits no longer.
    fn wait_for_readers(&mut self) {
        self.catch_up();
        let mut over: Option<Instant> = None;
        while self.outlets.iter().any(Outlet::is_read) {
            let ends = self.stop.load(Ordering::Relaxed) != 0
                || self.shared.failed.load(Ordering::Relaxed);
            if ends && over.get_or_insert_with(Instant::now).elapsed() >= LAST {
                warn!(
                    "standard output was not read to its end: what is left comes with the next start"
                );
                break;
            }
            thread::sleep(PATIENCE);
            for outlet in self.outlets.iter_mut().filter(|outlet| outlet.is_read()) {
                if let Err(error) = outlet.settle(Duration::ZERO, &self.shared) {
                    outlet.fail(&error, &mut self.errors);
                }
            }
            self.catch_up();
        }
    }

    /// Takes a message, and what waits behind it as long as it fits into one commit.
    fn take(&mut self, message: Message, queue: &Receiver<Message>) -> bool {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            match message {
                Message::Step(step) => self.pending.add(step),
                other => {
                    if !self.commit() {
                        return false;
                    }
                    if !self.handle(other) {
                        return false;
                    }
                }
            }
            if self.pending.records >= GROUP_MAX {
                return self.commit();
            }
            match queue.try_recv() {
                Ok(message) => next = Some(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
        }
        let gather = if self.pending.count == 0 { TIDY } else { GATHER };
        let due = self.pending.since.is_some_and(|since| since.elapsed() >= gather);
        if due || !self.pending.actions.is_empty() { self.commit() } else { true }
    }

    /// `false` if it cannot go on.
    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Step(_) => {}
            Message::CaptureBegins => {
                self.capture_at = (self.journal, self.dictionary, self.behind);
            }
            Message::Captured(capture) => {
                self.handed += 1;
                if let Some(writer) = &self.writer {
                    writer.write(self.capture_at, capture);
                }
            }
            Message::Dictionary(text) => match self.insist(0, |db| db.dictionary(&text)) {
                Some(dictionary) => self.dictionary = dictionary,
                None => return false,
            },
            Message::Settled => {
                // Others may have begun since that come behind this.
                while self.shared.written.load(Ordering::Acquire) < self.handed {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            Message::Reopen => {
                // What is in a file that was rotated need not be looked for in the next one.
                self.note_cursors(false);
                for outlet in &mut self.outlets {
                    if let Err(error) = outlet.sink.reopen() {
                        outlet.fail(&error, &mut self.errors);
                    }
                }
            }
        }
        true
    }

    fn fail(&mut self, error: &StateError) -> bool {
        error!("{error}; nothing can last any more, so the stream ends here");
        self.errors.push(error.to_string());
        self.shared.failed.store(true, Ordering::Relaxed);
        false
    }

    /// Makes what is pending last, then lets the actions leave. `false` if it cannot go on.
    fn commit(&mut self) -> bool {
        if self.pending.is_empty() {
            self.pending.since = None;
            return true;
        }
        let pending = std::mem::take(&mut self.pending);
        let rows: Vec<ActionRow> = pending.actions.iter().map(ActionRow::of).collect();
        let positions: Vec<(u32, Position)> =
            pending.positions.iter().map(|(source, at)| (*source, Position::clone(at))).collect();
        let cursors = self.finished();
        let commit = Commit {
            entries: &pending.entries,
            count: pending.records,
            dictionary: self.dictionary,
            actions: &rows,
            positions: &positions,
            gone: &pending.gone,
            cursors: &cursors,
        };
        let committed = self.insist(pending.records, |db| db.commit(&commit));
        let Some(committed) = committed else { return false };
        self.journal = committed.journal.unwrap_or(self.journal);
        self.behind += pending.records;
        self.noted(&cursors);
        for done in pending.done {
            done();
        }
        self.deliver(&pending.actions, committed.actions_from);
        true
    }

    /// Makes something last that `records` hang on, however often it has to be tried.
    fn insist<T>(
        &mut self,
        records: u64,
        mut lasts: impl FnMut(&mut Db) -> Result<T, StateError>,
    ) -> Option<T> {
        let mut held: Option<Instant> = None;
        loop {
            // SQLite would go on writing into a file without a name, and what is told would last nowhere.
            if self.file.is_some() && file_in(&self.dir).is_ok_and(|file| file != self.file) {
                self.fail(&StateError::Gone { path: self.dir.join(FILE) });
                return None;
            }
            match lasts(&mut self.db) {
                Ok(done) => {
                    if let Some(since) = held {
                        warn!(
                            "{}: there is room again, going on after {:.0} s",
                            self.dir.display(),
                            since.elapsed().as_secs_f64()
                        );
                    }
                    self.shared.held.store(false, Ordering::Relaxed);
                    return Some(done);
                }
                Err(error) if error.is_retryable() => {
                    if held.is_none() {
                        error!(
                            "{error}; the source is held back and no action leaves until it works again"
                        );
                        self.errors.push(error.to_string());
                        self.shared.held.store(true, Ordering::Relaxed);
                    }
                    let since = *held.get_or_insert_with(Instant::now);
                    let ending = self.shared.ending.load(Ordering::Acquire)
                        || self.stop.load(Ordering::Relaxed) != 0;
                    if ending && since.elapsed() >= Duration::from_secs(2) {
                        if records > 0 {
                            error!(
                                "{}: the last {} records were not made to last; files and partitions are \
                                 read again from before them, standard input is not",
                                self.dir.display(),
                                records
                            );
                        }
                        self.shared.failed.store(true, Ordering::Relaxed);
                        return None;
                    }
                    thread::sleep(RETRY);
                }
                Err(error) => {
                    self.fail(&error);
                    return None;
                }
            }
        }
    }

    /// Gives actions, the first of which has the number `from`, to all sinks that are not behind.
    fn deliver(&mut self, actions: &[Action], from: i64) {
        let last = from - 1 + i64::try_from(actions.len()).unwrap_or(0);
        if last < from {
            return;
        }
        if let Some(board) = &self.watched {
            board.apply(actions);
        }
        self.remotes.ring(last);
        for outlet in &mut self.outlets {
            if outlet.failing.is_some() || outlet.cursor != from - 1 {
                continue;
            }
            if let Err(error) = outlet.give(actions.iter(), last, &self.shared) {
                outlet.fail(&error, &mut self.errors);
            }
        }
    }

    /// Finds out what sinks have that the state does not know of: it was set back, to a copy that is older than
    /// they are. Not of those that are `new` to it, whose lines may be anybody's.
    fn look_ahead(&mut self, new: &[(String, i64)]) {
        for outlet in &mut self.outlets {
            if new.iter().any(|(name, _)| *name == outlet.name) {
                continue;
            }
            // What cannot be read now is told when it is to be written.
            let Ok(last) = outlet.sink.known(1) else { continue };
            if last.iter().all(|id| self.db.has_action(id).unwrap_or(true)) {
                continue;
            }
            let Ok(mut ids) = outlet.sink.known(AHEAD_MAX) else { continue };
            ids.retain(|id| !self.db.has_action(id).unwrap_or(true));
            warn!(
                "the sink {} has {} lines that the state directory does not know; was it set back? Those among \
                 them that come again are not written again",
                outlet.name,
                grouped(u64::try_from(ids.len()).unwrap_or(u64::MAX))
            );
            outlet.has = ids;
        }
    }

    /// Lets sinks that are behind catch up from the outbox.
    fn catch_up(&mut self) {
        let last = match self.db.last_action() {
            Ok(last) => last,
            Err(error) => {
                warn!("{error}");
                return;
            }
        };
        for outlet in &mut self.outlets {
            let rests = outlet.failing.is_some_and(|tried| tried.elapsed() < RETRY);
            if outlet.cursor >= last || outlet.closed || rests {
                continue;
            }
            let caught = outlet.catch_up(&self.db, last, &self.shared);
            match (caught, outlet.waits) {
                (Ok(()), Some(since)) if !outlet.stuck && since.elapsed() >= STUCK => {
                    outlet.stuck = true;
                    let why = format!(
                        "sink {}: what it was given {} s ago was not read; its lines wait in the outbox",
                        outlet.name,
                        STUCK.as_secs()
                    );
                    error!("{why}");
                    self.errors.push(why);
                }
                (Ok(()), None) if outlet.failing.take().is_some() | outlet.stuck => {
                    outlet.stuck = false;
                    info!("sink {}: works again, nothing was lost", outlet.name);
                }
                (Ok(()), _) => {}
                (Err(error), _) => outlet.fail(&error, &mut self.errors),
            }
        }
    }

    /// What sinks have finished and the database does not know yet.
    fn finished(&self) -> Vec<(String, i64)> {
        let new = self.outlets.iter().filter(|outlet| outlet.noted != outlet.cursor);
        // Only what has reached the disk is finished: the others are asked at the next tidying.
        new.filter(|outlet| !outlet.sink.needs_sync())
            .map(|outlet| (outlet.name.clone(), outlet.cursor))
            .chain(self.far())
            .collect()
    }

    /// How far sinks on threads of their own are, where the database does not know it.
    fn far(&self) -> Vec<(String, i64)> {
        let mut far = self.remotes.cursors();
        far.retain(|(name, cursor)| self.far.get(name) != Some(cursor));
        far
    }

    fn noted(&mut self, cursors: &[(String, i64)]) {
        for (name, cursor) in cursors {
            if let Some(far) = self.far.get_mut(name) {
                *far = *cursor;
            }
            for outlet in self.outlets.iter_mut().filter(|outlet| outlet.name == *name) {
                outlet.noted = *cursor;
            }
        }
    }

    fn tidy(&mut self) {
        if self.tidied.elapsed() < TIDY {
            return;
        }
        self.tidied = Instant::now();
        self.catch_up();
        self.note_statuses();
        self.note_cursors(false);
        if let Some(writer) = &self.writer {
            writer.tidy();
        }
    }

    fn note_statuses(&self) {
        let Ok(last) = self.db.last_action() else { return };
        let status = |outlet: &Outlet| SinkStatus {
            name: outlet.name.clone(),
            state: if outlet.failing.is_some() || outlet.stuck { "failing" } else { "working" },
            waiting: u64::try_from(last - outlet.cursor).unwrap_or(0),
            delivered: outlet.delivered,
            ..SinkStatus::default()
        };
        let statuses = self.outlets.iter().map(status).collect();
        *self.shared.statuses.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
    }

    /// Notes what the sinks have finished, also those whose lines must be synced first.
    fn note_cursors(&mut self, last: bool) {
        if last {
            self.catch_up();
        }
        let mut cursors = self.far();
        for outlet in &mut self.outlets {
            if outlet.noted == outlet.cursor {
                continue;
            }
            match outlet.sink.sync() {
                Ok(()) => cursors.push((outlet.name.clone(), outlet.cursor)),
                Err(error) => outlet.fail(&error, &mut self.errors),
            }
        }
        if cursors.is_empty() {
            return;
        }
        match self.db.commit(&Commit { cursors: &cursors, ..Commit::default() }) {
            Ok(_) => self.noted(&cursors),
            // It is tried again with the next commit; at worst a sink is told something twice.
            Err(error) => warn!("{error}"),
        }
    }
}

impl Outlet {
    fn fail(&mut self, error: &dyn std::fmt::Display, errors: &mut Vec<String>) {
        if self.failing.replace(Instant::now()).is_none() {
            error!("sink {}: {error}; its lines wait in the outbox", self.name);
            errors.push(format!("sink {}: {error}", self.name));
        }
    }

    /// Gives it actions, the last of which has the number `last`.
    fn give<'a>(
        &mut self,
        actions: impl Iterator<Item = &'a Action>,
        last: i64,
        shared: &Shared,
    ) -> std::io::Result<()> {
        let mut count = 0;
        for action in actions {
            if !self.has.is_empty() && self.has.contains(&action.id) {
                continue;
            }
            count += 1;
            self.closed |= self.sink.deliver(action)? == Delivered::Closed;
        }
        self.given = last;
        self.settle(PATIENCE, shared)?;
        self.delivered += if self.closed { 0 } else { count };
        Ok(())
    }

    /// Whether something in it waits for a reader who has not gone.
    fn is_read(&self) -> bool {
        self.waits.is_some() && self.failing.is_none() && !self.closed
    }

    /// Sends out what it was given, waits no longer than `patience` for who reads it, and notes how far
    /// that came.
    fn settle(&mut self, patience: Duration, shared: &Shared) -> std::io::Result<()> {
        let flushed = self.sink.drain(patience);
        match flushed {
            Ok(Delivered::Yes) if !self.closed => {
                self.waits = None;
                self.cursor = self.given;
            }
            Ok(Delivered::Yes | Delivered::Closed) => {
                self.closed = true;
                shared.closed.store(true, Ordering::Relaxed);
            }
            Ok(Delivered::Waits) => _ = self.waits.get_or_insert_with(Instant::now),
            Err(_) if self.sink.retains() => _ = self.waits.get_or_insert_with(Instant::now),
            Err(_) => {}
        }
        flushed.map(|_| ())
    }

    fn catch_up(
        &mut self,
        db: &Db,
        last: i64,
        shared: &Shared,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if self.failing.is_some() {
            self.sink.reopen()?;
        }
        if self.waits.is_some() {
            self.settle(Duration::ZERO, shared)?;
        }
        let behind = usize::try_from(last - self.cursor).unwrap_or(0);
        // What it was told before it could be noted that it was.
        let known = self.sink.known(behind)?;
        while self.cursor < last && self.waits.is_none() && !self.closed {
            let stored = db.actions_after(self.cursor, PAGE)?;
            let Some(end) = stored.last().map(|action| action.seq) else { break };
            let mut actions = Vec::new();
            for stored in stored.iter().filter(|action| !known.contains(&action.id)) {
                actions.push(Action::of_json(&stored.line)?);
            }
            self.give(actions.iter(), end, shared)?;
        }
        Ok(())
    }
}

/// The thread that writes snapshots, so that commits wait for none.
struct Writer {
    send: SyncSender<Work>,
    thread: JoinHandle<()>,
}

enum Work {
    Snapshot { at: (i64, i64, u64), capture: Capture },
    Tidy,
}

impl Writer {
    fn start(mut snapshots: Snapshots, shared: &Arc<Shared>) -> Self {
        let shared = Arc::clone(shared);
        let (send, work) = sync_channel(1);
        let thread = thread::spawn(move || {
            // Records that snapshots written here contain: one that could not be written leaves its
            // records to the next.
            let mut contained = 0;
            while let Ok(work) = work.recv() {
                let done = match work {
                    Work::Snapshot { at: (journal, dictionary, behind), capture } => {
                        let Capture { pieces, keys } = capture;
                        let events = behind - contained;
                        let new =
                            NewSnapshot { journal, dictionary, events, keys, pieces: &pieces };
                        let written = snapshots.write(&new);
                        if written.is_ok() {
                            contained = behind;
                        }
                        let done = written.and_then(|_| snapshots.prune());
                        *shared.rooms.lock().unwrap_or_else(PoisonError::into_inner) = pieces;
                        shared.written.fetch_add(1, Ordering::AcqRel);
                        done.map(|_| ())
                    }
                    Work::Tidy => snapshots.checkpoint(),
                };
                if let Err(error) = done {
                    warn!(
                        "no snapshot was written: {error}; the journal is kept and it is tried again"
                    );
                }
            }
        });
        Self { send, thread }
    }

    fn write(&self, at: (i64, i64, u64), capture: Capture) {
        let _gone = self.send.send(Work::Snapshot { at, capture });
    }

    fn tidy(&self) {
        // While a snapshot is written, this waits for the next time.
        let _busy = self.send.try_send(Work::Tidy);
    }

    fn finish(self) {
        drop(self.send);
        let _panicked = self.thread.join();
    }
}
