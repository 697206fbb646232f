//! What devices say to us beside telemetry: taken apart by channel, stored a batch at a time, acked after the commit.

use deadpool_postgres::Pool;
use rumqttc::v5::mqttbytes::v5::Publish;
use tokio_postgres::Error;
use tracing::warn;

use crate::db::error::{Fault, describe};
use crate::devices::commands::answers::{self, Fate, Heard};
use crate::devices::desired::{self, BadConfig, Text};
use crate::devices::refused::{self, Refused};
use crate::observe::metrics::CourierMetrics;
use crate::protocol::channels::{self, Channel};
use crate::protocol::command::Answer;
use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::reject::{Reason, Rejection};
use crate::protocol::topic::TopicTree;

use super::desk::Trouble;
use super::discovery::Registration;

/// The channels that are subscribed to.
pub(super) const CHANNELS: [Channel; 3] = [Channel::CommandsResponse, Channel::ConfigReported, Channel::DiscoveryRegister];

/// What was said.
#[derive(Debug)]
enum Told {
    Answer(Heard),
    Reported(DeviceId, Text, Option<i32>),
    Registration(DeviceId),
    /// The device says more than it may. Nobody looks at what.
    TooMuch,
}

/// A delivery of the broker's.
#[derive(Debug)]
pub(super) struct Incoming {
    /// 0 at QoS 0.
    pub(super) packet_id: u16,
    publish: Publish,
    told: Result<Told, Rejection>,
}

