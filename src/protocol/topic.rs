//! The topic tree below the base topic, and the two ways through it: text to [`Channel`] and back.

use std::fmt;

use super::id::DeviceIdRef;
use super::reject::{Reason, Rejection};

/// What a device publishes on `telemetry`, with or without a subtopic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Telemetry {
    /// `telemetry`: readings, unsorted.
    Bare,
    /// `telemetry/sensors`: readings of sensors.
    Sensors,
    /// `telemetry/metrics`: how the device itself performs.
    Metrics,
    /// `telemetry/events`: things that happened, kept whole as JSON.
    Events,
}

impl Telemetry {
    /// All kinds, in the order of their [`Telemetry::code`].
    pub const ALL: [Self; 4] = [Self::Bare, Self::Sensors, Self::Metrics, Self::Events];

    /// The stable code stored as `metric_sets.kind`.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Bare => 0,
            Self::Sensors => 1,
            Self::Metrics => 2,
            Self::Events => 3,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Bare => "telemetry",
            Self::Sensors => "telemetry/sensors",
            Self::Metrics => "telemetry/metrics",
            Self::Events => "telemetry/events",
        }
    }
}

/// What a device publishes on `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// `status/heartbeat`: still there.
    Heartbeat,
    /// `status/online`: it connected (retained).
    Online,
    /// `status/offline`: it left, or its will says so (retained).
    Offline,
}

impl Status {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Heartbeat, Self::Online, Self::Offline];

    fn suffix(self) -> &'static str {
        match self {
            Self::Heartbeat => "status/heartbeat",
            Self::Online => "status/online",
            Self::Offline => "status/offline",
        }
    }
}

/// A channel that devices publish on and this service reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Readings and events.
    Telemetry(Telemetry),
    /// Presence.
    Status(Status),
}

/// The base topic, and with it every topic and filter of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTree {
    base: String,
    devices: String,
}

/// Why a text cannot be the base topic.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a base topic is one or more levels without wildcards, `$`, control characters or empty levels, such as `iotflow`")]
pub struct BadBaseTopic;

impl TopicTree {
    /// The tree below `base`.
    ///
    /// # Errors
    /// [`BadBaseTopic`] when `base` has an empty level, a wildcard, a leading `$` or a control character.
    pub fn new(base: &str) -> Result<Self, BadBaseTopic> {
        let bad_level = |level: &str| level.is_empty() || level.chars().any(|c| matches!(c, '+' | '#') || c.is_control());
        if base.starts_with('$') || base.split('/').any(bad_level) {
            return Err(BadBaseTopic);
        }
        Ok(Self {
            base: base.to_owned(),
            devices: format!("{base}/devices/"),
        })
    }

    /// The base topic.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The filter that matches every telemetry topic, and more: `+` cannot say "a device id".
    #[must_use]
    pub fn telemetry_filter(&self) -> String {
        format!("{}+/telemetry/#", self.devices)
    }

    /// The filter that matches every status topic.
    #[must_use]
    pub fn status_filter(&self) -> String {
        format!("{}+/status/#", self.devices)
    }

