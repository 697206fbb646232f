//! Groups of devices, and who belongs to them.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::devices::groups::{self, Description, Group, Patch};
use crate::devices::label::{DeviceType, Name, Tag};
use crate::operations::groups as operations;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::error::{Kind, Problem};
use super::extract::{Json, Path, Query};
use super::grammar;
use super::page;
use super::precondition::{IfMatch, Precondition, etag};
use super::routes::BASE;
use super::state::Desk;

/// A group in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfGroup {
    /// The group's id.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "north")]
    pub(super) group_id: String,
}

impl OfGroup {
    /// The group that the path names. What is of no group's grammar names none.
    pub(super) fn id(&self) -> Result<GroupId, Problem> {
        GroupId::parse(&self.group_id).map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", self.group_id)))
    }
}

/// A group to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToCreate {
    /// Its id, which stands in its topics.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "north")]
    group_id: String,
    /// What people call it: one line.
    #[schema(inline, value_type = Option<grammar::Name>)]
    name: Option<String>,
    /// Makes it dynamic: whoever has this tag is a member.
    #[schema(inline, value_type = Option<grammar::Label>)]
    match_tag: Option<String>,
    /// Makes it dynamic: whoever is of this type is a member; with a tag too, those that fit both.
    #[schema(inline, value_type = Option<grammar::Label>)]
    match_type: Option<String>,
}

/// One group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneGroup {
    /// The group.
    group: Group,
}

/// Make a group
///
/// A list, or with match_tag or match_type a dynamic one, whose members follow by themselves.
#[utoipa::path(post, path = "/groups", tag = "groups", request_body = ToCreate, responses((status = 201, description = "It is made; its revision is in ETag", body = Success<OneGroup>)))]
pub(super) async fn create(Operator(caller): Operator, State(desk): State<Desk>, Json(asked): Json<ToCreate>) -> Result<Response, Problem> {
    let id = GroupId::parse(&asked.group_id).map_err(|error| Problem::new(Kind::Unprocessable, format!("group_id: {error}")))?;
    let description = Description {
        name: asked.name.as_deref().map(Name::parse).transpose()?,
        match_tag: asked.match_tag.as_deref().map(Tag::parse).transpose()?,
        match_type: asked.match_type.as_deref().map(DeviceType::parse).transpose()?,
    };
    let mut client = desk.database().await?;
    let group = operations::create(&mut **client, &caller.actor(), &id, &description).await?;
    let place = HeaderValue::from_str(&format!("{BASE}/groups/{id}")).expect("a group's id is ASCII without blanks");
    let headers = [(header::LOCATION, place)];
    let answer = (etag(group.revision), headers, success(OneGroup { group }).with(StatusCode::CREATED));
    Ok(answer.into_response())
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OfPage {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The next_cursor of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
}

/// A page of groups.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Groups {
    /// The groups, by id.
    groups: Vec<Group>,
    /// The cursor of the next page; null at the end.
    next_cursor: Option<String>,
}

/// List groups
#[utoipa::path(get, path = "/groups", tag = "groups", params(OfPage), responses((status = 200, description = "A page of groups", body = Success<Groups>)))]
pub(super) async fn list(_: Viewer, State(desk): State<Desk>, Query(asked): Query<OfPage>) -> Result<Success<Groups>, Problem> {
    let (limit, after) = page::by_id(asked.limit, asked.cursor.as_deref())?;
    let client = desk.database().await?;
    let page = groups::list(&**client, after.as_deref(), limit).await?;
    Ok(success(Groups {
        groups: page.items,
        next_cursor: page.next.as_ref().map(page::write),
    }))
}

/// Look at a group
#[utoipa::path(get, path = "/groups/{group_id}", tag = "groups", params(OfGroup), responses((status = 200, description = "The group; its revision is in ETag", body = Success<OneGroup>)))]
pub(super) async fn get(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfGroup>) -> Result<Response, Problem> {
    let client = desk.database().await?;
    Ok(one(groups::get(&**client, &path.id()?).await?))
}

/// A change of a group, as a JSON merge patch (RFC 7396).
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = GroupPatch)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes what Patch::parse reads, where absent and null are two things")]
pub(super) struct GroupPatch {
    /// What people call it; null for nothing.
    #[schema(inline, value_type = Option<grammar::Name>, required = false)]
    name: Option<String>,
    /// Whoever has this tag is a member; null for whoever.
    #[schema(inline, value_type = Option<grammar::Label>, required = false)]
    match_tag: Option<String>,
    /// Whoever is of this type is a member; null for whichever.
    #[schema(inline, value_type = Option<grammar::Label>, required = false)]
    match_type: Option<String>,
}

