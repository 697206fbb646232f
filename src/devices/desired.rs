//! How a device is to be set, and how it says that it is.
//!
//! What is wanted is kept as it was given, to the byte, and has a version that only ever grows. What the device reports is kept beside it.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::{DeviceId, DeviceIdRef};

use super::registry::{self, RegistryError};

/// The most bytes of a configuration, wanted or reported.
pub const MAX_BYTES: usize = 64 * 1024;

const GET: &str = "
    SELECT coalesce(c.version, 0), c.desired::text, c.desired_at, c.desired_by, c.reported::text, c.reported_version, c.reported_at
    FROM devices d LEFT JOIN device_configs c USING (device_id)
    WHERE d.device = $1 AND d.deleted_at IS NULL";
const SET: &str = "
    INSERT INTO device_configs AS known (device_id, version, desired, desired_at, desired_by) VALUES ($1, 1, $2::text::json, now(), $3)
    ON CONFLICT (device_id) DO UPDATE
        SET version = known.version + 1, desired = excluded.desired, desired_at = excluded.desired_at, desired_by = excluded.desired_by
    RETURNING version, desired_at";
const NOTE: &str = "
    INSERT INTO device_configs AS known (device_id, reported, reported_version, reported_at)
    SELECT device_id, $2::text::json, $3, now() FROM devices WHERE device = $1 AND deleted_at IS NULL
    ON CONFLICT (device_id) DO UPDATE
        SET reported = excluded.reported, reported_version = excluded.reported_version, reported_at = excluded.reported_at";

/// A configuration as somebody gave it: the text of a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(String);

/// Why a text is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// Too much.
    #[error("a configuration has {MAX_BYTES} bytes at most; this has {0}")]
    Length(usize),
    /// No JSON, or no object.
    #[error("a configuration is a JSON object: {0}")]
    NoObject(String),
}

impl Text {
    /// Takes a text as it is, but for blanks around it.
    ///
    /// # Errors
    /// [`BadConfig`].
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.len() > MAX_BYTES {
            return Err(BadConfig::Length(text.len()));
        }
        match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(BadConfig::NoObject(error.to_string())),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How a device is to be set, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Moved on by every change; 0 where nothing was ever wanted.
    pub version: i32,
    /// What is wanted, as it was given; none where nothing is wanted any more.
    pub desired: Option<String>,
    /// Since when.
    pub desired_at: Option<Timestamp>,
    /// By whom, as the audit calls them.
    pub desired_by: Option<String>,
    /// What the device says that it has.
    pub reported: Option<String>,
    /// Which version it says that this is.
    pub reported_version: Option<i32>,
    /// When it said so.
    pub reported_at: Option<Timestamp>,
}

impl Desired {
    /// Whether the device has what is wanted: by the version that it reports, or, where it reports none, by what it holds. None where
    /// nothing is wanted.
    #[must_use]
    pub fn in_sync(&self) -> Option<bool> {
        let desired = self.desired.as_deref()?;
        Some(match (self.reported_version, self.reported.as_deref()) {
            (Some(version), _) => version == self.version,
            (None, Some(reported)) => {
                let value = |text| serde_json::from_str::<Value>(text).ok();
                value(desired).is_some_and(|desired| value(reported) == Some(desired))
            }
            (None, None) => false,
        })
    }
}

/// Why a configuration is not changed.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// The device.
    #[error(transparent)]
    Device(#[from] RegistryError),
    /// Somebody else changed it in between.
    #[error("the configuration of {} is at version {is}, and not at {expected}; read it again, and decide again", .id.as_str())]
    Version {
        /// Whose.
        id: DeviceId,
        /// The version that was asked for.
        expected: i32,
        /// The version that it has.
        is: i32,
    },
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// What is wanted of a device, and what it reports.
///
/// # Errors
/// [`RegistryError::Unknown`], or the database's.
pub async fn get(client: &impl GenericClient, id: &DeviceId) -> Result<Desired, RegistryError> {
    let row = client.query_opt(GET, &[&id.as_str()]).await?;
    let row = row.ok_or_else(|| RegistryError::Unknown(id.clone()))?;
    Ok(Desired {
        version: row.try_get(0)?,
        desired: row.try_get(1)?,
        desired_at: row.try_get(2)?,
        desired_by: row.try_get(3)?,
        reported: row.try_get(4)?,
        reported_version: row.try_get(5)?,
        reported_at: row.try_get(6)?,
    })
}

/// Sets what is wanted, or with `None` that nothing is, within a transaction; returns the new version, and since when.
///
/// # Errors
/// See [`DesiredError`].
pub async fn set(
    client: &impl GenericClient,
    id: &DeviceId,
    config: Option<&Text>,
    by: &str,
    expected: Option<i32>,
) -> Result<(i32, Timestamp), DesiredError> {
    let number = registry::lock(client, id, None).await?;
    if let Some(expected) = expected {
        let is = get(client, id).await?.version;
        if is != expected {
            return Err(DesiredError::Version {
                id: id.clone(),
                expected,
                is,
            });
        }
    }
    let row = client.query_one(SET, &[&number, &config.map(Text::as_str), &by]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Notes what a device says that it has, and which version it says that this is. Of a device that there is none of, nothing is noted.
///
/// # Errors
/// The database's.
pub async fn note_reported(client: &impl GenericClient, id: DeviceIdRef<'_>, version: Option<i32>, config: &Text) -> Result<(), Error> {
    client.execute(NOTE, &[&id.as_str(), &config.as_str(), &version]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_one_object_of_bounded_size_and_is_kept_as_it_is() {
        let text = "{ \"b\": 1.10, \"a\": [ 1,2 ] }";
        assert_eq!(Text::parse(&format!("\n{text} ")).as_ref().map(Text::as_str), Ok(text));
        for bad in ["", "[]", "7", "{\"a\":}", "{} {}", "null"] {
            assert!(matches!(Text::parse(bad), Err(BadConfig::NoObject(_))), "{bad}");
        }
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_BYTES));
        assert!(matches!(Text::parse(&large), Err(BadConfig::Length(_))));
    }

    #[test]
    fn a_device_is_in_sync_by_its_version_or_by_what_it_has() {
        let desired = |reported_version, reported: Option<&str>| Desired {
            version: 3,
            desired: Some("{\"a\": 1}".to_owned()),
            desired_at: None,
            desired_by: None,
            reported: reported.map(str::to_owned),
            reported_version,
            reported_at: None,
        };
        assert_eq!(desired(Some(3), Some("{}")).in_sync(), Some(true));
        assert_eq!(desired(Some(2), Some("{\"a\":1}")).in_sync(), Some(false));
        assert_eq!(desired(None, Some("{\"a\":1}")).in_sync(), Some(true));
        assert_eq!(desired(None, Some("{\"a\":2}")).in_sync(), Some(false));
        assert_eq!(desired(None, None).in_sync(), Some(false));
    }
}
