//! The service: every part built in order, then run, then drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::server;
use crate::config::Config;
use crate::db::error::describe;
use crate::db::flavour::Flavour;
use crate::db::lease::{Lease, Seeker};
use crate::db::partitions::Partitions;
use crate::db::{migrate, pool};
use crate::ingest::copy::Store;
use crate::ingest::pipeline;
use crate::ingest::queue::Held;
use crate::ingest::rate::Rates;
use crate::ingest::sessions::{self, Session};
use crate::ingest::subscribe::{Outlet, Purpose, Subscriber};
use crate::lifecycle::readiness::Readiness;
use crate::lifecycle::tasks::Tasks;
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;
use crate::protocol::time;
use crate::protocol::topic::BadBaseTopic;

/// How often partitions are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(600);
/// How often the metrics' histograms are folded and the queues looked at.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// Between the first attempts at two slots, so that the second knows whether the first was taken.
const SLOT_STAGGER: Duration = Duration::from_millis(200);

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
        let server = server::bind(&config.api, readiness.clone(), (Arc::clone(&metrics), Arc::clone(&accounting)))
            .await
            .with_context(|| format!("HOST={} PORT={} cannot be listened on", config.api.host, config.api.port))?;
        let address = server.address()?;
        info!(%address, "listening");
        let closed = give_up.clone();
        tasks.spawn("http", async move { server.run(closed).await });

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
        // A connection each for the writers, and for the status stage, names and partitions.
        let store = Store {
            pool: pool::pool(&config.db, "ingest", config.ingest.shards + 2)?,
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
                (SLOT_STAGGER * u32::try_from(index).unwrap_or(0), &slots_held),
            )?;
        }
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

async fn maintain_once(store: &Store) -> anyhow::Result<()> {
    let mut client = store.pool.get().await?;
    store
        .partitions
        .maintain(&mut client, time::now())
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
}
