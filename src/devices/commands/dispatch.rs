//! What is due goes to the broker: taken with a packet id, noted as sent, noted as done, each before the packet that follows from it.
//!
//! ```text
//! take: packet_id ─► PUBLISH ─► PUBREC ─► sent: sent_at ─► PUBREL ─► PUBCOMP ─► done: packet_id NULL
//! ```

use jiff::Timestamp;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::command::{BadKind, Kind};
use crate::protocol::id::{BadDeviceId, BadGroupId, DeviceId, DeviceIdRef, GroupId};

// The lock, held to the end of the statement, lets no device come back between the look and the note. In the order of ids, as the
// status stage writes them; all of it, the array, is there before the first delivery is locked.
const HOLD: &str = "
    WITH next AS (
        SELECT seq, device_id FROM command_deliveries
        WHERE state = 'queued' AND packet_id IS NULL AND NOT held AND NOT by_group
        ORDER BY seq LIMIT $1),
    away AS (
        SELECT device_id FROM device_status
        WHERE status = 'offline' AND device_id IN (SELECT device_id FROM next)
        ORDER BY device_id FOR SHARE),
    waiting AS (
        SELECT d.seq FROM command_deliveries d
        WHERE d.seq = ANY (ARRAY(SELECT seq FROM next JOIN away USING (device_id)))
          AND d.state = 'queued' AND d.packet_id IS NULL AND NOT d.held AND NOT d.by_group
        ORDER BY d.seq FOR UPDATE)
    UPDATE command_deliveries d SET held = true FROM waiting WHERE d.seq = waiting.seq";
// One that waits makes those behind it wait: a device gets its commands in order. The two questions are asked a row, by index: as
// joins, a planner that knows no figures of a table that just grew has compared all rows with all. At QoS 0 nothing is heard of it
// again, so what goes to a device is sent with this. What goes to a group is sent together with its members' rows, by `sent`;
// until then it has a packet id as others have, so that nobody takes it back meanwhile.
const TAKE: &str = "
    WITH due AS (
        SELECT d.seq, c.qos > 0 OR d.device_id IS NULL AS begins FROM command_deliveries d JOIN commands c USING (command_id)
        WHERE d.state = 'queued' AND d.packet_id IS NULL AND NOT d.held AND NOT d.by_group
          AND d.expires_at > now() AND (d.not_before IS NULL OR d.not_before <= now())
          AND (SELECT s.status FROM device_status s WHERE s.device_id = d.device_id) IS DISTINCT FROM 'offline'
          AND (SELECT e.seq FROM command_deliveries e
               WHERE e.device_id = d.device_id AND e.seq < d.seq AND e.state = 'queued' AND e.packet_id IS NULL AND NOT e.by_group
                 AND (e.held OR e.not_before IS NOT NULL) AND (e.held OR e.not_before > now()) AND e.expires_at > now()
               LIMIT 1) IS NULL
        ORDER BY d.seq LIMIT cardinality($1::int4[])
        FOR UPDATE OF d),
    numbered AS (SELECT seq, begins, row_number() OVER (ORDER BY seq) AS number FROM due)
    UPDATE command_deliveries d
    SET packet_id = CASE WHEN begins THEN ($1::int4[])[number] END,
        state = CASE WHEN begins THEN d.state ELSE 'sent' END,
        sent_at = CASE WHEN begins THEN d.sent_at ELSE now() END
    FROM numbered WHERE d.seq = numbered.seq
    RETURNING d.seq";
const COLUMNS: &str = "
    SELECT d.seq, d.packet_id, d.sent_at IS NOT NULL, v.device, CASE WHEN d.device_id IS NULL THEN c.group_id END, c.command_id, c.command_type, c.command,
           c.parameters::text, c.qos, c.created_at, d.expires_at
    FROM command_deliveries d JOIN commands c USING (command_id) LEFT JOIN devices v ON v.device_id = d.device_id";
