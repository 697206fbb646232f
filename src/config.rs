//! All settings: each module's own, composed here and read from named variables.
//!
//! A variable comes from the command line (`--mqtt-host`), else from the environment (`MQTT_HOST`, `.env` included), else
//! it has a default. Secrets may come from a file named by the variable with `_FILE` behind it. Every fault is reported at
//! once, with the variable and what would be right.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::api::server::Config as ApiConfig;
use crate::courier::discovery::Config as DiscoveryConfig;
use crate::courier::session::Config as CourierConfig;
use crate::courier::system::Config as SystemConfig;
use crate::db::config::Config as DbConfig;
use crate::db::partitions::Config as PartitionsConfig;
use crate::devices::commands::retention::Config as CommandsConfig;
use crate::devices::presence::Config as PresenceConfig;
use crate::identity::jwt::config::Config as JwtConfig;
use crate::ingest::config::Config as IngestConfig;
use crate::mqtt::config::{Config as MqttConfig, TlsConfig};
use crate::observe::logging::Config as LogConfig;
use crate::observe::secret::Secret;

mod variables;

pub use variables::{VARIABLES, Variable};

/// Where variables come from.
pub trait Source {
    /// The value of the variable called `name`, where it is set and not empty.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Source for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name).filter(|value| !value.is_empty())
    }
}

/// The process's environment.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The settings of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// The broker.
    pub mqtt: MqttConfig,
    /// The database.
    pub db: DbConfig,
    /// Partitions and retention.
    pub partitions: PartitionsConfig,
    /// The pipeline.
    pub ingest: IngestConfig,
    /// When a device counts as gone.
    pub presence: PresenceConfig,
    /// How long commands are kept.
    pub commands: CommandsConfig,
    /// How much one device is listened to, beside its telemetry.
    pub courier: CourierConfig,
    /// Who gets credentials for the asking.
    pub discovery: DiscoveryConfig,
    /// What the service says of itself.
    pub system: SystemConfig,
    /// The HTTP listener.
    pub api: ApiConfig,
    /// Whose JWTs are taken; nobody's where there is none.
    pub jwt: Option<JwtConfig>,
    /// The log.
    pub log: LogConfig,
    /// How long a stop may take.
    pub shutdown_timeout: ShutdownTimeout,
}

/// How long a stop may take before what is not committed is left to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownTimeout(pub Duration);

impl Default for ShutdownTimeout {
    fn default() -> Self {
        // Service managers kill after ten seconds.
        Self(Duration::from_secs(8))
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  - {fault}"))
    }
}

impl Config {
    /// Reads all variables from `source`.
    ///
    /// # Errors
    /// [`ConfigError`] with every fault there is.
    pub fn read(source: &impl Source) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            source,
            faults: Vec::new(),
        };
        let config = reader.config();
        let mut faults = reader.faults;
        faults.extend(config.mqtt.faults());
        faults.extend(config.db.faults());
        faults.extend(config.ingest.faults());
        faults.extend(config.courier.faults());
        faults.extend(config.api.faults());
        if config.partitions.days == 0 {
            faults.push("TELEMETRY_PARTITION_DAYS is 0; 1 or more is expected".to_owned());
        }
        if faults.is_empty() { Ok(config) } else { Err(ConfigError(faults)) }
    }
}

struct Reader<'a, S> {
    source: &'a S,
    faults: Vec<String>,
}

