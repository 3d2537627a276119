//! Accounts by their two spellings: an id and an e-mail address.
//!
//! An application logs one or the other; `identities: users.csv` (user_id,email) joins them. The file is
//! read as a whole and strictly: one half-read table would join the wrong people.

use crate::decode::addr;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;

/// Lines that a file may have.
pub const LINES_MAX: usize = 2_000_000;
/// Bytes that a file may have.
pub const FILE_MAX: u64 = 256 << 20;
/// The longest e-mail address that can be delivered to, bytes.
pub const EMAIL_MAX: usize = 254;
/// Mistakes that are told; whoever has more has another file.
const MISTAKES_MAX: usize = 10;

/// Who is who. Both spellings are canonical: trimmed, NFKC, lower case.
///
/// All texts lie in one, so that a million accounts take some eighty megabytes and not some hundreds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identities {
    text: String,
    /// By id.
    pairs: Vec<Pair>,
    /// Places in `pairs`, by e-mail address.
    by_email: Vec<u32>,
}

/// Where the two spellings lie, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    start: u32,
    id: u16,
    email: u16,
}

/// A mistake in a file of identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<&'static str>,
}

impl Mistake {
    fn new(line: usize, message: impl Into<String>, help: Option<&'static str>) -> Self {
        Self { line, message: message.into(), help }
    }
}

/// An account's name or e-mail address as it is counted and aimed at; none for what names nobody.
pub fn canonical_user(text: &str) -> Option<String> {
    addr::normalize_user(text).map(std::borrow::Cow::into_owned)
}

/// An account's id as it is counted and aimed at; none for what names nobody.
pub fn canonical_id(text: &str) -> Option<String> {
    addr::canonical_id(text, false).map(std::borrow::Cow::into_owned)
}

