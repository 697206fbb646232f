//! Whole fleets: brought as a file, and taken as a stream.

use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::operations::bulk::{self as operations, Fault, Format, Gone, Listen, Made, Options, Report};
use crate::operations::credentials::Wanted;

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::credentials::IssuedCredentials;
use super::error::{Kind, Problem};
use super::extract::Query;
use super::state::Desk;
use super::streams::EndsItself;

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
    /// The number of its line.
    line: u64,
    /// Whose.
    device_id: String,
    /// Shown this once.
    credentials: IssuedCredentials,
}

/// That an import ended early.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndedEarly {
    /// From this line on nothing was taken, and no credentials that were told for these lines are good, unless it is unsure.
    line: u64,
    /// How many lines these are; bring them again.
    lines: u64,
    /// The database did not say whether it has taken the next lines: keep the credentials that were told for them. Brought again, those
    /// devices for which none are told have them.
    unsure: bool,
    /// Why.
    reason: String,
}

/// What became of an import.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Imported {
    /// Whether nothing was changed.
    dry_run: bool,
    /// What was made; shown this once.
    credentials: Vec<CredentialsOf>,
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
    /// Where it ended, if not at the end of the file.
    ended: Option<EndedEarly>,
}

impl Imported {
    fn new(report: Report, dry_run: bool) -> Self {
        Self {
            dry_run,
            // Told one after the other, between the head and the tail.
            credentials: Vec::new(),
            created: report.created,
            updated: report.updated,
            unchanged: report.unchanged,
            failed: report.failed,
            faults: report.faults,
            ended: report.ended.map(|ended| EndedEarly {
                line: ended.line,
                lines: ended.lines,
                unsure: ended.is_unsure(),
                reason: Problem::from(ended.error).detail().to_owned(),
            }),
        }
    }

    /// The text before the credentials, and after them.
    fn around(self) -> (String, String) {
        let text = serde_json::to_string(&success(self)).expect("names are texts, and nothing else can fail");
        let (head, tail) = text.split_once(LIST).expect("the list is there, and empty");
        (format!("{head}{LIST}"), tail.to_owned())
    }
}

/// How the list of credentials begins. In a text it cannot stand: there its quotes would be escaped.
const LIST: &str = "\"credentials\":[";
/// The longest that credentials wait for whoever asked for them. Meanwhile no other import goes on.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Whom an import tells what it makes: the answer, as it is written.
struct Listener {
    /// Tells the handler, once, that there is something to answer.
    begun: Option<oneshot::Sender<Result<(), Problem>>>,
    /// One text at a time, so that the next finds a place when this one was taken.
    answer: mpsc::Sender<String>,
    is_first: bool,
    stop: CancellationToken,
}

impl Listen for Listener {
    /// Returns when the connection has taken it.
    async fn tell(&mut self, made: Vec<Made>) -> Result<(), Gone> {
        if self.stop.is_cancelled() {
            return Err(Gone::Stopping);
        }
        let mut text = String::new();
        for made in made {
            if !std::mem::replace(&mut self.is_first, false) {
                text.push(',');
            }
            let credentials = CredentialsOf {
                line: made.line,
                device_id: made.id.as_str().to_owned(),
                credentials: made.issued.into(),
            };
            text.push_str(&serde_json::to_string(&credentials).expect("names are texts, and nothing else can fail"));
        }
        self.begin()?;
        let taken = async {
            self.answer.send(text).await.map_err(|_| Gone::Left)?;
            self.answer.reserve().await.map(drop).map_err(|_| Gone::Left)
        };
        timeout(TAKEN_WITHIN, taken).await.unwrap_or(Err(Gone::Left))
    }
}

impl Listener {
    fn begin(&mut self) -> Result<(), Gone> {
        match self.begun.take() {
            Some(begun) => begun.send(Ok(())).map_err(|_| Gone::Left),
            None => Ok(()),
        }
    }

    /// What became of it. Where nothing was done, a problem can still be the whole answer.
    async fn end(mut self, report: Report, dry_run: bool) {
        if let (Some(begun), Some(ended)) = (self.begun.take_if(|_| report.ended.is_some()), report.ended.as_ref()) {
            debug!(line = ended.line, "an import came to nothing");
            let error = report.ended.expect("it was just there").error;
            drop(begun.send(Err(error.into())));
            return;
        }
        if self.begin().is_ok() {
            // If nobody takes it, there is nobody to tell.
            drop(self.answer.send(Imported::new(report, dry_run).around().1).await);
        }
    }
}

/// Bring devices
///
/// A file of 64 MiB and 200,000 lines at most. Each line registers a device or changes the one that is there; what a line does not say
/// stays as it is. A line that makes no sense is told by its number, and the others are taken, a thousand in each transaction. The answer is
/// written while they are taken: no credentials are made that it has not told. If the import cannot go on, ended says where, and what was
/// taken before stays.
#[utoipa::path(post, path = "/devices/import", tag = "devices", params(ToImport), request_body(content((String = "text/csv"), (String = "application/x-ndjson"))), responses((status = 200, description = "What became of the lines", body = Success<Imported>)))]
pub(super) async fn import(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Query(asked): Query<ToImport>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
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
    // They take turns anyhow; whoever waits for one has no connection yet.
    let turn = desk.import_turn().await;
    let mut client = desk.database().await?;
    let (actor, format) = (caller.actor(), Format::from(asked.format));
    let (begun, beginning) = oneshot::channel();
    let (answer, texts) = mpsc::channel(1);
    // It ends by itself when nobody takes the answer, or at a stop. Were it a part of the answer, a client that does not read would hold
    // what it holds for as long as it likes.
    let stop = desk.parts.tasks.stop_token();
    desk.parts.tasks.spawn(format!("import-{}", Uuid::now_v7().simple()), async move {
        let _turn = turn;
        let mut listener = Listener {
            begun: Some(begun),
            answer,
            is_first: true,
            stop,
        };
        match operations::import(&mut **client, &actor, format, &data, options, &mut listener).await {
            Ok(report) => listener.end(report, options.dry_run).await,
            Err(bad_file) => drop(listener.begun.map(|begun| begun.send(Err(bad_file.into())))),
        }
    });
    beginning
        .await
        .map_err(|_| Problem::new(Kind::Internal, "the import ended without a word"))??;
    let (head, _) = Imported::new(Report::default(), options.dry_run).around();
    let texts = stream::unfold(texts, async |mut texts| Some((texts.recv().await?, texts)));
    let body = stream::once(std::future::ready(head))
        .chain(texts)
        .map(Ok::<_, std::convert::Infallible>);
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        Extension(EndsItself),
        Body::from_stream(body),
    )
        .into_response())
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
#[utoipa::path(get, path = "/devices/export", tag = "devices", params(ToExport), responses((status = 200, description = "A line a device", content((String = "text/csv"), (String = "application/x-ndjson")))))]
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
