//! Dead letters are given another chance here, or removed for good, each act with its entry in the audit.
//!
//! A replay publishes the letter's payload on its topic again, and removes the letter once the broker has it: it then goes the
//! way of any message, and if it still breaks a rule it becomes a new dead letter. It is claimed meanwhile, so that nobody else
//! publishes it too. Should we end between the broker's ack and the commit, the letter stays although it was published; a message
//! with a time of its own is recognised when it comes again.

use tokio_postgres::{Error, GenericClient};
use uuid::Uuid;

use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::ingest::dead_letter::kept::{self, Letter, Purge};
use crate::mqtt::publish::{Message, QoS};
use crate::mqtt::publisher::{Answer, Failure, Handle};
use crate::protocol::channels::{self, Direction};
use crate::protocol::topic::TopicTree;

/// Why a letter was not replayed. It is kept.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is none.
    #[error("there is no dead letter {0}")]
    Unknown(Uuid),
    /// Somebody else is at it.
    #[error("dead letter {0} is being replayed by somebody else")]
    Busy(Uuid),
    /// It would come back at once.
    #[error("its topic is none that devices publish on, so it would be a dead letter again: {0}")]
    Topic(String),
    /// It would be lost.
    #[error("nobody is subscribed to its topic, so the broker would forget it; is ingest running, with this base topic?")]
    NoSubscribers,
    /// The broker did not take it.
    #[error(transparent)]
    Publish(#[from] Failure),
    /// The database's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[source] Error),
}

impl From<Error> for ReplayError {
    fn from(error: Error) -> Self {
        Self::Database(error)
    }
}

/// Publishes a letter again, and removes it. Returns the letter as it was.
///
/// # Errors
/// See [`ReplayError`].
pub async fn replay(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    publisher: &Handle,
    id: Uuid,
) -> Result<Letter, ReplayError> {
    let claimed = claim(client, id).await?;
    claimed.publish(tree, publisher).await.settle(client, actor).await
}

/// A letter that nobody else publishes meanwhile.
#[derive(Debug)]
pub struct Claimed {
    letter: Letter,
    payload: Vec<u8>,
}

/// A letter that was published, or was not: neither removed nor on record yet.
#[derive(Debug)]
#[must_use = "what was done is to be on record"]
pub struct Replayed {
    letter: Letter,
    published: Result<(), ReplayError>,
}

/// Claims a letter. Its three steps are apart so that whoever has few connections keeps none while the broker takes its time.
///
/// # Errors
/// See [`ReplayError`].
pub async fn claim(client: &impl GenericClient, id: Uuid) -> Result<Claimed, ReplayError> {
    match kept::claim(client, id).await? {
        Some((letter, payload)) => Ok(Claimed { letter, payload }),
        None if kept::find(client, id).await?.is_some() => Err(ReplayError::Busy(id)),
        None => Err(ReplayError::Unknown(id)),
    }
}

impl Claimed {
    /// Publishes it again.
    pub async fn publish(self, tree: &TopicTree, publisher: &Handle) -> Replayed {
        let published = publish(tree, publisher, &self.letter, self.payload).await;
        Replayed {
            letter: self.letter,
            published,
        }
    }
}

impl Replayed {
    /// Removes it if it was published, lets it go if not, and notes what was done. Returns the letter as it was.
    ///
    /// # Errors
    /// See [`ReplayError`].
    pub async fn settle(self, client: &mut impl GenericClient, actor: &Actor) -> Result<Letter, ReplayError> {
        let Self { letter, published } = self;
        let object = letter.id.to_string();
        let act = |outcome| {
            Act::new(actor, Action::DeadLetterReplay, &object, outcome)
                .with("topic", letter.topic.as_str())
                .with("reason", letter.reason.as_str())
        };
        let transaction = client.transaction().await?;
        let act = match &published {
            Ok(()) => {
                kept::remove(&transaction, letter.id).await?;
                act(Outcome::Done)
            }
            Err(error) => {
                kept::release(&transaction, letter.id).await?;
                let refused = matches!(error, ReplayError::Topic(_));
                act(if refused { Outcome::Refused } else { Outcome::Failed }).with("failure", error.to_string())
            }
        };
        audit::record(&transaction, &act).await?;
        transaction.commit().await?;
        published.map(|()| letter)
    }
}

async fn publish(tree: &TopicTree, publisher: &Handle, letter: &Letter, payload: Vec<u8>) -> Result<(), ReplayError> {
    let parsed = channels::parse(tree, &letter.topic).map_err(|faults| ReplayError::Topic(faults.to_string()))?;
    if parsed.channel.spec().direction != Direction::Up {
        return Err(ReplayError::Topic(format!(
            "{} is for what the service says",
            parsed.channel.spec().name
        )));
    }
    let message = Message {
        topic: letter.topic.clone(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        ..Message::default()
    };
    // With nobody subscribed it would be gone: the letter is what is left of it.
    match publisher.publish(message).await? {
        Answer::Taken => Ok(()),
        Answer::NoSubscribers => Err(ReplayError::NoSubscribers),
    }
}

/// Removes one letter; returns whether there was one.
///
/// # Errors
/// The database's.
pub async fn remove(client: &mut impl GenericClient, actor: &Actor, id: Uuid) -> Result<bool, Error> {
    let transaction = client.transaction().await?;
    let gone = kept::remove(&transaction, id).await?;
    let object = id.to_string();
    let outcome = if gone { Outcome::Done } else { Outcome::Refused };
    audit::record(&transaction, &Act::new(actor, Action::DeadLetterPurge, &object, outcome)).await?;
    transaction.commit().await?;
    Ok(gone)
}

/// Removes all letters that fit, some thousands a transaction; returns how many.
///
/// # Errors
/// The database's; what went before stays gone.
pub async fn purge(client: &mut impl GenericClient, actor: &Actor, purge: &Purge<'_>) -> Result<u64, Error> {
    let mut removed = 0;
    loop {
        let transaction = client.transaction().await?;
        let (gone, more) = kept::purge_some(&transaction, purge).await?;
        let act = Act::new(actor, Action::DeadLetterPurge, purge.reason.unwrap_or("*"), Outcome::Done)
            .with("topic_prefix", purge.topic_prefix)
            .with("before", purge.before.map(|before| before.to_string()))
            .with("letters", gone);
        audit::record(&transaction, &act).await?;
        transaction.commit().await?;
        removed += gone;
        if !more {
            return Ok(removed);
        }
    }
}
