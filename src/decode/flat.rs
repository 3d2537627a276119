//! The fast path: a line that is one flat, strict JSON object of its own, as most loggers write.
//!
//! It gives what the general path gives or nothing at all: at the first thing that is nested,
//! bent, or might be an envelope, the line is left to the general path. Lines of one program have
//! the same keys in the same order, so what a key means is remembered with its place in the line
//! and confirmed by one comparison.

use super::carrier;
use super::envelope::BARE;
use super::fields::{Cast, Field, Kind, Known, normalize};
use super::lanes::{LANES, Lanes, WIDE, Wide};
use super::word::Word;
use super::{DecodeConfig, OuterOf, Record, json, text};
use std::borrow::Cow;
use std::sync::Arc;

/// Bytes of a value that are looked through before anything else is asked.
const SHORT: usize = 64;

/// Keys that are remembered; lines with more are read without help behind them.
const KEYS_MAX: usize = 64;
/// A list that held more fields is not used again.
const FIELDS_KEPT: usize = 1024;
/// Longest key that is remembered, with what stands around it, bytes.
const LEAD_MAX: usize = 96;

/// Keys that are remembered for one place: one for each kind of line that takes turns.
const KINDS_MAX: usize = 4;

/// The keys of the lines read so far, by their place.
#[derive(Debug, Default)]
pub struct Keys {
    by_place: Vec<Vec<Key>>,
    /// The roles that the fields of a line play none of which is `null`, by which key stood in
    /// which place; none for a line that carries another.
    casts: Vec<(Way, Option<Arc<Cast>>)>,
    /// A list that is used again for every line.
    fields: Vec<Field<'static>>,
}

/// Which of the known keys stood in each place, two bits a place, behind a bit that tells how many there
/// were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way(u64);

/// So many places a [`Way`] tells.
const PLACES_MAX: usize = 31;

impl Default for Way {
    fn default() -> Self {
        Self(1)
    }
}

impl Way {
    #[inline]
    fn go(&mut self, kind: usize) {
        self.0 = self.0 << 2 | kind as u64;
    }
}

#[derive(Debug)]
struct Key {
    /// All bytes from the end of the value before up to the value, `,"level":`: the first sixteen, which
    /// bits of those there are, and what follows.
    lead: u128,
    mask: u128,
    more: Box<[Word]>,
    length: usize,
    /// Where in them the key stands.
    start: usize,
    end: usize,
    /// What it means.
    known: Known,
}

impl Key {
    /// Whether what follows its first bytes follows there.
    fn goes_on(&self, mut rest: &[u8]) -> bool {
        self.more.iter().all(|word| {
            let Some((first, behind)) = rest.split_first_chunk() else { return false };
            rest = behind;
            word.begins(u64::from_le_bytes(*first))
        })
    }
}

/// Reads a line, if it is of the kind that is read here.
pub fn read<'a>(line: &'a [u8], config: &'a DecodeConfig, keys: &mut Keys) -> Option<Record<'a>> {
    let line = line.trim_ascii();
    let [b'{', .., b'}'] = line else { return None };
    let text = calm(line)?;
    let bytes = text.as_bytes();
    let mut at = 1;
    let mut fields: Vec<Field<'a>> = std::mem::take(&mut keys.fields);
    let (mut way, mut lost, mut nulls) = (Way::default(), false, false);
    loop {
        let learnt = keys.by_place.get(fields.len()).map_or(&[][..], Vec::as_slice);
        let (key, known) = if let Some((kind, learnt)) = expected(bytes, at, learnt) {
            way.go(kind);
            let key = text.get(at + learnt.start..at + learnt.end)?;
            at += learnt.length;
            (key, learnt.known)
        } else {
            lost = true;
            let (key, known, behind) = unexpected(text, at, fields.len(), keys, config)?;
            at = behind;
            (key, known)
        };
        if let Some((value, behind)) = plain_text(text, at) {
            at = behind;
            fields.push(Field::flat(key, Cow::Borrowed(value), Kind::Text, known));
        } else {
            let (value, kind, behind) = odd_value(text, at)?;
            at = behind;
            nulls |= kind == Kind::Null;
            fields.push(Field::flat(key, value, kind, known));
        }
        if bytes.get(at) != Some(&b',') {
            match ended(bytes, at)? {
                Some(comma) => at = comma,
                None => break,
            }
        }
    }
    let usable = !lost && !nulls && fields.len() <= PLACES_MAX;
    let cast = keys.cast(usable.then_some(way), || {
        // Shippers write only such keys beside the line they carry; Vector some more, by its source.
        let carriers = fields.iter().all(|field| carrier::is_key(&field.path()))
            || fields.iter().any(|field| field.is("sourcetype"));
        (!carriers).then(|| config.fields.roles(&fields))
    })?;
    let names = cast.names;
    let mut record = Record::new(config, "json", fields, cast, OuterOf::Borrowed(&BARE));
    (record.names, record.calm) = (names, true);
    Some(record)
}

