//! Credentials: shown once, stored as hashes, given anew, taken away.

use iotflow::broker::passwords::Hash;
use iotflow::devices::registry;
use iotflow::identity::device_keys::{self, KeyError};
use iotflow::identity::users;
use iotflow::operations::credentials::{self as operations, CredentialError, Wanted};
use iotflow::operations::devices::{self, Registration};
use iotflow::protocol::id::Username;
use iotflow::protocol::rights::Role;
use tokio_postgres::Client;

use crate::registry::{id, plain, tree};
use crate::support::judge::{number, texts};
use crate::trial::{Trial, ada};

const BOTH: Wanted = Wanted { mqtt: true, api_key: true };
const MQTT: Wanted = Wanted {
    mqtt: true,
    api_key: false,
};

async fn hash(sql: &Client, device: &str) -> Option<Hash> {
    let user = users::get(sql, &Username::parse(device).expect("a name"))
        .await
        .expect("it answers")?;
    user.password_hash.map(|hash| Hash::parse(&hash).expect("of the form"))
}

#[tokio::test]
async fn a_device_is_registered_with_what_it_logs_in_with_and_that_is_shown_once() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let wanted = Registration {
        credentials: BOTH,
        ..plain("a")
    };
    let made = devices::register(&mut sql, &ada(), &wanted).await.expect("it is registered");
    let (login, key) = (made.issued.mqtt.expect("a login"), made.issued.api_key.expect("a key"));
    assert_eq!((login.username.as_str(), key.reveal().starts_with("iotk_")), ("a", true));
    assert!(made.device.has_mqtt_credentials && made.device.has_api_key && made.device.enabled);
    assert!(hash(&sql, "a").await.expect("it has one").is_of(&login.password));
    let holder = device_keys::verify(&sql, key.reveal()).await.expect("it is taken");
    assert_eq!((holder.number, holder.id), (made.device.number, id("a")));
    let stored = texts(
        &sql,
        "SELECT t::text FROM device_keys t UNION ALL SELECT u::text FROM broker_users u UNION ALL SELECT a::text FROM audit_log a",
    )
    .await;
    for secret in [login.password.reveal(), &key.reveal()["iotk_".len()..]] {
        assert!(stored.iter().all(|row| !row.contains(secret)));
    }
    // A use is noted once a minute.
    let used = "SELECT (extract(epoch FROM last_used_at) * 1000000)::int8 FROM device_keys";
    let first = number(&sql, used).await;
    device_keys::verify(&sql, key.reveal()).await.expect("it is taken");
    assert_eq!(number(&sql, used).await, first);
}

#[tokio::test]
async fn after_a_rotation_the_old_credentials_are_refused_and_a_device_that_is_shut_out_stays_so() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    let made = devices::register(
        &mut sql,
        &ada(),
        &Registration {
            credentials: BOTH,
            ..plain("a")
        },
    )
    .await
    .expect("it is registered")
    .issued;
    let (old_login, old_key) = (made.mqtt.expect("a login"), made.api_key.expect("a key"));
    let new = operations::rotate(&mut sql, &ada(), &id("a"), BOTH).await.expect("it is rotated");
    let (login, key) = (new.mqtt.expect("a login"), new.api_key.expect("a key"));
    let stored = hash(&sql, "a").await.expect("it has one");
    assert!(stored.is_of(&login.password) && !stored.is_of(&old_login.password));
    assert!(matches!(device_keys::verify(&sql, old_key.reveal()).await, Err(KeyError::Unknown)));
    assert!(matches!(
        operations::rotate(&mut sql, &ada(), &id("a"), Wanted::default()).await,
        Err(CredentialError::Nothing)
    ));
    assert!(matches!(
        operations::rotate(&mut sql, &ada(), &id("x"), BOTH).await,
        Err(CredentialError::Device(registry::RegistryError::Unknown(_)))
    ));

    let shut_out = devices::set_enabled(&mut sql, &ada(), &id("a"), false)
        .await
        .expect("it is shut out");
    assert!(!shut_out.enabled && shut_out.has_api_key);
    assert!(matches!(device_keys::verify(&sql, key.reveal()).await, Err(KeyError::Disabled(_))));
    let new = operations::rotate(&mut sql, &ada(), &id("a"), BOTH).await.expect("it is rotated");
    let key = new.api_key.expect("a key");
    assert!(matches!(device_keys::verify(&sql, key.reveal()).await, Err(KeyError::Disabled(_))));
    devices::set_enabled(&mut sql, &ada(), &id("a"), true).await.expect("it is let in");
    device_keys::verify(&sql, key.reveal()).await.expect("it is taken");

    let revoked = operations::revoke(&mut sql, &ada(), &id("a")).await.expect("it is revoked");
    assert!(revoked.mqtt && revoked.api_key);
    assert!(hash(&sql, "a").await.is_none());
    assert!(matches!(device_keys::verify(&sql, key.reveal()).await, Err(KeyError::Unknown)));
    let device = registry::get(&sql, &id("a")).await.expect("it is still there");
    assert!(!device.has_mqtt_credentials && !device.has_api_key && !device.enabled);
    assert_eq!(
        texts(&sql, "SELECT action FROM audit_log ORDER BY id").await,
        [
            "device.create",
            "credentials.rotate",
            "device.disable",
            "credentials.rotate",
            "device.enable",
            "credentials.revoke"
        ]
    );
}

