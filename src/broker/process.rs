//! The broker's process: whether it runs, and how it is told to read its files again.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
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
    /// In another container, beside a script that passes on what is written into this named pipe (`mosquitto/bell.sh`).
    Bell(PathBuf),
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
    /// The named pipe cannot be written to.
    #[error("the broker's bell {path} cannot be rung: {source}", path = .path.display())]
    Bell {
        /// The pipe.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
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
            Self::Bell(_) => Ok(None),
        }
    }

    /// Tells the broker to read its passwords, access lists and certificates again; no client is dropped that may stay. Returns
    /// whether there was a broker to tell.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn reload(&self) -> Result<bool, ProcessError> {
        self.tell(Signal::SIGHUP, "reload")
    }

    /// Ends the broker, which saves its sessions first. Returns whether there was one.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn end(&self) -> Result<bool, ProcessError> {
        self.tell(Signal::SIGTERM, "end")
    }

    fn tell(&self, with: Signal, word: &str) -> Result<bool, ProcessError> {
        if let Self::Bell(path) = self {
            return ring(path, word).map_err(|source| ProcessError::Bell {
                path: path.clone(),
                source,
            });
        }
        let Some(pid) = self.id()? else { return Ok(false) };
        signal(pid, with)?;
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

/// Writes a word into the pipe; returns whether there is somebody who reads it.
fn ring(path: &Path, word: &str) -> io::Result<bool> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::other("it is no named pipe"));
    }
    // Without waiting: nobody reads where there is no broker.
    match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(mut bell) => bell.write_all(format!("{word}\n").as_bytes()).map(|()| true),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this is the broker, and not another process that got the number of one that ended.
fn is_broker(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == PROGRAM)
}
