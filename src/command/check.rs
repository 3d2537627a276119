//! `portcullis check`: every mistake in patterns, rules and configuration at once, the tests inside
//! them, and what has no test.

use super::{print, refuse, refuse_nothing, remote, say, settings_and_problems};
use crate::action::{Action, Op, identity};
use crate::assembly::Assembly;
use crate::cli::{Check, Common};
use crate::config::Settings;
use crate::decide::Decider;
use crate::decide::guard::{Allow, Allowed};
use crate::decide::line::Due;
use crate::decode::addr;
use crate::decode::fields::FieldName;
use crate::decode::time::{self, Micros};
use crate::decode::{Decoded, decode};
use crate::detect::condition::ActionKind;
use crate::detect::detector::StreamTime;
use crate::detect::rule::{KeyPart, Rule};
use crate::pack::{self, Pack};
use crate::pattern::event::Run;
use crate::pattern::prefilter::{Need, need};
use crate::pattern::set::Verdict;
use crate::pattern::spec::{Pattern, Reading};
use crate::pattern::{Event, EventIp, Events, PatternId, Standing};
use crate::serve::auth::Access;
use crate::sink::SinkConfig;
use crate::source::file;
use crate::telemetry::wall_clock;
use crate::yaml::{Checker, Document, Node, Problem};
use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// The moment at which the events of rule tests begin: 2025-01-01T00:00:00Z.
const TEST_START: Micros = 1_735_689_600_000_000;

/// Runs the command.
///
/// # Errors
/// When the configuration or a pattern file has mistakes.
pub fn check(common: &Common, check: &Check) -> Result<ExitCode> {
    let (mut configured, mut problems) = settings_and_problems(common)?;
    let mut packs = Vec::new();
    for path in yaml_files(&check.paths)? {
        match classify(&path) {
            Kind::Pack => packs.push(path),
            Kind::Config(document) => problems.extend(configured.apply(&document)),
        }
    }
    if !packs.is_empty() {
        configured.patterns = with_what_they_need(&configured.patterns, packs);
    }
    let assembly = match Assembly::new(&configured, &[]) {
        Ok(assembly) if problems.is_empty() => assembly,
        assembled => {
            problems.extend(assembled.err().into_iter().flatten());
            let (packs, _) = pack::load(&configured.patterns);
            let patterns =
                packs.iter().flat_map(|pack| pack.patterns.iter().map(move |p| (pack, p)));
            problems.extend(patterns.flat_map(|(pack, pattern)| incomplete(pack, pattern)));
            return Err(refuse(&problems));
        }
    };
    refuse_nothing(&assembly)?;
    let mut report = Report::of(&assembly, &configured.allow, common.verbose > 0);
    report.warnings.extend(missing_here(&configured, &assembly));
    Ok(report.print())
}

/// What sinks and the server need and this machine does not have: it may be another one that runs.
fn missing_here(settings: &Settings, assembly: &Assembly) -> Vec<String> {
    let away = |sink: &SinkConfig| remote(settings, assembly, sink).err();
    let sinks = settings.sinks.iter().filter(|sink| sink.is_remote()).filter_map(away);
    let of_sinks = sinks.map(|Problem { message, file, place, .. }| match place.line {
        0 => message,
        line => format!("{file}:{line}: {message}"),
    });
    let access = settings.serve.as_ref().map(Access::read);
    let of_tokens = access.and_then(Result::err);
    let starts_not = |why: String| format!("`run` would not start here: {why}");
    of_sinks.chain(of_tokens).map(starts_not).collect()
}

enum Kind {
    Pack,
    Config(Document),
}

fn classify(path: &str) -> Kind {
    let Ok(text) = std::fs::read_to_string(path) else { return Kind::Pack };
    let document = Document { name: path.to_owned(), text };
    let root = Checker::new(&document).parse();
    match root {
        Some(root)
            if !pack::is_pack(&root)
                && root.get("patterns").is_none_or(|p| p.as_map().is_none()) =>
        {
            Kind::Config(document)
        }
        // What is no YAML at all is told by whoever reads it next.
        _ => Kind::Pack,
    }
}

