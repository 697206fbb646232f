//! A device's telemetry and events of a span are deleted here, so much at a time that no transaction lasts long.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use super::span::Span;

/// Rows of one table that go in one transaction: a fraction of a second's work.
const ROWS: i64 = 20_000;

const LAST_OF_TELEMETRY: &str =
    "SELECT \"time\" FROM telemetry WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3 ORDER BY \"time\" OFFSET $4 LIMIT 1";
const TELEMETRY: &str = "DELETE FROM telemetry WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3";
const LAST_OF_EVENTS: &str =
    "SELECT \"time\" FROM events WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3 ORDER BY \"time\" OFFSET $4 LIMIT 1";
const EVENTS: &str = "DELETE FROM events WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3";
/// Writers hold this table against it while they write `latest`, so that they either came before, and are mended below, or know of it.
const NOTE: &str = "INSERT INTO telemetry_deletions (device_id, begins, ends) VALUES ($1, $2, $3)";
/// No writer keeps in memory for a day what it has still to write.
const FORGET: &str = "DELETE FROM telemetry_deletions WHERE deleted_at < now() - interval '1 day'";
/// In the order in which writers take them, or the two could wait for each other.
const OUTDATED: &str = "
    DELETE FROM latest WHERE (device_id, metric_set_id) IN (
        SELECT device_id, metric_set_id FROM latest
        WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3 ORDER BY metric_set_id FOR UPDATE)
    RETURNING metric_set_id";
const NEWEST: &str = "
    INSERT INTO latest (device_id, metric_set_id, \"time\", \"values\", extra)
    SELECT newest.device_id, newest.metric_set_id, newest.\"time\", newest.\"values\", newest.extra
    FROM unnest($2::int4[]) AS s (metric_set_id), LATERAL (
        SELECT * FROM telemetry t WHERE t.device_id = $1 AND t.metric_set_id = s.metric_set_id
        ORDER BY t.\"time\" DESC LIMIT 1) AS newest
    ORDER BY newest.metric_set_id
    ON CONFLICT (device_id, metric_set_id) DO NOTHING";

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Deleted {
    /// Rows of telemetry, each a message.
    pub telemetry: u64,
    /// Events.
    pub events: u64,
}

impl std::ops::AddAssign for Deleted {
    fn add_assign(&mut self, other: Self) {
        self.telemetry += other.telemetry;
        self.events += other.events;
    }
}

/// Deletes the first part of a span, for the transaction that `client` is in, and mends `latest` where it named what is gone.
/// Returns what is left of the span, if anything is. Writers that have some of it in memory learn of it by `telemetry_deletions`.
///
/// # Errors
/// The database's.
pub async fn part(client: &impl GenericClient, device_id: i32, span: Span) -> Result<(Deleted, Option<Span>), Error> {
    // One end for both tables, so that what is left is one span.
    let last_of = async |statement: &str| -> Result<Option<Timestamp>, Error> {
        let row = client
            .query_opt(statement, &[&device_id, &span.from, &span.to, &(ROWS - 1)])
            .await?;
        row.map(|row| row.try_get(0)).transpose()
    };
    let last = [last_of(LAST_OF_TELEMETRY).await?, last_of(LAST_OF_EVENTS).await?]
        .into_iter()
        .flatten()
        .min();
    // All of that last moment goes along.
    let behind = |last: Timestamp| last.saturating_add(SignedDuration::from_micros(1)).unwrap_or(span.to).min(span.to);
    let end = last.map_or(span.to, behind);
    client.execute(NOTE, &[&device_id, &span.from, &end]).await?;
    client.execute(FORGET, &[]).await?;
    let deleted = Deleted {
        telemetry: client.execute(TELEMETRY, &[&device_id, &span.from, &end]).await?,
        events: client.execute(EVENTS, &[&device_id, &span.from, &end]).await?,
    };
    if deleted.telemetry > 0 {
        mend(client, device_id, span.from, end).await?;
    }
    let rest = (end < span.to).then_some(Span { from: end, to: span.to });
    Ok((deleted, rest))
}

async fn mend(client: &impl GenericClient, device_id: i32, from: Timestamp, end: Timestamp) -> Result<(), Error> {
    let outdated = client.query(OUTDATED, &[&device_id, &from, &end]).await?;
    let sets: Vec<i32> = outdated.iter().map(|row| row.get(0)).collect();
    if !sets.is_empty() {
        client.execute(NEWEST, &[&device_id, &sets]).await?;
    }
    Ok(())
}
