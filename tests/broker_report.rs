//! What the broker says of itself is read once, and what we publish is answered: on a real Mosquitto.

mod support;

use std::time::Duration;

use iotflow::broker::sys::{BrokerReport, ReportError, TOPICS};
use iotflow::mqtt::config::Config;
use iotflow::mqtt::connection::Connection;
use iotflow::mqtt::publish::PublishError;
use iotflow::observe::secret::Secret;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, PubAck, PubAckReason, Publish};

use support::fake_broker::FakeBroker;
use support::servers::{FLEET, PASSWORD, SERVICE, Servers};
use support::{PATIENCE, eventually};

fn config(port: u16, user: &str) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port,
        username: Some(user.to_owned()),
        password: Some(Secret::new(PASSWORD)),
        ..Config::default()
    }
}

/// The next packet that `wanted` takes.
async fn next<T>(connection: &mut Connection, wanted: impl Fn(Packet) -> Option<T>) -> T {
    let work = async {
        loop {
            while let Some(packet) = connection.next_packet().expect("the broker speaks MQTT") {
                if let Some(found) = wanted(packet) {
                    return found;
                }
            }
            connection.turn(true).await.expect("the connection holds");
        }
    };
    tokio::time::timeout(PATIENCE, work).await.expect("it comes")
}

fn puback(packet: Packet) -> Option<PubAck> {
    if let Packet::PubAck(ack) = packet { Some(ack) } else { None }
}

fn publish(packet: Packet) -> Option<Publish> {
    if let Packet::Publish(publish) = packet {
        Some(publish)
    } else {
        None
    }
}

