//! The source: one session at the broker, held by whoever holds its lease, resumed for ever.
//!
//! ```text
//! lease held ─► CONNECT (session kept) ─► SUBSCRIBE, after every CONNACK ─► deliveries ⇄ acks ─► ends ─► back off, again
//! ```
//!
//! The loop that reads (`receive` takes apart what one read brought) also acks, so an ack and the connection it belongs to cannot be told apart by accident: when the
//! connection ends, its window goes with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Filter, RetainForwardRule, SubscribeReasonCode};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::db::lease::Lease;
use crate::lifecycle::backoff::Backoff;
use crate::lifecycle::readiness::Latch;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::observe::accounting::Accounting;
use crate::observe::metrics::{ConnectionMetrics, Metrics};

use super::delivered::Delivered;
use super::hearing::Hearing;
use super::ledger::{Residue, Window};
use super::limits::{self, Peaks};
use super::pipeline::Inlet;
use super::queue::{Delivery, Held};
use super::rate::Rates;
use super::receipts::Asked;

/// What Mosquitto says it dropped, all clients together.
pub const BROKER_DROPPED_TOPIC: &str = "$SYS/broker/publish/messages/dropped";
/// Which broker it is, as Mosquitto and its likes say: `mosquitto version 2.0.18`.
pub const BROKER_VERSION_TOPIC: &str = "$SYS/broker/version";
/// The longest wait for a SUBACK or UNSUBACK.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The longest wait between two attempts to connect. A few replicas that knock this often are no load for a broker, and this is
/// the longest that data waits once it is back.
const MOST_PATIENCE: Duration = Duration::from_secs(3);
/// A connection that held this long was a good one: the next wait is a short one again.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// A session that is to end is drained when nothing came for this long.
const QUIET: Duration = Duration::from_secs(2);
/// A delivery that waits longer for its commit makes the service unready.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How often gauges are set, and a pause in reading is reconsidered.
const TICK: Duration = Duration::from_millis(100);

/// Where deliveries go.
#[derive(Debug)]
pub enum Outlet {
    /// To the shards.
    Telemetry(Inlet),
    /// To the status stage.
    Status {
        /// Its inbox.
        inbox: mpsc::Sender<Delivery>,
        /// Told whether devices are heard.
        hearing: Arc<Hearing>,
    },
}

/// What the session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// To receive what these filters match. A refused filter that begins with `$SYS` is passed over.
    Subscribe(Vec<String>),
    /// To take what it still holds, unsubscribe from these filters, and end it.
    Retire(Vec<String>),
}

/// One session of the installation.
#[derive(Debug)]
pub struct Subscriber {
    /// The name in logs and metrics, `slot-0`.
    pub name: String,
    /// The session's client id.
    pub client_id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Filters that the session may have from before and should have no more.
    pub stale: Vec<String>,
    /// Where its deliveries go.
    pub outlet: Outlet,
    /// How to reach the broker.
    pub mqtt: MqttConfig,
    /// Whether this process may open the session.
    pub lease: watch::Receiver<Lease>,
    /// Whether it works.
    pub latch: Latch,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
    /// The series that are not a connection's own.
    pub metrics: Arc<Metrics>,
    /// Bytes in flight.
    pub held: Arc<Held>,
    /// Ends reading; what was read is still committed and acked.
    pub stop: CancellationToken,
    /// What earlier connections left in the queues.
    pub residue: Residue,
    /// What the last one delivered.
    pub delivered: Delivered,
    /// What each device has sent, where that is limited.
    pub rates: Option<Rates>,
    /// Who may have a receipt, where there are any.
    pub receipts: Option<Asked>,
}

/// How a session's connection came to its end.
#[derive(Debug)]
enum End {
    /// As we were told to stop: everything acked, the session kept.
    Stopped,
    /// The session is drained and forgotten.
    Retired,
    /// Another replica may have the session now.
    LeaseLost,
}

