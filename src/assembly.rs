//! From settings to an engine that is ready: packs read, rules changed, everything checked.

use crate::action::identity::{FILE_MAX, Identities};
use crate::config::Settings;
use crate::decide::guard::Guard;
use crate::decide::{DecideConfig, Decider};
use crate::decode::DecodeConfig;
use crate::decode::addr::NeverBlock;
use crate::decode::fields::FieldMap;
use crate::detect::detector::{DetectConfig, Detector};
use crate::detect::rule::{KeyPart, Rule};
use crate::engine::order::{Engine, OrderConfig};
use crate::engine::scan::Scanner;
use crate::pack::{self, Pack};
use crate::pattern::set::{Countries, PatternSet};
use crate::pattern::spec::Pattern;
use crate::sink::SinkConfig;
use crate::yaml::{Place, Problem};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Scanners made so far, to tell them apart.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// Everything that is the same for all threads and all streams.
#[derive(Debug)]
pub struct Assembly {
    /// The parallel half.
    pub scanner: Arc<Scanner>,
    /// The rules that are active, in their order.
    pub rules: Vec<Rule>,
    /// The packs they are from.
    pub packs: Vec<Pack>,
    /// The accounts by their two spellings.
    pub identities: Arc<Identities>,
    never: NeverBlock,
    settings: Settings,
}

impl Assembly {
    /// Reads packs and puts everything together. `own` are this machine's addresses.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn new(settings: &Settings, own: &[IpAddr]) -> Result<Self, Vec<Problem>> {
        let (packs, mut problems) = pack::load(&settings.patterns);
        let mut rules: Vec<Rule> = packs.iter().flat_map(|pack| pack.rules.clone()).collect();
        if problems.is_empty() {
            problems.extend(settings.change_rules(&mut rules));
        }
        let countries = match settings.geoip.as_deref().map(GeoIp::open) {
            None => None,
            Some(Ok(geo)) => Some(Box::new(geo) as Box<dyn Countries>),
            Some(Err(problem)) => {
                problems.push(problem);
                None
            }
        };
        problems.extend(settings.check_receivers());
        let identities = settings.identities.as_deref().map_or(Ok(Identities::default()), people);
        let identities = identities.unwrap_or_else(|mut mistakes| {
            problems.append(&mut mistakes);
            Identities::default()
        });
        let never = NeverBlock::new(
            settings.never_private,
            settings.never_cgnat,
            &settings.never_extra,
            &settings.trusted_proxies,
            own,
        );
        let patterns: Vec<Pattern> = packs.iter().flat_map(|pack| pack.patterns.clone()).collect();
        let set = PatternSet::new(
            patterns,
            rules.iter().map(Rule::counting).collect(),
            never.clone(),
            countries,
        );
        if !problems.is_empty() {
            return Err(problems.into_iter().map(|p| settings.where_named(p)).collect());
        }
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        let decode = DecodeConfig {
            fields: FieldMap::new(&settings.fields),
            zone: settings.timezone.clone(),
            trusted: settings.trusted_proxies.iter().copied().collect(),
            never: never.clone(),
        };
        Ok(Self {
            scanner: Arc::new(Scanner::new(set, decode, settings.dedupes(), generation)),
            rules,
            packs,
            identities: Arc::new(identities),
            never,
            settings: settings.clone(),
        })
    }

    /// An engine at the beginning of a stream.
    pub fn engine(&self) -> Engine {
        self.engine_for(&self.rules)
    }

    /// An engine with only some of the rules; they must be among those assembled.
    pub fn engine_for(&self, rules: &[Rule]) -> Engine {
        let detector = self.detector(rules, self.settings.learn);
        let order = OrderConfig {
            lateness: self.settings.lateness,
            max_ahead: self.settings.max_ahead,
            zone: self.settings.timezone.clone(),
            year: self.settings.year,
            max_line: self.settings.max_line,
            waiting_max: self.settings.memory_limit / 16,
            dedupe: self.settings.dedupe.unwrap_or_default(),
            dedupe_max: self.settings.memory_limit / 64,
        };
        Engine::new(Arc::clone(&self.scanner), detector, self.decider(), order)
    }

    /// A detector for `rules`; `learn` in microseconds.
    pub fn detector(&self, rules: &[Rule], learn: i64) -> Detector {
        let set = &self.scanner.set;
        let config = DetectConfig {
            lateness: self.settings.lateness,
            learn,
            ipv6_prefix: self.settings.ipv6_prefix,
            memory_limit: match self.settings.state_dir {
                // While a snapshot is on its way to the disk, a copy of the state is in memory too.
                Some(_) => self.settings.memory_limit / 9 * 5,
                None => self.settings.memory_limit,
            },
        };
        Detector::new(rules, set.counted(), |name| set.id(name), config)
    }

    /// A decider with the configured guards.
    pub fn decider(&self) -> Decider {
        let settings = &self.settings;
        let config = DecideConfig {
            mode: settings.mode,
            runbook_url: settings.runbook_url.as_deref().map(Into::into),
            max_locks: settings.max_locks,
        };
        let guard = Guard::new(self.never.clone(), settings.allow.clone(), settings.brakes);
        Decider::new(config, guard.with_identities(Arc::clone(&self.identities)))
    }

    /// Names in the rules' `notify` for which `receivers` has no sink, with a rule that says each.
    pub fn unheard(&self) -> Vec<(&str, &str)> {
        let mut unheard: Vec<(&str, &str)> = Vec::new();
        if self.settings.receivers.is_empty() && !self.settings.sinks.iter().any(SinkConfig::tells)
        {
            return unheard;
        }
        for rule in &self.rules {
            for name in &rule.notify {
                let heard = self.settings.receivers.iter().any(|(known, _)| known == name);
                // Without `receivers`, every sink that tells takes every line; a user it cannot find.
                let all = self.settings.receivers.is_empty() && name != "user";
                if !heard && !all && !unheard.iter().any(|(known, _)| known == name) {
                    unheard.push((name, &rule.id));
                }
            }
        }
        unheard
    }

    /// Rules that need a country while there is no database to look it up.
    pub fn need_country(&self) -> impl Iterator<Item = &str> {
        let missing = self.settings.geoip.is_none();
        self.rules
            .iter()
            .filter(move |rule| {
                let per = rule.per.iter().any(|p| matches!(p, KeyPart::Field(f) if f == "country"));
                let narrowed = rule.filter.fields().contains(&"country");
                missing && (per || narrowed || rule.condition.field() == Some("country"))
            })
            .map(|rule| rule.id.as_str())
    }
}

