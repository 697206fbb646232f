//! The servers of `iotflow up`: those that the variables name, or the installation's own.

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::api::server;
use crate::app::App;
use crate::broker::conf::Kind;
use crate::cli::Sources;
use crate::cli::installation::folder::{Installation, Settings, Taken};
use crate::cli::installation::servers::{SERVICE, SERVICE_SECRET};
use crate::config::Config;
use crate::observe::secret::Secret;
use crate::protocol::rights::Role;
use crate::stack::account::write_private;
use crate::stack::ports;
use crate::stack::postgres::Postgres;

use super::plan::{Plan, wait_until_ready};

/// The demonstration fleet's user.
const FLEET: &str = "demo";
const FLEET_SECRET: &str = "mqtt-demo";

/// The servers that are ours, and how the fleet reaches them.
pub(super) struct Stack {
    pub(super) broker: Option<RunningBroker>,
    pub(super) postgres: Option<Postgres>,
    pub(super) fleet_login: Option<(String, Secret)>,
    // The folder is ours until the servers have ended.
    taken: Taken,
}

/// A broker with its supervisor, which ends it.
pub(super) struct RunningBroker {
    stop: CancellationToken,
    supervisor: tokio::task::JoinHandle<()>,
}

impl Plan {
    /// Starts the servers that no variable names, and the service on them.
    pub(super) async fn start(&self, sources: &Sources, config: &mut Config) -> anyhow::Result<(Stack, App)> {
        let installation = Installation::create(&self.data)?;
        if installation.servers != installation.data {
            println!(
                "  data      the servers' account cannot reach {}; their data is in {}",
                installation.data.display(),
                installation.servers.display()
            );
        }
        let mut stack = Stack {
            broker: None,
            postgres: None,
            fleet_login: None,
            taken: installation.take()?,
        };
        let named = sources.is_set("DATABASE_URL");
        let database = installation.start_database(config.db.clone(), named).await?;
        config.db = database.config;
        stack.postgres = database.server;
        match stack.postgres {
            None => println!("  database  as DATABASE_URL says"),
            Some(_) => println!("  database  PostgreSQL on 127.0.0.1:{}", port_of(&config.db.url)?),
        }
        if sources.is_set("MQTT_HOST") {
            println!("  broker    {}:{}, as MQTT_HOST says", config.mqtt.host, config.mqtt.port);
            stack.fleet_login = config.mqtt.username.clone().zip(config.mqtt.password.clone());
        } else {
            self.start_broker(&installation, config, &mut stack).await?;
        }
        if !sources.is_set("PORT") {
            config.api.port = ports::usual_or_free(config.api.port)?;
        }
        let app = App::start(config.clone()).await?;
        println!("  service   http://{}", server::from_here(app.address));
        wait_until_ready(&app).await?;
        stack.taken.ready()?;
        Ok((stack, app))
    }

    async fn start_broker(&self, installation: &Installation, config: &mut Config, stack: &mut Stack) -> anyhow::Result<()> {
        let settings = self.settings(installation, &config.ingest.base_topic)?;
        let users = [(SERVICE, Role::Service, SERVICE_SECRET), (FLEET, Role::Fleet, FLEET_SECRET)];
        let broker = installation.start_broker(&settings, &config.db, &users).await?;
        installation.announce(&settings)?;
        let staff = broker.applier.listeners[0].clone();
        config.mqtt.tls = None;
        (config.mqtt.host, config.mqtt.port) = (staff.host, staff.port);
        config.mqtt.username = Some(SERVICE.to_owned());
        config.mqtt.password = Some(installation.secret(SERVICE_SECRET)?);
        config.ingest.share_name = Some(installation.secret("share-name")?);
        let fleet = installation.secret(FLEET_SECRET)?;
        // Where mosquitto_pub finds its options, so that no password stands on a command line.
        let client = self.data.join("client");
        std::fs::create_dir_all(&client)?;
        write_private(
            &client.join("mosquitto_pub"),
            &format!("-h 127.0.0.1\n-p {}\n-u {FLEET}\n-P {}\n-V 5\n-q 1\n", staff.port, fleet.reveal()),
        )?;
        println!("  broker    Mosquitto on 127.0.0.1:{}", staff.port);
        stack.fleet_login = Some((FLEET.to_owned(), fleet));
        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(broker.supervise(config.db.clone(), stop.clone()));
        stack.broker = Some(RunningBroker { stop, supervisor });
        Ok(())
    }

    /// What the installation was told; or for one that was told nothing, its staff's and its devices' listener, on loopback and
    /// on ports that are free.
    fn settings(&self, installation: &Installation, base_topic: &str) -> anyhow::Result<Settings> {
        if let Some(settings) = installation.settings()?.filter(|settings| !settings.improvised) {
            return Ok(settings);
        }
        let mut settings = Settings {
            improvised: true,
            ..Settings::usual(base_topic, false)
        };
        settings
            .listeners
            .retain(|listener| matches!(listener.kind, Kind::Staff | Kind::Plain));
        for listener in &mut settings.listeners {
            listener.port = ports::usual_or_free(listener.port)?;
        }
        installation.remember(&settings)?;
        Ok(settings)
    }
}

impl Stack {
    /// Ends the servers in order.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        if let Some(broker) = self.broker {
            broker.stop.cancel();
            broker.supervisor.await?;
        }
        if let Some(mut postgres) = self.postgres {
            postgres.halt(Signal::SIGINT)?;
        }
        Ok(())
    }
}

fn port_of(url: &Secret) -> anyhow::Result<u16> {
    let url = url.reveal().parse::<tokio_postgres::Config>()?;
    Ok(url.get_ports().first().copied().unwrap_or(5432))
}
