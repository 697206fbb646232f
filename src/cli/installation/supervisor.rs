//! Keeps a broker of ours in step with the database, and up; and ends it when it lets people do what they must not.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::access::agent;
use crate::db::config::Config as DbConfig;
use crate::lifecycle::backoff::Backoff;

use super::servers::Broker;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often certificates and the revocation list are looked at: the list, when it is over, shuts everybody out.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);
/// A change is proven, or taken back, within this.
const FINISH_WITHIN: Duration = Duration::from_secs(25);
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Broker {
    /// Runs until `stop`, then ends the broker, which saves its sessions first.
    pub(in crate::cli) async fn supervise(mut self, database: DbConfig, stop: CancellationToken) {
        let (alarm, mut alarms) = mpsc::channel(1);
        // A task of its own: while the broker is started again, its files go on following the database.
        let mut agent = tokio::spawn(agent::run(self.applier.clone(), database, stop.clone(), alarm));
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        certificates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                ended = &mut agent => {
                    error!(?ended, "the keeper of the broker's files has ended");
                    break;
                }
                _ = certificates.tick() => if !self.keep_certificates().await {
                    self.restart(&stop).await;
                },
                Some(why) = alarms.recv() => {
                    error!(why, "the broker is stopped and started again, for a broker that starts refuses files that it cannot read");
                    self.restart(&stop).await;
                }
                _ = look.tick() => match self.mosquitto.has_ended() {
                    Ok(false) => {}
                    Ok(true) => {
                        warn!("the broker has ended by itself; starting it again");
                        self.restart(&stop).await;
                    }
                    Err(error) => warn!(%error, "the broker's process cannot be looked after"),
                },
            }
        }
        // What it is at is finished first, or it would leave files that nobody has proven.
        if stop.is_cancelled() && timeout(FINISH_WITHIN, agent).await.is_err() {
            warn!("a change of who may do what was not finished");
        }
        self.halt();
    }

    /// Ends the broker, which saves its sessions first: this takes its time, and other tasks go on meanwhile.
    fn halt(&mut self) {
        if let Err(error) = block_in_place(|| self.mosquitto.halt(Signal::SIGTERM)) {
            warn!(%error, "the broker could not be ended in order");
        }
    }

    /// Renews what ends soon, tells the broker, and proves it. Returns whether the broker does as it must.
    async fn keep_certificates(&self) -> bool {
        let Some(certificates) = self.certificates.clone() else {
            return true;
        };
        let kept = spawn_blocking(move || certificates.keep())
            .await
            .expect("keeping certificates does not panic");
        match kept {
            Ok(false) => {}
            Ok(true) => match self.applier.reload().await {
                Ok(_) => info!("certificates were renewed, and the broker told"),
                Err(error) => {
                    error!(%error, "certificates were renewed, and the broker does not do as it must");
                    return !error.is_open();
                }
            },
            Err(error) => error!(error = format!("{error:#}"), "certificates could not be looked after"),
        }
        true
    }

    /// Tries until the broker is up and proven, or `stop`. A broker that cannot be proven does not stay up.
    async fn restart(&mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match self.try_restart().await {
                Ok(()) => {
                    info!("the broker is up, and proven");
                    return;
                }
                Err(error) => {
                    error!(error = format!("{error:#}"), "the broker cannot be started");
                    self.halt();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    async fn try_restart(&mut self) -> anyhow::Result<()> {
        self.halt();
        self.mosquitto.resume().await?;
        Ok(self.applier.prove().await?)
    }
}
