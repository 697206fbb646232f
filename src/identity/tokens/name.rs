//! What tokens are called, and which one is meant.

use std::fmt;

use uuid::Uuid;

use super::PREFIX;

const MAX_BYTES: usize = 64;

/// A token's name: its own kind of text, so that it can be told from an id, and from a token pasted in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenName(String);

/// Why a text is no name of a token. It does not repeat the text, which may be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Letters that are not allowed, none, or too many.
    #[error("a token's name is 1 to 64 of the characters A-Z a-z 0-9 _ . @ -")]
    Grammar,
    /// It would be taken for an id.
    #[error("a token's name cannot be a UUID, which would be taken for its id")]
    Uuid,
    /// It may be a secret.
    #[error("a token's name cannot begin as a token does; if that is a token, it is in this shell's history now: revoke it by its name")]
    Token,
}

impl TokenName {
    /// Takes `text` as a name.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'@' | b'-');
        if !(1..=MAX_BYTES).contains(&text.len()) || !text.bytes().all(allowed) {
            Err(BadName::Grammar)
        } else if text.starts_with(PREFIX) {
            Err(BadName::Token)
        } else if Uuid::try_parse(text).is_ok() {
            Err(BadName::Uuid)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which token is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one of this name that is not revoked.
    Name(TokenName),
    /// The one with this id.
    Id(Uuid),
}

impl Which {
    /// Takes `text` as an id if it is a UUID, else as a name.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn parse(text: &str) -> Result<Self, BadName> {
        match Uuid::try_parse(text) {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => TokenName::parse(text).map(Self::Name),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Id(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::spelling;

    #[test]
    fn the_grammar_of_names_is_exact() {
        let longest = "x".repeat(64);
        for good in ["a", "ci.deploy", "ada@example.org", "A_b-9", &longest] {
            assert_eq!(TokenName::parse(good).map(|name| name.to_string()).as_deref(), Ok(good));
        }
        let too_long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "a\n", "a\0", "ü", "a;b", &too_long] {
            assert_eq!(TokenName::parse(bad), Err(BadName::Grammar), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_neither_an_id_nor_a_token() {
        let id = Uuid::from_u128(7);
        for text in [id.to_string(), id.simple().to_string()] {
            assert_eq!(TokenName::parse(&text), Err(BadName::Uuid));
            assert_eq!(Which::parse(&text), Ok(Which::Id(id)));
        }
        let token = spelling::spell(PREFIX, &[7; 32]);
        let refused = Which::parse(token.reveal()).expect_err("a token is no name");
        assert_eq!(refused, BadName::Token);
        assert!(!refused.to_string().contains(token.reveal()));
    }
}
