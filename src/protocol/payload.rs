//! Payloads of telemetry: bytes in, readings out, or the rule that was broken.
//!
//! ```text
//! payload ─copy─► scratch ─simd-json─► tape ─► fields, sorted by name ─► Reading ─► the caller
//! ```
//!
//! simd-json writes into its input, so the payload is copied into a scratch buffer first; that buffer, the tape and the
//! reading's own buffers are reused, and a well-formed message allocates nothing.

use std::fmt::Write as _;
use std::time::Duration;

use simd_json::{Buffers, ErrorType, INPUT_PADDING, Node, StaticNode, Tape};

use super::id::DeviceIdRef;
use super::json;
use super::reject::{Reason, Rejection};
use super::time;
use super::topic::Telemetry;

/// Deepest nesting of objects and arrays that is read.
pub const MAX_DEPTH: usize = 64;
/// Most fields in one object, containers included.
pub const MAX_FIELDS: usize = 1_024;
/// Longest metric name, in bytes.
pub const MAX_METRIC_NAME_BYTES: usize = 256;
/// The largest integer up to which a double holds every integer.
const MAX_EXACT_INTEGER: u64 = 1 << 53;
/// How many refused elements of an array the detail of its dead letter names.
const NAMED_ELEMENTS: usize = 20;

/// The span of device time that is accepted, around the time of receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeWindow {
    /// How far back.
    pub past: Duration,
    /// How far ahead.
    pub future: Duration,
}

/// One reading, or one event, as it goes into a row. The buffers are reused from one to the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub time: i64,
    /// Whether the device gave that time; else it is the time of receipt.
    pub own_time: bool,
    /// The names of its fields, in canonical form: see [`split_names`]. Empty for an event.
    pub names: Vec<u8>,
    /// The numbers, in the order of the names; booleans are 0 and 1.
    pub values: Vec<f64>,
    /// What is not a number, as a JSON object; for an event, the event. Empty when there is none.
    pub extra: Vec<u8>,
    /// Its place in the payload's array; 0 where there is none.
    pub element: u32,
}

/// What a payload came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Readings handed over.
    pub readings: u32,
    /// Readings without a time of their own.
    pub without_time: u32,
    /// Integers beyond 2^53, stored as the nearest double. Doubles of 2^64 and above count too: from there on the
    /// parser cannot tell an integer from a fraction.
    pub rounded_integers: u32,
    /// Fields that were `null`, which says "no value" and stores none.
    pub nulls: u32,
    /// The refusal of some elements of an array.
    pub refused: Option<Rejection>,
}

/// Reads payloads, one at a time, on buffers of its own.
pub struct Parser {
    window: TimeWindow,
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Option<Tape<'static>>,
    fields: Fields,
    reading: Reading,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser").field("window", &self.window).finish_non_exhaustive()
    }
}

/// Where a payload came from and when.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The topic's device.
    pub device: DeviceIdRef<'a>,
    /// The topic's kind of telemetry.
    pub kind: Telemetry,
    /// When it was received, in microseconds since 1970-01-01T00:00:00Z.
    pub received_at: i64,
}

impl Parser {
    /// A parser that takes times within `window`.
    #[must_use]
    pub fn new(window: TimeWindow) -> Self {
        Self {
            window,
            scratch: Vec::new(),
            buffers: Buffers::with_max_depth(4096, MAX_DEPTH),
            tape: None,
            fields: Fields::default(),
            reading: Reading::default(),
        }
    }

