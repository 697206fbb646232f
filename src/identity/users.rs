//! Users of the broker: devices, admins, the service. Only hashes of their passwords are kept.

use jiff::Timestamp;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId, Username};
use crate::protocol::rights::Role;

/// With what the service's own client ids begin, and the canary's name. At the devices' listeners a name is a client id: a device of
/// such a name would take over the service's sessions.
const RESERVED: &str = "iotflow-";
/// The name under which each change of the broker's files is proven.
pub const CANARY: &str = "iotflow-canary";

const INSERT: &str = "INSERT INTO broker_users (username, role, password_hash) VALUES ($1, $2, $3)";
// One statement for all of them, so that the triggers tell of one change; in one order, so that two of these do not wait for each other.
const INSERT_DEVICES: &str = "
    INSERT INTO broker_users (username, role, password_hash)
    SELECT username, 'device', hash FROM unnest($1::text[], $2::text[]) AS news (username, hash) ORDER BY username
    ON CONFLICT (username) DO NOTHING RETURNING username";
const TAKEN: &str = "SELECT username FROM broker_users WHERE username = ANY ($1::text[])";
const SET_PASSWORD: &str = "UPDATE broker_users SET password_hash = $2, changed_at = now() WHERE username = $1";
const SET_DISABLED: &str = "UPDATE broker_users SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE username = $1";
const EXISTS: &str = "SELECT EXISTS (SELECT FROM broker_users WHERE username = $1)";
const AS_MADE: &str = "
    SELECT EXISTS (SELECT FROM broker_users WHERE username = $1 AND role = 'device' AND changed_at <= $2 AND disabled_at IS NULL)
       AND NOT EXISTS (SELECT FROM devices WHERE device = $1 AND shut_out_at IS NOT NULL)";
const DELETE: &str = "DELETE FROM broker_users WHERE username = $1";
// A device is shut out as a device, whatever its credentials.
const GET: &str = "
    SELECT u.username, u.role, u.password_hash, u.disabled_at IS NOT NULL OR d.shut_out_at IS NOT NULL
    FROM broker_users u LEFT JOIN devices d ON d.device = u.username AND u.role = 'device'
    WHERE u.username = $1";
const LIST: &str = "
    SELECT u.username, u.role, u.password_hash, u.disabled_at IS NOT NULL OR d.shut_out_at IS NOT NULL,
           coalesce(array_agg(m.group_id ORDER BY m.group_id) FILTER (WHERE m.group_id IS NOT NULL), '{}')
    FROM broker_users u
    LEFT JOIN devices d ON d.device = u.username AND u.role = 'device'
    LEFT JOIN device_group_members m USING (device_id)
    GROUP BY u.username, d.shut_out_at
    ORDER BY u.username";
// With or without a user: a certificate makes no row anywhere.
const SHUT_OUT: &str = "SELECT device FROM devices WHERE shut_out_at IS NOT NULL ORDER BY device";
const VERSION: &str = "SELECT version FROM broker_access";

/// Why a change of users was refused.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is taken.
    #[error("there is a user {0} already; delete it first, or rotate its password")]
    Exists(Username),
    /// The name is of no user.
    #[error("there is no user {0}")]
    Unknown(Username),
    /// The name has another use.
    #[error("{0}: names that begin with iotflow- are the service's own")]
    Reserved(Username),
    /// What is stored is not of the grammar: somebody wrote it by other means.
    #[error("broker_users or devices has a row that cannot be used: {0}")]
    Stored(String),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// A user as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// What it logs in as.
    pub username: Username,
    /// What it is.
    pub role: Role,
    /// The hash of its password, in Mosquitto's form; none where it has a certificate only.
    pub password_hash: Option<String>,
    /// Whether it is shut out for now.
    pub disabled: bool,
    /// The groups it belongs to, if it is a device.
    pub groups: Vec<GroupId>,
}

/// Whether the name is of the service's own sessions.
#[must_use]
pub fn is_reserved(username: &Username) -> bool {
    username.as_str().starts_with(RESERVED)
}

/// Adds a user.
///
/// # Errors
/// [`UserError::Exists`], [`UserError::Reserved`], or the database's.
pub async fn create(client: &impl GenericClient, username: &Username, role: Role, password_hash: Option<&str>) -> Result<(), UserError> {
    if is_reserved(username) {
        return Err(UserError::Reserved(username.clone()));
    }
    match client.execute(INSERT, &[&username.as_str(), &role.as_str(), &password_hash]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Err(UserError::Exists(username.clone())),
        Err(error) => Err(error.into()),
    }
}

