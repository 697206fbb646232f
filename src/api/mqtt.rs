//! The broker, as the service sees it: its state, delivery quality, figures.

use std::collections::BTreeMap;

use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::broker::sys::BrokerReport;
use crate::lifecycle::readiness::Condition;
use crate::observe::quality::{self, Quality};

use super::answer::{Success, success};
use super::auth::{Admin, Viewer};
use super::state::Desk;

/// How the service stands with the broker.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MqttStatus {
    /// Whether every connection of this service to the broker is in force.
    connected: bool,
    /// The broker's host.
    host: String,
    /// The broker's port.
    port: u16,
    /// Whether TLS is spoken.
    use_tls: bool,
    /// The user that the broker knows the service by.
    username: Option<String>,
    /// The first levels of every topic.
    base_topic: String,
    /// Each connection, by name.
    connections: BTreeMap<String, Condition>,
}

/// What the broker says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BrokerInfo {
    /// When it said so; none where it has said nothing yet.
    heard_at: Option<Timestamp>,
    /// Why nothing newer was heard.
    fault: Option<String>,
    /// Its figures; null is what it did not say.
    #[serde(flatten)]
    report: BrokerReport,
}

/// Both.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    mqtt_status: MqttStatus,
    broker_info: BrokerInfo,
}

/// The broker's state
#[utoipa::path(get, path = "/mqtt/status", tag = "mqtt", responses((status = 200, description = "How the service stands with the broker, and what the broker says of itself", body = Success<Status>)))]
pub(super) async fn status(_: Viewer, State(desk): State<Desk>) -> Success<Status> {
    let connections = desk.broker_conditions();
    let mqtt = &desk.parts.mqtt;
    success(Status {
        mqtt_status: MqttStatus {
            connected: connections.values().all(|condition| condition.ready),
            host: mqtt.host.clone(),
            port: mqtt.port,
            use_tls: mqtt.tls.is_some(),
            username: mqtt.username.clone(),
            base_topic: desk.tree().base().to_owned(),
            connections,
        },
        broker_info: broker_info(&desk),
    })
}

fn broker_info(desk: &Desk) -> BrokerInfo {
    let heard = desk.parts.broker.borrow().clone();
    BrokerInfo {
        heard_at: heard.at.and_then(|at| Timestamp::from_microsecond(at).ok()),
        fault: heard.fault.clone(),
        report: heard.report.clone(),
    }
}

/// Delivery quality, by QoS of the delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ByQos {
    /// QoS 0, and what came over HTTP.
    #[serde(rename = "0")]
    zero: Quality,
    /// QoS 1; a QoS 2 publish is delivered to the service at QoS 1.
    #[serde(rename = "1")]
    one: Quality,
}

/// The delivery quality of this process since its start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QosReport {
    /// The figures by QoS.
    qos: ByQos,
}

/// Delivery quality
///
/// The figures of `/metrics/qos`, of this process since its start.
#[utoipa::path(get, path = "/mqtt/qos", tag = "mqtt", responses((status = 200, description = "Delivery quality by QoS", body = Success<QosReport>)))]
pub(super) async fn qos(_: Viewer, State(desk): State<Desk>) -> Success<QosReport> {
    success(QosReport { qos: by_qos(&desk) })
}

fn by_qos(desk: &Desk) -> ByQos {
    let of = |qos| quality::of(&desk.parts.metrics, &desk.parts.accounting, qos);
    ByQos { zero: of(0), one: of(1) }
}

/// Everything that is measured about MQTT.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Monitoring {
    /// The broker's own figures.
    broker: BrokerInfo,
    /// Delivery quality by QoS.
    qos: ByQos,
    /// Each connection to the broker, by name.
    connections: BTreeMap<String, Condition>,
}

/// The figures under one name, as the clients of this endpoint expect them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MonitoringReport {
    metrics: Monitoring,
}

/// MQTT figures
#[utoipa::path(get, path = "/mqtt/monitoring/metrics", tag = "mqtt", responses((status = 200, description = "What is measured about MQTT", body = Success<MonitoringReport>)))]
pub(super) async fn monitoring(_: Admin, State(desk): State<Desk>) -> Success<MonitoringReport> {
    success(MonitoringReport {
        metrics: Monitoring {
            broker: broker_info(&desk),
            qos: by_qos(&desk),
            connections: desk.broker_conditions(),
        },
    })
}
