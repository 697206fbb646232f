//! One MQTT 5 connection: bytes from the broker in, packets out, and all that is due back in as few writes as possible.
//!
//! The owner alternates between [`Connection::turn`], which moves bytes and keeps the connection alive, and
//! [`Connection::next_packet`], which takes apart what came. Nothing here blocks: what the broker does not take yet
//! stays in the outgoing buffer while reading goes on, so neither side can wait for the other for ever.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode, Filter, Login, Packet,
    PingReq, Subscribe, Unsubscribe,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::io::poll_read_buf;

use super::config::Config;
use super::publish::LARGEST_PACKET_BYTES;
use super::tls::{self, TlsError};

/// Bytes asked of the socket at once: about 500 of the usual messages.
const READ_CHUNK_BYTES: usize = 64 * 1024;
/// Two reads within this that bring hardly anything say that we are faster than the broker writes. Then we would be woken for
/// each of its writes, which costs both sides several µs a message, so reading rests for as long.
const REST: Duration = Duration::from_millis(1);
/// Hardly anything: about 100 of the usual messages.
const CRUMBS_BYTES: usize = 16 * 1024;

/// Most time for the broker to close its side after our DISCONNECT.
const LINGER: Duration = Duration::from_secs(2);

/// Why a connection did not come about, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The network said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// TLS said no.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No answer in time.
    #[error("no CONNACK within {0:?}")]
    ConnectTimeout(Duration),
    /// The broker's answer to CONNECT.
    #[error("the broker refused the connection: {0:?}")]
    Refused(ConnectReturnCode),
    /// The broker sent what is no MQTT 5, or more than it was told we take.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// The broker ended it, and said why.
    #[error("the broker closed the connection: {0:?}")]
    Closed(DisconnectReasonCode),
    /// The broker ended it without a word.
    #[error("the broker closed the connection")]
    Eof,
    /// Nothing came for too long.
    #[error("nothing came from the broker for {0:?}, pings included")]
    KeepAlive(Duration),
}

