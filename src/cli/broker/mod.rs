//! `iotflow broker`: Mosquitto's own affairs.
//!
//! ```text
//! certs (who proves what to whom, and until when)
//! ```

use std::process::ExitCode;

use clap::{ArgMatches, Command};

mod certs;

mod certs_output;

pub(super) fn command() -> Command {
    Command::new("broker")
        .about("Manage the broker: its certificates and those of its clients")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(certs::command())
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match matches.subcommand() {
        Some(("certs", matches)) => certs::run(matches),
        _ => unreachable!("clap demands one of the above"),
    }
}