fn yaml_files(paths: &[String]) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for path in paths {
        if !Path::new(path).is_dir() {
            // The name of a built-in pack is as good as a path.
            if !pack::PACKS.iter().any(|(name, _)| name == path) {
                file::probe(Path::new(path)).context("error: nothing to check")?;
            }
            files.push(path.clone());
            continue;
        }
        let mut found: Vec<String> = std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
            .map(|p| p.display().to_string())
            .collect();
        found.sort();
        if found.is_empty() {
            bail!("error: nothing to check: {path}: the folder holds no .yaml or .yml file");
        }
        files.extend(found);
    }
    Ok(files)
}

/// Files of rules may speak of patterns that the configured packs declare.
fn with_what_they_need(configured: &[String], packs: Vec<String>) -> Vec<String> {
    let missing = |problem: &Problem| problem.message.contains("no loaded pattern is called");
    if pack::load(&packs).1.iter().any(missing) {
        configured
            .iter()
            .filter(|pack| !packs.contains(pack))
            .cloned()
            .chain(packs.clone())
            .collect()
    } else {
        packs
    }
}

/// What every pattern must have, and a run does without: a title and a test.
fn incomplete(pack: &Pack, pattern: &Pattern) -> Vec<Problem> {
    let mut checker = Checker::new(&pack.document);
    let width = pattern.name.len();
    if pattern.title.is_empty() {
        let message = format!("the pattern {} needs a `title`", pattern.name);
        checker.at(pattern.place, width, message, None);
    }
    if pattern.tests.is_empty() {
        let message = format!("the pattern {} needs at least one test", pattern.name);
        let help = "tests: [{ line: '...', gives: { ip: 203.0.113.7 } }]".to_owned();
        checker.at(pattern.place, width, message, Some(help));
    }
    checker.problems
}

#[derive(Default)]
struct Report {
    incomplete: Vec<Problem>,
    lines: Vec<String>,
    passed: usize,
    failed: usize,
    failures: Vec<Problem>,
    untested: Vec<String>,
    warnings: Vec<String>,
}

impl Report {
    fn of(assembly: &Assembly, allow: &[Allow], verbose: bool) -> Self {
        let mut report = Self::default();
        for pack in &assembly.packs {
            let before = report.passed + report.failed;
            for pattern in &pack.patterns {
                report.pattern(assembly, pack, pattern);
                if verbose {
                    report.lines.push(format!("  {}: {}", pattern.name, shown_need(pattern)));
                }
            }
            for rule in &pack.rules {
                // As the configuration has changed it; a rule that it switched off is not tested.
                let Some(active) = assembly.rules.iter().find(|active| active.id == rule.id) else {
                    report.lines.push(format!("  {}: switched off by the configuration", rule.id));
                    continue;
                };
                if active.when != rule.when || active.then != rule.then || active.mode != rule.mode
                {
                    report.lines.push(format!(
                        "  {}: changed by the configuration, its tests are run as the pack has it",
                        rule.id
                    ));
                }
                report.rule(assembly, pack, rule);
                report.warnings.extend(idle_escalation(active));
            }
            let tests = report.passed + report.failed - before;
            report.lines.push(format!(
                "{}: {} patterns, {} rules, {tests} tests",
                pack.document.name,
                pack.patterns.len(),
                pack.rules.len()
            ));
        }
        for rule in assembly.need_country() {
            report.warnings.push(format!(
                "rule {rule} is inactive unless records carry a country: `geoip` names no database"
            ));
        }
        report.warnings.extend(over_entries(allow, wall_clock()));
        report.warnings.extend(idle_entries(assembly, allow));
        report
    }

    fn print(self) -> ExitCode {
        for line in &self.lines {
            print(line);
        }
        for warning in &self.warnings {
            print(&format!("warning: {warning}"));
        }
        if !self.untested.is_empty() {
            print(&format!("without a test: {}", self.untested.join(", ")));
        }
        for problem in self.incomplete.iter().chain(&self.failures) {
            say(&format!("{problem}\n"));
        }
        print(&format!("{} tests passed, {} failed", self.passed, self.failed));
        ExitCode::from(u8::from(self.failed > 0 || !self.incomplete.is_empty()))
    }

    fn tested(&mut self, mut checker: Checker<'_>) {
        let passes = checker.problems.is_empty();
        self.passed += usize::from(passes);
        self.failed += usize::from(!passes);
        self.failures.append(&mut checker.problems);
    }

