//! Proof on raw bytes that no pattern can match a line, so that it need not be decoded.
//!
//! Every pattern names texts of which one must stand in the raw line if the pattern, or a near
//! miss of it, is to match. The proof must hold for every way in which JSON can spell a text, so
//! the texts avoid what can be escaped (quotes, backslashes, slashes, control bytes), and a line
//! that contains an escape able to spell anything (`\u`, `\x`) or a colour sequence is a
//! candidate without further question. So is a piece of a line that a runtime cut, and whatever
//! follows it is looked at when the pieces are joined.
//!
//! A pattern is cheap if its template begins with a text of its own, the longer and rarer the
//! better; what it costs is the decoding of the lines in which the text stands. A test of a level
//! looks for the level's spellings in any case. A pattern of which nothing is known, such as
//! `status: { ">": 400 }`, or that asks for the level of nearly every line, `info`, has every line
//! decoded; `check -v` says which do.

use super::sieve::{Found, Needle, Room, Sieve, Walk, is_blank_line};
use super::spec::{Pattern, Reading};
use crate::decode::envelope::DOCKERS_PIECE;
use crate::decode::level::Level;
use regex_syntax::hir::literal::Extractor;
use std::ops::Range;

/// Needles shorter than this would stand in nearly every line.
const NEEDLE_MIN: usize = 3;

/// How nearly every line names its level: a word follows, which is no number.
const ORDINARY: [&str; 3] = [r#"level": ""#, r#"level":""#, r#"level\": \""#];
const LEVEL: &str = "level";
/// Bytes between a key and its typed value, at most: names, quotes and escapes.
const TYPED_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// The needle is enough.
    Enough,
    /// A number must follow: `"level":50`.
    NumberBehind,
    /// Syslog's priority, which is a level: `<11>`.
    Priority,
    /// The journal's message as a list of bytes, in which no text stands as it is, or left out.
    Journal,
    /// Docker's `"stream"` in a line whose text does not end in a newline.
    DockerPiece,
    /// In a line of the length of a piece that Docker cut.
    LongLine,
}

/// The test of lines for a set of patterns.
#[derive(Debug, Clone)]
pub struct Prefilter {
    /// None: every line must be decoded.
    sieve: Option<Sieve>,
    checks: Vec<Check>,
}

/// What must stand in a line for a pattern to matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing is known: every line must be decoded.
    Nothing,
    /// One of these texts.
    Texts(Vec<String>),
    /// One of these levels.
    Levels(Vec<Level>),
}

/// What `pattern` needs.
pub fn need(pattern: &Pattern) -> Need {
    if !pattern.readings.is_empty() {
        let texts: Option<Vec<String>> = pattern.readings.iter().map(reading_needle).collect();
        if let Some(texts) = texts {
            return Need::Texts(texts);
        }
    }
    if let Some(texts) = pattern.filter.needles() {
        let safe: Option<Vec<String>> = texts.iter().map(|text| safe_run(text)).collect();
        if let Some(safe) = safe {
            return Need::Texts(safe);
        }
    }
    match pattern.filter.levels() {
        // Nearly every line says it: looking for it would pass them all, and cost a tenth of the time.
        Some(levels) if levels.contains(&Level::Info) => Need::Nothing,
        Some(levels) => Need::Levels(levels),
        None => Need::Nothing,
    }
}

fn reading_needle(reading: &Reading) -> Option<String> {
    match reading {
        Reading::Template(template) => match template.leading_literal() {
            Some(literal) => safe_run(super::spec::keyword(literal)),
            None => template.literals().iter().filter_map(|l| safe_run(l)).max_by_key(String::len),
        },
        Reading::Regex { greedy, prefix, .. } => {
            let text = prefix.as_deref().map(super::spec::keyword);
            text.and_then(safe_run).or_else(|| regex_needle(greedy.as_str()))
        }
    }
}

/// The longest part of `text` that JSON writes in one way only, if it is long enough to be of use.
fn safe_run(text: &str) -> Option<String> {
    text.split(|c: char| c.is_control() || matches!(c, '"' | '\\' | '/'))
        .max_by_key(|run| run.len())
        .filter(|run| run.len() >= NEEDLE_MIN)
        .map(str::to_owned)
}

