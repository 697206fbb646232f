//! The service: every part built in order, then run, then drained.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::server;
use crate::api::state::Parts;
use crate::config::Config;
use crate::courier::broker as broker_report;
use crate::courier::session;
use crate::courier::tap::Taps;
use crate::db::flavour::Flavour;
use crate::db::partitions::Partitions;
use crate::db::{migrate, pool};
use crate::identity::jwt::verifier::Verifier;
use crate::ingest::copy::Store;
use crate::ingest::door::Door;
use crate::ingest::pipeline;
use crate::ingest::queue::Held;
use crate::ingest::receipts::{self, Asked, Outbox};
use crate::ingest::sessions as ingest_sessions;
use crate::ingest::subscribe::Outlet;
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::mqtt::publisher::Publisher;
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;
use crate::operations::waiting::Watch;
use crate::protocol::topic::TopicTree;

mod courier;
mod housekeeping;
mod sessions;

/// The longest that a statement of a request may take.
const STATEMENT_WITHIN: Duration = Duration::from_secs(30);
/// The tasks that a stop waits for in an order.
const HTTP: &str = "http";
const PUBLISHER: &str = "publisher";
/// Between the first attempts at two slots, so that the second knows whether the first was taken.
const SLOT_STAGGER: Duration = Duration::from_millis(200);

/// Connections of ingest to the database beside those of the writers.
const FURTHER_CONNECTIONS: usize = 4;
/// The courier's: its visits, and one that listens.
const COURIERS_CONNECTIONS: usize = session::CONNECTIONS + 1;

/// The most connections to the database that one replica has: of ingest, a session for each lease, of requests, of the courier and of
/// whoever looks after registrations.
#[must_use]
pub fn database_connections(config: &Config) -> usize {
    let leases = ingest_sessions::wanted(&config.ingest).map_or(1, |wanted| wanted.len()) + 1;
    let ingest = config.ingest.shards + FURTHER_CONNECTIONS;
    ingest + leases + config.api.connections + COURIERS_CONNECTIONS + courier::CLERKS_CONNECTIONS
}

/// A running service.
#[derive(Debug)]
pub struct App {
    /// Where the HTTP listener is.
    pub address: SocketAddr,
    /// Whether every part can do its work.
    pub readiness: Readiness,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
    /// The series.
    pub metrics: Arc<Metrics>,
    tasks: Tasks,
    ends: Ends,
    shutdown_timeout: Duration,
}

/// What ends after the sources of a service have been told to stop, each at its time.
#[derive(Debug, Default)]
struct Ends {
    /// Requests that are still under way are cut off.
    hang_up: CancellationToken,
    /// Nobody has anything to say to the broker any more.
    last_words: CancellationToken,
    /// What cannot be committed stays with the broker.
    give_up: CancellationToken,
    /// The sessions are for others to take.
    leases: CancellationToken,
}

/// How a service came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// All that was read is committed and acked.
    Drained,
    /// Some of it stays with the broker, unacked.
    Undrained,
    /// The task with this name crashed.
    Crashed(String),
}

