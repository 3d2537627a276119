//! Wiring: threads, bounded queues, order and shutdown. The only file that starts threads.
//!
//! A reader thread per input cuts it into batches; a pool of workers scans them in any order; each
//! batch carries the promise of its result in an ordered queue, so that the one thread that
//! applies them sees input order whatever the workers do. Lines of a replay are written on a thread
//! of their own. With one thread everything happens in turn on it. Every queue is bounded: a slow end holds the beginning back.

mod keep;
mod live;
mod remotes;

pub use remotes::Driven;

pub use live::{Live, Reload, RunError, run};

use crate::action::Action;
use crate::assembly::Assembly;
use crate::config::Settings;
use crate::decide::board::Board;
use crate::decide::line::Due;
use crate::decode::time::{Micros, When};
use crate::decode::{Decoded, decode};
use crate::engine::ask::SinkStatus;
use crate::engine::order::{Cursor, Engine};
use crate::engine::scan::{Scanned, Scanner};
use crate::engine::summary::{Summary, grouped};
use crate::serve::ServeConfig;
use crate::sink::{Delivered, Sink};
use crate::source::file::{self, Input, InputError};
use crate::source::lines::{LineReader, Spares};
use crate::source::{Batch, stdin};
use remotes::{Outbox, Remotes, Watch};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::{debug, error, info, warn};

/// Files of one replay that are open at the same time.
const OPEN_MAX: usize = 64;
/// How much of a file is read to find its first time, bytes.
const PEEK_MAX: usize = 1 << 20;
/// How often an idle stream looks at its ends and at signals.
const TICK: Duration = Duration::from_millis(20);
/// How long a stream may go on draining after it was told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(2);
/// Batches that wait between reader and applier, per input and worker.
const QUEUE_PER_WORKER: usize = 2;

/// Lines that are written before they are sent.
const WRITTEN: usize = 16;
/// Lists of lines that wait to be written.
const LINES_QUEUE: usize = 4;

/// Errors that the summary repeats; the log has all of them.
const ERRORS_MAX: usize = 100;
/// Bytes that may wait for who reads a live stream's standard output.
const UNREAD_MAX: usize = 16 << 20;
/// How long is waited for him before it is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long the end waits, after a signal, for a reader that is behind.
const LAST: Duration = Duration::from_secs(2);

/// Told by signals: 0 go on, else the signal's number.
pub type Stop = Arc<AtomicUsize>;

/// What is shown while a replay runs.
pub trait Progress {
    /// Bytes taken from disk, lines read and actions so far.
    fn show(&mut self, bytes: u64, lines: u64, actions: u64);
    /// Whether something is on the terminal that lines would run into.
    fn visible(&self) -> bool;
    /// Does `work`, which writes to the terminal, out of the way of what is shown.
    fn aside(&mut self, work: &mut dyn FnMut());
}

/// Says what a stream came to.
#[derive(Debug)]
pub struct Ended {
    /// The accounting.
    pub summary: Summary,
    /// The signal that ended it, if one did.
    pub signal: Option<usize>,
    /// Standard input ended and looked like Railway's; how long it had been quiet before.
    pub railway_input: Option<Duration>,
    /// Nobody reads the actions any more.
    pub closed: bool,
    /// Why the source gave nothing at all, if it could not begin.
    pub unstarted: Option<String>,
}

/// Where actions go, and who asks meanwhile.
#[derive(Debug, Default)]
pub struct Ways {
    /// Sinks that are written to in turn.
    pub sinks: Vec<Sink>,
    /// Sinks on threads of their own.
    pub remotes: Vec<Driven>,
    /// What is in force.
    pub board: Arc<Board>,
    /// How what is in force is served while a stream runs.
    pub serve: Option<ServeConfig>,
}

impl Ways {
    /// What is in force, if anybody looks at it: to keep it for nobody would cost memory per decision.
    fn watched(&self) -> Option<Arc<Board>> {
        let anybody = self.serve.is_some() || !self.remotes.is_empty();
        anybody.then(|| Arc::clone(&self.board))
    }
}

/// A sink that is written to in turn.
struct Direct {
    sink: Sink,
    failing: bool,
    /// It has taken a line since it failed last; whether that has left, a flush says.
    tried: bool,
    /// Lines that it did not take since it failed.
    lost: u64,
    /// That nobody reads it was said.
    stuck: bool,
}

