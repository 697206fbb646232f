//! What every request goes through: an id, a limit of time, a place where it streams, a refusal that says where it happened, a count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, info_span};
use uuid::Uuid;

use super::error::{Kind, Problem};
use super::state::Desk;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that a client may bring.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// How much longer than others a request may take: for as long as it said that it would wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    /// Gives it so much more time.
    pub(super) fn add(&self, span: Duration) {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(millis, Ordering::Relaxed);
    }

    fn span(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// The outcome of `work`, begun at `started`; none where it takes longer than `limit` and this.
    async fn within<T>(&self, started: Instant, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let allowed = limit + self.span();
            match timeout_at(started + allowed, &mut work).await {
                Ok(outcome) => return Some(outcome),
                // It was given more meanwhile.
                Err(_) if limit + self.span() > allowed => {}
                Err(_) => return None,
            }
        }
    }
}

/// Around everything.
pub(super) async fn around(State(desk): State<Desk>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let allowance = Allowance::default();
    request.extensions_mut().insert(allowance.clone());
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    // What is not routed has no template, and a path that anybody can make up is no label.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span = info_span!("request", %id, %method, %route);
    let limit = desk.config.timeout;
    let outcome = allowance.within(started, limit, next.run(request).instrument(span)).await;
    let mut response = outcome.unwrap_or_else(|| {
        Problem::new(
            Kind::Timeout,
            format!("there is no answer after {} s (API_TIMEOUT)", limit.as_secs()),
        )
        .into_response()
    });
    response = desk.streams.admit(response);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let headers = std::mem::take(response.headers_mut());
        response = problem.render(Some(&path), Some(&id));
        for (name, value) in &headers {
            if !response.headers().contains_key(name) && name != axum::http::header::CONTENT_LENGTH {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    desk.parts
        .metrics
        .http_request(&route, method.as_str(), response.status().as_u16(), started.elapsed().as_secs_f64());
    response
}

/// The client's own id where it is a decent one, else one of ours.
fn request_id(request: &Request<Body>) -> String {
    let decent = |id: &&str| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    let brought = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    brought.filter(decent).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// For paths that there are not.
pub(super) async fn nowhere() -> Problem {
    Problem::new(Kind::NotFound, "there is nothing at this path; /docs shows what there is")
}

/// For methods that a path has not.
pub(super) async fn no_such_method() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "this path does not have this method; /docs shows those it has",
    )
}

/// For a handler that panicked: the rest goes on.
pub(super) fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Problem::internal(&format!("a handler panicked: {text}")).into_response()
}
