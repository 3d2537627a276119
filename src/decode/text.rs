//! Reads the header of a plain-text log line: time, level, logger, and for a few servers the
//! client's address. What is left is the message, the text that patterns are anchored to.
//!
//! # What may be believed
//!
//! Only the program that wrote a line decides how the line *begins*; anybody who sends a request
//! may decide what stands further right. So every header is recognised from the first byte on,
//! by one fixed order of shapes, and text inside a message cannot move the place where the
//! header ends. A field is given only if the whole shape it belongs to is there to the last
//! character; where a second reading exists, the line keeps its message and loses the field.
//! A missing address costs one event its key. A wrong one blocks a bystander.
//!
//! Blanks are U+0020 and, between padded columns, a tab. U+0085, U+2028 and the other Unicode
//! separators are ordinary characters: they end nothing and separate nothing.
//!
//! Which *kind* of source a line came from is the one thing a line cannot prove. A program that
//! prints foreign text after a bare time can be made to print something that reads like syslog.
//! [`TextLine::shape`] says which header was seen, so that a caller can insist on one.
//!
//! Every scanner passes over a line a fixed number of times, looks back at nothing, and has
//! neither panics nor unchecked slices.

use std::borrow::Cow;
use std::net::IpAddr;

use memchr::{memchr2, memmem};

type Fields<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The longest name (program, logger, host, key) that a header may carry, in bytes.
const NAME_MAX: usize = 255;

/// A line of nginx's error log is cut to 2,047 bytes; from here on its end may be missing.
const NGINX_CUT: usize = 2_040;

/// Words that are a level, in every spelling the known producers use.
const LEVELS: [&str; 24] = [
    "info",
    "warn",
    "warning",
    "error",
    "debug",
    "trace",
    "critical",
    "fatal",
    "err",
    "erro",
    "eror",
    "dbug",
    "dbg",
    "crit",
    "notice",
    "alert",
    "emerg",
    "emergency",
    "panic",
    "dpanic",
    "severe",
    "verbose",
    "information",
    "informational",
];

/// The level names that Python's `logging` itself prints.
const PYTHON_LEVELS: [&str; 5] = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/// Severities of a syslog priority, by number.
const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// Zone names that may follow a time after a blank. They only help to find the time's end.
const ZONES: [&str; 28] = [
    "UTC", "GMT", "CET", "CEST", "WET", "WEST", "EET", "EEST", "BST", "IST", "MSK", "EST", "EDT",
    "CST", "CDT", "MST", "MDT", "PST", "PDT", "AKST", "AKDT", "HST", "JST", "KST", "AEST", "AEDT",
    "NZST", "NZDT",
];

/// What a plain-text line says before its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextLine<'a> {
    /// Which header was recognised; `"text"` if none was.
    ///
    /// `syslog` (RFC 3164, and the same with an RFC 3339 time), `syslog5424`, `python`
    /// (`time - name - LEVEL - msg`), `basic` (`LEVEL:name:msg`), `railway`
    /// (`RFC3339 [LEVEL] msg`), `uvicorn` (`LEVEL:` padded as uvicorn pads it, an access line if
    /// there are fields), `clf`, `gunicorn` (its error log), `nginx_error`, `postgres`, `jboss`
    /// (Keycloak), `alb`, `logfmt`, `bracketed` (a level in brackets, with or without a time),
    /// `leveled` (`time LEVEL msg`) and `timed` (`time msg`).
    pub shape: &'static str,
    /// The time as written, without its brackets.
    pub time: Option<&'a str>,
    /// The level as written, or the severity's name if a syslog priority stood there.
    pub level: Option<&'a str>,
    /// The logger's or the program's name, without the path to the program.
    pub logger: Option<&'a str>,
    /// What follows the header: a suffix of the line. For `text` and for a logfmt line without a
    /// message that can be borrowed it is the whole line (the resolved message is then in
    /// `fields`); for other logfmt lines it is the value of the first `msg` or `message`.
    pub message: &'a str,
    /// What the header says under well-known names (`ip`, `user`, `method`, `path`, `status`,
    /// `host`, `pid`), as written and not validated; `path` is without its query. For `logfmt`
    /// all pairs in their order, repeated keys included.
    pub fields: Fields<'a>,
    /// Several places stand where the client's address should, so that none of them is taken.
    pub disputed: bool,
}

impl<'a> TextLine<'a> {
    /// A line of which nothing is known but its message.
    pub fn new(shape: &'static str, message: &'a str) -> Self {
        let fields = Vec::new();
        Self { shape, time: None, level: None, logger: None, message, fields, disputed: false }
    }

    fn time(mut self, time: &'a str) -> Self {
        self.time = Some(time);
        self
    }

    fn level(mut self, level: &'a str) -> Self {
        self.level = Some(level);
        self
    }

    fn field(mut self, name: &'static str, value: &'a str) -> Self {
        put(&mut self.fields, name, value);
        self
    }
}

fn put<'a>(fields: &mut Fields<'a>, name: &'static str, value: &'a str) {
    fields.push((Cow::Borrowed(name), Cow::Borrowed(value)));
}

/// Reads the header of a plain-text line that has neither its newline nor a carriage return.
///
/// The shapes are tried in one fixed order and the first that fits exactly is taken. A line in
/// which none is found is its own message.
pub fn read(line: &str) -> TextLine<'_> {
    let found = match line.as_bytes().first() {
        Some(b'<') => after_priority(line),
        Some(b'[') => after_bracket(line),
        _ => after_time(line)
            .or_else(|| level_first(line))
            .or_else(|| alb(line))
            .or_else(|| clf(line))
            .or_else(|| logfmt(line)),
    };
    found.unwrap_or_else(|| TextLine::new("text", line))
}

// ------------------------------------------------------------------------------------- times --

/// A place in a line, for shapes that are made of digits and punctuation.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, wanted: &[u8]) -> Option<u8> {
        let byte = self.peek().filter(|byte| wanted.contains(byte))?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self, wanted: &str) -> bool {
        let there = self.bytes.get(self.at..).is_some_and(|b| b.starts_with(wanted.as_bytes()));
        if there {
            self.at += wanted.len();
        }
        there
    }

    /// Takes up to `most` digits and says how many there were.
    fn digits(&mut self, most: usize) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let count = rest.iter().take(most).take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }

    /// Takes a number of exactly two digits that lies between `low` and `high`.
    fn two(&mut self, low: u8, high: u8) -> Option<()> {
        let &[tens, ones] = self.bytes.get(self.at..self.at + 2)? else { return None };
        if !(tens.is_ascii_digit() && ones.is_ascii_digit()) {
            return None;
        }
        let value = (tens - b'0') * 10 + (ones - b'0');
        if !(low..=high).contains(&value) {
            return None;
        }
        self.at += 2;
        Some(())
    }

    fn month(&mut self) -> Option<()> {
        let name = self.bytes.get(self.at..self.at + 3)?;
        self.at += 3;
        MONTHS.iter().any(|month| month.as_slice() == name).then_some(())
    }

    /// `hh:mm:ss`
    fn clock(&mut self) -> Option<()> {
        self.two(0, 23)?;
        self.take(b":")?;
        self.two(0, 59)?;
        self.take(b":")?;
        self.two(0, 60)
    }

    /// A fraction, if the separator is followed by a digit.
    fn fraction(&mut self) {
        let start = self.at;
        if self.take(b".,").is_some() && self.digits(12) == 0 {
            self.at = start;
        }
    }

    /// `+hh:mm`, `+hhmm` or `+hh`
    fn offset(&mut self) -> Option<()> {
        self.take(b"+-")?;
        self.two(0, 23)?;
        let start = self.at;
        let colon = self.take(b":").is_some();
        if self.two(0, 59).is_none() {
            self.at = start;
            return (!colon).then_some(());
        }
        Some(())
    }

    fn at_edge(&self) -> bool {
        matches!(self.peek(), None | Some(b' ' | b'\t' | b']'))
    }

    /// Runs `step`; unless it succeeds and ends at a blank, a bracket or the end, nothing moves.
    fn optional(&mut self, step: impl FnOnce(&mut Self) -> Option<()>) -> bool {
        let start = self.at;
        let done = step(self).is_some() && self.at_edge();
        if !done {
            self.at = start;
        }
        done
    }

    fn zone_name(&mut self) -> Option<()> {
        self.take(b" ")?;
        let rest = self.bytes.get(self.at..)?;
        let length = rest.iter().take(6).take_while(|b| b.is_ascii_uppercase()).count();
        let name = rest.get(..length)?;
        self.at += length;
        ZONES.iter().any(|zone| zone.as_bytes() == name).then_some(())
    }

    /// A zone directly after the time or after one blank, with what Go's `time.String()` adds.
    fn zone(&mut self) -> bool {
        if self.optional(|scan| scan.take(b"Zz").map(drop)) || self.optional(Self::offset) {
            return true;
        }
        // `+49 171` behind a blank is a message: here the minutes must be there.
        let numeric = self.optional(|scan| {
            let start = scan.at;
            scan.take(b" ")?;
            scan.offset()?;
            (scan.at - start > 4).then_some(())
        });
        let named = self.optional(Self::zone_name)
            || numeric && self.optional(|scan| scan.take(b" ").and_then(|_| scan.offset()));
        if numeric {
            self.optional(|scan| {
                let sign = scan.word(" m=").then(|| scan.take(b"+-"))?;
                let digits = scan.digits(20);
                scan.fraction();
                (sign.is_some() && digits > 0).then_some(())
            });
        }
        numeric || named
    }
}

/// What kind of time stands at the start of some text, and how many bytes it has.
#[derive(Clone, Copy)]
struct Stamp {
    length: usize,
    /// Date and time are joined by a `T`.
    joined: bool,
    zoned: bool,
    /// The date is written with slashes (nginx, Go).
    slashed: bool,
}

