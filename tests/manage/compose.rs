//! The same verbs where Compose runs the broker. What `docker` would do with what it is asked is not tried here: there is a
//! stand-in in its place.

use std::fs;

use iotflow::broker::passwords::Hash;
use iotflow::identity::users;
use iotflow::observe::secret::Secret;
use iotflow::protocol::id::Username;
use iotflow::protocol::rights::Role;
use nix::unistd::Uid;

use crate::containers::{Containers, calls, checkout, make_secrets};
use crate::place::{LISTENERS, tree};

#[test]
fn each_verb_is_one_call_of_docker_compose() {
    let place = checkout();
    make_secrets(&place);
    for (arguments, expected) in [
        (
            &["setup", "--compose"][..],
            "docker compose up --detach --wait mosquitto broker-agent",
        ),
        (&["start", "--compose"], "docker compose start mosquitto"),
        // Where there are Compose's secrets and no broker in the data folder, Compose is meant.
        (&["start"], "docker compose start mosquitto"),
        (&["stop"], "docker compose stop mosquitto"),
        (&["restart"], "docker compose restart mosquitto"),
        (&["logs"], "docker compose logs --no-log-prefix --tail 50 --follow mosquitto"),
        (
            &["logs", "-n", "7", "--no-follow"],
            "docker compose logs --no-log-prefix --tail 7 mosquitto",
        ),
    ] {
        let said = place.does(arguments);
        assert_eq!(calls(&place), [expected]);
        assert_eq!(said.contains("said by docker"), arguments[0] == "logs", "{said}");
        if arguments[0] != "logs" {
            assert_eq!(place.tells(arguments)["status"], "success");
            calls(&place);
        }
    }
    place.does(&["setup", "--no-start"]);
    assert_eq!(calls(&place), [""; 0]);

    fs::write(place.path("docker.fails"), "").expect("it is ours");
    for verb in ["setup", "start", "stop", "restart", "logs", "status"] {
        let said = place.says(&[verb]);
        assert!(said.code == Some(2) && said.error.contains("exit status: 17"), "{verb}: {said:?}");
        assert!(said.error.contains("no such engine"), "{verb}: what docker says is shown: {said:?}");
    }
}

#[test]
fn setup_makes_the_secrets_once() {
    let place = checkout();
    for verb in ["start", "status", "list-users"] {
        let said = place.says(&[verb, "--compose"]);
        assert!(said.code == Some(2) && said.error.contains("setup --compose"), "{said:?}");
    }
    if !Uid::effective().is_root() {
        println!("only root can give files away: that setup makes the secrets was not tried");
        return;
    }
    place.does(&["setup", "--compose"]);
    let made = tree(&place.path("secrets"));
    assert!(made.contains_key(std::path::Path::new("broker/access/passwords")));
    assert_eq!(calls(&place).len(), 1);
    place.does(&["setup"]);
    assert!(tree(&place.path("secrets")) == made, "they are made anew");
}

#[test]
fn which_broker_is_meant_is_said_or_plain() {
    let place = checkout();
    make_secrets(&place);
    for option in ["--plain", "--name=broker.example", "--listener=plain=off"] {
        let said = place.says(&["setup", option]);
        assert!(
            said.code == Some(2) && said.error.contains("docker-compose.yml"),
            "{option}: {said:?}"
        );
    }
    // With an installation of its own in the data folder, that is meant.
    place.does(&[&["setup", "--no-start", "--data", "own"], LISTENERS].concat());
    assert_eq!(calls(&place), [""; 0]);
    let said = place.does(&["stop", "--data", "own"]);
    assert!(said.contains("was not running") && calls(&place).is_empty(), "{said}");
    place.does(&["stop", "--data", "own", "--compose"]);
    assert_eq!(calls(&place), ["docker compose stop mosquitto"]);
    // From elsewhere by its name.
    fs::create_dir(place.path("elsewhere")).expect("it is ours");
    let mut stop = place.command(&["stop", "--compose=.."]);
    assert!(
        stop.current_dir(place.path("elsewhere"))
            .output()
            .expect("it can be started")
            .status
            .success()
    );
    assert_eq!(calls(&place), ["docker compose stop mosquitto"]);
    let said = place.says(&["stop", "--compose=elsewhere"]);
    assert!(
        said.code == Some(2) && said.error.contains("no docker-compose.yml in elsewhere"),
        "{said:?}"
    );
}

