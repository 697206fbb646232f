//! Commands to devices: given, followed, listed, taken back.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::devices::commands::read::{self, Filter, Place};
use crate::devices::commands::state::State as Life;
use crate::devices::registry;
use crate::operations::commands::{self, Recipient};
use crate::protocol::channels::Channel;
use crate::protocol::command::{CommandId, Kind as Type};
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::answer::{Success, success};
use super::auth::{Caller, Operator, Viewer};
use super::command_views::{CommandView, DeliveryView, ToSend, Wait};
use super::error::{Kind, Problem};
use super::extract::{Json, Path, Query};
use super::grammar;
use super::layers::Allowance;
use super::page;
use super::state::Desk;
use super::topics::OfDevice;

/// A command that is on its way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sent {
    /// The topic on which it goes out.
    #[schema(example = "iotflow/devices/sensor_001/commands/control")]
    topic: String,
    /// Whether this request gave it; else an earlier one did, with the same id or idempotency key.
    new: bool,
    /// As it stands now; as it begins, where it is new and was not waited for.
    #[serde(flatten)]
    command: CommandView,
}

/// Send a command to a device
///
/// It is in the database when this answers, and goes out exactly once, in order, when the device is not known to be offline. The state
/// `sent` means that the broker has it; what comes after is what the device answers.
#[utoipa::path(post, path = "/mqtt/device/{device_id}/command", operation_id = "send_device_command", tag = "commands", params(OfDevice, Wait, ("Idempotency-Key" = inline(Option<grammar::IdempotencyKey>), Header, description = "Your own name for the request: sent again under it, it is the same command")), request_body = ToSend, responses((status = 200, description = "The command is on its way", body = Success<Sent>)))]
pub(super) async fn send(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(wait): Query<Wait>,
    Extension(allowance): Extension<Allowance>,
    headers: HeaderMap,
    Json(asked): Json<ToSend>,
) -> Result<Success<Sent>, Problem> {
    let to = Recipient::Device(device(&path.device_id)?);
    give(&caller, &desk, to, (&wait, &allowance), &headers, &asked).await
}

/// What both kinds of recipients have in common.
pub(super) async fn give(
    caller: &Caller,
    desk: &Desk,
    to: Recipient,
    (wait, allowance): (&Wait, &Allowance),
    headers: &HeaderMap,
    asked: &ToSend,
) -> Result<Success<Sent>, Problem> {
    let patience = wait.patience()?.unwrap_or_default();
    let order = asked.order(headers)?;
    let topic = match &to {
        Recipient::Device(device) => order.kind.channel().of_device(desk.tree(), device.borrowed()),
        Recipient::Group(group) => Channel::FleetCommands.of_group(desk.tree(), group),
    };
    let given = {
        let mut client = desk.database().await?;
        commands::send(&mut **client, &caller.actor(), &to, &order).await?
    };
    let new = given.new.is_some();
    let command = match given.new {
        Some(command) if patience.is_zero() => command,
        _ => {
            // It is given, whatever becomes of the request: the time to wait is beside that of the request itself.
            allowance.add(patience);
            desk.parts.waiting.until_ended(&given.command_id, patience).await;
            let client = desk.database().await?;
            let command = read::get(&**client, &given.command_id).await?;
            command.ok_or_else(|| gone(&given.command_id))?
        }
    };
    Ok(success(Sent {
        topic,
        new,
        command: command.into(),
    }))
}

fn gone(id: &CommandId) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no command {id}"))
}

fn device(id: &str) -> Result<DeviceId, Problem> {
    let parsed = DeviceIdRef::parse(id).map(DeviceIdRef::to_owned);
    parsed.map_err(|error| Problem::new(Kind::NotFound, format!("{id:?}: {error}")))
}

/// Which commands.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Of this device, those of its groups included.
    #[param(inline, value_type = Option<grammar::Id>)]
    device_id: Option<String>,
    /// Of this group.
    #[param(inline, value_type = Option<grammar::Id>)]
    group_id: Option<String>,
    /// With a device in this state.
    state: Option<Life>,
    /// About this.
    command_type: Option<Type>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// The most commands of the page.
    #[param(minimum = 1, maximum = 1_000, default = 100)]
    limit: Option<u32>,
}

/// A page of commands, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Commands {
    commands: Vec<CommandView>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// List commands
#[utoipa::path(get, path = "/commands", operation_id = "list_commands", tag = "commands", params(Which), responses((status = 200, description = "Commands, newest first", body = Success<Commands>)))]
pub(super) async fn list(_: Viewer, State(desk): State<Desk>, Query(which): Query<Which>) -> Result<Success<Commands>, Problem> {
    let limit = page::limit(which.limit)?;
    let place: Option<Place> = page::read(which.cursor.as_deref())?;
    let bad = |name: &str, error: &dyn std::fmt::Display| Problem::new(Kind::BadRequest, format!("{name}: {error}"));
    if let Some(id) = &which.device_id {
        DeviceIdRef::parse(id).map_err(|error| bad("device_id", &error))?;
    }
    if let Some(id) = &which.group_id {
        GroupId::parse(id).map_err(|error| bad("group_id", &error))?;
    }
    let filter = Filter {
        device: which.device_id.as_deref(),
        group: which.group_id.as_deref(),
        state: which.state,
        command_type: which.command_type.map(Type::as_str),
    };
    let client = desk.database().await?;
    let mut commands = read::history(&**client, &filter, place.as_ref(), limit + 1).await?;
    let next_cursor = page::cut(&mut commands, limit, |command| Place::from(command));
    Ok(success(Commands {
        commands: commands.into_iter().map(CommandView::from).collect(),
        next_cursor,
    }))
}

