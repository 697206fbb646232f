//! Deliveries pass through here into batches, as on a shard's thread, and the batches into a sink that counts their rows.

mod support;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use iotflow::ingest::batch::Batch;

use support::{DEVICES, MESSAGES, deliver, flat, fleet, industrial, intake_that_knows};

/// Stands in for the writer: counts what it would store, and returns the batch at once.
#[derive(Default)]
struct Sink {
    rows: usize,
    refused: usize,
}

impl Sink {
    fn store(&mut self, batch: Batch) -> Batch {
        self.rows += black_box(&batch).telemetry.rows.len();
        self.refused += batch.messages.iter().filter(|message| message.refusal.is_some()).count();
        batch
    }
}

fn delivery_to_batch(criterion: &mut Criterion) {
    type Payload = fn(&mut Rng, &str, i64) -> String;
    let payloads: [(&str, Payload); 2] = [("flat, 3 metrics", flat), ("structured, 12 metrics", industrial)];
    let mut group = criterion.benchmark_group("pipeline/delivery_to_batch");
    for (name, payload) in payloads {
        let publishes = fleet("sensors", payload);
        let mut intake = intake_that_knows(&publishes);
        let bytes: usize = deliver(&publishes).iter().map(|delivery| delivery.payload.len()).sum();
        group.throughput(Throughput::ElementsAndBytes {
            elements: MESSAGES as u64,
            bytes: bytes as u64,
        });
        let case = BenchmarkId::from_parameter(format_args!("{name}, {MESSAGES} messages of {DEVICES} devices"));
        group.bench_function(case, |bencher| {
            // By reference, so that the input's empty buffer is dropped when the clock has stopped.
            bencher.iter_batched_ref(
                || deliver(&publishes),
                |deliveries| {
                    for delivery in deliveries.drain(..) {
                        intake.take(delivery);
                    }
                    let mut sink = Sink::default();
                    let stored = sink.store(intake.seal());
                    intake.take_back(stored);
                    assert_eq!((sink.rows, sink.refused), (MESSAGES, 0));
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, delivery_to_batch);
criterion_main!(benches);