#[tokio::test]
async fn the_report_says_what_the_broker_knows_and_leaves_no_session_behind() {
    let servers = Servers::start().await;
    let (mut subscriber, _) = Connection::open(&config(servers.mqtt_port, SERVICE), "reader")
        .await
        .expect("the broker is there");
    let asked = subscriber
        .subscribe(vec![Filter::new("$share/g/iotflow/devices/+/telemetry/#", QoS::AtLeastOnce)])
        .expect("a small packet");
    next(&mut subscriber, |packet| {
        matches!(packet, Packet::SubAck(answer) if answer.pkid == asked).then_some(())
    })
    .await;
    let (mut device, _) = Connection::open(&config(servers.mqtt_port, FLEET), "device")
        .await
        .expect("the broker is there");
    for _ in 0..3 {
        let sent = device
            .publish("iotflow/devices/d/telemetry", QoS::AtLeastOnce, "{}")
            .expect("a good publish");
        assert_eq!(next(&mut device, puback).await.pkid, sent);
    }
    // It looks at itself once a second.
    let report = eventually("the broker has looked at itself", async || {
        let report = BrokerReport::read(&config(servers.mqtt_port, SERVICE), PATIENCE)
            .await
            .expect("it may be read");
        let all = report.publish_received >= Some(3)
            && report.clients_connected >= Some(2)
            && report.subscriptions >= Some(1)
            && report.shared_subscriptions == Some(1);
        all.then_some(report)
    })
    .await;
    println!("{}", serde_json::to_string_pretty(&report).expect("it can be written"));
    assert!(
        report
            .version
            .as_deref()
            .is_some_and(|version| version.starts_with("mosquitto version ")),
        "{report:?}"
    );
    assert!(report.uptime_seconds.is_some() && report.bytes_received > Some(0) && report.messages_sent > Some(0));
    assert!(report.retained_messages > Some(0), "what it says of itself is retained");
    assert!(report.publish_received_1min.is_some());
    let said = serde_json::to_value(&report).expect("it can be written");
    let missing: Vec<_> = said
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(_, value)| value.is_null())
        .map(|(name, _)| name.as_str())
        .collect();
    println!("not said: {missing:?} of {}", TOPICS.len());
    // Only what a Mosquitto can be built, or is too new, to say nothing of.
    assert!(
        missing.iter().all(|name| name.starts_with("heap_") || *name == "clients_expired"),
        "{missing:?}"
    );
    // The readers of above are connected, or were, and nobody else is known to the broker.
    eventually("no session of a report is kept", async || {
        let report = BrokerReport::read(&config(servers.mqtt_port, SERVICE), PATIENCE)
            .await
            .expect("it may be read");
        (report.clients_disconnected == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_may_not_read_it_is_told_so_after_the_time_given() {
    let servers = Servers::start().await;
    let within = Duration::from_millis(500);
    match BrokerReport::read(&config(servers.mqtt_port, FLEET), within).await {
        // Mosquitto grants the subscription, and then delivers nothing.
        Err(ReportError::Silent(waited)) => assert_eq!(waited, within),
        other => panic!("{other:?}"),
    }
    let mut wrong = config(servers.mqtt_port, SERVICE);
    wrong.password = Some(Secret::new("another"));
    let refused = BrokerReport::read(&wrong, within).await.expect_err("the password is wrong");
    assert!(matches!(refused, ReportError::Connection(_)), "{refused:?}");
}

#[tokio::test]
async fn a_broker_that_never_stops_talking_is_listened_to_for_the_time_given() {
    let broker = FakeBroker::listen().await;
    let config = config(broker.port, SERVICE);
    let listening = tokio::spawn(async move { BrokerReport::read(&config, Duration::from_millis(700)).await });
    let mut peer = broker.accept(false, None).await;
    peer.answer_subscribe().await;
    let mut uptime = 0_u64;
    // Retained, again and again, each time another value.
    while !listening.is_finished() {
        uptime += 1;
        let mut publish = Publish::new("$SYS/broker/uptime", QoS::AtMostOnce, format!("{uptime} seconds"), None);
        publish.retain = true;
        peer.send(Packet::Publish(publish)).await;
        tokio::task::yield_now().await;
    }
    let report = listening.await.expect("no panic").expect("it said something");
    assert!(report.uptime_seconds.is_some());
    assert_eq!(report.version, None);
}

#[tokio::test]
async fn what_we_publish_is_delivered_and_the_answer_says_what_became_of_it() {
    let servers = Servers::with_conf(|conf| conf.push_str("\nmax_packet_size 2000\n")).await;
    let (mut device, _) = Connection::open(&config(servers.mqtt_port, FLEET), "device")
        .await
        .expect("the broker is there");
    let topic = "iotflow/devices/d/telemetry";
    // Nobody listens, and then somebody does.
    let sent = device.publish(topic, QoS::AtLeastOnce, "1").expect("a good publish");
    let ack = next(&mut device, puback).await;
    assert_eq!((ack.pkid, ack.reason), (sent, PubAckReason::NoMatchingSubscribers));
    let (mut reader, _) = Connection::open(&config(servers.mqtt_port, SERVICE), "reader")
        .await
        .expect("the broker is there");
    reader
        .subscribe(vec![Filter::new("iotflow/devices/+/telemetry/#", QoS::AtLeastOnce)])
        .expect("a small packet");
    next(&mut reader, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    let sent = device.publish(topic, QoS::AtLeastOnce, "2").expect("a good publish");
    let ack = next(&mut device, puback).await;
    assert_eq!((ack.pkid, ack.reason), (sent, PubAckReason::Success));
    let found = next(&mut reader, publish).await;
    assert_eq!((&found.topic[..], &found.payload[..]), (topic.as_bytes(), b"2".as_slice()));
    reader.ack(found.pkid);

    // What would end the connection is not sent, and the next goes through.
    for bad in ["", "a/+/b", "a/#", "a\0", &"x".repeat(65_536)] {
        assert!(matches!(device.publish(bad, QoS::AtLeastOnce, "4"), Err(PublishError::Topic(_))));
    }
    assert_eq!(device.publish(topic, QoS::ExactlyOnce, "5"), Err(PublishError::ExactlyOnce));
    assert!(matches!(
        device.publish(topic, QoS::AtLeastOnce, vec![b'x'; 3_000]),
        Err(PublishError::TooLarge { most: 2_000, .. })
    ));
    assert_eq!(device.publish(topic, QoS::AtMostOnce, "6"), Ok(0));
    device.flush().await.expect("the connection holds");
    assert_eq!(&next(&mut reader, publish).await.payload[..], b"6");

    // The last, for Mosquitto 2.0.11 may end the connection after it.
    let sent = device.publish("elsewhere", QoS::AtLeastOnce, "3").expect("a good publish");
    let ack = next(&mut device, puback).await;
    assert_eq!((ack.pkid, ack.reason), (sent, PubAckReason::NotAuthorized));
}
