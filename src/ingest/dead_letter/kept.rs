//! Dead letters as they are kept: listed, shown, counted, removed.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;
use uuid::Uuid;

/// Letters that go in one statement.
const REMOVED_AT_ONCE: i64 = 10_000;

const LIST: &str = "
    SELECT id, received_at, topic, qos, octet_length(payload), reason, detail FROM dead_letters
    WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR starts_with(topic, $2))
      AND ($3::timestamptz IS NULL OR received_at >= $3) AND ($4::uuid IS NULL OR id < $4)
    ORDER BY id DESC LIMIT $5";
const FIND: &str = "SELECT id, received_at, topic, qos, octet_length(payload), reason, detail, payload FROM dead_letters WHERE id = $1";
/// A claim lasts longer than any broker is waited for, and ends by itself where whoever made it is no more.
const CLAIM: &str = "
    UPDATE dead_letters SET claimed_until = now() + interval '1 minute'
    WHERE id = $1 AND (claimed_until IS NULL OR claimed_until < now())
    RETURNING id, received_at, topic, qos, octet_length(payload), reason, detail, payload";
const RELEASE: &str = "UPDATE dead_letters SET claimed_until = NULL WHERE id = $1";
const REMOVE: &str = "DELETE FROM dead_letters WHERE id = $1";
const PURGE: &str = "
    DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM dead_letters
        WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR starts_with(topic, $2))
          AND ($3::timestamptz IS NULL OR received_at < $3)
        ORDER BY id LIMIT $4)";
const COUNT: &str = "SELECT reason, count(*) FROM dead_letters GROUP BY reason ORDER BY reason";

/// A dead letter, without what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Letter {
    /// Its id; newer ones are greater.
    pub id: Uuid,
    /// When it came.
    pub received_at: Timestamp,
    /// On which topic; any text.
    pub topic: String,
    /// At which QoS it was delivered to us: 0 or 1.
    pub qos: i16,
    /// How large it is.
    pub payload_bytes: i32,
    /// Which rule it broke.
    pub reason: String,
    /// What exactly was wrong.
    pub detail: String,
}

/// Which letters are wanted; all that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter<'a> {
    /// Of this reason.
    pub reason: Option<&'a str>,
    /// On topics that begin so.
    pub topic_prefix: Option<&'a str>,
    /// Not older.
    pub since: Option<Timestamp>,
    /// Older than this one: the next page.
    pub before: Option<Uuid>,
    /// At most so many, the newest.
    pub limit: u32,
}

/// Which letters are to go; all that is set must fit.
#[derive(Debug, Clone, Default)]
pub struct Purge<'a> {
    /// Of this reason.
    pub reason: Option<&'a str>,
    /// On topics that begin so.
    pub topic_prefix: Option<&'a str>,
    /// Older than this.
    pub before: Option<Timestamp>,
}

impl Purge<'_> {
    /// Whether nothing is set, so that all would go.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.reason.is_none() && self.topic_prefix.is_none() && self.before.is_none()
    }
}

/// The letters that fit, newest first.
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, filter: &Filter<'_>) -> Result<Vec<Letter>, Error> {
    let limit = i64::from(filter.limit);
    let rows = client
        .query(LIST, &[&filter.reason, &filter.topic_prefix, &filter.since, &filter.before, &limit])
        .await?;
    rows.iter().map(letter).collect()
}

/// A letter and its payload.
///
/// # Errors
/// The database's.
pub async fn find(client: &impl GenericClient, id: Uuid) -> Result<Option<(Letter, Vec<u8>)>, Error> {
    whole(client.query_opt(FIND, &[&id]).await?)
}

/// The same, claimed for a minute or until it is [released](release); none where there is none, or somebody else has claimed it.
///
/// # Errors
/// The database's.
pub async fn claim(client: &impl GenericClient, id: Uuid) -> Result<Option<(Letter, Vec<u8>)>, Error> {
    whole(client.query_opt(CLAIM, &[&id]).await?)
}

/// Lets a claimed letter go.
///
/// # Errors
/// The database's.
pub async fn release(client: &impl GenericClient, id: Uuid) -> Result<(), Error> {
    client.execute(RELEASE, &[&id]).await.map(drop)
}

/// Removes a letter; returns whether there was one.
///
/// # Errors
/// The database's.
pub async fn remove(client: &impl GenericClient, id: Uuid) -> Result<bool, Error> {
    Ok(client.execute(REMOVE, &[&id]).await? > 0)
}

/// Removes some thousands of those that fit, the oldest; returns how many, and whether there may be more.
///
/// # Errors
/// The database's.
pub async fn purge_some(client: &impl GenericClient, purge: &Purge<'_>) -> Result<(u64, bool), Error> {
    let gone = client
        .execute(PURGE, &[&purge.reason, &purge.topic_prefix, &purge.before, &REMOVED_AT_ONCE])
        .await?;
    Ok((gone, gone >= REMOVED_AT_ONCE.unsigned_abs()))
}

/// How many there are, by reason.
///
/// # Errors
/// The database's.
pub async fn count(client: &impl GenericClient) -> Result<Vec<(String, i64)>, Error> {
    let rows = client.query(COUNT, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn whole(row: Option<Row>) -> Result<Option<(Letter, Vec<u8>)>, Error> {
    row.map(|row| Ok((letter(&row)?, row.try_get(7)?))).transpose()
}

fn letter(row: &Row) -> Result<Letter, Error> {
    Ok(Letter {
        id: row.try_get(0)?,
        received_at: row.try_get(1)?,
        topic: row.try_get(2)?,
        qos: row.try_get(3)?,
        payload_bytes: row.try_get(4)?,
        reason: row.try_get(5)?,
        detail: row.try_get(6)?,
    })
}
