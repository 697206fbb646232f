//! A JWT in, a principal out.

use super::config::Config;
use super::key_file::{KeyFile, Look};
use super::keys::KeysError;
use super::refusal::Refusal;
use super::{claims, jws};
use crate::identity::principal::Principal;
use crate::protocol::time;

/// The longest token that is looked at. Those of issuers with many claims are some two kilobytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Whom a token vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its subject, with its role.
    pub principal: Principal,
    /// When it expires, in microseconds since 1970, without the leeway.
    pub expires_at: i64,
}

/// Verifies the JWTs of one issuer for this service. It can be shared: no call waits for another.
#[derive(Debug)]
pub struct Verifier {
    config: Config,
    keys: KeyFile,
}

impl Verifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// See [`KeysError`].
    pub fn new(config: Config) -> Result<Self, KeysError> {
        let keys = KeyFile::open(&config.keys)?;
        Ok(Self { config, keys })
    }

    /// Whom `token` vouches for now.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify(&self, token: &str) -> Result<Accepted, Refusal> {
        self.verify_at(token, time::now().div_euclid(1_000_000))
    }

    /// Whom `token` vouches for at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn verify_at(&self, token: &str, now: i64) -> Result<Accepted, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::TooLong);
        }
        let payload = jws::open(token, &self.keys.keys())?;
        claims::check(&payload, &self.config, now)
    }

    /// Looks at the file of keys at once, without waiting for the next token.
    pub fn look_at_keys(&self) -> Look {
        self.keys.look()
    }
}

#[cfg(test)]
mod tests;
