//! Giving a command, and waiting for what the devices answer.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::value::RawValue;

use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::identity::audit::Actor;
use crate::operations::commands::{self, DEFAULT_TTL, Order, Recipient, SendError};
use crate::protocol::command::{CommandId, Kind, MAX_PARAMETERS_BYTES};

use super::follow::{self, exit_code};
use super::print;

/// What somebody wants done.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) to: Recipient,
    pub(super) kind: Kind,
    pub(super) command: String,
    /// JSON, or `-`.
    pub(super) parameters: Option<String>,
    pub(super) command_id: Option<CommandId>,
    pub(super) qos: Option<u8>,
    pub(super) ttl: Option<Duration>,
    pub(super) idempotency_key: Option<String>,
    pub(super) wait: Option<Duration>,
}

pub(super) async fn run(config: &Config, wish: &Wish, as_json: bool) -> anyhow::Result<ExitCode> {
    let parameters = parameters(wish.parameters.as_deref())?;
    let order = Order {
        kind: wish.kind,
        command: &wish.command,
        parameters: parameters.as_deref(),
        command_id: wish.command_id.clone(),
        qos: wish.qos.unwrap_or(2),
        ttl: wish.ttl.unwrap_or(DEFAULT_TTL),
        idempotency_key: wish.idempotency_key.as_deref(),
    };
    let mut client = database::connect(&config.db, "command").await?;
    let given = match commands::send(&mut client, &Actor::of_command_line(), &wish.to, &order).await {
        Ok(given) => given,
        Err(SendError::Database(error)) => return Err(error.into()),
        Err(error) => {
            eprintln!("iotflow: {error}");
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    };
    if given.new.is_none() {
        eprintln!("it was given before, under the same id or idempotency key");
    }
    let command = match (given.new, wish.wait) {
        (Some(command), None) => command,
        (_, patience) => {
            let command = follow::until_done(&client, &given.command_id, patience.unwrap_or_default(), |_| {}).await?;
            command.context("the command is gone")?
        }
    };
    print::given(&command, as_json);
    Ok(if wish.wait.is_some() {
        exit_code(&command)
    } else {
        ExitCode::from(EXIT_OK)
    })
}

fn parameters(given: Option<&str>) -> anyhow::Result<Option<Box<RawValue>>> {
    let text = match given {
        None => return Ok(None),
        Some("-") => {
            let mut text = String::new();
            // One more than may be, so that too much is seen to be too much.
            let most = u64::try_from(MAX_PARAMETERS_BYTES)? + 1_024;
            std::io::stdin().take(most).read_to_string(&mut text).context("standard input")?;
            text.trim().to_owned()
        }
        Some(text) => text.to_owned(),
    };
    let parameters = RawValue::from_string(text).context("--parameters: JSON is expected")?;
    Ok(Some(parameters))
}
