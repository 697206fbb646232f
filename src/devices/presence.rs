//! Where a device stands, and the sweep that puts offline who stopped sending heartbeats.
//!
//! A device that sends no heartbeats is never swept: that it is silent says nothing of it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use crate::protocol::id::DeviceId;

use super::device::{LAST_SEEN, Status, TABLES};
use super::registry::RegistryError;

// In the order in which the status stage writes, so that the two do not wait for each other. Those it is writing come next time.
const SWEEP: &str = "
    WITH silent AS (
        SELECT device_id FROM device_status
        WHERE status = 'online' AND heartbeat_at < $1 AND received_at < $1
        ORDER BY device_id LIMIT 10000 FOR UPDATE SKIP LOCKED)
    UPDATE device_status SET status = 'offline', since = $2, swept = true
    WHERE device_id IN (SELECT device_id FROM silent)";

/// When a device counts as gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long after its last heartbeat; zero for never.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        // Ten heartbeats of the thirty seconds that are usual.
        Self {
            timeout: Duration::from_secs(300),
        }
    }
}

/// Where a device stands.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Presence {
    /// Whether it is online.
    pub status: Status,
    /// Since when, by the device's own clock where it gave a time.
    pub since: Option<Timestamp>,
    /// When the newest of its messages came or was measured.
    pub last_seen_at: Option<Timestamp>,
    /// When its newest status message came.
    pub received_at: Option<Timestamp>,
    /// When its newest heartbeat came.
    pub heartbeat_at: Option<Timestamp>,
    /// It is offline because its heartbeats stopped, and not because it said so.
    pub swept: bool,
    /// What its newest status message held.
    #[schema(value_type = Option<Object>)]
    pub payload: Option<Value>,
}

/// Where the device stands.
///
/// # Errors
/// [`RegistryError::Unknown`], or the database's.
pub async fn get(client: &impl GenericClient, id: &DeviceId) -> Result<Presence, RegistryError> {
    let statement = format!(
        "SELECT s.status, s.since, {LAST_SEEN}, s.received_at, s.heartbeat_at, coalesce(s.swept, false), s.payload
         FROM {TABLES} WHERE d.device = $1 AND d.deleted_at IS NULL"
    );
    let row = client.query_opt(&statement, &[&id.as_str()]).await?;
    let row = row.ok_or_else(|| RegistryError::Unknown(id.clone()))?;
    Ok(Presence {
        status: Status::of_row(row.try_get(0)?),
        since: row.try_get(1)?,
        last_seen_at: row.try_get(2)?,
        received_at: row.try_get(3)?,
        heartbeat_at: row.try_get(4)?,
        swept: row.try_get(5)?,
        payload: row.try_get(6)?,
    })
}

/// Puts offline, from `now` on, who is online, sent heartbeats, and was last heard before `silent_before`, by the clock that stamps
/// what is received; returns how many. At most 10,000 at a time.
///
/// # Errors
/// The database's.
pub async fn sweep(client: &impl GenericClient, silent_before: Timestamp, now: Timestamp) -> Result<u64, Error> {
    client.execute(SWEEP, &[&silent_before, &now]).await
}
