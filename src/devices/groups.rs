//! Groups of devices: membership is the right to read the group's commands.

use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::GroupId;

const CREATE: &str = "INSERT INTO device_groups (group_id) VALUES ($1) ON CONFLICT (group_id) DO NOTHING";
const ADD: &str = "INSERT INTO device_group_members (group_id, device_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const REMOVE: &str = "DELETE FROM device_group_members WHERE group_id = $1 AND device_id = $2";

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
