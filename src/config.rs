//! Settings: as written (YAML, environment, flags) and as checked.
//!
//! Defaults < file < `PORTCULLIS_*` environment < flags. The file and each variable are documents
//! of [`crate::yaml`], applied one after the other, so a mistake in a variable is told with the
//! same care as one in the file.

use crate::decide::guard::{Allow, Allowed, Brakes};
use crate::decode::addr;
use crate::decode::fields::Role;
use crate::decode::time::{self, Micros, When, Zone};
use crate::detect::condition::Limit;
use crate::detect::rule::{self, Mode, Rule};
use crate::engine::scan::Dedupe;
use crate::kafka::{self, Side};
use crate::pack::DEFAULT_PACKS;
use crate::pattern::filter::parse_net;
use crate::serve::{PORT_VARIABLE, ServeConfig};
use crate::sink::file::SameFile;
use crate::sink::{Output, SinkConfig};
use crate::source::kafka::{From, KafkaSettings};
use crate::source::railway::RailwaySettings;
use crate::yaml::{Checker, Document, Key, Kind, Node, Place, Problem, nearest};
use ipnet::IpNet;
use std::path::PathBuf;

/// The example with every key, its default, unit and range; `portcullis config --example` prints it.
pub const EXAMPLE: &str = include_str!("../portcullis.example.yaml");

/// Where lines come from, if the configuration says so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SourceSpec {
    /// Standard input.
    #[default]
    Stdin,
    /// Files, perhaps followed.
    Files {
        /// Paths and globs.
        files: Vec<String>,
        /// Wait for more.
        follow: bool,
        /// Begin at the end of what is there.
        from_end: bool,
    },
    /// Topics of a Kafka cluster.
    Kafka(Box<KafkaSettings>),
    /// The logs of a Railway environment.
    Railway(Box<RailwaySettings>),
}

/// A change to a pack's rule.
#[derive(Debug, Clone)]
pub struct Override {
    id: String,
    node: Node,
    document: Document,
    place: Place,
}

/// Settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configuration file, if there is one.
    pub file: Option<String>,
    /// Packs by name or path.
    pub patterns: Vec<String>,
    /// Where packs and files that are read at the start are named, for what is wrong with one as a whole.
    pub named_at: Vec<(String, Problem)>,
    /// Where lines come from.
    pub source: SourceSpec,
    /// `source.kafka.from` as it was written: a time without a zone is one of `timezone`.
    pub kafka_from: Option<String>,
    /// How late a record may be, microseconds.
    pub lateness: Micros,
    /// How far ahead of the clock a record may be, microseconds.
    pub max_ahead: Micros,
    /// How long a record is remembered that may come again, microseconds; none: not at all.
    pub dedupe: Option<Micros>,
    /// That was said: it holds for all records, not only for those of Railway's shapes.
    pub dedupe_said: bool,
    /// The zone of times that name none.
    pub timezone: Zone,
    /// The year of the first time that names none.
    pub year: Option<i32>,
    /// Threads that decode and match.
    pub threads: usize,
    /// Longest line, bytes.
    pub max_line: usize,
    /// Ceiling of the whole program, bytes; held by counting what its state takes.
    pub memory_limit: usize,
    /// Proxies whose word about an address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// Bits of an IPv6 address that make a key.
    pub ipv6_prefix: u8,
    /// A MaxMind-format database.
    pub geoip: Option<PathBuf>,
    /// Names of fields that come before the well-known ones.
    pub fields: Vec<(Role, Vec<String>)>,
    /// Shadow for everything, or each rule's own mode.
    pub mode: Mode,
    /// Private ranges are never blocked.
    pub never_private: bool,
    /// 100.64.0.0/10 is never blocked.
    pub never_cgnat: bool,
    /// Further ranges that are never blocked.
    pub never_extra: Vec<IpNet>,
    /// The allowlist.
    pub allow: Vec<Allow>,
    /// The brakes.
    pub brakes: Brakes,
    /// How long baselines only learn, microseconds.
    pub learn: Micros,
    /// Put before a rule's `#anchor`.
    pub runbook_url: Option<String>,
    /// For locks of rules without a limit of their own.
    pub max_locks: Option<Limit>,
    /// Changes to rules.
    pub overrides: Vec<Override>,
    /// Where actions go.
    pub sinks: Vec<SinkConfig>,
    /// Bytes read at once.
    pub block: usize,
    /// Where state is kept that outlives the process.
    pub state_dir: Option<PathBuf>,
    /// Where that was said, for what is found to be wrong with it at the start.
    pub state_dir_at: Option<Problem>,
    /// Time between two snapshots of it at least, microseconds.
    pub checkpoint: Micros,
    /// `mode: enforce` is written somewhere: sinks that change the world may.
    pub armed: bool,
    /// The HTTP server.
    pub serve: Option<ServeConfig>,
    /// A file with the ids and e-mail addresses of accounts.
    pub identities: Option<PathBuf>,
    /// The names in `notify` and the sinks that they mean.
    pub receivers: Vec<(String, Vec<String>)>,
    /// Where that is written, for what can be said only when all sinks are known.
    pub receivers_from: Option<(Document, Node)>,
}

