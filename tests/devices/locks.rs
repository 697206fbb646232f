//! Who waits for whom: acts on the same devices and groups at the same time, each to its end, and with what both left.

use iotflow::devices::groups::{self, Description};
use iotflow::devices::label::Tag;
use iotflow::devices::patch::Patch;
use iotflow::identity::users;
use iotflow::operations::devices::{self, Registration};
use iotflow::operations::groups as operations;
use iotflow::protocol::id::Username;
use iotflow::protocol::rights::Role;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::registry::{group, id, plain, register, tree};
use crate::support::eventually;
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

fn tagged(tag: &str) -> Description {
    Description {
        match_tag: Some(Tag::parse(tag).expect("a tag")),
        ..Description::default()
    }
}

fn retag(tags: &[&str]) -> Patch {
    Patch::parse(&json!({ "tags": tags })).expect("a patch")
}

/// Waits until the other act waits for a lock, or has ended because it need not wait.
async fn until_it_waits<T>(watcher: &Client, act: &JoinHandle<T>) {
    eventually("the other act waits, or has ended", async || {
        let waiting = number(watcher, "SELECT count(*) FROM pg_locks WHERE NOT granted").await;
        (waiting > 0 || act.is_finished()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_registers_into_groups_and_who_adds_to_one_of_them_do_not_wait_for_each_other() {
    let trial = Trial::start().await;
    let (mut one, mut other, watcher) = (trial.sql().await, trial.sql().await, trial.sql().await);
    register(&mut one, &plain("x")).await;
    for list in ["a", "b"] {
        operations::create(&mut one, &ada(), &group(list), &Description::default())
            .await
            .expect("it is made");
    }
    let adds = one.transaction().await.expect("it begins");
    groups::lock(&adds, &group("b"), None).await.expect("it is there");
    let registers = tokio::spawn(async move {
        let wanted = Registration {
            groups: vec![group("a"), group("b")],
            ..plain("y")
        };
        devices::register(&mut other, &ada(), &wanted).await
    });
    until_it_waits(&watcher, &registers).await;
    groups::set_members(&adds, &group("b"), &[id("x")], true).await.expect("it joins");
    adds.commit().await.expect("it ends");
    let made = registers.await.expect("no panic").expect("it is registered");
    assert_eq!(made.device.groups, ["a", "b"]);
}

#[tokio::test]
async fn a_device_that_changes_and_a_group_that_does_leave_the_members_that_fit_both() {
    let trial = Trial::start().await;
    let (mut one, mut other, watcher) = (trial.sql().await, trial.sql().await, trial.sql().await);
    for device in ["a", "b"] {
        register(&mut one, &plain(device)).await;
    }
    // The first dynamic group that there is, not committed when the device gets its tag.
    let makes = one.transaction().await.expect("it begins");
    groups::create(&makes, &group("reds"), &tagged("red")).await.expect("it is made");
    let changes = tokio::spawn(async move {
        devices::update(&mut other, &ada(), &id("a"), &retag(&["red"]), None)
            .await
            .expect("it is changed");
        other
    });
    until_it_waits(&watcher, &changes).await;
    makes.commit().await.expect("it ends");
    let mut other = changes.await.expect("no panic");
    let members = "SELECT device FROM device_group_members JOIN devices USING (device_id) WHERE group_id = 'reds' ORDER BY 1";
    assert_eq!(texts(&watcher, members).await, ["a"]);

    // A device comes in while the group is held, and goes on to look for another tag.
    let narrows = one.transaction().await.expect("it begins");
    groups::lock(&narrows, &group("reds"), None).await.expect("it is there");
    let changes = tokio::spawn(async move {
        let done = devices::update(&mut other, &ada(), &id("b"), &retag(&["red", "blue"]), None).await;
        done.expect("it is changed");
        other
    });
    until_it_waits(&watcher, &changes).await;
    let blue = groups::Patch::parse(&json!({"match_tag": "blue"})).expect("a patch");
    groups::patch(&narrows, &group("reds"), &blue, None).await.expect("it is changed");
    narrows.commit().await.expect("it ends");
    let mut other = changes.await.expect("no panic");
    assert_eq!(texts(&watcher, members).await, ["b"]);

    // And while the group is being deleted.
    let deletes = one.transaction().await.expect("it begins");
    groups::lock(&deletes, &group("reds"), None).await.expect("it is there");
    let changes = tokio::spawn(async move {
        devices::update(&mut other, &ada(), &id("a"), &retag(&["blue"]), None)
            .await
            .expect("it is changed")
    });
    until_it_waits(&watcher, &changes).await;
    groups::delete(&deletes, &group("reds")).await.expect("it is deleted");
    deletes.commit().await.expect("it ends");
    changes.await.expect("no panic");
    assert!(texts(&watcher, members).await.is_empty());
}

#[tokio::test]
async fn a_device_is_deleted_while_somebody_else_is_at_its_user_and_its_groups() {
    let trial = Trial::start().await;
    let (mut one, mut other, watcher) = (trial.sql().await, trial.sql().await, trial.sql().await);
    let wanted = Registration {
        groups: vec![group("north")],
        ..plain("a")
    };
    register(&mut one, &wanted).await;
    users::create(&one, &Username::parse("a").expect("a name"), Role::Device, None)
        .await
        .expect("it is made");
    register(&mut one, &plain("b")).await;
    let works = one.transaction().await.expect("it begins");
    groups::set_members(&works, &group("north"), &[id("b")], true)
        .await
        .expect("it joins");
    let deletes = tokio::spawn(async move { devices::delete(&mut other, &ada(), &tree(), &id("a"), None).await });
    until_it_waits(&watcher, &deletes).await;
    groups::set_members(&works, &group("north"), &[id("a")], false)
        .await
        .expect("it leaves");
    users::set_disabled(&works, &Username::parse("a").expect("a name"), true)
        .await
        .expect("it is there");
    works.commit().await.expect("it ends");
    deletes.await.expect("no panic").expect("it is deleted");
    assert_eq!(number(&watcher, "SELECT count(*) FROM broker_users").await, 0);
}
