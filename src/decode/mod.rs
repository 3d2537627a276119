//! A line becomes records: fields by role, each with the place it came from. Pure.
//!
//! The order of trust is decided here and in [`crate::pattern`]: fields that the logger wrote as
//! structure beat text; two structured values that contradict each other are both dropped, because
//! one of them was written by somebody else.

pub mod addr;
pub mod carrier;
pub mod envelope;
pub mod fields;
pub mod flat;
pub mod json;
pub mod lanes;
pub mod level;
pub mod print;
pub mod text;
pub mod time;
pub mod word;

use addr::{Nets, NeverBlock};
use envelope::Outer;
use fields::{Cast, Field, FieldMap, FieldName, Hit, Kind, Names, Role};
use level::Level;
use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use time::{When, Zone};

/// What decoding depends on besides the line.
#[derive(Debug, Clone, Default)]
pub struct DecodeConfig {
    /// Names of fields by role.
    pub fields: FieldMap,
    /// The zone of times that name none.
    pub zone: Zone,
    /// Proxies whose word about an address is taken.
    pub trusted: Nets,
    /// Addresses that are never a client.
    pub never: NeverBlock,
}

/// Why a line could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unread {
    /// It begins like JSON and is none.
    Syntax,
    /// It ends before anything in it is complete.
    Truncated,
    /// Whoever handed it on has left its message out.
    Omitted,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unread::Syntax => "syntax",
            Unread::Truncated => "truncated",
            Unread::Omitted => "omitted",
        })
    }
}

/// What a line was.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<'c> {
    /// Blank.
    Empty,
    /// Nothing that can be read.
    Unread(Unread, String),
    /// A part of a longer line, to be joined before it means anything.
    Partial,
    /// Its records; none for a probe or an empty batch.
    Records(Vec<Record<'c>>),
}

/// What a line was, its records apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Blank.
    Empty,
    /// Nothing that can be read, but for what was handed over all the same.
    Unread(Unread, String),
    /// A part of a longer line, to be joined before it means anything.
    Partial,
    /// Its records were handed over; none for a probe or an empty batch.
    Records,
}

/// A value with the path of the field it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact<'r> {
    /// The value, canonical.
    pub value: Cow<'r, str>,
    /// Where it stood, as written.
    pub from: &'r str,
}

/// The address of a client with what is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpFact<'r> {
    /// Canonical.
    pub ip: IpAddr,
    /// False if a client could have chosen it: it counts and alerts, but never blocks.
    pub proven: bool,
    /// From a header that proxies write, while the configuration names no proxy.
    pub claimed: bool,
    /// Where it stood, as written.
    pub from: &'r str,
}

/// Contradictions between structured values of one record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Differing addresses.
    pub ip: bool,
    /// Differing user names.
    pub user: bool,
    /// Differing user ids.
    pub user_id: bool,
    /// The message, time or logger is there twice, with different values: no identity is safe.
    pub core: bool,
    /// The time is, so that it tells nothing.
    pub time: bool,
}

impl Doubts {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// What a plain-text line says beside its fields.
#[derive(Debug, Clone, Default, PartialEq)]
struct Header<'a> {
    when: Option<When>,
    level: Option<Level>,
    logger: Option<Cow<'a, str>>,
    /// The message as read, then the whole line.
    messages: Vec<Cow<'a, str>>,
    /// Several addresses stand in it where one should.
    disputed: bool,
}

/// What the envelopes of a record say.
#[derive(Debug, Clone)]
enum OuterOf<'a> {
    Borrowed(&'a Outer),
    Owned(Box<Outer>),
}

impl std::ops::Deref for OuterOf<'_> {
    type Target = Outer;

    fn deref(&self) -> &Outer {
        match self {
            OuterOf::Borrowed(outer) => outer,
            OuterOf::Owned(outer) => outer,
        }
    }
}

/// Who a record speaks of by its structure, worked out when it is first asked for.
#[derive(Debug, Clone, Default, PartialEq)]
struct Identities {
    ip: Option<Address>,
    user: Option<Identity>,
    user_id: Option<Identity>,
    doubts: Doubts,
}

/// A client's address, as in [`IpFact`], and the place of its field.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Address {
    ip: IpAddr,
    proven: bool,
    claimed: bool,
    field: u32,
}