impl<S: Source> Reader<'_, S> {
    fn config(&mut self) -> Config {
        let mut config = Config::default();
        let Config {
            mqtt,
            db,
            partitions,
            ingest,
            presence,
            commands,
            courier,
            discovery,
            system,
            api,
            jwt,
            log,
            shutdown_timeout,
        } = &mut config;

        self.take("MQTT_HOST", &mut mqtt.host);
        self.take("MQTT_PORT", &mut mqtt.port);
        mqtt.username = self.source.get("MQTT_USERNAME");
        mqtt.password = self.secret("MQTT_PASSWORD");
        mqtt.tls = self.tls();
        self.take_span("MQTT_KEEP_ALIVE", &mut mqtt.keep_alive);
        self.take_span("MQTT_CONNECT_TIMEOUT", &mut mqtt.connect_timeout);
        self.take("MQTT_RECEIVE_MAXIMUM", &mut mqtt.receive_maximum);
        self.take("MQTT_MAX_PACKET_BYTES", &mut mqtt.max_packet_bytes);
        self.take_span("MQTT_SESSION_EXPIRY", &mut mqtt.session_expiry);

        if let Some(url) = self.secret("DATABASE_URL") {
            db.url = url;
        }
        self.take_span("DATABASE_CONNECT_TIMEOUT", &mut db.connect_timeout);
        self.take_span("DATABASE_COPY_TIMEOUT", &mut db.copy_timeout);
        self.take("TELEMETRY_PARTITION_DAYS", &mut partitions.days);
        self.take_span("TELEMETRY_RETENTION", &mut partitions.retention);

        self.take_flag("MQTT_SHARED", &mut ingest.shared);
        self.take("MQTT_BASE_TOPIC", &mut ingest.base_topic);
        self.take("INGEST_GROUP", &mut ingest.group);
        ingest.share_name = self.secret("INGEST_SHARE_NAME");
        self.take("INGEST_SLOTS", &mut ingest.slots);
        self.take("INGEST_SHARDS", &mut ingest.shards);
        self.take_span("INGEST_LINGER", &mut ingest.linger);
        self.take("INGEST_BATCH_ROWS", &mut ingest.batch_rows);
        self.take("INGEST_BATCH_BYTES", &mut ingest.batch_bytes);
        self.take("INGEST_QUEUE_QOS0", &mut ingest.queue_qos0);
        self.take("INGEST_HELD_BYTES", &mut ingest.held_bytes);
        self.take("INGEST_MAX_PAYLOAD_BYTES", &mut ingest.max_payload_bytes);
        self.take("INGEST_MAX_DEVICE_METRICS", &mut ingest.max_device_metrics);
        self.take("INGEST_DEVICE_RATE", &mut ingest.device_rate);
        self.take("INGEST_DEVICE_BURST", &mut ingest.device_burst);
        self.take_flag("INGEST_RECEIPTS", &mut ingest.receipts);
        self.take_span("INGEST_TIME_PAST", &mut ingest.time_window.past);
        self.take_span("INGEST_TIME_FUTURE", &mut ingest.time_window.future);

        self.take_span("PRESENCE_TIMEOUT", &mut presence.timeout);
        self.take_span("COMMAND_RETENTION", &mut commands.retention);
        self.take("COURIER_DEVICE_RATE", &mut courier.device_rate);
        self.take("COURIER_DEVICE_BURST", &mut courier.device_burst);
        self.take_span("SYSTEM_TOPICS_EVERY", &mut system.every);
        self.take("DISCOVERY_POLICY", &mut discovery.policy);
        self.take("DISCOVERY_RATE", &mut discovery.rate_per_minute);
        self.take("DISCOVERY_MAX_PENDING", &mut discovery.most_pending);

        self.take("HOST", &mut api.host);
        // As it stands in an address of the web.
        if let Some(bare) = api.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            api.host = bare.to_owned();
        }
        self.take("PORT", &mut api.port);
        self.take("API_CONNECTIONS", &mut api.connections);
        self.take("API_RATE", &mut api.rate);
        self.take("API_LOCKOUT_FAILURES", &mut api.most_failures);
        self.take("API_MAX_BODY_BYTES", &mut api.max_body_bytes);
        self.take("API_BROKER_URLS", &mut api.broker_urls);
        self.take("API_MAX_CONNECTIONS", &mut api.max_connections);
        self.take_span("API_TIMEOUT", &mut api.timeout);
        self.trusted_proxies(&mut api.trusted_proxies);
        *jwt = self.jwt();
        self.take_span("SHUTDOWN_TIMEOUT", &mut shutdown_timeout.0);

        self.take("LOG_LEVEL", &mut log.level);
        self.take("LOG_FORMAT", &mut log.format);
        log.file = self.source.get("LOG_FILE").map(PathBuf::from);
        config
    }

    fn tls(&mut self) -> Option<TlsConfig> {
        let mut wanted = false;
        self.take_flag("MQTT_USE_TLS", &mut wanted);
        let path = |name| self.source.get(name).map(PathBuf::from);
        let (ca_cert, certificate, key) = (path("MQTT_CA_CERT_PATH"), path("MQTT_CERT_FILE_PATH"), path("MQTT_KEY_FILE_PATH"));
        if !wanted {
            return None;
        }
        let Some(ca_cert) = ca_cert else {
            self.faults.push(
                "MQTT_USE_TLS is set without MQTT_CA_CERT_PATH; the authority that signed the broker's certificate is expected there"
                    .to_owned(),
            );
            return None;
        };
        if certificate.is_some() != key.is_some() {
            self.faults
                .push("MQTT_CERT_FILE_PATH and MQTT_KEY_FILE_PATH go together; one of them is missing".to_owned());
        }
        Some(TlsConfig {
            ca_cert,
            client: certificate.zip(key),
        })
    }

    fn jwt(&mut self) -> Option<JwtConfig> {
        let keys = self.source.get("JWT_KEYS");
        let mut demanded = |name: &str| {
            let value = self.source.get(name);
            match (&keys, &value) {
                // An issuer's key signs for other services too: without these, their tokens would open this one.
                (Some(_), None) => self.faults.push(format!(
                    "JWT_KEYS is set without {name}; both JWT_ISSUER and JWT_AUDIENCE are expected with it"
                )),
                (None, Some(_)) => self.faults.push(format!(
                    "{name} is set without JWT_KEYS; the file with the issuer's public keys is expected there"
                )),
                _ => {}
            }
            value
        };
        let (issuer, audience) = (demanded("JWT_ISSUER"), demanded("JWT_AUDIENCE"));
        let mut config = JwtConfig::new(PathBuf::from(keys?), issuer?, audience?);
        self.take("JWT_ROLE_CLAIM", &mut config.role_claim);
        Some(config)
    }

    fn take<T: FromStr>(&mut self, name: &str, into: &mut T)
    where
        T::Err: fmt::Display,
    {
        let Some(text) = self.source.get(name) else { return };
        match text.trim().parse() {
            Ok(value) => *into = value,
            Err(error) => self.faults.push(format!("{name}={text:?}: {error}")),
        }
    }

    fn take_flag(&mut self, name: &str, into: &mut bool) {
        let Some(text) = self.source.get(name) else { return };
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => *into = true,
            "false" | "0" | "no" | "off" => *into = false,
            _ => self.faults.push(format!("{name}={text:?}: true or false is expected")),
        }
    }

    fn take_span(&mut self, name: &str, into: &mut Duration) {
        let Some(text) = self.source.get(name) else { return };
        match parse_span(&text) {
            Some(span) => *into = span,
            None => self
                .faults
                .push(format!("{name}={text:?}: a time span such as 250ms, 15s, 5m, 2h or 7d is expected")),
        }
    }

    fn trusted_proxies(&mut self, into: &mut Vec<IpAddr>) {
        let Some(text) = self.source.get("API_TRUSTED_PROXIES") else {
            return;
        };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse() {
                Ok(address) => into.push(IpAddr::to_canonical(&address)),
                Err(_) => self.faults.push(format!(
                    "API_TRUSTED_PROXIES={text:?}: {part:?} is no IP address; addresses with commas between are expected"
                )),
            }
        }
    }

    fn secret(&mut self, name: &str) -> Option<Secret> {
        if let Some(value) = self.source.get(name) {
            return Some(Secret::new(value));
        }
        let file = format!("{name}_FILE");
        let path = self.source.get(&file)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']))),
            Err(error) => {
                self.faults.push(format!("{file}={path:?}: {error}"));
                None
            }
        }
    }
}

