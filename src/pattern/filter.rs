//! The `where:` language: tests over the fields of a record or an event.

use crate::decode::addr;
use crate::decode::fields::{FieldName, Role, well_known};
use crate::decode::level::Level;
use crate::yaml::{Checker, Kind, Node, nearest};
use ipnet::IpNet;
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Looks a field up by role or name.
pub type Lookup<'l> = &'l dyn Fn(&FieldName) -> Option<Cow<'l, str>>;

/// All of its clauses must hold.
///
/// Its [`Debug`] text is its name: what is kept of rules lives under it. Kept, it is that name alone, which
/// tells which rules watch the same; what it let through was kept with each event.
#[derive(Clone, Default)]
pub struct Filter {
    clauses: Vec<Clause>,
    /// Of one that was read back: what it was called. Nothing is asked of it any more.
    kept: Option<String>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kept {
            Some(name) => f.write_str(name),
            None => f.debug_struct("Filter").field("clauses", &self.clauses).finish(),
        }
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kept = Some(String::deserialize(deserializer)?);
        Ok(Self { clauses: Vec::new(), kept })
    }
}

#[derive(Debug, Clone)]
enum Clause {
    Field { name: FieldName, test: Test },
    Any(Vec<Filter>),
    Not(Filter),
}

/// A test of one value, which may be absent.
#[derive(Debug, Clone)]
enum Test {
    Absent,
    Exists,
    Equals(String),
    Level(Level),
    Glob(Regex),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
    Cidr(addr::Nets),
    Regex(Regex),
    Compare { limit: f64, greater: bool, equal: bool },
    Not(Box<Test>),
    AnyOf(Vec<Test>),
    AllOf(Vec<Test>),
}

/// The operators of a test, as written.
const OPERATORS: [&str; 15] = [
    "equals",
    "not",
    "any",
    "all",
    "glob",
    "contains",
    "starts_with",
    "ends_with",
    "cidr",
    "regex",
    "<",
    "<=",
    ">",
    ">=",
    "exists",
];

impl Filter {
    /// Reads a `where:` or `unless:` map.
    pub fn parse(checker: &mut Checker<'_>, node: &Node) -> Self {
        let Some(members) = node.as_map() else {
            let help = "write field: value, for example  logger: [security, absent]".to_owned();
            checker.node(
                node,
                format!("`where` must be a map, not {}", node.kind_name()),
                Some(help),
            );
            return Self::default();
        };
        let mut clauses = Vec::new();
        for (key, value) in members {
            match key.name.as_str() {
                "any" => {
                    let filters = value.as_list().into_iter().map(|n| Self::parse(checker, n));
                    clauses.push(Clause::Any(filters.collect()));
                }
                "not" => clauses.push(Clause::Not(Self::parse(checker, value))),
                name => {
                    if let Some(test) = Test::parse(checker, name, value) {
                        clauses.push(Clause::Field { name: FieldName::new(name), test });
                    }
                }
            }
        }
        Self { clauses, kept: None }
    }

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Whether all clauses hold.
    pub fn holds(&self, lookup: Lookup<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.holds(lookup))
    }

    /// The field of the first clause that does not hold.
    pub fn first_failing(&self, lookup: Lookup<'_>) -> Option<String> {
        self.clauses.iter().find(|clause| !clause.holds(lookup)).map(|clause| match clause {
            Clause::Field { name, .. } => name.written.clone(),
            Clause::Any(_) => "any".to_owned(),
            Clause::Not(_) => "not".to_owned(),
        })
    }

    /// Whether it would hold if the record had some other logger.
    pub fn holds_but_logger(&self, lookup: Lookup<'_>) -> bool {
        self.holds_by(true, &|name, test, answer| {
            if names_logger(name) { answer } else { test.holds(lookup(name).as_deref()) }
        })
    }

    /// Whether it holds if each clause on a field that is not there gives `answer`: of a record that was cut, such
    /// a field may hold anything.
    pub fn holds_if(&self, lookup: Lookup<'_>, answer: bool) -> bool {
        self.holds_by(answer, &|name, test, answer| {
            lookup(name).map_or(answer, |value| test.holds(Some(&value)))
        })
    }

    /// Whether it holds by what `test` says of each field; `answer` is what it is to say where it cannot know,
    /// turned round under each `not`.
    fn holds_by(&self, answer: bool, test: &impl Fn(&FieldName, &Test, bool) -> bool) -> bool {
        self.clauses.iter().all(|clause| match clause {
            Clause::Field { name, test: own } => test(name, own, answer),
            Clause::Any(filters) => filters.iter().any(|filter| filter.holds_by(answer, test)),
            Clause::Not(filter) => !filter.holds_by(!answer, test),
        })
    }

    /// The fields it asks for.
    pub fn fields(&self) -> Vec<&str> {
        self.clauses
            .iter()
            .flat_map(|clause| match clause {
                Clause::Field { name, .. } => vec![name.written.as_str()],
                Clause::Any(filters) => filters.iter().flat_map(Filter::fields).collect(),
                Clause::Not(filter) => filter.fields(),
            })
            .collect()
    }

    /// Texts of which at least one must stand in the raw line for this to hold, if that is known.
    pub fn needles(&self) -> Option<Vec<String>> {
        self.clauses
            .iter()
            .filter_map(|clause| match clause {
                Clause::Field { name, test } if name_keeps_text(name.role) => test.needles(),
                Clause::Any(filters) => {
                    let all: Option<Vec<_>> = filters.iter().map(Filter::needles).collect();
                    all.map(|lists| lists.into_iter().flatten().collect())
                }
                Clause::Field { .. } | Clause::Not(_) => None,
            })
            .max_by_key(|list| list.iter().map(String::len).min())
    }

    /// The levels of which the record must have one, if that is known.
    pub fn levels(&self) -> Option<Vec<Level>> {
        self.clauses.iter().find_map(Clause::levels)
    }

    /// The same, if that is what is asked first.
    pub fn levels_first(&self) -> Option<Vec<Level>> {
        self.clauses.first()?.levels()
    }
}

