//! Every series, declared on one page: name, kind, unit, help, labels, buckets.
//!
//! Labels come from small closed sets; a device id is never one. Names that begin with `iotflow_qos_` are served
//! at `/metrics/qos`, all others at `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::protocol::reject::Reason;

/// The first letters of every series of `/metrics/qos`.
pub const QOS_PREFIX: &str = "iotflow_qos_";

/// From the device's own time to the commit: the series that people are shown.
pub const PUBLISH_TO_COMMIT: &str = INGEST_PUBLISH_TO_COMMIT.name;

/// The age of the oldest delivery that waits for its ack.
pub(super) const OLDEST_UNACKED: &str = QOS_OLDEST_UNACKED.name;
/// What the broker says it dropped.
pub const BROKER_DROPPED_MESSAGES: &str = BROKER_DROPPED.name;

/// From half a millisecond (a commit on an idle machine) to a minute (a database that came back).
const LATENCY_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
/// From a lone reading to the largest batch.
const ROWS: &[f64] = &[
    1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0,
];

/// A declared family of series.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The full name.
    pub name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram(&'static [f64]),
}

macro_rules! families {
    ($($constant:ident: $kind:expr, $name:literal, $unit:ident, $help:literal;)+) => {
        $(const $constant: Family = Family { name: $name, kind: $kind, unit: Unit::$unit, help: $help };)+
        /// Every family, in the order of declaration.
        pub const FAMILIES: &[Family] = &[$($constant,)+];
    };
}