/// The line as text, if nothing in it is for terminals or otherwise odd.
fn calm(line: &[u8]) -> Option<&str> {
    // Too short for one step: the general path does as well.
    let last = Wide::of(line.last_chunk()?);
    let (wides, _) = line.as_chunks();
    let (lowest, joined) = wides
        .iter()
        .map(Wide::of)
        .fold((last, last), |(lowest, joined), wide| (lowest.min(wide), joined.join(wide)));
    if lowest.lowest() < b' ' {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let plain = joined.is_ascii() || matches!(text::strip_ansi(text), Cow::Borrowed(_));
    plain.then_some(text)
}

/// The text that begins at `at`, if it is one without escapes, and where it ends.
#[inline]
fn plain_text(text: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let start = at + 1;
    let end = start + text_end(bytes.get(start..)?)?;
    let closed = bytes.get(end) == Some(&b'"');
    closed.then_some((text.get(start..end)?, end + 1))
}

/// Where in `bytes` the first quote or backslash stands.
#[inline]
fn text_end(bytes: &[u8]) -> Option<usize> {
    let (mut rest, mut at) = (bytes, 0);
    // A short text is sooner looked through than asked for.
    while at < SHORT
        && let Some((wide, behind)) = rest.split_first_chunk()
    {
        let wide = Wide::of(wide);
        let found = wide.equal(b'"') | wide.equal(b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        (rest, at) = (behind, at + WIDE);
    }
    let found = if rest.len() < WIDE {
        rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))
    } else {
        memchr::memchr2(b'"', b'\\', rest)
    };
    Some(at + found?)
}

/// How long the word is that begins `bytes`: a number, `true`, `false` or `null`.
fn word_len(bytes: &[u8]) -> Option<usize> {
    if let Some(first) = bytes.first_chunk() {
        let lanes = Lanes::of(first);
        let found = lanes.first(b',').or(lanes.first(b'}')).or(lanes.first(b' ')).at();
        if found < LANES {
            return Some(found);
        }
    }
    bytes.iter().position(|b| matches!(b, b',' | b'}' | b' '))
}

/// Whether the first `len` bytes are a number as nearly all are: a few digits, with a point among them
/// or without. `false` says nothing.
fn is_plain_number(bytes: &[u8], len: usize) -> bool {
    let Some(first) = bytes.first_chunk().filter(|_| (1..=LANES).contains(&len)) else {
        return false;
    };
    let others = Lanes::of(first).no_digits().among(len);
    // A zero begins a number only alone or before a point; a point needs digits on both sides.
    let zero = first[0] == b'0';
    match others.count() {
        0 => !zero || len == 1,
        1 => {
            let point = others.at();
            first.get(point) == Some(&b'.')
                && (1..len - 1).contains(&point)
                && (!zero || point == 1)
        }
        _ => false,
    }
}

impl Keys {
    fn learn(&mut self, place: usize, lead: &str, start: usize, end: usize, known: Known) {
        if place >= KEYS_MAX || lead.len() > LEAD_MAX {
            return;
        }
        let (first, more) = lead.as_bytes().split_at(lead.len().min(size_of::<u128>()));
        let number = |bytes: [u8; 16]| u128::from_le_bytes(bytes);
        let (mut bytes, mut mask) = ([0; 16], [0; 16]);
        for ((to, mask), byte) in bytes.iter_mut().zip(&mut mask).zip(first) {
            (*to, *mask) = (*byte, 0xff);
        }
        let key = Key {
            lead: number(bytes),
            mask: number(mask),
            more: more.chunks(8).map(Word::of).collect(),
            length: lead.len(),
            start,
            end,
            known,
        };
        // Places are filled in their order, or the ones behind wait for a later line.
        if place == self.by_place.len() {
            self.by_place.push(Vec::new());
        }
        if let Some(known) = self.by_place.get_mut(place)
            && known.len() < KINDS_MAX
        {
            known.push(key);
        }
    }

