//! Streaming: what arrives goes through the ordered half as it comes, and what follows goes out.
//!
//! One thread owns the ordered half. It takes what sources hand over (from one bounded queue, so that
//! what is said of a source stands in order with its lines), and hands on what follows: to the sinks
//! directly or, with a state directory, to the [keeper](super::keep), which makes it last first.

use super::keep::{self, Capture, Keeper, Step};
use super::{
    DRAIN_MAX, Delivery, Ended, Job, Pool, Stop, TICK, Ways, arrival, conclude_summary, fail, tell,
};
use crate::action::order::Order;
use crate::assembly::Assembly;
use crate::config::Settings;
use crate::decide::board::Board;
use crate::decode::time::Micros;
use crate::decode::{DecodeConfig, Decoded, decode};
use crate::engine::ask::{Ask, Status, asking};
use crate::engine::core::Core;
use crate::engine::entry::Journal;
use crate::engine::order::{DeadLetter, Engine};
use crate::engine::scan::{Scanned, Scanner};
use crate::engine::summary::Lag;
use crate::railway::Token;
use crate::serve::{self, ServeConfig, Server, Shared};
use crate::sink::kafka::{DeadLetters, Origin};
use crate::source::file::InputError;
use crate::source::follow::{FollowNote, FollowSettings, follow};
use crate::source::kafka::{self, KafkaEvent, KafkaSettings};
use crate::source::lines::LineReader;
use crate::source::position::RailwayPosition;
use crate::source::railway::{self, RailwayEvent, RailwaySettings};
use crate::source::{Batch, Position, stdin};
use crate::state::StateError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{debug, error, info, warn};

/// Numbers of partitions begin here, and standard input and Railway have one of their own: a state directory may be
/// used with one kind of source today and with another tomorrow, and places of one mean nothing to
/// another.
const PARTITIONS: u32 = 1 << 24;
const STDIN: u32 = 1 << 25;
const RAILWAY: u32 = 1 << 26;

/// How far out of order each of several partitions may be if nothing else is said, microseconds.
const REORDER: Micros = 2_000_000;

/// Why a stream cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its source.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The topic for records that cannot be read.
    #[error("`source.kafka.dead_letter`: {0}")]
    DeadLetters(std::io::Error),
    /// What is to be served cannot be.
    #[error("{0}")]
    Serve(String),
}

/// Where a stream comes from.
#[derive(Debug)]
pub enum Live {
    /// Standard input.
    Stdin,
    /// Files that are followed.
    Follow(FollowSettings),
    /// Topics of a Kafka cluster; bounded if its settings say where it ends.
    Kafka(KafkaSettings),
    /// The logs of a Railway environment.
    Railway {
        /// Which, and how.
        settings: Box<RailwaySettings>,
        /// Who asks.
        token: Token,
    },
}

/// Rules and patterns can be read again while a stream runs.
pub struct Reload<'r> {
    /// Set when somebody asked for it.
    pub asked: Arc<AtomicBool>,
    /// Reads them; the mistakes, if there are any.
    pub load: &'r dyn Fn() -> Result<Assembly, String>,
}

impl Reload<'_> {
    /// Nobody asks.
    pub fn never() -> Self {
        Self { asked: Arc::default(), load: &|| Err("nobody asked".to_owned()) }
    }
}

impl std::fmt::Debug for Reload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("asked", &self.asked).finish_non_exhaustive()
    }
}

/// What a live source hands over.
enum Incoming {
    Batch(Batch),
    Scanned(Receiver<Scanned>),
    /// A source has this name from here on.
    Opened(u32, String),
    /// Places in a source mean something else from here on.
    Anew(u32),
    /// A source has ended for good.
    Ended(u32),
    /// Lines were lost.
    Lost(String),
    Failed(String),
    Partition(u32, Partition),
    Lag(kafka::Lag),
}

/// What became of a partition.
enum Partition {
    Assigned { topic: String, partition: i32, anew: bool },
    Left,
    ReachedEnd,
}

