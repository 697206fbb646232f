//! `iotflow group`: groups of devices from the terminal, straight on the database, by the same acts as over HTTP.

mod command;
mod manage;

pub(super) use command::{command, run};
