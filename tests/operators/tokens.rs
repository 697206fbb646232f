//! Tokens, from their making to their revocation.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iotflow::identity::principal::{Means, Role};
use iotflow::identity::tokens::{self, CreateError, Refusal, RevokeError, State, VerifyError, Which};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada, assert_exit, errors, new_token, out};

#[tokio::test]
async fn a_token_lives_from_its_making_to_its_revocation() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;

    let created = trial.run(&["token", "create", "ci.deploy", "--role", "operator"]);
    assert_exit(&created, 0);
    let token = out(&created).to_owned();
    assert_eq!(token.lines().count(), 1, "standard output holds the token alone");
    assert!(!errors(&created).contains(&token), "and nothing else does");

    let inspected = trial.run_with(&["token", "inspect"], &[], &format!("{token}\n"));
    assert_exit(&inspected, 0);
    assert!(
        out(&inspected).starts_with("the token ci.deploy: operator, until "),
        "{}",
        out(&inspected)
    );
    let listed = trial.run(&["token", "list", "--json"]);
    let listed: Value = serde_json::from_str(out(&listed)).expect("JSON");
    assert_eq!(
        [
            &listed[0]["name"],
            &listed[0]["role"],
            &listed[0]["state"],
            &listed[0]["last_used_at"]
        ],
        [&json!("ci.deploy"), &json!("operator"), &json!("active"), &Value::Null],
        "an inspection is no use"
    );

    let again = trial.run(&["token", "create", "ci.deploy", "--role", "admin"]);
    assert_exit(&again, 1);
    assert!(out(&again).is_empty() && errors(&again).contains("there is a token called ci.deploy"));

    assert_exit(&trial.run(&["token", "revoke", "ci.deploy"]), 0);
    let inspected = trial.run_with(&["token", "inspect"], &[], &token);
    assert_exit(&inspected, 1);
    assert!(
        out(&inspected).starts_with("refused: the token ci.deploy was revoked at 2"),
        "{}",
        out(&inspected)
    );
    let twice = trial.run(&["token", "revoke", "ci.deploy"]);
    assert_exit(&twice, 1);
    assert!(errors(&twice).contains("ci.deploy is revoked already"));
    assert_exit(&trial.run(&["token", "create", "ci.deploy", "--role", "viewer", "--never"]), 0);

    // What was done and what was refused is told, the newest last, each by the account that ran it.
    let told = trial.run(&["audit", "--json"]);
    let told: Vec<Value> = out(&told).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let brief: Vec<_> = told
        .iter()
        .map(|entry| {
            [&entry["action"], &entry["object"], &entry["outcome"], &entry["detail"]["role"]]
                .map(|value| value.as_str().unwrap_or("-").to_owned())
                .join(" ")
        })
        .collect();
    assert_eq!(
        brief,
        [
            "token.create ci.deploy done operator",
            "token.create ci.deploy refused admin",
            "token.revoke ci.deploy done -",
            "token.revoke ci.deploy refused -",
            "token.create ci.deploy done viewer"
        ]
    );
    let account = nix::unistd::User::from_uid(nix::unistd::Uid::current());
    let account = account.expect("accounts can be read").expect("ours is one").name;
    assert!(told.iter().all(|entry| entry["actor"] == account.as_str()), "{told:?}");

    // The token is nowhere but in the hands of who made it.
    let random = URL_SAFE_NO_PAD
        .decode(token.strip_prefix(tokens::PREFIX).expect("the prefix"))
        .expect("base64");
    let hash: Vec<u8> = sql
        .query_one("SELECT hash FROM api_tokens WHERE role = 'operator'", &[])
        .await
        .expect("one row")
        .get(0);
    assert_eq!(<[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&random[..32]))[..], hash);
    let tables = texts(&sql, "SELECT t::text FROM api_tokens t UNION ALL SELECT a::text FROM audit_log a").await;
    let log = std::fs::read_to_string(trial.log()).unwrap_or_default();
    let secret = token.strip_prefix(tokens::PREFIX).expect("the prefix");
    assert!(!tables.iter().any(|row| row.contains(secret)) && !log.contains(secret));
    let raw: String = random[..32].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!tables.iter().any(|row| row.contains(&raw)), "{tables:?}");
}

#[tokio::test]
async fn commands_that_make_no_sense_change_nothing_and_repeat_no_secret() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let token = out(&trial.run(&["token", "create", "a", "--role", "viewer"])).to_owned();
    for (arguments, reason) in [
        (&["token", "revoke", token.as_str()][..], "cannot begin as a token does"),
        (
            &["token", "create", token.as_str(), "--role", "viewer"],
            "cannot begin as a token does",
        ),
        (&["token", "create", "b c", "--role", "viewer"], "1 to 64 of the characters"),
        (
            &["token", "create", "b", "--role", "root"],
            "possible values: viewer, operator, admin",
        ),
        (
            &["token", "create", "b", "--role", "admin", "--expires", "soon"],
            "a time span such as",
        ),
        (
            &["token", "create", "b", "--role", "admin", "--expires", "0s"],
            "between a second and ten years",
        ),
        (
            &["token", "create", "b", "--role", "admin", "--expires", "9999999d"],
            "between a second and ten years",
        ),
        (&["token", "create", "b"], "--role <ROLE>"),
        (&["audit", "--action", "token.steal"], "token.create"),
    ] {
        let output = trial.run(arguments);
        assert_exit(&output, 2);
        assert!(errors(&output).contains(reason), "{reason:?} is missing in {output:?}");
        assert!(!errors(&output).contains(&token) && out(&output).is_empty(), "{output:?}");
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM api_tokens").await, 1);
    assert_eq!(number(&sql, "SELECT count(*) FROM audit_log").await, 1);

    let unknown = trial.run(&["token", "revoke", "b"]);
    assert_exit(&unknown, 1);
    assert!(errors(&unknown).contains("there is no token b"));
    assert_eq!(texts(&sql, "SELECT object FROM audit_log WHERE outcome = 'refused'").await, ["b"]);
}

