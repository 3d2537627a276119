//! The sink `nftables`: addresses and ranges that are blocked, in a table of the kernel's own firewall.
//!
//! The table belongs to this sink alone. It has one set per length of prefix, with a time-out for
//! every element, so the kernel lets an address pass again by itself, whatever becomes of us. A
//! range is looked up by its masked address in a hash set: unlike intervals, ranges may then lie
//! inside one another, each with its own end, and one more costs the same however many there are.
//!
//! What reaches `nft` are our own words and addresses that were parsed and written again, on its
//! standard input: no text of a log, no shell, no name that somebody would look up. A batch is one
//! transaction. The view of what is [`Held`] only saves work: [`Remote::reconcile`] reads the truth.

use super::Context;
use super::program::{Ended, Program, probe};
use super::remote::{Progress, Remote, Trouble, micros};
use crate::action::decision::{Decision, instant_of};
use crate::action::{Action, Op, Target, escape};
use crate::decode::time::{Micros, format_duration};
use crate::yaml::{Checker, Key, Node};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

/// Where `nft` usually is.
const NFT: [&str; 2] = ["/usr/sbin/nft", "/sbin/nft"];
/// Where `ip` usually is.
const IP: [&str; 4] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
/// What the name of a table must begin with: what is not ours is never taken for ours.
const OURS: &str = "portcullis";
/// Elements of one transaction.
const BATCH: usize = 16_384;
/// The chain that the hooks jump to.
const CHAIN: &str = "blocked";
/// The least that is left of a decision for the kernel to be told, and the unit of what it is told.
const SECOND: Micros = 1_000_000;
/// No element lasts longer; a later comparison prolongs it.
const LONGEST: Micros = 366 * 24 * 3600 * SECOND;
/// An end that is so near to the right one is left as it is.
const TOLERANCE: Micros = 5 * SECOND;
/// How often the table is compared with what is active.
const EVERY: Duration = Duration::from_secs(300);
/// Bytes of a listing.
const LISTING_MAX: usize = 512 << 20;
/// Elements that a comparison may find refused before it gives up.
const REFUSED_MAX: usize = 32;
/// Shorter prefixes are no attacker but half a country.
const SHORTEST: (u8, u8) = (16, 32);

/// What nobody is ever to be kept from, whatever was decided: there is no attacker, and the machine
/// would lose itself, its neighbours or its router.
const NEVER: [IpNet; 9] = [
    v4([0, 0, 0, 0], 8),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([224, 0, 0, 0], 4),
    v4([255, 255, 255, 255], 32),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length))
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deny {
    /// It vanishes.
    Drop,
    /// Its sender is told.
    Reject,
}

impl Deny {
    const WORDS: [(&str, Self); 2] = [("drop", Self::Drop), ("reject", Self::Reject)];

    fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Reject => "reject",
        }
    }
}

const HOOKS: [(&str, &str); 3] =
    [("input", "input"), ("forward", "forward"), ("prerouting", "prerouting")];

/// The sink as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The table of the family `inet`.
    pub table: String,
    /// Where packets are looked at.
    pub hooks: Vec<&'static str>,
    /// Before or after others that look at them there.
    pub priority: i64,
    /// What becomes of them.
    pub deny: Deny,
    /// The program, if it is not where it usually is.
    pub nft: Option<String>,
    /// The network namespace, as `ip netns` knows it; else our own.
    pub netns: Option<String>,
    /// How long a call of the program may take.
    pub timeout: Duration,
    /// Addresses and ranges in force at once.
    pub max_elements: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            table: OURS.to_owned(),
            hooks: vec!["input", "forward"],
            priority: -10,
            deny: Deny::Drop,
            nft: None,
            netns: None,
            timeout: Duration::from_secs(30),
            max_elements: 200_000,
        }
    }
}

impl Options {
    /// Reads the sink's options.
    pub fn parse(checker: &mut Checker<'_>, _key: &Key, value: &Node) -> Option<Self> {
        const KEYS: [&str; 8] =
            ["table", "hooks", "priority", "deny", "nft", "netns", "timeout", "max_elements"];
        let before = checker.problems.len();
        let mut options = Self::default();
        for (key, value) in checker.map(value, "the sink `nftables`", &KEYS) {
            options.option(checker, key, value);
        }
        if options.deny == Deny::Reject && options.hooks.contains(&"prerouting") {
            let help = "use `deny: drop`, or the hooks input and forward".to_owned();
            let message = "the hook `prerouting` cannot reject in every kernel";
            let place = value.get("deny").unwrap_or(value);
            checker.node(place, message, Some(help));
        }
        (checker.problems.len() == before).then_some(options)
    }