    /// Takes a topic name apart.
    ///
    /// # Errors
    /// A [`Rejection`] with [`Reason::UnknownTopic`] or [`Reason::BadDeviceId`].
    pub fn parse<'a>(&self, topic: &'a [u8]) -> Result<(DeviceIdRef<'a>, Channel), Rejection> {
        let unknown = || Rejection::new(Reason::UnknownTopic, "no channel of the topic tree has this name");
        let text = std::str::from_utf8(topic).map_err(|_| Rejection::new(Reason::UnknownTopic, "the topic is not UTF-8"))?;
        let below = text.strip_prefix(self.devices.as_str()).ok_or_else(unknown)?;
        let (device, rest) = below.split_once('/').ok_or_else(unknown)?;
        let device = DeviceIdRef::parse(device).map_err(|error| Rejection::new(Reason::BadDeviceId, error.to_string()))?;
        let channel = match rest {
            "telemetry" => Channel::Telemetry(Telemetry::Bare),
            "telemetry/sensors" => Channel::Telemetry(Telemetry::Sensors),
            "telemetry/metrics" => Channel::Telemetry(Telemetry::Metrics),
            "telemetry/events" => Channel::Telemetry(Telemetry::Events),
            "status/heartbeat" => Channel::Status(Status::Heartbeat),
            "status/online" => Channel::Status(Status::Online),
            "status/offline" => Channel::Status(Status::Offline),
            _ => return Err(unknown()),
        };
        Ok((device, channel))
    }

    /// The device that a topic names, whether or not it has such a channel.
    #[must_use]
    pub fn device<'a>(&self, topic: &'a [u8]) -> Option<DeviceIdRef<'a>> {
        let below = topic.strip_prefix(self.devices.as_bytes())?;
        let end = below.iter().position(|byte| *byte == b'/')?;
        DeviceIdRef::parse(std::str::from_utf8(&below[..end]).ok()?).ok()
    }

    /// The topic name of a device's channel.
    #[must_use]
    pub fn name(&self, device: DeviceIdRef<'_>, channel: Channel) -> String {
        format!("{}{device}/{channel}", self.devices)
    }

    /// The level that names the device, unchecked: the key by which a delivery finds its shard, so that
    /// all of a device's messages take the same way whether or not they parse.
    #[must_use]
    pub fn shard_key<'a>(&self, topic: &'a [u8]) -> &'a [u8] {
        let below = topic.get(self.devices.len()..).unwrap_or(topic);
        let end = below.iter().position(|byte| *byte == b'/').unwrap_or(below.len());
        &below[..end]
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Telemetry(kind) => kind.suffix(),
            Self::Status(kind) => kind.suffix(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree() -> TopicTree {
        TopicTree::new("iotflow").expect("a valid base topic")
    }

    fn channels() -> impl Strategy<Value = Channel> {
        let telemetry = Telemetry::ALL.map(Channel::Telemetry);
        let status = Status::ALL.map(Channel::Status);
        prop::sample::select(telemetry.into_iter().chain(status).collect::<Vec<_>>())
    }

    fn reason(topic: &[u8]) -> Option<Reason> {
        tree().parse(topic).err().map(|rejection| rejection.reason)
    }

    /// A level that names no device: empty, too long, or with a character that the grammar does not have.
    fn bad_device() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            "[A-Za-z0-9_.:-]{65}",
            "[A-Za-z0-9_.:-]{66,200}",
            "[A-Za-z0-9_.:-]{0,8}[+#$ \u{0}\u{1f}\u{e9}\\\\][A-Za-z0-9_.:-]{0,8}",
            "[^/]{1,20}".prop_filter("a device id", |text| DeviceIdRef::parse(text).is_err()),
        ]
    }

    /// The topics that differ from `name` by one level: added, left out, or put in another's place. Not those whose device
    /// is another, and not those that are of the tree.
    fn neighbours(name: &str, level: &str) -> Vec<String> {
        const DEVICE: usize = 2;
        const SUBTOPIC: usize = 4;
        let levels: Vec<&str> = name.split('/').collect();
        let mut topics = Vec::new();
        for at in (0..=levels.len()).filter(|at| *at != DEVICE) {
            let (before, after) = levels.split_at(at);
            topics.push([before, &[level], after].concat().join("/"));
            if let Some((_, after)) = after.split_first() {
                topics.push([before, &[level], after].concat().join("/"));
                if at != SUBTOPIC {
                    topics.push([before, after].concat().join("/"));
                }
            }
        }
        topics
    }

    proptest! {
        #[test]
        fn every_name_parses_back(device in "[A-Za-z0-9_.:-]{1,64}", channel in channels()) {
            let device = DeviceIdRef::parse(&device).expect("of the grammar");
            let name = tree().name(device, channel);
            prop_assert_eq!(tree().parse(name.as_bytes()), Ok((device, channel)));
            prop_assert_eq!(tree().shard_key(name.as_bytes()), device.as_str().as_bytes());
        }

        #[test]
        fn what_parses_is_a_name_of_ours(topic in "(iotflow/)?(devices/)?[a-z+# ]{0,3}/(telemetry|status|x)(/[a-z]{0,9}){0,2}") {
            if let Ok((device, channel)) = tree().parse(topic.as_bytes()) {
                prop_assert_eq!(tree().name(device, channel), topic);
            }
        }

        #[test]
        fn a_device_level_that_is_no_device_id_is_refused_as_one(device in bad_device(), channel in channels()) {
            let topic = format!("iotflow/devices/{device}/{channel}");
            prop_assert_eq!(reason(topic.as_bytes()), Some(Reason::BadDeviceId));
            // The messages of a device that does not know its name keep their order all the same.
            prop_assert_eq!(tree().shard_key(topic.as_bytes()), device.as_bytes());
        }

        #[test]
        fn a_level_too_many_too_few_or_another_is_refused_as_unknown(
            device in "[A-Za-z0-9_.:-]{1,64}",
            channel in channels(),
            level in "[a-z+#\u{0}\u{e9}]{0,3}",
        ) {
            let name = tree().name(DeviceIdRef::parse(&device).expect("of the grammar"), channel);
            for topic in neighbours(&name, &level) {
                prop_assert_eq!(reason(topic.as_bytes()), Some(Reason::UnknownTopic), "{:?}", topic);
            }
        }

        #[test]
        fn a_byte_that_is_no_text_is_refused_as_unknown(channel in channels(), at in any::<prop::sample::Index>()) {
            let mut topic = format!("iotflow/devices/sensor_001/{channel}").into_bytes();
            topic.insert(at.index(topic.len() + 1), 0xff);
            prop_assert_eq!(reason(&topic), Some(Reason::UnknownTopic));
        }

        #[test]
        fn no_bytes_make_it_panic(topic in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = tree().parse(&topic);
            let _ = tree().shard_key(&topic);
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let reason = |topic: &'static str| tree().parse(topic.as_bytes()).map_err(|rejection| rejection.reason);
        assert_eq!(reason("iotflow/devices/a b/telemetry"), Err(Reason::BadDeviceId));
        assert_eq!(reason("iotflow/devices//telemetry"), Err(Reason::BadDeviceId));
        for unknown in [
            "",
            "iotflow",
            "iotflow/devices/a",
            "iotflow/devices/a/telemetry/",
            "iotflow/devices/a/telemetry/x/y",
            "other/devices/a/telemetry",
        ] {
            assert_eq!(reason(unknown), Err(Reason::UnknownTopic), "{unknown}");
        }
    }

    #[test]
    fn the_base_topic_is_checked() {
        assert!(TopicTree::new("plant/7/iotflow").is_ok());
        for bad in ["", "/", "a//b", "a/", "+", "a/#", "$SYS", "a\nb"] {
            assert_eq!(TopicTree::new(bad), Err(BadBaseTopic), "{bad:?}");
        }
    }
}
