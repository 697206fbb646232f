//! Devices: registered with their credentials, changed, shut out, deleted with all that is kept of them elsewhere.

use tokio_postgres::{Error, GenericClient};

use crate::devices::device::Device;
use crate::devices::discovery;
use crate::devices::groups::{self, GroupError};
use crate::devices::outbox;
use crate::devices::patch::Patch;
use crate::devices::registry::{self, Description, RegistryError};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::channels::Channel;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};
use crate::protocol::topic::TopicTree;

use super::credentials::{self, CredentialError, Issued, Wanted};

/// The most groups that a device is put into at once.
pub const MAX_GROUPS: usize = 64;

/// A device that is to be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Its id.
    pub id: DeviceId,
    /// What people say of it.
    pub description: Description,
    /// The groups it joins; those that there are none of are made.
    pub groups: Vec<GroupId>,
    /// The credentials it gets.
    pub credentials: Wanted,
}

/// A device that was registered. The credentials cannot be shown again.
#[derive(Debug, Clone, PartialEq)]
pub struct Registered {
    /// The device.
    pub device: Device,
    /// What it logs in with.
    pub issued: Issued,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The device.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Its credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Too many groups.
    #[error("a device joins {MAX_GROUPS} groups at most at once; these are {0}")]
    Groups(usize),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Registers a device with its groups and credentials, in one transaction with the entry in the audit.
///
/// # Errors
/// See [`DeviceError`].
pub async fn register(client: &mut impl GenericClient, actor: &Actor, wanted: &Registration) -> Result<Registered, DeviceError> {
    if wanted.groups.len() > MAX_GROUPS {
        return Err(DeviceError::Groups(wanted.groups.len()));
    }
    let transaction = client.transaction().await?;
    // The groups before the device: see `migrations/V8__shut_out.sql`.
    let ids: Vec<&str> = wanted.groups.iter().map(GroupId::as_str).collect();
    if let Some(dynamic) = groups::open(&transaction, &ids).await?.into_iter().next() {
        return Err(GroupError::Dynamic(dynamic).into());
    }
    let number = registry::create(&transaction, &wanted.id, &wanted.description).await?;
    groups::join(&transaction, &vec![number; ids.len()], &ids).await?;
    let issued = credentials::issue(&transaction, &wanted.id, number, wanted.credentials).await?;
    let act = Act::new(actor, Action::DeviceCreate, wanted.id.as_str(), Outcome::Done)
        .with("groups", ids)
        .with("mqtt", wanted.credentials.mqtt)
        .with("api_key", wanted.credentials.api_key);
    audit::record(&transaction, &act).await?;
    let device = registry::get(&transaction, &wanted.id).await?;
    transaction.commit().await?;
    Ok(Registered { device, issued })
}

/// Changes what people say of a device, in one transaction with the entry in the audit; where it was so already there is nothing to
/// tell. With a revision, it must have that one.
///
/// # Errors
/// See [`DeviceError`].
pub async fn update(
    client: &mut impl GenericClient,
    actor: &Actor,
    id: &DeviceId,
    patch: &Patch,
    revision: Option<i32>,
) -> Result<Device, DeviceError> {
    let transaction = client.transaction().await?;
    let (device, changed) = registry::patch(&transaction, id, patch, revision).await?;
    if !changed.is_empty() {
        let act = Act::new(actor, Action::DeviceUpdate, id.as_str(), Outcome::Done).with("changed", changed);
        audit::record(&transaction, &act).await?;
    }
    transaction.commit().await?;
    Ok(device)
}

/// Deletes a device, in one transaction with the entry in the audit: its credentials, its memberships, its configuration, what is
/// known of its presence; its commands under way are cancelled, and what the broker keeps of it is cleared. Its telemetry stays.
///
/// A certificate stays good in itself, and opens nothing: see [`credentials`].
///
/// # Errors
/// See [`DeviceError`].
pub async fn delete(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    id: &DeviceId,
    revision: Option<i32>,
) -> Result<(), DeviceError> {
    let transaction = client.transaction().await?;
    // First, as whoever makes the credentials that it asked for has it.
    discovery::forget(
        &transaction,
        DeviceIdRef::parse(id.as_str()).expect("an id is of the grammar of ids"),
    )
    .await?;
    let number = registry::lock(&transaction, id, revision).await?;
    credentials::take_away(&transaction, id, number).await?;
    registry::delete(&transaction, number).await?;
    outbox::clear(&transaction, &retained(tree, id)).await?;
    audit::record(&transaction, &Act::new(actor, Action::DeviceDelete, id.as_str(), Outcome::Done)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Shuts a device out, or lets it in again, in one transaction with the entry in the audit.
///
/// # Errors
/// See [`DeviceError`].
pub async fn set_enabled(client: &mut impl GenericClient, actor: &Actor, id: &DeviceId, enabled: bool) -> Result<Device, DeviceError> {
    let transaction = client.transaction().await?;
    let number = registry::lock(&transaction, id, None).await?;
    credentials::set_disabled(&transaction, id, number, !enabled).await?;
    let action = if enabled { Action::DeviceEnable } else { Action::DeviceDisable };
    audit::record(&transaction, &Act::new(actor, action, id.as_str(), Outcome::Done)).await?;
    let device = registry::get(&transaction, id).await?;
    transaction.commit().await?;
    Ok(device)
}

/// The topics of a device on which the broker keeps something.
fn retained(tree: &TopicTree, id: &DeviceId) -> Vec<String> {
    let device = DeviceIdRef::parse(id.as_str()).expect("an id is of the grammar of ids");
    let of_devices = Channel::ALL.iter().filter(|channel| channel.spec().pattern.starts_with("devices/"));
    of_devices
        .filter(|channel| channel.spec().retain)
        .map(|channel| channel.of_device(tree, device))
        .collect()
}