    fn pattern(&mut self, assembly: &Assembly, pack: &Pack, pattern: &Pattern) {
        for reading in &pattern.readings {
            if let Reading::Regex { greedy, .. } = reading
                && !greedy.as_str().starts_with('^')
            {
                self.warnings.push(format!(
                    "{}: its regex does not begin with ^, so text inside a message can match it",
                    pattern.name
                ));
            }
        }
        if pattern.tests.is_empty() {
            self.untested.push(format!("pattern {}", pattern.name));
        }
        self.incomplete.extend(incomplete(pack, pattern));
        for test in &pattern.tests {
            let mut checker = Checker::new(&pack.document);
            line_test(&mut checker, assembly, pattern, test);
            self.tested(checker);
        }
    }

    fn rule(&mut self, assembly: &Assembly, pack: &Pack, rule: &Rule) {
        if rule.tests.is_empty() {
            self.untested.push(format!("rule {}", rule.id));
        }
        for test in &rule.tests {
            let mut checker = Checker::new(&pack.document);
            rule_test(&mut checker, assembly, rule, test);
            self.tested(checker);
        }
    }
}

/// How an account may be spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Email,
    Id,
}

impl Spelling {
    /// Of an entry of the allowlist; none if it could be either.
    fn of(entry: &str) -> Option<Self> {
        let is_number = entry.bytes().all(|byte| byte.is_ascii_digit());
        match entry {
            _ if entry.contains('@') => Some(Self::Email),
            _ if is_number || identity::is_uuid(entry) => Some(Self::Id),
            _ => None,
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Email => "an e-mail address",
            Self::Id => "an id",
        }
    }

    fn field(self) -> &'static str {
        match self {
            Self::Email => "user",
            Self::Id => "user_id",
        }
    }
}

/// That a rule escalates nothing: each of its actions lasts as long already as any may.
fn idle_escalation(rule: &Rule) -> Option<String> {
    let up_to = rule.escalate.as_ref()?.up_to;
    let idle = rule.then.iter().all(|then| rule.duration(then) >= up_to);
    let shown = time::format_duration(up_to);
    idle.then(|| {
        format!(
            "rule {}: nothing of it is shorter than {shown}, so `escalate` changes nothing",
            rule.id
        )
    })
}

/// Entries of the allowlist whose time is over at `now`.
fn over_entries(allow: &[Allow], now: Micros) -> impl Iterator<Item = String> {
    allow.iter().filter_map(move |entry| {
        let until = entry.until.filter(|until| *until <= now)?;
        let who = match &entry.who {
            Allowed::Net(net) => net.to_string(),
            Allowed::User(name) | Allowed::Account(_, name) => name.clone(),
        };
        let until = time::format(until);
        Some(format!(
            "the allow entry {who} was for decisions before {until}: it protects from no later one"
        ))
    })
}

/// Entries of the allowlist that cannot protect from a rule, since it knows accounts by their other
/// spelling and nothing joins the two.
fn idle_entries(assembly: &Assembly, allow: &[Allow]) -> Vec<String> {
    let mut warnings = Vec::new();
    for entry in allow {
        let Allowed::User(user) = &entry.who else { continue };
        let Some(spelling) = Spelling::of(user) else { continue };
        if assembly.identities.knows(user) {
            continue;
        }
        for rule in &assembly.rules {
            let Some(given) = spelled_by(assembly, rule) else { continue };
            if given == spelling {
                continue;
            }
            let why = match assembly.identities.is_empty() {
                true => "`identities` would join the two",
                false => "`identities` does not have it",
            };
            warnings.push(format!(
                "the allow entry {user} is {}, and the rule {} knows accounts by {}: it does not \
                 protect from that rule; {why}",
                spelling.shown(),
                rule.id,
                given.field(),
            ));
        }
    }
    warnings
}

/// How the accounts against which a rule acts are spelled, if always in one way.
fn spelled_by(assembly: &Assembly, rule: &Rule) -> Option<Spelling> {
    if rule.then.iter().all(|then| then.action == ActionKind::Alert) {
        return None;
    }
    let by_id = KeyPart::Field("user_id".to_owned());
    if rule.per.contains(&by_id) {
        return Some(Spelling::Id);
    }
    if !rule.per.contains(&KeyPart::User) {
        return None;
    }
    let mut spelled = Vec::new();
    for name in &rule.on {
        let set = assembly.scanner.set.patterns();
        let Some(pattern) = set.iter().find(|pattern| pattern.name == *name) else { continue };
        spelled.extend(seen_in_tests(assembly, pattern));
    }
    let first = *spelled.first()?;
    spelled.iter().all(|one| *one == first).then_some(first)
}

