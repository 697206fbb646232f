//! The second way in: telemetry of devices that have no MQTT, a request a message, answered after the commit.
//!
//! ```text
//! payload ─► rate ─► parsed for its faults ─► the device's shard, as any delivery ─► batch ─► commit ─► Verdict
//! ```
//!
//! A message from here is a delivery without a ticket, as one of QoS 0 is, and is booked among those; where there is no place
//! for it, it is shed and its sender told so. What the payload is refused for is said to the sender, who is there to hear it,
//! and does not become a dead letter; of an array with bad elements nothing is stored. Only what cannot be known before (more
//! metrics than a device may have, a row that the database refuses) becomes one all the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use tokio::sync::oneshot;

use crate::lifecycle::readiness::Latch;
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;
use crate::protocol::id::DeviceIdRef;
use crate::protocol::payload::{Origin, Parser, TimeWindow};
use crate::protocol::reject::{Reason, Rejection};
use crate::protocol::time;
use crate::protocol::topic::{BadBaseTopic, Channel, Telemetry, TopicTree};

use super::config::Config;
use super::copy::Store;
use super::pipeline::Inlet;
use super::queue::{Delivery, Held, Receipt};
use super::rate::Rates;
use super::reply::{Reply, Verdict};

/// Parsers kept for the next request: each has buffers that grew with what it read.
const PARSERS: usize = 8;
/// Up to here a payload is parsed at once, in some tens of microseconds; a larger one on a thread that may be kept so long.
const PARSED_AT_ONCE_BYTES: usize = 64 * 1024;

/// Why there is no verdict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The payload breaks a rule; nothing of it was stored.
    #[error(transparent)]
    Payload(#[from] Rejection),
    /// The device sent more than it may.
    #[error("this device sends more than INGEST_DEVICE_RATE and INGEST_DEVICE_BURST allow; send again later")]
    RateLimited,
    /// There is no place for it.
    #[error("more is under way than can be held; nothing was stored, send again later")]
    Overloaded,
    /// The service takes no more.
    #[error("the service is stopping; nothing was stored, send again")]
    Stopping,
    /// It was not committed in time.
    #[error("not committed within {0:?}; it may still be, send again: what was stored is recognised where the message has a time")]
    NoAnswer(Duration),
    /// It waits for the database with all the others.
    #[error(
        "the database does not take rows now, for a reason that /readyz has; it waits and may still be stored, send again later: what was stored is recognised where the message has a time"
    )]
    Unstored,
    /// It was let go without a verdict, at a stop that could not wait.
    #[error("the service stopped before it was known to be stored; send again: what was stored is recognised where the message has a time")]
    Abandoned,
}

/// See the module's documentation. Shared by all requests.
pub struct Door {
    /// Gone once the door is closed: the shards run until the last inlet is.
    inlet: Mutex<Option<Inlet>>,
    tree: TopicTree,
    window: TimeWindow,
    max_payload_bytes: usize,
    rates: Option<Mutex<Rates>>,
    parsers: ArrayQueue<Parser>,
    accounting: Arc<Accounting>,
    metrics: Arc<Metrics>,
    held: Arc<Held>,
    /// Whether rows are stored.
    latch: Latch,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    /// A door in front of `inlet`. It must be [closed](Door::close) for the shards to end.
    ///
    /// # Errors
    /// [`BadBaseTopic`].
    pub fn new(config: &Config, store: &Store, inlet: Inlet) -> Result<Self, BadBaseTopic> {
        let mut rates = Rates::new(config)?;
        if let Some(rates) = &mut rates {
            // Nothing waits for us anywhere: who was away sends what it likes, at its rate.
            rates.begin(false, Instant::now());
        }
        Ok(Self {
            inlet: Mutex::new(Some(inlet)),
            tree: TopicTree::new(&config.base_topic)?,
            window: config.time_window,
            max_payload_bytes: config.max_payload_bytes,
            rates: rates.map(Mutex::new),
            parsers: ArrayQueue::new(PARSERS),
            accounting: Arc::clone(&store.accounting),
            metrics: Arc::clone(&store.metrics),
            held: Arc::clone(&store.held),
            latch: store.latch.clone(),
        })
    }