/// Lines to their sinks; errors are told once per sink and counted.
struct Delivery {
    sinks: Vec<Direct>,
    remotes: Remotes,
    watch: Watch,
    watched: Option<Arc<Board>>,
    /// A sink that has no room is waited for, unless this is told to stop.
    waits: Option<Stop>,
    /// Of a live stream: whoever reads slowly is waited for at the end, unless this is told to stop.
    live: Option<Stop>,
    closed: bool,
    sent: u64,
}

impl Delivery {
    fn new(ways: Ways, waits: Option<&Stop>) -> Self {
        let watched = ways.watched();
        let Ways { sinks, remotes, board, .. } = ways;
        let cursors = vec![0; remotes.len()];
        let remotes = Remotes::start(remotes, &cursors, 0, &Outbox::Memory, &board);
        Self {
            sinks: sinks
                .into_iter()
                .map(|sink| Direct { sink, failing: false, tried: false, lost: 0, stuck: false })
                .collect(),
            watch: remotes.watch(),
            remotes,
            watched,
            waits: waits.cloned(),
            live: None,
            closed: false,
            sent: 0,
        }
    }

    fn send(&mut self, actions: &[Action], summary: &mut Summary) {
        if !actions.is_empty() {
            if let Some(board) = &self.watched {
                board.apply(actions);
            }
            self.remotes.hand(actions, self.waits.as_ref());
        }
        for action in actions {
            self.sent += 1;
            for direct in &mut self.sinks {
                let delivered = direct.sink.deliver(action);
                direct.tried = delivered.is_ok();
                direct.lost += u64::from(delivered.is_err());
                direct.note(delivered, &mut self.closed, &mut summary.errors);
            }
        }
    }

    /// Writes lines and sends them, few at a time: a whole batch of them would not stay in the
    /// processor's memory until they are sent.
    fn write(&mut self, due: Vec<Due>, summary: &mut Summary) {
        let mut due = due.into_iter();
        while due.len() > 0 {
            let actions: Vec<Action> = due.by_ref().take(WRITTEN).map(Due::action).collect();
            self.send(&actions, summary);
        }
    }

    /// Opens what can be opened anew: files may have been rotated.
    fn reopen(&mut self, summary: &mut Summary) {
        for Direct { sink, .. } in &mut self.sinks {
            if let Err(error) = sink.reopen() {
                let name = sink.name();
                error!(
                    "sink {name}: {error}; it goes on with what it had open, until the next SIGHUP"
                );
                summary.errors.push(format!("sink {name}: {error}"));
            }
        }
    }

    /// Lets nobody who does not read standard output hold up the sinks on threads of their own.
    fn apart(mut self, stop: &Stop) -> Self {
        for Direct { sink, .. } in &mut self.sinks {
            if let Err(error) = sink.go_apart(UNREAD_MAX) {
                warn!("sink {}: {error}; who does not read it holds up the stream", sink.name());
            }
        }
        self.live = Some(Arc::clone(stop));
        self
    }