/// An account: the field that names it, and its canonical form where that is not the field's text.
#[derive(Debug, Clone, PartialEq)]
struct Identity {
    field: u32,
    canonical: Option<String>,
}

/// One record, decoded: its fields, and what they mean, worked out as far as it is asked for.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    config: &'a DecodeConfig,
    /// Every scalar of its own.
    fields: Vec<Field<'a>>,
    /// The roles they play. A field that only stands in a text of pairs plays none.
    cast: Arc<Cast>,
    /// Boxed, because records are handed on and most have none.
    header: Option<Box<Header<'a>>>,
    /// What its envelopes say.
    outer: OuterOf<'a>,
    shape: &'static str,
    /// The names of its fields, as far as they are known.
    names: Names,
    /// Nothing in what its fields borrow is for terminals.
    calm: bool,
    /// The client's address by the word of the platform's edge.
    edge: Option<IpAddr>,
    identities: OnceCell<Identities>,
}

impl PartialEq for Record<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
            && self.cast == other.cast
            && self.header == other.header
            && *self.outer == *other.outer
            && self.shape == other.shape
    }
}

impl<'a> Record<'a> {
    fn new(
        config: &'a DecodeConfig,
        shape: &'static str,
        fields: Vec<Field<'a>>,
        cast: Arc<Cast>,
        outer: OuterOf<'a>,
    ) -> Self {
        Self {
            config,
            fields,
            cast,
            header: None,
            outer,
            shape,
            names: Names::ANY,
            calm: false,
            edge: None,
            identities: OnceCell::new(),
        }
    }

