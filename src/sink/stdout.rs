//! Standard output: the one place that writes to it.
//!
//! A replay writes in turn with everything else, and waits for who reads. A live stream does not let
//! its reader hold up what blocks attackers: there a thread writes, and lines wait for it.

use super::{Delivered, Output, closed};
use crate::action::Action;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufWriter, Error, ErrorKind, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are written together while nobody flushes.
const BUFFER: usize = 1 << 16;
/// Bytes that wait while nothing can be written; what comes then is lost.
const FAILED_MAX: usize = 16 << 20;
/// How often it is looked whether there is room again, where a write does not wait for that.
const ROOM: Duration = Duration::from_millis(5);
/// How often what cannot be written is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Writes lines to standard output.
#[derive(Debug)]
pub struct StdoutSink {
    way: Way,
    output: Output,
    colour: bool,
}

#[derive(Debug)]
enum Way {
    Here(BufWriter<Patient<Stdout>>),
    Apart(Apart),
}

/// Waits for room where a write does not: whoever shares an output may have made it one that does not wait.
#[derive(Debug)]
struct Patient<W>(W);

impl<W: AsFd> Patient<W> {
    fn patiently<T>(
        &mut self,
        mut act: impl FnMut(&mut W) -> std::io::Result<T>,
    ) -> std::io::Result<T> {
        loop {
            match act(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut room = [PollFd::new(&self.0, PollFlags::OUT)];
                    match poll(&mut room, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                done => return done,
            }
        }
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.patiently(|out| out.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.patiently(W::flush)
    }
}

/// Lines on their way to somebody who may read slowly, or not at all.
#[derive(Debug)]
struct Apart {
    shared: Arc<Shared>,
    waiting_max: usize,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whole lines.
    lines: Vec<u8>,
    /// Of the lines that the thread has taken, the bytes that are not out.
    taken: usize,
    /// Nobody reads any more.
    closed: bool,
    /// What the system last said, until it takes something again.
    failed: Option<(ErrorKind, String)>,
    /// No more lines come.
    over: bool,
}

impl Queue {
    fn waiting(&self) -> usize {
        self.lines.len() + self.taken
    }
}

impl StdoutSink {
    /// Without a form: text on a terminal, JSON elsewhere. `NO_COLOR` takes the colours away.
    pub fn new(output: Option<Output>) -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let output = output.unwrap_or(if terminal { Output::Text } else { Output::Json });
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        // What cannot be written now cannot be later either, and is said then.
        let _unwritten = if is_torn() { (&stdout).write_all(b"\n") } else { Ok(()) };
        Self { way: Way::Here(BufWriter::with_capacity(BUFFER, Patient(stdout))), output, colour }
    }

    /// Writes on a thread of its own from here on, so that `waiting_max` bytes may wait for a reader.
    ///
    /// # Errors
    /// When the system gives no second handle or no thread.
    pub fn go_apart(&mut self, waiting_max: usize) -> std::io::Result<()> {
        let out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::Builder::new().name("stdout".into()).spawn(move || own.write(out))?;
        self.way = Way::Apart(Apart { shared, waiting_max });
        Ok(())
    }

    /// Whether what it was given and could not write is written by it as soon as that works.
    pub fn retains(&self) -> bool {
        matches!(self.way, Way::Apart(_))
    }

    /// Buffers one line.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn deliver(&mut self, action: &Action) -> std::io::Result<Delivered> {
        let mut line = self.output.render(action, self.colour);
        line.push('\n');
        match &mut self.way {
            Way::Here(out) => {
                out.write_all(line.as_bytes()).map(|()| Delivered::Yes).or_else(closed)
            }
            Way::Apart(apart) => {
                let mut queue = apart.shared.queue();
                if queue.closed {
                    return Ok(Delivered::Closed);
                }
                if let Some((kind, said)) = &queue.failed
                    && queue.waiting() > FAILED_MAX
                {
                    return Err(Error::new(*kind, said.clone()));
                }
                queue.lines.extend_from_slice(line.as_bytes());
                Ok(Delivered::Yes)
            }
        }
    }

    /// Writes what is buffered; where a thread does that, it only says whether more waits than may.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> std::io::Result<Delivered> {
        match &mut self.way {
            Way::Here(out) => out.flush().map(|()| Delivered::Yes).or_else(closed),
            Way::Apart(apart) => apart.flush(apart.waiting_max, Duration::ZERO),
        }
    }

    /// Waits no longer than `patience` until all is out that it was given.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn drain(&mut self, patience: Duration) -> std::io::Result<Delivered> {
        match &mut self.way {
            Way::Here(_) => self.flush(),
            Way::Apart(apart) => apart.flush(0, patience),
        }
    }
}

/// Whether standard output is put behind a file that ends within a line: one that was on its way when the disk
/// was full, or the machine lost its power. What is written first must not become a part of it.
fn is_torn() -> bool {
    let torn = || -> std::io::Result<bool> {
        let out = std::io::stdout();
        if !rustix::fs::fcntl_getfl(out.as_fd())?.contains(OFlags::APPEND) {
            return Ok(false);
        }
        let file = File::open("/proc/self/fd/1")?;
        let meta = file.metadata()?;
        let mut last = [b'\n'];
        if let Some(at) = meta.len().checked_sub(1).filter(|_| meta.is_file()) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(last != [b'\n'])
    };
    // Of what cannot be looked at nothing is known.
    torn().unwrap_or(false)
}

impl Apart {
    fn flush(&self, waiting_max: usize, patience: Duration) -> std::io::Result<Delivered> {
        self.shared.changed.notify_all();
        let until = Instant::now() + patience;
        let mut queue = self.shared.queue();
        loop {
            if queue.closed {
                return Ok(Delivered::Closed);
            }
            if let Some((kind, said)) = &queue.failed {
                return Err(Error::new(*kind, said.clone()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if queue.waiting() <= waiting_max {
                return Ok(Delivered::Yes);
            }
            if left.is_zero() {
                return Ok(Delivered::Waits);
            }
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.shared.queue().over = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what waits until no more comes, or until nobody reads.
    fn write(&self, mut out: File) {
        let mut lines = Vec::new();
        loop {
            let mut queue = self.queue();
            while queue.lines.is_empty() {
                if queue.over {
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            lines.clear();
            std::mem::swap(&mut lines, &mut queue.lines);
            queue.taken = lines.len();
            drop(queue);
            if !self.write_all(&mut out, &lines) {
                return;
            }
        }
    }

    /// `false` if nobody reads any more.
    fn write_all(&self, out: &mut File, mut lines: &[u8]) -> bool {
        while !lines.is_empty() {
            let written = match out.write(lines) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                other => other,
            };
            let mut queue = self.queue();
            match written {
                Ok(count) => {
                    lines = lines.get(count..).unwrap_or_default();
                    queue.taken = lines.len();
                    queue.failed = None;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    queue.closed = true;
                    queue.lines = Vec::new();
                    queue.taken = 0;
                    self.changed.notify_all();
                    return false;
                }
                Err(error) => {
                    // Somebody else may have made it one that does not wait: that is no failure.
                    let full = error.kind() == ErrorKind::WouldBlock;
                    if !full {
                        queue.failed = Some((error.kind(), error.to_string()));
                    }
                    let over = queue.over;
                    self.changed.notify_all();
                    drop(queue);
                    if over {
                        return false;
                    }
                    thread::sleep(if full { ROOM } else { RETRY });
                    continue;
                }
            }
            self.changed.notify_all();
        }
        true
    }
}
