//! Templates: literal text with typed `{captures}`, matched over a whole message, in time linear
//! in the message, with ambiguity detected.
//!
//! Attackers write into messages. `email={email}, ip={ip}` can be satisfied in more than one way
//! when an e-mail address contains `, ip=9.9.9.9`. So a match is computed twice: with every
//! capture ending as early as it can, and with every capture ending as late as it can. Where the
//! two agree, there is nothing to choose; where they do not, nobody knows, and the capture is not
//! used.

use crate::decode::addr;
use crate::decode::fields::{Role, well_known};
use crate::decode::json;
use crate::decode::lanes::{WIDE, Wide};
use crate::decode::word::Word;
use memchr::memmem;
use std::ops::Range;

/// Longest text that an address capture can take, in bytes.
const ADDRESS_MAX: usize = 128;
/// Longest text that a float capture can take, in bytes.
const FLOAT_MAX: usize = 64;

/// What a capture takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureKind {
    /// Any text, also none.
    Text,
    /// An IP address, or a word that says there is none.
    Ip,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text without blanks, at least one character.
    Word,
    /// A JSON document.
    Json,
    /// Python's way of printing a dict or list.
    PyDict,
}

/// The types a template may name.
pub const KINDS: [(&str, CaptureKind); 7] = [
    ("ip", CaptureKind::Ip),
    ("int", CaptureKind::Int),
    ("float", CaptureKind::Float),
    ("word", CaptureKind::Word),
    ("json", CaptureKind::Json),
    ("pydict", CaptureKind::PyDict),
    ("text", CaptureKind::Text),
];

/// A capture as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub kind: CaptureKind,
    /// What its name says about identity.
    pub role: Option<Role>,
}

/// A template, ready to match.
#[derive(Debug, Clone)]
pub struct Template {
    /// One more than there are captures: what stands before, between and behind them.
    literals: Vec<String>,
    /// The same, to be looked for.
    sought: Vec<Sought>,
    captures: Vec<CaptureSpec>,
    open_start: bool,
    open_end: bool,
}

impl Template {
    /// The captures whose place does not depend on what follows in the message: those at its beginning of
    /// which no kind takes any text.
    pub fn fast(&self) -> &[CaptureSpec] {
        let typed = |spec: &CaptureSpec| {
            matches!(spec.kind, CaptureKind::Ip | CaptureKind::Int | CaptureKind::Float)
        };
        let count = self.captures.iter().take_while(|spec| typed(spec)).count();
        let count = if self.open_start { 0 } else { count };
        self.captures.get(..count).unwrap_or_default()
    }
}

/// A mistake in a template, at a byte of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    /// Byte offset.
    pub at: usize,
    /// How many characters it concerns.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

/// A match: where each capture begins and ends, by the earliest and by the latest way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Captures by the way in which each ends as early as it can.
    pub earliest: Vec<Range<usize>>,
    /// Captures by the way in which each ends as late as it can, if that is another.
    later: Option<Vec<Range<usize>>>,
}

impl Match {
    /// Captures by the way in which each ends as late as it can.
    pub fn latest(&self) -> &[Range<usize>] {
        self.later.as_ref().unwrap_or(&self.earliest)
    }
}

/// What is known of the ways to satisfy a template.
enum Only {
    /// There is only this one.
    Way(Vec<Range<usize>>),
    /// There is none.
    None,
    /// There may be several.
    Unsure,
}

