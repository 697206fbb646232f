//! Device ids: parsed once where a topic comes in, so that nothing behind has to ask what they may hold.

use std::borrow::Borrow;
use std::fmt;

/// The longest device id, in bytes.
pub const MAX_DEVICE_ID_BYTES: usize = 64;

/// Why a text is no device id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a device id is 1 to 64 of the characters A-Z a-z 0-9 _ . : -")]
pub struct BadDeviceId;

/// A device id borrowed from the topic that named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceIdRef<'a>(&'a str);

impl<'a> DeviceIdRef<'a> {
    /// Takes `text` as a device id.
    ///
    /// # Errors
    /// [`BadDeviceId`] unless it is 1 to 64 of `[A-Za-z0-9_.:-]`.
    pub fn parse(text: &'a str) -> Result<Self, BadDeviceId> {
        let fits = (1..=MAX_DEVICE_ID_BYTES).contains(&text.len());
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
        if fits && text.bytes().all(allowed) {
            Ok(Self(text))
        } else {
            Err(BadDeviceId)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// A copy that outlives the topic.
    #[must_use]
    pub fn to_owned(self) -> DeviceId {
        DeviceId(self.0.into())
    }
}

impl fmt::Display for DeviceIdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A device id of its own; compares and hashes as its text does, so that maps answer to a borrowed one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceId(Box<str>);

impl DeviceId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> DeviceIdRef<'_> {
        DeviceIdRef(&self.0)
    }
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Why a text is no group id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a group id is 1 to 64 of the characters A-Z a-z 0-9 _ . : -")]
pub struct BadGroupId;

/// A group of devices: a level of `fleet/commands/{group_id}`, of the same grammar as a device id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(Box<str>);

impl GroupId {
    /// Takes `text` as a group id.
    ///
    /// # Errors
    /// [`BadGroupId`].
    pub fn parse(text: &str) -> Result<Self, BadGroupId> {
        DeviceIdRef::parse(text).map(|id| Self(id.0.into())).map_err(|_| BadGroupId)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no name of a user of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUsername {
    /// Not of the grammar.
    #[error("a user name is 1 to 64 of the characters A-Z a-z 0-9 _ . : - and begins with none of . : -")]
    Grammar,
    /// It has a colon, and is to have a password.
    #[error(
        "a user name with a colon cannot have a password, for Mosquitto's password file ends the name there; it can have a certificate"
    )]
    Colon,
}

/// The name by which the broker knows a client: what it logs in with, or its certificate's common name. A device's is its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Username(Box<str>);

impl Username {
    /// Takes `text` as a user name.
    ///
    /// # Errors
    /// [`BadUsername::Grammar`].
    pub fn parse(text: &str) -> Result<Self, BadUsername> {
        // It becomes a file's name and an argument of programs: neither `..` nor what looks like an option.
        if text.starts_with(['.', ':', '-']) {
            return Err(BadUsername::Grammar);
        }
        DeviceIdRef::parse(text)
            .map(|id| Self(id.0.into()))
            .map_err(|_| BadUsername::Grammar)
    }

    /// The same, for one who logs in with a password.
    ///
    /// # Errors
    /// [`BadUsername`].
    pub fn with_password(text: &str) -> Result<Self, BadUsername> {
        if text.contains(':') && Self::parse(text).is_ok() {
            return Err(BadUsername::Colon);
        }
        Self::parse(text)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_exact() {
        let longest = "x".repeat(64);
        for good in ["a", "sensor_001", "A.b:c-9", &longest] {
            assert_eq!(DeviceIdRef::parse(good).map(DeviceIdRef::as_str), Ok(good));
        }
        let too_long = "x".repeat(65);
        for bad in ["", "a b", "a/b", "a+", "#", "ünit", "a\0", "a\n", "..\\", &too_long] {
            assert_eq!(DeviceIdRef::parse(bad), Err(BadDeviceId), "{bad:?}");
            assert_eq!(GroupId::parse(bad), Err(BadGroupId), "{bad:?}");
            assert_eq!(Username::with_password(bad), Err(BadUsername::Grammar), "{bad:?}");
        }
    }

    #[test]
    fn names_that_mean_something_to_files_and_programs_are_refused() {
        for bad in [".", "..", ".hidden", "-u", ":a"] {
            assert_eq!(Username::parse(bad), Err(BadUsername::Grammar), "{bad}");
        }
    }

    #[test]
    fn a_colon_goes_with_a_certificate_only() {
        assert!(Username::parse("aa:bb").is_ok());
        assert_eq!(Username::with_password("aa:bb"), Err(BadUsername::Colon));
    }
}