/// The literal with which an anchored expression begins: every match starts with it.
pub fn anchored_prefix(source: &str) -> Option<String> {
    source.strip_prefix('^').and_then(|_| regex_needle_raw(source))
}

fn regex_needle(source: &str) -> Option<String> {
    regex_needle_raw(source).and_then(|text| safe_run(&text))
}

fn regex_needle_raw(source: &str) -> Option<String> {
    let hir = regex_syntax::parse(source).ok()?;
    let prefixes = Extractor::new().extract(&hir);
    let [literal] = prefixes.literals()? else { return None };
    String::from_utf8(literal.as_bytes().to_vec()).ok().filter(|text| !text.is_empty())
}

impl Prefilter {
    /// The test for all of `patterns`.
    pub fn new(patterns: &[Pattern]) -> Self {
        let mut needles: Vec<(Needle, Check)> = Vec::new();
        let mut add = |text: &[u8], fold: bool, check: Check| {
            let needle = (Needle { text: text.to_vec(), fold }, check);
            // Each pattern that tests a level asks for the same.
            if !needles.contains(&needle) {
                needles.push(needle);
            }
        };
        for text in [&b"\\u"[..], b"\\x", b"\x1b", b" stdout P", b" stderr P"] {
            add(text, false, Check::Enough);
        }
        // The introducers of sequences that are taken out of a text, with one byte and with all.
        for control in [0x90, 0x98, 0x9b, 0x9d, 0x9e, 0x9f] {
            add(&[0xc2, control], false, Check::Enough);
        }
        add(b"MESSAGE", false, Check::Journal);
        // And those that a shipper hands on with the mark of Kubernetes' runtime.
        add(b"\"stream\"", false, Check::DockerPiece);
        // Those of Docker's drivers for Fluentd, the journal and GELF, and of the journal itself.
        add(b"partial_message", true, Check::Enough);
        add(b"_partial", false, Check::Enough);
        add(b"_LINE_BREAK", false, Check::Enough);
        add(b"short_message", false, Check::LongLine);
        // What CloudWatch cut may hold a text of which each event has a part.
        add(b"DATA_MESSAGE", false, Check::LongLine);
        add(b"\"attrs\"", false, Check::DockerPiece);
        for pattern in patterns {
            match need(pattern) {
                Need::Nothing => return Self { sieve: None, checks: Vec::new() },
                Need::Texts(texts) => {
                    texts.iter().for_each(|text| add(text.as_bytes(), false, Check::Enough));
                }
                Need::Levels(levels) => {
                    for name in levels.iter().flat_map(|level| level.spellings()) {
                        add(name.as_bytes(), true, Check::Enough);
                    }
                    for name in crate::decode::NUMERIC_LEVELS {
                        add(name.as_bytes(), true, Check::NumberBehind);
                    }
                    add(b"<", false, Check::Priority);
                }
            }
        }
        // What holds another needle is found by that one.
        let implied = |one: &(Needle, Check), other: &(Needle, Check)| {
            let plain = other.1 == Check::Enough && (other.0.fold || !one.0.fold);
            let text =
                if other.0.fold { one.0.text.to_ascii_lowercase() } else { one.0.text.clone() };
            plain && memchr::memmem::find(&text, &other.0.text).is_some()
        };
        let mut kept: Vec<(Needle, Check)> = Vec::new();
        for (n, needle) in needles.iter().enumerate() {
            let covered = needles.iter().enumerate().any(|(m, other)| {
                // Of two that are the same, the first stays.
                m != n && implied(needle, other) && (m < n || !implied(other, needle))
            });
            if !covered {
                kept.push(needle.clone());
            }
        }
        let (needles, checks): (Vec<Needle>, Vec<Check>) = kept.into_iter().unzip();
        let level = needles.iter().zip(&checks).position(|(needle, check)| {
            *check == Check::NumberBehind && needle.text == LEVEL.as_bytes()
        });
        let mut sieve = Sieve::new(needles);
        if let Some(level) = level {
            ORDINARY.iter().for_each(|text| sieve.pass_over(level, text.as_bytes()));
        }
        Self { sieve: Some(sieve), checks }
    }

    /// Whether a pattern might match `line`; `false` is a proof that none does.
    pub fn candidate(&self, line: &[u8]) -> bool {
        match &self.sieve {
            None => true,
            Some(sieve) => {
                let mut walk = sieve.walk(line, Room::default());
                walk.next(|found| self.holds(line, found)).is_some()
            }
        }
    }