    /// Reads `payload` and hands each of its readings to `take`, which may refuse it.
    ///
    /// # Errors
    /// The [`Rejection`] of the whole payload. Elements of an array are refused one by one: the others are handed
    /// over, and [`Summary::refused`] names the refused.
    pub fn parse(
        &mut self,
        origin: Origin<'_>,
        payload: &[u8],
        mut take: impl FnMut(&mut Reading) -> Result<(), Rejection>,
    ) -> Result<Summary, Rejection> {
        if payload.is_empty() {
            return Err(Rejection::new(
                Reason::EmptyPayload,
                "the payload is empty; a JSON object or array is expected",
            ));
        }
        if payload.starts_with(b"\xEF\xBB\xBF") {
            return Err(Rejection::new(
                Reason::ByteOrderMark,
                "the payload begins with a byte order mark; JSON has none",
            ));
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(payload);
        self.scratch.resize(payload.len() + INPUT_PADDING, 0);
        let mut tape = self.tape.take().map_or_else(Tape::null, Tape::reset);
        let filled = simd_json::fill_tape_padded(&mut self.scratch, payload.len(), &mut self.buffers, &mut tape);
        let result = match filled {
            Ok(()) => document(&tape.0, origin, self.window, &mut self.fields, &mut self.reading, &mut take),
            Err(error) => Err(classify(payload, error.error())),
        };
        self.tape = Some(tape.reset());
        result
    }
}

/// Takes apart what [`Reading::names`] holds: the kind of telemetry, the names of the numbers in the order of
/// the values, and the names of what stands in `extra`.
///
/// The form is the kind's code, then each number's name with a NUL behind it, then a NUL, then each extra name with a
/// NUL behind it. Names are neither empty nor hold a NUL, so no two lists of names have the same form.
#[must_use]
pub fn split_names(names: &[u8]) -> (u8, Vec<&str>, Vec<&str>) {
    let (mut numbers, mut extras, mut in_extras) = (Vec::new(), Vec::new(), false);
    let Some((kind, rest)) = names.split_first() else {
        return (0, numbers, extras);
    };
    for name in rest.split(|byte| *byte == 0) {
        let name = std::str::from_utf8(name).unwrap_or_default();
        match (name.is_empty(), in_extras) {
            (true, _) => in_extras = true,
            (false, false) => numbers.push(name),
            (false, true) => extras.push(name),
        }
    }
    (*kind, numbers, extras)
}

/// The fields of the object at hand, as indices into the tape, so that the buffers outlive each payload.
#[derive(Default)]
struct Fields {
    /// Index of each value; its key is the node before it.
    values: Vec<usize>,
    total: usize,
    timestamp: Option<usize>,
    ts: Option<usize>,
    device_id: Option<usize>,
    metadata: Option<usize>,
    /// The outermost object's `data` and `values`, whatever they hold.
    data: Option<usize>,
    inner_values: Option<usize>,
}

impl Fields {
    fn collect(&mut self, nodes: &[Node<'_>], at: usize, outermost: bool) -> Result<(), Rejection> {
        if let Node::Object { len, .. } = nodes[at] {
            self.total += len;
        }
        if self.total > MAX_FIELDS {
            return Err(Rejection::new(
                Reason::TooManyFields,
                format!("{} fields; at most {MAX_FIELDS} are taken", self.total),
            ));
        }
        for (key, value) in json::members(nodes, at) {
            let (place, reserved) = match key {
                "timestamp" => (&mut self.timestamp, true),
                "ts" => (&mut self.ts, true),
                "device_id" => (&mut self.device_id, true),
                "metadata" => (&mut self.metadata, true),
                "data" if outermost => (&mut self.data, false),
                "values" if outermost => (&mut self.inner_values, false),
                _ => {
                    self.values.push(value);
                    continue;
                }
            };
            if place.replace(value).is_some() {
                return Err(json::duplicate_key(key));
            }
            if reserved {
                continue;
            }
            if matches!(nodes[value], Node::Object { .. }) {
                self.collect(nodes, value, false)?;
            } else {
                self.values.push(value);
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.values.clear();
        *self = Self {
            values: std::mem::take(&mut self.values),
            ..Self::default()
        };
    }
}

fn document(
    nodes: &[Node<'_>],
    origin: Origin<'_>,
    window: TimeWindow,
    fields: &mut Fields,
    reading: &mut Reading,
    take: &mut impl FnMut(&mut Reading) -> Result<(), Rejection>,
) -> Result<Summary, Rejection> {
    let mut summary = Summary::default();
    let mut object = |at: usize, element: u32, summary: &mut Summary| {
        reading.element = element;
        object(nodes, at, origin, window, fields, reading, summary)?;
        take(reading)?;
        summary.readings += 1;
        summary.without_time += u32::from(!reading.own_time);
        Ok(())
    };
    match nodes.first() {
        Some(Node::Object { .. }) => object(0, 0, &mut summary)?,
        Some(Node::Array { len: 0, .. }) => return Err(Rejection::new(Reason::EmptyArray, "the array is empty; it should hold readings")),
        Some(Node::Array { len, .. }) => {
            let (mut refused, mut names, mut at) = (0_usize, String::new(), 1);
            for element in 0..*len {
                let number = u32::try_from(element).expect("a packet holds fewer than 2^28 bytes");
                if let Err(rejection) = object(at, number, &mut summary) {
                    refused += 1;
                    if refused <= NAMED_ELEMENTS {
                        write!(names, "; [{element}] {rejection}").expect("a String takes every write");
                    }
                }
                at = json::after(nodes, at);
            }
            if refused > 0 {
                let more = if refused > NAMED_ELEMENTS {
                    format!("; and {} more", refused - NAMED_ELEMENTS)
                } else {
                    String::new()
                };
                summary.refused = Some(Rejection::new(
                    Reason::BadElements,
                    format!("{refused} of {len} elements refused{names}{more}"),
                ));
            }
        }
        _ => return Err(not_object("the payload")),
    }
    Ok(summary)
}

fn object(
    nodes: &[Node<'_>],
    at: usize,
    origin: Origin<'_>,
    window: TimeWindow,
    fields: &mut Fields,
    reading: &mut Reading,
    summary: &mut Summary,
) -> Result<(), Rejection> {
    if !matches!(nodes[at], Node::Object { .. }) {
        return Err(not_object("the element"));
    }
    fields.clear();
    fields.collect(nodes, at, true)?;
    check_device_id(nodes, fields.device_id, origin.device)?;
    (reading.time, reading.own_time) = reading_time(nodes, fields.timestamp.or(fields.ts), origin.received_at, window)?;
    if !reading.own_time {
        // Elements of one array are received at once, and are not one and the same.
        reading.time = reading.time.saturating_add(i64::from(reading.element));
    }
    reading.names.clear();
    reading.values.clear();
    reading.extra.clear();
    if origin.kind == Telemetry::Events {
        return json::write_value(nodes, at, &mut reading.extra);
    }
    fill(nodes, origin.kind, fields, reading, summary)
}

/// Sorts the fields by name and deals them out: numbers to `values`, the rest to `extra`, their names to `names`.
fn fill(nodes: &[Node<'_>], kind: Telemetry, fields: &mut Fields, reading: &mut Reading, summary: &mut Summary) -> Result<(), Rejection> {
    let key = |value: usize| if let Node::String(key) = nodes[value - 1] { key } else { "" };
    fields.values.sort_unstable_by(|a, b| key(*a).cmp(key(*b)));
    if let Some(pair) = fields.values.windows(2).find(|pair| key(pair[0]) == key(pair[1])) {
        return Err(json::duplicate_key(key(pair[0])));
    }
    reading.names.push(kind.code());
    let mut others = 0;
    for value in &fields.values {
        let name = key(*value);
        check_name(name)?;
        match nodes[*value] {
            Node::Static(StaticNode::Null) => {
                summary.nulls += 1;
                continue;
            }
            Node::Static(node) => reading.values.push(number(node, summary)?),
            _ => {
                others += 1;
                continue;
            }
        }
        reading.names.extend_from_slice(name.as_bytes());
        reading.names.push(0);
    }
    if others > 0 {
        reading.names.push(0);
    }
    if others > 0 || fields.metadata.is_some() {
        write_extra(nodes, fields, reading)?;
    }
    if reading.values.is_empty() && others == 0 {
        return Err(Rejection::new(
            Reason::NoValues,
            "the object holds no value besides time, device_id and metadata",
        ));
    }
    Ok(())
}

fn write_extra(nodes: &[Node<'_>], fields: &Fields, reading: &mut Reading) -> Result<(), Rejection> {
    let Reading { names, extra, .. } = reading;
    let mut field = |name: &str, value: usize| {
        extra.push(if extra.is_empty() { b'{' } else { b',' });
        json::write_text(name, extra)?;
        extra.push(b':');
        json::write_value(nodes, value, extra)
    };
    for value in &fields.values {
        let Node::String(name) = nodes[value - 1] else { continue };
        if !matches!(nodes[*value], Node::Static(_)) {
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            field(name, *value)?;
        }
    }
    if let Some(metadata) = fields.metadata {
        field("metadata", metadata)?;
    }
    extra.push(b'}');
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "the rule: the nearest double, and counted")]
fn number(node: StaticNode, summary: &mut Summary) -> Result<f64, Rejection> {
    let (value, rounded) = match node {
        StaticNode::I64(value) => (value as f64, value.unsigned_abs() > MAX_EXACT_INTEGER),
        StaticNode::U64(value) => (value as f64, value > MAX_EXACT_INTEGER),
        StaticNode::F64(value) => (json::finite(value)?, value.abs() >= u64::MAX as f64),
        StaticNode::Bool(value) => (f64::from(u8::from(value)), false),
        StaticNode::Null => (0.0, false),
    };
    summary.rounded_integers += u32::from(rounded);
    Ok(value)
}

fn check_name(name: &str) -> Result<(), Rejection> {
    if name.is_empty() || name.len() > MAX_METRIC_NAME_BYTES {
        return Err(Rejection::new(
            Reason::BadMetricName,
            format!("a key of {} bytes; a metric's name has 1 to {MAX_METRIC_NAME_BYTES}", name.len()),
        ));
    }
    if name.bytes().any(|byte| byte == 0) {
        return Err(Rejection::new(
            Reason::NulCharacter,
            "a key holds \\u0000, which PostgreSQL cannot store",
        ));
    }
    Ok(())
}

fn check_device_id(nodes: &[Node<'_>], given: Option<usize>, device: DeviceIdRef<'_>) -> Result<(), Rejection> {
    match given.map(|at| nodes[at]) {
        None => Ok(()),
        Some(Node::String(given)) if given == device.as_str() => Ok(()),
        Some(_) => Err(Rejection::new(
            Reason::DeviceIdMismatch,
            format!("the payload's device_id is not the topic's, which is {:?}", device.as_str()),
        )),
    }
}

fn reading_time(nodes: &[Node<'_>], given: Option<usize>, received_at: i64, window: TimeWindow) -> Result<(i64, bool), Rejection> {
    let bad = || Rejection::new(Reason::BadTime, "the time is neither RFC 3339 nor epoch seconds, ms, µs or ns");
    let time = match given.map(|at| nodes[at]) {
        None | Some(Node::Static(StaticNode::Null)) => return Ok((received_at, false)),
        Some(Node::String(text)) => time::from_text(text),
        Some(Node::Static(StaticNode::I64(number))) => time::from_epoch_int(number),
        Some(Node::Static(StaticNode::U64(number))) => i64::try_from(number).ok().and_then(time::from_epoch_int),
        Some(Node::Static(StaticNode::F64(number))) => time::from_epoch_float(number),
        Some(_) => None,
    }
    .ok_or_else(bad)?;
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    if time < received_at.saturating_sub(micros(window.past)) || time > received_at.saturating_add(micros(window.future)) {
        let detail = format!(
            "the time is {} s from the time of receipt; {} s back to {} s ahead are taken",
            time.saturating_sub(received_at) / 1_000_000,
            window.past.as_secs(),
            window.future.as_secs()
        );
        return Err(Rejection::new(Reason::TimeOutOfWindow, detail));
    }
    Ok((time, true))
}

fn not_object(what: &str) -> Rejection {
    Rejection::new(
        Reason::NotObject,
        format!("{what} is JSON but no object; an object with readings is expected"),
    )
}

/// Says why a payload did not parse. Only bad payloads come here, so it may take its time and read a second time.
fn classify(payload: &[u8], error: &ErrorType) -> Rejection {
    if let Err(error) = std::str::from_utf8(payload) {
        return Rejection::new(Reason::BadUtf8, format!("not UTF-8 from byte {} on", error.valid_up_to()));
    }
    if matches!(error, ErrorType::DepthLimitExceeded) {
        return Rejection::new(Reason::TooDeep, format!("nested deeper than {MAX_DEPTH}"));
    }
    let Err(error) =
        serde_json::from_slice::<serde::de::IgnoredAny>(payload).and_then(|_| serde_json::from_slice::<serde_json::Value>(payload))
    else {
        return Rejection::new(Reason::NotJson, "not JSON");
    };
    let text = error.to_string();
    if text.contains("number out of range") {
        return Rejection::new(Reason::NumberOutOfRange, "a number is beyond the range of a double (about 1.8e308)");
    }
    let line_start = payload
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum::<usize>();
    let at = line_start + error.column().saturating_sub(1);
    let near = |literal: &str| {
        (at.saturating_sub(1)..=at).any(|from| payload.get(from..).is_some_and(|rest| rest.starts_with(literal.as_bytes())))
    };
    if near("NaN") || near("Infinity") || near("-Infinity") {
        return Rejection::new(
            Reason::NonFiniteNumber,
            "NaN and Infinity are no JSON numbers; leave the field out or send null",
        );
    }
    // serde_json names a position and what it expected there, never the payload's text.
    Rejection::new(Reason::NotJson, format!("not JSON: {text}"))
}
