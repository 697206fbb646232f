//! A message that an operator publishes: checked against the topic tree, said, and noted with what became of it.

use tokio_postgres::{Error, GenericClient};

use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::principal::Role;
use crate::mqtt::publish::{Message, QoS};
use crate::mqtt::publisher::{Answer, Failure, Handle};
use crate::protocol::channels::{self, Direction};
use crate::protocol::topic::TopicTree;

/// Why a message was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It is no topic of any broker.
    #[error("{0:?} is no topic to publish on: {1}")]
    Topic(String, String),
    /// It is outside the tree's base.
    #[error("{0:?} is not below {1}/, and this service publishes nowhere else")]
    Outside(String, String),
    /// Only an admin may.
    #[error("{0:?} is {1}; publishing there needs the role admin")]
    Role(String, &'static str),
    /// What the channel forbids.
    #[error("messages on {0:?} are never retained: a device would act on an old command each time it connects")]
    Retained(String),
    /// The broker did not take it.
    #[error(transparent)]
    Broker(#[from] Failure),
    /// It was said, and could not be noted.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// What became of a message that the broker was asked to take, and who asked: not on record yet.
#[derive(Debug)]
#[must_use = "what was done is to be on record"]
pub struct Said {
    actor: Actor,
    topic: String,
    qos: QoS,
    retain: bool,
    payload_bytes: usize,
    answer: Result<Answer, Failure>,
}

/// Publishes `message` for `actor`. No connection to the database is needed, nor kept, while the broker takes its time.
///
/// # Errors
/// [`PublishError`] where nothing was asked of the broker. What it said is in [`Said`].
pub async fn publish(publisher: &Handle, tree: &TopicTree, (actor, role): (Actor, Role), message: Message) -> Result<Said, PublishError> {
    check(tree, role, &message)?;
    let (topic, qos, retain, payload_bytes) = (message.topic.clone(), message.qos, message.retain, message.payload.len());
    let answer = publisher.publish(message).await;
    Ok(Said {
        actor,
        topic,
        qos,
        retain,
        payload_bytes,
        answer,
    })
}

impl Said {
    /// Writes the audit, whatever the broker said, and tells what it was.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn note(self, client: &impl GenericClient) -> Result<Answer, PublishError> {
        let outcome = match &self.answer {
            Ok(_) => Outcome::Done,
            Err(Failure::Refused(_)) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        };
        let mut act = Act::new(&self.actor, Action::MessagePublish, &self.topic, outcome)
            .with("qos", self.qos as u8)
            .with("retain", self.retain)
            .with("payload_bytes", self.payload_bytes);
        if let Err(failure) = &self.answer {
            act = act.with("reason", failure.to_string());
        }
        audit::record(client, &act).await?;
        Ok(self.answer?)
    }
}

/// Whether somebody of this role may publish it: operators on the channels of devices and of fleets, admins anywhere in the tree.
fn check(tree: &TopicTree, role: Role, message: &Message) -> Result<(), PublishError> {
    let topic = || message.topic.clone();
    let faults = channels::name_faults(&message.topic);
    if !faults.is_empty() {
        return Err(PublishError::Topic(topic().chars().take(100).collect(), faults.join("; ")));
    }
    let below = message.topic.strip_prefix(tree.base()).is_some_and(|rest| rest.starts_with('/'));
    if !below {
        return Err(PublishError::Outside(topic(), tree.base().to_owned()));
    }
    let parsed = channels::parse(tree, &message.topic).ok().map(|parsed| parsed.channel.spec());
    match parsed {
        Some(spec) if message.retain && !spec.retain && spec.direction == Direction::Down => return Err(PublishError::Retained(topic())),
        // Credentials and receipts are the service's word.
        Some(spec) if matches!(spec.topic_type, "discovery" | "receipts") && !role.allows(Role::Admin) => {
            return Err(PublishError::Role(topic(), "the service's own word to a device"));
        }
        Some(spec) if spec.direction == Direction::Admin && !role.allows(Role::Admin) => {
            return Err(PublishError::Role(topic(), "a channel of the service's own"));
        }
        None if !role.allows(Role::Admin) => return Err(PublishError::Role(topic(), "no channel of the tree")),
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::publish::Properties;

    #[test]
    fn operators_speak_to_devices_and_admins_everywhere_in_the_tree() {
        let tree = TopicTree::new("iotflow").expect("a base topic");
        let judge = |topic: &str, role, retain| {
            let message = Message {
                topic: topic.to_owned(),
                payload: bytes::Bytes::new(),
                qos: QoS::AtLeastOnce,
                retain,
                properties: Properties::default(),
            };
            check(&tree, role, &message).map_err(|error| error.to_string())
        };
        assert_eq!(judge("iotflow/devices/a/commands/control", Role::Operator, false), Ok(()));
        assert_eq!(judge("iotflow/devices/a/telemetry", Role::Operator, false), Ok(()));
        assert_eq!(judge("iotflow/anything/else", Role::Admin, true), Ok(()));
        for (topic, role, retain, why) in [
            ("iotflow/devices/a/commands/control", Role::Admin, true, "never retained"),
            ("iotflow/fleet/commands/north", Role::Admin, true, "never retained"),
            ("iotflow/discovery/response/a", Role::Operator, false, "needs the role admin"),
            ("iotflow/devices/a/receipts", Role::Operator, false, "needs the role admin"),
            ("iotflow/system/health", Role::Operator, false, "needs the role admin"),
            ("iotflow/anything", Role::Operator, false, "needs the role admin"),
            ("other/topic", Role::Admin, false, "not below iotflow/"),
            ("iotflow", Role::Admin, false, "not below iotflow/"),
            ("iotflow/+/x", Role::Admin, false, "wildcard"),
            ("", Role::Admin, false, "empty"),
        ] {
            let refused = judge(topic, role, retain).expect_err(topic);
            assert!(refused.contains(why), "{topic}: {refused}");
        }
    }
}
