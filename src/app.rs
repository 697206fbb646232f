//! The service: every part built in order, then run, then drained.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Pool;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::access::state::State as Access;
use crate::api::server;
use crate::api::state::Parts;
use crate::config::Config;
use crate::courier::broker::Heard;
use crate::courier::discovery::Clerk;
use crate::courier::system::Speaker;
use crate::courier::tap::Taps;
use crate::courier::{self, session};
use crate::db::error::describe;
use crate::db::flavour::Flavour;
use crate::db::lease::{Lease, Seeker};
use crate::db::partitions::Partitions;
use crate::db::{migrate, pool};
use crate::devices::presence;
use crate::identity::jwt::verifier::Verifier;
use crate::ingest::copy::Store;
use crate::ingest::door::Door;
use crate::ingest::pipeline;
use crate::ingest::queue::Held;
use crate::ingest::rate::Rates;
use crate::ingest::receipts::{self, Asked, Outbox};
use crate::ingest::sessions::{self, Session};
use crate::ingest::subscribe::{Outlet, Purpose, Subscriber};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::mqtt::publisher::{Handle, Publisher};
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;
use crate::protocol::time;
use crate::protocol::topic::{BadBaseTopic, TopicTree};

/// How often partitions are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(600);
/// How often the metrics' histograms are folded and the queues looked at.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the broker obeys the database.
const ACCESS_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked who stopped sending heartbeats.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);
/// Connections to the database of whoever looks after registrations.
const CLERKS_CONNECTIONS: usize = 2;
/// The longest that a statement of a request may take.
const STATEMENT_WITHIN: Duration = Duration::from_secs(30);
/// Between the first attempts at two slots, so that the second knows whether the first was taken.
const SLOT_STAGGER: Duration = Duration::from_millis(200);

