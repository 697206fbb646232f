//! How the pipeline is cut and how much it may hold.

use std::time::Duration;

use crate::observe::secret::Secret;
use crate::protocol::payload::TimeWindow;
use crate::protocol::topic::TopicTree;

/// The pipeline's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The base topic.
    pub base_topic: String,
    /// The first part of every client id, and the share's name where it has no other.
    pub group: String,
    /// The share's name at the broker. Mosquitto 2.0 lets every client join every share, and drops what it deals to one who
    /// may not read it, so a name that others could guess costs messages.
    pub share_name: Option<Secret>,
    /// How many share-group members the installation has.
    pub slots: u16,
    /// Whether the broker's shared subscriptions are used; else one plain durable subscription.
    pub shared: bool,
    /// How many shards parse and write side by side.
    pub shards: usize,
    /// How long a batch waits for more after its first message: half of it when hardly anything comes, and several times as
    /// long when so much comes that it pays.
    pub linger: Duration,
    /// A batch closes at this many rows.
    pub batch_rows: usize,
    /// A batch closes at this many bytes of rows.
    pub batch_bytes: usize,
    /// How many QoS 0 messages a shard's queue takes before it sheds.
    pub queue_qos0: usize,
    /// Topics and payloads in flight, over which reading pauses and QoS 0 is shed.
    pub held_bytes: usize,
    /// Payloads above this go to the dead letters.
    pub max_payload_bytes: usize,
    /// Accepted device time around now.
    pub time_window: TimeWindow,
    /// Distinct metrics one device may have.
    pub max_device_metrics: usize,
    /// Messages a second that one device may send, counted by share-group slot; 0 for as many as it likes.
    pub device_rate: u32,
    /// Messages that a device may send at once above that; 0 for ten seconds' worth.
    pub device_burst: u32,
    /// Whether devices that ask for it get a receipt for what was committed.
    pub receipts: bool,
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            base_topic: "iotflow".to_owned(),
            group: "ingest".to_owned(),
            share_name: None,
            // Mosquitto gets slower with each member of a share group.
            slots: 1,
            shared: true,
            // The broker and the database want the other half of the cores.
            shards: (cores / 2).clamp(1, 8),
            linger: Duration::from_millis(25),
            // 10,000 rows cost a third less a row than 1,000, 50,000 hardly less than 10,000.
            batch_rows: 10_000,
            batch_bytes: 16 * 1024 * 1024,
            queue_qos0: 65_536,
            held_bytes: 256 * 1024 * 1024,
            max_payload_bytes: 1024 * 1024,
            time_window: TimeWindow {
                past: Duration::from_secs(3653 * 86_400),
                future: Duration::from_secs(86_400),
            },
            max_device_metrics: 512,
            device_rate: 0,
            device_burst: 0,
            receipts: false,
        }
    }
}

impl Config {
    /// The share's name at the broker.
    #[must_use]
    pub fn share(&self) -> &str {
        self.share_name.as_ref().map_or(&self.group, Secret::reveal)
    }

    /// What is wrong with these values, each with the variable that sets it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(error) = TopicTree::new(&self.base_topic) {
            faults.push(format!("MQTT_BASE_TOPIC: {error}"));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let fits = |name: &str, most| (1..=most).contains(&name.len()) && name.bytes().all(allowed);
        if !fits(&self.group, 32) {
            faults.push("INGEST_GROUP is 1 to 32 of A-Z a-z 0-9 - _".to_owned());
        }
        if self.share_name.as_ref().is_some_and(|name| !fits(name.reveal(), 64)) {
            faults.push("INGEST_SHARE_NAME is 1 to 64 of A-Z a-z 0-9 - _".to_owned());
        }
        let ranges = [
            ("INGEST_SLOTS", usize::from(self.slots), 1, 64),
            ("INGEST_SHARDS", self.shards, 1, 64),
            ("INGEST_BATCH_ROWS", self.batch_rows, 1, 1_000_000),
            ("INGEST_BATCH_BYTES", self.batch_bytes, 1024, 512 * 1024 * 1024),
            ("INGEST_QUEUE_QOS0", self.queue_qos0, 1, 1 << 24),
            ("INGEST_HELD_BYTES", self.held_bytes, 1024 * 1024, usize::MAX),
            ("INGEST_MAX_PAYLOAD_BYTES", self.max_payload_bytes, 1, 256 * 1024 * 1024),
            ("INGEST_MAX_DEVICE_METRICS", self.max_device_metrics, 1, 1_000_000),
            // Above this the service as a whole is what limits.
            ("INGEST_DEVICE_RATE", self.device_rate as usize, 0, 10_000),
            ("INGEST_DEVICE_BURST", self.device_burst as usize, 0, 1_000_000),
        ];
        for (name, value, least, most) in ranges {
            if value < least || value > most {
                faults.push(format!("{name} is {value}; {least} to {most} is expected"));
            }
        }
        // PostgreSQL's partitions are named by dates of four-digit years.
        if self.time_window.past > Duration::from_secs(100 * 366 * 86_400)
            || self.time_window.future > Duration::from_secs(100 * 366 * 86_400)
        {
            faults.push("INGEST_TIME_PAST and INGEST_TIME_FUTURE may be a hundred years at most".to_owned());
        }
        if self.linger > Duration::from_secs(10) {
            faults.push("INGEST_LINGER is over 10s; no reading should wait longer for its batch".to_owned());
        }
        if self.device_burst > 0 && self.device_rate == 0 {
            faults.push("INGEST_DEVICE_BURST is set without INGEST_DEVICE_RATE, so nothing is limited".to_owned());
        }
        if !self.shared && self.slots > 1 {
            faults.push("MQTT_SHARED=false goes with INGEST_SLOTS=1: plain subscriptions would each get every message".to_owned());
        }
        faults
    }
}
