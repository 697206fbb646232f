//! How a device logs in, in the forms that people and programs need: a file of variables, options of mosquitto_pub, a line to try.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::broker::conf::Kind;
use crate::cli::installation::folder::replace;
use crate::observe::secret::Secret;
use crate::protocol::id::Username;

use super::access::Registry;

/// What a device proves itself with.
pub(super) enum Proof {
    /// A password.
    Password(Secret),
    /// A certificate and its key.
    Certificate(PathBuf, PathBuf),
}

/// See the module's documentation.
pub(super) struct Login {
    device: Username,
    proof: Proof,
    host: String,
    port: u16,
    ca: Option<PathBuf>,
    topic: String,
}

impl Login {
    /// With a password by TLS where the broker has a certificate, else in the clear; with a certificate where it is asked for.
    pub(super) fn new(registry: &Registry, device: Username, proof: Proof) -> anyhow::Result<Self> {
        let settings = &registry.settings;
        let (tls, otherwise, what) = match proof {
            Proof::Password(_) => (settings.port(Kind::Tls), settings.port(Kind::Plain), "password"),
            Proof::Certificate(..) => (settings.port(Kind::MutualTls), None, "certificate"),
        };
        let port = tls
            .or(otherwise)
            .with_context(|| format!("the broker has no listener that takes a device's {what}; see setup --listener"))?;
        Ok(Self {
            topic: format!("{}/devices/{device}/telemetry/sensors", settings.base_topic),
            device,
            proof,
            host: settings.public_name().to_owned(),
            port,
            ca: tls.map(|_| registry.installation.broker().certs().join("ca.pem")),
        })
    }

    /// Variables, as the service and many clients take them.
    pub(super) fn variables(&self) -> String {
        let mut text = format!(
            "# MQTT credentials of the device {}. Whoever has them is the device.\nMQTT_HOST={}\nMQTT_PORT={}\n",
            self.device, self.host, self.port
        );
        if let Some(ca) = &self.ca {
            text.push_str(&format!("MQTT_USE_TLS=true\nMQTT_CA_CERT_PATH={}\n", ca.display()));
        }
        match &self.proof {
            Proof::Password(password) => {
                text.push_str(&format!("MQTT_USERNAME={}\nMQTT_PASSWORD={}\n", self.device, password.reveal()));
            }
            Proof::Certificate(certificate, key) => {
                text.push_str(&format!(
                    "MQTT_CERT_FILE_PATH={}\nMQTT_KEY_FILE_PATH={}\n",
                    certificate.display(),
                    key.display()
                ));
            }
        }
        text + &format!("TELEMETRY_TOPIC={}\n", self.topic)
    }

    /// Writes the options of mosquitto_pub and mosquitto_sub into `folder`, where they look for them: on a command line `ps`
    /// shows the password.
    pub(super) fn write_options(&self, folder: &Path) -> anyhow::Result<()> {
        let mut text = format!("-h {}\n-p {}\n-V 5\n-q 1\n", self.host, self.port);
        if let Some(ca) = &self.ca {
            text.push_str(&format!("--cafile {}\n", ca.display()));
        }
        match &self.proof {
            Proof::Password(password) => text.push_str(&format!("-u {}\n-P {}\n", self.device, password.reveal())),
            Proof::Certificate(certificate, key) => {
                text.push_str(&format!("--cert {}\n--key {}\n", certificate.display(), key.display()));
            }
        }
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        ["mosquitto_pub", "mosquitto_sub"]
            .iter()
            .try_for_each(|program| replace(&folder.join(program), &text))
    }

    /// A line that publishes a reading as the device, with the options in `folder`.
    pub(super) fn line(&self, folder: &Path) -> String {
        format!(
            "XDG_CONFIG_HOME='{}' mosquitto_pub -t {} -m '{{\"temperature\":23.5,\"humidity\":65.2}}'",
            folder.display(),
            self.topic
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let mut value = json!({
            "device_id": self.device.as_str(), "username": self.device.as_str(), "host": self.host, "port": self.port, "ca_certificate": self.ca,
        });
        match &self.proof {
            Proof::Password(password) => value["password"] = json!(password.reveal()),
            Proof::Certificate(certificate, key) => {
                value["certificate"] = json!(certificate);
                value["key"] = json!(key);
            }
        }
        value
    }
}