impl App {
    /// Builds every part and sets it to work. The database must answer; the broker may come later.
    ///
    /// # Errors
    /// When the port is taken, or the database cannot be reached or migrated.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let (metrics, accounting, readiness, tasks) = (
            Metrics::new(),
            Arc::new(Accounting::default()),
            Readiness::default(),
            Tasks::default(),
        );
        let ends = Ends::default();

        // Parts post their condition as they are built; until all have, this one keeps the service unready.
        let startup = readiness.latch("startup");
        let migrations = readiness.latch("migrations");
        let door = server::bind(&config.api)
            .await
            .with_context(|| format!("HOST={} PORT={} cannot be listened on", config.api.host, config.api.port))?;
        let address = door.address()?;
        info!(%address, "listening");
        let (heard, broker) = watch::channel(Arc::default());
        tasks.spawn(
            "broker-report",
            broker_report::watch(config.mqtt.clone(), heard, tasks.stop_token()),
        );
        let (publisher, handle) = Publisher::new(
            &config.mqtt,
            &config.ingest.group,
            readiness.latch("broker/publisher"),
            metrics.connection("publisher"),
            ends.last_words.clone(),
        );
        tasks.spawn(PUBLISHER, publisher.run());
        let telemetry = Arc::new(OnceLock::new());
        // Created as they are needed: the database may not be there yet.
        let requests = pool::impatient(&config.db, "api", config.api.connections, STATEMENT_WITHIN)?;
        let (watch, waiting) = Watch::new(requests.clone());
        tasks.spawn("command-watch", watch.run(tasks.stop_token()));
        let parts = Parts {
            pool: requests,
            waiting,
            tree: TopicTree::new(&config.ingest.base_topic)?,
            verifier: config
                .jwt
                .clone()
                .map(Verifier::new)
                .transpose()
                .context("JWT_KEYS cannot be used")?,
            mqtt: config.mqtt.clone(),
            broker: broker.clone(),
            publisher: handle.clone(),
            taps: Taps::new(config.mqtt.clone(), config.ingest.group.clone(), tasks.clone()),
            telemetry: Arc::clone(&telemetry),
            readiness: readiness.clone(),
            metrics: Arc::clone(&metrics),
            accounting: Arc::clone(&accounting),
            tasks: tasks.clone(),
        };
        let (answered, hang_up) = (CancellationToken::new(), ends.hang_up.clone());
        let last_answer = answered.clone().drop_guard();
        tasks.spawn(HTTP, async move {
            door.run(parts, hang_up).await;
            drop(last_answer);
        });

        migrate::migrate(&config.db)
            .await
            .context("the database cannot be brought up to date (DATABASE_URL)")?;
        migrations.ready("up to date");
        let flavour = Flavour::of_tables(&pool::connect(&config.db, "start").await?).await?;
        info!(?flavour, "database ready");

        let partitions = Partitions::new(
            flavour,
            config.partitions.clone(),
            metrics.partitions_created.clone(),
            metrics.partitions_dropped.clone(),
        );
        // A connection each for the writers, and for the status stage, names, and what looks after partitions and access.
        let store = Store {
            pool: pool::pool(&config.db, "ingest", config.ingest.shards + FURTHER_CONNECTIONS)?,
            partitions,
            copy_timeout: config.db.copy_timeout,
            latch: readiness.latch("database"),
            accounting: Arc::clone(&accounting),
            metrics: Arc::clone(&metrics),
            held: Arc::new(Held::new(config.ingest.held_bytes)),
            give_up: ends.give_up.clone(),
        };
        housekeeping::maintain_once(&store).await.context("partitions cannot be made")?;
        store.latch.ready("connected");

        let wanted = ingest_sessions::wanted(&config.ingest)?;
        let retired = ingest_sessions::retired(&store.pool, &wanted, &config.ingest.group).await?;
        let pipeline = pipeline::start(
            &config.ingest,
            &store,
            &tasks,
            config.mqtt.receive_maximum,
            wanted.len() + retired.len(),
        )?;
        let by_http = Arc::new(Door::new(&config.ingest, &store, pipeline.telemetry.clone())?);
        let closed = Arc::clone(&by_http);
        // The pipeline runs until nobody can hand it anything: no session, and no request.
        tasks.spawn("telemetry-by-http", async move {
            answered.cancelled().await;
            closed.close();
        });
        drop(telemetry.set(by_http));
        let receipts = config.ingest.receipts.then(|| {
            let (outbox, inbox) = Outbox::new(Arc::clone(&metrics));
            tasks.spawn("receipts", receipts::run(inbox, handle.clone(), Arc::clone(&metrics)));
            outbox
        });
        let receipts = receipts
            .map(|outbox| TopicTree::new(&config.ingest.base_topic).map(|tree| Asked::new(tree, outbox)))
            .transpose()?;
        let app = Self {
            address,
            readiness,
            accounting,
            metrics,
            tasks,
            ends,
            shutdown_timeout: config.shutdown_timeout.0,
        };
        let slots_held = Arc::default();
        for (index, session) in wanted.into_iter().chain(retired).enumerate() {
            let outlet = if session.status {
                Outlet::Status {
                    inbox: pipeline.status.clone(),
                    hearing: Arc::clone(&pipeline.hearing),
                }
            } else {
                Outlet::Telemetry(pipeline.telemetry.clone())
            };
            app.start_session(
                &config,
                &store,
                session,
                outlet,
                receipts.clone(),
                (SLOT_STAGGER * u32::try_from(index).unwrap_or(0), &slots_held),
            )?;
        }
        app.start_courier(&config, handle, broker)?;
        app.start_presence(&store, pipeline.hearing, config.presence.timeout);
        app.start_command_retention(&store, config.commands.retention);
        app.start_housekeeping(store, pipeline.gauges);
        startup.ready("every part was started");
        Ok(app)
    }

    /// Waits for a signal or a crash, whichever is first. `signal` says which signal came.
    pub async fn wait(&self, signal: impl Future<Output = &'static str>) {
        tokio::select! {
            name = signal => info!(signal = name, "stopping"),
            () = self.tasks.stop_token().cancelled_owned() => {}
        }
    }

    /// Stops reading and listening, lets every request be answered and everything that was read be committed and acked, and takes leave
    /// of the broker. What others need is ended after them.
    pub async fn stop(self) -> Ended {
        let (begun, grace) = (Instant::now(), self.shutdown_timeout);
        self.tasks.stop_token().cancel();
        // What requests have handed over takes its time too.
        drop(self.tasks.join_those(|name| name == HTTP, grace * 3 / 4).await);
        self.ends.hang_up.cancel();
        let drained = self
            .tasks
            .join_those(|name| name != PUBLISHER, grace.saturating_sub(begun.elapsed()))
            .await;
        self.ends.last_words.cancel();
        self.ends.leases.cancel();
        self.ends.give_up.cancel();
        let left = grace.saturating_sub(begun.elapsed()).max(Duration::from_secs(1));
        let left = self.tasks.join(left).await;
        if let Some(task) = self.tasks.crashed() {
            return Ended::Crashed(task);
        }
        match drained.and(left) {
            Ok(()) => {
                info!("everything that was read is committed and acked");
                Ended::Drained
            }
            Err(pending) => {
                warn!(
                    pending = pending.join(", "),
                    "stopped before everything was committed; what is unacked stays with the broker"
                );
                Ended::Undrained
            }
        }
    }
}
