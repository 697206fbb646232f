//! Messages by hand: one published, or many watched as they go by.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::courier::tap::{self, Event, Tapped};
use crate::mqtt::publish::{Message, Properties, QoS};
use crate::mqtt::publisher::Answer;
use crate::operations::messages;
use crate::protocol::channels::{self, Channel};
use crate::protocol::filter::overlap;

use super::answer::{Success, success};
use super::auth::{Admin, Operator};
use super::error::{Kind, Problem};
use super::extract::{Json, Path, whole, whole_or_null};
use super::routes::BASE;
use super::state::Desk;

/// The longest that a published message may wait at the broker for somebody who is away.
const MOST_EXPIRY_SECONDS: u32 = 30 * 86_400;

/// A message to publish.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToPublish {
    /// The topic, below the base topic.
    #[schema(min_length = 1, max_length = 65_535, example = "iotflow/devices/sensor_001/commands/control")]
    topic: String,
    /// The payload: a text goes as it is, anything else as JSON.
    #[schema(example = json!({"command": "restart", "command_id": "cmd_12345"}))]
    payload: Value,
    /// 0, 1 or 2.
    #[serde(default = "one", deserialize_with = "whole")]
    #[schema(default = 1, minimum = 0, maximum = 2)]
    qos: u8,
    /// Whether the broker keeps it for whoever subscribes later.
    #[serde(default)]
    #[schema(default = false)]
    retain: bool,
    /// For how many seconds the broker keeps it for those who are away (MQTT 5, Message Expiry Interval).
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    expiry_seconds: Option<u32>,
}

fn one() -> u8 {
    1
}

/// A message that the broker has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Published {
    /// Its topic.
    topic: String,
    /// Its QoS.
    qos: u8,
    /// Whether it is retained.
    retain: bool,
    /// The bytes of its payload.
    payload_bytes: usize,
    /// Whether anybody was subscribed: `false` only where the broker said so, which Mosquitto does at QoS 1.
    has_subscribers: Option<bool>,
}

/// Publish a message
///
/// Operators publish on the channels of devices and fleets, admins anywhere below the base topic. The answer comes when the broker has it.
#[utoipa::path(post, path = "/mqtt/publish", tag = "mqtt", request_body = ToPublish, responses((status = 200, description = "The broker has it", body = Success<Published>)))]
pub(super) async fn publish(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Json(asked): Json<ToPublish>,
) -> Result<Success<Published>, Problem> {
    let expiry = match asked.expiry_seconds {
        Some(seconds) if !(1..=MOST_EXPIRY_SECONDS).contains(&seconds) => {
            return Err(Problem::new(
                Kind::Unprocessable,
                format!("expiry_seconds={seconds}: 1 to {MOST_EXPIRY_SECONDS} is expected"),
            ));
        }
        seconds => seconds.map(|seconds| Duration::from_secs(seconds.into())),
    };
    let payload = match asked.payload {
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let payload_bytes = payload.len();
    let message = Message {
        topic: asked.topic.clone(),
        payload: Bytes::from(payload),
        qos: qos(asked.qos)?,
        retain: asked.retain,
        properties: Properties {
            expiry,
            ..Properties::default()
        },
    };
    // What cannot be noted is not said. The connection is given back: others need it while the broker thinks.
    drop(desk.database().await?);
    let here = desk.clone();
    let act = async move {
        let by = (caller.actor(), caller.role());
        let said = messages::publish(&here.parts.publisher, here.tree(), by, message).await?;
        let client = here
            .database()
            .await
            .inspect_err(|_| error!(?said, "a message was said and cannot be noted"))?;
        Ok(said.note(&**client).await?)
    };
    let answer = desk.to_its_end("publish", act).await?;
    Ok(success(Published {
        topic: asked.topic,
        qos: asked.qos,
        retain: asked.retain,
        payload_bytes,
        has_subscribers: match (answer, asked.qos) {
            (Answer::NoSubscribers, _) => Some(false),
            (Answer::Taken, 1) => Some(true),
            (Answer::Taken, _) => None,
        },
    }))
}

fn qos(number: u8) -> Result<QoS, Problem> {
    match number {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        other => Err(Problem::new(Kind::Unprocessable, format!("qos={other}: 0, 1 or 2 is expected"))),
    }
}

/// A filter to watch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToSubscribe {
    /// A topic, or a filter with + and #, below the base topic or $SYS, which leaves `discovery/response/…` out.
    #[schema(min_length = 1, max_length = 65_535, example = "iotflow/devices/+/telemetry/#")]
    topic: String,
    /// The most QoS of the deliveries: 0 or 1. 2 is taken as 1.
    #[serde(default = "one", deserialize_with = "whole")]
    #[schema(default = 1, minimum = 0, maximum = 2)]
    qos: u8,
}

/// A live tail.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subscribed {
    /// Its id.
    subscription_id: Uuid,
    /// What is watched.
    topic: String,
    /// The most QoS of the deliveries.
    qos: u8,
    /// Where the messages come as server-sent events, on this replica.
    #[schema(example = "/api/v1/mqtt/subscribe/0191d2f0-0000-7000-8000-000000000000/events")]
    events_url: String,
    /// The most messages a second that are passed on; of the others only the number is told.
    max_messages_per_second: u32,
    /// After how many seconds without a reader it ends.
    unread_seconds: u64,
    /// After how many seconds it ends in any case.
    max_seconds: u64,
}

