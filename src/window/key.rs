//! What events are counted per, as few bytes.

use super::codec::{length, number, put_number, take, take_number};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What a key names; equal values of different kinds never share a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum KeyKind {
    /// All of them.
    Global,
    /// One address.
    Host,
    /// A prefix: of IPv6, or named by hand.
    Range,
    /// An account by name.
    User,
    /// An account by id.
    UserId,
    /// Several at once.
    Several,
    /// A field, by its number in the detector's list of names.
    Field(u16),
}

/// The number of the first field's kind.
const FIELDS: u16 = 7;

impl KeyKind {
    /// A number above 0 for each kind.
    pub fn code(self) -> u16 {
        match self {
            KeyKind::Global => 1,
            KeyKind::Host => 2,
            KeyKind::Range => 3,
            KeyKind::User => 4,
            KeyKind::UserId => 5,
            KeyKind::Several => 6,
            KeyKind::Field(n) => n.saturating_add(FIELDS),
        }
    }

    /// The kind with a number.
    pub fn of_code(code: u16) -> Self {
        match code {
            2 => KeyKind::Host,
            3 => KeyKind::Range,
            4 => KeyKind::User,
            5 => KeyKind::UserId,
            6 => KeyKind::Several,
            FIELDS.. => KeyKind::Field(code - FIELDS),
            _ => KeyKind::Global,
        }
    }
}

/// A key that is borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'k> {
    /// What it names.
    pub kind: KeyKind,
    /// Its value: octets of an address, those and the length of a prefix, or a text.
    pub value: &'k [u8],
}

/// A key that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OwnKey {
    kind: KeyKind,
    value: Arc<[u8]>,
}

impl OwnKey {
    /// To be looked at.
    pub fn view(&self) -> Key<'_> {
        Key { kind: self.kind, value: &self.value }
    }
}

impl<'k> Key<'k> {
    /// To be kept.
    pub fn own(self) -> OwnKey {
        OwnKey { kind: self.kind, value: self.value.into() }
    }

    /// The address or prefix that it names.
    pub fn net(self) -> Option<IpNet> {
        match self.kind {
            KeyKind::Host => match self.value.len() {
                4 => <[u8; 4]>::try_from(self.value).ok().map(|ip| IpAddr::from(ip).into()),
                _ => <[u8; 16]>::try_from(self.value).ok().map(|ip| IpAddr::from(ip).into()),
            },
            KeyKind::Range => {
                let (bits, octets) = self.value.split_last()?;
                let v4 = <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
                let ip = v4.or_else(|| <[u8; 16]>::try_from(octets).ok().map(IpAddr::from))?;
                IpNet::new(ip, *bits).ok()
            }
            _ => None,
        }
    }

    /// The text that it is.
    pub fn text(self) -> Option<&'k str> {
        match self.kind {
            KeyKind::User | KeyKind::UserId | KeyKind::Field(_) => {
                std::str::from_utf8(self.value).ok()
            }
            _ => None,
        }
    }

    /// The key with the numbers that its fields have elsewhere, by their numbers here; none if one of
    /// them has none.
    pub fn renumbered(self, fields: &[Option<usize>]) -> Option<(KeyKind, Vec<u8>)> {
        let one = |kind: KeyKind| match kind {
            KeyKind::Field(old) => {
                let new = fields.get(usize::from(old)).copied().flatten()?;
                u16::try_from(new).ok().map(KeyKind::Field)
            }
            kind => Some(kind),
        };
        if self.kind != KeyKind::Several {
            return Some((one(self.kind)?, self.value.to_vec()));
        }
        let mut value = Vec::with_capacity(self.value.len());
        for part in self.parts() {
            put_part(&mut value, Key { kind: one(part.kind)?, value: part.value });
        }
        Some((KeyKind::Several, value))
    }

    /// The parts of several at once.
    pub fn parts(self) -> Vec<Key<'k>> {
        let mut bytes = self.value;
        let mut parts = Vec::new();
        while self.kind == KeyKind::Several && !bytes.is_empty() {
            let code = u16::try_from(take_number(&mut bytes)).unwrap_or(0);
            let len = length(take_number(&mut bytes));
            parts.push(Key { kind: KeyKind::of_code(code), value: take(&mut bytes, len) });
        }
        parts
    }

    /// A hash that is the same in every process: what is given up, and so what is said, depends on
    /// it. Whoever aims keys at it can fill one shard of the table, which is counted like any
    /// other, or one counter of a sketch, which raises an approximate alert; a place in the table
    /// is chosen by another hash, whose seed nobody knows.
    pub fn fixed_hash(self) -> u64 {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let fold = |hash: u64, word: u64| {
            let product = u128::from(hash ^ word) * u128::from(MIX);
            (product >> 64) as u64 ^ product as u64
        };
        let mut hash = fold(0x243f_6a88_85a3_08d3, u64::from(self.kind.code()));
        let (eights, rest) = self.value.as_chunks();
        for eight in eights {
            hash = fold(hash.rotate_left(23), u64::from_le_bytes(*eight));
        }
        if !rest.is_empty() {
            hash = fold(hash.rotate_left(23), few(rest));
        }
        fold(hash, number(self.value.len()) ^ 0x1319_8a2e_0370_7344)
    }
}

