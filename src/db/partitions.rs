//! Native partitions of the plain flavour: made before they are needed, dropped when their time is over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::Counter;
use tokio_postgres::{Client, Error};
use tracing::info;

use super::error::describe;
use super::flavour::Flavour;

/// The tables that are partitioned by time.
pub const TABLES: [&str; 2] = ["telemetry", "events"];
const DAY_MICROS: i64 = 86_400_000_000;
/// Serialises partition work among replicas: "parts" in ASCII.
const LOCK: i64 = 0x70_6172_7473;

/// A half-open range of time, in microseconds since 1970.
pub type Range = (i64, i64);

/// What partitions are wide and how long they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long rows are kept; zero keeps them for ever. TimescaleDB keeps its own policy.
    pub retention: Duration,
    /// How many days one partition holds. Partitions that exist keep their width.
    pub days: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retention: Duration::ZERO,
            days: 1,
        }
    }
}

/// What is known of the partitions; shared by all who write.
#[derive(Debug, Clone)]
pub struct Partitions {
    flavour: Flavour,
    config: Config,
    known: Arc<[Mutex<Vec<Range>>; 2]>,
    created: Counter,
    dropped: Counter,
}

impl Partitions {
    /// Knows nothing yet; the counters are told of what is made and dropped.
    #[must_use]
    pub fn new(flavour: Flavour, config: Config, created: Counter, dropped: Counter) -> Self {
        Self {
            flavour,
            config,
            known: Arc::default(),
            created,
            dropped,
        }
    }

    /// The first of `times` that no known partition of table number `table` (see [`TABLES`]) takes.
    pub fn first_missing(&self, table: usize, times: impl Iterator<Item = i64>) -> Option<i64> {
        if self.flavour == Flavour::Timescale {
            return None;
        }
        let known = self.known[table].lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = (0, 0);
        for time in times {
            if time >= last.0 && time < last.1 {
                continue;
            }
            match known.iter().find(|range| time >= range.0 && time < range.1) {
                Some(range) => last = *range,
                None => return Some(time),
            }
        }
        None
    }

    /// Forgets what is known, so that it is looked up again.
    pub fn forget(&self) {
        for known in self.known.iter() {
            known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Makes sure that a partition takes `time`, whoever makes it.
    ///
    /// # Errors
    /// The server's, its `lock_timeout` included.
    pub async fn ensure(&self, client: &mut Client, table: usize, time: i64) -> Result<(), Error> {
        if self.flavour == Flavour::Timescale {
            return Ok(());
        }
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        let mut ranges: Vec<Range> = named_ranges(transaction.client(), TABLES[table])
            .await?
            .into_iter()
            .map(|(_, range)| range)
            .collect();
        if !ranges.iter().any(|range| time >= range.0 && time < range.1) {
            let range = fit(time, self.config.days, &ranges);
            transaction.batch_execute(&create_statement(TABLES[table], range)).await?;
            ranges.push(range);
            self.created.increment(1);
        }
        transaction.commit().await?;
        // Newest first: most rows are of today.
        ranges.sort_unstable_by(|a, b| b.cmp(a));
        *self.known[table].lock().unwrap_or_else(PoisonError::into_inner) = ranges;
        Ok(())
    }

    /// Makes the partition of `now` and the two after it, and drops those whose last row is older than the retention.
    ///
    /// # Errors
    /// The server's.
    pub async fn maintain(&self, client: &mut Client, now: i64) -> Result<(), Error> {
        if self.flavour == Flavour::Timescale {
            return Ok(());
        }
        for (table, name) in TABLES.into_iter().enumerate() {
            for ahead in 0..=2 {
                let time = now + ahead * i64::from(self.config.days) * DAY_MICROS;
                if self.first_missing(table, std::iter::once(time)).is_some() {
                    self.ensure(client, table, time).await?;
                }
            }
            self.drop_old(client, table, name, now).await?;
        }
        Ok(())
    }

    async fn drop_old(&self, client: &mut Client, table: usize, name: &str, now: i64) -> Result<(), Error> {
        if self.config.retention.is_zero() {
            return Ok(());
        }
        let oldest = now.saturating_sub(i64::try_from(self.config.retention.as_micros()).unwrap_or(i64::MAX));
        for (partition, range) in named_ranges(client, name).await? {
            if range.1 > oldest {
                continue;
            }
            // A DROP that waits for a reader makes every writer wait behind it: not for long.
            let dropped = async {
                let transaction = client.transaction().await?;
                transaction
                    .batch_execute(&format!("SET LOCAL lock_timeout = '1s'; DROP TABLE {partition}"))
                    .await?;
                transaction.commit().await
            };
            match dropped.await {
                Ok(()) => {
                    info!(partition, "dropped by retention");
                    self.dropped.increment(1);
                    self.known[table]
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .retain(|known| *known != range);
                }
                // Another replica was faster, or somebody reads it: the next round will see.
                Err(error) => info!(partition, error = describe(&error), "not dropped yet"),
            }
        }
        Ok(())
    }
}

/// The range of `days` days, counted from 1970, that holds `time`, cut back to where no partition is yet.
fn fit(time: i64, days: u16, taken: &[Range]) -> Range {
    let width = i64::from(days.max(1)) * DAY_MICROS;
    let start = time.div_euclid(width) * width;
    taken.iter().fold((start, start + width), |(from, to), range| {
        if range.1 <= time {
            (from.max(range.1), to)
        } else {
            (from, to.min(range.0))
        }
    })
}

/// The table is made on its own and attached, which waits for no open transaction of a writer. All parts are numbers.
fn create_statement(table: &str, (from, to): Range) -> String {
    let seconds = from.div_euclid(1_000_000);
    let name = format!(
        "{table}_p{}",
        jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |start| start.strftime("%Y%m%d").to_string())
    );
    let bound = |micros: i64| format!("to_timestamp({})", micros.div_euclid(1_000_000));
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL); \
         ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({}) TO ({})",
        bound(from),
        bound(to)
    )
}

/// The partitions of `table` that are there, oldest first.
///
/// # Errors
/// The server's.
pub async fn ranges(client: &Client, table: &str) -> Result<Vec<Range>, Error> {
    let mut ranges: Vec<Range> = named_ranges(client, table).await?.into_iter().map(|(_, range)| range).collect();
    ranges.sort_unstable();
    Ok(ranges)
}

async fn named_ranges(client: &Client, table: &str) -> Result<Vec<(String, Range)>, Error> {
    let rows = client
        .query(
            "SELECT name, (extract(epoch FROM bound[1]::timestamptz) * 1000000)::int8, (extract(epoch FROM bound[2]::timestamptz) * 1000000)::int8
             FROM (SELECT c.oid::regclass::text AS name, regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('(.*)'\\) TO \\('(.*)'\\)$$) AS bound
                   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::text::regclass) AS partitions
             WHERE bound IS NOT NULL",
            &[&table],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_new_partition_holds_its_time_and_touches_no_other(times in prop::collection::vec((-4_000_i64..4_000, 1_u16..40), 1..60)) {
            let mut taken: Vec<Range> = Vec::new();
            for (day, width) in times {
                let time = day * DAY_MICROS + 12_345;
                if taken.iter().any(|range| time >= range.0 && time < range.1) {
                    continue;
                }
                let range = fit(time, width, &taken);
                prop_assert!(time >= range.0 && time < range.1);
                prop_assert!(taken.iter().all(|other| range.1 <= other.0 || range.0 >= other.1));
                taken.push(range);
            }
        }
    }
}
