//! Registrations: a device asks, a policy or a person decides, credentials are made once.

use serde_json::{Map, Value};
use tokio_postgres::{Error, GenericClient};

use crate::broker::passwords::{self, Hash};
use crate::devices::discovery::{self, Claimed, Request, State};
use crate::devices::label::holds_nul;
use crate::devices::registry;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::{self, UserError};
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceIdRef, Username};
use crate::protocol::rights::Role;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The largest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// The bytes of an X25519 public key (RFC 7748, 5).
const PUBLIC_KEY_BYTES: usize = 32;
/// The member of a request that holds it.
const PUBLIC_KEY: &str = "public_key";

/// Who gets credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    Off,
    /// Whoever asks.
    Open,
    /// Whoever an operator approves, and whoever was announced.
    Approval,
    /// Who was announced.
    Preregistered,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Off, Self::Open, Self::Approval, Self::Preregistered];

    /// As it is written in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Open => "open",
            Self::Approval => "approval",
            Self::Preregistered => "preregistered",
        }
    }
}

/// No policy has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("off, open, approval or preregistered is expected")]
pub struct BadPolicy;

impl std::str::FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(BadPolicy)
    }
}

/// What a device is told at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Its credentials are being made.
    Approved,
    /// Somebody has to decide.
    Pending,
    /// It gets none, and why.
    Rejected(&'static str),
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Introduction {
    payload: Value,
    public_key: Option<Vec<u8>>,
}

/// Why a request cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Too much.
    #[error("a registration has at most {MAX_REQUEST_BYTES} bytes")]
    TooLarge,
    /// No object.
    #[error("a registration is a JSON object, or empty")]
    NotObject,
    /// No key.
    #[error("public_key is an X25519 public key: 32 bytes in base64")]
    Key,
}

impl Introduction {
    /// Reads the payload of a registration.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn read(payload: &[u8]) -> Result<Self, BadRequest> {
        if payload.len() > MAX_REQUEST_BYTES {
            return Err(BadRequest::TooLarge);
        }
        let mut members: Map<String, Value> = if payload.is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(payload).map_err(|_| BadRequest::NotObject)?
        };
        let public_key = match members.remove(PUBLIC_KEY) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                let key = STANDARD.decode(text).map_err(|_| BadRequest::Key)?;
                Some(key)
                    .filter(|key| key.len() == PUBLIC_KEY_BYTES)
                    .ok_or(BadRequest::Key)
                    .map(Some)?
            }
            Some(_) => return Err(BadRequest::Key),
        };
        let payload = Value::Object(members);
        // No text of PostgreSQL's can hold it.
        if holds_nul(&payload) {
            return Err(BadRequest::NotObject);
        }
        Ok(Self { payload, public_key })
    }
}

/// Takes a device's request: by `policy`, and by what is known of the device.
///
/// # Errors
/// The database's.
pub async fn request(
    client: &mut impl GenericClient,
    (policy, most_pending): (Policy, u32),
    device: DeviceIdRef<'_>,
    introduction: &Introduction,
) -> Result<Told, Error> {
    let transaction = client.transaction().await?;
    let told = decide(&transaction, (policy, most_pending), device, introduction).await?;
    transaction.commit().await?;
    Ok(told)
}

async fn decide(
    client: &impl GenericClient,
    (policy, most_pending): (Policy, u32),
    device: DeviceIdRef<'_>,
    Introduction { payload, public_key }: &Introduction,
) -> Result<Told, Error> {
    if policy == Policy::Off {
        return Ok(Told::Rejected("registration is switched off here"));
    }
    let Ok(username) = Username::with_password(device.as_str()) else {
        return Ok(Told::Rejected("a device of this id cannot have a password; it needs a certificate"));
    };
    if users::is_reserved(&username) {
        return Ok(Told::Rejected("ids that begin with iotflow- are the service's own"));
    }
    let key = public_key.as_deref();
    if let Some(known) = discovery::locked(client, device).await? {
        // It may have become a user by another way since it asked, or was announced.
        if known.issuing_at.is_none() && users::exists(client, &username).await? {
            return Ok(Told::Rejected("this device has its credentials already"));
        }
        return again(client, device, &known, payload, key).await;
    }
    if users::exists(client, &username).await? {
        return Ok(Told::Rejected("this device has its credentials already"));
    }
    match policy {
        Policy::Open => {
            discovery::insert(client, device, (State::Approved, Some("policy:open")), payload, key).await?;
            Ok(Told::Approved)
        }
        Policy::Approval => {
            if discovery::pending(client).await? >= i64::from(most_pending) {
                return Ok(Told::Rejected("too many devices wait for approval; ask again later"));
            }
            discovery::insert(client, device, (State::Pending, None), payload, key).await?;
            Ok(Told::Pending)
        }
        Policy::Preregistered | Policy::Off => Ok(Told::Rejected("this device is not expected here")),
    }
}

