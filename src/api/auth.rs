//! Who is calling, and whether they may: extractors, so that a handler's signature says what it asks for.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::audit::Actor;
use crate::identity::device_keys::{self, KeyError};
use crate::identity::principal::{Means, Principal, Role};
use crate::identity::tokens::{self, PREFIX, VerifyError};
use crate::protocol::id::{DeviceId, DeviceIdRef};

use super::error::{Kind, Problem};
use super::state::Desk;

/// Where devices show their keys.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Somebody whose credential was verified.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    principal: Principal,
    origin: String,
}

impl Caller {
    /// How the audit calls them.
    pub(super) fn actor(&self) -> Actor {
        self.principal.actor(&self.origin)
    }

    /// What they may do.
    pub(super) fn role(&self) -> Role {
        self.principal.role
    }
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone)]
            pub(super) struct $name(pub(super) Caller);

            impl FromRequestParts<Desk> for $name {
                type Rejection = Problem;

                async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Problem> {
                    caller(parts, desk, Role::$name).await.map(Self)
                }
            }
        )+
    };
}

roles! {
    /// An operator, or more: may work with devices.
    Operator;
    /// An admin: may do everything.
    Admin;
}

/// A viewer, or more: may read. Who it is does not matter, as reading leaves no trace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Viewer;

impl FromRequestParts<Desk> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Problem> {
        caller(parts, desk, Role::Viewer).await.map(|_| Self)
    }
}

/// Who may send telemetry for a device.
#[derive(Debug, Clone)]
pub(super) enum Sender {
    /// The device itself, by its key.
    Device(DeviceId),
    /// An operator, for any.
    Operator,
}

impl FromRequestParts<Desk> for Sender {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, desk: &Desk) -> Result<Self, Problem> {
        match parts.headers.get(API_KEY) {
            Some(presented) => holder(parts, desk, presented).await.map(Self::Device),
            None => caller(parts, desk, Role::Operator).await.map(|_| Self::Operator),
        }
    }
}

impl Sender {
    /// Whether it may for this device.
    ///
    /// # Errors
    /// A problem where it is another's key.
    pub(super) fn may_send_for(&self, device: DeviceIdRef<'_>) -> Result<(), Problem> {
        match self {
            Self::Device(own) if own.as_str() != device.as_str() => Err(Problem::new(
                Kind::Forbidden,
                format!("this is the key of {}; a device sends for itself alone", own.as_str()),
            )),
            Self::Device(_) | Self::Operator => Ok(()),
        }
    }
}

/// The device whose key this is.
async fn holder(parts: &Parts, desk: &Desk, presented: &HeaderValue) -> Result<DeviceId, Problem> {
    let address = address(parts, desk);
    desk.guard.look_at(address)?;
    let client = desk.database().await?;
    let verified = device_keys::verify(&**client, presented.to_str().unwrap_or_default()).await;
    let holder = verified.map_err(|error| match error {
        KeyError::Database(error) => Problem::database(&error),
        KeyError::Disabled(_) => Problem::new(Kind::Forbidden, error.to_string()),
        refused => {
            desk.guard.note_failure(address);
            Problem::new(Kind::Unauthorized, refused.to_string())
        }
    })?;
    desk.guard.admit(&format!("device:{}", holder.id.as_str()))?;
    Ok(holder.id)
}

async fn caller(parts: &Parts, desk: &Desk, needed: Role) -> Result<Caller, Problem> {
    let address = address(parts, desk);
    let presented = bearer(&parts.headers)?;
    desk.guard.look_at(address)?;
    let principal = verify(desk, presented).await.inspect_err(|problem| {
        if problem.is_unauthorized() {
            desk.guard.note_failure(address);
        }
    })?;
    let means = match principal.means {
        Means::Token(_) => "token",
        Means::Jwt => "jwt",
    };
    desk.guard.admit(&format!("{means}:{}", principal.name))?;
    if !principal.role.allows(needed) {
        return Err(Problem::new(
            Kind::Forbidden,
            format!("this needs the role {needed}; {} has the role {}", principal.name, principal.role),
        ));
    }
    Ok(Caller {
        principal,
        origin: address.to_string(),
    })
}