    /// Lets sinks on threads of their own finish; gives what went wrong.
    fn finish(&mut self) -> Vec<String> {
        let all = self.waits.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed) == 0);
        let mut errors = self.remotes.finish(all);
        let Some(stop) = &self.live else { return errors };
        let mut signalled: Option<Instant> = None;
        for direct in &mut self.sinks {
            // Like any program in a pipe it ends when all was read; after a signal it waits no longer.
            let left = loop {
                let left = direct.sink.drain(PATIENCE);
                if !matches!(left, Ok(Delivered::Waits)) {
                    break left;
                }
                if stop.load(Ordering::Relaxed) != 0
                    && signalled.get_or_insert_with(Instant::now).elapsed() >= LAST
                {
                    let why = format!("sink {}: its last lines were not read", direct.sink.name());
                    error!("{why}");
                    errors.push(why);
                    break left;
                }
            };
            match left {
                // It does not work again before the end.
                Err(error) if direct.sink.retains() => {
                    let more = match direct.lost {
                        0 => String::new(),
                        lost => format!(", nor {} before them", grouped(lost)),
                    };
                    let name = direct.sink.name();
                    let why =
                        format!("sink {name}: {error}; its last lines could not be written{more}");
                    error!("{why}");
                    errors.push(why);
                }
                left => direct.note(left, &mut self.closed, &mut errors),
            }
        }
        errors
    }

    /// How the sinks are.
    fn statuses(&self) -> Vec<SinkStatus> {
        let sent = self.sent;
        let own = self.sinks.iter().map(|direct| SinkStatus {
            name: direct.sink.name(),
            state: if direct.failing { "failing" } else { "working" },
            delivered: sent,
            ..SinkStatus::default()
        });
        own.chain(self.watch.statuses()).collect()
    }

    fn flush(&mut self, summary: &mut Summary) {
        let stopped = || self.live.as_ref().is_none_or(|stop| stop.load(Ordering::Relaxed) != 0);
        for direct in &mut self.sinks {
            let mut flushed = direct.sink.flush();
            let waits = matches!(flushed, Ok(Delivered::Waits));
            if waits && !std::mem::replace(&mut direct.stuck, true) {
                warn!(
                    "sink {}: it is not read as fast as lines come, and no more of them can wait: the stream waits",
                    direct.sink.name()
                );
            }
            while matches!(flushed, Ok(Delivered::Waits)) && !stopped() {
                thread::sleep(PATIENCE);
                flushed = direct.sink.flush();
            }
            let retains = direct.sink.retains();
            let leaves = matches!(flushed, Ok(Delivered::Yes)) && (direct.tried || retains);
            direct.note(flushed, &mut self.closed, &mut summary.errors);
            if leaves && std::mem::take(&mut direct.failing) {
                let name = direct.sink.name();
                match std::mem::take(&mut direct.lost) {
                    _ if !retains => {
                        info!("sink {name}: works again; what came meanwhile is lost to it");
                    }
                    0 => info!("sink {name}: works again, nothing was lost"),
                    lost => {
                        warn!("sink {name}: works again; lost to it are {} lines", grouped(lost));
                        summary.errors.push(format!("sink {name}: lost {} lines", grouped(lost)));
                    }
                }
            }
        }
    }
}

impl Direct {
    fn note(
        &mut self,
        delivered: io::Result<Delivered>,
        closed: &mut bool,
        errors: &mut Vec<String>,
    ) {
        match delivered {
            Ok(Delivered::Yes | Delivered::Waits) => {}
            Ok(Delivered::Closed) => *closed = true,
            Err(error) => {
                self.tried = false;
                if !std::mem::replace(&mut self.failing, true) {
                    let name = self.sink.name();
                    let lines =
                        if self.sink.retains() { "wait, 16 MiB of them," } else { "are lost" };
                    error!("sink {name}: {error}; its lines {lines} until it works again");
                    errors.push(format!("sink {name}: {error}"));
                }
            }
        }
    }
}

/// How lines of a replay are handed on.
enum Hand {
    /// In turn with everything else.
    Here(Delivery),
    /// On a thread of its own, which also writes them: with more than one thread, nothing waits for
    /// that.
    Apart {
        lines: SyncSender<Vec<Due>>,
        /// Nobody reads them any more.
        closed: Arc<AtomicBool>,
        thread: JoinHandle<(Delivery, Vec<String>)>,
        sent: u64,
    },
}