impl ConnectionError {
    /// Whether the broker ended this connection because another took over its client id.
    #[must_use]
    pub fn is_takeover(&self) -> bool {
        matches!(self, Self::Closed(DisconnectReasonCode::SessionTakenOver))
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection in force. Dropping it closes the socket; what was not written is gone with it.
pub struct Connection {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    pub(super) outgoing: BytesMut,
    needs_flush: bool,
    max_packet_bytes: u32,
    /// The largest packet that the broker takes.
    pub(super) max_sent_bytes: u32,
    keep_alive: Duration,
    heard_at: Instant,
    /// Nothing is read before this.
    rest_until: Option<Instant>,
    ping_at: Instant,
    last_packet_id: u16,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("unwritten_bytes", &self.outgoing.len())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects as `client_id`, resuming its session where the broker still has one.
    ///
    /// # Errors
    /// The [`ConnectionError`] that stood in the way.
    pub async fn open(config: &Config, client_id: &str) -> Result<(Self, ConnAck), ConnectionError> {
        timeout(config.connect_timeout, Self::connect(config, client_id))
            .await
            .map_err(|_| ConnectionError::ConnectTimeout(config.connect_timeout))?
    }

    /// The same over a stream that is there already, whatever it runs over; host, port and TLS of `config` count for nothing.
    ///
    /// # Errors
    /// The [`ConnectionError`] that stood in the way.
    pub async fn open_over<S>(stream: S, config: &Config, client_id: &str) -> Result<(Self, ConnAck), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        timeout(config.connect_timeout, Self::begin(Box::new(stream), config, client_id))
            .await
            .map_err(|_| ConnectionError::ConnectTimeout(config.connect_timeout))?
    }

    async fn connect(config: &Config, client_id: &str) -> Result<(Self, ConnAck), ConnectionError> {
        let tcp = TcpStream::connect((config.host.as_str(), config.port)).await?;
        let stream: Box<dyn Stream> = match &config.tls {
            None => Box::new(tcp),
            Some(files) => Box::new(tls::handshake(files, &config.host, tcp).await?),
        };
        Self::begin(stream, config, client_id).await
    }

    async fn begin(stream: Box<dyn Stream>, config: &Config, client_id: &str) -> Result<(Self, ConnAck), ConnectionError> {
        let now = Instant::now();
        let mut connection = Self {
            stream,
            incoming: BytesMut::with_capacity(READ_CHUNK_BYTES),
            outgoing: BytesMut::new(),
            needs_flush: false,
            max_packet_bytes: config.max_packet_bytes,
            max_sent_bytes: LARGEST_PACKET_BYTES,
            keep_alive: config.keep_alive,
            heard_at: now,
            rest_until: None,
            ping_at: now + config.keep_alive,
            last_packet_id: 0,
        };
        connection.send(&connect_packet(config, client_id))?;
        let connack = loop {
            connection.turn(true).await?;
            match connection.next_packet()? {
                None => {}
                Some(Packet::ConnAck(connack)) if connack.code == ConnectReturnCode::Success => break connack,
                Some(Packet::ConnAck(connack)) => return Err(ConnectionError::Refused(connack.code)),
                Some(packet) => return Err(ConnectionError::Protocol(format!("{packet:?} in place of a CONNACK"))),
            }
        };
        if let Some(bytes) = connack.properties.as_ref().and_then(|properties| properties.max_packet_size) {
            connection.max_sent_bytes = bytes.min(LARGEST_PACKET_BYTES);
        }
        if let Some(seconds) = connack.properties.as_ref().and_then(|properties| properties.server_keep_alive) {
            // Zero switches the broker's side off (MQTT 5, 3.1.2.10); ours goes on.
            if seconds > 0 {
                connection.keep_alive = Duration::from_secs(u64::from(seconds));
            }
            connection.ping_at = Instant::now() + connection.keep_alive / 2;
        }
        Ok((connection, connack))
    }

    /// Writes what is due and, where `read` says so, waits until something was read; pings in time. Without `read` it
    /// waits for ever: the caller selects on what ends the pause. Safe to cancel.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn turn(&mut self, read: bool) -> Result<(), ConnectionError> {
        loop {
            let rest = self.rest_until.filter(|until| read && *until > Instant::now());
            let deadline = rest.map_or(self.ping_at, |until| until.min(self.ping_at));
            tokio::select! {
                moved = poll_fn(|context| self.poll_io(context, read && rest.is_none())) => return moved,
                () = sleep_until(deadline) => {
                    if deadline == self.ping_at {
                        self.ping(read)?;
                    }
                }
            }
        }
    }