/// Where and why matching stopped, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Byte offset in the message.
    pub at: usize,
    /// What was expected there.
    pub expected: String,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// For unbalanced braces, unknown types, captures without text between them, repeated names.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let error = |at: usize, width: usize, message: String, help: Option<&str>| TemplateError {
            at,
            width,
            message,
            help: help.map(str::to_owned),
        };
        let open_start = source.starts_with('*');
        let open_end = source.len() > 1 && source.ends_with('*') && !source.ends_with("\\*");
        let body_start = usize::from(open_start);
        let body = &source[body_start..source.len() - usize::from(open_end)];
        let mut literals = vec![String::new()];
        let mut captures: Vec<CaptureSpec> = Vec::new();
        let mut rest = body.char_indices().peekable();
        while let Some((at, c)) = rest.next() {
            let at = at + body_start;
            let next = rest.peek().map(|(_, c)| *c);
            let Some(literal) = literals.last_mut() else { break };
            match (c, next) {
                ('{', Some('{')) | ('}', Some('}')) | ('\\', Some('*')) => {
                    rest.next();
                    literal.push(if c == '\\' { '*' } else { c });
                }
                ('{', _) => {
                    let inner: String =
                        std::iter::from_fn(|| rest.next_if(|(_, c)| *c != '}').map(|(_, c)| c))
                            .collect();
                    if rest.next().is_none() {
                        return Err(error(
                            at,
                            1,
                            "this `{` is never closed".into(),
                            Some("write {{ for a brace that is text"),
                        ));
                    }
                    if literal.is_empty() && !captures.is_empty() {
                        return Err(error(
                            at,
                            inner.len() + 2,
                            "two captures without text between them cannot be told apart".into(),
                            None,
                        ));
                    }
                    let spec = capture(&inner).map_err(|message| {
                        error(
                            at + 1,
                            inner.len(),
                            message,
                            Some("types: ip, int, float, word, json, pydict; none takes any text"),
                        )
                    })?;
                    if captures.iter().any(|other| other.name == spec.name) {
                        return Err(error(
                            at + 1,
                            inner.len(),
                            format!("the capture `{}` is there twice", spec.name),
                            None,
                        ));
                    }
                    captures.push(spec);
                    literals.push(String::new());
                }
                ('}', _) => {
                    return Err(error(
                        at,
                        1,
                        "this `}` closes nothing".into(),
                        Some("write }} for a brace that is text"),
                    ));
                }
                _ => literal.push(c),
            }
        }
        if open_start && literals.first().is_some_and(String::is_empty) {
            return Err(error(
                0,
                1,
                "`*` must be followed by text, or the capture behind it would begin anywhere"
                    .into(),
                None,
            ));
        }
        if open_end && literals.last().is_some_and(String::is_empty) {
            return Err(error(
                source.len() - 1,
                1,
                "`*` must follow text, or the capture before it would end anywhere".into(),
                None,
            ));
        }
        let sought = literals.iter().map(|literal| Sought::new(literal.as_bytes())).collect();
        Ok(Self { literals, sought, captures, open_start, open_end })
    }

    /// Its captures, in their order.
    pub fn captures(&self) -> &[CaptureSpec] {
        &self.captures
    }

    /// The text with which every message of this template begins.
    pub fn leading_literal(&self) -> Option<&str> {
        let first = self.literals.first()?.as_str();
        (!self.open_start && !first.is_empty()).then_some(first)
    }

    /// Its literals: each stands in every message that it matches.
    pub fn literals(&self) -> &[String] {
        &self.literals
    }

    /// Matches a whole message.
    pub fn matches(&self, text: &str) -> Option<Match> {
        // Ways to read nested documents are bounded, so that a message made of a thousand openings
        // costs no more than a few passes over it.
        let mut budget = 16 * text.len() + 4096;
        match self.only_way(text, &mut budget) {
            Only::Way(earliest) => return Some(Match { earliest, later: None }),
            Only::None => return None,
            Only::Unsure => {}
        }
        let good = self.places(text, &mut budget)?;
        let earliest = self.walk(text, &good, false, &mut budget)?;
        let unique = good.iter().all(|places| places.len() == 1);
        let later = if unique { None } else { Some(self.walk(text, &good, true, &mut budget)?) };
        Some(Match { earliest, later })
    }

    /// The way to satisfy the template where every literal stands in the text only once, which is
    /// so in nearly every message that nobody tampered with.
    fn only_way(&self, text: &str, budget: &mut usize) -> Only {
        let last = self.literals.len() - 1;
        let mut ranges = Vec::with_capacity(last);
        let mut start = 0;
        for (i, (literal, sought)) in self.literals.iter().zip(&self.sought).enumerate() {
            let at = if i == 0 && !self.open_start {
                if !text.starts_with(literal.as_str()) {
                    return Only::None;
                }
                if last == 0 && !self.open_end && text.len() != literal.len() {
                    return Only::None;
                }
                0
            } else if i == last && !self.open_end {
                if !text.ends_with(literal.as_str()) {
                    return Only::None;
                }
                text.len() - literal.len()
            } else {
                match sought.once(text.as_bytes(), start) {
                    Once::At(at) => at,
                    Once::Nowhere => return Only::None,
                    Once::Again => return Only::Unsure,
                }
            };
            if i > 0 {
                let Some(spec) = self.captures.get(i - 1) else { return Only::Unsure };
                let fits = match (spec.kind, text.get(start..at)) {
                    (CaptureKind::Text, taken) => taken.is_some(),
                    // As addresses nearly always are.
                    (CaptureKind::Ip, Some(taken)) if addr::plain_v4(taken).is_some() => true,
                    _ => ends(text, start, spec.kind, &[at], false, budget).is_some(),
                };
                if !fits {
                    return Only::None;
                }
                ranges.push(start..at);
            }
            start = at + literal.len();
        }
        Only::Way(ranges)
    }

    /// For every literal, the places where it stands and from which the rest can be satisfied.
    fn places(&self, text: &str, budget: &mut usize) -> Option<Vec<Vec<usize>>> {
        let last = self.literals.len() - 1;
        if !self.open_start && !text.starts_with(self.literals.first()?.as_str()) {
            return None;
        }
        let mut good: Vec<Vec<usize>> = vec![Vec::new(); self.literals.len()];
        for i in (0..=last).rev() {
            let literal = self.literals[i].as_str();
            let mut places = if i == last && !self.open_end {
                if text.ends_with(literal) { vec![text.len() - literal.len()] } else { Vec::new() }
            } else if i == 0 && !self.open_start {
                vec![0]
            } else {
                occurrences(text, literal)
            };
            if i == 0 && last == 0 && !self.open_start {
                places.retain(|at| *at == 0);
            }
            if i < last {
                let behind = &good[i + 1];
                let kind = self.captures[i].kind;
                places.retain(|at| {
                    ends(text, at + literal.len(), kind, behind, false, budget).is_some()
                });
            }
            if places.is_empty() {
                return None;
            }
            good[i] = places;
        }
        Some(good)
    }

    fn walk(
        &self,
        text: &str,
        good: &[Vec<usize>],
        late: bool,
        budget: &mut usize,
    ) -> Option<Vec<Range<usize>>> {
        let first = if late { good[0].last() } else { good[0].first() };
        let mut at = first? + self.literals[0].len();
        let mut ranges = Vec::with_capacity(self.captures.len());
        for (i, spec) in self.captures.iter().enumerate() {
            let end = ends(text, at, spec.kind, &good[i + 1], late, budget)?;
            ranges.push(at..end);
            at = end + self.literals[i + 1].len();
        }
        Some(ranges)
    }

    /// How far a message that does not match can be followed.
    pub fn stop(&self, text: &str) -> Stop {
        let quote = |literal: &str| format!("`{literal}`");
        let Some(first) = self.literals.first() else {
            return Stop { at: 0, expected: String::new() };
        };
        let begin = if self.open_start {
            text.find(first.as_str())
        } else {
            text.starts_with(first.as_str()).then_some(0)
        };
        let Some(begin) = begin else {
            let same = text.bytes().zip(first.bytes()).take_while(|(a, b)| a == b).count();
            let at = if self.open_start {
                0
            } else {
                (0..=same).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
            };
            return Stop { at, expected: quote(first) };
        };
        let mut at = begin + first.len();
        for (i, spec) in self.captures.iter().enumerate() {
            let literal = &self.literals[i + 1];
            let places = if i + 1 == self.captures.len() && !self.open_end {
                if text[at..].ends_with(literal.as_str()) {
                    vec![text.len() - literal.len()]
                } else {
                    Vec::new()
                }
            } else {
                occurrences(text, literal).into_iter().filter(|p| *p >= at).collect()
            };
            if places.is_empty() {
                let expected = if literal.is_empty() { "the end".into() } else { quote(literal) };
                return Stop { at, expected: format!("{expected} after {{{}}}", spec.name) };
            }
            match ends(text, at, spec.kind, &places, false, &mut (16 * text.len() + 4096)) {
                Some(end) => at = end + literal.len(),
                None => {
                    let kind = KINDS
                        .iter()
                        .find(|(_, kind)| *kind == spec.kind)
                        .map_or("text", |(name, _)| name);
                    return Stop {
                        at,
                        expected: format!(
                            "{{{}}} as {kind}, then {}",
                            spec.name,
                            if literal.is_empty() { "the end".into() } else { quote(literal) }
                        ),
                    };
                }
            }
        }
        Stop { at, expected: "the end of the message".to_owned() }
    }
}

