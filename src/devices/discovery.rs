//! Devices that ask for credentials, or are expected to: one row a device, from its first request to its credentials.
//!
//! ```text
//! expected ─┐
//!           ├─► approved ──► issued
//! pending ──┤
//!           └─► rejected
//! ```

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{Error, GenericClient, Row};

use crate::protocol::id::DeviceIdRef;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The device was announced and has not asked yet.
    Expected,
    /// It asked, and somebody has to decide.
    Pending,
    /// It is to get credentials, the next time that it listens.
    Approved,
    /// It got them.
    Issued,
    /// It is to get none.
    Rejected,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Expected, Self::Pending, Self::Approved, Self::Issued, Self::Rejected];

    /// As it stands in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Issued => "issued",
            Self::Rejected => "rejected",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The device's id.
    pub device: String,
    /// Where it stands.
    pub state: State,
    /// What the device said of itself, its key aside.
    pub payload: Value,
    /// Its X25519 public key, where it gave one.
    pub public_key: Option<Vec<u8>>,
    /// The only key with which it is answered, where it was announced with one.
    pub expected_key: Option<Vec<u8>>,
    /// How often it asked.
    pub attempts: i32,
    /// When it was first heard of.
    pub created_at: Timestamp,
    /// When it last asked.
    pub requested_at: Option<Timestamp>,
    /// When it was decided upon.
    pub decided_at: Option<Timestamp>,
    /// By whom, as the audit calls them.
    pub decided_by: Option<String>,
    /// When it got its credentials.
    pub issued_at: Option<Timestamp>,
    /// When credentials were last made for it.
    pub issuing_at: Option<Timestamp>,
    /// Why it was rejected.
    pub reason: Option<String>,
}

const COLUMNS: &str =
    "device, state, payload, public_key, attempts, created_at, requested_at, decided_at, decided_by, issued_at, reason, issuing_at,
     expected_key";
const INSERT: &str = "
    INSERT INTO discovery_requests (device, state, payload, public_key, attempts, requested_at, decided_at, decided_by)
    VALUES ($1, $2, $3, $4, 1, now(), CASE WHEN $5::text IS NOT NULL THEN now() END, $5)
    ON CONFLICT (device) DO NOTHING";
const ASKED: &str = "
    UPDATE discovery_requests
    SET attempts = attempts + 1, requested_at = now(), payload = $3, public_key = coalesce(public_key, $4), state = $2,
        decided_at = CASE WHEN state = 'expected' THEN now() ELSE decided_at END
    WHERE device = $1";
const EXPECT: &str = "
    INSERT INTO discovery_requests (device, state, decided_by, expected_key) VALUES ($1, 'expected', $2, $3)
    ON CONFLICT (device) DO NOTHING";
const DECIDE: &str = "UPDATE discovery_requests SET state = $2, decided_at = now(), decided_by = $3, reason = $4 WHERE device = $1";
const FORGET: &str = "DELETE FROM discovery_requests WHERE device = $1";
const PENDING: &str = "SELECT count(*) FROM discovery_requests WHERE state = 'pending'";
// Whoever asked, or was approved, since credentials were last made for it, is listening now.
const CLAIM: &str = "
    WITH next AS (
        SELECT device, issuing_at FROM discovery_requests
        WHERE state = 'approved' AND requested_at IS NOT NULL AND (issuing_at IS NULL OR issuing_at < greatest(requested_at, decided_at))
        ORDER BY requested_at LIMIT $1 FOR UPDATE SKIP LOCKED)
    UPDATE discovery_requests r SET issuing_at = clock_timestamp() FROM next WHERE r.device = next.device
    RETURNING r.device, r.public_key, r.payload, next.issuing_at";
const APPROVED: &str = "SELECT device FROM discovery_requests WHERE device = ANY ($1::text[]) AND state = 'approved'";
const ISSUED: &str = "
    UPDATE discovery_requests SET state = 'issued', issued_at = now()
    WHERE device = ANY ($1::text[]) AND state = 'approved' RETURNING device";

