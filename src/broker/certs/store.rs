//! The folder on disk: one commit at a time, which is there whole or not at all.
//!
//! A commit writes its files beside those they replace, then replaces the index, then renames them into place. The index is
//! where it happens: before, nothing is different; after, whoever opens the folder finishes the renames first. In the other
//! order a crash could leave a certificate that no index knows and that nobody can revoke, or a revocation that the next
//! list, which is made from the index, would take back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::broker::digest::sha256;
use crate::broker::disk::{self, FileError, PRIVATE, PUBLIC};

use super::error::AuthorityError;
use super::index::{FORMAT, Index, Written};

const INDEX: &str = "issued.json";
/// Where the devices' certificates and keys are.
pub(super) const DEVICES: &str = "devices";
/// The folder can be entered by the broker; the devices' keys are nobody's business there.
const FOLDER_MODE: u32 = 0o755;
const DEVICES_MODE: u32 = 0o700;

/// A file of a commit, by its name from the authority's folder.
pub(super) struct Write {
    pub(super) file: String,
    pub(super) text: String,
    pub(super) mode: u32,
    pub(super) owner: Option<(u32, u32)>,
}

impl Write {
    pub(super) fn public(file: &str, text: String) -> Self {
        Self {
            file: file.to_owned(),
            text,
            mode: PUBLIC,
            owner: None,
        }
    }

    pub(super) fn private(file: &str, text: String, owner: Option<(u32, u32)>) -> Self {
        Self {
            file: file.to_owned(),
            text,
            mode: PRIVATE,
            owner,
        }
    }
}

/// The folder, ours alone as long as this lives.
pub(super) struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Takes the folder and finishes what a crash left half done.
    pub(super) fn open(folder: &Path) -> Result<(Self, Index), AuthorityError> {
        if !holds_authority(folder) {
            return Err(AuthorityError::None(folder.to_owned()));
        }
        let store = Self {
            folder: folder.to_owned(),
            _lock: disk::lock(folder)?,
        };
        let index = read_index(folder)?;
        store.finish(&index)?;
        Ok((store, index))
    }

    /// Makes the folder with its first files, all at once. What was there before goes, if `replace` says so.
    pub(super) fn create(folder: &Path, writes: Vec<Write>, mut index: Index, replace: bool) -> Result<(), AuthorityError> {
        fs::create_dir_all(disk::parent(folder)).map_err(FileError::at(folder))?;
        let _lock = folder.exists().then(|| disk::lock(folder)).transpose()?;
        let replaces = holds_authority(folder);
        if replaces && !replace {
            return Err(would_be_lost(folder)?);
        }
        if !replaces && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(AuthorityError::NotEmpty(folder.to_owned()));
        }
        let new = disk::beside(folder, "new")?;
        let made = fill(&new, &writes, &mut index).and_then(|()| put_into_place(&new, folder, replaces));
        if made.is_err() {
            // A key that nobody uses must not lie about; the error that led here matters more than one of this.
            drop(fs::remove_dir_all(&new));
        }
        Ok(made?)
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn read(&self, file: &str) -> Result<String, FileError> {
        let path = self.path(file);
        fs::read_to_string(&path).map_err(FileError::at(&path))
    }

    /// Makes `index` and `writes` what counts, and returns the paths of the files.
    pub(super) fn commit(&self, index: &mut Index, writes: &[Write]) -> Result<Vec<PathBuf>, AuthorityError> {
        index.last_commit.clear();
        for write in writes {
            disk::stage(&self.path(&write.file), write.text.as_bytes(), write.mode, write.owner)?;
            index.last_commit.push(Written {
                file: write.file.clone(),
                sha256: sha256(write.text.as_bytes()),
            });
        }
        self.sync(writes.iter().map(|write| write.file.as_str()))?;
        disk::replace(&self.path(INDEX), &index_bytes(index), PUBLIC, None)?;
        for write in writes {
            disk::promote(&self.path(&write.file))?;
        }
        self.sync(writes.iter().map(|write| write.file.as_str()))?;
        Ok(writes.iter().map(|write| self.path(&write.file)).collect())
    }

    fn sync<'a>(&self, files: impl Iterator<Item = &'a str>) -> Result<(), FileError> {
        let folders: BTreeSet<PathBuf> = files.map(|file| disk::parent(&self.path(file)).to_owned()).collect();
        folders.iter().try_for_each(|folder| disk::sync_folder(folder))
    }

    fn finish(&self, index: &Index) -> Result<(), AuthorityError> {
        for Written { file, sha256: expected } in &index.last_commit {
            let path = self.path(file);
            if fs::read(disk::staged(&path)).is_ok_and(|bytes| sha256(&bytes) == *expected) {
                disk::promote(&path)?;
                disk::sync_folder(disk::parent(&path))?;
            }
        }
        // What is left is of a commit that never happened.
        for folder in [self.folder.clone(), self.path(DEVICES)] {
            for entry in fs::read_dir(&folder).map_err(FileError::at(&folder))? {
                let path = entry.map_err(FileError::at(&folder))?.path();
                if path.to_string_lossy().ends_with(disk::STAGED) {
                    disk::remove_if_there(&path)?;
                }
            }
        }
        Ok(())
    }
}

