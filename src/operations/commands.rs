//! Commands are given and taken back here, each act in one transaction with its entry in the audit.
//!
//! A request that is sent again, under the same command id or the same idempotency key, is the same command: nothing is given twice.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;
use tokio_postgres::{Error, GenericClient};
use tracing::debug;

use crate::db::error::describe;
use crate::devices::commands::cancel;
use crate::devices::commands::fleet::Counts;
use crate::devices::commands::order::{self, Inserted, NewCommand, Target};
use crate::devices::commands::read::{self, Command};
use crate::devices::commands::state::State;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::command::{CommandId, Kind, MAX_NAME_CHARS, MAX_PARAMETERS_BYTES, depth_fits};
use crate::protocol::id::{DeviceId, GroupId};

/// How long a command may wait and be worked at where nothing else is said: a device that is in for repair overnight still gets it,
/// and one that comes back next week is not surprised by it.
pub const DEFAULT_TTL: Duration = Duration::from_secs(86_400);
/// The shortest and the longest time.
pub const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 86_400));
/// The longest idempotency key, in characters.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 255;
/// The longest that anybody waits for a command's end.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

const WAKE: &str = "NOTIFY courier";

/// What somebody wants done.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// What it is about.
    pub kind: Kind,
    /// What to do, in 1 to 128 characters of one line.
    pub command: &'a str,
    /// With what: JSON of at most 64 KiB, delivered byte for byte.
    pub parameters: Option<&'a RawValue>,
    /// The sender's own id for it.
    pub command_id: Option<CommandId>,
    /// 0 to 2.
    pub qos: u8,
    /// How long it may wait and be worked at.
    pub ttl: Duration,
    /// The sender's own name for the request (`Idempotency-Key`).
    pub idempotency_key: Option<&'a str>,
}

impl<'a> Order<'a> {
    /// An order with nothing but what it must have, exactly once.
    #[must_use]
    pub fn new(kind: Kind, command: &'a str) -> Self {
        Self {
            kind,
            command,
            parameters: None,
            command_id: None,
            qos: 2,
            ttl: DEFAULT_TTL,
            idempotency_key: None,
        }
    }

    fn check(&self) -> Result<(), SendError> {
        let one_line = |text: &str| !text.contains(char::is_control);
        if self.command.is_empty() || self.command.chars().count() > MAX_NAME_CHARS || !one_line(self.command) {
            return Err(SendError::Command);
        }
        if let Some(parameters) = self.parameters {
            let bytes = parameters.get().len();
            if bytes > MAX_PARAMETERS_BYTES {
                return Err(SendError::ParametersTooLarge { bytes });
            }
            if !depth_fits(parameters.get()) {
                return Err(SendError::ParametersTooDeep);
            }
        }
        if self.qos > 2 {
            return Err(SendError::Qos(self.qos));
        }
        if self.ttl < TTL.0 || self.ttl > TTL.1 {
            return Err(SendError::Ttl(self.ttl));
        }
        if let Some(key) = self.idempotency_key
            && (key.is_empty() || key.chars().count() > MAX_IDEMPOTENCY_KEY_CHARS || !one_line(key))
        {
            return Err(SendError::IdempotencyKey);
        }
        Ok(())
    }
}

/// To whom it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// One device.
    Device(DeviceId),
    /// The members that a group has now.
    Group(GroupId),
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {}", device.as_str()),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// A command that is on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// Its id.
    pub command_id: CommandId,
    /// How it begins, if it is new; else it was given before, by the same request.
    pub new: Option<Command>,
}

/// Why no command was given.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Not of the grammar.
    #[error("a command is a text of 1 to 128 characters of one line")]
    Command,
    /// Too much.
    #[error("parameters of {bytes} bytes; {MAX_PARAMETERS_BYTES} at most can be sent")]
    ParametersTooLarge {
        /// Their size.
        bytes: usize,
    },
    /// Too deep.
    #[error("parameters are nested deeper than 64")]
    ParametersTooDeep,
    /// No such quality.
    #[error("qos {0}: 0, 1 or 2 is expected")]
    Qos(u8),
    /// Out of range.
    #[error("a ttl of {0:?}: a second to 30 days is expected")]
    Ttl(Duration),
    /// Not of the grammar.
    #[error("an idempotency key is a text of 1 to 255 characters of one line")]
    IdempotencyKey,
    /// There is none.
    #[error("there is no {0}")]
    Unknown(Recipient),
    /// It was deleted.
    #[error("the {0} was deleted")]
    Deleted(Recipient),
    /// It has nobody in it.
    #[error("the group {0} has no members; nobody would get the command")]
    NoMembers(GroupId),
    /// The id, or the key, means another command.
    #[error("the command {0} was given under this id or idempotency key before, and is another; take a new one for a new command")]
    Clash(CommandId),
    /// The database's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Gives a command to a device, or to all members of a group. It is in the database when this returns; the courier does the rest.