/// Up to eight bytes as a number, the first one lowest.
fn few(bytes: &[u8]) -> u64 {
    let at = |at: usize| u64::from(bytes.get(at).copied().unwrap_or(0)) << (8 * at);
    match (bytes.first_chunk(), bytes.last_chunk()) {
        // Two halves that may overlap, where they say the same.
        (Some(first), Some(last)) => {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            u64::from(first) | u64::from(last) << (8 * (bytes.len() - size_of::<u32>()))
        }
        _ => at(0) | at(1) | at(2),
    }
}

/// Writes the value of an IPv4 address's key; its kind.
pub fn put_v4(out: &mut Vec<u8>, ip: Ipv4Addr) -> KeyKind {
    out.extend_from_slice(&ip.octets());
    KeyKind::Host
}

/// Writes the value of an address's key, given as the target it is; its kind.
pub fn put_net(out: &mut Vec<u8>, net: &IpNet) -> KeyKind {
    match net.addr() {
        IpAddr::V4(ip) if net.prefix_len() == net.max_prefix_len() => return put_v4(out, ip),
        IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
    }
    if net.prefix_len() == net.max_prefix_len() {
        return KeyKind::Host;
    }
    out.push(net.prefix_len());
    KeyKind::Range
}

/// Writes one part of several.
pub fn put_part(out: &mut Vec<u8>, part: Key<'_>) {
    put_number(out, u64::from(part.kind.code()));
    put_number(out, number(part.value.len()));
    out.extend_from_slice(part.value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_few_bytes_are_one_number(bytes in prop::collection::vec(any::<u8>(), 0..9)) {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(&bytes);
            prop_assert_eq!(few(&bytes), u64::from_le_bytes(eight));
        }
    }

    #[test]
    fn keys_say_what_they_are() {
        for net in ["203.0.113.7/32", "203.0.113.0/24", "2001:db8:1:2::/64", "2001:db8::1/128"] {
            let net: IpNet = net.parse().unwrap();
            let mut value = Vec::new();
            let kind = put_net(&mut value, &net);
            assert_eq!(Key { kind, value: &value }.net(), Some(net));
        }
        let user = Key { kind: KeyKind::User, value: b"a@b.c" };
        let field = Key { kind: KeyKind::Field(9), value: b"x" };
        let mut value = Vec::new();
        put_part(&mut value, user);
        put_part(&mut value, field);
        let several = Key { kind: KeyKind::Several, value: &value };
        assert_eq!(several.parts(), [user, field]);
        assert_eq!(several.own().view(), several);
        assert_eq!(KeyKind::of_code(KeyKind::Field(9).code()), KeyKind::Field(9));
        let id = Key { kind: KeyKind::UserId, ..user };
        assert_ne!(user.fixed_hash(), id.fixed_hash());
    }
}
