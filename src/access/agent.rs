//! Keeps the broker in step with the database: waits for changes, lets them gather, applies them.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::config::Config as DbConfig;
use crate::db::error::describe;
use crate::db::listen::listen;
use crate::db::pool;
use crate::lifecycle::backoff::Backoff;

use super::apply::{Applier, ApplyError};

/// Where the database says that something changed.
const CHANNEL: &str = "access_changed";
/// A change waits this long for the next; a single one is in force within a second.
const QUIET: Duration = Duration::from_millis(200);
/// Changes that follow each other without a pause wait this long at most: ten thousand in a minute cost some twelve reloads.
const GATHER_MOST: Duration = Duration::from_secs(5);
/// Looks by itself this often, in case a word got lost.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How often one who waits to keep the files asks again.
const ASK_EVERY: Duration = Duration::from_secs(1);
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Held in the database by whoever keeps the files: two would undo each other's work. "iotfacc" in ASCII.
const LOCK: i64 = 0x69_6f74_6661_6363;

/// Whether somebody keeps the files now.
///
/// # Errors
/// The database's.
pub async fn is_at_work(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND (classid::bigint << 32) + objid::bigint = $1)",
            &[&LOCK],
        )
        .await?;
    Ok(row.get(0))
}

/// Runs until `stop`; a change that is under way is finished first. `alarm` hears of a broker that may be letting people do what
/// they must not: whoever runs it should end it.
pub async fn run(applier: Applier, config: DbConfig, stop: CancellationToken, alarm: mpsc::Sender<String>) {
    let (word, mut changes) = mpsc::channel(1);
    let work = async {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        while !stop.is_cancelled() {
            let kept = Keeper {
                applier: &applier,
                stop: &stop,
                alarm: &alarm,
            };
            if let Err(error) = kept.keep(&config, &mut changes, &mut backoff).await {
                warn!(
                    error = describe(&error),
                    "the database cannot be asked who may do what; the broker's files stand as they are"
                );
            }
            wait(&stop, backoff.next_wait(), std::future::pending()).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = listen(config.clone(), CHANNEL, word) => {}
    }
}

struct Keeper<'a> {
    applier: &'a Applier,
    stop: &'a CancellationToken,
    alarm: &'a mpsc::Sender<String>,
}

impl Keeper<'_> {
    async fn keep(&self, config: &DbConfig, changes: &mut mpsc::Receiver<()>, backoff: &mut Backoff) -> Result<(), tokio_postgres::Error> {
        let mut client = pool::connect(config, "access").await?;
        if !self.become_keeper(&client).await? {
            return Ok(());
        }
        info!("keeping who may do what at the broker");
        // Whatever the database says of what was applied: the files may be another's, or from before a restore.
        let mut behind = true;
        while !self.stop.is_cancelled() {
            if behind {
                match self.applier.apply(&mut client).await {
                    Ok(_) => backoff.reset(),
                    Err(ApplyError::Database(error)) => return Err(error),
                    Err(error) => {
                        if error.is_open() {
                            // Full: it has been told.
                            drop(self.alarm.try_send(error.to_string()));
                        }
                        // A new change may be the cure, so it is not waited for longer than for that.
                        wait(self.stop, backoff.next_wait(), changes.recv()).await;
                        continue;
                    }
                }
            }
            // What changed meanwhile gathers as well, or a stream of changes would be a stream of reloads.
            if !Applier::is_behind(&client).await? {
                wait(self.stop, LOOK_EVERY, changes.recv()).await;
            }
            gather(changes).await;
            behind = Applier::is_behind(&client).await?;
        }
        Ok(())
    }

    /// Waits until no other keeps the files; returns whether we do now.
    async fn become_keeper(&self, client: &Client) -> Result<bool, tokio_postgres::Error> {
        let mut said = false;
        while !self.stop.is_cancelled() {
            if client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK]).await?.get(0) {
                return Ok(true);
            }
            if !said {
                warn!("another process keeps a broker in step with this database; this one waits. Two brokers need two databases");
                said = true;
            }
            wait(self.stop, ASK_EVERY, std::future::pending()).await;
        }
        Ok(false)
    }
}

/// Waits for `event`, for `span`, or for `stop`.
async fn wait(stop: &CancellationToken, span: Duration, event: impl Future<Output = Option<()>>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(span) => {}
        _ = event => {}
    }
}

/// Waits until changes pause, but not for ever.
async fn gather(changes: &mut mpsc::Receiver<()>) {
    let most = Instant::now() + GATHER_MOST;
    loop {
        let quiet = (Instant::now() + QUIET).min(most);
        match timeout_at(quiet, changes.recv()).await {
            Ok(Some(())) if Instant::now() < most => {}
            _ => return,
        }
    }
}
