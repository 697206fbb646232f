//! A broker that is kept in step with a database, as `iotflow broker run` keeps it: both real, and the agent in the test's process.

use iotflow::access::agent;
use iotflow::access::apply::Applier;
use iotflow::broker::certs::authority::{Authority, Existing};
use iotflow::broker::conf::{self, Kind, Listener, Paths};
use iotflow::broker::passwords::Hash;
use iotflow::broker::process::Process;
use iotflow::broker::shelf::Shelf;
use iotflow::db::config::Config as DbConfig;
use iotflow::db::migrate::migrate;
use iotflow::identity::users::{self, CANARY};
use iotflow::mqtt::config::{Config as MqttConfig, TlsConfig};
use iotflow::mqtt::connection::ConnectionError;
use iotflow::observe::secret::Secret;
use iotflow::protocol::id::{DeviceIdRef, Username};
use iotflow::protocol::rights::Role;
use iotflow::protocol::topic::TopicTree;
use iotflow::stack::account::Account;
use iotflow::stack::mosquitto::{self, Mosquitto};
use iotflow::stack::ports;
use iotflow::stack::postgres::Postgres;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::person::{Person, login};
use super::servers::{PASSWORD, connect, folder, start_postgres_with};
use super::{eventually, judge};

pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * 86_400);
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

/// See the module's documentation.
pub struct Site {
    pub sql: Client,
    pub db: DbConfig,
    pub applier: Applier,
    pub broker: Mosquitto,
    pub ports: Ports,
    pub paths: Paths,
    pub postgres: Postgres,
    _agent: Option<DropGuard>,
    // Dropped last: the servers write into it until they end.
    pub folder: TempDir,
}

/// Where the listeners are.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub staff: u16,
    pub plain: u16,
    pub web_sockets: u16,
    pub tls: u16,
    pub mutual_tls: u16,
}

