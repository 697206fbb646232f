//! Random messages pass through the intake and the parse stage here: each comes out once, in order, whole, and as it was
//! sent.

#[path = "support/copy_form.rs"]
mod copy_form;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use iotflow::ingest::batch::Batch;
use iotflow::ingest::config::Config;
use iotflow::ingest::ledger::{self, Residue, Window};
use iotflow::ingest::parse::{Handover, Intake, ParseStage};
use iotflow::ingest::queue::{Delivery, Receipt, ShardQueue};
use iotflow::protocol::payload::split_names;
use iotflow::protocol::reject::Reason;
use iotflow::protocol::topic::{Telemetry, TopicTree};
use metrics::Counter;
use proptest::prelude::*;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

/// 2025-07-01T10:30:05Z, when everything is received, in microseconds.
const RECEIVED_AT: i64 = 1_751_365_805_000_000;
/// How long a thread may take that has nothing left to wait for.
const PATIENCE: Duration = Duration::from_secs(150);

/// A reading, or an event, as a device means it.
#[derive(Debug, Clone)]
struct Sent {
    time: i64,
    fields: BTreeMap<String, Value>,
}

impl Sent {
    fn object(&self) -> Value {
        let time = ("timestamp".to_owned(), Value::from(self.time));
        Value::Object(self.fields.clone().into_iter().chain([time]).collect())
    }