    fn option(&mut self, checker: &mut Checker<'_>, key: &Key, value: &Node) {
        let what = format!("`{}`", key.name);
        match key.name.as_str() {
            "table" => {
                let Some(name) = checker.text(value, &what) else { return };
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if !name.starts_with(OURS) || !name.chars().all(plain) || name.len() > 63 {
                    let message = format!("`table`: `{name}` cannot be the name of our table");
                    let help = "it begins with `portcullis` (the table is ours alone, and is made anew when it is changed), then letters, digits and _".to_owned();
                    checker.node(value, message, Some(help));
                    return;
                }
                self.table = name;
            }
            "hooks" => {
                let items = value.as_list();
                let words = items.iter().filter_map(|item| checker.word(item, &what, &HOOKS));
                self.hooks = words.collect();
                let mut seen = HashSet::new();
                self.hooks.retain(|hook| seen.insert(*hook));
                if items.is_empty() {
                    let help = "leave it out for input and forward".to_owned();
                    checker.key(key, "`hooks` is empty: nothing would be looked at", Some(help));
                }
            }
            "priority" => {
                self.priority = checker.int(value, &what, -400..=400).unwrap_or(self.priority);
            }
            "deny" => {
                self.deny = checker.word(value, &what, &Deny::WORDS).unwrap_or(self.deny);
            }
            "nft" => {
                let path = checker.text(value, &what);
                if path.as_ref().is_some_and(|path| !path.starts_with('/')) {
                    let help = "for example /usr/sbin/nft".to_owned();
                    checker.node(value, "`nft` must be an absolute path", Some(help));
                }
                self.nft = path;
            }
            "netns" => {
                let name = checker.text(value, &what);
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                let good = |name: &String| {
                    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
                };
                if name.as_ref().is_some_and(|name| !good(name)) {
                    let help = "a name that `ip netns list` shows; `ip netns attach NAME PID` gives a container's one".to_owned();
                    checker.node(value, "`netns` is no name of a network namespace", Some(help));
                }
                self.netns = name;
            }
            "timeout" => {
                if let Some(timeout) = checker.duration(value, &what, SECOND) {
                    self.timeout = Duration::from_micros(timeout.unsigned_abs());
                }
            }
            "max_elements" => {
                let number = checker.int(value, &what, 1..=5_000_000);
                let number = number.and_then(|number| usize::try_from(number).ok());
                self.max_elements = number.unwrap_or(self.max_elements);
            }
            _ => {}
        }
    }

    /// Its kind and what tells it from others of its kind.
    pub fn name(&self) -> String {
        let mut name = "nftables".to_owned();
        if self.table != OURS {
            let _ = write!(name, " {}", self.table);
        }
        if let Some(netns) = &self.netns {
            let _ = write!(name, " in {netns}");
        }
        name
    }

    /// Makes it ready to work. The program is looked for when it is needed: it may come later.
    ///
    /// # Errors
    /// Never.
    pub fn open(&self, _context: &Context) -> Result<Box<dyn Remote>, String> {
        Ok(Box::new(Firewall { options: self.clone(), held: None, unlike: None, partial: false }))
    }
}

/// The address or range that a target means, canonical.
fn net_of(target: &Target) -> Result<IpNet, String> {
    let text = target.text();
    let net = if target.kind == "ip" {
        text.parse::<IpAddr>().ok().map(IpNet::from)
    } else {
        text.parse::<IpNet>().ok()
    };
    let shown = escape(text);
    let net = net.ok_or_else(|| {
        format!("`{shown}` is no {}", if target.kind == "ip" { "address" } else { "range" })
    })?;
    let net = match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => {
            net.addr().to_ipv4_mapped().map_or(IpNet::V6(net), |ip| {
                Ipv4Net::new(ip, net.prefix_len() - 96).map_or(IpNet::V6(net), IpNet::V4)
            })
        }
        other => other,
    };
    let net = net.trunc();
    let shortest = if net.addr().is_ipv4() { SHORTEST.0 } else { SHORTEST.1 };
    if net.prefix_len() < shortest {
        return Err(format!(
            "`{shown}` is too wide: the firewall is given no range wider than /{shortest}"
        ));
    }
    if let Some(never) = NEVER.iter().find(|never| never.contains(&net) || net.contains(*never)) {
        return Err(format!("`{shown}` lies in {never}, from which no attacker comes"));
    }
    Ok(net)
}

/// A set of the table: all addresses, or all ranges of one length, of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Set {
    is_v6: bool,
    length: u8,
}

impl Set {
    const HOSTS: [Self; 2] = [Self { is_v6: false, length: 32 }, Self { is_v6: true, length: 128 }];

    fn of(net: &IpNet) -> Self {
        Self { is_v6: net.addr().is_ipv6(), length: net.prefix_len() }
    }

    fn is_hosts(self) -> bool {
        Self::HOSTS.contains(&self)
    }