#[tokio::test]
async fn who_loses_its_credentials_is_shut_out_until_it_is_given_others_and_who_is_disabled_until_it_is_enabled() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for device in ["a", "b", "c"] {
        devices::register(&mut sql, &ada(), &plain(device)).await.expect("it is registered");
        users::create(&sql, &Username::parse(device).expect("a name"), Role::Device, None)
            .await
            .expect("it is made");
    }
    assert!(registry::get(&sql, &id("a")).await.expect("it is there").has_mqtt_credentials);
    let shut_out = "SELECT device FROM devices WHERE shut_out_at IS NOT NULL ORDER BY 1";
    assert!(operations::revoke(&mut sql, &ada(), &id("a")).await.expect("it is revoked").mqtt);
    devices::delete(&mut sql, &ada(), &tree(), &id("b"), None)
        .await
        .expect("it is deleted");
    for _ in 0..2 {
        let disabled = devices::set_enabled(&mut sql, &ada(), &id("c"), false).await;
        assert!(!disabled.expect("it is shut out").enabled);
        operations::revoke(&mut sql, &ada(), &id("c")).await.expect("it is revoked");
    }
    assert_eq!(
        texts(&sql, shut_out).await,
        ["a", "b", "c"],
        "without a line of its own a certificate would let it in"
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM broker_users").await, 0);
    // Who gets a credential again may come again, by whichever door, but for who is disabled.
    for (device, wanted, lets_in) in [("a", MQTT, true), ("c", BOTH, false)] {
        let issued = operations::rotate(&mut sql, &ada(), &id(device), wanted)
            .await
            .expect("it is rotated");
        assert_eq!(registry::get(&sql, &id(device)).await.expect("it is there").enabled, lets_in);
        if let Some(key) = issued.api_key {
            assert!(matches!(device_keys::verify(&sql, key.reveal()).await, Err(KeyError::Disabled(_))));
        }
    }
    let back = Registration {
        credentials: BOTH,
        ..plain("b")
    };
    let back = devices::register(&mut sql, &ada(), &back).await.expect("it is registered");
    device_keys::verify(&sql, back.issued.api_key.expect("a key").reveal())
        .await
        .expect("it is taken");
    let enabled = devices::set_enabled(&mut sql, &ada(), &id("c"), true).await;
    assert!(enabled.expect("it is let in").enabled);
}

#[tokio::test]
async fn whoever_was_shut_out_before_is_so_after_the_migration() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    for device in ["by-user", "by-key", "deleted", "fine"] {
        let made = Registration {
            credentials: BOTH,
            ..plain(device)
        };
        devices::register(&mut sql, &ada(), &made).await.expect("it is registered");
    }
    sql.batch_execute(
        "DROP TRIGGER access_changed_on_insert ON devices; DROP TRIGGER access_changed_on_update ON devices;
         DROP FUNCTION broker_access_is_to_change CASCADE;
         ALTER TABLE devices DROP COLUMN shut_out_at, DROP COLUMN disabled;
         UPDATE broker_users SET disabled_at = now() WHERE username = 'by-user';
         UPDATE device_keys SET disabled_at = now() WHERE device_id = (SELECT device_id FROM devices WHERE device = 'by-key');
         UPDATE devices SET deleted_at = now() WHERE device = 'deleted'",
    )
    .await
    .expect("sound statements");
    let migration = include_str!("../../migrations/V8__shut_out.sql");
    sql.batch_execute(migration).await.expect("it migrates");
    assert_eq!(
        texts(
            &sql,
            "SELECT device || disabled FROM devices WHERE shut_out_at IS NOT NULL ORDER BY 1"
        )
        .await,
        ["by-keytrue", "by-usertrue", "deletedfalse"]
    );
}

#[tokio::test]
async fn an_id_that_the_broker_cannot_take_is_refused_whole() {
    let trial = Trial::start().await;
    let mut sql = trial.sql().await;
    users::create(&sql, &Username::parse("admin").expect("a name"), Role::Admin, None)
        .await
        .expect("it is made");
    for (device, reason) in [
        ("aa:bb", "a user name with a colon cannot have a password"),
        (".x", "begins with none of"),
        ("iotflow-x", "the service's own"),
        ("admin", "there is a user admin already"),
    ] {
        let wanted = Registration {
            credentials: BOTH,
            ..plain(device)
        };
        let refused = devices::register(&mut sql, &ada(), &wanted).await.expect_err(device).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM devices").await, 0);
    assert_eq!(number(&sql, "SELECT count(*) FROM device_keys").await, 0);
    // A key for HTTP has no such grammar.
    let key_only = Registration {
        credentials: Wanted {
            mqtt: false,
            api_key: true,
        },
        ..plain("aa:bb")
    };
    let made = devices::register(&mut sql, &ada(), &key_only).await.expect("it is registered");
    device_keys::verify(&sql, made.issued.api_key.expect("a key").reveal())
        .await
        .expect("it is taken");
    devices::set_enabled(&mut sql, &ada(), &id("aa:bb"), false)
        .await
        .expect("it is shut out");
}
