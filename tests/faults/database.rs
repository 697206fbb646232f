//! PostgreSQL goes away, hangs, refuses, or its answers get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_postgres::Client;

use super::support::judge::{number, until_number};
use super::support::proxy::{Proxy, Verdict};
use super::support::publisher::Publisher;
use super::support::service::Service;
use super::support::{PATIENCE, eventually, pause, size};
use super::trial::Trial;

#[tokio::test]
async fn a_restart_of_the_database_costs_nothing() {
    let mut trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(10, &[]);
    for (acked, signal) in [(6_000, Signal::SIGINT), (15_000, Signal::SIGQUIT)] {
        fleet.until_acked(acked).await;
        trial.servers.postgres.halt(signal).expect("it stops");
        trial.servers.postgres.resume().await.expect("it starts again");
        trial.watch.mended();
    }
    let report = fleet.report().await;
    trial.watch.verdict("PostgreSQL restarted, fast and immediate", &report);
    service.until_ready().await;
}

#[tokio::test]
async fn without_the_database_all_waits_unacked() {
    let seconds = size(5, 10);
    let mut trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(seconds + 8, &[]);
    fleet.until_acked(6_000).await;
    trial.servers.postgres.halt(Signal::SIGINT).expect("it stops");
    until_unready(&service).await;
    no_ack_leaves(&service, Duration::from_secs(seconds)).await;
    trial.servers.postgres.resume().await.expect("it starts again");
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict(&format!("PostgreSQL stopped for {seconds} s"), &report);
    service.until_ready().await;
}

#[tokio::test]
async fn a_frozen_database_is_waited_for() {
    let seconds = size(8, 20);
    let trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(seconds + 8, &[]);
    fleet.until_acked(6_000).await;
    // The postmaster and every process below it.
    let postmaster = trial.servers.postgres.process().expect("it runs");
    let family = family_of(postmaster.id());
    signal_all(&family, Signal::SIGSTOP);
    no_ack_leaves(&service, Duration::from_secs(seconds)).await;
    signal_all(&family, Signal::SIGCONT);
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict(&format!("PostgreSQL frozen for {seconds} s"), &report);
    service.until_ready().await;
}

#[tokio::test]
async fn backends_are_terminated_in_the_middle_of_a_copy() {
    let rounds = size(5, 20);
    let trial = Trial::start().await;
    let service = trial.service().await;
    let sql = trial.servers.sql().await;
    // Slow enough that a COPY is met in its middle.
    sql.batch_execute(
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.0002); RETURN NEW; END';
         CREATE TRIGGER linger BEFORE INSERT ON telemetry FOR EACH ROW EXECUTE FUNCTION linger()",
    )
    .await
    .expect("it can be made");
    // Longer than the rounds can take: it is told when they are over.
    let fleet = trial.fleet(300, &["--rate", "600"]);
    for round in 1..=rounds {
        fleet.until_acked(round * size(400, 1_000)).await;
        eventually("a COPY is under way and ended", async || {
            let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                         WHERE application_name = 'iotflow-ingest' AND state = 'active' AND query LIKE 'COPY telemetry %'";
            (number(&sql, ended).await > 0).then_some(())
        })
        .await;
        trial.watch.mended();
    }
    sql.batch_execute("DROP TRIGGER linger ON telemetry").await.expect("in its turn");
    eventually("the last one is recovered from", async || trial.watch.is_recovered().then_some(())).await;
    fleet.end();
    let report = fleet.report().await;
    trial
        .watch
        .verdict(&format!("backend terminated in mid COPY, {rounds} times"), &report);
    assert!(service.sum("iotflow_db_transactions_total").await > 0.0);
}

#[tokio::test]
async fn a_locked_table_holds_the_acks_of_its_rows() {
    let seconds = size(5, 10);
    let trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(seconds + 6, &[]);
    fleet.until_acked(6_000).await;
    let mut holder = trial.servers.sql().await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("in its turn");
    no_ack_leaves(&service, Duration::from_secs(seconds)).await;
    lock.rollback().await.expect("it is open");
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict(&format!("LOCK TABLE telemetry for {seconds} s"), &report);
}

#[tokio::test]
async fn a_database_that_is_read_only_is_waited_for() {
    let trial = Trial::start().await;
    let service = trial.service().await;
    let sql = trial.servers.sql().await;
    let fleet = trial.fleet(size(8, 15), &[]);
    fleet.until_acked(6_000).await;
    read_only(&sql, "on").await;
    until_unready(&service).await;
    no_ack_leaves(&service, Duration::from_secs(size(2, 8))).await;
    read_only(&sql, "off").await;
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict("PostgreSQL read-only for a while", &report);
    service.until_ready().await;
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 0, "no row was at fault");
}

#[tokio::test]
async fn the_answer_to_a_commit_may_get_lost() {
    let stored_again = lost_answers(false).await;
    assert!(stored_again > 0.0, "no batch was stored twice, so this tested nothing");
}

