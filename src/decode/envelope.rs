//! What a record travels in, taken off layer by layer.
//!
//! Only carriers that are known by their whole shape are opened. A record with a logger of its own
//! is never opened: its message is text, and whoever writes into that text could otherwise forge a
//! record. An envelope gives a time, a logger or a level where its content has none; it never
//! says who the client was.

use super::addr;
use super::carrier;
use super::fields::{self, Field, FieldMap, Kind, Known, Role};
use super::json::{self, Value};
use super::level::Level;
use super::text;
use super::time::{self, When};
use super::{DecodeConfig, Header, OuterOf, Record, Shape, Unread};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;
use std::sync::Arc;

/// Layers that are followed; deeper ones are left as text.
const LAYERS_MAX: usize = 6;

/// What `MESSAGE` as null means.
const LEFT_OUT: &str = "MESSAGE is null: journalctl leaves out what is longer than 4096 bytes unless it is given --all";
/// Bytes of what names a stream; of what is longer there is a digest.
const STREAM_MAX: usize = 256;

type Members<'a> = [(Cow<'a, str>, Value<'a>)];

/// Takes the records of a line, one by one.
type Out<'o> = &'o mut dyn FnMut(Record<'_>);

/// What the envelopes around a text said.
#[derive(Debug, Clone, PartialEq)]
pub struct Outer {
    pub(super) when: Option<When>,
    pub(super) level: Option<Level>,
    pub(super) logger: Option<Arc<str>>,
    /// Shared by all records that travelled in them.
    pub(super) fields: Vec<Arc<[Field<'static>]>>,
    pub(super) layers: Vec<&'static str>,
    pub(super) bent: bool,
    /// The text is a message already: no header is looked for in it.
    message_only: bool,
    /// It is the text of a record with a logger of its own: nothing in it is opened.
    closed: bool,
    /// The line went on behind this text.
    pub(super) cut: bool,
    /// Of this object, in a line that went on, not all members are there.
    pub(super) early: bool,
}

/// What becomes of a string in which a line was cut: only a message's beginning says something.
const KEPT: json::Cut = json::Cut {
    keeps: |key| fields::well_known(&fields::normalize(key)) == Some(Role::Message),
    mark: CUT,
};

/// A line that travels in no envelope.
pub(super) static BARE: Outer = Outer::bare(false);
/// The beginning of one that was too long.
static BARE_AND_CUT: Outer = Outer::bare(true);
/// Put behind a text that was cut: of `203.0.113.77` there may be `203.0.113.7` left, so that what ends
/// with it names nobody. The second character is one that no text has to hold.
pub const CUT: &str = "…\u{fdd0}";

impl Outer {
    const fn bare(cut: bool) -> Self {
        Self {
            when: None,
            level: None,
            logger: None,
            fields: Vec::new(),
            layers: Vec::new(),
            bent: false,
            message_only: false,
            closed: false,
            cut,
            early: false,
        }
    }

    fn inside(&self, layer: &'static str) -> Self {
        let mut inner = self.clone();
        inner.layers.push(layer);
        inner
    }
}

/// A piece of a line that was cut on its way, with what is needed to join it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fragment {
    /// Pieces are joined per source and stream.
    pub stream: String,
    /// The bytes of the piece.
    pub content: String,
    /// Whether this piece is a line by itself, if none of its stream waits.
    pub last: bool,
    /// Whether it ends the line of those that wait.
    pub ends: bool,
    /// It says that others came before it.
    pub follows: bool,
    /// Whoever handed it on has left its content out, or what came before it.
    pub lost: bool,
    /// What it travelled in.
    outer: Outer,
}

/// Reads a line as a piece, or as what may end the line of pieces that wait; `None` if it is neither.
pub fn fragment(line: &[u8], config: &DecodeConfig) -> Option<Fragment> {
    fragment_of(&String::from_utf8_lossy(line), &BARE, config)
}

fn fragment_of(line: &str, outer: &Outer, config: &DecodeConfig) -> Option<Fragment> {
    let text = clean(line);
    // A blank at which the runtime cut belongs to the text, so only what ends lines is taken off.
    let whole = line.trim_matches(['\u{feff}', '\0', '\r', '\n']);
    if let Some(cri) = text::cri(whole).or_else(|| text::cri(&text)) {
        return Some(Fragment {
            stream: cri.stream.to_owned(),
            content: cri.content.to_owned(),
            last: cri.full,
            ends: cri.full,
            follows: false,
            lost: false,
            outer: cri_outer(&cri, outer, config),
        });
    }
    if !text.starts_with('{') {
        return None;
    }
    let document = json::read(&text).ok()?;
    let [Value::Object(members)] = document.values.as_slice() else { return None };
    let piece = piece(members, config).or_else(|| ending(members, config))?;
    Some(piece.fragment(members, outer, config))
}

/// Pieces that wait for the rest of their line within one document.
#[derive(Default)]
struct Waiting(BTreeMap<String, Fragment>);

impl Waiting {
    /// Takes a piece, and reads the line that it ends; `false` if it is a line by itself.
    fn take(&mut self, mut piece: Fragment, config: &DecodeConfig, out: Out<'_>) -> bool {
        piece.lost |= piece.follows && !self.0.contains_key(&piece.stream);
        match self.0.entry(piece.stream.clone()) {
            Entry::Vacant(free) if !piece.last => _ = free.insert(piece),
            Entry::Vacant(_) => return false,
            Entry::Occupied(mut first) => {
                first.get_mut().content.push_str(&piece.content);
                first.get_mut().lost |= piece.lost;
                if piece.ends {
                    let Fragment { content, outer, lost, .. } = first.remove();
                    if !lost {
                        push_payload(&content, &outer, config, out);
                    }
                }
            }
        }
        true
    }

    /// Opens one of several texts, like [`push_payload`].
    fn text(&mut self, text: &str, inner: &Outer, config: &DecodeConfig, out: Out<'_>) {
        if self.0.is_empty() {
            match payload(text, inner, config, out) {
                Shape::Partial => {}
                Shape::Records | Shape::Empty => return,
                Shape::Unread(..) => return whole_text(&clean(text), inner, config, out),
            }
        }
        let taken =
            fragment_of(text, inner, config).is_some_and(|piece| self.take(piece, config, out));
        if !taken {
            push_payload(text, inner, config, out);
        }
    }

    /// No more come.
    fn finish(self, config: &DecodeConfig, out: Out<'_>) {
        for Fragment { content, outer, .. } in self.0.into_values().filter(|first| !first.lost) {
            push_payload(&content, &Outer { cut: true, ..outer }, config, out);
        }
    }
}

/// A piece of a line in its record, of which nothing was copied yet.
struct Piece<'v> {
    content: Cow<'v, str>,
    last: bool,
    ends: bool,
    /// It says that others came before it.
    follows: bool,
    lost: bool,
    way: Way<'v>,
}

