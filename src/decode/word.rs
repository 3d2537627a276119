//! The first eight bytes of a text as one number, so that beginnings are compared at once.

/// Up to eight bytes, and which of the eight there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The bytes, the first one lowest; 0 where there is none.
    pub bytes: u64,
    mask: u64,
}

impl Word {
    /// The beginning of `text`.
    pub fn of(text: &[u8]) -> Self {
        if let Some(first) = text.first_chunk() {
            return Self { bytes: u64::from_le_bytes(*first), mask: u64::MAX };
        }
        let (mut bytes, mut mask) = ([0; 8], [0; 8]);
        for ((byte, mask), own) in bytes.iter_mut().zip(&mut mask).zip(text) {
            (*byte, *mask) = (*own, 0xff);
        }
        Self { bytes: u64::from_le_bytes(bytes), mask: u64::from_le_bytes(mask) }
    }

    /// Whether eight bytes begin with those that are there.
    pub fn begins(self, bytes: u64) -> bool {
        (bytes ^ self.bytes) & self.mask == 0
    }

    /// Whether bytes may begin with those that are there, by their first.
    pub fn may_begin(self, first: u8) -> bool {
        (u64::from(first) ^ self.bytes) & self.mask & 0xff == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_begins_what_its_text_begins(a in "[ab]{0,10}", b in "[ab]{0,10}") {
            let first = a.get(..8).unwrap_or(&a);
            let word = Word::of(a.as_bytes());
            let begins = word.begins(Word::of(b.as_bytes()).bytes);
            prop_assert_eq!(begins, b.starts_with(first));
            prop_assert!(!begins || word.may_begin(b.bytes().next().unwrap_or(0)));
        }
    }
}
