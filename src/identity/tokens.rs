//! Opaque tokens of the API: made once and shown once, looked up by hash, revoked by name.
//!
//! ```text
//! create ──► spelling (random bits as text, their hash) ──► api_tokens ◄── check (text ──► hash ──► who it is)
//! ```
//!
//! Each change is one transaction with its entry in the audit.

use std::time::Duration;

use tokio_postgres::{Error, GenericClient, Row};
use uuid::Uuid;

use super::audit::{self, Act, Action, Actor, Outcome};
use super::principal::Role;
use super::spelling;
use crate::observe::secret::Secret;

mod check;
mod name;

pub use super::spelling::TOKEN_PREFIX as PREFIX;
pub use check::{Refusal, VerifyError, look_up, verify};
pub use name::{BadName, TokenName, Which};

/// How long a token lasts where nothing else is said: a quarter, so that rotation is practised and a forgotten token ends.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(90 * 86_400);
/// The longest expiry. Who wants more wants a token that never expires, and should have to say so.
pub const MAX_EXPIRY: Duration = Duration::from_secs(3_653 * 86_400);

/// A token that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its name; no other token that is not revoked may have it.
    pub name: TokenName,
    /// What its bearer may do.
    pub role: Role,
    /// How long it lasts; `None` for ever. At most [`MAX_EXPIRY`].
    pub expiry: Option<Duration>,
}

/// A token that was made. The secret is nowhere else, and cannot be shown again.
#[derive(Debug)]
pub struct Created {
    /// The token itself.
    pub secret: Secret,
    /// Its id.
    pub id: Uuid,
    /// When it expires, in microseconds since 1970.
    pub expires_at: Option<i64>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is in use.
    #[error("there is a token called {0}, expired or not; revoke it first, or take another name")]
    Taken(TokenName),
    /// It would expire before anybody could use it, or in too distant a future.
    #[error("a token lasts between a second and ten years; ask for one that never expires if that is meant")]
    Expiry,
    /// The operating system has no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The server's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Makes a token, in one transaction with its entry in the audit.
///
/// # Errors
/// See [`CreateError`].
pub async fn create(client: &mut impl GenericClient, actor: &Actor, wanted: &NewToken) -> Result<Created, CreateError> {
    if wanted
        .expiry
        .is_some_and(|expiry| expiry < Duration::from_secs(1) || expiry > MAX_EXPIRY)
    {
        return Err(CreateError::Expiry);
    }
    let random = spelling::random()?;
    let id = Uuid::now_v7();
    let name = wanted.name.as_str();
    let transaction = client.transaction().await?;
    let made = transaction
        .query_opt(
            "INSERT INTO api_tokens (token_id, name, role, hash, created_by, expires_at)
             VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
             ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING
             RETURNING (extract(epoch FROM expires_at) * 1000000)::int8",
            &[
                &id,
                &name,
                &wanted.role.as_str(),
                &spelling::hash(&random).as_slice(),
                &actor.name(),
                &wanted.expiry.map(|expiry| expiry.as_secs_f64()),
            ],
        )
        .await?;
    let outcome = if made.is_some() { Outcome::Done } else { Outcome::Refused };
    let act = Act::new(actor, Action::TokenCreate, name, outcome)
        .with("role", wanted.role.as_str())
        .with("expires_after_seconds", wanted.expiry.map(|expiry| expiry.as_secs()));
    let act = if made.is_some() {
        act.with("id", id.to_string())
    } else {
        act.with("reason", "the name is taken")
    };
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    let row = made.ok_or_else(|| CreateError::Taken(wanted.name.clone()))?;
    Ok(Created {
        secret: spelling::spell(PREFIX, &random),
        id,
        expires_at: row.try_get(0)?,
    })
}

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is taken.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl State {
    /// As people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What is known of a token. All times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// When it was made.
    pub created_at: i64,
    /// By whom, as the audit calls them.
    pub created_by: String,
    /// When it expires, unless never.
    pub expires_at: Option<i64>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<i64>,
    /// When it was last used, to a minute.
    pub last_used_at: Option<i64>,
    /// Where it stands, by the database's clock.
    pub state: State,
}

/// What [`token`] reads.
const COLUMNS: &str = "token_id, name, role, (extract(epoch FROM created_at) * 1000000)::int8, created_by, \
    (extract(epoch FROM expires_at) * 1000000)::int8, (extract(epoch FROM revoked_at) * 1000000)::int8, \
    (extract(epoch FROM last_used_at) * 1000000)::int8, coalesce(expires_at <= now(), false)";

fn token(row: &Row) -> Result<Token, Error> {
    let revoked_at: Option<i64> = row.try_get(6)?;
    let expired: bool = row.try_get(8)?;
    Ok(Token {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        role: row.try_get(2)?,
        created_at: row.try_get(3)?,
        created_by: row.try_get(4)?,
        expires_at: row.try_get(5)?,
        revoked_at,
        last_used_at: row.try_get(7)?,
        state: match (revoked_at, expired) {
            (Some(_), _) => State::Revoked,
            (None, true) => State::Expired,
            (None, false) => State::Active,
        },
    })
}

/// All tokens, the oldest first, those that are no longer taken included.
///
/// # Errors
/// The server's.
pub async fn list(client: &impl GenericClient) -> Result<Vec<Token>, Error> {
    let statement = format!("SELECT {COLUMNS} FROM api_tokens ORDER BY created_at, token_id");
    client.query(&statement, &[]).await?.iter().map(token).collect()
}

/// Why no token was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// There is none.
    #[error("there is no token {0}")]
    Unknown(Which),
    /// It is revoked.
    #[error("{0} is revoked already")]
    Already(Which),
    /// The server's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Revokes a token, in one transaction with its entry in the audit. It is refused from the commit on.
///
/// # Errors
/// See [`RevokeError`].
pub async fn revoke(client: &mut impl GenericClient, actor: &Actor, which: &Which) -> Result<Token, RevokeError> {
    let (name, id) = match which {
        Which::Name(name) => (Some(name.as_str()), None),
        Which::Id(id) => (None, Some(id)),
    };
    let transaction = client.transaction().await?;
    let statement =
        format!("UPDATE api_tokens SET revoked_at = now() WHERE revoked_at IS NULL AND (name = $1 OR token_id = $2) RETURNING {COLUMNS}");
    let revoked = transaction.query_opt(&statement, &[&name, &id]).await?;
    let outcome = match &revoked {
        Some(row) => Ok(token(row)?),
        None => {
            let known = "SELECT EXISTS (SELECT FROM api_tokens WHERE name = $1 OR token_id = $2)";
            if transaction.query_one(known, &[&name, &id]).await?.try_get(0)? {
                Err(RevokeError::Already(which.clone()))
            } else {
                Err(RevokeError::Unknown(which.clone()))
            }
        }
    };
    let object = which.to_string();
    let act = match &outcome {
        Ok(token) => Act::new(actor, Action::TokenRevoke, &token.name, Outcome::Done).with("id", token.id.to_string()),
        Err(error) => Act::new(actor, Action::TokenRevoke, &object, Outcome::Refused).with("reason", error.to_string()),
    };
    audit::record(&transaction, &act).await?;
    transaction.commit().await?;
    outcome
}
