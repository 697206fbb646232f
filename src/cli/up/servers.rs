//! The servers of `iotflow up`: those that the variables name, or private ones.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::app::App;
use crate::broker::acl::{self, Role};
use crate::broker::{conf, passwords};
use crate::cli::Sources;
use crate::config::Config;
use crate::observe::secret::Secret;
use crate::stack::account::{Account, write_private};
use crate::stack::mosquitto::{self, Files, Mosquitto};
use crate::stack::ports;
use crate::stack::postgres::{self, Postgres};

use super::plan::{Plan, wait_until_ready};

/// The broker's users: the service, and the demonstration fleet.
const SERVICE: &str = "iotflow";
const FLEET: &str = "demo";

/// The servers that are ours, and how the fleet reaches them.
pub(super) struct Stack {
    pub(super) broker: Option<Mosquitto>,
    pub(super) postgres: Option<Postgres>,
    pub(super) fleet_login: Option<(String, Secret)>,
}

impl Plan {
    /// Starts the servers that no variable names, and the service on them.
    pub(super) async fn start(&self, sources: &Sources, config: &mut Config) -> anyhow::Result<(Stack, App)> {
        let mut stack = Stack {
            broker: None,
            postgres: None,
            fleet_login: None,
        };
        let servers = self.servers_folder()?;
        if sources.is_set("DATABASE_URL") {
            println!("  database  as DATABASE_URL says");
        } else {
            let postgres = self.start_postgres(&servers).await?;
            config.db.url = postgres.url();
            stack.postgres = Some(postgres);
        }
        if sources.is_set("MQTT_HOST") {
            println!("  broker    {}:{}, as MQTT_HOST says", config.mqtt.host, config.mqtt.port);
            stack.fleet_login = config.mqtt.username.clone().zip(config.mqtt.password.clone());
        } else {
            let (broker, port, login, fleet_login) = self.start_mosquitto(&servers, &config.ingest.base_topic).await?;
            (config.mqtt.host, config.mqtt.port, config.mqtt.tls) = ("127.0.0.1".to_owned(), port, None);
            (config.mqtt.username, config.mqtt.password) = (Some(login.0), Some(login.1));
            stack.fleet_login = Some(fleet_login);
            stack.broker = Some(broker);
        }
        if !sources.is_set("PORT") {
            config.api.port = ports::usual_or_free(config.api.port)?;
        }
        let app = App::start(config.clone()).await?;
        println!("  service   http://{}", app.address);
        wait_until_ready(&app).await?;
        Ok((stack, app))
    }

    /// The data folder, or one that the servers' account can reach where it cannot reach that.
    fn servers_folder(&self) -> anyhow::Result<PathBuf> {
        let account = Account::for_servers()?;
        if account.can_reach(&self.data.join("x")) {
            return Ok(self.data.clone());
        }
        let elsewhere = PathBuf::from(format!(
            "/var/tmp/iotflow-{:016x}",
            xxh3_64(self.data.as_os_str().as_encoded_bytes())
        ));
        std::fs::create_dir_all(&elsewhere)?;
        std::fs::write(self.data.join("elsewhere"), format!("{}\n", elsewhere.display()))?;
        println!(
            "  data      the servers' account cannot reach {}; their data is in {}",
            self.data.display(),
            elsewhere.display()
        );
        Ok(elsewhere)
    }

    async fn start_postgres(&self, servers: &Path) -> anyhow::Result<Postgres> {
        let port = ports::usual_or_free(5432)?;
        let password = self.secret("postgres")?;
        let settings = postgres::Settings {
            folder: servers.join("postgres"),
            port,
            password: password.clone(),
            durable: true,
            extra: Vec::new(),
        };
        let server = Postgres::start(settings).await?;
        write_private(
            &self.data.join("pgpass"),
            &format!("127.0.0.1:{port}:*:iotflow:{}\n", password.reveal()),
        )?;
        println!("  database  PostgreSQL on 127.0.0.1:{port}");
        Ok(server)
    }

    async fn start_mosquitto(&self, servers: &Path, base: &str) -> anyhow::Result<(Mosquitto, u16, (String, Secret), (String, Secret))> {
        let port = ports::usual_or_free(1883)?;
        let folder = servers.join("mosquitto");
        let files = Files::of(&folder);
        let (service, fleet) = (self.secret("mqtt-service")?, self.secret("mqtt-demo")?);
        let settings = mosquitto::Settings {
            conf: conf::render(&[
                ("listener", &format!("{port} 127.0.0.1")),
                ("password_file", &files.passwords.display().to_string()),
                ("acl_file", &files.acl.display().to_string()),
                ("persistence_location", &files.data),
            ])?,
            passwords: passwords::line(SERVICE, &service, passwords::salt()?)? + &passwords::line(FLEET, &fleet, passwords::salt()?)?,
            acl: acl::render(base, &[(SERVICE, Role::Service), (FLEET, Role::Fleet)]),
            folder,
            port,
        };
        let broker = Mosquitto::start(settings).await?;
        // Where mosquitto_pub finds its options, so that no password stands on a command line.
        let client = self.data.join("client");
        std::fs::create_dir_all(&client)?;
        write_private(
            &client.join("mosquitto_pub"),
            &format!("-h 127.0.0.1\n-p {port}\n-u {FLEET}\n-P {}\n-V 5\n-q 1\n", fleet.reveal()),
        )?;
        println!("  broker    Mosquitto on 127.0.0.1:{port}");
        Ok((broker, port, (SERVICE.to_owned(), service), (FLEET.to_owned(), fleet)))
    }

    /// A generated secret, kept from one run to the next.
    fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        let folder = self.data.join("secrets");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(name);
        if let Ok(text) = std::fs::read_to_string(&file) {
            return Ok(Secret::new(text.trim()));
        }
        let secret = passwords::generate()?;
        write_private(&file, secret.reveal())?;
        Ok(secret)
    }
}