/// How the account is spelled in each of a pattern's tests: what a rule `per: user` would take.
fn seen_in_tests(assembly: &Assembly, pattern: &Pattern) -> Vec<Spelling> {
    let set = &assembly.scanner.set;
    let id = set.id(&pattern.name);
    let mut spelled = Vec::new();
    for line in pattern.tests.iter().filter_map(|test| test.get("line")?.scalar()) {
        let Decoded::Records(records) = decode(line.as_bytes(), &assembly.scanner.decode) else {
            continue;
        };
        for record in &records {
            let mut events = Events::default();
            let matched = set.matches(record, &mut events);
            for event in events.of(matched.events).filter(|event| Some(event.pattern) == id) {
                let user = event.user().map(|_| Spelling::Email);
                spelled.extend(user.or(event.user_id().map(|_| Spelling::Id)));
            }
        }
    }
    spelled
}

fn shown_need(pattern: &Pattern) -> String {
    match need(pattern) {
        Need::Nothing => {
            "slow: every line must be decoded for it; give it literal text, or a level \
             above info"
                .to_owned()
        }
        Need::Texts(mut texts) => {
            texts.sort();
            texts.dedup();
            let texts: Vec<&str> = texts.iter().map(|text| text.trim()).collect();
            format!("fast: lines without {} are skipped", texts.join(" or "))
        }
        Need::Levels(levels) => {
            let names: Vec<String> = levels.iter().map(ToString::to_string).collect();
            format!("fast: lines without a spelling of {} are skipped", names.join(" or "))
        }
    }
}

const LINE_TEST_KEYS: [&str; 4] = ["name", "line", "gives", "outcome"];
const OUTCOMES: [(&str, &str); 5] = [
    ("matched", "matched"),
    ("unmatched", "unmatched"),
    ("near_miss", "near_miss"),
    ("ambiguous", "ambiguous"),
    ("conflict", "conflict"),
];

fn line_test(checker: &mut Checker<'_>, assembly: &Assembly, pattern: &Pattern, test: &Node) {
    checker.map(test, "a pattern's test", &LINE_TEST_KEYS);
    let Some(line) = test.get("line").and_then(|node| checker.text(node, "`line`")) else {
        checker.at(test.place, 1, "a pattern's test needs `line`", None);
        return;
    };
    let expected = match test.get("outcome") {
        Some(node) => checker.word(node, "`outcome`", &OUTCOMES).unwrap_or("matched"),
        None => "matched",
    };
    let set = &assembly.scanner.set;
    let id = set.id(&pattern.name);
    let records = match decode(line.as_bytes(), &assembly.scanner.decode) {
        Decoded::Records(records) => records,
        Decoded::Empty | Decoded::Partial => Vec::new(),
        Decoded::Unread(why, error) => {
            checker.at(
                test.place,
                1,
                format!("{}: the line cannot be read ({why}): {error}", pattern.name),
                None,
            );
            return;
        }
    };
    let mut seen = "unmatched";
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for record in &records {
        let mut events = Events::default();
        let matched = set.matches(record, &mut events);
        if id.is_some_and(|id| events.near_misses.contains(&id)) {
            seen = "near_miss";
        }
        let Some(event) = events.of(matched.events).find(|event| Some(event.pattern) == id) else {
            continue;
        };
        seen = match (matched.ambiguous, matched.conflict) {
            (true, _) => "ambiguous",
            (_, true) => "conflict",
            _ => "matched",
        };
        if let Verdict::Matches(captures) = set.verdict(pattern, record) {
            given.extend(captures.into_iter().filter_map(|(name, value)| Some((name, value?))));
        }
        for name in ["level", "logger", "status", "path", "method", "duration"] {
            given.extend(
                record
                    .lookup(&FieldName::new(name))
                    .map(|value| (name.to_owned(), value.into_owned())),
            );
        }
        for name in ["ip", "user", "user_id", "country", "request_id", "email"] {
            given.remove(name);
        }
        given.extend(event.ip.map(|ip| ("ip".to_owned(), ip.ip.to_string())));
        let texts = [
            ("user", event.user()),
            ("user_id", event.user_id()),
            ("country", event.country()),
            ("request_id", event.request_id()),
        ];
        given.extend(
            texts
                .iter()
                .filter_map(|(name, text)| Some((*name, (*text)?)))
                .map(|(name, text)| (name.to_owned(), text.to_owned())),
        );
        given.insert("weight".to_owned(), event.weight.to_string());
    }
    if seen != expected {
        let stop = records.first().map(|record| set.verdict(pattern, record));
        let help = match stop {
            Some(Verdict::MessageStops(stop)) => {
                Some(format!("at byte {} of the message, {} was expected", stop.at, stop.expected))
            }
            Some(Verdict::FieldDiffers(field)) => Some(format!("the field {field} differs")),
            _ => None,
        };
        checker.at(
            test.place,
            1,
            format!("{}: expected {expected}, found {seen}", pattern.name),
            help,
        );
        return;
    }
    for (key, node) in test.get("gives").and_then(Node::as_map).unwrap_or_default() {
        let Some(wanted) = node.scalar() else { continue };
        let found = given.get(&key.name).map_or("absent", String::as_str);
        if found != wanted {
            checker.key(
                key,
                format!("{}: expected {} = {wanted}, found {found}", pattern.name, key.name),
                None,
            );
        }
    }
}

