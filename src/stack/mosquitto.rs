//! A private Mosquitto: one folder with its settings and data. What else the settings name is its callers' affair.

use std::io;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::account::Account;
use super::process::Process;
use super::programs::{self, Missing};

const START_WITHIN: Duration = Duration::from_secs(20);
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum MosquittoError {
    /// Not installed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A file or a process.
    #[error("Mosquitto in {folder}: {source}")]
    Io {
        /// Its folder.
        folder: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It does not come up.
    #[error("Mosquitto does not start:\n{0}")]
    Start(String),
}

/// What goes into its folder.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder, made where it is not there.
    pub folder: PathBuf,
    /// A port that can be reached on loopback, of the listener that `conf` names last: they are opened in turn.
    pub port: u16,
    /// `mosquitto.conf`.
    pub conf: String,
}

/// A broker, running or halted.
#[derive(Debug)]
pub struct Mosquitto {
    settings: Settings,
    account: Account,
    process: Option<Process>,
}

impl Mosquitto {
    /// Makes the folder and writes the settings. The broker is halted: what else the settings name is to be put there first.
    ///
    /// # Errors
    /// See [`MosquittoError`].
    pub fn prepare(settings: Settings) -> Result<Self, MosquittoError> {
        let account = Account::for_servers().map_err(|source| MosquittoError::Io {
            folder: settings.folder.clone(),
            source,
        })?;
        let broker = Self {
            settings,
            account,
            process: None,
        };
        broker.write_files().map_err(|source| broker.io_error(source))?;
        Ok(broker)
    }

    /// Starts the broker, and waits until it answers.
    ///
    /// # Errors
    /// See [`MosquittoError`].
    pub async fn resume(&mut self) -> Result<(), MosquittoError> {
        let program = programs::mosquitto()?;
        let conf = self.settings.folder.join("mosquitto.conf");
        let process = Process::start(
            &program,
            ["-c".as_ref(), conf.as_os_str()],
            self.account,
            &self.settings.folder.join("mosquitto.log"),
            Signal::SIGTERM,
        )
        .map_err(|source| self.io_error(source))?;
        std::fs::write(self.settings.folder.join("mosquitto.pid"), format!("{}\n", process.id()))
            .map_err(|source| self.io_error(source))?;
        let process = self.process.insert(process);
        let deadline = Instant::now() + START_WITHIN;
        while TcpStream::connect(("127.0.0.1", self.settings.port)).is_err() {
            let ended = process.ended().map_err(|source| MosquittoError::Io {
                folder: self.settings.folder.clone(),
                source,
            })?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(MosquittoError::Start(process.last_words()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Stops the broker with `signal`: SIGTERM saves its sessions first, SIGKILL does not.
    ///
    /// # Errors
    /// The system's.
    pub fn halt(&mut self, signal: Signal) -> io::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(signal)?;
        process.stop(STOP_WITHIN)
    }

    /// The broker's process.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// The system's.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        match &mut self.process {
            Some(process) => Ok(process.ended()?.is_some()),
            None => Ok(true),
        }
    }

    fn write_files(&self) -> io::Result<()> {
        let Settings { folder, conf, .. } = &self.settings;
        self.account.create_folder(folder)?;
        self.account.create_folder(&folder.join("data"))?;
        // The broker writes into it too, and it is made before the broker runs.
        let log = folder.join("mosquitto.log");
        std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
        self.account.own(&log)?;
        self.account.write_file(&folder.join("mosquitto.conf"), conf)
    }

    fn io_error(&self, source: io::Error) -> MosquittoError {
        MosquittoError::Io {
            folder: self.settings.folder.clone(),
            source,
        }
    }
}
