//! A device as the test plays it: a durable session, every delivery taken down, answers as it likes.

use std::time::Duration;

use iotflow::mqtt::config::Config;
use iotflow::mqtt::connection::Connection;
use iotflow::mqtt::publish::{Message, Properties};
use iotflow::observe::secret::Secret;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish};
use serde_json::Value;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::servers::{PASSWORD, SERVICE};

pub struct Device {
    id: String,
    connection: Connection,
    /// What came: topic, payload, and the rest of it.
    pub received: Vec<Publish>,
}

/// The payload of a publish.
pub fn json(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).expect("JSON")
}

impl Device {
    /// Comes (back) and subscribes to its commands at QoS 1, as what is seen once is told by its command's id.
    pub async fn connect(port: u16, id: &str) -> Self {
        Self::subscribed(port, id, &[format!("iotflow/devices/{id}/commands/+")]).await
    }

    pub async fn subscribed(port: u16, id: &str, filters: &[String]) -> Self {
        let config = Config {
            host: "127.0.0.1".to_owned(),
            port,
            username: Some(SERVICE.to_owned()),
            password: Some(Secret::new(PASSWORD)),
            session_expiry: Duration::from_secs(3_600),
            // The test looks at it only now and then.
            keep_alive: Duration::from_secs(3_600),
            ..Config::default()
        };
        let (mut connection, _) = Connection::open(&config, id).await.expect("it may");
        let filters = filters
            .iter()
            .map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce))
            .collect();
        let asked = connection.subscribe(filters).expect("a small packet");
        let mut device = Self {
            id: id.to_owned(),
            connection,
            received: Vec::new(),
        };
        device
            .until(|packet| matches!(packet, Packet::SubAck(ack) if ack.pkid == asked))
            .await;
        device
    }

    /// Takes deliveries until there are so many.
    pub async fn receive(&mut self, count: usize) {
        while self.received.len() < count {
            self.until(|packet| matches!(packet, Packet::Publish(_))).await;
        }
    }

    /// Takes whatever has been delivered within `span`.
    pub async fn listen(&mut self, span: Duration) {
        let all = async {
            loop {
                self.until(|_| true).await;
            }
        };
        drop(timeout(span, all).await);
    }

    /// The commands that came, in order.
    pub fn commands(&self) -> Vec<String> {
        let command = |publish: &Publish| json(publish)["command"].as_str().expect("a text").to_owned();
        // Its subscription brings it its own answers as well.
        let is_command = |publish: &&Publish| !publish.topic.ends_with(b"/response");
        self.received.iter().filter(is_command).map(command).collect()
    }

    pub async fn answer(&mut self, payload: &str) {
        let topic = format!("iotflow/devices/{}/commands/response", self.id);
        self.say(&topic, payload).await;
    }

    pub async fn say(&mut self, topic: &str, payload: &str) {
        let message = Message {
            topic: topic.to_owned(),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            ..Message::default()
        };
        self.publish(&message).await;
    }

    pub async fn answer_correlated(&mut self, payload: &str, correlation: &str) {
        let message = Message {
            topic: format!("iotflow/devices/{}/commands/response", self.id),
            payload: payload.to_owned().into(),
            qos: QoS::AtLeastOnce,
            properties: Properties {
                correlation: Some(correlation.to_owned().into()),
                ..Properties::default()
            },
            ..Message::default()
        };
        self.publish(&message).await;
    }

    async fn publish(&mut self, message: &Message) {
        let id = 60_000 + fastrand::u16(..5_000);
        self.connection.publish_as(message, id, false).expect("a sound message");
        self.until(|packet| matches!(packet, Packet::PubAck(ack) if ack.pkid == id)).await;
    }

    pub async fn status(&mut self, status: &str) {
        self.say(&format!("iotflow/devices/{}/status/{status}", self.id), "").await;
    }

    /// Goes, and will be back.
    pub async fn leave(self) {
        self.connection.disconnect(false).await.expect("it is connected");
    }

    async fn until(&mut self, mut wanted: impl FnMut(&Packet) -> bool) {
        let found = async {
            loop {
                while let Some(packet) = self.connection.next_packet().expect("it is connected") {
                    let found = wanted(&packet);
                    if let Packet::Publish(publish) = packet {
                        if publish.qos == QoS::AtLeastOnce {
                            self.connection.ack(publish.pkid);
                        }
                        self.received.push(publish);
                    }
                    if found {
                        return;
                    }
                }
                self.connection.turn(true).await.expect("it is connected");
            }
        };
        timeout(PATIENCE, found).await.expect("the broker sends it");
    }
}