    fn numbers(&self) -> Vec<(&str, f64)> {
        let number = |value: &Value| match value {
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            value => value.as_f64(),
        };
        self.fields
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), number(value)?)))
            .collect()
    }

    fn others(&self) -> Map<String, Value> {
        let is_other = |value: &Value| !value.is_number() && !value.is_boolean();
        let others = self.fields.iter().filter(|(_, value)| is_other(value));
        others.map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// What one publish holds.
#[derive(Debug, Clone)]
enum Content {
    One(Sent),
    /// An array; `None` is an element that breaks a rule.
    Many(Vec<Option<Sent>>),
    Bad(&'static str, Reason),
}

#[derive(Debug, Clone)]
struct Message {
    device: String,
    kind: Telemetry,
    content: Content,
}

impl Message {
    fn topic(&self) -> String {
        let subtopic = ["", "/sensors", "/metrics", "/events"][usize::from(self.kind.code())];
        format!("iotflow/devices/{}/telemetry{subtopic}", self.device)
    }

    fn payload(&self) -> Bytes {
        match &self.content {
            Content::One(sent) => sent.object().to_string().into(),
            Content::Many(elements) => {
                let elements = elements
                    .iter()
                    .map(|element| element.as_ref().map_or(Value::from("bad"), Sent::object));
                Value::Array(elements.collect()).to_string().into()
            }
            Content::Bad(payload, _) => Bytes::from_static(payload.as_bytes()),
        }
    }

    /// Received `after` that many microseconds, which tells it from others that say the same.
    fn deliver(&self, after: i64) -> Delivery {
        Delivery {
            topic: self.topic().into(),
            payload: self.payload(),
            receipt: Receipt {
                at: RECEIVED_AT + after,
                again: false,
                over_rate: false,
                retained: false,
            },
            received: Instant::now(),
            ticket: None,
            reply: None,
        }
    }

    /// The rows that should come of it, each with its place in the array.
    fn rows(&self) -> Vec<(u32, &Sent)> {
        match &self.content {
            Content::One(sent) => vec![(0, sent)],
            Content::Many(elements) => (0..)
                .zip(elements)
                .filter_map(|(place, element)| Some((place, element.as_ref()?)))
                .collect(),
            Content::Bad(..) => Vec::new(),
        }
    }

    fn refusal(&self) -> Option<Reason> {
        match &self.content {
            Content::Bad(_, reason) => Some(*reason),
            Content::Many(elements) if elements.iter().any(Option::is_none) => Some(Reason::BadElements),
            Content::One(_) | Content::Many(_) => None,
        }
    }
}

/// Few names and few moments, so that devices, metric sets and whole keys meet again and again.
fn sent() -> impl Strategy<Value = Sent> {
    let value = prop_oneof![
        4 => any::<f64>().prop_filter("JSON has finite numbers only", |number| number.is_finite()).prop_map(Value::from),
        2 => (-1_000_000_i64..1_000_000).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => "[a-z\"\\\\é]{0,8}".prop_map(Value::from),
        1 => prop::collection::vec(0_u8..9, 0..3).prop_map(Value::from),
    ];
    let fields = prop::collection::btree_map("[a-e]", value, 1..4);
    (0_i64..5, fields).prop_map(|(second, fields)| Sent {
        time: RECEIVED_AT - second * 1_000_000,
        fields,
    })
}

fn message() -> impl Strategy<Value = Message> {
    let bad = prop::sample::select(vec![
        ("", Reason::EmptyPayload),
        ("{", Reason::NotJson),
        ("7", Reason::NotObject),
        ("[]", Reason::EmptyArray),
        (r#"{"a":1,"a":2}"#, Reason::DuplicateKey),
        (r#"{"a":1,"timestamp":"never"}"#, Reason::BadTime),
        (r#"{"a":1,"timestamp":0}"#, Reason::TimeOutOfWindow),
        (r#"{"a":1,"device_id":"another"}"#, Reason::DeviceIdMismatch),
    ]);
    let content = prop_oneof![
        6 => sent().prop_map(Content::One),
        2 => prop::collection::vec(prop::option::weighted(0.8, sent()), 1..5).prop_map(Content::Many),
        2 => bad.prop_map(|(payload, reason)| Content::Bad(payload, reason)),
    ];
    ("[a-h]", prop::sample::select(Telemetry::ALL.to_vec()), content).prop_map(|(device, kind, content)| Message {
        device: format!("device-{device}"),
        kind,
        content,
    })
}

/// The ids of a database: in no order that anything could lean on.
#[derive(Default)]
struct Ids {
    devices: HashMap<String, i32>,
    sets: HashMap<Box<[u8]>, i32>,
}

impl Ids {
    /// Resolves the batch as the writer does.
    fn resolve(&mut self, batch: &mut Batch) {
        let scrambled = |next: usize| i32::try_from((next * 7_919 + 13) % 10_007).expect("below 10,007");
        let mut devices = Vec::new();
        for device in &batch.new_devices {
            let next = scrambled(self.devices.len());
            devices.push(*self.devices.entry(device.as_str().to_owned()).or_insert(next));
        }
        let mut sets = Vec::new();
        for names in &batch.new_sets {
            let next = scrambled(self.sets.len());
            sets.push(*self.sets.entry(names.clone()).or_insert(next));
        }
        batch.resolve(devices, sets);
    }

    fn names(&self, set: i32) -> &[u8] {
        let found = self.sets.iter().find(|(_, id)| **id == set);
        found.map(|(names, _)| &**names).expect("a metric set that the database knows")
    }
}

/// Checks a resolved batch against the messages that went into it.
fn check(batch: &Batch, sent: &[Message], ids: &Ids) {
    assert_eq!(batch.messages.len(), sent.len(), "as many messages come out as went in");
    for (message, sent) in batch.messages.iter().zip(sent) {
        assert_eq!(message.delivery.topic, sent.topic(), "in order");
        assert_eq!(message.delivery.payload, sent.payload(), "in order");
        let refusal = message.refusal.as_ref().map(|refusal| refusal.rejection.reason);
        assert_eq!(refusal, sent.refusal(), "{sent:?}");
    }
    let (telemetry, events) = (&batch.telemetry.rows, &batch.events.rows);
    assert!(telemetry.is_sorted_by_key(|row| row.key) && events.is_sorted_by_key(|row| row.key));
    let devices: HashSet<i32> = telemetry.iter().chain(events).map(|row| row.key.0).collect();
    let sets: HashSet<i64> = telemetry.iter().map(|row| row.key.2).collect();
    assert!(
        batch.device_ids.iter().all(|id| devices.contains(id)),
        "asked for a device of another batch"
    );
    assert!(
        batch.set_ids.iter().all(|id| sets.contains(&i64::from(*id))),
        "asked for a set of another batch"
    );

    let expect = |is_event: bool| {
        let expected = (0_u32..)
            .zip(sent)
            .filter(move |(_, sent)| (sent.kind == Telemetry::Events) == is_event);
        expected.flat_map(|(message, sent)| sent.rows().into_iter().map(move |(element, row)| ((message, element), (sent, row))))
    };
    let mut expected: BTreeMap<_, _> = expect(false).collect();
    for row in telemetry {
        let (message, sent) = expected
            .remove(&(row.message, row.element))
            .expect("a row that was sent, and once only");
        let stored = copy_form::telemetry(batch.telemetry.bytes(row));
        assert_eq!((stored.device, stored.time, i64::from(stored.metric_set)), row.key);
        assert_eq!((stored.device, stored.time), (ids.devices[&message.device], sent.time));
        let (kind, numbers, extras) = split_names(ids.names(stored.metric_set));
        assert_eq!(kind, message.kind.code());
        let bits = |value: &f64| value.to_bits();
        assert!(sent.numbers().iter().map(|(name, _)| *name).eq(numbers), "{sent:?}");
        assert!(
            sent.numbers()
                .iter()
                .map(|(_, value)| bits(value))
                .eq(stored.values.iter().map(bits)),
            "{sent:?}: {stored:?}"
        );
        let others = sent.others();
        assert!(others.keys().eq(extras.iter()), "{sent:?}");
        assert_eq!(stored.extra, (!others.is_empty()).then_some(Value::Object(others)));
    }
    assert!(expected.is_empty(), "no row for {expected:?}");

    let mut expected: BTreeMap<_, _> = expect(true).collect();
    for row in events {
        let (message, sent) = expected
            .remove(&(row.message, row.element))
            .expect("an event that was sent, and once only");
        let stored = copy_form::event(batch.events.bytes(row));
        assert_eq!((stored.device, stored.time, stored.hash), row.key);
        assert_eq!((stored.device, stored.time), (ids.devices[&message.device], sent.time));
        assert_eq!(stored.payload, sent.object());
    }
    assert!(expected.is_empty(), "no event for {expected:?}");
}

/// What happens to the intake next.
#[derive(Debug, Clone)]
enum Step {
    Take(Message),
    Seal,
    /// The oldest sealed batch comes back stored.
    TakeBack,
    /// The oldest sealed batch comes back as a stop leaves it: nothing stored, nothing learned.
    GiveUp,
}

proptest! {
    #[test]
    fn every_message_comes_out_once_in_order_and_whole(
        steps in prop::collection::vec(prop_oneof![
            12 => message().prop_map(Step::Take),
            2 => Just(Step::Seal),
            2 => Just(Step::TakeBack),
            1 => Just(Step::GiveUp),
        ], 0..120)
    ) {
        let mut intake = Intake::new(&Config::default(), TopicTree::new("iotflow").expect("one level, no wildcard"));
        let (mut open, mut away, mut ids) = (Vec::new(), VecDeque::new(), Ids::default());
        for step in steps.into_iter().chain([Step::Seal, Step::TakeBack, Step::TakeBack, Step::TakeBack]) {
            match step {
                Step::Take(message) => {
                    intake.take(message.deliver(0));
                    open.push(message);
                }
                // One at the writer, and one on its way back.
                Step::Seal if away.len() < 2 => {
                    let batch = intake.seal();
                    prop_assert!(intake.batch.is_empty() && intake.batch.rows() == 0 && intake.batch.bytes() == 0);
                    away.push_back((batch, std::mem::take(&mut open)));
                }
                Step::Seal => {}
                Step::TakeBack => if let Some((mut batch, sent)) = away.pop_front() {
                    ids.resolve(&mut batch);
                    check(&batch, &sent, &ids);
                    intake.take_back(batch);
                }
                Step::GiveUp => if let Some((batch, sent)) = away.pop_front() {
                    prop_assert_eq!(batch.messages.len(), sent.len());
                    intake.take_back(batch);
                }
            }
        }
        // What the last seal found no place for is still in the open batch.
        ids.resolve(&mut intake.batch);
        check(&intake.batch, &open, &ids);
    }
}

/// How a run through the parse stage is cut.
#[derive(Debug, Clone)]
struct Run {
    /// Of each of two connections, the bursts and the pause before each.
    connections: [Vec<(Duration, Vec<Message>)>; 2],
    /// How long the writer takes for each batch, in turn.
    writes: Vec<Duration>,
    batch_rows: usize,
    linger: Duration,
}

fn run() -> impl Strategy<Value = Run> {
    let micros = |most: u64| (0..most).prop_map(Duration::from_micros);
    let bursts = || prop::collection::vec((micros(300), prop::collection::vec(message(), 1..20)), 0..10);
    let writes = prop::collection::vec(micros(600), 1..8);
    ([bursts(), bursts()], writes, 1_usize..40, micros(600)).prop_map(|(connections, writes, batch_rows, linger)| Run {
        connections,
        writes,
        batch_rows,
        linger,
    })
}

/// A connection's messages, numbered from 1 as its packets are; the two connections' numbers do not meet.
fn numbered(connection: i64, bursts: &[(Duration, Vec<Message>)]) -> impl Iterator<Item = (i64, &Message)> {
    (connection * 100_000 + 1..).zip(bursts.iter().flat_map(|(_, burst)| burst))
}

/// Publishes on one connection. Returns its window, and how many acks are to come.
fn publish(connection: i64, bursts: &[(Duration, Vec<Message>)], queue: &ShardQueue) -> (Window, u16) {
    let mut window = Window::new(u16::MAX, Counter::noop(), Residue::default());
    let mut messages = numbered(connection, bursts);
    let mut sent = 0;
    for (pause, burst) in bursts {
        thread::sleep(*pause);
        for (number, message) in messages.by_ref().take(burst.len()) {
            sent += 1;
            let ticket = Some(window.open(sent, Instant::now()));
            let delivery = Delivery {
                ticket,
                ..message.deliver(number)
            };
            queue.push(delivery).expect("QoS 1 always finds a place");
        }
        queue.wake();
    }
    (window, sent)
}

/// Takes what the parse stage hands over, checks it, and gives it back, as the service's writer does. Returns the numbers
/// of all messages, in the order they came in.
fn write(run: &Run, mut inbox: mpsc::Receiver<Batch>, handover: &Handover, queue: &ShardQueue) -> Vec<i64> {
    let sent: HashMap<i64, &Message> = (0..)
        .zip(&run.connections)
        .flat_map(|(connection, bursts)| numbered(connection, bursts))
        .collect();
    let (mut ids, mut written) = (Ids::default(), Vec::new());
    for pause in run.writes.iter().cycle() {
        let Some(mut batch) = inbox.blocking_recv() else { break };
        assert!(!handover.idle.load(Ordering::Acquire), "a batch for a writer that has one");
        assert!(!batch.is_empty() && batch.messages.len() <= run.batch_rows);
        let numbers = batch.messages.iter().map(|message| message.delivery.receipt.at - RECEIVED_AT);
        let numbers: Vec<i64> = numbers.collect();
        ids.resolve(&mut batch);
        check(&batch, &numbers.iter().map(|number| sent[number].clone()).collect::<Vec<_>>(), &ids);
        written.extend(numbers);
        thread::sleep(*pause);
        ledger::settle(batch.messages.iter_mut().filter_map(|message| message.delivery.ticket.take()));
        assert!(
            handover.returned.push(batch).is_ok(),
            "there is room for every batch that comes back"
        );
        handover.idle.store(true, Ordering::Release);
        queue.nudge();
    }
    written
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_queued_is_written_once_in_order_and_the_stage_ends(run in run()) {
        let config = Config { batch_rows: run.batch_rows, linger: run.linger, ..Config::default() };
        let tree = TopicTree::new("iotflow").expect("one level, no wildcard");
        let (queue, handover) = (Arc::new(ShardQueue::new(1, 2 * usize::from(u16::MAX))), Handover::new());
        let (outbox, inbox) = mpsc::channel(1);
        let stage = ParseStage::new(&config, tree, Arc::clone(&queue), outbox, Arc::clone(&handover));
        let stage = thread::spawn(move || stage.run());
        let writer = {
            let (run, queue) = (run.clone(), Arc::clone(&queue));
            thread::spawn(move || write(&run, inbox, &handover, &queue))
        };
        let windows: Vec<_> = thread::scope(|scope| {
            let publishers: Vec<_> = (0..)
                .zip(&run.connections)
                .map(|(connection, bursts)| {
                    let queue = &queue;
                    scope.spawn(move || publish(connection, bursts, queue))
                })
                .collect();
            publishers.into_iter().map(|publisher| publisher.join().expect("QoS 1 found no place")).collect()
        });
        // Closed with whatever still waits in it. The stage ends when it is empty, and the writer with the stage.
        queue.close();
        let deadline = Instant::now() + PATIENCE;
        while !(stage.is_finished() && writer.is_finished()) {
            prop_assert!(Instant::now() < deadline, "the stage has not ended after {PATIENCE:?}");
            thread::yield_now();
        }
        stage.join().expect("the stage does not panic");
        let written = writer.join().expect("the writer does not panic");
        for (mut window, sent) in windows {
            prop_assert!(std::iter::from_fn(|| window.next_done()).map(|(packet, _)| packet).eq(1..=sent), "acks leave in receive order");
            prop_assert!(!window.is_abandoned(), "a ticket was dropped");
        }
        for (connection, bursts) in (0..).zip(&run.connections) {
            let own = written.iter().copied().filter(|number| *number / 100_000 == connection);
            prop_assert!(own.eq(numbered(connection, bursts).map(|(number, _)| number)), "connection {connection}: {written:?}");
        }
    }
}
