//! A device that is online: a connection of its own, its commands at QoS 2, and an answer to each.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, Filter, Login, Packet, PubComp, PubCompReason, PubRec, PubRecReason, Publish, Subscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A command that arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) command_id: String,
    pub(crate) at: Instant,
}

pub(crate) struct Device {
    name: String,
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    packet_id: u16,
}

impl Device {
    /// Logs in where devices do, and subscribes to its commands.
    pub(crate) async fn connect(port: u16, name: String, password: &str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the broker listens");
        let mut device = Self {
            name,
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            packet_id: 1,
        };
        let connect = Connect {
            keep_alive: 600,
            client_id: device.name.clone(),
            clean_start: true,
            properties: Some(ConnectProperties::new()),
        };
        device
            .write(&Packet::Connect(connect, None, Some(Login::new(device.name.clone(), password))))
            .await;
        assert!(matches!(device.next().await, Packet::ConnAck(_)));
        let filter = Filter::new(format!("iotflow/devices/{}/commands/+", device.name), QoS::ExactlyOnce);
        let subscribe = Subscribe {
            pkid: 1,
            filters: vec![filter],
            properties: None,
        };
        device.write(&Packet::Subscribe(subscribe)).await;
        while !matches!(device.next().await, Packet::SubAck(_)) {}
        device
    }

    /// Takes commands, tells of each, and answers that it is completed.
    pub(crate) async fn run(mut self, arrived: mpsc::Sender<Arrived>) {
        loop {
            match self.next().await {
                Packet::Publish(publish) => {
                    let at = Instant::now();
                    let command: Value = serde_json::from_slice(&publish.payload).expect("JSON");
                    let command_id = command["command_id"].as_str().expect("each has one").to_owned();
                    let received = PubRec {
                        pkid: publish.pkid,
                        reason: PubRecReason::Success,
                        properties: None,
                    };
                    self.put(&Packet::PubRec(received));
                    self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
                    let topic = format!("iotflow/devices/{}/commands/response", self.name);
                    let answer = json!({"command_id": command_id, "status": "completed"}).to_string();
                    let mut answer = Publish::new(topic, QoS::AtLeastOnce, answer, None);
                    answer.pkid = self.packet_id;
                    self.put(&Packet::Publish(answer));
                    self.flush().await;
                    if arrived.send(Arrived { command_id, at }).await.is_err() {
                        return;
                    }
                }
                Packet::PubRel(release) => {
                    let complete = PubComp {
                        pkid: release.pkid,
                        reason: PubCompReason::Success,
                        properties: None,
                    };
                    self.write(&Packet::PubComp(complete)).await;
                }
                _ => {}
            }
        }
    }

    /// The next packet; waits for ever once the broker has gone: what is missing then is missing in the counts.
    async fn next(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.incoming, Some(1024 * 1024)) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {
                    if !matches!(self.stream.read_buf(&mut self.incoming).await, Ok(1..)) {
                        std::future::pending::<()>().await;
                    }
                }
                Err(error) => panic!("no MQTT: {error}"),
            }
        }
    }

    fn put(&mut self, packet: &Packet) {
        packet.write(&mut self.outgoing, None).expect("a small packet");
    }

    async fn flush(&mut self) {
        // A broker that has gone shows at the next read.
        drop(self.stream.write_all_buf(&mut self.outgoing).await);
    }

    async fn write(&mut self, packet: &Packet) {
        self.put(packet);
        self.flush().await;
    }
}
