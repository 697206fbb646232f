//! What there is to ask: the settings, the installation on this machine if it is one, and the database if it answers.

use std::path::Path;

use tokio_postgres::Client;

use crate::broker::conf::Kind;
use crate::cli::Sources;
use crate::cli::installation::folder::{Installation, Settings};
use crate::config::Config;
use crate::db::error::describe;
use crate::db::pool;

/// No look at a table may take longer, however large it is.
const PATIENCE: &str = "SET statement_timeout = '10s'";

/// A running installation, as far as it can be reached.
pub(super) struct Patient {
    pub(super) sources: Sources,
    pub(super) config: Config,
    /// The installation whose broker this is, where its files are on this machine.
    pub(super) installation: Option<(Installation, Settings)>,
    /// The database, or why it cannot be asked.
    pub(super) database: Result<Client, String>,
}

impl Patient {
    /// Reads the settings, and knocks at the database.
    pub(super) async fn meet(sources: Sources, data: &Path) -> anyhow::Result<Self> {
        let config = sources.config()?;
        let installation = installation(&config, data)?;
        let database = match pool::connect(&config.db, "doctor").await {
            Ok(client) => client.batch_execute(PATIENCE).await.map(|()| client),
            Err(error) => Err(error),
        };
        Ok(Self {
            sources,
            config,
            installation,
            database: database.map_err(|error| describe(&error)),
        })
    }
}

/// The one in `data`, where the settings are of its broker and of no other.
fn installation(config: &Config, data: &Path) -> anyhow::Result<Option<(Installation, Settings)>> {
    if !data.join("broker.json").exists() {
        return Ok(None);
    }
    let installation = Installation::open(data)?;
    let settings = installation.settings()?;
    let is_ours = |settings: &Settings| is_loopback(&config.mqtt.host) && settings.port(Kind::Staff) == Some(config.mqtt.port);
    Ok(settings.filter(is_ours).map(|settings| (installation, settings)))
}

/// Whether what goes to this host stays on the machine.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
