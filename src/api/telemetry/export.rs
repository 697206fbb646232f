//! A device's readings leave here as a stream: CSV, or a JSON object a line.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Deserialize;
use tracing::warn;
use utoipa::IntoParams;

use crate::devices::telemetry::export::{Export, Format};

use super::super::auth::Viewer;
use super::super::error::{Kind, Problem};
use super::super::extract::{Path, Query};
use super::super::grammar;
use super::super::state::Desk;
use super::super::topics::OfDevice;
use super::ask;

/// What to export, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct ExportQuery {
    /// `csv` (a line a number: time, device, metric, value) or `ndjson` (a line a message); csv where nothing is said.
    #[param(inline, value_type = Option<grammar::ExportFormat>, example = "csv")]
    format: Option<String>,
    /// From when on: RFC 3339 or epoch; an hour before `to` where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    from: Option<String>,
    /// Up to when, which is not in it; now where nothing is said.
    #[param(inline, value_type = Option<grammar::Moment>)]
    to: Option<String>,
    /// Only these metrics: names with commas between, or a JSON array of texts.
    #[param(inline, value_type = Option<grammar::Metrics>)]
    metrics: Option<String>,
}

/// Export a device's readings
///
/// However much it is, it streams, oldest first. A stream that ends without its end was cut off by a fault of ours.
#[utoipa::path(get, path = "/telemetry/{device_id}/export", tag = "telemetry", operation_id = "telemetry_export", params(OfDevice, ExportQuery),
    responses((status = 200, description = "The readings", content((String = "text/csv"), (String = "application/x-ndjson")))))]
pub(in super::super) async fn export(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let named = query.format.as_deref().unwrap_or("csv");
    let format = Format::of(named).ok_or_else(|| Problem::new(Kind::BadRequest, format!("format={named:?}: csv or ndjson is expected")))?;
    let span = ask::span(query.from.as_deref(), query.to.as_deref())?;
    let metrics = ask::names(query.metrics.as_deref())?;
    // The first page before the head of the answer: what goes wrong by then is still a problem document.
    let (export, first) = {
        let client = desk.database().await?;
        let (device, number) = super::device(&**client, &path.device_id).await?;
        let mut export = Export::new(device.as_str(), number, span, metrics, format);
        let first = export.next_page(&**client).await?;
        (export, first)
    };
    let pages = stream::try_unfold((export, Some(first)), move |(export, first)| page(desk.clone(), export, first));
    let headers = [
        (CONTENT_TYPE, format.media_type().to_owned()),
        // The grammar of ids has nothing that would have to be quoted.
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}.{}\"", path.device_id, format.extension()),
        ),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

/// The page that was read already, or the next one. Whoever reads slowly holds no connection to the database meanwhile.
async fn page(desk: Desk, mut export: Export, first: Option<Vec<u8>>) -> io::Result<Option<(Vec<u8>, (Export, Option<Vec<u8>>))>> {
    if let Some(first) = first {
        return Ok(Some((first, (export, None))));
    }
    if export.is_ended() {
        return Ok(None);
    }
    let cut_off = |problem: Problem| {
        warn!(?problem, "an export was cut off");
        io::Error::other("the export was cut off")
    };
    let client = desk.database().await.map_err(cut_off)?;
    let bytes = export.next_page(&**client).await.map_err(|error| cut_off(error.into()))?;
    Ok(Some((bytes, (export, None))))
}
