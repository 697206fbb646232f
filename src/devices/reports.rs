//! What devices say beside their telemetry: the configuration that they have, and what of it could not be understood.

use tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use crate::protocol::id::DeviceId;
use crate::protocol::reject::Rejection;

// The last one of a device counts, so each is one statement: there are few.
const REPORTED: &str = "
    UPDATE device_configs c SET reported = $2::text::json, reported_version = $3, reported_at = now()
    FROM devices d WHERE d.device = $1 AND c.device_id = d.device_id";
const REFUSED: &str = "
    INSERT INTO dead_letters (id, received_at, topic, qos, payload, reason, detail)
    VALUES ($1, now(), $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";

/// A configuration, as its device says that it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Whose.
    pub device: DeviceId,
    /// JSON, as it was sent.
    pub config: String,
    /// Its number, where the device told it (`version`).
    pub version: Option<i32>,
}

/// Keeps what a device reported. One without a desired configuration has no row: then it is passed over, and `false` returned.
///
/// # Errors
/// The database's.
pub async fn keep(client: &impl GenericClient, reported: &Reported) -> Result<bool, Error> {
    let device = reported.device.as_str();
    Ok(client.execute(REPORTED, &[&device, &reported.config, &reported.version]).await? > 0)
}

/// A message that was refused.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// Where it came.
    pub topic: &'a str,
    /// At which QoS.
    pub qos: u8,
    /// As it came.
    pub payload: &'a [u8],
    /// Why.
    pub rejection: &'a Rejection,
}

/// Keeps a refused message whole.
///
/// # Errors
/// The database's.
pub async fn keep_refused(client: &impl GenericClient, refused: &Refused<'_>) -> Result<(), Error> {
    let storable = |text: &str| text.replace('\0', "\u{FFFD}");
    let (topic, detail) = (storable(refused.topic), storable(&refused.rejection.detail));
    let (reason, qos) = (refused.rejection.reason.as_str(), i16::from(refused.qos));
    client
        .execute(REFUSED, &[&Uuid::now_v7(), &topic, &qos, &refused.payload, &reason, &detail])
        .await
        .map(drop)
}
