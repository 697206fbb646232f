//! Any bytes pass through the parser here, as each kind of telemetry, and on into COPY's rows: what is taken says what
//! serde_json reads in it, and what is refused as no JSON is none.
#![no_main]

#[path = "../../tests/support/copy_form.rs"]
mod copy_form;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use iotflow::ingest::batch::{Batch, Ref};
use iotflow::ingest::queue::{Delivery, Receipt};
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::payload::{Origin, Parser, Reading, Summary, TimeWindow, split_names};
use iotflow::protocol::reject::{Reason, Rejection};
use iotflow::protocol::topic::Telemetry;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// 2025-07-01T10:30:05Z, in microseconds.
const RECEIVED_AT: i64 = 1_751_365_805_000_000;
const WINDOW: TimeWindow = TimeWindow {
    past: Duration::from_secs(3653 * 86_400),
    future: Duration::from_secs(86_400),
};
const RESERVED: [&str; 4] = ["timestamp", "ts", "device_id", "metadata"];
const DEVICE_ID: i32 = 7;
const METRIC_SET_ID: i32 = 1_000_003;

thread_local! {
    // As a shard's: their buffers have seen all payloads before.
    static PARSER: RefCell<Parser> = RefCell::new(Parser::new(WINDOW));
    static BATCH: RefCell<Batch> = RefCell::default();
}

fuzz_target!(|payload: &[u8]| {
    let read = serde_json::from_slice::<Value>(payload);
    for kind in Telemetry::ALL {
        let (taken, outcome) = PARSER.with_borrow_mut(|parser| parse(parser, kind, payload));
        if payload.len() % 4 == usize::from(kind.code()) {
            let afresh = parse(&mut Parser::new(WINDOW), kind, payload);
            assert_eq!((&taken, &outcome), (&afresh.0, &afresh.1), "what came before shows");
        }
        match &outcome {
            Ok(summary) => assert_eq!(summary.readings as usize, taken.len()),
            Err(rejection) => {
                assert!(taken.is_empty(), "refused, and taken");
                let no_json = matches!(rejection.reason, Reason::NotJson | Reason::BadUtf8 | Reason::NonFiniteNumber);
                assert!(!no_json || read.is_err(), "{rejection}, and serde_json reads it");
            }
        }
        match &read {
            Ok(Value::Array(elements)) => taken
                .iter()
                .for_each(|taken| check_taken(taken, kind, &elements[taken.element as usize])),
            Ok(read) => taken.iter().for_each(|taken| check_taken(taken, kind, read)),
            Err(error) => assert!(outcome.is_err(), "taken, and serde_json says: {error}"),
        }
        BATCH.with_borrow_mut(|batch| check_rows(batch, payload, kind, &taken));
    }
});

fn parse(parser: &mut Parser, kind: Telemetry, payload: &[u8]) -> (Vec<Reading>, Result<Summary, Rejection>) {
    let origin = Origin {
        device: DeviceIdRef::parse("sensor_001").expect("of the grammar"),
        kind,
        received_at: RECEIVED_AT,
    };
    let mut taken = Vec::new();
    let outcome = parser.parse(origin, payload, |reading| {
        taken.push(reading.clone());
        Ok(())
    });
    (taken, outcome)
}

/// Whether both say the same. A parser may take 1.0 for 1, or -0 for 0, but no integer for another one.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            if let (Some(one), Some(other)) = (one.as_i128(), other.as_i128()) {
                one == other
            } else {
                one.as_f64() == other.as_f64()
            }
        }
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other)),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (one, other) => one == other,
    }
}

