//! Who the servers run as: PostgreSQL refuses root, so root lends them an account without rights.

use std::io;
use std::os::unix::fs::chown;
use std::path::Path;

use nix::unistd::{Gid, Uid, User};

/// Accounts that root may lend, in order of preference.
const LENT: [&str; 2] = ["postgres", "nobody"];

/// The account that servers run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    lent: bool,
}

impl Account {
    /// Our own, or for root one of [`LENT`].
    ///
    /// # Errors
    /// When root finds none of them.
    pub fn for_servers() -> io::Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self::current());
        }
        let lent = LENT.iter().find_map(|name| User::from_name(name).ok().flatten());
        let user = lent.ok_or_else(|| {
            io::Error::other("PostgreSQL does not run as root, and there is neither an account `postgres` nor `nobody` to run it as")
        })?;
        Ok(Self {
            uid: user.uid,
            gid: user.gid,
            lent: true,
        })
    }

    /// Our own, whoever we are.
    #[must_use]
    pub fn current() -> Self {
        Self {
            uid: Uid::effective(),
            gid: Gid::effective(),
            lent: false,
        }
    }

    /// The ids for `setpriv`, where they are not our own.
    #[must_use]
    pub fn lent(&self) -> Option<(u32, u32)> {
        self.lent.then(|| (self.uid.as_raw(), self.gid.as_raw()))
    }

    /// Gives `path` to the account.
    ///
    /// # Errors
    /// The system's.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        if self.lent {
            chown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
        } else {
            Ok(())
        }
    }

    /// Makes `path` a folder that only the account can enter.
    ///
    /// # Errors
    /// The system's.
    pub fn create_folder(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        if !path.exists() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        self.own(path)
    }

    /// Makes `path` a folder that is ours and that the account can pass through: what is given to the account lies in it, and
    /// cannot be put elsewhere, or be made a link to something of ours, by whoever has the account.
    ///
    /// # Errors
    /// The system's; also where `path` is there and is no folder of ours.
    pub fn create_passage(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
        let mode = if self.lent { 0o711 } else { 0o700 };
        match std::fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            made => drop(made),
        }
        let found = std::fs::symlink_metadata(path)?;
        if !found.is_dir() || found.uid() != Uid::effective().as_raw() {
            let why = format!("{} is there, and is no folder of ours", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    }

    /// Writes a file that the account can read and not change.
    ///
    /// # Errors
    /// The system's.
    pub fn share_file(&self, path: &Path, text: &str) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        write_private(path, text)?;
        if self.lent {
            chown(path, None, Some(self.gid.as_raw()))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640))?;
        }
        Ok(())
    }

    /// Writes a file that only the account can read.
    ///
    /// # Errors
    /// The system's.
    pub fn write_file(&self, path: &Path, text: &str) -> io::Result<()> {
        write_private(path, text)?;
        self.own(path)
    }

    /// Whether the account can reach `path` from the root folder: each folder above it must let it pass.
    #[must_use]
    pub fn can_reach(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        !self.lent
            || path.ancestors().skip(1).all(|folder| {
                std::fs::metadata(folder).is_ok_and(|metadata| {
                    metadata.mode() & 0o001 != 0
                        || (metadata.uid() == self.uid.as_raw() && metadata.mode() & 0o100 != 0)
                        || (metadata.gid() == self.gid.as_raw() && metadata.mode() & 0o010 != 0)
                })
            })
    }
}

/// Writes a file that only its owner can read, whatever was there.
///
/// # Errors
/// The system's.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if path.exists() {
        std::fs::remove_file(path)?;
    }
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}
