//! All loaded patterns together: a record in, its events out.

use super::event::Run;
use super::filter::{Filter, Lookup};
use super::prefilter::Prefilter;
use super::spec::{Pattern, Reading};
use super::template::{CaptureKind, Stop};
use super::{BUILT_IN, Event, EventIp, Events, PatternId, Standing, WEIGHT_MAX};
use crate::decode::addr::{self, NeverBlock};
use crate::decode::envelope::CUT;
use crate::decode::fields::{FieldName, Role};
use crate::decode::level::Level;
use crate::decode::word::Word;
use crate::decode::{Messages, Record};
use std::borrow::Cow;
use std::net::IpAddr;

/// The number of [`super::LOG_INJECTION`].
pub const INJECTION_ID: PatternId = 0;
/// The number of [`super::PATTERN_NEAR_MISS`].
pub const NEAR_MISS_ID: PatternId = 1;

/// Says in which country an address is. The database behind it is read before the stream begins.
pub trait Countries: Send + Sync {
    /// The country's code, upper case.
    fn country(&self, ip: IpAddr) -> Option<String>;
}

/// What a rule wants to know of events; the set knows nothing else about rules.
#[derive(Debug, Clone, Default)]
pub struct Counting {
    /// The patterns it counts, by name.
    pub on: Vec<String>,
    /// Only events for which this holds.
    pub filter: Filter,
    /// And this does not.
    pub unless: Filter,
    /// Fields whose values its counting needs.
    pub fields: Vec<String>,
}

/// The loaded patterns, and what loaded rules want to know of their events.
pub struct PatternSet {
    patterns: Vec<Pattern>,
    prefilter: Prefilter,
    /// By pattern number: the rules that count it, with the tests by which they narrow it.
    rules: Vec<Vec<u16>>,
    /// By pattern number: whether one of them narrows it.
    narrowed: Vec<bool>,
    counting: Vec<Counting>,
    counted: Vec<String>,
    /// All that rules count per or compare, roles too: what a capture of theirs says must be sure.
    compared: Vec<String>,
    /// The same, to be looked up.
    counted_names: Vec<FieldName>,
    /// By pattern number: those of them that rules on it count.
    slots: Vec<Vec<u16>>,
    /// By pattern: how messages begin that it could read, or that claim to be it.
    heads: Vec<Option<Heads>>,
    /// By the first byte of a message: the patterns that it may be for; and those that any may be for.
    by_first: Vec<Vec<usize>>,
    every: Vec<usize>,
    /// By pattern: the levels of which a record must have one, if it reads nothing.
    levels: Vec<Option<Levels>>,
    /// Some pattern reads messages.
    reads: bool,
    reason: FieldName,
    never: NeverBlock,
    countries: Option<Box<dyn Countries>>,
}

impl std::fmt::Debug for PatternSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatternSet").field("patterns", &self.patterns.len()).finish_non_exhaustive()
    }
}

/// How the messages of one pattern begin.
#[derive(Debug)]
struct Heads {
    first: Word,
    more: Box<[Word]>,
}

impl Heads {
    /// None: any message may be for it.
    fn of(pattern: &Pattern) -> Option<Self> {
        let mut heads = pattern.leads().map(|lead| Word::of(lead.as_bytes()));
        let (first, more) = (heads.next()?, heads.collect::<Box<[Word]>>());
        (more.len() + 1 == pattern.readings.len()).then_some(Self { first, more })
    }

    #[inline]
    fn begin(&self, message: u64) -> bool {
        self.first.begins(message) || self.more.iter().any(|head| head.begins(message))
    }

    /// Whether a message may begin so, by its first byte.
    fn may_begin(&self, first: u8) -> bool {
        self.first.may_begin(first) || self.more.iter().any(|head| head.may_begin(first))
    }
}

/// Some of the levels, a bit each.
#[derive(Debug, Clone, Copy)]
struct Levels(u8);

