//! How far the broker is behind the database, as the database has it.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};

/// Nothing was changed yet at version 0, so that a broker that nobody keeps in step from here is not behind either.
const STATE: &str = "
    SELECT version, applied_version, greatest(version - greatest(applied_version, 0), 0), alarm,
           (extract(epoch FROM applied_at) * 1000000)::int8
    FROM broker_access";

/// The one row of `broker_access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Moved on by each change of who may do what.
    pub version: i64,
    /// The version that the broker was proven to obey; below 0 where none ever was.
    pub applied_version: i64,
    /// Changes that the broker does not obey yet.
    pub pending: i64,
    /// Why the last change is not in force.
    pub alarm: Option<String>,
    /// When the last one came into force, in microseconds since 1970.
    pub applied_at: Option<i64>,
}

impl State {
    /// Reads it. `None` where the schema is older than it, or the row is gone.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(client: &Client) -> Result<Option<Self>, Error> {
        let row = match client.query_opt(STATE, &[]).await {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
            read => read?,
        };
        Ok(row.map(|row| Self {
            version: row.get(0),
            applied_version: row.get(1),
            pending: row.get(2),
            alarm: row.get(3),
            applied_at: row.get(4),
        }))
    }
}
