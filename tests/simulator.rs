//! The simulator is a judge that can be trusted: it finds what is missing, what is doubled and what is late.

mod support;

use std::process::{Command, Output};

use serde_json::Value;

use support::fleet;
use support::servers::{FLEET, PASSWORD, Servers};
use support::service::Service;

fn simulator(servers: &Servers, arguments: &[&str]) -> Output {
    Command::new(fleet::program())
        .args(arguments)
        .env("MQTT_HOST", "127.0.0.1")
        .env("MQTT_PORT", servers.mqtt_port.to_string())
        .env("MQTT_USERNAME", FLEET)
        .env("MQTT_PASSWORD", PASSWORD)
        .env("DATABASE_URL", servers.postgres.url().reveal())
        .output()
        .expect("it can be started")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_finds_what_is_missing_and_what_is_doubled() {
    let servers = Servers::start().await;
    let _service = Service::ready(servers.path(), &servers.environment()).await;
    let run = [
        "run",
        "--progress",
        "none",
        "--report",
        "json",
        "--devices",
        "20",
        "--rate",
        "500",
        "--messages",
        "1000",
        "--duration",
        "10",
    ];
    let output = simulator(&servers, &run);
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["verified"]["found"], 1_000);
    assert!(
        report["verified"]["latency"]["p99_ms"].as_f64().is_some_and(|p99| p99 > 0.0),
        "{report}"
    );

    let file = servers.path().join("report.json");
    std::fs::write(&file, &output.stdout).expect("the folder is ours");
    let sql = servers.sql().await;
    sql.batch_execute(
        "DELETE FROM telemetry WHERE (device_id, time) IN (SELECT device_id, time FROM telemetry ORDER BY time LIMIT 3);
         INSERT INTO telemetry SELECT time + interval '1 microsecond', device_id, metric_set_id, \"values\", extra FROM telemetry ORDER BY time DESC LIMIT 2",
    )
    .await
    .expect("the rows are there");
    let output = simulator(&servers, &["verify", &file.display().to_string(), "--settle-seconds", "0"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expected in [
        "FAILED lost: 3, at most 0 allowed",
        "FAILED doubled: 2, at most 0 allowed",
        "997 of 1000",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn its_exit_code_says_whether_the_thresholds_were_kept() {
    let servers = Servers::start().await;
    let _service = Service::ready(servers.path(), &servers.environment()).await;
    for (profile, qos) in [
        ("default", "2"),
        ("high_frequency", "0"),
        ("energy_efficient", "1"),
        ("industrial", "1"),
        ("backlog", "1"),
    ] {
        let output = simulator(
            &servers,
            &[
                "run",
                "--progress",
                "none",
                "--prefix",
                profile,
                "--profile",
                profile,
                "--qos",
                qos,
                "--devices",
                "10",
                "--rate",
                "200",
                "--messages",
                "200",
                "--duration",
                "5",
                "--max-lost",
                "0",
            ],
        );
        assert!(output.status.success(), "{profile}: {}", text(&output));
    }
    let output = simulator(
        &servers,
        &[
            "run",
            "--progress",
            "none",
            "--prefix",
            "slow-",
            "--devices",
            "10",
            "--rate",
            "200",
            "--messages",
            "200",
            "--duration",
            "5",
            "--max-p99-ms",
            "0.01",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("FAILED due to committed, p99 in ms"), "{}", text(&output));
}
