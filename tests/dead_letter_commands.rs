//! `iotflow dead-letter`, through the real binary on real servers.

mod support;

use std::process::{Command, Output};

use serde_json::Value;

use support::judge::{number, texts, until_number};
use support::publisher::Publisher;
use support::servers::Servers;
use support::service::Service;

fn run(servers: &Servers, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_iotflow"))
        .arg("dead-letter")
        .args(arguments)
        .env_clear()
        .envs(servers.environment())
        .env("LOG_FILE", servers.path().join("command.log"))
        .current_dir(servers.path())
        .output()
        .expect("the binary runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn ids(servers: &Servers, arguments: &[&str]) -> Vec<String> {
    let (code, out, errors) = run(servers, &[&["list", "--json"], arguments].concat());
    assert_eq!(code, 0, "{errors}");
    let id = |line: &str| {
        let letter: Value = serde_json::from_str(line).expect("JSON");
        letter["id"].as_str().expect("an id").to_owned()
    };
    out.lines().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_seen_replayed_and_removed() {
    let servers = Servers::start().await;
    let _service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    let mut device = Publisher::new(servers.mqtt_port);
    device.publish("iotflow/devices/d1/telemetry", "no\u{1b}[2Jnsense").await;
    device.publish("iotflow/devices/d1/telemetry/dreams", "{\"a\":1}").await;
    device.publish("iotflow/devices/d2/telemetry", b"\xff".to_vec()).await;
    until_number(&sql, "SELECT count(*) FROM dead_letters", 3).await;
    sql.batch_execute(
        "INSERT INTO dead_letters VALUES ('0198c0de-0000-7000-8000-000000000001', now(), 'iotflow/devices/d1/telemetry', 1, '{\"a\":1,\"ts\":1751365800}', 'too_many_metrics', 'x')",
    )
    .await
    .expect("it is stored");

    assert_eq!(ids(&servers, &[]).len(), 4);
    assert_eq!(ids(&servers, &["--topic-prefix", "iotflow/devices/d2/", "--since", "1h"]).len(), 1);
    let bad = ids(&servers, &["--reason", "not_json"]).remove(0);
    let (code, out, _) = run(&servers, &["show", &bad]);
    assert!(code == 0 && out.contains("\\u{1b}[2J") && !out.contains('\u{1b}'), "{out:?}");
    let (_, out, _) = run(&servers, &["list"]);
    assert!(out.contains("too_many_metrics") && out.contains("unknown_topic"), "{out}");
    assert_eq!(run(&servers, &["show", "0198c0de-0000-7000-8000-00000000dead"]).0, 1);

    // What has become good is stored; what has not is a letter still.
    let (code, out, errors) = run(&servers, &["replay", "--reason", "too_many_metrics"]);
    assert_eq!((code, out.contains("replayed 0198c0de")), (0, true), "{out}{errors}");
    until_number(&sql, "SELECT count(*) FROM readings WHERE device = 'd1'", 1).await;
    let (code, _, errors) = run(&servers, &["replay", "--reason", "unknown_topic"]);
    assert!(code == 1 && errors.contains("telemetry/sensors"), "{errors}");
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 3);
    assert_eq!(run(&servers, &["replay"]).0, 2, "which ones?");
    assert_eq!(run(&servers, &["purge"]).0, 2, "which ones?");

    assert_eq!(run(&servers, &["purge", &bad]).0, 0);
    assert_eq!(run(&servers, &["purge", &bad]).0, 1);
    let (_, out, _) = run(&servers, &["purge", "--before", "2099-01-01T00:00:00Z", "--reason", "bad_utf8"]);
    assert_eq!(out.trim(), "removed 1");
    assert_eq!(run(&servers, &["purge", "--all"]).1.trim(), "removed 1");
    let actions = texts(
        &sql,
        "SELECT action || ' ' || outcome FROM audit_log WHERE action LIKE 'deadletter.%' ORDER BY id",
    )
    .await;
    let expected = [
        "deadletter.replay done",
        "deadletter.replay refused",
        "deadletter.purge done",
        "deadletter.purge refused",
        "deadletter.purge done",
        "deadletter.purge done",
    ];
    assert_eq!(actions, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_a_replay_keeps_the_letter_and_says_so() {
    let servers = Servers::start().await;
    let _service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    sql.batch_execute(
        "INSERT INTO dead_letters VALUES ('0198c0de-0000-7000-8000-000000000001', now(), 'iotflow/devices/d1/telemetry', 1, '{\"a\":1}', 'too_many_metrics', 'x')",
    )
    .await
    .expect("it is stored");
    let mut environment = servers.environment();
    environment.retain(|(name, _)| name != "MQTT_PORT");
    let output = Command::new(env!("CARGO_BIN_EXE_iotflow"))
        .args(["dead-letter", "replay", "0198c0de-0000-7000-8000-000000000001", "--mqtt-port", "1"])
        .env_clear()
        .envs(environment)
        .current_dir(servers.path())
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("broker"), "{output:?}");
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 1);
    assert_eq!(
        texts(&sql, "SELECT outcome FROM audit_log WHERE action = 'deadletter.replay'").await,
        ["failed"]
    );
}