impl Levels {
    /// None: something else is asked first, or there may be something to be said of a record of another
    /// level.
    fn of(pattern: &Pattern) -> Option<Self> {
        let levels = pattern.filter.levels_first().filter(|_| pattern.readings.is_empty())?;
        Some(Self(levels.into_iter().fold(0, |all, level| all | 1 << level as u8)))
    }

    fn hold(self, level: Option<Level>) -> bool {
        level.is_some_and(|level| self.0 & 1 << level as u8 != 0)
    }
}

/// What a record was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Matched {
    /// Its events: those of patterns first, in their order, then what Portcullis raised.
    pub events: Run,
    /// Some pattern named it.
    pub named: bool,
    /// The patterns it begins like without being them.
    pub near_misses: Run,
    /// A capture could be read in two ways.
    pub ambiguous: bool,
    /// Structure and text disagreed, and structure won.
    pub conflict: bool,
    /// The only address belongs to a proxy.
    pub proxy_hidden: bool,
}

/// How one pattern met a record, for people.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is that event; captures by name, `None` where two readings differ.
    Matches(Vec<(String, Option<String>)>),
    /// The message fits, this field does not.
    FieldDiffers(String),
    /// The message stops fitting.
    MessageStops(Stop),
    /// A regular expression finds nothing.
    RegexFails,
}

struct Identity<'r> {
    ip: Option<EventIp>,
    user: Option<Cow<'r, str>>,
    user_id: Option<Cow<'r, str>>,
}

struct Capture<'t> {
    name: Cow<'t, str>,
    role: Option<Role>,
    /// `None`: two readings differ.
    value: Option<Cow<'t, str>>,
}

impl PatternSet {
    /// The set for `patterns` and the rules that count their events.
    pub fn new(
        patterns: Vec<Pattern>,
        counting: Vec<Counting>,
        never: NeverBlock,
        countries: Option<Box<dyn Countries>>,
    ) -> Self {
        let prefilter = Prefilter::new(&patterns);
        let mut names: Vec<&str> = BUILT_IN.to_vec();
        names.extend(patterns.iter().map(|pattern| pattern.name.as_str()));
        let by_pattern: Vec<Vec<u16>> = names
            .iter()
            .map(|name| {
                (0u16..)
                    .zip(&counting)
                    .filter(|(_, rule)| rule.on.iter().any(|on| on == name))
                    .map(|(number, _)| number)
                    .collect()
            })
            .collect();
        let mut counted: Vec<String> = counting
            .iter()
            .flat_map(|counting| counting.fields.iter().cloned())
            .filter(|name| !is_role(name))
            .collect();
        counted.sort();
        counted.dedup();
        let slot_of = |name: &String| {
            let slot = counted.iter().position(|known| known == name)?;
            u16::try_from(slot).ok()
        };
        let slots = by_pattern
            .iter()
            .map(|rules| {
                let rules = rules.iter().filter_map(|number| counting.get(usize::from(*number)));
                let mut slots: Vec<u16> =
                    rules.flat_map(|rule| &rule.fields).filter_map(slot_of).collect();
                slots.sort_unstable();
                slots.dedup();
                slots
            })
            .collect();
        let narrows = |number: &u16| {
            let rule = counting.get(usize::from(*number));
            rule.is_some_and(|rule| !rule.filter.is_empty() || !rule.unless.is_empty())
        };
        let narrowed = by_pattern.iter().map(|rules| rules.iter().any(narrows)).collect();
        let heads: Vec<Option<Heads>> = patterns.iter().map(Heads::of).collect();
        let by_first = (0..=u8::MAX).map(|first| {
            let may = |(_, heads): &(usize, &Option<Heads>)| {
                heads.as_ref().is_none_or(|heads| heads.may_begin(first))
            };
            heads.iter().enumerate().filter(may).map(|(index, _)| index).collect()
        });
        Self {
            by_first: by_first.collect(),
            every: (0..patterns.len()).collect(),
            levels: patterns.iter().map(Levels::of).collect(),
            slots,
            narrowed,
            heads,
            reads: patterns.iter().any(|pattern| !pattern.readings.is_empty()),
            counted_names: counted.iter().map(|name| FieldName::new(name)).collect(),
            reason: FieldName::new("reason"),
            prefilter,
            rules: by_pattern,
            compared: counting.iter().flat_map(|rule| rule.fields.iter().cloned()).collect(),
            counting,
            counted,
            never,
            countries,
            patterns,
        }
    }

