//! Commands read again: one with its deliveries, and the history of a device, a group, or all, a page at a time.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::command::CommandId;
use crate::protocol::id::DeviceIdRef;

use super::fleet::Counts;
use super::state::State;

const COLUMNS: &str = "
    SELECT c.command_id, c.group_id, c.command_type, c.command, c.parameters::text, c.qos, c.created_at, c.created_by, c.expires_at,
           one.device, sums.states, sums.counts
    FROM commands c
    LEFT JOIN LATERAL (
        SELECT v.device FROM command_deliveries d JOIN devices v USING (device_id)
        WHERE c.group_id IS NULL AND d.command_id = c.command_id LIMIT 1) AS one ON true
    CROSS JOIN LATERAL (
        SELECT array_agg(state) AS states, array_agg(number) AS counts
        FROM (SELECT state, count(*) AS number FROM command_deliveries d
              WHERE d.command_id = c.command_id AND d.device_id IS NOT NULL GROUP BY state) AS s) AS sums";
const HISTORY: &str = "
    WHERE $1::text IS NULL
      AND ($2::text IS NULL OR c.group_id = $2)
      AND ($3::text IS NULL OR EXISTS (
              SELECT FROM command_deliveries d WHERE d.command_id = c.command_id AND d.device_id IS NOT NULL AND d.state = $3))
      AND ($4::text IS NULL OR c.command_type = $4)
      AND ($5::timestamptz IS NULL OR (c.created_at, c.command_id) < ($5, $6::text))
    ORDER BY c.created_at DESC, c.command_id DESC LIMIT $7";
// Beginning from the device, whose commands are few among all.
const HISTORY_OF_DEVICE: &str = "
    WHERE c.command_id IN (
              SELECT d.command_id FROM command_deliveries d
              WHERE d.device_id = (SELECT device_id FROM devices WHERE device = $1) AND ($3::text IS NULL OR d.state = $3))
      AND ($2::text IS NULL OR c.group_id = $2)
      AND ($4::text IS NULL OR c.command_type = $4)
      AND ($5::timestamptz IS NULL OR (c.created_at, c.command_id) < ($5, $6::text))
    ORDER BY c.created_at DESC, c.command_id DESC LIMIT $7";
const ENDED: &str = "
    SELECT asked.command_id FROM unnest($1::text[]) AS asked (command_id)
    WHERE NOT EXISTS (SELECT FROM command_deliveries d
                      WHERE d.command_id = asked.command_id AND d.device_id IS NOT NULL
                        AND d.state IN ('queued', 'sent', 'delivered', 'accepted', 'progress'))";
const DELIVERIES: &str = "
    SELECT d.seq, v.device, d.state, d.queued_at, d.sent_at, d.delivered_at, d.accepted_at, d.progress_at, d.finished_at, d.expires_at,
           d.progress, d.message, d.result::text, d.held
    FROM command_deliveries d JOIN devices v USING (device_id)
    WHERE d.command_id = $1 AND ($2::text IS NULL OR d.state = $2) AND d.seq > $3
    ORDER BY d.seq LIMIT $4";

const OF_DEVICE: &str = "
    SELECT d.seq, v.device, d.state, d.queued_at, d.sent_at, d.delivered_at, d.accepted_at, d.progress_at, d.finished_at, d.expires_at,
           d.progress, d.message, d.result::text, d.held, d.command_id
    FROM command_deliveries d JOIN devices v USING (device_id)
    WHERE d.command_id = ANY ($1) AND v.device = $2";

/// A command.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Its id.
    pub command_id: String,
    /// The device, where it is for one.
    pub device: Option<String>,
    /// The group, where it is for one.
    pub group: Option<String>,
    /// `config`, `control` or `firmware`.
    pub command_type: String,
    /// What to do.
    pub command: String,
    /// With what: JSON, as it was given.
    pub parameters: Option<String>,
    /// 0 to 2.
    pub qos: i16,
    /// When it was given.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When its time is over.
    pub expires_at: Timestamp,
    /// How far its devices have come.
    pub counts: Counts,
}

impl Command {
    /// How far it has come: its device's state, or for a group the least that every member has come to.
    #[must_use]
    pub fn state(&self) -> State {
        let present = [
            (self.counts.queued, State::Queued),
            (self.counts.sent, State::Sent),
            (self.counts.delivered, State::Delivered),
            (self.counts.accepted, State::Accepted),
            (self.counts.progress, State::Progress),
            (self.counts.failed, State::Failed),
            (self.counts.expired, State::Expired),
            (self.counts.completed, State::Completed),
            (self.counts.cancelled, State::Cancelled),
        ];
        present
            .iter()
            .find(|(count, _)| *count > 0)
            .map_or(State::Completed, |(_, state)| *state)
    }
}

