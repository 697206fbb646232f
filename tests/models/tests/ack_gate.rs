//! Acks pass through the gate here in every order: tickets are spent, or dropped, on other threads while the connection's
//! owner takes what is done, or goes.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Instant;

use iotflow_models::in_every_order_with;
use iotflow_models::ledger::{Residue, Ticket, Window, settle};
use iotflow_models::sync::{Arc, Counter, Ordering};
use loom::sync::atomic::AtomicUsize;
use loom::thread::{self, JoinHandle};

fn window(receive_maximum: u16, residue: Residue) -> Window {
    Window::new(receive_maximum, Counter::new(), residue)
}

/// What is committed so far: a bit a message, set before its ticket is spent and in no order with it.
#[derive(Clone)]
struct Table(Arc<AtomicUsize>);

impl Table {
    fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(0)))
    }

    fn commit(&self, packet: u16) {
        self.0.fetch_or(1 << packet, Ordering::Relaxed);
    }

    fn holds(&self, packet: u16) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << packet) != 0
    }
}

/// A shard's thread: commits the messages, then spends their tickets at once.
fn shard(table: &Table, messages: Vec<(u16, Ticket)>) -> JoinHandle<()> {
    let table = table.clone();
    thread::spawn(move || {
        for (packet, _) in &messages {
            table.commit(*packet);
        }
        settle(messages.into_iter().map(|(_, ticket)| ticket));
    })
}

/// Opens an entry for the delivery with this packet id.
fn open(window: &mut Window, packet: u16) -> (u16, Ticket) {
    (packet, window.open(packet, Instant::now()))
}

/// Takes what is done off the head; each must be committed.
fn take_done(window: &mut Window, table: &Table, acked: &mut Vec<u16>) {
    while let Some((packet, _)) = window.next_done() {
        assert!(table.holds(packet), "{packet} is acked and not committed");
        acked.push(packet);
    }
}

/// Sleeps until something was done or given up.
fn sleep(window: &Window) {
    let slept = pin!(window.changed()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(slept.is_ready(), "a model's notifier blocks until it has something to say");
}

/// Acks as a connection does until `count` are out: sleeps, and takes what is done.
fn ack(window: &mut Window, table: &Table, count: usize) -> Vec<u16> {
    let mut acked = Vec::new();
    while acked.len() < count {
        sleep(window);
        take_done(window, table, &mut acked);
    }
    acked
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        thread.join().expect("no panic");
    }
}

#[test]
fn one_shards_acks_leave_in_receive_order_after_the_commit() {
    loom::model(|| {
        let (table, mut window) = (Table::new(), window(2, Residue::default()));
        let (first, second) = (open(&mut window, 1), open(&mut window, 2));
        // The shard sorts its rows, not its messages, but nothing says that it keeps their order.
        let shard = shard(&table, vec![second, first]);
        assert_eq!(ack(&mut window, &table, 2), [1, 2]);
        join([shard]);
    });
}

#[test]
fn two_shards_acks_leave_in_receive_order_after_the_commit() {
    in_every_order_with(3, || {
        let (table, mut window) = (Table::new(), window(2, Residue::default()));
        let (first, second) = (open(&mut window, 1), open(&mut window, 2));
        let shards = [shard(&table, vec![second]), shard(&table, vec![first])];
        assert_eq!(ack(&mut window, &table, 2), [1, 2]);
        join(shards);
    });
}

#[test]
fn a_place_in_the_window_is_used_again_only_after_its_ack() {
    loom::model(|| {
        let (table, mut window) = (Table::new(), window(1, Residue::default()));
        // Two entries in the ring, so the third delivery takes the first one's.
        let mut acked = Vec::new();
        for packet in 1..=3 {
            let message = open(&mut window, packet);
            assert_eq!(window.next_done(), None, "done before it was spent");
            let shard = shard(&table, vec![message]);
            acked.extend(ack(&mut window, &table, 1));
            join([shard]);
        }
        assert_eq!(acked, [1, 2, 3]);
    });
}

#[test]
fn a_batch_of_two_connections_wakes_both() {
    loom::model(|| {
        let table = Table::new();
        let (mut one, mut other) = (window(2, Residue::default()), window(1, Residue::default()));
        let messages = vec![open(&mut one, 1), open(&mut other, 2), open(&mut one, 3)];
        let shard = shard(&table, messages);
        assert_eq!(ack(&mut one, &table, 2), [1, 3]);
        assert_eq!(ack(&mut other, &table, 1), [2]);
        join([shard]);
    });
}