///
/// # Errors
/// See [`SendError`]. What is refused by what the database has is in the audit as well.
pub async fn send(client: &mut impl GenericClient, actor: &Actor, to: &Recipient, order: &Order<'_>) -> Result<Given, SendError> {
    order.check()?;
    let command_id = order.command_id.clone().unwrap_or_else(CommandId::generate);
    let transaction = client.transaction().await?;
    let outcome = match insert(&transaction, actor, to, order, &command_id).await {
        Err(SendError::Database(error)) => return Err(error.into()),
        outcome => outcome,
    };
    let object = to.to_string();
    let (how, what) = match &outcome {
        Ok(given) => (Outcome::Done, given.command_id.as_str()),
        Err(_) => (Outcome::Refused, command_id.as_str()),
    };
    let act = Act::new(actor, Action::CommandSend, &object, how)
        .with("command_id", what)
        .with("type", order.kind.as_str())
        .with("command", order.command);
    let act = match &outcome {
        Ok(Given { new: Some(command), .. }) => act.with("devices", command.counts.total),
        Ok(_) => act.with("again", true),
        Err(error) => act.with("reason", error.to_string()),
    };
    audit::record(&transaction, &act).await?;
    match outcome {
        Ok(given) => {
            transaction.commit().await?;
            if given.new.is_some() {
                wake(client).await;
            }
            Ok(given)
        }
        Err(SendError::NoMembers(group)) => {
            // Its rows go, the entry stays.
            transaction.rollback().await?;
            let act = Act::new(actor, Action::CommandSend, &object, Outcome::Refused).with("reason", "the group has no members");
            audit::record(client, &act).await?;
            Err(SendError::NoMembers(group))
        }
        Err(error) => {
            transaction.commit().await?;
            Err(error)
        }
    }
}

/// Wakes the courier. It looks every second by itself, so a command that is given needs no more than this attempt.
async fn wake(client: &impl GenericClient) {
    if let Err(error) = client.batch_execute(WAKE).await {
        debug!(error = describe(&error), "the courier was not woken, and comes within a second");
    }
}

async fn insert(
    client: &impl GenericClient,
    actor: &Actor,
    to: &Recipient,
    order: &Order<'_>,
    command_id: &CommandId,
) -> Result<Given, SendError> {
    let new = NewCommand {
        command_id,
        target: match to {
            Recipient::Device(device) => Target::Device(device.borrowed()),
            Recipient::Group(group) => Target::Group(group),
        },
        kind: order.kind,
        command: order.command,
        parameters: order.parameters.map(RawValue::get),
        qos: i16::from(order.qos),
        created_by: actor.name(),
        ttl: order.ttl,
        idempotency_key: order.idempotency_key,
    };
    match (order::insert(client, &new).await?, to) {
        (Inserted::Nobody, _) => Err(SendError::Unknown(to.clone())),
        (Inserted::Deleted, _) => Err(SendError::Deleted(to.clone())),
        (Inserted::New { devices: 0, .. }, Recipient::Group(group)) => Err(SendError::NoMembers(group.clone())),
        (
            Inserted::New {
                devices,
                created_at,
                expires_at,
            },
            _,
        ) => Ok(Given {
            command_id: command_id.clone(),
            new: Some(beginning(&new, devices, created_at, expires_at)),
        }),
        (Inserted::Known(command_id), _) => Ok(Given { command_id, new: None }),
        (Inserted::Clash(command_id), _) => Err(SendError::Clash(command_id)),
    }
}

/// A new command as the database has it: queued for all. Whoever gave it is answered without another look.
fn beginning(new: &NewCommand<'_>, devices: i64, created_at: Timestamp, expires_at: Timestamp) -> Command {
    let (device, group) = match new.target {
        Target::Device(device) => (Some(device.as_str().to_owned()), None),
        Target::Group(group) => (None, Some(group.as_str().to_owned())),
    };
    let mut counts = Counts::default();
    counts.add(State::Queued, devices);
    Command {
        command_id: new.command_id.as_str().to_owned(),
        device,
        group,
        command_type: new.kind.as_str().to_owned(),
        command: new.command.to_owned(),
        parameters: new.parameters.map(str::to_owned),
        qos: new.qos,
        created_at,
        created_by: new.created_by.to_owned(),
        expires_at,
        counts,
    }
}

/// Why nothing was taken back.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// There is none.
    #[error("there is no command {0}")]
    Unknown(CommandId),
    /// It is out of our hands.
    #[error("the command {command_id} is {state} and cannot be taken back: only what was not sent yet can")]
    TooLate {
        /// Which.
        command_id: CommandId,
        /// Where it stands.
        state: &'static str,
    },
    /// The database's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Takes back what was not sent of a command; returns for how many devices.
///
/// # Errors
/// See [`CancelError`].
pub async fn cancel(client: &mut impl GenericClient, actor: &Actor, command_id: &CommandId) -> Result<u64, CancelError> {
    let transaction = client.transaction().await?;
    let cancelled = cancel::cancel(&transaction, command_id).await?;
    let outcome = if cancelled > 0 {
        Ok(cancelled)
    } else {
        match read::get(&transaction, command_id).await? {
            None => Err(CancelError::Unknown(command_id.clone())),
            Some(command) => Err(CancelError::TooLate {
                command_id: command_id.clone(),
                state: command.state().as_str(),
            }),
        }
    };
    let act = match &outcome {
        Ok(devices) => Act::new(actor, Action::CommandCancel, command_id.as_str(), Outcome::Done).with("devices", *devices),
        Err(error) => Act::new(actor, Action::CommandCancel, command_id.as_str(), Outcome::Refused).with("reason", error.to_string()),
    };
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    outcome
}
