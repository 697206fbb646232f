//! Commands as rows: what was asked for, and for each device how far it has come.
//!
//! ```text
//! order (a command is given) ──► dispatch (what is due goes to the broker, step by step) ──► answers (what devices say of it)
//!        │ cancel (taken back)         │ expire (its time is over)                               │
//!        └─────────────────────────────┴──────────────► state ◄──────────────────────────────────┘
//! read: single ones and their history      fleet: how far a group has come      retention: when they are forgotten
//! ```
//!
//! Guarantees: a delivery only moves forward, and stands still at its end; each step is a transaction of its own that came
//! before the packet which relies on it, so that whoever takes over knows what the broker may know.
//!
//! Locks are taken in one order, so that no two transactions wait for each other: groups by id (`device_groups`), commands by id,
//! where devices stand by number (`device_status`), deliveries by `seq`. What changes more than one delivery locks all of them first,
//! `ORDER BY seq FOR UPDATE`; a transaction that changes deliveries by several statements locks those of all of them before the first.
//! A change of a delivery locks nothing else: that a group has news is a row of its own (`command_news`).

pub mod state;

pub mod order;

pub mod dispatch;

pub mod answers;

pub mod cancel;

pub mod fleet;

pub mod read;

pub mod retention;
