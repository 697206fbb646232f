//! What requests for telemetry ask: queries, taken apart and checked.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::devices::telemetry::range::Order;
use crate::devices::telemetry::span::{Span, moment};
use crate::devices::telemetry::window::{Aggregation, Fill, Function, MAX_METRICS, window};
use crate::protocol::payload::MAX_METRIC_NAME_BYTES;

use super::super::error::{Kind, Problem};
use super::super::grammar;

/// The longest text of a query that is looked for in the database, in characters.
const MAX_TEXT_CHARS: usize = 1_024;

/// A span of a device's messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct RangeQuery {
    /// From when on: RFC 3339 or epoch; an hour before `to` where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>, example = "2025-07-01T10:00:00Z")]
    from: Option<String>,
    /// Up to when, which is not in it; now where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>, example = "2025-07-01T11:00:00Z")]
    to: Option<String>,
    /// `asc`, the oldest first, or `desc`.
    #[param(inline, value_type = Option<grammar::Order>, example = "asc")]
    pub(super) order: Option<String>,
    /// Only these metrics: names with commas between, or a JSON array of texts.
    #[param(inline, value_type = Option<grammar::Metrics>, example = "temperature,humidity")]
    pub(super) metrics: Option<String>,
    /// The `next_cursor` of the page before, with the same `from`, `to` and `order`.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    pub(super) cursor: Option<String>,
    /// At most so many: 1 to 1000, 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) limit: Option<u32>,
}

/// A span of a device's events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct EventsQuery {
    /// From when on: RFC 3339 or epoch; an hour before `to` where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    from: Option<String>,
    /// Up to when, which is not in it; now where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    to: Option<String>,
    /// `asc`, the oldest first, or `desc`.
    #[param(inline, value_type = Option<grammar::Order>)]
    pub(super) order: Option<String>,
    /// The `next_cursor` of the page before, with the same `from`, `to` and `order`.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    pub(super) cursor: Option<String>,
    /// At most so many: 1 to 1000, 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) limit: Option<u32>,
}

/// Windows over a span.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct AggregateQuery {
    /// From when on: RFC 3339 or epoch; an hour before `to` where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    from: Option<String>,
    /// Up to when, which is not in it; now where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    to: Option<String>,
    /// The windows' length: 1s to 366d, such as 30s, 5m, 1h, 1d.
    #[param(inline, value_type = grammar::Window, example = "5m")]
    window: String,
    /// From when windows are counted; 1970-01-01T00:00:00Z where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    origin: Option<String>,
    /// Only these metrics, 100 at most: names with commas between, or a JSON array of texts.
    #[param(inline, value_type = Option<grammar::Metrics>)]
    metrics: Option<String>,
    /// Of mean, sum, count, min, max, first, last, median, with commas between; mean where nothing is said.
    #[param(inline, value_type = Option<grammar::Functions>, example = "mean,max")]
    functions: Option<String>,
    /// What stands for windows without values: none (they are left out), null, previous, zero or linear.
    #[param(inline, value_type = Option<grammar::Fill>, example = "none")]
    fill: Option<String>,
}

/// What to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct SpanQuery {
    /// From when on: RFC 3339 or epoch.
    #[param(inline, value_type = grammar::Moment)]
    from: String,
    /// Up to when, which is not in it.
    #[param(inline, value_type = grammar::Moment)]
    to: String,
}

impl RangeQuery {
    pub(super) fn span(&self) -> Result<Span, Problem> {
        span(self.from.as_deref(), self.to.as_deref())
    }
}

impl EventsQuery {
    pub(super) fn span(&self) -> Result<Span, Problem> {
        span(self.from.as_deref(), self.to.as_deref())
    }
}

impl SpanQuery {
    pub(super) fn whole(&self) -> Result<Span, Problem> {
        span(Some(&self.from), Some(&self.to))
    }
}

impl AggregateQuery {
    pub(super) fn span(&self) -> Result<Span, Problem> {
        span(self.from.as_deref(), self.to.as_deref())
    }

    pub(super) fn aggregation(&self, span: Span) -> Result<Aggregation, Problem> {
        let origin = self.origin.as_deref().map(moment).transpose()?;
        let functions = self.functions.as_deref().unwrap_or_default();
        let functions = functions
            .split(',')
            .map(|name| name.trim_matches(' '))
            .filter(|name| !name.is_empty())
            .map(str::parse);
        let functions: Vec<Function> = functions.collect::<Result<_, _>>()?;
        let fill = self.fill.as_deref().map_or(Ok(Fill::None), str::parse)?;
        let metrics = names(self.metrics.as_deref())?;
        Ok(Aggregation::new(span, window(&self.window)?, origin, metrics, functions, fill)?)
    }
}

pub(super) fn span(from: Option<&str>, to: Option<&str>) -> Result<Span, Problem> {
    Ok(Span::new(from.map(moment).transpose()?, to.map(moment).transpose()?)?)
}

pub(super) fn order(order: Option<&str>) -> Result<Order, Problem> {
    match order {
        None | Some("asc") => Ok(Order::Ascending),
        Some("desc") => Ok(Order::Descending),
        Some(other) => Err(Problem::new(Kind::BadRequest, format!("order={other:?}: asc or desc is expected"))),
    }
}

/// The names of metrics in a query. They are any text, a comma included, so a JSON array is taken too.
pub(super) fn names(text: Option<&str>) -> Result<Vec<String>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let names: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|_| {
            Problem::new(
                Kind::BadRequest,
                "metrics: names with commas between, or a JSON array of texts, are expected",
            )
        })?
    } else {
        text.split(',').map(str::to_owned).collect()
    };
    if names.len() > MAX_METRICS {
        return Err(Problem::new(
            Kind::BadRequest,
            format!("metrics: {} names; {MAX_METRICS} at most are expected", names.len()),
        ));
    }
    let bad = |name: &String| name.is_empty() || name.len() > MAX_METRIC_NAME_BYTES || name.contains('\0');
    if names.iter().any(bad) {
        return Err(Problem::new(
            Kind::BadRequest,
            format!("metrics: names of 1 to {MAX_METRIC_NAME_BYTES} bytes without NUL are expected"),
        ));
    }
    Ok(names)
}

/// A text that is looked for: PostgreSQL holds none with NUL, and none of ours is longer than that.
pub(in super::super) fn text<'a>(name: &str, value: Option<&'a str>) -> Result<Option<&'a str>, Problem> {
    if value.is_some_and(|value| value.is_empty() || value.chars().count() > MAX_TEXT_CHARS || value.contains('\0')) {
        return Err(Problem::new(
            Kind::BadRequest,
            format!("{name}: a text of 1 to {MAX_TEXT_CHARS} characters without NUL is expected"),
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_metrics_are_any_text() {
        assert_eq!(
            names(Some("temp > 30,Ünit 7")),
            Ok(vec!["temp > 30".to_owned(), "Ünit 7".to_owned()])
        );
        assert_eq!(names(Some(r#"["a,b","[c]"]"#)), Ok(vec!["a,b".to_owned(), "[c]".to_owned()]));
        assert_eq!((names(None), names(Some(""))), (Ok(Vec::new()), Ok(Vec::new())));
        for bad in ["a,,b", "a\0b", "[1]", "[", &"x".repeat(300), &"a,".repeat(200)] {
            assert!(names(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
