//! Dead letters published again, or removed.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::terminal::printable;
use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::identity::audit::Actor;
use crate::ingest::dead_letter::kept::{self, Filter, Purge};
use crate::lifecycle::readiness::Readiness;
use crate::mqtt::publisher::{Handle, Publisher};
use crate::observe::metrics::Metrics;
use crate::operations::dead_letters::{self, ReplayError};
use crate::protocol::topic::TopicTree;

/// Replays these letters, or those that fit where none is named, the oldest first.
pub(super) async fn replay(config: &Config, mut ids: Vec<Uuid>, filter: &Filter<'_>) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "dead-letter").await?;
    if ids.is_empty() {
        ids = kept::list(&client, filter).await?.iter().rev().map(|letter| letter.id).collect();
    }
    let tree = TopicTree::new(&config.ingest.base_topic)?;
    let stop = CancellationToken::new();
    let (publisher, handle) = Publisher::new(
        &config.mqtt,
        &config.ingest.group,
        Readiness::default().latch("publisher"),
        Metrics::new().connection("publisher"),
        stop,
    );
    tokio::select! {
        () = publisher.run() => bail!("the publisher ended"),
        outcome = replay_each(&mut client, &tree, &handle, &ids) => outcome,
    }
}

async fn replay_each(client: &mut Client, tree: &TopicTree, publisher: &Handle, ids: &[Uuid]) -> anyhow::Result<ExitCode> {
    let (actor, mut replayed) = (Actor::of_command_line(), 0_usize);
    for id in ids {
        match dead_letters::replay(client, &actor, tree, publisher, *id).await {
            Ok(letter) => {
                replayed += 1;
                println!("replayed {id} on {}", printable(&letter.topic));
            }
            // The next ones would fare no better.
            Err(error @ (ReplayError::Publish(_) | ReplayError::Database(_))) => {
                return Err(error).with_context(|| format!("{replayed} of {} were replayed", ids.len()));
            }
            Err(error) => eprintln!("iotflow: {id}: {}", printable(&error.to_string())),
        }
    }
    if ids.is_empty() {
        println!("there is no dead letter that fits");
    }
    Ok(ExitCode::from(if replayed == ids.len() { EXIT_OK } else { EXIT_FAILED }))
}

/// Removes these letters, or those that fit where none is named.
pub(super) async fn purge(config: &Config, ids: Vec<Uuid>, purge: &Purge<'_>) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "dead-letter").await?;
    let actor = Actor::of_command_line();
    if ids.is_empty() {
        println!("removed {}", dead_letters::purge(&mut client, &actor, purge).await?);
        return Ok(ExitCode::from(EXIT_OK));
    }
    let mut missing = 0;
    for id in ids {
        if dead_letters::remove(&mut client, &actor, id).await? {
            println!("removed {id}");
        } else {
            eprintln!("iotflow: there is no dead letter {id}");
            missing += 1;
        }
    }
    Ok(ExitCode::from(if missing == 0 { EXIT_OK } else { EXIT_FAILED }))
}
