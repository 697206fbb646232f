//! The walk-through, line by line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use iotflow::protocol::rights::Role;

use crate::place::{Place, Said};
use crate::support::judge;
use crate::support::person::{Person, login};
use crate::support::service::Service;

/// What stands behind `marker` on its line.
fn after<'a>(text: &'a str, marker: &str) -> &'a str {
    let (_, rest) = text.split_once(marker).unwrap_or_else(|| panic!("{marker:?} is missing in {text}"));
    rest.lines().next().unwrap_or_default().trim()
}

fn assert_refused(said: &Said) {
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out.contains("Not connected") && said.out.contains("./mqtt_manage.sh list-users"),
        "{said:?}"
    );
}

/// Runs the line that was printed, as somebody would who pastes it.
fn paste(place: &Place, line: &str) {
    let output = Command::new("sh")
        .args(["-c", line])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(place.folder.path())
        .output()
        .expect("there is a shell");
    assert!(output.status.success(), "{line}: {output:?}");
}

#[tokio::test]
async fn a_newcomer_gets_from_nothing_to_telemetry_in_the_database() {
    let place = Place::set_up();
    let said = place.does(&["setup-admin"]);
    let password = after(&said, "password, shown this once: ").to_owned();
    assert!(said.contains("Created the user admin; in force at the broker"), "{said}");

    let status = place.does(&["status"]);
    for expected in [
        "Mosquitto is running",
        "mosquitto version",
        "clients ",
        "messages ",
        "open",
        "2 users, in force",
    ] {
        assert!(status.contains(expected), "{expected:?} is missing in\n{status}");
    }
    let status = place.tells(&["status"]);
    assert_eq!((&status["status"], &status["running"]), (&"success".into(), &true.into()));
    assert!(
        status["broker"]["uptime_seconds"].is_u64() && status["broker"]["clients_connected"].is_u64(),
        "{status}"
    );
    assert_eq!(status["access"]["in_force"], true);
    assert!(
        status["listeners"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|listener| listener["open"] == true)
    );

    let said = place.does(&["generate-device", "sensor_001"]);
    let line = after(&said, "try it:\n    ").to_owned();
    let credentials = place.path("device_credentials_sensor_001.txt");
    let mode = std::fs::metadata(&credentials).expect("it is written").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let again = place.says(&["generate-device", "sensor_001"]);
    assert!(again.code == Some(2) && again.error.contains("is there already"), "{again:?}");

    let mut admin = Person::connect(&login(place.port("staff"), Some(("admin", &password))), "admin-watching")
        .await
        .expect("the password is good");
    admin.subscribe(&["iotflow/devices/sensor_001/telemetry/#"]).await;
    paste(&place, &line);
    admin.receive_until("{\"temperature\":23.5,\"humidity\":65.2}").await;
    admin.leave().await;

    place.does(&["test"]);
    place.does(&["test", "admin", &password]);
    assert_refused(&place.says(&["test", "admin", "another-password"]));

    // The service finds by itself what setup made.
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example"), place.path(".env")).expect("it is there");
    let environment = [("PORT", "0"), ("LOG_FORMAT", "json")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let service = Service::ready(place.folder.path(), &environment).await;
    paste(&place, &line);
    let sql = place.sql().await;
    judge::until_number(
        &sql,
        "SELECT count(*) FROM readings WHERE device = 'sensor_001' AND metric = 'temperature' AND value = 23.5",
        1,
    )
    .await;
    drop(service);
}

#[test]
fn the_admin_gets_the_password_that_is_given_in_whichever_way() {
    let place = Place::set_up();
    std::fs::write(place.path("password"), "from-a-file-1\n").expect("it is ours");
    let given: [(&[&str], &[u8], &str); 3] = [
        (&["setup-admin", "on-the-line-1"], b"", "on-the-line-1"),
        (&["setup-admin", "--password-file", "password"], b"", "from-a-file-1"),
        (&["setup-admin", "--password-stdin"], b"from-a-pipe-1\r\n", "from-a-pipe-1"),
    ];
    let mut last = None;
    for (arguments, input, password) in given {
        let said = place.says_with(arguments, input);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.out.contains(password) && !said.out.contains("shown this once"), "{said:?}");
        place.does(&["test", "admin", password]);
        if let Some(last) = last.replace(password) {
            assert_refused(&place.says(&["test", "admin", last]));
        }
    }
}