    fn name(self) -> String {
        let family = if self.is_v6 { 6 } else { 4 };
        if self.is_hosts() {
            format!("hosts{family}")
        } else {
            format!("ranges{family}_{}", self.length)
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let length =
            |text: &str, longest: u8| text.parse::<u8>().ok().filter(|length| *length < longest);
        let set = match name {
            "hosts4" => Self::HOSTS[0],
            "hosts6" => Self::HOSTS[1],
            _ => {
                let (is_v6, length) = match name.strip_prefix("ranges4_") {
                    Some(rest) => (false, length(rest, 32)?),
                    None => (true, length(name.strip_prefix("ranges6_")?, 128)?),
                };
                Self { is_v6, length }
            }
        };
        (set.name() == name).then_some(set)
    }

    fn kind(self) -> &'static str {
        if self.is_v6 { "ipv6_addr" } else { "ipv4_addr" }
    }

    /// The part of a rule that looks a packet's sender up.
    fn lookup(self) -> String {
        let name = self.name();
        let family = if self.is_v6 { "ip6" } else { "ip" };
        if self.is_hosts() {
            return format!("{family} saddr @{name}");
        }
        let mask = if self.is_v6 {
            Ipv6Net::new(Ipv6Addr::UNSPECIFIED, self.length).map(|net| IpAddr::V6(net.netmask()))
        } else {
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, self.length).map(|net| IpAddr::V4(net.netmask()))
        };
        let mask = mask.map(|mask| mask.to_string()).unwrap_or_default();
        format!("{family} saddr and {mask} @{name}")
    }
}

/// What is to become of one address or range: when its block ends, or that it does now.
type Change = (IpNet, Option<Micros>);

/// What the table holds as far as we know: it saves work, and the truth is read from time to time.
#[derive(Debug, Default)]
struct Held {
    elements: HashMap<IpNet, Micros>,
    sets: BTreeSet<Set>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failed {
    /// Nothing could have been.
    Unable(String),
    /// Something in what was asked for.
    Refused(String),
}

impl Failed {
    fn why(self) -> String {
        let (Self::Unable(why) | Self::Refused(why)) = self;
        why
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::later(failed.why())
    }
}

/// The sink at work.
#[derive(Debug)]
struct Firewall {
    options: Options,
    /// Nothing is known before it was read.
    held: Option<Held>,
    /// What a table that we just made did not look like, read by this version of the program: then
    /// nothing is wrong with it.
    unlike: Option<String>,
    /// What is active is not all that may stand in the table.
    partial: bool,
}

/// Whole seconds that are left, if any.
fn left(until: Micros, now: Micros) -> Option<Micros> {
    let seconds = until.saturating_sub(now).min(LONGEST) / SECOND;
    (seconds >= 1).then_some(seconds)
}

fn found(places: &[&str]) -> Option<String> {
    places.iter().find(|path| probe(path).is_ok()).map(|path| (*path).to_owned())
}

impl Firewall {
    fn table(&self) -> String {
        format!("inet {}", self.options.table)
    }

    /// The program with what stands before its own arguments.
    fn argv(&self) -> Result<Vec<String>, String> {
        let nft = match &self.options.nft {
            Some(path) => {
                probe(path).map(|()| path.clone()).map_err(|why| format!("`nft`: {why}"))?
            }
            None => found(&NFT).ok_or_else(|| {
                format!(
                    "there is no nft at {}: install nftables, or say with `nft` where it is",
                    NFT.join(" or ")
                )
            })?,
        };
        let Some(netns) = &self.options.netns else { return Ok(vec![nft]) };
        let ip = found(&IP).ok_or("`netns` needs the program ip: install iproute2")?;
        Ok(vec![ip, "netns".into(), "exec".into(), netns.clone(), nft])
    }

    /// Runs the program.
    fn nft(&self, args: &[&str], input: &str) -> Result<String, Failed> {
        let mut argv = self.argv().map_err(Failed::Unable)?;
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        let env = [("LC_ALL".to_owned(), "C".to_owned())];
        let program = Program {
            argv: &argv,
            env: &env,
            input: input.as_bytes(),
            timeout: self.options.timeout,
            output_max: LISTING_MAX,
        };
        let unable = |why: String| Err(Failed::Unable(why));
        let outcome = match program.run() {
            Ok(outcome) => outcome,
            Err(error) => return unable(format!("{} cannot be run: {error}", program.argv[0])),
        };
        let said = escape(outcome.first_line().unwrap_or("it does not say why"));
        match outcome.ended {
            Ended::Code(0) => Ok(String::from_utf8_lossy(&outcome.output).into_owned()),
            Ended::Code(_)
                if ["Operation not permitted", "Permission denied"]
                    .iter()
                    .any(|text| outcome.said.contains(text)) =>
            {
                unable(format!(
                    "nft may not change the firewall; it needs CAP_NET_ADMIN, as root has it or as a unit gives it with AmbientCapabilities=CAP_NET_ADMIN: {said}"
                ))
            }
            Ended::Code(_) if outcome.said.contains("Cannot open network namespace") => {
                unable(format!("`netns`: {said}"))
            }
            // The kernel's word for it misleads.
            Ended::Code(_) if outcome.said.contains("Too many open files in system") => {
                Err(Failed::Refused("a set of the firewall is full".to_owned()))
            }
            Ended::Code(_) => Err(Failed::Refused(format!("nft refuses: {said}"))),
            Ended::Signal(signal) => unable(format!("nft was ended by signal {signal}")),
            Ended::TimedOut => {
                let limit = Micros::try_from(self.options.timeout.as_micros()).unwrap_or_default();
                unable(format!("nft was not done after {} and was killed", format_duration(limit)))
            }
            Ended::TooMuch => unable("the listing of the firewall is too long".to_owned()),
        }
    }

