//! `iotflow migrate`: the schema, brought up to date.

use std::process::ExitCode;

use clap::{ArgMatches, Command};

use crate::db::migrate::migrate;
use crate::observe::logging;

use super::{DATA, EXIT_OK, Sources, runtime};

pub(super) fn command() -> Command {
    Command::new("migrate").about("Bring the database's schema up to date")
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let applied = runtime()?.block_on(migrate(&config.db))?;
    match applied.as_slice() {
        [] => println!("the schema is up to date"),
        names => names.iter().for_each(|name| println!("applied {name}")),
    }
    Ok(ExitCode::from(EXIT_OK))
}
