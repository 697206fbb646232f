//! A live tail of a filter passes through here: from a connection of its own at the broker to one reader, sampled and bounded.
//!
//! ```text
//! broker ─► tap (at most so many a second) ─► ring ─► reader; who reads too slowly, or not at all, loses messages and is told how many
//! ```
//!
//! A tap is for looking, not for taking: its session is a clean one, it acks what it gets at once, and it ends when nobody has
//! read for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule, SubscribeReasonCode};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::lifecycle::tasks::Tasks;
use crate::mqtt::config::Config;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::protocol::time;

/// Taps at once; each is a connection at the broker, and work for it.
pub const MOST_TAPS: usize = 16;
/// Messages a second that a tap passes on; what is above is counted and dropped.
pub const MOST_PER_SECOND: u32 = 200;
/// How long a tap goes on without a reader.
pub const UNREAD_FOR: Duration = Duration::from_secs(60);
/// How long it goes on at all.
pub const AT_MOST: Duration = Duration::from_secs(3_600);
/// Messages that wait for a slow reader.
const RING: usize = 512;
/// The bytes of a payload that are shown.
const SHOWN_BYTES: usize = 8 * 1024;
/// The longest wait for the SUBACK.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A message that was tapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tapped {
    /// Its topic.
    pub topic: String,
    /// The beginning of its payload.
    pub payload: Vec<u8>,
    /// The bytes of the whole payload.
    pub payload_bytes: usize,
    /// The QoS of the delivery to the tap.
    pub qos: u8,
    /// Whether it was a retained message.
    pub retain: bool,
    /// When it came, in microseconds since 1970.
    pub at: i64,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Message(Arc<Tapped>),
    /// So many were above the rate, and left out.
    Skipped(u64),
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Enough are open.
    #[error("{MOST_TAPS} live tails are open already; close one, or wait until one that nobody reads ends")]
    TooMany,
    /// The connection did not come about, or ended.
    #[error("the broker cannot be reached: {0}")]
    Connection(#[from] ConnectionError),
    /// The broker does not let us.
    #[error("the broker refused the subscription: {0:?}")]
    Refused(SubscribeReasonCode),
    /// The broker does not answer.
    #[error("the broker did not answer the subscription within {0:?}")]
    Silent(Duration),
}

/// All taps of this process.
#[derive(Debug, Clone)]
pub struct Taps {
    mqtt: Config,
    group: String,
    tasks: Tasks,
    open: Arc<Mutex<BTreeMap<Uuid, Open>>>,
}

#[derive(Debug, Clone)]
struct Open {
    ring: broadcast::Sender<Event>,
    end: CancellationToken,
}

impl Taps {
    /// None yet. Client ids begin with the installation's `group`.
    #[must_use]
    pub fn new(mqtt: Config, group: String, tasks: Tasks) -> Self {
        Self {
            mqtt: Config {
                clean_start: true,
                session_expiry: Duration::ZERO,
                // What is under way to a tap that lags is little.
                receive_maximum: 100,
                ..mqtt
            },
            group,
            tasks,
            open: Arc::default(),
        }
    }

    /// Opens a tap on `filter`, once the broker has taken the subscription.
    ///
    /// # Errors
    /// [`TapError`].
    pub async fn open(&self, filter: &str, qos: QoS) -> Result<Uuid, TapError> {
        let id = Uuid::now_v7();
        let (ring, _) = broadcast::channel(RING);
        let end = self.tasks.stop_token().child_token();
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= MOST_TAPS {
                return Err(TapError::TooMany);
            }
            let entry = Open {
                ring: ring.clone(),
                end: end.clone(),
            };
            open.insert(id, entry);
        }
        let place = Place { taps: self.clone(), id };
        let client_id = format!("iotflow-{}-tap-{}", self.group, id.simple());
        let connection = subscribe(&self.mqtt, &client_id, filter, qos).await?;
        let filter = filter.to_owned();
        self.tasks.spawn(format!("tap-{}", id.simple()), async move {
            info!(%id, filter, "tapping");
            let why = run(connection, &ring, &end).await;
            info!(%id, filter, why, "tapping ended");
            drop(place);
        });
        Ok(id)
    }

    /// A reader of the tap `id`, if it is open, and what ends with it.
    #[must_use]
    pub fn read(&self, id: Uuid) -> Option<(broadcast::Receiver<Event>, CancellationToken)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).map(|tap| (tap.ring.subscribe(), tap.end.clone()))
    }

    /// Ends the tap `id`; returns whether it was open.
    #[must_use]
    pub fn close(&self, id: Uuid) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(&id).inspect(|tap| tap.end.cancel()).is_some()
    }
}

