//! Named tasks and threads: who runs, who is still pending at the end, and an orderly stop when one crashes.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, info_span};

/// The tasks of one service. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: Mutex<BTreeSet<String>>,
    crashed: Mutex<Option<String>>,
    ended: Notify,
    stop: CancellationToken,
}

/// Says "ended" for its task however the task ends.
struct Registration {
    name: String,
    inner: Arc<Inner>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.inner.ended.notify_waiters();
    }
}

impl Tasks {
    /// The token that ends sources; what has an inbox ends when that is closed and empty.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Runs `future` as a task called `name`.
    pub fn spawn(&self, name: impl Into<String>, future: impl Future<Output = ()> + Send + 'static) {
        let registration = self.register(name.into());
        let span = info_span!("run", task = %registration.name);
        tokio::spawn(
            async move {
                let outcome = AssertUnwindSafe(future).catch_unwind().await;
                registration.inner.note(&registration.name, outcome.is_err());
            }
            .instrument(span),
        );
    }

    /// Runs `work` on a thread of its own called `name`.
    pub fn spawn_thread(&self, name: impl Into<String>, work: impl FnOnce() + Send + 'static) {
        let registration = self.register(name.into());
        let thread = std::thread::Builder::new().name(registration.name.clone());
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            registration.inner.note(&registration.name, outcome.is_err());
        };
        thread.spawn(run).expect("a machine that runs this service can start a thread");
    }

    /// Waits until every task has ended, at most for `patience`; names those that have not.
    ///
    /// # Errors
    /// The names of the tasks that are still pending.
    pub async fn join(&self, patience: Duration) -> Result<(), Vec<String>> {
        self.join_those(|_| true, patience).await
    }

    /// The same, of the tasks whose name is one of `those`.
    ///
    /// # Errors
    /// The names of the tasks that are still pending.
    pub async fn join_those(&self, those: impl Fn(&str) -> bool, patience: Duration) -> Result<(), Vec<String>> {
        let all_ended = async {
            loop {
                let ended = self.0.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if self.pending(&those).is_empty() {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(patience, all_ended).await.map_err(|_| self.pending(&those))
    }

    /// The task that crashed first, if any did.
    #[must_use]
    pub fn crashed(&self) -> Option<String> {
        self.0.crashed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pending(&self, those: impl Fn(&str) -> bool) -> Vec<String> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|name| those(name))
            .cloned()
            .collect()
    }

    fn register(&self, name: String) -> Registration {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        Registration {
            name,
            inner: Arc::clone(&self.0),
        }
    }
}

impl Inner {
    fn note(&self, name: &str, crashed: bool) {
        if crashed {
            error!(task = name, "a task crashed; the service stops in order");
            self.crashed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| name.to_owned());
            self.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crash_stops_the_others_in_order() {
        let tasks = Tasks::default();
        let stop = tasks.stop_token();
        tasks.spawn("waits", async move { stop.cancelled().await });
        tasks.spawn("crashes", async { panic!("as this test wants") });
        assert_eq!(tasks.join(Duration::from_secs(10)).await, Ok(()));
        assert_eq!(tasks.crashed().as_deref(), Some("crashes"));
    }

    #[tokio::test]
    async fn who_is_pending_is_named() {
        let tasks = Tasks::default();
        tasks.spawn("stays", std::future::pending());
        assert_eq!(tasks.join(Duration::from_millis(10)).await, Err(vec!["stays".to_owned()]));
    }
}
