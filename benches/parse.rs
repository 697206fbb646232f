//! Payloads pass through here, from JSON to readings, or to the reason why not.

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use iotflow::ingest::config::Config;
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::payload::{Origin, Parser};
use iotflow::protocol::topic::Telemetry;

use support::{MISSION_MESSAGE, RECEIVED_AT, array, industrial, values};

fn parse(criterion: &mut Criterion) {
    const DEVICE: &str = "sensor_001";
    const MEASURED_AT: i64 = RECEIVED_AT - 1_000_000;
    let random = &mut Rng::with_seed(1);
    let cases = [
        ("flat, 3 metrics", MISSION_MESSAGE.to_owned(), Some(1)),
        ("ts and values, 3 metrics", values(random, DEVICE, MEASURED_AT), Some(1)),
        ("array of 100, 3 metrics each", array(random, DEVICE, MEASURED_AT, 100), Some(100)),
        ("structured, 12 metrics", industrial(random, DEVICE, MEASURED_AT), Some(1)),
        // Cut off before its end: the dearest refusal, as it reads the payload once more to say where.
        ("rejected, not JSON", MISSION_MESSAGE.trim_end_matches('}').to_owned(), None),
    ];

    let mut parser = Parser::new(Config::default().time_window);
    let origin = Origin {
        device: DeviceIdRef::parse(DEVICE).expect("of the grammar"),
        kind: Telemetry::Sensors,
        received_at: RECEIVED_AT,
    };
    let mut group = criterion.benchmark_group("payload/parse");
    for (name, payload, readings) in &cases {
        let summary = parser.parse(origin, payload.as_bytes(), |_| Ok(()));
        assert_eq!(
            summary.as_ref().ok().map(|summary| summary.readings),
            *readings,
            "{name} came to {summary:?}"
        );
        group.throughput(Throughput::ElementsAndBytes {
            // A refused payload is one element too: it becomes one dead letter.
            elements: u64::from(readings.unwrap_or(1)),
            bytes: payload.len() as u64,
        });
        group.bench_with_input(BenchmarkId::from_parameter(name), payload.as_bytes(), |bencher, payload| {
            bencher.iter(|| {
                parser.parse(origin, black_box(payload), |reading| {
                    black_box(reading);
                    Ok(())
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
