//! Crowds at the door: clients that are slow, or too many, and those who want something all the same.

use std::time::Duration;

use iotflow::identity::principal::Role;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_postgres::Client;

use super::support::judge::until_number;
use super::support::{PATIENCE, eventually};
use super::trial::Trial;

/// Devices that are a page of some megabytes: more than fits between two sockets.
const FAT_DEVICES: &str = "
    INSERT INTO devices (device, metadata)
    SELECT 'd' || n, jsonb_build_object('x', repeat('x', 12000)) FROM generate_series(1, 1000) AS n";
const PAGE: &str = "/api/v1/devices?limit=1000";
const EXPORT: &str = "/api/v1/devices/export?format=ndjson";
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iotflow-api' AND wait_event_type = 'Lock'";

/// A client that has said this, and has little room for what it is told.
async fn said(trial: &Trial, text: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it is ours");
    let mut stream = socket
        .connect(trial.service.address.parse().expect("an address"))
        .await
        .expect("it listens");
    stream.write_all(text.as_bytes()).await.expect("it listens");
    stream
}

fn head(trial: &Trial, role: Role, request: &str) -> String {
    let token = trial.of_role(role).token.as_deref().expect("it has one");
    format!("{request} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n")
}

/// One that asks, reads how the answer begins, and no further. Nothing is answered where it is not let in.
async fn reads_no_further(trial: &Trial, path: &str) -> (TcpStream, String) {
    let mut stream = said(trial, &format!("{}\r\n", head(trial, Role::Viewer, &format!("GET {path}")))).await;
    let mut begin = [0; 12];
    let answered = stream.read_exact(&mut begin).await.is_ok();
    let begin = if answered {
        String::from_utf8_lossy(&begin).into_owned()
    } else {
        String::new()
    };
    (stream, begin)
}

/// The status of a page, 0 where nobody answers.
async fn status(trial: &Trial, path: &str) -> u16 {
    tokio::time::timeout(PATIENCE, trial.service.get(path))
        .await
        .expect("it answers, or hangs up")
        .0
}

#[tokio::test]
async fn whoever_keeps_the_door_waiting_gives_way_to_an_ordinary_request() {
    let trial = Trial::with(&[("API_MAX_CONNECTIONS", "4")]).await;
    trial.servers.sql().await.execute(FAT_DEVICES, &[]).await.expect("they are stored");
    let post = head(&trial, Role::Viewer, "POST /api/v1/mqtt/topics/validate");
    let slow_body = format!("{post}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{");
    for words in ["", "GET /livez HTTP/1.1\r\nHo", slow_body.as_str()] {
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(said(&trial, words).await);
        }
        eventually(&format!("the service answers although four said {words:?}"), async || {
            (status(&trial, "/livez").await == 200).then_some(())
        })
        .await;
    }
    let mut crowd = Vec::new();
    while crowd.len() < 4 {
        // Those before may not be gone yet.
        let (stream, begin) = reads_no_further(&trial, PAGE).await;
        if begin == "HTTP/1.1 200" {
            crowd.push(stream);
        }
    }
    eventually("the service answers although four read no further", async || {
        (status(&trial, "/livez").await == 200).then_some(())
    })
    .await;
}

async fn locked<'a>(sql: &'a mut Client, table: &str) -> tokio_postgres::Transaction<'a> {
    let held = sql.transaction().await.expect("it is ours");
    let lock = format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    held.batch_execute(&lock).await.expect("nobody is there");
    held
}

#[tokio::test]
async fn who_is_being_served_gives_way_to_nobody_and_the_newcomer_is_told() {
    let trial = Trial::with(&[("API_MAX_CONNECTIONS", "2")]).await;
    let (mut sql, watch) = (trial.servers.sql().await, trial.servers.sql().await);
    let held = locked(&mut sql, "device_groups").await;
    let asked =
        [trial.viewer.clone(), trial.operator.clone()].map(|caller| tokio::spawn(async move { caller.get("/api/v1/groups").await }));
    until_number(&watch, WAITING, 2).await;
    let refused = trial.nobody.get("/livez").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(
        refused.json()["detail"]
            .as_str()
            .is_some_and(|text| text.contains("API_MAX_CONNECTIONS"))
    );
    held.rollback().await.expect("it is ours");
    for answer in asked {
        answer.await.expect("it ends").ok();
    }
}

#[tokio::test]
async fn streams_have_places_of_their_own_and_a_stop_ends_them() {
    let mut trial = Trial::with(&[("API_MAX_CONNECTIONS", "4")]).await;
    trial.servers.sql().await.execute(FAT_DEVICES, &[]).await.expect("they are stored");
    let (export, begin) = reads_no_further(&trial, EXPORT).await;
    assert_eq!(begin, "HTTP/1.1 200");
    let refused = trial.viewer.get(EXPORT).await;
    refused.problem(503);
    assert_eq!(refused.header("retry-after"), "5");
    trial.viewer.get("/api/v1/groups").await.ok();
    drop(export);
    let export = eventually("its place is free", async || {
        let (stream, begin) = reads_no_further(&trial, EXPORT).await;
        (begin == "HTTP/1.1 200").then_some(stream)
    })
    .await;
    let (ended, _) = trial.service.terminate().await;
    assert!(ended.success(), "{ended}");
    drop(export);
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_arrives() {
    let trial = Trial::with(&[("API_MAX_BODY_BYTES", "1024")]).await;
    let body = "x".repeat(8 * 1024 * 1024);
    let post = head(&trial, Role::Viewer, "POST /api/v1/mqtt/topics/validate");
    let mut stream = said(
        &trial,
        &format!("{post}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()),
    )
    .await;
    stream.write_all(body.as_bytes()).await.expect("it is let speak to its end");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer is not taken back");
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.contains("API_MAX_BODY_BYTES"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_was_asked_before_a_stop_is_done_and_answered() {
    let mut trial = Trial::with(&[("SHUTDOWN_TIMEOUT", "120s")]).await;
    let (mut sql, watch) = (trial.servers.sql().await, trial.servers.sql().await);
    let held = locked(&mut sql, "api_tokens").await;
    let (publish, reading) = (
        json!({"topic": "iotflow/devices/a/commands/control", "payload": 1}),
        json!({"a": 1}),
    );
    let asked = [
        ("POST", "/api/v1/mqtt/publish", Some(publish)),
        ("POST", "/api/v1/telemetry/a", Some(reading)),
        ("GET", "/api/v1/groups", None),
    ]
    .map(|(method, path, body)| {
        let caller = trial.operator.clone();
        tokio::spawn(async move { caller.call(method, path, body).await })
    });
    let silent = said(&trial, "").await;
    until_number(&watch, WAITING, 3).await;
    trial.service.signal(Signal::SIGTERM);
    eventually("no new connection is taken", async || {
        TcpStream::connect(&trial.service.address).await.is_err().then_some(())
    })
    .await;
    // Longer than the parts that nobody needs take to end.
    super::support::pause(Duration::from_secs(2)).await;
    held.rollback().await.expect("it is ours");
    for answer in asked {
        answer.await.expect("it is answered").ok();
    }
    let (ended, _) = trial.service.until_ended().await;
    assert!(ended.success(), "{ended}");
    drop(silent);
    until_number(&watch, "SELECT count(*) FROM readings WHERE device = 'a'", 1).await;
    until_number(
        &watch,
        "SELECT count(*) FROM audit_log WHERE action = 'message.publish' AND outcome = 'done'",
        1,
    )
    .await;
}
