//! Who may do what: every operation of the description by every role, against a table that a person wrote.

use std::collections::BTreeMap;

use iotflow::api::routes;
use iotflow::identity::principal::Role;
use serde_json::{Value, json};

use super::trial::Trial;

/// Each operation with the least role that may. One that is missing here fails the test.
const NEEDED: &[(&str, &str, Role)] = &[
    ("get", "/api/v1/mqtt/status", Role::Viewer),
    ("get", "/api/v1/mqtt/qos", Role::Viewer),
    ("get", "/api/v1/mqtt/monitoring/metrics", Role::Admin),
    ("post", "/api/v1/mqtt/publish", Role::Operator),
    ("post", "/api/v1/mqtt/subscribe", Role::Admin),
    ("get", "/api/v1/mqtt/subscribe/{subscription_id}/events", Role::Admin),
    ("delete", "/api/v1/mqtt/subscribe/{subscription_id}", Role::Admin),
    ("get", "/api/v1/discovery", Role::Viewer),
    ("post", "/api/v1/discovery", Role::Operator),
    ("post", "/api/v1/discovery/{device_id}/approve", Role::Operator),
    ("post", "/api/v1/discovery/{device_id}/reject", Role::Operator),
    ("delete", "/api/v1/discovery/{device_id}", Role::Operator),
    ("get", "/api/v1/mqtt/topics/structure", Role::Viewer),
    ("post", "/api/v1/mqtt/topics/validate", Role::Viewer),
    ("get", "/api/v1/mqtt/topics/device/{device_id}", Role::Viewer),
    ("post", "/api/v1/telemetry/{device_id}", Role::Operator),
    ("get", "/api/v1/telemetry/{device_id}", Role::Viewer),
    ("delete", "/api/v1/telemetry/{device_id}", Role::Admin),
    ("get", "/api/v1/telemetry/{device_id}/events", Role::Viewer),
    ("get", "/api/v1/telemetry/{device_id}/latest", Role::Viewer),
    ("get", "/api/v1/telemetry/{device_id}/aggregated", Role::Viewer),
    ("get", "/api/v1/telemetry/{device_id}/export", Role::Viewer),
    ("get", "/api/v1/groups/{group_id}/telemetry/latest", Role::Viewer),
    ("get", "/api/v1/dead-letters", Role::Viewer),
    ("delete", "/api/v1/dead-letters", Role::Admin),
    ("get", "/api/v1/dead-letters/{id}", Role::Viewer),
    ("delete", "/api/v1/dead-letters/{id}", Role::Admin),
    ("post", "/api/v1/dead-letters/{id}/replay", Role::Operator),
    ("get", "/api/v1/admin/stats", Role::Admin),
    ("get", "/api/v1/audit", Role::Admin),
    ("post", "/api/v1/devices", Role::Operator),
    ("get", "/api/v1/devices", Role::Viewer),
    ("post", "/api/v1/devices/import", Role::Operator),
    ("get", "/api/v1/devices/export", Role::Viewer),
    ("get", "/api/v1/devices/{device_id}", Role::Viewer),
    ("patch", "/api/v1/devices/{device_id}", Role::Operator),
    ("delete", "/api/v1/devices/{device_id}", Role::Operator),
    ("post", "/api/v1/devices/{device_id}/enable", Role::Operator),
    ("post", "/api/v1/devices/{device_id}/disable", Role::Operator),
    ("get", "/api/v1/devices/{device_id}/presence", Role::Viewer),
    ("post", "/api/v1/devices/{device_id}/credentials/rotate", Role::Operator),
    ("delete", "/api/v1/devices/{device_id}/credentials", Role::Operator),
    ("get", "/api/v1/devices/{device_id}/mqtt-credentials", Role::Viewer),
    ("get", "/api/v1/devices/{device_id}/config", Role::Viewer),
    ("put", "/api/v1/devices/{device_id}/config", Role::Operator),
    ("delete", "/api/v1/devices/{device_id}/config", Role::Operator),
    ("post", "/api/v1/groups", Role::Operator),
    ("get", "/api/v1/groups", Role::Viewer),
    ("get", "/api/v1/groups/{group_id}", Role::Viewer),
    ("patch", "/api/v1/groups/{group_id}", Role::Operator),
    ("delete", "/api/v1/groups/{group_id}", Role::Operator),
    ("get", "/api/v1/groups/{group_id}/members", Role::Viewer),
    ("post", "/api/v1/groups/{group_id}/members", Role::Operator),
    ("delete", "/api/v1/groups/{group_id}/members", Role::Operator),
    ("post", "/api/v1/mqtt/device/{device_id}/command", Role::Operator),
    ("post", "/api/v1/mqtt/fleet/{group_id}/command", Role::Operator),
    ("get", "/api/v1/commands", Role::Viewer),
    ("get", "/api/v1/commands/{command_id}", Role::Viewer),
    ("post", "/api/v1/commands/{command_id}/cancel", Role::Operator),
    ("get", "/api/v1/devices/{device_id}/commands", Role::Viewer),
];

