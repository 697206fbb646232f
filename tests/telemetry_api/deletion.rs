//! What is deleted is gone, from `latest` too, and on record.

use serde_json::{Value, json};

use super::submission::{DEVICE, send};
use super::support::eventually;
use super::support::judge::{number, texts};
use super::trial::Trial;

#[tokio::test]
async fn a_span_is_deleted_and_the_newest_value_is_the_newest_that_is_left() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let readings: Vec<Value> = (0..10).map(|second| json!({"a": second, "ts": 1_751_365_800 + second})).collect();
    send(&trial.operator, DEVICE, &Value::Array(readings), "committed").await;
    send(&trial.operator, DEVICE, &json!({"b": 1, "ts": 1_751_365_805}), "committed").await;
    send(
        &trial.operator,
        &format!("{DEVICE}?kind=events"),
        &json!({"e": 1, "ts": 1_751_365_806}),
        "committed",
    )
    .await;
    send(
        &trial.operator,
        "/api/v1/telemetry/other",
        &json!({"a": 1, "ts": 1_751_365_806}),
        "committed",
    )
    .await;
    eventually("the newest values are written", async || {
        (number(&sql, "SELECT count(*) FROM latest").await == 3).then_some(())
    })
    .await;

    let path = format!("{DEVICE}?from=1751365805&to=2025-07-01T10:30:59Z");
    trial.operator.call("DELETE", &path, None).await.problem(403);
    trial.admin.call("DELETE", DEVICE, None).await.problem(400);
    let answer = trial.admin.call("DELETE", &path, None).await.ok();
    assert_eq!(answer["deleted"], json!({"telemetry": 6, "events": 1}));
    assert_eq!(
        trial.admin.call("DELETE", &path, None).await.ok()["deleted"],
        json!({"telemetry": 0, "events": 0})
    );

    let values = trial.viewer.get(&format!("{DEVICE}/latest")).await.ok()["values"].clone();
    assert_eq!(values, json!({"a": {"time": "2025-07-01T10:30:04Z", "value": 4.0}}));
    assert_eq!(number(&sql, "SELECT count(*) FROM readings WHERE device = 'sensor_001'").await, 5);
    assert_eq!(number(&sql, "SELECT count(*) FROM readings WHERE device = 'other'").await, 1);
    let audit = trial
        .admin
        .get("/api/v1/audit?action=telemetry.delete&object=sensor_001")
        .await
        .ok();
    assert_eq!(audit["entries"].as_array().map(Vec::len), Some(2));
    let entry = &audit["entries"][1];
    assert_eq!((&entry["actor"], &entry["outcome"]), (&json!("token:admin"), &json!("done")));
    assert_eq!(entry["detail"]["telemetry"], 6);
}

#[tokio::test]
async fn much_is_deleted_in_several_transactions_and_all_of_it() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    send(&trial.operator, DEVICE, &json!({"a": 1, "ts": 1_751_328_000}), "committed").await;
    // As many as three transactions take, some of one moment.
    sql.batch_execute(
        "INSERT INTO telemetry (device_id, time, metric_set_id, \"values\")
         SELECT device_id, timestamptz '2025-07-01 00:00:01+00' + (n / 2) * interval '1 second', metric_set_id + n % 2, '{1}'
         FROM devices, metric_sets, generate_series(1, 45000) AS n",
    )
    .await
    .expect("they are stored");
    let answer = trial
        .admin
        .call(
            "DELETE",
            &format!("{DEVICE}?from=2025-07-01T00:00:00Z&to=2025-07-02T00:00:00Z"),
            None,
        )
        .await
        .ok();
    assert_eq!(answer["deleted"]["telemetry"], 45_001);
    assert_eq!(number(&sql, "SELECT count(*) FROM telemetry").await, 0);
    let parts = texts(
        &sql,
        "SELECT detail->>'telemetry' FROM audit_log WHERE action = 'telemetry.delete' ORDER BY id",
    )
    .await;
    assert!(parts.len() >= 3, "{parts:?}");
    assert_eq!(parts.iter().map(|part| part.parse::<i64>().expect("a number")).sum::<i64>(), 45_001);
}

#[tokio::test]
async fn what_was_deleted_before_it_was_written_as_the_newest_is_not_the_newest() {
    let trial = Trial::start().await;
    let mut deleter = trial.servers.sql().await;
    let sql = trial.servers.sql().await;
    // As another deletion would, it holds up the writer of `latest`, and no other deletion.
    let lock = deleter.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry_deletions IN ROW EXCLUSIVE MODE")
        .await
        .expect("nobody has it");
    let readings: Vec<Value> = (0..10).map(|second| json!({"a": second, "ts": 1_751_365_800 + second})).collect();
    send(&trial.operator, DEVICE, &Value::Array(readings), "committed").await;
    let path = format!("{DEVICE}?from=1751365805&to=2025-07-01T10:30:59Z");
    let answer = trial.admin.call("DELETE", &path, None).await.ok();
    assert_eq!(answer["deleted"]["telemetry"], 5);
    assert_eq!(number(&sql, "SELECT count(*) FROM latest").await, 0);
    lock.rollback().await.expect("it lets go");
    eventually("the newest values are written", async || {
        (number(&sql, "SELECT count(*) FROM latest").await == 1).then_some(())
    })
    .await;
    let values = trial.viewer.get(&format!("{DEVICE}/latest")).await.ok()["values"].clone();
    assert_eq!(values, json!({"a": {"time": "2025-07-01T10:30:04Z", "value": 4.0}}));
    // What is sent again after the deletion counts again.
    send(&trial.operator, DEVICE, &json!({"a": 6, "ts": 1_751_365_806}), "committed").await;
    eventually("the newest value is that one", async || {
        let latest = trial.viewer.get(&format!("{DEVICE}/latest")).await.ok();
        (latest["values"]["a"]["value"] == 6.0).then_some(())
    })
    .await;
}