/// Connections to the database beside those of the writers.
pub const FURTHER_CONNECTIONS: usize = 3;

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
    give_up: CancellationToken,
    leases: CancellationToken,
    shutdown_timeout: Duration,
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
        let (give_up, leases) = (CancellationToken::new(), CancellationToken::new());

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
            courier::broker::watch(config.mqtt.clone(), heard, tasks.stop_token()),
        );
        let (publisher, handle) = Publisher::new(
            &config.mqtt,
            &config.ingest.group,
            readiness.latch("broker/publisher"),
            metrics.connection("publisher"),
            tasks.stop_token(),
        );
        tasks.spawn("publisher", publisher.run());
        let telemetry = Arc::new(OnceLock::new());
        let parts = Parts {
            // Created as they are needed: the database may not be there yet.
            pool: pool::impatient(&config.db, "api", config.api.connections, STATEMENT_WITHIN)?,
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
            stop: tasks.stop_token(),
        };
        let closed = give_up.clone();
        tasks.spawn("http", async move { door.run(parts, closed).await });

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
            give_up: give_up.clone(),
        };
        maintain_once(&store).await.context("partitions cannot be made")?;
        store.latch.ready("connected");

        let wanted = sessions::wanted(&config.ingest)?;
        let retired = sessions::retired(&store.pool, &wanted, &config.ingest.group).await?;
        let pipeline = pipeline::start(
            &config.ingest,
            &store,
            &tasks,
            config.mqtt.receive_maximum,
            wanted.len() + retired.len(),
        )?;
        let by_http = Arc::new(Door::new(&config.ingest, &store, pipeline.telemetry.clone())?);
        let (closed, stopped) = (Arc::clone(&by_http), tasks.stop_token());
        tasks.spawn("telemetry-by-http", async move {
            stopped.cancelled().await;
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
            give_up,
            leases,
            shutdown_timeout: config.shutdown_timeout.0,
        };
        let slots_held = Arc::default();
        for (index, session) in wanted.into_iter().chain(retired).enumerate() {
            let outlet = if session.status {
                Outlet::Status(pipeline.status.clone())
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
        app.start_presence(&store, config.presence.timeout);
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

    /// Stops reading, lets everything that was read be committed and acked, and takes leave of the broker.
    pub async fn stop(self) -> Ended {
        self.tasks.stop_token().cancel();
        let grace = self.shutdown_timeout;
        // The listener answers to the last: it is told to close when the rest has ended.
        let drained = self.tasks.join_except("http", grace).await;
        self.leases.cancel();
        self.give_up.cancel();
        let left = self.tasks.join(Duration::from_secs(1)).await;
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

    fn start_session(
        &self,
        config: &Config,
        store: &Store,
        session: Session,
        outlet: Outlet,
        receipts: Option<Asked>,
        (delay, slots_held): (Duration, &Arc<AtomicUsize>),
    ) -> Result<(), BadBaseTopic> {
        let (state, lease) = watch::channel(Lease::Sought);
        // The status session is no share of the load.
        let burden = if session.status { Arc::default() } else { Arc::clone(slots_held) };
        let seeker = Seeker {
            config: config.db.clone(),
            name: session.client_id.clone(),
            delay,
            burden,
            state,
        };
        // Kept until the session has taken its leave, and not counted among what must end first.
        let lease_end = self.leases.child_token();
        tokio::spawn(seeker.run(lease_end.clone()));
        let retiring = matches!(session.purpose, Purpose::Retire(_));
        // What a session that is to end still holds was sent long ago.
        let rates = if session.status || retiring {
            None
        } else {
            Rates::new(&config.ingest)?
        };
        let mut subscriber = Subscriber {
            name: session.name.clone(),
            client_id: session.client_id.clone(),
            purpose: session.purpose.clone(),
            stale: Vec::new(),
            outlet,
            mqtt: config.mqtt.clone(),
            lease,
            latch: self.readiness.latch(&format!("broker/{}", session.name)),
            accounting: Arc::clone(&self.accounting),
            metrics: Arc::clone(&self.metrics),
            held: Arc::clone(&store.held),
            stop: self.tasks.stop_token(),
            residue: Default::default(),
            delivered: Default::default(),
            rates,
            // Status is not telemetry, and has none.
            receipts: receipts.filter(|_| !session.status),
        };
        let store = store.clone();
        let stop = self.tasks.stop_token();
        self.tasks.spawn(session.name.clone(), async move {
            if !retiring {
                match sessions::register(&store.pool, &session).await {
                    Ok(stale) => subscriber.stale = stale,
                    Err(error) => {
                        warn!(%error, client_id = session.client_id, "the session could not be recorded; should it be given up one day, it must be ended by hand");
                    }
                }
            }
            subscriber.run().await;
            if retiring && !stop.is_cancelled() && let Err(error) = sessions::forget(&store.pool, &session).await {
                warn!(%error, client_id = session.client_id, "the ended session could not be struck off the record");
            }
            lease_end.cancel();
        });
        Ok(())
    }

    fn start_courier(&self, config: &Config, publisher: Handle, broker: watch::Receiver<Arc<Heard>>) -> anyhow::Result<()> {
        let speaks = publisher.clone();
        let tree = TopicTree::new(&config.ingest.base_topic)?;
        let clerks_pool = pool::pool(&config.db, "discovery", CLERKS_CONNECTIONS)?;
        let dropped = self.metrics.discovery_dropped.clone();
        let (clerk, registrations) = Clerk::new(config.discovery, tree.clone(), clerks_pool, publisher, dropped);
        self.tasks.spawn("discovery", clerk.run(self.tasks.stop_token()));
        let (state, lease) = watch::channel(Lease::Sought);
        let seeker = Seeker {
            config: config.db.clone(),
            name: session::client_id(&config.ingest.group),
            delay: Duration::ZERO,
            burden: Arc::default(),
            state,
        };
        let parts = session::Parts {
            mqtt: config.mqtt.clone(),
            db: config.db.clone(),
            tree,
            registrations,
            lease,
            latch: self.readiness.latch("broker/courier"),
            metrics: Arc::clone(&self.metrics),
            stop: self.tasks.stop_token(),
        };
        let speaker = Speaker {
            config: config.system,
            tree: parts.tree.clone(),
            publisher: speaks,
            lease: parts.lease.clone(),
            readiness: self.readiness.clone(),
            accounting: Arc::clone(&self.accounting),
            broker,
        };
        self.tasks.spawn("system-topics", speaker.run(self.tasks.stop_token()));
        let courier = session::Courier::new(&config.ingest.group, parts)?;
        // Kept until the session has taken its leave, and not counted among what must end first.
        let lease_end = self.leases.child_token();
        tokio::spawn(seeker.run(lease_end.clone()));
        self.tasks.spawn(session::NAME, async move {
            courier.run().await;
            lease_end.cancel();
        });
        Ok(())
    }

    /// Every replica sweeps; who comes second finds nothing left to do. Nobody is swept for the time in which we were not there to
    /// hear: the first sweep comes when a device has had its whole time.
    fn start_presence(&self, store: &Store, timeout: Duration) {
        if timeout.is_zero() {
            return;
        }
        let (stop, swept, pool) = (self.tasks.stop_token(), self.metrics.status_swept.clone(), store.pool.clone());
        self.tasks.spawn("presence", async move {
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + timeout, PRESENCE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                let sweep = sweep_once(&pool, timeout);
                match tokio::select! { () = stop.cancelled() => return, done = sweep => done } {
                    Ok(0) => {}
                    Ok(gone) => {
                        swept.increment(gone);
                        debug!(gone, "devices whose heartbeats stopped are offline");
                    }
                    // The writers say aloud what ails the database.
                    Err(error) => debug!(
                        error = format!("{error:#}"),
                        "who stopped sending heartbeats could not be looked for"
                    ),
                }
            }
        });
    }

    fn start_housekeeping(&self, store: Store, gauges: pipeline::QueueGauges) {
        let (stop, metrics, held) = (self.tasks.stop_token(), Arc::clone(&self.metrics), Arc::clone(&store.held));
        self.tasks.spawn("upkeep", async move {
            let mut tick = tokio::time::interval(UPKEEP_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                metrics.upkeep();
                gauges.update();
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
                metrics.held_bytes.set(held.bytes() as f64);
            }
        });
        let (stop, metrics, pool) = (self.tasks.stop_token(), Arc::clone(&self.metrics), store.pool.clone());
        self.tasks.spawn("access", async move {
            let mut tick = tokio::time::interval(ACCESS_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                // A database that is away is waited for no longer than until we are to stop.
                let looked = tokio::select! { () = stop.cancelled() => return, looked = look_at_access(&pool, &metrics) => looked };
                if let Err(error) = looked {
                    // The writers say aloud what ails the database.
                    debug!(
                        error = format!("{error:#}"),
                        "how far the broker is behind the database could not be read"
                    );
                }
            }
        });
        let stop = self.tasks.stop_token();
        self.tasks.spawn("partitions", async move {
            let mut tick = tokio::time::interval(MAINTENANCE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                if let Err(error) = maintain_once(&store).await {
                    error!(
                        error = format!("{error:#}"),
                        "partitions could not be looked after; they are made on demand meanwhile"
                    );
                }
            }
        });
    }
}

/// Sets the gauges of access. Where the database has no such row, nothing is kept in step from here, and nothing is behind.
async fn look_at_access(pool: &Pool, metrics: &Metrics) -> anyhow::Result<()> {
    let access = Access::read(&*pool.get().await?).await?;
    let (alarm, pending) = access.map_or((false, 0), |access| (access.alarm.is_some(), access.pending));
    metrics.access_alarm.set(f64::from(u8::from(alarm)));
    #[expect(clippy::cast_precision_loss, reason = "changes are far fewer than 2^53")]
    metrics.access_pending.set(pending as f64);
    Ok(())
}

async fn sweep_once(pool: &Pool, timeout: Duration) -> anyhow::Result<u64> {
    let client = pool.get().await?;
    presence::sweep(&**client, timeout)
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
}

async fn maintain_once(store: &Store) -> anyhow::Result<()> {
    let mut client = store.pool.get().await?;
    store
        .partitions
        .maintain(&mut client, time::now())
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
}
