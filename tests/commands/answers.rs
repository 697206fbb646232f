//! Answers that are hostile, repeated, early, late or for somebody else.

use iotflow::devices::commands::state::State;

use crate::plant::{Plant, device};
use crate::support::eventually;
use crate::support::judge::{number, texts};

#[tokio::test]
async fn hostile_answers_become_dead_letters_and_hurt_nobody() {
    let mut plant = Plant::start().await;
    plant.register(&["pump", "fan"]).await;
    let mut pump = plant.device("pump").await;
    let mut fan = plant.device("fan").await;
    let id = plant.give(&device("pump"), "open").await;
    pump.receive(1).await;
    plant.until(&id, State::Sent).await;
    // Another device's command is unknown to this one.
    fan.answer(&format!(r#"{{"command_id":"{id}","status":"failed"}}"#)).await;
    for payload in [
        "",
        "no json",
        "[]",
        r#"{"status":"completed"}"#,
        r#"{"command_id":"never-given","status":"completed"}"#,
        r#"{"command_id":"' OR true --","status":"completed"}"#,
        &format!(r#"{{"command_id":"{id}","status":"perhaps"}}"#),
        &format!(r#"{{"command_id":"{id}","status":"progress","progress":1e300}}"#),
        &format!(r#"{{"command_id":"{id}","status":"failed","result":{}}}"#, "[".repeat(30_000)),
    ] {
        pump.answer(payload).await;
    }
    pump.answer_correlated(
        r#"{"status":"completed","message":"a\u0000b","result":"\u0000\ud800"}"#,
        id.as_str(),
    )
    .await;
    let done = plant.until(&id, State::Completed).await;
    assert_eq!(done.message.as_deref(), Some("a\u{fffd}b"));
    assert_eq!(done.result.as_deref(), Some(r#""\u0000\ud800""#));
    eventually("all are kept", async || {
        (number(&plant.sql, "SELECT count(*) FROM dead_letters").await == 10).then_some(())
    })
    .await;
    let reasons = texts(&plant.sql, "SELECT reason FROM dead_letters ORDER BY reason").await;
    assert_eq!(
        reasons,
        [
            "bad_answer",
            "bad_answer",
            "bad_answer",
            "bad_answer",
            "bad_answer",
            "empty_payload",
            "not_json",
            "too_deep",
            "unknown_command",
            "unknown_command"
        ]
    );
}

#[tokio::test]
async fn repeated_and_backward_answers_change_nothing() {
    let mut plant = Plant::start().await;
    plant.register(&["pump"]).await;
    let mut pump = plant.device("pump").await;
    let id = plant.give(&device("pump"), "open").await;
    pump.receive(1).await;
    for (status, progress) in [
        ("progress", 10),
        ("accepted", 0),
        ("progress", 80),
        ("delivered", 0),
        ("failed", 90),
    ] {
        pump.answer(&format!(r#"{{"command_id":"{id}","status":"{status}","progress":{progress}}}"#))
            .await;
    }
    let failed = plant.until(&id, State::Failed).await;
    assert_eq!(failed.progress, Some(90.0));
    assert_eq!(failed.accepted_at, None, "it never said so in time");
    pump.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    eventually("it is counted", async || {
        let series = plant.service.series().await;
        let of = |outcome: &str| series[&format!("iotflow_courier_answers_total{{outcome=\"{outcome}\"}}")];
        (of("late") > 0.5 && of("repeated") > 1.5).then_some(())
    })
    .await;
    assert_eq!(plant.delivery(&id).await.state, State::Failed);
}

#[tokio::test]
async fn a_device_says_what_configuration_it_has() {
    let plant = Plant::start().await;
    let mut pump = plant.device("pump").await;
    plant.register(&["pump"]).await;
    plant
        .sql
        .execute(
            "INSERT INTO device_configs (device_id, desired, desired_by) SELECT device_id, '{}', 'ada' FROM devices WHERE device = 'pump'",
            &[],
        )
        .await
        .expect("it has none");
    let topic = "iotflow/devices/pump/config/reported";
    pump.say(topic, "[1]").await;
    pump.say(topic, r#"{"version":7, "rate":1.0}"#).await;
    eventually("it is kept", async || {
        let kept = "SELECT count(*) FROM device_configs WHERE reported::text = '{\"version\":7, \"rate\":1.0}' AND reported_version = 7";
        (number(&plant.sql, kept).await == 1).then_some(())
    })
    .await;
    assert_eq!(texts(&plant.sql, "SELECT reason FROM dead_letters").await, ["not_object"]);
}
