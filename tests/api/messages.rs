//! Messages by hand: published through the door, and watched through it.

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::judge::{number, texts};
use super::trial::Trial;

const PUBLISH: &str = "/api/v1/mqtt/publish";
const SUBSCRIBE: &str = "/api/v1/mqtt/subscribe";

/// The events of a live tail, one after the other.
struct Tail {
    response: Response<Incoming>,
    text: String,
}

impl Tail {
    async fn open(trial: &Trial, filter: &str) -> (Self, Value) {
        let opened = trial.admin.post(SUBSCRIBE, json!({"topic": filter})).await.ok();
        let url = opened["events_url"].as_str().expect("an address");
        let response = trial.admin.open("GET", url, &[], "").await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        (
            Self {
                response,
                text: String::new(),
            },
            opened,
        )
    }

    /// The next event's name and data; none when the stream has ended.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let (Some(name), Some(data)) = (field("event:"), field("data:")) else {
                    continue;
                };
                return Some((name.to_owned(), serde_json::from_str(data).expect("JSON")));
            }
            let frame = self.response.frame().await?.expect("the stream goes on");
            if let Ok(data) = frame.into_data() {
                self.text.push_str(std::str::from_utf8(&data).expect("UTF-8"));
            }
        }
    }
}

#[tokio::test]
async fn a_message_goes_from_the_door_through_the_broker_into_the_table() {
    let trial = Trial::start().await;
    for qos in 0..=2 {
        let published = trial
            .operator
            .post(
                PUBLISH,
                json!({"topic": "iotflow/devices/sensor_001/telemetry/sensors", "payload": {"temperature": 20.5 + f64::from(qos)}, "qos": qos}),
            )
            .await
            .ok();
        assert_eq!((&published["qos"], &published["retain"]), (&json!(qos), &json!(false)));
    }
    let sql = trial.servers.sql().await;
    eventually("three readings are there", async || {
        (number(
            &sql,
            "SELECT count(*) FROM readings WHERE device = 'sensor_001' AND metric = 'temperature'",
        )
        .await
            == 3)
            .then_some(())
    })
    .await;
    assert_eq!(
        texts(
            &sql,
            "SELECT actor || ' ' || outcome FROM audit_log WHERE action = 'message.publish'"
        )
        .await,
        ["token:operator done", "token:operator done", "token:operator done"]
    );
    let lonely = trial
        .operator
        .post(
            PUBLISH,
            json!({"topic": "iotflow/devices/sensor_001/commands/control", "payload": "hello"}),
        )
        .await
        .ok();
    assert_eq!((&lonely["has_subscribers"], &lonely["payload_bytes"]), (&json!(false), &json!(5)));
}

#[tokio::test]
async fn what_must_not_be_published_is_refused_with_the_reason() {
    let trial = Trial::start().await;
    for (body, status, why) in [
        (json!({"topic": "iotflow/devices/+/telemetry", "payload": 1}), 422, "wildcard"),
        (json!({"topic": "", "payload": 1}), 422, "empty"),
        (json!({"topic": "elsewhere", "payload": 1}), 403, "below iotflow/"),
        (json!({"topic": "$SYS/broker/version", "payload": 1}), 403, "below iotflow/"),
        (json!({"topic": "iotflow/system/health", "payload": 1}), 403, "role admin"),
        (
            json!({"topic": "iotflow/devices/a/commands/control", "payload": 1, "retain": true}),
            422,
            "never retained",
        ),
        (
            json!({"topic": "iotflow/devices/a/telemetry", "payload": 1, "qos": 3}),
            422,
            "0, 1 or 2",
        ),
        (
            json!({"topic": "iotflow/devices/a/telemetry", "payload": 1, "expiry_seconds": 0}),
            422,
            "expiry_seconds",
        ),
        (json!({"topic": "iotflow/devices/a/telemetry"}), 422, "payload"),
    ] {
        let problem = trial.operator.post(PUBLISH, body.clone()).await.problem(status);
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.contains(why)),
            "{body}: {problem}"
        );
    }
    trial
        .admin
        .post(PUBLISH, json!({"topic": "iotflow/anything/at/all", "payload": 1}))
        .await
        .ok();
}

