//! What an installation holds, at the operator's door: counts, sizes, versions.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::db::size::{self, Size};
use crate::devices::stats::{self, Stats};
use crate::ingest::dead_letter::kept;

use super::answer::{Success, success};
use super::auth::Admin;
use super::error::Problem;
use super::state::Desk;

/// What the installation holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Holdings {
    #[serde(flatten)]
    stats: Stats,
    /// Dead letters by reason.
    dead_letters: BTreeMap<String, i64>,
    /// The database.
    database: Size,
    /// The version of this service.
    #[schema(example = "0.1.0")]
    version: &'static str,
}

/// What the installation holds
///
/// Rows of telemetry and events are the database's own estimate, which is as old as its last look at the tables.
#[utoipa::path(get, path = "/admin/stats", tag = "operations", operation_id = "admin_stats",
    responses((status = 200, description = "Counts, sizes and versions", body = Success<Holdings>)))]
pub(super) async fn stats(_: Admin, State(desk): State<Desk>) -> Result<Success<Holdings>, Problem> {
    let client = desk.database().await?;
    Ok(success(Holdings {
        stats: stats::read(&**client).await?,
        dead_letters: kept::count(&**client).await?.into_iter().collect(),
        database: size::read(&**client).await?,
        version: env!("CARGO_PKG_VERSION"),
    }))
}
