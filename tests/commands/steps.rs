//! Every step of the conversation with the broker, and the courier killed in between.

use std::time::Duration;

use iotflow::operations::commands::Order;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubComp, PubRec, PubRecReason, Publish};
use tokio::time::timeout;

use crate::plant::{group, order};
use crate::stage::{Stage, publish, released, silent, take};
use crate::support::PATIENCE;
use crate::support::fake_broker::Peer;
use crate::support::judge::{number, texts, until_number};
use crate::support::servers::connect;

#[tokio::test]
async fn a_publish_without_an_answer_is_said_again_under_its_id() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    stage.give("second").await;
    let (first, second) = (publish(&mut peer).await, publish(&mut peer).await);
    assert!(!first.dup && first.pkid != second.pkid);
    let mut peer = stage.enter(true).await;
    for known in [&first, &second] {
        let again = publish(&mut peer).await;
        assert!(again.dup);
        assert_eq!(
            (again.pkid, &again.payload, &again.topic),
            (known.pkid, &known.payload, &known.topic)
        );
    }
    for packet_id in [first.pkid, second.pkid] {
        peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
        released(&mut peer, packet_id).await;
    }
    stage.until("sent", true).await;
    for packet_id in [first.pkid, second.pkid] {
        peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    }
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

#[tokio::test]
async fn what_the_broker_has_is_released_again_and_not_published() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let packet_id = publish(&mut peer).await.pkid;
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    released(&mut peer, packet_id).await;
    let mut peer = stage.enter(true).await;
    released(&mut peer, packet_id).await;
    silent(&mut peer).await;
    // Even by a broker that says it twice.
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    released(&mut peer, packet_id).await;
    peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    stage.until("sent", false).await;
}

#[tokio::test]
async fn with_the_session_gone_only_what_it_had_not_is_published_anew() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("taken").await;
    let taken = publish(&mut peer).await;
    peer.send(Packet::PubRec(PubRec::new(taken.pkid, None))).await;
    released(&mut peer, taken.pkid).await;
    stage.give("lost").await;
    let lost = publish(&mut peer).await;
    let mut peer = stage.enter(false).await;
    let anew = publish(&mut peer).await;
    assert_eq!((anew.dup, &anew.payload), (false, &lost.payload));
    peer.send(Packet::PubRec(PubRec::new(anew.pkid, None))).await;
    released(&mut peer, anew.pkid).await;
    peer.send(Packet::PubComp(PubComp::new(anew.pkid, None))).await;
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

#[tokio::test]
async fn nothing_is_said_before_it_is_written() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    let id = stage.give("first").await;
    let packet_id = publish(&mut peer).await.pkid;
    let mut other = connect(stage.db.url.reveal()).await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("SELECT FROM command_deliveries FOR UPDATE", &[])
        .await
        .expect("it is there");
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    silent(&mut peer).await;
    lock.rollback().await.expect("it can be given back");
    released(&mut peer, packet_id).await;
    peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    stage.until("sent", false).await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("SELECT FROM command_deliveries FOR UPDATE", &[])
        .await
        .expect("it is there");
    let answer = format!(r#"{{"command_id":"{id}","status":"completed"}}"#);
    peer.deliver(9, "iotflow/devices/pump/commands/response", &answer).await;
    silent(&mut peer).await;
    lock.rollback().await.expect("it can be given back");
    assert_eq!(peer.next().await, Some(Packet::PubAck(PubAck::new(9, None))));
    assert_eq!(texts(&stage.sql, "SELECT state FROM command_deliveries").await, ["completed"]);
}

#[tokio::test]
async fn a_refusal_ends_a_command_with_the_brokers_words() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let mut refusal = PubRec::new(publish(&mut peer).await.pkid, None);
    refusal.reason = PubRecReason::NotAuthorized;
    peer.send(Packet::PubRec(refusal)).await;
    stage.until("failed", false).await;
    let words = texts(&stage.sql, "SELECT message FROM command_deliveries").await;
    assert_eq!(words, ["the broker refused it: 0x87 (not authorized)"]);
    silent(&mut peer).await;
}

#[tokio::test]
async fn a_letter_goes_when_the_broker_has_acked_it_and_not_before() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage
        .sql
        .batch_execute("INSERT INTO outbox (topic, payload, retain) VALUES ('iotflow/a', 'one', true), ('iotflow/a', 'two', true)")
        .await
        .expect("they are sound");
    for expected in [&b"one"[..], b"two"] {
        let letter = publish(&mut peer).await;
        assert_eq!((&letter.payload[..], letter.retain), (expected, true));
    }
    let mut peer = stage.enter(true).await;
    for expected in [&b"one"[..], b"two"] {
        let letter = publish(&mut peer).await;
        assert_eq!(&letter.payload[..], expected, "again, in order");
        peer.send(Packet::PubAck(PubAck::new(letter.pkid, None))).await;
    }
    until_number(&stage.sql, "SELECT count(*) FROM outbox", 0).await;
    silent(&mut peer).await;
}

