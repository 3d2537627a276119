//! Whom a person means: text in the form in which the stream knows its targets.

use crate::action::Target;
use crate::action::{escape, is_hidden};
use crate::decode::addr;
use crate::pattern::filter::parse_net;
use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

/// Characters of a target; longer is nobody's name.
pub const TEXT_MAX: usize = 1024;
/// The kinds that can be meant.
pub const KINDS: [&str; 4] = ["ip", "range", "user", "user_id"];

/// What stands in a request as an object. A list of values by their order would do for what is
/// derived, and nobody sees in it which is which.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reading<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reading<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with names")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(Reading(PhantomData))
    }
}

/// A target as it stands in a request.
#[derive(Debug, Clone)]
pub enum Meant {
    /// An address, a range, an account, or `kind:value`.
    Text(String),
    /// The same in two parts.
    Parts(Parts),
}

/// A target in two parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    kind: String,
    value: String,
}

impl<'de> Deserialize<'de> for Meant {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Meant;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target: a text, or an object with `kind` and `value`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Meant, E> {
                Ok(Meant::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Meant, A::Error> {
                Parts::deserialize(MapAccessDeserializer::new(map)).map(Meant::Parts)
            }
        }
        from.deserialize_any(Reading)
    }
}

impl Meant {
    /// The target.
    ///
    /// # Errors
    /// Why nobody can be meant.
    pub fn target(&self) -> Result<Target, String> {
        match self {
            Meant::Text(text) => parse(text),
            Meant::Parts(Parts { kind, value }) => of_kind(kind, value),
        }
    }
}

/// The target that a text means: an address, a range, `user_id:ID`, or else a name or an e-mail
/// address. What cannot be seen stands in it as in [`spelled`]; as it is, it is more likely a slip of
/// whoever copied the text.
///
/// # Errors
/// Why nobody can be meant.
pub fn parse(text: &str) -> Result<Target, String> {
    sized(text)?;
    if text.trim().chars().any(is_hidden) {
        return Err(format!(
            "there is something in it that cannot be seen; if it belongs to the name, write `{}`",
            escape(text.trim())
        ));
    }
    let text = read_out(text);
    let text = text.trim();
    if let Some((kind, value)) = text.split_once(':')
        && KINDS.contains(&kind)
    {
        return of_kind(kind, value);
    }
    if text.contains('/')
        && let Some(net) = parse_net(text)
    {
        return Ok(of_net(net));
    }
    if let Some(ip) = address(text) {
        return Ok(of_net(IpNet::from(ip)));
    }
    let numeric = |c: char| c.is_ascii_digit() || "./:".contains(c);
    let hex = |c: char| c.is_ascii_hexdigit() || "./:%[]".contains(c);
    let like_v4 = text.contains(['.', '/']) && text.chars().all(numeric);
    let like_v6 = text.matches(':').count() > 1 && text.chars().all(hex);
    if like_v4 || like_v6 {
        return Err(format!("`{}` is no address and no range", escape(text)));
    }
    of_kind("user", text)
}

/// An address that stands for itself: what logs put before one (`for=`, `ip:`) is nobody's writing
/// here, and neither is a list.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains([' ', '=', ',', ';', '"', '\'', '@']) {
        return None;
    }
    // With a port behind it and no brackets, a slip of the pen would be another address.
    if text.matches(':').count() > 1 && !text.starts_with('[') {
        let bare = text.split('%').next().unwrap_or_default();
        return bare.parse::<IpAddr>().ok().map(addr::canonical);
    }
    addr::parse_ip(text)
}

fn sized(text: &str) -> Result<(), String> {
    if text.chars().count() > TEXT_MAX || text.trim().is_empty() {
        return Err(format!("a target has 1 to {TEXT_MAX} characters, and not only blanks"));
    }
    Ok(())
}

fn of_kind(kind: &str, value: &str) -> Result<Target, String> {
    sized(value)?;
    let shown = escape(value);
    let named =
        |kind: &str, value: &str| Target { kind: kind.to_owned(), value: Some(value.to_owned()) };
    match kind {
        "ip" => address(value.trim())
            .map(|ip| of_net(IpNet::from(ip)))
            .ok_or_else(|| format!("`{shown}` is no address")),
        "range" => parse_net(value)
            .map(of_net)
            .ok_or_else(|| format!("`{shown}` is no range; write it like 203.0.113.0/24")),
        "user" => addr::normalize_user(value)
            .map(|user| named("user", &user))
            .ok_or_else(|| format!("`{shown}` names no account")),
        "user_id" => addr::canonical_id(value, false)
            .map(|id| named("user_id", &id))
            .ok_or_else(|| format!("`{shown}` is no id of an account")),
        _ => {
            let near = crate::yaml::nearest(kind, &KINDS).map_or_else(
                || format!("one of {}", KINDS.join(", ")),
                |near| format!("did you mean {near}?"),
            );
            Err(format!("`{}` is no kind of target; {near}", escape(kind)))
        }
    }
}

/// How what cannot be seen is written: `\u{200d}`.
const HIDDEN: &str = "\\u{";

