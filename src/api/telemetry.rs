//! Telemetry at the operator's door: in over HTTP, out by range, newest or aggregated, as a stream; and deleted.

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::GenericClient;
use utoipa::{IntoParams, ToSchema};

use crate::devices::registry;
use crate::devices::telemetry::aggregate::{self, Series};
use crate::devices::telemetry::delete::Deleted;
use crate::devices::telemetry::events::{Event, events};
use crate::devices::telemetry::latest::{self, Latest, Member};
use crate::devices::telemetry::range::{Message, Wanted, messages};
use crate::devices::telemetry::window::{Aggregation, Function};
use crate::operations;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::answer::{Success, success};
use super::auth::{Admin, Viewer};
use super::error::{Kind, Problem};
use super::extract::{Path, Query};
use super::grammar;
use super::page;
use super::state::Desk;
use super::topics::OfDevice;

mod ask;
pub(super) mod export;
pub(super) mod submit;

pub(super) use ask::text;
use ask::{AggregateQuery, EventsQuery, RangeQuery, SpanQuery};

/// The id in the path, and the device's number. What a deleted device sent can still be read, and deleted.
async fn device(client: &impl GenericClient, id: &str) -> Result<(DeviceId, i32), Problem> {
    let nowhere = || Problem::new(Kind::NotFound, format!("there is no device {id:?}"));
    let device = DeviceIdRef::parse(id).map_err(|_| nowhere())?;
    let number = registry::find_even_deleted(client, device).await?.ok_or_else(nowhere)?;
    Ok((device.to_owned(), number))
}

/// A page of a device's messages.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Messages {
    /// The device.
    device_id: String,
    /// When the span begins; a message of that moment is in it.
    from: Timestamp,
    /// When it ends; a message of that moment is not.
    to: Timestamp,
    /// The messages.
    messages: Vec<Message>,
    /// Where the next page begins; null where this is the last.
    next_cursor: Option<String>,
}

/// A device's readings by time
///
/// Message by message, the last hour where no time is given.
#[utoipa::path(get, path = "/telemetry/{device_id}", tag = "telemetry", operation_id = "telemetry_range", params(OfDevice, RangeQuery),
    responses((status = 200, description = "A page of messages", body = Success<Messages>)))]
pub(super) async fn range(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<RangeQuery>,
) -> Result<Success<Messages>, Problem> {
    let (span, metrics, limit) = (query.span()?, ask::names(query.metrics.as_deref())?, page::limit(query.limit)?);
    let wanted = Wanted {
        span,
        after: page::read(query.cursor.as_deref())?,
        order: ask::order(query.order.as_deref())?,
        metrics: &metrics,
        limit,
    };
    let client = desk.database().await?;
    let (device, number) = device(&**client, &path.device_id).await?;
    let (messages, more) = messages(&**client, number, &wanted).await?;
    Ok(success(Messages {
        device_id: device.as_str().to_owned(),
        from: span.from(),
        to: span.to(),
        next_cursor: messages.last().filter(|_| more).map(|message| page::write(&message.place)),
        messages,
    }))
}

/// A page of a device's events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Events {
    /// The device.
    device_id: String,
    /// When the span begins.
    from: Timestamp,
    /// When it ends.
    to: Timestamp,
    /// The events.
    events: Vec<Event>,
    /// Where the next page begins; null where this is the last.
    next_cursor: Option<String>,
}

/// A device's events by time
#[utoipa::path(get, path = "/telemetry/{device_id}/events", tag = "telemetry", operation_id = "telemetry_events", params(OfDevice, EventsQuery),
    responses((status = 200, description = "A page of events", body = Success<Events>)))]
pub(super) async fn of_events(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<EventsQuery>,
) -> Result<Success<Events>, Problem> {
    let (span, limit) = (query.span()?, page::limit(query.limit)?);
    let wanted = Wanted {
        span,
        after: page::read(query.cursor.as_deref())?,
        order: ask::order(query.order.as_deref())?,
        metrics: &[],
        limit,
    };
    let client = desk.database().await?;
    let (device, number) = device(&**client, &path.device_id).await?;
    let (events, more) = events(&**client, number, &wanted).await?;
    Ok(success(Events {
        device_id: device.as_str().to_owned(),
        from: span.from(),
        to: span.to(),
        next_cursor: events.last().filter(|_| more).map(|event| page::write(&event.place)),
        events,
    }))
}

/// A device's newest values.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LatestOf {
    /// The device.
    device_id: String,
    #[serde(flatten)]
    latest: Latest,
}

