//! `iotflow dead-letter`: messages that were refused, seen, published again, removed.
//!
//! ```text
//! list, show ──► look ──► ingest::dead_letter::kept
//! replay, purge ──► act ──► operations::dead_letters (replay by a publisher of its own)
//! ```

mod look;

mod act;

mod command;

pub(super) use command::{command, run};
