//! Faults, done to real processes under load. Whatever happens, every acked reading is in the table exactly once, and the
//! account balances at every scrape.
//!
//! Each test has a short form for `./dev test`; `./dev faults` runs them whole and prints their lines as a table.

#[path = "../support/mod.rs"]
mod support;

mod broker;
mod database;
mod disk;
mod memory;
mod messages;
mod process;
mod replicas;
mod session;
mod trial;
