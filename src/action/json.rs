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
        let mut line = Object::new();
        line.number("schema", u64::from(self.schema));
        line.text("id", &self.id);
        line.text_if_any("decision", self.decision.as_deref());
        line.text("time", &self.time);
        line.text("op", self.op.name());
        line.text("action", self.action);
        line.object("target", |target| {
            target.text("kind", &self.target.kind);
            target.text_if_any("value", self.target.value.as_deref());
        });
        if let Some(seconds) = self.duration_s {
            line.key("duration_s");
            line.0.push_str(itoa::Buffer::new().format(seconds));
        }
        line.text_if_any("until", self.until.as_deref());
        line.text("rule", &self.rule);
        line.text("pack", &self.pack);
        line.text_if_any("pattern", self.pattern.as_deref());
        line.number_if_any("count", self.count);
        if self.approx {
            line.key("approx");
            line.0.push_str("true");
        }
        if let Some(seconds) = self.window_s {
            line.key("window_s");
            line.0.push_str(itoa::Buffer::new().format(seconds));
        }
        line.text_if_any("first_seen", self.first_seen.as_deref());
        line.text_if_any("last_seen", self.last_seen.as_deref());
        line.text_if_any("level", self.level);
        line.text_if_any("severity", self.severity);
        line.number_if_any("respond_s", self.respond_s);
        line.number_if_any("escalate_s", self.escalate_s);
        line.texts_if_any("notify", &self.notify);
        line.text_if_any("runbook", self.runbook.as_deref());
        line.tally_if_any("users", self.users.as_ref());
        line.tally_if_any("ips", self.ips.as_ref());
        line.texts_if_any("known_ips", &self.known_ips);
        if !self.reasons.is_empty() {
            line.object("reasons", |Object(reasons)| {
                for (n, (reason, count)) in self.reasons.iter().enumerate() {
                    reasons.push_str(if n > 0 { "," } else { "" });
                    put_text(reasons, reason);
                    reasons.push(':');
                    reasons.push_str(itoa::Buffer::new().format(*count));
                }
            });
        }
        line.tally_if_any("request_ids", self.request_ids.as_ref());
        line.number_if_any("crossings", self.crossings);
        line.text("mode", self.mode);
        line.text_if_any("guard", self.guard);
        line.text("reason", &self.reason);
        line.close()
    }
}

/// An object that is being written.
struct Object(String);

impl Object {
    fn new() -> Self {
        let mut line = String::with_capacity(USUAL_LEN);
        line.push('{');
        Self(line)
    }

    fn close(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// A key of ours, which needs no escapes.
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.0.push_str(if self.0.ends_with('{') { "\"" } else { ",\"" });
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.key(key);
        put_text(&mut self.0, text);
    }

    fn text_if_any(&mut self, key: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(key, text);
        }
    }

    fn number(&mut self, key: &'static str, number: u64) {
        self.key(key);
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    fn number_if_any(&mut self, key: &'static str, number: Option<u64>) {
        if let Some(number) = number {
            self.number(key, number);
        }
    }

    fn texts(&mut self, key: &'static str, texts: &[String]) {
        self.key(key);
        self.0.push('[');
        for (n, text) in texts.iter().enumerate() {
            self.0.push_str(if n > 0 { "," } else { "" });
            put_text(&mut self.0, text);
        }
        self.0.push(']');
    }

    fn texts_if_any(&mut self, key: &'static str, texts: &[String]) {
        if !texts.is_empty() {
            self.texts(key, texts);
        }
    }

    fn tally_if_any(&mut self, key: &'static str, tally: Option<&Tally>) {
        if let Some(Tally { distinct, sample }) = tally {
            self.object(key, |tally| {
                tally.number("distinct", *distinct);
                tally.texts("sample", sample);
            });
        }
    }

    fn object(&mut self, key: &'static str, put: impl FnOnce(&mut Self)) {
        self.key(key);
        self.0.push('{');
        put(self);
        self.0.push('}');
    }
}

/// Writes a text with its quotes.
fn put_text(line: &mut String, text: &str) {
    if needs_escapes(text.as_bytes())
        && let Ok(escaped) = serde_json::to_string(text)
    {
        line.push_str(&escaped);
        return;
    }
    line.push('"');
    line.push_str(text);
    line.push('"');
}

/// Whether a quote, a backslash or a control character is among the bytes.
fn needs_escapes(bytes: &[u8]) -> bool {
    let odd = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    let wide = |bytes| {
        let wide = Wide::of(bytes);
        wide.lowest() < b' ' || wide.equal(b'"') | wide.equal(b'\\') != 0
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
            let mut line = String::new();
            put_text(&mut line, &text);
            prop_assert_eq!(line, json!(text).to_string());
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
