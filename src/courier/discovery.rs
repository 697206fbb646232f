//! Registrations pass through here: from `discovery/register` into the database, and credentials out on `discovery/response`.
//!
//! ```text
//! discovery/register/{id} ─► inbox (bounded) ─► request ─► discovery_requests ◄─ approve, reject (operators)
//! discovery/response/{id} ◄──────────── publisher ◄──────────── make ◄┘
//! ```
//!
//! All who wait are dealt with together, for a crowd that is switched on at once costs the broker one change of its files then, and not
//! one a device.
//!
//! Credentials count as given when the broker says that somebody listened. They are in no table and in no log: a device that
//! missed them asks again, and gets others.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use deadpool_postgres::Pool;
use futures_util::future::join_all;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeS, Serializable as _};
use jiff::Timestamp;
use metrics::Counter;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::state::State as Access;
use crate::devices::discovery as rows;
use crate::identity::audit::Actor;
use crate::mqtt::publish::{Message, Properties, QoS};
use crate::mqtt::publisher::{Answer, Handle};
use crate::observe::secret::Secret;
use crate::operations::discovery::{self, Introduction, MAX_REQUEST_BYTES, Made, Policy, Told};
use crate::protocol::channels::Channel;
use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::topic::TopicTree;

/// Registrations that wait to be looked at: those of a crowd, for as long as the broker takes to let the crowd before it in.
const INBOX: usize = 1_024;
/// Answers that are under way to the broker at once, and go on record together.
const UNDER_WAY: usize = 100;
/// How often it is looked whether an operator has approved somebody.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the broker may take to let a new device in before it is told its credentials all the same.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(10);
/// How long the broker keeps an answer for a device whose connection broke.
const ANSWER_EXPIRY: Duration = Duration::from_secs(60);
/// What a sealed answer is for (RFC 9180, 5.1: info).
pub const SEAL_INFO: &[u8] = b"iotflow discovery 1";
/// How a sealed answer is sealed (RFC 9180, 7).
pub const SEAL_SUITE: &str = "DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305";

/// Who gets credentials, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Who.
    pub policy: Policy,
    /// Registrations a minute that are looked at; what is above is dropped.
    pub rate_per_minute: u32,
    /// Devices that may wait for approval.
    pub most_pending: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::Approval,
            // A thousand devices in under ten minutes.
            rate_per_minute: 120,
            most_pending: 1_000,
        }
    }
}

/// A registration on its way.
#[derive(Debug)]
pub struct Registration {
    /// Who asks, as the topic says.
    pub device: DeviceId,
    /// What it says of itself.
    pub payload: Bytes,
}

/// The way to the clerk. A full inbox drops: who asks for credentials asks again.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: mpsc::Sender<Registration>,
    dropped: Counter,
}

impl Inbox {
    /// Puts a registration in, or drops it.
    pub fn put(&self, mut registration: Registration) {
        // Enough to see that it is too large: what waits must not fill the memory.
        if registration.payload.len() > MAX_REQUEST_BYTES {
            registration.payload = Bytes::copy_from_slice(&registration.payload[..=MAX_REQUEST_BYTES]);
        }
        if self.sender.try_send(registration).is_err() {
            self.dropped.increment(1);
        }
    }
}

/// Whoever looks after registrations.
#[derive(Debug)]
pub struct Clerk {
    config: Config,
    tree: TopicTree,
    pool: Pool,
    publisher: Handle,
    inbox: mpsc::Receiver<Registration>,
    dropped: Counter,
    refused: Counter,
    actor: Actor,
    /// Registrations that may be looked at, as of `refilled`.
    tokens: f64,
    refilled: Instant,
}

