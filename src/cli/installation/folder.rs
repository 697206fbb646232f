//! The folder of an installation: its settings, its secrets, and the variables with which the service and the tools find it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::broker::conf::{Kind, Listener, Paths};
use crate::broker::disk;
use crate::broker::passwords;
use crate::observe::secret::Secret;
use crate::stack::account::Account;

/// How often, and after which pause, the folder is tried to be taken.
const LOCK_TRIES: u32 = 20;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The file with the variables, as in `.env`.
const ENV: &str = "env";
/// The usual ports: of MQTT (1883, 8883 by IANA), of WebSockets as the mission has it, and the two between them.
const USUAL: [(Kind, u16); 5] = [
    (Kind::Staff, 1884),
    (Kind::Plain, 1883),
    (Kind::Tls, 8883),
    (Kind::MutualTls, 8884),
    (Kind::SecureWebSockets, 9001),
];

/// What an installation is told once and remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Settings {
    /// The base of the topic tree.
    pub(in crate::cli) base_topic: String,
    /// The broker's listeners.
    pub(in crate::cli) listeners: Vec<Listener>,
    /// The names and addresses under which devices reach it: they stand in its certificate.
    pub(in crate::cli) names: Vec<String>,
    /// Whether nobody asked for these: `up` made them, and `setup` makes others.
    #[serde(default)]
    pub(in crate::cli) improvised: bool,
    /// Whether its database is a private PostgreSQL in the same folder; else its URL is among the secrets.
    pub(in crate::cli) own_database: bool,
}

impl Settings {
    /// As `setup` makes it: in the clear on loopback only, unless `plain`; by TLS from everywhere.
    pub(in crate::cli) fn usual(base_topic: &str, plain: bool) -> Self {
        let address = |kind: Kind| {
            if kind.uses_tls() || plain && kind == Kind::Plain {
                "0.0.0.0"
            } else {
                "127.0.0.1"
            }
        };
        Self {
            base_topic: base_topic.to_owned(),
            listeners: USUAL
                .iter()
                .map(|(kind, port)| Listener {
                    kind: *kind,
                    address: address(*kind).to_owned(),
                    port: *port,
                })
                .collect(),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            own_database: true,
            improvised: false,
        }
    }

    /// The name by which devices are told to reach the broker: the first that `setup` was given, else this machine's own.
    pub(in crate::cli) fn public_name(&self) -> &str {
        let own = |name: &&String| Settings::usual("x", false).names.contains(name);
        self.names.iter().find(|name| !own(name)).map_or("localhost", String::as_str)
    }

    /// The listener of this kind.
    pub(in crate::cli) fn listener(&self, kind: Kind) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.kind == kind)
    }

    /// All names that stand in the broker's certificate: those given, and the addresses where it listens by TLS.
    pub(in crate::cli) fn certificate_names(&self) -> Vec<String> {
        let mut names = self.names.clone();
        for listener in self.listeners.iter().filter(|it| it.kind.uses_tls()) {
            let address = listener.reached_at().to_owned();
            if !names.contains(&address) {
                names.push(address);
            }
        }
        names
    }

    /// The port of the listener of this kind.
    pub(in crate::cli) fn port(&self, kind: Kind) -> Option<u16> {
        self.listeners
            .iter()
            .find(|listener| listener.kind == kind)
            .map(|listener| listener.port)
    }
}

/// An installation's folder.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Installation {
    /// The folder itself: settings, secrets, variables.
    pub(in crate::cli) data: PathBuf,
    /// Where the servers have their files: the same, unless their account cannot reach it.
    pub(in crate::cli) servers: PathBuf,
}

