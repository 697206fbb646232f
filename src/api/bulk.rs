//! Whole fleets: brought as a file, and taken as a stream.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use crate::operations::bulk::{self as operations, Fault, Format, Options, Report};
use crate::operations::credentials::Wanted;

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::credentials::IssuedCredentials;
use super::error::{Kind, Problem};
use super::extract::Query;
use super::state::Desk;

/// The largest file that is brought.
pub(super) const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// How the lines are written.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum LineFormat {
    /// With a header: device_id, name, type, tags and groups (parted by ;), metadata (JSON).
    Csv,
    /// A JSON object a line, with the same members.
    Ndjson,
}

impl From<LineFormat> for Format {
    fn from(format: LineFormat) -> Self {
        match format {
            LineFormat::Csv => Self::Csv,
            LineFormat::Ndjson => Self::Ndjson,
        }
    }
}

/// How an import is done.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ToImport {
    /// How the lines are written.
    #[param(inline)]
    format: LineFormat,
    /// Judge every line, and change nothing.
    #[serde(default)]
    #[param(default = false)]
    dry_run: bool,
    /// Make passwords at the broker for devices that have none.
    #[serde(default)]
    #[param(default = false)]
    mqtt: bool,
    /// Make keys for HTTP for devices that have none.
    #[serde(default)]
    #[param(default = false)]
    api_key: bool,
}

/// A device's credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CredentialsOf {
    /// Whose.
    device_id: String,
    /// Shown this once.
    credentials: IssuedCredentials,
}

/// What became of an import.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Imported {
    /// Whether nothing was changed.
    dry_run: bool,
    /// Devices that there were none of.
    created: u64,
    /// Devices that are another now.
    updated: u64,
    /// Devices that were so already.
    unchanged: u64,
    /// Lines that make no sense; the others are taken.
    failed: u64,
    /// The first thousand of them.
    faults: Vec<Fault>,
    /// What was made; shown this once.
    credentials: Vec<CredentialsOf>,
}

impl Imported {
    fn new(report: Report, dry_run: bool) -> Self {
        Self {
            dry_run,
            created: report.created,
            updated: report.updated,
            unchanged: report.unchanged,
            failed: report.failed,
            faults: report.faults,
            credentials: report
                .issued
                .into_iter()
                .map(|(id, issued)| CredentialsOf {
                    device_id: id.as_str().to_owned(),
                    credentials: issued.into(),
                })
                .collect(),
        }
    }
}

/// Bring devices
///
/// A file of 64 MiB and 200,000 lines at most. Each line registers a device or changes the one that is there; what a line does not say
/// stays as it is. A line that makes no sense is told by its number, and the others are taken, a thousand in each transaction.
#[utoipa::path(post, path = "/devices/import", operation_id = "import_devices", tag = "devices", params(ToImport), request_body(content((String = "text/csv"), (String = "application/x-ndjson"))), responses((status = 200, description = "What became of the lines", body = Success<Imported>)))]
pub(super) async fn import(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Query(asked): Query<ToImport>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Success<Imported>, Problem> {
    let data = body.map_err(|error| match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            Kind::TooLarge,
            format!("an import has {MAX_BODY_BYTES} bytes at most; bring it in parts"),
        ),
        _ => Problem::new(Kind::BadRequest, error.body_text()),
    })?;
    let options = Options {
        dry_run: asked.dry_run,
        credentials: Wanted {
            mqtt: asked.mqtt,
            api_key: asked.api_key,
        },
    };
    let mut client = desk.database().await?;
    let report = operations::import(&mut **client, &caller.actor(), asked.format.into(), &data, options).await?;
    Ok(success(Imported::new(report, asked.dry_run)))
}

/// How an export is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ToExport {
    /// How the lines are written.
    #[param(inline)]
    format: LineFormat,
}

/// Take all devices
///
/// In the form that an import takes, as a stream. It is no picture of one moment: each thousand devices are read as they are then.
#[utoipa::path(get, path = "/devices/export", operation_id = "export_devices", tag = "devices", params(ToExport), responses((status = 200, description = "A line a device", content((String = "text/csv"), (String = "application/x-ndjson")))))]
pub(super) async fn export(_: Viewer, State(desk): State<Desk>, Query(asked): Query<ToExport>) -> Result<Response, Problem> {
    let format = Format::from(asked.format);
    let content_type = match format {
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Ndjson => "application/x-ndjson",
    };
    // The first page before the answer begins, so that what is wrong can still be said.
    let first = page(&desk, format, None).await?;
    let pages = stream::unfold(Some(Ok(first)), move |page| {
        let desk = desk.clone();
        async move {
            match page? {
                Ok((text, None)) => Some((Ok(text), None)),
                Ok((text, Some(after))) => {
                    let next = self::page(&desk, format, Some(&after)).await;
                    Some((Ok(text), Some(next)))
                }
                // The connection breaks, so that nobody takes half a fleet for a whole one.
                Err(problem) => {
                    warn!(?problem, "an export of devices ended early");
                    Some((Err(std::io::Error::other("the export ended early")), None))
                }
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, content_type)], Body::from_stream(pages)).into_response())
}

async fn page(desk: &Desk, format: Format, after: Option<&str>) -> Result<(Vec<u8>, Option<String>), Problem> {
    let client = desk.database().await?;
    Ok(operations::export(&**client, format, after).await?)
}
