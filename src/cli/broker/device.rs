//! `generate-device`: a device is registered, gets its credentials, and the lines with which to try them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, Command};
use serde_json::json;

use crate::broker::conf::Kind;
use crate::cli::installation::folder::replace;
use crate::cli::{EXIT_OK, runtime};
use crate::devices::registry;
use crate::identity::users;
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceIdRef, Username};
use crate::protocol::rights::Role;

use super::Asked;
use super::access::Registry;
use super::users::{password_for, with_password};

pub(super) fn command() -> Command {
    with_password(
        Command::new("generate-device")
            .about("Register a device, and make its credentials")
            .arg(Arg::new("device").required(true).value_name("ID"))
            .arg(
                Arg::new("output")
                    .long("output")
                    .value_name("FOLDER")
                    .default_value(".")
                    .help("Where device_credentials_ID.txt goes"),
            ),
    )
}

/// How a device logs in.
struct Login<'a> {
    device: &'a Username,
    password: &'a Secret,
    host: String,
    port: u16,
    ca: Option<PathBuf>,
    topic: String,
}

pub(super) fn generate(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let id = asked.text("device");
    let device = DeviceIdRef::parse(id)?;
    let username = Username::with_password(id)?;
    let file = Path::new(asked.text("output")).join(format!("device_credentials_{username}.txt"));
    if file.exists() {
        bail!(
            "{} is there already; the device has its credentials (iotflow broker rotate {username} makes others)",
            file.display()
        );
    }
    let (password, hash, _) = password_for(asked, &username)?;
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let (_, in_force) = registry
            .change(async |transaction| {
                users::create(transaction, &username, Role::Device, Some(hash.as_str())).await?;
                Ok(registry::register(transaction, device).await?)
            })
            .await?;
        let login = login(&registry, &username, &password)?;
        replace(&file, &login.credentials())?;
        let client = registry.installation.data.join("clients").join(username.as_str());
        std::fs::create_dir_all(&client)?;
        for program in ["mosquitto_pub", "mosquitto_sub"] {
            replace(&client.join(program), &login.options())?;
        }
        let line = login.publish_line(&asked.data.join("clients").join(username.as_str()));
        asked.answer(
            &format!(
                "Registered the device {username}; {}\n  credentials in {}\n  try it:\n    {line}",
                in_force.words(),
                file.display()
            ),
            &json!({
                "status": "success", "device_id": id, "username": id, "password": password.reveal(), "host": login.host, "port": login.port,
                "ca_certificate": login.ca, "credentials_file": file, "try": line,
            }),
        );
        Ok(ExitCode::from(EXIT_OK))
    })
}

/// By TLS where the broker has a certificate, else in the clear.
fn login<'a>(registry: &Registry, device: &'a Username, password: &'a Secret) -> anyhow::Result<Login<'a>> {
    let ca = registry.installation.broker().certs().join("ca.pem");
    let tls = registry.settings.port(Kind::Tls).filter(|_| ca.exists());
    let port = tls.or_else(|| registry.settings.port(Kind::Plain));
    Ok(Login {
        device,
        password,
        host: registry.settings.public_name().to_owned(),
        port: port.context("the broker has no listener that takes a device's password; see setup --listener")?,
        ca: tls.map(|_| ca),
        topic: format!("{}/devices/{device}/telemetry/sensors", registry.settings.base_topic),
    })
}

impl Login<'_> {
    fn credentials(&self) -> String {
        let mut text = format!(
            "# MQTT credentials of the device {0}. Whoever has this file is the device.\nMQTT_HOST={1}\nMQTT_PORT={2}\nMQTT_USERNAME={0}\nMQTT_PASSWORD={3}\n",
            self.device,
            self.host,
            self.port,
            self.password.reveal()
        );
        if let Some(ca) = &self.ca {
            text.push_str(&format!("MQTT_USE_TLS=true\nMQTT_CA_CERT_PATH={}\n", ca.display()));
        }
        text.push_str(&format!("TELEMETRY_TOPIC={}\n", self.topic));
        text
    }

    /// The options of mosquitto_pub and mosquitto_sub, in a file: on a command line `ps` shows the password.
    fn options(&self) -> String {
        let mut text = format!(
            "-h {}\n-p {}\n-u {}\n-P {}\n-V 5\n-q 1\n",
            self.host,
            self.port,
            self.device,
            self.password.reveal()
        );
        if let Some(ca) = &self.ca {
            text.push_str(&format!("--cafile {}\n", ca.display()));
        }
        text
    }

    fn publish_line(&self, client: &Path) -> String {
        format!(
            "XDG_CONFIG_HOME={} mosquitto_pub -t {} -m '{{\"temperature\":23.5,\"humidity\":65.2}}'",
            client.display(),
            self.topic
        )
    }
}
