//! What became of everything: the closed accounting, and what a reader of it wants to know.

use crate::action::{Op, escape};
use crate::decide::line::Due;
use crate::decode::time::{self, Micros};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// What became of a line or a record. Every one has exactly one; of a line with several records it
/// is the first in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// A pattern named it and it was counted.
    Matched,
    /// A pattern named it, but it is older than the clock by more than the lateness.
    Late,
    /// A pattern named it, but its time lies too far ahead of everything else.
    Future,
    /// A pattern named it, but it has no time, and none before it in its source had one.
    NoTime,
    /// It begins like a pattern and is none.
    NearMiss,
    /// No pattern named it.
    Unmatched,
    /// It could not be read.
    Unreadable,
    /// Longer than a line may be; its beginning was used.
    Oversized,
    /// It holds no text.
    Empty,
    /// A piece that was joined with the line that ends it.
    Joined,
    /// It was counted before and came again.
    Repeated,
}

/// Counters by outcome; they add up to `total`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// All of them.
    pub total: u64,
    /// See [`Outcome::Matched`].
    pub matched: u64,
    /// See [`Outcome::Unmatched`].
    pub unmatched: u64,
    /// See [`Outcome::NearMiss`].
    pub near_miss: u64,
    /// See [`Outcome::Late`].
    pub late: u64,
    /// See [`Outcome::Future`].
    pub future: u64,
    /// See [`Outcome::NoTime`].
    pub no_time: u64,
    /// See [`Outcome::Unreadable`].
    pub unreadable: u64,
    /// See [`Outcome::Oversized`].
    pub oversized: u64,
    /// See [`Outcome::Empty`].
    pub empty: u64,
    /// See [`Outcome::Joined`].
    pub joined: u64,
    /// See [`Outcome::Repeated`].
    pub repeated: u64,
}

impl Outcomes {
    /// Counts `n` of `outcome`.
    pub fn add(&mut self, outcome: Outcome, n: u64) {
        self.total += n;
        *self.slot(outcome) += n;
    }

    /// Takes back `n` of `outcome`.
    pub fn remove(&mut self, outcome: Outcome, n: u64) {
        self.total -= n;
        *self.slot(outcome) -= n;
    }

    /// Changes one from an outcome to another.
    pub fn change(&mut self, from: Outcome, to: Outcome) {
        *self.slot(from) -= 1;
        *self.slot(to) += 1;
    }

    /// Names and counters, without the total.
    pub fn parts(&self) -> [(&'static str, u64); 11] {
        [
            ("matched", self.matched),
            ("unmatched", self.unmatched),
            ("near_miss", self.near_miss),
            ("late", self.late),
            ("future", self.future),
            ("no_time", self.no_time),
            ("unreadable", self.unreadable),
            ("oversized", self.oversized),
            ("empty", self.empty),
            ("joined", self.joined),
            ("repeated", self.repeated),
        ]
    }

    /// Whether the parts add up.
    pub fn closed(&self) -> bool {
        self.parts().iter().map(|(_, n)| n).sum::<u64>() == self.total
    }

    fn slot(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Matched => &mut self.matched,
            Outcome::Unmatched => &mut self.unmatched,
            Outcome::NearMiss => &mut self.near_miss,
            Outcome::Late => &mut self.late,
            Outcome::Future => &mut self.future,
            Outcome::NoTime => &mut self.no_time,
            Outcome::Unreadable => &mut self.unreadable,
            Outcome::Oversized => &mut self.oversized,
            Outcome::Empty => &mut self.empty,
            Outcome::Joined => &mut self.joined,
            Outcome::Repeated => &mut self.repeated,
        }
    }

    fn equation(&self) -> String {
        let parts: Vec<String> = self
            .parts()
            .iter()
            .filter(|(name, n)| *n > 0 || *name == "matched")
            .map(|(name, n)| format!("{} {}", grouped(*n), name.replace('_', " ")))
            .collect();
        format!("{} = {}", grouped(self.total), parts.join(" + "))
    }
}

/// What is true of records beside their outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Marks {
    /// Without a time of their own.
    pub untimed: u64,
    /// With a capture that can be read in two ways.
    pub ambiguous: u64,
    /// Structure and text disagreed.
    pub conflict: u64,
    /// Their only address belongs to a proxy.
    pub proxy_hidden: u64,
    /// Of a partition: their time lay so far behind the moment at which they were sent that it was
    /// taken to be that moment.
    pub clamped: u64,
}

/// Near misses of one pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NearMisses {
    /// How many.
    pub count: u64,
    /// The first one's message.
    pub sample: String,
    /// Where it stood, `file:line`.
    pub at: String,
}

/// A figure with its target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kpi {
    /// What was seen; absent if nothing was.
    pub value: Option<f64>,
    /// What it should be.
    pub target: f64,
    /// Whether it is.
    pub ok: bool,
}

