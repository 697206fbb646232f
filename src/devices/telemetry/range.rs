//! A device's readings by time, message by message, a page at a time.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use crate::db::page::Page;

use super::span::Span;

/// A page of messages, as `$before` says where from: `ORDER BY` and the comparison with the cursor go together.
macro_rules! page {
    ($after:literal, $order:literal) => {
        concat!(
            "SELECT t.\"time\", t.metric_set_id, t.\"values\", t.extra FROM telemetry t
             WHERE t.device_id = $1 AND t.\"time\" >= $2 AND t.\"time\" < $3
               AND ($4::timestamptz IS NULL OR (t.\"time\", t.metric_set_id) ",
            $after,
            " ($4, $5))
               AND ($6::text[] IS NULL OR t.metric_set_id IN (
                     SELECT metric_set_id FROM metric_set_members JOIN metrics USING (metric_id) WHERE name = ANY ($6)
                     UNION ALL SELECT metric_set_id FROM metric_sets WHERE extra_names && $6))
             ORDER BY t.\"time\" ",
            $order,
            ", t.metric_set_id ",
            $order,
            " LIMIT $7"
        )
    };
}

const ASCENDING: &str = page!(">", "ASC");
const DESCENDING: &str = page!("<", "DESC");
const NAMES: &str = "
    SELECT s.metric_set_id, s.kind, array_remove(array_agg(m.name ORDER BY b.position), NULL)
    FROM metric_sets s
    LEFT JOIN metric_set_members b USING (metric_set_id)
    LEFT JOIN metrics m USING (metric_id)
    WHERE s.metric_set_id = ANY ($1)
    GROUP BY s.metric_set_id";

/// Which end of the span comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest.
    #[default]
    Ascending,
    /// The newest.
    Descending,
}

/// Where a page ended: a message's time, and what tells it from others of that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The time.
    pub time: Timestamp,
    /// The metric set's number; of an event, the hash of its payload.
    pub part: i64,
}

/// Which messages are wanted.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// When.
    pub span: Span,
    /// Behind this place.
    pub after: Option<Place>,
    /// Which end first.
    pub order: Order,
    /// With one of these metrics, and of such messages only these; all where there are none.
    pub metrics: &'a [String],
    /// At most so many; fewer where they are large.
    pub limit: u32,
}

impl Wanted<'_> {
    /// The cursor's time, kept within the span: whoever forged it reads nothing else.
    pub(super) fn after(&self) -> (Option<Timestamp>, i64) {
        self.after.map_or((None, 0), |place| {
            (Some(place.time.clamp(self.span.from, self.span.to)), place.part)
        })
    }
}

/// A message as it was stored.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Message {
    /// Its time.
    pub time: Timestamp,
    /// Its topic's last level: `telemetry`, `sensors` or `metrics`.
    pub kind: &'static str,
    /// Its numbers by metric; `true` is 1 and `false` 0.
    pub values: BTreeMap<String, f64>,
    /// What was not a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub extra: Option<Box<RawValue>>,
    /// Where it stands among the others.
    #[serde(skip)]
    pub place: Place,
}

/// A page of the messages of a device, and whether there are more behind it.
///
/// # Errors
/// The database's.
pub async fn messages(client: &impl GenericClient, device_id: i32, wanted: &Wanted<'_>) -> Result<(Vec<Message>, bool), Error> {
    let statement = match wanted.order {
        Order::Ascending => ASCENDING,
        Order::Descending => DESCENDING,
    };
    let (mut after, part) = wanted.after();
    let mut set = i32::try_from(part).unwrap_or(i32::MAX);
    let metrics = (!wanted.metrics.is_empty()).then_some(wanted.metrics);
    let Span { from, to } = wanted.span;
    let mut page = Page::new(wanted.limit);
    while let Some(limit) = page.wants() {
        if let Some(last) = page.rows().last() {
            (after, set) = (Some(last.try_get(0)?), last.try_get(1)?);
        }
        let parameters: [&(dyn ToSql + Sync); 7] = [&device_id, &from, &to, &after, &set, &metrics, &limit];
        page.take(limit, client.query_raw(statement, parameters).await?).await?;
    }
    let (rows, more) = page.finish();
    let sets = names(client, &rows).await?;
    let messages = rows.iter().map(|row| message(row, &sets, wanted.metrics));
    Ok((messages.collect::<Result<_, _>>()?, more))
}

struct Names {
    kind: &'static str,
    numbers: Vec<String>,
}

async fn names(client: &impl GenericClient, rows: &[Row]) -> Result<HashMap<i32, Names>, Error> {
    let mut ids: Vec<i32> = rows.iter().map(|row| row.get(1)).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let named = |row: &Row| {
        let kind = match row.get::<_, i16>(1) {
            1 => "sensors",
            2 => "metrics",
            _ => "telemetry",
        };
        (row.get(0), Names { kind, numbers: row.get(2) })
    };
    Ok(client.query(NAMES, &[&ids]).await?.iter().map(named).collect())
}

fn message(row: &Row, sets: &HashMap<i32, Names>, metrics: &[String]) -> Result<Message, Error> {
    let (time, set): (Timestamp, i32) = (row.try_get(0)?, row.try_get(1)?);
    let numbers: Vec<Option<f64>> = row.try_get(2)?;
    let extra: Option<Json<Box<RawValue>>> = row.try_get(3)?;
    let is_wanted = |name: &str| metrics.is_empty() || metrics.iter().any(|metric| metric == name);
    let extra = extra.and_then(|Json(extra)| only(extra, is_wanted));
    let names = sets.get(&set);
    let values = names
        .into_iter()
        .flat_map(|names| names.numbers.iter().zip(&numbers))
        .filter_map(|(name, number)| Some((name.clone(), (*number)?)))
        .filter(|(name, _)| is_wanted(name))
        .collect();
    Ok(Message {
        time,
        kind: names.map_or("telemetry", |names| names.kind),
        values,
        extra,
        place: Place {
            time,
            part: i64::from(set),
        },
    })
}

/// The members of an object that are wanted, each as it is written: a value of a megabyte may be a hundred as a tree.
fn only(extra: Box<RawValue>, is_wanted: impl Fn(&str) -> bool) -> Option<Box<RawValue>> {
    let Ok(mut members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(extra.get()) else {
        return Some(extra);
    };
    members.retain(|name, _| is_wanted(name));
    if members.is_empty() {
        return None;
    }
    to_raw_value(&members).ok()
}
