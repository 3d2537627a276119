//! Turns the texts that logs use for addresses, users and ids into the keys that rules count by.
//!
//! Two spellings of one identity must give one key, or an attacker spreads over several windows;
//! two identities must never share one, or one user's failures lock another out. What cannot be
//! read for sure therefore gives `None`, and the event is keyless for that role. The address ranges
//! that must never be blocked live here too.

use super::lanes::{LANES, Lanes};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use unicode_normalization::UnicodeNormalization;

/// The one form of an address: IPv4-mapped IPv6 (`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`) become
/// the IPv4 address they stand for, all others stay.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// The IPv4 address inside a mapped or NAT64 address.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        _ => None,
    }
}

/// The canonical address that `text` names, without what logs put around it.
///
/// Removed are blanks and quotes around it, `for=`, `ip/`, `ip:`, brackets, `%zone`, a port, and
/// `.`, `,` or `;` at its end. With two or more colons the whole is tried as IPv6 before the last
/// part is taken for a port; see [`parse_ip_port_last`]. Host names, short, hexadecimal and octal
/// IPv4 (`192.030.0.6` is two different addresses, depending on who reads it) are `None`.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Some(ip) = plain_v4(text) {
        return Some(IpAddr::V4(ip));
    }
    let text = bare(text);
    if text.starts_with('[') {
        return bracketed(text).map(|(ip, _)| canonical(ip));
    }
    let ip = host(text).or_else(|| split_port(text).and_then(host))?;
    Some(canonical(ip))
}

/// Like [`parse_ip`], for text that always ends in a port (uvicorn's `client_addr`).
///
/// Uvicorn writes no brackets around IPv6, so that `2001:db8::5:0` is port 0 of `2001:db8::5`,
/// although the whole is a valid address as well. Without a port the result is `None`.
pub fn parse_ip_port_last(text: &str) -> Option<IpAddr> {
    let text = bare(text);
    if text.starts_with('[') {
        return bracketed(text).filter(|(_, port)| *port).map(|(ip, _)| canonical(ip));
    }
    split_port(text).and_then(host).map(canonical)
}

/// The address, if the text is four decimal numbers and nothing else, as nearly always.
pub fn plain_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut bytes = text.bytes();
    for (i, octet) in octets.iter_mut().enumerate() {
        let mut value: u16 = 0;
        let mut digits = 0;
        loop {
            match bytes.next() {
                Some(digit @ b'0'..=b'9') => {
                    // Neither a leading zero nor a fourth digit.
                    if digits == 3 || (digits > 0 && value == 0) {
                        return None;
                    }
                    value = value * 10 + u16::from(digit - b'0');
                    digits += 1;
                }
                Some(b'.') if i < 3 && digits > 0 => break,
                None if i == 3 && digits > 0 => break,
                _ => return None,
            }
        }
        *octet = u8::try_from(value).ok()?;
    }
    Some(Ipv4Addr::from(octets))
}

/// `text` without quotes, prefixes and the punctuation of the sentence around it.
fn bare(text: &str) -> &str {
    let quote = |c: char| c.is_whitespace() || c == '"' || c == '\'';
    let mut text = text
        .trim_start_matches(quote)
        .trim_end_matches(|c| quote(c) || matches!(c, '.' | ',' | ';'));
    for prefix in ["for=", "ip/", "ip:"] {
        if let Some(start) = text.get(..prefix.len())
            && start.eq_ignore_ascii_case(prefix)
        {
            text = text.get(prefix.len()..).unwrap_or_default().trim_start_matches(quote);
        }
    }
    text
}

/// An address without a port, with or without an IPv6 zone.
fn host(text: &str) -> Option<IpAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return text.parse().ok();
    };
    let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'~' | b'-');
    if zone.is_empty() || zone.len() > 64 || !zone.bytes().all(known) {
        return None;
    }
    address.parse().ok().map(IpAddr::V6)
}

/// `[address]` or `[address]:port`, and whether there was a port.
fn bracketed(text: &str) -> Option<(IpAddr, bool)> {
    let (inner, rest) = text.strip_prefix('[')?.split_once(']')?;
    let ip = host(inner)?;
    match rest.strip_prefix(':') {
        Some(port) => is_port(port).then_some((ip, true)),
        None => rest.is_empty().then_some((ip, false)),
    }
}

/// What stands before the last colon, if a port stands after it.
fn split_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    is_port(port).then_some(host)
}

/// Whether `text` is a decimal number from 0 to 65535.
fn is_port(text: &str) -> bool {
    // `parse` alone would take a leading plus.
    text.bytes().all(|c| c.is_ascii_digit()) && text.len() <= 5 && text.parse::<u16>().is_ok()
}

/// `text` without blanks around it; nearly always there are none, which is seen at once.
pub(super) fn trimmed(text: &str) -> &str {
    let graphic = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    let bytes = text.as_bytes();
    if graphic(bytes.first()) && graphic(bytes.last()) { text } else { text.trim() }
}

/// No word for nobody is longer, but for `unix:` and what follows it.
const NON_VALUE_MAX: usize = 10;

/// Words that programs write where they have no identity to write.
const NON_VALUES: [&str; 10] = [
    "-",
    "--",
    "none",
    "null",
    "nil",
    "undefined",
    "unknown",
    "anonymous",
    "testclient",
    "localhost",
];

/// Whether `text` says that there is no value, in any case and with blanks around it: empty, `-`,
/// `--`, none, null, nil, undefined, unknown, anonymous, testclient, localhost, or `unix:` and
/// whatever follows it.
pub fn is_non_value(text: &str) -> bool {
    let text = trimmed(text);
    if text.len() > NON_VALUE_MAX
        && !text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("unix:"))
    {
        return false;
    }
    text.is_empty()
        || NON_VALUES.iter().any(|word| text.eq_ignore_ascii_case(word))
        || text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("unix:"))
}

