//! The small language of `when`, `then`, `escalate` and limits per time: one hand-written parser,
//! whose errors carry the place, what was expected and the nearest right word.

use crate::decode::time::{Micros, parse_duration};
use crate::pattern::spec::is_pattern_name;
use crate::yaml::nearest;
use serde::{Deserialize, Serialize};

/// Largest threshold of a count.
pub const THRESHOLD_MAX: u64 = 10_000_000;
/// Longest window: 31 days, in microseconds.
pub const WINDOW_MAX: Micros = 31 * 24 * 3600 * 1_000_000;

/// When a rule fires.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// `count >= N within D`
    Count {
        /// Events needed.
        at_least: u64,
        /// Length of the window, microseconds.
        within: Micros,
    },
    /// `distinct(field) >= N within D`
    Distinct {
        /// Whose values are told apart.
        field: String,
        /// Different values needed.
        at_least: u64,
        /// Length of the window, microseconds.
        within: Micros,
    },
    /// `A >= N then B within D`
    Sequence {
        /// The pattern that must come first.
        first: String,
        /// How often.
        at_least: u64,
        /// The pattern that completes it.
        then: String,
        /// Length of the window, microseconds.
        within: Micros,
    },
    /// `first_seen(field)`
    FirstSeen {
        /// Whose values are learnt per key.
        field: String,
    },
    /// `new(field) >= N within D`
    New {
        /// Whose values are learnt for the whole stream.
        field: String,
        /// New values needed.
        at_least: u64,
        /// Length of the window, microseconds.
        within: Micros,
    },
    /// `unusual(hour)`
    #[default]
    Unusual,
}

impl Condition {
    /// The window's length, where there is one.
    pub fn within(&self) -> Option<Micros> {
        match self {
            Condition::Count { within, .. }
            | Condition::Distinct { within, .. }
            | Condition::Sequence { within, .. }
            | Condition::New { within, .. } => Some(*within),
            Condition::FirstSeen { .. } | Condition::Unusual => None,
        }
    }

    /// How much it takes, of a condition that counts.
    pub fn at_least(&self) -> Option<u64> {
        match self {
            Condition::Count { at_least, .. }
            | Condition::Distinct { at_least, .. }
            | Condition::Sequence { at_least, .. }
            | Condition::New { at_least, .. } => Some(*at_least),
            Condition::FirstSeen { .. } | Condition::Unusual => None,
        }
    }

    /// The field whose values it compares.
    pub fn field(&self) -> Option<&str> {
        match self {
            Condition::Distinct { field, .. }
            | Condition::FirstSeen { field }
            | Condition::New { field, .. } => Some(field),
            Condition::Count { .. } | Condition::Sequence { .. } | Condition::Unusual => None,
        }
    }
}

/// What a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ActionKind {
    /// Keep an address out.
    Block,
    /// Lock an account.
    Lock,
    /// Ask an account for a second factor.
    Require2fa,
    /// Tell somebody.
    Alert,
    /// Let the edge check every visitor of everything, as long as a flood lasts.
    UnderAttack,
}

/// The actions by name. Snapshots count on their order: a new one comes last.
pub const ACTIONS: [(&str, ActionKind); 5] = [
    ("block", ActionKind::Block),
    ("lock", ActionKind::Lock),
    ("require_2fa", ActionKind::Require2fa),
    ("alert", ActionKind::Alert),
    ("under_attack", ActionKind::UnderAttack),
];

impl ActionKind {
    /// Its name in rules and on the action line.
    pub fn name(self) -> &'static str {
        ACTIONS.iter().find(|(_, kind)| *kind == self).map_or("alert", |(name, _)| name)
    }
}

/// One thing a rule does when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Then {
    /// What.
    pub action: ActionKind,
    /// For how long, microseconds; `None` takes the action's default.
    pub duration: Option<Micros>,
}

/// `escalate: x2 up to 30d, forget after 90d`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escalate {
    /// What each further start multiplies the duration by.
    pub factor: u32,
    /// The longest duration, microseconds.
    pub up_to: Micros,
    /// How long after a decision's end it is forgotten, microseconds.
    pub forget: Micros,
}

/// `2 per 24h`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// How many.
    pub count: u32,
    /// In how long, microseconds.
    pub per: Micros,
}

