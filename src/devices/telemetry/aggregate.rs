//! A device's numbers, gathered into windows of equal length.
//!
//! The database gathers (`date_bin`, which every flavour has); what is missing is filled in here. Median, first and last want
//! the window's values sorted and are computed only where they are asked for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use super::fill;
use super::window::{Aggregation, Fill, Function};

/// The most points of an answer: windows times metrics.
pub const MAX_POINTS: usize = 100_000;
/// The windows of each metric, each with what is `{made}` of its values. Behind the inner OFFSET the planner does not look for what a
/// window is made of, and hashes; else it expects as many windows as there are rows, and sorts a million of them. Metrics go by
/// number there, and get their names when little is left.
const GATHER: &str = "
    SELECT m.name, w.* FROM (
        SELECT metric_id, begin, count(*), {made} FROM (
            SELECT b.metric_id, date_bin($4::int8 * interval '1 microsecond', t.\"time\", $5) AS begin, t.\"values\"[b.position] AS v,
                   t.\"time\", t.metric_set_id
            FROM telemetry t JOIN metric_set_members b USING (metric_set_id)
            WHERE t.device_id = $1 AND t.\"time\" >= $2 AND t.\"time\" < $3
              AND ($6::text[] IS NULL OR b.metric_id IN (SELECT metric_id FROM metrics WHERE name = ANY ($6)))
            OFFSET 0) AS numbers
        WHERE v IS NOT NULL GROUP BY metric_id, begin LIMIT $7) AS w
    JOIN metrics m USING (metric_id)";
/// What is made of a window's values, and for whom. The last three want them sorted, and one of these is enough for the database to
/// sort instead of hashing: what is not asked for is not in the statement.
const COLUMNS: [(&[Function], &str); 6] = [
    (&[Function::Mean, Function::Sum], "sum(v)"),
    (&[Function::Min], "min(v)"),
    (&[Function::Max], "max(v)"),
    (&[Function::First], "(array_agg(v ORDER BY \"time\", metric_set_id))[1]"),
    (&[Function::Last], "(array_agg(v ORDER BY \"time\" DESC, metric_set_id DESC))[1]"),
    (&[Function::Median], "percentile_cont(0.5) WITHIN GROUP (ORDER BY v)"),
];

fn statement(functions: &[Function]) -> String {
    let made = COLUMNS.map(|(of, made)| {
        let is_asked_for = functions.iter().any(|function| of.contains(function));
        if is_asked_for { made } else { "NULL::float8" }
    });
    GATHER.replace("{made}", &made.join(", "))
}

/// Why nothing was gathered.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// The answer would be too long.
    #[error("the answer has over {MAX_POINTS} points; name fewer metrics, or take a longer window or a shorter span")]
    TooManyPoints,
    /// A double cannot hold it.
    #[error("the sum of the values of a window is larger than a double can hold; ask without it and the mean, or in shorter windows")]
    Overflow,
    /// The database's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[source] Error),
}

impl From<Error> for AggregateError {
    fn from(error: Error) -> Self {
        if error.code() == Some(&SqlState::NUMERIC_VALUE_OUT_OF_RANGE) {
            Self::Overflow
        } else {
            Self::Database(error)
        }
    }
}

/// What a window came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// When the window begins.
    pub time: Timestamp,
    /// What was asked for, in that order.
    pub values: Vec<(Function, Option<f64>)>,
}

impl Serialize for Point {
    /// `{"time": …, "mean": …}`; a count is a whole number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.values.len()))?;
        map.serialize_entry("time", &self.time)?;
        for (function, value) in &self.values {
            match (function, value) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rows are counted below 2^53")]
                (Function::Count, Some(count)) => map.serialize_entry(function.as_str(), &(*count as u64))?,
                (_, value) => map.serialize_entry(function.as_str(), value)?,
            }
        }
        map.end()
    }
}

/// A window as it is written: with what was asked for, and no more.
#[derive(ToSchema)]
#[schema(as = Window)]
#[expect(dead_code, reason = "it describes what `Point` writes")]
struct Window {
    /// When it begins.
    time: Timestamp,
    /// The arithmetic mean.
    mean: Option<f64>,
    /// The sum.
    sum: Option<f64>,
    /// How many values there are.
    count: Option<u64>,
    /// The least.
    min: Option<f64>,
    /// The greatest.
    max: Option<f64>,
    /// The earliest.
    first: Option<f64>,
    /// The latest.
    last: Option<f64>,
    /// The middle one.
    median: Option<f64>,
}

