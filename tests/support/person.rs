//! One client of the broker, as the test plays it: it logs in, tries things, and tells what the broker made of them.

use iotflow::mqtt::config::Config;
use iotflow::mqtt::connection::{Connection, ConnectionError};
use iotflow::observe::secret::Secret;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason};
use tokio::time::{Duration, timeout};

use super::PATIENCE;

/// See the module's documentation.
pub struct Person {
    connection: Connection,
    /// What was delivered to it: topic and payload.
    pub received: Vec<(String, String)>,
}

/// How somebody logs in: at a port of loopback, with a name and a password, or with none.
pub fn login(port: u16, login: Option<(&str, &str)>) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port,
        username: login.map(|(name, _)| name.to_owned()),
        password: login.map(|(_, password)| Secret::new(password)),
        clean_start: true,
        session_expiry: Duration::ZERO,
        ..Config::default()
    }
}

impl Person {
    /// Logs in.
    pub async fn connect(config: &Config, client_id: &str) -> Result<Self, ConnectionError> {
        let (connection, _) = Connection::open(config, client_id).await?;
        Ok(Self {
            connection,
            received: Vec::new(),
        })
    }

    /// Subscribes, and waits for the answer. Mosquitto 2.0 says yes to what it will not deliver, so the answer tells nothing.
    pub async fn subscribe(&mut self, filters: &[&str]) {
        let filters = filters.iter().map(|filter| Filter::new(*filter, QoS::AtLeastOnce)).collect();
        let asked = self.connection.subscribe(filters).expect("a small packet");
        self.until(|packet| matches!(packet, Packet::SubAck(ack) if ack.pkid == asked))
            .await
            .expect("it is connected");
    }

    /// Publishes at QoS 1, and gives the broker's answer.
    pub async fn publish(&mut self, topic: &str, payload: &str) -> Result<PubAckReason, ConnectionError> {
        let asked = self
            .connection
            .publish(topic, QoS::AtLeastOnce, payload.to_owned())
            .expect("a topic, and a small packet");
        match self
            .until(|packet| matches!(packet, Packet::PubAck(ack) if ack.pkid == asked))
            .await?
        {
            Packet::PubAck(ack) => Ok(ack.reason),
            other => panic!("{other:?} is no PUBACK"),
        }
    }

    /// Takes what is delivered until `payload` is, which must come.
    pub async fn receive_until(&mut self, payload: &str) {
        while !self.received.iter().any(|(_, known)| known == payload) {
            self.receive().await;
        }
    }

    /// Waits for the next delivery, which must come.
    pub async fn receive(&mut self) {
        self.until(|packet| matches!(packet, Packet::Publish(_)))
            .await
            .expect("it is connected");
    }

    /// Takes the next payload that is delivered on `topic`, which must come.
    pub async fn take(&mut self, topic: &str) -> String {
        loop {
            if let Some(at) = self.received.iter().position(|(known, _)| known == topic) {
                return self.received.remove(at).1;
            }
            self.receive().await;
        }
    }

    /// Whether the broker still talks to it.
    pub async fn is_connected(&mut self) -> bool {
        let Ok(asked) = self.connection.subscribe(vec![Filter::new("is/it/there", QoS::AtMostOnce)]) else {
            return false;
        };
        self.until(|packet| matches!(packet, Packet::SubAck(ack) if ack.pkid == asked))
            .await
            .is_ok()
    }

    /// Waits until the broker ends the connection.
    pub async fn until_disconnected(&mut self) {
        while self.until(|_| true).await.is_ok() {}
    }

    /// Goes, and will be back: the broker keeps its session.
    pub async fn go_offline(self) {
        self.connection.disconnect(false).await.expect("it is connected");
    }

    /// Takes leave.
    pub async fn leave(self) {
        drop(self.connection.disconnect(true).await);
    }

    async fn until(&mut self, mut wanted: impl FnMut(&Packet) -> bool) -> Result<Packet, ConnectionError> {
        let found = async {
            loop {
                while let Some(packet) = self.connection.next_packet()? {
                    if let Packet::Publish(publish) = &packet {
                        if publish.qos == QoS::AtLeastOnce {
                            self.connection.ack(publish.pkid);
                        }
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        self.received.push((text(&publish.topic), text(&publish.payload)));
                    }
                    if wanted(&packet) {
                        return Ok(packet);
                    }
                }
                self.connection.turn(true).await?;
            }
        };
        timeout(PATIENCE, found).await.expect("the broker answers, or ends the connection")
    }
}
