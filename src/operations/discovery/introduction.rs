//! What a device says of itself when it asks for credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::devices::label::holds_nul;

/// The largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// The bytes of an X25519 public key (RFC 7748, 5).
const PUBLIC_KEY_BYTES: usize = 32;
/// The member of a request that holds it.
const PUBLIC_KEY: &str = "public_key";

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Introduction {
    pub(super) payload: Value,
    pub(super) public_key: Option<Vec<u8>>,
}

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Too much.
    #[error("a registration has at most {MAX_REQUEST_BYTES} bytes")]
    TooLarge,
    /// No object.
    #[error("a registration is a JSON object, or empty")]
    NotObject,
    /// No key.
    #[error("public_key is an X25519 public key: 32 bytes in base64")]
    Key,
}

/// Reads an X25519 public key in base64.
///
/// # Errors
/// [`BadRequest::Key`].
pub fn public_key(text: &str) -> Result<Vec<u8>, BadRequest> {
    let key = STANDARD.decode(text).map_err(|_| BadRequest::Key)?;
    Some(key).filter(|key| key.len() == PUBLIC_KEY_BYTES).ok_or(BadRequest::Key)
}

impl Introduction {
    /// Reads the payload of a registration.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn read(payload: &[u8]) -> Result<Self, BadRequest> {
        if payload.len() > MAX_REQUEST_BYTES {
            return Err(BadRequest::TooLarge);
        }
        let mut members: Map<String, Value> = if payload.is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(payload).map_err(|_| BadRequest::NotObject)?
        };
        let public_key = match members.remove(PUBLIC_KEY) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(public_key(&text)?),
            Some(_) => return Err(BadRequest::Key),
        };
        let payload = Value::Object(members);
        // No text of PostgreSQL's can hold it.
        if holds_nul(&payload) {
            return Err(BadRequest::NotObject);
        }
        Ok(Self { payload, public_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_is_an_object_with_perhaps_a_key() {
        let read = |text: &str| Introduction::read(text.as_bytes());
        assert!(read("").is_ok() && read("{}").is_ok());
        let with = read(&format!("{{\"name\":\"x\",\"public_key\":\"{}\"}}", STANDARD.encode([7; 32]))).expect("it is sound");
        assert_eq!(with.public_key.as_deref(), Some(&[7; 32][..]));
        assert_eq!(with.payload, serde_json::json!({"name": "x"}));
        assert_eq!(read("[]"), Err(BadRequest::NotObject));
        assert_eq!(read("{\"a\":\"\\u0000\"}"), Err(BadRequest::NotObject));
        for bad in ["7", "\"\"", "\"AAAA\"", "\"*\"", "{}"] {
            assert_eq!(read(&format!("{{\"public_key\":{bad}}}")), Err(BadRequest::Key), "{bad}");
        }
        assert_eq!(read(&format!("{{\"a\":\"{}\"}}", "x".repeat(5_000))), Err(BadRequest::TooLarge));
    }
}
