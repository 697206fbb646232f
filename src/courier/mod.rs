//! What is said to devices and what they answer, by a session of its own at the broker that one replica holds at a time.
//!
//! ```text
//! PostgreSQL (commands, outbox) ──► courier ──► broker ──► devices
//!        ▲                                                   │
//!        └────────────── answers, reports ◄── courier ◄──────┘
//!
//! session: lease ─► CONNECT, session kept ─► resume ─► round, round, round …
//! round: what the broker said (talk) and what devices said (incoming) ─► one visit to the database (desk) ─► packets
//! ```
//!
//! Guarantees: a command at QoS 2 reaches the broker exactly once, whenever this process is killed. Its packet id is in the
//! database before the PUBLISH goes out, that the broker has it before the PUBREL does; so whoever comes next goes on with the
//! same packet at the same step. What devices say is acked after the commit of what it changed.

pub mod broker;

pub mod tap;

pub mod discovery;

pub mod system;

pub mod session;

mod round;

mod talk;

mod incoming;

mod desk;

mod wire;