/// Streams until the source ends or a signal comes.
///
/// # Errors
/// When the source cannot be opened at all, or the state directory cannot be used.
pub fn run(
    assembly: &Assembly,
    settings: &Settings,
    live: &Live,
    ways: Ways,
    stop: &Stop,
    reload: &Reload<'_>,
) -> Result<Ended, RunError> {
    let started = Instant::now();
    let mut engine = assembly.engine();
    let replayed = matches!(live, Live::Kafka(KafkaSettings { until: Some(_), .. }));
    let mut known = Vec::new();
    let (serve, watched) = (ways.serve.clone(), ways.watched());
    let board = Arc::clone(&ways.board);
    // The time that nothing ran counts like any in which nothing came.
    let down = settings.state_dir.as_deref().and_then(keep::noted_last).unwrap_or_default();
    let last = started.checked_sub(down).unwrap_or(started);
    let out = match &settings.state_dir {
        Some(dir) if !replayed => {
            let (core, mut recovered) =
                keep::recover(dir, &|| assembly.engine().core, watched.is_some())?;
            engine.core = core;
            known.clone_from(&recovered.positions);
            let names = engine.core.dictionary();
            let checkpoint = Duration::from_micros(settings.checkpoint.unsigned_abs());
            if let Some(board) = &watched {
                let standing = std::mem::take(&mut recovered.standing);
                let over = std::mem::take(&mut recovered.over);
                board.begin(standing, over, std::mem::take(&mut recovered.ends_before));
            }
            let keeper = Keeper::start(dir, recovered, &names, ways, checkpoint, stop)?;
            engine.core.journal = Some(Journal::default());
            // The allowlist may have been changed meanwhile.
            engine.core.lift_allowed(arrival().unwrap_or_default());
            Out::Kept(Box::new(keeper))
        }
        _ if replayed => Out::Direct(Delivery::new(ways, Some(stop))),
        _ => Out::Direct(Delivery::new(ways, None).apart(stop)),
    };
    if watched.is_some() {
        engine.core.watch_ends();
    }
    // Not before the board is filled: whoever asks would be told that nobody is blocked.
    let (_server, asks) = open_door(serve.as_ref(), board, settings)?;
    let pool = Pool::new(&assembly.scanner, settings.threads);
    let scanner = pool.scanner.clone();
    let (send, incoming) = sync_channel::<Incoming>(pool.depth.max(4));
    let stopping = Arc::new(AtomicBool::new(false));
    let (kafka, consuming) = read(live, settings, known, &mut engine, (send, pool), &stopping)?;
    let dead = dead_letters(live)?;
    engine.dead = dead.as_ref().map(|_| Vec::new());
    let reorder = match live {
        Live::Kafka(kafka) => kafka.reorder,
        _ => None,
    };
    let mut stream = LiveStream {
        engine,
        out,
        watched,
        scanner: Arc::clone(&assembly.scanner),
        shared: scanner,
        last,
        railway: RailwayLook::default(),
        progress: kafka,
        replayed,
        partitions: BTreeMap::new(),
        reorder,
        idle_after: match live {
            Live::Kafka(kafka) => Duration::from_micros(kafka.idle_after.unsigned_abs()),
            _ => Duration::ZERO,
        },
        done: Vec::new(),
        gone: Vec::new(),
        lag: None,
        dead,
        asks,
        ordered: 0,
        delay: None,
    };
    stream.serve(&incoming, stop, &stopping, reload);
    stopping.store(true, Ordering::Relaxed);
    let unstarted = consuming.and_then(|thread| stream.conclude(thread, &incoming));
    let railway_input = (matches!(live, Live::Stdin)
        && stop.load(Ordering::Relaxed) == 0
        && stream.railway.is_railway())
    .then(|| stream.last.elapsed());
    let mut ended = stream.end(assembly, stop, started);
    (ended.railway_input, ended.unstarted) = (railway_input, unstarted);
    Ok(ended)
}