/// The request of a device, locked until the transaction ends.
///
/// # Errors
/// The database's.
pub async fn locked(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<Request>, Error> {
    let statement = format!("SELECT {COLUMNS} FROM discovery_requests WHERE device = $1 FOR UPDATE");
    client
        .query_opt(&statement, &[&device.as_str()])
        .await?
        .as_ref()
        .map(request)
        .transpose()
}

/// How many wait for a decision.
///
/// # Errors
/// The database's.
pub async fn pending(client: &impl GenericClient) -> Result<i64, Error> {
    client.query_one(PENDING, &[]).await?.try_get(0)
}

/// Writes the first request of a device; returns whether there was none.
///
/// # Errors
/// The database's.
pub async fn insert(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    (state, decided_by): (State, Option<&str>),
    payload: &Value,
    public_key: Option<&[u8]>,
) -> Result<bool, Error> {
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&device.as_str(), &state.as_str(), payload, &public_key, &decided_by];
    Ok(client.execute(INSERT, &parameters).await? > 0)
}

/// Notes that a device has asked again, which may move it on.
///
/// # Errors
/// The database's.
pub async fn asked(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    state: State,
    payload: &Value,
    public_key: Option<&[u8]>,
) -> Result<(), Error> {
    client
        .execute(ASKED, &[&device.as_str(), &state.as_str(), payload, &public_key])
        .await?;
    Ok(())
}

/// Announces a device, with the only key that it is answered with or without one; returns whether nothing was known of it.
///
/// # Errors
/// The database's.
pub async fn expect(client: &impl GenericClient, device: DeviceIdRef<'_>, by: &str, key: Option<&[u8]>) -> Result<bool, Error> {
    Ok(client.execute(EXPECT, &[&device.as_str(), &by, &key]).await? > 0)
}

/// Decides on a request.
///
/// # Errors
/// The database's.
pub async fn decide(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    state: State,
    by: &str,
    reason: Option<&str>,
) -> Result<(), Error> {
    client.execute(DECIDE, &[&device.as_str(), &state.as_str(), &by, &reason]).await?;
    Ok(())
}

/// Forgets a request, so that the device can begin anew; returns whether there was one.
///
/// # Errors
/// The database's.
pub async fn forget(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<bool, Error> {
    Ok(client.execute(FORGET, &[&device.as_str()]).await? > 0)
}

/// A device whose credentials are to be made now. No other replica gets the same one.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// The device's id.
    pub device: String,
    /// Whom to seal them to.
    pub public_key: Option<Vec<u8>>,
    /// What the device said of itself.
    pub payload: Value,
    /// When credentials were made for it before, which it never got.
    pub made_before: Option<Timestamp>,
}

/// The next devices whose credentials are to be made, `most` of them at most.
///
/// # Errors
/// The database's.
pub async fn claim(client: &impl GenericClient, most: i64) -> Result<Vec<Claimed>, Error> {
    let claimed = |row: &Row| {
        Ok(Claimed {
            device: row.try_get(0)?,
            public_key: row.try_get(1)?,
            payload: row.try_get(2)?,
            made_before: row.try_get(3)?,
        })
    };
    client.query(CLAIM, &[&most]).await?.iter().map(claimed).collect()
}

/// Notes that devices have their credentials; returns those that were still to have them.
///
/// # Errors
/// The database's.
pub async fn issued(client: &impl GenericClient, devices: &[&str]) -> Result<Vec<String>, Error> {
    client.query(ISSUED, &[&devices]).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Those of the devices that are still to have their credentials.
///
/// # Errors
/// The database's.
pub async fn approved(client: &impl GenericClient, devices: &[&str]) -> Result<Vec<String>, Error> {
    client
        .query(APPROVED, &[&devices])
        .await?
        .iter()
        .map(|row| row.try_get(0))
        .collect()
}

/// Requests by device id, behind `after`, of this state; `limit` at most.
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, state: Option<State>, after: Option<&str>, limit: u32) -> Result<Vec<Request>, Error> {
    let statement = format!(
        "SELECT {COLUMNS} FROM discovery_requests
         WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR device > $2) ORDER BY device LIMIT $3"
    );
    let rows = client
        .query(&statement, &[&state.map(State::as_str), &after, &i64::from(limit)])
        .await?;
    rows.iter().map(request).collect()
}

fn request(row: &Row) -> Result<Request, Error> {
    Ok(Request {
        device: row.try_get(0)?,
        // The table's own check allows no other.
        state: State::parse(row.try_get(1)?).unwrap_or(State::Rejected),
        payload: row.try_get(2)?,
        public_key: row.try_get(3)?,
        attempts: row.try_get(4)?,
        created_at: row.try_get(5)?,
        requested_at: row.try_get(6)?,
        decided_at: row.try_get(7)?,
        decided_by: row.try_get(8)?,
        issued_at: row.try_get(9)?,
        reason: row.try_get(10)?,
        issuing_at: row.try_get(11)?,
        expected_key: row.try_get(12)?,
    })
}
