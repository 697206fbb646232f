//! A command's life: given, sent, answered; held for who is away; expired; taken back; given twice.

use std::time::Duration;

use iotflow::devices::commands::state::State;
use iotflow::operations::commands::{self, CancelError, Order, SendError};
use iotflow::protocol::command::{CommandId, Kind};
use serde_json::value::RawValue;

use crate::device::json;
use crate::plant::{Plant, ada, device, order};
use crate::support::judge::{number, texts};

#[tokio::test]
async fn a_command_goes_to_its_device_and_each_answer_moves_it_on() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let mut pump = plant.device("pump").await;
    let given = "{ \"valve\" : 1.10, \"note\":\"\\u00fc\" }";
    let parameters = RawValue::from_string(given.to_owned()).expect("JSON");
    let order = Order {
        parameters: Some(&parameters),
        ..order("open")
    };
    let id = plant.send(&device("pump"), &order).await.expect("a sound order").command_id;
    pump.receive(1).await;
    let publish = pump.received[0].clone();
    assert_eq!(&publish.topic[..], b"iotflow/devices/pump/commands/control");
    assert!(!publish.retain);
    let text = String::from_utf8(publish.payload.to_vec()).expect("UTF-8");
    assert!(text.contains(given), "byte for byte: {text}");
    assert_eq!(json(&publish)["command_id"], id.as_str());
    let properties = publish.properties.expect("it has some");
    assert_eq!(properties.response_topic.as_deref(), Some("iotflow/devices/pump/commands/response"));
    assert_eq!(properties.correlation_data.as_deref(), Some(id.as_str().as_bytes()));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert!(
        properties
            .message_expiry_interval
            .is_some_and(|seconds| seconds > 500 && seconds <= 600)
    );
    let sent = plant.until(&id, State::Sent).await;
    assert!(sent.sent_at.is_some() && sent.delivered_at.is_none());
    for (status, state) in [
        ("delivered", State::Delivered),
        ("accepted", State::Accepted),
        ("progress", State::Progress),
        ("completed", State::Completed),
    ] {
        pump.answer(&format!(
            r#"{{"command_id":"{id}","status":"{status}","progress":50,"message":"{status}!","result":{{"x": 1 }}}}"#
        ))
        .await;
        plant.until(&id, state).await;
    }
    let done = plant.delivery(&id).await;
    let times = [
        Some(done.queued_at),
        done.sent_at,
        done.delivered_at,
        done.accepted_at,
        done.progress_at,
        done.finished_at,
    ];
    let times: Vec<_> = times.into_iter().map(|time| time.expect("each step has its time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(
        (done.message.as_deref(), done.result.as_deref()),
        (Some("completed!"), Some("{\"x\": 1 }"))
    );
    assert!(plant.command(&id).await.counts.is_done());
    let acts = texts(
        &plant.sql,
        "SELECT action || ' ' || object || ' ' || outcome FROM audit_log ORDER BY id",
    )
    .await;
    assert_eq!(acts, ["command.send device pump done"]);
}

#[tokio::test]
async fn every_quality_arrives_and_is_sent_once() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let mut pump = plant.device("pump").await;
    for qos in 0..3_u8 {
        let name = format!("at {qos}");
        let order = Order { qos, ..order(&name) };
        let id = plant.send(&device("pump"), &order).await.expect("a sound order").command_id;
        pump.receive(usize::from(qos) + 1).await;
        plant.until(&id, State::Sent).await;
    }
    assert_eq!(pump.commands(), ["at 0", "at 1", "at 2"]);
    assert_eq!(
        number(&plant.sql, "SELECT count(*) FROM command_deliveries WHERE sent_at IS NULL").await,
        0
    );
}