fn make_certificates(paths: &Paths, owner: Option<(u32, u32)>) {
    let (mut authority, _) =
        Authority::create(&paths.certs(), "test", CA_VALIDITY, Existing::Keep).unwrap_or_else(|error| panic!("{error}"));
    if let Some((user, group)) = owner {
        authority.give_server_key_to(user, group).unwrap_or_else(|error| panic!("{error}"));
    }
    authority
        .issue_server(&["127.0.0.1".to_owned()], LEAF_VALIDITY)
        .unwrap_or_else(|error| panic!("{error}"));
    authority
        .issue_device(DeviceIdRef::parse(CANARY).expect("a device id"), LEAF_VALIDITY)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// TLS to the broker at `paths`, with the certificate of this name.
pub fn tls(paths: &Paths, name: Option<&str>) -> TlsConfig {
    let file = |name: &str, ending: &str| paths.certs().join("devices").join(format!("{name}.{ending}"));
    TlsConfig {
        ca_cert: paths.certs().join("ca.pem"),
        client: name.map(|name| (file(name, "pem"), file(name, "key"))),
    }
}

impl Site {
    /// With an agent that keeps the broker in step.
    pub async fn start() -> Self {
        let mut site = Self::without_agent().await;
        site.start_agent();
        site
    }

    /// With listeners for TLS, with and without certificates of clients, beside the others; and an agent.
    pub async fn with_certificates() -> Self {
        let mut site = Self::prepare(true, false).await;
        site.start_agent();
        site
    }

    /// The same, as it would be in earnest: a commit waits for the disk.
    pub async fn durable() -> Self {
        let mut site = Self::prepare(true, true).await;
        site.start_agent();
        site
    }

    /// Started with what the database says, and left alone.
    pub async fn without_agent() -> Self {
        Self::prepare(false, false).await
    }

    async fn prepare(certificates: bool, durable: bool) -> Self {
        let folder = folder();
        let (postgres, _) = start_postgres_with(folder.path(), durable).await;
        let db = DbConfig {
            url: postgres.url(),
            ..DbConfig::default()
        };
        migrate(&db).await.expect("it migrates");
        let mut sql = connect(db.url.reveal()).await;
        let place = folder.path().join("broker");
        let paths = Paths::of(&place);
        let account = Account::for_servers().expect("an account");
        account.create_passage(&place).expect("it is ours");
        if certificates {
            make_certificates(&paths, account.lent());
        }
        let free = || ports::free().expect("there is a free port");
        let ports = Ports {
            staff: free(),
            plain: free(),
            web_sockets: free(),
            tls: free(),
            mutual_tls: free(),
        };
        let listeners: Vec<Listener> = [
            (Kind::Staff, ports.staff),
            (Kind::Plain, ports.plain),
            (Kind::WebSockets, ports.web_sockets),
            (Kind::Tls, ports.tls),
            (Kind::MutualTls, ports.mutual_tls),
        ]
        .into_iter()
        .take(if certificates { 5 } else { 3 })
        .map(|(kind, port)| Listener {
            kind,
            address: "127.0.0.1".to_owned(),
            port,
        })
        .collect();
        let mut broker = Mosquitto::prepare(mosquitto::Settings {
            conf: conf::render(&paths, &listeners, &[("sys_interval", "1")]).expect("the template has it") + "\nlog_type information\n",
            folder: place,
            port: listeners.last().expect("there are some").port,
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let mut proven = vec![login(ports.staff, None), login(ports.plain, None)];
        if certificates {
            proven.push(MqttConfig {
                tls: Some(tls(&paths, None)),
                ..login(ports.tls, None)
            });
            proven.push(MqttConfig {
                tls: Some(tls(&paths, Some(CANARY))),
                ..login(ports.mutual_tls, None)
            });
        }
        let applier = Applier {
            tree: TopicTree::new("iotflow").expect("a base topic"),
            shelf: Shelf::new(paths.clone(), account.lent()),
            process: Process::File(paths.pid()),
            listeners: proven,
        };
        applier.apply(&mut sql).await.unwrap_or_else(|error| panic!("{error}"));
        broker.resume().await.unwrap_or_else(|error| panic!("{error}"));
        applier.prove().await.unwrap_or_else(|error| panic!("{error}"));
        Self {
            sql,
            db,
            applier,
            broker,
            ports,
            paths,
            postgres,
            _agent: None,
            folder,
        }
    }

    /// Logs in with a certificate of this name.
    pub async fn certified(&self, name: &str, client_id: &str) -> Result<Person, ConnectionError> {
        let config = MqttConfig {
            tls: Some(tls(&self.paths, Some(name))),
            ..login(self.ports.mutual_tls, None)
        };
        Person::connect(&config, client_id).await
    }

    pub fn start_agent(&mut self) {
        let stop = CancellationToken::new();
        let (alarm, _) = mpsc::channel(1);
        tokio::spawn(agent::run(self.applier.clone(), self.db.clone(), stop.clone(), alarm));
        self._agent = Some(stop.drop_guard());
    }

    /// Adds users, each with [`PASSWORD`].
    pub async fn add(&self, people: &[(&str, Role)]) {
        let hash = Hash::of_generated(&Secret::new(PASSWORD)).expect("randomness");
        for (name, role) in people {
            let username = Username::parse(name).expect("a user name");
            users::create(&self.sql, &username, *role, Some(hash.as_str()))
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            self.sql
                .execute(
                    "INSERT INTO devices (device) SELECT $1 WHERE $2 = 'device' ON CONFLICT DO NOTHING",
                    &[name, &role.as_str()],
                )
                .await
                .expect("it is a device id");
        }
    }

    /// Makes a device a member of a group.
    pub async fn join(&self, device: &str, group: &str) {
        let sql = "WITH made AS (INSERT INTO device_groups VALUES ($2) ON CONFLICT DO NOTHING)
                   INSERT INTO device_group_members SELECT $2, device_id FROM devices WHERE device = $1";
        self.sql.execute(sql, &[&device, &group]).await.expect("it is a device");
    }

    /// Waits until the broker obeys what the database says now.
    pub async fn in_force(&self) {
        let version = judge::number(&self.sql, "SELECT version FROM broker_access").await;
        eventually(&format!("version {version} is in force"), async || {
            (judge::number(&self.sql, "SELECT applied_version FROM broker_access").await >= version).then_some(())
        })
        .await;
    }

    /// Logs in where staff does.
    pub async fn staff(&self, name: &str, client_id: &str) -> Person {
        Person::connect(&login(self.ports.staff, Some((name, PASSWORD))), client_id)
            .await
            .unwrap_or_else(|error| panic!("{name} cannot log in: {error}"))
    }

    /// Logs in where devices do.
    pub async fn device(&self, name: &str) -> Person {
        Person::connect(&login(self.ports.plain, Some((name, PASSWORD))), name)
            .await
            .unwrap_or_else(|error| panic!("{name} cannot log in: {error}"))
    }

    /// How often the broker has read its files again.
    pub fn reloads(&self) -> usize {
        std::fs::read_to_string(self.paths.log())
            .expect("it is ours")
            .matches("Reloading config")
            .count()
    }
}
