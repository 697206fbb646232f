//! Who asks, who decides, and who gets credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, Serializable as _};
use iotflow::courier::discovery::{SEAL_INFO, SEAL_SUITE};
use iotflow::protocol::rights::Role;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::judge::{number, texts};
use super::support::person::Person;
use super::support::servers::PASSWORD;
use super::trial::{NEWCOMER, Trial, answer, ask, is_heard, register, response};

#[tokio::test]
async fn an_operator_approves_and_the_device_gets_its_credentials_once() {
    let trial = Trial::start(Role::Provisioning, &[("DISCOVERY_POLICY", "approval")]).await;
    let refused = Person::connect(&trial.way_in(false, (NEWCOMER, PASSWORD)), NEWCOMER).await;
    assert!(refused.is_err(), "the shared credential is good by TLS only");

    let mut newcomer = trial.newcomer(true).await;
    newcomer.subscribe(&[&response("pump-1"), &response("pump-2")]).await;
    let told = ask(&mut newcomer, "pump-1", &json!({"name": "Pump, \"north\"", "firmware": "2.1"})).await;
    assert_eq!(told["status"], "pending", "{told}");
    let (secret, public) = X25519HkdfSha256::gen_keypair();
    let key = STANDARD.encode(public.to_bytes());
    ask(&mut newcomer, "pump-2", &json!({"public_key": key})).await;

    let listed = trial.operator.get("/api/v1/discovery?state=pending").await.ok();
    assert_eq!(listed["registrations"][0]["payload"]["firmware"], "2.1", "{listed}");
    assert_eq!(listed["registrations"][1]["public_key"], key, "{listed}");
    trial.operator.post("/api/v1/discovery/pump-1/approve", json!({})).await.ok();
    let told = answer(&mut newcomer, "pump-1").await;
    assert_eq!(
        (&told["status"], &told["credentials"]["username"]),
        (&json!("approved"), &json!("pump-1")),
        "{told}"
    );
    let password = told["credentials"]["password"].as_str().expect("a password").to_owned();
    is_heard(&trial, "pump-1", &password).await;

    // Once, and then never again.
    eventually("it is on record as given", async || {
        let issued = "SELECT count(*) FROM discovery_requests WHERE device = 'pump-1' AND issued_at IS NOT NULL";
        (number(&trial.site.sql, issued).await == 1).then_some(())
    })
    .await;
    let told = ask(&mut newcomer, "pump-1", &json!({})).await;
    assert_eq!(told["status"], "rejected", "{told}");
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("already")) && told["credentials"].is_null());
    trial
        .operator
        .post("/api/v1/discovery/pump-1/approve", json!({}))
        .await
        .problem(409);

    // Sealed to the key that asked first; another key does not get it.
    let (_, other) = X25519HkdfSha256::gen_keypair();
    let told = ask(&mut newcomer, "pump-2", &json!({"public_key": STANDARD.encode(other.to_bytes())})).await;
    assert_eq!(told["status"], "rejected", "{told}");
    let approved = trial.cli(&["approve", "pump-2"]);
    assert!(approved.status.success(), "{approved:?}");
    let told = answer(&mut newcomer, "pump-2").await;
    assert!(told["credentials"].is_null() && told["sealed"]["suite"] == SEAL_SUITE, "{told}");
    let part = |name: &str| STANDARD.decode(told["sealed"][name].as_str().expect("text")).expect("base64");
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&part("enc")).expect("a key");
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &secret,
        &encapsulated,
        SEAL_INFO,
        &part("ciphertext"),
        b"pump-2",
    );
    let opened: Value = serde_json::from_slice(&opened.expect("it is sealed to this key")).expect("JSON");
    is_heard(&trial, "pump-2", opened["password"].as_str().expect("a password")).await;

    // Passwords are in nobody's hands but the devices'.
    let everything =
        "SELECT r::text FROM discovery_requests r UNION ALL SELECT a::text FROM audit_log a UNION ALL SELECT o::text FROM outbox o
                      UNION ALL SELECT u::text FROM broker_users u";
    let rows = texts(&trial.site.sql, everything).await.join("\n");
    assert!(!rows.contains(&password) && !trial.service.log().contains(&password));
    assert_eq!(
        texts(
            &trial.site.sql,
            "SELECT object || ' ' || action FROM audit_log WHERE action LIKE 'discovery.%' ORDER BY id"
        )
        .await,
        [
            "pump-1 discovery.approve",
            "pump-1 discovery.issue",
            "pump-2 discovery.approve",
            "pump-2 discovery.issue"
        ]
    );
}

