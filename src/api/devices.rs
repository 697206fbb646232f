//! Devices: registered, found, changed, shut out, deleted.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::devices::device::{Device, Status};
use crate::devices::label::{self, DeviceType, Metadata, Name, Tag};
use crate::devices::list::{self, Filter};
use crate::devices::patch::Patch;
use crate::devices::presence::{self as presences, Presence};
use crate::devices::registry::{self, Description};
use crate::devices::telemetry::span::moment;
use crate::operations::credentials::Wanted;
use crate::operations::devices as operations;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::credentials::IssuedCredentials;
use super::error::{Kind, Problem};
use super::extract::{Json, Path, Query};
use super::grammar;
use super::page;
use super::precondition::{IfMatch, Precondition, etag};
use super::routes::BASE;
use super::state::Desk;
use super::topics::OfDevice;

/// The longest text that is looked for, in characters: as long as the longest name.
const MAX_SEARCH_CHARS: usize = Name::MAX_CHARS;

impl OfDevice {
    /// The device that the path names. What is of no device's grammar names none.
    pub(super) fn id(&self) -> Result<DeviceId, Problem> {
        let id = DeviceIdRef::parse(&self.device_id);
        id.map(DeviceIdRef::to_owned)
            .map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", self.device_id)))
    }
}

/// Which credentials a device gets.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedCredentials {
    /// A password at the broker.
    #[serde(default = "yes")]
    #[schema(default = true)]
    mqtt: bool,
    /// A key for HTTP (X-API-Key).
    #[serde(default)]
    #[schema(default = false)]
    api_key: bool,
}

fn yes() -> bool {
    true
}

impl Default for WantedCredentials {
    fn default() -> Self {
        Self {
            mqtt: true,
            api_key: false,
        }
    }
}

impl From<WantedCredentials> for Wanted {
    fn from(wanted: WantedCredentials) -> Self {
        Self {
            mqtt: wanted.mqtt,
            api_key: wanted.api_key,
        }
    }
}

/// A device to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToRegister {
    /// Its id, which stands in its topics.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "sensor_001")]
    device_id: String,
    /// What people call it: one line.
    #[schema(inline, value_type = Option<grammar::Name>)]
    name: Option<String>,
    /// What kind of device it is.
    #[schema(inline, value_type = Option<grammar::Label>)]
    device_type: Option<String>,
    /// What devices are gathered by.
    #[serde(default)]
    #[schema(max_items = 64, value_type = Vec<grammar::Label>)]
    tags: Vec<String>,
    /// Groups it joins; those that there are none of are made.
    #[serde(default)]
    #[schema(max_items = 64, value_type = Vec<grammar::Id>)]
    groups: Vec<String>,
    /// What else is known of it: 16 KiB at most.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The credentials it gets.
    #[serde(default)]
    credentials: WantedCredentials,
}

/// A device that was registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RegisteredDevice {
    /// The device.
    device: Device,
    /// What it logs in with; shown this once.
    credentials: IssuedCredentials,
}

/// One device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneDevice {
    /// The device.
    device: Device,
}

/// Register a device
///
/// Its credentials are made with it, and are in this answer alone. They are in force at the broker a moment later.
#[utoipa::path(post, path = "/devices", tag = "devices", request_body = ToRegister, responses((status = 201, description = "It is registered; its revision is in ETag", body = Success<RegisteredDevice>)))]
pub(super) async fn register(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Json(asked): Json<ToRegister>,
) -> Result<Response, Problem> {
    let id = DeviceIdRef::parse(&asked.device_id)
        .map_err(|error| Problem::new(Kind::Unprocessable, format!("device_id: {error}")))?
        .to_owned();
    let wanted = operations::Registration {
        id,
        description: Description {
            name: asked.name.as_deref().map(Name::parse).transpose()?,
            device_type: asked.device_type.as_deref().map(DeviceType::parse).transpose()?,
            tags: label::tags(&asked.tags)?,
            metadata: Metadata::new(Value::Object(asked.metadata))?,
        },
        groups: asked.groups.iter().map(|id| GroupId::parse(id)).collect::<Result<_, _>>()?,
        credentials: asked.credentials.into(),
    };
    let mut client = desk.database().await?;
    let registered = operations::register(&mut **client, &caller.actor(), &wanted).await?;
    let place = format!("{BASE}/devices/{}", registered.device.id.as_str());
    let place = HeaderValue::from_str(&place).expect("a device's id is ASCII without blanks");
    let headers = (etag(registered.device.revision), [(header::LOCATION, place)]);
    let answer = success(RegisteredDevice {
        device: registered.device,
        credentials: registered.issued.into(),
    });
    Ok((headers.0, headers.1, answer.with(StatusCode::CREATED)).into_response())
}

