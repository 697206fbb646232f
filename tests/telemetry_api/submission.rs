//! What is posted is committed when it is answered, and refused with the reason where it breaks a rule.

use iotflow::devices::registry;
use iotflow::identity::device_keys::{self, NewKey};
use iotflow::protocol::id::DeviceIdRef;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::http::{Api, Reply};
use super::support::judge::{number, texts, until_number};
use super::support::service::sum;
use super::trial::Trial;

pub(super) const DEVICE: &str = "/api/v1/telemetry/sensor_001";

/// Posts, and expects this outcome.
pub(super) async fn send(api: &Api, path: &str, payload: &Value, outcome: &str) {
    let answer = api.raw("POST", path, &[], payload.to_string()).await;
    assert_eq!(answer.status, 202, "{payload}: {:?}", answer.body);
    assert_eq!(answer.ok()["outcome"], outcome, "{payload}");
}

fn detail(answer: &Reply, status: u16) -> String {
    answer.problem(status)["detail"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn what_is_accepted_is_in_the_table() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let rows = async || number(&sql, "SELECT count(*) FROM readings").await;
    let reading = json!({"temperature": 23.5, "humidity": 65.2, "timestamp": "2025-07-01T10:30:00Z", "device_id": "sensor_001"});
    send(&trial.operator, DEVICE, &reading, "committed").await;
    // At once, and not eventually: that is what the answer says.
    assert_eq!(rows().await, 2);
    send(&trial.operator, DEVICE, &reading, "duplicate").await;
    assert_eq!(rows().await, 2);
    // The same at another channel is another message, as by MQTT.
    send(&trial.operator, &format!("{DEVICE}?kind=sensors"), &reading, "committed").await;
    send(
        &trial.operator,
        &format!("{DEVICE}?kind=metrics"),
        &json!({"ts": 1751365800000_i64, "values": {"cpu": 1}}),
        "committed",
    )
    .await;
    send(
        &trial.operator,
        DEVICE,
        &json!([{"a": 1, "ts": 1751365801}, {"a": 2, "ts": 1751365802}]),
        "committed",
    )
    .await;
    assert_eq!(rows().await, 7);
    send(
        &trial.operator,
        &format!("{DEVICE}?kind=events"),
        &json!({"alarm": "door", "ts": 1751365800}),
        "committed",
    )
    .await;
    assert_eq!(texts(&sql, "SELECT payload->>'alarm' FROM events").await, ["door"]);
    // Without a time it is the time of receipt, and every message is one of its own.
    for _ in 0..3 {
        send(&trial.operator, DEVICE, &json!({"a": 1}), "committed").await;
    }
    assert_eq!(
        number(&sql, "SELECT count(*) FROM readings WHERE time > now() - interval '1 hour'").await,
        3
    );

    let series = trial.service.series().await;
    assert_eq!(sum(&series, "iotflow_qos_received_total"), 9.0);
    assert_eq!(series["iotflow_qos_committed_total{qos=\"0\"}"], 8.0);
    assert_eq!(series["iotflow_qos_duplicates_total{qos=\"0\"}"], 1.0);
    assert_eq!(sum(&series, "iotflow_qos_in_flight"), 0.0);
    assert_eq!(series["iotflow_ingest_http_total{outcome=\"committed\"}"], 8.0);
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_with_the_reason_and_kept_nowhere() {
    let trial = Trial::with(&[("INGEST_MAX_PAYLOAD_BYTES", "100000"), ("INGEST_MAX_DEVICE_METRICS", "3")]).await;
    let sql = trial.servers.sql().await;
    let long = format!("{{\"text\":\"{}\",\"a\":}}", "x".repeat(80_000));
    for (payload, reason) in [
        ("", "empty_payload"),
        ("{", "not_json"),
        ("7", "not_object"),
        ("{}", "no_values"),
        (r#"{"a":1,"ts":"yesterday"}"#, "bad_time"),
        (r#"{"a":1,"ts":"1990-01-01T00:00:00Z"}"#, "time_out_of_window"),
        (r#"{"a":1,"device_id":"another"}"#, "device_id_mismatch"),
        (r#"[{"a":1},{"a":"#, "not_json"),
        (r#"[{"a":1},7]"#, "bad_elements"),
        (&long, "not_json"),
    ] {
        let answer = trial.operator.raw("POST", DEVICE, &[], payload.to_owned()).await;
        let detail = detail(&answer, 422);
        assert!(detail.starts_with(reason), "{reason}: {detail}");
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
    assert!(detail(&trial.operator.raw("POST", DEVICE, &[], large).await, 413).starts_with("payload_too_large"));
    assert!(detail(&trial.operator.raw("POST", &format!("{DEVICE}?kind=dreams"), &[], "{}").await, 400).contains("sensors"));
    trial
        .operator
        .raw("POST", "/api/v1/telemetry/a%20b", &[], r#"{"a":1}"#)
        .await
        .problem(404);
    assert_eq!(
        number(
            &sql,
            "SELECT (SELECT count(*) FROM telemetry) + (SELECT count(*) FROM dead_letters)"
        )
        .await,
        0
    );

    // What only the shard can know becomes a dead letter, as it does by MQTT.
    send(&trial.operator, DEVICE, &json!({"a": 1, "b": 1, "c": 1}), "committed").await;
    let detail = detail(&trial.operator.raw("POST", DEVICE, &[], r#"{"d":1}"#).await, 422);
    assert!(
        detail.starts_with("too_many_metrics") && detail.contains("dead letters"),
        "{detail}"
    );
    assert_eq!(texts(&sql, "SELECT reason FROM dead_letters").await, ["too_many_metrics"]);
}

#[tokio::test]
async fn no_answer_comes_before_the_commit() {
    let trial = Trial::start().await;
    let mut sql = trial.servers.sql().await;
    let watcher = trial.servers.sql().await;
    let lock = sql.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN EXCLUSIVE MODE")
        .await
        .expect("nobody has it");
    let operator = trial.operator.clone();
    let posted = tokio::spawn(async move { operator.raw("POST", DEVICE, &[], r#"{"a":1}"#).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iotflow-ingest' AND wait_event_type = 'Lock'";
    eventually("the COPY waits", async || (number(&watcher, waits).await > 0).then_some(())).await;
    assert!(!posted.is_finished(), "answered before the commit");
    lock.rollback().await.expect("it lets go");
    assert_eq!(posted.await.expect("no panic").status, 202);
}

#[tokio::test]
async fn a_device_that_sends_too_much_is_told_so() {
    let trial = Trial::with(&[("INGEST_DEVICE_RATE", "1"), ("INGEST_DEVICE_BURST", "2")]).await;
    let mut refused = None;
    for _ in 0..10 {
        let answer = trial.operator.raw("POST", DEVICE, &[], r#"{"a":1}"#).await;
        if answer.status == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("ten at once are more than two");
    assert!(detail(&refused, 429).contains("INGEST_DEVICE_RATE"));
    assert_eq!(refused.header("retry-after"), "1");
    // Another device is none the worse for it.
    send(&trial.operator, "/api/v1/telemetry/sensor_002", &json!({"a": 1}), "committed").await;
}

#[tokio::test]
async fn a_stop_waits_for_what_was_taken() {
    let mut trial = Trial::start().await;
    let mut sql = trial.servers.sql().await;
    let watcher = trial.servers.sql().await;
    let lock = sql.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN EXCLUSIVE MODE")
        .await
        .expect("nobody has it");
    let operator = trial.operator.clone();
    let posted = tokio::spawn(async move { operator.raw("POST", DEVICE, &[], r#"{"a":1}"#).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iotflow-ingest' AND wait_event_type = 'Lock'";
    eventually("the COPY waits", async || (number(&watcher, waits).await > 0).then_some(())).await;
    trial.service.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("it is stopping", async || {
        trial.service.log().contains("\"stopping\"").then_some(())
    })
    .await;
    lock.rollback().await.expect("it lets go");
    assert_eq!(posted.await.expect("no panic").status, 202);
    let (status, _) = trial.service.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(number(&watcher, "SELECT count(*) FROM readings").await, 1);
}

#[tokio::test]
async fn a_device_sends_by_its_key_for_itself_alone() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let id = DeviceIdRef::parse("sensor_001").expect("an id");
    let (number, _) = registry::register(&sql, id).await.expect("it is registered");
    let key = NewKey::generate().expect("randomness");
    device_keys::put(&sql, number, &key).await.expect("it is stored");
    let send = async |path: &str, key: &str| trial.nobody.raw("POST", path, &[("x-api-key", key)], r#"{"a":1}"#).await;
    assert_eq!(send(DEVICE, key.secret.reveal()).await.ok()["outcome"], "committed");
    let answer = send("/api/v1/telemetry/sensor_002", key.secret.reveal()).await;
    assert!(detail(&answer, 403).contains("sensor_001"));
    let other = NewKey::generate().expect("randomness");
    for wrong in [other.secret.reveal(), "", "nonsense", "iotk_"] {
        let answer = send(DEVICE, wrong).await;
        assert!(!detail(&answer, 401).contains("iotk_"));
    }
    // It is for sending, and for nothing else.
    trial
        .nobody
        .call_with("GET", DEVICE, &[("x-api-key", key.secret.reveal())], None)
        .await
        .problem(401);
    trial.nobody.raw("POST", DEVICE, &[], r#"{"a":1}"#).await.problem(401);
    trial.viewer.raw("POST", DEVICE, &[], r#"{"a":1}"#).await.problem(403);
    device_keys::set_disabled(&sql, number, true).await.expect("it is shut out");
    assert!(detail(&send(DEVICE, key.secret.reveal()).await, 403).contains("disabled"));
    assert_eq!(super::support::judge::number(&sql, "SELECT count(*) FROM readings").await, 1);
}

#[tokio::test]
async fn a_table_that_is_away_loses_nothing_and_makes_no_dead_letters() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let reading = json!({"a": 1, "ts": 1_751_365_800});
    sql.batch_execute("ALTER TABLE telemetry RENAME TO away")
        .await
        .expect("it is renamed");
    let answer = trial.operator.raw("POST", DEVICE, &[], reading.to_string()).await;
    assert!(detail(&answer, 503).contains("send again"));
    assert_eq!(answer.header("retry-after"), "5");
    sql.batch_execute("ALTER TABLE away RENAME TO telemetry").await.expect("it is back");
    // What waited is stored, and recognised when it is sent again.
    until_number(&sql, "SELECT count(*) FROM readings", 1).await;
    send(&trial.operator, DEVICE, &reading, "duplicate").await;
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 0);
}
