//! Figures in the text form of Prometheus.
//!
//! The values of labels are bounded: names of what is loaded or was when it counted, and fixed words.
//! No text out of a log is ever one.

use super::Shared;
use super::api::{Started, unanswered};
use crate::decide::board::Board;
use crate::decode::time::Micros;
use crate::detect::condition::ACTIONS;
use crate::detect::rule::MODES;
use crate::engine::ask::Status;
use crate::engine::summary::Outcomes;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, header};
use axum::response::IntoResponse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

/// What a sink can be.
const SINK_STATES: [&str; 4] = ["working", "failing", "dry", "disabled"];

/// GET /metrics.
pub async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(Started(started)): Extension<Started>,
) -> Response<Body> {
    match shared.asker.status().await {
        Ok(status) => {
            let form = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], text(&status, &shared.board, started)).into_response()
        }
        Err(why) => unanswered(why).into_response(),
    }
}

/// What grows, and what goes up and down.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Default)]
struct Page(String);

impl Page {
    /// A figure with its values, each with its labels. Without values it is left out.
    fn put(&mut self, name: &str, kind: Kind, help: &str, values: &[(Labels<'_>, f64)]) {
        if values.is_empty() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            self.0.push_str(name);
            for (n, (label, text)) in labels.iter().enumerate() {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let before = if n == 0 { '{' } else { ',' };
                let _infallible = write!(self.0, "{before}{label}=\"{text}\"");
            }
            self.0.push_str(if labels.is_empty() { " " } else { "} " });
            let _infallible = writeln!(self.0, "{value}");
        }
    }

    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.put(name, kind, help, &[(Vec::new(), value)]);
        }
    }
}

type Labels<'l> = Vec<(&'static str, &'l str)>;

