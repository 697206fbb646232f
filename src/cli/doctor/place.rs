//! A listener of the broker, and how to come in by it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAckReason};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::conf::{Kind, Listener};
use crate::mqtt::config::{Config as MqttConfig, TlsConfig};
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::mqtt::inspect::{self, Shown};
use crate::mqtt::tls::TlsError;
use crate::observe::secret::Secret;

use super::patient::Patient;
use super::web_sockets;

/// A listener that is there answers at once; one that is cut off is not waited for as long as the service would.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What is spoken below MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing else.
    Clear,
    /// TLS, judged by these authorities.
    Tls(TlsConfig),
    /// WebSockets, in the clear.
    WebSockets,
    /// WebSockets over TLS, judged by these authorities.
    SecureWebSockets(TlsConfig),
}

/// A listener.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What people call it.
    pub(super) name: String,
    /// What kind it is, where that is known.
    pub(super) kind: Option<Kind>,
    /// The address that it was told to listen on, where that is known.
    pub(super) address: Option<String>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) way: Way,
}

/// How an attempt to come in ended.
pub(super) enum Entry {
    /// Let in.
    In(Box<Connection>),
    /// Not let in, and what the broker said.
    Refused(String),
    /// Nobody is there.
    Absent(String),
}

impl Place {
    /// Every listener that is known: those of the installation on this machine, else the one that the service uses.
    pub(super) fn all(patient: &Patient) -> Vec<Self> {
        match &patient.installation {
            Some((installation, settings)) => {
                let ca = installation.broker().certs().join("ca.pem");
                let is_there =
                    |listener: &&Listener| !listener.kind.uses_tls() || installation.broker().certs().join("server.pem").exists();
                settings
                    .listeners
                    .iter()
                    .filter(is_there)
                    .map(|listener| Self::of(listener, &ca))
                    .collect()
            }
            None => vec![Self::of_service(&patient.config.mqtt)],
        }
    }

    /// The listener that the service uses.
    pub(super) fn of_service(mqtt: &MqttConfig) -> Self {
        Self {
            name: format!("{}:{}", mqtt.host, mqtt.port),
            kind: None,
            address: None,
            host: mqtt.host.clone(),
            port: mqtt.port,
            way: mqtt.tls.clone().map_or(Way::Clear, Way::Tls),
        }
    }

    /// The same place, come to with this certificate or with none.
    pub(super) fn with_certificate(&self, client: Option<(PathBuf, PathBuf)>) -> Self {
        let way = match &self.way {
            Way::Tls(files) => Way::Tls(TlsConfig {
                ca_cert: files.ca_cert.clone(),
                client,
            }),
            other => other.clone(),
        };
        Self { way, ..self.clone() }
    }

