//! Sessions that are lost, and sessions that are resumed, as a broker shows them that does what the test says.

use rumqttc::v5::mqttbytes::v5::Packet;

use super::support::fake_broker::FakeBroker;
use super::support::judge::{number, until_number};
use super::support::publisher::Publisher;
use super::support::servers::environment;
use super::support::service::Service;
use super::support::{self, eventually};
use super::trial::Trial;

#[tokio::test]
async fn acks_of_a_lost_session_are_never_sent() {
    let folder = support::servers::folder();
    let (postgres, _) = support::servers::start_postgres(folder.path()).await;
    let broker = FakeBroker::listen().await;
    let service = Service::start(folder.path(), &environment(broker.port, postgres.url().reveal())).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;

    // One that goes through, so that the names are known and nothing but the rows waits for the lock below.
    peer.deliver(7, "iotflow/devices/d/telemetry", r#"{"v":0,"ts":1790000000}"#).await;
    assert!(matches!(peer.next().await, Some(Packet::PubAck(ack)) if ack.pkid == 7));

    let mut holder = support::servers::connect(postgres.url().reveal()).await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("nobody else holds it");
    for packet in 1..=5 {
        peer.deliver(
            packet,
            "iotflow/devices/d/telemetry",
            &format!("{{\"v\":1,\"ts\":{}}}", 1_790_000_000 + u32::from(packet)),
        )
        .await;
    }
    eventually("the five wait for their commit", async || {
        (service.sum("iotflow_qos_in_flight").await > 4.5).then_some(())
    })
    .await;
    drop(peer);

    // The new session knows nothing of them, and may use their packet ids for others.
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    lock.rollback().await.expect("it is open");
    eventually("the five are committed", async || {
        (number(&holder, "SELECT count(*) FROM telemetry").await == 6).then_some(())
    })
    .await;
    eventually("their acks are fenced", async || {
        (service.sum("iotflow_qos_fenced_acks_total").await > 4.5).then_some(())
    })
    .await;
    peer.deliver(9, "iotflow/devices/d/telemetry", r#"{"v":1,"ts":1790000100}"#).await;
    match peer.next().await {
        Some(Packet::PubAck(ack)) => assert_eq!(ack.pkid, 9, "an ack of the lost session was sent"),
        other => panic!("{other:?} in place of the PUBACK"),
    }
}

/// A reading that gives no time is stored at its time of receipt. Delivered again it is known by what was delivered before.
#[tokio::test]
async fn messages_without_a_time_are_known_again_when_the_session_is_resumed() {
    let folder = support::servers::folder();
    let (postgres, _) = support::servers::start_postgres(folder.path()).await;
    let broker = FakeBroker::listen().await;
    let service = Service::start(folder.path(), &environment(broker.port, postgres.url().reveal())).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    // All alike and in one write, so that only their times of receipt tell them apart; and one that is no reading.
    let mut deliveries: Vec<(u16, String)> = (1..=9).map(|packet| (packet, r#"{"door":1}"#.to_owned())).collect();
    deliveries.push((10, "no JSON".to_owned()));
    peer.deliver_together("iotflow/devices/d/telemetry", &deliveries).await;
    for packet in 1..=10 {
        assert!(matches!(peer.next().await, Some(Packet::PubAck(ack)) if ack.pkid == packet));
    }
    // The acks from the fourth on got lost on the way.
    drop(peer);
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", true, &mut others).await;
    peer.deliver_again("iotflow/devices/d/telemetry", &deliveries[3..]).await;
    // And one more that looks the same, but was never delivered; Mosquitto marks it all the same.
    peer.deliver_again("iotflow/devices/d/telemetry", &[(11, r#"{"door":1}"#.to_owned())])
        .await;
    for packet in 4..=11 {
        assert!(matches!(peer.next().await, Some(Packet::PubAck(ack)) if ack.pkid == packet));
    }
    let sql = support::servers::connect(postgres.url().reveal()).await;
    assert_eq!(number(&sql, "SELECT count(*) FROM telemetry").await, 10);
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
    let series = service.series().await;
    assert_eq!(support::service::sum(&series, "iotflow_qos_duplicates_total"), 6.0);
}

/// A statement that writes one row twice is refused by PostgreSQL each time it is tried.
#[tokio::test]
async fn a_dead_letter_and_its_redelivery_in_one_batch_are_one_row() {
    let folder = support::servers::folder();
    let (postgres, _) = support::servers::start_postgres(folder.path()).await;
    let broker = FakeBroker::listen().await;
    let service = Service::start(folder.path(), &environment(broker.port, postgres.url().reveal())).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    let mut holder = support::servers::connect(postgres.url().reveal()).await;
    let sql = support::servers::connect(postgres.url().reveal()).await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("nobody else holds it");
    let deliveries = [(1, r#"{"v":1,"ts":1790000000}"#.to_owned()), (2, "no JSON".to_owned())];
    let in_flight = async |count: f64| {
        eventually(&format!("{count} wait for their commit"), async || {
            (service.sum("iotflow_qos_in_flight").await == count).then_some(())
        })
        .await;
    };
    // The first keeps the writer busy, so that all others gather in one batch.
    peer.deliver_together("iotflow/devices/d/telemetry", &deliveries[..1]).await;
    eventually("a batch is on its way", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        (number(&sql, waits).await == 1).then_some(())
    })
    .await;
    peer.deliver_together("iotflow/devices/d/telemetry", &deliveries[1..]).await;
    in_flight(2.0).await;
    drop(peer);
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", true, &mut others).await;
    peer.deliver_again("iotflow/devices/d/telemetry", &deliveries).await;
    in_flight(4.0).await;
    lock.rollback().await.expect("it is open");
    in_flight(0.0).await;
    for packet in 1..=2 {
        assert!(matches!(peer.next().await, Some(Packet::PubAck(ack)) if ack.pkid == packet));
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM telemetry").await, 1);
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
}

#[tokio::test]
async fn readings_without_a_time_are_as_many_as_were_sent() {
    let trial = Trial::start().await;
    let _service = trial.service().await;
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    // Arrays whose elements are all alike, faster than a microsecond an element.
    publisher
        .flood("iotflow/devices/d/telemetry", 500, |_| {
            format!("[{}]", vec![r#"{"door":1}"#; 20].join(","))
        })
        .await;
    let sql = trial.servers.sql().await;
    until_number(&sql, "SELECT count(*) FROM telemetry", 10_000).await;
}
