//! The courier's session: resumed for ever by whoever holds its lease, one round after the other.
//!
//! ```text
//! what is under way, from the database ─► CONNECT ─► session there: PUBLISH again (DUP) or PUBREL again, in order
//!                                                └─► session gone: its packets are forgotten, what was not sent is due again
//! round: packets in ─► one visit to the database ─► PUBRELs, acks, PUBLISHes out
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, RetainForwardRule, SubAck, SubscribeReasonCode};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::db::config::Config as DbConfig;
use crate::db::lease::Lease;
use crate::db::listen::listen;
use crate::db::pool::{self, PoolError};
use crate::devices::commands::dispatch::Dispatch;
use crate::devices::outbox::Due;
use crate::lifecycle::backoff::Backoff;
use crate::lifecycle::readiness::Latch;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::mqtt::publish::Limits;
use crate::observe::metrics::{ConnectionMetrics, Metrics};
use crate::protocol::topic::TopicTree;

use super::desk::{Desk, Errand, Trouble};
use super::discovery::Inbox;
use super::incoming::{CHANNELS, Incoming};
use super::talk::{News, Talk};
use super::wire;

/// Where the database says that something is to be sent.
const CHANNEL: &str = "courier";
/// The name in logs and metrics.
pub const NAME: &str = "courier";
/// The most commands that one visit takes: a few milliseconds of the database's time.
const BATCH: usize = 500;
/// Deliveries of devices' words under way to us: one visit's worth.
const RECEIVE_MAXIMUM: u16 = 1_000;
/// How often is looked by itself, and chores are done.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks lie between two looks at whether the database knows of packets that nobody here does.
const STRAYS_EVERY: u32 = 5;
/// The longest wait for a SUBACK.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Waits between attempts, and how long a connection holds that was a good one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Connections of its own, so that no command waits behind the pipeline.
pub const CONNECTIONS: usize = 2;

/// What the courier needs of the rest of the service.
#[derive(Debug)]
pub struct Parts {
    /// How to reach the broker.
    pub mqtt: MqttConfig,
    /// How to reach the database.
    pub db: DbConfig,
    /// The topic tree.
    pub tree: TopicTree,
    /// Whether this process may open the session.
    pub lease: watch::Receiver<Lease>,
    /// Whether it works.
    pub latch: Latch,
    /// The series.
    pub metrics: Arc<Metrics>,
    /// Where registrations go.
    pub registrations: Inbox,
    /// Ends it.
    pub stop: CancellationToken,
}

/// The session's client id, and the name of its lease.
#[must_use]
pub fn client_id(group: &str) -> String {
    format!("iotflow-{group}-courier")
}

/// The one that carries commands and letters out, and answers in.
#[derive(Debug)]
pub struct Courier {
    client_id: String,
    mqtt: MqttConfig,
    db: DbConfig,
    desk: Desk,
    lease: watch::Receiver<Lease>,
    latch: Latch,
    metrics: ConnectionMetrics,
    stop: CancellationToken,
}

#[derive(Debug)]
enum End {
    Stopped,
    LeaseLost,
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Trouble(#[from] Trouble),
    #[error("the broker does not answer a subscription")]
    NoAnswer,
    #[error("the broker refused a subscription: {0:?}; the service's user needs the right to read what devices say")]
    Refused(SubscribeReasonCode),
    #[error("packet {0} is under way and was not begun here: the session is resumed to go on with it")]
    Stray(u16),
}

impl Courier {
    /// A courier for the installation's `group`.
    ///
    /// # Errors
    /// When the database's URL cannot be read.
    pub fn new(group: &str, parts: Parts) -> Result<Self, PoolError> {
        Ok(Self {
            client_id: client_id(group),
            mqtt: MqttConfig {
                receive_maximum: RECEIVE_MAXIMUM,
                clean_start: false,
                ..parts.mqtt
            },
            desk: Desk {
                pool: pool::pool(&parts.db, NAME, CONNECTIONS)?,
                tree: parts.tree,
                metrics: parts.metrics.courier(),
                registrations: parts.registrations,
                patience: parts.db.copy_timeout,
            },
            db: parts.db,
            lease: parts.lease,
            latch: parts.latch,
            metrics: parts.metrics.connection(NAME),
            stop: parts.stop,
        })
    }

