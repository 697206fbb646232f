//! What could not become a row, kept whole: topic, payload, QoS, reason and detail, in the batch's own transaction.
//!
//! A message's dead letter has an id of its own, so an attempt that is repeated after a lost answer, and a delivery that is
//! repeated after a lost connection, write the same row again and not another one.
//!
//! They go by COPY, as rows do, for a flood of them must cost no more than a flood of rows would (the upsert costs the server
//! more than twice as much a letter: 8 µs and 3.6). Where one is there already the upsert has its turn.

use std::borrow::Cow;
use std::collections::HashSet;

use deadpool_postgres::Transaction as PooledTransaction;
use foldhash::fast::FixedState;
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::db::copy_in::{POSTGRES_EPOCH_MICROS, RowWriter, send_each};

pub mod kept;

use super::batch::{Message, Refusal};
use super::queue::Delivery;

const COPY: &str = "COPY dead_letters (id, received_at, topic, qos, payload, reason, detail) FROM STDIN (FORMAT binary)";
const UPSERT: &str = "
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

/// Writes what is refused of `messages`, none of which is there yet. Returns how many were sent, and how many the server took.
///
/// # Errors
/// The server's: a unique violation where one is there.
pub async fn copy<'a>(transaction: &PooledTransaction<'_>, messages: impl Iterator<Item = &'a Message>) -> Result<(usize, u64), Error> {
    let letters = letters(messages);
    if letters.is_empty() {
        return Ok((0, 0));
    }
    let sink = transaction.copy_in(&transaction.prepare_cached(COPY).await?).await?;
    let took = send_each(sink, letters.iter(), |buffer, (delivery, refusal)| {
        let mut row = RowWriter::begin(buffer, 7);
        row.bytes(refusal.id.as_bytes());
        row.timestamptz(delivery.receipt.at);
        row.bytes(storable(&delivery.topic).as_bytes());
        row.int2(i16::from(delivery.ticket.is_some()));
        row.bytes(&delivery.payload);
        row.bytes(refusal.rejection.reason.as_str().as_bytes());
        row.bytes(storable(refusal.rejection.detail.as_bytes()).as_bytes());
    });
    Ok((letters.len(), took.await?))
}

/// Writes what is refused of `messages`, over what is there of it.
///
/// # Errors
/// The server's.
pub async fn upsert<'a>(transaction: &Transaction<'_>, messages: impl Iterator<Item = &'a Message>) -> Result<(), Error> {
    let letters = letters(messages);
    if letters.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = letters.iter().map(|(_, refusal)| refusal.id).collect();
    let received: Vec<i64> = letters
        .iter()
        .map(|(delivery, _)| delivery.receipt.at - POSTGRES_EPOCH_MICROS)
        .collect();
    let topics: Vec<Cow<'_, str>> = letters.iter().map(|(delivery, _)| storable(&delivery.topic)).collect();
    let qos: Vec<i16> = letters.iter().map(|(delivery, _)| i16::from(delivery.ticket.is_some())).collect();
    let payloads: Vec<&[u8]> = letters.iter().map(|(delivery, _)| delivery.payload.as_ref()).collect();
    let reasons: Vec<&str> = letters.iter().map(|(_, refusal)| refusal.rejection.reason.as_str()).collect();
    let details: Vec<Cow<'_, str>> = letters
        .iter()
        .map(|(_, refusal)| storable(refusal.rejection.detail.as_bytes()))
        .collect();
    transaction
        .execute(UPSERT, &[&ids, &received, &topics, &qos, &payloads, &reasons, &details])
        .await?;
    Ok(())
}

/// What is refused of `messages`, each once: a message and its redelivery can be in one batch, and no statement writes a row
/// twice.
fn letters<'a>(messages: impl Iterator<Item = &'a Message>) -> Vec<(&'a Delivery, &'a Refusal)> {
    let mut seen: HashSet<Uuid, FixedState> = HashSet::default();
    messages
        .filter_map(|message| message.refusal.as_ref().map(|refusal| (&message.delivery, refusal)))
        .filter(|(_, refusal)| seen.insert(refusal.id))
        .collect()
}

/// Text as PostgreSQL can hold it: UTF-8 without NUL.
fn storable(text: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if text.contains('\0') {
        text.replace('\0', "\u{FFFD}").into()
    } else {
        text
    }
}
