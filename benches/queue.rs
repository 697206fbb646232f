//! Deliveries pass through here from one thread to another, by a shard's queue.

mod support;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotflow::ingest::config::Config;
use iotflow::ingest::doorbell::Sleeper;
use iotflow::ingest::ledger::Window;
use iotflow::ingest::queue::{Delivery, ShardQueue};
use metrics::Counter;

use support::{flat, fleet};

/// Deliveries between two wakes, as a read from the socket brings them.
const BURST: usize = 64;
/// Deliveries between two looks at the clock: enough that what the last of them costs to report is hardly seen, and
/// fewer than the queue takes at either QoS, so that none is shed.
const ROUND: usize = 512 * BURST;

fn hand_off(criterion: &mut Criterion) {
    let publishes = fleet("sensors", flat);
    let received = Instant::now();
    let mut group = criterion.benchmark_group("queue/hand_off");
    group.throughput(Throughput::Elements(ROUND as u64));
    for qos in 0..=1 {
        // Tickets make QoS 1. Nobody spends them: the connection they would close is not there.
        let mut window = Window::new(u16::MAX, Counter::noop(), Default::default());
        let mut ticket = |packet_id| window.open(packet_id, received);
        let deliveries: Vec<Delivery> = (1..)
            .zip(publishes.iter().cycle())
            .take(ROUND)
            .map(|(packet_id, publish)| Delivery {
                ticket: (qos == 1).then(|| ticket(packet_id)),
                ..publish.deliver(received)
            })
            .collect();
        let queue = ShardQueue::new(Config::default().queue_qos0, usize::from(u16::MAX));
        let sleeper = queue.sleeper().expect("the first to ask");

        let case = BenchmarkId::from_parameter(format_args!("QoS {qos}, bursts of {BURST}"));
        thread::scope(|scope| {
            let (empties, inbox) = sync_channel(2);
            let (outbox, fulls) = sync_channel(2);
            let queue = &queue;
            scope.spawn(move || consume(queue, &sleeper, inbox, &outbox));
            // The same deliveries go round and round between two buffers, so nothing is built or dropped meanwhile.
            let (mut full, mut empty) = (deliveries, Vec::with_capacity(ROUND));
            group.bench_function(case, |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..rounds {
                        empties.send(std::mem::take(&mut empty)).expect("the consumer is there");
                        let start = Instant::now();
                        produce(queue, &mut full);
                        let taken = fulls.recv().expect("the consumer is there");
                        elapsed += start.elapsed();
                        empty = std::mem::replace(&mut full, taken);
                    }
                    elapsed
                });
            });
        });
    }
    group.finish();
}

fn produce(queue: &ShardQueue, deliveries: &mut Vec<Delivery>) {
    let mut round = deliveries.drain(..);
    while round.len() > 0 {
        for delivery in round.by_ref().take(BURST) {
            queue.push(delivery).expect("there is room for a round");
        }
        queue.wake();
    }
}

/// Fills each buffer of `empties` with a round and reports it full.
fn consume(queue: &ShardQueue, sleeper: &Sleeper, empties: Receiver<Vec<Delivery>>, full: &SyncSender<Vec<Delivery>>) {
    for mut taken in empties {
        while taken.len() < ROUND {
            queue.sleep(sleeper, None);
            while let Some(delivery) = queue.pop() {
                taken.push(delivery);
            }
        }
        // The producer is gone only if it panicked.
        if full.send(taken).is_err() {
            return;
        }
    }
}

criterion_group!(benches, hand_off);
criterion_main!(benches);