/// A mistake, at a byte of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset.
    pub at: usize,
    /// How many characters it concerns.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'t> {
    text: &'t str,
    at: usize,
}

struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    next: usize,
    end: usize,
}

type Parsed<T> = Result<T, SyntaxError>;

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        let mut tokens = Vec::new();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            let word =
                |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-') || b >= 0x80;
            match bytes[at] {
                b if b.is_ascii_whitespace() => {
                    at += 1;
                    continue;
                }
                b'>' | b'<' | b'=' => {
                    at += 1;
                    if bytes.get(at) == Some(&b'=') {
                        at += 1;
                    }
                }
                b if word(b) => {
                    while bytes.get(at).is_some_and(|b| word(*b)) {
                        at += 1;
                    }
                }
                _ => at += 1,
            }
            tokens.push(Token { text: &text[start..at], at: start });
        }
        Self { tokens, next: 0, end: text.len() }
    }

    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.next += usize::from(token.is_some());
        token
    }

    fn error<T>(
        &self,
        token: Option<Token<'t>>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Parsed<T> {
        let (at, width) = token.map_or((self.end, 1), |t| (t.at, t.text.chars().count()));
        Err(SyntaxError { at, width, message: message.into(), help })
    }

    fn expect(&mut self, word: &str) -> Parsed<()> {
        match self.take() {
            Some(token) if token.text == word => Ok(()),
            Some(token) => {
                let help = nearest(token.text, &[word]).map(|w| format!("did you mean `{w}`?"));
                self.error(Some(token), format!("expected `{word}`, found `{}`", token.text), help)
            }
            None => self.error(None, format!("expected `{word}` here"), None),
        }
    }

    /// `> N` or `>= N`, as the number that is needed.
    fn threshold(&mut self) -> Parsed<u64> {
        let operator = self.take();
        let strict = match operator.map(|t| t.text) {
            Some(">") => true,
            Some(">=") => false,
            _ => {
                return self.error(
                    operator,
                    "expected `>` or `>=`",
                    Some("counts are compared upwards: count > 20, count >= 10".into()),
                );
            }
        };
        let token = self.take();
        let number = token.and_then(|t| t.text.parse::<u64>().ok());
        let needed = number.and_then(|n| n.checked_add(u64::from(strict)));
        match needed {
            Some(n) if (1..=THRESHOLD_MAX).contains(&n) => Ok(n),
            Some(_) => {
                self.error(token, format!("a threshold lies between 1 and {THRESHOLD_MAX}"), None)
            }
            None => self.error(token, "expected a whole number", None),
        }
    }

    fn duration(&mut self, longest: Micros) -> Parsed<Micros> {
        let token = self.take();
        let duration = token.and_then(|t| parse_duration(t.text));
        match duration {
            Some(d) if (1_000_000..=longest).contains(&d) => Ok(d),
            Some(_) => self.error(
                token,
                format!(
                    "a duration here lies between 1s and {}",
                    crate::decode::time::format_duration(longest)
                ),
                None,
            ),
            None => self.error(
                token,
                "expected a duration",
                Some("write a number and a unit: 30s, 5m, 1h, 24h, 30d".into()),
            ),
        }
    }

    fn within(&mut self) -> Parsed<Micros> {
        self.expect("within")?;
        let within = self.duration(WINDOW_MAX)?;
        if let Some(token) = self.peek()
            && token.text == "for"
        {
            return self.error(
                Some(token),
                "a trailing `for` is reserved for the next version",
                None,
            );
        }
        Ok(within)
    }

    fn parens(&mut self) -> Parsed<Token<'t>> {
        self.expect("(")?;
        let token = self.take();
        match token {
            Some(field) if field.text != ")" => {
                self.expect(")")?;
                Ok(field)
            }
            _ => self.error(token, "expected the name of a field", None),
        }
    }

    fn done(&mut self) -> Parsed<()> {
        match self.take() {
            None => Ok(()),
            token => self.error(token, "nothing more was expected here", None),
        }
    }
}

/// The forms of a condition, for messages.
const FORMS: &str = "count > 20 within 1h · distinct(user) >= 5 within 1h · FAILED_LOGIN >= 10 then SUCCESSFUL_LOGIN within 10m · first_seen(country) · new(user) >= 5 within 1h · unusual(hour)";