/// `2026-01-02T03:04:05.678+01:00` in all its variants, and `2026/01/02 03:04:05`.
fn iso_time(bytes: &[u8]) -> Option<Stamp> {
    let mut scan = Scan::new(bytes);
    if scan.digits(4) != 4 {
        return None;
    }
    let separator = scan.take(b"-/")?;
    scan.two(1, 12)?;
    scan.take(&[separator])?;
    scan.two(1, 31)?;
    let joined = scan.take(b"Tt ")? != b' ';
    scan.clock()?;
    scan.fraction();
    let zoned = scan.zone();
    Some(Stamp { length: scan.at, joined, zoned, slashed: separator == b'/' })
}

/// `Mmm dd hh:mm:ss`, the day padded with a blank or not, with or without a fraction.
fn syslog_time(bytes: &[u8]) -> Option<usize> {
    let mut scan = Scan::new(bytes);
    scan.month()?;
    scan.take(b" ")?;
    let padded = scan.take(b" ").is_some();
    if padded || scan.two(1, 31).is_none() {
        scan.take(b"123456789")?;
    }
    scan.take(b" ")?;
    scan.clock()?;
    scan.fraction();
    Some(scan.at)
}

/// `24/Aug/2021:09:52:13 +0000`
fn clf_time(bytes: &[u8]) -> Option<usize> {
    let mut scan = Scan::new(bytes);
    scan.two(1, 31)?;
    scan.take(b"/")?;
    scan.month()?;
    scan.take(b"/")?;
    if scan.digits(4) != 4 {
        return None;
    }
    scan.take(b":")?;
    scan.clock()?;
    scan.take(b" ")?;
    scan.offset()?;
    Some(scan.at)
}

// ------------------------------------------------------------------------------------- words --

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

fn is_level(word: &str) -> bool {
    LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word))
}

fn is_digits(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// The name of a logger: no blank, no separator and no control character of any script.
fn is_logger(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_host(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:%".contains(&b))
}

/// Splits at the first blank; at the end of the text the rest is empty.
fn token(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// `[inside]rest`, where the inside has no bracket.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.strip_prefix('[')?.split_once(']')?;
    (!inside.contains('[')).then_some((inside, rest))
}

/// The rest of a line after a header that ends with a blank or at the line's end.
fn message_after(rest: &str) -> Option<&str> {
    if rest.is_empty() {
        return Some(rest);
    }
    let message = skip_blanks(rest);
    (message.len() < rest.len()).then_some(message)
}

/// The end of a quoted text whose opening quote was taken: what is inside, and what follows.
/// A backslash protects the character after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    loop {
        let found = at + memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(found) == Some(&b'"') {
            let (inside, rest) = text.split_at_checked(found)?;
            return Some((inside, rest.strip_prefix('"')?));
        }
        at = found + 2;
    }
}

/// `METHOD target HTTP/x`: the method, and the path without its query.
fn request_line(text: &str) -> Option<(&str, &str)> {
    let (method, rest) = text.split_once(' ')?;
    let (target, version) = rest.split_once(' ')?;
    (is_method(method) && is_target(target) && is_version(version))
        .then(|| (method, path_of(target)))
}

fn is_method(text: &str) -> bool {
    (1..=24).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_')
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn is_version(text: &str) -> bool {
    let Some(number) = text.strip_prefix("HTTP/") else { return false };
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    is_digits(major, 1) && is_digits(minor, 1)
}

fn path_of(target: &str) -> &str {
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    path.find(['?', '#']).and_then(|at| path.get(..at)).unwrap_or(path)
}

// ------------------------------------------------------------------------------------ syslog --

/// `<PRI>` and what may follow it.
fn after_priority(line: &str) -> Option<TextLine<'_>> {
    let (number, rest) = line.strip_prefix('<')?.split_once('>')?;
    if !is_digits(number, 3) || number.len() > 1 && number.starts_with('0') {
        return None;
    }
    let number: usize = number.parse().ok().filter(|&n| n <= 191)?;
    let severity = SEVERITIES.get(number % 8).copied()?;
    if let Some(rest) = rest.strip_prefix("1 ") {
        return syslog_5424(rest).map(|text| text.level(severity));
    }
    let length = syslog_time(rest.as_bytes())
        .or_else(|| iso_time(rest.as_bytes()).filter(|stamp| stamp.joined).map(|s| s.length))?;
    let (time, rest) = rest.split_at_checked(length)?;
    syslog_local(rest.strip_prefix(' ')?).map(|text| text.time(time).level(severity))
}

/// RFC 5424 after `<PRI>1 `.
fn syslog_5424(rest: &str) -> Option<TextLine<'_>> {
    let (time, rest) = rest.split_once(' ')?;
    if time != "-" {
        iso_time(time.as_bytes()).filter(|s| s.joined && s.zoned && s.length == time.len())?;
    }
    let (host, rest) = rest.split_once(' ')?;
    let (program, rest) = rest.split_once(' ')?;
    let (process, rest) = rest.split_once(' ')?;
    let (kind, rest) = rest.split_once(' ')?;
    let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if ![host, program, process, kind].into_iter().all(printable) {
        return None;
    }
    let rest = structured_data(rest)?;
    let message = if rest.is_empty() { rest } else { rest.strip_prefix(' ')? };
    let mut text = TextLine::new("syslog5424", message.strip_prefix('\u{feff}').unwrap_or(message));
    text.time = (time != "-").then_some(time);
    text.logger = (program != "-").then(|| without_path(program));
    for (name, value) in [("host", host), ("pid", process)] {
        if value != "-" {
            put(&mut text.fields, name, value);
        }
    }
    Some(text)
}

/// Skips `-` or any number of `[id name="value" ...]`. A bracket inside quotes ends nothing.
fn structured_data(text: &str) -> Option<&str> {
    if let Some(rest) = text.strip_prefix('-') {
        return Some(rest);
    }
    let mut rest = text.strip_prefix('[')?;
    loop {
        let at = rest.find(['"', ']', '['])?;
        let (_, from) = rest.split_at_checked(at)?;
        if let Some(inside) = from.strip_prefix('"') {
            rest = quoted(inside)?.1;
            continue;
        }
        let after = from.strip_prefix(']')?;
        match after.strip_prefix('[') {
            Some(next) => rest = next,
            None => return Some(after),
        }
    }
}

/// `prog[pid]: msg` as the local socket carries it (a priority, but no host), or with a host.
fn syslog_local(rest: &str) -> Option<TextLine<'_>> {
    let (first, after) = token(rest);
    if first.ends_with(':') { syslog_tag(first, after) } else { syslog_origin(rest) }
}

/// `host prog[pid]: msg`
fn syslog_origin(rest: &str) -> Option<TextLine<'_>> {
    let (first, after) = token(rest);
    let (tag, after) = token(after);
    if !is_host(first) || is_level(first) {
        return None;
    }
    let mut text = syslog_tag(tag, after)?;
    put(&mut text.fields, "host", first);
    Some(text)
}

/// `host prog[pid]: msg` after an RFC 3339 time. Many programs begin a line of their own with such
/// a time, and `user alice: gone` has no origin: without a process id only a few programs are
/// known to be what they say.
fn rsyslog(rest: &str) -> Option<TextLine<'_>> {
    let text = syslog_origin(rest)?;
    let known = matches!(
        text.logger,
        Some("kernel" | "sudo" | "su" | "login" | "passwd" | "audit" | "dovecot" | "rsyslogd")
    );
    (known || text.fields.iter().any(|(name, _)| name == "pid")).then_some(text)
}

fn syslog_tag<'a>(tag: &'a str, message: &'a str) -> Option<TextLine<'a>> {
    let tag = tag.strip_suffix(':')?;
    let (program, pid) = match tag.strip_suffix(']') {
        Some(open) => open.split_once('[').map(|(program, pid)| (program, Some(pid)))?,
        None => (tag, None),
    };
    let named = (1..=NAME_MAX).contains(&program.len())
        && program.bytes().all(|b| b.is_ascii_graphic() && !b"[]:\"=<>{}".contains(&b));
    if !named || pid.is_some_and(|pid| !is_digits(pid, 10)) {
        return None;
    }
    let mut text = TextLine::new("syslog", message);
    text.logger = Some(without_path(program));
    if let Some(pid) = pid {
        put(&mut text.fields, "pid", pid);
    }
    Some(text)
}

/// `/usr/sbin/sshd` is `sshd`; `postfix/smtpd` is a name, not a path.
fn without_path(program: &str) -> &str {
    match program.rsplit_once('/') {
        Some((_, name)) if program.starts_with('/') && !name.is_empty() => name,
        _ => program,
    }
}

// ------------------------------------------------------------------------- a time comes first --

/// Lines that begin with a time.
fn after_time(line: &str) -> Option<TextLine<'_>> {
    if let Some(length) = syslog_time(line.as_bytes()) {
        let (time, rest) = line.split_at_checked(length)?;
        let message = message_after(rest)?;
        let text = rest.strip_prefix(' ').and_then(syslog_origin).or_else(|| leveled(message));
        return Some(text.unwrap_or_else(|| TextLine::new("timed", message)).time(time));
    }
    let stamp = iso_time(line.as_bytes())?;
    let (time, rest) = line.split_at_checked(stamp.length)?;
    let message = message_after(rest)?;
    let exact = rest.strip_prefix(' ').and_then(|after| {
        (stamp.slashed.then(|| nginx_error(line, after)).flatten())
            .or_else(|| (stamp.joined && stamp.zoned).then(|| rsyslog(after)).flatten())
            .or_else(|| after.strip_prefix("- ").and_then(python))
            .or_else(|| railway(stamp, after))
            .or_else(|| postgres(after))
            .or_else(|| jboss(time, after))
    });
    let text = exact.or_else(|| leveled(message));
    Some(text.unwrap_or_else(|| TextLine::new("timed", message)).time(time))
}

/// `name - LEVEL - msg`, or `LEVEL - msg`, after `time - `.
fn python(rest: &str) -> Option<TextLine<'_>> {
    let known = |word: &str| is_level(word) && word.bytes().all(|b| b.is_ascii_uppercase());
    let (first, rest) = rest.split_once(" - ")?;
    if known(first) {
        return Some(TextLine::new("python", rest).level(first));
    }
    let (level, message) = rest.split_once(" - ")?;
    if !is_logger(first) || !known(level) {
        return None;
    }
    let mut text = TextLine::new("python", message).level(level);
    text.logger = Some(first);
    Some(text)
}

