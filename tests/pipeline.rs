//! From publish to row, on real servers: every channel, every outcome, and the account of it all.

mod support;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::ConnAckProperties;

use support::eventually;
use support::fleet::Fleet;
use support::judge::{number, texts, until_number};
use support::publisher::Publisher;
use support::servers::Servers;
use support::service::{Service, sum};

#[tokio::test]
async fn what_devices_publish_stands_in_the_tables() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    let mut device = Publisher::new(servers.mqtt_port);
    let sensors = "iotflow/devices/sensor_001/telemetry/sensors";

    // The mission's own example.
    let payload = r#"{"temperature":23.5,"humidity":65.2,"pressure":1013.25,"timestamp":"2025-07-01T10:30:00Z","device_id":"sensor_001"}"#;
    device.publish(sensors, payload).await;
    until_number(&sql, "SELECT count(*) FROM readings WHERE device = 'sensor_001'", 3).await;
    let rows = texts(
        &sql,
        "SELECT concat_ws(' ', time, device, metric, value) FROM readings ORDER BY metric",
    )
    .await;
    assert_eq!(
        rows,
        [
            "2025-07-01 10:30:00+00 sensor_001 humidity 65.2",
            "2025-07-01 10:30:00+00 sensor_001 pressure 1013.25",
            "2025-07-01 10:30:00+00 sensor_001 temperature 23.5"
        ]
    );

    // The same again is recognised; the same moment with other metrics is another message.
    device.publish(sensors, payload).await;
    device.publish(sensors, r#"{"co2":411,"timestamp":"2025-07-01T10:30:00Z"}"#).await;
    // Each QoS, each subtopic, many readings in one publish, texts beside numbers.
    device
        .send(
            "iotflow/devices/sensor_001/telemetry",
            r#"{"qos":0,"ts":1790000000}"#,
            QoS::AtMostOnce,
            false,
        )
        .await;
    device
        .send(
            "iotflow/devices/sensor_001/telemetry",
            r#"{"qos":2,"ts":1790000001}"#,
            QoS::ExactlyOnce,
            false,
        )
        .await;
    device
        .publish(
            "iotflow/devices/sensor_001/telemetry/metrics",
            r#"{"cpu":0.5,"fw":"2.1","ts":1790000002}"#,
        )
        .await;
    device
        .publish(
            sensors,
            r#"[{"t":1,"ts":1790000003},{"t":2,"ts":1790000004},{"t":3,"ts":"no time"}]"#,
        )
        .await;
    device
        .publish(
            "iotflow/devices/sensor_001/telemetry/events",
            r#"{"type":"door","open":true,"ts":1790000005}"#,
        )
        .await;
    device
        .publish(
            "iotflow/devices/sensor_001/telemetry/events",
            r#"{"type":"door","open":true,"ts":1790000005}"#,
        )
        .await;

    until_number(&sql, "SELECT count(*) FROM telemetry", 7).await;
    until_number(&sql, "SELECT count(*) FROM events WHERE payload @> '{\"type\":\"door\"}'", 1).await;
    until_number(&sql, "SELECT count(*) FROM dead_letters", 1).await;
    assert_eq!(
        texts(&sql, "SELECT extra::text FROM telemetry WHERE extra IS NOT NULL").await,
        [r#"{"fw": "2.1"}"#]
    );
    let letter = texts(
        &sql,
        "SELECT concat_ws(' ', topic, qos, reason, convert_from(payload, 'UTF8'), detail) FROM dead_letters",
    )
    .await
    .remove(0);
    assert!(letter.starts_with(&format!("{sensors} 1 bad_elements [{{")), "{letter}");
    assert!(letter.contains("1 of 3 elements refused; [2] bad_time"), "{letter}");

    // Nine messages: six new, two known, one in part refused; every one in exactly one outcome.
    eventually("all is settled", async || {
        (service.sum("iotflow_qos_in_flight").await < 0.5).then_some(())
    })
    .await;
    let series = service.series().await;
    let counted = ["received", "committed", "duplicates", "dead_lettered", "shed", "abandoned"]
        .map(|name| sum(&series, &format!("iotflow_qos_{name}_total")));
    assert_eq!(counted, [9.0, 6.0, 2.0, 1.0, 0.0, 0.0]);
    until_number(
        &sql,
        "SELECT count(*) FROM latest WHERE device_id = (SELECT device_id FROM devices WHERE device = 'sensor_001')",
        5,
    )
    .await;
}

#[tokio::test]
async fn what_is_refused_is_kept_whole_with_its_reason() {
    let servers = Servers::start().await;
    let environment = [
        servers.environment(),
        vec![("INGEST_MAX_DEVICE_METRICS".to_owned(), "5".to_owned())],
    ]
    .concat();
    let service = Service::ready(servers.path(), &environment).await;
    let sql = servers.sql().await;
    let mut device = Publisher::new(servers.mqtt_port);
    let cases: [(&str, &[u8], &str); 10] = [
        ("iotflow/devices/d/telemetry", b"", "empty_payload"),
        ("iotflow/devices/d/telemetry", b"not json", "not_json"),
        ("iotflow/devices/d/telemetry", b"{\"v\":\"\xff\"}", "bad_utf8"),
        ("iotflow/devices/d/telemetry", b"42", "not_object"),
        (
            "iotflow/devices/d/telemetry",
            b"{\"v\":1,\"device_id\":\"other\"}",
            "device_id_mismatch",
        ),
        ("iotflow/devices/d/telemetry", b"{\"v\":1,\"ts\":1}", "time_out_of_window"),
        ("iotflow/devices/d/telemetry/else", b"{\"v\":1}", "unknown_topic"),
        ("iotflow/devices/not a device/telemetry", b"{\"v\":1}", "bad_device_id"),
        (
            "iotflow/devices/many/telemetry",
            b"{\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1}",
            "too_many_metrics",
        ),
        ("iotflow/devices/d/telemetry", b"{\"v\":\"\\u0000\"}", "nul_character"),
    ];
    for (topic, payload, reason) in cases {
        device.publish(topic, payload).await;
        let query = "SELECT count(*) FROM dead_letters WHERE topic = $1 AND payload = $2 AND reason = $3";
        eventually(&format!("{topic} is kept as {reason}"), async || {
            let kept: i64 = sql
                .query_one(query, &[&topic, &payload, &reason])
                .await
                .expect("the table is there")
                .get(0);
            (kept == 1).then_some(())
        })
        .await;
    }
    // A device may have so many metrics in all, not only in one message; what it has goes on.
    for payload in [
        r#"{"a":1,"b":1,"ts":1790000000}"#,
        r#"{"c":1,"d":1,"e":1,"ts":1790000001}"#,
        r#"{"f":1,"ts":1790000002}"#,
        r#"{"a":2,"e":2,"ts":1790000003}"#,
    ] {
        device.publish("iotflow/devices/grows/telemetry", payload).await;
    }
    until_number(&sql, "SELECT count(*) FROM telemetry", 3).await;
    until_number(
        &sql,
        "SELECT count(*) FROM dead_letters WHERE reason = 'too_many_metrics' AND topic LIKE '%grows%'",
        1,
    )
    .await;
    let series = service.series().await;
    for (_, _, reason) in cases {
        assert!(
            series[&format!("iotflow_ingest_rejected_total{{reason=\"{reason}\"}}")] > 0.5,
            "{reason} is not counted"
        );
    }
    assert_eq!(
        number(&sql, "SELECT count(*) FROM devices").await,
        1,
        "a device is registered by its first good message"
    );
}

#[tokio::test]
async fn status_topics_tell_where_devices_stand() {
    let servers = Servers::start().await;
    let mut device = Publisher::new(servers.mqtt_port);
    // Retained before the service was ever there.
    device
        .send(
            "iotflow/devices/early/status/online",
            r#"{"timestamp":"2026-07-01T10:30:00Z"}"#,
            QoS::AtLeastOnce,
            true,
        )
        .await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    until_number(&sql, "SELECT count(*) FROM device_status s JOIN devices USING (device_id) WHERE device = 'early' AND status = 'online' AND since = '2026-07-01 10:30:00Z'", 1).await;

    device
        .publish("iotflow/devices/d/status/online", r#"{"timestamp":"2026-07-01T10:00:00Z"}"#)
        .await;
    device
        .send(
            "iotflow/devices/d/status/heartbeat",
            r#"{"status":"online","battery_level":95,"timestamp":"2026-07-01T10:01:00Z"}"#,
            QoS::AtMostOnce,
            false,
        )
        .await;
    until_number(&sql, "SELECT count(*) FROM device_status s JOIN devices USING (device_id) WHERE device = 'd' AND since = '2026-07-01 10:00:00Z' AND seen_at = '2026-07-01 10:01:00Z' AND payload @> '{\"battery_level\":95}'", 1).await;
    device
        .publish("iotflow/devices/d/status/offline", r#"{"timestamp":"2026-07-01T11:00:00Z"}"#)
        .await;
    // Older news comes late and changes nothing.
    device
        .publish("iotflow/devices/d/status/online", r#"{"timestamp":"2026-07-01T09:00:00Z"}"#)
        .await;
    device.publish("iotflow/devices/d/status/offline", "no json").await;
    until_number(
        &sql,
        "SELECT count(*) FROM dead_letters WHERE topic = 'iotflow/devices/d/status/offline' AND reason = 'not_json'",
        1,
    )
    .await;
    until_number(&sql, "SELECT count(*) FROM device_status s JOIN devices USING (device_id) WHERE device = 'd' AND status = 'offline' AND since = '2026-07-01 11:00:00Z'", 1).await;
    drop(service);
}

#[tokio::test]
async fn without_shared_subscriptions_a_plain_one_serves() {
    let mut servers = Servers::start().await;
    let environment = [servers.environment(), vec![("MQTT_SHARED".to_owned(), "false".to_owned())]].concat();
    let mut service = Service::ready(servers.path(), &environment).await;
    let (status, _) = service.terminate().await;
    assert!(status.success());
    // Published while nobody is there, and through a restart of the broker.
    let fleet = Fleet::start(
        servers.mqtt_port,
        servers.postgres.url().reveal(),
        &["--messages", "2000", "--rate", "2000", "--duration", "20", "--devices", "50"],
    );
    fleet.until_acked(2_000).await;
    servers.broker.halt(nix::sys::signal::Signal::SIGTERM).expect("it stops");
    servers.broker.resume().await.expect("it starts again");
    let service = Service::ready(servers.path(), &environment).await;
    fleet.report().await.assert_exactly_once("MQTT_SHARED=false, broker restarted");
    drop(service);
}

#[tokio::test]
async fn a_session_that_is_wanted_no_more_is_drained_and_ended() {
    let servers = Servers::start().await;
    let with_slots = |slots: &str| [servers.environment(), vec![("INGEST_SLOTS".to_owned(), slots.to_owned())]].concat();
    let mut service = Service::ready(servers.path(), &with_slots("2")).await;
    let sql = servers.sql().await;
    until_number(&sql, "SELECT count(*) FROM ingest_sessions", 3).await;
    eventually("both slots are subscribed", async || {
        (service.has("slot-0").await && service.has("slot-1").await).then_some(())
    })
    .await;
    let (status, _) = service.terminate().await;
    assert!(status.success());
    // The broker gives each slot its share while nobody is there.
    let fleet = Fleet::start(
        servers.mqtt_port,
        servers.postgres.url().reveal(),
        &["--messages", "1000", "--rate", "2000", "--duration", "20", "--devices", "50"],
    );
    fleet.until_acked(1_000).await;
    let service = Service::ready(servers.path(), &with_slots("1")).await;
    fleet.report().await.assert_exactly_once("two slots, then one");
    until_number(&sql, "SELECT count(*) FROM ingest_sessions", 2).await;
    assert!(
        service.log().contains("iotflow-ingest-1"),
        "the second slot's session was never resumed"
    );
}

#[tokio::test]
async fn a_share_of_another_name_takes_the_place_of_the_old_one() {
    const MESSAGES: u32 = 20;
    let servers = Servers::start().await;
    let with_share = |name: &str| [servers.environment(), vec![("INGEST_SHARE_NAME".to_owned(), name.to_owned())]].concat();
    let sql = servers.sql().await;
    for name in ["first", "second", "third"] {
        let mut service = Service::ready(servers.path(), &with_share(name)).await;
        eventually("the slot is subscribed", async || service.has("slot-0").await.then_some(())).await;
        let mut device = Publisher::new(servers.mqtt_port);
        for number in 1..=MESSAGES {
            let topic = format!("iotflow/devices/{name}/telemetry/sensors");
            device
                .publish(&topic, format!("{{\"number\":{number},\"ts\":{}}}", 1_780_000_000 + number))
                .await;
        }
        until_number(
            &sql,
            &format!("SELECT count(*) FROM readings WHERE device = '{name}'"),
            i64::from(MESSAGES),
        )
        .await;
        // By each name that the session had, the broker would have delivered every message once more.
        let received = service.sum("iotflow_qos_received_total").await;
        assert!(
            received < f64::from(MESSAGES) * 1.5,
            "{received}: an earlier share is still subscribed to"
        );
        let (status, _) = service.terminate().await;
        assert!(status.success());
    }
}

#[tokio::test]
async fn a_broker_without_shared_subscriptions_is_told_apart_at_start() {
    let folder = support::servers::folder();
    let (postgres, _) = support::servers::start_postgres(folder.path()).await;
    let broker = support::fake_broker::FakeBroker::listen().await;
    let service = Service::start(folder.path(), &support::servers::environment(broker.port, postgres.url().reveal())).await;
    let properties = ConnAckProperties {
        session_expiry_interval: Some(60),
        shared_subscription_available: Some(0),
        ..support::fake_broker::connack_properties()
    };
    let mut peers = Vec::new();
    while !peers
        .iter()
        .any(|peer: &support::fake_broker::Peer| peer.client_id == "iotflow-ingest-0")
    {
        peers.push(broker.accept(false, Some(properties.clone())).await);
    }
    eventually("/readyz says so", async || {
        let (status, body) = service.get("/readyz?verbose").await;
        (status == 503 && body.contains("MQTT_SHARED=false")).then_some(())
    })
    .await;
    assert!(service.log().contains("MQTT_SHARED=false"));
    assert!(service.log().contains("the broker keeps a session for 60 s only"));
}
