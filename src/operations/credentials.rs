//! A device's credentials: a password at the broker, a key for HTTP. Made and shown once, given anew, taken away.
//!
//! Certificates are the business of the installation that has the authority (`iotflow broker`), and are not here. So whoever loses its
//! credentials is shut out besides: without a line of its own at the broker, a certificate would let it in.

use tokio_postgres::{Error, GenericClient};

use crate::broker::passwords::{self, Hash};
use crate::devices::registry::{self, RegistryError};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::device_keys::{self, NewKey};
use crate::identity::users::{self, UserError};
use crate::observe::secret::Secret;
use crate::protocol::id::{BadUsername, DeviceId, DeviceIdRef, Username};
use crate::protocol::rights::Role;

/// Which credentials are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// A password at the broker.
    pub mqtt: bool,
    /// A key for HTTP.
    pub api_key: bool,
}

/// How a device logs in at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name there: its id.
    pub username: Username,
    /// Its password, which is nowhere else.
    pub password: Secret,
}

/// Credentials that were made. They cannot be shown again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Issued {
    /// At the broker.
    pub mqtt: Option<Login>,
    /// For HTTP.
    pub api_key: Option<Secret>,
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The device could log in at the broker.
    pub mqtt: bool,
    /// It had a key.
    pub api_key: bool,
}

