//! Where devices stand, by a real broker: heartbeats that stop, and the sweep that follows.

use std::time::Duration;

use iotflow::devices::device::Status;
use iotflow::devices::presence;
use iotflow::operations::devices as operations;
use jiff::Timestamp;
use rumqttc::v5::mqttbytes::QoS;

use crate::registry::{id, plain, register, tree};
use crate::support::judge::{number, texts, until_number};
use crate::support::person::{Person, login};
use crate::support::publisher::Publisher;
use crate::support::servers::{FLEET, PASSWORD, SERVICE, Servers};
use crate::support::service::Service;
use crate::trial::{Trial, ada};

#[tokio::test]
async fn only_who_sent_heartbeats_and_stopped_is_swept() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for device in ["silent", "recent", "no-heartbeats", "gone", "speaks"] {
        register(&mut sql, &plain(device)).await;
    }
    sql.batch_execute(
        "INSERT INTO device_status (device_id, status, since, seen_at, received_at, heartbeat_at)
         SELECT d.device_id, news.status, now() - interval '1 hour', now(), now() - received, now() - heartbeat
         FROM (VALUES ('silent', 'online', interval '6 min', interval '6 min'), ('recent', 'online', '1 min', '1 min'),
                      ('no-heartbeats', 'online', '1 hour', NULL), ('gone', 'offline', '1 hour', '1 hour'),
                      ('speaks', 'online', '1 min', '1 hour')) AS news (device, status, received, heartbeat)
         JOIN devices d USING (device)",
    )
    .await
    .expect("a sound statement");
    let now = Timestamp::now();
    let before = now.checked_sub(Duration::from_secs(300)).expect("a time");
    assert_eq!(presence::sweep(&sql, before, now).await.expect("it sweeps"), 1);
    assert_eq!(presence::sweep(&sql, before, now).await.expect("it sweeps"), 0);
    let swept = presence::get(&sql, &id("silent")).await.expect("it is there");
    assert_eq!((swept.status, swept.swept), (Status::Offline, true));
    assert!(swept.since > swept.heartbeat_at);
    assert_eq!(number(&sql, "SELECT count(*) FROM device_status WHERE swept").await, 1);
}

#[tokio::test]
async fn a_device_whose_heartbeats_stop_is_offline_until_it_is_heard_again() {
    let servers = Servers::start().await;
    let mut environment = servers.environment();
    environment.push(("PRESENCE_TIMEOUT".to_owned(), "1s".to_owned()));
    let mut service = Service::ready(servers.path(), &environment).await;
    let mut sql = servers.sql().await;
    let mut devices = Person::connect(&login(servers.mqtt_port, Some((FLEET, PASSWORD))), "devices")
        .await
        .expect("it may");
    let say = async |devices: &mut Person, device: &str, what: &str, payload: &str| {
        let topic = format!("iotflow/devices/{device}/status/{what}");
        devices.publish(&topic, payload).await.expect("it is taken");
    };
    // A heartbeat counts though something else came with it, and though the device's clock says that it is old.
    say(&mut devices, "a", "online", "{\"timestamp\":\"2026-07-01T10:00:00Z\"}").await;
    say(&mut devices, "a", "heartbeat", "{\"timestamp\":\"2026-07-01T09:00:00Z\"}").await;
    say(&mut devices, "b", "online", "").await;
    until_number(
        &sql,
        "SELECT count(*) FROM device_status JOIN devices USING (device_id) WHERE device = 'a' AND status = 'offline' AND swept",
        1,
    )
    .await;
    let b = presence::get(&sql, &id("b")).await.expect("it is there");
    assert_eq!(
        (b.status, b.heartbeat_at),
        (Status::Online, None),
        "one that sends no heartbeats is not swept"
    );
    assert!(service.sum("iotflow_status_devices_swept_total").await >= 1.0);

    // It comes back, by a clock that has gone back.
    say(&mut devices, "a", "heartbeat", "{\"timestamp\":\"2026-07-01T08:00:00Z\"}").await;
    until_number(
        &sql,
        "SELECT count(*) FROM device_status JOIN devices USING (device_id) WHERE device = 'a' AND seen_at = '2026-07-01 08:00:00Z'",
        1,
    )
    .await;

    // What the broker had kept is told with each new subscription, and is no news of who was put offline since.
    let retained = r#"{"timestamp":"2026-07-01T08:00:00Z","kept":true}"#;
    Publisher::new(servers.mqtt_port)
        .send("iotflow/devices/a/status/online", retained, QoS::AtLeastOnce, true)
        .await;
    until_number(
        &sql,
        r#"SELECT count(*) FROM device_status WHERE swept AND payload @> '{"kept":true}'"#,
        1,
    )
    .await;
    let swept = presence::get(&sql, &id("a")).await.expect("it is there");
    let (status, _) = service.terminate().await;
    assert!(status.success());
    let session = texts(&sql, "SELECT client_id FROM ingest_sessions WHERE client_id LIKE '%status%'").await;
    let mut taken_over = login(servers.mqtt_port, Some((SERVICE, PASSWORD)));
    taken_over.clean_start = true;
    Person::connect(&taken_over, &session[0]).await.expect("it may").leave().await;
    let service = Service::ready(servers.path(), &environment).await;
    say(&mut devices, "after", "online", "").await;
    until_number(
        &sql,
        "SELECT count(*) FROM device_status JOIN devices USING (device_id) WHERE device = 'after'",
        1,
    )
    .await;
    assert_eq!(presence::get(&sql, &id("a")).await.expect("it is there"), swept);

    // What the broker is told when a device is deleted is no news of it.
    operations::delete(&mut sql, &ada(), &tree(), &id("b"), None)
        .await
        .expect("it is deleted");
    say(&mut devices, "b", "offline", "").await;
    say(&mut devices, "c", "online", "").await;
    until_number(
        &sql,
        "SELECT count(*) FROM device_status JOIN devices USING (device_id) WHERE device = 'c'",
        1,
    )
    .await;
    assert_eq!(
        number(
            &sql,
            "SELECT count(*) FROM device_status JOIN devices USING (device_id) WHERE device = 'b'"
        )
        .await,
        0
    );
    drop(service);
}