const RULE_TEST_KEYS: [&str; 3] = ["name", "events", "expect"];
const EXPECT_KEYS: [&str; 8] = ["action", "target", "at", "op", "mode", "count", "guard", "until"];

fn rule_test(checker: &mut Checker<'_>, assembly: &Assembly, rule: &Rule, test: &Node) {
    checker.map(test, "a rule's test", &RULE_TEST_KEYS);
    let name = test.get("name").and_then(Node::scalar).unwrap_or_default();
    let Some(events) = test.get("events") else {
        checker.at(test.place, 1, format!("{}: a test needs `events`", rule.id), None);
        return;
    };
    let mut stream = Stream::default();
    for node in events.as_list() {
        test_events(checker, assembly, rule, node, &mut stream);
    }
    stream.times.sort_by_key(|(time, _)| *time);
    let actions = play(assembly, rule, &stream);
    let expected: Vec<&Node> = test.get("expect").map(Node::as_list).unwrap_or_default();
    let wants_ends =
        expected.iter().any(|node| node.get("op").and_then(Node::scalar).as_deref() == Some("end"));
    let actions: Vec<&Action> =
        actions.iter().filter(|action| wants_ends || action.op != Op::End).collect();
    for (index, node) in expected.iter().enumerate() {
        checker.map(node, "an expected action", &EXPECT_KEYS);
        match actions.get(index) {
            Some(action) => compare(checker, rule, node, action),
            None => checker.at(
                node.place,
                1,
                format!("{} ({name}): expected this action, but there is none", rule.id),
                None,
            ),
        }
    }
    for action in actions.iter().skip(expected.len()) {
        let after = time::format_duration(offset(&action.time));
        let shown = format!(
            "{} {} {} at {after}",
            action.op.name(),
            action.action,
            action.target.value.as_deref().unwrap_or("global")
        );
        checker.at(test.place, 1, format!("{} ({name}): not expected: {shown}", rule.id), None);
    }
}

/// The events of a test, with the time of each.
#[derive(Default)]
struct Stream {
    times: Vec<(Micros, Run)>,
    events: Events,
}

/// Plays events through one rule, as the beginning of a stream without learning.
fn play(assembly: &Assembly, rule: &Rule, stream: &Stream) -> Vec<Action> {
    let mut detector = assembly.detector(std::slice::from_ref(rule), 0);
    let mut decider: Decider = assembly.decider();
    let names = detector.key_names();
    for (at, run) in &stream.times {
        let time = StreamTime { clock: Some(*at), start: Some(TEST_START) };
        decider.advance(*at, &names);
        for event in stream.events.of(*run) {
            detector.observe(event, *at, time, &mut |firing| decider.fire(&firing, &names));
        }
    }
    std::mem::take(&mut decider.out).into_iter().map(Due::action).collect()
}

fn offset(text: &str) -> Micros {
    let at = time::parse(text, &time::Zone::default()).and_then(time::When::first);
    at.map_or(0, |at| at - TEST_START)
}