/// A command in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfCommand {
    /// The command's id.
    #[param(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    command_id: String,
}

impl OfCommand {
    fn id(&self) -> Result<CommandId, Problem> {
        CommandId::parse(&self.command_id).map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", self.command_id)))
    }
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichDeliveries {
    /// Of devices in this state.
    state: Option<Life>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// The most deliveries of the page.
    #[param(minimum = 1, maximum = 1_000, default = 100)]
    limit: Option<u32>,
}

/// A command, and how far each device has come.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Shown {
    command: CommandView,
    deliveries: Vec<DeliveryView>,
    /// Where the next page of deliveries begins; null at the end.
    next_cursor: Option<String>,
}

/// Show a command
#[utoipa::path(get, path = "/commands/{command_id}", operation_id = "get_command", tag = "commands", params(OfCommand, WhichDeliveries), responses((status = 200, description = "The command, with a page of its deliveries", body = Success<Shown>)))]
pub(super) async fn show(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfCommand>,
    Query(which): Query<WhichDeliveries>,
) -> Result<Success<Shown>, Problem> {
    let id = path.id()?;
    let limit = page::limit(which.limit)?;
    let behind: i64 = page::read(which.cursor.as_deref())?.unwrap_or(0);
    let client = desk.database().await?;
    let command = read::get(&**client, &id).await?.ok_or_else(|| gone(&id))?;
    let mut deliveries = read::deliveries(&**client, &id, which.state, behind, limit + 1).await?;
    let next_cursor = page::cut(&mut deliveries, limit, |delivery| delivery.seq);
    Ok(success(Shown {
        command: command.into(),
        deliveries: deliveries.into_iter().map(DeliveryView::from).collect(),
        next_cursor,
    }))
}

/// What was taken back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    /// For how many devices it was taken back before it was sent.
    cancelled: u64,
    /// As it stands now.
    #[serde(flatten)]
    command: CommandView,
}

/// Cancel a command
///
/// What was not sent yet is taken back; what the broker has cannot be. Where nothing is left to take back that is a conflict.
#[utoipa::path(post, path = "/commands/{command_id}/cancel", operation_id = "cancel_command", tag = "commands", params(OfCommand), responses((status = 200, description = "What was not sent is taken back", body = Success<Cancelled>)))]
pub(super) async fn cancel(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfCommand>,
) -> Result<Success<Cancelled>, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    let cancelled = commands::cancel(&mut **client, &caller.actor(), &id).await?;
    let command = read::get(&**client, &id).await?.ok_or_else(|| gone(&id))?;
    Ok(success(Cancelled {
        cancelled,
        command: command.into(),
    }))
}

/// Which commands of a device.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichOfDevice {
    /// With which the device is in this state.
    state: Option<Life>,
    /// About this.
    command_type: Option<Type>,
    /// Where the page begins: the `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// The most commands of the page.
    #[param(minimum = 1, maximum = 1_000, default = 100)]
    limit: Option<u32>,
}

/// A command, and how far the device has come with it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandOfDevice {
    command: CommandView,
    delivery: Option<DeliveryView>,
}

/// A page of a device's commands, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandsOfDevice {
    commands: Vec<CommandOfDevice>,
    /// Where the next page begins; null at the end.
    next_cursor: Option<String>,
}

/// List a device's commands
#[utoipa::path(get, path = "/devices/{device_id}/commands", operation_id = "list_device_commands", tag = "commands", params(OfDevice, WhichOfDevice), responses((status = 200, description = "The device's commands, newest first, those of its groups included", body = Success<CommandsOfDevice>)))]
pub(super) async fn of_device(
    _: Viewer,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Query(which): Query<WhichOfDevice>,
) -> Result<Success<CommandsOfDevice>, Problem> {
    let id = device(&path.device_id)?;
    let limit = page::limit(which.limit)?;
    let place: Option<Place> = page::read(which.cursor.as_deref())?;
    let client = desk.database().await?;
    if registry::find(&**client, id.borrowed()).await?.is_none() {
        return Err(Problem::new(Kind::NotFound, format!("there is no device {}", id.as_str())));
    }
    let filter = Filter {
        device: Some(id.as_str()),
        state: which.state,
        command_type: which.command_type.map(Type::as_str),
        ..Filter::default()
    };
    let mut commands = read::history(&**client, &filter, place.as_ref(), limit + 1).await?;
    let next_cursor = page::cut(&mut commands, limit, |command| Place::from(command));
    let ids: Vec<&str> = commands.iter().map(|command| command.command_id.as_str()).collect();
    let mut deliveries = read::deliveries_of(&**client, id.borrowed(), &ids).await?;
    let commands = commands.into_iter().map(|command| CommandOfDevice {
        delivery: deliveries.remove(&command.command_id).map(DeliveryView::from),
        command: command.into(),
    });
    Ok(success(CommandsOfDevice {
        commands: commands.collect(),
        next_cursor,
    }))
}
