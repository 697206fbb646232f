//! Mosquitto's access list: a role's rights in the topic tree.

use std::fmt::Write as _;

/// What a user of the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The service itself: reads what devices say, and how the broker is.
    Service,
    /// A stand-in for a whole fleet, which the simulator and the demonstration need: writes for every device.
    Fleet,
}

/// The access list for these users below the base topic `base`.
#[must_use]
pub fn render(base: &str, users: &[(&str, Role)]) -> String {
    let mut text = "# Written by iotflow; what is not granted here is refused.\n".to_owned();
    for (user, role) in users {
        let rights: &[&str] = match role {
            Role::Service => &["read {base}/devices/+/telemetry/#", "read {base}/devices/+/status/#", "read $SYS/#"],
            Role::Fleet => &["write {base}/devices/+/telemetry/#", "write {base}/devices/+/status/#"],
        };
        write!(text, "\nuser {user}\n").expect("a String takes every write");
        for right in rights {
            writeln!(text, "topic {}", right.replace("{base}", base)).expect("a String takes every write");
        }
    }
    text
}