#[tokio::test]
async fn every_operation_asks_for_the_role_it_says_and_for_no_more() {
    let trial = Trial::with(&[("API_RATE", "0")]).await;
    let needed: BTreeMap<(String, String), Role> = NEEDED
        .iter()
        .map(|(method, path, role)| (((*path).to_owned(), (*method).to_owned()), *role))
        .collect();
    let document = serde_json::to_value(routes::description()).expect("it can be written");
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let place = format!("{method} {path}");
            let role = needed
                .get(&(path.clone(), method.clone()))
                .unwrap_or_else(|| panic!("{place} is not in the table: say who may do that"));
            seen += 1;
            // Nothing is there, so what is allowed is refused for another reason, or does nothing.
            let concrete: String = path
                .split('/')
                .map(|level| if level.starts_with('{') { "nothing-of-this-name" } else { level })
                .collect::<Vec<_>>()
                .join("/");
            let body = operation.get("requestBody").map(|_| json!({}));
            let method = method.to_uppercase();
            let refused = trial.nobody.call(&method, &concrete, body.clone()).await;
            assert_eq!(refused.status, 401, "{place} without a credential: {:?}", refused.body);
            assert!(refused.header("www-authenticate").starts_with("Bearer"));
            for held in Role::ALL {
                let answer = trial.of_role(held).call(&method, &concrete, body.clone()).await;
                if held.allows(*role) {
                    assert!(
                        ![401, 403].contains(&answer.status),
                        "{place} as {held}: {} {:?}",
                        answer.status,
                        answer.body
                    );
                } else {
                    let problem: Value = answer.problem(403);
                    assert!(
                        problem["detail"].as_str().is_some_and(|text| text.contains(role.as_str())),
                        "{place} as {held}: {problem}"
                    );
                }
            }
        }
    }
    assert_eq!(seen, NEEDED.len(), "the table has an operation that is not there");
}

#[tokio::test]
async fn a_wrong_credential_is_refused_with_the_reason_and_too_many_lock_out() {
    let trial = Trial::start().await;
    let wrong = |text: &str| super::support::http::Api::new(&trial.service.address, Some(text));
    let path = "/api/v1/mqtt/qos";
    trial.viewer.get(path).await.ok();
    assert!(wrong("iotf_nonsense").get(path).await.status == 401);
    let basic = trial.nobody.call_with("GET", path, &[("authorization", "Basic YTpi")], None).await;
    assert!(basic.problem(401)["detail"].as_str().is_some_and(|text| text.contains("Bearer")));
    let mut last = wrong("guess").get(path).await;
    for _ in 0..30 {
        last = wrong("guess").get(path).await;
    }
    last.problem(429);
    assert!(
        last.header("retry-after")
            .parse::<u64>()
            .is_ok_and(|seconds| (1..=61).contains(&seconds))
    );
    // From this address nothing is looked at any more, and the pages for machines answer all the same.
    trial.viewer.get(path).await.problem(429);
    assert_eq!(trial.service.get("/livez").await.0, 200);
}

#[tokio::test]
async fn who_asks_too_fast_is_told_to_wait() {
    let trial = Trial::with(&[("API_RATE", "2")]).await;
    let mut refused = None;
    for _ in 0..20 {
        let answer = trial.viewer.get("/api/v1/mqtt/qos").await;
        if answer.status == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("twenty at once are more than two a second");
    refused.problem(429);
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1));
    trial.admin.get("/api/v1/mqtt/qos").await.ok();
}
