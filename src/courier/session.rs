//! The courier's session: resumed for ever by whoever holds its lease, one round after the other.
//!
//! ```text
//! what is under way, from the database ─► CONNECT ─► session there: PUBLISH again (DUP) or PUBREL again, in order
//!                                                └─► session gone: its packets are forgotten, what was not sent is due again
//! then one round after the other, until the connection or the lease is lost
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, RetainForwardRule, SubscribeReasonCode};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::db::config::Config as DbConfig;
use crate::db::lease::Lease;
use crate::db::listen::listen;
use crate::db::pool::{self, PoolError};
use crate::devices::commands::dispatch::Taken;
use crate::ingest::rate::Rates;
use crate::lifecycle::backoff::Backoff;
use crate::lifecycle::readiness::Latch;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::mqtt::publish::Limits;
use crate::observe::metrics::{ConnectionMetrics, Metrics};
use crate::protocol::topic::TopicTree;

use super::desk::{Desk, Trouble};
use super::discovery::Inbox;
use super::incoming::CHANNELS;
use super::round::Round;

/// Where the database says that something is to be sent.
const CHANNEL: &str = "courier";
/// The name in logs and metrics.
pub const NAME: &str = "courier";
/// Deliveries of devices' words under way to us: two visits' worth.
const RECEIVE_MAXIMUM: u16 = 1_000;
/// Waits between attempts, and how long a connection holds that was a good one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// Connections of its own, so that no command waits behind the pipeline.
pub const CONNECTIONS: usize = 2;

/// How much one device is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Messages a second that a device may say beside its telemetry: answers, configurations, registrations. 0 for as many as it likes.
    pub device_rate: u32,
    /// Messages that it may say at once above that; 0 for ten seconds' worth.
    pub device_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // A device that tells of its progress ten times a second is far below, one that floods costs a few milliseconds a second.
            device_rate: 100,
            device_burst: 0,
        }
    }
}

impl Config {
    /// What is wrong with these values, each with the variable that sets it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, value, most) in [
            ("COURIER_DEVICE_RATE", self.device_rate, 10_000),
            ("COURIER_DEVICE_BURST", self.device_burst, 1_000_000),
        ] {
            if value > most {
                faults.push(format!("{name} is {value}; 0 to {most} is expected"));
            }
        }
        if self.device_burst > 0 && self.device_rate == 0 {
            faults.push("COURIER_DEVICE_BURST is set with COURIER_DEVICE_RATE=0, so nothing is limited".to_owned());
        }
        faults
    }
}

/// What the courier needs of the rest of the service.
#[derive(Debug)]
pub struct Parts {
    /// How much one device is listened to.
    pub config: Config,
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
    config: Config,
    mqtt: MqttConfig,
    db: DbConfig,
    pub(super) desk: Desk,
    pub(super) lease: watch::Receiver<Lease>,
    pub(super) latch: Latch,
    pub(super) metrics: ConnectionMetrics,
    pub(super) stop: CancellationToken,
}

/// How a connection came to its end.
#[derive(Debug)]
pub(super) enum End {
    Stopped,
    LeaseLost,
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
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
            config: parts.config,
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
        let mut rates = Rates::of_each(self.desk.tree.clone(), self.config.device_rate, self.config.device_burst);
        loop {
            self.metrics.leased.set(0.0);
            if !self.await_lease().await {
                return;
            }
            self.latch.unready("connecting");
            self.metrics.leased.set(1.0);
            let begun = Instant::now();
            let ended = tokio::select! {
                ended = self.session(words, rates.as_mut()) => ended,
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

    async fn session(&self, words: &mut mpsc::Receiver<()>, mut rates: Option<&mut Rates>) -> Result<End, Broken> {
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
            under_way = under_way.dispatches.len(),
            "connected"
        );
        if connack.session_present {
            self.metrics.resumed.increment(1);
        } else {
            self.metrics.started.increment(1);
            // What the broker had not said that it has is due again. What it had said stays as sent, although a broker that passes
            // it on at the PUBREL (Mosquitto) may not have: to send it again might do it twice, and that is worse.
            self.desk.forget_packets().await?;
            under_way = Taken::default();
        }
        connection.subscribe(CHANNELS.iter().map(|channel| filter(&channel.filter(&self.desk.tree))).collect())?;
        if let Some(rates) = &mut rates {
            rates.begin(connack.session_present, Instant::now());
        }
        let mut round = Round::new(self, &limits, rates);
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
