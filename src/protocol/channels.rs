//! The whole topic tree as a table, for whoever explains it, checks a topic by it, or says something on it.
//!
//! What devices send in masses is told apart by [`topic`](super::topic), which is made for that; a test holds the two together.

use std::fmt;

use super::id::{DeviceId, DeviceIdRef, GroupId};
use super::topic::TopicTree;

/// Who speaks on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Devices publish, the service reads.
    Up,
    /// The service publishes, devices read.
    Down,
    /// The service publishes, admins read.
    Admin,
}

/// What there is to know of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The channel's name, in snake case.
    pub name: &'static str,
    /// Its topic below the base topic, with [`DEVICE`] or [`GROUP`] as the level that differs.
    pub pattern: &'static str,
    /// What it is a part of: `telemetry`, `status`, `commands`, `config`, `receipts`, `discovery`, `fleet`, `system`, `monitoring`.
    pub topic_type: &'static str,
    /// The QoS to publish at.
    pub qos: u8,
    /// Whether what is published is retained.
    pub retain: bool,
    /// Who speaks.
    pub direction: Direction,
    /// What is said there.
    pub description: &'static str,
}

/// The level that stands for a device's id.
pub const DEVICE: &str = "{device_id}";
/// The level that stands for a group's id.
pub const GROUP: &str = "{group_id}";

macro_rules! channels {
    ($($name:ident = $text:literal, $pattern:literal, $type:literal, $qos:literal, $retain:literal, $direction:ident, $description:literal;)+) => {
        /// A channel of the tree.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Channel { $(#[doc = $description] $name,)+ }

        impl Channel {
            /// Every channel, in the order in which people meet them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// What there is to know of it.
            #[must_use]
            pub const fn spec(self) -> Spec {
                match self {
                    $(Self::$name => Spec {
                        name: $text, pattern: $pattern, topic_type: $type, qos: $qos, retain: $retain,
                        direction: Direction::$direction, description: $description,
                    },)+
                }
            }
        }
    };
}

channels! {
    Telemetry = "telemetry", "devices/{device_id}/telemetry", "telemetry", 1, false, Up, "Readings.";
    TelemetrySensors = "telemetry_sensors", "devices/{device_id}/telemetry/sensors", "telemetry", 1, false, Up, "Readings of sensors.";
    TelemetryMetrics = "telemetry_metrics", "devices/{device_id}/telemetry/metrics", "telemetry", 1, false, Up, "How the device itself performs.";
    TelemetryEvents = "telemetry_events", "devices/{device_id}/telemetry/events", "telemetry", 1, false, Up, "Things that happened, kept whole as JSON.";
    StatusHeartbeat = "status_heartbeat", "devices/{device_id}/status/heartbeat", "status", 0, false, Up, "The device is still there.";
    StatusOnline = "status_online", "devices/{device_id}/status/online", "status", 1, true, Up, "The device came.";
    StatusOffline = "status_offline", "devices/{device_id}/status/offline", "status", 1, true, Up, "The device went; also its will.";
    CommandsConfig = "commands_config", "devices/{device_id}/commands/config", "commands", 2, false, Down, "Commands that change a setting.";
    CommandsControl = "commands_control", "devices/{device_id}/commands/control", "commands", 2, false, Down, "Commands that make the device act.";
    CommandsFirmware = "commands_firmware", "devices/{device_id}/commands/firmware", "commands", 2, false, Down, "Commands about the device's firmware.";
    CommandsResponse = "commands_response", "devices/{device_id}/commands/response", "commands", 1, false, Up, "What became of a command.";
    Config = "config", "devices/{device_id}/config", "config", 1, true, Down, "The configuration that the device is to have.";
    ConfigReported = "config_reported", "devices/{device_id}/config/reported", "config", 1, false, Up, "The configuration that the device has.";
    Receipts = "receipts", "devices/{device_id}/receipts", "receipts", 1, false, Down, "Receipts for telemetry that was committed, where the device asks for them.";
    DiscoveryRegister = "discovery_register", "discovery/register/{device_id}", "discovery", 1, false, Up, "A device without credentials asks for some.";
    DiscoveryResponse = "discovery_response", "discovery/response/{device_id}", "discovery", 1, false, Down, "The answer to it.";
    FleetCommands = "fleet_commands", "fleet/commands/{group_id}", "fleet", 2, false, Down, "Commands to all members of a group.";
    FleetStatus = "fleet_status", "fleet/status/{group_id}", "fleet", 1, true, Admin, "How far a group's last command has come.";
    SystemHealth = "system_health", "system/health", "system", 1, true, Admin, "Whether every part of the service can do its work.";
    SystemMetrics = "system_metrics", "system/metrics", "system", 0, false, Admin, "The service's own figures.";
    SystemAlerts = "system_alerts", "system/alerts", "system", 1, true, Admin, "What needs somebody's attention now.";
    MonitoringBroker = "monitoring_broker", "monitoring/broker", "monitoring", 0, false, Admin, "The broker's version, uptime and memory.";
    MonitoringClients = "monitoring_clients", "monitoring/clients", "monitoring", 0, false, Admin, "The broker's clients and subscriptions.";
    MonitoringTraffic = "monitoring_traffic", "monitoring/traffic", "monitoring", 0, false, Admin, "The broker's messages and bytes.";
}