    /// The same record, borrowing from nothing but the configuration.
    pub fn into_owned(self, config: &DecodeConfig) -> Record<'_> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let header = self.header.map(|header| {
            let Header { when, level, logger, messages, disputed } = *header;
            let (logger, messages) = (logger.map(owned), messages.into_iter().map(owned).collect());
            Box::new(Header { when, level, logger, messages, disputed })
        });
        Record {
            config,
            fields: self.fields.into_iter().map(Field::into_owned).collect(),
            cast: self.cast,
            header,
            outer: OuterOf::Owned(Box::new((*self.outer).clone())),
            shape: self.shape,
            names: self.names,
            calm: false,
            edge: self.edge,
            identities: self.identities,
        }
    }

    /// The fields that may play a role, the surest first, repetitions in their order.
    fn of(&self, role: Role) -> impl Iterator<Item = Hit<'_>> + Clone {
        self.cast.of(role).iter().filter_map(|plays| {
            let field = self.fields.get(plays.field as usize)?;
            Some(Hit { field, rank: plays.rank, index: plays.field })
        })
    }

    fn texts(&self, role: Role) -> impl Iterator<Item = &Field<'_>> + Clone {
        self.of(role).map(|hit| hit.field).filter(|field| field.kind == Kind::Text)
    }

    /// What it was wrapped in, outermost first, ending with its own shape.
    pub fn layers(&self) -> impl Iterator<Item = &'static str> {
        self.outer.layers.iter().copied().chain([self.shape])
    }

    /// Something in its JSON had to be bent to read it.
    pub fn bent(&self) -> bool {
        self.outer.bent
    }

    /// Texts under other names of a message than that of its own, such as `event` beside `message`.
    pub fn other_messages(&self) -> impl Iterator<Item = &str> {
        let own = self.message_field();
        let others = self
            .texts(Role::Message)
            .filter(move |field| !field.listed && own.is_some_and(|own| own.text != field.text));
        others.map(|field| &*field.text)
    }

    /// Whether a line was cut in its message, or before all of its fields were there.
    pub fn goes_on(&self) -> bool {
        self.outer.cut || self.outer.early
    }

    /// Whether a line was cut before all of its fields were there.
    pub fn is_early(&self) -> bool {
        self.outer.early
    }

    /// When it happened, by its own word or that of its innermost envelope with a time.
    pub fn when(&self) -> Option<When> {
        self.header
            .as_ref()
            .and_then(|header| header.when)
            .or_else(|| self.own_when())
            .or(self.outer.when)
    }

    /// By the first of its fields that is a time; where a shipper has written `@timestamp` beside
    /// `timestamp`, by the latter.
    fn own_when(&self) -> Option<When> {
        let zone = &self.config.zone;
        let read = |hit: &Hit<'_>| Some((hit.index, read_time(hit.field, zone)?));
        let (index, first) = self.of(Role::Time).find_map(|hit| read(&hit))?;
        let field = self.fields.get(index as usize).filter(|field| is_stamped(field));
        let own = field.and_then(|field| {
            let mut others = self.of(Role::Time).filter(|hit| !is_stamped(hit.field));
            let (_, own) =
                others.find_map(|hit| read(&hit).filter(|_| hit.field.is(&field.path())))?;
            is_moment_later(own, first).then_some(own)
        });
        Some(own.unwrap_or(first))
    }

    /// Normalised level.
    pub fn level(&self) -> Option<Level> {
        let answers: Answers<'_> = Answers::new(self);
        self.of(Role::Level)
            .find_map(|hit| read_level(hit.field, &|path| answers.has(path)))
            .or(self.header.as_ref().and_then(|header| header.level))
            .or(self.outer.level)
    }

    /// The logger's name.
    pub fn logger(&self) -> Option<&str> {
        let answers: Answers<'_> = Answers::new(self);
        self.of(Role::Logger)
            .filter(|hit| {
                matches!(hit.field.kind, Kind::Text | Kind::Number | Kind::Bool)
                    && !addr::trimmed(&hit.field.text).is_empty()
            })
            .find(|hit| logger_name_counts(hit.field, &|path| answers.has(path)))
            .map(|hit| hit.field.text.as_ref())
            .or(self.header.as_ref().and_then(|header| header.logger.as_deref()))
            .or(self.outer.logger.as_deref())
    }

    /// The text that patterns read.
    pub fn message(&self) -> Cow<'_, str> {
        match self.header_messages().first() {
            Some(message) => Cow::Borrowed(message),
            None => self.message_field().map_or(Cow::Borrowed(""), |field| self.plain(field)),
        }
    }

    /// Whether there is a text that patterns read.
    pub fn has_message(&self) -> bool {
        !self.header_messages().is_empty() || self.message_field().is_some()
    }

    /// If its message is a document that was not opened, as it would be in a carrier's record: those of
    /// its keys that no carrier writes; none if it is for another reason.
    pub fn closed(&self) -> Option<Vec<&str>> {
        let message = &self.message_field().filter(|_| self.header_messages().is_empty())?.text;
        if !message.trim_start().starts_with('{') || json::read(message).is_err() {
            return None;
        }
        if matches!(self.outer.layers.last(), Some(&("otlp" | "loki"))) {
            return Some(Vec::new());
        }
        let mut keys: Vec<&str> = self.fields.iter().map(Field::key).collect();
        keys.dedup();
        let source = self.raw("sourcetype").map(|field| &*field.text);
        let normal: Vec<String> = keys.iter().map(|key| fields::normalize(key)).collect();
        let logstash = keys.contains(&"@version");
        let foreign = carrier::foreign(&normal, source, logstash);
        Some(foreign.into_iter().filter_map(|place| keys.get(place).copied()).collect())
    }

    fn header_messages(&self) -> &[Cow<'a, str>] {
        self.header.as_ref().map_or(&[], |header| header.messages.as_slice())
    }

    fn message_field(&self) -> Option<&Field<'_>> {
        self.texts(Role::Message).next()
    }

    /// The message, and further ones if its key was repeated or it stands there under two names; for
    /// plain text, the whole line last.
    pub fn messages(&self) -> Messages<'_> {
        let all = self.header_messages();
        if !all.is_empty() {
            let all = all.iter().map(|text| Cow::Borrowed(&**text));
            return Messages::Several(all.collect());
        }
        let mut texts = self.texts(Role::Message);
        let Some(first) = texts.next() else { return Messages::Several(Vec::new()) };
        let mut texts = texts.peekable();
        if texts.peek().is_none() {
            return Messages::One(self.plain(first));
        }
        let mut messages = vec![self.plain(first)];
        let path = first.path();
        let mut known = HashSet::from([first.text.as_ref()]);
        let rivals = RIVALS.iter().filter(|(one, _)| *one == path);
        let repeats = |field: &&Field<'_>| {
            field.is(&path)
                || field.object == first.object
                    && rivals.clone().any(|(_, other)| is_rival(field, other))
        };
        for field in texts.filter(repeats) {
            if known.insert(&field.text) {
                messages.push(self.plain(field));
            }
        }
        Messages::Several(messages)
    }

    /// A field's text as patterns read it: without colours and what else a terminal would not show.
    fn plain<'r>(&self, field: &'r Field<'_>) -> Cow<'r, str> {
        match &field.text {
            Cow::Borrowed(text) if self.calm => Cow::Borrowed(text),
            text => text::strip_ansi(text),
        }
    }

    fn identities(&self) -> &Identities {
        self.identities.get_or_init(|| {
            let time = self.times_differ();
            let core = [Role::Message, Role::Logger];
            let core = core.into_iter().any(|role| repeated(self.of(role)))
                || time
                || [Role::Message, Role::Logger].into_iter().any(|role| rivals(self.of(role)));
            let (ip, mut ip_doubt) = settle(
                self.of(Role::Ip).filter(|hit| !self.is_senders(hit)),
                |hit| read_ip(hit.field, self.config),
                |(a, _), (b, _)| a == b,
            );
            let own = |(field, (ip, proven))| Address { ip, proven, claimed: false, field };
            let mut ip = ip.map(own);
            ip_doubt |= self.header.as_ref().is_some_and(|header| header.disputed);
            let never = &self.config.never;
            let hidden = ip.is_none_or(|own| never.covers(own.ip).is_some());
            let twice = hidden && repeated(self.of(Role::Forwarded));
            if twice {
                (ip, ip_doubt) = (None, true);
            } else if hidden && !ip_doubt {
                let claimed = self.config.trusted.is_empty();
                let forwarded = self.of(Role::Forwarded).find_map(|hit| {
                    let (address, proven) = read_ip(hit.field, self.config)?;
                    // What is private beside it may be no proxy but a gateway, which passes on what clients write.
                    let proven = proven && !(claimed && ip.is_some());
                    Some(Address { ip: address, proven, claimed, field: hit.index })
                });
                ip = forwarded.or(ip);
            }
            let (user, user_doubt) = settle(
                self.of(Role::User),
                |hit| {
                    (hit.field.kind == Kind::Text).then(|| addr::normalize_user(&hit.field.text))?
                },
                |a, b| a == b,
            );
            // Of a name made of digits, Railway's command line makes a number; beside a text it is an id.
            let number = |hit: &Hit<'_>| {
                hit.field.kind == Kind::Number && json::is_strict_number(hit.field.text.trim())
            };
            let number = self.of(Role::User).find(number).filter(|_| user.is_none() && !user_doubt);
            let user = user.or_else(|| {
                let hit = number?;
                let value = addr::canonical_id(&hit.field.text, true)?.into_owned();
                Some((hit.index, Cow::Owned(value)))
            });
            let (user_id, id_doubt) = settle(
                self.of(Role::UserId),
                |hit| match hit.field.kind {
                    Kind::Text => addr::canonical_id(&hit.field.text, false),
                    Kind::Number => addr::canonical_id(&hit.field.text, true),
                    Kind::Bool | Kind::Null | Kind::List => None,
                },
                |a, b| a == b,
            );
            let identity = |(field, value): (u32, Cow<'_, str>)| {
                let own = self.fields.get(field as usize).is_some_and(|own| own.text == value);
                Identity { field, canonical: (!own).then(|| value.into_owned()) }
            };
            Identities {
                ip,
                user: user.map(identity),
                user_id: user_id.map(identity),
                doubts: Doubts { ip: ip_doubt, user: user_doubt, user_id: id_doubt, core, time },
            }
        })
    }

    /// Whether one name of a time stands there twice with different values, or two names by which loggers call the
    /// time of a record, further apart than a shipper takes. What the configuration names is trusted.
    fn times_differ(&self) -> bool {
        let all = || self.of(Role::Time).filter(|hit| !hit.field.listed);
        if all().nth(1).is_none() || all().any(|hit| hit.rank < FieldMap::CONFIGURED) {
            return repeated(all());
        }
        let (stamped, own) =
            (all().filter(|hit| is_stamped(hit.field)), all().filter(|hit| !is_stamped(hit.field)));
        let names = |hit: &Hit<'_>| LOGGERS_TIMES.iter().any(|name| hit.field.is(name));
        let read = |hit: Hit<'_>| read_time(hit.field, &self.config.zone);
        let said: Vec<When> = all().filter(names).filter_map(read).collect();
        // Of an hour that a clock showed twice, beside a time that tells which of them it was.
        let are_apart = |of: fn(When) -> Option<time::Micros>| {
            let times = || said.iter().copied().filter_map(of);
            let span = times().min().zip(times().max());
            span.is_some_and(|(first, last)| last.abs_diff(first) > ON_THE_WAY)
        };
        let apart = are_apart(When::first) && are_apart(When::again);
        apart || repeated(own) || repeated(stamped)
    }

    /// Whether an address is that of the machine which sent the line to Vector's syslog source.
    fn is_senders(&self, hit: &Hit<'_>) -> bool {
        hit.field.is("sourceip")
            && hit.rank >= FieldMap::CONFIGURED
            && self.raw("sourcetype").is_some_and(|source| source.text == "syslog")
    }

    /// The client's address by the word of the platform's edge, which no client and no application can
    /// write.
    pub fn edge(&self) -> Option<IpAddr> {
        self.edge
    }

    /// Says whose request it is about by the word of the platform's edge.
    pub fn with_edge(self, edge: Option<IpAddr>) -> Self {
        Self { edge, ..self }
    }

    /// The client's address: the edge's word, else its own.
    pub fn ip(&self) -> Option<IpFact<'_>> {
        let from = "the edge's srcIp";
        let edge = self.edge.map(|ip| IpFact { ip, proven: true, claimed: false, from });
        edge.or_else(|| self.own_ip())
    }

    /// The client's address by its own word.
    pub fn own_ip(&self) -> Option<IpFact<'_>> {
        let Address { ip, proven, claimed, field } = self.identities().ip?;
        Some(IpFact { ip, proven, claimed, from: &self.fields.get(field as usize)?.shown })
    }

    /// Its [own address](Self::own_ip), if that is what `text` is read as: most lines say it twice.
    pub fn own_ip_as(&self, text: &str) -> Option<IpAddr> {
        let Address { ip, field, .. } = self.identities().ip?;
        // A list is read in another way than a single address.
        let same = *self.fields.get(field as usize)?.text == *text && !text.contains(',');
        same.then_some(ip)
    }

    /// The account by name.
    pub fn user(&self) -> Option<Fact<'_>> {
        self.fact(self.identities().user.as_ref()?)
    }

    /// The account by id.
    pub fn user_id(&self) -> Option<Fact<'_>> {
        self.fact(self.identities().user_id.as_ref()?)
    }

    fn fact<'r>(&'r self, identity: &'r Identity) -> Option<Fact<'r>> {
        let field = self.fields.get(identity.field as usize)?;
        let value = identity.canonical.as_deref().unwrap_or(&field.text);
        Some(Fact { value: Cow::Borrowed(value), from: &field.shown })
    }

    /// Contradictions.
    pub fn doubts(&self) -> Doubts {
        self.identities().doubts
    }

    /// The request this belongs to.
    pub fn request_id(&self) -> Option<Fact<'_>> {
        self.of(Role::RequestId).find_map(|hit| {
            let value = addr::canonical_id(&hit.field.text, hit.field.kind == Kind::Number)?;
            Some(Fact { value, from: &hit.field.shown })
        })
    }

    /// The client's country, upper case.
    pub fn country(&self) -> Option<Fact<'_>> {
        self.of(Role::Country).find_map(|hit| {
            let value = hit.field.text.trim().to_uppercase();
            let usable = !value.is_empty()
                && value.len() <= 64
                && value != "XX"
                && !addr::is_non_value(&value)
                && hit.field.kind == Kind::Text;
            usable.then(|| Fact { value: Cow::Owned(value), from: &hit.field.shown })
        })
    }

    /// HTTP status.
    pub fn status(&self) -> Option<u16> {
        self.status_field().map(|(status, _)| status)
    }

    /// The status, and how it is written.
    fn status_field(&self) -> Option<(u16, &str)> {
        self.of(Role::Status).find_map(|hit| {
            let text = addr::trimmed(&hit.field.text);
            let status = text.parse().ok().filter(|status| (100..=599).contains(status))?;
            Some((status, text))
        })
    }

    /// Duration in milliseconds.
    pub fn duration_ms(&self) -> Option<f64> {
        let answers: Answers<'_> = Answers::new(self);
        self.of(Role::Duration)
            .find_map(|hit| fields::duration_ms(hit.field, |path| answers.has(path)))
    }

    fn request(&self) -> Option<(&str, &str)> {
        self.of(Role::Request).find_map(|hit| split_request(&hit.field.text))
    }

    /// Path without its query.
    pub fn path(&self) -> Option<&str> {
        let path = self.texts(Role::Path).next().map(|field| field.text.as_ref());
        path.or_else(|| self.request().map(|(_, path)| path)).map(without_query)
    }

    /// Method.
    pub fn method(&self) -> Option<&str> {
        let own = self.texts(Role::Method).next().map(|field| field.text.as_ref());
        own.or_else(|| self.request().map(|(method, _)| method))
    }

    /// A field's text by role or by name, for conditions and keys.
    pub fn lookup(&self, name: &FieldName) -> Option<Cow<'_, str>> {
        use Cow::{Borrowed, Owned};
        match name.role {
            Some(Role::Level) => self.level().map(|level| Borrowed(level.name())),
            Some(Role::Logger) => self.logger().map(Borrowed),
            Some(Role::Message) => self.has_message().then(|| self.message()),
            Some(Role::Ip) => self.ip().map(|fact| Owned(fact.ip.to_string())),
            Some(Role::User) => self.user().map(|fact| fact.value),
            Some(Role::UserId) => self.user_id().map(|fact| fact.value),
            Some(Role::RequestId) => self.request_id().map(|fact| fact.value),
            Some(Role::Country) => self.country().map(|fact| fact.value),
            Some(Role::Status) => self.status_field().map(|(status, text)| {
                // Three digits are written in one way only.
                if text.len() == 3 { Borrowed(text) } else { Owned(status.to_string()) }
            }),
            Some(Role::Duration) => self.duration_ms().map(|ms| Owned(ms.to_string())),
            Some(Role::Path) => self.path().map(Borrowed),
            Some(Role::Method) => self.method().map(Borrowed),
            _ => self.raw(&name.path).map(|field| Borrowed(field.text.as_ref())),
        }
    }

    /// A field by its normalised path.
    pub fn raw(&self, path: &str) -> Option<&Field<'_>> {
        let own = if self.names.may_hold(path) { self.fields.as_slice() } else { &[] };
        self.with_outer(own).find(|field| field.is(path) && field.kind != Kind::Null)
    }

    /// Its own fields, then those of its envelopes, outermost first.
    fn all_fields(&self) -> impl Iterator<Item = &Field<'_>> {
        self.with_outer(&self.fields)
    }

    fn with_outer<'r>(&'r self, own: &'r [Field<'a>]) -> impl Iterator<Item = &'r Field<'r>> {
        own.iter().chain(self.outer.fields.iter().flat_map(|fields| fields.iter()))
    }
}

