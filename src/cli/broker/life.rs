//! `start`, `stop`, `restart`: the process that runs the servers, in the background.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command as Program, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Command;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::broker::process;
use crate::cli::EXIT_OK;
use crate::cli::installation::folder::Installation;

use super::Asked;

/// PostgreSQL is made, certificates are, and Mosquitto reads its sessions.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Mosquitto writes its sessions.
const STOP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("start").about("Start the broker in the background"),
        Command::new("stop").about("Stop the broker; it saves its sessions first"),
        Command::new("restart").about("Stop the broker, and start it again"),
    ]
}

pub(super) fn start(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let installation = Installation::open(&asked.data)?;
    if let Some((pid, _)) = installation.runner()? {
        asked.answer(
            &format!("The broker is running (process {pid})"),
            &json!({"status": "success", "running": true, "pid": pid, "started": false}),
        );
        return Ok(ExitCode::from(EXIT_OK));
    }
    let log_path = installation.data.join("run.log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&log_path)?;
    let begun = log.seek(SeekFrom::End(0))?;
    // A session of its own: the end of this terminal is not its end.
    let mut child = Program::new("setsid")
        .arg(std::env::current_exe()?)
        .args(["broker", "run", "--data"])
        .arg(&installation.data)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .context("setsid (util-linux) cannot be started")?;
    let deadline = Instant::now() + START_WITHIN;
    loop {
        if let Some((pid, true)) = installation.runner()? {
            asked.answer(
                &format!("The broker is running (process {pid}); its log: ./mqtt_manage.sh logs"),
                &json!({"status": "success", "running": true, "pid": pid, "started": true}),
            );
            return Ok(ExitCode::from(EXIT_OK));
        }
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            log.seek(SeekFrom::Start(begun))?;
            let mut said = String::new();
            log.read_to_string(&mut said)?;
            bail!(
                "the broker does not start; it said (in {}):\n{}",
                log_path.display(),
                said.trim_end()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(super) fn stop(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let installation = Installation::open(&asked.data)?;
    let stopped = halt(&installation)?;
    asked.answer(
        if stopped {
            "The broker is stopped"
        } else {
            "The broker was not running"
        },
        &json!({"status": "success", "running": false, "stopped": stopped}),
    );
    Ok(ExitCode::from(EXIT_OK))
}

pub(super) fn restart(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    halt(&Installation::open(&asked.data)?)?;
    start(asked)
}

/// Ends the process that runs the servers, and waits for it; returns whether there was one.
pub(super) fn halt(installation: &Installation) -> anyhow::Result<bool> {
    let Some((pid, _)) = installation.runner()? else { return Ok(false) };
    process::signal(pid, Signal::SIGTERM)?;
    let deadline = Instant::now() + STOP_WITHIN;
    while installation.runner()?.is_some() {
        if Instant::now() > deadline {
            bail!(
                "process {pid} does not end within {STOP_WITHIN:?}; see {}",
                installation.data.join("run.log").display()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}
