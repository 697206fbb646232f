//! The writer of a shard: one batch at a time into PostgreSQL, until every message of it has its outcome.
//!
//! ```text
//! resolve ids ─► transaction ─┬─ committed ────────────────► outcomes, tickets
//!                             ├─ a key is there (23505) ───► again, passing over what is there
//!                             ├─ a row is refused (22, 23) ► that row to the dead letters, or halve; again
//!                             └─ it passes ────────────────► wait, again, for ever
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use deadpool_postgres::Pool;
use metrics::Histogram;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::db::error::Fault;
use crate::db::partitions::Partitions;
use crate::lifecycle::backoff::Backoff;
use crate::lifecycle::readiness::Latch;
use crate::observe::accounting::{Accounting, ByQos};
use crate::observe::metrics::{Metrics, RowMetrics, TransactionMetrics};
use crate::protocol::reject::{Reason, Rejection};
use crate::protocol::time;

use super::batch::{Batch, Message};
use super::latest::Latest;
use super::ledger;
use super::parse::Handover;
use super::queue::{Held, ShardQueue};
use super::reply::Verdict;
use super::resolve;
use super::transaction::{self, AttemptError, Part, Stored, on_connection};

/// Rows cut out one by one before the rest is halved instead.
const MAX_EXCISED: usize = 3;
/// Attempts that ran out of the server's memory, locks or time, after which a part is tried in halves.
const TOO_LARGE_AFTER: usize = 3;
/// A device time older than this at the commit says nothing of our latency.
const FRESH_MICROS: i64 = 60_000_000;

/// What writers share.
#[derive(Debug, Clone)]
pub struct Store {
    /// Connections for ingest alone.
    pub pool: Pool,
    /// Where rows can go.
    pub partitions: Partitions,
    /// Most time for one attempt.
    pub copy_timeout: Duration,
    /// Whether the database takes what we write.
    pub latch: Latch,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
    /// The series.
    pub metrics: Arc<Metrics>,
    /// Bytes in flight.
    pub held: Arc<Held>,
    /// Cancelled when a shutdown can wait no longer.
    pub give_up: CancellationToken,
}

/// A shard's writer.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    rows: [RowMetrics; 2],
    copies: TransactionMetrics,
    latest: Latest,
    buffer: BytesMut,
}

