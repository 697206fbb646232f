//! Every rule of the wire contract (docs/topics.md), payload by payload: what is taken, and what is refused and why.

use std::time::Duration;

use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::payload::{Origin, Parser, Reading, Summary, TimeWindow, split_names};
use iotflow::protocol::reject::{Reason, Rejection};
use iotflow::protocol::topic::Telemetry;
use proptest::prelude::*;

/// 2025-07-01T10:30:05Z, in microseconds.
const RECEIVED_AT: i64 = 1_751_365_805_000_000;
/// 2025-07-01T10:30:00Z, in microseconds.
const SENT_AT: i64 = 1_751_365_800_000_000;

#[derive(Debug, PartialEq)]
struct Taken {
    time: i64,
    own_time: bool,
    names: Vec<String>,
    extra_names: Vec<String>,
    values: Vec<f64>,
    extra: String,
}

impl Taken {
    fn of(reading: &Reading) -> Self {
        let (_, names, extra_names) = split_names(&reading.names);
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            time: reading.time,
            own_time: reading.own_time,
            names: owned(names),
            extra_names: owned(extra_names),
            values: reading.values.clone(),
            extra: String::from_utf8(reading.extra.clone()).expect("JSON is UTF-8"),
        }
    }
}

fn parse_as(kind: Telemetry, payload: &[u8]) -> Result<(Vec<Taken>, Summary), Rejection> {
    let window = TimeWindow {
        past: Duration::from_secs(3653 * 86_400),
        future: Duration::from_secs(86_400),
    };
    let origin = Origin {
        device: DeviceIdRef::parse("sensor_001").expect("of the grammar"),
        kind,
        received_at: RECEIVED_AT,
    };
    let mut taken = Vec::new();
    let summary = Parser::new(window).parse(origin, payload, |reading| {
        taken.push(Taken::of(reading));
        Ok(())
    })?;
    Ok((taken, summary))
}

fn parse(payload: &str) -> (Vec<Taken>, Summary) {
    parse_as(Telemetry::Sensors, payload.as_bytes()).unwrap_or_else(|rejection| panic!("{payload}: {rejection}"))
}

fn one(payload: &str) -> Taken {
    let (mut taken, _) = parse(payload);
    assert_eq!(taken.len(), 1, "{payload}");
    taken.remove(0)
}

fn refused(payload: impl AsRef<[u8]>) -> Reason {
    match parse_as(Telemetry::Sensors, payload.as_ref()) {
        Err(rejection) => rejection.reason,
        Ok(taken) => panic!("{:?} was taken: {taken:?}", String::from_utf8_lossy(payload.as_ref())),
    }
}

