//! A PostgreSQL and a Mosquitto for one test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use iotflow::broker::access_set::{AccessSet, Canary};
use iotflow::broker::acl::Member;
use iotflow::broker::conf::{self, Kind, Listener, Paths};
use iotflow::broker::passwords::Hash;
use iotflow::broker::shelf::Shelf;
use iotflow::observe::secret::Secret;
use iotflow::protocol::id::Username;
use iotflow::protocol::rights::Role;
use iotflow::protocol::topic::TopicTree;
use iotflow::stack::account::Account;
use iotflow::stack::mosquitto::{self, Mosquitto};
use iotflow::stack::ports;
use iotflow::stack::postgres::{self, Postgres};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const FOLDER_PREFIX: &str = "iotflow-test-";
/// The broker's user for everybody in a test.
pub const SERVICE: &str = "iotflow";
pub const FLEET: &str = "fleet";
pub const PASSWORD: &str = "only-for-this-test";

/// See the module's documentation.
pub struct Servers {
    pub postgres: Postgres,
    pub broker: Mosquitto,
    pub mqtt_port: u16,
    pub postgres_port: u16,
    // Dropped last: the servers write into it until they end.
    folder: TempDir,
}

impl Servers {
    pub async fn start() -> Self {
        Self::with_conf(|_| {}).await
    }

    /// With further lines in, or other lines of, `mosquitto.conf`.
    pub async fn with_conf(change: impl FnOnce(&mut String)) -> Self {
        Self::with(change, false).await
    }

    /// As they would be in earnest: a commit waits for the disk.
    pub async fn durable() -> Self {
        Self::with(|_| {}, true).await
    }

    async fn with(change: impl FnOnce(&mut String), durable: bool) -> Self {
        let folder = folder();
        let (postgres, postgres_port) = start_postgres_with(folder.path(), durable).await;
        let mqtt_port = ports::free().expect("there is a free port");
        let place = folder.path().join("mosquitto");
        let paths = Paths::of(&place);
        let listener = Listener {
            kind: Kind::Staff,
            address: "127.0.0.1".to_owned(),
            port: mqtt_port,
        };
        let mut conf = conf::render(&paths, &[listener], &[("sys_interval", "1")]).expect("the template has these settings");
        change(&mut conf);
        let settings = mosquitto::Settings {
            conf,
            folder: place,
            port: mqtt_port,
        };
        let mut broker = Mosquitto::prepare(settings).unwrap_or_else(|error| panic!("{error}"));
        put_access(&paths, &[(SERVICE, Role::Service), (FLEET, Role::Fleet)]);
        broker.resume().await.unwrap_or_else(|error| panic!("{error}"));
        Self {
            postgres,
            broker,
            mqtt_port,
            postgres_port,
            folder,
        }
    }

    /// A connection to the database, straight.
    pub async fn sql(&self) -> Client {
        connect(self.postgres.url().reveal()).await
    }

    /// The variables of a service on these servers.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment(self.mqtt_port, self.postgres.url().reveal())
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Lets these users in, each with [`PASSWORD`].
pub fn put_access(paths: &Paths, users: &[(&str, Role)]) {
    let hash = Hash::of_generated(&Secret::new(PASSWORD)).expect("randomness");
    let member = |(name, role): &(&str, Role)| Member {
        username: Username::parse(name).expect("a good name"),
        role: *role,
        groups: Vec::new(),
        disabled: false,
    };
    let members: Vec<_> = users.iter().map(|user| (member(user), Some(hash.clone()))).collect();
    let tree = TopicTree::new("iotflow").expect("a base topic");
    let canary = Canary::new(&tree, "canary").expect("randomness");
    let set = AccessSet::render(&tree, &members, &[], canary, &hash);
    let shelf = Shelf::new(paths.clone(), Account::for_servers().expect("an account").lent());
    let locked = shelf.lock().expect("the folder is ours");
    shelf.put(&locked, &set).expect("a sound set");
}

/// The variables of a service on these two.
pub fn environment(mqtt_port: u16, database_url: &str) -> Vec<(String, String)> {
    [
        ("MQTT_HOST", "127.0.0.1".to_owned()),
        ("MQTT_PORT", mqtt_port.to_string()),
        ("MQTT_USERNAME", SERVICE.to_owned()),
        ("MQTT_PASSWORD", PASSWORD.to_owned()),
        ("DATABASE_URL", database_url.to_owned()),
        ("PORT", "0".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// A PostgreSQL alone, and its port.
pub async fn start_postgres(folder: &Path) -> (Postgres, u16) {
    start_postgres_with(folder, false).await
}

/// The same, where a commit waits for the disk or does not.
pub async fn start_postgres_with(folder: &Path, durable: bool) -> (Postgres, u16) {
    let port = ports::free().expect("there is a free port");
    let settings = postgres::Settings {
        folder: folder.join("postgres"),
        port,
        password: Secret::new(PASSWORD),
        durable,
        extra: Vec::new(),
    };
    (Postgres::start(settings).await.unwrap_or_else(|error| panic!("{error}")), port)
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("the database answers");
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute("SET TIME ZONE 'UTC'").await.expect("a sound setting");
    client
}

/// A folder that the servers' account can enter, and that goes with the test. What a killed test left behind goes too.
pub fn folder() -> TempDir {
    sweep();
    let folder = tempfile::Builder::new()
        .prefix(&format!("{FOLDER_PREFIX}{}-", std::process::id()))
        .tempdir()
        .expect("the temporary folder can be written");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

fn sweep() {
    let stale = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(FOLDER_PREFIX)?;
        let pid = name.split('-').next()?;
        (!Path::new("/proc").join(pid).exists()).then_some(())
    };
    let entries = std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in entries.filter(|path| stale(path).is_some()) {
        let disk = path.join("small-disk");
        if disk.exists() {
            drop(std::process::Command::new("umount").arg("--lazy").arg(disk).output());
        }
        // Somebody else may be sweeping too.
        drop(std::fs::remove_dir_all(path));
    }
}
