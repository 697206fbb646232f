//! What the service says of itself is true, and in the form that Prometheus wants.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::Value;

use support::eventually;
use support::fleet::Fleet;
use support::publisher::Publisher;
use support::servers::Servers;
use support::service::{Service, sum};

fn families(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn both_pages_please_promtool_and_share_no_series() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = Fleet::start(
        servers.mqtt_port,
        servers.postgres.url().reveal(),
        &["--messages", "500", "--rate", "1000", "--duration", "5"],
    );
    fleet.report().await.assert_exactly_once("a short load");
    let mut all = Vec::new();
    for page in ["/metrics/qos", "/metrics"] {
        let (status, text) = service.get(page).await;
        assert_eq!(status, 200);
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is installed (apt-get install prometheus)");
        promtool
            .stdin
            .take()
            .expect("it is piped")
            .write_all(text.as_bytes())
            .expect("it reads");
        let output = promtool.wait_with_output().expect("it ends");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success() && said.is_empty(), "{page}: {said}");
        all.push(families(&text));
    }
    assert!(
        all[0].is_disjoint(&all[1]),
        "{:?}",
        all[0].intersection(&all[1]).collect::<Vec<_>>()
    );
    let declared: BTreeSet<String> = iotflow::observe::metrics::FAMILIES
        .iter()
        .map(|family| family.name.to_owned())
        .collect();
    let served: BTreeSet<String> = all.concat_sets();
    let missing: Vec<_> = declared.difference(&served).collect();
    assert!(missing.is_empty(), "declared and never served: {missing:?}");
    let undeclared: Vec<_> = served.difference(&declared).filter(|name| !name.starts_with("process_")).collect();
    assert!(undeclared.is_empty(), "served and not declared: {undeclared:?}");
}

trait ConcatSets {
    fn concat_sets(&self) -> BTreeSet<String>;
}

impl ConcatSets for Vec<BTreeSet<String>> {
    fn concat_sets(&self) -> BTreeSet<String> {
        self.iter().flatten().cloned().collect()
    }
}

