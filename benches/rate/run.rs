//! One measurement: a fleet publishes, somebody receives, and clocks and CPU meters are read before and after.
//!
//! Rates span from the fleet's start to the last message received (null) or committed (service, by the server's own
//! record), so that both are measured alike.

use std::process::Stdio;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::Instant;

use super::support::fleet::{self, Fleet, Report};
use super::support::pause;
use super::support::servers::{PASSWORD, SERVICE, Servers};
use super::support::service::{Service, sum};
use super::{PATIENCE, cpu};

/// How many devices publish.
const DEVICES: u64 = 1_000;

/// Messages a second, µs of CPU a message by station. Zero is what was not measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) rate: f64,
    pub(crate) broker: f64,
    pub(crate) subscriber: f64,
    pub(crate) postgres: f64,
    pub(crate) rows_per_copy: f64,
}

/// What is published.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) qos: u8,
    pub(crate) messages: u64,
    /// Messages a second; zero is as many as the broker takes.
    pub(crate) rate: u64,
    /// The most it may last.
    pub(crate) seconds: u64,
    pub(crate) profile: &'static str,
    /// What device ids begin with; tells the runs apart.
    pub(crate) prefix: String,
}

impl Load {
    /// As fast as the broker takes it.
    pub(crate) fn full(qos: u8, messages: u64, prefix: &str) -> Self {
        Self {
            qos,
            messages,
            rate: 0,
            seconds: PATIENCE.as_secs(),
            profile: "default",
            prefix: prefix.to_owned(),
        }
    }

    /// Publishes it, and with a database waits until it is verified.
    async fn publish(&self, servers: &Servers, database_url: &str) -> Report {
        let [qos, messages, rate, seconds, devices] =
            [u64::from(self.qos), self.messages, self.rate, self.seconds, DEVICES].map(|number| number.to_string());
        let arguments = [
            ["--rate", &rate],
            ["--duration", &seconds],
            ["--devices", &devices],
            ["--connections", "4"],
            ["--prefix", &self.prefix],
            ["--qos", &qos],
            ["--messages", &messages],
            ["--profile", self.profile],
        ];
        let report = Fleet::start(servers.mqtt_port, database_url, &arguments.concat()).report().await;
        // A schedule may end a message or two before the number does.
        assert!(report.number("/sent") + DEVICES >= self.messages, "{:?}", report.0);
        report
    }
}

/// The null subscriber.
pub(crate) async fn null(servers: &Servers, qos: u8, messages: u64) -> Figures {
    let mut sink = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(fleet::program())
        .args(["sink", "--qos", &qos.to_string()])
        .env("MQTT_HOST", "127.0.0.1")
        .env("MQTT_PORT", servers.mqtt_port.to_string())
        .env("MQTT_USERNAME", SERVICE)
        .env("MQTT_PASSWORD", PASSWORD)
        .stdout(Stdio::piped())
        .spawn()
        .expect("setpriv (util-linux) can be started");
    let mut lines = BufReader::new(sink.stdout.take().expect("it is piped")).lines();
    assert_eq!(lines.next_line().await.expect("it speaks").as_deref(), Some("subscribed"));
    let (broker, subscriber) = (servers.broker.process().expect("it runs").id(), sink.id().expect("it runs"));
    let before = [cpu::of(broker), cpu::of(subscriber)];
    let sent = Load::full(qos, messages, "null-").publish(servers, "").await;
    // Its CPU is read when all has come, before it ends.
    let mut used = [0.0; 2];
    let report = loop {
        tokio::select! {
            line = lines.next_line() => break line.expect("it speaks").expect("it reports"),
            () = pause(Duration::from_millis(50)) => used = [cpu::of(broker) - before[0], cpu::of(subscriber) - before[1]],
        }
    };
    sink.wait().await.expect("it is our child");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let number = |name: &str| report[name].as_f64().expect("a number");
    Figures {
        rate: number("messages") / (number("last_at") - sent.started_at()),
        broker: used[0] / number("messages") * 1e6,
        subscriber: used[1] / number("messages") * 1e6,
        ..Figures::default()
    }
}

