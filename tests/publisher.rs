//! What only has to be said: every message has the broker's own answer, whatever becomes of the broker.

mod support;

use std::time::Duration;

use iotflow::lifecycle::readiness::Readiness;
use iotflow::lifecycle::tasks::Tasks;
use iotflow::mqtt::config::Config;
use iotflow::mqtt::publish::{Message, Properties, PublishError, QoS, ReasonCode};
use iotflow::mqtt::publisher::{Answer, Failure, Handle, Publisher};
use iotflow::observe::metrics::Metrics;
use nix::sys::signal::Signal;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, PubAck, PubComp, PubRec, PubRel};

use support::fake_broker::{FakeBroker, Peer, connack_properties};
use support::person::{Person, login};
use support::servers::{PASSWORD, SERVICE, Servers};
use support::{PATIENCE, eventually};

fn publisher(config: &Config) -> (Handle, Tasks, Readiness) {
    let (tasks, readiness, metrics) = (Tasks::default(), Readiness::default(), Metrics::new());
    let latch = readiness.latch("broker/publisher");
    let (publisher, handle) = Publisher::new(config, "test", latch, metrics.connection("publisher"), tasks.stop_token());
    tasks.spawn("publisher", publisher.run());
    (handle, tasks, readiness)
}

fn message(topic: &str, qos: QoS, payload: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: payload.to_owned().into(),
        qos,
        ..Message::default()
    }
}

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test]
async fn every_quality_arrives_and_is_answered() {
    let servers = Servers::start().await;
    let (handle, tasks, _) = publisher(&login(servers.mqtt_port, Some((SERVICE, PASSWORD))));
    let topic = "iotflow/devices/pump/commands/control";
    assert_eq!(
        handle.publish(message(topic, QoS::AtLeastOnce, "nobody")).await,
        Ok(Answer::NoSubscribers)
    );
    let mut pump = Person::connect(&login(servers.mqtt_port, Some((SERVICE, PASSWORD))), "pump")
        .await
        .expect("it may");
    pump.subscribe(&["iotflow/devices/pump/commands/#"]).await;
    for qos in ALL {
        let answer = handle.publish(message(topic, qos, &format!("{qos:?}"))).await;
        assert_eq!(answer, Ok(Answer::Taken), "{qos:?}");
        pump.receive_until(&format!("{qos:?}")).await;
    }
    let refused = handle.publish(message("somewhere/else", QoS::AtLeastOnce, "x")).await;
    assert_eq!(refused, Err(Failure::Refused(ReasonCode::NOT_AUTHORIZED)));
    let refused = handle.publish(message("somewhere/else", QoS::ExactlyOnce, "x")).await;
    assert_eq!(refused, Err(Failure::Refused(ReasonCode::NOT_AUTHORIZED)));
    let unfit = handle.publish(message("a/+", QoS::AtLeastOnce, "x")).await;
    assert!(matches!(unfit, Err(Failure::Unfit(PublishError::Topic(_)))), "{unfit:?}");
    // Whoever asked before the stop is answered, and who comes later is told.
    tasks.stop_token().cancel();
    tasks.join(PATIENCE).await.expect("it ends");
    assert_eq!(handle.publish(message(topic, QoS::AtLeastOnce, "x")).await, Err(Failure::Stopping));
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for_and_not_for_long() {
    let mut servers = Servers::start().await;
    let (handle, _tasks, readiness) = publisher(&login(servers.mqtt_port, Some((SERVICE, PASSWORD))));
    let topic = "iotflow/devices/pump/commands/control";
    eventually("it is connected", async || readiness.is_ready().then_some(())).await;
    servers.broker.halt(Signal::SIGKILL).expect("it is our child");
    let away = handle.publish(message(topic, QoS::AtLeastOnce, "x")).await;
    assert!(matches!(away, Err(Failure::Away(_) | Failure::Unknown)), "{away:?}");
    assert!(!readiness.is_ready());
    servers.broker.resume().await.expect("it starts again");
    eventually("it takes messages again", async || {
        handle.publish(message(topic, QoS::ExactlyOnce, "x")).await.ok()
    })
    .await;
}

async fn next_publish(peer: &mut Peer) -> (u16, bool, String) {
    match peer.next().await {
        Some(Packet::Publish(publish)) => (publish.pkid, publish.dup, String::from_utf8_lossy(&publish.payload).into_owned()),
        other => panic!("{other:?} in place of a PUBLISH"),
    }
}

fn at(port: u16) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port,
        keep_alive: Duration::from_secs(60),
        ..Config::default()
    }
}