/// Open a live tail
///
/// Of any topics but those on which devices are told their credentials: a filter that could bring `discovery/response/…` is refused.
#[utoipa::path(post, path = "/mqtt/subscribe", tag = "mqtt", request_body = ToSubscribe, responses((status = 200, description = "The broker has taken the subscription", body = Success<Subscribed>)))]
pub(super) async fn subscribe(_: Admin, State(desk): State<Desk>, Json(asked): Json<ToSubscribe>) -> Result<Success<Subscribed>, Problem> {
    check_filter(&desk, &asked.topic)?;
    let qos = match qos(asked.qos)? {
        QoS::AtMostOnce => QoS::AtMostOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
    };
    let id = desk.parts.taps.open(&asked.topic, qos).await?;
    Ok(success(Subscribed {
        subscription_id: id,
        topic: asked.topic,
        qos: qos as u8,
        events_url: format!("{BASE}/mqtt/subscribe/{id}/events"),
        max_messages_per_second: tap::MOST_PER_SECOND,
        unread_seconds: tap::UNREAD_FOR.as_secs(),
        max_seconds: tap::AT_MOST.as_secs(),
    }))
}

/// A member of a share takes messages away from the others, ingest included; what the service may not read never comes; and what it may
/// read for the devices' sake alone, their new credentials, is nobody's to look at.
fn check_filter(desk: &Desk, filter: &str) -> Result<(), Problem> {
    let refuse = |detail: String| Err(Problem::new(Kind::Unprocessable, detail));
    let faults = channels::filter_faults(filter);
    if !faults.is_empty() {
        return refuse(format!(
            "{:?} is no filter: {}",
            filter.chars().take(100).collect::<String>(),
            faults.join("; ")
        ));
    }
    if filter.starts_with("$share/") {
        return refuse("a live tail takes no messages away from others: a filter without $share/ is expected".to_owned());
    }
    let base = desk.tree().base();
    let below = filter.strip_prefix(base).is_some_and(|rest| rest.starts_with('/')) || filter.starts_with("$SYS/");
    if !below {
        return refuse(format!("{filter:?}: a filter below {base}/ or $SYS/ is expected"));
    }
    let secret = Channel::DiscoveryResponse.filter(desk.tree());
    if overlap(filter, &secret) {
        return refuse(format!(
            "{filter:?} would show what devices are told on {secret}, their passwords among it; take a filter that leaves it out, such as {base}/devices/#"
        ));
    }
    Ok(())
}

/// A live tail in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfTail {
    /// The live tail's id.
    subscription_id: Uuid,
}

/// Read a live tail
///
/// Server-sent events: `message` {topic, payload, encoding, payload_bytes, qos, retain, received_at}, `skipped` {count}, `end`.
#[utoipa::path(get, path = "/mqtt/subscribe/{subscription_id}/events", tag = "mqtt", params(OfTail), responses((status = 200, description = "Messages as they come", content_type = "text/event-stream", body = String)))]
pub(super) async fn events(_: Admin, State(desk): State<Desk>, Path(path): Path<OfTail>) -> Result<Response, Problem> {
    let (ring, end) = desk
        .parts
        .taps
        .read(path.subscription_id)
        .ok_or_else(|| gone(path.subscription_id))?;
    let events = stream::unfold(Some((ring, end)), async |reader| {
        let (mut ring, end) = reader?;
        let heard = tokio::select! { biased; heard = ring.recv() => heard, () = end.cancelled() => Err(RecvError::Closed) };
        let (event, next) = match heard {
            Ok(Event::Message(message)) => (named("message", &shown(&message)), Some((ring, end))),
            Ok(Event::Skipped(count)) => (named("skipped", &json!({"count": count})), Some((ring, end))),
            // The reader was too slow; what it missed is gone.
            Err(RecvError::Lagged(count)) => (named("skipped", &json!({"count": count})), Some((ring, end))),
            Err(RecvError::Closed) => (named("end", &json!({})), None),
        };
        Some((Ok::<_, Infallible>(event), next))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

/// Close a live tail
#[utoipa::path(delete, path = "/mqtt/subscribe/{subscription_id}", tag = "mqtt", params(OfTail), responses((status = 204, description = "It is closed")))]
pub(super) async fn unsubscribe(_: Admin, State(desk): State<Desk>, Path(path): Path<OfTail>) -> Result<StatusCode, Problem> {
    if desk.parts.taps.close(path.subscription_id) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(gone(path.subscription_id))
    }
}

fn gone(id: Uuid) -> Problem {
    Problem::new(
        Kind::NotFound,
        format!("there is no live tail {id} on this replica; it may have ended unread"),
    )
}

fn named(name: &str, data: &Value) -> SseEvent {
    SseEvent::default().event(name).data(data.to_string())
}

fn shown(message: &Tapped) -> Value {
    let (payload, encoding) = match std::str::from_utf8(&message.payload) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (STANDARD.encode(&message.payload), "base64"),
    };
    json!({
        "topic": message.topic, "payload": payload, "encoding": encoding, "payload_bytes": message.payload_bytes,
        "qos": message.qos, "retain": message.retain,
        "received_at": Timestamp::from_microsecond(message.at).ok(),
    })
}
