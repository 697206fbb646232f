//! `run`: the servers of the installation, in the foreground, until a signal ends them. `start` runs this in the background.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::installation::folder::{Installation, Settings, Taken};
use crate::cli::installation::servers::{SERVICE, SERVICE_SECRET};
use crate::cli::{EXIT_OK, Sources, runtime};
use crate::db::config::Config as DbConfig;
use crate::db::error::describe;
use crate::db::pool;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::lifecycle::signals::Signals;
use crate::observe::logging;
use crate::protocol::rights::Role;

use super::Asked;

pub(super) fn command() -> Command {
    Command::new("run").about("Run the broker in the foreground, and keep it in step with the database")
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(asked.matches)?;
    let config = sources.config()?;
    logging::start(&config.log)?;
    let installation = Installation::open(&asked.data)?;
    let settings = installation.settings()?.context("it is there")?;
    let taken = installation.take()?;
    let database = installation.database(&sources, &settings)?;
    runtime()?.block_on(serve(&installation, &settings, database, &taken))?;
    Ok(ExitCode::from(EXIT_OK))
}

async fn serve(installation: &Installation, settings: &Settings, (database, named): (DbConfig, bool), taken: &Taken) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let started = async {
        let database = installation.start_database(database, named).await?;
        let users = [(SERVICE, Role::Service, SERVICE_SECRET)];
        let broker = installation.start_broker(settings, &database.config, &users).await?;
        installation.announce(settings)?;
        anyhow::Ok((database, broker))
    };
    let (mut database, broker) = tokio::select! {
        started = started => started?,
        _ = signals.next() => return Ok(()),
    };
    note(&database.config, Action::BrokerStart, installation).await;
    taken.ready()?;
    info!(folder = %installation.data.display(), "the broker is up, and proven");
    let stop = CancellationToken::new();
    let supervised = broker.supervise(database.config.clone(), stop.clone());
    tokio::pin!(supervised);
    tokio::select! {
        () = &mut supervised => {}
        signal = signals.next() => {
            info!(signal, "stopping");
            stop.cancel();
            supervised.await;
        }
    }
    note(&database.config, Action::BrokerStop, installation).await;
    if let Some(server) = &mut database.server {
        server.halt(Signal::SIGINT)?;
    }
    Ok(())
}

/// Puts it on record. That it cannot be is no reason not to start, or not to stop.
async fn note(database: &DbConfig, action: Action, installation: &Installation) {
    let folder = installation.data.display().to_string();
    let recorded = async {
        let client = pool::connect(database, "broker").await?;
        audit::record(&client, &Act::new(&Actor::of_command_line(), action, &folder, Outcome::Done)).await
    };
    if let Err(error) = recorded.await {
        warn!(error = describe(&error), action = action.as_str(), "not in the audit");
    }
}
