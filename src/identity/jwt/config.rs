//! Whose JWTs are taken, and for whom they must be meant.

use std::path::PathBuf;
use std::time::Duration;

/// The claim that names the role where nothing else is said.
pub const ROLE_CLAIM: &str = "role";
/// How far the issuer's clock may be from ours. A minute covers clocks that are kept at all, and little more.
pub const LEEWAY: Duration = Duration::from_secs(60);

/// What a JWT is checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file with the issuer's public keys: a JWK set, or PEM.
    pub keys: PathBuf,
    /// What `iss` must be, to the letter.
    pub issuer: String,
    /// What `aud` must be or hold, to the letter: this installation. A key signs for other services too.
    pub audience: String,
    /// The claim that holds `admin`, `operator` or `viewer`.
    pub role_claim: String,
    /// How far the issuer's clock may be from ours.
    pub leeway: Duration,
}

impl Config {
    /// With the default claim and leeway.
    #[must_use]
    pub fn new(keys: PathBuf, issuer: String, audience: String) -> Self {
        Self {
            keys,
            issuer,
            audience,
            role_claim: ROLE_CLAIM.to_owned(),
            leeway: LEEWAY,
        }
    }
}
