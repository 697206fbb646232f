//! Where the sets of the broker's files stand, and how they change places.
//!
//! ```text
//! AccessSet ──► access.next/ ──exchange──► access/ (what the broker reads)
//!                                          access.last/ (the last that was proven)   access.refused/
//! ```
//!
//! A set is a folder, and two folders change places in one step of the file system (`renameat2` with `RENAME_EXCHANGE`). Whenever
//! the writer is killed, or the disk is full, `access/` is one set or the other, and whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::observe::secret::Secret;

use super::access_set::{ACL_DEVICES, AccessSet, AccessSetError, CANARY, Canary, MEMBERS};
use super::acl;
use super::conf::Paths;
use super::disk::{self, FileError};

/// Is there once the set was proven.
const PROVEN: &str = "proven";

/// The place of the sets of one broker.
#[derive(Debug, Clone)]
pub struct Shelf {
    paths: Paths,
    group: Option<u32>,
}

/// Held while the set is changed: two writers would take each other's work for their own.
#[derive(Debug)]
pub struct Locked(#[expect(dead_code, reason = "held, and let go when dropped")] File);

impl Shelf {
    /// The sets of the broker at `paths`, which reads them as a member of the group of `account` (user and group), unless it
    /// runs as we do.
    #[must_use]
    pub fn new(paths: Paths, account: Option<(u32, u32)>) -> Self {
        Self {
            paths,
            group: account.map(|(_, group)| group),
        }
    }

    /// Waits until no other process changes the set. Blocks.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn lock(&self) -> Result<Locked, AccessSetError> {
        Ok(Locked(disk::lock(&self.paths.folder)?))
    }

    /// Writes `set` beside the one in place, and changes their places.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn put(&self, _locked: &Locked, set: &AccessSet) -> Result<(), AccessSetError> {
        set.validate()?;
        let (access, next, last) = (self.paths.access(), self.beside("next"), self.beside("last"));
        if next.join(PROVEN).exists() {
            // Killed after the exchange: this was in place, and is the last that was proven.
            remove(&last)?;
            fs::rename(&next, &last).map_err(FileError::at(&last))?;
        }
        remove(&next)?;
        // Ours, so that whoever has the broker's account cannot put other files into it; the broker passes through and reads.
        let (folder_mode, file_mode, owner) = match self.group {
            None => (0o700, disk::PRIVATE, None),
            Some(group) => (0o711, 0o640, Some((Uid::effective().as_raw(), group))),
        };
        disk::create_folder(&next, folder_mode)?;
        for (name, text) in set.files() {
            disk::write_new(&next.join(name), text.as_bytes(), file_mode, owner)?;
        }
        disk::sync_folder(&next)?;
        // What was never proven is nothing to go back to.
        let old = if access.join(PROVEN).exists() {
            last
        } else {
            self.beside("refused")
        };
        remove(&old)?;
        disk::swap_in(&next, &access, &old)?;
        Ok(())
    }

    /// Notes that the set in place was proven: from now on it can be gone back to.
    ///
    /// # Errors
    /// The file system's.
    pub fn mark_proven(&self, _locked: &Locked) -> Result<(), AccessSetError> {
        let mark = self.paths.access().join(PROVEN);
        if !mark.exists() {
            disk::write_new(&mark, b"", disk::PRIVATE, None)?;
        }
        Ok(())
    }

    /// Names whose sessions are still to be ended.
    #[must_use]
    pub fn owing(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.beside("owing")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Keeps these names, whose sessions are to be ended, from one attempt to the next.
    ///
    /// # Errors
    /// The file system's.
    pub fn owe(&self, _locked: &Locked, names: &BTreeSet<String>) -> Result<(), AccessSetError> {
        let path = self.beside("owing");
        if names.is_empty() {
            return Ok(disk::remove_if_there(&path)?);
        }
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        Ok(disk::replace(&path, text.as_bytes(), disk::PRIVATE, None)?)
    }

    /// Puts the set back that was the last proven one; the one it takes away is kept as `access.refused`.
    ///
    /// # Errors
    /// [`AccessSetError::NoEarlier`], or the file system's.
    pub fn take_back(&self, _locked: &Locked) -> Result<(), AccessSetError> {
        let (last, refused) = (self.beside("last"), self.beside("refused"));
        if !last.exists() {
            return Err(AccessSetError::NoEarlier(last));
        }
        remove(&refused)?;
        disk::swap_in(&last, &self.paths.access(), &refused)?;
        Ok(())
    }

    /// The canary of the set in place.
    ///
    /// # Errors
    /// The file system's.
    pub fn canary(&self) -> Result<Canary, AccessSetError> {
        let path = self.paths.access().join(CANARY);
        let text = fs::read_to_string(&path).map_err(FileError::at(&path))?;
        let [name, password, allowed, refused] = text.lines().collect::<Vec<_>>()[..] else {
            let expected = io::Error::other("four lines are expected: name, password, two topics");
            return Err(FileError::at(&path)(expected).into());
        };
        Ok(Canary {
            name: name.to_owned(),
            password: Secret::new(password),
            allowed: allowed.to_owned(),
            refused: refused.to_owned(),
        })
    }

    /// Who may log in by the set in place; nobody where there is none.
    #[must_use]
    pub fn members(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.paths.access().join(MEMBERS)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Who is shut out by name in the set in place, whatever certificate it has.
    #[must_use]
    pub fn shut_out(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.paths.access().join(ACL_DEVICES)).unwrap_or_default();
        acl::shut_out(&text).map(str::to_owned).collect()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.paths.folder.join(format!("access.{suffix}"))
    }
}

