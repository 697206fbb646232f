//! The broker goes away, freezes, or the wire to it breaks.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::support::proxy::{Direction, Proxy};
use super::support::servers::Servers;
use super::support::{eventually, pause, size};
use super::trial::Trial;

#[tokio::test]
async fn a_restart_of_the_broker_with_a_plain_subscription_loses_nothing() {
    let rounds = size(2, 5);
    let mut trial = Trial::start().await;
    let service = trial.service_with(&[("MQTT_SHARED", "false")]).await;
    let fleet = trial.fleet(4 + rounds * 4, &[]);
    for round in 1..=rounds {
        fleet.until_acked(round * 6_000).await;
        trial.servers.broker.halt(Signal::SIGTERM).expect("it stops");
        trial.servers.broker.resume().await.expect("it starts again");
        trial.watch.mended();
    }
    let report = fleet.report().await;
    trial
        .watch
        .verdict(&format!("Mosquitto restarted {rounds} times, plain subscription"), &report);
    assert_eq!(report.number("/without_subscriber"), 0);
    service.until_ready().await;
}

/// Mosquitto before 2.0.19 forgets shared subscriptions: what is published until we are back has no subscriber. It says so in
/// the PUBACK, by which the simulator knows which readings these were.
#[tokio::test]
async fn a_restart_of_the_broker_with_shares_loses_only_what_it_says_it_dropped() {
    let rounds = size(2, 5);
    let mut trial = Trial::start().await;
    let service = trial.service().await;
    let fleet = trial.fleet(4 + rounds * 4, &[]);
    for round in 1..=rounds {
        fleet.until_acked(round * 6_000).await;
        // What it holds for us while we cannot take it must survive in its file.
        let mut holder = trial.servers.sql().await;
        let lock = holder.transaction().await.expect("a transaction");
        lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
            .await
            .expect("in its turn");
        pause(Duration::from_millis(700)).await;
        trial.servers.broker.halt(Signal::SIGTERM).expect("it stops");
        lock.rollback().await.expect("it is open");
        trial.servers.broker.resume().await.expect("it starts again");
        trial.watch.mended();
    }
    let report = fleet.report().await;
    let dropped = report.number("/without_subscriber");
    trial.watch.verdict(
        &format!("Mosquitto restarted {rounds} times, shared subscription ({dropped} dropped by the broker, as it said)"),
        &report,
    );
    let warned = service.get("/readyz?verbose").await.1.contains("forgets shared subscriptions");
    assert!(warned || dropped == 0, "messages were dropped, and nobody was warned");
}

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    let rounds = size(5, 20);
    let trial = Trial::start().await;
    let proxy = Proxy::before(trial.servers.mqtt_port).await;
    let service = trial.service_with(&[("MQTT_PORT", &proxy.port.to_string())]).await;
    let fleet = trial.fleet(600, &[]);
    let mut committed = 0.0;
    for _ in 0..rounds {
        // Whoever cuts what is not connected, or idle, tests nothing.
        eventually("it takes what comes", async || {
            let now = service.sum("iotflow_qos_committed_total").await;
            (service.has("slot-0").await && now > committed + 1_000.0).then_some(())
        })
        .await;
        committed = service.sum("iotflow_qos_committed_total").await;
        proxy.cut();
        trial.watch.mended();
    }
    eventually("it takes what comes", async || {
        (service.sum("iotflow_qos_committed_total").await > committed + 1_000.0).then_some(())
    })
    .await;
    fleet.end();
    let report = fleet.report().await;
    let resumed = service.series().await["iotflow_mqtt_connects_total{connection=\"slot-0\",session=\"resumed\"}"];
    trial.watch.verdict(&format!("MQTT connection cut, {rounds} times"), &report);
    assert!(resumed > f64::from(rounds) - 0.5, "{rounds} cuts, and {resumed} resumptions");
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let trial = Trial::start().await;
    let proxy = Proxy::before(trial.servers.mqtt_port).await;
    let port = proxy.port.to_string();
    let service = trial.service_with(&[("MQTT_PORT", &port), ("MQTT_KEEP_ALIVE", "5s")]).await;
    let fleet = trial.fleet(size(18, 40), &[]);
    for round in 1..=size(1, 2) {
        fleet.until_acked(round * 8_000).await;
        let before = service.sum("iotflow_mqtt_disconnects_total").await;
        // Open, and nothing comes through in either direction.
        proxy.stall(Direction::ToServer, true);
        proxy.stall(Direction::ToClient, true);
        eventually("the silence is noticed", async || {
            (service.sum("iotflow_mqtt_disconnects_total").await > before).then_some(())
        })
        .await;
        proxy.cut();
        proxy.stall(Direction::ToServer, false);
        proxy.stall(Direction::ToClient, false);
        trial.watch.mended();
    }
    let report = fleet.report().await;
    trial.watch.verdict("MQTT connection half-open", &report);
}

