//! `test`: logs in as a user would, and says what came of it and what to do.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, Command};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Filter, Packet};
use serde_json::json;
use tokio::time::timeout;

use crate::broker::conf::Kind;
use crate::cli::{EXIT_FAILED, EXIT_OK, Sources, runtime};
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::{Connection, ConnectionError};
use crate::observe::secret::Secret;

use super::Asked;
use super::users::{given, with_password};

/// A retained topic that staff may read and devices may not.
const PROBE: &str = "$SYS/broker/uptime";
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn command() -> Command {
    with_password(
        Command::new("test")
            .about("Log in at the broker: as the service, or as the user given")
            .arg(Arg::new("user").value_name("USER")),
    )
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let (_, settings) = asked.installation()?;
    let sources = asked.sources()?;
    let mut config = sources.config()?.mqtt;
    if let Some(user) = asked.matches.get_one::<String>("user") {
        let password =
            given(asked)?.context("the user's password is expected: after the name, or with --password-file or --password-stdin")?;
        config = config.errand(user, Secret::new(password));
        let elsewhere = Sources::new(asked.matches)?.is_set("MQTT_HOST");
        if let (false, Some(port)) = (elsewhere, settings.port(Kind::Plain)) {
            config.port = port;
        }
    } else {
        let (user, password) = config
            .username
            .clone()
            .zip(config.password.clone())
            .context("the service has no user yet; start the broker once: ./mqtt_manage.sh start")?;
        config = config.errand(&user, password);
    }
    let user = config.username.clone().unwrap_or_default();
    let place = format!("{}:{}", config.host, config.port);
    match runtime()?.block_on(try_out(&config)) {
        Ok(reads_system) => {
            let what = format!("Connected to {place} as {user}; the broker answers");
            let more = if reads_system {
                "  it may read $SYS: service or admin"
            } else {
                "  it may not read $SYS: neither service nor admin"
            };
            let answer = json!({"status": "success", "connected": true, "user": user, "broker": place, "reads_system": reads_system});
            asked.answer(&format!("{what}\n{more}"), &answer);
            Ok(ExitCode::from(EXIT_OK))
        }
        Err(error) => {
            let advice = advice(&error);
            let answer =
                json!({"status": "error", "connected": false, "user": user, "broker": place, "error": error.to_string(), "advice": advice});
            asked.answer(&format!("Not connected to {place} as {user}: {error}\n  {advice}"), &answer);
            Ok(ExitCode::from(EXIT_FAILED))
        }
    }
}

/// Logs in, and tells whether the user may read how the broker is.
async fn try_out(config: &MqttConfig) -> Result<bool, ConnectionError> {
    let client_id = format!("iotflow-test-{:08x}", fastrand::u32(..));
    let (mut connection, _) = Connection::open(config, &client_id).await?;
    connection.subscribe(vec![Filter::new(PROBE, QoS::AtMostOnce)])?;
    let received = async {
        loop {
            while let Some(packet) = connection.next_packet()? {
                if matches!(packet, Packet::Publish(_)) {
                    return Ok::<_, ConnectionError>(());
                }
            }
            connection.turn(true).await?;
        }
    };
    let reads = match timeout(ANSWER_WITHIN, received).await {
        Ok(received) => received.map(|()| true)?,
        Err(_) => false,
    };
    connection.disconnect(true).await?;
    Ok(reads)
}

fn advice(error: &ConnectionError) -> &'static str {
    match error {
        ConnectionError::Io(_) | ConnectionError::ConnectTimeout(_) => {
            "is the broker running, and does it listen there? ./mqtt_manage.sh status, ./mqtt_manage.sh start"
        }
        ConnectionError::Refused(ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword) => {
            "no such user, another password, or the user is shut out: ./mqtt_manage.sh list-users"
        }
        ConnectionError::Tls(_) => "the certificates do not fit: iotflow broker certs list",
        _ => "see what the broker says: ./mqtt_manage.sh logs",
    }
}
