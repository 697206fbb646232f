//! A device as it is read: the row, where it stands, and what credentials it has.

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio_postgres::{Error, Row};
use utoipa::ToSchema;

use crate::protocol::id::{DeviceId, DeviceIdRef};

/// Where a device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeviceStatus)]
pub enum Status {
    /// It said that it came, or sends heartbeats.
    Online,
    /// It said that it went, its will did, or its heartbeats stopped.
    Offline,
    /// It never said.
    Unknown,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Online, Self::Offline, Self::Unknown];

    /// As people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn of_row(stored: Option<&str>) -> Self {
        match stored {
            Some("online") => Self::Online,
            Some(_) => Self::Offline,
            None => Self::Unknown,
        }
    }
}

/// Why a text is no status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a status is online, offline or unknown")]
pub struct BadStatus;

impl std::str::FromStr for Status {
    type Err = BadStatus;

    fn from_str(text: &str) -> Result<Self, BadStatus> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(BadStatus)
    }
}

/// What is known of a device. Its texts are as people wrote them: escape them before a terminal sees them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Device {
    /// Its number, which telemetry bears.
    #[serde(skip)]
    pub number: i32,
    /// Its id, which stands in its topics.
    #[serde(rename = "device_id", serialize_with = "as_text")]
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "sensor_001")]
    pub id: DeviceId,
    /// What people call it.
    #[schema(example = "Bob's sensor")]
    pub name: Option<String>,
    /// What kind of device it is.
    #[schema(example = "thermometer")]
    pub device_type: Option<String>,
    /// What devices are gathered by.
    pub tags: Vec<String>,
    /// What else is known of it: an object.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// The groups it belongs to, by id.
    pub groups: Vec<String>,
    /// Whether it is online.
    pub status: Status,
    /// Since when it has this status.
    pub status_since: Option<Timestamp>,
    /// When the newest of its messages came or was measured.
    pub last_seen_at: Option<Timestamp>,
    /// Whether the broker knows it, by a password or a certificate.
    pub has_mqtt_credentials: bool,
    /// Whether it has a key for HTTP.
    pub has_api_key: bool,
    /// Whether it gets in with what credentials it has. Not one that is disabled, nor one whose credentials were taken away.
    pub enabled: bool,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Moved on by every change.
    pub revision: i32,
}

/// From where [`COLUMNS`] are read.
pub(super) const TABLES: &str = "
    devices d
    LEFT JOIN device_status s USING (device_id)
    LEFT JOIN broker_users u ON u.username = d.device AND u.role = 'device'
    LEFT JOIN device_keys k USING (device_id)";

/// When a device was last seen. A device's clock may be ahead of ours, and nothing was seen in the future.
pub(super) const LAST_SEEN: &str = "greatest(coalesce(s.received_at, s.seen_at), \
    (SELECT max(least(l.\"time\", now())) FROM latest l WHERE l.device_id = d.device_id))";

// What is kept on the credentials is what a replica of the release before writes.
pub(super) const ENABLED: &str = "(d.shut_out_at IS NULL AND u.disabled_at IS NULL AND k.disabled_at IS NULL)";

/// What [`device`] reads, of [`TABLES`].
pub(super) fn columns() -> String {
    // Constants alone: nothing that anybody wrote gets in here.
    format!(
        "d.device_id, d.device, d.display_name, d.device_type, d.tags, d.metadata, d.created_at, d.updated_at, d.revision, \
         ARRAY(SELECT m.group_id FROM device_group_members m WHERE m.device_id = d.device_id ORDER BY 1), \
         s.status, s.since, {LAST_SEEN}, \
         u.username IS NOT NULL AND (u.password_hash IS NOT NULL OR u.disabled_at IS NULL), k.device_id IS NOT NULL, {ENABLED}"
    )
}

pub(super) fn device(row: &Row) -> Result<Device, Error> {
    // The table's own check has the grammar.
    let id = DeviceIdRef::parse(row.try_get(1)?)
        .expect("devices.device has a check of the same grammar")
        .to_owned();
    Ok(Device {
        number: row.try_get(0)?,
        id,
        name: row.try_get(2)?,
        device_type: row.try_get(3)?,
        tags: row.try_get(4)?,
        metadata: row.try_get(5)?,
        created_at: row.try_get(6)?,
        updated_at: row.try_get(7)?,
        revision: row.try_get(8)?,
        groups: row.try_get(9)?,
        status: Status::of_row(row.try_get(10)?),
        status_since: row.try_get(11)?,
        last_seen_at: row.try_get(12)?,
        has_mqtt_credentials: row.try_get(13)?,
        has_api_key: row.try_get(14)?,
        enabled: row.try_get(15)?,
    })
}

fn as_text<S: Serializer>(id: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_str())
}
