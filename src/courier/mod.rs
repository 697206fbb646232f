//! What is said to devices and what they answer, by a session of its own at the broker that one replica holds at a time.
//!
//! ```text
//! PostgreSQL (commands, outbox) ──► courier ──► broker ──► devices
//!        ▲                                                   │
//!        └────────────── answers, reports ◄── courier ◄──────┘
//! ```

pub mod broker;

pub mod tap;

pub mod discovery;
