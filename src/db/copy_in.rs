//! Binary COPY, encoded by hand: rows are bytes from the moment they are parsed.
//!
//! The form is that of PostgreSQL's documentation, "COPY, Binary Format": a header, for each row the number of its
//! fields and each field with its length before it, a trailer.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::types::Oid;
use tokio_postgres::{CopyInSink, Error};

/// 2000-01-01T00:00:00Z, PostgreSQL's epoch, in microseconds since 1970.
pub const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const FLOAT8_OID: Oid = 701;
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// How much goes to the socket at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// Appends one row's fields to a buffer.
#[derive(Debug)]
pub struct RowWriter<'a>(&'a mut Vec<u8>);

impl<'a> RowWriter<'a> {
    /// Begins a row of `fields` fields.
    pub fn begin(buffer: &'a mut Vec<u8>, fields: i16) -> Self {
        buffer.extend_from_slice(&fields.to_be_bytes());
        Self(buffer)
    }

    /// A `smallint`.
    pub fn int2(&mut self, value: i16) {
        self.0.extend_from_slice(&2_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// An `integer`.
    pub fn int4(&mut self, value: i32) {
        self.0.extend_from_slice(&4_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A `bigint`.
    pub fn int8(&mut self, value: i64) {
        self.0.extend_from_slice(&8_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A `timestamptz` from microseconds since 1970.
    pub fn timestamptz(&mut self, unix_micros: i64) {
        self.int8(unix_micros.saturating_sub(POSTGRES_EPOCH_MICROS));
    }

    /// What is sent as it is: a `text`, a `bytea`, the sixteen bytes of a `uuid`.
    pub fn bytes(&mut self, value: &[u8]) {
        let length = i32::try_from(value.len()).expect("a packet is far smaller than 2 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    /// A `float8[]`.
    pub fn float8_array(&mut self, values: &[f64]) {
        if values.is_empty() {
            // No dimensions, no flags, the element's type.
            self.0.extend_from_slice(&12_i32.to_be_bytes());
            self.0.extend_from_slice(&[0; 8]);
            self.0.extend_from_slice(&FLOAT8_OID.to_be_bytes());
            return;
        }
        let count = i32::try_from(values.len()).expect("a payload's fields are counted in thousands");
        for header in [20 + 12 * count, 1, 0, FLOAT8_OID.cast_signed(), count, 1] {
            self.0.extend_from_slice(&header.to_be_bytes());
        }
        for value in values {
            self.0.extend_from_slice(&8_i32.to_be_bytes());
            self.0.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// A `jsonb`, or NULL where the text is empty.
    pub fn jsonb_or_null(&mut self, json: &[u8]) {
        if json.is_empty() {
            self.0.extend_from_slice(&(-1_i32).to_be_bytes());
            return;
        }
        let length = i32::try_from(json.len() + 1).expect("a payload is far smaller than 2 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        // The version of jsonb's binary form.
        self.0.push(1);
        self.0.extend_from_slice(json);
    }
}

/// Overwrites the `integer` whose value begins `offset` bytes into `row`.
pub fn patch_int4(row: &mut [u8], offset: usize, value: i32) {
    row[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// Puts rows between COPY's header and trailer.
pub fn frame<'a>(rows: impl Iterator<Item = &'a [u8]>, into: &mut BytesMut) -> Bytes {
    into.put_slice(SIGNATURE);
    // No flags, no header extension.
    into.put_slice(&[0; 8]);
    for row in rows {
        into.put_slice(row);
    }
    into.put_i16(-1);
    into.split().freeze()
}

/// Encodes rows and sends them, a chunk at a time: for rows that are large, or held elsewhere until they are stored. Returns
/// what [`send`] returns.
///
/// # Errors
/// The server's; nothing of the COPY stays then.
pub async fn send_each<T>(sink: CopyInSink<Bytes>, rows: impl Iterator<Item = T>, encode: impl Fn(&mut Vec<u8>, T)) -> Result<u64, Error> {
    futures_util::pin_mut!(sink);
    let mut chunk = [SIGNATURE.as_slice(), &[0; 8]].concat();
    for row in rows {
        encode(&mut chunk, row);
        if chunk.len() >= CHUNK_BYTES {
            sink.send(std::mem::take(&mut chunk).into()).await?;
        }
    }
    chunk.extend_from_slice(&(-1_i16).to_be_bytes());
    sink.send(chunk.into()).await?;
    sink.finish().await
}

/// Sends `framed` and returns how many rows the server took. They are not committed by that, not even where the COPY is in no
/// transaction: the server answers first and commits then.
///
/// # Errors
/// The server's; nothing of the COPY stays then.
pub async fn send(sink: CopyInSink<Bytes>, mut framed: Bytes) -> Result<u64, Error> {
    futures_util::pin_mut!(sink);
    while framed.len() > CHUNK_BYTES {
        sink.send(framed.split_to(CHUNK_BYTES)).await?;
    }
    sink.send(framed).await?;
    sink.finish().await
}
