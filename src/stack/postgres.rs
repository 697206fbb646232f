//! A private PostgreSQL: one cluster in one folder, listening on loopback.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::NoTls;

use crate::observe::secret::Secret;

use super::account::Account;
use super::process::{Process, as_account};
use super::programs::{self, Missing};

/// The role and the database.
const NAME: &str = "iotflow";
const START_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A file or a process.
    #[error("PostgreSQL in {folder}: {source}")]
    Io {
        /// The cluster's folder.
        folder: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The cluster could not be made.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// It does not come up.
    #[error("PostgreSQL does not start: {0}")]
    Start(String),
    /// The database could not be made.
    #[error("the database could not be created: {0}")]
    Database(#[from] tokio_postgres::Error),
}

/// How the server is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder, made where it is not there; the cluster is in `data` below it.
    pub folder: PathBuf,
    /// The port.
    pub port: u16,
    /// The role's password; a cluster that is there keeps the one it was made with.
    pub password: Secret,
    /// Whether commits survive a loss of power. Tests need not wait for the disk.
    pub durable: bool,
    /// Further `name=value` settings.
    pub extra: Vec<String>,
}

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    settings: Settings,
    account: Account,
    bin: PathBuf,
    process: Option<Process>,
}

impl Postgres {
    /// Makes the cluster where there is none, starts it, and makes the database where there is none.
    ///
    /// # Errors
    /// See [`PostgresError`].
    pub async fn start(settings: Settings) -> Result<Self, PostgresError> {
        let bin = programs::postgres_folder()?;
        let account = Account::for_servers().map_err(|source| io_error(&settings.folder, source))?;
        let mut server = Self {
            settings,
            account,
            bin,
            process: None,
        };
        server.initialise()?;
        server.resume().await?;
        server.create_database().await?;
        Ok(server)
    }

    /// The URL of the database, password included.
    #[must_use]
    pub fn url(&self) -> Secret {
        Secret::new(format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/{NAME}",
            self.settings.password.reveal(),
            self.settings.port
        ))
    }

    /// Starts the server again after [`Postgres::halt`], and waits until it answers.
    ///
    /// # Errors
    /// See [`PostgresError`].
    pub async fn resume(&mut self) -> Result<(), PostgresError> {
        let process = Process::start(
            &self.bin.join("postgres"),
            self.arguments(),
            self.account,
            &self.settings.folder.join("postgres.log"),
            Signal::SIGINT,
        )
        .map_err(|source| io_error(&self.settings.folder, source))?;
        let process = self.process.insert(process);
        let url = format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/postgres",
            self.settings.password.reveal(),
            self.settings.port
        );
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let failure = match tokio_postgres::connect(&url, NoTls).await {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let ended = process.ended().map_err(|source| io_error(&self.settings.folder, source))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(PostgresError::Start(format!("{failure}\n{}", process.last_words())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the server with `signal`: SIGINT for a fast, SIGQUIT for an immediate shutdown.
    ///
    /// # Errors
    /// The system's.
    pub fn halt(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(signal)?;
        process.stop(STOP_WITHIN)
    }

    /// The server's process.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    fn data(&self) -> PathBuf {
        self.settings.folder.join("data")
    }

    fn initialise(&self) -> Result<(), PostgresError> {
        let failed = |source| io_error(&self.settings.folder, source);
        self.account.create_passage(&self.settings.folder).map_err(failed)?;
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        self.account.create_folder(&self.data()).map_err(failed)?;
        let password_file = self.settings.folder.join("initial-password");
        self.account
            .write_file(&password_file, self.settings.password.reveal())
            .map_err(failed)?;
        let mut command = as_account(&self.bin.join("initdb"), self.account, None);
        command.arg("--pgdata").arg(self.data()).arg("--pwfile").arg(&password_file).args([
            "--username",
            NAME,
            "--auth",
            "scram-sha-256",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-instructions",
            "--no-sync",
        ]);
        let output = command.current_dir("/").output().map_err(failed)?;
        std::fs::remove_file(&password_file).map_err(failed)?;
        if !output.status.success() {
            return Err(PostgresError::Initdb(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(())
    }

    fn arguments(&self) -> Vec<String> {
        let durable = if self.settings.durable { "on" } else { "off" };
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            // No socket file: its path may be too long, and its folder not ours.
            "unix_socket_directories=".to_owned(),
            format!("port={}", self.settings.port),
            format!("fsync={durable}"),
            format!("full_page_writes={durable}"),
            "max_connections=60".to_owned(),
            "shared_buffers=256MB".to_owned(),
            // A checkpoint a minute under load would write every page twice.
            "max_wal_size=4GB".to_owned(),
            "checkpoint_timeout=15min".to_owned(),
            // So that the load test can ask the server when each row was committed.
            "track_commit_timestamp=on".to_owned(),
        ];
        settings.extend(self.settings.extra.iter().cloned());
        let data = self.data().display().to_string();
        ["-D".to_owned(), data]
            .into_iter()
            .chain(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]))
            .collect()
    }

    async fn create_database(&self) -> Result<(), PostgresError> {
        let url = format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/postgres",
            self.settings.password.reveal(),
            self.settings.port
        );
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        if client
            .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&NAME])
            .await?
            .is_none()
        {
            client.batch_execute(&format!("CREATE DATABASE {NAME}")).await?;
        }
        Ok(())
    }
}

fn io_error(folder: &Path, source: io::Error) -> PostgresError {
    PostgresError::Io {
        folder: folder.to_owned(),
        source,
    }
}
