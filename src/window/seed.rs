//! Hashes that nobody outside can foresee.

use siphasher::sip::SipHasher13;
use std::hash::{BuildHasher, RandomState};

/// What hashes begin with: another one each time, so that nobody can choose keys that lie on one another.
#[derive(Debug, Clone)]
pub struct Seed {
    first: u64,
    second: u64,
}

impl Default for Seed {
    fn default() -> Self {
        let random = RandomState::new();
        Self { first: random.hash_one(0), second: random.hash_one(1) }
    }
}

impl Seed {
    /// The hash of bytes. Each `kind` of them has a hash of its own, so that equal bytes of two do not meet.
    pub fn hash(&self, kind: u64, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.first, self.second ^ kind).hash(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tables_and_no_two_kinds_hash_alike() {
        let (one, other) = (Seed::default(), Seed::default());
        let bytes: Vec<u8> = (0..40).collect();
        for len in 0..bytes.len() {
            let bytes = &bytes[..len];
            assert_eq!(one.hash(1, bytes), one.clone().hash(1, bytes));
            assert_ne!(one.hash(1, bytes), one.hash(2, bytes));
            assert_ne!(one.hash(1, bytes), other.hash(1, bytes));
        }
    }
}
