//! Takes an archive apart that may be broken, or may have been made to do harm.
//!
//! Everything goes into a folder beside the target, and is compared with the manifest on the way. Only when the last byte was
//! as it should be does that folder take the target's place.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use tar::{Archive, EntryType};

use crate::broker::digest::copy_sha256;
use crate::broker::disk::{self, FileError, PRIVATE};

use super::manifest::{Entry, Limits, Manifest, ManifestError, NAME};

/// What an archive may have behind its last entry: tar fills up with zeros to a multiple of this.
const PADDING_BYTES: u64 = 1024 * 1024;

/// Why nothing was restored. The target is as before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An entry could not be read to its end, or not be written.
    #[error("{name:?} cannot be unpacked: {source}")]
    Unpack {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no archive, or a damaged one.
    #[error("the archive cannot be read: {0}")]
    Unreadable(String),
    /// It does not begin as ours do.
    #[error("the archive does not begin with {NAME} but with {0:?}: it was not made by iotflow")]
    NoManifest(String),
    /// The manifest is none.
    #[error("{NAME} in the archive: {0}")]
    Json(#[source] serde_json::Error),
    /// The manifest is larger than any could be.
    #[error("{NAME} in the archive has {found} bytes, and {limit} are the most")]
    LargeManifest {
        /// Its length.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The manifest cannot be followed.
    #[error("{NAME} in the archive: {0}")]
    Manifest(#[from] ManifestError),
    /// An entry that the manifest does not name, which includes every name that leads elsewhere.
    #[error("{0:?} is in the archive and not in its manifest")]
    Unlisted(String),
    /// An entry came again.
    #[error("{0:?} is in the archive twice")]
    Twice(String),
    /// An entry is a link, a device or the like.
    #[error("{name:?} is {found} in the archive, where the manifest has {listed}")]
    Kind {
        /// Which.
        name: String,
        /// What it is.
        found: String,
        /// What it should be.
        listed: &'static str,
    },
    /// An entry has another length.
    #[error("{name:?} has {found} bytes in the archive and {listed} in its manifest")]
    Length {
        /// Which.
        name: String,
        /// What it has.
        found: u64,
        /// What it should have.
        listed: u64,
    },
    /// An entry has another content.
    #[error("{0:?} is not what it was when the archive was made: its digest differs from the manifest's")]
    Digest(String),
    /// Entries are not there.
    #[error("{0:?} is in the manifest and not in the archive")]
    Absent(String),
    /// There is something behind the end.
    #[error("there is something behind the end of the archive")]
    Trailing,
}

impl RestoreError {
    /// Of a damaged archive, tar's library cites bytes behind a colon where a name should be: that may be a piece of a key.
    #[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
    fn unreadable(error: io::Error) -> Self {
        let text = error.to_string();
        Self::Unreadable(text.split(':').next().unwrap_or_default().to_owned())
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the archive said of itself.
    pub manifest: Manifest,
    /// Where the folder is now that was at the target; the caller removes it when all is well, or puts it back.
    pub previous: Option<PathBuf>,
}

/// Puts what `archive` holds into the folder `target`, in the place of what is there. What is restored belongs to whoever
/// restores it.
///
/// # Errors
/// See [`RestoreError`]; then `target` is as before.
pub fn restore(archive: &Path, target: &Path, limits: &Limits) -> Result<Restored, RestoreError> {
    fs::create_dir_all(disk::parent(target)).map_err(FileError::at(target))?;
    let (new, old) = (disk::beside(target, "restoring")?, disk::beside(target, "before-restore")?);
    let file = File::open(archive).map_err(FileError::at(archive))?;
    disk::create_folder(&new, 0o700)?;
    let swapped = unpack(file, &new, limits).and_then(|manifest| {
        // The folder itself is as open as the one before.
        let mode = fs::metadata(target).map_or(0o755, |metadata| metadata.permissions().mode() & 0o777);
        fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(FileError::at(&new))?;
        let replaced = disk::swap_in(&new, target, &old)?;
        Ok(Restored {
            manifest,
            previous: replaced.then_some(old),
        })
    });
    if swapped.is_err() {
        // The error that led here matters more than one of this.
        drop(fs::remove_dir_all(&new));
    }
    swapped
}

fn unpack(file: File, into: &Path, limits: &Limits) -> Result<Manifest, RestoreError> {
    let mut archive = Archive::new(GzDecoder::new(BufReader::new(file)));
    // Raw: no entry may say something about the next one, and none is larger than its header says.
    let mut entries = archive.entries().map_err(RestoreError::unreadable)?.raw(true);
    let first = entries.next().ok_or_else(|| RestoreError::NoManifest(String::new()))?;
    let manifest = read_manifest(first.map_err(RestoreError::unreadable)?, limits)?;
    manifest.check(limits)?;

    let mut due: BTreeMap<&str, (&Entry, bool)> = manifest.entries.iter().map(|entry| (entry.name(), (entry, true))).collect();
    for entry in manifest.entries.iter().filter(|entry| matches!(entry, Entry::Folder { .. })) {
        disk::create_folder(&into.join(entry.name()), 0o700)?;
    }
    for entry in entries {
        let entry = entry.map_err(RestoreError::unreadable)?;
        let name = name_of(&entry);
        let (listed, is_due) = due.get_mut(name.as_str()).ok_or_else(|| RestoreError::Unlisted(name.clone()))?;
        if !std::mem::take(is_due) {
            return Err(RestoreError::Twice(name));
        }
        take(entry, &name, listed, into)?;
    }
    if let Some((name, _)) = due.iter().find(|(_, (_, is_due))| *is_due) {
        return Err(RestoreError::Absent((*name).to_owned()));
    }
    read_to_the_end(archive.into_inner())?;
    finish_folders(&manifest, into)?;
    Ok(manifest)
}

fn read_manifest(mut entry: tar::Entry<'_, impl Read>, limits: &Limits) -> Result<Manifest, RestoreError> {
    let name = name_of(&entry);
    if name != NAME || entry.header().entry_type() != EntryType::Regular {
        return Err(RestoreError::NoManifest(name));
    }
    let (found, limit) = (entry.size(), limits.manifest_bytes());
    if found > limit {
        return Err(RestoreError::LargeManifest { found, limit });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(RestoreError::unreadable)?;
    serde_json::from_slice(&bytes).map_err(RestoreError::Json)
}

/// A name as it stands in the archive; the slash that ends a folder's is not part of it.
fn name_of(entry: &tar::Entry<'_, impl Read>) -> String {
    let bytes = entry.path_bytes();
    let name = String::from_utf8_lossy(&bytes);
    match entry.header().entry_type() {
        EntryType::Directory => name.strip_suffix('/').unwrap_or(&name).to_owned(),
        _ => name.into_owned(),
    }
}

fn take(mut entry: tar::Entry<'_, impl Read>, name: &str, listed: &Entry, into: &Path) -> Result<(), RestoreError> {
    let kind = entry.header().entry_type();
    let (mode, bytes, expected) = match (listed, kind) {
        (Entry::Folder { .. }, EntryType::Directory) => (0, 0, None),
        (Entry::File { mode, bytes, sha256, .. }, EntryType::Regular) => (*mode, *bytes, Some(sha256)),
        _ => {
            return Err(RestoreError::Kind {
                name: name.to_owned(),
                found: describe(kind),
                listed: if matches!(listed, Entry::File { .. }) {
                    "a file"
                } else {
                    "a folder"
                },
            });
        }
    };
    if entry.size() != bytes {
        return Err(RestoreError::Length {
            name: name.to_owned(),
            found: entry.size(),
            listed: bytes,
        });
    }
    let Some(expected) = expected else { return Ok(()) };
    let path = into.join(name);
    let at = || FileError::at(&path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&path)
        .map_err(at())?;
    let (found, digest) = copy_sha256(&mut entry, &mut file).map_err(|source| RestoreError::Unpack {
        name: name.to_owned(),
        source,
    })?;
    if (found, &digest) != (bytes, expected) {
        return Err(RestoreError::Digest(name.to_owned()));
    }
    file.set_permissions(Permissions::from_mode(mode)).map_err(at())?;
    Ok(file.sync_all().map_err(at())?)
}

/// The check sum of gzip is behind the last byte, so that is read too; and what is behind it says that this is two things.
fn read_to_the_end(mut decoder: GzDecoder<BufReader<File>>) -> Result<(), RestoreError> {
    let mut rest = Vec::new();
    decoder
        .by_ref()
        .take(PADDING_BYTES + 1)
        .read_to_end(&mut rest)
        .map_err(RestoreError::unreadable)?;
    let padded = u64::try_from(rest.len()).is_ok_and(|bytes| bytes <= PADDING_BYTES) && rest.iter().all(|byte| *byte == 0);
    let ended = decoder.get_mut().fill_buf().map_err(RestoreError::unreadable)?.is_empty();
    if padded && ended { Ok(()) } else { Err(RestoreError::Trailing) }
}

/// Folders get their modes last, the innermost first: a folder without the right to write takes no more files.
fn finish_folders(manifest: &Manifest, into: &Path) -> Result<(), FileError> {
    for entry in manifest.entries.iter().rev() {
        if let Entry::Folder { name, mode } = entry {
            let path = into.join(name);
            disk::sync_folder(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(*mode)).map_err(FileError::at(&path))?;
        }
    }
    disk::sync_folder(into)
}

fn describe(kind: EntryType) -> String {
    match kind {
        EntryType::Regular => "a file".to_owned(),
        EntryType::Directory => "a folder".to_owned(),
        EntryType::Symlink => "a symbolic link".to_owned(),
        EntryType::Link => "a hard link".to_owned(),
        EntryType::Block | EntryType::Char => "a device".to_owned(),
        EntryType::Fifo => "a pipe".to_owned(),
        other => format!("an entry of kind {:?}", char::from(other.as_byte())),
    }
}