/// The number that a text is.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    // So many digits are a number that is exact.
    if (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.bytes().fold(0.0, |n, digit| n * 10.0 + f64::from(digit - b'0')));
    }
    text.parse().ok()
}

/// Whether a role's value is the text as it stands in the line.
fn name_keeps_text(role: Option<Role>) -> bool {
    matches!(role, None | Some(Role::Logger | Role::Message | Role::Path | Role::Method))
}

impl Clause {
    fn levels(&self) -> Option<Vec<Level>> {
        match self {
            Clause::Field { name, test } if name.role == Some(Role::Level) => test.levels(),
            _ => None,
        }
    }

    fn holds(&self, lookup: Lookup<'_>) -> bool {
        match self {
            Clause::Field { name, test } => test.holds(lookup(name).as_deref()),
            Clause::Any(filters) => filters.iter().any(|filter| filter.holds(lookup)),
            Clause::Not(filter) => !filter.holds(lookup),
        }
    }
}

/// Whether what stands under a name is a logger's.
fn names_logger(name: &FieldName) -> bool {
    name.role == Some(Role::Logger) || well_known(&name.path) == Some(Role::Logger)
}

impl Test {
    fn parse(checker: &mut Checker<'_>, field: &str, node: &Node) -> Option<Self> {
        match &node.kind {
            Kind::List(items) => {
                let tests: Vec<_> =
                    items.iter().filter_map(|item| Self::parse(checker, field, item)).collect();
                if items.is_empty() {
                    checker.node(
                        node,
                        format!("`{field}` has an empty list: it would never hold"),
                        None,
                    );
                }
                Some(Test::AnyOf(tests))
            }
            Kind::Map(members) => {
                let mut tests = Vec::new();
                for (key, value) in members {
                    match Self::operator(checker, field, &key.name, value) {
                        Ok(test) => tests.extend(test),
                        Err(()) => {
                            let help = nearest(&key.name, &OPERATORS).map_or_else(
                                || format!("known operators: {}", OPERATORS.join(", ")),
                                |near| format!("did you mean `{near}`?"),
                            );
                            checker.key(
                                key,
                                format!("`{field}` cannot be tested with `{}`", key.name),
                                Some(help),
                            );
                        }
                    }
                }
                Some(Test::AllOf(tests))
            }
            Kind::Null => {
                checker.node(
                    node,
                    format!("`{field}` has no value"),
                    Some("write `absent` for a field that is not there".into()),
                );
                None
            }
            _ => {
                let text = node.scalar()?;
                Some(match text.as_str() {
                    "absent" => Test::Absent,
                    "exists" => Test::Exists,
                    _ => return Self::equals(checker, field, node, text),
                })
            }
        }
    }

