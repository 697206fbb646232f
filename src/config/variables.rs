//! Every variable in one table: what the command line offers, the environment is searched for, and `.env.example` repeats.

/// A variable: its name, what it is for, an example or default as people write it, and whether it is a secret.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Upper case, as in the environment.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// The default, or an example in angle brackets where there is none.
    pub default: &'static str,
    /// Whether its value must not be printed, and may come from `NAME_FILE`.
    pub secret: bool,
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        help,
        default,
        secret: false,
    }
}

const fn secret(name: &'static str, default: &'static str, help: &'static str) -> Variable {
    Variable {
        name,
        help,
        default,
        secret: true,
    }
}

/// Every variable, in the order in which people meet them.
pub const VARIABLES: &[Variable] = &[
    variable("MQTT_HOST", "localhost", "Broker's host name or address"),
    variable("MQTT_PORT", "1883", "Broker's TCP port"),
    variable("MQTT_USERNAME", "<none>", "User the broker knows the service by"),
    secret("MQTT_PASSWORD", "<none>", "That user's password"),
    variable("MQTT_USE_TLS", "false", "Whether to speak TLS to the broker"),
    variable(
        "MQTT_CA_CERT_PATH",
        "<none>",
        "PEM file with the authorities that sign the broker's certificate",
    ),
    variable(
        "MQTT_CERT_FILE_PATH",
        "<none>",
        "PEM file with the service's own certificate, where the broker asks for one",
    ),
    variable("MQTT_KEY_FILE_PATH", "<none>", "PEM file with that certificate's key"),
    variable(
        "MQTT_KEEP_ALIVE",
        "15s",
        "Longest silence towards the broker; a half-open connection is noticed within twice this",
    ),
    variable(
        "MQTT_CONNECT_TIMEOUT",
        "10s",
        "Most time for a connection to the broker to come about",
    ),
    variable(
        "MQTT_RECEIVE_MAXIMUM",
        "65535",
        "Deliveries the broker may have under way to one connection",
    ),
    variable(
        "MQTT_MAX_PACKET_BYTES",
        "8388608",
        "Largest packet the broker is told we take; larger ones it drops itself",
    ),
    variable(
        "MQTT_SESSION_EXPIRY",
        "7d",
        "How long the broker keeps what it could not deliver to us",
    ),
    variable(
        "MQTT_SHARED",
        "true",
        "Whether to use shared subscriptions; false for brokers that do not keep them across a restart",
    ),
    variable("MQTT_BASE_TOPIC", "iotflow", "Base of the topic tree"),
    secret("DATABASE_URL", "postgres://localhost/iotflow", "PostgreSQL to write to"),
    variable(
        "DATABASE_CONNECT_TIMEOUT",
        "5s",
        "Most time for a connection to the database to come about",
    ),
    variable(
        "DATABASE_COPY_TIMEOUT",
        "30s",
        "Most time for one batch, after which it is cancelled and tried again",
    ),
    variable(
        "TELEMETRY_PARTITION_DAYS",
        "1",
        "Days per partition of telemetry and events (plain PostgreSQL)",
    ),
    variable(
        "TELEMETRY_RETENTION",
        "0s",
        "How long telemetry and events are kept (plain PostgreSQL); 0s keeps them for ever",
    ),
    variable("INGEST_GROUP", "ingest", "Share group, and part of each client id"),
    secret(
        "INGEST_SHARE_NAME",
        "<INGEST_GROUP>",
        "Name of the share at the broker; whoever knows it and has a credential can take messages away, so make it a random one",
    ),
    variable("INGEST_SLOTS", "1", "Members of the share group, of the whole installation"),
    variable("INGEST_SHARDS", "<half the cores>", "Shards that parse and write side by side"),
    variable(
        "INGEST_LINGER",
        "25ms",
        "How long a batch waits for more: half of it when hardly anything comes, up to four times when it pays",
    ),
    variable("INGEST_BATCH_ROWS", "10000", "Rows at which a batch closes"),
    variable("INGEST_BATCH_BYTES", "16777216", "Bytes of rows at which a batch closes"),
    variable("INGEST_QUEUE_QOS0", "65536", "QoS 0 messages a shard's queue takes before it sheds"),
    variable(
        "INGEST_HELD_BYTES",
        "268435456",
        "Bytes of topics and payloads in flight at which reading pauses",
    ),
    variable(
        "INGEST_MAX_PAYLOAD_BYTES",
        "1048576",
        "Largest payload that is parsed; larger ones become dead letters",
    ),
    variable("INGEST_MAX_DEVICE_METRICS", "512", "Distinct metrics one device may have"),
    variable(
        "INGEST_DEVICE_RATE",
        "0",
        "Messages a second that one device may send; above it QoS 0 is shed and QoS 1 becomes a dead letter; 0 limits nothing",
    ),
    variable(
        "INGEST_DEVICE_BURST",
        "0",
        "Messages that a device may send at once above that rate; 0 takes ten seconds' worth",
    ),
    variable(
        "INGEST_RECEIPTS",
        "false",
        "Whether a device that publishes telemetry with a Response Topic of its own gets a receipt after the commit",
    ),
    variable("INGEST_TIME_PAST", "3653d", "How far back a device's time may lie"),
    variable("INGEST_TIME_FUTURE", "1d", "How far ahead a device's time may lie"),
    variable(
        "PRESENCE_TIMEOUT",
        "5m",
        "How long after its last heartbeat a device counts as offline; 0s never",
    ),
    variable(
        "COMMAND_RETENTION",
        "90d",
        "How long after they were given commands that have come to their end are kept; 0s keeps them for ever",
    ),
    variable(
        "COURIER_DEVICE_RATE",
        "100",
        "Messages a second that one device may say beside its telemetry (answers and configurations); what is above is dropped and counted; 0 limits nothing",
    ),
    variable(
        "COURIER_DEVICE_BURST",
        "0",
        "Messages that a device may say at once above that rate; 0 takes ten seconds' worth",
    ),
    variable(
        "DISCOVERY_POLICY",
        "approval",
        "Which devices that ask get credentials: off, open (all), approval (an operator decides) or preregistered (those announced)",
    ),
    variable(
        "DISCOVERY_RATE",
        "120",
        "Registrations a minute that are looked at; what is above is dropped",
    ),
    variable("DISCOVERY_MAX_PENDING", "1000", "Devices that may wait for approval"),
    variable(
        "SYSTEM_TOPICS_EVERY",
        "10s",
        "How often figures are published on system/metrics and monitoring/#; 0s publishes nothing, health and alerts included",
    ),
    variable("HOST", "127.0.0.1", "Address of the HTTP listener"),
    variable("PORT", "8080", "Port of the HTTP listener; 0 takes a free one"),
    variable(
        "API_CONNECTIONS",
        "8",
        "Connections to the database for HTTP requests, beside those of ingest",
    ),
    variable(
        "API_RATE",
        "2000",
        "Requests a second that one caller may make, twice as many at once; 0 limits nothing",
    ),
    variable(
        "API_LOCKOUT_FAILURES",
        "20",
        "Wrong credentials from one address within a minute that lock it out for a minute; 0 locks nobody out",
    ),
    variable("API_MAX_BODY_BYTES", "2097152", "Largest body of an HTTP request"),
    variable(
        "API_BROKER_URLS",
        "<where the service reaches it>",
        "Where devices reach the broker, as they are told: addresses such as mqtts://broker.example.org:8883, parted by commas",
    ),
    variable(
        "API_MAX_CONNECTIONS",
        "1024",
        "HTTP connections at once; a further one takes the place of one that keeps us waiting, or is told to come again",
    ),
    variable(
        "API_TIMEOUT",
        "75s",
        "Most time for an HTTP request, beside the wait= of a command; what streams is not bound by it once it has begun",
    ),
    variable(
        "API_TRUSTED_PROXIES",
        "<none>",
        "Addresses of proxies whose X-Forwarded-For is believed, with commas between",
    ),
    variable(
        "JWT_KEYS",
        "<none>",
        "File with the public keys (JWK set or PEM) of whom operators' JWTs come from; without it none is taken",
    ),
    variable("JWT_ISSUER", "<none>", "What a JWT's iss must be, where JWT_KEYS is set"),
    variable(
        "JWT_AUDIENCE",
        "<none>",
        "What a JWT's aud must be or hold, where JWT_KEYS is set: this installation",
    ),
    variable("JWT_ROLE_CLAIM", "role", "A JWT's claim that holds admin, operator or viewer"),
    variable(
        "SHUTDOWN_TIMEOUT",
        "8s",
        "Most time after SIGTERM to answer requests, and to commit and ack what was read",
    ),
    variable("LOG_LEVEL", "info", "Least severe level logged: error, warn, info, debug, trace"),
    variable("LOG_FORMAT", "pretty", "pretty or json"),
    variable("LOG_FILE", "<standard error>", "File to append the log to"),
];
