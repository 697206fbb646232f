//! How large the database is, and which versions it is of.

use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

const READ: &str = "
    SELECT pg_database_size(current_database()), current_setting('server_version'),
           (SELECT max(version)::int4 FROM refinery_schema_history)";

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Size {
    /// Its size on disk.
    pub bytes: i64,
    /// The server's version.
    #[schema(example = "15.8")]
    pub server_version: String,
    /// The number of the last migration that was applied.
    pub schema_version: Option<i32>,
}

/// Looks.
///
/// # Errors
/// The database's.
pub async fn read(client: &impl GenericClient) -> Result<Size, Error> {
    let row = client.query_one(READ, &[]).await?;
    Ok(Size {
        bytes: row.try_get(0)?,
        server_version: row.try_get(1)?,
        schema_version: row.try_get(2)?,
    })
}
