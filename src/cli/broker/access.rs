//! A change of who may do what: into the database, and waited for until the broker obeys it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_postgres::{Client, Transaction};

use crate::access::agent;
use crate::cli::installation::folder::{Installation, Settings};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::db::config::Config as DbConfig;
use crate::db::{migrate, pool};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::protocol::id::Username;
use crate::stack::account::Account;

use super::Asked;
use super::compose::AGENT;
use super::place::Place;

/// Changes gather for five seconds at most, and are proven within ten.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(25);

const STATE: &str = "SELECT version, applied_version, alarm FROM broker_access";

/// How long an agent in a container is waited for, which may be starting.
const AGENT_WITHIN: Duration = Duration::from_secs(5);

/// The installation and its database.
pub(super) struct Registry {
    compose: bool,
    pub(super) installation: Installation,
    pub(super) settings: Settings,
    pub(super) client: Client,
}

/// Whether a change is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InForce {
    /// The broker was proven to obey it.
    Now,
    /// The files are written; there is no broker that reads them yet.
    WhenStarted,
    /// It is in the database, and the broker does not obey it yet, for this reason.
    NotYet(String),
}

impl InForce {
    /// A few words to end a sentence with.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Now => "in force at the broker".to_owned(),
            Self::WhenStarted => "in force when the broker is started".to_owned(),
            Self::NotYet(why) => format!("NOT YET in force at the broker: {why}"),
        }
    }

    /// How the command ends.
    pub(super) fn exit(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::NotYet(_)) { EXIT_FAILED } else { EXIT_OK })
    }
}

impl Registry {
    /// Reaches the database of the installation.
    pub(super) async fn open(asked: &Asked<'_>) -> anyhow::Result<Self> {
        let (installation, settings) = asked.installation()?;
        let config = asked.sources()?.config()?;
        let client = connect(&config.db, asked, &installation).await?;
        Ok(Self {
            compose: matches!(asked.place, Place::Compose(_)),
            installation,
            settings,
            client,
        })
    }

    /// Does `work` in one transaction with its entry in the audit, all of it or nothing, and waits until the broker obeys. What
    /// is refused has an entry too.
    pub(super) async fn change<T>(
        &mut self,
        action: Action,
        username: &Username,
        work: impl AsyncFnOnce(&Transaction<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, InForce)> {
        let actor = Actor::of_command_line();
        let transaction = self.client.transaction().await?;
        let done = match work(&transaction).await {
            Ok(done) => done,
            Err(error) => {
                transaction.rollback().await?;
                let act = Act::new(&actor, action, username.as_str(), Outcome::Refused).with("why", error.to_string());
                audit::record(&self.client, &act).await?;
                return Err(error);
            }
        };
        audit::record(&transaction, &Act::new(&actor, action, username.as_str(), Outcome::Done)).await?;
        transaction.commit().await?;
        // It is done, and the caller has a password to show: that it is not in force yet is no reason to keep it.
        let in_force = self
            .until_in_force()
            .await
            .unwrap_or_else(|error| InForce::NotYet(format!("{error:#}")));
        Ok((done, in_force))
    }

    async fn until_in_force(&mut self) -> anyhow::Result<InForce> {
        let wanted: i64 = self.client.query_one(STATE, &[]).await?.get(0);
        let begun = tokio::time::Instant::now();
        loop {
            let row = self.client.query_one(STATE, &[]).await?;
            if row.get::<_, i64>(1) >= wanted {
                return Ok(InForce::Now);
            }
            let kept = agent::is_at_work(&self.client).await?;
            if !kept && self.compose && begun.elapsed() > AGENT_WITHIN {
                bail!("{AGENT}, which brings it there, is not running: docker compose up --detach {AGENT}");
            }
            if !kept && !self.compose {
                // Not there before the first start.
                Account::for_servers()?.create_passage(&self.installation.broker().folder)?;
                let applied = self.installation.applier(&self.settings)?.apply(&mut self.client).await?;
                return Ok(if applied.proven { InForce::Now } else { InForce::WhenStarted });
            }
            if begun.elapsed() > IN_FORCE_WITHIN {
                let why = row
                    .get::<_, Option<String>>(2)
                    .unwrap_or_else(|| "the broker's keeper is slow".to_owned());
                bail!(why);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn connect(config: &DbConfig, asked: &Asked<'_>, installation: &Installation) -> anyhow::Result<Client> {
    let client = pool::connect(config, "broker").await.with_context(|| {
        let started = installation.runner().ok().flatten().is_some();
        if started {
            "the database cannot be reached".to_owned()
        } else {
            format!("the database cannot be reached; is it running? {}", asked.how_to_start())
        }
    })?;
    migrate::migrate(config)
        .await
        .context("the database cannot be brought up to date")?;
    Ok(client)
}
