//! The newest message of each device and metric set, gathered in memory and written about once a second: an upsert a
//! message would cost more than its row.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use deadpool_postgres::ClientWrapper;
use foldhash::fast::FixedState;
use tokio_postgres::Error;

use crate::db::copy_in::{frame, send};

use super::batch::Rows;

/// How far `latest` may be behind `telemetry`.
pub const FLUSH_EVERY: Duration = Duration::from_secs(1);

const STAGE: &str = "CREATE TEMPORARY TABLE IF NOT EXISTS stage_latest (LIKE telemetry) ON COMMIT DELETE ROWS";
const COPY: &str = "COPY stage_latest (device_id, time, metric_set_id, \"values\", extra) FROM STDIN (FORMAT binary)";
/// Whoever deletes telemetry writes here first: until the end of the transaction nobody does, and what was deleted before is seen. A
/// deletion under way is not waited for long: the shard's rows are more urgent, and this is tried again.
const HOLD: &str = "
    SET LOCAL lock_timeout = '1s';
    LOCK TABLE telemetry_deletions IN SHARE MODE;
    SET LOCAL lock_timeout = DEFAULT";
/// What was deleted since it was noted gives its place to the newest that is left. The look into `telemetry` is a subquery with a
/// LIMIT, and not a join, and names the device as the deletion does: so it is made by the key, and for those few alone.
const RECALL: &str = "
    WITH gone AS (
        DELETE FROM stage_latest s USING telemetry_deletions d
        WHERE d.device_id = s.device_id AND s.time >= d.begins AND s.time < d.ends
          AND (SELECT true FROM telemetry t
               WHERE t.device_id = d.device_id AND t.time = s.time AND t.metric_set_id = s.metric_set_id LIMIT 1) IS NULL
        RETURNING s.device_id, s.metric_set_id)
    INSERT INTO stage_latest (device_id, time, metric_set_id, \"values\", extra)
    SELECT newest.* FROM gone, LATERAL (
        SELECT t.device_id, t.time, t.metric_set_id, t.\"values\", t.extra FROM telemetry t
        WHERE t.device_id = gone.device_id AND t.metric_set_id = gone.metric_set_id
        ORDER BY t.time DESC LIMIT 1) AS newest";
const UPSERT: &str = "
    INSERT INTO latest AS known (device_id, metric_set_id, time, \"values\", extra)
    SELECT device_id, metric_set_id, time, \"values\", extra FROM stage_latest ORDER BY device_id, metric_set_id
    ON CONFLICT (device_id, metric_set_id) DO UPDATE
        SET time = excluded.time, \"values\" = excluded.\"values\", extra = excluded.extra
        WHERE excluded.time > known.time";

/// Newest rows that are not written yet, as encoded for COPY.
#[derive(Debug, Default)]
pub struct Latest {
    newest: HashMap<(i32, i64), (i64, Vec<u8>), FixedState>,
    first: Option<Instant>,
}

impl Latest {
    /// Notes those of a batch's rows that were stored, given by index in the order of the key.
    pub fn note(&mut self, rows: &Rows, stored: &[u32]) {
        let row = |index: u32| &rows.rows[index as usize];
        for (place, index) in stored.iter().enumerate() {
            let row_here = row(*index);
            let (device, time, set) = row_here.key;
            // Of a run of one device and set only the last can be the newest.
            if stored
                .get(place + 1)
                .is_some_and(|next| row(*next).key.0 == device && row(*next).key.2 == set)
            {
                continue;
            }
            let known = self.newest.entry((device, set)).or_insert((i64::MIN, Vec::new()));
            if known.0 < time {
                known.0 = time;
                known.1.clear();
                known.1.extend_from_slice(rows.bytes(row_here));
            }
        }
        if !self.newest.is_empty() {
            self.first.get_or_insert_with(Instant::now);
        }
    }

    /// When the next flush is due; never where there is nothing to write.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.first.map(|first| first + FLUSH_EVERY)
    }

    /// Writes what is newer than the table's, and forgets it.
    ///
    /// # Errors
    /// The server's; nothing is forgotten then.
    pub async fn flush(&mut self, client: &mut ClientWrapper) -> Result<(), Error> {
        client.batch_execute(STAGE).await?;
        let transaction = client.build_transaction().start().await?;
        transaction.batch_execute(HOLD).await?;
        let mut buffer = BytesMut::new();
        let framed = frame(self.newest.values().map(|(_, row)| row.as_slice()), &mut buffer);
        send(transaction.copy_in(COPY).await?, framed).await?;
        transaction.execute(RECALL, &[]).await?;
        transaction.execute(UPSERT, &[]).await?;
        transaction.commit().await?;
        self.clear();
        Ok(())
    }

    /// Forgets what is not written yet.
    pub fn clear(&mut self) {
        self.newest.clear();
        self.first = None;
    }

    /// Puts the next flush off after one that failed.
    pub fn postpone(&mut self) {
        self.first = Some(Instant::now());
    }
}