/// Reads a `when`.
///
/// # Errors
/// With the place and what was expected there.
pub fn parse_when(text: &str) -> Result<Condition, SyntaxError> {
    let mut parser = Parser::new(text);
    let Some(first) = parser.take() else {
        return parser.error(None, "a condition is missing", Some(FORMS.into()));
    };
    let condition = match first.text {
        "count" => Condition::Count { at_least: parser.threshold()?, within: parser.within()? },
        "distinct" | "new" => {
            let field = parser.parens()?.text.to_owned();
            let at_least = parser.threshold()?;
            let within = parser.within()?;
            if first.text == "new" {
                Condition::New { field, at_least, within }
            } else {
                Condition::Distinct { field, at_least, within }
            }
        }
        "first_seen" => Condition::FirstSeen { field: parser.parens()?.text.to_owned() },
        "unusual" => {
            let field = parser.parens()?;
            if field.text != "hour" {
                return parser.error(
                    Some(field),
                    "only `unusual(hour)` is known",
                    Some("did you mean `hour`?".into()),
                );
            }
            Condition::Unusual
        }
        "ratio" | "p95" | "avg" | "absent" => {
            return parser.error(
                Some(first),
                format!("`{}` is reserved for the next version", first.text),
                None,
            );
        }
        name if is_pattern_name(name) => {
            let at_least = parser.threshold()?;
            parser.expect("then")?;
            let then = parser.take();
            let Some(completing) = then.filter(|t| is_pattern_name(t.text)) else {
                return parser.error(then, "expected the name of a pattern", None);
            };
            Condition::Sequence {
                first: name.to_owned(),
                at_least,
                then: completing.text.to_owned(),
                within: parser.within()?,
            }
        }
        word => {
            let known = ["count", "distinct", "first_seen", "new", "unusual"];
            let help = nearest(word, &known)
                .map_or_else(|| FORMS.to_owned(), |near| format!("did you mean `{near}`?"));
            return parser.error(
                Some(first),
                format!("no condition begins with `{word}`"),
                Some(help),
            );
        }
    };
    parser.done()?;
    Ok(condition)
}

