//! Topic names pass through here, from bytes to a device and its channel.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::topic::{Channel, Telemetry, TopicTree};

fn parse(criterion: &mut Criterion) {
    let tree = TopicTree::new("iotflow").expect("one level, no wildcard");
    let device = DeviceIdRef::parse("sensor_001").expect("of the grammar");
    let mut group = criterion.benchmark_group("topic/parse");
    for channel in Telemetry::ALL.map(Channel::Telemetry) {
        let name = tree.name(device, channel);
        assert_eq!(tree.parse(name.as_bytes()), Ok((device, channel)));
        group.throughput(Throughput::Elements(1));
        group.bench_with_input(BenchmarkId::from_parameter(channel), name.as_bytes(), |bencher, name| {
            bencher.iter(|| tree.parse(black_box(name)));
        });
    }
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
