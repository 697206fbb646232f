//! Where the broker is and how to speak to it.

use std::path::PathBuf;
use std::time::Duration;

use crate::observe::secret::Secret;

/// What every connection to the broker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The user the broker knows us by.
    pub username: Option<String>,
    /// That user's password.
    pub password: Option<Secret>,
    /// TLS, where it is wanted.
    pub tls: Option<TlsConfig>,
    /// Longest silence before a ping. The broker gives up after one and a half times this, we do as well.
    pub keep_alive: Duration,
    /// Most time for TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// Receive Maximum (MQTT 5, 3.1.2.11.3): how many unacked deliveries the broker may have under way to us.
    pub receive_maximum: u16,
    /// Maximum Packet Size (MQTT 5, 3.1.2.11.4): what is larger the broker drops itself, for us.
    pub max_packet_bytes: u32,
    /// Session Expiry Interval: how long the broker keeps what it could not deliver.
    pub session_expiry: Duration,
    /// Clean Start (MQTT 5, 3.1.2.4): whether a session that the broker still has is ended instead of resumed.
    pub clean_start: bool,
}

/// The files of a TLS connection, in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The authorities that may have signed the broker's certificate.
    pub ca_cert: PathBuf,
    /// Our certificate and its key, where the broker asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 1883,
            username: None,
            password: None,
            tls: None,
            // Half-open connections are noticed within twice this.
            keep_alive: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            // The most the protocol allows: Mosquitto's default of 20 halves the rate.
            receive_maximum: u16::MAX,
            max_packet_bytes: 8 * 1024 * 1024,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            clean_start: false,
        }
    }
}

impl Config {
    /// The same broker, for one errand: a session that leaves nothing behind, under a user of its own.
    #[must_use]
    pub fn errand(&self, username: &str, password: Secret) -> Self {
        Self {
            username: Some(username.to_owned()),
            password: Some(password),
            session_expiry: Duration::ZERO,
            clean_start: true,
            ..self.clone()
        }
    }

    /// What is wrong with these values, each with the variable that sets it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.host.trim().is_empty() {
            faults.push("MQTT_HOST is empty; a host name or address is expected".to_owned());
        }
        if self.port == 0 {
            faults.push("MQTT_PORT is 0; 1 to 65535 is expected".to_owned());
        }
        if self.receive_maximum == 0 {
            faults.push("MQTT_RECEIVE_MAXIMUM is 0; 1 to 65535 is expected".to_owned());
        }
        if !(5..=65_535).contains(&self.keep_alive.as_secs()) {
            faults.push("MQTT_KEEP_ALIVE is out of range; 5s to 65535s is expected".to_owned());
        }
        if self.max_packet_bytes < 1024 {
            faults.push("MQTT_MAX_PACKET_BYTES is below 1024, too small for the broker's own packets".to_owned());
        }
        if self.password.is_some() && self.username.is_none() {
            faults.push("MQTT_PASSWORD is set without MQTT_USERNAME".to_owned());
        }
        faults
    }
}
