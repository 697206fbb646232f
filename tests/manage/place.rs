//! A folder of somebody's who manages a broker with `mqtt_manage.sh`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::support::servers::{connect, folder};

/// On free ports of loopback.
pub(crate) const LISTENERS: &[&str] = &[
    "--listener=staff=127.0.0.1:0",
    "--listener=plain=127.0.0.1:0",
    "--listener=web-sockets=127.0.0.1:0",
    "--listener=tls=off",
    "--listener=mutual-tls=off",
];

/// See the module's documentation. What it started ends with it.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: folder(),
            environment: Vec::new(),
        }
    }

    /// With a broker that was set up and runs.
    pub(crate) fn set_up() -> Self {
        let place = Self::new();
        let mut arguments = vec!["setup"];
        arguments.extend(LISTENERS);
        place.does(&arguments);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The script, ready to be started.
    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("mqtt_manage.sh"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("IOTFLOW", env!("CARGO_BIN_EXE_iotflow"))
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn says(&self, arguments: &[impl AsRef<OsStr>]) -> Said {
        self.says_with(arguments, b"")
    }

    /// With this on standard input.
    pub(crate) fn says_with(&self, arguments: &[impl AsRef<OsStr>], input: &[u8]) -> Said {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the script can be started");
        // Who reads no input may be gone already.
        drop(child.stdin.take().expect("it is a pipe").write_all(input));
        let output = child.wait_with_output().expect("it is our child");
        Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it says when all is as it should be.
    pub(crate) fn does(&self, arguments: &[impl AsRef<OsStr> + std::fmt::Debug]) -> String {
        let said = self.says(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
        said.out
    }

    /// The same, for programs.
    pub(crate) fn tells(&self, arguments: &[&str]) -> Value {
        let said = self.does(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {said}"))
    }

    pub(crate) fn port(&self, kind: &str) -> u16 {
        let settings: Value = serde_json::from_str(&self.read(".iotflow/broker.json")).expect("JSON");
        let listeners = settings["listeners"].as_array().expect("a list");
        let listener = listeners.iter().find(|listener| listener["kind"] == kind).expect("it has one");
        u16::try_from(listener["port"].as_u64().expect("a number")).expect("a port")
    }

    /// The database that the installation has, or was told of.
    pub(crate) async fn sql(&self) -> Client {
        connect(&self.read(".iotflow/secrets/database-url")).await
    }

    /// The process that runs the servers.
    pub(crate) fn runner(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.path(".iotflow/run.lock")).ok()?;
        let pid: i32 = text.split_whitespace().next()?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&command).contains("iotflow").then(|| Pid::from_raw(pid))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.command(&["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status());
        if std::thread::panicking() {
            for log in [".iotflow/run.log", ".iotflow/broker/mosquitto.log"] {
                eprintln!("--- {log}:\n{}", std::fs::read_to_string(self.path(log)).unwrap_or_default());
            }
        }
        // It ends its servers when it is ended, however that comes about.
        if let Some(pid) = self.runner() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Everything below a folder but what servers write by themselves: its mode, and the bytes of files.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(place) = folders.pop() {
        for entry in std::fs::read_dir(&place).expect("it is there") {
            let path = entry.expect("it is there").path();
            let metadata = std::fs::symlink_metadata(&path).expect("it is there");
            let below = path.strip_prefix(folder).expect("it is below").to_owned();
            let servers_own = [".iotflow/postgres", ".iotflow/broker/data"]
                .iter()
                .any(|own| below.starts_with(own));
            if servers_own || path.extension().is_some_and(|extension| extension == "log") {
                continue;
            }
            let bytes = if metadata.is_file() {
                std::fs::read(&path).expect("it is there")
            } else {
                Vec::new()
            };
            found.insert(below, (metadata.mode(), bytes));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}