impl<'v> Piece<'v> {
    /// One that ends its line, or does not, whether others wait or not.
    fn new(content: impl Into<Cow<'v, str>>, last: bool, way: Way<'v>) -> Self {
        Self { content: content.into(), last, ends: last, follows: false, lost: false, way }
    }
}

/// How a piece travels.
enum Way<'v> {
    Docker(Docker<'v>),
    /// The keys of the record, normalised, and the runtime's own line if the record holds that.
    Carrier(Vec<String>, Option<text::CriLine<'v>>),
    Journal,
}

impl Piece<'_> {
    /// With what is needed to join it to others; `members` are its record.
    fn fragment(self, members: &Members<'_>, outer: &Outer, config: &DecodeConfig) -> Fragment {
        // Whose line it is: all that does not change from one of its pieces to the next.
        let mut stream = String::new();
        let outer = match &self.way {
            Way::Docker(docker) => {
                stream.push_str(docker.stream.unwrap_or_default());
                if let Some(attrs) = get(members, "attrs") {
                    let _infallible = write!(stream, " {attrs:?}");
                }
                docker_outer(docker, outer, config)
            }
            Way::Carrier(keys, cri) => {
                for ((_, value), key) in members.iter().zip(keys) {
                    if !CHANGING.contains(&key.as_str()) {
                        let _infallible = write!(stream, "{key}={value:?};");
                    }
                }
                let outer = carrier_outer(members, outer, config);
                match cri {
                    Some(cri) => {
                        stream.push_str(cri.stream);
                        cri_outer(cri, &outer, config)
                    }
                    None => outer,
                }
            }
            Way::Journal => {
                for name in journal_stream(members) {
                    let _infallible = write!(stream, "{name}={:?};", get(members, name));
                }
                journal_outer(members, outer, config)
            }
        };
        if stream.len() > STREAM_MAX {
            stream = format!("{:x}", Sha256::digest(stream.as_bytes()));
        }
        let Self { content, last, ends, follows, lost, .. } = self;
        Fragment { stream, content: content.into_owned(), last, ends, follows, lost, outer }
    }
}

/// Reads a record as a piece of a line; `None` if nothing says that it carries one.
fn piece<'v>(members: &'v Members<'v>, config: &DecodeConfig) -> Option<Piece<'v>> {
    let (members, false) = json::early(members) else { return None };
    let Some(docker) = docker(members) else {
        return carried_piece(members, config).or_else(|| journal_piece(members));
    };
    let text = docker.log.strip_suffix('\n').unwrap_or(docker.log);
    // Among pieces a document may be a part of a text.
    let ends = docker.log.ends_with('\n') || docker.log.len() < DOCKERS_PIECE;
    let last = docker.complete;
    Some(Piece { ends, ..Piece::new(text, last, Way::Docker(docker)) })
}

/// Reads a record in which nothing speaks of pieces as the last one: not every writer marks that.
fn ending<'v>(members: &'v Members<'v>, config: &DecodeConfig) -> Option<Piece<'v>> {
    let (members, false) = json::early(members) else { return None };
    if let Some((keys, line)) = carried(members, config) {
        let text = line.strip_suffix('\n').unwrap_or(line);
        return Some(Piece::new(text, true, Way::Carrier(keys, None)));
    }
    of_journal(members, true)
}

/// A record of the journal as a piece, which `journalctl` may have left out.
fn of_journal<'v>(members: &'v Members<'v>, last: bool) -> Option<Piece<'v>> {
    let lost = is_journal(members) && matches!(get(members, "MESSAGE"), Some(Value::Null));
    let content = if lost { Cow::Borrowed("") } else { journal_text(members)? };
    Some(Piece { lost, ..Piece::new(content, last, Way::Journal) })
}

