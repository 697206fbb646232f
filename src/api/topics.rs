//! The topic tree, explained: all of it, one topic of it, and that of one device.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::protocol::channels::{self, Channel, DEVICE, Direction, GROUP, Spec};
use crate::protocol::id::{DeviceIdRef, GroupId};

use super::answer::{Success, success};
use super::auth::Viewer;
use super::error::{Kind, Problem};
use super::extract::{Json, Path};
use super::state::Desk;

/// Stands for every device and group in examples.
const EXAMPLE_DEVICE: &str = "sensor_001";
const EXAMPLE_GROUP: &str = "building_7";

/// A channel of the tree.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopicStructure {
    /// The topic, with `{device_id}` or `{group_id}` as the level that differs.
    #[schema(example = "iotflow/devices/{device_id}/telemetry/sensors")]
    base_path: String,
    /// What it is a part of.
    #[schema(example = "telemetry")]
    topic_type: &'static str,
    /// The QoS to publish at.
    #[schema(example = 1)]
    qos: u8,
    /// Whether what is published is retained.
    retain: bool,
    /// Who publishes: `device` or `service`.
    #[schema(example = "device")]
    publisher: &'static str,
    /// What is said there.
    description: &'static str,
    /// The same topic of one device or group.
    #[schema(example = "iotflow/devices/sensor_001/telemetry/sensors")]
    full_topic_example: String,
}

/// The whole tree.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Structure {
    /// The first levels of every topic.
    #[schema(example = "iotflow")]
    base_topic: String,
    /// For each channel the filter that matches it for every device or group.
    wildcard_patterns: BTreeMap<&'static str, String>,
    /// The channels, by name.
    topic_structures: BTreeMap<&'static str, TopicStructure>,
    /// How many there are.
    total_structures: usize,
}

/// The topic tree
#[utoipa::path(get, path = "/mqtt/topics/structure", tag = "mqtt", responses((status = 200, description = "All channels", body = Success<Structure>)))]
pub(super) async fn structure(_: Viewer, State(desk): State<Desk>) -> Success<Structure> {
    let tree = desk.tree();
    let structures: BTreeMap<_, _> = Channel::ALL
        .iter()
        .map(|channel| {
            let spec = channel.spec();
            let structure = TopicStructure {
                base_path: format!("{}/{}", tree.base(), spec.pattern),
                topic_type: spec.topic_type,
                qos: spec.qos,
                retain: spec.retain,
                publisher: publisher(&spec),
                description: spec.description,
                full_topic_example: format!("{}/{}", tree.base(), spec.pattern)
                    .replace(DEVICE, EXAMPLE_DEVICE)
                    .replace(GROUP, EXAMPLE_GROUP),
            };
            (spec.name, structure)
        })
        .collect();
    success(Structure {
        base_topic: tree.base().to_owned(),
        wildcard_patterns: Channel::ALL
            .iter()
            .map(|channel| (channel.spec().name, channel.filter(tree)))
            .collect(),
        total_structures: structures.len(),
        topic_structures: structures,
    })
}

/// A topic to check.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToValidate {
    /// The topic's whole name.
    #[schema(example = "iotflow/devices/sensor_001/telemetry/sensors")]
    topic: String,
}

/// A topic, taken apart.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ParsedTopic {
    /// The channel's name.
    #[schema(example = "telemetry_sensors")]
    channel: &'static str,
    /// What it is a part of.
    #[schema(example = "telemetry")]
    topic_type: &'static str,
    /// The first levels.
    base_topic: String,
    /// The device, where the channel has one.
    device_id: Option<String>,
    /// The group, where the channel has one.
    group_id: Option<String>,
    /// The QoS to publish at.
    qos: u8,
    /// Whether what is published is retained.
    retain: bool,
}

/// What there is to say of a topic.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Validation {
    /// The topic.
    topic: String,
    /// Whether it is one of the tree.
    is_valid: bool,
    /// What it is made of, where it is.
    parsed: Option<ParsedTopic>,
    /// Why not, and what would be right, where it is not.
    validation_errors: Vec<String>,
}

