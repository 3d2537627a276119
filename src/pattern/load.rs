//! Packs: files of patterns and rules, read and checked. The only part of this module that
//! touches files, and only at start.

use super::filter::Filter;
use super::template::{CaptureKind, Template};
use super::{BUILT_IN, prefilter};
use crate::detect::condition::is_pattern_name;
use crate::detect::rule::{self, Rule};
use crate::yaml::{Checker, Document, Node, Place, Problem};
use regex::Regex;
use std::path::Path;

/// The packs compiled into the program.
pub const PACKS: [(&str, &str); 3] = [
    ("velro", include_str!("../../patterns/velro.yaml")),
    ("guard", include_str!("../../patterns/guard.yaml")),
    ("sshd", include_str!("../../patterns/sshd.yaml")),
];

/// The packs that are loaded when nobody says otherwise.
pub const DEFAULT_PACKS: [&str; 2] = ["velro", "guard"];

/// One way to read a message.
#[derive(Debug, Clone)]
pub enum Reading {
    /// A template.
    Template(Template),
    /// A regular expression, and the same with greediness swapped to detect ambiguity.
    Regex {
        /// As written.
        greedy: Regex,
        /// With every quantifier's greediness turned round.
        swapped: Regex,
        /// Literal text with which every match's message begins, if it is anchored to one.
        prefix: Option<String>,
    },
}

/// A pattern, checked.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Its name, in capitals.
    pub name: String,
    /// The pack it is from.
    pub pack: String,
    /// What it means.
    pub title: String,
    /// Tests on fields.
    pub filter: Filter,
    /// Ways to read the message; the first that fits wins. None: only the fields matter.
    pub readings: Vec<Reading>,
    /// The capture by which one line counts for several.
    pub weight: Option<String>,
    /// Its tests, as written.
    pub tests: Vec<Node>,
    /// Where it stands.
    pub place: Place,
}

impl Pattern {
    /// The text by which a message claims to be this pattern, also when it then fits nothing: the
    /// keyword up to its colon, else the whole leading literal.
    pub fn leads(&self) -> impl Iterator<Item = &str> {
        self.readings.iter().filter_map(|reading| {
            let literal = match reading {
                Reading::Template(template) => template.leading_literal(),
                Reading::Regex { prefix, .. } => prefix.as_deref(),
            }?;
            Some(keyword(literal))
        })
    }

