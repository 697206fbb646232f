//! All groups with their members, and the devices that groups and credentials are about: out of the database, and into it.

use jiff::Timestamp;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::id::{BadDeviceId, BadGroupId, DeviceId, DeviceIdRef, GroupId};

use super::groups;
use super::label::{self, BadLabel, DeviceType, Metadata, Name, Tag};
use super::registry::{self, Description};

// Devices that only ever sent telemetry are known again by their next message.
const READ_DEVICES: &str = "
    SELECT device, created_at, display_name, device_type, tags, metadata, deleted_at, shut_out_at, disabled FROM devices
    WHERE shut_out_at IS NOT NULL
       OR deleted_at IS NULL
          AND (device_id IN (SELECT device_id FROM device_group_members)
               OR device IN (SELECT username FROM broker_users WHERE role = 'device')
               OR display_name IS NOT NULL OR device_type IS NOT NULL OR tags <> '{}' OR metadata <> '{}')
    ORDER BY device";
const READ_GROUPS: &str = "
    SELECT g.group_id, g.created_at, coalesce(array_agg(d.device ORDER BY d.device) FILTER (WHERE d.device IS NOT NULL), '{}'),
           g.name, g.match_tag, g.match_type
    FROM device_groups g
    LEFT JOIN device_group_members USING (group_id)
    LEFT JOIN devices d USING (device_id)
    GROUP BY g.group_id
    ORDER BY g.group_id";
// In one order, as everybody registers devices: else two could wait for each other. One that was deleted then and is there now stays.
const WRITE_DEVICES: &str = "
    INSERT INTO devices AS known (device, created_at, deleted_at, shut_out_at, disabled)
    SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::bool[]) ORDER BY 1
    ON CONFLICT (device) DO UPDATE
        SET deleted_at = CASE WHEN excluded.deleted_at IS NOT NULL THEN known.deleted_at END, shut_out_at = excluded.shut_out_at,
            disabled = excluded.disabled, updated_at = now(), revision = known.revision + 1
        WHERE (known.deleted_at IS NOT NULL AND excluded.deleted_at IS NULL)
           OR (known.shut_out_at, known.disabled) IS DISTINCT FROM (excluded.shut_out_at, excluded.disabled)";
const DESCRIBE: &str = "
    UPDATE devices AS known
    SET display_name = said.name, device_type = said.device_type, tags = said.tags, metadata = said.metadata,
        updated_at = now(), revision = known.revision + 1
    FROM (SELECT device, name, device_type, ARRAY(SELECT jsonb_array_elements_text(tags)) AS tags, metadata
          FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::jsonb[]) AS news (device, name, device_type, tags, metadata)) AS said
    WHERE known.device = said.device
      AND (known.display_name, known.device_type, known.tags, known.metadata) IS DISTINCT FROM (said.name, said.device_type, said.tags, said.metadata)";
// Before any device is held, as everybody has it.
const HOLD_GROUPS: &str = "SELECT FROM device_groups ORDER BY group_id FOR NO KEY UPDATE";
const CLEAR_GROUPS: &str = "DELETE FROM device_groups";
const WRITE_GROUPS: &str = "
    INSERT INTO device_groups (group_id, created_at, name, match_tag, match_type)
    SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])";