    /// The words that make a set and the rule that looks into it.
    fn add_set(&self, script: &mut String, set: Set) {
        let (table, name, kind) = (self.table(), set.name(), set.kind());
        let (lookup, deny) = (set.lookup(), self.options.deny.name());
        let _ = writeln!(script, "add set {table} {name} {{ type {kind}; flags timeout; }}");
        let _ = writeln!(script, "add rule {table} {CHAIN} {lookup} counter {deny}");
    }

    /// The words that make the table as it should be, with these sets, empty, whatever was there.
    fn anew(&self, sets: &BTreeSet<Set>) -> String {
        let table = self.table();
        // To take away what is not there would be an error.
        let mut script = format!(
            "add table {table}\ndelete table {table}\nadd table {table}\nadd chain {table} {CHAIN}\n"
        );
        for set in Set::HOSTS.iter().chain(sets.iter().filter(|set| !set.is_hosts())) {
            self.add_set(&mut script, *set);
        }
        for hook in &self.options.hooks {
            let priority = self.options.priority;
            let _ = writeln!(
                script,
                "add chain {table} {hook} {{ type filter hook {hook} priority {priority}; policy accept; }}\n\
                 add rule {table} {hook} jump {CHAIN}"
            );
        }
        script
    }

    /// The words that put elements in and take them out, with nothing left of what was there. In
    /// older kernels a second `add` does not change an element's end, and in all of them the
    /// `delete` of what is not there spoils the transaction; so each is added, deleted and added.
    fn elements(&self, script: &mut String, changes: &BTreeMap<IpNet, Option<Micros>>) {
        let mut sets: BTreeMap<Set, Vec<(IpAddr, Option<Micros>)>> = BTreeMap::new();
        for (net, seconds) in changes {
            sets.entry(Set::of(net)).or_default().push((net.addr(), *seconds));
        }
        let table = self.table();
        for (set, elements) in sets {
            let name = set.name();
            let _ = write!(script, "add element {table} {name} {{ ");
            for (address, _) in &elements {
                let _ = write!(script, "{address} timeout 1s, ");
            }
            let _ = write!(script, "}}\ndelete element {table} {name} {{ ");
            for (address, _) in &elements {
                let _ = write!(script, "{address}, ");
            }
            script.push_str("}\n");
            if elements.iter().all(|(_, seconds)| seconds.is_none()) {
                continue;
            }
            let _ = write!(script, "add element {table} {name} {{ ");
            for (address, seconds) in &elements {
                if let Some(seconds) = seconds {
                    let _ = write!(script, "{address} timeout {seconds}s, ");
                }
            }
            script.push_str("}\n");
        }
    }

    /// Makes the changes in one transaction, the later of two for the same address winning; `anew`
    /// with a new table, which has the sets of these changes.
    fn apply(&mut self, changes: &[Change], now: Micros, anew: bool) -> Result<(), Failed> {
        let mut last: BTreeMap<IpNet, Option<Micros>> = BTreeMap::new();
        last.extend(changes.iter().copied());
        let mut held = self.held.take().unwrap_or_default();
        if anew {
            held = Held {
                sets: last.keys().map(Set::of).chain(Set::HOSTS).collect(),
                ..Held::default()
            };
        }
        let mut script = if anew { self.anew(&held.sets) } else { String::new() };
        let mut sets = held.sets.clone();
        for (net, until) in &last {
            if until.is_some() && sets.insert(Set::of(net)) {
                self.add_set(&mut script, Set::of(net));
            }
        }
        // Out of a set that is not there nothing can be taken.
        last.retain(|net, _| sets.contains(&Set::of(net)));
        let seconds =
            last.iter().map(|(net, until)| (*net, until.and_then(|until| left(until, now))));
        self.elements(&mut script, &seconds.collect());
        let result =
            if script.is_empty() { Ok(String::new()) } else { self.nft(&["-f", "-"], &script) };
        match result {
            Ok(_) => {
                held.sets = sets;
                for (net, until) in last {
                    match until {
                        Some(until) => held.elements.insert(net, until),
                        None => held.elements.remove(&net),
                    };
                }
                self.held = Some(held);
                Ok(())
            }
            Err(failed) => {
                // What failed as a whole left all as it was, except that somebody may have killed
                // the program after it was done: then it is done again.
                self.held = (!anew).then_some(held);
                Err(failed)
            }
        }
    }