fn fill(new: &Path, writes: &[Write], index: &mut Index) -> Result<(), FileError> {
    disk::create_folder(new, FOLDER_MODE)?;
    disk::create_folder(&new.join(DEVICES), DEVICES_MODE)?;
    for write in writes {
        disk::write_new(&new.join(&write.file), write.text.as_bytes(), write.mode, write.owner)?;
    }
    index.last_commit.clear();
    disk::write_new(&new.join(INDEX), &index_bytes(index), PUBLIC, None)?;
    disk::sync_folder(new)
}

fn put_into_place(new: &Path, folder: &Path, replaces: bool) -> Result<(), FileError> {
    if replaces {
        let old = disk::beside(folder, "old")?;
        disk::swap_in(new, folder, &old)?;
        return fs::remove_dir_all(&old).map_err(FileError::at(&old));
    }
    // Of two that find nothing and make an authority at the same time, the second fails here: a folder that is not empty is
    // never renamed over.
    fs::rename(new, folder).map_err(FileError::at(folder))?;
    disk::sync_folder(disk::parent(folder))
}

/// The file of a device's certificate or key. A name with a dot in front would be hidden, and one with a dash would be taken
/// for an option by whoever writes `rm *`: there the first character is written as in a URL. No device id has a `%`, so no
/// two ids share a file.
pub(super) fn device_file(id: &str, extension: &str) -> String {
    let name = match id.as_bytes().first() {
        Some(first @ (b'.' | b'-')) => format!("%{first:02X}{}", &id[1..]),
        _ => id.to_owned(),
    };
    format!("{DEVICES}/{name}.{extension}")
}

fn holds_authority(folder: &Path) -> bool {
    folder.join(INDEX).exists()
}

fn would_be_lost(folder: &Path) -> Result<AuthorityError, AuthorityError> {
    let index = read_index(folder)?;
    let now = jiff::Timestamp::now();
    let issued = index.certificates.iter().filter(|record| record.is_good(now)).count();
    Ok(AuthorityError::Exists {
        folder: folder.to_owned(),
        common_name: index.authority().map(|record| record.common_name.clone()).unwrap_or_default(),
        good: issued.saturating_sub(1),
    })
}

fn read_index(folder: &Path) -> Result<Index, AuthorityError> {
    let path = folder.join(INDEX);
    let bytes = fs::read(&path).map_err(FileError::at(&path))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|source| AuthorityError::Index {
        path: path.clone(),
        source,
    })?;
    if index.format == FORMAT {
        Ok(index)
    } else {
        Err(AuthorityError::Format { path, found: index.format })
    }
}

fn index_bytes(index: &Index) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(index).expect("names are strings, and nothing else can fail");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::device_file;

    #[test]
    fn no_device_escapes_hides_or_looks_like_an_option() {
        for (id, file) in [
            ("pump-1", "devices/pump-1.pem"),
            ("aa:bb:cc", "devices/aa:bb:cc.pem"),
            (".", "devices/%2E.pem"),
            ("..", "devices/%2E..pem"),
            (".hidden", "devices/%2Ehidden.pem"),
            ("-rf", "devices/%2Drf.pem"),
            ("a.pem", "devices/a.pem.pem"),
        ] {
            assert_eq!(device_file(id, "pem"), file);
        }
    }
}