/// A topic of the tree, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The channel.
    pub channel: Channel,
    /// Whose, where the channel has a device.
    pub device: Option<DeviceId>,
    /// Whose, where it has a group.
    pub group: Option<GroupId>,
}

/// Why a text is no topic of the tree: every reason, each a sentence that says what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Faults {}

impl Channel {
    /// The commands' channel of this name: `config`, `control` or `firmware`.
    #[must_use]
    pub fn of_commands(kind: &str) -> Option<Self> {
        match kind {
            "config" => Some(Self::CommandsConfig),
            "control" => Some(Self::CommandsControl),
            "firmware" => Some(Self::CommandsFirmware),
            _ => None,
        }
    }

    /// The filter that matches this channel of every device or group.
    #[must_use]
    pub fn filter(self, tree: &TopicTree) -> String {
        self.fill(tree, "+", "+")
    }

    /// The topic of this channel for a device. The device counts for nothing where the channel has none.
    #[must_use]
    pub fn of_device(self, tree: &TopicTree, device: DeviceIdRef<'_>) -> String {
        self.fill(tree, device.as_str(), GROUP)
    }

    /// The topic of this channel for a group.
    #[must_use]
    pub fn of_group(self, tree: &TopicTree, group: &GroupId) -> String {
        self.fill(tree, DEVICE, group.as_str())
    }

    /// The topic of a channel that is nobody's own.
    #[must_use]
    pub fn topic(self, tree: &TopicTree) -> String {
        self.fill(tree, DEVICE, GROUP)
    }

    fn fill(self, tree: &TopicTree, device: &str, group: &str) -> String {
        let levels = self.spec().pattern.split('/').map(|level| match level {
            DEVICE => device,
            GROUP => group,
            other => other,
        });
        std::iter::once(tree.base()).chain(levels).collect::<Vec<_>>().join("/")
    }
}

/// Takes the topic's name apart, whichever channel it is of.
///
/// # Errors
/// [`Faults`].
pub fn parse(tree: &TopicTree, topic: &str) -> Result<Parsed, Faults> {
    let mut faults = name_faults(topic);
    let below = topic.strip_prefix(tree.base()).and_then(|rest| rest.strip_prefix('/'));
    let Some(below) = below else {
        faults.push(format!("it does not begin with {}/", tree.base()));
        return Err(Faults(faults));
    };
    let levels: Vec<&str> = below.split('/').collect();
    let Some(channel) = Channel::ALL.iter().copied().find(|channel| fits(channel.spec().pattern, &levels)) else {
        faults.push(format!("no channel of the tree is called {below:?}{}", nearest(&levels)));
        return Err(Faults(faults));
    };
    let level_at = |name: &str| {
        let at = channel.spec().pattern.split('/').position(|level| level == name)?;
        levels.get(at).copied()
    };
    let device = level_at(DEVICE)
        .map(|text| DeviceIdRef::parse(text).map(DeviceIdRef::to_owned))
        .transpose();
    let group = level_at(GROUP).map(GroupId::parse).transpose();
    match (device, group) {
        (Ok(device), Ok(group)) if faults.is_empty() => Ok(Parsed { channel, device, group }),
        (device, group) => {
            faults.extend(device.err().map(|error| error.to_string()));
            faults.extend(group.err().map(|error| error.to_string()));
            Err(Faults(faults))
        }
    }
}

/// What keeps a text from being the name of any topic (MQTT 5, 4.7.1 and 4.7.3).
#[must_use]
pub fn name_faults(topic: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if topic.is_empty() {
        faults.push("it is empty; a topic has at least one character".to_owned());
    }
    if topic.len() > usize::from(u16::MAX) {
        faults.push(format!("it has {} bytes; a topic has 65535 at most", topic.len()));
    }
    if topic.contains(['+', '#']) {
        faults.push("it holds a wildcard (+ or #); that is for subscriptions, and a topic has none".to_owned());
    }
    if topic.contains(char::is_control) {
        faults.push("it holds a control character, which brokers refuse".to_owned());
    }
    faults
}

