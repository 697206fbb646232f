//! What only has to be said passes through here: messages of any part of the service, over one connection, each with the broker's answer.
//!
//! ```text
//! Handle::publish ─► inbox (bounded) ─► publisher ─► PUBLISH ─► broker
//!        ▲                                  ▲ PUBACK, or PUBREC ─► PUBREL ─► PUBCOMP
//!        └────────── Answer, Failure ───────┘
//! ```
//!
//! Nothing is kept here: the session is a clean one. A message at QoS 1 whose answer a lost connection took with it is
//! published again; one at QoS 2 is not, for the broker may have it, and its sender is told so. What must arrive whatever
//! happens is a row in the database, and the courier's.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::Packet;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lifecycle::backoff::Backoff;
use crate::lifecycle::readiness::Latch;
use crate::observe::metrics::ConnectionMetrics;

use super::config::Config;
use super::connection::{Connection, ConnectionError};
use super::publish::{Limits, Message, PublishError, QoS, ReasonCode};

/// Messages that may wait for their turn. Who comes when it is full is told so, and pays.
const INBOX: usize = 1_024;
/// The most publishes under way, however many the broker allows: what is under way is lost to view with the connection.
const MOST_UNDER_WAY: u16 = 1_000;
/// No more is taken while so many bytes wait to be written: a broker that does not read must not fill the memory.
const MOST_UNWRITTEN_BYTES: usize = 4 * 1024 * 1024;
/// How long a message waits for a broker that is away. A broker that is restarted is back within it; a caller can wait so long.
const AWAY_PATIENCE: Duration = Duration::from_secs(2);
/// How long the broker has for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long what is under way has to end when the service does.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Waits between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How often it is looked whether an answer is overdue.
const TICK: Duration = Duration::from_secs(1);

/// How the broker took a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has it. At QoS 0 no broker says so: the message is on its way.
    Taken,
    /// It has it, and there was nobody to give it to.
    NoSubscribers,
}

/// Why a message was not published, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be.
    #[error(transparent)]
    Unfit(#[from] PublishError),
    /// This broker takes no such thing.
    #[error("the broker takes {0}")]
    Unsupported(&'static str),
    /// The broker said no.
    #[error("the broker refused it: {0}")]
    Refused(ReasonCode),
    /// The broker is away.
    #[error("the broker cannot be reached: {0}; nothing was published, try again later")]
    Away(String),
    /// The broker may have it or not.
    #[error("the connection to the broker ended before it answered; the message may have been published or not")]
    Unknown,
    /// Too many are waiting.
    #[error("{INBOX} messages are waiting to be published already; nothing was published, try again later")]
    QueueFull,
    /// The service is about to end.
    #[error("the service is stopping; nothing was published")]
    Stopping,
}

/// The way to a publisher. Clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Request>,
}

impl Handle {
    /// Publishes, and waits for the broker's answer: within a few seconds, whatever state the broker is in. Who stops waiting
    /// before the message's turn has taken it back.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn publish(&self, message: Message) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(message, Some(reply))?;
        answer.await.unwrap_or(Err(Failure::Stopping))
    }

    /// Publishes without waiting for an answer, or for anything else.
    ///
    /// # Errors
    /// [`Failure::QueueFull`] or [`Failure::Stopping`]. What else goes wrong nobody is told.
    pub fn post(&self, message: Message) -> Result<(), Failure> {
        self.send(message, None)
    }

    fn send(&self, message: Message, reply: Option<Reply>) -> Result<(), Failure> {
        let asked = Instant::now();
        self.inbox.try_send(Request { message, reply, asked }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Failure::QueueFull,
            mpsc::error::TrySendError::Closed(_) => Failure::Stopping,
        })
    }
}

type Reply = oneshot::Sender<Result<Answer, Failure>>;

#[derive(Debug)]
struct Request {
    message: Message,
    /// `None` where nobody wants to know.
    reply: Option<Reply>,
    asked: Instant,
}

impl Request {
    fn answer(self, answer: Result<Answer, Failure>) {
        if let Some(reply) = self.reply {
            // Who asked may have gone.
            drop(reply.send(answer));
        }
    }

