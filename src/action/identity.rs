//! Accounts by their two spellings: an id and an e-mail address.
//!
//! An application logs one or the other; `identities: users.csv` (user_id,email) joins them.

use std::collections::HashMap;

/// Who is who. Both spellings are canonical: trimmed, NFKC, lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    emails: HashMap<String, String>,
    ids: HashMap<String, String>,
}

impl Identities {
    /// The e-mail address of an id.
    pub fn email(&self, id: &str) -> Option<&str> {
        self.emails.get(id).map(String::as_str)
    }

    /// The id of an e-mail address.
    pub fn id(&self, email: &str) -> Option<&str> {
        self.ids.get(email).map(String::as_str)
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.emails.is_empty()
    }

    /// Adds a pair, both canonical.
    pub fn add(&mut self, id: &str, email: &str) {
        self.emails.insert(id.to_owned(), email.to_owned());
        self.ids.insert(email.to_owned(), id.to_owned());
    }
}