    /// The roles of a line's fields, `by_fields` or from memory if the same keys stood in the same places
    /// before; none if it is a line that carries another.
    fn cast(
        &mut self,
        way: Option<Way>,
        by_fields: impl FnOnce() -> Option<Arc<Cast>>,
    ) -> Option<Arc<Cast>> {
        let Some(way) = way else { return by_fields() };
        if let Some((_, cast)) = self.casts.iter().find(|(known, _)| *known == way) {
            return cast.clone();
        }
        let cast = by_fields();
        if self.casts.len() < KEYS_MAX {
            self.casts.push((way, cast.clone()));
        }
        cast
    }

    /// Takes the list of a record that is done with.
    pub fn take_back(&mut self, record: Record<'_>) {
        // An odd line's would be held for long.
        if record.fields.len() > FIELDS_KEPT {
            return;
        }
        // Nothing is left in the list, so that it may hold fields of any line; the compiler lets it
        // keep its memory.
        self.fields = record.fields.into_iter().map_while(|_| None).collect();
    }
}

/// The key that stands at `at`, if it is one that stood in its place before: which, and what is known of it.
#[inline]
fn expected<'k>(bytes: &[u8], at: usize, learnt: &'k [Key]) -> Option<(usize, &'k Key)> {
    // Near its end, a line is read without help.
    let (first, rest) = bytes.get(at..)?.split_first_chunk()?;
    let first = u128::from_le_bytes(*first);
    let stands = |key: &&Key| {
        (first ^ key.lead) & key.mask == 0
            && key.goes_on(rest)
            // Blanks in front of a value belong to what is remembered.
            && bytes.get(at + key.length) != Some(&b' ')
    };
    learnt.iter().enumerate().find(|(_, key)| stands(key))
}

/// Where the next byte stands that is no blank.
fn behind_blanks(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at) == Some(&b' ') {
        at += 1;
    }
    at
}

/// The key that stands at `at`, what it means, and where its value begins. It is remembered.
#[cold]
fn unexpected<'a>(
    text: &'a str,
    at: usize,
    place: usize,
    keys: &mut Keys,
    config: &DecodeConfig,
) -> Option<(&'a str, Known, usize)> {
    let bytes = text.as_bytes();
    let mut start = behind_blanks(bytes, at);
    if at > 1 {
        // Behind the comma.
        start = behind_blanks(bytes, start + 1);
    }
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    start += 1;
    let end = start + memchr::memchr2(b'"', b'\\', bytes.get(start..)?)?;
    if bytes.get(end) != Some(&b'"') {
        return None;
    }
    let colon = behind_blanks(bytes, end + 1);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let value = behind_blanks(bytes, colon + 1);
    let (lead, key) = (text.get(at..value)?, text.get(start..end)?);
    // Such a key belongs to an envelope alone.
    if matches!(key, "log" | "__REALTIME_TIMESTAMP") {
        return None;
    }
    let known = config.fields.number(&normalize(key));
    keys.learn(place, lead, start - at, end - at, known);
    Some((key, known, value))
}

/// The value at `at`, if it is no [plain text](plain_text), and where it ends.
#[inline(never)]
fn odd_value(text: &str, at: usize) -> Option<(Cow<'_, str>, Kind, usize)> {
    let rest = text.as_bytes().get(at..)?;
    if rest.first() == Some(&b'"') {
        let (text, behind) = json::strict_string(text, at)?;
        return Some((text, Kind::Text, behind));
    }
    let length = word_len(rest)?;
    let behind = at + length;
    let word = text.get(at..behind)?;
    let kind = match word {
        _ if is_plain_number(rest, length) => Kind::Number,
        "null" => return Some((Cow::Borrowed(""), Kind::Null, behind)),
        "true" | "false" => Kind::Bool,
        _ if json::is_strict_number(word) => Kind::Number,
        _ => return None,
    };
    Some((Cow::Borrowed(word), kind, behind))
}