/// The texts of a record that patterns read, the first of them its message.
#[derive(Debug)]
pub enum Messages<'r> {
    /// Nearly always.
    One(Cow<'r, str>),
    /// None, or repetitions.
    Several(Vec<Cow<'r, str>>),
}

impl<'r> Messages<'r> {
    /// All of them.
    pub fn all(&self) -> &[Cow<'r, str>] {
        match self {
            Messages::One(message) => std::slice::from_ref(message),
            Messages::Several(messages) => messages,
        }
    }
}

/// Which fields a record has. Asked of few names, but perhaps once for each of very many fields:
/// answers are kept.
struct Answers<'r> {
    record: &'r Record<'r>,
    known: RefCell<Vec<(&'static str, bool)>>,
}

impl<'r> Answers<'r> {
    fn new(record: &'r Record<'r>) -> Self {
        Self { record, known: RefCell::default() }
    }

    fn has(&self, path: &'static str) -> bool {
        if let Some((_, known)) = self.known.borrow().iter().find(|(asked, _)| *asked == path) {
            return *known;
        }
        let there = self.record.all_fields().any(|field| field.is(path));
        self.known.borrow_mut().push((path, there));
        there
    }
}

/// Decodes one line, without its newline, into records that borrow only from the configuration.
pub fn decode<'c>(line: &[u8], config: &'c DecodeConfig) -> Decoded<'c> {
    let mut records = Vec::new();
    let shape = each(line, false, config, &mut |record| records.push(record.into_owned(config)));
    match shape {
        Shape::Empty => Decoded::Empty,
        Shape::Unread(why, error) => Decoded::Unread(why, error),
        Shape::Partial => Decoded::Partial,
        Shape::Records => Decoded::Records(records),
    }
}

