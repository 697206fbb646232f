//! What the devices send: four kinds of message, each with its sequence number among its readings.

use std::io::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The name of the metric that carries the sequence number.
pub(crate) const SEQUENCE: &str = "seq";

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// Temperature, humidity, pressure; flat, with RFC 3339 time and device id.
    Default,
    /// Acceleration on three axes, short, epoch microseconds.
    HighFrequency,
    /// Ten readings gathered into one publish.
    EnergyEfficient,
    /// Twelve metrics and a text under `data`, with `metadata`.
    Industrial,
    /// A hundred readings gathered into one publish.
    Backlog,
}

impl Profile {
    /// Readings in one message.
    pub(crate) fn readings(self) -> u32 {
        match self {
            Self::Default | Self::HighFrequency | Self::Industrial => 1,
            Self::EnergyEfficient => 10,
            Self::Backlog => 100,
        }
    }

    /// The last level of its topic.
    pub(crate) fn subtopic(self) -> &'static str {
        match self {
            Self::Industrial => "telemetry/metrics",
            _ => "telemetry/sensors",
        }
    }

    /// Appends the payload of a device's message. `first` is the sequence number of its first reading, `time` the newest
    /// reading's in microseconds since 1970; earlier ones of the same message are `step` microseconds apart.
    pub(crate) fn write(self, out: &mut Vec<u8>, device: &str, first: u64, time: i64, step: i64, random: &mut fastrand::Rng) {
        let mut value = |middle: f64, spread: f64| (middle + spread * (random.f64() - 0.5) * 100.0).round() / 100.0;
        let written = match self {
            Self::Default => {
                let at = Timestamp::from_microsecond(time).unwrap_or_default();
                write!(
                    out,
                    "{{\"temperature\":{},\"humidity\":{},\"pressure\":{},\"seq\":{first},\"timestamp\":\"{at}\",\"device_id\":\"{device}\"}}",
                    value(23.5, 0.1),
                    value(65.0, 0.2),
                    value(1013.0, 0.2)
                )
            }
            Self::HighFrequency => write!(
                out,
                "{{\"ts\":{time},\"values\":{{\"x\":{},\"y\":{},\"z\":{},\"seq\":{first}}}}}",
                value(0.0, 0.04),
                value(0.0, 0.04),
                value(9.81, 0.04)
            ),
            Self::EnergyEfficient | Self::Backlog => {
                let count = i64::from(self.readings());
                (0..count)
                    .try_for_each(|index| {
                        let (lead, at) = (if index == 0 { '[' } else { ',' }, time - (count - 1 - index) * step);
                        write!(
                            out,
                            "{lead}{{\"ts\":{at},\"temperature\":{},\"battery\":{},\"seq\":{}}}",
                            value(21.0, 0.1),
                            value(88.0, 0.01),
                            first + index.unsigned_abs()
                        )
                    })
                    .and_then(|()| write!(out, "]"))
            }
            Self::Industrial => write!(
                out,
                "{{\"data\":{{\"rpm\":{},\"torque\":{},\"power\":{},\"current_l1\":{},\"current_l2\":{},\"current_l3\":{},\"bearing_temperature\":{},\"oil_pressure\":{},\"vibration\":{},\"cycles\":{first},\"running\":true,\"seq\":{first},\"state\":\"producing\"}},\"metadata\":{{\"firmware\":\"2.4.1\",\"line\":7}},\"timestamp\":{}.{:06}}}",
                value(1480.0, 0.4),
                value(212.0, 0.3),
                value(32.0, 0.1),
                value(48.0, 0.1),
                value(48.0, 0.1),
                value(48.0, 0.1),
                value(71.0, 0.1),
                value(4.2, 0.01),
                value(0.8, 0.01),
                time / 1_000_000,
                time % 1_000_000
            ),
        };
        written.expect("a Vec takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_profile_is_json_with_its_sequence_numbers() {
        for profile in [
            Profile::Default,
            Profile::HighFrequency,
            Profile::EnergyEfficient,
            Profile::Industrial,
            Profile::Backlog,
        ] {
            let mut out = Vec::new();
            profile.write(
                &mut out,
                "load-00001",
                41,
                1_751_365_800_123_456,
                1_000,
                &mut fastrand::Rng::with_seed(1),
            );
            let value: Value = serde_json::from_slice(&out).expect("JSON");
            let readings = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            let sequence = |reading: &Value| {
                [reading, &reading["data"], &reading["values"]]
                    .into_iter()
                    .find_map(|holder| holder[SEQUENCE].as_u64())
            };
            let numbers: Vec<u64> = readings.iter().filter_map(sequence).collect();
            assert_eq!(numbers, (41..41 + u64::from(profile.readings())).collect::<Vec<_>>(), "{profile:?}");
        }
    }
}
