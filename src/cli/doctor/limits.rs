//! What caps the rate, or loses what waits: as the broker announces it, and as its settings have it.

use std::fs;

use rumqttc::v5::mqttbytes::v5::ConnAckProperties;

use crate::ingest::limits;

use super::finding::{Findings, Level};
use super::patient::Patient;
use super::print::bytes;

/// A window below this is what bounds the rate at QoS 1, and not the network or the database.
const NARROW_WINDOW: u16 = 1000;
/// Mosquitto's own, where its settings do not say otherwise.
const DEFAULT_INFLIGHT: u64 = 20;
const DEFAULT_QUEUED: u64 = 1000;
/// A fleet that sends a hundred a second fills this in a quarter of an hour.
const SHORT_QUEUE: u64 = 100_000;

const WINDOW_ADVICE: &str = "max_inflight_messages 0 in mosquitto.conf, as in mosquitto/mosquitto.conf, and a restart of the broker";

/// What stood in the CONNACK.
pub(super) fn announced(findings: &mut Findings, patient: &Patient, properties: &ConnAckProperties) {
    let (mqtt, ingest) = (&patient.config.mqtt, &patient.config.ingest);
    // What the broker takes from a publisher, Mosquitto gives to a subscriber: one setting for both.
    match properties.receive_max {
        None => findings.ok("window", "no limit announced on what may be under way unacked"),
        Some(most) => findings.judge(
            "window",
            most >= NARROW_WINDOW,
            Level::Warning,
            format!("{most} messages under way unacked at most (Receive Maximum), which caps the rate at QoS 1"),
            WINDOW_ADVICE,
        ),
    }
    .figure("messages", properties.receive_max.unwrap_or(u16::MAX));

    let largest = properties.max_packet_size.map_or(u64::MAX, u64::from);
    let wanted = ingest.max_payload_bytes as u64;
    let found = match properties.max_packet_size {
        None => "no largest packet announced".to_owned(),
        Some(_) => format!(
            "packets of {} at most; the service takes payloads of {}",
            bytes(largest),
            bytes(wanted)
        ),
    };
    findings.judge(
        "packet size",
        largest >= wanted,
        Level::Warning,
        found,
        "raise max_packet_size of the broker, or lower INGEST_MAX_PAYLOAD_BYTES to what is true",
    );
    for warning in limits::announced(properties, mqtt) {
        findings.warning(
            "session",
            warning,
            "persistent_client_expiration of the broker must not be shorter than MQTT_SESSION_EXPIRY",
        );
    }
    if properties.wildcard_subscription_available == Some(0) {
        findings.fault("wildcards", "the broker offers no wildcard subscriptions", "use a broker that does");
    }
    if ingest.shared && properties.shared_subscription_available == Some(0) {
        findings.fault("sharing", "the broker offers no shared subscriptions", "MQTT_SHARED=false");
    }
}

/// What our own settings make of it, whatever the broker says.
pub(super) fn ours(findings: &mut Findings, patient: &Patient) {
    let (mqtt, ingest) = (&patient.config.mqtt, &patient.config.ingest);
    let wanted = ingest.max_payload_bytes as u64;
    findings.judge(
        "our packet size",
        u64::from(mqtt.max_packet_bytes) > wanted,
        Level::Fault,
        format!(
            "we take packets of {}, payloads of {}",
            bytes(mqtt.max_packet_bytes.into()),
            bytes(wanted)
        ),
        "raise MQTT_MAX_PACKET_BYTES above INGEST_MAX_PAYLOAD_BYTES: what is larger the broker drops for us, acked to the device and lost",
    );
    match (ingest.shared, &ingest.share_name) {
        (false, _) => findings.ok("sharing", "one plain subscription, which nobody else can join"),
        (true, Some(_)) => findings.ok("sharing", "the share has a name of its own"),
        (true, None) => findings.warning(
            "sharing",
            "INGEST_SHARE_NAME is not set: whoever has a credential can guess the share's name, join it, and take messages away",
            "INGEST_SHARE_NAME_FILE with a random name, such as `openssl rand -hex 16` gives; the service moves over by itself",
        ),
    };
}

/// What stands in the broker's file, where that is on this machine.
pub(super) fn configured(findings: &mut Findings, patient: &Patient) {
    let Some((installation, _)) = &patient.installation else { return };
    let path = installation.broker().conf();
    let conf = match fs::read_to_string(&path) {
        Ok(conf) => conf,
        Err(error) => {
            findings.skipped("mosquitto.conf", format!("{}: {error}", path.display()));
            return;
        }
    };
    let inflight = setting(&conf, "max_inflight_messages").unwrap_or(DEFAULT_INFLIGHT);
    let queued = setting(&conf, "max_queued_messages").unwrap_or(DEFAULT_QUEUED);
    let size = setting(&conf, "message_size_limit").unwrap_or(0);
    let words = |limit: u64| if limit == 0 { "no limit".to_owned() } else { limit.to_string() };
    findings.judge(
        "max_inflight",
        inflight == 0 || inflight >= u64::from(NARROW_WINDOW),
        Level::Warning,
        format!("max_inflight_messages: {}", words(inflight)),
        WINDOW_ADVICE,
    );
    findings.judge(
        "max_queued",
        queued == 0 || queued >= SHORT_QUEUE,
        Level::Warning,
        format!(
            "max_queued_messages: {}; more than that is dropped while the service is away",
            words(queued)
        ),
        "let bytes be the limit, as in mosquitto/mosquitto.conf: max_queued_messages 1000000000, max_queued_bytes 1073741824",
    );
    let (wanted, taken) = (
        patient.config.ingest.max_payload_bytes as u64,
        u64::from(patient.config.mqtt.max_packet_bytes),
    );
    let found = match size {
        0 => format!("message_size_limit: none; we take packets of {}", bytes(taken)),
        size => format!(
            "message_size_limit: {}; the service takes payloads of {}",
            bytes(size),
            bytes(wanted)
        ),
    };
    findings.judge(
        "message size",
        size >= wanted && size < taken,
        Level::Warning,
        found,
        "message_size_limit between INGEST_MAX_PAYLOAD_BYTES and MQTT_MAX_PACKET_BYTES: below, devices are refused; above, the broker acks what it then drops for us",
    );
}

/// The value of a setting that is a number; the last one counts.
fn setting(conf: &str, name: &str) -> Option<u64> {
    conf.lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_the_broker_reads_them() {
        let conf = "# max_queued_messages 1\nmax_queued_messages 2\n  max_queued_messages 3\nmax_queued_bytes 4\n";
        assert_eq!(setting(conf, "max_queued_messages"), Some(3));
        assert_eq!(setting(conf, "max_queued_bytes"), Some(4));
        assert_eq!(setting(conf, "max_inflight_messages"), None);
    }
}
