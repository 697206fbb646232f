//! Telemetry comes in here: a device by its key, or an operator for it, and the answer when it is committed.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::ingest::reply::Verdict;
use crate::protocol::id::DeviceIdRef;
use crate::protocol::topic::Telemetry;

use super::super::answer::{Success, success};
use super::super::auth::Sender;
use super::super::error::{Kind, Problem};
use super::super::extract::{Body, Path, Query};
use super::super::grammar;
use super::super::state::Desk;
use super::super::topics::OfDevice;

/// Longer than a commit takes on a database that is well; a device that waits longer sends again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which channel it would be published on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct KindQuery {
    /// `sensors`, `metrics` or `events`, as in the topics; plain readings where nothing is said.
    #[param(inline, value_type = Option<grammar::TelemetryKind>, example = "sensors")]
    kind: Option<String>,
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(in super::super) struct Submitted {
    /// `committed`, or `duplicate` where all of it was stored before.
    #[schema(example = "committed")]
    outcome: &'static str,
}

/// Send telemetry
///
/// The forms of payloads are those of MQTT, and so are the rules and limits. The answer comes after the commit. A payload that
/// breaks a rule is refused with the reason, and nothing of it is stored.
#[utoipa::path(post, path = "/telemetry/{device_id}", tag = "telemetry", operation_id = "telemetry_send", params(OfDevice, KindQuery),
    security(("device_key" = []), ("bearer" = [])),
    request_body(content = serde_json::Value, description = "A reading, or an array of readings", content_type = "application/json"),
    responses((status = 202, description = "It is committed, or was before", body = Success<Submitted>)))]
pub(in super::super) async fn submit(
    sender: Sender,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<KindQuery>,
    Body(payload): Body,
) -> Result<Response, Problem> {
    let device = DeviceIdRef::parse(&path.device_id)
        .map_err(|error| Problem::new(Kind::NotFound, format!("{:?} is no device: {error}", path.device_id)))?;
    sender.may_send_for(device)?;
    let kind = match query.kind.as_deref() {
        None => Telemetry::Bare,
        Some("sensors") => Telemetry::Sensors,
        Some("metrics") => Telemetry::Metrics,
        Some("events") => Telemetry::Events,
        Some(other) => {
            return Err(Problem::new(
                Kind::BadRequest,
                format!("kind={other:?}: sensors, metrics or events is expected, or nothing"),
            ));
        }
    };
    match desk.telemetry()?.submit(device, kind, payload, PATIENCE).await? {
        Verdict::DeadLettered(rejection) => Err(Problem::new(
            Kind::Unprocessable,
            format!("{rejection}; what was refused is kept among the dead letters"),
        )),
        stored => Ok(success(Submitted { outcome: stored.as_str() }).with(StatusCode::ACCEPTED)),
    }
}
