//! What the broker says of itself below `$SYS`, read once into a report.
//!
//! All of it is retained, so one subscription brings what the broker knows as of its last look at itself (`sys_interval`).
//! Brokers differ in what they say, and versions of Mosquitto too: whatever is not said, or not understood, is left out.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use crate::mqtt::config::Config;
use crate::mqtt::connection::{Connection, ConnectionError};

/// What is subscribed to.
pub const FILTER: &str = "$SYS/broker/#";
/// When nothing new came for this long, that was all: retained messages come in one go.
const QUIET: Duration = Duration::from_millis(300);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The connection did not come about, or ended.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The broker does not let us.
    #[error("the broker refused the subscription to {FILTER}: {0:?}; the service's user needs the right to read it")]
    Refused(SubscribeReasonCode),
    /// It took the subscription, and then nothing came. Mosquitto does so too where the access list forbids reading.
    #[error(
        "the broker said nothing below {FILTER} within {0:?}; the service's user may lack the right to read it, or the broker is not one that does"
    )]
    Silent(Duration),
}

/// The page of topics: each with its place in the report, and how its value is read.
macro_rules! report {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $topic:literal;)+) => {
        /// What a broker said of itself; `None` is what it did not say.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
        pub struct BrokerReport { $($(#[$doc])* pub $field: Option<$kind>,)+ }

        /// Every topic that is understood.
        pub const TOPICS: &[&str] = &[$($topic,)+];

        impl BrokerReport {
            /// Takes what was published on `topic`. Returns whether that is new to the report: not where the topic is unknown,
            /// the value is none of its kind, or the same was said before.
            pub fn take(&mut self, topic: &str, value: &str) -> bool {
                match topic {
                    $($topic => fill(&mut self.$field, value),)+
                    _ => false,
                }
            }
        }
    };
}

report! {
    /// Which broker, and which version of it: `mosquitto version 2.0.18`.
    version: String = "$SYS/broker/version";
    /// Seconds since it was started.
    uptime_seconds: u64 = "$SYS/broker/uptime";

    /// Clients that are connected now.
    clients_connected: u64 = "$SYS/broker/clients/connected";
    /// Clients that are not connected, and whose session is kept.
    clients_disconnected: u64 = "$SYS/broker/clients/disconnected";
    /// Both.
    clients_total: u64 = "$SYS/broker/clients/total";
    /// The most that were connected at once.
    clients_maximum: u64 = "$SYS/broker/clients/maximum";
    /// Sessions that were given up because nobody came back for them.
    clients_expired: u64 = "$SYS/broker/clients/expired";

    /// Packets of any kind that came in since the start.
    messages_received: u64 = "$SYS/broker/messages/received";
    /// Packets of any kind that went out.
    messages_sent: u64 = "$SYS/broker/messages/sent";
    /// PUBLISH packets that came in.
    publish_received: u64 = "$SYS/broker/publish/messages/received";
    /// PUBLISH packets that went out.
    publish_sent: u64 = "$SYS/broker/publish/messages/sent";
    /// Messages that were dropped because a queue or a window was full.
    publish_dropped: u64 = "$SYS/broker/publish/messages/dropped";
    /// PUBLISH packets a minute that come in, over the last minute.
    publish_received_1min: f64 = "$SYS/broker/load/publish/received/1min";
    /// PUBLISH packets a minute that go out, over the last minute.
    publish_sent_1min: f64 = "$SYS/broker/load/publish/sent/1min";
    /// Messages a minute that are dropped, over the last minute.
    publish_dropped_1min: f64 = "$SYS/broker/load/publish/dropped/1min";
    /// Connections a minute that are opened, over the last minute.
    connections_1min: f64 = "$SYS/broker/load/connections/1min";

    /// Bytes that came in since the start.
    bytes_received: u64 = "$SYS/broker/bytes/received";
    /// Bytes that went out.
    bytes_sent: u64 = "$SYS/broker/bytes/sent";
    /// Bytes of payloads that came in.
    publish_bytes_received: u64 = "$SYS/broker/publish/bytes/received";
    /// Bytes of payloads that went out.
    publish_bytes_sent: u64 = "$SYS/broker/publish/bytes/sent";

    /// Subscriptions in force.
    subscriptions: u64 = "$SYS/broker/subscriptions/count";
    /// Of these, members of share groups.
    shared_subscriptions: u64 = "$SYS/broker/shared_subscriptions/count";
    /// Retained messages, those below `$SYS` included.
    retained_messages: u64 = "$SYS/broker/retained messages/count";
    /// Messages that are kept, retained or for somebody who is away.
    stored_messages: u64 = "$SYS/broker/store/messages/count";
    /// Bytes of their payloads.
    stored_bytes: u64 = "$SYS/broker/store/messages/bytes";

    /// Bytes of memory in use, where the broker was built to know.
    heap_bytes: u64 = "$SYS/broker/heap/current";
    /// The most that were in use.
    heap_maximum_bytes: u64 = "$SYS/broker/heap/maximum";
}

impl BrokerReport {
    /// Asks the broker of `config`, for `within` at most once it is connected. The connection has a client id and a session of
    /// its own, and neither outlives it.
    ///
    /// # Errors
    /// [`ReportError`].
    pub async fn read(config: &Config, within: Duration) -> Result<Self, ReportError> {
        let config = Config {
            session_expiry: Duration::ZERO,
            ..config.clone()
        };
        let client_id = format!("iotflow-report-{:08x}", fastrand::u32(..));
        let (mut connection, _) = Connection::open(&config, &client_id).await?;
        let mut filter = Filter::new(FILTER, QoS::AtMostOnce);
        filter.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
        connection.subscribe(vec![filter])?;

        let (mut report, deadline) = (Self::default(), Instant::now() + within);
        let mut quiet_at = deadline;
        loop {
            while let Some(packet) = connection.next_packet()? {
                match packet {
                    Packet::SubAck(answer) => {
                        if let Some(reason) = answer.return_codes.iter().find(|reason| !is_granted(reason)) {
                            return Err(ReportError::Refused(*reason));
                        }
                    }
                    // What it says anew meanwhile would never end; what it said before does.
                    Packet::Publish(publish) if report.take_publish(&publish) && publish.retain => {
                        quiet_at = deadline.min(Instant::now() + QUIET);
                    }
                    _ => {}
                }
            }
            match timeout_at(quiet_at, connection.turn(true)).await {
                Ok(turned) => turned?,
                Err(_) => break,
            }
        }
        // The report is there; a broker that does not part in peace changes nothing about it.
        drop(connection.disconnect(true).await);
        if report == Self::default() {
            return Err(ReportError::Silent(within));
        }
        Ok(report)
    }

    fn take_publish(&mut self, publish: &Publish) -> bool {
        match (std::str::from_utf8(&publish.topic), std::str::from_utf8(&publish.payload)) {
            (Ok(topic), Ok(value)) => self.take(topic, value),
            _ => false,
        }
    }
}

fn is_granted(reason: &SubscribeReasonCode) -> bool {
    matches!(reason, SubscribeReasonCode::Success(_))
}

fn fill<T: Figure>(field: &mut Option<T>, value: &str) -> bool {
    let read = T::read(value.trim());
    let new = read.is_some() && *field != read;
    if new {
        *field = read;
    }
    new
}

/// A value as brokers write it.
trait Figure: Sized + PartialEq {
    fn read(text: &str) -> Option<Self>;
}

impl Figure for String {
    fn read(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Figure for f64 {
    /// A number, and perhaps its unit behind it.
    fn read(text: &str) -> Option<Self> {
        let number: Self = text.split_whitespace().next()?.parse().ok()?;
        number.is_finite().then_some(number)
    }
}

impl Figure for u64 {
    /// The same, without what some brokers write behind the point. Below zero is none: Mosquitto says -1 for "not counted yet".
    fn read(text: &str) -> Option<Self> {
        let number = text.split_whitespace().next()?;
        number.split('.').next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_brokers_write_them() {
        for (text, expected) in [
            ("1234 seconds", Some(1234)),
            (" 17\n", Some(17)),
            ("12.00", Some(12)),
            ("18446744073709551615", Some(u64::MAX)),
            ("-1", None),
            ("", None),
            ("a lot", None),
        ] {
            let mut report = BrokerReport::default();
            assert_eq!(report.take("$SYS/broker/uptime", text), expected.is_some(), "{text:?}");
            assert_eq!(report.uptime_seconds, expected, "{text:?}");
        }
        for (text, expected) in [("0.34", Some(0.34)), ("1e3", Some(1_000.0)), ("NaN", None), ("inf", None)] {
            let mut report = BrokerReport::default();
            report.take("$SYS/broker/load/publish/sent/1min", text);
            assert_eq!(report.publish_sent_1min, expected, "{text:?}");
        }
    }

    #[test]
    fn every_topic_has_a_place_of_its_own_and_others_have_none() {
        let mut report = BrokerReport::default();
        for topic in TOPICS {
            assert!(report.take(topic, "7"), "{topic}");
            assert!(!report.take(topic, "7"), "{topic}: said before");
        }
        let said = serde_json::to_value(&report).expect("it can be written");
        let fields = said.as_object().expect("an object");
        assert_eq!(fields.len(), TOPICS.len());
        assert!(fields.values().all(|value| !value.is_null()), "{said}");
        assert!(!report.take("$SYS/broker/load/sockets/1min", "7"));
        assert!(!report.take("$SYS/broker/uptime", "not a number"));
        assert_eq!(report.uptime_seconds, Some(7), "what was understood stays");
    }
}
