//! What the broker keeps on the disk: retained messages, sessions and what is queued for them. It is told to write it now.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::conf::Paths;
use super::disk::FileError;
use super::process::{self, Process, ProcessError};

/// Two gigabytes, which is what mosquitto.conf allows in memory, on a slow disk.
const WRITE_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the file is not as new as it should be.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The broker could not be told.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The file cannot be looked at.
    #[error(transparent)]
    File(#[from] FileError),
    /// It ended meanwhile.
    #[error("the broker ended while it was to write its sessions")]
    Ended,
    /// It does not do it.
    #[error("the broker has not written its sessions within {WRITE_WITHIN:?}; is the disk full? Its log says")]
    Late,
}

/// Tells the broker to write everything that it holds, and waits until it has; returns whether there was a broker to tell.
/// Blocks.
///
/// The broker writes another file and gives it the name when it is whole, so another file under the name is a whole one. It
/// does nothing else meanwhile: should that be the file of a save that was under way already, then nothing came in between.
///
/// # Errors
/// See [`SaveError`].
pub fn save(broker: &Process, paths: &Paths) -> Result<bool, SaveError> {
    let Some(pid) = broker.id()? else { return Ok(false) };
    let file = paths.persistence();
    let before = version(&file)?;
    process::signal(pid, Signal::SIGUSR1)?;
    let deadline = Instant::now() + WRITE_WITHIN;
    while version(&file)? == before {
        if broker.id()? != Some(pid) {
            return Err(SaveError::Ended);
        }
        if Instant::now() > deadline {
            return Err(SaveError::Late);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}

/// Which file has the name, and when it was written; `None` where none has.
fn version(path: &Path) -> Result<Option<(u64, i64, i64)>, FileError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::at(path)(error)),
    }
}
