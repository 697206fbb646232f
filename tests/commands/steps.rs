//! Every step of the conversation with the broker, and the courier killed in between: a broker that does as the test says, and a real
//! database.

use std::time::{Duration, Instant};

use iotflow::courier::discovery::{self, Clerk};
use iotflow::courier::session::{Courier, Parts};
use iotflow::db::config::Config as DbConfig;
use iotflow::db::lease::Lease;
use iotflow::db::migrate::migrate;
use iotflow::db::pool;
use iotflow::lifecycle::readiness::Readiness;
use iotflow::mqtt::config::Config as MqttConfig;
use iotflow::mqtt::publisher::Publisher;
use iotflow::observe::metrics::Metrics;
use iotflow::operations::commands;
use iotflow::protocol::command::CommandId;
use iotflow::protocol::topic::TopicTree;
use iotflow::stack::postgres::Postgres;
use metrics::Counter;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubComp, PubRec, PubRecReason, PubRel, Publish};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::plant::{ada, device, order};
use crate::support::fake_broker::{FakeBroker, Peer};
use crate::support::judge::{texts, until_number};
use crate::support::servers::{connect, folder, start_postgres};

struct Stage {
    broker: FakeBroker,
    sql: Client,
    db: DbConfig,
    courier: Option<(JoinHandle<()>, watch::Sender<Lease>)>,
    _postgres: Postgres,
    _folder: TempDir,
}

impl Stage {
    async fn set() -> Self {
        let folder = folder();
        let (postgres, _) = start_postgres(folder.path()).await;
        let db = DbConfig {
            url: postgres.url().clone(),
            ..DbConfig::default()
        };
        migrate(&db).await.expect("it migrates");
        let sql = connect(postgres.url().reveal()).await;
        sql.batch_execute("INSERT INTO devices (device) VALUES ('pump')")
            .await
            .expect("it is new");
        Self {
            broker: FakeBroker::listen().await,
            sql,
            db,
            courier: None,
            _postgres: postgres,
            _folder: folder,
        }
    }

    /// A courier comes (after the one before was killed), and is let in.
    async fn enter(&mut self, session_present: bool) -> Peer {
        self.kill().await;
        let (keeper, lease) = watch::channel(Lease::Held { confirmed: Instant::now() });
        let mqtt = MqttConfig {
            host: "127.0.0.1".to_owned(),
            port: self.broker.port,
            keep_alive: Duration::from_secs(60),
            ..MqttConfig::default()
        };
        let tree = TopicTree::new("iotflow").expect("a base topic");
        let (metrics, stop, latch) = (
            Metrics::new(),
            CancellationToken::new(),
            Readiness::default().latch("broker/courier"),
        );
        // Nobody registers here, and nobody looks after it.
        let (_, publisher) = Publisher::new(&mqtt, "test", latch.clone(), metrics.connection("publisher"), stop.clone());
        let pool = pool::pool(&self.db, "clerk", 1).expect("a sound URL");
        let (_, registrations) = Clerk::new(
            discovery::Config::default(),
            tree.clone(),
            pool,
            publisher,
            [Counter::noop(), Counter::noop()],
        );
        let parts = Parts {
            mqtt,
            db: self.db.clone(),
            tree,
            lease,
            latch,
            metrics,
            registrations,
            stop,
        };
        let courier = Courier::new("test", parts).expect("a sound URL");
        self.courier = Some((tokio::spawn(courier.run()), keeper));
        let mut peer = self.broker.accept(session_present, None).await;
        assert_eq!(peer.client_id, "iotflow-test-courier");
        peer.answer_subscribe().await;
        peer
    }

    /// As kill -9 does: nothing more is said or written.
    async fn kill(&mut self) {
        if let Some((task, _)) = self.courier.take() {
            task.abort();
            assert!(task.await.is_err_and(|error| error.is_cancelled()), "it was running");
        }
    }

    async fn give(&mut self, command: &str) -> CommandId {
        let given = commands::send(&mut self.sql, &ada(), &device("pump"), &order(command)).await;
        given.expect("a sound order").command_id
    }

    /// Every delivery is in this state, with a packet under way or without.
    async fn until(&self, state: &str, under_way: bool) {
        let others = format!("SELECT count(*) FROM command_deliveries WHERE state <> '{state}' OR (packet_id IS NOT NULL) <> {under_way}");
        until_number(&self.sql, &others, 0).await;
    }
}

async fn publish(peer: &mut Peer) -> Publish {
    match peer.next().await {
        Some(Packet::Publish(publish)) => publish,
        other => panic!("{other:?} in place of a PUBLISH"),
    }
}

async fn released(peer: &mut Peer, packet_id: u16) {
    assert_eq!(peer.next().await, Some(Packet::PubRel(PubRel::new(packet_id, None))));
}

async fn silent(peer: &mut Peer) {
    let said = timeout(Duration::from_millis(300), peer.next()).await;
    assert!(said.is_err(), "{said:?} when nothing was to be said");
}

