//! A device without credentials asks for some, an operator approves, and it logs in with what it was given.

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::judge::until_number;
use crate::trial::{Login, Trial};

#[tokio::test]
async fn a_newcomer_with_the_clients_of_mosquitto_gets_credentials_and_is_heard() {
    let trial = Trial::with(&[("DISCOVERY_POLICY", "approval")]).await;
    let newcomer = Login::newcomer();
    let says = r#"{"type":"pump","firmware":"2.1"}"#;
    trial
        .mosquitto_pub(&newcomer, "iotflow/discovery/register/pump_001", says)
        .await
        .ok();
    let waiting = eventually("an operator sees it", async || {
        let listed = trial.operator.get("/api/v1/discovery?state=pending").await.ok();
        listed["registrations"].get(0).cloned()
    })
    .await;
    assert_eq!(
        (&waiting["device_id"], &waiting["payload"]["firmware"]),
        (&json!("pump_001"), &json!("2.1")),
        "{waiting}"
    );

    let arguments = ["-q", "1", "-t", "iotflow/discovery/response/pump_001", "-C", "1"];
    let mut listener = trial.mosquitto_sub(&newcomer, &arguments).await;
    trial.operator.post("/api/v1/discovery/pump_001/approve", json!({})).await.ok();
    let told = listener.until(|line| line.starts_with('{')).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    let told = &told["payload"];
    assert_eq!((&told["status"], &told["device_id"]), (&json!("approved"), &json!("pump_001")));
    listener.end().await.ok();

    let login = Login::given(&told["credentials"]);
    assert_eq!(login.username, "pump_001");
    let topic = "iotflow/devices/pump_001/telemetry/sensors";
    trial.mosquitto_pub(&login, topic, r#"{"pressure":3.5}"#).await.ok();
    until_number(
        &trial.site.sql,
        "SELECT count(*) FROM readings WHERE device = 'pump_001' AND metric = 'pressure' AND value = 3.5",
        1,
    )
    .await;
    let device = trial.operator.get("/api/v1/devices/pump_001").await.ok();
    assert_eq!(device["device"]["enabled"], true, "{device}");
}

#[tokio::test]
async fn who_has_no_good_credential_is_told_so() {
    let trial = Trial::start().await;
    let mut stranger = Login::newcomer();
    stranger.password.push('x');
    let refused = trial.mosquitto_pub(&stranger, "iotflow/discovery/register/pump_001", "{}").await;
    assert!(!refused.success);
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("uthori"), "{refused:?}");
}
