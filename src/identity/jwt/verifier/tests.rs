//! Tokens as issuers sign them, and as attackers do.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::identity::jwt::refusal::Part;
use crate::identity::jwt::testing::{Signer, data, jwks};
use crate::identity::principal::{Means, Role};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://login.example.org/";
const AUDIENCE: &str = "iotflow";

/// A verifier with these keys, and the folder that holds them.
fn verifier_of(keys: &str) -> (TempDir, Verifier) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("keys");
    std::fs::write(&path, keys).expect("the folder is ours");
    let config = Config::new(path, ISSUER.to_owned(), AUDIENCE.to_owned());
    (folder, Verifier::new(config).expect("sound keys"))
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": NOW + 300, "nbf": NOW - 10, "iat": NOW - 10, "role": "operator" })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

#[test]
fn a_token_of_each_algorithm_says_who_it_is() {
    for signer in Signer::all() {
        for keys in [signer.pem(), jwks(&[("1", &signer)])] {
            let (_folder, verifier) = verifier_of(&keys);
            let accepted = verifier.verify_at(&signer.sign(&claims()), NOW).expect("a sound token");
            let expected = Principal {
                name: "ada".to_owned(),
                role: Role::Operator,
                means: Means::Jwt,
            };
            assert_eq!(accepted.principal, expected);
            assert_eq!(accepted.expires_at, (NOW + 300) * 1_000_000);
        }
    }
}

#[test]
fn claims_that_fit_are_taken() {
    let signer = Signer::ed25519();
    let (_folder, verifier) = verifier_of(&signer.pem());
    for claims in [
        without("nbf"),
        without("iat"),
        with("aud", json!(["another", AUDIENCE])),
        with("exp", 1_800_000_000.5),
        with("exp", NOW - 59),
        with("nbf", NOW + 60),
        with("iat", NOW + 60),
        with("exp", 1e300),
        with("more", json!({ "deeply": ["nested"] })),
    ] {
        assert!(verifier.verify_at(&signer.sign(&claims), NOW).is_ok(), "{claims}");
    }
}

