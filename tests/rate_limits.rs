//! A device that sends more than it may is limited, to the message, and nobody else is: on a real broker and database, and
//! before a broker that does as the test says.

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use tokio_postgres::Client;

use support::eventually;
use support::fake_broker::{FakeBroker, Peer};
use support::fleet::{Fleet, Report};
use support::judge::{number, texts, until_number};
use support::publisher::Publisher;
use support::servers::{Servers, connect, environment, folder, start_postgres};
use support::service::{Service, sum};

/// What the crowd publishes, each of 500 devices twice a second, and the one that publishes fifty times as much.
const CROWD: &[&str] = &["--devices", "500", "--rate", "1000", "--duration", "5", "--connections", "4"];
const NOISY: &[&str] = &["--devices", "1", "--prefix", "noisy-", "--rate", "100", "--duration", "5"];
const RATE: u32 = 10;
const BURST: u32 = 40;

const NOISY_ROWS: &str = "SELECT count(*) FROM telemetry JOIN devices USING (device_id) WHERE device LIKE 'noisy-%'";
const NOISY_LETTERS: &str =
    "SELECT count(*) FROM dead_letters WHERE reason = 'rate_limited' AND topic LIKE 'iotflow/devices/noisy-%' AND length(payload) > 0";
const LETTERS: &str = "SELECT count(*) FROM dead_letters";

fn with(environment: Vec<(String, String)>, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut environment = environment;
    environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

fn limited(environment: Vec<(String, String)>, rate: u32, burst: u32) -> Vec<(String, String)> {
    let (rate, burst) = (rate.to_string(), burst.to_string());
    with(environment, &[("INGEST_DEVICE_RATE", &rate), ("INGEST_DEVICE_BURST", &burst)])
}

/// The account of messages, once nothing is in flight: received, committed, duplicates, dead letters, shed, abandoned.
async fn account(service: &Service) -> BTreeMap<String, f64> {
    eventually("nothing is in flight", async || {
        (service.sum("iotflow_qos_in_flight").await < 0.5).then_some(())
    })
    .await;
    service.series().await
}

fn count(series: &BTreeMap<String, f64>, name: &str) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "counts are whole and small")]
    let count = sum(series, name) as i64;
    count
}

fn latency(report: &Report) -> String {
    ["p50_ms", "p99_ms", "max_ms"]
        .map(|quantile| {
            let span = report.0["verified"]["latency"][quantile].as_f64();
            span.map_or("–".to_owned(), |span| format!("{quantile} {span:.1}"))
        })
        .join(", ")
}

/// Plays the crowd alone, and then the crowd beside the noisy device. Returns what the service then says, how much the noisy
/// one sent, and the most that it could get through.
async fn crowd_and_noise(servers: &Servers, service: &Service, qos: &str) -> (BTreeMap<String, f64>, Report, i64) {
    let url = servers.postgres.url();
    let crowd = |prefix| {
        let arguments = [CROWD, &["--qos", qos, "--prefix", prefix]].concat();
        Fleet::start(servers.mqtt_port, url.reveal(), &arguments)
    };
    let alone = crowd("alone-").report().await;
    alone.assert_exactly_once("the crowd alone");
    let begun = Instant::now();
    let (crowd, noisy) = (
        crowd("crowd-"),
        Fleet::start(servers.mqtt_port, "", &[NOISY, &["--qos", qos]].concat()),
    );
    let (crowd, noisy) = (crowd.report().await, noisy.report().await);
    crowd.assert_exactly_once("the crowd beside the noisy device");
    println!(
        "QoS {qos}, due to committed: alone {}; beside the noisy device {}",
        latency(&alone),
        latency(&crowd)
    );
    let sent = alone.number("/sent") + crowd.number("/sent") + noisy.number("/sent");
    eventually("all are received", async || {
        (service.sum("iotflow_qos_received_total").await as u64 >= sent).then_some(())
    })
    .await;
    let series = account(service).await;
    assert_eq!(count(&series, "iotflow_qos_received_total") as u64, sent);
    let most = i64::from(BURST) + (begun.elapsed().as_secs_f64() * f64::from(RATE)).ceil() as i64;
    (series, noisy, most)
}

