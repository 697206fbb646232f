//! A device of the tests: publishes single messages and waits for their acks.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

use super::servers::{FLEET, PASSWORD};

/// See the module's documentation.
pub struct Publisher {
    client: AsyncClient,
    events: EventLoop,
}

impl Publisher {
    pub fn new(mqtt_port: u16) -> Self {
        let mut options = MqttOptions::new(format!("publisher-{:08x}", fastrand::u32(..)), "127.0.0.1", mqtt_port);
        options
            .set_credentials(FLEET, PASSWORD)
            .set_keep_alive(Duration::from_secs(60))
            .set_max_packet_size(Some(64 * 1024 * 1024));
        let (client, events) = AsyncClient::new(options, 100);
        Self { client, events }
    }

    /// Publishes at QoS 1 and returns how the broker answered.
    pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>) -> PubAckReason {
        self.send(topic, payload, QoS::AtLeastOnce, false).await
    }

    pub async fn send(&mut self, topic: &str, payload: impl Into<Vec<u8>>, qos: QoS, retain: bool) -> PubAckReason {
        self.client
            .publish(topic, qos, retain, payload.into())
            .await
            .expect("there is room for one request");
        loop {
            match self.events.poll().await.expect("the broker is there") {
                Event::Incoming(Packet::PubAck(ack)) => return ack.reason,
                Event::Incoming(Packet::PubComp(_)) => return PubAckReason::Success,
                Event::Outgoing(rumqttc::Outgoing::Publish(_)) if qos == QoS::AtMostOnce => return PubAckReason::Success,
                _ => {}
            }
        }
    }

    /// Publishes `count` messages at QoS 1, many under way at a time, and waits until the broker has acked them all.
    pub async fn flood(&mut self, topic: &str, count: u32, payload: impl Fn(u32) -> String) {
        let (mut sent, mut acked) = (0, 0);
        while acked < count {
            while sent < count
                && self
                    .client
                    .try_publish(topic, QoS::AtLeastOnce, false, payload(sent).into_bytes())
                    .is_ok()
            {
                sent += 1;
            }
            if let Event::Incoming(Packet::PubAck(ack)) = self.events.poll().await.expect("the broker is there") {
                assert_eq!(ack.reason, PubAckReason::Success);
                acked += 1;
            }
        }
    }
}
