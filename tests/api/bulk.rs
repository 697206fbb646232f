//! Whole fleets over HTTP: brought as a file, taken as a stream.

use serde_json::json;

use super::support::judge::number;
use super::trial::Trial;

const IMPORT: &str = "/api/v1/devices/import";
const EXPORT: &str = "/api/v1/devices/export";

#[tokio::test]
async fn a_fleet_is_brought_and_taken_and_brought_again() {
    let trial = Trial::start().await;
    let sql = trial.servers.sql().await;
    let csv = [("content-type", "text/csv")];
    let file = "device_id,name,tags,groups\na,\"Bob's, sensor\",red;hot,north\nb b,,,\nc,temp > 30,,\n";
    let dry = trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=csv&dry_run=true&mqtt=true"), &csv, file)
        .await
        .ok();
    assert_eq!(
        (&dry["created"], &dry["failed"], &dry["dry_run"], &dry["credentials"]),
        (&json!(2), &json!(1), &json!(true), &json!([]))
    );
    assert_eq!(dry["faults"][0]["line"], 3);
    assert_eq!(number(&sql, "SELECT count(*) FROM devices").await, 0);
    let made = trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=csv&mqtt=true"), &csv, file)
        .await
        .ok();
    assert_eq!(
        (&made["created"], made["credentials"].as_array().map(Vec::len)),
        (&json!(2), Some(2))
    );
    let first = &made["credentials"][0];
    assert_eq!(
        (&first["line"], &first["credentials"]["mqtt"]["username"]),
        (&json!(2), &json!("a"))
    );
    assert_eq!(made["ended"], json!(null));

    let many: String = (0..3_000).map(|n| format!("{{\"device_id\":\"m{n:04}\"}}\n")).collect();
    let ndjson = [("content-type", "application/x-ndjson")];
    assert_eq!(
        trial
            .operator
            .raw("POST", &format!("{IMPORT}?format=ndjson"), &ndjson, many)
            .await
            .ok()["created"],
        3_000
    );
    for (format, lines) in [("csv", 3_003), ("ndjson", 3_002)] {
        let taken = trial.viewer.get(&format!("{EXPORT}?format={format}")).await;
        assert_eq!((taken.status, String::from_utf8_lossy(&taken.body).lines().count()), (200, lines));
        let again = trial
            .operator
            .raw("POST", &format!("{IMPORT}?format={format}"), &[], taken.body.clone())
            .await
            .ok();
        assert_eq!((&again["unchanged"], &again["failed"]), (&json!(3_002), &json!(0)));
    }
}

#[tokio::test]
async fn a_file_that_is_none_is_refused() {
    let trial = Trial::start().await;
    trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=xml"), &[], "")
        .await
        .problem(400);
    trial.operator.raw("POST", IMPORT, &[], "").await.problem(400);
    let header = trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=csv"), &[], "id;name\n")
        .await
        .problem(422);
    assert!(
        header["detail"].as_str().is_some_and(|text| text.contains("line 1 is no header")),
        "{header}"
    );
    let junk = trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=ndjson"), &[], vec![0xff; 100])
        .await
        .ok();
    assert_eq!((&junk["failed"], &junk["created"]), (&json!(1), &json!(0)));
    // Larger than other requests may be, and not without an end.
    let large = format!("device_id\n{}", "x\n".repeat(2_000_000));
    let cut = trial
        .operator
        .raw("POST", &format!("{IMPORT}?format=csv&dry_run=true"), &[], large)
        .await
        .ok();
    assert_eq!(cut["created"], 1);
    assert!(cut["faults"].as_array().is_some_and(|faults| faults.len() == 1_000));
    trial.viewer.get(&format!("{EXPORT}?format=pdf")).await.problem(400);
}
