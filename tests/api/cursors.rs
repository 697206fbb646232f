//! Cursors that nobody was given: every list refuses them, or begins elsewhere, and none fails by them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::trial::Trial;

#[tokio::test]
async fn no_forged_cursor_is_a_fault_of_ours() {
    let trial = Trial::with(&[("API_RATE", "0")]).await;
    for (path, body) in [
        ("/api/v1/devices", json!({"device_id": "a", "groups": ["north"]})),
        ("/api/v1/devices", json!({"device_id": "b", "groups": ["north"]})),
        (
            "/api/v1/mqtt/device/a/command",
            json!({"command_type": "control", "command": "go", "command_id": "c1"}),
        ),
        ("/api/v1/telemetry/a", json!([{"a": 1}, {"a": 2, "ts": 1_751_365_800}])),
    ] {
        let answer = trial.operator.post(path, body).await;
        assert!((200..300).contains(&answer.status), "{path}: {:?}", answer.body);
    }
    let real = trial.viewer.get("/api/v1/devices?limit=1").await.ok();
    let real = URL_SAFE_NO_PAD
        .decode(real["next_cursor"].as_str().expect("there is another"))
        .expect("it is ours");
    assert_eq!(serde_json::from_slice::<Value>(&real).expect("JSON"), json!("a"));
    let mut forged = Vec::new();
    for text in ["", "\0", "a\0", "'; --", "\u{10ffff}", &"a".repeat(500)] {
        forged.push(json!(text));
        forged.push(json!({"created_at": "2025-07-01T10:30:00Z", "command_id": text}));
    }
    for time in [
        "-009999-01-01T00:00:00Z",
        "-004800-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "9999-12-30T00:00:00Z",
        "never",
    ] {
        forged.push(json!({"created_at": time, "command_id": "c1"}));
        forged.push(json!({"time": time, "part": i64::MIN}));
    }
    for other in [
        json!(i64::MIN),
        json!(i64::MAX),
        json!(-1),
        json!(1e300),
        json!(null),
        json!([]),
        json!({}),
        json!("00000000-0000-0000-0000-000000000000"),
    ] {
        forged.push(other);
    }
    let lists = [
        "/api/v1/devices",
        "/api/v1/groups",
        "/api/v1/groups/north/members",
        "/api/v1/groups/north/telemetry/latest",
        "/api/v1/devices/a/commands",
        "/api/v1/commands",
        "/api/v1/commands/c1",
        "/api/v1/telemetry/a",
        "/api/v1/telemetry/a/events",
        "/api/v1/dead-letters",
        "/api/v1/discovery",
        "/api/v1/audit",
    ];
    for list in lists {
        for place in &forged {
            let cursor = URL_SAFE_NO_PAD.encode(place.to_string());
            let answer = trial.admin.get(&format!("{list}?cursor={cursor}")).await;
            match answer.status {
                200 => drop(answer.ok()),
                _ => drop(answer.problem(400)),
            }
        }
        trial.admin.get(&format!("{list}?cursor=%00")).await.problem(400);
    }
}
