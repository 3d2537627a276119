//! Patterns as written: a name, tests on fields, ways to read the message, tests of its own.

use super::filter::Filter;
use super::prefilter;
use super::template::{CaptureKind, Template};
use crate::decode::fields::{Role, well_known};
use crate::yaml::{Checker, Node, Place};
use regex::Regex;
use regex_syntax::ast::{self, Ast, Flag};

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
        /// Its named groups, with what their names say about identity.
        roles: Vec<(String, Option<Role>)>,
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

/// Names of patterns are written in capitals.
pub fn is_pattern_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_uppercase())
        && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

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

/// Reads the pattern `name` of the pack `pack`, whose key stands at `place`.
pub fn parse(
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
    if pattern.readings.is_empty() && pattern.filter.is_empty() && checker.problems.len() == before
    {
        let help = "give it `read`, `regex` or `where`".to_owned();
        whole(checker, format!("the pattern {name} would match every record"), Some(help));
    }
    if let Some(weight) = &pattern.weight
        && checker.problems.len() == before
    {
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

/// Whether an expression turns greediness round by itself: then the same with greediness turned round is no
/// other, and would find no ambiguity.
fn swaps_greed(text: &str) -> bool {
    struct Flags;
    impl ast::Visitor for Flags {
        type Output = ();
        type Err = ();
        fn finish(self) -> Result<(), ()> {
            Ok(())
        }
        fn visit_pre(&mut self, ast: &Ast) -> Result<(), ()> {
            let flags = match ast {
                Ast::Flags(set) => Some(&set.flags),
                Ast::Group(group) => group.flags(),
                _ => None,
            };
            match flags.and_then(|flags| flags.flag_state(Flag::SwapGreed)) {
                Some(_) => Err(()),
                None => Ok(()),
            }
        }
    }
    let ast = ast::parse::Parser::new().parse(text);
    ast.is_ok_and(|ast| ast::visit(&ast, Flags).is_err())
}

fn regex(checker: &mut Checker<'_>, node: &Node, text: &str) -> Option<Reading> {
    if swaps_greed(text) {
        let help = "write `*?` for `*` and the like where the shortest is meant".to_owned();
        checker.node(node, "a regular expression cannot use the flag `U`", Some(help));
        return None;
    }
    let swapped = regex::RegexBuilder::new(text).swap_greed(true).build();
    match (Regex::new(text), swapped) {
        (Ok(greedy), Ok(swapped)) => {
            let names = greedy.capture_names().flatten();
            let roles = names.map(|name| (name.to_owned(), well_known(name))).collect();
            let prefix = prefilter::anchored_prefix(text);
            Some(Reading::Regex { greedy, swapped, prefix, roles })
        }
        (Err(error), _) | (_, Err(error)) => {
            let what = error.to_string();
            let last = what.lines().last().unwrap_or("not valid").trim().to_owned();
            checker.node(node, format!("no valid regular expression: {last}"), None);
            None
        }
    }
}
