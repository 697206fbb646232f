//! Public keys, each bound to the one algorithm that it verifies.

use ring::agreement;
use ring::rand::SystemRandom;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};

use super::refusal::Refusal;
use super::{jwks, pem};

/// The most keys a file may hold. An issuer that rotates has two or three.
const MAX_KEYS: usize = 64;
/// What NIST SP 800-131A asks for, up to what `ring` takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// An uncompressed point: 4, x, y.
const P256_BYTES: usize = 65;

/// The algorithms that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518).
    Es256,
    /// RSA with PKCS #1 v1.5 and SHA-256 (RFC 7518).
    Rs256,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// As it stands in a header's `alg`, to the letter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// Why a file's keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// It is a folder, a pipe or the like.
    #[error("it is no file")]
    NotAFile,
    /// It is longer than any file of keys.
    #[error("it is longer than {} bytes", super::key_file::MAX_FILE_BYTES)]
    TooLong,
    /// It is PEM that cannot be read.
    #[error("PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// It is no JWK set. Where it goes wrong is said, and not what stands there.
    #[error("it is no JWK set: see line {}, column {}", .0.line(), .0.column())]
    Json(serde_json::Error),
    /// It holds nothing that could be used.
    #[error("it holds no public key for EdDSA, ES256 or RS256 signatures")]
    Empty,
    /// It holds more keys than any issuer needs.
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
    /// It holds what only the issuer may have.
    #[error("key {0} is a secret (a private or a symmetric key); only the issuer may have that, give the public key")]
    Secret(usize),
    /// It holds a certificate or the like.
    #[error("section {0} is no public key; BEGIN PUBLIC KEY is expected")]
    Section(usize),
    /// A key is cut off, not on its curve, or something else that cannot be.
    #[error("key {0} cannot be read")]
    Malformed(usize),
    /// A key of a kind that is not taken, where nothing says that it is for something else.
    #[error("key {0} is neither Ed25519, nor P-256, nor RSA")]
    Unsupported(usize),
    /// A key that can be broken, or is longer than what can be verified.
    #[error("key {0} is RSA of {1} bits; {min} to {max} are taken", min = RSA_BITS.start(), max = RSA_BITS.end())]
    RsaBits(usize, usize),
}

/// Why one key cannot be used; its place in the file is added by who knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyFault {
    Malformed,
    Unsupported,
    RsaBits(usize),
}

impl KeyFault {
    pub(super) fn of_key(self, number: usize) -> KeysError {
        match self {
            Self::Malformed => KeysError::Malformed(number),
            Self::Unsupported => KeysError::Unsupported(number),
            Self::RsaBits(bits) => KeysError::RsaBits(number, bits),
        }
    }
}

/// A key, its name if it has one, and thereby the algorithm that it is bound to.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) kid: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Ed25519([u8; 32]),
    P256([u8; P256_BYTES]),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl Key {
    pub(super) fn ed25519(kid: Option<String>, public: &[u8]) -> Result<Self, KeyFault> {
        let public = public.try_into().map_err(|_| KeyFault::Malformed)?;
        Ok(Self {
            kid,
            material: Material::Ed25519(public),
        })
    }

    pub(super) fn p256(kid: Option<String>, point: &[u8]) -> Result<Self, KeyFault> {
        let point: [u8; P256_BYTES] = point.try_into().map_err(|_| KeyFault::Malformed)?;
        if !is_on_curve(&point) {
            return Err(KeyFault::Malformed);
        }
        Ok(Self {
            kid,
            material: Material::P256(point),
        })
    }

    pub(super) fn rsa(kid: Option<String>, n: &[u8], e: &[u8]) -> Result<Self, KeyFault> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFault::RsaBits(bits));
        }
        // `ring` takes odd exponents from 3 to 33 bits; what it would never take is a fault of the file and not of a token.
        let exponent = e.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        if e.len() > 5 || exponent < 3 || exponent % 2 == 0 || exponent >> 33 != 0 {
            return Err(KeyFault::Malformed);
        }
        Ok(Self {
            kid,
            material: Material::Rsa {
                n: n.to_vec(),
                e: e.to_vec(),
            },
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Ed25519(_) => Algorithm::EdDsa,
            Material::P256(_) => Algorithm::Es256,
            Material::Rsa { .. } => Algorithm::Rs256,
        }
    }

    /// Whether this key's owner signed `message`, by this key's algorithm whatever a header says.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Ed25519(public) => UnparsedPublicKey::new(&signature::ED25519, public).verify(message, signature),
            Material::P256(point) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
            Material::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature),
        }
        .is_ok()
    }
}