#[tokio::test]
async fn users_of_the_containers_are_in_force_when_the_command_returns() {
    let mut containers = Containers::start().await;
    let place = &containers.place;
    fs::write(
        place.path("docker.ps"),
        "{\"Service\":\"mosquitto\",\"State\":\"running\",\"Health\":\"healthy\",\"Name\":\"x\"}\n{\"Service\":\"broker-agent\",\"State\":\"running\",\"Health\":\"\"}\n",
    )
    .expect("it is ours");
    let admin = place.tells(&["setup-admin"])["password"].as_str().expect("it was made").to_owned();
    place.does(&["test"]);
    place.does(&["test", "admin", &admin]);
    assert!(
        place
            .does(&["create-user", "device001", "secretpassword"])
            .contains("in force at the broker")
    );
    assert!(containers.lets_in("device001", "secretpassword").await);
    place.does(&["generate-device", "pump-1"]);
    let credentials = place.read("device_credentials_pump-1.txt");
    assert!(credentials.contains("MQTT_HOST=localhost\nMQTT_PORT=1883\n"), "{credentials}");
    let refused = place.says(&["generate-device", "pump-2", "--certificate"]);
    assert!(
        refused.code == Some(2) && refused.error.contains("no listener that takes a device's certificate"),
        "{refused:?}"
    );
    place.does(&["delete-user", "device001"]);
    assert!(!containers.lets_in("device001", "secretpassword").await);

    // Its listeners are where the containers' would be published, and so not open here.
    let status = place.says(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap_or_else(|error| panic!("{error}: {status:?}"));
    assert_eq!(
        (&status["running"], &status["access"]["in_force"]),
        (&true.into(), &true.into()),
        "{status}"
    );
    assert_eq!(status["containers"][0]["health"], "healthy");
    assert!(status["broker"]["version"].as_str().expect("it says so").contains("mosquitto"));
    let status = place.says(&["status"]);
    assert!(
        status.out.contains("broker-agent") && status.out.contains("mosquitto version"),
        "{status:?}"
    );
    fs::write(
        place.path("docker.ps"),
        "[{\"Service\":\"mosquitto\",\"State\":\"exited\",\"Health\":\"\"}]",
    )
    .expect("it is ours");
    let status = place.says(&["status"]);
    assert!(status.code == Some(1) && status.out.contains("exited"), "{status:?}");

    // Without an agent a change is not in force, and that is said.
    containers.kill_agent();
    let said = containers.place.says(&["create-user", "device002", "secretpassword"]);
    assert!(
        said.code == Some(1) && said.out.contains("NOT YET in force") && said.out.contains("docker compose up --detach broker-agent"),
        "{said:?}"
    );
    containers.start_agent(None);
    containers.until_in_force().await;
    assert!(containers.lets_in("device002", "secretpassword").await);
}

#[tokio::test]
async fn the_agent_outlives_the_broker_and_tells_the_next_one() {
    let mut containers = Containers::start().await;
    let hash = Hash::of_generated(&Secret::new("secretpassword")).expect("randomness");
    for round in 0..3 {
        containers.kill_broker().await;
        let name = format!("device-{round}");
        let username = Username::parse(&name).expect("a name");
        users::create(&containers.sql, &username, Role::Device, Some(hash.as_str()))
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        containers.until_in_force().await;
        assert!(!containers.agent_has_ended());
        crate::support::eventually("the new broker lets the new user in", async || {
            containers.lets_in(&name, "secretpassword").await.then_some(())
        })
        .await;
    }
}
