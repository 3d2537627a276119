//! What a record is known again by: a hash of all that it says, whatever the order of its keys.
//!
//! Railway's command line prints keys in random order, and a loop around it prints the same records
//! again and again. The hash is SHA-256, cut to 128 bits: whoever writes into a log must not be able to
//! make two records that look the same, or the second would never be counted.

use super::fields::{Kind, Role};
use super::{Record, fields::Field};
use sha2::{Digest, Sha256};

/// The hash of a record.
pub type Print = u128;

/// Railway's own spellings of levels.
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

impl Record<'_> {
    /// Whether it has a shape that Railway's own command line prints: with message, timestamp and one of
    /// its four levels, or with the fields of its edge.
    pub fn is_of_railways_cli(&self) -> bool {
        // What lies in an envelope was printed by somebody else.
        if self.layers().nth(1).is_some() {
            return false;
        }
        let named = |role: Role, name: &str| self.texts(role).any(|field| field.shown == name);
        let level = |field: &Field<'_>| field.shown == "level" && LEVELS.contains(&&*field.text);
        let log = self.texts(Role::Level).any(level)
            && named(Role::Message, "message")
            && named(Role::Time, "timestamp");
        log || named(Role::Ip, "srcIp") && self.raw("edgeregion").is_some()
    }

    /// Whether it has a shape in which Railway's logs are handed out: by its command line, or wrapped by
    /// locomotive.
    pub fn is_railways(&self) -> bool {
        self.is_of_railways_cli()
            || self.fields.iter().any(|field| field.shown.starts_with("_metadata."))
    }

    /// The hash of all that it says. `index` tells records of one line apart.
    pub fn print(&self, index: usize) -> Print {
        let mut fields: Vec<(&str, u8, &str)> = self
            .fields
            .iter()
            .map(|field| (&*field.shown, kind(field.kind), &*field.text))
            .collect();
        fields.sort_unstable();
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(text.as_bytes());
        };
        for (name, kind, text) in fields {
            put(name);
            put(std::str::from_utf8(&[kind]).unwrap_or_default());
            put(text);
        }
        self.header_messages().iter().for_each(|text| put(text));
        // Times that stand beside the record: in the head of a plain line, or in an envelope.
        put(&format!("{:?} {index}", self.when()));
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().map_or(0, |half| Print::from_le_bytes(*half))
    }
}

fn kind(kind: Kind) -> u8 {
    match kind {
        Kind::Text => b't',
        Kind::Number => b'n',
        Kind::Bool => b'b',
        Kind::Null => b'0',
        Kind::List => b'l',
    }
}

#[cfg(test)]
mod tests {
    use crate::decode::{DecodeConfig, Decoded, decode};

    fn prints(line: &str) -> Vec<(bool, u128)> {
        let config = DecodeConfig::default();
        let Decoded::Records(records) = decode(line.as_bytes(), &config) else {
            panic!("{line} is no record");
        };
        records.iter().zip(0..).map(|(r, index)| (r.is_railways(), r.print(index))).collect()
    }

    const LINE: &str = r#"{"message":"FAILED_LOGIN: ip=203.0.113.7","timestamp":"2026-06-16T00:15:14.000123Z","level":"warn","user_id":"7"}"#;

    #[test]
    fn the_order_of_keys_makes_no_difference_and_all_else_does() {
        let other = r#"{"level": "warn", "user_id":"7","timestamp":"2026-06-16T00:15:14.000123Z","message":"FAILED_LOGIN: ip=203.0.113.7"}"#;
        assert_eq!(prints(LINE), prints(other));
        for changed in [
            LINE.replace("000123", "000124"),
            LINE.replace("203.0.113.7", "203.0.113.8"),
            LINE.replace(r#""7""#, "7"),
            LINE.replace("user_id", "user"),
            LINE.replace("}", r#","more":null}"#),
        ] {
            assert_ne!(prints(LINE), prints(&changed), "{changed}");
        }
        // Where one field ends and the next begins is not a matter of their texts.
        assert_ne!(prints(r#"{"a":"1","b":"2"}"#), prints(r#"{"a":"1b","":"2"}"#));
        assert_ne!(
            prints("2026-06-16T00:15:14Z [WARN] hello"),
            prints("2026-06-16T00:15:15Z [WARN] hello")
        );
    }

    #[test]
    fn railways_shapes_are_known() {
        let is = |line: &str| prints(line).iter().all(|(railways, _)| *railways);
        assert!(is(LINE));
        let http = r#"{"timestamp":"2026-06-16T00:15:14.000Z","method":"GET","path":"/","httpStatus":200,"srcIp":"203.0.113.1","edgeRegion":"x","requestId":"r"}"#;
        assert!(is(http));
        let locomotive =
            r#"[{"_metadata":{"deploymentId":"d"},"message":"m","severity":"info","a":1}]"#;
        assert!(is(locomotive));
        // The application's own lines are not.
        assert!(!is(&LINE.replace("warn", "WARNING")));
        assert!(!is(r#"{"message":"m","level":"info"}"#));
        assert!(!is(r#"{"srcIp":"203.0.113.1","message":"m"}"#));
        assert!(!is("2026-06-16T00:15:14Z [WARN] FAILED_LOGIN: ip=203.0.113.7"));
    }
}
