//! All users of the broker with all that is known of each: out of the database, and into it in the place of those there.

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use crate::observe::secret::Secret;
use crate::protocol::id::Username;
use crate::protocol::rights::{NoSuchRole, Role};

use super::users::{CANARY, UserError};

const READ: &str = "SELECT username, role, password_hash, disabled_at, created_at, changed_at FROM broker_users ORDER BY username";
const CLEAR: &str = "DELETE FROM broker_users";
// One statement for all of them, so that the triggers tell of one change.
const WRITE: &str = "
    INSERT INTO broker_users (username, role, password_hash, disabled_at, created_at, changed_at)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[])";

/// A user, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedUser {
    /// What it logs in as.
    pub username: Username,
    /// What it is.
    pub role: Role,
    /// The hash of its password, in Mosquitto's form; none where it has a certificate only.
    pub password_hash: Option<Secret>,
    /// Since when it is shut out, if it is.
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its password last changed.
    pub changed_at: Timestamp,
}

/// All users by name.
///
/// # Errors
/// The database's, or [`UserError::Stored`].
pub async fn read(client: &impl GenericClient) -> Result<Vec<ExportedUser>, UserError> {
    let user = |row: &tokio_postgres::Row| {
        let stored = |error: &dyn std::error::Error| UserError::Stored(error.to_string());
        Ok(ExportedUser {
            username: Username::parse(row.get(0)).map_err(|error| stored(&error))?,
            role: row.get::<_, &str>(1).parse().map_err(|error: NoSuchRole| stored(&error))?,
            password_hash: row.get::<_, Option<String>>(2).map(Secret::new),
            disabled_at: row.try_get(3)?,
            created_at: row.try_get(4)?,
            changed_at: row.try_get(5)?,
        })
    };
    client.query(READ, &[]).await?.iter().map(user).collect()
}

/// Puts `users` in the place of all that are there. For a transaction: in between there are none.
///
/// # Errors
/// [`UserError::Reserved`], or the database's.
pub async fn replace(client: &impl GenericClient, users: &[ExportedUser]) -> Result<(), UserError> {
    if let Some(user) = users.iter().find(|user| user.username.as_str() == CANARY) {
        return Err(UserError::Reserved(user.username.clone()));
    }
    let names: Vec<&str> = users.iter().map(|user| user.username.as_str()).collect();
    let roles: Vec<&str> = users.iter().map(|user| user.role.as_str()).collect();
    let hashes: Vec<Option<&str>> = users.iter().map(|user| user.password_hash.as_ref().map(Secret::reveal)).collect();
    let disabled: Vec<Option<Timestamp>> = users.iter().map(|user| user.disabled_at).collect();
    let created: Vec<Timestamp> = users.iter().map(|user| user.created_at).collect();
    let changed: Vec<Timestamp> = users.iter().map(|user| user.changed_at).collect();
    client.execute(CLEAR, &[]).await?;
    client
        .execute(WRITE, &[&names, &roles, &hashes, &disabled, &created, &changed])
        .await?;
    Ok(())
}