fn remove(folder: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::access_set::tests::set;

    fn shelf() -> (tempfile::TempDir, Shelf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shelf = Shelf::new(Paths::of(folder.path()), None);
        (folder, shelf)
    }

    #[test]
    fn a_set_is_put_in_place_and_taken_back_whole() {
        let (folder, shelf) = shelf();
        let locked = shelf.lock().expect("nobody else");
        assert!(matches!(shelf.take_back(&locked), Err(AccessSetError::NoEarlier(_))));
        for (names, topic) in [(["a", "b"], "1"), (["a", "c"], "2"), (["d", "e"], "3")] {
            shelf.put(&locked, &set(&names, topic)).expect("a sound set");
            shelf.mark_proven(&locked).expect("it is ours");
            assert_eq!(shelf.canary().expect("it is there").allowed, topic);
            assert_eq!(shelf.members(), names.map(str::to_owned).into());
        }
        shelf.take_back(&locked).expect("there is an earlier one");
        let canary = shelf.canary().expect("it is there");
        assert_eq!((canary.allowed.as_str(), canary.password.reveal()), ("2", "a:b"));
        let passwords = fs::read_to_string(folder.path().join("access/passwords")).expect("it is there");
        assert!(passwords.contains("c:$7$") && !passwords.contains("d:$7$"));
    }

    #[test]
    fn only_what_was_proven_is_gone_back_to() {
        let (folder, shelf) = shelf();
        let locked = shelf.lock().expect("nobody else");
        shelf.put(&locked, &set(&["good"], "1")).expect("a sound set");
        shelf.mark_proven(&locked).expect("it is ours");
        for name in ["never", "proven"] {
            shelf.put(&locked, &set(&[name], "2")).expect("a sound set");
        }
        shelf.take_back(&locked).expect("there is one");
        assert_eq!(shelf.members(), ["good".to_owned()].into());
        // Killed between the exchange and the renaming: the good one is called next.
        shelf.put(&locked, &set(&["never"], "3")).expect("a sound set");
        fs::rename(folder.path().join("access.last"), folder.path().join("access.next")).expect("it is ours");
        shelf.put(&locked, &set(&["proven"], "4")).expect("a sound set");
        shelf.take_back(&locked).expect("there is one");
        assert_eq!(shelf.members(), ["good".to_owned()].into());
    }

    #[test]
    fn what_a_killed_writer_left_is_in_nobodys_way() {
        let (folder, shelf) = shelf();
        let locked = shelf.lock().expect("nobody else");
        shelf.put(&locked, &set(&["a"], "1")).expect("a sound set");
        fs::create_dir(folder.path().join("access.next")).expect("it is ours");
        fs::write(folder.path().join("access.next/passwords"), "half a li").expect("it is ours");
        assert_eq!(shelf.members().len(), 1, "the old set stands");
        shelf.put(&locked, &set(&["a", "b"], "2")).expect("a sound set");
        assert_eq!(shelf.members().len(), 2);
    }
}