/// Why a connection ended that should not have.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("a delivery was dropped without a verdict; the broker is asked to deliver again")]
    Abandoned,
    #[error("the broker does not answer a subscription")]
    NoAnswer,
    #[error("the broker refused the subscription to {filter}: {reason:?}; the service's user needs the right to read it")]
    Refused { filter: String, reason: SubscribeReasonCode },
    #[error("the broker offers no shared subscriptions; set MQTT_SHARED=false for one plain durable subscription")]
    NoSharedSubscriptions,
    #[error("the broker offers no wildcard subscriptions, without which a fleet cannot be followed")]
    NoWildcards,
}

impl Subscriber {
    /// Runs the session whenever the lease is held, until stopped, or retired.
    pub async fn run(mut self) {
        let metrics = self.metrics.connection(&self.name);
        let mut patience = Backoff::new(Duration::from_millis(100), MOST_PATIENCE);
        loop {
            metrics.leased.set(0.0);
            if !self.await_lease().await {
                return;
            }
            self.latch.unready("connecting");
            metrics.leased.set(1.0);
            let begun = Instant::now();
            let end = self.session(&metrics).await;
            if let Outlet::Status { hearing, .. } = &self.outlet {
                hearing.end();
            }
            metrics.connected.set(0.0);
            metrics.unacked.set(0.0);
            metrics.window_use.set(0.0);
            metrics.oldest_unacked.set(0.0);
            metrics.rate_limited_devices.set(0.0);
            match end {
                Ok(End::Stopped | End::Retired) => {
                    metrics.leased.set(0.0);
                    self.latch.ready("ended");
                    return;
                }
                Ok(End::LeaseLost) => warn!(
                    connection = self.name,
                    "the lease went to another replica; the session is left to it"
                ),
                Err(broken) => {
                    metrics.disconnects.increment(1);
                    self.latch.unready(broken.to_string());
                    if begun.elapsed() > SETTLED_AFTER {
                        patience.reset();
                    }
                    let wait = patience.next_wait();
                    self.report(&broken, wait);
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// Waits until the lease is ours. Returns whether it is; not when we were told to stop.
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

    async fn session(&mut self, metrics: &ConnectionMetrics) -> Result<End, Broken> {
        let opened = tokio::select! {
            opened = Connection::open(&self.mqtt, &self.client_id) => opened?,
            () = self.stop.cancelled() => return Ok(End::Stopped),
        };
        let (mut connection, connack) = opened;
        self.note_connack(&connack, metrics)?;
        let asked = match &self.purpose {
            Purpose::Subscribe(filters) => {
                let asked = connection.subscribe(filters.iter().map(|filter| durable_filter(filter)).collect())?;
                // After the new ones, so that there is no moment without a subscription; the answer changes nothing.
                if connack.session_present && !self.stale.is_empty() {
                    connection.unsubscribe(self.stale.clone())?;
                }
                asked
            }
            Purpose::Retire(filters) if connack.session_present => connection.unsubscribe(filters.clone())?,
            Purpose::Retire(_) => {
                connection.disconnect(true).await?;
                return Ok(End::Retired);
            }
        };
        let window = Window::new(self.mqtt.receive_maximum, metrics.fenced.clone(), std::mem::take(&mut self.residue));
        let mut delivered = std::mem::take(&mut self.delivered);
        delivered.begin(connack.session_present);
        let mut rates = self.rates.take();
        if let Some(rates) = &mut rates {
            rates.begin(connack.session_present, Instant::now());
        }
        let mut live = Live {
            window,
            delivered,
            rates,
            asked,
            answered: None,
            answer_due: Instant::now() + ANSWER_WITHIN,
            heard: Instant::now(),
            reading: false,
            has_unread: false,
            stopping: false,
            peaks: Peaks::default(),
            burst: Vec::new(),
        };
        let end = self.serve(connection, &mut live, metrics).await;
        self.residue = live.window.into_residue();
        self.delivered = live.delivered;
        self.rates = live.rates;
        end
    }

    async fn serve(&self, mut connection: Connection, live: &mut Live, metrics: &ConnectionMetrics) -> Result<End, Broken> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut paused = false;
        let mut lease = self.lease.clone();
        loop {
            if live.stopping && live.window.unacked() == 0 {
                connection.disconnect(false).await?;
                return Ok(End::Stopped);
            }
            if paused != self.held.is_exhausted() {
                paused = !paused;
                self.metrics.pauses.increment(u64::from(paused));
            }
            if !live.stopping && !paused {
                // What came with the CONNACK, what was read since, and what had to wait for a place in the window.
                self.take_packets(&mut connection, live, metrics)?;
            }
            if let Some(rates) = &mut live.rates {
                rates.pass(Instant::now(), live.reading);
            }
            let reading = !live.stopping && !paused && !live.window.is_full();
            if !reading {
                // Silence, and an answer that does not come, say nothing while nobody listens.
                live.heard = Instant::now();
                live.answer_due = Instant::now() + ANSWER_WITHIN;
            }
            (live.reading, live.has_unread) = (reading, connection.has_unread());
            tokio::select! {
                biased;
                () = live.window.changed() => {
                    if live.window.is_abandoned() {
                        return Err(Broken::Abandoned);
                    }
                    self.ack(&mut connection, live, metrics);
                }
                () = self.stop.cancelled(), if !live.stopping => live.stopping = true,
                () = wait_for(&mut lease, Lease::Elsewhere) => return Ok(End::LeaseLost),
                turned = connection.turn(reading) => turned?,
                _ = tick.tick() => {
                    if self.look_after(live, metrics)? {
                        connection.disconnect(true).await?;
                        return Ok(End::Retired);
                    }
                }
            }
        }
    }

    fn ack(&self, connection: &mut Connection, live: &mut Live, metrics: &ConnectionMetrics) {
        let before = live.window.unacked();
        let mut acked = 0;
        let mut run: Option<(Instant, usize)> = None;
        while let Some((packet_id, received)) = live.window.next_done() {
            connection.ack(packet_id);
            acked += 1;
            run = match run {
                Some((instant, length)) if instant == received => Some((instant, length + 1)),
                _ => {
                    self.observe_acks(run);
                    Some((received, 1))
                }
            };
        }
        self.observe_acks(run);
        metrics.acked.increment(acked);
        if acked > 0 {
            // There is room in the window again: what the broker still has is on its way.
            live.heard = Instant::now();
        }
        if acked > 0 && live.peaks.note(before) && before < usize::from(self.mqtt.receive_maximum) {
            self.warn(&format!(
                "the broker keeps at most {before} deliveries under way although {} are allowed; that caps the rate: raise its window (Mosquitto: max_inflight_messages 0)",
                self.mqtt.receive_maximum
            ));
        }
    }

    fn observe_acks(&self, run: Option<(Instant, usize)>) {
        if let Some((received, length)) = run {
            self.metrics.ack_latency.record_many(received.elapsed().as_secs_f64(), length);
        }
    }

    /// Gauges, and what must not wait for ever. Returns whether a session that is to end has been drained.
    fn look_after(&self, live: &mut Live, metrics: &ConnectionMetrics) -> Result<bool, Broken> {
        let (unacked, oldest) = (live.window.unacked(), live.window.oldest());
        #[expect(clippy::cast_precision_loss, reason = "at most 65,535")]
        metrics.unacked.set(unacked as f64);
        #[expect(clippy::cast_precision_loss, reason = "at most 65,535")]
        metrics.window_use.set(unacked as f64 / f64::from(self.mqtt.receive_maximum));
        metrics.oldest_unacked.set(oldest.as_secs_f64());
        if let Some(limited) = live.rates.as_mut().and_then(|rates| rates.count(Instant::now())) {
            #[expect(clippy::cast_precision_loss, reason = "devices are far fewer than 2^53")]
            metrics.rate_limited_devices.set(limited as f64);
        }
        if live.answered.is_none() {
            return if live.answer_due < Instant::now() {
                Err(Broken::NoAnswer)
            } else {
                Ok(false)
            };
        }
        if oldest > STUCK_AFTER {
            self.latch.unready(format!(
                "{unacked} deliveries wait for their commit, the oldest for {} s",
                oldest.as_secs()
            ));
        } else {
            self.latch.ready("subscribed");
        }
        let quiet = live.reading && !live.has_unread && live.heard.elapsed() > QUIET && unacked == 0;
        Ok(quiet && matches!(self.purpose, Purpose::Retire(_)))
    }

    fn note_connack(&self, connack: &ConnAck, metrics: &ConnectionMetrics) -> Result<(), Broken> {
        info!(
            connection = self.name,
            client_id = self.client_id,
            resumed = connack.session_present,
            "connected"
        );
        if connack.session_present {
            metrics.resumed.increment(1)
        } else {
            metrics.started.increment(1)
        }
        self.latch.clear_warnings();
        let Some(properties) = &connack.properties else { return Ok(()) };
        let wants_share =
            matches!(&self.purpose, Purpose::Subscribe(filters) if filters.iter().any(|filter| filter.starts_with("$share/")));
        if wants_share && properties.shared_subscription_available == Some(0) {
            return Err(Broken::NoSharedSubscriptions);
        }
        if properties.wildcard_subscription_available == Some(0) {
            return Err(Broken::NoWildcards);
        }
        for warning in limits::announced(properties, &self.mqtt) {
            self.warn(&warning);
        }
        Ok(())
    }

    fn report(&self, broken: &Broken, wait: Duration) {
        let connection = self.name.as_str();
        match broken {
            Broken::Connection(failure) if failure.is_takeover() && !self.lease.borrow().is_certain() => {
                info!(
                    connection,
                    "another replica took the session over while our lease was not confirmed"
                );
            }
            Broken::Connection(failure) if failure.is_takeover() => {
                error!(
                    connection,
                    ?wait,
                    "another client took our client id over although we hold its lease; is it in use elsewhere?"
                );
            }
            Broken::Refused { .. } | Broken::NoSharedSubscriptions | Broken::NoWildcards | Broken::Abandoned => {
                error!(connection, %broken, ?wait, "the session cannot be used as it is")
            }
            _ => warn!(connection, %broken, ?wait, "disconnected"),
        }
    }

    pub(super) fn warn(&self, warning: &str) {
        if self.latch.warn(warning) {
            warn!(connection = self.name, "{warning}");
        }
    }
}

/// Waits until the lease is in this state, or its keeper has ended.
async fn wait_for(lease: &mut watch::Receiver<Lease>, state: Lease) {
    let _keeper_lives = lease.wait_for(|lease| *lease == state).await.is_ok();
}

/// The state of a connection in force.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) window: Window,
    pub(super) delivered: Delivered,
    pub(super) rates: Option<Rates>,
    /// The packet id of our SUBSCRIBE or UNSUBSCRIBE.
    pub(super) asked: u16,
    pub(super) answered: Option<Instant>,
    /// By when it must be answered.
    pub(super) answer_due: Instant,
    pub(super) heard: Instant,
    /// Whether the connection is read, and whether something of it waits to be taken apart.
    pub(super) reading: bool,
    pub(super) has_unread: bool,
    pub(super) stopping: bool,
    pub(super) peaks: Peaks,
    /// What one read brought; empty between two.
    pub(super) burst: Vec<Delivery>,
}

/// At QoS 1: a QoS 2 publish then comes at QoS 1, and the row's key makes it exactly-once. Retained messages come once,
/// with a new subscription.
fn durable_filter(path: &str) -> Filter {
    let (qos, retained) = if path.starts_with("$SYS/") {
        // What the broker says of itself is said again soon enough, and only when it changes: the value as of now is wanted.
        (QoS::AtMostOnce, RetainForwardRule::OnEverySubscribe)
    } else if path.starts_with("$share/") {
        (QoS::AtLeastOnce, RetainForwardRule::Never)
    } else {
        (QoS::AtLeastOnce, RetainForwardRule::OnNewSubscribe)
    };
    let mut filter = Filter::new(path, qos);
    // So that the flag tells what the broker had kept from what is published now (MQTT 5, 3.3.1.3).
    filter.preserve_retain = false;
    filter.retain_forward_rule = retained;
    filter
}
