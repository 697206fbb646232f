//! A shard's thread: takes deliveries off the queue, parses them into the open batch, and hands the batch over when the
//! writer is free and the batch is old or full enough.
//!
//! Parsing has a thread of its own so that it never keeps an event loop from its pings. While the writer is busy the next
//! batch fills; while it is full too, the queue fills, and the Receive Maximum ends that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use foldhash::fast::FixedState;
use tokio::sync::mpsc;

use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::payload::{Origin, Parser, Reading, split_names};
use crate::protocol::reject::{Reason, Rejection};
use crate::protocol::topic::{Channel, Telemetry, TopicTree};

use super::batch::{Batch, Ref};
use super::config::Config;
use super::doorbell::Sleeper;
use super::queue::{Delivery, Receipt, ShardQueue};

/// Deliveries between two looks at the clock and the writer.
const SLICE: usize = 256;
/// Distinct metric sets one device may have: ways to combine its metrics.
const MAX_DEVICE_SETS: usize = 1_024;
/// How many lingers a batch may wait at most, where messages come so fast that it will be worth it by then: fewer and
/// larger COPYs cost the database less a row. With the defaults that is where 55,000 messages a second come to a shard.
const MAX_LINGERS: u32 = 4;
/// How full a batch is when it is worth sending, in percent of the most rows: beyond some 5,000 little is gained a row.
const WORTHWHILE_PERCENT: usize = 55;
/// A batch that holds less than this share of what is worth sending says that hardly anything comes: below 9,000 messages a
/// second to a shard, with the defaults, there is CPU to spare, and nothing is gained by waiting.
const IDLE_SHARE: usize = 50;
/// How long to rest while batch and writer are both full; the writer's nudge ends it sooner.
const FULL_REST: Duration = Duration::from_millis(100);

type Map<K, V> = HashMap<K, V, FixedState>;

/// How parse thread and writer meet: a batch goes over only when the writer is idle, and comes back empty.
#[derive(Debug)]
pub struct Handover {
    /// Whether the writer waits for a batch.
    pub idle: AtomicBool,
    /// Batches on their way back.
    pub returned: ArrayQueue<Batch>,
}

impl Handover {
    /// A writer that waits, and nothing on its way.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            idle: AtomicBool::new(true),
            returned: ArrayQueue::new(2),
        })
    }
}

/// The state of a shard's thread.
#[derive(Debug)]
pub struct ParseStage {
    queue: Arc<ShardQueue>,
    outbox: mpsc::Sender<Batch>,
    handover: Arc<Handover>,
    intake: Intake,
    linger: Duration,
    batch_rows: usize,
    batch_bytes: usize,
}

impl ParseStage {
    /// A stage between `queue` and the writer behind `outbox`.
    #[must_use]
    pub fn new(config: &Config, tree: TopicTree, queue: Arc<ShardQueue>, outbox: mpsc::Sender<Batch>, handover: Arc<Handover>) -> Self {
        Self {
            queue,
            outbox,
            handover,
            intake: Intake::new(config, tree),
            linger: config.linger,
            batch_rows: config.batch_rows,
            batch_bytes: config.batch_bytes,
        }
    }

