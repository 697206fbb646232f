//! `iotflow-load`: plays a fleet over MQTT, then counts in SQL what became of every reading.
//!
//! ```text
//! scenario ─► schedule (when each message is due) ─► device (a connection plays many) ─► broker
//!                                                        payload ┘
//! verify (SQL: lost, doubled, unexpected, late) ◄─ report ◄─ what was sent and acked
//! ```
//!
//! It knows the service only as a stranger does: by MQTT and SQL.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod device;
mod payload;
mod report;
mod run;
mod scenario;
mod schedule;
mod sink;
mod verify;
mod wire;

#[derive(Debug, Parser)]
#[command(name = "iotflow-load", version, about = "Plays a fleet over MQTT and counts in SQL what arrived")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a scenario, verify it, and judge it by its thresholds.
    Run(Box<run::Args>),
    /// Count once more what became of an earlier run, from its JSON report.
    Verify(verify::Args),
    /// Subscribe, count and ack, nothing else: the null subscriber that figures are compared with.
    Sink(sink::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a machine that runs this can start a thread");
    let passed = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(*args).await,
            Command::Verify(args) => verify::command(args).await,
            Command::Sink(args) => sink::run(args).await,
        }
    });
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("iotflow-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
