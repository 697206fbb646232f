//! Public keys in a JWK set (RFC 7517, RFC 7518, RFC 8037).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::keys::{Algorithm, Key, KeyFault, KeysError};
use super::members::Members;

#[derive(Deserialize)]
struct Set {
    keys: Vec<Members>,
}

/// The set's keys that are for verifying by an algorithm that is taken. Others are left out, as RFC 7517 (section 5) has it:
/// an issuer's set holds keys for other purposes too.
pub(super) fn parse(file: &[u8]) -> Result<Vec<Key>, KeysError> {
    let set: Set = serde_json::from_slice(file).map_err(KeysError::Json)?;
    let mut keys = Vec::new();
    for (index, jwk) in set.keys.iter().enumerate() {
        let number = index + 1;
        // `d` is the private part of every kind of pair, and `k` the whole of a symmetric key.
        if ["d", "k"].iter().any(|name| jwk.get(name).is_some()) {
            return Err(KeysError::Secret(number));
        }
        if let Some(key) = key(jwk).map_err(|fault| fault.of_key(number))? {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn key(jwk: &Members) -> Result<Option<Key>, KeyFault> {
    let text = |name| jwk.text(name).map_err(|_| KeyFault::Malformed);
    let bytes = |name| {
        let encoded = text(name)?.ok_or(KeyFault::Malformed)?;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| KeyFault::Malformed)
    };
    let kid = text("kid")?.map(str::to_owned);
    let algorithm = match (text("kty")?.ok_or(KeyFault::Malformed)?, text("crv")?) {
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("RSA", _) => Algorithm::Rs256,
        _ => return Ok(None),
    };
    if !is_for_verifying(jwk, algorithm)? {
        return Ok(None);
    }
    match algorithm {
        Algorithm::EdDsa => Key::ed25519(kid, &bytes("x")?),
        Algorithm::Es256 => Key::p256(kid, &[vec![4], bytes("x")?, bytes("y")?].concat()),
        Algorithm::Rs256 => Key::rsa(kid, &bytes("n")?, &bytes("e")?),
    }
    .map(Some)
}

/// Whether the key's own words leave it to `algorithm`: an RSA key for PS256 or for encryption is not one for RS256.
fn is_for_verifying(jwk: &Members, algorithm: Algorithm) -> Result<bool, KeyFault> {
    let says = |name, expected| {
        let said = jwk.text(name).map_err(|_| KeyFault::Malformed)?;
        Ok(said.is_none_or(|said| said == expected))
    };
    let operations = match jwk.get("key_ops") {
        None => true,
        Some(Value::Array(operations)) => operations.iter().any(|operation| operation == "verify"),
        Some(_) => return Err(KeyFault::Malformed),
    };
    Ok(operations && says("use", "sig")? && says("alg", algorithm.as_str())?)
}
