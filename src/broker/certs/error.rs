//! Why the authority did not do what it was asked for.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::broker::disk::{FileError, LockError};

use super::index::Which;

/// Why the authority did not do what it was asked for. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process is at work in the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no authority.
    #[error("{path}: there is no certificate authority; `iotflow broker certs ca` makes one", path = .0.display())]
    None(PathBuf),
    /// There is one already.
    #[error(
        "{folder}: the authority {common_name:?} is there already; replacing it destroys its key, and the {good} certificates \
         it issued that are still good are refused from then on, so that every device needs a new one",
        folder = .folder.display()
    )]
    Exists {
        /// Where.
        folder: PathBuf,
        /// Whose.
        common_name: String,
        /// How many certificates would be lost.
        good: usize,
    },
    /// The folder holds something else.
    #[error("{path}: the folder holds files and no certificate authority; an empty folder, or a new one, is expected", path = .0.display())]
    NotEmpty(PathBuf),
    /// The index cannot be read.
    #[error("{path}: this is no index of certificates: {source}", path = .path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The index is of another version.
    #[error("{path}: the index has format {found}, which this version does not know", path = .path.display())]
    Format {
        /// The index.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The index lacks the authority's own certificate.
    #[error("{path}: the index does not hold the authority's own certificate", path = .0.display())]
    Headless(PathBuf),
    /// The key is not the authority's.
    #[error("{path}: this is not the key of the authority beside it", path = .0.display())]
    WrongKey(PathBuf),
    /// What was to be signed, or the key, is not sound.
    #[error("the certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    /// No random numbers.
    #[error("the operating system has no randomness to give: {0}")]
    Randomness(#[from] getrandom::Error),
    /// No name for an authority.
    #[error("{0:?} cannot be an authority's name; 1 to 64 printable characters are expected")]
    CommonName(String),
    /// No name for a server.
    #[error("{0:?} is neither an address nor a host name, of which the first has at most 64 characters and every other 253")]
    ServerName(String),
    /// No name at all.
    #[error("a server's certificate needs at least one host name or address")]
    NoServerName,
    /// No sensible span.
    #[error("a certificate's validity lies between one second and the year 9999")]
    Validity,
    /// The authority ends first.
    #[error("it would be valid until {wanted}, but the authority ends on {authority}: renew the authority first, or ask for less")]
    Outlives {
        /// When the new certificate was to end.
        wanted: Timestamp,
        /// When the authority does.
        authority: Timestamp,
    },
    /// The device has one.
    #[error("device {device} has a certificate that is good until {until}: renew it, or revoke it first if its key was lost")]
    HasOne {
        /// Which device.
        device: String,
        /// Until when.
        until: Timestamp,
    },
    /// There is none.
    #[error("there is no certificate of {0}")]
    Unknown(Which),
    /// It is revoked, and stays so.
    #[error("the certificate of {0} is revoked: issue a new one")]
    Revoked(Which),
    /// There is none that is still good.
    #[error("no certificate of {0} is still good: there is nothing to revoke")]
    NothingToRevoke(Which),
    /// The authority's own certificate was to be revoked.
    #[error("an authority cannot revoke itself: replace it with a new one, and give every device a new certificate")]
    RevokesItself,
}
