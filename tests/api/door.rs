//! What holds for every request, whatever it asks for.

use serde_json::{Value, json};

use super::support::eventually;
use super::support::http::Api;
use super::support::judge::{number, texts};
use super::trial::Trial;

#[tokio::test]
async fn every_answer_has_an_id_and_every_refusal_says_where_and_what() {
    let trial = Trial::start().await;
    let named = trial
        .viewer
        .call_with("GET", "/api/v1/mqtt/qos", &[("x-request-id", "mine-1")], None)
        .await;
    assert_eq!(named.header("x-request-id"), "mine-1");
    let indecent = trial
        .viewer
        .call_with("GET", "/api/v1/mqtt/qos", &[("x-request-id", "a b;")], None)
        .await;
    assert!(!indecent.header("x-request-id").is_empty() && indecent.header("x-request-id") != "a b;");

    for (method, path, status) in [
        ("GET", "/api/v1/nowhere", 404),
        ("GET", "/nowhere", 404),
        ("DELETE", "/api/v1/mqtt/qos", 405),
        ("GET", "/api/v1/mqtt/topics/device/a%20b", 404),
        ("GET", "/api/v1/mqtt/topics/device/nobody", 404),
    ] {
        let problem = trial.viewer.call(method, path, None).await.problem(status);
        assert_eq!(problem["instance"].as_str(), Some(path), "{problem}");
        assert_eq!((&problem["message"], problem["error"].is_string()), (&problem["detail"], true));
    }
}

#[tokio::test]
async fn bodies_that_do_not_fit_are_refused_with_what_would() {
    let trial = Trial::with(&[("API_MAX_BODY_BYTES", "2048")]).await;
    let path = "/api/v1/mqtt/topics/validate";
    let json_type = [("content-type", "application/json")];
    let detail = |problem: Value| problem["detail"].as_str().unwrap_or_default().to_owned();
    let refused = trial.viewer.raw("POST", path, &json_type, "{").await;
    assert!(detail(refused.problem(400)).contains("no JSON"));
    let refused = trial.viewer.raw("POST", path, &json_type, "[]").await;
    assert!(detail(refused.problem(422)).contains("does not fit"));
    let refused = trial.viewer.post(path, json!({"topic": "a", "extra": 1})).await;
    assert!(detail(refused.problem(422)).contains("extra"));
    let refused = trial.viewer.raw("POST", path, &[("content-type", "text/plain")], "{}").await;
    assert!(detail(refused.problem(415)).contains("application/json"));
    let refused = trial.viewer.post(path, json!({"topic": "x".repeat(4_000)})).await;
    assert!(detail(refused.problem(413)).contains("API_MAX_BODY_BYTES"));
}

#[tokio::test]
async fn figures_count_requests_by_route_and_not_by_path() {
    let trial = Trial::start().await;
    for device in ["a", "b", "c"] {
        trial.viewer.get(&format!("/api/v1/mqtt/topics/device/{device}")).await.problem(404);
    }
    trial.nobody.get("/nowhere/at/all").await.problem(404);
    let series = trial.service.series().await;
    let route = "iotflow_http_requests_total{route=\"/api/v1/mqtt/topics/device/{device_id}\",method=\"GET\",status=\"404\"}";
    assert_eq!(
        series.get(route).copied(),
        Some(3.0),
        "{:?}",
        series.keys().filter(|name| name.contains("http")).collect::<Vec<_>>()
    );
    assert!(series.keys().any(|name| name.contains("route=\"unmatched\"")));
}

#[tokio::test]
async fn a_stop_lets_a_request_end_and_takes_no_new_one() {
    let mut trial = Trial::start().await;
    let mut sql = trial.servers.sql().await;
    let held = sql.transaction().await.expect("it is ours");
    held.batch_execute("LOCK TABLE device_groups IN ACCESS EXCLUSIVE MODE")
        .await
        .expect("nobody is there");
    let viewer = trial.viewer.clone();
    let request = tokio::spawn(async move { viewer.get("/api/v1/groups").await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iotflow-api' AND wait_event_type = 'Lock'";
    let watch = trial.servers.sql().await;
    eventually("the request waits for the lock", async || {
        (number(&watch, waits).await == 1).then_some(())
    })
    .await;
    trial.service.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("no new connection is taken", async || {
        tokio::net::TcpStream::connect(&trial.service.address).await.is_err().then_some(())
    })
    .await;
    held.rollback().await.expect("it is ours");
    request.await.expect("it ends").ok();
    let (status, _) = trial.service.until_ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn by_a_socket_of_both_families_a_caller_is_who_the_proxy_says() {
    if let Err(error) = std::net::TcpListener::bind("[::]:0") {
        eprintln!("not tried: this machine has no IPv6 ({error})");
        return;
    }
    let trial = Trial::with(&[("HOST", "[::]"), ("API_TRUSTED_PROXIES", "127.0.0.1,::1,10.0.0.1")]).await;
    let (_, port) = trial.service.address.rsplit_once(':').expect("address and port");
    let message = json!({"topic": "iotflow/devices/a/telemetry", "payload": 1});
    // What stands left of the first address that is no proxy's anybody can have written.
    let forwarded = [("x-forwarded-for", "192.0.2.1, 203.0.113.9, ::ffff:10.0.0.1")];
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let caller = Api::new(&address, trial.operator.token.as_deref());
        caller
            .call_with("POST", "/api/v1/mqtt/publish", &forwarded, Some(message.clone()))
            .await
            .ok();
    }
    let origins = "SELECT origin FROM audit_log WHERE action = 'message.publish'";
    assert_eq!(texts(&trial.servers.sql().await, origins).await, ["203.0.113.9", "203.0.113.9"]);
}
