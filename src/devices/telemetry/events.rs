//! A device's events by time, a page at a time.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use super::range::{Order, Place, Wanted};

macro_rules! page {
    ($after:literal, $order:literal) => {
        concat!(
            "SELECT \"time\", payload_hash, payload FROM events
             WHERE device_id = $1 AND \"time\" >= $2 AND \"time\" < $3
               AND ($4::timestamptz IS NULL OR (\"time\", payload_hash) ",
            $after,
            " ($4, $5))
             ORDER BY \"time\" ",
            $order,
            ", payload_hash ",
            $order,
            " LIMIT $6"
        )
    };
}

const ASCENDING: &str = page!(">", "ASC");
const DESCENDING: &str = page!("<", "DESC");

/// An event as it was stored.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// Its time.
    pub time: Timestamp,
    /// What the device said.
    pub payload: Value,
    /// Where it stands among the others.
    #[serde(skip)]
    pub place: Place,
}

/// The events of a device; metrics, which events have none of, count for nothing.
///
/// # Errors
/// The database's.
pub async fn events(client: &impl GenericClient, device_id: i32, wanted: &Wanted<'_>) -> Result<Vec<Event>, Error> {
    let statement = match wanted.order {
        Order::Ascending => ASCENDING,
        Order::Descending => DESCENDING,
    };
    let (after, part) = wanted.after();
    let (from, to) = (wanted.span.from(), wanted.span.to());
    let rows = client
        .query(statement, &[&device_id, &from, &to, &after, &part, &i64::from(wanted.limit)])
        .await?;
    rows.iter().map(event).collect()
}

fn event(row: &Row) -> Result<Event, Error> {
    let (time, part) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Event {
        time,
        payload: row.try_get(2)?,
        place: Place { time, part },
    })
}