/// Adds users for devices, each with the hash of its password; returns those that were added: a name that is taken stays as it is.
///
/// # Errors
/// [`UserError::Reserved`], or the database's.
pub async fn create_devices(client: &impl GenericClient, users: &[(Username, String)]) -> Result<Vec<String>, UserError> {
    if let Some((reserved, _)) = users.iter().find(|(username, _)| is_reserved(username)) {
        return Err(UserError::Reserved(reserved.clone()));
    }
    let (names, hashes): (Vec<&str>, Vec<&str>) = users.iter().map(|(name, hash)| (name.as_str(), hash.as_str())).unzip();
    let rows = client.query(INSERT_DEVICES, &[&names, &hashes]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether there is such a user.
///
/// # Errors
/// The database's.
pub async fn exists(client: &impl GenericClient, username: &Username) -> Result<bool, Error> {
    client.query_one(EXISTS, &[&username.as_str()]).await?.try_get(0)
}

/// Whether the user is a device whose password nobody has changed since `at`, and that nobody has shut out.
///
/// # Errors
/// The database's.
pub async fn is_as_made_at(client: &impl GenericClient, username: &Username, at: Timestamp) -> Result<bool, Error> {
    client.query_one(AS_MADE, &[&username.as_str(), &at]).await?.try_get(0)
}

/// The version of who may do what, this transaction's changes included.
///
/// # Errors
/// The database's.
pub async fn version(client: &impl GenericClient) -> Result<i64, Error> {
    client.query_one(VERSION, &[]).await?.try_get(0)
}

/// Those of `names` that are of a user.
///
/// # Errors
/// The database's.
pub async fn taken(client: &impl GenericClient, names: &[&str]) -> Result<Vec<String>, UserError> {
    Ok(client.query(TAKEN, &[&names]).await?.iter().map(|row| row.get(0)).collect())
}

/// Gives a user another password, or none.
///
/// # Errors
/// [`UserError::Unknown`], or the database's.
pub async fn set_password(client: &impl GenericClient, username: &Username, password_hash: Option<&str>) -> Result<(), UserError> {
    let changed = client.execute(SET_PASSWORD, &[&username.as_str(), &password_hash]).await?;
    known(username, changed)
}

/// Shuts a user out, or lets it in again.
///
/// # Errors
/// [`UserError::Unknown`], or the database's.
pub async fn set_disabled(client: &impl GenericClient, username: &Username, disabled: bool) -> Result<(), UserError> {
    let changed = client.execute(SET_DISABLED, &[&username.as_str(), &disabled]).await?;
    known(username, changed)
}

/// Removes a user. Its telemetry, if it is a device, stays.
///
/// # Errors
/// [`UserError::Unknown`], or the database's.
pub async fn delete(client: &impl GenericClient, username: &Username) -> Result<(), UserError> {
    let changed = client.execute(DELETE, &[&username.as_str()]).await?;
    known(username, changed)
}

/// A user, without its groups.
///
/// # Errors
/// The database's, or [`UserError::Stored`].
pub async fn get(client: &impl GenericClient, username: &Username) -> Result<Option<User>, UserError> {
    let row = client.query_opt(GET, &[&username.as_str()]).await?;
    row.map(|row| user(&row, Vec::new())).transpose()
}

/// All users by name, with the groups of devices.
///
/// # Errors
/// The database's, or [`UserError::Stored`].
pub async fn list(client: &impl GenericClient) -> Result<Vec<User>, UserError> {
    let rows = client.query(LIST, &[]).await?;
    rows.iter().map(|row| user(row, row.get(4))).collect()
}

/// All of who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The version that it stands for.
    pub version: i64,
    /// All users by name.
    pub users: Vec<User>,
    /// The devices that are shut out, whether they are users or have a certificate only.
    pub shut_out: Vec<DeviceId>,
}

/// Who may do what. One moment's, if `client` is a transaction that sees one moment.
///
/// # Errors
/// The database's, or [`UserError::Stored`].
pub async fn snapshot(client: &impl GenericClient) -> Result<Snapshot, UserError> {
    let version = client.query_one(VERSION, &[]).await?.get(0);
    let device = |row: &tokio_postgres::Row| {
        let id = DeviceIdRef::parse(row.get(0)).map_err(|error| UserError::Stored(error.to_string()))?;
        Ok(id.to_owned())
    };
    Ok(Snapshot {
        version,
        users: list(client).await?,
        shut_out: client
            .query(SHUT_OUT, &[])
            .await?
            .iter()
            .map(device)
            .collect::<Result<_, UserError>>()?,
    })
}

fn user(row: &tokio_postgres::Row, groups: Vec<String>) -> Result<User, UserError> {
    let stored = |what: String| UserError::Stored(what);
    Ok(User {
        username: Username::parse(row.get(0)).map_err(|error| stored(error.to_string()))?,
        role: row
            .get::<_, &str>(1)
            .parse()
            .map_err(|error: crate::protocol::rights::NoSuchRole| stored(error.to_string()))?,
        password_hash: row.get(2),
        disabled: row.get(3),
        groups: groups
            .iter()
            .map(|group| GroupId::parse(group))
            .collect::<Result<_, _>>()
            .map_err(|error| stored(error.to_string()))?,
    })
}

fn known(username: &Username, changed: u64) -> Result<(), UserError> {
    if changed == 0 {
        return Err(UserError::Unknown(username.clone()));
    }
    Ok(())
}
