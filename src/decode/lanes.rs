//! Eight neighbouring bytes at once, as one number, or sixteen with vector instructions: where a text ends is
//! then a count of zeros, and needs no branch that depends on how long it is. Lengths cannot be foreseen, and a wrong guess
//! costs more than looking at all of them.

use wide::u8x16;

/// How many bytes are looked at.
pub const LANES: usize = 8;

/// The lowest bit of each byte, and the highest.
const LOW: u64 = u64::from_ne_bytes([0x01; LANES]);
const HIGH: u64 = u64::from_ne_bytes([0x80; LANES]);

/// Eight bytes, the first one lowest.
#[derive(Debug, Clone, Copy)]
pub struct Lanes(u64);

/// How many bytes [`Wide`] looks at.
pub const WIDE: usize = 16;

/// Sixteen bytes.
#[derive(Debug, Clone, Copy)]
pub struct Wide(u8x16);

impl Wide {
    /// The bytes.
    #[inline]
    pub fn of(bytes: &[u8; WIDE]) -> Self {
        Self(u8x16::new(*bytes))
    }

    /// The lower of each two.
    #[inline]
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// The lowest of all.
    #[inline]
    pub fn lowest(self) -> u8 {
        self.0.reduce_min()
    }

    /// The bits of each two.
    #[inline]
    pub fn join(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all are ASCII.
    #[inline]
    pub fn is_ascii(self) -> bool {
        self.0.to_bitmask() == 0
    }

    /// Those that are `byte` or less, a bit each, the first one lowest.
    #[inline]
    pub fn at_most(self, byte: u8) -> u32 {
        self.0.min(u8x16::splat(byte)).simd_eq(self.0).to_bitmask()
    }

    /// Those that are `byte`, a bit each, the first one lowest.
    #[inline]
    pub fn equal(self, byte: u8) -> u32 {
        self.0.simd_eq(u8x16::splat(byte)).to_bitmask()
    }
}

/// Which of the bytes are something: the highest bit of each that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks(u64);

impl Lanes {
    /// The bytes.
    #[inline]
    pub fn of(bytes: &[u8; LANES]) -> Self {
        Self(u64::from_le_bytes(*bytes))
    }

    /// The first that is `byte`; what is marked behind it may be something else.
    #[inline]
    pub fn first(self, byte: u8) -> Marks {
        let word = self.0 ^ (LOW * u64::from(byte));
        Marks(word.wrapping_sub(LOW) & !word & HIGH)
    }

    /// The highest bit of each byte whose lower seven are at least `byte`.
    fn at_least(self, byte: u8) -> u64 {
        // Without their highest bits, so that no sum reaches the next byte.
        (self.0 & !HIGH) + LOW * u64::from(0x80 - byte)
    }

    /// Whether some byte is an upper-case letter or beyond ASCII.
    #[inline]
    pub fn any_changed_by_case(self) -> bool {
        let upper = self.at_least(b'A') & !self.at_least(b'Z' + 1);
        (upper | self.0) & HIGH != 0
    }

    /// Those that are no digit.
    #[inline]
    pub fn no_digits(self) -> Marks {
        let digit = self.at_least(b'0') & !self.at_least(b'9' + 1) & !self.0;
        Marks(!digit & HIGH)
    }
}

impl Marks {
    /// Those of both.
    #[inline]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those among the first `len`.
    #[inline]
    pub fn among(self, len: usize) -> Self {
        match len {
            LANES.. => self,
            _ => Self(self.0 & ((1 << (8 * len)) - 1)),
        }
    }

    /// Where the first stands; [`LANES`] if there is none.
    #[inline]
    pub fn at(self) -> usize {
        self.0.trailing_zeros() as usize / 8
    }

    /// How many there are.
    #[inline]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_is_told(
            bytes in prop::array::uniform8(prop_oneof![any::<u8>(), 0x2eu8..0x3b, 0xafu8..0xbb, 0x40u8..0x5c]),
            wanted: u8,
            len in 0usize..10,
        ) {
            let lanes = Lanes::of(&bytes);
            let both = [bytes, [wanted; LANES]].concat();
            let wide = Wide::of(both.first_chunk().unwrap());
            for wanted in bytes.into_iter().chain([wanted]) {
                let bit = |(n, byte): (usize, &u8)| u32::from(*byte == wanted) << n;
                let naive = both.iter().enumerate().map(bit).sum::<u32>();
                prop_assert_eq!(wide.equal(wanted), naive);
            }
            for wanted in bytes.into_iter().chain([wanted]) {
                let naive = bytes.iter().position(|byte| *byte == wanted).unwrap_or(LANES);
                prop_assert_eq!(lanes.first(wanted).at(), naive);
            }
            let changed = bytes.iter().any(|byte| !byte.is_ascii() || byte.is_ascii_uppercase());
            prop_assert_eq!(lanes.any_changed_by_case(), changed);
            let others = bytes.iter().take(len).filter(|byte| !byte.is_ascii_digit()).count();
            prop_assert_eq!(lanes.no_digits().among(len).count() as usize, others);
            let first = bytes.iter().take(len).position(|byte| !byte.is_ascii_digit());
            prop_assert_eq!(lanes.no_digits().among(len).at(), first.unwrap_or(LANES));
        }
    }
}