#[tokio::test]
async fn credentials_that_nobody_heard_are_not_given_and_a_flood_is_limited() {
    let variables = [("DISCOVERY_POLICY", "open"), ("DISCOVERY_RATE", "20")];
    let trial = Trial::start(Role::ProvisioningPlain, &variables).await;
    let mut newcomer = trial.newcomer(false).await;
    let says = json!({"type": "meter"}).to_string();
    newcomer.publish(&register("meter-1"), &says).await.expect("it is connected");
    // Made, and thrown away: the broker said that nobody listens.
    let made = "SELECT count(*) FROM discovery_requests WHERE issuing_at IS NOT NULL AND state = 'approved'";
    eventually("credentials were made", async || {
        (number(&trial.site.sql, made).await == 1).then_some(())
    })
    .await;
    newcomer.subscribe(&["iotflow/discovery/response/+"]).await;
    let told = ask(&mut newcomer, "meter-1", &json!({"type": "meter"})).await;
    assert_eq!(told["status"], "approved", "{told}");
    is_heard(&trial, "meter-1", told["credentials"]["password"].as_str().expect("a password")).await;

    for (payload, why) in [("[]", "JSON object"), ("{", "JSON object"), ("{\"public_key\":\"x\"}", "X25519")] {
        newcomer.publish(&register("meter-2"), payload).await.expect("it is connected");
        let told = answer(&mut newcomer, "meter-2").await;
        assert!(
            told["reason"].as_str().is_some_and(|reason| reason.contains(why)),
            "{payload}: {told}"
        );
    }
    for device in ["iotflow-ingest-0", "aa:bb"] {
        let told = ask(&mut newcomer, device, &json!({})).await;
        assert_eq!(told["status"], "rejected", "{device}: {told}");
    }

    for number in 0..200 {
        newcomer
            .publish(&register(&format!("flood-{number}")), "{}")
            .await
            .expect("it is connected");
    }
    eventually("most of the flood was not looked at", async || {
        (trial.service.sum("iotflow_discovery_dropped_total").await >= 170.0).then_some(())
    })
    .await;
    let looked_at = number(
        &trial.site.sql,
        "SELECT count(*) FROM discovery_requests WHERE device LIKE 'flood-%'",
    )
    .await;
    assert!(looked_at <= 30, "{looked_at}");
}

