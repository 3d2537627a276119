//! YAML with places: the one reader of everything a user writes.
//!
//! Settings, patterns and rules are read into a tree whose every node knows its line and column,
//! and are then checked by walking it. So a file's errors are all reported at once, each with its
//! line, a caret and the nearest right word, which a derived reader that stops at the first
//! mistake could not do.

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A place in a document: line and column from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Line, from 1; 0 when the mistake is nowhere in particular.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A document with its name, for messages.
#[derive(Debug, Clone)]
pub struct Document {
    /// Path, or the name of a built-in pack.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A mistake in a document, told so that it can be mended.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The document's name.
    pub file: String,
    /// Where.
    pub place: Place,
    /// The line, for the caret.
    pub excerpt: String,
    /// How many characters the caret covers.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl Problem {
    /// About a document, or whatever else is called `file`, as a whole.
    pub fn whole(file: &str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            place: Place::default(),
            excerpt: String::new(),
            width: 0,
            message,
            help: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if self.place.line == 0 {
            write!(f, "\n  --> {}", self.file)?;
        } else {
            let Place { line, column } = self.place;
            let gutter = " ".repeat(line.to_string().len());
            let indent: String = self
                .excerpt
                .chars()
                .take(column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let caret = "^".repeat(self.width.max(1));
            write!(f, "\n{gutter}--> {}:{line}:{column}", self.file)?;
            write!(f, "\n{gutter} |\n{line} | {}\n{gutter} | {indent}{caret}", self.excerpt)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// A node of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Where it begins.
    pub place: Place,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in its order.
    Map(Vec<(Key, Node)>),
}

/// A map's key with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

impl Node {
    /// The text of a scalar, as nearly as it was written.
    pub fn scalar(&self) -> Option<String> {
        match &self.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Int(n) => Some(n.to_string()),
            Kind::Float(n) => Some(n.to_string()),
            Kind::Bool(b) => Some(b.to_string()),
            Kind::Null | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// What it is, for a message.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Int(_) | Kind::Float(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    /// The nodes of a list; a single node counts as a list of one.
    pub fn as_list(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::List(items) => items.iter().collect(),
            Kind::Null => Vec::new(),
            _ => vec![self],
        }
    }

    /// The members of a map.
    pub fn as_map(&self) -> Option<&[(Key, Node)]> {
        match &self.kind {
            Kind::Map(members) => Some(members),
            _ => None,
        }
    }

    /// A member of a map.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.as_map()?.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    /// Whether it says no: `off`, `false`, `no`.
    pub fn is_off(&self) -> bool {
        match &self.kind {
            Kind::Bool(b) => !b,
            Kind::Text(text) => yes_or_no(text) == Some(false) || text == "never",
            _ => false,
        }
    }
}

/// What people write for a boolean where one is asked for.
fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    }
}

struct Raw(Kind);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Raw>::deserialize(deserializer)?;
        Ok(Node { kind: spanned.value.0, place: place(&spanned.referenced) })
    }
}