/// `[LEVEL] msg` after a time. The Railway CLI also puts levels of the application's own there.
fn railway(stamp: Stamp, rest: &str) -> Option<TextLine<'_>> {
    let (word, rest) = bracket(rest)?;
    let message = message_after(rest)?;
    let ours = stamp.joined && stamp.zoned;
    let plain = (1..=16).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_alphabetic());
    (is_level(word) || ours && plain)
        .then(|| TextLine::new(if ours { "railway" } else { "bracketed" }, message).level(word))
}

/// `[pid] LEVEL:  msg`, PostgreSQL's own prefix. A prefix that also names the user is left
/// alone: the user is whatever the client says it is.
fn postgres(rest: &str) -> Option<TextLine<'_>> {
    let (pid, rest) = bracket(rest)?;
    let (level, message) = rest.strip_prefix(' ')?.split_once(":  ")?;
    let named = matches!(level, "LOG" | "STATEMENT" | "DETAIL" | "HINT" | "CONTEXT")
        || is_level(level) && level.bytes().all(|b| b.is_ascii_uppercase())
        || level.strip_prefix("DEBUG").is_some_and(|n| is_digits(n, 1));
    (named && is_digits(pid, 10))
        .then(|| TextLine::new("postgres", message).level(level).field("pid", pid))
}

/// `LEVEL [logger] (thread) msg` after `hh:mm:ss,mmm`, the level padded to five.
fn jboss<'a>(time: &str, rest: &'a str) -> Option<TextLine<'a>> {
    if !time.contains(',') {
        return None;
    }
    let (level, after) = token(rest);
    let padding = 5_usize.saturating_sub(level.len());
    if !is_level(level) || !level.bytes().all(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let (pad, after) = after.split_at_checked(padding)?;
    let (logger, after) = bracket(after)?;
    let (_, message) = after.strip_prefix(" (")?.split_once(')')?;
    if pad.bytes().any(|b| b != b' ') || !is_logger(logger) {
        return None;
    }
    let message = if message.is_empty() { message } else { message.strip_prefix(' ')? };
    let mut text = TextLine::new("jboss", message).level(level);
    text.logger = Some(logger);
    Some(text)
}

/// `LEVEL msg` or `LEVEL: msg` after a time. `Error opening x` is a sentence, not a level: the
/// word is written in one case throughout.
fn leveled(rest: &str) -> Option<TextLine<'_>> {
    let end = rest.find(is_blank).unwrap_or(rest.len());
    let (word, after) = rest.split_at_checked(end)?;
    let word = word.strip_suffix(':').unwrap_or(word);
    let one_case = word.bytes().all(|b| b.is_ascii_uppercase())
        || word.bytes().all(|b| b.is_ascii_lowercase());
    (one_case && is_level(word)).then(|| TextLine::new("leveled", skip_blanks(after)).level(word))
}

/// nginx's error log after `time `: `[level] pid#tid: *connection msg`.
fn nginx_error<'a>(line: &str, rest: &'a str) -> Option<TextLine<'a>> {
    let (level, rest) = bracket(rest)?;
    let (process, rest) = rest.strip_prefix(' ')?.split_once(": ")?;
    let (pid, thread) = process.split_once('#')?;
    if !is_level(level) || !is_digits(pid, 10) || !is_digits(thread, 20) {
        return None;
    }
    let message = match rest.strip_prefix('*').and_then(|text| text.split_once(' ')) {
        Some((connection, message)) if is_digits(connection, 20) => message,
        _ => rest,
    };
    let mut text = TextLine::new("nginx_error", message).level(level).field("pid", pid);
    let cut = line.len() >= NGINX_CUT;
    match nginx_client(message) {
        Client::One(ip) => put(&mut text.fields, "ip", ip),
        Client::First(ip) if !cut => put(&mut text.fields, "ip", ip),
        Client::Several => text.disputed = true,
        Client::First(_) | Client::None => {}
    }
    Some(text)
}

/// What stands in the place of `, client: 1.2.3.4, server: `.
enum Client<'a> {
    /// An address that nobody else can have written.
    One(&'a str),
    /// The only one there is.
    First(&'a str),
    /// Several, of which one is true.
    Several,
    None,
}

/// The address in `, client: 1.2.3.4, server: `.
///
/// A path, a user name or a Referer can contain the same words. So there must be exactly one
/// such place, and none is believed in a line that may have been cut, as the true one may be
/// what is missing. Two messages hold no foreign text before the address; in these the first
/// place is the true one whatever follows it.
fn nginx_client(message: &str) -> Client<'_> {
    const LABEL: &str = ", client: ";
    let Some((before, after)) = message.split_once(LABEL) else { return Client::None };
    let alone = is_nginx_limit(before);
    if !alone && after.contains(LABEL) {
        return Client::Several;
    }
    match after.split_once(", server: ") {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            if alone {
                Client::One(address)
            } else {
                Client::First(address)
            }
        }
        _ => Client::None,
    }
}

/// `limiting requests, excess: 1.852 by zone "one"` and `limiting connections by zone "one"`.
fn is_nginx_limit(text: &str) -> bool {
    let text = text.strip_suffix(", dry run").unwrap_or(text);
    let zone = if let Some(rest) = text.strip_prefix("limiting connections by zone ") {
        rest
    } else {
        let rest = text.strip_prefix("limiting").or_else(|| text.strip_prefix("delaying"));
        let rest = rest.and_then(|rest| rest.strip_prefix(" requests, excess: "));
        let Some((excess, zone)) = rest.and_then(|rest| rest.split_once(" by zone ")) else {
            return false;
        };
        if excess.is_empty() || !excess.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return false;
        }
        zone
    };
    let name = zone.strip_prefix('"').and_then(|zone| zone.strip_suffix('"'));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b != b'"' && b != b' '))
}

// ---------------------------------------------------------------------- a bracket comes first --

/// `[time] ...` and `[LEVEL] msg`.
fn after_bracket(line: &str) -> Option<TextLine<'_>> {
    let (inside, rest) = bracket(line)?;
    let is_time = iso_time(inside.as_bytes()).is_some_and(|s| s.length == inside.len())
        || syslog_time(inside.as_bytes()).is_some_and(|length| length == inside.len())
        || clf_time(inside.as_bytes()).is_some_and(|length| length == inside.len());
    if !is_time {
        let message = message_after(rest)?;
        return is_level(inside).then(|| TextLine::new("bracketed", message).level(inside));
    }
    let text = gunicorn(rest)
        .or_else(|| bracketed(rest))
        .or_else(|| leveled(message_after(rest)?))
        .or_else(|| message_after(rest).map(|message| TextLine::new("timed", message)))?;
    Some(text.time(inside))
}

/// ` [123] [INFO] msg`
fn gunicorn(rest: &str) -> Option<TextLine<'_>> {
    let (pid, rest) = bracket(rest.strip_prefix(' ')?)?;
    let (level, rest) = bracket(rest.strip_prefix(' ')?)?;
    let message = message_after(rest)?;
    (is_digits(pid, 10) && is_level(level))
        .then(|| TextLine::new("gunicorn", message).level(level).field("pid", pid))
}

/// ` [LEVEL] msg`, `[LEVEL] msg` and, as Vaultwarden has it, `[logger][LEVEL] msg`.
fn bracketed(rest: &str) -> Option<TextLine<'_>> {
    let (first, after) = bracket(rest.strip_prefix(' ').unwrap_or(rest))?;
    if is_level(first) {
        return Some(TextLine::new("bracketed", message_after(after)?).level(first));
    }
    let (level, after) = bracket(after)?;
    if rest.starts_with(' ') || !is_logger(first) || !is_level(level) {
        return None;
    }
    let mut text = TextLine::new("bracketed", message_after(after)?).level(level);
    text.logger = Some(first);
    Some(text)
}

// ------------------------------------------------------------------------ a level comes first --

/// `LEVEL:logger:msg` of Python's `basicConfig`, and uvicorn's padded `LEVEL:    msg`.
fn level_first(line: &str) -> Option<TextLine<'_>> {
    let (level, rest) = line.split_once(':')?;
    let python = PYTHON_LEVELS.contains(&level);
    if !python && level != "TRACE" {
        return None;
    }
    if !rest.starts_with(' ') {
        let (logger, message) = rest.split_once(':')?;
        if !python || !is_logger(logger) {
            return None;
        }
        let mut text = TextLine::new("basic", message).level(level);
        text.logger = Some(logger);
        return Some(text);
    }
    let (padding, message) = rest.split_at_checked(9_usize.saturating_sub(level.len()))?;
    if padding.bytes().any(|b| b != b' ') {
        return None;
    }
    let mut text = TextLine::new("uvicorn", message).level(level);
    text.fields = uvicorn_access(message).unwrap_or_default();
    Some(text)
}

/// `203.0.113.9:0 - "POST /login HTTP/1.1" 401 Unauthorized`, to the last character.
///
/// uvicorn prints the address it was handed by a proxy, unchecked, so the text before the
/// request may itself hold a complete forged entry: between its first quote and the last one there are more
/// blanks than a request has. A target has none, but may have quotes, in the query above all.
fn uvicorn_access(message: &str) -> Option<Fields<'_>> {
    let (head, rest) = message.split_once('"')?;
    let (request, tail) = rest.rsplit_once('"')?;
    let (ip, port) = head.strip_suffix(" - ")?.rsplit_once(':')?;
    if !is_host(ip) || !is_digits(port, 5) {
        return None;
    }
    // Either an address of its own (IPv6 is not bracketed), or a name like `testclient`.
    // `9.9.9.9:1` in front of the port is neither.
    let bare = ip.split_once('%').map_or(ip, |(address, _)| address);
    if ip.contains(':') && bare.parse::<IpAddr>().is_err() {
        return None;
    }
    let (method, path) = request_line(request)?;
    let (status, phrase) = token(tail.strip_prefix(' ')?);
    let plain = |b: u8| b.is_ascii_alphabetic() || b" -'".contains(&b);
    if !is_status(status) || !phrase.bytes().all(plain) {
        return None;
    }
    let mut fields = Fields::with_capacity(4);
    put(&mut fields, "ip", ip);
    put(&mut fields, "method", method);
    put(&mut fields, "path", path);
    put(&mut fields, "status", status);
    Some(fields)
}

