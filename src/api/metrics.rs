//! The two pages that Prometheus scrapes.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::observe::expose::{self, Page};

use super::state::Desk;

pub(super) async fn qos(State(desk): State<Desk>) -> impl IntoResponse {
    page(&desk, Page::Qos)
}

pub(super) async fn rest(State(desk): State<Desk>) -> impl IntoResponse {
    page(&desk, Page::Rest)
}

fn page(desk: &Desk, page: Page) -> impl IntoResponse + use<> {
    (
        [(CONTENT_TYPE, expose::CONTENT_TYPE)],
        expose::render(&desk.parts.metrics, &desk.parts.accounting, page),
    )
}
