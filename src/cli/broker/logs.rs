//! `logs`: what the broker says, as it says it.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgAction, Command, value_parser};

use crate::cli::EXIT_OK;
use crate::cli::installation::folder::Installation;

use super::Asked;

/// As much of the end of a log is looked through for its last lines.
const TAIL_BYTES: u64 = 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn command() -> Command {
    Command::new("logs")
        .about("Show the broker's log, and go on showing it")
        .arg(
            Arg::new("lines")
                .long("lines")
                .short('n')
                .value_parser(value_parser!(usize))
                .default_value("50")
                .help("How many of the last lines to begin with"),
        )
        .arg(
            Arg::new("no-follow")
                .long("no-follow")
                .action(ArgAction::SetTrue)
                .help("End after these lines"),
        )
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let installation = Installation::open(&asked.data)?;
    let path = installation.broker().log();
    let mut file = File::open(&path).with_context(|| format!("{}: the broker has not run yet", path.display()))?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let wanted = *asked.matches.get_one::<usize>("lines").context("it has a default")?;
    print(lines[lines.len().saturating_sub(wanted)..].concat().as_bytes())?;
    while !asked.matches.get_flag("no-follow") {
        bytes.clear();
        file.read_to_end(&mut bytes)?;
        print(&bytes)?;
        if file.metadata()?.len() < file.stream_position()? {
            // It was begun anew.
            file.seek(SeekFrom::Start(0))?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