impl Incoming {
    /// Takes a delivery apart, unless it is `too_much` of its device. What comes on a further channel gets its arm here, and in
    /// [`store`].
    pub(super) fn new(tree: &TopicTree, publish: Publish, too_much: impl FnOnce(DeviceIdRef<'_>) -> bool) -> Self {
        let told = told(tree, &publish, too_much);
        Self {
            packet_id: publish.pkid,
            publish,
            told,
        }
    }
}

fn told(tree: &TopicTree, publish: &Publish, too_much: impl FnOnce(DeviceIdRef<'_>) -> bool) -> Result<Told, Rejection> {
    let unknown = |detail: String| Rejection::new(Reason::UnknownTopic, detail);
    let topic = std::str::from_utf8(&publish.topic).map_err(|_| unknown("the topic is not UTF-8".to_owned()))?;
    let parsed = channels::parse(tree, topic).map_err(|faults| unknown(faults.to_string()))?;
    // What comes again was charged the first time. Who registers is not the device yet, and may name any; the clerk has a limit of its own.
    let is_the_devices = !publish.dup && parsed.channel != Channel::DiscoveryRegister;
    if is_the_devices && parsed.device.as_ref().is_some_and(|device| too_much(device.borrowed())) {
        return Ok(Told::TooMuch);
    }
    let correlation = publish
        .properties
        .as_ref()
        .and_then(|properties| properties.correlation_data.as_deref());
    match (parsed.channel, parsed.device) {
        (Channel::CommandsResponse, Some(device)) => {
            let answer = Answer::parse(&publish.payload, correlation)?;
            Ok(Told::Answer(Heard { device, answer }))
        }
        (Channel::ConfigReported, Some(device)) => {
            let (config, version) = configuration(&publish.payload)?;
            Ok(Told::Reported(device, config, version))
        }
        (Channel::DiscoveryRegister, Some(device)) => Ok(Told::Registration(device)),
        _ => Err(unknown("nothing is awaited on this topic".to_owned())),
    }
}

/// A configuration is a JSON object; where it has a whole number `version`, that is the version of it.
fn configuration(payload: &[u8]) -> Result<(Text, Option<i32>), Rejection> {
    let text = std::str::from_utf8(payload).map_err(|error| Rejection::new(Reason::BadUtf8, error.to_string()))?;
    let config = Text::parse(text).map_err(|error| {
        let reason = match error {
            BadConfig::Length(_) => Reason::PayloadTooLarge,
            BadConfig::NoObject(_) => Reason::NotObject,
        };
        Rejection::new(reason, error.to_string())
    })?;
    let members: serde_json::Value = serde_json::from_str(config.as_str()).unwrap_or_default();
    let version = members["version"].as_i64().and_then(|version| i32::try_from(version).ok());
    Ok((config, version))
}

/// What became of a batch, for the counters.
#[derive(Debug, Default)]
struct Tally {
    applied: Vec<&'static str>,
    late: u64,
    repeated: u64,
    refused: u64,
    rate_limited: u64,
}

/// Stores a batch; when this returns, all of it may be acked. Where the database refuses what one of them carries, that one becomes
/// a dead letter and the others are stored.
pub(super) async fn store(pool: &Pool, metrics: &CourierMetrics, batch: &mut [Incoming]) -> Result<(), Trouble> {
    let tally = match together(pool, batch).await {
        Ok(tally) => tally,
        Err(Trouble::Database(error)) if is_refusal(&error) => {
            warn!(
                error = describe(&error),
                "the database refused what a device said; it is looked for"
            );
            let mut sum = Tally::default();
            for incoming in batch {
                let one = std::slice::from_mut(incoming);
                let tally = match together(pool, one).await {
                    Err(Trouble::Database(error)) if is_refusal(&error) => {
                        one[0].told = Err(Rejection::new(Reason::RejectedByDatabase, describe(&error)));
                        together(pool, one).await?
                    }
                    stored => stored?,
                };
                sum.applied.extend(tally.applied);
                sum.late += tally.late;
                sum.repeated += tally.repeated;
                sum.refused += tally.refused;
                sum.rate_limited += tally.rate_limited;
            }
            sum
        }
        Err(trouble) => return Err(trouble),
    };
    for state in &tally.applied {
        metrics.came_into(state, 1);
    }
    metrics.applied.increment(tally.applied.len() as u64);
    metrics.late.increment(tally.late);
    metrics.repeated.increment(tally.repeated);
    metrics.refused.increment(tally.refused);
    metrics.rate_limited.increment(tally.rate_limited);
    Ok(())
}

/// Whether another attempt with the same rows would end the same way.
fn is_refusal(error: &Error) -> bool {
    // Class 54 is a limit of the server's own, such as how deep it parses.
    let limit = error.code().is_some_and(|code| code.code().starts_with("54"));
    limit || matches!(Fault::of(error), Fault::Row { .. } | Fault::Duplicate)
}

async fn together(pool: &Pool, batch: &[Incoming]) -> Result<Tally, Trouble> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let mut tally = Tally::default();
    let heard: Vec<Heard> = batch.iter().filter_map(Incoming::answer).cloned().collect();
    let fates = if heard.is_empty() {
        Vec::new()
    } else {
        answers::apply(&*transaction, &heard).await?
    };
    let mut fates = fates.into_iter();
    let unknown = Rejection::new(Reason::UnknownCommand, "no command of this id was sent to this device");
    let mut refusals: Vec<(&Incoming, &Rejection)> = Vec::new();
    for incoming in batch {
        match &incoming.told {
            Ok(Told::Answer(_)) => match fates.next() {
                Some(Fate::Applied(state)) => tally.applied.push(state.as_str()),
                Some(Fate::Late) => tally.late += 1,
                Some(Fate::Repeated) => tally.repeated += 1,
                Some(Fate::Unknown) | None => refusals.push((incoming, &unknown)),
            },
            Ok(Told::Reported(device, config, version)) => {
                desired::note_reported(&*transaction, device.borrowed(), *version, config).await?;
            }
            // The clerk's; handed over when the batch is stored.
            Ok(Told::Registration(_)) => {}
            Ok(Told::TooMuch) => tally.rate_limited += 1,
            Err(rejection) => refusals.push((incoming, rejection)),
        }
    }
    let topics: Vec<_> = refusals
        .iter()
        .map(|(incoming, _)| String::from_utf8_lossy(&incoming.publish.topic))
        .collect();
    let letters: Vec<Refused<'_>> = refusals
        .iter()
        .zip(&topics)
        .map(|(&(incoming, rejection), topic)| Refused {
            topic,
            qos: incoming.publish.qos as u8,
            payload: &incoming.publish.payload,
            rejection,
        })
        .collect();
    refused::keep(&*transaction, &letters).await?;
    tally.refused = letters.len() as u64;
    transaction.commit().await?;
    Ok(tally)
}

impl Incoming {
    /// The registration that it is, if it is one.
    pub(super) fn registration(&self) -> Option<Registration> {
        match &self.told {
            Ok(Told::Registration(device)) => Some(Registration {
                device: device.clone(),
                payload: self.publish.payload.clone(),
            }),
            _ => None,
        }
    }

    fn answer(&self) -> Option<&Heard> {
        match &self.told {
            Ok(Told::Answer(heard)) => Some(heard),
            _ => None,
        }
    }
}