    /// The test of raw lines.
    pub fn prefilter(&self) -> &Prefilter {
        &self.prefilter
    }

    /// The loaded patterns; their numbers begin behind the built-in ones.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Fields beyond roles whose values events carry.
    pub fn counted(&self) -> &[String] {
        &self.counted
    }

    /// The names of all patterns, by number.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let own = self.patterns.iter().map(|pattern| pattern.name.as_str());
        BUILT_IN.into_iter().chain(own)
    }

    /// A pattern's name.
    pub fn name(&self, id: PatternId) -> &str {
        let id = usize::from(id);
        match id.checked_sub(BUILT_IN.len()) {
            None => BUILT_IN.get(id).copied().unwrap_or_default(),
            Some(index) => self.patterns.get(index).map_or("", |pattern| &pattern.name),
        }
    }

    /// A pattern's number.
    pub fn id(&self, name: &str) -> Option<PatternId> {
        let built_in = BUILT_IN.iter().position(|known| *known == name);
        let index = built_in.or_else(|| {
            let index = self.patterns.iter().position(|pattern| pattern.name == name)?;
            Some(index + BUILT_IN.len())
        })?;
        PatternId::try_from(index).ok()
    }

    /// The events of a record, put behind those in `out`.
    pub fn matches(&self, record: &Record<'_>, out: &mut Events) -> Matched {
        let mut matched = Matched::default();
        let (first, first_near) = (out.list.len(), out.near_misses.len());
        let mut read = false;
        let lookup = |name: &FieldName| record.lookup(name);
        // Not every set asks for them.
        let messages = self.reads.then(|| record.messages());
        let messages = messages.as_ref().map_or(&[][..], Messages::all);
        let begin = |message: &Cow<'_, str>| Word::of(message.as_bytes()).bytes;
        // Nearly always there is one message.
        let (first_message, more) =
            messages.split_first().map_or((0, &[][..]), |(first, more)| (begin(first), more));
        let may = |heads: &Heads| {
            heads.begin(first_message) || more.iter().any(|message| heads.begin(begin(message)))
        };
        let [first_byte, ..] = first_message.to_le_bytes();
        let of_first = self.by_first.get(usize::from(first_byte)).filter(|_| more.is_empty());
        let mut level = None;
        for index in of_first.unwrap_or(&self.every).iter().copied() {
            let Some(pattern) = self.patterns.get(index) else { continue };
            if let Some(Some(heads)) = self.heads.get(index)
                && !may(heads)
            {
                continue;
            }
            if let Some(Some(levels)) = self.levels.get(index)
                && !levels.hold(*level.get_or_insert_with(|| record.level()))
            {
                continue;
            }
            let id = PatternId::try_from(index + BUILT_IN.len()).unwrap_or(PatternId::MAX);
            let captures = match captures(pattern, messages, record.goes_on()) {
                Some(captures) => captures,
                None => {
                    if claims(pattern, messages) {
                        out.near_misses.push(id);
                    }
                    continue;
                }
            };
            if !holds(pattern, record, &lookup) {
                let filter = &pattern.filter;
                let may = record.is_early() && filter.holds_if(&lookup, true);
                if !pattern.readings.is_empty() && (may || filter.holds_but_logger(&lookup)) {
                    out.near_misses.push(id);
                }
                continue;
            }
            matched.named = true;
            read |= !pattern.readings.is_empty();
            self.event(id, pattern, record, &captures, &mut matched, out);
        }
        if !matched.named && out.near_misses.len() == first_near && self.reads {
            out.near_misses.extend(self.elsewhere(record));
        }
        // What another pattern has read is explained, however it begins.
        if read {
            out.near_misses.truncate(first_near);
        }
        if matched.named && (matched.ambiguous || record.doubts().any()) {
            let of = out.list.get(first).map(|event| event.pattern);
            self.raise(INJECTION_ID, of, record, out);
        }
        for near in first_near..out.near_misses.len() {
            let near = out.near_misses.get(near).copied();
            self.raise(NEAR_MISS_ID, near, record, out);
        }
        matched.events = Run::between(first, out.list.len());
        matched.near_misses = Run::between(first_near, out.near_misses.len());
        matched
    }

    /// The pattern that a record would meet if another text of it were its message: one under a second name,
    /// or one in a document that was not opened although no logger has written it.
    fn elsewhere(&self, record: &Record<'_>) -> Option<PatternId> {
        let id = |index: usize| PatternId::try_from(index + BUILT_IN.len()).ok();
        let led = |text: &str| {
            let leads = |pattern: &Pattern| pattern.leads().any(|lead| text.starts_with(lead));
            self.patterns.iter().position(leads)
        };
        if let Some(index) = record.other_messages().find_map(led) {
            return id(index);
        }
        let closed = record.closed().filter(|keys| !keys.is_empty() && record.logger().is_none());
        let message = closed.map(|_| record.message())?;
        let holds = |pattern: &Pattern| {
            let found =
                |lead| memchr::memmem::find(message.as_bytes(), str::as_bytes(lead)).is_some();
            pattern.leads().any(found)
        };
        id(self.patterns.iter().position(holds)?)
    }

    /// How `pattern` meets a record, for people.
    pub fn verdict(&self, pattern: &Pattern, record: &Record<'_>) -> Verdict {
        let messages = record.messages();
        if let Some(captures) = captures(pattern, messages.all(), record.goes_on()) {
            let failing = pattern.filter.first_failing(&|name| record.lookup(name));
            let holds = holds(pattern, record, &|name| record.lookup(name));
            let unsure = (!holds).then(|| "a field that may have been cut off".to_owned());
            return match failing.or(unsure) {
                Some(field) => Verdict::FieldDiffers(field),
                None => Verdict::Matches(
                    captures
                        .into_iter()
                        .map(|c| (c.name.into_owned(), c.value.map(Cow::into_owned)))
                        .collect(),
                ),
            };
        }
        let stops = pattern.readings.iter().filter_map(|reading| match reading {
            Reading::Template(template) => Some(template.stop(&record.message())),
            Reading::Regex { .. } => None,
        });
        stops.max_by_key(|stop| stop.at).map_or(Verdict::RegexFails, Verdict::MessageStops)
    }

    /// Who an event speaks of: structure before text, and nothing where something is in doubt.
    fn identify<'r>(
        &self,
        record: &'r Record<'_>,
        captures: &'r [Capture<'_>],
        matched: &mut Matched,
    ) -> Identity<'r> {
        // Of a record that was cut, the rest could contradict all that was found: nobody is locked out for it, and
        // its address only alerts.
        let sure = !record.is_early();
        let captured = |role: Role| {
            let capture = captures.iter().find(|c| c.role == Some(role))?;
            capture.value.as_deref()
        };
        let ambiguous = captures.iter().any(|c| {
            let identity = matches!(c.role, Some(Role::Ip | Role::User | Role::UserId));
            c.value.is_none()
                && (identity || self.compared.iter().any(|compared| *compared == *c.name))
        });
        matched.ambiguous |= ambiguous;
        let doubts = record.doubts();
        let mut settle = |structured: Option<Cow<'r, str>>, text: Option<Cow<'r, str>>, doubt| {
            if doubts.core || doubt {
                return None;
            }
            match (structured, text) {
                (Some(structured), Some(text)) => {
                    matched.conflict |= structured != text;
                    Some(structured)
                }
                (structured, text) => structured.or(text),
            }
        };
        let user = settle(
            record.user().filter(|_| sure).map(|fact| fact.value),
            captured(Role::User).filter(|_| sure).and_then(addr::normalize_user),
            doubts.user,
        );
        let user_id = settle(
            record.user_id().filter(|_| sure).map(|fact| fact.value),
            captured(Role::UserId)
                .filter(|_| sure)
                .and_then(|text| addr::canonical_id(text, false)),
            doubts.user_id,
        );
        let text_ip = captured(Role::Ip)
            .and_then(|text| record.own_ip_as(text).or_else(|| addr::parse_ip(text)));
        // What the edge says nobody else can, so that no doubt about the rest concerns it. Where it saw a
        // proxy, it does not say who is behind.
        let edge = record.edge().filter(|ip| self.never.covers(*ip).is_none());
        let structured = if edge.is_some() { record.ip() } else { record.own_ip() };
        let doubt = doubts.core || doubts.ip && edge.is_none();
        if let (Some(fact), false) = (&structured, doubt) {
            let own = record.own_ip().filter(|_| edge.is_some()).map(|own| own.ip);
            matched.conflict |= own.into_iter().chain(text_ip).any(|other| other != fact.ip);
        }
        let ip = if doubt {
            None
        } else {
            match structured {
                // What a client can write is no more than a claim where the message says something else.
                Some(fact) if fact.claimed && text_ip.is_some_and(|ip| ip != fact.ip) => {
                    Some((fact.ip, false))
                }
                Some(fact) => Some((fact.ip, fact.proven)),
                None => text_ip.map(|ip| (ip, true)),
            }
        };
        let ip = ip.and_then(|(ip, proven)| {
            if self.never.covers(ip).is_some() {
                matched.proxy_hidden = true;
                return None;
            }
            let standing = if !proven || !sure && edge.is_none() {
                Standing::Unproven
            } else if addr::alert_only(ip) {
                Standing::NoHost
            } else {
                Standing::Good
            };
            Some(EventIp { ip, standing })
        });
        Identity { ip, user, user_id }
    }

    fn event(
        &self,
        id: PatternId,
        pattern: &Pattern,
        record: &Record<'_>,
        captures: &[Capture<'_>],
        matched: &mut Matched,
        out: &mut Events,
    ) {
        let Identity { ip, user, user_id } = self.identify(record, captures, matched);
        let named =
            |name: &str| captures.iter().find(|c| c.name == name).and_then(|c| c.value.as_deref());
        let country = record.country().map(|fact| fact.value);
        let country = country
            .or_else(|| named("country").map(|country| Cow::Owned(country.to_uppercase())))
            .or_else(|| self.countries.as_ref()?.country(ip.as_ref()?.ip).map(Cow::Owned));
        let request_id = record.request_id().map(|fact| fact.value);
        let request_id = request_id.or_else(|| named("request_id").map(Cow::Borrowed));
        let weight = pattern.weight.as_deref().and_then(named).and_then(|n| n.parse::<i64>().ok());
        let weight = weight.map_or(1, |n| u32::try_from(n).unwrap_or(1).clamp(1, WEIGHT_MAX));
        let reason = named("reason").map(Cow::Borrowed).or_else(|| record.lookup(&self.reason));
        let field = |name: &FieldName| match captures.iter().find(|c| c.name == name.written) {
            Some(capture) => capture.value.as_deref().map(Cow::Borrowed),
            None => record.lookup(name),
        };
        let lookup = |name: &FieldName| -> Option<Cow<'_, str>> {
            match name.written.as_str() {
                "ip" => ip.map(|ip| Cow::Owned(ip.ip.to_string())),
                "user" => user.as_deref().map(Cow::Borrowed),
                "user_id" => user_id.as_deref().map(Cow::Borrowed),
                "country" => country.as_deref().map(Cow::Borrowed),
                "pattern" => Some(Cow::Borrowed(self.name(id))),
                _ => field(name),
            }
        };
        let texts = &mut out.texts;
        let slots = self.slots.get(usize::from(id)).map_or(&[][..], Vec::as_slice);
        let values = slots.iter().filter_map(|slot| {
            let name = self.counted_names.get(usize::from(*slot))?;
            Some((*slot, addr::bounded(field(name)?)))
        });
        let event = Event {
            pattern: id,
            weight,
            ip,
            user: user.as_deref().and_then(|user| texts.put(user)),
            user_id: user_id.as_deref().and_then(|id| texts.put(id)),
            country: country.as_deref().and_then(|country| texts.put(&addr::bounded(country))),
            reason: reason.as_deref().and_then(|reason| texts.put(&addr::bounded(reason))),
            request_id: request_id.as_deref().and_then(|id| texts.put(&addr::bounded(id))),
            values: texts.put_values(values),
            rules: match (self.narrowed.get(usize::from(id)), self.rules.get(usize::from(id))) {
                (Some(false), Some(rules)) => texts.put_rules(rules.iter().copied()),
                _ => texts.put_rules(self.narrowed(id, &lookup)),
            },
        };
        out.list.push(event);
    }

    /// The rules on pattern `id` whose own tests hold.
    pub fn narrowed<'l>(
        &'l self,
        id: PatternId,
        lookup: Lookup<'l>,
    ) -> impl Iterator<Item = u16> + 'l {
        let rules = self.rules.get(usize::from(id)).map(Vec::as_slice).unwrap_or_default();
        rules.iter().copied().filter(move |number| {
            self.counting.get(usize::from(*number)).is_none_or(|rule| {
                rule.filter.holds(lookup) && (rule.unless.is_empty() || !rule.unless.holds(lookup))
            })
        })
    }

    /// An event about a record rather than of it: nobody is to be held responsible, since what it
    /// tells is that somebody tampers with who that would be.
    fn raise(
        &self,
        id: PatternId,
        about: Option<PatternId>,
        record: &Record<'_>,
        out: &mut Events,
    ) {
        let about = about.map(|of| self.name(of)).unwrap_or_default();
        let request_id = record.request_id().map(|fact| fact.value);
        let lookup = |name: &FieldName| match name.written.as_str() {
            "pattern" => Some(Cow::Borrowed(about)),
            "level" | "logger" | "message" => record.lookup(name),
            _ => None,
        };
        let counted = (0u16..).zip(&self.counted);
        let values = counted.filter(|(_, name)| *name == "pattern").map(|(slot, _)| (slot, about));
        let texts = &mut out.texts;
        let event = Event {
            pattern: id,
            weight: 1,
            ip: None,
            user: None,
            user_id: None,
            country: None,
            reason: None,
            request_id: request_id.as_deref().and_then(|id| texts.put(id)),
            values: texts.put_values(values),
            rules: texts.put_rules(self.narrowed(id, &lookup)),
        };
        out.list.push(event);
    }
}