    /// Makes as many of the changes as can be made, from the first on; halves show which one cannot.
    fn apply_most(&mut self, changes: &[Change], now: Micros) -> (usize, Option<Trouble>) {
        match self.apply(changes, now, false) {
            Ok(()) => (changes.len(), None),
            Err(Failed::Unable(why)) => (0, Some(Trouble::later(why))),
            Err(Failed::Refused(why)) if changes.len() <= 1 => {
                let net = changes.first().map_or_else(String::new, |(net, _)| net.to_string());
                (0, Some(Trouble::refused(format!("{net}: {why}"))))
            }
            Err(Failed::Refused(_)) => {
                let (first, second) = changes.split_at(changes.len() / 2);
                let (done, trouble) = self.apply_most(first, now);
                if trouble.is_some() {
                    return (done, trouble);
                }
                let (more, trouble) = self.apply_most(second, now);
                (done + more, trouble)
            }
        }
    }

    /// The same, after a look at the table if it does not work at once: somebody may have taken it
    /// away.
    fn apply_or_mend(&mut self, changes: &[Change], now: Micros) -> (usize, Option<Trouble>) {
        match self.apply(changes, now, false) {
            Ok(()) => return (changes.len(), None),
            Err(Failed::Unable(why)) => return (0, Some(Trouble::later(why))),
            Err(Failed::Refused(_)) => {}
        }
        let held = self.held.take().unwrap_or_default();
        if let Err(trouble) = self.look(held.elements.clone(), now) {
            // Next time it is still known what the table is to be made of.
            self.held = Some(held);
            return (0, Some(trouble));
        }
        self.apply_most(changes, now)
    }

    /// Reads what the table holds. One that is not as it should be is made anew with that, and with
    /// what was `known`.
    fn look(&mut self, known: HashMap<IpNet, Micros>, now: Micros) -> Result<(), Trouble> {
        let table = self.read(now)?;
        if let Some(table) = table {
            if self.is_sound(&table) {
                self.held = Some(table.held);
                return Ok(());
            }
            let mut all = known;
            all.extend(table.held.elements);
            return self.remake(all, now);
        }
        self.remake(known, now)
    }

    /// Whether nothing is wrong with the table but what we know to be only read wrongly.
    fn is_sound(&self, table: &Table) -> bool {
        table.wrong.is_none() || table.wrong == self.unlike
    }

    /// Makes the table anew with these elements, at once as far as they fit into one transaction.
    fn remake(&mut self, elements: HashMap<IpNet, Micros>, now: Micros) -> Result<(), Trouble> {
        let mut changes: Vec<Change> = elements
            .into_iter()
            .filter(|(net, until)| net.trunc() == *net && left(*until, now).is_some())
            .map(|(net, until)| (net, Some(until)))
            .collect();
        changes.sort_unstable();
        let (first, rest) = changes.split_at(changes.len().min(BATCH));
        self.apply(first, now, true)?;
        for chunk in rest.chunks(BATCH) {
            self.apply(chunk, now, false)?;
        }
        self.unlike = self.read(now)?.and_then(|table| table.wrong);
        Ok(())
    }

    /// Reads the table, if it is there.
    fn read(&self, now: Micros) -> Result<Option<Table>, Failed> {
        let listing = match self.nft(&["-j", "list", "table", "inet", &self.options.table], "") {
            Ok(listing) => listing,
            Err(Failed::Refused(why)) if why.contains("No such file or directory") => {
                return Ok(None);
            }
            Err(failed) => return Err(failed),
        };
        let listing: Listing = serde_json::from_str(&listing)
            .map_err(|error| Failed::Unable(format!("the listing of nft is no JSON: {error}")))?;
        Ok(Some(self.table_of(listing, now)))
    }

