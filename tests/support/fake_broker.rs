//! A broker that does as the test says: it speaks MQTT 5 by rumqttc's codec, and every packet is the test's own doing.

use std::sync::Arc;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, Packet, Publish, SubAck, SubscribeReasonCode};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Where the service finds it.
pub struct FakeBroker {
    listener: TcpListener,
    pub port: u16,
}

/// A client's connection.
pub struct Peer {
    reader: OwnedReadHalf,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    buffer: BytesMut,
    /// Ends with the connection.
    floods: JoinSet<()>,
    pub client_id: String,
}

impl FakeBroker {
    pub async fn listen() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        Self { listener, port }
    }

    /// Takes the next connection and answers its CONNECT.
    pub async fn accept(&self, session_present: bool, properties: Option<ConnAckProperties>) -> Peer {
        let (stream, _) = self.listener.accept().await.expect("it listens");
        let (reader, writer) = stream.into_split();
        let mut peer = Peer {
            reader,
            writer: Arc::new(Mutex::new(writer)),
            buffer: BytesMut::new(),
            floods: JoinSet::new(),
            client_id: String::new(),
        };
        match peer.next().await {
            Some(Packet::Connect(connect, _, _)) => peer.client_id = connect.client_id,
            other => panic!("{other:?} in place of a CONNECT"),
        }
        peer.send(Packet::ConnAck(ConnAck {
            session_present,
            code: ConnectReturnCode::Success,
            properties,
        }))
        .await;
        peer
    }

    /// The same, and its SUBSCRIBE. Connections of other clients are answered and left alone.
    pub async fn accept_subscriber(&self, client_id: &str, session_present: bool, others: &mut Vec<Peer>) -> Peer {
        loop {
            let mut peer = self.accept(session_present, None).await;
            // Who only publishes subscribes to nothing.
            if !peer.client_id.contains("-api-") {
                peer.answer_subscribe().await;
            }
            if peer.client_id == client_id {
                return peer;
            }
            others.push(peer);
        }
    }
}

impl Peer {
    /// The next packet; `None` when the client has gone. Pings are answered on the way.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, Some(u32::MAX)) {
                Ok(Packet::PingReq(_)) => self.write(&[0xD0, 0]).await,
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => match self.reader.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                Err(error) => panic!("the client sent what is no MQTT: {error}"),
            }
        }
    }

    pub async fn answer_subscribe(&mut self) {
        match self.next().await {
            Some(Packet::Subscribe(subscribe)) => {
                let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                self.send(Packet::SubAck(SubAck {
                    pkid: subscribe.pkid,
                    return_codes,
                    properties: None,
                }))
                .await;
            }
            other => panic!("{other:?} in place of a SUBSCRIBE"),
        }
    }

    pub async fn deliver(&mut self, packet_id: u16, topic: &str, payload: &str) {
        self.deliver_together(topic, &[(packet_id, payload.to_owned())]).await;
    }

    /// Several deliveries in one write.
    pub async fn deliver_together(&mut self, topic: &str, deliveries: &[(u16, String)]) {
        self.deliver_all(topic, deliveries, false).await;
    }

    /// The same, marked as delivered before.
    pub async fn deliver_again(&mut self, topic: &str, deliveries: &[(u16, String)]) {
        self.deliver_all(topic, deliveries, true).await;
    }

    async fn deliver_all(&mut self, topic: &str, deliveries: &[(u16, String)], dup: bool) {
        let mut out = BytesMut::new();
        for (packet_id, payload) in deliveries {
            let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload.clone().into_bytes(), None);
            publish.pkid = *packet_id;
            publish.dup = dup;
            Packet::Publish(publish).write(&mut out, None).expect("a sound packet");
        }
        self.write(&out).await;
    }

    /// Delivers the same at QoS 0 without end, as fast as the client reads; what else is sent goes in between.
    pub fn flood(&mut self, topic: &str, payload: &str) {
        let mut out = BytesMut::new();
        for _ in 0..100 {
            let publish = Publish::new(topic, QoS::AtMostOnce, payload.as_bytes().to_vec(), None);
            Packet::Publish(publish).write(&mut out, None).expect("a sound packet");
        }
        let writer = Arc::clone(&self.writer);
        self.floods
            .spawn(async move { while writer.lock().await.write_all(&out).await.is_ok() {} });
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut out = BytesMut::new();
        packet.write(&mut out, None).expect("a sound packet");
        self.write(&out).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        // A client that has gone shows at the next read.
        drop(self.writer.lock().await.write_all(bytes).await);
    }
}

/// What a CONNACK says that leaves everything out.
pub fn connack_properties() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
