//! The action line as bytes. Under an attack more is written than read, so lines are put together here and
//! not by a general serializer; only a text that needs escapes is left to one.

use super::Action;
use crate::decode::lanes::Wide;
use crate::window::Tally;

/// Most lines are shorter, bytes: a buffer of this size need not grow.
const USUAL_LEN: usize = 1024;

impl Action {
    /// The line, without its newline.
    pub fn json(&self) -> String {
        let mut line = Line(String::with_capacity(USUAL_LEN));
        // Each key with all that stands between it and what is before it.
        line.number(r#"{"schema":"#, self.schema);
        line.text(r#","id":""#, &self.id);
        line.text_if_any(r#","decision":""#, self.decision.as_deref());
        line.text(r#","time":""#, &self.time);
        line.text(r#","op":""#, self.op.name());
        line.text(r#","action":""#, self.action);
        line.text(r#","target":{"kind":""#, &self.target.kind);
        line.text_if_any(r#","value":""#, self.target.value.as_deref());
        line.put("}");
        line.number_if_any(r#","duration_s":"#, self.duration_s);
        line.text_if_any(r#","until":""#, self.until.as_deref());
        line.text(r#","rule":""#, &self.rule);
        line.text(r#","pack":""#, &self.pack);
        line.text_if_any(r#","pattern":""#, self.pattern.as_deref());
        line.number_if_any(r#","count":"#, self.count);
        line.put(if self.approx { r#","approx":true"# } else { "" });
        line.number_if_any(r#","window_s":"#, self.window_s);
        line.text_if_any(r#","first_seen":""#, self.first_seen.as_deref());
        line.text_if_any(r#","last_seen":""#, self.last_seen.as_deref());
        line.text_if_any(r#","level":""#, self.level);
        line.text_if_any(r#","severity":""#, self.severity);
        line.number_if_any(r#","respond_s":"#, self.respond_s);
        line.number_if_any(r#","escalate_s":"#, self.escalate_s);
        line.texts_if_any(r#","notify":["#, &self.notify);
        line.text_if_any(r#","runbook":""#, self.runbook.as_deref());
        line.tally_if_any(r#","users":{"distinct":"#, self.users.as_ref());
        line.tally_if_any(r#","ips":{"distinct":"#, self.ips.as_ref());
        line.texts_if_any(r#","known_ips":["#, &self.known_ips);
        let mut before = r#","reasons":{""#;
        for (reason, count) in &self.reasons {
            line.text(before, reason);
            line.number(":", *count);
            before = r#",""#;
        }
        line.put(if self.reasons.is_empty() { "" } else { "}" });
        line.tally_if_any(r#","request_ids":{"distinct":"#, self.request_ids.as_ref());
        line.number_if_any(r#","crossings":"#, self.crossings);
        line.text(r#","mode":""#, self.mode);
        line.text_if_any(r#","guard":""#, self.guard);
        line.text(r#","reason":""#, &self.reason);
        line.put("}");
        line.0
    }
}

/// A line that is being written. What is put `before` a text ends with the quote that opens it.
struct Line(String);

impl Line {
    #[inline]
    fn put(&mut self, text: &str) {
        self.0.push_str(text);
    }

    #[inline]
    fn text(&mut self, before: &'static str, text: &str) {
        self.put(before);
        if needs_escapes(text.as_bytes()) {
            self.escaped(text);
        } else {
            self.put(text);
            self.put(r#"""#);
        }
    }

    #[cold]
    fn escaped(&mut self, text: &str) {
        let escaped = serde_json::to_string(text).unwrap_or_default();
        self.put(escaped.get(1..).unwrap_or(r#"""#));
    }

    #[inline]
    fn text_if_any(&mut self, before: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(before, text);
        }
    }

    #[inline]
    fn number(&mut self, before: &'static str, number: impl itoa::Integer) {
        self.put(before);
        self.put(itoa::Buffer::new().format(number));
    }

    #[inline]
    fn number_if_any(&mut self, before: &'static str, number: Option<impl itoa::Integer>) {
        if let Some(number) = number {
            self.number(before, number);
        }
    }

    /// The rest of a list that was opened.
    fn texts(&mut self, texts: &[String]) {
        for (n, text) in texts.iter().enumerate() {
            self.text(if n > 0 { r#",""# } else { r#"""# }, text);
        }
        self.put("]");
    }

    fn texts_if_any(&mut self, before: &'static str, texts: &[String]) {
        if !texts.is_empty() {
            self.put(before);
            self.texts(texts);
        }
    }

    fn tally_if_any(&mut self, before: &'static str, tally: Option<&Tally>) {
        if let Some(Tally { distinct, sample }) = tally {
            self.number(before, *distinct);
            self.put(r#","sample":["#);
            self.texts(sample);
            self.put("}");
        }
    }
}

/// Whether a quote, a backslash or a control character is among the bytes.
fn needs_escapes(bytes: &[u8]) -> bool {
    let odd = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    let wide = |bytes| {
        let wide = Wide::of(bytes);
        wide.at_most(b' ' - 1) | wide.equal(b'"') | wide.equal(b'\\') != 0
    };
    match (bytes.as_chunks().0, bytes.last_chunk()) {
        // The last ones overlap those before.
        (chunks, Some(last)) => wide(last) || chunks.iter().any(wide),
        (_, None) => bytes.iter().any(odd),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Op, SCHEMA, Target};
    use proptest::option::of;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z0-9.@-]{0,40}",
            "[ -~\\x00-\\x1f\"\\\\\x7fé\u{2028}😀]{0,20}",
            any::<String>()
        ]
    }

    fn tally() -> impl Strategy<Value = Tally> {
        (any::<u64>(), prop::collection::vec(text(), 0..4))
            .prop_map(|(distinct, sample)| Tally { distinct, sample })
    }

    prop_compose! {
        fn who()(kind in text(), value in of(text()), ids in [text(), text(), text()], decision in of(text())) -> Action {
            let [id, time, reason] = ids;
            Action {
                id, time, reason, decision,
                target: Target { kind, value },
                ..Action::test(0)
            }
        }
    }

    prop_compose! {
        fn what()(
            op in prop::sample::select(vec![Op::Start, Op::Extend, Op::End, Op::Withheld, Op::Note]),
            action in prop::sample::select(vec!["block", "lock", "require_2fa", "alert"]),
            seconds in [of(any::<i64>()), of(any::<i64>())],
            numbers in [of(any::<u64>()), of(any::<u64>()), of(any::<u64>()), of(any::<u64>())],
            texts in [of(text()), of(text()), of(text()), of(text()), of(text())],
            approx in any::<bool>(),
            guard in of(Just("brake")),
            level in of(Just("warning")),
            severity in of(Just("P2")),
        ) -> Action {
            let ([duration_s, window_s], [count, respond_s, escalate_s, crossings]) = (seconds, numbers);
            let [until, pattern, first_seen, last_seen, runbook] = texts;
            Action {
                op, action, duration_s, window_s, count, respond_s, escalate_s, crossings, until, pattern,
                first_seen, last_seen, runbook, approx, guard, level, severity,
                ..Action::test(0)
            }
        }
    }

    prop_compose! {
        fn action()(
            who in who(),
            what in what(),
            names in [text(), text()],
            notify in prop::collection::vec(text(), 0..3),
            known_ips in prop::collection::vec(text(), 0..3),
            tallies in [of(tally()), of(tally()), of(tally())],
            reasons in prop::collection::vec((text(), any::<u64>()), 0..4),
            mode in prop::sample::select(vec!["enforce", "shadow"]),
        ) -> Action {
            let ([rule, pack], [users, ips, request_ids]) = (names, tallies);
            let Action { id, time, reason, decision, target, .. } = who;
            Action {
                id, time, reason, decision, target, rule, pack, notify, known_ips, users, ips, request_ids,
                reasons, mode,
                ..what
            }
        }
    }

    proptest! {
        #[test]
        fn a_line_is_json_that_says_the_action(action in action()) {
            let line = action.json();
            prop_assert!(!line.contains('\n'));
            prop_assert!(serde_json::from_str::<Value>(&line).is_ok(), "{}", line);
            prop_assert_eq!(Action::of_json(&line).ok(), Some(action), "{}", line);
        }

        #[test]
        fn a_text_is_written_as_serde_writes_it(text in text()) {
            let mut line = Line(String::new());
            line.text("\"", &text);
            prop_assert_eq!(line.0, json!(text).to_string());
        }
    }

    #[test]
    fn absent_keys_are_absent() {
        let line = Action { reason: "x".into(), ..Action::test(0) }.json();
        let keys: Vec<&str> =
            line.split('"').filter(|key| line.contains(&format!("\"{key}\":"))).collect();
        assert_eq!(
            keys,
            [
                "schema",
                "id",
                "time",
                "op",
                "action",
                "target",
                "kind",
                "rule",
                "pack",
                "level",
                "severity",
                "respond_s",
                "mode",
                "reason",
            ]
        );
        assert!(line.starts_with(&format!("{{\"schema\":{SCHEMA},")));
    }
}
