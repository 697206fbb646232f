//! The servers of an installation: PostgreSQL, where no other database is named, and Mosquitto with what the database says.

use std::net::TcpListener;

use anyhow::Context as _;
use tokio::task::spawn_blocking;
use tokio_postgres::Client;
use tracing::warn;

use crate::access::apply::Applier;
use crate::broker::conf::{self, Kind};
use crate::broker::passwords::Hash;
use crate::broker::process::Process;
use crate::broker::shelf::Shelf;
use crate::cli::Sources;
use crate::db::config::Config as DbConfig;
use crate::db::{migrate, pool};
use crate::identity::users;
use crate::mqtt::config::Config as MqttConfig;
use crate::observe::secret::Secret;
use crate::protocol::id::Username;
use crate::protocol::rights::Role;
use crate::protocol::topic::TopicTree;
use crate::stack::account::{Account, write_private};
use crate::stack::mosquitto::{self, Mosquitto};
use crate::stack::ports;
use crate::stack::postgres::{self, Postgres, PostgresError};

use super::certificates::Certificates;
use super::folder::{Installation, Settings};

/// The service's user at the broker; its password is the secret of this name.
pub(in crate::cli) const SERVICE: &str = "iotflow";
pub(in crate::cli) const SERVICE_SECRET: &str = "mqtt-service";
/// Where the URL of a database that is not ours is kept.
pub(in crate::cli) const DATABASE_SECRET: &str = "database-url";

/// The database of an installation.
#[derive(Debug)]
pub(in crate::cli) struct Database {
    /// How to reach it.
    pub(in crate::cli) config: DbConfig,
    /// The server, where it is ours.
    pub(in crate::cli) server: Option<Postgres>,
}

/// A broker that was started and proven.
#[derive(Debug)]
pub(in crate::cli) struct Broker {
    pub(in crate::cli) mosquitto: Mosquitto,
    pub(in crate::cli) applier: Applier,
    pub(in crate::cli) certificates: Option<Certificates>,
}

impl Installation {
    /// How to reach the database, and whether it is one that was named: by a variable, or when the installation was set up.
    pub(in crate::cli) fn database(&self, sources: &Sources, settings: &Settings) -> anyhow::Result<(DbConfig, bool)> {
        let mut config = sources.config()?.db;
        let given = sources.is_set("DATABASE_URL");
        if !given && !settings.own_database {
            config.url = self
                .known_secret(DATABASE_SECRET)?
                .context("the URL of the database was not kept; DATABASE_URL is expected")?;
        }
        Ok((config, given || !settings.own_database))
    }

    /// Starts a private PostgreSQL, unless `config` is of another that was named. Brings the schema up to date.
    pub(in crate::cli) async fn start_database(&self, mut config: DbConfig, named: bool) -> anyhow::Result<Database> {
        let mut server = None;
        if !named {
            let password = self.secret("postgres")?;
            let (started, port) = self.start_postgres(&password).await?;
            write_private(
                &self.data.join("pgpass"),
                &format!("127.0.0.1:{port}:*:iotflow:{}\n", password.reveal()),
            )?;
            config.url = started.url();
            server = Some(started);
        }
        migrate::migrate(&config)
            .await
            .context("the database cannot be brought up to date")?;
        self.keep_secret(DATABASE_SECRET, &config.url)?;
        Ok(Database { config, server })
    }

    /// Installations that start at the same moment may all find the same port free: those that come too late try another.
    async fn start_postgres(&self, password: &Secret) -> anyhow::Result<(Postgres, u16)> {
        let mut attempts = 1..=3;
        loop {
            let port = ports::usual_or_free(5432)?;
            let settings = postgres::Settings {
                folder: self.servers.join("postgres"),
                port,
                password: password.clone(),
                durable: true,
                extra: Vec::new(),
            };
            match Postgres::start(settings).await {
                Err(PostgresError::Start(_)) if ports::usual_or_free(port)? != port && attempts.next().is_some() => {}
                started => return Ok((started?, port)),
            }
        }
    }