// Members of dynamic groups are there by themselves.
const WRITE_MEMBERS: &str = "
    INSERT INTO device_group_members (group_id, device_id)
    SELECT group_id, device_id FROM unnest($1::text[], $2::text[]) AS member (group_id, device)
    JOIN devices USING (device) JOIN device_groups g USING (group_id)
    WHERE g.match_tag IS NULL AND g.match_type IS NULL";

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// What is stored is no device id: somebody wrote it by other means.
    #[error("devices has a row that cannot be used: {0}")]
    Device(#[from] BadDeviceId),
    /// What is stored is no group id.
    #[error("device_groups has a row that cannot be used: {0}")]
    Group(#[from] BadGroupId),
    /// What is stored is no name, type or tag.
    #[error("devices or device_groups has a row that cannot be used: {0}")]
    Label(#[from] BadLabel),
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
    /// When it was deleted, where it is here for being shut out.
    pub deleted_at: Option<Timestamp>,
    /// Whether it is shut out.
    pub shut_out: Option<ShutOut>,
    /// What people say of it; none of one that was deleted, and in what was exported before there was such a thing.
    pub description: Option<Description>,
}

/// That a device is shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutOut {
    /// Since when.
    pub at: Timestamp,
    /// Until somebody enables it, and not only until it is given credentials.
    pub disabled: bool,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedGroup {
    /// Its id.
    pub id: GroupId,
    /// When it was made.
    pub created_at: Timestamp,
    /// What people say of it.
    pub description: groups::Description,
    /// Who belongs to it.
    pub members: Vec<DeviceId>,
}

/// The devices that a group or a credential is about, and those that are shut out, by id.
///
/// # Errors
/// See [`ExportError`].
pub async fn read_devices(client: &impl GenericClient) -> Result<Vec<ExportedDevice>, ExportError> {
    client.query(READ_DEVICES, &[]).await?.iter().map(device).collect()
}

fn device(row: &Row) -> Result<ExportedDevice, ExportError> {
    let deleted_at: Option<Timestamp> = row.try_get(6)?;
    let description = Description {
        name: row.get::<_, Option<&str>>(2).map(Name::parse).transpose()?,
        device_type: row.get::<_, Option<&str>>(3).map(DeviceType::parse).transpose()?,
        tags: label::tags(&row.get::<_, Vec<&str>>(4))?,
        metadata: Metadata::new(row.try_get(5)?)?,
    };
    let (shut_out_at, disabled): (Option<Timestamp>, bool) = (row.try_get(7)?, row.try_get(8)?);
    Ok(ExportedDevice {
        id: DeviceIdRef::parse(row.get(0))?.to_owned(),
        created_at: row.try_get(1)?,
        deleted_at,
        shut_out: shut_out_at.map(|at| ShutOut { at, disabled }),
        description: deleted_at.is_none().then_some(description),
    })
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
            description: groups::Description {
                name: row.get::<_, Option<&str>>(3).map(Name::parse).transpose()?,
                match_tag: row.get::<_, Option<&str>>(4).map(Tag::parse).transpose()?,
                match_type: row.get::<_, Option<&str>>(5).map(DeviceType::parse).transpose()?,
            },
            members: members
                .into_iter()
                .map(|id| DeviceIdRef::parse(id).map(DeviceIdRef::to_owned))
                .collect::<Result<_, _>>()?,
        })
    };
    client.query(READ_GROUPS, &[]).await?.iter().map(group).collect()
}

/// Registers `devices`, beside those that are there, shuts them out or lets them in, and puts `groups` in the place of all that are there. For a transaction:
/// in between there are none. Every member must be registered.
///
/// # Errors
/// The database's.
pub async fn replace(client: &impl GenericClient, devices: &[ExportedDevice], groups: &[ExportedGroup]) -> Result<(), Error> {
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    let created: Vec<Timestamp> = devices.iter().map(|device| device.created_at).collect();
    let deleted: Vec<Option<Timestamp>> = devices.iter().map(|device| device.deleted_at).collect();
    let shut_out: Vec<Option<Timestamp>> = devices.iter().map(|device| device.shut_out.map(|shut_out| shut_out.at)).collect();
    let disabled: Vec<bool> = devices
        .iter()
        .map(|device| device.shut_out.is_some_and(|shut_out| shut_out.disabled))
        .collect();
    client.execute(HOLD_GROUPS, &[]).await?;
    client
        .execute(WRITE_DEVICES, &[&ids, &created, &deleted, &shut_out, &disabled])
        .await?;
    describe(client, devices).await?;
    client.execute(CLEAR_GROUPS, &[]).await?;
    let ids: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
    let created: Vec<Timestamp> = groups.iter().map(|group| group.created_at).collect();
    let described: Vec<_> = groups.iter().map(|group| groups::columns(&group.description)).collect();
    let names: Vec<Option<&str>> = described.iter().map(|(name, ..)| *name).collect();
    let tags: Vec<Option<&str>> = described.iter().map(|(_, tag, _)| *tag).collect();
    let types: Vec<Option<&str>> = described.iter().map(|(.., kind)| *kind).collect();
    client.execute(WRITE_GROUPS, &[&ids, &created, &names, &tags, &types]).await?;
    let (in_groups, members): (Vec<&str>, Vec<&str>) = groups
        .iter()
        .flat_map(|group| group.members.iter().map(|member| (group.id.as_str(), member.as_str())))
        .unzip();
    client.execute(WRITE_MEMBERS, &[&in_groups, &members]).await?;
    Ok(())
}

async fn describe(client: &impl GenericClient, devices: &[ExportedDevice]) -> Result<(), Error> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for device in devices {
        let Some(description) = &device.description else { continue };
        let (name, device_type, tags, metadata) = registry::columns(description);
        columns.0.push(device.id.as_str());
        columns.1.push(name);
        columns.2.push(device_type);
        columns.3.push(serde_json::Value::from(tags));
        columns.4.push(metadata);
    }
    client
        .execute(DESCRIBE, &[&columns.0, &columns.1, &columns.2, &columns.3, &columns.4])
        .await
        .map(drop)
}
