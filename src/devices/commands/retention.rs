//! Commands that came to their end long ago are forgotten, with the keys under which they would be known again.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient};

use super::read::Place;

/// Most commands that one transaction looks at.
const MOST_COMMANDS: i64 = 100;
/// Deliveries at which a transaction is full: of a fleet that is larger, it takes this one command.
const MOST_DELIVERIES: i64 = 10_000;
/// The longest time that is reckoned with: no database of ours is older.
const LONGEST: Duration = Duration::from_secs(36_525 * 86_400);

// The oldest first, each with what it would add.
const OLD: &str = "
    SELECT created_at, command_id
    FROM (SELECT created_at, command_id, sum(deliveries) OVER (ORDER BY created_at, command_id) - deliveries AS before
          FROM (SELECT c.created_at, c.command_id,
                       (SELECT count(*) FROM command_deliveries d WHERE d.command_id = c.command_id) AS deliveries
                FROM commands c
                WHERE c.created_at < now() - make_interval(secs => $1)
                  AND ($2::timestamptz IS NULL OR (c.created_at, c.command_id) > ($2, $3))
                ORDER BY c.created_at, c.command_id LIMIT $4) AS old) AS old
    WHERE before < $5
    ORDER BY created_at, command_id";
// The publish to a group is done once the broker has it. What has a packet at the broker is still needed, whatever its state. What
// another replica is at is left to it.
const ENDED: &str = "
    SELECT c.command_id FROM commands c
    WHERE c.command_id = ANY ($1)
      AND NOT EXISTS (
          SELECT FROM command_deliveries d
          WHERE d.command_id = c.command_id
            AND (d.packet_id IS NOT NULL
                 OR d.state IN ('queued', 'sent', 'delivered', 'accepted', 'progress') AND (d.device_id IS NOT NULL OR d.state = 'queued')))
    ORDER BY c.command_id FOR UPDATE SKIP LOCKED";
// A late answer locks them too.
const LOCK: &str = "SELECT FROM command_deliveries WHERE command_id = ANY ($1) ORDER BY seq FOR UPDATE";
const FORGET: [&str; 2] = [
    "DELETE FROM command_deliveries WHERE command_id = ANY ($1)",
    "DELETE FROM commands WHERE command_id = ANY ($1)",
];

/// How long commands are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// From when they were given; zero for ever.
    pub retention: Duration,
}

impl Default for Config {
    fn default() -> Self {
        // A quarter of a year: whoever looks for what was done to a device does so by then.
        Self {
            retention: Duration::from_secs(90 * 86_400),
        }
    }
}

/// What one transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// How many commands it deleted.
    pub commands: u64,
    /// The last that it looked at; none where there was nothing left to look at.
    pub place: Option<Place>,
}

/// Deletes commands that were given longer than `retention` ago and have come to their end, of the next ones behind `place`. For a
/// transaction of its own.
///
/// # Errors
/// The database's.
pub async fn forget(client: &impl GenericClient, retention: Duration, place: Option<&Place>) -> Result<Forgotten, Error> {
    let seconds = retention.min(LONGEST).as_secs_f64();
    let (at, id) = (place.map(|place| place.created_at), place.map(|place| place.command_id.as_str()));
    let rows = client
        .query_typed(
            OLD,
            &[
                (&seconds, Type::FLOAT8),
                (&at, Type::TIMESTAMPTZ),
                (&id, Type::TEXT),
                (&MOST_COMMANDS, Type::INT8),
                (&MOST_DELIVERIES, Type::INT8),
            ],
        )
        .await?;
    let Some(last) = rows.last() else {
        return Ok(Forgotten { commands: 0, place: None });
    };
    let place = Place {
        created_at: last.try_get(0)?,
        command_id: last.try_get(1)?,
    };
    let old: Vec<&str> = rows.iter().map(|row| row.get(1)).collect();
    let rows = client.query(ENDED, &[&old]).await?;
    let ended: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    if !ended.is_empty() {
        client.query(LOCK, &[&ended]).await?;
        for statement in FORGET {
            client.execute(statement, &[&ended]).await?;
        }
    }
    Ok(Forgotten {
        commands: ended.len() as u64,
        place: Some(place),
    })
}