    /// Writes until all that is due has gone out.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn flush(&mut self) -> Result<(), ConnectionError> {
        poll_fn(|context| self.poll_write(context)).await
    }

    /// The next packet of what was read, if a whole one is there.
    ///
    /// # Errors
    /// [`ConnectionError::Protocol`], or [`ConnectionError::Closed`] where the packet is the broker's DISCONNECT.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, ConnectionError> {
        match Packet::read(&mut self.incoming, Some(self.max_packet_bytes)) {
            Ok(Packet::Disconnect(disconnect)) => Err(ConnectionError::Closed(disconnect.reason_code)),
            Ok(packet) => Ok(Some(packet)),
            Err(CodecError::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(ConnectionError::Protocol(error.to_string())),
        }
    }

    /// Whether bytes were read that are not taken apart yet.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// What waits to be written: whoever adds to it without end outruns the broker.
    #[must_use]
    pub fn unwritten_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Subscribes; the SUBACK comes as a packet with the id returned.
    ///
    /// # Errors
    /// Never in practice: the packet is small.
    pub fn subscribe(&mut self, filters: Vec<Filter>) -> Result<u16, ConnectionError> {
        let pkid = self.next_packet_id();
        self.send(&Packet::Subscribe(Subscribe {
            pkid,
            filters,
            properties: None,
        }))?;
        Ok(pkid)
    }

    /// Unsubscribes; the UNSUBACK comes as a packet with the id returned.
    ///
    /// # Errors
    /// Never in practice: the packet is small.
    pub fn unsubscribe(&mut self, filters: Vec<String>) -> Result<u16, ConnectionError> {
        let pkid = self.next_packet_id();
        self.send(&Packet::Unsubscribe(Unsubscribe {
            pkid,
            filters,
            properties: None,
        }))?;
        Ok(pkid)
    }

    /// Puts a PUBACK into the outgoing buffer, to go out with the next turn.
    pub fn ack(&mut self, packet_id: u16) {
        let [high, low] = packet_id.to_be_bytes();
        // PUBACK, remaining length 2: success needs neither a reason code nor properties (MQTT 5, 3.4.2.1).
        self.outgoing.extend_from_slice(&[0x40, 2, high, low]);
    }

    /// Takes leave. The session stays unless `forget` ends it with the connection.
    ///
    /// # Errors
    /// When the connection ended first.
    pub async fn disconnect(mut self, forget: bool) -> Result<(), ConnectionError> {
        let mut disconnect = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        if forget {
            disconnect.properties = Some(DisconnectProperties {
                session_expiry_interval: Some(0),
                reason_string: None,
                user_properties: Vec::new(),
                server_reference: None,
            });
        }
        self.send(&Packet::Disconnect(disconnect))?;
        timeout(LINGER, self.flush())
            .await
            .map_err(|_| ConnectionError::KeepAlive(LINGER))??;
        // Closing a socket that holds unread bytes resets the connection, and the reset can overtake our last acks: so what
        // still comes is read, and thrown away, until the broker has closed its side.
        let linger = async {
            self.stream.shutdown().await?;
            loop {
                self.incoming.clear();
                if self.stream.read_buf(&mut self.incoming).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // All that matters was sent; a broker that does not close, or resets, changes nothing any more.
        drop(timeout(LINGER, linger).await);
        Ok(())
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), ConnectionError> {
        packet
            .write(&mut self.outgoing, None)
            .map(drop)
            .map_err(|error| ConnectionError::Protocol(error.to_string()))
    }

    pub(super) fn next_packet_id(&mut self) -> u16 {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        self.last_packet_id
    }

    fn ping(&mut self, reading: bool) -> Result<(), ConnectionError> {
        // While reading is paused the answers lie unread in the socket; silence then says nothing.
        if reading && self.heard_at.elapsed() > self.keep_alive * 3 / 2 {
            return Err(ConnectionError::KeepAlive(self.keep_alive * 3 / 2));
        }
        if !reading {
            self.heard_at = Instant::now();
        }
        self.ping_at = Instant::now() + self.keep_alive / 2;
        self.send(&Packet::PingReq(PingReq))
    }

    fn poll_io(&mut self, context: &mut Context<'_>, read: bool) -> Poll<Result<(), ConnectionError>> {
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(Err(error));
        }
        if !read {
            return Poll::Pending;
        }
        if self.incoming.capacity() - self.incoming.len() < READ_CHUNK_BYTES / 4 {
            self.incoming.reserve(READ_CHUNK_BYTES);
        }
        match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.incoming) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(ConnectionError::Eof)),
            Poll::Ready(Ok(bytes)) => {
                let now = Instant::now();
                let crumbs = bytes < CRUMBS_BYTES && now - self.heard_at < REST;
                self.rest_until = crumbs.then(|| now + REST);
                self.heard_at = now;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.outgoing) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into())),
                Poll::Ready(Ok(written)) => {
                    self.outgoing.advance(written);
                    self.needs_flush = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(flushed) => {
                    flushed?;
                    self.needs_flush = false;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn connect_packet(config: &Config, client_id: &str) -> Packet {
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX));
    properties.receive_maximum = Some(config.receive_maximum);
    properties.max_packet_size = Some(config.max_packet_bytes);
    let keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let connect = Connect {
        keep_alive,
        client_id: client_id.to_owned(),
        clean_start: config.clean_start,
        properties: Some(properties),
    };
    let password = config.password.as_ref().map(|password| password.reveal()).unwrap_or_default();
    let login = config.username.as_ref().map(|username| Login::new(username.clone(), password));
    Packet::Connect(connect, None, login)
}
