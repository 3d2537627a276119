//! `portcullis explain`: why a line counts, or why it does not.

use super::{assemble, print, settings};
use crate::action::escape;
use crate::assembly::Assembly;
use crate::cli::{Common, Explain};
use crate::decode::fields::FieldName;
use crate::decode::time::{self, When};
use crate::decode::{Decoded, Record, decode};
use crate::detect::detector::{Detector, describe};
use crate::pattern::set::{Matched, Verdict};
use crate::pattern::spec::Pattern;
use crate::pattern::{EventView, Events, Standing};
use anyhow::Result;
use std::fmt::Write;
use std::io::BufRead;
use std::process::ExitCode;

/// Runs the command.
///
/// # Errors
/// When the patterns cannot be loaded or standard input cannot be read.
pub fn explain(common: &Common, explain: &Explain) -> Result<ExitCode> {
    let settings = settings(common)?;
    let assembly = assemble(&settings, false)?;
    let detector = assembly.detector(&assembly.rules, settings.learn);
    let explainer = Explainer { assembly: &assembly, detector: &detector };
    let mut shown = 0;
    if explain.lines.is_empty() {
        let mut stdin = std::io::stdin().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            if stdin.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                line.pop();
            }
            shown += 1;
            if !print(&explainer.line(&line, shown)) {
                break;
            }
        }
    } else {
        for line in &explain.lines {
            shown += 1;
            if !print(&explainer.line(line.as_bytes(), shown)) {
                break;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

struct Explainer<'a> {
    assembly: &'a Assembly,
    detector: &'a Detector,
}

impl Explainer<'_> {
    fn line(&self, line: &[u8], number: usize) -> String {
        let scanner = &self.assembly.scanner;
        let mut out = format!("line {number}: {}\n", escape(&String::from_utf8_lossy(line)));
        if !scanner.set.prefilter().candidate(line) {
            out.push_str("  prefilter: no loaded pattern can match this line; a run counts it as unmatched without decoding it\n");
        }
        match decode(line, &scanner.decode) {
            Decoded::Empty => out.push_str("  empty: there is no text in it\n"),
            Decoded::Unread(why, error) => {
                let _ = writeln!(out, "  unreadable ({why}): {error}");
            }
            Decoded::Partial => {
                out.push_str("  a piece of a line that the container runtime cut; it is joined with the pieces that follow\n");
            }
            Decoded::Records(records) => {
                for (n, record) in records.iter().enumerate() {
                    if records.len() > 1 {
                        let _ = writeln!(out, "  record {} of {}", n + 1, records.len());
                    }
                    self.record(record, &mut out);
                }
                if records.is_empty() {
                    out.push_str("  an envelope without records\n");
                }
            }
        }
        out
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
            Some(When::Yearless(_)) => {
                "without a year; it is taken from the records before it".to_owned()
            }
            None => "none: the time of the record before it, or of its arrival".to_owned(),
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
        field("message", escape(&record.message()));
        if let Some(ip) = record.ip() {
            let doubt = if ip.proven {
                ""
            } else {
                "; a client could have written it, so it blocks only if the message says the same: \
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
        self.verdicts(record, out);
        let mut events = Events::default();
        let matched = self.assembly.scanner.set.matches(record, &mut events);
        self.marks(&matched, &events, out);
        for event in events.of(matched.events) {
            self.event(event, record, out);
        }
    }

    fn verdicts(&self, record: &Record<'_>, out: &mut String) {
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
        if !any && nearest.as_ref().is_none_or(|(at, ..)| *at == 0) {
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
                "does not count it: its own `where` or `unless` holds it off".to_owned()
            } else {
                match self.detector.key(rule, event) {
                    None => "cannot count it: it has no such key".to_owned(),
                    Some(key) => {
                        let key = key.view();
                        let (kind, value) = describe(key, &names);
                        let standing = event.ip.map_or(Standing::Good, |ip| ip.standing);
                        let at = match record.when() {
                            Some(When::At(at)) => at,
                            _ => 0,
                        };
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
                            "counts it {} ({}){}",
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
