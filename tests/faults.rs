//! Faults, done to real processes under load. Whatever happens, every acked reading is in the table exactly once.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use rumqttc::v5::mqttbytes::v5::Packet;

use support::fake_broker::FakeBroker;
use support::fleet::Fleet;
use support::judge::{number, texts, until_number};
use support::proxy::{Direction, Proxy, Verdict};
use support::publisher::Publisher;
use support::servers::{Servers, environment};
use support::service::Service;
use support::{eventually, pause};

/// A load that keeps every part busy and leaves the machine room for the fault.
const LOAD: [&str; 8] = ["--devices", "200", "--rate", "3000", "--qos", "1", "--connections", "4"];

fn fleet(servers: &Servers, arguments: &[&str]) -> Fleet {
    Fleet::start(servers.mqtt_port, servers.postgres.url().reveal(), &[&LOAD, arguments].concat())
}

fn with(mut environment: Vec<(String, String)>, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

#[tokio::test]
async fn killed_five_times_under_load_it_loses_and_doubles_nothing() {
    let servers = Servers::start().await;
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = fleet(&servers, &["--duration", "15"]);
    for round in 1..=5 {
        fleet.until_acked(round * 6_000).await;
        service.kill();
        service = Service::start(servers.path(), &servers.environment()).await;
    }
    fleet.report().await.assert_exactly_once("kill -9, five times");
}

#[tokio::test]
async fn a_restart_of_the_database_costs_nothing() {
    let mut servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = fleet(&servers, &["--duration", "10"]);
    for (acked, signal) in [(6_000, Signal::SIGINT), (15_000, Signal::SIGQUIT)] {
        fleet.until_acked(acked).await;
        servers.postgres.halt(signal).expect("it stops");
        servers.postgres.resume().await.expect("it starts again");
    }
    fleet.report().await.assert_exactly_once("PostgreSQL restarted, fast and immediate");
    service.until_ready().await;
}

#[tokio::test]
async fn ten_seconds_without_the_database_are_waited_out_unacked() {
    let mut servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = fleet(&servers, &["--duration", "18"]);
    fleet.until_acked(6_000).await;
    servers.postgres.halt(Signal::SIGINT).expect("it stops");
    eventually("the service says that it is not ready", async || {
        (service.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    let acked = service.sum("iotflow_qos_acked_total").await;
    pause(Duration::from_secs(10)).await;
    assert!(
        (service.sum("iotflow_qos_acked_total").await - acked).abs() < 0.5,
        "acks left while nothing could be committed"
    );
    servers.postgres.resume().await.expect("it starts again");
    fleet.report().await.assert_exactly_once("PostgreSQL stopped for 10 s");
    service.until_ready().await;
}

#[tokio::test]
async fn one_poison_row_among_ten_thousand_is_cut_out() {
    let servers = Servers::start().await;
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    sql.batch_execute("ALTER TABLE telemetry ADD CONSTRAINT poison CHECK (NOT 666 = ANY (\"values\"))")
        .await
        .expect("it can be added");
    let (status, _) = service.terminate().await;
    assert!(status.success());
    // Everything waits at the broker, so that it comes in one batch.
    let fleet = fleet(&servers, &["--duration", "30", "--messages", "9999"]);
    fleet.until_acked(9_999).await;
    let mut publisher = Publisher::new(servers.mqtt_port);
    publisher
        .publish("iotflow/devices/bad/telemetry", r#"{"poison":666,"seq":1}"#)
        .await;
    let service = Service::ready(servers.path(), &with(servers.environment(), &[("INGEST_LINGER", "5s")])).await;
    fleet.report().await.assert_exactly_once("one poison row among 10,000");
    until_number(&sql, "SELECT count(*) FROM dead_letters", 1).await;
    let detail = texts(&sql, "SELECT reason || ' ' || topic || ' ' || detail FROM dead_letters")
        .await
        .remove(0);
    assert!(
        detail.starts_with("rejected_by_database iotflow/devices/bad/telemetry element 0: "),
        "{detail}"
    );
    assert!(detail.contains("poison") && detail.contains("23514"), "{detail}");
    let largest = service.series().await["iotflow_db_copy_rows_bucket{le=\"5000\"}"] < service.series().await["iotflow_db_copy_rows_count"];
    assert!(largest, "no batch was larger than 5,000 rows, so this tested little");
}

#[tokio::test]
async fn many_poison_rows_take_no_good_one_along() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    sql.batch_execute("ALTER TABLE telemetry ADD CONSTRAINT poison CHECK (NOT 666 = ANY (\"values\"))")
        .await
        .expect("it can be added");
    let elements: Vec<String> = (0..500)
        .map(|index| {
            format!(
                "{{\"ts\":{},\"v\":{}}}",
                1_790_000_000 + index,
                if index % 25 == 0 { 666 } else { 1 }
            )
        })
        .collect();
    let mut publisher = Publisher::new(servers.mqtt_port);
    publisher
        .publish("iotflow/devices/mixed/telemetry", format!("[{}]", elements.join(",")))
        .await;
    until_number(&sql, "SELECT count(*) FROM readings WHERE device = 'mixed'", 480).await;
    until_number(&sql, "SELECT count(*) FROM dead_letters", 1).await;
    let detail = texts(&sql, "SELECT detail FROM dead_letters").await.remove(0);
    assert_eq!(detail.matches("element ").count(), 20, "one dead letter names all twenty: {detail}");
    drop(service);
}

#[tokio::test]
async fn a_whole_batch_delivered_again_is_recognised() {
    let servers = Servers::start().await;
    let proxy = Proxy::before(servers.mqtt_port).await;
    let service = Service::ready(servers.path(), &environment(proxy.port, servers.postgres.url().reveal())).await;
    proxy.stall(Direction::ToServer, true);
    let fleet = fleet(&servers, &["--duration", "30", "--messages", "5000"]);
    let sql = servers.sql().await;
    until_number(&sql, "SELECT count(*) FROM telemetry", 5_000).await;
    // All is committed, no ack got through: the broker must deliver everything again.
    proxy.cut();
    proxy.stall(Direction::ToServer, false);
    eventually("all duplicates are counted", async || {
        (service.sum("iotflow_qos_duplicates_total").await >= 5_000.0).then_some(())
    })
    .await;
    fleet.report().await.assert_exactly_once("5,000 delivered twice");
    let series = service.series().await;
    assert!(support::service::sum(&series, "iotflow_qos_redelivered_total") >= 5_000.0);
}

#[tokio::test]
async fn the_answer_to_a_commit_may_get_lost() {
    let servers = Servers::start().await;
    let armed = Arc::new(AtomicBool::new(false));
    let trigger = Arc::clone(&armed);
    // CopyDone and Sync: with these the server commits; the answer never gets back.
    let watcher = Arc::new(move |chunk: &[u8]| {
        let commits = chunk.ends_with(b"c\0\0\0\x04S\0\0\0\x04");
        if commits && trigger.swap(false, Ordering::Relaxed) {
            Verdict::PassAndCut
        } else {
            Verdict::Pass
        }
    });
    let proxy = Proxy::watching(servers.postgres_port, watcher).await;
    let url = servers
        .postgres
        .url()
        .reveal()
        .replace(&format!(":{}/", servers.postgres_port), &format!(":{}/", proxy.port));
    let service = Service::ready(servers.path(), &environment(servers.mqtt_port, &url)).await;
    let fleet = fleet(&servers, &["--duration", "6"]);
    for round in 1..=4 {
        fleet.until_acked(round * 3_000).await;
        armed.store(true, Ordering::Relaxed);
    }
    fleet.report().await.assert_exactly_once("four answers to commits lost");
    assert!(!armed.load(Ordering::Relaxed), "the last cut never came about");
    assert!(
        service.sum("iotflow_qos_duplicates_total").await > 0.0,
        "no batch was stored twice, so this tested nothing"
    );
}

#[tokio::test]
async fn a_killed_replicas_slot_is_adopted() {
    let servers = Servers::start().await;
    let environment = with(servers.environment(), &[("INGEST_SLOTS", "2")]);
    let (mut first, second) = tokio::join!(
        Service::ready(servers.path(), &environment),
        Service::ready(servers.path(), &environment)
    );
    eventually("each has a slot", async || {
        let [zero, one] = ["slot-0", "slot-1"];
        let held = [
            first.has(zero).await,
            first.has(one).await,
            second.has(zero).await,
            second.has(one).await,
        ];
        matches!(held, [true, false, false, true] | [false, true, true, false]).then_some(())
    })
    .await;
    let fleet = fleet(&servers, &["--duration", "12"]);
    fleet.until_acked(9_000).await;
    first.kill();
    eventually("the second has both", async || {
        (second.has("slot-0").await && second.has("slot-1").await).then_some(())
    })
    .await;
    fleet.report().await.assert_exactly_once("two replicas, one killed");
    let takeovers = second.log().matches("took our client id over").count();
    assert_eq!(takeovers, 0, "replicas fought over a client id");
}

#[tokio::test]
async fn sigterm_in_full_flow_drains_and_nothing_committed_comes_again() {
    let servers = Servers::start().await;
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = fleet(&servers, &["--duration", "9"]);
    let mut redelivered_and_stored = 0.0;
    for round in 1..=2 {
        fleet.until_acked(round * 7_000).await;
        let (status, took) = service.terminate().await;
        assert!(status.success(), "{status}:\n{}", service.log());
        assert!(took < Duration::from_secs(10), "it took {took:?}");
        service = Service::ready(servers.path(), &servers.environment()).await;
        pause(Duration::from_millis(500)).await;
        redelivered_and_stored += service.sum("iotflow_qos_duplicates_total").await;
    }
    fleet.report().await.assert_exactly_once("SIGTERM, twice");
    assert!(
        redelivered_and_stored < 0.5,
        "{redelivered_and_stored} messages had been committed and were delivered again"
    );
}

#[tokio::test]
async fn a_message_larger_than_the_limits_stops_nobody() {
    let servers = Servers::with_conf(|conf| conf.push_str("\nmessage_size_limit 0\n")).await;
    let environment = with(
        servers.environment(),
        &[("INGEST_MAX_PAYLOAD_BYTES", "10000"), ("MQTT_MAX_PACKET_BYTES", "100000")],
    );
    let service = Service::ready(servers.path(), &environment).await;
    let sql = servers.sql().await;
    let mut publisher = Publisher::new(servers.mqtt_port);
    let payload = |bytes: usize| format!("{{\"v\":1,\"text\":\"{}\"}}", "x".repeat(bytes));
    publisher.publish("iotflow/devices/small/telemetry", payload(100)).await;
    // Beyond the payload limit: a dead letter. Beyond the packet limit: the broker drops it for us, as it was told.
    publisher.publish("iotflow/devices/large/telemetry", payload(20_000)).await;
    publisher.publish("iotflow/devices/huge/telemetry", payload(200_000)).await;
    publisher.publish("iotflow/devices/after/telemetry", payload(100)).await;
    until_number(&sql, "SELECT count(*) FROM telemetry", 2).await;
    until_number(
        &sql,
        "SELECT count(*) FROM dead_letters WHERE reason = 'payload_too_large' AND octet_length(payload) > 20000",
        1,
    )
    .await;
    let series = service.series().await;
    assert!(
        support::service::sum(&series, "iotflow_mqtt_disconnects_total") < 0.5,
        "a large message broke a connection"
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
}

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
