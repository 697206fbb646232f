//! Commands as clients see them, and as they give them.

use std::time::Duration;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::devices::commands::fleet::Counts;
use crate::devices::commands::read::{Command, Delivery};
use crate::devices::commands::state::State;
use crate::operations::commands::{DEFAULT_TTL, MAX_WAIT, Order};
use crate::protocol::command::{CommandId, Kind};

use super::error::{Kind as ProblemKind, Problem};
use super::extract::{whole, whole_or_null};
use super::grammar;

/// A command to give.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToSend {
    /// What it is about: the last level of the topic, for a device.
    command_type: Kind,
    /// What to do.
    #[schema(
        min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]{1,128}$",
        example = "restart"
    )]
    command: String,
    /// With what: any JSON of at most 64 KiB, delivered byte for byte as it stands here.
    #[schema(value_type = Option<serde_json::Value>, example = json!({"delay": 5}))]
    parameters: Option<Box<RawValue>>,
    /// Your own id for it; the same one twice is the same command. Left out: one is made.
    #[schema(inline, value_type = Option<grammar::CommandId>)]
    command_id: Option<String>,
    /// 0: perhaps, 1: at least once and only to who is subscribed, 2: exactly once to the broker.
    #[serde(default = "two", deserialize_with = "whole")]
    #[schema(default = 2, minimum = 0, maximum = 2)]
    qos: u8,
    /// For how many seconds it may wait and be worked at.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(default = 86_400, minimum = 1, maximum = 2_592_000)]
    ttl: Option<u64>,
}

fn two() -> u8 {
    2
}

impl ToSend {
    /// What is asked for, under the request's idempotency key.
    pub(super) fn order<'a>(&'a self, headers: &'a HeaderMap) -> Result<Order<'a>, Problem> {
        let unprocessable = |detail: String| Problem::new(ProblemKind::Unprocessable, detail);
        let parse = |id: &String| CommandId::parse(id).map_err(|error| unprocessable(format!("command_id: {error}")));
        let key = |value: &'a axum::http::HeaderValue| {
            let text = value.to_str();
            text.map_err(|_| Problem::new(ProblemKind::BadRequest, "Idempotency-Key: visible characters of ASCII are expected"))
        };
        Ok(Order {
            kind: self.command_type,
            command: &self.command,
            parameters: self.parameters.as_deref(),
            command_id: self.command_id.as_ref().map(parse).transpose()?,
            qos: self.qos,
            ttl: self.ttl.map_or(DEFAULT_TTL, Duration::from_secs),
            idempotency_key: headers.get("idempotency-key").map(key).transpose()?,
        })
    }
}

/// How long the answer may be waited for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Answer only when every device has come to an end, or after so long: seconds, such as `10s`; 60 at most. Without
    /// it the answer is how the command begins.
    #[param(inline, value_type = Option<grammar::Patience>, example = "10s")]
    wait: Option<String>,
}

impl Wait {
    /// The time, where one was given.
    pub(super) fn patience(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.wait.as_deref() else { return Ok(None) };
        let digits = text.strip_suffix('s').unwrap_or(text);
        let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let seconds: Option<u64> = digits.parse().ok().filter(|_| plain);
        let within = |span: &Duration| *span <= MAX_WAIT;
        let refused = || {
            let shown: String = text.chars().take(50).collect();
            let most = MAX_WAIT.as_secs();
            Problem::new(
                ProblemKind::BadRequest,
                format!("wait={shown:?}: seconds are expected, such as 10s, and {most}s at most"),
            )
        };
        seconds.map(Duration::from_secs).filter(within).map(Some).ok_or_else(refused)
    }
}

/// A command.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Command)]
pub(super) struct CommandView {
    /// Its id.
    pub(super) command_id: String,
    /// The device, where it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
    /// The group, where it is for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_id: Option<String>,
    /// `config`, `control` or `firmware`.
    command_type: String,
    /// What to do.
    command: String,
    /// With what, as it was given.
    #[schema(value_type = Option<serde_json::Value>)]
    parameters: Option<Box<RawValue>>,
    /// Its QoS.
    qos: i16,
    /// How far it has come: for a group, the least that any member has.
    state: State,
    /// How many devices are in each state.
    devices: Counts,
    /// When it was given.
    created_at: Timestamp,
    /// By whom.
    created_by: String,
    /// When its time is over.
    expires_at: Timestamp,
}

/// The database's JSON as it stands there.
fn raw(text: Option<String>) -> Option<Box<RawValue>> {
    text.and_then(|text| RawValue::from_string(text).ok())
}

impl From<Command> for CommandView {
    fn from(command: Command) -> Self {
        Self {
            state: command.state(),
            command_id: command.command_id,
            device_id: command.device,
            group_id: command.group,
            command_type: command.command_type,
            command: command.command,
            parameters: raw(command.parameters),
            qos: command.qos,
            devices: command.counts,
            created_at: command.created_at,
            created_by: command.created_by,
            expires_at: command.expires_at,
        }
    }
}

/// How far a command has come with one device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CommandDelivery)]
pub(super) struct DeliveryView {
    /// The device.
    device_id: String,
    /// How far.
    state: State,
    /// The device is offline: it waits until the device is back.
    held: bool,
    /// When it was put into the queue.
    queued_at: Timestamp,
    /// When the broker had it.
    sent_at: Option<Timestamp>,
    /// When the device was first heard to have it.
    delivered_at: Option<Timestamp>,
    /// When the device took it on.
    accepted_at: Option<Timestamp>,
    /// When the device last told of its progress.
    progress_at: Option<Timestamp>,
    /// When it came to an end.
    finished_at: Option<Timestamp>,
    /// In per cent.
    progress: Option<f32>,
    /// What the device, or the broker, said.
    message: Option<String>,
    /// What came of it, as the device sent it.
    #[schema(value_type = Option<serde_json::Value>)]
    result: Option<Box<RawValue>>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            device_id: delivery.device,
            state: delivery.state,
            held: delivery.held,
            queued_at: delivery.queued_at,
            sent_at: delivery.sent_at,
            delivered_at: delivery.delivered_at,
            accepted_at: delivery.accepted_at,
            progress_at: delivery.progress_at,
            finished_at: delivery.finished_at,
            progress: delivery.progress,
            message: delivery.message,
            result: raw(delivery.result),
        }
    }
}