#[tokio::test]
async fn a_frozen_broker_is_waited_for() {
    let seconds = size(10, 20);
    let trial = Trial::start().await;
    let service = trial.service_with(&[("MQTT_KEEP_ALIVE", "5s")]).await;
    let fleet = trial.fleet(seconds + 8, &[]);
    fleet.until_acked(6_000).await;
    let broker = trial.servers.broker.process().expect("it runs");
    broker.signal(Signal::SIGSTOP).expect("it is our child");
    pause(Duration::from_secs(seconds)).await;
    assert!(service.sum("iotflow_mqtt_disconnects_total").await > 0.0, "nobody noticed");
    broker.signal(Signal::SIGCONT).expect("it is our child");
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict(&format!("Mosquitto frozen for {seconds} s"), &report);
    service.until_ready().await;
}

#[tokio::test]
async fn a_whole_batch_delivered_again_is_recognised() {
    let messages = size(5_000, 50_000_u64);
    let trial = Trial::start().await;
    let proxy = Proxy::before(trial.servers.mqtt_port).await;
    let service = trial.service_with(&[("MQTT_PORT", &proxy.port.to_string())]).await;
    proxy.stall(Direction::ToServer, true);
    let fleet = trial.fleet(60, &["--rate", "5000", "--messages", &messages.to_string()]);
    let sql = trial.servers.sql().await;
    let expected = i64::try_from(messages).expect("small");
    super::support::judge::until_number(&sql, "SELECT count(*) FROM telemetry", expected).await;
    // All is committed, no ack got through: the broker must deliver everything again.
    proxy.cut();
    proxy.stall(Direction::ToServer, false);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let all = messages as f64;
    eventually("all duplicates are counted", async || {
        (service.sum("iotflow_qos_duplicates_total").await > all - 0.5).then_some(())
    })
    .await;
    assert!(service.sum("iotflow_qos_redelivered_total").await > all - 0.5);
    let report = fleet.report().await;
    trial.watch.verdict(&format!("{messages} messages delivered twice"), &report);
}

#[tokio::test]
async fn qos_2_publishers_lose_and_double_nothing() {
    let trial = Trial::start().await;
    let proxy = Proxy::before(trial.servers.mqtt_port).await;
    let port = proxy.port.to_string();
    let mut service = trial.service_with(&[("MQTT_PORT", &port)]).await;
    let fleet = trial.fleet(size(10, 40), &["--qos", "2", "--rate", "1500"]);
    for round in 1..=size(2, 8) {
        fleet.until_acked(round * 4_000).await;
        proxy.cut();
        fleet.until_acked(round * 4_000 + 1_500).await;
        service.kill();
        trial.watch.mended();
        service = trial.service_soon(&[("MQTT_PORT", &port)]).await;
    }
    let report = fleet.report().await;
    trial.watch.verdict("QoS 2 publishers: connections cut, service killed", &report);
}

/// The subscriber's limits end a message, not a connection.
#[tokio::test]
async fn a_message_larger_than_the_limits_stops_nobody() {
    let trial = Trial::on(Servers::with_conf(|conf| conf.push_str("\nmessage_size_limit 0\n")).await);
    let service = trial
        .service_with(&[("INGEST_MAX_PAYLOAD_BYTES", "10000"), ("MQTT_MAX_PACKET_BYTES", "100000")])
        .await;
    let sql = trial.servers.sql().await;
    let mut publisher = super::support::publisher::Publisher::new(trial.servers.mqtt_port);
    let payload = |bytes: usize| format!("{{\"v\":1,\"text\":\"{}\"}}", "x".repeat(bytes));
    publisher.publish("iotflow/devices/small/telemetry", payload(100)).await;
    // Beyond the payload limit: a dead letter. Beyond the packet limit: the broker drops it for us, as it was told.
    publisher.publish("iotflow/devices/large/telemetry", payload(20_000)).await;
    publisher.publish("iotflow/devices/huge/telemetry", payload(200_000)).await;
    let fleet = trial.fleet(3, &[]);
    let report = fleet.report().await;
    let large = "SELECT count(*) FROM dead_letters WHERE reason = 'payload_too_large' AND octet_length(payload) > 20000";
    super::support::judge::until_number(&sql, large, 1).await;
    assert_eq!(super::support::judge::number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
    assert!(
        service.sum("iotflow_mqtt_disconnects_total").await < 0.5,
        "a large message broke a connection"
    );
    trial.watch.verdict("messages beyond both limits", &report);
}