/// Which devices, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Search {
    /// Of this status: online, offline or unknown.
    #[param(inline, value_type = Option<Status>)]
    status: Option<String>,
    /// Of this type.
    #[serde(rename = "type")]
    #[param(inline, value_type = Option<grammar::Label>)]
    device_type: Option<String>,
    /// In this group.
    #[param(inline, value_type = Option<grammar::Id>)]
    group: Option<String>,
    /// With this tag.
    #[param(inline, value_type = Option<grammar::Label>)]
    tag: Option<String>,
    /// With this text in their id or name, in upper or lower case.
    #[param(inline, value_type = Option<grammar::Sought>)]
    q: Option<String>,
    /// Seen before this time, or never: RFC 3339 or epoch.
    #[param(inline, value_type = Option<grammar::Moment>)]
    last_seen_before: Option<String>,
    /// Seen at this time or after it.
    #[param(inline, value_type = Option<grammar::Moment>)]
    last_seen_after: Option<String>,
    /// Those that are let in, or those that are shut out.
    enabled: Option<bool>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The next_cursor of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
}

impl Search {
    fn filter(&self) -> Result<Filter, Problem> {
        let bad = |name: &str, error: &dyn std::fmt::Display| Problem::new(Kind::BadRequest, format!("{name}: {error}"));
        if let Some(text) = &self.q
            && (text.is_empty() || text.chars().count() > MAX_SEARCH_CHARS || text.contains(char::is_control))
        {
            return Err(bad("q", &"1 to 200 characters of one line are expected"));
        }
        // Nothing was seen before 1970, and PostgreSQL's own calendar has a beginning.
        let seen = |name: &str, text: Option<&str>| match text.map(moment).transpose() {
            Ok(time) => Ok(time.map(|time| time.max(Timestamp::UNIX_EPOCH))),
            Err(error) => Err(bad(name, &error)),
        };
        Ok(Filter {
            status: self
                .status
                .as_deref()
                .map(|text| text.parse::<Status>().map_err(|error| bad("status", &error)))
                .transpose()?,
            device_type: self
                .device_type
                .as_deref()
                .map(|text| {
                    DeviceType::parse(text)
                        .map(|kind| kind.as_str().to_owned())
                        .map_err(|error| bad("type", &error))
                })
                .transpose()?,
            group: self
                .group
                .as_deref()
                .map(|text| {
                    GroupId::parse(text)
                        .map(|id| id.as_str().to_owned())
                        .map_err(|error| bad("group", &error))
                })
                .transpose()?,
            tag: self
                .tag
                .as_deref()
                .map(|text| {
                    Tag::parse(text)
                        .map(|tag| tag.as_str().to_owned())
                        .map_err(|error| bad("tag", &error))
                })
                .transpose()?,
            text: self.q.clone(),
            last_seen_before: seen("last_seen_before", self.last_seen_before.as_deref())?,
            last_seen_after: seen("last_seen_after", self.last_seen_after.as_deref())?,
            enabled: self.enabled,
        })
    }
}

/// A page of devices.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Devices {
    /// The devices, by id.
    devices: Vec<Device>,
    /// The cursor of the next page; null at the end.
    next_cursor: Option<String>,
}

/// List devices
///
/// In the order of their ids, those that fit all that is asked for.
#[utoipa::path(get, path = "/devices", tag = "devices", params(Search), responses((status = 200, description = "A page of devices", body = Success<Devices>)))]
pub(super) async fn list(_: Viewer, State(desk): State<Desk>, Query(search): Query<Search>) -> Result<Success<Devices>, Problem> {
    let filter = search.filter()?;
    let (limit, after) = page::by_id(search.limit, search.cursor.as_deref())?;
    let client = desk.database().await?;
    let page = list::list(&**client, &filter, after.as_deref(), limit).await?;
    Ok(success(Devices {
        devices: page.items,
        next_cursor: page.next.as_ref().map(page::write),
    }))
}

