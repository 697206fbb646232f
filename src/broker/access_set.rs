//! The files that follow from the database, as one set: made whole, put in place whole, taken back whole.
//!
//! ```text
//! members ──render──► AccessSet ──validate──► access.next/ ──exchange──► access/ (what the broker reads)
//!                                                                        access.last/ (what it read before)
//! ```
//!
//! The set is a folder, and the two folders change places in one step of the file system (`renameat2` with
//! `RENAME_EXCHANGE`). Whenever the writer is killed, or the disk is full, `access/` is one set or the other, and whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::observe::secret::Secret;
use crate::protocol::id::Username;
use crate::protocol::rights::{self, Access, Right};
use crate::protocol::topic::TopicTree;

use super::acl::{self, Audience, Member};
use super::conf::Paths;
use super::disk::{self, FileError, LockError};
use super::passwords::{self, Hash};

/// The files of a set by name, with whether the broker reads them.
const PASSWORDS: &str = "passwords";
const STAFF: &str = "staff";
const ACL: &str = "acl";
const ACL_DEVICES: &str = "acl.devices";
const CANARY: &str = "canary";
const MEMBERS: &str = "members";
/// Is there once the set was proven.
const PROVEN: &str = "proven";
/// The names of a set's files.
pub const FILES: [&str; 6] = [PASSWORDS, STAFF, ACL, ACL_DEVICES, CANARY, MEMBERS];

/// Who proves that a set is in force: a user that only this set knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Its name.
    pub name: String,
    /// A password of its own for each set, so that a login proves that the set's passwords are in force.
    pub password: Secret,
    /// The topic that it may write: another for each set, so that being let proves that the set's access list is in force.
    pub allowed: String,
    /// A topic that it must not write.
    pub refused: String,
}

/// The texts of all files of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSet {
    passwords: String,
    staff: String,
    acl: String,
    acl_devices: String,
    /// Who proves it.
    pub canary: Canary,
    /// Who may log in, by whatever credential.
    pub members: BTreeSet<String>,
}

/// Why a set was not put in place. What the broker reads is then what it read before.
#[derive(Debug, thiserror::Error)]
pub enum AccessSetError {
    /// A text that the broker would not understand, or would understand otherwise.
    #[error("the file {file} would be wrong in line {line}: {what}")]
    Invalid {
        /// The file.
        file: &'static str,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process is at work there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No set is there.
    #[error("{0}: there is no earlier set to go back to")]
    NoEarlier(PathBuf),
}

impl Canary {
    /// One of this name for one set, with a password and a topic that no other set has.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn new(tree: &TopicTree, name: &str) -> Result<Self, getrandom::Error> {
        Ok(Self {
            name: name.to_owned(),
            password: passwords::generate()?,
            allowed: rights::canary_allowed(tree, passwords::generate()?.reveal()),
            refused: rights::canary_refused(tree),
        })
    }
}

impl AccessSet {
    /// The set for these members; those with a hash log in with a password.
    #[must_use]
    pub fn render(tree: &TopicTree, members: &[(Member, Option<Hash>)], canary: Canary, canary_hash: &Hash) -> Self {
        let name = Username::parse(&canary.name).expect("the canary's name is of the grammar");
        let (mut all, mut staff) = (String::new(), String::new());
        let enabled = || members.iter().filter(|(member, _)| !member.disabled);
        for (member, hash) in enabled() {
            let Some(hash) = hash else { continue };
            let line = passwords::line(&member.username, hash);
            all.push_str(&line);
            if member.role.is_staff() {
                staff.push_str(&line);
            }
        }
        let line = passwords::line(&name, canary_hash);
        all.push_str(&line);
        staff.push_str(&line);
        let only: Vec<Member> = members.iter().map(|(member, _)| member.clone()).collect();
        let right = Right {
            access: Access::Write,
            filter: canary.allowed.clone(),
        };
        let further = [(canary.name.as_str(), right)];
        Self {
            passwords: all,
            staff,
            acl: acl::render(tree, &only, Audience::Everybody, &further),
            acl_devices: acl::render(tree, &only, Audience::Devices, &further),
            members: enabled().map(|(member, _)| member.username.as_str().to_owned()).collect(),
            canary,
        }
    }