    fn equals(checker: &mut Checker<'_>, field: &str, node: &Node, text: String) -> Option<Self> {
        if field != "level" {
            return Some(Test::Equals(text));
        }
        let level = Level::parse(&text);
        if level.is_none() {
            let names = ["debug", "info", "warning", "error", "critical"];
            let help = nearest(&text, &names).map_or_else(
                || format!("one of: {}", names.join(", ")),
                |n| format!("did you mean `{n}`?"),
            );
            checker.node(node, format!("`{text}` is no level"), Some(help));
        }
        level.map(Test::Level)
    }

    fn operator(
        checker: &mut Checker<'_>,
        field: &str,
        name: &str,
        node: &Node,
    ) -> Result<Option<Self>, ()> {
        let text = |checker: &mut Checker<'_>| checker.text(node, &format!("`{name}`"));
        let tests = |checker: &mut Checker<'_>| -> Vec<Test> {
            node.as_list().into_iter().filter_map(|n| Self::parse(checker, field, n)).collect()
        };
        // Several texts after one operator are alternatives.
        if let Kind::List(items) = &node.kind
            && matches!(name, "glob" | "contains" | "starts_with" | "ends_with" | "cidr" | "regex")
        {
            let all: Result<Vec<_>, ()> =
                items.iter().map(|item| Self::operator(checker, field, name, item)).collect();
            return all.map(|tests| Some(Test::AnyOf(tests.into_iter().flatten().collect())));
        }
        Ok(match name {
            "equals" => Self::parse(checker, field, node),
            "not" => Some(Test::Not(Box::new(Test::AnyOf(tests(checker))))),
            "any" => Some(Test::AnyOf(tests(checker))),
            "all" => Some(Test::AllOf(tests(checker))),
            "contains" => text(checker).map(Test::Contains),
            "starts_with" => text(checker).map(Test::StartsWith),
            "ends_with" => text(checker).map(Test::EndsWith),
            "exists" => checker
                .bool(node, "`exists`")
                .map(|yes| if yes { Test::Exists } else { Test::Absent }),
            "glob" => text(checker)
                .and_then(|glob| compile(checker, node, &glob_regex(&glob)))
                .map(Test::Glob),
            "regex" => {
                text(checker).and_then(|regex| compile(checker, node, &regex)).map(Test::Regex)
            }
            "cidr" => text(checker).and_then(|cidr| {
                let net = parse_net(&cidr);
                if net.is_none() {
                    checker.node(
                        node,
                        format!("`{cidr}` is no network"),
                        Some("write it like 203.0.113.0/24 or 2001:db8::/32".into()),
                    );
                }
                net.map(|net| Test::Cidr([net].into_iter().collect()))
            }),
            "<" | "<=" | ">" | ">=" => {
                let limit = text(checker).and_then(|text| {
                    let number = text.parse().ok();
                    if number.is_none() {
                        checker.node(
                            node,
                            format!("`{name}` compares numbers, not `{text}`"),
                            None,
                        );
                    }
                    number
                });
                limit.map(|limit| Test::Compare {
                    limit,
                    greater: name.starts_with('>'),
                    equal: name.ends_with('='),
                })
            }
            _ => return Err(()),
        })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Test::Absent => return value.is_none(),
            Test::Not(test) => return !test.holds(value),
            Test::AnyOf(tests) => return tests.iter().any(|test| test.holds(value)),
            Test::AllOf(tests) => return tests.iter().all(|test| test.holds(value)),
            _ => {}
        }
        let Some(value) = value else { return false };
        match self {
            Test::Exists => true,
            Test::Equals(text) => text == value,
            Test::Level(level) => Level::parse(value) == Some(*level),
            Test::Glob(regex) | Test::Regex(regex) => regex.is_match(value),
            Test::Contains(text) => value.contains(text.as_str()),
            Test::StartsWith(text) => value.starts_with(text.as_str()),
            Test::EndsWith(text) => value.ends_with(text.as_str()),
            Test::Cidr(net) => addr::parse_ip(value).is_some_and(|ip| net.contains(ip)),
            Test::Compare { limit, greater, equal } => number(value).is_some_and(|n| {
                if *greater {
                    n > *limit || (*equal && n == *limit)
                } else {
                    n < *limit || (*equal && n == *limit)
                }
            }),
            Test::Absent | Test::Not(_) | Test::AnyOf(_) | Test::AllOf(_) => false,
        }
    }

    /// Texts of which one must stand in the value.
    fn needles(&self) -> Option<Vec<String>> {
        match self {
            // A number may be spelt in several ways.
            Test::Equals(text) if text.parse::<f64>().is_err() && !text.contains(',') => {
                Some(vec![text.clone()])
            }
            // A list's text has commas that do not stand so in the line.
            Test::Contains(text) | Test::StartsWith(text) | Test::EndsWith(text) => {
                (!text.contains(',')).then(|| vec![text.clone()])
            }
            Test::AnyOf(tests) => {
                let all: Option<Vec<_>> = tests.iter().map(Test::needles).collect();
                all.map(|lists| lists.into_iter().flatten().collect())
                    .filter(|l: &Vec<_>| !l.is_empty())
            }
            Test::AllOf(tests) => tests.iter().find_map(Test::needles),
            _ => None,
        }
    }

    fn levels(&self) -> Option<Vec<Level>> {
        match self {
            Test::Level(level) => Some(vec![*level]),
            Test::AnyOf(tests) => {
                let all: Option<Vec<_>> = tests.iter().map(Test::levels).collect();
                all.map(|lists| lists.into_iter().flatten().collect())
            }
            Test::AllOf(tests) => tests.iter().find_map(Test::levels),
            _ => None,
        }
    }
}