    /// Writes the broker's files from the database, starts it, and proves that it obeys them. `users` are those that the
    /// installation itself needs: their passwords are the secrets of these names.
    pub(in crate::cli) async fn start_broker(
        &self,
        settings: &Settings,
        database: &DbConfig,
        users: &[(&str, Role, &str)],
    ) -> anyhow::Result<Broker> {
        let mut client = pool::connect(database, "broker").await?;
        for (name, role, secret) in users {
            seed(&client, name, *role, &self.secret(secret)?).await?;
        }
        let paths = self.broker();
        Account::for_servers()?.create_passage(&paths.folder)?;
        let certificates = self.certificates(settings);
        if let Some(certificates) = certificates.clone() {
            let complete = certificates.is_complete();
            match spawn_blocking(move || certificates.keep()).await? {
                // As where the authority's key is kept elsewhere: what is there serves until it is over, and doctor says when.
                Err(error) if complete => warn!(error = format!("{error:#}"), "certificates could not be renewed"),
                kept => drop(kept.context("the broker's certificates")?),
            }
        }
        for listener in &settings.listeners {
            TcpListener::bind((listener.address.as_str(), listener.port)).with_context(|| {
                format!(
                    "{}:{} cannot be listened on; another broker may be there (Debian starts its own: systemctl disable --now mosquitto), or choose another place: setup --listener {}=ADDRESS:PORT",
                    listener.address,
                    listener.port,
                    serde_json::to_value(listener.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default()
                )
            })?;
        }
        let mut mosquitto = Mosquitto::prepare(mosquitto::Settings {
            folder: paths.folder.clone(),
            // The canary waits for the others.
            port: settings.port(Kind::Staff).context("an installation has a listener for its staff")?,
            conf: conf::render(&paths, &settings.listeners, &[])?,
        })?;
        let applier = self.applier(settings)?;
        applier.apply(&mut client).await?;
        mosquitto.resume().await?;
        if let Err(error) = applier.prove().await {
            let words = mosquitto.process().map(|process| process.last_words()).unwrap_or_default();
            mosquitto.halt(nix::sys::signal::Signal::SIGTERM)?;
            return Err(error)
                .with_context(|| format!("the broker was started, does not do as it must, and was stopped; it said:\n{words}\n"));
        }
        Ok(Broker {
            mosquitto,
            applier,
            certificates,
        })
    }

    /// The broker's certificates, if it has a listener that needs some.
    pub(in crate::cli) fn certificates(&self, settings: &Settings) -> Option<Certificates> {
        let wanted = settings.listeners.iter().any(|listener| listener.kind.uses_tls());
        wanted.then(|| Certificates {
            folder: self.broker().certs(),
            names: settings.certificate_names(),
        })
    }

    /// What it takes to change who may do what at this installation's broker.
    pub(in crate::cli) fn applier(&self, settings: &Settings) -> anyhow::Result<Applier> {
        let certificates = self.certificates(settings);
        let reached = |kind| {
            let tls = match kind {
                Kind::Tls | Kind::MutualTls => Some(certificates.as_ref()?.canary(kind == Kind::MutualTls)),
                _ => None,
            };
            let listener = settings.listener(kind)?;
            Some(MqttConfig {
                host: listener.reached_at().to_owned(),
                port: listener.port,
                tls,
                ..MqttConfig::default()
            })
        };
        // All but WebSockets, which the canary does not speak: that listener reads the same files as the plain one.
        let proven = [Kind::Staff, Kind::Plain, Kind::Tls, Kind::MutualTls];
        Ok(Applier {
            tree: TopicTree::new(&settings.base_topic)?,
            shelf: Shelf::new(self.broker(), Account::for_servers()?.lent()),
            process: Process::File(self.broker().pid()),
            listeners: proven.into_iter().filter_map(reached).collect(),
        })
    }

    /// Tells the service and the tools how to reach all of it.
    pub(in crate::cli) fn announce(&self, settings: &Settings) -> anyhow::Result<()> {
        // So that no two installations, and nobody who only guesses, are in one share.
        let share = "share-name";
        self.secret(share)?;
        let staff = settings
            .listener(Kind::Staff)
            .context("an installation has a listener for its staff")?;
        let file = |name: &str| self.secret_file(name).display().to_string();
        self.write_env(&[
            ("MQTT_HOST", staff.reached_at().to_owned()),
            ("MQTT_PORT", staff.port.to_string()),
            ("MQTT_USERNAME", SERVICE.to_owned()),
            ("MQTT_PASSWORD_FILE", file(SERVICE_SECRET)),
            ("MQTT_BASE_TOPIC", settings.base_topic.clone()),
            ("DATABASE_URL_FILE", file(DATABASE_SECRET)),
            ("INGEST_SHARE_NAME_FILE", file(share)),
        ])
    }
}

/// Sees to it that there is such a user with this password.
pub(in crate::cli) async fn seed(client: &Client, name: &str, role: Role, password: &Secret) -> anyhow::Result<()> {
    let username = Username::with_password(name)?;
    let known = users::get(client, &username).await?;
    let fits = |hash: &str| Hash::parse(hash).is_ok_and(|hash| hash.is_of(password));
    match known {
        None => users::create(client, &username, role, Some(Hash::of_generated(password)?.as_str())).await?,
        Some(user) if user.password_hash.as_deref().is_some_and(fits) => {}
        Some(_) => users::set_password(client, &username, Some(Hash::of_generated(password)?.as_str())).await?,
    }
    Ok(())
}