/// Decodes pieces that were joined; `first` is the first of them. `cut`: more of them were not kept.
pub fn joined(
    first: &Fragment,
    content: &str,
    cut: bool,
    config: &DecodeConfig,
    out: &mut dyn FnMut(Record<'_>),
) -> Shape {
    if first.lost {
        return Shape::Unread(Unread::Omitted, "a piece of the line did not come".to_owned());
    }
    let outer = Outer { cut, ..first.outer.clone() };
    payload(content, &outer, config, out)
}

/// Decodes a whole line, or what was kept of one.
pub(super) fn unwrap_line(line: &str, cut: bool, config: &DecodeConfig, out: Out<'_>) -> Shape {
    payload(line, if cut { &BARE_AND_CUT } else { &BARE }, config, out)
}

/// A text without what transports leave around and in it: CR, LF, NUL, a byte order mark, colours.
fn clean(text: &str) -> Cow<'_, str> {
    let trimmed =
        text.trim_matches(|c: char| c == '\u{feff}' || c == '\0' || c.is_ascii_whitespace());
    let plain = text::strip_ansi(trimmed);
    match plain {
        Cow::Borrowed(_) => Cow::Borrowed(trimmed),
        // In JSON a client's text is followed by a quote, which some sequences would take along,
        // and with it the end of the record: there, only colours go before it is read.
        Cow::Owned(owned) if looks_like_json(owned.trim_start()) => {
            Cow::Owned(text::strip_colours(trimmed).trim().to_owned())
        }
        Cow::Owned(owned) => Cow::Owned(owned.trim().to_owned()),
    }
}

fn payload(text: &str, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> Shape {
    let text = clean(text);
    // Of an object that was cut, this text was the last, or it is complete; what stood behind it is missing all
    // the same.
    let settled = outer.early.then(|| Outer { cut: text.ends_with(CUT), ..outer.clone() });
    let outer = settled.as_ref().unwrap_or(outer);
    let text = match text.strip_suffix(CUT) {
        Some(left) if outer.cut => Cow::Owned(left.to_owned()),
        _ => text,
    };
    if text.is_empty() {
        return Shape::Empty;
    }
    if outer.closed {
        whole_text(&text, outer, config, out);
        return Shape::Records;
    }
    let opened = outer.layers.len() < LAYERS_MAX;
    if opened && let Some(cri) = text::cri(&text) {
        if !cri.full {
            return Shape::Partial;
        }
        return payload(cri.content, &cri_outer(&cri, outer, config), config, out);
    }
    if !looks_like_json(&text) {
        whole_text(&text, outer, config, out);
        return Shape::Records;
    }
    // In JSON each object says whether it is complete.
    let complete = outer.cut.then(|| Outer { cut: false, ..outer.clone() });
    let read = match complete {
        Some(_) => json::read_cut(&text, KEPT),
        None => json::read(&text),
    };
    let cut = complete.is_some();
    let outer = complete.as_ref().unwrap_or(outer);
    let document = match read {
        Err(error) => {
            let why = if error.truncated() { Unread::Truncated } else { Unread::Syntax };
            return Shape::Unread(why, error.to_string());
        }
        Ok(document) => document,
    };
    // What is told about the line as a whole is settled before a record of it is handed over.
    if opened
        && let [Value::Object(members)] = document.values.as_slice()
        && let Some(piece) = piece(members, config)
    {
        if !piece.last {
            return Shape::Partial;
        }
        if piece.follows {
            // Whoever chose how it begins would have a line of his own.
            let why = "it is the end of a line whose beginning did not come";
            return Shape::Unread(Unread::Truncated, why.to_owned());
        }
    }
    let bent = document.bent.any().then(|| Outer { bent: true, ..outer.clone() });
    let outer = bent.as_ref().unwrap_or(outer);
    let records = |out: Out<'_>| match document.values.as_slice() {
        values @ [_, _, ..] if values.iter().all(|value| matches!(value, Value::Object(_))) => {
            several(values, outer, config, out);
        }
        values => values.iter().for_each(|value| value_records(value, outer, config, out)),
    };
    if document.bent.truncated && !cut {
        let mut speaks = false;
        records(&mut |record| speaks |= record.has_message());
        if !speaks {
            return Shape::Unread(Unread::Truncated, "the text ends too early".to_owned());
        }
    }
    records(out);
    if let [Value::Object(members)] = document.values.as_slice()
        && outer.layers.is_empty()
        && is_journal(members)
        && matches!(get(members, "MESSAGE"), Some(Value::Null))
    {
        return Shape::Unread(Unread::Omitted, LEFT_OUT.to_owned());
    }
    Shape::Records
}

/// An object, or an array that holds objects: `[2026-11-23 15:07:35] ...` is text.
fn looks_like_json(text: &str) -> bool {
    text.starts_with('{')
        || text
            .strip_prefix('[')
            .is_some_and(|rest| rest.trim_start().starts_with(['{', ']']) || rest.starts_with("[{"))
}

/// Whether a text that is carried begins like records of its own.
fn begins_json(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('{')
        || text.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('{'))
}

fn value_records(value: &Value<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) {
    match value {
        Value::Object(members) => object_records(members, outer, config, out),
        Value::Array(items) => several(items, &outer.inside("array"), config, out),
        _ => {}
    }
}

