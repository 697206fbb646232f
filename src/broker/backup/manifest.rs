//! `manifest.json`: what an archive holds. It is checked on its own before anything that it names is looked at.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The manifest's name, and the archive's first entry.
pub const NAME: &str = "manifest.json";
/// The form of archive that this version writes and reads.
pub(super) const FORMAT: u32 = 1;
/// Permissions alone: neither set-user-id nor its like comes out of an archive.
const MODES: u32 = 0o777;

/// How much an archive may hold. A backup of a broker with a hundred thousand devices is far below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files and folders.
    pub entries: usize,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 500_000,
            // The broker's queue on the disk is the largest: mosquitto.conf bounds its memory to two of these.
            bytes: 8 * 1024 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// The most bytes a manifest of so many entries has.
    pub(super) fn manifest_bytes(&self) -> u64 {
        let entries = u64::try_from(self.entries).unwrap_or(u64::MAX);
        entries.saturating_mul(512).saturating_add(4096)
    }
}

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Entry {
    /// A folder.
    Folder {
        /// Its name, with slashes, below the target.
        name: String,
        /// Its permissions.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Its name, with slashes, below the target.
        name: String,
        /// Its permissions.
        mode: u32,
        /// Its length.
        bytes: u64,
        /// The digest of its bytes.
        sha256: String,
    },
}

impl Entry {
    /// Its name, with slashes, below the target.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Folder { name, .. } | Self::File { name, .. } => name,
        }
    }

    fn mode(&self) -> u32 {
        match self {
            Self::Folder { mode, .. } | Self::File { mode, .. } => *mode,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Folder { .. } => 0,
            Self::File { bytes, .. } => *bytes,
        }
    }
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the archive.
    pub format: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// By which version of iotflow.
    pub version: String,
    /// Everything else in it, folders before what they hold.
    pub entries: Vec<Entry>,
}

/// Why a manifest cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is of another version.
    #[error("the archive has format {0}, and this version knows {FORMAT}")]
    Format(u32),
    /// It names too much.
    #[error("it names {found} entries, and {limit} are the most")]
    TooMany {
        /// How many.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// What it names is too large.
    #[error("its files have more than {0} bytes together, which are the most")]
    TooLarge(u64),
    /// A name leads elsewhere, or nowhere.
    #[error("{0:?}: the name is not one below the target: no leading slash, no empty part, no `.` or `..` is expected")]
    Name(String),
    /// A name stands there twice.
    #[error("{0:?}: the name stands there twice")]
    Twice(String),
    /// Something is in what is no folder.
    #[error("{0:?}: the folder that holds it does not stand before it")]
    Orphan(String),
    /// More than permissions.
    #[error("{name:?}: the mode {mode:o} is more than permissions")]
    Mode {
        /// Whose.
        name: String,
        /// The mode.
        mode: u32,
    },
}

impl Manifest {
    /// Everything that can be known without the entries themselves.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn check(&self, limits: &Limits) -> Result<(), ManifestError> {
        if self.format != FORMAT {
            return Err(ManifestError::Format(self.format));
        }
        if self.entries.len() > limits.entries {
            return Err(ManifestError::TooMany {
                found: self.entries.len(),
                limit: limits.entries,
            });
        }
        let total = self.entries.iter().try_fold(0_u64, |total, entry| total.checked_add(entry.bytes()));
        if total.is_none_or(|total| total > limits.bytes) {
            return Err(ManifestError::TooLarge(limits.bytes));
        }
        let mut seen: BTreeMap<&str, bool> = BTreeMap::new();
        for entry in &self.entries {
            let name = entry.name();
            if !is_below(name) || name == NAME {
                return Err(ManifestError::Name(name.to_owned()));
            }
            if entry.mode() & !MODES != 0 {
                return Err(ManifestError::Mode {
                    name: name.to_owned(),
                    mode: entry.mode(),
                });
            }
            if let Some((folder, _)) = name.rsplit_once('/')
                && seen.get(folder) != Some(&true)
            {
                return Err(ManifestError::Orphan(name.to_owned()));
            }
            if seen.insert(name, matches!(entry, Entry::Folder { .. })).is_some() {
                return Err(ManifestError::Twice(name.to_owned()));
            }
        }
        Ok(())
    }
}

/// Whether a name stays below the folder it is joined to.
pub(super) fn is_below(name: &str) -> bool {
    name.split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0') && !part.contains('\\'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    proptest! {
        #[test]
        fn no_name_that_passes_leaves_the_target(name in "[./a\\\\]{0,12}") {
            let plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
            prop_assert!(!is_below(&name) || (plain && !name.is_empty()), "{name:?}");
        }
    }

    #[test]
    fn names_are_plain_or_refused() {
        for good in ["a", "a/b", "a/.hidden", "a/..b", "aa:bb", "%2E."] {
            assert!(is_below(good), "{good:?}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0", "a\\..\\b"] {
            assert!(!is_below(bad), "{bad:?}");
        }
    }
}
