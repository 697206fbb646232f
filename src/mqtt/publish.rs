//! What we publish: checked here, because what a broker cannot take it answers by ending the connection.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};

use super::connection::Connection;

/// The largest packet there is (MQTT 5, 2.1.4), where the broker announces no limit of its own: 256 MiB and no more.
pub(super) const LARGEST_PACKET_BYTES: u32 = 268_435_460;

/// Why something cannot be published. Nothing was sent, and the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No name of a topic.
    #[error("{0:?} is no topic to publish on: 1 to 65535 bytes without + # and NUL are expected")]
    Topic(String),
    /// The broker would end the connection over it.
    #[error("a packet of {bytes} bytes; the broker takes {most} at most")]
    TooLarge {
        /// The packet's size.
        bytes: usize,
        /// What the broker announced.
        most: u32,
    },
    /// At QoS 2 a publish is a conversation, which is not spoken here.
    #[error("QoS 2 is not supported; 0 and 1 are")]
    ExactlyOnce,
}

impl Connection {
    /// Publishes at QoS 0 or 1, to go out with the next turn. At QoS 1 the PUBACK comes as a packet with the id returned, and
    /// its reason code says what became of it: taken, nobody subscribed, or refused (not authorized). At QoS 0 the id is 0,
    /// and no answer ever comes. How many may wait for their PUBACK at once is in the CONNACK (Receive Maximum), and the
    /// caller's to heed.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn publish(&mut self, topic: &str, qos: QoS, payload: impl Into<Bytes>) -> Result<u16, PublishError> {
        if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.contains(['+', '#', '\0']) {
            return Err(PublishError::Topic(topic.chars().take(100).collect()));
        }
        let mut publish = Publish::new(topic, qos, payload, None);
        publish.pkid = match qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => self.next_packet_id(),
            QoS::ExactlyOnce => return Err(PublishError::ExactlyOnce),
        };
        let (packet_id, bytes, most) = (publish.pkid, publish.size(), self.max_sent_bytes);
        // Before a byte is written: half a packet in the buffer would be the end of the connection.
        if bytes > most as usize || self.send(&Packet::Publish(publish)).is_err() {
            return Err(PublishError::TooLarge { bytes, most });
        }
        Ok(packet_id)
    }
}
