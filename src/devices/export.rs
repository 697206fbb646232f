//! All groups with their members, and the devices that groups and credentials are about: out of the database, and into it.

use jiff::Timestamp;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::id::{BadDeviceId, BadGroupId, DeviceId, DeviceIdRef, GroupId};

// Devices that only ever sent telemetry are known again by their next message.
const READ_DEVICES: &str = "
    SELECT device, created_at FROM devices
    WHERE device_id IN (SELECT device_id FROM device_group_members)
       OR device IN (SELECT username FROM broker_users WHERE role = 'device')
    ORDER BY device";
const READ_GROUPS: &str = "
    SELECT g.group_id, g.created_at, coalesce(array_agg(d.device ORDER BY d.device) FILTER (WHERE d.device IS NOT NULL), '{}')
    FROM device_groups g
    LEFT JOIN device_group_members USING (group_id)
    LEFT JOIN devices d USING (device_id)
    GROUP BY g.group_id
    ORDER BY g.group_id";
// In one order, as everybody registers devices: else two could wait for each other.
const WRITE_DEVICES: &str = "
    INSERT INTO devices (device, created_at) SELECT * FROM unnest($1::text[], $2::timestamptz[]) ORDER BY 1
    ON CONFLICT (device) DO NOTHING";
const CLEAR_GROUPS: &str = "DELETE FROM device_groups";
const WRITE_GROUPS: &str = "INSERT INTO device_groups (group_id, created_at) SELECT * FROM unnest($1::text[], $2::timestamptz[])";
const WRITE_MEMBERS: &str = "
    INSERT INTO device_group_members (group_id, device_id)
    SELECT group_id, device_id FROM unnest($1::text[], $2::text[]) AS member (group_id, device) JOIN devices USING (device)";

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What is stored is no device id: somebody wrote it by other means.
    #[error("devices has a row that cannot be used: {0}")]
    Device(#[from] BadDeviceId),
    /// What is stored is no group id.
    #[error("device_groups has a row that cannot be used: {0}")]
    Group(#[from] BadGroupId),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// A device, as far as it is not telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedDevice {
    /// Its id.
    pub id: DeviceId,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedGroup {
    /// Its id.
    pub id: GroupId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who belongs to it.
    pub members: Vec<DeviceId>,
}

/// The devices that a group or a credential is about, by id.
///
/// # Errors
/// See [`ExportError`].
pub async fn read_devices(client: &impl GenericClient) -> Result<Vec<ExportedDevice>, ExportError> {
    let device = |row: &Row| {
        Ok(ExportedDevice {
            id: DeviceIdRef::parse(row.get(0))?.to_owned(),
            created_at: row.try_get(1)?,
        })
    };
    client.query(READ_DEVICES, &[]).await?.iter().map(device).collect()
}

/// All groups by id.
///
/// # Errors
/// See [`ExportError`].
pub async fn read_groups(client: &impl GenericClient) -> Result<Vec<ExportedGroup>, ExportError> {
    let group = |row: &Row| {
        let members = row.get::<_, Vec<&str>>(2);
        Ok(ExportedGroup {
            id: GroupId::parse(row.get(0))?,
            created_at: row.try_get(1)?,
            members: members
                .into_iter()
                .map(|id| DeviceIdRef::parse(id).map(DeviceIdRef::to_owned))
                .collect::<Result<_, _>>()?,
        })
    };
    client.query(READ_GROUPS, &[]).await?.iter().map(group).collect()
}

/// Registers `devices`, beside those that are there, and puts `groups` in the place of all that are there. For a transaction:
/// in between there are none. Every member must be registered.
///
/// # Errors
/// The database's.
pub async fn replace(client: &impl GenericClient, devices: &[ExportedDevice], groups: &[ExportedGroup]) -> Result<(), Error> {
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let created: Vec<Timestamp> = devices.iter().map(|device| device.created_at).collect();
    client.execute(WRITE_DEVICES, &[&ids, &created]).await?;
    client.execute(CLEAR_GROUPS, &[]).await?;
    let ids: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
    let created: Vec<Timestamp> = groups.iter().map(|group| group.created_at).collect();
    client.execute(WRITE_GROUPS, &[&ids, &created]).await?;
    let (in_groups, members): (Vec<&str>, Vec<&str>) = groups
        .iter()
        .flat_map(|group| group.members.iter().map(|member| (group.id.as_str(), member.as_str())))
        .unzip();
    client.execute(WRITE_MEMBERS, &[&in_groups, &members]).await?;
    Ok(())
}