impl Clerk {
    /// A clerk, and the way to it. `dropped` counts registrations that were not looked at, `refused` those with another key than was
    /// announced.
    #[must_use]
    pub fn new(config: Config, tree: TopicTree, pool: Pool, publisher: Handle, [dropped, refused]: [Counter; 2]) -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let clerk = Self {
            config,
            tree,
            pool,
            publisher,
            inbox,
            dropped: dropped.clone(),
            refused,
            actor: Actor::new("service", "discovery"),
            tokens: f64::from(config.rate_per_minute),
            refilled: Instant::now(),
        };
        (clerk, Inbox { sender, dropped })
    }

    /// Works until told to stop. Whatever has gathered meanwhile is dealt with at once: one look at the database, one change of the
    /// broker's files, and then all answers.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return,
                Some(registration) = self.inbox.recv() => Some(registration),
                _ = look.tick() => None,
            };
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.work(first) => outcome,
            };
            if let Err(error) = outcome {
                warn!(
                    error = format!("{error:#}"),
                    "registrations could not be dealt with; the devices ask again"
                );
            }
        }
    }

    async fn work(&mut self, first: Option<Registration>) -> anyhow::Result<()> {
        if let Some(first) = first {
            let mut registrations = vec![first];
            while let Ok(next) = self.inbox.try_recv() {
                registrations.push(next);
            }
            self.take(registrations).await?;
        }
        if self.config.policy != Policy::Off {
            self.answer_all().await?;
        }
        Ok(())
    }

    async fn take(&mut self, registrations: Vec<Registration>) -> anyhow::Result<()> {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for registration in registrations {
            if !self.may_look() {
                self.dropped.increment(1);
                continue;
            }
            match Introduction::read(&registration.payload) {
                Ok(introduction) => requests.push((registration.device, introduction)),
                Err(bad) => answers.push((registration.device, rejection(&bad.to_string()))),
            }
        }
        let limits = (self.config.policy, self.config.most_pending);
        let told = {
            let mut client = self.pool.get().await?;
            discovery::request(&mut **client, &self.actor, limits, &requests).await?
        };
        for ((device, _), told) in requests.into_iter().zip(told) {
            match told {
                // The credentials follow.
                Told::Approved => {}
                Told::Pending => {
                    info!(device = device.as_str(), "a device asks for credentials and waits for approval");
                    answers.push((device, json!({"status": "pending"})));
                }
                Told::Rejected(reason) => answers.push((device, rejection(reason))),
                Told::WrongKey => {
                    warn!(
                        device = device.as_str(),
                        "somebody asks for an announced device with another key than was announced"
                    );
                    self.refused.increment(1);
                    answers.push((device, rejection("this device was announced with another key")));
                }
            }
        }
        for some in answers.chunks(UNDER_WAY) {
            join_all(some.iter().map(|(device, answer)| self.tell(device.borrowed(), answer))).await;
        }
        Ok(())
    }

    /// Takes one from the bucket that fills by the minute.
    fn may_look(&mut self) -> bool {
        let rate = f64::from(self.config.rate_per_minute);
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.refilled).as_secs_f64() * rate / 60.0).min(rate);
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    async fn tell(&self, device: DeviceIdRef<'_>, answer: &Value) {
        if let Err(failure) = self.publisher.publish(self.message(device, answer)).await {
            warn!(device = device.as_str(), %failure, "an answer to a registration could not be published");
        }
    }

    fn message(&self, device: DeviceIdRef<'_>, answer: &Value) -> Message {
        let mut answer = answer.clone();
        answer["device_id"] = device.as_str().into();
        answer["timestamp"] = Timestamp::now().to_string().into();
        Message {
            topic: Channel::DiscoveryResponse.of_device(&self.tree, device),
            payload: answer.to_string().into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties {
                expiry: Some(ANSWER_EXPIRY),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
        }
    }

    /// Makes and tells the credentials of all who were approved and are listening.
    async fn answer_all(&self) -> anyhow::Result<()> {
        loop {
            let batch = discovery::make(&mut **self.pool.get().await?, &self.actor).await?;
            let Some(batch) = batch else { return Ok(()) };
            self.until_in_force(batch.version).await;
            let mut outcome = Ok(());
            // Whatever befalls some of them, the others are told: what is made here is nowhere else.
            for some in batch.made.chunks(UNDER_WAY) {
                outcome = outcome.and(self.give(some).await);
            }
            outcome?;
        }
    }

    async fn give(&self, made: &[Made]) -> anyhow::Result<()> {
        let devices: Vec<&str> = made.iter().map(|made| made.claimed.device.as_str()).collect();
        // An operator may have taken an approval back meanwhile, and the credentials with it.
        let approved = rows::approved(&**self.pool.get().await?, &devices).await?;
        let given = made.iter().filter(|made| approved.contains(&made.claimed.device));
        let given = join_all(given.map(|made| self.give_one(made))).await;
        let given: HashMap<&str, bool> = given.into_iter().flatten().collect();
        discovery::issued(&mut **self.pool.get().await?, &self.actor, &given).await?;
        Ok(())
    }

    /// Tells a device its credentials; returns it, and whether they were sealed, where it has heard them.
    async fn give_one<'a>(&self, made: &'a Made) -> Option<(&'a str, bool)> {
        let device = made.claimed.device.as_str();
        let (answer, id) = match (answer(made), DeviceIdRef::parse(device)) {
            (Ok(answer), Ok(id)) => (answer, id),
            (Err(error), _) => {
                warn!(device, %error, "credentials cannot be told");
                return None;
            }
            // The table's own check allows no such id.
            (_, Err(_)) => return None,
        };
        match self.publisher.publish(self.message(id, &answer)).await {
            Ok(Answer::Taken) => {
                info!(device, "a device was given its credentials");
                return Some((device, made.claimed.public_key.is_some()));
            }
            Ok(Answer::NoSubscribers) => info!(
                device,
                "an approved device does not listen; it gets its credentials when it asks again"
            ),
            Err(failure) => {
                warn!(device, %failure, "credentials could not be published; the device gets others when it asks again")
            }
        }
        None
    }

    /// Waits until the broker lets the devices in: they will try at once.
    async fn until_in_force(&self, version: i64) {
        let deadline = Instant::now() + IN_FORCE_WITHIN;
        let mut look = tokio::time::interval(Duration::from_millis(50));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < deadline {
            look.tick().await;
            if self.is_in_force(version).await.unwrap_or(false) {
                return;
            }
        }
    }

    async fn is_in_force(&self, version: i64) -> anyhow::Result<bool> {
        let access = Access::read(&**self.pool.get().await?).await?;
        Ok(access.is_none_or(|access| access.applied_version < 0 || access.applied_version >= version))
    }
}

