//! Credentials of devices that were approved: made, and on record once they are given.

use tokio_postgres::{Error, GenericClient};

use crate::broker::passwords::{self, Hash};
use crate::devices::discovery::{self, Claimed, State};
use crate::devices::registry;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::{self, UserError};
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceIdRef, Username};
use crate::protocol::rights::Role;

/// Credentials that a device is to be told.
#[derive(Debug)]
pub struct Made {
    /// For whom, and sealed to which key.
    pub claimed: Claimed,
    /// What it logs in with.
    pub password: Secret,
    /// The version of who may do what that lets it in.
    pub version: i64,
}

/// Why no credentials were made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// No randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The user cannot be.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is stored is no name of a user.
    #[error(transparent)]
    Name(#[from] crate::protocol::id::BadUsername),
    /// What is stored is no device id.
    #[error(transparent)]
    Id(#[from] crate::protocol::id::BadDeviceId),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Makes the credentials of the next device that was approved and is listening. Those made for it before, which it never got,
/// are good no more. Whoever has become a user by another way meanwhile keeps what it has: its request is rejected.
///
/// # Errors
/// [`MakeError`].
pub async fn make(client: &mut impl GenericClient, actor: &Actor) -> Result<Option<Made>, MakeError> {
    loop {
        let transaction = client.transaction().await?;
        let Some(claimed) = discovery::claim(&transaction).await? else {
            return Ok(None);
        };
        let device = DeviceIdRef::parse(&claimed.device)?;
        let username = Username::with_password(&claimed.device)?;
        let known = users::exists(&transaction, &username).await?;
        let ours = match claimed.made_before {
            Some(made) => users::is_as_made_at(&transaction, &username, made).await?,
            None => false,
        };
        if known && !ours {
            let reason = Some("it has credentials by another way");
            discovery::decide(&transaction, device, State::Rejected, actor.name(), reason).await?;
            transaction.commit().await?;
            continue;
        }
        let password = passwords::generate()?;
        let hash = Hash::of_generated(&password)?;
        registry::register(&transaction, device).await?;
        if ours {
            users::set_password(&transaction, &username, Some(hash.as_str())).await?;
        } else {
            users::create(&transaction, &username, Role::Device, Some(hash.as_str())).await?;
        }
        let version = users::version(&transaction).await?;
        transaction.commit().await?;
        return Ok(Some(Made {
            claimed,
            password,
            version,
        }));
    }
}

/// Notes that a device has its credentials.
///
/// # Errors
/// The database's.
pub async fn issued(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>, sealed: bool) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    if !discovery::issued(&transaction, device).await? {
        return Ok(());
    }
    let act = Act::new(actor, Action::DiscoveryIssue, device.as_str(), Outcome::Done).with("sealed", sealed);
    audit::record(&transaction, &act).await?;
    transaction.commit().await
}
