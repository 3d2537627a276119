//! Secrets: named in the settings by where they are, never by what they are.
//!
//! `{ env: NAME }` is a variable of the environment, `{ file: PATH }` the first line of a file.
//! They are read once, and never printed.

use crate::yaml::{Checker, Node};
use std::fmt;

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretPlace {
    /// In a variable of the environment.
    Env(String),
    /// In a file, on its first line.
    File(String),
}

/// A secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// To be used where it is needed, and nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// For tests and for what was read elsewhere.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl SecretPlace {
    /// Reads `{ env: NAME }` or `{ file: PATH }`; `what` is the key, for messages.
    pub fn parse(checker: &mut Checker<'_>, node: &Node, what: &str) -> Option<Self> {
        let help = || Some("for example { env: MY_SECRET } or { file: /run/secrets/mine }".into());
        if node.as_map().is_none() {
            // What stands there may be the secret itself: it is not repeated.
            checker.at(
                node.place,
                1,
                format!("{what} must say where the secret is, not what it is"),
                help(),
            );
            if let Some(problem) = checker.problems.last_mut() {
                let before = node.place.column.saturating_sub(1);
                problem.excerpt = problem.excerpt.chars().take(before).collect();
            }
            return None;
        }
        let members = checker.map(node, what, &["env", "file"]);
        let [(key, value)] = members else {
            checker.at(node.place, 1, format!("{what} must have one of `env` and `file`"), help());
            return None;
        };
        let text = checker.text(value, &format!("{what}: `{}`", key.name))?;
        if text.is_empty() {
            checker.node(value, format!("{what}: `{}` is empty", key.name), help());
            return None;
        }
        Some(if key.name == "env" { Self::Env(text) } else { Self::File(text) })
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// Where it is not.
    pub fn read(&self) -> Result<Secret, String> {
        let text = match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|_| format!("the variable {name} is not set, or is no text"))?,
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| format!("the secret's file {path}: {error}"))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
        };
        let text = text.trim();
        if text.is_empty() {
            return Err(format!("{self} is empty"));
        }
        Ok(Secret(text.to_owned()))
    }
}

impl fmt::Display for SecretPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {path}"),
        }
    }
}