families! {
    QOS_RECEIVED: Kind::Counter, "iotflow_qos_received_total", Count, "Messages taken from the wire, redeliveries included, by QoS of the delivery";
    QOS_REDELIVERED: Kind::Counter, "iotflow_qos_redelivered_total", Count, "Messages received with the DUP flag";
    QOS_COMMITTED: Kind::Counter, "iotflow_qos_committed_total", Count, "Messages stored with at least one new row";
    QOS_DUPLICATES: Kind::Counter, "iotflow_qos_duplicates_total", Count, "Messages whose every row was stored before";
    QOS_DEAD_LETTERED: Kind::Counter, "iotflow_qos_dead_lettered_total", Count, "Messages stored as dead letters, in whole or in part";
    QOS_SHED: Kind::Counter, "iotflow_qos_shed_total", Count, "QoS 0 messages dropped by rule: under overload, or above their device's rate";
    QOS_ABANDONED: Kind::Counter, "iotflow_qos_abandoned_total", Count, "Messages let go without a verdict, unacked, for the broker to redeliver";
    QOS_IN_FLIGHT: Kind::Gauge, "iotflow_qos_in_flight", Count, "Messages received that have no outcome yet";
    QOS_ACKED: Kind::Counter, "iotflow_qos_acked_total", Count, "PUBACKs handed to the wire, each after the commit";
    QOS_FENCED: Kind::Counter, "iotflow_qos_fenced_acks_total", Count, "Acks that came due after their connection had ended and were never sent";
    QOS_UNACKED: Kind::Gauge, "iotflow_qos_unacked", Count, "Deliveries of this connection that wait for their ack";
    QOS_WINDOW_USE: Kind::Gauge, "iotflow_qos_window_use_ratio", Count, "Unacked deliveries over the Receive Maximum";
    QOS_OLDEST_UNACKED: Kind::Gauge, "iotflow_qos_oldest_unacked_seconds", Seconds, "Age of the oldest delivery that waits for its ack";
    QOS_COMMIT_LATENCY: Kind::Histogram(LATENCY_SECONDS), "iotflow_qos_commit_latency_seconds", Seconds, "From receipt to commit";
    QOS_ACK_LATENCY: Kind::Histogram(LATENCY_SECONDS), "iotflow_qos_ack_latency_seconds", Seconds, "From receipt to the PUBACK";

    INGEST_PUBLISH_TO_COMMIT: Kind::Histogram(LATENCY_SECONDS), "iotflow_ingest_publish_to_commit_seconds", Seconds, "From the device's own time to the commit, of messages that are less than a minute old";
    INGEST_ROWS: Kind::Counter, "iotflow_ingest_rows_total", Count, "Rows by table and outcome (new, duplicate)";
    INGEST_REJECTED: Kind::Counter, "iotflow_ingest_rejected_total", Count, "Dead letters by reason";
    INGEST_ADJUSTED: Kind::Counter, "iotflow_ingest_adjusted_total", Count, "Readings stored under a rule that changed them (receipt_time, rounded_integer, null_left_out)";
    INGEST_SHED: Kind::Counter, "iotflow_ingest_shed_total", Count, "QoS 0 messages dropped, by reason (overload, rate_limited)";
    INGEST_RATE_LIMITED: Kind::Gauge, "iotflow_ingest_rate_limited_devices", Count, "Devices that sent more than INGEST_DEVICE_RATE allows within the last ten seconds";
    INGEST_QUEUE_DEPTH: Kind::Gauge, "iotflow_ingest_queue_depth", Count, "Deliveries that wait in a shard's queue";
    INGEST_QUEUE_CAPACITY: Kind::Gauge, "iotflow_ingest_queue_capacity", Count, "Places in a shard's queue";
    INGEST_HELD_BYTES: Kind::Gauge, "iotflow_ingest_held_bytes", Bytes, "Topics and payloads of the messages in flight";
    INGEST_PAUSES: Kind::Counter, "iotflow_ingest_read_pauses_total", Count, "Times a connection stopped reading because the byte budget was used up";

    INGEST_HTTP: Kind::Counter, "iotflow_ingest_http_total", Count, "Telemetry that came over HTTP, by outcome (committed, duplicate, dead_lettered, refused, rate_limited, overload, unanswered)";
    INGEST_RECEIPTS: Kind::Counter, "iotflow_ingest_receipts_total", Count, "Receipts that devices asked for, by outcome (sent, refused: not a topic of its own, dropped: no room or not taken by the broker)";

    DB_COPY_SECONDS: Kind::Histogram(LATENCY_SECONDS), "iotflow_db_copy_seconds", Seconds, "One batch's way through COPY and commit";
    DB_COPY_ROWS: Kind::Histogram(ROWS), "iotflow_db_copy_rows", Count, "Rows per batch";
    DB_TRANSACTIONS: Kind::Counter, "iotflow_db_transactions_total", Count, "Transactions by name and outcome (ok, retried, refused)";
    DB_PARTITIONS: Kind::Counter, "iotflow_db_partitions_total", Count, "Partitions by what was done to them (created, dropped)";

    MQTT_CONNECTED: Kind::Gauge, "iotflow_mqtt_connected", Count, "1 while the connection's subscriptions are in force";
    MQTT_CONNECTS: Kind::Counter, "iotflow_mqtt_connects_total", Count, "CONNACKs received, by whether the session was resumed";
    MQTT_DISCONNECTS: Kind::Counter, "iotflow_mqtt_disconnects_total", Count, "Connections that ended, but for those we closed";
    MQTT_LEASED: Kind::Gauge, "iotflow_mqtt_leased", Count, "1 while this process holds the connection's lease";
    BROKER_DROPPED: Kind::Gauge, "iotflow_broker_dropped_messages", Count, "What the broker says it dropped ($SYS/broker/publish/messages/dropped), all clients together";

    ACCESS_ALARM: Kind::Gauge, "iotflow_access_alarm", Count, "1 while the last change of who may do what could not be brought into force at the broker";
    ACCESS_PENDING: Kind::Gauge, "iotflow_access_pending_changes", Count, "Changes of who may do what that the broker was not proven to obey yet";

    COMMANDS: Kind::Counter, "iotflow_courier_deliveries_total", Count, "Deliveries of commands by the state they came into (sent, delivered, accepted, progress, completed, failed, expired)";
    COURIER_ANSWERS: Kind::Counter, "iotflow_courier_answers_total", Count, "Answers of devices by what became of them (applied, late, repeated, refused, rate_limited: above COURIER_DEVICE_RATE)";
    COURIER_QUEUE_DEPTH: Kind::Gauge, "iotflow_courier_queue_depth", Count, "Deliveries that wait, by what for (turn, device)";
    COURIER_LETTERS: Kind::Counter, "iotflow_courier_letters_total", Count, "Publishes of the outbox by what became of them (taken, refused)";

    STATUS_WRITTEN: Kind::Counter, "iotflow_status_devices_written_total", Count, "Device states written";
    STATUS_SWEPT: Kind::Counter, "iotflow_status_devices_swept_total", Count, "Devices put offline because their heartbeats stopped (PRESENCE_TIMEOUT)";
    DISCOVERY_REFUSED: Kind::Counter, "iotflow_discovery_refused_total", Count, "Registrations with another key than the device was announced with";
    DISCOVERY_DROPPED: Kind::Counter, "iotflow_discovery_dropped_total", Count, "Registrations that were not looked at because more came than DISCOVERY_RATE allows";
    HTTP_REQUESTS: Kind::Counter, "iotflow_http_requests_total", Count, "Requests answered, by the route's template, method and status";
    HTTP_SECONDS: Kind::Histogram(LATENCY_SECONDS), "iotflow_http_request_seconds", Seconds, "From a request's headers to those of its answer, by the route's template";
    BUILD_INFO: Kind::Gauge, "iotflow_build_info", Count, "1, labelled with the version";
}

