//! Refusals, as problem documents (RFC 9457): the one place that knows which fault is which HTTP status.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::mqtt::publisher::Failure;

mod causes;
mod telemetry;

/// What kind of refusal it is. The name is stable: programs tell problems apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request makes no sense as it stands.
    BadRequest,
    /// Nobody stands behind it.
    Unauthorized,
    /// Whoever stands behind it may not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// It contradicts what is there.
    Conflict,
    /// What is there is not what the request was made for (If-Match).
    PreconditionFailed,
    /// The body is larger than what is taken.
    TooLarge,
    /// The body is of a type that is not taken.
    UnsupportedMediaType,
    /// The body is well formed, and what it says is not.
    Unprocessable,
    /// Too much at once, or too many wrong credentials.
    TooManyRequests,
    /// Something of ours is away for now.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The broker refused, or its answer cannot be used.
    Broker,
    /// A fault of ours.
    Internal,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "Bad request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A credential is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed", "It has changed meanwhile"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Unsupported media type",
            ),
            Self::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "Not valid"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout", "It took too long"),
            Self::Broker => (StatusCode::BAD_GATEWAY, "broker", "The broker refused"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    retry_after_seconds: Option<u64>,
}

/// A problem document (RFC 9457). `error` and `message` say the same as `type` and `detail`, for older clients.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// A URI that names the kind of problem.
    #[schema(example = "urn:iotflow:problem:not_found")]
    r#type: String,
    /// The kind in words.
    #[schema(example = "Not found")]
    title: &'a str,
    /// The HTTP status.
    #[schema(value_type = u16, example = 404, minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong with this request, and what would be right.
    detail: &'a str,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    /// The request's id, under which the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// The kind, in one word.
    #[schema(example = "not_found")]
    error: &'a str,
    /// The same as `detail`.
    message: &'a str,
}

impl Problem {
    /// A refusal of this kind; `detail` is a sentence for whoever sent the request.
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retry_after_seconds: None,
        }
    }

    /// The same, and when to come again.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// The sentence, where it is a part of an answer.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether it is for want of a credential, or for a wrong one.
    pub(super) fn is_unauthorized(&self) -> bool {
        self.kind == Kind::Unauthorized
    }

    /// A fault of ours: the cause goes to the log, and not to the client.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!(%cause, "a request failed by a fault of ours");
        Self::new(Kind::Internal, "the service failed; its log has the request's id and the cause")
    }

    /// The database is away, or said no to something that is no fault of the request's.
    pub(super) fn database(error: &tokio_postgres::Error) -> Self {
        use crate::db::error::{Fault, describe};
        match Fault::of(error) {
            Fault::Transient => {
                error!(error = describe(error), "the database does not answer a request");
                Self::new(Kind::Unavailable, "the database does not answer now; try again").retry_after(1)
            }
            _ => Self::internal(&describe(error)),
        }
    }

    /// What the broker, or the way to it, did not let happen.
    pub(super) fn broker(failure: &Failure) -> Self {
        let kind = match failure {
            Failure::Unfit(_) => Kind::Unprocessable,
            Failure::Refused(_) | Failure::Unsupported(_) => Kind::Broker,
            Failure::Away(_) | Failure::Unknown | Failure::QueueFull | Failure::Stopping => Kind::Unavailable,
        };
        let problem = Self::new(kind, failure.to_string());
        if kind == Kind::Unavailable {
            problem.retry_after(5)
        } else {
            problem
        }
    }

    /// As a document, for the request at `instance` with this id.
    pub(super) fn render(&self, instance: Option<&str>, request_id: Option<&str>) -> Response {
        let (status, name, title) = self.kind.parts();
        let document = Document {
            r#type: format!("urn:iotflow:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance,
            request_id,
            error: name,
            message: &self.detail,
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"iotflow\""));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Where it happened and the request's id are filled in on the way out; see `api::layers`.
    fn into_response(self) -> Response {
        let mut response = self.render(None, None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::database(&error)
    }
}

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => Self::database(&error),
            error => {
                error!(%error, "no connection to the database for a request");
                Self::new(
                    Kind::Unavailable,
                    "the database cannot be reached now, or all connections to it are in use; try again",
                )
                .retry_after(1)
            }
        }
    }
}
