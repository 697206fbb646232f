//! Keeps a broker of ours in step with the database, and up; and ends it when it lets people do what they must not.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::access::agent;
use crate::db::config::Config as DbConfig;
use crate::lifecycle::backoff::Backoff;

use super::servers::Broker;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often certificates and the revocation list are looked at: the list, when it is over, shuts everybody out.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Broker {
    /// Runs until `stop`, then ends the broker, which saves its sessions first.
    pub(in crate::cli) async fn supervise(mut self, database: DbConfig, stop: CancellationToken) {
        let (alarm, mut alarms) = mpsc::channel(1);
        let agent = agent::run(self.applier.clone(), database, stop.clone(), alarm);
        tokio::pin!(agent);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        certificates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = &mut agent => break,
                _ = certificates.tick() => self.keep_certificates().await,
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
        if let Err(error) = self.mosquitto.halt(Signal::SIGTERM) {
            warn!(%error, "the broker could not be ended in order");
        }
    }

    /// Renews what ends soon, and tells the broker.
    async fn keep_certificates(&self) {
        let Some(certificates) = self.certificates.clone() else { return };
        let kept = spawn_blocking(move || certificates.keep())
            .await
            .expect("keeping certificates does not panic");
        match kept {
            Ok(false) => {}
            Ok(true) => match self.applier.process.reload() {
                Ok(_) => info!("certificates were renewed, and the broker told"),
                Err(error) => error!(%error, "certificates were renewed, and the broker could not be told"),
            },
            Err(error) => error!(error = format!("{error:#}"), "certificates could not be looked after"),
        }
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
                    drop(self.mosquitto.halt(Signal::SIGTERM));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    async fn try_restart(&mut self) -> anyhow::Result<()> {
        self.mosquitto.halt(Signal::SIGTERM)?;
        self.mosquitto.resume().await?;
        Ok(self.applier.prove().await?)
    }
}