/// Check a topic
#[utoipa::path(post, path = "/mqtt/topics/validate", tag = "mqtt", request_body = ToValidate, responses((status = 200, description = "Whether it is a topic of the tree", body = Success<Validation>)))]
pub(super) async fn validate(_: Viewer, State(desk): State<Desk>, Json(asked): Json<ToValidate>) -> Success<Validation> {
    let outcome = channels::parse(desk.tree(), &asked.topic);
    let (parsed, validation_errors) = match outcome {
        Ok(parsed) => {
            let spec = parsed.channel.spec();
            let parsed = ParsedTopic {
                channel: spec.name,
                topic_type: spec.topic_type,
                base_topic: desk.tree().base().to_owned(),
                device_id: parsed.device.map(|device| device.as_str().to_owned()),
                group_id: parsed.group.map(|group| group.as_str().to_owned()),
                qos: spec.qos,
                retain: spec.retain,
            };
            (Some(parsed), Vec::new())
        }
        Err(faults) => (None, faults.0),
    };
    success(Validation {
        topic: asked.topic,
        is_valid: parsed.is_some(),
        parsed,
        validation_errors,
    })
}

/// A device in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfDevice {
    /// The device's id.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "sensor_001")]
    pub(super) device_id: String,
}

/// A topic of a device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeviceTopic {
    /// The channel's name.
    name: &'static str,
    /// The topic.
    topic: String,
    /// The QoS to publish at.
    qos: u8,
    /// Whether what is published is retained.
    retain: bool,
    /// Who publishes: `device` or `service`.
    publisher: &'static str,
    /// What is said there.
    description: &'static str,
}

/// A device's topics.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeviceTopics {
    /// The device.
    device_id: String,
    /// Its topics, by what they are a part of.
    topics: BTreeMap<&'static str, Vec<DeviceTopic>>,
    /// How many there are.
    total_topics: usize,
}

/// A device's topics
///
/// Those of its own, and those of the groups that it is a member of.
#[utoipa::path(get, path = "/mqtt/topics/device/{device_id}", tag = "mqtt", params(OfDevice), responses((status = 200, description = "The device's topics by type", body = Success<DeviceTopics>)))]
pub(super) async fn of_device(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfDevice>) -> Result<Success<DeviceTopics>, Problem> {
    let device =
        DeviceIdRef::parse(&path.device_id).map_err(|error| Problem::new(Kind::NotFound, format!("{:?}: {error}", path.device_id)))?;
    let client = desk.database().await?;
    let groups = crate::devices::groups::of_device(&**client, device).await?;
    let Some(groups) = groups else {
        return Err(Problem::new(Kind::NotFound, format!("there is no device {device}")));
    };
    let mut topics: BTreeMap<&'static str, Vec<DeviceTopic>> = BTreeMap::new();
    for channel in Channel::ALL.iter().copied() {
        let spec = channel.spec();
        if spec.pattern.contains(DEVICE) {
            topics
                .entry(spec.topic_type)
                .or_default()
                .push(topic(&spec, channel.of_device(desk.tree(), device)));
        } else if channel == Channel::FleetCommands {
            let of_groups = groups
                .iter()
                .map(|group: &GroupId| topic(&spec, channel.of_group(desk.tree(), group)));
            topics.entry(spec.topic_type).or_default().extend(of_groups);
        }
    }
    Ok(success(DeviceTopics {
        device_id: path.device_id,
        total_topics: topics.values().map(Vec::len).sum(),
        topics,
    }))
}

fn topic(spec: &Spec, topic: String) -> DeviceTopic {
    DeviceTopic {
        name: spec.name,
        topic,
        qos: spec.qos,
        retain: spec.retain,
        publisher: publisher(spec),
        description: spec.description,
    }
}

fn publisher(spec: &Spec) -> &'static str {
    match spec.direction {
        Direction::Up => "device",
        Direction::Down | Direction::Admin => "service",
    }
}
