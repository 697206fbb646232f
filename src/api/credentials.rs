//! A device's credentials: given anew, taken away, and where to use them.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::registry;
use crate::operations::credentials::{self as operations, Issued, Wanted};
use crate::protocol::channels::{Channel, Direction};
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};
use crate::protocol::topic::TopicTree;

use super::answer::{Success, success};
use super::auth::{Operator, Viewer};
use super::error::Problem;
use super::extract::{Json, Path};
use super::state::Desk;
use super::topics::OfDevice;

/// How a device logs in at the broker.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MqttLogin {
    /// Its name there.
    #[schema(example = "sensor_001")]
    username: String,
    /// Its password, shown this once.
    password: String,
}

/// Credentials that were made; shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct IssuedCredentials {
    /// For the broker.
    mqtt: Option<MqttLogin>,
    /// For HTTP, in the header X-API-Key.
    api_key: Option<String>,
}

impl From<Issued> for IssuedCredentials {
    /// The one place where they are revealed.
    fn from(issued: Issued) -> Self {
        Self {
            mqtt: issued.mqtt.map(|login| MqttLogin {
                username: login.username.to_string(),
                password: login.password.reveal().to_owned(),
            }),
            api_key: issued.api_key.map(|key| key.reveal().to_owned()),
        }
    }
}

/// What is given anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToRotate {
    /// The password at the broker.
    #[serde(default)]
    #[schema(default = false)]
    mqtt: bool,
    /// The key for HTTP.
    #[serde(default)]
    #[schema(default = false)]
    api_key: bool,
}

/// A device's new credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rotated {
    /// Whose.
    device_id: String,
    /// What it logs in with from now on.
    credentials: IssuedCredentials,
}

/// Give a device other credentials
///
/// Those that are asked for take the place of the old ones, or are its first. One that is disabled stays so; one whose credentials were
/// taken away is let in again.
#[utoipa::path(post, path = "/devices/{device_id}/credentials/rotate", tag = "devices", params(OfDevice), request_body = ToRotate, responses((status = 200, description = "What it logs in with from now on", body = Success<Rotated>)))]
pub(super) async fn rotate(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
    Json(asked): Json<ToRotate>,
) -> Result<Success<Rotated>, Problem> {
    let wanted = Wanted {
        mqtt: asked.mqtt,
        api_key: asked.api_key,
    };
    let id = path.id()?;
    let mut client = desk.database().await?;
    let issued = operations::rotate(&mut **client, &caller.actor(), &id, wanted).await?;
    Ok(success(Rotated {
        device_id: path.device_id,
        credentials: issued.into(),
    }))
}

/// What was taken away.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevokedCredentials {
    /// Whose.
    device_id: String,
    /// It could log in at the broker.
    mqtt: bool,
    /// It had a key for HTTP.
    api_key: bool,
}

/// Take a device's credentials away
///
/// Its password at the broker and its key for HTTP. It is shut out until it is given others, whatever certificate it has; that is revoked
/// where the authority is: `iotflow broker`.
#[utoipa::path(delete, path = "/devices/{device_id}/credentials", tag = "devices", params(OfDevice), responses((status = 200, description = "What was taken away", body = Success<RevokedCredentials>)))]
pub(super) async fn revoke(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfDevice>,
) -> Result<Success<RevokedCredentials>, Problem> {
    let id = path.id()?;
    let mut client = desk.database().await?;
    let revoked = operations::revoke(&mut **client, &caller.actor(), &id).await?;
    Ok(success(RevokedCredentials {
        device_id: path.device_id,
        mqtt: revoked.mqtt,
        api_key: revoked.api_key,
    }))
}

/// The topics that a device may use.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OwnTopics {
    /// It publishes on these.
    publish: Vec<String>,
    /// It subscribes to these: those of its own, and those of its groups.
    subscribe: Vec<String>,
}

/// Where and as whom a device comes to the broker.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MqttAccess {
    /// Which device.
    device_id: String,
    /// Its name at the broker.
    username: String,
    /// Whether it has a password or a certificate there. The password itself was shown when it was made, and is nowhere.
    has_credentials: bool,
    /// Whether they are taken.
    enabled: bool,
    /// Where the broker is, as devices are told (API_BROKER_URLS).
    #[schema(example = json!(["mqtts://broker.example.org:8883"]))]
    urls: Vec<String>,
    /// Its topics.
    topics: OwnTopics,
}

/// Where and as whom a device comes to the broker
///
/// Never its password: that is shown once, when it is made. A rotation makes another.
#[utoipa::path(get, path = "/devices/{device_id}/mqtt-credentials", tag = "devices", params(OfDevice), responses((status = 200, description = "Name, address and topics", body = Success<MqttAccess>)))]
pub(super) async fn of_mqtt(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfDevice>) -> Result<Success<MqttAccess>, Problem> {
    let id = path.id()?;
    let client = desk.database().await?;
    let device = registry::get(&**client, &id).await?;
    let mut urls = desk.config.broker_urls.0.clone();
    if urls.is_empty() {
        // Where nothing is said to devices, they find it where we do.
        let mqtt = &desk.parts.mqtt;
        let scheme = if mqtt.tls.is_some() { "mqtts" } else { "mqtt" };
        urls.push(format!("{scheme}://{}:{}", mqtt.host, mqtt.port));
    }
    Ok(success(MqttAccess {
        username: path.device_id.clone(),
        device_id: path.device_id,
        has_credentials: device.has_mqtt_credentials,
        enabled: device.enabled,
        urls,
        topics: topics(desk.tree(), &id, &device.groups),
    }))
}

fn topics(tree: &TopicTree, id: &DeviceId, groups: &[String]) -> OwnTopics {
    let device = DeviceIdRef::parse(id.as_str()).expect("an id is of the grammar of ids");
    let own = |direction: Direction| {
        let channels = Channel::ALL.iter().map(|channel| (channel, channel.spec()));
        let own = channels.filter(move |(_, spec)| spec.pattern.starts_with("devices/") && spec.direction == direction);
        own.map(|(channel, _)| channel.of_device(tree, device)).collect::<Vec<_>>()
    };
    let of_groups = groups.iter().filter_map(|group| GroupId::parse(group).ok());
    OwnTopics {
        publish: own(Direction::Up),
        subscribe: own(Direction::Down)
            .into_iter()
            .chain(of_groups.map(|group| Channel::FleetCommands.of_group(tree, &group)))
            .collect(),
    }
}