async fn verify(desk: &Desk, presented: &str) -> Result<Principal, Problem> {
    if presented.starts_with(PREFIX) {
        let client = desk.database().await?;
        return tokens::verify(&**client, presented).await.map_err(|error| match error {
            VerifyError::Refused(refusal) => Problem::new(Kind::Unauthorized, refusal.to_string()),
            VerifyError::Database(error) => Problem::database(&error),
        });
    }
    let verifier = desk.parts.verifier.as_ref().ok_or_else(|| {
        Problem::new(
            Kind::Unauthorized,
            "this is no token of this service, and JWTs are taken only where JWT_KEYS, JWT_ISSUER and JWT_AUDIENCE are set",
        )
    })?;
    let accepted = verifier
        .verify(presented)
        .map_err(|refusal| Problem::new(Kind::Unauthorized, refusal.to_string()))?;
    Ok(accepted.principal)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || {
        Problem::new(
            Kind::Unauthorized,
            "a credential is needed: Authorization: Bearer, and a token (iotflow token create) or a JWT",
        )
    };
    let value = headers.get(AUTHORIZATION).ok_or_else(missing)?.to_str().map_err(|_| missing())?;
    let (scheme, presented) = value.split_once(' ').ok_or_else(missing)?;
    if !scheme.eq_ignore_ascii_case("bearer") || presented.trim().is_empty() {
        return Err(missing());
    }
    Ok(presented.trim())
}

/// Where the request comes from.
pub(super) fn address(parts: &Parts, desk: &Desk) -> IpAddr {
    let peer = parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |info| info.0.ip());
    origin(peer, &parts.headers, &desk.config.trusted_proxies)
}

/// Back along the proxies, from the nearest on: each wrote last whom it had before it, and its word counts only where it is one that the
/// settings name. What stands before the word of the last of them anybody can have written.
fn origin(peer: IpAddr, headers: &HeaderMap, proxies: &[IpAddr]) -> IpAddr {
    // A socket for both families shows those of the fourth as `::ffff:192.0.2.1`.
    let mut origin = peer.to_canonical();
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let mut hops = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
    while proxies.contains(&origin)
        && let Some(before) = hops.next().and_then(|hop| hop_address(hop.trim()))
    {
        origin = before;
    }
    origin
}

/// An address as proxies write it: some with the port behind it.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let address = hop.parse().or_else(|_| hop.parse().map(|socket: SocketAddr| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_before_the_proxies_is_the_callers() {
        let proxies = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|proxy| proxy.parse().expect(proxy));
        for (peer, forwarded, expected) in [
            ("198.51.100.7", &["203.0.113.9"][..], "198.51.100.7"),
            ("192.0.2.1", &[], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9"], "203.0.113.9"),
            ("192.0.2.1", &["10.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("192.0.2.1", &["10.0.0.1", "203.0.113.9, 192.0.2.2"], "203.0.113.9"),
            ("192.0.2.1", &["192.0.2.2"], "192.0.2.2"),
            ("::ffff:192.0.2.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("2001:db8::1", &["[2001:db8::9]:1234"], "2001:db8::9"),
            ("192.0.2.1", &["203.0.113.9:1234"], "203.0.113.9"),
            ("192.0.2.1", &["203.0.113.9, nonsense"], "192.0.2.1"),
            ("192.0.2.1", &["203.0.113.9, nonsense, 192.0.2.2"], "192.0.2.2"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            let found = origin(peer.parse().expect(peer), &headers, &proxies);
            assert_eq!(found.to_string(), expected, "{peer} {forwarded:?}");
        }
    }
}
