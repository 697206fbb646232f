//! `iotflow device`: devices from the terminal, straight on the database, by the same acts as over HTTP.
//!
//! ```text
//! command (the command line) ──► ask (what is meant) ──► manage, bulk (the act, and what is said of it)
//! ```

mod ask;
mod bulk;
mod command;
mod manage;

pub(super) use command::{command, run};