/// Why credentials are not made, or not taken away.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The device.
    #[error(transparent)]
    Device(#[from] RegistryError),
    /// Its id is no name for the broker's password file.
    #[error("{0}; the device can have a key for HTTP, or a certificate")]
    Username(#[from] BadUsername),
    /// The broker's users.
    #[error(transparent)]
    User(#[from] UserError),
    /// Neither of the two is wanted.
    #[error("no credential is asked for; ask for mqtt, api_key or both")]
    Nothing,
    /// The operating system has no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Gives a device other credentials in the place of those it had, in one transaction with the entry in the audit. One who is
/// disabled stays so; one whose credentials were taken away is let in again.
///
/// # Errors
/// See [`CredentialError`].
pub async fn rotate(client: &mut impl GenericClient, actor: &Actor, id: &DeviceId, wanted: Wanted) -> Result<Issued, CredentialError> {
    if wanted == Wanted::default() {
        return Err(CredentialError::Nothing);
    }
    let transaction = client.transaction().await?;
    let number = registry::lock(&transaction, id, None).await?;
    let issued = issue(&transaction, id, number, wanted).await?;
    let act = Act::new(actor, Action::CredentialsRotate, id.as_str(), Outcome::Done)
        .with("mqtt", wanted.mqtt)
        .with("api_key", wanted.api_key);
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(issued)
}

/// Takes all credentials of a device away, in one transaction with the entry in the audit.
///
/// # Errors
/// See [`CredentialError`].
pub async fn revoke(client: &mut impl GenericClient, actor: &Actor, id: &DeviceId) -> Result<Revoked, CredentialError> {
    let transaction = client.transaction().await?;
    let number = registry::lock(&transaction, id, None).await?;
    let revoked = take_away(&transaction, id, number).await?;
    let act = Act::new(actor, Action::CredentialsRevoke, id.as_str(), Outcome::Done)
        .with("mqtt", revoked.mqtt)
        .with("api_key", revoked.api_key);
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(revoked)
}

/// Makes credentials, as a part of the transaction that `client` is in.
///
/// # Errors
/// See [`CredentialError`].
pub async fn issue(client: &impl GenericClient, id: &DeviceId, number: i32, wanted: Wanted) -> Result<Issued, CredentialError> {
    let mut issued = Issued::default();
    if wanted != Wanted::default() {
        registry::readmit(client, &[number]).await?;
    }
    if wanted.mqtt {
        let username = Username::with_password(id.as_str())?;
        let password = passwords::generate()?;
        put_user(client, &username, &Hash::of_generated(&password)?).await?;
        issued.mqtt = Some(Login { username, password });
    }
    if wanted.api_key {
        let key = NewKey::generate()?;
        device_keys::put(client, number, &key).await?;
        issued.api_key = Some(key.secret);
    }
    Ok(issued)
}

async fn put_user(client: &impl GenericClient, username: &Username, hash: &Hash) -> Result<(), UserError> {
    match users::get(client, username).await? {
        None => users::create(client, username, Role::Device, Some(hash.as_str())).await,
        Some(user) if user.role != Role::Device => Err(UserError::Exists(username.clone())),
        Some(user) => {
            users::set_password(client, username, Some(hash.as_str())).await?;
            if user.disabled && user.password_hash.is_none() {
                // Kept by the release before, for the sake of a certificate. Whether it is shut out stands on the device.
                users::set_disabled(client, username, false).await?;
            }
            Ok(())
        }
    }
}

/// Takes all credentials away, as a part of the transaction that `client` is in.
///
/// # Errors
/// See [`CredentialError`].
pub async fn take_away(client: &impl GenericClient, id: &DeviceId, number: i32) -> Result<Revoked, CredentialError> {
    registry::shut_out(client, number, false).await?;
    let user = user(client, id).await?;
    if let Some(username) = &user {
        users::delete(client, username).await?;
    }
    Ok(Revoked {
        mqtt: user.is_some(),
        api_key: device_keys::delete(client, number).await?,
    })
}

/// Shuts a device out, whatever credentials it has or gets, or lets it in again, as a part of the transaction that `client` is in.
///
/// # Errors
/// See [`CredentialError`].
pub async fn set_disabled(client: &impl GenericClient, id: &DeviceId, number: i32, disabled: bool) -> Result<(), CredentialError> {
    if disabled {
        registry::shut_out(client, number, true).await?;
    } else {
        registry::let_in(client, number).await?;
    }
    // On its credentials as well: while releases are changed, the broker may be kept by one that looks at nothing else.
    if let Some(username) = user(client, id).await? {
        users::set_disabled(client, &username, disabled).await?;
    }
    device_keys::set_disabled(client, number, disabled).await?;
    Ok(())
}

/// Shuts a user of the broker out, or lets it in again, as a part of the transaction that `client` is in. A device is shut out as a
/// device.
///
/// # Errors
/// See [`CredentialError`].
pub async fn set_user_disabled(client: &impl GenericClient, username: &Username, disabled: bool) -> Result<(), CredentialError> {
    match device(client, username).await? {
        Some((id, number)) => set_disabled(client, &id, number, disabled).await,
        None => Ok(users::set_disabled(client, username, disabled).await?),
    }
}

/// Removes a user of the broker, as a part of the transaction that `client` is in. A device loses its credentials.
///
/// # Errors
/// See [`CredentialError`].
pub async fn remove_user(client: &impl GenericClient, username: &Username) -> Result<(), CredentialError> {
    if let Some((_, number)) = device(client, username).await? {
        registry::shut_out(client, number, false).await?;
    }
    Ok(users::delete(client, username).await?)
}

/// The device's name at the broker where it is a device there.
async fn user(client: &impl GenericClient, id: &DeviceId) -> Result<Option<Username>, UserError> {
    // An id that is no name there has no user.
    let Ok(username) = Username::parse(id.as_str()) else {
        return Ok(None);
    };
    let user = users::get(client, &username).await?;
    Ok(user.is_some_and(|user| user.role == Role::Device).then_some(username))
}

/// The device that a user is, held against other changes.
async fn device(client: &impl GenericClient, username: &Username) -> Result<Option<(DeviceId, i32)>, CredentialError> {
    let Ok(id) = DeviceIdRef::parse(username.as_str()).map(DeviceIdRef::to_owned) else {
        return Ok(None);
    };
    if user(client, &id).await?.is_none() {
        return Ok(None);
    }
    match registry::lock(client, &id, None).await {
        Ok(number) => Ok(Some((id, number))),
        // Somebody made the user by other means.
        Err(RegistryError::Unknown(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
