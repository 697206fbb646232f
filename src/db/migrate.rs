//! The schema, brought up to date by the numbered files of `migrations/`, which are part of the binary.

use tokio_postgres::Client;
use tracing::info;

use super::config::Config;
use super::{flavour, pool};

mod embedded {
    #![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "written by the macro")]
    refinery::embed_migrations!("migrations");
}

/// One lock for all replicas of all versions: "iotflow" in ASCII, without its first two letters.
const LOCK: i64 = 0x74_666c_6f77;

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database said no.
    #[error("{}", super::error::describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// Names and texts of devices are UTF-8, and must fit.
    #[error("the database's encoding is {0}; UTF8 is expected (CREATE DATABASE … ENCODING 'UTF8')")]
    Encoding(String),
    /// A migration failed, or what was applied before is not what this binary knows.
    #[error("migration: {}", migration_cause(.0))]
    Migration(#[from] refinery::Error),
}

fn migration_cause(error: &refinery::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// Applies what is missing and returns its names. Replicas that start together wait for each other.
///
/// # Errors
/// See [`MigrateError`]; nothing of a failed migration stays.
pub async fn migrate(config: &Config) -> Result<Vec<String>, MigrateError> {
    let mut client = pool::connect(config, "migrate").await?;
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.get(0);
    if encoding != "UTF8" {
        return Err(MigrateError::Encoding(encoding));
    }
    // Waiting for another replica's migrations may take longer than any statement should.
    client
        .batch_execute("SET lock_timeout = 0; SET client_min_messages = warning")
        .await?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    let applied = apply(&mut client).await;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    applied
}

/// What this binary knows and the database has not: the migrations that are still to be applied, by name. `None` where the
/// database was never migrated.
///
/// # Errors
/// The server's.
pub async fn pending(client: &Client) -> Result<Option<Vec<String>>, tokio_postgres::Error> {
    let there = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .await?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    let rows = client
        .query("SELECT 'V' || version || '__' || name FROM refinery_schema_history", &[])
        .await?;
    let applied: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let known = embedded::migrations::runner();
    let names = known.get_migrations().iter().map(ToString::to_string);
    Ok(Some(names.filter(|name| !applied.contains(name)).collect()))
}

async fn apply(client: &mut Client) -> Result<Vec<String>, MigrateError> {
    flavour::prepare(client).await?;
    let report = embedded::migrations::runner().run_async(client).await?;
    let applied: Vec<String> = report.applied_migrations().iter().map(ToString::to_string).collect();
    if !applied.is_empty() {
        info!(applied = applied.join(", "), "migrated");
    }
    Ok(applied)
}
