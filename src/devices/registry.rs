//! Devices by the id in their topics: registered, found, changed, deleted. Telemetry registers a device as well; here it is done
//! before its first message.

use serde_json::Value;
use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::{DeviceId, DeviceIdRef};

use super::device::{self, Device};
use super::label::{DeviceType, Metadata, Name, Tag};
use super::patch::Patch;

// In the order in which imports lock theirs.
const REGISTER: &str = "
    INSERT INTO devices AS known (device) SELECT device FROM unnest($1::text[]) AS device ORDER BY device
    ON CONFLICT (device) DO UPDATE
        SET deleted_at = NULL, created_at = now(), updated_at = now(), revision = known.revision + 1, shut_out_at = NULL, disabled = false
        WHERE known.deleted_at IS NOT NULL";
const FIND: &str = "SELECT device_id FROM devices WHERE device = $1 AND deleted_at IS NULL";
const FIND_ALL: &str = "SELECT device_id FROM devices WHERE device = ANY ($1::text[]) AND deleted_at IS NULL";
const FIND_EVEN_DELETED: &str = "SELECT device_id FROM devices WHERE device = $1";
// Whoever is registered again is somebody new, but for the number that old telemetry bears.
const CREATE: &str = "
    INSERT INTO devices AS known (device, display_name, device_type, tags, metadata) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (device) DO UPDATE
        SET display_name = excluded.display_name, device_type = excluded.device_type, tags = excluded.tags, metadata = excluded.metadata,
            deleted_at = NULL, created_at = now(), updated_at = now(), revision = known.revision + 1, shut_out_at = NULL, disabled = false
        WHERE known.deleted_at IS NOT NULL
    RETURNING device_id";
// NO KEY, here and with groups: whoever makes a device a member of a group holds the keys of both, and waits for neither.
const LOCK: &str = "SELECT device_id, revision FROM devices WHERE device = $1 AND deleted_at IS NULL FOR NO KEY UPDATE";
const UPDATE: &str = "
    UPDATE devices SET display_name = $2, device_type = $3, tags = $4, metadata = $5, revision = revision + 1, updated_at = now()
    WHERE device_id = $1";
const DELETE: &str = "
    UPDATE devices
    SET display_name = NULL, device_type = NULL, tags = '{}', metadata = '{}', deleted_at = now(), updated_at = now(), revision = revision + 1
    WHERE device_id = $1";
const SHUT_OUT: &str = "
    UPDATE devices SET shut_out_at = coalesce(shut_out_at, now()), disabled = disabled OR $2 WHERE device_id = $1";
const LET_IN: &str = "UPDATE devices SET shut_out_at = NULL, disabled = false WHERE device_id = $1";
const READMIT: &str = "
    UPDATE devices SET shut_out_at = NULL WHERE device_id = ANY ($1::int4[]) AND shut_out_at IS NOT NULL AND NOT disabled";
/// What is known of a device beside its telemetry, its credentials and its registration; commands are history, and those under way end
/// here. Where it stands before them, as in the order of all locks of deliveries (see [`super::commands`]).
const FORGET: [&str; 5] = [
    "DELETE FROM device_group_members WHERE device_id = $1",
    "DELETE FROM device_status WHERE device_id = $1",
    "WITH open AS (
         SELECT seq FROM command_deliveries
         WHERE device_id = $1 AND state IN ('queued', 'sent', 'delivered', 'accepted', 'progress') ORDER BY seq FOR UPDATE)
     UPDATE command_deliveries d SET state = 'cancelled', finished_at = now(), held = false, message = 'the device was deleted'
     FROM open WHERE d.seq = open.seq",
    "DELETE FROM device_configs WHERE device_id = $1",
    "DELETE FROM latest WHERE device_id = $1",
];

/// Why a device is not found, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is none, or none any more.
    #[error("there is no device {}", .0.as_str())]
    Unknown(DeviceId),
    /// There is one.
    #[error("there is a device {} already; change it, or give it credentials by a rotation", .0.as_str())]
    Exists(DeviceId),
    /// Somebody else changed it in between.
    #[error("the device {} is at revision {is}, and not at {expected}; read it again, and decide again", .id.as_str())]
    Revision {
        /// Which.
        id: DeviceId,
        /// The revision that was asked for.
        expected: i32,
        /// The revision that it has.
        is: i32,
    },
    /// The change makes no sense.
    #[error(transparent)]
    Label(#[from] super::label::BadLabel),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// What people say of a device that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// What they call it.
    pub name: Option<Name>,
    /// What kind it is.
    pub device_type: Option<DeviceType>,
    /// What it is gathered by.
    pub tags: Vec<Tag>,
    /// What else is known.
    pub metadata: Metadata,
}

