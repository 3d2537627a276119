//! Bytes of which most are few, kept where they are named: a table of them is asked for one place in
//! memory instead of two.

use crate::window::small::chunk;
use std::fmt;
use std::ops::Deref;

/// So many bytes stay in place: a packed id, or four addresses.
const IN_PLACE: usize = 22;

/// Bytes that do not change.
#[derive(Clone)]
pub struct Short(Form);

#[derive(Clone)]
enum Form {
    InPlace(u8, [u8; IN_PLACE]),
    Apart(Box<[u8]>),
}

impl Short {
    /// Bytes counted beside those of the place that holds it.
    pub fn beside(&self) -> usize {
        match &self.0 {
            Form::InPlace(..) => 0,
            Form::Apart(bytes) => chunk(bytes.len()),
        }
    }
}

impl From<&[u8]> for Short {
    fn from(bytes: &[u8]) -> Self {
        let mut place = [0; IN_PLACE];
        match (place.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(to), Ok(len)) => {
                to.copy_from_slice(bytes);
                Self(Form::InPlace(len, place))
            }
            _ => Self(Form::Apart(bytes.into())),
        }
    }
}

impl Deref for Short {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::InPlace(len, place) => place.get(..usize::from(*len)).unwrap_or_default(),
            Form::Apart(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_takes_24_bytes() {
        assert_eq!(size_of::<Short>(), 24);
    }

    proptest! {
        #[test]
        fn it_is_what_it_was_made_of(all in prop::collection::vec(prop::collection::vec(0u8..3, 0..40), 0..60)) {
            for bytes in &all {
                let short = Short::from(bytes.as_slice());
                prop_assert_eq!(&*short, bytes.as_slice());
                prop_assert_eq!(short.beside() > 0, bytes.len() > IN_PLACE);
            }
        }
    }
}