#[tokio::test]
async fn a_broker_that_is_away_is_said_to_be_and_nothing_hangs() {
    let mut trial = Trial::start().await;
    trial.servers.broker.halt(nix::sys::signal::Signal::SIGTERM).expect("it ends");
    let refused = trial
        .operator
        .post(PUBLISH, json!({"topic": "iotflow/devices/a/telemetry", "payload": 1}))
        .await;
    refused.problem(503);
    assert!(!refused.header("retry-after").is_empty());
    trial.admin.post(SUBSCRIBE, json!({"topic": "iotflow/#"})).await.problem(503);
    let status = trial.viewer.get("/api/v1/mqtt/status").await.ok();
    assert_eq!(status["mqtt_status"]["connected"], false, "{status}");
}

#[tokio::test]
async fn a_live_tail_shows_what_goes_by_and_ends_when_told() {
    let trial = Trial::start().await;
    let (mut tail, opened) = Tail::open(&trial, "iotflow/devices/+/telemetry/#").await;
    for payload in [json!({"a": 1}), json!("b")] {
        trial
            .admin
            .post(PUBLISH, json!({"topic": "iotflow/devices/d/telemetry", "payload": payload}))
            .await
            .ok();
    }
    let (name, data) = tail.next().await.expect("a message");
    assert_eq!(
        (name.as_str(), &data["topic"], &data["payload"]),
        ("message", &json!("iotflow/devices/d/telemetry"), &json!("{\"a\":1}"))
    );
    assert_eq!(
        (&data["encoding"], &data["payload_bytes"], &data["retain"]),
        (&json!("utf-8"), &json!(7), &json!(false))
    );
    assert_eq!(tail.next().await.map(|(_, data)| data["payload"].clone()), Some(json!("b")));
    let id = opened["subscription_id"].as_str().expect("an id");
    let closed = trial.admin.call("DELETE", &format!("{SUBSCRIBE}/{id}"), None).await;
    assert_eq!(closed.status, 204);
    assert_eq!(tail.next().await.map(|(name, _)| name).as_deref(), Some("end"));
    assert_eq!(tail.next().await, None);
    eventually("it is gone", async || {
        (trial.admin.get(&format!("{SUBSCRIBE}/{id}/events")).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_is_sampled_and_its_size_is_told() {
    let trial = Trial::start().await;
    let (mut tail, opened) = Tail::open(&trial, "iotflow/devices/flood/telemetry").await;
    let most = opened["max_messages_per_second"].as_u64().expect("a number");
    let sent = 5 * most;
    let mut publisher = super::support::publisher::Publisher::new(trial.servers.mqtt_port);
    publisher
        .flood("iotflow/devices/flood/telemetry", u32::try_from(sent).expect("it fits"), |number| {
            format!("{{\"n\":{number}}}")
        })
        .await;
    let (mut shown, mut skipped) = (0, 0);
    while shown + skipped < sent {
        match tail.next().await {
            Some((name, _)) if name == "message" => shown += 1,
            Some((name, data)) if name == "skipped" => skipped += data["count"].as_u64().expect("a number"),
            other => panic!("{other:?} after {shown} and {skipped}"),
        }
    }
    assert_eq!(shown + skipped, sent);
    assert!(skipped > 0 && shown >= most, "{shown} shown, {skipped} skipped");
}

#[tokio::test]
async fn what_must_not_be_tapped_is_refused_and_there_is_an_end_to_taps() {
    let trial = Trial::start().await;
    for (topic, why) in [
        ("$share/ingest/iotflow/#", "$share/"),
        ("iotflow/a#", "# stands alone"),
        ("elsewhere/#", "below iotflow/"),
        ("", "empty"),
    ] {
        let problem = trial.admin.post(SUBSCRIBE, json!({"topic": topic})).await.problem(422);
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.contains(why)),
            "{topic}: {problem}"
        );
    }
    let mut refused = None;
    for _ in 0..20 {
        let answer = trial.admin.post(SUBSCRIBE, json!({"topic": "iotflow/#"})).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    refused.expect("there is an end to it").problem(429);
}

#[tokio::test]
async fn an_open_tail_does_not_keep_the_service_from_stopping() {
    let mut trial = Trial::start().await;
    let (mut tail, _) = Tail::open(&trial, "iotflow/#").await;
    let (status, _) = trial.service.terminate().await;
    assert!(status.success(), "{status}");
    while tail.next().await.is_some() {}
}
