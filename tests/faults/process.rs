//! The service itself is killed, or told to stop.

use std::time::Duration;

use super::support::{pause, size};
use super::trial::Trial;

#[tokio::test]
async fn killed_again_and_again_it_loses_and_doubles_nothing() {
    let rounds = size(5, 20);
    let trial = Trial::start().await;
    let mut service = trial.service().await;
    let fleet = trial.fleet(4 + rounds * 3, &[]);
    let mut acked = 0;
    for _ in 0..rounds {
        pause(Duration::from_millis(fastrand::u64(300..1_500))).await;
        // A kill on an idle service would be no test.
        fleet.until_acked(acked + 500).await;
        acked = fleet.acked();
        service.kill();
        trial.watch.mended();
        service = trial.service_soon(&[]).await;
    }
    let report = fleet.report().await;
    trial.watch.verdict(&format!("kill -9, {rounds} times"), &report);
}

#[tokio::test]
async fn sigterm_in_full_flow_drains_and_nothing_committed_comes_again() {
    let rounds = size(2, 8);
    let trial = Trial::start().await;
    let mut service = trial.service().await;
    let fleet = trial.fleet(3 + rounds * 3, &[]);
    let mut stored_again = 0.0;
    for round in 1..=rounds {
        fleet.until_acked(round * 7_000).await;
        let (status, _) = service.terminate().await;
        trial.watch.mended();
        assert!(status.success(), "{status}:\n{}", service.log());
        service = trial.service().await;
        pause(Duration::from_millis(500)).await;
        stored_again += service.sum("iotflow_qos_duplicates_total").await;
    }
    let report = fleet.report().await;
    trial.watch.verdict(&format!("SIGTERM in full flow, {rounds} times"), &report);
    assert!(
        stored_again < 0.5,
        "{stored_again} messages had been committed and were delivered again"
    );
}
