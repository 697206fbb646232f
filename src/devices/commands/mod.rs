//! Commands as rows: what was asked for, and for each device how far it has come.
//!
//! ```text
//! order (a command is given) ──► dispatch (what is due goes to the broker, step by step) ──► answers (what devices say of it)
//!        │ cancel (taken back)         │ expire (its time is over)                               │
//!        └─────────────────────────────┴──────────────► state ◄──────────────────────────────────┘
//! read: single ones and their history      fleet: how far a group has come
//! ```
//!
//! Guarantees: a delivery only moves forward, and stands still at its end; each step is a transaction of its own that came
//! before the packet which relies on it, so that whoever takes over knows what the broker may know.

pub mod state;

pub mod order;

pub mod dispatch;

pub mod answers;

pub mod cancel;

pub mod fleet;

pub mod read;
