//! Registrations pass through here: from `discovery/register` into the database, and credentials out on `discovery/response`.
//!
//! ```text
//! discovery/register/{id} ─► inbox (bounded) ─► request ─► discovery_requests ◄─ approve, reject (operators)
//! discovery/response/{id} ◄──────────── publisher ◄──────────── make ◄┘
//! ```
//!
//! Credentials count as given when the broker says that somebody listened. They are in no table and in no log: a device that
//! missed them asks again, and gets others.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use deadpool_postgres::Pool;
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
use crate::operations::discovery::{self, Introduction, Made, Policy, Told};
use crate::protocol::channels::Channel;
use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::topic::TopicTree;

/// Registrations that wait to be looked at.
const INBOX: usize = 256;
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
            // A thousand devices in under ten minutes; each costs the broker a reload of its files.
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
    pub fn put(&self, registration: Registration) {
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
    actor: Actor,
    /// Registrations that may be looked at, as of `refilled`.
    tokens: f64,
    refilled: Instant,
}

impl Clerk {
    /// A clerk, and the way to it. `dropped` counts registrations that were not looked at.
    #[must_use]
    pub fn new(config: Config, tree: TopicTree, pool: Pool, publisher: Handle, dropped: Counter) -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let clerk = Self {
            config,
            tree,
            pool,
            publisher,
            inbox,
            dropped: dropped.clone(),
            actor: Actor::new("service", "discovery"),
            tokens: f64::from(config.rate_per_minute),
            refilled: Instant::now(),
        };
        (clerk, Inbox { sender, dropped })
    }

    /// Works until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                Some(registration) = self.inbox.recv() => self.take(registration).await,
                _ = look.tick() => Ok(()),
            };
            let outcome = match outcome {
                Ok(()) if self.config.policy != Policy::Off => {
                    tokio::select! { () = stop.cancelled() => return, made = self.answer_all() => made }
                }
                other => other,
            };
            if let Err(error) = outcome {
                warn!(
                    error = format!("{error:#}"),
                    "a registration could not be dealt with; the device asks again"
                );
            }
        }
    }

    async fn take(&mut self, registration: Registration) -> anyhow::Result<()> {
        if !self.may_look() {
            self.dropped.increment(1);
            return Ok(());
        }
        let device = DeviceIdRef::parse(registration.device.as_str())?;
        let told = match Introduction::read(&registration.payload) {
            Ok(introduction) => {
                let mut client = self.pool.get().await?;
                let limits = (self.config.policy, self.config.most_pending);
                discovery::request(&mut **client, limits, device, &introduction).await?
            }
            Err(bad) => {
                self.tell(device, &json!({"status": "rejected", "reason": bad.to_string()})).await;
                return Ok(());
            }
        };
        match told {
            // The credentials follow.
            Told::Approved => {}
            Told::Pending => {
                info!(device = device.as_str(), "a device asks for credentials and waits for approval");
                self.tell(device, &json!({"status": "pending"})).await;
            }
            Told::Rejected(reason) => self.tell(device, &json!({"status": "rejected", "reason": reason})).await,
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
            let mut client = self.pool.get().await?;
            let Some(made) = discovery::make(&mut **client, &self.actor).await? else {
                return Ok(());
            };
            drop(client);
            self.until_in_force(made.version).await?;
            self.give(&made).await?;
        }
    }

    async fn give(&self, made: &Made) -> anyhow::Result<()> {
        let device = DeviceIdRef::parse(&made.claimed.device)?;
        // An operator may have taken the approval back meanwhile, and the credentials with it.
        if !rows::is_approved(&**self.pool.get().await?, device).await? {
            return Ok(());
        }
        let credentials = json!({"username": made.claimed.device, "password": made.password.reveal()});
        let answer = match &made.claimed.public_key {
            None => json!({"status": "approved", "credentials": credentials}),
            Some(key) => {
                let sealed = seal(key, device.as_str().as_bytes(), &Secret::new(credentials.to_string()))?;
                json!({"status": "approved", "sealed": sealed})
            }
        };
        match self.publisher.publish(self.message(device, &answer)).await {
            Ok(Answer::Taken) => {
                let mut client = self.pool.get().await?;
                discovery::issued(&mut **client, &self.actor, device, made.claimed.public_key.is_some()).await?;
                info!(device = device.as_str(), "a device was given its credentials");
            }
            Ok(Answer::NoSubscribers) => info!(
                device = device.as_str(),
                "an approved device does not listen; it gets its credentials when it asks again"
            ),
            Err(failure) => {
                warn!(device = device.as_str(), %failure, "credentials could not be published; the device gets others when it asks again")
            }
        }
        Ok(())
    }

    /// Waits until the broker lets the device in: it will try at once.
    async fn until_in_force(&self, version: i64) -> anyhow::Result<()> {
        let deadline = Instant::now() + IN_FORCE_WITHIN;
        let mut look = tokio::time::interval(Duration::from_millis(50));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let access = Access::read(&**self.pool.get().await?).await?;
            if access.is_none_or(|access| access.applied_version < 0 || access.applied_version >= version) || Instant::now() > deadline {
                return Ok(());
            }
        }
    }
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
