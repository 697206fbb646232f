//! Everything is lost but the archive, and nobody notices who is back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use iotflow::devices::{groups, registry};
use iotflow::mqtt::config::{Config, TlsConfig};
use iotflow::protocol::id::DeviceIdRef;

use crate::support::installation::{Place, read, text};
use crate::support::person::{Person, login};
use crate::support::servers::{PASSWORD, connect};
use crate::support::{eventually, judge};

const COMMANDS: &str = "iotflow/devices/pump-1/commands/+";
const GROUP_COMMANDS: &str = "iotflow/fleet/commands/north";
const STATUS: &str = "iotflow/devices/pump-1/status/online";

/// The device logs in and has a session that waits for it.
async fn pump(place: &Place, password: &str) -> Person {
    let config = Config {
        clean_start: false,
        session_expiry: Duration::from_secs(3600),
        ..login(place.port("plain"), Some(("pump-1", password)))
    };
    Person::connect(&config, "pump-1")
        .await
        .unwrap_or_else(|error| panic!("pump-1 cannot log in: {error}"))
}

async fn admin(place: &Place) -> Person {
    Person::connect(&login(place.port("staff"), Some(("admin", PASSWORD))), "ann")
        .await
        .unwrap_or_else(|error| panic!("the admin cannot log in: {error}"))
}

async fn set_up(place: &Place) -> String {
    place.set_up(&[]);
    fs::write(place.path("password"), PASSWORD).expect("it is ours");
    place.done(&["setup-admin", "--password-file", "password"]);
    let password = place.json(&["generate-device", "pump-1"])["password"]
        .as_str()
        .expect("it has one")
        .to_owned();
    place.done(&["generate-device", "pump-2"]);
    place.done(&["disable", "pump-2"]);
    place.done(&["create-user", "meter-1"]);
    place.done(&["certs", "device", "meter-1"]);
    let sql = connect(&place.database_url()).await;
    let device = DeviceIdRef::parse("pump-1").expect("an id");
    let id = registry::find(&sql, device).await.expect("it answers").expect("it is registered");
    groups::open(&sql, &["north"]).await.expect("it is ours");
    groups::join(&sql, &[id], &["north"]).await.expect("it is ours");
    eventually("the group is in force", async || {
        (judge::number(&sql, "SELECT (version = applied_version)::int::int8 FROM broker_access").await == 1).then_some(())
    })
    .await;
    password
}

