//! Devices over HTTP: from their registration to their deletion, what is refused, and why.

use iotflow::identity::device_keys;
use serde_json::{Value, json};

use super::support::judge::{number, texts};
use super::trial::Trial;

const DEVICES: &str = "/api/v1/devices";

fn path(below: &str) -> String {
    format!("{DEVICES}/{below}")
}

#[tokio::test]
async fn a_device_is_registered_read_changed_and_deleted() {
    let trial = Trial::start().await;
    let wanted = json!({
        "device_id": "sensor_001", "name": "Bob's sensor", "device_type": "temp > 30", "tags": ["Ünit 7", "a,b;c"],
        "groups": ["north"], "metadata": {"site": {"hall": 3}}, "credentials": {"mqtt": true, "api_key": true},
    });
    let made = trial.operator.post(DEVICES, wanted.clone()).await;
    assert_eq!(
        (made.status, made.header("location"), made.header("etag")),
        (201, "/api/v1/devices/sensor_001", "\"1\"")
    );
    let body = made.ok();
    assert_eq!(body["device"]["name"], "Bob's sensor");
    assert_eq!(
        (&body["device"]["tags"], &body["device"]["groups"]),
        (&json!(["Ünit 7", "a,b;c"]), &json!(["north"]))
    );
    assert_eq!(
        (&body["device"]["status"], &body["device"]["enabled"]),
        (&json!("unknown"), &json!(true))
    );
    let (login, key) = (
        &body["credentials"]["mqtt"],
        body["credentials"]["api_key"].as_str().expect("a key"),
    );
    assert_eq!(
        (&login["username"], login["password"].as_str().map(str::len)),
        (&json!("sensor_001"), Some(32))
    );
    let sql = trial.servers.sql().await;
    assert_eq!(device_keys::verify(&sql, key).await.expect("it is taken").id.as_str(), "sensor_001");
    let again = trial.operator.post(DEVICES, wanted).await.problem(409);
    assert!(
        again["detail"]
            .as_str()
            .is_some_and(|text| text.contains("there is a device sensor_001 already"))
    );

    let read = trial.viewer.get(&path("sensor_001")).await;
    assert_eq!(read.header("etag"), "\"1\"");
    let read = read.ok();
    assert!(!read.to_string().contains(login["password"].as_str().expect("a text")) && !read.to_string().contains(key));
    let merge = [("content-type", "application/merge-patch+json"), ("if-match", "\"1\"")];
    let change = json!({"name": null, "metadata": {"site": {"hall": null}, "floor": 2}});
    let changed = trial
        .operator
        .call_with("PATCH", &path("sensor_001"), &merge, Some(change.clone()))
        .await;
    assert_eq!(changed.header("etag"), "\"2\"");
    let changed = changed.ok();
    assert_eq!(
        (&changed["device"]["name"], &changed["device"]["metadata"]),
        (&Value::Null, &json!({"site": {}, "floor": 2}))
    );
    let late = trial
        .operator
        .call_with("PATCH", &path("sensor_001"), &merge, Some(change))
        .await
        .problem(412);
    assert!(
        late["detail"]
            .as_str()
            .is_some_and(|text| text.contains("at revision 2, and not at 1")),
        "{late}"
    );

    let access = trial.viewer.get(&path("sensor_001/mqtt-credentials")).await.ok();
    assert_eq!(
        (&access["username"], &access["has_credentials"]),
        (&json!("sensor_001"), &json!(true))
    );
    assert_eq!(access["urls"], json!([format!("mqtt://127.0.0.1:{}", trial.servers.mqtt_port)]));
    let has = |kind: &str, topic: &str| {
        access["topics"][kind]
            .as_array()
            .is_some_and(|topics| topics.contains(&json!(topic)))
    };
    assert!(has("publish", "iotflow/devices/sensor_001/telemetry/sensors") && has("subscribe", "iotflow/fleet/commands/north"));
    assert!(access.get("password").is_none());
    let presence = trial.viewer.get(&path("sensor_001/presence")).await.ok();
    assert_eq!(
        (&presence["presence"]["status"], &presence["presence"]["swept"]),
        (&json!("unknown"), &json!(false))
    );

    let deleted = trial
        .operator
        .call_with("DELETE", &path("sensor_001"), &[("if-match", "\"2\"")], None)
        .await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    trial.viewer.get(&path("sensor_001")).await.problem(404);
    trial.operator.call("DELETE", &path("sensor_001"), None).await.problem(404);
    assert_eq!(
        texts(
            &sql,
            "SELECT action || ' ' || actor FROM audit_log WHERE object = 'sensor_001' ORDER BY id"
        )
        .await,
        [
            "device.create token:operator",
            "device.update token:operator",
            "device.delete token:operator"
        ]
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM broker_users").await, 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_would_be_right() {
    let trial = Trial::start().await;
    trial.operator.post(DEVICES, json!({"device_id": "a"})).await.ok();
    for (body, status, reason) in [
        (json!({}), 422, "device_id"),
        (json!({"device_id": "a b"}), 422, "1 to 64 of the characters"),
        (json!({"device_id": "b", "name": "two\nlines"}), 422, "one line"),
        (json!({"device_id": "b", "name": ""}), 422, "1 to 200 characters"),
        (
            json!({"device_id": "b", "tags": vec!["x"; 2], "groups": ["a/b"]}),
            422,
            "a group id is",
        ),
        (json!({"device_id": "b", "metadata": {"a": "\0"}}), 422, "NUL"),
        (
            json!({"device_id": "b", "metadata": {"a": "x".repeat(20_000)}}),
            422,
            "16384 bytes at most",
        ),
        (json!({"device_id": "b", "metadata": []}), 422, "map"),
        (json!({"device_id": "b", "colour": "red"}), 422, "colour"),
        (json!({"device_id": "aa:bb"}), 422, "colon"),
        (json!({"device_id": "iotflow-x"}), 422, "service's own"),
        (
            json!({"device_id": "b", "groups": (0..65).map(|n| n.to_string()).collect::<Vec<_>>()}),
            422,
            "64 groups",
        ),
    ] {
        let problem = trial.operator.post(DEVICES, body.clone()).await.problem(status);
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.contains(reason)),
            "{body}: {problem}"
        );
    }
    for (query, reason) in [
        ("status=asleep", "online, offline or unknown"),
        ("limit=0", "1 to 1000"),
        ("cursor=nonsense", "next_cursor"),
        ("cursor=IlwwMDAwIg", "next_cursor"),
        ("q=%0A", "1 to 200 characters"),
        ("q=a%00b", "one line"),
        ("tag=%00", "one line"),
        ("group=a%2Fb", "a group id is"),
        ("last_seen_after=yesterday", "last_seen_after: \"yesterday\" is no time"),
        ("colour=red", "colour"),
    ] {
        let problem = trial.viewer.get(&format!("{DEVICES}?{query}")).await.problem(400);
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.contains(reason)),
            "{query}: {problem}"
        );
    }
    let patch = async |headers: &[(&str, &str)], body: Value| trial.operator.call_with("PATCH", &path("a"), headers, Some(body)).await;
    for (body, reason) in [
        (json!({"device_id": "b"}), "nothing that can be changed here"),
        (json!([]), "a JSON object"),
        (json!({"tags": [7]}), "list of texts"),
    ] {
        let problem = patch(&[], body).await.problem(422);
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(reason)), "{problem}");
    }
    patch(&[("if-match", "1")], json!({})).await.problem(400);
    patch(&[("if-match", "\"none of ours\"")], json!({})).await.problem(412);
    patch(&[("if-match", "*")], json!({"name": "b"})).await.ok();
    patch(&[("content-type", "text/plain")], json!({})).await.problem(415);
    trial.viewer.get(&path("a%20b")).await.problem(404);
    trial.operator.post(&path("nobody/enable"), json!({})).await.problem(404);
    let nothing = trial.operator.post(&path("a/credentials/rotate"), json!({})).await.problem(422);
    assert!(
        nothing["detail"]
            .as_str()
            .is_some_and(|text| text.contains("ask for mqtt, api_key or both"))
    );
}

