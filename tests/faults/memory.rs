//! Memory stays what it was, however many messages pass and however long the database is away.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::{eventually, pause, size};
use super::trial::Trial;

/// What may be in flight, and so what memory may grow to. The first stop of the database fills the window.
const RECEIVE_MAXIMUM: u64 = 65_535;
const HELD_BYTES: u64 = 32 * 1024 * 1024;
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
const QUEUE_QOS0: u64 = 20_000;
/// The formula of docs/operating.md, for one shard, three connections at most and a few hundred devices.
const FORMULA_KIB: u64 =
    (40 * 1024 * 1024 + HELD_BYTES * 13 / 10 + 4 * BATCH_BYTES + 120 * (QUEUE_QOS0 + 3 * RECEIVE_MAXIMUM) + 1_000 * 500) / 1024;

#[tokio::test]
async fn memory_stays_flat_over_many_messages_and_a_long_stop_of_the_database() {
    let (messages, rate, stop) = size((300_000, 20_000, 5), (5_000_000, 20_000_u64, 30));
    let mut trial = Trial::start().await;
    let service = trial
        .service_with(&[
            ("MQTT_RECEIVE_MAXIMUM", &RECEIVE_MAXIMUM.to_string()),
            ("INGEST_HELD_BYTES", &HELD_BYTES.to_string()),
            ("INGEST_BATCH_BYTES", &BATCH_BYTES.to_string()),
            ("INGEST_QUEUE_QOS0", &QUEUE_QOS0.to_string()),
            ("INGEST_SHARDS", "1"),
        ])
        .await;
    let seconds = messages / rate + 5;
    let (messages_text, rate_text) = (messages.to_string(), rate.to_string());
    let fleet = trial.fleet(seconds, &["--devices", "1000", "--rate", &rate_text, "--messages", &messages_text]);
    fleet.until_acked(20_000).await;
    without_database(&mut trial, Duration::from_secs(5)).await;
    eventually_long(async || fleet.acked() >= 140_000.max(messages / 5), Duration::from_secs(seconds)).await;
    eventually("the backlog is gone", async || {
        (service.sum("iotflow_qos_unacked").await < 5_000.0).then_some(())
    })
    .await;
    // The window has been full, and the backlog caught up with: from here on nothing has a reason to grow.
    let warm = trial.watch.peak_kib();
    without_database(&mut trial, Duration::from_secs(stop)).await;
    eventually_long(async || fleet.acked() >= messages, Duration::from_secs(seconds + 60)).await;
    let report = fleet.report().await;
    let peak = trial.watch.peak_kib();
    trial.watch.verdict(
        &format!(
            "{messages} messages, PostgreSQL stopped for {stop} s on the way (memory after a first stop and catching up {} MiB, at most {} MiB, by the formula {} MiB)",
            warm / 1024,
            peak / 1024,
            FORMULA_KIB / 1024
        ),
        &report,
    );
    assert!(peak <= warm + warm / 10, "{warm} KiB after the first stop, {peak} KiB at most");
    assert!(peak <= FORMULA_KIB, "{peak} KiB, and the formula allows {FORMULA_KIB}");
}

async fn without_database(trial: &mut Trial, span: Duration) {
    trial.servers.postgres.halt(Signal::SIGINT).expect("it stops");
    pause(span).await;
    trial.servers.postgres.resume().await.expect("it starts again");
    trial.watch.mended();
}

/// For what takes longer than anything else here.
async fn eventually_long(mut condition: impl AsyncFnMut() -> bool, patience: Duration) {
    let deadline = std::time::Instant::now() + patience;
    while !condition().await {
        assert!(std::time::Instant::now() < deadline, "waited {patience:?} in vain");
        pause(Duration::from_millis(200)).await;
    }
}
