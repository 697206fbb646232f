//! What could not become a row, kept whole: topic, payload, QoS, reason and detail, in the batch's own transaction.
//!
//! A message's dead letter has an id of its own, so an attempt that is repeated after a lost answer, and a delivery that is
//! repeated after a lost connection, write the same row again and not another one.

use tokio_postgres::{Error, Transaction};
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::db::copy_in::POSTGRES_EPOCH_MICROS;

use super::batch::Message;
use super::queue::Delivery;

const INSERT: &str = "
    INSERT INTO dead_letters (id, received_at, topic, qos, payload, reason, detail)
    SELECT id, timestamptz '2000-01-01 00:00:00+00' + micros * interval '1 microsecond', topic, qos, payload, reason, detail
    FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::int2[], $5::bytea[], $6::text[], $7::text[])
        AS letters (id, micros, topic, qos, payload, reason, detail)
    ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, detail = excluded.detail";

/// An id that sorts by time of receipt (UUID version 7, RFC 9562) and is the same whenever the same delivery is refused: its
/// random bits are drawn from what was received.
#[must_use]
pub fn new_id(delivery: &Delivery) -> Uuid {
    let received_at = delivery.receipt.at;
    let seed = xxh3_64_with_seed(&delivery.topic, received_at.cast_unsigned());
    let bits = xxh3_128_with_seed(&delivery.payload, seed).to_be_bytes();
    let millis = u64::try_from(received_at / 1_000).unwrap_or(0);
    let random = bits.first_chunk().expect("ten of sixteen bytes");
    uuid::Builder::from_unix_timestamp_millis(millis, random).into_uuid()
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
    let received: Vec<i64> = refused().map(|(delivery, _)| delivery.receipt.at - POSTGRES_EPOCH_MICROS).collect();
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
