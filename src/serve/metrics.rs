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
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most that was shown of each counter.
#[derive(Debug, Default)]
pub struct Shown(Mutex<HashMap<String, f64>>);

/// What a sink can be.
const SINK_STATES: [&str; 4] = ["working", "failing", "dry", "disabled"];

/// GET /metrics.
pub async fn answer(
    State(shared): State<Arc<Shared>>,
    Extension(Started(started)): Extension<Started>,
    Extension(shown): Extension<Arc<Shown>>,
) -> Response<Body> {
    match shared.asker.status().await {
        Ok(status) => {
            let form = "text/plain; version=0.0.4; charset=utf-8";
            let text = text(&status, &shared.board, started, &shown);
            ([(header::CONTENT_TYPE, form)], text).into_response()
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

struct Page<'s> {
    text: String,
    shown: MutexGuard<'s, HashMap<String, f64>>,
}

impl Page<'_> {
    /// A figure with its values, each with its labels. Without values it is left out.
    fn put(&mut self, name: &str, kind: Kind, help: &str, values: &[(Labels<'_>, f64)]) {
        if values.is_empty() {
            return;
        }
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _infallible = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {word}");
        for (labels, value) in values {
            let mut series = name.to_owned();
            for (n, (label, text)) in labels.iter().enumerate() {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let before = if n == 0 { '{' } else { ',' };
                let _infallible = write!(series, "{before}{label}=\"{text}\"");
            }
            series.push_str(if labels.is_empty() { "" } else { "}" });
            let value = match kind {
                Kind::Counter => self.grown(&series, *value),
                Kind::Gauge => *value,
            };
            let _infallible = writeln!(self.text, "{series} {value}");
        }
    }

    /// A counter, or what was shown of it if that was more. An outcome may be corrected: a record was
    /// ahead and is not any more. A counter that falls is a restart to whoever reads it, and all of it
    /// would count once more; this one stands still until it is reached.
    fn grown(&mut self, series: &str, value: f64) -> f64 {
        let most = self.shown.entry(series.to_owned()).or_default();
        *most = most.max(value);
        *most
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
pub fn text(status: &Status, board: &Board, started: Micros, shown: &Shown) -> String {
    use Kind::Gauge;
    let shown = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut page = Page { text: String::new(), shown };
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    page.put("portcullis_build_info", Gauge, "The version, always 1.", &[(version, 1.0)]);
    let help = "When it started, seconds since 1970.";
    page.one("process_start_time_seconds", Gauge, help, seconds(started));
    let ready = f64::from(u8::from(status.unready.is_none()));
    page.one("portcullis_ready", Gauge, "Whether it reads and counts.", ready);
    stream(&mut page, status);
    decisions(&mut page, board);
    sinks(&mut page, status);
    page.text
}

fn outcomes(outcomes: &Outcomes) -> Vec<(Labels<'static>, f64)> {
    outcomes.parts().map(|(name, n)| (vec![("outcome", name)], float(n))).into()
}

fn stream(page: &mut Page<'_>, status: &Status) {
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

fn decisions(page: &mut Page<'_>, board: &Board) {
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

fn sinks(page: &mut Page<'_>, status: &Status) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::summary::Outcome;

    #[test]
    fn a_counter_that_is_corrected_stands_still() {
        let (board, shown, mut status) = (Board::default(), Shown::default(), Status::default());
        let value = |status: &Status, outcome: &str| {
            let page = text(status, &board, 0, &shown);
            let name = format!("portcullis_records_total{{outcome=\"{outcome}\"}} ");
            page.lines().find_map(|line| line.strip_prefix(&name)).unwrap().to_owned()
        };
        status.summary.records.add(Outcome::Future, 2);
        assert_eq!(value(&status, "future"), "2");
        status.summary.records.change(Outcome::Future, Outcome::Matched);
        assert_eq!((value(&status, "future"), value(&status, "matched")), ("2".into(), "1".into()));
        status.summary.records.add(Outcome::Future, 2);
        assert_eq!(value(&status, "future"), "3");
        // What goes up and down does.
        for keys in ["3", "1"] {
            status.keys = keys.parse().unwrap();
            let page = text(&status, &board, 0, &shown);
            assert!(page.contains(&format!("portcullis_state_keys {keys}\n")), "{page}");
        }
    }
}
