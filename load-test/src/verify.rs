//! What became of every reading, asked in SQL as any stranger could: lost, doubled, unexpected, late.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::payload::SEQUENCE;
use crate::report::Report;

/// Counted through the view `readings`. A sequence number is stored as the double it is; up to 2^53 that is exact.
const COUNT: &str = "
    SELECT device, count(*)::int8, count(DISTINCT value)::int8, (count(DISTINCT value) FILTER (WHERE value < 1 OR value > $4))::int8
    FROM readings WHERE metric = $5 AND device = ANY ($1) AND time BETWEEN to_timestamp($2) AND to_timestamp($3)
    GROUP BY device";
const PRESENT: &str = "
    SELECT count(*)::int8 FROM unnest($1::text[], $2::float8[]) AS asked (device, value)
    WHERE EXISTS (SELECT FROM readings r WHERE r.metric = $5 AND r.device = asked.device AND r.value = asked.value
                  AND time BETWEEN to_timestamp($3) AND to_timestamp($4))";
/// When a row was committed, the server itself knows, if it keeps track.
const LATENCY: &str = "
    SELECT (percentile_disc(ARRAY[0.5, 0.99, 0.999, 1.0]) WITHIN GROUP (ORDER BY delay))::float8[], (count(*) FILTER (WHERE delay > $4))::int8
    FROM (SELECT extract(epoch FROM pg_xact_commit_timestamp(t.xmin) - t.time)::float8 * 1000 AS delay
          FROM telemetry t JOIN devices d USING (device_id)
          WHERE d.device = ANY ($1) AND t.time BETWEEN to_timestamp($2) AND to_timestamp($3)) AS delays";

/// Where the rows are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Database {
    /// PostgreSQL to count in; without it nothing is verified.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
    /// Most seconds to wait for the last readings to arrive.
    #[arg(long, default_value_t = 30.0)]
    pub(crate) settle_seconds: f64,
}

/// The arguments of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run's JSON report.
    report: PathBuf,
    #[command(flatten)]
    database: Database,
}

/// What was sent, in terms of readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expected {
    /// Device ids, and how many readings each sent: numbers 1 to that.
    pub(crate) sent: Vec<(String, u64)>,
    /// Readings whose message was not acked, or refused, or taken by the broker without a subscriber: they may be there or not.
    pub(crate) uncertain: Vec<(String, u64)>,
    /// Oldest and newest time a reading can have, in seconds since 1970.
    pub(crate) span: (f64, f64),
    /// A reading that was committed more milliseconds than this after it was due is late.
    pub(crate) late_ms: f64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verified {
    /// Readings that must be there.
    pub(crate) expected: u64,
    /// Distinct readings that are there, of all that were sent.
    pub(crate) found: u64,
    /// Of those that must be there, the missing.
    pub(crate) lost: u64,
    /// Rows beyond the first of a reading.
    pub(crate) doubled: u64,
    /// Readings that were never sent.
    pub(crate) unexpected: u64,
    /// From due to committed.
    pub(crate) latency: Option<CommitLatency>,
}

/// From due to committed, of every row, by the server's own record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CommitLatency {
    /// Milliseconds.
    pub(crate) p50_ms: f64,
    /// Milliseconds.
    pub(crate) p99_ms: f64,
    /// Milliseconds.
    pub(crate) p999_ms: f64,
    /// Milliseconds.
    pub(crate) max_ms: f64,
    /// Rows beyond the threshold.
    pub(crate) late: u64,
}

/// Runs `verify`.
pub(crate) async fn command(args: Args) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(&args.report).with_context(|| format!("{} cannot be read", args.report.display()))?;
    let mut report: Report = serde_json::from_str(&text)
        .with_context(|| format!("{} is no report of `iotflow-load run --report json`", args.report.display()))?;
    if args.database.database_url.is_none() {
        bail!("DATABASE_URL is not set; there is nothing to count in");
    }
    report.verified = verify(&args.database, &report.expected).await?;
    report.judge();
    println!("{}", report.table());
    Ok(report.failures.is_empty())
}

/// Counts, again and again until nothing is missing or the patience ends. `None` without a database.
pub(crate) async fn verify(database: &Database, expected: &Expected) -> anyhow::Result<Option<Verified>> {
    let Some(url) = &database.database_url else { return Ok(None) };
    let deadline = Instant::now() + Duration::from_secs_f64(database.settle_seconds);
    let mut wait = Duration::from_millis(100);
    loop {
        let attempt = async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(async move { drop(connection.await) });
            client.batch_execute("SET TIME ZONE 'UTC'").await?;
            count(&client, expected).await
        };
        let counted = attempt.await.context("counting in DATABASE_URL failed");
        match counted {
            Ok(verified) if verified.lost == 0 => return Ok(Some(verified)),
            Ok(verified) if Instant::now() >= deadline => return Ok(Some(verified)),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Ok(_) | Err(_) => {}
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

async fn count(client: &Client, expected: &Expected) -> anyhow::Result<Verified> {
    let names: Vec<&str> = expected.sent.iter().map(|(device, _)| device.as_str()).collect();
    let (from, to) = expected.span;
    let uncertain: u64 = u64::try_from(expected.uncertain.len())?;
    let sent: u64 = expected.sent.iter().map(|(_, readings)| readings).sum();
    // One bound for all: devices send the same number of readings, or one message more.
    let most = expected.sent.iter().map(|(_, readings)| *readings).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "sequence numbers are far below 2^53")]
    let rows = client.query(COUNT, &[&names, &from, &to, &(most as f64), &SEQUENCE]).await?;
    let (mut total, mut distinct, mut unexpected) = (0, 0, 0);
    for row in &rows {
        total += u64::try_from(row.get::<_, i64>(1))?;
        distinct += u64::try_from(row.get::<_, i64>(2))?;
        unexpected += u64::try_from(row.get::<_, i64>(3))?;
    }
    let (devices, values): (Vec<&str>, Vec<f64>) = expected
        .uncertain
        .iter()
        .map(|(device, value)| (device.as_str(), to_double(*value)))
        .unzip();
    let present: i64 = if uncertain == 0 {
        0
    } else {
        client.query_one(PRESENT, &[&devices, &values, &from, &to, &SEQUENCE]).await?.get(0)
    };
    let (certain, found) = (sent - uncertain, distinct - unexpected);
    let lost = certain.saturating_sub(found - u64::try_from(present)?);
    Ok(Verified {
        expected: certain,
        found,
        lost,
        doubled: total - distinct,
        unexpected,
        latency: latency(client, &names, expected).await?,
    })
}

async fn latency(client: &Client, names: &[&str], expected: &Expected) -> anyhow::Result<Option<CommitLatency>> {
    let tracked: String = client
        .query_one("SELECT current_setting('track_commit_timestamp')", &[])
        .await?
        .get(0);
    if tracked != "on" {
        return Ok(None);
    }
    let row = client
        .query_one(LATENCY, &[&names, &expected.span.0, &expected.span.1, &expected.late_ms])
        .await?;
    let Some(delays) = row.get::<_, Option<Vec<f64>>>(0) else {
        return Ok(None);
    };
    let [p50_ms, p99_ms, p999_ms, max_ms] = delays.try_into().map_err(|_| anyhow::anyhow!("four percentiles were asked for"))?;
    Ok(Some(CommitLatency {
        p50_ms,
        p99_ms,
        p999_ms,
        max_ms,
        late: u64::try_from(row.get::<_, i64>(1))?,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "sequence numbers are far below 2^53")]
fn to_double(sequence: u64) -> f64 {
    sequence as f64
}
