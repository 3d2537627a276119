//! Numbers, texts and what an event shows, as few bytes.

use crate::pattern::Standing;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Reasons that are kept once and named by their number; further ones are kept where they occur.
const REASONS_MAX: usize = 255;
/// So many domains of accounts: an attacker may bring thousands, and the first are those of the users.
const DOMAINS_MAX: usize = 1023;
/// Longest text that is kept once.
const TERM_LEN_MAX: usize = 64;

/// Writes a number, seven bits a byte.
pub fn put_number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(low_byte(n) | 0x80);
        n >>= 7;
    }
    out.push(low_byte(n));
}

/// Reads a number; at the end of the bytes it is 0.
#[inline]
pub fn take_number(bytes: &mut &[u8]) -> u64 {
    match bytes.split_first() {
        // Most are small.
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            u64::from(*byte)
        }
        _ => take_long_number(bytes),
    }
}

fn take_long_number(bytes: &mut &[u8]) -> u64 {
    if let Some((first, _)) = bytes.split_first_chunk()
        && let Some((n, len)) = number_in(u64::from_le_bytes(*first))
    {
        take(bytes, len);
        return n;
    }
    let mut n = 0;
    let mut shift = 0;
    while let Some((byte, rest)) = bytes.split_first() {
        *bytes = rest;
        n |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    n
}

/// The number that eight bytes begin with, and how many it takes, if it ends among them.
#[inline]
pub fn number_in(bytes: u64) -> Option<(u64, usize)> {
    // The lowest of the bits that say that a byte is the last.
    let ends = !bytes & u64::from_ne_bytes([0x80; 8]);
    let end = ends & ends.wrapping_neg();
    if end == 0 {
        return None;
    }
    // Seven bits of each byte move together: by two, by four, by eight bytes.
    let n = bytes & (end - 1) & u64::from_ne_bytes([0x7f; 8]);
    let n = n & 0x007f_007f_007f_007f | (n & 0x7f00_7f00_7f00_7f00) >> 1;
    let n = n & 0x0000_3fff_0000_3fff | (n & 0x3fff_0000_3fff_0000) >> 2;
    let n = n & 0x0000_0000_0fff_ffff | (n & 0x0fff_ffff_0000_0000) >> 4;
    Some((n, (ends.trailing_zeros() / 8 + 1) as usize))
}

fn low_byte(n: u64) -> u8 {
    n.to_le_bytes()[0]
}

/// Takes `n` bytes, or as many as there are.
pub fn take<'b>(bytes: &mut &'b [u8], n: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(n.min(bytes.len()));
    *bytes = rest;
    taken
}

/// A number as a length.
pub fn length(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A length as a number.
pub fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Writes bytes, their number before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, number(bytes.len()));
    out.extend_from_slice(bytes);
}

/// Writes a time, or any other signed number, in eight bytes.
pub fn put_time(out: &mut Vec<u8>, time: i64) {
    out.extend_from_slice(&time.to_le_bytes());
}

/// Writes what may be there.
pub fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Reads what was written, from front to back. Unlike [`take`], whatever is missing is told: what is
/// read here comes from a disk.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// A reader at the beginning.
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// So many bytes.
    pub fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A number.
    pub fn number(&mut self) -> Option<u64> {
        let end = self.0.iter().position(|byte| byte & 0x80 == 0)?;
        Some(take_number(&mut self.take(end + 1)?))
    }

    /// A number of any smaller type.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    /// Bytes with their number before them.
    pub fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.narrow()?;
        self.take(len)
    }

    /// A text.
    pub fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A time.
    pub fn time(&mut self) -> Option<i64> {
        self.take(size_of::<i64>())?.try_into().ok().map(i64::from_le_bytes)
    }

    /// What may be there; `None` if it cannot be read.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(read(self)?)),
            _ => None,
        }
    }
}

// The lowest two bits of a text's header say in which form it follows.
const RAW: u64 = 0;
const HEX: u64 = 1;
const UUID: u64 = 2;
/// What stands before the last `@`, and the number of what stands behind it.
const MAIL: u64 = 3;
/// Digits of the parts of a UUID, between which dashes stand.
const PARTS: [usize; 5] = [8, 4, 4, 4, 12];

