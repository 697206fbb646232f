//! Messages that nobody can store, or more of them than anybody can take.

use std::time::Duration;

use super::support::judge::{number, texts, until_number};
use super::support::publisher::Publisher;
use super::support::{eventually, pause, size};
use super::trial::Trial;

const POISON: &str = "ALTER TABLE telemetry ADD CONSTRAINT poison CHECK (NOT 666 = ANY (\"values\"))";

#[tokio::test]
async fn one_poison_row_among_ten_thousand_is_cut_out() {
    let detail = poisoned(1).await.remove(0);
    assert!(
        detail.starts_with("rejected_by_database iotflow/devices/bad/telemetry element 0: "),
        "{detail}"
    );
    assert!(detail.contains("poison") && detail.contains("23514"), "{detail}");
}

#[tokio::test]
async fn many_poison_rows_among_ten_thousand_take_no_good_one_along() {
    let details = poisoned(100).await;
    assert_eq!(details.len(), 100);
}

/// Ten thousand messages that come in large batches, `bad` of them refused by the database; what became of these.
async fn poisoned(bad: u64) -> Vec<String> {
    let trial = Trial::start().await;
    let mut service = trial.service().await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(POISON).await.expect("it can be added");
    let (status, _) = service.terminate().await;
    assert!(status.success());
    // Everything waits at the broker, so that it comes in large batches.
    let good = 10_000 - bad;
    let fleet = trial.fleet(60, &["--messages", &good.to_string()]);
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    for poison in 1..=bad {
        // Spread through the others, not in a row.
        fleet.until_acked(good * poison / (bad + 1)).await;
        let payload = format!("{{\"poison\":666,\"ts\":{}}}", 1_790_000_000 + poison);
        publisher.publish("iotflow/devices/bad/telemetry", payload).await;
    }
    fleet.until_acked(good).await;
    let service = trial.service_with(&[("INGEST_LINGER", "1s")]).await;
    let report = fleet.report().await;
    until_number(&sql, "SELECT count(*) FROM dead_letters", i64::try_from(bad).expect("small")).await;
    let series = service.series().await;
    assert!(
        series["iotflow_db_copy_rows_bucket{le=\"5000\"}"] < series["iotflow_db_copy_rows_count"],
        "no batch was larger than 5,000 rows, so this tested little"
    );
    trial.watch.verdict(&format!("{bad} poison row(s) among 10,000 messages"), &report);
    texts(&sql, "SELECT reason || ' ' || topic || ' ' || detail FROM dead_letters").await
}

#[tokio::test]
async fn one_message_with_many_poison_rows_keeps_its_good_ones() {
    let trial = Trial::start().await;
    let _service = trial.service().await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(POISON).await.expect("it can be added");
    let value = |index: i64| if index % 25 == 0 { 666 } else { 1 };
    let elements: Vec<String> = (0..500)
        .map(|index| format!("{{\"ts\":{},\"v\":{}}}", 1_790_000_000 + index, value(index)))
        .collect();
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    publisher
        .publish("iotflow/devices/mixed/telemetry", format!("[{}]", elements.join(",")))
        .await;
    until_number(&sql, "SELECT count(*) FROM readings WHERE device = 'mixed'", 480).await;
    until_number(&sql, "SELECT count(*) FROM dead_letters", 1).await;
    let detail = texts(&sql, "SELECT detail FROM dead_letters").await.remove(0);
    assert_eq!(detail.matches("element ").count(), 20, "one dead letter names all twenty: {detail}");
}

#[tokio::test]
async fn bad_messages_in_a_row_hurt_no_good_one() {
    let bad = size(10_000, 100_000_u32);
    let trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(size(8, 40), &["--rate", "1000"]);
    fleet.until_acked(1_000).await;
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    publisher
        .flood("iotflow/devices/bad/telemetry", bad, |number| format!("{{\"v\":{number},"))
        .await;
    trial.watch.mended();
    let sql = trial.servers.sql().await;
    let report = fleet.report().await;
    until_number(&sql, "SELECT count(*) FROM dead_letters WHERE reason = 'not_json'", i64::from(bad)).await;
    assert!(
        service.sum("iotflow_mqtt_disconnects_total").await < 0.5,
        "bad messages broke a connection"
    );
    trial
        .watch
        .verdict(&format!("{bad} bad messages in a row beside good ones"), &report);
}

/// QoS 0 that nobody can store is dropped by rule and counted, in bounded memory.
#[tokio::test]
async fn qos_0_beyond_what_can_be_stored_is_shed_and_counted() {
    let seconds = size(6, 20);
    let trial = Trial::start().await;
    let service = trial
        .service_with(&[
            ("INGEST_QUEUE_QOS0", "20000"),
            ("INGEST_HELD_BYTES", "16777216"),
            ("INGEST_BATCH_ROWS", "5000"),
        ])
        .await;
    let fleet = trial.fleet(seconds + 6, &["--qos", "0", "--rate", "15000", "--settle-seconds", "2"]);
    eventually("the load is on", async || {
        (service.sum("iotflow_qos_committed_total").await > 20_000.0).then_some(())
    })
    .await;
    let mut holder = trial.servers.sql().await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("in its turn");
    eventually("the queue is full and sheds", async || {
        (service.sum("iotflow_qos_shed_total").await > 1_000.0).then_some(())
    })
    .await;
    let full = trial.watch.peak_kib();
    pause(Duration::from_secs(seconds)).await;
    let later = trial.watch.peak_kib();
    lock.rollback().await.expect("it is open");
    trial.watch.mended();
    let report = fleet.report().await;
    let sql = trial.servers.sql().await;
    let of = async |family| service.sum(family).await;
    eventually("everything has its outcome", async || {
        (of("iotflow_qos_in_flight").await < 0.5).then_some(())
    })
    .await;
    let [received, committed, shed] = [
        of("iotflow_qos_received_total").await,
        of("iotflow_qos_committed_total").await,
        of("iotflow_qos_shed_total").await,
    ];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let (rows, sent) = (
        number(&sql, "SELECT count(*) FROM telemetry").await as f64,
        report.number("/sent") as f64,
    );
    assert_eq!([received, committed], [sent, rows], "sent and received, committed and stored");
    assert_eq!(received, committed + shed);
    assert!(
        later < full + full / 10,
        "{full} KiB when the queue was full, {later} KiB {seconds} s later"
    );
    let lost = report.verdict()[0];
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    {
        assert_eq!(lost as f64, shed, "what is not there was shed, and counted");
    }
    trial
        .watch
        .verdict_but(&format!("QoS 0 overload, {seconds} s ({shed} shed, and counted)"), &report, lost);
}
