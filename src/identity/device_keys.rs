//! Keys by which devices come over HTTP (`X-API-Key`): made once and shown once, looked up by hash.
//!
//! They are spelt as tokens are, with a prefix of their own, and as with tokens nothing secret is compared: the look-up is one
//! probe of an index by the hash. A device has one key at most.

use tokio_postgres::{Error, GenericClient};

use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceId, DeviceIdRef};

use super::spelling::{self, KEY_PREFIX};

pub use super::spelling::KEY_PREFIX as PREFIX;

// A key that takes another's place leaves the device shut out where it was.
const PUT: &str = "
    INSERT INTO device_keys AS known (device_id, hash) VALUES ($1, $2)
    ON CONFLICT (device_id) DO UPDATE SET hash = excluded.hash, created_at = now(), last_used_at = NULL";
const PUT_MANY: &str = "INSERT INTO device_keys (device_id, hash) SELECT * FROM unnest($1::int4[], $2::bytea[]) ORDER BY 1";
const HAVING: &str = "SELECT device_id FROM device_keys WHERE device_id = ANY ($1::int4[])";
const DELETE: &str = "DELETE FROM device_keys WHERE device_id = $1";
const SET_DISABLED: &str = "UPDATE device_keys SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE device_id = $1";
// Who shut the device out meant both doors. What is kept on the credentials is what a replica of the release before writes.
const FIND: &str = "
    SELECT k.device_id, d.device, d.shut_out_at IS NOT NULL OR k.disabled_at IS NOT NULL OR u.disabled_at IS NOT NULL,
           coalesce(k.last_used_at < now() - interval '1 minute', true)
    FROM device_keys k
    JOIN devices d USING (device_id)
    LEFT JOIN broker_users u ON u.username = d.device AND u.role = 'device'
    WHERE k.hash = $1 AND d.deleted_at IS NULL";
const NOTE_USE: &str = "
    UPDATE device_keys SET last_used_at = now()
    WHERE device_id = $1 AND coalesce(last_used_at < now() - interval '1 minute', true)";

/// A device that showed its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHolder {
    /// Its number.
    pub number: i32,
    /// Its id.
    pub id: DeviceId,
}

/// Why a key is not taken. It never repeats the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not spelt as a key is.
    #[error("this is no device's key: its form or its checksum is wrong")]
    Malformed,
    /// It has the form, and no device here has it, or not any more.
    #[error("no device has this key")]
    Unknown,
    /// The device is shut out.
    #[error("the device {} is disabled", .0.as_str())]
    Disabled(DeviceId),
    /// The server's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// A key that was made and is not stored yet: the key itself, and its hash.
#[derive(Debug)]
pub struct NewKey {
    /// The key, to be shown once.
    pub secret: Secret,
    hash: [u8; 32],
}

impl NewKey {
    /// Of 256 random bits.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let random = spelling::random()?;
        Ok(Self {
            secret: spelling::spell(KEY_PREFIX, &random),
            hash: spelling::hash(&random),
        })
    }
}

/// Gives a device this key, in the place of the one it had.
///
/// # Errors
/// The database's.
pub async fn put(client: &impl GenericClient, device: i32, key: &NewKey) -> Result<(), Error> {
    client.execute(PUT, &[&device, &key.hash.as_slice()]).await.map(drop)
}

/// Gives devices that have none their keys.
///
/// # Errors
/// The database's; one of them may have a key already.
pub async fn put_many(client: &impl GenericClient, devices: &[i32], keys: &[NewKey]) -> Result<(), Error> {
    let hashes: Vec<&[u8]> = keys.iter().map(|key| key.hash.as_slice()).collect();
    client.execute(PUT_MANY, &[&devices, &hashes]).await.map(drop)
}

/// Those of `devices` that have a key.
///
/// # Errors
/// The database's.
pub async fn having(client: &impl GenericClient, devices: &[i32]) -> Result<Vec<i32>, Error> {
    Ok(client.query(HAVING, &[&devices]).await?.iter().map(|row| row.get(0)).collect())
}

/// Takes a device's key away; returns whether it had one.
///
/// # Errors
/// The database's.
pub async fn delete(client: &impl GenericClient, device: i32) -> Result<bool, Error> {
    Ok(client.execute(DELETE, &[&device]).await? > 0)
}

/// Has a device's key refused, or taken again; returns whether it has one.
///
/// # Errors
/// The database's.
pub async fn set_disabled(client: &impl GenericClient, device: i32, disabled: bool) -> Result<bool, Error> {
    Ok(client.execute(SET_DISABLED, &[&device, &disabled]).await? > 0)
}

/// Whose key `presented` is; that it was used is noted, at most once a minute.
///
/// # Errors
/// See [`KeyError`].
pub async fn verify(client: &impl GenericClient, presented: &str) -> Result<KeyHolder, KeyError> {
    let random = spelling::read(KEY_PREFIX, presented).ok_or(KeyError::Malformed)?;
    let row = client.query_opt(FIND, &[&spelling::hash(&random).as_slice()]).await?;
    let row = row.ok_or(KeyError::Unknown)?;
    let id = DeviceIdRef::parse(row.try_get(1)?).map_err(|_| KeyError::Unknown)?.to_owned();
    if row.try_get(2)? {
        return Err(KeyError::Disabled(id));
    }
    let number: i32 = row.try_get(0)?;
    if row.try_get(3)? {
        client.execute(NOTE_USE, &[&number]).await?;
    }
    Ok(KeyHolder { number, id })
}