/// What another began and forgot takes up a place of the broker's window, until it is ended.
#[tokio::test]
async fn a_packet_that_nobody_knows_of_any_more_is_ended_and_the_command_goes_under_another() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let orphan = publish(&mut peer).await.pkid;
    stage.kill().await;
    stage.sql.batch_execute("DELETE FROM commands").await.expect("it is ours");
    stage.give("second").await;
    let mut peer = stage.enter(true).await;
    assert_eq!(publish(&mut peer).await.pkid, orphan, "ids are given out from the first on");
    let mut refusal = PubRec::new(orphan, None);
    refusal.reason = PubRecReason::PacketIdentifierInUse;
    peer.send(Packet::PubRec(refusal)).await;
    released(&mut peer, orphan).await;
    // Said again later, and not under an id of which the broker has not said that it is free.
    let said = publish(&mut peer).await;
    assert_ne!(said.pkid, orphan);
    peer.send(Packet::PubComp(PubComp::new(orphan, None))).await;
    peer.send(Packet::PubRec(PubRec::new(said.pkid, None))).await;
    released(&mut peer, said.pkid).await;
    peer.send(Packet::PubComp(PubComp::new(said.pkid, None))).await;
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

/// Some brokers say so where others say success.
#[tokio::test]
async fn a_packet_that_the_broker_has_from_before_is_not_published_under_another() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let packet_id = publish(&mut peer).await.pkid;
    let mut peer = stage.enter(true).await;
    assert!(publish(&mut peer).await.dup);
    let mut had = PubRec::new(packet_id, None);
    had.reason = PubRecReason::PacketIdentifierInUse;
    peer.send(Packet::PubRec(had)).await;
    released(&mut peer, packet_id).await;
    peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

#[tokio::test]
async fn a_device_whose_row_is_gone_holds_up_nobody() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("begun").await;
    let begun = publish(&mut peer).await.pkid;
    stage.kill().await;
    stage.give("waits").await;
    stage
        .sql
        .batch_execute("DELETE FROM devices; INSERT INTO devices (device) VALUES ('pump')")
        .await
        .expect("nothing refers to it");
    stage.give("next").await;
    let mut peer = stage.enter(true).await;
    released(&mut peer, begun).await;
    peer.send(Packet::PubComp(PubComp::new(begun, None))).await;
    let next = publish(&mut peer).await;
    assert!(next.payload.windows(6).any(|bytes| bytes == b"\"next\""));
    peer.send(Packet::PubRec(PubRec::new(next.pkid, None))).await;
    released(&mut peer, next.pkid).await;
    peer.send(Packet::PubComp(PubComp::new(next.pkid, None))).await;
    until_number(&stage.sql, "SELECT count(*) FROM command_deliveries WHERE packet_id IS NOT NULL", 0).await;
    let fates = "SELECT state || coalesce(': ' || message, '') FROM command_deliveries ORDER BY seq";
    let lost = "failed: its device is no more";
    assert_eq!(texts(&stage.sql, fates).await, [lost, lost, "sent"]);
    silent(&mut peer).await;
}

/// The next publish to the group, and none where nothing is said for a while. What is told of the group is taken on the way.
async fn to_group(peer: &mut Peer) -> Option<Publish> {
    while let Ok(packet) = timeout(Duration::from_millis(500), peer.next()).await {
        match packet.expect("it is connected") {
            Packet::Publish(publish) if &publish.topic[..] == b"iotflow/fleet/commands/north" => return Some(publish),
            other => take(peer, &other).await,
        }
    }
    None
}

/// At most once: it is noted, and then said; to the group as to its members.
#[tokio::test]
async fn a_fleets_command_at_qos_0_is_noted_before_it_is_said() {
    let mut stage = Stage::set().await;
    stage
        .sql
        .batch_execute(
            "INSERT INTO device_groups (group_id) VALUES ('north');
             INSERT INTO device_group_members (group_id, device_id) SELECT 'north', device_id FROM devices",
        )
        .await
        .expect("they are new");
    let mut peer = stage.enter(false).await;
    // Its member's row cannot be written meanwhile.
    stage
        .sql
        .batch_execute(
            "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END';
             CREATE TRIGGER waits BEFORE UPDATE ON command_deliveries FOR EACH ROW WHEN (NEW.by_group) EXECUTE FUNCTION waits()",
        )
        .await
        .expect("there is none");
    let lock = connect(stage.db.url.reveal()).await;
    lock.batch_execute("SELECT pg_advisory_lock(7)")
        .await
        .expect("nobody else holds it");
    let at_most_once = Order { qos: 0, ..order("ring") };
    stage.send(&group("north"), &at_most_once).await;
    until_number(&stage.sql, "SELECT count(*) FROM command_deliveries WHERE packet_id IS NOT NULL", 1).await;
    assert_eq!(to_group(&mut peer).await, None, "before it is noted");
    stage.kill().await;
    lock.batch_execute("SELECT pg_advisory_unlock(7)").await.expect("it is ours");
    assert_eq!(
        number(&stage.sql, "SELECT count(*) FROM command_deliveries WHERE state = 'queued'").await,
        2
    );
    let mut peer = stage.enter(true).await;
    let due = async {
        loop {
            if let Some(publish) = to_group(&mut peer).await {
                return publish;
            }
        }
    };
    let said = timeout(PATIENCE, due).await.expect("it is due again");
    assert_eq!((said.qos, said.dup), (QoS::AtMostOnce, false));
    stage.until("sent", false).await;
    let mut peer = stage.enter(true).await;
    assert_eq!(to_group(&mut peer).await, None, "a second time");
}