    fn was_taken_back(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// A publish that the broker has not answered to the end.
#[derive(Debug)]
struct UnderWay {
    request: Request,
    sent: Instant,
    /// At QoS 2: what the PUBREC said.
    received: Option<Answer>,
}

/// One connection for whoever has a word to say.
#[derive(Debug)]
pub struct Publisher {
    mqtt: Config,
    client_id: String,
    latch: Latch,
    metrics: ConnectionMetrics,
    stop: CancellationToken,
    inbox: mpsc::Receiver<Request>,
    /// What a lost connection left unanswered, and may be published again.
    again: VecDeque<Request>,
}

impl Publisher {
    /// A publisher for the installation's `group`, and the way to it. Its client id is its own in every process, so that
    /// replicas never meet at the broker.
    #[must_use]
    pub fn new(mqtt: &Config, group: &str, latch: Latch, metrics: ConnectionMetrics, stop: CancellationToken) -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let publisher = Self {
            mqtt: Config {
                clean_start: true,
                session_expiry: Duration::ZERO,
                ..mqtt.clone()
            },
            client_id: format!("iotflow-{group}-api-{:016x}", fastrand::u64(..)),
            latch,
            metrics,
            stop,
            inbox,
            again: VecDeque::new(),
        };
        (publisher, Handle { inbox: sender })
    }

    /// Runs until told to stop, and then until what was asked for before is answered.
    pub async fn run(mut self) {
        let mut patience = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut away: Option<(Instant, String)> = None;
        loop {
            self.latch.unready(away.as_ref().map_or("connecting", |(_, why)| why.as_str()));
            let Some((connection, limits)) = self.connect(&mut away, &mut patience).await else {
                break;
            };
            patience.reset();
            self.latch.ready("connected");
            self.metrics.connected.set(1.0);
            let mut talk = Talk::new(limits);
            let ended = self.serve(connection, &mut talk).await;
            self.metrics.connected.set(0.0);
            let mut again = talk.into_repeatable();
            again.append(&mut self.again);
            self.again = again;
            match ended {
                Ok(()) => break,
                Err(broken) => {
                    self.metrics.disconnects.increment(1);
                    warn!(connection = "publisher", %broken, "disconnected");
                    away = Some((Instant::now(), broken.to_string()));
                }
            }
        }
        self.inbox.close();
        while let Some(request) = self.again.pop_front().or_else(|| self.inbox.try_recv().ok()) {
            request.answer(Err(Failure::Stopping));
        }
        self.latch.ready("ended");
    }

    /// Tries until there is a connection, and answers those who have waited long enough meanwhile. `None` when told to stop.
    async fn connect(&mut self, away: &mut Option<(Instant, String)>, patience: &mut Backoff) -> Option<(Connection, Limits)> {
        let (mqtt, client_id, stop) = (self.mqtt.clone(), self.client_id.clone(), self.stop.clone());
        let began = away.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        // After a loss it is waited first, lest two that cannot agree go on at full speed.
        let mut wait = away.as_ref().map(|_| patience.next_wait());
        loop {
            let pause = wait.unwrap_or_default();
            let attempt = async {
                tokio::time::sleep(pause).await;
                Connection::open(&mqtt, &client_id).await
            };
            tokio::pin!(attempt);
            let opened = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return None,
                    opened = &mut attempt => break opened,
                    () = self.turn_away(began + AWAY_PATIENCE, away) => {}
                }
            };
            match opened {
                Ok((connection, connack)) => {
                    info!(connection = "publisher", client_id, "connected");
                    self.metrics.started.increment(1);
                    return Some((connection, Limits::of(&connack)));
                }
                Err(error) => {
                    self.latch.unready(error.to_string());
                    if away.is_none() {
                        warn!(connection = "publisher", %error, "cannot connect; trying again");
                    }
                    *away = Some((began, error.to_string()));
                    wait = Some(patience.next_wait());
                }
            }
        }
    }

    /// From `due` on, answers one who waits, or waits for one.
    async fn turn_away(&mut self, due: Instant, away: &Option<(Instant, String)>) {
        sleep_until(due).await;
        let request = match self.again.pop_front() {
            Some(request) => {
                request.answer(Err(Failure::Unknown));
                return;
            }
            None => self.inbox.recv().await,
        };
        match request {
            Some(request) => {
                let why = away.as_ref().map_or("it does not answer", |(_, why)| why.as_str());
                request.answer(Err(Failure::Away(why.to_owned())));
            }
            // Nobody can ask any more.
            None => std::future::pending().await,
        }
    }

    /// Talks until told to stop, and then until what was asked for before is answered.
    async fn serve(&mut self, mut connection: Connection, talk: &mut Talk) -> Result<(), ConnectionError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let (mut open, mut leave_by) = (true, None::<Instant>);
        loop {
            while let Some(packet) = connection.next_packet()? {
                talk.take(&mut connection, &packet);
            }
            while talk.has_room(&connection)
                && let Some(request) = self.again.pop_front()
            {
                talk.send(&mut connection, request);
            }
            let done = !open && talk.under_way.is_empty() && self.again.is_empty();
            if done || leave_by.is_some_and(|by| by <= Instant::now()) {
                return connection.disconnect(true).await;
            }
            tokio::select! {
                biased;
                turned = connection.turn(true) => turned?,
                () = stop.cancelled(), if leave_by.is_none() => {
                    self.inbox.close();
                    leave_by = Some(Instant::now() + LEAVE_WITHIN);
                }
                request = self.inbox.recv(), if open && talk.has_room(&connection) => match request {
                    Some(request) => talk.send(&mut connection, request),
                    None => open = false,
                },
                _ = tick.tick() => talk.look_after()?,
            }
        }
    }
}