/// A network, or a single address as a network of one, in the form in which addresses are compared:
/// IPv4 written as IPv6 is IPv4.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpNet>() {
        Ok(net) => Some(addr::canonical_net(net)),
        Err(_) => text.parse().ok().map(|ip| IpNet::from(addr::canonical(ip))),
    }
}

fn compile(checker: &mut Checker<'_>, node: &Node, source: &str) -> Option<Regex> {
    match Regex::new(source) {
        Ok(regex) => Some(regex),
        Err(error) => {
            let what = error.to_string();
            let last = what.lines().last().unwrap_or("not valid").trim().to_owned();
            checker.node(node, format!("no valid regular expression: {last}"), None);
            None
        }
    }
}

/// `*` any text, `?` one character; everything else stands for itself.
fn glob_regex(glob: &str) -> String {
    let mut out = String::from("(?s)^");
    for c in glob.chars() {
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            _ => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push('$');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Document;

    fn holds(filter: &str, fields: &[(&'static str, &'static str)]) -> bool {
        let document = Document { name: "t".into(), text: filter.into() };
        let mut checker = Checker::new(&document);
        let node = checker.parse().unwrap();
        let filter = Filter::parse(&mut checker, &node);
        assert!(checker.problems.is_empty(), "{:?}", checker.problems);
        filter.holds(&|name| {
            fields.iter().find(|(k, _)| *k == name.written).map(|(_, v)| Cow::Borrowed(*v))
        })
    }

    #[test]
    fn every_operator_holds_and_fails() {
        let fields = [
            ("logger", "security"),
            ("status", "401"),
            ("ip", "203.0.113.7"),
            ("path", "/a/b"),
            ("level", "ERR"),
        ];
        for (filter, expected) in [
            ("logger: [security, absent]", true),
            ("logger: absent", false),
            ("other: [x, absent]", true),
            ("other: exists", false),
            ("logger: exists", true),
            ("level: [ERROR, CRITICAL]", true),
            ("level: warning", false),
            ("status: 401", true),
            ("status: {not: 401}", false),
            ("status: {not: [200, 204]}", true),
            ("status: {'>': 400, '<': 500}", true),
            ("status: {'>=': 401}", true),
            ("status: {'<': 401}", false),
            ("ip: {cidr: 203.0.113.0/24}", true),
            ("ip: {cidr: [10.0.0.0/8, 192.168.0.0/16]}", false),
            ("path: {glob: '/a/*'}", true),
            ("path: {glob: '/?'}", false),
            ("path: {starts_with: /a}", true),
            ("path: {contains: x}", false),
            ("path: {regex: '^/a/[a-z]$'}", true),
            ("any: [{status: 500}, {logger: security}]", true),
            ("not: {logger: security}", false),
            ("other: {exists: false}", true),
        ] {
            assert_eq!(holds(filter, &fields), expected, "{filter}");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_nearest_word() {
        let document = Document {
            name: "t".into(),
            text: "path: {start_with: /a}\nlevel: eror_\nip: {cidr: 1.2.3}\n".into(),
        };
        let mut checker = Checker::new(&document);
        let node = checker.parse().unwrap();
        Filter::parse(&mut checker, &node);
        let shown: Vec<String> = checker.problems.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown[0].contains("did you mean `starts_with`?"));
        assert!(shown[1].contains("did you mean `error`?"));
    }
}
