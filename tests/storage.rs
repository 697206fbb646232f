//! The schema, partitions and retention, on a real PostgreSQL.

mod support;

use std::time::Duration;

use iotflow::db::config::Config;
use iotflow::db::flavour::Flavour;
use iotflow::db::migrate::migrate;
use iotflow::db::partitions::{Config as PartitionsConfig, Partitions};
use iotflow::protocol::time;
use metrics::Counter;

use support::PATIENCE;
use support::judge::{number, texts};
use support::servers::{connect, folder, start_postgres};

const DAY: i64 = 86_400_000_000;

async fn migrated() -> (tempfile::TempDir, iotflow::stack::postgres::Postgres, Config) {
    let folder = folder();
    let (postgres, _) = start_postgres(folder.path()).await;
    let config = Config {
        url: postgres.url(),
        ..Config::default()
    };
    (folder, postgres, config)
}

#[tokio::test]
async fn replicas_that_start_together_migrate_once() {
    let (_folder, postgres, config) = migrated().await;
    let (first, second, third) = tokio::join!(migrate(&config), migrate(&config), migrate(&config));
    let mut applied = [first, second, third].map(|applied| applied.expect("it migrates").len());
    applied.sort_unstable();
    assert_eq!(applied[..2], [0, 0], "two of three had nothing left to do");
    assert!(applied[2] >= 3);
    let sql = connect(postgres.url().reveal()).await;
    assert_eq!(Flavour::of_tables(&sql).await.expect("it can be read"), Flavour::Plain);
    assert_eq!(
        texts(
            &sql,
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_name !~ '_p[0-9]' ORDER BY 1"
        )
        .await,
        [
            "api_tokens",
            "audit_log",
            "broker_access",
            "broker_users",
            "command_deliveries",
            "command_news",
            "commands",
            "dead_letters",
            "device_configs",
            "device_group_members",
            "device_groups",
            "device_keys",
            "device_status",
            "devices",
            "discovery_requests",
            "events",
            "ingest_sessions",
            "latest",
            "metric_set_members",
            "metric_sets",
            "metrics",
            "outbox",
            "readings",
            "refinery_schema_history",
            "telemetry",
            "telemetry_deletions"
        ]
    );
}

#[tokio::test]
async fn partitions_stand_two_ahead_and_are_made_on_demand_for_late_data() {
    let (_folder, postgres, config) = migrated().await;
    migrate(&config).await.expect("it migrates");
    let mut sql = connect(postgres.url().reveal()).await;
    let partitions = Partitions::new(Flavour::Plain, PartitionsConfig::default(), Counter::noop(), Counter::noop());
    let now = time::now();
    partitions.maintain(&mut sql, now).await.expect("they can be made");
    assert_eq!(
        number(&sql, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'telemetry'::regclass").await,
        3
    );
    assert_eq!(partitions.first_missing(0, [now, now + DAY, now + 2 * DAY].into_iter()), None);

    let late = now - 400 * DAY;
    assert_eq!(partitions.first_missing(0, [now, late].into_iter()), Some(late));
    partitions.ensure(&mut sql, 0, late).await.expect("it can be made");
    assert_eq!(partitions.first_missing(0, std::iter::once(late)), None);
    // Another replica knows nothing of it, and finds it.
    let other = Partitions::new(
        Flavour::Plain,
        PartitionsConfig {
            days: 7,
            ..PartitionsConfig::default()
        },
        Counter::noop(),
        Counter::noop(),
    );
    other.ensure(&mut sql, 0, late).await.expect("it is there");
    assert_eq!(
        number(&sql, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'telemetry'::regclass").await,
        4
    );
    // Wider ones fit between those that are there.
    for days in 1..20 {
        other.ensure(&mut sql, 0, now - days * DAY).await.expect("it can be made");
        assert_eq!(other.first_missing(0, std::iter::once(now - days * DAY)), None);
    }
}

#[tokio::test]
async fn a_partition_is_made_while_a_writer_is_at_work() {
    let (_folder, postgres, config) = migrated().await;
    migrate(&config).await.expect("it migrates");
    let mut sql = connect(postgres.url().reveal()).await;
    let partitions = Partitions::new(Flavour::Plain, PartitionsConfig::default(), Counter::noop(), Counter::noop());
    partitions.maintain(&mut sql, time::now()).await.expect("they can be made");
    let mut writer = connect(postgres.url().reveal()).await;
    let transaction = writer.transaction().await.expect("a transaction");
    transaction
        .batch_execute("INSERT INTO telemetry VALUES (now(), 1, 1, '{1}', NULL)")
        .await
        .expect("it takes the row");
    let made = tokio::time::timeout(PATIENCE, partitions.ensure(&mut sql, 0, time::now() - 30 * DAY)).await;
    made.expect("it did not wait for the writer").expect("it can be made");
    transaction.commit().await.expect("nothing stood in its way");
}

#[tokio::test]
async fn retention_drops_what_is_old_and_nothing_else() {
    let (_folder, postgres, config) = migrated().await;
    migrate(&config).await.expect("it migrates");
    let mut sql = connect(postgres.url().reveal()).await;
    let kept = PartitionsConfig {
        retention: Duration::from_secs(10 * 86_400),
        ..PartitionsConfig::default()
    };
    let partitions = Partitions::new(Flavour::Plain, kept, Counter::noop(), Counter::noop());
    let now = time::now();
    for days in [30, 12, 9] {
        partitions.ensure(&mut sql, 0, now - days * DAY).await.expect("it can be made");
        #[expect(clippy::cast_precision_loss, reason = "a time in seconds")]
        sql.execute(
            "INSERT INTO telemetry VALUES (to_timestamp($1), 1, 1, '{1}', NULL)",
            &[&((now - days * DAY) as f64 / 1e6)],
        )
        .await
        .expect("it takes the row");
    }
    partitions.maintain(&mut sql, now).await.expect("it works");
    assert_eq!(number(&sql, "SELECT count(*) FROM telemetry").await, 1);
    assert_eq!(
        partitions.first_missing(0, [now - 30 * DAY].into_iter()),
        Some(now - 30 * DAY),
        "what was dropped is forgotten"
    );
}

#[tokio::test]
async fn a_failing_database_is_named_at_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_iotflow"))
        .arg("migrate")
        .env("DATABASE_URL", "postgres://nobody:hunter2@127.0.0.1:1/none")
        .output()
        .expect("it can be started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("Connection refused") && !text.contains("hunter2"), "{text}");
}