/// Registers a device that is given credentials, unless it is, or after it was deleted; returns its number, and whether it is new.
///
/// # Errors
/// The database's.
pub async fn register(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<(i32, bool), Error> {
    let new = client.execute(REGISTER, &[&[device.as_str()].as_slice()]).await? > 0;
    let number = client.query_one(FIND, &[&device.as_str()]).await?.get(0);
    readmit(client, &[number]).await?;
    Ok((number, new))
}

/// The same for many at once, in one order with all others who do so.
///
/// # Errors
/// The database's.
pub async fn register_all(client: &impl GenericClient, devices: &[&str]) -> Result<(), Error> {
    client.execute(REGISTER, &[&devices]).await?;
    let rows = client.query(FIND_ALL, &[&devices]).await?;
    let numbers: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    readmit(client, &numbers).await
}

/// Shuts a device out, whatever credentials it has or gets: if `disabled`, until it is let in, else until it is given credentials.
///
/// # Errors
/// The database's.
pub async fn shut_out(client: &impl GenericClient, number: i32, disabled: bool) -> Result<(), Error> {
    client.execute(SHUT_OUT, &[&number, &disabled]).await.map(drop)
}

/// Lets a device in that was shut out, with what credentials it has.
///
/// # Errors
/// The database's.
pub async fn let_in(client: &impl GenericClient, number: i32) -> Result<(), Error> {
    client.execute(LET_IN, &[&number]).await.map(drop)
}

/// Lets devices in that are given credentials, but for those that are disabled.
///
/// # Errors
/// The database's.
pub async fn readmit(client: &impl GenericClient, numbers: &[i32]) -> Result<(), Error> {
    client.execute(READMIT, &[&numbers]).await.map(drop)
}

/// The number of a device.
///
/// # Errors
/// The database's.
pub async fn find(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<i32>, Error> {
    Ok(client.query_opt(FIND, &[&device.as_str()]).await?.map(|row| row.get(0)))
}

/// The number of a device, deleted or not: what it sent is still there.
///
/// # Errors
/// The database's.
pub async fn find_even_deleted(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<i32>, Error> {
    let row = client.query_opt(FIND_EVEN_DELETED, &[&device.as_str()]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Registers a device with what people say of it; returns its number.
///
/// # Errors
/// [`RegistryError::Exists`], or the database's.
pub async fn create(client: &impl GenericClient, id: &DeviceId, description: &Description) -> Result<i32, RegistryError> {
    let (name, device_type, tags, metadata) = columns(description);
    let row = client
        .query_opt(CREATE, &[&id.as_str(), &name, &device_type, &tags, &metadata])
        .await?;
    Ok(row.ok_or_else(|| RegistryError::Exists(id.clone()))?.try_get(0)?)
}

/// A device.
///
/// # Errors
/// [`RegistryError::Unknown`], or the database's.
pub async fn get(client: &impl GenericClient, id: &DeviceId) -> Result<Device, RegistryError> {
    let statement = format!(
        "SELECT {} FROM {} WHERE d.device = $1 AND d.deleted_at IS NULL",
        device::columns(),
        device::TABLES
    );
    let row = client.query_opt(&statement, &[&id.as_str()]).await?;
    Ok(device::device(&row.ok_or_else(|| RegistryError::Unknown(id.clone()))?)?)
}

/// Holds a device against other changes until the end of the transaction that `client` is in; returns its number. With a revision,
/// it must have that one.
///
/// # Errors
/// [`RegistryError::Unknown`], [`RegistryError::Revision`], or the database's.
pub async fn lock(client: &impl GenericClient, id: &DeviceId, expected: Option<i32>) -> Result<i32, RegistryError> {
    let row = client.query_opt(LOCK, &[&id.as_str()]).await?;
    let row = row.ok_or_else(|| RegistryError::Unknown(id.clone()))?;
    let is = row.try_get(1)?;
    match expected {
        Some(expected) if expected != is => Err(RegistryError::Revision {
            id: id.clone(),
            expected,
            is,
        }),
        _ => Ok(row.try_get(0)?),
    }
}

/// Changes what people say of a device, within a transaction; returns the device as it is now, and the names of what changed:
/// none where it was so already, and then its revision stays.
///
/// # Errors
/// See [`RegistryError`].
pub async fn patch(
    client: &impl GenericClient,
    id: &DeviceId,
    patch: &Patch,
    expected: Option<i32>,
) -> Result<(Device, Vec<&'static str>), RegistryError> {
    let number = lock(client, id, expected).await?;
    let before = get(client, id).await?;
    let after = patch.apply(&before)?;
    let changed = after.differences(&before);
    if changed.is_empty() {
        return Ok((before, changed));
    }
    let (name, device_type, tags, metadata) = columns(&after);
    client.execute(UPDATE, &[&number, &name, &device_type, &tags, &metadata]).await?;
    Ok((get(client, id).await?, changed))
}

/// Deletes a device, within a transaction: what is known of it is forgotten, and its telemetry stays. Its credentials and its registration
/// are somebody else's.
///
/// # Errors
/// The database's.
pub async fn delete(client: &impl GenericClient, number: i32) -> Result<(), Error> {
    client.execute(DELETE, &[&number]).await?;
    for statement in FORGET {
        client.execute(statement, &[&number]).await?;
    }
    Ok(())
}

pub(super) fn columns(description: &Description) -> (Option<&str>, Option<&str>, Vec<&str>, Value) {
    (
        description.name.as_ref().map(Name::as_str),
        description.device_type.as_ref().map(DeviceType::as_str),
        description.tags.iter().map(Tag::as_str).collect(),
        description.metadata.to_value(),
    )
}

impl Description {
    /// The names of what is not as `device` has it.
    pub(super) fn differences(&self, device: &Device) -> Vec<&'static str> {
        let (name, device_type, tags, metadata) = columns(self);
        [
            ("name", name != device.name.as_deref()),
            ("device_type", device_type != device.device_type.as_deref()),
            ("tags", tags != device.tags),
            ("metadata", metadata != device.metadata),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}
