//! The same by HTTP and from a terminal: as the mission's clients speak, with every refusal a problem.

use std::process::{Command, Output};

use iotflow::devices::commands::state::State;
use iotflow::identity::principal::Role;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use iotflow::protocol::command::CommandId;
use serde_json::{Value, json};

use crate::plant::{Plant, ada};
use crate::support::http::Api;
use crate::support::judge::number;

pub async fn operator(plant: &mut Plant) -> Api {
    let wanted = NewToken {
        name: TokenName::parse("operator").expect("a name"),
        role: Role::Operator,
        expiry: None,
    };
    let made = tokens::create(&mut plant.sql, &ada(), &wanted).await.expect("it is made");
    Api::new(&plant.service.address, Some(made.secret.reveal()))
}

#[tokio::test]
async fn a_command_is_given_waited_for_and_read_again() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let api = operator(&mut plant).await;
    let mut pump = plant.device("pump").await;
    let path = "/api/v1/mqtt/device/pump/command";
    let body = r#"{"command_type":"control","command":"open","parameters":{ "a" : 1.10 },"command_id":"mine-1"}"#;
    let json_type = [("content-type", "application/json")];
    let asked = async { api.raw("POST", &format!("{path}?wait=30s"), &json_type, body).await };
    let answers = async {
        pump.receive(1).await;
        assert!(pump.received[0].payload.windows(14).any(|bytes| bytes == b"{ \"a\" : 1.10 }"));
        pump.answer(r#"{"command_id":"mine-1","status":"completed","result":{"ok": true}}"#)
            .await;
    };
    let (reply, ()) = tokio::join!(asked, answers);
    let given = reply.ok();
    assert_eq!(
        (&given["command_id"], &given["topic"], &given["state"], &given["new"]),
        (
            &json!("mine-1"),
            &json!("iotflow/devices/pump/commands/control"),
            &json!("completed"),
            &json!(true)
        )
    );
    let again = api.raw("POST", path, &json_type, body).await.ok();
    assert_eq!((&again["command_id"], &again["new"]), (&json!("mine-1"), &json!(false)));
    let shown = api.get("/api/v1/commands/mine-1").await;
    assert!(String::from_utf8_lossy(&shown.body).contains("{ \"a\" : 1.10 }"), "byte for byte");
    let shown = shown.ok();
    assert_eq!(shown["command"]["created_by"], "token:operator");
    assert_eq!(shown["deliveries"][0]["result"], json!({"ok": true}));
    let keyed = [("content-type", "application/json"), ("idempotency-key", "request 7")];
    let mut ids: Vec<Value> = Vec::new();
    for _ in 0..2 {
        let body = r#"{"command_type":"config","command":"set"}"#;
        ids.push(api.raw("POST", path, &keyed, body).await.ok()["command_id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(number(&plant.sql, "SELECT count(*) FROM commands").await, 2);
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_pages() {
    let mut plant = Plant::start().await;
    plant.group("north", &["a", "b"]).await;
    let api = operator(&mut plant).await;
    for number in 0..5 {
        let path = format!("/api/v1/mqtt/device/{}/command", if number % 2 == 0 { "a" } else { "b" });
        api.post(&path, json!({"command_type": "control", "command": format!("step {number}")}))
            .await
            .ok();
    }
    let fleet = api
        .post(
            "/api/v1/mqtt/fleet/north/command",
            json!({"command_type": "firmware", "command": "update"}),
        )
        .await
        .ok();
    assert_eq!(fleet["topic"], "iotflow/fleet/commands/north");
    assert_eq!(fleet["devices"]["total"], 2);
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let page = api.get(&format!("/api/v1/commands?limit=2{next}")).await.ok();
        let commands = page["commands"].as_array().expect("a list").clone();
        assert!(commands.len() <= 2);
        seen.extend(
            commands
                .iter()
                .map(|command| command["command"].as_str().expect("a text").to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["update", "step 4", "step 3", "step 2", "step 1", "step 0"]);
    let count = async |query: &str| api.get(query).await.ok()["commands"].as_array().map(Vec::len);
    assert_eq!(count("/api/v1/commands?device_id=a").await, Some(4));
    assert_eq!(count("/api/v1/commands?group_id=north").await, Some(1));
    assert_eq!(count("/api/v1/commands?command_type=control").await, Some(5));
    assert_eq!(count("/api/v1/commands?state=completed").await, Some(0));
    let of_device = api.get("/api/v1/devices/b/commands").await.ok();
    assert_eq!(of_device["commands"].as_array().map(Vec::len), Some(3));
    assert_eq!(of_device["commands"][0]["delivery"]["device_id"], "b");
    let id = fleet["command_id"].as_str().expect("a text");
    let page = api.get(&format!("/api/v1/commands/{id}?limit=1")).await.ok();
    let cursor = page["next_cursor"].as_str().expect("there is another");
    let last = api.get(&format!("/api/v1/commands/{id}?limit=1&cursor={cursor}")).await.ok();
    assert_eq!(
        (&last["deliveries"][0]["device_id"], &last["next_cursor"]),
        (&json!("b"), &Value::Null)
    );
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    plant.group("empty", &[]).await;
    let api = operator(&mut plant).await;
    let sound = json!({"command_type": "control", "command": "open", "command_id": "mine-1"});
    api.post("/api/v1/mqtt/device/pump/command", sound.clone()).await.ok();
    let with = |name: &str, value: Value| {
        let mut body = sound.clone();
        body[name] = value;
        body
    };
    for (path, body, status) in [
        ("mqtt/device/nobody/command", sound.clone(), 404),
        ("mqtt/device/a%20b/command", sound.clone(), 404),
        ("mqtt/fleet/none/command", sound.clone(), 404),
        ("mqtt/fleet/empty/command", with("command_id", json!("mine-2")), 409),
        ("mqtt/device/pump/command", with("command", json!("close")), 409),
        ("mqtt/device/pump/command", with("command_type", json!("other")), 422),
        ("mqtt/device/pump/command", with("command_id", json!("a b")), 422),
        ("mqtt/device/pump/command", with("ttl", json!(0)), 422),
        ("mqtt/device/pump/command", with("qos", json!(3)), 422),
        ("mqtt/device/pump/command", with("more", json!(1)), 422),
        ("mqtt/device/pump/command", with("parameters", json!("x".repeat(70_000))), 413),
        ("mqtt/device/pump/command?wait=61s", sound.clone(), 400),
        ("mqtt/device/pump/command?wait=soon", sound.clone(), 400),
        ("commands/nothing/cancel", Value::Null, 404),
    ] {
        api.call("POST", &format!("/api/v1/{path}"), Some(body)).await.problem(status);
    }
    for path in ["commands/nothing", "devices/nobody/commands"] {
        api.get(&format!("/api/v1/{path}")).await.problem(404);
    }
    for path in [
        "commands?cursor=x",
        "commands?limit=0",
        "commands?state=perhaps",
        "commands?device_id=a%20b",
    ] {
        api.get(&format!("/api/v1/{path}")).await.problem(400);
    }
    let id = CommandId::parse("mine-1").expect("an id");
    plant.until(&id, State::Sent).await;
    api.call("POST", "/api/v1/commands/mine-1/cancel", None).await.problem(409);
}

fn iotflow(plant: &Plant, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_iotflow"))
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", plant.servers.postgres.url().reveal())
        .current_dir(plant.servers.path())
        .output()
        .expect("it can be started")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[tokio::test]
async fn a_terminal_does_the_same() {
    let plant = Plant::start().await;
    plant.group("north", &["pump"]).await;
    let mut pump = plant.device("pump").await;
    let sent = iotflow(&plant, &["command", "send", "pump", "open\u{1b}[2J", "--parameters", "{\"a\": 1}"]);
    assert_eq!(sent.status.code(), Some(1), "a command is one line: {sent:?}");
    let sent = iotflow(
        &plant,
        &[
            "command",
            "send",
            "pump",
            "open \u{202e}",
            "--parameters",
            "{\"a\": 1}",
            "--ttl",
            "10m",
        ],
    );
    assert!(sent.status.success(), "{sent:?}");
    let id = out(&sent);
    pump.receive(1).await;
    pump.answer(&format!(r#"{{"command_id":"{id}","status":"completed","message":"\u001b[2J"}}"#))
        .await;
    plant.until(&CommandId::parse(&id).expect("an id"), State::Completed).await;
    let watched = iotflow(&plant, &["command", "watch", &id]);
    assert!(watched.status.success() && out(&watched).contains("completed"), "{watched:?}");
    for arguments in [
        &["command", "show", &id][..],
        &["command", "show", &id, "--json"],
        &["command", "list"],
        &["command", "list", "--json", "--device", "pump", "--state", "completed"],
    ] {
        let output = iotflow(&plant, arguments);
        assert!(output.status.success(), "{output:?}");
        let told = out(&output);
        assert!(told.contains(&id) || arguments[1] == "show", "{told}");
        assert!(!told.contains(['\u{1b}', '\u{202e}']), "{told:?}");
    }
    let fleet = iotflow(&plant, &["command", "fleet", "north", "ring", "--type", "config", "--json"]);
    let fleet: Value = serde_json::from_str(&out(&fleet)).expect("JSON");
    assert_eq!((&fleet["group_id"], &fleet["devices"]["total"]), (&json!("north"), &json!(1)));
    let refused = iotflow(&plant, &["command", "cancel", &id]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("cannot be taken back"),
        "{refused:?}"
    );
    let waited = iotflow(&plant, &["command", "send", "pump", "never", "--wait", "1s"]);
    assert_eq!(waited.status.code(), Some(1), "nobody answered: {waited:?}");
}