/// Reads the file of identities.
fn people(path: &Path) -> Result<Identities, Vec<Problem>> {
    let name = path.display().to_string();
    let one = |message: String| {
        vec![Problem::whole(&name, format!("cannot read `identities`: {message}"))]
    };
    crate::source::file::probe(path).map_err(|error| one(error.to_string()))?;
    let length = std::fs::metadata(path).map_err(|error| one(format!("{name}: {error}")))?.len();
    if length > FILE_MAX {
        return Err(one(format!("{name}: it has {length} bytes; at most {FILE_MAX} are read")));
    }
    let bytes = std::fs::read(path).map_err(|error| one(format!("{name}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        one(format!("{name}: line {line} is not UTF-8"))
    })?;
    Identities::of_csv(&text).map_err(|mistakes| {
        let told = |mistake: crate::action::identity::Mistake| {
            let row = text.lines().nth(mistake.line - 1).unwrap_or_default();
            let excerpt: String = row.chars().filter(|c| !c.is_control()).take(80).collect();
            Problem {
                file: name.clone(),
                place: Place { line: mistake.line, column: 1 },
                width: excerpt.chars().count(),
                excerpt,
                message: format!("`identities`: {}", mistake.message),
                help: mistake.help.map(str::to_owned),
            }
        };
        mistakes.into_iter().map(told).collect()
    })
}

/// Countries from a MaxMind-format database, read into memory at start.
struct GeoIp(maxminddb::Reader<Vec<u8>>);

impl GeoIp {
    fn open(path: &Path) -> Result<Self, Problem> {
        maxminddb::Reader::open_readfile(path).map(Self).map_err(|error| {
            let name = path.display().to_string();
            let why = match crate::source::file::probe(path) {
                Err(input) => input.to_string(),
                Ok(()) => format!("{name}: {error}"),
            };
            let mut problem =
                Problem::whole(&name, format!("cannot read the `geoip` database: {why}"));
            problem.help =
                Some("expected a country or city database in MaxMind's .mmdb format".to_owned());
            problem
        })
    }
}

impl Countries for GeoIp {
    fn country(&self, ip: IpAddr) -> Option<String> {
        let found = self.0.lookup(ip).ok()?;
        let country = maxminddb::path!["country", "iso_code"];
        let registered = maxminddb::path!["registered_country", "iso_code"];
        let code: Option<String> = found.decode_path(&country).ok().flatten();
        code.or_else(|| found.decode_path(&registered).ok().flatten())
            .map(|code| code.to_uppercase())
    }
}
