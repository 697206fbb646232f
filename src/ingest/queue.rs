//! A shard's queue: lock-free, bounded, from the connections to the shard's thread.
//!
//! Who pays when it is full: QoS 0 is shed above its share. QoS 1 always finds a place, because the queue has room for
//! the whole Receive Maximum of every connection beside that share.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;

use super::doorbell::{Doorbell, Sleeper};
use super::ledger::Ticket;
use super::reply::Reply;

/// A message's time of receipt, which is the time of a reading that gives none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Microseconds since 1970; no two messages of a connection have the same.
    pub at: i64,
    /// It was delivered before, and this is the time of that.
    pub again: bool,
    /// Its device had sent more than it may.
    pub over_rate: bool,
    /// It is no news: the broker had kept it for whoever subscribes.
    pub retained: bool,
}

/// One message on its way from the wire to the table.
#[derive(Debug)]
pub struct Delivery {
    /// The topic name.
    pub topic: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// When it was received, by the clock that readings are stamped with.
    pub receipt: Receipt,
    /// Received at, on the clock that never steps.
    pub received: Instant,
    /// What must be spent once it is committed; QoS 0 has none.
    pub ticket: Option<Ticket>,
    /// Who is to be told what became of it; hardly any has one.
    pub reply: Option<Box<Reply>>,
}

impl Delivery {
    /// 0 or 1: the index into counts by QoS.
    #[must_use]
    pub fn qos(&self) -> usize {
        usize::from(self.ticket.is_some())
    }

    /// What it weighs against the byte budget.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// Bytes of topics and payloads in flight, against a budget.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicUsize,
    budget: usize,
}

impl Held {
    /// Nothing yet, of `budget` bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            budget,
        }
    }

    /// A burst came in.
    pub fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A batch was settled.
    pub fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes in flight.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the budget is used up.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.bytes() >= self.budget
    }
}

/// The queue of one shard: any number of producers, one consumer.
#[derive(Debug)]
pub struct ShardQueue {
    queue: ArrayQueue<Delivery>,
    qos0_limit: usize,
    bell: Doorbell,
    /// Taken by the consumer when it starts.
    sleeper: Mutex<Option<Sleeper>>,
}

impl ShardQueue {
    /// A queue that sheds QoS 0 beyond `qos0` messages and has `qos1` more places.
    #[must_use]
    pub fn new(qos0: usize, qos1: usize) -> Self {
        let (bell, sleeper) = Doorbell::new();
        Self {
            queue: ArrayQueue::new(qos0 + qos1),
            qos0_limit: qos0,
            bell,
            sleeper: Mutex::new(Some(sleeper)),
        }
    }

    /// Appends a delivery without waking the consumer: call [`ShardQueue::wake`] after a burst.
    ///
    /// # Errors
    /// Returns the delivery when it is to be shed: QoS 0 above the limit.
    pub fn push(&self, delivery: Delivery) -> Result<(), Delivery> {
        if delivery.ticket.is_none() && self.queue.len() >= self.qos0_limit {
            return Err(delivery);
        }
        self.queue.push(delivery)
    }

    /// Wakes the consumer if it sleeps.
    pub fn wake(&self) {
        self.bell.ring();
    }

    /// No more will come: the consumer takes what is there and ends.
    pub fn close(&self) {
        self.bell.close();
    }

    /// Whether no more will come. What is there may still be taken.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.bell.is_closed()
    }

    /// How many deliveries wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many places there are.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// The consumer's right to sleep; there is one.
    #[must_use]
    pub fn sleeper(&self) -> Option<Sleeper> {
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the oldest delivery.
    pub fn pop(&self) -> Option<Delivery> {
        self.queue.pop()
    }

    /// Sleeps until something was pushed, the queue was closed, or `most` has passed (for ever where that is `None`).
    pub fn sleep(&self, sleeper: &Sleeper, most: Option<Duration>) {
        self.bell.sleep(sleeper, most, || self.queue.is_empty());
    }

    /// Sleeps although something may be there: until it is woken by [`ShardQueue::nudge`] or closed, or `most` has passed.
    pub fn rest(&self, sleeper: &Sleeper, most: Duration) {
        self.bell.rest(sleeper, most);
    }

    /// Wakes the consumer whether or not something was pushed.
    pub fn nudge(&self) {
        self.bell.nudge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn delivery(number: usize) -> Delivery {
        Delivery {
            topic: Bytes::new(),
            payload: Bytes::from(number.to_string()),
            receipt: Receipt {
                at: 0,
                again: false,
                over_rate: false,
                retained: false,
            },
            received: Instant::now(),
            ticket: None,
            reply: None,
        }
    }

    #[test]
    fn nothing_is_lost_or_left_asleep_between_producers_and_consumer() {
        const EACH: usize = 20_000;
        let queue = Arc::new(ShardQueue::new(4 * EACH, 0));
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || {
                    for number in 0..EACH {
                        queue.push(delivery(number)).expect("there is room");
                        queue.wake();
                    }
                })
            })
            .collect();
        let sleeper = queue.sleeper().expect("the first to ask");
        let mut taken = 0;
        while taken < 4 * EACH {
            // Without a limit: a wake-up that got lost would hang the test.
            queue.sleep(&sleeper, None);
            while queue.pop().is_some() {
                taken += 1;
            }
        }
        for producer in producers {
            producer.join().expect("no panic");
        }
    }

    #[test]
    fn qos0_is_shed_above_its_share_and_qos1_is_not() {
        let mut window = super::super::ledger::Window::new(2, metrics::Counter::noop(), Default::default());
        let queue = ShardQueue::new(1, 2);
        assert!(queue.push(delivery(1)).is_ok());
        assert!(queue.push(delivery(2)).is_err(), "the share of QoS 0 is used up");
        for packet in 1..=2 {
            let ticket = window.open(packet, Instant::now());
            assert!(
                queue
                    .push(Delivery {
                        ticket: Some(ticket),
                        ..delivery(3)
                    })
                    .is_ok()
            );
        }
        assert!(queue.sleeper().is_some());
        assert!(queue.sleeper().is_none(), "one consumer only");
    }
}
