//! A device's numbers, gathered into windows of equal length.
//!
//! The database gathers (`date_bin`, which every flavour has); what is missing is filled in here. Median, first and last want
//! the window's values sorted and are computed only where they are asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use super::fill;
use super::span::Span;

/// The most windows of a span.
pub const MAX_WINDOWS: u64 = 10_000;
/// The most points of an answer: windows times metrics.
pub const MAX_POINTS: usize = 100_000;
/// The most metrics that may be asked for by name.
pub const MAX_METRICS: usize = 100;
/// A window's shortest and longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

const GATHER: &str = "
    SELECT m.name, date_bin($4::int8 * interval '1 microsecond', t.\"time\", $5) AS begin,
           count(*), sum(v) FILTER (WHERE $11), min(v), max(v),
           (array_agg(v ORDER BY t.\"time\", t.metric_set_id) FILTER (WHERE $7))[1],
           (array_agg(v ORDER BY t.\"time\" DESC, t.metric_set_id DESC) FILTER (WHERE $8))[1],
           percentile_cont(0.5) WITHIN GROUP (ORDER BY v) FILTER (WHERE $9)
    FROM telemetry t
    JOIN metric_set_members b USING (metric_set_id)
    JOIN metrics m USING (metric_id),
    LATERAL (SELECT t.\"values\"[b.position] AS v) AS number
    WHERE t.device_id = $1 AND t.\"time\" >= $2 AND t.\"time\" < $3 AND v IS NOT NULL AND ($6::text[] IS NULL OR m.name = ANY ($6))
    GROUP BY m.name, begin
    ORDER BY m.name, begin
    LIMIT $10";

macro_rules! names {
    ($(#[$doc:meta])* $type:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)+ }

        impl $type {
            /// All of them, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl FromStr for $type {
            type Err = BadAggregation;

            fn from_str(text: &str) -> Result<Self, BadAggregation> {
                let known = Self::ALL.iter().copied().find(|known| known.as_str() == text);
                known.ok_or_else(|| BadAggregation::Name {
                    what: $what,
                    given: text.chars().take(40).collect(),
                    expected: [$($text),+].join(", "),
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// What is made of a window's values.
    Function, "function":
    /// The arithmetic mean.
    Mean = "mean",
    /// The sum.
    Sum = "sum",
    /// How many there are.
    Count = "count",
    /// The least.
    Min = "min",
    /// The greatest.
    Max = "max",
    /// The earliest.
    First = "first",
    /// The latest.
    Last = "last",
    /// The middle one, or the mean of the two in the middle.
    Median = "median",
}

names! {
    /// What stands for a window without values. Its count is 0, whatever stands for the rest.
    Fill, "fill":
    /// The window is left out.
    None = "none",
    /// `null`.
    Null = "null",
    /// What the window before it has; `null` before the first.
    Previous = "previous",
    /// 0.
    Zero = "zero",
    /// What lies on the line between the windows around it; `null` before the first and after the last.
    Linear = "linear",
}

/// Why nothing can be gathered like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAggregation {
    /// No such name.
    #[error("{given:?} is no {what}; {expected} are")]
    Name {
        /// Of what.
        what: &'static str,
        /// As it was given.
        given: String,
        /// All there are.
        expected: String,
    },
    /// No length of a window.
    #[error("{0:?} is no window; 1s to 366d is expected, such as 30s, 5m, 1h or 1d")]
    Window(String),
    /// Too many windows.
    #[error("the span has {0} windows of this length; {MAX_WINDOWS} at most are expected: take a longer window or a shorter span")]
    TooManyWindows(u64),
    /// Too many metrics.
    #[error("{0} metrics; {MAX_METRICS} at most are expected")]
    TooManyMetrics(usize),
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

/// What is to be gathered, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregation {
    span: Span,
    metrics: Vec<String>,
    functions: Vec<Function>,
    fill: Fill,
    /// Microseconds.
    window: i64,
    /// When the span's first window begins, in microseconds since 1970.
    first: i64,
    windows: u64,
}

/// The length of a window: a whole number and `s`, `m`, `h` or `d`.
///
/// # Errors
/// [`BadAggregation::Window`].
pub fn window(text: &str) -> Result<Duration, BadAggregation> {
    let bad = || BadAggregation::Window(text.chars().take(40).collect());
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let length = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let length = length.map(Duration::from_secs).ok_or_else(bad)?;
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(length)
    } else {
        Err(bad())
    }
}

impl Aggregation {
    /// Windows of a length, counted from `origin` (1970-01-01T00:00:00Z where there is none), over `span`. Of these metrics, or
    /// of all where there are none; of the functions at least the mean.
    ///
    /// # Errors
    /// [`BadAggregation`].
    pub fn new(
        span: Span,
        length: Duration,
        origin: Option<Timestamp>,
        metrics: Vec<String>,
        mut functions: Vec<Function>,
        fill: Fill,
    ) -> Result<Self, BadAggregation> {
        if metrics.len() > MAX_METRICS {
            return Err(BadAggregation::TooManyMetrics(metrics.len()));
        }
        let bad_window = || BadAggregation::Window(format!("{length:?}"));
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err(bad_window());
        }
        let window = i64::try_from(length.as_micros()).map_err(|_| bad_window())?;
        let (from, to) = (span.from.as_microsecond(), span.to.as_microsecond());
        let origin = origin.map_or(0, Timestamp::as_microsecond);
        // From the first window's begin on, so that nothing lies before the origin that the database counts from.
        let first = from - (from - origin).rem_euclid(window);
        let windows = u64::try_from((to - 1 - first) / window + 1).unwrap_or(0);
        if windows > MAX_WINDOWS {
            return Err(BadAggregation::TooManyWindows(windows));
        }
        functions.sort_unstable();
        functions.dedup();
        if functions.is_empty() {
            functions.push(Function::Mean);
        }
        Ok(Self {
            span,
            metrics,
            functions,
            fill,
            window,
            first,
            windows,
        })
    }

    /// What is made of each window's values.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
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
    let has = |function| wanted.functions.contains(&function);
    let most = i64::try_from(MAX_POINTS + 1).unwrap_or(i64::MAX);
    let rows = client
        .query(
            GATHER,
            &[
                &device_id,
                &wanted.span.from,
                &wanted.span.to,
                &wanted.window,
                &origin,
                &metrics,
                &has(Function::First),
                &has(Function::Last),
                &has(Function::Median),
                &most,
                &(has(Function::Sum) || has(Function::Mean)),
            ],
        )
        .await?;
    if rows.len() > MAX_POINTS {
        return Err(AggregateError::TooManyPoints);
    }
    let mut gathered: BTreeMap<String, BTreeMap<u64, Vec<Option<f64>>>> = BTreeMap::new();
    for row in &rows {
        let begin: Timestamp = row.try_get(1)?;
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
    let count = row.try_get::<_, i64>(2)? as f64;
    let sum: Option<f64> = row.try_get(3)?;
    functions
        .iter()
        .map(|function| {
            Ok(match function {
                // Not the database's, which also squares what it is given, and so ends far below the largest double.
                Function::Mean => sum.map(|sum| sum / count),
                Function::Sum => sum,
                Function::Count => Some(count),
                Function::Min => row.try_get(4)?,
                Function::Max => row.try_get(5)?,
                Function::First => row.try_get(6)?,
                Function::Last => row.try_get(7)?,
                Function::Median => row.try_get(8)?,
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

    fn span(from: &str, to: &str) -> Span {
        Span::new(moment(from).ok(), moment(to).ok()).expect("a span")
    }

    fn windows(span: Span, length: &str, origin: Option<&str>) -> Result<(i64, u64), BadAggregation> {
        let origin = origin.map(|text| moment(text).expect("a time"));
        Aggregation::new(span, window(length)?, origin, Vec::new(), Vec::new(), Fill::None).map(|made| (made.first, made.windows))
    }

    #[test]
    fn windows_begin_at_the_origin_and_cover_the_span() {
        let hour = span("2025-07-01T10:30:00Z", "2025-07-01T11:30:00Z");
        let ten = moment("2025-07-01T10:00:00Z").expect("a time").as_microsecond();
        assert_eq!(windows(hour, "1h", None), Ok((ten, 2)));
        assert_eq!(windows(hour, "30m", None), Ok((ten + 1_800_000_000, 2)));
        // An origin behind the span counts backwards.
        assert_eq!(windows(hour, "1h", Some("2030-01-01T00:15:00Z")), Ok((ten + 900_000_000, 2)));
        assert_eq!(windows(span("-10", "10"), "1h", None), Ok((-3_600_000_000, 2)));
        let year = span("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
        assert!(matches!(windows(year, "1s", None), Err(BadAggregation::TooManyWindows(31_622_400))));
    }

    #[test]
    fn a_window_is_a_number_and_a_unit() {
        assert_eq!(window("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(window("1d"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "5",
            "m",
            "0s",
            "-1s",
            "1w",
            "500ms",
            "1.5h",
            "367d",
            "99999999999999999999s",
            "9999999999999999999d",
            "1 h",
        ] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_apart_and_refusals_say_which_there_are() {
        for function in Function::ALL {
            assert_eq!(function.as_str().parse(), Ok(*function));
        }
        let refusal = "average".parse::<Function>().expect_err("no function").to_string();
        assert!(refusal.contains("mean, sum, count"), "{refusal}");
        assert!("spline".parse::<Fill>().is_err());
    }

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
