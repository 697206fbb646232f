//! The courier and those who speak and listen beside it: registrations, the system's topics.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::courier::broker::Heard;
use crate::courier::discovery::Clerk;
use crate::courier::session;
use crate::courier::system::Speaker;
use crate::db::lease::{Lease, Seeker};
use crate::db::pool;
use crate::mqtt::publisher::Handle;
use crate::protocol::topic::TopicTree;

use super::App;

/// Connections to the database of whoever looks after registrations.
pub(super) const CLERKS_CONNECTIONS: usize = 2;

impl App {
    pub(super) fn start_courier(&self, config: &Config, publisher: Handle, broker: watch::Receiver<Arc<Heard>>) -> anyhow::Result<()> {
        let speaks = publisher.clone();
        let tree = TopicTree::new(&config.ingest.base_topic)?;
        let clerks_pool = pool::pool(&config.db, "discovery", CLERKS_CONNECTIONS)?;
        let counters = [self.metrics.discovery_dropped.clone(), self.metrics.discovery_refused.clone()];
        let (clerk, registrations) = Clerk::new(config.discovery, tree.clone(), clerks_pool, publisher, counters);
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
            config: config.courier,
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
        let lease_end = self.ends.leases.child_token();
        tokio::spawn(seeker.run(lease_end.clone()));
        self.tasks.spawn(session::NAME, async move {
            courier.run().await;
            lease_end.cancel();
        });
        Ok(())
    }
}
