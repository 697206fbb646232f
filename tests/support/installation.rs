//! `iotflow broker` as people type it, in a folder of its own; whatever it started ends with the test.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use iotflow::broker::process::signal;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::servers::folder;

/// See the module's documentation.
pub struct Place {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Place {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With further variables for every command.
    pub fn with(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            folder: folder(),
            variables: variables.iter().map(owned).collect(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The installation's folder.
    pub fn data(&self) -> PathBuf {
        self.path(".iotflow")
    }

    /// Runs `iotflow broker` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_iotflow"))
            .arg("broker")
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .output()
            .expect("it is built")
    }

    /// What it says where it does as it is told.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        text(&output.stdout)
    }

    /// What it says in JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let said = self.done(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{said}: {error}"))
    }

    /// Why it does not.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        text(&output.stderr)
    }

    /// Sets up with all listeners of the broker but WebSockets on free ports; `more` are further arguments.
    pub fn set_up(&self, more: &[&str]) {
        let mut arguments = vec!["setup", "--listener", "web-sockets=off"];
        for place in [
            "staff=127.0.0.1:0",
            "plain=127.0.0.1:0",
            "tls=127.0.0.1:0",
            "mutual-tls=127.0.0.1:0",
        ] {
            arguments.extend(["--listener", place]);
        }
        self.done(&[&arguments, more].concat());
    }

    /// The port of a listener.
    pub fn port(&self, kind: &str) -> u16 {
        let settings: Value = serde_json::from_str(&read(&self.data().join("broker.json"))).expect("JSON");
        let listeners = settings["listeners"].as_array().expect("a list");
        let port = listeners
            .iter()
            .find(|listener| listener["kind"] == kind)
            .map(|listener| &listener["port"]);
        u16::try_from(port.and_then(Value::as_u64).expect("there is one")).expect("a port")
    }

    /// How to reach its database.
    pub fn database_url(&self) -> String {
        read(&self.data().join("secrets/database-url"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let stopped = self.run(&["stop"]);
        let lock = std::fs::read_to_string(self.data().join("run.lock")).unwrap_or_default();
        let pid = lock.split_whitespace().next().and_then(|pid| pid.parse().ok());
        if let (false, Some(pid)) = (stopped.status.success(), pid) {
            let program = std::fs::read_link(format!("/proc/{pid}/exe"));
            if program.is_ok_and(|program| program.as_path() == Path::new(env!("CARGO_BIN_EXE_iotflow"))) {
                // Its servers end with it.
                drop(signal(pid, Signal::SIGKILL));
            }
        }
    }
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
