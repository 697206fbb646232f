//! The broker: whether it lets the service in, which it is, and what it says of itself.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, ConnectReturnCode};

use crate::broker::sys::{BrokerReport, ReportError};
use crate::ingest::limits::forgets_shared_subscriptions;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};

use super::finding::{Finding, Findings, Level};
use super::limits;
use super::patient::Patient;
use super::place::is_alive;
use super::print::bytes;

/// What is retained comes at once; a broker that says nothing is waited for this long.
const REPORT_WITHIN: Duration = Duration::from_secs(2);

/// What a broker's count of dropped messages calls for.
pub(super) const DROPPED_ADVICE: &str = "queues that are too small lose what a fleet sends while the service is away: see max_queued_messages and max_queued_bytes in mosquitto/mosquitto.conf";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("broker");
    let mqtt = MqttConfig {
        clean_start: true,
        ..patient.config.mqtt.clone()
    };
    let place = format!("{}:{}", mqtt.host, mqtt.port);
    let client_id = format!("iotflow-doctor-{:08x}", fastrand::u32(..));
    let begun = Instant::now();
    match Connection::open(&mqtt, &client_id).await {
        Ok((connection, connack)) => {
            let answered = begun.elapsed();
            let by = if mqtt.tls.is_some() { "by TLS" } else { "in the clear" };
            findings
                .ok("login", format!("{place} lets the service in, {by}, within {answered:.0?}"))
                .figure("seconds", answered.as_secs_f64());
            side_by_side(&mut findings, &mqtt, connection).await;
            limits::announced(&mut findings, patient, &connack.properties.unwrap_or_else(nothing_announced));
            report(&mut findings, patient, &mqtt).await;
        }
        Err(error) => {
            findings.fault("login", format!("{place}: {error}"), advice(&error));
            findings.skipped("limits", "the broker does not let us in");
        }
    }
    limits::ours(&mut findings, patient);
    limits::configured(&mut findings, patient);
    findings.into_list()
}

/// The service has several sessions at once. A listener for devices takes the user's name for the client id, so that there is one.
async fn side_by_side(findings: &mut Findings, mqtt: &MqttConfig, mut first: Connection) {
    let second = Connection::open(mqtt, &format!("iotflow-doctor-{:08x}", fastrand::u32(..))).await;
    let answered = is_alive(&mut first).await;
    match (&second, answered) {
        (Ok(_), Err(why)) => findings.fault(
            "client ids",
            format!("a second session of the service's ends the first: {why}"),
            "MQTT_PORT is to be the listener for the staff (1884): others take the user's name for the client id (use_username_as_clientid)",
        ),
        (Ok(_), Ok(_)) => findings.ok("client ids", "sessions of the service's stand side by side"),
        (Err(error), _) => findings.skipped("client ids", error.to_string()),
    };
    // They asked for a session as the service does, to hear how long one is kept; they leave none behind.
    drop(first.disconnect(true).await);
    if let Ok((second, _)) = second {
        drop(second.disconnect(true).await);
    }
}

async fn report(findings: &mut Findings, patient: &Patient, mqtt: &MqttConfig) {
    let report = match BrokerReport::read(mqtt, REPORT_WITHIN).await {
        Ok(report) => report,
        Err(error @ (ReportError::Silent(_) | ReportError::Refused(_))) => {
            findings.warning(
                "$SYS",
                error.to_string(),
                "let the service's user read $SYS/#: then it warns of dropped messages by itself",
            );
            return;
        }
        Err(error) => {
            findings.skipped("$SYS", error.to_string());
            return;
        }
    };
    let shared = patient.config.ingest.shared;
    match &report.version {
        Some(version) if shared && forgets_shared_subscriptions(version) => findings.warning(
            "version",
            format!("{version}: forgets shared subscriptions when it is restarted; what comes until the service is back is lost"),
            "MQTT_SHARED=false, or Mosquitto 2.0.19 or later",
        ),
        Some(version) => findings.ok("version", version.as_str()),
        None => findings.skipped("version", "it does not say below $SYS"),
    };
    match report.publish_dropped {
        None => findings.skipped(
            "dropped",
            "it does not say now: Mosquitto tells a count for a minute after it changed; the service says what it saw",
        ),
        Some(count) => findings
            .judge(
                "dropped",
                count == 0,
                Level::Warning,
                format!("{count} messages dropped since its start, of all clients together"),
                DROPPED_ADVICE,
            )
            .figure("messages", count),
    };
    if let (Some(connected), Some(stored)) = (report.clients_connected, report.stored_bytes) {
        findings
            .ok("load", format!("{connected} clients connected, {} stored for them", bytes(stored)))
            .figure("clients", connected)
            .figure("stored_bytes", stored);
    }
}

fn advice(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::Io(_) | ConnectionError::ConnectTimeout(_) => {
            "is the broker running, and does it listen there? MQTT_HOST, MQTT_PORT; ./mqtt_manage.sh status, ./mqtt_manage.sh start"
        }
        ConnectionError::Refused(ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword) => {
            "the broker knows no such user, or another password: MQTT_USERNAME, MQTT_PASSWORD_FILE; ./mqtt_manage.sh list-users"
        }
        ConnectionError::Tls(_) => "the certificates do not fit: MQTT_CA_CERT_PATH, MQTT_HOST; iotflow broker certs list",
        _ => "see what the broker says: ./mqtt_manage.sh logs",
    }
}

fn nothing_announced() -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: None,
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}
