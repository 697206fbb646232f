//! How many devices, groups, commands and readings there are.

use std::collections::BTreeMap;

use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

const DEVICES: &str = "
    SELECT coalesce(s.status, 'unknown'), count(*) FROM devices d LEFT JOIN device_status s USING (device_id)
    WHERE d.deleted_at IS NULL GROUP BY 1";
const GROUPS: &str = "SELECT count(*) FROM device_groups";
const COMMANDS: &str = "SELECT state, count(*) FROM command_deliveries GROUP BY state";
/// Of a table and all its parts. A part that was never looked at says -1.
const ROWS: &str = "
    WITH RECURSIVE parts (oid) AS (
        SELECT $1::text::regclass::oid UNION ALL SELECT i.inhrelid FROM pg_inherits i JOIN parts ON i.inhparent = parts.oid)
    SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8::int8 FROM parts JOIN pg_class c USING (oid) WHERE c.relkind <> 'p'";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    /// Devices by presence: `online`, `offline`, and `unknown` for those that never said.
    pub devices: BTreeMap<String, i64>,
    /// Groups.
    pub groups: i64,
    /// Commands to single devices, by how far they have come.
    pub commands: BTreeMap<String, i64>,
    /// Rows of telemetry, estimated.
    pub telemetry_rows: i64,
    /// Events, estimated.
    pub event_rows: i64,
}

/// Counts.
///
/// # Errors
/// The database's.
pub async fn read(client: &impl GenericClient) -> Result<Stats, Error> {
    Ok(Stats {
        devices: counts(client, DEVICES).await?,
        groups: client.query_one(GROUPS, &[]).await?.try_get(0)?,
        commands: counts(client, COMMANDS).await?,
        telemetry_rows: client.query_one(ROWS, &[&"telemetry"]).await?.try_get(0)?,
        event_rows: client.query_one(ROWS, &[&"events"]).await?.try_get(0)?,
    })
}

async fn counts(client: &impl GenericClient, statement: &str) -> Result<BTreeMap<String, i64>, Error> {
    let rows = client.query(statement, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
