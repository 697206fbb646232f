//! Acks pass through here: entries opened, settled by the shards, and taken off in receive order.

use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotflow::ingest::ledger::{Ticket, Window, settle};
use metrics::Counter;

const BURST: u16 = 1_000;

fn open_settle_ack(criterion: &mut Criterion) {
    let received = Instant::now();
    let mut group = criterion.benchmark_group("ledger/open_settle_ack");
    group.throughput(Throughput::Elements(u64::from(BURST)));
    for (name, shards) in [("in order", 1), ("two shards interleaved", 2)] {
        let mut window = Window::new(u16::MAX, Counter::noop(), Default::default());
        let mut tickets: Vec<Vec<Ticket>> = (0..shards).map(|_| Vec::with_capacity(usize::from(BURST))).collect();
        let case = BenchmarkId::from_parameter(format_args!("{name}, bursts of {BURST}"));
        group.bench_function(case, |bencher| {
            bencher.iter(|| {
                for packet_id in 1..=BURST {
                    let ticket = window.open(packet_id, received);
                    tickets[usize::from(packet_id) % shards].push(ticket);
                }
                let mut acked = 0;
                // The first message is shard 1's (of two): while only shard 0 has committed, the head is not done.
                for shard in &mut tickets {
                    settle(shard.drain(..));
                    while let Some(done) = window.next_done() {
                        black_box(done);
                        acked += 1;
                    }
                }
                assert_eq!(acked, BURST);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, open_settle_ack);
criterion_main!(benches);
