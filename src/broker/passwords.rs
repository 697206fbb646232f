//! Passwords, and their hashes in the form of Mosquitto's password file: written here because `mosquitto_passwd` takes
//! passwords on its command line, where `ps` shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Sha512;

use crate::observe::secret::Secret;
use crate::protocol::id::Username;

/// Mosquitto's own number of rounds: enough where the password is random. The broker's one thread does them at every login,
/// and for every client again at every reload.
const ROUNDS_RANDOM: u32 = 101;
/// Rounds for passwords that people choose, which can be guessed: some 10 ms of the broker a login. Only few have these.
const ROUNDS_CHOSEN: u32 = 20_000;
const SALT_BYTES: usize = 12;
const HASH_BYTES: usize = 64;
/// Random characters of a generated password, five bits each: 160 bits.
const GENERATED_LENGTH: usize = 32;
/// Letters and digits that are not mistaken for each other; 32, so that five bits choose one.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
/// Lengths of chosen passwords, in bytes. Shorter ones are guessed; the broker's own buffers end somewhere.
const CHOSEN_BYTES: std::ops::RangeInclusive<usize> = 8..=256;
/// What the world tries first.
const KNOWN_TO_ALL: [&str; 4] = ["admin123", "password", "12345678", "mosquitto"];

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPassword {
    /// Too short or too long.
    #[error("a password is 8 to 256 bytes; leave it out, and a random one is made")]
    Length,
    /// NUL, a newline or another control character.
    #[error("a password has no control characters (a file given for it may end in a newline)")]
    Control,
    /// The user's own name, or a default that everybody knows.
    #[error("this password is the user's name, or a default that everybody knows; leave it out, and a random one is made")]
    Guessable,
}

/// Takes a password that somebody chose for `username`.
///
/// # Errors
/// [`BadPassword`].
pub fn chosen(username: &Username, password: &str) -> Result<Secret, BadPassword> {
    if !CHOSEN_BYTES.contains(&password.len()) {
        return Err(BadPassword::Length);
    }
    if password.chars().any(char::is_control) {
        return Err(BadPassword::Control);
    }
    if password == username.as_str() || KNOWN_TO_ALL.contains(&password) {
        return Err(BadPassword::Guessable);
    }
    Ok(Secret::new(password))
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

/// A hash in the `$7$` form: PBKDF2 with HMAC-SHA-512 (RFC 8018), its rounds and salt beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash(String);

/// A text that is no hash in the `$7$` form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no password hash in Mosquitto's $7$ form")]
pub struct BadHash;

impl Hash {
    /// Of a password from [`generate`].
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn of_generated(password: &Secret) -> Result<Self, getrandom::Error> {
        Ok(Self::with(password, ROUNDS_RANDOM, salt()?))
    }

    /// Of a password from [`chosen`].
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn of_chosen(password: &Secret) -> Result<Self, getrandom::Error> {
        Ok(Self::with(password, ROUNDS_CHOSEN, salt()?))
    }

    /// Takes a hash that was stored.
    ///
    /// # Errors
    /// [`BadHash`]: what is not of the form would make the broker refuse the whole file.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let hash = Self(text.to_owned());
        hash.parts().map(|_| hash.clone())
    }

    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the password's.
    #[must_use]
    pub fn is_of(&self, password: &Secret) -> bool {
        let Ok((rounds, salt, hash)) = self.parts() else { return false };
        let other = Self::with(password, rounds, salt);
        // Of equal length; every byte is looked at whatever the first ones say.
        other
            .parts()
            .is_ok_and(|(_, _, made)| hash.iter().zip(made).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0)
    }

    fn with(password: &Secret, rounds: u32, salt: [u8; SALT_BYTES]) -> Self {
        let mut hash = [0; HASH_BYTES];
        pbkdf2::pbkdf2_hmac::<Sha512>(password.reveal().as_bytes(), &salt, rounds, &mut hash);
        Self(format!("$7${rounds}${}${}", STANDARD.encode(salt), STANDARD.encode(hash)))
    }

    fn parts(&self) -> Result<(u32, [u8; SALT_BYTES], [u8; HASH_BYTES]), BadHash> {
        let ["", "7", rounds, salt, hash] = self.0.split('$').collect::<Vec<_>>()[..] else {
            return Err(BadHash);
        };
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| BadHash);
        Ok((
            // More would keep the broker's one thread busy for seconds at each login.
            rounds
                .parse()
                .ok()
                .filter(|rounds| (1..1_000_000).contains(rounds))
                .ok_or(BadHash)?,
            decode(salt)?.try_into().map_err(|_| BadHash)?,
            decode(hash)?.try_into().map_err(|_| BadHash)?,
        ))
    }
}

/// The line of the password file.
#[must_use]
pub fn line(username: &Username, hash: &Hash) -> String {
    format!("{username}:{}\n", hash.as_str())
}

fn salt() -> Result<[u8; SALT_BYTES], getrandom::Error> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Username {
        Username::with_password(text).expect("a user name")
    }

    #[test]
    fn a_line_is_as_mosquitto_writes_it() {
        let line = line(&name("device-1"), &Hash::with(&Secret::new("secret"), 101, *b"0123456789ab"));
        // The form of what mosquitto_passwd 2.0.11 makes of this name, password and salt.
        assert!(line.starts_with("device-1:$7$101$MDEyMzQ1Njc4OWFi$"), "{line}");
        assert!(line.ends_with("==\n"));
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn a_hash_knows_its_password() {
        let password = generate().expect("randomness");
        for hash in [Hash::of_generated(&password), Hash::of_chosen(&password)] {
            let hash = Hash::parse(hash.expect("randomness").as_str()).expect("of the form");
            assert!(hash.is_of(&password));
            assert!(!hash.is_of(&Secret::new("another")));
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        for text in [
            "",
            "secret",
            "$7$0$MDEyMzQ1Njc4OWFi$AA==",
            "$7$101$MDEyMzQ1Njc4OWFi$AA==",
            "$6$x$y",
            "$7$101$a\nb$c",
        ] {
            assert_eq!(Hash::parse(text), Err(BadHash), "{text:?}");
        }
    }

    #[test]
    fn passwords_that_anybody_would_try_are_refused() {
        let chosen = |password: &str| chosen(&name("meter-0001"), password).map(drop);
        assert_eq!(chosen("secretpassword"), Ok(()));
        assert_eq!(chosen("short"), Err(BadPassword::Length));
        assert_eq!(chosen(&"x".repeat(10_240)), Err(BadPassword::Length));
        assert_eq!(chosen("two\nlines"), Err(BadPassword::Control));
        assert_eq!(chosen("nul\0nul-nul"), Err(BadPassword::Control));
        assert_eq!(chosen("admin123"), Err(BadPassword::Guessable));
        assert_eq!(chosen("meter-0001"), Err(BadPassword::Guessable));
    }

    #[test]
    fn generated_passwords_differ() {
        let passwords = [(); 3].map(|()| generate().expect("randomness"));
        assert_eq!(passwords[0].reveal().len(), GENERATED_LENGTH);
        assert!(passwords[0] != passwords[1] && passwords[1] != passwords[2]);
    }
}