#[tokio::test]
async fn who_became_a_user_by_another_way_is_not_taken_over() {
    let trial = Trial::start(Role::ProvisioningPlain, &[("DISCOVERY_POLICY", "approval")]).await;
    let mut newcomer = trial.newcomer(false).await;
    newcomer.subscribe(&["iotflow/discovery/response/+"]).await;
    trial.operator.post("/api/v1/discovery", json!({"device_id": "pump-7"})).await.ok();
    for pending in ["pump-8", "ops"] {
        assert_eq!(ask(&mut newcomer, pending, &json!({})).await["status"], "pending");
    }
    // Both are registered, and somebody becomes an admin of that name, before anything was decided.
    let hash = |name: &str| format!("SELECT password_hash FROM broker_users WHERE username = '{name}'");
    trial
        .site
        .add(&[("pump-7", Role::Device), ("pump-8", Role::Device), ("ops", Role::Admin)])
        .await;
    let before = [
        texts(&trial.site.sql, &hash("pump-7")).await,
        texts(&trial.site.sql, &hash("ops")).await,
    ];
    let told = ask(&mut newcomer, "pump-7", &json!({})).await;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("already")), "{told}");
    for pending in ["pump-8", "ops"] {
        trial
            .operator
            .post(&format!("/api/v1/discovery/{pending}/approve"), json!({}))
            .await
            .ok();
        let state = format!("SELECT count(*) FROM discovery_requests WHERE device = '{pending}' AND state = 'rejected'");
        eventually(&format!("{pending} keeps what it has"), async || {
            (number(&trial.site.sql, &state).await == 1).then_some(())
        })
        .await;
    }
    let after = [
        texts(&trial.site.sql, &hash("pump-7")).await,
        texts(&trial.site.sql, &hash("ops")).await,
    ];
    assert_eq!(before, after);
    assert!(newcomer.received.is_empty(), "{:?}", newcomer.received);

    // What was made and never told goes with the request.
    newcomer
        .publish("iotflow/discovery/register/quiet", "{}")
        .await
        .expect("it is connected");
    answer(&mut newcomer, "quiet").await;
    newcomer.leave().await;
    trial.operator.post("/api/v1/discovery/quiet/approve", json!({})).await.ok();
    let user = "SELECT count(*) FROM broker_users WHERE username = 'quiet'";
    eventually("its credentials are made", async || {
        (number(&trial.site.sql, user).await == 1).then_some(())
    })
    .await;
    trial.operator.post("/api/v1/discovery/quiet/reject", json!({})).await.ok();
    assert_eq!(number(&trial.site.sql, user).await, 0);
    let shut_out = "SELECT count(*) FROM devices WHERE device = 'quiet' AND shut_out_at IS NOT NULL";
    assert_eq!(number(&trial.site.sql, shut_out).await, 1, "nor does a certificate let it in");
}

#[tokio::test]
async fn who_was_announced_gets_credentials_and_others_do_not() {
    let trial = Trial::start(Role::ProvisioningPlain, &[("DISCOVERY_POLICY", "preregistered")]).await;
    let announced = trial.operator.post("/api/v1/discovery", json!({"device_id": "valve-1"})).await;
    assert_eq!(announced.status, 201);
    trial
        .operator
        .post("/api/v1/discovery", json!({"device_id": "valve-1"}))
        .await
        .problem(409);
    trial
        .operator
        .post("/api/v1/discovery", json!({"device_id": "a b"}))
        .await
        .problem(422);
    trial.site.add(&[("known", Role::Device)]).await;
    trial
        .operator
        .post("/api/v1/discovery", json!({"device_id": "known"}))
        .await
        .problem(409);

    let mut newcomer = trial.newcomer(false).await;
    newcomer.subscribe(&["iotflow/discovery/response/+"]).await;
    for (device, why) in [("valve-2", "not expected"), ("known", "already")] {
        let told = ask(&mut newcomer, device, &json!({})).await;
        assert!(
            told["reason"].as_str().is_some_and(|reason| reason.contains(why)),
            "{device}: {told}"
        );
    }
    let told = ask(&mut newcomer, "valve-1", &json!({})).await;
    is_heard(&trial, "valve-1", told["credentials"]["password"].as_str().expect("a password")).await;

    let listed = trial.cli(&["list", "--json"]);
    let line: Value = serde_json::from_slice(&listed.stdout).expect("one line");
    assert_eq!(
        (&line["device_id"], &line["state"]),
        (&json!("valve-1"), &json!("issued")),
        "{listed:?}"
    );
    for (arguments, why) in [
        (&["approve", "valve-1"][..], "is issued"),
        (&["reject", "valve-1"], "it has its credentials"),
        (&["approve", "valve-9"], "there is no registration of valve-9"),
        (&["expect", "known"], "has credentials already"),
    ] {
        let refused = trial.cli(arguments);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{refused:?}");
    }
    assert!(trial.cli(&["expect", "valve-3"]).status.success());
    assert!(trial.cli(&["reject", "valve-3", "--reason", "sold"]).status.success());
    let told = ask(&mut newcomer, "valve-3", &json!({})).await;
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("rejected")), "{told}");
    assert!(trial.cli(&["forget", "valve-3"]).status.success());
    let told = ask(&mut newcomer, "valve-3", &json!({})).await;
    assert!(
        told["reason"].as_str().is_some_and(|reason| reason.contains("not expected")),
        "{told}"
    );
}
