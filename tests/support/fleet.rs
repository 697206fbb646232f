//! The load simulator as a process of its own: it publishes, and it is the judge of what arrived.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::eventually;
use super::servers::{FLEET, PASSWORD};

/// A fleet at work.
pub struct Fleet {
    child: Child,
    acked: Arc<AtomicU64>,
}

/// The simulator's program, beside ours.
pub fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_iotflow")).with_file_name("iotflow-load");
    assert!(
        program.exists(),
        "{} is not built: run `cargo build --workspace`, or ./dev test",
        program.display()
    );
    program
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report(pub Value);

impl Fleet {
    /// Starts the simulator with these arguments of `iotflow-load run`. An empty URL leaves it without a database.
    pub fn start(mqtt_port: u16, database_url: &str, arguments: &[&str]) -> Self {
        let program = program();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(["run", "--report", "json", "--progress", "json", "--drain-seconds", "90"])
            .args(if arguments.contains(&"--settle-seconds") {
                [].as_slice()
            } else {
                ["--settle-seconds", "90"].as_slice()
            })
            .args(arguments)
            .env("MQTT_HOST", "127.0.0.1")
            .env("MQTT_PORT", mqtt_port.to_string())
            .env("MQTT_USERNAME", FLEET)
            .env("MQTT_PASSWORD", PASSWORD)
            .envs((!database_url.is_empty()).then_some(("DATABASE_URL", database_url)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("setpriv (util-linux) can be started");
        let acked = Arc::new(AtomicU64::new(0));
        let (counter, mut lines) = (
            Arc::clone(&acked),
            BufReader::new(child.stderr.take().expect("it is piped")).lines(),
        );
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str::<Value>(&line) {
                    Ok(progress) => counter.store(progress["acked"].as_u64().unwrap_or(0), Ordering::Relaxed),
                    Err(_) => eprintln!("fleet: {line}"),
                }
            }
        });
        Self { child, acked }
    }

    /// Messages acked so far, as of its last word.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until so many messages are acked.
    pub async fn until_acked(&self, count: u64) {
        eventually(&format!("the fleet has {count} messages acked"), async || {
            (self.acked() >= count).then_some(())
        })
        .await;
    }

    /// Tells it to send nothing new. It waits for its acks, and reports.
    pub fn end(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).expect("it is our child");
    }

    /// Waits for its report.
    pub async fn report(mut self) -> Report {
        let mut text = String::new();
        self.child
            .stdout
            .take()
            .expect("it is piped")
            .read_to_string(&mut text)
            .await
            .expect("it writes UTF-8");
        let status = self.child.wait().await.expect("it is our child");
        let report = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("no report ({status}): {error}: {text}"));
        Report(report)
    }
}

impl Report {
    pub fn number(&self, pointer: &str) -> u64 {
        self.0
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("the report has no {pointer}: {}", self.0))
    }

    /// When it began, in seconds since 1970.
    pub fn started_at(&self) -> f64 {
        self.0["started_at"].as_f64().expect("it says when it began")
    }

    /// Lost, doubled and unexpected readings, and those that are there.
    pub fn verdict(&self) -> [u64; 4] {
        ["/verified/lost", "/verified/doubled", "/verified/unexpected", "/verified/found"].map(|pointer| self.number(pointer))
    }

    /// Fails the test unless every acked reading is there exactly once; says what came of it.
    pub fn assert_exactly_once(&self, fault: &str) {
        let [lost, doubled, unexpected, found] = self.verdict();
        println!(
            "{fault}: sent {}, acked {}, found {found}, lost {lost}, doubled {doubled}, unexpected {unexpected}, reconnects {}",
            self.number("/sent"),
            self.number("/acked"),
            self.number("/reconnects")
        );
        assert!(found > 0, "{fault}: nothing arrived");
        assert_eq!([lost, doubled, unexpected], [0, 0, 0], "{fault}: lost, doubled, unexpected");
    }
}