    /// The largest payload that is taken, in bytes.
    #[must_use]
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// Takes nothing more. What was taken still gets its verdict.
    pub fn close(&self) {
        drop(self.inlet.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Takes a message of `device`, as if it had been published on its topic of this kind, and waits for what becomes of it,
    /// at most for `patience`.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn submit(
        self: &Arc<Self>,
        device: DeviceIdRef<'_>,
        kind: Telemetry,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Verdict, Refusal> {
        let (received, at) = (Instant::now(), time::now());
        let topic = Bytes::from(self.tree.name(device, Channel::Telemetry(kind)));
        let verdict = self.admit(&topic, &payload, at, received).await;
        let verdict = match verdict {
            Ok(()) => self.deliver(topic, payload, at, received, patience).await,
            Err(refusal) => Err(refusal),
        };
        self.count(&verdict);
        verdict
    }

    /// What can be said of a message before it is let in.
    async fn admit(self: &Arc<Self>, topic: &Bytes, payload: &Bytes, at: i64, received: Instant) -> Result<(), Refusal> {
        if payload.len() > self.max_payload_bytes {
            return Err(Refusal::Payload(Rejection::new(
                Reason::PayloadTooLarge,
                format!("{} bytes; at most {} are taken", payload.len(), self.max_payload_bytes),
            )));
        }
        if let Some(rates) = &self.rates {
            let mut rates = rates.lock().unwrap_or_else(PoisonError::into_inner);
            rates.pass(received, true);
            if rates.is_exceeded_by(topic, received) {
                return Err(Refusal::RateLimited);
            }
        }
        if payload.len() <= PARSED_AT_ONCE_BYTES {
            return Ok(self.check(topic, payload, at)?);
        }
        let (door, topic, payload) = (Arc::clone(self), topic.clone(), payload.clone());
        tokio::task::spawn_blocking(move || door.check(&topic, &payload, at))
            .await
            .map_err(|_| Refusal::Stopping)?
            .map_err(Refusal::Payload)
    }

    /// Parses the payload as the shard will, for its faults alone.
    fn check(&self, topic: &[u8], payload: &[u8], at: i64) -> Result<(), Rejection> {
        let (device, channel) = self.tree.parse(topic)?;
        let Channel::Telemetry(kind) = channel else {
            return Err(Rejection::new(Reason::UnknownTopic, "no telemetry topic"));
        };
        let origin = Origin {
            device,
            kind,
            received_at: at,
        };
        let mut parser = self.parsers.pop().unwrap_or_else(|| Parser::new(self.window));
        let parsed = parser.parse(origin, payload, |_| Ok(()));
        // One too many is dropped.
        drop(self.parsers.push(parser));
        parsed?.refused.map_or(Ok(()), Err)
    }

    async fn deliver(&self, topic: Bytes, payload: Bytes, at: i64, received: Instant, patience: Duration) -> Result<Verdict, Refusal> {
        let (waiting, verdict) = oneshot::channel();
        let delivery = Delivery {
            topic,
            payload,
            receipt: Receipt {
                at,
                again: false,
                over_rate: false,
                retained: false,
            },
            received,
            ticket: None,
            reply: Some(Box::new(Reply::Door(waiting))),
        };
        self.push(delivery)?;
        match tokio::time::timeout(patience, verdict).await {
            Ok(Ok(verdict)) => Ok(verdict),
            Ok(Err(_)) => Err(Refusal::Abandoned),
            Err(_) if self.latch.is_ready() => Err(Refusal::NoAnswer(patience)),
            Err(_) => Err(Refusal::Unstored),
        }
    }

    fn push(&self, delivery: Delivery) -> Result<(), Refusal> {
        let inlet = self.inlet.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(inlet) = inlet else { return Err(Refusal::Stopping) };
        let bytes = delivery.held_bytes();
        // Booked before anybody can settle it, so that the account never owes.
        self.held.add(bytes);
        self.accounting.book(|totals| totals.receive([1, 0], [0, 0]));
        let refused = if self.held.is_exhausted() {
            Err(delivery)
        } else {
            inlet.push(delivery)
        };
        if refused.is_ok() {
            inlet.wake();
            return Ok(());
        }
        self.held.subtract(bytes);
        self.metrics.shed_overload.increment(1);
        self.accounting.book(|totals| {
            totals.shed[0] += 1;
            totals.release([1, 0]);
        });
        Err(Refusal::Overloaded)
    }

    fn count(&self, verdict: &Result<Verdict, Refusal>) {
        let counters = &self.metrics.http;
        let counter = match verdict {
            Ok(Verdict::Committed) => &counters.committed,
            Ok(Verdict::Duplicate) => &counters.duplicate,
            Ok(Verdict::DeadLettered(_)) => &counters.dead_lettered,
            Err(Refusal::Payload(_)) => &counters.refused,
            Err(Refusal::RateLimited) => &counters.rate_limited,
            Err(Refusal::Overloaded | Refusal::Stopping) => &counters.overload,
            Err(Refusal::NoAnswer(_) | Refusal::Unstored | Refusal::Abandoned) => &counters.unanswered,
        };
        counter.increment(1);
    }
}
