//! What has to be looked after for as long as the service runs: figures, access, partitions, presence.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Pool};
use jiff::Timestamp;
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info};

use crate::access::state::State as Access;
use crate::db::error::describe;
use crate::devices::commands::read::Place;
use crate::devices::commands::retention::{self, Forgotten};
use crate::devices::presence;
use crate::ingest::copy::Store;
use crate::ingest::hearing::Hearing;
use crate::ingest::pipeline;
use crate::observe::metrics::Metrics;
use crate::protocol::time;

use super::App;

/// How often partitions are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(600);
/// How often the metrics' histograms are folded and the queues looked at.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the broker obeys the database.
const ACCESS_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked who stopped sending heartbeats.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);

impl App {
    /// The replica sweeps that hears the devices, and nobody for a time in which it did not: see [`Hearing`].
    pub(super) fn start_presence(&self, store: &Store, hearing: Arc<Hearing>, timeout: Duration) {
        if timeout.is_zero() {
            return;
        }
        let (stop, swept, pool) = (self.tasks.stop_token(), self.metrics.status_swept.clone(), store.pool.clone());
        self.tasks.spawn("presence", async move {
            let mut tick = tokio::time::interval(PRESENCE_EVERY.min(timeout));
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                let now = time::now();
                let Some(silent_before) = hearing.silent_before(now, timeout) else {
                    continue;
                };
                let sweep = sweep_once(&pool, silent_before, now);
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

    /// Every replica does so; what one is at the others pass over.
    pub(super) fn start_command_retention(&self, store: &Store, retention: Duration) {
        if retention.is_zero() {
            return;
        }
        let (stop, pool) = (self.tasks.stop_token(), store.pool.clone());
        self.tasks.spawn("command-retention", async move {
            let mut tick = tokio::time::interval(MAINTENANCE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
                let forgotten = forget_commands(&pool, retention);
                match tokio::select! { () = stop.cancelled() => return, done = forgotten => done } {
                    Ok(0) => {}
                    Ok(commands) => info!(commands, "commands that came to their end were dropped by retention"),
                    // The writers say aloud what ails the database.
                    Err(error) => debug!(error = format!("{error:#}"), "old commands could not be looked for"),
                }
            }
        });
    }

    pub(super) fn start_housekeeping(&self, store: Store, gauges: pipeline::QueueGauges) {
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

async fn sweep_once(pool: &Pool, silent_before: i64, now: i64) -> anyhow::Result<u64> {
    let client = pool.get().await?;
    presence::sweep(
        &**client,
        Timestamp::from_microsecond(silent_before)?,
        Timestamp::from_microsecond(now)?,
    )
    .await
    .map_err(|error| anyhow::anyhow!(describe(&error)))
}

/// One pass over all that are old, a transaction for each handful of them.
async fn forget_commands(pool: &Pool, retention: Duration) -> anyhow::Result<u64> {
    let (mut commands, mut place) = (0, None);
    loop {
        let mut client = pool.get().await?;
        let forgotten = forget_some(&mut client, retention, place.as_ref())
            .await
            .map_err(|error| anyhow::anyhow!(describe(&error)))?;
        commands += forgotten.commands;
        place = forgotten.place;
        if place.is_none() {
            return Ok(commands);
        }
    }
}

async fn forget_some(client: &mut Client, retention: Duration, behind: Option<&Place>) -> Result<Forgotten, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let forgotten = retention::forget(&*transaction, retention, behind).await?;
    transaction.commit().await?;
    Ok(forgotten)
}

pub(super) async fn maintain_once(store: &Store) -> anyhow::Result<()> {
    let mut client = store.pool.get().await?;
    store
        .partitions
        .maintain(&mut client, time::now())
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
}
