//! What the service says of itself, at a real broker: measured, on a schedule, and not for ever.

mod support;

use iotflow::protocol::rights::Role;
use serde_json::Value;
use support::servers::{SERVICE, environment};
use support::service::Service;
use support::site::Site;

#[tokio::test]
async fn health_metrics_alerts_and_monitoring_are_published_from_real_figures() {
    let site = Site::start().await;
    site.add(&[(SERVICE, Role::Service), ("ann", Role::Admin), ("pump", Role::Device)])
        .await;
    site.in_force().await;
    let mut environment = environment(site.ports.staff, site.db.url.reveal());
    environment.push(("SYSTEM_TOPICS_EVERY".to_owned(), "1s".to_owned()));
    let mut service = Service::ready(site.folder.path(), &environment).await;
    let mut device = site.device("pump").await;
    for number in 0..10 {
        let payload = format!("{{\"pressure\":{number}}}");
        device
            .publish("iotflow/devices/pump/telemetry", &payload)
            .await
            .expect("it is connected");
    }
    let mut ann = site.staff("ann", "ann").await;
    ann.subscribe(&["iotflow/system/#", "iotflow/monitoring/#"]).await;
    let json = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");

    // Retained: it is there before anything happens.
    loop {
        let health = json(ann.take("iotflow/system/health").await);
        assert!(health["timestamp"].is_string() && health["version"].is_string(), "{health}");
        if health["parts"]["broker/courier"] == true && health["status"] != "unhealthy" {
            break;
        }
    }
    let alerts = json(ann.take("iotflow/system/alerts").await);
    assert!(alerts["alerts"].is_array(), "{alerts}");
    loop {
        let metrics = json(ann.take("iotflow/system/metrics").await);
        if metrics["total"]["committed"].as_u64() >= Some(10) && metrics["per_second"]["received"].is_f64() {
            break;
        }
    }
    let broker = json(ann.take("iotflow/monitoring/broker").await);
    assert!(
        broker["version"].as_str().is_some_and(|text| text.contains("mosquitto")),
        "{broker}"
    );
    // The broker counts once a second, and is asked every ten: the first answer may be of before anybody came.
    while json(ann.take("iotflow/monitoring/clients").await)["connected"].as_u64() < Some(3) {}
    let traffic = json(ann.take("iotflow/monitoring/traffic").await);
    assert!(traffic["messages_received"].is_u64(), "{traffic}");

    // Without a database it says so, as soon as it is seen.
    let mut site = site;
    site.postgres.halt(nix::sys::signal::Signal::SIGINT).expect("it runs");
    device
        .publish("iotflow/devices/pump/telemetry", "{\"pressure\":11}")
        .await
        .expect("it is connected");
    loop {
        let alerts = json(ann.take("iotflow/system/alerts").await);
        let of_database = |alert: &Value| alert["part"] == "database" && alert["severity"] == "critical";
        if alerts["alerts"].as_array().is_some_and(|alerts| alerts.iter().any(of_database)) {
            break;
        }
    }
    service.kill();
}