/// What keeps a text from being a filter to subscribe to (MQTT 5, 4.7.1).
#[must_use]
pub fn filter_faults(filter: &str) -> Vec<String> {
    let mut faults = name_faults(filter);
    faults.retain(|fault| !fault.contains("wildcard"));
    let levels: Vec<&str> = filter.split('/').collect();
    for (at, level) in levels.iter().enumerate() {
        if level.contains('#') && (*level != "#" || at + 1 != levels.len()) {
            faults.push("# stands alone, as the last level".to_owned());
        }
        if level.contains('+') && *level != "+" {
            faults.push("+ stands alone in its level".to_owned());
        }
    }
    faults
}

/// Whether a topic's levels are a pattern's, whatever stands in the place of an id.
fn fits(pattern: &str, levels: &[&str]) -> bool {
    let wanted: Vec<&str> = pattern.split('/').collect();
    wanted.len() == levels.len()
        && wanted
            .iter()
            .zip(levels)
            .all(|(wanted, level)| wanted.starts_with('{') || wanted == level)
}

/// The channels that begin as this topic does: a hint to whoever mistyped.
fn nearest(levels: &[&str]) -> String {
    let begins = |pattern: &str| {
        let wanted = pattern.split('/');
        wanted
            .zip(levels)
            .take_while(|(wanted, level)| wanted.starts_with('{') || wanted == *level)
            .count()
    };
    let most = Channel::ALL.iter().map(|channel| begins(channel.spec().pattern)).max().unwrap_or(0);
    let near: Vec<&str> = Channel::ALL
        .iter()
        .map(|channel| channel.spec().pattern)
        .filter(|pattern| begins(pattern) == most && most > 0)
        .collect();
    if near.is_empty() {
        "; below the base topic stand devices, discovery, fleet, system and monitoring".to_owned()
    } else {
        format!("; there are {}", near.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::topic::{self, Status, Telemetry};

    fn tree() -> TopicTree {
        TopicTree::new("plant/iotflow").expect("a base topic")
    }

    #[test]
    fn every_channel_parses_back() {
        let (device, group) = (
            DeviceIdRef::parse("sensor_001").expect("an id"),
            GroupId::parse("north").expect("an id"),
        );
        for channel in Channel::ALL.iter().copied() {
            let topic = channel.fill(&tree(), device.as_str(), group.as_str());
            let parsed = parse(&tree(), &topic).unwrap_or_else(|faults| panic!("{topic}: {faults}"));
            assert_eq!(parsed.channel, channel, "{topic}");
            assert_eq!(parsed.device.is_some(), channel.spec().pattern.contains(DEVICE));
            assert_eq!(parsed.group.is_some(), channel.spec().pattern.contains(GROUP));
        }
    }

    #[test]
    fn the_table_and_the_fast_parser_say_the_same() {
        let fast = Telemetry::ALL
            .map(topic::Channel::Telemetry)
            .into_iter()
            .chain(Status::ALL.map(topic::Channel::Status));
        let device = DeviceIdRef::parse("sensor_001").expect("an id");
        let fast: Vec<String> = fast.map(|channel| tree().name(device, channel)).collect();
        let slow: Vec<String> = Channel::ALL
            .iter()
            .filter(|channel| matches!(channel.spec().topic_type, "telemetry" | "status"))
            .map(|channel| channel.of_device(&tree(), device))
            .collect();
        assert_eq!(fast, slow);
    }

    #[test]
    fn a_refusal_says_what_would_be_right() {
        let faults = |topic: &str| parse(&tree(), topic).expect_err(topic).to_string();
        assert!(faults("").contains("empty"));
        assert!(faults("iotflow/devices/a/telemetry").contains("does not begin with plant/iotflow/"));
        assert!(faults("plant/iotflow/devices/+/telemetry").contains("wildcard"));
        assert!(faults("plant/iotflow/devices/a b/telemetry").contains("1 to 64 of the characters"));
        assert!(faults("plant/iotflow/devices/a/telemetry/x").contains("devices/{device_id}/telemetry/sensors"));
        assert!(faults("plant/iotflow/fleet/commands/a b").contains("a group id"));
        assert!(faults("plant/iotflow/x").contains("devices, discovery, fleet"));
        assert!(faults("plant/iotflow/devices/a\n/telemetry").contains("control character"));
    }

    #[test]
    fn filters_are_judged_as_the_standard_says() {
        for good in ["#", "+", "a/+/b", "a/#", "+/+/#", "/", "$SYS/#"] {
            assert!(filter_faults(good).is_empty(), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a\0"] {
            assert!(!filter_faults(bad).is_empty(), "{bad:?}");
        }
    }
}
