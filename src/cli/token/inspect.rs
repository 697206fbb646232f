//! Who a token or a JWT is, or exactly why it is refused.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::terminal::{self, moment, printable};
use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::identity::jwt::verifier::{Accepted, MAX_TOKEN_BYTES, Verifier};
use crate::identity::tokens::{self, PREFIX, Refusal, Token, VerifyError};

/// What is read at most: enough that a token that is too long is told from one that was cut.
const MAX_INPUT_BYTES: u64 = 2 * MAX_TOKEN_BYTES as u64;

/// What there is to say: for people, and for programs.
struct Finding {
    taken: bool,
    sentence: String,
    object: Value,
}

pub(super) async fn run(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut input = Vec::new();
    std::io::stdin()
        .take(MAX_INPUT_BYTES)
        .read_to_end(&mut input)
        .context("standard input cannot be read")?;
    // No token holds anything but ASCII; a replacement character is refused as any other would be.
    let presented = String::from_utf8_lossy(&input);
    let presented = presented.trim_ascii();
    let finding = if presented.starts_with(PREFIX) {
        of_token(config, presented).await?
    } else {
        of_jwt(config, presented)?
    };
    if as_json {
        println!("{}", terminal::json(&finding.object));
    } else {
        println!("{}", finding.sentence);
    }
    Ok(ExitCode::from(if finding.taken { EXIT_OK } else { EXIT_FAILED }))
}

async fn of_token(config: &Config, presented: &str) -> anyhow::Result<Finding> {
    let client = database::connect(&config.db, "token").await?;
    Ok(match tokens::look_up(&client, presented).await {
        Ok(token) => Finding {
            taken: true,
            sentence: format!("the token {}: {}, {}", token.name, token.role, lasting(token.expires_at)),
            object: json!({
                "kind": "token", "taken": true, "name": token.name, "role": token.role.as_str(),
                "id": token.id.to_string(), "expires_at": token.expires_at.map(moment),
            }),
        },
        Err(VerifyError::Refused(refusal)) => refused("token", &format!("{refusal}{}", since(&refusal))),
        Err(error) => return Err(error.into()),
    })
}

fn since(refusal: &Refusal) -> String {
    let since = |time: fn(&Token) -> Option<i64>, token: &Token| time(token).map_or_else(String::new, |at| format!(" at {}", moment(at)));
    match refusal {
        Refusal::Malformed | Refusal::Unknown => String::new(),
        Refusal::Expired(token) => since(|token| token.expires_at, token),
        Refusal::Revoked(token) => since(|token| token.revoked_at, token),
    }
}

fn of_jwt(config: &Config, presented: &str) -> anyhow::Result<Finding> {
    let Some(jwt) = &config.jwt else {
        return Ok(refused(
            "jwt",
            "it is no token of this service, and JWTs are taken only where JWT_KEYS, JWT_ISSUER and JWT_AUDIENCE are set",
        ));
    };
    let path = jwt.keys.display().to_string();
    let verifier = Verifier::new(jwt.clone()).with_context(|| format!("JWT_KEYS={path}"))?;
    Ok(match verifier.verify(presented) {
        Ok(Accepted { principal, expires_at }) => Finding {
            taken: true,
            sentence: format!(
                "a JWT of {}: {}, {}",
                printable(&principal.name),
                principal.role,
                lasting(Some(expires_at))
            ),
            object: json!({
                "kind": "jwt", "taken": true, "name": principal.name, "role": principal.role.as_str(),
                "expires_at": moment(expires_at),
            }),
        },
        Err(refusal) => refused("jwt", &refusal.to_string()),
    })
}

fn refused(kind: &str, reason: &str) -> Finding {
    Finding {
        taken: false,
        sentence: format!("refused: {reason}"),
        object: json!({ "kind": kind, "taken": false, "reason": reason }),
    }
}

fn lasting(expires_at: Option<i64>) -> String {
    expires_at.map_or_else(|| "for ever".to_owned(), |at| format!("until {}", moment(at)))
}
