//! The sessions of ingest: each with its lease, run as long as the lease is held.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use crate::config::Config;
use crate::db::lease::{Lease, Seeker};
use crate::ingest::copy::Store;
use crate::ingest::rate::Rates;
use crate::ingest::receipts::Asked;
use crate::ingest::sessions::{self, Session};
use crate::ingest::subscribe::{Outlet, Purpose, Subscriber};
use crate::protocol::topic::BadBaseTopic;

use super::App;

impl App {
    pub(super) fn start_session(
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
        let lease_end = self.ends.leases.child_token();
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
}