    /// The lines of `text` that a pattern might match; `room` is used for nothing else.
    pub fn candidates<'p>(&'p self, text: &'p [u8], room: Room) -> Candidates<'p> {
        let walk = self.sieve.as_ref().map(|sieve| sieve.walk(text, room));
        Candidates { prefilter: self, walk, text, at: 0, own: 0, blanks: 0 }
    }

    fn holds(&self, text: &[u8], found: Found) -> bool {
        match self.checks.get(found.needle) {
            Some(Check::NumberBehind) => {
                number_behind(text.get(found.end..).unwrap_or_default())
                    || typed_number(text, found)
            }
            Some(Check::Priority) => priority(text.get(found.end..).unwrap_or_default()),
            Some(Check::Journal) => list_or_null(text.get(found.end..).unwrap_or_default()),
            Some(Check::DockerPiece) => docker_piece(text, found),
            Some(Check::LongLine) => {
                let (start, end) = line_around(text, 0, found);
                is_long(text.get(start..end).unwrap_or_default())
            }
            Some(Check::Enough) | None => true,
        }
    }
}

/// Goes through the candidates of a text and counts the lines it passes.
#[derive(Debug)]
pub struct Candidates<'p> {
    prefilter: &'p Prefilter,
    walk: Option<Walk<'p>>,
    text: &'p [u8],
    /// Where the line begins behind the last candidate.
    at: usize,
    /// Lines that were looked at one by one.
    own: u64,
    blanks: u64,
}

impl Candidates<'_> {
    /// The next candidate: its number in the text, from 0, and its bytes without the newline.
    /// Lines that hold only blanks are none.
    pub fn next_line(&mut self) -> Option<(u64, Range<usize>)> {
        let Self { prefilter, walk, text, at, own, blanks } = self;
        let (start, end, number) = match walk {
            Some(walk) => {
                let found = walk.next(|found| prefilter.holds(text, found))?;
                let (start, end) = line_around(text, *at, found);
                walk.jump(end + 1);
                (start, end, walk.line())
            }
            None => {
                while is_blank_line(text, *at) {
                    *at = line_end(text, *at) + 1;
                    *blanks += 1;
                    *own += 1;
                }
                if *at >= text.len() {
                    return None;
                }
                *own += 1;
                (*at, line_end(text, *at), *own - 1)
            }
        };
        *at = end + 1;
        Some((number, start..end))
    }

    /// All lines, once the last candidate was given.
    pub fn lines(&self) -> u64 {
        let unfinished = self.text.last().is_some_and(|last| *last != b'\n');
        match &self.walk {
            Some(walk) => walk.newlines() + u64::from(unfinished),
            None => self.own,
        }
    }

    /// The room that it took.
    pub fn into_room(self) -> Room {
        self.walk.map(Walk::into_room).unwrap_or_default()
    }

    /// Lines that hold only blanks, once the last candidate was given.
    pub fn blanks(&self) -> u64 {
        self.walk.as_ref().map_or(self.blanks, Walk::blank_lines)
    }
}

fn line_end(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(text.len(), |offset| at + offset)
}

/// The line in which something was found; no line begins before `from`.
fn line_around(text: &[u8], from: usize, found: Found) -> (usize, usize) {
    let before = text.get(from..found.start).unwrap_or_default();
    let start = memchr::memrchr(b'\n', before).map_or(from, |offset| from + offset + 1);
    (start, line_end(text, found.end))
}

/// How many bytes stand between a key and its value: quotes, the colon and blanks, each of them
/// escaped as often as the record is nested; a list's bracket and blanks beyond ASCII too.
fn gap(rest: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match (rest.get(at), rest.get(at + 1)) {
            (Some(b'\\'), Some(b'n' | b't' | b'r' | b'f')) => at += 2,
            (Some(b'"' | b'\\' | b':' | b' ' | b'\t' | b'\r' | 0x0b | 0x0c | b'[' | 0x80..), _) => {
                at += 1;
            }
            _ => return at,
        }
    }
}

/// Whether a number follows the name of a level.
fn number_behind(rest: &[u8]) -> bool {
    let gap = gap(rest);
    gap > 0 && rest.get(gap).is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+'))
}

