//! Dead letters are listed, shown, published again and removed, and all of that is on record.

use serde_json::{Value, json};

use super::support::judge::{number, until_number};
use super::support::publisher::Publisher;
use super::trial::Trial;

const LETTERS: &str = "/api/v1/dead-letters";

async fn ids(trial: &Trial, query: &str) -> Vec<String> {
    let page = trial.viewer.get(&format!("{LETTERS}{query}")).await.ok();
    let letters = page["dead_letters"].as_array().expect("letters");
    letters
        .iter()
        .map(|letter| letter["id"].as_str().expect("an id").to_owned())
        .collect()
}

/// Three letters by MQTT: two that are no JSON, and one on a topic that there is not.
async fn three(trial: &Trial) {
    let mut device = Publisher::new(trial.servers.mqtt_port);
    device.publish("iotflow/devices/d1/telemetry", "nonsense").await;
    device.publish("iotflow/devices/d2/telemetry", b"\xff\xfe".to_vec()).await;
    device.publish("iotflow/devices/d1/telemetry/dreams", "{\"a\":1}").await;
    until_number(&trial.servers.sql().await, "SELECT count(*) FROM dead_letters", 3).await;
}

#[tokio::test]
async fn letters_are_listed_by_page_and_filter_and_shown_whole() {
    let trial = Trial::start().await;
    three(&trial).await;
    let all = ids(&trial, "").await;
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted_by(|a, b| a > b), "newest first");
    assert_eq!(ids(&trial, "?reason=unknown_topic").await.len(), 1);
    assert_eq!(ids(&trial, "?topic_prefix=iotflow/devices/d1/").await.len(), 2);
    assert_eq!(ids(&trial, "?since=2099-01-01T00:00:00Z").await.len(), 0);
    let page = trial.viewer.get(&format!("{LETTERS}?limit=2")).await.ok();
    let cursor = page["next_cursor"].as_str().expect("there is more");
    assert_eq!(ids(&trial, &format!("?limit=2&cursor={cursor}")).await, all[2..]);

    let find = async |reason: &str| {
        let id = ids(&trial, &format!("?reason={reason}")).await.remove(0);
        trial.viewer.get(&format!("{LETTERS}/{id}")).await.ok()
    };
    let letter = find("not_json").await;
    assert_eq!(
        (&letter["payload"], &letter["payload_encoding"]),
        (&json!("nonsense"), &json!("utf8"))
    );
    assert_eq!(
        (&letter["topic"], &letter["qos"], &letter["payload_bytes"]),
        (&json!("iotflow/devices/d1/telemetry"), &json!(1), &json!(8))
    );
    let letter = find("bad_utf8").await;
    assert_eq!(
        (&letter["payload"], &letter["payload_encoding"]),
        (&json!("//4="), &json!("base64"))
    );
    trial
        .viewer
        .get(&format!("{LETTERS}/0198c0de-0000-7000-8000-000000000000"))
        .await
        .problem(404);
    let stats = trial.admin.get("/api/v1/admin/stats").await.ok();
    assert_eq!(stats["dead_letters"], json!({"bad_utf8": 1, "not_json": 1, "unknown_topic": 1}));
    assert!(
        stats["database"]["bytes"].as_i64().is_some_and(|bytes| bytes > 1_000_000),
        "{stats}"
    );
    assert!(
        stats["database"]["schema_version"].as_i64().is_some_and(|version| version >= 6),
        "{stats}"
    );
    assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_letter_that_has_become_good_is_replayed_into_the_table() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(
        "INSERT INTO dead_letters VALUES ('0198c0de-0000-7000-8000-000000000001', now(), 'iotflow/devices/d1/telemetry', 1, '{\"a\":1,\"ts\":1751365800}', 'too_many_metrics', 'x')",
    )
    .await
    .expect("it is stored");
    let path = format!("{LETTERS}/0198c0de-0000-7000-8000-000000000001/replay");
    trial.viewer.call("POST", &path, None).await.problem(403);
    let answer = trial.operator.call("POST", &path, None).await.ok();
    assert_eq!(answer["replayed"]["reason"], "too_many_metrics");
    until_number(&sql, "SELECT count(*) FROM readings WHERE device = 'd1' AND metric = 'a'", 1).await;
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 0);
    trial.operator.call("POST", &path, None).await.problem(404);
    let audit = trial.admin.get("/api/v1/audit?action=deadletter.replay").await.ok();
    assert_eq!(audit["entries"][0]["detail"]["topic"], "iotflow/devices/d1/telemetry");
}