/// The conversations of one connection.
#[derive(Debug)]
struct Talk {
    limits: Limits,
    window: usize,
    under_way: BTreeMap<u16, UnderWay>,
    last_packet_id: u16,
}

impl Talk {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            window: usize::from(limits.receive_maximum.min(MOST_UNDER_WAY)),
            under_way: BTreeMap::new(),
            last_packet_id: 0,
        }
    }

    fn has_room(&self, connection: &Connection) -> bool {
        self.under_way.len() < self.window && connection.unwritten_bytes() < MOST_UNWRITTEN_BYTES
    }

    fn send(&mut self, connection: &mut Connection, request: Request) {
        if request.was_taken_back() {
            return;
        }
        if request.message.qos as u8 > self.limits.max_qos {
            request.answer(Err(Failure::Unsupported("no QoS that high")));
            return;
        }
        if request.message.retain && !self.limits.retain {
            request.answer(Err(Failure::Unsupported("no retained messages")));
            return;
        }
        let packet_id = if request.message.qos == QoS::AtMostOnce {
            0
        } else {
            self.free_packet_id()
        };
        match connection.publish_as(&request.message, packet_id, false) {
            Err(error) => request.answer(Err(error.into())),
            Ok(()) if packet_id == 0 => request.answer(Ok(Answer::Taken)),
            Ok(()) => {
                let (sent, received) = (Instant::now(), None);
                self.under_way.insert(packet_id, UnderWay { request, sent, received });
            }
        }
    }

    /// The next one that is in no conversation. There is one: the window is far smaller than the range.
    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if !self.under_way.contains_key(&self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }

    fn take(&mut self, connection: &mut Connection, packet: &Packet) {
        match packet {
            Packet::PubAck(ack) => self.end(ack.pkid, Some(verdict(ack.reason.into()))),
            Packet::PubRec(rec) => match (verdict(rec.reason.into()), self.under_way.get_mut(&rec.pkid)) {
                (Ok(answer), Some(under_way)) => {
                    under_way.received = Some(answer);
                    connection.release(rec.pkid);
                }
                (refused, _) => self.end(rec.pkid, Some(refused)),
            },
            Packet::PubComp(comp) => self.end(comp.pkid, None),
            // Pings; and it has subscribed to nothing.
            _ => {}
        }
    }

    /// Ends a conversation; without a verdict it is what was said before.
    fn end(&mut self, packet_id: u16, verdict: Option<Result<Answer, Failure>>) {
        if let Some(UnderWay { request, received, .. }) = self.under_way.remove(&packet_id) {
            request.answer(verdict.unwrap_or(Ok(received.unwrap_or(Answer::Taken))));
        }
    }

    /// A broker that answers pings and no publish is of no use.
    fn look_after(&self) -> Result<(), ConnectionError> {
        if self.under_way.values().any(|under_way| under_way.sent.elapsed() > ANSWER_WITHIN) {
            return Err(ConnectionError::KeepAlive(ANSWER_WITHIN));
        }
        Ok(())
    }

    /// What is to be published again on the next connection. The others are told that nobody knows.
    fn into_repeatable(self) -> VecDeque<Request> {
        let mut repeatable = VecDeque::new();
        for UnderWay { request, .. } in self.under_way.into_values() {
            // With the clean session a broker forgets what was received and not released: even after a PUBREC nobody knows.
            if request.message.qos == QoS::ExactlyOnce || request.asked.elapsed() > ANSWER_WITHIN {
                request.answer(Err(Failure::Unknown));
            } else {
                repeatable.push_back(request);
            }
        }
        repeatable
    }
}

fn verdict(reason: ReasonCode) -> Result<Answer, Failure> {
    match reason {
        refused if refused.is_refusal() => Err(Failure::Refused(refused)),
        ReasonCode::NO_MATCHING_SUBSCRIBERS => Ok(Answer::NoSubscribers),
        _ => Ok(Answer::Taken),
    }
}
