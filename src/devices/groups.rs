//! Groups of devices: membership is the right to read the group's commands.

use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::{DeviceIdRef, GroupId};

const CREATE: &str = "INSERT INTO device_groups (group_id) VALUES ($1) ON CONFLICT (group_id) DO NOTHING";
const ADD: &str = "INSERT INTO device_group_members (group_id, device_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const REMOVE: &str = "DELETE FROM device_group_members WHERE group_id = $1 AND device_id = $2";

const OF_DEVICE: &str = "
    SELECT coalesce(array_agg(m.group_id ORDER BY m.group_id) FILTER (WHERE m.group_id IS NOT NULL), '{}')
    FROM devices d LEFT JOIN device_group_members m USING (device_id)
    WHERE d.device = $1 AND d.deleted_at IS NULL
    GROUP BY d.device_id";

/// The groups that a device is a member of, by id; none where there is no such device.
///
/// # Errors
/// The database's.
pub async fn of_device(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<Vec<GroupId>>, Error> {
    let Some(row) = client.query_opt(OF_DEVICE, &[&device.as_str()]).await? else {
        return Ok(None);
    };
    let groups: Vec<&str> = row.try_get(0)?;
    // The table's own check is the grammar's.
    Ok(Some(groups.into_iter().filter_map(|group| GroupId::parse(group).ok()).collect()))
}

/// Makes a device a member, and the group if there is none; returns whether it was none before.
///
/// # Errors
/// The database's.
pub async fn add(client: &impl GenericClient, group: &GroupId, device_id: i32) -> Result<bool, Error> {
    client.execute(CREATE, &[&group.as_str()]).await?;
    Ok(client.execute(ADD, &[&group.as_str(), &device_id]).await? > 0)
}

/// Ends a device's membership; returns whether it was a member.
///
/// # Errors
/// The database's.
pub async fn remove(client: &impl GenericClient, group: &GroupId, device_id: i32) -> Result<bool, Error> {
    Ok(client.execute(REMOVE, &[&group.as_str(), &device_id]).await? > 0)
}
