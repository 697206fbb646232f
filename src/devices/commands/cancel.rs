//! A command comes to its end without its device: taken back, or its time is over.

use tokio_postgres::{Error, GenericClient};

use crate::protocol::command::CommandId;

/// Most deliveries that expire in one statement; those that are left have their turn a second later.
const MOST_AT_ONCE: i64 = 10_000;

// First, for as long as it was not published its members' rows can be taken back, and whoever publishes locks it.
const CANCEL_TO_GROUP: &str = "
    UPDATE command_deliveries SET state = 'cancelled', finished_at = now()
    WHERE command_id = $1 AND device_id IS NULL AND state = 'queued' AND packet_id IS NULL";
// In one order, as everybody locks deliveries: else two could wait for each other.
const CANCEL: &str = "
    WITH open AS (
        SELECT seq FROM command_deliveries
        WHERE command_id = $1 AND device_id IS NOT NULL AND state = 'queued' AND packet_id IS NULL
          AND (NOT by_group
               OR EXISTS (SELECT FROM command_deliveries g WHERE g.command_id = $1 AND g.device_id IS NULL AND g.state = 'cancelled'))
        ORDER BY seq FOR UPDATE)
    UPDATE command_deliveries d SET state = 'cancelled', finished_at = now(), held = false
    FROM open WHERE d.seq = open.seq";
// The publish to a group is done once the broker has it: nobody answers it.
const EXPIRE: &str = "
    WITH over AS (
        SELECT seq FROM command_deliveries
        WHERE state IN ('queued', 'sent', 'delivered', 'accepted', 'progress') AND expires_at <= now()
          AND (device_id IS NOT NULL OR state = 'queued')
        ORDER BY seq LIMIT $1 FOR UPDATE)
    UPDATE command_deliveries d SET state = 'expired', finished_at = now(), held = false
    FROM over WHERE d.seq = over.seq";

/// Takes back what was not sent of a command; returns for how many devices. For a transaction.
///
/// # Errors
/// The database's.
pub async fn cancel(client: &impl GenericClient, command: &CommandId) -> Result<u64, Error> {
    client.execute(CANCEL_TO_GROUP, &[&command.as_str()]).await?;
    client.execute(CANCEL, &[&command.as_str()]).await
}

/// Ends what is past its time; returns how many deliveries.
///
/// # Errors
/// The database's.
pub async fn expire(client: &impl GenericClient) -> Result<u64, Error> {
    client.execute(EXPIRE, &[&MOST_AT_ONCE]).await
}
