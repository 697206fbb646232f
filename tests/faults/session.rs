//! A broker that forgets the session while acks are still due: they belong to nothing any more, and must never be sent.

use rumqttc::v5::mqttbytes::v5::Packet;

use super::support::fake_broker::FakeBroker;
use super::support::judge::number;
use super::support::servers::environment;
use super::support::service::Service;
use super::support::{self, eventually};

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
