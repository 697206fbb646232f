//! How devices are to be set: kept with a version, and retained at the broker, so that a device finds it whenever it comes.

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use crate::devices::desired::{self, Desired, DesiredError, Text};
use crate::devices::outbox::{self, Message};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::channels::Channel;
use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::topic::TopicTree;

/// Sets how a device is to be, in one transaction with the entry in the audit and the message to the device. With a version, that
/// must be the one that is there; 0 is none yet.
///
/// # Errors
/// See [`DesiredError`].
pub async fn set(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    id: &DeviceId,
    config: &Text,
    expected: Option<i32>,
) -> Result<Desired, DesiredError> {
    change(client, actor, tree, id, Some(config), expected).await
}

/// Has nothing wanted of a device any more, and the broker forget what was.
///
/// # Errors
/// See [`DesiredError`].
pub async fn delete(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    id: &DeviceId,
    expected: Option<i32>,
) -> Result<Desired, DesiredError> {
    change(client, actor, tree, id, None, expected).await
}

async fn change(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    id: &DeviceId,
    config: Option<&Text>,
    expected: Option<i32>,
) -> Result<Desired, DesiredError> {
    let transaction = client.transaction().await?;
    let (version, at) = desired::set(&transaction, id, config, actor.name(), expected).await?;
    let topic = Channel::Config.of_device(tree, DeviceIdRef::parse(id.as_str()).expect("an id is of the grammar of ids"));
    let action = match config {
        Some(config) => {
            let payload = payload(version, config, at);
            let message = Message {
                topic: &topic,
                payload: payload.as_bytes(),
                qos: i16::from(Channel::Config.spec().qos),
                retain: true,
                expires_at: None,
            };
            outbox::put(&transaction, &message).await?;
            Action::ConfigSet
        }
        None => {
            outbox::clear(&transaction, &[topic]).await?;
            Action::ConfigDelete
        }
    };
    audit::record(
        &transaction,
        &Act::new(actor, action, id.as_str(), Outcome::Done).with("version", version),
    )
    .await?;
    let now = desired::get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(now)
}

/// What the device gets: the configuration in it is as it was given, to the byte.
fn payload(version: i32, config: &Text, at: Timestamp) -> String {
    format!("{{\"version\":{version},\"config\":{},\"timestamp\":\"{at}\"}}", config.as_str())
}
