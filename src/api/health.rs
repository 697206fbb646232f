//! Is it alive, is it ready, and if not, why.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::lifecycle::readiness::Condition;

use super::state::Desk;

#[derive(Serialize)]
struct Verbose {
    ready: bool,
    parts: BTreeMap<String, Condition>,
}

pub(super) async fn live() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(desk): State<Desk>, RawQuery(query): RawQuery) -> Response {
    let parts = desk.parts.readiness.conditions();
    let ready = parts.values().all(|condition| condition.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|key| key == "verbose" || key.starts_with("verbose=")));
    if verbose {
        return (status, Json(Verbose { ready, parts })).into_response();
    }
    let text = if ready {
        "ready\n".to_owned()
    } else {
        parts
            .iter()
            .filter(|(_, part)| !part.ready)
            .map(|(name, part)| format!("{name}: {}\n", part.detail))
            .collect()
    };
    (status, text).into_response()
}