/// Look at a device
#[utoipa::path(get, path = "/devices/{device_id}", tag = "devices", params(OfDevice), responses((status = 200, description = "The device; its revision is in ETag", body = Success<OneDevice>)))]
pub(super) async fn get(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfDevice>) -> Result<Response, Problem> {
    let client = desk.database().await?;
    Ok(one(registry::get(&**client, &path.id()?).await?))
}

/// A change of a device, as a JSON merge patch (RFC 7396).
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = DevicePatch)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "it describes what Patch::parse reads, where absent and null are two things")]
pub(super) struct DevicePatch {
    /// What people call it; null for nothing.
    #[schema(inline, value_type = Option<grammar::Name>, required = false)]
    name: Option<String>,
    /// What kind of device it is; null for none.
    #[schema(inline, value_type = Option<grammar::Label>, required = false)]
    device_type: Option<String>,
    /// All its tags anew; null for none.
    #[schema(max_items = 64, value_type = Option<Vec<grammar::Label>>, required = false)]
    tags: Option<Vec<String>>,
    /// A merge patch of its metadata; null empties it.
    #[schema(value_type = Option<Object>, required = false)]
    metadata: Option<Value>,
}

/// Change a device
///
/// A JSON merge patch: what is absent stays, what is null goes. With If-Match, only if the device still has that revision.
#[utoipa::path(patch, path = "/devices/{device_id}", tag = "devices", params(OfDevice, Precondition), request_body(content((DevicePatch = "application/json"), (DevicePatch = "application/merge-patch+json"))), responses((status = 200, description = "The device as it is now; its revision is in ETag", body = Success<OneDevice>)))]
pub(super) async fn update(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
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

/// Delete a device
///
/// Its credentials, memberships and configuration go, its open commands are cancelled, and the broker forgets what it retained of it.
/// Its telemetry stays.
#[utoipa::path(delete, path = "/devices/{device_id}", tag = "devices", params(OfDevice, Precondition), responses((status = 204, description = "It is deleted")))]
pub(super) async fn delete(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    operations::delete(&mut **client, &caller.actor(), desk.tree(), &id, if_match.revision()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let a device in again
#[utoipa::path(post, path = "/devices/{device_id}/enable", tag = "devices", params(OfDevice), responses((status = 200, description = "Its credentials are taken", body = Success<OneDevice>)))]
pub(super) async fn enable(operator: Operator, desk: State<Desk>, path: Path<OfDevice>) -> Result<Response, Problem> {
    set_enabled(operator, desk, path, true).await
}

/// Shut a device out
///
/// It is disconnected, and its credentials are refused until it is let in again.
#[utoipa::path(post, path = "/devices/{device_id}/disable", tag = "devices", params(OfDevice), responses((status = 200, description = "Its credentials are refused", body = Success<OneDevice>)))]
pub(super) async fn disable(operator: Operator, desk: State<Desk>, path: Path<OfDevice>) -> Result<Response, Problem> {
    set_enabled(operator, desk, path, false).await
}

async fn set_enabled(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    enabled: bool,
) -> Result<Response, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    Ok(one(operations::set_enabled(&mut **client, &caller.actor(), &id, enabled).await?))
}

/// Where a device stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PresenceOfDevice {
    /// Which device.
    device_id: String,
    /// Where it stands.
    presence: Presence,
}

/// Whether a device is online
#[utoipa::path(get, path = "/devices/{device_id}/presence", tag = "devices", params(OfDevice), responses((status = 200, description = "Where it stands, and since when", body = Success<PresenceOfDevice>)))]
pub(super) async fn presence(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
) -> Result<Success<PresenceOfDevice>, Problem> {
    let client = desk.database().await?;
    let presence = presences::get(&**client, &path.id()?).await?;
    Ok(success(PresenceOfDevice {
        device_id: path.device_id,
        presence,
    }))
}

fn one(device: Device) -> Response {
    (etag(device.revision), success(OneDevice { device })).into_response()
}