/// The records of several values, of which some may be pieces of one line.
fn several(items: &[Value<'_>], outer: &Outer, config: &DecodeConfig, out: Out<'_>) {
    let mut waiting = Waiting::default();
    for item in items {
        let members = match item {
            Value::Object(members) => members,
            Value::String(text) => {
                // What is no record there is nothing.
                let _shape = payload(text, outer, config, out);
                continue;
            }
            _ => continue,
        };
        let waits = !waiting.0.is_empty();
        let piece = piece(members, config).filter(|piece| waits || piece.follows || !piece.last);
        let piece = piece.or_else(|| ending(members, config).filter(|_| waits));
        let follows = piece.as_ref().is_some_and(|piece| piece.follows);
        let taken = piece
            .is_some_and(|piece| waiting.take(piece.fragment(members, outer, config), config, out));
        if !taken && !follows {
            object_records(members, outer, config, out);
        }
    }
    waiting.finish(config, out);
}

fn object_records(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) {
    let (members, early) = json::early(members);
    if early {
        // What else it would have held decides whether it is a carrier's: only lists of records are opened.
        let lists = [cloudwatch, loki, otlp];
        let outer = Outer { early, ..outer.clone() };
        if outer.layers.len() < LAYERS_MAX
            && lists.into_iter().any(|open| open(members, &outer, config, &mut *out))
        {
            return;
        }
        out(object_record(members, &outer, config));
        return;
    }
    if outer.layers.len() < LAYERS_MAX {
        if let Some(docker) = docker(members) {
            // Of what is cut here there is nothing that it could be joined with.
            let outer = docker_outer(&docker, outer, config);
            push_payload(docker.log, &Outer { cut: !docker.complete, ..outer }, config, out);
            return;
        }
        for open in [cloudwatch, loki, otlp, carrier, journald] {
            if open(members, outer, config, out) {
                return;
            }
        }
    }
    // An object without members says nothing; an array can hold very many of them.
    if !members.is_empty() {
        out(object_record(members, outer, config));
    }
}

/// Opens the text inside an envelope; what cannot be read there stays as text, so that the
/// envelope itself is not lost.
fn push_payload(text: &str, inner: &Outer, config: &DecodeConfig, out: Out<'_>) {
    match payload(text, inner, config, out) {
        Shape::Records | Shape::Empty => {}
        Shape::Partial | Shape::Unread(..) => whole_text(&clean(text), inner, config, out),
    }
}

fn whole_text(text: &str, outer: &Outer, config: &DecodeConfig, out: Out<'_>) {
    if outer.cut {
        out(text_record(&format!("{text}{CUT}"), outer, config));
    } else {
        out(text_record(text, outer, config));
    }
}

fn object_record<'r>(
    members: &'r Members<'_>,
    outer: &'r Outer,
    config: &'r DecodeConfig,
) -> Record<'r> {
    let fields = fields::flatten(members);
    let cast = config.fields.roles(&fields);
    Record::new(config, "json", fields, cast, OuterOf::Borrowed(outer))
}

fn text_record<'r>(line: &'r str, outer: &'r Outer, config: &'r DecodeConfig) -> Record<'r> {
    let head =
        if outer.message_only { text::TextLine::new("text", line) } else { text::read(line) };
    let fields: Vec<Field<'_>> = head
        .fields
        .into_iter()
        .filter(|(_, value)| !outer.cut || !value.ends_with(CUT))
        .map(|(name, value)| Field::flat(name, value, Kind::Text, Known::Unasked))
        .collect();
    let named = |names: &[&str]| fields.iter().find(|field| names.iter().any(|n| field.is(n)));
    let mut messages = vec![Cow::Borrowed(head.message)];
    let mut own = fields.len();
    if head.shape == "logfmt" {
        // Only a logger library writes level and message as pairs, and quotes what needs it. In
        // any other line of pairs, each may have been written by whoever chose a value in it.
        match (named(&["level", "lvl", "severity"]), named(&["msg", "message"])) {
            (Some(_), Some(message)) => messages.insert(0, message.text.clone()),
            _ => own = 0,
        }
    }
    if !messages.iter().any(|message| message == line) {
        messages.push(Cow::Borrowed(line));
    }
    messages.dedup();
    let cast = config.fields.roles(fields.get(..own).unwrap_or_default());
    let header = Header {
        when: head.time.and_then(|t| time::parse(t, &config.zone)),
        level: head.level.and_then(Level::parse),
        logger: head.logger.map(Cow::Borrowed),
        messages,
        disputed: head.disputed,
    };
    let header = Some(Box::new(header));
    Record { header, ..Record::new(config, head.shape, fields, cast, OuterOf::Borrowed(outer)) }
}

/// The runtime's own time of a line.
fn cri_outer(cri: &text::CriLine<'_>, outer: &Outer, config: &DecodeConfig) -> Outer {
    let mut inner = outer.inside("cri");
    inner.when = time::parse(cri.time, &config.zone).or(inner.when);
    inner
}

fn docker_outer(docker: &Docker<'_>, outer: &Outer, config: &DecodeConfig) -> Outer {
    let mut inner = outer.inside("docker");
    inner.when = docker.time.and_then(|time| time::parse(time, &config.zone)).or(inner.when);
    inner
}

struct Docker<'v> {
    log: &'v str,
    stream: Option<&'v str>,
    time: Option<&'v str>,
    complete: bool,
}

/// Docker's json-file: `log`, `stream`, `time` and perhaps `attrs`, nothing else.
fn docker<'v>(members: &'v Members<'_>) -> Option<Docker<'v>> {
    let known = |key: &str| matches!(key, "log" | "stream" | "time" | "attrs");
    if members.len() < 2 || !members.iter().all(|(key, _)| known(key)) {
        return None;
    }
    if !["log", "time"].iter().all(|key| once(members, key)) {
        return None;
    }
    let log = string(members, "log")?;
    let stream = string(members, "stream");
    let time = string(members, "time");
    // Docker ends whole lines with a newline. Other writers of this shape drop that, so a short
    // text or a whole document is taken as complete without it.
    let complete = log.ends_with('\n')
        || stream.is_none()
        || if log.len() >= DOCKERS_PIECE {
            is_document(log)
        } else {
            !log.trim_start().starts_with('{')
                || json::read(log).is_ok_and(|document| !document.bent.truncated)
        };
    Some(Docker { log, stream, time, complete })
}

/// Bytes at which Docker cuts a line, whatever it writes it to.
pub const DOCKERS_PIECE: usize = 16 * 1024;