/// Decodes one line, without its newline, and hands each of its records over. `cut`: it went on, but
/// that was not kept.
pub fn each(
    line: &[u8],
    cut: bool,
    config: &DecodeConfig,
    out: &mut dyn FnMut(Record<'_>),
) -> Shape {
    envelope::unwrap_line(&String::from_utf8_lossy(line), cut, config, out)
}

/// Whether one of the names stands there twice with different values.
fn repeated<'r>(mut hits: impl Iterator<Item = Hit<'r>> + Clone) -> bool {
    let all = hits.clone();
    if hits.nth(1).is_none() {
        return false;
    }
    let mut seen: HashMap<Cow<'r, str>, &str> = HashMap::new();
    all.filter(|hit| !hit.field.listed).any(|hit| {
        let text = hit.field.text.as_ref();
        *seen.entry(hit.field.path()).or_insert(text) != text
    })
}

/// Whether a name is written as shippers write their own time of a record, `@timestamp`.
fn is_stamped(field: &Field<'_>) -> bool {
    field.shown.starts_with('@')
}

/// Whether a shipper that took on at `stamped` what was logged at `own` can have done so on the way.
fn is_moment_later(own: When, stamped: When) -> bool {
    let readings = |when: When| [when.first(), when.again()].into_iter().flatten();
    readings(own).any(|own| readings(stamped).any(|it| own.abs_diff(it) <= ON_THE_WAY))
}