fn is_status(text: &str) -> bool {
    text.len() == 3 && is_digits(text, 3)
}

// ------------------------------------------------------------------------------- access logs --

/// Common and combined log format: `ip ident user [time] "request" status bytes ...`.
///
/// The user is free text. The header is taken only if ` [time] "` stands exactly once in the
/// line: producers that escape quotes cannot print it a second time, and in the others a user
/// name could otherwise carry a header of its own.
fn clf(line: &str) -> Option<TextLine<'_>> {
    let bytes = line.as_bytes();
    let mut found = memmem::find_iter(bytes, b" [").filter_map(|at| {
        let length = clf_time(bytes.get(at + 2..)?)?;
        let end = at + 2 + length;
        bytes.get(end..)?.starts_with(b"] \"").then_some((at, end))
    });
    let (at, end) = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let origin = line.get(..at)?;
    let time = line.get(at + 2..end)?;
    let entry = line.get(end + 2..)?;
    let (host, ip, user) = clf_origin(origin)?;
    let mut text = TextLine::new("clf", entry).time(time);
    let Some((request, status)) = clf_entry(entry) else { return Some(text) };
    put(&mut text.fields, "ip", ip);
    if !matches!(user, "" | "-" | "\"\"") {
        put(&mut text.fields, "user", user);
    }
    if let Some((method, path)) = request {
        put(&mut text.fields, "method", method);
        put(&mut text.fields, "path", path);
    }
    put(&mut text.fields, "status", status);
    if let Some(host) = host {
        put(&mut text.fields, "host", host);
    }
    Some(text)
}

/// Host (of `vhost:port ip - user`), address and user. A user with blanks is accepted only
/// behind a true address and an ident of `-`.
fn clf_origin(text: &str) -> Option<(Option<&str>, &str, &str)> {
    let (first, rest) = text.split_once(' ')?;
    let (ident, user) = rest.split_once(' ')?;
    if !is_host(first) || ident.is_empty() {
        return None;
    }
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    if !user.contains(' ') {
        return Some((None, first, user));
    }
    if is_address(first) {
        return (ident == "-").then_some((None, first, user));
    }
    let (_, port) = first.rsplit_once(':')?;
    let user = user.strip_prefix("- ")?;
    (is_digits(port, 5) && is_address(ident)).then_some((Some(first), ident, user))
}

/// `"request" status bytes` and the rest of the line: the request, if it is one, and the status.
fn clf_entry(text: &str) -> Option<(Option<(&str, &str)>, &str)> {
    let body = text.strip_prefix('"')?;
    let (request, rest) = quoted_request(body)?;
    let rest = rest.strip_prefix(' ')?;
    let (status, rest) = rest.split_once(' ')?;
    let (size, _) = token(rest);
    let (_, tail) = rest.split_at_checked(size.len())?;
    let exact = is_status(status) && (size == "-" || is_digits(size, 20)) && is_clf_tail(tail);
    exact.then_some((request, status))
}

/// A request whose opening quote was taken, if it is one, and what follows its closing quote.
fn quoted_request(body: &str) -> Option<(Option<(&str, &str)>, &str)> {
    // A request that is one has two blanks and no more: its end is found without asking how the
    // producer escapes (gunicorn escapes quotes but not the backslash before them).
    let (method, rest) = token(body);
    let (target, rest) = token(rest);
    let (version, _) = token(rest);
    let is_one = version
        .strip_suffix('"')
        .filter(|version| is_method(method) && is_target(target) && is_version(version));
    match is_one {
        Some(_) => Some((Some((method, path_of(target))), rest.get(version.len()..)?)),
        None => quoted(body).map(|(_, rest)| (None, rest)),
    }
}

/// Referer, agent and what else a format adds, all of it well quoted. Nothing is taken from
/// here. gunicorn leaves a backslash before the closing quote as it is; that must not hide the
/// line, so a tail that begins and ends with a quote will do.
fn is_clf_tail(tail: &str) -> bool {
    if tail.starts_with(" \"") && tail.ends_with('"') && tail.len() > 2 {
        return true;
    }
    let mut rest = tail;
    while !rest.is_empty() {
        let Some(next) = rest.strip_prefix(' ') else { return false };
        rest = if let Some(inside) = next.strip_prefix('"') {
            let Some((_, after)) = quoted(inside) else { return false };
            after
        } else {
            let (word, _) = token(next);
            if word.contains('"') {
                return false;
            }
            next.get(word.len()..).unwrap_or_default()
        };
    }
    true
}

/// An access line of an AWS Application Load Balancer. The message begins with the request.
fn alb(line: &str) -> Option<TextLine<'_>> {
    let (kind, rest) = line.split_once(' ')?;
    if !matches!(kind, "http" | "https" | "h2" | "grpcs" | "ws" | "wss") {
        return None;
    }
    let (time, rest) = rest.split_once(' ')?;
    iso_time(time.as_bytes()).filter(|s| s.joined && s.zoned && s.length == time.len())?;
    let (balancer, rest) = rest.split_once(' ')?;
    let (client, mut rest) = rest.split_once(' ')?;
    let mut status = "-";
    for column in 0..8 {
        // target, three durations, two statuses, two sizes
        let (word, after) = rest.split_once(' ')?;
        let number = word.bytes().all(|b| b.is_ascii_digit() || b"-.".contains(&b));
        if word.is_empty() || word.contains('"') || column > 0 && !number {
            return None;
        }
        if column == 4 {
            status = word;
        }
        rest = after;
    }
    let body = rest.strip_prefix('"')?;
    let mut text = TextLine::new("alb", rest).time(time);
    let (ip, port) = client.rsplit_once(':')?;
    if balancer.contains('"') || !is_digits(port, 5) {
        return None;
    }
    let Some((request, after)) = quoted_request(body) else { return Some(text) };
    if !after.starts_with(" \"") || !is_clf_tail(after) {
        return Some(text);
    }
    put(&mut text.fields, "ip", ip);
    if let Some((method, path)) = request {
        put(&mut text.fields, "method", method);
        put(&mut text.fields, "path", path);
    }
    if is_status(status) {
        put(&mut text.fields, "status", status);
    }
    Some(text)
}

// ------------------------------------------------------------------------------------ logfmt --

/// A line that consists of at least two `key=value` and of nothing else.
///
/// A bare word between the pairs means that some producer did not quote, and then a value may
/// have brought pairs of its own: such a line is text.
fn logfmt(line: &str) -> Option<TextLine<'_>> {
    let mut rest = line.trim_end_matches(is_blank);
    let mut fields = Fields::new();
    loop {
        let (key, after) = rest.split_once('=')?;
        if !is_key(key) {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(inside) => {
                let (raw, after) = quoted(inside)?;
                (unescape(raw), after)
            }
            None => {
                let (value, after) =
                    after.split_at_checked(after.find(is_blank).unwrap_or(after.len()))?;
                if value.contains('"') {
                    return None;
                }
                (Cow::Borrowed(value), after)
            }
        };
        fields.push((Cow::Borrowed(key), value));
        rest = message_after(after)?;
        if rest.is_empty() {
            break;
        }
    }
    if fields.len() < 2 {
        return None;
    }
    let first = |names: &[&str]| {
        let (_, value) = fields
            .iter()
            .find(|(key, _)| names.iter().any(|name| key.eq_ignore_ascii_case(name)))?;
        match value {
            Cow::Borrowed(value) => Some(*value),
            Cow::Owned(_) => None,
        }
    };
    let mut text = TextLine::new("logfmt", first(&["msg", "message"]).unwrap_or(line));
    text.time = first(&["time", "timestamp", "@timestamp", "ts", "t", "datetime"]);
    text.level = first(&["level", "lvl", "severity"]);
    text.logger = first(&["logger"]);
    text.fields = fields;
    Some(text)
}

fn is_key(text: &str) -> bool {
    (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '@')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.@/:".contains(&b))
}

