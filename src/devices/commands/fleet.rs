//! How far a group has come with its last command: one sum over its members, told when it changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use super::state::State;

/// Most groups that are told of at once; the others have their turn a second later.
const MOST_AT_ONCE: i64 = 100;

// Those that were told of longest ago first. What another takes at the same time is told by that one.
const TAKE: &str = "
    WITH told AS (SELECT command_id FROM command_news GROUP BY command_id ORDER BY min(id) LIMIT $1),
         seen AS (
             SELECT id FROM command_news WHERE command_id IN (SELECT command_id FROM told) ORDER BY id FOR UPDATE SKIP LOCKED)
    DELETE FROM command_news n USING seen WHERE n.id = seen.id
    RETURNING n.command_id";
// A group that is being deleted is waited for and then not there; one that is told of is deleted after that.
const HOLD_GROUPS: &str = "
    SELECT FROM device_groups WHERE group_id IN (SELECT group_id FROM commands WHERE command_id = ANY ($1))
    ORDER BY group_id FOR NO KEY UPDATE";
// Nothing is told of a group that was deleted, nor what was given to one that had the id of a later one.
const SUMS: &str = "
    SELECT c.command_id, c.group_id, d.state, count(d.device_id)
    FROM commands c JOIN device_groups g ON g.group_id = c.group_id AND g.created_at <= c.created_at
    LEFT JOIN command_deliveries d ON d.command_id = c.command_id AND d.device_id IS NOT NULL
    WHERE c.command_id = ANY ($1)
      AND NOT EXISTS (SELECT FROM commands later
                      WHERE later.group_id = c.group_id AND later.created_at >= c.created_at
                        AND (later.created_at, later.command_id) > (c.created_at, c.command_id))
    GROUP BY c.command_id, c.group_id, d.state";

/// How many devices are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    /// All of them.
    pub total: i64,
    /// See [`State::Queued`].
    pub queued: i64,
    /// See [`State::Sent`].
    pub sent: i64,
    /// See [`State::Delivered`].
    pub delivered: i64,
    /// See [`State::Accepted`].
    pub accepted: i64,
    /// See [`State::Progress`].
    pub progress: i64,
    /// See [`State::Completed`].
    pub completed: i64,
    /// See [`State::Failed`].
    pub failed: i64,
    /// See [`State::Expired`].
    pub expired: i64,
    /// See [`State::Cancelled`].
    pub cancelled: i64,
    /// Those that have come to an end, whichever.
    pub done: i64,
}

impl Counts {
    /// Adds so many devices in `state`.
    pub fn add(&mut self, state: State, count: i64) {
        *match state {
            State::Queued => &mut self.queued,
            State::Sent => &mut self.sent,
            State::Delivered => &mut self.delivered,
            State::Accepted => &mut self.accepted,
            State::Progress => &mut self.progress,
            State::Completed => &mut self.completed,
            State::Failed => &mut self.failed,
            State::Expired => &mut self.expired,
            State::Cancelled => &mut self.cancelled,
        } += count;
        self.total += count;
        if state.is_final() {
            self.done += count;
        }
    }

    /// Whether every device has come to an end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done == self.total
    }
}

/// What is published on `fleet/status/{group_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aggregate {
    /// The group's last command.
    pub command_id: String,
    /// The group.
    pub group: String,
    /// How far its members have come.
    #[serde(flatten)]
    pub counts: Counts,
}

/// The sums that changed since they were last taken. For a transaction, in which they are also put where they will be published from.
///
/// The rows of news go first, and the sums are read by a later statement: a change whose row went is in its sum, and one that is
/// committed after that left a row that is still there.
///
/// # Errors
/// The database's.
pub async fn take_news(client: &impl GenericClient) -> Result<Vec<Aggregate>, Error> {
    let taken = client.query(TAKE, &[&MOST_AT_ONCE]).await?;
    let commands: BTreeSet<&str> = taken.iter().map(|row| row.get(0)).collect();
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let commands: Vec<&str> = commands.into_iter().collect();
    client.query(HOLD_GROUPS, &[&commands]).await?;
    let mut sums: BTreeMap<(String, String), Counts> = BTreeMap::new();
    for row in client.query(SUMS, &[&commands]).await? {
        let counts = sums.entry((row.try_get(1)?, row.try_get(0)?)).or_default();
        if let Some(state) = row.try_get::<_, Option<&str>>(2)?.and_then(|state| state.parse().ok()) {
            counts.add(state, row.try_get(3)?);
        }
    }
    Ok(sums
        .into_iter()
        .map(|((group, command_id), counts)| Aggregate { command_id, group, counts })
        .collect())
}
