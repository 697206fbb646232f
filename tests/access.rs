//! Who may do what at a real broker, judged by what is delivered and refused, not by what the broker promises.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use iotflow::access::apply::{Applier, ApplyError};
use iotflow::broker::passwords::Hash;
use iotflow::mqtt::connection::ConnectionError;
use iotflow::observe::secret::Secret;
use iotflow::protocol::rights::Role;
use iotflow::protocol::topic::TopicTree;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason};
use support::person::{Person, login};
use support::servers::PASSWORD;
use support::site::Site;
use support::{PATIENCE, eventually, judge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Who there is: `a` and `b` are devices, `a` belongs to the group north; `gone` was shut out.
const PEOPLE: &[(&str, Role)] = &[
    ("a", Role::Device),
    ("b", Role::Device),
    ("gone", Role::Device),
    ("ann", Role::Admin),
    ("newcomer", Role::ProvisioningPlain),
    ("iotflow", Role::Service),
    ("fleet", Role::Fleet),
];

/// Each topic, which devices, fleets and newcomers may publish there, and which of them receive what is published there. Written
/// down from the design, not from the code that it judges. An admin may all; the service all that is in its tree, for what
/// operators publish and read by the API goes through it.
const MATRIX: &[(&str, &[&str], &[&str])] = &[
    ("iotflow/devices/a/telemetry", &["a", "fleet"], &[]),
    ("iotflow/devices/a/telemetry/sensors", &["a", "fleet"], &[]),
    ("iotflow/devices/a/telemetry/no/such/channel", &["a", "fleet"], &[]),
    ("iotflow/devices/b/telemetry/events", &["b", "fleet"], &[]),
    ("iotflow/devices/a/status/online", &["a", "fleet"], &[]),
    ("iotflow/devices/a/status/heartbeat", &["a", "fleet"], &[]),
    ("iotflow/devices/a/commands/config", &[], &["a"]),
    ("iotflow/devices/a/commands/control", &[], &["a"]),
    ("iotflow/devices/b/commands/firmware", &[], &["b"]),
    ("iotflow/devices/a/commands/response", &["a"], &[]),
    ("iotflow/devices/a/commands", &[], &[]),
    ("iotflow/devices/a/config", &[], &["a"]),
    ("iotflow/devices/b/config", &[], &["b"]),
    ("iotflow/devices/a/config/reported", &["a"], &[]),
    ("iotflow/devices/b/config/reported", &["b"], &[]),
    ("iotflow/devices/a/config/anything", &[], &[]),
    ("iotflow/devices/a/receipts", &[], &["a"]),
    ("iotflow/devices/a/receipts/sensors", &[], &["a"]),
    ("iotflow/devices/b/receipts/events", &[], &["b"]),
    ("iotflow/devices/a/anything/else", &[], &[]),
    ("iotflow/devices/gone/telemetry/sensors", &["fleet"], &[]),
    ("iotflow/devices/gone/commands/control", &[], &[]),
    ("iotflow/fleet/commands/north", &[], &["a"]),
    ("iotflow/fleet/commands/south", &[], &[]),
    ("iotflow/fleet/status/north", &[], &[]),
    ("iotflow/discovery/register/a", &["a", "newcomer"], &[]),
    ("iotflow/discovery/register/never-seen", &["newcomer"], &[]),
    ("iotflow/discovery/response/a", &[], &["a", "newcomer"]),
    ("iotflow/system/health", &[], &[]),
    ("iotflow/monitoring/broker", &[], &[]),
    ("iotflow/monitoring/canary/refused", &[], &[]),
    ("iotflow", &[], &[]),
    ("iotflowers/devices/a/telemetry/sensors", &[], &[]),
    ("another/tree", &[], &[]),
];

/// Whether this one may, where these are the ones that may beside the staff.
fn is_granted(name: &str, role: Role, topic: &str, others: &[&str]) -> bool {
    match role {
        Role::Admin => true,
        Role::Service => topic == "iotflow" || topic.starts_with("iotflow/"),
        _ => others.contains(&name),
    }
}

/// Filters that a curious client would try: they cover every topic of the matrix several times.
const CURIOUS: &[&str] = &[
    "#",
    "+/#",
    "iotflow/#",
    "iotflow/devices/+/commands/+",
    "iotflow/devices/a/#",
    "iotflow/devices/b/#",
    "iotflow/fleet/commands/+",
    "$share/mine/iotflow/#",
    "$share/mine/#",
];

async fn site() -> Site {
    let site = Site::start().await;
    site.add(PEOPLE).await;
    site.join("a", "north").await;
    site.sql
        .execute("UPDATE broker_users SET disabled_at = now() WHERE username = 'gone'", &[])
        .await
        .expect("it is there");
    site.in_force().await;
    site
}

/// Logs in where one of this role comes by.
async fn enter(site: &Site, name: &str, role: Role) -> Person {
    if role.is_staff() {
        site.staff(name, &format!("{name}-at-work")).await
    } else {
        site.device(name).await
    }
}

#[tokio::test]
async fn everybody_publishes_where_they_may_and_nowhere_else() {
    let site = site().await;
    for (name, role) in PEOPLE.iter().filter(|(name, _)| *name != "gone") {
        let mut person = enter(&site, name, *role).await;
        for (topic, writers, _) in MATRIX {
            let answer = person
                .publish(topic, "x")
                .await
                .unwrap_or_else(|error| panic!("{name} on {topic}: {error}"));
            let expected = is_granted(name, *role, topic, writers);
            assert_eq!(answer != PubAckReason::NotAuthorized, expected, "{name} on {topic}: {answer:?}");
        }
        person.leave().await;
    }
}

#[tokio::test]
async fn everybody_receives_what_they_may_and_nothing_else_whatever_they_subscribe_to() {
    let site = site().await;
    let mut admin = site.staff("ann", "ann-publishing").await;
    for (name, role) in PEOPLE.iter().filter(|(name, _)| *name != "gone") {
        let mut person = enter(&site, name, *role).await;
        person.subscribe(CURIOUS).await;
        for (topic, ..) in MATRIX {
            admin.publish(topic, topic).await.expect("an admin may");
        }
        // Sent last on a topic that everybody may read in their own way: what comes before it has come.
        let last = last_topic(name, *role);
        admin.publish(&last, "the last").await.expect("an admin may");
        person.receive_until("the last").await;
        let received: BTreeSet<&str> = person
            .received
            .iter()
            .map(|(topic, _)| topic.as_str())
            .filter(|topic| *topic != last)
            .collect();
        let expected: BTreeSet<&str> = MATRIX
            .iter()
            .filter(|(topic, _, readers)| *topic != last && is_granted(name, *role, topic, readers))
            .map(|(topic, ..)| *topic)
            .collect();
        assert_eq!(received, expected, "{name}");
        person.leave().await;
    }
}

/// A topic that this one may read. The fleet's user may read nothing but what bears its own name, as a device may.
fn last_topic(name: &str, role: Role) -> String {
    match role {
        Role::Service => "iotflow/devices/zz/telemetry/sensors".to_owned(),
        Role::Provisioning | Role::ProvisioningPlain => "iotflow/discovery/response/zz".to_owned(),
        _ => format!("iotflow/devices/{name}/commands/control"),
    }
}

#[tokio::test]
async fn only_staff_reads_how_the_broker_is() {
    let site = site().await;
    for (name, role) in PEOPLE.iter().filter(|(name, _)| *name != "gone") {
        let mut person = enter(&site, name, *role).await;
        person.subscribe(&["$SYS/#", "$SYS/broker/version", "$share/x/$SYS/#"]).await;
        let mut admin = site.staff("ann", "ann-publishing").await;
        let last = last_topic(name, *role);
        person.subscribe(&[last.as_str()]).await;
        admin.publish(&last, "the last").await.expect("an admin may");
        person.receive_until("the last").await;
        let told = person.received.iter().any(|(topic, _)| topic.starts_with("$SYS/"));
        assert_eq!(told, matches!(role, Role::Admin | Role::Service), "{name}");
        admin.leave().await;
        person.leave().await;
    }
}

#[tokio::test]
async fn nobody_enters_without_a_credential_that_is_in_force() {
    let site = site().await;
    let refused = async |port, login_: Option<(&str, &str)>| match Person::connect(&login(port, login_), "x").await {
        Err(ConnectionError::Refused(ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword)) => {}
        Err(other) => panic!("{login_:?} at {port}: {other}"),
        Ok(_) => panic!("{login_:?} is let in at {port}"),
    };
    for port in [site.ports.staff, site.ports.plain] {
        refused(port, None).await;
        refused(port, Some(("gone", PASSWORD))).await;
        refused(port, Some(("nobody", PASSWORD))).await;
        refused(port, Some(("ann", "another"))).await;
        refused(port, Some(("ann", ""))).await;
    }
    // At the staff's listener a client id can be chosen, so devices are not let in there at all.
    for name in ["a", "newcomer"] {
        refused(site.ports.staff, Some((name, PASSWORD))).await;
    }
}

#[tokio::test]
async fn a_client_id_makes_nobody_somebody_else() {
    let site = site().await;
    let mut service = site.staff("iotflow", "iotflow-ingest-0").await;
    let mut victim = site.device("a").await;
    for client_id in ["a", "iotflow-ingest-0", "ann", ""] {
        let mut thief = Person::connect(&login(site.ports.plain, Some(("b", PASSWORD))), client_id)
            .await
            .expect("its credential is good");
        thief.subscribe(&["iotflow/devices/a/commands/+"]).await;
        let stolen = thief
            .publish("iotflow/devices/a/telemetry/sensors", "forged")
            .await
            .expect("it stays connected");
        assert_eq!(stolen, PubAckReason::NotAuthorized, "as {client_id:?}");
        assert!(victim.is_connected().await, "{client_id:?} took the device's session");
        assert!(service.is_connected().await, "{client_id:?} took the service's session");
        assert!(thief.received.is_empty());
        thief.leave().await;
    }
}

#[tokio::test]
async fn no_device_takes_messages_out_of_the_services_share() {
    let site = site().await;
    let mut service = site.staff("iotflow", "iotflow-ingest-0").await;
    service.subscribe(&["$share/a-random-name/iotflow/devices/+/telemetry/#"]).await;
    let mut thief = site.device("b").await;
    thief
        .subscribe(&[
            "$share/ingest/iotflow/devices/+/telemetry/#",
            "$share/mine/iotflow/devices/+/telemetry/#",
            "iotflow/#",
        ])
        .await;
    let mut device = site.device("a").await;
    for number in 0..20 {
        device
            .publish("iotflow/devices/a/telemetry/sensors", &number.to_string())
            .await
            .expect("it may");
    }
    service.receive_until("19").await;
    assert_eq!(service.received.len(), 20, "some were dealt to another");
    assert!(thief.is_connected().await && thief.received.is_empty());
}

#[tokio::test]
async fn web_sockets_ask_for_a_credential_as_well() {
    let site = site().await;
    for (password, expected) in [(PASSWORD, 0x00), ("another", 0x87)] {
        assert_eq!(
            connect_by_web_socket(site.ports.web_sockets, "a", password).await,
            expected,
            "{password}"
        );
    }
}

/// The reason code of the CONNACK that comes back by a WebSocket (RFC 6455; MQTT 5, 6).
async fn connect_by_web_socket(port: u16, user: &str, password: &str) -> u8 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let upgrade = format!(
        "GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(upgrade.as_bytes()).await.expect("it reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("it answers"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let mut connect = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0b1100_0010, 0, 60, 0];
    for text in ["by-web-socket", user, password] {
        connect.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
        connect.extend(text.bytes());
    }
    let length = u8::try_from(connect.len()).expect("short");
    // A final binary frame, masked with zeros, which leave it as it is.
    let mut frame = vec![0x82, 0x80 | (length + 2), 0, 0, 0, 0, 0x10, length];
    frame.extend(connect);
    stream.write_all(&frame).await.expect("it reads");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.expect("it answers");
    assert_eq!((answer[0], answer[2]), (0x82, 0x20), "no CONNACK in a binary frame: {answer:?}");
    answer[5]
}

#[tokio::test]
async fn who_is_shut_out_is_disconnected_and_nobody_else_is() {
    let site = site().await;
    let (mut one, mut other) = (site.device("a").await, site.device("b").await);
    let mut staff = site.staff("ann", "ann-watching").await;
    let sql = async |statement: &str| {
        site.sql
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        site.in_force().await;
    };
    // Changes that concern nobody who is here.
    for number in 0..10 {
        site.add(&[(&format!("new-{number}"), Role::Device)]).await;
        site.in_force().await;
    }
    assert!(one.is_connected().await && other.is_connected().await && staff.is_connected().await);

    sql("UPDATE broker_users SET disabled_at = now() WHERE username = 'a'").await;
    one.until_disconnected().await;
    assert!(Person::connect(&login(site.ports.plain, Some(("a", PASSWORD))), "a").await.is_err());
    sql("UPDATE broker_users SET disabled_at = NULL WHERE username = 'a'").await;
    let mut one = site.device("a").await;

    // Another password: the old one's connection ends.
    sql("UPDATE broker_users SET password_hash = (SELECT password_hash FROM broker_users WHERE username = 'ann') WHERE username = 'a'")
        .await;
    assert!(one.is_connected().await, "the same password in another hash is the same credential");
    let hash = Hash::of_generated(&Secret::new("another")).expect("randomness");
    sql(&format!(
        "UPDATE broker_users SET password_hash = '{}' WHERE username = 'a'",
        hash.as_str()
    ))
    .await;
    one.until_disconnected().await;
    let mut one = Person::connect(&login(site.ports.plain, Some(("a", "another"))), "a")
        .await
        .expect("the new password");

    sql("DELETE FROM broker_users WHERE username = 'a'").await;
    one.until_disconnected().await;
    assert!(other.is_connected().await && staff.is_connected().await);
}

#[tokio::test]
async fn a_group_is_left_and_joined_while_a_device_is_connected() {
    let site = site().await;
    let mut device = site.device("b").await;
    device
        .subscribe(&["iotflow/fleet/commands/+", "iotflow/devices/b/commands/+"])
        .await;
    let mut service = site.staff("iotflow", "commands").await;
    let mut round = async |expected: &str| {
        service.publish("iotflow/fleet/commands/north", expected).await.expect("it may");
        service
            .publish("iotflow/devices/b/commands/control", &format!("after {expected}"))
            .await
            .expect("it may");
        device.receive_until(&format!("after {expected}")).await;
        device.received.iter().any(|(_, payload)| payload == expected)
    };
    assert!(!round("before it is a member").await);
    site.join("b", "north").await;
    site.in_force().await;
    assert!(round("as a member").await);
    site.sql
        .batch_execute("DELETE FROM device_group_members")
        .await
        .expect("it is ours");
    site.in_force().await;
    assert!(!round("after it has left").await);
}

#[tokio::test]
async fn many_changes_at_once_cost_few_reloads() {
    const DEVICES: usize = 10_000;
    let site = site().await;
    let (before, begun) = (site.reloads(), Instant::now());
    let hash = Hash::of_generated(&Secret::new(PASSWORD)).expect("randomness");
    // A statement, a transaction and a notification each.
    let insert = site
        .sql
        .prepare("INSERT INTO broker_users (username, role, password_hash) VALUES ($1, 'device', $2)")
        .await
        .expect("a sound statement");
    for number in 0..DEVICES {
        site.sql
            .execute(&insert, &[&format!("meter-{number}"), &hash.as_str()])
            .await
            .expect("a new name");
    }
    site.in_force().await;
    let reloads = site.reloads() - before;
    println!("{DEVICES} devices in {:?}: {reloads} reloads", begun.elapsed());
    // While changes never pause a reload comes every five seconds; beside that the first and the last.
    assert!(reloads > 0, "the broker read its files without saying so");
    assert!(reloads as u64 <= 3 + begun.elapsed().as_secs() / 5, "{reloads} reloads");
    for number in [0, 1, DEVICES / 2, DEVICES - 1] {
        site.device(&format!("meter-{number}")).await.leave().await;
    }
}

/// Spoils the next access list as soon as it is in place, in one step: as if the disk had given back something else. Written over
/// it would be empty for a moment, and with an empty list the broker refuses everything, which is no broker that is open.
fn spoil_the_next(list: PathBuf) -> std::thread::JoinHandle<()> {
    let spoilt = list.parent().and_then(Path::parent).expect("a folder of ours").join("spoilt");
    std::fs::write(&spoilt, "no access list\n").expect("it is ours");
    let inode = move || std::fs::metadata(&list).map(|metadata| (metadata.ino(), list.clone()));
    let (before, _) = inode().expect("it is there");
    std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some((_, list)) = inode().ok().filter(|(now, _)| *now != before) {
                std::fs::rename(&spoilt, list).expect("it is ours");
                return;
            }
        }
    })
}