    fn table_of(&self, listing: Listing, now: Micros) -> Table {
        let mut table = Table::default();
        let mut wrong = BTreeSet::new();
        let (mut lookups, mut hooks, mut jumps) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for object in listing.nftables {
            if let Some(set) = object.set {
                match Set::of_name(&set.name) {
                    Some(own) if set.is(own) => {
                        table.held.sets.insert(own);
                        for element in set.elem {
                            if table.take(own, element, now).is_none() {
                                wrong.insert(format!("an element of {}", set.name));
                            }
                        }
                    }
                    _ => drop(wrong.insert(format!("the set {}", set.name))),
                }
            } else if let Some(chain) = object.chain {
                let is_hook = self.options.hooks.contains(&chain.name.as_str())
                    && chain.hook.as_deref() == Some(&chain.name)
                    && chain.prio == Some(self.options.priority)
                    && chain.policy.as_deref() == Some("accept");
                if is_hook {
                    hooks.insert(chain.name);
                } else if chain.name != CHAIN || chain.hook.is_some() {
                    wrong.insert(format!("the chain {}", chain.name));
                }
            } else if let Some(rule) = object.rule {
                let verdict = rule.expr.last().and_then(Value::as_object);
                let says = |word: &str| verdict.is_some_and(|verdict| verdict.contains_key(word));
                let right = rule.expr.iter().find_map(|part| part["match"]["right"].as_str());
                let set = right.and_then(|right| Set::of_name(right.strip_prefix('@')?));
                match set {
                    Some(set) if rule.chain == CHAIN && says(self.options.deny.name()) => {
                        lookups.push(set);
                    }
                    None if says("jump")
                        && rule.chain != CHAIN
                        && jumps.insert(rule.chain.clone()) => {}
                    _ => drop(wrong.insert(format!("a rule in {}", rule.chain))),
                }
            }
        }
        lookups.sort_unstable();
        let sets: Vec<Set> = table.held.sets.iter().copied().collect();
        if lookups != sets || !Set::HOSTS.iter().all(|set| sets.contains(set)) {
            wrong.insert("the rules, which do not fit the sets".to_owned());
        }
        if hooks.len() != self.options.hooks.len() || jumps != hooks {
            wrong.insert("the hooks".to_owned());
        }
        let wrong: Vec<String> = wrong.into_iter().collect();
        table.wrong = (!wrong.is_empty()).then(|| wrong.join(", "));
        table
    }

    /// What an action asks for; nothing, if its time is up or it was never put in.
    fn plan(&self, action: &Action, now: Micros) -> Result<Option<Change>, String> {
        if action.op == Op::End {
            return Ok(net_of(&action.target).ok().map(|net| (net, None)));
        }
        let net = net_of(&action.target)?;
        let until = action.until.as_deref().and_then(instant_of);
        let until = until.ok_or_else(|| format!("{net}: the action does not say until when"))?;
        Ok(left(until, now).map(|_| (net, Some(until))))
    }

    /// How many more elements there may be.
    fn room(&mut self, now: Micros) -> usize {
        let most = self.options.max_elements;
        let Some(held) = &mut self.held else { return most };
        if held.elements.len() >= most {
            held.elements.retain(|_, until| *until > now);
        }
        most.saturating_sub(held.elements.len())
    }

    fn too_many(&self) -> String {
        format!(
            "the firewall holds {} addresses and ranges, as many as `max_elements` allows",
            self.options.max_elements
        )
    }
}

/// The table as it is.
#[derive(Debug, Default)]
struct Table {
    held: Held,
    /// Elements without an end.
    endless: Vec<IpNet>,
    /// What is not as we make it.
    wrong: Option<String>,
}

impl Table {
    /// Takes an element in, if it is one that we could have made.
    fn take(&mut self, set: Set, element: Element, now: Micros) -> Option<()> {
        let (value, expires) = match element {
            Element::Plain(value) => (value, None),
            Element::Timed { elem } => (elem.val, elem.expires.or(elem.timeout)),
            Element::Other(_) => return None,
        };
        let address = value.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv6() == set.is_v6)?;
        let net = IpNet::new(address, set.length).ok()?;
        match expires {
            Some(seconds) => {
                let until = now.saturating_add(seconds.saturating_mul(SECOND));
                self.held.elements.insert(net, until);
            }
            None => self.endless.push(net),
        }
        Some(())
    }
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<SetObject>,
    chain: Option<ChainObject>,
    rule: Option<RuleObject>,
}

#[derive(Deserialize)]
struct SetObject {
    name: String,
    r#type: Value,
    #[serde(default)]
    flags: Value,
    size: Option<u64>,
    #[serde(default)]
    elem: Vec<Element>,
}

