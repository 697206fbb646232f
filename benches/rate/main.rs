//! End to end: what goes from publishers to committed rows, and what each message costs in CPU at the broker, the service
//! and PostgreSQL; beside a null subscriber at the same broker and a bare COPY into the same database, in the same run.
//!
//! `./dev rate [MESSAGES [ROUNDS]]`. The publishers send as fast as the broker takes, but where latency is measured.

#[path = "../../tests/support/mod.rs"]
mod support;

mod bare_copy;
mod cpu;
mod run;
mod table;

use std::time::Duration;

use support::servers::Servers;

use bare_copy::BareCopy;
use run::{Figures, Load};

/// How long the load lasts that latency is measured under.
const LATENCY_SECONDS: u64 = 15;

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
        run::service(&servers, Load::full(1, 20_000, "warm-")).await;
        println!("{messages} messages a run, 1,000 devices, {rounds} rounds, medians\n");
        table::head();
        let mut rates = Vec::new();
        for qos in [0, 1] {
            rates.push(beside_null(&servers, qos, messages, rounds).await);
        }
        let [_, half] = [rates[0] / 2.0, rates[1] / 2.0];
        latency(&servers, half).await;
        arrays(&servers, messages / 20).await;
    });
}

/// Null subscriber, service and bare COPY in turn. Returns the service's rate.
async fn beside_null(servers: &Servers, qos: u8, messages: u64, rounds: u64) -> f64 {
    let (mut null, mut service, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let prefix = format!("q{qos}r{round}-");
        null.push(run::null(servers, qos, messages).await);
        bare_copy::empty(servers).await;
        let figures = run::service(servers, Load::full(qos, messages, &prefix)).await;
        let copy = BareCopy::of(servers, &prefix, &figures).await;
        let (_, copied) = tokio::join!(run::null(servers, qos, messages), copy.measure(servers));
        bare.push(copied);
        service.push(figures);
    }
    table::line(qos, "null", &null);
    table::line(qos, "iotflow", &service);
    table::line(qos, "bare COPY, beside a null subscriber", &bare);
    let of = |value: fn(&Figures) -> f64, other: &[Figures]| -> Vec<f64> {
        service
            .iter()
            .zip(other)
            .map(|(ours, theirs)| value(ours) / value(theirs))
            .collect()
    };
    table::ratios(qos, "messages/s, iotflow / null", &of(|f| f.rate, &null));
    if qos == 1 {
        table::ratios(qos, "service's CPU / null subscriber's", &of(|f| f.subscriber, &null));
    }
    table::ratios(qos, "PostgreSQL's CPU, iotflow / bare COPY", &of(|f| f.postgres, &bare));
    if let (1, Some(figures)) = (qos, service.last()) {
        sorting(servers, "", &format!("q{qos}r{}-", rounds - 1), figures).await;
    }
    table::median(service.iter().map(|f| f.rate))
}

/// What it gives the database that batches are sorted by key.
async fn sorting(servers: &Servers, load: &str, prefix: &str, figures: &Figures) {
    let [sorted, shuffled] = BareCopy::sorted_and_shuffled(servers, prefix, figures).await;
    println!(
        "\nbare COPY{load}, {:.0} rows a batch, µs of PostgreSQL's CPU a row: sorted by key {sorted:.2}, shuffled {shuffled:.2}",
        figures.rows_per_copy
    );
}

/// From due to committed, at a rate that leaves room.
async fn latency(servers: &Servers, rate: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is a small positive number"
    )]
    let rate = rate as u64;
    let load = Load {
        rate,
        seconds: LATENCY_SECONDS,
        ..Load::full(1, rate * LATENCY_SECONDS, "half-")
    };
    let latency = run::latency(servers, load).await;
    println!("\nQoS 1 at half of that rate, {rate}/s for {LATENCY_SECONDS} s, from due to committed: {latency}");
    let idle = Load {
        rate: 20,
        seconds: 10,
        ..Load::full(1, 200, "idle-")
    };
    println!(
        "QoS 1 at 20/s for 10 s, from due to committed: {}",
        run::latency(servers, idle).await
    );
}

/// A hundred readings a message.
async fn arrays(servers: &Servers, messages: u64) {
    let load = Load {
        profile: "backlog",
        ..Load::full(1, messages, "array-")
    };
    bare_copy::empty(servers).await;
    let figures = run::service(servers, load).await;
    println!(
        "\nQoS 1, {messages} messages of 100 readings: {:.0} readings/s; µs of CPU a reading: broker {:.2}, service {:.2}, PostgreSQL {:.2}; {:.0} rows a COPY",
        figures.rate * 100.0,
        figures.broker / 100.0,
        figures.subscriber / 100.0,
        figures.postgres / 100.0,
        figures.rows_per_copy
    );
    sorting(servers, " of arrays", "array-", &figures).await;
}

/// The longest that anything here takes.
const PATIENCE: Duration = Duration::from_secs(600);
