//! What is to be published for a change: a row goes with the change's transaction, and the courier takes it from there.

use jiff::Timestamp;
use tokio_postgres::{Error, GenericClient};

const PUT: &str = "INSERT INTO outbox (topic, payload, qos, retain, expires_at) VALUES ($1, $2, $3, $4, $5)";
const CLEAR: &str =
    "INSERT INTO outbox (topic, payload, qos, retain) SELECT topic, ''::bytea, 1::smallint, true FROM unnest($1::text[]) AS topic";

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