/// Names of which a logger writes one, and a shipper perhaps another.
const LOGGERS_TIMES: [&str; 4] = ["timestamp", "time", "ts", "datetime"];

/// Between a record's own time and that of its shipper, at most; microseconds.
const ON_THE_WAY: u64 = 60_000_000;

/// Names under which loggers of different kinds write the same, the one that is taken first. One logger
/// writes one of them; where two stand side by side, the other came with something that was logged,
/// perhaps a request's body.
const RIVALS: [(&str, &str); 7] = [
    ("message", "msg"),
    ("message", "shortmessage"),
    ("message", "@m"),
    ("message", "@mt"),
    ("logger", "loggername"),
    ("logger", "log.logger"),
    ("logger", "sourcecontext"),
];

/// Whether a field has the name of a rival; one with an `@` is meant as it is written.
fn is_rival(field: &Field<'_>, name: &str) -> bool {
    if name.starts_with('@') { field.shown == name } else { field.is(name) }
}

/// Whether two such names stand in one object with different texts, and the configuration trusts neither.
fn rivals<'r>(mut hits: impl Iterator<Item = Hit<'r>> + Clone) -> bool {
    let all = hits.clone();
    if hits.nth(1).is_none() {
        return false;
    }
    // The first text under each name of a pair in an object: where one name has several, it is repeated.
    let mut first: HashMap<(u32, usize, bool), &str> = HashMap::new();
    let texts = all.filter(|hit| hit.field.kind == Kind::Text && hit.rank >= FieldMap::CONFIGURED);
    texts.into_iter().any(|hit| {
        RIVALS.iter().enumerate().any(|(pair, (one, other))| {
            let is_one = hit.field.is(one);
            if !is_one && !is_rival(hit.field, other) {
                return false;
            }
            let (object, text) = (hit.field.object, &*hit.field.text);
            first.entry((object, pair, is_one)).or_insert(text);
            first.get(&(object, pair, !is_one)).is_some_and(|rival| *rival != text)
        })
    })
}