/// Reads a span of time: a whole number and a unit.
#[must_use]
pub fn parse_span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" | "min" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let map: HashMap<String, String> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::read(&|name: &str| map.get(name).cloned())
    }

    #[test]
    fn the_defaults_are_what_the_table_says() {
        let stated: Vec<_> = VARIABLES
            .iter()
            .filter(|variable| !variable.default.starts_with('<'))
            .map(|variable| (variable.name, variable.default))
            .collect();
        assert_eq!(read(&stated), read(&[]));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let faults = read(&[
            ("MQTT_PORT", "99999"),
            ("INGEST_LINGER", "soon"),
            ("MQTT_SHARED", "perhaps"),
            ("INGEST_SHARDS", "0"),
            ("DATABASE_URL", "mysql://x"),
        ])
        .expect_err("all five are wrong")
        .0;
        for name in ["MQTT_PORT", "INGEST_LINGER", "MQTT_SHARED", "INGEST_SHARDS", "DATABASE_URL"] {
            assert!(faults.iter().any(|fault| fault.contains(name)), "{name} is missing in {faults:?}");
        }
    }

    #[test]
    fn secrets_come_from_files_and_do_not_print() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), "hunter2\n").expect("it can be written");
        let path = file.path().to_str().expect("UTF-8");
        let config = read(&[("MQTT_USERNAME", "service"), ("MQTT_PASSWORD_FILE", path)]).expect("it can be read");
        assert_eq!(config.mqtt.password.as_ref().map(Secret::reveal), Some("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn jwts_are_taken_of_a_named_issuer_for_a_named_audience_only() {
        let whole = [
            ("JWT_KEYS", "/etc/iotflow/jwks.json"),
            ("JWT_ISSUER", "https://login.example.org"),
            ("JWT_AUDIENCE", "iotflow"),
            ("JWT_ROLE_CLAIM", "iotflow_role"),
        ];
        let jwt = read(&whole).expect("it can be read").jwt.expect("it is set");
        assert_eq!([&jwt.issuer, &jwt.audience, &jwt.role_claim], [whole[1].1, whole[2].1, whole[3].1]);
        for missing in ["JWT_KEYS", "JWT_ISSUER", "JWT_AUDIENCE"] {
            let rest: Vec<_> = whole.into_iter().filter(|(name, _)| *name != missing).collect();
            let faults = read(&rest).expect_err("one is missing").0;
            assert!(faults.iter().all(|fault| fault.contains(missing)), "{missing}: {faults:?}");
        }
    }

    #[test]
    fn every_variable_is_read() {
        // A value that none of them takes for granted: reading it must change the result, or be a fault.
        for variable in VARIABLES {
            let value = match variable.name {
                "MQTT_PASSWORD" | "MQTT_CA_CERT_PATH" | "MQTT_CERT_FILE_PATH" | "MQTT_KEY_FILE_PATH" | "JWT_ROLE_CLAIM" => continue,
                "DATABASE_URL" => "postgres://elsewhere/db",
                "MQTT_SHARED" => "false",
                "API_TRUSTED_PROXIES" => "192.0.2.1, ::1",
                "MQTT_USE_TLS" => "true",
                "DISCOVERY_POLICY" => "open",
                _ => "17",
            };
            assert_ne!(read(&[(variable.name, value)]), read(&[]), "{} is not read", variable.name);
        }
    }
}