impl Kpi {
    fn bound(name: &str) -> &'static str {
        if name == "login_success_rate" { "at least" } else { "at most" }
    }
}

/// Records of a topic that are still to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// In all partitions.
    pub total: i64,
    /// By partition.
    pub partitions: BTreeMap<String, i64>,
}

impl Lag {
    fn text(&self) -> String {
        let most = self.partitions.iter().max_by_key(|(_, behind)| **behind);
        let most = most.filter(|(_, behind)| **behind > 0);
        let most = most.map_or_else(String::new, |(name, n)| format!(", most of them {name}: {n}"));
        format!("{} records{most}", self.total)
    }
}

/// Everything that is said at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Lines by outcome.
    pub lines: Outcomes,
    /// Records by outcome.
    pub records: Outcomes,
    /// Unreadable lines by reason.
    pub unreadable: BTreeMap<String, u64>,
    /// Marks of records.
    pub marks: Marks,
    /// Events by pattern.
    pub events: BTreeMap<String, u64>,
    /// Events that lack a rule's key, by rule.
    pub keyless: BTreeMap<String, u64>,
    /// Action lines by rule and op.
    pub actions: BTreeMap<String, BTreeMap<String, u64>>,
    /// Near misses by pattern.
    pub near_misses: BTreeMap<String, NearMisses>,
    /// Rules that cannot fire in this run, with the reason.
    pub inactive_rules: BTreeMap<String, String>,
    /// Limits that were reached, and how often.
    pub limits: BTreeMap<&'static str, u64>,
    /// Keys held at the end.
    pub keys_held: u64,
    /// Counted bytes of state at the end.
    pub state_bytes: u64,
    /// Keys given up because of `memory_limit`.
    pub keys_evicted: u64,
    /// Decisions active at the end.
    pub decisions_active: u64,
    /// Time of the first matched record.
    pub first_event: Option<String>,
    /// Time of the last matched record.
    pub last_event: Option<String>,
    /// Errors of sources and sinks.
    pub errors: Vec<String>,
    /// Of Kafka: records that the partitions held and that were not read at the end, as it was last
    /// known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Bytes of lines.
    pub bytes: u64,
    /// Seconds by the wall.
    pub wall_s: f64,
    /// Seconds of processor time.
    pub cpu_s: f64,
    /// Lines per second.
    pub lines_per_s: f64,
    /// Megabytes per second.
    pub mb_per_s: f64,
    /// The runbook's figures.
    pub kpi: BTreeMap<&'static str, Kpi>,
    #[serde(skip)]
    first: Option<Micros>,
    #[serde(skip)]
    last: Option<Micros>,
    #[serde(skip)]
    p0: u64,
    #[serde(skip)]
    suspicious: u64,
}

impl Summary {
    /// Notes the time of a matched record.
    pub fn saw(&mut self, time: Micros) {
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
    }

    /// Time of the latest event.
    pub fn newest(&self) -> Option<Micros> {
        self.last
    }

    /// Counts an action line.
    pub fn acted(&mut self, line: &Due) {
        let (rule, op) = (line.rule(), line.op());
        let counted = self.actions.get_mut(rule).and_then(|by_op| by_op.get_mut(op.name()));
        match counted {
            Some(count) => *count += 1,
            None => {
                let by_op = self.actions.entry(rule.to_owned()).or_default();
                by_op.insert(op.name().to_owned(), 1);
            }
        }
        if op == Op::Note && rule == "brake" {
            *self.limits.entry("brake").or_default() += 1;
        }
        if matches!(op, Op::Start | Op::Note) {
            self.p0 += u64::from(line.severity() == Some("P0"));
        }
        if op == Op::Start {
            self.suspicious += u64::from(line.pattern() == Some("SUSPICIOUS_ACTIVITY"));
        }
    }

    /// Whether a run that reached its end has something to be told by its exit code.
    pub fn clean(&self) -> bool {
        self.lines.unreadable == 0
            && self.records.late == 0
            && self.limits.is_empty()
            && self.errors.is_empty()
    }

    /// Works out what follows from the counters.
    pub fn finish(&mut self, wall_s: f64, cpu_s: f64) {
        self.first_event = self.first.map(time::format);
        self.last_event = self.last.map(time::format);
        self.wall_s = wall_s;
        self.cpu_s = cpu_s;
        let per_s = |n: f64| if wall_s > 0.0 { n / wall_s } else { 0.0 };
        self.lines_per_s = per_s(float(self.lines.total)).round();
        self.mb_per_s = (per_s(float(self.bytes) / 1e6) * 10.0).round() / 10.0;
        self.kpi = self.kpis();
    }

