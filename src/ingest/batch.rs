//! What one commit will hold: rows as COPY wants them, the messages they came from, and dead letters.
//!
//! The parse thread fills it, the writer stores it and hands it back, so its buffers are allocated once. A message's rows
//! are never spread over two batches.

use std::time::{Duration, Instant};

use crate::db::copy_in::{RowWriter, patch_int4};
use crate::observe::accounting::ByQos;
use crate::protocol::id::DeviceId;
use crate::protocol::payload::Reading;
use crate::protocol::reject::Rejection;

use uuid::Uuid;

use super::dead_letter;
use super::queue::Delivery;

/// Where the device id's value begins in an encoded row: after the field count and its own length.
const DEVICE_OFFSET: usize = 2 + 4;
/// Where the metric set's value begins: after the device and the time.
const METRIC_SET_OFFSET: usize = DEVICE_OFFSET + 4 + (4 + 8) + 4;

/// A table's id of something named, or the place of its name among the batch's unknown ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ref {
    /// The database's id.
    Id(i32),
    /// Index into the batch's list of names to learn.
    New(u32),
}

/// What tells a row from all others: device, time, and metric set or payload hash.
pub type Key = (i32, i64, i64);

/// An encoded row's place and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The row's identity. Its ids are final once [`Batch::resolve`] has run.
    pub key: Key,
    start: u32,
    bytes: u32,
    /// Index of its message.
    pub message: u32,
    /// Its place in the message's array.
    pub element: u32,
    new_device: Option<u32>,
    new_set: Option<u32>,
}

/// The rows for one table.
#[derive(Debug, Default)]
pub struct Rows {
    /// In order of arrival until sorted.
    pub rows: Vec<Row>,
    encoded: Vec<u8>,
}

impl Rows {
    /// The bytes of a row.
    #[must_use]
    pub fn bytes(&self, row: &Row) -> &[u8] {
        &self.encoded[row.start as usize..(row.start + row.bytes) as usize]
    }

    fn push(&mut self, reference: Reference, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.encoded.len();
        encode(&mut self.encoded);
        let place = |at: usize| u32::try_from(at).expect("a batch closes long before 4 GiB");
        let Reference {
            device,
            part,
            new_set,
            time,
            message,
            element,
        } = reference;
        let (device, new_device) = match device {
            Ref::Id(id) => (id, None),
            Ref::New(index) => (0, Some(index)),
        };
        let row = Row {
            key: (device, time, part),
            start: place(start),
            bytes: place(self.encoded.len() - start),
            message,
            element,
            new_device,
            new_set,
        };
        self.rows.push(row);
    }

    fn resolve(&mut self, devices: &[i32], sets: &[i32]) {
        for row in &mut self.rows {
            let bytes = &mut self.encoded[row.start as usize..];
            if let Some(index) = row.new_device.take() {
                row.key.0 = devices[index as usize];
                patch_int4(bytes, DEVICE_OFFSET, row.key.0);
            }
            if let Some(index) = row.new_set.take() {
                let id = sets[index as usize];
                row.key.2 = i64::from(id);
                patch_int4(bytes, METRIC_SET_OFFSET, id);
            }
        }
        self.rows.sort_unstable_by_key(|row| row.key);
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.encoded.clear();
    }
}

struct Reference {
    device: Ref,
    part: i64,
    new_set: Option<u32>,
    time: i64,
    message: u32,
    element: u32,
}

/// A message and what has become of it.
#[derive(Debug)]
pub struct Message {
    /// As received. Its ticket is spent at the end.
    pub delivery: Delivery,
    /// The device's own time, where it gave one; of an array, the last.
    pub device_time: Option<i64>,
    /// Rows that were not there before.
    pub new_rows: u32,
    /// Why it, or some of it, goes to the dead letters.
    pub refusal: Option<Refusal>,
}

/// A message's one dead letter.
#[derive(Debug)]
pub struct Refusal {
    /// Drawn once, so that an attempt repeated after a lost answer writes the same row.
    pub id: Uuid,
    /// Why.
    pub rejection: Rejection,
}

impl Message {
    /// Marks it for the dead letters; what is refused of it later joins the detail.
    pub fn refuse(&mut self, rejection: Rejection) {
        match &mut self.refusal {
            None => {
                self.refusal = Some(Refusal {
                    id: dead_letter::new_id(&self.delivery),
                    rejection,
                })
            }
            Some(refusal) => refusal.rejection.detail = format!("{}; {}", refusal.rejection.detail, rejection).into(),
        }
    }
}