/// Whether the name of a level stands beside a typed number: `"key":"level","value":{"intValue":"50"}`.
fn typed_number(text: &[u8], found: Found) -> bool {
    let behind = text.get(found.end..).unwrap_or_default();
    // As most lines have it, a value follows.
    if !behind.get(gap(behind)).is_some_and(|b| matches!(b, b',' | b'}')) {
        return false;
    }
    let near = |from: usize, to: usize| text.get(from..to.min(text.len())).unwrap_or_default();
    let before = near(found.start.saturating_sub(TYPED_MAX), found.start);
    let before = before.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let behind = near(found.end, found.end + TYPED_MAX);
    let behind = behind.split(|b| *b == b'\n').next().unwrap_or_default();
    [before, behind].iter().any(|near| {
        memchr::memmem::find_iter(near, b"Value")
            .any(|at| number_behind(near.get(at + 5..).unwrap_or_default()))
    })
}

/// Whether one to three digits and `>` follow.
fn priority(rest: &[u8]) -> bool {
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    (1..=3).contains(&digits) && rest.get(digits) == Some(&b'>')
}

/// Whether a list follows the name, or nothing.
fn list_or_null(rest: &[u8]) -> bool {
    let (gap, value) = rest.split_at(gap(rest));
    gap.contains(&b'[') || gap.contains(&b':') && value.starts_with(b"null")
}

/// Whether a line may hold a piece that is full; a byte that is no text is read as three.
fn is_long(line: &[u8]) -> bool {
    line.len() >= DOCKERS_PIECE / 3
}

/// Docker ends the text of a whole line with a newline, written `\n"`.
fn docker_piece(text: &[u8], found: Found) -> bool {
    // As Docker writes it, the text stands right before; then nothing else needs to be looked at.
    let name = text.get(found.start..found.end);
    if name == Some(b"\"stream\"")
        && text.get(..found.start).is_some_and(|before| before.ends_with(b"\\n\","))
    {
        return false;
    }
    let (start, end) = line_around(text, 0, found);
    let line = text.get(start..end).unwrap_or_default();
    // Where there is more beside the text, the newline may be in that.
    memchr::memmem::find(line, b"\\n\"").is_none()
        || is_long(line)
        || [&b"\"attrs\""[..], b"\"logtag\"", b"\"_p\""]
            .iter()
            .any(|key| memchr::memmem::find(line, key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_avoid_what_can_be_escaped() {
        assert_eq!(safe_run("/api/v1/auth/security-info").as_deref(), Some("security-info"));
        assert_eq!(safe_run("a\"b").as_deref(), None);
        assert_eq!(safe_run("FAILED_LOGIN:").as_deref(), Some("FAILED_LOGIN:"));
    }

    #[test]
    fn expressions_give_their_prefix() {
        assert_eq!(
            anchored_prefix("^LOGIN denied for (?P<user>.+)$").as_deref(),
            Some("LOGIN denied for ")
        );
        assert_eq!(anchored_prefix("LOGIN"), None);
        assert_eq!(regex_needle("(?i)login"), None);
    }

    #[test]
    fn what_is_passed_over_is_no_number() {
        for text in ORDINARY {
            let rest = text.strip_prefix(LEVEL).unwrap();
            for letter in ('a'..='z').chain('A'..='Z') {
                assert!(!number_behind(format!("{rest}{letter}").as_bytes()), "{text}");
            }
        }
    }

    #[test]
    fn numbers_are_found_behind_level_names_however_nested() {
        for rest in [
            r#"":50"#,
            r#"": 50"#,
            r#"\":50"#,
            r#"\\\": "50""#,
            "\":\r50",
            r#"":[50]"#,
            r#"":["50"]"#,
            r#"":"+50""#,
            "\":\"\u{a0}50\"",
            "\":\u{c}50",
        ] {
            assert!(number_behind(rest.as_bytes()), "{rest}");
        }
        assert!(list_or_null(br#"": [70,97]"#) && !list_or_null(br#"":"Failed [x]""#));
        assert!(priority(b"11>Aug") && !priority(b"html>") && !priority(b"1234>"));
        for rest in [r#"":"INFO""#, r#"": "INFO""#, r#"":  "INFO""#, r#"":["INFO"]"#] {
            assert!(!number_behind(rest.as_bytes()), "{rest}");
        }
        assert!(!number_behind(b"50"));
    }
}