/// A user key is at most this many bytes long.
const USER_MAX: usize = 256;
/// So many bytes of a longer one are kept, which leaves room for the hash.
const USER_HEAD: usize = 240;

/// Only so many bytes are normalised, which can make text eleven times longer and takes its time.
const USER_READ: usize = 4096;

/// The key for a user name: trimmed, NFKC, lower-cased. `None` for a [non-value](is_non_value).
///
/// A key longer than 256 bytes is its first 240 (or a few fewer, at a character boundary), `...`
/// and 8 hex digits of a hash of the whole, so that memory stays bounded and long names stay
/// different. Three ASCII points are used because NFKC would turn an ellipsis into them: a key is
/// its own key. What lies beyond the first 4 KiB goes into the hash as it is spelled.
pub fn normalize_user(text: &str) -> Option<Cow<'_, str>> {
    let text = trimmed(text);
    if is_own_key(text) {
        return Some(Cow::Borrowed(text));
    }
    if is_non_value(text) {
        return None;
    }
    let (head, rest) = text.split_at(text.floor_char_boundary(USER_READ));
    if head.is_ascii() {
        if text.len() <= USER_MAX && !head.bytes().any(|b| b.is_ascii_uppercase()) {
            return Some(Cow::Borrowed(text));
        }
        return Some(Cow::Owned(capped(head.to_ascii_lowercase(), rest)));
    }
    // Lower-casing can undo a composition, so the normal form is restored after it.
    let lower = head.nfkc().collect::<String>().to_lowercase();
    let key: String = lower.nfkc().collect();
    let key = key.trim();
    // Full-width letters may spell a non-value only now.
    if rest.is_empty() && is_non_value(key) {
        return None;
    }
    Some(Cow::Owned(capped(key.to_owned(), rest)))
}

/// Whether a trimmed name is its own key, as nearly all are: no word for nobody, not too long, and nothing
/// in it is changed by lower-casing or composing. `false` says nothing.
fn is_own_key(text: &str) -> bool {
    let bytes = text.as_bytes();
    // The last eight hold what is left of the others.
    let Some(last) = bytes.last_chunk().map(Lanes::of) else { return false };
    // No word for nobody has a digit.
    let no_word = bytes.len() > NON_VALUE_MAX || last.no_digits().count() < LANES as u32;
    let (eights, _) = bytes.as_chunks();
    no_word
        && bytes.len() <= USER_MAX
        && bytes.get(4) != Some(&b':')
        && !last.any_changed_by_case()
        && !eights.iter().any(|eight| Lanes::of(eight).any_changed_by_case())
}

/// `text`, or, if it is longer than a key may be, a stand-in that no other text is likely to share.
pub fn bounded<'t>(text: impl Into<Cow<'t, str>>) -> Cow<'t, str> {
    let text = text.into();
    if text.len() <= USER_MAX {
        return text;
    }
    let (head, rest) = text.split_at(text.floor_char_boundary(USER_HEAD));
    Cow::Owned(capped(head.to_owned(), rest))
}

/// `key`, or a bounded stand-in for `key` and the `rest` after it.
fn capped(mut key: String, rest: &str) -> String {
    if key.len() <= USER_MAX && rest.is_empty() {
        return key;
    }
    // FNV-1a with its two halves folded together. It need not be secret: whoever finds two long
    // names with one hash has made two of his own names share a window.
    let hash = key.bytes().chain(rest.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash >> 32) ^ (hash & 0xffff_ffff);
    key.truncate(key.floor_char_boundary(USER_HEAD));
    key.push_str(&format!("...{hash:08x}"));
    key.shrink_to_fit();
    key
}

/// The key for an id (a user id, a UUID): treated like [a user](normalize_user), and a number
/// becomes the text that a program which writes ids as text would write.
///
/// With `is_number`, `text` is the number as the record spells it: `42`, `42.0` and `4.2e1` are
/// `42`. That holds for whole numbers below 10^15 in size; others stay as they are spelled. 0 is
/// what programs write for nobody, and is `None`, as text too: carriers turn one into the other.
pub fn canonical_id(text: &str, is_number: bool) -> Option<Cow<'_, str>> {
    if trimmed(text) == "0" {
        return None;
    }
    if is_number {
        match whole_number(text.trim()) {
            Some(0) => return None,
            Some(value) => return Some(Cow::Owned(value.to_string())),
            None => {}
        }
    }
    normalize_user(text)
}

/// The value of a decimal number, if it is whole and below 10^15 in size.
fn whole_number(text: &str) -> Option<i64> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(part.bytes());
    if whole.is_empty() || !digits().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let leading = digits().take_while(|c| *c == b'0').count();
    let last = digits().zip(1..).fold(0, |last, (c, n)| if c == b'0' { last } else { n });
    if last == 0 {
        return Some(0);
    }
    // An exponent that does not fit here belongs to a number that is not whole or far too large.
    let exponent: i16 = exponent.parse().ok()?;
    // Where the decimal point stands, counted in digits from the left once the exponent has moved
    // it.
    let point = i64::try_from(whole.len()).ok()?.checked_add(i64::from(exponent))?;
    let point = usize::try_from(point).ok()?;
    if last > point || point - leading > 15 {
        return None;
    }
    let value = digits()
        .chain(std::iter::repeat(b'0'))
        .take(point)
        .skip(leading)
        .fold(0_i64, |value, c| value * 10 + i64::from(c - b'0'));
    Some(sign * value)
}

