//! Commands listed, shown, taken back and watched.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::devices::commands::read::{self, Command, Filter};
use crate::identity::audit::Actor;
use crate::operations::commands::{self, CancelError};
use crate::protocol::command::CommandId;

use super::print;

/// How often a command that is watched is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The most deliveries that are shown of a command.
const MOST_DELIVERIES: u32 = 10_000;

/// 0 where every device completed it.
pub(super) fn exit_code(command: &Command) -> ExitCode {
    let completed = command.counts.completed == command.counts.total;
    ExitCode::from(if completed { EXIT_OK } else { EXIT_FAILED })
}

pub(super) async fn list(config: &Config, filter: &Filter<'_>, limit: u32, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "command").await?;
    let commands = read::history(&client, filter, None, limit).await?;
    print::list(&commands, as_json);
    Ok(ExitCode::from(EXIT_OK))
}

pub(super) async fn show(config: &Config, id: &CommandId, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "command").await?;
    let Some(command) = read::get(&client, id).await? else {
        return Ok(unknown(id));
    };
    let deliveries = read::deliveries(&client, id, None, 0, MOST_DELIVERIES).await?;
    print::whole(&command, &deliveries, as_json);
    Ok(ExitCode::from(EXIT_OK))
}

pub(super) async fn cancel(config: &Config, id: &CommandId) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "command").await?;
    match commands::cancel(&mut client, &Actor::of_command_line(), id).await {
        Ok(devices) => {
            println!("taken back for {devices} device{}", if devices == 1 { "" } else { "s" });
            Ok(ExitCode::from(EXIT_OK))
        }
        Err(CancelError::Database(error)) => Err(error.into()),
        Err(error) => {
            eprintln!("iotflow: {error}");
            Ok(ExitCode::from(EXIT_FAILED))
        }
    }
}

pub(super) async fn watch(config: &Config, id: &CommandId, most: Duration, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "command").await?;
    let ended = until_done(&client, id, most, |command| print::change(command, as_json)).await?;
    Ok(ended.map_or_else(|| unknown(id), |command| exit_code(&command)))
}

/// Looks until every device has come to an end, or the time is over; tells every change.
pub(super) async fn until_done(
    client: &Client,
    id: &CommandId,
    most: Duration,
    mut tell: impl FnMut(&Command),
) -> anyhow::Result<Option<Command>> {
    let deadline = Instant::now().checked_add(most).context("a shorter time is expected")?;
    let mut told = None;
    loop {
        let Some(command) = read::get(client, id).await? else {
            return Ok(None);
        };
        if told != Some(command.counts) {
            tell(&command);
            told = Some(command.counts);
        }
        if command.counts.is_done() || Instant::now() >= deadline {
            return Ok(Some(command));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn unknown(id: &CommandId) -> ExitCode {
    eprintln!("iotflow: there is no command {id}");
    ExitCode::from(EXIT_FAILED)
}
