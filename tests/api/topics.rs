//! The mission's read endpoints about the broker and its topics.

use iotflow::protocol::channels::Channel;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::publisher::Publisher;
use super::trial::Trial;

#[tokio::test]
async fn the_tree_is_explained_topic_by_topic() {
    let trial = Trial::start().await;
    let structure = trial.viewer.get("/api/v1/mqtt/topics/structure").await.ok();
    assert_eq!(structure["base_topic"], "iotflow");
    let structures = structure["topic_structures"].as_object().expect("by name");
    assert_eq!(structures.len(), Channel::ALL.len());
    assert_eq!(structure["total_structures"], structures.len());
    for (name, entry) in structures {
        for member in ["base_path", "topic_type", "description", "full_topic_example"] {
            assert!(entry[member].as_str().is_some_and(|text| !text.is_empty()), "{name}: {entry}");
        }
        assert!(entry["qos"].is_u64() && entry["retain"].is_boolean(), "{name}: {entry}");
        // The example is a topic that the service takes.
        let validated = trial
            .viewer
            .post("/api/v1/mqtt/topics/validate", json!({"topic": entry["full_topic_example"]}))
            .await
            .ok();
        assert_eq!(validated["is_valid"], true, "{validated}");
        assert_eq!(validated["parsed"]["channel"], name.as_str());
        assert!(structure["wildcard_patterns"][name].is_string());
    }

    let refused = trial
        .viewer
        .post("/api/v1/mqtt/topics/validate", json!({"topic": "iotflow/devices/a b/telemetry"}))
        .await
        .ok();
    assert_eq!((&refused["is_valid"], &refused["parsed"]), (&json!(false), &Value::Null));
    assert!(
        refused["validation_errors"][0]
            .as_str()
            .is_some_and(|text| text.contains("device id"))
    );
}

#[tokio::test]
async fn a_device_has_its_topics_once_it_is_known() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(
        "INSERT INTO devices (device) VALUES ('sensor_001');
         INSERT INTO device_groups (group_id) VALUES ('north');
         INSERT INTO device_group_members SELECT 'north', device_id FROM devices",
    )
    .await
    .expect("it is ours");
    let topics = trial.viewer.get("/api/v1/mqtt/topics/device/sensor_001").await.ok();
    assert_eq!(topics["device_id"], "sensor_001");
    let kinds = topics["topics"].as_object().expect("by type");
    assert_eq!(
        kinds.keys().map(String::as_str).collect::<Vec<_>>(),
        ["commands", "config", "discovery", "fleet", "receipts", "status", "telemetry"]
    );
    let count: usize = kinds.values().filter_map(Value::as_array).map(Vec::len).sum();
    assert_eq!(topics["total_topics"], count);
    assert_eq!(topics["topics"]["fleet"][0]["topic"], "iotflow/fleet/commands/north");
    assert_eq!(topics["topics"]["commands"][0]["qos"], 2);
}

#[tokio::test]
async fn the_brokers_state_and_the_delivery_quality_are_real_figures() {
    let trial = Trial::start().await;
    let mut publisher = Publisher::new(trial.servers.mqtt_port);
    for number in 0..5 {
        publisher
            .publish("iotflow/devices/sensor_001/telemetry", format!("{{\"temperature\":{number}}}"))
            .await;
    }
    eventually("five messages are committed and acked", async || {
        let qos = trial.viewer.get("/api/v1/mqtt/qos").await.ok();
        let one = &qos["qos"]["1"];
        (one["committed"] == 5 && one["acked"].as_u64() >= Some(5)).then_some(())
    })
    .await;
    let qos = trial.viewer.get("/api/v1/mqtt/qos").await.ok();
    let one = &qos["qos"]["1"];
    assert_eq!((&one["received"], &one["in_flight"]), (&json!(5), &json!(0)), "{qos}");
    eventually("latencies are folded", async || {
        let qos = trial.viewer.get("/api/v1/mqtt/qos").await.ok();
        qos["qos"]["1"]["commit_latency"]["p99_seconds"].is_f64().then_some(())
    })
    .await;

    let status = eventually("the broker has spoken", async || {
        let status = trial.viewer.get("/api/v1/mqtt/status").await.ok();
        // The report beside this one, the slot and the status session.
        (status["broker_info"]["clients_connected"].as_u64() >= Some(3)).then_some(status)
    })
    .await;
    assert_eq!(status["mqtt_status"]["connected"], true, "{status}");
    assert!(
        status["broker_info"]["version"]
            .as_str()
            .is_some_and(|text| text.contains("mosquitto"))
    );
    let metrics = trial.admin.get("/api/v1/mqtt/monitoring/metrics").await.ok();
    assert_eq!(metrics["metrics"]["qos"]["1"]["committed"], 5);
    assert!(metrics["metrics"]["broker"]["uptime_seconds"].is_u64());
}