#[tokio::test]
async fn who_is_away_gets_all_in_order_once_back() {
    let mut plant = Plant::start().await;
    let mut pump = plant.device("pump").await;
    pump.status("online").await;
    plant.until_status("pump", "online").await;
    pump.status("offline").await;
    plant.until_status("pump", "offline").await;
    let names: Vec<String> = (0..30).map(|number| format!("step {number}")).collect();
    let mut ids = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let kind = Kind::ALL[number % 3];
        let order = Order { kind, ..order(name) };
        ids.push(plant.send(&device("pump"), &order).await.expect("a sound order").command_id);
    }
    crate::support::eventually("all are held", async || {
        let held = number(&plant.sql, "SELECT count(*) FROM command_deliveries WHERE held").await;
        (held == 30).then_some(())
    })
    .await;
    assert!(pump.commands().is_empty());
    // Whoever looks after them may end meanwhile.
    plant.service.kill();
    plant.service = crate::support::service::Service::ready(plant.servers.path(), &plant.servers.environment()).await;
    pump.status("online").await;
    pump.receive(30).await;
    assert_eq!(pump.commands(), names);
    for id in &ids {
        plant.until(id, State::Sent).await;
    }
}

#[tokio::test]
async fn what_is_past_its_time_expires_wherever_it_is() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let mut away = plant.device("away").await;
    away.status("offline").await;
    plant.until_status("away", "offline").await;
    let mut pump = plant.device("pump").await;
    let short = Order {
        ttl: Duration::from_secs(1),
        ..order("soon")
    };
    let held = plant.send(&device("away"), &short).await.expect("a sound order").command_id;
    let sent = plant.send(&device("pump"), &short).await.expect("a sound order").command_id;
    pump.receive(1).await;
    plant.until(&held, State::Expired).await;
    plant.until(&sent, State::Expired).await;
    pump.answer(&format!(r#"{{"command_id":"{sent}","status":"completed"}}"#)).await;
    // The answer is too late; the next one to somebody else shows that it was looked at.
    let next = plant.give(&device("pump"), "next").await;
    pump.answer(&format!(r#"{{"command_id":"{next}","status":"completed"}}"#)).await;
    plant.until(&next, State::Completed).await;
    assert_eq!(plant.delivery(&sent).await.state, State::Expired);
    assert!((plant.service.series().await["iotflow_courier_answers_total{outcome=\"late\"}"] - 1.0).abs() < 0.1);
    away.status("online").await;
    let last = plant.give(&device("away"), "last").await;
    plant.until(&last, State::Sent).await;
    away.receive(1).await;
    assert_eq!(away.commands(), ["last"]);
}

#[tokio::test]
async fn only_what_was_not_sent_is_taken_back() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let mut away = plant.device("away").await;
    away.status("offline").await;
    plant.until_status("away", "offline").await;
    let held = plant.give(&device("away"), "never").await;
    assert_eq!(commands::cancel(&mut plant.sql, &ada(), &held).await.expect("it waits"), 1);
    plant.until(&held, State::Cancelled).await;
    let sent = plant.give(&device("pump"), "gone").await;
    plant.until(&sent, State::Sent).await;
    for id in [&held, &sent] {
        let refused = commands::cancel(&mut plant.sql, &ada(), id).await;
        assert!(matches!(refused, Err(CancelError::TooLate { .. })), "{refused:?}");
    }
    let nobody = CommandId::generate();
    let refused = commands::cancel(&mut plant.sql, &ada(), &nobody).await;
    assert!(matches!(refused, Err(CancelError::Unknown(_))), "{refused:?}");
    away.status("online").await;
    let next = plant.give(&device("away"), "next").await;
    plant.until(&next, State::Sent).await;
    away.receive(1).await;
    assert_eq!(away.commands(), ["next"]);
    let acts = "SELECT outcome FROM audit_log WHERE action = 'command.cancel' ORDER BY id";
    assert_eq!(texts(&plant.sql, acts).await, ["done", "refused", "refused", "refused"]);
}

#[tokio::test]
async fn the_same_request_is_the_same_command() {
    let mut plant = Plant::start().await;
    plant.register(&["pump", "fan"]).await;
    let id = CommandId::parse("mine-1").expect("an id");
    let named = Order {
        command_id: Some(id.clone()),
        ..order("open")
    };
    assert!(plant.send(&device("pump"), &named).await.expect("new").new.is_some());
    let again = plant.send(&device("pump"), &named).await.expect("the same");
    assert_eq!((again.command_id, again.new), (id.clone(), None));
    let other = Order {
        command: "close",
        ..named.clone()
    };
    for (to, order) in [("pump", &other), ("fan", &named)] {
        let clash = plant.send(&device(to), order).await;
        assert!(matches!(clash, Err(SendError::Clash(_))), "{clash:?}");
    }
    let keyed = Order {
        idempotency_key: Some("request 7"),
        ..order("start")
    };
    let first = plant.send(&device("pump"), &keyed).await.expect("new");
    let again = plant.send(&device("pump"), &keyed).await.expect("the same");
    assert_eq!((first.new.is_some(), again.new), (true, None));
    assert_eq!(first.command_id, again.command_id);
    let clash = plant
        .send(
            &device("pump"),
            &Order {
                command: "stop",
                ..keyed.clone()
            },
        )
        .await;
    assert!(matches!(clash, Err(SendError::Clash(_))), "{clash:?}");
    // Another's key is another key.
    let bob = iotflow::identity::audit::Actor::new("bob", "192.0.2.8");
    let his = commands::send(&mut plant.sql, &bob, &device("pump"), &keyed).await.expect("new");
    assert!(his.new.is_some());
    assert_eq!(number(&plant.sql, "SELECT count(*) FROM commands").await, 3);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_it_is_written() {
    let mut plant = Plant::start().await;
    plant.register(&["pump", "gone"]).await;
    plant.group("empty", &[]).await;
    plant
        .sql
        .execute("UPDATE devices SET deleted_at = now() WHERE device = 'gone'", &[])
        .await
        .expect("it is ours");
    let large = RawValue::from_string(format!("\"{}\"", "x".repeat(65_535))).expect("JSON");
    let deep = RawValue::from_string(format!("{}{}", "[".repeat(65), "]".repeat(65))).expect("JSON");
    let pump = device("pump");
    for (what, order) in [
        ("characters of one line", order("")),
        ("characters of one line", order("a\nb")),
        (
            "at most can be sent",
            Order {
                parameters: Some(&large),
                ..order("x")
            },
        ),
        (
            "nested deeper",
            Order {
                parameters: Some(&deep),
                ..order("x")
            },
        ),
        ("0, 1 or 2", Order { qos: 3, ..order("x") }),
        (
            "a second to 30 days",
            Order {
                ttl: Duration::ZERO,
                ..order("x")
            },
        ),
        (
            "a second to 30 days",
            Order {
                ttl: Duration::from_secs(31 * 86_400),
                ..order("x")
            },
        ),
        (
            "idempotency key is",
            Order {
                idempotency_key: Some(""),
                ..order("x")
            },
        ),
    ] {
        let refused = plant.send(&pump, &order).await.expect_err(what).to_string();
        assert!(refused.contains(what), "{refused}");
    }
    for (to, what) in [
        (device("nobody"), "there is no device nobody"),
        (device("gone"), "was deleted"),
        (crate::plant::group("none"), "there is no group none"),
        (crate::plant::group("empty"), "no members"),
    ] {
        let refused = plant.send(&to, &order("x")).await.expect_err(what).to_string();
        assert!(refused.contains(what), "{refused}");
    }
    assert_eq!(number(&plant.sql, "SELECT count(*) FROM commands").await, 0);
    let refused = "SELECT count(*) FROM audit_log WHERE action = 'command.send' AND outcome = 'refused'";
    assert_eq!(
        number(&plant.sql, refused).await,
        4,
        "what the database has to do with is on record"
    );
}