async fn again(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    known: &Request,
    payload: &Value,
    key: Option<&[u8]>,
) -> Result<Told, Error> {
    // Who asked first says to whom the answer goes; whoever decided has seen that one.
    if known.state != State::Expected && known.public_key.as_deref() != key {
        return Ok(Told::Rejected(
            "somebody asked for this device before, with another key or with none",
        ));
    }
    let (state, told) = match known.state {
        State::Expected | State::Approved => (State::Approved, Told::Approved),
        State::Pending => (State::Pending, Told::Pending),
        State::Issued => return Ok(Told::Rejected("this device was given its credentials already")),
        State::Rejected => return Ok(Told::Rejected("an operator rejected this device")),
    };
    discovery::asked(client, device, state, payload, key).await?;
    Ok(told)
}

/// Why an operator's decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DecideError {
    /// Nobody asked.
    #[error("there is no registration of {0}")]
    Unknown(String),
    /// It is too late, or too early.
    #[error("the registration of {device} is {state}: {right}")]
    State {
        /// The device.
        device: String,
        /// Where it stands.
        state: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// It has credentials.
    #[error("{0} has credentials already; revoke them first")]
    HasCredentials(String),
    /// The name cannot be a user's.
    #[error(transparent)]
    Name(#[from] crate::protocol::id::BadUsername),
    /// The user cannot be.
    #[error(transparent)]
    User(#[from] UserError),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Approves a device that asked.
///
/// # Errors
/// [`DecideError`].
pub async fn approve(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>) -> Result<(), DecideError> {
    settle(client, actor, device, State::Approved, None).await
}

/// Rejects a device, whatever it has asked; one that has its credentials keeps them.
///
/// # Errors
/// [`DecideError`].
pub async fn reject(
    client: &mut impl GenericClient,
    actor: &Actor,
    device: DeviceIdRef<'_>,
    reason: Option<&str>,
) -> Result<(), DecideError> {
    settle(client, actor, device, State::Rejected, reason).await
}

async fn settle(
    client: &mut impl GenericClient,
    actor: &Actor,
    device: DeviceIdRef<'_>,
    to: State,
    reason: Option<&str>,
) -> Result<(), DecideError> {
    let transaction = client.transaction().await?;
    let known = discovery::locked(&transaction, device)
        .await?
        .ok_or_else(|| DecideError::Unknown(device.to_string()))?;
    let wrong = |right| DecideError::State {
        device: device.to_string(),
        state: known.state.as_str(),
        right,
    };
    let action = match (to, known.state) {
        (State::Approved, State::Pending | State::Rejected) => Action::DiscoveryApprove,
        (State::Approved, _) => return Err(wrong("only one that is pending or rejected can be approved")),
        (_, State::Issued) => return Err(wrong("it has its credentials; revoke those")),
        (_, State::Rejected) => return Err(wrong("nothing is left to do")),
        _ => Action::DiscoveryReject,
    };
    if to == State::Rejected {
        unmake(&transaction, &known).await?;
    }
    discovery::decide(&transaction, device, to, actor.name(), reason).await?;
    let mut act = Act::new(actor, action, device.as_str(), Outcome::Done);
    if let Some(reason) = reason {
        act = act.with("reason", reason);
    }
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Announces a device: when it asks, it gets credentials at once. Returns whether nothing was known of it.
///
/// # Errors
/// [`DecideError`].
pub async fn expect(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>) -> Result<bool, DecideError> {
    let username = Username::with_password(device.as_str())?;
    let transaction = client.transaction().await?;
    if users::exists(&transaction, &username).await? {
        return Err(DecideError::HasCredentials(device.to_string()));
    }
    let new = discovery::expect(&transaction, device, actor.name()).await?;
    if new {
        audit::record(
            &transaction,
            &Act::new(actor, Action::DiscoveryExpect, device.as_str(), Outcome::Done),
        )
        .await?;
    }
    transaction.commit().await?;
    Ok(new)
}

/// Forgets a registration, so that the device can ask anew. Credentials that it has stay.
///
/// # Errors
/// [`DecideError`].
pub async fn forget(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>) -> Result<(), DecideError> {
    let transaction = client.transaction().await?;
    let known = discovery::locked(&transaction, device)
        .await?
        .ok_or_else(|| DecideError::Unknown(device.to_string()))?;
    unmake(&transaction, &known).await?;
    discovery::forget(&transaction, device).await?;
    audit::record(
        &transaction,
        &Act::new(actor, Action::DiscoveryForget, device.as_str(), Outcome::Done),
    )
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Takes away the credentials that were made for a device and that it never got.
async fn unmake(client: &impl GenericClient, known: &Request) -> Result<(), DecideError> {
    let (Some(made), None) = (known.issuing_at, known.issued_at) else {
        return Ok(());
    };
    let username = Username::with_password(&known.device)?;
    if users::is_as_made_at(client, &username, made).await? {
        users::delete(client, &username).await?;
    }
    Ok(())
}

/// Credentials that a device is to be told.
#[derive(Debug)]
pub struct Made {
    /// For whom, and sealed to which key.
    pub claimed: Claimed,
    /// What it logs in with.
    pub password: Secret,
    /// The version of who may do what that lets it in.
    pub version: i64,
}

/// Why no credentials were made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// No randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The user cannot be.
    #[error(transparent)]
    User(#[from] UserError),
    /// What is stored is no name of a user.
    #[error(transparent)]
    Name(#[from] crate::protocol::id::BadUsername),
    /// What is stored is no device id.
    #[error(transparent)]
    Id(#[from] crate::protocol::id::BadDeviceId),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Makes the credentials of the next device that was approved and is listening. Those made for it before, which it never got,
/// are good no more. Whoever has become a user by another way meanwhile keeps what it has: its request is rejected.
///
/// # Errors
/// [`MakeError`].
pub async fn make(client: &mut impl GenericClient, actor: &Actor) -> Result<Option<Made>, MakeError> {
    loop {
        let transaction = client.transaction().await?;
        let Some(claimed) = discovery::claim(&transaction).await? else {
            return Ok(None);
        };
        let device = DeviceIdRef::parse(&claimed.device)?;
        let username = Username::with_password(&claimed.device)?;
        let known = users::exists(&transaction, &username).await?;
        let ours = match claimed.made_before {
            Some(made) => users::is_as_made_at(&transaction, &username, made).await?,
            None => false,
        };
        if known && !ours {
            let reason = Some("it has credentials by another way");
            discovery::decide(&transaction, device, State::Rejected, actor.name(), reason).await?;
            transaction.commit().await?;
            continue;
        }
        let password = passwords::generate()?;
        let hash = Hash::of_generated(&password)?;
        registry::register(&transaction, device).await?;
        if ours {
            users::set_password(&transaction, &username, Some(hash.as_str())).await?;
        } else {
            users::create(&transaction, &username, Role::Device, Some(hash.as_str())).await?;
        }
        let version = users::version(&transaction).await?;
        transaction.commit().await?;
        return Ok(Some(Made {
            claimed,
            password,
            version,
        }));
    }
}

/// Notes that a device has its credentials.
///
/// # Errors
/// The database's.
pub async fn issued(client: &mut impl GenericClient, actor: &Actor, device: DeviceIdRef<'_>, sealed: bool) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    if !discovery::issued(&transaction, device).await? {
        return Ok(());
    }
    let act = Act::new(actor, Action::DiscoveryIssue, device.as_str(), Outcome::Done).with("sealed", sealed);
    audit::record(&transaction, &act).await?;
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_introduction_is_an_object_with_perhaps_a_key() {
        let read = |text: &str| Introduction::read(text.as_bytes());
        assert!(read("").is_ok() && read("{}").is_ok());
        let with = read(&format!("{{\"name\":\"x\",\"public_key\":\"{}\"}}", STANDARD.encode([7; 32]))).expect("it is sound");
        assert_eq!(with.public_key.as_deref(), Some(&[7; 32][..]));
        assert_eq!(with.payload, serde_json::json!({"name": "x"}));
        assert_eq!(read("[]"), Err(BadRequest::NotObject));
        assert_eq!(read("{\"a\":\"\\u0000\"}"), Err(BadRequest::NotObject));
        for bad in ["7", "\"\"", "\"AAAA\"", "\"*\"", "{}"] {
            assert_eq!(read(&format!("{{\"public_key\":{bad}}}")), Err(BadRequest::Key), "{bad}");
        }
        assert_eq!(read(&format!("{{\"a\":\"{}\"}}", "x".repeat(5_000))), Err(BadRequest::TooLarge));
    }
}
