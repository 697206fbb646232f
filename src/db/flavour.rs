//! Which PostgreSQL this is: plain, or with TimescaleDB.

use tokio_postgres::{Client, Error};
use tracing::{info, warn};

use super::error::describe;

/// What the large tables are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Native range partitions, which the service makes and drops.
    Plain,
    /// Hypertables, whose chunks TimescaleDB makes and drops.
    Timescale,
}

impl Flavour {
    /// What `telemetry` is in this database, once it has been migrated.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn of_tables(client: &Client) -> Result<Self, Error> {
        let row = client
            .query_one("SELECT relkind = 'p' FROM pg_class WHERE oid = 'telemetry'::regclass", &[])
            .await?;
        Ok(if row.get(0) { Self::Plain } else { Self::Timescale })
    }
}

/// Creates the extension where the server has it, before the first migration decides what the tables are made of.
///
/// # Errors
/// When the catalog cannot be read. That the extension cannot be created is no error: the flavour is then plain.
pub async fn prepare(client: &Client) -> Result<(), Error> {
    let offered = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb' AND installed_version IS NULL)",
            &[],
        )
        .await?;
    let migrated = client.query_one("SELECT to_regclass('telemetry') IS NOT NULL", &[]).await?;
    if !offered.get::<_, bool>(0) || migrated.get::<_, bool>(0) {
        return Ok(());
    }
    match client.batch_execute("CREATE EXTENSION timescaledb").await {
        Ok(()) => info!("TimescaleDB was created in this database"),
        Err(error) => warn!(
            error = describe(&error),
            "TimescaleDB is offered but cannot be created; the tables will be partitioned natively"
        ),
    }
    Ok(())
}