/// The fields that an object says something with, those of `data` and `values` among them.
fn fields(object: &Map<String, Value>) -> Map<String, Value> {
    let mut fields = Map::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "data" || name == "values" => {
                let inner = inner.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
                fields.extend(inner.map(|(name, value)| (name.clone(), value.clone())));
            }
            value if !RESERVED.contains(&name.as_str()) => {
                fields.insert(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    fields
}

fn metadata(object: &Map<String, Value>) -> Option<&Value> {
    let inner = |name: &str| object.get(name)?.as_object()?.get("metadata");
    object.get("metadata").or_else(|| inner("data")).or_else(|| inner("values"))
}

/// Compares what was taken with what serde_json reads.
fn check_taken(taken: &Reading, kind: Telemetry, read: &Value) {
    let object = read.as_object().expect("only objects are taken");
    let within = |span: Duration| i64::try_from(span.as_micros()).expect("years");
    let earliest = RECEIVED_AT - within(WINDOW.past);
    let latest = RECEIVED_AT + within(WINDOW.future);
    assert!((earliest..=latest).contains(&taken.time), "outside the window");
    assert!(taken.own_time || taken.time == RECEIVED_AT + i64::from(taken.element));

    let extra = (!taken.extra.is_empty()).then(|| serde_json::from_slice::<Value>(&taken.extra).expect("JSON"));
    if kind == Telemetry::Events {
        assert!(same(extra.as_ref().expect("the event"), read), "{extra:?} is kept of {read:?}");
        assert!(taken.names.is_empty() && taken.values.is_empty());
        return;
    }
    let (mut numbers, mut others) = (Vec::new(), Map::new());
    for (name, value) in fields(object) {
        match value {
            Value::Null => {}
            Value::Bool(value) => numbers.push((name, f64::from(u8::from(value)))),
            Value::Number(value) => numbers.push((name, value.as_f64().expect("a double can be near every number"))),
            value => drop(others.insert(name, value)),
        }
    }
    let (code, names, extras) = split_names(&taken.names);
    assert_eq!(code, kind.code());
    assert!(numbers.iter().map(|(name, _)| name).eq(&names), "{names:?} of {read:?}");
    assert!(
        numbers.iter().map(|(_, value)| value).eq(&taken.values),
        "{:?} of {read:?}",
        taken.values
    );
    assert!(taken.values.iter().all(|value| value.is_finite()));
    assert!(others.keys().eq(&extras), "{extras:?} of {read:?}");
    if let Some(metadata) = metadata(object) {
        others.insert("metadata".to_owned(), metadata.clone());
    }
    let expected = (!others.is_empty()).then_some(Value::Object(others));
    let agree = match (&extra, &expected) {
        (Some(extra), Some(expected)) => same(extra, expected),
        (extra, expected) => extra.is_none() && expected.is_none(),
    };
    assert!(agree, "{extra:?} is kept of {read:?}");
}

/// Puts what was taken into a batch, and reads its rows back.
fn check_rows(batch: &mut Batch, payload: &[u8], kind: Telemetry, taken: &[Reading]) {
    batch.open_message(Delivery {
        topic: Bytes::new(),
        payload: Bytes::copy_from_slice(payload),
        receipt: Receipt {
            at: RECEIVED_AT,
            again: false,
            over_rate: false,
            retained: false,
        },
        received: Instant::now(),
        ticket: None,
        reply: None,
    });
    for taken in taken {
        if kind == Telemetry::Events {
            batch.push_event(taken, Ref::New(0));
        } else {
            batch.push_reading(taken, Ref::New(0), Ref::New(0));
        }
    }
    batch.resolve(vec![DEVICE_ID], vec![METRIC_SET_ID]);
    assert!(batch.telemetry.rows.is_sorted_by_key(|row| row.key) && batch.events.rows.is_sorted_by_key(|row| row.key));
    let json = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
    let rows = if kind == Telemetry::Events {
        &batch.events.rows
    } else {
        &batch.telemetry.rows
    };
    assert_eq!(rows.len(), taken.len(), "a row each");
    for row in rows {
        let at = taken.binary_search_by_key(&row.element, |taken| taken.element);
        let taken = &taken[at.expect("it was taken")];
        if kind == Telemetry::Events {
            let stored = copy_form::event(batch.events.bytes(row));
            assert_eq!((stored.device, stored.time, stored.hash), row.key);
            assert_eq!(
                (stored.device, stored.time, stored.payload),
                (DEVICE_ID, taken.time, json(&taken.extra))
            );
        } else {
            let stored = copy_form::telemetry(batch.telemetry.bytes(row));
            assert_eq!((stored.device, stored.time, i64::from(stored.metric_set)), row.key);
            assert_eq!((stored.device, stored.metric_set), (DEVICE_ID, METRIC_SET_ID));
            assert_eq!((stored.time, &stored.values), (taken.time, &taken.values));
            assert_eq!(stored.extra, (!taken.extra.is_empty()).then(|| json(&taken.extra)));
        }
    }
    batch.clear();
}