#[test]
fn the_three_forms_say_the_same() {
    let flat =
        one(r#"{"temperature":23.5,"humidity":65.2,"pressure":1013.25,"timestamp":"2025-07-01T10:30:00Z","device_id":"sensor_001"}"#);
    assert_eq!(flat.names, ["humidity", "pressure", "temperature"]);
    assert_eq!(flat.values, [65.2, 1013.25, 23.5]);
    assert_eq!((flat.time, flat.own_time, flat.extra.as_str()), (SENT_AT, true, ""));
    for same in [
        r#"{"data":{"temperature":23.5,"humidity":65.2,"pressure":1013.25},"timestamp":"2025-07-01T10:30:00Z"}"#,
        r#"{"ts":1751365800000,"values":{"pressure":1013.25,"temperature":23.5,"humidity":65.2}}"#,
        r#"[{"ts":1751365800,"pressure":1013.25,"temperature":23.5,"humidity":65.2}]"#,
    ] {
        assert_eq!(one(same), flat, "{same}");
    }
}

#[test]
fn what_is_no_number_is_kept_beside_the_numbers() {
    let mixed =
        one(r#"{"on":true,"off":false,"state":"open","gps":{"lat":52.5,"lon":[13.4,1e2]},"n":1,"metadata":{"fw":"2.1"},"ts":1751365800}"#);
    assert_eq!(
        (mixed.names.as_slice(), mixed.values.as_slice()),
        (["n", "off", "on"].map(str::to_owned).as_slice(), [1.0, 0.0, 1.0].as_slice())
    );
    assert_eq!(mixed.extra_names, ["gps", "state"]);
    assert_eq!(
        mixed.extra,
        r#"{"gps":{"lat":52.5,"lon":[13.4,100.0]},"state":"open","metadata":{"fw":"2.1"}}"#
    );
    let text_only = one(r#"{"state":"open \"wide\"\n","ts":1751365800}"#);
    assert_eq!(
        (text_only.values.len(), text_only.extra.as_str()),
        (0, r#"{"state":"open \"wide\"\u000a"}"#)
    );
}

#[test]
fn different_texts_make_different_sets() {
    let names = |payload: &str| (one(payload).names, one(payload).extra_names);
    assert_ne!(
        names(r#"{"state":"a"}"#),
        names(r#"{"door":"a"}"#),
        "two messages of one time must not be taken for one"
    );
    assert_eq!(
        names(r#"{"a":1,"b":2}"#),
        names(r#"{"b":2,"a":1}"#),
        "the order of keys says nothing"
    );
}

#[test]
fn without_a_time_it_is_that_of_receipt() {
    for payload in [r#"{"a":1}"#, r#"{"a":1,"timestamp":null}"#] {
        let (taken, summary) = parse(payload);
        assert_eq!(
            (taken[0].time, taken[0].own_time, summary.without_time),
            (RECEIVED_AT, false, 1),
            "{payload}"
        );
    }
    assert_eq!(
        one(r#"{"a":1,"timestamp":"2025-07-01T10:30:00Z","ts":7}"#).time,
        SENT_AT,
        "`timestamp` wins over `ts`"
    );
}

#[test]
fn times_outside_the_window_are_refused() {
    assert_eq!(refused(r#"{"a":1,"ts":0}"#), Reason::TimeOutOfWindow);
    assert_eq!(refused(r#"{"a":1,"timestamp":"2025-07-03T10:30:00Z"}"#), Reason::TimeOutOfWindow);
    assert_eq!(refused(r#"{"a":1,"ts":-9223372036854775808}"#), Reason::TimeOutOfWindow);
    assert_eq!(refused(r#"{"a":1,"ts":1e300}"#), Reason::TimeOutOfWindow);
    assert!(one(r#"{"a":1,"timestamp":"2025-07-02T10:30:00Z"}"#).own_time);
    assert!(one(r#"{"a":1,"timestamp":"2015-08-01T00:00:00Z"}"#).own_time);
}

#[test]
fn every_refusal_has_its_reason() {
    let deep = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    let fields = |count: usize| {
        format!(
            "{{{}}}",
            (0..count).map(|index| format!("\"f{index}\":1")).collect::<Vec<_>>().join(",")
        )
    };
    let long_name = format!("{{\"{}\":1}}", "x".repeat(257));
    let cases: Vec<(Vec<u8>, Reason)> = vec![
        (b"".to_vec(), Reason::EmptyPayload),
        (b"\xEF\xBB\xBF{\"a\":1}".to_vec(), Reason::ByteOrderMark),
        (b"{\"a\":\"\xff\"}".to_vec(), Reason::BadUtf8),
        (b"{\"a\":\"\xed\xa0\x80\"}".to_vec(), Reason::BadUtf8),
        (b" ".to_vec(), Reason::NotJson),
        (b"hello".to_vec(), Reason::NotJson),
        (b"{\"a\":1".to_vec(), Reason::NotJson),
        (b"{\"a\":1}}".to_vec(), Reason::NotJson),
        (b"{\"a\":01}".to_vec(), Reason::NotJson),
        (b"{'a':1}".to_vec(), Reason::NotJson),
        (b"{\"a\":NaN}".to_vec(), Reason::NonFiniteNumber),
        (b"{\"a\":Infinity}".to_vec(), Reason::NonFiniteNumber),
        (b"{\"b\":1,\n\"a\":-Infinity}".to_vec(), Reason::NonFiniteNumber),
        (b"{\"a\":1e400}".to_vec(), Reason::NumberOutOfRange),
        (b"{\"a\":-1e309}".to_vec(), Reason::NumberOutOfRange),
        (b"{\"a\":{\"b\":1e400}}".to_vec(), Reason::NumberOutOfRange),
        (deep(64).into_bytes(), Reason::TooDeep),
        (b"1".to_vec(), Reason::NotObject),
        (b"\"text\"".to_vec(), Reason::NotObject),
        (b"null".to_vec(), Reason::NotObject),
        (b"true".to_vec(), Reason::NotObject),
        (b"[]".to_vec(), Reason::EmptyArray),
        (fields(1_025).into_bytes(), Reason::TooManyFields),
        (b"{\"a\":1,\"a\":1}".to_vec(), Reason::DuplicateKey),
        (b"{\"a\":null,\"a\":1}".to_vec(), Reason::DuplicateKey),
        (b"{\"a\":1,\"data\":{\"a\":1}}".to_vec(), Reason::DuplicateKey),
        (b"{\"a\":1,\"ts\":1,\"ts\":1}".to_vec(), Reason::DuplicateKey),
        (b"{\"data\":{\"a\":1},\"data\":{\"b\":1}}".to_vec(), Reason::DuplicateKey),
        (b"{\"values\":1,\"values\":{\"a\":1}}".to_vec(), Reason::DuplicateKey),
        (b"{\"a\":{\"b\":1,\"b\":2}}".to_vec(), Reason::DuplicateKey),
        (b"{\"\":1}".to_vec(), Reason::BadMetricName),
        (long_name.into_bytes(), Reason::BadMetricName),
        (b"{\"a\\u0000b\":1}".to_vec(), Reason::NulCharacter),
        (b"{\"a\":\"\\u0000\"}".to_vec(), Reason::NulCharacter),
        (b"{\"a\":{\"b\\u0000\":1}}".to_vec(), Reason::NulCharacter),
        (b"{}".to_vec(), Reason::NoValues),
        (b"{\"timestamp\":1751365800}".to_vec(), Reason::NoValues),
        (b"{\"a\":null}".to_vec(), Reason::NoValues),
        (b"{\"a\":1,\"device_id\":\"sensor_002\"}".to_vec(), Reason::DeviceIdMismatch),
        (b"{\"a\":1,\"device_id\":7}".to_vec(), Reason::DeviceIdMismatch),
        (b"{\"a\":1,\"timestamp\":\"yesterday\"}".to_vec(), Reason::BadTime),
        (b"{\"a\":1,\"timestamp\":true}".to_vec(), Reason::BadTime),
        (b"{\"a\":1,\"ts\":{}}".to_vec(), Reason::BadTime),
    ];
    for (payload, reason) in cases {
        assert_eq!(
            refused(&payload),
            reason,
            "{}",
            String::from_utf8_lossy(&payload[..payload.len().min(60)])
        );
    }
    assert_eq!(one(&fields(1_024)).names.len(), 1_024);
    assert_eq!(one(&deep(63)).extra.len(), 2 * 63 + 7, "63 arrays within the object make 64");
}

#[test]
fn integers_beyond_2_to_the_53_are_rounded_and_counted() {
    for (text, value, counted) in [
        ("9007199254740992", 9_007_199_254_740_992.0, 0),
        ("9007199254740993", 9_007_199_254_740_992.0, 1),
        ("-9007199254740993", -9_007_199_254_740_992.0, 1),
        ("18446744073709551615", 18_446_744_073_709_551_615.0, 1),
        ("123456789012345678901234567890", 1.234_567_890_123_456_8e29, 1),
        ("0.1", 0.1, 0),
    ] {
        let (taken, summary) = parse(&format!("{{\"a\":{text}}}"));
        assert_eq!(
            (taken[0].values[0].to_bits(), summary.rounded_integers),
            (f64::to_bits(value), counted),
            "{text}"
        );
    }
}

#[test]
fn of_an_array_the_good_elements_are_taken_and_the_bad_ones_named() {
    let (taken, summary) = parse(r#"[{"a":1,"ts":1751365800},{"a":1,"ts":"never"},7,{"a":3}]"#);
    assert_eq!(taken.iter().map(|reading| reading.values[0]).collect::<Vec<_>>(), [1.0, 3.0]);
    let refused = summary.refused.expect("two are bad");
    assert_eq!(refused.reason, Reason::BadElements);
    assert!(
        refused.detail.starts_with("2 of 4 elements refused; [1] bad_time: "),
        "{}",
        refused.detail
    );
    assert!(refused.detail.contains("[2] not_object: "), "{}", refused.detail);
}

#[test]
fn nulls_say_nothing_and_are_counted() {
    let (taken, summary) = parse(r#"{"a":null,"b":2}"#);
    assert_eq!((taken[0].names.as_slice(), summary.nulls), (["b".to_owned()].as_slice(), 1));
}

#[test]
fn events_are_kept_whole() {
    let (taken, _) = parse_as(
        Telemetry::Events,
        br#"{"type":"door","open":true,"n":12345678901234567,"timestamp":"2025-07-01T10:30:00Z"}"#,
    )
    .expect("an event");
    assert_eq!(
        taken[0].extra,
        r#"{"type":"door","open":true,"n":12345678901234567,"timestamp":"2025-07-01T10:30:00Z"}"#
    );
    assert_eq!(taken[0].time, SENT_AT);
    assert_eq!(
        parse_as(Telemetry::Events, br#"{"a":{"x":1,"x":2}}"#).map_err(|rejection| rejection.reason),
        Err(Reason::DuplicateKey)
    );
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>()
            .prop_filter("JSON has finite numbers only", |number| number.is_finite())
            .prop_map(Into::into),
        "[^\u{0}]{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::hash_map("[a-z\u{e9}\"\\\\]{1,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_stored_as_json_is_what_was_sent(value in json()) {
        let payload = serde_json::json!({"value": {"is": value}}).to_string();
        let stored: serde_json::Value = serde_json::from_str(&one(&payload).extra).expect("JSON");
        prop_assert_eq!(stored, serde_json::from_str::<serde_json::Value>(&payload).expect("JSON"));
    }

    #[test]
    fn numbers_are_stored_to_the_last_bit(number in any::<f64>().prop_filter("JSON has finite numbers only", |number| number.is_finite())) {
        let payload = serde_json::json!({"value": number}).to_string();
        prop_assert_eq!(one(&payload).values[0].to_bits(), number.to_bits());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_as(Telemetry::Sensors, &bytes);
        let _ = parse_as(Telemetry::Events, &bytes);
    }

    #[test]
    fn no_damage_to_a_good_payload_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut payload = br#"[{"temperature":23.5,"gps":{"lat":52.5},"timestamp":"2025-07-01T10:30:00Z","device_id":"sensor_001"},{"ts":1,"values":{"a":-1e-3}}]"#.to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = parse_as(Telemetry::Sensors, &payload);
    }
}
