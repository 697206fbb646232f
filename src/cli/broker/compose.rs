//! The processes of the broker where Compose runs it: each verb is one call of `docker compose`, with arguments and no shell.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, bail};
use clap::parser::ValueSource;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::EXIT_OK;
use crate::observe::secret::Secret;

use super::Asked;

/// The broker's service in docker-compose.yml.
const BROKER: &str = "mosquitto";
/// The service that keeps its files.
pub(super) const AGENT: &str = "broker-agent";

/// The folder with docker-compose.yml.
pub(super) struct Compose {
    folder: PathBuf,
}

/// A container, as `docker compose ps` tells of it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all(deserialize = "PascalCase"))]
pub(super) struct Container {
    /// The service's name in docker-compose.yml.
    pub(super) service: String,
    /// `running`, `exited` and so on.
    pub(super) state: String,
    /// `healthy`, `unhealthy`, `starting`, or nothing.
    #[serde(default)]
    pub(super) health: String,
}

impl Compose {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Whether the folder has a docker-compose.yml.
    pub(super) fn describes(folder: &Path) -> bool {
        folder.join("docker-compose.yml").is_file()
    }

    /// Whether its secrets are made.
    pub(super) fn is_set_up(&self) -> bool {
        self.folder.join("secrets").is_dir()
    }

    pub(super) fn must_be_set_up(&self) -> anyhow::Result<()> {
        if !self.is_set_up() {
            bail!(
                "{} is not there: set it up with ./mqtt_manage.sh setup --compose",
                self.folder.join("secrets").display()
            );
        }
        Ok(())
    }

    /// One of its secrets.
    pub(super) fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        let path = self.folder.join("secrets").join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.trim_end())),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                bail!("{} is for the user of its container only: try again with sudo", path.display())
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Does a verb that is about processes; `None` where it is not.
    pub(super) fn run(&self, verb: &str, asked: &Asked<'_>) -> Option<anyhow::Result<ExitCode>> {
        Some(match verb {
            "setup" => self.set_up(asked),
            "start" => self.start(asked),
            "stop" => self.stop(asked),
            "restart" => self.restart(asked),
            "logs" => self.logs(asked),
            _ => return None,
        })
    }

    fn set_up(&self, asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
        let given = |name: &str| asked.matches.contains_id(name) && asked.matches.value_source(name) == Some(ValueSource::CommandLine);
        if let Some(name) = ["plain", "name", "listener"].into_iter().find(|name| given(name)) {
            bail!(
                "--{name} is for a broker on this machine; where the containers listen is said in docker-compose.yml and mosquitto/mosquitto.conf"
            );
        }
        if !self.is_set_up() {
            let script = self.folder.join("scripts/compose-secrets");
            // From wherever it is called, the script makes the secrets of the folder that it is in.
            let status = Program::new(&script).stdout(io::stderr()).status();
            check(status, &script.display().to_string())?;
        }
        let start = !asked.matches.get_flag("no-start");
        if start {
            self.docker(&["up", "--detach", "--wait", BROKER, AGENT])?;
        }
        asked.answer(
            &format!(
                "Set up in {}{}",
                self.folder.join("secrets").display(),
                if start { "; the broker is running" } else { "" }
            ),
            &json!({"status": "success", "folder": self.folder, "running": start}),
        );
        Ok(ExitCode::from(EXIT_OK))
    }

    fn start(&self, asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
        self.must_be_set_up()?;
        self.docker(&["start", BROKER])?;
        asked.answer(
            "The broker is running; its log: ./mqtt_manage.sh logs",
            &json!({"status": "success", "running": true}),
        );
        Ok(ExitCode::from(EXIT_OK))
    }

    fn stop(&self, asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
        self.must_be_set_up()?;
        self.docker(&["stop", BROKER])?;
        asked.answer("The broker is stopped", &json!({"status": "success", "running": false}));
        Ok(ExitCode::from(EXIT_OK))
    }

    fn restart(&self, asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
        self.must_be_set_up()?;
        self.docker(&["restart", BROKER])?;
        asked.answer(
            "The broker was restarted; its log: ./mqtt_manage.sh logs",
            &json!({"status": "success", "running": true}),
        );
        Ok(ExitCode::from(EXIT_OK))
    }

    /// The log goes where ours would; its end is Ctrl-C's, which reaches `docker` as it reaches us.
    fn logs(&self, asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
        self.must_be_set_up()?;
        let lines = asked.matches.get_one::<usize>("lines").context("it has a default")?.to_string();
        let mut arguments = vec!["logs", "--no-log-prefix", "--tail", &lines];
        if !asked.matches.get_flag("no-follow") {
            arguments.push("--follow");
        }
        arguments.push(BROKER);
        check(self.program(&arguments).status(), "docker compose logs")?;
        Ok(ExitCode::from(EXIT_OK))
    }

    /// The containers of the broker and of its agent.
    pub(super) fn containers(&self) -> anyhow::Result<Vec<Container>> {
        let output = self
            .program(&["ps", "--all", "--format", "json", BROKER, AGENT])
            .stderr(Stdio::inherit())
            .output();
        let (status, said) = match output {
            Ok(output) => (Ok(output.status), output.stdout),
            Err(error) => (Err(error), Vec::new()),
        };
        check(status, "docker compose ps")?;
        // One document a line since 2.21, and one list before.
        let mut containers = Vec::new();
        for document in serde_json::Deserializer::from_slice(&said).into_iter::<serde_json::Value>() {
            match document.context("docker compose ps: JSON is expected")? {
                serde_json::Value::Array(list) => containers.extend(list),
                one => containers.push(one),
            }
        }
        let read = |container| serde_json::from_value(container).context("docker compose ps: Service and State are expected");
        containers.into_iter().map(read).collect()
    }

    /// Runs `docker compose`, which tells people how it goes; our own answer alone is on standard output.
    fn docker(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = self.program(arguments).stdout(io::stderr()).status();
        check(status, &format!("docker compose {}", arguments.join(" ")))
    }

    fn program(&self, arguments: &[&str]) -> Program {
        let mut program = Program::new("docker");
        program
            .arg("compose")
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        program
    }
}

impl Container {
    /// Whether the broker's container runs, and is not known to be ill.
    pub(super) fn is_well(&self) -> bool {
        self.state == "running" && self.health != "unhealthy"
    }
}

/// Whether the broker's is among them, and well.
pub(super) fn is_running(containers: &[Container]) -> bool {
    containers
        .iter()
        .any(|container| container.service == BROKER && container.is_well())
}

fn check(status: io::Result<ExitStatus>, what: &str) -> anyhow::Result<()> {
    let status = status.with_context(|| format!("{what} cannot be started"))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    Ok(())
}