/// A set of address ranges, written once and asked for every event.
///
/// Kept without overlaps and sorted, so that a question takes a binary search. Ranges of mapped and
/// NAT64 addresses are kept as their IPv4 range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nets(Vec<IpNet>);

impl Nets {
    /// Adds a range; bits beyond its prefix length are ignored.
    pub fn push(&mut self, net: IpNet) {
        let net = canonical_net(net);
        if self.covering(net.network()).is_some_and(|old| old.contains(&net)) {
            return;
        }
        self.0.retain(|old| !net.contains(old));
        let at = self.0.partition_point(|old| old.network() < net.network());
        self.0.insert(at, net);
    }

    /// Whether the address, in its [canonical] form, is in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.covering(canonical(ip)).is_some()
    }

    /// Whether some address is both in `net` and in one of the ranges.
    ///
    /// An IPv6 range that holds all mapped or NAT64 addresses (`64:ff9b::/64` does) holds the whole
    /// of IPv4 with them.
    pub fn overlaps(&self, net: &IpNet) -> bool {
        shapes(net).any(|net| {
            // CIDR ranges lie inside one another or apart; so either a range holds the start of the
            // net, or the first range from there on starts inside it.
            let next = self.0.partition_point(|old| old.network() < net.network());
            self.covering(net.network()).is_some()
                || self.0.get(next).is_some_and(|old| net.contains(&old.network()))
        })
    }

    /// Whether there is no range at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, IPv4 before IPv6, ascending, none inside another.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &IpNet> {
        self.0.iter()
    }

    /// The range that holds `ip`, which must be canonical.
    fn covering(&self, ip: IpAddr) -> Option<&IpNet> {
        let after = self.0.partition_point(|net| net.network() <= ip);
        self.0.get(after.checked_sub(1)?).filter(|net| net.contains(&ip))
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut all = Self::default();
        nets.into_iter().for_each(|net| all.push(net));
        all
    }
}

/// `net` without bits beyond its prefix length, as IPv4 if it lies in the mapped or NAT64 range.
pub fn canonical_net(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Some(v4) = embedded(v6.network())
        && let Ok(v4) = Ipv4Net::new(v4, length)
    {
        return IpNet::V4(v4);
    }
    net.trunc()
}

/// The canonical ranges that hold the addresses of `net`: itself, and all of IPv4 if it is an IPv6
/// range around the mapped or the NAT64 addresses.
fn shapes(net: &IpNet) -> impl Iterator<Item = IpNet> + use<> {
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    const ALL_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let net = canonical_net(*net);
    let around = matches!(net, IpNet::V6(v6) if v6.contains(&MAPPED) || v6.contains(&NAT64));
    [Some(net), around.then_some(ALL_V4)].into_iter().flatten()
}

/// An IPv4 range that is checked when the program is compiled.
const fn v4(a: u8, b: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), length))
}

/// An IPv6 range of which only the first 16 bits are set, checked when the program is compiled.
const fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length))
}

/// Why an address of this machine is never blocked.
const OWN: &str = "own_address";

/// Ranges that are never blocked, whatever the configuration says.
const ALWAYS: [(IpNet, &str); 9] = [
    (v4(127, 0, 8), "loopback"),
    (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)), "loopback"),
    (v4(0, 0, 8), "unspecified"),
    (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128)), "unspecified"),
    (v4(169, 254, 16), "link-local"),
    (v6(0xfe80, 10), "link-local"),
    (v4(224, 0, 4), "multicast"),
    (v6(0xff00, 8), "multicast"),
    (IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)), "broadcast"),
];

/// Ranges for use inside one network.
const PRIVATE: [(IpNet, &str); 4] = [
    (v4(10, 0, 8), "private"),
    (v4(172, 16, 12), "private"),
    (v4(192, 168, 16), "private"),
    (v6(0xfc00, 7), "private"),
];

/// The range that carriers and hosts (Railway's edge among them) put between themselves and others.
const CGNAT: (IpNet, &str) = (v4(100, 64, 10), "cgnat");

/// The ranges that must never be blocked, with the reason for each.
///
/// An address in one of them is a proxy, this machine or nobody, so it is no key for counting
/// either.
#[derive(Clone, Debug)]
pub struct NeverBlock {
    /// Every range once; answers the common question, "none?", fast.
    all: Nets,
    /// The same ranges with their reasons, in the order in which reasons are given.
    named: Vec<(IpNet, &'static str)>,
    /// By the first octet of an IPv4 address: whether some range has such addresses.
    octets: Box<[bool; 256]>,
}

impl Default for NeverBlock {
    /// The built-in ranges, private and CGNAT ones included.
    fn default() -> Self {
        Self::new(true, true, &[], &[], &[])
    }
}

impl NeverBlock {
    /// The ranges but for this machine's own addresses.
    pub fn configured(&self) -> impl Iterator<Item = IpNet> {
        self.named.iter().filter(|(_, why)| *why != OWN).map(|(net, _)| *net)
    }

    /// These ranges and this machine's own addresses.
    pub fn with_configured(&self, ranges: &[IpNet]) -> Self {
        let own = self.named.iter().filter(|(_, why)| *why == OWN).map(|(net, _)| net.addr());
        Self::new(false, false, ranges, &[], &own.collect::<Vec<_>>())
    }

