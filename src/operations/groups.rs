//! Groups: made, changed, deleted, and who belongs to them.

use tokio_postgres::GenericClient;

use crate::devices::groups::{self, Description, Group, GroupError, Patch};
use crate::devices::outbox;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::channels::Channel;
use crate::protocol::id::{DeviceId, GroupId};
use crate::protocol::topic::TopicTree;

/// Makes a group, in one transaction with the entry in the audit.
///
/// # Errors
/// See [`GroupError`].
pub async fn create(client: &mut impl GenericClient, actor: &Actor, id: &GroupId, description: &Description) -> Result<Group, GroupError> {
    let transaction = client.transaction().await?;
    groups::create(&transaction, id, description).await?;
    // The database has brought its members in by now, if it is dynamic.
    let group = groups::get(&transaction, id).await?;
    let act = Act::new(actor, Action::GroupCreate, id.as_str(), Outcome::Done).with("dynamic", group.dynamic);
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(group)
}

/// Changes a group, in one transaction with the entry in the audit; where it was so already there is nothing to tell. With a
/// revision, it must have that one.
///
/// # Errors
/// See [`GroupError`].
pub async fn update(
    client: &mut impl GenericClient,
    actor: &Actor,
    id: &GroupId,
    patch: &Patch,
    revision: Option<i32>,
) -> Result<Group, GroupError> {
    let transaction = client.transaction().await?;
    let (group, changed) = groups::patch(&transaction, id, patch, revision).await?;
    if changed {
        let act = Act::new(actor, Action::GroupUpdate, id.as_str(), Outcome::Done).with("dynamic", group.dynamic);
        audit::record(&transaction, &act).await?;
    }
    transaction.commit().await?;
    Ok(group)
}

/// Deletes a group, in one transaction with the entry in the audit, and has the broker forget its status.
///
/// # Errors
/// See [`GroupError`].
pub async fn delete(
    client: &mut impl GenericClient,
    actor: &Actor,
    tree: &TopicTree,
    id: &GroupId,
    revision: Option<i32>,
) -> Result<(), GroupError> {
    let transaction = client.transaction().await?;
    groups::lock(&transaction, id, revision).await?;
    groups::delete(&transaction, id).await?;
    outbox::clear(&transaction, &[Channel::FleetStatus.of_group(tree, id)]).await?;
    audit::record(&transaction, &Act::new(actor, Action::GroupDelete, id.as_str(), Outcome::Done)).await?;
    transaction.commit().await?;
    Ok(())
}

/// Makes devices members of a list, all of them or none, in one transaction with the entry in the audit; returns how many were none
/// before.
///
/// # Errors
/// See [`GroupError`].
pub async fn add(client: &mut impl GenericClient, actor: &Actor, id: &GroupId, devices: &[DeviceId]) -> Result<u64, GroupError> {
    set_members(client, actor, id, devices, true).await
}

/// Ends the membership of devices, all of them or none, in one transaction with the entry in the audit; returns how many were
/// members.
///
/// # Errors
/// See [`GroupError`].
pub async fn remove(client: &mut impl GenericClient, actor: &Actor, id: &GroupId, devices: &[DeviceId]) -> Result<u64, GroupError> {
    set_members(client, actor, id, devices, false).await
}

async fn set_members(
    client: &mut impl GenericClient,
    actor: &Actor,
    id: &GroupId,
    devices: &[DeviceId],
    member: bool,
) -> Result<u64, GroupError> {
    let transaction = client.transaction().await?;
    let changed = groups::set_members(&transaction, id, devices, member).await?;
    let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    let action = if member { Action::GroupAdd } else { Action::GroupRemove };
    let act = Act::new(actor, action, id.as_str(), Outcome::Done)
        .with("devices", names)
        .with("changed", changed);
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(changed)
}