fn place(location: &serde_saphyr::Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw(Kind::Null))
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw(Kind::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw(Kind::Bool(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw(Kind::Int(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw(i64::try_from(value).map_or_else(|_| Kind::Text(value.to_string()), Kind::Int)))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw(Kind::Float(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw(Kind::Text(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Node>()? {
            items.push(item);
        }
        Ok(Raw(Kind::List(items)))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut members: Vec<(Key, Node)> = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            let key = Key { name: key.value, place: place(&key.referenced) };
            if members.iter().any(|(other, _)| other.name == key.name) {
                return Err(de::Error::custom(format!("the key `{}` is there twice", key.name)));
            }
            members.push((key, node));
        }
        Ok(Raw(Kind::Map(members)))
    }
}

/// How many characters of a node a caret covers.
fn width(node: &Node) -> usize {
    node.scalar().map_or(1, |text| text.chars().count())
}

/// Collects the mistakes of one document while it is walked.
#[derive(Debug)]
pub struct Checker<'d> {
    document: &'d Document,
    /// The mistakes so far.
    pub problems: Vec<Problem>,
}

impl<'d> Checker<'d> {
    /// A checker for `document`.
    pub fn new(document: &'d Document) -> Self {
        Self { document, problems: Vec::new() }
    }

    /// The document's name.
    pub fn name(&self) -> &str {
        &self.document.name
    }

    /// The document's text.
    pub fn source_text(&self) -> &str {
        &self.document.text
    }

    /// Reads the document's tree; a text that is no YAML is a problem.
    pub fn parse(&mut self) -> Option<Node> {
        if self.document.text.trim().is_empty() {
            return Some(Node { kind: Kind::Map(Vec::new()), place: Place { line: 1, column: 1 } });
        }
        // Only `true` and `false` are booleans: `n` may name a capture, and NO is a country.
        let options = serde_saphyr::options! { strict_booleans: true };
        match serde_saphyr::from_str_with_options::<Node>(&self.document.text, options) {
            Ok(node) => Some(node),
            Err(error) => {
                let place = error.location().map(|l| place(&l)).unwrap_or_default();
                let message = error.without_snippet().to_string();
                let message = message.lines().next().unwrap_or("cannot be read").to_owned();
                self.at(place, 1, format!("no valid YAML: {message}"), None);
                None
            }
        }
    }

    /// Notes a mistake.
    pub fn at(
        &mut self,
        place: Place,
        width: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let problem = self.problem(place, width, message, help);
        self.problems.push(problem);
    }

    /// A mistake in a node that is known only later, when it is used: to be told then.
    pub fn later(&self, node: &Node) -> Problem {
        self.problem(node.place, width(node), "", None)
    }

    fn problem(
        &self,
        place: Place,
        width: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Problem {
        let excerpt = place
            .line
            .checked_sub(1)
            .and_then(|n| self.document.text.lines().nth(n))
            .unwrap_or_default()
            .to_owned();
        Problem {
            file: self.document.name.clone(),
            place,
            excerpt,
            width,
            message: message.into(),
            help,
        }
    }

    /// Notes a mistake in a node.
    pub fn node(&mut self, node: &Node, message: impl Into<String>, help: Option<String>) {
        self.at(node.place, width(node), message, help);
    }

    /// Notes a mistake in a key.
    pub fn key(&mut self, key: &Key, message: impl Into<String>, help: Option<String>) {
        self.at(key.place, key.name.chars().count(), message, help);
    }

    /// Notes a mistake inside a text, `offset` bytes from its beginning.
    pub fn inside(
        &mut self,
        node: &Node,
        offset: usize,
        width: usize,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        let mut place = node.place;
        let line = self.document.text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
        let quote = line.chars().nth(place.column.saturating_sub(1));
        let text = node.scalar().unwrap_or_default();
        let chars = text.get(..offset).map_or(0, |head| head.chars().count());
        // Block texts (`|`, `>`) begin on another line; the caret stays at their mark.
        if !matches!(quote, Some('|' | '>')) {
            place.column += chars + usize::from(matches!(quote, Some('"' | '\'')));
        }
        self.at(place, width, message, help);
    }

    /// The members of a map whose keys must be among `known`.
    pub fn map<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> &'n [(Key, Node)] {
        let Some(members) = node.as_map() else {
            if node.kind != Kind::Null {
                self.node(node, format!("{what} must be a map, not {}", node.kind_name()), None);
            }
            return &[];
        };
        for (key, _) in members {
            if !known.contains(&key.name.as_str()) {
                let help = nearest(&key.name, known).map_or_else(
                    || format!("known keys: {}", known.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                self.key(key, format!("{what} has no key `{}`", key.name), Some(help));
            }
        }
        members
    }

    /// A scalar's text.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = node.scalar();
        if text.is_none() {
            self.node(node, format!("{what} must be text, not {}", node.kind_name()), None);
        }
        text
    }

    /// A list of texts; one text is a list of one.
    pub fn texts(&mut self, node: &Node, what: &str) -> Vec<String> {
        node.as_list().into_iter().filter_map(|item| self.text(item, what)).collect()
    }

    /// A duration, at least `min` microseconds.
    pub fn duration(&mut self, node: &Node, what: &str, min: i64) -> Option<i64> {
        let text = self.text(node, what)?;
        match crate::decode::time::parse_duration(&text) {
            Some(duration) if duration >= min => Some(duration),
            Some(_) => {
                let least = crate::decode::time::format_duration(min);
                self.node(node, format!("{what} must be at least {least}"), None);
                None
            }
            None => {
                let help = "write a number and a unit: 30s, 5m, 1h, 24h, 30d, 2w".to_owned();
                self.node(node, format!("{what}: `{text}` is no duration"), Some(help));
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn int(
        &mut self,
        node: &Node,
        what: &str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        match node.kind {
            Kind::Int(n) if range.contains(&n) => Some(n),
            Kind::Int(_) => {
                let (low, high) = (range.start(), range.end());
                self.node(node, format!("{what} must lie between {low} and {high}"), None);
                None
            }
            _ => {
                let kind = node.kind_name();
                self.node(node, format!("{what} must be a whole number, not {kind}"), None);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn bool(&mut self, node: &Node, what: &str) -> Option<bool> {
        match &node.kind {
            Kind::Bool(b) => Some(*b),
            Kind::Text(text) if yes_or_no(text).is_some() => yes_or_no(text),
            _ => {
                self.node(node, format!("{what} must be true or false"), None);
                None
            }
        }
    }

    /// One of a fixed set of words.
    pub fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(node, what)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = nearest(&text, &names).map_or_else(
            || format!("one of: {}", names.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        self.node(node, format!("{what}: `{text}` is not known"), Some(help));
        None
    }
}

/// The nearest of `known` to `word`, if one is near enough to be meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), *candidate)
        })
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        Document { name: "t.yaml".into(), text: text.into() }
    }

    #[test]
    fn nodes_know_their_places() {
        let doc = document("a: 1\nb:\n  - x\n  - {c: off}\n");
        let node = Checker::new(&doc).parse().unwrap();
        assert_eq!(node.get("a").unwrap().place, Place { line: 1, column: 4 });
        let list = node.get("b").unwrap().as_list();
        assert_eq!(list[0].place, Place { line: 3, column: 5 });
        assert!(list[1].get("c").unwrap().is_off());
    }

    #[test]
    fn unknown_keys_are_shown_with_the_nearest() {
        let doc = document("latenes: 60s\n");
        let mut checker = Checker::new(&doc);
        let node = checker.parse().unwrap();
        checker.map(&node, "the configuration", &["lateness", "threads"]);
        let shown = checker.problems[0].to_string();
        assert!(shown.contains("--> t.yaml:1:1"), "{shown}");
        assert!(shown.contains("1 | latenes: 60s\n  | ^^^^^^^"), "{shown}");
        assert!(shown.contains("did you mean `lateness`?"), "{shown}");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let doc = document("a: [1, 2\nb: }\n");
        let mut checker = Checker::new(&doc);
        assert!(checker.parse().is_none());
        assert!(checker.problems[0].place.line > 0, "{:?}", checker.problems);
    }

    #[test]
    fn numbers_and_words_keep_their_text() {
        let doc = document("a: 00123\nb: 1.5\nc: no\nd: 2025-08-03\ne: '7'\nf: 5m\n");
        let node = Checker::new(&doc).parse().unwrap();
        assert_eq!(node.get("e").unwrap().scalar().unwrap(), "7");
        assert_eq!(node.get("f").unwrap().scalar().unwrap(), "5m");
        assert!(node.get("c").unwrap().is_off());
    }
}
