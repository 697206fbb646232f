//! Receipts: a device that asks is told what became of its message, after the commit and never before.

mod support;

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde_json::{Value, json};

use support::eventually;
use support::judge::{number, until_number};
use support::servers::{PASSWORD, SERVICE, Servers};
use support::service::{Service, sum};

const TOPIC: &str = "iotflow/devices/d1/telemetry/sensors";
const RECEIPTS: &str = "iotflow/devices/d1/receipts";

/// A device, on a credential that may read what another gets too: so that what is published where it should not be is seen.
struct Device {
    client: AsyncClient,
    events: EventLoop,
}

impl Device {
    /// Connected, and subscribed to everything below its own topics and another's.
    async fn start(servers: &Servers) -> Self {
        let mut options = MqttOptions::new(format!("device-{:08x}", fastrand::u32(..)), "127.0.0.1", servers.mqtt_port);
        options.set_credentials(SERVICE, PASSWORD).set_keep_alive(Duration::from_secs(60));
        let (client, events) = AsyncClient::new(options, 100);
        let mut device = Self { client, events };
        for filter in ["iotflow/devices/+/receipts/#", "iotflow/devices/+/commands/#"] {
            device.client.subscribe(filter, QoS::AtLeastOnce).await.expect("there is room");
            device.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
        }
        device
    }

    async fn until<T>(&mut self, wanted: impl Fn(&Packet) -> Option<T>) -> T {
        let waited = tokio::time::timeout(support::PATIENCE, async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.expect("the broker is there")
                    && let Some(found) = wanted(&packet)
                {
                    return found;
                }
            }
        });
        waited.await.expect("it comes")
    }

    /// Publishes at QoS 1, and leaves the PUBACK to whoever looks next.
    async fn send(&self, payload: &str, response: &str, correlation: &'static [u8]) {
        let properties = PublishProperties {
            response_topic: Some(response.to_owned()),
            correlation_data: Some(correlation.into()),
            ..PublishProperties::default()
        };
        self.client
            .publish_with_properties(TOPIC, QoS::AtLeastOnce, false, payload.to_owned(), properties)
            .await
            .expect("there is room");
    }

    /// The next message that comes.
    async fn next(&mut self) -> Publish {
        self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        })
        .await
    }

    /// The next receipt, which must be on this topic with these correlation data.
    async fn receipt(&mut self, topic: &str, correlation: &[u8]) -> Value {
        let publish = self.next().await;
        let properties = publish.properties.unwrap_or_default();
        assert_eq!(publish.topic, topic);
        assert_eq!(properties.correlation_data.as_deref(), Some(correlation));
        assert_eq!((publish.qos, publish.retain), (QoS::AtLeastOnce, false));
        let receipt: Value = serde_json::from_slice(&publish.payload).expect("JSON");
        assert!(receipt["time"].is_string(), "{receipt}");
        receipt
    }
}

async fn service(servers: &Servers, receipts: bool) -> Service {
    let mut environment = servers.environment();
    if receipts {
        environment.push(("INGEST_RECEIPTS".to_owned(), "true".to_owned()));
    }
    Service::ready(servers.path(), &environment).await
}

#[tokio::test]
async fn a_device_is_told_what_became_of_each_message() {
    let servers = Servers::start().await;
    let service = service(&servers, true).await;
    let sql = servers.sql().await;
    let mut device = Device::start(&servers).await;
    let reading = r#"{"a":1,"ts":1751365800}"#;
    device.send(reading, RECEIPTS, b"\x00first\xff").await;
    assert_eq!(device.receipt(RECEIPTS, b"\x00first\xff").await["status"], "committed");
    assert_eq!(
        number(&sql, "SELECT count(*) FROM readings").await,
        1,
        "at once: that is what a receipt says"
    );
    device.send(reading, RECEIPTS, b"again").await;
    assert_eq!(device.receipt(RECEIPTS, b"again").await["status"], "duplicate");
    let below = format!("{RECEIPTS}/mine");
    device.send("nonsense", &below, b"bad").await;
    let receipt = device.receipt(&below, b"bad").await;
    assert_eq!(
        (&receipt["status"], &receipt["reason"]),
        (&json!("dead_lettered"), &json!("not_json"))
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
    eventually("all three are counted", async || {
        (service.series().await["iotflow_ingest_receipts_total{outcome=\"sent\"}"] == 3.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nothing_is_published_where_the_device_itself_may_not_read() {
    let servers = Servers::start().await;
    let service = service(&servers, true).await;
    let sql = servers.sql().await;
    let mut device = Device::start(&servers).await;
    for (number, topic) in [
        "iotflow/devices/d2/receipts",
        "iotflow/devices/d1/commands/control",
        "iotflow/devices/d1/receipts/",
    ]
    .into_iter()
    .enumerate()
    {
        device.send(&format!("{{\"a\":{number}}}"), topic, b"x").await;
    }
    device.send(r#"{"b":1}"#, RECEIPTS, b"own").await;
    // One device's messages are stored in order, so the others' receipts would have come first.
    assert_eq!(device.receipt(RECEIPTS, b"own").await["status"], "committed");
    until_number(&sql, "SELECT count(*) FROM readings", 4).await;
    let series = service.series().await;
    assert_eq!(series["iotflow_ingest_receipts_total{outcome=\"refused\"}"], 3.0);
}

#[tokio::test]
async fn a_receipt_never_comes_before_the_commit() {
    let servers = Servers::start().await;
    let _service = service(&servers, true).await;
    let (mut sql, watcher) = (servers.sql().await, servers.sql().await);
    let mut device = Device::start(&servers).await;
    let lock = sql.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN EXCLUSIVE MODE")
        .await
        .expect("nobody has it");
    device.send(r#"{"a":1}"#, RECEIPTS, b"held").await;
    device.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iotflow-ingest' AND wait_event_type = 'Lock'";
    eventually("the COPY waits", async || (number(&watcher, waits).await > 0).then_some(())).await;
    // Whatever was published before the marker comes before it.
    device
        .client
        .publish(RECEIPTS, QoS::AtLeastOnce, false, "marker")
        .await
        .expect("there is room");
    assert_eq!(device.next().await.payload, "marker");
    lock.rollback().await.expect("it lets go");
    assert_eq!(device.receipt(RECEIPTS, b"held").await["status"], "committed");
}

#[tokio::test]
async fn there_are_none_unless_they_are_switched_on() {
    let servers = Servers::start().await;
    let service = service(&servers, false).await;
    let sql = servers.sql().await;
    let mut device = Device::start(&servers).await;
    device.send(r#"{"a":1}"#, RECEIPTS, b"x").await;
    device.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    until_number(&sql, "SELECT count(*) FROM readings", 1).await;
    assert_eq!(sum(&service.series().await, "iotflow_ingest_receipts_total"), 0.0);
}
