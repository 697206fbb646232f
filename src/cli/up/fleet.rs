//! The demonstration fleet: the load simulator as a process of its own.

use std::process::Stdio;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};

use crate::config::Config;

use super::plan::Plan;
use super::servers::Stack;

/// Longer than anybody watches: eleven days.
const ENDLESS_SECONDS: &str = "950400";

/// See the module's documentation.
pub(super) struct Fleet {
    child: Child,
    lines: tokio::io::Lines<BufReader<ChildStderr>>,
    /// Messages acked so far.
    pub(super) published: u64,
}

impl Fleet {
    pub(super) fn start(plan: &Plan, config: &Config, stack: &Stack) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("iotflow-load");
        if !program.exists() {
            bail!(
                "{} is not there; build it with `cargo build --release --workspace`, or start with --no-fleet",
                program.display()
            );
        }
        let seconds = plan
            .span
            .map_or_else(|| ENDLESS_SECONDS.to_owned(), |span| span.as_secs_f64().to_string());
        let ramp = plan.span.map_or(2.0, |span| span.as_secs_f64().min(2.0)).to_string();
        let mut command = tokio::process::Command::new(program);
        command
            .args([
                "run",
                "--qos",
                "1",
                "--profile",
                "default",
                "--prefix",
                "demo-",
                "--connections",
                "10",
                "--report",
                "json",
                "--progress",
                "json",
            ])
            .args([
                "--devices",
                &plan.devices.to_string(),
                "--rate",
                &plan.rate.to_string(),
                "--duration",
                &seconds,
                "--ramp",
                &ramp,
            ])
            .env("MQTT_HOST", &config.mqtt.host)
            .env("MQTT_PORT", config.mqtt.port.to_string())
            .env("MQTT_BASE_TOPIC", &config.ingest.base_topic)
            .env("DATABASE_URL", config.db.url.reveal())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some((username, password)) = &stack.fleet_login {
            command.env("MQTT_USERNAME", username).env("MQTT_PASSWORD", password.reveal());
        }
        let mut child = command.spawn().context("the fleet cannot be started")?;
        let lines = BufReader::new(child.stderr.take().context("it is piped")?).lines();
        Ok(Self {
            child,
            lines,
            published: 0,
        })
    }

    /// Has it stop publishing, count, and report.
    pub(super) async fn end(mut self) -> anyhow::Result<Value> {
        if let Some(id) = self.child.id() {
            // It may have ended by itself.
            let _ended = nix::sys::signal::kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGINT);
        }
        let mut text = String::new();
        self.child.stdout.take().context("it is piped")?.read_to_string(&mut text).await?;
        let status = self.child.wait().await?;
        serde_json::from_str(text.trim()).with_context(|| format!("the fleet ended without a report ({status})"))
    }
}

/// The fleet's next word. Returns whether it has ended.
pub(super) async fn next_line(fleet: Option<&mut Fleet>) -> anyhow::Result<bool> {
    let Some(fleet) = fleet else { return std::future::pending().await };
    let Some(line) = fleet.lines.next_line().await? else {
        return Ok(true);
    };
    match serde_json::from_str::<Value>(&line) {
        Ok(progress) => fleet.published = progress["acked"].as_u64().unwrap_or(fleet.published),
        Err(_) => println!("  fleet: {line}"),
    }
    Ok(false)
}