impl Hand {
    fn new(mut delivery: Delivery, apart: bool) -> Self {
        if !apart {
            return Hand::Here(delivery);
        }
        let (lines, queue) = sync_channel::<Vec<Due>>(LINES_QUEUE);
        let closed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&closed);
        let thread = thread::spawn(move || {
            // Nothing but errors comes into it.
            let mut summary = Summary::default();
            for due in queue {
                delivery.write(due, &mut summary);
                told.fetch_or(delivery.closed, Ordering::Relaxed);
            }
            (delivery, summary.errors)
        });
        Hand::Apart { lines, closed, thread, sent: 0 }
    }

    /// Hands on what is due.
    fn send(&mut self, engine: &mut Engine) {
        let due = engine.take_due();
        if due.is_empty() {
            return;
        }
        match self {
            Hand::Here(delivery) => delivery.write(due, &mut engine.core.summary),
            Hand::Apart { lines, sent, .. } => {
                *sent += due.len() as u64;
                // Where the thread is gone, `finish` says why.
                let _gone = lines.send(due);
            }
        }
    }

    fn sent(&self) -> u64 {
        match self {
            Hand::Here(delivery) => delivery.sent,
            Hand::Apart { sent, .. } => *sent,
        }
    }

    fn closed(&self) -> bool {
        match self {
            Hand::Here(delivery) => delivery.closed,
            Hand::Apart { closed, .. } => closed.load(Ordering::Relaxed),
        }
    }

    /// Waits until all that was handed on is written.
    fn finish(self, summary: &mut Summary) -> Delivery {
        match self {
            Hand::Here(delivery) => delivery,
            Hand::Apart { lines, thread, .. } => {
                drop(lines);
                match thread.join() {
                    Ok((delivery, errors)) => {
                        summary.errors.extend(errors);
                        delivery
                    }
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }
    }
}

/// A batch on its way through the workers.
struct Job {
    batch: Batch,
    reply: SyncSender<Scanned>,
}

/// The scanner that all workers use, which a reload replaces.
#[derive(Debug, Clone)]
struct Shared(Arc<RwLock<Arc<Scanner>>>);

impl Shared {
    fn set(&self, scanner: &Arc<Scanner>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(scanner);
    }

    fn get(&self) -> Arc<Scanner> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The workers; none with one thread.
struct Pool {
    jobs: Option<SyncSender<Job>>,
    depth: usize,
    scanner: Shared,
}

impl Pool {
    fn new(scanner: &Arc<Scanner>, threads: usize) -> Self {
        let depth = threads * QUEUE_PER_WORKER;
        let shared = Shared(Arc::new(RwLock::new(Arc::clone(scanner))));
        if threads <= 1 {
            return Self { jobs: None, depth, scanner: shared };
        }
        let (jobs, queue) = sync_channel::<Job>(depth);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (scanner, queue) = (shared.clone(), Arc::clone(&queue));
            thread::spawn(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Job { batch, reply }) = job else { return };
                    // The applier may have gone; then nobody needs the result.
                    let _gone = reply.send(scanner.get().scan(batch));
                }
            });
        }
        Self { jobs: Some(jobs), depth, scanner: shared }
    }
}

/// The scanned batches of one input, in its order.
enum Stream {
    /// Read when it is asked for.
    Inline {
        reader: LineReader<Box<dyn Read + Send>>,
        scanner: Arc<Scanner>,
    },
    /// Read on a thread, because a pipe can keep its reader waiting and a signal must not wait, or
    /// because unpacking takes as long as everything else.
    Apart {
        batches: Receiver<io::Result<Batch>>,
        scanner: Arc<Scanner>,
    },
    Pooled(Receiver<io::Result<Receiver<Scanned>>>),
}

impl Stream {
    fn new(
        mut reader: LineReader<Box<dyn Read + Send>>,
        apart: bool,
        scanner: &Arc<Scanner>,
        pool: &Pool,
    ) -> Self {
        let Some(jobs) = pool.jobs.clone() else {
            let scanner = Arc::clone(scanner);
            if !apart {
                return Stream::Inline { reader, scanner };
            }
            let (send, batches) = sync_channel(pool.depth);
            thread::spawn(move || {
                while let Some(batch) = reader.next_batch().transpose() {
                    if send.send(batch).is_err() {
                        return;
                    }
                }
            });
            return Stream::Apart { batches, scanner };
        };
        let (order, results) = sync_channel(pool.depth);
        thread::spawn(move || {
            loop {
                let batch = match reader.next_batch() {
                    Ok(Some(batch)) => batch,
                    Ok(None) => return,
                    Err(error) => {
                        let _gone = order.send(Err(error));
                        return;
                    }
                };
                let (reply, result) = sync_channel(1);
                if order.send(Ok(result)).is_err() || jobs.send(Job { batch, reply }).is_err() {
                    return;
                }
            }
        });
        Stream::Pooled(results)
    }

    /// The next batch; none at the end or when it is time to stop.
    fn next(&mut self, stop: &Stop) -> io::Result<Option<Scanned>> {
        match self {
            Stream::Inline { reader, scanner } => {
                Ok(reader.next_batch()?.map(|batch| scanner.scan(batch)))
            }
            Stream::Apart { batches, scanner } => {
                Ok(wait(batches, stop).transpose()?.map(|batch| scanner.scan(batch)))
            }
            Stream::Pooled(results) => {
                Ok(wait(results, stop).transpose()?.and_then(|result| result.recv().ok()))
            }
        }
    }
}

