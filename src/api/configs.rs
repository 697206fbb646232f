//! How devices are to be set, and how they say that they are.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::devices::desired::{self, Desired, Text};
use crate::operations::configs as operations;

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::error::Problem;
use super::extract::{Json, Path};
use super::precondition::{IfMatch, Precondition, etag};
use super::state::Desk;
use super::topics::OfDevice;

/// How a device is to be set, and how it is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeviceConfig {
    /// Which device.
    device_id: String,
    /// Moved on by every change; 0 where nothing was ever wanted.
    version: i32,
    /// What is wanted, as it was given; null where nothing is.
    #[schema(value_type = Option<Object>)]
    desired: Option<Box<RawValue>>,
    /// Since when.
    desired_at: Option<Timestamp>,
    /// By whom.
    desired_by: Option<String>,
    /// What the device says that it has.
    #[schema(value_type = Option<Object>)]
    reported: Option<Box<RawValue>>,
    /// Which version it says that this is.
    reported_version: Option<i32>,
    /// When it said so.
    reported_at: Option<Timestamp>,
    /// Whether it has what is wanted; null where nothing is.
    in_sync: Option<bool>,
}

/// Look at a device's configuration
#[utoipa::path(get, path = "/devices/{device_id}/config", tag = "devices", params(OfDevice), responses((status = 200, description = "What is wanted and what the device reports; the version is in ETag", body = Success<DeviceConfig>)))]
pub(super) async fn get(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfDevice>) -> Result<Response, Problem> {
    let client = desk.database().await?;
    let desired = desired::get(&**client, &path.id()?).await?;
    answer(path, desired)
}

/// Set a device's configuration
///
/// The body is the configuration itself, a JSON object of 64 KiB at most. The device gets it as it was given, with a version, retained on
/// its config topic. With If-Match, only if that version is still the newest ("0" for none yet).
#[utoipa::path(put, path = "/devices/{device_id}/config", tag = "devices", params(OfDevice, Precondition), request_body(content = Object, description = "The configuration", content_type = "application/json", example = json!({"interval_seconds": 30})), responses((status = 200, description = "What is wanted now; the version is in ETag", body = Success<DeviceConfig>)))]
pub(super) async fn set(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    if_match: IfMatch,
    Json(config): Json<Box<RawValue>>,
) -> Result<Response, Problem> {
    let (id, config) = (path.id()?, Text::parse(config.get())?);
    let mut client = desk.database().await?;
    let desired = operations::set(&mut **client, &caller.actor(), desk.tree(), &id, &config, if_match.revision()?).await?;
    answer(path, desired)
}

/// Want nothing of a device any more
///
/// The broker forgets the configuration; the device keeps what it has. The version moves on.
#[utoipa::path(delete, path = "/devices/{device_id}/config", tag = "devices", params(OfDevice, Precondition), responses((status = 200, description = "Nothing is wanted now; the version is in ETag", body = Success<DeviceConfig>)))]
pub(super) async fn delete(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    let desired = operations::delete(&mut **client, &caller.actor(), desk.tree(), &id, if_match.revision()?).await?;
    answer(path, desired)
}

fn answer(path: OfDevice, desired: Desired) -> Result<Response, Problem> {
    let raw = |text: Option<String>| {
        text.map(RawValue::from_string)
            .transpose()
            .map_err(|error| Problem::internal(&error))
    };
    let (version, in_sync) = (desired.version, desired.in_sync());
    let config = DeviceConfig {
        device_id: path.device_id,
        version,
        desired: raw(desired.desired)?,
        desired_at: desired.desired_at,
        desired_by: desired.desired_by,
        reported: raw(desired.reported)?,
        reported_version: desired.reported_version,
        reported_at: desired.reported_at,
        in_sync,
    };
    Ok((etag(version), success(config)).into_response())
}
