//! Rows in COPY's binary form are read back here, by PostgreSQL's documentation and by no code of the service's.
#![allow(dead_code, reason = "each of those who read rows takes the part it needs")]

/// 2000-01-01T00:00:00Z, where PostgreSQL's time begins, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
/// `float8` in `pg_type`.
const FLOAT8: i32 = 701;

/// A row of `telemetry`.
#[derive(Debug, PartialEq)]
pub(crate) struct TelemetryRow {
    pub(crate) device: i32,
    /// Microseconds since 1970.
    pub(crate) time: i64,
    pub(crate) metric_set: i32,
    pub(crate) values: Vec<f64>,
    pub(crate) extra: Option<serde_json::Value>,
}

/// A row of `events`.
#[derive(Debug, PartialEq)]
pub(crate) struct EventRow {
    pub(crate) device: i32,
    /// Microseconds since 1970.
    pub(crate) time: i64,
    pub(crate) hash: i64,
    pub(crate) payload: serde_json::Value,
}

/// Reads a row of `telemetry`; panics where it is none.
pub(crate) fn telemetry(row: &[u8]) -> TelemetryRow {
    let [device, time, metric_set, values, extra] = fields(row);
    TelemetryRow {
        device: i32::from_be_bytes(exactly(present(device))),
        time: timestamptz(present(time)),
        metric_set: i32::from_be_bytes(exactly(present(metric_set))),
        values: float8_array(present(values)),
        extra: extra.map(jsonb),
    }
}

/// Reads a row of `events`; panics where it is none.
pub(crate) fn event(row: &[u8]) -> EventRow {
    let [device, time, hash, payload] = fields(row);
    EventRow {
        device: i32::from_be_bytes(exactly(present(device))),
        time: timestamptz(present(time)),
        hash: i64::from_be_bytes(exactly(present(hash))),
        payload: jsonb(present(payload)),
    }
}

/// Takes a row apart; a field that is NULL is `None`.
fn fields<const N: usize>(mut row: &[u8]) -> [Option<&[u8]>; N] {
    let count = i16::from_be_bytes(take(&mut row));
    assert_eq!(usize::try_from(count).ok(), Some(N), "the number of fields");
    let fields = std::array::from_fn(|_| {
        let length = i32::from_be_bytes(take(&mut row));
        if length == -1 {
            return None;
        }
        let length = usize::try_from(length).expect("a length, or -1 for NULL");
        let (field, rest) = row.split_at_checked(length).expect("a row holds its fields");
        row = rest;
        Some(field)
    });
    assert!(row.is_empty(), "bytes after the last field");
    fields
}

fn timestamptz(field: &[u8]) -> i64 {
    i64::from_be_bytes(exactly(field)) + POSTGRES_EPOCH
}

fn float8_array(mut field: &[u8]) -> Vec<f64> {
    let dimensions = i32::from_be_bytes(take(&mut field));
    let has_nulls = i32::from_be_bytes(take(&mut field));
    let element = i32::from_be_bytes(take(&mut field));
    assert_eq!((has_nulls, element), (0, FLOAT8));
    let mut values = Vec::new();
    if dimensions > 0 {
        assert_eq!(dimensions, 1);
        let count = i32::from_be_bytes(take(&mut field));
        let first_index = i32::from_be_bytes(take(&mut field));
        assert_eq!(first_index, 1);
        assert!(count > 0, "an array without elements has no dimension");
        for _ in 0..count {
            assert_eq!(i32::from_be_bytes(take(&mut field)), 8, "an element's length");
            values.push(f64::from_be_bytes(take(&mut field)));
        }
    }
    assert!(field.is_empty(), "bytes after the last element");
    values
}

fn jsonb(field: &[u8]) -> serde_json::Value {
    let (version, text) = field.split_first().expect("a version");
    assert_eq!(*version, 1);
    serde_json::from_slice(text).expect("JSON")
}

fn present(field: Option<&[u8]>) -> &[u8] {
    field.expect("a field that is never NULL")
}

fn exactly<const N: usize>(field: &[u8]) -> [u8; N] {
    field.try_into().expect("a field of its type's length")
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().expect("as many bytes as the form says");
    *bytes = rest;
    *first
}