/// The service, until all is committed.
pub(crate) async fn service(servers: &Servers, load: Load) -> Figures {
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let (broker, postgres) = (
        servers.broker.process().expect("it runs").id(),
        servers.postgres.process().expect("it runs").id(),
    );
    // Each device once, so that its name, learned for good, is no part of what a message costs.
    let introduced = Load {
        messages: DEVICES,
        ..load.clone()
    };
    introduced.publish(servers, "").await;
    let warm = settled(&service, DEVICES).await;
    let before = [cpu::of(broker), cpu::of(service.id()), cpu::of_family(postgres)];
    let sent = load.publish(servers, "").await;
    let mut series = settled(&service, DEVICES + sent.number("/sent")).await;
    for (name, value) in &mut series {
        *value -= warm.get(name).copied().unwrap_or(0.0);
    }
    let used = [
        cpu::of(broker) - before[0],
        cpu::of(service.id()) - before[1],
        cpu::of_family(postgres) - before[2],
    ];
    let [committed, shed] = ["iotflow_qos_committed_total", "iotflow_qos_shed_total"].map(|family| sum(&series, family));
    if shed > 0.0 {
        println!("| {} | shed {shed:.0} of {} | | | | | |", load.qos, load.messages);
    }
    let seconds = last_commit(servers, &load.prefix).await - sent.started_at();
    end(servers, &mut service).await;
    let [broker, subscriber, postgres] = used.map(|seconds| seconds / committed * 1e6);
    Figures {
        rate: committed / seconds,
        broker,
        subscriber,
        postgres,
        rows_per_copy: sum(&series, "iotflow_db_copy_rows_sum") / sum(&series, "iotflow_db_copy_rows_count"),
    }
}

/// From due to committed, by the server's own record, in words.
pub(crate) async fn latency(servers: &Servers, load: Load) -> String {
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let report = load.publish(servers, servers.postgres.url().reveal()).await;
    report.assert_exactly_once(&load.prefix);
    end(servers, &mut service).await;
    let at = |name: &str| {
        report.0["verified"]["latency"][name]
            .as_f64()
            .expect("the server keeps commit times")
    };
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms (generator's own lag p99 {:.1} ms)",
        at("p50_ms"),
        at("p99_ms"),
        at("p999_ms"),
        at("max_ms"),
        report.0["generator_lag"]["p99_ms"].as_f64().expect("a number")
    )
}

/// Waits until the service has an outcome for so many messages; at QoS 0, until nothing more comes.
async fn settled(service: &Service, expected: u64) -> std::collections::BTreeMap<String, f64> {
    let (deadline, mut quiet, mut before) = (Instant::now() + PATIENCE, 0, 0.0);
    loop {
        let series = service.series().await;
        let settled = sum(&series, "iotflow_qos_committed_total") + sum(&series, "iotflow_qos_shed_total");
        quiet = if settled > before { 0 } else { quiet + 1 };
        before = settled;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        if settled + 0.5 > expected as f64 || quiet == 40 {
            return series;
        }
        assert!(Instant::now() < deadline, "{settled} of {expected} messages were settled");
        pause(Duration::from_millis(50)).await;
    }
}

/// When the last row of these devices was committed, in seconds since 1970.
async fn last_commit(servers: &Servers, prefix: &str) -> f64 {
    let sql = servers.sql().await;
    sql.query_one(
        "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(t.xmin)))::float8
         FROM telemetry t JOIN devices d USING (device_id) WHERE starts_with(d.device, $1)",
        &[&prefix],
    )
    .await
    .expect("commit times are kept")
    .get(0)
}

/// Stops the service and ends its sessions, which would else gather what is published for the null subscriber.
async fn end(servers: &Servers, service: &mut Service) {
    let (status, _) = service.terminate().await;
    assert!(status.success());
    for client_id in ["iotflow-ingest-0", "iotflow-ingest-status"] {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", servers.mqtt_port);
        options.set_credentials(SERVICE, PASSWORD).set_clean_start(true);
        let (client, mut events) = AsyncClient::new(options, 10);
        while !matches!(
            events.poll().await.expect("the broker is there"),
            Event::Incoming(Packet::ConnAck(_))
        ) {}
        client.disconnect().await.expect("there is room for one request");
        while events.poll().await.is_ok() {}
    }
}
