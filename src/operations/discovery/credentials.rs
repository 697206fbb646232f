//! Credentials of devices that were approved: made, and on record once they are given.

use std::collections::HashMap;

use tokio_postgres::{Error, GenericClient};

use crate::devices::discovery::{self, Claimed, State};
use crate::devices::registry;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::{self, UserError};
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceIdRef, Username};

use super::super::bulk::chunk::passwords_for;

/// Devices whose credentials are made in one transaction, which is one change of the broker's files.
const AT_ONCE: i64 = 1_000;

/// Credentials that a device is to be told.
#[derive(Debug)]
pub struct Made {
    /// For whom, and sealed to which key.
    pub claimed: Claimed,
    /// What it logs in with.
    pub password: Secret,
}

/// What was made in one transaction.
#[derive(Debug)]
pub struct Batch {
    /// A device each.
    pub made: Vec<Made>,
    /// The version of who may do what that lets them in.
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

/// Makes the credentials of the next devices that were approved and are listening; `None` where there is none. Those made for one
/// before, which it never got, are good no more. Whoever has become a user by another way meanwhile keeps what it has: its request is
/// rejected.
///
/// # Errors
/// [`MakeError`]; nothing was made then.
pub async fn make(client: &mut impl GenericClient, actor: &Actor) -> Result<Option<Batch>, MakeError> {
    let transaction = client.transaction().await?;
    let claimed = discovery::claim(&transaction, AT_ONCE).await?;
    if claimed.is_empty() {
        return Ok(None);
    }
    let names: Vec<&str> = claimed.iter().map(|claimed| claimed.device.as_str()).collect();
    let taken = users::taken(&transaction, &names).await?;
    let (mut ours, mut new) = (Vec::new(), Vec::new());
    for claimed in &claimed {
        let username = Username::with_password(&claimed.device)?;
        if !taken.contains(&claimed.device) {
            new.push(username);
        } else if let Some(made) = claimed.made_before
            && users::is_as_made_at(&transaction, &username, made).await?
        {
            ours.push(username);
        }
    }
    let (again, first) = (passwords_for(ours).await?, passwords_for(new).await?);
    let devices: Vec<&str> = again.iter().chain(&first).map(|(login, _)| login.username.as_str()).collect();
    registry::register_all(&transaction, &devices).await?;
    for (login, hash) in &again {
        users::set_password(&transaction, &login.username, Some(hash)).await?;
    }
    let hashes: Vec<(Username, String)> = first.iter().map(|(login, hash)| (login.username.clone(), hash.clone())).collect();
    let created = users::create_devices(&transaction, &hashes).await?;
    let mut passwords: HashMap<String, Secret> = again
        .into_iter()
        .chain(
            first
                .into_iter()
                .filter(|(login, _)| created.iter().any(|name| name == login.username.as_str())),
        )
        .map(|(login, _)| (login.username.as_str().to_owned(), login.password))
        .collect();
    let mut made = Vec::with_capacity(claimed.len());
    for claimed in claimed {
        if let Some(password) = passwords.remove(&claimed.device) {
            made.push(Made { claimed, password });
        } else {
            let (device, reason) = (DeviceIdRef::parse(&claimed.device)?, Some("it has credentials by another way"));
            discovery::decide(&transaction, device, State::Rejected, actor.name(), reason).await?;
        }
    }
    let version = users::version(&transaction).await?;
    transaction.commit().await?;
    Ok(Some(Batch { made, version }))
}

/// Notes that devices have their credentials, each sealed or not.
///
/// # Errors
/// The database's.
pub async fn issued(client: &mut impl GenericClient, actor: &Actor, given: &HashMap<&str, bool>) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let devices: Vec<&str> = given.keys().copied().collect();
    for device in discovery::issued(&transaction, &devices).await? {
        let sealed = given.get(device.as_str()).copied();
        let act = Act::new(actor, Action::DiscoveryIssue, &device, Outcome::Done).with("sealed", sealed);
        audit::record(&transaction, &act).await?;
    }
    transaction.commit().await
}
