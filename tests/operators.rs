//! Operators' credentials and the audit, through the real binary on a real PostgreSQL.

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iotflow::db::config::Config;
use iotflow::db::migrate::migrate;
use iotflow::identity::audit::{self, Act, Action, Actor, Filter, Outcome};
use iotflow::identity::principal::{Means, Role};
use iotflow::identity::tokens::{self, CreateError, NewToken, Refusal, RevokeError, State, TokenName, VerifyError, Which};
use iotflow::protocol::time;
use iotflow::stack::postgres::Postgres;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use support::judge::{number, texts};
use support::servers::{connect, folder, start_postgres};

/// A database with the schema, and the binary's place to run in.
struct Trial {
    postgres: Postgres,
    folder: TempDir,
}

impl Trial {
    async fn start() -> Self {
        let trial = Self::without_schema().await;
        let config = Config {
            url: trial.postgres.url(),
            ..Config::default()
        };
        migrate(&config).await.expect("it migrates");
        trial
    }

    async fn without_schema() -> Self {
        let folder = folder();
        let (postgres, _) = start_postgres(folder.path()).await;
        Self { postgres, folder }
    }

    async fn sql(&self) -> Client {
        connect(self.postgres.url().reveal()).await
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("iotflow.log")
    }

    /// Runs `iotflow` with these arguments, variables and standard input.
    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_iotflow")])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", self.postgres.url().reveal())
            .env("LOG_LEVEL", "trace")
            .env("LOG_FILE", self.log())
            .envs(variables.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) can be started");
        // A command that wants no input may have ended before it got any.
        drop(child.stdin.take().expect("it is piped").write_all(input.as_bytes()));
        child.wait_with_output().expect("it is our child")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[], "")
    }
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8").trim_end()
}

fn errors(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

fn new_token(name: &str, role: Role) -> NewToken {
    NewToken {
        name: TokenName::parse(name).expect("a good name"),
        role,
        expiry: Some(tokens::DEFAULT_EXPIRY),
    }
}

fn ada() -> Actor {
    Actor::new("ada", "192.0.2.7")
}

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

#[tokio::test]
async fn an_act_and_its_entry_are_one() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    // A caller that gives up takes the entry with it.
    let mut transaction = sql.transaction().await.expect("a transaction");
    tokens::create(&mut transaction, &ada(), &new_token("plant", Role::Viewer))
        .await
        .expect("it is made");
    transaction.rollback().await.expect("it can be rolled back");
    assert_eq!(
        number(&sql, "SELECT (SELECT count(*) FROM api_tokens) + (SELECT count(*) FROM audit_log)").await,
        0
    );
    // Where no entry can be written nothing is done.
    sql.batch_execute("ALTER TABLE audit_log ADD CONSTRAINT no_entry CHECK (false) NOT VALID")
        .await
        .expect("it is ours");
    let failed = tokens::create(&mut sql, &ada(), &new_token("plant", Role::Viewer)).await;
    assert!(matches!(failed, Err(CreateError::Database(_))), "{failed:?}");
    assert_eq!(number(&sql, "SELECT count(*) FROM api_tokens").await, 0);
}

#[tokio::test]
async fn the_audit_can_only_grow() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let ada = ada();
    let act = Act::new(&ada, Action::UserCreate, "sensor-1", Outcome::Done);
    audit::record(&sql, &act).await.expect("it is written");
    for statement in [
        "UPDATE audit_log SET actor = 'nobody'",
        "UPDATE audit_log SET actor = 'nobody' WHERE false",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "SET session_replication_role = replica; DELETE FROM audit_log",
        "WITH gone AS (DELETE FROM audit_log RETURNING 1) SELECT count(*) FROM gone",
        "INSERT INTO audit_log (id, actor, origin, action, object, outcome) OVERRIDING SYSTEM VALUE
         VALUES (1, 'x', 'x', 'x.x', 'x', 'done') ON CONFLICT (id) DO UPDATE SET actor = 'nobody'",
    ] {
        let error = sql.batch_execute(statement).await.expect_err(statement);
        let error = error.as_db_error().expect("the server's");
        assert!(error.message().starts_with("audit_log is append-only: "), "{statement}: {error}");
        sql.batch_execute("SET session_replication_role = origin")
            .await
            .expect("it is ours");
    }
    for (actor, action, outcome) in [
        ("ada", "user.create", "perhaps"),
        ("ada", "Anything; really", "done"),
        ("", "user.create", "done"),
    ] {
        let statement = "INSERT INTO audit_log (actor, origin, action, object, outcome) VALUES ($1, '', $2, 'x', $3)";
        let error = sql
            .execute(statement, &[&actor, &action, &outcome])
            .await
            .expect_err("no such entry");
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{error:?}");
    }
    assert_eq!(texts(&sql, "SELECT actor || ' ' || object FROM audit_log").await, ["ada sensor-1"]);
}