#[tokio::test]
async fn an_access_list_that_opens_the_broker_is_taken_back_and_an_alarm_is_raised() {
    let mut site = Site::without_agent().await;
    site.add(PEOPLE).await;
    site.applier.apply(&mut site.sql).await.expect("all is well");
    // The broker may be faster than the spoiler, and then all is well again.
    let error = loop {
        let spoiler = spoil_the_next(site.paths.access().join("acl"));
        let applied = site.applier.apply(&mut site.sql).await;
        spoiler.join().expect("it spoils");
        if let Err(error) = applied {
            break error;
        }
    };
    assert!(
        matches!(&error, ApplyError::RolledBack(unproven) if unproven.is_open()),
        "the broker was not seen to be open: {error:?}"
    );
    let alarm = judge::texts(&site.sql, "SELECT alarm FROM broker_access WHERE alarm IS NOT NULL").await;
    assert!(alarm[0].contains("the last good files are back in force"), "{alarm:?}");

    let mut device = site.device("a").await;
    for (topic, allowed) in [
        ("iotflow/devices/b/telemetry/sensors", false),
        ("iotflow/devices/a/telemetry/sensors", true),
    ] {
        let answer = device.publish(topic, "x").await.expect("it stays connected");
        assert_eq!(answer != PubAckReason::NotAuthorized, allowed, "{topic}");
    }
    site.applier.apply(&mut site.sql).await.expect("what was good is good");
    assert!(
        judge::texts(&site.sql, "SELECT alarm FROM broker_access WHERE alarm IS NOT NULL")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn files_that_the_broker_does_not_understand_are_taken_back() {
    let mut site = Site::without_agent().await;
    site.add(PEOPLE).await;
    site.applier.apply(&mut site.sql).await.expect("all is well");
    // Mosquitto has 200 levels at most: nobody can publish there, the canary neither.
    let deep = Applier {
        tree: TopicTree::new(&vec!["deep"; 300].join("/")).expect("a base topic"),
        ..site.applier.clone()
    };
    let error = deep.apply(&mut site.sql).await.expect_err("the broker cannot obey");
    assert!(matches!(error, ApplyError::RolledBack(_)), "{error:?}");
    let mut device = site.device("a").await;
    let answer = device
        .publish("iotflow/devices/a/telemetry/sensors", "x")
        .await
        .expect("it is let in");
    assert_ne!(answer, PubAckReason::NotAuthorized);
}

#[tokio::test]
async fn a_list_that_goes_missing_under_a_running_broker_is_noticed_as_open() {
    let mut site = Site::without_agent().await;
    site.add(PEOPLE).await;
    site.applier.apply(&mut site.sql).await.expect("all is well");
    std::fs::remove_file(site.paths.access().join("acl")).expect("it is ours");
    site.applier.process.reload().expect("the broker runs");
    let error = eventually("the broker is open", async || site.applier.prove().await.err()).await;
    assert!(error.is_open(), "{error}");
}
