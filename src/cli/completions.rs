//! `iotflow completions`: what a shell needs to complete this command line, made from the command line itself.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::EXIT_OK;

pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print what a shell needs to complete this command line")
        .long_about("Prints a script for a shell. bash: iotflow completions bash > /etc/bash_completion.d/iotflow. zsh: into a file _iotflow in a folder of $fpath. fish: into ~/.config/fish/completions/iotflow.fish.")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let shell: Shell = *matches.get_one("shell").context("clap demands it")?;
    clap_complete::generate(shell, &mut super::command(), "iotflow", &mut std::io::stdout());
    Ok(ExitCode::from(EXIT_OK))
}