#[tokio::test]
async fn entries_are_found_by_what_people_ask_for() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let (ada, bob) = (ada(), Actor::new("bob", "192.0.2.8"));
    for (actor, action, object, outcome) in [
        (&ada, Action::UserCreate, "sensor-1", Outcome::Done),
        (&bob, Action::UserCreate, "sensor-2", Outcome::Refused),
        (&ada, Action::UserDelete, "sensor-1", Outcome::Failed),
    ] {
        let act = Act::new(actor, action, object, outcome).with("group", "plant");
        audit::record(&sql, &act).await.expect("it is written");
    }
    sql.execute(
        "INSERT INTO audit_log (at, actor, origin, action, object, outcome) VALUES (now() - interval '2 days', 'ada', '', 'user.later', 'sensor-1', 'done')",
        &[],
    )
    .await
    .expect("another version wrote it");
    let all = Filter {
        limit: 100,
        ..Filter::default()
    };
    let actions = async |filter: Filter<'_>| -> Vec<String> {
        let entries = audit::list(&sql, &filter).await.expect("they can be read");
        entries.into_iter().map(|entry| entry.action).collect()
    };
    assert_eq!(
        actions(all.clone()).await,
        ["user.later", "user.delete", "user.create", "user.create"],
        "newest first"
    );
    let day = std::time::Duration::from_secs(86_400);
    for (filter, expected) in [
        (
            Filter {
                actor: Some("bob"),
                ..all.clone()
            },
            &["user.create"][..],
        ),
        (
            Filter {
                object: Some("sensor-1"),
                ..all.clone()
            },
            &["user.later", "user.delete", "user.create"],
        ),
        (
            Filter {
                action: Some(Action::UserDelete),
                ..all.clone()
            },
            &["user.delete"],
        ),
        (
            Filter {
                since: Some(day),
                limit: 2,
                ..all.clone()
            },
            &["user.delete", "user.create"],
        ),
        (
            Filter {
                since: Some(std::time::Duration::MAX),
                limit: 1,
                ..all.clone()
            },
            &["user.later"],
        ),
        (
            Filter {
                before_id: Some(2),
                ..all.clone()
            },
            &["user.create"],
        ),
        (
            Filter {
                actor: Some("' OR true --"),
                ..all.clone()
            },
            &[],
        ),
    ] {
        assert_eq!(actions(filter.clone()).await, expected, "{filter:?}");
    }
    let entries = audit::list(&sql, &Filter { before_id: Some(2), ..all })
        .await
        .expect("they can be read");
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(
        (entry.actor.as_str(), entry.origin.as_str(), entry.outcome.as_str(), &entry.detail),
        ("ada", "192.0.2.7", "done", &json!({ "group": "plant" }))
    );
    assert!((entry.at - time::now()).abs() < 3_600_000_000, "microseconds since 1970");
}

#[tokio::test]
async fn names_that_somebody_chose_move_no_terminal() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let actor = Actor::new("ada\u{1b}[2J", "192.0.2.7\0");
    let act = Act::new(&actor, Action::UserCreate, "x\nroot\u{202e}", Outcome::Done).with("note", "\u{9b}2J");
    audit::record(&sql, &act).await.expect("whatever it is called");
    for arguments in [&["audit"][..], &["audit", "--json"]] {
        let output = trial.run(arguments);
        assert_exit(&output, 0);
        let told = out(&output);
        assert!(!told.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\0']), "{told:?}");
        assert!(told.contains("\\nroot"), "{told}");
    }
}

#[tokio::test]
async fn a_role_that_reads_dashboards_reads_neither_tokens_nor_the_audit() {
    let trial = Trial::without_schema().await;
    let sql = trial.sql().await;
    // As postgres/roles.sh has it.
    sql.batch_execute(
        "CREATE ROLE \"Grafana's\"; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO \"Grafana's\", PUBLIC",
    )
    .await
    .expect("it is ours");
    assert_exit(&trial.run(&["migrate"]), 0);
    let readable = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
                    AND has_table_privilege('Grafana''s', oid, 'SELECT') AND relname IN ('devices', 'api_tokens', 'audit_log')";
    assert_eq!(texts(&sql, readable).await, ["devices"]);
}

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