/// What stands behind a value: a comma, whose place is that of the next key, or the end of the object and
/// with it of the line.
fn ended(bytes: &[u8], at: usize) -> Option<Option<usize>> {
    let behind = behind_blanks(bytes, at);
    match bytes.get(behind)? {
        // Blanks in front of it belong to what is remembered.
        b',' => Some(Some(at)),
        b'}' if behind + 1 == bytes.len() => Some(None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, decode};
    use super::*;
    use proptest::prelude::*;

    /// Lines by the rules of JSON, now and then broken by one byte.
    fn line() -> impl Strategy<Value = String> {
        let key = prop_oneof![
            4 => prop::sample::select(vec![
                "timestamp", "level", "logger", "message", "user_id", "ip_address", "request_id",
                "log", "stream", "time", "attrs", "status", "msg", "tag", "__REALTIME_TIMESTAMP",
                "MESSAGE", "IP-Address", "a.b",
            ]).prop_map(str::to_owned),
            1 => "[a-zA-Z_.\\\\é\"]{0,6}",
        ];
        let value = prop_oneof![
            4 => prop::sample::select(vec![
                "\"x\"", "\"203.0.113.7\"", "\"2025-08-03T22:30:00Z\"", "12", "-1.5e3", "01", "true",
                "null", "NaN", "\"a\\\"b\\u0041\\/\"", "\"\\x41\"", "\"é\u{9b}1m\"", "{}", "[1]",
                "{\"a\":1}", "\"\"", "", "\"\\ud800\"", "\"FAILED_LOGIN: email=a, ip=1.2.3.4, reason=x\"",
            ]).prop_map(str::to_owned),
            1 => "\"[ -~\t]{0,8}\"",
        ];
        let gap = prop::sample::select(vec!["", "", "", " ", "  ", "\t"]);
        let members = prop::collection::vec((key, value, gap.clone(), gap), 0..6);
        (members, "[ {}\",]{0,1}", prop::sample::select(vec!["", "", "\r", " ", "x"])).prop_map(
            |(members, odd, tail)| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value, a, b)| format!("{a}\"{key}\"{b}:{a}{value}{b}"))
                    .collect();
                format!("{{{}{odd}}}{tail}", members.join(","))
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn it_gives_what_the_general_path_gives_or_nothing(lines in prop::collection::vec(line(), 1..5)) {
            let config = DecodeConfig::default();
            let mut keys = Keys::default();
            for line in &lines {
                let Some(record) = read(line.as_bytes(), &config, &mut keys) else { continue };
                let general = decode(line.as_bytes(), &config);
                prop_assert_eq!(Decoded::Records(vec![record]), general, "{}", line);
            }
        }
    }

    proptest! {
        #[test]
        fn a_text_ends_where_a_naive_search_says(text in "[a\"\\\\\\x01\\x80é]{0,9}.{0,60}[\"\\\\]{0,2}.{0,20}") {
            let bytes = text.as_bytes();
            let naive = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            prop_assert_eq!(text_end(bytes), naive);
        }

        #[test]
        fn a_plain_number_is_a_number(
            word in prop_oneof!["[-0-9.e+]{1,18}", "[0-9]{1,9}\\.[0-9]{0,9}", "0{0,2}[0-9]{0,17}"],
            tail in "[,} ].{0,20}",
        ) {
            let text = format!("{word}{tail}");
            let naive = text.find([',', '}', ' ']);
            prop_assert_eq!(word_len(text.as_bytes()), naive);
            let len = word.len();
            let plain = word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && len <= LANES;
            let strict = json::is_strict_number(&word);
            let near_the_end = text.len() < LANES;
            prop_assert_eq!(is_plain_number(text.as_bytes(), len), plain && strict && !near_the_end);
        }
    }

    #[test]
    fn ordinary_lines_are_read_here() {
        let config = DecodeConfig::default();
        let mut keys = Keys::default();
        for line in [
            r#"{"timestamp":"2025-08-03T22:30:00Z","level":"INFO","logger":"x","message":"a \"b\"","line":7}"#,
            r#"{"timestamp": "2025-08-03T22:30:00Z", "level": "INFO", "logger": "x", "message": "é", "line": null}"#,
            r#" { "level" : "INFO" , "logger" : true } "#,
        ] {
            for _ in 0..2 {
                assert!(read(line.as_bytes(), &config, &mut keys).is_some(), "{line}");
            }
        }
        for line in ["{}", r#"{"a":{}}"#, r#"{"log":"x","stream":"y"}"#, r#"{"message":"x"}"#] {
            assert!(read(line.as_bytes(), &config, &mut keys).is_none(), "{line}");
        }
    }
}
