//! Rings and sleeps pass through the doorbell here in every order: a wake-up that gets lost leaves the consumer asleep for
//! ever, and loom reports that as a deadlock.
//!
//! What is pushed is a relaxed counter, which promises less than the service's queue does.

use std::time::Duration;

use iotflow_models::doorbell::{Doorbell, Sleeper};
use iotflow_models::in_every_order_with;
use iotflow_models::sync::{Arc, AtomicBool, Ordering, Parker, Unparker, fence};
use loom::sync::atomic::AtomicUsize;
use loom::thread;

/// What the models ring: the service's doorbell, and the broken ones that show that the models would notice.
trait Bell: Send + Sync + 'static {
    type Sleeper;

    fn hang() -> (Self, Self::Sleeper)
    where
        Self: Sized;
    fn ring(&self);
    fn sleep(&self, sleeper: &Self::Sleeper, is_empty: impl Fn() -> bool);
}

impl Bell for Doorbell {
    type Sleeper = Sleeper;

    fn hang() -> (Self, Sleeper) {
        Doorbell::new()
    }

    fn ring(&self) {
        self.ring();
    }

    fn sleep(&self, sleeper: &Sleeper, is_empty: impl Fn() -> bool) {
        self.sleep(sleeper, None, is_empty);
    }
}

/// Producers push and ring `each` times while the consumer sleeps whenever it finds nothing.
fn all_is_taken<B: Bell>(producers: usize, each: usize) {
    let (bell, sleeper) = B::hang();
    let shared = Arc::new((bell, AtomicUsize::new(0)));
    let start = |_| {
        let shared = shared.clone();
        thread::spawn(move || {
            let (bell, pushed) = &*shared;
            for _ in 0..each {
                pushed.fetch_add(1, Ordering::Relaxed);
                bell.ring();
            }
        })
    };
    let threads: Vec<_> = (0..producers).map(start).collect();
    let (bell, pushed) = &*shared;
    let mut taken = 0;
    while taken < producers * each {
        bell.sleep(&sleeper, || pushed.load(Ordering::Relaxed) == taken);
        taken = pushed.load(Ordering::Relaxed);
    }
    for thread in threads {
        thread.join().expect("a producer does not panic");
    }
}

#[test]
fn no_ring_of_one_producer_is_slept_through() {
    loom::model(|| all_is_taken::<Doorbell>(1, 1));
    loom::model(|| all_is_taken::<Doorbell>(1, 2));
    in_every_order_with(4, || all_is_taken::<Doorbell>(1, 3));
}

#[test]
fn no_ring_of_two_producers_is_slept_through() {
    in_every_order_with(3, || all_is_taken::<Doorbell>(2, 1));
}

#[test]
fn the_close_ends_a_sleep_and_shows_all_that_came_before() {
    loom::model(|| {
        let (bell, sleeper) = Doorbell::new();
        let shared = Arc::new((bell, AtomicUsize::new(0)));
        let producer = {
            let shared = shared.clone();
            thread::spawn(move || {
                // Not even rung: the close alone must do.
                shared.1.fetch_add(1, Ordering::Relaxed);
                shared.0.close();
            })
        };
        let (bell, pushed) = &*shared;
        while !bell.is_closed() {
            bell.sleep(&sleeper, None, || true);
        }
        assert_eq!(pushed.load(Ordering::Relaxed), 1, "closed, and what came before is not to be seen");
        producer.join().expect("the producer does not panic");
    });
}

/// The last producer that goes closes the bell, as the last inlet does.
struct Inlet(Arc<(Doorbell, AtomicUsize)>);

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.0.close();
    }
}

