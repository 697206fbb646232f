//! A command is given: one row, and one for each device that is to get it. Given twice it is one command.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::command::{CommandId, Kind};
use crate::protocol::id::{DeviceIdRef, GroupId};

// Who it is for is looked up, and what is for them is written, in one statement: a round trip is most of what a command costs. A clash of
// either key waits for the other transaction, and then shows its row to the next statement.
const TO_DEVICE: &str = "
    WITH target AS (SELECT device_id, deleted_at IS NOT NULL AS deleted FROM devices WHERE device = $2),
         given AS (
             INSERT INTO commands (command_id, command_type, command, parameters, qos, created_by, expires_at, idempotency_key)
             SELECT $1, $3, $4, $5::text::json, $6, $7, now() + make_interval(secs => $8), $9 FROM target WHERE NOT deleted
             ON CONFLICT DO NOTHING
             RETURNING command_id, created_at, expires_at),
         deliveries AS (
             INSERT INTO command_deliveries (command_id, device_id, expires_at)
             SELECT command_id, device_id, expires_at FROM given, target
             RETURNING device_id)
    SELECT target.device_id, target.deleted, given.created_at, given.expires_at, (SELECT count(device_id) FROM deliveries)
    FROM target LEFT JOIN given ON true";
// The publish to the group comes first, and its members' rows wait for it.
const TO_GROUP: &str = "
    WITH target AS (SELECT FROM device_groups WHERE group_id = $2),
         given AS (
             INSERT INTO commands (command_id, group_id, command_type, command, parameters, qos, created_by, expires_at, idempotency_key)
             SELECT $1, $2, $3, $4, $5::text::json, $6, $7, now() + make_interval(secs => $8), $9 FROM target
             ON CONFLICT DO NOTHING
             RETURNING command_id, created_at, expires_at),
         deliveries AS (
             INSERT INTO command_deliveries (command_id, device_id, by_group, expires_at)
             SELECT given.command_id, m.device_id, m.device_id IS NOT NULL, given.expires_at
             FROM given,
                  (SELECT NULL::integer AS device_id
                   UNION ALL
                   SELECT device_id FROM device_group_members JOIN devices USING (device_id) WHERE group_id = $2 AND deleted_at IS NULL) AS m
             ORDER BY m.device_id NULLS FIRST
             RETURNING device_id)
    SELECT NULL::integer, false, given.created_at, given.expires_at, (SELECT count(device_id) FROM deliveries)
    FROM target LEFT JOIN given ON true";
const KNOWN: &str = "
    SELECT c.command_id, c.group_id IS NOT DISTINCT FROM $2 AND c.command_type = $3 AND c.command = $4
           AND c.parameters::text IS NOT DISTINCT FROM $5 AND c.qos = $6
           AND ($7::integer IS NULL OR EXISTS (SELECT FROM command_deliveries d WHERE d.command_id = c.command_id AND d.device_id = $7))
    FROM commands c WHERE c.command_id = $1";
const BY_KEY: &str = "SELECT command_id FROM commands WHERE created_by = $1 AND idempotency_key = $2";

/// Who is to get it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// This device.
    Device(DeviceIdRef<'a>),
    /// The members of this group.
    Group(&'a GroupId),
}

/// A command that is to be given.
#[derive(Debug, Clone, Copy)]
pub struct NewCommand<'a> {
    /// Its id.
    pub command_id: &'a CommandId,
    /// To whom.
    pub target: Target<'a>,
    /// What it is about.
    pub kind: Kind,
    /// What to do.
    pub command: &'a str,
    /// With what: JSON.
    pub parameters: Option<&'a str>,
    /// 0 to 2.
    pub qos: i16,
    /// By whom.
    pub created_by: &'a str,
    /// How long it may wait and be worked at.
    pub ttl: Duration,
    /// The sender's own name for the request; one a sender.
    pub idempotency_key: Option<&'a str>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It is there, for so many devices.
    New {
        /// For how many.
        devices: i64,
        /// When it was given.
        created_at: Timestamp,
        /// When its time is over.
        expires_at: Timestamp,
    },
    /// It was there before, under this id.
    Known(CommandId),
    /// Another is there under this id, or under this idempotency key.
    Clash(CommandId),
    /// There is no such device or group.
    Nobody,
    /// The device was deleted.
    Deleted,
}

/// Writes a command and its deliveries. For a transaction.
///
/// # Errors
/// The database's.
pub async fn insert(client: &impl GenericClient, new: &NewCommand<'_>) -> Result<Inserted, Error> {
    let id = new.command_id.as_str();
    let (statement, target, group) = match new.target {
        Target::Device(device) => (TO_DEVICE, device.as_str(), None),
        Target::Group(group) => (TO_GROUP, group.as_str(), Some(group.as_str())),
    };
    let (kind, seconds) = (new.kind.as_str(), new.ttl.as_secs_f64());
    let written = client
        .query_typed_opt(
            statement,
            &[
                (&id, Type::TEXT),
                (&target, Type::TEXT),
                (&kind, Type::TEXT),
                (&new.command, Type::TEXT),
                (&new.parameters, Type::TEXT),
                (&new.qos, Type::INT2),
                (&new.created_by, Type::TEXT),
                (&seconds, Type::FLOAT8),
                (&new.idempotency_key, Type::TEXT),
            ],
        )
        .await?;
    let Some(written) = written else { return Ok(Inserted::Nobody) };
    if written.try_get(1)? {
        return Ok(Inserted::Deleted);
    }
    if let (Some(created_at), Some(expires_at)) = (written.try_get(2)?, written.try_get(3)?) {
        return Ok(Inserted::New {
            devices: written.try_get(4)?,
            created_at,
            expires_at,
        });
    }
    let device: Option<i32> = written.try_get(0)?;
    // The key tells which request it is; without one, or before it is known, the id does.
    let by_key: Option<Row> = match new.idempotency_key {
        Some(key) => client.query_opt(BY_KEY, &[&new.created_by, &key]).await?,
        None => None,
    };
    let known: String = by_key.map_or_else(|| id.to_owned(), |row| row.get(0));
    let found = client
        .query_opt(KNOWN, &[&known, &group, &kind, &new.command, &new.parameters, &new.qos, &device])
        .await?;
    let same = found.is_some_and(|row| row.get(1));
    let known = CommandId::parse(&known).unwrap_or_else(|_| new.command_id.clone());
    Ok(if same { Inserted::Known(known) } else { Inserted::Clash(known) })
}