fn compare(checker: &mut Checker<'_>, rule: &Rule, node: &Node, action: &Action) {
    for (key, value) in node.as_map().unwrap_or_default() {
        let Some(wanted) = value.scalar() else { continue };
        let found = match key.name.as_str() {
            "action" => action.action.to_owned(),
            "target" => action.target.value.clone().unwrap_or_else(|| "global".to_owned()),
            "at" => time::format_duration(offset(&action.time)),
            "until" => time::format_duration(action.until.as_deref().map_or(0, offset)),
            "op" => action.op.name().to_owned(),
            "mode" => action.mode.to_owned(),
            "count" => action.count.map(|n| n.to_string()).unwrap_or_default(),
            "guard" => action.guard.unwrap_or_default().to_owned(),
            _ => continue,
        };
        let same = match key.name.as_str() {
            "at" | "until" => {
                time::parse_duration(&wanted).map(time::format_duration).as_deref() == Some(&found)
            }
            _ => found == wanted,
        };
        if !same {
            checker.node(
                value,
                format!("{}: expected {} {wanted}, found {found}", rule.id, key.name),
                None,
            );
        }
    }
    if node.get("op").is_none() && action.op != Op::Start {
        checker.at(
            node.place,
            1,
            format!("{}: expected a start, found op {}", rule.id, action.op.name()),
            None,
        );
    }
}

/// The events of one entry: `repeat` of them, `every` so far apart, from `at` on.
fn test_events(
    checker: &mut Checker<'_>,
    assembly: &Assembly,
    rule: &Rule,
    node: &Node,
    out: &mut Stream,
) {
    let duration = |checker: &mut Checker<'_>, name: &str| match node.get(name) {
        Some(value) => checker.duration(value, &format!("`{name}`"), 0).unwrap_or(0),
        None => 0,
    };
    let at = duration(checker, "at");
    let every = duration(checker, "every");
    let repeat = match node.get("repeat") {
        Some(value) => checker.int(value, "`repeat`", 1..=1_000_000).unwrap_or(1),
        None => 1,
    };
    let name = node
        .get("pattern")
        .and_then(Node::scalar)
        .or_else(|| rule.on.first().cloned())
        .unwrap_or_default();
    let Some(id) = assembly.scanner.set.id(&name) else {
        checker.node(
            node.get("pattern").unwrap_or(node),
            format!("no loaded pattern is called `{name}`"),
            None,
        );
        return;
    };
    let control = ["at", "every", "repeat", "pattern", "values"];
    let own = node
        .as_map()
        .unwrap_or_default()
        .iter()
        .filter(|(key, _)| !control.contains(&key.name.as_str()));
    let nested = node.get("values").and_then(Node::as_map).unwrap_or_default().iter();
    let fields: Vec<(String, String)> = own
        .chain(nested)
        .filter_map(|(key, value)| Some((key.name.clone(), value.scalar()?)))
        .collect();
    for n in 0..repeat {
        let number = (n + 1).to_string();
        let fields: Vec<(String, String)> =
            fields.iter().map(|(k, v)| (k.clone(), v.replace("{n}", &number))).collect();
        let time = TEST_START + at + every * n;
        let first = out.events.list.len();
        test_event(assembly, rule, id, &fields, &mut out.events);
        out.times.push((time, Run::between(first, out.events.list.len())));
    }
}

fn test_event(
    assembly: &Assembly,
    rule: &Rule,
    id: PatternId,
    fields: &[(String, String)],
    out: &mut Events,
) {
    let set = &assembly.scanner.set;
    let of =
        |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let user = of("user").or_else(|| of("email")).and_then(addr::normalize_user);
    let user_id = of("user_id").and_then(|text| addr::canonical_id(text, false));
    let lookup = |name: &FieldName| of(&name.written).map(Cow::Borrowed);
    let number = assembly.rules.iter().position(|known| known.id == rule.id);
    let mut narrowed = set.narrowed(id, &lookup);
    let counts = number.is_some_and(|number| narrowed.any(|n| usize::from(n) == number));
    let texts = &mut out.texts;
    let counted = (0u16..).zip(set.counted());
    let event = Event {
        pattern: id,
        weight: of("weight").and_then(|n| n.parse().ok()).unwrap_or(1),
        ip: of("ip").and_then(addr::parse_ip).map(|ip| EventIp { ip, standing: Standing::Good }),
        user: user.and_then(|user| texts.put(&user)),
        user_id: user_id.and_then(|id| texts.put(&id)),
        country: of("country").and_then(|country| texts.put(&country.to_uppercase())),
        reason: of("reason").and_then(|reason| texts.put(reason)),
        request_id: of("request_id").and_then(|id| texts.put(id)),
        values: texts.put_values(counted.filter_map(|(slot, name)| Some((slot, of(name)?)))),
        rules: texts.put_rules(counts.then_some(0).into_iter()),
    };
    out.list.push(event);
}