#[test]
fn the_last_of_two_producers_closes_and_nothing_of_either_is_left_behind() {
    in_every_order_with(2, || {
        let (bell, sleeper) = Doorbell::new();
        let shared = Arc::new((bell, AtomicUsize::new(0)));
        let inlet = Arc::new(Inlet(shared.clone()));
        let producers = [inlet.clone(), inlet].map(|inlet| {
            thread::spawn(move || {
                inlet.0.1.fetch_add(1, Ordering::Relaxed);
                inlet.0.0.ring();
                drop(inlet);
            })
        });
        let (bell, pushed) = &*shared;
        let mut taken = 0;
        // As the parse thread does: first whether it is closed, then whether it is empty.
        while !(bell.is_closed() && pushed.load(Ordering::Relaxed) == taken) {
            bell.sleep(&sleeper, None, || pushed.load(Ordering::Relaxed) == taken);
            taken = pushed.load(Ordering::Relaxed);
        }
        assert_eq!(taken, 2, "ended although something was still there");
        for producer in producers {
            producer.join().expect("a producer does not panic");
        }
    });
}

#[test]
fn a_nudge_ends_a_rest_whenever_it_comes() {
    loom::model(|| {
        let (bell, sleeper) = Doorbell::new();
        let shared = Arc::new((bell, AtomicBool::new(false), AtomicUsize::new(0)));
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || {
                let (bell, idle, returned) = &*shared;
                returned.fetch_add(1, Ordering::Relaxed);
                idle.store(true, Ordering::Release);
                bell.nudge();
            })
        };
        let (bell, idle, returned) = &*shared;
        while !idle.swap(false, Ordering::AcqRel) {
            // The service rests for a while only; here it is for ever, so that nothing but the nudge can end it.
            bell.rest(&sleeper, Duration::MAX);
        }
        assert_eq!(
            returned.load(Ordering::Relaxed),
            1,
            "the writer is idle, and its batch is not to be seen"
        );
        writer.join().expect("the writer does not panic");
    });
}

#[test]
fn the_close_ends_a_rest_whenever_it_comes() {
    loom::model(|| {
        let (bell, sleeper) = Doorbell::new();
        let bell = Arc::new(bell);
        let last_producer = {
            let bell = bell.clone();
            thread::spawn(move || bell.close())
        };
        while !bell.is_closed() {
            bell.rest(&sleeper, Duration::MAX);
        }
        last_producer.join().expect("the producer does not panic");
    });
}

/// The doorbell's order of steps, with or without each of the two fences and the second look.
struct Broken<const PRODUCER_FENCE: bool, const CONSUMER_FENCE: bool, const SECOND_LOOK: bool> {
    sleeping: AtomicBool,
    consumer: Unparker,
}

impl<const PRODUCER_FENCE: bool, const CONSUMER_FENCE: bool, const SECOND_LOOK: bool> Bell
    for Broken<PRODUCER_FENCE, CONSUMER_FENCE, SECOND_LOOK>
{
    type Sleeper = Parker;

    fn hang() -> (Self, Parker) {
        let parker = Parker::new();
        let consumer = parker.unparker().clone();
        let sleeping = AtomicBool::new(false);
        (Self { sleeping, consumer }, parker)
    }

    fn ring(&self) {
        if PRODUCER_FENCE {
            fence(Ordering::SeqCst);
        }
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.consumer.unpark();
        }
    }

    fn sleep(&self, parker: &Parker, is_empty: impl Fn() -> bool) {
        let seemed_empty = is_empty();
        self.sleeping.store(true, Ordering::Relaxed);
        if CONSUMER_FENCE {
            fence(Ordering::SeqCst);
        }
        let still_empty = if SECOND_LOOK { is_empty() } else { seemed_empty };
        if still_empty {
            parker.park();
        }
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

#[test]
fn the_copy_that_is_broken_below_is_whole() {
    loom::model(|| all_is_taken::<Broken<true, true, true>>(1, 1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_producers_fence_a_ring_is_slept_through() {
    loom::model(|| all_is_taken::<Broken<false, true, true>>(1, 1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_consumers_fence_a_ring_is_slept_through() {
    loom::model(|| all_is_taken::<Broken<true, false, true>>(1, 1));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_second_look_a_ring_is_slept_through() {
    loom::model(|| all_is_taken::<Broken<true, true, false>>(1, 1));
}
