//! Who may do what, for those whose identity is a certificate's common name.

mod support;

use iotflow::broker::certs::authority::{Authority, Change};
use iotflow::broker::certs::index::Which;
use iotflow::identity::audit::Actor;
use iotflow::operations::credentials::{self, Wanted};
use iotflow::operations::devices::{self, Registration};
use iotflow::protocol::id::{DeviceId, DeviceIdRef};
use iotflow::protocol::rights::Role;
use iotflow::protocol::topic::TopicTree;
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use support::eventually;
use support::person::{Person, login};
use support::servers::PASSWORD;
use support::site::{LEAF_VALIDITY, Site, tls};

/// Devices a and b, an admin, and a certificate for each of these names; the last is of nobody in the database.
async fn site() -> Site {
    let site = Site::with_certificates().await;
    site.add(&[
        ("a", Role::Device),
        ("b", Role::Device),
        ("ann", Role::Admin),
        ("iotflow", Role::Service),
    ])
    .await;
    site.join("a", "north").await;
    site.in_force().await;
    deed(&site, |authority| {
        let names = ["a", "b", "ann", "aa:bb:cc"].map(|name| DeviceIdRef::parse(name).expect("a device id"));
        authority.issue_devices(&names, LEAF_VALIDITY)
    });
    site
}

fn deed(site: &Site, what: impl FnOnce(&mut Authority) -> Result<Change, iotflow::broker::certs::error::AuthorityError>) -> Change {
    let mut authority = Authority::open(&site.paths.certs()).unwrap_or_else(|error| panic!("{error}"));
    what(&mut authority).unwrap_or_else(|error| panic!("{error}"))
}

async fn may_publish(person: &mut Person, topic: &str) -> bool {
    person.publish(topic, "x").await.expect("it stays connected") != PubAckReason::NotAuthorized
}

#[tokio::test]
async fn the_common_name_is_the_identity_whatever_the_client_id_and_the_user_name_are() {
    let site = site().await;
    let mut victim = site.device("b").await;
    for name in ["a", "aa:bb:cc"] {
        let mut person = site.certified(name, "b").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            may_publish(&mut person, &format!("iotflow/devices/{name}/telemetry/sensors")).await,
            "{name}"
        );
        for topic in [
            "iotflow/devices/b/telemetry/sensors",
            "iotflow/devices/b/commands/control",
            "iotflow/system/health",
        ] {
            assert!(!may_publish(&mut person, topic).await, "{name} on {topic}");
        }
        person.leave().await;
    }
    assert!(victim.is_connected().await, "a client id took another's session");
    let mut config = login(site.ports.mutual_tls, Some(("ann", PASSWORD)));
    config.tls = Some(tls(&site.paths, Some("a")));
    let mut person = Person::connect(&config, "x").await.expect("the certificate is good");
    assert!(
        !may_publish(&mut person, "iotflow/system/health").await,
        "a user name made more of a certificate"
    );
}

#[tokio::test]
async fn a_certificate_makes_nobody_more_than_a_device() {
    let site = site().await;
    let mut person = site.certified("ann", "x").await.expect("the certificate is good");
    for topic in [
        "iotflow/system/health",
        "iotflow/devices/a/commands/control",
        "iotflow/devices/a/telemetry/sensors",
    ] {
        assert!(!may_publish(&mut person, topic).await, "{topic}");
    }
    person.subscribe(&["#", "$SYS/#"]).await;
    let mut service = site.staff("iotflow", "commands").await;
    for topic in [
        "iotflow/devices/a/commands/control",
        "iotflow/fleet/commands/north",
        "iotflow/devices/ann/commands/control",
    ] {
        service.publish(topic, topic).await.expect("it may");
    }
    person.receive_until("iotflow/devices/ann/commands/control").await;
    assert_eq!(person.received.len(), 1, "{:?}", person.received);
}