/// Resolves the escapes of Go and JSON. What is no escape stays as it is; a surrogate without
/// its partner becomes U+FFFD.
fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, after)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = after.chars();
        let Some(kind) = chars.next() else {
            out.push('\\');
            return Cow::Owned(out);
        };
        rest = chars.as_str();
        match kind {
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            '"' | '\\' | '/' | '\'' => out.push(kind),
            'x' | 'u' | 'U' => {
                let width = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                match hex(rest, width) {
                    Some((code, after)) => {
                        rest = after;
                        out.push(joined(code, &mut rest));
                    }
                    None => {
                        out.push('\\');
                        out.push(kind);
                    }
                }
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn hex(text: &str, width: usize) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(width)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

/// The character of `code`; a leading surrogate takes its partner out of `rest`.
fn joined(code: u32, rest: &mut &str) -> char {
    if (0xd800..0xdc00).contains(&code)
        && let Some((low, after)) = rest.strip_prefix("\\u").and_then(|text| hex(text, 4))
        && (0xdc00..0xe000).contains(&low)
    {
        *rest = after;
        let code = 0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

// --------------------------------------------------------------------------------------- CRI --

/// A line as the Kubernetes container runtimes write it:
/// `2022-01-28T16:04:05.673552828Z stderr P text`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CriLine<'a> {
    /// When the runtime read the text.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the line ends here (`F`) or is continued by the stream's next one (`P`).
    pub full: bool,
    /// What the container wrote.
    pub content: &'a str,
}

/// Where the parts of a CRI line are: the time's length, whether it is full, the content's start.
/// The stream is the six bytes after the time and its blank.
fn cri_parts(line: &[u8]) -> Option<(usize, bool, usize)> {
    let stamp = iso_time(line)?;
    let time = line.get(..stamp.length)?;
    if !stamp.joined || !stamp.zoned || time.iter().any(|b| b" ,/tz".contains(b)) {
        return None;
    }
    let mut scan = Scan { bytes: line, at: stamp.length };
    if !scan.word(" stdout ") && !scan.word(" stderr ") {
        return None;
    }
    let full = scan.take(b"FP")? == b'F';
    while scan.take(b":").is_some() {
        let rest = line.get(scan.at..)?;
        let length = rest
            .iter()
            .take(NAME_MAX)
            .take_while(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b))
            .count();
        if length == 0 {
            return None;
        }
        scan.at += length;
    }
    if scan.peek().is_some() {
        scan.take(b" ")?;
    }
    Some((stamp.length, full, scan.at))
}

/// Takes a CRI line apart. An empty content may have lost its blank; all else must be exact.
pub fn cri(line: &str) -> Option<CriLine<'_>> {
    let (time, full, content) = cri_parts(line.as_bytes())?;
    Some(CriLine {
        time: line.get(..time)?,
        stream: line.get(time + 1..time + 7)?,
        full,
        content: line.get(content..)?,
    })
}

/// Whether [`cri`] would take this line apart, asked of the raw bytes.
pub fn cri_bytes(line: &[u8]) -> bool {
    cri_parts(line).is_some()
}

// -------------------------------------------------------------------------------------- ANSI --

/// Removes terminal sequences: CSI (colours), OSC and the other string sequences, and short
/// escapes, with their introducer written as ESC or as one C1 character.
///
/// A terminal would let an unfinished sequence swallow the text after it, and a string sequence
/// everything up to its end. Here a client that may write ESC into its user name must not make
/// the address behind it vanish. So a malformed sequence loses only its introducer, and a string
/// sequence goes as a whole only if nothing in it separates fields (a blank, a comma, a quote, a
/// bar). No ESC remains, and nothing else is touched.
pub fn strip_ansi(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(offset) = bytes.get(at..).and_then(|rest| memchr2(0x1b, 0xc2, rest)) {
        let start = at + offset;
        let length = sequence(bytes.get(start..).unwrap_or_default());
        if length == 0 {
            at = start + 2;
            continue;
        }
        out.push_str(text.get(kept..start).unwrap_or_default());
        at = start + length;
        kept = at;
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(out)
}

/// Removes colours only: sequences of an introducer, digits and a final `m` or `K`.
pub fn strip_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['\u{1b}', '\u{9b}']) {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        let inner = from.strip_prefix("\u{1b}[").or_else(|| from.strip_prefix('\u{9b}'));
        let after = inner.and_then(|inner| {
            inner
                .trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | ':'))
                .strip_prefix(['m', 'K'])
        });
        rest = after.unwrap_or_else(|| {
            let width = from.chars().next().map_or(0, char::len_utf8);
            out.push_str(from.get(..width).unwrap_or_default());
            from.get(width..).unwrap_or_default()
        });
    }
    out.push_str(rest);
    out
}

/// How many bytes to remove at the start of `bytes`, which is ESC or the first half of a C1.
fn sequence(bytes: &[u8]) -> usize {
    match bytes {
        [0x1b, b'[', ..] | [0xc2, 0x9b, ..] => 2 + control(bytes.get(2..).unwrap_or_default()),
        [0x1b, b']' | b'P' | b'X' | b'^' | b'_', ..]
        | [0xc2, 0x90 | 0x98 | 0x9d | 0x9e | 0x9f, ..] => {
            2 + string(bytes.get(2..).unwrap_or_default())
        }
        [0x1b, b'(' | b')' | b'*' | b'+' | b'#' | b'%', 0x30..=0x7e, ..] => 3,
        [0x1b, 0x30..=0x7e, ..] => 2,
        [0x1b, ..] => 1,
        _ => 0,
    }
}

/// The parameters and the final letter of a CSI sequence; 0 if it is not well formed.
/// An intermediate blank or sign is accepted only where a terminal knows one.
fn control(bytes: &[u8]) -> usize {
    let parameters = bytes.iter().take(64).take_while(|b| (0x30..=0x3f).contains(*b)).count();
    match bytes.get(parameters..).unwrap_or_default() {
        [0x40..=0x7e, ..] => parameters + 1,
        [b' ', b'q', ..] | [b'!' | b'"' | b'$' | b'\'' | b'*', b'p'..=b'~', ..] => parameters + 2,
        _ => 0,
    }
}