/// Whether a text is one object of JSON to its end.
fn is_document(text: &str) -> bool {
    text.trim_start().starts_with('{')
        && json::read(text).is_ok_and(|document| {
            let json::Bent { truncated, trailing, .. } = document.bent;
            !truncated && !trailing && document.values.len() == 1
        })
}

/// Fields kept of one envelope. They identify nobody, and every record inside may be asked for each.
const ENVELOPE_FIELDS_MAX: usize = 256;

fn kept<'f>(fields: impl Iterator<Item = Field<'f>>) -> Arc<[Field<'static>]> {
    fields.take(ENVELOPE_FIELDS_MAX).map(Field::into_owned).collect()
}

fn get<'v, 'a>(members: &'v Members<'a>, key: &str) -> Option<&'v Value<'a>> {
    members.iter().find(|(k, _)| k == key).map(|(_, value)| value)
}

fn string<'v>(members: &'v Members<'_>, key: &str) -> Option<&'v str> {
    match get(members, key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// Whether a key has one value, however often it stands there: which of two would be read is chance, or
/// somebody's choice.
fn once(members: &Members<'_>, key: &str) -> bool {
    agree(members.iter().filter(|(k, _)| k == key).map(|(_, value)| value))
}

/// Whether all values are the same.
fn agree<'v, 'a: 'v>(mut values: impl Iterator<Item = &'v Value<'a>>) -> bool {
    let first = values.next();
    values.all(|value| Some(value) == first)
}

fn array<'v, 'a>(members: &'v Members<'a>, key: &str) -> Option<&'v [Value<'a>]> {
    match get(members, key) {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    }
}

fn object<'v, 'a>(value: Option<&'v Value<'a>>) -> Option<&'v Members<'a>> {
    match value {
        Some(Value::Object(members)) => Some(members),
        _ => None,
    }
}

fn value_time(value: Option<&Value<'_>>, config: &DecodeConfig) -> Option<When> {
    match value {
        Some(Value::Number(number)) => time::parse_number(number).map(When::At),
        Some(Value::String(text)) => time::parse(text, &config.zone),
        _ => None,
    }
}

/// Whether an object has no other keys than these. A record that has some is an application's own,
/// and what lies under a carrier's key in it may have been put there by a client.
fn only(members: &Members<'_>, known: &[&str]) -> bool {
    members.iter().all(|(key, _)| known.contains(&key.as_ref()))
}

/// Bytes of an event of CloudWatch that is full: 256 KiB less what each costs, and less a character that
/// had no room.
const CLOUDWATCHS_PIECE: std::ops::RangeInclusive<usize> = 262_114..=262_144;

const CLOUDWATCH_KEYS: [&str; 7] = [
    "messageType",
    "owner",
    "logGroup",
    "logStream",
    "subscriptionFilters",
    "policyLevel",
    "logEvents",
];