/// Whether a pattern's conditions hold, whatever was cut off of the record.
fn holds(pattern: &Pattern, record: &Record<'_>, lookup: Lookup<'_>) -> bool {
    let filter = &pattern.filter;
    if record.is_early() { filter.holds_if(lookup, false) } else { filter.holds(lookup) }
}

/// The captures of the first reading that fits one of a record's messages. Of a message that was cut, what
/// was cut away might have been read in another way: only what stands fast whatever follows is one.
fn captures<'t>(
    pattern: &'t Pattern,
    messages: &'t [Cow<'_, str>],
    goes_on: bool,
) -> Option<Vec<Capture<'t>>> {
    if pattern.readings.is_empty() {
        return Some(Vec::new());
    }
    let readings = &pattern.readings;
    messages.iter().find_map(|text| {
        let found = readings.iter().find_map(|way| Some((way, read_one(way, text)?)));
        let (way, mut captures) = found?;
        if goes_on && text.ends_with(CUT) {
            let fast = match way {
                Reading::Template(template) => template.fast(),
                Reading::Regex { .. } => &[],
            };
            captures.retain(|capture| fast.iter().any(|spec| spec.name == capture.name));
        }
        Some(captures)
    })
}

fn read_one<'t>(reading: &'t Reading, message: &'t str) -> Option<Vec<Capture<'t>>> {
    match reading {
        Reading::Template(template) => {
            let found = template.matches(message)?;
            let specs = template.captures();
            let mut captures = Vec::with_capacity(specs.len());
            for ((spec, early), late) in specs.iter().zip(&found.earliest).zip(found.latest()) {
                let text = &message[early.clone()];
                let same_text = early == late || same(spec.role, text, &message[late.clone()]);
                if same_text && matches!(spec.kind, CaptureKind::Json | CaptureKind::PyDict) {
                    captures.extend(nested(&spec.name, text));
                }
                let value = same_text.then_some(Cow::Borrowed(text));
                captures.push(Capture { name: Cow::Borrowed(&spec.name), role: spec.role, value });
            }
            Some(captures)
        }
        Reading::Regex { greedy, swapped, roles, .. } => {
            let found = greedy.captures(message)?;
            let other = swapped.captures(message);
            Some(
                roles
                    .iter()
                    .filter_map(|(name, role)| {
                        let text = found.name(name)?.as_str();
                        let other = other.as_ref().and_then(|o| o.name(name)).map(|m| m.as_str());
                        let same = other.is_some_and(|other| same(*role, text, other));
                        let value = same.then_some(Cow::Borrowed(text));
                        Some(Capture { name: Cow::Borrowed(name), role: *role, value })
                    })
                    .collect(),
            )
        }
    }
}

