//! `iotflow serve`: the service, until a signal ends it.

use std::process::ExitCode;

use clap::{ArgMatches, Command};
use tracing::error;

use crate::app::{App, Ended};
use crate::lifecycle::signals::Signals;
use crate::observe::logging;

use super::{DATA, EXIT_FAILED, EXIT_OK, EXIT_UNDRAINED, Sources, runtime};

pub(super) fn command() -> Command {
    Command::new("serve").about("Take telemetry from MQTT into PostgreSQL").long_about(
        "Takes telemetry from MQTT into PostgreSQL until SIGTERM or SIGINT, which it obeys in order: it stops reading, commits and acks what was read, and takes leave.",
    )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let app = tokio::select! {
            app = App::start(config) => app?,
            _ = signals.next() => return Ok(ExitCode::from(EXIT_OK)),
        };
        app.wait(signals.next()).await;
        Ok(ExitCode::from(match app.stop().await {
            Ended::Drained => EXIT_OK,
            Ended::Undrained => EXIT_UNDRAINED,
            Ended::Crashed(task) => {
                error!(task, "stopped because a task crashed");
                EXIT_FAILED
            }
        }))
    })
}
