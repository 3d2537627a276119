//! Lines leave in batches, each with the place behind it.

use super::backlog::{Backlog, SETTLED};
use super::{AHEAD_MAX, Reader, position, wall};
use crate::source::lines::Batch;
use crate::source::railway::RailwayEvent;
use crate::source::railway::feed::What;
use crate::source::railway::join::Leaving;
use std::net::IpAddr;
use std::sync::Arc;

impl Reader<'_> {
    /// Hands over what need not wait any longer.
    pub(super) fn flush(&mut self) {
        while let Some(leaving) = self.join.next(self.started.elapsed()) {
            self.leave(&leaving);
        }
        if self.join.was_crowded() {
            let text = "too many lines wait for the edge's log of their request: the oldest leave without it";
            self.fail("crowd", text);
        } else if self.join.due().is_none() {
            self.over("crowd", "lines wait for the edge's log of their request again");
        }
        if self.bytes.is_empty() {
            return;
        }
        let (app, edge) = self.backlog.as_ref().map(Backlog::oldest).unwrap_or_default();
        let waits = self.join.oldest().into_iter().chain(app).min();
        let seen = waits.map_or(self.handed, |waits| waits.min(self.handed));
        let behind = self
            .feeds
            .iter()
            .filter(|feed| matches!(feed.what, What::Http(_)) && feed.is_behind(SETTLED));
        // A feed goes on from its place by itself, so its overlap is added again.
        let hold = behind.map(|feed| feed.place(self.overlap).saturating_add(self.overlap)).min();
        let hold =
            if self.looked { hold } else { Some(self.http_from.saturating_add(self.overlap)) };
        let hold = hold.into_iter().chain(edge).min();
        let http = self.handed_http.map(|handed| hold.map_or(handed, |hold| handed.min(hold)));
        let http = http.filter(|_| self.settings.http);
        self.mark = Arc::new(position(&self.scope.environment.id, seen, http));
        self.hand_over();
    }

    pub(super) fn leave(&mut self, leaving: &Leaving) {
        let believed = wall().saturating_add(AHEAD_MAX);
        self.put(&leaving.line, leaving.edge);
        if let Some(at) = leaving.at.filter(|at| *at <= believed) {
            self.handed = self.handed.max(at);
        }
    }

    /// Adds a line to what is handed over next.
    pub(super) fn put(&mut self, line: &[u8], edge: Option<IpAddr>) {
        let oversized = line.len() > self.settings.max_line;
        if oversized || self.bytes.len() + line.len() >= self.settings.block {
            self.hand_over();
        }
        self.bytes.extend_from_slice(line.get(..self.settings.max_line).unwrap_or(line));
        self.edges.push(edge);
        if oversized {
            self.hand(true);
        } else {
            self.bytes.push(b'\n');
        }
    }

    fn hand_over(&mut self) {
        if !self.bytes.is_empty() {
            self.hand(false);
        }
    }

    fn hand(&mut self, oversized: bool) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut edges = std::mem::take(&mut self.edges);
        if edges.iter().all(Option::is_none) {
            edges = Vec::new();
        }
        let start = self.start;
        self.start += bytes.len() as u64;
        let mark = Some(Arc::clone(&self.mark));
        let batch = Batch { bytes, oversized, start, mark, edges, ..Batch::default() };
        self.tell(RailwayEvent::Batch(batch));
    }
}