#[test]
fn claims_that_do_not_fit_are_refused_for_that() {
    let signer = Signer::ed25519();
    let (_folder, verifier) = verifier_of(&signer.pem());
    for (claims, refusal) in [
        (without("exp"), Refusal::Missing("exp")),
        (with("exp", NOW - 60), Refusal::Expired),
        (with("exp", -1e300), Refusal::Expired),
        (with("exp", "1800000300"), Refusal::Claim("exp")),
        (with("exp", Value::Null), Refusal::Claim("exp")),
        (with("nbf", NOW + 61), Refusal::NotYetValid),
        (with("nbf", true), Refusal::Claim("nbf")),
        (with("iat", NOW + 61), Refusal::IssuedInFuture),
        (with("iat", json!([])), Refusal::Claim("iat")),
        (without("iss"), Refusal::Missing("iss")),
        (with("iss", "https://login.example.org"), Refusal::Issuer),
        (with("iss", json!([ISSUER])), Refusal::Claim("iss")),
        (without("aud"), Refusal::Missing("aud")),
        (with("aud", "IoTFlow"), Refusal::Audience),
        (with("aud", json!([])), Refusal::Audience),
        (with("aud", json!(["another"])), Refusal::Audience),
        (with("aud", json!([AUDIENCE, 1])), Refusal::Claim("aud")),
        (with("aud", 1), Refusal::Claim("aud")),
        (without("sub"), Refusal::Missing("sub")),
        (with("sub", ""), Refusal::Claim("sub")),
        (with("sub", "ada\n"), Refusal::Claim("sub")),
        (with("sub", "ada\u{9b}2J"), Refusal::Claim("sub")),
        (with("sub", "a".repeat(256)), Refusal::Claim("sub")),
        (with("sub", 7), Refusal::Claim("sub")),
        (without("role"), Refusal::Role),
        (with("role", "root"), Refusal::Role),
        (with("role", "Admin"), Refusal::Role),
        (with("role", json!(["admin"])), Refusal::Role),
        (json!([claims()]), Refusal::Json(Part::Payload)),
        (json!("claims"), Refusal::Json(Part::Payload)),
    ] {
        assert_eq!(verifier.verify_at(&signer.sign(&claims), NOW), Err(refusal), "{claims}");
    }
    let twice = r#"{"role":"viewer","role":"admin"}"#;
    let token = signer.sign_text(r#"{"alg":"EdDSA"}"#, twice);
    assert_eq!(verifier.verify_at(&token, NOW), Err(Refusal::Json(Part::Payload)));
    let no_json = signer.sign_text(r#"{"alg":"EdDSA"}"#, "\u{0}");
    assert_eq!(verifier.verify_at(&no_json, NOW), Err(Refusal::Json(Part::Payload)));
}

#[test]
fn the_role_may_stand_in_another_claim() {
    let signer = Signer::ed25519();
    let (folder, _) = verifier_of(&signer.pem());
    let config = Config {
        role_claim: "https://example.org/role".to_owned(),
        ..Config::new(folder.path().join("keys"), ISSUER.to_owned(), AUDIENCE.to_owned())
    };
    let verifier = Verifier::new(config).expect("sound keys");
    assert_eq!(verifier.verify_at(&signer.sign(&claims()), NOW), Err(Refusal::Role));
    let token = signer.sign(&with("https://example.org/role", "admin"));
    assert_eq!(verifier.verify_at(&token, NOW).expect("a sound token").principal.role, Role::Admin);
}

/// A token whose "signature" is an HMAC with `secret`, as a library that confuses keys would verify it.
fn hmac_token(algorithm: &str, secret: &[u8]) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT" });
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn attacks_are_refused_each_for_what_it_is() {
    let [ed25519, p256, rsa] = Signer::all();
    let stranger = Signer::ed25519();
    let public = data("rsa-public");
    let (_folder, verifier) = verifier_of(&jwks(&[("ed", &ed25519), ("ec", &p256), ("rsa", &rsa)]));
    let body = claims().to_string();
    let headed = |header: Value| ed25519.sign_text(&header.to_string(), &body);
    let good = ed25519.sign(&claims());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let (header, payload) = signed.split_once('.').expect("three parts");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let padded = format!("{header}.{payload}.{signature}==");
    let cut = &good[..good.len() - 1];

    for (name, token, refusal) in [
        ("none", format!("{none}.{payload}."), Refusal::Unsigned),
        ("none with a signature", format!("{none}.{payload}.{signature}"), Refusal::Unsigned),
        ("None", headed(json!({ "alg": "None" })), Refusal::Unsigned),
        ("nOnE", headed(json!({ "alg": "nOnE" })), Refusal::Unsigned),
        ("no signature", format!("{signed}."), Refusal::Unsigned),
        ("HS256 with the PEM", hmac_token("HS256", public.as_bytes()), Refusal::Symmetric),
        (
            "RS256 with an HMAC by the PEM",
            hmac_token("RS256", public.as_bytes()),
            Refusal::Signature,
        ),
        ("hs256", hmac_token("hs256", b""), Refusal::Symmetric),
        ("no algorithm", headed(json!({ "typ": "JWT" })), Refusal::Algorithm),
        ("another spelling", headed(json!({ "alg": "eddsa" })), Refusal::Algorithm),
        ("a space", headed(json!({ "alg": "EdDSA " })), Refusal::Algorithm),
        ("another algorithm", headed(json!({ "alg": "RS512" })), Refusal::Algorithm),
        ("a list", headed(json!({ "alg": ["EdDSA"] })), Refusal::Header("alg")),
        (
            "RS256 with the EC key",
            p256.sign_text(r#"{"alg":"RS256","kid":"ec"}"#, &body),
            Refusal::KeyAlgorithm,
        ),
        (
            "ES256 with the RSA key",
            rsa.sign_text(r#"{"alg":"ES256","kid":"rsa"}"#, &body),
            Refusal::KeyAlgorithm,
        ),
        ("ES256 by Ed25519", headed(json!({ "alg": "ES256" })), Refusal::Signature),
        (
            "an extension",
            headed(json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false })),
            Refusal::Critical,
        ),
        (
            "an empty extension",
            headed(json!({ "alg": "EdDSA", "crit": [] })),
            Refusal::Critical,
        ),
        (
            "another type",
            headed(json!({ "alg": "EdDSA", "typ": "logout+jwt" })),
            Refusal::Type,
        ),
        ("an odd type", headed(json!({ "alg": "EdDSA", "typ": {} })), Refusal::Header("typ")),
        (
            "an unknown key",
            headed(json!({ "alg": "EdDSA", "kid": "../../dev/null" })),
            Refusal::UnknownKey,
        ),
        ("an odd key", headed(json!({ "alg": "EdDSA", "kid": 1 })), Refusal::Header("kid")),
        (
            "another's key",
            headed(json!({ "alg": "EdDSA", "kid": "ec" })),
            Refusal::KeyAlgorithm,
        ),
        (
            "two algorithms",
            ed25519.sign_text(r#"{"alg":"EdDSA","alg":"none"}"#, &body),
            Refusal::Json(Part::Header),
        ),
        ("a stranger", stranger.sign(&claims()), Refusal::Signature),
        (
            "another payload",
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("{}")),
            Refusal::Signature,
        ),
        (
            "zeros for a signature",
            format!(
                "{}.{}",
                p256.sign(&claims()).rsplit_once('.').expect("three parts").0,
                "A".repeat(86)
            ),
            Refusal::Signature,
        ),
        ("padding", padded, Refusal::Encoding(Part::Signature)),
        ("a letter less", cut.to_owned(), Refusal::Encoding(Part::Signature)),
        ("a newline", format!("{good}\n"), Refusal::Encoding(Part::Signature)),
        ("a space", format!(" {good}"), Refusal::Encoding(Part::Header)),
        ("nothing", String::new(), Refusal::Parts),
        ("two parts", signed.to_owned(), Refusal::Parts),
        ("four parts", format!("{good}.e30"), Refusal::Parts),
        ("five parts, as of encrypted ones", format!("{good}.e30.e30"), Refusal::Parts),
        ("two dots", "..".to_owned(), Refusal::Json(Part::Header)),
        (
            "a header that is no object",
            format!("e30x.{payload}.{signature}"),
            Refusal::Json(Part::Header),
        ),
        ("too long", format!("{good}{}", "A".repeat(MAX_TOKEN_BYTES)), Refusal::TooLong),
        ("nested to the bottom", headed_deep(&ed25519), Refusal::Json(Part::Header)),
    ] {
        assert_eq!(verifier.verify_at(&token, NOW), Err(refusal), "{name}: {token}");
    }
    assert!(verifier.verify_at(&good, NOW).is_ok(), "and the one they were made from is taken");
}

fn headed_deep(signer: &Signer) -> String {
    signer.sign_text(&format!(r#"{{"alg":"EdDSA","x":{}"#, "[".repeat(2_000)), "{}")
}

#[test]
fn a_key_that_a_token_brings_along_is_never_read() {
    let [issuer, attacker] = [Signer::ed25519(), Signer::ed25519()];
    let (_folder, verifier) = verifier_of(&issuer.pem());
    let body = claims().to_string();
    for (name, value) in [
        ("jwk", attacker.jwk()),
        ("jku", json!("https://attacker.example/jwks.json")),
        ("x5u", json!("https://attacker.example/certificate.pem")),
        ("x5c", json!(["AAAA"])),
    ] {
        let mut header = json!({ "alg": "EdDSA" });
        header[name] = value;
        let header = header.to_string();
        let forged = attacker.sign_text(&header, &body);
        assert_eq!(verifier.verify_at(&forged, NOW), Err(Refusal::Signature), "{name}");
        let harmless = issuer.sign_text(&header, &body);
        assert!(
            verifier.verify_at(&harmless, NOW).is_ok(),
            "{name} is ignored, not obeyed and not feared"
        );
    }
}

#[test]
fn a_rotation_takes_the_new_key_and_refuses_the_old() {
    let [old, new] = [Signer::p256(), Signer::p256()];
    let (folder, verifier) = verifier_of(&jwks(&[("1", &old)]));
    assert!(verifier.verify_at(&old.sign(&claims()), NOW).is_ok());
    let path = folder.path().join("keys");
    for (keys, taken) in [
        (jwks(&[("1", &old), ("2", &new)]), [true, true]),
        (jwks(&[("2", &new)]), [false, true]),
    ] {
        std::fs::write(path.with_extension("new"), keys).expect("the folder is ours");
        std::fs::rename(path.with_extension("new"), &path).expect("the folder is ours");
        assert!(matches!(verifier.look_at_keys(), Look::Swapped));
        let now_taken = [&old, &new].map(|signer| verifier.verify_at(&signer.sign(&claims()), NOW).is_ok());
        assert_eq!(now_taken, taken);
    }
}

proptest! {
    #[test]
    fn no_other_byte_anywhere_leaves_a_token_valid(which in 0_usize..3, at: prop::sample::Index, byte in 0_u8..0x80) {
        let signer = &Signer::all()[which];
        let (_folder, verifier) = verifier_of(&signer.pem());
        let token = signer.sign(&claims());
        prop_assert!(verifier.verify_at(&token, NOW).is_ok());
        let mut changed = token.clone().into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        let changed = String::from_utf8(changed).expect("ASCII for ASCII");
        prop_assert!(verifier.verify_at(&changed, NOW).is_err());
    }

    #[test]
    fn no_token_is_too_strange(text in ".*", header: Vec<u8>, payload: Vec<u8>, json in r#"\{"(alg|kid|typ|crit)":[\[\]{}"A-Za-z0-9,:]{0,40}\}?"#) {
        let signer = Signer::ed25519();
        let (_folder, verifier) = verifier_of(&signer.pem());
        let parts = [&header, &payload, &header].map(|part| URL_SAFE_NO_PAD.encode(part));
        for token in [
            text,
            parts.join("."),
            signer.sign_text(&json, "{}"),
            signer.sign_text(r#"{"alg":"EdDSA"}"#, &json),
        ] {
            prop_assert!(verifier.verify_at(&token, NOW).is_err());
        }
    }
}