impl SetObject {
    /// Whether it is one as we make it; newer programs write a single flag without a list.
    fn is(&self, set: Set) -> bool {
        let flag = match &self.flags {
            Value::Array(flags) if flags.len() == 1 => flags.first(),
            other => Some(other),
        };
        self.r#type == set.kind()
            && self.size.is_none()
            && flag.is_some_and(|flag| flag == "timeout")
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Plain(String),
    Timed {
        elem: Timed,
    },
    /// None of ours.
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Timed {
    val: String,
    timeout: Option<Micros>,
    expires: Option<Micros>,
}

#[derive(Deserialize)]
struct ChainObject {
    name: String,
    hook: Option<String>,
    prio: Option<i64>,
    policy: Option<String>,
}

#[derive(Deserialize)]
struct RuleObject {
    chain: String,
    #[serde(default)]
    expr: Vec<Value>,
}

/// What a comparison found.
#[derive(Debug, Default)]
struct Found {
    changes: Vec<Change>,
    missing: usize,
    foreign: usize,
    moved: usize,
}

impl Found {
    fn compare(wanted: &HashMap<IpNet, Micros>, table: &Table, now: Micros) -> Self {
        let mut found = Self::default();
        let endless: HashSet<IpNet> = table.endless.iter().copied().collect();
        for (net, until) in wanted {
            let right = now + left(*until, now).unwrap_or_default() * SECOND;
            match table.held.elements.get(net) {
                Some(end) if end.abs_diff(right) <= TOLERANCE.unsigned_abs() => continue,
                Some(_) => found.moved += 1,
                None if endless.contains(net) => found.moved += 1,
                None => found.missing += 1,
            }
            found.changes.push((*net, Some(*until)));
        }
        let ending = |end: Micros| end.saturating_sub(now) <= TOLERANCE;
        let timed =
            table.held.elements.iter().filter(|(_, end)| !ending(**end)).map(|(net, _)| net);
        for net in timed.chain(&table.endless).filter(|net| !wanted.contains_key(*net)) {
            found.foreign += 1;
            found.changes.push((*net, None));
        }
        found.changes.sort_unstable();
        found
    }

    fn told(&self) -> Option<String> {
        let parts: Vec<String> = [
            (self.missing, "missing"),
            (self.foreign, "there without a decision"),
            (self.moved, "there with another end"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {} {what}", if count == 1 { "was" } else { "were" }))
        .collect();
        (!parts.is_empty()).then(|| format!("in the firewall {}: mended", parts.join(", ")))
    }
}

impl Remote for Firewall {
    fn name(&self) -> String {
        self.options.name()
    }

    fn acts(&self) -> bool {
        true
    }

    fn wants(&self, action: &Action) -> bool {
        action.mode == "enforce"
            && action.action == "block"
            && matches!(action.op, Op::Start | Op::Extend | Op::End)
            && matches!(action.target.kind.as_str(), "ip" | "range")
    }

    fn deliver(&mut self, actions: &[Action], now: SystemTime) -> Progress {
        let now = micros(now);
        if self.held.is_none()
            && let Err(trouble) = self.look(HashMap::new(), now)
        {
            return Progress::until(0, trouble);
        }
        let mut room = self.room(now);
        // What the plan so far puts in or takes out.
        let mut there: HashMap<IpNet, bool> = HashMap::new();
        let mut planned: Vec<Option<Change>> = Vec::new();
        let mut refused = None;
        for action in actions {
            let change = match self.plan(action, now) {
                Ok(change) => change,
                Err(why) => {
                    refused = Some(why);
                    break;
                }
            };
            if let Some((net, until)) = change {
                let is_held = self.held.as_ref().is_some_and(|h| h.elements.contains_key(&net));
                let was_there = there.insert(net, until.is_some()).unwrap_or(is_held);
                match until {
                    Some(_) if was_there => {}
                    Some(_) if room == 0 => {
                        refused = Some(format!("{net}: {}", self.too_many()));
                        break;
                    }
                    Some(_) => room -= 1,
                    None => room += usize::from(was_there),
                }
            }
            planned.push(change);
        }
        let mut done = 0;
        for chunk in planned.chunks(BATCH) {
            let changes: Vec<Change> = chunk.iter().flatten().copied().collect();
            let (made, trouble) = self.apply_or_mend(&changes, now);
            let Some(trouble) = trouble else {
                done += chunk.len();
                continue;
            };
            // Those between that ask for nothing are done with the one before them.
            let places = chunk.iter().enumerate().filter(|(_, change)| change.is_some());
            done += places.map(|(place, _)| place).nth(made).unwrap_or(chunk.len());
            return Progress::until(done, trouble);
        }
        match refused {
            Some(why) => Progress::until(done, Trouble::refused(why)),
            None => Progress { done, trouble: None },
        }
    }

    fn would(&self, action: &Action) -> String {
        let table = self.table();
        let net = match net_of(&action.target) {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Ok(net) => net.to_string(),
            Err(why) => return format!("refuse it: {why}"),
        };
        match (action.op, &action.until) {
            (Op::End, _) => format!("take {net} out of the table {table}"),
            (_, until) => {
                let until = until.as_deref().map(escape).unwrap_or_default();
                format!("put {net} into the table {table} until {until}")
            }
        }
    }

    fn reconcile(
        &mut self,
        active: &[Decision],
        now: SystemTime,
    ) -> Result<Option<String>, Trouble> {
        let now = micros(now);
        let mut wanted: HashMap<IpNet, Micros> = HashMap::new();
        let mut beyond = 0;
        for decision in active {
            let ours = decision.is_enforced()
                && decision.action == "block"
                && matches!(decision.target.kind.as_str(), "ip" | "range")
                && left(decision.until, now).is_some();
            // What is refused was said when it was delivered.
            let Some(net) = ours.then(|| net_of(&decision.target).ok()).flatten() else { continue };
            if wanted.len() >= self.options.max_elements && !wanted.contains_key(&net) {
                beyond += 1;
                continue;
            }
            let until = wanted.entry(net).or_insert(decision.until);
            *until = decision.until.max(*until);
        }
        let table = self.read(now)?;
        let first = self.held.is_none();
        let mended = match table {
            Some(table) if self.is_sound(&table) => {
                let mut found = Found::compare(&wanted, &table, now);
                if self.partial {
                    found.changes.retain(|(_, until)| until.is_some());
                    found.foreign = 0;
                }
                self.held = Some(table.held);
                self.mend(&found.changes, now)?;
                found.told()
            }
            other => {
                let count = wanted.len();
                let why = match &other {
                    Some(Table { wrong: Some(wrong), .. }) => format!("was changed ({wrong})"),
                    _ => "was not there".to_owned(),
                };
                let silent = first && other.is_none() && count == 0;
                self.remake(wanted, now)?;
                let table = self.table();
                (!silent).then(|| {
                    format!("the table {table} {why}: made anew with all {count} that are active")
                })
            }
        };
        if beyond == 0 {
            return Ok(mended);
        }
        let limit = format!("{beyond} are not in force: {}", self.too_many());
        Ok(Some(mended.map_or(limit.clone(), |mended| format!("{mended}; {limit}"))))
    }

    fn knows_only_its_own(&mut self) {
        self.partial = true;
    }

    fn reconcile_every(&self) -> Option<Duration> {
        Some(EVERY)
    }

    fn test(&mut self, now: SystemTime) -> Result<String, String> {
        let version = self.nft(&["--version"], "").map_err(Failed::why)?;
        let version = escape(version.lines().next().unwrap_or("nft").trim());
        let mut script = self.anew(&BTreeSet::from([Set { is_v6: true, length: 64 }]));
        let example = IpNet::V4(Ipv4Net::from(Ipv4Addr::new(192, 0, 2, 1)));
        self.elements(&mut script, &BTreeMap::from([(example, Some(60))]));
        self.nft(&["-c", "-f", "-"], &script).map_err(Failed::why)?;
        let (table, hooks) = (self.table(), self.options.hooks.join(" and "));
        let holds = match self.read(micros(now)).map_err(Failed::why)? {
            None => "it is not there yet".to_owned(),
            Some(found) => match found.wrong {
                Some(wrong) => format!("it would be made anew, since it was changed ({wrong})"),
                None => {
                    let count = found.held.elements.len() + found.endless.len();
                    format!("it is there and holds {count} addresses and ranges")
                }
            },
        };
        let (deny, priority) = (self.options.deny.name(), self.options.priority);
        Ok(format!(
            "{version} takes the table {table} ({deny} at {hooks}, priority {priority}); {holds}"
        ))
    }

    fn clean(&mut self) -> Result<String, String> {
        let table = self.table();
        let Some(found) = self.read(0).map_err(Failed::why)? else {
            return Ok(format!("there is no table {table}"));
        };
        let count = found.held.elements.len() + found.endless.len();
        let script = format!("add table {table}\ndelete table {table}\n");
        self.nft(&["-f", "-"], &script).map_err(Failed::why)?;
        self.held = None;
        Ok(format!("the table {table} with {count} addresses and ranges"))
    }
}

impl Firewall {
    /// Makes the changes that a comparison asks for, all that can be made.
    fn mend(&mut self, changes: &[Change], now: Micros) -> Result<(), Trouble> {
        let mut rest = changes;
        let mut refused = Vec::new();
        while !rest.is_empty() && refused.len() < REFUSED_MAX {
            let chunk = rest.get(..rest.len().min(BATCH)).unwrap_or(rest);
            let (made, trouble) = self.apply_most(chunk, now);
            let mut passed = made;
            match trouble {
                None => {}
                Some(Trouble::Refused { why }) => {
                    refused.push(why);
                    passed += 1;
                }
                Some(other) => return Err(other),
            }
            rest = rest.get(passed..).unwrap_or_default();
        }
        match refused.first() {
            None => Ok(()),
            Some(why) => {
                Err(Trouble::later(format!("{} could not be mended: {why}", refused.len())))
            }
        }
    }
}