/// What a byte is as a lower-case hex digit; [`NO_DIGIT`] if it is none.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut n = 0;
    while n < 16 {
        digits[b"0123456789abcdef"[n] as usize] = n as u8;
        n += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xff;

fn digit(byte: u8) -> u8 {
    DIGITS.get(usize::from(byte)).copied().unwrap_or(NO_DIGIT)
}

/// Packs an even number of lower-case hex digits behind what `out` holds; `false`, with something behind it,
/// if there is anything else.
fn put_hex(out: &mut Vec<u8>, digits: &[u8]) -> bool {
    let (eights, rest) = digits.as_chunks();
    for eight in eights {
        let Some(packed) = packed(*eight) else { return false };
        out.extend_from_slice(&packed);
    }
    let (pairs, _) = rest.as_chunks();
    for [high, low] in pairs {
        let (high, low) = (digit(*high), digit(*low));
        if (high | low) > 15 {
            return false;
        }
        out.push(high << 4 | low);
    }
    true
}

/// Eight lower-case hex digits as four bytes, all at once.
fn packed(digits: [u8; 8]) -> Option<[u8; 4]> {
    const ALL: u64 = u64::from_ne_bytes([1; 8]);
    let text = u64::from_le_bytes(digits);
    // Letters, and what else has this bit, are nine more than their lowest four bits say.
    let letters = text >> 6 & ALL;
    let values = (text & (ALL * 15)) + letters * 9;
    let beyond_nine = (values + ALL * 6) >> 4 & ALL;
    // What was no digit is another text when it is written again, or more than fifteen.
    let written = values + ALL * u64::from(b'0') + beyond_nine * u64::from(b'a' - b'9' - 1);
    if written != text || values & (ALL * 0xf0) != 0 {
        return None;
    }
    // The first of a pair is the higher half of a byte.
    let pairs = (values << 4 | values >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
    let [a, b, _, _, c, d, _, _] = fours.to_le_bytes();
    Some([a, b, c, d])
}

/// Writes a text. Equal texts give equal bytes, and only they do.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_text_of(out, text.as_bytes());
}

/// Writes a text that is at hand as its bytes.
pub fn put_text_of(out: &mut Vec<u8>, bytes: &[u8]) {
    let before = out.len();
    let may_be_hex = bytes.first().is_some_and(|first| digit(*first) != NO_DIGIT);
    if may_be_hex
        && let Ok(id) = <&[u8; 36]>::try_from(bytes)
        && let Some(digits) = undashed(id)
    {
        put_number(out, UUID);
        if put_hex(out, &digits) {
            return;
        }
        out.truncate(before);
    }
    if may_be_hex && bytes.len() >= 4 && bytes.len().is_multiple_of(2) {
        put_number(out, number(bytes.len() / 2) << 2 | HEX);
        if put_hex(out, bytes) {
            return;
        }
        out.truncate(before);
    }
    put_number(out, number(bytes.len()) << 2 | RAW);
    out.extend_from_slice(bytes);
}

/// Writes bytes as lower-case hex digits, two for each.
pub fn push_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(digit + if digit < 10 { b'0' } else { b'a' - 10 }));
        }
    }
}

/// The digits of a UUID, if its dashes stand where they must.
fn undashed(id: &[u8; 36]) -> Option<[u8; 32]> {
    let mut digits = [0; 32];
    let mut to = digits.as_mut_slice();
    let mut from = id.as_slice();
    for len in PARTS {
        let (part, rest) = from.split_at_checked(len)?;
        let (place, behind) = to.split_at_mut_checked(len)?;
        place.copy_from_slice(part);
        to = behind;
        from = match rest {
            [] => rest,
            [b'-', rest @ ..] => rest,
            _ => return None,
        };
    }
    Some(digits)
}

/// Writes the name of an account; as for texts, equal ones give equal bytes. Nearly all are addresses of
/// a few domains, each of which is kept once.
fn put_account(out: &mut Vec<u8>, account: &str, kept: &mut Kept) {
    let domain = memchr::memrchr(b'@', account.as_bytes()).and_then(|at| {
        let number = kept.domain(account.get(at + 1..)?)?;
        Some((account.get(..at)?, number))
    });
    match domain {
        Some((name, domain)) => {
            put_number(out, number(name.len()) << 2 | MAIL);
            put_number(out, number(domain));
            out.extend_from_slice(name.as_bytes());
        }
        None => put_text(out, account),
    }
}

