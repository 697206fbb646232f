//! Commands to fleets: one publish for all members of a group, and a state for each of them.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::operations::commands::Recipient;
use crate::protocol::id::GroupId;

use super::answer::Success;
use super::auth::Operator;
use super::command_views::{ToSend, Wait};
use super::commands::{Sent, give};
use super::error::{Kind, Problem};
use super::extract::{Json, Path, Query};
use super::grammar;
use super::layers::Allowance;
use super::state::Desk;

/// A group in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfGroup {
    /// The group's id.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "building_7")]
    group_id: String,
}

/// Send a command to a fleet
///
/// One publish on the group's topic; each member answers for itself. A member that was offline then gets a copy on its own topic once it
/// is back, under the same `command_id`, unless it has answered before: its session at the broker may have kept the group's for it. A
/// device that knows which ids it has done does nothing twice. How far all have come is published on `fleet/status/{group_id}`.
#[utoipa::path(post, path = "/mqtt/fleet/{group_id}/command", operation_id = "send_fleet_command", tag = "commands", params(OfGroup, Wait, ("Idempotency-Key" = inline(Option<grammar::IdempotencyKey>), Header, description = "Your own name for the request: sent again under it, it is the same command")), request_body = ToSend, responses((status = 200, description = "The command is on its way to all members", body = Success<Sent>)))]
pub(super) async fn send(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    Query(wait): Query<Wait>,
    Extension(allowance): Extension<Allowance>,
    headers: HeaderMap,
    Json(asked): Json<ToSend>,
) -> Result<Success<Sent>, Problem> {
    let group = GroupId::parse(&path.group_id).map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", path.group_id)))?;
    give(&caller, &desk, Recipient::Group(group), (&wait, &allowance), &headers, &asked).await
}