#[test]
fn a_ticket_dropped_unspent_is_noticed_and_never_acked() {
    in_every_order_with(3, || {
        let (table, mut window) = (Table::new(), window(3, Residue::default()));
        let (first, second, third) = (open(&mut window, 1), open(&mut window, 2), open(&mut window, 3));
        let shards = [shard(&table, vec![first, third]), thread::spawn(move || drop(second))];
        let mut acked = Vec::new();
        // As a connection does: it goes at the first sign.
        while !window.is_abandoned() {
            sleep(&window);
            take_done(&mut window, &table, &mut acked);
        }
        join(shards);
        take_done(&mut window, &table, &mut acked);
        assert_eq!(acked, [1], "the second is nobody's, and the third stands behind it");
    });
}

#[test]
fn what_a_lost_connection_left_acks_nothing_of_the_next() {
    in_every_order_with(3, || {
        let (table, mut lost) = (Table::new(), window(2, Residue::default()));
        let late = [open(&mut lost, 1), open(&mut lost, 2)];
        let shards = late.map(|message| shard(&table, vec![message]));
        let mut acked = Vec::new();
        take_done(&mut lost, &table, &mut acked);
        assert!(acked.iter().copied().eq((1..).take(acked.len())), "out of order: {acked:?}");

        // The next connection has the same packet ids for other messages.
        let mut next = window(4, lost.into_residue());
        let (_, first) = open(&mut next, 1);
        let (_, second) = open(&mut next, 2);
        assert_eq!(next.next_done(), None, "acked, though nobody has spent a ticket of this connection");
        join(shards);
        assert_eq!(next.next_done(), None, "acked by the ticket of a lost connection");
        assert!(!next.is_abandoned(), "told of a ticket of a lost connection");
        settle([second, first].into_iter());
        assert_eq!(next.next_done().map(|(packet, _)| packet), Some(1));
        assert_eq!(next.next_done().map(|(packet, _)| packet), Some(2));
    });
}

#[test]
fn a_ticket_dropped_late_is_no_sign_to_the_next_connection() {
    loom::model(|| {
        let mut lost = window(1, Residue::default());
        let (_, late) = open(&mut lost, 1);
        let shard = thread::spawn(move || drop(late));
        let next = window(1, lost.into_residue());
        assert!(!next.is_abandoned());
        join([shard]);
        assert!(!next.is_abandoned());
        assert!(!next.is_full(), "it left nothing in the queues");
    });
}

#[test]
fn what_lost_connections_left_only_ever_shrinks() {
    in_every_order_with(3, || {
        let (table, mut first) = (Table::new(), window(2, Residue::default()));
        let messages = [open(&mut first, 1), open(&mut first, 2)];
        let mut second = window(3, first.into_residue());
        let shards = messages.map(|message| shard(&table, vec![message]));
        let _open = open(&mut second, 3);
        let residue = second.into_residue();
        // The connection's loop asks whether there is room before it reads a packet, and the ledger again as it opens.
        let (before, after) = (residue.tickets(), residue.tickets());
        assert!(before <= 3, "{before} tickets are left of three");
        assert!(after <= before, "{after} tickets are left where {before} were");
        join(shards);
        assert_eq!(residue.tickets(), 1, "what is spent takes no place any more");
    });
}

#[test]
fn a_place_that_a_late_ticket_gives_back_is_free_in_its_queue() {
    loom::model(|| {
        let mut lost = window(1, Residue::default());
        let (_, late) = open(&mut lost, 1);
        let waiting = Arc::new(AtomicUsize::new(1));
        let shard = {
            let waiting = waiting.clone();
            thread::spawn(move || {
                // A delivery leaves the queue long before its ticket is spent.
                waiting.store(0, Ordering::Relaxed);
                settle(std::iter::once(late));
            })
        };
        let next = window(1, lost.into_residue());
        if !next.is_full() {
            assert_eq!(
                waiting.load(Ordering::Relaxed),
                0,
                "the window has room, and the queue, which has as much, has none"
            );
        }
        join([shard]);
        assert!(!next.is_full());
    });
}

#[test]
#[should_panic(expected = "1 is acked and not committed")]
fn a_ticket_spent_before_the_commit_is_found() {
    loom::model(|| {
        let (table, mut window) = (Table::new(), window(1, Residue::default()));
        let (packet, ticket) = open(&mut window, 1);
        let hasty = {
            let table = table.clone();
            thread::spawn(move || {
                settle(std::iter::once(ticket));
                table.commit(packet);
            })
        };
        ack(&mut window, &table, 1);
        join([hasty]);
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_ticket_that_nobody_spends_or_drops_is_found() {
    loom::model(|| {
        let (table, mut window) = (Table::new(), window(2, Residue::default()));
        let (first, (_, forgotten)) = (open(&mut window, 1), open(&mut window, 2));
        let shard = shard(&table, vec![first]);
        std::mem::forget(forgotten);
        ack(&mut window, &table, 2);
        join([shard]);
    });
}
