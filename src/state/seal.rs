//! The checksum that every row carries.

use sha2::{Digest, Sha256};

/// A checksum in the making: each value goes in with its kind and length, so that no two different
/// rows give the same bytes.
pub(super) struct Seal(Sha256);

impl Seal {
    /// Of a row of `table`: a row that strays into another table does not fit there.
    pub fn of(table: &str) -> Self {
        Self(Sha256::new()).text(table)
    }

    fn value(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.0.update([kind]);
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub fn int(self, n: i64) -> Self {
        self.value(1, &n.to_le_bytes())
    }

    pub fn text(self, text: &str) -> Self {
        self.value(2, text.as_bytes())
    }

    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.value(3, bytes)
    }

    pub fn maybe_int(self, n: Option<i64>) -> Self {
        match n {
            Some(n) => self.int(n),
            None => self.value(0, &[]),
        }
    }

    pub fn maybe_text(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(text),
            None => self.value(0, &[]),
        }
    }

    /// The first eight bytes of the SHA-256.
    pub fn done(self) -> i64 {
        let hash = self.0.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(hash.get(..8).unwrap_or(&[0; 8]));
        i64::from_be_bytes(first)
    }
}

/// A SHA-256 as hex digits.
pub(super) fn hex(hash: &[u8]) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::with_capacity(64), |mut out, byte| {
        let _infallible = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_anywhere_has_another_seal() {
        let seals = [
            Seal::of("a").text("b").done(),
            Seal::of("ab").text("").done(),
            Seal::of("a").bytes(b"b").done(),
            Seal::of("a").maybe_text(None).done(),
            Seal::of("a").text("").done(),
            Seal::of("a").int(0).done(),
            Seal::of("a").int(1).done(),
        ];
        let distinct: std::collections::BTreeSet<i64> = seals.into_iter().collect();
        assert_eq!(distinct.len(), seals.len());
    }

    #[test]
    fn the_seal_is_pinned() {
        // Stored in databases: it must never change within a format.
        let seal = Seal::of("t").int(-1).text("x").bytes(&[0, 255]).maybe_int(None).done();
        assert_eq!(seal, SEAL_OF_ALL_KINDS);
    }

    const SEAL_OF_ALL_KINDS: i64 = 7252815435358701665;
}
