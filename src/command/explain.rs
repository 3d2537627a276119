//! `portcullis explain`: why a line counts, or why it does not.

use super::{assemble, print, settings};
use crate::action::escape;
use crate::assembly::Assembly;
use crate::cli::{Common, Explain};
use crate::decode::envelope::{Fragment, joined};
use crate::decode::fields::FieldName;
use crate::decode::time::{self, When};
use crate::decode::{Record, Shape, each};
use crate::detect::detector::{Detector, describe};
use crate::engine::order::Engine;
use crate::engine::summary::Outcomes;
use crate::pattern::set::{Matched, Verdict};
use crate::pattern::spec::Pattern;
use crate::pattern::{EventView, Events, Standing};
use crate::sink::remote::micros;
use crate::source::Batch;
use crate::source::lines::LineReader;
use anyhow::Result;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::process::ExitCode;
use std::time::SystemTime;

/// Bytes that are read at once.
const BLOCK: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// When the patterns cannot be loaded or standard input cannot be read.
pub fn explain(common: &Common, explain: &Explain) -> Result<ExitCode> {
    let settings = settings(common)?;
    let assembly = assemble(&settings, false)?;
    let mut explainer = Explainer {
        assembly: &assembly,
        detector: &assembly.detector(&assembly.rules, settings.learn),
        engine: assembly.engine(),
        max_line: settings.max_line,
        pieces: BTreeMap::new(),
        shown: 0,
    };
    let go_on = if explain.lines.is_empty() {
        explainer.lines(std::io::stdin().lock())?
    } else {
        explainer.lines(format!("{}\n", explain.lines.join("\n")).as_bytes())?
    };
    if go_on {
        explainer.finish();
    }
    Ok(ExitCode::SUCCESS)
}

struct Explainer<'a> {
    assembly: &'a Assembly,
    detector: &'a Detector,
    /// Takes the lines as a replay does, so that what is said of them is what it does.
    engine: Engine,
    max_line: usize,
    /// The first piece of each line that waits for the rest, and what of it has come.
    pieces: BTreeMap<String, (Fragment, String)>,
    shown: usize,
}

