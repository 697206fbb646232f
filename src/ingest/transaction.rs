//! One attempt to store a part of a batch: all of it in one transaction, or nothing.

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError};
use foldhash::fast::FixedState;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Error, NoTls, Transaction};

use crate::db::copy_in::{POSTGRES_EPOCH_MICROS, frame, send};
use crate::db::error::{Fault, describe};
use crate::db::partitions::Partitions;

use super::batch::{Batch, Key, Row, Rows};
use super::dead_letter;

/// What differs between the tables that rows go to.
struct Table {
    copy: &'static str,
    stage: &'static str,
    copy_stage: &'static str,
    merge: &'static str,
}

/// In the order of [`crate::db::partitions::TABLES`].
const TABLES: [Table; 2] = [
    Table {
        copy: "COPY telemetry (device_id, time, metric_set_id, \"values\", extra) FROM STDIN (FORMAT binary)",
        stage: "CREATE TEMPORARY TABLE IF NOT EXISTS stage_telemetry (LIKE telemetry) ON COMMIT DELETE ROWS",
        copy_stage: "COPY stage_telemetry (device_id, time, metric_set_id, \"values\", extra) FROM STDIN (FORMAT binary)",
        merge: "INSERT INTO telemetry (device_id, time, metric_set_id, \"values\", extra)
                SELECT device_id, time, metric_set_id, \"values\", extra FROM stage_telemetry ORDER BY device_id, time, metric_set_id
                ON CONFLICT (device_id, time, metric_set_id) DO NOTHING RETURNING device_id, time, metric_set_id::int8",
    },
    Table {
        copy: "COPY events (device_id, time, payload_hash, payload) FROM STDIN (FORMAT binary)",
        stage: "CREATE TEMPORARY TABLE IF NOT EXISTS stage_events (LIKE events) ON COMMIT DELETE ROWS",
        copy_stage: "COPY stage_events (device_id, time, payload_hash, payload) FROM STDIN (FORMAT binary)",
        merge: "INSERT INTO events (device_id, time, payload_hash, payload)
                SELECT device_id, time, payload_hash, payload FROM stage_events ORDER BY device_id, time, payload_hash
                ON CONFLICT (device_id, time, payload_hash) DO NOTHING RETURNING device_id, time, payload_hash",
    },
];

/// What goes into one transaction: rows of each table by index, and messages whose dead letter goes along.
#[derive(Debug, Default)]
pub struct Part {
    /// Indices into the batch's rows, in the order of the key.
    pub rows: [Vec<u32>; 2],
    /// Indices into the batch's messages.
    pub dead: Vec<u32>,
}

impl Part {
    /// Everything in `batch`.
    #[must_use]
    pub fn whole(batch: &Batch) -> Self {
        let every = |rows: &Rows| (0..u32::try_from(rows.rows.len()).expect("a batch closes long before 2^32 rows")).collect();
        let dead = (0_u32..)
            .zip(&batch.messages)
            .filter(|(_, message)| message.refusal.is_some())
            .map(|(index, _)| index)
            .collect();
        Self {
            rows: [every(&batch.telemetry), every(&batch.events)],
            dead,
        }
    }

    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two parts of fewer rows; the dead letters stay with the first.
    #[must_use]
    pub fn halve(mut self) -> [Self; 2] {
        let both = self.rows.iter().all(|rows| !rows.is_empty());
        let second = if both {
            [Vec::new(), std::mem::take(&mut self.rows[1])]
        } else {
            self.rows.each_mut().map(|rows| rows.split_off(rows.len().div_ceil(2)))
        };
        [
            self,
            Self {
                rows: second,
                dead: Vec::new(),
            },
        ]
    }
}

/// Which rows an attempt added.
#[derive(Debug)]
pub enum Stored {
    /// Each one.
    All,
    /// Those with these keys, by table; each key counts for one row.
    Keys([HashSet<Key, FixedState>; 2]),
}

/// Why an attempt stored nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The server's answer, and the table whose COPY it answers.
    #[error("{}", describe(.source))]
    Server {
        /// The answer.
        source: Error,
        /// Index of the table.
        table: Option<usize>,
    },
    /// No connection.
    #[error("no connection: {}", pool_cause(.0))]
    Pool(#[from] PoolError),
    /// The server hangs.
    #[error("no answer within {0:?}; cancelled")]
    Timeout(Duration),
    /// The server took another number of rows than was sent.
    #[error("the server took {took} of {sent} rows")]
    Short {
        /// Rows sent.
        sent: usize,
        /// Rows taken.
        took: u64,
    },
}

fn pool_cause(error: &PoolError) -> String {
    match error {
        PoolError::Backend(source) => describe(source),
        other => other.to_string(),
    }
}

impl From<Error> for AttemptError {
    fn from(source: Error) -> Self {
        Self::Server { source, table: None }
    }
}

impl AttemptError {
    /// Whether less at once might go through: out of memory or locks (53200), or out of time.
    #[must_use]
    pub fn may_be_too_large(&self) -> bool {
        match self {
            Self::Server { source, .. } => source.code() == Some(&SqlState::OUT_OF_MEMORY),
            Self::Timeout(_) => true,
            Self::Pool(_) | Self::Short { .. } => false,
        }
    }

