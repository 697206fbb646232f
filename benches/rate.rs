//! End to end: how many messages a second go from publishers to committed rows, and what each costs in CPU at the broker,
//! the service and PostgreSQL; beside a null subscriber at the same broker, in turn, in the same run.
//!
//! `cargo bench --bench rate [-- MESSAGES ROUNDS]`, or `./dev rate`. The publishers send as fast as the broker takes.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use support::fleet::{self, Fleet};
use support::servers::{PASSWORD, SERVICE, Servers};
use support::service::Service;
use support::service::sum;
use support::{eventually, pause};

/// `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One measurement: messages a second, and µs of CPU a message by station.
#[derive(Debug, Clone, Default)]
struct Figures {
    rate: f64,
    broker: f64,
    subscriber: f64,
    postgres: f64,
    rows_per_copy: f64,
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (messages, rounds) = (numbers.first().copied().unwrap_or(300_000), numbers.get(1).copied().unwrap_or(3));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread can be started");
    runtime.block_on(async {
        let servers = Servers::durable().await;
        // Names are learned and partitions made before anything is measured.
        measure_service(&servers, 1, 20_000, "warm-").await;
        println!("{messages} messages a run, 1,000 devices, the default profile, {rounds} rounds; medians\n");
        println!("| QoS | subscriber | messages/s | broker µs | subscriber µs | PostgreSQL µs | rows a COPY |");
        println!("|---|---|---|---|---|---|---|");
        for qos in [0, 1] {
            let (mut null, mut service) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                null.push(measure_null(&servers, qos, messages).await);
                service.push(measure_service(&servers, qos, messages, &format!("q{qos}r{round}-")).await);
            }
            let ratios: Vec<f64> = null.iter().zip(&service).map(|(null, service)| service.rate / null.rate).collect();
            print(qos, "null", &null);
            print(qos, "iotflow", &service);
            println!(
                "| {qos} | iotflow / null, pair by pair | {:.2} ({}) | | | | |",
                median(&ratios),
                ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ")
            );
        }
    });
}

fn print(qos: u8, name: &str, figures: &[Figures]) {
    let of = |value: fn(&Figures) -> f64| median(&figures.iter().map(value).collect::<Vec<_>>());
    println!(
        "| {qos} | {name} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} |",
        of(|f| f.rate),
        of(|f| f.broker),
        of(|f| f.subscriber),
        of(|f| f.postgres),
        of(|f| f.rows_per_copy)
    );
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

async fn publish(servers: &Servers, qos: u8, messages: u64, prefix: &str) {
    let (qos, messages) = (qos.to_string(), messages.to_string());
    let arguments = [
        "--rate",
        "0",
        "--duration",
        "600",
        "--devices",
        "1000",
        "--connections",
        "4",
        "--prefix",
        prefix,
        "--qos",
        &qos,
        "--messages",
        &messages,
    ];
    let report = Fleet::start(servers.mqtt_port, "", &arguments).report().await;
    assert_eq!(report.number("/sent").to_string(), messages);
}

/// Ends the service's sessions, which would else gather what is published for the null subscriber.
async fn forget_sessions(servers: &Servers) {
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

async fn measure_null(servers: &Servers, qos: u8, messages: u64) -> Figures {
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
    let before = [cpu(broker), cpu(subscriber)];
    publish(servers, qos, messages, "null-").await;
    // Its CPU is read when all has come, before it ends.
    let mut used = [0.0; 2];
    let report = loop {
        tokio::select! {
            line = lines.next_line() => break line.expect("it speaks").expect("it reports"),
            () = pause(Duration::from_millis(50)) => used = [cpu(broker) - before[0], cpu(subscriber) - before[1]],
        }
    };
    sink.wait().await.expect("it is our child");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    let received = report["messages"].as_f64().expect("a number");
    Figures {
        rate: report["rate"].as_f64().expect("a number"),
        broker: used[0] / received * 1e6,
        subscriber: used[1] / received * 1e6,
        ..Figures::default()
    }
}

async fn measure_service(servers: &Servers, qos: u8, messages: u64, prefix: &str) -> Figures {
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let (broker, postgres) = (
        servers.broker.process().expect("it runs").id(),
        servers.postgres.process().expect("it runs").id(),
    );
    let before = [cpu(broker), cpu(service.id()), family_cpu(postgres)];
    let begun = Instant::now();
    publish(servers, qos, messages, prefix).await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let expected = messages as f64;
    let series = eventually("everything is settled", async || {
        let series = service.series().await;
        let settled = sum(&series, "iotflow_qos_committed_total") + sum(&series, "iotflow_qos_shed_total");
        (settled >= expected - 0.5 || (qos == 0 && begun.elapsed() > Duration::from_secs(50))).then_some(series)
    })
    .await;
    let seconds = begun.elapsed().as_secs_f64();
    let used = [
        cpu(broker) - before[0],
        cpu(service.id()) - before[1],
        family_cpu(postgres) - before[2],
    ];
    let committed = sum(&series, "iotflow_qos_committed_total");
    let shed = sum(&series, "iotflow_qos_shed_total");
    if shed > 0.0 {
        println!("| {qos} | iotflow shed {shed:.0} of {messages} | | | | | |");
    }
    let (status, _) = service.terminate().await;
    assert!(status.success());
    forget_sessions(servers).await;
    let [broker, subscriber, postgres] = used.map(|seconds| seconds / committed * 1e6);
    let rows_per_copy = sum(&series, "iotflow_db_copy_rows_sum") / sum(&series, "iotflow_db_copy_rows_count");
    Figures {
        rate: committed / seconds,
        broker,
        subscriber,
        postgres,
        rows_per_copy,
    }
}

/// Seconds of CPU that a process has used, user and system.
fn cpu(pid: u32) -> f64 {
    fields(pid).map_or(0.0, |fields| (fields[13] + fields[14]) / TICKS_PER_SECOND)
}

/// The same of a process and all its children, ended ones included.
fn family_cpu(parent: u32) -> f64 {
    let pids = std::fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children: f64 = pids
        .filter(|pid| fields(*pid).is_some_and(|fields| (fields[3] - f64::from(parent)).abs() < 0.5))
        .map(cpu)
        .sum();
    let own = fields(parent).map_or(0.0, |fields| (fields[13] + fields[14] + fields[15] + fields[16]) / TICKS_PER_SECOND);
    own + children
}

/// The fields of `/proc/PID/stat` (proc(5)), from 0; what is no number is NaN.
fn fields(pid: u32) -> Option<Vec<f64>> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the name in brackets, and may hold spaces.
    let (name, rest) = text.split_once(')')?;
    let first = name.split_whitespace().next()?.parse().ok()?;
    Some(
        [first, f64::NAN]
            .into_iter()
            .chain(rest.split_whitespace().map(|field| field.parse().unwrap_or(f64::NAN)))
            .collect(),
    )
}
