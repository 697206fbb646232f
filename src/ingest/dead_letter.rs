//! What could not become a row, kept whole: topic, payload, QoS, reason and detail, in the batch's own transaction.
//!
//! A message's dead letter has an id that is drawn once, so an attempt that is repeated after a lost answer writes the
//! same row again and not another one.

use tokio_postgres::{Error, Transaction};
use uuid::{NoContext, Timestamp, Uuid};

use crate::db::copy_in::POSTGRES_EPOCH_MICROS;

use super::batch::Message;

const INSERT: &str = "
    INSERT INTO dead_letters (id, received_at, topic, qos, payload, reason, detail)
    SELECT id, timestamptz '2000-01-01 00:00:00+00' + micros * interval '1 microsecond', topic, qos, payload, reason, detail
    FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::int2[], $5::bytea[], $6::text[], $7::text[])
        AS letters (id, micros, topic, qos, payload, reason, detail)
    ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, detail = excluded.detail";

/// An id that sorts by time of receipt (UUID version 7, RFC 9562).
#[must_use]
pub fn new_id(received_at: i64) -> Uuid {
    let micros = u64::try_from(received_at).unwrap_or(0);
    let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(NoContext, micros / 1_000_000, nanos))
}

/// Writes what is refused of `messages` in one statement.
///
/// # Errors
/// The server's.
pub async fn insert<'a>(transaction: &Transaction<'_>, messages: impl Iterator<Item = &'a Message> + Clone) -> Result<(), Error> {
    let refused = || {
        messages
            .clone()
            .filter_map(|message| message.refusal.as_ref().map(|refusal| (&message.delivery, refusal)))
    };
    let ids: Vec<Uuid> = refused().map(|(_, refusal)| refusal.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let received: Vec<i64> = refused()
        .map(|(delivery, _)| delivery.received_at - POSTGRES_EPOCH_MICROS)
        .collect();
    let topics: Vec<String> = refused()
        .map(|(delivery, _)| storable(&String::from_utf8_lossy(&delivery.topic)))
        .collect();
    let qos: Vec<i16> = refused().map(|(delivery, _)| i16::from(delivery.ticket.is_some())).collect();
    let payloads: Vec<&[u8]> = refused().map(|(delivery, _)| delivery.payload.as_ref()).collect();
    let reasons: Vec<&str> = refused().map(|(_, refusal)| refusal.rejection.reason.as_str()).collect();
    let details: Vec<String> = refused().map(|(_, refusal)| storable(&refusal.rejection.detail)).collect();
    transaction
        .execute(INSERT, &[&ids, &received, &topics, &qos, &payloads, &reasons, &details])
        .await?;
    Ok(())
}

/// Text as PostgreSQL can hold it: without NUL.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