/// Change a group
///
/// A JSON merge patch. A dynamic group whose tag and type both go becomes a list of the members it has.
#[utoipa::path(patch, path = "/groups/{group_id}", tag = "groups", params(OfGroup, Precondition), request_body(content((GroupPatch = "application/json"), (GroupPatch = "application/merge-patch+json"))), responses((status = 200, description = "The group as it is now; its revision is in ETag", body = Success<OneGroup>)))]
pub(super) async fn update(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    if_match: IfMatch,
    Json(change): Json<Value>,
) -> Result<Response, Problem> {
    let (id, patch) = (path.id()?, Patch::parse(&change)?);
    let mut client = desk.database().await?;
    Ok(one(operations::update(
        &mut **client,
        &caller.actor(),
        &id,
        &patch,
        if_match.revision()?,
    )
    .await?))
}

/// Delete a group
///
/// Its members stay what they are.
#[utoipa::path(delete, path = "/groups/{group_id}", tag = "groups", params(OfGroup, Precondition), responses((status = 204, description = "It is deleted")))]
pub(super) async fn delete(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    operations::delete(&mut **client, &caller.actor(), desk.tree(), &id, if_match.revision()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A page of members.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Members {
    /// Of which group.
    group_id: String,
    /// The devices' ids.
    members: Vec<String>,
    /// The cursor of the next page; null at the end.
    next_cursor: Option<String>,
}

/// List a group's members
#[utoipa::path(get, path = "/groups/{group_id}/members", tag = "groups", params(OfGroup, OfPage), responses((status = 200, description = "A page of members", body = Success<Members>)))]
pub(super) async fn members(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    Query(asked): Query<OfPage>,
) -> Result<Success<Members>, Problem> {
    let (limit, after) = page::by_id(asked.limit, asked.cursor.as_deref())?;
    let client = desk.database().await?;
    let page = groups::members(&**client, &path.id()?, after.as_deref(), limit).await?;
    Ok(success(Members {
        group_id: path.group_id,
        members: page.items,
        next_cursor: page.next.as_ref().map(page::write),
    }))
}

/// Devices that join or leave.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TheseDevices {
    /// Their ids: all of them, or none.
    #[schema(min_items = 1, max_items = 10_000, value_type = Vec<grammar::Id>)]
    device_ids: Vec<String>,
}

impl TheseDevices {
    fn ids(&self) -> Result<Vec<DeviceId>, Problem> {
        let refused = |text: String| Problem::new(Kind::Unprocessable, format!("device_ids: {text}"));
        if self.device_ids.is_empty() {
            return Err(refused("one device at least is expected".to_owned()));
        }
        let id = |text: &String| match DeviceIdRef::parse(text) {
            Ok(id) => Ok(id.to_owned()),
            Err(error) => Err(refused(format!("{:?}: {error}", text.chars().take(80).collect::<String>()))),
        };
        self.device_ids.iter().map(id).collect()
    }
}

/// A change of membership.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Changed {
    /// Of which group.
    group_id: String,
    /// For how many devices it is another than before.
    changed: u64,
}

/// Add devices to a group
///
/// All of them, or none. The members of a dynamic group follow by themselves, and are refused here.
#[utoipa::path(post, path = "/groups/{group_id}/members", tag = "groups", params(OfGroup), request_body = TheseDevices, responses((status = 200, description = "They are members", body = Success<Changed>)))]
pub(super) async fn add(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    Json(asked): Json<TheseDevices>,
) -> Result<Success<Changed>, Problem> {
    let (id, devices) = (path.id()?, asked.ids()?);
    let mut client = desk.database().await?;
    let changed = operations::add(&mut **client, &caller.actor(), &id, &devices).await?;
    let group_id = path.group_id;
    Ok(success(Changed { group_id, changed }))
}

/// Take devices out of a group
///
/// All of them, or none.
#[utoipa::path(delete, path = "/groups/{group_id}/members", tag = "groups", params(OfGroup), request_body = TheseDevices, responses((status = 200, description = "They are no members", body = Success<Changed>)))]
pub(super) async fn remove(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    Json(asked): Json<TheseDevices>,
) -> Result<Success<Changed>, Problem> {
    let (id, devices) = (path.id()?, asked.ids()?);
    let mut client = desk.database().await?;
    let changed = operations::remove(&mut **client, &caller.actor(), &id, &devices).await?;
    let group_id = path.group_id;
    Ok(success(Changed { group_id, changed }))
}

fn one(group: Group) -> Response {
    (etag(group.revision), success(OneGroup { group })).into_response()
}
