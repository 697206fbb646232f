//! The two pages that Prometheus scrapes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use crate::observe::accounting::Accounting;
use crate::observe::expose::{self, Page};
use crate::observe::metrics::Metrics;

/// What is exposed.
#[derive(Debug, Clone)]
pub(super) struct Exposed {
    /// The series.
    pub metrics: Arc<Metrics>,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
}

pub(super) async fn qos(State(exposed): State<Exposed>) -> impl IntoResponse {
    page(&exposed, Page::Qos)
}

pub(super) async fn rest(State(exposed): State<Exposed>) -> impl IntoResponse {
    page(&exposed, Page::Rest)
}

fn page(exposed: &Exposed, page: Page) -> impl IntoResponse + use<> {
    (
        [(CONTENT_TYPE, expose::CONTENT_TYPE)],
        expose::render(&exposed.metrics, &exposed.accounting, page),
    )
}
