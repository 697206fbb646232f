//! What the handlers share: connections to the database of the API's own, the language of topics, who may do what.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::courier::broker::Heard;
use crate::courier::tap::Taps;
use crate::identity::jwt::verifier::Verifier;
use crate::ingest::door::Door;
use crate::lifecycle::readiness::{Condition, Readiness};
use crate::lifecycle::tasks::Tasks;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::publisher::Handle;
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;
use crate::operations::waiting::Waiting;
use crate::protocol::topic::TopicTree;

use super::error::{Kind, Problem};
use super::guard::Guard;
use super::server::Config;
use super::streams::Streams;

/// The longest that a request waits for a connection to the database.
const CONNECTION_WITHIN: Duration = Duration::from_secs(5);

/// What the API needs of the rest of the service.
#[derive(Debug)]
pub struct Parts {
    /// Connections of the API's own, so that no request waits behind the pipeline, nor the pipeline behind one.
    pub pool: Pool,
    /// Where the end of a command is waited for.
    pub waiting: Waiting,
    /// The topic tree.
    pub tree: TopicTree,
    /// Whose JWTs are taken.
    pub verifier: Option<Verifier>,
    /// How to reach the broker.
    pub mqtt: MqttConfig,
    /// What the broker last said of itself.
    pub broker: watch::Receiver<Arc<Heard>>,
    /// The way to the broker, for what only has to be said.
    pub publisher: Handle,
    /// Live tails.
    pub taps: Taps,
    /// Where telemetry comes in over HTTP, once the pipeline is there.
    pub telemetry: Arc<OnceLock<Arc<Door>>>,
    /// The condition of every part.
    pub readiness: Readiness,
    /// The series.
    pub metrics: Arc<Metrics>,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
    /// The service's tasks: what goes on although its client has gone is one of them, and their stop ends what would go on for ever.
    pub tasks: Tasks,
}

/// The same, shared by all handlers.
#[derive(Debug, Clone)]
pub(super) struct Desk(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) guard: Guard,
    pub(super) streams: Streams,
    /// One import at a time.
    imports: Arc<Semaphore>,
    pub(super) config: Config,
}

impl std::ops::Deref for Desk {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Desk {
    pub(super) fn new(parts: Parts, config: Config) -> Self {
        Self(Arc::new(Inner {
            guard: Guard::new(config.rate, config.most_failures),
            streams: Streams::new(config.max_connections, parts.tasks.stop_token()),
            imports: Arc::new(Semaphore::new(1)),
            parts,
            config,
        }))
    }

    /// A connection to the database.
    ///
    /// # Errors
    /// A problem where none can be had in time.
    pub(super) async fn database(&self) -> Result<Object, Problem> {
        timeout(CONNECTION_WITHIN, self.parts.pool.get())
            .await
            .map_err(|_| Problem::new(Kind::Unavailable, "all connections to the database are in use; try again").retry_after(1))?
            .map_err(Problem::from)
    }

    /// Waits for the turn of an import.
    pub(super) async fn import_turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.imports).acquire_owned().await.expect("it is never closed")
    }

    /// Does something to its end, whatever becomes of the request: with its client a handler goes too, wherever it stands, and a task
    /// does not. A stop waits for it.
    ///
    /// # Errors
    /// The act's own.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        name: &str,
        act: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let (told, outcome) = oneshot::channel();
        // Who asked may have gone.
        let act = async move { drop(told.send(act.await)) };
        self.parts.tasks.spawn(format!("{name}-{}", Uuid::now_v7().simple()), act);
        outcome
            .await
            .unwrap_or_else(|_| Err(Problem::internal(&"an act ended without an outcome")))
    }

    /// Where telemetry comes in.
    ///
    /// # Errors
    /// A problem before the pipeline is there.
    pub(super) fn telemetry(&self) -> Result<&Arc<Door>, Problem> {
        let starting = || Problem::new(Kind::Unavailable, "the service is starting; try again").retry_after(1);
        self.parts.telemetry.get().ok_or_else(starting)
    }

    /// The topic tree.
    pub(super) fn tree(&self) -> &TopicTree {
        &self.parts.tree
    }

    /// The condition of every connection to the broker, by name.
    pub(super) fn broker_conditions(&self) -> BTreeMap<String, Condition> {
        let mut conditions = self.parts.readiness.conditions();
        conditions.retain(|name, _| name.starts_with("broker/"));
        conditions
    }
}