/// Takes a text, or the name of an account, as it was written.
pub fn take_text<'b>(bytes: &mut &'b [u8]) -> &'b [u8] {
    let start = *bytes;
    let header = take_number(bytes);
    if header & 3 == MAIL {
        take_number(bytes);
    }
    let len = if header & 3 == UUID { 16 } else { length(header >> 2) };
    take(bytes, len);
    let end = start.len() - bytes.len();
    start.get(..end).unwrap_or_default()
}

/// A text as it was.
pub fn text(mut written: &[u8]) -> Cow<'_, str> {
    let header = take_number(&mut written);
    let digits = |bytes: &[u8]| {
        let mut digits = String::with_capacity(bytes.len() * 2);
        push_hex(&mut digits, bytes);
        digits
    };
    match header & 3 {
        HEX => digits(written).into(),
        UUID => {
            let digits = digits(written);
            let mut rest = digits.as_str();
            let parts = PARTS.map(|len| {
                let (part, behind) = rest.split_at(len.min(rest.len()));
                rest = behind;
                part
            });
            parts.join("-").into()
        }
        _ => String::from_utf8_lossy(written),
    }
}

/// What the numbers in written evidence mean.
#[derive(Debug, Clone, Default)]
pub struct KeptLists(Arc<Lists>);

/// Terms by their numbers.
#[derive(Debug, Clone, Default)]
struct Lists {
    reasons: Vec<Arc<str>>,
    domains: Vec<Arc<str>>,
}

impl KeptLists {
    /// A reason by its number.
    pub fn reason(&self, number: usize) -> &str {
        self.0.reasons.get(number).map(|reason| &**reason).unwrap_or_default()
    }

    /// The name of an account as it was.
    pub fn account<'b>(&self, written: &'b [u8]) -> Cow<'b, str> {
        let mut rest = written;
        if take_number(&mut rest) & 3 != MAIL {
            return text(written);
        }
        let domain = self.0.domains.get(length(take_number(&mut rest)));
        let domain = domain.map(|domain| &**domain).unwrap_or_default();
        let name = String::from_utf8_lossy(rest);
        let mut account = String::with_capacity(name.len() + 1 + domain.len());
        account.push_str(&name);
        account.push('@');
        account.push_str(domain);
        account.into()
    }
}

/// The numbers of texts that occur again and again, in the order in which they came.
#[derive(Debug)]
struct Terms {
    numbers: HashMap<Arc<str>, usize>,
    /// The one that came last: most are the same as the one before.
    last: Option<(Arc<str>, usize)>,
    /// How many there may be. None is ever forgotten: what is written holds their numbers, and equal texts
    /// must stay equal bytes.
    most: usize,
}

impl Terms {
    fn new(most: usize) -> Self {
        Self { numbers: HashMap::new(), last: None, most }
    }

    /// The number of a term, if it is one that is kept once; a new one is put into `list`.
    fn number<'l>(
        &mut self,
        term: &str,
        list: impl FnOnce() -> &'l mut Vec<Arc<str>>,
    ) -> Option<usize> {
        if let Some((_, number)) = self.last.as_ref().filter(|(last, _)| **last == *term) {
            return Some(*number);
        }
        let (term, number) = match self.numbers.get_key_value(term) {
            Some((term, number)) => (Arc::clone(term), *number),
            None if self.numbers.len() < self.most && term.len() <= TERM_LEN_MAX => {
                let (term, number) = (Arc::<str>::from(term), self.numbers.len());
                list().push(Arc::clone(&term));
                self.numbers.insert(Arc::clone(&term), number);
                (term, number)
            }
            None => return None,
        };
        self.last = Some((term, number));
        Some(number)
    }

    /// Reads what [`put_terms`] wrote.
    fn restore(from: &mut Reader<'_>, most: usize, list: &mut Vec<Arc<str>>) -> Option<Self> {
        let mut terms = Self::new(most);
        for number in 0..from.narrow()? {
            let term = Arc::<str>::from(from.text()?);
            terms.numbers.insert(Arc::clone(&term), number);
            list.push(term);
        }
        Some(terms)
    }
}

