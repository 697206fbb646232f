//! The database: whether it answers, what it is, whether the schema is this program's, and whether a commit is on disk.

use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::app;
use crate::db::error::describe;
use crate::db::flavour::Flavour;
use crate::db::migrate;

use super::finding::{Finding, Findings, Level};
use super::patient::Patient;

const OLDEST: i32 = 140_000;
const SERVER: &str = "
    SELECT current_setting('server_version_num')::int4, current_setting('server_version'), current_setting('server_encoding')";
const DURABLE: &str = "
    SELECT current_setting('fsync') = 'on', current_setting('synchronous_commit'), current_setting('full_page_writes') = 'on'";
/// What others hold, whichever database they are at: the limit is the server's.
const CONNECTIONS: &str = "
    SELECT current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8,
           count(*) FILTER (WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name NOT LIKE 'iotflow-%')
    FROM pg_stat_activity";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("database");
    let place = place(patient);
    match &patient.database {
        Err(why) => {
            findings.fault(
                "reachable",
                format!("{place}: {why}"),
                "is it running, and is DATABASE_URL (DATABASE_URL_FILE) right? Of an installation: ./mqtt_manage.sh start",
            );
        }
        Ok(client) => {
            findings.ok("reachable", format!("{place} answers"));
            if let Err(error) = ask(&mut findings, patient, client).await {
                findings.skipped("the rest", describe(&error));
            }
        }
    }
    findings.into_list()
}

async fn ask(findings: &mut Findings, patient: &Patient, client: &Client) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(SERVER, &[]).await?;
    let (number, version, encoding): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    findings.judge(
        "version",
        number >= OLDEST,
        Level::Fault,
        format!("PostgreSQL {version}"),
        "PostgreSQL 14 or later",
    );
    findings.judge(
        "encoding",
        encoding == "UTF8",
        Level::Fault,
        &encoding,
        "names and texts of devices are UTF-8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
    );
    schema(findings, client).await?;
    durable(findings, client).await?;
    connections(findings, patient, client).await
}

async fn schema(findings: &mut Findings, client: &Client) -> Result<(), tokio_postgres::Error> {
    const ADVICE: &str = "iotflow migrate, or start the service, which does it too";
    match migrate::pending(client).await? {
        None => {
            findings.fault("schema", "this database was never migrated", ADVICE);
            return Ok(());
        }
        Some(pending) if pending.is_empty() => findings.ok("schema", "up to date"),
        Some(pending) => findings.fault("schema", format!("older than this program: {} missing", pending.join(", ")), ADVICE),
    };
    match Flavour::of_tables(client).await? {
        Flavour::Plain => findings.ok("tables", "native partitions, made and dropped by the service"),
        Flavour::Timescale => findings.ok("tables", "TimescaleDB, which makes and drops the chunks"),
    };
    Ok(())
}

async fn durable(findings: &mut Findings, client: &Client) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(DURABLE, &[]).await?;
    let (fsync, commit, pages): (bool, String, bool) = (row.get(0), row.get(1), row.get(2));
    let switch = |on| if on { "on" } else { "off" };
    findings.judge(
        "fsync",
        fsync,
        Level::Fault,
        format!("fsync {}", switch(fsync)),
        "fsync = on in postgresql.conf: else a crash of the machine loses, or ruins, what was acked",
    );
    findings.judge(
        "commit",
        commit != "off",
        Level::Fault,
        format!("synchronous_commit {commit}"),
        "synchronous_commit = on for this database and its user: else what is acked is not on disk yet",
    );
    findings.judge(
        "pages",
        pages,
        Level::Warning,
        format!("full_page_writes {}", switch(pages)),
        "full_page_writes = on, unless the file system never tears a page (ZFS)",
    );
    Ok(())
}

async fn connections(findings: &mut Findings, patient: &Patient, client: &Client) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one(CONNECTIONS, &[]).await?;
    let (most, others): (i64, i64) = (row.get(0), row.get(1));
    // The service; whoever keeps the broker in step, by two; one to spare.
    let needed = i64::try_from(app::database_connections(&patient.config) + 3).unwrap_or(i64::MAX);
    findings
        .judge(
            "connections",
            needed <= most - others,
            Level::Warning,
            format!("{most} for all, {others} held by others; the service and its helpers take {needed}, each replica again"),
            "raise max_connections, or lower INGEST_SHARDS and API_CONNECTIONS",
        )
        .figure("most", most)
        .figure("others", others)
        .figure("needed", needed);
    Ok(())
}

/// Host, port and name of the database; never its password.
fn place(patient: &Patient) -> String {
    let Ok(config) = patient.config.db.url.reveal().parse::<tokio_postgres::Config>() else {
        return "DATABASE_URL".to_owned();
    };
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}/{}", config.get_dbname().unwrap_or_default())
}