fn capture(inner: &str) -> Result<CaptureSpec, String> {
    let (name, kind) = match inner.split_once(':') {
        Some((name, kind)) => {
            let known = KINDS.iter().find(|(known, _)| *known == kind.trim());
            let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            let near =
                crate::yaml::nearest(kind, &names).map(|near| format!(", did you mean `{near}`?"));
            (name, known.ok_or_else(|| format!("no type `{kind}`{}", near.unwrap_or_default()))?.1)
        }
        None if inner == "ip" => (inner, CaptureKind::Ip),
        None => (inner, CaptureKind::Text),
    };
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !fits {
        return Err(format!("`{name}` is no name for a capture: letters, digits and _ only"));
    }
    Ok(CaptureSpec { name: name.to_owned(), kind, role: well_known(name) })
}

/// How often a literal stands in a text.
#[derive(Debug, PartialEq, Eq)]
enum Once {
    Nowhere,
    At(usize),
    /// More than once, or the literal is empty.
    Again,
}

/// Longest text that is looked through without the finder, which takes longer to begin.
const BRIEF: usize = 256;

/// A literal that is looked for.
#[derive(Debug, Clone)]
struct Sought {
    begin: Word,
    finder: memmem::Finder<'static>,
}

impl Sought {
    fn new(literal: &[u8]) -> Self {
        let finder = memmem::Finder::new(literal).into_owned();
        Self { begin: Word::of(literal), finder }
    }

