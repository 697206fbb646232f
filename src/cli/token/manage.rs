//! Making, listing and revoking tokens.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::terminal::{self, moment, table};
use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::identity::audit::Actor;
use crate::identity::tokens::{self, CreateError, NewToken, RevokeError, Token, Which};

/// Standard output holds the token alone, so that it can be piped to where it belongs; what people want to know besides goes to
/// standard error.
pub(super) async fn create(config: &Config, wanted: &NewToken, as_json: bool) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "token").await?;
    let created = match tokens::create(&mut client, &Actor::of_command_line(), wanted).await {
        Ok(created) => created,
        Err(error @ CreateError::Taken(_)) => return Ok(refused(&error)),
        Err(error) => return Err(error.into()),
    };
    let until = created
        .expires_at
        .map_or_else(|| "for ever".to_owned(), |at| format!("until {}", moment(at)));
    if as_json {
        let object = json!({
            "id": created.id.to_string(),
            "name": wanted.name.as_str(),
            "role": wanted.role.as_str(),
            "expires_at": created.expires_at.map(moment),
            "token": created.secret.reveal(),
        });
        println!("{}", terminal::json(&object));
    } else {
        println!("{}", created.secret.reveal());
        eprintln!(
            "{} ({}), {until}. It is shown this once; the database has its hash only.",
            wanted.name, wanted.role
        );
    }
    Ok(ExitCode::from(EXIT_OK))
}

pub(super) async fn list(config: &Config, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "token").await?;
    let all = tokens::list(&client).await?;
    if as_json {
        let objects: Vec<Value> = all.iter().map(object).collect();
        println!("{}", terminal::json(&Value::from(objects)));
    } else if all.is_empty() {
        println!("there is no token; make one with `iotflow token create NAME --role ROLE`");
    } else {
        let header = ["name", "role", "state", "made", "by", "expires", "last used", "id"];
        println!("{}", table(&header, all.iter().map(row)));
    }
    Ok(ExitCode::from(EXIT_OK))
}

pub(super) async fn revoke(config: &Config, which: &Which) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "token").await?;
    match tokens::revoke(&mut client, &Actor::of_command_line(), which).await {
        Ok(token) => {
            println!("revoked {} ({}), id {}", token.name, token.role, token.id);
            Ok(ExitCode::from(EXIT_OK))
        }
        Err(error @ (RevokeError::Unknown(_) | RevokeError::Already(_))) => Ok(refused(&error)),
        Err(error) => Err(error.into()),
    }
}

fn refused(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("iotflow: {error}");
    ExitCode::from(EXIT_FAILED)
}

fn row(token: &Token) -> Vec<String> {
    let or = |time: Option<i64>, otherwise: &str| time.map_or_else(|| otherwise.to_owned(), moment);
    vec![
        token.name.clone(),
        token.role.to_string(),
        token.state.as_str().to_owned(),
        moment(token.created_at),
        token.created_by.clone(),
        or(token.expires_at, "never"),
        or(token.last_used_at, "never"),
        token.id.to_string(),
    ]
}

fn object(token: &Token) -> Value {
    json!({
        "id": token.id.to_string(),
        "name": token.name,
        "role": token.role.as_str(),
        "state": token.state.as_str(),
        "created_at": moment(token.created_at),
        "created_by": token.created_by,
        "expires_at": token.expires_at.map(moment),
        "revoked_at": token.revoked_at.map(moment),
        "last_used_at": token.last_used_at.map(moment),
    })
}