#[tokio::test]
async fn pages_and_filters_find_devices() {
    let trial = Trial::start().await;
    for n in 0..7 {
        let kind = if n % 2 == 0 { "even" } else { "odd" };
        let wanted =
            json!({"device_id": format!("d{n}"), "name": format!("50%_{n}"), "device_type": kind, "credentials": {"mqtt": n == 1}});
        trial.operator.post(DEVICES, wanted).await.ok();
    }
    let ids = |page: &Value| -> Vec<String> {
        let devices = page["devices"].as_array().expect("a list");
        devices
            .iter()
            .map(|device| device["device_id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = trial.viewer.get(&format!("{DEVICES}{query}")).await.ok();
        seen.extend(ids(&page));
        match page["next_cursor"].as_str() {
            Some(cursor) => query = format!("?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, ["d0", "d1", "d2", "d3", "d4", "d5", "d6"]);
    trial.operator.post(&path("d1/disable"), json!({})).await.ok();
    for (query, expected) in [
        ("type=odd", &["d1", "d3", "d5"][..]),
        ("q=50%25_6", &["d6"]),
        ("q=D3", &["d3"]),
        ("enabled=false", &["d1"]),
        ("status=online", &[]),
        ("type=odd&last_seen_before=2020-01-01T00:00:00Z&q=5", &["d1", "d3", "d5"]),
        ("last_seen_after=0001-01-01T00:00:00Z", &[]),
        // What a form leaves empty is not asked for.
        ("q=D3&cursor=&status=&limit=", &["d3"]),
    ] {
        assert_eq!(
            ids(&trial.viewer.get(&format!("{DEVICES}?{query}")).await.ok()),
            expected,
            "{query}"
        );
    }
}

#[tokio::test]
async fn credentials_are_rotated_taken_away_and_shown_once() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    trial
        .operator
        .post(DEVICES, json!({"device_id": "a", "credentials": {"mqtt": false}}))
        .await
        .ok();
    let bare = trial.operator.post(&path("a/disable"), json!({})).await.ok();
    assert_eq!(bare["device"]["enabled"], false, "a certificate may be all that it has");
    trial.operator.post(&path("a/enable"), json!({})).await.ok();
    let rotate = async |body: Value| trial.operator.post(&path("a/credentials/rotate"), body).await.ok();
    let first = rotate(json!({"mqtt": true, "api_key": true})).await;
    let second = rotate(json!({"api_key": true})).await;
    assert_eq!(second["credentials"]["mqtt"], Value::Null);
    let key = |answer: &Value| answer["credentials"]["api_key"].as_str().expect("a key").to_owned();
    assert!(device_keys::verify(&sql, &key(&first)).await.is_err());
    device_keys::verify(&sql, &key(&second)).await.expect("it is taken");
    let shut_out = trial.operator.post(&path("a/disable"), json!({})).await.ok();
    assert_eq!(shut_out["device"]["enabled"], false);
    assert!(device_keys::verify(&sql, &key(&second)).await.is_err());
    trial.operator.post(&path("a/enable"), json!({})).await.ok();
    device_keys::verify(&sql, &key(&second)).await.expect("it is taken");
    let revoked = trial.operator.call("DELETE", &path("a/credentials"), None).await.ok();
    assert_eq!((&revoked["mqtt"], &revoked["api_key"]), (&json!(true), &json!(true)));
    let revoked = trial.operator.call("DELETE", &path("a/credentials"), None).await.ok();
    assert_eq!((&revoked["mqtt"], &revoked["api_key"]), (&json!(false), &json!(false)));
    let log = trial.service.log();
    for secret in [
        key(&first),
        key(&second),
        first["credentials"]["mqtt"]["password"].as_str().expect("a text").to_owned(),
    ] {
        assert!(!log.contains(&secret));
    }
}

#[tokio::test]
async fn a_configuration_has_a_version_and_is_given_back_as_it_was() {
    let trial = Trial::start().await;
    trial.operator.post(DEVICES, json!({"device_id": "a"})).await.ok();
    let config = path("a/config");
    let none = trial.viewer.get(&config).await;
    assert_eq!(none.header("etag"), "\"0\"");
    assert_eq!((&none.ok()["desired"], &none.ok()["in_sync"]), (&Value::Null, &Value::Null));
    let odd = "{ \"interval\": 1.50, \"big\":12345678901234567890123 }";
    let put = async |headers: &[(&str, &str)], body: &str| {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        trial.operator.raw("PUT", &config, &headers, body.to_owned()).await
    };
    let set = put(&[("if-match", "\"0\"")], odd).await;
    assert_eq!((set.status, set.header("etag")), (200, "\"1\""));
    assert!(String::from_utf8_lossy(&set.body).contains(odd), "to the byte: {:?}", set.body);
    assert_eq!(
        (&set.ok()["in_sync"], &set.ok()["desired_by"]),
        (&json!(false), &json!("token:operator"))
    );
    put(&[("if-match", "\"0\"")], "{}").await.problem(412);
    for (body, status) in [("[]", 422), ("{", 400), ("7", 422)] {
        put(&[], body).await.problem(status);
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(70_000));
    assert!(
        put(&[], &large).await.problem(422)["detail"]
            .as_str()
            .is_some_and(|text| text.contains("65536 bytes at most"))
    );
    let gone = trial.operator.call_with("DELETE", &config, &[("if-match", "\"1\"")], None).await;
    assert_eq!((gone.header("etag"), &gone.ok()["desired"]), ("\"2\"", &Value::Null));
    trial.viewer.get(&path("nobody/config")).await.problem(404);
}
