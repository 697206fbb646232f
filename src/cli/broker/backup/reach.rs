//! The database of an installation: of the one that runs, or started for as long as this is needed.

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use tokio_postgres::Client;

use crate::cli::Sources;
use crate::cli::broker::Asked;
use crate::cli::broker::access::Registry;
use crate::cli::installation::folder::{Installation, Settings, Taken};
use crate::db::pool;
use crate::stack::postgres::Postgres;

/// See the module's documentation.
pub(super) struct Reached {
    pub(super) client: Client,
    /// Whether the installation's servers run, and not only what was started for this.
    pub(super) runs: bool,
    // In this order: the folder is ours until the server has ended.
    server: Option<Postgres>,
    taken: Option<Taken>,
}

impl Reached {
    /// Whether the servers of the installation run or not.
    pub(super) async fn open(asked: &Asked<'_>, installation: &Installation, settings: &Settings) -> anyhow::Result<Self> {
        match installation.runner()? {
            None => {
                let taken = installation.take()?;
                let reached = Self::start(&Sources::new(asked.matches)?, installation, settings).await?;
                Ok(Self {
                    taken: Some(taken),
                    ..reached
                })
            }
            Some((_, true)) => Ok(Self {
                client: Registry::open(asked).await?.client,
                runs: true,
                server: None,
                taken: None,
            }),
            Some((pid, false)) => bail!(
                "process {pid} is at work in {}: the broker is just starting, or is backed up or restored; try again when that is over",
                installation.data.display()
            ),
        }
    }

    /// Starts the private PostgreSQL, if the database is no other. The caller has taken the folder.
    pub(super) async fn start(sources: &Sources, installation: &Installation, settings: &Settings) -> anyhow::Result<Self> {
        let (config, named) = installation.database(sources, settings)?;
        let database = installation.start_database(config, named).await?;
        let client = pool::connect(&database.config, "backup")
            .await
            .context("the database cannot be reached")?;
        Ok(Self {
            client,
            runs: false,
            server: database.server,
            taken: None,
        })
    }

    /// Ends what was started for this.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        if let Some(server) = &mut self.server {
            server.halt(Signal::SIGINT)?;
        }
        drop(self.taken);
        Ok(())
    }
}
