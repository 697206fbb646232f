//! A courier before a broker that does as the test says, and a real database.

use std::time::{Duration, Instant};

use iotflow::courier::discovery::{self, Clerk};
use iotflow::courier::session::{Config, Courier, Parts};
use iotflow::db::config::Config as DbConfig;
use iotflow::db::lease::Lease;
use iotflow::db::migrate::migrate;
use iotflow::db::pool;
use iotflow::lifecycle::readiness::Readiness;
use iotflow::mqtt::config::Config as MqttConfig;
use iotflow::mqtt::publisher::Publisher;
use iotflow::observe::metrics::Metrics;
use iotflow::operations::commands::{self, Order, Recipient};
use iotflow::protocol::command::CommandId;
use iotflow::protocol::topic::TopicTree;
use iotflow::stack::postgres::Postgres;
use metrics::Counter;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet, PubAck, PubComp, PubRec, PubRel, Publish};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::plant::{ada, device, order};
use crate::support::fake_broker::{FakeBroker, Peer};
use crate::support::judge::until_number;
use crate::support::servers::{connect, folder, start_postgres};
use crate::support::{PATIENCE, pause};

/// Far more often than a lease becomes doubtful.
const CONFIRMED_EVERY: Duration = Duration::from_millis(500);

pub struct Stage {
    pub broker: FakeBroker,
    pub sql: Client,
    pub db: DbConfig,
    /// How much it listens to one device.
    pub config: Config,
    /// What the broker says of itself to those who come.
    pub properties: Option<ConnAckProperties>,
    /// And whoever confirms its lease.
    courier: Option<(JoinHandle<()>, JoinHandle<()>)>,
    _postgres: Postgres,
    _folder: TempDir,
}

impl Stage {
    pub async fn set() -> Self {
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
            config: Config::default(),
            properties: None,
            courier: None,
            _postgres: postgres,
            _folder: folder,
        }
    }

    /// A courier comes (after the one before was killed), and is let in.
    pub async fn enter(&mut self, session_present: bool) -> Peer {
        self.kill().await;
        let held = || Lease::Held { confirmed: Instant::now() };
        let (keeper, lease) = watch::channel(held());
        let confirm = async move {
            while keeper.send(held()).is_ok() {
                pause(CONFIRMED_EVERY).await;
            }
        };
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
            config: self.config,
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
        self.courier = Some((tokio::spawn(courier.run()), tokio::spawn(confirm)));
        let accepted = timeout(PATIENCE, self.broker.accept(session_present, self.properties.clone())).await;
        let mut peer = accepted.expect("the courier comes");
        assert_eq!(peer.client_id, "iotflow-test-courier");
        peer.answer_subscribe().await;
        peer
    }

    /// As kill -9 does: nothing more is said or written.
    pub async fn kill(&mut self) {
        if let Some((task, keeper)) = self.courier.take() {
            keeper.abort();
            task.abort();
            assert!(task.await.is_err_and(|error| error.is_cancelled()), "it was running");
        }
    }

    pub async fn give(&mut self, command: &str) -> CommandId {
        self.send(&device("pump"), &order(command)).await
    }

    pub async fn send(&mut self, to: &Recipient, order: &Order<'_>) -> CommandId {
        let given = commands::send(&mut self.sql, &ada(), to, order).await;
        given.expect("a sound order").command_id
    }

    /// Every delivery is in this state, with a packet under way or without.
    pub async fn until(&self, state: &str, under_way: bool) {
        let others = format!("SELECT count(*) FROM command_deliveries WHERE state <> '{state}' OR (packet_id IS NOT NULL) <> {under_way}");
        until_number(&self.sql, &others, 0).await;
    }
}

pub async fn publish(peer: &mut Peer) -> Publish {
    match timeout(PATIENCE, peer.next()).await.expect("a publish is due") {
        Some(Packet::Publish(publish)) => publish,
        other => panic!("{other:?} in place of a PUBLISH"),
    }
}

pub async fn released(peer: &mut Peer, packet_id: u16) {
    let said = timeout(PATIENCE, peer.next()).await.expect("a PUBREL is due");
    assert_eq!(said, Some(Packet::PubRel(PubRel::new(packet_id, None))));
}

pub async fn silent(peer: &mut Peer) {
    let said = timeout(Duration::from_millis(300), peer.next()).await;
    assert!(said.is_err(), "{said:?} when nothing was to be said");
}

/// Says what a broker says to this packet of a publish that it takes.
pub async fn take(peer: &mut Peer, packet: &Packet) {
    match packet {
        Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce => peer.send(Packet::PubAck(PubAck::new(publish.pkid, None))).await,
        Packet::Publish(publish) if publish.qos == QoS::ExactlyOnce => peer.send(Packet::PubRec(PubRec::new(publish.pkid, None))).await,
        Packet::PubRel(release) => peer.send(Packet::PubComp(PubComp::new(release.pkid, None))).await,
        _ => {}
    }
}
