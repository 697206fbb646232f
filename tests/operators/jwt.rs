//! JWTs, as `iotflow token inspect` sees them.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iotflow::protocol::time;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::trial::{Trial, assert_exit, errors, out};

/// A JWT by `pair`, for a service called `iotflow`.
fn jwt(pair: &Ed25519KeyPair, role: &str, expires: i64) -> String {
    let claims = json!({ "iss": "https://login.example.org", "aud": "iotflow", "sub": "ada", "role": role, "exp": expires });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"1"}"#),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes())))
}

fn write_jwks(path: &Path, pair: &Ed25519KeyPair) {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": x }] });
    std::fs::write(path, set.to_string()).expect("the folder is ours");
}

#[tokio::test]
async fn a_jwt_is_inspected_without_a_database() {
    let trial = Trial::without_schema().await;
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("just made");
    let path = trial.folder.path().join("jwks.json");
    write_jwks(&path, &pair);
    let variables = [
        ("JWT_KEYS", path.to_str().expect("UTF-8")),
        ("JWT_ISSUER", "https://login.example.org"),
        ("JWT_AUDIENCE", "iotflow"),
        ("DATABASE_URL", "postgres://127.0.0.1:1/nowhere"),
    ];
    let now = time::now() / 1_000_000;
    let token = jwt(&pair, "operator", now + 3_600);
    let inspect = |token: &str| trial.run_with(&["token", "inspect", "--json"], &variables, token);
    let taken = inspect(&token);
    assert_exit(&taken, 0);
    let told: Value = serde_json::from_str(out(&taken)).expect("JSON");
    assert_eq!(
        [&told["kind"], &told["name"], &told["role"]],
        [&json!("jwt"), &json!("ada"), &json!("operator")]
    );

    let (signed, _) = token.rsplit_once('.').expect("three parts");
    for (token, reason) in [
        (jwt(&pair, "operator", now - 3_600), "it has expired"),
        (
            jwt(&pair, "root", now + 3_600),
            "its claim of a role is not admin, operator or viewer",
        ),
        (format!("{signed}."), "it is not signed"),
        (
            "\u{1b}[2J".to_owned(),
            "it is no signed token: three parts with dots between them are expected",
        ),
    ] {
        let refused = inspect(&token);
        assert_exit(&refused, 1);
        let told: Value = serde_json::from_str(out(&refused)).expect("JSON");
        assert_eq!(told["reason"], reason);
    }

    let unset = trial.run_with(&["token", "inspect"], &[], &token);
    assert_exit(&unset, 1);
    assert!(out(&unset).contains("JWTs are taken only where JWT_KEYS"), "{unset:?}");
    std::fs::write(&path, "{}").expect("the folder is ours");
    let broken = inspect(&token);
    assert_exit(&broken, 2);
    assert!(errors(&broken).contains("it is no JWK set"), "{broken:?}");
}
