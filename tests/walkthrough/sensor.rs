//! A sensor is registered, connects, reports, is seen, and is missed when it goes.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::paho::{Paho, own_commands};
use crate::support::eventually;
use crate::support::judge::{number, texts};
use crate::trial::{Login, Trial};

/// What the documents show as a sensor's message.
fn reading() -> Value {
    json!({
        "temperature": 23.5, "humidity": 65.2, "pressure": 1013.25,
        "timestamp": "2025-07-01T10:30:00Z", "device_id": "sensor_001",
    })
}

#[tokio::test]
async fn a_registered_sensor_is_seen_by_operators_and_in_the_database_and_missed_when_it_goes() {
    let trial = Trial::start().await;
    let login = trial.register("sensor_001", &[]).await;
    let again = trial.operator.post("/api/v1/devices", json!({"device_id": "sensor_001"})).await;
    again.problem(409);
    let shown = trial.operator.get("/api/v1/devices/sensor_001").await.ok().to_string();
    let stored = "SELECT d::text FROM devices d UNION ALL SELECT u::text FROM broker_users u UNION ALL SELECT k::text FROM device_keys k
                  UNION ALL SELECT a::text FROM audit_log a";
    let stored = texts(&trial.site.sql, stored).await.join("\n");
    for secret in [&login.password, login.api_key.as_ref().expect("it has a key")] {
        assert!(!shown.contains(secret) && !stored.contains(secret), "credentials are told once");
    }

    let mut sensor = Paho::online(&trial, &login, &own_commands("sensor_001")).await;
    assert!(!sensor.session_present, "it is new here");
    trial.until_presence("sensor_001", "online").await;
    sensor.report("telemetry/sensors", &reading(), 1, false).await;
    let heartbeat = json!({
        "status": "online", "uptime": 86_400, "battery_level": 95, "signal_strength": -45, "timestamp": Timestamp::now().to_string(),
    });
    sensor.report("status/heartbeat", &heartbeat, 0, false).await;

    let latest = eventually("its values are told", async || {
        let latest = trial.operator.get("/api/v1/telemetry/sensor_001/latest").await.ok();
        (latest["values"]["pressure"]["value"] == 1013.25).then_some(latest)
    })
    .await;
    for (metric, value) in [("temperature", 23.5), ("humidity", 65.2), ("pressure", 1013.25)] {
        assert_eq!(
            latest["values"][metric],
            json!({"value": value, "time": "2025-07-01T10:30:00Z"}),
            "{latest}"
        );
    }
    let presence = eventually("its heartbeat is told", async || {
        let presence = trial.until_presence("sensor_001", "online").await;
        presence["heartbeat_at"].is_string().then_some(presence)
    })
    .await;
    assert_eq!(presence["payload"], heartbeat);
    let rows =
        "SELECT metric || ' ' || value || ' ' || (time AT TIME ZONE 'UTC') FROM readings WHERE device = 'sensor_001' ORDER BY metric";
    assert_eq!(
        texts(&trial.site.sql, rows).await,
        [
            "humidity 65.2 2025-07-01 10:30:00",
            "pressure 1013.25 2025-07-01 10:30:00",
            "temperature 23.5 2025-07-01 10:30:00"
        ]
    );
    assert_eq!(number(&trial.site.sql, "SELECT count(*) FROM dead_letters").await, 0);
    let retained = retained(&trial, "iotflow/devices/sensor_001/status/online").await;
    assert_eq!(retained["payload"], json!({"status": "online"}), "{retained}");

    sensor.vanish().await;
    let presence = trial.until_presence("sensor_001", "offline").await;
    assert_eq!(
        (&presence["payload"]["reason"], &presence["swept"]),
        (&json!("connection lost"), &json!(false)),
        "its will says so: {presence}"
    );
}

/// What the broker keeps on this topic.
async fn retained(trial: &Trial, topic: &str) -> Value {
    let mut watcher = trial.mosquitto_sub(&Login::admin(), &["-t", topic, "-C", "1"]).await;
    let line = watcher.until(|line| line.starts_with('{')).await;
    let message: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(message["retain"], 1, "{message}");
    message
}

#[tokio::test]
async fn a_sensor_hears_and_says_nothing_that_is_anothers() {
    let trial = Trial::start().await;
    let (mine, other) = (trial.register("sensor_001", &[]).await, trial.register("sensor_002", &[]).await);
    let filters: Vec<String> = ["devices/+/commands/+", "devices/+/telemetry/#", "fleet/#", "system/#"]
        .map(|below| format!("iotflow/{below}"))
        .to_vec();
    let mut curious = Paho::online(&trial, &mine, &filters).await;
    let mut victim = Paho::online(&trial, &other, &own_commands("sensor_002")).await;
    trial
        .send("sensor_002", &json!({"command_type": "control", "command": "restart"}))
        .await;
    assert_eq!(victim.next().await.command(), "restart");
    victim.report("telemetry/sensors", &json!({"a": 1}), 1, false).await;
    curious.publish("iotflow/devices/sensor_002/telemetry/sensors", r#"{"a":2}"#).await;
    // The last comes last, and what was refused was never stored.
    trial
        .send("sensor_001", &json!({"command_type": "control", "command": "fence"}))
        .await;
    assert_eq!(curious.next().await.command(), "fence", "it heard what is another's");
    let forged = "SELECT count(*) FROM readings WHERE value = 2";
    assert_eq!(number(&trial.site.sql, forged).await, 0);
}

#[tokio::test]
async fn what_the_broker_retained_of_two_lives_does_not_make_an_online_sensor_offline() {
    let mut trial = Trial::start().await;
    let login = trial.register("sensor_001", &[]).await;
    let sensor = Paho::online(&trial, &login, &own_commands("sensor_001")).await;
    trial.until_presence("sensor_001", "online").await;
    sensor.vanish().await;
    trial.until_presence("sensor_001", "offline").await;
    let _sensor = Paho::online(&trial, &login, &own_commands("sensor_001")).await;
    trial.until_presence("sensor_001", "online").await;
    // Both are retained now, on topics of their own, and nothing in them says which is the newer.
    trial.start_anew().await;
    let other = trial.register("sensor_002", &[]).await;
    let _other = Paho::online(&trial, &other, &own_commands("sensor_002")).await;
    trial.until_presence("sensor_002", "online").await;
    // Status messages are stored in the order in which they come, and what was retained came first.
    let presence = trial.operator.get("/api/v1/devices/sensor_001/presence").await.ok();
    assert_eq!(presence["presence"]["status"], "online", "{presence}");
}