impl Writer {
    /// A writer on what `store` shares.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let rows = ["telemetry", "events"].map(|table| store.metrics.rows(table));
        let copies = store.metrics.transaction("batch");
        Self {
            store,
            rows,
            copies,
            latest: Latest::default(),
            buffer: BytesMut::new(),
        }
    }

    /// Stores batches until the parse thread has ended; each goes back to it empty.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Batch>, handover: Arc<Handover>, queue: Arc<ShardQueue>) {
        let give_up = self.store.give_up.clone();
        loop {
            let batch = tokio::select! {
                biased;
                batch = inbox.recv() => batch,
                () = sleep_until(self.latest.due()) => {
                    self.flush_latest().await;
                    continue;
                }
            };
            let Some(mut batch) = batch else { break };
            let stored = tokio::select! {
                () = self.store_batch(&mut batch) => true,
                () = give_up.cancelled() => false,
            };
            if !stored {
                self.abandon(&mut batch);
            }
            // Room for two. A third may exist, where the parse thread sealed between our push and its next look: it is open there.
            drop(handover.returned.push(batch));
            if self.latest.due().is_some_and(|due| due <= Instant::now()) {
                self.flush_latest().await;
            }
            handover.idle.store(true, Ordering::Release);
            queue.nudge();
        }
        if self.latest.due().is_some() && !give_up.is_cancelled() {
            self.flush_latest().await;
        }
    }

    async fn store_batch(&mut self, batch: &mut Batch) {
        let begun = Instant::now();
        self.resolve(batch).await;
        let mut parts = VecDeque::from([Part::whole(batch)]);
        while let Some(part) = parts.pop_front() {
            parts.extend(self.store_part(batch, part).await.into_iter().flatten());
        }
        self.store.metrics.copy_seconds.record(begun.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "counted in thousands")]
        self.store
            .metrics
            .copy_rows
            .record((batch.telemetry.rows.len() + batch.events.rows.len()) as f64);
        self.settle(batch);
    }

    /// Looks up, or registers, what the batch met for the first time, and puts the ids into its rows.
    async fn resolve(&mut self, batch: &mut Batch) {
        let mut patience = patience();
        loop {
            if batch.new_devices.is_empty() && batch.new_sets.is_empty() {
                return batch.resolve(Vec::new(), Vec::new());
            }
            let learned = on_connection(&self.store.pool, self.store.copy_timeout, async |client| {
                Ok((
                    resolve::devices(client, &batch.new_devices).await?,
                    resolve::metric_sets(client, &batch.new_sets).await?,
                ))
            });
            match learned.await {
                Ok((devices, sets)) if devices.len() == batch.new_devices.len() && sets.len() == batch.new_sets.len() => {
                    return batch.resolve(devices, sets);
                }
                // A name went while it was looked up: ask again.
                Ok((devices, _)) => {
                    let failure = AttemptError::Short {
                        sent: batch.new_devices.len(),
                        took: devices.len() as u64,
                    };
                    self.wait_out(&failure, &mut patience).await;
                }
                Err(failure) => self.wait_out(&failure, &mut patience).await,
            }
        }
    }

    /// Stores a part. Where more rows are at fault than can be named it comes back in halves.
    async fn store_part(&mut self, batch: &mut Batch, mut part: Part) -> Option<[Part; 2]> {
        let (mut merge, mut excised, mut too_large, mut patience) = (false, 0, 0, patience());
        loop {
            let Self { store, buffer, .. } = self;
            let attempt = on_connection(&store.pool, store.copy_timeout, async |client| {
                transaction::store(client, &store.partitions, batch, &part, merge, buffer).await
            });
            let failure = match attempt.await {
                Ok(stored) => {
                    self.copies.ok.increment(1);
                    self.store.latch.ready("rows are stored");
                    self.latest.note(&batch.telemetry, &part.rows[0]);
                    self.book_rows(batch, &part, stored);
                    return None;
                }
                Err(failure) => failure,
            };
            if failure.may_be_too_large() && part.len() > 1 {
                too_large += 1;
                if too_large == TOO_LARGE_AFTER {
                    return Some(part.halve());
                }
            }
            match failure.fault() {
                Fault::Duplicate if !merge => merge = true,
                Fault::Row { line } if !part.is_empty() => {
                    self.copies.refused.increment(1);
                    match named_row(&failure, line, &part)
                        .filter(|_| excised < MAX_EXCISED)
                        .or_else(|| lone_row(&part))
                    {
                        Some((table, index)) => excise(batch, &mut part, table, index, &failure),
                        None => return Some(part.halve()),
                    }
                    excised += 1;
                }
                Fault::MissingPartition => {
                    // One that we knew is gone: look again.
                    self.store.partitions.forget();
                    self.wait_out(&failure, &mut patience).await;
                }
                Fault::Row { .. } | Fault::Duplicate | Fault::Transient | Fault::Operator => self.wait_out(&failure, &mut patience).await,
            }
        }
    }

    /// Says what is wrong and waits before the next attempt. Nothing is acked meanwhile.
    async fn wait_out(&self, failure: &AttemptError, patience: &mut Backoff) {
        self.copies.retried.increment(1);
        self.store.latch.unready(format!("rows cannot be stored: {failure}"));
        let wait = patience.next_wait();
        if failure.fault() == Fault::Operator {
            error!(%failure, ?wait, "the database refuses us; somebody must mend this, all messages wait unacked");
        } else {
            warn!(%failure, ?wait, "storing a batch failed and is tried again");
        }
        tokio::time::sleep(wait).await;
    }

    fn book_rows(&self, batch: &mut Batch, part: &Part, stored: Stored) {
        let Batch {
            messages,
            telemetry,
            events,
            ..
        } = batch;
        let mut keys = match stored {
            Stored::All => None,
            Stored::Keys(keys) => Some(keys),
        };
        for (table, rows) in [telemetry, events].into_iter().enumerate() {
            let mut new = 0;
            for row in part.rows[table].iter().map(|index| &rows.rows[*index as usize]) {
                // Of rows that share a key within the batch, one was added.
                if keys.as_mut().is_none_or(|keys| keys[table].remove(&row.key)) {
                    messages[row.message as usize].new_rows += 1;
                    new += 1;
                }
            }
            self.rows[table].new.increment(new);
            self.rows[table].duplicate.increment(part.rows[table].len() as u64 - new);
        }
    }

    /// Books every message's outcome, then spends the tickets.
    fn settle(&self, batch: &mut Batch) {
        let metrics = &self.store.metrics;
        let (mut committed, mut duplicates, mut dead): (ByQos, ByQos, ByQos) = Default::default();
        for message in &batch.messages {
            let qos = message.delivery.qos();
            match &message.refusal {
                Some(refusal) => {
                    dead[qos] += 1;
                    metrics.rejected[refusal.rejection.reason as usize].increment(1);
                }
                None if message.new_rows > 0 => committed[qos] += 1,
                None => duplicates[qos] += 1,
            }
        }
        self.observe_latency(batch);
        let held = batch.held();
        metrics.receipt_time.increment(batch.adjusted.receipt_time);
        metrics.rounded_integer.increment(batch.adjusted.rounded_integers);
        metrics.null_left_out.increment(batch.adjusted.nulls);
        self.store.accounting.book(|totals| {
            for qos in 0..2 {
                totals.committed[qos] += committed[qos];
                totals.duplicates[qos] += duplicates[qos];
                totals.dead_lettered[qos] += dead[qos];
            }
            totals.release(held);
        });
        self.release(batch);
        ledger::settle(batch.messages.iter_mut().filter_map(|message| message.delivery.ticket.take()));
        answer(&mut batch.messages);
    }

    /// Lets go of messages without a verdict: unacked, they will be delivered again.
    fn abandon(&self, batch: &mut Batch) {
        warn!(
            messages = batch.messages.len(),
            "the stop cannot wait for the database; these messages stay with the broker"
        );
        let held = batch.held();
        self.store.accounting.book(|totals| {
            (0..2).for_each(|qos| totals.abandoned[qos] += held[qos]);
            totals.release(held);
        });
        self.release(batch);
        batch.messages.clear();
    }

    fn release(&self, batch: &Batch) {
        self.store
            .held
            .subtract(batch.messages.iter().map(|message| message.delivery.held_bytes()).sum());
    }

    fn observe_latency(&self, batch: &Batch) {
        let metrics = &self.store.metrics;
        let now = time::now();
        // All messages of one read share an instant.
        for burst in batch
            .messages
            .chunk_by(|a, b| a.delivery.received == b.delivery.received && a.delivery.qos() == b.delivery.qos())
        {
            let first = &burst[0].delivery;
            record_many(&metrics.commit_latency[first.qos()], first.received.elapsed(), burst.len());
        }
        for time in batch.messages.iter().filter_map(|message| message.device_time) {
            let age = now.saturating_sub(time);
            if (0..FRESH_MICROS).contains(&age) {
                metrics
                    .publish_to_commit
                    .record(Duration::from_micros(age.unsigned_abs()).as_secs_f64());
            }
        }
    }

    async fn flush_latest(&mut self) {
        let Self { store, latest, .. } = self;
        let flushed = on_connection(&store.pool, store.copy_timeout, async |client| Ok(latest.flush(client).await?)).await;
        if let Err(failure) = flushed {
            if matches!(failure.fault(), Fault::Row { .. }) {
                error!(%failure, "the database refuses the latest values; they are given up, the rows themselves are stored");
                self.latest.clear();
            } else {
                warn!(%failure, "the latest values could not be written and are kept for the next time");
                self.latest.postpone();
            }
        }
    }
}