/// Begins to read, on a thread of its own, from the known places.
fn read(
    live: &Live,
    settings: &Settings,
    known: Vec<(u32, Position)>,
    engine: &mut Engine,
    (send, pool): (SyncSender<Incoming>, Pool),
    stopping: &Arc<AtomicBool>,
) -> Result<(Option<Arc<kafka::Progress>>, Option<Consuming>), RunError> {
    match live {
        Live::Kafka(kafka_settings) => {
            let partitions = known.iter().filter_map(|(source, position)| match position {
                Position::Partition(place) => {
                    Some((source.checked_sub(PARTITIONS)?, place.clone()))
                }
                _ => None,
            });
            let consumed = (kafka_settings.clone(), partitions.collect());
            let (thread, progress) = consume(consumed, send, pool, Arc::clone(stopping));
            return Ok((Some(progress), Some(thread)));
        }
        Live::Railway { settings, token } => {
            engine.name_source(RAILWAY, "railway", None);
            // Its places are counted from the start of the process; what comes twice is known by what
            // it says.
            engine.anew(RAILWAY);
            let known = known.into_iter().find_map(|(_, position)| match position {
                Position::Railway(place) => Some(place),
                _ => None,
            });
            let reading = ((**settings).clone(), token.clone(), known);
            return Ok((None, Some(read_railway(reading, send, pool, Arc::clone(stopping)))));
        }
        Live::Stdin => {
            engine.name_source(STDIN, "standard input", arrival());
            // Its places mean nothing to another process.
            engine.anew(STDIN);
            read_stdin(stdin::open_stdin(STDIN, settings.max_line, settings.block)?, send, pool);
        }
        Live::Follow(follow_settings) => {
            let files = known.iter().filter_map(|(source, position)| match position {
                Position::File(place) => Some((*source, place.clone())),
                _ => None,
            });
            let settings = FollowSettings { resume: files.collect(), ..follow_settings.clone() };
            follow_files(settings, send, pool, Arc::clone(stopping));
        }
    }
    Ok((None, None))
}

/// Starts to serve, if that is wanted; questions come out of what it gives.
fn open_door(
    serve: Option<&ServeConfig>,
    board: Arc<Board>,
    settings: &Settings,
) -> Result<(Option<Server>, Option<Receiver<Ask>>), RunError> {
    let Some(config) = serve else { return Ok((None, None)) };
    let (asker, asks) = asking();
    let shared = Arc::new(Shared { board, asker, state_dir: settings.state_dir.clone() });
    Ok((Some(serve::start(config, shared).map_err(RunError::Serve)?), Some(asks)))
}

