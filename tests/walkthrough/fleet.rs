//! A fleet that a tag makes: a command to all of them, one sum, and nothing more for who lost the tag.

use serde_json::{Value, json};

use crate::paho::{Delivery, Paho, own_commands};
use crate::programs::Program;
use crate::support::eventually;
use crate::trial::{Login, Trial};

const COMMANDS: &str = "iotflow/fleet/commands/building_7";
const STATUS: &str = "iotflow/fleet/status/building_7";

async fn member(trial: &Trial, login: &Login) -> Paho {
    let mut filters = own_commands(&login.username);
    filters.push(COMMANDS.to_owned());
    let member = Paho::online(trial, login, &filters).await;
    trial.until_presence(&login.username, "online").await;
    member
}

/// A device that is a shell script: it listens for one command, and publishes an answer. It never says that it is there. What it
/// publishes, it publishes as a client of the same id, which ends its session: so it has to listen before a command is given.
async fn script(trial: &Trial, login: &Login) -> Program {
    let arguments = ["-q", "2", "-t", COMMANDS, "-C", "1"];
    trial.mosquitto_sub(login, &arguments).await
}

/// The message of the next line that holds one.
async fn message(program: &mut Program) -> Value {
    let line = program.until(|line| line.starts_with('{')).await;
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

async fn order(trial: &Trial, command: &str) -> String {
    let asked = json!({"command_type": "control", "command": command, "parameters": {"minutes": 5}});
    let sent = trial.operator.post("/api/v1/mqtt/fleet/building_7/command", asked).await.ok();
    assert_eq!(sent["topic"], COMMANDS);
    sent["command_id"].as_str().expect("an id").to_owned()
}

async fn has(member: &mut Paho, command: &str) -> Delivery {
    let came = member.next().await;
    assert_eq!((came.topic.as_str(), came.command().as_str()), (COMMANDS, command));
    assert_eq!((came.qos, came.retain), (2, false));
    assert!(came.response_topic.is_none(), "one topic cannot be every member's own");
    came
}

/// Waits until the group is told that all of so many are done; each sum on the way must add up.
async fn until_all_are_done(trial: &Trial, id: &str, total: u64) {
    const STATES: [&str; 9] = [
        "queued",
        "sent",
        "delivered",
        "accepted",
        "progress",
        "completed",
        "failed",
        "expired",
        "cancelled",
    ];
    let mut watcher = trial.mosquitto_sub(&Login::admin(), &["-t", STATUS]).await;
    loop {
        let status = message(&mut watcher).await["payload"].clone();
        if status["command_id"] != id {
            continue;
        }
        let sum: u64 = STATES
            .iter()
            .map(|state| status[state].as_u64().unwrap_or_else(|| panic!("{state} is missing in {status}")))
            .sum();
        assert_eq!((Some(sum), sum), (status["total"].as_u64(), total), "{status}");
        if status["completed"] == total {
            assert_eq!((&status["done"], &status["group"]), (&json!(total), &json!("building_7")));
            break;
        }
    }
    let mut late = trial.mosquitto_sub(&Login::admin(), &["-t", STATUS, "-C", "1"]).await;
    let told = message(&mut late).await;
    assert_eq!(
        (&told["retain"], &told["payload"]["completed"]),
        (&json!(1), &json!(total)),
        "{told}"
    );
}

#[tokio::test]
async fn a_fleet_that_a_tag_makes_gets_its_commands_until_the_tag_is_gone() {
    let trial = Trial::start().await;
    let grouped = json!({"group_id": "building_7", "name": "Building 7", "match_tag": "hvac"});
    assert_eq!(trial.operator.post("/api/v1/groups", grouped).await.status, 201);
    let mut logins = Vec::new();
    for device in ["valve_001", "valve_002", "valve_003"] {
        logins.push(trial.register(device, &["hvac"]).await);
    }
    let (mut first, mut second) = (member(&trial, &logins[0]).await, member(&trial, &logins[1]).await);
    let mut third = script(&trial, &logins[2]).await;

    let id = order(&trial, "purge").await;
    for member in [&mut first, &mut second] {
        let came = has(member, "purge").await;
        assert_eq!(came.correlation.as_deref(), Some(id.as_str()));
        member.answer(&came, &json!({"command_id": id, "status": "completed"})).await;
    }
    let came = message(&mut third).await;
    assert_eq!(
        (&came["payload"]["command_id"], &came["topic"]),
        (&json!(id), &json!(COMMANDS)),
        "{came}"
    );
    third.end().await.ok();
    let answer = json!({"command_id": id, "status": "completed"}).to_string();
    let answered = trial
        .mosquitto_pub(&logins[2], "iotflow/devices/valve_003/commands/response", &answer)
        .await;
    answered.ok();
    until_all_are_done(&trial, &id, 3).await;

    let untagged = trial
        .operator
        .call("PATCH", "/api/v1/devices/valve_002", Some(json!({"tags": []})))
        .await;
    assert_eq!(untagged.ok()["device"]["tags"], json!([]));
    trial.site.in_force().await;
    let members = trial.operator.get("/api/v1/groups/building_7/members").await.ok();
    assert_eq!(members["members"], json!(["valve_001", "valve_003"]), "{members}");
    let mut third = script(&trial, &logins[2]).await;
    let id = order(&trial, "flush").await;
    has(&mut first, "flush").await;
    assert_eq!(message(&mut third).await["payload"]["command"], "flush");
    eventually("it is for two", async || {
        (trial.command(&id).await["command"]["devices"]["total"] == 2).then_some(())
    })
    .await;
    trial
        .send("valve_002", &json!({"command_type": "control", "command": "fence"}))
        .await;
    assert_eq!(second.next().await.command(), "fence", "it is no member any more");
}
