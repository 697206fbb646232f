//! Who may read and write what in the topic tree: the one place from which the broker's access list is made, and by which
//! tests judge it.
//!
//! Who somebody is comes from the credential alone (user name, or the certificate's common name), never from the client id.
//! What is not granted here is refused.

use std::fmt;
use std::str::FromStr;

use super::id::GroupId;
use super::topic::TopicTree;

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// What a user of the broker is. The text is stored in `broker_users.role`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Role { $($(#[$doc])* $name,)+ }

        impl Role {
            /// Every role.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The role's stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

roles! {
    /// One device: its own telemetry, status and answers, its own commands and configuration, its groups' commands.
    Device => "device",
    /// A person who looks after the installation: everything.
    Admin => "admin",
    /// The service itself: reads and writes the whole tree, and reads how the broker is.
    Service => "service",
    /// A stand-in for a whole fleet, which the simulator and the demonstration need: writes for every device.
    Fleet => "fleet",
    /// A device that has no credential of its own yet: asks for one, by an encrypted connection.
    Provisioning => "provisioning",
    /// The same, where credentials may go over the wire in the clear: somebody has to ask for that by this name.
    ProvisioningPlain => "provisioning-plain",
}

impl Role {
    /// Whether users of this role may log in where the connection is encrypted, and nowhere else.
    #[must_use]
    pub const fn is_encrypted_only(self) -> bool {
        matches!(self, Self::Provisioning)
    }

    /// Whether users of this role may log in at the staff's listener, where a client id can be chosen freely. Whoever can
    /// choose one can end, and take over, the session of every other client.
    #[must_use]
    pub const fn is_staff(self) -> bool {
        matches!(self, Self::Admin | Self::Service | Self::Fleet)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No role has this name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; device, admin, service, fleet, provisioning or provisioning-plain is expected")]
pub struct NoSuchRole(String);

impl FromStr for Role {
    type Err = NoSuchRole;

    fn from_str(text: &str) -> Result<Self, NoSuchRole> {
        let known = Self::ALL.iter().find(|role| role.as_str() == text);
        known.copied().ok_or_else(|| NoSuchRole(text.to_owned()))
    }
}

/// What a right lets one do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Receive what is published there.
    Read,
    /// Publish there.
    Write,
}

/// Leave to do something on the topics that a filter matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// What.
    pub access: Access,
    /// Where: an MQTT filter; [`USER`] as a level stands for the user's own name.
    pub filter: String,
}

/// The level that stands for the user's own name.
pub const USER: &str = "%u";

/// What every user may do on the topics that bear its own name: a device's rights.
#[must_use]
pub fn own(tree: &TopicTree) -> Vec<Right> {
    below(
        tree,
        &[
            // With everything below: what has no channel becomes a dead letter, which somebody can see, instead of being
            // dropped by the broker, which nobody sees.
            (Access::Write, "devices/%u/telemetry/#"),
            (Access::Write, "devices/%u/status/#"),
            (Access::Write, "devices/%u/commands/response"),
            (Access::Read, "devices/%u/commands/config"),
            (Access::Read, "devices/%u/commands/control"),
            (Access::Read, "devices/%u/commands/firmware"),
            (Access::Read, "devices/%u/config"),
            (Access::Write, "devices/%u/config/reported"),
            (Access::Read, "devices/%u/receipts/#"),
            (Access::Write, "discovery/register/%u"),
            (Access::Read, "discovery/response/%u"),
        ],
    )
}

/// What a role may do beside that.
#[must_use]
pub fn of_role(tree: &TopicTree, role: Role) -> Vec<Right> {
    let everywhere = |access, filter: &str| Right {
        access,
        filter: filter.to_owned(),
    };
    match role {
        Role::Device => Vec::new(),
        Role::Admin => vec![
            everywhere(Access::Read, "#"),
            everywhere(Access::Write, "#"),
            // `#` does not match what begins with `$` (MQTT 5, 4.7.2).
            everywhere(Access::Read, "$SYS/#"),
        ],
        // What an operator may publish and tap is the API's to say; it does so through this user.
        Role::Service => {
            let mut rights = below(tree, &[(Access::Read, "#"), (Access::Write, "#")]);
            rights.push(everywhere(Access::Read, "$SYS/#"));
            rights
        }
        Role::Fleet => below(
            tree,
            &[(Access::Write, "devices/+/telemetry/#"), (Access::Write, "devices/+/status/#")],
        ),
        Role::Provisioning | Role::ProvisioningPlain => below(
            tree,
            &[(Access::Write, "discovery/register/+"), (Access::Read, "discovery/response/+")],
        ),
    }
}

/// What a member of a group may do.
#[must_use]
pub fn of_member(tree: &TopicTree, group: &GroupId) -> Right {
    Right {
        access: Access::Read,
        filter: format!("{}/fleet/commands/{group}", tree.base()),
    }
}

/// The one topic that a canary may write, with a level that is another for each set of the broker's files. Who proves that a
/// set is in force publishes there, and where it must not; only who reads the whole tree hears of it.
#[must_use]
pub fn canary_allowed(tree: &TopicTree, generation: &str) -> String {
    format!("{}/monitoring/canary/{generation}", tree.base())
}

/// A topic that no device, no canary, and nobody but an admin and the service may write.
#[must_use]
pub fn canary_refused(tree: &TopicTree) -> String {
    format!("{}/monitoring/canary/refused", tree.base())
}

/// A topic that nobody but an admin may write, the service neither: it is beside the tree. Publishing there shows whether what
/// bounds the service is in force.
#[must_use]
pub fn outside(tree: &TopicTree) -> String {
    format!("{}-outside/canary", tree.base())
}

/// Whether `user` with this role and these groups may do it on this topic: what the broker must answer.
#[must_use]
pub fn allows(tree: &TopicTree, (user, role, groups): (&str, Role, &[GroupId]), access: Access, topic: &str) -> bool {
    own(tree)
        .into_iter()
        .chain(of_role(tree, role))
        .chain(groups.iter().map(|group| of_member(tree, group)))
        .any(|right| right.access == access && matches(&right.filter, user, topic))
}

fn below(tree: &TopicTree, rights: &[(Access, &str)]) -> Vec<Right> {
    let right = |(access, below): &(Access, &str)| Right {
        access: *access,
        filter: format!("{}/{below}", tree.base()),
    };
    rights.iter().map(right).collect()
}

/// Whether the filter matches the topic (MQTT 5, 4.7), with `user` in the place of [`USER`].
pub(super) fn matches(filter: &str, user: &str, topic: &str) -> bool {
    if topic.starts_with('$') != filter.starts_with('$') {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            // `a/#` matches `a` itself, too.
            return true;
        }
        let wanted = if wanted == USER { user } else { wanted };
        if levels.next().is_none_or(|level| wanted != "+" && wanted != level) {
            return false;
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> TopicTree {
        TopicTree::new("iotflow").expect("a base topic")
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/#", "a/b/c", true),
            ("#", "a", true),
            ("#", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/%u", "a/me", true),
            ("a/%u", "a/you", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, "me", topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn a_device_has_its_own_and_nobody_elses() {
        let may = |access, topic: &str| allows(&tree(), ("one", Role::Device, &[]), access, topic);
        assert!(may(Access::Write, "iotflow/devices/one/telemetry/sensors"));
        assert!(may(Access::Read, "iotflow/devices/one/commands/control"));
        assert!(!may(Access::Read, "iotflow/devices/one/telemetry/sensors"));
        assert!(!may(Access::Write, "iotflow/devices/one/commands/control"));
        for topic in [
            "devices/two/telemetry/sensors",
            "devices/two/commands/control",
            "fleet/commands/g",
            "system/health",
        ] {
            let topic = format!("iotflow/{topic}");
            assert!(!may(Access::Read, &topic) && !may(Access::Write, &topic), "{topic}");
        }
        let group = GroupId::parse("g").expect("a group id");
        assert!(allows(
            &tree(),
            ("one", Role::Device, &[group]),
            Access::Read,
            "iotflow/fleet/commands/g"
        ));
    }

    #[test]
    fn what_is_outside_is_refused_to_all_but_admins() {
        for base in ["iotflow", "plant/two"] {
            let tree = TopicTree::new(base).expect("a base topic");
            for role in Role::ALL {
                let may = allows(&tree, ("one", *role, &[]), Access::Write, &outside(&tree));
                assert_eq!(may, *role == Role::Admin, "{role} at {base}");
            }
        }
    }

    #[test]
    fn roles_have_names() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(*role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