/// Tells those who wait for it what became of their messages, all of which are committed.
fn answer(messages: &mut [Message]) {
    for message in messages {
        let Some(reply) = message.delivery.reply.take() else { continue };
        reply.tell(match message.refusal.take() {
            Some(refusal) => Verdict::DeadLettered(refusal.rejection),
            None if message.new_rows > 0 => Verdict::Committed,
            None => Verdict::Duplicate,
        });
    }
}

fn patience() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(5))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn record_many(histogram: &Histogram, latency: Duration, count: usize) {
    histogram.record_many(latency.as_secs_f64(), count);
}

/// The row that the server named, as table and index into the part.
fn named_row(failure: &AttemptError, line: Option<usize>, part: &Part) -> Option<(usize, usize)> {
    let AttemptError::Server { table: Some(table), .. } = failure else {
        return None;
    };
    let index = line?.checked_sub(1)?;
    (index < part.rows[*table].len()).then_some((*table, index))
}

/// The only row of the part: it must be the one.
fn lone_row(part: &Part) -> Option<(usize, usize)> {
    (part.len() == 1).then(|| (usize::from(part.rows[0].is_empty()), 0))
}

/// Moves a row out of the part, and what was wrong with it to its message's dead letter.
fn excise(batch: &mut Batch, part: &mut Part, table: usize, index: usize, failure: &AttemptError) {
    let rows = if table == 0 { &batch.telemetry } else { &batch.events };
    let row = rows.rows[part.rows[table].remove(index) as usize];
    let detail = format!("element {}: {failure}", row.element);
    batch.messages[row.message as usize].refuse(Rejection::new(Reason::RejectedByDatabase, detail));
    if !part.dead.contains(&row.message) {
        part.dead.push(row.message);
    }
}
