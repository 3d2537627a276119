//! JSON as the world writes it: one reader that takes everything strict JSON allows and everything
//! a person could still read.
//!
//! A security tool may not lose a record because one escape in it is odd: whoever can place that
//! escape would be invisible. So lone surrogates, `NaN`, raw control bytes, `\x22`, bare words in
//! place of values, huge numbers, several documents on one line, trailing garbage and a missing end
//! are all read as far as they can be, and what was bent is noted in [`Bent`]. Object members keep
//! their order and their repetitions: a repeated key is evidence, not an error.

use std::borrow::Cow;

/// Nesting that is followed; deeper values are skipped and become [`Value::Cut`].
pub const DEPTH_MAX: usize = 64;

/// A JSON value that borrows from the line where it can.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it was written, `NaN` and `-Infinity` included: nothing is rounded.
    Number(Cow<'a, str>),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object: members in their order, repeated keys kept.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// A value below [`DEPTH_MAX`], skipped.
    Cut,
}

/// What had to be bent to read a text. All false: strict JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bent {
    /// An escape that JSON does not have, or half a surrogate pair.
    pub escape: bool,
    /// Raw control bytes inside a string.
    pub control: bool,
    /// `NaN`, bare words, leading zeros, missing values.
    pub token: bool,
    /// Values below [`DEPTH_MAX`] were skipped.
    pub depth: bool,
    /// Text after the document that is not another document.
    pub trailing: bool,
    /// The text ends inside the document; complete members before the end were kept.
    pub truncated: bool,
}

impl Unreadable {
    /// Whether the text simply ends too early.
    pub fn truncated(&self) -> bool {
        self.what.starts_with("the text ends")
    }
}

impl Bent {
    /// Whether anything at all was bent.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// A text that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<'a> {
    /// The documents on the line, normally one.
    pub values: Vec<Value<'a>>,
    /// What was bent to get them.
    pub bent: Bent,
}

/// Why a text is no JSON even with good will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Unreadable {
    /// Where reading stopped, in bytes from the start of the text.
    pub at: usize,
    /// What was wrong there.
    pub what: &'static str,
}

/// Reads all documents in `text`.
///
/// # Errors
/// When the first document cannot be read as far as one complete member or element.
pub fn read(text: &str) -> Result<Document<'_>, Unreadable> {
    Reader::new(text, 0).documents()
}

/// Reads what is left of a text that was cut. Objects that were not complete [say so](early).
///
/// # Errors
/// As [`read`].
pub fn read_cut(text: &str, cut: Cut) -> Result<Document<'_>, Unreadable> {
    let mut reader = Reader::new(text, 0);
    reader.cut = Some(cut);
    reader.documents()
}

/// What becomes of a string in which a text was cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    /// Whether its beginning is worth something under this key; else it is left out.
    pub keeps: fn(&str) -> bool,
    /// What is put behind it.
    pub mark: &'static str,
}

/// Stands as the last key in an object that was not complete; no key has to be called that.
const EARLY: &str = "\u{fdd0}";

/// The members of an object, and whether more of them were cut off.
pub fn early<'v, 'a>(
    members: &'v [(Cow<'a, str>, Value<'a>)],
) -> (&'v [(Cow<'a, str>, Value<'a>)], bool) {
    match members.split_last() {
        Some(((key, Value::Cut), rest)) if key == EARLY => (rest, true),
        _ => (members, false),
    }
}

