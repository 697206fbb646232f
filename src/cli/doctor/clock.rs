//! The clock: ours against the database's. A device's time is judged by ours, and rows are kept by it.

use std::time::Instant;

use tokio_postgres::Client;

use crate::protocol::time;

use super::finding::{Finding, Findings, Level};
use super::patient::Patient;

const TOLERATED_MICROS: i64 = 2_000_000;
/// The quickest of some answers says most.
const ATTEMPTS: usize = 3;
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("clock");
    match &patient.database {
        Err(_) => {
            findings.skipped("database", "the database does not answer");
        }
        Ok(client) => match ahead(client).await {
            Err(error) => {
                findings.skipped("database", crate::db::error::describe(&error));
            }
            Ok((micros, uncertain)) => judge(&mut findings, micros, uncertain),
        },
    }
    // Mosquitto says below $SYS how long it has been running, and never what time it has.
    findings.skipped("broker", "a broker does not tell its time");
    findings.into_list()
}

fn judge(findings: &mut Findings, micros: i64, uncertain: i64) {
    let seconds = |micros: i64| micros as f64 / 1e6;
    findings
        .judge(
            "database",
            micros.abs() <= TOLERATED_MICROS,
            Level::Warning,
            format!(
                "the database's clock is {:.3} s {} ours (± {:.3} s)",
                seconds(micros.abs()),
                if micros < 0 { "behind" } else { "ahead of" },
                seconds(uncertain)
            ),
            "let both machines follow NTP (chronyc tracking): readings are judged by our clock, and dashboards ask by the database's",
        )
        .figure("seconds_ahead", seconds(micros));
}

/// By how much the database's clock is ahead of ours, and how uncertain that is: half of the question's way there and back.
async fn ahead(client: &Client) -> Result<(i64, i64), tokio_postgres::Error> {
    let statement = client.prepare(NOW).await?;
    let mut best = (0, i64::MAX);
    for _ in 0..ATTEMPTS {
        let (begun, asked) = (Instant::now(), time::now());
        let theirs: i64 = client.query_one(&statement, &[]).await?.get(0);
        let half = i64::try_from(begun.elapsed().as_micros() / 2).unwrap_or(i64::MAX);
        if half < best.1 {
            best = (theirs - (asked + half), half);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_two_seconds_are_warned_of_whoever_is_ahead() {
        for (micros, level) in [
            (0, Level::Ok),
            (1_999_999, Level::Ok),
            (-1_999_999, Level::Ok),
            (2_000_001, Level::Warning),
            (-90_000_000, Level::Warning),
        ] {
            let mut findings = Findings::of("clock");
            judge(&mut findings, micros, 100);
            let found = findings.into_list().remove(0);
            assert_eq!(found.level, level, "{}", found.found);
            assert_eq!(found.found.contains("behind"), micros < 0, "{}", found.found);
        }
    }
}
