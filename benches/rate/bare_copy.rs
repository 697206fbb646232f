//! The yardstick for the database: the rows that the service just stored, once more into a table of the same make, by
//! nothing but COPY, in batches of the same size and at the same pace.
//!
//! To be run beside a load that keeps the machine as busy as the service's own did: on idle cores every process needs less
//! CPU for the same work.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, pin_mut};
use iotflow::db::copy_in::{frame, send};
use tokio_postgres::Client;

use super::cpu;
use super::run::Figures;
use super::support::pause;
use super::support::servers::Servers;

const COLUMNS: &str = "device_id, time, metric_set_id, \"values\", extra";
/// The signature, flags and length of the header extension, which is empty.
const HEADER_BYTES: usize = 11 + 4 + 4;

/// Empties the service's table, so that it and the yardstick's begin alike.
pub(crate) async fn empty(servers: &Servers) {
    let client = servers.sql().await;
    client.batch_execute("TRUNCATE telemetry").await.expect("nobody else is there");
    client.batch_execute("CHECKPOINT").await.expect("we may");
}

/// What is to be copied.
pub(crate) struct BareCopy {
    client: Client,
    rows: Vec<Bytes>,
    batch: usize,
    every: Duration,
}

impl BareCopy {
    /// The rows of the devices whose ids begin with `prefix`, in batches as large, and as far apart, as those of `figures`.
    pub(crate) async fn of(servers: &Servers, prefix: &str, figures: &Figures) -> Self {
        let client = servers.sql().await;
        // As stored, which is in the order of the batches, each sorted by key.
        let out = format!(
            "COPY (SELECT {COLUMNS} FROM telemetry JOIN devices USING (device_id) WHERE starts_with(device, '{prefix}') ORDER BY telemetry.tableoid, telemetry.ctid)
             TO STDOUT (FORMAT binary)"
        );
        let rows = rows(&collect(client.copy_out(&out).await.expect("it can be read")).await);
        client
            .batch_execute(
                "DROP TABLE IF EXISTS bare;
                 CREATE TABLE bare (LIKE telemetry INCLUDING ALL) PARTITION BY RANGE (time);
                 CREATE TABLE bare_all (LIKE telemetry INCLUDING ALL);
                 ALTER TABLE bare ATTACH PARTITION bare_all FOR VALUES FROM ('2000-01-01') TO ('2100-01-01')",
            )
            .await
            .expect("it can be made");
        client.batch_execute("CHECKPOINT").await.expect("we may");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counted in thousands")]
        let batch = (figures.rows_per_copy.round() as usize).max(1);
        let every = Duration::from_secs_f64(figures.rows_per_copy / figures.rate);
        Self {
            client,
            rows,
            batch,
            every,
        }
    }

    /// Whether sorting pays: µs of PostgreSQL's CPU a row, in batches sorted by key, and in shuffled ones. One after the other and
    /// without a pause.
    pub(crate) async fn sorted_and_shuffled(servers: &Servers, prefix: &str, figures: &Figures) -> [f64; 2] {
        let mut both = [0.0; 2];
        for (cpu, shuffled) in both.iter_mut().zip([false, true]) {
            let mut copy = Self::of(servers, prefix, figures).await;
            copy.every = Duration::from_micros(1);
            if shuffled {
                let mut random = fastrand::Rng::with_seed(1);
                copy.rows.chunks_mut(copy.batch).for_each(|batch| random.shuffle(batch));
            }
            *cpu = copy.measure(servers).await.postgres;
        }
        both
    }

    /// Copies them.
    pub(crate) async fn measure(self, servers: &Servers) -> Figures {
        let statement = format!("COPY bare ({COLUMNS}) FROM STDIN (FORMAT binary)");
        let statement = self.client.prepare(&statement).await.expect("a sound statement");
        let postgres = servers.postgres.process().expect("it runs").id();
        let before = cpu::of_family(postgres);
        let (mut buffer, mut tick) = (BytesMut::new(), tokio::time::interval(self.every));
        for batch in self.rows.chunks(self.batch) {
            tick.tick().await;
            let framed = frame(batch.iter().map(Bytes::as_ref), &mut buffer);
            let taken = send(self.client.copy_in(&statement).await.expect("it begins"), framed).await;
            assert_eq!(taken.expect("it takes them"), batch.len() as u64);
        }
        // The server's writers are a little behind.
        pause(Duration::from_millis(500)).await;
        let used = cpu::of_family(postgres) - before;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        Figures {
            postgres: used / self.rows.len() as f64 * 1e6,
            rows_per_copy: self.batch as f64,
            ..Figures::default()
        }
    }
}

async fn collect(stream: tokio_postgres::CopyOutStream) -> Bytes {
    pin_mut!(stream);
    let mut all = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.expect("it can be read"));
    }
    all.freeze()
}

/// Takes COPY's binary form apart into rows.
fn rows(copied: &Bytes) -> Vec<Bytes> {
    let (mut rows, mut at) = (Vec::new(), HEADER_BYTES);
    let short = |at: usize| i16::from_be_bytes(copied[at..at + 2].try_into().expect("two bytes"));
    let long = |at: usize| i32::from_be_bytes(copied[at..at + 4].try_into().expect("four bytes"));
    // The trailer is a row of -1 fields.
    while short(at) >= 0 {
        let (start, fields) = (at, short(at));
        at += 2;
        for _ in 0..fields {
            // NULL has the length -1 and no bytes.
            at += 4 + usize::try_from(long(at)).unwrap_or(0);
        }
        rows.push(copied.slice(start..at));
    }
    rows
}
