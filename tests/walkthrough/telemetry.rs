//! Telemetry whose sender wants to know what became of it: by HTTP, and by MQTT with a receipt.

use serde_json::{Value, json};

use crate::paho::Paho;
use crate::support::judge::{number, until_number};
use crate::trial::Trial;

#[tokio::test]
async fn a_device_sends_with_curl_and_its_key() {
    let trial = Trial::start().await;
    let login = trial.register("meter_001", &[]).await;
    let header = format!("X-API-Key: {}", login.api_key.as_deref().expect("it has a key"));
    let send = async |header: &str, device: &str, payload: &str| {
        let json = ["--json", payload];
        trial.curl(header, &format!("/telemetry/{device}?kind=sensors"), &json).end().await
    };
    let reading = r#"{"power":1200.5,"timestamp":"2025-07-01T10:30:00Z"}"#;
    let outcome = async |payload| -> Value {
        let said = send(&header, "meter_001", payload).await.ok();
        serde_json::from_str::<Value>(&said).unwrap_or_else(|error| panic!("{error}: {said}"))["outcome"].clone()
    };
    assert_eq!(outcome(reading).await, "committed");
    let stored = "SELECT count(*) FROM readings WHERE device = 'meter_001' AND metric = 'power' AND value = 1200.5";
    assert_eq!(number(&trial.site.sql, stored).await, 1, "at once: that is what the answer says");
    assert_eq!(outcome(reading).await, "duplicate");
    for (header, device, payload, why) in [
        (header.as_str(), "meter_001", r#"{"power":}"#, "not_json"),
        (header.as_str(), "meter_002", reading, "meter_001"),
        ("X-API-Key: iotk_nonsense", "meter_001", reading, "key"),
    ] {
        let refused = send(header, device, payload).await;
        assert!(!refused.success && refused.stdout.contains(why), "{why}: {refused:?}");
    }
    assert_eq!(number(&trial.site.sql, "SELECT count(*) FROM readings").await, 1);
}

#[tokio::test]
async fn a_device_that_asks_gets_a_receipt_after_the_commit() {
    let trial = Trial::with(&[("INGEST_RECEIPTS", "true")]).await;
    let login = trial.register("meter_001", &[]).await;
    let mut meter = Paho::online(&trial, &login, &["iotflow/devices/meter_001/receipts/#".to_owned()]).await;
    let reading = r#"{"power":1200.5,"timestamp":"2025-07-01T10:30:00Z"}"#;
    for (payload, correlation, status) in [
        (reading, "one", "committed"),
        (reading, "two", "duplicate"),
        (r#"{"power":}"#, "three", "dead_lettered"),
    ] {
        meter.report_for_receipt(payload, correlation).await;
        let receipt = meter.next().await;
        assert_eq!(receipt.topic, "iotflow/devices/meter_001/receipts");
        assert_eq!(receipt.correlation.as_deref(), Some(correlation));
        assert_eq!(receipt.json()["status"], json!(status));
    }
    until_number(&trial.site.sql, "SELECT count(*) FROM readings WHERE device = 'meter_001'", 1).await;
    until_number(&trial.site.sql, "SELECT count(*) FROM dead_letters WHERE reason = 'not_json'", 1).await;
}