#[tokio::test]
async fn the_account_balances_at_every_scrape() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let fleet = Fleet::start(
        servers.mqtt_port,
        servers.postgres.url().reveal(),
        &["--rate", "3000", "--duration", "4"],
    );
    let mut scrapes = 0;
    let mut in_flight_seen = false;
    loop {
        let series = service.series().await;
        let of = |name: &str| sum(&series, &format!("iotflow_qos_{name}"));
        let settled: f64 = ["committed", "duplicates", "dead_lettered", "shed", "abandoned"]
            .iter()
            .map(|name| of(&format!("{name}_total")))
            .sum();
        let difference = of("received_total") - settled - of("in_flight");
        assert!(difference.abs() < 0.5, "out of balance by {difference}");
        in_flight_seen |= of("in_flight") > 0.5;
        scrapes += 1;
        if fleet.acked() >= 10_000 {
            break;
        }
    }
    assert!(
        scrapes > 10 && in_flight_seen,
        "{scrapes} scrapes, in flight seen: {in_flight_seen}: this tested little"
    );
    fleet.report().await.assert_exactly_once("a short load");
    eventually("nothing is in flight", async || {
        (service.sum("iotflow_qos_in_flight").await < 0.5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn readiness_follows_the_broker_and_the_database() {
    let mut servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    assert_eq!(service.get("/livez").await, (200, "ok\n".to_owned()));
    assert_eq!(service.get("/healthz").await.0, 200);
    let (status, body) = service.get("/readyz?verbose").await;
    let verbose: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &verbose["ready"]), (200, &Value::Bool(true)));
    for part in ["broker/slot-0", "broker/status", "database", "migrations"] {
        assert_eq!(verbose["parts"][part]["ready"], true, "{part}: {body}");
    }
    servers.broker.halt(nix::sys::signal::Signal::SIGTERM).expect("it stops");
    eventually("the broker is missed", async || {
        let (status, body) = service.get("/readyz").await;
        (status == 503 && body.contains("broker/slot-0")).then_some(())
    })
    .await;
    assert_eq!(service.get("/livez").await.0, 200, "alive all the same");
    servers.broker.resume().await.expect("it starts again");
    service.until_ready().await;
    // It is not deaf after a broker that forgot its sessions: subscribed anew at every CONNACK.
    let mut device = Publisher::new(servers.mqtt_port);
    device.publish("iotflow/devices/d/telemetry", r#"{"v":1}"#).await;
    let sql = servers.sql().await;
    support::judge::until_number(&sql, "SELECT count(*) FROM telemetry", 1).await;
}

#[tokio::test]
async fn a_broker_that_caps_the_window_is_warned_of() {
    let folder = support::servers::folder();
    let (postgres, _) = support::servers::start_postgres(folder.path()).await;
    let broker = support::fake_broker::FakeBroker::listen().await;
    let service = Service::start(folder.path(), &support::servers::environment(broker.port, postgres.url().reveal())).await;
    let mut others = Vec::new();
    let mut peer = broker.accept_subscriber("iotflow-ingest-0", false, &mut others).await;
    // Never more than ten under way, whatever the Receive Maximum.
    for round in 0..40 {
        let payload = |packet: u16| format!("{{\"v\":1,\"ts\":{}}}", 1_790_000_000 + round * 10 + u32::from(packet));
        let deliveries: Vec<(u16, String)> = (1..=10).map(|packet| (packet, payload(packet))).collect();
        peer.deliver_together("iotflow/devices/d/telemetry", &deliveries).await;
        for packet in 1..=10 {
            assert!(
                matches!(peer.next().await, Some(Packet::PubAck(ack)) if ack.pkid == packet),
                "round {round}, packet {packet}"
            );
        }
    }
    let (_, body) = service.get("/readyz?verbose").await;
    assert!(body.contains("the broker keeps at most 10 deliveries under way"), "{body}");
}

#[tokio::test]
async fn a_broker_that_drops_messages_is_warned_of() {
    let servers = Servers::with_conf(|conf| {
        let lines = conf.lines().map(|line| {
            if line.starts_with("max_queued_messages ") {
                "max_queued_messages 50"
            } else {
                line
            }
        });
        let changed: Vec<&str> = lines.collect();
        assert!(
            changed.contains(&"max_queued_messages 50"),
            "the template has no such setting any more"
        );
        *conf = changed.join("\n") + "\n";
    })
    .await;
    let mut service = Service::ready(servers.path(), &servers.environment()).await;
    let (status, _) = service.terminate().await;
    assert!(status.success());
    let load = ["--messages", "1000", "--rate", "2000", "--duration", "10", "--settle-seconds", "0"];
    drop(
        Fleet::start(servers.mqtt_port, servers.postgres.url().reveal(), &load)
            .report()
            .await,
    );
    let service = Service::ready(servers.path(), &servers.environment()).await;
    eventually("the dropped messages are reported", async || {
        service.get("/readyz?verbose").await.1.contains("max_queued_messages").then_some(())
    })
    .await;
    assert!(service.sum("iotflow_broker_dropped_messages").await > 0.0);
}

#[tokio::test]
async fn a_change_of_access_that_is_not_in_force_is_a_series_and_a_missing_row_is_none() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let sql = servers.sql().await;
    let shows = async |alarm: f64, pending: f64| {
        eventually(&format!("alarm {alarm}, {pending} pending"), async || {
            let series = service.series().await;
            let of = |name: &str| sum(&series, &format!("iotflow_access_{name}"));
            (of("alarm") == alarm && of("pending_changes") == pending).then_some(())
        })
        .await;
    };
    shows(0.0, 0.0).await;
    sql.execute(
        "UPDATE broker_access SET version = 3, applied_version = 1, alarm = 'the broker did not obey'",
        &[],
    )
    .await
    .expect("the row is there");
    shows(1.0, 2.0).await;
    sql.execute("UPDATE broker_access SET applied_version = 3, alarm = NULL", &[])
        .await
        .expect("the row is there");
    shows(0.0, 0.0).await;
    for gone in ["UPDATE broker_access SET alarm = 'again'", "DELETE FROM broker_access"] {
        sql.execute(gone, &[]).await.expect("the table is there");
        shows(if gone.starts_with("DELETE") { 0.0 } else { 1.0 }, 0.0).await;
    }
    sql.batch_execute("DROP TABLE broker_access").await.expect("nothing depends on it");
    // It goes on taking messages, whatever becomes of that table.
    let mut device = Publisher::new(servers.mqtt_port);
    device.publish("iotflow/devices/d/telemetry", r#"{"v":1}"#).await;
    support::judge::until_number(&sql, "SELECT count(*) FROM telemetry", 1).await;
    assert_eq!(service.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn the_log_tells_neither_payloads_nor_secrets() {
    let servers = Servers::start().await;
    let environment = [servers.environment(), vec![("LOG_LEVEL".to_owned(), "trace".to_owned())]].concat();
    let mut service = Service::ready(servers.path(), &environment).await;
    let mut device = Publisher::new(servers.mqtt_port);
    device
        .publish("iotflow/devices/d/telemetry", r#"{"canary":"payload-canary"}"#)
        .await;
    device.publish("iotflow/devices/d/telemetry", "payload-canary, not JSON").await;
    let sql = servers.sql().await;
    support::judge::until_number(&sql, "SELECT count(*) FROM dead_letters", 1).await;
    let (status, _) = service.terminate().await;
    assert!(status.success());
    let log = service.log();
    assert!(
        log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
        "a line is no JSON:\n{log}"
    );
    assert!(log.contains("subscribed"));
    for secret in ["payload-canary", support::servers::PASSWORD] {
        assert!(!log.contains(secret), "the log tells {secret:?}");
    }
}
