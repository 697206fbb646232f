//! What a broker announces, or shows by what it does, that caps the rate or may lose data.

use rumqttc::v5::mqttbytes::v5::ConnAckProperties;

use crate::mqtt::config::Config as MqttConfig;

/// How many deliveries were under way at each of the last acks. The same number every time, and not a small one, is a
/// limit of the broker's and no coincidence.
#[derive(Debug, Default)]
pub(super) struct Peaks {
    last: usize,
    repeats: usize,
}

impl Peaks {
    const TELLING: usize = 8;
    const TIMES: usize = 32;

    /// Notes how many were under way before an ack. Returns whether that says it all, once.
    pub(super) fn note(&mut self, unacked: usize) -> bool {
        self.repeats = if unacked == self.last { self.repeats + 1 } else { 0 };
        self.last = unacked;
        unacked >= Self::TELLING && self.repeats == Self::TIMES
    }
}

/// What the broker announced that caps the rate or may lose data.
#[must_use]
pub fn announced(properties: &ConnAckProperties, mqtt: &MqttConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(seconds) = properties
        .session_expiry_interval
        .filter(|seconds| u64::from(*seconds) < mqtt.session_expiry.as_secs())
    {
        warnings.push(format!(
            "the broker keeps a session for {seconds} s only, not for {} s: what is published while we are away longer is lost",
            mqtt.session_expiry.as_secs()
        ));
    }
    if properties.max_qos == Some(0) {
        warnings.push("the broker takes no QoS above 0 (Maximum QoS)".to_owned());
    }
    warnings
}

/// Whether this broker, by its own word (`mosquitto version 2.0.11`), does not keep shared subscriptions through a restart.
#[must_use]
pub fn forgets_shared_subscriptions(version: &str) -> bool {
    let Some(number) = version.trim().strip_prefix("mosquitto version ") else {
        return false;
    };
    let parts: Vec<u32> = number.split('.').map_while(|part| part.parse().ok()).collect();
    parts.len() > 1 && parts.as_slice() < [2, 0, 19].as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mosquitto_keeps_shared_subscriptions_from_2_0_19_on() {
        for (version, forgets) in [
            ("mosquitto version 2.0.11", true),
            ("mosquitto version 1.6.9", true),
            ("mosquitto version 2.0.19", false),
            ("mosquitto version 2.1.2", false),
            ("another broker 1.0", false),
        ] {
            assert_eq!(forgets_shared_subscriptions(version), forgets, "{version}");
        }
    }

    #[test]
    fn the_same_peak_again_and_again_is_a_limit_and_chance_is_not() {
        let mut peaks = Peaks::default();
        let found = (0..200).filter(|_| peaks.note(20)).count();
        assert_eq!(found, 1, "said once");
        let mut peaks = Peaks::default();
        assert!(!(0..1_000).any(|round| peaks.note(20 + round % 7)), "it varies");
        let mut peaks = Peaks::default();
        assert!(!(0..1_000).any(|_| peaks.note(1)), "one at a time is a quiet day");
    }
}