#[tokio::test]
async fn membership_counts_for_a_certificate_too() {
    let site = site().await;
    let mut member = site.certified("a", "x").await.expect("the certificate is good");
    let mut other = site.certified("b", "x").await.expect("the certificate is good");
    let mut service = site.staff("iotflow", "commands").await;
    for person in [&mut member, &mut other] {
        person
            .subscribe(&["iotflow/fleet/commands/+", "iotflow/devices/+/commands/control"])
            .await;
    }
    service
        .publish("iotflow/fleet/commands/north", "to the group")
        .await
        .expect("it may");
    for name in ["a", "b"] {
        service
            .publish(&format!("iotflow/devices/{name}/commands/control"), "the last")
            .await
            .expect("it may");
    }
    member.receive_until("the last").await;
    other.receive_until("the last").await;
    assert!(member.received.iter().any(|(_, payload)| payload == "to the group"));
    assert_eq!(other.received.len(), 1);
}

#[tokio::test]
async fn who_is_shut_out_is_disconnected_and_can_do_nothing_with_a_good_certificate() {
    let site = site().await;
    let mut device = site.certified("a", "x").await.expect("the certificate is good");
    let mut other = site.certified("b", "x").await.expect("the certificate is good");
    let sql = async |statement: &str| {
        site.sql.batch_execute(statement).await.expect("it is there");
        site.in_force().await;
    };
    sql("UPDATE broker_users SET disabled_at = now() WHERE username = 'a'").await;
    device.until_disconnected().await;
    // Mosquitto lets the certificate in, for it is good; and then nothing is granted.
    let mut device = site.certified("a", "x").await.expect("the certificate is good");
    device.subscribe(&["#"]).await;
    assert!(!may_publish(&mut device, "iotflow/devices/a/telemetry/sensors").await);
    site.staff("iotflow", "commands")
        .await
        .publish("iotflow/devices/a/commands/control", "x")
        .await
        .expect("it may");
    assert!(device.is_connected().await && device.received.is_empty());
    assert!(other.is_connected().await, "another was dropped");
    device.leave().await;

    sql("UPDATE broker_users SET disabled_at = NULL WHERE username = 'a'").await;
    let mut device = site.certified("a", "x").await.expect("the certificate is good");
    assert!(may_publish(&mut device, "iotflow/devices/a/telemetry/sensors").await);
}

/// Whether the device of this name may do something with its certificate, which the broker lets in either way.
async fn is_let_in(site: &Site, name: &str) -> bool {
    site.in_force().await;
    let topic = format!("iotflow/devices/{name}/telemetry/sensors");
    // Sessions of whoever was shut out are ended once that is in force, and such an end may meet this one.
    eventually("a connection lasts", async || {
        let mut person = site.certified(name, "x").await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let answer = person.publish(&topic, "x").await.ok()?;
        person.leave().await;
        Some(answer != PubAckReason::NotAuthorized)
    })
    .await
}

fn id(text: &str) -> DeviceId {
    DeviceIdRef::parse(text).expect("a device id").to_owned()
}

fn registration(name: &str) -> Registration {
    Registration {
        id: id(name),
        description: Default::default(),
        groups: Vec::new(),
        credentials: Wanted::default(),
    }
}

const PASSWORD_ONLY: Wanted = Wanted {
    mqtt: true,
    api_key: false,
};

#[tokio::test]
async fn a_certificate_opens_nothing_to_who_is_disabled_whatever_becomes_of_its_other_credentials() {
    let mut site = site().await;
    let (ada, a) = (Actor::new("ada", "192.0.2.7"), id("a"));
    devices::set_enabled(&mut site.sql, &ada, &a, false).await.expect("it is shut out");
    assert!(!is_let_in(&site, "a").await);
    credentials::revoke(&mut site.sql, &ada, &a).await.expect("they are taken away");
    assert!(!is_let_in(&site, "a").await, "without a line of its own");
    credentials::rotate(&mut site.sql, &ada, &a, PASSWORD_ONLY)
        .await
        .expect("it gets another");
    assert!(!is_let_in(&site, "a").await, "with another password");
    devices::set_enabled(&mut site.sql, &ada, &a, true).await.expect("it is let in");
    assert!(is_let_in(&site, "a").await);

    credentials::revoke(&mut site.sql, &ada, &a).await.expect("they are taken away");
    assert!(!is_let_in(&site, "a").await, "who was not disabled before");
    credentials::rotate(&mut site.sql, &ada, &a, PASSWORD_ONLY)
        .await
        .expect("it gets another");
    assert!(is_let_in(&site, "a").await, "it was given credentials again");
    let tree = TopicTree::new("iotflow").expect("a base topic");
    devices::delete(&mut site.sql, &ada, &tree, &a, None).await.expect("it is deleted");
    assert!(!is_let_in(&site, "a").await, "it was deleted");
    devices::register(&mut site.sql, &ada, &registration("a"))
        .await
        .expect("it is registered");
    assert!(is_let_in(&site, "a").await, "it is somebody new");
}