/// Readings that a rule changed, for the counters.
#[derive(Debug, Default, Clone, Copy)]
pub struct Adjusted {
    /// Stored at the time of receipt.
    pub receipt_time: u64,
    /// Rounded to the nearest double.
    pub rounded_integers: u64,
    /// Left out because they were null.
    pub nulls: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Batch {
    /// All messages, in order of arrival.
    pub messages: Vec<Message>,
    /// Rows of `telemetry`.
    pub telemetry: Rows,
    /// Rows of `events`.
    pub events: Rows,
    /// Devices without an id yet.
    pub new_devices: Vec<DeviceId>,
    /// The ids they got, once known.
    pub device_ids: Vec<i32>,
    /// Metric sets without an id yet, as lists of names.
    pub new_sets: Vec<Box<[u8]>>,
    /// The ids they got, once known.
    pub set_ids: Vec<i32>,
    /// For the counters.
    pub adjusted: Adjusted,
    /// Tells this filling of the buffers from others.
    pub serial: u64,
    opened: Option<Instant>,
}

impl Batch {
    /// An empty batch; `serial` tells its filling from others.
    #[must_use]
    pub fn with_serial(serial: u64) -> Self {
        Self { serial, ..Self::default() }
    }

    /// Adds a message; its rows follow.
    pub fn open_message(&mut self, delivery: Delivery) -> u32 {
        self.opened.get_or_insert(delivery.received);
        self.messages.push(Message {
            delivery,
            device_time: None,
            new_rows: 0,
            refusal: None,
        });
        u32::try_from(self.messages.len() - 1).expect("a batch closes long before 2^32 messages")
    }

    /// Adds a row of `telemetry` for the message opened last.
    pub fn push_reading(&mut self, reading: &Reading, device: Ref, set: Ref) {
        let (set_id, new_set) = match set {
            Ref::Id(id) => (id, None),
            Ref::New(index) => (0, Some(index)),
        };
        let reference = self.reference(reading, device, i64::from(set_id), new_set);
        let device_id = if let Ref::Id(id) = device { id } else { 0 };
        self.telemetry.push(reference, |buffer| {
            let mut row = RowWriter::begin(buffer, 5);
            row.int4(device_id);
            row.timestamptz(reading.time);
            row.int4(set_id);
            row.float8_array(&reading.values);
            row.jsonb_or_null(&reading.extra);
        });
    }

    /// Adds a row of `events` for the message opened last.
    pub fn push_event(&mut self, event: &Reading, device: Ref) {
        let hash = xxhash_rust::xxh3::xxh3_64(&event.extra).cast_signed();
        let reference = self.reference(event, device, hash, None);
        let device_id = if let Ref::Id(id) = device { id } else { 0 };
        self.events.push(reference, |buffer| {
            let mut row = RowWriter::begin(buffer, 4);
            row.int4(device_id);
            row.timestamptz(event.time);
            row.int8(hash);
            row.jsonb_or_null(&event.extra);
        });
    }

    fn reference(&mut self, reading: &Reading, device: Ref, part: i64, new_set: Option<u32>) -> Reference {
        let message = self.messages.len() - 1;
        if reading.own_time {
            self.messages[message].device_time = Some(reading.time);
        }
        let message = u32::try_from(message).expect("a batch closes long before 2^32 messages");
        Reference {
            device,
            part,
            new_set,
            time: reading.time,
            message,
            element: reading.element,
        }
    }

    /// How many rows it holds; a dead letter counts as one.
    #[must_use]
    pub fn rows(&self) -> usize {
        (self.telemetry.rows.len() + self.events.rows.len()).max(self.messages.len())
    }

    /// How many messages it holds, by QoS.
    #[must_use]
    pub fn held(&self) -> ByQos {
        let acked = self.messages.iter().filter(|message| message.delivery.ticket.is_some()).count() as u64;
        [self.messages.len() as u64 - acked, acked]
    }

    /// Bytes of its rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.telemetry.encoded.len() + self.events.encoded.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The age of its first message.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.map_or(Duration::ZERO, |opened| opened.elapsed())
    }

    /// Puts the learned ids into the rows and sorts them by key.
    pub fn resolve(&mut self, devices: Vec<i32>, sets: Vec<i32>) {
        self.telemetry.resolve(&devices, &sets);
        self.events.resolve(&devices, &[]);
        (self.device_ids, self.set_ids) = (devices, sets);
    }

    /// Empties it for its next filling, and keeps the buffers. Tickets that were not taken out are dropped here.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.telemetry.clear();
        self.events.clear();
        self.new_devices.clear();
        self.device_ids.clear();
        self.new_sets.clear();
        self.set_ids.clear();
        self.adjusted = Adjusted::default();
        self.opened = None;
    }
}
