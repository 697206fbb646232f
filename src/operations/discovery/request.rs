//! A device asks: a policy, or what was decided before, says what it is told.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio_postgres::{Error, GenericClient};

use crate::devices::discovery::{self, Request, State};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users;
use crate::protocol::id::{DeviceId, DeviceIdRef, Username};

use super::introduction::Introduction;

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
    /// It gets none: whoever asks has another key than the device was announced with.
    WrongKey,
}

/// Takes the requests of devices, all in one transaction: by `policy`, and by what is known of each device. Says what each is told.
/// One that comes with another key than was announced goes on record.
///
/// # Errors
/// The database's; nothing was taken then.
pub async fn request(
    client: &mut impl GenericClient,
    actor: &Actor,
    limits: (Policy, u32),
    requests: &[(DeviceId, Introduction)],
) -> Result<Vec<Told>, Error> {
    let transaction = client.transaction().await?;
    let mut told = Vec::with_capacity(requests.len());
    for (device, introduction) in requests {
        let told_here = decide(&transaction, limits, device.borrowed(), introduction).await?;
        if told_here == Told::WrongKey {
            let key = introduction.public_key.as_ref().map(|key| STANDARD.encode(key));
            let act = Act::new(actor, Action::DiscoveryRefuse, device.as_str(), Outcome::Refused).with("public_key", key);
            audit::record(&transaction, &act).await?;
        }
        told.push(told_here);
    }
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
    loop {
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
        let (state, told) = match policy {
            Policy::Open => ((State::Approved, Some("policy:open")), Told::Approved),
            Policy::Approval if discovery::pending(client).await? >= i64::from(most_pending) => {
                return Ok(Told::Rejected("too many devices wait for approval; ask again later"));
            }
            Policy::Approval => ((State::Pending, None), Told::Pending),
            Policy::Preregistered | Policy::Off => return Ok(Told::Rejected("this device is not expected here")),
        };
        // Where somebody announces it at this moment it is known: look again.
        if discovery::insert(client, device, state, payload, key).await? {
            return Ok(told);
        }
    }
}

async fn again(
    client: &impl GenericClient,
    device: DeviceIdRef<'_>,
    known: &Request,
    payload: &Value,
    key: Option<&[u8]>,
) -> Result<Told, Error> {
    if known.expected_key.is_some() && known.expected_key.as_deref() != key {
        return Ok(Told::WrongKey);
    }
    // Who asked first says to whom the answer goes; whoever decided has seen that one.
    if known.attempts > 0 && known.public_key.as_deref() != key {
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
