//! The broker's process: whether it runs, and how it is told to read its files again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The name under which the system lists the broker.
const PROGRAM: &str = "mosquitto";

/// Where the broker's process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Process {
    /// On this machine, its id in this file.
    File(PathBuf),
    /// The one process of that name that can be seen from here, as from a container that shares the broker's.
    Named,
    /// The service `mosquitto` of the Compose file in this folder.
    Compose(PathBuf),
}

/// Why the broker could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The system said no.
    #[error("the broker (process {pid}) cannot be signalled: {source}")]
    Signal {
        /// The process.
        pid: i32,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// There is more than one.
    #[error("several processes are called mosquitto ({0:?}); which is meant cannot be told")]
    Several(Vec<i32>),
    /// `docker` cannot be run.
    #[error("docker compose cannot be run: {0}")]
    Compose(io::Error),
    /// `docker` said no.
    #[error("docker compose: {0}")]
    Refused(String),
}

impl Process {
    /// The broker's process id, where it runs and can be seen.
    ///
    /// # Errors
    /// [`ProcessError::Several`].
    pub fn id(&self) -> Result<Option<i32>, ProcessError> {
        match self {
            Self::File(path) => Ok(fs::read_to_string(path)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .filter(|pid| is_broker(*pid))),
            Self::Named => {
                let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
                let pids: Vec<i32> = entries
                    .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                    .filter(|pid| is_broker(*pid))
                    .collect();
                match pids[..] {
                    [] => Ok(None),
                    [pid] => Ok(Some(pid)),
                    _ => Err(ProcessError::Several(pids)),
                }
            }
            Self::Compose(_) => Ok(None),
        }
    }

    /// Tells the broker to read its passwords, access lists and certificates again; no client is dropped that may stay. Returns
    /// whether there was a broker to tell.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn reload(&self) -> Result<bool, ProcessError> {
        if let Self::Compose(folder) = self {
            return compose(folder, &["kill", "--signal", "SIGHUP", PROGRAM]).map(|_| true);
        }
        let Some(pid) = self.id()? else { return Ok(false) };
        signal(pid, Signal::SIGHUP)?;
        Ok(true)
    }
}

/// Sends `signal` to the process.
///
/// # Errors
/// [`ProcessError::Signal`].
pub fn signal(pid: i32, signal: Signal) -> Result<(), ProcessError> {
    kill(Pid::from_raw(pid), signal).map_err(|source| ProcessError::Signal {
        pid,
        source: source.into(),
    })
}

/// Runs `docker compose` in `folder`, and returns what it printed.
///
/// # Errors
/// [`ProcessError::Compose`], [`ProcessError::Refused`].
pub fn compose(folder: &Path, arguments: &[&str]) -> Result<String, ProcessError> {
    let output = Command::new("docker")
        .arg("compose")
        .args(arguments)
        .current_dir(folder)
        .output()
        .map_err(ProcessError::Compose)?;
    if !output.status.success() {
        return Err(ProcessError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this is the broker, and not another process that got the number of one that ended.
fn is_broker(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == PROGRAM)
}