    fn kpis(&self) -> BTreeMap<&'static str, Kpi> {
        let events = |name: &str| float(self.events.get(name).copied().unwrap_or(0));
        let (failed, successful) = (events("FAILED_LOGIN"), events("SUCCESSFUL_LOGIN"));
        let logins = failed + successful;
        let share = |n: f64| (logins > 0.0).then(|| round(n / logins));
        let days = match (self.first, self.last) {
            (Some(first), Some(last)) => {
                Some(float(u64::try_from(last - first).unwrap_or(0)) / 86_400e6)
            }
            _ => None,
        };
        // A stream shorter than a day is not blown up to one.
        let per = |n: f64, length: f64| days.map(|days| round(n / (days / length).max(1.0)));
        let at_least = |value: Option<f64>, target: f64| Kpi {
            value,
            target,
            ok: value.is_none_or(|v| v >= target),
        };
        let at_most = |value: Option<f64>, target: f64| Kpi {
            value,
            target,
            ok: value.is_none_or(|v| v <= target),
        };
        BTreeMap::from([
            ("login_success_rate", at_least(share(successful), 0.98)),
            ("failed_login_rate", at_most(share(failed), 0.02)),
            (
                "rate_limit_violations_per_day",
                at_most(per(events("RATE_LIMIT_VIOLATION"), 1.0), 50.0),
            ),
            ("suspicious_alerts_per_day", at_most(per(float(self.suspicious), 1.0), 10.0)),
            ("p0_per_30d", at_most(per(float(self.p0), 30.0), 0.0)),
        ])
    }

    /// As one JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // A label that goes on is not repeated.
        let mut before = String::new();
        let mut line = |label: &str, text: String| {
            let shown = if label == before { "" } else { label };
            let _ = writeln!(out, "{shown:<12} {text}");
            label.clone_into(&mut before);
        };
        line("lines", self.lines.equation());
        if self.records.total > 0 {
            line("records", self.records.equation());
        }
        if !self.unreadable.is_empty() {
            line("unreadable", counts(&self.unreadable));
        }
        let marks = [
            ("untimed", self.marks.untimed),
            ("ambiguous", self.marks.ambiguous),
            ("conflict", self.marks.conflict),
            ("proxy hidden", self.marks.proxy_hidden),
        ];
        let marks: Vec<String> = marks
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{} {name}", grouped(*n)))
            .collect();
        if !marks.is_empty() {
            line("marked", marks.join(", "));
        }
        line("events", if self.events.is_empty() { "none".into() } else { counts(&self.events) });
        if !self.keyless.is_empty() {
            line("keyless", counts(&self.keyless));
        }
        if self.actions.is_empty() {
            line("actions", "none".into());
        }
        for (rule, ops) in &self.actions {
            line("actions", format!("{rule}: {}", counts(ops)));
        }
        for (pattern, near) in &self.near_misses {
            line(
                "near miss",
                format!(
                    "{} {pattern}, first at {}: {}",
                    grouped(near.count),
                    near.at,
                    escape(&near.sample)
                ),
            );
        }
        for (what, times) in &self.limits {
            line("limit", format!("{what} was reached {} times", grouped(*times)));
        }
        for (rule, why) in &self.inactive_rules {
            line("inactive", format!("{rule}: {why}"));
        }
        if let Some(lag) = &self.lag {
            line("behind", lag.text());
        }
        if let (Some(first), Some(last)) = (&self.first_event, &self.last_event) {
            line("time", format!("{first} to {last}"));
        }
        line(
            "state",
            format!(
                "{} keys in {} counted bytes, {} evicted; {} decisions active",
                grouped(self.keys_held),
                grouped(self.state_bytes),
                grouped(self.keys_evicted),
                grouped(self.decisions_active)
            ),
        );
        for error in &self.errors {
            line("error", error.clone());
        }
        for (name, kpi) in &self.kpi {
            if let Some(value) = kpi.value {
                line(
                    "kpi",
                    format!(
                        "{:<30} {value:<8} {:<13} {}",
                        name.replace('_', " "),
                        format!("({} {})", Kpi::bound(name), kpi.target),
                        if kpi.ok { "ok" } else { "MISSED" }
                    ),
                );
            }
        }
        line(
            "speed",
            format!(
                "{:.2} s wall, {:.2} s cpu, {} lines/s, {} MB/s",
                self.wall_s,
                self.cpu_s,
                grouped_f(self.lines_per_s),
                self.mb_per_s
            ),
        );
        out
    }
}

fn counts(map: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        map.iter().map(|(name, n)| format!("{} {}", grouped(*n), escape(name))).collect();
    parts.join(", ")
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn float(n: u64) -> f64 {
    n as f64
}

fn round(n: f64) -> f64 {
    (n * 10_000.0).round() / 10_000.0
}

fn grouped_f(n: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people"
    )]
    grouped(n.max(0.0) as u64)
}

/// Thousands set apart.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