#[tokio::test]
async fn a_publish_without_an_answer_is_said_again_under_its_id() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    stage.give("second").await;
    let (first, second) = (publish(&mut peer).await, publish(&mut peer).await);
    assert!(!first.dup && first.pkid != second.pkid);
    let mut peer = stage.enter(true).await;
    for known in [&first, &second] {
        let again = publish(&mut peer).await;
        assert!(again.dup);
        assert_eq!(
            (again.pkid, &again.payload, &again.topic),
            (known.pkid, &known.payload, &known.topic)
        );
    }
    for packet_id in [first.pkid, second.pkid] {
        peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
        released(&mut peer, packet_id).await;
    }
    stage.until("sent", true).await;
    for packet_id in [first.pkid, second.pkid] {
        peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    }
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

#[tokio::test]
async fn what_the_broker_has_is_released_again_and_not_published() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let packet_id = publish(&mut peer).await.pkid;
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    released(&mut peer, packet_id).await;
    let mut peer = stage.enter(true).await;
    released(&mut peer, packet_id).await;
    silent(&mut peer).await;
    // Even by a broker that says it twice.
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    released(&mut peer, packet_id).await;
    peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    stage.until("sent", false).await;
}

#[tokio::test]
async fn with_the_session_gone_only_what_it_had_not_is_published_anew() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("taken").await;
    let taken = publish(&mut peer).await;
    peer.send(Packet::PubRec(PubRec::new(taken.pkid, None))).await;
    released(&mut peer, taken.pkid).await;
    stage.give("lost").await;
    let lost = publish(&mut peer).await;
    let mut peer = stage.enter(false).await;
    let anew = publish(&mut peer).await;
    assert_eq!((anew.dup, &anew.payload), (false, &lost.payload));
    peer.send(Packet::PubRec(PubRec::new(anew.pkid, None))).await;
    released(&mut peer, anew.pkid).await;
    peer.send(Packet::PubComp(PubComp::new(anew.pkid, None))).await;
    stage.until("sent", false).await;
    silent(&mut peer).await;
}

#[tokio::test]
async fn nothing_is_said_before_it_is_written() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    let id = stage.give("first").await;
    let packet_id = publish(&mut peer).await.pkid;
    let mut other = connect(stage.db.url.reveal()).await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("SELECT FROM command_deliveries FOR UPDATE", &[])
        .await
        .expect("it is there");
    peer.send(Packet::PubRec(PubRec::new(packet_id, None))).await;
    silent(&mut peer).await;
    lock.rollback().await.expect("it can be given back");
    released(&mut peer, packet_id).await;
    peer.send(Packet::PubComp(PubComp::new(packet_id, None))).await;
    stage.until("sent", false).await;
    let lock = other.transaction().await.expect("a transaction");
    lock.execute("SELECT FROM command_deliveries FOR UPDATE", &[])
        .await
        .expect("it is there");
    let answer = format!(r#"{{"command_id":"{id}","status":"completed"}}"#);
    peer.deliver(9, "iotflow/devices/pump/commands/response", &answer).await;
    silent(&mut peer).await;
    lock.rollback().await.expect("it can be given back");
    assert_eq!(peer.next().await, Some(Packet::PubAck(PubAck::new(9, None))));
    assert_eq!(texts(&stage.sql, "SELECT state FROM command_deliveries").await, ["completed"]);
}

#[tokio::test]
async fn a_refusal_ends_a_command_with_the_brokers_words() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage.give("first").await;
    let mut refusal = PubRec::new(publish(&mut peer).await.pkid, None);
    refusal.reason = PubRecReason::NotAuthorized;
    peer.send(Packet::PubRec(refusal)).await;
    stage.until("failed", false).await;
    let words = texts(&stage.sql, "SELECT message FROM command_deliveries").await;
    assert_eq!(words, ["the broker refused it: 0x87 (not authorized)"]);
    silent(&mut peer).await;
}

#[tokio::test]
async fn a_letter_goes_when_the_broker_has_acked_it_and_not_before() {
    let mut stage = Stage::set().await;
    let mut peer = stage.enter(false).await;
    stage
        .sql
        .batch_execute("INSERT INTO outbox (topic, payload, retain) VALUES ('iotflow/a', 'one', true), ('iotflow/a', 'two', true)")
        .await
        .expect("they are sound");
    for expected in [&b"one"[..], b"two"] {
        let letter = publish(&mut peer).await;
        assert_eq!((&letter.payload[..], letter.retain), (expected, true));
    }
    let mut peer = stage.enter(true).await;
    for expected in [&b"one"[..], b"two"] {
        let letter = publish(&mut peer).await;
        assert_eq!(&letter.payload[..], expected, "again, in order");
        peer.send(Packet::PubAck(PubAck::new(letter.pkid, None))).await;
    }
    until_number(&stage.sql, "SELECT count(*) FROM outbox", 0).await;
    silent(&mut peer).await;
}
