//! Mosquitto's access lists, from the rights of `protocol::rights`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::protocol::id::{DeviceId, GroupId, Username};
use crate::protocol::rights::{self, Access, Right, Role};
use crate::protocol::topic::TopicTree;

/// One who may log in, or may not for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What the broker calls it.
    pub username: Username,
    /// What it is.
    pub role: Role,
    /// The groups it belongs to.
    pub groups: Vec<GroupId>,
    /// Whether it is shut out.
    pub disabled: bool,
}

/// For which listeners a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience<'a> {
    /// Those that ask for a password.
    Everybody,
    /// The one that asks for a certificate: whatever the name in it, it has a device's rights.
    Devices {
        /// But for these, which have none.
        shut_out: &'a [DeviceId],
    },
}

/// What is denied to a user by name is refused whatever else is granted.
const DENIED: &str = "topic deny #";

/// The access list. Every user has the rights on its own name by patterns; only those who may do more, or less, have lines of
/// their own, so the file of a fleet without groups is as short as that of one device.
#[must_use]
pub fn render(tree: &TopicTree, members: &[Member], audience: Audience<'_>, further: &[(&str, Right)]) -> String {
    let mut text = "# Written by iotflow from its database; what is not granted here is refused.\n\n".to_owned();
    for right in rights::own(tree) {
        push(&mut text, "pattern", &right);
    }
    for member in members {
        if member.disabled {
            // Its password is gone from the other file. A certificate would still open the door, and patterns grant it a
            // device's rights.
            deny(&mut text, member.username.as_str());
            continue;
        }
        let of_role = match audience {
            Audience::Everybody => rights::of_role(tree, member.role),
            Audience::Devices { .. } => Vec::new(),
        };
        let groups = member.groups.iter().map(|group| rights::of_member(tree, group));
        user(&mut text, member.username.as_str(), of_role.into_iter().chain(groups));
    }
    if let Audience::Devices { shut_out } = audience {
        let denied: BTreeSet<&str> = members
            .iter()
            .filter(|member| member.disabled)
            .map(|member| member.username.as_str())
            .collect();
        let rest = shut_out.iter().map(DeviceId::as_str).filter(|name| !denied.contains(name));
        rest.for_each(|name| deny(&mut text, name));
    }
    for (name, right) in further {
        user(&mut text, name, std::iter::once(right.clone()));
    }
    text
}

/// The names that a list denies everything to.
pub(super) fn shut_out(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().zip(text.lines().skip(1));
    lines
        .filter(|(_, denied)| *denied == DENIED)
        .filter_map(|(user, _)| user.strip_prefix("user "))
}

fn deny(text: &mut String, name: &str) {
    write!(text, "\nuser {name}\n{DENIED}\n").expect("a String takes every write");
}

fn user(text: &mut String, name: &str, rights: impl Iterator<Item = Right>) {
    let mut rights = rights.peekable();
    if rights.peek().is_none() {
        return;
    }
    write!(text, "\nuser {name}\n").expect("a String takes every write");
    rights.for_each(|right| push(text, "topic", &right));
}

fn push(text: &mut String, keyword: &str, right: &Right) {
    let access = match right.access {
        Access::Read => "read",
        Access::Write => "write",
    };
    writeln!(text, "{keyword} {access} {}", right.filter).expect("a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::DeviceIdRef;

    fn member(name: &str, role: Role, groups: &[&str]) -> Member {
        Member {
            username: Username::parse(name).expect("a name"),
            role,
            groups: groups.iter().map(|group| GroupId::parse(group).expect("a group")).collect(),
            disabled: false,
        }
    }

    #[test]
    fn only_who_has_more_or_less_than_a_device_has_lines_of_its_own() {
        let tree = TopicTree::new("iotflow").expect("a base topic");
        let mut members = [
            member("one", Role::Device, &[]),
            member("two", Role::Device, &["north"]),
            member("ann", Role::Admin, &[]),
            member("gone", Role::Device, &["north"]),
        ];
        members[3].disabled = true;
        let text = render(&tree, &members, Audience::Everybody, &[]);
        assert!(text.contains("pattern write iotflow/devices/%u/telemetry/#\n"));
        assert!(!text.contains("user one\n"));
        assert!(text.contains("user two\ntopic read iotflow/fleet/commands/north\n"));
        assert!(text.contains("user ann\ntopic read #\ntopic write #\n"));
        assert!(text.ends_with("user gone\ntopic deny #\n"));
        let lost = ["gone", ".x", "ann"].map(|name| DeviceIdRef::parse(name).expect("a device id").to_owned());
        let devices = render(&tree, &members, Audience::Devices { shut_out: &lost }, &[]);
        assert!(devices.contains("user two\n"));
        assert_eq!(
            shut_out(&devices).collect::<Vec<_>>(),
            ["gone", ".x", "ann"],
            "a device named as staff is a device here"
        );
        assert_eq!(shut_out(&text).collect::<Vec<_>>(), ["gone"]);
    }
}