fn put_terms(out: &mut Vec<u8>, list: &[Arc<str>]) {
    put_number(out, number(list.len()));
    list.iter().for_each(|term| put_bytes(out, term.as_bytes()));
}

/// What is kept once for all events.
#[derive(Debug)]
pub struct Kept {
    reasons: Terms,
    domains: Terms,
    lists: KeptLists,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            reasons: Terms::new(REASONS_MAX),
            domains: Terms::new(DOMAINS_MAX),
            lists: KeptLists::default(),
        }
    }
}

impl Kept {
    /// All of it as it is now.
    pub fn lists(&self) -> &KeptLists {
        &self.lists
    }

    fn reason(&mut self, reason: &str) -> Option<usize> {
        self.reasons.number(reason, || &mut Arc::make_mut(&mut self.lists.0).reasons)
    }

    fn domain(&mut self, domain: &str) -> Option<usize> {
        self.domains.number(domain, || &mut Arc::make_mut(&mut self.lists.0).domains)
    }

    /// Writes the reasons.
    pub fn capture(&self, out: &mut Vec<u8>) {
        put_terms(out, &self.lists.0.reasons);
    }

    /// Reads what [`Kept::capture`] wrote. Where that was done by a version without domains, there are
    /// accounts that are written out, and so all stay.
    pub fn restore(from: &mut Reader<'_>) -> Option<Self> {
        let mut lists = Lists::default();
        let reasons = Terms::restore(from, REASONS_MAX, &mut lists.reasons)?;
        Some(Self { reasons, domains: Terms::new(0), lists: KeptLists(Arc::new(lists)) })
    }

    /// Writes the domains.
    pub fn capture_domains(&self, out: &mut Vec<u8>) {
        put_number(out, number(self.domains.most));
        put_terms(out, &self.lists.0.domains);
    }

    /// Reads them.
    pub fn restore_domains(&mut self, from: &mut Reader<'_>) -> Option<()> {
        let most = from.narrow()?;
        let lists = Arc::make_mut(&mut self.lists.0);
        self.domains = Terms::restore(from, most, &mut lists.domains)?;
        Some(())
    }
}

/// What an action shows of an event, and what distinct values are compared of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'e> {
    /// The exact address.
    pub ip: Option<IpAddr>,
    /// The account.
    pub user: Option<&'e str>,
    /// The account is an id, not a name.
    pub user_is_id: bool,
    /// A capture or field named reason.
    pub reason: Option<&'e str>,
    /// The request.
    pub request_id: Option<&'e str>,
    /// What may be done to the address.
    pub standing: Standing,
    /// Values of fields that are compared and not among the above, by their place in the group.
    pub extras: &'e [Option<&'e str>],
}

const HAS_USER: u8 = 1;
const USER_IS_ID: u8 = 2;
const HAS_V4: u8 = 4;
const HAS_V6: u8 = 8;
const HAS_REASON: u8 = 16;
const HAS_REQUEST: u8 = 32;
/// Where the two bits of the standing lie.
const STANDING: u32 = 6;

/// What is the same wherever an event is written, each part once it was asked for; empty before.
#[derive(Debug, Default)]
pub struct Parts {
    account: Vec<u8>,
    reason: Vec<u8>,
    request: Vec<u8>,
}

impl Parts {
    /// Makes them those of another event.
    pub fn clear(&mut self) {
        self.account.clear();
        self.reason.clear();
        self.request.clear();
    }
}

/// Writes a part, which is worked out by `put` if it was not before.
fn put_once(out: &mut Vec<u8>, part: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    if part.is_empty() {
        put(part);
    }
    out.extend_from_slice(part);
}