#[tokio::test]
async fn the_answer_to_a_commit_with_dead_letters_may_get_lost() {
    let stored_again = lost_answers(true).await;
    assert!(stored_again > 0.0, "no batch was stored twice, so this tested nothing");
}

/// A COPY that went well is no commit: what the commit refuses must not be acked as stored.
#[tokio::test]
async fn a_commit_that_refuses_a_row_is_heard() {
    let trial = Trial::start().await;
    let _service = trial.service().await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE check_violation USING MESSAGE = ''refused at the commit'', CONSTRAINT = ''late''; END';
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON telemetry DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.\"values\" = ARRAY[666::float8]) EXECUTE FUNCTION refuse()",
    )
    .await
    .expect("it can be made");
    let fleet = trial.fleet(5, &[]);
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    for number in 1..=3 {
        fleet.until_acked(number * 2_000).await;
        let payload = format!("{{\"v\":666,\"ts\":{}}}", 1_790_000_000 + number);
        publisher.publish("iotflow/devices/bad/telemetry", payload).await;
    }
    trial.watch.mended();
    let report = fleet.report().await;
    let refused = "SELECT count(*) FROM dead_letters WHERE reason = 'rejected_by_database' AND detail LIKE '%refused at the commit%'";
    until_number(&sql, refused, 3).await;
    trial.watch.verdict("rows refused at the commit (deferred constraint)", &report);
}

/// Cuts the connection after a COMMIT was forwarded and before its answer. Returns how many messages were stored again.
async fn lost_answers(with_bad_messages: bool) -> f64 {
    let rounds = size(4, 20);
    let trial = Trial::start().await;
    let armed = Arc::new(AtomicBool::new(false));
    let trigger = Arc::clone(&armed);
    let watcher = Arc::new(move |chunk: &[u8]| {
        let commits = chunk.windows(7).any(|window| window == b"COMMIT\0");
        if commits && trigger.swap(false, Ordering::Relaxed) {
            Verdict::PassAndCut
        } else {
            Verdict::Pass
        }
    });
    let proxy = Proxy::watching(trial.servers.postgres_port, watcher).await;
    let url = trial
        .servers
        .postgres
        .url()
        .reveal()
        .replace(&format!(":{}/", trial.servers.postgres_port), &format!(":{}/", proxy.port));
    let service = trial.service_with(&[("DATABASE_URL", &url)]).await;
    let mut bad = Publisher::new(trial.servers.mqtt_port);
    let mut sent_bad = 0;
    let fleet = trial.fleet(3 + rounds, &[]);
    for round in 1..=rounds {
        fleet.until_acked(round * 2_500).await;
        armed.store(true, Ordering::Relaxed);
        trial.watch.mended();
        let deadline = Instant::now() + PATIENCE;
        while armed.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "no commit came by");
            if with_bad_messages {
                bad.publish("iotflow/devices/bad/telemetry", "no JSON").await;
                sent_bad += 1;
            }
            pause(Duration::from_millis(5)).await;
        }
    }
    let report = fleet.report().await;
    let what = if with_bad_messages { "rows and dead letters" } else { "rows" };
    let name = format!("answer to the COMMIT of {what} lost, {rounds} times");
    trial.watch.verdict(&name, &report);
    until_number(&trial.servers.sql().await, "SELECT count(*) FROM dead_letters", sent_bad).await;
    service.sum("iotflow_qos_duplicates_total").await
}

async fn read_only(sql: &Client, setting: &str) {
    // One statement a call: ALTER SYSTEM runs in no transaction.
    for statement in [
        "SET default_transaction_read_only = off",
        &format!("ALTER SYSTEM SET default_transaction_read_only = {setting}"),
        "SELECT pg_reload_conf()",
    ] {
        sql.batch_execute(statement).await.expect("we may");
    }
}

pub(crate) async fn until_unready(service: &Service) {
    eventually("the service says that it is not ready", async || {
        (service.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
}

/// Fails the test when an ack leaves in this time. What was committed just before may still be on its way at the start.
pub(crate) async fn no_ack_leaves(service: &Service, span: Duration) {
    pause(Duration::from_millis(500)).await;
    let acked = service.sum("iotflow_qos_acked_total").await;
    pause(span).await;
    assert!(
        (service.sum("iotflow_qos_acked_total").await - acked).abs() < 0.5,
        "acks left while nothing could be committed"
    );
}

fn family_of(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        fields.split_whitespace().nth(1).and_then(|field| field.parse().ok()) == Some(parent)
    };
    let all = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    std::iter::once(parent).chain(pids.filter(is_child)).collect()
}

fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(*pid).expect("a pid"));
        // A backend may have ended meanwhile.
        let _sent = nix::sys::signal::kill(pid, signal).is_ok();
    }
}