#[tokio::test]
async fn no_more_are_under_way_than_the_broker_allows() {
    let broker = FakeBroker::listen().await;
    let (handle, _tasks, _) = publisher(&at(broker.port));
    let asked: Vec<_> = (0..5)
        .map(|number| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.publish(message("t", QoS::AtLeastOnce, &number.to_string())).await })
        })
        .collect();
    let properties = ConnAckProperties {
        receive_max: Some(2),
        ..connack_properties()
    };
    let mut peer = broker.accept(false, Some(properties)).await;
    for _ in 0..2 {
        let (first, ..) = next_publish(&mut peer).await;
        let (second, ..) = next_publish(&mut peer).await;
        assert_ne!(first, second);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), peer.next()).await.is_err(),
            "a third before an answer"
        );
        for id in [first, second] {
            peer.send(Packet::PubAck(PubAck::new(id, None))).await;
        }
    }
    let (last, ..) = next_publish(&mut peer).await;
    peer.send(Packet::PubAck(PubAck::new(last, None))).await;
    for task in asked {
        assert_eq!(task.await.expect("it ends"), Ok(Answer::Taken));
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_but_at_qos_2() {
    let broker = FakeBroker::listen().await;
    let (handle, _tasks, _) = publisher(&at(broker.port));
    let [again, once] = [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| {
        let handle = handle.clone();
        tokio::spawn(async move { handle.publish(message("t", qos, &format!("{qos:?}"))).await })
    });
    let mut peer = broker.accept(false, None).await;
    for _ in 0..2 {
        let (id, _, payload) = next_publish(&mut peer).await;
        if payload == "ExactlyOnce" {
            peer.send(Packet::PubRec(PubRec::new(id, None))).await;
            let rel = peer.next().await;
            assert_eq!(rel, Some(Packet::PubRel(PubRel::new(id, None))));
        }
    }
    drop(peer);
    assert_eq!(once.await.expect("it ends"), Err(Failure::Unknown), "it may be there or not");
    let mut peer = broker.accept(false, None).await;
    let (id, dup, payload) = next_publish(&mut peer).await;
    assert_eq!(
        (payload.as_str(), dup),
        ("AtLeastOnce", false),
        "of a session that is gone nothing is said again"
    );
    peer.send(Packet::PubAck(PubAck::new(id, None))).await;
    assert_eq!(again.await.expect("it ends"), Ok(Answer::Taken));
}

#[tokio::test]
async fn properties_and_retain_go_along() {
    let broker = FakeBroker::listen().await;
    let (handle, _tasks, _) = publisher(&at(broker.port));
    let asked = tokio::spawn(async move {
        let properties = Properties {
            expiry: Some(Duration::from_millis(1_500)),
            response_topic: Some("answer/here".to_owned()),
            correlation: Some("id-1".into()),
            content_type: Some("application/json".to_owned()),
        };
        let message = Message {
            retain: true,
            properties,
            ..message("t", QoS::ExactlyOnce, "x")
        };
        handle.publish(message).await
    });
    let mut peer = broker.accept(false, None).await;
    let Some(Packet::Publish(publish)) = peer.next().await else {
        panic!("no PUBLISH")
    };
    let properties = publish.properties.expect("it has some");
    assert!(publish.retain);
    assert_eq!(properties.message_expiry_interval, Some(2));
    assert_eq!(properties.response_topic.as_deref(), Some("answer/here"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"id-1"[..]));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    peer.send(Packet::PubRec(PubRec::new(publish.pkid, None))).await;
    assert_eq!(peer.next().await, Some(Packet::PubRel(PubRel::new(publish.pkid, None))));
    peer.send(Packet::PubComp(PubComp::new(publish.pkid, None))).await;
    assert_eq!(asked.await.expect("it ends"), Ok(Answer::Taken));
}
