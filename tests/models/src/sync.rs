//! The names that src/ingest/sync.rs brings in, each with loom's primitive behind it and no more order than the real one
//! gives.

use std::ops::Deref;
use std::thread::panicking;
use std::time::Duration;

use loom::sync::atomic::{AtomicU64, AtomicUsize};

pub use loom::sync::atomic::{AtomicU8, Ordering, fence};

/// A flag whose stores are exchanges. loom does not know that nothing comes between what an exchange reads and what it
/// writes: it orders another thread's plain store there, and then reports wake-ups as lost that no machine loses.
#[derive(Debug, Default)]
pub struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    /// A flag that is up where `value` is true.
    #[must_use]
    pub fn new(value: bool) -> Self {
        Self(loom::sync::atomic::AtomicBool::new(value))
    }

    /// What it shows, or, in a relaxed order, showed.
    pub fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    /// Sets it.
    pub fn store(&self, value: bool, order: Ordering) {
        self.swap(value, order);
    }

    /// Sets it, and says what it was.
    pub fn swap(&self, value: bool, order: Ordering) -> bool {
        // A model that has failed is over: its primitives answer nobody, and what is dropped still asks them.
        !panicking() && self.0.swap(value, order)
    }
}

/// The standard library's `Arc` with a count of its own, in the orders that the library counts in. (loom's `Arc` joins
/// all threads at `strong_count`, which a relaxed load does not.)
#[derive(Debug)]
pub struct Arc<T>(std::sync::Arc<Counted<T>>);

#[derive(Debug)]
struct Counted<T> {
    count: AtomicUsize,
    value: T,
}

impl<T> Arc<T> {
    /// The first owner's.
    pub fn new(value: T) -> Self {
        let count = AtomicUsize::new(1);
        Self(std::sync::Arc::new(Counted { count, value }))
    }

    /// How many owners there are.
    pub fn strong_count(this: &Self) -> usize {
        this.0.count.load(Ordering::Relaxed)
    }

    /// Whether both own the same.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&this.0, &other.0)
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Self(std::sync::Arc::clone(&self.0))
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if !panicking() && self.0.count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
        }
    }
}

/// What a parker's token and a notifier's permit are: left once or many times, taken once.
#[derive(Debug, Default)]
struct Token {
    left: AtomicBool,
    /// Wakes the one who waits for it. loom lets it wake by mistake now and then, so who is woken looks again.
    arrival: loom::sync::Notify,
}

impl Token {
    fn leave(&self) {
        self.left.swap(true, Ordering::AcqRel);
        if !panicking() {
            self.arrival.notify();
        }
    }

    fn take(&self) {
        while !self.left.swap(false, Ordering::AcqRel) {
            self.arrival.wait();
        }
    }
}

/// crossbeam's parker.
#[derive(Debug, Default)]
pub struct Parker(Unparker);

/// The other end of a [`Parker`].
#[derive(Debug, Clone, Default)]
pub struct Unparker(std::sync::Arc<Token>);

impl Parker {
    /// A parker without a token.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whoever has it can unpark.
    #[must_use]
    pub fn unparker(&self) -> &Unparker {
        &self.0
    }

    /// Waits for the token and takes it.
    pub fn park(&self) {
        self.0.0.take();
    }

    /// Takes the token if it is there. A model has no clock: the time has always passed, unless it is
    /// [`Duration::MAX`], which never does.
    pub fn park_timeout(&self, most: Duration) {
        if most == Duration::MAX {
            self.park();
        } else {
            self.0.0.left.swap(false, Ordering::AcqRel);
        }
    }
}

impl Unparker {
    /// Leaves the token.
    pub fn unpark(&self) {
        self.0.leave();
    }
}

/// tokio's `Notify`, for one waiter. That waiter is a task; here it is a thread, which blocks where the task would yield.
#[derive(Debug, Default)]
pub struct Notify(Token);

impl Notify {
    /// A notifier without a permit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves the permit.
    pub fn notify_one(&self) {
        self.0.leave();
    }

    /// Waits for the permit and takes it.
    pub fn notified(&self) -> std::future::Ready<()> {
        self.0.take();
        std::future::ready(())
    }
}

/// A counter that can be read, in the place of the metrics crate's.
#[derive(Debug, Clone, Default)]
pub struct Counter(std::sync::Arc<AtomicU64>);

impl Counter {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts.
    pub fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// What was counted.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
