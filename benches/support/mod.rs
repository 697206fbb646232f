//! A fleet's messages, seeded, and an intake that knows the fleet: what goes into the benches and `tests/allocation.rs`.
#![allow(dead_code, reason = "each of them takes the part it needs")]

use std::fmt::Write as _;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use iotflow::ingest::config::Config;
use iotflow::ingest::parse::Intake;
use iotflow::ingest::queue::{Delivery, Receipt};
use iotflow::protocol::topic::TopicTree;
use jiff::Timestamp;

/// The example of the mission's wire contract.
pub(crate) const MISSION_MESSAGE: &str =
    r#"{"temperature":23.5,"humidity":65.2,"pressure":1013.25,"timestamp":"2025-07-01T10:30:00Z","device_id":"sensor_001"}"#;
/// 2025-07-01T10:30:01Z, when all messages are received: a second after that example was measured.
pub(crate) const RECEIVED_AT: i64 = 1_751_365_801_000_000;
/// How many devices the fleet has.
pub(crate) const DEVICES: usize = 1_000;
/// How many times each device publishes.
pub(crate) const ROUNDS: usize = 10;
/// How many messages that makes.
pub(crate) const MESSAGES: usize = DEVICES * ROUNDS;

/// What came off the wire in one PUBLISH.
pub(crate) struct Publish {
    topic: Bytes,
    payload: Bytes,
}

impl Publish {
    /// As the subscriber passes it on, at QoS 0: there is no connection here that waits for an ack.
    pub(crate) fn deliver(&self, received: Instant) -> Delivery {
        Delivery {
            topic: self.topic.clone(),
            payload: self.payload.clone(),
            receipt: Receipt {
                at: RECEIVED_AT,
                again: false,
                over_rate: false,
                retained: false,
            },
            received,
            ticket: None,
            reply: None,
        }
    }
}

/// The deliveries of `publishes`, in their order.
pub(crate) fn deliver(publishes: &[Publish]) -> Vec<Delivery> {
    let received = Instant::now();
    publishes.iter().map(|publish| publish.deliver(received)).collect()
}

/// What a fleet publishes below `telemetry/{subtopic}`: [`ROUNDS`] times each device, in another order each second, the
/// payload made from the device's id and the time in microseconds.
pub(crate) fn fleet(subtopic: &str, payload: impl Fn(&mut Rng, &str, i64) -> String) -> Vec<Publish> {
    let mut random = Rng::with_seed(1);
    let mut devices: Vec<String> = (0..DEVICES).map(|device| format!("sensor_{device:04}")).collect();
    let (mut publishes, mut second) = (Vec::with_capacity(MESSAGES), RECEIVED_AT - 60_000_000);
    for _ in 0..ROUNDS {
        random.shuffle(&mut devices);
        for device in &devices {
            let time = second + random.i64(0..1_000) * 1_000;
            let payload = payload(&mut random, device, time);
            publishes.push((format!("iotflow/devices/{device}/telemetry/{subtopic}"), payload));
        }
        second += 1_000_000;
    }
    off_the_wire(&publishes)
}

/// Topics and payloads as rumqttc hands them out: slices of the buffer that the socket was read into, of which a clone
/// counts a reference and nothing more. (The first clone of a [`Bytes`] made of a `Vec` allocates.)
fn off_the_wire(publishes: &[(String, String)]) -> Vec<Publish> {
    let mut buffer = BytesMut::new();
    for (topic, payload) in publishes {
        buffer.extend_from_slice(topic.as_bytes());
        buffer.extend_from_slice(payload.as_bytes());
    }
    publishes
        .iter()
        .map(|(topic, payload)| {
            let mut packet = buffer.split_to(topic.len() + payload.len()).freeze();
            let topic = packet.split_to(topic.len());
            Publish { topic, payload: packet }
        })
        .collect()
}

/// An intake that has learned the devices and metric sets of `publishes`, as it would from a first batch stored.
pub(crate) fn intake_that_knows(publishes: &[Publish]) -> Intake {
    let tree = TopicTree::new("iotflow").expect("one level, no wildcard");
    let mut intake = Intake::new(&Config::default(), tree);
    for delivery in deliver(publishes) {
        intake.take(delivery);
    }
    let refused = intake.batch.messages.iter().find_map(|message| message.refusal.as_ref());
    assert!(refused.is_none(), "the fixture should hold good messages: {refused:?}");
    let mut batch = intake.seal();
    let ids = |count: usize| (1..).take(count).collect();
    batch.resolve(ids(batch.new_devices.len()), ids(batch.new_sets.len()));
    intake.take_back(batch);
    intake
}

/// A payload of the form of [`MISSION_MESSAGE`].
pub(crate) fn flat(random: &mut Rng, device: &str, time: i64) -> String {
    let [temperature, humidity, pressure] = weather(random);
    let time = Timestamp::from_microsecond(time).expect("near the time of receipt");
    format!(r#"{{"temperature":{temperature},"humidity":{humidity},"pressure":{pressure},"timestamp":"{time}","device_id":"{device}"}}"#)
}

/// A payload of the form `{"ts":…,"values":{…}}`.
pub(crate) fn values(random: &mut Rng, _device: &str, time: i64) -> String {
    let [temperature, humidity, pressure] = weather(random);
    let millis = time / 1_000;
    format!(r#"{{"ts":{millis},"values":{{"temperature":{temperature},"humidity":{humidity},"pressure":{pressure}}}}}"#)
}

/// An array of `readings` of the form of [`values`], a second from each to the next.
pub(crate) fn array(random: &mut Rng, device: &str, time: i64, readings: i64) -> String {
    let elements: Vec<String> = (0..readings)
        .map(|second| values(random, device, time - second * 1_000_000))
        .collect();
    format!("[{}]", elements.join(","))
}

/// What a machine of a plant says of itself: twelve metrics below `data`, and metadata.
pub(crate) fn industrial(random: &mut Rng, device: &str, time: i64) -> String {
    const METRICS: [&str; 12] = [
        "motor_rpm",
        "motor_current_a",
        "motor_voltage_v",
        "motor_temperature_c",
        "bearing_temperature_c",
        "vibration_x_mm_s",
        "vibration_y_mm_s",
        "vibration_z_mm_s",
        "oil_pressure_bar",
        "coolant_flow_l_min",
        "power_kw",
        "cycle_count",
    ];
    let mut data = String::new();
    for metric in METRICS {
        let comma = if data.is_empty() { "" } else { "," };
        write!(data, r#"{comma}"{metric}":{:.2}"#, random.f64() * 1_500.0).expect("a String takes every write");
    }
    let time = Timestamp::from_microsecond(time).expect("near the time of receipt");
    format!(r#"{{"data":{{{data}}},"metadata":{{"firmware":"2.4.1","line":"A3","shift":2}},"timestamp":"{time}","device_id":"{device}"}}"#)
}

/// Something that happened.
pub(crate) fn event(random: &mut Rng, _device: &str, time: i64) -> String {
    let code = random.u16(..);
    let millis = time / 1_000;
    format!(
        r#"{{"event":"door_opened","severity":"info","code":{code},"context":{{"by":"badge \"7\"","zone":[4,2.5,null]}},"ts":{millis}}}"#
    )
}

/// Temperature, humidity and pressure, in as many digits as sensors give.
fn weather(random: &mut Rng) -> [String; 3] {
    let mut between = |low: f64, high: f64| format!("{:.2}", low + (high - low) * random.f64());
    [between(-10.0, 40.0), between(20.0, 95.0), between(980.0, 1_040.0)]
}