/// `ring` looks at a point only where it computes with it, so it is made to agree on a key with nobody.
fn is_on_curve(point: &[u8; P256_BYTES]) -> bool {
    let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, point);
    agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new())
        .and_then(|own| agreement::agree_ephemeral(own, &peer, |_| ()))
        .is_ok()
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The keys of a file.
#[derive(Debug, Clone)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads a JWK set (RFC 7517), or PEM with `BEGIN PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeysError`]: one bad key refuses the file, so that a mistake is seen when it is made.
    pub fn parse(file: &[u8]) -> Result<Self, KeysError> {
        let is_json = file.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let keys = if is_json { jwks::parse(file)? } else { pem::parse(file)? };
        match keys.len() {
            0 => Err(KeysError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeysError::TooMany),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether a key that may have signed this did. A token that names a key is held to it; keys without a name, such as those
    /// of PEM, may be meant by any.
    pub(super) fn verify(&self, algorithm: Algorithm, kid: Option<&str>, message: &[u8], signature: &[u8]) -> Result<(), Refusal> {
        let is_named = kid.is_some() && self.0.iter().any(|key| key.kid.as_deref() == kid);
        let meant = |key: &&Key| kid.is_none() || key.kid.as_deref() == if is_named { kid } else { None };
        let mut refusal = Refusal::UnknownKey;
        for key in self.0.iter().filter(meant) {
            if key.algorithm() != algorithm {
                if refusal == Refusal::UnknownKey {
                    refusal = Refusal::KeyAlgorithm;
                }
            } else if key.verifies(message, signature) {
                return Ok(());
            } else {
                refusal = Refusal::Signature;
            }
        }
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::jwt::testing::{Signer, data, jwks, pem};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// What the file is refused for, as its message.
    fn refused(file: impl AsRef<[u8]>) -> String {
        Keys::parse(file.as_ref()).expect_err("it is refused").to_string()
    }

    fn set(keys: &[Value]) -> String {
        json!({ "keys": keys }).to_string()
    }

    #[test]
    fn a_key_verifies_by_its_own_algorithm_whichever_form_it_came_in() {
        let signers = Signer::all();
        let all_pem: String = signers.iter().map(Signer::pem).collect();
        let named: Vec<(&str, &Signer)> = signers.iter().map(|signer| (signer.algorithm().as_str(), signer)).collect();
        for file in [all_pem, jwks(&named)] {
            let keys = Keys::parse(file.as_bytes()).expect("sound keys");
            assert_eq!(keys.count(), 3);
            for signer in &signers {
                let signature = signer.signature(b"message");
                let verify = |algorithm, message: &[u8]| keys.verify(algorithm, None, message, &signature);
                for algorithm in Algorithm::ALL {
                    let expected = if algorithm == signer.algorithm() {
                        Ok(())
                    } else {
                        Err(Refusal::Signature)
                    };
                    assert_eq!(verify(algorithm, b"message"), expected);
                }
                assert_eq!(verify(signer.algorithm(), b"another"), Err(Refusal::Signature));
            }
        }
    }

    #[test]
    fn a_token_is_held_to_the_key_it_names() {
        let [first, second] = [Signer::ed25519(), Signer::ed25519()];
        let keys = Keys::parse(jwks(&[("1", &first), ("2", &second), ("rsa", &Signer::rsa())]).as_bytes()).expect("sound keys");
        let signature = first.signature(b"message");
        let verify = |kid| keys.verify(Algorithm::EdDsa, kid, b"message", &signature);
        assert_eq!(verify(Some("1")), Ok(()));
        assert_eq!(verify(None), Ok(()), "any may be meant");
        assert_eq!(verify(Some("2")), Err(Refusal::Signature));
        assert_eq!(verify(Some("rsa")), Err(Refusal::KeyAlgorithm));
        assert_eq!(verify(Some("3")), Err(Refusal::UnknownKey));
        // Keys without a name may be meant by any.
        let unnamed = Keys::parse(first.pem().as_bytes()).expect("a sound key");
        assert_eq!(unnamed.verify(Algorithm::EdDsa, Some("3"), b"message", &signature), Ok(()));
        assert_eq!(
            unnamed.verify(Algorithm::Rs256, None, b"message", &signature),
            Err(Refusal::KeyAlgorithm)
        );
    }

    #[test]
    fn keys_for_other_purposes_are_left_out() {
        let key = Signer::rsa().jwk();
        let with = |name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        let others = [
            with("use", json!("enc")),
            with("alg", json!("PS256")),
            with("key_ops", json!(["encrypt"])),
            json!({ "kty": "EC", "crv": "P-384", "x": "", "y": "" }),
            json!({ "kty": "OKP", "crv": "X25519", "x": "" }),
            json!({ "kty": "later" }),
        ];
        assert!(refused(set(&others)).contains("no public key for"));
        let ours = [
            with("use", json!("sig")),
            with("alg", json!("RS256")),
            with("key_ops", json!(["verify"])),
        ];
        let all = [&others[..], &ours].concat();
        assert_eq!(Keys::parse(set(&all).as_bytes()).expect("three of nine fit").count(), 3);
    }

    #[test]
    fn files_that_hold_something_else_are_refused_with_a_reason() {
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let mut pair = Signer::ed25519().jwk();
        pair["d"] = json!("AAAA");
        let mut point = Signer::p256().jwk();
        point["y"] = point["x"].clone();
        let mut even = Signer::rsa().jwk();
        even["e"] = json!("AQAA");
        let mut short = Signer::ed25519().jwk();
        short["x"] = json!("AAAA");
        let der = [0x30, 3, 0x30, 1, 7];
        let ed25519 = Signer::ed25519();
        let many: Vec<Value> = (0..=MAX_KEYS).map(|_| ed25519.jwk()).collect();
        for (file, reason) in [
            (String::new(), "no public key for"),
            ("nothing".to_owned(), "no public key for"),
            ("{}".to_owned(), "no JWK set"),
            (r#"{"keys": "hunter2"}"#.to_owned(), "line 1, column 18"),
            (set(&[]), "no public key for"),
            (set(&many), "more than 64 keys"),
            (data("rsa-private"), "key 1 is a secret"),
            (set(&[json!({ "kty": "oct", "k": "AAAA" })]), "key 1 is a secret"),
            (set(&[ed25519.jwk(), pair]), "key 2 is a secret"),
            (certificate.to_owned(), "section 1 is no public key"),
            (set(&[point]), "key 1 cannot be read"),
            (set(&[even]), "key 1 cannot be read"),
            (set(&[short]), "key 1 cannot be read"),
            (set(&[json!({ "kty": 1 })]), "key 1 cannot be read"),
            (set(&[json!({ "kty": "RSA", "n": "AAEB", "e": "AQAB" })]), "key 1 is RSA of 9 bits"),
            (r#"{"keys": [{"kty": "RSA", "kty": "OKP"}]}"#.to_owned(), "no JWK set"),
            (pem(&der), "key 1 cannot be read"),
            (data("rsa-1024-public"), "key 1 is RSA of 1024 bits; 2048 to 8192 are taken"),
            (data("p384-public"), "key 1 is neither Ed25519, nor P-256, nor RSA"),
        ] {
            let message = refused(&file);
            assert!(message.contains(reason), "{reason:?} is missing in {message:?}");
            assert!(!message.contains("hunter2"), "{message:?} repeats what it read");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_too_strange(bytes: Vec<u8>, der: Vec<u8>, text in r#"\{"keys":\[\{("kty"|"d"|"x"|[{}:,0-9]){0,8}"#) {
            prop_assert!(Keys::parse(&bytes).is_err());
            prop_assert!(Keys::parse(pem(&der).as_bytes()).is_err());
            prop_assert!(Keys::parse(text.as_bytes()).is_err());
        }

        #[test]
        fn a_key_that_is_cut_off_is_none(which in 0_usize..3, length in 0_usize..294) {
            let whole = Signer::all()[which].pem();
            let body: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
            let mut der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).expect("just encoded");
            prop_assume!(length < der.len());
            der.truncate(length);
            prop_assert!(Keys::parse(pem(&der).as_bytes()).is_err());
        }
    }
}
