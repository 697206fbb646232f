//! An operator decides: approves, rejects, announces, forgets.

use tokio_postgres::{Error, GenericClient};

use crate::devices::discovery::{self, Request, State};
use crate::devices::registry;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::{self, UserError};
use crate::protocol::id::{DeviceIdRef, Username};

/// Why an operator's decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Nobody asked.
    #[error("there is no registration of {0}")]
    Unknown(String),
    /// It is too late, or too early.
    #[error("the registration of {device} is {state}: {right}")]
    State {
        /// The device.
        device: String,
        /// Where it stands.
        state: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// It has credentials.
    #[error("{0} has credentials already; revoke them first")]
    HasCredentials(String),
    /// The name cannot be a user's.
    #[error(transparent)]
    Name(#[from] crate::protocol::id::BadUsername),
    /// The user cannot be.
    #[error(transparent)]
    User(#[from] UserError),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Approves a device that asked.
///
/// # Errors
/// [`DecideError`].
pub async fn approve(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>) -> Result<(), DecideError> {
    settle(client, actor, device, State::Approved, None).await
}

/// Rejects a device, whatever it has asked; one that has its credentials keeps them.
///
/// # Errors
/// [`DecideError`].
pub async fn reject(
    client: &mut impl GenericClient,
    actor: &Actor,
    device: DeviceIdRef<'_>,
    reason: Option<&str>,
) -> Result<(), DecideError> {
    settle(client, actor, device, State::Rejected, reason).await
}

async fn settle(
    client: &mut impl GenericClient,
    actor: &Actor,
    device: DeviceIdRef<'_>,
    to: State,
    reason: Option<&str>,
) -> Result<(), DecideError> {
    let transaction = client.transaction().await?;
    let known = discovery::locked(&transaction, device)
        .await?
        .ok_or_else(|| DecideError::Unknown(device.to_string()))?;
    let wrong = |right| DecideError::State {
        device: device.to_string(),
        state: known.state.as_str(),
        right,
    };
    let action = match (to, known.state) {
        (State::Approved, State::Pending | State::Rejected) => Action::DiscoveryApprove,
        (State::Approved, _) => return Err(wrong("only one that is pending or rejected can be approved")),
        (_, State::Issued) => return Err(wrong("it has its credentials; revoke those")),
        (_, State::Rejected) => return Err(wrong("nothing is left to do")),
        _ => Action::DiscoveryReject,
    };
    if to == State::Rejected {
        unmake(&transaction, device, &known).await?;
    }
    discovery::decide(&transaction, device, to, actor.name(), reason).await?;
    let mut act = Act::new(actor, action, device.as_str(), Outcome::Done);
    if let Some(reason) = reason {
        act = act.with("reason", reason);
    }
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Announces a device: when it asks, it gets credentials at once; announced with a key, only by that key. Returns whether nothing was
/// known of it.
///
/// # Errors
/// [`DecideError`].
pub async fn expect(
    client: &mut impl GenericClient,
    actor: &Actor,
    device: DeviceIdRef<'_>,
    key: Option<&[u8]>,
) -> Result<bool, DecideError> {
    let username = Username::with_password(device.as_str())?;
    let transaction = client.transaction().await?;
    if users::exists(&transaction, &username).await? {
        return Err(DecideError::HasCredentials(device.to_string()));
    }
    let new = discovery::expect(&transaction, device, actor.name(), key).await?;
    if new {
        audit::record(
            &transaction,
            &Act::new(actor, Action::DiscoveryExpect, device.as_str(), Outcome::Done).with("by_key", key.is_some()),
        )
        .await?;
    }
    transaction.commit().await?;
    Ok(new)
}

/// Forgets a registration, so that the device can ask anew. Credentials that it has stay.
///
/// # Errors
/// [`DecideError`].
pub async fn forget(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>) -> Result<(), DecideError> {
    let transaction = client.transaction().await?;
    let known = discovery::locked(&transaction, device)
        .await?
        .ok_or_else(|| DecideError::Unknown(device.to_string()))?;
    unmake(&transaction, device, &known).await?;
    discovery::forget(&transaction, device).await?;
    audit::record(
        &transaction,
        &Act::new(actor, Action::DiscoveryForget, device.as_str(), Outcome::Done),
    )
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Takes away the credentials that were made for a device and that it never got. Those let it in, so now it is shut out: it may have a
/// certificate.
async fn unmake(client: &impl GenericClient, device: DeviceIdRef<'_>, known: &Request) -> Result<(), DecideError> {
    let (Some(made), None) = (known.issuing_at, known.issued_at) else {
        return Ok(());
    };
    let username = Username::with_password(&known.device)?;
    if users::is_as_made_at(client, &username, made).await? {
        if let Some(number) = registry::find(client, device).await? {
            registry::shut_out(client, number, false).await?;
        }
        users::delete(client, &username).await?;
    }
    Ok(())
}