/// How far a command has come with one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Where it stands in the order of all.
    pub seq: i64,
    /// The device.
    pub device: String,
    /// How far.
    pub state: State,
    /// When it was put into the queue.
    pub queued_at: Timestamp,
    /// When the broker had it.
    pub sent_at: Option<Timestamp>,
    /// When the device was first heard to have it.
    pub delivered_at: Option<Timestamp>,
    /// When the device took it on.
    pub accepted_at: Option<Timestamp>,
    /// When the device last told of its progress.
    pub progress_at: Option<Timestamp>,
    /// When it came to an end.
    pub finished_at: Option<Timestamp>,
    /// When its time is over.
    pub expires_at: Timestamp,
    /// In per cent.
    pub progress: Option<f32>,
    /// What the device, or the broker, said.
    pub message: Option<String>,
    /// What came of it: JSON, as it was sent.
    pub result: Option<String>,
    /// It waits until its device is back.
    pub held: bool,
}

/// Which commands are wanted; all that is set must fit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Of this device, its groups' commands included.
    pub device: Option<&'a str>,
    /// Of this group.
    pub group: Option<&'a str>,
    /// With a device in this state.
    pub state: Option<State>,
    /// `config`, `control` or `firmware`.
    pub command_type: Option<&'a str>,
}

/// Where a page of the history ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Place {
    /// When the last command was given.
    pub created_at: Timestamp,
    /// Its id.
    pub command_id: String,
}

impl From<&Command> for Place {
    fn from(command: &Command) -> Self {
        Self {
            created_at: command.created_at,
            command_id: command.command_id.clone(),
        }
    }
}

fn command(row: &Row) -> Result<Command, Error> {
    let states: Option<Vec<String>> = row.try_get(10)?;
    let numbers: Option<Vec<i64>> = row.try_get(11)?;
    let mut counts = Counts::default();
    for (state, number) in states.unwrap_or_default().iter().zip(numbers.unwrap_or_default()) {
        if let Ok(state) = state.parse() {
            counts.add(state, number);
        }
    }
    Ok(Command {
        command_id: row.try_get(0)?,
        group: row.try_get(1)?,
        command_type: row.try_get(2)?,
        command: row.try_get(3)?,
        parameters: row.try_get(4)?,
        qos: row.try_get(5)?,
        created_at: row.try_get(6)?,
        created_by: row.try_get(7)?,
        expires_at: row.try_get(8)?,
        device: row.try_get(9)?,
        counts,
    })
}

fn delivery(row: &Row) -> Result<Delivery, Error> {
    Ok(Delivery {
        seq: row.try_get(0)?,
        device: row.try_get(1)?,
        state: row.try_get::<_, &str>(2)?.parse().unwrap_or(State::Failed),
        queued_at: row.try_get(3)?,
        sent_at: row.try_get(4)?,
        delivered_at: row.try_get(5)?,
        accepted_at: row.try_get(6)?,
        progress_at: row.try_get(7)?,
        finished_at: row.try_get(8)?,
        expires_at: row.try_get(9)?,
        progress: row.try_get(10)?,
        message: row.try_get(11)?,
        result: row.try_get(12)?,
        held: row.try_get(13)?,
    })
}

/// One command.
///
/// # Errors
/// The database's.
pub async fn get(client: &impl GenericClient, id: &CommandId) -> Result<Option<Command>, Error> {
    let statement = format!("{COLUMNS} WHERE c.command_id = $1");
    client
        .query_typed_opt(&statement, &[(&id.as_str(), Type::TEXT)])
        .await?
        .as_ref()
        .map(command)
        .transpose()
}

/// Those of these commands of which every device has come to an end.
///
/// # Errors
/// The database's.
pub async fn ended(client: &impl GenericClient, commands: &[&str]) -> Result<Vec<String>, Error> {
    let rows = client.query_typed(ENDED, &[(&commands, Type::TEXT_ARRAY)]).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// A command's deliveries to devices, in order, behind the one with this `seq` (0 for the first page).
///
/// # Errors
/// The database's.
pub async fn deliveries(
    client: &impl GenericClient,
    id: &CommandId,
    state: Option<State>,
    behind: i64,
    limit: u32,
) -> Result<Vec<Delivery>, Error> {
    let rows = client
        .query(DELIVERIES, &[&id.as_str(), &state.map(State::as_str), &behind, &i64::from(limit)])
        .await?;
    rows.iter().map(delivery).collect()
}

/// The commands that fit `filter`, newest first, behind `place`.
///
/// # Errors
/// The database's.
pub async fn history(client: &impl GenericClient, filter: &Filter<'_>, place: Option<&Place>, limit: u32) -> Result<Vec<Command>, Error> {
    let which = if filter.device.is_some() { HISTORY_OF_DEVICE } else { HISTORY };
    let rows = client
        .query(
            &format!("{COLUMNS} {which}"),
            &[
                &filter.device,
                &filter.group,
                &filter.state.map(State::as_str),
                &filter.command_type,
                &place.map(|place| place.created_at),
                &place.map(|place| place.command_id.as_str()),
                &i64::from(limit),
            ],
        )
        .await?;
    rows.iter().map(command).collect()
}

/// How far a device has come with each of these commands, by the command's id.
///
/// # Errors
/// The database's.
pub async fn deliveries_of(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    commands: &[&str],
) -> Result<HashMap<String, Delivery>, Error> {
    let rows = client.query(OF_DEVICE, &[&commands, &device.as_str()]).await?;
    rows.iter().map(|row| Ok((row.try_get(14)?, delivery(row)?))).collect()
}