impl Default for Settings {
    fn default() -> Self {
        const SECOND: Micros = 1_000_000;
        Self {
            file: None,
            patterns: DEFAULT_PACKS.iter().map(|pack| (*pack).to_owned()).collect(),
            named_at: Vec::new(),
            source: SourceSpec::default(),
            kafka_from: None,
            lateness: 60 * SECOND,
            max_ahead: 86_400 * SECOND,
            dedupe: Some(600 * SECOND),
            dedupe_said: false,
            timezone: Zone::default(),
            year: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            max_line: 1 << 20,
            memory_limit: 1 << 30,
            trusted_proxies: Vec::new(),
            ipv6_prefix: 64,
            geoip: None,
            fields: Vec::new(),
            mode: Mode::Enforce,
            never_private: true,
            never_cgnat: true,
            never_extra: Vec::new(),
            allow: Vec::new(),
            brakes: Brakes::default(),
            learn: 86_400 * SECOND,
            runbook_url: None,
            max_locks: None,
            overrides: Vec::new(),
            sinks: vec![SinkConfig::Stdout { output: None }],
            block: 1 << 18,
            state_dir: None,
            state_dir_at: None,
            checkpoint: 5 * SECOND,
            armed: false,
            serve: None,
            identities: None,
            receivers: Vec::new(),
            receivers_from: None,
        }
    }
}

/// More threads than this only wait for each other.
pub const THREADS_MAX: usize = 64;

/// The keys that can be used.
pub const KEYS: [&str; 29] = [
    "patterns",
    "source",
    "lateness",
    "max_ahead",
    "dedupe",
    "timezone",
    "year",
    "threads",
    "max_line",
    "memory_limit",
    "trusted_proxies",
    "ipv6_prefix",
    "geoip",
    "fields",
    "mode",
    "never_block",
    "allow",
    "brakes",
    "learn",
    "runbook_url",
    "max_locks_per_user",
    "rules",
    "sinks",
    "block",
    "state_dir",
    "checkpoint",
    "serve",
    "identities",
    "receivers",
];

/// The name of the variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "PORTCULLIS_CONFIG";

/// The variables that say how to reach a running Portcullis; they are no settings of its own.
pub const CLIENT_VARIABLES: [&str; 2] = ["PORTCULLIS_URL", "PORTCULLIS_TOKEN"];
const PREFIX: &str = "PORTCULLIS_";

impl Settings {
    /// Applies a document: the file, or a variable of the environment.
    pub fn apply(&mut self, document: &Document) -> Vec<Problem> {
        self.apply_as(document, false)
    }

    /// The same; `amends`: of the source, it changes the keys that it has and leaves the others.
    fn apply_as(&mut self, document: &Document, amends: bool) -> Vec<Problem> {
        let mut checker = Checker::new(document);
        if let Some(root) = checker.parse() {
            self.apply_root(&mut checker, &root, amends);
        }
        checker.problems.into_iter().map(|problem| unseen(problem, document)).collect()
    }

