//! Lines of Mosquitto's password file, written here because `mosquitto_passwd` takes passwords on its command line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Sha512;

use crate::observe::secret::Secret;

/// Mosquitto's own number of rounds. It is low, so passwords must be random: see [`generate`].
const ROUNDS: u32 = 101;
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;
/// Random characters of a generated password, five bits each: 160 bits.
const GENERATED_LENGTH: usize = 32;
/// Letters and digits that are not mistaken for each other; 32, so that five bits choose one.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

/// Why a name cannot stand in the password file.
#[derive(Debug, thiserror::Error)]
#[error("a user name is 1 to 64 of A-Z a-z 0-9 _ . -")]
pub struct BadUsername;

/// A line of the password file in the `$7$` form: PBKDF2 with HMAC-SHA-512 (RFC 8018).
///
/// # Errors
/// [`BadUsername`]: a colon or a newline would make another line of it.
pub fn line(username: &str, password: &Secret, salt: [u8; SALT_BYTES]) -> Result<String, BadUsername> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !(1..=64).contains(&username.len()) || !username.bytes().all(allowed) {
        return Err(BadUsername);
    }
    let mut hash = [0; HASH_BYTES];
    pbkdf2::pbkdf2_hmac::<Sha512>(password.reveal().as_bytes(), &salt, ROUNDS, &mut hash);
    Ok(format!(
        "{username}:$7${ROUNDS}${}${}\n",
        STANDARD.encode(salt),
        STANDARD.encode(hash)
    ))
}

/// A salt from the operating system.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn salt() -> Result<[u8; SALT_BYTES], getrandom::Error> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    Ok(salt)
}

/// A password of 160 random bits from the operating system.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate() -> Result<Secret, getrandom::Error> {
    let mut bytes = [0; GENERATED_LENGTH];
    getrandom::fill(&mut bytes)?;
    Ok(Secret::new(
        bytes
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
            .collect::<String>(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_mosquitto_writes_it() {
        let line = line("device-1", &Secret::new("secret"), *b"0123456789ab").expect("a good name");
        // What mosquitto_passwd 2.0.11 makes of this name, password and salt.
        assert!(line.starts_with("device-1:$7$101$MDEyMzQ1Njc4OWFi$"), "{line}");
        assert!(line.ends_with("==\n"));
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        for name in ["", "a:b", "a\nroot:x", "a b", "ü", &"x".repeat(65)] {
            assert!(line(name, &Secret::new("x"), [0; 12]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn generated_passwords_differ() {
        let passwords = [(); 3].map(|()| generate().expect("randomness"));
        assert_eq!(passwords[0].reveal().len(), GENERATED_LENGTH);
        assert!(passwords[0] != passwords[1] && passwords[1] != passwords[2]);
    }
}
