//! What else is to be published, whatever happens: put here in the transaction that wants it, and gone when the broker has acked it.

use std::time::Duration;

use tokio_postgres::{Error, GenericClient};

const PUT: &str = "
    INSERT INTO outbox (topic, payload, qos, retain, expires_at)
    VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))";
const DUE: &str = "
    SELECT id, topic, payload, qos, retain, extract(epoch FROM expires_at - now())::float8 FROM outbox
    WHERE id <> ALL ($1) AND (expires_at IS NULL OR expires_at > now())
    ORDER BY id LIMIT $2";
const GONE: &str = "DELETE FROM outbox WHERE id = ANY ($1)";
const EXPIRE: &str = "DELETE FROM outbox WHERE expires_at <= now()";

/// Something to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The topic's full name.
    pub topic: String,
    /// Any bytes; none with `retain` clears what the broker keeps.
    pub payload: Vec<u8>,
    /// 0 or 1.
    pub qos: u8,
    /// Whether the broker is to keep it.
    pub retain: bool,
    /// After which it is of no use any more.
    pub ttl: Option<Duration>,
}

/// A letter that is due, by the number of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Ascending, in the order of publishing.
    pub id: i64,
    /// What to publish; `ttl` is what is left of it.
    pub letter: Letter,
}

/// Puts a letter in, as a part of the transaction that `client` is in.
///
/// # Errors
/// The database's.
pub async fn put(client: &impl GenericClient, letter: &Letter) -> Result<(), Error> {
    let qos = i16::from(letter.qos.min(1));
    let seconds = letter.ttl.map(|ttl| ttl.as_secs_f64());
    client
        .execute(PUT, &[&letter.topic, &letter.payload, &qos, &letter.retain, &seconds])
        .await
        .map(drop)
}

/// The first `most` letters that are not `under_way`.
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
            letter: Letter {
                topic: row.try_get(1)?,
                payload: row.try_get(2)?,
                qos: u8::try_from(row.try_get::<_, i16>(3)?).unwrap_or(1),
                retain: row.try_get(4)?,
                ttl: left.and_then(|left| Duration::try_from_secs_f64(left.max(0.0)).ok()),
            },
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

/// Takes out what is of no use any more; returns how many.
///
/// # Errors
/// The database's.
pub async fn expire(client: &impl GenericClient) -> Result<u64, Error> {
    client.execute(EXPIRE, &[]).await
}
