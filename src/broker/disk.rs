//! Files and folders that are there whole or not at all, whatever happens meanwhile, and a lock that one process holds.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Nobody but the owner reads it: keys, archives.
pub const PRIVATE: u32 = 0o600;
/// Everybody may read it: certificates, lists of what is revoked.
pub const PUBLIC: u32 = 0o644;
/// What stands behind the name of a file that is to replace another.
pub const STAGED: &str = ".new";

/// How long another process's work is waited for. It is a matter of milliseconds, unless that process hangs.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A file or folder could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}", path = .path.display())]
pub struct FileError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: puts the path beside what the system says.
    pub fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        |source| Self { path, source }
    }
}

/// Why a folder is not ours alone.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It cannot be opened or locked at all.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process holds it.
    #[error("{path}: another process has been at work there for {LOCK_WITHIN:?}; try again when it has ended", path = .0.display())]
    Busy(PathBuf),
}

/// The name under which the successor of `path` waits.
#[must_use]
pub fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(STAGED);
    PathBuf::from(name)
}

/// Writes a file that was not there, down to the disk, with exactly this mode and, where one is named, this owner.
///
/// # Errors
/// [`FileError`]; also where something has that name already.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    let write = || {
        // Nobody reads a secret in the moment before it has its mode.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(path)?;
        file.write_all(bytes)?;
        if let Some((uid, gid)) = owner {
            chown(path, Some(uid), Some(gid))?;
        }
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(FileError::at(path))
}

/// Writes what is to replace `path` beside it. It counts after [`promote`] only.
///
/// # Errors
/// [`FileError`].
pub fn stage(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    let staged = staged(path);
    remove_if_there(&staged)?;
    write_new(&staged, bytes, mode, owner)
}

/// Puts what [`stage`] wrote into place. The folder's entry is on the disk after [`sync_folder`].
///
/// # Errors
/// [`FileError`].
pub fn promote(path: &Path) -> Result<(), FileError> {
    fs::rename(staged(path), path).map_err(FileError::at(path))
}

/// Replaces `path`: whoever reads it, also after a crash, sees the old bytes or the new ones.
///
/// # Errors
/// [`FileError`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    stage(path, bytes, mode, owner)?;
    promote(path)?;
    sync_folder(parent(path))
}

/// Makes a folder that was not there, with exactly this mode.
///
/// # Errors
/// [`FileError`]; also where something has that name already.
pub fn create_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    let create = || {
        DirBuilder::new().mode(0o700).create(path)?;
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    create().map_err(FileError::at(path))
}

/// Brings the names in a folder to the disk: a rename is not there before.
///
/// # Errors
/// [`FileError`].
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(FileError::at(path))
}

/// The folder that holds `path`.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// A name beside `path` that nobody has, on the same disk and therefore one rename away.
///
/// # Errors
/// [`FileError`] where `path` has no name of its own, or the system no randomness.
pub fn beside(path: &Path, what: &str) -> Result<PathBuf, FileError> {
    let name = path
        .file_name()
        .ok_or_else(|| FileError::at(path)(io::Error::other("a folder with a name of its own is expected")))?;
    let random = getrandom::u64().map_err(|error| FileError::at(path)(error.into()))?;
    Ok(parent(path).join(format!(".{}.{what}-{random:016x}", name.to_string_lossy())))
}

/// Puts the folder `new` where `target` is; what was there is at `old` afterwards, or was not there if this says so. A crash
/// leaves the old folder or the new one at `target`.
///
/// # Errors
/// [`FileError`]; then `target` is as before.
pub fn swap_in(new: &Path, target: &Path, old: &Path) -> Result<bool, FileError> {
    let at = FileError::at(target);
    let there = fs::symlink_metadata(target).is_ok();
    if !there {
        fs::rename(new, target).map_err(at)?;
    } else if exchange(new, target) {
        if let Err(error) = fs::rename(new, old) {
            exchange(new, target);
            return Err(FileError::at(old)(error));
        }
    } else {
        // Some file systems cannot exchange. Then there is a moment without either, and a way back from it.
        fs::rename(target, old).map_err(FileError::at(target))?;
        if let Err(error) = fs::rename(new, target) {
            fs::rename(old, target).map_err(FileError::at(old))?;
            return Err(at(error));
        }
    }
    sync_folder(parent(target))?;
    Ok(there)
}

fn exchange(one: &Path, other: &Path) -> bool {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).is_ok()
}

/// Takes the lock of a folder, which lives as long as the file returned. It is on the folder itself, so no further file lies
/// about, and none outlives a killed process.
///
/// # Errors
/// [`LockError`].
pub fn lock(folder: &Path) -> Result<File, LockError> {
    let deadline = Instant::now() + LOCK_WITHIN;
    loop {
        let file = File::open(folder).map_err(FileError::at(folder))?;
        match file.try_lock() {
            Ok(()) => {
                // Whoever held it may have put another folder into its place.
                let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
                let (locked, named) = (file.metadata(), fs::metadata(folder));
                if same(&locked.map_err(FileError::at(folder))?, &named.map_err(FileError::at(folder))?) {
                    return Ok(file);
                }
            }
            Err(TryLockError::Error(error)) => return Err(FileError::at(folder)(error).into()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => return Err(LockError::Busy(folder.to_owned())),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_AGAIN_AFTER),
        }
    }
}

/// Removes a file, if it is there.
///
/// # Errors
/// [`FileError`].
pub fn remove_if_there(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_its_mode_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let path = folder.path().join("key");
        fs::write(staged(&path), "left behind by a crash").expect("it is ours");
        for bytes in [b"one", b"two"] {
            replace(&path, bytes, PRIVATE, None).expect("it is ours");
            assert_eq!(fs::read(&path).expect("it is there"), bytes);
        }
        assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, PRIVATE);
        assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 1);
    }

    #[test]
    fn folders_change_places() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let path = |name: &str| folder.path().join(name);
        let make = |name: &str| fs::create_dir(path(name)).and_then(|()| fs::write(path(name).join("file"), name));
        let content = |name: &str| fs::read_to_string(path(name).join("file")).ok();
        make("first").expect("it is ours");
        assert!(!swap_in(&path("first"), &path("target"), &path("old")).expect("it is ours"));
        make("second").expect("it is ours");
        assert!(swap_in(&path("second"), &path("target"), &path("old")).expect("it is ours"));
        assert_eq!(content("target").as_deref(), Some("second"));
        assert_eq!(content("old").as_deref(), Some("first"));
        assert!(swap_in(&path("nothing"), &path("target"), &path("elsewhere")).is_err());
        assert_eq!(content("target").as_deref(), Some("second"));
    }

    #[test]
    fn a_lock_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let held = lock(folder.path()).expect("nobody holds it");
        let second = File::open(folder.path()).expect("it is there");
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        assert!(second.try_lock().is_ok());
    }
}
