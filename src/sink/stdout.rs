//! Standard output: the one place that writes to it.

use super::{Delivered, Output, closed};
use crate::action::Action;
use std::io::{BufWriter, IsTerminal, Stdout, Write};

/// Bytes that are written together while nobody flushes.
const BUFFER: usize = 1 << 16;

/// Writes lines to standard output.
#[derive(Debug)]
pub struct StdoutSink {
    out: BufWriter<Stdout>,
    output: Output,
    colour: bool,
}

impl StdoutSink {
    /// Without a form: text on a terminal, JSON elsewhere. `NO_COLOR` takes the colours away.
    pub fn new(output: Option<Output>) -> Self {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let output = output.unwrap_or(if terminal { Output::Text } else { Output::Json });
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { out: BufWriter::with_capacity(BUFFER, stdout), output, colour }
    }

    /// Buffers one line.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn deliver(&mut self, action: &Action) -> std::io::Result<Delivered> {
        let mut line = self.output.render(action, self.colour);
        line.push('\n');
        self.out.write_all(line.as_bytes()).map(|()| Delivered::Yes).or_else(closed)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> std::io::Result<Delivered> {
        self.out.flush().map(|()| Delivered::Yes).or_else(closed)
    }
}