    /// The names of its captures.
    pub fn capture_names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for reading in &self.readings {
            match reading {
                Reading::Template(t) => names.extend(t.captures().iter().map(|c| c.name.as_str())),
                Reading::Regex { greedy, .. } => names.extend(greedy.capture_names().flatten()),
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// `FAILED_LOGIN: email=` is claimed by `FAILED_LOGIN:`; a text without such a keyword by itself.
pub(super) fn keyword(literal: &str) -> &str {
    let word = literal
        .bytes()
        .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        .count();
    if word >= 3 && literal.as_bytes().get(word) == Some(&b':') {
        &literal[..=word]
    } else {
        literal
    }
}

/// A pack of patterns and rules.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// The file, or the name of a built-in pack, with its text.
    pub document: Document,
    /// Its patterns.
    pub patterns: Vec<Pattern>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Reads the packs named by `entries`: names of built-in packs, files, or folders of files.
pub fn load(entries: &[String]) -> (Vec<Pack>, Vec<Problem>) {
    let mut packs = Vec::new();
    let mut problems = Vec::new();
    for entry in entries {
        for document in documents(entry, &mut problems) {
            let (pack, mut found) = parse(document);
            problems.append(&mut found);
            packs.extend(pack);
        }
    }
    check_together(&packs, &mut problems);
    (packs, problems)
}

fn documents(entry: &str, problems: &mut Vec<Problem>) -> Vec<Document> {
    if let Some((name, text)) = PACKS.iter().find(|(name, _)| *name == entry) {
        return vec![Document { name: format!("pack {name}"), text: (*text).to_owned() }];
    }
    let path = Path::new(entry);
    let mut fail = |message: String, help: Option<String>| {
        problems.push(Problem {
            file: entry.to_owned(),
            place: Place::default(),
            excerpt: String::new(),
            width: 0,
            message,
            help,
        });
    };
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        let listed = std::fs::read_dir(path).map(|dir| {
            let mut files: Vec<_> = dir
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
                .collect();
            files.sort();
            files
        });
        match listed {
            Ok(files) if files.is_empty() => {
                fail("the folder holds no .yaml file".into(), None);
                return Vec::new();
            }
            Ok(files) => paths = files,
            Err(error) => {
                fail(format!("cannot list the folder: {error}"), None);
                return Vec::new();
            }
        }
    }
    let mut documents = Vec::new();
    for path in paths {
        match std::fs::read_to_string(&path) {
            Ok(text) => documents.push(Document { name: path.display().to_string(), text }),
            Err(error) => {
                let names: Vec<&str> = PACKS.iter().map(|(name, _)| *name).collect();
                let help = match crate::yaml::nearest(entry, &names) {
                    Some(near) => format!("did you mean the built-in pack `{near}`?"),
                    None => format!("built-in packs: {}", names.join(", ")),
                };
                let why = match error.kind() {
                    std::io::ErrorKind::NotFound => "there is no such file or pack".to_owned(),
                    std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                    std::io::ErrorKind::InvalidData => "it is no UTF-8 text".to_owned(),
                    _ => error.to_string(),
                };
                fail(format!("cannot read the patterns `{entry}`: {why}"), Some(help));
            }
        }
    }
    documents
}

/// Whether a document is a pack (and not a configuration).
pub fn is_pack(node: &Node) -> bool {
    node.get("pack").is_some()
}

const PACK_KEYS: [&str; 6] = ["pack", "title", "description", "reference", "patterns", "rules"];
const PATTERN_KEYS: [&str; 9] = [
    "title",
    "description",
    "false_positives",
    "reference",
    "where",
    "read",
    "regex",
    "weight",
    "tests",
];

/// Reads one pack.
pub fn parse(document: Document) -> (Option<Pack>, Vec<Problem>) {
    let mut checker = Checker::new(&document);
    let Some(root) = checker.parse() else { return (None, checker.problems) };
    let members = checker.map(&root, "a pattern file", &PACK_KEYS);
    let name = match root.get("pack") {
        Some(node) => checker.text(node, "`pack`").unwrap_or_default(),
        None => {
            checker.at(Place { line: 1, column: 1 }, 1, "a pattern file needs `pack: NAME`", None);
            String::new()
        }
    };
    if name == "portcullis" {
        checker.at(Place { line: 1, column: 1 }, 1, "the pack name `portcullis` is its own", None);
    }
    let mut patterns = Vec::new();
    let mut rules = Vec::new();
    for (key, value) in members {
        match key.name.as_str() {
            "patterns" => {
                for (key, node) in value.as_map().unwrap_or_default() {
                    if !is_pattern_name(&key.name) {
                        let help = "capitals, digits and _: FAILED_LOGIN".to_owned();
                        checker.key(
                            key,
                            format!("`{}` is no name for a pattern", key.name),
                            Some(help),
                        );
                    }
                    if BUILT_IN.contains(&key.name.as_str()) {
                        checker.key(
                            key,
                            format!("`{}` is raised by Portcullis itself", key.name),
                            None,
                        );
                    }
                    patterns.extend(pattern(&mut checker, &key.name, key.place, node, &name));
                }
                if value.as_map().is_none() {
                    checker.node(value, "`patterns` must be a map of names", None);
                }
            }
            "rules" => {
                for node in value.as_list() {
                    rules.extend(rule::parse(&mut checker, node, &name));
                }
            }
            _ => {}
        }
    }
    let problems = checker.problems;
    (Some(Pack { name, document, patterns, rules }), problems)
}

fn pattern(
    checker: &mut Checker<'_>,
    name: &str,
    place: Place,
    node: &Node,
    pack: &str,
) -> Option<Pattern> {
    let before = checker.problems.len();
    let members = checker.map(node, &format!("the pattern {name}"), &PATTERN_KEYS);
    let mut pattern = Pattern {
        name: name.to_owned(),
        pack: pack.to_owned(),
        title: String::new(),
        filter: Filter::default(),
        readings: Vec::new(),
        weight: None,
        tests: Vec::new(),
        place,
    };
    for (key, value) in members {
        match key.name.as_str() {
            "title" => pattern.title = checker.text(value, "`title`").unwrap_or_default(),
            "where" => pattern.filter = Filter::parse(checker, value),
            "read" => {
                for item in value.as_list() {
                    let Some(text) = checker.text(item, "`read`") else { continue };
                    match Template::parse(&text) {
                        Ok(template) => pattern.readings.push(Reading::Template(template)),
                        Err(e) => checker.inside(item, e.at, e.width, e.message, e.help),
                    }
                }
            }
            "regex" => {
                for item in value.as_list() {
                    let Some(text) = checker.text(item, "`regex`") else { continue };
                    pattern.readings.extend(regex(checker, item, &text));
                }
            }
            "weight" => pattern.weight = checker.text(value, "`weight`"),
            "tests" => pattern.tests = value.as_list().into_iter().cloned().collect(),
            _ => {
                checker.text(value, &format!("`{}`", key.name));
            }
        }
    }
    let whole = |checker: &mut Checker<'_>, message: String, help: Option<String>| {
        checker.at(place, name.chars().count(), message, help);
    };
    if pattern.title.is_empty() {
        whole(checker, format!("the pattern {name} needs a `title`"), None);
    }
    if pattern.tests.is_empty() {
        let help = "tests:\n    - line: '...'\n      gives: { ip: 203.0.113.7 }".to_owned();
        whole(checker, format!("the pattern {name} needs at least one test"), Some(help));
    }
    if pattern.readings.is_empty() && pattern.filter.is_empty() && checker.problems.len() == before
    {
        let help = "give it `read`, `regex` or `where`".to_owned();
        whole(checker, format!("the pattern {name} would match every record"), Some(help));
    }
    if let Some(weight) = &pattern.weight {
        let fits = pattern.readings.iter().any(|reading| match reading {
            Reading::Template(t) => {
                t.captures().iter().any(|c| c.name == *weight && c.kind == CaptureKind::Int)
            }
            Reading::Regex { greedy, .. } => greedy.capture_names().flatten().any(|n| n == weight),
        });
        if !fits {
            let at = node.get("weight").unwrap_or(node);
            checker.node(
                at,
                format!("`weight` must name an int capture; there is no {{{weight}:int}}"),
                None,
            );
        }
    }
    (checker.problems.len() == before).then_some(pattern)
}

fn regex(checker: &mut Checker<'_>, node: &Node, text: &str) -> Option<Reading> {
    let swapped = regex::RegexBuilder::new(text).swap_greed(true).build();
    match (Regex::new(text), swapped) {
        (Ok(greedy), Ok(swapped)) => {
            Some(Reading::Regex { greedy, swapped, prefix: prefilter::anchored_prefix(text) })
        }
        (Err(error), _) | (_, Err(error)) => {
            let what = error.to_string();
            let last = what.lines().last().unwrap_or("not valid").trim().to_owned();
            checker.node(node, format!("no valid regular expression: {last}"), None);
            None
        }
    }
}

/// What no file can tell alone: ids that are there twice, rules on patterns that nobody declares.
fn check_together(packs: &[Pack], problems: &mut Vec<Problem>) {
    let mut known: Vec<&str> = BUILT_IN.to_vec();
    for pack in packs {
        for pattern in &pack.patterns {
            if known.contains(&pattern.name.as_str()) {
                let mut checker = Checker::new(&pack.document);
                let message = format!("the pattern {} is declared twice", pattern.name);
                checker.at(pattern.place, pattern.name.len(), message, None);
                problems.append(&mut checker.problems);
            }
            known.push(&pattern.name);
        }
    }
    let mut ids: Vec<&str> = Vec::new();
    for pack in packs {
        for rule in &pack.rules {
            let mut checker = Checker::new(&pack.document);
            if ids.contains(&rule.id.as_str()) {
                checker.at(
                    rule.place,
                    1,
                    format!("the rule id `{}` is there twice", rule.id),
                    None,
                );
            }
            ids.push(&rule.id);
            for on in &rule.on {
                if !known.contains(&on.as_str()) {
                    let help = match crate::yaml::nearest(on, &known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("loaded patterns: {}", known.join(", ")),
                    };
                    let message = format!("rule {}: no loaded pattern is called `{on}`", rule.id);
                    checker.at(rule.place, 1, message, Some(help));
                }
            }
            problems.append(&mut checker.problems);
        }
    }
}
