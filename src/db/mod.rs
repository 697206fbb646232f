//! The wire out: connections to PostgreSQL, and what is said on them that concerns no single table's meaning.
//!
//! ```text
//! config ──► pool ──► migrate, flavour ──► partitions ──► copy_in
//!               └──► lease, listen, size, page  └ error: who must act
//! ```
//!
//! Guarantees: every connection has its timeouts; every failure is sorted into retry, the row's fault, or the operator's.

pub mod config;

pub mod pool;

pub mod error;

pub mod flavour;

pub mod migrate;

pub mod partitions;

pub mod copy_in;

pub mod lease;

pub mod listen;

pub mod size;

pub mod page;