    /// Whether it stands in a text once, from a place on.
    fn once(&self, text: &[u8], from: usize) -> Once {
        let [first, second, ..] = self.finder.needle() else { return self.once_found(text, from) };
        let last = text.len().checked_sub(WIDE + 1);
        let Some(last) = last.filter(|_| text.len() <= BRIEF && from <= text.len()) else {
            return self.once_found(text, from);
        };
        let (mut found, mut step) = (Once::Nowhere, from);
        loop {
            // The last step begins earlier, so that it ends with the text.
            let start = step.min(last);
            let rest = text.get(start..).unwrap_or_default();
            let wide = |at: usize| rest.get(at..).and_then(<[u8]>::first_chunk).map(Wide::of);
            let (Some(wide), Some(next)) = (wide(0), wide(1)) else {
                return self.once_found(text, from);
            };
            // Where the first two bytes stand.
            let mut marks = wide.equal(*first) & next.equal(*second) & u32::MAX << (step - start);
            while marks != 0 {
                let at = marks.trailing_zeros() as usize;
                marks &= marks - 1;
                if self.begins(rest.get(at..).unwrap_or_default()) {
                    if found != Once::Nowhere {
                        return Once::Again;
                    }
                    found = Once::At(start + at);
                }
            }
            if start == last {
                return found;
            }
            step += WIDE;
        }
    }

    #[inline]
    fn begins(&self, text: &[u8]) -> bool {
        let literal = self.finder.needle();
        match text.first_chunk() {
            Some(first) if !self.begin.begins(u64::from_le_bytes(*first)) => false,
            Some(_) if literal.len() <= size_of::<u64>() => true,
            _ => text.starts_with(literal),
        }
    }

    fn once_found(&self, text: &[u8], from: usize) -> Once {
        let find = |from: usize| Some(from + self.finder.find(text.get(from..)?)?);
        let Some(at) = find(from) else { return Once::Nowhere };
        if find(at + 1).is_some() || self.finder.needle().is_empty() {
            Once::Again
        } else {
            Once::At(at)
        }
    }
}

/// All places of `needle`, overlapping ones too. An empty needle stands at the end only: it is
/// used where a capture is the last thing in a template.
fn occurrences(text: &str, needle: &str) -> Vec<usize> {
    if needle.is_empty() {
        return vec![text.len()];
    }
    let finder = memmem::Finder::new(needle);
    let mut places = Vec::new();
    let mut from = 0;
    while let Some(offset) = text.as_bytes().get(from..).and_then(|rest| finder.find(rest)) {
        places.push(from + offset);
        from += offset + 1;
    }
    places
}

