//! `iotflow serve` as a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{PATIENCE, eventually, pause};

/// See the module's documentation.
pub struct Service {
    child: Child,
    log: PathBuf,
    pub address: String,
}

impl Service {
    /// Starts it and waits until it listens.
    pub async fn start(folder: &Path, environment: &[(String, String)]) -> Self {
        let log = folder.join(format!("service-{:08x}.log", fastrand::u32(..)));
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_iotflow"), "serve"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(environment.iter().cloned())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the folder is ours"))
            .spawn()
            .expect("setpriv (util-linux) can be started");
        let mut service = Self {
            child,
            log,
            address: String::new(),
        };
        service.address = service.listening().await;
        service
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(folder: &Path, environment: &[(String, String)]) -> Self {
        let service = Self::start(folder, environment).await;
        service.until_ready().await;
        service
    }

    async fn listening(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let address = self.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
            });
            if let Some(address) = address {
                return address;
            }
            let ended = self.child.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the service does not come up ({ended:?}):\n{}",
                self.log()
            );
            pause(Duration::from_millis(10)).await;
        }
    }

    pub async fn until_ready(&self) {
        eventually(&format!("the service is ready; its log:\n{}", self.log()), async || {
            (self.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")), signal).expect("it is our child");
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// SIGTERM, and how it ended and when.
    pub async fn terminate(&mut self) -> (ExitStatus, Duration) {
        self.signal(Signal::SIGTERM);
        self.until_ended().await
    }

    /// How it ended, and after how long from now.
    pub async fn until_ended(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < PATIENCE, "the service does not heed SIGTERM:\n{}", self.log());
            pause(Duration::from_millis(5)).await;
        }
    }

    /// Status and body of a GET; status 0 where nobody answers.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream
                .write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())
                .await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let Ok(text) = answer.await else { return (0, String::new()) };
        let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (
            status,
            text.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()),
        )
    }

    /// Both pages, as series with their values.
    pub async fn series(&self) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        for page in ["/metrics/qos", "/metrics"] {
            let (_, text) = self.get(page).await;
            series.extend(text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            }));
        }
        series
    }

    /// Whether this connection's subscriptions are in force here.
    pub async fn has(&self, connection: &str) -> bool {
        self.series()
            .await
            .get(&format!("iotflow_mqtt_connected{{connection=\"{connection}\"}}"))
            .copied()
            == Some(1.0)
    }

    /// The sum of all series of a family.
    pub async fn sum(&self, family: &str) -> f64 {
        sum(&self.series().await, family)
    }
}

/// The sum of all series of a family.
pub fn sum(series: &BTreeMap<String, f64>, family: &str) -> f64 {
    series
        .iter()
        .filter(|(name, _)| *name == family || name.strip_prefix(family).is_some_and(|rest| rest.starts_with('{')))
        .map(|(_, value)| value)
        .sum()
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the service's last words:\n{}",
                lines[lines.len().saturating_sub(25)..].join("\n")
            );
        }
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
