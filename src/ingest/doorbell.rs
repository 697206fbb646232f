//! The wake-up of a shard's thread: connections ring, and it costs them a system call only where the thread sleeps.
//!
//! ```text
//! producer    push ─► fence ─► does it sleep? ─► unpark
//! consumer    "I sleep" ─► fence ─► is it empty? ─► park
//! ```
//!
//! Of the two fences one comes first, so at least one side sees what the other has done: no push is slept through.
//! tests/models tries every order.

use std::time::Duration;

use super::sync::{AtomicBool, Ordering, Parker, Unparker, fence};

/// The producers' side; there is one consumer.
#[derive(Debug)]
pub struct Doorbell {
    sleeping: AtomicBool,
    closed: AtomicBool,
    consumer: Unparker,
}

/// The consumer's side: the right to sleep.
#[derive(Debug)]
pub struct Sleeper(Parker);

impl Doorbell {
    /// A bell and its one sleeper.
    #[must_use]
    pub fn new() -> (Self, Sleeper) {
        let parker = Parker::new();
        let bell = Self {
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            consumer: parker.unparker().clone(),
        };
        (bell, Sleeper(parker))
    }

    /// Wakes the consumer if it sleeps: call it after what it is to find was put there.
    pub fn ring(&self) {
        // With the consumer's fence: either we see that it sleeps, or it sees what we put there.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.consumer.unpark();
        }
    }

    /// Wakes the consumer whether or not it sleeps; where it does not, its next sleep is cut short.
    pub fn nudge(&self) {
        self.consumer.unpark();
    }

    /// Nobody will ring any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.consumer.unpark();
    }

    /// Whether nobody will ring any more. Whoever sees that sees all that was put there before.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Sleeps while `is_empty`, until somebody rings or closes, or `most` has passed (for ever where that is `None`).
    pub fn sleep(&self, sleeper: &Sleeper, most: Option<Duration>, is_empty: impl FnOnce() -> bool) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if is_empty() && !self.is_closed() {
            match most {
                None => sleeper.0.park(),
                Some(most) => sleeper.0.park_timeout(most),
            }
        }
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Sleeps deaf to rings: until a nudge or the close, or until `most` has passed.
    pub fn rest(&self, sleeper: &Sleeper, most: Duration) {
        sleeper.0.park_timeout(most);
    }
}