impl Evidence<'_> {
    /// Writes it; `parts` are those of its event.
    pub fn put(&self, out: &mut Vec<u8>, kept: &mut Kept, parts: &mut Parts) {
        let mut flags = match self.standing {
            Standing::Good => 0,
            Standing::Unproven => 1,
            Standing::NoHost => 2,
        } << STANDING;
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        flags |= flag(self.user.is_some(), HAS_USER)
            | flag(self.user.is_some() && self.user_is_id, USER_IS_ID)
            | flag(self.reason.is_some(), HAS_REASON)
            | flag(self.request_id.is_some(), HAS_REQUEST);
        flags |= match self.ip {
            Some(IpAddr::V4(_)) => HAS_V4,
            Some(IpAddr::V6(_)) => HAS_V6,
            None => 0,
        };
        out.push(flags);
        if let Some(user) = self.user {
            put_once(out, &mut parts.account, |part| put_account(part, user, kept));
        }
        match self.ip {
            Some(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
            Some(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
            None => {}
        }
        if let Some(reason) = self.reason {
            put_once(out, &mut parts.reason, |part| match kept.reason(reason) {
                Some(n) => put_number(part, number(n) + 1),
                None => {
                    put_number(part, 0);
                    put_text(part, reason);
                }
            });
        }
        if let Some(id) = self.request_id {
            put_once(out, &mut parts.request, |part| put_text(part, id));
        }
        for extra in self.extras {
            out.push(u8::from(extra.is_some()));
            if let Some(extra) = extra {
                put_text(out, extra);
            }
        }
    }
}

/// What was written of an event; texts and accounts are as written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'b> {
    /// The exact address.
    pub ip: Option<IpAddr>,
    /// The account.
    pub user: Option<&'b [u8]>,
    /// The account is an id, not a name.
    pub user_is_id: bool,
    /// A capture or field named reason.
    pub reason: Option<Reason<'b>>,
    /// The request.
    pub request_id: Option<&'b [u8]>,
    /// What may be done to the address.
    pub standing: Standing,
    /// What is left: the extra values.
    extras: &'b [u8],
}

/// A reason as it was written.
#[derive(Debug, Clone, Copy)]
pub enum Reason<'b> {
    /// One that is kept once, by its number.
    Number(usize),
    /// Any other.
    Text(&'b [u8]),
}

impl<'b> Shown<'b> {
    /// Reads it.
    #[inline(always)]
    pub fn read(mut bytes: &'b [u8]) -> Self {
        let Some((flags, rest)) = bytes.split_first() else { return Self::default() };
        bytes = rest;
        let has = |flag: u8| flags & flag != 0;
        let user = has(HAS_USER).then(|| take_text(&mut bytes));
        let ip = if has(HAS_V4) {
            <[u8; 4]>::try_from(take(&mut bytes, 4)).ok().map(IpAddr::from)
        } else if has(HAS_V6) {
            <[u8; 16]>::try_from(take(&mut bytes, 16)).ok().map(IpAddr::from)
        } else {
            None
        };
        let reason = has(HAS_REASON).then(|| match take_number(&mut bytes) {
            0 => Reason::Text(take_text(&mut bytes)),
            n => Reason::Number(length(n - 1)),
        });
        let request_id = has(HAS_REQUEST).then(|| take_text(&mut bytes));
        let standing = match flags >> STANDING {
            0 => Standing::Good,
            1 => Standing::Unproven,
            _ => Standing::NoHost,
        };
        Self { ip, user, user_is_id: has(USER_IS_ID), reason, request_id, standing, extras: bytes }
    }

    /// An extra value, as written.
    pub fn extra(&self, place: usize) -> Option<&'b [u8]> {
        let mut bytes = self.extras;
        for n in 0..=place {
            let present = take(&mut bytes, 1) == [1];
            let value = present.then(|| take_text(&mut bytes));
            if n == place {
                return value;
            }
        }
        None
    }
}

