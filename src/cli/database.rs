//! A command's own connection to the database.

use anyhow::{Context as _, bail};
use tokio_postgres::Client;

use crate::db::config::Config;
use crate::db::error::describe;
use crate::db::pool;

/// Connects, and makes sure that the schema has what operators' commands need: a sentence now in place of a missing table later.
pub(super) async fn connect(config: &Config, name: &str) -> anyhow::Result<Client> {
    let client = pool::connect(config, name)
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
        .context("the database cannot be reached")?;
    let is_there: bool = client
        .query_one("SELECT to_regclass('audit_log') IS NOT NULL", &[])
        .await?
        .try_get(0)?;
    if !is_there {
        bail!("the database's schema is older than this program: run `iotflow migrate` first");
    }
    Ok(client)
}
