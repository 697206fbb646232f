//! Groups: lists that people keep, and those that follow from tags and types.

use iotflow::devices::groups::{self, Description, GroupError, Patch};
use iotflow::devices::label::Tag;
use iotflow::devices::patch::Patch as DevicePatch;
use iotflow::operations::devices::{self, DeviceError, Registration};
use iotflow::operations::groups as operations;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::registry::{description, group, id, plain, register, tree};
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

async fn members(sql: &Client, of: &str) -> Vec<String> {
    groups::members(sql, &group(of), None, 100).await.expect("it is there").items
}

fn patch(value: &Value) -> Patch {
    Patch::parse(value).expect("a patch")
}

#[tokio::test]
async fn a_list_has_the_members_that_it_was_given() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for device in ["a", "b", "c"] {
        register(&mut sql, &plain(device)).await;
    }
    let made = operations::create(&mut sql, &ada(), &group("north"), &Description::default())
        .await
        .expect("it is made");
    assert!(!made.dynamic && made.members == 0);
    let twice = operations::create(&mut sql, &ada(), &group("north"), &Description::default()).await;
    assert!(matches!(twice, Err(GroupError::Exists(_))));

    let all = [id("a"), id("b"), id("c"), id("a")];
    assert_eq!(
        operations::add(&mut sql, &ada(), &group("north"), &all).await.expect("they join"),
        3
    );
    assert_eq!(
        operations::add(&mut sql, &ada(), &group("north"), &all).await.expect("they are in"),
        0
    );
    let unknown = operations::add(&mut sql, &ada(), &group("north"), &[id("a"), id("x"), id("y")]).await;
    assert_eq!(
        unknown.expect_err("two are unknown").to_string(),
        "there is no device x, nor y; nothing was changed"
    );
    let page = groups::members(&sql, &group("north"), None, 2).await.expect("a page");
    assert_eq!(
        (page.items.as_slice(), page.next.as_deref()),
        (&["a".to_owned(), "b".to_owned()][..], Some("b"))
    );
    let page = groups::members(&sql, &group("north"), Some("b"), 2).await.expect("a page");
    assert_eq!((page.items.as_slice(), page.next), (&["c".to_owned()][..], None));
    assert_eq!(
        operations::remove(&mut sql, &ada(), &group("north"), &[id("a")])
            .await
            .expect("it leaves"),
        1
    );
    assert_eq!(members(&sql, "north").await, ["b", "c"]);
    assert!(matches!(
        groups::members(&sql, &group("south"), None, 2).await,
        Err(GroupError::Unknown(_))
    ));

    let late = operations::delete(&mut sql, &ada(), &tree(), &group("north"), Some(7)).await;
    assert!(matches!(late, Err(GroupError::Revision { .. })));
    operations::delete(&mut sql, &ada(), &tree(), &group("north"), Some(1))
        .await
        .expect("it is deleted");
    assert_eq!(
        texts(&sql, "SELECT topic FROM outbox WHERE retain AND payload = ''").await,
        ["iotflow/fleet/status/north"]
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM device_group_members").await, 0);
    assert_eq!(
        texts(&sql, "SELECT action FROM audit_log WHERE object = 'north' ORDER BY id").await,
        ["group.create", "group.add", "group.add", "group.remove", "group.delete"]
    );
}

#[tokio::test]
async fn members_of_a_dynamic_group_follow_from_their_tags_and_types_and_from_nothing_else() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let tagged = |device: &str, kind: &str, tags: &[&str]| Registration {
        description: description("", kind, tags, json!({})),
        ..plain(device)
    };
    register(&mut sql, &tagged("a", "meter", &["red"])).await;
    register(&mut sql, &tagged("b", "pump", &["red", "hot"])).await;
    register(&mut sql, &tagged("c", "meter", &[])).await;
    let red = Description {
        match_tag: Some(Tag::parse("red").expect("a tag")),
        ..Description::default()
    };
    let made = operations::create(&mut sql, &ada(), &group("reds"), &red)
        .await
        .expect("it is made");
    assert!(made.dynamic && made.members == 2);
    register(&mut sql, &tagged("d", "meter", &["red"])).await;
    assert_eq!(members(&sql, "reds").await, ["a", "b", "d"]);

    let retag = DevicePatch::parse(&json!({"tags": ["blue"]})).expect("a patch");
    devices::update(&mut sql, &ada(), &id("a"), &retag, None)
        .await
        .expect("it is changed");
    assert_eq!(members(&sql, "reds").await, ["b", "d"]);
    let narrow = patch(&json!({"match_type": "meter", "name": "red meters"}));
    let group_now = operations::update(&mut sql, &ada(), &group("reds"), &narrow, Some(1))
        .await
        .expect("it is changed");
    assert_eq!(
        (group_now.members, group_now.revision, group_now.name.as_deref()),
        (1, 2, Some("red meters"))
    );
    assert_eq!(members(&sql, "reds").await, ["d"]);

    let added = operations::add(&mut sql, &ada(), &group("reds"), &[id("c")]).await;
    assert!(
        added
            .expect_err("nobody chooses them")
            .to_string()
            .contains("follow from its tag or type")
    );
    let joined = devices::register(
        &mut sql,
        &ada(),
        &Registration {
            groups: vec![group("reds")],
            ..plain("e")
        },
    )
    .await;
    assert!(matches!(joined, Err(DeviceError::Group(GroupError::Dynamic(_)))));
    assert_eq!(
        number(&sql, "SELECT count(*) FROM devices WHERE device = 'e'").await,
        0,
        "all of it or nothing"
    );
    devices::delete(&mut sql, &ada(), &tree(), &id("d"), None)
        .await
        .expect("it is deleted");
    assert!(members(&sql, "reds").await.is_empty());

    // What was dynamic becomes a list that keeps those it has.
    devices::update(
        &mut sql,
        &ada(),
        &id("c"),
        &DevicePatch::parse(&json!({"tags": ["red"]})).expect("a patch"),
        None,
    )
    .await
    .expect("it is changed");
    let list = patch(&json!({"match_tag": null, "match_type": null}));
    let list = operations::update(&mut sql, &ada(), &group("reds"), &list, None)
        .await
        .expect("it is changed");
    assert!(!list.dynamic && list.members == 1);
    operations::add(&mut sql, &ada(), &group("reds"), &[id("a")])
        .await
        .expect("it is a list now");
    assert_eq!(members(&sql, "reds").await, ["a", "c"]);
}

#[tokio::test]
async fn telemetry_that_registers_a_device_moves_nothing_at_the_broker() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let version = "SELECT version FROM broker_access";
    let before = number(&sql, version).await;
    sql.execute("INSERT INTO devices (device) VALUES ('by-telemetry')", &[])
        .await
        .expect("it is ours");
    register(
        &mut sql,
        &Registration {
            description: description("", "meter", &["red"], json!({})),
            ..plain("a")
        },
    )
    .await;
    assert_eq!(number(&sql, version).await, before, "there is no dynamic group that it could join");
}
