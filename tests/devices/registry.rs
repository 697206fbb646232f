//! Devices, from their registration to their deletion, and how they are found.

use iotflow::devices::device::{Device, Status};
use iotflow::devices::label::{DeviceType, Metadata, Name, tags};
use iotflow::devices::list::{self, Filter};
use iotflow::devices::patch::Patch;
use iotflow::devices::registry::{self, Description, RegistryError};
use iotflow::operations::credentials::Wanted;
use iotflow::operations::devices::{self as operations, DeviceError, Registration};
use iotflow::protocol::id::{DeviceId, DeviceIdRef, GroupId};
use iotflow::protocol::topic::TopicTree;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

pub fn tree() -> TopicTree {
    TopicTree::new("iotflow").expect("a base topic")
}

pub fn id(text: &str) -> DeviceId {
    DeviceIdRef::parse(text).expect("a good id").to_owned()
}

pub fn group(text: &str) -> GroupId {
    GroupId::parse(text).expect("a good id")
}

pub fn description(name: &str, kind: &str, tag: &[&str], metadata: Value) -> Description {
    Description {
        name: (!name.is_empty()).then(|| Name::parse(name).expect("a good name")),
        device_type: (!kind.is_empty()).then(|| DeviceType::parse(kind).expect("a good type")),
        tags: tags(tag).expect("good tags"),
        metadata: Metadata::new(metadata).expect("an object"),
    }
}

pub fn plain(device: &str) -> Registration {
    Registration {
        id: id(device),
        description: Description::default(),
        groups: Vec::new(),
        credentials: Wanted::default(),
    }
}

pub async fn register(sql: &mut Client, wanted: &Registration) -> Device {
    operations::register(sql, &ada(), wanted).await.expect("it is registered").device
}

async fn ids(sql: &Client, filter: &Filter) -> Vec<String> {
    let page = list::list(sql, filter, None, 100).await.expect("a page");
    page.items.iter().map(|device| device.id.as_str().to_owned()).collect()
}

#[tokio::test]
async fn a_device_keeps_what_people_say_of_it_and_a_change_needs_the_revision_it_was_read_at() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let wanted = Registration {
        description: description(
            "Bob's sensor",
            "temp > 30",
            &["Ünit 7", "'; DROP TABLE devices; --"],
            json!({"site": {"hall": 3}}),
        ),
        groups: vec![group("north"), group("south"), group("north")],
        ..plain("a")
    };
    let device = register(&mut sql, &wanted).await;
    assert_eq!(
        (device.name.as_deref(), device.device_type.as_deref()),
        (Some("Bob's sensor"), Some("temp > 30"))
    );
    assert_eq!(device.tags, ["Ünit 7", "'; DROP TABLE devices; --"]);
    assert_eq!(
        (device.groups.as_slice(), device.status),
        (&["north".to_owned(), "south".to_owned()][..], Status::Unknown)
    );
    assert!(device.enabled && !device.has_mqtt_credentials && !device.has_api_key && device.revision == 1);
    let again = operations::register(&mut sql, &ada(), &wanted).await;
    assert!(matches!(again, Err(DeviceError::Registry(RegistryError::Exists(_)))), "{again:?}");

    let patch = |value: Value| Patch::parse(&value).expect("a patch");
    let change = patch(json!({"name": null, "metadata": {"site": {"hall": null, "row": 1}}}));
    let changed = operations::update(&mut sql, &ada(), &id("a"), &change, Some(1))
        .await
        .expect("it is changed");
    assert_eq!((changed.name.as_deref(), changed.revision), (None, 2));
    assert_eq!(
        (changed.metadata.clone(), changed.tags.clone()),
        (json!({"site": {"row": 1}}), device.tags)
    );
    let late = operations::update(&mut sql, &ada(), &id("a"), &patch(json!({"name": "late"})), Some(1)).await;
    assert!(
        matches!(late, Err(DeviceError::Registry(RegistryError::Revision { expected: 1, is: 2, .. }))),
        "{late:?}"
    );
    let same = operations::update(&mut sql, &ada(), &id("a"), &change, None)
        .await
        .expect("it is so already");
    assert_eq!(same.revision, 2, "what is so already is no change");
    assert_eq!(
        texts(&sql, "SELECT action || ' ' || object FROM audit_log ORDER BY id").await,
        ["device.create a", "device.update a"]
    );
}

