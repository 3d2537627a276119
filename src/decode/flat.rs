//! The fast path: a line that is one flat, strict JSON object of its own, as most loggers write.
//!
//! It gives what the general path gives or nothing at all: at the first thing that is nested,
//! bent, or might be an envelope, the line is left to the general path. Lines of one program have
//! the same keys in the same order, so what a key means is remembered with its place in the line
//! and confirmed by one comparison.

use super::envelope::{self, BARE};
use super::fields::{Field, Kind, Known, Plays, normalize};
use super::lanes::{LANES, Lanes};
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
    /// which place.
    plays: Vec<(Way, Arc<[Plays]>)>,
    /// A list that is used again for every line.
    fields: Vec<Field<'static>>,
}

/// Which of the known keys stood in each place, two bits a place, and how many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Way {
    kinds: u64,
    places: u32,
    /// Some key was not known, or there are too many of them.
    lost: bool,
}

impl Way {
    fn go(&mut self, kind: Option<usize>) {
        self.lost |= kind.is_none() || self.places >= 32;
        self.kinds = self.kinds << 2 | kind.unwrap_or(0) as u64;
        self.places += 1;
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
    meaning: Meaning,
}

#[derive(Debug, Clone, Copy)]
struct Meaning {
    known: Known,
    /// Shippers write such a key beside the line they carry.
    carrier: bool,
    /// The key belongs to an envelope alone.
    envelope: bool,
}

impl Meaning {
    fn of(key: &str, config: &DecodeConfig) -> Self {
        let normal = normalize(key);
        Self {
            known: config.fields.number(&normal),
            carrier: envelope::is_carrier_key(&normal),
            envelope: matches!(key, "log" | "__REALTIME_TIMESTAMP"),
        }
    }
}

/// Reads a line, if it is of the kind that is read here.
pub fn read<'a>(line: &'a [u8], config: &'a DecodeConfig, keys: &mut Keys) -> Option<Record<'a>> {
    let line = line.trim_ascii();
    let [b'{', .., b'}'] = line else { return None };
    let text = calm(line)?;
    let mut reader = Reader { text, at: 1 };
    let mut fields: Vec<Field<'a>> = std::mem::take(&mut keys.fields);
    let (mut carriers, mut nulls, mut way) = (true, false, Way::default());
    for place in 0.. {
        let known = keys.by_place.get(place).map_or(&[][..], Vec::as_slice);
        let found = known.iter().enumerate().find_map(|(kind, key)| {
            let (found, meaning) = reader.expected(key)?;
            Some((kind, found, meaning))
        });
        way.go(found.map(|(kind, ..)| kind));
        let (key, meaning) = match found {
            Some((_, key, meaning)) => (key, meaning),
            None => {
                let (lead, start, end) = reader.key()?;
                let key = lead.get(start..end)?;
                let meaning = Meaning::of(key, config);
                keys.learn(place, lead, start, end, meaning);
                (key, meaning)
            }
        };
        if meaning.envelope {
            return None;
        }
        carriers &= meaning.carrier;
        // Filled in its place: a copy of what was just put together piece by piece waits for every piece.
        fields.push(Field::EMPTY);
        let field = fields.last_mut()?;
        (field.shown, field.known) = (Cow::Borrowed(key), meaning.known);
        reader.value(&mut field.text, &mut field.kind)?;
        nulls |= field.kind == Kind::Null;
        if reader.ended()? {
            break;
        }
    }
    if carriers {
        return None;
    }
    let plays = keys.plays(way, nulls, || config.fields.roles(&fields));
    Some(Record::new(config, "json", fields, plays, OuterOf::Borrowed(&BARE)))
}

/// The line as text, if nothing in it is for terminals or otherwise odd.
fn calm(line: &[u8]) -> Option<&str> {
    let (control, beyond) = line
        .iter()
        .fold((false, 0), |(control, beyond), byte| (control | (*byte < b' '), beyond | *byte));
    if control {
        return None;
    }
    let text = std::str::from_utf8(line).ok()?;
    let plain = beyond < 0x80 || matches!(text::strip_ansi(text), Cow::Borrowed(_));
    plain.then_some(text)
}

/// Where in `bytes` the first quote or backslash stands.
fn text_end(bytes: &[u8]) -> Option<usize> {
    let found = |lanes: Lanes| lanes.first(b'"').or(lanes.first(b'\\'));
    let (mut rest, mut at) = (bytes, 0);
    // A short text is sooner looked through than asked for.
    while at < SHORT
        && let Some((first, behind)) = rest.split_first_chunk()
        && let Some((second, behind)) = behind.split_first_chunk()
    {
        let (first, second) = (found(Lanes::of(first)).at(), found(Lanes::of(second)).at());
        let end = if first < LANES { first } else { LANES + second };
        if end < 2 * LANES {
            return Some(at + end);
        }
        (rest, at) = (behind, at + 2 * LANES);
    }
    Some(at + memchr::memchr2(b'"', b'\\', rest)?)
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
    fn learn(&mut self, place: usize, lead: &str, start: usize, end: usize, meaning: Meaning) {
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
            meaning,
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

    /// The roles of a line's fields, from memory if the same keys stood in the same places before.
    fn plays(
        &mut self,
        way: Way,
        nulls: bool,
        roles: impl FnOnce() -> Arc<[Plays]>,
    ) -> Arc<[Plays]> {
        let usable = !way.lost && !nulls;
        if usable && let Some((_, plays)) = self.plays.iter().find(|(known, _)| *known == way) {
            return Arc::clone(plays);
        }
        let plays = roles();
        if usable && self.plays.len() < KEYS_MAX {
            self.plays.push((way, Arc::clone(&plays)));
        }
        plays
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

struct Reader<'a> {
    text: &'a str,
    /// At the first key, else behind a value.
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// The key, if it is the one that stood in this place before.
    fn expected(&mut self, key: &Key) -> Option<(&'a str, Meaning)> {
        // Near its end, a line is read without help.
        let (first, mut rest) = self.text.as_bytes().get(self.at..)?.split_first_chunk()?;
        if (u128::from_le_bytes(*first) ^ key.lead) & key.mask != 0 {
            return None;
        }
        for word in &key.more {
            let (first, behind) = rest.split_first_chunk()?;
            if !word.begins(u64::from_le_bytes(*first)) {
                return None;
            }
            rest = behind;
        }
        // Blanks in front of a value belong to what is remembered.
        if self.text.as_bytes().get(self.at + key.length) == Some(&b' ') {
            return None;
        }
        let found = self.text.get(self.at + key.start..self.at + key.end)?;
        self.at += key.length;
        Some((found, key.meaning))
    }

    /// The next key: all that stands before its value, and where in it the key is.
    fn key(&mut self) -> Option<(&'a str, usize, usize)> {
        let begin = self.at;
        self.blanks();
        if begin > 1 {
            self.at += 1;
            self.blanks();
        }
        if self.peek()? != b'"' {
            return None;
        }
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        let length = memchr::memchr2(b'"', b'\\', bytes.get(start..)?)?;
        let end = start + length;
        if bytes.get(end) != Some(&b'"') {
            return None;
        }
        self.at = end + 1;
        self.blanks();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        self.blanks();
        Some((self.text.get(begin..self.at)?, start - begin, end - begin))
    }

    /// Reads a value into `text` and `kind`, which say that there is none yet.
    fn value(&mut self, text: &mut Cow<'a, str>, kind: &mut Kind) -> Option<()> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if self.peek()? == b'"' {
            let length = text_end(bytes.get(start + 1..)?)?;
            let end = start + 1 + length;
            *kind = Kind::Text;
            if bytes.get(end) == Some(&b'"') {
                self.at = end + 1;
                *text = Cow::Borrowed(self.text.get(start + 1..end)?);
                return Some(());
            }
            (*text, self.at) = json::strict_string(self.text, start)?;
            return Some(());
        }
        let rest = bytes.get(start..)?;
        let length = word_len(rest)?;
        self.at = start + length;
        let word = self.text.get(start..self.at)?;
        *kind = match word {
            _ if is_plain_number(rest, length) => Kind::Number,
            "null" => return Some(()),
            "true" | "false" => Kind::Bool,
            _ if json::is_strict_number(word) => Kind::Number,
            _ => return None,
        };
        *text = Cow::Borrowed(word);
        Some(())
    }

    /// Whether the object ends behind a value, and with it the line.
    fn ended(&mut self) -> Option<bool> {
        match self.peek()? {
            b',' => Some(false),
            b' ' => {
                let before = self.at;
                self.blanks();
                let ended = self.ended();
                if ended == Some(false) {
                    self.at = before;
                }
                ended
            }
            b'}' => (self.at + 1 == self.text.len()).then_some(true),
            _ => None,
        }
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
