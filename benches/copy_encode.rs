//! A batch passes through here, from rows in order of arrival to the bytes of a binary COPY in order of the key.

mod support;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotflow::db::copy_in::frame;
use iotflow::ingest::transaction::Part;

use support::{DEVICES, MESSAGES, deliver, flat, fleet, intake_that_knows};

fn copy_encode(criterion: &mut Criterion) {
    let publishes = fleet("sensors", flat);
    let mut intake = intake_that_knows(&publishes);
    for delivery in deliver(&publishes) {
        intake.take(delivery);
    }
    let mut batch = intake.seal();
    let arrived = batch.telemetry.rows.clone();
    assert_eq!(arrived.len(), MESSAGES);
    let size = format!("{MESSAGES} rows of {DEVICES} devices");

    let mut group = criterion.benchmark_group("copy_encode");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function(BenchmarkId::new("sort", &size), |bencher| {
        bencher.iter_batched(
            || arrived.clone(),
            |rows| {
                batch.telemetry.rows = rows;
                batch.resolve(Vec::new(), Vec::new());
                // Handed back, so that dropping them is not timed.
                std::mem::take(&mut batch.telemetry.rows)
            },
            BatchSize::LargeInput,
        );
    });

    batch.telemetry.rows = arrived;
    batch.resolve(Vec::new(), Vec::new());
    let (rows, part) = (&batch.telemetry, Part::whole(&batch));
    let encode = |buffer: &mut BytesMut| frame(part.rows[0].iter().map(|row| rows.bytes(&rows.rows[*row as usize])), buffer);
    // The writer's: reused, as each COPY is over before the next begins.
    let mut buffer = BytesMut::new();
    group.throughput(Throughput::ElementsAndBytes {
        elements: MESSAGES as u64,
        bytes: encode(&mut buffer).len() as u64,
    });
    group.bench_function(BenchmarkId::new("frame", &size), |bencher| {
        bencher.iter(|| encode(&mut buffer));
    });
    group.finish();
}

criterion_group!(benches, copy_encode);
criterion_main!(benches);
