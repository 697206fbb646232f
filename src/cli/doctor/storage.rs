//! What is stored: partitions ahead and behind, sizes, and what was refused.

use tokio_postgres::Client;

use crate::db::error::describe;
use crate::db::flavour::Flavour;
use crate::db::partitions::{self, Range, TABLES};
use crate::protocol::time;

use super::finding::{Finding, Findings, Level};
use super::patient::Patient;
use super::print::bytes;

const DAY_MICROS: i64 = 86_400_000_000;
/// The service makes the partition of now and two more.
const AHEAD: i64 = 2;
/// What is above a partitioned table is empty; what is below has the rows.
const SIZE: &str = "SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::int8 FROM pg_partition_tree($1::text::regclass)";
const HYPERTABLE_SIZE: &str = "SELECT coalesce(hypertable_size($1::text::regclass), 0)";
const PLAIN_SIZE: &str = "SELECT pg_total_relation_size('dead_letters')";
const REFUSED: &str = "
    SELECT reason, count(*), sum(count(*)) OVER ()::int8
    FROM dead_letters WHERE received_at > now() - interval '1 day'
    GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 5";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("storage");
    match &patient.database {
        Err(_) => {
            findings.skipped("tables", "the database does not answer");
        }
        Ok(client) => {
            if let Err(error) = tables(&mut findings, patient, client).await {
                findings.skipped("tables", describe(&error));
            }
            if let Err(error) = dead_letters(&mut findings, client).await {
                findings.skipped("dead letters", describe(&error));
            }
        }
    }
    findings.into_list()
}

async fn tables(findings: &mut Findings, patient: &Patient, client: &Client) -> Result<(), tokio_postgres::Error> {
    let flavour = Flavour::of_tables(client).await?;
    for table in TABLES {
        if flavour == Flavour::Plain {
            let ranges = partitions::ranges(client, table).await?;
            judge(findings, patient, (table, &ranges), time::now());
        }
        let query = if flavour == Flavour::Plain { SIZE } else { HYPERTABLE_SIZE };
        let size: i64 = client.query_one(query, &[&table]).await?.get(0);
        findings
            .ok(&format!("{table} size"), bytes(size.unsigned_abs()))
            .figure("bytes", size);
    }
    Ok(())
}

fn judge(findings: &mut Findings, patient: &Patient, (table, ranges): (&str, &[Range]), now: i64) {
    let config = &patient.config.partitions;
    let width = i64::from(config.days) * DAY_MICROS;
    let has = |time: i64| ranges.iter().any(|range| time >= range.0 && time < range.1);
    let ahead = (1..=AHEAD).take_while(|step| has(now + step * width)).count();
    let check = format!("{table} ahead");
    let advice = "the service makes them every ten minutes, and on demand: is it running, and may its user create tables?";
    if has(now) {
        findings.judge(
            &check,
            ahead as i64 == AHEAD,
            Level::Warning,
            format!("a partition for now, and {ahead} of {AHEAD} beyond it; {} in all", ranges.len()),
            advice,
        )
    } else {
        findings.fault(
            &check,
            format!("no partition takes what comes now; {} in all", ranges.len()),
            advice,
        )
    }
    .figure("ahead", ahead)
    .figure("partitions", ranges.len());

    let check = format!("{table} kept");
    let oldest = ranges.first().map(|range| range.0);
    let since = oldest.map_or_else(
        || "nothing".to_owned(),
        |oldest| format!("since {}", crate::cli::terminal::moment(oldest)),
    );
    if config.retention.is_zero() {
        findings.ok(&check, format!("{since}; for ever (TELEMETRY_RETENTION 0s)"));
        return;
    }
    let retention = i64::try_from(config.retention.as_micros()).unwrap_or(i64::MAX);
    let overdue = ranges.iter().filter(|range| range.1 <= now.saturating_sub(retention)).count();
    findings
        .judge(
            &check,
            overdue == 0,
            Level::Warning,
            format!(
                "{since}; TELEMETRY_RETENTION keeps {} days; {overdue} partitions are older",
                retention / DAY_MICROS
            ),
            "the service drops them every ten minutes: is it running, and does a long query hold them?",
        )
        .figure("overdue", overdue);
}

async fn dead_letters(findings: &mut Findings, client: &Client) -> Result<(), tokio_postgres::Error> {
    let rows = client.query(REFUSED, &[]).await?;
    let total: i64 = rows.first().map_or(0, |row| row.get(2));
    let reasons: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let words: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let found = match total {
        0 => "none in the last 24 hours".to_owned(),
        total => format!("{total} in the last 24 hours: {}", words.join(", ")),
    };
    let finding = findings.judge(
        "dead letters",
        total == 0,
        Level::Warning,
        found,
        "SELECT topic, reason, detail FROM dead_letters ORDER BY received_at DESC LIMIT 20 says which devices and why",
    );
    finding.figure("messages", total);
    for (reason, count) in reasons {
        finding.figure(&reason, count);
    }
    let size: i64 = client.query_one(PLAIN_SIZE, &[]).await?.get(0);
    findings
        .ok(
            "dead letters size",
            format!("{}; they are kept until somebody deletes them", bytes(size.unsigned_abs())),
        )
        .figure("bytes", size);
    Ok(())
}
