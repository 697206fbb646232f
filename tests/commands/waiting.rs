//! Waiting for a command's end over HTTP: beside the time of the request, however many wait, and whoever goes away.

use std::time::Duration;

use iotflow::devices::commands::state::State;
use iotflow::protocol::command::CommandId;
use serde_json::json;

use crate::door::operator;
use crate::plant::Plant;
use crate::support::judge::{number, until_number};
use crate::support::{eventually, pause};

#[tokio::test]
async fn a_wait_is_beside_the_time_that_a_request_may_take() {
    let mut plant = Plant::with(&[("API_TIMEOUT", "10s")]).await;
    plant.register(&["pump"]).await;
    let api = operator(&mut plant).await;
    let mut pump = plant.device("pump").await;
    let body = json!({"command_type": "control", "command": "open", "command_id": "mine-1"});
    let asked = async { api.post("/api/v1/mqtt/device/pump/command?wait=60s", body).await };
    let answers = async {
        pump.receive(1).await;
        pause(Duration::from_secs(12)).await;
        pump.answer(r#"{"command_id":"mine-1","status":"completed"}"#).await;
    };
    let (reply, ()) = tokio::join!(asked, answers);
    assert_eq!(reply.ok()["state"], "completed");
    let unanswered = json!({"command_type": "control", "command": "close"});
    let reply = api.post("/api/v1/mqtt/device/pump/command?wait=12s", unanswered).await;
    assert_ne!(reply.ok()["state"], "completed", "it is answered all the same");
}

#[tokio::test]
async fn a_crowd_that_waits_holds_nobody_up_and_is_answered_together() {
    let mut plant = Plant::with(&[("API_CONNECTIONS", "1")]).await;
    plant.register(&["pump"]).await;
    let api = operator(&mut plant).await;
    let mut pump = plant.device("pump").await;
    let waiting: Vec<_> = (0..10)
        .map(|number| {
            let api = api.clone();
            let body = json!({"command_type": "control", "command": "open", "command_id": format!("c-{number}")});
            tokio::spawn(async move { api.post("/api/v1/mqtt/device/pump/command?wait=60s", body).await })
        })
        .collect();
    until_number(&plant.sql, "SELECT count(*) FROM commands", 10).await;
    api.get("/api/v1/commands").await.ok();
    pump.receive(10).await;
    for number in 0..10 {
        pump.answer(&format!(r#"{{"command_id":"c-{number}","status":"completed"}}"#)).await;
    }
    for waiter in waiting {
        assert_eq!(waiter.await.expect("it is answered").ok()["state"], "completed");
    }
}

#[tokio::test]
async fn who_hangs_up_has_given_the_command_all_the_same() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let api = operator(&mut plant).await;
    let mut pump = plant.device("pump").await;
    let body = json!({"command_type": "control", "command": "open", "command_id": "mine-1"});
    let asked = tokio::spawn(async move { api.post("/api/v1/mqtt/device/pump/command?wait=60s", body).await });
    eventually("it is given", async || {
        (number(&plant.sql, "SELECT count(*) FROM commands").await == 1).then_some(())
    })
    .await;
    asked.abort();
    pump.receive(1).await;
    pump.answer(r#"{"command_id":"mine-1","status":"completed"}"#).await;
    plant.until(&CommandId::parse("mine-1").expect("an id"), State::Completed).await;
}