// With the publish to a group, its members, and before all of them where those stand that are away: the count has every one of these
// locked before the first delivery is.
const LOCK: &str = "
    WITH members AS MATERIALIZED (
        SELECT m.seq, m.device_id FROM command_deliveries g JOIN command_deliveries m USING (command_id)
        WHERE g.seq = ANY ($1) AND g.device_id IS NULL AND m.by_group AND m.state = 'queued'),
    away AS MATERIALIZED (
        SELECT device_id FROM device_status
        WHERE status = 'offline' AND device_id IN (SELECT device_id FROM members)
        ORDER BY device_id FOR SHARE)
    SELECT FROM command_deliveries
    WHERE (SELECT count(*) FROM away) >= 0
      AND seq = ANY (ARRAY(SELECT unnest($1) UNION ALL SELECT seq FROM members))
    ORDER BY seq FOR UPDATE";
const SENT: &str = "
    UPDATE command_deliveries SET sent_at = now(), state = CASE WHEN state = 'queued' THEN 'sent' ELSE state END
    WHERE seq = ANY ($1) AND sent_at IS NULL
    RETURNING CASE WHEN device_id IS NULL THEN command_id END";
const MEMBERS_AWAY: &str = "
    WITH away AS (
        SELECT device_id FROM device_status
        WHERE status = 'offline'
          AND device_id IN (SELECT device_id FROM command_deliveries WHERE command_id = ANY ($1) AND by_group AND state = 'queued')
        ORDER BY device_id FOR SHARE)
    UPDATE command_deliveries d SET by_group = false, held = true FROM away
    WHERE d.command_id = ANY ($1) AND d.device_id = away.device_id AND d.by_group AND d.state = 'queued'";
const MEMBERS_SENT: &str = "
    UPDATE command_deliveries SET state = 'sent', sent_at = now() WHERE command_id = ANY ($1) AND by_group AND state = 'queued'";
// At QoS 0 it is refused, if it is, after it was noted as sent.
const REFUSED: &str = "
    UPDATE command_deliveries d
    SET packet_id = NULL,
        state = CASE WHEN d.finished_at IS NULL THEN 'failed' ELSE d.state END,
        message = CASE WHEN d.finished_at IS NULL THEN refusal.message ELSE d.message END,
        finished_at = coalesce(d.finished_at, now())
    FROM unnest($1::int8[], $2::text[]) AS refusal (seq, message) WHERE d.seq = refusal.seq
    RETURNING CASE WHEN device_id IS NULL THEN command_id END, d.message";
const MEMBERS_REFUSED: &str = "
    UPDATE command_deliveries d SET state = 'failed', message = refusal.message, finished_at = now()
    FROM unnest($1::text[], $2::text[]) AS refusal (command_id, message)
    WHERE d.command_id = refusal.command_id AND d.by_group AND d.state IN ('queued', 'sent')";
const DONE: &str = "UPDATE command_deliveries SET packet_id = NULL WHERE seq = ANY ($1)";
// As long again as it has waited already: from a second to a minute.
const POSTPONE: &str = "
    UPDATE command_deliveries
    SET packet_id = NULL, not_before = now() + least(greatest(now() - queued_at, interval '1 second'), interval '1 minute')
    WHERE seq = ANY ($1)";
// Noted before it is published: so it was not.
const FORGET_AT_MOST_ONCE: &str = "
    WITH under_way AS (
        SELECT d.seq FROM command_deliveries d JOIN commands c USING (command_id)
        WHERE d.packet_id IS NOT NULL AND c.qos = 0
        ORDER BY d.seq FOR UPDATE OF d)
    UPDATE command_deliveries d SET packet_id = NULL FROM under_way WHERE d.seq = under_way.seq";
const FORGET: &str = "
    WITH under_way AS (SELECT seq FROM command_deliveries WHERE packet_id IS NOT NULL ORDER BY seq FOR UPDATE)
    UPDATE command_deliveries d SET packet_id = NULL FROM under_way WHERE d.seq = under_way.seq";
const IN_USE: &str = "SELECT packet_id FROM command_deliveries WHERE packet_id IS NOT NULL";
const DEPTH: &str = "
    SELECT count(*) FILTER (WHERE NOT held), count(*) FILTER (WHERE held)
    FROM command_deliveries WHERE state = 'queued' AND packet_id IS NULL AND NOT by_group";

/// To whom a publish goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// A device, on its own topic.
    Device(DeviceId),
    /// A group, on the group's.
    Group(GroupId),
}