    /// Loopback, link-local, multicast, unspecified (0.0.0.0/8 and ::) and the broadcast address
    /// always; RFC 1918 and fc00::/7 if `private`; 100.64.0.0/10 if `cgnat`; and the ranges given.
    /// Documentation ranges are ordinary.
    pub fn new(
        private: bool,
        cgnat: bool,
        extra: &[IpNet],
        trusted_proxies: &[IpNet],
        own: &[IpAddr],
    ) -> Self {
        let mut named = ALWAYS.to_vec();
        if private {
            named.extend(PRIVATE);
        }
        if cgnat {
            named.push(CGNAT);
        }
        named.extend(trusted_proxies.iter().map(|net| (canonical_net(*net), "trusted_proxies")));
        named.extend(own.iter().map(|ip| (IpNet::from(canonical(*ip)), OWN)));
        named.extend(extra.iter().map(|net| (canonical_net(*net), "extra")));
        let all: Nets = named.iter().map(|(net, _)| *net).collect();
        let mut octets = Box::new([false; 256]);
        for (octet, slot) in (0..=255u8).zip(octets.iter_mut()) {
            let block = Ipv4Net::new(Ipv4Addr::new(octet, 0, 0, 0), 8).map(IpNet::V4);
            *slot = block.is_ok_and(|block| all.overlaps(&block));
        }
        Self { all, named, octets }
    }

    /// Why the address, in its [canonical] form, must not be blocked: `loopback`, `unspecified`,
    /// `link-local`, `multicast`, `broadcast`, `private`, `cgnat`, `trusted_proxies`, `own_address`
    /// or `extra`, the first that holds. `None` if it may be.
    pub fn covers(&self, ip: IpAddr) -> Option<&'static str> {
        let ip = canonical(ip);
        if let IpAddr::V4(v4) = ip
            && let [first, ..] = v4.octets()
            && self.octets.get(usize::from(first)) == Some(&false)
        {
            return None;
        }
        self.all.covering(ip)?;
        self.named.iter().find(|(net, _)| net.contains(&ip)).map(|(_, reason)| *reason)
    }

    /// Why the range must not be blocked: the reason of the first range that shares an address with
    /// it (see [`Nets::overlaps`]). `None` if it may be.
    pub fn overlaps(&self, net: &IpNet) -> Option<&'static str> {
        if !self.all.overlaps(net) {
            return None;
        }
        let meets = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        self.named
            .iter()
            .find(|(never, _)| shapes(net).any(|net| meets(&net, never)))
            .map(|(_, reason)| *reason)
    }
}

/// Whether the address may only be alerted on: Teredo (`2001::/32`) and IPv4-compatible addresses
/// (`::/96` without `::` and `::1`), where the sender chose the bits and others would be hit.
pub fn alert_only(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = canonical(ip) else { return false };
    match ip.segments() {
        [0x2001, 0, ..] => true,
        [0, 0, 0, 0, 0, 0, ..] => !ip.is_unspecified() && !ip.is_loopback(),
        _ => false,
    }
}

/// What a decision about `ip` is aimed at: the target's kind and range.
///
/// IPv4 (see [`canonical`]) is `ip` and a /32. IPv6 is `range` and the range of `ipv6_prefix` bits
/// (0 to 128) around it, because whoever has one address has them all; with 128 (or more) it is
/// `ip`, a /128.
pub fn target(ip: IpAddr, ipv6_prefix: u8) -> (&'static str, IpNet) {
    let ip = canonical(ip);
    match ip {
        IpAddr::V6(v6) if ipv6_prefix < 128 => {
            let range = Ipv6Net::new(v6, ipv6_prefix).map_or(IpNet::from(ip), IpNet::V6);
            ("range", range.trunc())
        }
        _ => ("ip", IpNet::from(ip)),
    }
}

/// The text of a target as in RFC 5952: an `ip` without its prefix length, anything else with it.
pub fn target_text(kind: &str, net: &IpNet) -> String {
    if kind == "ip" { text(net.addr()) } else { net.trunc().to_string() }
}

/// The text of an address, as RFC 5952 has it. Every action line has several.
pub fn text(ip: IpAddr) -> String {
    let IpAddr::V4(ip) = ip else { return ip.to_string() };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (n, octet) in ip.octets().into_iter().enumerate() {
        if n > 0 {
            text.push('.');
        }
        let digit = |unit: u8| char::from(b'0' + octet / unit % 10);
        if octet >= 100 {
            text.push(digit(100));
        }
        if octet >= 10 {
            text.push(digit(10));
        }
        text.push(digit(1));
    }
    text
}

/// The client that a chain of proxies reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's canonical address.
    pub ip: IpAddr,
    /// False if nobody said which proxies to trust and there were entries further left, so that it
    /// is a guess which of them is the client: good enough to count and alert, not to block.
    pub proven: bool,
}

/// Finds the client in a list of addresses to which every proxy added the peer it saw on the right.
///
/// It walks from the right past `trusted` proxies and `never`-block ranges and gives the first
/// address beyond them. Everything left of that is only a claim by the client. An entry that cannot
/// be read before that ends the walk with `None`, for what is left of it could have been written by
/// anybody. If all entries are passed over, the leftmost is given (and proven), so that the caller
/// sees which never-block range hides the client.
pub fn walk_forwarded<'a>(
    list: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &Nets,
    never: &NeverBlock,
) -> Option<Forwarded> {
    let mut list = list.rev();
    let mut passed = None;
    while let Some(entry) = list.next() {
        let ip = parse_ip(entry)?;
        if trusted.contains(ip) || never.covers(ip).is_some() {
            passed = Some(ip);
            continue;
        }
        let leftmost = list.next().is_none();
        return Some(Forwarded { ip, proven: leftmost || !trusted.is_empty() });
    }
    passed.map(|ip| Forwarded { ip, proven: true })
}

/// The entries of an `X-Forwarded-For` or `Forwarded` (RFC 7239) value, leftmost first, trimmed,
/// without empty ones.
///
/// Of `for=192.0.2.43;by=203.0.113.43` it is the value of `for`; an element that has parameters but
/// not that one stays whole, and is then an unreadable entry. Quotes do not protect a comma: no
/// address has one, and a client could otherwise open a quote that swallows what the proxies added
/// after it.
pub fn split_forwarded(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty()).map(for_value).collect()
}