#[tokio::test]
async fn a_deleted_device_leaves_its_telemetry_and_nothing_else_and_comes_back_as_somebody_new() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let wanted = Registration {
        description: description("old", "meter", &["x"], json!({"a": 1})),
        groups: vec![group("north")],
        credentials: Wanted { mqtt: true, api_key: true },
        ..plain("a")
    };
    let device = register(&mut sql, &wanted).await;
    let number_of = device.number;
    sql.batch_execute(&format!(
        "INSERT INTO device_status (device_id, status, since, seen_at) VALUES ({number_of}, 'online', now(), now());
         INSERT INTO metric_sets (kind, fingerprint) VALUES (0, '\\x00');
         INSERT INTO latest VALUES ({number_of}, 1, now(), '{{1}}');
         CREATE TABLE today PARTITION OF telemetry FOR VALUES FROM (now() - interval '1 day') TO (now() + interval '1 day');
         INSERT INTO telemetry VALUES (now(), {number_of}, 1, '{{1}}');
         INSERT INTO device_configs (device_id, version, desired) VALUES ({number_of}, 1, '{{}}');
         INSERT INTO discovery_requests (device, state) VALUES ('a', 'issued');
         INSERT INTO commands (command_id, command_type, command, created_by, expires_at) VALUES ('c', 'control', 'x', 'ada', now());
         INSERT INTO command_deliveries (command_id, device_id, expires_at) VALUES ('c', {number_of}, now());"
    ))
    .await
    .expect("sound statements");

    let wrong = operations::delete(&mut sql, &ada(), &tree(), &id("a"), Some(9)).await;
    assert!(
        matches!(wrong, Err(DeviceError::Registry(RegistryError::Revision { .. }))),
        "{wrong:?}"
    );
    operations::delete(&mut sql, &ada(), &tree(), &id("a"), Some(1))
        .await
        .expect("it is deleted");
    for table in [
        "broker_users",
        "device_keys",
        "device_group_members",
        "device_status",
        "latest",
        "device_configs",
        "discovery_requests",
    ] {
        assert_eq!(number(&sql, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM telemetry").await, 1);
    assert_eq!(texts(&sql, "SELECT state FROM command_deliveries").await, ["cancelled"]);
    assert_eq!(
        texts(&sql, "SELECT topic FROM outbox WHERE retain AND payload = '' ORDER BY topic").await,
        [
            "iotflow/devices/a/config",
            "iotflow/devices/a/status/offline",
            "iotflow/devices/a/status/online"
        ]
    );
    assert!(matches!(registry::get(&sql, &id("a")).await, Err(RegistryError::Unknown(_))));
    assert_eq!(
        registry::find(&sql, DeviceIdRef::parse("a").expect("an id"))
            .await
            .expect("it answers"),
        None
    );
    assert!(ids(&sql, &Filter::default()).await.is_empty());
    let gone = operations::delete(&mut sql, &ada(), &tree(), &id("a"), None).await;
    assert!(matches!(gone, Err(DeviceError::Registry(RegistryError::Unknown(_)))), "{gone:?}");

    let back = register(&mut sql, &plain("a")).await;
    assert_eq!(
        (back.number, back.name, back.tags.len(), back.metadata),
        (number_of, None, 0, json!({}))
    );
    assert!(back.revision > 1 && back.groups.is_empty() && !back.has_mqtt_credentials);
    // The command line and the broker's tools register in another way, which revives as well.
    operations::delete(&mut sql, &ada(), &tree(), &id("a"), None)
        .await
        .expect("it is deleted");
    let revived = registry::register(&sql, DeviceIdRef::parse("a").expect("an id"))
        .await
        .expect("it is registered");
    assert_eq!(revived, (number_of, true));
    assert_eq!(ids(&sql, &Filter::default()).await, ["a"]);
}

#[tokio::test]
async fn pages_hold_every_device_once_and_filters_find_what_they_say() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for n in 0..25 {
        let wanted = Registration {
            description: description(
                &format!("Sensor 100%_{n}"),
                if n % 2 == 0 { "even" } else { "odd" },
                if n % 5 == 0 { &["five"] } else { &[] },
                json!({}),
            ),
            groups: if n < 3 { vec![group("few")] } else { Vec::new() },
            credentials: Wanted {
                mqtt: n == 7,
                api_key: n == 8,
            },
            ..plain(&format!("d{n:02}"))
        };
        register(&mut sql, &wanted).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = list::list(&sql, &Filter::default(), after.as_deref(), 10).await.expect("a page");
        seen.extend(page.items.iter().map(|device| device.id.as_str().to_owned()));
        after = page.next;
        if after.is_none() {
            break;
        }
        assert_eq!(page.items.len(), 10);
    }
    let expected: Vec<String> = (0..25).map(|n| format!("d{n:02}")).collect();
    assert_eq!(seen, expected);

    sql.batch_execute(
        "INSERT INTO device_status (device_id, status, since, seen_at, received_at)
         SELECT device_id, CASE device WHEN 'd01' THEN 'online' ELSE 'offline' END, now(), now(), now() - interval '1 hour'
         FROM devices WHERE device IN ('d01', 'd02');
         INSERT INTO latest SELECT device_id, 1, now() + interval '1 day', '{}' FROM devices WHERE device IN ('d02', 'd03');",
    )
    .await
    .expect("sound statements");
    for device in ["d07", "d08"] {
        operations::set_enabled(&mut sql, &ada(), &id(device), false)
            .await
            .expect("it is shut out");
    }
    let half_an_hour_ago = jiff::Timestamp::now()
        .checked_sub(std::time::Duration::from_secs(1800))
        .expect("a time");
    let of = |change: &dyn Fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    let text = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (of(&|f| f.status = Some(Status::Online)), &["d01"][..]),
        (of(&|f| f.status = Some(Status::Offline)), &["d02"]),
        (of(&|f| (f.status, f.group) = (Some(Status::Unknown), text("few"))), &["d00"]),
        (of(&|f| (f.device_type, f.tag) = (text("odd"), text("five"))), &["d05", "d15"]),
        (of(&|f| f.text = text("SENSOR 100%_2")), &["d02", "d20", "d21", "d22", "d23", "d24"]),
        (of(&|f| f.text = text("D13")), &["d13"]),
        (of(&|f| f.text = text("100__")), &[]),
        (of(&|f| f.text = text("'; DROP TABLE devices; --")), &[]),
        (of(&|f| f.enabled = Some(false)), &["d07", "d08"]),
        (of(&|f| f.last_seen_after = Some(half_an_hour_ago)), &["d02", "d03"]),
        (
            of(&|f| (f.last_seen_before, f.group) = (Some(half_an_hour_ago), text("few"))),
            &["d00", "d01"],
        ),
    ] {
        assert_eq!(ids(&sql, &filter).await, expected, "{filter:?}");
    }
    let ahead = registry::get(&sql, &id("d03")).await.expect("it is there");
    assert!(
        ahead.last_seen_at.expect("it was seen") <= jiff::Timestamp::now(),
        "a clock that is ahead was seen now"
    );
}
