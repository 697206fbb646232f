//! Groups over HTTP: lists and dynamic ones, and who belongs to them.

use serde_json::{Value, json};

use super::trial::Trial;

const GROUPS: &str = "/api/v1/groups";

#[tokio::test]
async fn a_list_is_made_filled_paged_emptied_and_deleted() {
    let trial = Trial::start().await;
    for device in ["a", "b", "c"] {
        trial.operator.post("/api/v1/devices", json!({"device_id": device})).await.ok();
    }
    let made = trial.operator.post(GROUPS, json!({"group_id": "north", "name": "Halle <3>"})).await;
    assert_eq!(
        (made.status, made.header("location"), made.header("etag")),
        (201, "/api/v1/groups/north", "\"1\"")
    );
    trial.operator.post(GROUPS, json!({"group_id": "north"})).await.problem(409);
    let members = format!("{GROUPS}/north/members");
    let added = trial.operator.post(&members, json!({"device_ids": ["a", "b", "c"]})).await.ok();
    assert_eq!(added["changed"], 3);
    let unknown = trial.operator.post(&members, json!({"device_ids": ["a", "x"]})).await.problem(422);
    assert!(
        unknown["detail"].as_str().is_some_and(|text| text.contains("there is no device x")),
        "{unknown}"
    );
    for bad in [
        json!({"device_ids": []}),
        json!({"device_ids": ["a/b"]}),
        json!({"device_ids": vec!["a"; 10_001]}),
    ] {
        trial.operator.post(&members, bad).await.problem(422);
    }
    let page = trial.viewer.get(&format!("{members}?limit=2")).await.ok();
    assert_eq!(page["members"], json!(["a", "b"]));
    let cursor = page["next_cursor"].as_str().expect("there is another");
    let page = trial.viewer.get(&format!("{members}?limit=2&cursor={cursor}")).await.ok();
    assert_eq!((&page["members"], &page["next_cursor"]), (&json!(["c"]), &Value::Null));
    let removed = trial
        .operator
        .call("DELETE", &members, Some(json!({"device_ids": ["a"]})))
        .await
        .ok();
    assert_eq!(removed["changed"], 1);
    let listed = trial.viewer.get(GROUPS).await.ok();
    assert_eq!(
        (&listed["groups"][0]["members"], &listed["groups"][0]["name"]),
        (&json!(2), &json!("Halle <3>"))
    );
    trial
        .operator
        .call_with("DELETE", &format!("{GROUPS}/north"), &[("if-match", "\"9\"")], None)
        .await
        .problem(412);
    assert_eq!(trial.operator.call("DELETE", &format!("{GROUPS}/north"), None).await.status, 204);
    trial.viewer.get(&members).await.problem(404);
    trial.viewer.get(&format!("{GROUPS}/north")).await.problem(404);
}

#[tokio::test]
async fn a_dynamic_group_follows_its_rule() {
    let trial = Trial::start().await;
    trial
        .operator
        .post(GROUPS, json!({"group_id": "reds", "match_tag": "red"}))
        .await
        .ok();
    trial
        .operator
        .post("/api/v1/devices", json!({"device_id": "a", "tags": ["red"]}))
        .await
        .ok();
    trial.operator.post("/api/v1/devices", json!({"device_id": "b"})).await.ok();
    let group = trial.viewer.get(&format!("{GROUPS}/reds")).await.ok();
    assert_eq!((&group["group"]["members"], &group["group"]["dynamic"]), (&json!(1), &json!(true)));
    let refused = trial
        .operator
        .post(&format!("{GROUPS}/reds/members"), json!({"device_ids": ["b"]}))
        .await
        .problem(409);
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|text| text.contains("follow from its tag or type")),
        "{refused}"
    );
    let retagged = json!({"tags": ["red"]});
    let device = trial.operator.call("PATCH", "/api/v1/devices/b", Some(retagged)).await.ok();
    assert_eq!(device["device"]["groups"], json!(["reds"]));
    let patch = async |headers: &[(&str, &str)], body: Value| {
        trial
            .operator
            .call_with("PATCH", &format!("{GROUPS}/reds"), headers, Some(body))
            .await
    };
    patch(&[("if-match", "\"7\"")], json!({"match_tag": "blue"})).await.problem(412);
    patch(&[], json!({"members": 7})).await.problem(422);
    let blue = patch(&[("if-match", "\"1\"")], json!({"match_tag": "blue"})).await;
    assert_eq!((blue.header("etag"), &blue.ok()["group"]["members"]), ("\"2\"", &json!(0)));
}