/// The value of the parameter `for`, or the whole element.
fn for_value(element: &str) -> &str {
    element
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))
        .map_or(element, |(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Nets {
        texts.iter().map(|text| net(text)).collect()
    }

    #[test]
    fn an_address_is_written_as_the_standard_library_writes_it() {
        for octet in 0..=255u8 {
            let ip = IpAddr::from([octet, 255 - octet, octet / 10, octet % 10]);
            assert_eq!(text(ip), ip.to_string());
        }
        assert_eq!(text("2001:DB8:0::7".parse().unwrap()), "2001:db8::7");
    }

    #[test]
    fn addresses_are_read_out_of_what_is_around_them() {
        for (text, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7 ", "203.0.113.7"),
            ("\"203.0.113.7\"", "203.0.113.7"),
            ("'203.0.113.7',", "203.0.113.7"),
            ("203.0.113.7.", "203.0.113.7"),
            ("203.0.113.7;", "203.0.113.7"),
            ("203.0.113.7:443", "203.0.113.7"),
            ("203.0.113.7:0", "203.0.113.7"),
            ("[203.0.113.7]", "203.0.113.7"),
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"203.0.113.7:47011\"", "203.0.113.7"),
            ("ip/203.0.113.7", "203.0.113.7"),
            ("ip:203.0.113.7", "203.0.113.7"),
            ("IP: 203.0.113.7:80", "203.0.113.7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("::FFFF:cb00:7107", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:443", "203.0.113.7"),
            ("64:ff9b::203.0.113.7", "203.0.113.7"),
            ("64:ff9b::cb00:7107", "203.0.113.7"),
            ("2001:DB8:0:0::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("for=\"[2001:db8::7]:443\"", "2001:db8::7"),
            ("ip:2001:db8::7", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%eth0]:80", "fe80::1"),
            ("2001:db8::", "2001:db8::"),
            // A full address cannot take one more group, so the last part is a port.
            ("2001:db8:1:2:3:4:5:6:50312", "2001:db8:1:2:3:4:5:6"),
            // A port of five digits cannot be a group.
            ("2001:db8::5:50312", "2001:db8::5"),
            // But this one can; see the next test.
            ("2001:db8::5:0", "2001:db8::5:0"),
            ("::ffff:203.0.113.7:50312", "203.0.113.7"),
            ("::1", "::1"),
            ("::203.0.113.7", "::203.0.113.7"),
        ] {
            assert_eq!(parse_ip(text), Some(ip(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_not_surely_an_address_is_none() {
        for text in [
            "",
            " ",
            "-",
            "unknown",
            "localhost",
            "testclient",
            "unix:",
            "@",
            "_hidden",
            "for=_hidden",
            "example.org",
            "192.030.0.6",
            "1.2.3",
            "1.2.3.4.5",
            "16909060",
            "0x7f.0.0.1",
            "0x7f000001",
            "256.1.1.1",
            "1.2.3.4:",
            "1.2.3.4:65536",
            "1.2.3.4:+80",
            "1.2.3.4:000080",
            "1.2.3.4:80:80",
            "1.2.3.4%eth0",
            "1.2.3.4/32",
            "1.2.3.4, 5.6.7.8",
            "1.2.3.4 5.6.7.8",
            "fe80::1%",
            "fe80::1%a b",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]:",
            "[]:80",
            "[2001:db8::7]:99999",
            "2001:db8::g",
            "１.2.3.4",
            ":::::",
            ":80",
        ] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
    }

    #[test]
    fn a_port_that_is_always_there_is_always_taken_off() {
        for (text, expected) in [
            ("2001:db8::5:0", Some("2001:db8::5")),
            ("2001:db8::5:443", Some("2001:db8::5")),
            ("203.0.113.7:0", Some("203.0.113.7")),
            ("::ffff:203.0.113.7:80", Some("203.0.113.7")),
            ("[2001:db8::5]:443", Some("2001:db8::5")),
            ("fe80::1%eth0:80", Some("fe80::1")),
            ("203.0.113.7", None),
            ("[2001:db8::5]", None),
            ("testclient:50000", None),
            (":0", None),
        ] {
            assert_eq!(parse_ip_port_last(text), expected.map(ip), "{text}");
        }
    }

    #[test]
    fn non_values_are_recognised_in_any_case() {
        for text in [
            "",
            " ",
            "-",
            "--",
            "none",
            "None",
            "NULL",
            "nil",
            "undefined",
            "Unknown",
            "ANONYMOUS",
            "testclient",
            "localhost",
            "unix:",
            "UNIX:/run/x.sock",
            " null\t",
        ] {
            assert!(is_non_value(text), "{text}");
            assert_eq!(normalize_user(text), None, "{text}");
            assert_eq!(canonical_id(text, false), None, "{text}");
        }
        for text in ["---", "nobody", "none@example.org", "unix", "_hidden", "0", "ünix:"] {
            assert!(!is_non_value(text), "{text}");
        }
    }

    #[test]
    fn spellings_of_a_user_give_one_key() {
        for (text, expected) in [
            (" User@Example.ORG\n", "user@example.org"),
            ("ＵＳＥＲ@example.org", "user@example.org"),
            ("Jose\u{301}", "josé"),
            ("JOSÉ", "josé"),
            ("\u{3000}ada\u{3000}", "ada"),
            ("ﬁona", "fiona"),
            ("a\tb", "a\tb"),
        ] {
            assert_eq!(normalize_user(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(normalize_user("ｎｕｌｌ"), None);
        // NFKC turns this spacing mark into a blank and a combining mark.
        assert_eq!(normalize_user("\u{b4}x").as_deref(), Some("\u{301}x"));
    }

    #[test]
    fn long_users_are_capped_and_stay_different() {
        let long = "a".repeat(256);
        assert_eq!(normalize_user(&long), Some(long.as_str().into()));
        let (one, two) = (format!("{long}1"), format!("{long}2"));
        let key = normalize_user(&one).unwrap();
        assert_eq!(key, format!("{}...{}", "a".repeat(240), &key[243..]));
        assert_eq!(key.len(), 251);
        assert_ne!(normalize_user(&two).unwrap(), key);
        assert_eq!(normalize_user(&one.to_uppercase()).unwrap(), key);
        // Pinned: keys go into action ids and must be the same in every version.
        assert_eq!(&key[243..], "cee08593");
        // Far beyond what is normalised, names are still bounded and different.
        let far = "É".repeat(500_000);
        let far = ["1", "2"].map(|end| normalize_user(&format!("{far}{end}")).map(Cow::into_owned));
        assert!(far.iter().flatten().all(|key| key.starts_with("éé") && key.len() <= USER_MAX));
        assert_ne!(far[0], far[1]);
        let padded = normalize_user(&format!("none{}x", " ".repeat(5000))).unwrap().into_owned();
        assert_eq!(normalize_user(&padded).as_deref(), Some(padded.as_str()));
        // 239 bytes are a boundary, 240 are inside a character.
        let long = format!("x{}", "é".repeat(200));
        let key = normalize_user(&long).unwrap();
        assert!(key.starts_with(&format!("x{}...", "é".repeat(119))));
    }

    #[test]
    fn ids_as_numbers_and_as_text_agree() {
        for (text, expected) in [
            ("42", Some("42")),
            ("42.0", Some("42")),
            ("-42.00", Some("-42")),
            ("4.2e1", Some("42")),
            ("420E-1", Some("42")),
            ("0.00042e+5", Some("42")),
            ("1230000.0", Some("1230000")),
            ("1.23e6", Some("1230000")),
            ("999999999999999", Some("999999999999999")),
            ("999999999999999.0", Some("999999999999999")),
            ("1000000000000000", Some("1000000000000000")),
            ("1e15", Some("1e15")),
            ("12345678901234567890", Some("12345678901234567890")),
            ("4.25", Some("4.25")),
            ("1E-3", Some("1e-3")),
            ("1e99999", Some("1e99999")),
            ("0", None),
            ("0.0", None),
            ("-0", None),
            ("0e7", None),
            ("0e99999", None),
            ("NaN", Some("nan")),
            ("null", None),
        ] {
            assert_eq!(canonical_id(text, true).as_deref(), expected, "{text}");
        }
        assert_eq!(canonical_id("0", false), None);
        assert_eq!(canonical_id("42.0", false).as_deref(), Some("42.0"));
        assert_eq!(
            canonical_id(" 6BA7B810-9DAD-11D1-80B4-00C04FD430C8 ", false).as_deref(),
            Some("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
        );
        assert_eq!(canonical_id(&"9".repeat(1_000_000), true).unwrap().len(), 251);
        assert_eq!(canonical_id(&format!("0.{}", "0".repeat(1_000_000)), true), None);
    }

    #[test]
    fn ranges_are_kept_apart_and_found() {
        let set =
            nets(&["10.1.0.0/16", "10.0.0.0/8", "198.51.100.7/24", "2001:db8::/32", "10.2.0.0/16"]);
        let kept: Vec<_> = set.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.0.0.0/8", "198.51.100.0/24", "2001:db8::/32"]);
        for (text, inside) in [
            ("10.255.255.255", true),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::10.0.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("198.51.100.255", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::", false),
        ] {
            assert_eq!(set.contains(ip(text)), inside, "{text}");
        }
        for (text, meets) in [
            ("10.3.0.0/16", true),
            ("0.0.0.0/0", true),
            ("198.51.0.0/16", true),
            ("198.51.101.0/24", false),
            ("2001:db8:1:2::/64", true),
            ("2001::/16", true),
            ("2001:db9::/32", false),
            ("::ffff:10.0.0.0/104", true),
            ("::ffff:11.0.0.0/104", false),
            // All of IPv4 as NAT64 shows it is in this one.
            ("64:ff9b::/64", true),
            ("64:ff9c::/64", false),
        ] {
            assert_eq!(set.overlaps(&net(text)), meets, "{text}");
        }
        assert!(!Nets::default().overlaps(&net("::/0")));
        assert!(Nets::default().is_empty());
        assert_eq!(nets(&["::ffff:10.0.0.0/104"]), nets(&["10.0.0.0/8"]));
        assert_eq!(nets(&["0.0.0.0/0", "10.0.0.0/8"]), nets(&["0.0.0.0/0"]));
    }

    #[test]
    fn never_block_ranges_say_why() {
        let never = NeverBlock::new(
            true,
            true,
            &[net("192.0.2.0/24")],
            &[net("198.51.100.0/24"), net("10.0.0.0/8")],
            &[ip("203.0.113.1"), ip("2001:db8:9:9::1")],
        );
        for (text, reason) in [
            ("127.0.0.1", Some("loopback")),
            ("127.255.255.255", Some("loopback")),
            ("::1", Some("loopback")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("64:ff9b::7f00:1", Some("loopback")),
            ("0.0.0.0", Some("unspecified")),
            ("0.1.2.3", Some("unspecified")),
            ("::", Some("unspecified")),
            ("169.254.1.1", Some("link-local")),
            ("fe80::1", Some("link-local")),
            ("febf::1", Some("link-local")),
            ("224.0.0.1", Some("multicast")),
            ("239.255.255.255", Some("multicast")),
            ("ff02::1", Some("multicast")),
            ("255.255.255.255", Some("broadcast")),
            ("10.1.2.3", Some("private")),
            ("172.16.0.1", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.1", None),
            ("192.168.1.1", Some("private")),
            ("fc00::1", Some("private")),
            ("fdff::1", Some("private")),
            ("100.64.0.1", Some("cgnat")),
            ("100.127.255.255", Some("cgnat")),
            ("100.128.0.1", None),
            ("198.51.100.9", Some("trusted_proxies")),
            ("203.0.113.1", Some("own_address")),
            ("192.0.2.9", Some("extra")),
            ("203.0.113.2", None),
            ("2001:db8:9:9::2", None),
            ("240.0.0.1", None),
        ] {
            assert_eq!(never.covers(ip(text)), reason, "{text}");
        }
        for (text, reason) in [
            ("2001:db8:9:9::/64", Some("own_address")),
            ("2001:db8:9:8::/64", None),
            ("::/64", Some("loopback")),
            ("64:ff9b::/64", Some("loopback")),
            ("64:ff9b:1::/64", None),
            ("203.0.113.0/24", Some("own_address")),
            ("203.0.113.2/32", None),
            ("198.0.0.0/8", Some("trusted_proxies")),
            ("fe80::/64", Some("link-local")),
            ("::ffff:10.0.0.1/128", Some("private")),
        ] {
            assert_eq!(never.overlaps(&net(text)), reason, "{text}");
        }
        let open = NeverBlock::new(false, false, &[], &[], &[]);
        for text in ["10.1.2.3", "192.168.1.1", "fc00::1", "100.64.0.1"] {
            assert_eq!(open.covers(ip(text)), None, "{text}");
        }
        assert_eq!(open.covers(ip("127.0.0.1")), Some("loopback"));
        // Documentation ranges are ordinary.
        for text in ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"] {
            assert_eq!(NeverBlock::default().covers(ip(text)), None, "{text}");
        }
    }

    #[test]
    fn forgeable_addresses_only_alert() {
        for (text, only) in [
            ("2001::1", true),
            ("2001:0:ffff::1", true),
            ("2001:1::1", false),
            ("2001:db8::1", false),
            ("::203.0.113.7", true),
            ("::2", true),
            ("::1", false),
            ("::", false),
            ("::ffff:203.0.113.7", false),
            ("64:ff9b::203.0.113.7", false),
            ("203.0.113.7", false),
        ] {
            assert_eq!(alert_only(ip(text)), only, "{text}");
        }
    }

    #[test]
    fn targets_are_addresses_or_ranges() {
        for (text, prefix, kind, expected) in [
            ("203.0.113.7", 64, "ip", "203.0.113.7"),
            ("::ffff:203.0.113.7", 64, "ip", "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", 64, "range", "2001:db8:1:2::/64"),
            ("2001:db8:0:0:1:0:0:1", 64, "range", "2001:db8::/64"),
            ("2001:db8:1:2:3:4:5:6", 56, "range", "2001:db8:1::/56"),
            ("2001:db8:0:0:1:0:0:1", 128, "ip", "2001:db8::1:0:0:1"),
            ("2001:db8::1", 255, "ip", "2001:db8::1"),
            ("2001:db8::1", 0, "range", "::/0"),
        ] {
            let (found, range) = target(ip(text), prefix);
            assert_eq!((found, target_text(found, &range).as_str()), (kind, expected), "{text}");
        }
    }

    fn walk(text: &str, trusted: &[&str]) -> Option<(String, bool)> {
        let trusted = nets(trusted);
        let list = split_forwarded(text);
        let found = walk_forwarded(list.into_iter(), &trusted, &NeverBlock::default())?;
        Some((found.ip.to_string(), found.proven))
    }

    #[test]
    fn the_client_is_found_from_the_right() {
        let proxies = ["198.51.100.0/24"];
        for (text, trusted, expected) in [
            ("203.0.113.9", &[][..], Some(("203.0.113.9", true))),
            ("203.0.113.9, 10.0.0.1", &[], Some(("203.0.113.9", true))),
            ("203.0.113.9, 100.64.0.7", &[], Some(("203.0.113.9", true))),
            ("6.6.6.6, 203.0.113.9", &[], Some(("203.0.113.9", false))),
            ("unknown, 203.0.113.9", &[], Some(("203.0.113.9", false))),
            ("6.6.6.6, 203.0.113.9, 198.51.100.3", &proxies, Some(("203.0.113.9", true))),
            ("6.6.6.6, 203.0.113.9", &proxies, Some(("203.0.113.9", true))),
            ("203.0.113.9, garbage, 198.51.100.3", &proxies, None),
            ("203.0.113.9, unknown", &[], None),
            ("203.0.113.9, _hidden, 10.0.0.1", &[], None),
            // The first entry beyond the proxies counts; what is left of it is never read.
            ("garbage, 203.0.113.9, 198.51.100.3", &proxies, Some(("203.0.113.9", true))),
            ("10.0.0.7, 198.51.100.3", &proxies, Some(("10.0.0.7", true))),
            ("192.168.1.100,10.0.0.50", &[], Some(("192.168.1.100", true))),
            ("185.234.70.33, 192.168.32.12", &[], Some(("185.234.70.33", true))),
            ("[2001:db8::9]:443, 10.0.0.1", &[], Some(("2001:db8::9", true))),
            ("", &[], None),
            (" , ,", &[], None),
            ("for=203.0.113.9;proto=https;by=10.0.0.1", &[], Some(("203.0.113.9", true))),
            ("for=6.6.6.6, For=\"[2001:db8::9]:1\";by=x", &[], Some(("2001:db8::9", false))),
            ("proto=https; FOR = 203.0.113.9 , for=10.0.0.1", &[], Some(("203.0.113.9", true))),
            ("for=6.6.6.6, by=203.0.113.9", &[], None),
            // An open quote does not hide what a proxy adds.
            ("\"6.6.6.6, 203.0.113.9", &proxies, Some(("203.0.113.9", true))),
            ("for=\"x, for=203.0.113.9", &proxies, Some(("203.0.113.9", true))),
        ] {
            let expected = expected.map(|(ip, proven)| (ip.to_owned(), proven));
            assert_eq!(walk(text, trusted), expected, "{text}");
        }
        assert_eq!(split_forwarded(" a ,, b;c "), ["a", "b;c"]);
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<Ipv4Addr>().prop_map(IpAddr::V4),
            any::<Ipv6Addr>().prop_map(IpAddr::V6),
            any::<Ipv4Addr>().prop_map(|ip| IpAddr::V6(ip.to_ipv6_mapped())),
            any::<u32>().prop_map(|low| {
                IpAddr::V6(Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(low)))
            }),
            any::<u16>().prop_map(|low| IpAddr::V6(Ipv6Addr::from(u128::from(low)))),
        ]
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        (any_ip(), any::<u8>()).prop_map(|(ip, length)| {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            IpNet::new(ip, length % (most + 1)).unwrap()
        })
    }

    /// Texts that come close to addresses, which wholly random ones never do.
    fn near_addresses() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec![
                "1",
                ".",
                ":",
                "::",
                "ffff",
                "10.0.0.1",
                "2001:db8::1",
                "[",
                "]",
                "%",
                "eth0",
                "for=",
                "ip:",
                "\"",
                ",",
                ";",
                " ",
                "é",
                "unix:",
                "0",
                "65536",
                "ip/",
                "\0",
            ]),
            0..10,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn plain_addresses_are_those_of_the_standard_library(text in "[0-9]{1,4}(\\.[0-9]{1,3}){2,4}|[0-9.x ]{0,16}") {
            prop_assert_eq!(plain_v4(&text), text.parse().ok());
        }

        #[test]
        fn no_text_panics(text in prop_oneof![any::<String>(), near_addresses()]) {
            if let Some(ip) = parse_ip(&text) {
                prop_assert_eq!(canonical(ip), ip);
                prop_assert_eq!(parse_ip(&ip.to_string()), Some(ip));
            }
            let _ = parse_ip_port_last(&text);
            let _ = walk(&text, &["10.0.0.0/8"]);
            let _ = canonical_id(&text, true);
            let _ = canonical_id(&text, false);
        }

        #[test]
        fn every_spelling_of_an_address_is_the_same(ip in any_ip(), port in any::<u16>()) {
            let expected = Some(canonical(ip));
            prop_assert_eq!(parse_ip(&ip.to_string()), expected);
            prop_assert_eq!(parse_ip(&format!(" \"[{ip}]:{port}\", ")), expected);
            prop_assert_eq!(parse_ip(&format!("for=\"[{ip}]\";")), expected);
            prop_assert_eq!(parse_ip_port_last(&format!("{ip}:{port}")), expected);
            let (kind, range) = target(ip, 64);
            prop_assert!(range.contains(&canonical(ip)));
            prop_assert_eq!(target(range.addr(), 64), (kind, range));
            let text = target_text(kind, &range);
            prop_assert_eq!(text.contains('/'), kind == "range");
        }

        #[test]
        fn a_user_key_is_its_own_key(text in prop_oneof![any::<String>(), "\\PC{0,300}"]) {
            if let Some(key) = normalize_user(&text) {
                prop_assert!(key.len() <= USER_MAX);
                prop_assert_eq!(normalize_user(&key), Some(key.clone()));
                // As an id, 0 is nobody.
                let id = Some(key).filter(|_| text.trim() != "0");
                prop_assert_eq!(canonical_id(&text, false), id);
            }
        }

        #[test]
        fn a_number_agrees_with_its_text(id in 1..1_000_000_000_000_000_i64, zeros in 0..5_usize) {
            let text = id.to_string();
            prop_assert_eq!(canonical_id(&text, true), Some(text.as_str().into()));
            let point = format!("{id}.{}", "0".repeat(zeros));
            prop_assert_eq!(canonical_id(&point, true), Some(text.as_str().into()));
            let shifted = format!("{}.{}e{}", &text[..1], &text[1..], text.len() - 1);
            prop_assert_eq!(canonical_id(&shifted, true), Some(text.into()));
        }

        #[test]
        fn a_set_answers_like_a_list(
            list in prop::collection::vec(any_net(), 0..12),
            ip in any_ip(),
            other in any_net(),
        ) {
            let set: Nets = list.iter().copied().collect();
            let canonical_list: Vec<_> = list.iter().map(|net| canonical_net(*net)).collect();
            let inside = canonical_list.iter().any(|n| n.contains(&canonical(ip)));
            prop_assert_eq!(set.contains(ip), inside);
            let meets = shapes(&other)
                .any(|o| canonical_list.iter().any(|n| n.contains(&o) || o.contains(n)));
            prop_assert_eq!(set.overlaps(&other), meets);
            let never = NeverBlock::new(true, true, &list, &[], &[]);
            prop_assert!(list.is_empty() || never.overlaps(&list[0]).is_some());
            // A range is withheld whenever any address in it would be.
            if never.covers(ip).is_some() {
                prop_assert!(never.overlaps(&target(ip, 64).1).is_some());
            }
        }
    }
}