/// A tap's place among the open ones, given back however it ends.
struct Place {
    taps: Taps,
    id: Uuid,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.taps.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tap) = open.remove(&self.id) {
            tap.end.cancel();
        }
    }
}

async fn subscribe(config: &Config, client_id: &str, filter: &str, qos: QoS) -> Result<Connection, TapError> {
    let (mut connection, _) = Connection::open(config, client_id).await?;
    let mut wanted = Filter::new(filter, qos);
    wanted.preserve_retain = true;
    wanted.retain_forward_rule = RetainForwardRule::OnEverySubscribe;
    connection.subscribe(vec![wanted])?;
    let answered = async {
        loop {
            connection.turn(true).await?;
            while let Some(packet) = connection.next_packet()? {
                if let Packet::SubAck(answer) = packet {
                    return match answer.return_codes.first() {
                        Some(SubscribeReasonCode::Success(_)) => Ok(()),
                        other => Err(TapError::Refused(other.copied().unwrap_or(SubscribeReasonCode::Unspecified))),
                    };
                }
            }
        }
    };
    timeout(ANSWER_WITHIN, answered)
        .await
        .map_err(|_| TapError::Silent(ANSWER_WITHIN))??;
    Ok(connection)
}

/// Passes on until nobody reads, or it is told to end; says why it ended.
async fn run(mut connection: Connection, ring: &broadcast::Sender<Event>, end: &CancellationToken) -> &'static str {
    let begun = Instant::now();
    let mut read_at = begun;
    let (mut left, mut skipped) = (MOST_PER_SECOND, 0_u64);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let why = loop {
        tokio::select! {
            () = end.cancelled() => break "it was closed",
            _ = tick.tick() => {
                left = MOST_PER_SECOND;
                if skipped > 0 {
                    // Nobody there to be told is no fault.
                    drop(ring.send(Event::Skipped(std::mem::take(&mut skipped))));
                }
                if ring.receiver_count() > 0 {
                    read_at = Instant::now();
                }
                if read_at.elapsed() > UNREAD_FOR {
                    break "nobody read it";
                }
                if begun.elapsed() > AT_MOST {
                    break "its time was over";
                }
                continue;
            }
            turned = connection.turn(true) => if turned.is_err() { return "the connection ended" },
        }
        loop {
            match connection.next_packet() {
                Ok(Some(Packet::Publish(publish))) => {
                    if publish.qos == QoS::AtLeastOnce {
                        connection.ack(publish.pkid);
                    }
                    if left == 0 {
                        skipped += 1;
                        continue;
                    }
                    left -= 1;
                    drop(ring.send(Event::Message(Arc::new(tapped(&publish)))));
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return "the connection ended",
            }
        }
    };
    // The session ends with the connection; a broker that does not part in peace changes nothing.
    drop(connection.disconnect(true).await);
    why
}

fn tapped(publish: &Publish) -> Tapped {
    Tapped {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload: publish.payload[..publish.payload.len().min(SHOWN_BYTES)].to_vec(),
        payload_bytes: publish.payload.len(),
        qos: publish.qos as u8,
        retain: publish.retain,
        at: time::now(),
    }
}
