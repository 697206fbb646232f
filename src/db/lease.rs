//! A name that at most one replica holds: a session's advisory lock, kept alive by heartbeats.
//!
//! The server ends the session of a holder that stops beating (frozen, cut off), and with it the lock. A holder that
//! loses its session cannot know whether the lock is still its own until it reaches the server again: the state is then
//! [`Lease::Unknown`], in which it may go on with what it has but begin nothing new.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::config::Config;
use super::error::describe;
use super::pool;

/// How often the holder beats.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// After this silence the server ends the holder's session (`idle_session_timeout`, PostgreSQL 14 and later).
const SILENCE: Duration = Duration::from_secs(12);
/// A lease that was confirmed longer ago than this may be another's: two beats and a half, well below the silence.
const CERTAIN: Duration = Duration::from_millis(7_500);
/// How often one who waits asks again.
const RETRY: Duration = Duration::from_millis(500);
/// How often a lease that was ours may be found taken before another is taken to hold it.
const OWN_GHOST: usize = 4;
/// How much longer one who holds a lease waits before it takes another.
const YIELD: Duration = Duration::from_secs(2);

/// What is known of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Nothing is known yet.
    Sought,
    /// Another holds it, or may.
    Elsewhere,
    /// It is ours, as the server said last at this time.
    Held {
        /// By the clock that goes on while a process is frozen.
        confirmed: Instant,
    },
    /// It was ours when the server was last reached.
    Unknown,
}

impl Lease {
    /// Held, and confirmed so lately that the server cannot have ended our session since. A process that was frozen finds
    /// here that it must ask again before it begins anything.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        matches!(self, Self::Held { confirmed } if confirmed.elapsed() < CERTAIN)
    }
}

/// One who seeks a lease, keeps it, and seeks it again.
#[derive(Debug)]
pub struct Seeker {
    /// How to reach the database.
    pub config: Config,
    /// What the lease is called.
    pub name: String,
    /// Waited once before the first attempt.
    pub delay: Duration,
    /// How many leases this process holds of those that replicas share among them. One who holds some waits longer
    /// before it takes another, so that one who holds none is first.
    pub burden: Arc<AtomicUsize>,
    /// Told of every change.
    pub state: watch::Sender<Lease>,
}

impl Seeker {
    /// Runs until `stop`, and then gives the lease back.
    pub async fn run(self, stop: CancellationToken) {
        // The session ends with the future that holds it, and the lock with the session.
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.seek_and_hold() => {}
        }
        self.state.send_replace(Lease::Elsewhere);
    }

    async fn seek_and_hold(&self) {
        let Self { name, state, .. } = self;
        tokio::time::sleep(self.delay).await;
        let mut taken = 0;
        loop {
            if self.burden.load(Ordering::Relaxed) > 0 && *state.borrow() != Lease::Unknown {
                tokio::time::sleep(YIELD).await;
            }
            let attempt = tokio::time::timeout(self.config.connect_timeout * 2, acquire(&self.config, name)).await;
            match attempt.unwrap_or(Ok(Attempt::NoAnswer)) {
                Ok(Attempt::Held(session)) => {
                    info!(lease = name, "lease held");
                    taken = 0;
                    self.burden.fetch_add(1, Ordering::Relaxed);
                    let error = self.beat(&session).await;
                    self.burden.fetch_sub(1, Ordering::Relaxed);
                    warn!(lease = name, error, "the lease's session was lost");
                    state.send_replace(Lease::Unknown);
                    continue;
                }
                // The server may not have ended our own lost session yet.
                Ok(Attempt::Taken) if *state.borrow() == Lease::Unknown && taken < OWN_GHOST => taken += 1,
                Ok(Attempt::Taken) => {
                    if matches!(state.send_replace(Lease::Elsewhere), Lease::Held { .. } | Lease::Unknown) {
                        warn!(lease = name, "another replica holds the lease now");
                    }
                }
                Ok(Attempt::NoAnswer) => debug!(lease = name, "the database does not answer"),
                Err(error) => debug!(lease = name, error = describe(&error), "the lease cannot be sought"),
            }
            tokio::time::sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Beats until a beat fails, and says why.
    async fn beat(&self, session: &Client) -> String {
        loop {
            self.state.send_replace(Lease::Held { confirmed: Instant::now() });
            tokio::time::sleep(HEARTBEAT).await;
            match tokio::time::timeout(HEARTBEAT, session.batch_execute("SELECT 1")).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return describe(&error),
                Err(_) => return format!("no answer within {HEARTBEAT:?}"),
            }
        }
    }
}

enum Attempt {
    Held(Client),
    Taken,
    NoAnswer,
}

async fn acquire(config: &Config, name: &str) -> Result<Attempt, tokio_postgres::Error> {
    let client = pool::connect(config, "lease").await?;
    // Version 13 has no such setting; there a frozen holder keeps its lease.
    drop(
        client
            .batch_execute(&format!("SET idle_session_timeout = {}", SILENCE.as_millis()))
            .await,
    );
    let row = client
        .query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&name])
        .await?;
    Ok(if row.get(0) { Attempt::Held(client) } else { Attempt::Taken })
}
