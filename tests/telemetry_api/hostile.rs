//! Whatever a query holds, the answer is a sentence about it and never a fault of ours.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::submission::{DEVICE, send};
use super::trial::Trial;

#[tokio::test]
async fn nonsense_is_refused_with_what_would_be_right() {
    let trial = Trial::start().await;
    send(&trial.operator, DEVICE, &json!({"a": 1}), "committed").await;
    for (query, hint) in [
        ("?from=yesterday", "RFC 3339"),
        ("?from=2025-07-01T12:00:00+02:00", "%2B"),
        ("?from=2000&to=1000", "not after its begin"),
        ("?to=%00", "RFC 3339"),
        ("?from=1e300", "RFC 3339"),
        ("?order=sideways", "asc or desc"),
        ("?limit=0", "1 to 1000"),
        ("?limit=1001", "1 to 1000"),
        ("?limit=-1", "query"),
        ("?cursor=nonsense", "next_cursor"),
        ("?cursor=bnVsbA", "next_cursor"),
        ("?metrics=a%00b", "NUL"),
        ("?metrics=a,,b", "bytes"),
        ("?metrics=%5B1%5D", "JSON array"),
        ("?metric=a", "query"),
        ("/export?format=xml", "csv or ndjson"),
        ("/aggregated", "window"),
        ("/aggregated?window=0s", "1s to 366d"),
        ("/aggregated?window=9999999999999999999d", "1s to 366d"),
        ("/aggregated?window=1s&from=2000-01-01T00:00:00Z", "10000 at most"),
        ("/aggregated?window=1h&functions=mean,average", "median"),
        ("/aggregated?window=1h&fill=spline", "linear"),
        ("/aggregated?window=1h&origin=never", "RFC 3339"),
    ] {
        let problem = trial.viewer.get(&format!("{DEVICE}{query}")).await.problem(400);
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains(hint)),
            "{query}: {problem}"
        );
    }
    for path in [
        "/api/v1/dead-letters?reason=%00",
        "/api/v1/dead-letters?topic_prefix=%00",
        "/api/v1/dead-letters?since=x",
        "/api/v1/dead-letters?cursor=IngiCg",
        "/api/v1/audit?actor=%00",
        "/api/v1/audit?object=%00",
        "/api/v1/audit?action=fly",
        "/api/v1/audit?cursor=IngiCg",
    ] {
        trial.admin.get(path).await.problem(400);
    }
    trial
        .admin
        .call("DELETE", "/api/v1/dead-letters?reason=%00", None)
        .await
        .problem(400);
    trial
        .admin
        .call("DELETE", &format!("{DEVICE}?from=1&to=1"), None)
        .await
        .problem(400);
    trial.viewer.get("/api/v1/dead-letters/%00").await.problem(404);
    trial.viewer.get("/api/v1/telemetry/%00").await.problem(404);
    trial.viewer.get("/api/v1/groups/a%20b/telemetry/latest").await.problem(404);
    let after = URL_SAFE_NO_PAD.encode("\"a\\u0000\"");
    let sql = trial.servers.sql().await;
    sql.batch_execute("INSERT INTO device_groups (group_id) VALUES ('north')")
        .await
        .expect("it is made");
    trial
        .viewer
        .get(&format!("/api/v1/groups/north/telemetry/latest?cursor={after}"))
        .await
        .problem(400);
}

#[tokio::test]
async fn a_forged_cursor_shows_nothing_else_and_breaks_nothing() {
    let trial = Trial::start().await;
    send(
        &trial.operator,
        DEVICE,
        &json!([{"a": 1, "ts": 1_751_365_800}, {"a": 2, "ts": 1_751_365_900}]),
        "committed",
    )
    .await;
    for (time, part) in [
        ("-009999-01-02T01:59:59Z", 0_i64),
        ("9999-12-30T22:00:00Z", i64::MAX),
        ("2025-07-01T10:30:00Z", i64::MIN),
    ] {
        let cursor = URL_SAFE_NO_PAD.encode(json!({"time": time, "part": part}).to_string());
        for order in ["asc", "desc"] {
            for list in ["", "/events"] {
                let path = format!("{DEVICE}{list}?from=1751365800&to=1751365850&order={order}&cursor={cursor}");
                let page = trial.viewer.get(&path).await.ok();
                let messages = page["messages"].as_array().or(page["events"].as_array()).expect("a list");
                assert!(messages.iter().all(|message| message["values"]["a"] == 1.0), "{path}: {page}");
            }
        }
    }
    // The furthest span there is.
    let all = format!("{DEVICE}?from=0001-01-01T00:00:00Z&to=9999-12-30T00:00:00Z");
    assert_eq!(trial.viewer.get(&all).await.ok()["messages"].as_array().map(Vec::len), Some(2));
}
