//! Serial numbers: random, so that none can be foreseen, and as long as they may be.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::broker::digest::hex;

/// The most that RFC 5280 (4.1.2.2) lets a serial number have.
const SERIAL_BYTES: usize = 20;

/// A certificate's serial number, in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

/// The text is no serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is {n} hexadecimal digits, with or without colons", n = SERIAL_BYTES * 2)]
pub struct BadSerial;

impl Serial {
    /// 158 random bits from the operating system.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SERIAL_BYTES];
        getrandom::fill(&mut bytes)?;
        // The number is positive, and every serial has the same length: the first bit is 0, the second 1.
        bytes[0] = bytes[0] & 0x7F | 0x40;
        Ok(Self(hex(&bytes)))
    }

    /// As digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn number(&self) -> rcgen::SerialNumber {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Vec<u8> = self
            .0
            .as_bytes()
            .chunks(2)
            .map(|pair| {
                pair.iter()
                    .filter_map(|byte| digit(*byte))
                    .fold(0, |value, digit| value << 4 | digit)
            })
            .collect();
        rcgen::SerialNumber::from_slice(&bytes)
    }
}

impl FromStr for Serial {
    type Err = BadSerial;

    /// Takes what `openssl x509 -serial` and browsers show: either case, with or without colons.
    fn from_str(text: &str) -> Result<Self, BadSerial> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        if digits.len() == SERIAL_BYTES * 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(digits))
        } else {
            Err(BadSerial)
        }
    }
}

impl TryFrom<String> for Serial {
    type Error = BadSerial;

    fn try_from(text: String) -> Result<Self, BadSerial> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_long_and_differ() {
        let serials = [(); 3].map(|()| Serial::random().expect("randomness"));
        assert!(serials[0] != serials[1] && serials[1] != serials[2]);
        for serial in serials {
            let bytes = serial.number().to_bytes();
            assert_eq!((bytes.len(), bytes[0] & 0xC0), (SERIAL_BYTES, 0x40));
            assert_eq!(hex(&bytes), serial.as_str());
        }
    }

    #[test]
    fn serials_are_read_as_others_write_them() {
        let serial = Serial::random().expect("randomness");
        let pairs: Vec<&str> = (0..SERIAL_BYTES).map(|index| &serial.as_str()[2 * index..2 * index + 2]).collect();
        assert_eq!(pairs.join(":").to_uppercase().parse(), Ok(serial.clone()));
        for bad in [
            "",
            "12",
            &serial.as_str()[1..],
            &serial.as_str().replacen(char::is_alphanumeric, "g", 1),
        ] {
            assert_eq!(bad.parse::<Serial>(), Err(BadSerial), "{bad:?}");
        }
    }
}