/// The handles of one connection's series.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// See `iotflow_mqtt_connected`.
    pub connected: Gauge,
    /// See `iotflow_mqtt_leased`.
    pub leased: Gauge,
    /// CONNACKs with the session present.
    pub resumed: Counter,
    /// CONNACKs without.
    pub started: Counter,
    /// See `iotflow_mqtt_disconnects_total`.
    pub disconnects: Counter,
    /// See `iotflow_qos_acked_total`.
    pub acked: Counter,
    /// See `iotflow_qos_fenced_acks_total`.
    pub fenced: Counter,
    /// See `iotflow_qos_unacked`.
    pub unacked: Gauge,
    /// See `iotflow_qos_window_use_ratio`.
    pub window_use: Gauge,
    /// See `iotflow_qos_oldest_unacked_seconds`.
    pub oldest_unacked: Gauge,
    /// See `iotflow_ingest_rate_limited_devices`.
    pub rate_limited_devices: Gauge,
}

/// The handles of one table's rows.
#[derive(Debug, Clone)]
pub struct RowMetrics {
    /// Rows that were not there before.
    pub new: Counter,
    /// Rows that were.
    pub duplicate: Counter,
}

/// The handles of telemetry over HTTP, by outcome.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    /// Committed with a new row.
    pub committed: Counter,
    /// Stored before.
    pub duplicate: Counter,
    /// A dead letter.
    pub dead_lettered: Counter,
    /// Refused for its payload; kept nowhere.
    pub refused: Counter,
    /// Refused for its device sent too much.
    pub rate_limited: Counter,
    /// Refused for there was no room.
    pub overload: Counter,
    /// Without an outcome in time.
    pub unanswered: Counter,
}

/// The handles of receipts, by outcome.
#[derive(Debug, Clone)]
pub struct ReceiptMetrics {
    /// Taken by the broker.
    pub sent: Counter,
    /// Asked for where the device may not have one.
    pub refused: Counter,
    /// For want of room, or not taken by the broker.
    pub dropped: Counter,
}

/// The handles of one named transaction.
#[derive(Debug, Clone)]
pub struct TransactionMetrics {
    /// Committed.
    pub ok: Counter,
    /// Failed for a passing reason, and tried again.
    pub retried: Counter,
    /// Refused for what it carried.
    pub refused: Counter,
}