/// A publish that is due or under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispatch {
    /// The delivery's row.
    pub seq: i64,
    /// Its packet; none where it is sent already, at QoS 0.
    pub packet_id: Option<u16>,
    /// Whether the broker is known to have it: what is left is to release it.
    pub sent: bool,
    /// To whom.
    pub to: Recipient,
    /// The command's id.
    pub command_id: String,
    /// What it is about.
    pub kind: Kind,
    /// What to do.
    pub command: String,
    /// With what: JSON.
    pub parameters: Option<String>,
    /// 0 to 2.
    pub qos: u8,
    /// When it was given.
    pub created_at: Timestamp,
    /// When its time is over.
    pub expires_at: Timestamp,
}

/// Why a delivery cannot be sent, whenever it is tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsendable {
    /// What is stored is no device id.
    #[error("it is for a device that cannot be: {0}")]
    Device(#[from] BadDeviceId),
    /// What is stored is no group id.
    #[error("it is for a group that cannot be: {0}")]
    Group(#[from] BadGroupId),
    /// What is stored is no type of commands.
    #[error("it is of a type that cannot be: {0}")]
    Kind(#[from] BadKind),
    /// A device's row is gone.
    #[error("its device is no more")]
    Orphan,
}

/// A delivery that cannot be sent. It is one command's fault, and holds up no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The delivery's row.
    pub seq: i64,
    /// Its packet, where it has one.
    pub packet_id: Option<u16>,
    /// Why.
    pub why: Unsendable,
}

/// What was read of the table, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What can be sent.
    pub dispatches: Vec<Dispatch>,
    /// What cannot.
    pub lost: Vec<Lost>,
}

impl Taken {
    fn read(rows: &[Row]) -> Result<Self, Error> {
        let mut taken = Self::default();
        for row in rows {
            match dispatch(row)? {
                Ok(dispatch) => taken.dispatches.push(dispatch),
                Err(why) => taken.lost.push(Lost {
                    seq: row.try_get(0)?,
                    packet_id: packet_id(row)?,
                    why,
                }),
            }
        }
        Ok(taken)
    }
}

fn packet_id(row: &Row) -> Result<Option<u16>, Error> {
    Ok(row.try_get::<_, Option<i32>>(1)?.and_then(|id| u16::try_from(id).ok()))
}

fn recipient(device: Option<&str>, group: Option<&str>) -> Result<Recipient, Unsendable> {
    match (device, group) {
        (Some(device), _) => Ok(Recipient::Device(DeviceIdRef::parse(device)?.to_owned())),
        (None, Some(group)) => Ok(Recipient::Group(GroupId::parse(group)?)),
        (None, None) => Err(Unsendable::Orphan),
    }
}

fn dispatch(row: &Row) -> Result<Result<Dispatch, Unsendable>, Error> {
    let to = match recipient(row.try_get(3)?, row.try_get(4)?) {
        Ok(to) => to,
        Err(why) => return Ok(Err(why)),
    };
    let kind = match row.try_get::<_, &str>(6)?.parse() {
        Ok(kind) => kind,
        Err(why) => return Ok(Err(Unsendable::Kind(why))),
    };
    Ok(Ok(Dispatch {
        seq: row.try_get(0)?,
        packet_id: packet_id(row)?,
        sent: row.try_get(2)?,
        to,
        command_id: row.try_get(5)?,
        kind,
        command: row.try_get(7)?,
        parameters: row.try_get(8)?,
        qos: u8::try_from(row.try_get::<_, i16>(9)?).unwrap_or(0),
        created_at: row.try_get(10)?,
        expires_at: row.try_get(11)?,
    }))
}

/// Holds back what is due for devices that are offline, of the next `most`; returns how many deliveries.
///
/// # Errors
/// The database's.
pub async fn hold(client: &impl GenericClient, most: usize) -> Result<u64, Error> {
    client.execute(HOLD, &[&i64::try_from(most).unwrap_or(i64::MAX)]).await
}

/// Takes what is due, in order, each with a packet id of `free`: at most as many. What goes to a device at QoS 0 is sent with this.
///
/// # Errors
/// The database's.
pub async fn take(client: &impl GenericClient, free: &[u16]) -> Result<Taken, Error> {
    let free: Vec<i32> = free.iter().copied().map(i32::from).collect();
    let taken: Vec<i64> = client.query(TAKE, &[&free]).await?.iter().map(|row| row.get(0)).collect();
    if taken.is_empty() {
        return Ok(Taken::default());
    }
    Taken::read(&client.query(&select("d.seq = ANY ($1)"), &[&taken]).await?)
}

