//! What a backup of the broker has of devices and groups, and what a restore makes of it.

use iotflow::devices::export;
use iotflow::devices::groups::{self, Description};
use iotflow::devices::label::Tag;
use iotflow::operations::devices::{self as operations, Registration};
use iotflow::operations::groups as group_operations;
use serde_json::json;

use crate::registry::{description, group, id, plain, register, tree};
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

#[tokio::test]
async fn names_tags_and_dynamic_groups_come_back_as_they_were() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let described = Registration {
        description: description("Bob's sensor", "meter", &["red", "Ünit;7"], json!({"a": {"b": 1}})),
        groups: vec![group("north")],
        ..plain("a")
    };
    register(&mut sql, &described).await;
    register(&mut sql, &plain("telemetry-only")).await;
    let reds = Description {
        match_tag: Some(Tag::parse("red").expect("a tag")),
        ..Description::default()
    };
    group_operations::create(&mut sql, &ada(), &group("reds"), &reds)
        .await
        .expect("it is made");
    let devices = export::read_devices(&sql).await.expect("they are read");
    let of_groups = export::read_groups(&sql).await.expect("they are read");
    assert_eq!((devices.len(), of_groups.len()), (1, 2));

    // Here the device was deleted, the list has others, and the dynamic group is a list; elsewhere there is nothing.
    operations::delete(&mut sql, &ada(), &tree(), &id("a"), None)
        .await
        .expect("it is deleted");
    sql.batch_execute("UPDATE device_groups SET match_tag = NULL; INSERT INTO device_group_members SELECT 'north', device_id FROM devices WHERE device <> 'a'")
        .await
        .expect("sound statements");
    let other = Trial::start().await;
    for mut place in [sql, other.sql().await] {
        let transaction = place.transaction().await.expect("it begins");
        export::replace(&transaction, &devices, &of_groups).await.expect("it is restored");
        transaction.commit().await.expect("it ends");
        assert_eq!(export::read_devices(&place).await.expect("they are read"), devices);
        assert_eq!(export::read_groups(&place).await.expect("they are read"), of_groups);
        assert_eq!(
            texts(&place, "SELECT unnest(tags) FROM devices WHERE device = 'a'").await,
            ["red", "Ünit;7"]
        );
        register(
            &mut place,
            &Registration {
                description: description("", "", &["red"], json!({})),
                ..plain("b")
            },
        )
        .await;
        let members = groups::members(&place, &group("reds"), None, 10).await.expect("it is there");
        assert_eq!(members.items, ["a", "b"], "it is dynamic again");
    }
}

#[tokio::test]
async fn whoever_was_shut_out_is_so_after_a_restore_and_nobody_else_is() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for device in ["disabled", "deleted", "fine"] {
        let described = Registration {
            description: description("x", "", &[], json!({})),
            ..plain(device)
        };
        register(&mut sql, &described).await;
    }
    operations::set_enabled(&mut sql, &ada(), &id("disabled"), false)
        .await
        .expect("it is shut out");
    operations::delete(&mut sql, &ada(), &tree(), &id("deleted"), None)
        .await
        .expect("it is deleted");
    let devices = export::read_devices(&sql).await.expect("they are read");
    // Here it is the other way round; elsewhere there is nothing.
    operations::set_enabled(&mut sql, &ada(), &id("disabled"), true)
        .await
        .expect("it is let in");
    operations::delete(&mut sql, &ada(), &tree(), &id("fine"), None)
        .await
        .expect("it is deleted");
    let other = Trial::start().await;
    for place in [sql, other.sql().await] {
        export::replace(&place, &devices, &[]).await.expect("it is restored");
        assert_eq!(export::read_devices(&place).await.expect("they are read"), devices);
        assert_eq!(
            texts(
                &place,
                "SELECT device || disabled FROM devices WHERE shut_out_at IS NOT NULL ORDER BY 1"
            )
            .await,
            ["deletedfalse", "disabledtrue"]
        );
        assert_eq!(
            texts(&place, "SELECT device FROM devices WHERE deleted_at IS NOT NULL").await,
            ["deleted"]
        );
    }
}

#[tokio::test]
async fn an_export_of_before_leaves_what_people_say_as_it_is() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    register(
        &mut sql,
        &Registration {
            description: description("Bob's", "", &[], json!({})),
            groups: vec![group("north")],
            ..plain("a")
        },
    )
    .await;
    let mut devices = export::read_devices(&sql).await.expect("they are read");
    devices[0].description = None;
    export::replace(&sql, &devices, &[]).await.expect("it is restored");
    assert_eq!(texts(&sql, "SELECT display_name FROM devices").await, ["Bob's"]);
    assert_eq!(number(&sql, "SELECT count(*) FROM device_groups").await, 0);
}