    /// Runs the session whenever the lease is held, until stopped.
    pub async fn run(mut self) {
        let (word, mut words) = mpsc::channel(1);
        let db = self.db.clone();
        tokio::select! {
            () = self.work(&mut words) => {}
            () = listen(db, CHANNEL, word) => {}
        }
        self.latch.ready("ended");
    }

    async fn work(&mut self, words: &mut mpsc::Receiver<()>) {
        let mut patience = Backoff::new(BACKOFF.0, BACKOFF.1);
        loop {
            self.metrics.leased.set(0.0);
            if !self.await_lease().await {
                return;
            }
            self.latch.unready("connecting");
            self.metrics.leased.set(1.0);
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = self.session(words) => ended,
                () = until_elsewhere(self.lease.clone()) => Ok(End::LeaseLost),
            };
            self.metrics.connected.set(0.0);
            let broken = match ended {
                Ok(End::Stopped) => return self.metrics.leased.set(0.0),
                Ok(End::LeaseLost) => {
                    warn!(connection = NAME, "the lease went to another replica; the session is left to it");
                    continue;
                }
                Err(broken) => broken,
            };
            self.metrics.disconnects.increment(1);
            self.latch.unready(broken.to_string());
            if begun.elapsed() > SETTLED_AFTER {
                patience.reset();
            }
            let wait = patience.next_wait();
            match &broken {
                Broken::Refused(_) => error!(connection = NAME, %broken, ?wait, "the session cannot be used as it is"),
                _ => warn!(connection = NAME, %broken, ?wait, "the session is interrupted"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Waits until the lease is ours. Returns whether it is; not when told to stop.
    async fn await_lease(&mut self) -> bool {
        loop {
            match *self.lease.borrow_and_update() {
                held if held.is_certain() => return true,
                Lease::Held { .. } => self.latch.unready("the lease was not confirmed lately"),
                Lease::Elsewhere => self.latch.ready("another replica holds this session; standing by"),
                Lease::Sought | Lease::Unknown => self.latch.unready("seeking the lease in the database"),
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                changed = self.lease.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    async fn session(&self, words: &mut mpsc::Receiver<()>) -> Result<End, Broken> {
        // First, for without the database there is nothing to say, and nothing could be acked.
        let mut under_way = self.desk.under_way().await?;
        let opened = tokio::select! {
            opened = Connection::open(&self.mqtt, &self.client_id) => opened?,
            () = self.stop.cancelled() => return Ok(End::Stopped),
        };
        let (mut connection, connack) = opened;
        let limits = Limits::of(&connack);
        info!(
            connection = NAME,
            client_id = self.client_id,
            resumed = connack.session_present,
            under_way = under_way.len(),
            "connected"
        );
        if connack.session_present {
            self.metrics.resumed.increment(1);
        } else {
            self.metrics.started.increment(1);
            // What the broker had not said that it has is due again. What it had said stays as sent, although a broker that passes
            // it on at the PUBREL (Mosquitto) may not have: to send it again might do it twice, and that is worse.
            self.desk.forget_packets().await?;
            under_way.clear();
        }
        connection.subscribe(CHANNELS.iter().map(|channel| filter(&channel.filter(&self.desk.tree))).collect())?;
        let mut round = Round {
            courier: self,
            talk: Talk::new(limits.receive_maximum),
            max_qos: limits.max_qos,
            news: News::default(),
            incoming: Vec::new(),
            subscribed: None,
            look: true,
            cramped: false,
            chores: true,
            ticks: 0,
        };
        round.resume(&mut connection, &under_way);
        round.serve(connection, words).await
    }
}

async fn until_elsewhere(mut lease: watch::Receiver<Lease>) {
    if lease.wait_for(|lease| *lease == Lease::Elsewhere).await.is_err() {
        // Its keeper ends after us.
        std::future::pending::<()>().await;
    }
}

/// Nothing that is retained: an answer is said once.
fn filter(path: &str) -> Filter {
    let mut filter = Filter::new(path, QoS::AtLeastOnce);
    filter.retain_forward_rule = RetainForwardRule::Never;
    filter
}

/// What one connection lives through.
struct Round<'a> {
    courier: &'a Courier,
    talk: Talk,
    max_qos: u8,
    news: News,
    incoming: Vec<Incoming>,
    subscribed: Option<Instant>,
    /// There may be something to send.
    look: bool,
    /// There was no room for more when it was last looked.
    cramped: bool,
    chores: bool,
    ticks: u32,
}

impl Round<'_> {
    /// Goes on with each packet where it stands, in order.
    fn resume(&mut self, connection: &mut Connection, under_way: &[Dispatch]) {
        for dispatch in under_way {
            let Some(packet_id) = dispatch.packet_id else { continue };
            self.talk.begin_command(packet_id, dispatch.seq);
            if dispatch.sent {
                connection.release(packet_id);
            } else {
                self.publish(connection, dispatch, packet_id, true);
            }
        }
    }

    async fn serve(&mut self, mut connection: Connection, words: &mut mpsc::Receiver<()>) -> Result<End, Broken> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = Instant::now();
        let stop = &self.courier.stop;
        loop {
            while let Some(packet) = connection.next_packet()? {
                self.hear(packet)?;
            }
            let stopping = stop.is_cancelled();
            let errand = self.errand(stopping);
            if !errand.is_idle() {
                self.go(&mut connection, errand).await?;
                // However much there is to send, what the broker says is heard in between.
                tokio::select! {
                    biased;
                    turned = connection.turn(true) => turned?,
                    () = std::future::ready(()) => {}
                }
                continue;
            }
            if stopping {
                connection.disconnect(false).await?;
                return Ok(End::Stopped);
            }
            tokio::select! {
                biased;
                turned = connection.turn(true) => turned?,
                Some(()) = words.recv() => self.look = true,
                _ = tick.tick() => {
                    (self.look, self.chores) = (true, true);
                    self.ticks += 1;
                    if self.subscribed.is_none() && begun.elapsed() > ANSWER_WITHIN {
                        return Err(Broken::NoAnswer);
                    }
                    if self.ticks.is_multiple_of(STRAYS_EVERY) {
                        self.look_for_strays().await?;
                    }
                }
                () = stop.cancelled() => {}
            }
        }
    }

    fn hear(&mut self, packet: Packet) -> Result<(), Broken> {
        match packet {
            Packet::Publish(publish) => self.incoming.push(Incoming::new(&self.courier.desk.tree, publish)),
            Packet::SubAck(ack) => self.note_subscribed(&ack)?,
            packet => drop(self.talk.hear(&packet, &mut self.news)),
        }
        Ok(())
    }

    fn note_subscribed(&mut self, ack: &SubAck) -> Result<(), Broken> {
        let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
        if let Some(code) = ack.return_codes.iter().find(refused) {
            return Err(Broken::Refused(*code));
        }
        self.subscribed = Some(Instant::now());
        self.courier.metrics.connected.set(1.0);
        self.courier.latch.ready("subscribed");
        Ok(())
    }

    /// What the next visit to the database is for. Nothing new is begun while the lease may be another's.
    fn errand(&mut self, stopping: bool) -> Errand {
        let mut errand = Errand {
            news: std::mem::take(&mut self.news),
            incoming: std::mem::take(&mut self.incoming),
            ..Errand::default()
        };
        let certain = self.courier.lease.borrow().is_certain();
        if stopping || !certain {
            return errand;
        }
        errand.chores = std::mem::take(&mut self.chores);
        if self.look {
            let room = self.talk.room_for_commands().min(BATCH);
            (self.look, self.cramped) = (false, room == 0);
            errand.free = self.talk.free_ids(room);
            errand.letters = self.talk.room_for_letters(room);
            errand.letters_under_way = self.talk.letters();
        }
        // A letter that chores put in, or a command that waits for the room that there will be after this visit.
        self.look |= errand.chores || (self.cramped && !errand.news.free.is_empty());
        errand
    }

    /// One visit to the database, while the connection is kept alive, and then the packets that follow from it.
    async fn go(&mut self, connection: &mut Connection, mut errand: Errand) -> Result<(), Broken> {
        let desk = self.courier.desk.clone();
        let brought = {
            let visit = desk.visit(&mut errand);
            tokio::pin!(visit);
            loop {
                tokio::select! {
                    biased;
                    brought = &mut visit => break brought?,
                    turned = connection.turn(false) => turned?,
                }
            }
        };
        for packet_id in errand.news.sent.iter().filter_map(|(_, packet_id)| *packet_id) {
            connection.release(packet_id);
        }
        self.talk.end(&errand.news.free);
        for incoming in errand.incoming.iter().filter(|incoming| incoming.packet_id > 0) {
            connection.ack(incoming.packet_id);
        }
        // As many as were asked for: there may be more.
        self.look |= !errand.free.is_empty() && brought.commands.len() == errand.free.len();
        self.look |= errand.letters > 0 && brought.letters.len() == errand.letters;
        for dispatch in &brought.commands {
            if let Some(packet_id) = dispatch.packet_id {
                self.talk.begin_command(packet_id, dispatch.seq);
            }
            self.publish(connection, dispatch, dispatch.packet_id.unwrap_or(0), false);
        }
        for due in &brought.letters {
            self.post(connection, due);
        }
        Ok(())
    }

    fn publish(&mut self, connection: &mut Connection, dispatch: &Dispatch, packet_id: u16, again: bool) {
        let message = wire::command(&self.courier.desk.tree, dispatch, self.max_qos);
        let at_most_once = message.qos == QoS::AtMostOnce;
        let wire_id = if at_most_once { 0 } else { packet_id };
        let published = connection.publish_as(&message, wire_id, again && !at_most_once);
        match published {
            Err(error) => {
                self.news.refused.push((dispatch.seq, error.to_string()));
                self.news.free.push(packet_id);
            }
            // A broker that takes no higher QoS answers nothing.
            Ok(()) if at_most_once && packet_id > 0 => {
                self.news.sent.push((dispatch.seq, None));
                self.news.done.push(dispatch.seq);
                self.news.free.push(packet_id);
            }
            Ok(()) => {}
        }
    }

    fn post(&mut self, connection: &mut Connection, due: &Due) {
        let message = wire::letter(due, self.max_qos);
        let packet_id = self.talk.begin_letter(due.id);
        let at_most_once = message.qos == QoS::AtMostOnce;
        let published = connection.publish_as(&message, if at_most_once { 0 } else { packet_id }, false);
        if let Err(error) = &published {
            error!(%error, letter = due.id, "a publish of the outbox cannot be sent; it is given up");
            self.news.letters_refused += 1;
        }
        if at_most_once || published.is_err() {
            self.news.gone.push(due.id);
            self.news.free.push(packet_id);
        }
    }

    /// A packet that the database knows of and nobody here does was begun by one who was frozen and came back: only a new session
    /// can go on with it.
    async fn look_for_strays(&self) -> Result<(), Broken> {
        let known = self.courier.desk.packet_ids().await?;
        match known.into_iter().find(|id| !self.talk.knows(*id)) {
            Some(stray) => Err(Broken::Stray(stray)),
            None => Ok(()),
        }
    }
}
