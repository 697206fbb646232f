//! The canary: a client that a new set of files alone lets in, and that then tries what it may and what it must not.
//!
//! Mosquitto 2.0 that finds its access list broken, or gone, goes on without one: everybody may do everything. So no set
//! counts as in force before the broker has refused what it must refuse.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use tokio::time::{Instant, timeout_at};

use crate::broker::access_set::Canary;
use crate::lifecycle::backoff::Backoff;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::mqtt::publish::PublishError;

/// How long a publish that must be refused may go without being refused, once the broker knows the set.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long the broker may take to know the set: it reads the files, and checks every client against them, in its one thread.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Why a set is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Unproven {
    /// The broker does not let the canary in: it has not read the passwords, or cannot.
    #[error("{listener}: the broker does not know the new passwords: {source}")]
    Unknown {
        /// Where.
        listener: String,
        /// Its last word.
        #[source]
        source: ConnectionError,
    },
    /// The broker refuses what the new access list grants.
    #[error("{0}: the broker does not know the new access list")]
    NotGranted(String),
    /// The broker grants what nobody may do.
    #[error("{0}: the broker grants what it must refuse: its access list is not in force")]
    Open(String),
    /// The canary's topic is none: so is the base topic.
    #[error(transparent)]
    Topic(PublishError),
    /// The broker is silent.
    #[error("{0}: the broker does not answer the canary within {ANSWER_WITHIN:?}")]
    Silent(String),
    /// The connection ended in the middle.
    #[error("{listener}: {source}")]
    Broken {
        /// Where.
        listener: String,
        /// How.
        #[source]
        source: ConnectionError,
    },
}

impl Unproven {
    /// Whether the broker lets people do what they must not.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

/// Proves at each of `listeners` that the set of `canary` is in force.
///
/// # Errors
/// That one is open, else the first [`Unproven`].
pub async fn prove(listeners: &[MqttConfig], canary: &Canary) -> Result<(), Unproven> {
    let mut fault = None;
    for listener in listeners {
        match at(listener, canary).await {
            Ok(()) => {}
            // The worst there is, whatever else is wrong.
            Err(open) if open.is_open() => return Err(open),
            Err(other) => fault = fault.or(Some(other)),
        }
    }
    fault.map_or(Ok(()), Err)
}

async fn at(listener: &MqttConfig, canary: &Canary) -> Result<(), Unproven> {
    let name = format!("{}:{}", listener.host, listener.port);
    let mut connection = connect(listener, canary, &name).await?;
    // Granted first: the answer shows that the new list is in force, so that the refusal is the new list's too.
    let granted = publish(&mut connection, &canary.allowed, &name).await?;
    if !matches!(granted, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
        return Err(Unproven::NotGranted(name));
    }
    let refused = publish(&mut connection, &canary.refused, &name).await?;
    if refused != PubAckReason::NotAuthorized {
        return Err(Unproven::Open(name));
    }
    // It has done its work; how it ends is nobody's concern.
    drop(connection.disconnect(true).await);
    Ok(())
}

async fn connect(listener: &MqttConfig, canary: &Canary, name: &str) -> Result<Connection, Unproven> {
    let config = listener.errand(&canary.name, canary.password.clone());
    let deadline = Instant::now() + KNOWN_WITHIN;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match Connection::open(&config, &canary.name).await {
            Ok((connection, _)) => return Ok(connection),
            Err(source) if Instant::now() > deadline => {
                return Err(Unproven::Unknown {
                    listener: name.to_owned(),
                    source,
                });
            }
            Err(_) => tokio::time::sleep(backoff.next_wait()).await,
        }
    }
}

async fn publish(connection: &mut Connection, topic: &str, name: &str) -> Result<PubAckReason, Unproven> {
    let broken = |source| Unproven::Broken {
        listener: name.to_owned(),
        source,
    };
    let id = connection.publish(topic, QoS::AtLeastOnce, Bytes::new()).map_err(Unproven::Topic)?;
    let deadline = Instant::now() + ANSWER_WITHIN;
    loop {
        while let Some(packet) = connection.next_packet().map_err(broken)? {
            match packet {
                Packet::PubAck(ack) if ack.pkid == id => return Ok(ack.reason),
                _ => {}
            }
        }
        timeout_at(deadline, connection.turn(true))
            .await
            .map_err(|_| Unproven::Silent(name.to_owned()))?
            .map_err(broken)?;
    }
}