#[tokio::test]
async fn who_has_a_certificate_and_no_line_at_the_broker_is_shut_out_all_the_same() {
    let mut site = site().await;
    let ada = Actor::new("ada", "192.0.2.7");
    for name in ["aa:bb:cc", "ann"] {
        devices::register(&mut site.sql, &ada, &registration(name))
            .await
            .expect("it is registered");
        assert!(is_let_in(&site, name).await, "{name}");
        let mut device = site.certified(name, "x").await.expect("the certificate is good");
        devices::set_enabled(&mut site.sql, &ada, &id(name), false)
            .await
            .expect("it is shut out");
        device.until_disconnected().await;
        assert!(!is_let_in(&site, name).await, "{name}");
    }
    devices::register(&mut site.sql, &ada, &registration("late"))
        .await
        .expect("it is registered");
    devices::set_enabled(&mut site.sql, &ada, &id("late"), false)
        .await
        .expect("it is shut out");
    deed(&site, |authority| {
        authority.issue_device(DeviceIdRef::parse("late").expect("a device id"), LEAF_VALIDITY)
    });
    assert!(!is_let_in(&site, "late").await, "it got its certificate when it was disabled");
    // An admin is no device, though one is called the same.
    let mut admin = site.staff("ann", "admin").await;
    assert!(may_publish(&mut admin, "iotflow/system/health").await);
    devices::set_enabled(&mut site.sql, &ada, &id("aa:bb:cc"), true)
        .await
        .expect("it is let in");
    assert!(is_let_in(&site, "aa:bb:cc").await);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_session_can_be_ended() {
    let site = site().await;
    let mut device = site.certified("a", "x").await.expect("the certificate is good");
    let mut other = site.certified("b", "x").await.expect("the certificate is good");
    let lost = DeviceIdRef::parse("a").expect("a device id").to_owned();
    deed(&site, |authority| authority.revoke(&Which::Device(lost)));
    site.applier.process.reload().expect("the broker runs");
    eventually("the broker refuses the certificate", async || site.certified("a", "x").await.err()).await;
    let left = site.applier.end_sessions(["a".to_owned()].into()).await;
    assert!(left.is_empty());
    device.until_disconnected().await;
    assert!(other.is_connected().await, "another was dropped");
}

#[tokio::test]
async fn by_tls_a_password_is_asked_for() {
    let site = site().await;
    let config = |user| iotflow::mqtt::config::Config {
        tls: Some(tls(&site.paths, None)),
        ..login(site.ports.tls, user)
    };
    let mut device = Person::connect(&config(Some(("a", PASSWORD))), "b")
        .await
        .expect("its credential is good");
    assert!(may_publish(&mut device, "iotflow/devices/a/telemetry/sensors").await);
    assert!(!may_publish(&mut device, "iotflow/devices/b/telemetry/sensors").await);
    for user in [None, Some(("a", "another"))] {
        assert!(Person::connect(&config(user), "x").await.is_err(), "{user:?}");
    }
    // Without a certificate nobody gets past the handshake of the other listener.
    let bare = iotflow::mqtt::config::Config {
        tls: Some(tls(&site.paths, None)),
        ..login(site.ports.mutual_tls, Some(("a", PASSWORD)))
    };
    assert!(Person::connect(&bare, "x").await.is_err());
}

#[tokio::test]
async fn a_list_of_devices_that_goes_missing_is_noticed_as_open() {
    let site = Site::with_certificates().await;
    std::fs::remove_file(site.paths.access().join("acl.devices")).expect("it is ours");
    site.applier.process.reload().expect("the broker runs");
    let error = eventually("the broker is open", async || site.applier.prove().await.err()).await;
    assert!(error.is_open(), "{error}");
}
