//! Pages of large messages end early, and all pages together hold every message once.

use serde_json::{Value, json};

use super::submission::{DEVICE, send};
use super::trial::Trial;

const SPAN: &str = "from=2025-07-01T00:00:00Z&to=2025-07-02T00:00:00Z";
/// Messages of each kind; together some 20 MiB.
const MESSAGES: i64 = 40;
/// What a page's messages may come to (4 MiB), the one with which it was full, and the rest of the answer.
const MOST: usize = 5 * 1024 * 1024;

/// A small reading, with which the device is there.
async fn small(trial: &Trial) {
    send(
        &trial.operator,
        DEVICE,
        &json!({"n": 0, "text": "x", "ts": 1_751_328_000}),
        "committed",
    )
    .await;
}

/// A device with a small reading and a small event, and then large ones, some of one moment.
async fn large(trial: &Trial) {
    small(trial).await;
    send(
        &trial.operator,
        &format!("{DEVICE}?kind=events"),
        &json!({"n": 0, "ts": 1_751_328_000}),
        "committed",
    )
    .await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(&format!(
        "INSERT INTO telemetry (device_id, time, metric_set_id, \"values\", extra)
         SELECT device_id, timestamptz '2025-07-01 00:00:01+00' + (n / 2) * interval '1 second', metric_set_id + n % 2, ARRAY[n],
                jsonb_build_object('n', n, 'text', repeat('x', 500000))
         FROM devices, metric_sets, generate_series(1, {MESSAGES}) AS n;
         INSERT INTO events (device_id, time, payload_hash, payload)
         SELECT device_id, timestamptz '2025-07-01 00:00:01+00' + (n / 2) * interval '1 second', n,
                jsonb_build_object('n', n, 'text', repeat('x', 500000))
         FROM devices, generate_series(1, {MESSAGES}) AS n"
    ))
    .await
    .expect("they are stored");
}

#[tokio::test]
async fn pages_of_large_messages_end_early_and_miss_nothing() {
    let trial = Trial::start().await;
    large(&trial).await;
    for (list, member, number) in [("", "messages", "/extra/n"), ("/events", "events", "/payload/n")] {
        for (order, limit) in [("asc", 1_000), ("desc", 1_000), ("asc", 3)] {
            let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
            loop {
                let answer = trial
                    .viewer
                    .get(&format!("{DEVICE}{list}?{SPAN}&order={order}&limit={limit}{cursor}"))
                    .await;
                assert!(answer.body.len() <= MOST, "a page of {} bytes", answer.body.len());
                let page = answer.ok();
                let items = page[member].as_array().expect("a list");
                assert!(items.len() <= limit);
                found.extend(items.iter().map(|item| item.pointer(number).and_then(Value::as_i64).unwrap_or(0)));
                pages += 1;
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert!(pages >= 5, "{pages} pages");
            found.sort_unstable();
            assert_eq!(found, (0..=MESSAGES).collect::<Vec<_>>(), "{member}, {order}, {limit} a page");
        }
    }
    let answer = trial.viewer.get(&format!("{DEVICE}/export?{SPAN}&format=ndjson")).await;
    let lines = answer.body.as_ref().split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    assert_eq!(lines.count(), usize::try_from(MESSAGES).expect("few") + 1);
    // Only what is asked for of what was not a number.
    let answer = trial
        .viewer
        .get(&format!("{DEVICE}?{SPAN}&metrics=text&order=desc&limit=1"))
        .await
        .ok();
    assert_eq!(answer["messages"][0]["extra"]["text"].as_str().map(str::len), Some(500_000));
    assert_eq!(answer["messages"][0]["extra"].as_object().map(serde_json::Map::len), Some(1));
}

#[tokio::test]
async fn the_newest_values_of_a_group_come_in_pages_that_end_early() {
    let trial = Trial::start().await;
    small(&trial).await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(
        "INSERT INTO devices (device) SELECT 'member-' || lpad(n::text, 3, '0') FROM generate_series(1, 200) AS n;
         INSERT INTO device_groups (group_id) VALUES ('north');
         INSERT INTO device_group_members (group_id, device_id) SELECT 'north', device_id FROM devices;
         INSERT INTO latest (device_id, metric_set_id, time, \"values\", extra)
         SELECT device_id, metric_set_id, now(), '{1}', jsonb_build_object('text', repeat('x', 100000))
         FROM devices, metric_sets WHERE device LIKE 'member-%'",
    )
    .await
    .expect("they are stored");
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let path = format!("/api/v1/groups/north/telemetry/latest?limit=1000{cursor}");
        let page = trial.viewer.get(&path).await.ok();
        let members = page["devices"].as_array().expect("a list");
        found.extend(members.iter().map(|member| member["device_id"].as_str().expect("an id").to_owned()));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(pages >= 3, "{pages} pages");
    assert!(found.is_sorted_by(|a, b| a < b));
    assert_eq!(found.len(), 201);
}