/// A counter as a figure; beyond 2^53 the last digits are lost, as they are for whoever reads it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but floats")]
fn float(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows nothing but floats")]
fn seconds(at: Micros) -> f64 {
    at as f64 / 1e6
}

/// The whole page.
pub fn text(status: &Status, board: &Board, started: Micros) -> String {
    use Kind::Gauge;
    let mut page = Page::default();
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.put("portcullis_build_info", Gauge, "The version, always 1.", &[(version, 1.0)]);
    let help = "When it started, seconds since 1970.";
    page.one("process_start_time_seconds", Gauge, help, seconds(started));
    let ready = f64::from(u8::from(status.unready.is_none()));
    page.one("portcullis_ready", Gauge, "Whether it reads, counts and acts.", ready);
    stream(&mut page, status);
    decisions(&mut page, board);
    sinks(&mut page, status);
    page.0
}

fn outcomes(outcomes: &Outcomes) -> Vec<(Labels<'static>, f64)> {
    outcomes.parts().map(|(name, n)| (vec![("outcome", name)], float(n))).into()
}

fn stream(page: &mut Page, status: &Status) {
    use Kind::{Counter, Gauge};
    let summary = &status.summary;
    let help = "Lines by what became of them.";
    page.put("portcullis_lines_total", Counter, help, &outcomes(&summary.lines));
    let help = "Records by what became of them.";
    page.put("portcullis_records_total", Counter, help, &outcomes(&summary.records));
    page.one("portcullis_read_bytes_total", Counter, "Bytes of lines.", float(summary.bytes));
    // What a reload has taken out keeps its figures: a counter that falls, or adds up to less than
    // before, is a restart to whoever reads it.
    let loaded = status.patterns.iter().map(String::as_str);
    let patterns: BTreeSet<&str> =
        loaded.chain(summary.events.keys().map(String::as_str)).collect();
    let events: Vec<_> = patterns
        .iter()
        .map(|name| {
            let n = summary.events.get(*name).copied().unwrap_or(0);
            (vec![("pattern", *name)], float(n))
        })
        .collect();
    page.put("portcullis_events_total", Counter, "Events by pattern.", &events);
    let near: Vec<_> = summary
        .near_misses
        .iter()
        .map(|(name, near)| (vec![("pattern", name.as_str())], float(near.count)))
        .collect();
    let help = "Records that begin like a pattern and are none.";
    page.put("portcullis_near_misses_total", Counter, help, &near);
    let actions: Vec<_> = summary
        .actions
        .iter()
        .flat_map(|(rule, ops)| ops.iter().map(move |(op, n)| (rule.as_str(), op.as_str(), n)))
        .map(|(rule, op, n)| (vec![("rule", rule), ("op", op)], float(*n)))
        .collect();
    page.put("portcullis_actions_total", Counter, "Action lines by rule and op.", &actions);
    let limits: Vec<_> =
        summary.limits.iter().map(|(what, n)| (vec![("limit", *what)], float(*n))).collect();
    page.put("portcullis_limits_reached_total", Counter, "Limits that were reached.", &limits);
    if let Some(lag) = &summary.lag {
        let each: Vec<_> = lag
            .partitions
            .iter()
            .map(|(name, n)| (vec![("partition", name.as_str())], float(n.unsigned_abs())))
            .collect();
        let help = "Records of a partition that are still to be read.";
        page.put("portcullis_kafka_lag_records", Gauge, help, &each);
    }
    let help = "Bytes that the state is counted as.";
    page.one("portcullis_state_bytes", Gauge, help, float(status.state_bytes));
    page.one("portcullis_state_keys", Gauge, "Keys that are held.", float(status.keys));
    let help = "Keys that were given up because of the memory limit.";
    page.one("portcullis_state_keys_evicted_total", Counter, help, float(summary.keys_evicted));
    let help = "The clock of the stream, seconds since 1970.";
    page.one("portcullis_clock_seconds", Gauge, help, status.clock.map(seconds));
    let help = "How far the newest matched record was behind when it was applied.";
    page.one("portcullis_delay_seconds", Gauge, help, status.delay_s);
}

fn decisions(page: &mut Page, board: &Board) {
    let modes = MODES.map(|(name, _)| name);
    let mut counts: BTreeMap<(&str, &str), u64> =
        ACTIONS.iter().flat_map(|(action, _)| modes.map(|mode| ((*action, mode), 0))).collect();
    board.each(|decision| {
        *counts.entry((decision.action, decision.mode)).or_default() += 1;
    });
    let counts: Vec<_> = counts
        .into_iter()
        .map(|((action, mode), n)| (vec![("action", action), ("mode", mode)], float(n)))
        .collect();
    let help = "Decisions that are in force.";
    page.put("portcullis_decisions_active", Kind::Gauge, help, &counts);
}

fn sinks(page: &mut Page, status: &Status) {
    use Kind::{Counter, Gauge};
    let mut states = Vec::new();
    for sink in &status.sinks {
        for state in SINK_STATES {
            let labels = vec![("sink", sink.name.as_str()), ("state", state)];
            states.push((labels, f64::from(u8::from(sink.state == state))));
        }
    }
    page.put("portcullis_sink_state", Gauge, "1 for the state that a sink is in.", &states);
    let each = |of: fn(&crate::engine::ask::SinkStatus) -> u64| -> Vec<_> {
        let sinks = status.sinks.iter();
        sinks.map(|sink| (vec![("sink", sink.name.as_str())], float(of(sink)))).collect()
    };
    let help = "Actions that wait for a sink.";
    page.put("portcullis_sink_waiting", Gauge, help, &each(|sink| sink.waiting));
    let help = "Actions that a sink has done.";
    page.put("portcullis_sink_delivered_total", Counter, help, &each(|sink| sink.delivered));
    let help = "Actions that a sink will never take.";
    page.put("portcullis_sink_refused_total", Counter, help, &each(|sink| sink.refused));
    let help = "Actions that were lost to a sink because too many waited.";
    page.put("portcullis_sink_dropped_total", Counter, help, &each(|sink| sink.dropped));
}