fn rejection(reason: &str) -> Value {
    json!({"status": "rejected", "reason": reason})
}

/// What a device is told that gets credentials.
fn answer(made: &Made) -> anyhow::Result<Value> {
    let Made { claimed, password } = made;
    let credentials = json!({"username": claimed.device, "password": password.reveal()});
    Ok(match &claimed.public_key {
        None => json!({"status": "approved", "credentials": credentials}),
        Some(key) => {
            let sealed = seal(key, claimed.device.as_bytes(), &Secret::new(credentials.to_string()))?;
            json!({"status": "approved", "sealed": sealed})
        }
    })
}

/// Seals `text` to whoever has the secret key of `public_key`; `device` is authenticated along (RFC 9180, base mode).
///
/// # Errors
/// When the key is none.
fn seal(public_key: &[u8], device: &[u8], text: &Secret) -> anyhow::Result<Value> {
    let refused = |error| anyhow::anyhow!("the device's public key cannot be used: {error}");
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(public_key).map_err(refused)?;
    let plain = text.reveal().as_bytes();
    let sealed = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &key, SEAL_INFO, plain, device);
    let (encapsulated, sealed) = sealed.map_err(refused)?;
    Ok(json!({
        "suite": SEAL_SUITE,
        "enc": STANDARD.encode(encapsulated.to_bytes()),
        "ciphertext": STANDARD.encode(sealed),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hpke::OpModeR;

    #[test]
    fn what_is_sealed_only_its_device_can_open() {
        let (secret, public) = X25519HkdfSha256::gen_keypair();
        let sealed = seal(&public.to_bytes(), b"sensor_001", &Secret::new("hidden")).expect("a sound key");
        let part = |name: &str| STANDARD.decode(sealed[name].as_str().expect("text")).expect("base64");
        assert!(!sealed.to_string().contains("hidden"));
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&part("enc")).expect("a key");
        let open = |device: &[u8]| {
            hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &secret,
                &encapsulated,
                SEAL_INFO,
                &part("ciphertext"),
                device,
            )
        };
        assert_eq!(open(b"sensor_001").expect("it is ours"), b"hidden");
        assert!(open(b"sensor_002").is_err());
    }
}