/// The handles of the courier's series.
#[derive(Debug, Clone)]
pub struct CourierMetrics {
    deliveries: Vec<(&'static str, Counter)>,
    /// Answers that moved a command on.
    pub applied: Counter,
    /// Answers to what had come to its end.
    pub late: Counter,
    /// Answers that said nothing new.
    pub repeated: Counter,
    /// Answers that became dead letters.
    pub refused: Counter,
    /// Answers that were dropped, for their device said more than it may.
    pub rate_limited: Counter,
    /// Deliveries that wait for their turn.
    pub waiting_turn: Gauge,
    /// Deliveries that wait for their device.
    pub waiting_device: Gauge,
    /// Publishes of the outbox that the broker took.
    pub letters_taken: Counter,
    /// Publishes of the outbox that it did not.
    pub letters_refused: Counter,
}

impl CourierMetrics {
    /// Counts deliveries that came into a state.
    pub fn came_into(&self, state: &str, count: u64) {
        if let Some((_, counter)) = self.deliveries.iter().find(|(known, _)| *known == state) {
            counter.increment(count);
        }
    }
}

/// All of a service's series.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    rendering: Mutex<()>,
    /// Receipt to commit, by QoS.
    pub commit_latency: [Histogram; 2],
    /// Receipt to PUBACK, by QoS (QoS 1 alone has acks).
    pub ack_latency: Histogram,
    /// Device time to commit.
    pub publish_to_commit: Histogram,
    /// Dead letters, by [`Reason`] in the order of [`Reason::ALL`].
    pub rejected: Vec<Counter>,
    /// Readings stored at the time of receipt.
    pub receipt_time: Counter,
    /// Integers rounded to a double.
    pub rounded_integer: Counter,
    /// Fields left out because they were null.
    pub null_left_out: Counter,
    /// QoS 0 messages shed because a queue, or the byte budget, was full.
    pub shed_overload: Counter,
    /// QoS 0 messages shed because their device sent more than it may.
    pub shed_rate_limited: Counter,
    /// See `iotflow_ingest_http_total`.
    pub http: HttpMetrics,
    /// See `iotflow_ingest_receipts_total`.
    pub receipts: ReceiptMetrics,
    /// See `iotflow_ingest_held_bytes`.
    pub held_bytes: Gauge,
    /// See `iotflow_ingest_read_pauses_total`.
    pub pauses: Counter,
    /// Seconds of a batch's COPY and commit.
    pub copy_seconds: Histogram,
    /// Rows of a batch.
    pub copy_rows: Histogram,
    /// Partitions made.
    pub partitions_created: Counter,
    /// Partitions dropped by retention.
    pub partitions_dropped: Counter,
    /// See `iotflow_broker_dropped_messages`.
    pub broker_dropped: Gauge,
    /// See `iotflow_access_alarm`.
    pub access_alarm: Gauge,
    /// See `iotflow_access_pending_changes`.
    pub access_pending: Gauge,
    /// See `iotflow_status_devices_written_total`.
    pub status_written: Counter,
    /// See `iotflow_status_devices_swept_total`.
    pub status_swept: Counter,
    /// See `iotflow_discovery_refused_total`.
    pub discovery_refused: Counter,
    /// See `iotflow_discovery_dropped_total`.
    pub discovery_dropped: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Declares every family and returns its handles.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let mut builder = PrometheusBuilder::new();
        for family in FAMILIES {
            if let Kind::Histogram(buckets) = family.kind {
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(family.name.to_owned()), buckets)
                    .expect("no declared family has an empty list of buckets");
            }
        }
        let recorder = builder.build_recorder();
        for family in FAMILIES {
            let (name, unit, help) = (KeyName::from(family.name), Some(family.unit), SharedString::const_str(family.help));
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, unit, help),
            }
        }
        metrics::with_local_recorder(&recorder, || metrics_process::Collector::default().describe());
        gauge(&recorder, BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        let rejected = Reason::ALL
            .iter()
            .map(|reason| counter(&recorder, INGEST_REJECTED, &[("reason", reason.as_str())]))
            .collect();
        let adjusted = |rule| counter(&recorder, INGEST_ADJUSTED, &[("rule", rule)]);
        let shed = |reason| counter(&recorder, INGEST_SHED, &[("reason", reason)]);
        let http = |outcome| counter(&recorder, INGEST_HTTP, &[("outcome", outcome)]);
        let receipts = |outcome| counter(&recorder, INGEST_RECEIPTS, &[("outcome", outcome)]);
        Arc::new(Self {
            http: HttpMetrics {
                committed: http("committed"),
                duplicate: http("duplicate"),
                dead_lettered: http("dead_lettered"),
                refused: http("refused"),
                rate_limited: http("rate_limited"),
                overload: http("overload"),
                unanswered: http("unanswered"),
            },
            receipts: ReceiptMetrics {
                sent: receipts("sent"),
                refused: receipts("refused"),
                dropped: receipts("dropped"),
            },
            commit_latency: ["0", "1"].map(|qos| histogram(&recorder, QOS_COMMIT_LATENCY, &[("qos", qos)])),
            ack_latency: histogram(&recorder, QOS_ACK_LATENCY, &[("qos", "1")]),
            publish_to_commit: histogram(&recorder, INGEST_PUBLISH_TO_COMMIT, &[]),
            rejected,
            receipt_time: adjusted("receipt_time"),
            rounded_integer: adjusted("rounded_integer"),
            null_left_out: adjusted("null_left_out"),
            shed_overload: shed("overload"),
            shed_rate_limited: shed(Reason::RateLimited.as_str()),
            held_bytes: gauge(&recorder, INGEST_HELD_BYTES, &[]),
            pauses: counter(&recorder, INGEST_PAUSES, &[]),
            copy_seconds: histogram(&recorder, DB_COPY_SECONDS, &[]),
            copy_rows: histogram(&recorder, DB_COPY_ROWS, &[]),
            partitions_created: counter(&recorder, DB_PARTITIONS, &[("done", "created")]),
            partitions_dropped: counter(&recorder, DB_PARTITIONS, &[("done", "dropped")]),
            broker_dropped: gauge(&recorder, BROKER_DROPPED, &[]),
            access_alarm: gauge(&recorder, ACCESS_ALARM, &[]),
            access_pending: gauge(&recorder, ACCESS_PENDING, &[]),
            discovery_refused: counter(&recorder, DISCOVERY_REFUSED, &[]),
            discovery_dropped: counter(&recorder, DISCOVERY_DROPPED, &[]),
            status_written: counter(&recorder, STATUS_WRITTEN, &[]),
            status_swept: counter(&recorder, STATUS_SWEPT, &[]),
            handle: recorder.handle(),
            rendering: Mutex::new(()),
            recorder,
        })
    }

    /// The series of the connection called `name` (`slot-0`, `status`).
    #[must_use]
    pub fn connection(&self, name: &str) -> ConnectionMetrics {
        let labels = [("connection", name)];
        let connects = |session| counter(&self.recorder, MQTT_CONNECTS, &[("connection", name), ("session", session)]);
        ConnectionMetrics {
            connected: gauge(&self.recorder, MQTT_CONNECTED, &labels),
            leased: gauge(&self.recorder, MQTT_LEASED, &labels),
            resumed: connects("resumed"),
            started: connects("started"),
            disconnects: counter(&self.recorder, MQTT_DISCONNECTS, &labels),
            acked: counter(&self.recorder, QOS_ACKED, &[("connection", name), ("qos", "1")]),
            fenced: counter(&self.recorder, QOS_FENCED, &[("connection", name), ("qos", "1")]),
            unacked: gauge(&self.recorder, QOS_UNACKED, &labels),
            window_use: gauge(&self.recorder, QOS_WINDOW_USE, &labels),
            oldest_unacked: gauge(&self.recorder, QOS_OLDEST_UNACKED, &labels),
            rate_limited_devices: gauge(&self.recorder, INGEST_RATE_LIMITED, &labels),
        }
    }

    /// The series of the courier.
    #[must_use]
    pub fn courier(&self) -> CourierMetrics {
        let delivery = |state| (state, counter(&self.recorder, COMMANDS, &[("state", state)]));
        let answers = |outcome| counter(&self.recorder, COURIER_ANSWERS, &[("outcome", outcome)]);
        let depth = |what| gauge(&self.recorder, COURIER_QUEUE_DEPTH, &[("for", what)]);
        let letters = |outcome| counter(&self.recorder, COURIER_LETTERS, &[("outcome", outcome)]);
        CourierMetrics {
            deliveries: ["sent", "delivered", "accepted", "progress", "completed", "failed", "expired"]
                .map(delivery)
                .to_vec(),
            applied: answers("applied"),
            late: answers("late"),
            repeated: answers("repeated"),
            refused: answers("refused"),
            rate_limited: answers("rate_limited"),
            waiting_turn: depth("turn"),
            waiting_device: depth("device"),
            letters_taken: letters("taken"),
            letters_refused: letters("refused"),
        }
    }

    /// The series of the rows of `table`.
    #[must_use]
    pub fn rows(&self, table: &str) -> RowMetrics {
        let outcome = |outcome| counter(&self.recorder, INGEST_ROWS, &[("table", table), ("outcome", outcome)]);
        RowMetrics {
            new: outcome("new"),
            duplicate: outcome("duplicate"),
        }
    }

    /// The series of the transaction called `name`.
    #[must_use]
    pub fn transaction(&self, name: &str) -> TransactionMetrics {
        let outcome = |outcome| counter(&self.recorder, DB_TRANSACTIONS, &[("name", name), ("outcome", outcome)]);
        TransactionMetrics {
            ok: outcome("ok"),
            retried: outcome("retried"),
            refused: outcome("refused"),
        }
    }

    /// The depth and the capacity of the queue of `shard`.
    pub fn queue(&self, shard: usize) -> [Gauge; 2] {
        [INGEST_QUEUE_DEPTH, INGEST_QUEUE_CAPACITY].map(|family| gauge(&self.recorder, family, &[("shard", &shard.to_string())]))
    }

    /// Counts a request that was answered. `route` is a template of the router's, of which there are few.
    pub fn http_request(&self, route: &str, method: &str, status: u16, seconds: f64) {
        // Anybody can make methods up.
        let method = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
            .into_iter()
            .find(|known| *known == method);
        let (method, status) = (method.unwrap_or("other"), status.to_string());
        counter(
            &self.recorder,
            HTTP_REQUESTS,
            &[("route", route), ("method", method), ("status", &status)],
        )
        .increment(1);
        histogram(&self.recorder, HTTP_SECONDS, &[("route", route)]).record(seconds);
    }

    pub(super) fn render(&self, accounting: &super::accounting::Accounting) -> String {
        // One at a time: between the setting of the totals and their rendering, another's newer ones would break the sum.
        let _rendering = self.rendering.lock().unwrap_or_else(PoisonError::into_inner);
        self.set_totals(&accounting.totals());
        metrics::with_local_recorder(&self.recorder, || metrics_process::Collector::default().collect());
        self.handle.render()
    }

    /// Moves what histograms have gathered into their buckets; to be called every few seconds, or they grow.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    fn set_totals(&self, totals: &super::accounting::Totals) {
        for (index, qos) in ["0", "1"].into_iter().enumerate() {
            let labels = [("qos", qos)];
            let pairs = [
                (QOS_RECEIVED, totals.received),
                (QOS_REDELIVERED, totals.redelivered),
                (QOS_COMMITTED, totals.committed),
                (QOS_DUPLICATES, totals.duplicates),
                (QOS_DEAD_LETTERED, totals.dead_lettered),
                (QOS_SHED, totals.shed),
                (QOS_ABANDONED, totals.abandoned),
            ];
            for (family, count) in pairs {
                counter(&self.recorder, family, &labels).absolute(count[index]);
            }
            #[expect(clippy::cast_precision_loss, reason = "the window holds at most 65,535 a connection")]
            gauge(&self.recorder, QOS_IN_FLIGHT, &labels).set(totals.in_flight[index] as f64);
        }
    }
}

fn key(family: Family, labels: &[(&'static str, &str)]) -> Key {
    Key::from_parts(
        family.name,
        labels
            .iter()
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect::<Vec<_>>(),
    )
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn counter(recorder: &PrometheusRecorder, family: Family, labels: &[(&'static str, &str)]) -> Counter {
    recorder.register_counter(&key(family, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, family: Family, labels: &[(&'static str, &str)]) -> Gauge {
    recorder.register_gauge(&key(family, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, family: Family, labels: &[(&'static str, &str)]) -> Histogram {
    recorder.register_histogram(&key(family, labels), &METADATA)
}