/// AWS CloudWatch Logs subscription: one message for several events; probes hold none.
fn cloudwatch(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> bool {
    let Some(events) = array(members, "logEvents") else { return false };
    if !only(members, &CLOUDWATCH_KEYS) {
        return false;
    }
    if get(members, "logGroup").is_none() && get(members, "messageType").is_none() {
        return false;
    }
    if string(members, "messageType") == Some("CONTROL_MESSAGE") {
        return true;
    }
    // Docker's driver cuts where an event is full, marks nothing, and gives all pieces one time.
    let cuts = string(members, "messageType") == Some("DATA_MESSAGE");
    let mut waiting: Option<(String, Outer)> = None;
    let mut texts = Waiting::default();
    for event in events.iter().filter_map(|event| object(Some(event))) {
        let Some(message) = string(event, "message") else { continue };
        let (event, early) = json::early(event);
        let mut inner = outer.inside("cloudwatch");
        inner.early |= early;
        inner.when = value_time(get(event, "timestamp"), config).or(inner.when);
        if !["message", "timestamp"].iter().all(|key| once(event, key)) {
            out(object_record(event, &inner, config));
            continue;
        }
        let full = cuts && CLOUDWATCHS_PIECE.contains(&message.len());
        match waiting.take() {
            Some((text, first)) if first.when == inner.when => {
                let text = text + message;
                if full {
                    waiting = Some((text, first));
                } else {
                    push_payload(&text, &first, config, out);
                }
                continue;
            }
            Some((text, first)) => {
                push_payload(&text, &Outer { cut: true, ..first }, config, out);
            }
            None => {}
        }
        if full && !is_document(message) {
            waiting = Some((message.to_owned(), inner));
        } else {
            texts.text(message, &inner, config, out);
        }
    }
    if let Some((text, first)) = waiting {
        // Its rest is in the next message, or nowhere.
        push_payload(&text, &Outer { cut: true, ..first }, config, out);
    }
    texts.finish(config, out);
    true
}

/// Loki push: streams with labels, each a list of `[nanoseconds, text, attributes?]`.
fn loki(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> bool {
    let Some(streams) = array(members, "streams") else { return false };
    if !only(members, &["streams"]) {
        return false;
    }
    let streams: Vec<_> = streams.iter().filter_map(|stream| object(Some(stream))).collect();
    if streams.is_empty() || streams.iter().any(|stream| array(stream, "values").is_none()) {
        return false;
    }
    for stream in streams {
        let labels = object(get(stream, "stream")).map(fields::flatten).unwrap_or_default();
        let level = labels.iter().find(|field| field.is("level") || field.is("severity"));
        let level = level.and_then(|field| Level::parse(&field.text));
        let logger = labels.iter().find(|field| names_logger(&field.path(), config));
        let logger: Option<Arc<str>> = logger.map(|field| Arc::from(&*field.text));
        let labels = kept(labels.into_iter());
        let mut texts = Waiting::default();
        for entry in array(stream, "values").unwrap_or_default() {
            let Value::Array(entry) = entry else { continue };
            let mut inner = outer.inside("loki");
            inner.when = value_time(entry.first(), config).or(inner.when);
            inner.level = level.or(inner.level);
            inner.logger = logger.clone().or(inner.logger);
            inner.fields.push(Arc::clone(&labels));
            let Some(Value::String(text)) = entry.get(1) else { continue };
            let attributes = object(entry.get(2));
            // What has a logger is somebody's own record, and its text is only a text.
            let named =
                |(key, _): &(Cow<'_, str>, _)| names_logger(&fields::normalize(key), config);
            let owned = logger.is_some() || attributes.is_some_and(|own| own.iter().any(named));
            let document = begins_json(text);
            if owned || attributes.is_some() && !document {
                // Attributes beside the text are the record's own fields.
                let mut own = attributes.map(|own| own.to_vec()).unwrap_or_default();
                own.push((Cow::Borrowed("message"), Value::String(text.clone())));
                out(object_record(&own, &inner, config));
            } else {
                texts.text(text, &inner, config, out);
            }
        }
        texts.finish(config, out);
    }
    true
}

/// Whether a name, normalised, is one under which only a logger's name stands.
fn names_logger(name: &str, config: &DecodeConfig) -> bool {
    matches!(name, "logger" | "loggername" | "log.logger")
        || config.fields.is_configured(Role::Logger, name)
}

/// OTLP/JSON: `resourceLogs[].scopeLogs[].logRecords[]`, attributes as key/value lists.
fn otlp(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> bool {
    let Some(resources) = array(members, "resourceLogs") else { return false };
    if !only(members, &["resourceLogs"]) {
        return false;
    }
    for resource in resources.iter().filter_map(|value| object(Some(value))) {
        for scope in array(resource, "scopeLogs").unwrap_or_default() {
            let Some(scope) = object(Some(scope)) else { continue };
            let name = object(get(scope, "scope")).and_then(|s| string(s, "name"));
            let name: Option<Arc<str>> = name.filter(|name| !name.is_empty()).map(Arc::from);
            let mut texts = Waiting::default();
            for record in array(scope, "logRecords").unwrap_or_default() {
                if let Some(record) = object(Some(record)) {
                    otlp_record(record, name.as_ref(), &mut texts, outer, config, out);
                }
            }
            texts.finish(config, out);
        }
    }
    true
}

/// Attributes of a record that may be called its message.
const MESSAGES_MAX: usize = 8;

fn otlp_record(
    record: &Members<'_>,
    scope: Option<&Arc<str>>,
    texts: &mut Waiting,
    outer: &Outer,
    config: &DecodeConfig,
    out: Out<'_>,
) {
    let (record, early) = json::early(record);
    let mut inner = outer.inside("otlp");
    inner.early |= early;
    inner.logger = scope.cloned().or(inner.logger);
    let stamps = ["timeUnixNano", "observedTimeUnixNano"];
    let when = stamps.into_iter().find_map(|name| value_time(get(record, name), config));
    inner.when = when.or(inner.when);
    let attributes = key_values(array(record, "attributes").unwrap_or_default(), Value::clone);
    let body = object(get(record, "body"));
    let map = body.and_then(|body| object(get(body, "kvlistValue")));
    let map = map.and_then(|map| array(map, "values"));
    let body = body.and_then(|body| string(body, "stringValue"));
    // What is said twice is somebody's choice: nothing of it is opened.
    let sure = !early && ["body", "timeUnixNano"].iter().all(|key| once(record, key));
    let body = body.filter(|_| sure);
    let transport = |key: &str| {
        (key.starts_with("log.") || key.starts_with("k8s."))
            && !names_logger(&fields::normalize(key), config)
    };
    if let Some(body) = body
        && scope.is_none()
        && (begins_json(body) || text::cri(body.trim_end()).is_some())
        && attributes.iter().all(|(key, _)| transport(key))
    {
        texts.text(body, &inner, config, out);
        return;
    }
    let mut own: Vec<(Cow<'_, str>, Value<'_>)> =
        record.iter().filter(|(key, _)| key != "attributes").cloned().collect();
    // What the application logged as a structure is read as one, beside what else the record says.
    if let Some(map) = map {
        own.retain(|(key, _)| key != "body");
        own.extend(key_values(map, typed));
    }
    // A message that was taken out of the body stands in it; any other contradicts it.
    let other = |body: &str, (key, value): &(Cow<'_, str>, Value<'_>)| {
        let text = object(Some(value)).and_then(|value| string(value, "stringValue"));
        matches!(&*fields::normalize(key), "message" | "msg")
            && text.is_some_and(|text| !body.contains(text))
    };
    // One names it; very many would only cost time.
    let named = |(key, _): &&(Cow<'_, str>, Value<'_>)| {
        matches!(&*fields::normalize(key), "message" | "msg")
    };
    if let Some(body) = body
        && (attributes.iter().filter(named).count() > MESSAGES_MAX
            || attributes.iter().any(|attribute| other(body, attribute)))
    {
        own.push((Cow::Borrowed("message"), Value::String(Cow::Borrowed(body))));
    }
    own.extend(attributes);
    let record = object_record(&own, &inner, config);
    // The SDK's clock, against which an attribute that is called a time may be anything: but for one
    // that the configuration names.
    let named = record.of(Role::Time).any(|hit| {
        hit.rank < FieldMap::CONFIGURED && super::read_time(hit.field, &config.zone).is_some()
    });
    let header = Header { when, ..Header::default() };
    let header = (when.is_some() && !named).then(|| Box::new(header));
    out(Record { header, ..record });
}

/// A typed value as JSON has it: of a map, an object.
fn typed<'a>(value: &Value<'a>) -> Value<'a> {
    let Some([(kind, inner)]) = object(Some(value)) else { return value.clone() };
    let values = object(Some(inner)).and_then(|list| array(list, "values"));
    match (&**kind, values) {
        ("stringValue" | "intValue" | "doubleValue" | "boolValue", _) => inner.clone(),
        ("kvlistValue", Some(items)) => Value::Object(key_values(items, typed)),
        ("arrayValue", Some(items)) => Value::Array(items.iter().map(typed).collect()),
        _ => value.clone(),
    }
}

fn key_values<'a>(
    items: &[Value<'a>],
    read: impl Fn(&Value<'a>) -> Value<'a>,
) -> Vec<(Cow<'a, str>, Value<'a>)> {
    items
        .iter()
        .filter_map(|item| {
            let item = object(Some(item))?;
            let Some(Value::String(key)) = get(item, "key") else { return None };
            Some((key.clone(), read(get(item, "value")?)))
        })
        .collect()
}

/// Keys of which one must be there to believe that a text which is no document is a carried line.
const CARRIER_MARKS: [&str; 13] = [
    "sourcetype",
    "kubernetes",
    "docker",
    "container",
    "containerid",
    "containername",
    "logtag",
    "stream",
    "agent",
    "input",
    "topic",
    "tag",
    "file",
];

/// The keys of a record in which all are one carrier's, normalised, and the line that it carries.
fn carried<'v>(members: &'v Members<'_>, config: &DecodeConfig) -> Option<(Vec<String>, &'v str)> {
    let keys: Vec<String> = members.iter().map(|(key, _)| fields::normalize(key)).collect();
    let (source, logstash) = (string(members, "source_type"), get(members, "@version").is_some());
    if !carrier::foreign(&keys, source, logstash).is_empty() {
        return None;
    }
    // The names of loggers of ECS and of the configuration may lie deeper.
    let own = |field: &Field<'_>| !addr::trimmed(&field.text).is_empty();
    let logs = |field: &Field<'_>| names_logger(&field.path(), config) && own(field);
    if fields::flatten(members).iter().any(logs) {
        return None;
    }
    let once = |core: &&str| {
        let values = members.iter().zip(&keys).filter(|(_, key)| *key == *core);
        agree(values.map(|((_, value), _)| value))
    };
    if !["log", "message", "shortmessage", "time", "timestamp"].iter().all(once) {
        return None;
    }
    let text_of = |name: &str| {
        members.iter().zip(&keys).find_map(|((_, value), key)| match value {
            Value::String(text) if key == name => Some(text.as_ref()),
            _ => None,
        })
    };
    let line = match (text_of("log"), text_of("message"), text_of("shortmessage")) {
        // GELF's own text, and one that was logged.
        (None, Some(_), Some(_)) => return None,
        (Some(log), ..) => log,
        (None, Some(message), _) => message,
        (None, None, Some(short)) => short,
        _ => return None,
    };
    Some((keys, line))
}

/// A piece of a line that a container's runtime cut, as a shipper hands it on.
fn carried_piece<'v>(members: &'v Members<'v>, config: &DecodeConfig) -> Option<Piece<'v>> {
    // With Kubernetes' mark, with that of Docker's driver for Fluentd or of Vector, as Kubernetes'
    // runtime wrote it, or in full length.
    let stream = get(members, "stream").is_some();
    let tag = string(members, "logtag").or_else(|| string(members, "_p")).filter(|_| stream);
    let cut = match get(members, "_partial") {
        Some(Value::Bool(true)) => Some("true"),
        _ => string(members, "partial_message"),
    };
    let speaks = |value: &Value<'_>| match value {
        Value::String(text) => text.len() >= DOCKERS_PIECE || text::cri(text).is_some(),
        _ => false,
    };
    if tag.is_none() && cut.is_none() && !members.iter().any(|(_, value)| speaks(value)) {
        return None;
    }
    let (keys, line) = carried(members, config)?;
    let has = |name: &str| keys.iter().any(|key| key == name);
    let text = line.strip_suffix('\n').unwrap_or(line);
    let mut follows = false;
    let last = if let Some(tag) = tag {
        // More tags may follow the first.
        tag.split(':').next() != Some("P")
    } else if let Some(cut) = cut {
        let ordinal = string(members, "partial_ordinal").and_then(|n| n.parse().ok());
        follows = ordinal.is_some_and(|n: u64| n > 1);
        cut != "true" || string(members, "partial_last") == Some("true")
    } else if let Some(cri) = text::cri(text) {
        return Some(Piece::new(cri.content, cri.full, Way::Carrier(keys, Some(cri))));
    } else {
        // Nothing marks what Docker sends as GELF, nor what a shipper read of its files: a piece
        // is full and ends in no newline. What Kubernetes' runtime wrote never ends in one. A plain
        // line of just that length takes the next one of its stream along, which then is doubted;
        // if it did not, a client would choose a line of his own.
        let own = |name: &str| string(members, name).is_some();
        let unmarked = own("log") && stream && !has("p") && text.len() == line.len();
        let gelf = own("short_message") && has("containerid");
        if line.len() < DOCKERS_PIECE || !(unmarked || gelf) {
            return None;
        }
        let piece = Piece::new(text, is_document(line), Way::Carrier(keys, None));
        return Some(Piece { ends: false, ..piece });
    };
    Some(Piece { follows, ..Piece::new(text, last, Way::Carrier(keys, None)) })
}

/// Keys of a carrier whose values differ between the pieces of a line.
const CHANGING: [&str; 16] = [
    "log",
    "message",
    "shortmessage",
    "logtag",
    "p",
    "partial",
    "partialmessage",
    "partialordinal",
    "partiallast",
    "time",
    "timestamp",
    "date",
    "ts",
    "dt",
    "datetime",
    "offset",
];

/// Fluent Bit, Vector, Filebeat, Docker's GELF driver, Railway: `log` or `message` holds the line.
/// A key that no carrier writes, a logger above all, makes the record somebody's own.
fn carrier(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> bool {
    let Some((keys, line)) = carried(members, config) else { return false };
    let marked = keys.iter().any(|key| CARRIER_MARKS.contains(&key.as_str()));
    // Without a mark, only a whole document is believed to be carried; with one, any line is, but
    // a level of its own says that somebody has read the line already.
    let levelled =
        keys.iter().any(|key| matches!(key.as_str(), "level" | "levelname" | "severity"));
    let carried = begins_json(line) && json::read(line).is_ok()
        || text::cri(line.trim_end()).is_some()
        || (marked && !levelled);
    if !carried {
        return false;
    }
    push_payload(line, &carrier_outer(members, outer, config), config, out);
    true
}

fn carrier_outer(members: &Members<'_>, outer: &Outer, config: &DecodeConfig) -> Outer {
    let mut inner = outer.inside("carrier");
    let all = fields::flatten(members);
    let time = ["time", "timestamp", "date"].iter().find_map(|name| {
        let field = all.iter().find(|field| field.is(name))?;
        super::read_time(field, &config.zone)
    });
    inner.when = time.or(inner.when);
    let rest = all.into_iter();
    inner.fields.push(kept(
        rest.filter(|f| !["log", "message", "shortmessage"].iter().any(|name| f.is(name))),
    ));
    inner
}

/// systemd's journal as JSON: `MESSAGE`, a string or, if it is not UTF-8, an array of bytes.
fn journald(members: &Members<'_>, outer: &Outer, config: &DecodeConfig, out: Out<'_>) -> bool {
    let Some(text) = journal_text(members) else { return false };
    push_payload(&text, &journal_outer(members, outer, config), config, out);
    true
}

fn is_journal(members: &Members<'_>) -> bool {
    let journal =
        |key: &str| key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    get(members, "__REALTIME_TIMESTAMP").is_some() && members.iter().all(|(k, _)| journal(k))
}

/// The message of a record of the journal; `None` if it is none.
fn journal_text<'v>(members: &'v Members<'_>) -> Option<Cow<'v, str>> {
    if !is_journal(members)
        || !["MESSAGE", "__REALTIME_TIMESTAMP"].iter().all(|key| once(members, key))
    {
        return None;
    }
    match get(members, "MESSAGE") {
        Some(Value::String(text)) => Some(Cow::Borrowed(text)),
        Some(Value::Array(bytes)) => {
            let bytes: Vec<u8> = bytes
                .iter()
                .filter_map(|byte| match byte {
                    Value::Number(number) => number.parse().ok(),
                    _ => None,
                })
                .collect();
            Some(String::from_utf8_lossy(&bytes).into_owned().into())
        }
        _ => None,
    }
}

fn journal_outer(members: &Members<'_>, outer: &Outer, config: &DecodeConfig) -> Outer {
    let mut inner = outer.inside("journald");
    inner.when = value_time(get(members, "__REALTIME_TIMESTAMP"), config).or(inner.when);
    // Python's handler for the journal gives the logger's name; that of the program is another matter.
    let own = string(members, "LOGGER").filter(|logger| !logger.is_empty());
    inner.closed = own.is_some();
    inner.logger =
        own.or_else(|| string(members, "SYSLOG_IDENTIFIER")).map(Arc::from).or(inner.logger);
    inner.level = string(members, "PRIORITY")
        .and_then(|p| p.parse().ok())
        .and_then(Level::from_syslog)
        .or(inner.level);
    // What a program gave to syslog is its message; only what it printed has a header of its own.
    inner.message_only = string(members, "_TRANSPORT").is_none_or(|t| t != "stdout");
    let fields = fields::flatten(members).into_iter();
    inner.fields.push(kept(fields.filter(|field| !field.is("message"))));
    inner
}

/// A piece of a line that was too long for the journal, or that Docker cut before it got there.
fn journal_piece<'v>(members: &'v Members<'v>) -> Option<Piece<'v>> {
    let cut = string(members, "_LINE_BREAK") == Some("line-max")
        || string(members, "CONTAINER_PARTIAL_MESSAGE") == Some("true");
    let ordinal = string(members, "CONTAINER_PARTIAL_ORDINAL").and_then(|n| n.parse().ok());
    let follows = ordinal.is_some_and(|n: u64| n > 1);
    if !cut && !follows {
        return None;
    }
    Some(Piece { follows, ..of_journal(members, !cut)? })
}

/// What names the stream of lines that a record of the journal belongs to. The priority may be
/// one that the piece began with, and so its writer's choice, if the journal read it from a stream.
fn journal_stream(members: &Members<'_>) -> &'static [&'static str] {
    if get(members, "_STREAM_ID").is_some() {
        &["_BOOT_ID", "_STREAM_ID"]
    } else {
        &["_BOOT_ID", "_PID", "CONTAINER_ID_FULL", "CONTAINER_PARTIAL_ID", "PRIORITY"]
    }
}
