//! Commands reach a device once and in order, whether it is there or comes back, and its answers are told to who gave them.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::paho::{Paho, own_commands};
use crate::support::pause;
use crate::trial::Trial;

const SENSOR: &str = "sensor_001";

fn control(command: &str, ttl_seconds: u32) -> Value {
    json!({"command_type": "control", "command": command, "ttl": ttl_seconds})
}

fn time(of: &Value, step: &str) -> Timestamp {
    let text = of[step].as_str().unwrap_or_else(|| panic!("{step} is missing in {of}"));
    text.parse().expect("a time")
}

#[tokio::test]
async fn a_command_arrives_once_with_all_that_an_answer_needs_and_whoever_waits_is_told() {
    let trial = Trial::start().await;
    let login = trial.register(SENSOR, &[]).await;
    let mut sensor = Paho::online(&trial, &login, &own_commands(SENSOR)).await;
    trial.until_presence(SENSOR, "online").await;
    let asked = json!({
        "command_type": "config", "command": "update_interval", "parameters": {"interval_seconds": 30}, "command_id": "cmd_12345", "ttl": 600,
    });
    let waited = trial.operator.post("/api/v1/mqtt/device/sensor_001/command?wait=60s", asked);
    let obeyed = async {
        let command = sensor.next().await;
        assert_eq!(command.topic, "iotflow/devices/sensor_001/commands/config");
        assert_eq!((command.qos, command.retain), (2, false));
        assert_eq!(
            command.response_topic.as_deref(),
            Some("iotflow/devices/sensor_001/commands/response")
        );
        assert_eq!(command.correlation.as_deref(), Some("cmd_12345"));
        assert!(command.expiry_seconds.is_some_and(|left| (1..=600).contains(&left)), "{command:?}");
        assert_eq!(command.content_type.as_deref(), Some("application/json"));
        let said = command.json();
        assert_eq!(
            (&said["command"], &said["parameters"], &said["command_id"]),
            (&json!("update_interval"), &json!({"interval_seconds": 30}), &json!("cmd_12345"))
        );
        assert!(time(&said, "expires_at") > time(&said, "timestamp"));
        for answer in [
            json!({"command_id": "cmd_12345", "status": "accepted"}),
            json!({"command_id": "cmd_12345", "status": "progress", "progress": 40}),
            // The correlation data say which command it is.
            json!({"status": "completed", "message": "every 30 s", "result": {"interval_seconds": 30}}),
        ] {
            sensor.answer(&command, &answer).await;
        }
    };
    let (answer, ()) = tokio::join!(waited, obeyed);
    let answer = answer.ok();
    assert_eq!((&answer["state"], &answer["new"]), (&json!("completed"), &json!(true)), "{answer}");

    let shown = trial.command("cmd_12345").await;
    let delivery = &shown["deliveries"][0];
    let steps = ["queued_at", "sent_at", "delivered_at", "accepted_at", "progress_at", "finished_at"];
    assert!(steps.map(|step| time(delivery, step)).is_sorted(), "{delivery}");
    assert_eq!(
        (&delivery["state"], &delivery["progress"], &delivery["message"], &delivery["result"]),
        (
            &json!("completed"),
            &json!(40.0),
            &json!("every 30 s"),
            &json!({"interval_seconds": 30})
        )
    );
    let listed = trial.operator.get("/api/v1/devices/sensor_001/commands?state=completed").await.ok();
    assert_eq!(listed["commands"][0]["command"]["command_id"], "cmd_12345", "{listed}");

    trial.send(SENSOR, &control("fence", 600)).await;
    assert_eq!(sensor.next().await.command(), "fence", "it came once");
}

/// Three commands that keep, and one that does not, for a device that is away; and then it is back.
async fn are_there_when_it_is_back(says_that_it_goes: bool) {
    let trial = Trial::start().await;
    let login = trial.register(SENSOR, &[]).await;
    let sensor = Paho::online(&trial, &login, &own_commands(SENSOR)).await;
    trial.until_presence(SENSOR, "online").await;
    if says_that_it_goes {
        sensor.sign_off().await;
        trial.until_presence(SENSOR, "offline").await;
    } else {
        sensor.leave().await;
    }
    let mut kept = Vec::new();
    for command in ["first", "second"] {
        kept.push(trial.send(SENSOR, &control(command, 600)).await);
    }
    let brief = trial.send(SENSOR, &control("too late", 1)).await;
    kept.push(trial.send(SENSOR, &control("third", 600)).await);
    let expired = trial.until_state(&brief, "expired").await;
    // The broker counts whole seconds.
    let over = time(&expired["command"], "expires_at") + SignedDuration::from_secs(3);
    pause(over.duration_since(Timestamp::now()).try_into().unwrap_or_default()).await;

    let mut sensor = Paho::online(&trial, &login, &own_commands(SENSOR)).await;
    assert!(sensor.session_present, "the broker has kept its session");
    for (command, id) in ["first", "second", "third"].into_iter().zip(&kept) {
        let came = sensor.next().await;
        assert_eq!(
            (came.command().as_str(), came.json()["command_id"].as_str()),
            (command, Some(id.as_str()))
        );
        sensor.answer(&came, &json!({"status": "completed"})).await;
        trial.until_state(id, "completed").await;
    }
    trial.send(SENSOR, &control("fence", 600)).await;
    assert_eq!(sensor.next().await.command(), "fence", "nothing else came");
    let shown = trial.command(&brief).await;
    assert_eq!(shown["command"]["state"], "expired", "{shown}");
}

#[tokio::test]
async fn who_said_that_it_goes_gets_what_kept_in_order_when_it_is_back() {
    are_there_when_it_is_back(true).await;
}

#[tokio::test]
async fn who_went_without_a_word_gets_it_from_its_session_at_the_broker() {
    are_there_when_it_is_back(false).await;
}
