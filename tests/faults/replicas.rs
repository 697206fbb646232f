//! Several replicas share the slots; some die, some freeze.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::service::Service;
use super::support::{eventually, pause};
use super::trial::Trial;

const SLOTS: [&str; 3] = ["slot-0", "slot-1", "slot-2"];

/// How many of the slots it has.
async fn slots_of(service: &Service) -> usize {
    let series = service.series().await;
    SLOTS
        .iter()
        .filter(|slot| series.get(&format!("iotflow_mqtt_connected{{connection=\"{slot}\"}}")) == Some(&1.0))
        .count()
}

async fn until_they_have(services: &[&Service], count: usize) {
    eventually(&format!("they have {count} slots"), async || {
        let mut sum = 0;
        for service in services {
            sum += slots_of(service).await;
        }
        (sum == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_three_replicas_one_is_killed_and_one_freezes() {
    let trial = Trial::start().await;
    let environment = [("INGEST_SLOTS", "3")];
    let (mut first, second, third) = tokio::join!(
        trial.service_with(&environment),
        trial.service_with(&environment),
        trial.service_with(&environment)
    );
    for service in [&first, &second, &third] {
        eventually("each has a slot", async || (slots_of(service).await == 1).then_some(())).await;
    }
    let fleet = trial.fleet(50, &[]);
    fleet.until_acked(6_000).await;

    first.kill();
    trial.watch.mended();
    let begun = Instant::now();
    until_they_have(&[&second, &third], 3).await;
    let adopted = [begun.elapsed(), {
        // One of the two freezes: its connections stay open, its leases do not.
        second.signal(Signal::SIGSTOP);
        let begun = Instant::now();
        until_they_have(&[&third], 3).await;
        begun.elapsed()
    }];
    second.signal(Signal::SIGCONT);
    pause(Duration::from_secs(5)).await;
    assert_eq!(
        (slots_of(&second).await, slots_of(&third).await),
        (0, 3),
        "the thawed replica stands by"
    );

    let report = fleet.report().await;
    trial.watch.verdict(
        &format!(
            "three replicas: one killed (adopted after {:.1} s), one frozen and thawed (after {:.1} s)",
            adopted[0].as_secs_f64(),
            adopted[1].as_secs_f64()
        ),
        &report,
    );
    for service in [&second, &third] {
        let fights = service.log().matches("took our client id over").count();
        assert_eq!(fights, 0, "replicas fought over a client id:\n{}", service.log());
    }
}
