//! A presented token, and who its bearer is.
//!
//! The look-up is one probe of an index by the token's hash. Its time may tell how much of a *hash* was right, which leads
//! nobody to a token; no secret is compared with anything, so nothing here needs to take constant time.

use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient};

use super::{COLUMNS, PREFIX, State, Token, token};
use crate::identity::principal::{Means, Principal};
use crate::identity::spelling;

/// Why a token is not taken. It never repeats the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not spelt as a token is: cut off, mistyped, something else.
    #[error("this is no token: its form or its checksum is wrong")]
    Malformed,
    /// It has the form, and nobody made it here.
    #[error("there is no such token")]
    Unknown,
    /// Its time is over.
    #[error("the token {} has expired", .0.name)]
    Expired(Box<Token>),
    /// It was revoked.
    #[error("the token {} was revoked", .0.name)]
    Revoked(Box<Token>),
}

/// Why nobody stands behind a token.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server's.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

/// Who the bearer of `presented` is; that it was used is noted, at most once a minute, so that a busy token does not cost a
/// write a request.
///
/// # Errors
/// See [`VerifyError`].
pub async fn verify(client: &impl GenericClient, presented: &str) -> Result<Principal, VerifyError> {
    let (token, is_news) = find(client, presented).await?;
    if is_news {
        // Of those that come at once, the first one writes: the others find the condition no longer true.
        let statement = format!("UPDATE api_tokens SET last_used_at = now() WHERE token_id = $1 AND {IS_NEWS}");
        client.execute(&statement, &[&token.id]).await?;
    }
    Ok(Principal {
        name: token.name,
        role: token.role,
        means: Means::Token(token.id),
    })
}

/// What is known of the token `presented`, if it is taken. Looking at a token is no use of it: nothing is noted.
///
/// # Errors
/// See [`VerifyError`].
pub async fn look_up(client: &impl GenericClient, presented: &str) -> Result<Token, VerifyError> {
    Ok(find(client, presented).await?.0)
}

/// Whether a use now is worth a write.
const IS_NEWS: &str = "coalesce(last_used_at < now() - interval '1 minute', true)";

async fn find(client: &impl GenericClient, presented: &str) -> Result<(Token, bool), VerifyError> {
    let random = spelling::read(PREFIX, presented).ok_or(Refusal::Malformed)?;
    let statement = format!("SELECT {COLUMNS}, {IS_NEWS} AS is_news FROM api_tokens WHERE hash = $1");
    // With the type at hand the server is asked once, and not twice as for a statement that it has to describe first.
    let hash = spelling::hash(&random);
    let row = client.query_typed_opt(&statement, &[(&hash.as_slice(), Type::BYTEA)]).await?;
    let row = row.ok_or(Refusal::Unknown)?;
    let token = token(&row)?;
    match token.state {
        State::Active => Ok((token, row.try_get("is_news")?)),
        State::Expired => Err(Refusal::Expired(Box::new(token)).into()),
        State::Revoked => Err(Refusal::Revoked(Box::new(token)).into()),
    }
}
