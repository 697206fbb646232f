//! Commands, letters and answers share one connection: a flood of the one holds none of the others up.

use iotflow::courier::session::Config;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, PubAck, PubComp, PubRec};
use tokio::time::timeout;

use crate::plant::Plant;
use crate::stage::{Stage, publish, released, take};
use crate::support::PATIENCE;
use crate::support::eventually;
use crate::support::fake_broker::{Peer, connack_properties};
use crate::support::judge::{number, until_number};

fn window(receive_maximum: u16) -> ConnAckProperties {
    ConnAckProperties {
        receive_max: Some(receive_maximum),
        ..connack_properties()
    }
}

const COMMANDS: usize = 300;
const LETTERS: usize = 300;

/// Commands for a device, and as many letters, all at once.
async fn give(stage: &Stage, commands: usize, letters: usize) {
    stage
        .sql
        .batch_execute(&format!(
            "BEGIN;
             INSERT INTO commands (command_id, command_type, command, created_by, expires_at)
                 SELECT 'c-' || number, 'control', 'ring', 'ada', now() + interval '1 hour' FROM generate_series(1, {commands}) AS number;
             INSERT INTO command_deliveries (command_id, device_id, expires_at)
                 SELECT command_id, device_id, commands.expires_at FROM commands, devices;
             INSERT INTO outbox (topic, payload) SELECT 'iotflow/letter', 'x' FROM generate_series(1, {letters});
             COMMIT"
        ))
        .await
        .expect("they are sound");
}

/// Takes publishes as a broker does until all have come; says of each whether it was a letter. No more are ever under way than may be.
async fn take_all(peer: &mut Peer, count: usize, window: usize) -> Vec<bool> {
    let (mut kinds, mut under_way) = (Vec::new(), 0);
    while kinds.len() < count || under_way > 0 {
        let packet = timeout(PATIENCE, peer.next()).await.expect("more is due").expect("it is connected");
        match &packet {
            Packet::Publish(publish) => {
                let letter = publish.topic.starts_with(b"iotflow/letter");
                kinds.push(letter);
                under_way += usize::from(!letter);
                assert!(under_way + usize::from(letter) <= window, "the broker would end the connection");
            }
            Packet::PubRel(_) => under_way -= 1,
            _ => {}
        }
        take(peer, &packet).await;
    }
    kinds
}

/// How many of the other kind came before the first of this one.
fn before_the_first(kinds: &[bool], letter: bool) -> usize {
    kinds.iter().position(|kind| *kind == letter).expect("one came")
}

#[tokio::test]
async fn neither_commands_nor_letters_starve_however_small_the_window_is() {
    for size in [1, 2, 20] {
        let mut stage = Stage::set().await;
        stage.properties = Some(window(size));
        give(&stage, COMMANDS, LETTERS).await;
        let mut peer = stage.enter(false).await;
        let kinds = take_all(&mut peer, COMMANDS + LETTERS, usize::from(size)).await;
        for letter in [false, true] {
            let waited = before_the_first(&kinds, letter);
            assert!(
                waited <= 2 * usize::from(size),
                "window {size}: {waited} before the first (letter: {letter})"
            );
        }
        // All along, and not at the beginning alone.
        let (first_half, letters) = kinds.split_at(COMMANDS);
        let early = first_half.iter().filter(|letter| **letter).count();
        assert!(early >= COMMANDS / 20, "window {size}: {early} letters among the first {COMMANDS}");
        assert!(letters.iter().any(|letter| *letter) || early == LETTERS);
        until_number(&stage.sql, "SELECT count(*) FROM outbox", 0).await;
        stage.until("sent", false).await;
    }
}

#[tokio::test]
async fn a_command_goes_out_and_is_answered_while_devices_never_fall_silent() {
    let mut stage = Stage::set().await;
    // Nobody is limited: it is the round that shares its time.
    stage.config = Config {
        device_rate: 0,
        device_burst: 0,
    };
    let mut peer = stage.enter(false).await;
    peer.flood(
        "iotflow/devices/noisy/commands/response",
        r#"{"command_id":"stray","status":"completed"}"#,
    );
    until_some(&stage, "SELECT count(*) FROM dead_letters").await;
    let id = stage.give("open").await;
    let conversation = async {
        let packet_id = publish(&mut peer).await.pkid;
        peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
        released(&mut peer, packet_id).await;
        peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
        let answer = format!(r#"{{"command_id":"{id}","status":"completed"}}"#);
        peer.deliver(9, "iotflow/devices/pump/commands/response", &answer).await;
        assert_eq!(peer.next().await, Some(Packet::PubAck(PubAck::new(9, None))));
    };
    timeout(PATIENCE, conversation).await.expect("the flood does not hold it up");
    stage.until("completed", false).await;
}

async fn until_some(stage: &Stage, query: &str) {
    eventually(query, async || (number(&stage.sql, query).await > 0).then_some(())).await;
}

#[tokio::test]
async fn what_a_device_says_above_its_rate_is_dropped_and_counted_and_anothers_command_completes() {
    const SAID: u32 = 300;
    let mut plant = Plant::with(&[("COURIER_DEVICE_RATE", "1"), ("COURIER_DEVICE_BURST", "20")]).await;
    plant.register(&["pump", "noisy"]).await;
    let (mut pump, mut noisy) = (plant.device("pump").await, plant.device("noisy").await);
    let id = plant.give(&crate::plant::device("pump"), "open").await;
    for number in 0..SAID {
        match number % 3 {
            0 => noisy.say("iotflow/devices/noisy/config/reported", "[]").await,
            _ => {
                noisy
                    .answer(&format!(r#"{{"command_id":"stray-{number}","status":"completed"}}"#))
                    .await
            }
        }
    }
    pump.receive(1).await;
    pump.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    plant.until(&id, iotflow::devices::commands::state::State::Completed).await;
    let dropped = eventually("each has its outcome", async || {
        let series = plant.service.series().await;
        let of = |outcome: &str| {
            series
                .get(&format!("iotflow_courier_answers_total{{outcome=\"{outcome}\"}}"))
                .copied()
        };
        let (refused, dropped) = (of("refused")?, of("rate_limited")?);
        (refused + dropped > f64::from(SAID) - 0.5).then_some(dropped)
    })
    .await;
    assert!(dropped > 0.5, "the rate was not reached");
    let letters = u32::try_from(number(&plant.sql, "SELECT count(*) FROM dead_letters").await).expect("a few");
    assert!(
        (f64::from(SAID - letters) - dropped).abs() < 0.1,
        "{letters} dead letters, {dropped} dropped"
    );
}