#[tokio::test]
async fn a_letter_is_replayed_by_one_at_a_time_and_by_the_next_should_that_one_die() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let id = "0198c0de-0000-7000-8000-000000000001";
    let insert = format!(
        "INSERT INTO dead_letters VALUES ('{id}', now(), 'iotflow/devices/d1/telemetry', 1, '{{\"a\":1}}', 'too_many_metrics', 'x', now() + interval '1 hour')"
    );
    sql.batch_execute(&insert).await.expect("it is stored");
    let path = format!("{LETTERS}/{id}/replay");
    let busy = trial.operator.call("POST", &path, None).await.problem(409);
    assert!(
        busy["detail"].as_str().is_some_and(|detail| detail.contains("somebody else")),
        "{busy}"
    );
    sql.batch_execute("UPDATE dead_letters SET claimed_until = now()")
        .await
        .expect("it is there");
    trial.operator.call("POST", &path, None).await.ok();
    until_number(&sql, "SELECT count(*) FROM dead_letters", 0).await;
}

#[tokio::test]
async fn a_letter_that_is_as_bad_as_ever_is_not_lost_by_a_replay() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    three(&trial).await;
    // Its topic would be refused again, so it is not sent.
    let unknown = ids(&trial, "?reason=unknown_topic").await.remove(0);
    let problem = trial
        .operator
        .call("POST", &format!("{LETTERS}/{unknown}/replay"), None)
        .await
        .problem(422);
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("telemetry/sensors")),
        "{problem}"
    );
    let audit: Value = trial.admin.get("/api/v1/audit?action=deadletter.replay").await.ok();
    assert_eq!(audit["entries"][0]["outcome"], "refused");
    // This one is sent, and comes back as another letter.
    let bad = ids(&trial, "?reason=not_json").await.remove(0);
    trial.operator.call("POST", &format!("{LETTERS}/{bad}/replay"), None).await.ok();
    until_number(&sql, "SELECT count(*) FROM dead_letters", 3).await;
    assert_ne!(ids(&trial, "?reason=not_json").await, [bad]);
}

#[tokio::test]
async fn letters_are_removed_one_by_one_and_by_filter() {
    let trial = Trial::start().await;
    three(&trial).await;
    let one = ids(&trial, "?reason=unknown_topic").await.remove(0);
    let path = format!("{LETTERS}/{one}");
    trial.operator.call("DELETE", &path, None).await.problem(403);
    trial.admin.call("DELETE", &path, None).await.ok();
    trial.admin.call("DELETE", &path, None).await.problem(404);
    trial.admin.call("DELETE", LETTERS, None).await.problem(400);
    let purge = async |query: &str| trial.admin.call("DELETE", &format!("{LETTERS}?{query}"), None).await.ok()["removed"].clone();
    assert_eq!(purge("reason=not_json&topic_prefix=iotflow/devices/d2/").await, 0);
    assert_eq!(purge("reason=not_json").await, 1);
    assert_eq!(purge("before=2099-01-01T00:00:00Z").await, 1);
    assert_eq!(ids(&trial, "").await.len(), 0);
    let audit = trial.admin.get("/api/v1/audit?action=deadletter.purge&limit=1").await.ok();
    assert_eq!(audit["entries"][0]["detail"]["letters"], 1);
    assert!(audit["next_cursor"].is_string());
}
