//! What devices say beside their telemetry and could not be understood: kept whole, as telemetry is that could not be.

use tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use crate::protocol::reject::Rejection;

const REFUSED: &str = "
    INSERT INTO dead_letters (id, received_at, topic, qos, payload, reason, detail)
    SELECT id, now(), topic, qos, payload, reason, detail
    FROM unnest($1::uuid[], $2::text[], $3::int2[], $4::bytea[], $5::text[], $6::text[]) AS refused (id, topic, qos, payload, reason, detail)
    ON CONFLICT (id) DO NOTHING";

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

/// Keeps refused messages whole, in the order in which they came.
///
/// # Errors
/// The database's.
pub async fn keep(client: &impl GenericClient, refused: &[Refused<'_>]) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let storable = |text: &str| text.replace('\0', "\u{FFFD}");
    let ids: Vec<Uuid> = refused.iter().map(|_| Uuid::now_v7()).collect();
    let topics: Vec<String> = refused.iter().map(|refused| storable(refused.topic)).collect();
    let qualities: Vec<i16> = refused.iter().map(|refused| i16::from(refused.qos)).collect();
    let payloads: Vec<&[u8]> = refused.iter().map(|refused| refused.payload).collect();
    let reasons: Vec<&str> = refused.iter().map(|refused| refused.rejection.reason.as_str()).collect();
    let details: Vec<String> = refused.iter().map(|refused| storable(&refused.rejection.detail)).collect();
    client
        .execute(REFUSED, &[&ids, &topics, &qualities, &payloads, &reasons, &details])
        .await
        .map(drop)
}
