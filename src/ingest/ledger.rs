//! Who waits for an ack: one ledger a connection, entries in receive order.
//!
//! ```text
//! head ──────────────► tail
//! [done][done][open][done][open]
//!   └─ acked now ─┘ └ waits for the one before it
//! ```
//!
//! The connection's owner has the [`Window`]: it opens an entry for each QoS 1 delivery and takes done entries off the
//! head. Everybody else has [`Ticket`]s, which travel with the data and are spent once. A connection that ends takes its
//! window along, so tickets spent later have nobody to tell: that is the epoch gate of §3.9, made of ownership.

use std::time::{Duration, Instant};

use super::sync::{Arc, AtomicBool, AtomicU8, Counter, Notify, Ordering, fence};

const OPEN: u8 = 0;
const DONE: u8 = 1;

/// What window and tickets share.
#[derive(Debug)]
struct Shared {
    entries: Box<[AtomicU8]>,
    /// Something was done, or given up.
    changed: Notify,
    /// The connection is gone.
    closed: AtomicBool,
    /// A ticket was dropped unspent.
    abandoned: AtomicBool,
    fenced: Counter,
}

/// The connection owner's side.
#[derive(Debug)]
pub struct Window {
    shared: Arc<Shared>,
    packets: Box<[(u16, Instant)]>,
    receive_maximum: u16,
    head: u64,
    tail: u64,
    residue: Residue,
}

/// What ended connections left in the queues: each ticket that is not spent holds a place there, and so takes one of the
/// next connection's, or queues that have room for a whole window would overflow.
#[derive(Debug, Default)]
pub struct Residue(Vec<Arc<Shared>>);

impl Residue {
    /// How many tickets are not spent.
    #[must_use]
    pub fn tickets(&self) -> usize {
        let tickets = self.0.iter().map(|shared| Arc::strong_count(shared) - 1).sum();
        // Pairs with the release in which an owner of an `Arc` goes: whoever finds a ticket gone finds its place in the
        // queue free.
        fence(Ordering::Acquire);
        tickets
    }
}

/// The right, and the duty, to say once that a delivery is taken care of. Dropped unspent it closes the connection, so
/// that the broker delivers again.
#[derive(Debug)]
pub struct Ticket {
    shared: Arc<Shared>,
    entry: u32,
    spent: bool,
}

impl Window {
    /// A ledger with room for `receive_maximum` entries; acks that come too late are told to `fenced`.
    #[must_use]
    pub fn new(receive_maximum: u16, fenced: Counter, residue: Residue) -> Self {
        let size = (usize::from(receive_maximum) + 1).next_power_of_two();
        let entries = std::iter::repeat_with(|| AtomicU8::new(OPEN)).take(size).collect();
        let shared = Shared {
            entries,
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            fenced,
        };
        Self {
            shared: Arc::new(shared),
            packets: vec![(0, Instant::now()); size].into(),
            receive_maximum,
            head: 0,
            tail: 0,
            residue,
        }
    }