/// Some names are a logger's only in the company of that logger's other names.
fn logger_name_counts(field: &Field<'_>, has: &impl Fn(&'static str) -> bool) -> bool {
    if field.is("name") {
        has("levelname")
    } else if field.is("target") {
        has("fields.message") || has("span.name")
    } else {
        !field.is("component") && !field.is("category")
    }
}

fn read_time(field: &Field<'_>, zone: &Zone) -> Option<When> {
    match field.kind {
        Kind::Number => time::parse_number(&field.text).map(When::At),
        Kind::Text => time::parse(&field.text, zone),
        Kind::Bool | Kind::Null | Kind::List => None,
    }
}

/// Names under which a level may be a number, lower case; the prefilter looks for these.
pub const NUMERIC_LEVELS: [&str; 4] = ["level", "priority", "severitynumber", "severity_number"];

/// A level by name, or by number where the shape of the record tells whose numbers they are.
fn read_level(field: &Field<'_>, has: &impl Fn(&'static str) -> bool) -> Option<Level> {
    // Some loggers colour it.
    let plain = || Level::parse(&text::strip_ansi(&field.text));
    if let Some(level) = Level::parse(&field.text).or_else(plain) {
        return Some(level);
    }
    let number: i64 = field.text.trim().parse().ok()?;
    let name = field.shown.rsplit('.').next()?;
    if !NUMERIC_LEVELS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return None;
    }
    if field.is("severitynumber") {
        Level::from_otel(number)
    } else if has("realtimetimestamp") || (has("shortmessage") && has("version")) {
        Level::from_syslog(number)
    } else if has("reqid") && has("remoteaddr") {
        Level::from_nextcloud(number)
    } else if (has("pid") && has("hostname")) || (has("msg") && has("time")) {
        Level::from_pino(number)
    } else {
        None
    }
}

