//! An admin watches with curl what a device publishes with `mosquitto_pub`.

use serde_json::{Value, json};

use crate::trial::Trial;

#[tokio::test]
async fn an_admin_watches_messages_go_by_with_curl() {
    let trial = Trial::start().await;
    let login = trial.register("sensor_001", &[]).await;
    let authorization = |token: &Option<String>| format!("Authorization: Bearer {}", token.as_deref().expect("it has one"));
    let (admin, operator) = (authorization(&trial.admin.token), authorization(&trial.operator.token));
    let asked = json!({"topic": "iotflow/devices/+/telemetry/#"}).to_string();
    let refused = trial.curl(&operator, "/mqtt/subscribe", &["--json", &asked]).end().await;
    assert!(!refused.success && refused.stdout.contains("admin"), "{refused:?}");
    let opened = trial.curl(&admin, "/mqtt/subscribe", &["--json", &asked]).end().await.ok();
    let opened: Value = serde_json::from_str(&opened).expect("JSON");
    let events = opened["events_url"].as_str().and_then(|url| url.strip_prefix("/api/v1"));
    let mut tail = trial.curl(&admin, events.expect("where to read"), &["--no-buffer", "--include"]);
    tail.until(|line| line.starts_with("content-type: text/event-stream")).await;

    let topic = "iotflow/devices/sensor_001/telemetry/sensors";
    for reading in [r#"{"temperature":23.5}"#, r#"{"temperature":24}"#] {
        trial.mosquitto_pub(&login, topic, reading).await.ok();
        assert_eq!(tail.until(|line| line.starts_with("event:")).await, "event: message");
        let line = tail.until(|line| line.starts_with("data:")).await;
        let event: Value = serde_json::from_str(line.trim_start_matches("data:")).expect("JSON");
        assert_eq!((&event["topic"], &event["payload"]), (&json!(topic), &json!(reading)), "{event}");
        assert_eq!(
            (&event["qos"], &event["retain"], &event["encoding"]),
            (&json!(1), &json!(false), &json!("utf-8"))
        );
    }
    let id = opened["subscription_id"].as_str().expect("an id");
    let closed = trial
        .curl(&admin, &format!("/mqtt/subscribe/{id}"), &["--request", "DELETE"])
        .end()
        .await;
    closed.ok();
    assert_eq!(tail.until(|line| line.starts_with("event:")).await, "event: end");
    assert!(tail.end().await.success, "a tail that is closed ends well");
}
