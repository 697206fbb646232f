//! The smallest MQTT 5 client that can play many devices: rumqttc's codec on a socket, all that is due in one write.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Connect, ConnectProperties, ConnectReturnCode, Login, Packet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Where the broker is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Broker {
    /// Broker's host name or address.
    #[arg(long = "mqtt-host", env = "MQTT_HOST", default_value = "localhost")]
    pub(crate) host: String,
    /// Broker's TCP port.
    #[arg(long = "mqtt-port", env = "MQTT_PORT", default_value_t = 1883)]
    pub(crate) port: u16,
    /// User to connect as.
    #[arg(long = "mqtt-username", env = "MQTT_USERNAME")]
    pub(crate) username: Option<String>,
    /// That user's password; better given as a variable, which no list of processes shows.
    #[arg(long = "mqtt-password", env = "MQTT_PASSWORD", hide_env_values = true)]
    pub(crate) password: Option<String>,
}

/// How long the broker keeps the session of a connection that broke.
const SESSION_SECONDS: u32 = 3600;
const KEEP_ALIVE_SECONDS: u16 = 60;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const MAX_PACKET_BYTES: u32 = 16 * 1024 * 1024;

/// A connection in force.
#[derive(Debug)]
pub(crate) struct Wire {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    incoming: BytesMut,
}

impl Wire {
    /// Connects as `client_id`, resuming its session.
    pub(crate) async fn open(broker: &Broker, client_id: &str) -> anyhow::Result<(Self, ConnAck)> {
        tokio::time::timeout(CONNECT_WITHIN, Self::connect(broker, client_id))
            .await
            .context("no CONNACK in time")?
    }

    async fn connect(broker: &Broker, client_id: &str) -> anyhow::Result<(Self, ConnAck)> {
        let stream = TcpStream::connect((broker.host.as_str(), broker.port))
            .await
            .with_context(|| format!("{}:{}", broker.host, broker.port))?;
        let (read, write) = stream.into_split();
        let mut wire = Self {
            read,
            write,
            incoming: BytesMut::with_capacity(64 * 1024),
        };
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(SESSION_SECONDS);
        properties.receive_maximum = Some(u16::MAX);
        properties.max_packet_size = Some(MAX_PACKET_BYTES);
        let connect = Connect {
            keep_alive: KEEP_ALIVE_SECONDS,
            client_id: client_id.to_owned(),
            clean_start: false,
            properties: Some(properties),
        };
        let login = broker
            .username
            .as_ref()
            .map(|username| Login::new(username.clone(), broker.password.clone().unwrap_or_default()));
        let mut out = BytesMut::new();
        Packet::Connect(connect, None, login)
            .write(&mut out, None)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        wire.send(&out).await?;
        loop {
            match wire.next()? {
                Some(Packet::ConnAck(connack)) if connack.code == ConnectReturnCode::Success => return Ok((wire, connack)),
                Some(Packet::ConnAck(connack)) => bail!("the broker refused the connection: {:?}", connack.code),
                Some(packet) => bail!("{packet:?} in place of a CONNACK"),
                None => wire.receive().await?,
            }
        }
    }

    /// Writes all of `bytes`.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write.write_all(bytes).await.context("the connection broke")
    }

    /// Waits for bytes. Safe to cancel.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<()> {
        self.incoming.reserve(16 * 1024);
        if self.read.read_buf(&mut self.incoming).await.context("the connection broke")? == 0 {
            bail!("the broker closed the connection");
        }
        Ok(())
    }

    /// The next packet of what was received.
    pub(crate) fn next(&mut self) -> anyhow::Result<Option<Packet>> {
        match Packet::read(&mut self.incoming, Some(MAX_PACKET_BYTES)) {
            Ok(Packet::Disconnect(disconnect)) => bail!("the broker closed the connection: {:?}", disconnect.reason_code),
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => bail!("the broker sent what is no MQTT 5: {error}"),
        }
    }

    /// The halves, for those who write and read at once.
    pub(crate) fn halves(&mut self) -> (Receiver<'_>, &mut OwnedWriteHalf) {
        (
            Receiver {
                read: &mut self.read,
                incoming: &mut self.incoming,
            },
            &mut self.write,
        )
    }
}

/// The reading half.
#[derive(Debug)]
pub(crate) struct Receiver<'a> {
    read: &'a mut OwnedReadHalf,
    incoming: &'a mut BytesMut,
}

impl Receiver<'_> {
    /// Waits for bytes. Safe to cancel.
    pub(crate) async fn receive(&mut self) -> anyhow::Result<()> {
        self.incoming.reserve(16 * 1024);
        if self.read.read_buf(self.incoming).await.context("the connection broke")? == 0 {
            bail!("the broker closed the connection");
        }
        Ok(())
    }
}
