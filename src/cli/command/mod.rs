//! `iotflow command`: what is said to devices from a terminal, and what became of it.
//!
//! ```text
//! arguments ──► send (give, wait) · follow (list, show, cancel, watch) ──► print (tables, JSON)
//! ```
//!
//! It speaks to the database alone; the running service takes it from there.

mod arguments;
mod follow;
mod print;
mod send;

pub(super) use arguments::{command, run};
