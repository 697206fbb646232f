//! Messages of known devices pass through an intake here, on an allocator that counts.
#![allow(unsafe_code, reason = "a global allocator is unsafe by definition")]

#[path = "../benches/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use fastrand::Rng;
use iotflow::ingest::config::Config;
use iotflow::ingest::parse::Intake;
use iotflow::ingest::queue::Delivery;
use iotflow::ingest::rate::Rates;

use support::{DEVICES, MESSAGES, Publish, array, deliver, event, flat, fleet, industrial, intake_that_knows, values};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The system's allocator, which counts on each thread by itself: the tests beside this one are none of its business.
struct Counting;

thread_local! {
    // Const and without a destructor: reading it never allocates, and it can be read while a thread ends.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: each call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`, which is `System`'s too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: `block` came from `System` with this layout; the caller answers for `bytes`.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn take_all(intake: &mut Intake, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        intake.take(delivery);
    }
}

/// Takes `publishes` until all buffers have grown, and then once more, counting.
fn allocations_in_steady_state(publishes: &[Publish]) -> u64 {
    let mut intake = intake_that_knows(publishes);
    // Two batches take turns; each gets to be filled twice.
    for _ in 0..4 {
        take_all(&mut intake, deliver(publishes));
        let batch = intake.seal();
        intake.take_back(batch);
    }
    let deliveries = deliver(publishes);
    let allocations = allocations_of(|| take_all(&mut intake, deliveries));
    let batch = &intake.batch;
    assert_eq!(batch.messages.len(), MESSAGES);
    assert!(batch.rows() >= MESSAGES && batch.messages.iter().all(|message| message.refusal.is_none()));
    assert!(
        batch.new_devices.is_empty() && batch.new_sets.is_empty(),
        "every name should be known"
    );
    allocations
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(1)))), 1);
    let mut grown = std::hint::black_box(vec![1]);
    assert_eq!(allocations_of(|| grown.reserve_exact(100)), 1);
}

/// A device's first message makes its bucket; what comes after it, admitted or not, finds one.
#[test]
fn a_message_of_a_device_that_has_a_bucket_allocates_nothing() {
    let config = Config {
        device_rate: 1,
        device_burst: 5,
        ..Config::default()
    };
    let mut rates = Rates::new(&config).expect("a good base topic").expect("a limit");
    let now = Instant::now();
    rates.begin(false, now);
    let deliveries = deliver(&fleet("sensors", flat));
    let mut limited = 0;
    let mut take_all = || {
        for delivery in &deliveries {
            limited += usize::from(rates.is_exceeded_by(&delivery.topic, now));
        }
    };
    assert!(allocations_of(&mut take_all) > 0, "buckets are made");
    assert_eq!(allocations_of(&mut take_all), 0, "{MESSAGES} messages");
    assert_eq!(
        limited,
        2 * MESSAGES - 5 * DEVICES,
        "of each device as many as a bucket holds are admitted"
    );
}

#[test]
fn a_message_of_a_known_device_and_metric_set_allocates_nothing() {
    let three = |random: &mut Rng, device: &str, time| array(random, device, time, 3);
    for (form, publishes) in [
        ("flat", fleet("sensors", flat)),
        ("ts and values", fleet("sensors", values)),
        ("structured, with metadata", fleet("metrics", industrial)),
        ("array", fleet("sensors", three)),
        ("event", fleet("events", event)),
    ] {
        assert_eq!(allocations_in_steady_state(&publishes), 0, "{MESSAGES} messages, {form}");
    }
}