/// What was written of an event, with its extra values in other places: of each, where it was.
pub fn move_extras(shown: &[u8], from: &[Option<usize>], out: &mut Vec<u8>) {
    let read = Shown::read(shown);
    let before = shown.len() - read.extras.len();
    out.extend_from_slice(shown.get(..before).unwrap_or_default());
    for place in from {
        let extra = place.and_then(|place| read.extra(place));
        out.push(u8::from(extra.is_some()));
        out.extend_from_slice(extra.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_and_numbers_come_back(
            texts in prop::collection::vec(
                prop_oneof!["[0-9a-f]{0,40}", "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", ".{0,60}", "[-0-9A-Fa-f]{36}"],
                0..6,
            ),
            n in any::<u64>(),
        ) {
            let mut out = Vec::new();
            put_number(&mut out, n);
            for text in &texts {
                put_text(&mut out, text);
            }
            let mut bytes = out.as_slice();
            prop_assert_eq!(take_number(&mut bytes), n);
            for written in &texts {
                prop_assert_eq!(&text(take_text(&mut bytes)), written);
            }
            prop_assert!(bytes.is_empty());
        }
    }

    proptest! {
        #[test]
        fn accounts_come_back_and_only_equal_ones_are_equal_bytes(
            accounts in prop::collection::vec(
                prop_oneof!["[a@]{0,4}", "[0-9a-f]{4}@[abc]", "[ab]é{0,2}@[ab]{0,70}", "[0-9a-f]{8}"],
                0..40,
            ),
            most in 0usize..6,
        ) {
            let mut kept = Kept { domains: Terms::new(most), ..Kept::default() };
            let mut written: Vec<Vec<u8>> = Vec::new();
            for (n, name) in accounts.iter().enumerate() {
                let mut out = Vec::new();
                put_account(&mut out, name, &mut kept);
                out.push(7);
                let mut bytes = out.as_slice();
                let taken = take_text(&mut bytes);
                prop_assert_eq!(bytes, &[7]);
                prop_assert_eq!(&kept.lists().account(taken), name);
                written.push(taken.to_vec());
                if n % 7 == 6 {
                    let (mut state, mut more) = (Vec::new(), Vec::new());
                    kept.capture(&mut state);
                    kept.capture_domains(&mut more);
                    kept = Kept::restore(&mut Reader::new(&state)).unwrap();
                    kept.restore_domains(&mut Reader::new(&more)).unwrap();
                }
            }
            prop_assert!(kept.lists.0.domains.len() <= most);
            for (a, one) in accounts.iter().zip(&written) {
                for (b, other) in accounts.iter().zip(&written) {
                    prop_assert_eq!(a == b, one == other);
                }
            }
        }
    }

    #[test]
    fn accounts_stay_written_out_where_an_older_version_wrote_them_out() {
        let mut old = Vec::new();
        Kept::default().capture(&mut old);
        let mut kept = Kept::restore(&mut Reader::new(&old)).unwrap();
        let (mut one, mut other) = (Vec::new(), Vec::new());
        put_text(&mut one, "a@example.org");
        put_account(&mut other, "a@example.org", &mut kept);
        assert_eq!(one, other);
        let mut new = Vec::new();
        put_account(&mut new, "a@example.org", &mut Kept::default());
        assert_eq!(new.len(), 3);
    }

    #[test]
    fn evidence_comes_back() {
        let mut kept = Kept::default();
        let long = "x".repeat(100);
        for (ip, reason) in [("203.0.113.7", "bad"), ("2001:db8::1", &long)] {
            let evidence = Evidence {
                ip: ip.parse().ok(),
                user: Some("a@example.org"),
                user_is_id: true,
                reason: Some(reason),
                request_id: Some("00ff00ff"),
                standing: Standing::NoHost,
                extras: &[None, Some("DE")],
            };
            let mut out = Vec::new();
            evidence.put(&mut out, &mut kept, &mut Parts::default());
            let lists = kept.lists();
            let shown = Shown::read(&out);
            assert_eq!((shown.ip, shown.user_is_id), (evidence.ip, true));
            let user = shown.user.map(|user| lists.account(user));
            assert_eq!(user.as_deref(), evidence.user);
            let shown_reason = match shown.reason {
                Some(Reason::Number(n)) => lists.reason(n).to_owned(),
                Some(Reason::Text(written)) => text(written).into_owned(),
                None => String::new(),
            };
            assert_eq!(shown_reason, reason);
            assert_eq!(shown.request_id.map(text).as_deref(), evidence.request_id);
            assert_eq!((shown.extra(0), shown.extra(1).map(text).as_deref()), (None, Some("DE")));
            assert_eq!(shown.standing, Standing::NoHost);
        }
        assert_eq!(kept.lists.0.reasons.len(), 1);
    }

    #[test]
    fn a_request_of_sixteen_hex_digits_takes_nine_bytes() {
        let mut out = Vec::new();
        put_text(&mut out, "0123456789abcdef");
        assert_eq!(out.len(), 9);
    }
}
