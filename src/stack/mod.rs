//! The embedded default: a PostgreSQL and a Mosquitto of our own, on loopback, with their data in one folder.
//!
//! ```text
//! programs (where the servers are) ─► account (who they run as) ─► ports ─► process ─► postgres, mosquitto
//! ```
//!
//! Guarantees: system services are never touched; a server ends with its handle, and with this process even if that is
//! killed; a missing program is named together with the package that has it.

pub mod programs;

pub mod account;

pub mod ports;

pub mod process;

pub mod postgres;

pub mod mosquitto;