async fn leave_something_behind(place: &Place, password: &str) {
    // The device's own session comes after this: a client that logs in as the device takes its session over.
    let published = Command::new("mosquitto_pub")
        .args(["-r", "-t", STATUS, "-m", "retained"])
        .env("XDG_CONFIG_HOME", place.data().join("clients/pump-1"))
        .output()
        .expect("mosquitto-clients is installed");
    assert!(published.status.success(), "{published:?}");
    let mut device = pump(place, password).await;
    device.subscribe(&[COMMANDS, GROUP_COMMANDS]).await;
    device.go_offline().await;
    let mut admin = admin(place).await;
    admin
        .publish("iotflow/devices/pump-1/commands/control", "queued")
        .await
        .expect("an admin may");
    admin.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_backed_up_is_there_again_on_a_machine_that_has_nothing_else() {
    let place = Place::new();
    let password = set_up(&place).await;
    leave_something_behind(&place, &password).await;
    let authority = read(&place.data().join("broker/certs/ca.pem"));
    let users = place.json(&["list-users"]);

    let backed_up = place.run(&["backup", "kept.tar.gz"]);
    assert!(backed_up.status.success(), "{backed_up:?}");
    assert!(text(&backed_up.stdout).contains("pg_dump"), "{backed_up:?}");
    let mode = fs::metadata(place.path("kept.tar.gz")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let sql = connect(&place.database_url()).await;
    assert_eq!(
        audit(&sql, "backup.create").await,
        [place.path("kept.tar.gz").display().to_string()]
    );
    let refusal = place.refusal(&["restore", "kept.tar.gz", "--replace"]);
    assert!(refusal.contains("stop it first"), "{refusal}");
    assert!(place.refusal(&["backup", "kept.tar.gz"]).contains("another name"));
    place.done(&["stop"]);
    let logs = [
        read(&place.data().join("run.log")),
        read(&place.data().join("broker/mosquitto.log")),
    ];
    let secrets = secrets(&place, &password);
    fs::remove_dir_all(place.data()).expect("it is ours");

    let restored = place.run(&["restore", "kept.tar.gz"]);
    assert!(restored.status.success(), "{restored:?}");
    assert!(text(&restored.stdout).contains("./mqtt_manage.sh start"), "{restored:?}");
    place.done(&["start"]);
    assert_eq!(place.json(&["list-users"]), users, "who is shut out included");
    assert_eq!(read(&place.data().join("broker/certs/ca.pem")), authority);
    let sql = connect(&place.database_url()).await;
    assert_eq!(
        audit(&sql, "backup.restore").await,
        [place.path("kept.tar.gz").display().to_string()]
    );

    let mut device = pump(&place, &password).await;
    device.receive_until("queued").await;
    let mut admin = admin(&place).await;
    admin.publish(GROUP_COMMANDS, "to the group").await.expect("an admin may");
    device.receive_until("to the group").await;
    admin.subscribe(&[STATUS]).await;
    admin.receive_until("retained").await;
    let certs = place.data().join("broker/certs");
    let by_certificate = Config {
        tls: Some(TlsConfig {
            ca_cert: certs.join("ca.pem"),
            client: Some((certs.join("devices/meter-1.pem"), certs.join("devices/meter-1.key"))),
        }),
        ..login(place.port("mutual-tls"), None)
    };
    Person::connect(&by_certificate, "meter-1")
        .await
        .unwrap_or_else(|error| panic!("meter-1 cannot log in: {error}"));

    let said = |output: &Output| [text(&output.stdout), text(&output.stderr)].concat();
    let logs = logs.into_iter().chain([
        read(&place.data().join("run.log")),
        read(&place.data().join("broker/mosquitto.log")),
        said(&backed_up),
        said(&restored),
    ]);
    for log in logs {
        for secret in &secrets {
            assert!(!log.contains(secret), "a secret is in {log}");
        }
    }
}

async fn audit(sql: &tokio_postgres::Client, action: &str) -> Vec<String> {
    judge::texts(
        sql,
        &format!("SELECT object FROM audit_log WHERE action = '{action}' AND outcome = 'done'"),
    )
    .await
}

/// What must not be told: each secret of the installation, and what marks hashes and keys.
fn secrets(place: &Place, password: &str) -> Vec<String> {
    let kept = fs::read_dir(place.data().join("secrets")).expect("it is there");
    let kept = kept.map(|entry| read(&entry.expect("it is there").path()).trim().to_owned());
    kept.chain([password, PASSWORD, "$7$", "PRIVATE KEY"].map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_there_is_replaced_on_demand_only_and_is_kept_with_its_telemetry() {
    let place = Place::new();
    place.set_up(&["--no-start"]);
    // The broker does not run, so the database is started for this.
    place.done(&["backup", "empty.tar.gz"]);
    place.done(&["start"]);
    let sql = connect(&place.database_url()).await;
    place.done(&["generate-device", "pump-1"]);
    sql.batch_execute("INSERT INTO metrics (name) VALUES ('pressure')")
        .await
        .expect("it is ours");
    drop(sql);
    place.done(&["stop"]);

    let refusal = place.refusal(&["restore", "empty.tar.gz"]);
    assert!(refusal.contains("--replace"), "{refusal}");
    let answer = place.json(&["restore", "empty.tar.gz", "--replace"]);
    let kept = answer["kept"][0].as_str().expect("it says where");
    for what in [
        "broker.json",
        "secrets/mqtt-service",
        "broker/certs/ca.key",
        "broker/data/mosquitto.db",
    ] {
        assert!(Path::new(kept).join(what).exists(), "{what} is not in {kept}");
    }
    assert!(read(&Path::new(kept).join("database.json")).contains("\"pump-1\""));
    place.done(&["start"]);
    let sql = connect(&place.database_url()).await;
    assert_eq!(judge::texts(&sql, "SELECT username FROM broker_users").await, ["iotflow"]);
    assert_eq!(judge::texts(&sql, "SELECT name FROM metrics").await, ["pressure"]);
}
