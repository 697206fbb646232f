//! Devices that ask for credentials: who they are, and what an operator decides.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::devices::discovery::{self as rows, Request, State as Standing};
use crate::operations::discovery;
use crate::protocol::id::{DeviceId, DeviceIdRef};

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::error::{Kind, Problem};
use super::extract::{Json, Path, Query};
use super::grammar;
use super::page;
use super::state::Desk;
use super::topics::OfDevice;

/// A registration.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Registration {
    /// The device.
    device_id: String,
    /// `expected`, `pending`, `approved` (gets its credentials when it listens), `issued` or `rejected`.
    #[schema(example = "pending")]
    state: &'static str,
    /// What the device said of itself.
    #[schema(value_type = Object)]
    payload: Value,
    /// The X25519 key that the answer is sealed to, in base64; none where the device gave none.
    public_key: Option<String>,
    /// The only key with which it is answered, in base64; none where it was announced without one, or asked by itself.
    expected_key: Option<String>,
    /// How often it asked.
    attempts: i32,
    /// When it was first heard of.
    created_at: Timestamp,
    /// When it last asked.
    requested_at: Option<Timestamp>,
    /// When it was decided upon.
    decided_at: Option<Timestamp>,
    /// By whom.
    decided_by: Option<String>,
    /// When it got its credentials.
    issued_at: Option<Timestamp>,
    /// Why it was rejected.
    reason: Option<String>,
}

/// A page of registrations.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Registrations {
    /// By device id.
    registrations: Vec<Registration>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// Which registrations.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Of this state only.
    #[param(inline, value_type = Option<grammar::Standing>, example = "pending")]
    state: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
}

/// List registrations
#[utoipa::path(get, path = "/discovery", tag = "discovery", params(Which), responses((status = 200, description = "Registrations by device id", body = Success<Registrations>)))]
pub(super) async fn list(_: Viewer, State(desk): State<Desk>, Query(which): Query<Which>) -> Result<Success<Registrations>, Problem> {
    let limit = page::limit(which.limit)?;
    let after: Option<String> = page::read(which.cursor.as_deref())?;
    let state = match which.state.as_deref() {
        None => None,
        Some(text) => Some(Standing::parse(text).ok_or_else(|| {
            Problem::new(
                Kind::BadRequest,
                format!("state={text:?}: expected, pending, approved, issued or rejected is expected"),
            )
        })?),
    };
    let client = desk.database().await?;
    let mut requests = rows::list(&**client, state, after.as_deref(), limit + 1).await?;
    let next_cursor = page::cut(&mut requests, limit, |request| request.device.clone());
    Ok(success(Registrations {
        registrations: requests.into_iter().map(shown).collect(),
        next_cursor,
    }))
}

/// A device to announce.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToExpect {
    /// Its id.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "sensor_001")]
    device_id: String,
    /// Its X25519 public key, in base64: only a request with this key is answered then.
    #[schema(
        min_length = 44,
        max_length = 44,
        pattern = "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        example = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    )]
    expected_key: Option<String>,
}

/// What was decided.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Decided {
    /// The device.
    device_id: String,
    /// Where its registration stands now.
    state: &'static str,
}

/// Announce a device
///
/// When it asks, it gets its credentials at once, whatever the policy. Announced with its key it gets them by that key alone, and nobody
/// else can ask for it.
#[utoipa::path(post, path = "/discovery", tag = "discovery", request_body = ToExpect, responses((status = 201, description = "It is expected", body = Success<Decided>)))]
pub(super) async fn expect(Operator(caller): Operator, State(desk): State<Desk>, Json(asked): Json<ToExpect>) -> Result<Response, Problem> {
    let device = DeviceIdRef::parse(&asked.device_id).map_err(|error| Problem::new(Kind::Unprocessable, format!("device_id: {error}")))?;
    let key = asked.expected_key.as_deref().map(discovery::public_key).transpose();
    let key = key.map_err(|_| {
        Problem::new(
            Kind::Unprocessable,
            "expected_key: an X25519 public key, 32 bytes in base64, is expected",
        )
    })?;
    let mut client = desk.database().await?;
    if !discovery::expect(&mut **client, &caller.actor(), device, key.as_deref()).await? {
        return Err(Problem::new(Kind::Conflict, format!("there is a registration of {device} already")));
    }
    let decided = Decided {
        device_id: asked.device_id,
        state: Standing::Expected.as_str(),
    };
    Ok(success(decided).with(StatusCode::CREATED))
}

/// Approve a registration
///
/// The device gets its credentials at once if it is listening, else when it asks again.
#[utoipa::path(post, path = "/discovery/{device_id}/approve", tag = "discovery", params(OfDevice), responses((status = 200, description = "It is approved", body = Success<Decided>)))]
pub(super) async fn approve(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
) -> Result<Success<Decided>, Problem> {
    let device = device(&path)?;
    let mut client = desk.database().await?;
    discovery::approve(&mut **client, &caller.actor(), as_ref(&device)).await?;
    Ok(success(Decided {
        device_id: path.device_id,
        state: Standing::Approved.as_str(),
    }))
}

/// Why a registration is rejected.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToReject {
    /// For the audit, and for whoever looks.
    #[schema(inline, value_type = Option<grammar::Cause>)]
    reason: Option<String>,
}

/// Reject a registration
#[utoipa::path(post, path = "/discovery/{device_id}/reject", tag = "discovery", params(OfDevice), request_body = ToReject, responses((status = 200, description = "It is rejected", body = Success<Decided>)))]
pub(super) async fn reject(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Json(asked): Json<ToReject>,
) -> Result<Success<Decided>, Problem> {
    let device = device(&path)?;
    if asked
        .reason
        .as_deref()
        .is_some_and(|reason| reason.chars().count() > 500 || reason.contains('\0'))
    {
        return Err(Problem::new(
            Kind::Unprocessable,
            "reason: at most 500 characters without NUL are expected",
        ));
    }
    let mut client = desk.database().await?;
    discovery::reject(&mut **client, &caller.actor(), as_ref(&device), asked.reason.as_deref()).await?;
    Ok(success(Decided {
        device_id: path.device_id,
        state: Standing::Rejected.as_str(),
    }))
}

/// Forget a registration
///
/// The device can ask anew. Credentials that it has stay as they are.
#[utoipa::path(delete, path = "/discovery/{device_id}", tag = "discovery", params(OfDevice), responses((status = 204, description = "It is forgotten")))]
pub(super) async fn forget(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
) -> Result<StatusCode, Problem> {
    let device = device(&path)?;
    let mut client = desk.database().await?;
    discovery::forget(&mut **client, &caller.actor(), as_ref(&device)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn device(path: &OfDevice) -> Result<DeviceId, Problem> {
    let parsed = DeviceIdRef::parse(&path.device_id).map(DeviceIdRef::to_owned);
    parsed.map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", path.device_id)))
}

fn as_ref(device: &DeviceId) -> DeviceIdRef<'_> {
    DeviceIdRef::parse(device.as_str()).expect("it was parsed before")
}

fn shown(request: Request) -> Registration {
    Registration {
        device_id: request.device,
        state: request.state.as_str(),
        payload: request.payload,
        public_key: request.public_key.map(|key| STANDARD.encode(key)),
        expected_key: request.expected_key.map(|key| STANDARD.encode(key)),
        attempts: request.attempts,
        created_at: request.created_at,
        requested_at: request.requested_at,
        decided_at: request.decided_at,
        decided_by: request.decided_by,
        issued_at: request.issued_at,
        reason: request.reason,
    }
}
