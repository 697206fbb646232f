//! Commands to groups: one publish for all, a state for each, a copy for who was away, and one sum.

use std::time::Duration;

use iotflow::devices::commands::state::State;
use iotflow::devices::commands::{cancel, dispatch, read};
use iotflow::operations::commands::{self, Order};
use iotflow::operations::devices;
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::topic::TopicTree;
use serde_json::Value;

use crate::base::Base;
use crate::device::{Device, json};
use crate::plant::{Plant, ada, group, order};
use crate::support::eventually;
use crate::support::judge::number;

async fn member(plant: &Plant, id: &str) -> Device {
    let filters = [
        format!("iotflow/devices/{id}/commands/+"),
        "iotflow/fleet/commands/north".to_owned(),
    ];
    Device::subscribed(plant.servers.mqtt_port, id, &filters).await
}

#[tokio::test]
async fn one_publish_reaches_all_and_each_has_its_own_state() {
    let mut plant = Plant::start().await;
    plant.group("north", &["a", "b", "c"]).await;
    let (mut a, mut b) = (member(&plant, "a").await, member(&plant, "b").await);
    let mut watcher = Device::subscribed(plant.servers.mqtt_port, "watcher", &["iotflow/fleet/status/north".to_owned()]).await;
    let id = plant.give(&group("north"), "ring").await;
    for device in [&mut a, &mut b] {
        device.receive(1).await;
        assert_eq!(&device.received[0].topic[..], b"iotflow/fleet/commands/north");
        assert_eq!(device.commands(), ["ring"]);
        let properties = device.received[0].properties.as_ref().expect("it has some");
        assert_eq!(properties.correlation_data.as_deref(), Some(id.as_str().as_bytes()));
    }
    a.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    b.answer(&format!(r#"{{"command_id":"{id}","status":"accepted"}}"#)).await;
    eventually("the sum says so", async || {
        let counts = plant.command(&id).await.counts;
        (counts.completed == 1 && counts.accepted == 1 && counts.sent == 1 && counts.total == 3 && counts.done == 1).then_some(())
    })
    .await;
    let told = |publish: &rumqttc::v5::mqttbytes::v5::Publish| -> Value { json(publish) };
    let mut count = 1;
    loop {
        watcher.receive(count).await;
        let last = told(watcher.received.last().expect("one came"));
        if last["completed"] == 1 && last["accepted"] == 1 {
            assert_eq!(
                (&last["command_id"], &last["group"], &last["total"], &last["done"]),
                (&id.as_str().into(), &"north".into(), &3.into(), &1.into())
            );
            break;
        }
        count = watcher.received.len() + 1;
    }
    let mut late = Device::subscribed(plant.servers.mqtt_port, "late", &["iotflow/fleet/status/north".to_owned()]).await;
    late.receive(1).await;
    assert!(late.received[0].retain, "who comes later is told as well");
    let refused = commands::cancel(&mut plant.sql, &ada(), &id).await;
    assert!(refused.is_err(), "it was sent: {refused:?}");
}

#[tokio::test]
async fn what_is_left_of_a_command_that_was_sent_to_some_comes_to_its_end() {
    let mut base = Base::start().await;
    base.sql
        .batch_execute(
            "INSERT INTO devices (device) VALUES ('c');
             INSERT INTO device_group_members (group_id, device_id) SELECT 'north', device_id FROM devices WHERE device = 'c';
             INSERT INTO device_status (device_id, status, since, seen_at) SELECT device_id, 'offline', now(), now() FROM devices WHERE device = 'a'",
        )
        .await
        .expect("they are new");
    let id = base.ring().await;
    let taken = dispatch::take(&base.sql, &[1]).await.expect("it is due");
    dispatch::sent(&base.sql, &[taken.dispatches[0].seq]).await.expect("it is there");
    // a gets a copy some time, b and c have it.
    assert_eq!(commands::cancel(&mut base.sql, &ada(), &id).await.expect("a has not"), 1);
    let tree = TopicTree::new("iotflow").expect("a base topic");
    let b = DeviceIdRef::parse("b").expect("an id").to_owned();
    devices::delete(&mut base.sql, &ada(), &tree, &b, None).await.expect("it is there");
    let counts = read::get(&base.sql, &id)
        .await
        .expect("it can be read")
        .expect("it is there")
        .counts;
    assert_eq!((counts.cancelled, counts.sent, counts.total), (2, 1, 3));
    base.sql
        .execute("UPDATE command_deliveries SET expires_at = now()", &[])
        .await
        .expect("they are there");
    assert_eq!(cancel::expire(&base.sql).await.expect("it can be done"), 1);
    let counts = read::get(&base.sql, &id)
        .await
        .expect("it can be read")
        .expect("it is there")
        .counts;
    assert!(counts.is_done() && counts.expired == 1, "{counts:?}");
}

#[tokio::test]
async fn at_qos_0_it_is_sent_to_all_and_who_was_away_gets_a_copy() {
    let mut plant = Plant::start().await;
    plant.group("north", &["a", "b"]).await;
    let (mut a, mut b) = (member(&plant, "a").await, plant.device("b").await);
    b.status("offline").await;
    plant.until_status("b", "offline").await;
    let at_most_once = Order { qos: 0, ..order("ring") };
    let id = plant.send(&group("north"), &at_most_once).await.expect("a sound order").command_id;
    a.receive(1).await;
    assert_eq!(&a.received[0].topic[..], b"iotflow/fleet/commands/north");
    eventually("one has it, one is waited for", async || {
        let counts = plant.command(&id).await.counts;
        (counts.sent == 1 && counts.queued == 1).then_some(())
    })
    .await;
    b.status("online").await;
    b.receive(1).await;
    assert_eq!(&b.received[0].topic[..], b"iotflow/devices/b/commands/control");
    eventually("both have it", async || (plant.command(&id).await.counts.sent == 2).then_some(())).await;
}

#[tokio::test]
async fn who_was_away_gets_a_copy_unless_its_session_had_it() {
    let mut plant = Plant::start().await;
    plant.group("north", &["a", "b"]).await;
    // a keeps a session that brings it the group's; b only ever had its own topic.
    let mut a = member(&plant, "a").await;
    let mut b = plant.device("b").await;
    for device in [&mut a, &mut b] {
        device.status("offline").await;
    }
    for id in ["a", "b"] {
        plant.until_status(id, "offline").await;
    }
    a.leave().await;
    let id = plant.give(&group("north"), "ring").await;
    eventually("both are held", async || {
        (number(&plant.sql, "SELECT count(*) FROM command_deliveries WHERE held AND NOT by_group").await == 2).then_some(())
    })
    .await;
    let mut a = member(&plant, "a").await;
    a.receive(1).await;
    a.status("online").await;
    a.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    b.status("online").await;
    b.receive(1).await;
    assert_eq!(&b.received[0].topic[..], b"iotflow/devices/b/commands/control");
    assert_eq!(json(&b.received[0])["command_id"], id.as_str());
    b.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    eventually("all are done", async || plant.command(&id).await.counts.is_done().then_some(())).await;
    a.listen(Duration::from_millis(300)).await;
    assert_eq!(a.commands(), ["ring"], "no copy beside the group's");
    let deliveries = read::deliveries(&plant.sql, &id, Some(State::Completed), 0, 10)
        .await
        .expect("they can be read");
    assert_eq!(deliveries.len(), 2);
}