/// The string whose opening quote stands at `at`, and where its end is; `None` unless it is strict.
pub(super) fn strict_string(text: &str, at: usize) -> Option<(Cow<'_, str>, usize)> {
    let mut reader = Reader::new(text, at);
    let value = reader.string()?;
    (!reader.bent.any()).then_some((value, reader.at))
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    bent: Bent,
    cut: Option<Cut>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, at: usize) -> Self {
        let bent = Bent::default();
        Self { text, bytes: text.as_bytes(), at, bent, cut: None }
    }

    fn documents(mut self) -> Result<Document<'a>, Unreadable> {
        self.blanks();
        let mut values = vec![self.value(0)?];
        loop {
            let end = self.at;
            self.blanks();
            if self.peek() == Some(b',') {
                self.at += 1;
                self.blanks();
            }
            match self.peek() {
                None => break,
                Some(b'{' | b'[') => match self.value(0) {
                    Ok(value) => values.push(value),
                    Err(_) => {
                        self.bent.trailing = true;
                        break;
                    }
                },
                Some(_) => {
                    self.at = end;
                    // Text between two documents (two writers on one pipe) must not hide the second.
                    match memchr::memmem::find(&self.bytes[end..], b"{\"") {
                        Some(offset) => self.at = end + offset,
                        None => {
                            self.bent.trailing = true;
                            break;
                        }
                    }
                    self.bent.trailing = true;
                }
            }
        }
        Ok(Document { values, bent: self.bent })
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n' | 0) = self.peek() {
            self.at += 1;
        }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Unreadable> {
        Err(Unreadable { at: self.at, what })
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Unreadable> {
        match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => {
                self.bent.depth = true;
                self.skip_nested();
                Ok(Value::Cut)
            }
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => match self.string() {
                Some(text) => Ok(Value::String(text)),
                None => {
                    self.at = self.bytes.len();
                    self.fail("the text ends inside a string")
                }
            },
            Some(_) => self.token(depth > 0),
            None => self.fail("the text ends where a value is due"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, Unreadable> {
        self.at += 1;
        let mut members = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(members));
                }
                Some(b',') => {
                    self.at += 1;
                    self.bent.token |= members.is_empty();
                }
                Some(b'"') => {
                    let start = self.at;
                    let Some(key) = self.string() else { return self.cut_object(members, start) };
                    self.blanks();
                    match self.peek() {
                        Some(b':') => self.at += 1,
                        None => return self.cut_object(members, start),
                        Some(_) if members.is_empty() => return self.fail("no `:` after the key"),
                        Some(_) => {
                            self.bent.token = true;
                            continue;
                        }
                    }
                    self.blanks();
                    let from = self.at;
                    match self.value(depth + 1) {
                        Ok(value) => members.push((key, value)),
                        Err(_) if self.at >= self.bytes.len() => {
                            if let Some(cut) = self.cut
                                && self.bytes.get(from) == Some(&b'"')
                                && (cut.keeps)(&key)
                            {
                                members.push((key, self.rest_of_string(from, cut.mark)));
                            }
                            return self.cut_object(members, start);
                        }
                        Err(error) => return Err(error),
                    }
                }
                None => return self.cut_object(members, self.at),
                Some(_) if members.is_empty() => return self.fail("a key in quotes is due"),
                Some(_) => {
                    // For example nginx's unquoted `0.000, 0.012`: the rest of a value we know not.
                    self.bent.token = true;
                    let before = self.at;
                    self.skip_word();
                    self.at += usize::from(self.at == before);
                }
            }
        }
    }

    /// What is left of the string that begins at `from`, with the mark that it was cut.
    fn rest_of_string(&self, from: usize, mark: &str) -> Value<'a> {
        let mut left = self.text.get(from..).unwrap_or_default();
        // A backslash that is left of an escape would take the quote along.
        loop {
            let closed = format!("{left}\"");
            let mut reader = Reader::new(&closed, 0);
            match reader.string() {
                Some(text) if reader.at == closed.len() => {
                    return Value::String(Cow::Owned(format!("{text}{mark}")));
                }
                _ => match left.strip_suffix('\\') {
                    Some(rest) => left = rest,
                    None => return Value::Null,
                },
            }
        }
    }

    /// The object as far as it was complete, when the text ended in it.
    fn cut_object(
        &mut self,
        mut members: Vec<(Cow<'a, str>, Value<'a>)>,
        start: usize,
    ) -> Result<Value<'a>, Unreadable> {
        self.at = self.bytes.len();
        if members.is_empty() {
            return Err(Unreadable { at: start, what: "the text ends before a complete member" });
        }
        self.bent.truncated = true;
        if self.cut.is_some() {
            members.push((Cow::Borrowed(EARLY), Value::Cut));
        }
        Ok(Value::Object(members))
    }

    fn array(&mut self, depth: usize) -> Result<Value<'a>, Unreadable> {
        self.at += 1;
        let mut elements = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(elements));
                }
                Some(b',') => self.at += 1,
                Some(b'}' | b':') => return self.fail("a `]` or a value is due"),
                None => return self.cut_array(elements, depth),
                Some(_) => match self.value(depth + 1) {
                    Ok(value) => elements.push(value),
                    Err(_) if self.at >= self.bytes.len() && !elements.is_empty() => {
                        return self.cut_array(elements, depth);
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// The array as far as it was complete, when the text ended in it. One of texts is a value as a whole,
    /// as a list of addresses is: half of it says something else.
    fn cut_array(
        &mut self,
        elements: Vec<Value<'a>>,
        depth: usize,
    ) -> Result<Value<'a>, Unreadable> {
        let nested = |element: &Value<'_>| matches!(element, Value::Object(_) | Value::Array(_));
        if depth > 0 && !elements.iter().any(nested) {
            return self.fail("the text ends inside a list");
        }
        self.bent.truncated = true;
        Ok(Value::Array(elements))
    }

    /// A number, a literal, or a bare word that somebody forgot to quote; `inside` an object or a list,
    /// it goes on unless something else follows.
    fn token(&mut self, inside: bool) -> Result<Value<'a>, Unreadable> {
        let start = self.at;
        self.skip_word();
        let word = &self.text[start..self.at];
        Ok(match word {
            "" => {
                // `"key":,` or `"key":}`: no value at all.
                self.bent.token = true;
                return match self.peek() {
                    Some(b',' | b'}' | b']') => Ok(Value::Null),
                    Some(_) => self.fail("a value is due"),
                    None => self.fail("the text ends where a value is due"),
                };
            }
            // Of 123 there may be 12 left.
            _ if inside && self.at >= self.bytes.len() => {
                return self.fail("the text ends inside a value");
            }
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ if is_strict_number(word) => Value::Number(Cow::Borrowed(word)),
            "NaN" | "Infinity" | "-Infinity" => {
                self.bent.token = true;
                Value::Number(Cow::Borrowed(word))
            }
            _ if self.at >= self.bytes.len() => {
                return self.fail("the text ends inside a value");
            }
            _ => {
                self.bent.token = true;
                Value::String(Cow::Borrowed(word))
            }
        })
    }

    /// Moves past a run of bytes that cannot end a bare word. Always ends at a char boundary: the
    /// stopping bytes are ASCII.
    fn skip_word(&mut self) {
        let rest = &self.bytes[self.at..];
        let len = rest
            .iter()
            .position(|b| matches!(b, b',' | b'}' | b']' | b'{' | b'[' | b'"' | b':' | 0..=b' '))
            .unwrap_or(rest.len());
        self.at += len;
        if len == 0 && !matches!(self.peek(), Some(b',' | b'}' | b']' | b'"') | None) {
            self.at += 1;
        }
    }

    /// Skips one nested value without recursion: only strings and brackets are looked at.
    fn skip_nested(&mut self) {
        let mut open = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'[' => {
                    open += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    open -= 1;
                    self.at += 1;
                    if open == 0 {
                        return;
                    }
                }
                b'"' => self.skip_string(),
                _ => self.at += 1,
            }
        }
        self.bent.truncated = true;
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            match memchr::memchr2(b'"', b'\\', &self.bytes[self.at.min(self.bytes.len())..]) {
                None => {
                    self.at = self.bytes.len();
                    return;
                }
                Some(offset) => {
                    self.at += offset;
                    if self.bytes[self.at] == b'"' {
                        self.at += 1;
                        return;
                    }
                    self.at += 2;
                }
            }
        }
    }

    /// A string from its opening quote; `None` when the text ends in it.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let mut owned: Option<String> = None;
        let mut plain = start;
        loop {
            let offset = memchr::memchr2(b'"', b'\\', self.bytes.get(self.at..)?)?;
            let stop = self.at + offset;
            self.bent.control |= self.bytes[self.at..stop].iter().any(|b| *b < b' ');
            if self.bytes[stop] == b'"' {
                self.at = stop + 1;
                let tail = &self.text[plain..stop];
                return Some(match owned {
                    None => Cow::Borrowed(tail),
                    Some(mut text) => {
                        text.push_str(tail);
                        Cow::Owned(text)
                    }
                });
            }
            let text = owned.get_or_insert_with(String::new);
            text.push_str(&self.text[plain..stop]);
            let used = unescape(self.bytes.get(stop + 1..)?, text, &mut self.bent)?;
            self.at = stop + 1 + used;
            plain = self.at;
        }
    }
}

