//! The service's sessions at the broker, as the database has them, and whether some replica holds each.

use tokio_postgres::Client;

use crate::db::error::describe;
use crate::ingest::sessions::{self, Session};

use super::finding::{Finding, Findings};
use super::patient::Patient;

/// A lease is the advisory lock of its name's hash.
const HELD: &str = "
    SELECT wanted, EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND granted AND objsubid = 1
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND (classid::bigint << 32) + objid::bigint = hashtextextended(wanted, 0))
    FROM unnest($1::text[]) AS wanted";
const RECORDED: &str = "SELECT client_id FROM ingest_sessions WHERE client_id <> ALL ($1) ORDER BY client_id";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("sessions");
    match (&patient.database, sessions::wanted(&patient.config.ingest)) {
        (Err(_), _) => {
            findings.skipped("leases", "the database does not answer");
        }
        (_, Err(error)) => {
            findings.skipped("leases", error.to_string());
        }
        (Ok(client), Ok(wanted)) => {
            if let Err(error) = ask(&mut findings, client, &wanted).await {
                findings.skipped("sessions", describe(&error));
            }
        }
    }
    findings.into_list()
}

async fn ask(findings: &mut Findings, client: &Client, wanted: &[Session]) -> Result<(), tokio_postgres::Error> {
    let names: Vec<&str> = wanted.iter().map(|session| session.client_id.as_str()).collect();
    let rows = client.query(HELD, &[&names]).await?;
    let (held, free): (Vec<_>, Vec<_>) = rows
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, bool>(1)))
        .partition(|(_, held)| *held);
    let list = |sessions: &[(String, bool)]| sessions.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    if free.is_empty() {
        findings.ok("leases", format!("each session is held by a replica: {}", list(&held)))
    } else {
        findings.fault(
            "leases",
            format!("no replica holds {}: nobody reads what comes there", list(&free)),
            "iotflow serve: is it running, and with these settings (INGEST_GROUP, INGEST_SLOTS, MQTT_SHARED)?",
        )
    }
    .figure("held", held.len())
    .figure("wanted", names.len());
    let rows = client.query(RECORDED, &[&names]).await?;
    let left: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if left.is_empty() {
        findings.ok("on record", "no session that is wanted no more");
    } else {
        findings.warning(
            "on record",
            format!("sessions of other settings: {}", left.join(", ")),
            "the service drains and ends those of its own group when it starts; others gather messages for nobody: start it once with their INGEST_GROUP, or delete the rows of what is no more",
        );
    }
    Ok(())
}
