//! Ranges, newest values, windows and exports give what was sent, whatever it is called.

use serde_json::{Value, json};

use super::submission::{DEVICE, send};
use super::support::eventually;
use super::support::http::Api;
use super::trial::Trial;

const SPAN: &str = "from=2025-07-01T10:00:00Z&to=2025-07-01T11:00:00Z";

/// Twenty messages a minute apart from 10:00 on; the metric "temp > 30" counts them.
async fn twenty(api: &Api) {
    let readings: Vec<Value> = (0..20)
        .map(|minute| json!({"temp > 30": minute, "Ünit 7, \"a\"": 0.5, "state": "on", "timestamp": format!("2025-07-01T10:{minute:02}:00Z")}))
        .collect();
    send(api, &format!("{DEVICE}?kind=sensors"), &Value::Array(readings), "committed").await;
    send(api, DEVICE, &json!({"other": 1, "timestamp": "2025-07-01T10:05:00Z"}), "committed").await;
}

fn values(page: &Value) -> Vec<f64> {
    let messages = page["messages"].as_array().expect("messages");
    messages
        .iter()
        .filter_map(|message| message["values"]["temp > 30"].as_f64())
        .collect()
}

#[tokio::test]
async fn pages_go_through_a_span_in_either_direction_and_miss_nothing() {
    let trial = Trial::start().await;
    twenty(&trial.operator).await;
    let (up, down): (Vec<f64>, Vec<f64>) = ((0..20).map(f64::from).collect(), (0..20).rev().map(f64::from).collect());
    for (order, expected) in [("asc", up), ("desc", down)] {
        for limit in [1, 7, 100] {
            let (mut found, mut count, mut cursor) = (Vec::new(), 0, String::new());
            loop {
                let page = trial
                    .viewer
                    .get(&format!("{DEVICE}?{SPAN}&order={order}&limit={limit}{cursor}"))
                    .await
                    .ok();
                count += page["messages"].as_array().expect("messages").len();
                found.extend(values(&page));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!((count, &found), (21, &expected), "{order}, {limit} a page");
        }
    }
    // The end is not in it, and the begin is.
    let page = trial
        .viewer
        .get(&format!("{DEVICE}?from=2025-07-01T10:03:00Z&to=1751364300"))
        .await
        .ok();
    assert_eq!(values(&page), [3.0, 4.0]);
    let first = &page["messages"][0];
    assert_eq!(first["time"], "2025-07-01T10:03:00Z");
    assert_eq!((&first["kind"], &first["extra"]), (&json!("sensors"), &json!({"state": "on"})));
    // Nothing in the last hour.
    assert_eq!(trial.viewer.get(DEVICE).await.ok()["messages"], json!([]));
    trial.viewer.get("/api/v1/telemetry/nobody").await.problem(404);
}

#[tokio::test]
async fn only_the_metrics_that_are_asked_for_come() {
    let trial = Trial::start().await;
    twenty(&trial.operator).await;
    let page = trial.viewer.get(&format!("{DEVICE}?{SPAN}&metrics=other,state")).await.ok();
    let messages = page["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 21);
    assert!(messages.iter().all(|message| message["values"].get("temp > 30").is_none()));
    let names = "%5B%22%C3%9Cnit%207,%20%5C%22a%5C%22%22%5D";
    let page = trial.viewer.get(&format!("{DEVICE}?{SPAN}&metrics={names}")).await.ok();
    assert_eq!(page["messages"][0]["values"], json!({"Ünit 7, \"a\"": 0.5}));
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(20));
}

#[tokio::test]
async fn the_newest_value_of_each_metric_is_known_with_its_time() {
    let trial = Trial::start().await;
    twenty(&trial.operator).await;
    let sql = trial.servers.sql().await;
    sql.batch_execute(
        "INSERT INTO devices (device) VALUES ('silent'); INSERT INTO device_groups (group_id) VALUES ('north'), ('empty');
         INSERT INTO device_group_members SELECT 'north', device_id FROM devices",
    )
    .await
    .expect("they are made");
    let latest = eventually("the newest values are written", async || {
        let latest = trial.viewer.get(&format!("{DEVICE}/latest")).await.ok();
        (latest["values"].as_object()?.len() == 3).then_some(latest)
    })
    .await;
    assert_eq!(
        latest["values"]["temp > 30"],
        json!({"time": "2025-07-01T10:19:00Z", "value": 19.0})
    );
    assert_eq!(latest["values"]["other"]["time"], "2025-07-01T10:05:00Z");
    assert_eq!(latest["extra"]["state"]["value"], "on");

    let group = "/api/v1/groups/north/telemetry/latest";
    let page = trial.viewer.get(&format!("{group}?limit=1")).await.ok();
    assert_eq!(page["devices"][0]["device_id"], "sensor_001");
    assert_eq!(page["devices"][0]["values"], latest["values"]);
    let cursor = page["next_cursor"].as_str().expect("there is another");
    let page = trial.viewer.get(&format!("{group}?limit=1&cursor={cursor}")).await.ok();
    assert_eq!(page["devices"], json!([{"device_id": "silent", "values": {}, "extra": {}}]));
    assert_eq!(page["next_cursor"], Value::Null);
    assert_eq!(
        trial.viewer.get("/api/v1/groups/empty/telemetry/latest").await.ok()["devices"],
        json!([])
    );
    trial.viewer.get("/api/v1/groups/none/telemetry/latest").await.problem(404);
}

#[tokio::test]
async fn windows_hold_what_lies_in_them() {
    let trial = Trial::start().await;
    twenty(&trial.operator).await;
    let path = |rest: &str| format!("{DEVICE}/aggregated?{SPAN}&metrics=temp%20%3E%2030{rest}");
    let all = "&window=10m&functions=mean,sum,count,min,max,first,last,median";
    let answer = trial.viewer.get(&path(all)).await.ok();
    assert_eq!(answer["series"].as_array().map(Vec::len), Some(1));
    let points = &answer["series"][0]["points"];
    assert_eq!(
        *points,
        json!([
            {"time": "2025-07-01T10:00:00Z", "mean": 4.5, "sum": 45.0, "count": 10, "min": 0.0, "max": 9.0, "first": 0.0, "last": 9.0, "median": 4.5},
            {"time": "2025-07-01T10:10:00Z", "mean": 14.5, "sum": 145.0, "count": 10, "min": 10.0, "max": 19.0, "first": 10.0, "last": 19.0, "median": 14.5},
        ])
    );
    // Cut by the span, counted from the origin.
    let cut = format!(
        "{DEVICE}/aggregated?from=2025-07-01T10:07:00Z&to=2025-07-01T10:12:00Z&window=10m&origin=2025-07-01T00:05:00Z&functions=sum&metrics=temp%20%3E%2030"
    );
    let points = &trial.viewer.get(&cut).await.ok()["series"][0]["points"];
    assert_eq!(*points, json!([{"time": "2025-07-01T10:05:00Z", "sum": 45.0}]));
    for (fill, third) in [
        ("null", Value::Null),
        ("zero", json!(0.0)),
        ("previous", json!(14.5)),
        ("linear", Value::Null),
    ] {
        let points = &trial.viewer.get(&path(&format!("&window=10m&fill={fill}"))).await.ok()["series"][0]["points"];
        assert_eq!(points.as_array().map(Vec::len), Some(6), "{fill}");
        assert_eq!(points[2], json!({"time": "2025-07-01T10:20:00Z", "mean": third}), "{fill}");
    }
    let holes = trial.viewer.get(&path("&window=20s&fill=linear&functions=mean,count")).await.ok();
    assert_eq!(holes["series"][0]["points"][4]["count"], 0);
    let between = holes["series"][0]["points"][4]["mean"].as_f64().expect("a number");
    assert!((between - 4.0 / 3.0).abs() < 1e-9, "{between}");
    // All metrics, where none is named.
    let answer = trial.viewer.get(&format!("{DEVICE}/aggregated?{SPAN}&window=1h")).await.ok();
    let names: Vec<&str> = answer["series"]
        .as_array()
        .expect("series")
        .iter()
        .filter_map(|series| series["metric"].as_str())
        .collect();
    assert_eq!(names, ["other", "temp > 30", "Ünit 7, \"a\""]);
}

#[tokio::test]
async fn the_largest_numbers_are_gathered_or_refused_with_a_sentence() {
    let trial = Trial::start().await;
    let readings = json!([{"a": 1e308, "ts": 1751365800}, {"a": 1.5e308, "ts": 1751365801}, {"b": 1e200, "ts": 1751365802}, {"b": -1e200, "ts": 1751365803}]);
    send(&trial.operator, DEVICE, &readings, "committed").await;
    let path = |rest: &str| format!("{DEVICE}/aggregated?{SPAN}&window=1h&{rest}");
    let problem = trial.viewer.get(&path("metrics=a")).await.problem(422);
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("larger than a double")),
        "{problem}"
    );
    let answer = trial.viewer.get(&path("metrics=a&functions=max,first")).await.ok();
    assert_eq!(answer["series"][0]["points"][0]["max"], json!(1.5e308));
    assert_eq!(
        trial.viewer.get(&path("metrics=b")).await.ok()["series"][0]["points"][0]["mean"],
        json!(0.0)
    );
}