/// A metric's windows, in the order of time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Series {
    /// The metric.
    pub metric: String,
    /// Its windows.
    #[schema(value_type = Vec<Window>)]
    pub points: Vec<Point>,
}

/// Gathers. A metric that is asked for and has no value in the span has no series.
///
/// # Errors
/// See [`AggregateError`].
pub async fn series(client: &impl GenericClient, device_id: i32, wanted: &Aggregation) -> Result<Vec<Series>, AggregateError> {
    let origin = Timestamp::from_microsecond(wanted.first).unwrap_or(Timestamp::MIN);
    let metrics = (!wanted.metrics.is_empty()).then_some(&wanted.metrics);
    let most = i64::try_from(MAX_POINTS + 1).unwrap_or(i64::MAX);
    let rows = client
        .query(
            &statement(&wanted.functions),
            &[
                &device_id,
                &wanted.span.from,
                &wanted.span.to,
                &wanted.window,
                &origin,
                &metrics,
                &most,
            ],
        )
        .await?;
    if rows.len() > MAX_POINTS {
        return Err(AggregateError::TooManyPoints);
    }
    let mut gathered: BTreeMap<String, BTreeMap<u64, Vec<Option<f64>>>> = BTreeMap::new();
    for row in &rows {
        let begin: Timestamp = row.try_get(2)?;
        let index = u64::try_from((begin.as_microsecond() - wanted.first) / wanted.window).unwrap_or(0);
        gathered
            .entry(row.try_get(0)?)
            .or_default()
            .insert(index, values(row, &wanted.functions)?);
    }
    let windows = usize::try_from(wanted.windows).unwrap_or(usize::MAX);
    if wanted.fill != Fill::None && gathered.len().saturating_mul(windows) > MAX_POINTS {
        return Err(AggregateError::TooManyPoints);
    }
    Ok(gathered
        .into_iter()
        .map(|(metric, windows)| Series {
            metric,
            points: points(windows, wanted),
        })
        .collect())
}

fn values(row: &Row, functions: &[Function]) -> Result<Vec<Option<f64>>, Error> {
    #[expect(clippy::cast_precision_loss, reason = "rows are counted below 2^53")]
    let count = row.try_get::<_, i64>(3)? as f64;
    let sum: Option<f64> = row.try_get(4)?;
    functions
        .iter()
        .map(|function| {
            Ok(match function {
                // Not the database's, which also squares what it is given, and so ends far below the largest double.
                Function::Mean => sum.map(|sum| sum / count),
                Function::Sum => sum,
                Function::Count => Some(count),
                Function::Min => row.try_get(5)?,
                Function::Max => row.try_get(6)?,
                Function::First => row.try_get(7)?,
                Function::Last => row.try_get(8)?,
                Function::Median => row.try_get(9)?,
            })
        })
        .collect()
}

fn points(gathered: BTreeMap<u64, Vec<Option<f64>>>, wanted: &Aggregation) -> Vec<Point> {
    let filled = fill::fill(gathered, wanted.windows, &wanted.functions, wanted.fill);
    let start = Timestamp::from_microsecond(wanted.first).unwrap_or(Timestamp::MIN);
    filled
        .into_iter()
        .map(|(index, values)| {
            let after = i64::try_from(index).unwrap_or(0) * wanted.window;
            Point {
                time: start.saturating_add(SignedDuration::from_micros(after)).unwrap_or(start),
                values: wanted.functions.iter().copied().zip(values).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::span::moment;
    use super::*;

    #[test]
    fn a_count_is_a_whole_number() {
        let point = Point {
            time: moment("0").expect("a time"),
            values: vec![(Function::Mean, Some(2.5)), (Function::Count, Some(3.0)), (Function::Max, None)],
        };
        let text = serde_json::to_string(&point).expect("JSON");
        assert_eq!(text, r#"{"time":"1970-01-01T00:00:00Z","mean":2.5,"count":3,"max":null}"#);
    }
}