    /// Reads the texts again as the broker will.
    ///
    /// # Errors
    /// [`AccessSetError::Invalid`]. Mosquitto 2.0 answers a broken access list by granting everything.
    pub fn validate(&self) -> Result<(), AccessSetError> {
        for (file, text) in [(PASSWORDS, &self.passwords), (STAFF, &self.staff)] {
            let mut names = BTreeSet::new();
            check(file, text, |line| {
                let (name, hash) = line.split_once(':').ok_or("no colon")?;
                Username::with_password(name).map_err(|_| "no user name")?;
                Hash::parse(hash).map_err(|_| "no hash in the $7$ form")?;
                names.insert(name.to_owned()).then_some(()).ok_or("the name is there twice")
            })?;
        }
        for (file, text) in [(ACL, &self.acl), (ACL_DEVICES, &self.acl_devices)] {
            check(file, text, |line| match line.split(' ').collect::<Vec<_>>()[..] {
                [] | [""] => Ok(()),
                ["#", ..] => Ok(()),
                ["user", name] => Username::parse(name).map(drop).map_err(|_| "no user name"),
                ["topic", "read" | "write" | "deny", ref filter @ ..] | ["pattern", "read" | "write", ref filter @ ..]
                    if !filter.concat().is_empty() =>
                {
                    Ok(())
                }
                _ => Err("no line of an access list"),
            })?;
        }
        Ok(())
    }

    fn files(&self) -> [(&'static str, String); 6] {
        let Canary {
            name,
            password,
            allowed,
            refused,
        } = &self.canary;
        let canary = format!("{name}\n{}\n{allowed}\n{refused}\n", password.reveal());
        let members = self.members.iter().map(|name| format!("{name}\n")).collect();
        [
            (PASSWORDS, self.passwords.clone()),
            (STAFF, self.staff.clone()),
            (ACL, self.acl.clone()),
            (ACL_DEVICES, self.acl_devices.clone()),
            (CANARY, canary),
            (MEMBERS, members),
        ]
    }
}

fn check(file: &'static str, text: &str, mut fine: impl FnMut(&str) -> Result<(), &'static str>) -> Result<(), AccessSetError> {
    for (index, line) in text.split_terminator('\n').enumerate() {
        let control = line.chars().any(char::is_control).then_some("a control character");
        if let Some(what) = control.or_else(|| fine(line).err()) {
            return Err(AccessSetError::Invalid {
                file,
                line: index + 1,
                what,
            });
        }
    }
    Ok(())
}

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
    use crate::protocol::id::GroupId;
    use crate::protocol::rights::Role;

    fn set(names: &[&str], topic: &str) -> AccessSet {
        let hash = Hash::of_generated(&Secret::new("x")).expect("randomness");
        let member = |name: &&str| Member {
            username: Username::parse(name).expect("a name"),
            role: Role::Device,
            groups: vec![GroupId::parse("north").expect("a group")],
            disabled: false,
        };
        let members: Vec<_> = names.iter().map(|name| (member(name), Some(hash.clone()))).collect();
        let canary = Canary {
            name: "canary".to_owned(),
            password: Secret::new("a:b"),
            allowed: topic.to_owned(),
            refused: "other".to_owned(),
        };
        AccessSet::render(&TopicTree::new("iotflow").expect("a base"), &members, canary, &hash)
    }

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

    #[test]
    fn texts_that_the_broker_would_misread_are_refused() {
        let sound = set(&["a"], "1");
        assert!(sound.validate().is_ok());
        type Break = fn(&mut AccessSet);
        let broken: [(&str, Break); 5] = [
            ("a name twice", |set| set.passwords.push_str(&set.passwords.clone())),
            ("no hash", |set| set.staff.push_str("b:plain\n")),
            ("an unknown keyword", |set| set.acl.push_str("topics read #\n")),
            ("a right without a topic", |set| set.acl_devices.push_str("topic read \n")),
            ("a control character", |set| set.acl.push_str("user a\r\n")),
        ];
        for (what, break_it) in broken {
            let mut set = sound.clone();
            break_it(&mut set);
            assert!(matches!(set.validate(), Err(AccessSetError::Invalid { .. })), "{what}");
        }
    }
}