#[tokio::test]
async fn an_old_schema_is_named_as_what_is_in_the_way() {
    let trial = Trial::without_schema().await;
    for arguments in [&["token", "list"][..], &["audit"]] {
        let output = trial.run(arguments);
        assert_exit(&output, 2);
        assert!(errors(&output).contains("run `iotflow migrate` first"), "{output:?}");
    }
}

#[tokio::test]
async fn verification_says_who_it_is_and_otherwise_exactly_why_not() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let created = tokens::create(&mut sql, &ada(), &new_token("plant", Role::Admin))
        .await
        .expect("it is made");
    assert!(!format!("{created:?}").contains(created.secret.reveal()));

    let principal = tokens::verify(&sql, created.secret.reveal()).await.expect("it is taken");
    assert_eq!(
        (principal.name.as_str(), principal.role, principal.means),
        ("plant", Role::Admin, Means::Token(created.id))
    );
    assert_eq!(principal.actor("192.0.2.9").name(), "token:plant");

    // A use is noted at most once a minute.
    let used = "SELECT (extract(epoch FROM last_used_at) * 1000000)::int8 FROM api_tokens";
    let first = number(&sql, used).await;
    tokens::verify(&sql, created.secret.reveal()).await.expect("it is taken");
    assert_eq!(number(&sql, used).await, first);
    sql.execute("UPDATE api_tokens SET last_used_at = last_used_at - interval '61 seconds'", &[])
        .await
        .expect("it is ours");
    tokens::verify(&sql, created.secret.reveal()).await.expect("it is taken");
    assert!(number(&sql, used).await >= first);

    let another = tokens::create(&mut sql, &ada(), &new_token("another", Role::Viewer))
        .await
        .expect("it is made");
    sql.execute("DELETE FROM api_tokens WHERE name = 'another'", &[])
        .await
        .expect("it is ours");
    assert!(matches!(
        tokens::verify(&sql, another.secret.reveal()).await,
        Err(VerifyError::Refused(Refusal::Unknown))
    ));
    for malformed in [
        "",
        "plant",
        &created.secret.reveal()[..55],
        &format!("{}x", created.secret.reveal()),
    ] {
        assert!(matches!(
            tokens::verify(&sql, malformed).await,
            Err(VerifyError::Refused(Refusal::Malformed))
        ));
    }

    sql.execute("UPDATE api_tokens SET expires_at = now()", &[])
        .await
        .expect("it is ours");
    let expired = tokens::verify(&sql, created.secret.reveal()).await;
    let Err(VerifyError::Refused(refusal @ Refusal::Expired(_))) = expired else {
        panic!("{expired:?}");
    };
    assert_eq!(refusal.to_string(), "the token plant has expired");
    // It keeps its name until somebody revokes it.
    assert!(matches!(
        tokens::create(&mut sql, &ada(), &new_token("plant", Role::Admin)).await,
        Err(CreateError::Taken(_))
    ));

    let by_id = Which::parse(&created.id.to_string()).expect("an id");
    let revoked = tokens::revoke(&mut sql, &ada(), &by_id).await.expect("it is revoked");
    assert_eq!((revoked.name.as_str(), revoked.state), ("plant", State::Revoked));
    assert!(matches!(
        tokens::verify(&sql, created.secret.reveal()).await,
        Err(VerifyError::Refused(Refusal::Revoked(_)))
    ));
    assert!(matches!(
        tokens::revoke(&mut sql, &ada(), &by_id).await,
        Err(RevokeError::Already(_))
    ));
}

#[tokio::test]
async fn of_two_that_make_a_token_of_one_name_one_does() {
    let trial = Trial::start().await;
    // On tasks of their own, as requests are.
    let attempt = |mut sql: Client| tokio::spawn(async move { tokens::create(&mut sql, &ada(), &new_token("plant", Role::Viewer)).await });
    let (first, second) = (attempt(trial.sql().await), attempt(trial.sql().await));
    let (first, second) = (first.await.expect("it ends"), second.await.expect("it ends"));
    assert_eq!([first.is_ok(), second.is_ok()].iter().filter(|made| **made).count(), 1);
    let sql = trial.sql().await;
    assert_eq!(
        texts(&sql, "SELECT outcome FROM audit_log ORDER BY outcome").await,
        ["done", "refused"]
    );
}
