//! A crowd that asks at once gets its credentials together, and a crash in the middle gives nobody two and leaves nobody without.

use std::collections::BTreeMap;

use iotflow::protocol::rights::Role;
use serde_json::{Value, json};

use super::support::eventually;
use super::support::judge::number;
use super::support::person::Person;
use super::support::servers::connect;
use super::trial::{Trial, ask, register, response};

/// More than go on record together.
const CROWD: usize = 200;

fn names() -> Vec<String> {
    (0..CROWD).map(|number| format!("meter-{number}")).collect()
}

async fn open_to_all() -> Trial {
    Trial::start(
        Role::ProvisioningPlain,
        &[("DISCOVERY_POLICY", "open"), ("DISCOVERY_RATE", "10000")],
    )
    .await
}

/// All of them ask, while nobody is there to hear it: the broker keeps it for the service.
async fn ask_together(trial: &mut Trial, newcomer: &mut Person) {
    trial.service.terminate().await;
    for device in names() {
        newcomer.publish(&register(&device), "{}").await.expect("it is connected");
    }
}

fn password(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    answer["credentials"]["password"].as_str().expect("a password").to_owned()
}

/// Each can log in with what it was told.
async fn are_let_in(trial: &Trial, told: &BTreeMap<String, String>) {
    for (device, password) in told {
        let config = trial.way_in(false, (device, password));
        let what = format!("the credentials of {device} are good");
        let person = eventually(&what, async || Person::connect(&config, device).await.ok()).await;
        person.leave().await;
    }
}

#[tokio::test]
async fn a_crowd_gets_its_credentials_by_few_changes_of_the_broker() {
    let mut trial = open_to_all().await;
    let mut newcomer = trial.newcomer(false).await;
    newcomer.subscribe(&[&response("+")]).await;
    ask_together(&mut trial, &mut newcomer).await;
    let version = "SELECT version FROM broker_access";
    let before = number(&trial.site.sql, version).await;
    trial.start_again().await;
    let mut told = BTreeMap::new();
    for device in names() {
        let answer = newcomer.take(&response(&device)).await;
        told.insert(device, password(&answer));
    }
    // Each change is a reload where it comes alone, and who is let in one by one comes alone.
    let changes = number(&trial.site.sql, version).await - before;
    assert!(changes <= 50, "{changes} changes for {CROWD} devices");
    are_let_in(&trial, &told).await;
    // A further one is answered after all of them are on record.
    ask(&mut newcomer, "late", &json!({})).await;
    assert!(newcomer.received.is_empty(), "{:?}", newcomer.received);
    let issued = "SELECT count(*) FROM audit_log WHERE action = 'discovery.issue' AND object LIKE 'meter-%'";
    assert_eq!(number(&trial.site.sql, issued).await, 200);
}

#[tokio::test]
async fn a_crash_amid_a_crowd_gives_nobody_two_and_leaves_nobody_without() {
    let mut trial = open_to_all().await;
    let mut newcomer = trial.newcomer(false).await;
    newcomer.subscribe(&[&response("+")]).await;
    ask_together(&mut trial, &mut newcomer).await;
    // Nothing can go on record, so the crash comes between an answer and the note of it.
    let mut sql = connect(trial.site.db.url.reveal()).await;
    let lock = sql.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE audit_log IN SHARE MODE")
        .await
        .expect("nobody has it");
    trial.start_again().await;
    newcomer.receive().await;
    trial.service.kill();
    lock.rollback().await.expect("it lets go");
    trial.start_again().await;
    // One that asks now is answered after whatever is left to do for those before.
    ask(&mut newcomer, "late", &json!({})).await;
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    for (topic, answer) in std::mem::take(&mut newcomer.received) {
        let device = topic.rsplit('/').next().expect("a level").to_owned();
        let other = told.insert(device.clone(), password(&answer));
        assert!(other.is_none(), "{device} was told twice");
    }
    assert!(!told.is_empty());
    are_let_in(&trial, &told).await;
    // Whoever heard nothing asks again.
    let deaf: Vec<String> = names().into_iter().filter(|device| !told.contains_key(device)).collect();
    for device in &deaf {
        newcomer.publish(&register(device), "{}").await.expect("it is connected");
    }
    for device in deaf {
        let answer = newcomer.take(&response(&device)).await;
        told.insert(device, password(&answer));
    }
    assert_eq!(told.len(), CROWD);
    are_let_in(&trial, &told).await;
}