    /// Runs until the queue is closed and empty and the last batch is handed over.
    pub fn run(mut self) {
        let Some(sleeper) = self.queue.sleeper() else { return };
        loop {
            while let Some(batch) = self.handover.returned.pop() {
                self.intake.take_back(batch);
            }
            let full = self.is_full();
            if !full {
                for _ in 0..SLICE {
                    let Some(delivery) = self.queue.pop() else { break };
                    self.intake.take(delivery);
                    if self.is_full() {
                        break;
                    }
                }
            }
            let ending = self.queue.is_closed() && self.queue.is_empty();
            if ending && self.intake.batch.is_empty() {
                return;
            }
            let due = ending || self.intake.batch.age() >= self.due_at();
            if due && !self.intake.batch.is_empty() && self.handover.idle.swap(false, Ordering::AcqRel) {
                // The writer is idle, so its inbox of one is empty; it is gone only if it crashed, and then all stops.
                if self.outbox.try_send(self.intake.seal()).is_err() {
                    return;
                }
            } else {
                self.wait(&sleeper, full || ending, due);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.intake.batch.rows() >= self.batch_rows || self.intake.batch.bytes() >= self.batch_bytes
    }

    /// The age at which the open batch is to go, by what is in it: after half of the linger when hardly anything comes, so that
    /// it is committed within the linger; at once when it is worth it; and in between as long as it is on course to be worth
    /// it within the most lingers.
    fn due_at(&self) -> Duration {
        let (rows, worthwhile) = (self.intake.batch.rows(), (self.batch_rows * WORTHWHILE_PERCENT).div_ceil(100));
        if rows >= worthwhile || self.is_full() {
            return Duration::ZERO;
        }
        if rows < worthwhile / IDLE_SHARE {
            return self.linger / 2;
        }
        let most = self.linger * MAX_LINGERS;
        #[expect(clippy::cast_precision_loss, reason = "rows are counted in thousands")]
        most.mul_f64(rows as f64 / worthwhile as f64).max(self.linger)
    }

    fn wait(&self, sleeper: &Sleeper, closed_to_more: bool, due: bool) {
        if closed_to_more {
            self.queue.rest(sleeper, FULL_REST);
        } else if self.intake.batch.is_empty() || due {
            // When it is due the writer is busy, and will nudge.
            self.queue.sleep(sleeper, due.then_some(FULL_REST));
        } else {
            self.queue
                .sleep(sleeper, Some(self.due_at().saturating_sub(self.intake.batch.age())));
        }
    }
}

/// Parsing and what it must know: the ids learned so far. No queue, no clock: what benches and properties drive.
#[derive(Debug)]
pub struct Intake {
    /// The open batch.
    pub batch: Batch,
    spare: Option<Batch>,
    tree: TopicTree,
    parser: Parser,
    max_payload_bytes: usize,
    known: Dictionary,
}

impl Intake {
    /// Knows no ids yet.
    #[must_use]
    pub fn new(config: &Config, tree: TopicTree) -> Self {
        Self {
            batch: Batch::with_serial(1),
            spare: None,
            tree,
            parser: Parser::new(config.time_window),
            max_payload_bytes: config.max_payload_bytes,
            known: Dictionary {
                max_device_metrics: config.max_device_metrics,
                ..Dictionary::default()
            },
        }
    }

    /// Parses a delivery into the open batch: as rows, as a dead letter, or as both.
    pub fn take(&mut self, delivery: Delivery) {
        let message = self.batch.open_message(delivery) as usize;
        if self.batch.messages[message].delivery.receipt.over_rate {
            // Not parsed: that it costs little is the point.
            return self.batch.messages[message].refuse(Rejection::new(
                Reason::RateLimited,
                "more than INGEST_DEVICE_RATE and INGEST_DEVICE_BURST allow one device; not parsed",
            ));
        }
        // Both are reference-counted: no byte is copied.
        let (topic, payload) = (
            self.batch.messages[message].delivery.topic.clone(),
            self.batch.messages[message].delivery.payload.clone(),
        );
        let refused = self.parse(&topic, &payload, self.batch.messages[message].delivery.receipt);
        if let Some(rejection) = refused.unwrap_or_else(Some) {
            self.batch.messages[message].refuse(rejection);
        }
    }

    fn parse(&mut self, topic: &[u8], payload: &[u8], receipt: Receipt) -> Result<Option<Rejection>, Rejection> {
        if payload.len() > self.max_payload_bytes {
            return Err(Rejection::new(
                Reason::PayloadTooLarge,
                format!("{} bytes; at most {} are taken", payload.len(), self.max_payload_bytes),
            ));
        }
        let (device, channel) = self.tree.parse(topic)?;
        let Channel::Telemetry(kind) = channel else {
            return Err(Rejection::new(Reason::UnknownTopic, "no telemetry topic"));
        };
        let Self { batch, parser, known, .. } = self;
        let origin = Origin {
            device,
            kind,
            received_at: receipt.at,
        };
        let summary = parser.parse(origin, payload, |reading| {
            let (reference, set) = if kind == Telemetry::Events {
                (known.device(device, batch).0, None)
            } else {
                let (reference, set) = known.device_and_set(device, reading, batch)?;
                (reference, Some(set))
            };
            if !reading.own_time && !receipt.again {
                known.tell_apart(device, &mut reading.time);
            }
            match set {
                None => batch.push_event(reading, reference),
                Some(set) => batch.push_reading(reading, reference, set),
            }
            Ok(())
        })?;
        batch.adjusted.receipt_time += u64::from(summary.without_time);
        batch.adjusted.rounded_integers += u64::from(summary.rounded_integers);
        batch.adjusted.nulls += u64::from(summary.nulls);
        Ok(summary.refused)
    }

    /// The open batch, to be stored; a spare one takes its place.
    pub fn seal(&mut self) -> Batch {
        let mut next = self.spare.take().unwrap_or_default();
        next.serial = self.batch.serial + 1;
        std::mem::replace(&mut self.batch, next)
    }

    /// Learns the ids that a stored batch brought back, and keeps its buffers.
    pub fn take_back(&mut self, mut batch: Batch) {
        for (device, id) in batch.new_devices.iter().zip(&batch.device_ids) {
            if let Some(known) = self.known.devices.get_mut(device) {
                known.id = Some(*id);
            }
        }
        for (names, id) in batch.new_sets.iter().zip(&batch.set_ids) {
            if let Some(index) = self.known.set_by_names.get(names) {
                self.known.sets[*index as usize].id = Some(*id);
            }
        }
        batch.clear();
        self.spare = Some(batch);
    }
}

/// The ids of this shard's devices and metric sets, and what each device has used.
#[derive(Debug, Default)]
struct Dictionary {
    devices: Map<DeviceId, Device>,
    set_by_names: Map<Box<[u8]>, u32>,
    sets: Vec<MetricSet>,
    name_indices: Map<Box<str>, u32>,
    max_device_metrics: usize,
}

#[derive(Debug, Default)]
struct Device {
    id: Option<i32>,
    /// In which batch it waits for its id, and where.
    asked: (u64, u32),
    sets: Vec<u32>,
    names: HashSet<u32, FixedState>,
    /// The last time of receipt that became a reading's time.
    last_receipt: i64,
}

#[derive(Debug)]
struct MetricSet {
    id: Option<i32>,
    asked: (u64, u32),
}

impl Dictionary {
    /// Two messages of a device that give no time are two readings, even where they are received in the same microsecond.
    fn tell_apart(&mut self, device: DeviceIdRef<'_>, time: &mut i64) {
        if let Some(known) = self.devices.get_mut(device.as_str()) {
            *time = (*time).max(known.last_receipt.saturating_add(1));
            known.last_receipt = *time;
        }
    }

    fn device(&mut self, device: DeviceIdRef<'_>, batch: &mut Batch) -> (Ref, &mut Device) {
        if !self.devices.contains_key(device.as_str()) {
            self.devices.insert(device.to_owned(), Device::default());
        }
        let known = self.devices.get_mut(device.as_str()).expect("inserted above");
        let reference = match known.id {
            Some(id) => Ref::Id(id),
            None => ask(&mut known.asked, batch.serial, &mut batch.new_devices, || device.to_owned()),
        };
        (reference, known)
    }

    fn device_and_set(&mut self, device: DeviceIdRef<'_>, reading: &Reading, batch: &mut Batch) -> Result<(Ref, Ref), Rejection> {
        let known_set = self.set_by_names.get(reading.names.as_slice()).copied();
        let familiar = match (known_set, self.devices.get(device.as_str())) {
            (Some(set), Some(known)) => known.sets.contains(&set),
            _ => false,
        };
        let set = match known_set {
            Some(set) if familiar => set,
            _ => self.admit(device, reading)?,
        };
        let entry = &mut self.sets[set as usize];
        let set = match entry.id {
            Some(id) => Ref::Id(id),
            None => ask(&mut entry.asked, batch.serial, &mut batch.new_sets, || {
                reading.names.as_slice().into()
            }),
        };
        Ok((self.device(device, batch).0, set))
    }

    /// A device's first message with this set: is there room for its names?
    fn admit(&mut self, device: DeviceIdRef<'_>, reading: &Reading) -> Result<u32, Rejection> {
        let (_, numbers, extras) = split_names(&reading.names);
        let names = || numbers.iter().chain(&extras);
        let used = self.devices.get(device.as_str());
        let is_new = |name: &&&str| !used.is_some_and(|used| self.name_indices.get(**name).is_some_and(|index| used.names.contains(index)));
        let (have, more) = (used.map_or(0, |used| used.names.len()), names().filter(is_new).count());
        if have + more > self.max_device_metrics {
            return Err(Rejection::new(
                Reason::TooManyMetrics,
                format!(
                    "{more} new metrics beside {have} of this device; at most {} are taken",
                    self.max_device_metrics
                ),
            ));
        }
        if used.is_some_and(|used| used.sets.len() >= MAX_DEVICE_SETS) {
            return Err(Rejection::new(
                Reason::TooManyMetrics,
                format!("a new combination of metrics beside {MAX_DEVICE_SETS} of this device"),
            ));
        }
        let mut indices = Vec::with_capacity(numbers.len() + extras.len());
        for name in names() {
            let next = u32::try_from(self.name_indices.len()).expect("names are bounded by device");
            indices.push(*self.name_indices.entry((*name).into()).or_insert(next));
        }
        let next = u32::try_from(self.sets.len()).expect("sets are bounded by device");
        let set = *self.set_by_names.entry(reading.names.as_slice().into()).or_insert(next);
        if set == next {
            self.sets.push(MetricSet { id: None, asked: (0, 0) });
        }
        let entry = self.devices.entry(device.to_owned()).or_default();
        entry.names.extend(indices);
        entry.sets.push(set);
        Ok(set)
    }
}

/// Asks once a batch for an id that is not known yet.
fn ask<T>(asked: &mut (u64, u32), serial: u64, list: &mut Vec<T>, name: impl FnOnce() -> T) -> Ref {
    if asked.0 != serial {
        *asked = (serial, u32::try_from(list.len()).expect("a batch closes long before 2^32 names"));
        list.push(name());
    }
    Ref::New(asked.1)
}