/// A name as [`parse`] takes it: whole, with what cannot be seen written as `\u{200d}`, and what looks
/// like that already too.
pub fn spelled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let looks_so = text.get(at..).is_some_and(|rest| rest.starts_with(HIDDEN));
        if is_hidden(c) || looks_so {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// What [`spelled`] wrote, as it is.
fn read_out(text: &str) -> Cow<'_, str> {
    if !text.contains(HIDDEN) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(HIDDEN) {
        out.push_str(before);
        let read = behind.split_once('}').and_then(|(digits, behind)| {
            let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
            Some((c, behind))
        });
        match read {
            Some((c, behind)) => {
                out.push(c);
                rest = behind;
            }
            None => {
                out.push_str(HIDDEN);
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn of_net(net: IpNet) -> Target {
    let net = addr::canonical_net(net);
    let kind = if net.prefix_len() == net.max_prefix_len() { "ip" } else { "range" };
    Target { kind: kind.to_owned(), value: Some(addr::target_text(kind, &net)) }
}

/// The addresses of a target, if it has some.
pub fn net(target: &Target) -> Option<IpNet> {
    match target.kind.as_str() {
        "ip" | "range" => parse_net(target.text()),
        _ => None,
    }
}

/// Whether a question about `asked` is answered by what is decided about `decided`: the same
/// target, or one that covers it or lies in it.
pub fn meets(asked: &Target, decided: &Target) -> bool {
    if asked == decided {
        return true;
    }
    match (net(asked), net(decided)) {
        (Some(asked), Some(decided)) => asked.contains(&decided) || decided.contains(&asked),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        parse(text).map_or_else(
            |why| format!("error: {why}"),
            |target| format!("{} {}", target.kind, target.text()),
        )
    }

    #[test]
    fn a_text_means_what_the_stream_counts_by() {
        for (text, meant) in [
            ("203.0.113.7", "ip 203.0.113.7"),
            (" 203.0.113.7:443 ", "ip 203.0.113.7"),
            ("::ffff:203.0.113.7", "ip 203.0.113.7"),
            ("64:ff9b::cb00:7107", "ip 203.0.113.7"),
            ("2001:DB8::0:1", "ip 2001:db8::1"),
            ("fe80::1%eth0", "ip fe80::1"),
            ("[2001:db8::1]:443", "ip 2001:db8::1"),
            ("203.0.113.7/24", "range 203.0.113.0/24"),
            ("203.0.113.7/32", "ip 203.0.113.7"),
            ("2001:db8:1:2:3::/64", "range 2001:db8:1:2::/64"),
            ("::ffff:203.0.113.0/120", "range 203.0.113.0/24"),
            ("Mallory@Example.ORG ", "user mallory@example.org"),
            ("ＡＤＭＩＮ", "user admin"),
            ("12345", "user 12345"),
            ("a/b", "user a/b"),
            ("user_id:0B6F", "user_id 0b6f"),
            ("user:203.0.113.7", "user 203.0.113.7"),
            ("ip:203.0.113.7", "ip 203.0.113.7"),
            ("domain:x", "user domain:x"),
            (r"dev\u{200D}x", "user dev\u{200d}x"),
            (r"user_id:a\u{a}b", "user_id a\nb"),
            (r"a\u{5c}u{41}", r"user a\u{41}"),
            (r"a\u{110000}", r"user a\u{110000}"),
            (r"a\u{41", r"user a\u{41"),
        ] {
            assert_eq!(of(text), meant, "{text}");
        }
    }

    #[test]
    fn what_means_nobody_is_told() {
        for text in [
            "",
            " ",
            "null",
            "-",
            "10.0.0.256",
            "10.0.0.0/33",
            "10.0.0",
            "2001:db8::/129",
            "2001:db8:::1",
            "user_id:",
            "user_id:0",
            "ip:host",
            "range:x",
            "a\u{202e}b",
            "a\nb",
            &"x".repeat(1025),
        ] {
            assert!(of(text).starts_with("error: "), "{text}: {}", of(text));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_written_out() {
        for (name, text) in [
            ("bob", "bob"),
            ("dev\u{200d}x", r"dev\u{200d}x"),
            ("a\nb\tc", r"a\u{a}b\u{9}c"),
            // Whoever calls himself so is not taken for another.
            (r"dev\u{200d}x", r"dev\u{5c}u{200d}x"),
            (r"a\b\u", r"a\b\u"),
            (r"\\u{", r"\\u{5c}u{"),
            (&"x".repeat(256), &"x".repeat(256)),
        ] {
            assert_eq!(spelled(name), text);
            assert_eq!(parse(text).unwrap().text(), name);
        }
        let why = parse("bob\u{200b}").unwrap_err();
        assert!(why.contains(r"`bob\u{200b}`"), "{why}");
        let parts = Parts { kind: "user".to_owned(), value: "bob\u{200b}x".to_owned() };
        assert_eq!(Meant::Parts(parts).target().unwrap().text(), "bob\u{200b}x");
    }

    #[test]
    fn an_address_meets_the_range_around_it() {
        let (ip, range) = (parse("203.0.113.7").unwrap(), parse("203.0.113.0/24").unwrap());
        assert!(meets(&ip, &range) && meets(&range, &ip));
        assert!(!meets(&ip, &parse("203.0.113.8").unwrap()));
        assert!(!meets(&parse("user:203.0.113.7").unwrap(), &ip));
    }
}