/// What comes next; none at the end or when it is time to stop.
fn wait<T>(queue: &Receiver<T>, stop: &Stop) -> Option<T> {
    loop {
        match queue.recv_timeout(TICK) {
            Ok(next) => return Some(next),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) != 0 => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// An input that can be read only once and may keep its reader waiting, a pipe: it is opened by
/// its first read, on the thread that reads it.
struct Late {
    input: Input,
    content: Option<Box<dyn Read + Send>>,
    read: Arc<AtomicU64>,
}

impl Read for Late {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let content = match &mut self.content {
            Some(content) => content,
            none => {
                let opened = match &self.input {
                    Input::File(path) => file::open(path),
                    Input::Stdin => stdin::open_archive_stdin(),
                };
                none.insert(opened.map_err(|error| io::Error::other(error.to_string()))?.reader)
            }
        };
        let count = content.read(buf)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// An input of a replay before it is opened.
struct Waiting {
    input: Input,
    first: Micros,
    order: usize,
}

/// An open input.
struct Source {
    name: String,
    stream: Stream,
    spares: Spares,
    /// Bytes taken from disk so far.
    read: Arc<AtomicU64>,
}

struct Open {
    source: Source,
    cursor: Cursor,
    newest: Micros,
}

/// Replays finite inputs, merged by event time.
///
/// # Errors
/// When an input cannot be opened at all.
pub fn replay(
    assembly: &Assembly,
    settings: &Settings,
    inputs: Vec<Input>,
    ways: Ways,
    stop: &Stop,
    progress: &mut dyn Progress,
) -> Result<Ended, InputError> {
    let started = Instant::now();
    let scanner = &assembly.scanner;
    let pool = Pool::new(scanner, settings.threads);
    let mut engine = assembly.engine();
    // What is written to a terminal must stay out of the way of what is shown there.
    let apart = pool.jobs.is_some() && !progress.visible();
    let mut hand = Hand::new(Delivery::new(ways, Some(stop)), apart);
    let mut merge = Merge {
        waiting: waiting(inputs, assembly, settings)?,
        open: Vec::new(),
        heap: BinaryHeap::new(),
        read: Vec::new(),
        held: None,
        stop: Arc::clone(stop),
    };
    let block = if merge.waiting.len() > 4 { settings.block.min(1 << 16) } else { settings.block };
    loop {
        merge.open_due(&mut engine, |waiting, source, engine| {
            open(waiting, source, engine, settings, block, scanner, &pool)
        });
        let Some((index, alone)) = merge.next() else { break };
        merge.advance(index, alone, &mut engine);
        match &mut hand {
            Hand::Here(delivery) if progress.visible() => {
                let actions = engine.take_actions();
                if !actions.is_empty() || !engine.core.messages.is_empty() {
                    progress.aside(&mut || {
                        delivery.send(&actions, &mut engine.core.summary);
                        delivery.flush(&mut engine.core.summary);
                        tell(&mut engine);
                    });
                }
            }
            _ => {
                hand.send(&mut engine);
                tell(&mut engine);
            }
        }
        progress.show(merge.bytes(), engine.core.summary.lines.total, hand.sent());
        if hand.closed() || stop.load(Ordering::Relaxed) != 0 {
            break;
        }
    }
    let delivery = hand.finish(&mut engine.core.summary);
    Ok(ended(engine, delivery, assembly, stop, started))
}

/// The inputs in the order in which they are to be opened.
fn waiting(
    inputs: Vec<Input>,
    assembly: &Assembly,
    settings: &Settings,
) -> Result<Vec<Waiting>, InputError> {
    let several = inputs.len() > 1;
    let mut waiting = Vec::new();
    for input in inputs {
        let first = match &input {
            Input::File(path) => {
                // A missing or unreadable file is told before anything runs.
                file::probe(path)?;
                // What is taken from a pipe to look at it would be missing later.
                if several && file::is_regular(path) {
                    first_time(path, assembly, settings)?
                } else {
                    Micros::MIN
                }
            }
            Input::Stdin => Micros::MIN,
        };
        waiting.push(Waiting { input, first, order: 0 });
    }
    let bytes = |input: &Input| match input {
        Input::File(path) => path.as_os_str().as_encoded_bytes().to_vec(),
        Input::Stdin => Vec::new(),
    };
    waiting
        .sort_by(|a, b| a.first.cmp(&b.first).then_with(|| bytes(&a.input).cmp(&bytes(&b.input))));
    for (order, waiting) in waiting.iter_mut().enumerate() {
        waiting.order = order;
    }
    waiting.reverse();
    Ok(waiting)
}

/// The first time that can be read in a file.
fn first_time(
    path: &std::path::Path,
    assembly: &Assembly,
    settings: &Settings,
) -> Result<Micros, InputError> {
    let opened = file::open(path)?;
    let near = modified(opened.modified);
    let mut reader =
        LineReader::new(opened.reader.take(PEEK_MAX as u64), 0, settings.max_line, 1 << 14);
    // A damaged file is told when it is read for good.
    while let Ok(Some(batch)) = reader.next_batch() {
        for line in batch.lines() {
            if let Decoded::Records(records) = decode(line, &assembly.scanner.decode) {
                match records.iter().find_map(|record| record.when()) {
                    Some(When::At(time) | When::Twice { first: time, .. }) => return Ok(time),
                    Some(When::Yearless(yearless)) => {
                        let zone = &settings.timezone;
                        let year = settings.year.and_then(|year| yearless.in_year(year, zone));
                        return Ok(
                            year.unwrap_or_else(|| yearless.nearest(near.unwrap_or(0), zone))
                        );
                    }
                    None => {}
                }
            }
        }
    }
    Ok(Micros::MIN)
}

fn modified(time: Option<SystemTime>) -> Option<Micros> {
    let since = time?.duration_since(UNIX_EPOCH).ok()?;
    Micros::try_from(since.as_micros()).ok()
}

fn open(
    waiting: &Waiting,
    source: u32,
    engine: &mut Engine,
    settings: &Settings,
    block: usize,
    scanner: &Arc<Scanner>,
    pool: &Pool,
) -> Result<Source, String> {
    let (name, content, read, apart) = match &waiting.input {
        Input::File(path) if file::is_regular(path) => {
            let opened = file::open(path).map_err(|error| error.to_string())?;
            let name = path.display().to_string();
            engine.name_source(source, &name, modified(opened.modified));
            (name, opened.reader, opened.read, opened.packed)
        }
        input => {
            let name = match input {
                Input::File(path) => path.display().to_string(),
                Input::Stdin => "standard input".to_owned(),
            };
            // A pipe has no date of its own but the one of its arrival, as in `run`.
            engine.name_source(source, &name, arrival());
            let read = Arc::new(AtomicU64::new(0));
            let late = Late { input: input.clone(), content: None, read: Arc::clone(&read) };
            (name, Box::new(late) as Box<dyn Read + Send>, read, true)
        }
    };
    let reader = LineReader::new(content, source, settings.max_line, block);
    let spares = reader.spares();
    Ok(Source { name, stream: Stream::new(reader, apart, scanner, pool), spares, read })
}

struct Merge {
    /// The next to open stands last.
    waiting: Vec<Waiting>,
    open: Vec<Option<Open>>,
    /// The open inputs by the time of their next item, then by their order.
    heap: BinaryHeap<Reverse<(Micros, usize)>>,
    read: Vec<Arc<AtomicU64>>,
    /// Which of those that wait was last said to be held.
    held: Option<usize>,
    stop: Stop,
}

impl Merge {
    fn bytes(&self) -> u64 {
        self.read.iter().map(|read| read.load(Ordering::Relaxed)).sum()
    }

    /// Opens inputs whose time has come.
    fn open_due(
        &mut self,
        engine: &mut Engine,
        mut open: impl FnMut(&Waiting, u32, &mut Engine) -> Result<Source, String>,
    ) {
        while let Some(next) = self.waiting.last() {
            let due = self.heap.peek().is_none_or(|Reverse((time, _))| next.first <= *time);
            if !due {
                return;
            }
            if self.heap.len() >= OPEN_MAX {
                self.crowded(engine);
                return;
            }
            let Some(waiting) = self.waiting.pop() else { return };
            let source = u32::try_from(waiting.order).unwrap_or(u32::MAX);
            match open(&waiting, source, engine) {
                Ok(source) => {
                    self.read.push(Arc::clone(&source.read));
                    while self.open.len() <= waiting.order {
                        self.open.push(None);
                    }
                    self.fill(waiting.order, source, Micros::MIN, engine);
                }
                Err(error) => fail(engine, error),
            }
        }
    }

    /// Says, once for each, that an input whose time has come cannot be opened yet.
    fn crowded(&mut self, engine: &mut Engine) {
        let Some(next) = self.waiting.last().filter(|next| self.held != Some(next.order)) else {
            return;
        };
        if self.held.is_none() {
            warn!(
                "more than {OPEN_MAX} files cover the same time, and so many are open at once: the others wait until one has ended, and what is in them comes late; join files before, sorted by time"
            );
        }
        self.held = Some(next.order);
        engine.core.input_held(next.first);
    }

    /// Puts the next batch of an input in place, or lets go of the input.
    fn fill(&mut self, index: usize, mut source: Source, newest: Micros, engine: &mut Engine) {
        match source.stream.next(&self.stop) {
            Ok(Some(scanned)) => {
                let cursor = engine.open(scanned);
                let mut open = Open { source, cursor, newest };
                let time = key(&mut open, engine);
                self.heap.push(Reverse((time, index)));
                if let Some(slot) = self.open.get_mut(index) {
                    *slot = Some(open);
                }
            }
            Ok(None) => debug!("{}: read to its end", source.name),
            // It names the input already.
            Err(error) => fail(engine, error.to_string()),
        }
    }

    /// The input whose turn it is, and whether it is the only one left.
    fn next(&mut self) -> Option<(usize, bool)> {
        let Reverse((_, index)) = self.heap.pop()?;
        Some((index, self.heap.is_empty() && self.waiting.is_empty()))
    }

    /// Applies the next item of an input, or, if it is alone, its whole batch.
    fn advance(&mut self, index: usize, alone: bool, engine: &mut Engine) {
        let Some(mut open) = self.open.get_mut(index).and_then(Option::take) else { return };
        loop {
            if !engine.step(&mut open.cursor, None) {
                let Open { source, cursor, newest } = open;
                source.spares.put(cursor.into_buffer());
                self.fill(index, source, newest, engine);
                return;
            }
            if !alone {
                break;
            }
        }
        let time = key(&mut open, engine);
        self.heap.push(Reverse((time, index)));
        if let Some(slot) = self.open.get_mut(index) {
            *slot = Some(open);
        }
    }
}

/// The time by which an input is merged: the newest it has shown, its next item included.
fn key(open: &mut Open, engine: &Engine) -> Micros {
    if let Some(time) = engine.order_time(&mut open.cursor) {
        open.newest = open.newest.max(time);
    }
    open.newest
}

fn fail(engine: &mut Engine, error: String) {
    error!("{error}");
    if engine.core.summary.errors.len() < ERRORS_MAX {
        engine.core.summary.errors.push(error);
    }
}

fn tell(engine: &mut Engine) {
    for message in engine.core.messages.drain(..) {
        warn!("{message}");
    }
}

fn ended(
    mut engine: Engine,
    mut delivery: Delivery,
    assembly: &Assembly,
    stop: &Stop,
    started: Instant,
) -> Ended {
    engine.finish();
    let actions = engine.take_actions();
    delivery.send(&actions, &mut engine.core.summary);
    delivery.flush(&mut engine.core.summary);
    tell(&mut engine);
    engine.core.summary.errors.extend(delivery.finish());
    let closed = delivery.closed;
    conclude_summary(engine, assembly, stop, started, closed)
}

/// The accounting of a stream that has ended.
fn conclude_summary(
    mut engine: Engine,
    assembly: &Assembly,
    stop: &Stop,
    started: Instant,
    closed: bool,
) -> Ended {
    if !engine.core.countries_seen() {
        for rule in assembly.need_country() {
            let why = "no record had a country and `geoip` names no database".to_owned();
            engine.core.summary.inactive_rules.insert(rule.to_owned(), why);
        }
    }
    let mut summary = engine.core.summary;
    summary.finish(started.elapsed().as_secs_f64(), crate::telemetry::cpu_seconds());
    let signal = Some(stop.load(Ordering::Relaxed)).filter(|signal| *signal != 0);
    Ended { summary, signal, railway_input: None, closed, unstarted: None }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where a record without a time gets that of its arrival"
)]
fn arrival() -> Option<Micros> {
    modified(Some(SystemTime::now()))
}