/// The earliest or latest of `places` (sorted) at which a capture that begins at `start` can end.
fn ends(
    text: &str,
    start: usize,
    kind: CaptureKind,
    places: &[usize],
    late: bool,
    budget: &mut usize,
) -> Option<usize> {
    let from = places.partition_point(|p| *p < start);
    let candidates = &places[from..];
    let within = |low: usize, high: usize| {
        let a = candidates.partition_point(|p| *p < low);
        let b = candidates.partition_point(|p| *p <= high);
        candidates.get(a..b).unwrap_or_default()
    };
    let pick = |list: &[usize]| if late { list.last().copied() } else { list.first().copied() };
    let run = |limit: usize, fits: &dyn Fn(char) -> bool| {
        let len: usize =
            text[start..].chars().take_while(|c| fits(*c)).map(char::len_utf8).take(limit).sum();
        start + len
    };
    let bounded = |limit: usize, fits: &dyn Fn(&str) -> bool| {
        let list = within(start + 1, start + limit);
        let fits = |p: &&usize| fits(&text[start..**p]);
        if late { list.iter().rev().find(fits).copied() } else { list.iter().find(fits).copied() }
    };
    match kind {
        CaptureKind::Text => pick(candidates),
        CaptureKind::Word => {
            let end = run_end(text, start, candidates, late, budget, |c| !c.is_whitespace())?;
            pick(within(start + 1, end))
        }
        CaptureKind::Int => {
            let sign = usize::from(text[start..].starts_with('-'));
            let end = run(20, &|c| c.is_ascii_digit() || c == '-');
            let list = within(start + sign + 1, end);
            let fits = |p: &&usize| text[start..**p].parse::<i64>().is_ok();
            if late {
                list.iter().rev().find(fits).copied()
            } else {
                list.iter().find(fits).copied()
            }
        }
        CaptureKind::Float => bounded(FLOAT_MAX, &|t| {
            t.parse::<f64>().is_ok()
                && t.bytes()
                    .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        }),
        CaptureKind::Ip => {
            // An empty value is a word for "none" too.
            let empty = candidates.first() == Some(&start);
            let found =
                bounded(ADDRESS_MAX, &|t| addr::parse_ip(t).is_some() || addr::is_non_value(t));
            if late { found.or(empty.then_some(start)) } else { empty.then_some(start).or(found) }
        }
        CaptureKind::Json | CaptureKind::PyDict => {
            let len = document_len(&text[start..], kind == CaptureKind::PyDict, budget)?;
            within(start + len, start + len).first().copied()
        }
    }
}

/// Where a run of fitting characters ends; looks no further than the last candidate can matter.
fn run_end(
    text: &str,
    start: usize,
    candidates: &[usize],
    late: bool,
    budget: &mut usize,
    fits: impl Fn(char) -> bool,
) -> Option<usize> {
    let limit =
        if late { *candidates.last()? } else { *candidates.iter().find(|p| **p > start)? };
    let mut end = start;
    for c in text[start..limit].chars() {
        *budget = budget.checked_sub(1)?;
        if !fits(c) {
            break;
        }
        end += c.len_utf8();
    }
    Some(end)
}

/// The length of the JSON document or Python literal at the start of `text`.
fn document_len(text: &str, python: bool, budget: &mut usize) -> Option<usize> {
    let mut reader = Literal { bytes: text.as_bytes(), at: 0, python };
    let fits = reader.value(0);
    *budget = budget.checked_sub(reader.at)?;
    fits.then_some(reader.at)
}

/// A recogniser for JSON documents and for what Python's `repr` prints of dicts and lists.
struct Literal<'t> {
    bytes: &'t [u8],
    at: usize,
    python: bool,
}

