//! Proof on raw bytes that no pattern can match a line, so that it need not be decoded.
//!
//! Every pattern names texts of which one must stand in the raw line if the pattern, or a near
//! miss of it, is to match. The proof must hold for every way in which JSON can spell a text, so
//! the texts avoid what can be escaped (quotes, backslashes, slashes, control bytes), and a line
//! that contains an escape able to spell anything (`\u`, `\x`) or a colour sequence is a
//! candidate without further question. So is a piece of a line that a runtime cut, and whatever
//! follows it is looked at when the pieces are joined.

use super::spec::{Pattern, Reading};
use crate::decode::level::Level;
use aho_corasick::{AhoCorasick, MatchKind};
use regex_syntax::hir::literal::Extractor;

/// Needles shorter than this would stand in nearly every line.
const NEEDLE_MIN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// The needle is enough.
    Enough,
    /// A number must follow: `"level":50`.
    NumberBehind,
    /// Docker's `"stream"` in a line whose text does not end in a newline.
    DockerPiece,
}

/// The test of lines for a set of patterns.
#[derive(Debug, Clone)]
pub struct Prefilter {
    needles: Option<AhoCorasick>,
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
    ///
    /// # Errors
    /// When the automaton would grow past its limits.
    pub fn new(patterns: &[Pattern]) -> Result<Self, aho_corasick::BuildError> {
        let mut needles: Vec<(Vec<u8>, Check)> = vec![
            (b"\\u".to_vec(), Check::Enough),
            (b"\\x".to_vec(), Check::Enough),
            (b"\x1b".to_vec(), Check::Enough),
            (b"\xc2\x9b".to_vec(), Check::Enough),
            (b" stdout P".to_vec(), Check::Enough),
            (b" stderr P".to_vec(), Check::Enough),
            (b"\"stream\"".to_vec(), Check::DockerPiece),
        ];
        for pattern in patterns {
            match need(pattern) {
                Need::Nothing => return Ok(Self { needles: None, checks: Vec::new() }),
                Need::Texts(texts) => {
                    needles
                        .extend(texts.into_iter().map(|text| (text.into_bytes(), Check::Enough)));
                }
                Need::Levels(levels) => {
                    for level in levels {
                        let names = level.spellings();
                        needles.extend(names.map(|name| (name.as_bytes().to_vec(), Check::Enough)));
                    }
                    for name in crate::decode::NUMERIC_LEVELS {
                        needles.push((name.as_bytes().to_vec(), Check::NumberBehind));
                    }
                }
            }
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(needles.iter().map(|(needle, _)| needle))?;
        let checks = needles.into_iter().map(|(_, check)| check).collect();
        Ok(Self { needles: Some(automaton), checks })
    }

    /// Whether a pattern might match `line`; `false` is a proof that none does.
    pub fn candidate(&self, line: &[u8]) -> bool {
        let Some(needles) = &self.needles else { return true };
        needles.find_overlapping_iter(line).any(|found| {
            match self.checks.get(found.pattern().as_usize()) {
                Some(Check::NumberBehind) => number_behind(&line[found.end()..]),
                Some(Check::DockerPiece) => docker_piece(line),
                Some(Check::Enough) | None => true,
            }
        })
    }
}

fn number_behind(rest: &[u8]) -> bool {
    let gap = |b: &&u8| matches!(b, b'"' | b'\\' | b':' | b' ' | b'\t');
    let skipped = rest.iter().take_while(gap).count();
    skipped > 0 && rest.get(skipped).is_some_and(|b| b.is_ascii_digit() || *b == b'-')
}

/// Docker ends the text of a whole line with a newline, written `\n"`.
fn docker_piece(line: &[u8]) -> bool {
    memchr::memmem::find(line, b"\\n\"").is_none()
        || memchr::memmem::find(line, b"\"attrs\"").is_some()
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
    fn numbers_are_found_behind_level_names_however_nested() {
        for rest in [r#"":50"#, r#"": 50"#, r#"\":50"#, r#"\\\": "50""#] {
            assert!(number_behind(rest.as_bytes()), "{rest}");
        }
        assert!(!number_behind(br#"":"INFO""#));
        assert!(!number_behind(b"50"));
    }
}
