//! Mosquitto's settings: what the template `mosquitto/mosquitto.conf` says above its listeners, and the listeners of an
//! installation.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The template, as it is for a container.
pub const TEMPLATE: &str = include_str!("../../mosquitto/mosquitto.conf");

/// The template's line from which on it speaks of the container's listeners.
const LISTENERS: &str = "# --- Listeners ---";
/// Connections a listener takes: each is a descriptor, and 65,536 is what service managers and containers are told to allow.
const MAX_CONNECTIONS: u32 = 60_000;

/// Where a broker has its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The folder that holds all the others.
    pub folder: PathBuf,
}

impl Paths {
    /// The files of the broker in `folder`.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// `mosquitto.conf`.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.folder.join("mosquitto.conf")
    }

    /// The folder of what follows from the database: passwords and access lists.
    #[must_use]
    pub fn access(&self) -> PathBuf {
        self.folder.join("access")
    }

    /// The folder of certificates.
    #[must_use]
    pub fn certs(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// The folder of the persistence file.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The persistence file: retained messages, sessions, and what is queued for them.
    #[must_use]
    pub fn persistence(&self) -> PathBuf {
        self.data().join("mosquitto.db")
    }

    /// The broker's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("mosquitto.log")
    }

    /// The broker's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.folder.join("mosquitto.pid")
    }
}

/// Whom a listener is for, and how it tells who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The service, admins, the simulator: a client id can be chosen freely, so only staff has a password here.
    Staff,
    /// Everybody, with a password, in the clear.
    Plain,
    /// Everybody, with a password, by TLS.
    Tls,
    /// Devices with a certificate, whose common name is their identity; no password is asked.
    MutualTls,
    /// Everybody, with a password, by WebSockets in the clear. Mosquitto 2.0 heeds no address here: it listens on all.
    WebSockets,
    /// Everybody, with a password, by WebSockets over TLS.
    SecureWebSockets,
}

impl Kind {
    /// Whether the broker shows a certificate there.
    #[must_use]
    pub const fn uses_tls(self) -> bool {
        matches!(self, Self::Tls | Self::MutualTls | Self::SecureWebSockets)
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Whom it is for.
    pub kind: Kind,
    /// The address to listen on: loopback, or all with `0.0.0.0`.
    pub address: String,
    /// The TCP port.
    pub port: u16,
}

/// The setting is not in the template.
#[derive(Debug, thiserror::Error)]
#[error("mosquitto.conf has no setting {0:?} to replace")]
pub struct NoSuchSetting(String);

/// The settings of the broker at `paths` with these listeners. `changed` replaces settings of the template, each by the whole
/// rest of its line.
///
/// # Errors
/// [`NoSuchSetting`], so that a renamed setting is noticed.
pub fn render(paths: &Paths, listeners: &[Listener], changed: &[(&str, &str)]) -> Result<String, NoSuchSetting> {
    let (data, log) = (format!("{}/", paths.data().display()), format!("file {}", paths.log().display()));
    let changed: Vec<(&str, &str)> = changed
        .iter()
        .copied()
        .chain([("persistence_location", data.as_str()), ("log_dest", log.as_str())])
        .collect();
    let mut used = vec![false; changed.len()];
    let mut text = "# Written by iotflow; changes are lost when it writes it again.\n".to_owned();
    for line in TEMPLATE
        .lines()
        .take_while(|line| *line != LISTENERS)
        .skip_while(|line| line.starts_with('#'))
    {
        let name = line.split_whitespace().next().unwrap_or_default();
        match changed.iter().position(|(setting, _)| *setting == name) {
            Some(index) => {
                used[index] = true;
                writeln!(text, "{name} {}", changed[index].1).expect("a String takes every write");
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    if let Some(index) = used.iter().position(|used| !used) {
        return Err(NoSuchSetting(changed[index].0.to_owned()));
    }
    listeners.iter().for_each(|listener| listener.render(paths, &mut text));
    Ok(text)
}

impl Listener {
    /// The address at which it is reached from this machine.
    #[must_use]
    pub fn reached_at(&self) -> &str {
        match self.address.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            own => own,
        }
    }

    fn render(&self, paths: &Paths, text: &mut String) {
        let (access, certs) = (paths.access(), paths.certs());
        let mut line = |setting: &str, value: &str| {
            writeln!(text, "{setting} {value}").expect("a String takes every write");
        };
        let path = |folder: &Path, name: &str| folder.join(name).display().to_string();
        line("\nlistener", &format!("{} {}", self.port, self.address));
        line("allow_anonymous", "false");
        line("max_connections", &MAX_CONNECTIONS.to_string());
        if matches!(self.kind, Kind::WebSockets | Kind::SecureWebSockets) {
            line("protocol", "websockets");
        }
        if self.kind.uses_tls() {
            line("certfile", &path(&certs, "server.pem"));
            line("keyfile", &path(&certs, "server.key"));
            line("tls_version", "tlsv1.2");
        }
        if self.kind != Kind::Staff {
            // The client id is the user's name whatever the client says, so nobody can take over another's session.
            line("use_username_as_clientid", "true");
        }
        match self.kind {
            Kind::Staff => line("password_file", &path(&access, "staff")),
            Kind::Plain | Kind::WebSockets => line("password_file", &path(&access, "passwords")),
            Kind::Tls | Kind::SecureWebSockets => line("password_file", &path(&access, "passwords.encrypted")),
            Kind::MutualTls => {
                line("cafile", &path(&certs, "ca.pem"));
                line("crlfile", &path(&certs, "crl.pem"));
                line("require_certificate", "true");
                line("use_identity_as_username", "true");
            }
        }
        // No certificate makes anybody more than a device.
        let acl = if self.kind == Kind::MutualTls { "acl.devices" } else { "acl" };
        line("acl_file", &path(&access, acl));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_replaced_and_listeners_are_the_installations_own() {
        let paths = Paths::of(Path::new("/b"));
        let listener = |kind, port| Listener {
            kind,
            address: "127.0.0.1".to_owned(),
            port,
        };
        let listeners = [listener(Kind::Staff, 1984), listener(Kind::MutualTls, 1985)];
        let text = render(&paths, &listeners, &[("sys_interval", "1")]).expect("the template has it");
        for line in [
            "sys_interval 1",
            "persistence_location /b/data/",
            "listener 1984 127.0.0.1",
            "password_file /b/access/staff",
            "acl_file /b/access/acl.devices",
            "crlfile /b/certs/crl.pem",
        ] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}");
        }
        assert!(!text.contains("/mosquitto/"), "a path of the container's is left");
        assert_eq!(text.matches("\nlistener ").count(), 2);
        assert!(render(&paths, &[], &[("no_such_setting", "1")]).is_err());
    }
}
