//! Devices by the id in their topics. Telemetry registers a device as well; here it is done before its first message.

use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::DeviceIdRef;

const REGISTER: &str = "INSERT INTO devices (device) VALUES ($1) ON CONFLICT (device) DO NOTHING";
const FIND: &str = "SELECT device_id FROM devices WHERE device = $1";

/// Registers a device unless it is; returns its number, and whether it is new.
///
/// # Errors
/// The database's.
pub async fn register(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<(i32, bool), Error> {
    let new = client.execute(REGISTER, &[&device.as_str()]).await? > 0;
    Ok((client.query_one(FIND, &[&device.as_str()]).await?.get(0), new))
}

/// The number of a device.
///
/// # Errors
/// The database's.
pub async fn find(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<i32>, Error> {
    Ok(client.query_opt(FIND, &[&device.as_str()]).await?.map(|row| row.get(0)))
}
