//! The account of every message: each delivery is received once and ends in exactly one outcome.
//!
//! Stages report per burst and per batch under one lock, so a reader sees the sum hold at every instant.

use std::sync::{Mutex, PoisonError};

/// Counts by QoS of the delivery: index 0 for QoS 0, 1 for QoS 1 (a subscription at QoS 1 sees no other).
pub type ByQos = [u64; 2];

/// How many messages had which fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Taken from the wire, redeliveries included.
    pub received: ByQos,
    /// Of these, marked DUP by the broker.
    pub redelivered: ByQos,
    /// Stored: at least one new row, or a status taken over.
    pub committed: ByQos,
    /// Recognised: every row was there already.
    pub duplicates: ByQos,
    /// Stored as a dead letter, in whole or in part.
    pub dead_lettered: ByQos,
    /// Dropped by rule, under overload or above a device's rate (QoS 0 only).
    pub shed: ByQos,
    /// Let go without a verdict, for the broker to redeliver: at a shutdown that could not wait, or by a bug.
    pub abandoned: ByQos,
    /// Received and still held. Counted by itself as messages come and go, and not derived from the others, so that a
    /// message without an outcome, or with two, breaks the sum for all to see.
    pub in_flight: ByQos,
}

impl Totals {
    /// Messages were taken from the wire.
    pub fn receive(&mut self, messages: ByQos, redelivered: ByQos) {
        for qos in 0..2 {
            self.received[qos] += messages[qos];
            self.redelivered[qos] += redelivered[qos];
            self.in_flight[qos] += messages[qos];
        }
    }

    /// Messages are held no longer, whatever became of them: that is booked beside this.
    pub fn release(&mut self, messages: ByQos) {
        for (held, gone) in self.in_flight.iter_mut().zip(messages) {
            *held = held.saturating_sub(gone);
        }
    }

    /// Whether each message has exactly one outcome or is still held.
    #[must_use]
    pub fn balances(&self) -> bool {
        (0..2).all(|qos| {
            let settled = self.committed[qos] + self.duplicates[qos] + self.dead_lettered[qos] + self.shed[qos] + self.abandoned[qos];
            self.received[qos] == settled + self.in_flight[qos]
        })
    }
}

/// The running totals of one service.
#[derive(Debug, Default)]
pub struct Accounting(Mutex<Totals>);

impl Accounting {
    /// Books a burst or a batch at once.
    pub fn book(&self, entry: impl FnOnce(&mut Totals)) {
        let mut totals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entry(&mut totals);
        debug_assert!(totals.balances(), "the account does not balance: {totals:?}");
    }

    /// The totals at one instant.
    #[must_use]
    pub fn totals(&self) -> Totals {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
