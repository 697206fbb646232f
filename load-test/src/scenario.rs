//! What is played: from a TOML file, each value of which an argument may replace.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::payload::Profile;

/// A fleet and how it behaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scenario {
    /// How many devices.
    pub(crate) devices: u32,
    /// Messages a second of the whole fleet. Zero: as many as the broker takes, which is no open loop any more.
    pub(crate) rate: f64,
    /// Seconds between two messages of one device; replaces `rate`.
    pub(crate) interval_seconds: Option<f64>,
    /// 0, 1 or 2.
    pub(crate) qos: u8,
    /// What the messages look like.
    pub(crate) profile: Profile,
    /// Seconds in which the rate grows from nothing to its full height.
    pub(crate) ramp_seconds: f64,
    /// Seconds of playing, the ramp included.
    pub(crate) duration_seconds: f64,
    /// Stop after this many messages, whatever the time.
    pub(crate) messages: Option<u64>,
    /// Seeds the values, so that two runs send the same.
    pub(crate) seed: u64,
    /// How many connections the devices share.
    pub(crate) connections: u32,
    /// What the devices' ids begin with.
    pub(crate) prefix: String,
    /// The base topic.
    pub(crate) base_topic: String,
    /// What makes the run a failure.
    pub(crate) thresholds: Thresholds,
}

/// Limits that a run must keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Thresholds {
    /// Readings that were acked and are not there. At QoS 0 nothing is acked: every reading sent counts, and there is no
    /// limit unless one is given.
    pub(crate) max_lost: Option<u64>,
    /// Readings that are there more than once.
    pub(crate) max_doubled: u64,
    /// Readings that are there and were never sent.
    pub(crate) max_unexpected: u64,
    /// Messages that the broker acked although nobody was subscribed. It dropped them, whatever the service does.
    pub(crate) max_without_subscriber: u64,
    /// Milliseconds from due to committed, 99th percentile.
    pub(crate) max_p99_ms: Option<f64>,
    /// A reading that was committed later than this after it was due is late.
    pub(crate) late_ms: f64,
    /// Readings that were late.
    pub(crate) max_late: Option<u64>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            devices: 200,
            rate: 1_000.0,
            interval_seconds: None,
            qos: 1,
            profile: Profile::Default,
            ramp_seconds: 0.0,
            duration_seconds: 10.0,
            messages: None,
            seed: 1,
            connections: 4,
            prefix: "load-".to_owned(),
            base_topic: "iotflow".to_owned(),
            thresholds: Thresholds::default(),
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_lost: None,
            max_doubled: 0,
            max_unexpected: 0,
            max_without_subscriber: 0,
            max_p99_ms: None,
            late_ms: 1_000.0,
            max_late: None,
        }
    }
}

impl Scenario {
    /// Reads a scenario file.
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no scenario", path.display()))
    }

    /// Messages a second of the whole fleet.
    pub(crate) fn fleet_rate(&self) -> f64 {
        self.interval_seconds
            .map_or(self.rate, |interval| f64::from(self.devices) / interval)
    }

    /// How long it plays.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_seconds)
    }

    /// Whether it can be played.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.devices == 0 || self.connections == 0 {
            bail!("devices and connections must be 1 or more");
        }
        if self.qos > 2 {
            bail!("qos is {}; 0, 1 or 2 is expected", self.qos);
        }
        let rate = self.fleet_rate();
        let playable = rate.is_finite()
            && rate >= 0.0
            && self.duration_seconds > 0.0
            && self.duration_seconds < 1e7
            && (0.0..=self.duration_seconds).contains(&self.ramp_seconds);
        if !playable {
            bail!("rate, duration_seconds and ramp_seconds must be positive numbers, and the ramp no longer than the duration");
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-');
        if self.prefix.len() > 50 || !self.prefix.chars().all(allowed) {
            bail!(
                "the prefix {:?} cannot begin a device id: at most 50 of A-Z a-z 0-9 _ . : -",
                self.prefix
            );
        }
        Ok(())
    }

    /// The id of device number `index`.
    pub(crate) fn device_id(&self, index: u32) -> String {
        format!("{}{:05}", self.prefix, index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_file_can_be_played() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let files: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder is there")
            .map(|entry| entry.expect("it can be listed").path())
            .collect();
        assert!(!files.is_empty());
        for file in files {
            Scenario::load(&file)
                .and_then(|scenario| scenario.check())
                .unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
        }
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(toml::from_str::<Scenario>("device = 3").is_err());
    }
}