    /// Applies the variables that begin with `PORTCULLIS_`; `__` stands for nesting. `PORT` says
    /// where `serve` listens, if nothing else does.
    pub fn apply_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let (mut sorted, mut port) = (Vec::new(), None);
        for (name, value) in variables {
            if name == PORT_VARIABLE {
                port = Some(value);
            } else if is_setting(&name) {
                sorted.push((name, value));
            }
        }
        sorted.sort();
        for (name, value) in sorted {
            let path = name[PREFIX.len()..].to_lowercase();
            let keys: Vec<&str> = path.split("__").collect();
            let indent = |depth: usize| "  ".repeat(depth);
            let mut text = String::new();
            for (depth, key) in keys.iter().enumerate() {
                if depth > 0 {
                    text.push('\n');
                }
                text.push_str(&format!("{}{key}:", indent(depth)));
            }
            text.push_str(&format!(" {value}\n"));
            let document = Document { name: format!("environment variable {name}"), text };
            // A value under a wrong name may be a secret: it is cut off behind the caret.
            problems.extend(self.apply_as(&document, keys.len() > 1).into_iter().map(|problem| {
                let shown = problem.place.column.saturating_sub(1) + problem.width;
                Problem { excerpt: problem.excerpt.chars().take(shown).collect(), ..problem }
            }));
        }
        if let (Some(serve), Some(port)) = (&mut self.serve, port) {
            problems.extend(serve.listen_at(&port));
        }
        problems
    }

    fn apply_root(&mut self, checker: &mut Checker<'_>, root: &Node, amends: bool) {
        let members = checker.map(root, "the configuration", &KEYS);
        for (key, value) in members {
            match key.name.as_str() {
                "serve" => {
                    self.serve = ServeConfig::parse(checker, key, value, self.serve.take());
                }
                "source" => self.source(checker, value, amends),
                name => self.apply_key(checker, name, value),
            }
        }
    }

    fn names(&mut self, checker: &Checker<'_>, value: &Node) {
        let named = |node: &Node| Some((node.scalar()?, checker.later(node)));
        self.named_at.extend(value.as_list().into_iter().filter_map(named));
    }

    /// What is wrong with a sink, told where it is configured.
    pub fn of_sink(&self, sink: &SinkConfig, what: &str) -> Problem {
        let name = sink.name();
        let message = format!("sink {name}: {what}");
        let at = self.named_at.iter().rfind(|(known, _)| *known == name);
        match at {
            // Where it stands and what it is: a line may hold the password of this sink, or of the one before it.
            Some((_, at)) => {
                let kind = name.split(' ').next().unwrap_or_default();
                shown_only(Problem { message, ..at.clone() }, kind)
            }
            None => Problem::whole(&name, message),
        }
    }

    /// What is wrong with a file as a whole, told where it is named.
    pub fn where_named(&self, problem: Problem) -> Problem {
        let named = |(name, _): &&(String, Problem)| *name == problem.file;
        match self.named_at.iter().rfind(named) {
            Some((_, at)) if problem.place.line == 0 => {
                Problem { message: problem.message, help: problem.help, ..at.clone() }
            }
            _ => problem,
        }
    }

    fn apply_key(&mut self, checker: &mut Checker<'_>, key: &str, value: &Node) {
        let what = format!("`{key}`");
        match key {
            "patterns" => {
                self.patterns = checker.texts(value, &what);
                self.names(checker, value);
            }
            "lateness" => set(&mut self.lateness, checker.duration(value, &what, 0)),
            "max_ahead" => set(&mut self.max_ahead, checker.duration(value, &what, 60_000_000)),
            "dedupe" => self.dedupe(checker, value, &what),
            "learn" => set(&mut self.learn, checker.duration(value, &what, 0)),
            "timezone" => {
                if let Some(text) = checker.text(value, &what) {
                    match text.parse() {
                        Ok(zone) => self.timezone = zone,
                        Err(error) => checker.node(
                            value,
                            format!("{what}: {error}"),
                            Some("for example UTC, +02:00 or Europe/Berlin".into()),
                        ),
                    }
                }
            }
            "year" => {
                self.year =
                    checker.int(value, &what, 1970..=2200).and_then(|n| i32::try_from(n).ok());
            }
            "threads" => set(
                &mut self.threads,
                checker.int(value, &what, 1..=64).and_then(|n| usize::try_from(n).ok()),
            ),
            "max_line" => set(&mut self.max_line, size(checker, value, &what, 256, 1 << 30)),
            "memory_limit" => {
                set(&mut self.memory_limit, size(checker, value, &what, 1 << 20, 1 << 40));
            }
            "block" => set(&mut self.block, size(checker, value, &what, 1, 1 << 26)),
            "trusted_proxies" => self.trusted_proxies = nets(checker, value, &what),
            "ipv6_prefix" => set(
                &mut self.ipv6_prefix,
                checker.int(value, &what, 16..=128).and_then(|n| u8::try_from(n).ok()),
            ),
            "state_dir" => self.state_dir(checker, value),
            "checkpoint" => set(&mut self.checkpoint, checker.duration(value, &what, 1_000_000)),
            "geoip" => {
                self.geoip = checker.text(value, &what).map(PathBuf::from);
                self.names(checker, value);
            }
            "fields" => self.field_names(checker, value),
            "mode" => {
                set(&mut self.mode, checker.word(value, &what, &rule::MODES));
                self.armed = self.mode == Mode::Enforce;
            }
            "identities" => {
                self.identities = checker.text(value, &what).map(PathBuf::from);
                self.names(checker, value);
            }
            "receivers" => self.receivers(checker, value),
            "never_block" => self.never_block(checker, value),
            "allow" => {
                self.allow =
                    value.as_list().into_iter().filter_map(|entry| allow(checker, entry)).collect();
            }
            "brakes" => self.brakes(checker, value),
            "runbook_url" => self.runbook_url = checker.text(value, &what),
            "max_locks_per_user" => self.max_locks = rule::limit(checker, value),
            "rules" => self.rules(checker, value),
            "sinks" => self.sinks(checker, value),
            _ => {}
        }
    }

    /// `dedupe`, at the top or of standard input.
    fn dedupe(&mut self, checker: &mut Checker<'_>, value: &Node, what: &str) {
        if value.is_off() {
            self.dedupe = None;
        } else if let Some(within) = checker.duration(value, what, 1_000_000) {
            (self.dedupe, self.dedupe_said) = (Some(within), true);
        }
    }

    /// Which records are known again when they come once more.
    pub fn dedupes(&self) -> Dedupe {
        match self.dedupe {
            None => Dedupe::Off,
            Some(_) if self.dedupe_said => Dedupe::All,
            Some(_) => match self.source {
                // Reading there overlaps.
                SourceSpec::Railway(_) => Dedupe::All,
                // What is read again there is known by its place.
                SourceSpec::Files { follow: true, .. } | SourceSpec::Kafka(_) => Dedupe::Off,
                SourceSpec::Stdin | SourceSpec::Files { .. } => Dedupe::Railway,
            },
        }
    }

    /// What is read has places, whatever `source` says: flags chose it.
    pub fn has_places(&mut self) {
        if !self.dedupe_said {
            self.dedupe = None;
        }
    }

    fn rules(&mut self, checker: &mut Checker<'_>, value: &Node) {
        let document = Document { name: checker.name().to_owned(), text: String::new() };
        let document = Document { text: checker.source_text().to_owned(), ..document };
        for (key, node) in value.as_map().unwrap_or_default() {
            self.overrides.push(Override {
                id: key.name.clone(),
                node: node.clone(),
                document: document.clone(),
                place: key.place,
            });
        }
        if value.as_map().is_none() && value.kind != Kind::Null {
            checker.node(
                value,
                "`rules` must be a map from a rule's id to what changes",
                Some("rules of your own go into a pattern file".into()),
            );
        }
    }

    fn sinks(&mut self, checker: &mut Checker<'_>, value: &Node) {
        if value.as_list().is_empty() {
            checker.node(
                value,
                "`sinks` names none, so nobody would be told of an attack",
                Some("take it out for standard output, or write  - stdout: {}".into()),
            );
        }
        refuse_one_file_twice(checker, &value.as_list());
        self.sinks = value
            .as_list()
            .into_iter()
            .filter_map(|node| SinkConfig::parse(checker, node))
            .collect();
        // How far each is stands under its name. Files are compared by what they are, above.
        let mut known: Vec<String> = Vec::new();
        for (sink, node) in self.sinks.iter().zip(value.as_list()) {
            let name = sink.name();
            if known.contains(&name) && !matches!(sink, SinkConfig::File { .. }) {
                let help = match sink {
                    SinkConfig::Command(_) => "a script of another name can call the program too",
                    SinkConfig::Nftables(_) => "two differ by `table` or `netns`",
                    sink if sink.is_remote() => "give each a `name` of its own",
                    _ => "one is enough",
                };
                checker.node(node, format!("two sinks are called `{name}`"), Some(help.into()));
            }
            self.named_at.push((name.clone(), checker.later(node)));
            known.push(name);
        }
    }

    fn state_dir(&mut self, checker: &mut Checker<'_>, value: &Node) {
        let text = value.scalar().filter(|text| !text.trim().is_empty());
        if text.is_none() && !matches!(value.kind, Kind::List(_) | Kind::Map(_)) {
            let help = "for example ./state; without it, everything is held in memory";
            checker.node(value, "`state_dir` names no directory", Some(help.into()));
            return;
        }
        self.state_dir = checker.text(value, "`state_dir`").map(PathBuf::from);
        self.state_dir_at = Some(checker.later(value));
    }

    fn source(&mut self, checker: &mut Checker<'_>, value: &Node, amends: bool) {
        let before = std::mem::replace(&mut self.source, SourceSpec::Stdin);
        let before = if amends { before } else { SourceSpec::Stdin };
        let members = checker.map(
            value,
            "`source`",
            &["stdin", "files", "follow", "from", "kafka", "railway"],
        );
        let whole = |key: &Key| matches!(key.name.as_str(), "kafka" | "railway");
        if let Some((key, value)) = members.iter().find(|(key, _)| whole(key)) {
            let name = key.name.as_str();
            for (other, _) in members.iter().filter(|(other, _)| other.name != name) {
                checker.key(
                    other,
                    format!("`source` has both `{name}` and `{}`", other.name),
                    Some(format!(
                        "one source is read; the keys of {name} stand inside `{name}: {{ }}`"
                    )),
                );
            }
            if name == "railway" {
                let base = match before {
                    SourceSpec::Railway(settings) => *settings,
                    _ => RailwaySettings::default(),
                };
                let settings = RailwaySettings::parse(checker, value, base);
                self.source = SourceSpec::Railway(Box::new(settings));
                return;
            }
            let (base, from) = match before {
                SourceSpec::Kafka(settings) => (*settings, self.kafka_from.take()),
                _ => (KafkaSettings::default(), None),
            };
            let settings = kafka_source(checker, key, value, base);
            self.kafka_from = value.get("from").and_then(Node::scalar).or(from);
            self.source = SourceSpec::Kafka(Box::new(settings));
            return;
        }
        let (mut files, mut follow, mut from_end) = match before {
            SourceSpec::Files { files, follow, from_end } => (files, follow, from_end),
            _ => (Vec::new(), false, false),
        };
        for (key, value) in members {
            match key.name.as_str() {
                "files" => files = checker.texts(value, "`source.files`"),
                "follow" => follow = checker.bool(value, "`source.follow`").unwrap_or(false),
                "from" => {
                    from_end = checker
                        .word(value, "`source.from`", &[("beginning", false), ("end", true)])
                        .unwrap_or(false);
                }
                _ => {}
            }
        }
        if let Some((_, value)) = members.iter().find(|(key, _)| key.name == "stdin") {
            for (_, value) in checker.map(value, "`source.stdin`", &["dedupe"]) {
                self.dedupe(checker, value, "`source.stdin.dedupe`");
            }
        }
        let key = |name: &str| members.iter().find(|(key, _)| key.name == name).map(|(key, _)| key);
        match (key("files"), key("stdin")) {
            (Some(key), _) if files.is_empty() => checker.key(
                key,
                "`source.files` names no file",
                Some(
                    "for example files: [logs/*.jsonl]; without files, standard input is read"
                        .into(),
                ),
            ),
            (Some(_), Some(key)) => checker.key(
                key,
                "`source` has both `stdin` and `files`",
                Some("one source is read: take one of them out".into()),
            ),
            (None, _) if files.is_empty() => {
                for key in [key("follow"), key("from")].into_iter().flatten() {
                    checker.key(
                        key,
                        format!("`source.{}` is about files, and `source` has none", key.name),
                        Some("for example files: [logs/*.jsonl]".into()),
                    );
                }
            }
            _ => {}
        }
        if let (false, false, Some(key)) = (files.is_empty(), follow, key("from")) {
            checker.key(
                key,
                "`source.from` is about files that are followed",
                Some(
                    "add `follow: true` or take it out; files are read from their beginning".into(),
                ),
            );
        }
        self.source = if files.is_empty() {
            SourceSpec::Stdin
        } else {
            SourceSpec::Files { files, follow, from_end }
        };
    }

    fn never_block(&mut self, checker: &mut Checker<'_>, value: &Node) {
        for (key, value) in checker.map(value, "`never_block`", &["private", "cgnat", "extra"]) {
            let what = format!("`never_block.{}`", key.name);
            match key.name.as_str() {
                "private" => set(&mut self.never_private, checker.bool(value, &what)),
                "cgnat" => set(&mut self.never_cgnat, checker.bool(value, &what)),
                "extra" => self.never_extra = nets(checker, value, &what),
                _ => {}
            }
        }
    }

    fn receivers(&mut self, checker: &mut Checker<'_>, value: &Node) {
        self.receivers.clear();
        if value.as_map().is_none() {
            let message = format!("`receivers` must be a map, not {}", value.kind_name());
            let help = "for example receivers: { security_team: [webhook] }".to_owned();
            checker.at(value.place, 1, message, Some(help));
        }
        for (key, value) in value.as_map().unwrap_or_default() {
            let what = format!("`receivers.{}`", key.name);
            let names = checker.texts(value, &what);
            if names.is_empty() {
                let help = "take it out; then `portcullis run` says whom nobody hears".to_owned();
                checker.key(key, format!("{what} names no sink"), Some(help));
            }
            self.receivers.push((key.name.clone(), names));
        }
        let document =
            Document { name: checker.name().to_owned(), text: checker.source_text().to_owned() };
        self.receivers_from = Some((document, value.clone()));
    }

    /// What is wrong in `receivers`; to be asked when all is read, since sinks may stand behind it.
    pub fn check_receivers(&self) -> Vec<Problem> {
        let Some((document, node)) = &self.receivers_from else { return Vec::new() };
        let mut checker = Checker::new(document);
        let names = |tells: bool| {
            let of = self.sinks.iter().filter(move |sink| sink.tells() == tells);
            of.map(SinkConfig::receiver).collect::<Vec<String>>()
        };
        let (tellers, others) = (names(true), names(false));
        let known: Vec<&str> = tellers.iter().map(String::as_str).collect();
        for (key, value) in node.as_map().unwrap_or_default() {
            for item in value.as_list() {
                let Some(name) = item.scalar() else { continue };
                if known.contains(&name.as_str()) {
                    continue;
                }
                let what = format!("`receivers.{}`", key.name);
                if others.contains(&name) {
                    let message = format!("{what}: the sink `{name}` tells nobody in particular");
                    let help = "it takes every line that it can use, without being named";
                    checker.node(item, message, Some(help.into()));
                    continue;
                }
                let help = nearest(&name, &known).map_or_else(
                    || match &known[..] {
                        [] => {
                            "`sinks` has none that tells somebody, like webhook or mail".to_owned()
                        }
                        _ => format!("sinks that tell somebody: {}", known.join(", ")),
                    },
                    |near| format!("did you mean `{near}`?"),
                );
                checker.node(item, format!("{what}: no sink is called `{name}`"), Some(help));
            }
        }
        checker.problems
    }

    /// The names in `notify` for which a sink is a receiver; none if it takes all lines, because
    /// `receivers` is not there.
    pub fn receives(&self, sink: &SinkConfig) -> Option<Vec<String>> {
        if self.receivers.is_empty() {
            return None;
        }
        let own = sink.receiver();
        let mine = self.receivers.iter().filter(|(_, sinks)| sinks.contains(&own));
        Some(mine.map(|(name, _)| name.clone()).collect())
    }

    fn field_names(&mut self, checker: &mut Checker<'_>, value: &Node) {
        let roles: Vec<&str> = Role::ALL.iter().map(|(_, name)| *name).collect();
        for (key, value) in checker.map(value, "`fields`", &roles) {
            if let Some(role) = Role::named(&key.name) {
                let names = checker.texts(value, &format!("`fields.{}`", key.name));
                self.fields.retain(|(known, _)| *known != role);
                self.fields.push((role, names));
            }
        }
    }

    fn brakes(&mut self, checker: &mut Checker<'_>, value: &Node) {
        let keys = [
            "max_blocks_per_minute",
            "max_locks_per_minute",
            "max_2fa_per_minute",
            "max_under_attack_per_minute",
        ];
        for (key, value) in checker.map(value, "`brakes`", &keys) {
            let what = format!("`brakes.{}`", key.name);
            let limit = if value.is_off() {
                None
            } else {
                match (&value.kind, checker.int(value, &what, 1..=1_000_000)) {
                    (_, Some(n)) => u32::try_from(n).ok(),
                    (kind, None) => {
                        if let Some(problem) = checker.problems.last_mut() {
                            let help = match kind {
                                Kind::Int(0) => {
                                    "`off` takes the brake away; with `mode: shadow` nothing new is enforced"
                                }
                                _ => "a number, or `off` for no brake",
                            };
                            problem.help = Some(help.into());
                        }
                        continue;
                    }
                }
            };
            match key.name.as_str() {
                "max_blocks_per_minute" => self.brakes.blocks = limit,
                "max_locks_per_minute" => self.brakes.locks = limit,
                "max_2fa_per_minute" => self.brakes.require_2fa = limit,
                _ => self.brakes.under_attack = limit,
            }
        }
    }

    /// Applies the configuration's changes to the loaded rules.
    pub fn change_rules(&self, rules: &mut Vec<Rule>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for change in &self.overrides {
            let mut checker = Checker::new(&change.document);
            let ids: Vec<String> = rules.iter().map(|rule| rule.id.clone()).collect();
            let Some(index) = ids.iter().position(|id| *id == change.id) else {
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                let help = nearest(&change.id, &ids).map_or_else(
                    || format!("loaded rules: {}", ids.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                checker.at(
                    change.place,
                    change.id.len(),
                    format!("no loaded rule is called `{}`", change.id),
                    Some(help),
                );
                problems.append(&mut checker.problems);
                continue;
            };
            if change.node.is_off() {
                rules.remove(index);
                continue;
            }
            let Some(rule) = rules.get_mut(index) else { continue };
            let what = format!("a change to the rule {}", change.id);
            for (key, value) in checker.map(&change.node, &what, &rule::OVERRIDE_KEYS) {
                rule::apply(&mut checker, rule, &key.name, value);
            }
            rule::check_fit(&mut checker, &change.node, rule);
            problems.append(&mut checker.problems);
        }
        problems
    }
}

/// Refuses sinks that would write into each other's lines, by whatever names.
fn refuse_one_file_twice(checker: &mut Checker<'_>, sinks: &[&Node]) {
    let mut known: Vec<(SameFile, String, Place)> = Vec::new();
    for sink in sinks {
        let path = sink.get("file").and_then(|options| options.get("path"));
        let Some((node, path)) = path.and_then(|node| Some((node, node.scalar()?))) else {
            continue;
        };
        let file = SameFile::of(&path);
        match known.iter().find(|(other, ..)| *other == file) {
            Some((_, other, at)) => {
                let Place { line, column } = at;
                checker.node(
                    node,
                    format!(
                        "`{path}` is the file of another sink: `{other}` in line {line}, column {column}"
                    ),
                    Some("each sink needs a file of its own; take one of them out".into()),
                );
            }
            None => known.push((file, path, node.place)),
        }
    }
}

/// What Kubernetes puts into every container when a service is called portcullis.
fn is_service_link(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest == "PORT"
            || rest.starts_with("SERVICE_HOST")
            || rest.starts_with("SERVICE_PORT")
            || rest
                .strip_prefix("PORT_")
                .is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Whether a variable of the environment is a setting.
fn is_setting(name: &str) -> bool {
    name.starts_with(PREFIX)
        && name != CONFIG_VARIABLE
        && !is_service_link(name)
        && !CLIENT_VARIABLES.contains(&name)
}

fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

/// The keys of `source.kafka`.
const KAFKA_KEYS: [&str; 10] = [
    "brokers",
    "topics",
    "group",
    "instance_id",
    "from",
    "properties",
    "oauth_token",
    "dead_letter",
    "idle_after",
    "reorder",
];

fn kafka_source(
    checker: &mut Checker<'_>,
    key: &Key,
    value: &Node,
    base: KafkaSettings,
) -> KafkaSettings {
    let is_new = base.topics.is_empty();
    let mut settings = base;
    if !kafka::BUILT {
        checker.key(key, kafka::NOT_BUILT, None);
    }
    for (key, value) in checker.map(value, "`source.kafka`", &KAFKA_KEYS) {
        let what = format!("`source.kafka.{}`", key.name);
        match key.name.as_str() {
            "brokers" => settings.connection.parse_brokers(checker, value, &what),
            "properties" => {
                settings.connection.parse_properties(checker, value, Side::Consumer);
            }
            "oauth_token" => settings.connection.parse_oauth_token(checker, value),
            "topics" => {
                settings.topics = checker.texts(value, &what);
                for topic in &settings.topics {
                    if let Err((why, help)) = topic_or_pattern(topic) {
                        checker.node(value, format!("{what}: {why}"), help);
                    }
                }
            }
            "group" | "instance_id" => {
                let text = checker.text(value, &what);
                let text = text.filter(|text| !text.trim().is_empty());
                match (key.name.as_str(), text) {
                    ("group", Some(text)) => settings.group = text,
                    (_, Some(text)) => settings.instance_id = Some(text),
                    (_, None) => checker.node(value, format!("{what} needs a name"), None),
                }
            }
            "from" => {
                let Some(text) = checker.text(value, &what) else { continue };
                settings.from = From::read(&text, &Zone::default());
                if settings.from.is_none() {
                    let help = "earliest, latest, a time like 2026-11-24T08:00:00Z or a day like 2026-11-24";
                    let help = help.into();
                    checker.node(value, format!("{what}: `{text}` is not known"), Some(help));
                }
            }
            "dead_letter" => {
                settings.dead_letter = checker.text(value, &what);
                if let Some(Err(why)) = settings.dead_letter.as_deref().map(kafka::check_topic) {
                    checker.node(value, format!("{what}: {why}"), None);
                }
            }
            "idle_after" => {
                set(&mut settings.idle_after, checker.duration(value, &what, 1_000_000));
            }
            "reorder" => settings.reorder = checker.duration(value, &what, 0),
            _ => {}
        }
    }
    settings.connection.settle_oauth_token(checker, value);
    let reads = |topic: &String, bad: &str| {
        topic == bad
            || topic.starts_with('^')
                && regex::Regex::new(topic).is_ok_and(|pattern| pattern.is_match(bad))
    };
    if let (Some(bad), Some(node)) = (&settings.dead_letter, value.get("dead_letter"))
        && let Some(topic) = settings.topics.iter().find(|topic| reads(topic, bad))
    {
        let message = format!(
            "`dead_letter`: `{bad}` is read too (`{topic}`): what cannot be read would be copied for ever"
        );
        let help = "a topic that is none of `topics`, and fits no pattern there";
        checker.node(node, message, Some(help.into()));
    }
    for (name, example) in [("brokers", "[kafka-1.example.org:9092]"), ("topics", "[app-logs]")] {
        let given = value.get(name);
        if given.map_or(is_new, |node| node.as_list().is_empty()) {
            checker.key(
                key,
                format!("`source.kafka` needs `{name}`"),
                Some(format!("for example {name}: {example}")),
            );
        }
    }
    settings
}

/// A problem whose excerpt shows no value, unless it stands under a key that never holds a secret.
fn unseen(problem: Problem, document: &Document) -> Problem {
    // The items of a list may stand as far to the left as its key.
    let top = |line: &&str| !line.starts_with([' ', '\t', '#', '-']) && line.contains(':');
    let top = document.text.lines().take(problem.place.line).filter(top).last();
    let top = top.and_then(|line| line.split(':').next()).unwrap_or_default();
    if problem.place.line == 0 || KEYS.contains(&top) && !["sinks", "serve"].contains(&top) {
        return problem;
    }
    let rest: String =
        problem.excerpt.chars().skip(problem.place.column.saturating_sub(1)).collect();
    // A key is told, whatever it may be called; in a value, no blank stands behind a colon.
    let is_key = |(key, behind): &(&str, &str)| {
        !key.is_empty()
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && (behind.is_empty() || behind.starts_with(' '))
    };
    let key = rest.split_once(':').filter(is_key).map(|(key, _)| key.to_owned());
    shown_only(problem, key.as_deref().unwrap_or("…"))
}

/// A problem of whose line only `shown` is shown, where it stands.
fn shown_only(problem: Problem, shown: &str) -> Problem {
    let indent = problem.excerpt.chars().take(problem.place.column.saturating_sub(1));
    let blank = |c: char| if matches!(c, ' ' | '\t' | '-') { c } else { ' ' };
    let excerpt = indent.map(blank).chain(shown.chars()).collect();
    Problem { excerpt, width: shown.chars().count(), ..problem }
}

/// Whether a text can be a topic's name or a pattern of names; what is wrong, and what helps.
pub fn topic_or_pattern(text: &str) -> Result<(), (String, Option<String>)> {
    if text.starts_with('^') {
        let error = regex::Regex::new(text).err();
        return error.map_or(Ok(()), |error| {
            Err((format!("`{text}` is no regular expression: {error}"), None))
        });
    }
    kafka::check_topic(text).map_err(|why| {
        let help = "a pattern of names begins with `^`, for example ^logs\\.".into();
        (why, Some(help))
    })
}

fn nets(checker: &mut Checker<'_>, value: &Node, what: &str) -> Vec<IpNet> {
    let mut nets = Vec::new();
    for item in value.as_list() {
        let Some(text) = checker.text(item, what) else { continue };
        match parse_net(&text) {
            Some(net) => nets.push(net),
            None => checker.node(
                item,
                format!("{what}: `{text}` is no network"),
                Some("write it like 10.0.0.0/8, 2001:db8::/32 or 203.0.113.7".into()),
            ),
        }
    }
    nets
}

fn allow(checker: &mut Checker<'_>, node: &Node) -> Option<Allow> {
    let mut who = None;
    let mut comment = String::new();
    let mut until = None;
    let members = checker.map(node, "an allow entry", &["ip", "user", "comment", "until"]);
    if let (Some(_), Some(user)) = (node.get("ip"), node.get("user")) {
        let help = "write two entries: each holds for whoever it names".to_owned();
        checker.node(user, "an allow entry names an `ip` or a `user`, not both", Some(help));
    }
    for (key, value) in members {
        let Some(text) = checker.text(value, &format!("`{}`", key.name)) else { continue };
        match key.name.as_str() {
            "ip" => match parse_net(&text) {
                Some(net) => who = Some(Allowed::Net(net)),
                None => checker.node(
                    value,
                    format!("`{text}` is no address or network"),
                    Some("write it like 198.51.100.7 or 198.51.100.0/24".into()),
                ),
            },
            "user" => match addr::normalize_user(&text) {
                Some(user) => who = Some(Allowed::User(user.into_owned())),
                None => checker.node(value, format!("`{text}` names no account"), None),
            },
            "comment" => comment = text,
            "until" => match time::parse(&text, &Zone::default()) {
                Some(When::At(at)) => until = Some(at),
                _ => checker.node(
                    value,
                    format!("`{text}` is no time"),
                    Some("write it like 2027-01-01T00:00:00Z".into()),
                ),
            },
            _ => {}
        }
    }
    if who.is_none()
        && (node.as_map().is_some() || node.kind == Kind::Null)
        && node.get("ip").is_none()
        && node.get("user").is_none()
    {
        checker.at(node.place, 1, "an allow entry needs `ip` or `user`", None);
    }
    Some(Allow { who: who?, comment, until })
}

/// A size in bytes: a number, or a number with KiB, MiB, GiB, KB, MB, GB.
pub fn size(
    checker: &mut Checker<'_>,
    value: &Node,
    what: &str,
    min: usize,
    max: usize,
) -> Option<usize> {
    let text = checker.text(value, what)?;
    let digits = text.trim().bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.trim().split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1usize),
        "kib" | "k" => Some(1 << 10),
        "mib" | "m" => Some(1 << 20),
        "gib" | "g" => Some(1 << 30),
        "kb" => Some(1000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        _ => None,
    };
    let size = factor.and_then(|factor| number.parse::<usize>().ok()?.checked_mul(factor));
    match size {
        Some(size) if (min..=max).contains(&size) => Some(size),
        Some(_) => {
            checker.node(value, format!("{what} must lie between {min} and {max} bytes"), None);
            None
        }
        None => {
            checker.node(
                value,
                format!("{what}: `{text}` is no size"),
                Some("write it like 1MiB, 512KiB or 1GiB".into()),
            );
            None
        }
    }
}

/// The forms of action lines by the words for them.
pub fn output_words() -> [(&'static str, Output); 3] {
    [("json", Output::Json), ("ecs", Output::Ecs), ("text", Output::Text)]
}