/// Whether an id is a UUID, in its usual spelling and lower case.
pub fn is_uuid(id: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    id.len() == 36
        && id.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => dashes.contains(&at),
            _ => !dashes.contains(&at) && matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

impl Identities {
    /// Of all that it holds.
    pub fn digest(&self) -> String {
        format!("{:x}", Sha256::digest(self.text.as_bytes()))
    }

    /// The e-mail address of an id.
    pub fn email(&self, id: &str) -> Option<&str> {
        let found = self.find_id(id).ok()?;
        self.pairs.get(found).map(|pair| self.email_of(*pair))
    }

    /// The id of an e-mail address.
    pub fn id(&self, email: &str) -> Option<&str> {
        let found = self.find_email(email).ok()?;
        let pair = self.pairs.get(*self.by_email.get(found)? as usize)?;
        Some(self.id_of(*pair))
    }

    /// Whether two spellings are of one account.
    pub fn same(&self, one: &str, other: &str) -> bool {
        one == other || self.email(one) == Some(other) || self.id(one) == Some(other)
    }

    /// Whether an account is among them, in either spelling.
    pub fn knows(&self, who: &str) -> bool {
        self.email(who).is_some() || self.id(who).is_some()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// How many accounts there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Adds a pair, both canonical; what was known of either is forgotten. For few.
    pub fn add(&mut self, id: &str, email: &str) {
        let known = |pair: &Pair| self.id_of(*pair) == id || self.email_of(*pair) == email;
        let rows = self.pairs.iter().filter(|pair| !known(pair));
        let rows = rows.map(|pair| (self.id_of(*pair), self.email_of(*pair)));
        let mut text = String::new();
        let mut pairs = Vec::new();
        for (id, email) in rows.chain([(id, email)]) {
            pairs.extend(put(&mut text, id, email));
        }
        *self = Self { text, pairs, by_email: Vec::new() };
        self.sort();
    }

    /// Reads a file's text: lines of `user_id,email`, perhaps with that line before them, and fields perhaps
    /// in quotes.
    ///
    /// # Errors
    /// What is wrong in it; the first ten.
    pub fn of_csv(text: &str) -> Result<Self, Vec<Mistake>> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut all = Self::default();
        let mut lines: Vec<u32> = Vec::new();
        let mut mistakes = Vec::new();
        for (line, row) in (1..).zip(text.lines()) {
            if mistakes.len() >= MISTAKES_MAX {
                break;
            }
            if line > LINES_MAX {
                let message = format!("there are more than {LINES_MAX} lines");
                mistakes.push(Mistake::new(line, message, None));
                break;
            }
            if row.trim().is_empty() || (lines.is_empty() && is_header(row)) {
                continue;
            }
            match read_row(row) {
                Ok((id, email)) => match put(&mut all.text, &id, &email) {
                    Some(pair) => {
                        all.pairs.push(pair);
                        lines.push(u32::try_from(line).unwrap_or(u32::MAX));
                    }
                    None => mistakes.push(Mistake::new(line, "there is too much text", None)),
                },
                Err((message, help)) => mistakes.push(Mistake::new(line, message, help)),
            }
        }
        if mistakes.is_empty() {
            mistakes = all.contradictions(&lines);
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        all.pairs.sort_by(|a, b| cut(&all.text, a.id()).cmp(cut(&all.text, b.id())));
        let text = &all.text;
        all.pairs.dedup_by(|a, b| cut(text, a.id()) == cut(text, b.id()));
        all.sort();
        Ok(all)
    }

    /// Ids with two e-mail addresses and e-mail addresses with two ids.
    fn contradictions(&self, lines: &[u32]) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut order: Vec<(Pair, u32)> =
            self.pairs.iter().copied().zip(lines.iter().copied()).collect();
        for by_id in [true, false] {
            let key = |pair: Pair| if by_id { self.id_of(pair) } else { self.email_of(pair) };
            let other = |pair: Pair| if by_id { self.email_of(pair) } else { self.id_of(pair) };
            order.sort_by(|a, b| key(a.0).cmp(key(b.0)).then(a.1.cmp(&b.1)));
            for ((one, first), (two, again)) in order.iter().zip(order.iter().skip(1)) {
                if key(*one) == key(*two) && other(*one) != other(*two) {
                    let message = format!(
                        "the {} `{}` stands in line {first} too, with another partner",
                        if by_id { "id" } else { "e-mail address" },
                        shown(key(*two)),
                    );
                    let help = "an account has one id and one address: take one of the lines out";
                    mistakes.push(Mistake::new(*again as usize, message, Some(help)));
                }
            }
        }
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes.truncate(MISTAKES_MAX);
        mistakes
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.pairs.sort_by(|a, b| cut(text, a.id()).cmp(cut(text, b.id())));
        let pairs = &self.pairs;
        let email = |place: &u32| pairs.get(*place as usize).map(|pair| cut(text, pair.email()));
        let mut order: Vec<u32> = (0u32..).zip(pairs).map(|(place, _)| place).collect();
        order.sort_by(|a, b| email(a).cmp(&email(b)));
        self.by_email = order;
        self.text.shrink_to_fit();
    }

    fn find_id(&self, id: &str) -> Result<usize, usize> {
        self.pairs.binary_search_by(|pair| self.id_of(*pair).cmp(id))
    }

    fn find_email(&self, email: &str) -> Result<usize, usize> {
        self.by_email.binary_search_by(|place| {
            let pair = self.pairs.get(*place as usize);
            pair.map_or(Ordering::Greater, |pair| self.email_of(*pair).cmp(email))
        })
    }

    fn id_of(&self, pair: Pair) -> &str {
        cut(&self.text, pair.id())
    }

    fn email_of(&self, pair: Pair) -> &str {
        cut(&self.text, pair.email())
    }
}

impl Pair {
    fn id(self) -> std::ops::Range<usize> {
        let start = self.start as usize;
        start..start + usize::from(self.id)
    }

    fn email(self) -> std::ops::Range<usize> {
        let start = self.id().end;
        start..start + usize::from(self.email)
    }
}

fn cut(text: &str, range: std::ops::Range<usize>) -> &str {
    text.get(range).unwrap_or_default()
}

/// Puts a pair behind the others; none if there is no room.
fn put(text: &mut String, id: &str, email: &str) -> Option<Pair> {
    let start = u32::try_from(text.len()).ok()?;
    let pair =
        Pair { start, id: u16::try_from(id.len()).ok()?, email: u16::try_from(email.len()).ok()? };
    text.push_str(id);
    text.push_str(email);
    Some(pair)
}

fn is_header(row: &str) -> bool {
    let names: Vec<String> =
        row.split(',').map(|name| name.trim().trim_matches('"').to_ascii_lowercase()).collect();
    matches!(names.iter().map(String::as_str).collect::<Vec<_>>()[..], ["user_id" | "id", "email"])
}

type Wrong = (String, Option<&'static str>);

/// A row's id and e-mail address, canonical.
fn read_row(row: &str) -> Result<(String, String), Wrong> {
    const COLUMNS: &str = "the columns are user_id,email, in that order and no others";
    let fields = fields(row)?;
    let [id, email] = &fields[..] else {
        let message = match fields.len() {
            1 => "there is one field, not two".to_owned(),
            n => format!("there are {n} fields, not two"),
        };
        return Err((message, Some(COLUMNS)));
    };
    if fields.iter().any(|field| field.chars().any(char::is_control)) {
        return Err(("there is a control character in it".to_owned(), None));
    }
    let nobody =
        |what: &str, text: &str| (format!("the {what} `{}` names nobody", shown(text)), None);
    let id = canonical_id(id).ok_or_else(|| nobody("id", id))?;
    let email = canonical_user(email).ok_or_else(|| nobody("e-mail address", email))?;
    if id.contains('@') {
        return Err((format!("the id `{}` is an e-mail address", shown(&id)), Some(COLUMNS)));
    }
    if !email.contains('@') {
        return Err((format!("`{}` is no e-mail address", shown(&email)), Some(COLUMNS)));
    }
    if email.len() > EMAIL_MAX {
        return Err((format!("an e-mail address has more than {EMAIL_MAX} bytes"), None));
    }
    Ok((id, email))
}

/// The fields of a line as RFC 4180 has them. A quoted line break would be in an id or an address,
/// where it has no place: quotes end on their line.
fn fields(row: &str) -> Result<Vec<String>, Wrong> {
    let mut fields = Vec::new();
    let mut rest = row;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(inside) => quoted(inside)?,
            None => {
                let (field, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if field.contains('"') {
                    let help = "a field with a quote in it stands in quotes, its own ones doubled";
                    return Err(("a quote stands inside a field".to_owned(), Some(help)));
                }
                (field.to_owned(), behind)
            }
        };
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

/// What is in quotes, and what stands behind them.
fn quoted(inside: &str) -> Result<(String, &str), Wrong> {
    let mut field = String::new();
    let mut rest = inside;
    loop {
        let Some((part, behind)) = rest.split_once('"') else {
            return Err(("a quote is not closed on its line".to_owned(), None));
        };
        field.push_str(part);
        if let Some(next) = behind.strip_prefix('"') {
            field.push('"');
            rest = next;
        } else if behind.is_empty() || behind.starts_with(',') {
            return Ok((field, behind));
        } else {
            return Err(("there is text behind a closing quote".to_owned(), None));
        }
    }
}

/// A text's beginning, for a message.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<(usize, String)> {
        let told = Identities::of_csv(text).unwrap_err();
        told.into_iter().map(|mistake| (mistake.line, mistake.message)).collect()
    }

    #[test]
    fn both_spellings_are_found_in_any_order() {
        let text = "user_id,email\r\nU-2,Bob@Example.org\r\nu-1, ann@example.org \r\n\r\n\"u-3\",\"c\"\"d@example.org\"";
        let all = Identities::of_csv(text).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all.email("u-1"), Some("ann@example.org"));
        assert_eq!(all.email("u-2"), Some("bob@example.org"));
        assert_eq!(all.id("bob@example.org"), Some("u-2"));
        assert_eq!(all.id("c\"d@example.org"), Some("u-3"));
        assert_eq!(all.id("u-1"), None);
        assert_eq!(all.email("ann@example.org"), None);
        assert!(all.same("u-2", "bob@example.org") && all.same("bob@example.org", "u-2"));
        assert!(!all.same("u-1", "bob@example.org"));
    }

    #[test]
    fn what_is_added_by_hand_is_found_as_well() {
        let mut all = Identities::default();
        for n in [3, 1, 2] {
            all.add(&format!("u-{n}"), &format!("{n}@example.org"));
        }
        all.add("u-2", "other@example.org");
        assert_eq!((all.email("u-2"), all.id("2@example.org")), (Some("other@example.org"), None));
        assert_eq!(all.id("1@example.org"), Some("u-1"));
    }

    #[test]
    fn a_table_may_say_a_thing_twice_but_not_two_things() {
        assert_eq!(Identities::of_csv("u-1,a@b.c\nu-1,A@B.C\n").unwrap().len(), 1);
        let told = mistakes("u-1,a@b.c\nu-2,x@b.c\nu-1,d@b.c\nu-3,x@b.c\n");
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(told[0].0, 3);
        assert!(told[0].1.contains("`u-1` stands in line 1 too"), "{told:?}");
        assert_eq!(told[1].0, 4);
        assert!(told[1].1.contains("`x@b.c` stands in line 2 too"), "{told:?}");
    }

    #[test]
    fn whatever_is_no_such_row_is_told_with_its_line() {
        for (row, why) in [
            ("u-1", "one field"),
            ("u-1,a@b.c,", "3 fields"),
            ("a@b.c,u-1", "is an e-mail address"),
            ("u-1,bob", "is no e-mail address"),
            ("none,a@b.c", "names nobody"),
            ("0,a@b.c", "names nobody"),
            ("u-1,-", "names nobody"),
            ("\"u-1,a@b.c", "not closed"),
            ("\"u\"1,a@b.c", "behind a closing quote"),
            ("u\"1,a@b.c", "inside a field"),
            ("u\u{1}1,a@b.c", "control character"),
        ] {
            let told = mistakes(&format!("u-9,z@b.c\n{row}\n"));
            assert_eq!(told.len(), 1, "{row}: {told:?}");
            assert_eq!(told[0].0, 2, "{row}");
            assert!(told[0].1.contains(why), "{row}: {told:?}");
        }
        let long = format!("u-1,{}@b.c", "x".repeat(260));
        assert_eq!(mistakes(&long).len(), 1);
        assert_eq!(mistakes(&"x\n".repeat(50)).len(), MISTAKES_MAX);
    }

    #[test]
    fn only_the_first_line_may_be_names() {
        assert!(Identities::of_csv("\u{feff}id,email\nu-1,a@b.c").is_ok());
        assert_eq!(mistakes("u-1,a@b.c\nuser_id,email\n")[0].0, 2);
        assert_eq!(mistakes("email,user_id\n")[0].0, 1);
    }

    #[test]
    fn a_table_has_a_bound() {
        let told = mistakes(&"\n".repeat(LINES_MAX + 5));
        assert!(told[0].1.contains("more than 2000000 lines"), "{told:?}");
    }

    #[test]
    fn a_uuid_is_one_in_its_usual_spelling() {
        assert!(is_uuid("2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f11"));
        for text in
            ["", "u-1", "2f1c6f0a7f6c4a539df20c2b8d4a1f11", "2F1C6F0A-7F6C-4A53-9DF2-0C2B8D4A1F11"]
        {
            assert!(!is_uuid(text), "{text}");
        }
        assert!(!is_uuid("2f1c6f0a-7f6c-4a53-9df2-0c2b8d4a1f1/"));
    }
}