#[tokio::test]
async fn an_export_has_every_reading_however_many_pages_it_takes() {
    let trial = Trial::start().await;
    let begin = 1_751_364_000_000_i64;
    for part in 0..5 {
        let readings = (0..500).map(|place| json!({"a,\"b\"": part * 500 + place, "c": 1, "ts": begin + (part * 500 + place) * 1_000}));
        send(&trial.operator, DEVICE, &Value::Array(readings.collect()), "committed").await;
    }
    let answer = trial.viewer.get(&format!("{DEVICE}/export?{SPAN}")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert!(answer.header("content-type").starts_with("text/csv"));
    assert_eq!(answer.header("content-disposition"), "attachment; filename=\"sensor_001.csv\"");
    let mut reader = csv::Reader::from_reader(answer.body.as_ref());
    assert_eq!(reader.headers().expect("a header"), vec!["time", "device", "metric", "value"]);
    let records: Vec<(String, String, String, f64)> = reader.deserialize().collect::<Result<_, _>>().expect("CSV");
    assert_eq!(records.len(), 5_000);
    let found: Vec<f64> = records
        .iter()
        .filter(|record| record.2 == "a,\"b\"")
        .map(|record| record.3)
        .collect();
    assert_eq!(found, (0..2_500).map(f64::from).collect::<Vec<_>>());
    assert_eq!(records[0].0, "2025-07-01T10:00:00Z");

    let answer = trial.viewer.get(&format!("{DEVICE}/export?{SPAN}&format=ndjson&metrics=c")).await;
    assert!(answer.header("content-type").starts_with("application/x-ndjson"));
    let lines: Vec<Value> = answer
        .body
        .as_ref()
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2_500);
    assert!(lines.iter().all(|line| line["values"] == json!({"c": 1.0})));
    let nothing = trial.viewer.get(&format!("{DEVICE}/export")).await;
    assert_eq!(nothing.body.as_ref(), b"time,device,metric,value\r\n");
}

#[tokio::test]
async fn events_come_by_time_as_they_were_said() {
    let trial = Trial::start().await;
    let events: Vec<Value> = (0..5)
        .map(|second| json!({"alarm": {"door": second}, "ts": 1_751_365_800 + second}))
        .collect();
    send(
        &trial.operator,
        &format!("{DEVICE}?kind=events"),
        &Value::Array(events.clone()),
        "committed",
    )
    .await;
    let page = trial.viewer.get(&format!("{DEVICE}/events?{SPAN}&order=desc&limit=3")).await.ok();
    assert_eq!(page["events"][0], json!({"time": "2025-07-01T10:30:04Z", "payload": events[4]}));
    let cursor = page["next_cursor"].as_str().expect("there is more");
    let rest = trial
        .viewer
        .get(&format!("{DEVICE}/events?{SPAN}&order=desc&limit=3&cursor={cursor}"))
        .await
        .ok();
    assert_eq!(rest["events"].as_array().map(Vec::len), Some(2));
    assert_eq!(rest["next_cursor"], Value::Null);
}
