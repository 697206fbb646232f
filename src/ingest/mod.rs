//! From device to table: what a device publishes becomes rows, and only then is it acked.
//!
//! ```text
//! subscribe ─► ledger (who waits for an ack)
//!     │
//!     └─► queue ─► parse ─► batch ─► copy ─► commit ─► ledger ─► PUBACK, in receive order
//!         a shard  a thread          a task     └─ dead letters, in the same transaction
//! ```
//!
//! `pipeline` builds it, last stage first. Status topics take a way of their own, `status`, in which order is kept.
//!
//! Guarantees: an ack leaves after the commit of every row of its message, in receive order, on the connection it came
//! from, or never; a message ends in exactly one outcome; every queue is bounded and QoS 1 never waits for a place.

pub mod config;

pub mod pipeline;

pub mod sessions;

pub mod subscribe;

mod receive;

pub mod delivered;

pub mod rate;

pub mod limits;

pub mod ledger;

pub mod queue;

pub mod reply;

pub mod receipts;

pub mod door;

pub mod doorbell;

mod sync;

pub mod parse;

pub mod batch;

pub mod copy;

pub mod transaction;

pub mod resolve;

pub mod dead_letter;

pub mod latest;

pub mod hearing;

pub mod status;
