//! Messages by hand: published through the door, and watched through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::support::eventually;
use super::support::judge::{number, texts, until_number};
use super::support::proxy::{Direction, Proxy, Verdict};
use super::support::servers::Servers;
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
    trial
        .admin
        .post(SUBSCRIBE, json!({"topic": "iotflow/devices/#"}))
        .await
        .problem(503);
    let status = trial.viewer.get("/api/v1/mqtt/status").await.ok();
    assert_eq!(status["mqtt_status"]["connected"], false, "{status}");
}

#[tokio::test]
async fn a_slow_broker_keeps_nobody_from_the_database_and_what_was_asked_is_noted_although_the_client_went() {
    let servers = Servers::start().await;
    let sql = servers.sql().await;
    let (topic, letter) = ("iotflow/devices/published/telemetry", "iotflow/devices/replayed/telemetry");
    // Whether the broker was sent what belongs on the one topic, and on the other.
    let said = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
    let heard = Arc::clone(&said);
    let has = |bytes: &[u8], topic: &str| bytes.windows(topic.len()).any(|window| window == topic.as_bytes());
    let watcher = move |bytes: &[u8]| {
        for (said, topic) in heard.iter().zip([topic, letter]) {
            said.fetch_or(has(bytes, topic), Ordering::Relaxed);
        }
        Verdict::Pass
    };
    let proxy = Proxy::watching(servers.mqtt_port, Arc::new(watcher)).await;
    let port = proxy.port.to_string();
    let trial = Trial::on(servers, &[("MQTT_PORT", &port), ("API_CONNECTIONS", "1")]).await;
    let insert =
        "INSERT INTO dead_letters VALUES ('0198c0de-0000-7000-8000-000000000001', now(), $1, 1, '{\"a\":1}', 'too_many_metrics', 'x')";
    sql.execute(insert, &[&letter]).await.expect("it is stored");
    proxy.stall(Direction::ToClient, true);

    let body = json!({"topic": topic, "payload": 1}).to_string();
    let mut clients = Vec::new();
    for (at, (path, body)) in [
        (PUBLISH, body.as_str()),
        ("/api/v1/dead-letters/0198c0de-0000-7000-8000-000000000001/replay", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let token = trial.operator.token.as_deref().expect("it has one");
        let mut client = TcpStream::connect(&trial.service.address).await.expect("it listens");
        let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n");
        let rest = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        client.write_all(format!("{head}{rest}").as_bytes()).await.expect("it listens");
        clients.push(client);
        eventually("it is said to the broker", async || said[at].load(Ordering::Relaxed).then_some(())).await;
    }
    trial.viewer.get("/api/v1/groups").await.ok();
    // The clients go while the broker has not answered, which it never does.
    drop(clients);
    for action in ["message.publish", "deadletter.replay"] {
        until_number(&sql, &format!("SELECT count(*) FROM audit_log WHERE action = '{action}'"), 1).await;
    }
    until_number(&sql, "SELECT count(*) FROM dead_letters WHERE claimed_until IS NULL", 1).await;
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
        ("#", "below iotflow/"),
        ("+/discovery/response/+", "below iotflow/"),
        ("$share/x/iotflow/discovery/response/+", "$share/"),
        ("iotflow/#", "iotflow/discovery/response/+"),
        ("iotflow/+/+/+", "iotflow/discovery/response/+"),
        ("iotflow/discovery/#", "iotflow/discovery/response/+"),
        ("iotflow/+/response/pump-9", "iotflow/discovery/response/+"),
        ("iotflow/discovery/response/pump-9/#", "iotflow/discovery/response/+"),
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
        let answer = trial.admin.post(SUBSCRIBE, json!({"topic": "iotflow/devices/#"})).await;
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
    let (mut tail, _) = Tail::open(&trial, "iotflow/devices/#").await;
    let (status, _) = trial.service.terminate().await;
    assert!(status.success(), "{status}");
    while tail.next().await.is_some() {}
}
