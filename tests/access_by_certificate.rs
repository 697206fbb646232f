//! Who may do what, for those whose identity is a certificate's common name.

mod support;

use iotflow::broker::certs::authority::{Authority, Change};
use iotflow::broker::certs::index::Which;
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::rights::Role;
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
