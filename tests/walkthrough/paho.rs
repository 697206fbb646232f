//! A device that paho plays (`device.py`): told what to do, and asked what came.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::programs::{self, Program};
use crate::support::PATIENCE;
use crate::trial::{Login, Trial};

/// See the module's documentation.
pub struct Paho {
    id: String,
    program: Program,
    waiting: VecDeque<Delivery>,
    /// Whether the broker had kept its session.
    pub session_present: bool,
}

/// A message that came to it.
#[derive(Debug, Deserialize)]
pub struct Delivery {
    pub topic: String,
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
    pub response_topic: Option<String>,
    pub correlation: Option<String>,
    pub expiry_seconds: Option<u32>,
    pub content_type: Option<String>,
}

impl Delivery {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.payload).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The command that it brought.
    pub fn command(&self) -> String {
        self.json()["command"].as_str().expect("a command").to_owned()
    }
}

/// A Python that has paho: the one of the path, or the system's, to which packages belong.
fn python() -> &'static str {
    static PYTHON: OnceLock<&str> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let has_paho = |python: &&str| {
            let mut command = Command::new(python);
            command
                .args(["-c", "import paho.mqtt.client"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let candidates = ["python3", "/usr/bin/python3"];
        candidates
            .into_iter()
            .find(has_paho)
            .unwrap_or_else(|| panic!("no Python here has paho.mqtt.client: apt-get install python3-paho-mqtt, or run ./dev test"))
    })
}

impl Paho {
    /// Connects, with the session that the broker has kept of it, and subscribes at QoS 2.
    pub async fn connect(trial: &Trial, login: &Login, filters: &[String]) -> Self {
        let mut command = programs::command(python());
        command
            .arg("-u")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/walkthrough/device.py"));
        let mut device = Self {
            id: login.username.clone(),
            program: Program::start(trial.site.folder.path(), "device", command),
            waiting: VecDeque::new(),
            session_present: false,
        };
        let login = json!({
            "host": "127.0.0.1", "port": trial.site.ports.tls, "ca_cert": trial.ca_cert(),
            "username": login.username, "password": login.password, "filters": filters,
        });
        device.write(&login).await;
        let connected = device.until("connected").await;
        device.session_present = connected["session_present"] == true;
        let subscribed = device.until("subscribed").await;
        assert!(!subscribed["reasons"].to_string().contains("error"), "{subscribed}");
        device
    }

    /// The same, and then says that it is online.
    pub async fn online(trial: &Trial, login: &Login, filters: &[String]) -> Self {
        let mut device = Self::connect(trial, login, filters).await;
        device.report("status/online", &json!({"status": "online"}), 1, true).await;
        device
    }

    /// Publishes on one of its own topics.
    pub async fn report(&mut self, below: &str, payload: &Value, qos: u8, retain: bool) {
        let topic = format!("iotflow/devices/{}/{below}", self.id);
        self.carry_out(json!({"topic": topic, "payload": payload.to_string(), "qos": qos, "retain": retain}))
            .await;
    }

    /// Publishes anywhere, at QoS 1.
    pub async fn publish(&mut self, topic: &str, payload: &str) {
        self.carry_out(json!({"topic": topic, "payload": payload, "qos": 1, "retain": false}))
            .await;
    }

    /// Publishes telemetry of its sensors, and wants to hear what becomes of it.
    pub async fn report_for_receipt(&mut self, payload: &str, correlation: &str) {
        let own = |below: &str| format!("iotflow/devices/{}/{below}", self.id);
        let order = json!({
            "topic": own("telemetry/sensors"), "payload": payload, "qos": 1, "retain": false,
            "response_topic": own("receipts"), "correlation": correlation,
        });
        self.carry_out(order).await;
    }

    /// Answers a command where it asked for the answer, or on its own topic for answers.
    pub async fn answer(&mut self, command: &Delivery, answer: &Value) {
        let own = format!("iotflow/devices/{}/commands/response", self.id);
        let topic = command.response_topic.clone().unwrap_or(own);
        let order = json!({
            "topic": topic, "payload": answer.to_string(), "qos": 1, "retain": false, "correlation": command.correlation,
        });
        self.carry_out(order).await;
    }

    /// The next message that comes, which must.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.waiting.pop_front() {
                return delivery;
            }
            self.event().await;
        }
    }

    /// Takes leave: no will.
    pub async fn leave(mut self) {
        self.write(&json!({"do": "leave"})).await;
        self.program.end().await.ok();
    }

    /// Says that it goes, and takes leave.
    pub async fn sign_off(mut self) {
        self.report("status/offline", &json!({"status": "offline"}), 1, true).await;
        self.leave().await;
    }

    /// Is gone, without a word.
    pub async fn vanish(mut self) {
        self.write(&json!({"do": "vanish"})).await;
        self.program.end().await.ok();
    }

    async fn carry_out(&mut self, mut order: Value) {
        order["do"] = "publish".into();
        self.write(&order).await;
        self.until("published").await;
    }

    async fn write(&mut self, order: &Value) {
        let stdin = self.program.stdin.as_mut().expect("it is piped");
        stdin.write_all(format!("{order}\n").as_bytes()).await.expect("it listens");
    }

    async fn until(&mut self, wanted: &str) -> Value {
        let found = async {
            loop {
                let event = self.event().await;
                if event["event"] == wanted {
                    return event;
                }
            }
        };
        // Something may well happen all the time: a client that is thrown out connects again.
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("it is never {wanted}"))
    }

    /// The next thing that happens; a message is put aside.
    async fn event(&mut self) -> Value {
        let line = self.program.line().await;
        let line = line.unwrap_or_else(|| panic!("{} has ended: {}", self.id, self.program.errors()));
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let event_name = event["event"].as_str().unwrap_or_default();
        assert!(!matches!(event_name, "refused" | "unpublished"), "{}: {event}", self.id);
        if event_name == "message" {
            self.waiting
                .push_back(Deserialize::deserialize(&event).expect("it has all its members"));
        }
        event
    }
}

/// The filters of a device that does what it is told.
pub fn own_commands(device: &str) -> Vec<String> {
    vec![format!("iotflow/devices/{device}/commands/+")]
}