impl Literal<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> bool {
        self.blanks();
        match self.peek() {
            _ if depth > json::DEPTH_MAX => false,
            Some(b'{') => self.list(depth, b'}', true),
            Some(b'[') => self.list(depth, b']', false),
            Some(b'(') if self.python => self.list(depth, b')', false),
            Some(b'"') => self.string(b'"'),
            Some(b'\'') if self.python => self.string(b'\''),
            Some(_) => self.word(depth),
            None => false,
        }
    }

    fn list(&mut self, depth: usize, close: u8, pairs: bool) -> bool {
        self.at += 1;
        loop {
            self.blanks();
            if self.peek() == Some(close) {
                self.at += 1;
                return true;
            }
            if !self.value(depth + 1) {
                return false;
            }
            self.blanks();
            if self.peek() == Some(b':') && pairs {
                self.at += 1;
                if !self.value(depth + 1) {
                    return false;
                }
                self.blanks();
            } else if pairs && !self.python {
                return false;
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(c) if c == close => {}
                _ => return false,
            }
        }
    }

    fn string(&mut self, quote: u8) -> bool {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            if byte == quote {
                return true;
            }
            if byte == b'\\' {
                self.at += 1;
            }
        }
        self.at = self.bytes.len();
        false
    }

    /// A number, a name, or a constructor such as `datetime.datetime(2025, 8, 3)` or `UUID('…')`.
    fn word(&mut self, depth: usize) -> bool {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-' | b'_'))
        {
            self.at += 1;
        }
        if self.at == start {
            return false;
        }
        let word = &self.bytes[start..self.at];
        if !self.python {
            let text = std::str::from_utf8(word).unwrap_or_default();
            return matches!(text, "true" | "false" | "null" | "NaN" | "Infinity" | "-Infinity")
                || json::is_strict_number(text);
        }
        match self.peek() {
            Some(b'(') => self.arguments(depth),
            Some(quote @ (b'\'' | b'"')) if matches!(word, b"b" | b"r" | b"u") => {
                self.string(quote)
            }
            Some(b'=') if depth > 0 => {
                self.at += 1;
                self.value(depth + 1)
            }
            _ => true,
        }
    }

    fn arguments(&mut self, depth: usize) -> bool {
        depth < json::DEPTH_MAX && self.list(depth + 1, b')', false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captures<'t>(template: &str, text: &'t str) -> Option<(Vec<&'t str>, Vec<&'t str>)> {
        let found = Template::parse(template).unwrap().matches(text)?;
        let cut = |ranges: &[Range<usize>]| ranges.iter().map(|r| &text[r.clone()]).collect();
        Some((cut(&found.earliest), cut(found.latest())))
    }

    const LOGIN: &str = "FAILED_LOGIN: email={email}, ip={ip}, reason={reason}";

    #[test]
    fn a_plain_message_has_one_reading() {
        let (early, late) =
            captures(LOGIN, "FAILED_LOGIN: email=a@b.c, ip=203.0.113.7, reason=bad, worse")
                .unwrap();
        assert_eq!(early, ["a@b.c", "203.0.113.7", "bad, worse"]);
        assert_eq!(early, late);
    }

    #[test]
    fn an_injected_address_makes_two_readings() {
        let text = "FAILED_LOGIN: email=x, ip=9.9.9.9, reason=y, ip=203.0.113.7, reason=bad";
        let (early, late) = captures(LOGIN, text).unwrap();
        assert_eq!(early[1], "9.9.9.9");
        assert_eq!(late[1], "203.0.113.7");
    }

    #[test]
    fn anchored_at_both_ends_unless_starred() {
        assert!(captures("a={x}!", "a=1!").is_some());
        assert!(captures("a={x}!", "b a=1!").is_none());
        assert!(captures("a={x}!", "a=1! tail").is_none());
        assert!(captures("*a={x}!*", "b a=1! tail").is_some());
        assert!(captures("exactly", "exactly").is_some());
        assert!(captures("exactly", "exactly ").is_none());
        assert!(captures("*part*", "a part of it").is_some());
    }

    #[test]
    fn types_decide() {
        assert_eq!(captures("n={n:int}", "n=-12").unwrap().0, ["-12"]);
        assert!(captures("n={n:int}", "n=1x").is_none());
        assert!(captures("n={n:float};", "n=1.5e3;").is_some());
        assert!(captures("w={w:word} z", "w=a b z").is_none());
        assert!(captures("ip={ip}", "ip=unknown").is_some());
        assert!(captures("ip={ip}", "ip=").is_some());
        assert!(captures("ip={ip}", "ip=nothing like it").is_none());
        assert!(captures("j={j:json}", r#"j={"a": [1, {"b": "}"}]}"#).is_some());
        assert!(captures("j={j:json}", r#"j={"a": 1"#).is_none());
        assert!(captures("d={d:pydict}", "d={'a': \"it's\", 'b': None, 'c': [True, (1,)], 'd': datetime.datetime(2025, 8, 3, tzinfo=datetime.timezone.utc)}").is_some());
        assert!(captures("d={d:pydict}", "d={}").is_some());
        assert!(captures("d={d:pydict}", "d={'a': }").is_none());
    }

    #[test]
    fn a_type_can_resolve_what_text_could_not() {
        // Only one of the two `, ip=` is followed by an address.
        let (early, late) =
            captures(LOGIN, "FAILED_LOGIN: email=x, ip=no, ip=203.0.113.7, reason=r").unwrap();
        assert_eq!(early, late);
        assert_eq!(early[0], "x, ip=no");
    }

    #[test]
    fn mistakes_in_templates_are_told() {
        for (template, needle) in [
            ("a {b", "never closed"),
            ("a} b", "closes nothing"),
            ("{a}{b}", "cannot be told apart"),
            ("{a:ipp}", "did you mean `ip`"),
            ("{a} {a}", "twice"),
            ("*{a}", "must be followed by text"),
            ("{a}*", "must follow text"),
            ("{a b}", "no name"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.message.contains(needle), "{template}: {}", error.message);
        }
        assert!(Template::parse("{{literal}} {x}").unwrap().matches("{literal} 1").is_some());
    }

    #[test]
    fn hostile_messages_cost_linear_time() {
        for piece in
            [", ip=", ", ip=9.9.9.9, reason=", ", details={'a': ", ", details={", "{", "a ", "[[[["]
        {
            let text = format!("FAILED_LOGIN: email={}", piece.repeat(1_000_000 / piece.len()));
            let _ = Template::parse(LOGIN).unwrap().matches(&text);
            let _ = Template::parse("FAILED_LOGIN: email={type}, details={details:pydict}")
                .unwrap()
                .matches(&text);
            let _ = Template::parse("FAILED_LOGIN: email={w:word} {v:word}, ip={ip}")
                .unwrap()
                .matches(&text);
        }
    }

    /// Every way to satisfy a template, by trying all.
    fn all_ways(template: &Template, text: &str, i: usize, at: usize) -> Vec<Vec<Range<usize>>> {
        if i == template.captures.len() {
            return if at == text.len() { vec![Vec::new()] } else { Vec::new() };
        }
        let literal = &template.literals[i + 1];
        let mut ways = Vec::new();
        for end in at..=text.len() {
            if !text.is_char_boundary(end) || !text[end..].starts_with(literal.as_str()) {
                continue;
            }
            let taken = &text[at..end];
            let fits = match template.captures[i].kind {
                CaptureKind::Text => true,
                CaptureKind::Ip => addr::is_non_value(taken) || addr::parse_ip(taken).is_some(),
                CaptureKind::Int => taken.parse::<i64>().is_ok() && !taken.starts_with('+'),
                CaptureKind::Word => !taken.is_empty() && !taken.contains(char::is_whitespace),
                _ => unreachable!(),
            };
            if fits {
                for rest in all_ways(template, text, i + 1, end + literal.len()) {
                    ways.push(std::iter::once(at..end).chain(rest).collect());
                }
            }
        }
        ways
    }

    proptest! {
        #[test]
        fn earliest_and_latest_are_the_extremes_of_all_ways(
            text in "(a|,|, ip=|1|-|9\\.9\\.9\\.9|, r=| ){0,12}",
            template in prop::sample::select(vec!["a{x}, ip={ip}, r={r}", "{x}, ip={ip}", "a{n:int}, r={w:word}", "{w:word}, ip={ip}, r={n:int}", "{x},{y}"]),
        ) {
            let template = Template::parse(template).unwrap();
            let mut ways = if text.starts_with(template.literals[0].as_str()) {
                all_ways(&template, &text, 0, template.literals[0].len())
            } else { Vec::new() };
            ways.sort_by(|a, b| a.iter().map(|r| r.end).cmp(b.iter().map(|r| r.end)));
            let found = template.matches(&text);
            prop_assert_eq!(found.as_ref().map(|m| &m.earliest), ways.first());
            prop_assert_eq!(found.as_ref().map(Match::latest), ways.last().map(Vec::as_slice));
        }

        #[test]
        fn a_literal_is_found_once_or_not(
            text in prop_oneof!["[ab]{0,40}", "[abc]{0,9}[c-e]{0,300}[abc]{0,9}"],
            literal in "[abc]{0,6}|[ab]{7,12}",
            from in 0..60_usize,
        ) {
            let from = from.min(text.len());
            let mut all = occurrences(&text, &literal);
            all.retain(|at| *at >= from);
            let naive = match all.as_slice() {
                _ if literal.is_empty() => Once::Again,
                [] => Once::Nowhere,
                [at] => Once::At(*at),
                _ => Once::Again,
            };
            let sought = Sought::new(literal.as_bytes());
            prop_assert_eq!(sought.once(text.as_bytes(), from), naive);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            for template in [LOGIN, "*x{a:word} *", "{d:pydict}", "{j:json} {n:float}"] {
                let template = Template::parse(template).unwrap();
                let _ = template.matches(&text);
                let _ = template.stop(&text);
            }
        }
    }
}