#[tokio::test]
async fn at_qos_1_the_surplus_of_a_noisy_device_is_kept_as_dead_letters_and_five_hundred_others_lose_nothing() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &limited(servers.environment(), RATE, BURST)).await;
    let (series, noisy, most) = crowd_and_noise(&servers, &service, "1").await;
    let sql = servers.sql().await;
    let (rows, letters) = (number(&sql, NOISY_ROWS).await, number(&sql, NOISY_LETTERS).await);
    println!(
        "noisy: {} acked, {rows} rows, {letters} dead letters; {most} rows at most",
        noisy.number("/acked")
    );
    // The publisher's acks, the rows, and what the service counted.
    assert_eq!(noisy.number("/acked"), noisy.number("/sent"));
    assert_eq!(rows + letters, noisy.number("/acked") as i64);
    assert!(
        letters > 0 && rows >= i64::from(BURST) && rows <= most,
        "{rows} of at most {most} rows"
    );
    assert_eq!(number(&sql, LETTERS).await, letters, "nobody else has dead letters");
    assert_eq!(count(&series, "iotflow_ingest_rejected_total{reason=\"rate_limited\"}"), letters);
    assert_eq!(count(&series, "iotflow_ingest_rejected_total"), letters);
    assert_eq!(count(&series, "iotflow_qos_dead_lettered_total"), letters);
    assert_eq!(
        count(&series, "iotflow_qos_committed_total"),
        count(&series, "iotflow_qos_received_total") - letters
    );
    for none in [
        "iotflow_qos_shed_total",
        "iotflow_qos_duplicates_total",
        "iotflow_qos_abandoned_total",
    ] {
        assert_eq!(count(&series, none), 0, "{none}");
    }
    eventually("the device is shown among the limited ones", async || {
        let now = service.sum("iotflow_ingest_rate_limited_devices").await;
        // The count may be over before it was looked at: then a new one shows it.
        if now < 0.5 {
            Publisher::new(servers.mqtt_port)
                .flood("iotflow/devices/noisy-00001/telemetry", 10 * BURST, |number| {
                    format!("{{\"v\":{number}}}")
                })
                .await;
        }
        (now == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn at_qos_0_the_surplus_of_a_noisy_device_is_shed_and_five_hundred_others_lose_nothing() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &limited(servers.environment(), RATE, BURST)).await;
    let (series, noisy, most) = crowd_and_noise(&servers, &service, "0").await;
    let sql = servers.sql().await;
    let rows = number(&sql, NOISY_ROWS).await;
    let shed = count(&series, "iotflow_ingest_shed_total{reason=\"rate_limited\"}");
    println!(
        "noisy: {} sent, {rows} rows, {shed} shed; {most} rows at most",
        noisy.number("/sent")
    );
    assert_eq!(rows + shed, noisy.number("/sent") as i64);
    assert!(
        shed > 0 && rows >= i64::from(BURST) && rows <= most,
        "{rows} of at most {most} rows"
    );
    assert_eq!(count(&series, "iotflow_qos_shed_total"), shed);
    assert_eq!(count(&series, "iotflow_ingest_shed_total{reason=\"overload\"}"), 0);
    assert_eq!(
        count(&series, "iotflow_qos_committed_total"),
        count(&series, "iotflow_qos_received_total") - shed
    );
    assert_eq!(number(&sql, LETTERS).await, 0);
}

/// The queue's few places for QoS 0 would be the flood's within a moment, and what others send would be shed.
#[tokio::test]
async fn a_flood_takes_no_places_from_others_while_the_database_stands_still() {
    const FLOOD: u32 = 20_000;
    const OTHERS: u32 = 200;
    let servers = Servers::start().await;
    let places = [("INGEST_QUEUE_QOS0", "500"), ("INGEST_SHARDS", "1"), ("INGEST_BATCH_ROWS", "50")];
    let service = Service::ready(servers.path(), &with(limited(servers.environment(), 1, 10), &places)).await;
    let mut publisher = Publisher::new(servers.mqtt_port);
    publisher.publish("iotflow/devices/first/telemetry", r#"{"v":0}"#).await;
    let mut holder = servers.sql().await;
    until_number(&holder, "SELECT count(*) FROM telemetry", 1).await;
    let lock = holder.transaction().await.expect("a transaction");
    lock.batch_execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("nobody else holds it");
    for number in 0..FLOOD {
        publisher
            .send(
                "iotflow/devices/flood/telemetry",
                format!("{{\"v\":{number}}}"),
                QoS::AtMostOnce,
                false,
            )
            .await;
    }
    for number in 0..OTHERS {
        let topic = format!("iotflow/devices/other-{number}/telemetry");
        publisher.send(&topic, r#"{"v":1}"#, QoS::AtMostOnce, false).await;
    }
    eventually("all are received", async || {
        (service.sum("iotflow_qos_received_total").await >= f64::from(1 + FLOOD + OTHERS)).then_some(())
    })
    .await;
    lock.rollback().await.expect("it is open");
    let series = account(&service).await;
    let rows = "SELECT count(*) FROM telemetry JOIN devices USING (device_id) WHERE device";
    assert_eq!(number(&holder, &format!("{rows} LIKE 'other-%'")).await, i64::from(OTHERS));
    let flood = number(&holder, &format!("{rows} = 'flood'")).await;
    assert_eq!(
        count(&series, "iotflow_ingest_shed_total{reason=\"rate_limited\"}"),
        i64::from(FLOOD) - flood
    );
    assert_eq!(count(&series, "iotflow_ingest_shed_total{reason=\"overload\"}"), 0);
}

/// What a device published while nobody listened comes all at once, which is not the device's doing.
#[tokio::test]
async fn what_waited_at_the_broker_for_a_restart_is_not_held_against_the_device() {
    let servers = Servers::start().await;
    let environment = limited(servers.environment(), 1, 10);
    let mut service = Service::ready(servers.path(), &environment).await;
    let (status, _) = service.terminate().await;
    assert!(status.success());
    Publisher::new(servers.mqtt_port)
        .flood("iotflow/devices/patient/telemetry", 300, |number| format!("{{\"v\":{number}}}"))
        .await;
    let service = Service::ready(servers.path(), &environment).await;
    let sql = servers.sql().await;
    until_number(&sql, "SELECT count(*) FROM telemetry", 300).await;
    assert_eq!(count(&account(&service).await, "iotflow_qos_dead_lettered_total"), 0);
}

async fn take_acks(peer: &mut Peer, packets: impl Iterator<Item = u16>) {
    for packet in packets {
        match peer.next().await {
            Some(Packet::PubAck(ack)) => assert_eq!(ack.pkid, packet),
            other => panic!("{other:?} in place of the PUBACK of {packet}"),
        }
    }
}

/// Readings with a time of their own, each named by its packet id.
fn readings(packets: impl Iterator<Item = u16>) -> Vec<(u16, String)> {
    packets
        .map(|packet| (packet, format!("{{\"v\":{packet},\"ts\":{}}}", 1_790_000_000 + u32::from(packet))))
        .collect()
}

const TOPIC: &str = "iotflow/devices/d/telemetry";

/// What was stored, and what was refused for the rate, by packet id.
async fn verdicts(sql: &Client) -> [Vec<String>; 2] {
    [
        texts(sql, "SELECT value::int8::text FROM readings ORDER BY value").await,
        texts(
            sql,
            "SELECT convert_from(payload, 'UTF8')::json->>'v' FROM dead_letters WHERE reason = 'rate_limited' ORDER BY id",
        )
        .await,
    ]
}

#[tokio::test]
async fn what_comes_again_keeps_its_verdict() {
    let folder = folder();
    let (postgres, _) = start_postgres(folder.path()).await;
    let broker = FakeBroker::listen().await;
    let environment = limited(environment(broker.port, postgres.url().reveal()), 1, 10);
    let service = Service::start(folder.path(), &environment).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    let sql = connect(postgres.url().reveal()).await;
    peer.deliver_together(TOPIC, &readings(1..=60)).await;
    take_acks(&mut peer, 1..=60).await;
    let first = verdicts(&sql).await;
    assert_eq!(first[0].len() + first[1].len(), 60);
    assert!(first[0].len() >= 10 && !first[1].is_empty(), "{first:?}");
    // The acks from the fourth on got lost on the way.
    drop(peer);
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", true, &mut others).await;
    peer.deliver_again(TOPIC, &readings(4..=60)).await;
    take_acks(&mut peer, 4..=60).await;
    assert_eq!(verdicts(&sql).await, first);
    let series = account(&service).await;
    assert_eq!(count(&series, "iotflow_qos_duplicates_total"), first[0].len() as i64 - 3);
    assert_eq!(
        count(&series, "iotflow_ingest_rejected_total{reason=\"rate_limited\"}"),
        2 * first[1].len() as i64,
        "each delivery has its outcome; the rows are as many as before"
    );
}

#[tokio::test]
async fn what_comes_again_is_charged_once() {
    let folder = folder();
    let (postgres, _) = start_postgres(folder.path()).await;
    let broker = FakeBroker::listen().await;
    let environment = limited(environment(broker.port, postgres.url().reveal()), 1, 50);
    let mut service = Service::start(folder.path(), &environment).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    let sql = connect(postgres.url().reveal()).await;
    peer.deliver_together(TOPIC, &readings(1..=40)).await;
    take_acks(&mut peer, 1..=40).await;
    for _ in 0..3 {
        drop(peer);
        peer = broker.accept_subscriber("iotflow-ingest-0", true, &mut others).await;
        peer.deliver_again(TOPIC, &readings(1..=40)).await;
        take_acks(&mut peer, 1..=40).await;
    }
    // The burst's other ten are there still.
    peer.deliver_together(TOPIC, &readings(41..=50)).await;
    take_acks(&mut peer, 41..=50).await;
    assert_eq!(verdicts(&sql).await.map(|values| values.len()), [50, 0]);

    // A process that knows nothing of it, and whose buckets are empty by then: no message that was stored is refused.
    service.kill();
    let _service = Service::start(folder.path(), &environment).await;
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", true, &mut others).await;
    peer.deliver_together(TOPIC, &readings(1_001..=2_000)).await;
    take_acks(&mut peer, 1_001..=2_000).await;
    let [_, refused] = verdicts(&sql).await;
    assert!(!refused.is_empty(), "the buckets are not empty yet, so this would test little");
    peer.deliver_again(TOPIC, &readings(1..=50)).await;
    take_acks(&mut peer, 1..=50).await;
    assert_eq!(verdicts(&sql).await[1], refused);
}