/// Whether two readings of a capture mean the same.
fn same(role: Option<Role>, a: &str, b: &str) -> bool {
    a == b
        || match role {
            Some(Role::Ip) => addr::parse_ip(a).is_some_and(|ip| addr::parse_ip(b) == Some(ip)),
            Some(Role::User | Role::UserId) => {
                let a = addr::normalize_user(a);
                a.is_some() && a == addr::normalize_user(b)
            }
            _ => false,
        }
}

/// Names that are fields of the event itself.
pub fn is_role(name: &str) -> bool {
    matches!(name, "ip" | "user" | "user_id" | "country" | "request_id")
}

/// Whether a message begins like `pattern`.
fn claims(pattern: &Pattern, messages: &[Cow<'_, str>]) -> bool {
    messages.first().is_some_and(|message| pattern.leads().any(|lead| message.starts_with(lead)))
}

/// The scalars inside a captured document, by `name.path`.
fn nested(name: &str, text: &str) -> Vec<Capture<'static>> {
    let json = pydict_to_json(text);
    let Ok(document) = crate::decode::json::read(&json) else { return Vec::new() };
    let Some(crate::decode::json::Value::Object(members)) = document.values.first() else {
        return Vec::new();
    };
    crate::decode::fields::flatten(members)
        .into_iter()
        .map(|field| Capture {
            name: Cow::Owned(format!("{name}.{}", field.shown)),
            role: None,
            value: Some(Cow::Owned(field.text.into_owned())),
        })
        .collect()
}

/// Python's dict as JSON, as far as its scalars go: quotes, `True`, `False`, `None`, tuples.
fn pydict_to_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        match word.as_str() {
            "True" => out.push_str("true"),
            "False" => out.push_str("false"),
            "None" => out.push_str("null"),
            other => out.push_str(other),
        }
        word.clear();
    };
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-') {
            word.push(c);
            continue;
        }
        flush(&mut word, &mut out);
        match c {
            '\'' | '"' => {
                out.push('"');
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => match chars.next() {
                            Some('\'') => out.push('\''),
                            Some(next) => out.extend(['\\', next]),
                            None => {}
                        },
                        _ if inner == c => break,
                        '"' => out.push_str("\\\""),
                        _ => out.push(inner),
                    }
                }
                out.push('"');
            }
            '(' => out.push('['),
            ')' => out.push(']'),
            _ => out.push(c),
        }
    }
    flush(&mut word, &mut out);
    out
}