/// A device's newest values
///
/// The newest value of each metric and when it was measured, at most about a second behind.
#[utoipa::path(get, path = "/telemetry/{device_id}/latest", tag = "telemetry", operation_id = "telemetry_latest", params(OfDevice),
    responses((status = 200, description = "The newest value of each metric", body = Success<LatestOf>)))]
pub(super) async fn of_latest(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfDevice>) -> Result<Success<LatestOf>, Problem> {
    let client = desk.database().await?;
    let (device, number) = device(&**client, &path.device_id).await?;
    Ok(success(LatestOf {
        device_id: device.as_str().to_owned(),
        latest: latest::of_device(&**client, number).await?,
    }))
}

/// A group in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfGroup {
    /// The group's id.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "north")]
    group_id: String,
}

/// A page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// At most so many: 1 to 1000, 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// The newest values of a page of a group's members.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LatestOfGroup {
    /// The group.
    group_id: String,
    /// Its members by id.
    devices: Vec<Member>,
    /// Where the next page begins; null where this is the last.
    next_cursor: Option<String>,
}

/// The newest values of a group's members
#[utoipa::path(get, path = "/groups/{group_id}/telemetry/latest", tag = "telemetry", operation_id = "telemetry_latest_of_group", params(OfGroup, PageQuery),
    responses((status = 200, description = "The newest value of each metric of each member", body = Success<LatestOfGroup>)))]
pub(super) async fn latest_of_group(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfGroup>,
    Query(query): Query<PageQuery>,
) -> Result<Success<LatestOfGroup>, Problem> {
    let nowhere = || Problem::new(Kind::NotFound, format!("there is no group {:?}", path.group_id));
    let group = GroupId::parse(&path.group_id).map_err(|_| nowhere())?;
    let limit = page::limit(query.limit)?;
    let after: Option<String> = page::read(query.cursor.as_deref())?;
    let after = text("cursor", after.as_deref())?;
    let client = desk.database().await?;
    let (devices, more) = latest::of_group(&**client, &group, after, limit).await?.ok_or_else(nowhere)?;
    Ok(success(LatestOfGroup {
        group_id: path.group_id,
        next_cursor: devices.last().filter(|_| more).map(|member| page::write(&member.device_id)),
        devices,
    }))
}

/// A device's numbers, gathered into windows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Aggregated {
    /// The device.
    device_id: String,
    /// When the span begins.
    from: Timestamp,
    /// When it ends.
    to: Timestamp,
    /// What was made of each window's values.
    functions: Vec<&'static str>,
    /// The metrics that have values in the span, by name.
    series: Vec<Series>,
}

/// A device's numbers, gathered into windows
///
/// Windows are counted from `origin`, begin and end anywhere in the span, and hold what lies in both. 10,000 windows and 100,000
/// points at most.
#[utoipa::path(get, path = "/telemetry/{device_id}/aggregated", tag = "telemetry", operation_id = "telemetry_aggregated", params(OfDevice, AggregateQuery),
    responses((status = 200, description = "A series for each metric", body = Success<Aggregated>)))]
pub(super) async fn aggregated(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<AggregateQuery>,
) -> Result<Success<Aggregated>, Problem> {
    let span = query.span()?;
    let wanted: Aggregation = query.aggregation(span)?;
    let client = desk.database().await?;
    let (device, number) = device(&**client, &path.device_id).await?;
    Ok(success(Aggregated {
        device_id: device.as_str().to_owned(),
        from: span.from(),
        to: span.to(),
        functions: wanted.functions().iter().copied().map(Function::as_str).collect(),
        series: aggregate::series(&**client, number, &wanted).await?,
    }))
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeletedOf {
    /// The device.
    device_id: String,
    /// How much.
    deleted: Deleted,
}

/// Delete what a device has sent
///
/// Readings and events from `from` up to `to`; both must be given. What is deleted is gone.
#[utoipa::path(delete, path = "/telemetry/{device_id}", tag = "telemetry", operation_id = "telemetry_delete", params(OfDevice, SpanQuery),
    responses((status = 200, description = "How much was deleted", body = Success<DeletedOf>)))]
pub(super) async fn delete(
    Admin(caller): Admin,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(query): Query<SpanQuery>,
) -> Result<Success<DeletedOf>, Problem> {
    let span = query.whole()?;
    let mut client = desk.database().await?;
    let (device, number) = device(&**client, &path.device_id).await?;
    let id = DeviceIdRef::parse(device.as_str()).map_err(|error| Problem::internal(&error))?;
    let deleted = operations::telemetry::delete(&mut **client, &caller.actor(), (id, number), span).await?;
    Ok(success(DeletedOf {
        device_id: device.as_str().to_owned(),
        deleted,
    }))
}
