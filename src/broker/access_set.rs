//! The files that follow from the database, as one set: made whole, and read again as the broker will.
//!
//! ```text
//! members ──render──► AccessSet ──validate──► shelf
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceId, DeviceIdRef, Username};
use crate::protocol::rights::{self, Access, Right};
use crate::protocol::topic::TopicTree;

use super::acl::{self, Audience, Member};
use super::disk::{FileError, LockError};
use super::passwords::{self, Hash};

/// The files of a set by name, with whether the broker reads them.
const PASSWORDS: &str = "passwords";
const ENCRYPTED: &str = "passwords.encrypted";
const STAFF: &str = "staff";
const ACL: &str = "acl";
pub(super) const ACL_DEVICES: &str = "acl.devices";
pub(super) const CANARY: &str = "canary";
pub(super) const MEMBERS: &str = "members";
/// The names of a set's files.
pub const FILES: [&str; 7] = [PASSWORDS, ENCRYPTED, STAFF, ACL, ACL_DEVICES, CANARY, MEMBERS];

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
    encrypted: String,
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
    /// The set for these members, and for devices that are shut out, whether they are members or not; members with a hash log in with
    /// a password.
    #[must_use]
    pub fn render(tree: &TopicTree, members: &[(Member, Option<Hash>)], shut_out: &[DeviceId], canary: Canary, canary_hash: &Hash) -> Self {
        let name = Username::parse(&canary.name).expect("the canary's name is of the grammar");
        let (mut plain, mut encrypted, mut staff) = (String::new(), String::new(), String::new());
        let enabled = || members.iter().filter(|(member, _)| !member.disabled);
        for (member, hash) in enabled() {
            let Some(hash) = hash else { continue };
            let line = passwords::line(&member.username, hash);
            encrypted.push_str(&line);
            if !member.role.is_encrypted_only() {
                plain.push_str(&line);
            }
            if member.role.is_staff() {
                staff.push_str(&line);
            }
        }
        let line = passwords::line(&name, canary_hash);
        for file in [&mut plain, &mut encrypted, &mut staff] {
            file.push_str(&line);
        }
        let only: Vec<Member> = members.iter().map(|(member, _)| member.clone()).collect();
        let right = Right {
            access: Access::Write,
            filter: canary.allowed.clone(),
        };
        let further = [(canary.name.as_str(), right)];
        Self {
            passwords: plain,
            encrypted,
            staff,
            acl: acl::render(tree, &only, Audience::Everybody, &further),
            acl_devices: acl::render(tree, &only, Audience::Devices { shut_out }, &further),
            members: enabled().map(|(member, _)| member.username.as_str().to_owned()).collect(),
            canary,
        }
    }

    /// Who is shut out by name, whatever certificate it has.
    #[must_use]
    pub fn shut_out(&self) -> BTreeSet<String> {
        acl::shut_out(&self.acl_devices).map(str::to_owned).collect()
    }

    /// Reads the texts again as the broker will.
    ///
    /// # Errors
    /// [`AccessSetError::Invalid`]. Mosquitto 2.0 answers a broken access list by granting everything.
    pub fn validate(&self) -> Result<(), AccessSetError> {
        for (file, text) in [(PASSWORDS, &self.passwords), (ENCRYPTED, &self.encrypted), (STAFF, &self.staff)] {
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
                // A certificate's name may be any device's.
                ["user", name] => DeviceIdRef::parse(name).map(drop).map_err(|_| "no user name"),
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

    /// The files by name.
    pub(super) fn files(&self) -> [(&'static str, String); 7] {
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
            (ENCRYPTED, self.encrypted.clone()),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::id::GroupId;
    use crate::protocol::rights::Role;

    /// A set for these devices, whose canary may write this topic.
    pub(in crate::broker) fn set(names: &[&str], topic: &str) -> AccessSet {
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
        AccessSet::render(&TopicTree::new("iotflow").expect("a base"), &members, &[], canary, &hash)
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