fn read_stdin(
    mut reader: LineReader<impl Read + Send + 'static>,
    send: SyncSender<Incoming>,
    pool: Pool,
) {
    thread::spawn(move || {
        loop {
            match reader.next_batch() {
                Ok(Some(batch)) => {
                    if !hand_over(&send, &pool, batch) {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    let _gone = send.send(Incoming::Failed(format!("standard input: {error}")));
                    return;
                }
            }
        }
    });
}

fn follow_files(
    settings: FollowSettings,
    send: SyncSender<Incoming>,
    pool: Pool,
    stopping: Arc<AtomicBool>,
) {
    thread::spawn(move || {
        let notes = send.clone();
        let mut on_note = |note: FollowNote| {
            let loss = note.is_loss();
            let text = note.to_string();
            let told = match note {
                FollowNote::Opened { path, source } => {
                    Some(Incoming::Opened(source, path.display().to_string()))
                }
                FollowNote::Truncated { source, .. } | FollowNote::Overwritten { source, .. } => {
                    Some(Incoming::Anew(source))
                }
                FollowNote::Failed { .. } => Some(Incoming::Failed(text.clone())),
                FollowNote::Ended { source, .. } => Some(Incoming::Ended(source)),
                _ => None,
            };
            if loss {
                let _gone = notes.send(Incoming::Lost(text));
            } else if !matches!(told, Some(Incoming::Failed(_) | Incoming::Ended(_))) {
                info!("{text}");
            }
            if let Some(told) = told {
                let _gone = notes.send(told);
            }
        };
        let mut on_batch = |batch| hand_over(&send, &pool, batch);
        if let Err(error) = follow(&settings, &stopping, &mut on_batch, &mut on_note) {
            let _gone = send.send(Incoming::Failed(error.to_string()));
        }
    });
}

/// What reads on a thread of its own; why it could not begin, if so.
type Consuming = thread::JoinHandle<Result<(), String>>;
type Consumed = (KafkaSettings, Vec<(u32, crate::source::position::PartitionPosition)>);

/// Reads Kafka on a thread of its own.
fn consume(
    (settings, known): Consumed,
    send: SyncSender<Incoming>,
    pool: Pool,
    stopping: Arc<AtomicBool>,
) -> (Consuming, Arc<kafka::Progress>) {
    let progress = Arc::new(kafka::Progress::default());
    let shared = Arc::clone(&progress);
    let thread = thread::spawn(move || {
        let mut chosen = BTreeSet::new();
        let mut on_event = |event: KafkaEvent| {
            let told = match event {
                KafkaEvent::Batch(mut batch) => {
                    batch.source += PARTITIONS;
                    return hand_over(&send, &pool, batch);
                }
                KafkaEvent::Assigned { source, topic, partition, from } => {
                    // Where reading was told to begin elsewhere than where it ended, its places
                    // may be those of a topic that was made anew.
                    let known = known.iter().find(|(known, _)| *known == source);
                    let elsewhere = known.is_some_and(|(_, place)| place.next != from);
                    let anew = settings.from_chosen && elsewhere && chosen.insert(source);
                    let word = Partition::Assigned { topic, partition, anew };
                    Incoming::Partition(source + PARTITIONS, word)
                }
                KafkaEvent::Revoked { source } | KafkaEvent::Lost { source } => {
                    Incoming::Partition(source + PARTITIONS, Partition::Left)
                }
                KafkaEvent::ReachedEnd { source } => {
                    Incoming::Partition(source + PARTITIONS, Partition::ReachedEnd)
                }
                KafkaEvent::Failed(error) => Incoming::Failed(error),
                KafkaEvent::Note(note) => {
                    info!("{note}");
                    return true;
                }
                KafkaEvent::Lag(lag) => Incoming::Lag(lag),
            };
            send.send(told).is_ok()
        };
        kafka::consume(&settings, &known, &shared, &stopping, &mut on_event)
            .map_err(|error| error.to_string())
    });
    (thread, progress)
}

/// Reads the logs of a Railway environment on a thread of its own.
fn read_railway(
    (settings, token, known): (RailwaySettings, Token, Option<RailwayPosition>),
    send: SyncSender<Incoming>,
    pool: Pool,
    stopping: Arc<AtomicBool>,
) -> Consuming {
    thread::spawn(move || {
        let mut on_event = |event: RailwayEvent| {
            let told = match event {
                RailwayEvent::Batch(batch) => {
                    return hand_over(&send, &pool, Batch { source: RAILWAY, ..batch });
                }
                RailwayEvent::Lost(text) => Incoming::Lost(text),
                RailwayEvent::Failed(error) => Incoming::Failed(error),
                RailwayEvent::Note(note) => {
                    info!("{note}");
                    return true;
                }
            };
            send.send(told).is_ok()
        };
        railway::stream(&settings, token, known.as_ref(), &stopping, &mut on_event)
            .map_err(|error| error.to_string())
    })
}

fn hand_over(send: &SyncSender<Incoming>, pool: &Pool, batch: Batch) -> bool {
    let Some(jobs) = &pool.jobs else {
        return send.send(Incoming::Batch(batch)).is_ok();
    };
    let (reply, result) = sync_channel(1);
    send.send(Incoming::Scanned(result)).is_ok() && jobs.send(Job { batch, reply }).is_ok()
}

/// Where what follows goes.
enum Out {
    /// To the sinks.
    Direct(Delivery),
    /// To the keeper.
    Kept(Box<Keeper>),
}

/// A partition that is read.
#[derive(Debug, Default)]
struct Reading {
    /// It was read to its end then, and nothing has come since.
    at_end: Option<Instant>,
    /// What was applied of it and lies further on than another partition is: the newest time of each
    /// batch, and its weight. As long as it counts as held, a partition that is ahead is not read on.
    ahead: VecDeque<(Option<Micros>, u64)>,
}

struct LiveStream {
    engine: Engine,
    out: Out,
    /// What is in force, if anybody looks at it.
    watched: Option<Arc<Board>>,
    scanner: Arc<Scanner>,
    /// What the workers scan with.
    shared: super::Shared,
    /// When something last arrived.
    last: Instant,
    railway: RailwayLook,
    /// Of a Kafka source: what may be committed.
    progress: Option<Arc<kafka::Progress>>,
    /// It is a replay: no record has a time of arrival, and nothing ends by the wall clock.
    replayed: bool,
    partitions: BTreeMap<u32, Reading>,
    /// How far out of order partitions may be, if it was said.
    reorder: Option<Micros>,
    idle_after: Duration,
    /// To be done when what was applied lasts.
    done: Vec<keep::Done>,
    /// Sources whose places are no longer wanted.
    gone: Vec<u32>,
    lag: Option<Lag>,
    /// Where copies of records go that cannot be read.
    dead: Option<DeadLetters>,
    /// Questions of others.
    asks: Option<Receiver<Ask>>,
    /// Time of the last order: no two have the same.
    ordered: Micros,
    /// How far the newest record was behind the wall clock when it was applied.
    delay: Option<Micros>,
}

/// The topic for records that cannot be read, if there is to be one. A replay leaves no trace.
fn dead_letters(live: &Live) -> Result<Option<DeadLetters>, RunError> {
    match live {
        Live::Kafka(KafkaSettings {
            dead_letter: Some(topic), until: None, connection, ..
        }) => DeadLetters::open(connection, topic).map(Some).map_err(RunError::DeadLetters),
        _ => Ok(None),
    }
}

impl LiveStream {
    fn serve(
        &mut self,
        incoming: &Receiver<Incoming>,
        stop: &Stop,
        stopping: &AtomicBool,
        reload: &Reload<'_>,
    ) {
        let mut told = Instant::now();
        let mut looked = Instant::now();
        let mut draining: Option<Instant> = None;
        loop {
            match incoming.recv_timeout(TICK) {
                Ok(incoming) => {
                    self.take(incoming);
                    if looked.elapsed() >= TICK {
                        looked = Instant::now();
                        self.idle();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if draining.is_some() {
                        return;
                    }
                    self.release();
                    self.idle();
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.answer();
            self.hand_on();
            tell(&mut self.engine);
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                self.engine.forget_told();
                if let Some(lag) = self.lag.as_ref().filter(|lag| lag.total > 0) {
                    info!("kafka: {} records behind", lag.total);
                }
            }
            if reload.asked.swap(false, Ordering::Relaxed) {
                self.reload(reload);
            }
            let over = match &self.out {
                Out::Direct(delivery) => delivery.closed,
                Out::Kept(keeper) => keeper.is_over(),
            };
            if over {
                return;
            }
            if stop.load(Ordering::Relaxed) != 0 {
                stopping.store(true, Ordering::Relaxed);
                let since = draining.get_or_insert_with(Instant::now);
                if since.elapsed() > DRAIN_MAX {
                    warn!(
                        "the source goes on after {DRAIN_MAX:?}: what it has written since is not read"
                    );
                    return;
                }
            }
        }
    }

    /// Answers those who ask.
    fn answer(&mut self) {
        let asks: Vec<Ask> = self.asks.iter().flat_map(Receiver::try_iter).collect();
        for ask in asks {
            match ask {
                Ask::Order(order, reply) => {
                    let at = arrival().unwrap_or_default().max(self.ordered + 1);
                    self.ordered = at;
                    let order = Order { at, ..order };
                    let carried = self.engine.core.order(&order);
                    if carried.refused.is_some() {
                        // There is nothing that would have to last.
                        drop(reply.send(carried));
                        continue;
                    }
                    // What lasts is told; whoever has gone meanwhile finds it anyway.
                    self.done.push(Box::new(move || drop(reply.send(carried))));
                }
                Ask::Why(target, reply) => {
                    let now = self.now().or_else(arrival).unwrap_or_default();
                    drop(reply.send(self.engine.core.why(&target, now)));
                }
                Ask::Spared(reply) => {
                    drop(reply.send(self.engine.core.spared(arrival().unwrap_or_default())));
                }
                Ask::Status(reply) => drop(reply.send(Arc::new(self.status()))),
            }
        }
        let dropped = match &self.out {
            Out::Direct(delivery) => delivery.watch.take_dropped(),
            Out::Kept(_) => 0,
        };
        if dropped > 0 {
            let time = self.engine.core.clock().or_else(arrival).unwrap_or_default();
            self.engine.core.sink_overflowed(time);
        }
    }

    /// The stream's time: its clock, carried on while nothing comes.
    fn now(&self) -> Option<Micros> {
        let elapsed = Micros::try_from(self.last.elapsed().as_micros()).unwrap_or(0);
        self.engine.core.clock().map(|clock| clock.saturating_add(elapsed))
    }

    fn status(&self) -> Status {
        let core = &self.engine.core;
        let (sinks, unready) = match &self.out {
            Out::Direct(delivery) => (delivery.statuses(), None),
            Out::Kept(keeper) => {
                let held = "the state directory takes nothing: the source is held back";
                (keeper.statuses(), keeper.is_held().then(|| held.to_owned()))
            }
        };
        let mut summary = core.summary_now();
        summary.lag.clone_from(&self.lag);
        Status {
            patterns: core.patterns().to_vec(),
            rules: core
                .detector()
                .rules()
                .iter()
                .map(|rule| (rule.id.clone(), rule.pack.clone()))
                .collect(),
            clock: core.clock(),
            delay_s: self.delay.map(|delay| delay as f64 / 1e6),
            state_bytes: summary.state_bytes,
            keys: summary.keys_held,
            sinks,
            unready,
            summary,
        }
    }

    /// Copies what could not be read, before the places behind it are kept.
    fn bury(&mut self) {
        let (Some(letters), Some(dead)) = (&mut self.dead, &mut self.engine.dead) else { return };
        if dead.is_empty() {
            return;
        }
        let mut sent = Ok(());
        for letter in dead.drain(..) {
            let DeadLetter { topic, partition, offset, reason, value } = letter;
            let origin = Origin { topic: &topic, partition, offset };
            sent = sent.and(letters.put(origin, &reason, &value));
        }
        if let Err(error) = sent.and_then(|()| letters.flush()) {
            fail(&mut self.engine, format!("kafka: dead letters: {error}"));
        }
    }

    /// Hands on what has followed so far.
    fn hand_on(&mut self) {
        self.bury();
        let actions = self.engine.take_actions();
        let prolonged = self.engine.core.take_prolonged();
        if let Some(board) = self.watched.as_ref().filter(|_| !prolonged.is_empty()) {
            let board = Arc::clone(board);
            self.done.push(Box::new(move || board.prolong(&prolonged)));
        }
        let done = std::mem::take(&mut self.done);
        match &mut self.out {
            Out::Direct(delivery) => {
                delivery.send(&actions, &mut self.engine.core.summary);
                // Also without any: whoever read may have gone meanwhile.
                delivery.flush(&mut self.engine.core.summary);
                // Nothing lasts any longer than this.
                done.into_iter().for_each(|done| done());
            }
            Out::Kept(keeper) => {
                let journal =
                    self.engine.core.journal.as_mut().map(Journal::take).unwrap_or_default();
                let positions = self.engine.take_positions();
                let gone = std::mem::take(&mut self.gone);
                let idle = journal.entries == 0 && actions.is_empty();
                if !idle || !positions.is_empty() || !gone.is_empty() || !done.is_empty() {
                    keeper.step(Step { journal, actions, positions, gone, done });
                }
                if keeper.is_due(self.engine.core.keys()) {
                    self.engine.core.begin_capture(keeper.capture_begins());
                }
                // A moment of it at a time.
                if let Some(pieces) = self.engine.core.go_on_capturing() {
                    let keys = u64::try_from(self.engine.core.keys()).unwrap_or(0);
                    keeper.captured(Capture { pieces, keys });
                }
            }
        }
    }

    fn take(&mut self, incoming: Incoming) {
        let scanned = match incoming {
            Incoming::Batch(batch) => self.scanner.scan(batch),
            Incoming::Scanned(result) => match result.recv() {
                Ok(scanned) => scanned,
                Err(_) => return,
            },
            other => return self.take_word(other),
        };
        // Numbers in what was scanned before a reload mean something else.
        let scanned = if scanned.generation == self.scanner.generation {
            scanned
        } else {
            self.scanner.scan(scanned.batch)
        };
        self.railway.look(&scanned.batch, &self.scanner.decode);
        let behind = scanned.batch.mark.clone();
        let (source, weight) = (scanned.batch.source, kafka::weight(&scanned.batch));
        let before = self.engine.core.summary.newest();
        let clock = self.engine.core.clock();
        self.engine.apply_batch(scanned, arrival().filter(|_| !self.replayed));
        if let Some(newest) = self.engine.core.summary.newest().filter(|n| Some(*n) != before) {
            self.delay = arrival().map(|now| now.saturating_sub(newest).max(0));
        }
        // What moves no clock does not keep it from going on either.
        if self.engine.core.clock() != clock {
            self.last = Instant::now();
        }
        let Some(progress) = &self.progress else { return };
        match self.partitions.get_mut(&source) {
            Some(reading) if self.engine.merging => {
                reading.at_end = None;
                reading.ahead.push_back((self.engine.newest(source), weight));
            }
            _ => progress.released(source.wrapping_sub(PARTITIONS), weight),
        }
        if let Some(Position::Partition(place)) = behind.as_deref() {
            let (progress, next, clock) =
                (Arc::clone(progress), place.next, self.engine.core.clock());
            let source = source.wrapping_sub(PARTITIONS);
            self.done.push(Box::new(move || progress.applied(source, next, clock)));
        }
        self.release();
    }

    /// Takes what a source says beside its lines.
    fn take_word(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Batch(_) | Incoming::Scanned(_) => {}
            Incoming::Opened(source, name) => self.engine.name_source(source, &name, arrival()),
            Incoming::Anew(source) => self.engine.anew(source),
            Incoming::Ended(source) => {
                self.engine.anew(source);
                self.gone.push(source);
            }
            Incoming::Lost(what) => {
                warn!("{what}");
                let time = self.engine.core.clock().or_else(arrival).unwrap_or(0);
                let reason = "lines of a source were lost while nobody was reading it: the log of \
                              Portcullis says which";
                self.engine.core.source_note(time, reason.to_owned());
            }
            Incoming::Failed(error) => fail(&mut self.engine, error),
            Incoming::Partition(source, word) => match word {
                Partition::Assigned { topic, partition, anew } => {
                    if anew {
                        self.engine.anew(source);
                    }
                    self.engine.name_partition(source, &topic, partition);
                    // It may be ours already: then its client was made anew.
                    self.partitions.entry(source).or_default();
                    self.engine.merging =
                        self.reorder.map_or(self.partitions.len() > 1, |reorder| reorder > 0);
                }
                Partition::Left => {
                    let left = self.partitions.remove(&source);
                    if let (Some(left), Some(progress)) = (left, &self.progress) {
                        let weight = left.ahead.iter().map(|(_, weight)| weight).sum();
                        progress.released(source.wrapping_sub(PARTITIONS), weight);
                    }
                    self.release();
                }
                Partition::ReachedEnd => {
                    if let Some(reading) = self.partitions.get_mut(&source) {
                        reading.at_end.get_or_insert_with(Instant::now);
                    }
                }
            },
            Incoming::Lag(lag) => {
                let kafka::Lag { total, sources } = lag;
                let name = |source: u32| self.engine.name(source + PARTITIONS).to_owned();
                let partitions =
                    sources.into_iter().map(|(source, behind)| (name(source), behind)).collect();
                let lag = Lag { total, partitions };
                debug!("kafka: behind by {lag:?}");
                self.lag = Some(lag);
            }
        }
    }

    /// Applies the records that no partition can bring an earlier one for any more, and lets those
    /// partitions be read on that are not ahead.
    fn release(&mut self) {
        let slowest = self.slowest();
        if let Some(progress) = &self.progress {
            for (source, reading) in &mut self.partitions {
                // The slowest one itself is never held.
                while let Some((_, weight)) = reading
                    .ahead
                    .pop_front_if(|(newest, _)| slowest.is_some() && *newest <= slowest)
                {
                    progress.released(source.wrapping_sub(PARTITIONS), weight);
                }
            }
        }
        if let Some(slowest) = slowest {
            let reorder = self.reorder.unwrap_or(REORDER);
            let before =
                if slowest == Micros::MAX { slowest } else { slowest.saturating_sub(reorder) };
            self.engine.core.release(before);
        }
    }

    /// How far the slowest partition is; none if one has shown nothing yet, or if there is none: those
    /// that will be given to this instance can hold anything.
    fn slowest(&self) -> Option<Micros> {
        if self.partitions.is_empty() && !self.replayed {
            return None;
        }
        let mut slowest = Micros::MAX;
        for (source, reading) in &self.partitions {
            // Of a replay every partition ends; then there is nothing to wait for.
            let wait = if self.replayed { Duration::ZERO } else { self.idle_after };
            if reading.at_end.is_some_and(|since| since.elapsed() >= wait) {
                continue;
            }
            // What it has not shown yet can be anything.
            slowest = slowest.min(self.engine.newest(*source)?);
        }
        Some(slowest)
    }

    /// Other rules and patterns: what stays keeps its windows.
    fn reload(&mut self, reload: &Reload<'_>) {
        let assembly = match (reload.load)() {
            Ok(assembly) => assembly,
            Err(mistakes) => {
                error!("{mistakes}");
                let why = "a reload was refused: the rules of before go on";
                fail(&mut self.engine, why.to_owned());
                return;
            }
        };
        let mut next = assembly.engine();
        // What follows from the rules of before goes out first, also a capture that is under way.
        self.hand_on();
        self.finish_capture();
        let bytes = self.engine.core.capture_all();
        if let Err(why) = next.core.restore(&bytes, &self.engine.core.dictionary()) {
            fail(
                &mut self.engine,
                format!("a reload was refused: the state cannot be taken over: {why}"),
            );
            return;
        }
        drop(bytes);
        self.engine.go_on_with(next);
        self.engine.core.lift_allowed(arrival().unwrap_or_default());
        self.scanner = Arc::clone(&assembly.scanner);
        self.shared.set(&assembly.scanner);
        if let Out::Kept(keeper) = &mut self.out {
            keeper.dictionary(&self.engine.core.dictionary());
            keeper.reopen();
            // From here a restart need not know the rules of before, and what those that have gone
            // decided is not forgotten.
            self.engine.core.begin_capture(keeper.capture_begins());
            finish_capture(&mut self.engine.core, keeper);
            keeper.settle();
        } else if let Out::Direct(delivery) = &mut self.out {
            delivery.reopen(&mut self.engine.core.summary);
        }
        info!("reloaded: {} rules", assembly.rules.len());
    }

    fn finish_capture(&mut self) {
        if let Out::Kept(keeper) = &mut self.out {
            finish_capture(&mut self.engine.core, keeper);
        }
    }

    /// Waits for the consumer to commit and to leave; gives what kept it from beginning.
    fn conclude(&mut self, thread: Consuming, incoming: &Receiver<Incoming>) -> Option<String> {
        let until = Instant::now() + kafka::CLOSE_MAX;
        while !thread.is_finished() && Instant::now() < until {
            if let Ok(incoming) = incoming.recv_timeout(TICK) {
                self.take(incoming);
            }
            self.hand_on();
        }
        if !thread.is_finished() {
            warn!("the reader of the source does not end; it ends with the process");
            return None;
        }
        while let Ok(incoming) = incoming.try_recv() {
            self.take(incoming);
        }
        let error = thread.join().ok()?.err()?;
        if self.engine.core.summary.lines.total == 0 {
            return Some(error);
        }
        fail(&mut self.engine, error);
        None
    }

    /// The stream is idle: decisions still end in time.
    fn idle(&mut self) {
        if self.replayed {
            return;
        }
        // Before there is any record, only what people ordered can end, and they go by the wall clock.
        let records = self.engine.core.newest().is_some();
        let clock = self.now().or_else(|| arrival().filter(|_| !records));
        let (Some(clock), Some(end)) = (clock, self.engine.core.next_end()) else {
            return;
        };
        if clock >= end {
            self.engine.core.idle_until(clock);
        }
    }

    /// Nothing comes any more.
    fn end(mut self, assembly: &Assembly, stop: &Stop, started: Instant) -> Ended {
        // With a state directory, what waits for other partitions goes on waiting after a restart.
        if !matches!(self.out, Out::Kept(_)) {
            self.engine.core.release(Micros::MAX);
        }
        self.engine.finish();
        self.hand_on();
        tell(&mut self.engine);
        self.finish_capture();
        let (closed, errors) = match self.out {
            Out::Direct(mut delivery) => {
                let errors = delivery.finish();
                (delivery.closed, errors)
            }
            Out::Kept(mut keeper) => {
                // A restart then has nothing to apply again.
                if !keeper.is_over() {
                    self.engine.core.begin_capture(keeper.capture_begins());
                    finish_capture(&mut self.engine.core, &mut keeper);
                }
                let (errors, closed) = keeper.finish();
                (closed, errors)
            }
        };
        let mut engine = self.engine;
        engine.core.summary.errors.extend(errors);
        engine.core.summary.lag = self.lag;
        conclude_summary(engine, assembly, stop, started, closed)
    }
}

/// Brings a capture that is under way to its end.
fn finish_capture(core: &mut Core, keeper: &mut Keeper) {
    while core.is_capturing() {
        if let Some(pieces) = core.go_on_capturing() {
            keeper.captured(Capture { pieces, keys: u64::try_from(core.keys()).unwrap_or(0) });
        }
    }
}

/// Whether the first lines of standard input look as the Railway CLI prints them.
#[derive(Debug, Default)]
struct RailwayLook {
    seen: u32,
    fits: u32,
}

impl RailwayLook {
    const LINES: u32 = 20;

    fn look(&mut self, batch: &Batch, config: &DecodeConfig) {
        for line in batch.lines() {
            if self.seen >= Self::LINES {
                return;
            }
            self.seen += 1;
            self.fits += u32::from(Self::fits(line, config));
        }
    }

    fn fits(line: &[u8], config: &DecodeConfig) -> bool {
        let Decoded::Records(records) = decode(line, config) else { return false };
        // In an envelope it came by another way.
        matches!(&records[..], [record] if record.layers().count() == 1 && record.is_of_railways_cli())
    }

    fn is_railway(&self) -> bool {
        self.fits > 0 && self.fits * 2 >= self.seen
    }
}