/// Names that known producers use for two different things inside one object, the surer one first.
/// Only within one object: what a request's body adds to a record stands in an object of its own,
/// and must contradict rather than win.
const OUTRANKED: [(&str, &str); 3] = [
    // The client that Caddy resolved, and its peer.
    ("request.clientip", "request.remoteip"),
    // ECS and OCSF describe one account by name and by address.
    ("user.email", "user.name"),
    ("user.emailaddr", "user.name"),
];

/// The one value that all structured fields of a role agree on, with its field. A name of the
/// configuration wins over well-known ones; apart from that, any difference leaves nothing: one of
/// the two was put there by somebody.
fn settle<'r, V>(
    mut hits: impl Iterator<Item = Hit<'r>>,
    read: impl Fn(Hit<'r>) -> Option<V>,
    same: impl Fn(&V, &V) -> bool,
) -> (Option<(u32, V)>, bool) {
    let mut readable = |hit: Hit<'r>| read(hit).map(|value| (hit, value));
    let Some(first) = hits.by_ref().find_map(&mut readable) else { return (None, false) };
    let rest: Vec<(Hit<'r>, V)> = hits.filter_map(readable).collect();
    if rest.is_empty() {
        return (Some((first.0.index, first.1)), false);
    }
    let all: Vec<(Hit<'r>, V)> = std::iter::once(first).chain(rest).collect();
    let mut all = surest(all).into_iter();
    let Some((first, value)) = all.next() else { return (None, false) };
    let configured = first.rank < FieldMap::CONFIGURED;
    let doubt = all.any(|(hit, other)| {
        let comparable = if configured { hit.rank == first.rank } else { true };
        comparable && !hit.field.listed && !same(&other, &value)
    });
    if doubt { (None, true) } else { (Some((first.index, value)), false) }
}

/// Leaves out what yields to a surer name of the same object.
fn surest<V>(readable: Vec<(Hit<'_>, V)>) -> Vec<(Hit<'_>, V)> {
    let surer: Vec<(&str, u32)> = readable
        .iter()
        .filter_map(|(hit, _)| {
            let found = OUTRANKED.iter().find(|(surer, _)| hit.field.is(surer))?;
            Some((found.1, hit.field.object))
        })
        .collect();
    let yields = |hit: &Hit<'_>| {
        surer.iter().any(|(path, object)| *object == hit.field.object && hit.field.is(path))
    };
    readable.into_iter().filter(|(hit, _)| !yields(hit)).collect()
}

/// A client's address, and whether a client could not have written it.
fn read_ip(field: &Field<'_>, config: &DecodeConfig) -> Option<(IpAddr, bool)> {
    if !matches!(field.kind, Kind::Text | Kind::List) {
        return None;
    }
    if let Some(ip) = addr::plain_v4(&field.text) {
        return Some((IpAddr::V4(ip), true));
    }
    if addr::is_non_value(&field.text) {
        return None;
    }
    // `Forwarded` has parameters, perhaps in one element only.
    if field.text.contains([',', '=']) {
        let list = addr::split_forwarded(&field.text);
        let walked = addr::walk_forwarded(list.into_iter(), &config.trusted, &config.never)?;
        return Some((walked.ip, walked.proven));
    }
    addr::parse_ip(&field.text).map(|ip| (ip, true))
}

fn split_request(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split(' ');
    let (method, path, version) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = parts.next().is_none()
        && version.starts_with("HTTP/")
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_uppercase());
    fits.then_some((method, path))
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or(path)
}
