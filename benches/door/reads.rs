//! Reads by key while the fleet publishes as fast as the broker takes it, and the rate of ingest with and without them.

use std::time::Duration;

use super::caller::{Answered, Call, schedule, token};
use super::support::eventually;
use super::support::fleet::Fleet;
use super::support::judge::texts;
use super::support::servers::Servers;
use super::support::service::Service;

const DEVICES: u64 = 1_000;
/// Reads a second: a page that somebody has open for each of a hundred people.
const READS_PER_SECOND: u64 = 100;
const ROUNDS: u64 = 3;

pub(crate) async fn measure(messages: u64) {
    let servers = Servers::durable().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let token = token(&mut servers.sql().await).await;
    // Names are learned and partitions made before anything is measured.
    ingest(&servers, &service, "warm-", 20_000).await;
    let devices = texts(&servers.sql().await, "SELECT device FROM devices ORDER BY device").await;
    let read = |number: u64| {
        let device = &devices[usize::try_from(number).expect("it fits") % devices.len()];
        let path = match number % 3 {
            0 => format!("/api/v1/devices/{device}"),
            1 => format!("/api/v1/telemetry/{device}/latest"),
            _ => format!("/api/v1/devices/{device}/presence"),
        };
        Call {
            method: "GET",
            path,
            body: String::new(),
        }
    };
    let idle = schedule(&service.address, &token, READS_PER_SECOND, Duration::from_secs(10), read).await;
    println!("reads by key, {READS_PER_SECOND}/s, nothing else going on: {}", idle.words());
    let (mut alone, mut beside, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.push(ingest(&servers, &service, &format!("alone{round}-"), messages).await);
        let prefix = format!("beside{round}-");
        let ingesting = ingest(&servers, &service, &prefix, messages);
        tokio::pin!(ingesting);
        // Reads go on for as long as ingest does.
        let mut answered: Vec<Answered> = Vec::new();
        let rate = loop {
            let span = schedule(&service.address, &token, READS_PER_SECOND, Duration::from_secs(1), read);
            tokio::select! {
                rate = &mut ingesting => break rate,
                some = span => answered.push(some),
            }
        };
        beside.push(rate);
        reads.extend(answered);
    }
    let mut all = reads.pop().expect("ingest takes longer than a second");
    for other in reads {
        all.latency.add(other.latency).expect("the same form");
        all.failed += other.failed;
    }
    println!("reads by key, {READS_PER_SECOND}/s, ingest at its maximum: {}", all.words());
    let ratios: Vec<String> = beside
        .iter()
        .zip(&alone)
        .map(|(beside, alone)| format!("{:.2}", beside / alone))
        .collect();
    println!(
        "ingest, QoS 1, messages/s: alone {}, beside the reads {}; ratios {}",
        rates(&alone),
        rates(&beside),
        ratios.join(" ")
    );
}

fn rates(of: &[f64]) -> String {
    of.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(" ")
}

/// Publishes as fast as the broker takes it, until all is committed; messages a second from the first sent to the last committed.
async fn ingest(servers: &Servers, service: &Service, prefix: &str, messages: u64) -> f64 {
    let before = service.sum("iotflow_qos_committed_total").await;
    let begun = tokio::time::Instant::now();
    let [messages_text, devices] = [messages, DEVICES].map(|number| number.to_string());
    let arguments = [
        ["--rate", "0"],
        ["--duration", "600"],
        ["--devices", &devices],
        ["--connections", "4"],
        ["--prefix", prefix],
        ["--qos", "1"],
        ["--messages", &messages_text],
        ["--profile", "default"],
    ];
    let fleet = Fleet::start(servers.mqtt_port, "", &arguments.concat());
    fleet.report().await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let expected = (messages - DEVICES) as f64;
    eventually("all is committed", async || {
        (service.sum("iotflow_qos_committed_total").await - before >= expected).then_some(())
    })
    .await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let rate = messages as f64 / begun.elapsed().as_secs_f64();
    rate
}