    /// Who must act.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Server { source, .. } | Self::Pool(PoolError::Backend(source)) => Fault::of(source),
            Self::Pool(_) | Self::Timeout(_) | Self::Short { .. } => Fault::Transient,
        }
    }
}

/// Runs `work` on a connection of `pool`, at most for `limit`. A connection that is in doubt afterwards is not used again.
///
/// # Errors
/// What `work` says, or that there was no connection or no time.
pub async fn on_connection<T>(
    pool: &Pool,
    limit: Duration,
    work: impl AsyncFnOnce(&mut ClientWrapper) -> Result<T, AttemptError>,
) -> Result<T, AttemptError> {
    let mut client = pool.get().await?;
    let cancel = client.cancel_token();
    match tokio::time::timeout(limit, work(&mut client)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(failure)) => {
            if matches!(failure.fault(), Fault::Transient | Fault::Operator) {
                drop(Object::take(client));
            }
            Err(failure)
        }
        Err(_) => {
            drop(Object::take(client));
            // COPY does not heed statement_timeout: without this the server would go on with it.
            drop(tokio::time::timeout(limit, cancel.cancel_query(NoTls)).await);
            Err(AttemptError::Timeout(limit))
        }
    }
}

/// Stores `part` of `batch`. With `merge` rows whose key is there are passed over; without, one such row, or dead letter, fails
/// the attempt.
///
/// # Errors
/// Nothing was stored then, unless the answer to a commit got lost.
pub async fn store(
    client: &mut ClientWrapper,
    partitions: &Partitions,
    batch: &Batch,
    part: &Part,
    merge: bool,
    buffer: &mut BytesMut,
) -> Result<Stored, AttemptError> {
    let tables = [&batch.telemetry, &batch.events];
    for (table, rows) in tables.iter().enumerate() {
        while let Some(time) = partitions.first_missing(table, part.rows[table].iter().map(|row| rows.rows[*row as usize].key.1)) {
            partitions.ensure(client, table, time).await?;
        }
    }
    if merge {
        for (table, _) in TABLES.iter().zip(&part.rows).filter(|(_, rows)| !rows.is_empty()) {
            client.batch_execute(table.stage).await?;
        }
    }
    let transaction = client.build_transaction().start().await?;
    let mut keys = [HashSet::default(), HashSet::default()];
    for (table, rows) in tables.into_iter().enumerate().filter(|(table, _)| !part.rows[*table].is_empty()) {
        let framed = encode(rows, &part.rows[table], buffer);
        let copy = if merge { TABLES[table].copy_stage } else { TABLES[table].copy };
        let took = async { send(transaction.copy_in(&transaction.prepare_cached(copy).await?).await?, framed).await }.await;
        check(took, part.rows[table].len(), table)?;
        if merge {
            keys[table] = merge_stage(&transaction, TABLES[table].merge).await?;
        }
    }
    let dead = part.dead.iter().map(|message| &batch.messages[*message as usize]);
    if merge {
        dead_letter::upsert(&transaction, dead).await?;
    } else {
        let (sent, took) = dead_letter::copy(&transaction, dead).await?;
        if took != sent as u64 {
            return Err(AttemptError::Short { sent, took });
        }
    }
    // The answer to COMMIT, and no other, says that it is committed: a COPY on its own is answered before its commit, which
    // may still fail (a deferred constraint, a server that dies), and the client hears nothing of that.
    transaction.commit().await?;
    Ok(if merge { Stored::Keys(keys) } else { Stored::All })
}

fn encode(rows: &Rows, part: &[u32], buffer: &mut BytesMut) -> bytes::Bytes {
    let row = |index: &u32| -> &Row { &rows.rows[*index as usize] };
    frame(part.iter().map(|index| rows.bytes(row(index))), buffer)
}

fn check(took: Result<u64, Error>, sent: usize, table: usize) -> Result<(), AttemptError> {
    match took {
        Ok(took) if took == sent as u64 => Ok(()),
        Ok(took) => Err(AttemptError::Short { sent, took }),
        Err(source) => Err(AttemptError::Server {
            source,
            table: Some(table),
        }),
    }
}

async fn merge_stage(transaction: &Transaction<'_>, merge: &str) -> Result<HashSet<Key, FixedState>, Error> {
    let rows = transaction.query(merge, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get::<_, UnixMicros>(1).0, row.get(2)))
        .collect())
}

/// A `timestamptz` in microseconds since 1970.
struct UnixMicros(i64);

impl<'a> FromSql<'a> for UnixMicros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?) + POSTGRES_EPOCH_MICROS))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_ends_at_single_rows_and_loses_none() {
        let mut parts = vec![Part {
            rows: [(0..37).collect(), (0..5).collect()],
            dead: vec![1, 2],
        }];
        let (mut seen, mut dead) = ([Vec::<u32>::new(), Vec::new()], Vec::<u32>::new());
        while let Some(part) = parts.pop() {
            dead.extend(&part.dead);
            if part.len() > 1 {
                parts.extend(part.halve().map(|half| Part { dead: Vec::new(), ..half }));
                continue;
            }
            for (table, rows) in part.rows.iter().enumerate() {
                seen[table].extend(rows);
            }
        }
        seen.iter_mut().for_each(|rows| rows.sort_unstable());
        assert_eq!(seen, [(0..37).collect::<Vec<u32>>(), (0..5).collect()]);
        assert_eq!(dead, [1, 2]);
    }
}
