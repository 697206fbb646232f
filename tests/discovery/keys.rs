//! A device that was announced with its key gets its credentials by that key, and nobody else gets them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hpke::kem::X25519HkdfSha256;
use hpke::{Kem as _, Serializable as _};
use iotflow::protocol::rights::Role;
use serde_json::{Value, json};

use super::support::judge::texts;
use super::trial::{Trial, ask, response};

fn key() -> String {
    STANDARD.encode(X25519HkdfSha256::gen_keypair().1.to_bytes())
}

#[tokio::test]
async fn who_was_announced_with_a_key_is_answered_by_it_alone() {
    let trial = Trial::start(Role::ProvisioningPlain, &[("DISCOVERY_POLICY", "preregistered")]).await;
    let mut newcomer = trial.newcomer(false).await;
    newcomer.subscribe(&[&response("+")]).await;
    let expect = async |body: Value| trial.operator.post("/api/v1/discovery", body).await;
    for bad in ["", "AAAA", "no base64"] {
        let problem = expect(json!({"device_id": "valve-1", "expected_key": bad})).await.problem(422);
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("X25519")),
            "{problem}"
        );
    }
    let (first, second) = (key(), key());
    let announced = expect(json!({"device_id": "valve-1", "expected_key": first})).await;
    assert_eq!(announced.status, 201);
    let announced = trial.cli(&["expect", "valve-2", "--key", &second]);
    assert!(announced.status.success(), "{announced:?}");
    let refused = trial.cli(&["expect", "valve-3", "--key", "AAAA"]);
    assert!(!refused.status.success(), "{refused:?}");
    let listed = trial.operator.get("/api/v1/discovery").await.ok();
    assert_eq!(listed["registrations"][0]["expected_key"], first, "{listed}");
    assert_eq!(listed["registrations"][1]["expected_key"], second, "{listed}");

    // Rejected and approved again, it is still this key's alone.
    assert!(trial.cli(&["reject", "valve-2"]).status.success());
    assert!(trial.cli(&["approve", "valve-2"]).status.success());
    for device in ["valve-1", "valve-2"] {
        for impostor in [json!({"public_key": key()}), json!({})] {
            let told = ask(&mut newcomer, device, &impostor).await;
            assert_eq!(told["status"], "rejected", "{told}");
            assert!(
                told["reason"].as_str().is_some_and(|reason| reason.contains("another key")),
                "{told}"
            );
        }
    }
    for (device, key) in [("valve-1", &first), ("valve-2", &second)] {
        let told = ask(&mut newcomer, device, &json!({"public_key": key})).await;
        assert_eq!(told["status"], "approved", "{told}");
        assert!(told["sealed"].is_object() && told["credentials"].is_null(), "{told}");
    }
    // Many at once, each line by itself.
    let file = trial.site.folder.path().join("valves.csv");
    std::fs::write(
        &file,
        format!("device_id,expected_key\nvalve-4,{first}\nvalve-5,\nvalve 6,\nvalve-4,{second}\nvalve-7,AAAA\n"),
    )
    .expect("the folder is ours");
    let announced = trial.cli(&["expect", "--file", file.to_str().expect("UTF-8")]);
    let said = String::from_utf8_lossy(&announced.stderr).into_owned();
    assert_eq!(announced.status.code(), Some(1), "{said}");
    for (line, why) in [("line 4", "valve 6"), ("line 5", "already"), ("line 6", "X25519")] {
        assert!(said.lines().any(|said| said.contains(line) && said.contains(why)), "{line}: {said}");
    }
    let expected = "SELECT device || ' ' || coalesce(encode(expected_key, 'base64'), '-') FROM discovery_requests
                    WHERE device IN ('valve-4', 'valve-5', 'valve-7') ORDER BY device";
    assert_eq!(
        texts(&trial.site.sql, expected).await,
        [format!("valve-4 {first}"), "valve-5 -".to_owned()]
    );
    assert_eq!(trial.service.sum("iotflow_discovery_refused_total").await, 4.0);
    let refused = "SELECT object || ' ' || outcome FROM audit_log WHERE action = 'discovery.refuse' ORDER BY id";
    assert_eq!(
        texts(&trial.site.sql, refused).await,
        ["valve-1 refused", "valve-1 refused", "valve-2 refused", "valve-2 refused"]
    );
}