/// Decodes one escape (the bytes after its backslash) into `out`; how many bytes it took. An
/// escape that nobody knows keeps its backslash and takes nothing, so that the text stays whole.
fn unescape(rest: &[u8], out: &mut String, bent: &mut Bent) -> Option<usize> {
    let simple = match rest.first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return Some(unescape_unicode(rest, out, bent)),
        b'a' | b'v' => {
            bent.escape = true;
            if rest[0] == b'a' { '\u{7}' } else { '\u{b}' }
        }
        b'x' => {
            bent.escape = true;
            if let Some(byte) = hex(rest, 1, 2) {
                out.push(char::from_u32(byte).unwrap_or(char::REPLACEMENT_CHARACTER));
                return Some(3);
            }
            out.push('\\');
            return Some(0);
        }
        _ => {
            bent.escape = true;
            out.push('\\');
            return Some(0);
        }
    };
    out.push(simple);
    Some(1)
}

fn unescape_unicode(rest: &[u8], out: &mut String, bent: &mut Bent) -> usize {
    let Some(first) = hex(rest, 1, 4) else {
        bent.escape = true;
        out.push(char::REPLACEMENT_CHARACTER);
        return 1;
    };
    if let Some(plain) = char::from_u32(first) {
        out.push(plain);
        return 5;
    }
    if (0xd800..0xdc00).contains(&first)
        && rest.get(5) == Some(&b'\\')
        && rest.get(6) == Some(&b'u')
        && let Some(second) = hex(rest, 7, 4)
        && (0xdc00..0xe000).contains(&second)
        && let Some(pair) = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    {
        out.push(pair);
        return 11;
    }
    bent.escape = true;
    out.push(char::REPLACEMENT_CHARACTER);
    5
}