impl Explainer<'_> {
    /// Says what all lines of a text are; `false` if nobody listens any more.
    fn lines(&mut self, text: impl Read) -> Result<bool> {
        let mut lines = LineReader::new(text, 0, self.max_line, BLOCK);
        while let Some(batch) = lines.next_batch()? {
            for line in batch.lines() {
                self.shown += 1;
                if !print(&self.line(line, batch.oversized)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Says what of pieces is read whose rest never came.
    fn finish(&mut self) {
        for (first, content) in std::mem::take(&mut self.pieces).into_values() {
            let mut out =
                "the input ends before the rest of a line has come; what there is of it:\n"
                    .to_owned();
            if let Shape::Unread(..) = self.pieces_read(&first, &content, true, &mut out) {
                out.push_str("  counted as: unreadable, and its last piece no longer as joined\n");
            }
            if !print(&out) {
                return;
            }
        }
    }

    fn line(&mut self, line: &[u8], oversized: bool) -> String {
        let scanner = &self.assembly.scanner;
        let text = String::from_utf8_lossy(line);
        let mut out = format!("line {}: {}\n", self.shown, escape(text.trim_end_matches('\r')));
        let candidate = scanner.set.prefilter().candidate(line);
        // What is no candidate is looked at only while pieces wait.
        let looked = !oversized && (candidate || !self.pieces.is_empty());
        let fragment = if looked { scanner.fragment(line) } else { None };
        let waits = fragment.as_ref().is_some_and(|f| self.pieces.contains_key(&f.stream));
        match fragment {
            _ if line.iter().all(u8::is_ascii_whitespace) => {
                out.push_str("  empty: there is no text in it\n");
            }
            Some(piece) if waits || !piece.last => {
                let (first, mut content) =
                    self.pieces.remove(&piece.stream).unwrap_or((piece.clone(), String::new()));
                content.push_str(&piece.content);
                if waits && piece.ends {
                    out.push_str("  the last piece of a line that was cut; the whole line:\n");
                    self.pieces_read(&first, &content, false, &mut out);
                } else {
                    out.push_str("  a piece of a line that was cut; it is joined with the pieces that follow\n");
                    self.pieces.insert(piece.stream, (first, content));
                }
            }
            _ => {
                if !oversized && !candidate {
                    out.push_str(
                        "  prefilter: no loaded pattern can match this line, so it is not decoded; if it were:\n",
                    );
                }
                let mut records = Vec::new();
                let shape = each(line, oversized, &scanner.decode, &mut |record| {
                    records.push(record.into_owned(&scanner.decode));
                });
                self.shape(&shape, &records, &mut out);
            }
        }
        self.counted(line, oversized, &mut out);
        out
    }

    fn pieces_read(&self, first: &Fragment, content: &str, cut: bool, out: &mut String) -> Shape {
        let config = &self.assembly.scanner.decode;
        let mut records = Vec::new();
        let shape = joined(first, content, cut, config, &mut |record| {
            records.push(record.into_owned(config));
        });
        self.shape(&shape, &records, out);
        shape
    }

    /// Lets the line be counted behind those before it, and says as what.
    fn counted(&mut self, line: &[u8], oversized: bool, out: &mut String) {
        let before = self.engine.core.summary.clone();
        let end: &[u8] = if oversized { b"" } else { b"\n" };
        let batch = Batch { bytes: [line, end].concat(), oversized, ..Batch::default() };
        self.engine.apply_batch(self.assembly.scanner.scan(batch), None);
        self.engine.take_due();
        self.engine.core.messages.clear();
        let after = &self.engine.core.summary;
        let Some(outcome) = risen(&before.lines, &after.lines) else { return };
        let name = outcome.replace('_', " ");
        let what = match outcome {
            "late" => {
                ": it is older than the lines before it by more than `lateness`, so no rule counts it"
            }
            "future" => {
                ": it lies ahead of the lines before it by more than `max_ahead`, so it is held until others come near it"
            }
            "no_time" => {
                ": no matched line before it has a time, so a replay does not use it; `run` takes the time of its arrival"
            }
            "repeated" => ": a line before it says the same (`dedupe`)",
            "oversized" => ": it is longer than `max_line`, and only its beginning is read",
            _ => "",
        };
        let _ = writeln!(out, "  counted as: {name}{what}");
        if matches!(outcome, "oversized" | "joined")
            && let Some(records) = risen(&before.records, &after.records)
        {
            let _ = writeln!(out, "  what it holds: {}", records.replace('_', " "));
        }
    }

    fn shape(&self, shape: &Shape, records: &[Record<'_>], out: &mut String) {
        match shape {
            Shape::Empty => out.push_str("  empty: there is no text in it\n"),
            Shape::Unread(why, error) => {
                let _ = writeln!(out, "  unreadable ({why}): {error}");
            }
            Shape::Partial => out.push_str("  a piece of a line that was cut\n"),
            Shape::Records if records.is_empty() => {
                out.push_str("  an envelope without records\n");
            }
            Shape::Records => {}
        }
        for (n, record) in records.iter().enumerate() {
            if records.len() > 1 {
                let _ = writeln!(out, "  record {} of {}", n + 1, records.len());
            }
            self.record(record, out);
        }
    }

    fn record(&self, record: &Record<'_>, out: &mut String) {
        let _ = writeln!(
            out,
            "  read as: {}{}",
            record.layers().collect::<Vec<_>>().join(" > "),
            if record.bent() { " (not strict JSON; read with good will)" } else { "" }
        );
        let time = match record.when() {
            Some(When::At(at)) => time::format(at),
            Some(When::Twice { first, again }) => format!(
                "{} or {}, whichever is nearer to the line before it: that clock showed it twice",
                time::format(first),
                time::format(again)
            ),
            Some(When::Yearless(_)) => {
                "without a year: the one nearest to the lines before it, else to its source's date"
                    .to_owned()
            }
            None => {
                "none: that of the last matched line before it; in `run`, of its arrival".to_owned()
            }
        };
        let mut field = |name: &str, value: String| {
            let _ = writeln!(out, "    {name:<11} {value}");
        };
        field("time", time);
        if let Some(level) = record.level() {
            field("level", level.to_string());
        }
        if let Some(logger) = record.logger() {
            field("logger", escape(logger));
        }
        let message =
            if record.has_message() { escape(&record.message()) } else { "none".to_owned() };
        field("message", message);
        if let Some(ip) = record.ip() {
            let doubt = if ip.proven {
                ""
            } else {
                "; a client could have written it, so it counts and alerts but never blocks: \
                 set trusted_proxies"
            };
            field("ip", format!("{}  (field {}{doubt})", ip.ip, escape(ip.from)));
        }
        for (name, fact) in [
            ("user", record.user()),
            ("user_id", record.user_id()),
            ("request_id", record.request_id()),
            ("country", record.country()),
        ] {
            if let Some(fact) = fact {
                field(name, format!("{}  (field {})", escape(&fact.value), escape(fact.from)));
            }
        }
        if let Some(status) = record.status() {
            field("status", status.to_string());
        }
        if let Some(path) = record.path() {
            field("path", escape(path));
        }
        let doubts = record.doubts();
        for (doubt, what) in [
            (doubts.ip, "two different addresses stand in it, so neither is used"),
            (doubts.user, "two different users stand in it, so neither is used"),
            (doubts.user_id, "two different user ids stand in it, so neither is used"),
            (
                doubts.core,
                "its message, time or logger stands in it twice with different values, so nobody in it is held responsible",
            ),
        ] {
            if doubt {
                let _ = writeln!(out, "    contradiction: {what}");
            }
        }
        if let Some(keys) = record.closed() {
            let _ = writeln!(out, "    not opened: {}", not_opened(&keys));
        }
        let mut events = Events::default();
        let matched = self.assembly.scanner.set.matches(record, &mut events);
        self.verdicts(record, !matched.near_misses.is_empty(), out);
        self.marks(&matched, &events, out);
        for event in events.of(matched.events) {
            self.event(event, record, out);
        }
    }

    /// How each pattern meets a record; `near`: it is told below that it is a near miss.
    fn verdicts(&self, record: &Record<'_>, near: bool, out: &mut String) {
        let set = &self.assembly.scanner.set;
        let mut nearest: Option<(usize, &Pattern, String)> = None;
        let mut any = false;
        for pattern in set.patterns() {
            let verdict = set.verdict(pattern, record);
            let text = match &verdict {
                Verdict::Matches(captures) => {
                    any = true;
                    let shown: Vec<String> = captures
                        .iter()
                        .map(|(name, value)| match value {
                            Some(value) => format!("{name}={}", escape(value)),
                            None => {
                                format!("{name}=? (can be read in two ways, so it is not used)")
                            }
                        })
                        .collect();
                    format!("matches {}", shown.join(", ")).trim_end().to_owned()
                }
                Verdict::FieldDiffers(field) => {
                    let held = record
                        .lookup(&FieldName::new(field))
                        .map_or("absent".to_owned(), |v| format!("`{}`", escape(&v)));
                    format!("no: the field {field} is {held}")
                }
                Verdict::MessageStops(stop) => {
                    let at = record.message().get(..stop.at).map_or(0, |head| head.chars().count());
                    let text = format!(
                        "no: at character {} of the message, {} was expected",
                        at + 1,
                        escape(&stop.expected)
                    );
                    if nearest.as_ref().is_none_or(|(best, ..)| stop.at > *best) {
                        nearest = Some((stop.at, pattern, text.clone()));
                    }
                    text
                }
                Verdict::RegexFails => "no: its regular expression finds nothing".to_owned(),
            };
            let _ = writeln!(out, "  pattern {:<22} {text}", pattern.name);
        }
        if !any && !near && nearest.as_ref().is_none_or(|(at, ..)| *at == 0) {
            out.push_str("  no pattern matches, and none is near\n");
        }
        if let Some((at, pattern, text)) = nearest.filter(|(at, ..)| !any && *at > 0) {
            let message = record.message();
            let _ = writeln!(
                out,
                "  nearest pattern: {} ({})",
                pattern.name,
                text.trim_start_matches("no: ")
            );
            let _ = writeln!(out, "    {}", escape(&message));
            let column = message.get(..at).map_or(0, |head| escape(head).chars().count());
            let _ = writeln!(out, "    {}^", " ".repeat(column));
        }
    }

    fn marks(&self, matched: &Matched, events: &Events, out: &mut String) {
        let set = &self.assembly.scanner.set;
        for id in matched.near_misses.of(&events.near_misses) {
            let _ = writeln!(
                out,
                "  near miss of {}: it begins like it, or its logger is another",
                set.name(*id)
            );
        }
        for (mark, what) in [
            (
                matched.ambiguous,
                "ambiguous: somebody wrote a pattern's own text into a value; what can be read in two ways is not used",
            ),
            (matched.conflict, "conflict: a field and the message disagree; the field counts"),
            (
                matched.proxy_hidden,
                "proxy hidden: its only address is never blocked, so it counts per user and globally only",
            ),
        ] {
            if mark {
                let _ = writeln!(out, "  {what}");
            }
        }
    }

    fn event(&self, event: EventView<'_>, record: &Record<'_>, out: &mut String) {
        let set = &self.assembly.scanner.set;
        let weight = if event.weight == 1 {
            String::new()
        } else {
            format!(" with weight {}", event.weight)
        };
        let _ = writeln!(out, "  event {}{weight}", set.name(event.pattern));
        let decider = self.assembly.decider();
        let names = self.detector.key_names();
        for (number, rule) in self.assembly.rules.iter().enumerate() {
            if !rule.on.iter().any(|on| on == set.name(event.pattern)) {
                continue;
            }
            let counted = event.rules().iter().any(|n| usize::from(*n) == number);
            let text = if !counted {
                "would not count it: its own `where` or `unless` holds it off".to_owned()
            } else {
                match self.detector.key(rule, event) {
                    None => "cannot count it: it has no such key".to_owned(),
                    Some(key) => {
                        let key = key.view();
                        let (kind, value) = describe(key, &names);
                        let standing = event.ip.map_or(Standing::Good, |ip| ip.standing);
                        let said = record.when().and_then(When::first);
                        let last = || self.engine.core.last(0);
                        let at = said.or_else(last).unwrap_or_else(|| micros(now()));
                        let held: Vec<String> = rule
                            .then
                            .iter()
                            .filter_map(|then| {
                                let guard =
                                    decider.guard().forbids(key, standing, then.action, at)?;
                                Some(format!(
                                    "; a {} would be withheld by {guard}",
                                    then.action.name()
                                ))
                            })
                            .collect();
                        format!(
                            "would count it {} ({}){}",
                            match value {
                                Some(value) => format!("per {kind} {}", escape(&value)),
                                None => "for all together".to_owned(),
                            },
                            rule.when,
                            held.concat()
                        )
                    }
                }
            };
            let _ = writeln!(out, "    rule {:<26} {text}", rule.id);
        }
    }
}

/// The outcome that a line has added to.
fn risen(before: &Outcomes, after: &Outcomes) -> Option<&'static str> {
    let parts = before.parts().into_iter().zip(after.parts());
    // What is counted as matched behind others was held aside by lines before this one.
    parts.rev().find(|((_, before), (_, after))| after > before).map(|((name, _), _)| name)
}

/// Why a document in a message stays a text, and what would help.
fn not_opened(keys: &[&str]) -> String {
    let named: Vec<String> = keys.iter().take(3).map(|key| format!("`{}`", escape(key))).collect();
    let named = named.join(", ");
    let why = match keys.len() {
        0 => {
            return "the document in its message stays a text: what it travels in names a logger or other \
                    fields of its own, holds two messages, or lies too deep"
                .to_owned();
        }
        1 => format!("the key {named} is one that no carrier writes beside the others"),
        2 | 3 => format!("the keys {named} are ones that no carrier writes beside the others"),
        n => format!("{n} keys ({named}, ...) are ones that no carrier writes beside the others"),
    };
    format!(
        "the document in its message stays a text: {why}, so the record is an application's own; take \
         off what wraps the document, or let it put what it adds under `labels`"
    )
}

#[expect(clippy::disallowed_methods, reason = "a line without a time is judged when it comes")]
fn now() -> SystemTime {
    SystemTime::now()
}
