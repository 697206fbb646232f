//! How devices are to be set: versions, what is sent, what is reported.

use iotflow::devices::desired::{self, DesiredError, Text};
use iotflow::operations::configs as operations;
use iotflow::protocol::id::DeviceIdRef;

use crate::registry::{id, plain, register, tree};
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

fn text(text: &str) -> Text {
    Text::parse(text).expect("an object")
}

#[tokio::test]
async fn what_is_wanted_goes_to_the_device_as_it_was_given_and_its_version_only_grows() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    register(&mut sql, &plain("a")).await;
    let none = desired::get(&sql, &id("a")).await.expect("it answers");
    assert_eq!((none.version, none.desired.as_deref(), none.in_sync()), (0, None, None));

    let odd = "{ \"interval\": 1.50,\"big\":12345678901234567890123, \"b\":[ ] }";
    let set = operations::set(&mut sql, &ada(), &tree(), &id("a"), &text(odd), Some(0))
        .await
        .expect("it is set");
    assert_eq!((set.version, set.desired.as_deref(), set.in_sync()), (1, Some(odd), Some(false)));
    assert_eq!(set.desired_by.as_deref(), Some("ada"));
    let row = sql
        .query_one("SELECT topic, convert_from(payload, 'UTF8'), qos, retain FROM outbox", &[])
        .await
        .expect("a row");
    assert_eq!(
        (row.get::<_, &str>(0), row.get::<_, i16>(2), row.get::<_, bool>(3)),
        ("iotflow/devices/a/config", 1, true)
    );
    let payload: &str = row.get(1);
    assert!(
        payload.starts_with(&format!("{{\"version\":1,\"config\":{odd},\"timestamp\":\"2")),
        "{payload}"
    );
    serde_json::from_str::<serde_json::Value>(payload).expect("JSON");

    for expected in [0, 2] {
        let late = operations::set(&mut sql, &ada(), &tree(), &id("a"), &text("{}"), Some(expected)).await;
        assert!(matches!(late, Err(DesiredError::Version { is: 1, .. })), "{late:?}");
    }
    assert_eq!(
        operations::set(&mut sql, &ada(), &tree(), &id("a"), &text("{}"), Some(1))
            .await
            .expect("it is set")
            .version,
        2
    );
    let gone = operations::delete(&mut sql, &ada(), &tree(), &id("a"), Some(2))
        .await
        .expect("it is taken back");
    assert_eq!((gone.version, gone.desired, gone.desired_by.as_deref()), (3, None, Some("ada")));
    assert_eq!(number(&sql, "SELECT count(*) FROM outbox WHERE retain AND payload = ''").await, 1);
    assert_eq!(
        operations::set(&mut sql, &ada(), &tree(), &id("a"), &text("{}"), None)
            .await
            .expect("it is set")
            .version,
        4
    );
    let unknown = operations::set(&mut sql, &ada(), &tree(), &id("x"), &text("{}"), None).await;
    assert!(matches!(unknown, Err(DesiredError::Device(_))));
    assert_eq!(
        texts(
            &sql,
            "SELECT action || ' ' || (detail->>'version') FROM audit_log WHERE action LIKE 'config.%' ORDER BY id"
        )
        .await,
        ["config.set 1", "config.set 2", "config.delete 3", "config.set 4"]
    );
}

#[tokio::test]
async fn what_a_device_reports_is_kept_beside_what_is_wanted() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    register(&mut sql, &plain("a")).await;
    let a = DeviceIdRef::parse("a").expect("an id");
    // A device may report before anybody wants anything, and there may be none of its name.
    desired::note_reported(&sql, a, None, &text("{\"x\": 1}"))
        .await
        .expect("it is noted");
    desired::note_reported(&sql, DeviceIdRef::parse("nobody").expect("an id"), None, &text("{}"))
        .await
        .expect("it is nobody's");
    let reported = desired::get(&sql, &id("a")).await.expect("it answers");
    assert_eq!(
        (reported.version, reported.reported.as_deref(), reported.in_sync()),
        (0, Some("{\"x\": 1}"), None)
    );

    let set = operations::set(&mut sql, &ada(), &tree(), &id("a"), &text("{\"x\":1}"), Some(0))
        .await
        .expect("it is set");
    assert_eq!((set.version, set.in_sync()), (1, Some(true)), "it holds what is wanted");
    operations::set(&mut sql, &ada(), &tree(), &id("a"), &text("{\"x\":2}"), None)
        .await
        .expect("it is set");
    desired::note_reported(&sql, a, Some(1), &text("{\"x\":2}"))
        .await
        .expect("it is noted");
    assert_eq!(
        desired::get(&sql, &id("a")).await.expect("it answers").in_sync(),
        Some(false),
        "the version decides"
    );
    desired::note_reported(&sql, a, Some(2), &text("{\"x\":2,\"\\u0000\":0}"))
        .await
        .expect("it is noted");
    assert_eq!(desired::get(&sql, &id("a")).await.expect("it answers").in_sync(), Some(true));
    assert_eq!(number(&sql, "SELECT count(*) FROM device_configs").await, 1);
}
