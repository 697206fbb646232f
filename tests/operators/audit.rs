//! The audit: one with the act, found again, and not changed by anybody.

use iotflow::identity::audit::{self, Act, Action, Actor, Filter, Outcome};
use iotflow::identity::principal::Role;
use iotflow::identity::tokens::{self, CreateError};
use iotflow::protocol::time;
use serde_json::json;
use tokio_postgres::error::SqlState;

use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada, assert_exit, new_token, out};

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
                    AND has_table_privilege('Grafana''s', oid, 'SELECT') AND relname IN ('devices', 'api_tokens', 'audit_log', 'broker_users', 'ingest_sessions')";
    assert_eq!(texts(&sql, readable).await, ["devices"]);
}