#[test]
fn users_come_change_and_go() {
    let place = Place::set_up();
    let names = || -> Vec<(String, bool)> {
        let users = place.tells(&["list-users"]);
        let users = users["users"].as_array().expect("a list");
        let user = |user: &serde_json::Value| (user["username"].as_str().expect("a name").to_owned(), user["disabled"] == true);
        users.iter().map(user).collect()
    };
    assert!(
        place
            .does(&["create-user", "device001", "secretpassword"])
            .contains("in force at the broker")
    );
    place.does(&["test", "device001", "secretpassword"]);
    assert_eq!(names(), [("device001".to_owned(), false), ("iotflow".to_owned(), false)]);
    let listed = place.does(&["list-users"]);
    assert!(listed.contains("device001") && listed.contains(Role::Device.as_str()), "{listed}");
    let again = place.says(&["create-user", "device001", "secretpassword"]);
    assert!(
        again.code == Some(2) && again.error.contains("there is a user device001 already"),
        "{again:?}"
    );

    let rotated = place.tells(&["rotate", "device001"]);
    let password = rotated["password"].as_str().expect("it was made").to_owned();
    assert_refused(&place.says(&["test", "device001", "secretpassword"]));
    place.does(&["test", "device001", &password]);

    place.does(&["disable", "device001"]);
    assert_refused(&place.says(&["test", "device001", &password]));
    assert_eq!(names()[0], ("device001".to_owned(), true));
    place.does(&["enable", "device001"]);
    place.does(&["test", "device001", &password]);

    place.does(&["delete-user", "device001"]);
    assert_refused(&place.says(&["test", "device001", &password]));
    assert_eq!(names(), [("iotflow".to_owned(), false)]);
    for verb in ["delete-user", "rotate", "disable", "enable"] {
        let unknown = place.says(&[verb, "device001"]);
        assert!(
            unknown.code == Some(2) && unknown.error.contains("there is no user device001"),
            "{verb}: {unknown:?}"
        );
    }
}

#[test]
fn the_broker_starts_stops_and_says_how_it_is() {
    let place = Place::set_up();
    assert!(place.does(&["start"]).contains("is running (process"));
    let pid = place.tells(&["status"])["pid"].as_i64().expect("it runs");
    place.does(&["restart"]);
    assert_ne!(place.tells(&["status"])["pid"].as_i64().expect("it runs"), pid);
    place.does(&["test"]);
    assert!(place.does(&["stop"]).contains("is stopped"));
    assert!(place.does(&["stop"]).contains("was not running"));
    let status = place.says(&["status"]);
    assert!(
        status.code == Some(1) && status.out.contains("start it: ./mqtt_manage.sh start"),
        "{status:?}"
    );
    let test = place.says(&["test"]);
    assert!(test.code == Some(1) && test.out.contains("./mqtt_manage.sh start"), "{test:?}");
    let users = place.says(&["list-users"]);
    assert!(users.code == Some(2) && users.error.contains("./mqtt_manage.sh start"), "{users:?}");
    place.does(&["start"]);
    place.does(&["test"]);
}

#[test]
fn logs_show_what_was_said_and_what_comes() {
    let place = Place::set_up();
    let add = |line: &str| {
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .open(place.path(".iotflow/broker/mosquitto.log"))
            .expect("it is there");
        writeln!(log, "{line}").expect("it is ours");
    };
    (0..100).for_each(|number| add(&format!("said before {number:02}")));
    // The broker may have something to say between our lines.
    let ours = |line: &&str| line.starts_with("said ");
    let said = place.does(&["logs", "--no-follow", "--lines", "50"]);
    assert!(said.lines().count() <= 50, "{said}");
    assert_eq!(said.lines().rfind(ours), Some("said before 99"), "{said}");
    assert!(!said.contains("said before 01\n"), "{said}");
    let mut child = place
        .command(&["logs", "-n", "20"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the script can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut next = || loop {
        let line = lines.next().expect("a line").expect("text");
        if line.starts_with("said ") && line.as_str() >= "said before 99" {
            return line;
        }
    };
    assert_eq!(next(), "said before 99");
    add("said later");
    assert_eq!(next(), "said later");
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
}

#[test]
fn help_is_there_and_what_is_no_verb_is_refused() {
    let place = Place::new();
    for verb in [
        "setup",
        "setup-admin",
        "start",
        "stop",
        "restart",
        "status",
        "logs",
        "test",
        "create-user",
        "delete-user",
        "list-users",
        "generate-device",
    ] {
        assert!(place.does(&["help"]).contains(verb), "{verb}");
        let help = place.does(&["help", verb]);
        assert!(help.contains("Usage: iotflow broker ") && help.contains(verb), "{help}");
    }
    assert_eq!(place.does(&[] as &[&str]), place.does(&["help"]));
    let unknown = place.says(&["frobnicate"]);
    assert!(
        unknown.code == Some(2) && unknown.error.contains("unrecognized subcommand 'frobnicate'"),
        "{unknown:?}"
    );
    for verb in ["start", "stop", "status", "logs", "test", "list-users"] {
        let said = place.says(&[verb]);
        assert!(
            said.code == Some(2) && said.error.contains("./mqtt_manage.sh setup"),
            "{verb}: {said:?}"
        );
    }
    assert_eq!(
        std::fs::read_dir(place.folder.path()).expect("it is ours").count(),
        0,
        "asking makes nothing"
    );
}