/// Reads one `then`, or several with commas between them.
///
/// # Errors
/// With the place and what was expected there.
pub fn parse_then(text: &str) -> Result<Vec<Then>, SyntaxError> {
    let mut parser = Parser::new(text);
    let mut all = Vec::new();
    loop {
        let token = parser.take();
        let action = token.and_then(|t| ACTIONS.iter().find(|(name, _)| *name == t.text));
        let Some((_, action)) = action else {
            let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
            let help = token.and_then(|t| nearest(t.text, &names)).map_or_else(
                || format!("one of: {}", names.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            return parser.error(token, "expected an action", Some(help));
        };
        let mut then = Then { action: *action, duration: None };
        if parser.peek().is_some_and(|t| t.text == "for") {
            parser.take();
            then.duration = Some(parser.duration(3650 * 24 * 3600 * 1_000_000)?);
        }
        all.push(then);
        match parser.peek() {
            Some(token) if token.text == "," => {
                parser.take();
            }
            _ => break,
        }
    }
    parser.done()?;
    Ok(all)
}

/// Reads `x2 up to 30d, forget after 90d`.
///
/// # Errors
/// With the place and what was expected there.
pub fn parse_escalate(text: &str) -> Result<Escalate, SyntaxError> {
    let longest = 3650 * 24 * 3600 * 1_000_000;
    let mut parser = Parser::new(text);
    let token = parser.take();
    let factor = token.and_then(|t| t.text.strip_prefix('x')?.parse::<u32>().ok());
    let Some(factor) = factor.filter(|f| (2..=100).contains(f)) else {
        return parser.error(
            token,
            "expected a factor from x2 to x100",
            Some("for example: x2 up to 30d, forget after 90d".into()),
        );
    };
    parser.expect("up")?;
    parser.expect("to")?;
    let up_to = parser.duration(longest)?;
    let mut forget = 90 * 24 * 3600 * 1_000_000;
    if parser.peek().is_some() {
        parser.expect(",")?;
        parser.expect("forget")?;
        parser.expect("after")?;
        forget = parser.duration(longest)?;
    }
    parser.done()?;
    Ok(Escalate { factor, up_to, forget })
}

/// Reads `2 per 24h`.
///
/// # Errors
/// With the place and what was expected there.
pub fn parse_limit(text: &str) -> Result<Limit, SyntaxError> {
    let mut parser = Parser::new(text);
    let token = parser.take();
    let Some(count) =
        token.and_then(|t| t.text.parse::<u32>().ok()).filter(|n| (1..=64).contains(n))
    else {
        return parser.error(
            token,
            "expected a number from 1 to 64",
            Some("for example: 2 per 24h".into()),
        );
    };
    parser.expect("per")?;
    let per = parser.duration(WINDOW_MAX)?;
    parser.done()?;
    Ok(Limit { count, per })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Micros = 3_600_000_000;

    #[test]
    fn every_form_is_read() {
        assert_eq!(
            parse_when("count > 20 within 1h").unwrap(),
            Condition::Count { at_least: 21, within: HOUR }
        );
        assert_eq!(
            parse_when("count>=10 within 5m").unwrap(),
            Condition::Count { at_least: 10, within: HOUR / 12 }
        );
        assert_eq!(
            parse_when("distinct(user) >= 5 within 1h").unwrap(),
            Condition::Distinct { field: "user".into(), at_least: 5, within: HOUR }
        );
        assert_eq!(
            parse_when("FAILED_LOGIN >= 10 then SUCCESSFUL_LOGIN within 10m").unwrap(),
            Condition::Sequence {
                first: "FAILED_LOGIN".into(),
                at_least: 10,
                then: "SUCCESSFUL_LOGIN".into(),
                within: HOUR / 6
            }
        );
        assert_eq!(
            parse_when("first_seen(country)").unwrap(),
            Condition::FirstSeen { field: "country".into() }
        );
        assert_eq!(
            parse_when("new(user) >= 5 within 1h").unwrap(),
            Condition::New { field: "user".into(), at_least: 5, within: HOUR }
        );
        assert_eq!(parse_when("unusual(hour)").unwrap(), Condition::Unusual);
        assert_eq!(parse_then("alert, block for 24h").unwrap().len(), 2);
        let duration = Some(HOUR / 2);
        let then = Then { action: ActionKind::UnderAttack, duration };
        assert_eq!(parse_then("under_attack for 30m").unwrap(), [then]);
        assert_eq!(parse_escalate("x2 up to 30d, forget after 90d").unwrap().factor, 2);
        assert_eq!(parse_limit("2 per 24h").unwrap(), Limit { count: 2, per: 24 * HOUR });
    }

    #[test]
    fn mistakes_have_their_place() {
        for (text, at, needle) in [
            ("cuont > 20 within 1h", 0, "no condition begins"),
            ("count < 20 within 1h", 6, "expected `>`"),
            ("count > twenty within 1h", 8, "whole number"),
            ("count > 20 witin 1h", 11, "expected `within`"),
            ("count > 20 within 1x", 18, "expected a duration"),
            ("count > 20", 10, "expected `within` here"),
            ("count >= 0 within 1h", 9, "between 1"),
            ("count > 20 within 1h now", 21, "nothing more"),
            ("count > 20 within 1h for 2m", 21, "reserved for the next version"),
            ("ratio(A / B) > 5% within 2m", 0, "reserved for the next version"),
            ("p95(x) > 1000 within 5m", 0, "reserved for the next version"),
            ("avg(x) > 80 within 10m", 0, "reserved for the next version"),
            ("absent within 5m", 0, "reserved for the next version"),
            ("unusual(day)", 8, "only `unusual(hour)`"),
            ("A >= 2 then b within 1m", 12, "name of a pattern"),
            ("", 0, "missing"),
        ] {
            let error = parse_when(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error:?}");
            assert!(error.message.contains(needle), "{text}: {error:?}");
        }
        assert!(parse_then("blok for 1h").unwrap_err().help.unwrap().contains("block"));
        let near = parse_then("underattack").unwrap_err().help.unwrap();
        assert!(near.contains("did you mean `under_attack`?"), "{near}");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse_when(&text);
            let _ = parse_then(&text);
            let _ = parse_escalate(&text);
            let _ = parse_limit(&text);
        }
    }
}
