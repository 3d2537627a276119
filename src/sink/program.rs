//! Other programs, run by a list of arguments and never by a shell.
//!
//! A run has a time-out and no way around it: a program that does not read, that says too much or
//! that leaves children behind is not waited for longer. Nothing of the environment is passed on
//! but what is named.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of what goes to standard error that are kept.
const SAID_MAX: usize = 16 << 10;
/// How often a program is asked whether it has ended, while its pipes are silent.
const PAUSE: Duration = Duration::from_millis(20);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program<'p> {
    /// Its absolute path, and its arguments.
    pub argv: &'p [String],
    /// Its whole environment.
    pub env: &'p [(String, String)],
    /// What it reads on its standard input.
    pub input: &'p [u8],
    /// How long it may take; then it is killed, with all that it started in its process group.
    pub timeout: Duration,
    /// Bytes of its standard output that are kept, past which it is killed; with 0 its output goes
    /// nowhere.
    pub output_max: usize,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It took too long and was killed.
    TimedOut,
    /// It wrote more than is kept, and was killed.
    TooMuch,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote to its standard output.
    pub output: Vec<u8>,
    /// The beginning of what it wrote to standard error, as far as it is text.
    pub said: String,
}

impl Outcome {
    /// The first line of what it said, if it said anything.
    pub fn first_line(&self) -> Option<&str> {
        self.said.lines().map(str::trim).find(|line| !line.is_empty())
    }
}

/// Whether the path names a file that may be run.
///
/// # Errors
/// What is wrong with it.
pub fn probe(path: &str) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let about = std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
    if !about.is_file() {
        return Err(format!("{path} is no file"));
    }
    if about.permissions().mode() & 0o111 == 0 {
        return Err(format!("{path} may not be run: it has no x bit"));
    }
    Ok(())
}

impl Program<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// What the system says when it cannot be started.
    pub fn run(&self) -> std::io::Result<Outcome> {
        let (path, args) = self.argv.split_first().ok_or(ErrorKind::InvalidInput)?;
        let (stdin, to) = std::io::pipe()?;
        let (said, stderr) = std::io::pipe()?;
        let (out, stdout) = std::io::pipe()?;
        ioctl_fionbio(&to, true)?;
        ioctl_fionbio(&said, true)?;
        ioctl_fionbio(&out, true)?;
        let mut command = Command::new(path);
        command.args(args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir("/").stdin(stdin).stderr(stderr).process_group(0);
        if self.output_max > 0 {
            command.stdout(stdout);
        } else {
            command.stdout(Stdio::null());
            drop(stdout);
        }
        let child = command.spawn()?;
        // Their other ends are the child's alone from here on.
        drop(command);
        let pipes = Pipes { to: Some(to), rest: self.input, out: Some(out), said: Some(said) };
        pipes.serve(child, self)
    }
}

/// The near ends of a program's pipes; none of them ever blocks.
struct Pipes<'p> {
    to: Option<PipeWriter>,
    /// What is still to be written.
    rest: &'p [u8],
    out: Option<PipeReader>,
    said: Option<PipeReader>,
}

impl Pipes<'_> {
    fn serve(mut self, mut child: Child, program: &Program<'_>) -> std::io::Result<Outcome> {
        let deadline = Instant::now() + program.timeout;
        let (mut output, mut said) = (Vec::new(), Vec::new());
        let mut killed = None;
        let status = loop {
            self.write();
            let status = child.try_wait();
            // What it wrote before its end is there by now; who else may hold the pipe is not
            // waited for.
            let whole = take(&mut self.out, &mut output, program.output_max);
            take(&mut self.said, &mut said, SAID_MAX);
            match status {
                Ok(Some(status)) => break status,
                Ok(None) => {}
                Err(error) => {
                    kill(&mut child);
                    return Err(error);
                }
            }
            if killed.is_none() && !whole && program.output_max > 0 {
                killed = Some(Ended::TooMuch);
            } else if killed.is_none() && Instant::now() >= deadline {
                killed = Some(Ended::TimedOut);
            }
            if killed.is_some() {
                kill(&mut child);
                break child.wait()?;
            }
            self.wait();
        };
        let ended = killed.unwrap_or_else(|| match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, signal) => Ended::Signal(signal.unwrap_or_default()),
        });
        Ok(Outcome { ended, output, said: String::from_utf8_lossy(&said).into_owned() })
    }

    /// Writes what there is room for. A program that does not want it has its reasons.
    fn write(&mut self) {
        while let Some(to) = &mut self.to {
            match to.write(self.rest) {
                Ok(count) if count > 0 => {
                    self.rest = self.rest.get(count..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                _ => self.rest = &[],
            }
            if self.rest.is_empty() {
                self.to = None;
            }
        }
    }

    /// Waits until something can be read or written, but not for long.
    fn wait(&self) {
        let mut ends = Vec::new();
        ends.extend(self.to.as_ref().map(|end| PollFd::new(end, PollFlags::OUT)));
        ends.extend(self.out.as_ref().map(|end| PollFd::new(end, PollFlags::IN)));
        ends.extend(self.said.as_ref().map(|end| PollFd::new(end, PollFlags::IN)));
        // Without an open end this is a pause and nothing else. An interruption ends it early.
        let pause = if ends.is_empty() { PAUSE / 10 } else { PAUSE };
        let _ = poll(&mut ends, Timespec::try_from(pause).ok().as_ref());
    }
}

/// Reads what is there; what is beyond `max` is read and forgotten, and then this is not true.
fn take(from: &mut Option<PipeReader>, into: &mut Vec<u8>, max: usize) -> bool {
    let mut whole = true;
    let mut block = [0; 16 << 10];
    // A program that never stops talking must not keep its time-out from being looked at.
    for _ in 0..256 {
        let Some(pipe) = from else { break };
        match pipe.read(&mut block) {
            Ok(0) => *from = None,
            Ok(count) => {
                let kept = count.min(max.saturating_sub(into.len()));
                into.extend_from_slice(block.get(..kept).unwrap_or_default());
                whole &= kept == count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => *from = None,
        }
    }
    whole
}

/// Kills it and what it started, as far as that is still in its group. It has not been waited for,
/// so its number is still its own.
fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
}
