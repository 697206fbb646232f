//! What devices say beside their telemetry and could not be understood: kept whole, as telemetry is that could not be.

use tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use crate::protocol::reject::Rejection;

const REFUSED: &str = "
    INSERT INTO dead_letters (id, received_at, topic, qos, payload, reason, detail)
    VALUES ($1, now(), $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING";

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
pub async fn keep(client: &impl GenericClient, refused: &Refused<'_>) -> Result<(), Error> {
    let storable = |text: &str| text.replace('\0', "\u{FFFD}");
    let (topic, detail) = (storable(refused.topic), storable(&refused.rejection.detail));
    let (reason, qos) = (refused.rejection.reason.as_str(), i16::from(refused.qos));
    client
        .execute(REFUSED, &[&Uuid::now_v7(), &topic, &qos, &refused.payload, &reason, &detail])
        .await
        .map(drop)
}