/// What has a packet at the broker, or may have, in order; for whoever begins. What was to go at QoS 0 is due again.
///
/// # Errors
/// The database's.
pub async fn under_way(client: &impl GenericClient) -> Result<Taken, Error> {
    client.execute(FORGET_AT_MOST_ONCE, &[]).await?;
    Taken::read(&client.query(&select("d.packet_id IS NOT NULL"), &[]).await?)
}

/// The one query of both, with a condition that is a text of this file.
fn select(condition: &'static str) -> String {
    format!("{COLUMNS} WHERE {condition} ORDER BY d.seq")
}

/// Locks all deliveries that a transaction is about to note something of, in the one order (see [`super`]).
///
/// # Errors
/// The database's.
pub async fn lock(client: &impl GenericClient, deliveries: &[i64]) -> Result<(), Error> {
    client.query_typed(LOCK, &[(&deliveries, Type::INT8_ARRAY)]).await.map(drop)
}

/// Notes that the broker has these. With a publish to a group go its members: those that are offline now get a copy of their own
/// once they are back. For a transaction, behind [`lock`]. Returns how many deliveries.
///
/// # Errors
/// The database's.
pub async fn sent(client: &impl GenericClient, deliveries: &[i64]) -> Result<u64, Error> {
    let rows = client.query_typed(SENT, &[(&deliveries, Type::INT8_ARRAY)]).await?;
    let groups: Vec<&str> = rows.iter().filter_map(|row| row.get(0)).collect();
    let mut count = rows.len() as u64;
    if !groups.is_empty() {
        client.execute(MEMBERS_AWAY, &[&groups]).await?;
        count += client.execute(MEMBERS_SENT, &[&groups]).await?;
    }
    Ok(count)
}

/// Notes that the broker refused these, each with its words. For a transaction, behind [`lock`]. Returns how many deliveries.
///
/// # Errors
/// The database's.
pub async fn refused(client: &impl GenericClient, refusals: &[(i64, String)]) -> Result<u64, Error> {
    let (deliveries, words): (Vec<i64>, Vec<&str>) = refusals.iter().map(|(seq, words)| (*seq, words.as_str())).unzip();
    let rows = client.query(REFUSED, &[&deliveries, &words]).await?;
    let (groups, words): (Vec<&str>, Vec<Option<&str>>) = rows
        .iter()
        .filter_map(|row| Some((row.get::<_, Option<&str>>(0)?, row.get::<_, Option<&str>>(1))))
        .unzip();
    let mut count = rows.len() as u64;
    if !groups.is_empty() {
        count += client.execute(MEMBERS_REFUSED, &[&groups, &words]).await?;
    }
    Ok(count)
}

/// Notes that nothing more is to be said about these: their packet ids are free. For a transaction, behind [`lock`].
///
/// # Errors
/// The database's.
pub async fn done(client: &impl GenericClient, deliveries: &[i64]) -> Result<(), Error> {
    client.execute_typed(DONE, &[(&deliveries, Type::INT8_ARRAY)]).await.map(drop)
}

/// Puts these back, for nobody was there to get them. For a transaction, behind [`lock`].
///
/// # Errors
/// The database's.
pub async fn postpone(client: &impl GenericClient, deliveries: &[i64]) -> Result<(), Error> {
    client.execute(POSTPONE, &[&deliveries]).await.map(drop)
}

/// Forgets all packets: the session that they belonged to is gone. What was not sent is due again by that; returns how many had one.
///
/// # Errors
/// The database's.
pub async fn forget_packets(client: &impl GenericClient) -> Result<u64, Error> {
    client.execute(FORGET, &[]).await
}

/// The packet ids that are in use.
///
/// # Errors
/// The database's.
pub async fn packet_ids(client: &impl GenericClient) -> Result<Vec<u16>, Error> {
    let rows = client.query(IN_USE, &[]).await?;
    Ok(rows.iter().filter_map(|row| u16::try_from(row.get::<_, i32>(0)).ok()).collect())
}

/// How many deliveries wait for their turn, and how many for their device.
///
/// # Errors
/// The database's.
pub async fn depth(client: &impl GenericClient) -> Result<(i64, i64), Error> {
    let row = client.query_one(DEPTH, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
