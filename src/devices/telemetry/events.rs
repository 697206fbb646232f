//! A device's events by time, a page at a time.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use crate::db::page::Page;

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
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Event {
    /// Its time.
    pub time: Timestamp,
    /// What the device said.
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    /// Where it stands among the others.
    #[serde(skip)]
    pub place: Place,
}

/// A page of the events of a device, and whether there are more behind it; metrics, which events have none of, count for nothing.
///
/// # Errors
/// The database's.
pub async fn events(client: &impl GenericClient, device_id: i32, wanted: &Wanted<'_>) -> Result<(Vec<Event>, bool), Error> {
    let statement = match wanted.order {
        Order::Ascending => ASCENDING,
        Order::Descending => DESCENDING,
    };
    let (mut after, mut part) = wanted.after();
    let (from, to) = (wanted.span.from(), wanted.span.to());
    let mut page = Page::new(wanted.limit);
    while let Some(limit) = page.wants() {
        if let Some(last) = page.rows().last() {
            (after, part) = (Some(last.try_get(0)?), last.try_get(1)?);
        }
        let parameters: [&(dyn ToSql + Sync); 6] = [&device_id, &from, &to, &after, &part, &limit];
        page.take(limit, client.query_raw(statement, parameters).await?).await?;
    }
    let (rows, more) = page.finish();
    Ok((rows.iter().map(event).collect::<Result<_, _>>()?, more))
}

fn event(row: &Row) -> Result<Event, Error> {
    let (time, part) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Event {
        time,
        payload: row.try_get::<_, Json<_>>(2)?.0,
        place: Place { time, part },
    })
}
