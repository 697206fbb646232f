//! What is to be published for a change: a row goes with the change's transaction, and the courier takes it from there.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::{Error, GenericClient};

const PUT: &str = "INSERT INTO outbox (topic, payload, qos, retain, expires_at) VALUES ($1, $2, $3, $4, $5)";
const CLEAR: &str =
    "INSERT INTO outbox (topic, payload, qos, retain) SELECT topic, ''::bytea, 1::smallint, true FROM unnest($1::text[]) AS topic";

// In order; what was put in by a transaction that took longer comes late, and is not passed over.
const DUE: &str = "
    SELECT id, topic, payload, qos, retain, extract(epoch FROM expires_at - now())::float8 FROM outbox
    WHERE id <> ALL ($1) AND (expires_at IS NULL OR expires_at > now())
    ORDER BY id LIMIT $2";
const GONE: &str = "DELETE FROM outbox WHERE id = ANY ($1)";
const EXPIRE: &str = "DELETE FROM outbox WHERE expires_at <= now()";

/// Something to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// On which topic.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// 0 or 1.
    pub qos: i16,
    /// Whether the broker keeps it for those who come later.
    pub retain: bool,
    /// From when on nobody wants it.
    pub expires_at: Option<Timestamp>,
}

/// Has a message published, once the transaction that `client` is in has been committed.
///
/// # Errors
/// The database's.
pub async fn put(client: &impl GenericClient, message: &Message<'_>) -> Result<(), Error> {
    client
        .execute(
            PUT,
            &[&message.topic, &message.payload, &message.qos, &message.retain, &message.expires_at],
        )
        .await
        .map(drop)
}

/// Has the broker forget what it keeps on these topics.
///
/// # Errors
/// The database's.
pub async fn clear(client: &impl GenericClient, topics: &[String]) -> Result<(), Error> {
    client.execute(CLEAR, &[&topics]).await.map(drop)
}

/// A message that is due, by the number of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Ascending, in the order of publishing.
    pub id: i64,
    /// On which topic.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps it for those who come later.
    pub retain: bool,
    /// What is left of its time.
    pub ttl: Option<Duration>,
}

/// The first `most` messages that are not `under_way`.
///
/// # Errors
/// The database's.
pub async fn due(client: &impl GenericClient, under_way: &[i64], most: usize) -> Result<Vec<Due>, Error> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = client.query(DUE, &[&under_way, &most]).await?;
    let due = |row: &tokio_postgres::Row| {
        let left: Option<f64> = row.try_get(5)?;
        Ok(Due {
            id: row.try_get(0)?,
            topic: row.try_get(1)?,
            payload: row.try_get(2)?,
            qos: u8::try_from(row.try_get::<_, i16>(3)?).unwrap_or(1),
            retain: row.try_get(4)?,
            ttl: left.and_then(|left| Duration::try_from_secs_f64(left.max(0.0)).ok()),
        })
    };
    rows.iter().map(due).collect()
}

/// Takes out what the broker has.
///
/// # Errors
/// The database's.
pub async fn gone(client: &impl GenericClient, ids: &[i64]) -> Result<(), Error> {
    client.execute(GONE, &[&ids]).await.map(drop)
}

/// Takes out what nobody wants any more; returns how many.
///
/// # Errors
/// The database's.
pub async fn expire(client: &impl GenericClient) -> Result<u64, Error> {
    client.execute(EXPIRE, &[]).await
}