    /// Whether every place is taken: nothing more is to be read until acks have left. A broker that keeps to the Receive
    /// Maximum has nothing more to send then, but not all do (Mosquitto 2.0.11 does not, once a session was resumed).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unacked() + self.residue.tickets() >= usize::from(self.receive_maximum)
    }

    /// Opens an entry for the delivery with this packet id.
    ///
    /// # Panics
    /// When the window is full: whoever reads asks first.
    pub fn open(&mut self, packet_id: u16, received: Instant) -> Ticket {
        assert!(!self.is_full(), "a full window was asked to take one more");
        let entry = self.index(self.tail);
        self.shared.entries[entry].store(OPEN, Ordering::Relaxed);
        self.packets[entry] = (packet_id, received);
        self.tail += 1;
        let entry = u32::try_from(entry).expect("a window has at most 65,536 entries");
        Ticket {
            shared: Arc::clone(&self.shared),
            entry,
            spent: false,
        }
    }

    /// Ends the connection's part in it: acks that come due from now on are fenced. What is left is for the next window.
    #[must_use]
    pub fn into_residue(mut self) -> Residue {
        let mut residue = std::mem::take(&mut self.residue);
        residue.0.retain(|shared| Arc::strong_count(shared) > 1);
        residue.0.push(Arc::clone(&self.shared));
        residue
    }

    /// Takes the oldest entry if it is done: the packet id to ack now, and when it was received.
    pub fn next_done(&mut self) -> Option<(u16, Instant)> {
        if self.head == self.tail {
            return None;
        }
        let entry = self.index(self.head);
        // Pairs with the release in `Ticket::spend`: what was done before it was said is seen before it is acked.
        if self.shared.entries[entry].load(Ordering::Acquire) != DONE {
            return None;
        }
        self.head += 1;
        Some(self.packets[entry])
    }

    /// Waits until entries were done, or tickets abandoned, since the last time this was awaited.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// How many entries wait for their ack.
    #[must_use]
    pub fn unacked(&self) -> usize {
        usize::try_from(self.tail - self.head).expect("bounded by the Receive Maximum")
    }

    /// Whether a ticket was dropped unspent: that entry will never be done.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.shared.abandoned.load(Ordering::Acquire)
    }

    /// The age of the oldest entry.
    #[must_use]
    pub fn oldest(&self) -> Duration {
        if self.head == self.tail {
            Duration::ZERO
        } else {
            self.packets[self.index(self.head)].1.elapsed()
        }
    }

    fn index(&self, position: u64) -> usize {
        usize::try_from(position % self.packets.len() as u64).expect("less than the length")
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl Ticket {
    fn spend(&mut self) {
        self.spent = true;
        self.shared.entries[self.entry as usize].store(DONE, Ordering::Release);
        if self.shared.closed.load(Ordering::Relaxed) {
            self.shared.fenced.increment(1);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.spent {
            self.shared.abandoned.store(true, Ordering::Release);
            self.shared.changed.notify_one();
        }
    }
}

/// Spends tickets, all of whose messages are committed, and wakes each connection concerned once.
pub fn settle(tickets: impl Iterator<Item = Ticket>) {
    // A ticket is kept, and no `Arc` cloned: owners of what is shared are counted as tickets, and that number must never grow
    // once a window has ended, or one that just had room would be full.
    let mut kept: Option<Ticket> = None;
    for mut ticket in tickets {
        ticket.spend();
        match &kept {
            Some(kept) if Arc::ptr_eq(&kept.shared, &ticket.shared) => {}
            _ => {
                if let Some(before) = kept.replace(ticket) {
                    before.shared.changed.notify_one();
                }
            }
        }
    }
    if let Some(ticket) = kept {
        ticket.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(receive_maximum: u16) -> Window {
        Window::new(receive_maximum, Counter::noop(), Residue::default())
    }

    /// What happens to a connection, or to the tickets that are about.
    #[derive(Debug, Clone)]
    enum Step {
        Open,
        /// These are settled at once, whichever connection they are of.
        Settle(Vec<prop::sample::Index>),
        Drop(prop::sample::Index),
        Ack,
        Reconnect,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let index = any::<prop::sample::Index>;
        let step = prop_oneof![
            8 => Just(Step::Open),
            4 => prop::collection::vec(index(), 1..5).prop_map(Step::Settle),
            1 => index().prop_map(Step::Drop),
            4 => Just(Step::Ack),
            1 => Just(Step::Reconnect),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn acks_are_those_of_the_connection_done_and_in_receive_order(receive_maximum in 1_u16..9, steps in steps()) {
            let mut window = window(receive_maximum);
            // The tickets about, each with its connection and packet, and what the connection of now has not acked.
            let (mut tickets, mut unacked) = (Vec::new(), std::collections::VecDeque::new());
            let (mut connection, mut packet, mut done, mut abandoned) = (0, 0, std::collections::HashSet::new(), false);
            for step in steps {
                match step {
                    Step::Open if window.is_full() => {}
                    Step::Open => {
                        packet += 1;
                        tickets.push((connection, packet, window.open(packet, Instant::now())));
                        unacked.push_back(packet);
                    }
                    Step::Settle(choices) => {
                        let mut chosen = Vec::new();
                        for choice in choices {
                            if !tickets.is_empty() {
                                let (of, packet, ticket) = tickets.swap_remove(choice.index(tickets.len()));
                                done.insert((of, packet));
                                chosen.push(ticket);
                            }
                        }
                        settle(chosen.into_iter());
                    }
                    Step::Drop(choice) => if !tickets.is_empty() {
                        let (of, ..) = tickets.swap_remove(choice.index(tickets.len()));
                        abandoned |= of == connection;
                    }
                    Step::Ack => while let Some((acked, _)) = window.next_done() {
                        prop_assert_eq!(Some(acked), unacked.pop_front(), "out of order, or not of this connection");
                        prop_assert!(done.contains(&(connection, acked)), "{} is acked and not done", acked);
                    }
                    Step::Reconnect => {
                        window = Window::new(receive_maximum, Counter::noop(), window.into_residue());
                        (connection, packet, abandoned) = (connection + 1, 0, false);
                        unacked.clear();
                    }
                }
                let left = tickets.iter().filter(|(of, ..)| *of != connection).count();
                prop_assert_eq!(window.residue.tickets(), left);
                prop_assert_eq!(window.is_full(), unacked.len() + left >= usize::from(receive_maximum));
                prop_assert_eq!((window.unacked(), window.is_abandoned()), (unacked.len(), abandoned));
            }
            // Whatever is done at the head now is acked: nothing waits that could go.
            let goes = unacked.iter().take_while(|packet| done.contains(&(connection, **packet))).count();
            prop_assert_eq!(std::iter::from_fn(|| window.next_done()).count(), goes);
        }
    }

    #[test]
    fn a_full_window_says_so() {
        let mut window = window(2);
        let first = window.open(1, Instant::now());
        assert!(!window.is_full());
        let _second = window.open(2, Instant::now());
        assert!(window.is_full());
        settle(std::iter::once(first));
        assert!(window.next_done().is_some() && !window.is_full());
    }

    #[test]
    fn what_a_lost_connection_left_takes_places_of_the_next() {
        let mut first = window(2);
        let left = first.open(1, Instant::now());
        let second = Window::new(2, Counter::noop(), first.into_residue());
        assert!(!second.is_full());
        let mut third = Window::new(2, Counter::noop(), second.into_residue());
        let _open = third.open(1, Instant::now());
        assert!(third.is_full(), "one of its own and one that was left");
        settle(std::iter::once(left));
        assert!(!third.is_full());
    }

    #[test]
    fn a_ticket_dropped_unspent_is_noticed() {
        let mut window = window(2);
        drop(window.open(1, Instant::now()));
        assert!(window.is_abandoned());
        assert_eq!(window.next_done(), None, "what nobody took care of is never acked");
    }

    #[test]
    fn a_late_ticket_is_fenced() {
        let metrics = crate::observe::metrics::Metrics::new();
        let accounting = crate::observe::accounting::Accounting::default();
        let mut window = Window::new(2, metrics.connection("slot-0").fenced, Residue::default());
        let ticket = window.open(1, Instant::now());
        drop(window);
        settle(std::iter::once(ticket));
        let page = crate::observe::expose::render(&metrics, &accounting, crate::observe::expose::Page::Qos);
        assert!(
            page.contains("iotflow_qos_fenced_acks_total{connection=\"slot-0\",qos=\"1\"} 1"),
            "{page}"
        );
    }

    #[tokio::test]
    async fn settling_wakes_the_owner() {
        let mut window = window(2);
        let ticket = window.open(9, Instant::now());
        let settled = std::thread::spawn(move || settle(std::iter::once(ticket)));
        window.changed().await;
        settled.join().expect("no panic");
        assert_eq!(window.next_done().map(|(packet, _)| packet), Some(9));
    }
}