/// The content and the terminator of a string sequence; 0 if it must stay. Stops at any control
/// character, hence at the next sequence: many unfinished ones cost no more than one.
fn string(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match bytes.get(at..).unwrap_or_default() {
            [0x07, ..] => return at + 1,
            [0x1b, b'\\', ..] | [0xc2, 0x9c, ..] => return at + 2,
            [] | [0..=0x20 | 0x7f | b'"' | b',' | b'|', ..] | [0xc2, 0x80..=0x9f, ..] => return 0,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `shape|time|level|logger`, with `-` for what is absent, and the message.
    #[track_caller]
    fn head(line: &str, header: &str, message: &str) {
        let text = read(line);
        let [time, level, logger] = [text.time, text.level, text.logger].map(|p| p.unwrap_or("-"));
        let got = format!("{}|{time}|{level}|{logger}", text.shape);
        assert_eq!((got.as_str(), text.message), (header, message), "{line}");
    }

    #[track_caller]
    fn fields(line: &str, want: &str) {
        let got: Vec<String> = read(line).fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(got.join(" "), want, "{line}");
    }

    #[track_caller]
    fn is_text(line: &str) {
        head(line, "text|-|-|-", line);
        fields(line, "");
    }

    #[test]
    fn syslog_3164() {
        let line = "Feb 12 14:10:21 web sshd[3142]: Failed password for root from 10.0.0.1";
        let message = "Failed password for root from 10.0.0.1";
        head(line, "syslog|Feb 12 14:10:21|-|sshd", message);
        fields(line, "pid=3142 host=web");
        let line = "<34>Oct  1 22:14:15 mymachine su: 'su root' failed";
        head(line, "syslog|Oct  1 22:14:15|crit|su", "'su root' failed");
        let line = "<13>Oct 1 22:14:15.123456 /usr/sbin/sshd-session[7]: x";
        head(line, "syslog|Oct 1 22:14:15.123456|notice|sshd-session", "x");
        fields(line, "pid=7");
        head(
            "Feb 12 14:10:21 h postfix/smtpd[1]: x",
            "syslog|Feb 12 14:10:21|-|postfix/smtpd",
            "x",
        );
        head("Feb 12 14:10:21 h kernel: [ 1.2] x", "syslog|Feb 12 14:10:21|-|kernel", "[ 1.2] x");
        head("Feb 12 14:10:21 h cron[1]:", "syslog|Feb 12 14:10:21|-|cron", "");
        let line = "Feb 12 14:10:21 h sshd[1]: message repeated 2 times: [ Failed password]";
        head(line, "syslog|Feb 12 14:10:21|-|sshd", "message repeated 2 times: [ Failed password]");
    }

    #[test]
    fn syslog_with_an_rfc3339_time() {
        let line = "2026-01-02T03:04:05.678+01:00 host sshd-session[12]: Invalid user x";
        head(line, "syslog|2026-01-02T03:04:05.678+01:00|-|sshd-session", "Invalid user x");
        fields(line, "pid=12 host=host");
        head("2026-01-02T03:04:05+0100 h su: b", "syslog|2026-01-02T03:04:05+0100|-|su", "b");
        // Programs that print such a time themselves keep their message.
        for rest in ["FAILED_LOGIN: email=a", "user alice: gone", "sshd[1]: no host"] {
            head(&format!("2026-01-02T03:04:05Z {rest}"), "timed|2026-01-02T03:04:05Z|-|-", rest);
            head(
                &format!("Feb 12 14:10:21 {}", rest.replace(": ", " ")),
                "timed|Feb 12 14:10:21|-|-",
                &rest.replace(": ", " "),
            );
        }
        head(
            "Feb 12 14:10:21 FAILED_LOGIN: email=a",
            "timed|Feb 12 14:10:21|-|-",
            "FAILED_LOGIN: email=a",
        );
        // A level is no host, a time without a zone is no rsyslog.
        head("2026-01-02T03:04:05Z INFO main: x", "leveled|2026-01-02T03:04:05Z|INFO|-", "main: x");
        head("2026-01-02 03:04:05 h a: b", "timed|2026-01-02 03:04:05|-|-", "h a: b");
    }

    #[test]
    fn syslog_that_is_not_exact_is_only_timed() {
        for rest in [
            "h last message repeated 2 times",
            "h Plex Media Server[1]: x",
            "h a[x]: b",
            "h a[1: b",
            "h  a: b",
            "a b",
            "h {a}: b",
            "h\u{2028} a: b",
            "h a:b",
            "a: b",
        ] {
            let line = format!("Feb 12 14:10:21 {rest}");
            head(&line, "timed|Feb 12 14:10:21|-|-", rest);
            fields(&line, "");
        }
        for line in [
            "<192>Feb 12 14:10:21 h a: b",
            "<034>Feb 12 14:10:21 h a: b",
            "<34>hello",
            "<>",
            "<",
            "Feb 32 14:10:21 h a: b",
            "Feb 12 24:10:21 h a: b",
            "Foo 12 14:10:21 h a: b",
            "Feb 12 14:10:21x h a: b",
            "<34>Feb 12 14:10:21 h b",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn syslog_5424() {
        let line = "<165>1 2003-10-11T22:14:15.003Z m.example.com evntslog 99 ID47 [ex@32473 iut=\"3\" e=\"a\\\"]b\\]\"][y z=\"]\"] \u{feff}An event";
        head(line, "syslog5424|2003-10-11T22:14:15.003Z|notice|evntslog", "An event");
        fields(line, "host=m.example.com pid=99");
        let line = "<34>1 - - - - - - msg - -";
        head(line, "syslog5424|-|crit|-", "msg - -");
        fields(line, "");
        head("<34>1 - - su - - -", "syslog5424|-|crit|su", "");
        for line in [
            "<34>1 - - su - - [a b=\"c",
            "<34>1 - - su - - [a b=\"c\"",
            "<34>1 - - su - - [a]x",
            "<34>1 - - su - - -x",
            "<34>1 yesterday - su - - - x",
            "<34>1 - - su -",
            "<34>2 - - su - - - x",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn python() {
        let time = "2026-11-23 15:06:32,591";
        let line = "2026-11-23 15:06:32,591 - a - WARNING - hello";
        head(line, &format!("python|{time}|WARNING|a"), "hello");
        let line =
            "2026-11-23 15:06:32,591 - security - WARNING - FAILED_LOGIN: email=x - y - ERROR - z";
        head(
            line,
            &format!("python|{time}|WARNING|security"),
            "FAILED_LOGIN: email=x - y - ERROR - z",
        );
        head("2026-11-23 15:06:32,591 - INFO - a - b", &format!("python|{time}|INFO|-"), "a - b");
        // The U+2028 of T5 does not end a message, and no logger has one.
        head(
            "2026-11-23 15:06:32,591 - a - INFO - x\u{2028}y\u{85}z",
            &format!("python|{time}|INFO|a"),
            "x\u{2028}y\u{85}z",
        );
        head(
            "2026-11-23 15:06:32,591 - a\u{2028}b - INFO - x",
            &format!("timed|{time}|-|-"),
            "- a\u{2028}b - INFO - x",
        );
        head(
            "2026-11-23 15:06:32,591 - a b - INFO - x",
            &format!("timed|{time}|-|-"),
            "- a b - INFO - x",
        );
        head("WARNING:security:msg: x", "basic|-|WARNING|security", "msg: x");
        head("INFO:root:", "basic|-|INFO|root", "");
        for line in [
            "FATAL:a:b",
            "warning:a:b",
            "WARNING:a b:c",
            "WARNING:a\u{85}:c",
            "WARNING::c",
            "WARNING:a",
            " WARNING:a:b",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn railway_and_brackets() {
        let time = "2026-06-16T00:15:14.123456789Z";
        for level in ["INFO", "ERRO", "WARN", "DBUG", "other"] {
            let line = format!("{time} [{level}] FAILED_LOGIN: email=a ip=\"9.9.9.9\"");
            head(
                &line,
                &format!("railway|{time}|{level}|-"),
                "FAILED_LOGIN: email=a ip=\"9.9.9.9\"",
            );
            fields(&line, "");
        }
        head("2026-06-16 00:15:14 [warn] x", "bracketed|2026-06-16 00:15:14|warn|-", "x");
        head("2026-06-16 00:15:14 [main] x", "timed|2026-06-16 00:15:14|-|-", "[main] x");
        head("[ERROR] First", "bracketed|-|ERROR|-", "First");
        head("[2026-06-16 00:15:14] [ERROR] x", "bracketed|2026-06-16 00:15:14|ERROR|-", "x");
        head("[2026-06-16 00:15:14] ERROR: x", "leveled|2026-06-16 00:15:14|ERROR|-", "x");
        head("[2026-06-16 00:15:14] [a] x", "timed|2026-06-16 00:15:14|-|-", "[a] x");
        let line = "[2024-08-31 02:11:22.129][vaultwarden::api::identity][ERROR] Username or password is incorrect. Try again. IP: 2001:db8::b6d3:95d7:1425:766d. Username: test@example.com.";
        let text = read(line);
        assert_eq!((text.shape, text.level), ("bracketed", Some("ERROR")));
        assert_eq!(text.logger, Some("vaultwarden::api::identity"));
        assert!(text.message.starts_with("Username or password is incorrect."));
        for line in [
            "[ERROR]x",
            "[Nest] 7  - 08/02/2023, 7:32:47 PM    WARN [AuthService] x",
            "[",
            "[]",
            "[[INFO] x",
            "[2026-06-16 00:15:14",
            "[2026-06-16 00:15:14 x] y",
            "[2026-06-16 00:15:14]x",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn gunicorn_postgres_jboss_and_levels() {
        let line = "[2026-11-23 15:07:35 +0000] [123] [INFO] Listening at: x";
        head(line, "gunicorn|2026-11-23 15:07:35 +0000|INFO|-", "Listening at: x");
        fields(line, "pid=123");
        let line = "2026-11-23 15:10:11.366 UTC [2512] FATAL:  password authentication failed for user \"postgres\"";
        head(
            line,
            "postgres|2026-11-23 15:10:11.366 UTC|FATAL|-",
            "password authentication failed for user \"postgres\"",
        );
        let line = "2023-05-25 22:24:19,357 WARN  [org.key.events] (executor-thread-3121) type=LOGIN_ERROR, realmId=keycloak, ipAddress=192.168.1.2";
        head(
            line,
            "jboss|2023-05-25 22:24:19,357|WARN|org.key.events",
            "type=LOGIN_ERROR, realmId=keycloak, ipAddress=192.168.1.2",
        );
        // Not padded as that formatter pads: the brackets belong to the message.
        head(
            "2023-05-25 22:24:19,357 WARN [a] (b) c",
            "leveled|2023-05-25 22:24:19,357|WARN|-",
            "[a] (b) c",
        );
        head(
            "2026-01-02T03:04:05.6Z  INFO a::b: c",
            "leveled|2026-01-02T03:04:05.6Z|INFO|-",
            "a::b: c",
        );
        head(
            "2019-01-02T08:08:51.000Z\tinfo\tmsg",
            "leveled|2019-01-02T08:08:51.000Z|info|-",
            "msg",
        );
        head("2026-01-02T03:04:05Z error: x", "leveled|2026-01-02T03:04:05Z|error|-", "x");
        head("2026-01-02 03:04:05 Error opening", "timed|2026-01-02 03:04:05|-|-", "Error opening");
        head("2009/11/10 23:00:00 hello", "timed|2009/11/10 23:00:00|-|-", "hello");
        head("2026-01-02 03:04:05", "timed|2026-01-02 03:04:05|-|-", "");
        is_text("2026-01-02 03:04:05x");
        is_text("2026-13-02 03:04:05 x");
    }

    #[test]
    fn times_end_where_they_end() {
        for time in [
            "2026-01-02T03:04:05",
            "2026-01-02 03:04:05.123",
            "2026-01-02T03:04:05,1Z",
            "2026-01-02 03:04:05+01",
            "2026-01-02 03:04:05 +0100",
            "2026-01-02 03:04:05 -0700 MST",
            "2026-01-02 03:04:05 UTC",
            "2014-03-10 19:57:38.562264131 -0400 EDT",
            "2014-03-10 19:57:38.5 -0400 EDT m=+0.012",
            "2014-03-10 19:57:38 +0300 +03",
        ] {
            head(&format!("{time} msg"), &format!("timed|{time}|-|-"), "msg");
            head(&format!("{time} POST x"), &format!("timed|{time}|-|-"), "POST x");
            head(&format!("[{time}] INFO x"), &format!("leveled|{time}|INFO|-"), "x");
        }
        let time = "2026-01-02 03:04:05";
        for rest in ["+49 171", "-12 x", "m=+1 x", "UTCx y", "ZULU x", "-0400x y"] {
            head(&format!("{time} {rest}"), &format!("timed|{time}|-|-"), rest);
        }
    }

    #[test]
    fn uvicorn() {
        let line =
            "INFO:     203.0.113.9:0 - \"POST /login?x=a%20b%0d%0aINFO HTTP/1.1\" 401 Unauthorized";
        let message = line.strip_prefix("INFO:     ").unwrap();
        head(line, "uvicorn|-|INFO|-", message);
        fields(line, "ip=203.0.113.9 method=POST path=/login status=401");
        fields(
            "INFO:     2001:db8::5:0 - \"POST /login HTTP/1.1\" 401 Unauthorized",
            "ip=2001:db8::5 method=POST path=/login status=401",
        );
        fields(
            "INFO:     testclient:50000 - \"GET / HTTP/1.1\" 203 Non-Authoritative Information",
            "ip=testclient method=GET path=/ status=203",
        );
        // A query is printed as the client wrote it.
        for query in ["?x=\"", "?\"", "?x=\"401\"", "\"?:0-\""] {
            fields(
                &format!(
                    "INFO:     203.0.113.9:0 - \"POST /login{query} HTTP/1.1\" 401 Unauthorized"
                ),
                &format!(
                    "ip=203.0.113.9 method=POST path=/login{} status=401",
                    query.split('?').next().unwrap()
                ),
            );
        }
        head("WARNING:  x", "uvicorn|-|WARNING|-", "x");
        head("CRITICAL: x", "uvicorn|-|CRITICAL|-", "x");
        is_text("INFO: x");
        is_text("INFO:    x");
        is_text("info:     x");
    }

    #[test]
    fn uvicorn_forged() {
        // T4 as it was run, and its relatives: level and message, never an address.
        for message in [
            "9.9.9.9:1 - \"POST /login HTTP/1.1\" 401 Unauthorized #:0 - \"POST /login HTTP/1.1\" 401 Unauthorized",
            "9.9.9.9:1 - \"POST /login HTTP/1.1\" 401 Unauthorized:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:1 - :0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:1:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9, 1.2.3.4:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9\u{2028}:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9\u{85}:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9\u{a0}:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:0 - \"GET /\u{2028} HTTP/1.1\" 200 OK",
            "9.9.9.9:0 - \"GET /\" HTTP/1.1\" 200 OK\"",
            "9.9.9.9:0 - \"GET:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:0 - \"GET /:0 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:0 - \"GET / x HTTP/1.1\" 200 OK",
            "9.9.9.9:0 - \"GET / HTTP/1.1\" 200 OK #",
            "9.9.9.9:0 - \"GET / HTTP/1.1\" 200 OK\u{2028}x",
            "9.9.9.9:0 - \"GET / HTTP/1.1\" 2000 OK",
            "9.9.9.9:0 - \"GET / HTTP/1.1\"  200 OK",
            "9.9.9.9:0 - \"GET / HTTP/1.1\"",
            "9.9.9.9 - \"GET / HTTP/1.1\" 200 OK",
            "9.9.9.9:999999 - \"GET / HTTP/1.1\" 200 OK",
            " 9.9.9.9:0 - \"GET / HTTP/1.1\" 200 OK",
            ":0 - \"GET / HTTP/1.1\" 200 OK",
            " - \"GET / HTTP/1.1\" 200 OK",
        ] {
            let line = format!("INFO:     {message}");
            head(&line, "uvicorn|-|INFO|-", message);
            fields(&line, "");
        }
    }

    #[test]
    fn clf() {
        let line = "192.168.61.205 - - [24/Aug/2021:09:52:13 +0000] \"GET / HTTP/1.1\" 200 13";
        head(line, "clf|24/Aug/2021:09:52:13 +0000|-|-", "\"GET / HTTP/1.1\" 200 13");
        fields(line, "ip=192.168.61.205 method=GET path=/ status=200");
        let with =
            |origin: &str, entry: &str| format!("{origin} [24/Aug/2021:09:52:13 +0000] {entry}");
        let ok = "\"POST /a?b HTTP/2.0\" 401 - \"-\" \"curl \\\"x\\\" \\x22\" 5 \"r\"";
        fields(&with("::1 - bob", ok), "ip=::1 user=bob method=POST path=/a status=401");
        fields(&with("1.2.3.4 -  ", ok), "ip=1.2.3.4 user=  method=POST path=/a status=401");
        fields(
            &with("1.2.3.4 - bob smith", ok),
            "ip=1.2.3.4 user=bob smith method=POST path=/a status=401",
        );
        fields(
            &with("a.org:443 1.2.3.4 - bo b", ok),
            "ip=1.2.3.4 user=bo b method=POST path=/a status=401 host=a.org:443",
        );
        for user in [r#"a\"b c"#, r#"x [z] \"q\" 200 1"#, r#"b ""#, r#""y z""#] {
            fields(
                &with(&format!("1.2.3.4 - {user}"), ok),
                &format!("ip=1.2.3.4 user={user} method=POST path=/a status=401"),
            );
        }
        fields(
            &with("a.org:443 1.2.3.4 - bob", ok),
            "ip=1.2.3.4 user=bob method=POST path=/a status=401 host=a.org:443",
        );
        // TLS to a plain port, no request: the address and the status still count.
        fields(
            &with("1.2.3.4 - -", "\"\\x16\\x03\\x01\" 400 150 \"-\" \"-\""),
            "ip=1.2.3.4 status=400",
        );
        fields(&with("1.2.3.4 - -", "\"GET /a b HTTP/1.1\" 400 150"), "ip=1.2.3.4 status=400");
        fields(&with("1.2.3.4 - -", "\"-\" 408 -"), "ip=1.2.3.4 status=408");
        fields(
            &with("1.2.3.4 - -", "\"GET http://x.org/login?q HTTP/1.1\" 401 0"),
            "ip=1.2.3.4 method=GET path=/login status=401",
        );
        // gunicorn does not escape backslashes; one must not hide the line.
        for tail in ["\"-\" \"x\\\"", "\"x\\\" \"agent\""] {
            fields(
                &with("1.2.3.4 - -", &format!("\"POST /l HTTP/1.1\" 401 0 {tail}")),
                "ip=1.2.3.4 method=POST path=/l status=401",
            );
        }
        fields(
            &with("1.2.3.4 - -", "\"POST /l\\\\\" HTTP/1.1\" 401 0 \"-\" \"x\""),
            "ip=1.2.3.4 method=POST path=/l\\\\\" status=401",
        );
    }

    #[test]
    fn clf_forged_or_broken() {
        let time = "[24/Aug/2021:09:52:13 +0000]";
        for entry in [
            "\"GET / HTTP/1.1\" 200 13 \"open",
            "\"GET / HTTP/1.1\" 200 13 x\"y",
            "\"GET / HTTP/1.1\" 20 13",
            "\"GET / HTTP/1.1\" 200 x",
            "\"GET / HTTP/1.1\" 200",
            "\"GET / HTTP/1.1",
            "\"\\",
            "\"GET / HTTP/1.1\"x 200 5",
            "\"a\"b\" 200 5",
        ] {
            let line = format!("1.2.3.4 - - {time} {entry}");
            head(&line, &format!("clf|{}|-|-", &time[1..27]), entry);
            fields(&line, "");
        }
        for line in [
            format!(
                "1.2.3.4 - x {time} \"GET / HTTP/1.1\" 200 5 \"-\" \"-\" {time} \"POST /login HTTP/1.1\" 401 5"
            ),
            format!("1.2.3.4 - x {time} \"\" {time} \"POST /login HTTP/1.1\" 401 5"),
            format!("1.2.3.4 x y z {time} \"GET / HTTP/1.1\" 200 5"),
            format!("host - y z {time} \"GET / HTTP/1.1\" 200 5"),
            format!("host 9.9.9.9 - - {time} \"GET / HTTP/1.1\" 200 5"),
            format!("frontend.0 nginx: 203.0.113.1 - - {time} \"GET / HTTP/1.1\" 200 5"),
            format!(" 1.2.3.4 - - {time} \"GET / HTTP/1.1\" 200 5"),
            format!("1.2.3.4 - - {time}\"GET / HTTP/1.1\" 200 5"),
            format!("{time} \"x\""),
        ] {
            assert_eq!(field(&line, "ip"), None, "{line}");
            assert_ne!(read(&line).shape, "clf", "{line}");
        }
    }

    fn field(line: &str, name: &str) -> Option<String> {
        read(line).fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string())
    }

    #[test]
    fn nginx() {
        let line = "2015/10/29 20:01:02 [error] 256554#0: *99927 limiting requests, excess: 1.852 by zone \"one\", client: 1.2.3.4, server: example.com, request: \"POST /index.htm HTTP/1.0\", host: \"exmaple.com\"";
        let text = read(line);
        assert_eq!(
            (text.shape, text.time, text.level),
            ("nginx_error", Some("2015/10/29 20:01:02"), Some("error"))
        );
        assert!(text.message.starts_with("limiting requests, excess"));
        fields(line, "pid=256554 ip=1.2.3.4");
        // A Referer cannot take the address away from a limit, nor put another there.
        assert_eq!(
            field(&format!("{line}, referrer: \", client: 9.9.9.9, server: x\""), "ip").as_deref(),
            Some("1.2.3.4")
        );
        assert_eq!(field(&format!("{line}{}", "a".repeat(3000)), "ip").as_deref(), Some("1.2.3.4"));
        let with = |message: &str| format!("2015/10/29 20:01:02 [error] 1#0: *2 {message}");
        let open =
            "open() \"/x\" failed (2: No such file), client: 2001:db8::1, server: _, request: \"\"";
        assert_eq!(field(&with(open), "ip").as_deref(), Some("2001:db8::1"));
        for message in [
            "open() \"/x, client: 9.9.9.9, server: y\" failed, client: 1.2.3.4, server: _",
            "open() \"/x, client: \" failed, client: 1.2.3.4, server: _",
            "user \"limiting requests, excess: 1 by zone \"a\", client: 9.9.9.9, server: \" not found, client: 1.2.3.4, server: _",
            "x, client: 1.2.3.4 y, server: _",
            "x, client: unix:, server: _",
            "x, client: 1.2.3.4",
            "x client: 1.2.3.4, server: _",
        ] {
            assert_eq!(field(&with(message), "ip"), None, "{message}");
            let line = with(message);
            let text = read(&line);
            let disputed = message.matches(", client: ").count() > 1;
            assert_eq!((text.message, text.disputed), (message, disputed), "{message}");
        }
        // Cut at 2,047 bytes by nginx, so that only the forged client is left.
        let cut = with(&format!("open() \"/x, client: 9.9.9.9, server: y{}", "a".repeat(2100)));
        assert_eq!(field(&cut[..2047], "ip"), None);
        head(
            "2015/10/29 20:01:02 [notice] 1#1: start",
            "nginx_error|2015/10/29 20:01:02|notice|-",
            "start",
        );
    }

    #[test]
    fn alb() {
        let line = "http 2023-04-26T12:22:55.463821Z app/a/b 192.168.1.10:44740 10.0.0.1:80 0.000 0.001 0.000 200 200 34 366 \"GET http://www.example.com:80/ HTTP/1.1\" \"curl/7.46.0\" - - arn:aws \"Root=1-58337262\" \"-\" \"-\"";
        let text = read(line);
        assert_eq!((text.shape, text.time), ("alb", Some("2023-04-26T12:22:55.463821Z")));
        assert!(text.message.starts_with("\"GET http"));
        fields(line, "ip=192.168.1.10 method=GET path=/ status=200");
        fields(&line.replace("\"curl/7.46.0\"", "curl"), "");
        assert_eq!(read(&line.replace(" 0.001", " x")).shape, "text");
        fields(
            &line.replace("10.0.0.1:80", "-").replace(" 200 200", " 503 -"),
            "ip=192.168.1.10 method=GET path=/ status=503",
        );
    }

    #[test]
    fn logfmt() {
        let line = "time=\"2015-03-26T01:27:38-04:00\" level=warning msg=\"The group\" number=122";
        head(line, "logfmt|2015-03-26T01:27:38-04:00|warning|-", "The group");
        fields(line, "time=2015-03-26T01:27:38-04:00 level=warning msg=The group number=122");
        let line = "t=2020-10-19T17:44:33+0200 lvl=eror msg=\"Invalid \\\"u\\\" \\u00e9\\ud83d\\ude00\\ud800\\q\\x41\" logger=context remote_addr=182.56.23.12 url=/a?b=c";
        head(line, "logfmt|2020-10-19T17:44:33+0200|eror|context", line);
        assert_eq!(field(line, "msg").as_deref(), Some("Invalid \"u\" é😀\u{fffd}\\qA"));
        assert_eq!(field(line, "url").as_deref(), Some("/a?b=c"));
        fields("a=1 ip=1.1.1.1 ip=2.2.2.2 c=", "a=1 ip=1.1.1.1 ip=2.2.2.2 c=");
        fields("a=1\u{2028}ip=9.9.9.9 b=\"\u{85}\"", "a=1\u{2028}ip=9.9.9.9 b=\u{85}");
        for line in [
            "a=1",
            "a=1 b",
            "a=1 b=\"c",
            "a=1 b=\"c\"d",
            "a=1 b=c\"d\"",
            " a=1 b=2",
            "a =1 b=2",
            "=1 b=2",
            "é=1 b=2",
            "time=2022-09-09T15:26:59Z level=info msg=No valid session ip=9.9.9.9",
            "a=1 b=\"\\",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn plain() {
        for line in [
            "",
            " ",
            "hello",
            "FAILED_LOGIN: email=a, ip=203.0.113.9, reason=x",
            "é",
            "\u{feff}x",
            "GET / 200",
            "x Feb 12 14:10:21 h sshd[1]: y",
            "say WARNING:a:b",
            "Traceback (most recent call last):",
            "18:37:23.568 project=dev_tenant user=postgres peer_ip=192.168.1.100 [error] x",
        ] {
            is_text(line);
        }
    }

    #[test]
    fn cri_lines() {
        let line = "2022-01-28T16:04:05.673552828Z stderr P 172.18.0.1 - - [";
        let want = CriLine {
            time: "2022-01-28T16:04:05.673552828Z",
            stream: "stderr",
            full: false,
            content: "172.18.0.1 - - [",
        };
        assert_eq!(cri(line), Some(want));
        let line = "2022-01-28T16:04:05+02:00 stdout F:a:b_1  two";
        let got = cri(line).unwrap();
        assert_eq!(
            (got.time, got.stream, got.full, got.content),
            ("2022-01-28T16:04:05+02:00", "stdout", true, " two")
        );
        assert_eq!(cri("2022-01-28T16:04:05Z stdout F ").map(|c| c.content), Some(""));
        assert!(cri_bytes(b"2022-01-28T16:04:05Z stdout F \xff\xfe"));
        for line in [
            "2022-01-28T16:04:05 stdout F x",
            "2022-01-28 16:04:05Z stdout F x",
            "2022-01-28T16:04:05,1Z stdout F x",
            "2022-01-28T16:04:05 UTC stdout F x",
            "2022-01-28T16:04:05Z stdin F x",
            "2022-01-28T16:04:05Z stdout  F x",
            "2022-01-28T16:04:05Z stdout X x",
            "2022-01-28T16:04:05Z stdout FP x",
            "2022-01-28T16:04:05Z stdout F: x",
            "2022-01-28T16:04:05Z stdout F:é x",
            " 2022-01-28T16:04:05Z stdout F x",
            "2022-01-28T16:04:05z stdout F x",
            "",
        ] {
            assert_eq!(cri(line), None, "{line}");
        }
    }

    #[test]
    fn ansi() {
        for (from, to) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{9b}1;38:5:200mred\u{9b}m", "red"),
            ("a\u{1b}[2Kb\u{1b}[?25hc\u{1b}[0 qd\u{1b}[!pe", "abcde"),
            ("\u{1b}]0;title\u{7}x", "x"),
            ("\u{1b}]8;;http://a/?b=c\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{9d}0;t\u{9c}x\u{1b}Pq\u{1b}\\y", "xy"),
            ("\u{1b}(Ba\u{1b}7b\u{1b}=c\u{1b}Md", "abcd"),
            ("x\u{1b}", "x"),
            ("\u{1b}\u{1b}[m[31mx", "[31mx"),
            // Unfinished or stretched over fields: nothing readable is lost.
            ("email=x\u{1b}[, ip=1.2.3.4", "email=x, ip=1.2.3.4"),
            ("user x\u{1b}[ from 1.2.3.4", "user x from 1.2.3.4"),
            ("email=x\u{1b}[12", "email=x12"),
            ("email=x\u{1b}], ip=1.2.3.4, ua=\u{7}", "email=x, ip=1.2.3.4, ua=\u{7}"),
            ("email=x\u{9d}0; ip=1.2.3.4", "email=x0; ip=1.2.3.4"),
            ("email=\u{1b}é\u{1b}, ip", "email=é, ip"),
        ] {
            assert_eq!(strip_ansi(from), to, "{from:?}");
        }
        for same in ["", "plain", "é\u{a0}§\u{85}\u{2028}\t[31m", "\u{9c}\u{7}"] {
            assert!(matches!(strip_ansi(same), Cow::Borrowed(text) if text == same), "{same:?}");
        }
    }

    #[test]
    fn long_hostile_lines_take_linear_time() {
        const N: usize = 1 << 18;
        for unit in [
            "\u{1b}]",
            "\u{9d}",
            "\u{1b}[1;",
            "\u{1b}[",
            "[",
            " [",
            "\\",
            "\"",
            "a=\"",
            " - ",
            "a=b ",
            "1:",
            "<",
            "]",
            " [24/Aug/2021:09:52:13 +0000] \"",
            ", client: ",
            "\u{1b}P\u{1b}",
        ] {
            let flood = unit.repeat(N / unit.len());
            assert!(!strip_ansi(&flood).contains('\u{1b}'));
            for start in [
                "",
                "a=\"",
                "<34>1 - - a - - [a ",
                "1.2.3.4 - - [24/Aug/2021:09:52:13 +0000] \"",
                "INFO:     ",
                "2015/10/29 20:01:02 [error] 1#0: ",
                "2026-11-23 15:06:32,591 - ",
                "[",
                "1.2.3.4 - ",
            ] {
                let line = format!("{start}{flood}");
                assert!(line.contains(read(&line).message));
            }
        }
    }

    /// Text made of the parts that headers are made of.
    fn parts() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            " ",
            "  ",
            "\t",
            "[",
            "]",
            "\"",
            "\\",
            ":",
            "-",
            " - ",
            "=",
            "<34>",
            "<34>1 ",
            "INFO",
            "INFO:     ",
            "WARNING:",
            "[error]",
            "2026-01-02T03:04:05.678+01:00",
            "2026-11-23 15:06:32,591",
            "2015/10/29 20:01:02",
            "Feb 12 14:10:21",
            "UTC",
            " +0100",
            "[24/Aug/2021:09:52:13 +0000]",
            "1.2.3.4",
            "9.9.9.9:1",
            "sshd[1]:",
            "host",
            "a=b",
            "a=\"",
            "msg=",
            "\"GET / HTTP/1.1\"",
            "200",
            "401 Unauthorized",
            "1#0: *2 ",
            ", client: ",
            ", server: ",
            "stdout",
            "F",
            "P",
            "\u{1b}",
            "\u{9b}",
            "\u{9d}",
            "\u{7}",
            "\u{1b}[31m",
            "\u{2028}",
            "\u{85}",
            "é",
            "😀",
            "\u{feff}",
            "\\u",
            "\\ud83d",
            "http ",
            "(t)",
            "\0",
        ]);
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    fn check(line: &str) -> Result<(), TestCaseError> {
        let text = read(line);
        if text.shape == "logfmt" {
            prop_assert!(line.contains(text.message));
        } else {
            prop_assert!(line.ends_with(text.message));
            for (_, value) in &text.fields {
                prop_assert!(matches!(value, Cow::Borrowed(_)));
                prop_assert!(line.contains(value.as_ref()) || value == "/");
            }
        }
        if text.shape == "text" {
            prop_assert_eq!(text.message, line);
            prop_assert!(text.fields.is_empty() && text.time.is_none() && text.level.is_none());
        }
        prop_assert!(text.time.is_none_or(|time| line.contains(time)));
        let stripped = strip_ansi(line);
        let left = stripped.contains(['\u{1b}', '\u{9b}']);
        prop_assert!(!left);
        prop_assert_eq!(strip_ansi(&stripped), stripped.as_ref());
        prop_assert_eq!(cri(line).is_some(), cri_bytes(line.as_bytes()));
        if let Some(cri) = cri(line) {
            prop_assert!(line.ends_with(cri.content) && line.starts_with(cri.time));
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

        #[test]
        fn any_text_is_read(line in any::<String>()) {
            check(&line)?;
        }

        #[test]
        fn any_mix_of_parts_is_read(line in parts()) {
            check(&line)?;
        }

        #[test]
        fn any_bytes_may_be_cri(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = String::from_utf8_lossy(&line);
            prop_assert_eq!(cri(&text).is_some(), cri_bytes(&line));
        }

        /// What a client writes into a message moves no header and becomes no address.
        #[test]
        fn a_message_never_moves_its_header(message in parts()) {
            let clean = message.trim_start_matches(is_blank);
            for (start, shape) in [
                ("2026-11-23 15:06:32,591 - a - INFO - ", "python"),
                ("WARNING:security:", "basic"),
                ("Feb 12 14:10:21 host sshd[1]: ", "syslog"),
                ("2026-01-02T03:04:05.678+01:00 host sshd[1]: ", "syslog"),
                ("<34>1 - host sshd 1 - - x", "syslog5424"),
                ("2026-01-02T03:04:05Z [INFO] ", "railway"),
                ("[2026-11-23 15:07:35 +0000] [123] [INFO] ", "gunicorn"),
                ("2023-05-25 22:24:19,357 WARN  [a] (b) ", "jboss"),
            ] {
                let line = format!("{start}{message}");
                let text = read(&line);
                prop_assert_eq!(text.shape, shape);
                let end = if shape == "syslog5424" { text.message.get(1..) } else { Some(text.message) };
                prop_assert!(end == Some(message.as_str()) || end == Some(clean));
                prop_assert!(text.fields.iter().all(|(key, _)| key != "ip"));
            }
        }

        /// The address of an access line is the one uvicorn wrote last before the request.
        #[test]
        fn uvicorn_takes_no_forged_address(token in parts()) {
            let line = format!("INFO:     {token}:0 - \"GET / HTTP/1.1\" 401 Unauthorized");
            if let Some(ip) = field(&line, "ip") {
                prop_assert_eq!(ip, token);
            }
        }
    }
}