impl Installation {
    /// The installation in `data`, which is made where it is not there.
    pub(in crate::cli) fn create(data: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data).with_context(|| format!("{} cannot be made", data.display()))?;
        let data = data.canonicalize()?;
        let servers = servers_folder(&data)?;
        Ok(Self { data, servers })
    }

    /// The installation in `data`, which must be there.
    pub(in crate::cli) fn open(data: &Path) -> anyhow::Result<Self> {
        if !data.join("broker.json").exists() {
            bail!(
                "there is no broker in {}: set it up with ./mqtt_manage.sh setup (iotflow broker setup)",
                data.display()
            );
        }
        Self::create(data)
    }

    /// Where the broker has its files.
    pub(in crate::cli) fn broker(&self) -> Paths {
        Paths::of(&self.servers.join("broker"))
    }

    /// What it was told, if it was.
    pub(in crate::cli) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let path = self.data.join("broker.json");
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{} cannot be read", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Remembers them.
    pub(in crate::cli) fn remember(&self, settings: &Settings) -> anyhow::Result<()> {
        replace(&self.data.join("broker.json"), &serde_json::to_string_pretty(settings)?)
    }

    /// A generated secret, kept from one run to the next.
    pub(in crate::cli) fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        if let Some(secret) = self.known_secret(name)? {
            return Ok(secret);
        }
        let secret = passwords::generate()?;
        self.keep_secret(name, &secret)?;
        Ok(secret)
    }

    /// A secret that may have been kept.
    pub(in crate::cli) fn known_secret(&self, name: &str) -> anyhow::Result<Option<Secret>> {
        let path = self.secret_file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Secret::new(text.trim()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Keeps a secret, in a file that only we can read.
    pub(in crate::cli) fn keep_secret(&self, name: &str, secret: &Secret) -> anyhow::Result<()> {
        let path = self.secret_file(name);
        fs::create_dir_all(self.data.join("secrets"))?;
        replace(&path, secret.reveal())
    }

    /// Where a secret is kept.
    pub(in crate::cli) fn secret_file(&self, name: &str) -> PathBuf {
        self.data.join("secrets").join(name)
    }

    /// Writes the variables with which `iotflow serve` and the tools find this installation.
    pub(in crate::cli) fn write_env(&self, variables: &[(&str, String)]) -> anyhow::Result<()> {
        if let Some((name, value)) = variables.iter().find(|(_, value)| value.contains('\'')) {
            bail!("{name}={value}: a path with an apostrophe cannot stand in {ENV}; choose another folder with --data");
        }
        let lines: String = variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        let head = "# Written by iotflow whenever the servers of this folder start; flags, the environment and .env come first.\n";
        replace(&self.data.join(ENV), &format!("{head}{lines}"))
    }

    /// Takes the folder for this process: two would fight over the servers' files. `Err` says who has it.
    pub(in crate::cli) fn take(&self) -> anyhow::Result<Taken> {
        let path = self.data.join("run.lock");
        // Only for us: whoever can open it can lock it.
        let open = || {
            fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(&path)
        };
        for _ in 0..LOCK_TRIES {
            if let Ok(lock) = Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
                fs::write(&path, format!("{}\n", std::process::id()))?;
                return Ok(Taken { _lock: lock, path });
            }
            // Somebody who only asks holds it for a moment.
            std::thread::sleep(LOCK_AGAIN_AFTER);
        }
        bail!(
            "the servers of {} are running already (process {}); stop them first: ./mqtt_manage.sh stop",
            self.data.display(),
            fs::read_to_string(&path)
                .unwrap_or_default()
                .split_whitespace()
                .next()
                .unwrap_or("unknown")
        );
    }

    /// The process that runs the servers of this folder, and whether it has said that they are ready.
    pub(in crate::cli) fn runner(&self) -> anyhow::Result<Option<(i32, bool)>> {
        let path = self.data.join("run.lock");
        let file = match fs::OpenOptions::new().read(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(|| path.display().to_string())?,
        };
        // Shared: two who ask are not in each other's way.
        if Flock::lock(file, FlockArg::LockSharedNonblock).is_ok() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        let mut words = text.split_whitespace();
        let is_ours = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "iotflow");
        let pid = words.next().and_then(|word| word.parse().ok()).filter(is_ours);
        Ok(pid.map(|pid| (pid, words.next() == Some("ready"))))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A number that stayed would be somebody else's one day.
        drop(fs::write(&self.path, ""));
    }
}

/// The folder is this process's.
#[derive(Debug)]
pub(in crate::cli) struct Taken {
    _lock: Flock<fs::File>,
    path: PathBuf,
}

impl Taken {
    /// Says to whoever waits that the servers are ready.
    pub(in crate::cli) fn ready(&self) -> std::io::Result<()> {
        fs::write(&self.path, format!("{} ready\n", std::process::id()))
    }
}

/// The variables of the installation in `data`; none where there is no installation.
pub(in crate::cli) fn variables(data: &Path) -> anyhow::Result<HashMap<String, String>> {
    match dotenvy::from_path_iter(data.join(ENV)) {
        Ok(pairs) => Ok(pairs.collect::<Result<_, _>>()?),
        Err(error) if error.not_found() => Ok(HashMap::new()),
        Err(error) => Err(error).with_context(|| data.join(ENV).display().to_string()),
    }
}

/// Writes a file that only we can read, whole or not at all.
pub(in crate::cli) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    Ok(disk::replace(path, text.as_bytes(), disk::PRIVATE, None)?)
}

/// The data folder, or one that the servers' account can reach where it cannot reach that.
fn servers_folder(data: &Path) -> anyhow::Result<PathBuf> {
    let account = Account::for_servers()?;
    if account.can_reach(&data.join("x")) {
        return Ok(data.to_owned());
    }
    let elsewhere = PathBuf::from(format!("/var/tmp/iotflow-{:016x}", xxh3_64(data.as_os_str().as_encoded_bytes())));
    // Everybody can make a folder there, and whoever makes this one first must not get our files into it.
    account.create_passage(&elsewhere)?;
    fs::write(data.join("elsewhere"), format!("{}\n", elsewhere.display()))?;
    Ok(elsewhere)
}
