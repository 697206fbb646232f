//! The API's description holds together, and is the one that is served.

use std::collections::BTreeSet;

use iotflow::api::routes;
use serde_json::Value;

use super::trial::Trial;

fn document() -> Value {
    serde_json::to_value(routes::description()).expect("it can be written")
}

fn each<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a Value)) {
    visit(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| each(member, visit)),
        Value::Array(elements) => elements.iter().for_each(|element| each(element, visit)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut seen = 0;
    each(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
            seen += 1;
        }
    });
    assert!(seen > 20, "{seen} references");
}

#[test]
fn every_operation_is_described_and_says_how_it_refuses() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in item.as_object().expect("operations") {
            let place = format!("{method} {path}");
            for member in ["summary", "operationId"] {
                assert!(
                    operation[member].as_str().is_some_and(|text| !text.is_empty()),
                    "{place} has no {member}"
                );
            }
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{place}: its operationId is another's"
            );
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{place}");
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{place}");
            for (status, response) in responses {
                assert!(
                    response["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{place} {status}"
                );
                if !status.starts_with('2') {
                    assert!(response["content"]["application/problem+json"].is_object(), "{place} {status}");
                }
            }
            // Each level in braces is a parameter that is described.
            for name in path.split('/').filter_map(|level| level.strip_prefix('{')?.strip_suffix('}')) {
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let described = parameters
                    .iter()
                    .any(|parameter| parameter["name"] == name && parameter["in"] == "path");
                assert!(described, "{place}: {name} is not described");
            }
        }
    }
}

#[tokio::test]
async fn what_is_served_is_this_document_and_a_page_to_try_it_on() {
    let trial = Trial::start().await;
    let served = trial.nobody.get("/api/v1/openapi.json").await;
    assert_eq!((served.status, served.json()), (200, document()));
    let page = trial.nobody.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("swagger-ui"));
}