fn hex(bytes: &[u8], from: usize, len: usize) -> Option<u32> {
    bytes.get(from..from + len)?.iter().try_fold(0u32, |sum, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        Some(sum * 16 + digit)
    })
}

/// Whether `word` is a number by the grammar of JSON.
pub fn is_strict_number(word: &str) -> bool {
    let mut rest = word.as_bytes();
    if let [b'-', digits @ ..] = rest {
        rest = digits;
    }
    let digits = |rest: &mut &[u8]| {
        let first = rest.first().copied();
        let mut n = 0;
        while let [b'0'..=b'9', behind @ ..] = *rest {
            *rest = behind;
            n += 1;
        }
        (n, first)
    };
    let (n, first) = digits(&mut rest);
    if n == 0 || (n > 1 && first == Some(b'0')) {
        return false;
    }
    if let [b'.', fraction @ ..] = rest {
        rest = fraction;
        if digits(&mut rest).0 == 0 {
            return false;
        }
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = exponent;
        if let [b'+' | b'-', signed @ ..] = rest {
            rest = signed;
        }
        if digits(&mut rest).0 == 0 {
            return false;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Value<'_> {
        let mut document = read(text).unwrap();
        assert_eq!(document.values.len(), 1, "{text}");
        document.values.pop().unwrap()
    }

    fn member<'v, 'a>(value: &'v Value<'a>, key: &str) -> &'v Value<'a> {
        let Value::Object(members) = value else { panic!("no object: {value:?}") };
        &members.iter().find(|(k, _)| k == key).unwrap().1
    }

    fn text(value: &str) -> Value<'_> {
        Value::String(Cow::Borrowed(value))
    }

    #[test]
    fn lone_surrogates_do_not_hide_a_record() {
        for (raw, read_as) in [
            (r#"{"m":"email=\ud800@x"}"#, "email=\u{fffd}@x"),
            (r#"{"m":"\udc80"}"#, "\u{fffd}"),
            (r#"{"m":"\ud800\u0041"}"#, "\u{fffd}A"),
            (r#"{"m":"\ud83d\ude00"}"#, "\u{1f600}"),
            (r#"{"m":"\u12"}"#, "\u{fffd}12"),
            (r#"{"m":"\u"}"#, "\u{fffd}"),
        ] {
            assert_eq!(member(&one(raw), "m"), &text(read_as), "{raw}");
        }
    }

    #[test]
    fn what_strict_parsers_refuse_is_read() {
        let value = one(
            "{\"a\":NaN,\"b\":-Infinity,\"c\":1e400,\"d\":\"x\ty\",\"e\":\"\\x22\",\"f\":007,\"g\":-,\"h\":0.000, 0.012,\"i\":\"end\"}",
        );
        assert_eq!(member(&value, "a"), &Value::Number("NaN".into()));
        assert_eq!(member(&value, "b"), &Value::Number("-Infinity".into()));
        assert_eq!(member(&value, "c"), &Value::Number("1e400".into()));
        assert_eq!(member(&value, "d"), &text("x\ty"));
        assert_eq!(member(&value, "e"), &text("\""));
        assert_eq!(member(&value, "f"), &text("007"));
        assert_eq!(member(&value, "g"), &text("-"));
        assert_eq!(member(&value, "h"), &Value::Number("0.000".into()));
        assert_eq!(member(&value, "i"), &text("end"));
    }

    #[test]
    fn of_a_text_that_was_cut_only_what_is_asked_for_is_kept_and_marked() {
        let cut = Cut { keeps: |key| key == "m", mark: "~" };
        for (raw, rest) in [
            (r#"{"a":1,"m":"x"#, Some("x~")),
            (r#"{"a":1,"m":""#, Some("~")),
            (r#"{"a":1,"m":"x\"y\"#, Some("x\"y~")),
            (r#"{"a":1,"m":"x\\"#, Some("x\\~")),
            (r#"{"a":1,"m":"x\u00"#, Some("x\u{fffd}00~")),
            (r#"{"a":1,"n":"x"#, None),
            (r#"{"a":1,"m":12"#, None),
        ] {
            let document = read_cut(raw, cut).unwrap();
            let [Value::Object(members)] = document.values.as_slice() else { panic!("{raw}") };
            let (members, is_early) = early(members);
            assert!(is_early && document.bent.truncated, "{raw}");
            let kept = members.get(1).map(|(key, value)| (key.as_ref(), value));
            assert_eq!(kept, rest.map(text).as_ref().map(|text| ("m", text)), "{raw}");
        }
        // Complete elements are; the whole around them is not.
        let document = read_cut(r#"{"r":[{"m":"x"},{"m":"y"#, cut).unwrap();
        let [Value::Object(members)] = document.values.as_slice() else { panic!() };
        let ([(_, Value::Array(items))], true) = early(members) else { panic!("{members:?}") };
        let ends: Vec<bool> = items
            .iter()
            .map(|item| matches!(item, Value::Object(members) if early(members).1))
            .collect();
        assert_eq!(ends, [false, true]);
        assert_eq!(
            read(r#"{"a":1,"m":"x"#).unwrap().values,
            [Value::Object(vec![("a".into(), Value::Number("1".into()))])]
        );
    }

    #[test]
    fn depth_is_cut_and_members_around_it_are_kept() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        let line = format!(r#"{{"before":1,"deep":{deep},"after":2}}"#);
        let value = one(&line);
        assert_eq!(member(&value, "before"), &Value::Number("1".into()));
        assert_eq!(member(&value, "after"), &Value::Number("2".into()));
        assert!(read(&line).unwrap().bent.depth);
        let unclosed = format!(r#"{{"before":1,"deep":{}"#, "[".repeat(100_000));
        assert_eq!(member(&one(&unclosed), "before"), &Value::Number("1".into()));
    }

    #[test]
    fn repeated_keys_are_kept_also_when_spelt_with_escapes() {
        let Value::Object(members) = one(r#"{"ip":"a","\u0069p":"b"}"#) else { panic!() };
        assert_eq!(members.iter().map(|(k, _)| k.as_ref()).collect::<Vec<_>>(), ["ip", "ip"]);
    }

    #[test]
    fn several_documents_and_garbage_behind() {
        let document = read(r#"{"a":1}{"b":2} , {"c":3} oops {"d":4} tail"#).unwrap();
        assert_eq!(document.values.len(), 4);
        assert!(document.bent.trailing);
    }

    #[test]
    fn a_cut_text_keeps_its_complete_members() {
        let document = read(r#"{"a":1,"b":"tw"#).unwrap();
        assert!(document.bent.truncated);
        assert_eq!(document.values, [Value::Object(vec![("a".into(), Value::Number("1".into()))])]);
        let array = read(r#"[{"a":1},{"b":2},{"c":"x"#).unwrap();
        assert_eq!(
            array.values,
            [Value::Array(vec![
                Value::Object(vec![("a".into(), Value::Number("1".into()))]),
                Value::Object(vec![("b".into(), Value::Number("2".into()))]),
            ])]
        );
        assert!(read("{").is_err());
        assert!(read(r#"{"a"#).is_err());
        assert!(read("{a:1}").is_err());
        assert!(read("").is_err());
    }

    fn to_serde(value: &Value<'_>) -> serde_json::Value {
        match value {
            Value::Null | Value::Cut => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => serde_json::from_str(n).unwrap(),
            Value::String(s) => s.as_ref().into(),
            Value::Array(items) => items.iter().map(to_serde).collect(),
            Value::Object(members) => {
                members.iter().map(|(k, v)| (k.to_string(), to_serde(v))).collect()
            }
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            // Quarters: exact however a parser rounds.
            any::<i32>().prop_map(|n| (f64::from(n) / 4.0).into()),
            "\\PC{0,12}".prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::hash_map("[a-z\"\\\\]{0,5}", inner, 0..6)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_strict_parser_on_strict_json(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                serde_json::to_string(&value).unwrap()
            };
            let document = read(&text).unwrap();
            prop_assert!(!document.bent.any());
            prop_assert_eq!(to_serde(&document.values[0]), value);
        }

        #[test]
        fn never_panics_and_never_reads_twice(text in "[\\[\\]{}\",:\\\\u0-9a-fx \u{e9}]{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn never_panics_on_anything(text in any::<String>()) {
            let _ = read(&text);
        }
    }
}
