//! Tokens for OAUTHBEARER that somebody else makes and renews: read anew from a file or the
//! environment whenever the client asks, and never shown.
//!
//! Only the claims `sub` and `exp` are looked at; whether a token is genuine is the broker's business.

use crate::decode::time::{self, Micros};
use std::fmt;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

/// How long a token without `exp` is used before it is read anew: 5 minutes.
const UNLIMITED: Micros = 300_000_000;
/// No token is longer; a broker takes 512 KiB of them at most.
const LENGTH_MAX: u64 = 256 << 10;

/// Where the token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// Under this name in the environment; it cannot be renewed there.
    Env(String),
    /// In this file, which may be replaced at any time.
    File(String),
}

/// A token that can be shown to a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// Whom it names.
    pub principal: String,
    /// Until when it is used.
    pub until: Micros,
}

impl fmt::Debug for Token {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("until", &self.until).finish_non_exhaustive()
    }
}

impl fmt::Display for TokenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenPlace::Env(name) => write!(f, "the environment's {name}"),
            TokenPlace::File(path) => f.write_str(path),
        }
    }
}

impl TokenPlace {
    /// Reads the token that is there now.
    ///
    /// # Errors
    /// Why it cannot be used, and what helps; without a word of it, and the same text as long as
    /// nothing changes.
    pub fn read(&self) -> Result<Token, String> {
        let text = match self {
            TokenPlace::Env(name) => std::env::var(name).map_err(|_| {
                format!(
                    "`oauth_token`: the environment has no text under the name `{name}`: set it, or give a file"
                )
            })?,
            TokenPlace::File(path) => read_file(path).map_err(|why| {
                format!(
                    "`oauth_token`: cannot read {path}: {why}: whatever renews tokens must have written one there that \
                     this user may read"
                )
            })?,
        };
        let token = parse(text.trim(), now()).map_err(|why| format!("`oauth_token`: {self} {why}"));
        token.map_err(|why| match self {
            TokenPlace::Env(_) => {
                format!("{why}. A token in the environment is never renewed: give a file")
            }
            TokenPlace::File(_) => why,
        })
    }
}

fn read_file(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LENGTH_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Brokers and the client measure the life of a token by the wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "a token expires by the wall clock; no window sees it"
)]
fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

fn parse(text: &str, now: Micros) -> Result<Token, String> {
    const NO_JWT: &str = "holds no JWT (three parts in base64url with dots between, the second one JSON): put the \
                          access token itself there, without `Bearer` or JSON around it";
    if text.is_empty() {
        return Err("is empty: whatever renews tokens must write one there".into());
    }
    let claims = claims(text).ok_or(NO_JWT)?;
    let until = match claims.get("exp") {
        None | Some(serde_json::Value::Null) => now.saturating_add(UNLIMITED),
        Some(exp) => {
            let seconds = exp.as_f64().ok_or("holds a JWT whose `exp` is no number")?;
            #[expect(clippy::cast_possible_truncation, reason = "an `as` from a float saturates")]
            let until = (seconds * 1e6) as Micros;
            until
        }
    };
    if until <= now {
        return Err(format!(
            "holds a token that expired at {}: renew it, and see why whatever renews it did not; or the clock of this \
             machine is wrong",
            time::format(until)
        ));
    }
    let sub = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or_default();
    // The broker finds out by itself whom the token names; the client only wants some name.
    let principal = if sub.is_empty() || sub.contains('\0') { "portcullis" } else { sub };
    Ok(Token { text: text.to_owned(), principal: principal.to_owned(), until })
}

/// The claims of a JWT, if it is one.
fn claims(text: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    let parts: Vec<&str> = text.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return None };
    base64url(signature)?;
    let object = |part: &str| serde_json::from_slice(&base64url(part)?).ok();
    let _header: serde_json::Map<String, serde_json::Value> = object(header)?;
    object(claims)
}

/// Decodes base64url without padding.
fn base64url(text: &str) -> Option<Vec<u8>> {
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(((bits >> count) & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // `{"alg":"none"}` and claims, of which the last has `sub` and `exp`.
    const HEADER: &str = "eyJhbGciOiJub25lIn0";
    const NOW: Micros = 1_700_000_000_000_000;

    #[test]
    fn only_a_jwt_that_has_not_expired_is_taken() {
        // {"sub":"Jörg?>","exp":1700000010}
        let good = format!("{HEADER}.eyJzdWIiOiJKw7ZyZz8-IiwiZXhwIjoxNzAwMDAwMDEwfQ.c2ln");
        let token = parse(&good, NOW).unwrap();
        assert_eq!((token.principal.as_str(), token.until), ("Jörg?>", NOW + 10_000_000));
        assert_eq!(token.text, good);
        assert!(!format!("{token:?}").contains("c2ln"), "{token:?}");
        let late = parse(&good, NOW + 10_000_000).unwrap_err();
        assert!(late.contains("expired at 2023-11-14T22:13:30"), "{late}");
        // {} and {"sub":1,"exp":"x"}
        let token = parse(&format!("{HEADER}.e30."), NOW).unwrap();
        assert_eq!((token.principal.as_str(), token.until), ("portcullis", NOW + UNLIMITED));
        let odd = parse(&format!("{HEADER}.eyJzdWIiOjEsImV4cCI6IngifQ."), NOW).unwrap_err();
        assert!(odd.contains("`exp` is no number"), "{odd}");
        for bad in [
            "hunter2",
            "a.b.c",
            "..",
            "eyJhbGciOiJub25lIn0.e30",
            "eyJhbGciOiJub25lIn0.e30.e30.",
            "eyJhbGciOiJub25lIn0.W10.",
            "eyJhbGciOiJub25lIn0.e30=.",
            "Bearer eyJhbGciOiJub25lIn0.e30.",
        ] {
            let why = parse(bad, NOW).unwrap_err();
            assert!(why.contains("holds no JWT") && !why.contains(bad), "{bad}: {why}");
        }
        assert!(parse("", NOW).unwrap_err().contains("is empty"));
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let why = TokenPlace::File("/not/there".into()).read().unwrap_err();
        assert!(why.contains("/not/there") && why.contains("renews"), "{why}");
        let why = TokenPlace::Env("NO_TOKEN_IS_HERE".into()).read().unwrap_err();
        assert!(why.contains("NO_TOKEN_IS_HERE"), "{why}");
    }
}