    fn of(listener: &Listener, ca: &Path) -> Self {
        let kind = match listener.kind {
            Kind::Staff => "staff",
            Kind::Plain => "plain",
            Kind::Tls => "tls",
            Kind::MutualTls => "mutual-tls",
            Kind::WebSockets => "web-sockets",
            Kind::SecureWebSockets => "secure-web-sockets",
        };
        let everywhere = listener.address.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_unspecified());
        let way = match listener.kind {
            Kind::Tls | Kind::MutualTls => Way::Tls(TlsConfig {
                ca_cert: ca.to_owned(),
                client: None,
            }),
            Kind::WebSockets => Way::WebSockets,
            Kind::SecureWebSockets => Way::SecureWebSockets(TlsConfig {
                ca_cert: ca.to_owned(),
                client: None,
            }),
            Kind::Staff | Kind::Plain => Way::Clear,
        };
        Self {
            name: format!("{kind} {}", listener.port),
            kind: Some(listener.kind),
            address: Some(listener.address.clone()),
            host: if everywhere {
                "localhost".to_owned()
            } else {
                listener.address.clone()
            },
            port: listener.port,
            way,
        }
    }

    /// Connects, and shakes hands where TLS is spoken, whatever is shown.
    pub(super) async fn shown(&self) -> Result<Shown, String> {
        let Way::Tls(files) = &self.way else {
            return Err("it speaks no TLS".to_owned());
        };
        let tcp = self.reach(&self.host).await?;
        match timeout(ANSWER_WITHIN, inspect::handshake(files, &self.host, tcp)).await {
            Ok(Ok((_, shown))) => Ok(shown),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no handshake within {ANSWER_WITHIN:?}")),
        }
    }

    /// Tries to come in, with a login or with none. A certificate that does not verify keeps nobody out here: somebody who
    /// wants to come in does not look at it either.
    pub(super) async fn enter(&self, login: Option<(&str, &Secret)>, client_id: &str) -> Entry {
        let tcp = match self.reach(&self.host).await {
            Ok(tcp) => tcp,
            Err(why) => return Entry::Absent(why),
        };
        let mqtt = MqttConfig {
            username: login.map(|(name, _)| name.to_owned()),
            password: login.map(|(_, password)| password.clone()),
            session_expiry: Duration::ZERO,
            clean_start: true,
            connect_timeout: ANSWER_WITHIN,
            ..MqttConfig::default()
        };
        let opened = match &self.way {
            Way::Clear => Connection::open_over(tcp, &mqtt, client_id).await,
            Way::WebSockets => match timeout(ANSWER_WITHIN, web_sockets::upgrade(tcp, &self.host)).await {
                Ok(Ok(stream)) => Connection::open_over(stream, &mqtt, client_id).await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => return Entry::Absent(format!("no WebSocket within {ANSWER_WITHIN:?}")),
            },
            Way::SecureWebSockets(files) => {
                let upgraded = async {
                    let (stream, _) = inspect::handshake(files, &self.host, tcp).await.map_err(std::io::Error::other)?;
                    web_sockets::upgrade(stream, &self.host).await
                };
                match timeout(ANSWER_WITHIN, upgraded).await {
                    Ok(Ok(stream)) => Connection::open_over(stream, &mqtt, client_id).await,
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => return Entry::Absent(format!("no WebSocket within {ANSWER_WITHIN:?}")),
                }
            }
            Way::Tls(files) => match timeout(ANSWER_WITHIN, inspect::handshake(files, &self.host, tcp)).await {
                Ok(Ok((stream, _))) => Connection::open_over(stream, &mqtt, client_id).await,
                Ok(Err(error @ TlsError::Handshake(_))) => Err(error.into()),
                Ok(Err(error)) => return Entry::Absent(error.to_string()),
                Err(_) => return Entry::Absent(format!("no handshake within {ANSWER_WITHIN:?}")),
            },
        };
        match opened {
            Ok((connection, _)) => Entry::In(Box::new(connection)),
            Err(ConnectionError::Refused(reason)) => Entry::Refused(format!("{reason:?}")),
            Err(error @ ConnectionError::ConnectTimeout(_)) => Entry::Absent(error.to_string()),
            // A certificate that was asked for and not shown: the broker ends the connection, by an alert or without.
            Err(error) => Entry::Refused(error.to_string()),
        }
    }

    /// A connection to this port of `host`.
    pub(super) async fn reach(&self, host: &str) -> Result<TcpStream, String> {
        match timeout(ANSWER_WITHIN, TcpStream::connect((host, self.port))).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
        }
    }
}

/// Publishes nothing, at QoS 1, and gives the broker's answer. `heard` is told of every topic on which something comes meanwhile.
pub(super) async fn publish(connection: &mut Connection, topic: &str, heard: &mut Vec<String>) -> Result<PubAckReason, String> {
    let asked = connection
        .publish(topic, QoS::AtLeastOnce, bytes::Bytes::new())
        .map_err(|error| error.to_string())?;
    answer(connection, |packet| match packet {
        Packet::PubAck(ack) if ack.pkid == asked => Some(ack.reason),
        Packet::Publish(publish) => {
            heard.push(String::from_utf8_lossy(&publish.topic).into_owned());
            None
        }
        _ => None,
    })
    .await
}

/// Whether the broker still answers on this connection.
pub(super) async fn is_alive(connection: &mut Connection) -> Result<(), String> {
    let filter = Filter::new("$SYS/broker/version", QoS::AtMostOnce);
    let asked = connection.subscribe(vec![filter]).map_err(|error| error.to_string())?;
    answer(connection, |packet| {
        matches!(packet, Packet::SubAck(ack) if ack.pkid == asked).then_some(())
    })
    .await
}

/// What `wanted` makes of the first packet that it wants.
async fn answer<T>(connection: &mut Connection, mut wanted: impl FnMut(Packet) -> Option<T>) -> Result<T, String> {
    let answer = async {
        loop {
            while let Some(packet) = connection.next_packet()? {
                if let Some(answer) = wanted(packet) {
                    return Ok::<_, ConnectionError>(answer);
                }
            }
            connection.turn(true).await?;
        }
    };
    match timeout(ANSWER_WITHIN, answer).await {
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}
