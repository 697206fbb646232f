//! A token or a device's key as text, and the hash by which its table knows it.
//!
//! Each is a prefix and 48 characters of base64url: 256 random bits and a checksum of 32, by which a typing error is told
//! without asking the database. The prefix tells the two apart, and is for those who search files for secrets that leaked.
//!
//! The tables hold the SHA-256 of the random bits. A slow, salted hash makes guessing dear where there is something to guess;
//! nobody guesses 256 bits, and a fast hash keeps every request cheap.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::observe::secret::Secret;

/// What every token begins with.
pub const TOKEN_PREFIX: &str = concat!(env!("CARGO_PKG_NAME"), "_");
/// What every key of a device begins with.
pub const KEY_PREFIX: &str = "iotk_";

const RANDOM_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
/// 36 bytes are 48 characters of base64 without a rest, so that each token has one spelling.
const TOKEN_BYTES: usize = RANDOM_BYTES + CHECKSUM_BYTES;

/// What makes it a secret.
pub(super) type Random = [u8; RANDOM_BYTES];

pub(super) fn random() -> Result<Random, getrandom::Error> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    Ok(random)
}

pub(super) fn hash(random: &Random) -> [u8; 32] {
    Sha256::digest(random).into()
}

pub(super) fn spell(prefix: &str, random: &Random) -> Secret {
    let mut bytes = [0; TOKEN_BYTES];
    bytes[..RANDOM_BYTES].copy_from_slice(random);
    bytes[RANDOM_BYTES..].copy_from_slice(&hash(random)[..CHECKSUM_BYTES]);
    Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The random bits of what is spelt with this prefix, and `None` for what is not.
pub(super) fn read(prefix: &str, text: &str) -> Option<Random> {
    let encoded = text.strip_prefix(prefix)?;
    let mut bytes = [0; TOKEN_BYTES];
    // A longer text does not fit, a shorter one leaves bytes over: each is no token.
    let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes).ok()?;
    let (random, checksum) = bytes.split_first_chunk::<RANDOM_BYTES>()?;
    (length == TOKEN_BYTES && *checksum == hash(random)[..CHECKSUM_BYTES]).then_some(*random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_looks_like_one() {
        let token = spell(TOKEN_PREFIX, &[0xa5; RANDOM_BYTES]);
        assert_eq!(token.reveal().len(), TOKEN_PREFIX.len() + 48);
        assert_eq!(token.reveal().split_once('_').map(|(prefix, _)| prefix), Some("iotflow"));
        assert_ne!(random().expect("randomness"), random().expect("randomness"));
    }

    #[test]
    fn a_devices_key_is_no_token() {
        let key = spell(KEY_PREFIX, &[7; RANDOM_BYTES]);
        assert_eq!(read(KEY_PREFIX, key.reveal()), Some([7; RANDOM_BYTES]));
        assert_eq!(read(TOKEN_PREFIX, key.reveal()), None);
        assert_eq!(read(KEY_PREFIX, spell(TOKEN_PREFIX, &[7; RANDOM_BYTES]).reveal()), None);
    }

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_spelt(random: Random) {
            prop_assert_eq!(read(TOKEN_PREFIX, spell(TOKEN_PREFIX, &random).reveal()), Some(random));
        }

        #[test]
        fn a_token_with_another_letter_is_none(random: Random, at in 0_usize..56, letter in "[ -~]") {
            let token = spell(TOKEN_PREFIX, &random);
            let mut changed = token.reveal().to_owned();
            changed.replace_range(at..=at, &letter);
            prop_assume!(changed != token.reveal());
            prop_assert_eq!(read(TOKEN_PREFIX, &changed), None);
        }

        #[test]
        fn no_text_is_too_strange(text in ".*", encoded in "[A-Za-z0-9_=-]{0,60}") {
            prop_assert_eq!(read(TOKEN_PREFIX, &text), None);
            prop_assert_eq!(read(TOKEN_PREFIX, &format!("{TOKEN_PREFIX}{encoded}")), None);
        }
    }
}
